# SPDX-License-Identifier: Apache-2.0
"""Client: one connection to a master, and what can be done with it. The module's functions use a default one."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import weakref
from types import TracebackType
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NoReturn,
    Optional,
    Tuple,
    Type,
    TypeVar,
    overload,
)

from . import _config, _environment
from ._call import CallOptions, ParallelFunction, check_options, code_key
from ._callbacks import CallbackThread
from ._failures import ArgumentPicklingError, ClupyError
from ._functions import Code, call_shipped, encode_call, encode_function, function_name, varies
from ._future import UNSET, RemoteExecutionFuture, Timeout, wait_all
from ._job import Job, JobScope, current_scope, new_id
from ._session import Session, Task
from ._units import format_size

R = TypeVar("R")

_QUERY_TIMEOUT = 30.0  # seconds
_KEPT_WITHIN = 10.0  # seconds that leaving takes at most until the master has the detached calls
_CALLBACKS_AT_END = 5.0  # seconds that callbacks may take when the connection is shut down
_NAME_MAX = 128  # bytes in UTF-8
_CODE_MAX = 64 << 20  # bytes; the master's bound
_SHIPPED_MAX = 16 << 10  # bytes of a function that may travel with each call
_ID_SIZE = 32
_ID_MIN = 4
Decorator = Callable[[Callable[..., R]], ParallelFunction[R]]

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """A connection to a master of its own, made with the first call. Usable from all threads; `with Client(url) as c:`
    shuts it down at the end.

    url: as for clupy.init(). Raises ConfigurationError for an address that is none, and for what is wrong in
    clupy.client.yaml and clupy.client.dependency.yaml."""

    def __init__(self, url: Optional[str] = None) -> None:
        self._master = _config.resolve(url)
        self._manifest = _environment.load()
        self._lock = threading.Lock()
        self._session: Optional[Session] = None
        self._callbacks = CallbackThread()
        self._pid = os.getpid()
        _clients.add(self)

    @property
    def url(self) -> str:
        """The master's address, as clupy://host:port, clupy+insecure://host:port or unix:/path."""
        return self._master.url

    @overload
    def parallel(self, function: Callable[..., R], **options: Any) -> ParallelFunction[R]: ...

    @overload
    def parallel(self, function: None = None, **options: Any) -> Decorator[Any]: ...

    def parallel(self, function: Optional[Callable[..., Any]] = None, **options: Any) -> Any:
        """See clupy.parallel()."""
        return make_parallel(lambda: self, function, options)

    def job(self, name: str, **options: Any) -> JobScope:
        """See clupy.job()."""
        check_options({"name": name, **options})
        return JobScope(self, name, options)

    def wait_all(self, futures: Iterable[RemoteExecutionFuture[Any]], time_out: Timeout = UNSET, *,
                 timeout: Timeout = UNSET) -> bool:
        """See clupy.wait_all()."""
        return wait_all(futures, time_out, timeout=timeout)

    def attach(self, task_id: str) -> RemoteExecutionFuture[Any]:
        """See clupy.attach()."""
        if not (isinstance(task_id, str) and _ID_MIN <= len(task_id) <= _ID_SIZE
                and set(task_id) <= set("0123456789abcdef")):
            raise ValueError(f"expected the id of a task, {_ID_SIZE} hexadecimal digits or at least the first {_ID_MIN}, "
                             f"got {task_id!r}")
        if len(task_id) < _ID_SIZE:
            try:
                task_id = str(self.query("task", {"id": task_id})["id"])
            except ClupyError as error:
                raise ClupyError(f"task {task_id} cannot be attached to: {str(error).partition(': ')[2]}") from None
        session = self._connected()
        for known in session.outstanding:
            if known.id == task_id:  # a result comes once for each session
                return known
        future: RemoteExecutionFuture[Any] = RemoteExecutionFuture(self, task_id, "", f"task {task_id[:12]}")
        future._attached = threading.Event()
        session.submit(Task(task_id, future, None, None))
        if not future._attached.wait(_QUERY_TIMEOUT):
            future.cancel()
            raise ClupyError(f"the master at {self.url} does not answer; look at it with systemctl status clupy-masterd")
        if future.done() and future._decoded and isinstance(future.failure, ClupyError):
            raise future.failure
        return future

    def query(self, verb: str, arguments: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        """Asks the master (docs/protocol.md, "Queries"). Raises ClupyError with the master's words."""
        asked = self._connected().ask(verb, arguments or {})
        try:
            answer = asked.answers.get(timeout=_QUERY_TIMEOUT)
        except Exception:  # queue.Empty
            self._connected().end_query(asked)
            raise ClupyError(f"the master at {self.url} does not answer; look at it with systemctl status "
                             "clupy-masterd") from None
        if answer[0] == "error":
            raise ClupyError(f"{verb}: {answer[2]}")
        result: Dict[str, Any] = answer[1]
        return result

    def shutdown(self) -> None:
        """Says goodbye to the master and cancels what is outstanding, except for detached calls: it waits until the
        master has these, for 10 s at most, and says on stderr that they go on. The next call connects again."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            leaving = [task for task in session.keep(_KEPT_WITHIN) if not task.future._ended]
            _say_detached([task.id for task in leaving if task.kept], "goes on", "go on")
            _say_detached([task.id for task in leaving if not task.kept], "may be lost, the master has not said that it "
                          "keeps it", "may be lost, the master has not said that it keeps them")
            session.stop()
        self._callbacks.finish(_CALLBACKS_AT_END)

    def service(self, **_: Any) -> NoReturn:
        """Not there yet."""
        raise NotImplementedError("clupy.service() is not there yet")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<clupy.Client {self.url}>"

    # For this package.

    def _connected(self) -> Session:
        session = self._session
        if session is None:
            with self._lock:
                if self._session is None:
                    self._session = Session(self._master, self._manifest)
                session = self._session
        session.ensure()
        return session

    def _call(self, function: Callable[..., R], given: Mapping[str, Any], options: CallOptions, args: Tuple[Any, ...],
              kwargs: Mapping[str, Any]) -> RemoteExecutionFuture[R]:
        scope = current_scope.get()
        if scope is not None and scope.client is not self:
            scope = None
        if scope is not None:
            options = check_options({**scope.options, **given})
        code = encode_function(function)
        if len(code.data) > _CODE_MAX:
            raise ArgumentPicklingError(
                f"function {function_name(function)}()", f"with the variables that it refers to it has "
                f"{format_size(len(code.data))}, and {format_size(_CODE_MAX)} is the most; hand large data over as "
                "arguments instead of as global or enclosing variables")
        environment = _environment.environment_of(self._manifest, options.packages, options.preload)
        session = self._connected()
        name = options.name or (scope.name if scope is not None else function_name(function))

        def make(code: Code) -> Job:
            message = options.job_message(new_id(), _printable(name), code.digest, len(code.data), environment)
            return Job(message, code.data, code.digest, environment.wheels)

        # A job has one code on the wire. Functions of one job that are not all alike travel with their arguments.
        key = (scope.key if scope is not None else code_key(function), options.key(), environment)
        shipped = scope is not None or (varies(function) and len(code.data) <= _SHIPPED_MAX)
        if not shipped:
            job = session.jobs.enter(key, lambda: make(code))
            if job.digest != code.digest:
                session.jobs.leave(job)
                shipped = True
        if shipped:
            job = session.jobs.enter((key, "shipped"), lambda: make(encode_function(call_shipped)))
        try:
            blob = encode_call(function, args, kwargs, {"retry_on": options.retry_on}, code if shipped else None)
            future: RemoteExecutionFuture[R] = RemoteExecutionFuture(self, new_id(), job.id, function_name(function))
        except BaseException:
            session.jobs.leave(job)
            raise
        session.submit(Task(future.id, future, job, blob, options.deadline, options.detach))
        return future

    def _cancel(self, task_id: str) -> None:
        session = self._session
        if session is not None:
            session.cancel(task_id)

    def _settled(self, ids: List[str], timeout: float) -> None:
        session = self._session
        if session is not None and session.running:
            session.settled(ids).wait(timeout)

    def _outstanding(self) -> List[RemoteExecutionFuture[Any]]:
        session = self._session
        return [] if session is None else session.outstanding

    def _after_fork(self) -> None:
        """In the child: nothing that belongs to the parent's connection is touched."""
        self._lock = threading.Lock()
        self._callbacks = CallbackThread()
        self._pid = os.getpid()
        session, self._session = self._session, None
        if session is not None:
            for future in session.outstanding:
                future._after_fork()
            session.abandon()


def _say_detached(ids: List[str], one: str, several: str) -> None:
    if ids:
        words = f"1 detached call {one}: clupy.attach(\"{ids[0]}\")" if len(ids) == 1 else (
            f"{len(ids)} detached calls {several}")
        with contextlib.suppress(Exception):
            print(f"clupy: {words}", file=sys.stderr, flush=True)


def _printable(name: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in name.encode("utf-8", "replace").decode())
    return text.encode()[:_NAME_MAX].decode("utf-8", "ignore")


# The default client.

_default: Optional[Client] = None
_default_lock = threading.Lock()


def default_client() -> Client:
    """Made when it is needed first."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Client()
    return _default


def init(url: Optional[str] = None) -> Client:
    """Says where the master is: `host`, `host:port` or `clupy://host[:port][,host[:port]…]` (TLS, with the certificates
    that clupy.client.yaml names), `clupy+insecure://…` (plaintext) or `unix:/path` (on the master's own machine); without
    url, as the environment and the configuration say, else unix:/run/clupy/master.sock if it is there, else
    clupy://localhost:7878. Returns the default client, which connects with the first call.

    Raises ConfigurationError for an address that is none, ClupyError while calls to another master are outstanding."""
    global _default
    made = Client(url)
    with _default_lock:
        former = _default
        if former is not None:
            if former._master._replace(source="") == made._master._replace(source=""):
                return former
            waiting = len(former._outstanding())
            if waiting:
                raise ClupyError(f"{waiting} calls to {former.url} have not ended; wait for them or call "
                                 "clupy.shutdown() first, or use clupy.Client(url) for a second connection")
        _default = made
    if former is not None:
        former.shutdown()
    return made


@overload
def parallel(function: Callable[..., R], **options: Any) -> ParallelFunction[R]: ...


@overload
def parallel(function: None = None, **options: Any) -> Decorator[Any]: ...


def parallel(function: Optional[Callable[..., Any]] = None, **options: Any) -> Any:
    """Wraps a function so that its calls run in the cluster and return a RemoteExecutionFuture. Also a decorator, with
    and without options.

    Options: server_count (at most so many nodes; default: no bound), cpus (1), memory ("512M"), tasks_max, timeout (of
    one attempt), deadline (from submission), retries (3, or what the cluster allows; of lost nodes, not of exceptions), retry_on (exception types to
    run again for), priority (0; higher first), isolation ("task"), policy ("default"), name, detach (False), packages
    (["polars>=1", "dist/mine-1.0-py3-none-any.whl"]: what the call needs besides the cluster's own libraries, and besides
    what clupy.client.dependency.yaml names; a wheel of this machine travels along), preload (["polars"]: modules that are
    imported once for all calls), requires ({"gpu": 1}: what a node must have, and no other call gets meanwhile), labels
    ({"zone": "a"}: of the nodes that may run it).
    Durations are seconds or "90s", sizes bytes or "512M". cpus, memory and tasks_max, when not given, are what the node's
    configuration says.

    Raises TypeError and ValueError, which name the option. The callable raises ArgumentPicklingError for what cannot be
    sent, ValueError for a wheel that is not there, ConnectError within 5 s when no master answers, VersionMismatchError when
    the cluster has another Python; its future fails with EnvironmentFailedError when the packages cannot be installed."""
    return make_parallel(default_client, function, options)


def make_parallel(client: Callable[[], Client], function: Optional[Callable[..., Any]], options: Mapping[str, Any]) -> Any:
    if function is None:
        check_options(options)
        return lambda decorated: ParallelFunction(client, decorated, options)
    return ParallelFunction(client, function, options)


def job(name: str, **options: Any) -> JobScope:
    """`with clupy.job("grid", server_count=50):` the calls made inside (of one function or of several) are one job.
    options are those of clupy.parallel(), whose own win; calls with different options are still jobs of their own."""
    return default_client().job(name, **options)


def attach(task_id: str) -> RemoteExecutionFuture[Any]:
    """The future of a call made with detach=True, perhaps by another process of the same user: by its id, or by so many of
    its first digits, at least 4, that it is the only one. Whoever has its future already hears of its end too.

    Raises ValueError for what is no id, ClupyError when the cluster knows no such call."""
    return default_client().attach(task_id)


def shutdown() -> None:
    """Ends the default client's connection; what is outstanding is cancelled, except for detached calls."""
    global _default
    with _default_lock:
        former, _default = _default, None
    if former is not None:
        former.shutdown()


def _at_exit() -> None:
    """What is outstanding is cancelled, which the user is told."""
    for client in list(_clients):
        if client._pid != os.getpid():
            continue
        waiting = client._outstanding()
        session = client._session
        detached = 0 if session is None else session.detached
        cancelled = len(waiting) - detached
        if cancelled > 0:
            calls = "1 call" if cancelled == 1 else f"{cancelled} calls"
            with contextlib.suppress(Exception):
                print(f"clupy: leaving, cancelling {calls} that had not ended", file=sys.stderr, flush=True)
        with contextlib.suppress(Exception):
            client.shutdown()


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.Lock()
    for client in list(_clients):
        client._after_fork()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)

__all__ = ["Client", "attach", "default_client", "init", "job", "parallel", "shutdown", "wait_all"]

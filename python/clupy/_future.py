# SPDX-License-Identifier: Apache-2.0
"""RemoteExecutionFuture: what a call returns. The seed's interface, and a concurrent.futures.Future."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import sys
import threading
import time
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    PENDING,
    RUNNING,
)
from dataclasses import dataclass, field, fields
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    TypeVar,
    Union,
    cast,
)

from ._failures import CancelledError, ClupyError, ForkedError
from ._functions import explain, load_exception, load_value
from ._outcome import failure_of
from ._units import Duration, parse_duration

if TYPE_CHECKING:
    from ._client import Client

T = TypeVar("T")
log = logging.getLogger("clupy")

_ENDED = (CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED)
_INTERRUPT_WAIT = 10.0  # seconds that Ctrl-C waits for the cancellation


class _Unset:
    def __repr__(self) -> str:
        return "<not given>"


UNSET = _Unset()
Timeout = Union[Duration, None, _Unset]


def timeout_of(timeout: Timeout, time_out: Timeout, default: Optional[float]) -> Optional[float]:
    """Seconds, or None for no bound. Raises TypeError when both spellings are given."""
    if not isinstance(timeout, _Unset) and not isinstance(time_out, _Unset):
        raise TypeError("give timeout or time_out, which mean the same, not both")
    given = time_out if isinstance(timeout, _Unset) else timeout
    if isinstance(given, _Unset):
        return default
    if isinstance(given, (int, float)) and not isinstance(given, bool) and given < 0:
        return 0.0
    return None if given is None else parse_duration(given, "timeout")


class Progress(NamedTuple):
    """What the task said last with clupy.progress(done, total, note)."""

    done: float
    total: Optional[float]
    note: str


@dataclass(frozen=True)
class Usage:
    """What a call used: its receipt. Times in microseconds, sizes in bytes; started_at and ended_at are Unix time in
    milliseconds. A figure that the node cannot give is None, and `unknown` says why."""

    queued_us: Optional[int] = None
    start_us: Optional[int] = None
    run_us: Optional[int] = None
    cpu_us: Optional[int] = None
    memory_peak: Optional[int] = None
    read_chars: Optional[int] = None
    write_chars: Optional[int] = None
    read_bytes: Optional[int] = None
    write_bytes: Optional[int] = None
    pressure_us: Optional[int] = None
    warm: Optional[bool] = None
    started_at: Optional[int] = None
    ended_at: Optional[int] = None
    unknown: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dataclass_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def keys(self) -> Iterable[str]:
        return [item.name for item in fields(self)]


_USAGE_NAMES = frozenset(item.name for item in fields(Usage))


class RemoteExecutionFuture(concurrent.futures.Future[T]):
    """The value of a call that runs elsewhere, once it is there. Made by clupy.parallel(f)(...), not by users.

    The value is unpickled when it is first asked for, in the thread that asks."""

    _done_callbacks: List[Callable[[concurrent.futures.Future[T]], object]]

    def __init__(self, client: Client, task_id: str, job_id: str, name: str) -> None:
        super().__init__()
        self._client = client
        self._id = task_id
        self._job_id = job_id
        self._name = name
        self._pid = os.getpid()
        self._node: Optional[str] = None
        self._unit: Optional[str] = None
        self._attempts = 0
        self._progress: Optional[Progress] = None
        self._usage: Optional[Usage] = None
        self._kind = ""
        self._outcome: Mapping[str, Any] = {}
        self._payload: Any = None
        self._decoded = False
        self._callbacks_ran = False
        self._attached = _NO_EVENT

    # The seed's interface.

    @property
    def completed(self) -> bool:
        """Whether the call has ended, well or not."""
        self._check_process()
        return self._state in _ENDED

    @property
    def successful(self) -> bool:
        """Whether the call has ended with a value."""
        return self.completed and self.failure is None

    @property
    def value(self) -> Optional[T]:
        """The value, None until there is one."""
        if not self.completed:
            return None
        self._decode()
        return None if self._exception is not None else self._result

    @property
    def failure(self) -> Optional[BaseException]:
        """The exception that the call ended with, None while it has not ended or when it has a value."""
        if not self.completed:
            return None
        self._decode()
        return self._exception

    def succeed(self, function: Callable[[T], Any]) -> RemoteExecutionFuture[T]:
        """Has function called once with the value when (or if already) the call has ended with one; returns self."""
        _check_callable(function)

        def call(future: concurrent.futures.Future[T]) -> None:
            if self.successful:
                function(cast(T, self._result))

        self.add_done_callback(call)
        return self

    def fail(self, function: Callable[[BaseException], Any]) -> RemoteExecutionFuture[T]:
        """Has function called once with the exception when (or if already) the call has ended with one; returns self."""
        _check_callable(function)

        def call(future: concurrent.futures.Future[T]) -> None:
            failure = self.failure
            if failure is not None:
                function(failure)

        self.add_done_callback(call)
        return self

    def wait(self, timeout: Timeout = UNSET, *, time_out: Timeout = UNSET) -> bool:
        """Waits at most timeout (10 seconds when not given, without bound when None); returns whether the call has
        ended. Ctrl-C cancels the call."""
        limit = timeout_of(timeout, time_out, 10.0)
        with _Interruptible([self]):
            self._wait(limit)
        return self.completed

    # concurrent.futures.

    def result(self, timeout: Timeout = None, *, time_out: Timeout = UNSET) -> T:
        """The value; raises what the call raised, CancelledError when it was cancelled, and
        concurrent.futures.TimeoutError when it has not ended in time."""
        limit = timeout_of(UNSET if timeout is None else timeout, time_out, None)
        with _Interruptible([self]):
            if not self._wait(limit):
                raise concurrent.futures.TimeoutError(f"{self._name} has not ended after {limit:g} s")
        self._decode()
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment, unused-ignore]  # no cycle through the traceback
        return cast(T, self._result)

    def exception(self, timeout: Timeout = None, *, time_out: Timeout = UNSET) -> Optional[BaseException]:
        """The exception that the call ended with, or None. Raises CancelledError, concurrent.futures.TimeoutError."""
        limit = timeout_of(UNSET if timeout is None else timeout, time_out, None)
        with _Interruptible([self]):
            if not self._wait(limit):
                raise concurrent.futures.TimeoutError(f"{self._name} has not ended after {limit:g} s")
        self._decode()
        if self.cancelled() and self._exception is not None:
            raise self._exception
        return self._exception

    def cancel(self) -> bool:
        """Ends the call wherever it is: TERM, then KILL. Returns whether it had not ended yet; then it counts as
        cancelled from now on."""
        self._check_process()
        if self._cancelled_here("this program"):
            self._client._cancel(self._id)
            return True
        return self.cancelled()

    def cancelled(self) -> bool:
        self._check_process()
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def done(self) -> bool:
        self._check_process()
        return self._state in _ENDED

    def running(self) -> bool:
        self._check_process()
        return bool(self._state == RUNNING)

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Has fn called with the future on the callback thread when the call ends; at once, here, if it has."""
        self._check_process()
        with self._condition:
            if self._state not in _ENDED:
                self._done_callbacks.append(fn)
                return
        self._call(fn)

    def __await__(self) -> Generator[Any, None, T]:
        """Cancelling the task that awaits cancels the call."""
        self._check_process()
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake(_: concurrent.futures.Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(lambda: None if waiter.done() else waiter.set_result(None))

        self.add_done_callback(wake)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self.result()

    # What is known of the call.

    @property
    def id(self) -> str:
        """The task's id: 32 hexadecimal digits, as clupyctl shows it."""
        return self._id

    @property
    def job(self) -> str:
        """The id of the job that the call belongs to."""
        return self._job_id

    @property
    def node(self) -> Optional[str]:
        """The node that runs or ran the call last, None before."""
        return self._node

    @property
    def unit(self) -> Optional[str]:
        """The systemd scope of the last attempt on that node, None before."""
        return self._unit

    @property
    def attempts(self) -> int:
        """How often the call was started, as far as is known."""
        return self._attempts

    @property
    def progress(self) -> Optional[Progress]:
        """What the task said last of its progress."""
        return self._progress

    @property
    def usage(self) -> Optional[Usage]:
        """What the call used, once it has ended."""
        return self._usage

    def logs(self, follow: bool = False) -> Union[str, Iterator[str]]:
        """What the task printed: the last 64 KiB as a string, or with follow=True an iterator of lines that ends with
        the task."""
        from . import _logs
        self._check_process()
        if follow:
            return _logs.follow(self._client, self._id)
        return _logs.read(self._client, self._id, ended=self.completed)

    def __repr__(self) -> str:
        where = f" on {self._node}" if self._node else ""
        state = {PENDING: "waiting", RUNNING: "running", FINISHED: "ended"}.get(self._state, "cancelled")
        return f"<RemoteExecutionFuture {self._name} {self._id[:12]} {state}{where}>"

    def __reduce__(self) -> Any:
        raise TypeError("a RemoteExecutionFuture belongs to its process; send its value, future.result(), instead")

    # For the session's I/O thread, and for cancel().

    @property
    def _ended(self) -> bool:
        return self._state in _ENDED

    def _report(self, status: Mapping[str, Any]) -> None:
        """News from the master; the call has not ended."""
        node, unit, attempt, state = (status.get(key) for key in ("node", "unit", "attempt", "state"))
        if isinstance(node, str):
            self._node = node
        if isinstance(unit, str):
            self._unit = unit
        if isinstance(attempt, int):
            self._attempts = max(self._attempts, attempt)
        progress = status.get("progress")
        if isinstance(progress, dict):
            done, total = progress.get("done"), progress.get("total")
            self._progress = Progress(float(done) if isinstance(done, (int, float)) else 0.0,
                                      float(total) if isinstance(total, (int, float)) else None,
                                      str(progress.get("note") or ""))
        if isinstance(state, str):
            with self._condition:
                if self._state in (PENDING, RUNNING):
                    self._state = RUNNING if state in ("running", "frozen") else PENDING

    def _receipt(self, result: Mapping[str, Any]) -> None:
        node, unit = result.get("node"), result.get("unit")
        if isinstance(node, str) and node:
            self._node = node
        if isinstance(unit, str) and unit:
            self._unit = unit
        for key in ("attempts", "attempt"):
            if isinstance(result.get(key), int):
                self._attempts = max(self._attempts, result[key])
        receipt = result.get("receipt")
        if isinstance(receipt, dict):
            self._usage = Usage(**{name: value for name, value in receipt.items() if name in _USAGE_NAMES})

    def _complete(self, result: Mapping[str, Any], payload: Any) -> None:
        """The call has ended. payload: a writable buffer that nobody else uses, or None."""
        self._receipt(result)
        outcome = result.get("outcome")
        outcome = outcome if isinstance(outcome, dict) else {}
        kind = str(outcome.get("kind", ""))
        with self._condition:
            if self._state in _ENDED:
                return
            self._kind, self._outcome, self._payload = kind, outcome, payload
            self._end(CANCELLED_AND_NOTIFIED if kind == "cancelled" else FINISHED, kind != "value")

    def _fail_here(self, failure: BaseException) -> None:
        """The call has ended as far as this process will ever know."""
        with self._condition:
            if self._state not in _ENDED:
                self._exception = failure
                self._decoded = True
                self._end(CANCELLED_AND_NOTIFIED if isinstance(failure, CancelledError) else FINISHED, True)

    def _cancelled_here(self, by: str) -> bool:
        """Returns False when it has ended already."""
        with self._condition:
            if self._state in _ENDED:
                return False
            self._fail_here(CancelledError(by, name=self._name, node=self._node, unit=self._unit, task=self._id))
            return True

    def _end(self, state: str, failed: bool) -> None:
        """With the condition held."""
        self._state = state
        self._attached.set()
        for waiter in self._waiters:
            if state == CANCELLED_AND_NOTIFIED:
                waiter.add_cancelled(self)
            elif failed:
                waiter.add_exception(self)
            else:
                waiter.add_result(self)
        has_callbacks = bool(self._done_callbacks)
        if not has_callbacks:
            self._callbacks_ran = True
        self._condition.notify_all()
        if has_callbacks:
            self._client._callbacks.put(self)

    def _run_callbacks(self) -> None:
        """On the callback thread."""
        try:
            for function in self._done_callbacks:
                self._call(function)
        finally:
            with self._condition:
                self._done_callbacks = []
                self._callbacks_ran = True
                self._condition.notify_all()

    def _call(self, function: Callable[[concurrent.futures.Future[T]], object]) -> None:
        try:
            function(self)
        except Exception:
            log.exception("clupy: a callback of %r failed", self)

    def _decode(self) -> None:
        """From outcome and payload to value or exception; in the thread that asks first."""
        if self._decoded:
            return
        with self._condition:
            if self._decoded:
                return
            where = {"node": self._node, "unit": self._unit, "task": self._id}
            if self._kind == "value":
                self._result, self._exception = load_value(self._payload, self._name, where)
            elif self._kind == "exception":
                self._exception = load_exception(self._payload, self._name, where)
                self._explain()
            else:
                self._exception = failure_of(self._outcome, self._name, self._node, self._unit, self._id)
                if self._kind == "disk" and self._payload is not None:
                    self._exception.__cause__ = load_exception(self._payload, self._name, where)
            self._payload = None
            self._decoded = True

    def _explain(self) -> None:
        """What the exception could not know where it was raised."""
        limit = self._outcome.get("tasks_max")
        if self._exception is not None and isinstance(limit, int) and limit > 0:
            explain(self._exception, f"{self._name} had met its limit of {limit} processes and threads; give it more: "
                                     f"tasks_max={2 * limit}, or have it start fewer at a time")

    # Waiting.

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise ForkedError(self._id)

    def _wait(self, timeout: Optional[float]) -> bool:
        self._check_process()
        with self._condition:
            if self._state not in _ENDED:
                self._condition.wait_for(lambda: self._state in _ENDED, timeout)
            return self._state in _ENDED

    def _wait_callbacks(self) -> None:
        """Until the callbacks of a completed future have run; on the callback thread itself, not at all."""
        if self._callbacks_ran or self._client._callbacks.is_current:
            return
        with self._condition:
            self._condition.wait_for(lambda: self._callbacks_ran)

    def _after_fork(self) -> None:
        """In the child: whoever held the locks is not here."""
        self._condition = threading.Condition()
        self._exception = ForkedError(self._id)
        self._decoded = self._callbacks_ran = True
        self._done_callbacks = []
        self._waiters = []
        self._state = FINISHED


_NO_EVENT = threading.Event()


def _check_callable(function: Any) -> None:
    if not callable(function):
        raise TypeError(f"expected a function to call, got {function!r}")


def wait_all(futures: Iterable[RemoteExecutionFuture[Any]], time_out: Timeout = UNSET, *,
             timeout: Timeout = UNSET) -> bool:
    """Waits until all futures have completed or time_out (seconds or "90s"; None: no bound) is over, never raises for
    time; then the callbacks of those that completed have run. Returns whether all have. Ctrl-C cancels them."""
    limit = timeout_of(timeout, time_out, None)
    waited = list(futures)
    for future in waited:
        if not isinstance(future, RemoteExecutionFuture):
            raise TypeError(f"wait_all() waits for futures that clupy.parallel(f)(...) returned, not for {future!r}")
    until = None if limit is None else time.monotonic() + limit
    with _Interruptible(waited):
        completed = [future for future in waited
                     if future._wait(None if until is None else max(until - time.monotonic(), 0.0))]
        for future in completed:
            future._wait_callbacks()
    return len(completed) == len(waited)


class _Interruptible:
    """Ctrl-C inside cancels the futures that are waited for; a second one does not wait for that."""

    __slots__ = ("_futures",)

    def __init__(self, futures: List[RemoteExecutionFuture[Any]]) -> None:
        self._futures = futures

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            return
        pending = [future for future in self._futures if not future.done()]
        if not pending:
            return
        calls = "1 call" if len(pending) == 1 else f"{len(pending)} calls"
        print(f"clupy: interrupted, cancelling {calls}", file=sys.stderr, flush=True)
        by_client: Dict[Client, List[str]] = {}
        for future in pending:
            if future.cancel():
                by_client.setdefault(future._client, []).append(future.id)
        until = time.monotonic() + _INTERRUPT_WAIT
        for client, ids in by_client.items():
            client._settled(ids, max(until - time.monotonic(), 0.0))


__all__ = ["ClupyError", "Progress", "RemoteExecutionFuture", "Usage", "timeout_of", "wait_all"]

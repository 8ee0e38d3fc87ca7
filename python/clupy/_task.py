# SPDX-License-Identifier: Apache-2.0
"""The Python side of a task: loads the function, runs it, hands over what came of it. Runs within the sandbox.

clupy-zygote calls, in this order:

- `prepare()`, in the zygote, once its packages are imported: everything that all tasks share;
- `rehearse()`, in the forked and sandboxed child, before there is anything to do: touches what every call touches, so
  that the call itself need not;
- `run(control_fd, code_fd, args_fd, context)`, which returns `(kind, memfd, retry, detail)`. kind is VALUE,
  EXCEPTION, DISK (an exception for want of room in /tmp or /dev/shm) or UNPICKLABLE; memfd holds the payload, not yet
  sealed (-1 for UNPICKLABLE), and belongs to the caller; retry is 1 for an exception whose type is in the call's
  retry_on; detail names what could not be pickled, or the full place. code_fd and args_fd are closed. context is a
  dict of the strings task, job, owner, node, unit, variables (lines NAME=value for the environment) and the numbers
  attempt, cpus.

A function that calls sys.exit() ends the process in run().

What is imported here is in the memory of every task: each of its pages costs at each fork, at each end and, where it is
written to (a reference counted), at each copy. So it is little, and what few calls need is imported by them.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, Tuple

# What threading and logging do in each forked child (new locks for all that there are) is for parents with several
# threads. The zygote has one, and 130 of the 450 pages that a child copied were copied for it. So these hooks are kept
# back, and are there for what a task itself forks.
_fork_hooks: List[Dict[str, Any]] = []
_register_at_fork = os.register_at_fork
os.register_at_fork = lambda **hooks: _fork_hooks.append(hooks)
try:
    import logging  # noqa: F401
    import threading
finally:
    os.register_at_fork = _register_at_fork

import _signal  # type: ignore[import-not-found, unused-ignore]  # noqa: E402
import contextlib  # noqa: E402
import gc  # noqa: E402
import importlib  # noqa: E402
import pickle  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from types import CoroutineType, TracebackType  # noqa: E402

from . import _current, _payload  # noqa: E402

VALUE = 1
EXCEPTION = 2
UNPICKLABLE = 3
DISK = 4

_DETAIL_MAX = 127  # bytes
_MESSAGE_MAX = 64 << 10  # characters of an exception's message
_TRACEBACK_MAX = 256 << 10  # characters of a traceback

# How many threads numeric libraries start is decided when they are loaded, from these.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS", "LOKY_MAX_CPU_COUNT",
)

_PRACTICE = 16  # rounds
# Of CPython's allocator (Objects/obmalloc.c), in bytes.
_BLOCK, _BLOCK_MAX, _POOL, _POOL_HEAD = 16, 512, 16 << 10, 48
_FILL_MAX = 256 << 10  # bytes for each size, where the allocator is another one
_kept: List[object] = []
_rehearsal: List[bytes] = []  # a function and its arguments, as a client would send them
_REHEARSAL = {"task": "0" * 32, "attempt": 0, "job": "0" * 32, "node": "", "owner": "", "unit": "", "cpus": 1}
_prepared_process = 0  # the process that _process_prepare() was done in
_threads = 0  # what _limit_threads() has set

Outcome = Tuple[int, int, int, str]


def prepare() -> None:
    """Imports what tasks need, while it is shared by all of them. Call once, in the zygote, with one thread."""
    _streams_prepare()
    _limit_threads(1)  # a package that starts threads while it is imported makes the zygote useless
    _preimport()
    _preload()
    # A lambda travels by value, as most functions of users do.
    _rehearsal[:] = [_payload.dumps(lambda a, b: {str(i): a * b for i in range(8)}),
                     _join(_payload.encode(((1,), {"b": 2.0}, {"retry_on": ()})))]
    _practise()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()  # else each task would print it again
    gc.collect()
    _fill_pools()
    gc.freeze()  # a collection in a child would touch, and thus copy, every object of the zygote


def _practise() -> None:
    """The rehearsal, in the zygote and often enough that Python has specialised the code on the way of a call and has
    filled its caches: each of these writes would be a page copied in every child."""
    global _prepared_process
    _prepared_process = os.getpid()  # what belongs to a task's own process is not done
    for _ in range(_PRACTICE):
        rehearse()
    _prepared_process = 0


def _fill_pools() -> None:
    """Takes all free places in the memory that Python has for small objects, so that a child's objects lie side by side
    in pages of their own. Else they lie wherever something was freed, and each is two pages to copy."""
    for size in range(_BLOCK, _BLOCK_MAX + 1, _BLOCK):
        former = 0
        for _ in range(_FILL_MAX // size):
            block = object() if size == 16 else float(size) if size == 32 else bytes(size - bytes.__basicsize__)
            _kept.append(block)
            # In a new pool they come one after the other, from its head on.
            if id(block) - former == size and former % _POOL == _POOL_HEAD:
                break
            former = id(block)


def _streams_prepare() -> None:
    """Every line that a task prints goes out at once: the process may end at any moment, without a flush."""
    for name, fd in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        try:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
        except Exception:  # there was no such descriptor when Python started
            stream = open(fd, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
            setattr(sys, name, stream)


def _preimport() -> None:
    """Imports the modules named in the *.preimport files beside the package, a name a line: what most tasks of this
    node use is then loaded once, and not by each of them."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for file in sorted(name for name in os.listdir(folder) if name.endswith(".preimport")):
        with open(os.path.join(folder, file), encoding="utf-8") as lines:
            text = lines.read()
        for line in text.splitlines():
            name = line.split("#")[0].strip()
            if not name:
                continue
            try:
                importlib.import_module(name)
            except BaseException as error:  # a package's SystemExit is not ours
                print(f"{file}: {name} cannot be imported: {error!r}", file=sys.stderr)


def _preload() -> None:
    """Imports what the environment's manifest names, a module a line in a file of the environment. Raises ImportError when
    one cannot be imported: then no task could do with the environment what it is for."""
    if sys.prefix == sys.base_prefix:
        return
    try:
        with open(os.path.join(sys.prefix, "preload"), encoding="utf-8") as lines:
            names = lines.read().split()
    except FileNotFoundError:
        return
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as error:
            raise ImportError(f"preloading {name}: {type(error).__name__}: {error}") from error


def _join(buffers: List[_payload.Buffer]) -> bytes:
    return b"".join(bytes(buffer) for buffer in buffers)


def rehearse() -> None:
    """Goes the way of a call, for a function of our own, and forgets it. In the child, as the task's user."""
    if _rehearsal:
        code_fd, args_fd = (_payload.to_memfd([part], "rehearsal") for part in _rehearsal)
        _, memfd, _, _ = run(-1, code_fd, args_fd, _REHEARSAL)
        os.close(memfd)
        _current._forget()


def _process_prepare() -> None:
    """What a Python program expects of its process."""
    for hooks in _fork_hooks:
        _register_at_fork(**hooks)
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    # As signal.signal() does, without its enumerations.
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_IGN)


def run(control_fd: int, code_fd: int, args_fd: int, context: Mapping[str, Any]) -> Outcome:
    """Runs one call; see the top of this file. Raises nothing that a function could cause."""
    global _prepared_process
    cpus: int = context["cpus"] or 1
    _current._begin(context, control_fd)
    retry_on: List[type] = []
    process = os.getpid()
    try:
        if _prepared_process != process:
            _process_prepare()
            _prepared_process = process
        _limit_threads(cpus)
        for line in context.get("variables", "").splitlines():
            name, _, value = line.partition("=")
            os.environ[name] = value
        _reseed()
        function, args, kwargs = _load(code_fd, args_fd, retry_on)
        value = function(*args, **kwargs)
        if isinstance(value, CoroutineType):
            import asyncio

            value = asyncio.run(value)
        _end_children(process, 0)
        return _value(value)
    except SystemExit as error:
        _exit(error)
    except BaseException as error:
        _end_children(process, 1)
        return _exception(error, tuple(retry_on))
    finally:
        _flush()
        _current._end()


def _end_children(process: int, status: int) -> None:
    """A child that the function forked and that came out of it: one task has one result."""
    if os.getpid() != process:
        _flush()
        os._exit(status)


def _value(value: Any) -> Outcome:
    try:
        buffers = _payload.encode(value)
    except _payload.UnpicklableError as error:
        return UNPICKLABLE, -1, 0, _cut(error.name if error.name in error.message else f"{error.name} ({error.message})")
    return VALUE, _payload.to_memfd(buffers, "result"), 0, ""


def _load(code_fd: int, args_fd: int, retry_on: List[type]) -> Tuple[Callable[..., Any], Sequence[Any], Dict[str, Any]]:
    """Returns the function and its arguments, fills retry_on. Closes both descriptors."""
    try:
        function = pickle.loads(memoryview(_payload.read(code_fd)))
        args, kwargs, options = _payload.decode(_payload.read(args_fd))
    finally:
        os.close(code_fd)
        os.close(args_fd)
    retry_on.extend(options.get("retry_on", ()))
    return function, args, kwargs


def _limit_threads(cpus: int) -> None:
    global _threads
    if cpus == _threads:
        return
    _threads = cpus
    number = str(cpus)
    for name in _THREAD_VARIABLES:
        os.environ[name] = number
    torch = sys.modules.get("torch")
    if torch is not None:
        with contextlib.suppress(Exception):
            torch.set_num_threads(cpus)


def _reseed() -> None:
    """All tasks are copies of one process: without this they would share one sequence of random numbers. What is
    imported later seeds itself."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        with contextlib.suppress(Exception):
            numpy_random.seed()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _exit(error: SystemExit) -> NoReturn:
    """Ends the process as the interpreter would, without its lengthy end."""
    code = error.code
    if code is None:
        status = 0
    elif isinstance(code, int):
        status = code & 0xFF
    else:
        with contextlib.suppress(Exception):
            print(code, file=sys.stderr)
        status = 1
    _flush()
    _current._end()
    os._exit(status)


def _exception(error: BaseException, retry_on: Tuple[type, ...]) -> Outcome:
    retry = 0
    with contextlib.suppress(Exception):  # an odd metaclass may answer with an exception
        retry = int(isinstance(error, retry_on))
    content = {
        "exception": _pickled(error),
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "message": _text(error)[:_MESSAGE_MAX],
        "traceback": _formatted(error),
    }
    place = _full_place(error)
    return DISK if place else EXCEPTION, _payload.to_memfd(_payload.encode(content), "exception"), retry, place


def _full_place(error: BaseException) -> str:
    """The file system of the task's own that had no room, which led to this; "" for other failures."""
    try:
        if not isinstance(error, OSError) and error.__cause__ is None and error.__context__ is None and \
                not hasattr(error, "exceptions"):
            return ""
        from . import _disk

        return _disk.full_place(error)
    except Exception:  # an odd class of exception
        return ""


def _pickled(error: BaseException) -> Optional[bytes]:
    try:
        return _payload.dumps(error)
    except Exception:
        return None


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__qualname__} without text>"


def _formatted(error: BaseException) -> str:
    """The traceback as Python would print it, from the user's first frame on."""
    try:
        shown = traceback.TracebackException(type(error), error, _user_frames(error.__traceback__))
        text = "".join(shown.format())
    except Exception:
        text = f"{type(error).__qualname__}: {_text(error)}\n"
    if len(text) > _TRACEBACK_MAX:
        half = _TRACEBACK_MAX // 2
        text = f"{text[:half]}\n[…]\n{text[-half:]}"
    return text


_OWN_FILES = {__file__, _payload.__file__}
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio", "")


def _user_frames(frames: Optional[TracebackType]) -> Optional[TracebackType]:
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if file not in _OWN_FILES and not file.startswith(_ASYNCIO):
            break
        frames = frames.tb_next
    return frames


def _cut(text: str) -> str:
    """At most what a TaskMessage's detail holds, without control characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line.encode("utf-8", "replace")[:_DETAIL_MAX].decode("utf-8", "ignore")

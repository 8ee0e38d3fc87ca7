# SPDX-License-Identifier: Apache-2.0
"""From Python objects to what travels: functions, arguments, and back from results.

Functions and classes of `__main__` and of local modules (those outside of the standard library and of
site-packages, which nodes do not have) travel by value, with what they refer to; everything else by reference."""

from __future__ import annotations

import _thread
import contextlib
import errno
import hashlib
import inspect
import io
import os
import pickle
import site
import socket
import struct
import sys
import sysconfig
import threading
import time
import types
import weakref
from typing import Any, Callable, ClassVar, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

import cloudpickle  # type: ignore[import-untyped, import-not-found, unused-ignore]
import cloudpickle.cloudpickle as _cloudpickle  # type: ignore[import-untyped, import-not-found, unused-ignore]

from . import _payload
from ._failures import ArgumentPicklingError, ClupyError, RemoteError, RemoteTraceback
from ._frame import Buffer
from ._streams import Blob

_HEAD = struct.Struct("<4sIQ")  # see _payload
_CODE_REUSE = 1.0  # seconds
_CODE_LARGE = 1 << 20  # bytes

# What is local.


def _foreign_folders() -> Tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    # A node keeps CluPy's own packages together in a folder of theirs.
    folders.add(os.path.dirname(os.path.dirname(os.path.abspath(cloudpickle.__file__))))
    folders.add(os.path.join(sys.base_prefix, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}"))
    for name in ("getsitepackages", "getusersitepackages"):
        found: Any = getattr(site, name, list)()
        folders.update([found] if isinstance(found, str) else found)
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


_FOREIGN_FOLDERS = _foreign_folders()
_FOREIGN_PACKAGES = {"clupy", "cloudpickle", "yaml", "__main__", "__mp_main__"}
_local_modules: Dict[str, bool] = {}


def is_local(module_name: Optional[str]) -> bool:
    """Whether a module is one that nodes do not have: Python source outside of all places for installed packages."""
    if not isinstance(module_name, str):
        return False
    known = _local_modules.get(module_name)
    if known is None:
        known = _local_modules[module_name] = _find_out_local(module_name)
        if known:
            _cloudpickle.register_pickle_by_value(sys.modules[module_name])
    return known


def _find_out_local(module_name: str) -> bool:
    if module_name.partition(".")[0] in _FOREIGN_PACKAGES:
        return False
    module = sys.modules.get(module_name)
    if not isinstance(module, types.ModuleType) or module.__name__ != module_name:
        return False
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        # A package without __init__.py is as local as the folder it is in; what is built in has no path.
        folders = [str(folder) for folder in getattr(module, "__path__", [])]
        return bool(folders) and all(_is_local_path(folder) for folder in folders)
    return file.endswith((".py", ".pyc")) and _is_local_path(file)


def _is_local_path(path: str) -> bool:
    real = os.path.realpath(path)
    if real.startswith(_FOREIGN_FOLDERS) or os.path.abspath(path).startswith(_FOREIGN_FOLDERS):
        return False
    parts = real.split(os.sep)
    return "site-packages" not in parts and "dist-packages" not in parts


# Pickling.


class _RefusedError(Exception):
    """An object that is bound to this process. what: how to call it; instead: what to do."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.what, self.instead = what, instead


_LOCKS = (_thread.LockType, type(threading.RLock()))
_FILES = (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair, io.RawIOBase)
_STREAMS = (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__)


def _refuse(value: Any) -> None:
    if isinstance(value, _FILES):
        if not any(value is stream for stream in _STREAMS):
            name = getattr(value, "name", None)
            raise _RefusedError(f"an open file ({name!r})" if name is not None else "an open file",
                                "open it inside the function, or send its content")
    elif isinstance(value, _LOCKS):
        raise _RefusedError("a lock", "a lock holds in one process only; create it inside the function")
    elif isinstance(value, socket.socket):
        raise _RefusedError("a socket", "connect inside the function")
    elif isinstance(value, types.GeneratorType):
        raise _RefusedError(f"a generator ({value.__qualname__})", "send a list of its items")
    elif isinstance(value, (types.CoroutineType, types.AsyncGeneratorType)):
        raise _RefusedError(f"a coroutine ({value.__qualname__})", "call it inside the function")


class _FreshLock:
    """Stands for a lock among globals: a task gets one of its own, as if it had imported the module."""

    def __init__(self, reentrant: bool) -> None:
        self._reentrant = reentrant

    def __reduce__(self) -> Tuple[Any, ...]:
        return (threading.RLock if self._reentrant else threading.Lock), ()


class _Pickler(_cloudpickle.CloudPickler):  # type: ignore[misc, unused-ignore]
    """cloudpickle, which finds out by itself what is local, and refuses what lives in this process only."""

    _trial = False

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is types.FunctionType or issubclass(kind, type):
            is_local(getattr(value, "__module__", None))
        elif kind is types.ModuleType:
            if is_local(value.__name__):
                # Unlike cloudpickle's own way this allows for modules that import each other.
                return LocalModule, (value.__name__,), {} if self._trial else _module_state(value)
        elif kind in _METHODS:
            source = _own_generator(value)
            if source is not None:
                return getattr, (source, value.__name__)
        else:
            _refuse(value)
        reduced = super().reducer_override(value)
        if kind is types.FunctionType and isinstance(reduced, tuple):
            _renew_locks(reduced[2][1]["__globals__"])
        return reduced


_METHODS = (types.MethodType, types.BuiltinMethodType)


def _own_generator(method: Any) -> Optional[types.ModuleType]:
    """The module that offers this method of its own random generator as a function, as random.random: by value it
    would bring the client's state along, and all tasks would draw the same numbers."""
    for name in ("random", "numpy.random"):
        module = sys.modules.get(name)
        if module is not None and getattr(module, method.__name__, None) == method:
            return module
    return None


def _renew_locks(names: Dict[str, Any]) -> None:
    """names: a copy of the globals that a function refers to."""
    for name, value in names.items():
        if isinstance(value, _LOCKS):
            names[name] = _FreshLock(not isinstance(value, _thread.LockType))


class _TrialPickler(_Pickler):
    _trial = True


class LocalModule(types.ModuleType):
    """In a task: the copy of a module that only the client has. Sent back, it is the client's own again."""

    def __reduce__(self) -> Tuple[Any, ...]:
        return _own_module, (self.__name__,)


def _own_module(name: str) -> types.ModuleType:
    return sys.modules.get(name) or LocalModule(name)


_SIMPLE = (type(None), bool, int, float, complex, str, bytes)
_NOT_STATE = {"__builtins__", "__loader__", "__spec__", "__cached__", "__path__"}


def _module_state(module: types.ModuleType) -> Dict[str, Any]:
    """The globals of a module without those that cannot travel: most are not needed, and a function that does need
    one says so itself, in an AttributeError."""
    state: Dict[str, Any] = {}
    for name, value in list(vars(module).items()):
        if name in _NOT_STATE:
            continue
        if not isinstance(value, (*_SIMPLE, *_LOCKS)):
            try:
                _TrialPickler(_Sink(), protocol=5, buffer_callback=lambda _: False).dump(value)
            except Exception:
                continue
        state[name] = value
    _renew_locks(state)
    return state


class _Sink:
    """A file that keeps what is written as it is: a large bytes object is not copied."""

    def __init__(self) -> None:
        self.parts: List[bytes] = []

    def write(self, data: Any) -> int:
        part = data if type(data) is bytes else bytes(data)
        self.parts.append(part)
        return len(part)


def dumps(value: Any) -> bytes:
    """The pickle of value, without out-of-band buffers. Raises whatever goes wrong."""
    sink = _Sink()
    _Pickler(sink, protocol=5).dump(value)
    return b"".join(sink.parts)


def encode(value: Any) -> Blob:
    """The payload of value (docs/protocol.md). It does not change with value any more: memory that could be written to
    is copied, read-only memory and bytes are not. Raises whatever goes wrong."""
    sink = _Sink()
    buffers: List[Buffer] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < _payload.OUT_OF_BAND_MIN or len(buffers) >= _payload.BUFFERS_MAX:
            return True
        buffers.append(view if view.readonly else bytes(view))
        return False

    _Pickler(sink, protocol=5, buffer_callback=out_of_band).dump(value)
    size = sum(map(len, sink.parts))
    sizes = [memoryview(buffer).nbytes for buffer in buffers]
    head = _HEAD.pack(_payload.MAGIC, len(buffers), size) + struct.pack(f"<{len(sizes)}Q", *sizes)
    parts: List[Buffer] = [head, bytes(-len(head) % _payload.ALIGNMENT), *sink.parts]
    position = len(head) + -len(head) % _payload.ALIGNMENT + size
    for buffer, buffer_size in zip(buffers, sizes):
        gap = -position % _payload.ALIGNMENT
        parts.extend((bytes(gap), buffer))
        position += gap + buffer_size
    return Blob(parts)


def encode_call(function: Callable[..., Any], args: Tuple[Any, ...], kwargs: Mapping[str, Any],
                options: Mapping[str, Any], shipped: Optional[Code] = None) -> Blob:
    """The payload of a call's arguments; with shipped, for call_shipped(). Raises ArgumentPicklingError, which names the
    argument to blame."""
    sent = args if shipped is None else (shipped.data, *args)
    try:
        return encode((sent, dict(kwargs), dict(options)))
    except MemoryError:
        raise
    except Exception as error:
        for name, value in _named_arguments(function, args, kwargs):
            try:
                encode(value)
            except Exception as culprit:
                what = f"argument '{name}' of {function_name(function)}()"
                raise ArgumentPicklingError(what, _why(culprit, value)) from _cause(culprit)
        raise ArgumentPicklingError(f"what {function_name(function)}() was called with", _why(error, None)) from error


def _named_arguments(function: Callable[..., Any], args: Tuple[Any, ...],
                     kwargs: Mapping[str, Any]) -> Iterator[Tuple[str, Any]]:
    names: List[str] = []
    try:
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind == parameter.VAR_POSITIONAL:
                names.extend(f"{parameter.name}[{index}]" for index in range(len(args) - len(names)))
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                names.append(parameter.name)
    except (TypeError, ValueError):
        pass
    for index, value in enumerate(args):
        yield (names[index] if index < len(names) else str(index + 1)), value
    yield from kwargs.items()


def _why(error: BaseException, value: Any) -> str:
    if isinstance(error, _RefusedError):
        direct = False
        try:
            _refuse(value)
        except _RefusedError:
            direct = True
        return f"it {'is' if direct else 'holds'} {error.what}; {error.instead}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    words = " ".join(str(error).split()) or type(error).__name__
    return f"{words} (type {type(value).__qualname__})" if value is not None else words


def _cause(error: BaseException) -> Optional[BaseException]:
    return None if isinstance(error, _RefusedError) else error


def function_name(function: Callable[..., Any]) -> str:
    """How a person calls it: "primes", "Model.fit"."""
    inner = function
    while hasattr(inner, "func") and not hasattr(inner, "__qualname__"):  # functools.partial
        inner = inner.func
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    return str(name).replace("<locals>.", "")


# The code of functions.


class Code(NamedTuple):
    """A pickled function and its SHA-256 in hexadecimal digits."""

    data: bytes
    digest: str


def call_shipped(code: bytes, /, *args: Any, **kwargs: Any) -> Any:
    """In a task: the function of a job whose calls bring functions of their own."""
    return pickle.loads(code)(*args, **kwargs)


def varies(function: Callable[..., Any]) -> bool:
    """Whether there may be several functions of this code: it has variables of its own or is bound to an object."""
    return type(function) is not types.FunctionType or function.__closure__ is not None or bool(function.__defaults__)


class _CachedCode:
    __slots__ = ("code", "mutable", "seen", "used")

    def __init__(self, code: Code, seen: List[Any], mutable: bool) -> None:
        self.code, self.seen, self.mutable = code, seen, mutable
        self.used = time.monotonic()


_codes: weakref.WeakKeyDictionary[Callable[..., Any], _CachedCode] = weakref.WeakKeyDictionary()
_MISSING = object()


def encode_function(function: Callable[..., Any]) -> Code:
    """Pickles a function as it is now, with the globals and variables it refers to.

    It is not pickled again as long as all of these are the same objects, and cannot change (numbers, text, other
    functions); or, when the pickle takes 1 MiB or more, within a second of its last use: what it refers to may then
    have changed in place and be sent as it was. Raises ArgumentPicklingError."""
    seen: List[Any] = []
    mutable = True
    if type(function) is types.FunctionType:
        mutable = _references(function, seen, set())
        cached = _codes.get(function)
        if (cached is not None and len(cached.seen) == len(seen) and all(map(_is, cached.seen, seen))
                and (not mutable or (len(cached.code.data) >= _CODE_LARGE
                                     and time.monotonic() - cached.used < _CODE_REUSE))):
            cached.used = time.monotonic()
            return cached.code
    try:
        data = dumps(function)
    except MemoryError:
        raise
    except Exception as error:
        raise _function_error(function, error) from _cause(error)
    code = Code(data, hashlib.sha256(data).hexdigest())
    if type(function) is types.FunctionType:
        _codes[function] = _CachedCode(code, seen, mutable)
    return code


def _is(left: Any, right: Any) -> bool:
    return left is right


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _values(function: types.FunctionType) -> Iterator[Tuple[str, Any]]:
    """What a function refers to, by name; _MISSING for a global that is not there (yet)."""
    for name in _names(function.__code__):
        yield f"global '{name}'", function.__globals__.get(name, _MISSING)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield f"variable '{name}'", cell.cell_contents
        except ValueError:
            yield f"variable '{name}'", _MISSING
    for value in function.__defaults__ or ():
        yield "a default value", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f"the default of '{name}'", value
    for name, value in function.__dict__.items():
        yield f"attribute '{name}'", value


def _references(function: types.FunctionType, seen: List[Any], visited: Set[int]) -> bool:
    """Appends the code of function, and of those that go with it, and what they refer to. Returns whether something
    among that can change in place."""
    if id(function) in visited:
        return False
    visited.add(id(function))
    seen.append(function.__code__)
    mutable = False
    for _, value in _values(function):
        seen.append(value)
        if value is _MISSING or isinstance(value, (*_SIMPLE, types.BuiltinFunctionType)):
            continue
        if isinstance(value, types.ModuleType):
            mutable |= is_local(value.__name__)
        elif isinstance(value, (type, types.FunctionType)):
            if value.__module__ != "__main__" and not is_local(value.__module__) and _is_global(value):
                continue
            mutable |= isinstance(value, type) or _references(value, seen, visited)
        else:
            mutable = True
    return mutable


def _is_global(value: Any) -> bool:
    return getattr(sys.modules.get(value.__module__), value.__qualname__, None) is value


def _function_error(function: Callable[..., Any], error: Exception) -> ArgumentPicklingError:
    what = f"the function {function_name(function)}()"
    inner = getattr(function, "__func__", function)
    if isinstance(inner, types.FunctionType):
        for name, value in _values(inner):
            if value is not _MISSING:
                try:
                    dumps(value)
                except Exception as culprit:
                    return ArgumentPicklingError(what, f"it refers to {name}: {_why(culprit, value)}")
    return ArgumentPicklingError(what, _why(error, function))


# Results.


class _Guard:
    """Leaves the classes of this process alone. A class that travelled by value comes back as itself, which is what
    makes isinstance() hold, but cloudpickle would also put the copy's methods and attributes into it."""

    def __init__(self) -> None:
        self._known: Set[int] = set()

    def guarded(self, found: Any, module: str, name: str) -> Any:
        """What find_class() is to return."""
        if module.partition(".")[0] != "cloudpickle":
            return found
        if name in ("_make_skeleton_class", "_make_skeleton_enum"):
            position = 4 if name == "_make_skeleton_class" else 5

            def make(*args: Any) -> Any:
                known = len(args) > position and args[position] in _cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
                made = found(*args)
                if known:
                    self._known.add(id(made))
                return made

            return make
        if name == "_class_setstate":
            return lambda made, state: made if id(made) in self._known else found(made, state)
        return found


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: memoryview, buffers: List[memoryview]) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._guard = _Guard()

    def find_class(self, module: str, name: str) -> Any:
        return self._guard.guarded(super().find_class(module, name), module, name)


_PythonUnpickler: Any = pickle._Unpickler  # whose steps can be changed


class _ExceptionUnpickler(_PythonUnpickler):  # type: ignore[misc]
    """Makes exceptions as they were. Exceptions are pickled as their type and `args`, which are rarely what a type's
    own __init__ takes: it would fail, or make another text of them."""

    dispatch: ClassVar[Dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self._guard = _Guard()

    def find_class(self, module: str, name: str) -> Any:
        return self._guard.guarded(super().find_class(module, name), module, name)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if (isinstance(function, type) and issubclass(function, BaseException)
                and isinstance(function.__init__, types.FunctionType)
                and function.__reduce__ in (BaseException.__reduce__, OSError.__reduce__)):
            made = function.__new__(function, *arguments)
            made.args = arguments
        else:
            made = function(*arguments)
        self.stack[-1] = made

    dispatch[pickle.REDUCE[0]] = load_reduce


def decode(payload: Any) -> Any:
    """The value of a payload; arrays in it are views of the payload's memory. Raises whatever goes wrong."""
    count, size = _HEAD.unpack_from(payload)[1:] if len(payload) >= _HEAD.size else (0, 0)
    start = _HEAD.size + 8 * count
    start += -start % _payload.ALIGNMENT
    if payload.find(b"_class_setstate", start, start + size) < 0:
        return _payload.decode(payload)
    view = memoryview(payload)
    buffers: List[memoryview] = []
    position = start + size
    for buffer_size in struct.unpack_from(f"<{count}Q", payload, _HEAD.size):
        position += -position % _payload.ALIGNMENT
        buffers.append(view[position:position + buffer_size])
        position += buffer_size
    if position > view.nbytes:
        raise _payload.PayloadError("a payload that was cut short")
    return _Unpickler(view[start:start + size], buffers).load()


def load_value(payload: Any, name: str, where: Mapping[str, Optional[str]]) -> Tuple[Any, Optional[BaseException]]:
    """Returns (value, None), or (None, exception) when it cannot be loaded."""
    if payload is None:
        return None, ClupyError(f"{name} ended with a value that the master did not send; call again")
    try:
        return decode(payload), None
    except Exception as error:
        failure = RemoteError(_missing_type(error), "", "", why=_words(error), what=f"the value that {name} returned",
                              node=where["node"], unit=where["unit"], task=where["task"])
        failure.__cause__ = error
        return None, failure


def explain(error: BaseException, note: str) -> None:
    """Puts a sentence behind the exception's own words, where these are Python's own, and behind its traceback."""
    with contextlib.suppress(Exception):
        if isinstance(error, OSError) and isinstance(error.strerror, str) and error.errno == errno.EAGAIN:
            error.strerror = f"{error.strerror}: {note}"
        elif type(error) is RuntimeError and len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (f"{error.args[0]}: {note}",)
        elif hasattr(error, "add_note"):
            error.add_note(note)
    cause = error.__cause__
    if isinstance(cause, RemoteTraceback):
        cause.text = f"{cause.text.rstrip()}\n({note})\n"


def load_exception(payload: Any, name: str, where: Mapping[str, Optional[str]]) -> BaseException:
    """The exception that a call raised, as its own type with the remote traceback as its cause, else RemoteError."""
    node, unit, task = where["node"], where["unit"], where["task"]
    try:
        content = _payload.decode(payload)
        pickled, trace = content["exception"], str(content["traceback"])
        type_name, message = str(content["type"]), str(content["message"])
    except Exception as error:
        return RemoteError("an exception", "", "", why=f"what came is damaged: {_words(error)}", node=node,
                           unit=unit, task=task)
    why, foreign = "it could not be pickled there", False
    if pickled is not None:
        try:
            raised = _ExceptionUnpickler(pickled).load()
            if isinstance(raised, Exception):
                raised.__cause__ = RemoteTraceback(trace)
                return raised
            foreign = True
        except Exception as error:
            why = _words(error)
    failure = RemoteError(type_name, message, trace, why=why, foreign=foreign, node=node, unit=unit, task=task)
    failure.__cause__ = RemoteTraceback(trace)
    return failure


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _missing_type(error: Exception) -> str:
    return getattr(error, "name", None) or "a type"

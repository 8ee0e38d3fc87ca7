# SPDX-License-Identifier: Apache-2.0
"""clupy.parallel(): what its options mean, and the callable it returns."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Generic,
    Hashable,
    Iterable,
    Mapping,
    Optional,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from ._environment import MODULES_MAX, PACKAGES_MAX, Environment, check_module, check_package
from ._functions import function_name
from ._units import Duration, Size, parse_duration, parse_size

if TYPE_CHECKING:
    from ._client import Client
    from ._future import RemoteExecutionFuture

R = TypeVar("R")
ExceptionTypes = Union[Type[BaseException], Tuple[Type[BaseException], ...]]

_NAME = re.compile(r"[a-z0-9-]{1,32}")
_TEXT_MAX = 128  # bytes in UTF-8
_NAMES_MAX = 16  # of labels, of resources
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_COUNT_MAX = 1_000_000
_SERVERS_MAX = 100_000
_DURATION_MAX = 100 * 365 * 86400.0
_MEMORY_MIN = 16 << 20  # what a node refuses to go below
_MEMORY_MAX = 1 << 60


@dataclass(frozen=True)
class CallOptions:
    """The options of a call, checked; None where the cluster decides. Durations in seconds, sizes in bytes."""

    server_count: Optional[int] = None
    cpus: Optional[float] = None
    memory: Optional[int] = None
    tasks_max: Optional[int] = None
    timeout: Optional[float] = None
    deadline: Optional[float] = None
    retries: Optional[int] = None
    retry_on: Tuple[Type[BaseException], ...] = ()
    priority: int = 0
    isolation: str = "task"
    policy: str = "default"
    name: Optional[str] = None
    detach: bool = False
    packages: Tuple[str, ...] = ()
    preload: Tuple[str, ...] = ()
    requires: Tuple[Tuple[str, int], ...] = ()
    labels: Tuple[Tuple[str, str], ...] = ()

    def key(self) -> Hashable:
        """Equal for calls that may be in one job."""
        return dataclasses.astuple(self)

    def job_message(self, job_id: str, name: str, digest: str, code_size: int, environment: Environment) -> Dict[str, Any]:
        """JOB of docs/protocol.md."""
        message: Dict[str, Any] = {
            "id": job_id, "name": name, "code": digest, "code_size": code_size, "priority": self.priority,
            "isolation": self.isolation, "policy": self.policy, "network": "none",
            "detach": self.detach}
        for key, value in (("cpus", self.cpus), ("memory", self.memory), ("tasks_max", self.tasks_max),
                           ("server_count", self.server_count), ("retries", self.retries),
                           ("timeout_ms", None if self.timeout is None else max(round(self.timeout * 1000), 1)),
                           ("requires", dict(self.requires) or None), ("labels", dict(self.labels) or None),
                           ("environment", environment.message() or None)):
            if value is not None:
                message[key] = value
        return message


def check_options(given: Mapping[str, Any]) -> CallOptions:
    """Raises TypeError for an unknown option or a wrong type, ValueError for a value out of bounds; each sentence
    names the option."""
    checked: Dict[str, Any] = {}
    for name, value in given.items():
        check = _CHECKS.get(name)
        if check is None:
            near = difflib.get_close_matches(name, _CHECKS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(_CHECKS)}"
            raise TypeError(f"clupy.parallel() has no option '{name}': {hint}")
        checked[name] = check(name, value)
    return CallOptions(**checked)


def _integer(lowest: int, highest: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name}: expected a whole number, got {value!r}")
        number = int(value.__index__())
        if not lowest <= number <= highest:
            raise ValueError(f"{name}: expected a number from {lowest} to {highest}, got {number}")
        return number
    return check


def _optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else check(name, value)


def _cpus(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number of CPUs, got {value!r}")
    if not (math.isfinite(value) and 0.01 <= value <= 4096):
        raise ValueError(f"{name}: expected a number from 0.01 to 4096, got {value!r}")
    return float(value)


def _duration(name: str, value: Duration) -> float:
    seconds = parse_duration(value, name)
    if seconds <= 0:
        raise ValueError(f"{name}: expected more than 0 seconds, got {value!r}")
    if seconds > _DURATION_MAX:
        raise ValueError(f"{name}: expected at most 100 years, got {value!r}; leave it out for no bound")
    return seconds


def _size(name: str, value: Size) -> int:
    size = parse_size(value, name)
    if size < _MEMORY_MIN:
        raise ValueError(f"{name}: expected at least 16M, which a Python process needs to start, got {value!r}")
    if size > _MEMORY_MAX:
        raise ValueError(f"{name}: expected at most 1024P, got {value!r}")
    return size


def _retry_on(name: str, value: ExceptionTypes) -> Tuple[Type[BaseException], ...]:
    kinds = value if isinstance(value, (tuple, list)) else (value,)
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{name}: expected exception types, got {kind!r}")
    return tuple(kinds)


def _isolation(name: str, value: Any) -> str:
    if value == "job":
        raise NotImplementedError('isolation="job" is not there yet; isolation="task", the default, is')
    if value != "task":
        raise ValueError(f"{name}: expected 'task' or 'job', got {value!r}")
    return "task"


def _policy(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{name}: expected the name of a policy (a-z, 0-9 and -), got {value!r}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {value!r}")
    if not value or not value.isprintable() or len(value.encode()) > _TEXT_MAX:
        raise ValueError(f"{name}: expected printable text of 1 to {_TEXT_MAX} bytes, got {value[:300]!r}")
    return value


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return value


def _list_of(check: Callable[[str, Any], str], most: int, example: str) -> Callable[[str, Any], Tuple[str, ...]]:
    def check_list(name: str, value: Any) -> Tuple[str, ...]:
        if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
            raise TypeError(f"{name}: expected a list, as in {name}={example}, got {value!r}")
        items = tuple(dict.fromkeys(check(name, item) for item in value))
        if len(items) > most:
            raise ValueError(f"{name}: expected at most {most}, got {len(items)}")
        return items
    return check_list


def _names_of(check: Callable[[str, Any], Any], example: str) -> Callable[[str, Any], Tuple[Tuple[str, Any], ...]]:
    def check_names(name: str, value: Any) -> Tuple[Tuple[str, Any], ...]:
        if not isinstance(value, Mapping):
            raise TypeError(f"{name}: expected names with their values, as in {name}={example}, got {value!r}")
        for key in value:
            if not isinstance(key, str) or not _LABEL.fullmatch(key):
                raise ValueError(f"{name}: expected names of letters, digits, '.', '_' and '-', got {key!r}")
        if len(value) > _NAMES_MAX:
            raise ValueError(f"{name}: expected at most {_NAMES_MAX} names, got {len(value)}")
        return tuple(sorted((key, check(f"{name}: {key}", item)) for key, item in value.items()))
    return check_names


def _label(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected text, got {value!r}")
    if not _LABEL.fullmatch(value):
        raise ValueError(f"{name}: expected letters, digits, '.', '_' and '-', got {value[:300]!r}")
    return value


_CHECKS: Dict[str, Callable[[str, Any], Any]] = {
    "server_count": _optional(_integer(1, _SERVERS_MAX)), "cpus": _optional(_cpus), "memory": _optional(_size),
    "tasks_max": _optional(_integer(1, _COUNT_MAX)), "timeout": _optional(_duration), "deadline": _optional(_duration),
    "retries": _optional(_integer(0, _COUNT_MAX)), "retry_on": _retry_on, "priority": _integer(-1000, 1000),
    "isolation": _isolation, "policy": _policy, "name": _optional(_text), "detach": _boolean,
    "packages": _list_of(check_package, PACKAGES_MAX, '["polars>=1"]'),
    "preload": _list_of(check_module, MODULES_MAX, '["pandas"]'),
    "requires": _names_of(_integer(1, _COUNT_MAX), '{"gpu": 1}'), "labels": _names_of(_label, '{"zone": "a"}'),
}


class ParallelFunction(Generic[R]):
    """A function whose calls run in the cluster; what clupy.parallel(f) returns.

    Called, it submits one call and returns its future. The function itself is `__wrapped__`. As a method of a class it
    binds as functions do. Within a task it is the plain function."""

    def __init__(self, client: Callable[[], Client], function: Callable[..., R], options: Mapping[str, Any]) -> None:
        if not callable(function):
            raise TypeError(f"clupy.parallel() expects a function, got {function!r}")
        if isinstance(function, ParallelFunction):
            options = {**function._given, **options}
            function = function.__wrapped__
        functools.update_wrapper(self, function, updated=())
        self._client = client
        self._given: Dict[str, Any] = dict(options)
        self._options = check_options(options)
        self.__wrapped__: Callable[..., R] = function

    def __call__(self, *args: Any, **kwargs: Any) -> RemoteExecutionFuture[R]:
        return self._client()._call(self.__wrapped__, self._given, self._options, args, kwargs)

    def __get__(self, instance: Any, owner: Optional[type] = None) -> ParallelFunction[R]:
        if instance is None or not hasattr(self.__wrapped__, "__get__"):
            return self
        bound = self.__wrapped__.__get__(instance, owner)
        return ParallelFunction(self._client, bound, self._given)

    def __reduce__(self) -> Tuple[Any, ...]:
        return _plain, (self.__wrapped__,)

    def __repr__(self) -> str:
        return f"<clupy.parallel {function_name(self.__wrapped__)}>"


def _plain(function: Callable[..., R]) -> Callable[..., R]:
    """What a ParallelFunction is unpickled as."""
    return function


def code_key(function: Callable[..., Any]) -> Hashable:
    """Equal for functions of the same code: code object and qualified name."""
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = getattr(inner, "__func__", inner)
    code = getattr(inner, "__code__", None)
    if not isinstance(code, types.CodeType) and not isinstance(inner, type):
        code = getattr(getattr(type(inner), "__call__", None), "__code__", None)
    return code or f"{getattr(inner, '__module__', '')}", function_name(inner)

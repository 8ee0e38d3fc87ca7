# SPDX-License-Identifier: Apache-2.0
"""CluPy: a Python call runs in a cluster, in a sandbox of its own, by wrapping it with clupy.parallel().

    results = [clupy.parallel(primes, server_count=10)(n) for n in range(100, 200)]
    clupy.wait_all(results, time_out=10)

Each name is loaded when it is first used: a task, which is forked from a process that holds this package, needs few of
them, and pays for each page that the others would fill.
"""

import importlib
from typing import TYPE_CHECKING, Any, List

from ._version import VERSION as __version__

if TYPE_CHECKING:
    from ._call import ParallelFunction as ParallelFunction
    from ._client import Client as Client
    from ._client import attach as attach
    from ._client import init as init
    from ._client import job as job
    from ._client import parallel as parallel
    from ._client import shutdown as shutdown
    from ._current import CurrentTask as CurrentTask
    from ._current import current as current
    from ._current import progress as progress
    from ._failures import ArgumentPicklingError as ArgumentPicklingError
    from ._failures import CancelledError as CancelledError
    from ._failures import ClupyError as ClupyError
    from ._failures import ConfigurationError as ConfigurationError
    from ._failures import ConnectError as ConnectError
    from ._failures import CpuLimitError as CpuLimitError
    from ._failures import DeadlineError as DeadlineError
    from ._failures import DiskLimitError as DiskLimitError
    from ._failures import EnvironmentFailedError as EnvironmentFailedError
    from ._failures import ExitError as ExitError
    from ._failures import ForkedError as ForkedError
    from ._failures import LibraryMismatchError as LibraryMismatchError
    from ._failures import LibraryMismatchWarning as LibraryMismatchWarning
    from ._failures import LockTimeoutError as LockTimeoutError
    from ._failures import MemoryLimitError as MemoryLimitError
    from ._failures import NodeLostError as NodeLostError
    from ._failures import NotAllowedError as NotAllowedError
    from ._failures import QuotaError as QuotaError
    from ._failures import RefusedError as RefusedError
    from ._failures import RemoteError as RemoteError
    from ._failures import RemoteTraceback as RemoteTraceback
    from ._failures import ResultPicklingError as ResultPicklingError
    from ._failures import SignalError as SignalError
    from ._failures import SyscallRefusedError as SyscallRefusedError
    from ._failures import TimeLimitError as TimeLimitError
    from ._failures import VersionMismatchError as VersionMismatchError
    from ._future import Progress as Progress
    from ._future import RemoteExecutionFuture as RemoteExecutionFuture
    from ._future import Usage as Usage
    from ._future import wait_all as wait_all
    from ._later import connect as connect
    from ._later import service as service
    from ._later import store as store
    from ._later import sync as sync

_NAMES = {
    "_call": "ParallelFunction",
    "_client": "Client attach init job parallel shutdown",
    "_current": "CurrentTask current progress",
    "_failures": (
        "ArgumentPicklingError CancelledError ClupyError ConfigurationError ConnectError CpuLimitError DeadlineError "
        "DiskLimitError EnvironmentFailedError ExitError ForkedError LibraryMismatchError "
        "LibraryMismatchWarning LockTimeoutError MemoryLimitError NodeLostError NotAllowedError QuotaError RefusedError "
        "RemoteError RemoteTraceback ResultPicklingError SignalError SyscallRefusedError TimeLimitError VersionMismatchError"
    ),
    "_future": "Progress RemoteExecutionFuture Usage wait_all",
    "_later": "connect service store sync",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'clupy' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"clupy.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted({*globals(), *_MODULES})

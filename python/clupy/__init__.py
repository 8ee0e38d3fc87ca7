# SPDX-License-Identifier: Apache-2.0
"""CluPy: a Python call runs in a cluster, in a sandbox of its own, by wrapping it with clupy.parallel().

    results = [clupy.parallel(primes, server_count=10)(n) for n in range(100, 200)]
    clupy.wait_all(results, time_out=10)
"""

from ._call import ParallelFunction
from ._client import Client, attach, init, job, parallel, shutdown
from ._current import CurrentTask, current, progress
from ._failures import (
    ArgumentPicklingError,
    CancelledError,
    ClupyError,
    ConfigurationError,
    ConnectError,
    CpuLimitError,
    DeadlineError,
    DiskLimitError,
    EnvironmentFailedError,
    ExitError,
    ForkedError,
    LockTimeoutError,
    MemoryLimitError,
    NodeLostError,
    NotAllowedError,
    QuotaError,
    RefusedError,
    RemoteError,
    RemoteTraceback,
    ResultPicklingError,
    SignalError,
    SyscallRefusedError,
    TimeLimitError,
    VersionMismatchError,
)
from ._future import Progress, RemoteExecutionFuture, Usage, wait_all
from ._later import connect, service, store, sync
from ._version import VERSION as __version__

__all__ = [
    "ArgumentPicklingError", "CancelledError", "Client", "ClupyError", "ConfigurationError", "ConnectError",
    "CpuLimitError", "CurrentTask", "DeadlineError", "DiskLimitError", "EnvironmentFailedError", "ExitError",
    "ForkedError", "LockTimeoutError", "MemoryLimitError", "NodeLostError", "NotAllowedError", "ParallelFunction",
    "Progress", "QuotaError", "RefusedError", "RemoteError", "RemoteExecutionFuture", "RemoteTraceback",
    "ResultPicklingError", "SignalError", "SyscallRefusedError", "TimeLimitError", "Usage", "VersionMismatchError",
    "__version__", "attach", "connect", "current", "init", "job", "parallel", "progress", "service", "shutdown", "store",
    "sync", "wait_all",
]

# SPDX-License-Identifier: Apache-2.0
"""From what the wire says about an ended call to the exception that its future carries."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Type

from ._failures import (
    CancelledError,
    ClupyError,
    CpuLimitError,
    DeadlineError,
    DiskLimitError,
    EnvironmentFailedError,
    ExitError,
    MemoryLimitError,
    NodeLostError,
    NotAllowedError,
    QuotaError,
    RefusedError,
    ResultPicklingError,
    SignalError,
    SyscallRefusedError,
    TimeLimitError,
)


def failure_of(outcome: Mapping[str, Any], name: str, node: Optional[str], unit: Optional[str],
               task: str) -> ClupyError:
    """Returns the exception for every kind of outcome but `value` and `exception`. name: the function's."""
    kind = outcome.get("kind")
    where: Dict[str, Any] = {"name": name, "node": node, "unit": unit, "task": task}
    if kind == "exit":
        return ExitError(_integer(outcome, "status") or 0, **where)
    if kind == "memory":
        return MemoryLimitError(_integer(outcome, "limit"), _integer(outcome, "peak"), tmp_bytes=_integer(outcome, "tmp"),
                                shm_bytes=_integer(outcome, "shm"), **where)
    if kind == "cpu-time":
        return CpuLimitError(_seconds(outcome), **where)
    if kind == "timeout":
        return TimeLimitError(_seconds(outcome), **where)
    if kind == "deadline":
        return DeadlineError(_seconds(outcome), **where)
    if kind == "disk":
        return DiskLimitError(_integer(outcome, "limit"), _integer(outcome, "used"), place=_text(outcome, "place", "/tmp"),
                              limit_files=_integer(outcome, "files_limit"), used_files=_integer(outcome, "files_used"),
                              **where)
    if kind == "syscall":
        return SyscallRefusedError(_text(outcome, "name", "?"), **where)
    if kind == "signal":
        return SignalError(_text(outcome, "name", "?"), **where)
    if kind == "cancelled":
        return CancelledError(_text(outcome, "by"), **where)
    if kind == "environment":
        return EnvironmentFailedError(_text(outcome, "log"), **where)
    if kind == "result-pickling":
        return ResultPicklingError(_text(outcome, "name", "?"), _text(outcome, "message"), call=name, node=node,
                                   unit=unit, task=task)
    if kind == "node-lost":
        return NodeLostError(node, _integer(outcome, "attempts") or 1, name=name, unit=unit, task=task)
    if kind == "refused":
        kinds: Dict[str, Type[ClupyError]] = {"not-allowed": NotAllowedError, "quota": QuotaError}
        error: ClupyError = kinds.get(_text(outcome, "reason"), RefusedError)(
            f"the cluster does not take {name}: {_text(outcome, 'message', 'no reason given')}")
    else:
        message = _text(outcome, "message")
        error = ClupyError(f"{name} ended in a way that this client does not know ({kind}){message and ': ' + message}; "
                           "a newer version of clupy may")
    error.node, error.unit, error.task = node, unit, task
    return error


def _integer(outcome: Mapping[str, Any], key: str) -> Optional[int]:
    value = outcome.get(key)
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _seconds(outcome: Mapping[str, Any]) -> Optional[float]:
    milliseconds = _integer(outcome, "limit_ms")
    return None if milliseconds is None else milliseconds / 1000


def _text(outcome: Mapping[str, Any], key: str, default: str = "") -> str:
    value = outcome.get(key)
    return value if isinstance(value, str) and value else default

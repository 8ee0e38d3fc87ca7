# SPDX-License-Identifier: Apache-2.0
"""What a running task can ask and say about itself."""

from __future__ import annotations

import math
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Optional, Tuple

if TYPE_CHECKING:
    import socket

# struct TaskMessage of agent/zygote/zygote-protocol.h.
_MESSAGE = struct.Struct("@IIdd128s")
_OP_PROGRESS = 8
_NOTE_MAX = 127  # bytes; the last one is NUL
_INTERVAL = 0.1  # seconds between two reports


@dataclass(frozen=True)
class CurrentTask:
    """The call that runs here. Ids are 32 hexadecimal digits."""

    id: str
    attempt: int  # 1 for the first
    job: str
    node: str
    owner: str
    unit: str  # the systemd scope it runs in
    cpus: int  # threads it should use

    @property
    def task_id(self) -> str:
        """The same as id."""
        return self.id


class _Reporter:
    """Sends progress to the launcher: at most ten messages a second, the last one in any case."""

    def __init__(self, control_fd: int) -> None:
        self._socket: Optional[socket.socket] = None
        self._control_fd = control_fd
        self._next = 0.0
        self._pending: Optional[bytes] = None

    def report(self, done: float, total: float, note: str) -> None:
        text = "".join(c if c.isprintable() else " " for c in note[:_NOTE_MAX]).encode("utf-8", "replace")[:_NOTE_MAX]
        text = text.decode("utf-8", "ignore").encode()  # no half a character at the end
        self._pending = _MESSAGE.pack(_OP_PROGRESS, 0, done, total, text)
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        if self._pending is None:
            return
        import socket

        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=self._control_fd)
        self._next = time.monotonic() + _INTERVAL
        try:
            self._socket.send(self._pending, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:  # full, or nobody there any more: the next one may fare better
            return
        self._pending = None


_context: Optional[Mapping[str, Any]] = None
_task: Optional[CurrentTask] = None  # made of the context when it is asked for: most tasks never do
_reporter: Optional[_Reporter] = None


def current() -> Optional[CurrentTask]:
    """The task that this code runs in, or None outside of one."""
    global _task
    if _task is None and _context is not None:
        _task = CurrentTask(
            id=_context["task"], attempt=_context["attempt"], job=_context["job"], node=_context["node"],
            owner=_context["owner"], unit=_context["unit"], cpus=_context["cpus"] or 1)
    return _task


def progress(done: float, total: Optional[float] = None, note: str = "") -> None:
    """Tells how far this task is: shown in `future.progress`, `clupyctl task show` and `top`.

    done and total are in any unit (total None: not known), note is at most 127 bytes. May be called as often as one
    likes: at most ten reports a second are sent. Does nothing outside of a task, never raises."""
    try:
        if _reporter is not None:
            numbers = _numbers(done, total)
            if numbers is not None:
                _reporter.report(numbers[0], numbers[1], str(note))
    except Exception:
        return


def _numbers(done: float, total: Optional[float]) -> Optional[Tuple[float, float]]:
    numbers = float(done), float(total or 0)
    return numbers if all(map(math.isfinite, numbers)) else None


def _begin(context: Mapping[str, Any], control_fd: int) -> None:
    """context: what clupy._task.run() gets."""
    global _context, _task, _reporter
    _context = context
    _task = None
    _reporter = _Reporter(control_fd)


def _end() -> None:
    """Sends what the rate limit has held back. The socket itself is the caller's and stays open."""
    try:
        if _reporter is not None:
            _reporter.flush()
    except Exception:
        return


def _forget() -> None:
    """After a rehearsal: outside of a task again."""
    global _context, _task, _reporter
    _context = _task = _reporter = None

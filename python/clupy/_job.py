# SPDX-License-Identifier: Apache-2.0
"""Jobs: the calls that belong together. Same client, same code, same options, open until 1 s after the last call ended."""

from __future__ import annotations

import contextvars
import secrets
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Dict, Hashable, Optional, Sequence, Type

from ._environment import Wheel
from ._streams import Blob

if TYPE_CHECKING:
    from ._client import Client

OPEN_AFTER_LAST = 1.0  # seconds
_PRUNE_ABOVE = 64


def new_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


class Job:
    """One job on the wire. Code and limits are the same for all its tasks."""

    __slots__ = ("code", "digest", "id", "message", "outstanding", "sent_on", "since", "told", "wheels")

    def __init__(self, message: Dict[str, Any], code: bytes, digest: str, wheels: Sequence[Wheel] = ()) -> None:
        self.id: str = message["id"]
        self.message = message
        self.code = Blob([code])
        self.digest = digest
        self.wheels = wheels
        self.outstanding = 0
        self.since = 0.0  # when outstanding became 0
        self.told = False  # its user, why it waits
        self.sent_on = 0  # number of the connection on which the master was told of it


class JobTable:
    """The open jobs of one client. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: Dict[Hashable, Job] = {}

    def enter(self, key: Hashable, make: Callable[[], Job]) -> Job:
        """The open job of that key, else a new one; with one more call outstanding."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None or not _is_open(job):
                if len(self._jobs) >= _PRUNE_ABOVE:
                    self._jobs = {other: held for other, held in self._jobs.items() if _is_open(held)}
                job = self._jobs[key] = make()
            job.outstanding += 1
            return job

    def leave(self, job: Job) -> None:
        """One of its calls has ended."""
        with self._lock:
            job.outstanding -= 1
            job.since = time.monotonic()


def _is_open(job: Job) -> bool:
    return job.outstanding > 0 or time.monotonic() - job.since <= OPEN_AFTER_LAST


current_scope: contextvars.ContextVar[Optional[JobScope]] = contextvars.ContextVar("clupy_job", default=None)


class JobScope:
    """`with clupy.job("grid", server_count=50):` the calls made inside are one job. See Client.job()."""

    def __init__(self, client: Client, name: str, options: Dict[str, Any]) -> None:
        self.client = client
        self.name = name
        self.options = options
        self.key = new_id()
        self._tokens: list[contextvars.Token[Optional[JobScope]]] = []

    def __enter__(self) -> JobScope:
        self._tokens.append(current_scope.set(self))
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        current_scope.reset(self._tokens.pop())

# SPDX-License-Identifier: Apache-2.0
"""The thread on which a client's callbacks run, in the order in which the calls completed."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from ._future import RemoteExecutionFuture


class CallbackThread:
    """Started when there is a first callback to run."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Optional[RemoteExecutionFuture[Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None

    def put(self, future: RemoteExecutionFuture[Any]) -> None:
        """future is completed and has callbacks."""
        self._queue.put(future)
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="clupy-callbacks", daemon=True)
                    self._thread.start()

    def finish(self, timeout: float) -> None:
        """Runs what is there, then ends; waits for that at most timeout seconds. Another put() starts it again."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            self._queue.put(None)
            thread.join(timeout)

    @property
    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self) -> None:
        while True:
            future = self._queue.get()
            if future is None:
                return
            future._run_callbacks()
            del future

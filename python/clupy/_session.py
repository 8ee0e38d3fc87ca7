# SPDX-License-Identifier: Apache-2.0
"""A client's side of a session: its I/O thread, the calls that have no result yet, and the connection, which is made
again when it breaks.

All that is not behind a lock here belongs to the I/O thread; others hand it work with _post()."""

from __future__ import annotations

import collections
import contextlib
import heapq
import json
import logging
import os
import random
import select
import threading
import time
from typing import Any, Callable, Deque, Dict, Iterable, List, Mapping, Optional, Set, Tuple, Union

from ._config import Master
from ._connection import Connection, DialError, LostError, RefusedHelloError, dial, refused
from ._current import current
from ._environment import Manifest, Wheel
from ._failures import ClupyError, ConnectError
from ._frame import INLINE_MAX, JSON_MAX, PAYLOAD_COUNT_MAX, PAYLOAD_TOTAL_MAX, Buffer, Frame, FrameType
from ._future import RemoteExecutionFuture
from ._job import Job, JobTable, new_id
from ._libraries import compare, warn
from ._queries import Queries, Query, answer_words
from ._streams import RESULT_WINDOW, Blob, IncomingStream, OutgoingStreams

log = logging.getLogger("clupy")

CONNECT_TIMEOUT = 4.5  # seconds; what a first call waits for an answer
_RECONNECT_FIRST = 0.05
_RECONNECT_MAX = 3.0
_WARN_AFTER = 2.0  # seconds without a connection
_FAREWELL = 2.0  # seconds for the goodbye to get out
_DEFAULT_WINDOW = 20000
_SUBMIT_JSON_MAX = JSON_MAX - (64 << 10)
_IDS_PER_FRAME = 10000
_ACKS_WAIT = 0.001  # seconds
_ACKS_MAX = 256  # that wait
_FETCHES_AT_ONCE = 8
_FETCH_TRIES = 6
_TASK_JSON = 220  # bytes that a task takes in SUBMIT, generously


class Task:
    """One call, from its submission to the arrival of its result."""

    __slots__ = ("attached", "attempts", "blob", "cancelled", "deadline", "detached", "fetch", "fetch_tries", "future",
                 "id", "job", "kept", "limit_ms", "result", "sent_on")

    def __init__(self, task_id: str, future: RemoteExecutionFuture[Any], job: Optional[Job], blob: Optional[Blob],
                 deadline: Optional[float] = None, detached: bool = False) -> None:
        self.id = task_id
        self.future = future
        self.job = job
        self.blob = blob
        self.limit_ms = 0 if deadline is None else round(deadline * 1000)
        self.deadline = None if deadline is None else time.monotonic() + deadline
        self.detached = detached
        self.attached = job is None  # submitted by another client: clupy.attach()
        self.kept = self.attached  # the master has all of it on its disk: it outlives this session
        self.attempts = 0
        self.sent_on = 0  # number of the connection it was sent on last, 0: never
        self.cancelled = False  # here; the master may not know yet
        self.result: Optional[Mapping[str, Any]] = None  # while its payload is fetched
        self.fetch: Optional[IncomingStream] = None
        self.fetch_tries = 0


class Session:
    """Made once per client and process. Starts its thread with the first call."""

    def __init__(self, master: Master, manifest: Manifest) -> None:
        self._master = master
        self._manifest = manifest
        self._jobs = JobTable()
        self._start_lock = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._up = False
        self._welcomed: Optional[threading.Event] = None
        self._start_error: Optional[ClupyError] = None
        self._differences = ""  # of the cluster's libraries and those here, to be told to the user
        self._inbox: Deque[Tuple[Callable[..., None], Tuple[Any, ...]]] = collections.deque()
        self._awake = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._number = 0  # of the connection, never used twice
        self._reset()

    def _reset(self) -> None:
        self._key = new_id()
        self._connection: Optional[Connection] = None
        self._window = _DEFAULT_WINDOW
        self._tasks: Dict[str, Task] = {}
        self._waiting: Deque[Task] = collections.deque()
        self._in_flight = 0
        self._acks: List[str] = []
        self._acks_since = 0.0  # since when the first of them waits, 0: not yet noted
        self._cancels: List[str] = []
        self._codes: Dict[str, Job] = {}
        self._wheels: Dict[str, Wheel] = {}
        self._queries = Queries()
        self._stream_number = -1
        self._incoming: Dict[int, Task] = {}
        self._fetch_waiting: Deque[Task] = collections.deque()
        self._outgoing = OutgoingStreams()
        self._timers: List[Tuple[float, int, Callable[..., None], Tuple[Any, ...]]] = []
        self._timer_sequence = 0
        self._settling: List[Tuple[Set[str], threading.Event]] = []
        self._keeping: List[Tuple[Set[str], threading.Event]] = []
        self._stopping = False
        self._stopped_at = 0.0
        self._said_goodbye = False

    # What other threads call.

    @property
    def jobs(self) -> JobTable:
        return self._jobs

    @property
    def outstanding(self) -> List[RemoteExecutionFuture[Any]]:
        """The futures without result, from any thread."""
        return [task.future for task in self._unfinished()]

    @property
    def detached(self) -> int:
        """How many of the outstanding calls outlive this client, from any thread."""
        return sum(task.detached or task.attached for task in self._unfinished())

    def _unfinished(self) -> List[Task]:
        while True:
            with contextlib.suppress(RuntimeError):  # the table changed meanwhile
                known = {task.id: task for task in list(self._tasks.values())}
                for function, arguments in list(self._inbox):
                    if function == self._on_submit:
                        known[arguments[0].id] = arguments[0]
                return [task for task in known.values() if not task.cancelled and not task.future._ended]

    @property
    def running(self) -> bool:
        return self._up

    def ensure(self) -> None:
        """Returns when there has been a connection. Raises ConnectError, VersionMismatchError and the like within
        CONNECT_TIMEOUT when the first one cannot be made."""
        if self._up:
            return
        with self._start_lock:
            if self._up:
                return
            if self._thread is None or not self._thread.is_alive() or self._start_error is not None:
                if self._thread is not None:
                    self._thread.join(_FAREWELL)
                self._welcomed = threading.Event()
                self._start_error = None
                self._reset()
                self._thread = threading.Thread(target=self._run, name="clupy-io", daemon=True)
                self._thread.start()
            welcomed = self._welcomed
        assert welcomed is not None
        if not welcomed.wait(CONNECT_TIMEOUT + 0.3):
            raise ConnectError([(host, port, "no answer in time") for host, port in self._master.addresses],
                               source=self._master.source)
        if self._start_error is not None:
            # How the other thread came to it is nothing to the caller.
            raise self._start_error.with_traceback(None)
        words, self._differences = self._differences, ""
        if words:
            warn(words)

    def submit(self, task: Task) -> None:
        self._post(self._on_submit, task)
        if not self._up:
            self.ensure()

    def cancel(self, task_id: str) -> None:
        self._post(self._on_cancel, task_id)

    def settled(self, ids: Iterable[str]) -> threading.Event:
        """The event is set when the master has said what became of these (cancelled) tasks."""
        event = threading.Event()
        self._post(self._on_settle, set(ids), event)
        return event

    def ask(self, verb: str, arguments: Mapping[str, Any]) -> Query:
        asked = Query(verb, arguments)
        self._post(self._on_query, asked)
        return asked

    def end_query(self, asked: Query) -> None:
        self._post(self._on_query_end, asked)

    def keep(self, timeout: float) -> List[Task]:
        """For whoever is about to stop(): waits until the master keeps the detached calls, or has ended them, timeout
        seconds at most, or until Ctrl-C. Returns them; `kept` says of each whether it goes on without this client."""
        tasks = [task for task in self._unfinished() if task.detached]
        thread = self._thread
        if tasks and thread is not None and thread.is_alive():
            event = threading.Event()
            self._post(self._on_keep, tasks, event)
            with contextlib.suppress(KeyboardInterrupt):
                event.wait(timeout)
        return tasks

    def stop(self) -> None:
        """Says goodbye; what is outstanding is cancelled, except for detached calls. Waits for it _FAREWELL long."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            return
        self._post(self._on_stop)
        thread.join(_FAREWELL + 0.5)

    def abandon(self) -> None:
        """In a forked child: closes what was inherited, without a word to the master."""
        self._close_pipe()
        connection = self._connection
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        self._close_pipe()

    def _close_pipe(self) -> None:
        for descriptor in (self._wake_read, self._wake_write):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake_read = self._wake_write = -1

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        self._inbox.append((function, arguments))
        if not self._awake:
            self._awake = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"!")

    # The I/O thread from here on.

    def _run(self) -> None:
        failure: ClupyError
        try:
            self._converse()
            failure = ClupyError("the connection was shut down here")
        except ClupyError as error:
            failure = error
        except BaseException as error:  # a fault of this library must not leave futures waiting for ever
            log.exception("clupy: the I/O thread failed")
            failure = ClupyError(f"clupy failed in this process ({type(error).__name__}: {error}); please report it")
        with self._start_lock:
            self._up = False
            self._start_error = failure
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._drain()
        for task in list(self._tasks.values()):
            self._end_locally(task, failure)
        self._queries.fail(str(failure))
        for _, event in self._settling + self._keeping:
            event.set()
        if self._welcomed is not None:
            self._welcomed.set()

    def _converse(self) -> None:
        """Until stop(). Raises ClupyError when there is no (more) use in trying."""
        why = ""
        short = 0  # connections in a row that ended as soon as they were made
        while not self._stopping:
            connection = self._connect(why)
            if connection is None:
                return
            self._connection = connection
            since = time.monotonic()
            try:
                self._serve(connection)
            except LostError as error:
                why = str(error)
                short = short + 1 if time.monotonic() - since < 1 else 0
            except RefusedHelloError as error:
                raise error.failure from None
            finally:
                self._connection = None
                connection.close()
            if short > 1:  # whatever ends connections at once is not asked for more of them at full speed
                self._pause(min(_RECONNECT_FIRST * 2 ** short, _RECONNECT_MAX))

    def _connect(self, why: str) -> Optional[Connection]:
        delay = _RECONNECT_FIRST
        since = time.monotonic()
        warned = ""
        while not self._stopping:
            try:
                connection = dial(self._master, self._key, CONNECT_TIMEOUT)
            except RefusedHelloError as error:
                raise error.failure from None
            except DialError as error:
                if not self._up:
                    raise (error.failure
                           or ConnectError(error.tried, source=self._master.source, in_task=current() is not None,
                                           advice=error.advice)) from None
                now = str(error)
                if warned != now and time.monotonic() - since > _WARN_AFTER:
                    warned = now
                    log.warning("clupy: the connection to %s was lost (%s) and cannot be made again (%s); still trying, %d "
                                "calls wait", self._master.url, why or "no reason known", now, len(self._tasks))
                self._pause(delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, _RECONNECT_MAX)
                continue
            if warned:
                log.warning("clupy: connected to %s again", self._master.url)
            return connection
        return None

    def _pause(self, seconds: float) -> None:
        """Waits without a connection, but hears what other threads want."""
        until = time.monotonic() + seconds
        while not self._stopping:
            self._drain()
            self._run_timers()
            left = until - time.monotonic()
            if left <= 0:
                return
            select.select([self._wake_read], [], [], min(left, self._until_timer()))
            self._hear()

    def _serve(self, connection: Connection) -> None:
        self._welcome(connection)
        for frame in connection.receive():  # what came together with the welcome
            self._handle(connection, frame)
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(connection, select.POLLIN)
        writing = False
        while True:
            self._drain()
            self._run_timers()
            self._send_due(connection)
            written = connection.flush()
            while written and self._outgoing.serve(connection):
                written = connection.flush()
            if self._stopping and ((written and self._said_goodbye) or time.monotonic() > self._stopped_at + _FAREWELL):
                connection.part(self._stopped_at + _FAREWELL)
                return
            if writing == written:
                writing = not written
                poll.modify(connection, select.POLLIN | select.POLLOUT if writing else select.POLLIN)
            timeout = min(self._until_timer(), _ACKS_WAIT if self._acks else _FAREWELL if self._stopping else 3600.0)
            for descriptor, _ in poll.poll(timeout * 1000):
                if descriptor == self._wake_read:
                    self._hear()
                else:
                    for frame in connection.receive():
                        self._handle(connection, frame)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 64)
        # In this order: who posts after this line writes again.
        self._awake = False

    def _drain(self) -> None:
        while self._inbox:
            function, arguments = self._inbox.popleft()
            function(*arguments)

    def _at(self, when: float, function: Callable[..., None], *arguments: Any) -> None:
        self._timer_sequence += 1
        heapq.heappush(self._timers, (when, self._timer_sequence, function, arguments))

    def _until_timer(self) -> float:
        return max(self._timers[0][0] - time.monotonic(), 0.0) + 0.001 if self._timers else 3600.0

    def _run_timers(self) -> None:
        while self._timers and self._timers[0][0] <= time.monotonic():
            _, _, function, arguments = heapq.heappop(self._timers)
            function(*arguments)

    def _welcome(self, connection: Connection) -> None:
        """On each new connection: everything without result again, in order; then, that this was all."""
        welcome = connection.welcome
        try:
            words = compare(self._manifest, welcome.get("libraries"), may_raise=not self._up)
        except ClupyError:
            connection.send(FrameType.GOODBYE, {})
            connection.flush()
            raise
        if words and self._up:
            log.warning("clupy: %s", words)
        elif words:
            self._differences = words
        self._number += 1
        window = welcome.get("task_window", _DEFAULT_WINDOW)
        self._window = window if isinstance(window, int) and window > 0 else _DEFAULT_WINDOW
        self._codes.clear()
        self._wheels.clear()
        self._acks.clear()
        self._acks_since = 0.0
        self._cancels.clear()
        self._outgoing.clear()
        self._incoming.clear()
        self._fetch_waiting.clear()
        self._queries.again(connection)
        again: List[Task] = []
        new: Deque[Task] = collections.deque()
        for task in self._tasks.values():
            # A result whose payload had not come is repeated by the master.
            task.fetch = task.result = None
            if task.cancelled:
                self._cancels.append(task.id)
            elif task.attached:
                self._send_attach(task)
            elif task.sent_on:
                again.append(task)
            else:
                new.append(task)
        self._in_flight = len(again)
        self._waiting = new
        self._submit(connection, again)
        connection.send(FrameType.SUBMIT, {"jobs": [], "tasks": [], "synced": True})
        if not self._up:
            self._up = True
            assert self._welcomed is not None
            self._welcomed.set()

    def _send_due(self, connection: Connection) -> None:
        room = self._window - self._in_flight
        if self._waiting and room > 0:
            batch: List[Task] = []
            while self._waiting and len(batch) < room:
                task = self._waiting.popleft()
                if not task.cancelled:
                    batch.append(task)
            self._in_flight += len(batch)
            self._submit(connection, batch)
        for frame_type, ids in ((FrameType.CANCEL, self._cancels), (FrameType.ACK, self._acks)):
            if ids is self._acks and not self._acks_due(connection):
                continue
            for start in range(0, len(ids), _IDS_PER_FRAME):
                connection.send(frame_type, {"tasks": ids[start:start + _IDS_PER_FRAME]})
            ids.clear()
        if self._stopping and not self._waiting and not self._said_goodbye:
            self._said_goodbye = True
            connection.send(FrameType.GOODBYE, {})

    def _acks_due(self, connection: Connection) -> bool:
        """Whoever waits for a result goes on first, and what it sends then takes the acknowledgement along: they wait for
        something to be sent, or for a moment."""
        if not self._acks:
            return False
        now = time.monotonic()
        due = bool(connection.queued or self._stopping or len(self._acks) >= _ACKS_MAX or
                   (self._acks_since and now >= self._acks_since + _ACKS_WAIT))
        self._acks_since = 0.0 if due else self._acks_since or now
        return due

    def _submit(self, connection: Connection, batch: Iterable[Task]) -> None:
        jobs: List[Dict[str, Any]] = []
        tasks: List[Dict[str, Any]] = []
        payloads: List[Buffer] = []
        text_size = payload_size = 0
        for task in batch:
            job, blob = task.job, task.blob
            assert job is not None and blob is not None
            inline = blob.size <= INLINE_MAX
            job_size = len(json.dumps(job.message)) if job.sent_on != self._number else 0
            if (text_size + _TASK_JSON + job_size > _SUBMIT_JSON_MAX or len(payloads) == PAYLOAD_COUNT_MAX
                    or payload_size + (blob.size if inline else 0) > PAYLOAD_TOTAL_MAX):
                connection.send(FrameType.SUBMIT, {"jobs": jobs, "tasks": tasks, "synced": False}, payloads)
                jobs, tasks, payloads, text_size, payload_size = [], [], [], 0, 0
            if job_size:
                job.sent_on = self._number
                self._codes[job.digest] = job
                self._wheels.update((wheel.digest, wheel) for wheel in job.wheels)
                jobs.append(job.message)
            message: Dict[str, Any] = {"id": task.id, "job": job.id, "size": blob.size}
            if inline:
                message["payload"] = len(payloads)
                payloads.append(blob.joined())
                payload_size += blob.size
            if task.deadline is not None:
                message["deadline_ms"] = max(round((task.deadline - time.monotonic()) * 1000), 0)
            if task.attempts:
                message["attempts"] = task.attempts
            if task.sent_on:
                message["resubmitted"] = True
            task.sent_on = self._number
            tasks.append(message)
            text_size += _TASK_JSON + job_size
        if tasks:
            connection.send(FrameType.SUBMIT, {"jobs": jobs, "tasks": tasks, "synced": False}, payloads)

    # From other threads.

    def _on_submit(self, task: Task) -> None:
        if task.future.done():  # cancelled before it got here
            self._forget(task)
            return
        self._tasks[task.id] = task
        if task.attached:
            self._send_attach(task)
            return
        self._waiting.append(task)
        if task.deadline is not None:
            self._at(task.deadline, self._on_deadline, task)

    def _on_cancel(self, task_id: str) -> None:
        task = self._tasks.get(task_id)
        if task is None or task.cancelled:
            return
        task.cancelled = True
        if not task.sent_on and not task.attached:
            self._forget(task)
            return
        self._drop_fetch(task)
        self._cancels.append(task.id)

    def _on_settle(self, ids: Set[str], event: threading.Event) -> None:
        ids &= self._tasks.keys()
        if ids:
            self._settling.append((ids, event))
        else:
            event.set()

    def _on_keep(self, tasks: List[Task], event: threading.Event) -> None:
        missing = {task.id for task in tasks if not task.kept and task.id in self._tasks}
        if missing:
            self._keeping.append((missing, event))
            self._waiting = collections.deque(sorted(self._waiting, key=lambda task: not task.detached))
        else:
            event.set()

    def _on_stop(self) -> None:
        self._stopping = True
        self._stopped_at = time.monotonic()
        self._waiting = collections.deque(task for task in self._waiting if task.detached)

    def _on_deadline(self, task: Task) -> None:
        """The master watches deadlines of what it has; this is for what it has not, or cannot tell us of."""
        if self._tasks.get(task.id) is not task or task.cancelled or task.result is not None:
            return
        if task.sent_on == self._number and self._connection is not None:
            return
        task.future._complete({"outcome": {"kind": "deadline", "limit_ms": task.limit_ms}}, None)
        self._on_cancel(task.id)

    # From the master.

    def _handle(self, connection: Connection, frame: Frame) -> None:
        try:
            if frame.type == FrameType.RESULT:
                self._on_results(connection, frame)
            elif frame.type == FrameType.STATUS:
                for status in frame.message["tasks"]:
                    self._on_status(status)
            elif frame.type == FrameType.DATA:
                self._on_data(connection, frame)
            elif frame.type == FrameType.FETCH:
                self._on_fetch(connection, frame.message)
            elif frame.type == FrameType.CREDIT:
                self._outgoing.credit(frame.message["stream"], int(frame.message["bytes"]))
            elif frame.type == FrameType.END:
                self._on_end(connection, frame.message)
            elif frame.type == FrameType.ANSWER:
                self._on_answer(frame.message)
            elif frame.type == FrameType.REFUSED:
                refused(frame.message)
            elif frame.type == FrameType.GOODBYE:
                raise LostError("the master is going down")
            else:
                raise LostError(f"the master sent a frame of type {frame.type}, which is not for clients")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            log.debug("bad frame", exc_info=True)
            raise LostError(f"the master sent a malformed frame of type {frame.type} ({error})") from None

    def _on_status(self, status: Mapping[str, Any]) -> None:
        task = self._tasks.get(status["id"])
        if task is not None:
            attempt = status.get("attempt")
            if isinstance(attempt, int) and attempt > task.attempts:
                task.attempts = attempt
            if task.detached and status.get("state") not in (None, "waiting"):
                task.kept = True
                _strike(self._keeping, task.id)
            if not task.cancelled:
                task.future._report(status)
            why = status.get("why")
            if isinstance(why, str) and why and task.job is not None and not task.job.told:
                task.job.told = True  # once for all of its calls
                log.warning("clupy: %s waits: %s", task.job.message["name"], " ".join(why.split()))

    def _on_results(self, connection: Connection, frame: Frame) -> None:
        for result in frame.message["results"]:
            task = self._tasks.get(result["id"])
            index = result.get("payload")
            if task is None or task.cancelled:
                self._acks.append(result["id"])
                if task is not None:
                    task.future._receipt(result)
                    self._forget(task)
            elif index is not None:
                # A copy of its own, and writable: arrays in the value live in it.
                self._finish(connection, task, result, bytearray(frame.payloads[index]))
            elif result.get("size", 0) > 0:
                if task.result is not None and task.result.get("attempt") == result.get("attempt"):
                    continue
                self._drop_fetch(task)
                task.result = result
                task.fetch_tries = 0
                self._fetch_waiting.append(task)
                self._start_fetches(connection)
            else:
                self._finish(connection, task, result, None)

    def _finish(self, connection: Connection, task: Task, result: Mapping[str, Any],
                payload: Optional[Union[bytearray, Any]]) -> None:
        self._drop_fetch(task)
        self._forget(task)
        self._acks.append(task.id)
        outcome = result.get("outcome")
        if task.limit_ms and isinstance(outcome, dict) and outcome.get("kind") == "deadline":
            outcome["limit_ms"] = task.limit_ms  # the master knows only what was left of it when the call came there
        task.future._complete(result, payload)

    def _forget(self, task: Task) -> None:
        if self._tasks.pop(task.id, None) is not None and task.sent_on and task.sent_on == self._number:
            self._in_flight -= 1
        if task.job is not None:
            self._jobs.leave(task.job)
            task.job = None
        _strike(self._settling, task.id)
        _strike(self._keeping, task.id)

    def _end_locally(self, task: Task, failure: ClupyError) -> None:
        """The session is over."""
        if task.detached and task.kept and self._stopping:
            failure = ClupyError(f"the connection was shut down; the detached call goes on: clupy.attach(\"{task.id}\") "
                                 "gets it back")
        elif task.detached and task.sent_on and self._stopping:
            failure = ClupyError("the connection was shut down before the master said that it keeps the detached call, "
                                 f"which may be lost: clupy.attach(\"{task.id}\") tells")
        elif self._stopping:
            task.future._cancelled_here("the end of this connection")
        self._forget(task)
        task.future._fail_here(failure)

    # Results too large for a frame.

    def _start_fetches(self, connection: Connection) -> None:
        while self._fetch_waiting and len(self._incoming) < _FETCHES_AT_ONCE:
            task = self._fetch_waiting.popleft()
            result = task.result
            if result is None or task.fetch is not None or self._tasks.get(task.id) is not task:
                continue
            self._stream_number += 2
            try:
                task.fetch = IncomingStream(self._stream_number, int(result["size"]))
            except (MemoryError, OSError, OverflowError) as error:
                self._give_up(task, result, f"the result takes {result['size']} bytes, more than this process can get "
                                            f"({error}): return less")
                continue
            self._incoming[self._stream_number] = task
            connection.send(FrameType.FETCH, {
                "stream": self._stream_number, "task": task.id, "attempt": result.get("attempt", 1), "what": "result",
                "size": result["size"], "window": RESULT_WINDOW})

    def _on_data(self, connection: Connection, frame: Frame) -> None:
        task = self._incoming.get(frame.message["stream"])
        if task is None or task.fetch is None:
            return
        for payload in frame.payloads:
            credit = task.fetch.take(payload)
            if credit and not task.fetch.complete:
                connection.send(FrameType.CREDIT, {"stream": task.fetch.number, "bytes": credit})

    def _on_end(self, connection: Connection, message: Mapping[str, Any]) -> None:
        number = message["stream"]
        self._outgoing.end(number)
        task = self._incoming.pop(number, None)
        if task is None or task.fetch is None or task.result is None:
            return
        stream, task.fetch = task.fetch, None
        if stream.complete and not message.get("error"):
            self._finish(connection, task, task.result, stream.buffer)
        else:
            task.fetch_tries += 1
            if task.fetch_tries < _FETCH_TRIES:
                # Its node may be away for a moment; if it is lost, the master sends another result.
                self._at(time.monotonic() + 0.5 * task.fetch_tries, self._fetch_again, task, self._number)
            else:
                words = message.get("message") or message.get("error") or "it ended early"
                self._give_up(task, task.result,
                              f"the result of task {task.id[:12]} ({stream.size} bytes) could not be fetched from "
                              f"{task.result.get('node') or 'its node'}: {words}; call again")
        self._start_fetches(connection)

    def _give_up(self, task: Task, result: Mapping[str, Any], sentence: str) -> None:
        self._forget(task)
        self._acks.append(task.id)
        task.future._receipt(result)
        task.future._fail_here(ClupyError(sentence))

    def _fetch_again(self, task: Task, number: int) -> None:
        if number == self._number and self._connection is not None and task.result is not None and task.fetch is None:
            self._fetch_waiting.append(task)
            self._start_fetches(self._connection)

    def _drop_fetch(self, task: Task) -> None:
        stream, task.fetch, task.result = task.fetch, None, None
        if stream is not None and self._incoming.pop(stream.number, None) is not None and self._connection is not None:
            self._connection.send(FrameType.END, {"stream": stream.number})
            self._start_fetches(self._connection)

    # Arguments and code that the master asks for.

    def _on_fetch(self, connection: Connection, message: Mapping[str, Any]) -> None:
        number, what = message["stream"], message["what"]
        blob: Union[Blob, Wheel, None] = None
        if what == "wheel":
            blob = self._wheels.get(message["code"])
        elif what == "code":
            job = self._codes.get(message["code"])
            blob = job.code if job is not None else None
        elif what == "args":
            task = self._tasks.get(message["task"])
            blob = task.blob if task is not None else None
        if blob is None:
            connection.send(FrameType.END, {"stream": number, "error": "gone", "message": "the client has it no more"})
        else:
            self._outgoing.begin(number, blob, int(message["window"]))

    # Queries.

    def _on_query(self, asked: Query) -> None:
        self._queries.ask(asked, self._connection)

    def _on_query_end(self, asked: Query) -> None:
        self._queries.end(asked, self._connection)

    def _on_answer(self, message: Mapping[str, Any]) -> None:
        asked = self._queries.answered(message)
        if asked is not None and asked.verb == "attach":
            self._on_attached(asked, message.get("result") or {}, None if message["ok"] else answer_words(message))

    def _send_attach(self, task: Task) -> None:
        self._on_query(Query("attach", {"id": task.id}))

    def _on_attached(self, asked: Query, result: Mapping[str, Any], error: Optional[str]) -> None:
        task = self._tasks.get(asked.arguments["id"])
        if task is None:
            return
        if error is None:
            task.sent_on = task.sent_on or -1
            task.future._report(result)
            task.future._attached.set()
        else:
            self._forget(task)
            task.future._fail_here(ClupyError(f"task {task.id} cannot be attached to: {error}"))
            task.future._attached.set()


def _strike(lists: List[Tuple[Set[str], threading.Event]], task_id: str) -> None:
    """This task is not waited for any more; whoever waits for nothing else is told."""
    for entry in lists[:]:
        entry[0].discard(task_id)
        if not entry[0]:
            lists.remove(entry)
            entry[1].set()

# SPDX-License-Identifier: Apache-2.0
"""One TCP connection to a master: dialling and hello (blocking, bounded), then frames without blocking."""

from __future__ import annotations

import collections
import contextlib
import getpass
import os
import platform
import select
import socket
import time
from typing import Any, Deque, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ._config import Address
from ._failures import ClupyError, NotAllowedError, VersionMismatchError
from ._frame import PROTOCOL, Buffer, Decoder, Frame, FrameError, FrameType, encode
from ._version import VERSION

_IOV_MAX = 512
_WRITE_MAX = 1 << 20
_READ_ROUNDS = 16
# Answers after which the same address, or the next one, may do better later.
_PASSING_REFUSALS = ("busy", "shutting-down", "stale")


class LostError(Exception):
    """The connection has ended; the argument says how, for people."""


class DialError(Exception):
    """No address led to a master. tried: (host, port, what happened) each."""

    def __init__(self, tried: Sequence[Tuple[str, int, str]]) -> None:
        super().__init__(tried)
        self.tried = tuple(tried)


class RefusedHelloError(Exception):
    """A master does not want this client, and asking again is of no use. failure: what calls fail with."""

    def __init__(self, failure: ClupyError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Connection:
    """After dial(): frames are queued with send(), written by flush(), read by receive()."""

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self._socket = sock
        self._decoder = Decoder()
        self._queue: Deque[Buffer] = collections.deque()
        self.queued = 0  # bytes that wait to be written
        self.address = address
        self.welcome: Dict[str, Any] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame_type: int, message: Mapping[str, Any], payloads: Sequence[Buffer] = ()) -> None:
        self.send_encoded(encode(frame_type, message, payloads))

    def send_encoded(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            size = len(buffer)
            if size:
                self.queued += size
                self._queue.append(buffer)

    def flush(self) -> bool:
        """Writes what the socket takes. Returns whether everything is written. Raises LostError."""
        queue = self._queue
        while queue:
            batch: List[Buffer] = []
            size = 0
            for buffer in queue:
                batch.append(buffer)
                size += len(buffer)
                if len(batch) == _IOV_MAX or size >= _WRITE_MAX:
                    break
            try:
                written = self._socket.sendmsg(batch)
            except BlockingIOError:
                return False
            except OSError as error:
                raise LostError(_reason(error)) from None
            self.queued -= written
            while written:
                first = queue[0]
                if len(first) > written:
                    queue[0] = memoryview(first)[written:]
                    break
                written -= len(first)
                queue.popleft()
        return True

    def receive(self) -> Iterator[Frame]:
        """The frames that are there; a frame's payloads are valid until the next one is asked for. Raises LostError."""
        for _ in range(_READ_ROUNDS):
            # First what is left from before: the hello may have stopped in the middle of what came.
            try:
                while True:
                    frame = self._decoder.next()
                    if frame is None:
                        break
                    yield frame
            except FrameError as error:
                raise LostError(str(error)) from None
            try:
                size = self._socket.recv_into(self._decoder.room())
            except BlockingIOError:
                return
            except OSError as error:
                raise LostError(_reason(error)) from None
            if size == 0:
                raise LostError("the master closed the connection")
            self._decoder.received(size)
        while True:
            try:
                frame = self._decoder.next()
            except FrameError as error:
                raise LostError(str(error)) from None
            if frame is None:
                return
            yield frame

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def hello(self, session: str, deadline: float) -> None:
        """Says hello and waits for the welcome until deadline (monotonic seconds).

        Raises LostError when the master does not answer or has passing trouble, RefusedHelloError when it refuses."""
        self.send(FrameType.HELLO, hello_message(session))
        while True:
            done = self.flush()
            left = deadline - time.monotonic()
            poll = select.poll()
            poll.register(self._socket, select.POLLIN if done else select.POLLIN | select.POLLOUT)
            if left <= 0 or not poll.poll(left * 1000):
                raise LostError("something accepts connections there but does not answer as a CluPy master does")
            for frame in self.receive():
                if frame.type == FrameType.WELCOME:
                    self.welcome = frame.message
                    return
                if frame.type == FrameType.REFUSED:
                    refused(frame.message)
                raise LostError(f"the master answered the hello with a frame of type {frame.type}")


def refused(message: Mapping[str, Any]) -> None:
    """Always raises: LostError for passing trouble, RefusedHelloError otherwise."""
    code = str(message.get("error", ""))
    words = str(message.get("message") or code or "no reason given")
    if code in _PASSING_REFUSALS:
        raise LostError(f"the master refuses: {words}")
    if code == "version-mismatch":
        raise RefusedHelloError(VersionMismatchError(str(message.get("client", platform.python_version())),
                                                     str(message.get("server", "another version"))))
    if code == "protocol":
        raise RefusedHelloError(VersionMismatchError(_range(message.get("client")), _range(message.get("server")),
                                                     subject="protocol version"))
    if code == "not-allowed":
        raise RefusedHelloError(NotAllowedError(f"the master does not let this user in: {words}"))
    if code == "evicted":
        raise RefusedHelloError(ClupyError("another connection with the same session key has taken this one's place: "
                                           "was this process copied? Call clupy.shutdown() and start again"))
    raise RefusedHelloError(ClupyError(f"the master refuses this client: {words}"))


def _range(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2:
        return str(value[0]) if value[0] == value[1] else f"{value[0]} to {value[1]}"
    return str(PROTOCOL if value is None else value)


def hello_message(session: str) -> Dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    return {"role": "client", "protocol": [PROTOCOL, PROTOCOL], "software": VERSION, "python": platform.python_version(),
            "session": session, "host": socket.gethostname(), "pid": os.getpid(), "user": user}


def dial(addresses: Sequence[Address], session: str, timeout: float) -> Connection:
    """Tries the addresses in turn, each of their numeric ones too, and returns a connection that has been welcomed.

    timeout: seconds in all. Raises DialError, RefusedHelloError."""
    deadline = time.monotonic() + timeout
    tried: List[Tuple[str, int, str]] = []
    for index, (host, port) in enumerate(addresses):
        # What one dead address may use up leaves something for the others.
        share = time.monotonic() + (deadline - time.monotonic()) / (len(addresses) - index)
        try:
            candidates = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            tried.append((host, port, f"no such host ({getattr(error, 'strerror', None) or error})"))
            continue
        why = "no address"
        for family, kind, protocol, _, sockaddr in candidates:
            connection: Optional[Connection] = None
            try:
                sock = _connect(family, kind, protocol, sockaddr, share)
                connection = Connection(sock, (host, port))
                connection.hello(session, share)
                return connection
            except RefusedHelloError:
                if connection is not None:
                    connection.close()
                raise
            except LostError as error:
                why = str(error)
            except OSError as error:
                why = _reason(error)
            if connection is not None:
                connection.close()
        tried.append((host, port, why))
    raise DialError(tried)


def _connect(family: int, kind: int, protocol: int, sockaddr: Any, deadline: float) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(max(deadline - time.monotonic(), 0.05))
        sock.connect(sockaddr)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A dead link shows after half a minute: clients are judged by their connection alone.
        for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30000)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    return (error.strerror or str(error) or type(error).__name__).lower()

# SPDX-License-Identifier: Apache-2.0
"""One connection to a master, over TLS, plain TCP or a UNIX socket: dialling and hello (blocking, bounded), then frames
without blocking."""

from __future__ import annotations

import collections
import contextlib
import getpass
import os
import platform
import pwd
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Deque, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from ._config import Address, Master, format_address, is_socket
from ._failures import ClupyError, ConfigurationError, NotAllowedError, VersionMismatchError
from ._frame import PROTOCOL, Buffer, Decoder, Frame, FrameError, FrameType, encode
from ._version import VERSION

if TYPE_CHECKING:
    from ._tls import Credentials, TlsLink

_IOV_MAX = 512
_WRITE_MAX = 1 << 20
_READ_ROUNDS = 16
_TLS_ADVICE = "say clupy:// instead of clupy+insecure://, and no `insecure:` in clupy.client.yaml"
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # an alert, a handshake
# Answers after which the same address, or the next one, may do better later.
_PASSING_REFUSALS = ("busy", "shutting-down", "stale")


class LostError(Exception):
    """The connection has ended, or was not made; the first argument says how, for people.

    advice: what to do, when it is not what helps against a master that is away. denied: the master does not take this
    client's certificate. final: so it is no use to ask again. silent: the other side ended it without a word."""

    def __init__(self, why: str, advice: str = "", *, denied: bool = False, final: bool = False,
                 silent: bool = False) -> None:
        super().__init__(why)
        self.advice, self.denied, self.final, self.silent = advice, denied, final, silent


class DialError(Exception):
    """No address led to a master. tried: (host, port, what happened) each. advice: as LostError's. failure: what a first
    call fails with, when it is not that nobody answers."""

    def __init__(self, tried: Sequence[Tuple[str, int, str]], advice: str, failure: Optional[ClupyError]) -> None:
        super().__init__(tried)
        self.tried = tuple(tried)
        self.advice = advice
        self.failure = failure

    def __str__(self) -> str:
        return "; ".join(f"{format_address((host, port))}: {why}" for host, port, why in self.tried)


class RefusedHelloError(Exception):
    """A master does not want this client, and asking again is of no use. failure: what calls fail with."""

    def __init__(self, failure: ClupyError) -> None:
        super().__init__(str(failure))
        self.failure = failure


class PlainLink:
    """A socket that does not block."""

    buffered = False  # whether read() has bytes that the socket does not announce
    unsent = False  # whether bytes that write() has taken have not been sent

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.more = False  # whether it is likely that read() finds more at once

    def write(self, queue: Deque[Buffer]) -> Tuple[int, bool]:
        """Takes bytes from the queue and sends them. Returns how many, and whether more would block. Raises OSError."""
        batch: List[Buffer] = []
        size = 0
        for buffer in queue:
            batch.append(buffer)
            size += len(buffer)
            if len(batch) == _IOV_MAX or size >= _WRITE_MAX:
                break
        try:
            written = left = self._socket.sendmsg(batch)
        except BlockingIOError:
            return 0, True
        while left:
            first = queue[0]
            if len(first) > left:
                queue[0] = memoryview(first)[left:]
                break
            left -= len(first)
            queue.popleft()
        return written, False

    def read(self, view: memoryview) -> int:
        """Returns how many bytes it has put into view, 0 at the end. Raises BlockingIOError, OSError."""
        size = self._socket.recv_into(view)
        self.more = size == len(view)
        return size


class Connection:
    """After dial(): frames are queued with send(), written by flush(), read by receive()."""

    def __init__(self, sock: socket.socket, address: Address, link: Union[PlainLink, TlsLink, None] = None) -> None:
        self._socket = sock
        self._link = PlainLink(sock) if link is None else link
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
        while self._queue or self._link.unsent:
            try:
                written, blocked = self._link.write(self._queue)
            except OSError as error:
                raise LostError(_reason(error), silent=True) from None
            self.queued -= written
            if blocked:
                return False
        return True

    def receive(self) -> Iterator[Frame]:
        """The frames that are there; a frame's payloads are valid until the next one is asked for. Raises LostError."""
        rounds = 0
        while True:
            # First what is left from before: the hello may have stopped in the middle of what came.
            try:
                while True:
                    frame = self._decoder.next()
                    if frame is None:
                        break
                    yield frame
            except FrameError as error:
                raise LostError(str(error)) from None
            if not self._link.buffered and ((rounds and not self._link.more) or rounds == _READ_ROUNDS):
                return
            try:
                size = self._link.read(self._decoder.room())
            except BlockingIOError:
                return
            except OSError as error:
                raise LostError(_reason(error), silent=True) from None
            if size == 0:
                raise LostError("the master closed the connection", silent=True)
            self._decoder.received(size)
            rounds = min(rounds + 1, _READ_ROUNDS)

    def part(self, deadline: float) -> None:
        """Says that nothing more comes and reads until the master closes, at most until deadline (monotonic seconds).

        One that is closed at once resets the connection as soon as the master writes, which then does not read the rest."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            while poll.poll(max(deadline - time.monotonic(), 0.0) * 1000) and self._socket.recv(_WRITE_MAX):
                pass

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def hello(self, session: str, user: str, deadline: float) -> None:
        """Says hello and waits for the welcome until deadline (monotonic seconds).

        Raises LostError when the master does not answer or has passing trouble, RefusedHelloError when it refuses."""
        self.send(FrameType.HELLO, hello_message(session, user))
        broken: Optional[LostError] = None
        while True:
            done = True
            try:
                done = self.flush()
            except LostError as error:
                broken = error  # but it may have said why before
            left = deadline - time.monotonic()
            poll = select.poll()
            poll.register(self._socket, select.POLLIN if done else select.POLLIN | select.POLLOUT)
            if not broken and not self._link.buffered and (left <= 0 or not poll.poll(left * 1000)):
                raise LostError("something accepts connections there but does not answer as a CluPy master does")
            try:
                for frame in self.receive():
                    if frame.type == FrameType.WELCOME:
                        self.welcome = frame.message
                        return
                    if frame.type == FrameType.REFUSED:
                        refused(frame.message)
                    raise LostError(f"the master answered the hello with a frame of type {frame.type}")
            except LostError as error:
                raise self._explained(error) from None
            if broken:
                raise self._explained(broken)

    def _explained(self, error: LostError) -> LostError:
        """The end of a connection that has not been welcomed, when what may be behind it is TLS."""
        if not isinstance(self._link, PlainLink) or is_socket(self.address):
            return error
        if self._decoder.rest[:2] in _TLS_RECORDS:
            return LostError("the server speaks TLS, and this client was told to speak plaintext", _TLS_ADVICE)
        if error.silent and not self._decoder.rest:
            return LostError("the server ended the connection without a word: it may speak TLS, and this client was told to "
                             "speak plaintext", _TLS_ADVICE)
        return error


def refused(message: Mapping[str, Any]) -> None:
    """Always raises: LostError for passing trouble, RefusedHelloError otherwise."""
    code = str(message.get("error", ""))
    words = str(message.get("message") or code or "no reason given")
    if code in _PASSING_REFUSALS:
        raise LostError(f"the master refuses: {words}")
    if code == "version-mismatch":
        raise RefusedHelloError(VersionMismatchError(str(message.get("client", platform.python_version())),
                                                     str(message.get("server", "another version")),
                                                     cluster=_words(message.get("cluster"))))
    if code == "protocol":
        raise RefusedHelloError(VersionMismatchError(_range(message.get("client")), _range(message.get("server")),
                                                     subject="protocol version"))
    if code == "not-allowed":
        raise RefusedHelloError(NotAllowedError(f"the master does not let this user in: {words}"))
    if code == "evicted":
        raise RefusedHelloError(ClupyError("another connection with the same session key has taken this one's place: "
                                           "was this process copied? Call clupy.shutdown() and start again"))
    raise RefusedHelloError(ClupyError(f"the master refuses this client: {words}"))


def _words(value: Any) -> List[str]:
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _range(value: Any) -> str:
    if isinstance(value, list) and len(value) == 2:
        return str(value[0]) if value[0] == value[1] else f"{value[0]} to {value[1]}"
    return str(PROTOCOL if value is None else value)


def hello_message(session: str, user: str) -> Dict[str, Any]:
    return {"role": "client", "protocol": [PROTOCOL, PROTOCOL], "software": VERSION, "python": platform.python_version(),
            "session": session, "host": socket.gethostname(), "pid": os.getpid(), "user": user}


def _system_user(checked: bool) -> str:
    """checked: the master compares it with the process's user id."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name if checked else getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def dial(master: Master, session: str, timeout: float) -> Connection:
    """Tries the addresses in turn, each of their numeric ones too, and returns a connection that has been welcomed.

    timeout: seconds in all. Raises DialError, RefusedHelloError."""
    deadline = time.monotonic() + timeout
    tried: List[Tuple[str, int, str]] = []
    advice = ""
    failure: Optional[ClupyError] = None
    for index, address in enumerate(master.addresses):
        # What one dead address may use up leaves something for the others.
        share = time.monotonic() + (deadline - time.monotonic()) / (len(master.addresses) - index)
        trouble = LostError("no address")
        try:
            candidates = _candidates(address)
        except (OSError, UnicodeError) as error:
            trouble = LostError(f"no such host ({getattr(error, 'strerror', None) or error})")
            candidates = []
        for candidate in candidates:
            try:
                return _greet(master, address, candidate, session, share)
            except LostError as error:
                trouble = error
            except ConfigurationError as error:
                trouble, failure = LostError(str(error)), error
            except OSError as error:
                trouble = LostError(_reason(error))
            if trouble.denied:
                failure = NotAllowedError(f"{trouble} (at {format_address(address)}); {trouble.advice}")
                if trouble.final:
                    raise RefusedHelloError(failure)
        tried.append((*address, str(trouble)))
        advice = trouble.advice or advice
    raise DialError(tried, advice, failure)


_Candidate = Tuple[int, int, int, Any]  # family, type, protocol, the socket's address


def _candidates(address: Address) -> List[_Candidate]:
    if is_socket(address):
        return [(socket.AF_UNIX, socket.SOCK_STREAM, 0, address[0])]
    return [(family, kind, protocol, sockaddr) for family, kind, protocol, _, sockaddr
            in socket.getaddrinfo(*address, type=socket.SOCK_STREAM)]


def _greet(master: Master, address: Address, candidate: _Candidate, session: str, deadline: float) -> Connection:
    sock = _connect(*candidate, deadline)
    try:
        if master.insecure or is_socket(address):
            connection = Connection(sock, address)
            connection.hello(session, _system_user(is_socket(address)), deadline)
        else:
            # Not before it is needed: a master that is away, or one behind a UNIX socket, needs no certificate.
            from . import _tls
            credentials: Credentials = _tls.load(master.tls)
            link = _tls.TlsLink(sock, credentials, address[0])
            link.handshake(deadline)
            connection = Connection(sock, address, link)
            connection.hello(session, credentials.user or _system_user(False), deadline)
            _tls.warn_of_expiry(credentials)
    except BaseException:
        sock.close()
        raise
    return connection


def _connect(family: int, kind: int, protocol: int, sockaddr: Any, deadline: float) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.settimeout(max(deadline - time.monotonic(), 0.05))
        sock.connect(sockaddr)
        sock.setblocking(False)
        if family == socket.AF_UNIX:
            return sock
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
    if isinstance(error, FileNotFoundError):
        return "there is no such socket: no master runs on this machine"
    return (error.strerror or str(error) or type(error).__name__).lower()

# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 with certificates on both sides, over a socket that does not block: the files, the handshake, the records,
and a sentence for each way in which it can fail. Loaded with the first connection that needs it."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import ssl
import stat
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Deque, List, NamedTuple, Optional, Set, Tuple

from . import _config
from ._config import TlsFile, TlsFiles
from ._connection import LostError
from ._failures import ConfigurationError
from ._frame import Buffer
from ._x509 import SCHEME, Certificate, read_certificate

log = logging.getLogger("clupy")

MASTER_NAME = "clupy:master"
_RAW_SIZE = 256 << 10
_CHUNK = 64 << 10  # bytes; smaller buffers are joined up to this, larger ones are encrypted from where they are
_CHUNK_MAX = 256 << 10
_FILE_MAX = 1 << 20
_EXPIRES_SOON = timedelta(days=30)
_RECORD_KINDS = (0x15, 0x16)  # what a TLS server's first byte can be: an alert, a handshake

# X509_V_ERR_…
_NOT_YET_VALID, _EXPIRED, _REVOKED, _PURPOSE, _HOST, _ADDRESS = 9, 10, 23, 26, 62, 64
_UNKNOWN_AUTHORITY = (2, 7, 18, 19, 20, 21, 27, 30)


class Credentials(NamedTuple):
    """What was read. user: the name in the certificate, None when it is none of a user."""

    context: ssl.SSLContext
    certificate: TlsFile
    authority: TlsFile
    content: Certificate

    @property
    def user(self) -> Optional[str]:
        names = [name.split(":", 2) for name in self.content.names]
        if len(names) == 1 and len(names[0]) == 3 and names[0][1] in ("user", "admin"):
            return names[0][2]
        return None

    @property
    def named(self) -> str:
        """For sentences."""
        return f"this client's certificate {self.certificate.path} ({', '.join(self.content.names) or 'of nobody'})"


# The files. They are read for each connection: a renewed certificate needs no restart.

def load(files: TlsFiles) -> Credentials:
    """Raises ConfigurationError, which names the file, where it was named, what is wrong with it and what to do."""
    authority = files.authority or _usual("ca.crt", "ca.crt")
    certificate = files.certificate or _usual("user.crt", "user.crt")
    key = files.key or _usual("user.key", "user.crt")
    text = _read(certificate, "certificate", "ask the cluster's administrator for one (clupyctl pki issue user NAME), or, "
                 "on the master's own machine, use unix:/run/clupy/master.sock, which needs none")
    try:
        content = read_certificate(text)
    except ValueError as error:
        raise _wrong(certificate, f"holds no certificate: {error}") from None
    _read(authority, "authority", "copy ca.crt from the master, where it is /etc/clupy/pki/ca.crt")
    _check_key(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_verify_locations(cafile=authority.path)
    except (OSError, ssl.SSLError) as error:
        raise _wrong(authority, f"holds no certificate of an authority ({_words(error)})") from None
    try:
        context.load_cert_chain(certificate.path, key.path, lambda: b"")
    except (OSError, ssl.SSLError) as error:
        if _has(error, "KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise _wrong(key, f"is not the key of the certificate {certificate.path}: give the two that belong "
                              "together") from None
        raise _wrong(key, f"holds no key that can be used without a passphrase ({_words(error)})") from None
    return Credentials(context, certificate, authority, content)


_warned: Set[Tuple[str, datetime]] = set()


def warn_of_expiry(credentials: Credentials) -> None:
    """Once for each certificate, where it ends soon. What logs nothing otherwise prints it on stderr."""
    path, end = credentials.certificate.path, credentials.content.not_after
    if end - datetime.now(timezone.utc) > _EXPIRES_SOON or (path, end) in _warned:
        return
    _warned.add((path, end))
    log.warning("clupy: %s expires on %s; renew it in place: clupyctl pki renew", credentials.named, _date(end))


def _usual(name: str, marker: str) -> TlsFile:
    """The user's own file where the marker is (key and certificate are taken from one folder), else the system's."""
    own = _config.user_folder()
    folder = own if os.path.exists(os.path.join(own, marker)) else _config.SYSTEM_FOLDER
    if not os.path.exists(os.path.join(folder, marker)):
        folder = own
    return TlsFile(os.path.join(folder, name), "")


def _wrong(file: TlsFile, what: str) -> ConfigurationError:
    return ConfigurationError(f"{file.source}: {file.path} {what}" if file.source else f"{file.path} {what}")


def _read(file: TlsFile, kind: str, advice: str) -> str:
    try:
        with open(file.path, encoding="ascii", errors="replace") as opened:
            return opened.read(_FILE_MAX)
    except FileNotFoundError:
        if file.source:
            raise _wrong(file, "does not exist") from None
        other = Path(_config.SYSTEM_FOLDER, os.path.basename(file.path))
        raise ConfigurationError(f"TLS needs this user's {kind}, and there is neither {file.path} nor {other}: "
                                 f"{advice}") from None
    except OSError as error:
        raise _wrong(file, f"cannot be read: {error.strerror}") from None


def _check_key(file: TlsFile) -> None:
    _read(file, "key", "it belongs beside its certificate")
    status = os.stat(file.path)
    if not stat.S_ISREG(status.st_mode):
        raise _wrong(file, "is no file")
    if status.st_mode & 0o077:
        raise _wrong(file, f"can be read or changed by others (mode {stat.S_IMODE(status.st_mode):04o}), so it may be no "
                           f"secret any more: chmod 600 {file.path}, and have the certificate revoked if it was seen")


# The connection.

class TlsLink:
    """The encrypted side of a connection; the same methods as its plain one. The socket does not block."""

    def __init__(self, sock: socket.socket, credentials: Credentials, host: str) -> None:
        self._socket = sock
        self._credentials = credentials
        self._host = host.partition("%")[0]  # no certificate names an interface
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = credentials.context.wrap_bio(self._incoming, self._outgoing, server_hostname=self._host)
        self._raw = bytearray(_RAW_SIZE)
        self._unsent = memoryview(b"")  # encrypted
        self._ended = False
        self.more = False

    @property
    def buffered(self) -> bool:
        """Whether read() has bytes that the socket does not announce."""
        return bool(self._incoming.pending or self._ssl.pending())

    @property
    def unsent(self) -> bool:
        return bool(self._unsent or self._outgoing.pending)

    def handshake(self, deadline: float) -> None:
        """Until deadline (monotonic seconds). Raises LostError."""
        first = True
        while True:
            try:
                self._ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange(deadline, first)
                first = False
            except ssl.SSLError as error:
                self._say_last()
                raise self._failure(error) from None
        names = _uris(self._ssl.getpeercert())
        if names != [MASTER_NAME]:
            raise LostError(f"the server there is no master: its certificate is of {', '.join(names) or 'nobody'}",
                            _NO_MASTER_ADVICE)

    def _exchange(self, deadline: float, first: bool) -> None:
        try:
            sent = self._send_unsent()
            poll = select.poll()
            poll.register(self._socket, select.POLLIN if sent else select.POLLIN | select.POLLOUT)
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise LostError("something accepts connections there but does not answer as a CluPy master does")
            size = self._socket.recv_into(self._raw)
        except BlockingIOError:
            return
        except OSError as error:
            raise LostError(f"the connection broke while TLS was set up ({(error.strerror or str(error)).lower()}): the "
                            "server may speak plaintext, or have too many connections") from None
        if size == 0:
            raise LostError("the server ended the connection while TLS was set up: it may speak plaintext, or have too "
                            "many connections", _PLAINTEXT_ADVICE)
        if first and self._raw[0] not in _RECORD_KINDS:
            raise LostError("the server speaks plaintext, and this client speaks TLS", _PLAINTEXT_ADVICE)
        self._incoming.write(memoryview(self._raw)[:size])

    def _say_last(self) -> None:
        """The server is told why, if that goes at once."""
        with contextlib.suppress(OSError):
            self._send_unsent()

    def _send_unsent(self) -> bool:
        """Returns whether everything is sent. Raises OSError."""
        while True:
            if not self._unsent:
                if not self._outgoing.pending:
                    return True
                self._unsent = memoryview(self._outgoing.read())
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent):]
            except BlockingIOError:
                return False

    def write(self, queue: Deque[Buffer]) -> Tuple[int, bool]:
        """Takes bytes from the queue and sends what the socket takes. Returns how many it took, and whether more would
        block. Raises OSError."""
        taken = 0
        if not self.unsent and queue:
            chunk = _take(queue)
            taken = len(chunk)
            try:
                self._ssl.write(chunk)
            except ssl.SSLError as error:
                raise self._failure(error) from None
        return taken, not self._send_unsent()

    def read(self, view: memoryview) -> int:
        """Returns how many bytes it has put into view, 0 at the end. Raises BlockingIOError, OSError, LostError."""
        while True:
            if self.buffered:
                done = self._decrypt(view)
                if done or self._ended:
                    return done
            if self._ended:
                return 0
            size = self._socket.recv_into(self._raw)
            self.more = size == _RAW_SIZE
            if size == 0:
                self._ended = True
                return 0
            self._incoming.write(memoryview(self._raw)[:size])

    def _decrypt(self, view: memoryview) -> int:
        done = 0
        try:
            while done < len(view) and self.buffered:
                size: Any = self._ssl.read(len(view) - done, view[done:])  # type: ignore[arg-type, unused-ignore]
                done += size
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            raise self._failure(error) from None
        return done

    def _failure(self, error: ssl.SSLError) -> LostError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._server_failure(error)
        mine = self._credentials
        if _has(error, "ALERT_CERTIFICATE_EXPIRED"):
            return LostError(f"the master refuses {mine.named}: it has expired on {_date(mine.content.not_after)}",
                             _EXPIRED_ADVICE, denied=True)
        if _has(error, "ALERT_CERTIFICATE_REVOKED"):
            return LostError(f"the master refuses {mine.named}: it has been revoked", _REISSUE, denied=True, final=True)
        if _has(error, "ALERT_UNKNOWN_CA", "ALERT_DECRYPT_ERROR"):
            return LostError(f"the master refuses {mine.named}: another authority than the master's has issued it",
                             _REISSUE, denied=True)
        if _has(error, "CERTIFICATE_REQUIRED"):
            return LostError("the master wants a certificate and was shown none", _REISSUE, denied=True)
        if _has(error, "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_UNKNOWN", "ALERT_UNSUPPORTED_CERTIFICATE",
                "ALERT_ACCESS_DENIED"):
            now = datetime.now(timezone.utc)
            why = (f"it is valid only from {_date(mine.content.not_before)} on" if now < mine.content.not_before
                   else "the master's journal says why")
            return LostError(f"the master refuses {mine.named}: {why}", _REISSUE, denied=True)
        if _has(error, "PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL"):
            return LostError("the server has no TLS 1.3, and this client takes nothing older",
                             "a CluPy master has it: name the master's address")
        if _has(error, "WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return LostError("the server speaks plaintext, and this client speaks TLS", _PLAINTEXT_ADVICE)
        return LostError(f"TLS failed ({_words(error)})", "the master's journal says why (journalctl -u clupy-masterd)")

    def _server_failure(self, error: ssl.SSLCertVerificationError) -> LostError:
        code = error.verify_code
        authority = self._credentials.authority.path
        if code == _EXPIRED:
            return LostError("the server's certificate has expired (or this machine's clock is ahead)",
                             "have a new one issued on the master's machine: clupyctl pki issue master")
        if code == _NOT_YET_VALID:
            return LostError("the server's certificate is not valid yet, so one of the two clocks is wrong",
                             "set the clocks (timedatectl)")
        if code in _UNKNOWN_AUTHORITY:
            return LostError(f"the server's certificate was not issued by the authority in {authority}",
                             "copy ca.crt from the right cluster's master, where it is /etc/clupy/pki/ca.crt, or name "
                             "the right address")
        if code in (_HOST, _ADDRESS):
            return LostError(f"the server's certificate is not for the name {self._host}",
                             "use a name that it has, or have it issued again with this one (clupyctl pki issue master "
                             "--name HOST)")
        if code == _PURPOSE:
            return LostError("the server there is no master: its certificate is not one for servers",
                             _NO_MASTER_ADVICE)
        if code == _REVOKED:
            return LostError("the server's certificate has been revoked", "name the right master's address")
        return LostError(f"the server's certificate is not good ({error.verify_message})",
                         "have it issued again on the master's machine (clupyctl pki issue master)")


_PLAINTEXT_ADVICE = ("name the master's TLS address, or, if the network is yours alone, say clupy+insecure:// as the master "
                     "says `insecure:`")
_NO_MASTER_ADVICE = "name the master's address, or have it given a certificate of its own (clupyctl pki issue master)"
_EXPIRED_ADVICE = "have a new one issued: clupyctl pki issue user NAME"  # it cannot be renewed any more
_REISSUE = "ask the cluster's administrator for another one (clupyctl pki issue user NAME)"


def _uris(certificate: Any) -> List[str]:
    names = (certificate or {}).get("subjectAltName", ())
    return [value for kind, value in names if kind == "URI" and value.startswith(SCHEME)]


def _take(queue: Deque[Buffer]) -> Buffer:
    """The next bytes to encrypt: a large buffer's own, or several small ones joined."""
    parts: List[memoryview] = []
    size = 0
    while queue and size < _CHUNK:
        first = memoryview(queue[0]).cast("B")
        room = _CHUNK_MAX if not parts else _CHUNK - size
        parts.append(first[:room])
        size += len(parts[-1])
        if len(first) > room:
            queue[0] = first[room:]
        else:
            queue.popleft()
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _has(error: OSError, *reasons: str) -> bool:
    text = f"{getattr(error, 'reason', '')} {error}".upper().replace(" ", "_")
    return any(reason in text for reason in reasons)


def _words(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return str(reason).replace("_", " ").lower()


def _date(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")

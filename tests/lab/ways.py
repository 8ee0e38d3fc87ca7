# SPDX-License-Identifier: Apache-2.0
"""The ways to a clupy-masterd for those who speak the protocol by hand: plaintext, TLS as somebody, a UNIX socket.

`default()` is what peers take that are told nothing: CLUPY_TEST_WAY, else DEFAULT. A way also says what a master's
configuration needs for it.
"""

from __future__ import annotations

import functools
import os
import socket
import ssl
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from certificates import Authority, Pair  # noqa: E402

DEFAULT = "tls"


class Way(Protocol):
    """How to connect."""

    def connect(self, host: str, port: int, identity: str, timeout: float) -> socket.socket:
        """identity: who the peer is going to say it is, as certificates have it: clupy:user:alice. Raises OSError."""

    def configuration(self, port: int) -> Dict[str, str]:
        """The keys of clupy.master.yaml, beside `listen`, with which a master on 127.0.0.1 can be spoken to so."""


@dataclass(frozen=True)
class Plain:
    """TCP in plaintext."""

    def connect(self, host: str, port: int, identity: str, timeout: float) -> socket.socket:
        made = socket.create_connection((host, port), timeout=timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def configuration(self, port: int) -> Dict[str, str]:
        return {"insecure": f"['127.0.0.1:{port}']"}


@dataclass(frozen=True)
class Unix:
    """A UNIX socket; who one is the kernel says."""

    path: Path

    def connect(self, host: str, port: int, identity: str, timeout: float) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(timeout)
        made.connect(str(self.path))
        return made

    def configuration(self, port: int) -> Dict[str, str]:
        return {"socket": str(self.path)}


@dataclass(frozen=True)
class Tls:
    """TLS with these files. certificate None: without one. authority None: whoever answers is believed. name: what the
    server's certificate has to be for; empty: the host. highest: the newest TLS that is offered."""

    certificate: Optional[Pair]
    authority: Optional[Path]
    name: str = ""
    lowest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    highest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED

    def connect(self, host: str, port: int, identity: str, timeout: float) -> socket.socket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version, context.maximum_version = self.lowest, self.highest
        if self.authority is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_verify_locations(self.authority)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate.certificate, self.certificate.key)
        plain = Plain().connect(host, port, identity, timeout)
        try:
            return context.wrap_socket(plain, server_hostname=self.name or host)
        except BaseException:
            plain.close()
            raise

    def configuration(self, port: int) -> Dict[str, str]:
        return {}


@dataclass(frozen=True)
class Issued:
    """TLS with a certificate that the authority issues to whoever is to speak."""

    authority: Authority

    @functools.cache  # noqa: B019
    def pair(self, identity: str) -> Pair:
        file = identity.replace(":", "-")
        if identity == "clupy:master":
            return self.authority.server(file)
        return self.authority.issue(file, [f"URI:{identity}"])

    def connect(self, host: str, port: int, identity: str, timeout: float) -> socket.socket:
        return Tls(self.pair(identity), self.authority.certificate).connect(host, port, identity, timeout)

    def configuration(self, port: int) -> Dict[str, str]:
        master = self.pair("clupy:master")
        return {"tls": f"{{certificate: {master.certificate}, key: {master.key}, authority: {self.authority.certificate}, "
                       f"revoked: {self.authority.folder}/ca.crl}}"}


@functools.cache
def issued() -> Issued:
    """Of an authority of this run's own."""
    return Issued(Authority(Path(_folder().name) / "pki"))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="clupy-test-pki-")


def default() -> Way:
    """What everybody takes who is not told otherwise."""
    name = os.environ.get("CLUPY_TEST_WAY") or DEFAULT
    return issued() if name == "tls" else Plain()


def half_close(connection: socket.socket) -> None:
    """Says nothing more, and still hears; an SSLSocket's own shutdown() would take the TLS away."""
    socket.socket.shutdown(connection, socket.SHUT_WR)

# SPDX-License-Identifier: Apache-2.0
"""Makes clupy importable from the source tree, and a fake master for the tests that want one."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "python"), str(HERE), str(HERE.parent)]

import clupy  # noqa: E402

from certificates import Authority, Pair  # noqa: E402
from fake_master import FakeMaster, server_context  # noqa: E402


class Certificates(NamedTuple):
    """One cluster's: an authority, a master for 127.0.0.1 and localhost, and the user alice."""

    authority: Authority
    master: Pair
    alice: Pair


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    authority = Authority(tmp_path_factory.mktemp("pki") / "authority")
    return Certificates(authority, authority.server(), authority.user())


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own configuration."""
    for name in ("CLUPY_MASTER_URL", "CLUPY_TLS_CERTIFICATE", "CLUPY_TLS_KEY", "CLUPY_TLS_AUTHORITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("clupy._config.SYSTEM_FOLDER", str(tmp_path / "etc"))
    monkeypatch.setattr("clupy._config.DEFAULT_SOCKET", str(tmp_path / "master.sock"))


@pytest.fixture
def as_alice(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are her."""
    monkeypatch.setenv("CLUPY_TLS_CERTIFICATE", str(certificates.alice.certificate))
    monkeypatch.setenv("CLUPY_TLS_KEY", str(certificates.alice.key))
    monkeypatch.setenv("CLUPY_TLS_AUTHORITY", str(certificates.authority.certificate))


@pytest.fixture
def secure_context(certificates: Certificates, as_alice: None) -> ssl.SSLContext:
    return server_context(certificates.master, certificates.authority.certificate)


@pytest.fixture
def tls(secure_context: ssl.SSLContext) -> Optional[ssl.SSLContext]:
    """What a fake master speaks; None: plaintext. Modules that are about connections run their tests with both."""
    return secure_context


@pytest.fixture(params=["tls", "plain"])
def both(request: pytest.FixtureRequest) -> Optional[ssl.SSLContext]:
    """For those modules."""
    context: Optional[ssl.SSLContext] = request.getfixturevalue("secure_context") if request.param == "tls" else None
    return context


@pytest.fixture
def master(tls: Optional[ssl.SSLContext]) -> Iterator[FakeMaster]:
    with FakeMaster(tls=tls) as running:
        yield running


@pytest.fixture
def client(master: FakeMaster) -> Iterator[clupy.Client]:
    with clupy.Client(master.url) as connected:
        yield connected

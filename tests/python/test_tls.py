# SPDX-License-Identifier: Apache-2.0
"""Who is who: every way in which TLS can fail has a sentence of its own; and TLS over bad networks."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import random
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Type

import clupy
import pytest
from certificates import DAY, Authority, Pair
from clupy import _connection, _x509
from conftest import Certificates
from fake_master import FakeMaster, server_context
from relay import Relay


@pytest.fixture
def tls(both: Optional[ssl.SSLContext]) -> Optional[ssl.SSLContext]:
    return both


def same(x: Any) -> Any:
    return x


def use(monkeypatch: pytest.MonkeyPatch, pair: Pair, authority: Optional[Authority] = None) -> None:
    """The client's files."""
    monkeypatch.setenv("CLUPY_TLS_CERTIFICATE", str(pair.certificate))
    monkeypatch.setenv("CLUPY_TLS_KEY", str(pair.key))
    if authority is not None:
        monkeypatch.setenv("CLUPY_TLS_AUTHORITY", str(authority.certificate))


def fails(url: str, kind: Type[clupy.ClupyError], words: str) -> clupy.ClupyError:
    with pytest.raises(kind, match=words) as caught:
        clupy.Client(url).parallel(same)(1)
    assert "\n" not in str(caught.value) and "; " in str(caught.value), "one sentence, with what to do"
    return caught.value


@pytest.fixture
def cluster(certificates: Certificates, as_alice: None) -> Authority:
    return certificates.authority


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other") / "authority")


@pytest.fixture
def secure(certificates: Certificates, cluster: Authority) -> Iterator[FakeMaster]:
    with FakeMaster(tls=server_context(certificates.master, cluster.certificate)) as running:
        yield running


# The client's own certificate.

@pytest.mark.parametrize(("begin", "end", "words"), [
    (-2 * DAY, -DAY, r"the master refuses this client's certificate .*/old.crt \(clupy:user:alice\): it has expired on "
                     r"20\d\d-\d\d-\d\d .*\(at 127.0.0.1:\d+\); have a new one issued: clupyctl pki issue user NAME"),
    (DAY, 2 * DAY, r"it is valid only from 20.* on .*; ask"),
])
def test_own_certificate_out_of_its_time(secure: FakeMaster, cluster: Authority, monkeypatch: pytest.MonkeyPatch,
                                         begin: float, end: float, words: str) -> None:
    use(monkeypatch, cluster.user(begin=begin, end=end, file="old"))
    fails(secure.url, clupy.NotAllowedError, words)
    assert not secure.hellos


@pytest.mark.parametrize("days", [29, 31])
def test_own_certificate_that_ends_soon_is_told_once(secure: FakeMaster, cluster: Authority, caplog: pytest.LogCaptureFixture,
                                                     monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    use(monkeypatch, cluster.user(end=days * DAY, file=f"soon{days}"))
    for _ in range(2):
        with clupy.Client(secure.url) as client:
            assert client.parallel(same)(1).wait(30)
    told = [record.getMessage() for record in caplog.records if "expires on" in record.getMessage()]
    assert len(told) == (days < 30), told
    assert days > 30 or ("soon29.crt (clupy:user:alice)" in told[0] and told[0].endswith("clupyctl pki renew"))


def test_own_certificate_of_another_authority(secure: FakeMaster, other: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, other.user())
    fails(secure.url, clupy.NotAllowedError, r"refuses .*alice.crt .*another authority than the master's.*; ask")


def test_revoked(secure: FakeMaster, cluster: Authority, certificates: Certificates,
                 monkeypatch: pytest.MonkeyPatch) -> None:
    pair = cluster.user("eve")
    use(monkeypatch, pair)
    client = clupy.Client(secure.url)
    secure.hold.clear()
    future = client.parallel(same)(1)
    secure.wait_for(lambda: secure.executions)
    secure.tls = server_context(certificates.master, cluster.certificate, cluster.revoke(pair))
    secure.drop()
    with pytest.raises(clupy.NotAllowedError, match=r"eve.crt \(clupy:user:eve\): it has been revoked .*; ask"):
        future.result(10)
    fails(secure.url, clupy.NotAllowedError, "it has been revoked")


def test_a_master_that_wants_something_else(secure: FakeMaster, cluster: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, cluster.server("acting"))
    secure.refuse = {"error": "not-allowed", "message": "this certificate is of a master"}
    with pytest.raises(clupy.NotAllowedError, match="does not let this user in: this certificate is of a master"):
        clupy.Client(secure.url).parallel(same)(1)
    use(monkeypatch, cluster.issue("server-only", ["URI:clupy:user:alice"], "serverAuth"))
    fails(secure.url, clupy.NotAllowedError, "refuses .*server-only.crt.*journal says why.*; ask")


# The server's.

@pytest.mark.parametrize(("options", "words"), [
    ({"begin": -2 * DAY, "end": -DAY}, r"the server's certificate has expired.*; have a new one issued on the master's machine"),
    ({"begin": DAY, "end": 2 * DAY}, r"the server's certificate is not valid yet.*; set the clocks"),
    ({"names": ["DNS:elsewhere"]}, r"the server's certificate is not for the name 127.0.0.1\); use a name"),
    ({"uri": "clupy:user:alice"}, r"no master: its certificate is of clupy:user:alice\); name the master"),
    ({"uri": "clupy:agent:node1"}, r"no master: its certificate is of clupy:agent:node1\); name the master"),
    ({"uri": "other:master"}, r"no master: its certificate is of nobody\); name"),
    ({"names": ["IP:127.0.0.1", "URI:clupy:user:bob"]}, r"no master: .* of clupy:master, clupy:user:bob\); name"),
])
def test_servers_that_are_not_to_be_trusted(cluster: Authority, options: Any, words: str) -> None:
    pair = cluster.server("strange", **{"names": ["IP:127.0.0.1"], **options})
    with FakeMaster(tls=server_context(pair, cluster.certificate)) as master:
        where = rf"no connection to a CluPy master \(127.0.0.1:{master.port}: .*"
        error = fails(master.url, clupy.ConnectError, where + words)
        assert isinstance(error, clupy.ConnectError) and error.tried[0][:2] == ("127.0.0.1", master.port)
        assert not master.hellos


def test_a_user_as_master(cluster: Authority) -> None:
    """What any user has in hand."""
    pair = cluster.issue("mallory", ["URI:clupy:user:mallory", "IP:127.0.0.1"])
    with FakeMaster(tls=server_context(pair, cluster.certificate)) as master:
        fails(master.url, clupy.ConnectError, r"no master: its certificate is not one for servers\); name")


def test_wrong_name(certificates: Certificates, cluster: Authority) -> None:
    pair = cluster.server("by-address", ["IP:127.0.0.1"])
    with FakeMaster(tls=server_context(pair, cluster.certificate)) as master:
        fails(f"localhost:{master.port}", clupy.ConnectError,
              rf"localhost:{master.port}: the server's certificate is not for the name localhost\); use a name")
    named = server_context(certificates.master, cluster.certificate)
    with FakeMaster(tls=named) as master, clupy.Client(f"localhost:{master.port}") as client:
        assert client.parallel(same)(1).result(20) == 1


def test_a_master_of_another_authority(cluster: Authority, other: Authority) -> None:
    with FakeMaster(tls=server_context(other.server(), cluster.certificate)) as master:
        fails(master.url, clupy.ConnectError, rf"not issued by the authority in {cluster.certificate}\); copy ca.crt")


def test_tls_1_2(certificates: Certificates, cluster: Authority) -> None:
    context = server_context(certificates.master, cluster.certificate)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with FakeMaster(tls=context) as master:
        fails(master.url, clupy.ConnectError, "no TLS 1.3, and this client takes nothing older.*; a CluPy master")


@pytest.mark.parametrize(("answer", "words"), [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks plaintext, and this client speaks TLS"),
    (b"CLPY\x01", "speaks plaintext, and this client speaks TLS"),
    (b"", "ended the connection while TLS was set up: it may speak plaintext"),
    (b"\x16\x03\x03\x00\x05hello", "TLS failed"),
])
def test_no_tls_there(cluster: Authority, answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        fails(f"127.0.0.1:{listener.getsockname()[1]}", clupy.ConnectError, words)


def test_tls_where_plaintext_is_spoken(secure: FakeMaster) -> None:
    fails(f"clupy+insecure://127.0.0.1:{secure.port}", clupy.ConnectError,
          r"ended the connection without a word: it may speak TLS, .* told to speak plaintext\); say clupy://")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: listener.accept()[0].sendall(b"\x15\x03\x01\x00\x02\x02\x46"), daemon=True).start()
        fails(f"clupy+insecure://127.0.0.1:{listener.getsockname()[1]}", clupy.ConnectError,
              r": the server speaks TLS, and this client was told to speak plaintext\); say clupy://")


def test_a_server_that_says_nothing(cluster: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clupy._session.CONNECT_TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fails(f"127.0.0.1:{silent.getsockname()[1]}", clupy.ConnectError, "does not answer as a CluPy master does")


# The files.

def _encrypt(pair: Pair) -> None:
    subprocess.run(["openssl", "pkcs8", "-topk8", "-passout", "pass:secret", "-in", pair.key, "-out",
                    f"{pair.key}.new"], check=True, stdin=subprocess.DEVNULL)
    os.replace(f"{pair.key}.new", pair.key)
    pair.key.chmod(0o600)


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda pair, ca: pair.certificate.unlink(), r"client.yaml:2: key 'tls.certificate': .*/me.crt does not exist"),
    (lambda pair, ca: pair.key.unlink(), r"client.yaml:3: key 'tls.key': .*/me.key does not exist"),
    (lambda pair, ca: ca.unlink(), r"client.yaml:4: key 'tls.authority': .*/ca.crt does not exist"),
    (lambda pair, ca: pair.key.chmod(0o640), r"me.key can be read or changed by others \(mode 0640\).*: chmod 600 .*me.key"),
    (lambda pair, ca: pair.key.chmod(0o604), r"mode 0604"),
    (lambda pair, ca: shutil.copyfile(ca, pair.certificate), r"me.key is not the key of the certificate .*/me.crt"),
    (lambda pair, ca: pair.certificate.write_text("hello"), r"me.crt holds no certificate: no certificate in it"),
    (lambda pair, ca: pair.certificate.write_text(
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"), r"me.crt holds no certificate"),
    (lambda pair, ca: pair.key.write_text("hello"), r"me.key holds no key that can be used without a passphrase"),
    (lambda pair, ca: _encrypt(pair), r"me.key holds no key that can be used without a passphrase"),
    (lambda pair, ca: ca.write_text("hello"), r"ca.crt holds no certificate of an authority"),
])
def test_wrong_files(secure: FakeMaster, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                     spoil: Callable[[Pair, Path], Any], words: str) -> None:
    for name in ("CERTIFICATE", "KEY", "AUTHORITY"):
        monkeypatch.delenv(f"CLUPY_TLS_{name}")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    pair = Pair(folder / "me.crt", folder / "me.key")
    shutil.copyfile(certificates.alice.certificate, pair.certificate)
    shutil.copy(certificates.alice.key, pair.key)
    shutil.copyfile(certificates.authority.certificate, folder / "ca.crt")
    (tmp_path / "clupy.client.yaml").write_text(
        "tls:\n  certificate: mine/me.crt\n  key: mine/me.key\n  authority: mine/ca.crt\n")
    with clupy.Client(secure.url) as client:
        assert client.parallel(same)(1).result(20) == 1
        spoil(pair, folder / "ca.crt")
        with pytest.raises(clupy.ConfigurationError, match=words) as caught:
            clupy.Client(secure.url).parallel(same)(1)
        assert "\n" not in str(caught.value)
        assert client.parallel(same)(2).result(20) == 2, "who is connected stays connected"


def test_usual_places(secure: FakeMaster, certificates: Certificates, tmp_path: Path,
                      monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CERTIFICATE", "KEY", "AUTHORITY"):
        monkeypatch.delenv(f"CLUPY_TLS_{name}")
    with pytest.raises(clupy.ConfigurationError, match=rf"neither {tmp_path}/config/clupy/user.crt nor {tmp_path}/etc/user"
                       r".crt: ask .*pki issue user NAME\), or.* use unix:/run/clupy/master.sock"):
        clupy.Client(secure.url).parallel(same)(1)
    etc, own = tmp_path / "etc", tmp_path / "config/clupy"
    bob = certificates.authority.user("bob")
    for folder, pair, user in ((etc, certificates.alice, "alice"), (own, bob, "bob")):
        folder.mkdir(parents=True)
        shutil.copyfile(pair.certificate, folder / "user.crt")
        shutil.copy(pair.key, folder / "user.key")
        if folder == etc:  # what is in only one of them is found
            shutil.copyfile(certificates.authority.certificate, folder / "ca.crt")
        with clupy.Client(secure.url) as client:
            assert client.parallel(same)(1).result(20) == 1
        assert secure.hellos[-1]["user"] == user


def test_no_files_are_needed_where_there_is_no_master(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    fails(f"127.0.0.1:{port}", clupy.ConnectError, "nothing listens there.*; start one")


def test_names(certificates: Certificates) -> None:
    certificate = _x509.read_certificate("a comment\n" + certificates.alice.certificate.read_text())
    assert certificate.names == ("clupy:user:alice",) and (certificate.not_after - certificate.not_before).days == 101
    assert _x509.read_certificate(certificates.authority.certificate.read_text()).names == ()
    data = ssl.PEM_cert_to_DER_cert(certificates.alice.certificate.read_text())
    for _ in range(2000):
        spoilt = bytearray(data)
        for _ in range(random.randint(1, 4)):
            spoilt[random.randrange(len(spoilt))] = random.randrange(256)
        with contextlib.suppress(ValueError):
            _x509.read_certificate(ssl.DER_cert_to_PEM_cert(bytes(spoilt[:random.randint(1, len(spoilt))])))


# Connections.

def test_renewal_on_reconnect(secure: FakeMaster, cluster: Authority, tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    first = cluster.user("carol")
    use(monkeypatch, Pair(Path(shutil.copyfile(first.certificate, tmp_path / "carol.crt")), first.key))
    with clupy.Client(secure.url) as client:
        assert client.parallel(same)(1).result(20) == 1
        renewed = cluster.user("carol", file="carol-renewed", key=first.key)
        shutil.copyfile(renewed.certificate, tmp_path / "new")
        os.replace(tmp_path / "new", tmp_path / "carol.crt")
        secure.drop()
        assert client.parallel(same)(2).result(20) == 2
        assert len(set(secure.serials)) == 2


def test_what_is_wrong_with_a_reconnect_is_said_and_can_be_mended(
        secure: FakeMaster, cluster: Authority, other: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("clupy._session._WARN_AFTER", 0.1)
    files = tmp_path / "alice.crt", tmp_path / "alice.key", tmp_path / "ca.crt"

    def install(authority: Authority) -> None:
        pair = authority.user("alice", file="mended")
        for source, target in zip((pair.certificate, pair.key, authority.certificate), files):
            shutil.copy(source, f"{target}.new")
            os.replace(f"{target}.new", target)

    install(cluster)
    for name, path in zip(("CERTIFICATE", "KEY", "AUTHORITY"), files):
        monkeypatch.setenv(f"CLUPY_TLS_{name}", str(path))
    with clupy.Client(secure.url) as client, caplog.at_level(logging.WARNING, "clupy"):
        secure.hold.clear()
        future = client.parallel(same)(1)
        secure.wait_for(lambda: secure.executions)
        secure.tls = server_context(other.server(), other.certificate)
        secure.drop()
        secure.wait_for(lambda: f"not issued by the authority in {files[2]}" in caplog.text)
        shutil.copy(other.certificate, files[2])
        secure.wait_for(lambda: "another authority than the master's has issued it" in caplog.text)
        install(other)
        secure.hold.set()
        assert future.result(20) == 1


def test_who_the_hello_says_it_is(secure: FakeMaster, cluster: Authority, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    use(monkeypatch, cluster.issue("root", ["URI:clupy:admin:root.of-all"]))
    with clupy.Client(secure.url) as client:
        client.parallel(same)(1).result(20)
    assert secure.hellos[-1]["user"] == "root.of-all"
    with FakeMaster(path=tmp_path / "socket") as master, clupy.Client(master.url) as client:
        client.parallel(same)(1).result(20)
        assert master.hellos[-1]["user"] == pwd.getpwuid(os.getuid()).pw_name
        assert client.url == f"unix:{tmp_path}/socket"


def test_unix_socket(tmp_path: Path) -> None:
    """It is the default when it is there, and needs no certificate."""
    path = tmp_path / "master.sock"
    with FakeMaster(path=path) as master, clupy.Client() as client:
        assert client.url == master.url
        data = os.urandom(5 << 20)
        assert client.parallel(same)(data).result(20) == data
        master.drop()
        assert client.parallel(same)(2).result(20) == 2
    fails(f"unix:{path}", clupy.ConnectError, rf"unix:{path}: connection refused.*; start one")
    path.unlink()
    fails(f"unix:{path}", clupy.ConnectError, "no such socket.*; start one")


def test_large_values_both_ways(secure: FakeMaster) -> None:
    data = os.urandom(60 << 20)
    with clupy.Client(secure.url) as client:
        futures = [client.parallel(same)(data[n:]) for n in range(2)]
        for n, future in enumerate(futures):
            assert future.result(60) == data[n:]


@pytest.mark.parametrize("size", [1, 7, 1000, 16385])
def test_pieces(master: FakeMaster, size: int) -> None:
    """Records that arrive bit by bit, and buffers that are full soon."""
    with Relay(master.port, lambda: random.randint(1, 2 * size), window=4096) as relay:
        scheme = master.url.partition("://")[0]
        with clupy.Client(f"{scheme}://127.0.0.1:{relay.port}") as client:
            data = os.urandom(300 * size)
            futures = [client.parallel(same)(data[n:]) for n in range(5)]
            for n, future in enumerate(futures):
                assert future.result(60) == data[n:]


@pytest.mark.parametrize("after", [1, 40, 1000, 20000, 500000])
def test_closed_within_a_frame(master: FakeMaster, after: int) -> None:
    with Relay(master.port) as relay:
        scheme = master.url.partition("://")[0]
        with clupy.Client(f"{scheme}://127.0.0.1:{relay.port}") as client:
            assert client.parallel(bytes)(1).result(20) == bytes(1)
            relay.cut(after)
            assert client.parallel(bytes)(2 << 20).result(20) == bytes(2 << 20)
            assert len(master.hellos) == 2


def test_a_frame_in_one_record_with_the_welcome(secure: FakeMaster) -> None:
    """What TLS has already read does not wake a poll."""
    with clupy.Client(secure.url) as client:
        secure.hold.clear()
        future = client.parallel(same)(1)
        secure.wait_for(lambda: secure.executions)
        secure.drop()
        secure.hold.set()  # the result goes out right behind the next welcome
        assert future.result(20) == 1


def test_the_link_alone() -> None:
    """Plain: what write() could not send stays in the queue."""
    import collections
    one, two = socket.socketpair()
    with one, two:
        one.setblocking(False)
        link = _connection.PlainLink(one)
        queue: Any = collections.deque([b"x" * (1 << 20)] * 8)
        total = 0
        while True:
            taken, blocked = link.write(queue)
            total += taken
            if blocked:
                break
        assert 0 < total < 8 << 20 and sum(map(len, queue)) == (8 << 20) - total

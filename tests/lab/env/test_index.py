# SPDX-License-Identifier: Apache-2.0
"""The package index: nginx with the configuration that clupy-index-config makes, in front of an index of the tests' own.

It runs here as the unit runs it, less the unit; test_index_unit.py has that one, on a node.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import Authority
from packages import digest_of, metadata_of, wheel
from upstream import JSON, Upstream
from labtool import paths

_numbers = itertools.count(1)
PROGRAM = paths.SOURCE / "index/config.py"


class Connection(http.client.HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("index", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


class Index:
    """A clupy-index of its own folder."""

    def __init__(self, folder: Path, keys: Path) -> None:
        self.folder = folder
        self.keys_program = keys
        for name in ("run", "cache", "sent"):
            (folder / name).mkdir()
        (folder / "keys.yaml").write_text("{}\n")
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        self.socket = folder / "index.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def config(self, *arguments: str, **keys: object) -> subprocess.CompletedProcess[str]:
        """Runs the generator; keys are those of clupy.master.dependency.yaml (None: as they were)."""
        if keys:
            (self.folder / "keys.yaml").write_text(json.dumps(keys))
        program = self.folder / "keys"
        program.write_text(f"#!/bin/sh\nexec {self.keys_program} {self.folder}/keys.yaml\n")
        program.chmod(0o755)
        return subprocess.run(
            ["/usr/bin/python3", "-I", str(PROGRAM), "--keys", str(program), "--manifest", str(self.folder / "keys.yaml"), "--directory", str(self.folder / "run"),
             "--cache", str(self.folder / "cache"), "--socket", str(self.socket), "--client-wheels",
             str(self.folder / "sent"), *arguments], capture_output=True, text=True, check=False, env=self.environment)

    def start(self) -> None:
        """Starts nginx, with a socket that listens already, as systemd does."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.socket))
        listener.listen(64)
        listener.setblocking(False)

        def prepare() -> None:
            os.dup2(listener.fileno(), 3)
            os.set_inheritable(3, True)

        with (self.folder / "nginx.log").open("wb") as log:
            self.process = subprocess.Popen(["/usr/sbin/nginx", "-e", "stderr", "-g", "user root;", "-c", str(self.folder / "run/nginx.conf")],
                                            env={"PATH": os.environ["PATH"], "NGINX": "3;"}, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, close_fds=False, preexec_fn=prepare)
        listener.close()

    def reload(self, **keys: object) -> subprocess.CompletedProcess[str]:
        """As systemctl reload does; what comes after it has the new configuration."""
        assert self.process is not None
        done = self.config("--reload", str(self.process.pid), **keys)
        manifest = hashlib.sha256((self.folder / "keys.yaml").read_bytes()).hexdigest()
        assert (self.folder / "run/manifest").read_text() == f"{manifest}\n", "the master waits for this"
        return done

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, header and body of an answer."""
        with contextlib.closing(Connection(self.socket)) as connection:
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def stop(self) -> None:
        """Ends nginx."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who has signed the index's certificate."""
    return Authority(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture
def upstream(tmp_path: Path, authority: Authority) -> Iterator[Upstream]:
    """An index with alpha 1.0 and 2.0, and beta."""
    folder = tmp_path / "upstream"
    folder.mkdir()
    for version in ("1.0", "2.0"):
        wheel(folder, "alpha", version)
    wheel(folder, "beta", "1.0+local", {"beta.py": os.urandom(300_000).hex()}, ["alpha>=1"])
    made = Upstream(folder, authority.issue(f"index{next(_numbers)}", ["DNS:localhost"], "serverAuth"))
    yield made
    made.stop()


@pytest.fixture
def index(tmp_path: Path, upstream: Upstream, authority: Authority, installed: Path | None) -> Iterator[Index]:
    """An index that is not started yet."""
    assert installed is not None
    (tmp_path / "index").mkdir()
    made = Index(tmp_path / "index", installed / "usr/lib/clupy/clupy-index-keys")
    made.environment |= {"PIP_INDEX_URL": upstream.index, "PIP_CERT": str(authority.certificate)}
    yield made
    made.stop()


def links(body: bytes) -> list[str]:
    """The links of a listing, as they are written."""
    if body.startswith(b"{"):
        return [file["url"] for file in json.loads(body)["files"]]
    return re.findall(r'href="([^"#]+)', body.decode())


@pytest.mark.parametrize("accept", [JSON, "text/html"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "rooted"])
def test_listings_lead_to_files_of_this_index(index: Index, upstream: Upstream, kind: str, accept: str) -> None:
    upstream.links = kind
    said = index.config()
    assert said.returncode == 0 and "(not sure)" not in said.stdout, said.stderr
    index.start()
    status, header, body = index.get("/simple/alpha/", Accept=accept)
    assert status == 200 and header["content-type"].startswith(accept)
    assert b"localhost" not in body, body
    found = links(body)
    assert len(found) == 2 and all(link.startswith("/files/") for link in found)
    for link in found:
        file = upstream.folder / link.split("/")[-1]
        # A client resolves the dots before it asks.
        clean = os.path.normpath(link)
        assert index.get(clean)[2] == file.read_bytes()
        assert index.get(f"{clean}.metadata")[2] == metadata_of(file)


def test_files_come_once_and_in_parts(index: Index, upstream: Upstream) -> None:
    index.config()
    index.start()
    link = links(index.get("/simple/beta/", Accept=JSON)[2])[0]
    whole = (upstream.folder / link.split("/")[-1]).read_bytes()
    status, header, body = index.get(link, Range="bytes=-100")
    assert (status, body) == (206, whole[-100:])
    assert header["content-range"] == f"bytes {len(whole) - 100}-{len(whole) - 1}/{len(whole)}"
    assert index.get(link, Range="bytes=10-19")[2] == whole[10:20]
    assert index.get(link)[2] == whole and index.get(link)[2] == whole
    assert upstream.count("/pool/") == 1, upstream.requests
    # What is escaped stays so.
    assert "/pool/ab%2Bcd/" in next(path for path in upstream.requests if "/pool/" in path)


def test_what_was_had_is_served_when_the_index_is_away(index: Index, upstream: Upstream) -> None:
    index.config()
    index.start()
    before = index.get("/simple/alpha/", Accept=JSON)[2]
    link = links(before)[0]
    file = index.get(link)[2]
    upstream.stop()
    index.reload(wheels=[])
    assert index.get("/simple/alpha/", Accept=JSON)[2] == before
    assert index.get(link)[2] == file
    status, _, body = index.get("/simple/beta/")
    assert status == 502
    assert b"the package index localhost cannot be reached from the cluster's master" in body
    # Where its files lie is still known, too.
    assert "(not sure)" not in index.config().stdout
    upstream.start()
    assert index.get("/simple/beta/")[0] == 200


def test_an_index_that_nobody_can_reach(index: Index, upstream: Upstream, tmp_path: Path) -> None:
    wheel(tmp_path, "gamma", "1.0")
    upstream.stop()
    said = index.config(wheels=[str(tmp_path)])
    assert said.returncode == 0 and "does not say where its files lie" in said.stderr and "(not sure)" in said.stdout
    index.start()
    assert index.get("/simple/alpha/")[0] == 502
    assert "gamma-1.0-py3-none-any.whl" in links(index.get("/local/0/")[2])
    assert index.get("/local/0/gamma-1.0-py3-none-any.whl")[2] == (tmp_path / "gamma-1.0-py3-none-any.whl").read_bytes()
    # It is asked again, and known then.
    upstream.start()
    assert "(not sure)" not in index.reload().stdout
    assert index.get(links(index.get("/simple/alpha/", Accept=JSON)[2])[0])[0] == 200


def test_a_certificate_that_nobody_vouches_for(index: Index, upstream: Upstream) -> None:
    index.environment["PIP_CERT"] = "/etc/ssl/certs/ca-certificates.crt"
    assert "CERTIFICATE_VERIFY_FAILED" in index.config(index_files=[]).stderr
    index.config(index_files=[upstream.files])
    index.start()
    assert index.get("/simple/alpha/")[0] == 502
    assert index.get("/files/1/pool/alpha-1.0-py3-none-any.whl")[0] == 502
    assert upstream.requests == {}


def test_nothing_else_is_served(index: Index, upstream: Upstream, tmp_path: Path) -> None:
    folder = tmp_path / "offered"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    index.config(wheels=[str(folder)])
    index.start()
    for path in ("/", "/files/", "/files/1/pool/", "/files/0/some/secret", "/files/2/x.whl", "/files/1/admin?x=.whl",
                 "/local/", "/local/1/", "/local/0/../secret", "/local/0/%2e%2e/secret", "/local/0../secret", "/wheels/",
                 f"/wheels/{'a' * 64}/", f"/wheels/{'a' * 64}/../x.whl", f"/wheels/{'g' * 64}/x-1-py3-none-any.whl",
                 "//etc/passwd", "/simple/../secret"):
        status, _, body = index.get(path)
        assert status in (400, 404), (path, status, body)
        assert b"secret" not in body
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert index.get("/simple/alpha/", method)[0] == 405
    assert upstream.count("secret") == 0 and upstream.count("admin") == 0


def test_wheels_of_clients(index: Index, tmp_path: Path) -> None:
    made = wheel(tmp_path, "mine", "1.0+x")
    index.config()
    index.start()
    place = index.folder / "sent" / digest_of(made)
    place.mkdir()
    (place / made.name).write_bytes(made.read_bytes())
    assert index.get(f"/wheels/{digest_of(made)}/{made.name}")[2] == made.read_bytes()
    assert index.get(f"/wheels/{digest_of(made)}/other-1.0-py3-none-any.whl")[0] == 404
    assert index.get(f"/wheels/{digest_of(made)}/")[0] == 404


def test_a_password_reaches_the_index_and_no_one_else(index: Index, upstream: Upstream) -> None:
    url = upstream.index.replace("https://", "https://me:sec%40ret@")
    said = index.config(index=url, index_files=[upstream.files])
    assert "sec" not in said.stdout + said.stderr
    index.start()
    index.get(links(index.get("/simple/alpha/", Accept=JSON)[2])[0])
    sent = [headers.get("Authorization") for headers in upstream.headers]
    assert sent[0] == "Basic bWU6c2VjQHJldA==" and sent[-1] is None, sent
    assert (index.folder / "run/nginx.conf").stat().st_mode & 0o77 == 0


def test_a_reload_loses_no_connection(index: Index, upstream: Upstream, tmp_path: Path) -> None:
    index.config()
    index.start()
    link = links(index.get("/simple/beta/", Accept=JSON)[2])[0]
    whole = (upstream.folder / link.split("/")[-1]).read_bytes()
    with contextlib.closing(Connection(index.socket)) as connection:
        connection.request("GET", link)
        answer = connection.getresponse()
        first = answer.read(1000)
        for number in range(3):
            folder = tmp_path / f"wheels{number}"
            folder.mkdir()
            assert index.reload(wheels=[str(folder)]).returncode == 0
            assert index.get("/local/0/")[0] == 200
        assert hashlib.sha256(first + answer.read()).digest() == hashlib.sha256(whole).digest()


def test_a_wrong_file_is_refused_with_its_line(index: Index, upstream: Upstream) -> None:
    index.config()
    index.start()
    assert index.get("/simple/alpha/")[0] == 200
    (index.folder / "keys.yaml").write_text("wheels: [/srv]\nindex: [1]\n")
    before = (index.folder / "run/nginx.conf").read_text()
    said = index.reload()
    assert said.returncode == 78 and f"{index.folder}/keys.yaml:2: " in said.stderr, said.stderr
    assert (index.folder / "run/nginx.conf").read_text() == before
    assert index.get("/simple/alpha/")[0] == 200
    for url in ("http://index.example.org/simple", "https://exa mple.org/", "https://index.example.org/a\"b"):
        said = index.config("--check", index=url)
        assert said.returncode == 78 and said.stderr != "", url
    # At the start there is nothing to stay with: whoever asks is told.
    index.stop()
    index.process = None
    index.socket.unlink()
    (index.folder / "keys.yaml").write_text("wheels: [/srv]\nindex: [1]\n")
    assert index.config().returncode == 0
    index.start()
    status, _, body = index.get("/simple/alpha/")
    assert status == 503 and b"keys.yaml:2: " in body
    assert index.reload(wheels=[]).returncode == 0
    assert index.get("/simple/alpha/")[0] == 200


def test_no_index_at_all(index: Index, upstream: Upstream, tmp_path: Path) -> None:
    wheel(tmp_path, "gamma", "1.0")
    assert index.config(index="none", wheels=[str(tmp_path)]).returncode == 0
    index.start()
    status, _, body = index.get("/simple/alpha/")
    assert status == 404 and b"`index: none`" in body
    assert "gamma-1.0-py3-none-any.whl" in links(index.get("/local/0/")[2])
    assert upstream.requests == {}

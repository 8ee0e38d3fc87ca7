# SPDX-License-Identifier: Apache-2.0
"""The wire's edges: nobody there, refusals, lost connections, masters that forget, windows, large payloads, garbage."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import struct
import threading
import time
from pathlib import Path
from typing import Any, List, Optional

import clupy
import pytest
from clupy import _config, _frame
from clupy._units import format_duration, format_size, parse_duration, parse_size

from fake_master import ACK, CANCEL, GOODBYE, HEADER, SUBMIT, FakeMaster


@pytest.fixture
def tls(both: Optional[ssl.SSLContext]) -> Optional[ssl.SSLContext]:
    return both


def same(x: Any) -> Any:
    return x


def submissions(master: FakeMaster) -> List[Any]:
    return [task for kind, message in list(master.frames) if kind == SUBMIT for task in message["tasks"]]


def test_no_master() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    begin = time.monotonic()
    client = clupy.Client(f"clupy://127.0.0.1:{port}")
    with pytest.raises(clupy.ConnectError, match=f"127.0.0.1:{port}.*nothing listens.*start one") as caught:
        client.parallel(same)(1)
    assert time.monotonic() - begin < 2 and caught.value.tried[0][:2] == ("127.0.0.1", port)
    # Nothing of the thread that tried it, nor of what it ran into: the sentence says that.
    assert caught.value.__suppress_context__ and "_converse" not in [entry.name for entry in caught.traceback]
    with FakeMaster() as master:  # the same client, once there is one
        client._master = _config.Master((("127.0.0.1", master.port),), "test", insecure=True)
        client._session = None
        assert client.parallel(same)(1).result(20) == 1
        client.shutdown()


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        begin = time.monotonic()
        with pytest.raises(clupy.ConnectError, match=f"127.0.0.1:{port}"):
            clupy.Client(f"clupy+insecure://127.0.0.1:{port}").parallel(same)(1)
        assert 2 < time.monotonic() - begin < 10
    with pytest.raises(clupy.ConnectError, match=r"no-such-host.invalid:7878: no such host"):
        clupy.Client("no-such-host.invalid").parallel(same)(1)


def test_the_second_address(master: FakeMaster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    scheme = master.url.partition("://")[0]
    with clupy.Client(f"{scheme}://127.0.0.1:{port},127.0.0.1:{master.port}") as client:
        assert client.parallel(same)(1).result(20) == 1


@pytest.mark.parametrize(("refusal", "kind", "words"), [
    ({"error": "version-mismatch", "client": "3.12.1", "server": "3.11.2", "message": "no"}, clupy.VersionMismatchError,
     "Python 3.12.1.*Python 3.11.2.*Python 3.11"),
    ({"error": "protocol", "client": [1, 1], "server": [2, 3], "message": "no"}, clupy.VersionMismatchError, "2 to 3"),
    ({"error": "not-allowed", "message": "alice may not"}, clupy.NotAllowedError, "alice may not"),
    ({"error": "bad-hello", "message": "no user"}, clupy.ClupyError, "no user"),
    ({"error": "busy", "message": "too many clients"}, clupy.ConnectError, "too many clients"),
])
def test_refusals(master: FakeMaster, refusal: Any, kind: type, words: str) -> None:
    master.refuse = refusal
    client = clupy.Client(master.url)
    with pytest.raises(kind, match=words):
        client.parallel(same)(1)
    master.refuse = None
    assert client.parallel(same)(1).result(20) == 1, "the next call tries again"
    client.shutdown()


def test_hello(client: clupy.Client, master: FakeMaster) -> None:
    client.parallel(same)(1).result(20)
    hello = master.hellos[0]
    assert hello["role"] == "client" and hello["protocol"] == [1, 1] and hello["software"] == clupy.__version__
    assert len(hello["session"]) == 32 and hello["pid"] == os.getpid() and hello["user"]
    assert any(kind == SUBMIT and message["synced"] for kind, message in master.frames)


def test_results_are_acknowledged(client: clupy.Client, master: FakeMaster) -> None:
    futures = [client.parallel(same)(n) for n in range(10)]
    assert clupy.wait_all(futures, time_out=20)
    master.wait_for(lambda: len(master.acknowledged) == 10)
    assert not master.results


def test_a_broken_connection_is_made_again(client: clupy.Client, master: FakeMaster) -> None:
    client.parallel(same)(0).result(20)
    master.hold.clear()
    futures = [client.parallel(same)(n) for n in range(20)]
    master.wait_for(lambda: len(master.executions) == 21 and all(future.running() for future in futures))
    for _ in range(3):
        count = len(master.hellos)
        master.drop()
        master.wait_for(lambda: len(master.hellos) > count)
    master.hold.set()
    assert [future.result(20) for future in futures] == list(range(20))
    assert len(master.executions) == 21, "sent again, not run again"
    assert len({hello["session"] for hello in master.hellos}) == 1
    again = [task for task in submissions(master) if task.get("resubmitted")]
    assert {task["id"] for task in again} <= {future.id for future in futures} and len(again) >= 20
    assert all(task["attempts"] == 1 for task in again), "running ones count as attempts"


def test_a_master_that_forgot(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    futures = [client.parallel(same)(n) for n in range(5)]
    master.wait_for(lambda: len(master.executions) == 5)
    master.codes.clear()
    master.forget()
    master.wait_for(lambda: len(master.executions) == 10)
    master.hold.set()
    assert [future.result(20) for future in futures] == list(range(5))
    frames = [message for kind, message in master.frames if kind == SUBMIT]
    last_synced = max(index for index, message in enumerate(frames) if message["synced"])
    assert all(task.get("resubmitted") for message in frames[last_synced - 1:last_synced] for task in message["tasks"])


def test_calls_made_while_there_is_no_master(client: clupy.Client, master: FakeMaster) -> None:
    client.parallel(same)(0).result(20)
    port = master.port
    master.close()
    future = client.parallel(same)(1)
    cancelled = client.parallel(same)(2)
    late = client.parallel(same, deadline=0.2)(3)
    assert cancelled.cancel()
    with pytest.raises(clupy.DeadlineError, match="0.2s"):
        late.result(5)
    assert not future.wait(0.2)
    again = FakeMaster(tls=master.tls, port=port)
    with again:
        assert future.result(20) == 1
        assert len(submissions(again)) == 1


def test_results_come_once(client: clupy.Client, master: FakeMaster) -> None:
    seen: List[Any] = []
    future = client.parallel(same)(5)
    future.succeed(seen.append)
    master.wait_for(lambda: future.id in master.acknowledged or future.done())
    clupy.wait_all([future], time_out=10)
    entry = ({"id": future.id, "attempt": 2, "attempts": 2, "node": "n2", "outcome": {"kind": "exit", "status": 1},
              "size": 0, "receipt": {}}, b"")
    master.results[future.id] = entry
    count = len(master.acknowledged)
    for link in master.links:
        master.deliver(link, future.id)
    master.wait_for(lambda: len(master.acknowledged) > count)
    assert future.value == 5 and seen == [5] and future.node == "fake1"


def test_cancelled_while_disconnected(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    future = client.parallel(same)(5)
    master.wait_for(lambda: master.executions)
    count = len(master.hellos)
    master.drop()
    assert future.cancel()
    master.wait_for(lambda: len(master.hellos) > count)
    master.wait_for(lambda: future.id in master.acknowledged)
    assert master.count(CANCEL) >= 1


def test_task_window(tls: Optional[ssl.SSLContext]) -> None:
    with FakeMaster(window=5, tls=tls) as master, clupy.Client(master.url) as client:
        master.hold.clear()
        futures = [client.parallel(same)(n) for n in range(12)]
        master.wait_for(lambda: len(submissions(master)) == 5)
        time.sleep(0.1)
        assert len(submissions(master)) == 5
        assert futures[11].cancel() and futures[0].cancel()
        master.wait_for(lambda: len(submissions(master)) == 6)
        master.hold.set()
        assert [future.result(20) for future in futures[1:11]] == list(range(1, 11))
        assert len(submissions(master)) == 11


def test_bursts_travel_in_batches(master: FakeMaster) -> None:
    master._run = lambda code, args: ({"kind": "value"}, _none())
    with clupy.Client(master.url) as client:
        futures = [client.parallel(same)(n) for n in range(2000)]
        assert clupy.wait_all(futures, time_out=60)
        # A hundred or so; several hundred when the machine is busy with something else.
        assert master.count(SUBMIT) < 1000, "most frames carry many calls"
        master.wait_for(lambda: len(master.acknowledged) == 2000)
        assert master.count(ACK) < 2000


def _none() -> bytes:
    from clupy import _payload
    return b"".join(bytes(part) for part in _payload.encode(None))


def test_result_that_cannot_be_fetched(client: clupy.Client, master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    import clupy._session
    monkeypatch.setattr(clupy._session, "_FETCH_TRIES", 2)
    master._send_result = lambda link, message: link.send(  # type: ignore[method-assign]
        83, {"stream": message["stream"], "error": "gone", "message": "the node is away"})
    future = client.parallel(bytes)(1 << 20)
    with pytest.raises(clupy.ClupyError, match=r"1048\d* bytes.*fake1.*the node is away"):
        future.result(20)


def test_connection_breaks_within_a_result(client: clupy.Client, master: FakeMaster) -> None:
    send = master._send_result
    broken: List[int] = []

    def once(link: Any, message: Any) -> None:
        if not broken:
            broken.append(1)
            link.send(81, {"stream": message["stream"]}, [bytes(100)])
            master.drop()
        else:
            send(link, message)

    master._send_result = once  # type: ignore[method-assign]
    assert client.parallel(bytes)(3 << 20).result(20) == bytes(3 << 20) and broken


def test_many_streams_at_once(client: clupy.Client) -> None:
    futures = [client.parallel(same)(bytes([n]) * (2 << 20)) for n in range(20)]
    for n, future in enumerate(futures):
        assert future.result(40) == bytes([n]) * (2 << 20)


def test_a_large_argument_costs_no_copy(master: FakeMaster) -> None:
    """bytes are served from where they are; here 512 MiB, of which the fake keeps nothing."""
    size = 512 << 20
    received: List[int] = []

    def handle(link: Any, kind: int, message: Any, payloads: List[bytes]) -> None:
        if kind == SUBMIT:
            for task in message["tasks"]:
                master.tasks[task["id"]] = task
                master.sessions[task["id"]] = {link.hello["session"]}
                link.streams[2] = {"got": 0, "size": task["size"], "task": task["id"]}
                link.send(80, {"stream": 2, "task": task["id"], "attempt": 1, "what": "args", "size": task["size"],
                               "window": 4 << 20})
        elif kind == 81:
            stream = link.streams[2]
            stream["got"] += len(payloads[0])
            link.send(82, {"stream": 2, "bytes": len(payloads[0])})
        elif kind == 83:
            received.append(link.streams[2]["got"])
            master.end(link.streams[2]["task"], {"kind": "value"}, _none())

    master._handle = handle  # type: ignore[method-assign]
    data = bytes(size)
    with clupy.Client(master.url) as client:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client.parallel(len)(data).result(60)
        assert received[0] > size
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "KiB"


def test_garbage_from_the_master(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    future = client.parallel(same)(7)
    master.wait_for(lambda: master.executions)
    for garbage in (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100,
                    HEADER.pack(b"CLPY", 1, 33, 0, 2 << 20, 0, 0, 0),
                    HEADER.pack(b"CLPY", 1, 33, 0, 2, 0, 0, 0) + b"[]",
                    HEADER.pack(b"CLPY", 1, 33, 0, 5, 0, 0, 0) + b"{nono",
                    HEADER.pack(b"CLPY", 1, 33, 0, 15, 0, 0, 0) + b'{"results":[1]}',
                    HEADER.pack(b"CLPY", 1, 48, 0, 2, 0, 0, 0) + b"{}",
                    HEADER.pack(b"CLPY", 1, 33, 0, 2, 2, 0, 10) + struct.pack("<II", 1, 1) + b"{}" + bytes(10)):
        count = len(master.hellos)
        master.wait_for(lambda: master.links)
        for link in list(master.links):
            with link.lock:
                link.sock.sendall(garbage)
        master.wait_for(lambda: len(master.hellos) > count)
        master.links[:] = master.links[-1:]
    master.hold.set()
    assert future.result(20) == 7


def test_evicted(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    future = client.parallel(same)(7)
    master.wait_for(lambda: master.executions)
    master.links[-1].send(3, {"error": "evicted", "message": "a newer connection"})
    with pytest.raises(clupy.ClupyError, match="session key"):
        future.result(10)
    master.hold.set()
    assert client.parallel(same)(8).result(20) == 8
    assert len({hello["session"] for hello in master.hellos}) == 2


def test_shutdown(master: FakeMaster) -> None:
    master.hold.clear()
    client = clupy.Client(master.url)
    future = client.parallel(same)(7)
    detached = client.parallel(same, detach=True)(8)
    master.wait_for(lambda: len(master.executions) == 2)
    client.shutdown()
    assert future.cancelled()
    master.wait_for(lambda: master.frames[-1][0] == GOODBYE)
    with pytest.raises(clupy.ClupyError, match=f"attach.*{detached.id}"):
        detached.result(1)
    master.hold.set()
    assert client.parallel(same)(9).result(20) == 9
    client.shutdown()


def test_threads(client: clupy.Client) -> None:
    failures: List[BaseException] = []

    def work(base: int) -> None:
        try:
            futures = [client.parallel(same)(base + n) for n in range(30)]
            assert [future.result(60) for future in futures] == [base + n for n in range(30)]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_init(master: FakeMaster) -> None:
    with FakeMaster(tls=master.tls) as other:
        try:
            assert clupy.init(master.url) is clupy.init(f" {master.url}/")
            master.hold.clear()
            future = clupy.parallel(same)(1)
            with pytest.raises(clupy.ClupyError, match=r"1 calls.*shutdown"):
                clupy.init(other.url)
            master.hold.set()
            assert future.result(20) == 1
            clupy.init(other.url)
            assert clupy.parallel(same)(2).result(20) == 2 and len(other.executions) == 1
        finally:
            clupy.shutdown()


# Configuration and units.

@pytest.mark.parametrize(("url", "addresses"), [
    ("host", [("host", 7878)]), ("host:1", [("host", 1)]), ("clupy://a:1,b", [("a", 1), ("b", 7878)]),
    ("clupy://[::1]:9/", [("::1", 9)]), ("::1", [("::1", 7878)]), ("clupy+insecure://a,b:2", [("a", 7878), ("b", 2)]),
    ("unix:/run/clupy/master.sock", [("/run/clupy/master.sock", 0)]),
])
def test_urls(url: str, addresses: Any) -> None:
    target = _config.parse_url(url)
    assert list(target.addresses) == addresses and target.insecure == url.startswith("clupy+insecure:")
    assert _config.parse_url(_config.Master(*target[:1], "", target.insecure).url) == target


@pytest.mark.parametrize("url", ["", "http://x", "host:", "host:0", "host:70000", "a b", "clupy://", "a,,b", "[::1", "a:x",
                                 "x/y", "unix:", "unix:x", "unix:/" + 107 * "x", "clupy-insecure://a"])
def test_wrong_urls(url: str) -> None:
    with pytest.raises(clupy.ConfigurationError, match="clupy://"):
        _config.parse_url(url)


def test_where_the_master_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _config.resolve().addresses == (("localhost", 7878),)
    Path(_config.DEFAULT_SOCKET).write_text("no socket")
    assert _config.resolve().addresses == (("localhost", 7878),)
    Path(_config.DEFAULT_SOCKET).unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(_config.DEFAULT_SOCKET)
        assert _config.resolve().addresses == ((_config.DEFAULT_SOCKET, 0),)
    (tmp_path / "config/clupy").mkdir(parents=True)
    (tmp_path / "config/clupy/clupy.client.yaml").write_text("master: user-file\n")
    assert _config.resolve().addresses == (("user-file", 7878),)
    (tmp_path / "clupy.client.yaml").write_text("# here\nmaster: clupy://here:5\n")
    assert _config.resolve().addresses == (("here", 5),) and "clupy.client.yaml:2" in _config.resolve().source
    monkeypatch.setenv("CLUPY_MASTER_URL", "from-environment")
    assert _config.resolve().addresses == (("from-environment", 7878),)
    assert _config.resolve("given").addresses == (("given", 7878),)


@pytest.mark.parametrize(("text", "words"), [
    ("mastr: x\n", r"clupy.client.yaml:1: unknown key 'mastr'; did you mean 'master'"),
    ("master: a\n\nmaster: b\n", r"yaml:3: key 'master' is there twice"),
    ("master:\n  - a\n", r"yaml:2: key 'master': expected"),
    ("master: http://x\n", r"yaml:1: key 'master': expected"),
    ("- a\n", r"yaml:1: expected 'key: value'"),
    ("master: [\n", r"yaml:2: "),
    ("insecure: perhaps\n", r"yaml:1: key 'insecure': expected true or false, got 'perhaps'"),
    ("tls: yes\n", r"yaml:1: expected 'key: value' lines below 'tls:'"),
    ("tls:\n  certifcate: x\n", r"yaml:2: unknown key 'tls.certifcate'; did you mean 'tls.certificate'"),
    ("tls:\n  key: x\n  key: y\n", r"yaml:3: key 'tls.key' is there twice"),
    ("tls:\n  key: [x]\n", r"yaml:2: key 'tls.key': expected the path of a file"),
])
def test_wrong_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clupy.client.yaml").write_text(text)
    with pytest.raises(clupy.ConfigurationError, match=words):
        clupy.Client()


def test_units() -> None:
    assert [parse_duration(text, "x") for text in (5, 0.5, "90s", "8h", "1m30s", "250ms", "1.5", "2d")] == [
        5, 0.5, 90, 28800, 90, 0.25, 1.5, 172800]
    assert [parse_size(text, "x") for text in (5, "5", "512M", "2G", "1.5K", "3MiB", "4kb")] == [
        5, 5, 512 << 20, 2 << 30, 1536, 3 << 20, 4096]
    for wrong in ("", "x", "5x", "s", "-5", -1, "1h soon", float("nan"), "h1"):
        with pytest.raises((ValueError, TypeError), match="option"):
            parse_duration(wrong, "option")
    for wrong in ("", "x", "5X", "-5M", 0, "M", 1.5, True):
        with pytest.raises((ValueError, TypeError), match="option"):
            parse_size(wrong, "option")  # type: ignore[arg-type]
    assert (format_size(512 << 20), format_size(1536 << 20), format_size(10)) == ("512M", "1.5G", "10 bytes")
    assert (format_duration(0.25), format_duration(90), format_duration(5400)) == ("0.25s", "1m30s", "1h30m")


def test_frames_in_any_pieces() -> None:
    frames: List[Any] = [(33, {"a": "ä"}, [b"x" * 10, b"", b"y" * (256 << 10)]), (34, {}, []),
                         (81, {"stream": 1}, [b"z"] * 5)]
    data = b"".join(bytes(part) for frame in frames for part in _frame.encode(*frame))
    for step in (1000, 70001, len(data)):
        decoder, found = _frame.Decoder(), []
        rest = memoryview(data)
        while rest:
            room = decoder.room()
            size = min(step, len(rest), len(room))
            room[:size] = rest[:size]
            rest = rest[size:]
            decoder.received(size)
            while True:
                frame = decoder.next()
                if frame is None:
                    break
                found.append((frame.type, frame.message, [bytes(payload) for payload in frame.payloads]))
        assert found == frames


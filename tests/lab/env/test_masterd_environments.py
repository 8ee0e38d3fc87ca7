# SPDX-License-Identifier: Apache-2.0
"""clupy-masterd alone: which packages calls get, who looks them up, who builds them. Agents and clients are spoken by hand."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ways  # noqa: E402
from wire import Agent, Client, Closed, Frame, Json, Operator, Wire, encode, new_id  # noqa: E402

HASH = "--hash=sha256:" + "ab" * 32


class Master:
    """A clupy-masterd with a manifest and a state directory of its own, which outlive a restart."""

    def __init__(self, program: Path, directory: Path, manifest: str | None) -> None:
        self.program, self.directory = program, directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.manifest = directory / "packages.yaml"
        if manifest is not None:
            self.manifest.write_text(manifest)
        lines = {"listen": f'["127.0.0.1:{self.port}"]', "state_directory": str(directory / "state"),
                 "dependencies": str(self.manifest), "index_socket": str(directory / "index.sock"),
                 "wheels": "{size: 1M, total: 2M}", **ways.default().configuration(self.port)}
        self.config = directory / "master.yaml"
        self.config.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
        self.log = directory / "log"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([self.program, "--config", self.config, "--log-level", "debug"],
                                        stderr=self.log.open("a"), text=True)
        wait_until(self._listens, 20.0)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; it has to end well, and sanitizers must have had nothing to say."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) in (0, -signal.SIGKILL), self.log.read_text()[-6000:]

    def environments(self) -> list[Json]:
        with contextlib.closing(Operator(self.port)) as operator:
            found: list[Json] = operator.query("environments")["environments"]
        return found


def wait_until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Path:
    """CLUPY_MASTERD, or the staged build's."""
    given = os.environ.get("CLUPY_MASTERD")
    if given:
        return Path(given)
    return Path(request.getfixturevalue("installed") or "/") / "usr/lib/clupy/clupy-masterd"


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Callable[..., Master]]:
    masters: list[Master] = []

    def make(manifest: str | None = None) -> Master:
        masters.append(Master(program, tmp_path, manifest))
        return masters[-1]

    yield make
    for m in masters:
        m.stop()


class Builder(Agent):
    """An agent that has environments."""

    def __init__(self, port: int, name: str = "node1", ready: list[str] | None = None,
                 pythons: tuple[str, ...] = ("3.11",), **more: Any) -> None:
        super().__init__(port, name, report=[], pythons=list(pythons), platform="linux-x86_64",
                         python=f"{pythons[0]}.2", **more)
        self.tell(*[{"name": n, "state": "ready"} for n in ready or []], complete=True)

    def tell(self, *entries: Json, payloads: tuple[bytes, ...] = (), complete: bool = False) -> None:
        self.send("ENVIRONMENT_STATE", {"environments": list(entries), "complete": complete}, payloads)

    def order(self, kind: str, timeout: float = 10.0) -> tuple[Json, str]:
        """The next order of that kind, and its lock."""
        frame = self.expect("ENVIRONMENT", timeout, where=lambda f: kind in f.json)
        order: Json = frame.json[kind][0]
        first = order.get("payload", 0)
        return order, b"".join(frame.payloads[first:first + order.get("payloads", 0)]).decode()

    def resolved(self, order: Json, lock: str, libraries: Json | None = None) -> None:
        self.tell({"name": order["name"], "state": "resolved", "libraries": libraries or {}, "installer": "uv 1",
                   "payload": 0, "payloads": 1}, payloads=(lock.encode(),))

    def built(self, order: Json, **more: Any) -> None:
        self.tell({"name": order["name"], "state": "building"})
        self.tell({"name": order["name"], "state": "ready", "bytes": 1000, "files": 3, "seconds": 1.5, **more})

    def failed(self, order: Json, reason: str, words: str) -> None:
        self.tell({"name": order["name"], "state": "failed", "reason": reason, "payload": 0, "payloads": 1},
                  payloads=(words.encode(),))

    def nothing(self, kind: str) -> None:
        """Nothing of that kind has come, once all that was on its way is here."""
        self.heartbeat()
        self.expect("HEARTBEAT_ACK")
        assert not [f for f in self.inbox if f.type == "ENVIRONMENT" and kind in f.json]


def lock_of(**versions: str) -> str:
    return "".join(f"{name}=={version} {HASH}\n" for name, version in versions.items())


def call(client: Client, environment: Json | None = None, **options: Any) -> str:
    more = {"environment": environment} if environment is not None else {}
    return client.submit(client.job(**more, **options))[0]


# The straight way


def test_without_packages_nothing_is_built(start: Callable[..., Master]) -> None:
    master = start("system_packages: true\n")
    agent, client = Builder(master.port), Client(master.port)
    call(client)
    assert agent.dispatched(1)[0]["environment"] == "system-3.11"
    agent.nothing("build")
    call(client, {"base": "none"})
    assert agent.dispatched(1)[0]["environment"] == "python-3.11"


def test_resolved_built_dispatched(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    task = call(client, {"packages": ["polars>=1"], "preload": ["polars"]})
    order, preferred = agent.order("resolve")
    assert order["packages"] == ["polars>=1"] and order["python"] == "3.11" and order["owner"] == "alice"
    assert order["index"] is True and preferred == ""
    assert "looked up on node1" in client.query("why", id=task)["sentence"]
    agent.resolved(order, lock_of(polars="1.2"), {"polars": "1.2"})
    build, lock = agent.order("build")
    assert re.fullmatch("[0-9a-f]{40}", build["name"]) and build["name"] != order["name"]
    assert lock == lock_of(polars="1.2") and build["preload"] == ["polars"]
    agent.tell({"name": build["name"], "state": "building"})
    wait_until(lambda: "being built on node1" in client.query("why", id=task)["sentence"])
    agent.nothing("build")
    agent.built(build)
    held = agent.dispatched(1)[0]
    assert held["id"] == task and held["environment"] == build["name"]
    # The same again finds it there; another user has a build of their own.
    call(client, {"packages": ["polars>=1"], "preload": ["polars"]})
    assert agent.dispatched(1)[0]["environment"] == build["name"]
    with contextlib.closing(Client(master.port, "bob")) as bob:
        call(bob, {"packages": ["polars>=1"], "preload": ["polars"]})
        again, _ = agent.order("resolve")
        agent.resolved(again, lock_of(polars="1.2"))
        other, _ = agent.order("build")
        assert other["name"] != build["name"] and other["owner"] == "bob"
    status = client.query("status")["environments"]
    assert status["builds"] == 1 and status["hits"] == 1 and status["misses"] == 1 and status["bytes"] == 1000


def test_status_tells_each_step(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    call(client, {"packages": ["x"]})
    order, _ = agent.order("resolve")
    client.expect("STATUS", 20, where=lambda f: "looked up on node1" in f.json["tasks"][0].get("why", ""))
    agent.resolved(order, lock_of(x="1"))
    build, _ = agent.order("build")
    agent.tell({"name": build["name"], "state": "building"})
    client.expect("STATUS", 20, where=lambda f: "being built on node1" in f.json["tasks"][0].get("why", ""))


def test_a_lock_is_not_resolved(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    call(client, {"lock": lock_of(x="1")})
    order, lock = agent.order("build")
    assert lock == lock_of(x="1") and order["packages"] == []
    agent.nothing("resolve")


def test_long_locks_travel_in_pieces(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    lock = "".join(f"project-{i}==1 {HASH}\n" for i in range(4000))
    assert len(lock) > 300_000
    call(client, {"lock": lock})
    order, got = agent.order("build")
    assert got == lock and order["payloads"] == 2


# The master's own


def test_default_is_built_ahead_of_need(start: Callable[..., Master]) -> None:
    master = start("packages: [numpy>=2]\npreload: [numpy]\n")
    one, two = Builder(master.port, "node1"), Builder(master.port, "node2")
    order, _ = one.order("resolve")
    assert order["packages"] == ["numpy>=2"] and "owner" not in order
    one.resolved(order, lock_of(numpy="2.1"), {"numpy": "2.1"})
    build, _ = one.order("build")
    assert two.order("build")[0]["name"] == build["name"] and build["preload"] == ["numpy"]
    assert one.expect("ENVIRONMENT", where=lambda f: build["name"] in f.json.get("keep", []))
    client = Client(master.port)
    assert client.welcome["libraries"] == {"numpy": "2.1"}
    call(client)
    one.nothing("DISPATCH")
    two.built(build)
    assert two.dispatched(1)[0]["environment"] == build["name"]
    # What a call asks for is added, and prefers the same versions.
    one.close()
    call(client, {"packages": ["polars"]})
    order, preferred = two.order("resolve")
    assert order["packages"] == ["numpy>=2", "polars"] and preferred == lock_of(numpy="2.1")
    two.failed(order, "installer", "no")
    call(client, {"packages": ["NumPy<2"]})
    order, _ = two.order("resolve")
    assert order["packages"] == ["NumPy<2"]
    two.failed(order, "installer", "no")
    call(client, {"packages": ["polars"], "base": "none"})
    order, preferred = two.order("resolve")
    assert order["packages"] == ["polars"] and preferred == ""


def test_default_switches_over(start: Callable[..., Master]) -> None:
    master = start("packages: [numpy]\n")
    one, two = Builder(master.port, "node1"), Builder(master.port, "node2")
    order, _ = one.order("resolve")
    one.resolved(order, lock_of(numpy="1"))
    first, _ = one.order("build")
    two.order("build")
    one.built(first)
    two.built(first)
    master.manifest.write_text("packages: [numpy, pandas]\n")
    resolver = one
    try:
        order, preferred = one.order("resolve", 5)
    except TimeoutError:
        resolver = two
        order, preferred = two.order("resolve")
    assert order["packages"] == ["numpy", "pandas"]
    client = Client(master.port)
    call(client)
    # Until the new one is there, the former one.
    held = [agent for agent in (one, two) if any(f.type == "DISPATCH" for f in agent.drain(1.0))]
    assert len(held) == 1
    resolver.resolved(order, lock_of(numpy="1", pandas="2"))
    second, _ = one.order("build")
    two.order("build")
    two.built(second)
    names = set()
    for _ in range(3):
        call(client, cpus=0.1)
    for agent in (one, two):
        for frame in agent.drain(1.0):
            if frame.type == "DISPATCH":
                names |= {(agent.name, t["environment"]) for t in frame.json["tasks"]}
    assert names <= {("node1", first["name"]), ("node2", second["name"])} and names


def test_lock_in_the_manifest(start: Callable[..., Master], tmp_path: Path) -> None:
    (tmp_path / "numpy.lock").write_text(lock_of(numpy="2"))
    master = start("lock: numpy.lock\nonly_wheels: true\n")
    agent, client = Builder(master.port), Client(master.port)
    order, lock = agent.order("build")
    assert lock == lock_of(numpy="2") and order["only_wheels"] is True
    assert client.query("environment-lock")["lock"] == lock
    # A lock of a call's own is everybody's when no source distributions are built.
    call(client, {"lock": lock_of(x="1")})
    order, _ = agent.order("build")
    assert "owner" not in order
    agent.built(order)
    call(client, {"packages": ["y"]})
    assert agent.order("resolve")[0]["packages"] == ["numpy==2", "y"]


def test_sync(start: Callable[..., Master]) -> None:
    master = start("packages: [numpy]\n")
    agent, client = Builder(master.port), Client(master.port)
    order, _ = agent.order("resolve")
    agent.resolved(order, lock_of(numpy="1"))
    build, _ = agent.order("build")
    agent.built(build)
    with pytest.raises(LookupError, match="not-allowed"):
        client.query("environment-sync")
    with contextlib.closing(Operator(master.port)) as operator:
        assert len(operator.query("environment-sync")["environments"]) == 1
    order, _ = agent.order("resolve")
    agent.resolved(order, lock_of(numpy="1"))
    agent.nothing("build")  # nothing new
    with contextlib.closing(Operator(master.port)) as operator:
        operator.query("environment-sync")
        order, _ = agent.order("resolve")
        agent.resolved(order, lock_of(numpy="2"))
        assert agent.order("build")[0]["name"] != build["name"]
        master.manifest.write_text("packages: [numpy\n")
        with pytest.raises(LookupError, match="packages.yaml:2"):
            operator.query("environment-sync")
        assert any("packages.yaml:2" in w for w in operator.query("status")["warnings"])


def test_locks_survive_the_master(start: Callable[..., Master]) -> None:
    master = start("packages: [numpy]\n")
    agent, client = Builder(master.port), Client(master.port)
    order, _ = agent.order("resolve")
    agent.resolved(order, lock_of(numpy="1"), {"numpy": "1"})
    build, _ = agent.order("build")
    agent.built(build)
    call(client, {"packages": ["x"]})
    order, _ = agent.order("resolve")
    agent.resolved(order, lock_of(numpy="1", x="3"))
    own, _ = agent.order("build")
    agent.built(own)
    agent.dispatched(1)
    master.kill()
    master.start()
    agent = Builder(master.port, ready=[build["name"], own["name"]])
    client = Client(master.port)
    assert client.welcome["libraries"] == {"numpy": "1"}
    call(client)
    call(client, {"packages": ["x"]})
    tasks = agent.dispatched(2)
    assert [t["environment"] for t in tasks] == [build["name"], own["name"]]
    agent.nothing("resolve")
    agent.nothing("build")


# What goes wrong


def test_failed_to_resolve(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    words = "reading\nNo solution found: x depends on y>9"
    task = call(client, {"packages": ["x"]})
    order, _ = agent.order("resolve")
    agent.failed(order, "installer", words)
    outcome = client.results(1)[task]["outcome"]
    assert outcome == {"kind": "environment", "log": words}
    # Remembered for a while.
    again = call(client, {"packages": ["x"]})
    assert client.results(1)[again]["outcome"] == outcome
    agent.nothing("resolve")
    assert "y>9" in client.query("why", id=task)["sentence"]
    # Also when nobody asks for it any more.
    client.send("GOODBYE")
    while client.socket.recv(1 << 16):
        pass
    client.close()
    with contextlib.closing(Client(master.port)) as later:
        assert later.query("environment", name=order["name"])["log"] == words
    with contextlib.closing(Operator(master.port)) as operator:
        shown = operator.query("environment", name=order["name"][:8])
    assert shown["state"] == "failed" and shown["log"] == words and shown["owner"] == "alice"


def test_failed_to_build_everywhere(start: Callable[..., Master]) -> None:
    master = start()
    one, two = Builder(master.port, "node1", cpus=1), Builder(master.port, "node2", cpus=1)
    client = Client(master.port)
    job = client.job(environment={"lock": lock_of(x="1")})
    tasks = client.submit(job, 2)
    for agent in (one, two):
        order, _ = agent.order("build")
        agent.failed(order, "installer", f"error on {agent.name}\n")
    results = client.results(2)
    assert set(results) == set(tasks)
    assert {r["outcome"]["kind"] for r in results.values()} == {"environment"}


def test_the_nodes_fault_is_tried_again(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    task = call(client, {"lock": lock_of(x="1")})
    order, _ = agent.order("build")
    agent.failed(order, "infrastructure", "no room")
    wait_until(lambda: "could not be built on node1 (infrastructure: no room)" in client.query("why", id=task)["sentence"])
    again, _ = agent.order("build", 20)
    assert again["name"] == order["name"]
    agent.built(again)
    assert agent.dispatched(1)[0]["id"] == task


def test_another_node_resolves(start: Callable[..., Master]) -> None:
    master = start()
    one, client = Builder(master.port, "node1"), Client(master.port)
    call(client, {"packages": ["x"]})
    order, _ = one.order("resolve")
    two = Builder(master.port, "node2")
    one.close()
    assert two.order("resolve")[0]["name"] == order["name"]


def test_bad_requirements_are_the_callers(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    for environment in ({"packages": ["--index-url=http://x"]}, {"packages": ["x @ https://x/x.whl"]},
                        {"lock": "x>=1\n"}, {"preload": ["a b"]}):
        task = call(client, environment)
        assert client.results(1)[task]["outcome"]["kind"] == "environment"
    agent.nothing("resolve")


def test_ill_formed_jobs(start: Callable[..., Master]) -> None:
    master = start()
    environments: list[Any] = [
        {"packages": "x"}, {"packages": [1]}, {"base": "other"}, {"lock": 3}, [],
        {"wheels": [{"name": "../x.whl", "digest": "0" * 64, "size": 1}]},
        {"wheels": [{"name": "x.whl", "digest": "0" * 63, "size": 1}]}, {"lock": "x" * (600 << 10)}]
    for environment in environments:
        client = Client(master.port)
        client.send("SUBMIT", {"jobs": [{"id": new_id(), "name": "f", "code": "0" * 64, "code_size": 1,
                                         "environment": environment}]})
        assert client.expect("REFUSED").json["error"] == "bad-frame"


@pytest.mark.parametrize("body", [
    {}, {"environments": 1}, {"environments": [1]}, {"environments": [{"state": "ready"}]},
    {"environments": [{"name": "UP", "state": "ready"}]}, {"environments": [{"name": "x", "state": "other"}]},
    {"environments": [{"name": "x", "state": "failed", "payload": 3}]},
    {"environments": [{"name": "x", "state": "failed", "payload": 0, "payloads": 2}]},
    {"environments": [{"name": "x", "state": "ready", "bytes": -1}]},
    {"environments": [{"name": "x", "state": "ready", "libraries": {"x": 1}}]},
])
def test_garbage_of_a_node(start: Callable[..., Master], body: Json) -> None:
    master = start()
    agent = Builder(master.port)
    agent.send("ENVIRONMENT_STATE", body, [b"x"])
    agent.wait_closed()
    assert Operator(master.port).query("nodes")["nodes"][0]["state"] != "ready"


def test_answers_that_nobody_asked_for(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    agent.resolved({"name": "a" * 40}, "x")
    agent.failed({"name": "b" * 40}, "installer", "no")
    agent.tell({"name": "c" * 40, "state": "removed"}, {"name": "d" * 40, "state": "ready"})
    call(client)
    assert agent.dispatched(1)


# Where calls run


def test_pythons(start: Callable[..., Master]) -> None:
    master = start("system_packages: false\n")
    old = Builder(master.port, "old", pythons=("3.11",))
    new = Builder(master.port, "new", pythons=("3.12", "3.13"))
    refused = Client(master.port, python="3.10.1", welcome=False).expect("REFUSED").json
    assert refused["error"] == "version-mismatch" and refused["cluster"] == ["3.11", "3.12", "3.13"]
    assert refused["client"] == "3.10.1"
    client = Client(master.port, python="3.13.0")
    call(client)
    assert new.dispatched(1)[0]["environment"] == "python-3.13"
    call(client, python="3.11")
    assert old.dispatched(1)[0]["environment"] == "python-3.11"
    task = call(client, python="3.9")
    outcome = client.results(1)[task]["outcome"]
    assert outcome["kind"] == "refused" and "Python 3.9" in outcome["message"]
    # After a restart the master still knows.
    master.kill()
    master.start()
    assert Client(master.port, python="3.12.1").welcome
    assert Client(master.port, python="3.10.1", welcome=False).expect("REFUSED").json["cluster"] == [
        "3.11", "3.12", "3.13"]


def test_labels_and_resources(start: Callable[..., Master]) -> None:
    master = start()
    plain = Builder(master.port, "plain", cpus=8)
    gpus = Builder(master.port, "gpus", cpus=8, labels={"zone": "a"}, resources={"gpu": 2})
    client = Client(master.port)
    call(client, labels={"zone": "a"})
    assert gpus.dispatched(1)[0].get("devices") is None
    job = client.job(requires={"gpu": 1})
    tasks = client.submit(job, 3)
    held = gpus.dispatched(2)
    assert [t["devices"] for t in held] == [{"gpu": 1}] * 2
    assert not [f for f in gpus.drain(0.5) if f.type == "DISPATCH"]
    gpus.started(held)
    gpus.ended(held[:1], b"v")
    assert gpus.dispatched(1)[0]["id"] in tasks
    assert "gpu" in client.query("why", id=call(client, requires={"gpu": 3}))["sentence"]
    assert "zone=b" in client.query("why", id=call(client, labels={"zone": "b"}))["sentence"]
    assert not [f for f in plain.drain(0.2) if f.type == "DISPATCH"]


# Wheels of clients


def serve_wheel(client: Client, content: bytes) -> Json:
    """Answers the FETCH of a wheel."""
    fetch = client.expect("FETCH", where=lambda f: f.json["what"] == "wheel").json
    client.send("DATA", {"stream": fetch["stream"]}, [content])
    client.send("END", {"stream": fetch["stream"]})
    return fetch


def wheel(content: bytes, name: str = "x-1.0-py3-none-any.whl") -> Json:
    return {"name": name, "digest": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_wheels(start: Callable[..., Master], tmp_path: Path) -> None:
    master = start("packages: [X>=5, y]\n")
    agent, client = Builder(master.port), Client(master.port)
    agent.resolved(agent.order("resolve")[0], lock_of(x="5", y="1"))
    mine = wheel(b"a wheel")
    call(client, {"wheels": [mine]})
    assert serve_wheel(client, b"a wheel")["code"] == mine["digest"]
    order, _ = agent.order("resolve")
    assert order["wheels"] == [{"name": mine["name"], "digest": mine["digest"]}]
    assert order["packages"] == ["y"]  # the wheel is the other one's newer self
    kept = tmp_path / "state/wheels" / mine["digest"] / mine["name"]
    assert kept.read_bytes() == b"a wheel" and kept.stat().st_mode & 0o777 == 0o644
    agent.failed(order, "installer", "no")
    # It is not asked for twice, but of each who names it.
    call(client, {"wheels": [mine], "base": "none"})
    assert agent.order("resolve")[0]["wheels"]
    assert not [f for f in client.drain(0.2) if f.type == "FETCH"]
    bob = Client(master.port, "bob")
    call(bob, {"wheels": [mine], "base": "none"})
    serve_wheel(bob, b"a wheel")
    assert agent.order("resolve")[0]["owner"] == "bob"


def test_wheels_that_are_others(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = Builder(master.port), Client(master.port)
    task = call(client, {"wheels": [wheel(b"promised")]})
    serve_wheel(client, b"something else")
    outcome = client.results(1)[task]["outcome"]
    assert outcome["kind"] == "environment" and "hash" in outcome["log"]
    task = call(client, {"wheels": [{**wheel(b"large"), "size": 2 << 20}]})
    assert "wheels.size" in client.results(1)[task]["outcome"]["log"]
    task = call(client, {"wheels": [wheel(b"gone")]})
    fetch = client.expect("FETCH").json
    client.send("END", {"stream": fetch["stream"], "error": "gone"})
    assert client.results(1)[task]["outcome"]["kind"] == "environment"
    agent.nothing("resolve")


def test_wheels_have_their_bound(start: Callable[..., Master]) -> None:
    master = start()
    client = Client(master.port)
    # Those that no call needs any more make room.
    for i in range(6):
        content = bytes([i]) * 250_000
        with contextlib.closing(Client(master.port)) as other:
            call(other, {"wheels": [wheel(content)]})
            serve_wheel(other, content)
            wait_until(lambda: client.query("status")["environments"]["wheels_bytes"] > 0)
            other.goodbye()
    assert client.query("status")["environments"]["wheels_bytes"] <= 1 << 20


# The index


class Upstream(threading.Thread):
    """Takes one connection on the index's socket: answers everything with what it was asked, and at the end ends."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.start()

    def run(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            with contextlib.suppress(ConnectionError):
                while data := connection.recv(1 << 16):
                    connection.sendall(data)


class Index(Wire):
    """A build's connection with the index."""

    def __init__(self, port: int, name: str = "node1", identity: str | None = None) -> None:
        super().__init__(port=port, identity=identity or f"clupy:agent:{name}")
        self.send("HELLO", {"role": "index", "name": name, "protocol": [1, 1], "software": "0", "build": "a" * 40})

    def say(self, data: bytes) -> None:
        self.send_raw(frame("INDEX", [data]))


def frame(kind: str, payloads: list[bytes]) -> bytes:
    return encode(kind, None, payloads)


def bodies(frames: list[Frame]) -> bytes:
    return b"".join(b"".join(f.payloads) for f in frames if f.type == "INDEX")


def test_index(start: Callable[..., Master], tmp_path: Path) -> None:
    master = start()
    Upstream(tmp_path / "index.sock")
    agent = Builder(master.port)
    index = Index(master.port)
    index.expect("WELCOME")
    data = os.urandom(200_000)
    got = b""
    for i in range(20):
        index.say(data)
        while len(got) < (i + 1) * len(data):
            got += index.expect("INDEX").payloads[0]
    assert got == data * 20
    index.send_raw(frame("END", []))
    index.expect("END")
    index.wait_closed()
    agent.nothing("build")


def test_index_does_not_fill_the_master(start: Callable[..., Master], tmp_path: Path) -> None:
    master = start()
    Upstream(tmp_path / "index.sock")
    agent = Builder(master.port)
    index = Index(master.port)
    index.expect("WELCOME")
    # Nobody reads: sooner or later nothing more is taken.
    index.socket.setblocking(False)
    piece, sent = memoryview(frame("INDEX", [bytes(250_000)])), 0
    blocked = 0
    while blocked < 50 and sent < 200 << 20:
        try:
            n = index.socket.send(piece[sent % len(piece):])
            sent += n
            blocked = 0
        except (BlockingIOError, OSError):
            blocked += 1
            time.sleep(0.02)
    assert sent < 100 << 20
    agent.heartbeat()
    agent.expect("HEARTBEAT_ACK")


def test_index_that_is_not_there(start: Callable[..., Master]) -> None:
    master = start()
    agent = Builder(master.port)
    index = Index(master.port)
    index.expect("WELCOME")
    index.say(b"GET /simple/x/ HTTP/1.1\r\n\r\n")
    answer = bodies(index.wait_closed())
    assert answer.startswith(b"HTTP/1.1 502 ") and b"clupy-index.service" in answer
    agent.nothing("build")


def test_index_is_for_builds(start: Callable[..., Master]) -> None:
    master = start()
    agent = Builder(master.port)
    with Index(master.port, "node2") as stranger:
        assert stranger.expect("REFUSED").json["error"] == "not-allowed"
    if ways.default().configuration(master.port).get("insecure") is None:
        with Index(master.port, "node1", "clupy:user:alice") as user:
            assert user.expect("REFUSED").json["error"] == "not-allowed"
    with Index(master.port) as index:
        index.expect("WELCOME")
        index.send("SUBMIT", {"tasks": []})
        with pytest.raises((Closed, TimeoutError)):
            while True:
                index.receive(5)
    agent.nothing("build")


# Queries


def test_queries(start: Callable[..., Master]) -> None:
    master = start()
    agent, alice, bob = Builder(master.port), Client(master.port), Client(master.port, "bob")
    call(alice, {"lock": lock_of(x="1")})
    order, _ = agent.order("build")
    agent.built(order, in_use=1)
    agent.dispatched(1)
    mine = [e for e in alice.query("environments")["environments"] if e["name"] == order["name"]]
    assert mine[0]["state"] == "ready" and mine[0]["owner"] == "alice" and mine[0]["bytes"] == 1000
    assert mine[0]["nodes"] == [{"node": "node1", "state": "ready", "seconds": 1.5, "bytes": 1000, "files": 3,
                                 "in_use": 1}]
    assert not [e for e in bob.query("environments")["environments"] if e["name"] == order["name"]]
    for verb in ("environment", "environment-remove"):
        with pytest.raises(LookupError, match="not-found"):
            bob.query(verb, name=order["name"])
    assert alice.query("environment", name=order["name"][:6])["lock"] == lock_of(x="1")
    assert alice.query("environment-remove", name=order["name"])["name"] == order["name"]
    assert agent.expect("ENVIRONMENT", where=lambda f: "remove" in f.json).json["remove"] == [order["name"]]
    agent.tell({"name": order["name"], "state": "removed"})
    wait_until(lambda: not alice.query("environment", name=order["name"])["nodes"])
    call(alice, {"lock": lock_of(x="1")})
    assert agent.order("build")[0]["name"] == order["name"]
    with pytest.raises(LookupError, match="invalid-argument"):
        alice.query("environment", name="")


def test_broken_manifest(program: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "p.yaml"
    manifest.write_text("packages:\n- -r x\n")
    config = tmp_path / "m.yaml"
    config.write_text(f"listen: ['127.0.0.1:1']\ninsecure: ['127.0.0.1:1']\ndependencies: {manifest}\n")
    for arguments in (["--check-config"], []):
        process = subprocess.run([program, "--config", config, *arguments], capture_output=True, text=True,
                                 timeout=20)
        assert process.returncode == 78 and f"{manifest}:2: key 'packages': expected" in process.stderr

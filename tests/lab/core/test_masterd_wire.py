# SPDX-License-Identifier: Apache-2.0
"""clupy-masterd alone, in the foreground, on loopback: spoken to as clients, agents and operators."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ways  # noqa: E402
from wire import (RECEIPT, Agent, Client, Closed, Json, Operator, Wire, encode, new_id,  # noqa: E402
                  query, reported)


class Master:
    """A clupy-masterd with a state directory of its own, which outlives a restart. config: keys of its configuration;
    PORT in them is its port."""

    def __init__(self, program: Path, directory: Path, **config: str) -> None:
        self.program = program
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.config = directory / "master.yaml"
        lines = {"listen": f'["127.0.0.1:{self.port}"]', "state_directory": str(directory / "state"),
                 **ways.default().configuration(self.port), **config}
        self.config.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()).replace("PORT", str(self.port)))
        self.process: subprocess.Popen[str] | None = None
        self.log = directory / "log"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([self.program, "--config", self.config, "--log-level", "debug"],
                                        stderr=self.log.open("a"), text=True)
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
                time.sleep(0.02)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM; it has to end well, and sanitizers must have had nothing to say."""
        assert self.process
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) in (0, -signal.SIGKILL), self.log.read_text()[-6000:]

    def rss(self) -> int:
        """Bytes; 0 for a build with sanitizers, whose memory says nothing."""
        assert self.process
        if b"__asan_init" in self.program.read_bytes():
            return 0
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) << 10

    def operator(self) -> Operator:
        return Operator(self.port)


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Path:
    """CLUPY_MASTERD, or the staged build's."""
    given = os.environ.get("CLUPY_MASTERD")
    if given:
        return Path(given)
    stage = request.getfixturevalue("installed")
    return Path(stage or "/") / "usr/lib/clupy/clupy-masterd"


@pytest.fixture
def start(program: Path, tmp_path: Path) -> Iterator[Callable[..., Master]]:
    masters: list[Master] = []

    def make(**config: str) -> Master:
        masters.append(Master(program, tmp_path, **config))
        return masters[-1]

    yield make
    for m in masters:
        m.stop()


@pytest.fixture
def master(start: Callable[..., Master]) -> Master:
    return start()


def wait_until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def ready(master: Master, **options: object) -> Agent:
    return Agent(master.port, report=[], **options)  # type: ignore[arg-type]


# The straight way


def test_call(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    assert client.welcome["epoch"] == 1 and client.welcome["task_window"] == 20000
    ids = client.submit(client.job(), 1, b"argument")
    task = agent.dispatched(1)[0]
    assert task["id"] == ids[0] and task["attempt"] == 1 and task["owner"] == "alice" and task["cpus"] == 1
    assert agent.arguments[ids[0]] == b"argument"
    agent.started([task])
    status = client.expect("STATUS").json["tasks"][0]
    assert status["state"] == "running" and status["node"] == "node1" and status["unit"].endswith(".scope")
    agent.ended([task], b"value")
    result = client.results(1)[ids[0]]
    assert result["data"] == b"value" and result["outcome"] == {"kind": "value"} and result["attempts"] == 1
    assert result["receipt"]["queued_us"] >= 0 and result["receipt"]["read_bytes"] is None
    assert agent.expect("RELEASE").json["tasks"] == [{"id": ids[0], "attempt": 1}]


def test_many_calls_flow(master: Master) -> None:
    agent, client = ready(master, cpus=8), Client(master.port)
    ids = client.submit(client.job(cpus=0.5), 2000, b"x" * 100)
    done = agent.run(2000)
    results = client.results(2000, 30)
    assert {t["id"] for t in done} == set(ids) == set(results)


def test_the_start_of_a_short_call_is_the_receipts(master: Master) -> None:
    agent, client = ready(master, cpus=1), Client(master.port)
    ids = client.submit(client.job(), 2)
    agent.ended(agent.dispatched(1), b"v")  # no STARTED before
    agent.started(agent.dispatched(1))
    client.results(1)
    wait_until(lambda: client.query("task", id=ids[1])["state"] == "running")
    assert client.query("task", id=ids[0])["started_at"] == RECEIPT["started_at"]
    assert client.query("task", id=ids[1])["started_at"] > RECEIPT["started_at"]


def test_capacity_is_kept(master: Master) -> None:
    agent, client = ready(master, cpus=2, memory=100 << 20), Client(master.port)
    client.submit(client.job(cpus=0.1, memory=60 << 20), 2)
    tasks = agent.dispatched(1)
    assert not [f for f in agent.drain(0.3) if f.type == "DISPATCH"]
    # A result that is not released takes memory as well.
    agent.heartbeat(unreleased=50 << 20)
    agent.expect("HEARTBEAT_ACK")
    agent.ended(tasks, b"v")
    assert not [f for f in agent.drain(0.3) if f.type == "DISPATCH"]
    agent.heartbeat(unreleased=0)
    agent.dispatched(1)


def test_server_count(master: Master) -> None:
    agents = [ready(master, name=f"n{i}", cpus=2) for i in range(5)]
    client = Client(master.port)
    client.submit(client.job(server_count=2), 40)
    used = set()
    done = 0
    while done < 40:
        for agent in agents:
            for frame in agent.drain(0.01):
                if frame.type == "DISPATCH":
                    used.add(agent.name)
                    agent.ended(frame.json["tasks"], b"v")
                    done += len(frame.json["tasks"])
    assert len(used) == 2
    client.results(40)


def test_second_client_is_not_behind_the_first(master: Master) -> None:
    agent, first, second = ready(master, cpus=2), Client(master.port), Client(master.port, "bob")
    first.submit(first.job(), 10000)
    agent.run(4)
    late = second.submit(second.job(), 10)
    order = [t["id"] for t in agent.run(60)]
    assert set(late) <= set(order[:30])


def test_priorities(master: Master) -> None:
    client = Client(master.port)
    low, high = client.submit(client.job(priority=0), 3), client.submit(client.job(priority=5), 3)
    client.drain(0.1)
    agent = ready(master, cpus=1)
    assert [t["id"] for t in agent.run(6)] == high + low


# Ends


def test_cancel_queued_and_running(master: Master) -> None:
    agent, client = ready(master, cpus=1), Client(master.port)
    running, queued = client.submit(client.job(), 2)
    task = agent.dispatched(1)[0]
    client.send("CANCEL", {"tasks": [running, queued]})
    assert client.results(1)[queued]["outcome"] == {"kind": "cancelled", "by": "alice"}
    stop = agent.expect("STOP").json["tasks"][0]
    assert (stop["id"], stop["why"], stop["by"]) == (running, "cancelled", "alice")
    agent.ended([task], outcome={"kind": "cancelled", "by": "alice"})
    assert client.results(1)[running]["outcome"]["kind"] == "cancelled"


def test_deadline_while_queued(master: Master) -> None:
    client = Client(master.port)
    task = client.submit(client.job(), 1, deadline_ms=300)[0]
    result = client.results(1, 2)[task]
    assert result["outcome"] == {"kind": "deadline", "limit_ms": 300}


def test_retries_for_infrastructure_only(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    broken = client.submit(client.job(retries=2), 1)[0]
    for attempt in (1, 2, 3):
        task = agent.dispatched(1)[0]
        assert task["attempt"] == attempt
        agent.ended([task], outcome={"kind": "infrastructure", "message": "no scope"})
    result = client.results(1)[broken]
    assert result["outcome"]["kind"] == "node-lost" and result["outcome"]["attempts"] == 3

    wrong = client.submit(client.job(retries=2), 1)[0]
    agent.ended(agent.dispatched(1), b"E", {"kind": "exception", "retry": False})
    assert client.results(1)[wrong]["attempts"] == 1

    flaky = client.submit(client.job(retries=1), 1)[0]
    agent.ended(agent.dispatched(1), b"E", {"kind": "exception", "retry": True})
    agent.ended(agent.dispatched(1), b"E2", {"kind": "exception", "retry": True})
    result = client.results(1)[flaky]
    assert result["attempts"] == 2 and result["data"] == b"E2"


def test_another_node_is_tried(master: Master) -> None:
    one, client = ready(master, name="one"), Client(master.port)
    client.submit(client.job(), 1)
    task = one.dispatched(1)
    two = ready(master, name="two")
    one.ended(task, outcome={"kind": "infrastructure", "message": "no scope"})
    assert two.dispatched(1)[0]["attempt"] == 2


def test_unknown_policy_is_refused(master: Master) -> None:
    client = Client(master.port)
    task = client.submit(client.job(policy="lax"), 1)[0]
    outcome = client.results(1)[task]["outcome"]
    assert outcome["kind"] == "refused" and "lax" in outcome["message"]


def test_too_large_a_task_waits_and_says_why(master: Master) -> None:
    ready(master, name="small", cpus=2)
    client = Client(master.port)
    task = client.submit(client.job(cpus=64), 1)[0]
    assert "no node has 64 CPUs: the largest, small, has 2" in client.query("why", id=task)["sentence"]
    large = ready(master, name="large", cpus=64)
    large.run(1)
    client.results(1)


# What breaks


def test_session_comes_back(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    job = client.job()
    ids = client.submit(job, 2)
    first = agent.dispatched(2)
    client.close()
    agent.ended(first[:1], b"one")
    time.sleep(0.1)
    again = Client(master.port, session=client.session)
    assert again.welcome["session_kept"]
    result = again.expect("RESULT").json["results"][0]
    assert result["id"] == first[0]["id"] and "payload" not in result and result["size"] == 3
    again.send("FETCH", {"stream": 1, "task": result["id"], "attempt": 1, "what": "result", "size": 3, "window": 65536})
    fetch = agent.expect("FETCH").json
    assert fetch["what"] == "result" and fetch["task"] == result["id"] and fetch["stream"] % 2 == 0
    agent.send("DATA", {"stream": fetch["stream"]}, [b"one"])
    agent.send("END", {"stream": fetch["stream"]})
    assert again.expect("DATA").payloads == [b"one"]
    assert again.expect("END").json == {"stream": 1}
    again.send("ACK", {"tasks": [result["id"]]})
    agent.ended(first[1:], b"two")
    assert set(again.results(1)) <= set(ids)


def test_newer_connection_evicts(master: Master) -> None:
    client = Client(master.port)
    other = Client(master.port, session=client.session)
    assert client.expect("REFUSED").json["error"] == "evicted"
    client.wait_closed()
    assert other.query("version")["protocol"] == 1


def test_lost_session_is_cancelled(start: Callable[..., Master]) -> None:
    master = start(client_timeout="1s")
    agent, client = ready(master, cpus=1), Client(master.port)
    client.submit(client.job(), 2)
    task = agent.dispatched(1)[0]
    client.close()
    stop = agent.expect("STOP", 5).json["tasks"]
    assert [t["id"] for t in stop] == [task["id"]]
    agent.ended([task], outcome={"kind": "cancelled", "by": "x"})
    assert agent.expect("RELEASE").json["tasks"][0]["id"] == task["id"]
    assert not [f for f in agent.drain(0.3) if f.type == "DISPATCH"]


def test_goodbye_is_at_once(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    client.submit(client.job(), 1)
    agent.dispatched(1)
    client.goodbye()
    agent.expect("STOP")


def test_agent_returns_and_nothing_is_run_twice(master: Master) -> None:
    agent, client = ready(master, cpus=3), Client(master.port)
    ids = client.submit(client.job(), 3)
    running, ended, never = agent.dispatched(3)
    agent.started([running, ended])
    client.expect("STATUS")
    agent.close()
    again = Agent(master.port, cpus=3, boot_id=agent.boot_id, instance=agent.instance)
    assert again.report([reported(running, "running"),
                         reported(ended, "ended", outcome={"kind": "value"}, receipt={}, size=0)]) == []
    # The one that never arrived is sent once more, and that is no second attempt.
    task = again.dispatched(1)[0]
    assert (task["id"], task["attempt"]) == (never["id"], 1)
    again.ended([task, running], b"v")
    results = client.results(3)
    assert set(results) == set(ids) and {r["attempts"] for r in results.values()} == {1}


def test_agent_with_another_instance_has_lost_everything(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    client.submit(client.job(), 1)
    task = agent.dispatched(1)[0]
    agent.started([task])
    client.expect("STATUS")
    agent.close()
    again = ready(master, boot_id=agent.boot_id)
    assert again.dispatched(1)[0]["attempt"] == 2


def test_silent_node_is_suspect_then_lost(start: Callable[..., Master]) -> None:
    master = start(lease="3s", lease_margin="500ms", heartbeat_timeout="1500ms")
    one, client = ready(master, name="one"), Client(master.port)
    client.submit(client.job(), 1)
    one.started(one.dispatched(1))
    two = ready(master, name="two")
    operator = master.operator()

    def state(name: str) -> str:
        two.heartbeat()
        return str({n["name"]: n["state"] for n in operator.query("nodes")["nodes"]}[name])

    wait_until(lambda: state("one") == "suspect")
    wait_until(lambda: state("one") == "lost")
    task = two.dispatched(1)[0]
    assert task["attempt"] == 2
    # It wakes up: its attempt is superseded.
    back = Agent(master.port, name="one", boot_id=one.boot_id, instance=one.instance)
    assert back.report([reported({**task, "attempt": 1}, "frozen")]) == [{"id": task["id"], "attempt": 1}]
    two.ended([task], b"v")
    assert client.results(1)[task["id"]]["attempts"] == 2


def test_master_restart_adopts(master: Master) -> None:
    agent, client = ready(master, cpus=2), Client(master.port)
    job = client.job()
    ids = client.submit(job, 4)
    tasks = agent.dispatched(2)
    agent.started(tasks)
    master.kill()
    agent.close()
    client.close()
    master.start()
    client = Client(master.port, session=client.session)
    assert client.welcome["epoch"] == 2 and not client.welcome["session_kept"]
    client.send("SUBMIT", {"jobs": [{"id": job, "name": "f", "code": "0" * 64, "code_size": 10, "cpus": 1.0,
                                     "memory": 1 << 20}]})
    client.send("SUBMIT", {"tasks": [{"id": i, "job": job, "size": 0, "attempts": 1 if n < 2 else 0,
                                      "resubmitted": True} for n, i in enumerate(ids)], "synced": True})
    assert {client.query("task", id=i)["state"] for i in ids} == {"waiting"}
    fresh = client.submit(job, 1)
    again = Agent(master.port, cpus=3, boot_id=agent.boot_id, instance=agent.instance, epoch=1)
    stranger = reported({**tasks[0], "id": new_id()}, "running")
    stop = again.report([reported(tasks[0], "running"),
                         reported(tasks[1], "ended", outcome={"kind": "value"}, receipt={}, size=0), stranger])
    assert stop == [{"id": stranger["id"], "attempt": 1}]
    new = again.dispatched(2)
    assert {t["id"] for t in new} <= set(ids[2:] + fresh) and {t["attempt"] for t in new} == {1}
    again.ended([tasks[0], *new], b"v")
    again.run(1)
    results = client.results(5)
    assert set(results) == set(ids + fresh) and {r["attempts"] for r in results.values()} == {1}


def test_orphans_wait_for_their_client(start: Callable[..., Master]) -> None:
    master = start(client_timeout="1s")
    session = new_id()
    old = {"id": new_id(), "attempt": 1, "owner": "alice", "session": session, "job": new_id(), "name": "f",
           "cpus": 1, "memory": 1 << 20}
    agent = Agent(master.port)
    assert agent.report([reported(old, "running")]) == []
    stop = agent.expect("STOP", 5).json["tasks"]
    assert stop[0]["id"] == old["id"]


def test_stale_master(master: Master) -> None:
    agent = Agent(master.port, epoch=5, welcome=False)
    assert agent.expect("REFUSED").json["error"] == "stale"


# Streams


def test_large_argument_streams(master: Master) -> None:
    """64 MiB at the asker's pace; other clients are served meanwhile, and the master does not grow."""
    agent, client = ready(master), Client(master.port)
    size = 64 << 20
    task = client.submit(client.job(), 1, b"", size=size)[0]
    agent.dispatched(1)
    before = master.rss()
    agent.send("FETCH", {"stream": 1, "task": task, "attempt": 1, "what": "args", "size": size, "window": 1 << 20})
    fetch = client.expect("FETCH").json
    assert fetch["what"] == "args" and fetch["size"] == size
    allowed, sent, got, peak = fetch["window"], 0, 0, 0
    piece = os.urandom(256 << 10)
    while got < size:
        while sent < size and allowed - sent >= len(piece):
            client.send("DATA", {"stream": fetch["stream"]}, [piece])
            sent += len(piece)
        frame = agent.expect("DATA")
        got += len(frame.payloads[0])
        assert frame.payloads[0] == piece
        agent.send("CREDIT", {"stream": 1, "bytes": len(frame.payloads[0])})
        if got % (8 << 20) == 0:
            peak = max(peak, master.rss() - before)
        for credit in client.drain(0) if sent == allowed else []:
            assert credit.type in ("CREDIT", "STATUS"), credit
            allowed += credit.json.get("bytes", 0)
        if sent == allowed and got == sent and sent < size:
            allowed += client.expect("CREDIT").json["bytes"]
    client.send("END", {"stream": fetch["stream"]})
    assert agent.expect("END").json == {"stream": 1}
    assert peak < 16 << 20


def test_more_than_the_window_is_a_violation(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    task = client.submit(client.job(), 1, b"", size=10 << 20)[0]
    agent.dispatched(1)
    agent.send("FETCH", {"stream": 1, "task": task, "attempt": 1, "what": "args", "size": 10 << 20, "window": 300000})
    fetch = client.expect("FETCH").json
    for _ in range(2):
        client.send("DATA", {"stream": fetch["stream"]}, [bytes(200000)])
    client.wait_closed()


def test_stream_goes_on_after_the_owner_reconnected(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    data = os.urandom(100000)
    task = client.submit(client.job(), 1, b"", size=len(data))[0]
    agent.dispatched(1)
    agent.send("FETCH", {"stream": 1, "task": task, "attempt": 1, "what": "args", "size": len(data), "window": 200000})
    fetch = client.expect("FETCH").json
    client.send("DATA", {"stream": fetch["stream"]}, [data[:30000]])
    assert agent.expect("DATA").payloads == [data[:30000]]
    client.close()
    client = Client(master.port, session=client.session)
    fetch = client.expect("FETCH").json
    client.send("DATA", {"stream": fetch["stream"]}, [data[:50000]])
    client.send("DATA", {"stream": fetch["stream"]}, [data[50000:]])
    client.send("END", {"stream": fetch["stream"]})
    got = b""
    while len(got) < 70000:
        got += agent.expect("DATA").payloads[0]
    assert got == data[30000:]
    agent.expect("END")


def test_lost_result_is_computed_again(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    task = client.submit(client.job(), 1)[0]
    agent.ended(agent.dispatched(1), bytes(100), inline=False)
    result = client.results(1, ack=False)[task]
    client.send("FETCH", {"stream": 1, "task": task, "attempt": 1, "what": "result", "size": 100, "window": 65536})
    fetch = agent.expect("FETCH").json
    agent.send("END", {"stream": fetch["stream"], "error": "gone", "message": "not here"})
    assert client.expect("END").json["error"] == "gone"
    assert agent.dispatched(1)[0]["attempt"] == 2 and result["attempt"] == 1


def test_slow_client_gets_results_without_payloads(master: Master) -> None:
    """Its socket is full: nothing piles up here, and every result arrives in the end."""
    agent, client = ready(master, cpus=8), Client(master.port)
    ids = client.submit(client.job(cpus=0.01), 400)
    value = os.urandom(60000)
    before = master.rss()
    done = 0
    while done < 400:
        tasks = agent.dispatched(1)
        for task in tasks:
            agent.ended([task], value)
        done += len(tasks)
    assert master.rss() - before < 24 << 20
    results = client.results(400, 20)
    assert set(results) == set(ids)
    assert any("data" not in r for r in results.values())


# Strangers


def test_garbage_disturbs_nobody(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    hello = encode("HELLO", {"role": "client"})
    for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(300), hello[:10], hello[:-3],
                 hello[:8] + b"\xff\xff\xff\x7f" + hello[12:], b"CLPY\x09" + hello[5:], b"CLPY\x01\x63" + hello[6:],
                 encode("SUBMIT", {"tasks": []}), encode("HELLO", None), encode("HELLO", {"role": 5})):
        with Wire(port=master.port) as stranger:
            stranger.send_raw(data)
            stranger.end_sending()
            stranger.wait_closed()
    task = client.submit(client.job(), 1)[0]
    agent.run(1)
    assert task in client.results(1)


def test_broken_messages_end_only_their_connection(master: Master) -> None:
    agent = ready(master)
    for kind, body in (("SUBMIT", {"tasks": [{"id": "x"}]}), ("SUBMIT", {"tasks": 5}), ("SUBMIT", {"jobs": [1]}),
                       ("ACK", {"tasks": [5]}), ("CANCEL", {}), ("FETCH", {"stream": 2}), ("DISPATCH", {}),
                       ("SUBMIT", {"tasks": [{"id": new_id(), "job": new_id()}]}),
                       ("SUBMIT", {"tasks": [{"id": new_id(), "job": new_id(), "size": 5, "payload": 3}]})):
        client = Client(master.port)
        client.send(kind, body)
        client.wait_closed()
    client = Client(master.port)
    task = client.submit(client.job(), 1)[0]
    agent.run(1)
    assert task in client.results(1)


def test_versions(master: Master) -> None:
    refused = Client(master.port, python="3.12.1", welcome=False).expect("REFUSED").json
    assert refused["error"] == "version-mismatch" and refused["client"] == "3.12.1"
    assert refused["server"].startswith("3.11") and "3.12.1" in refused["message"]
    refused = Agent(master.port, python="3.10.0", welcome=False).expect("REFUSED").json
    assert refused["error"] == "version-mismatch"
    Client(master.port, python="3.11.7")
    with Wire(port=master.port) as other:
        other.send("HELLO", {"role": "client", "protocol": [2, 3], "user": "a"})
        refused = other.expect("REFUSED").json
        assert refused["error"] == "protocol" and refused["client"] == [2, 3] and refused["server"] == [1, 1]


def test_task_of_another_user_is_out_of_reach(master: Master) -> None:
    agent, alice, bob = ready(master, cpus=1), Client(master.port), Client(master.port, "bob")
    task = alice.submit(alice.job(), 1)[0]
    agent.dispatched(1)
    bob.send("CANCEL", {"tasks": [task]})
    for verb, args in (("cancel", {"ids": [task]}), ("task", {"id": task}), ("why", {"id": task}),
                       ("logs", {"id": task}), ("task", {"id": task[:8]}), ("attach", {"id": task})):
        with pytest.raises(LookupError, match="not-found"):
            bob.query(verb, **args)
    assert bob.query("cancel", job=alice.query("task", id=task)["job"])["cancelled"] == []
    assert bob.query("tasks", ended=True) == {"tasks": [], "total": 0}
    with pytest.raises(LookupError, match="not-allowed"):
        bob.query("drain", node="node1")
    job = bob.job()
    bob.send("SUBMIT", {"tasks": [{"id": task, "job": job, "size": 0}]})
    bob.send("ACK", {"tasks": [task]})
    bob.send("FETCH", {"stream": 1, "task": task, "attempt": 1, "what": "result", "size": 1, "window": 1000})
    assert bob.expect("END").json["error"] == "gone"
    assert alice.query("task", id=task)["state"] == "starting"
    assert bob.query("task", id=task)["state"] == "queued"


def same_id(first: Client, second: Client, **options: object) -> str:
    """A task of each under one id."""
    task = first.submit(first.job(**options), 1, b"of " + first.user.encode())[0]
    argument = b"of " + second.user.encode()
    second.send("SUBMIT", {"tasks": [{"id": task, "job": second.job(**options), "size": len(argument), "payload": 0}]},
                [argument])
    second.query("version")
    return task


def test_two_owners_have_the_same_id(master: Master) -> None:
    agent, alice, bob = ready(master), Client(master.port), Client(master.port, "bob")
    task = same_id(alice, bob)
    held = {t["owner"]: t for t in agent.dispatched(2)}
    assert held["alice"]["id"] != held["bob"]["id"] and task in (held["alice"]["id"], held["bob"]["id"])
    assert held["alice"]["attempt"] == held["bob"]["attempt"] == 1
    assert [agent.arguments[held[u]["id"]] for u in ("alice", "bob")] == [b"of alice", b"of bob"]
    agent.started(list(held.values()))
    agent.send("LOG", {"tasks": [{"id": held["bob"]["id"], "attempt": 1, "payload": 0}]}, [b"bob prints"])
    wait_until(lambda: bob.query("logs", id=task)["text"] == "bob prints")
    assert alice.query("logs", id=task)["text"] == ""
    bob.send("CANCEL", {"tasks": [task]})
    assert [s["id"] for s in agent.expect("STOP").json["tasks"]] == [held["bob"]["id"]]
    agent.ended([held["bob"]], outcome={"kind": "cancelled", "by": "bob"})
    agent.ended([held["alice"]], b"alice's")
    assert alice.results(1)[task]["data"] == b"alice's"
    assert bob.results(1)[task]["outcome"]["kind"] == "cancelled"
    agent.send("LOG", {"tasks": [{"id": held["alice"]["id"], "attempt": 1, "payload": 0}]}, [b"her last words"])
    wait_until(lambda: alice.query("logs", id=task)["text"] == "her last words")
    assert bob.query("logs", id=task)["text"] == "bob prints"
    assert bob.query("task", id=task)["owner"] == "bob" and alice.query("task", id=task)["owner"] == "alice"
    # What another had lately is not taken for one's own either.
    second = bob if held["alice"]["id"] == task else alice
    second.send("SUBMIT", {"tasks": [{"id": task, "job": second.job(), "size": 0}]})
    assert agent.dispatched(1)[0]["id"] == held[second.user]["id"]


def test_the_same_id_after_a_restart(master: Master) -> None:
    agent, alice, bob = ready(master), Client(master.port), Client(master.port, "bob")
    task = same_id(alice, bob)
    held = agent.dispatched(2)
    agent.started(held)
    master.kill()
    master.start()
    # One comes back before the node has reported, one after.
    bob = Client(master.port, "bob", session=bob.session)
    job = bob.job()
    bob.send("SUBMIT", {"tasks": [{"id": task, "job": job, "size": 0, "resubmitted": True, "attempts": 1}], "synced": True})
    bob.query("version")
    agent = Agent(master.port, boot_id=agent.boot_id, instance=agent.instance)
    assert agent.report([reported(t, "running") for t in held]) == []
    alice = Client(master.port, session=alice.session)
    job = alice.job()
    alice.send("SUBMIT", {"tasks": [{"id": task, "job": job, "size": 0, "resubmitted": True, "attempts": 1}], "synced": True})
    for t in held:
        agent.ended([t], t["owner"].encode())
    assert alice.results(1)[task]["data"] == b"alice" and bob.results(1)[task]["data"] == b"bob"
    assert not [f for f in agent.drain(0.2) if f.type == "DISPATCH"]


# Detached calls


def fetch(agent: Wire, stream: int, task: str, what: str, size: int) -> bytes:
    """All of it, at a small window."""
    agent.send("FETCH", {"stream": stream, "task": task, "attempt": 1, "what": what, "size": size, "window": 100000})
    got = b""
    while True:
        frame = agent.receive()
        if frame.type == "END":
            assert "error" not in frame.json, frame.json
            return got
        if frame.type == "DATA":
            got += frame.payloads[0]
            agent.send("CREDIT", {"stream": stream, "bytes": len(frame.payloads[0])})


def give(owner: Wire, data: bytes) -> None:
    """Answers one FETCH."""
    asked = owner.expect("FETCH").json
    assert asked["size"] == len(data)
    sent, allowed = 0, asked["window"]
    while sent < len(data):
        piece = data[sent:sent + min(allowed - sent, 200000)]
        if piece:
            owner.send("DATA", {"stream": asked["stream"]}, [piece])
            sent += len(piece)
        else:
            allowed += owner.expect("CREDIT").json["bytes"]
    owner.send("END", {"stream": asked["stream"]})


def test_detached_outlives_client_and_master(master: Master) -> None:
    code, argument, value = os.urandom(5000), os.urandom(700000), os.urandom(900000)
    client = Client(master.port)
    job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=len(code), name="night")
    task = client.submit(job, 1, b"", size=len(argument))[0]
    give(client, argument)
    give(client, code)
    client.query("version")
    client.goodbye()
    wait_until(lambda: master.operator().query("task", id=task)["state"] == "queued")
    master.kill()
    master.start()
    agent = Agent(master.port, report=[])
    held = agent.dispatched(1)
    assert held[0]["id"] == task and held[0]["name"] == "night"
    assert fetch(agent, 1, task, "args", len(argument)) == argument
    assert fetch(agent, 3, task, "code", len(code)) == code
    agent.started(held)
    agent.ended(held, value, inline=False)
    give(agent, value)
    assert agent.expect("RELEASE").json["tasks"][0]["id"] == task
    master.kill()
    master.start()
    with pytest.raises(LookupError, match="not-found"):
        Client(master.port, "bob").query("attach", id=task)
    back = Client(master.port)
    assert back.query("attach", id=task)["state"] == "ended"
    result = back.results(1, ack=False)[task]
    assert result["outcome"] == {"kind": "value"} and result["size"] == len(value) and result["node"] == "node1"
    assert fetch(back, 1, task, "result", len(value)) == value
    back.send("ACK", {"tasks": [task]})
    back.query("version")
    back.goodbye()
    # The result is all that is needed now, and it is kept: for the same user, also after another start.
    assert [f.name for f in kept(master)] == [f"{task}-alice.result"]
    master.kill()
    master.start()
    for _ in range(2):
        again = Client(master.port)
        assert again.query("attach", id=task)["state"] == "ended"
        assert again.results(1, ack=False)[task]["size"] == len(value)
        assert fetch(again, 1, task, "result", len(value)) == value
        again.send("ACK", {"tasks": [task]})
        again.goodbye()
    wait_until(lambda: master.operator().query("cancel", ids=[task])["cancelled"] == [task])
    assert not kept(master)
    with pytest.raises(LookupError, match="not-found"):
        Client(master.port).query("attach", id=task)


def kept(master: Master) -> list[Path]:
    return list((master.directory / "state" / ".detached").iterdir())


def test_detached_with_wrong_code_is_refused(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    job = client.job(detach=True, code="0" * 64, code_size=5)
    task = client.submit(job, 1, b"argument")[0]
    assert "disk" in client.query("why", id=task)["sentence"]
    give(client, b"wrong")
    outcome = client.results(1)[task]["outcome"]
    assert outcome["kind"] == "refused" and outcome["reason"] == "rejected" and "hash" in outcome["message"]
    assert not [f for f in agent.drain(0.2) if f.type == "DISPATCH"] and not kept(master)


def test_detached_beyond_the_bound_is_refused(start: Callable[..., Master]) -> None:
    master = start(detached="{total: 1M, size: 900K, share: 1}")
    client, code = Client(master.port), b"code!"
    job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
    first = client.submit(job, 1, size=800_000)[0]
    for _ in range(2):
        asked = client.expect("FETCH")
        client.inbox.insert(0, asked)
        give(client, code if asked.json["what"] == "code" else bytes(800_000))
    for size, word in ((400_000, "detached.total"), (1_000_000, "detached.size")):
        task = client.submit(job, 1, size=size)[0]
        outcome = client.results(1)[task]["outcome"]
        assert outcome["kind"] == "refused" and outcome["reason"] == "rejected" and word in outcome["message"]
    # What ends gives its room back.
    assert client.query("cancel", ids=[first])["cancelled"] == [first]
    client.results(1)
    small = client.submit(job, 1, b"x" * 1000)[0]
    give(client, code)
    wait_until(lambda: client.query("task", id=small)["state"] == "queued")


def test_detached_have_a_share_per_owner(start: Callable[..., Master]) -> None:
    master = start(detached="{total: 1M}")
    code = b"code!"

    def keep(client: Client, size: int) -> str:
        job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
        task = client.submit(job, 1, size=size)[0]
        for _ in range(2):
            asked = client.expect("FETCH")
            client.inbox.insert(0, asked)
            give(client, code if asked.json["what"] == "code" else bytes(size))
        wait_until(lambda: client.query("task", id=task)["state"] == "queued")
        return task

    def refused(client: Client, size: int) -> Json:
        job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
        task = client.submit(job, 1, size=size)[0]
        outcome: Json = client.results(1)[task]["outcome"]
        assert outcome["kind"] == "refused"
        return outcome

    alice, bob, carol = Client(master.port), Client(master.port, "bob"), Client(master.port, "carol")
    # Half of it, unless the configuration says otherwise; one call alone may be too much.
    outcome = refused(alice, 600_000)
    assert outcome["reason"] == "quota" and outcome["message"].startswith("detached calls of alice may take 512.0K")
    first = keep(alice, 400_000)
    assert refused(alice, 200_000)["reason"] == "quota"
    keep(bob, 500_000)
    # What is left of the whole is too little for anybody.
    assert refused(carol, 400_000)["reason"] == "rejected"
    # It is counted anew at a start, and comes back when it is given up.
    master.kill()
    master.start()
    alice = Client(master.port)
    assert refused(alice, 200_000)["reason"] == "quota"
    assert alice.query("cancel", ids=[first])["cancelled"] == [first]
    keep(alice, 200_000)


def test_detached_running_goes_on_without_its_client(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    code = b"code!"
    job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
    task = client.submit(job, 1, b"argument")[0]
    give(client, code)
    held = agent.dispatched(1)
    agent.started(held)
    client.query("version")
    client.goodbye()
    assert not [f for f in agent.drain(0.3) if f.type == "STOP"]
    other = Client(master.port)
    assert other.query("attach", id=task)["state"] == "running"
    agent.ended(held, b"value")
    assert other.results(1)[task]["data"] == b"value"


def test_all_who_attached_hear_of_the_end(master: Master) -> None:
    agent, first = ready(master), Client(master.port)
    code = b"code!"
    job = first.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
    ended, cancelled = first.submit(job, 2, b"argument")
    give(first, code)
    held = {order["id"]: order for order in agent.dispatched(2)}
    agent.started(list(held.values()))
    second, gone, third = Client(master.port), Client(master.port), Client(master.port)
    for client in (second, gone, third):
        for task in held:
            assert client.query("attach", id=task)["state"] == "running"
    gone.goodbye()
    # Whoever waits for its turn may cancel too.
    first.send("CANCEL", {"tasks": [cancelled]})
    stop = agent.expect("STOP").json["tasks"][0]
    assert (stop["id"], stop["why"]) == (cancelled, "cancelled")
    agent.ended([held[ended]], b"value", inline=False)
    give(agent, b"value")
    for number, client in enumerate((third, second, first)):
        result = client.results(1, ack=False)[ended]
        assert result["outcome"] == {"kind": "value"}
        assert fetch(client, 2 * number + 1, ended, "result", 5) == b"value"
        if client is third:  # it leaves without a word
            client.goodbye()
        else:
            client.send("ACK", {"tasks": [ended]})
    assert first.query("attach", id=ended)["state"] == "ended"


def test_many_detached_delay_nobody(master: Master) -> None:
    client, other, code = Client(master.port), Client(master.port, "bob"), b"code!"
    job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
    ids = client.submit(job, 600, b"argument")
    began = time.monotonic()
    other.query("version")
    assert time.monotonic() - began < 1
    while True:  # code and arguments as they are asked for, until all is on the disk
        for frame in [f for f in client.drain(0.3) if f.type == "FETCH"]:
            stream = {"stream": frame.json["stream"]}
            client.send("DATA", stream, [code if frame.json["what"] == "code" else b"argument"])
            client.send("END", stream)
        folder = master.directory / "state" / ".detached"
        if len(list(folder.glob("*.args"))) == 600 and len(list(folder.glob("code-*"))) == 1:
            break
    client.goodbye()
    back = Client(master.port)
    assert back.query("attach", id=ids[-1])["state"] == back.query("attach", id=ids[0])["state"] == "queued"


# Queries


def test_status_and_lists(master: Master) -> None:
    agent, client, operator = ready(master, cpus=1), Client(master.port), master.operator()
    ids = client.submit(client.job(name="primes"), 3)
    task = agent.dispatched(1)[0]
    agent.started([task])
    status = operator.query("status")
    insecure = isinstance(ways.default(), ways.Plain)
    assert status["nodes"] == {"ready": 1, "suspect": 0, "lost": 0, "drained": 0}
    assert status["tasks"]["queued"] == 2 and status["clients"] == 1 and status["insecure"] is insecure
    assert status["listen"] == [f"127.0.0.1:{master.port}"]
    rows = operator.query("tasks", owner="alice", limit=2)
    assert rows["total"] == 3 and len(rows["tasks"]) == 2 and rows["tasks"][0]["name"] == "primes"
    assert operator.query("tasks", state="running")["total"] == 1
    agent.ended([task], outcome={"kind": "memory", "limit": 64 << 20, "peak": 65 << 20})
    client.results(1)
    row = operator.query("task", id=task["id"][:12])
    assert row["outcome"]["kind"] == "memory" and row["receipt"]["run_us"] == 1000
    sentence = operator.query("why", id=task["id"])["sentence"]
    assert "64" in sentence and "65" in sentence and "node1" in sentence and "memory" in sentence
    assert operator.query("tasks", ended=True)["total"] == 3
    with pytest.raises(LookupError, match="not-found"):
        operator.query("task", id=new_id())
    with pytest.raises(LookupError, match="invalid-argument"):
        operator.query("task", id="zz")
    with pytest.raises(LookupError, match="invalid-argument"):
        operator.query("dance")
    assert operator.query("cancel", ids=[ids[1]])["cancelled"] == [ids[1]]


def test_drain_outlives_the_master(master: Master) -> None:
    agent, client, operator = ready(master), Client(master.port), master.operator()
    client.submit(client.job(), 1)
    task = agent.dispatched(1)
    assert operator.query("drain", node="node1") == {"node": "node1", "state": "draining", "running": 1}
    client.submit(client.job(), 1)
    agent.ended(task, b"v")
    client.results(1)
    assert operator.query("nodes")["nodes"][0]["state"] == "drained"
    assert not [f for f in agent.drain(0.2) if f.type == "DISPATCH"]
    master.kill()
    master.start()
    agent = Agent(master.port, boot_id=agent.boot_id, instance=agent.instance)
    agent.report([])
    operator = master.operator()
    assert operator.query("nodes")["nodes"][0]["state"] == "drained"
    assert operator.query("undrain", node="node1")["state"] == "ready"


def test_logs(master: Master) -> None:
    agent, client, operator = ready(master), Client(master.port), master.operator()
    task = client.submit(client.job(), 1)[0]
    held = agent.dispatched(1)
    operator.send("QUERY", {"id": 77, "verb": "logs", "args": {"id": task, "follow": True}})
    operator.query("version")
    entry: Json = {"id": task, "attempt": 1, "payload": 0}
    agent.send("LOG", {"tasks": [entry]}, [b"one\n"])
    answer = operator.expect("ANSWER", where=lambda f: f.json["id"] == 77).json
    assert answer["result"]["text"] == "one\n" and answer["more"]
    agent.ended(held, b"v")
    agent.send("LOG", {"tasks": [entry]}, [b"two\xff\n"])
    text = operator.expect("ANSWER", where=lambda f: f.json["id"] == 77).json["result"]["text"]
    assert text.startswith("two")
    client.results(1)
    last = operator.expect("ANSWER", where=lambda f: f.json["id"] == 77).json
    assert last["result"]["ended"] and not last.get("more")
    whole = operator.query("logs", id=task)
    assert whole["text"] == "one\ntwo?\n" and whole["ended"] and whole["offset"] == 9
    assert operator.query("logs", id=task, offset=4)["text"] == "two?\n"


def test_last_words_of_a_detached_task(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    code = b"code!"
    job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
    task = client.submit(job, 1, b"argument")[0]
    give(client, code)
    held = agent.dispatched(1)
    agent.started(held)
    agent.ended(held, b"value")
    client.results(1, ack=False)
    give(agent, b"value")
    agent.expect("RELEASE")
    entry: Json = {"id": task, "attempt": 1, "payload": 0}
    # Of another attempt, of another node, and then its own.
    agent.send("LOG", {"tasks": [{**entry, "attempt": 2}]}, [b"no\n"])
    other = ready(master, name="node2")
    other.send("LOG", {"tasks": [entry]}, [b"never\n"])
    other.heartbeat()
    other.expect("HEARTBEAT_ACK")
    agent.send("LOG", {"tasks": [entry]}, [b"last words\n"])
    wait_until(lambda: client.query("logs", id=task)["text"] == "last words\n")


def test_logs_are_their_owners(master: Master) -> None:
    agent, client, bob = ready(master), Client(master.port), Client(master.port, "bob")
    task = client.submit(client.job(), 1)[0]
    agent.dispatched(1)
    agent.send("LOG", {"tasks": [{"id": task, "attempt": 1, "payload": 0}]}, [b"a secret\n"])
    wait_until(lambda: client.query("logs", id=task)["text"] == "a secret\n")
    for number, follow in enumerate((False, True)):
        bob.send("QUERY", {"id": 500 + number, "verb": "logs", "args": {"id": task, "follow": follow}})
        answer = bob.expect("ANSWER", where=lambda f: f.json["id"] == 500 + number).json
        assert not answer["ok"] and answer["error"] == "not-found" and "secret" not in str(answer)


def test_queries_take_turns(master: Master) -> None:
    client, other = Client(master.port), Client(master.port, "bob")
    ids = client.submit(client.job(), 3000)
    n = 4000
    flood = b"".join(encode("QUERY", {"id": 1000 + i, "verb": "task", "args": {"id": ids[i % 3000][:8]}})
                     for i in range(n))
    sender = threading.Thread(target=client.send_hearing, args=(flood,))
    sender.start()
    began = time.monotonic()
    assert other.query("version")["protocol"] == 1
    assert time.monotonic() - began < 3
    sender.join()
    answers = [client.expect("ANSWER", 30).json for _ in range(n)]
    assert {a["id"] for a in answers} == set(range(1000, 1000 + n))
    assert {a.get("error", "ok") for a in answers} <= {"ok", "busy"} and answers[0]["ok"]
    assert client.query("task", id=ids[0])["id"] == ids[0]


def test_cancelling_many_takes_whole_ids(master: Master) -> None:
    client = Client(master.port)
    ids = client.submit(client.job(), 200)
    client.send("QUERY", {"id": 7, "verb": "cancel", "args": {"ids": [i[:8] for i in ids]}})
    answer = client.expect("ANSWER", where=lambda f: f.json["id"] == 7).json
    assert not answer["ok"] and answer["error"] == "invalid-argument" and "whole" in answer["message"]
    assert len(client.query("cancel", ids=ids)["cancelled"]) == 200


def test_progress(master: Master) -> None:
    agent, client = ready(master), Client(master.port)
    task = client.submit(client.job(), 1)[0]
    agent.started(agent.dispatched(1))
    agent.send("PROGRESS", {"tasks": [{"id": task, "attempt": 1, "done": 3, "total": 10, "note": "half"}]})
    status = client.expect("STATUS", where=lambda f: "progress" in f.json["tasks"][0]).json["tasks"][0]
    assert status["progress"] == {"done": 3, "total": 10, "note": "half"}


# Nobody takes everything

MANY = "{unproven: 4096, unproven_per_address: 4096, rate: 1000000, burst: 1000000}"
# With so many connections TLS would take most of the time, and it is not what is looked at.
PLAIN = ways.Plain()


def say_operator(master: Master, user: str) -> tuple[Wire, str]:
    """The connection, and the answer's type or, of REFUSED, its code."""
    wire = Wire(port=master.port, way=PLAIN)
    wire.send("HELLO", {"role": "operator", "protocol": [1, 1], "software": "0.1.0", "user": user})
    answer = wire.receive()
    return wire, answer.json.get("error", answer.type)


@pytest.fixture
def local() -> Iterator[str]:
    """The path of a UNIX socket, which is short."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"{folder}/socket"


def say_root(path: str) -> Wire:
    """An administrator's connection."""
    wire = Wire(path=path)
    wire.send("HELLO", {"role": "operator", "protocol": [1, 1], "software": "0.1.0"})
    wire.expect("WELCOME")
    return wire


def test_one_owner_has_a_share_of_connections(start: Callable[..., Master], local: str) -> None:
    master = start(limits=MANY, insecure="['127.0.0.1:PORT']", socket=local)
    held = [say_operator(master, "alice") for _ in range(256)]
    assert {answer for _, answer in held} == {"WELCOME"}
    beyond = Client(master.port, welcome=False, way=PLAIN).expect("REFUSED").json
    assert beyond["error"] == "busy" and beyond["message"].startswith("alice has 256 connections")
    assert say_operator(master, "alice")[1] == "busy"
    assert say_operator(master, "bob")[1] == "WELCOME"
    # Its own client takes over from itself, an administrator is not counted, and who leaves makes room.
    for wire, _ in held:
        wire.close()
    wait_until(lambda: say_operator(master, "alice")[1] == "WELCOME")
    administrators = [say_root(local) for _ in range(257)]
    assert query(administrators[-1], "status", {})["clients"] == 0
    for wire in administrators:
        wire.close()


def test_a_full_owner_comes_back_to_its_session(start: Callable[..., Master]) -> None:
    master = start(limits=MANY, insecure="['127.0.0.1:PORT']")
    client = Client(master.port, way=PLAIN)
    held = [say_operator(master, "alice") for _ in range(255)]
    again = Client(master.port, session=client.session, way=PLAIN)
    assert again.welcome["session_kept"] and held[-1][1] == "WELCOME"
    assert client.expect("REFUSED").json["error"] == "evicted"
    assert say_operator(master, "alice")[1] == "busy"
    for wire, _ in held:
        wire.close()


def test_one_owner_has_a_share_of_sessions(start: Callable[..., Master]) -> None:
    master = start(limits=MANY, insecure="['127.0.0.1:PORT']", client_timeout="10min")
    for _ in range(1024):
        Client(master.port, way=PLAIN).close()  # without a goodbye: its session is kept
    beyond = Client(master.port, welcome=False, way=PLAIN).expect("REFUSED").json
    assert beyond["error"] == "busy" and beyond["message"].startswith("alice has 1024 clients")
    Client(master.port, "bob", way=PLAIN)


def test_strangers_take_no_place_of_the_socket_nor_of_who_comes(start: Callable[..., Master], local: str) -> None:
    master = start(limits="{unproven: 8, unproven_per_address: 100}", socket=local)
    idle = [socket.create_connection(("127.0.0.1", master.port)) for _ in range(40)]
    with say_root(local) as root:
        assert query(root, "status", {})["strangers"]["unproven"] <= 8
    # The oldest of those who say nothing goes when somebody comes.
    assert master.operator().query("status")["strangers"]["refused"]["unproven"] == 0
    idle[0].settimeout(10)
    assert idle[0].recv(1) == b""
    for one in idle:
        one.close()


def test_a_name_makes_no_administrator(start: Callable[..., Master], local: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    master = start(listen=f"['127.0.0.1:PORT', '127.0.0.1:{port}']", insecure=f"['127.0.0.1:{port}']", socket=local,
                   access="{users: {ops: {rights: [run, manage-all]}}}")
    ready(master)
    bob = Client(master.port, "bob")
    task = bob.submit(bob.job(cpus=100.0), 1)[0]
    for user in ("root", "ops"):
        plain = Operator(port, user, PLAIN)
        assert plain.welcome["insecure"] and plain.query("status")["insecure"]
        assert plain.query("tasks")["tasks"] == []
        for verb, args in (("task", {"id": task}), ("cancel", {"ids": [task]})):
            with pytest.raises(LookupError, match="not-found"):
                plain.query(verb, **args)
        with pytest.raises(LookupError, match="not-allowed"):
            plain.query("drain", node="node1")
    # Its own it may have there, as everybody.
    own = Client(port, "root", way=PLAIN)
    mine = own.submit(own.job(cpus=100.0), 1)[0]
    assert own.query("cancel", ids=[mine])["cancelled"] == [mine]
    # Who has proved it may.
    with say_root(local) as root:
        assert query(root, "task", {"id": task})["owner"] == "bob"
    with Wire(port=master.port, identity="clupy:user:ops") as ops:
        ops.send("HELLO", {"role": "operator", "protocol": [1, 1], "software": "0.1.0"})
        ops.expect("WELCOME")
        assert query(ops, "cancel", {"ids": [task]})["cancelled"] == [task]


def test_strangers_do_not_fill_the_journal(start: Callable[..., Master]) -> None:
    if not isinstance(ways.default(), ways.Issued):
        pytest.skip("in plaintext nobody has a certificate")
    master = start(limits=MANY)
    nobody = ways.Tls(None, None)
    begin = time.monotonic()
    for _ in range(150):
        with Wire(port=master.port, way=nobody) as stranger:
            stranger.send("HELLO", {"role": "operator", "protocol": [1, 1], "user": "root"})
            assert stranger.expect("REFUSED").json["error"] == "not-allowed"
    for _ in range(50):
        with Wire(port=master.port, way=nobody) as stranger:
            stranger.send("JOIN", {"token": "0" * 16, "secret": "0" * 32, "node": "node1", "request": "none"})
            assert stranger.expect("REFUSED").json["error"] in ("busy", "not-allowed")
    lasted = time.monotonic() - begin
    lines = [line for line in master.log.read_text().splitlines() if "Refused " in line or "gets no certificate" in line]
    assert 0 < len(lines) <= lasted + 2
    # Who has shown a certificate is told of each time, and what was kept back is counted.
    time_of_next = time.monotonic() + 1.1
    wait_until(lambda: time.monotonic() > time_of_next)
    with Wire(port=master.port, way=nobody) as stranger:
        stranger.send("HELLO", {"role": "operator", "protocol": [1, 1], "user": "root"})
        stranger.expect("REFUSED")
    for _ in range(3):
        with Wire(port=master.port, identity="clupy:user:eve") as eve:
            eve.send("HELLO", {"role": "operator", "protocol": [1, 1], "user": "root"})
            eve.expect("REFUSED")
    text = master.log.read_text()
    assert re.search(r"Refused somebody at 127\.0\.0\.1.* \(and \d+ more of this address since\)", text)
    assert text.count("Refused eve at") == 3


# Configuration


def test_plaintext_is_for_addresses_that_are_listed(program: Path, tmp_path: Path) -> None:
    config = tmp_path / "master.yaml"
    config.write_text('listen: ["0.0.0.0:0"]\ninsecure: true\n')
    done = subprocess.run([program, "--config", config, "--check-config"], capture_output=True, text=True)
    assert done.returncode == 78 and "addresses that are in 'listen' too" in done.stderr
    config.write_text('listen: ["0.0.0.0:0"]\ninsecure: ["0.0.0.0:0"]\n')
    done = subprocess.run([program, "--config", config, "--check-config"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == f"{config}: ok\n"
    config.write_text("lease: soon\n")
    done = subprocess.run([program, "--config", config, "--check-config"], capture_output=True, text=True)
    assert done.returncode == 78 and f"{config}:1" in done.stderr and "lease" in done.stderr


def test_idle_is_small(start: Callable[..., Master]) -> None:
    master = start()
    agent, client = ready(master, cpus=8), Client(master.port)
    client.submit(client.job(cpus=0.5), 3000, b"x" * 1000)
    agent.run(3000)
    client.results(3000, 30)
    wait_until(lambda: master.rss() <= 12 << 20, 5)


def test_closed_is_seen(master: Master) -> None:
    wire = Wire(port=master.port)
    master.stop()
    with pytest.raises(Closed):
        wire.receive()

# SPDX-License-Identifier: Apache-2.0
"""What the section `access` allows whom, at a clupy-masterd alone: refusals, quotas, rights, and all of it changed while
the master runs."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from test_masterd_wire import Master, give, program, ready, start, wait_until
from wire import Agent, Client, Closed, Operator

__all__ = ["program", "start"]  # fixtures

TABLE = """{default: {running: 2, priority: 10},
 users: {alice: {running: 3, cpus: 4, policies: [default, gpu]}, vera: {rights: [view-all]}, mona: {rights: [run, manage-all]}},
 groups: {science: {members: [bob], priority: 50, memory: 1G}}}""".replace("\n", "")


@pytest.fixture
def master(start: Callable[..., Master]) -> Master:
    return start(access=TABLE, policies="[default, gpu]")


def refused(client: Client, **job: object) -> tuple[str, str]:
    """The reason and the sentence."""
    task = client.submit(client.job(**job), 1)[0]
    outcome = client.results(1)[task]["outcome"]
    assert outcome["kind"] == "refused", outcome
    return outcome["reason"], outcome["message"]


def journal(master: Master, text: str) -> int:
    return sum(text in line for line in master.log.read_text().splitlines() if "Refused" in line)


def test_what_is_not_allowed_is_refused(master: Master) -> None:
    alice, bob, eve = Client(master.port), Client(master.port, "bob"), Client(master.port, "eve")
    reason, message = refused(eve, policy="gpu")
    assert reason == "not-allowed" and "gpu" in message and "eve" in message
    assert refused(eve, policy="none-such")[0] == "unknown"
    reason, message = refused(eve, priority=11)
    assert reason == "not-allowed" and "at most 10" in message
    assert refused(bob, priority=51)[0] == "not-allowed"
    reason, message = refused(alice, retries=101)
    assert reason == "not-allowed" and "at most 100 retries (max_retries), not 101" in message
    alice.submit(alice.job(retries=100), 1)
    assert refused(Client(master.port, "vera"))[0] == "not-allowed"
    # What could never run is refused, and does not wait for ever.
    assert refused(alice, cpus=5.0)[0] == "quota"
    assert refused(bob, memory=2 << 30)[0] == "quota"
    bob.submit(bob.job(priority=50), 1)
    alice.submit(alice.job(policy="gpu"), 1)
    assert Operator(master.port).query("tasks")["total"] == 3
    assert journal(master, "Refused eve at 127.0.0.1:") == 3 and journal(master, "Refused bob at") == 2


def test_one_entry_for_many_calls_of_a_job(master: Master) -> None:
    eve = Client(master.port, "eve")
    eve.submit(eve.job(policy="gpu"), 50)
    eve.results(50)
    assert journal(master, "Refused eve") == 1


def test_quota_makes_calls_wait(master: Master) -> None:
    agent, alice, eve = ready(master, cpus=16), Client(master.port), Client(master.port, "eve")
    hers = alice.submit(alice.job(), 5)
    his = eve.submit(eve.job(), 3)
    held = agent.dispatched(5)
    assert sorted(t["owner"] for t in held) == ["alice"] * 3 + ["eve"] * 2
    assert not [f for f in agent.drain(0.3) if f.type == "DISPATCH"]
    why = alice.query("why", id=hers[-1])["sentence"]
    assert "alice has 3 calls running, which is the limit" in why
    assert "eve has 2 calls running" in eve.query("task", id=his[-1])["why_waiting"]
    agent.ended([t for t in held if t["owner"] == "alice"][:1], b"v")
    assert agent.dispatched(1)[0]["owner"] == "alice"


def test_rights_over_the_tasks_of_others(master: Master) -> None:
    agent, alice = ready(master), Client(master.port)
    task = alice.submit(alice.job(), 1)[0]
    agent.dispatched(1)
    eve, vera, mona = (Client(master.port, user) for user in ("eve", "vera", "mona"))
    with pytest.raises(LookupError, match="not-found"):
        eve.query("task", id=task)
    assert vera.query("task", id=task)["owner"] == "alice" and vera.query("tasks")["total"] == 1
    assert vera.query("why", id=task[:6])["id"] == task
    for verb, args in (("cancel", {"ids": [task]}), ("logs", {"id": task}), ("drain", {"node": "node1"})):
        with pytest.raises(LookupError, match="not-allowed"):
            vera.query(verb, **args)
    assert journal(master, "Refused vera at") == 3
    assert mona.query("logs", id=task)["text"] == ""
    assert mona.query("drain", node="node1")["state"] == "draining"
    assert mona.query("cancel", ids=[task])["cancelled"] == [task]
    assert agent.expect("STOP").json["tasks"][0]["by"] == "mona"


def rewrite(master: Master, **changes: str) -> None:
    """Puts keys into the file, or takes them out, and has the master read it."""
    lines = [line for line in master.config.read_text().splitlines() if line.split(":")[0] not in changes]
    lines += [f"{key}: {value}" for key, value in changes.items() if value]
    before = reload(master)
    master.config.write_text("\n".join(lines) + "\n")
    assert master.process
    master.process.send_signal(signal.SIGHUP)
    wait_until(lambda: reload(master) != before)


def reload(master: Master) -> object:
    return Operator(master.port).query("status")["reload"]


def test_reload(master: Master) -> None:
    agent, alice, eve = ready(master, cpus=16), Client(master.port), Client(master.port, "eve")
    alice.submit(alice.job(), 10)
    agent.dispatched(3)
    refused(eve, policy="gpu")
    job = eve.job(policy="gpu")
    rewrite(master, access="{default: {running: 6, policies: [default, gpu]}}")
    status = Operator(master.port).query("status")
    assert status["reload"]["error"] is None and status["reload"]["restart_needed"] == []
    # At once: more of hers, and a job that was refused before.
    agent.dispatched(3)
    eve.submit(job, 1)
    assert agent.dispatched(1)[0]["owner"] == "eve"
    # A mistake changes nothing, and is told.
    rewrite(master, access="{default: {running: 1}}", lease="15 parsecs")
    status = Operator(master.port).query("status")
    assert "lease" in status["reload"]["error"] and any("mistake" in w for w in status["warnings"])
    assert "stays as it was" in master.log.read_text()
    eve.submit(job, 1)
    assert agent.dispatched(1)[0]["owner"] == "eve"
    # What needs a restart is named; the rest applies.
    rewrite(master, access="{default: {running: 1}}", lease="20s")
    status = Operator(master.port).query("status")
    assert status["reload"]["restart_needed"] == ["lease"] and any("restart" in w for w in status["warnings"])
    eve.submit(job, 1)
    assert not [f for f in agent.drain(0.3) if f.type == "DISPATCH"]


def test_closed_to_those_who_are_in_no_entry(start: Callable[..., Master]) -> None:
    master = start(access="{default: none, users: {alice: {}}}")
    alice = Client(master.port)
    alice.submit(alice.job(), 1)
    with pytest.raises(Closed):
        Client(master.port, "eve")
    assert journal(master, "Refused eve at") == 1
    assert Operator(master.port, "eve").query("tasks")["total"] == 1  # an administrator needs no entry
    # A running session loses its rights with its entry.
    rewrite(master, access="{default: none, users: {bob: {}}}")
    assert refused(alice)[0] == "not-allowed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state directory on a file system of 40M."""
    state = tmp_path / "state"
    state.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40M", "none", state]).returncode != 0:
        pytest.skip("mounting needs root")
    yield state
    subprocess.run(["umount", "--lazy", state], check=True)


def test_full_disk_refuses_what_is_detached(small_disk: Path, start: Callable[..., Master]) -> None:
    master = start()
    client, code, argument = Client(master.port), b"code!", os.urandom(20 << 20)
    job = client.job(detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
    kept = client.submit(job, 1, size=len(argument))[0]
    for _ in range(2):
        asked = client.expect("FETCH")
        client.inbox.insert(0, asked)
        give(client, code if asked.json["what"] == "code" else argument)
    wait_until(lambda: client.query("task", id=kept)["state"] == "queued")
    assert (small_disk / ".detached" / f"{kept}-alice.args").read_bytes() == argument
    reason, message = refused(client, detach=True, code="0" * 64, code_size=30 << 20)
    assert reason == "rejected" and "disk" in message and str(small_disk) in message
    (small_disk / "filler").write_bytes(bytes(small_disk_left(small_disk)))
    reason, message = refused(client, detach=True, code=hashlib.sha256(code).hexdigest(), code_size=5)
    assert reason == "rejected" and "disk is full" in message and journal(master, "Refused alice at") == 2
    # What needs no disk goes on, and a master that cannot start says what to do.
    plain = client.submit(client.job(), 1, b"x")[0]
    assert client.query("task", id=plain)["state"] == "queued"
    master.kill()
    assert subprocess.run([master.program, "--config", master.config], stderr=master.log.open("a")).returncode == 1
    assert "the disk is full: make room there" in master.log.read_text()
    (small_disk / "filler").unlink()
    master.start()
    assert Operator(master.port).query("task", id=kept)["state"] == "queued"


def small_disk_left(path: Path) -> int:
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize


def test_agent_is_no_user(master: Master) -> None:
    """Whatever a node says of owners, it gets nothing of theirs to see."""
    agent, other = ready(master, name="one"), Agent(master.port, name="two", report=[])
    alice = Client(master.port)
    task = alice.submit(alice.job(), 1, b"secret")[0]
    wait_until(lambda: alice.query("task", id=task)["state"] == "starting")
    idle = other if alice.query("task", id=task)["node"] == "one" else agent
    idle.send("FETCH", {"stream": 1, "task": task, "attempt": 1, "what": "args", "size": 6, "window": 1000})
    assert idle.expect("END").json["error"] == "gone"

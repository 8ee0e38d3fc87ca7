# SPDX-License-Identifier: Apache-2.0
"""Certificates get a new time while everything goes on: no daemon is restarted, no connection lost, no call delayed; and
who lets one run out is warned."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from witnesses import BY_HAND, Caller, authority, caller, journal, main_pid, nodes, now

from certificates import DAY, Authority

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1
PKI = "/etc/clupy/pki"

Wait = Callable[..., None]


@pytest.fixture(scope="module")
def issuer(lab: Lab) -> Authority:
    made = authority(lab)
    made.user("eve")
    return made


@pytest.fixture(scope="module")
def witness(lab: Lab) -> Iterator[Caller]:
    with caller(lab) as made:
        yield made


# A call that runs all the time.
LONG = """
import sys, time
import clupy
future = clupy.parallel(time.sleep, cpus=0.1, memory="64M")(600)
while not future.running():
    future.wait(0.05)
print("runs", flush=True)
sys.stdin.readline()
print("done" if future.done() else "still runs", future.attempts, flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def long_call(lab: Lab) -> Iterator[None]:
    """Through all tests of this module it runs, and its first attempt."""
    with lab.node("client").popen(["python3", "-c", LONG], "user", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            assert process.stdout.readline() == "runs\n"
            yield
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "still runs 1\n"
        finally:
            process.kill()


class Still:
    """What must be the same before and after: the daemons' processes, the node's connection."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._before = self._look()

    def _look(self) -> list[str]:
        master, agent = self._lab.node("master"), self._lab.node("agent1")
        pid = main_pid(agent, "clupy-agent")
        lines = agent.run(["ss", "--tcp", "--numeric", "--processes", "--no-header", "state", "established"]).stdout
        connections = [line.split()[2] for line in lines.splitlines() if f"pid={pid}," in line]
        assert len(connections) == 1, lines
        return [main_pid(master, "clupy-masterd"), pid, *connections]

    def check(self) -> None:
        assert self._look() == self._before
        assert nodes(self._lab) == {"agent1": "ready"}


def serial_of(node: Node, file: str) -> str:
    text = node.run(["openssl", "x509", "-noout", "-serial", "-in", file]).stdout
    return text.strip().partition("=")[2].lower()


def presented(lab: Lab) -> str:
    """The serial number of the certificate that the master shows on a new connection."""
    text = BY_HAND + 'print(connect("eve").socket.getpeercert()["serialNumber"].lower())'
    return lab.node("client").python(text, "root").stdout.strip()


def ctl(node: Node, *arguments: str, user: str = "root") -> Any:
    """What clupyctl --json prints."""
    return json.loads(node.run(["clupyctl", "--json", *arguments], user).stdout)


def warnings(lab: Lab) -> list[str]:
    answer = lab.node("client").run(["clupyctl", "--json", "status"], "user").stdout
    found: list[str] = json.loads(answer)["warnings"]
    return found


def test_master(lab: Lab, issuer: Authority, witness: Caller, wait_until: Wait) -> None:
    master = lab.node("master")
    still, before = Still(lab), serial_of(master, f"{PKI}/master.crt")
    key = master.run(["sha256sum", f"{PKI}/master.key"]).stdout
    assert presented(lab) == before
    ctl(master, "pki", "renew", "master")
    after = serial_of(master, f"{PKI}/master.crt")
    assert after != before
    assert master.run(["sha256sum", f"{PKI}/master.key"]).stdout == key, "the key stays"

    def shown() -> bool:
        witness.check()
        return presented(lab) == after

    wait_until(shown, 5, "the new certificate on a new connection")
    witness.check()
    still.check()


def test_agent(lab: Lab, issuer: Authority, witness: Caller, wait_until: Wait) -> None:
    master, agent = lab.node("master"), lab.node("agent1")
    still, before, mark = Still(lab), serial_of(agent, f"{PKI}/agent.crt"), now(agent)
    renewed = ctl(agent, "pki", "renew")["renewed"][0]
    assert (renewed["role"], renewed["name"]) == ("agent", "agent1")
    after = serial_of(agent, f"{PKI}/agent.crt")
    assert after == renewed["serial"] != before
    wait_until(lambda: "was read anew" in journal(agent, mark, "clupy-agent"), 5, "the agent reads it")
    witness.check()
    still.check()
    # When the old one is worth nothing any more the connection of the old one ends, and the new one is shown. The task
    # that runs there goes on.
    pids = main_pid(agent, "clupy-agent"), main_pid(master, "clupy-masterd")
    mark = now(master)
    master.run(["clupyctl", "pki", "revoke", before])
    wait_until(lambda: "Closed the connection of agent agent1" in journal(master, mark, "clupy-masterd"), 5, "the end")
    wait_until(lambda: nodes(lab)["agent1"] == "ready", 10, "it is back")
    witness.check()
    assert (main_pid(agent, "clupy-agent"), main_pid(master, "clupy-masterd")) == pids
    # As the new certificate says: it is accepted as that one.
    told = journal(master, mark, "clupy-masterd", "--priority=warning")
    assert "Refused" not in told, told


def test_user(lab: Lab, issuer: Authority, witness: Caller, wait_until: Wait) -> None:
    master, client = lab.node("master"), lab.node("client")
    still, file = Still(lab), "/home/user/.config/clupy/user.crt"
    before = serial_of(client, file)
    [renewed] = ctl(client, "pki", "renew", user="user")["renewed"]
    assert (renewed["role"], renewed["name"]) == ("user", "user")
    assert serial_of(client, file) == renewed["serial"] != before
    witness.check()
    still.check()
    # Its own on every node were the same one. A client that is connected shows the new one when it has to.
    mark = now(master)
    master.run(["clupyctl", "pki", "revoke", before])
    wait_until(lambda: "Closed the connection of user user" in journal(master, mark, "clupy-masterd"), 5, "the end")
    witness.call()
    assert witness.reconnected()
    still.check()


def test_half_written_and_broken_files(lab: Lab, issuer: Authority, witness: Caller, wait_until: Wait) -> None:
    """What was read before stays in force, and that is said."""
    master = lab.node("master")
    still, mark = Still(lab), now(master)
    text = master.run(["cat", f"{PKI}/master.crt"]).stdout
    serial = presented(lab)
    try:
        for broken in ("", text[:300], "hello", master.run(["cat", f"{PKI}/ca.crt"]).stdout,
                       (issuer.folder / "eve.crt").read_text()):
            master.run(["sh", "-c", f"cat > {PKI}/master.crt"], input=broken)
            wait_until(lambda: any("stays in force" in warning for warning in warnings(lab)), 5, "a warning in status")
            assert presented(lab) == serial
            master.run(["sh", "-c", f"cat > {PKI}/new && mv {PKI}/new {PKI}/master.crt"], input=text)
            wait_until(lambda: not any("stays in force" in warning for warning in warnings(lab)), 5, "its end")
    finally:
        master.run(["sh", "-c", f"cat > {PKI}/new && mv {PKI}/new {PKI}/master.crt"], input=text)
    assert "stays in force" in journal(master, mark, "clupy-masterd", "--priority=err")
    witness.check()
    still.check()


def test_expiry_of_the_master_is_warned_of(lab: Lab, witness: Caller, wait_until: Wait) -> None:
    master = lab.node("master")
    mark, words = now(master), f"{PKI}/master.crt expires in "
    assert not [warning for warning in warnings(lab) if "expires" in warning]
    ctl(master, "pki", "renew", "master", "--days", "31")
    wait_until(lambda: "were read anew" in journal(master, mark, "clupy-masterd"), 5, "it is read")
    assert not [warning for warning in warnings(lab) if "expires" in warning]
    ctl(master, "pki", "renew", "master", "--days", "29")
    wait_until(lambda: any(warning.startswith(words) for warning in warnings(lab)), 5, "a warning in status")
    warning = next(warning for warning in warnings(lab) if warning.startswith(words))
    assert "renew it with 'clupyctl pki renew', no restart is needed" in warning
    for node, user in (("client", "user"), ("master", "root")):
        assert words in lab.node(node).run(["clupyctl", "status"], user).stdout
    wait_until(lambda: words in journal(master, mark, "clupy-masterd", "--priority=warning"), 5, "a record")
    listed = ctl(master, "pki", "list")["certificates"]
    assert [entry["state"] for entry in listed if entry["role"] == "master"].count("expires-soon") == 1
    witness.check()
    # A daemon that starts says it too.
    master.run(["systemctl", "restart", "clupy-masterd"])
    wait_until(lambda: nodes(lab) == {"agent1": "ready"}, 20, "the node is back")
    assert journal(master, mark, "clupy-masterd", "--priority=warning").count(words) == 2
    mark = now(master)
    ctl(master, "pki", "renew", "master")
    wait_until(lambda: not [warning for warning in warnings(lab) if "expires" in warning], 5, "the end of the warning")
    assert words not in journal(master, mark, "clupy-masterd", "--priority=warning")


def test_expiry_of_an_agent_is_warned_of(lab: Lab, issuer: Authority, wait_until: Wait) -> None:
    agent = lab.node("agent1")
    still, mark = Still(lab), now(agent)
    key = lab.directory / "pki/agent-agent1/agent.key"
    issuer.issue("soon", ["URI:clupy:agent:agent1"], end=10 * DAY, key=key)
    agent.run(["sh", "-c", f"cp /lab/pki/soon.crt {PKI}/new && mv {PKI}/new {PKI}/agent.crt"])
    wait_until(lambda: f"{PKI}/agent.crt expires in 9 days" in journal(agent, mark, "clupy-agent", "--priority=warning"), 5,
               "a record")
    still.check()
    assert "clupyctl pki renew" in journal(agent, mark, "clupy-agent", "--priority=warning")

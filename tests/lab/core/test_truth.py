# SPDX-License-Identifier: Apache-2.0
"""Nothing accepted is lost: masters, agents and nodes die in the middle of work, every future still completes once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 3

# Calls that leave a line for each run of theirs in the journal of their node, so that runs can be counted afterwards.
RUNNING = """
import json, sys, time, clupy

def work(n, seconds):
    import os, time
    print("run of", n, flush=True)
    clupy.progress(1, 2, "pid known")
    time.sleep(seconds)
    return n * n

count, seconds = int(sys.argv[1]), float(sys.argv[2])
call = clupy.parallel(work, cpus=0.2, memory="64M", name="truth")
fired = []
futures = [call(n, seconds).succeed(lambda value, n=n: fired.append(n)) for n in range(count)]
while sum(1 for f in futures if f.running() or f.done()) < min(count, 5):
    time.sleep(0.05)
print("running", flush=True)
sys.stdin.readline()
clupy.wait_all(futures, time_out=150)
print(json.dumps({
    "wrong": [n for n, f in enumerate(futures) if f.value != n * n],
    "failures": [str(f.failure) for f in futures if f.failure],
    "open": sum(1 for f in futures if not f.completed),
    "fired": sorted(fired), "nodes": [f.node for f in futures], "attempts": [f.attempts for f in futures],
    "units": [f.unit for f in futures]}), flush=True)
"""


class Calls:
    """A client in the middle of its calls."""

    def __init__(self, lab: Lab, count: int, seconds: float) -> None:
        self.count = count
        self.process = lab.node("client").popen(
            ["python3", "-c", RUNNING, str(count), str(seconds)], "user", stdin=subprocess.PIPE,
            stdout=subprocess.PIPE)
        assert self.process.stdout
        assert self.process.stdout.readline().strip() == "running"

    def finish(self) -> dict[str, Any]:
        """Waits for all and checks that each completed once, with the right value."""
        output, _ = self.process.communicate("\n", timeout=170)
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        assert (result["open"], result["failures"], result["wrong"]) == (0, [], [])
        assert result["fired"] == list(range(self.count))
        return result


def kill(lab: Lab, node: str, unit: str) -> None:
    """kill -9 of a daemon's main process."""
    lab.node(node).run(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit])


def runs(lab: Lab) -> dict[str, int]:
    """How often each call began, by what the nodes' journals say."""
    counts: dict[str, int] = {}
    for node in lab.nodes():
        if node.name.startswith("agent") and node.pid() is not None:
            for line in node.run(["journalctl", "-t", "clupy-task", "-o", "cat"]).stdout.splitlines():
                if line.startswith("run of"):
                    counts[line] = counts.get(line, 0) + 1
    return counts


def test_master_dies_in_the_middle_of_300_calls(fresh_lab: Lab) -> None:
    calls = Calls(fresh_lab, 300, 1.0)
    kill(fresh_lab, "master", "clupy-masterd.service")
    result = calls.finish()
    assert set(result["attempts"]) == {1}
    assert set(runs(fresh_lab).values()) == {1}, "a call ran twice"


def test_a_node_loses_its_power(fresh_lab: Lab, wait_until: Any) -> None:
    """Until it is given up, what it ran is shown as what it is: nobody knows."""
    calls = Calls(fresh_lab, 60, 2.0)
    client = fresh_lab.node("client")
    fresh_lab.crash("agent2")

    def unreachable() -> list[dict[str, Any]]:
        answer = client.run(["clupyctl", "--json", "tasks", "--state=unreachable"]).stdout
        return list(json.loads(answer)["tasks"])

    wait_until(lambda: unreachable() != [], 10, "the tasks of the node that was cut to be out of reach")
    shown = unreachable()
    assert {task["node"] for task in shown} == {"agent2"} and all(0 < task["freezes_ms"] < 15_000 for task in shown)
    text = client.run(["clupyctl", "task", "show", shown[0]["id"]]).stdout
    assert "unreachable (frozen there in " in text
    status = json.loads(client.run(["clupyctl", "--json", "status"]).stdout)
    assert status["tasks"]["unreachable"] == len(shown)
    result = calls.finish()
    assert "agent2" not in {node for node, attempts in zip(result["nodes"], result["attempts"]) if attempts > 1}
    again = [n for n, attempts in enumerate(result["attempts"]) if attempts > 1]
    assert again, "nothing ran on the node that was cut"
    counts = runs(fresh_lab)
    assert all(counts[f"run of {n}"] == 1 for n in range(60) if n not in again)


def test_an_agent_dies_with_results_that_nobody_acknowledged(fresh_lab: Lab, wait_until: Any) -> None:
    """The client is stopped (SIGSTOP) while 50 calls end, so their results stay with the nodes; then an agent dies."""
    calls = Calls(fresh_lab, 50, 1.0)
    client = fresh_lab.node("client")
    client.run(["pkill", "-STOP", "-u", "user", "-f", "truth"])
    wait_until(lambda: sum(runs(fresh_lab).values()) == 50, 60, "50 calls to have begun")

    def running() -> int:
        status = json.loads(client.run(["clupyctl", "--json", "status"]).stdout)
        return int(status["tasks"]["running"]) + int(status["tasks"]["starting"]) + int(status["tasks"]["queued"])

    wait_until(lambda: running() == 0, 60, "50 calls to have ended")
    for agent in ("agent1", "agent2", "agent3"):
        kill(fresh_lab, agent, "clupy-agent.service")
    client.run(["pkill", "-CONT", "-u", "user", "-f", "truth"])
    calls.process.send_signal(signal.SIGCONT)  # nsenter stops when what it runs stops, but does not go on with it
    result = calls.finish()
    assert set(result["attempts"]) == {1}
    assert set(runs(fresh_lab).values()) == {1}, "a call ran twice"


def test_master_is_away_for_twice_the_lease(fresh_lab: Lab, wait_until: Any) -> None:
    calls = Calls(fresh_lab, 6, 20.0)
    node = fresh_lab.node("agent1")
    fresh_lab.node("master").run(["systemctl", "stop", "clupy-masterd.service"])

    def scopes() -> set[str]:
        listing = node.run(["systemctl", "list-units", "--plain", "--no-legend", "clupy-task-*.scope"]).stdout
        return {line.split()[0] for line in listing.splitlines()}

    before = scopes()
    time.sleep(31)  # twice the lease of 15 s: it is time itself that is tested
    assert before and before <= scopes(), "a task was killed"
    fresh_lab.node("master").run(["systemctl", "start", "clupy-masterd.service"])
    result = calls.finish()
    assert set(result["attempts"]) == {1}
    assert set(runs(fresh_lab).values()) == {1}


def test_a_master_of_the_past_is_refused_by_an_agent_that_started_anew(fresh_lab: Lab, wait_until: Any) -> None:
    """On a node where nothing runs that could tell the new agent what the former one has obeyed."""
    master, node = fresh_lab.node("master"), fresh_lab.node("agent1")

    def ready() -> bool:
        answer = json.loads(master.run(["clupyctl", "--json", "nodes"]).stdout)
        return any(n["name"] == "agent1" and n["state"] == "ready" for n in answer["nodes"])

    def obeyed_the_second() -> bool:
        return node.run(["env", "LC_ALL=C", "grep", "--text", "--quiet", "[^0-9]2 .*:7878$", "/var/lib/clupy-agent/epoch"],
                        check=False).returncode == 0

    kill(fresh_lab, "master", "clupy-masterd.service")
    wait_until(obeyed_the_second, 20, "the agent to have obeyed the second epoch")
    assert node.run(["stat", "--format=%U %a", "/var/lib/clupy-agent"]).stdout.split() == ["clupy", "700"]
    master.run(["sh", "-c", "systemctl stop clupy-masterd; rm -rf /var/lib/clupy-master/*"])
    node.run(["systemctl", "restart", "clupy-agent.service"])
    master.run(["systemctl", "start", "clupy-masterd.service"])

    def refused() -> bool:
        words = node.run(["journalctl", "-u", "clupy-agent.service", "-o", "cat"]).stdout
        return "remove /var/lib/clupy-agent/epoch" in words

    wait_until(refused, 20, "the agent to have refused the master, with what to do")
    assert not ready()
    node.run(["sh", "-c", "rm /var/lib/clupy-agent/epoch; systemctl restart clupy-agent.service"])
    wait_until(ready, 20, "the node to be ready again")

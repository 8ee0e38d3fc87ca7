# SPDX-License-Identifier: Apache-2.0
"""The daemons as systemd sees them, their configuration's errors, and the operator's tool over both of its ways."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 1

UNITS = {"clupy-masterd": "master", "clupy-agent": "agent1", "clupy-launcher": "agent1"}
# Those that somebody else starts, or that are not there all the time.
HELPERS = {"clupy-index": "master", "clupy-signer": "master"}
PROGRAMS = "/usr/lib/clupy"
# Empty: the master's own machine is asked over D-Bus; on the others the lab's environment names the master, over TCP.
BUS = ("CLUPY_MASTER_URL=",)

SLEEPER = """
import clupy, sys
future = clupy.parallel(__import__("time").sleep, cpus=0.1, memory="64M", name="sleeper")(600)
while not future.running():
    future.wait(0.1)
print(future.id, flush=True)
sys.stdin.read()
"""


def clupyctl(lab: Lab, *arguments: str, bus: bool = False, user: str = "root", status: int = 0) -> str:
    """Runs clupyctl on the master (D-Bus) or on the client (TCP), compares its exit status, returns what it prints."""
    node = lab.node("master" if bus else "client")
    done = node.run(["clupyctl", *arguments], user, check=False, environment=BUS if bus else ())
    assert done.returncode == status, f"clupyctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    assert (done.stderr != "") == (status not in (0, 1)), done.stderr
    return done.stdout


@pytest.fixture
def sleeper(lab: Lab) -> Iterator[str]:
    """The id of a task that runs."""
    with lab.node("client").popen(["python3", "-c", SLEEPER], "user", stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            identity = process.stdout.readline().strip()
            assert re.fullmatch("[0-9a-f]{32}", identity)
            yield identity
            # A client that is killed is waited for; its task shall not stand in the next test's way.
            lab.node("client").run(["clupyctl", "cancel", identity], check=False)
        finally:
            process.kill()


@pytest.mark.parametrize("unit", [*UNITS, *HELPERS])
def test_exposure_is_low(lab: Lab, unit: str) -> None:
    text = lab.node({**UNITS, **HELPERS}[unit]).run(["systemd-analyze", "security", "--no-pager", f"{unit}.service"]).stdout
    print(text)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert found
    if unit != "clupy-launcher":  # which is root and makes sandboxes: as low as that allows
        assert float(found.group(1)) <= 2.0


@pytest.mark.parametrize("unit", UNITS)
def test_daemons_run_as_systemd_services(lab: Lab, unit: str) -> None:
    names = ["ActiveState", "Type", "StatusText", "WatchdogUSec", "NRestarts", "User", "OOMScoreAdjust", "Slice"]
    text = lab.node(UNITS[unit]).run(["systemctl", "show", f"{unit}.service", "--property", ",".join(names)]).stdout
    state = dict(line.split("=", 1) for line in text.splitlines())
    assert state["ActiveState"] == "active"
    assert state["Type"] == "notify"
    assert state["StatusText"], "a status that a person can read"
    assert state["WatchdogUSec"] not in ("0", "infinity")
    assert state["NRestarts"] == "0"
    assert state["OOMScoreAdjust"] == "-900"
    assert state["Slice"] == "system.slice"
    assert state["User"] == {"clupy-masterd": "clupy-master", "clupy-agent": "clupy", "clupy-launcher": ""}[unit]


def test_tasks_have_a_ceiling(lab: Lab, sleeper: str) -> None:
    limit = lab.node("agent1").run(["systemctl", "show", "clupy.slice", "--property", "MemoryMax", "--value"]).stdout
    assert limit.strip() != "infinity"
    task = json.loads(clupyctl(lab, "--json", "task", "show", sleeper))
    group = lab.node("agent1").run(["systemctl", "show", task["unit"], "--property", "ControlGroup", "--value"]).stdout
    assert group.startswith("/clupy.slice/")


BROKEN: list[tuple[str, str, str, int, str]] = [
    # program, text, what the message says: line, and what was expected
    ("clupy-masterd", "listen: [127.0.0.1]\nlease: soon\n", "lease", 2, "expected a duration"),
    ("clupy-masterd", "\n\nleese: 15s\n", "leese", 3, "did you mean"),
    ("clupy-masterd", "history: 1\nhistory: 2\n", "history", 2, "twice|duplicate|again|already"),
    ("clupy-masterd", "listen: {a: b}\n", "listen", 1, "expected"),
    ("clupy-masterd", "listen: [\n", "", 2, ""),
    ("clupy-agent", "task:\n  memory: lots\n", "task.memory", 2, "expected a size"),
    ("clupy-agent", "cpus: 0\n", "cpus", 1, "expected a number of CPUs"),
    ("clupy-agent", "task: 5\n", "task", 1, "expected"),
    ("clupy-agent", "uid_range: 0-1000\n", "uid_range", 1, "expected user ids"),
]


@pytest.mark.parametrize(("program", "text", "key", "line", "expected"), BROKEN)
def test_check_config_names_file_line_and_what_was_expected(lab: Lab, program: str, text: str, key: str, line: int,
                                                            expected: str) -> None:
    node = lab.node("agent1")
    node.write("/tmp/broken.yaml", text)
    done = node.run([f"{PROGRAMS}/{program}", "--check-config", "--config", "/tmp/broken.yaml"], check=False)
    assert done.returncode == 78
    assert f"/tmp/broken.yaml:{line}: " in done.stderr
    assert key in done.stderr
    assert re.search(expected, done.stderr), done.stderr


def test_open_addresses_need_a_word(lab: Lab) -> None:
    node = lab.node("agent1")
    node.write("/tmp/open.yaml", "listen: ['0.0.0.0:7878']\ninsecure: true\n")
    command = [f"{PROGRAMS}/clupy-masterd", "--check-config", "--config", "/tmp/open.yaml"]
    done = node.run(command, check=False)
    assert done.returncode == 78
    assert "expected addresses that are in 'listen' too, got 'true'" in done.stderr
    node.write("/tmp/open.yaml", "listen: ['0.0.0.0:7878']\ninsecure: ['0.0.0.0:7878']\n")
    assert node.run(command).stdout.strip().endswith(": ok")
    # Which the lab's own master has only when it was made with --insecure.
    status = json.loads(clupyctl(lab, "status", "--json"))
    assert any("without authentication" in warning for warning in status["warnings"]) is status["insecure"]
    assert ("Warning" in clupyctl(lab, "status", bus=True)) is status["insecure"]


@pytest.mark.parametrize("bus", [True, False], ids=["bus", "tcp"])
def test_every_verb_answers_in_json(lab: Lab, sleeper: str, bus: bool) -> None:
    def ask(*arguments: str, status: int = 0) -> Any:
        return json.loads(clupyctl(lab, "--json", *arguments, bus=bus, status=status))

    assert ask("version")["protocol"] == 1
    assert ask("status")["tasks"]["running"] >= 1
    assert [node["name"] for node in ask("nodes")["nodes"]] == ["agent1"]
    assert sleeper in [task["id"] for task in ask("tasks", "--owner", "user")["tasks"]]
    assert ask("tasks", "--owner", "nobody")["tasks"] == []
    assert ask("task", "show", sleeper[:16])["state"] == "running"
    assert ask("why", sleeper)["sentence"]
    assert ask("logs", sleeper)["text"] == ""
    assert ask("drain", "agent1")["node"] == "agent1"
    assert ask("undrain", "agent1")["state"] == "ready"
    assert ask("cancel", sleeper)["cancelled"] == [sleeper]
    assert ask("why", "0" * 32, status=3)["error"] == "not-found"
    assert ask("tasks", "--limit", "x", status=2)["error"] == "usage"


@pytest.mark.parametrize("bus", [True, False], ids=["bus", "tcp"])
def test_people_read_tables(lab: Lab, sleeper: str, bus: bool) -> None:
    status = clupyctl(lab, "status", bus=bus)
    assert "1 ready" in status
    assert f"asked through {'the system bus' if bus else 'master:7878'}\n" in status
    assert re.search(r"^agent1\s+ready\s", clupyctl(lab, "nodes", bus=bus), re.MULTILINE)
    assert re.search(rf"^{sleeper[:8]}\w*\s+sleeper\s+user\s+running\s+agent1\s", clupyctl(lab, "tasks", bus=bus),
                     re.MULTILINE)
    shown = clupyctl(lab, "task", "show", sleeper, bus=bus)
    assert re.search(r"Unit: clupy-task-\S+\.scope", shown)
    assert clupyctl(lab, "why", sleeper, bus=bus).count("\n") == 1
    assert clupyctl(lab, "cancel", sleeper, bus=bus) == f"{sleeper} cancelled\n"


def test_drain_waits_until_the_node_is_idle(lab: Lab, sleeper: str, wait_until: Callable[..., None]) -> None:
    node = lab.node("client")
    with node.popen(["clupyctl", "drain", "--wait", "agent1"], stdout=subprocess.PIPE) as drain:
        wait_until(lambda: json.loads(clupyctl(lab, "nodes", "--json"))["nodes"][0]["state"] == "draining", 20,
                   "the node drains")
        assert drain.poll() is None
        clupyctl(lab, "cancel", sleeper)
        output, _ = drain.communicate(timeout=40)
    assert drain.returncode == 0
    assert output.endswith("agent1 is drained\n")
    assert clupyctl(lab, "undrain", "agent1") == "agent1 is ready\n"


@pytest.mark.parametrize("bus", [True, False], ids=["bus", "tcp"])
def test_logs_follow_a_task(lab: Lab, bus: bool) -> None:
    program = """
import clupy, time
def talk():
    for i in range(3):
        print("line", i, flush=True)
        time.sleep(0.5)
future = clupy.parallel(talk, cpus=0.1, memory="64M")()
print(future.id, flush=True)
future.wait(30)
"""
    with lab.node("client").popen(["python3", "-c", program], "user", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        identity = process.stdout.readline().strip()
        assert clupyctl(lab, "logs", "-f", identity, bus=bus) == "line 0\nline 1\nline 2\n"
        assert process.wait(30) == 0
    assert clupyctl(lab, "logs", identity, bus=bus) == "line 0\nline 1\nline 2\n"


def test_exit_statuses(lab: Lab, sleeper: str) -> None:
    clupyctl(lab, "tasks", "--nonsense", status=2)
    clupyctl(lab, "why", "xyz", status=2)
    clupyctl(lab, "why", "f" * 32, status=3)
    clupyctl(lab, "undrain", "nosuchnode", status=3)
    text = clupyctl(lab, "--json", "--master", "clupy://agent1:1", "status", status=4)
    assert "agent1:1" in json.loads(text)["message"]
    # Whoever may use the bus may look; a node is root's, a task its owner's.
    clupyctl(lab, "nodes", bus=True, user="user")
    clupyctl(lab, "drain", "agent1", bus=True, user="user", status=5)
    clupyctl(lab, "cancel", sleeper, bus=True, user="nobody", status=3)
    assert clupyctl(lab, "cancel", sleeper, bus=True, user="user") == f"{sleeper} cancelled\n"
    deadline = time.monotonic() + 20
    while lab.node("client").run(["clupyctl", "cancel", sleeper], check=False).returncode != 1:  # until it has ended
        assert time.monotonic() < deadline, "a cancelled task can be cancelled for ever"
        time.sleep(0.1)


COMPLETE = """
source /usr/share/bash-completion/completions/clupyctl
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1}
_clupyctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_verbs_options_nodes_and_tasks(lab: Lab, sleeper: str) -> None:
    def complete(line: str) -> list[str]:
        done = lab.node("client").run(["bash", "-c", COMPLETE, "bash", line])
        assert done.stderr == ""
        return done.stdout.split()

    assert {"status", "nodes", "tasks", "task", "why", "logs", "cancel", "drain", "undrain", "env", "pki", "token",
            "version"} == set(complete("clupyctl "))
    assert complete("clupyctl sta") == ["status"]
    assert complete("clupyctl tasks --st") == ["--state="]
    assert complete("clupyctl tasks --state=fro") == ["frozen"]
    assert complete("clupyctl --master=clupy://master:7878 drain --wait a") == ["agent1"]
    assert complete("clupyctl task ") == ["show"]
    assert complete(f"clupyctl why {sleeper[:6]}") == [sleeper]
    assert complete("clupyctl status ") == []


def test_bus_objects(lab: Lab, sleeper: str) -> None:
    node = lab.node("master")
    tree = node.run(["busctl", "tree", "--list", "org.clupy.Master1"]).stdout.split()
    assert "/org/clupy/Master1/node/agent1" in tree
    assert f"/org/clupy/Master1/task/{sleeper}" in tree
    value = node.run(["busctl", "get-property", "org.clupy.Master1", "/org/clupy/Master1/node/agent1",
                      "org.clupy.Master1.Node", "State"], "user").stdout
    assert value.strip() == 's "ready"'
    attempts = lab.node("agent1").run(["busctl", "call", "org.clupy.Agent1", "/org/clupy/Agent1", "org.clupy.Agent1",
                                       "ListAttempts"], "user").stdout
    assert sleeper in attempts
    # Nobody else may own the name.
    taken = node.run(["busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                      "RequestName", "su", "org.clupy.Agent1", "0"], "user", check=False)
    assert taken.returncode != 0

# SPDX-License-Identifier: Apache-2.0
"""What the launcher promises beside the ends of test_launcher.py: lease, table, pool, limits, hostile requests, who may speak
to it. Through the launcher alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1
CHECKS = re.findall(r"^@check\ndef (\w+)", (Path(__file__).parent / "launcher_checks.py").read_text(), re.MULTILINE)

# Says how the launcher takes a connection, and whether it answers a hello.
KNOCK = """
import socket, sys
sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import Client
try:
    client = Client()
except PermissionError:
    sys.exit("the socket is closed to it")
try:
    client.socket.settimeout(10)
    print("answered" if client.hello() else "")
except (ConnectionError, BrokenPipeError):
    sys.exit("hung up")
"""

# Prints how many files with journal fields there are: while a task runs, and when it has been released.
FIELDS = """
import glob, sys, time
sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import Op, Outcome, connected

def files():
    return len(glob.glob("/run/systemd/units/log-extra-fields:clupy-task-*"))

def stay():
    import time
    time.sleep(600)

client = connected()
task = client.start(stay)
client.wait_for(lambda e: e.op == Op.STARTED)
running = files()
client.stop(task)
assert client.wait_for(lambda e: e.op == Op.ENDED).outcome == Outcome.CANCELLED
client.release(task)
deadline = time.monotonic() + 10
while files() and time.monotonic() < deadline:
    time.sleep(0.05)
print(running, files())
"""


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    """A node whose launcher serves the test instead of the agent."""
    node = lab.node("agent1")
    node.run(["systemctl", "stop", "clupy-agent.service"])
    yield node
    node.run(["systemctl", "start", "clupy-agent.service"])


@pytest.mark.parametrize("name", CHECKS)
def test_check(node: Node, name: str) -> None:
    process = node.run(["python3", "/src/tests/lab/core/launcher_checks.py", name], check=False, timeout=240)
    said = (process.stdout + process.stderr).strip()
    # The first line of the message is all that the short summary shows.
    first = next((line for line in said.splitlines() if line.startswith("FAIL")), f"exit {process.returncode}")
    assert process.returncode == 0, f"{first}\n{said}"


@pytest.mark.parametrize("who, groups, answer", [
    ("root", ["--regid=root"], "answered"), ("clupy", ["--regid=clupy"], "answered"),
    # The file's mode keeps the others out; one who has the group all the same is told apart by the uid.
    ("nobody", ["--regid=nogroup"], "the socket is closed to it"), ("nobody", ["--regid=clupy"], "hung up")])
def test_who_may_speak_to_the_launcher(node: Node, who: str, groups: list[str], answer: str) -> None:
    node.run(["systemctl", "start", "clupy-launcher.service"])
    process = node.run(["setpriv", f"--reuid={who}", *groups, "--clear-groups", "python3", "-c", KNOCK], check=False, timeout=60)
    assert (process.stdout + process.stderr).strip() == answer


def test_the_fields_of_a_tasks_lines_go_with_it(node: Node) -> None:
    running, afterwards = map(int, node.run(["python3", "-c", FIELDS], timeout=60).stdout.split())
    assert (running, afterwards) == (1, 0)


# Prints what the kernel says of the processes that run clupy-zygote, while a task runs.
ZYGOTES = """
import glob, json, sys
sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import Op, connected

def stay():
    import time
    time.sleep(600)

client = connected()
client.pool(0)
task = client.start(stay)
event = client.wait_for(lambda e: e.op == Op.STARTED)
found, inherited = [], []
for path in glob.glob("/proc/[0-9]*/status"):
    try:
        status = dict(line.split(":", 1) for line in open(path).read().splitlines())
        group = open(path.replace("status", "cgroup")).read()
    except OSError:
        continue
    if "clupy-launcher.service" in group:  # the spawner of all others among them, with the filters of the unit only
        inherited.append(int(status["Seccomp_filters"]))
    if status["Name"].strip() == "clupy-zygote":
        found.append([int(status["Pid"]) == event.pid, *(status[key].strip() for key in (
            "CapEff", "CapPrm", "CapBnd", "NoNewPrivs")), int(status["Seccomp_filters"])])
client.stop(task)
client.wait_for(lambda e: e.op == Op.ENDED)
client.release(task)
print(json.dumps([min(inherited), found]))
"""


def test_what_is_left_to_a_zygote_and_to_a_task(node: Node) -> None:
    own, found = json.loads(node.run(["python3", "-c", ZYGOTES], timeout=60).stdout)
    four = f"{1 << 21 | 1 << 18 | 1 << 7 | 1 << 6:016x}"  # CAP_SYS_ADMIN, SYS_CHROOT, SETUID, SETGID, in its namespace
    tasks = [rest for is_task, *rest in found if is_task]
    zygotes = [rest for is_task, *rest in found if not is_task]
    assert tasks == [[f"{0:016x}", f"{0:016x}", four, "1", own + 3]]
    assert zygotes and all(zygote == [four, four, four, "1", own + 2] for zygote in zygotes), zygotes


# Prints the limits of a task's scope, as systemd has them: of a pair made for it, and of one that waited with the defaults.
LIMITS = """
import json, subprocess, sys
sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import MIB, connected
from launcher_checks import FLAG_WARM, ended, started

def stay():
    import time
    time.sleep(600)

client = connected("limited")
for warm in (0, 1):
    client.pool(warm)
    found = []
    while not found:
        task = client.start(stay, memory_max=96 * MIB, cpu_quota_usec=500_000, tasks_max=77)
        event = started(client, task)
        if bool(event.flags & FLAG_WARM) == bool(warm):
            show = ["systemctl", "show", "-p", "MemoryMax,CPUQuotaPerSecUSec,TasksMax", event.unit]
            found = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split()
        client.stop(task)
        ended(client, task)
        client.release(task)
    print(json.dumps([warm, *sorted(found)]))
client.pool(0)
"""


def test_the_limits_are_what_the_start_asked(node: Node) -> None:
    shown = node.run(["python3", "-c", LIMITS], timeout=60).stdout.splitlines()
    for line, warm in zip(shown, (0, 1), strict=True):
        processes = json.loads(line)[-1]
        assert json.loads(line) == [warm, "CPUQuotaPerSecUSec=500ms", f"MemoryMax={96 << 20}", processes]
        assert processes in ("TasksMax=77", "TasksMax=78"), "the init is not the task's own"

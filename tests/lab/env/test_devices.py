# SPDX-License-Identifier: Apache-2.0
"""Calls that ask for what nodes have: labels, things that are counted, and devices, which a task sees if they are its own.

The devices are stand-ins: nodes of the kernel's memory devices under other names.
"""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cluster import PRELUDE, Cluster
from labs import await_agents

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 2

# path: minor number among the memory devices, mode
NODES = {"/dev/standin0": (5, "666"), "/dev/standin1": (3, "666"), "/dev/stand/in2": (7, "666"), "/dev/standin3": (5, "600"),
         "/dev/standinctl": (9, "666"), "/dev/standinother": (5, "666")}
CONFIGURATION = """
labels: {zone: a}
resources:
  gpu:
    devices: [/dev/standin0, /dev/standin1, /dev/stand/in2, /dev/standin3, /dev/standin9]
    shared: [/dev/standinctl]
    variable: CUDA_VISIBLE_DEVICES
  licence: 2
"""
COMMON = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]

LOOK = """
def look(seconds=0.0, *probes):
    import os, time
    begin = time.time()
    found = []
    for folder, folders, files in os.walk("/dev"):
        found += [os.path.join(folder, name)[5:] for name in folders + files]
    answers = {}
    for path in probes:
        try:
            with open(path, "r+b", buffering=0) as file:
                answers[path] = len(file.read(8))
        except OSError as error:
            answers[path] = error.strerror
    child = os.popen("echo ${CUDA_VISIBLE_DEVICES-none}").read().strip()
    time.sleep(seconds)
    return {"dev": sorted(found), "variable": os.environ.get("CUDA_VISIBLE_DEVICES"), "child": child, "probes": answers,
            "begin": begin, "end": time.time()}

def told(future, timeout=120):
    return {**outcome(future, timeout), "unit": future.unit, "node": future.node, "id": future.id}
"""

HOLD = LOOK + """
calls = [clupy.parallel(look, requires={"gpu": 1}, cpus=0.1)(600) for _ in range(int(sys.argv[1]))]
deadline = time.monotonic() + 60
while not all(call.unit for call in calls):
    assert time.monotonic() < deadline, [call.status for call in calls]
    time.sleep(0.05)
print(json.dumps([call.unit for call in calls]), flush=True)
sys.stdin.readline()
for call in calls:
    call.cancel()
"""


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Cluster:
    """Two nodes; the first one has the devices."""
    node = lab.node("agent1")
    node.run(["mkdir", "/dev/stand"])
    for path, (minor, mode) in NODES.items():
        node.run(["mknod", "-m", mode, path, "c", "1", str(minor)])
    text = node.run(["cat", "/etc/clupy/clupy.server.yaml"]).stdout
    node.write("/etc/clupy/clupy.server.yaml", text + CONFIGURATION)
    node.run(["systemctl", "restart", "clupy-policyc.service", "clupy-launcher.service", "clupy-agent.service"])
    await_agents(lab)
    return Cluster(lab)


def names_of(*paths: str) -> list[str]:
    return sorted(COMMON + [path[len("/dev/"):] for path in paths])


def test_a_task_has_its_devices_and_no_others(cluster: Cluster) -> None:
    result = cluster.call(LOOK + """
call = clupy.parallel(look, requires={"gpu": 1})
say(told(call(0.0, "/dev/standin0", "/dev/standin1", "/dev/standinctl", "/dev/standinother")))
""")
    value = result["value"]
    assert result["node"] == "agent1"
    assert value["dev"] == names_of("/dev/standin0", "/dev/standinctl")
    assert value["variable"] == value["child"] == "0"
    assert value["probes"] == {"/dev/standin0": 8, "/dev/standinctl": 8, "/dev/standin1": "No such file or directory",
                               "/dev/standinother": "No such file or directory"}


def test_two_of_them_in_the_order_of_the_configuration(cluster: Cluster) -> None:
    value = cluster.call(LOOK + 'say(told(clupy.parallel(look, requires={"gpu": 3})(0.0, "/dev/stand/in2")))')["value"]
    assert value["dev"] == names_of("/dev/standin0", "/dev/standin1", "/dev/stand", "/dev/stand/in2", "/dev/standinctl")
    assert value["variable"] == "0,1,2"
    assert value["probes"] == {"/dev/stand/in2": 8}


def test_other_tasks_have_none(cluster: Cluster) -> None:
    value = cluster.call(LOOK + 'say(told(clupy.parallel(look, labels={"zone": "a"})(0.0, "/dev/standin0")))')["value"]
    assert value["dev"] == names_of()
    assert value["variable"] is None and value["child"] == "none"
    assert value["probes"] == {"/dev/standin0": "No such file or directory"}


def test_no_device_is_two_tasks_at_a_time(cluster: Cluster) -> None:
    results = cluster.call(LOOK + """
call = clupy.parallel(look, requires={"gpu": 1}, cpus=0.1, memory="64M")
say([told(future) for future in [call(0.5) for _ in range(9)]])
""")
    by_device: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        value = result["value"]
        by_device.setdefault(value["variable"], []).append((value["begin"], value["end"]))
    assert sorted(by_device) == ["0", "1", "2"]
    for device, intervals in by_device.items():
        intervals.sort()
        assert all(first[1] <= second[0] for first, second in zip(intervals, intervals[1:])), (device, intervals)


def test_things_that_are_only_counted(cluster: Cluster) -> None:
    results = cluster.call(LOOK + """
call = clupy.parallel(look, requires={"licence": 2}, cpus=0.1, memory="64M")
say([told(future) for future in [call(0.3) for _ in range(3)]])
""")
    values = sorted((result["value"] for result in results), key=lambda value: float(value["begin"]))
    assert all(first["end"] <= second["begin"] for first, second in zip(values, values[1:]))
    assert all(value["dev"] == names_of() for value in values)


@pytest.mark.parametrize(("options", "why"), [
    ('requires={"gpu": 4}', "no node has 4 of the resource gpu: the most is 3"),
    ('requires={"tape": 1}', "no node has the resource tape"),
    ('labels={"zone": "b"}', "no node has the label zone=b"),
])
def test_what_no_node_has_is_waited_for_and_why(cluster: Cluster, options: str, why: str) -> None:
    result = cluster.call(LOOK + f"""
import subprocess
future = clupy.parallel(look, {options})()
deadline = time.monotonic() + 60
while {why!r} not in (said := subprocess.run(["clupyctl", "why", future.id], capture_output=True, text=True).stdout):
    assert time.monotonic() < deadline, said
    time.sleep(0.1)
done = future.done()
future.cancel()
say([done, said])
""")
    assert result[0] is False, result


def test_what_is_missing_at_the_start_is_not_offered_and_named(cluster: Cluster) -> None:
    said = cluster.lab.node("agent1").run(["journalctl", "-u", "clupy-agent", "-o", "cat"]).stdout
    assert "Device /dev/standin9: it is not there; the node offers one less of the resource gpu" in said
    assert "Device /dev/standin3: its mode lets no task open it" in said
    assert "/dev/standin0" not in said


@pytest.fixture
def held(cluster: Cluster) -> Iterator[Callable[[int], list[str]]]:
    """Starts calls that keep a device each until the test is over; returns their units."""
    programs = []

    def hold(n: int) -> list[str]:
        program = cluster.lab.node("client").popen(["python3", "-c", PRELUDE + HOLD, str(n)], "user", stdin=subprocess.PIPE,
                                                   stdout=subprocess.PIPE, text=True)
        programs.append(program)
        assert program.stdout is not None
        units: list[str] = json.loads(program.stdout.readline())
        return units

    yield hold
    for program in programs:
        program.communicate("\n", timeout=60)


def devices_of(node: Node, unit: str) -> list[str]:
    """What systemd has been told that the unit's processes may open."""
    shown = node.run(["systemctl", "show", "--value", "-p", "DevicePolicy,DeviceAllow", unit]).stdout.split()
    assert "closed" in shown, shown
    return sorted(word for word in shown if word.startswith("/dev/"))


def test_the_scope_lets_nothing_else_be_opened(cluster: Cluster, held: Callable[[int], list[str]]) -> None:
    node = cluster.lab.node("agent1")
    units = held(2)
    assert sorted(devices_of(node, unit) for unit in units) == [["/dev/standin0", "/dev/standinctl"],
                                                                ["/dev/standin1", "/dev/standinctl"]]
    # Not because its /dev lacks it: no process of the scope can, whatever it sees.
    opened = node.run(["sh", "-c", f"""
set -e
pid=$(head -n 1 /sys/fs/cgroup/*/clupy.slice/clupy-tasks.slice/clupy-tasks-devices.slice/{units[0]}/cgroup.procs | grep -m 1 '^[0-9]')
mknod -m 600 /dev/standinlog c 1 11
trap 'rm /dev/standinlog' EXIT
group=$(sed -n 's/^[0-9]*:devices:/\\/sys\\/fs\\/cgroup\\/devices/p' /proc/$pid/cgroup)
: < /dev/standinlog && echo before
echo $$ > $group/cgroup.procs
: < /dev/standin0 && echo own
(: < /dev/standinlog) 2>&1 || true
"""], check=False)
    assert "before" in opened.stdout and "own" in opened.stdout, opened.stdout + opened.stderr
    assert "Operation not permitted" in opened.stdout, opened.stdout + opened.stderr


def test_an_agent_that_starts_anew_gives_nothing_out_twice(lab: Lab, cluster: Cluster, held: Callable[[int], list[str]]) -> None:
    node = lab.node("agent1")
    first = held(2)
    node.run(["systemctl", "kill", "-s", "KILL", "clupy-agent.service"])
    await_agents(lab)
    third = held(1)
    assert devices_of(node, third[0]) == ["/dev/stand/in2", "/dev/standinctl"]
    assert [devices_of(node, unit) for unit in first]  # they are there still
    waiting = cluster.call(LOOK + """
future = clupy.parallel(look, requires={"gpu": 1}, cpus=0.1)()
try:
    future.result(timeout=2)
    say("it ran")
except TimeoutError:
    future.cancel()
    say("it waits")
""")
    assert waiting == "it waits"


def test_a_new_master_gives_nothing_out_twice(lab: Lab, cluster: Cluster, held: Callable[[int], list[str]]) -> None:
    units = held(2)
    lab.node("master").run(["systemctl", "restart", "clupy-masterd.service"])
    await_agents(lab)
    units += held(1)
    node = lab.node("agent1")
    assert sorted(devices_of(node, unit)[0] for unit in units) == ["/dev/stand/in2", "/dev/standin0", "/dev/standin1"]


def test_an_upgrade_of_the_launcher_leaves_them_their_devices(lab: Lab, cluster: Cluster,
                                                              held: Callable[[int], list[str]]) -> None:
    node = lab.node("agent1")
    units = held(1)
    node.run(["systemctl", "reload", "clupy-launcher.service"])
    units += held(2)
    assert sorted(devices_of(node, unit)[0] for unit in units) == ["/dev/stand/in2", "/dev/standin0", "/dev/standin1"]


RAW = """
import json, os, sys
sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import connected

def look():
    import os
    return sorted(os.listdir("/dev")), os.environ.get("A"), os.environ.get("B")

client, answers = connected(), []
for options in ({"devices": (1,), "variables": "A=1,2\\nB=\\n"}, {"devices": (100,)}, {"devices": tuple(range(40))},
                {"variables": "LD_PRELOAD=/x\\n"}, {"variables": "A=1"}, {"variables": "=1\\n"}, {"variables": "1=1\\n"}):
    event = client.run(look, **options)
    answers.append(event.value if event.result else [event.error, event.text])
os.unlink("/dev/standin1")
event = client.run(look, devices=(1,))
answers.append([event.error, event.text])
os.symlink("/dev/zero", "/dev/standin1")
event = client.run(look, devices=(1,))
answers.append([event.error, event.text])
print(json.dumps(answers))
"""


def test_the_launcher_believes_no_agent(lab: Lab, cluster: Cluster) -> None:
    node = lab.node("agent1")
    node.run(["systemctl", "stop", "clupy-agent.service"])
    try:
        good, *refused = json.loads(node.run(["python3", "-"], input=RAW, timeout=120).stdout.splitlines()[-1])
    finally:
        node.run(["sh", "-c", "rm -f /dev/standin1; mknod -m 666 /dev/standin1 c 1 3; systemctl start clupy-agent.service"])
        await_agents(lab)
    assert good == [sorted([*COMMON, "standin1"]), "1,2", ""]
    assert [error for error, _ in refused] == [-errno.EINVAL] * 6 + [-errno.ENODEV] * 2, refused

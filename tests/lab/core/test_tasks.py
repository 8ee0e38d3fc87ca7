# SPDX-License-Identifier: Apache-2.0
"""What one call gets: a scope, a uid, a filter and limits of its own, seen from inside the task and from systemd."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labtool.lab import Lab

# One node: 20 calls of a tenth of a CPU fill its two CPUs to the last, and share its range of uids.
AGENTS = 1
SYSTEM_PACKAGES = True

TWENTY = """
import json, clupy

def report():
    import os, time
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    begin = time.monotonic()
    time.sleep(2)   # so that many of them are alive at once
    return {"alive": [begin, time.monotonic()], "cgroup": open("/proc/self/cgroup").read(), "uid": os.getuid(), "exe": os.readlink("/proc/self/exe"),
            **{key: status[key].strip() for key in ("Seccomp", "CapEff", "NoNewPrivs")}}

call = clupy.parallel(report, cpus=0.1, memory="128M")
futures = [call() for _ in range(20)]
clupy.wait_all(futures, time_out=60)
print(json.dumps([{"unit": f.unit, "node": f.node, "value": f.value, "failure": str(f.failure)} for f in futures]))
"""

LIMITS = """
import sys, clupy

def stay():
    import time
    clupy.progress(1, 2, "here")
    time.sleep(60)

future = clupy.parallel(stay, cpus=0.5, memory="96M")()
while future.progress is None:
    future.wait(0.05)
print(future.node, future.unit, flush=True)
sys.stdin.readline()
future.cancel()
future.wait(20)
print(type(future.failure).__name__, flush=True)
"""

FRESH = """
import json, random, clupy
counter = 0

def count():
    global counter
    counter += 1
    return counter

def draw():
    return random.random()

def draw_numpy():
    import numpy
    return float(numpy.random.rand())

def results(function):
    call = clupy.parallel(function, cpus=0.1, memory="128M")
    return [future.result(60) for future in [call() for _ in range(50)]]

print(json.dumps([results(count), results(draw), results(draw_numpy)]))
"""


def last_json(text: str) -> Any:
    """The JSON on the last line."""
    return json.loads(text.strip().splitlines()[-1])


def test_twenty_calls_have_twenty_scopes_and_uids(lab: Lab) -> None:
    calls = last_json(lab.node("client").python(TWENTY, timeout=120).stdout)
    assert all(call["value"] for call in calls), [call["failure"] for call in calls]
    units = {call["unit"] for call in calls}
    assert len(units) == 20
    for call in calls:
        scopes = {part for line in call["value"]["cgroup"].splitlines() for part in line.split("/") if ".scope" in part}
        assert call["unit"] in scopes
        assert call["value"]["exe"].endswith("/clupy-zygote")
        assert (call["value"]["Seccomp"], int(call["value"]["CapEff"], 16), call["value"]["NoNewPrivs"]) == ("2", 0, "1")
    # The clock is the node's: who was alive when the middle one was had a uid of his own. A machine that has other
    # things to do may have ended the first before it began the last.
    middle = sorted(call["value"]["alive"][0] for call in calls)[10]
    uids = [call["value"]["uid"] for call in calls if call["value"]["alive"][0] <= middle < call["value"]["alive"][1]]
    assert len(uids) >= 5 and len(set(uids)) == len(uids)


def test_limits_are_what_the_call_asked(lab: Lab) -> None:
    client = lab.node("client")
    with client.popen(["python3", "-c", LIMITS], "user", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        node, unit = process.stdout.readline().split()
        shown = lab.node(node).run(
            ["systemctl", "show", "-p", "MemoryMax,CPUQuotaPerSecUSec,TasksMax", unit]
        ).stdout.split()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().strip() == "CancelledError"
    assert sorted(shown) == ["CPUQuotaPerSecUSec=500ms", f"MemoryMax={96 << 20}", "TasksMax=512"]


def test_every_call_starts_fresh(lab: Lab) -> None:
    counters, floats, numpy_floats = last_json(lab.node("client").python(FRESH, timeout=120).stdout)
    assert counters == [1] * 50
    assert len(set(floats)) == 50
    assert len(set(numpy_floats)) == 50


def test_lines_are_found_by_unit(lab: Lab, wait_until: Any) -> None:
    program = """
import clupy
def speak():
    print("first line"); print("second line")
    import sys; print("to stderr", file=sys.stderr)
future = clupy.parallel(speak)()
future.result(60)
print(future.node, future.unit, future.id)
"""
    node, unit, task = lab.node("client").python(program).stdout.split()

    def printed() -> list[str]:
        return lab.node(node).run(["journalctl", "-u", unit, "-t", "clupy-task", "-o", "cat"]).stdout.splitlines()

    wait_until(lambda: len(printed()) >= 3, 20, "three lines in the journal")
    assert sorted(printed()) == ["first line", "second line", "to stderr"]
    entries = lab.node(node).run(["journalctl", "-t", "clupy-task", "-o", "json", f"_SYSTEMD_UNIT={unit}"]).stdout
    for entry in map(json.loads, entries.splitlines()):
        assert entry["CLUPY_TASK_ID"] == task
        assert entry["CLUPY_ATTEMPT"] == "1"
        assert entry["CLUPY_OWNER"] == "user"
        assert len(entry["CLUPY_JOB_ID"]) == 32

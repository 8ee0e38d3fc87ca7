# SPDX-License-Identifier: Apache-2.0
"""Where calls go and when: distinct nodes, fairness between clients, memory that is never promised twice."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 5

TWO_NODES = """
import json, clupy

def short():
    import time
    time.sleep(0.05)

call = clupy.parallel(short, server_count=2, cpus=0.2, memory="64M")
futures = [call() for _ in range(100)]
clupy.wait_all(futures, time_out=100)
print(json.dumps([[f.node for f in futures], [str(f.failure) for f in futures if f.failure]]))
"""

TEN = """
import time, clupy

def short():
    import time
    time.sleep(0.02)

call = clupy.parallel(short, memory="64M")
call().result(60)
begin = time.monotonic()
for future in [call() for _ in range(10)]:
    future.result(120)
print(time.monotonic() - begin)
"""

MANY = """
import sys, clupy

def short():
    import time
    time.sleep(0.02)

call = clupy.parallel(short, memory="64M")
futures = [call() for _ in range(10000)]
clupy.wait_all(futures[:50], time_out=60)
print("busy", flush=True)
sys.stdin.readline()
"""

SIXTY_PERCENT = """
import json, sys, clupy

def interval(task):
    import time
    begin = time.time(); time.sleep(0.5)
    return begin, time.time()

call = clupy.parallel(interval, memory=int(sys.argv[1]), cpus=0.1)
futures = [call(n) for n in range(15)]
clupy.wait_all(futures, time_out=100)
print(json.dumps([[f.node, f.value] for f in futures]))
"""


def test_server_count_bounds_the_nodes(lab: Lab) -> None:
    nodes, failures = json.loads(lab.node("client").python(TWO_NODES, timeout=120).stdout)
    assert failures == []
    assert len(set(nodes)) == 2


def test_a_second_client_is_not_kept_waiting(lab: Lab) -> None:
    client = lab.node("client")
    # What else the machine does in that moment is not the scheduler's: it is given three moments.
    alone = max(float(client.python(TEN, timeout=120).stdout) for _ in range(2))
    tries: list[float] = []
    with client.popen(["python3", "-c", MANY], "user", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                      stderr=subprocess.DEVNULL) as many:
        assert many.stdout and many.stdin
        try:
            assert many.stdout.readline().strip() == "busy"
            while not tries or (tries[-1] > 3 * alone and len(tries) < 3):
                tries.append(float(client.python(TEN, timeout=120).stdout))
        finally:
            many.stdin.write("\n")
            many.stdin.close()
    assert tries[-1] <= 3 * alone, f"ten calls: {alone:.3f} s alone, {tries} s behind 10,000"


def test_memory_is_promised_once(lab: Lab) -> None:
    nodes: list[dict[str, Any]] = json.loads(lab.node("client").run(["clupyctl", "--json", "nodes"]).stdout)["nodes"]
    assert len(nodes) == AGENTS
    share = int(0.6 * min(node["memory"] for node in nodes))
    done = lab.node("client").python(SIXTY_PERCENT, "user", str(share), timeout=120)
    by_node: dict[str, list[list[float]]] = {}
    for node, value in json.loads(done.stdout):
        assert value, done.stdout
        by_node.setdefault(node, []).append(value)
    for intervals in by_node.values():
        intervals.sort()
        for earlier, later in zip(intervals, intervals[1:]):
            assert earlier[1] <= later[0], "two calls of 60 % of a node's memory overlapped"


TOO_LARGE = """
import clupy, sys, time

call = clupy.parallel(abs, cpus=500, name="giant")
futures = [call(1), call(2)]
time.sleep(float(sys.argv[1]))
print([f.running() or f.done() for f in futures])
"""


def test_a_call_that_fits_no_node_says_so_to_its_user(lab: Lab) -> None:
    """Once, after ten seconds, and not before."""
    client = lab.node("client")
    process = client.run(["python3", "-c", TOO_LARGE, "15"], "user", timeout=60)
    assert process.stdout.strip() == "[False, False]"
    lines = [line for line in process.stderr.splitlines() if "giant" in line]
    assert len(lines) == 1 and "giant waits: no node has 500 CPUs: the largest" in lines[0], process.stderr
    assert "giant" not in client.run(["python3", "-c", TOO_LARGE, "5"], "user", timeout=60).stderr

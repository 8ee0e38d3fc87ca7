# SPDX-License-Identifier: Apache-2.0
"""Those who have not shown who they are take nothing from those who have."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 2

HALF_OPEN = 10000
RUBBISH_RATE = 1000  # connections per second
RUBBISH_SECONDS = 6
GROWTH_MAX = 16 << 20  # bytes

# Calls one after the other, for three seconds in peace, then until it is told to stop.
CALLER = """
import json, sys, threading, time
import clupy

def same(x):
    return x

call = clupy.parallel(same, cpus=0.1, memory="64M")
call(0).result()

def measure(stop):
    times = []
    while not stop():
        begin = time.monotonic()
        assert call(len(times)).result() == len(times)
        times.append(time.monotonic() - begin)
    times.sort()
    return {"calls": len(times), "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}

end = time.monotonic() + 3
print(json.dumps(measure(lambda: time.monotonic() > end)), flush=True)
stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set()), daemon=True).start()
print(json.dumps(measure(stopped.is_set)), flush=True)
"""

# Connections that say nothing, all at once; they are held as long as the master does.
SILENT = """
import resource, socket, sys
number = int(sys.argv[1])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, number + 100), hard))
held = []
for _ in range(number):
    try:
        held.append(socket.create_connection(("master", 7878), timeout=10))
    except OSError:
        pass
print(len(held), flush=True)
sys.stdin.readline()
"""

# Connections that say what is no frame and no TLS.
RUBBISH = """
import os, socket, sys, time
rate, seconds = int(sys.argv[1]), int(sys.argv[2])
begin = time.monotonic()
made = 0
while made < rate * seconds:
    time.sleep(max(0, begin + made / rate - time.monotonic()))
    try:
        with socket.create_connection(("master", 7878), timeout=10) as stranger:
            stranger.send(os.urandom(64))
    except OSError:
        pass
    made += 1
print(made / (time.monotonic() - begin), flush=True)
"""


def status(lab: Lab) -> Any:
    """What the master says of itself; asked on its own machine."""
    return json.loads(lab.node("master").run(["clupyctl", "status", "--json"], environment=["CLUPY_MASTER_URL="]).stdout)


def master_rss(lab: Lab) -> int:
    """Bytes."""
    node = lab.node("master")
    pid = node.run(["systemctl", "show", "--property=MainPID", "--value", "clupy-masterd"]).stdout.strip()
    text = node.run(["cat", f"/proc/{pid}/status"]).stdout
    return int(text.split("VmRSS:")[1].split()[0]) << 10


def test_strangers_take_nothing_from_others(lab: Lab, wait_until: Callable[..., None]) -> None:
    attacker, client = lab.node("agent2"), lab.node("client")
    with client.popen(["python3", "-c", CALLER], "user", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as caller:
        assert caller.stdin is not None and caller.stdout is not None
        try:
            idle = json.loads(caller.stdout.readline())
            before = master_rss(lab)
            began = time.monotonic()
            with attacker.popen(["python3", "-c", SILENT, str(HALF_OPEN)], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE) as silent:
                assert silent.stdin is not None and silent.stdout is not None
                print(f"{silent.stdout.readline().strip()} connections that say nothing")
                # Whoever comes from elsewhere is served meanwhile.
                assert "ready" in client.run(["clupyctl", "nodes"]).stdout
                strangers = status(lab)["strangers"]
                assert strangers["unproven"] <= 512
                rate = attacker.run(["python3", "-c", RUBBISH, str(RUBBISH_RATE), str(RUBBISH_SECONDS)]).stdout.strip()
                print(f"{rate} connections of rubbish a second")
                during = master_rss(lab)
                silent.stdin.close()
            lasted = time.monotonic() - began
            caller.stdin.write("\n")
            caller.stdin.flush()
            attacked = json.loads(caller.stdout.readline())
        finally:
            caller.kill()
    print(f"in peace: {idle}, attacked: {attacked}; p99 {attacked['p99'] / idle['p99']:.1f} times that of peace")
    print(f"resident: {before >> 10} KiB before, {during >> 10} KiB in it")
    assert attacked["calls"] > 0
    assert during - before < GROWTH_MAX

    refused = status(lab)["strangers"]["refused"]
    print(refused)
    # What got as far as the hello is what the bucket lets through.
    let_in = 200 + 100 * (lasted + 1)
    assert sum(refused.values()) > HALF_OPEN + RUBBISH_RATE * RUBBISH_SECONDS - let_in - 200
    assert refused["hello"] <= let_in
    wait_until(lambda: status(lab)["strangers"]["unproven"] == 0, 10, "the end of those that say nothing")

    lines = lab.node("master").run(["journalctl", "--unit=clupy-masterd", "--output=cat"]).stdout.splitlines()
    told = [line for line in lines if line.startswith("Turned away")]
    assert 0 < len(told) <= time.monotonic() - began + 2
    about = [line for line in lines if "closed: No hello" in line or "no valid frame" in line]
    assert len(about) < 10, "not one line for each stranger"

    # The attacker's machine is not locked out: its agent never lost its place, and once it is quiet it may come again.
    wait_until(lambda: attacker.run(["clupyctl", "nodes"], check=False).returncode == 0, 10, "peace")
    states = {node["name"]: node["state"] for node in json.loads(client.run(["clupyctl", "nodes", "--json"]).stdout)["nodes"]}
    assert states == {"agent1": "ready", "agent2": "ready"}

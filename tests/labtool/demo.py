# SPDX-License-Identifier: Apache-2.0
"""`./lab demo`: from a bare machine to a program that computes on a cluster, with what an operator sees of it."""

from __future__ import annotations

import subprocess

from . import build, content, dependencies
from .console import LabError, say
from .lab import Lab
from .node import Node

AGENTS = 3

# Calls that last long enough to be looked at while they run; each ends by itself.
TASKS_TO_LOOK_AT = """
import time
import clupy

def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))
    return clupy.current().node

futures = [clupy.parallel(busy, cpus=0.2, memory="64M", name="look-at-me")(8) for _ in range(6)]
while not any(future.running() for future in futures):
    time.sleep(0.02)
print("running", flush=True)
clupy.wait_all(futures, time_out=60)
print("ended on " + ", ".join(sorted({str(future.value) for future in futures})), flush=True)
"""


def _show(node: Node, command: list[str], user: str = "root", *, lines: int | None = None) -> None:
    """Runs a command on a node and prints it with what it says. Raises LabError when it fails."""
    print(f"\n{user}@{node.name}$ {' '.join(command)}", flush=True)
    result = node.run(command, user, check=False, timeout=120)
    text = (result.stdout + result.stderr).splitlines()
    shown = text if lines is None or len(text) <= lines else [
        *text[:lines - 3], f"… {len(text) - lines + 1} more lines …", *text[-2:]]
    print("\n".join(shown), flush=True)
    if result.returncode != 0:
        raise LabError(f"{' '.join(command)} on {node.name} ended with exit code {result.returncode}",
                       next_step=f"./lab up --agents {AGENTS}; ./lab exec master -- journalctl -u 'clupy-*' -n 50")


def run(name: str) -> None:
    """Runs the demonstration in a lab of this name and removes it. Raises LabError at the first step that fails."""
    say("dependencies")
    dependencies.ensure_build()
    say("building (the first time takes about a minute)")
    installed = build.build_release()
    lab = Lab(name)
    if lab.exists():
        raise LabError(f"there is already a lab '{name}'", next_step=f"./lab down --name {name}, or another --name")
    say(f"booting master, {AGENTS} agents and a client, each with a systemd of its own")
    try:
        lab.up(AGENTS, installed)
        _demonstrate(lab)
    finally:
        say("cleaning up")
        lab.down()
    say("done; ./lab up makes such a cluster for you to keep, ./lab --help says what else there is")


def _demonstrate(lab: Lab) -> None:
    client = lab.node("client")
    master = lab.node("master")
    say("an ordinary user's program: examples/primes.py")
    _show(client, ["python3", "/src/examples/primes.py"], content.USER, lines=14)
    _show(client, ["clupyctl", "status"], content.USER)
    _show(client, ["clupyctl", "nodes"], content.USER)
    say("six calls of 8 s, to look at while they run")
    with client.popen(["python3", "-c", TASKS_TO_LOOK_AT], content.USER, stdin=subprocess.DEVNULL,
                      stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        if program.stdout.readline() != "running\n":
            program.wait()
            raise LabError("the program on the client ended before its calls ran",
                           next_step="./lab up; ./lab exec client --user user -- python3 /src/examples/primes.py")
        _show(client, ["clupyctl", "tasks"], content.USER)
        busiest = max((node for node in lab.nodes() if node.role == "agent"), key=_scopes)
        _show(busiest, ["systemd-cgls", "--no-pager", "--xattr=no", "--cgroup-id=no", "--unit", "clupy.slice"], lines=60)
        print(f"\n{program.stdout.readline()}", end="", flush=True)
        if program.wait() != 0:
            raise LabError(f"the program on the client ended with exit code {program.returncode}")
    _show(master, ["clupyctl", "status"])


def _scopes(node: Node) -> int:
    """How many task scopes run on a node."""
    units = node.run(["systemctl", "list-units", "--plain", "--no-legend", "--state=running", "clupy-task-*.scope"])
    return len(units.stdout.splitlines())

#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs many attempts of each way to end on a node, as root, through clupy-launcher alone, and checks everything about them.

launcher_reasons.py COUNT [--width N] [REASON…]: prints one line a reason and JSON at the end; exit code 1 if anything is
not as it should be. What it checks: the reason; the peak of memory; that every printed line is in the journal with unit
and ids; that nothing is left. The agent must not be running.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from launcher_client import ALL_SEALS, MIB, Client, Event, Op, Outcome, connected  # noqa: E402

MEMORY_LIMIT = 64 * MIB
OWNER = "alice"


# The functions that tasks run. They travel by value, as a user's do.

def task_return(task: str) -> int:
    print("begin", task)
    print("end", task)
    return 42


def task_abort(task: str) -> None:
    print("begin", task)
    os.abort()


def task_sigterm(task: str) -> None:
    print("begin", task)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


def task_memory(task: str) -> int:
    print("begin", task)
    return len(bytearray(b"x") * (4 * MEMORY_LIMIT))


def task_exit(task: str) -> None:
    os.write(1, f"last words {task}".encode())  # no new line, no flush, no farewell
    os._exit(0)


def task_cancel(task: str) -> None:
    import clupy
    print("begin", task)
    clupy.progress(1)
    time.sleep(600)


@dataclass(frozen=True)
class Reason:
    function: Callable[[str], Any]
    lines: int
    check: Callable[[Event], bool]
    limits: dict[str, int] = field(default_factory=dict)


REASONS = {
    "return": Reason(task_return, 2, lambda e: e.outcome == Outcome.VALUE and e.value == 42 and e.seals == ALL_SEALS),
    "abort": Reason(task_abort, 1, lambda e: (e.outcome, e.status, e.detail) == (Outcome.SIGNAL, 6, "SIGABRT")),
    "sigterm": Reason(task_sigterm, 1, lambda e: (e.outcome, e.status, e.detail) == (Outcome.SIGNAL, 15, "SIGTERM")),
    "memory": Reason(task_memory, 1, lambda e: e.outcome == Outcome.MEMORY and e.limit == MEMORY_LIMIT
                     and 0.9 * MEMORY_LIMIT <= e.peak <= 1.1 * MEMORY_LIMIT, {"memory_max": MEMORY_LIMIT}),
    "exit": Reason(task_exit, 1, lambda e: (e.outcome, e.status) == (Outcome.EXIT, 0)),
    "cancel": Reason(task_cancel, 1, lambda e: (e.outcome, e.detail) == (Outcome.CANCELLED, "tester")),
}


@dataclass
class Run:
    """What came of the attempts of one reason."""

    reason: str
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    without_peak: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)  # task → unit
    lines: int = 0
    expected_lines: int = 0
    bad_lines: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.wrong and not self.without_peak and not self.bad_lines and self.lines == self.expected_lines

    def __str__(self) -> str:
        return (f"{self.reason:8} {len(self.units) - len(self.wrong)} of {len(self.units)} right, "
                f"{len(self.units) - len(self.without_peak)} peaks, {self.lines} of {self.expected_lines} lines, "
                f"{len(self.bad_lines)} of them wrong, {self.seconds:.1f} s")


def attempts(client: Client, name: str, count: int, width: int) -> Run:
    """Runs count attempts, up to width at once."""
    reason, run, started = REASONS[name], Run(name), time.monotonic()
    open_tasks: set[str] = set()
    begun = ended = 0
    while ended < count:
        while begun < count and len(open_tasks) < width:
            task = os.urandom(16).hex()
            client.start(reason.function, task, task=task, name=f"test {name}", **reason.limits)  # type: ignore[arg-type]
            open_tasks.add(task)
            begun += 1
        event = client.receive(120.0)
        if event.op == Op.PROGRESS and name == "cancel":
            client.stop(event.task, grace=0.0)
        elif event.op in (Op.ENDED, Op.REFUSED):
            assert event.task in open_tasks, f"{event} told twice"
            open_tasks.remove(event.task)
            ended += 1
            run.units[event.task] = event.unit
            if event.op == Op.REFUSED or not reason.check(event):
                run.wrong.append(str(event))
            if event.receipt.get("memory_peak", 0) <= 0:
                run.without_peak.append(str(event))
            if event.op == Op.ENDED:
                client.release(event.task)
    run.seconds = time.monotonic() - started
    run.expected_lines = count * reason.lines
    if len(set(run.units.values())) != count:
        run.wrong.append("units are not all different")
    return run


def check_journal(run: Run, since: float) -> None:
    """Every line of every task has the unit and the ids."""
    subprocess.run(["journalctl", "--sync"], check=True)
    output = subprocess.run(["journalctl", "--quiet", "--identifier=clupy-task", "--output=json", "--no-pager",
                             f"--since=@{since:.6f}"], check=True, capture_output=True, text=True).stdout
    for line in output.splitlines():
        entry = json.loads(line)
        message = str(entry.get("MESSAGE"))
        task = message.split()[-1] if message else ""
        if task not in run.units:
            if entry.get("CLUPY_TASK_ID") in run.units:
                run.bad_lines.append(line)
            continue
        run.lines += 1
        if (entry.get("_SYSTEMD_UNIT"), entry.get("CLUPY_TASK_ID"), entry.get("CLUPY_JOB_ID"), entry.get("CLUPY_OWNER"),
                entry.get("CLUPY_ATTEMPT")) != (run.units[task], task, task, OWNER, "1"):
            run.bad_lines.append(line)


# What may be left behind.

def launcher_pid() -> int:
    output = subprocess.run(["systemctl", "show", "--property=MainPID", "--value", "clupy-launcher.service"], check=True,
                            capture_output=True, text=True).stdout
    return int(output)


def _links(pattern: str) -> Iterator[str]:
    for path in glob.iglob(pattern):
        with contextlib.suppress(OSError):
            yield os.readlink(path)


def network_namespaces() -> int:
    """Those that a process is in, that a descriptor holds, or a mount."""
    found = {link for pattern in ("/proc/[0-9]*/ns/net", "/proc/[0-9]*/fd/*") for link in _links(pattern)
             if link.startswith("net:[")}
    return len(found) + open("/proc/self/mountinfo").read().count("net:[")


def children(pid: int) -> list[str]:
    """Their names; a process that is in the table but has ended is one too."""
    names = []
    for child in open(f"/proc/{pid}/task/{pid}/children").read().split():
        with contextlib.suppress(OSError):
            names.append(open(f"/proc/{child}/comm").read().strip())
    return sorted(names)


def mounts() -> int:
    """What the launcher and the node's PID 1 see."""
    return sum(open(f"/proc/{pid}/mountinfo").read().count("\n") for pid in (1, launcher_pid()))


def task_cgroups() -> list[str]:
    found = glob.glob("/sys/fs/cgroup/**/clupy-task-*", recursive=True)
    for controller in ("freezer", "cpuacct", "cpu,cpuacct"):
        found += glob.glob(f"/sys/fs/cgroup/{controller}/clupy/*/")
    return found


def task_units() -> list[str]:
    output = subprocess.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "clupy-task-*"], check=True,
                            capture_output=True, text=True).stdout
    return [line.split()[0] for line in output.splitlines()]


def footprint() -> dict[str, Any]:
    """What must be the same before and after."""
    pid = launcher_pid()
    return {"launcher": pid, "fds": len(os.listdir(f"/proc/{pid}/fd")), "children": children(pid), "mounts": mounts(),
            "network_namespaces": network_namespaces()}


def remains() -> dict[str, Any]:
    """What must not be there once no task is."""
    found = {"units": task_units(), "cgroups": task_cgroups(),
             "log_extra_fields": glob.glob("/run/systemd/units/log-extra-fields:clupy-task-*")}
    return {name: value for name, value in found.items() if value}


def wait_for(condition: Callable[[], Any], timeout: float) -> Any:
    """Waits until the condition gives something false, which nothing announces; returns what it gave last."""
    deadline = time.monotonic() + timeout
    while (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return value


def differences(before: dict[str, Any]) -> dict[str, Any]:
    now = footprint()
    return {name: (before[name], now[name]) for name in before if before[name] != now[name]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("reasons", nargs="*", metavar="REASON")
    options = parser.parse_args()
    client = connected(OWNER)
    # One attempt makes the zygote, which stays; only what tasks leave behind counts.
    client.run(lambda: None)
    client.pool(0)
    wait_for(remains, 20)
    before = footprint()
    runs = []
    for name in options.reasons or REASONS:
        since = time.time()
        run = attempts(client, name, options.count, options.width)
        check_journal(run, since)
        print(run, flush=True)
        for text in (run.wrong + run.without_peak + run.bad_lines)[:3]:
            print("   ", text, flush=True)
        runs.append(run)
    client.pool(0)
    left = wait_for(remains, 20)
    changed = wait_for(lambda: differences(before), 20)
    client.close()
    result = {"good": all(run.good for run in runs) and not left and not changed, "left": left, "changed": changed,
              "runs": [{"reason": run.reason, "attempts": len(run.units), "wrong": len(run.wrong),
                        "without_peak": len(run.without_peak), "lines": run.lines, "expected_lines": run.expected_lines,
                        "bad_lines": len(run.bad_lines)} for run in runs]}
    print(json.dumps(result))
    return 0 if result["good"] else 1


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The launcher replaces itself, and nothing that runs, waits or has ended notices. Runs on a node, as root, instead of the
agent. Prints a line per check; status 1 when one fails.

Usage: launcher_upgrade_checks.py [NAME…]
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import launcher_checks as base  # noqa: E402
from launcher_checks import FLAG_FROZEN, FLAG_REPLAYED, FLAG_WARM, ended, eventually, fresh, main_pid, started, units  # noqa: E402
from launcher_client import ALL_SEALS, F_ADD_SEALS, MIB, Client, Event, Op, Outcome, connected  # noqa: E402

PROGRAM = "/usr/lib/clupy/clupy-launcher"
UNIT = "clupy-launcher.service"
checks: dict[str, Callable[[], None]] = {}

with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
    LATE = 40 if "User Mode Linux" in cpuinfo.read() else 10  # seconds: when all that is to be there is there


def check(function: Callable[[], None]) -> Callable[[], None]:
    checks[function.__name__] = function
    return function


def show(*properties: str) -> list[str]:
    text = subprocess.run(["systemctl", "show", *(f"-p{name}" for name in properties), UNIT], capture_output=True, text=True,
                          check=True).stdout
    values = dict(line.split("=", 1) for line in text.splitlines())
    return [values[name] for name in properties]


def journal(*arguments: str) -> list[dict[str, Any]]:
    subprocess.run(["journalctl", "--sync"], check=True)
    text = subprocess.run(["journalctl", "-o", "json", "--all", "--no-pager", *arguments], capture_output=True, text=True, check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


def said(text: str) -> int:
    return sum(text in str(entry.get("MESSAGE")) for entry in journal("-u", UNIT))


def reload(done: str = "Took over") -> None:
    """systemctl reload, until the journal has one more of what the launcher says then."""
    before = said(done)
    subprocess.run(["systemctl", "reload", UNIT], check=True)
    eventually(lambda: said(done) > before, f"not '{done}'")
    eventually(lambda: show("ActiveState") == ["active"], "it is reloading for ever")


def born(pid: int) -> str:
    """Tells a process from a later one with the same number."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
        return f.read().rsplit(")", 1)[1].split()[19]


def listed(client: Client) -> dict[str, Event]:
    client.request(Op.LIST)
    found: dict[str, Event] = {}

    def end(event: Event) -> bool:
        if event.flags & FLAG_REPLAYED:
            found[event.task] = event
        return event.op == Op.LIST_END

    client.wait_for(end)
    client._later = [event for event in client._later if not event.flags & FLAG_REPLAYED]
    return found


def nothing_is_left() -> None:
    eventually(lambda: not units("clupy-task-*.scope"), "scopes are left")
    eventually(lambda: not base.processes("clupy-init"), "processes are left")
    eventually(lambda: not [f for f in os.listdir("/run/systemd/units") if f.startswith("log-extra-fields:clupy-task")],
               "fields are left")
    for hierarchy in ("freezer", "cpuacct"):
        folder = f"/sys/fs/cgroup/{hierarchy}/clupy"
        if os.path.isdir(folder):
            eventually(lambda folder=folder: not [e for e in os.listdir(folder) if os.path.isdir(f"{folder}/{e}")],  # type: ignore[misc]
                       "cgroups are left")


# Functions that run as tasks.

def f_value(value: Any) -> Any:
    return value


def f_wait(seconds: float, value: Any) -> Any:
    import time
    time.sleep(seconds)
    return value


def f_raise_late(seconds: float) -> None:
    import time
    time.sleep(seconds)
    raise ValueError("late")


def f_exit_late(seconds: float, status: int) -> None:
    import os, time
    time.sleep(seconds)
    os._exit(status)


def f_syscall_late(seconds: float) -> None:
    import ctypes, time
    time.sleep(seconds)
    ctypes.CDLL(None).syscall(321, 0, 0, 0)  # bpf


def f_spin() -> None:
    while True:
        pass


def f_ignore_term() -> None:
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(60)


def f_lines(n: int, seconds: float) -> int:
    import time
    for i in range(n):
        print(f"line {i}", flush=True)
        time.sleep(seconds / n)
    return n


def f_progress(n: int, seconds: float) -> int:
    import time

    import clupy
    for i in range(n + 1):
        clupy.progress(i, n, f"step {i}")
        time.sleep(seconds / n)
    return n


@check
def everything_goes_on() -> None:
    client = fresh()
    reload()  # whatever another check has put in the program's place
    instance = client.hello().instance
    client.pool(3)
    done = {client.start(f_value, i): i for i in range(5)}
    for task in done:
        assert ended(client, task).outcome == Outcome.VALUE
    soon = int((time.clock_gettime(time.CLOCK_BOOTTIME) + 1.2 * LATE) * 1e6)
    wanted: dict[str, tuple[Outcome, Any]] = {}
    for i in range(7):
        wanted[client.start(f_wait, LATE, i)] = (Outcome.VALUE, i)
    for _ in range(3):
        wanted[client.start(f_raise_late, LATE)] = (Outcome.EXCEPTION, None)
    for status in (3, 4):
        wanted[client.start(f_exit_late, LATE, status)] = (Outcome.EXIT, status)
    wanted[client.start(f_wait, 60, 0, timeout_usec=LATE * 1_200_000)] = (Outcome.TIMEOUT, None)
    wanted[client.start(f_wait, 60, 0, deadline_usec=soon)] = (Outcome.DEADLINE, None)
    wanted[client.start(f_spin, cpu_time_max_usec=LATE * 20_000, cpu_quota_usec=50_000)] = (Outcome.CPU_TIME, None)
    wanted[client.start(f_syscall_late, LATE)] = (Outcome.SYSCALL, 321)
    stopped = client.start(f_ignore_term)
    wanted[stopped] = (Outcome.CANCELLED, None)
    lines = client.start(f_lines, 100, LATE)
    wanted[lines] = (Outcome.VALUE, 100)
    progress = client.start(f_progress, 100, LATE)
    wanted[progress] = (Outcome.VALUE, 100)
    own_memory = client.start(f_wait, LATE, "own", memory_max=64 * MIB)
    wanted[own_memory] = (Outcome.VALUE, "own")
    assert len(wanted) == 20
    begun = {task: started(client, task) for task in wanted}
    eventually(lambda: any(e.get("MESSAGE") == "ready" for e in journal("-t", "clupy-task", f"CLUPY_TASK_ID={stopped}")), "not ready")
    client.stop(stopped, grace=0.8 * LATE)
    eventually(lambda: len(units("clupy-task-*.scope")) >= 23, "no pool")
    births = {event.pid: born(event.pid) for event in begun.values()}
    trusted = {pid: born(pid) for name in ("clupy-anchor", "clupy-builder", "clupy-init", "clupy-sandbox") for pid in base.processes(name)}
    before = show("MainPID", "NRestarts")

    reload()
    assert show("MainPID", "NRestarts") == before
    assert {pid: born(pid) for pid in births} == births and {pid: born(pid) for pid in trusted} == trusted
    table = listed(client)  # over the same connection
    assert set(table) == set(wanted) | set(done), (len(table), len(wanted))
    for task, value in done.items():
        assert table[task].op == Op.ENDED and table[task].value == value and table[task].seals == 15, table[task]
    for task, event in begun.items():
        assert table[task].op == Op.STARTED and (table[task].pid, table[task].unit) == (event.pid, event.unit), table[task]
    assert client.hello().instance == instance

    client.lease(0.1)  # all freeze, and the next version knows it
    eventually(lambda: all(e.flags & FLAG_FROZEN for e in listed(client).values() if e.op == Op.STARTED), "not frozen")
    reload()
    frozen = [e for e in listed(client).values() if e.op == Op.STARTED]
    assert len(frozen) >= 15 and all(e.flags & FLAG_FROZEN for e in frozen), frozen
    client.start(f_value, 1)
    assert client.wait_for(lambda e: e.op == Op.REFUSED).text
    client.lease(3600)
    client.wait_for(lambda e: e.op == Op.THAWED)
    reload()

    for task, (outcome, value) in wanted.items():
        event = ended(client, task, 6.0 * LATE)
        assert event.outcome == outcome and event.pid == begun[task].pid, (outcome, event)
        if outcome == Outcome.VALUE:
            assert event.value == value, event
        elif value is not None:
            assert event.status == value, event
        assert event.receipt["run_usec"] > 2_000_000 and "cpu_usec" in event.receipt, event
    entries = [e for e in journal("-t", "clupy-task", f"CLUPY_TASK_ID={lines}")]
    assert [e["MESSAGE"] for e in entries] == [f"line {i}" for i in range(100)], len(entries)
    assert {e["_SYSTEMD_UNIT"] for e in entries} == {begun[lines].unit}
    told = [e for e in client._later if e.op == Op.PROGRESS and e.task == progress]
    assert told and told[-1].done == 100, told[-1:]
    event = client.run(f_value, 5, memory_max=512 * MIB, tasks_max=512)
    assert event.value == 5 and event.flags & FLAG_WARM, event
    for task in [*wanted, *done]:
        client.release(task)
    assert not listed(client)
    client.pool(0)
    nothing_is_left()
    assert show("MainPID", "NRestarts") == before


@check
def what_is_being_made_is_made() -> None:
    """Zygotes that import, sandboxes half made, calls that wait: reload again and again while they come to be."""
    client = fresh()
    tasks: dict[str, int] = {}
    before = show("MainPID", "NRestarts")
    for number in range(12):
        for i in range(6):
            tasks[client.start(f_value, i, owner=f"owner{number % 5}", memory_max=(64 + i) * MIB)] = i
        subprocess.run(["systemctl", "reload", UNIT], check=True)
    for task, value in tasks.items():
        event = ended(client, task, 6.0 * LATE)
        assert event.outcome == Outcome.VALUE and event.value == value, event
        client.release(task)
    eventually(lambda: show("ActiveState") == ["active"], "it is reloading for ever")
    assert show("MainPID", "NRestarts") == before
    assert not listed(client)
    nothing_is_left()


@check
def descriptors_do_not_gather() -> None:
    client = fresh()
    client.pool(2)
    assert client.run(f_value, 1).value == 1
    eventually(lambda: len(units("clupy-task-*.scope")) == 2, "no pool")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{main_pid()}/fd"))

    def filters() -> str:
        with open(f"/proc/{main_pid()}/status", encoding="utf-8") as f:
            return next(line for line in f if line.startswith("Seccomp_filters"))

    reload()
    first, its_filters = descriptors(), filters()
    for _ in range(5):
        reload()
    eventually(lambda: descriptors() <= first, "descriptors gather")
    assert filters() == its_filters
    client.pool(0)


@check
def killed_right_after() -> None:
    client = fresh()
    client.pool(4)
    for _ in range(8):
        client.start(base_sleep, 60)
    for _ in range(8):
        client.wait_for(lambda e: e.op == Op.STARTED)
    reload()
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    client.close()
    eventually(lambda: main_pid() not in (0, pid), "it did not come back")
    eventually(lambda: show("ActiveState") == ["active"], "it did not come back")
    client = fresh()
    nothing_is_left()
    assert client.run(f_value, 3).value == 3


def base_sleep(seconds: float) -> None:
    import time
    time.sleep(seconds)


@contextlib.contextmanager
def other_program(content: bytes, owner: int = 0, program: str = PROGRAM) -> Iterator[None]:
    """Something else lies where the program is."""
    shutil.copy2(program, program + ".kept")
    try:
        with open(program + ".new", "wb") as f:
            f.write(content)
        os.chmod(program + ".new", 0o755)
        os.chown(program + ".new", owner, 0)
        os.rename(program + ".new", program)
        yield
    finally:
        os.rename(program + ".kept", program)


@check
def what_cannot_be_executed_is_not() -> None:
    """The launcher goes on as it was."""
    client = fresh()
    task = client.start(f_wait, 3, "still there")
    started(client, task)
    before = show("MainPID", "NRestarts")
    with other_program(b"this is no program"):
        reload("going on as before")
    with open(PROGRAM, "rb") as f:
        content = f.read()
    with other_program(content, owner=65534):
        reload("going on as before")
    assert ended(client, task).value == "still there" and show("MainPID", "NRestarts") == before
    client.release(task)
    reload()
    assert client.run(f_value, 1).value == 1 and show("MainPID", "NRestarts") == before


@check
def a_version_that_fails_is_swept_up() -> None:
    client = fresh()
    for _ in range(4):
        client.start(base_sleep, 60)
    for _ in range(4):
        client.wait_for(lambda e: e.op == Op.STARTED)
    before = int(show("NRestarts")[0])
    with other_program(b"#!/bin/false\n"):
        subprocess.run(["systemctl", "reload", UNIT], check=False)
        eventually(lambda: int(show("NRestarts")[0]) > before, "it was not started again")
    eventually(lambda: show("ActiveState") == ["active"] and os.path.exists("/run/clupy/launcher.sock"), "it did not come back")
    client.close()
    client = fresh()
    nothing_is_left()
    assert client.run(f_value, 1).value == 1


@check
def new_programs_make_new_zygotes() -> None:
    """After an upgrade of the package: what runs goes on with what it has, what comes is the new one's."""
    client = fresh()
    client.pool(2)
    task = client.start(f_wait, 0.6 * LATE, "goes on")
    pid = started(client, task).pid
    eventually(lambda: len(units("clupy-task-*.scope")) == 3, "no pool")
    before = show("MainPID", "NRestarts")
    builders, spawners = base.processes("clupy-builder"), base.processes("clupy-sandbox")
    zygote, sandbox = f"{os.path.dirname(PROGRAM)}/clupy-zygote", f"{os.path.dirname(PROGRAM)}/clupy-sandbox"
    with contextlib.ExitStack() as stack:
        for program in (PROGRAM, zygote, sandbox):
            with open(program, "rb") as f:
                stack.enter_context(other_program(f.read(), program=program))
        reload()
        eventually(lambda: os.readlink(f"/proc/{spawners[0]}/exe") == sandbox, "the spawner is the former one")
        eventually(lambda: not set(builders) >= set(base.processes("clupy-builder")), "no new zygote")
        assert born(pid)
        eventually(lambda: len(units("clupy-task-*.scope")) == 3, "no new pool")

        def warm() -> bool:
            event = client.run(f_value, 1, memory_max=512 * MIB, tasks_max=512)
            assert event.value == 1, event
            return bool(event.flags & FLAG_WARM)

        eventually(warm, "no pair of the new pool is ever taken")  # a scope may be there before its pair is ready
        assert ended(client, task, 6.0 * LATE).value == "goes on"
        client.release(task)
        eventually(lambda: not set(builders) & set(base.processes("clupy-builder")), "the former zygote is there")
        assert base.processes("clupy-sandbox") == spawners and show("MainPID", "NRestarts") == before
    client.pool(0)
    nothing_is_left()


def take_over(state: bytes | None, seals: int = ALL_SEALS) -> subprocess.CompletedProcess[str]:
    """Starts a launcher that is to take over what this memory holds."""
    memory = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(memory, state or b"")
        fcntl.fcntl(memory, F_ADD_SEALS, seals)
        os.lseek(memory, 0, os.SEEK_SET)
        return subprocess.run([PROGRAM], env={"CLUPY_UPGRADE_FD": str(memory)}, pass_fds=[memory], capture_output=True, text=True,
                              timeout=20, check=False)
    finally:
        os.close(memory)


@check
def nonsense_is_not_taken_over() -> None:
    magic, version = (0x55504C43).to_bytes(4, "little"), (3).to_bytes(4, "little")
    for state, why in ((b"", "no state"), (b"\0" * 100_000, "no state"), (magic + (77).to_bytes(4, "little") + b"\0" * 5000, "another version"),
                       (magic + version + b"\0" * 5000, "sizes"), (magic + version, "sizes")):
        process = take_over(state)
        assert process.returncode == 1 and "starting afresh" in process.stderr and why in process.stderr, (state[:16], process)
    process = take_over(magic + version, seals=0)
    assert process.returncode == 1 and "starting afresh" in process.stderr, process
    process = subprocess.run([PROGRAM], env={"CLUPY_UPGRADE_FD": "77"}, capture_output=True, text=True, timeout=20, check=False)
    assert process.returncode == 1 and "starting afresh" in process.stderr, process
    assert fresh().run(f_value, 1).value == 1  # the one that serves is not concerned


if __name__ == "__main__":
    base.checks = checks
    sys.exit(base.main())

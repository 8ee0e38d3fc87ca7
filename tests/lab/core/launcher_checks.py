# SPDX-License-Identifier: Apache-2.0
"""What the launcher promises beside the plain ends of launcher_reasons.py: limits, lease, table, pool, sweep, hostile
requests. Runs on a node, as root, instead of the agent. Prints a line per check; status 1 when one fails.

Usage: launcher_checks.py [NAME…]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from launcher_client import MIB, Client, Event, Op, Outcome, connected  # noqa: E402

FLAG_REPLAYED, FLAG_FROZEN, FLAG_WARM, FLAG_RETRY = 1, 2, 4, 8
checks: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    checks[function.__name__] = function
    return function


def started(client: Client, task: str) -> Event:
    return client.wait_for(lambda e: e.task == task and e.op in (Op.STARTED, Op.ENDED, Op.REFUSED))


def ended(client: Client, task: str, timeout: float = 60.0) -> Event:
    return client.wait_for(lambda e: e.task == task and e.op in (Op.ENDED, Op.REFUSED), timeout)


def eventually(condition: Callable[[], Any], what: str, timeout: float = 15.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def main_pid() -> int:
    return int(subprocess.run(["systemctl", "show", "-p", "MainPID", "--value", "clupy-launcher.service"],
                              capture_output=True, text=True, check=True).stdout)


def units(pattern: str) -> list[str]:
    text = subprocess.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", pattern], capture_output=True, text=True,
                          check=True).stdout
    return [line.split()[0] for line in text.splitlines()]


def processes(name: str) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/comm", encoding="utf-8") as f:
                    if f.read().strip() == name:
                        found.append(int(entry))
            except OSError:
                pass
    return found


def fresh() -> Client:
    """A connection, and an empty table."""
    client = connected()
    client.pool(0)
    client.request(Op.LIST)
    tasks = []
    while (event := client.receive()).op != Op.LIST_END:
        tasks.append((event.task, event.attempt, event.op))
    for task, attempt, op in tasks:
        if op != Op.ENDED:
            client.stop(task, attempt)
            ended(client, task)
        client.release(task, attempt)
    return client


# Functions that run as tasks.

def f_value(value: Any) -> Any:
    return value


def f_spin() -> None:
    while True:
        pass


def f_sleep(seconds: float) -> float:
    import time
    time.sleep(seconds)
    return seconds


def f_work_on(control_fd: int) -> None:
    """Hands over a result of its own and goes on: the room that it had is given to others by then."""
    import fcntl, os, socket, struct, time
    memfd = os.memfd_create("result", os.MFD_ALLOW_SEALING)
    os.write(memfd, b"x")
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, 0xF)
    message = struct.pack("@IIdd128s", 5, 0, 0.0, 0.0, b"")
    socket.send_fds(socket.socket(fileno=control_fd), [message], [memfd])
    for _ in range(20):
        if os.fork() == 0:
            break
    time.sleep(60)


def f_ignore_term() -> None:
    import clupy, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    clupy.progress(1, 2, "ready")
    time.sleep(60)


def f_raise() -> None:
    raise ValueError("no")


def f_exit(status: int) -> None:
    import os
    os._exit(status)


def f_syscall(in_child: bool) -> None:
    import ctypes, os
    libc = ctypes.CDLL(None)
    if in_child and os.fork() != 0:
        os.wait()
        return
    libc.syscall(321, 0, 0, 0)  # bpf


def f_int80() -> None:
    import ctypes, mmap
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # getpid by the i386 table
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()


def f_lambda() -> Any:
    return open("/etc/hostname")


def f_orphans(n: int) -> int:
    import os, signal
    done, tell = os.pipe()
    for _ in range(n):
        if os.fork() == 0:
            os.setsid()
            os.read(os.open("/dev/zero", os.O_RDONLY), 1 << 20)
            os.write(tell, b"x")
            signal.pause()
    for _ in range(n):
        os.read(done, 1)
    return n


def f_look() -> dict[str, Any]:
    import os
    found: dict[str, Any] = {"cwd": os.getcwd(), "cwd_list": os.listdir("."), "tmp": os.listdir("/tmp"), "uid": os.getuid(),
                             "groups": os.getgroups(), "pids": [p for p in os.listdir("/proc") if p.isdigit()],
                             "fds": sorted(int(f) for f in os.listdir("/proc/self/fd")), "run": os.listdir("/run"),
                             "root": sorted(os.listdir("/")), "net": os.readlink("/proc/self/ns/net"),
                             "home": os.environ.get("HOME"), "threads": os.environ.get("OMP_NUM_THREADS")}
    for path in ("/etc/x", "/usr/x", "/x", "/run/x", "/dev/x", "/tmp/x", "/dev/shm/x", "x", "/var/x"):
        try:
            open(path, "w").close()
            found[path] = "written"
        except OSError as e:
            found[path] = e.strerror
    try:
        open("/etc/shadow").close()
        found["shadow"] = "read"
    except OSError as e:
        found["shadow"] = e.strerror
    for path in ("/etc/clupy", "/sys/fs/cgroup", "/sys/kernel"):
        found[path] = os.listdir(path) if os.path.isdir(path) else None
    return found


def f_progress(n: int) -> int:
    import clupy, time
    for i in range(n):
        clupy.progress(i, n, f"step {i}")
        time.sleep(0.01)
    return n


@check
def value_and_receipt() -> None:
    client = fresh()
    event = client.run(f_value, {"a": [1, 2]})
    assert event.outcome == Outcome.VALUE and event.value == {"a": [1, 2]} and event.seals == 15, event
    receipt = event.receipt
    assert 0 <= receipt["cpu_usec"] < 5_000_000 and receipt["memory_peak"] > 0 and receipt["run_usec"] > 0, receipt
    assert event.unit.startswith("clupy-task-") and event.uid >= 65536, event


@check
def what_a_task_sees() -> None:
    client = fresh()
    seen = client.run(f_look, cpus=3).value
    assert seen["cwd"] == "/tmp/work" and seen["cwd_list"] == [] and seen["tmp"] == ["work"], seen
    assert sorted(seen["pids"]) == ["1", "2"] and seen["groups"] == [] and seen["threads"] == "3", seen
    assert set(seen["fds"]) <= {0, 1, 2, 3, 4}, seen  # 4 is the listing's own
    assert set(seen["run"]) <= {"lock"}, seen
    for path in ("/etc/x", "/usr/x", "/x", "/run/x", "/dev/x", "/var/x"):
        assert seen[path] != "written", (path, seen)
    for path in ("/tmp/x", "/dev/shm/x", "x"):
        assert seen[path] == "written", (path, seen)
    assert seen["shadow"] == "Permission denied" and not seen["/etc/clupy"] and not seen["/sys/fs/cgroup"], seen


@check
def exception_and_retry() -> None:
    client = fresh()
    event = client.run(f_raise)
    assert event.outcome == Outcome.EXCEPTION and not event.flags & FLAG_RETRY and "no" in event.value["message"], event
    event = client.run(f_raise, retry_on=(ValueError,))
    assert event.outcome == Outcome.EXCEPTION and event.flags & FLAG_RETRY, event


@check
def result_that_cannot_be_pickled() -> None:
    event = fresh().run(f_lambda)
    assert event.outcome == Outcome.RESULT_PICKLING and "TextIOWrapper" in event.detail, event


@check
def syscall_refused() -> None:
    client = fresh()
    for in_child in (False, True):
        event = client.run(f_syscall, in_child)
        assert event.outcome == Outcome.SYSCALL and event.detail == "bpf" and event.status == 321, event
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        if "User Mode Linux" in f.read():  # there it is one of its own calls
            return
    event = client.run(f_int80)
    assert event.outcome == Outcome.SYSCALL and "architecture" in event.detail, event


@check
def timeout_deadline_cpu_time() -> None:
    client = fresh()
    event = client.run(f_sleep, 60, timeout_usec=200_000)
    assert event.outcome == Outcome.TIMEOUT and event.limit == 200_000, event
    assert 150_000 < event.receipt["run_usec"] < 3_000_000, event
    soon = int((time.clock_gettime(time.CLOCK_BOOTTIME) + 0.5) * 1e6)
    event = client.run(f_sleep, 60, deadline_usec=soon)
    assert event.outcome == Outcome.DEADLINE and event.limit == soon, event
    event = client.run(f_spin, cpu_time_max_usec=300_000)
    assert event.outcome == Outcome.CPU_TIME and event.limit == 300_000, event
    assert 250_000 < event.receipt["cpu_usec"] < 900_000, event


@check
def stop_with_and_without_grace() -> None:
    client = fresh()
    task = client.start(f_ignore_term)
    client.wait_for(lambda e: e.task == task and e.op == Op.PROGRESS)
    begin = time.monotonic()
    client.stop(task, grace=0.5)
    event = ended(client, task)
    assert event.outcome == Outcome.CANCELLED and event.detail == "tester" and time.monotonic() - begin > 0.4, event
    task = client.start(f_sleep, 60)
    started(client, task)
    begin = time.monotonic()
    client.stop(task, grace=30)
    assert ended(client, task).outcome == Outcome.CANCELLED and time.monotonic() - begin < 10
    task = client.start(f_sleep, 60)
    client.stop(task)  # perhaps before it has its pair
    assert ended(client, task).outcome == Outcome.CANCELLED
    task = client.start(f_sleep, 60)
    started(client, task)
    client.stop(task, why=Outcome.SUPERSEDED)
    assert ended(client, task).outcome == Outcome.SUPERSEDED


@check
def orphans_die_and_are_counted() -> None:
    event = fresh().run(f_orphans, 20)
    assert event.outcome == Outcome.VALUE and event.receipt["read_chars"] >= 20 << 20, event


@check
def the_table_outlives_the_agent() -> None:
    client = fresh()
    done, running = client.start(f_value, 7), client.start(f_sleep, 3)
    ended(client, done)
    started(client, running)
    client.close()
    client = connected()
    assert client.hello().instance
    client.request(Op.LIST)
    listed = {}
    while (event := client.receive()).op != Op.LIST_END:
        listed[event.task] = event
    assert listed[done].op == Op.ENDED and listed[done].value == 7 and listed[done].flags & FLAG_REPLAYED, listed
    assert listed[running].op == Op.STARTED and listed[running].flags & FLAG_REPLAYED, listed
    client.start(f_value, 8, task=done)  # the same again: told, not run
    event = ended(client, done)
    assert event.value == 7 and event.flags & FLAG_REPLAYED, event
    client.release(running)  # has not ended
    assert client.wait_for(lambda e: e.task == running).op == Op.REFUSED
    assert ended(client, running).outcome == Outcome.VALUE
    for task in (done, running):
        client.release(task)
    client.request(Op.LIST)
    assert client.receive().op == Op.LIST_END


@check
def the_lease_freezes_and_thaws() -> None:
    client = fresh()
    task = client.start(f_sleep, 2)
    unit = started(client, task).unit
    client.lease(0.1)
    assert client.wait_for(lambda e: e.task == task).op == Op.FROZEN
    time.sleep(2.5)
    client.start(f_value, 1)
    assert client.receive().op == Op.REFUSED
    client.request(Op.LIST)
    event = client.receive()
    assert event.op == Op.STARTED and event.flags & FLAG_FROZEN, event
    assert client.receive().op == Op.LIST_END and units(unit)
    client.lease(3600)
    assert client.wait_for(lambda e: e.task == task).op == Op.THAWED
    assert ended(client, task).outcome == Outcome.VALUE
    client.release(task)
    task = client.start(f_spin)
    started(client, task)
    client.lease(0.05)
    assert client.wait_for(lambda e: e.task == task).op == Op.FROZEN
    client.stop(task, why=Outcome.SUPERSEDED, grace=10)
    begin = time.monotonic()
    assert ended(client, task).outcome == Outcome.SUPERSEDED and time.monotonic() - begin < 8
    client.release(task)
    client.lease(3600)


@check
def the_pool_is_warm() -> None:
    client = fresh()
    client.pool(3)
    client.run(f_value, 0)
    eventually(lambda: len(units("clupy-task-*.scope")) >= 3, "no pool")
    eventually(lambda: client.run(f_value, 1).flags & FLAG_WARM, "none of the pool was taken")
    event = client.run(f_sleep, 0.01, memory_max=64 * MIB)
    assert event.outcome == Outcome.VALUE, event
    event = client.run(f_value, 1, tmp_max=1 * MIB)
    assert event.outcome == Outcome.VALUE and not event.flags & FLAG_WARM, event
    client.pool(0)
    eventually(lambda: not units("clupy-task-*.scope"), "the pool is not given back")


@check
def owners_do_not_share() -> None:
    client = fresh()
    one, two = client.run(f_look, owner="alice"), client.run(f_look, owner="bob")
    assert one.uid != two.uid and len(units("clupy-zygote-*.scope")) >= 2, (one, two)
    event = client.run(f_look, host_network=True)
    assert event.outcome == Outcome.VALUE and event.value["net"] == os.readlink("/proc/1/ns/net"), event
    assert os.readlink("/proc/1/ns/net") not in (one.value["net"], two.value["net"]), (one, two)


@check
def progress_is_told_and_bounded() -> None:
    client = fresh()
    begin = time.monotonic()
    task = client.start(f_progress, 100)
    events = []
    while (event := client.receive()).op != Op.ENDED:
        events.append(event)
    assert event.outcome == Outcome.VALUE, event
    told = [e for e in events if e.op == Op.PROGRESS]
    # A node that is busy takes longer for the hundred; ten a second are told, and up to twenty that say "done".
    assert 3 <= len(told) <= 10 + 20 * (time.monotonic() - begin) and told[-1].total == 100, len(told)
    client.release(task)


@check
def bad_requests_change_nothing() -> None:
    client = fresh()
    client.send(b"x" * 10)
    assert client.receive().op == Op.REFUSED
    client.send(os.urandom(1 << 16))
    assert client.receive().op == Op.REFUSED
    for bad in ({"memory_max": 1}, {"policy": "../x"}, {"policy": "nope"}, {"owner": "a/b"}, {"tasks_max": 0},
                {"cpus": 0}, {"name": "a\nb"}, {"cpu_quota_usec": 1}, {"tmp_max": 1}):
        event = client.run(f_value, 1, **bad)
        assert event.op == Op.REFUSED and event.text, (bad, event)
    client.stop("0" * 32)
    assert client.receive().op == Op.REFUSED
    assert client.run(f_value, 5).value == 5


@check
def who_has_handed_over_a_result_works_no_further() -> None:
    client = fresh()
    task = client.start(f_work_on, 3)
    pid = started(client, task).pid
    end = client.wait_for(lambda e: e.task == task and e.op == Op.ENDED)
    assert end.outcome == Outcome.VALUE, end
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "it works on", 2)
    eventually(lambda: end.unit not in units("clupy-task-*.scope"), "processes of it are left", 3)
    client.release(task)


@check
def trusted_processes_may_die() -> None:
    client = fresh()
    for name, outcome in (("clupy-zygote", Outcome.VALUE), ("clupy-builder", Outcome.VALUE)):
        task = client.start(f_sleep, 2)
        event = started(client, task)
        for pid in processes(name):
            if pid != event.pid:
                os.kill(pid, signal.SIGKILL)
        assert ended(client, task).outcome == outcome, name
        client.release(task)
        assert client.run(f_value, 1).value == 1, name
    task = client.start(f_sleep, 30)
    started(client, task)
    for pid in processes("clupy-init"):
        os.kill(pid, signal.SIGKILL)
    event = ended(client, task)
    assert event.outcome == Outcome.INFRASTRUCTURE, event
    client.release(task)
    tasks = [client.start(f_sleep, 30) for _ in range(12)]
    for task in tasks:
        started(client, task)
    for pid in processes("clupy-init"):  # the kernel ends them all at once: let these be the last
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    for pid in processes("clupy-anchor"):
        os.kill(pid, signal.SIGKILL)
    for task in tasks:
        event = ended(client, task)
        assert event.outcome == Outcome.INFRASTRUCTURE, event
        client.release(task)
    assert client.run(f_value, 1).value == 1
    eventually(lambda: not units("clupy-task-*.scope"), "scopes are left")


@check
def an_order_to_a_process_that_dies_is_given_again() -> None:
    """The end of a zygote or a builder that has an order costs no call: the next try goes to another one."""
    client = fresh()
    for name, made in (("clupy-builder", 0), ("clupy-zygote", 1)):
        assert client.run(f_value, 1).value == 1, name  # there is one, and it waits
        eventually(lambda: not processes("clupy-init"), "inits are left")
        victims = processes(name)
        assert victims, name
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)
        task = client.start(f_value, 2)
        client.request(Op.LIST)
        client.wait_for(lambda e: e.op == Op.LIST_END)  # the launcher has given the first order
        eventually(lambda n=made: len(processes("clupy-init")) == n, "the other one was not ordered")  # type: ignore[misc]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        event = ended(client, task)
        assert event.outcome == Outcome.VALUE and event.value == 2, (name, event)
        client.release(task)


@check
def a_killed_launcher_leaves_nothing() -> None:
    client = fresh()
    client.pool(4)
    for i in range(8):
        client.start(f_sleep, 60)
    for _ in range(8):
        client.wait_for(lambda e: e.op == Op.STARTED)
    os.kill(main_pid(), signal.SIGKILL)
    client.close()
    eventually(lambda: not processes("clupy-init") + processes("clupy-anchor"), "processes are left", 10)
    eventually(lambda: os.path.exists("/run/clupy/launcher.sock") and main_pid() > 0, "it did not come back")
    time.sleep(1)
    eventually(lambda: not units("clupy-task-*.scope") and not units("clupy-zygote-*.scope"), "scopes are left")
    eventually(lambda: not [f for f in os.listdir("/run/systemd/units") if f.startswith("log-extra-fields:clupy-task")], "fields are left")
    for hierarchy in ("freezer", "cpuacct"):
        folder = f"/sys/fs/cgroup/{hierarchy}/clupy"
        if os.path.isdir(folder):
            eventually(lambda: not [e for e in os.listdir(folder) if os.path.isdir(f"{folder}/{e}")], "cgroups are left")
    client = fresh()
    assert client.run(f_value, 3).value == 3


def main() -> int:
    failed = 0
    for name in sys.argv[1:] or checks:
        begin = time.monotonic()
        try:
            checks[name]()
            print(f"ok    {name} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception as error:  # an assertion, or the launcher hung up
            failed += 1
            frame = next(frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == name)
            text = str(error)[:1500] or type(error).__name__
            print(f"FAIL  {name} ({time.monotonic() - begin:.1f} s), line {frame.lineno}, {frame.line}: {text}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

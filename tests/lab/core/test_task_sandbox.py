# SPDX-License-Identifier: Apache-2.0
"""What strangers' code can do on a node: from a task, and from a package's import in the zygote. Through the launcher alone.

Each attack has its control: the same native call by a task of a launcher that makes no sandbox (a program of the tests,
which is never installed) must succeed, else it shows nothing."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from labtool import build

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1
PROGRAMS = "/usr/lib/clupy"
PACKAGES = f"{PROGRAMS}/python"
HERE = Path(__file__).parent

# A service of the node that a task must not reach, over TCP and an abstract socket; runs until its input ends.
SERVICE = """
import socket, sys
tcp = socket.create_server(("127.0.0.1", 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0clupy-test-abstract")
unix.listen()
print(tcp.getsockname()[1], flush=True)
sys.stdin.read()
"""

# Asks the launcher to run a function given as text; prints a JSON of what came of it.
RUN = """
import json, sys
sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import Op, connected
source, owner, timeout, cancel, options = json.loads(sys.argv[1])
space = {"__name__": "__main__"}
exec(source, space)
client = connected(owner)
task = client.start(space["task"], **options)
if cancel:
    client.wait_for(lambda e: e.op == Op.PROGRESS, timeout)
    client.stop(task, grace=0.2)
while True:
    try:
        event = client.wait_for(lambda e: e.op in (Op.ENDED, Op.REFUSED), timeout)
        break
    except ConnectionError:  # the task itself took the launcher's socket: only without a sandbox
        client = connected(owner)
        client.request(Op.LIST)
client.release(task)
value = event.value if event.outcome in (1, 2, 8) else None
if event.outcome in (2, 8):
    value = value["traceback"]
print(json.dumps({"op": event.op.name, "outcome": event.outcome.name, "status": event.status, "detail": event.detail,
                  "text": event.text, "unit": event.unit, "limit": event.limit, "peak": event.peak, "value": value,
                  "disks": event.disks}))
"""

ATTACK = "def task():\n    import attacks\n    return attacks.RESULTS\n"

# What tasks have left behind on the node, and which launcher says so.
REMAINS = """
import json, sys
sys.path.insert(0, "/src/tests/lab/core")
from launcher_reasons import launcher_pid, remains, wait_for
print(json.dumps({"remains": wait_for(remains, 20), "pid": launcher_pid()}))
"""

# A zygote makes its children for the launcher: that is what the launcher expects, and it looks at each.
ZYGOTE_MAY = {"19 clone for the parent"}


def run(node: Node, source: str, owner: str = "alice", timeout: float = 60.0, cancel: bool = False,
        **options: int) -> dict[str, Any]:
    """Runs the source's function `task` as an owner's task; cancel: once it has reported progress."""
    process = node.run(["python3", "-", json.dumps([source, owner, timeout, cancel, options])], input=RUN,
                       timeout=timeout + 30)
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return result


def remains(node: Node) -> dict[str, Any]:
    process = node.run(["python3", "-"], input=REMAINS, timeout=60)
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    """A node whose launcher serves the test instead of the agent, and that has a service and attacks.py as a package."""
    node = lab.node("agent1")
    node.run(["systemctl", "stop", "clupy-agent.service"])
    service = node.popen(["python3", "-c", SERVICE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert service.stdout is not None and service.stdin is not None
    port = int(service.stdout.readline())
    node.write(f"{PACKAGES}/attacks.py", (HERE / "attacks.py").read_text())
    node.run(["chmod", "0644", f"{PACKAGES}/attacks.py"])
    write_targets(node, "clupy-launcher", port)
    yield node
    service.stdin.close()
    service.wait(10)
    node.run(["sh", "-c", f"rm -f {PACKAGES}/attacks.py {PACKAGES}/targets.json {PACKAGES}/impostor.* "
                          f"{PACKAGES}/*.preimport"])
    node.run(["systemctl", "start", "clupy-agent.service"])


def write_targets(node: Node, launcher: str, port: int | None = None) -> None:
    """Tells the attacks of a launcher's unit, and of the service's port."""
    old = node.run(["cat", f"{PACKAGES}/targets.json"], check=False).stdout
    targets = json.loads(old) if old else {"abstract": "clupy-test-abstract"}
    targets["launcher"] = int(node.run(["systemctl", "show", "--property=MainPID", "--value", launcher]).stdout)
    if port is not None:
        targets["tcp"] = ["127.0.0.1", port]
    node.write(f"{PACKAGES}/targets.json", json.dumps(targets))
    node.run(["chmod", "0644", f"{PACKAGES}/targets.json"])


def send_program(node: Node, program: Path) -> None:
    text = base64.b64encode(gzip.compress(program.read_bytes())).decode()
    node.run(["sh", "-c", 'base64 --decode | gunzip > "$1" && chmod 0755 "$1"', "sh", f"{PROGRAMS}/{program.name}"],
             input=text)


@pytest.fixture(scope="module")
def off(node: Node) -> Iterator[dict[str, Any]]:
    """What came of every attack in tasks without any sandbox, from another launcher in the place of the node's."""
    programs = build.build_sandbox_off()
    for program in programs:
        send_program(node, program)
    node.run(["systemctl", "stop", "clupy-launcher.service"])
    results: dict[str, Any] = {}
    try:
        node.run(["systemd-run", "--unit=clupy-launcher-off", "--service-type=notify", "--property=LimitNOFILE=524288",
                  f"{PROGRAMS}/clupy-launcher-off"])
        write_targets(node, "clupy-launcher-off")
        results["attacks"] = run(node, ATTACK, "attacker")
        for name in FATAL:
            results[name] = run(node, fatal_call(name), "attacker")
        for table in OTHER_TABLES:
            results[table] = run(node, machine_code(table), "attacker")
    finally:
        node.run(["systemctl", "stop", "clupy-launcher-off.service"], check=False)
        node.run(["rm", "-rf", "/tmp/work", *(f"{PROGRAMS}/{program.name}" for program in programs)])
        node.run(["systemctl", "start", "clupy-launcher.service"])
        write_targets(node, "clupy-launcher")
    yield results


@pytest.fixture(scope="module")
def control(off: dict[str, Any]) -> dict[str, str]:
    """What a task can do without a sandbox."""
    result: dict[str, str] = off["attacks"]["value"]
    return result


@pytest.fixture
def preimport(node: Node) -> Iterator[Any]:
    """preimport(module): the zygotes that start from now on import it."""
    def write(module: str) -> None:
        node.write(f"{PACKAGES}/test.preimport", f"{module}\n")
        node.run(["chmod", "0644", f"{PACKAGES}/test.preimport"])

    yield write
    node.run(["rm", "-f", f"{PACKAGES}/test.preimport"])


def successes(results: dict[str, str]) -> set[str]:
    return {name for name, result in results.items() if result == "done"}


def test_every_attack_works_without_a_sandbox(control: dict[str, str]) -> None:
    assert {name: result for name, result in control.items() if result != "done"} == {}


def test_the_nodes_own_launcher_cannot_do_without_a_sandbox(node: Node) -> None:
    """What the tests' launcher can is compiled into it: there is nothing in the others that could be switched."""
    for program in build.build_sandbox_off():
        assert node.run(["test", "-e", f"{PROGRAMS}/{program.name}"], check=False).returncode != 0
        assert b"clupy-sandbox-off" in program.read_bytes(), "else its absence below would show nothing"
    for name in ("clupy-launcher", "clupy-sandbox"):
        found = node.run(["grep", "--count", "--text", "clupy-sandbox-off", f"{PROGRAMS}/{name}"], check=False)
        assert found.stdout.strip() == "0", name


def test_a_task_gets_nothing(node: Node, control: dict[str, str]) -> None:
    result = run(node, ATTACK, "task-attacker")
    assert result["outcome"] == "VALUE", result
    assert set(result["value"]) == set(control)
    assert successes(result["value"]) == set(), result["value"]


def test_a_package_that_attacks_from_its_import_gets_nothing(node: Node, control: dict[str, str], preimport: Any) -> None:
    preimport("attacks")
    result = run(node, "def task():\n    import sys\n    return sys.modules['attacks'].RESULTS\n", "import-attacker")
    assert result["outcome"] == "VALUE", result  # the module was imported by the zygote, or this is a KeyError
    assert set(result["value"]) == set(control)
    assert successes(result["value"]) <= ZYGOTE_MAY, result["value"]


@pytest.mark.parametrize("kind", ["stranger", "zygote", "bare", "nobody", "anchor", "mute", "closed"])
def test_a_process_handed_in_that_is_no_task_gets_nothing(node: Node, preimport: Any, kind: str) -> None:
    node.write(f"{PACKAGES}/impostor.py", (HERE / "impostor.py").read_text())
    node.write(f"{PACKAGES}/impostor.kind", kind)
    node.run(["chmod", "0644", f"{PACKAGES}/impostor.py", f"{PACKAGES}/impostor.kind"])
    before = remains(node)
    preimport("impostor")
    owner = f"impostor-{kind}"
    result = run(node, "def task():\n    return 1\n", owner, 90.0)
    assert result["op"] == "REFUSED" or result["outcome"] in ("INFRASTRUCTURE", "ENVIRONMENT"), result
    node.run(["journalctl", "--sync"])
    journal = node.run(["journalctl", "--no-pager", "--output=cat", "--grep", f"impostor: {kind} .* handed in"]).stdout
    assert journal, "the attack has not taken place"
    # The launcher lives, owes nobody anything, and the next owner is served.
    node.run(["rm", "-f", f"{PACKAGES}/test.preimport"])
    assert run(node, "def task():\n    return 1\n", "neighbour")["value"] == 1
    after = remains(node)
    assert after["pid"] == before["pid"] and not after["remains"], after


@pytest.mark.parametrize("code", ["import ctypes\nctypes.CDLL(None).syscall(250, 0, 0, 0)\n",  # keyctl
                                  "import os\nos.kill(os.getpid(), 9)\n", "import os\nos._exit(0)\n",
                                  "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\n"],
                         ids=["fatal call", "killed", "exit", "thread"])
def test_a_package_that_ends_or_spoils_its_zygote(node: Node, preimport: Any, code: str) -> None:
    node.write(f"{PACKAGES}/impostor.py", code)
    before = remains(node)
    preimport("impostor")
    result = run(node, "def task():\n    return 1\n", "spoiler")
    assert result["op"] == "REFUSED" or result["outcome"] in ("INFRASTRUCTURE", "ENVIRONMENT"), result
    node.run(["rm", "-f", f"{PACKAGES}/test.preimport"])
    assert run(node, "def task():\n    return 1\n", "neighbour")["value"] == 1
    after = remains(node)
    assert after["pid"] == before["pid"] and not after["remains"], after


FATAL = {"bpf": 321, "keyctl": 250, "add_key": 248, "perf_event_open": 298, "userfaultfd": 323, "init_module": 175,
         "kexec_load": 246, "open_by_handle_at": 304, "swapon": 167}


def fatal_call(name: str) -> str:
    return f"def task():\n    import ctypes\n    return ctypes.CDLL(None).syscall({FATAL[name]}, -1, -1, -1, -1, -1)\n"


@pytest.mark.parametrize("name", FATAL)
def test_calls_that_end_a_task_are_named(node: Node, off: dict[str, Any], name: str) -> None:
    result = run(node, fatal_call(name))
    assert (result["outcome"], result["status"], result["detail"]) == ("SYSCALL", FATAL[name], name), result
    assert off[name]["value"] == -1, off[name]  # there the kernel only says that the arguments make no sense


# The i386 table by `int 0x80` (20 is getpid there), the x32 table by its bit in the number.
OTHER_TABLES = {
    "i386": "b814000000cd80c3",  # mov eax, 20; int 0x80; ret
    "x32": "b8270000400f05c3",  # mov eax, 0x40000027 (getpid); syscall; ret
}
MACHINE_CODE = """
def task():
    import ctypes, mmap
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(bytes.fromhex("{code}"))
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()
"""


def machine_code(table: str) -> str:
    return MACHINE_CODE.format(code=OTHER_TABLES[table])


@pytest.mark.parametrize("table", OTHER_TABLES)
def test_other_system_call_tables(node: Node, off: dict[str, Any], table: str) -> None:
    outcome = run(node, machine_code(table))
    assert outcome["outcome"] in ("SYSCALL", "SIGNAL") and outcome["detail"] != "", outcome
    if outcome["outcome"] == "SIGNAL":
        assert outcome["detail"] == "SIGSYS", outcome
    # Without a sandbox it is only a call: answered, or not there in this kernel.
    outside = off[table]
    assert outside["outcome"] == "VALUE" or (outside["outcome"], outside["detail"]) == ("SIGNAL", "SIGSEGV"), outside


INHERITED = """
def task():
    import os
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass
    return found
"""


def test_inherited_descriptors_are_the_ones_meant(node: Node) -> None:
    found = {int(number): name for number, name in run(node, INHERITED)["value"].items()}
    assert set(found) == {0, 1, 2, 3}, found
    assert found[0] == "/dev/null" and found[1] == found[2]


def test_daemons_that_a_task_leaves_die_with_it(node: Node) -> None:
    source = """
def task():
    import os, signal
    marker = "clupy-left-behind"
    for _ in range(50):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(number, signal.SIG_IGN)
                os.execv("/bin/sleep", [marker, "1000"])
            os._exit(0)
    return True
"""
    assert run(node, source)["value"] is True
    assert not remains(node)["remains"]
    left = node.run(["pgrep", "--full", "^clupy-left-behind"], check=False).stdout
    assert left == ""


IDENTITY = """
def task():
    import os
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    return {**{key: status[key].strip() for key in ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
                                                    "NoNewPrivs", "Seccomp", "Threads")},
            "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()), "network": os.listdir("/sys/class/net")
            if os.path.isdir("/sys/class/net") else [], "core": __import__("resource").getrlimit(4), "tmp": os.listdir("/tmp"),
            "cwd": os.listdir("."), "exe": os.readlink("/proc/self/exe")}
"""


def test_what_a_task_is(node: Node) -> None:
    value = run(node, IDENTITY)["value"]
    assert value["NoNewPrivs"] == "1" and value["Seccomp"] == "2" and value["Threads"] == "1"
    assert {int(value[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert value["Groups"] == "" and "0" not in value["Uid"].split() and len(set(value["Uid"].split())) == 1
    assert len(value["processes"]) == 2, "init and the task"
    assert value["core"] == [0, 0] and value["cwd"] == [] and value["exe"].endswith("/clupy-zygote")


NEEDED = """
def square(x):
    return x * x

def task():
    import asyncio, concurrent.futures, multiprocessing, os, shutil, socket, sqlite3, subprocess, sys, tempfile, threading
    from multiprocessing import shared_memory
    done = {}
    done["subprocess"] = subprocess.run(["/bin/sh", "-c", "echo hi | cat"], capture_output=True, text=True).stdout
    done["python"] = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout
    threads = [threading.Thread(target=square, args=(i,)) for i in range(20)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        done["pool"] = pool.map(abs, range(-3, 0))
    with concurrent.futures.ProcessPoolExecutor(2, context) as executor:
        done["executor"] = list(executor.map(abs, range(-3, 0)))
    block = shared_memory.SharedMemory(create=True, size=1000)
    block.close()
    block.unlink()
    queue = context.Queue()
    queue.put(5)
    done["queue"] = queue.get()

    async def echo():
        process = await asyncio.create_subprocess_exec("/bin/echo", "x", stdout=subprocess.PIPE)
        return (await process.communicate())[0].decode()

    done["asyncio"] = asyncio.run(echo())
    folder = tempfile.mkdtemp()
    open(f"{folder}/a", "w").write("x")
    shutil.copytree(folder, f"{folder}2")
    os.chmod(f"{folder}/a", 0o755)
    os.mkfifo(f"{folder}/fifo")
    sqlite3.connect(f"{folder}/db").execute("create table t(a)")
    server = socket.create_server(("127.0.0.1", 0))  # the task's own loopback
    client = socket.create_connection(server.getsockname())
    server.accept()[0].send(b"y")
    done["loopback"] = client.recv(1).decode()
    try:
        import numpy
        done["numpy"] = float((numpy.ones((200, 200)) @ numpy.ones((200, 200)))[0, 0])
    except ImportError:
        done["numpy"] = 200.0
    return done
"""


def test_what_programs_need_works(node: Node) -> None:
    result = run(node, NEEDED)
    assert result["value"] == {"subprocess": "hi\n", "python": "1\n", "pool": [3, 2, 1], "executor": [3, 2, 1], "queue": 5,
                               "asyncio": "x\n", "loopback": "y", "numpy": 200.0}, result


FORK_BOMB = """
def task():
    import os, signal
    children = 0
    while True:
        try:
            if os.fork() == 0:
                signal.pause()
            children += 1
        except BlockingIOError:
            return children
"""


def test_a_fork_bomb_stays_within_its_limit(node: Node) -> None:
    result = run(node, FORK_BOMB, tasks_max=40)
    assert 30 <= result["value"] <= 39, result  # init and the task count too


STUBBORN = """
def task():
    import clupy, ctypes, os, signal, time
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG: none
    if os.fork() == 0:
        os.setsid()
    clupy.progress(1)
    if STOP:
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        time.sleep(1)
"""


@pytest.mark.parametrize("stops_itself", [False, True])
def test_cancel_works_on_a_task_that_does_not_want_to_end(node: Node, stops_itself: bool) -> None:
    result = run(node, STUBBORN.replace("STOP:", f"{stops_itself}:"), cancel=True, timeout=10.0)
    assert (result["outcome"], result["detail"]) == ("CANCELLED", "tester"), result
    assert not remains(node)["remains"]


FILL = """
def task():
    block = b"x" * (1 << 20)
    written = 0
    try:
        with open(FOLDER + "/fill", "wb", buffering=0) as file:
            while True:
                written += file.write(block)
    except OSError as error:
        return [error.errno, written >> 20]
"""


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_files_of_a_task_are_bounded(node: Node, folder: str) -> None:
    assert run(node, FILL.replace("FOLDER", repr(folder)), tmp_max=8 << 20)["value"] == [28, 8]  # ENOSPC


OVERFILL = {
    "blocks": """
def task():
    with open(FOLDER + "/fill", "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))
""",
    "inodes": """
def task():
    for number in range(200_000):
        open(f"{FOLDER}/{number}", "w").close()
""",
    "removed on the way out": """
def task():
    import tempfile
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder, open(f"{folder}/fill", "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))
""",
}


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
@pytest.mark.parametrize("how", OVERFILL)
def test_who_fills_its_files_fails_with_that_reason(node: Node, folder: str, how: str) -> None:
    result = run(node, OVERFILL[how].replace("FOLDER", repr(folder)), tmp_max=8 << 20, memory_max=512 << 20)
    assert (result["outcome"], result["detail"]) == ("DISK", folder), result
    assert "No space left on device" in result["value"], "the user's own exception, as text"
    disk = result["disks"].pop(folder)
    assert disk["limit"] == 8 << 20 and disk["files_limit"] == 100_000, disk
    if how == "blocks":
        assert disk["used"] == 8 << 20 and disk["files_used"] < 10, disk
    elif how == "inodes":
        assert disk["files_used"] == 100_000 and disk["used"] < 1 << 20, disk
    else:
        assert disk["used"] < 1 << 20, disk


def test_room_that_is_missing_elsewhere_is_another_reason(node: Node) -> None:
    result = run(node, "def task():\n    open('/dev/full', 'wb', buffering=0).write(b'x')\n")
    assert (result["outcome"], "No space left on device" in result["value"]) == ("EXCEPTION", True), result


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
def test_files_of_a_task_count_as_its_memory(node: Node, folder: str) -> None:
    result = run(node, FILL.replace("FOLDER", repr(folder)), tmp_max=256 << 20, memory_max=64 << 20)
    assert (result["outcome"], result["limit"]) == ("MEMORY", 64 << 20), result
    assert 32 << 20 < result["disks"][folder]["used"] <= 64 << 20, "its share is told"


def test_time_limits_have_their_own_reasons(node: Node) -> None:
    spin = "def task():\n    while True:\n        pass\n"
    assert run(node, spin, timeout_usec=300_000)["outcome"] == "TIMEOUT"
    assert run(node, spin, cpu_time_max_usec=300_000)["outcome"] == "CPU_TIME"

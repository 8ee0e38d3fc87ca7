#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the launcher promises of builds. Runs on a node, as root, instead of the agent. Prints a line per check; status 1 when
one fails.

The builder is replaced by one that runs the code of its order: what a package's setup.py can do, it can.

Usage: build_checks.py [NAME…]
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "core"))

import launcher_checks as base  # noqa: E402
from launcher_checks import eventually, main_pid, processes, units  # noqa: E402
from launcher_client import MIB, Client, Event, Op, Outcome, connected  # noqa: E402

BUILDER = Path("/usr/lib/clupy/python/clupy/_build.py")
ENVIRONMENTS = Path("/var/lib/clupy/environments")
BUILDING = Path("/var/lib/clupy/building")
SERIES = "3.11"
checks: dict[str, Any] = {}

RUNNER = """
import json, os, subprocess, sys
order = json.load(open(3))
def report(found):
    os.write(4, json.dumps(found).encode())
def make_environment():
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True)
    return target + "/lib/python%d.%d/site-packages/" % sys.version_info[:2]
def attempt(name, function):
    try:
        found[name] = repr(function())
    except BaseException as error:
        found[name] = None
target, found = order["target"], {}
exec(order["code"])
"""


def check(function: Any) -> Any:
    checks[function.__name__] = function
    return function


@contextlib.contextmanager
def runner() -> Iterator[None]:
    """The builder is the one above."""
    kept = BUILDER.read_bytes()
    BUILDER.write_text(RUNNER)
    try:
        yield
    finally:
        BUILDER.write_bytes(kept)


def name_of(text: str) -> str:
    """An environment's name that tells the checks apart."""
    return (text.encode().hex() + "0" * 40)[:40]


def order(client: Client, name: str, code: str, **options: Any) -> None:
    client.build(name, json.dumps({"target": str(ENVIRONMENTS / name), "code": code}).encode(), **options)


def build(client: Client, name: str, code: str, timeout: float = 120.0, **options: Any) -> Event:
    order(client, name, code, **options)
    return client.build_end(name, timeout)


def remove(client: Client, name: str) -> None:
    """Removes it as soon as no zygote has it."""
    eventually(lambda: client.environment_remove(name).op == Op.ENVIRONMENT_REMOVED or not (ENVIRONMENTS / name).exists(),
               f"{name} cannot be removed")


def nothing_is_left(name: str) -> None:
    """No folder, unit or process of a build."""
    eventually(lambda: not list(BUILDING.iterdir()), f"{list(BUILDING.iterdir())} are left")
    eventually(lambda: not units("clupy-build-*"), "a scope is left")
    assert not processes("clupy-build")
    assert not (ENVIRONMENTS / name).exists()


def task_words() -> str:
    import sys

    import words  # type: ignore[import-not-found]
    return f"{words.WORDS} {sys.prefix}"


def task_numpy() -> bool:
    import importlib.util
    return importlib.util.find_spec("numpy") is not None


@check
def a_build_makes_an_environment_that_tasks_import() -> None:
    client, name = connected(), name_of("good")
    order(client, name, "open(make_environment() + 'words.py', 'w').write('WORDS = 42')\nprint('said this')\nreport({'libraries': {}})")
    begun = client.wait_for(lambda e: e.op == Op.BUILD_STARTED)
    assert begun.environment == name and begun.unit == f"clupy-build-{name[:16]}.scope" and begun.socket is None
    event = client.build_end(name)
    assert (event.outcome, event.log, event.report) == (Outcome.VALUE, "said this\n", b'{"libraries": {}}'), event
    found = client.environments()[name].figures
    assert found["python"] == SERIES and found["owner"] == "" and found["files"] == event.figures["files"] > 5
    assert found["bytes"] == event.figures["bytes"] > 0 and found["used_at"] == 0 and found["in_use"] == 0
    assert abs(found["built_at"] / 1e6 - time.time()) < 600
    for folder, _, files in os.walk(ENVIRONMENTS / name):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            about = os.lstat(path)
            assert (about.st_uid, about.st_gid) == (0, 0), path
            assert stat.S_ISLNK(about.st_mode) or not about.st_mode & 0o6022, path
    run = client.run(task_words, environment=name)
    assert run.value == f"42 {ENVIRONMENTS / name}", run
    assert client.run(task_numpy, environment=name).value is False
    found = client.environments()[name].figures
    assert found["used_at"] >= found["built_at"]
    task = client.start(time.sleep, 600, environment=name)
    client.wait_for(lambda e: e.task == task and e.op == Op.STARTED)
    assert client.environments()[name].figures["in_use"] == 1
    refused = client.environment_remove(name)
    assert (refused.op, refused.error) == (Op.REFUSED, -16), refused
    client.stop(task)
    client.wait_for(lambda e: e.task == task and e.op == Op.ENDED)
    client.release(task)
    eventually(lambda: client.environments()[name].figures["in_use"] == 0, "it is still in use")
    assert (client.environment_remove(name_of("none")).error) == -2
    again = build(client, name, "")
    assert (again.op, again.error) == (Op.REFUSED, -17), again
    # Its zygote waits for work: that goes with it.
    removed = client.environment_remove(name)
    assert removed.op == Op.ENVIRONMENT_REMOVED, removed
    nothing_is_left(name)
    assert client.run(task_words, environment=name).error == -2


@check
def an_environment_that_nobody_has_is_removed() -> None:
    client, name = connected(), name_of("gone")
    assert build(client, name, "make_environment()").outcome == Outcome.VALUE
    removed = client.environment_remove(name)
    assert removed.op == Op.ENVIRONMENT_REMOVED and name not in client.environments(), removed
    nothing_is_left(name)
    assert client.run(task_numpy, environment=name).error == -2


@check
def anothers_environment_is_out_of_reach() -> None:
    client, name = connected("alice"), name_of("bob")
    assert build(client, name, "make_environment()", owner="bob").outcome == Outcome.VALUE
    assert client.environments()[name].figures["owner"] == "bob"
    assert client.run(task_numpy, environment=name).error == -13
    assert client.run(task_numpy, environment=name, owner="bob").value is False


@check
def what_is_preloaded_is_there_and_what_cannot_be_is_told() -> None:
    client, name = connected(), name_of("preload")
    code = """
site = make_environment()
open(site + "words.py", "w").write("import sys; WORDS = 'clupy._task' in sys.modules and sys.flags.isolated")
open(target + "/preload", "w").write("words\\n")
"""
    assert build(client, name, code).outcome == Outcome.VALUE
    assert client.run(task_words, environment=name).value.startswith("1 ")
    name = name_of("spoilt")
    assert build(client, name, "make_environment()\nopen(target + '/preload', 'w').write('no_such_module\\n')").outcome == Outcome.VALUE
    event = client.run(task_numpy, environment=name)
    assert event.outcome == Outcome.ENVIRONMENT and "no_such_module" in event.detail, event


@check
def the_nodes_other_pythons_build_and_run() -> None:
    client = connected()
    others = [program.name.rpartition("-")[2] for program in Path("/usr/lib/clupy").glob("clupy-zygote-*")]
    for series in others:
        name = name_of(f"python{series}")
        event = build(client, name, "make_environment()", python=series)
        assert event.outcome == Outcome.VALUE and client.environments()[name].figures["python"] == series, event
        # Code of one Python is none for another: only what each has by itself.
        for environment in (name, f"python-{series}", f"system-{series}"):
            run = client.run(platform.python_version, environment=environment)
            assert run.outcome == Outcome.VALUE and run.value.startswith(f"{series}."), (environment, run)
        run = client.run(eval, "__import__('sys').prefix", environment=name)
        assert run.value == str(ENVIRONMENTS / name), run
        run = client.run(importlib.import_module, "numpy", environment=f"python-{series}")
        assert run.outcome == Outcome.EXCEPTION and "numpy" in run.value["message"], run


@check
def resolving_leaves_nothing() -> None:
    client, name = connected(), "resolve-0123"
    event = build(client, name, "make_environment()\nreport({'lock': 'a==1'})", resolve=True)
    assert event.outcome == Outcome.VALUE and json.loads(event.report) == {"lock": "a==1"}, event
    nothing_is_left(name)


@check
def a_build_that_fails_says_why() -> None:
    client, name = connected(), name_of("fails")
    event = build(client, name, "make_environment()\nprint('x' * 400_000 + 'last words')\nsys.exit(7)")
    assert (event.outcome, event.status, event.report) == (Outcome.EXIT, 7, b""), event
    assert event.log.endswith("last words\n") and len(event.log) == 256 << 10
    nothing_is_left(name)
    event = build(client, name, "os.abort()")
    assert (event.outcome, event.status) == (Outcome.SIGNAL, signal.SIGABRT), event
    nothing_is_left(name)


@check
def its_network_is_the_index_alone() -> None:
    client, name = connected(), name_of("index")
    code = """
import socket, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:7879/simple/", timeout=60).read().decode())
attempt("other", lambda: socket.create_connection(("10.78.0.10", 7878), 3))
attempt("lookup", lambda: socket.getaddrinfo("index.example.org", 80))
attempt("raw", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
attempt("interfaces", lambda: sorted(name for _, name in socket.if_nameindex()) == ["lo"] or 1 / 0)
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("\\0clupy-test-abstract"))
report(found)
sys.exit(1)
"""
    order(client, name, code, index=True)
    begun = client.wait_for(lambda e: e.op == Op.BUILD_STARTED)
    assert begun.socket is not None and begun.socket.getsockname() == ("127.0.0.1", 7879)
    begun.socket.settimeout(60)
    connection, _ = begun.socket.accept()
    assert connection.recv(4096).startswith(b"GET /simple/ ")
    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nwords of the index")
    connection.close()
    event = client.build_end(name)
    assert event.log == "words of the index\n", event
    found = json.loads(event.report)
    assert [key for key, value in found.items() if value is not None] in ([], ["interfaces"]), found
    begun.socket.close()


# What there is to read for root on the node.
READ = ("/etc/shadow", "/var/lib/clupy-agent/epoch", "/proc/1/environ", "/proc/1/root/etc/shadow", "/proc/1/cwd/etc/shadow",
        "/dev/mem", "/dev/vda", "/proc/kcore", "/root/.bashrc", "/run/clupy/launcher.settings", "/run/systemd/units",
        "/var/log/journal", "/var/lib/clupy/building", "/sys/fs/cgroup", "/var/lib/clupy/environments/OTHER/words.py")
ATTACKS = """
import ctypes, os, signal, socket, stat
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
for path in READ:
    attempt("read " + path, lambda: open(path, "rb").read(1) if not os.path.isdir(path) else os.listdir(path))
for path in ("/usr/lib/clupy/x", "/etc/x", "/var/x", "/var/lib/clupy/x", OTHER + "/x", "/opt/x", "/run/x", "/x", "/proc/sys/kernel/core_pattern"):
    attempt("write " + path, lambda: open(path, "w").write("x"))
attempt("replace", lambda: os.rename(target, target + "2"))
attempt("set-uid", lambda: os.chmod("/tmp", 0o4755))
attempt("uid 0", lambda: os.setuid(0))
attempt("chown", lambda: os.chown(target, 0, 0))
attempt("mount", lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0))
attempt("unshare", lambda: call(272, 0x10000000))
attempt("setns", lambda: call(308, os.open("/proc/1/ns/mnt", os.O_RDONLY), 0))
attempt("chroot", lambda: os.chroot("/tmp"))
attempt("pivot", lambda: call(155, b"/tmp", b"/tmp"))
attempt("mknod", lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0)))
attempt("trace", lambda: call(101, 16, 1, 0, 0))
attempt("trace memory", lambda: open("/proc/1/mem", "rb").read(1))
attempt("kill", lambda: os.kill(1, signal.SIGKILL) or time.sleep(2) or os.kill(1, 0))
attempt("others", lambda: [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())] or 1 / 0)
attempt("bpf", lambda: call(321, 0, 0, 0))
attempt("keyctl", lambda: call(250, 0, 0, 0))
attempt("io_uring", lambda: call(425, 1, 0))
attempt("userfaultfd", lambda: call(323, 0))
attempt("handle", lambda: call(304, -100, 0, 0))
attempt("ptrace child", lambda: call(101, 0, 0, 0, 0))
attempt("personality", lambda: call(135, 8))
attempt("systemd", lambda: socket.socket(socket.AF_UNIX).connect("/run/systemd/private"))
attempt("bus", lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket"))
attempt("journal", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect("/run/systemd/journal/socket"))
attempt("descriptors", lambda: [f for f in os.listdir("/proc/self/fd") if int(f) > 6] or 1 / 0)
attempt("cgroup", lambda: open("/sys/fs/cgroup/memory/tasks").read())
report(found)
"""


@check
def a_hostile_build_gets_nothing() -> None:
    client, name, other = connected(), name_of("hostile"), name_of("victim")
    assert build(client, other, "open(make_environment() + '../../../words.py', 'w').write('secret')").outcome == Outcome.VALUE
    read = [path.replace("OTHER", other) for path in READ]
    assert sum(os.access(path, os.R_OK) for path in read) > 8, read  # else it would show nothing
    event = build(client, name, f"import time\nREAD = {read}\nOTHER = {str(ENVIRONMENTS / other)!r}\n{ATTACKS}\nsys.exit(3)")
    assert (event.outcome, event.status) == (Outcome.EXIT, 3), event
    found = json.loads(event.report)
    assert len(found) > 45
    assert not {key: value for key, value in found.items() if value is not None}, found
    nothing_is_left(name)


@check
def the_nodes_passwords_for_indexes_are_not_shown() -> None:
    client, name = connected(), name_of("passwords")
    path, elsewhere = Path("/etc/pip.conf"), Path("/etc/pip-elsewhere.conf")
    kept = path.read_bytes() if path.exists() else None
    code = "import sys\nsys.exit(b'secret' in b''.join(open(p, 'rb').read() for p in PATHS if os.path.exists(p)))"
    try:
        path.unlink(missing_ok=True)
        for linked in (False, True):
            (elsewhere if linked else path).write_text("[global]\nindex-url = https://me:secret@index.example.org/simple\n")
            if linked:
                path.unlink()
                path.symlink_to(elsewhere)
            assert "secret" in path.read_text()
            event = build(client, name, code.replace("PATHS", repr([str(path), str(elsewhere)])))
            assert event.outcome == Outcome.VALUE, event
            remove(client, name)
    finally:
        path.unlink(missing_ok=True)
        elsewhere.unlink(missing_ok=True)
        if kept is not None:
            path.write_bytes(kept)


@check
def it_runs_as_a_user_of_its_own_without_any_right() -> None:
    client, name = connected(), name_of("user")
    order(client, name, "import time\nprint(open('/proc/self/status').read(), flush=True)\nopen('/tmp/said', 'w')\ntime.sleep(600)")
    client.wait_for(lambda e: e.op == Op.BUILD_STARTED)

    def builder() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and b"_build.py" in (entry / "cmdline").read_bytes():
                    found.append((entry / "status").read_text())
        return found

    eventually(lambda: list(BUILDING.glob(f"{name}.*/tmp/said")), "the builder does not run")
    status = dict(line.split(":\t", 1) for line in builder()[0].splitlines() if ":\t" in line)
    start = 1879048192
    assert all(start <= int(uid) < start + 65536 for uid in status["Uid"].split() + status["Gid"].split()), status
    assert status["Groups"].strip() == "" and status["NoNewPrivs"] == "1"
    assert all(int(status[key], 16) == 0 for key in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"))
    unit = f"clupy-build-{name[:16]}.scope"
    shown = subprocess.run(["systemctl", "show", "-p", "MemoryMax,TasksMax,Slice", unit], capture_output=True, text=True,
                           check=True).stdout
    assert f"MemoryMax={256 * MIB}" in shown and "TasksMax=64" in shown and "Slice=clupy-builds.slice" in shown, shown
    client.build_stop(name)
    event = client.build_end(name)
    assert event.outcome == Outcome.CANCELLED and "NoNewPrivs" in event.log, event
    nothing_is_left(name)
    client.build_stop(name)
    assert client.wait_for(lambda e: e.op == Op.REFUSED).error == -2


SPOILT = {
    "set-id files": ("p = target + '/s'; open(p, 'w'); os.chmod(p, 0o755)\ntry: os.chmod(p, 0o6755)\nexcept PermissionError: pass", None),
    "links out": ("os.symlink('/etc', target + '/etc'); os.symlink('/etc/shadow', target + '/shadow')", None),
    "its own hard links": ("open(target + '/a', 'w'); os.link(target + '/a', target + '/b')", None),
    "a hard link to the cache": ("os.mkdir(target + '/.cache'); open(target + '/.cache/a', 'w'); "
                                 "os.link(target + '/.cache/a', target + '/b')", None),
    "folders without rights": ("os.mkdir(target + '/d', 0); os.mkdir(target + '/e', 0o1777)", None),
    "a pipe": ("os.mkfifo(target + '/pipe')", "pipe"),
    "a socket": ("import socket; os.chdir(target); socket.socket(socket.AF_UNIX).bind('plug')", "plug"),
    "a stamp": ("open(target + '/.clupy-environment', 'w').write('clupy environment 1')", ".clupy-environment"),
    "a stamp of a link": ("os.symlink('/etc/passwd', target + '/.clupy-used')", ".clupy-used"),
}


@check
def what_is_left_in_an_environment_is_harmless_or_refused() -> None:
    client = connected()
    before = [os.stat(path) for path in ("/etc", "/etc/shadow", "/etc/passwd")]
    for number, (what, (code, refused)) in enumerate(SPOILT.items()):
        name = name_of(f"spoilt{number}")
        event = build(client, name, f"make_environment()\n{code}")
        if refused is None:
            assert event.outcome == Outcome.VALUE, (what, event)
            for folder, folders, files in os.walk(ENVIRONMENTS / name):
                for path in (os.path.join(folder, entry) for entry in (*folders, *files)):
                    about = os.lstat(path)
                    assert about.st_uid == 0, (what, path)
                    assert stat.S_ISLNK(about.st_mode) or not about.st_mode & 0o7022, (what, path)
            remove(client, name)
        else:
            assert (event.outcome, event.status) == (Outcome.EXIT, 1) and refused in event.log, (what, event)
        nothing_is_left(name)
    after = [os.stat(path) for path in ("/etc", "/etc/shadow", "/etc/passwd")]
    assert [(s.st_uid, s.st_mode) for s in before] == [(s.st_uid, s.st_mode) for s in after]


@check
def the_disk_is_bounded() -> None:
    client, name = connected(), name_of("disk")
    # Not faster than it is looked at: what the page cache holds of it would reach the bound of memory first.
    fill = "import time\nfor i in range(10**9):\n    open(FOLDER + '/%d' % i, 'wb').write(b'x' * 2**20)\n    time.sleep(0.005)\n"
    for folder in ("/tmp", str(ENVIRONMENTS / name)):
        event = build(client, name, fill.replace("FOLDER", repr(folder)), disk_max=16 * MIB)
        assert event.outcome == Outcome.DISK and event.limit == 16 * MIB and "disk" in event.detail, event
        nothing_is_left(name)
    event = build(client, name, "with open('/tmp/one', 'wb') as f:\n    while True: f.write(b'x' * 2**20)", disk_max=16 * MIB)
    assert event.outcome in (Outcome.DISK, Outcome.EXIT), event  # Python ignores SIGXFSZ: "File too large"
    nothing_is_left(name)
    event = build(client, name, "for i in range(10**9):\n    open(target + '/%d' % i, 'w')", files_max=500)
    assert event.outcome == Outcome.DISK and "500" in event.detail, event
    nothing_is_left(name)
    event = build(client, name, "import time\nos.chdir(target)\nfor i in range(5000):\n    os.mkdir('d'); os.chdir('d')\ntime.sleep(600)")
    assert event.outcome == Outcome.EXIT and "deep" in event.detail, event
    nothing_is_left(name)
    # Nor what is too deep, or in the way, when nobody looks any more.
    for code, expected in (("os.chdir(target)\nfor i in range(110):\n    os.mkdir('d'); os.chdir('d')", Outcome.EXIT),
                           ("make_environment()\nopen(target + '/.cache', 'w')\nos.chmod(target, 0o1777)", Outcome.VALUE)):
        event = build(client, name, code)
        assert event.outcome == expected, (code, event)
        if expected == Outcome.VALUE:
            assert not (ENVIRONMENTS / name / ".cache").exists()
            remove(client, name)
        nothing_is_left(name)
    # Disk that no file's name shows: by writing alone, and not by asking for it.
    event = build(client, name, "import errno, ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nf = open('/tmp/a', 'wb')\n"
                  "done = libc.fallocate(f.fileno(), 0, ctypes.c_long(0), ctypes.c_long(4096))\n"
                  "os.posix_fallocate(f.fileno(), 0, 8192)\n"
                  "sys.exit(0 if done < 0 and ctypes.get_errno() == errno.EOPNOTSUPP and os.stat('/tmp/a').st_size == 8192 else 7)")
    assert event.outcome == Outcome.VALUE, event
    remove(client, name)
    nothing_is_left(name)
    event = build(client, name, "for i in range(300):\n    open('/tmp/%d' % i, 'w')\n", files_max=500)
    assert event.outcome == Outcome.VALUE and event.figures["files"] == 0, event


@check
def memory_is_bounded() -> None:
    client, name = connected(), name_of("memory")
    event = build(client, name, "b'x' * 2**30", memory_max=64 * MIB)
    assert (event.outcome, event.limit) == (Outcome.MEMORY, 64 * MIB), event
    child = "import subprocess\nsys.exit(subprocess.run([sys.executable, '-c', 'b\"x\" * 2**30']).returncode != 0)"
    event = build(client, name, child, memory_max=64 * MIB)
    assert event.outcome == Outcome.MEMORY, event
    nothing_is_left(name)


@check
def time_and_processes_are_bounded() -> None:
    client, name = connected(), name_of("time")
    event = build(client, name, "import time\nprint('begun', flush=True)\ntime.sleep(600)", timeout_usec=3_000_000)
    assert (event.outcome, event.limit, event.log) == (Outcome.TIMEOUT, 3_000_000, "begun\n"), event
    nothing_is_left(name)
    code = """
n = 0
try:
    while True:
        pid = os.fork()
        if pid == 0:
            import signal
            signal.pause()
        n += 1
except BlockingIOError:
    report(n)
    sys.exit(5)
"""
    event = build(client, name, code, tasks_max=30)
    assert event.outcome == Outcome.EXIT and 20 <= json.loads(event.report) < 30, event
    nothing_is_left(name)


@check
def what_forks_away_is_dead_before_the_environment_is_there() -> None:
    client, name = connected(), name_of("daemon")
    code = """
make_environment()
if os.fork() == 0:
    import signal, time
    os.setsid()
    for number in range(1, 32):
        if number not in (9, 19):
            signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        f = open(target + "/late", "w")
        while True:
            f.write("x"); f.flush()
            time.sleep(0.001)
    os._exit(0)
os.wait()
while not os.path.exists(target + "/late"):
    pass
"""
    event = build(client, name, code)
    assert event.outcome == Outcome.VALUE, event
    size = (ENVIRONMENTS / name / "late").stat().st_size
    assert not units(f"clupy-build-{name[:16]}*")
    assert (ENVIRONMENTS / name / "late").stat().st_size == size
    remove(client, name)


@check
def two_of_one_name_are_one_too_many() -> None:
    client, name = connected(), name_of("twice")
    order(client, name, "import time\ntime.sleep(600)")
    order(client, name, "")
    refused = client.build_end(name)
    assert (refused.op, refused.error) == (Op.REFUSED, -114), refused
    client.build_stop(name)
    assert client.build_end(name).outcome == Outcome.CANCELLED
    nothing_is_left(name)


@check
def orders_out_of_bounds_are_refused() -> None:
    client, name = connected(), name_of("bounds")
    for options, error in (({"python": "3.1"}, -2), ({"python": "3"}, -22), ({"python": "../x"}, -22), ({"tasks_max": 1}, -22),
                           ({"memory_max": 1}, -22), ({"disk_max": 0}, -22), ({"files_max": 0}, -22), ({"timeout_usec": 0}, -22),
                           ({"owner": "a/b"}, -22), ({"seal": False}, -1)):
        event = build(client, name, "", **options)
        assert (event.op, event.error) == (Op.REFUSED, error), (options, event)
    for bad in ("default", "python-3.11", "system-3.11"):
        event = build(client, bad, "")
        assert (event.op, event.error) == (Op.REFUSED, -22), event
    client.build("../etc", b"{}")
    assert client.wait_for(lambda e: e.op == Op.REFUSED).error == -22
    client.build(name, b"x" * (2 * MIB + 1))
    assert client.build_end(name).error == -27
    nothing_is_left(name)


@check
def a_build_ends_with_its_agent() -> None:
    client, name = connected(), name_of("orphan")
    order(client, name, "import time\nmake_environment()\ntime.sleep(600)")
    client.wait_for(lambda e: e.op == Op.BUILD_STARTED)
    client.close()
    nothing_is_left(name)
    assert build(connected(), name, "make_environment()").outcome == Outcome.VALUE


@check
def a_launcher_that_is_killed_leaves_nothing() -> None:
    client, name = connected(), name_of("killed")
    order(client, name, "import time\nmake_environment()\nprint('begun', flush=True)\ntime.sleep(600)")
    client.wait_for(lambda e: e.op == Op.BUILD_STARTED)
    eventually(lambda: any(BUILDING.glob(f"{name}.*/env/bin/python")), "the builder does not begin")
    old = main_pid()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: main_pid() not in (0, old), "there is no new launcher")
    client = base_connected()
    nothing_is_left(name)
    assert name not in client.environments()
    assert build(client, name, "make_environment()").outcome == Outcome.VALUE
    (ENVIRONMENTS / name / ".clupy-environment").unlink()  # one that is not whole
    assert name not in client.environments() and client.run(task_numpy, environment=name).error == -2
    assert build(client, name, "make_environment()").outcome == Outcome.VALUE
    remove(client, name)


def base_connected() -> Client:
    """A connection to a launcher that may be starting yet."""
    found: list[Client] = []

    def connect() -> bool:
        with contextlib.suppress(OSError):
            found.append(connected())
        return bool(found)

    eventually(connect, "the launcher does not listen")
    return found[0]


@check
def an_upgrade_ends_builds_first() -> None:
    client, name = connected(), name_of("upgrade")
    order(client, name, "import time\nmake_environment()\ntime.sleep(600)")
    client.wait_for(lambda e: e.op == Op.BUILD_STARTED)
    subprocess.run(["systemctl", "reload", "clupy-launcher"], check=True)
    event = client.build_end(name)
    assert event.outcome == Outcome.INFRASTRUCTURE and "upgraded" in event.detail, event
    nothing_is_left(name)
    assert build(client, name, "make_environment()").outcome == Outcome.VALUE  # over the same connection
    remove(client, name)


@check
def everything_is_removed() -> None:
    """What the others have left, too."""
    subprocess.run(["systemctl", "restart", "clupy-launcher"], check=True)
    client = base_connected()
    for name in client.environments():
        remove(client, name)
    nothing_is_left(name_of("none"))
    assert not list(ENVIRONMENTS.iterdir())


if __name__ == "__main__":
    base.checks = checks
    with runner():
        status = base.main()
    sys.exit(status)

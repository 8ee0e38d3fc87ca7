# SPDX-License-Identifier: Apache-2.0
"""Who may do what on D-Bus: what polkit's rules say, and what holds where there is no polkit; who is told of tasks."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 1

RULES = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.clupy.manage" && subject.user == "manager")
        return polkit.Result.YES;
    if (action.id == "org.clupy.manage" && subject.user == "refused")
        return polkit.Result.NO;
    if (action.id == "org.clupy.view" && subject.user == "viewer")
        return polkit.Result.YES;
});
"""

SLEEPER = """
import clupy, sys
future = clupy.parallel(__import__("time").sleep, cpus=0.1, memory="64M", name="sleeper")(600)
while not future.running():
    future.wait(0.1)
print(future.id, flush=True)
sys.stdin.read()
"""

# Calls Watch() and prints what comes: "watching BOOL", "changed ID OWNER NAME STATE NODE ATTEMPT OUTCOME", "lost N".
WATCHER = """
import ctypes
sd = ctypes.CDLL("libsystemd.so.0")
sd.sd_bus_message_get_member.restype = ctypes.c_char_p
for name in ("sd_bus_message_get_member", "sd_bus_message_unref"):
    getattr(sd, name).argtypes = [ctypes.c_void_p]
bus, reply = ctypes.c_void_p(), ctypes.c_void_p()
assert sd.sd_bus_open_system(ctypes.byref(bus)) >= 0
name = b"org.clupy.Master1"
assert sd.sd_bus_call_method(bus, name, b"/org/clupy/Master1", name, b"Watch", None, ctypes.byref(reply), b"") >= 0
answer = ctypes.c_int()
assert sd.sd_bus_message_read(reply, b"b", ctypes.byref(answer)) > 0
print("watching", bool(answer), flush=True)
while True:
    message = ctypes.c_void_p()
    r = sd.sd_bus_process(bus, ctypes.byref(message))
    assert r >= 0
    if not message:
        if r == 0:
            sd.sd_bus_wait(bus, ctypes.c_uint64(1000000))
        continue
    member = sd.sd_bus_message_get_member(message)
    if member == b"TaskChanged":
        texts = [ctypes.c_char_p() for _ in range(6)]
        attempt = ctypes.c_uint32()
        assert sd.sd_bus_message_read(message, b"sssssus", *map(ctypes.byref, texts[:5]), ctypes.byref(attempt),
                                      ctypes.byref(texts[5])) > 0
        words = [text.value.decode() or "-" for text in texts]
        print("changed", *words[:5], attempt.value, words[5], flush=True)
    elif member == b"ChangesLost":
        number = ctypes.c_uint64()
        assert sd.sd_bus_message_read(message, b"t", ctypes.byref(number)) > 0
        print("lost", number.value, flush=True)
    sd.sd_bus_message_unref(message)
"""

# As many tasks as the argument says, which all wait: for a thousand CPUs each.
SUBMITTER = """
import sys
sys.path.insert(0, "/src/tests/lab")
from wire import Wire, new_id
wire = Wire(path="/run/clupy/master.sock", timeout=60)
wire.send("HELLO", {"role": "client", "protocol": [1, 1], "software": "0.1.0", "session": new_id(),
                    "python": "%d.%d.%d" % sys.version_info[:3]})
wire.expect("WELCOME")
job = new_id()
wire.send("SUBMIT", {"jobs": [{"id": job, "name": "many", "code": "0" * 64, "code_size": 1, "cpus": 1000.0}]})
left = int(sys.argv[1])
while left > 0:
    part = min(left, 1000)
    wire.send("SUBMIT", {"tasks": [{"id": new_id(), "job": job, "size": 0} for _ in range(part)]})
    left -= part
wire.send("QUERY", {"id": 1, "verb": "version", "args": {}})
wire.expect("ANSWER", timeout=60)
print("submitted", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def rules(lab: Lab) -> Lab:
    """The lab, with accounts on the master that the rules know."""
    node = lab.node("master")
    for number, name in enumerate(("manager", "refused", "viewer", "nobodys")):
        node.run(["useradd", "--uid", str(2000 + number), name])
    node.write("/etc/polkit-1/rules.d/40-test.rules", RULES)
    node.run(["systemctl", "restart", "polkit.service"])
    return lab


def call(lab: Lab, user: str, method: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Calls a method of the master, with busctl."""
    name = "org.clupy.Master1"
    return lab.node("master").run(["busctl", "call", name, "/org/clupy/Master1", name, method, *arguments], user, check=check)


def drain(lab: Lab, user: str) -> str:
    """Drains the node and takes it back. Returns what went wrong, or nothing."""
    done = call(lab, user, "DrainNode", "s", "agent1", check=False)
    if done.returncode == 0:
        call(lab, user, "UndrainNode", "s", "agent1")
    return done.stderr.strip()


@contextlib.contextmanager
def watcher(lab: Lab, user: str) -> Iterator[subprocess.Popen[str]]:
    """A program that watches as this user, from when it does."""
    with lab.node("master").popen(["python3", "-c", WATCHER], user, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> list[str]:
    """The words of the next line."""
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.fixture
def sleeper(rules: Lab) -> Iterator[str]:
    """The id of a task of `user` that runs."""
    with rules.node("client").popen(["python3", "-c", SLEEPER], "user", stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            identity = process.stdout.readline().strip()
            assert re.fullmatch("[0-9a-f]{32}", identity)
            yield identity
            rules.node("master").run(["clupyctl", "cancel", identity], check=False, environment=["CLUPY_MASTER_URL="])
        finally:
            process.kill()


def test_rules_allow_and_refuse(rules: Lab) -> None:
    assert drain(rules, "manager") == ""
    assert drain(rules, "root") == ""
    for user in ("refused", "user"):
        assert "polkit does not grant you org.clupy.manage" in drain(rules, user)


def test_the_error_has_a_name(rules: Lab) -> None:
    done = rules.node("master").run(["dbus-send", "--system", "--print-reply", "--dest=org.clupy.Master1",
                                     "/org/clupy/Master1", "org.clupy.Master1.DrainNode", "string:agent1"], "refused",
                                    check=False)
    assert done.returncode != 0
    assert "org.clupy.Error.NotAllowed" in done.stderr


def test_cancelling(rules: Lab, sleeper: str) -> None:
    assert call(rules, "refused", "CancelTask", "s", sleeper, check=False).returncode != 0
    assert call(rules, "viewer", "CancelTask", "s", sleeper, check=False).returncode != 0
    call(rules, "manager", "CancelTask", "s", sleeper)


def test_owners_need_no_polkit(rules: Lab, sleeper: str) -> None:
    call(rules, "user", "CancelTask", "s", sleeper)


def test_who_sees_tasks(rules: Lab, sleeper: str) -> None:
    for user, sees in {"user": True, "root": True, "viewer": True, "nobodys": False, "refused": False}.items():
        assert (sleeper in call(rules, user, "ListTasks", "u", "100").stdout) == sees, user
        assert (call(rules, user, "Why", "s", sleeper, check=False).returncode == 0) == sees, user
        path = f"/org/clupy/Master1/task/{sleeper}"
        got = rules.node("master").run(["busctl", "get-property", "org.clupy.Master1", path, "org.clupy.Master1.Task",
                                        "Owner"], user, check=False)
        assert (got.returncode == 0) == (user in ("user", "root")), "the objects are the owner's and root's"
        # What is nobody's is everybody's to see.
        assert "agent1" in call(rules, user, "ListNodes").stdout


def test_who_sees_attempts_on_a_node(rules: Lab, sleeper: str) -> None:
    node = rules.node("agent1")
    name = "org.clupy.Agent1"
    for user, sees in {"root": True, "user": True, "nobody": False}.items():
        text = node.run(["busctl", "call", name, "/org/clupy/Agent1", name, "ListAttempts"], user).stdout
        assert (sleeper in text) == sees, user


def test_without_polkit_only_root(rules: Lab, sleeper: str) -> None:
    node = rules.node("master")
    node.run(["systemctl", "mask", "--runtime", "--now", "polkit.service"])
    try:
        assert "there is no polkit here" in drain(rules, "manager")
        assert drain(rules, "root") == ""
        assert sleeper not in call(rules, "viewer", "ListTasks", "u", "100").stdout
        assert sleeper in call(rules, "user", "ListTasks", "u", "100").stdout
        assert sleeper in call(rules, "root", "ListTasks", "u", "100").stdout
    finally:
        node.run(["systemctl", "unmask", "--runtime", "polkit.service"])
    assert drain(rules, "manager") == ""


def test_a_polkit_that_hangs_keeps_nobody_else_waiting(rules: Lab) -> None:
    node = rules.node("master")
    node.run(["systemctl", "start", "polkit.service"])
    node.run(["systemctl", "kill", "--signal=STOP", "polkit.service"])
    try:
        name = "org.clupy.Master1"
        with node.popen(["busctl", "call", "--timeout=60", name, "/org/clupy/Master1", name, "DrainNode", "s", "agent1"],
                        "manager", stderr=subprocess.PIPE) as waits:
            assert drain(rules, "root") == ""
            assert "agent1" in call(rules, "manager", "ListNodes").stdout
            assert "ready" in rules.node("client").run(["clupyctl", "nodes"]).stdout
            assert waits.poll() is None, "it still waits for polkit"
            _, errors = waits.communicate(timeout=60)
        assert "there is no polkit here" in errors
    finally:
        node.run(["systemctl", "kill", "--signal=CONT", "polkit.service"])
    assert drain(rules, "manager") == ""


def test_watching(rules: Lab) -> None:
    """One call of `user`: its owner is told, and who may see it."""
    with contextlib.ExitStack() as stack:
        watchers = {user: stack.enter_context(watcher(rules, user)) for user in ("user", "root", "viewer", "nobodys")}
        for user, process in watchers.items():
            assert line(process) == ["watching", str(user in ("root", "viewer"))]
        rules.node("client").python("import clupy\nassert clupy.parallel(abs, cpus=0.1, memory='64M')(-1).result() == 1")
        for user in ("user", "root", "viewer"):
            states = []
            while True:
                word, identity, owner, name, state, node, attempt, outcome = line(watchers[user])
                assert (word, owner, name) == ("changed", "user", "abs"), user
                states.append(state)
                if state == "ended":
                    break
                assert outcome == "-"
            assert (node, attempt, outcome) == ("agent1", "1", "value")
            assert len(states) == len(set(states)), states
        watchers["nobodys"].kill()
        assert watchers["nobodys"].communicate()[0] == ""


def test_nobody_watches(rules: Lab) -> None:
    """Then there are no signals of tasks, and the counts come once a second at most."""
    node = rules.node("master")
    with node.popen(["busctl", "monitor", "--json=short", "org.clupy.Master1"], stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE) as monitor:
        assert monitor.stderr is not None
        assert "Monitoring" in monitor.stderr.readline()
        began = time.monotonic()
        rules.node("client").python("import clupy, time\ncall = clupy.parallel(abs, cpus=0.1, memory='64M')\n"
                                    "end = time.monotonic() + 3\n"
                                    "while time.monotonic() < end: call(-1).result()")
        lasted = time.monotonic() - began
        monitor.terminate()
        text, _ = monitor.communicate()
    signals = [message for message in map(json.loads, text.splitlines()) if message["type"] == "signal"]
    members = [message["member"] for message in signals if message.get("interface", "").startswith("org.clupy")]
    assert members == []
    changes = [message for message in signals if message["member"] == "PropertiesChanged"]
    assert 2 <= len(changes) <= lasted + 2
    assert any("TasksEnded" in json.dumps(message["payload"]) for message in changes)


def test_more_changes_than_are_told(rules: Lab) -> None:
    number = 5000
    with watcher(rules, "user") as watching:
        line(watching)
        with rules.node("master").popen(["python3", "-c", SUBMITTER, str(number)], "user", stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE) as submitter:
            assert line(submitter) == ["submitted"]
            began = time.monotonic()
            told = lost = 0
            while told + lost < number:
                words = line(watching)
                if words[0] == "lost":
                    lost += int(words[1])
                else:
                    told += 1
            lasted = time.monotonic() - began
            submitter.kill()
    print(f"{told} told within {lasted:.1f} s, {lost} not")
    assert told + lost == number and told >= 2000
    assert told <= 1000 * (lasted + 2)


def test_who_leaves_watches_no_more(rules: Lab, wait_until: Callable[..., None]) -> None:
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            for _ in range(12):
                assert line(stack.enter_context(watcher(rules, "user")))[0] == "watching"

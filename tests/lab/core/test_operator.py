# SPDX-License-Identifier: Apache-2.0
"""What operators rely on when something went wrong: why, who did it, and a master that does not start."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1

BUS = ("CLUPY_MASTER_URL=",)
SOCKET = "/run/clupy/master.sock"
BROKEN = "/etc/clupy/clupy.master.yaml.d/broken.yaml"
ACTION = "0b3d7c52f6a94e1b8f0e7a2c4d915e63"  # of operators, by the master
RECORD = "f1c6a0d84be34d57a92e6d3c8b7051fa"  # of operators, with the authority

FAILING = """
import clupy, os
future = clupy.parallel(os._exit, cpus=0.1, memory="64M", name="leaves")(7)
future.wait(60)
print(future.id)
"""


def show(node: Node, *names: str, unit: str = "clupy-masterd.service") -> dict[str, str]:
    text = node.run(["systemctl", "show", unit, "--property", ",".join(names)]).stdout
    return dict(line.split("=", 1) for line in text.splitlines())


def journal(node: Node, *matches: str) -> list[dict[str, Any]]:
    text = node.run(["journalctl", "--output=json", "--no-pager", *matches], check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


def ask(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return node.run(["clupyctl", *arguments], check=False, environment=BUS)


def test_why_is_known_after_the_master_was_killed(lab: Lab, wait_until: Callable[..., None]) -> None:
    master = lab.node("master")
    task = lab.node("client").python(FAILING, "user").stdout.strip()
    before = ask(master, "why", task).stdout
    assert "ended by itself with status 7" in before and before.rstrip().endswith(f"clupyctl logs {task[:12]}."), before
    master.run(["systemctl", "kill", "--signal=KILL", "clupy-masterd"])
    wait_until(lambda: ask(master, "version").returncode == 0, 60, "the master is back")
    wait_until(lambda: ask(master, "why", task).stdout == before, 60, "it still knows why")
    assert ask(master, "why", task[:12]).stdout == before
    # Others' are not there, before as after.
    assert master.run(["clupyctl", "why", task], "nobody", check=False, environment=BUS).returncode == 3
    assert ask(master, "why", "f" * 32).returncode == 3


@pytest.fixture
def broken(lab: Lab) -> Iterator[Node]:
    """The master with a configuration that is wrong; not restarted yet."""
    master = lab.node("master")
    master.run(["mkdir", "-p", BROKEN.rpartition("/")[0]])
    master.write(BROKEN, "leese: 15s\n")
    yield master
    master.run(["rm", "-f", BROKEN])
    master.run(["systemctl", "start", "clupy-masterd"])


CONNECT = f"""
import socket
for _ in range(200):
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect("{SOCKET}")
        except OSError:
            pass
"""


def test_a_broken_configuration_is_not_tried_again_and_again(broken: Node, wait_until: Callable[..., None]) -> None:
    assert broken.run(["systemctl", "restart", "clupy-masterd"], check=False).returncode != 0
    wait_until(lambda: show(broken, "ActiveState")["ActiveState"] == "failed", 30, "it has given up")
    wait_until(lambda: show(broken, "ActiveState", unit="clupy-masterd.socket")["ActiveState"] == "inactive", 30,
               "its socket is gone too")
    start = show(broken, "InvocationID")["InvocationID"]
    assert start
    broken.run(["python3", "-c", CONNECT], "user")
    state = show(broken, "ActiveState", "ExecMainStatus", "StatusText", "NRestarts", "InvocationID")
    assert state["ActiveState"] == "failed" and state["ExecMainStatus"] == "78" and state["NRestarts"] == "0", state
    assert state["InvocationID"] == start, "it was started again"
    text = broken.run(["systemctl", "status", "--no-pager", "clupy-masterd"], check=False).stdout
    assert re.search(rf"{BROKEN}:1: key 'leese'.*did you mean", text), text
    assert BROKEN in state["StatusText"]
    broken.run(["rm", BROKEN])
    broken.run(["systemctl", "start", "clupy-masterd"])
    assert broken.run(["clupyctl", "--master", f"unix:{SOCKET}", "version"], "user").stdout


def test_the_journal_knows_who_drained_and_cancelled(lab: Lab) -> None:
    master, client = lab.node("master"), lab.node("client")
    # (Nodes are drained over D-Bus here, and over TCP with the administrator's certificate elsewhere.)
    assert ask(master, "drain", "agent1").returncode == 0
    assert client.run(["clupyctl", "undrain", "agent1"]).returncode == 0
    entries = journal(master, f"MESSAGE_ID={ACTION}", "CLUPY_NODE=agent1")
    assert [entry["CLUPY_ACTION"] for entry in entries] == ["drain", "undrain"]
    assert entries[0]["MESSAGE"] == "root at D-Bus drained node agent1"
    assert entries[1]["CLUPY_PEER"].startswith("10.") and entries[1]["CLUPY_OPERATOR"], entries[1]
    waiting = """
import clupy, sys
future = clupy.parallel(__import__("time").sleep, cpus=0.1, memory="64M", name="theirs")(600)
while not future.running():
    future.wait(0.1)
print(future.id, flush=True)
sys.stdin.read()
"""
    with client.popen(["python3", "-c", waiting], "user", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        task = process.stdout.readline().strip()
        assert ask(master, "cancel", task).returncode == 0
        process.kill()
    entry = journal(master, f"MESSAGE_ID={ACTION}", f"CLUPY_TASK_ID={task}")[-1]
    assert entry["MESSAGE"] == f"root at D-Bus cancelled task {task} (theirs) of user"
    assert (entry["CLUPY_OPERATOR"], entry["CLUPY_OWNER"]) == ("root", "user")


def test_the_journal_knows_who_issued_and_revoked(lab: Lab) -> None:
    master = lab.node("master")
    made = json.loads(ask(master, "pki", "issue", "user", "recorded", "--out", "/tmp/recorded", "--json").stdout)
    assert master.run(["clupyctl", "pki", "revoke", made["serial"]], environment=["SUDO_USER=alice"]).returncode == 0
    token = ask(master, "token", "new", "--node", "recorded1").stdout.split("-")[2]
    assert ask(master, "token", "revoke", token).returncode == 0
    entries = journal(master, f"MESSAGE_ID={RECORD}", "CLUPY_SUBJECT=user:recorded")
    assert [(entry["CLUPY_ACTION"], entry["CLUPY_SERIAL"], entry["_UID"]) for entry in entries] == [
        ("issue", made["serial"], "0"), ("revoke", made["serial"], "0")]
    assert entries[1]["MESSAGE"].startswith("root (alice by sudo) revoked the certificate of clupy:user:recorded, serial")
    assert [entry["CLUPY_ACTION"] for entry in journal(master, f"MESSAGE_ID={RECORD}", f"CLUPY_SUBJECT={token}")] == [
        "token-new", "token-revoke"]


def test_the_end_of_ones_own_certificate_is_told(lab: Lab) -> None:
    master = lab.node("master")
    for days in ("7", "90"):
        folder = f"/tmp/days{days}"
        assert ask(master, "pki", "issue", "user", f"days{days}", "--days", days, "--out", folder).returncode == 0
        files = [f"CLUPY_TLS_CERTIFICATE={folder}/user.crt", f"CLUPY_TLS_KEY={folder}/user.key",
                 f"CLUPY_TLS_AUTHORITY={folder}/ca.crt"]
        shown = master.run(["clupyctl", "--master", "clupy://master:7878", "status"], environment=files)
        assert f"You: user days{days}, good until 20" in shown.stdout
        assert (f"{folder}/user.crt expires" in shown.stderr and "clupyctl pki renew" in shown.stderr) is (days == "7"), shown
        status = json.loads(master.run(["clupyctl", "--master", "clupy://master:7878", "status", "--json"],
                                       environment=files).stdout)
        assert status["own_certificate"]["name"] == f"user days{days}"
        assert status["own_certificate"]["not_after"] > status["started_at"]
        assert ask(master, "pki", "revoke", f"days{days}").returncode == 0
    assert "You:" not in ask(master, "status").stdout  # who asks over D-Bus needs none


COMPLETE = """
source /usr/share/bash-completion/completions/clupyctl
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1}
_clupyctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_certificates_and_tokens(lab: Lab) -> None:
    master = lab.node("master")

    def complete(line: str) -> list[str]:
        return master.run(["bash", "-c", COMPLETE, "bash", line], environment=BUS).stdout.split()

    made = json.loads(ask(master, "pki", "issue", "user", "completed", "--out", "/tmp/completed", "--json").stdout)
    token = ask(master, "token", "new").stdout.split("-")[2]
    assert complete("clupyctl pki issue ") == ["agent", "user", "admin", "master"]
    assert "completed" in complete("clupyctl pki issue user ")
    assert "completed" not in complete("clupyctl pki issue agent ")
    for part in ("revoke", "renew"):
        assert {"completed", made["serial"], "master"} <= set(complete(f"clupyctl pki {part} "))
    assert complete(f"clupyctl pki revoke {made['serial'][:12]}") == [made["serial"]]
    assert token in complete("clupyctl token revoke ")
    assert ask(master, "pki", "revoke", "completed").returncode == 0
    assert ask(master, "token", "revoke", token).returncode == 0
    assert "completed" not in complete("clupyctl pki revoke ") and token not in complete("clupyctl token revoke ")


def test_other_machines_say_where_the_authority_is(lab: Lab) -> None:
    for arguments in (["pki", "list"], ["token", "new"], ["token", "list"]):
        done = lab.node("agent1").run(["clupyctl", *arguments], check=False, environment=BUS)
        assert done.returncode == 3 and "usually on the master (master); do this there" in done.stderr, done


ATTACHED = """
import clupy, sys
mine = clupy.attach(sys.argv[1])
print("attached", flush=True)
mine.wait(120)
print(mine.value, flush=True)
"""

SUBMITTED = """
import clupy, sys, time
mine = clupy.parallel(time.sleep, cpus=0.1, memory="64M", detach=True, name="shared", timeout=600)(float(sys.argv[1]))
while not mine.running():
    mine.wait(0.05)
print(mine.id, flush=True)
mine.wait(120)
print("done", mine.value, mine.failure, flush=True)
"""


def test_all_clients_of_a_detached_call_hear_of_its_end(lab: Lab) -> None:
    client = lab.node("client")
    with client.popen(["python3", "-c", SUBMITTED, "4"], "user", stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        task = first.stdout.readline().strip()
        with client.popen(["python3", "-c", ATTACHED, task], "user", stdout=subprocess.PIPE) as second, \
                client.popen(["python3", "-c", ATTACHED, task[:10]], "user", stdout=subprocess.PIPE) as third:
            assert second.stdout is not None and third.stdout is not None
            assert second.stdout.readline() == third.stdout.readline() == "attached\n"
            assert second.communicate(timeout=120)[0] == third.communicate(timeout=120)[0] == "None\n"
        assert first.communicate(timeout=120)[0] == "done None None\n"


def test_what_a_call_is_given_by_default_is_shown(lab: Lab) -> None:
    text = """
import clupy
future = clupy.parallel(abs, name="plain")(-1)
future.wait(60)
print(future.id)
"""
    task = lab.node("client").python(text, "user").stdout.strip()
    shown = json.loads(ask(lab.node("master"), "task", "show", task, "--json").stdout)
    assert shown["cpus"] > 0 and shown["memory"] > 0, shown


def test_who_meets_the_limit_of_processes_is_told(lab: Lab) -> None:
    text = """
import clupy
def bomb():
    import os, signal
    while True:
        if os.fork() == 0:
            signal.pause()
def threads():
    import threading
    halt = threading.Event()
    while True:
        threading.Thread(target=halt.wait, daemon=True).start()
def plain():
    raise BlockingIOError(11, "of its own")
for function in (bomb, threads, plain):
    future = clupy.parallel(function, memory="256M", tasks_max=40, retries=0)()
    future.wait(120)
    print(future.id, type(future.failure).__name__, future.failure, "|", str(future.failure.__cause__).count("tasks_max"))
"""
    lines = [line.split(" ", 2) for line in lab.node("client").python(text, "user").stdout.splitlines()]
    assert [kind for _, kind, _ in lines] == ["BlockingIOError", "RuntimeError", "BlockingIOError"], lines
    for task, _, words in lines[:2]:
        assert "had met its limit of 40 processes and threads; give it more: tasks_max=80" in words and words.endswith("| 1")
        why = ask(lab.node("master"), "why", task).stdout
        assert "had met its limit of 40 processes and threads" in why and "tasks_max=80" in why, why
    assert lines[2][2] == "[Errno 11] of its own | 0", lines
    assert "limit" not in ask(lab.node("master"), "why", lines[2][0]).stdout


def test_only_what_happened_is_said_of_strangers(lab: Lab, wait_until: Callable[..., None]) -> None:
    lab.node("client").run(["python3", "-c", "import socket; socket.create_connection(('master', 7878)).close()"], "user")
    said = "Turned away 1 connection: 1 ended without an accepted hello"
    wait_until(lambda: said in [entry["MESSAGE"] for entry in journal(lab.node("master"), "--unit=clupy-masterd")], 30, said)


def test_objects_of_tasks_are_their_owners(lab: Lab) -> None:
    """They ask the bus who calls without keeping the master waiting."""
    master, client = lab.node("master"), lab.node("client")
    waiting = """
import clupy, sys
future = clupy.parallel(__import__("time").sleep, cpus=0.1, memory="64M", name="mine")(600)
while not future.running():
    future.wait(0.1)
print(future.id, flush=True)
sys.stdin.read()
"""
    prefix, name = "/org/clupy/Master1/task", "org.clupy.Master1"
    with client.popen(["python3", "-c", waiting], "user", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        task = process.stdout.readline().strip()
        for user, sees in (("root", True), ("user", True), ("nobody", False)):
            tree = master.run(["busctl", "tree", "--list", name], user).stdout.split()
            assert (f"{prefix}/{task}" in tree) is sees, (user, tree)
            got = master.run(["busctl", "get-property", name, f"{prefix}/{task}", f"{name}.Task", "Owner", "State"], user,
                             check=False)
            assert (got.stdout == 's "user"\ns "running"\n') is sees, (user, got)
            assert sees or "Unknown object" in got.stderr
            seen = master.run(["busctl", "introspect", name, f"{prefix}/{task}"], user, check=False).stdout
            assert (re.search(r"\.StartedAt +property +t ", seen) is not None) is sees, (user, seen)
        wrong = master.run(["busctl", "get-property", name, f"{prefix}/{task}", f"{name}.Task", "Nothing"], check=False)
        assert "Unknown property" in wrong.stderr
        assert "Unknown object" in master.run(["busctl", "get-property", name, f"{prefix}/zzz", f"{name}.Task", "Id"],
                                              check=False).stderr
        client.run(["clupyctl", "cancel", task])
        process.kill()

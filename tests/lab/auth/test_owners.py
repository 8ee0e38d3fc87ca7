# SPDX-License-Identifier: Apache-2.0
"""Whose task it is, and nobody else's: alice, who knows the ids of bob's tasks, tries all there is; the administrator may."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from witnesses import BY_HAND, ON_NODES, QUERY_REFUSED_ID, Records, authority

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1  # so that both run on the same node

Wait = Callable[..., None]

SECRET = "bobs-secret-5f1c8e"
ACCOUNTS = {"alice": "2001", "bob": "2002"}

# A task that runs, with the secret in all that a task has; one that has ended; one whose result the master keeps.
BOB = f"""
import os, sys, time
import clupy

def holds(secret):
    for folder in ("/tmp", "/dev/shm"):
        with open(folder + "/bobs", "w") as file:
            file.write(secret)
    os.environ["BOBS"] = secret
    print(secret, flush=True)
    clupy.progress(1, 2)
    time.sleep(600)

def gives(secret):
    print(secret, flush=True)
    return secret

runs = clupy.parallel(holds, cpus=0.1, memory="64M", name="bobs-runs")("{SECRET}")
ended = clupy.parallel(gives, cpus=0.1, memory="64M", name="bobs-ended")("{SECRET}")
kept = clupy.parallel(gives, cpus=0.1, memory="64M", name="bobs-kept", detach=True)("{SECRET}")
shared = clupy.parallel(gives, cpus=0.1, memory="64M", name="bobs-shared")("{SECRET}")
assert shared.result(60) == ended.result(60) == kept.result(60) == "{SECRET}"
while runs.progress is None:
    runs.wait(0.05)
print(runs.id, ended.id, kept.id, shared.id, runs.unit, flush=True)
sys.stdin.readline()
assert not runs.done(), runs.exception()
print("still runs", flush=True)
try:
    runs.result(60)
except clupy.CancelledError as error:
    print("cancelled", error, flush=True)
"""


class Bob:
    """His client, and what alice knows of his tasks."""

    def __init__(self, node: Node) -> None:
        self.process = node.popen(["python3", "-c", BOB], "bob", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.runs, self.ended, self.kept, self.shared, self.unit = self.line().split()
        self.ids = [self.runs, self.ended, self.kept]

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def bob(lab: Lab) -> Iterator[Bob]:
    issuer = authority(lab)
    for name, number in ACCOUNTS.items():
        issuer.user(name)
        for node in lab.nodes():
            node.run(["useradd", "--create-home", "--uid", number, name])
        home = f"/home/{name}/.config/clupy"
        lab.node("client").run(["sh", "-c", f"mkdir -p {home} && cp {ON_NODES}/ca.crt {home} && cp {ON_NODES}/{name}.crt "
                                f"{home}/user.crt && cp {ON_NODES}/{name}.key {home}/user.key && chown -R {name}: /home/{name}"])
    made = Bob(lab.node("client"))
    yield made
    made.process.kill()
    made.process.communicate()


QUERIES = """
def every_query(wire, ids, way):
    for verb in ("task", "why", "logs", "cancel", "attach"):
        for id in ids:
            for owner in ({}, {"owner": "bob"}):
                args = {"ids": [id]} if verb == "cancel" else {"id": id}
                try:
                    print(way, verb, "OPEN", query(wire, verb, {**args, **owner}), flush=True)
                except LookupError as error:
                    print(way, verb, error.args[0], flush=True)
    for args in ({}, {"owner": "bob"}, {"ended": True}, {"owner": "bob", "ended": True}, {"limit": 10000, "ended": True}):
        print(way, "tasks", query(wire, "tasks", args), flush=True)
"""


def check_answers(lines: list[str], bob: Bob, count: int) -> None:
    for line in lines:
        _, verb, answer = line.split(" ", 2)
        assert "OPEN" not in answer, line
        if verb == "tasks":
            assert "bob" not in answer and not [id for id in bob.ids if id in answer], line
        else:
            assert answer in ("not-found", "not-allowed"), line
    assert len(lines) == count * (5 * 3 * 2 + 5), lines


def test_queries(lab: Lab, bob: Bob, wait_until: Wait) -> None:
    """Over TCP, in both roles, and over the socket on the master."""
    records = Records(lab)
    text = BY_HAND + QUERIES + f"""
for role in ("client", "operator"):
    wire = connect("alice")
    assert hello(wire, role).type == "WELCOME"
    every_query(wire, {bob.ids}, role)
"""
    check_answers(lab.node("client").python(text, "root").stdout.splitlines(), bob, 2)
    text = BY_HAND + QUERIES + f"""
wire = Wire(path="/run/clupy/master.sock")
assert hello(wire, "client").type == "WELCOME"
every_query(wire, {bob.ids}, "socket")
"""
    check_answers(lab.node("master").python(text, "alice").stdout.splitlines(), bob, 1)

    def told(where: str, verb: str, id: str) -> bool:
        return any(record.get("MESSAGE_ID") == QUERY_REFUSED_ID and record["CLUPY_OWNER"] == "alice"
                   and where in record["MESSAGE"] and f"{verb}: " in record["MESSAGE"] and id in record["MESSAGE"]
                   for record in records.all())

    for verb in ("task", "why", "logs", "cancel"):
        wait_until(lambda verb=verb: told("10.78.0.11:", verb, bob.runs), 5, f"a record of {verb}")
        assert told("unix", verb, bob.runs)


def test_clupyctl(lab: Lab, bob: Bob) -> None:
    for node, environment in ((lab.node("client"), []), (lab.node("master"), ["CLUPY_MASTER_URL="])):
        for id in bob.ids:
            for arguments in (["task", "show", id], ["why", id], ["logs", id], ["cancel", id], ["why", id[:8]]):
                done = node.run(["clupyctl", *arguments], "alice", check=False, environment=environment)
                assert done.returncode != 0 and SECRET not in done.stdout + done.stderr, arguments
                assert "bob" not in done.stdout + done.stderr, arguments
        for more in ([], ["--ended"], ["--owner", "bob", "--ended"]):
            listed = node.run(["clupyctl", "--json", "tasks", *more], "alice", environment=environment).stdout
            assert json.loads(listed)["tasks"] == []


def test_frames(lab: Lab, bob: Bob) -> None:
    """What no client library would say: alice cancels, acknowledges, fetches, and submits what is bob's."""
    text = BY_HAND + f"""
ids = {bob.ids}
wire = connect("alice")
assert hello(wire, "client").type == "WELCOME"
wire.send("CANCEL", {{"tasks": ids}})
wire.send("ACK", {{"tasks": ids}})
stream = 1
for id in ids:
    for what in ("result", "args", "code"):
        try:
            wire.send("FETCH", {{"stream": stream, "task": id, "attempt": 1, "what": what, "code": "0" * 64, "size": 100,
                                "window": 1 << 20}})
            frame = wire.receive()
        except (OSError, Closed):
            wire = connect("alice")
            assert hello(wire, "client").type == "WELCOME"
            print("closed", flush=True)
        else:
            print(frame.type, frame.json.get("error", "no error"), frame.payloads, flush=True)
        stream += 2
job = new_id()
wire.send("SUBMIT", {{"jobs": [{{"id": job, "name": "f", "code": "0" * 64, "code_size": 1, "cpus": 1000.0}}],
                     "tasks": [{{"id": "{bob.shared}", "job": job, "size": 0}}], "synced": True}})
answer = query(wire, "tasks", {{"limit": 100}})
print([(task["id"], task["owner"]) for task in answer["tasks"]] == [("{bob.shared}", "alice")], flush=True)
wire.send("CANCEL", {{"tasks": ["{bob.shared}"]}})
query(wire, "version", {{}})
wire.send("GOODBYE", {{}})
"""
    said = lab.node("client").python(text, "root").stdout.splitlines()
    assert len(said) == 10 and said[-1] == "True", said
    for line in said[:-1]:
        # bad-frame: a client has no such frame; no word of whether there is such a task.
        assert line == "closed" or line.startswith(("END ", "REFUSED bad-frame")) and line.endswith(" []"), line
        assert "no error" not in line and SECRET not in line, line
    states = {task["id"]: task["state"] for task in admins_list(lab) if task["owner"] == "bob"}
    assert states[bob.runs] == "running" and states[bob.kept] == states[bob.shared] == "ended", states


def test_session_of_another(lab: Lab, bob: Bob) -> None:
    """A session's key is a secret, but not all that there is between alice and bob's tasks."""
    text = BY_HAND + """
owner = connect("bob")
key, job, task = new_id(), new_id(), new_id()
assert hello(owner, "client", session=key).type == "WELCOME"
owner.send("SUBMIT", {"jobs": [{"id": job, "name": "f", "code": "0" * 64, "code_size": 1, "cpus": 1000.0}],
                      "tasks": [{"id": task, "job": job, "size": 0}], "synced": True})
query(owner, "version", {})
thief = connect("alice")
frame = hello(thief, "client", session=key)
print(frame.type, frame.json["session_kept"])
thief.send("SUBMIT", {"synced": True})
thief.send("CANCEL", {"tasks": [task]})
thief.send("GOODBYE", {})
thief.wait_closed()
print([(one["id"] == task, one["state"]) for one in query(owner, "tasks", {"limit": 100})["tasks"] if one["id"] == task])
owner.send("GOODBYE", {})
"""
    assert lab.node("client").python(text, "root").stdout.splitlines() == ["WELCOME False", "[(True, 'queued')]"]


def busctl(lab: Lab, user: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab.node("master").run(["busctl", *arguments], user, check=False)


def test_dbus(lab: Lab, bob: Bob, wait_until: Wait) -> None:
    master = ("org.clupy.Master1", "/org/clupy/Master1", "org.clupy.Master1")
    records = Records(lab)
    for id in bob.ids:
        path = f"/org/clupy/Master1/task/{id}"
        calls = [("call", *master, "CancelTask", "s", id), ("call", *master, "Why", "s", id),
                 ("get-property", master[0], path, "org.clupy.Master1.Task", "Owner"),
                 ("call", master[0], path, "org.freedesktop.DBus.Properties", "GetAll", "s", "org.clupy.Master1.Task")]
        calls += [("call", *master, "Query", "ss", verb, json.dumps({"id": id} if verb != "cancel" else {"ids": [id]}))
                  for verb in ("task", "why", "logs", "cancel", "attach")]
        for arguments in calls:
            done = busctl(lab, "alice", *arguments)
            assert done.returncode != 0 and "bob" not in done.stdout + done.stderr, (arguments, done)
        assert id not in busctl(lab, "alice", "tree", "--list", master[0]).stdout
        assert id not in busctl(lab, "alice", "introspect", master[0], "/org/clupy/Master1/task").stdout
    for arguments in (("ListTasks", "u", "1000"), ("Query", "ss", "tasks", '{"ended": true, "owner": "bob"}'),
                      ("Query", "ss", "tasks", '{"ended": true, "limit": 10000}')):
        done = busctl(lab, "alice", "call", *master, *arguments)
        assert done.returncode == 0 and not [id for id in bob.ids if id in done.stdout], done.stdout
    # The signals are sent to who may see them.
    assert busctl(lab, "alice", "--timeout=1", "monitor", master[0]).returncode != 0

    def told(verb: str) -> bool:
        return any(record.get("MESSAGE_ID") == QUERY_REFUSED_ID and record["CLUPY_OWNER"] == "alice"
                   and "D-Bus" in record["MESSAGE"] and f"{verb}: " in record["MESSAGE"] and bob.runs in record["MESSAGE"]
                   for record in records.all())

    for verb in ("task", "why", "logs", "cancel"):
        wait_until(lambda verb=verb: told(verb), 5, f"a record of {verb}")
    # Whose it is may do it all, without being asked by anybody.
    for arguments in (("Why", "s", bob.runs), ("Query", "ss", "logs", json.dumps({"id": bob.runs}))):
        assert busctl(lab, "bob", "call", *master, *arguments).returncode == 0


# A task of alice's. The secret comes backwards, so that what is found is not her own.
SPY = """
import json, os, sys
import clupy

def spy(backwards):
    secret = backwards[::-1].encode()
    hits, opened = [], 0
    pids = [name for name in os.listdir("/proc") if name.isdigit()]
    mine = str(os.getpid())
    roots = ["/tmp", "/dev/shm", "/var", "/run", "/home", "/root", "/etc", "/sys/fs/cgroup"] + [
        "/proc/" + pid + "/root" + place for pid in pids if pid != mine for place in ("/tmp", "/dev/shm")]
    files = ["/proc/" + pid + "/" + name for pid in pids if pid != mine for name in ("environ", "cmdline", "mem", "fd")]
    for root in roots:
        for folder, _, names in os.walk(root):
            files += [os.path.join(folder, name) for name in names]
    for path in files:
        try:
            if os.path.isdir(path):
                paths = [os.path.join(path, name) for name in os.listdir(path)]
            else:
                paths = [path]
            for one in paths:
                if not os.path.isfile(one):
                    continue
                with open(one, "rb") as file:
                    opened += 1
                    if secret in file.read(1 << 20):
                        hits.append(one)
        except OSError:
            pass
    return {"hits": hits, "opened": opened, "uid": os.getuid(), "processes": len(pids)}

call = clupy.parallel(spy, cpus=0.1, memory="256M")(sys.argv[1][::-1])
print(json.dumps(call.result(60)))
"""


def task_pids(node: Node, unit: str) -> list[str]:
    group = node.run(["systemctl", "show", "--value", "--property=ControlGroup", unit]).stdout.strip()
    text = node.run(["sh", "-c", f"cat $(find /sys/fs/cgroup{group} /sys/fs/cgroup/systemd{group} -name cgroup.procs "
                     "2>/dev/null)"]).stdout
    return sorted(set(text.split()))


def test_files_seen_by_a_task(lab: Lab, bob: Bob) -> None:
    found: dict[str, Any] = json.loads(lab.node("client").run(["python3", "-c", SPY, SECRET], "alice").stdout)
    assert found["hits"] == [] and found["opened"] > 10, found
    assert found["processes"] == 2, "its own and its init"
    uids = {lab.node("agent1").run(["stat", "--format=%u", f"/proc/{pid}"]).stdout.strip()
            for pid in task_pids(lab.node("agent1"), bob.unit)}
    assert uids and str(found["uid"]) not in uids


def test_files_seen_by_an_account_of_the_node(lab: Lab, bob: Bob) -> None:
    node = lab.node("agent1")
    pids = task_pids(node, bob.unit)
    assert pids
    for user in ("alice", "bob"):  # bob has no more on the node than alice: his tasks are not his account's
        for pid in pids:
            for what in ("environ", "mem", "maps", "io", "stack", "syscall", "auxv"):
                assert node.run(["dd", f"if=/proc/{pid}/{what}", "count=1", "of=/dev/null"], user, check=False).returncode != 0
            for what in ("root/", "root/tmp/bobs", "cwd/", "fd/", "map_files/", "root/dev/shm/bobs"):
                assert node.run(["ls", f"/proc/{pid}/{what}"], user, check=False).returncode != 0
            assert SECRET not in node.run(["cat", f"/proc/{pid}/cmdline"], user).stdout
        for folder in ("/var/lib/clupy-agent", "/run/credentials/clupy-agent.service", "/run/log/journal"):
            text = node.run(["sh", "-c", f"grep -rl . {folder} /run/clupy/launcher.sock 2>/dev/null"], user, check=False).stdout
            assert text == "", text
    told = node.run(["journalctl", f"CLUPY_TASK_ID={bob.runs}", "--output=cat"], "alice", check=False).stdout
    assert SECRET not in told
    attempts = node.run(["busctl", "call", "org.clupy.Agent1", "/org/clupy/Agent1", "org.clupy.Agent1", "ListAttempts"],
                        "alice", check=False).stdout
    assert bob.runs not in attempts
    # It is there for the administrator.
    assert SECRET in node.run(["journalctl", f"CLUPY_TASK_ID={bob.runs}", "--output=cat"]).stdout


def test_files_seen_by_an_account_of_the_master(lab: Lab, bob: Bob) -> None:
    node = lab.node("master")
    kept = node.run(["sh", "-c", "grep -rl bobs-kept /var/lib/clupy-master"], check=False).stdout
    assert kept, "the detached task is on the disk"
    pid = node.run(["systemctl", "show", "--value", "--property=MainPID", "clupy-masterd"]).stdout.strip()
    for path in ("/var/lib/clupy-master", "/run/credentials/clupy-masterd.service", "/run/log/journal",
                 f"/proc/{pid}/environ", f"/proc/{pid}/mem", f"/proc/{pid}/fd/", f"/proc/{pid}/root/", f"/proc/{pid}/maps"):
        done = node.run(["sh", "-c", f"ls {path}; cat {path} {path}/*"], "alice", check=False)
        assert done.returncode != 0 and SECRET not in done.stdout, path
    for path in kept.split():
        assert node.run(["cat", path], "alice", check=False).stdout == ""
    for arguments in (["--unit=clupy-masterd"], [f"CLUPY_TASK_ID={bob.runs}"], []):
        told = node.run(["journalctl", "--no-pager", "--output=export", *arguments], "alice", check=False).stdout
        assert bob.runs not in told and bob.kept not in told and SECRET not in told


def admins_list(lab: Lab) -> list[dict[str, Any]]:
    listed = lab.node("client").run(["clupyctl", "--json", "tasks", "--ended"], "root").stdout
    tasks: list[dict[str, Any]] = json.loads(listed)["tasks"]
    return tasks


def test_the_administrator_sees_all(lab: Lab, bob: Bob) -> None:
    """And bob's task, after all that alice tried, still runs; until the administrator cancels it."""
    assert bob.process.stdin is not None
    bob.process.stdin.write("\n")
    bob.process.stdin.flush()
    assert bob.line() == "still runs"
    assert set(bob.ids) <= {task["id"] for task in admins_list(lab) if task["owner"] == "bob"}
    client = lab.node("client")
    for id in bob.ids:
        assert "bob" in client.run(["clupyctl", "--json", "task", "show", id]).stdout
        assert SECRET in client.run(["clupyctl", "logs", id]).stdout
    begin = time.monotonic()
    client.run(["clupyctl", "cancel", bob.runs])
    assert "was cancelled by root" in bob.line()
    assert time.monotonic() - begin < 20

# SPDX-License-Identifier: Apache-2.0
"""The master's UNIX socket: who is behind it, the kernel says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 1

SOCKET = "/run/clupy/master.sock"

# What runs on the nodes: frames by hand over the socket. say() is a hello; its answer's type and error are printed.
PRELUDE = f"""
import sys
sys.path.insert(0, "/src/tests/lab")
from wire import Closed, Wire, new_id, query

def say(role, **more):
    wire = Wire(path="{SOCKET}")
    wire.send("HELLO", {{"role": role, "protocol": [1, 1], "software": "0.1.0", "python": "%d.%d.%d" % sys.version_info[:3],
                        "session": new_id(), **more}})
    return wire, wire.receive()

def ask(wire, verb, **args):
    try:
        return query(wire, verb, args)
    except LookupError as error:
        return error.args
"""


def run(lab: Lab, text: str, user: str = "user") -> list[str]:
    """Runs the text on the master as this user, returns the lines it prints."""
    return lab.node("master").run(["python3", "-c", PRELUDE + text], user).stdout.splitlines()


def test_the_socket_is_there_for_everybody(lab: Lab) -> None:
    shown = lab.node("master").run(["stat", "--format=%U %a %F", SOCKET]).stdout.strip()
    assert shown == "root 666 socket"


def test_a_hello_needs_no_name(lab: Lab) -> None:
    assert run(lab, 'print(say("operator")[1].type)') == ["WELCOME"]
    assert run(lab, 'print(say("client")[1].type)') == ["WELCOME"]
    assert run(lab, 'print(say("client", user="user")[1].type)') == ["WELCOME"]
    assert run(lab, 'print(say("operator", user="root")[1].type)', user="root") == ["WELCOME"]


@pytest.mark.parametrize("role", ["client", "operator"])
@pytest.mark.parametrize(("user", "claim"), [("user", "root"), ("user", "alice"), ("root", "user")])
def test_nobody_is_another(lab: Lab, role: str, user: str, claim: str) -> None:
    lines = run(lab, f'frame = say("{role}", user="{claim}")[1]\n'
                     'print(frame.type, frame.json["error"])\nprint(frame.json["message"])', user)
    assert lines == ["REFUSED not-allowed", f"You are {user} and cannot be {claim}: leave user= out"]


def test_agents_are_refused(lab: Lab) -> None:
    for user in ("user", "root"):
        lines = run(lab, 'frame = say("agent", name="agent1", boot_id=new_id(), instance=new_id(), cpus=1.0, '
                         'memory=1 << 30)[1]\nprint(frame.type, frame.json["error"])', user)
        assert lines == ["REFUSED not-allowed"]
    assert '"agent1"' in lab.node("master").run(["clupyctl", "nodes", "--json"]).stdout


def test_an_account_without_a_name_is_told(lab: Lab) -> None:
    text = 'import os\nos.setuid(4242)\nframe = say("operator")[1]\nprint(frame.json["error"], frame.json["message"])'
    assert "not-allowed Your account (uid 4242) has no name" in run(lab, text, "root")[0]


def test_a_new_account_is_known_at_once(lab: Lab) -> None:
    node = lab.node("master")
    text = 'import os\nos.setuid(4343)\nprint(say("operator", user="newcomer")[1].type)'
    assert run(lab, text, "root") == ["REFUSED"]
    node.run(["useradd", "--uid", "4343", "newcomer"])
    assert run(lab, text, "root") == ["WELCOME"]


def test_refusals_stand_in_the_journal(lab: Lab, wait_until: Callable[..., None]) -> None:
    run(lab, 'say("client", user="mallory")')

    def told() -> bool:
        text = lab.node("master").run(["journalctl", "--unit=clupy-masterd", "--output=cat", "--priority=warning",
                                       "MESSAGE_ID=6576eb304b7982977cf77b256bb9a5eb"]).stdout
        return "Refused user at unix (uid 1000): You are user and cannot be mallory" in text

    wait_until(told, 5, "a record of the refusal")


def test_tasks_are_their_owners(lab: Lab) -> None:
    """A task that waits: of root's, out of a user's reach; of the user's, in root's."""
    submit = ('wire, frame = say("client")\njob = new_id()\ntask = new_id()\n'
              'wire.send("SUBMIT", {"jobs": [{"id": job, "name": "f", "code": "0" * 64, "code_size": 1, "cpus": 1000.0}], '
              '"tasks": [{"id": task, "job": job, "size": 0}], "synced": True})\nask(wire, "version")\n')
    other = 'import os, subprocess\nprint(task, flush=True)\nsys.stdin.readline()\n'
    node = lab.node("master")
    with node.popen(["python3", "-c", PRELUDE + submit + other], "root", stdin=-1, stdout=-1) as owner:
        assert owner.stdin is not None and owner.stdout is not None
        task = owner.stdout.readline().strip()
        try:
            asked = (f'wire = say("operator")[0]\nfor verb, args in (("cancel", {{"ids": ["{task}"]}}), '
                     f'("logs", {{"id": "{task}"}})):\n    print(ask(wire, verb, **args)[0])')
            refused = run(lab, asked)
            assert set(refused) <= {"not-allowed", "not-found"} and len(refused) == 2
            assert run(lab, f'print(ask(say("operator")[0], "cancel", ids=["{task}"]))', "root") == \
                [str({"cancelled": [task]})]
        finally:
            owner.kill()


def test_the_socket_goes_and_comes_with_the_master(lab: Lab) -> None:
    node = lab.node("master")
    node.run(["systemctl", "stop", "clupy-masterd.service"])
    assert node.run(["test", "-e", SOCKET], check=False).returncode == 1
    node.run(["systemctl", "start", "clupy-masterd.service"])
    assert run(lab, 'print(say("operator")[1].type)') == ["WELCOME"]
    node.run(["systemctl", "restart", "clupy-masterd.service"])
    assert run(lab, 'print(say("operator")[1].type)') == ["WELCOME"]


def test_the_socket_comes_back_after_a_crash(lab: Lab, wait_until: Callable[..., None]) -> None:
    node = lab.node("master")

    def pid() -> str:
        return node.run(["systemctl", "show", "--property=MainPID", "--value", "clupy-masterd"]).stdout.strip()

    before = pid()
    node.run(["systemctl", "kill", "--signal=KILL", "clupy-masterd.service"])
    wait_until(lambda: pid() not in (before, "0") and node.run(["test", "-e", SOCKET], check=False).returncode == 0, 20,
               "the master's restart")
    wait_until(lambda: node.run(["systemctl", "is-active", "clupy-masterd"], check=False).returncode == 0, 20, "ready")
    assert run(lab, 'print(say("operator")[1].type)') == ["WELCOME"]

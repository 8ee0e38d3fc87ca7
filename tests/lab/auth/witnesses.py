# SPDX-License-Identifier: Apache-2.0
"""What several tests of who is let in need: certificates that the product would not issue, the journal's records, a
caller whom nothing of all that must disturb, and peers by hand on a node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from certificates import Authority  # noqa: E402

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

REFUSED_ID = "6576eb304b7982977cf77b256bb9a5eb"
# Of what somebody asks for who has been let in.
QUERY_REFUSED_ID = "8a1f6f3d0c3e4b1f9d5b0f6a7c2e4d90"

# The folder in which tests and all nodes find the certificates: SHARED / "pki" on the one side.
ON_NODES = "/lab/pki"


def authority(lab: Lab) -> Authority:
    """The lab's own, with all powers."""
    return Authority(lab.shared / "pki", lab.directory / "pki/authority")


# Runs on nodes: one connection by hand, of which one line says what it came to.
BY_HAND = f"""
import json, ssl, sys
from pathlib import Path
sys.path.insert(0, "/src/tests/lab")
import ways
from certificates import Pair
from wire import TYPES, Client, Closed, Wire, new_id, query

FOLDER = Path("{ON_NODES}")
NEWEST = ssl.TLSVersion.TLSv1_3
NODE = {{"boot_id": new_id(), "instance": new_id(), "cpus": 2.0, "memory": 1 << 30}}

def connect(file, host="master", version=NEWEST):
    pair = Pair(FOLDER / (file + ".crt"), FOLDER / (file + ".key")) if file else None
    return Wire(host, 7878, way=ways.Tls(pair, FOLDER / "ca.crt", "", version, version))

def hello(wire, role, **more):
    wire.send("HELLO", {{"role": role, "protocol": [1, 1], "software": "0.1.0", "session": new_id(),
                        "python": "%d.%d.%d" % sys.version_info[:3], **(NODE if role == "agent" else {{}}), **more}})
    return wire.receive()

def attempt(file, kind="HELLO", body=None, version=NEWEST, **more):
    try:
        with connect(file, version=version) as wire:
            if kind == "HELLO":
                frame = hello(wire, **more)
            else:
                wire.send(kind, body)
                frame = wire.receive()
            print(frame.type, frame.json.get("error", "-"), frame.json.get("message", "-"), flush=True)
    except (OSError, Closed) as error:
        print("closed", "-", error, flush=True)
"""


def now(node: Node) -> str:
    """For journal(). (A cursor would do, but journalctl loses the first record behind one that its other filters leave
    out.)"""
    return node.run(["date", "+%s.%6N"]).stdout.strip()


def journal(node: Node, since: str, unit: str, *arguments: str) -> str:
    """The messages of a unit since then."""
    return node.run(["journalctl", f"--unit={unit}", "--output=cat", f"--since=@{since}", *arguments]).stdout


class Records:
    """What masterd has said in warning since now."""

    def __init__(self, lab: Lab) -> None:
        self._node = lab.node("master")
        self._since = now(self._node)

    def all(self) -> list[dict[str, Any]]:
        lines = self._node.run(["journalctl", "--unit=clupy-masterd", "--priority=warning", "--output=json",
                                f"--since=@{self._since}"]).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def refusal(self, *words: str) -> dict[str, Any] | None:
        """The first record of a refusal with all of these words."""
        for record in self.all():
            if record.get("MESSAGE_ID") == REFUSED_ID and all(word in record["MESSAGE"] for word in words):
                assert record["CLUPY_PEER"] in record["MESSAGE"]
                return record
        return None


# One call for each line that it reads; first its process's number.
_CALLS = """
import logging, os, sys
import clupy

logging.basicConfig(level=logging.WARNING)

def same(x):
    return x

call = clupy.parallel(same, cpus=0.1, memory="64M")
call(0).result(60)
print(os.getpid(), flush=True)
for number, _ in enumerate(sys.stdin):
    assert call(number).result(20) == number
    print(number, flush=True)
"""


class Caller:
    """A user whose calls go on, and over one connection."""

    def __init__(self, node: Node, user: str = "user", environment: tuple[str, ...] = ()) -> None:
        self._node = node
        self._process = node.popen(["python3", "-c", _CALLS], user, environment, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._pid = self._line()
        self.connection = self._connections()
        assert len(self.connection) == 1, self.connection
        self._number = 0

    def _line(self) -> str:
        assert self._process.stdout is not None and self._process.stderr is not None
        line = self._process.stdout.readline().strip()
        assert line, self._process.stderr.read()
        return line

    def _connections(self) -> list[str]:
        lines = self._node.run(["ss", "--tcp", "--numeric", "--processes", "--no-header", "state", "established"]).stdout
        return [line.split()[2] for line in lines.splitlines() if f"pid={self._pid}," in line]

    def call(self) -> None:
        """A call is made and answered."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._line() == str(self._number)
        self._number += 1

    def check(self) -> None:
        """It is served, and always was."""
        self.call()
        assert self._connections() == self.connection, "another connection: the first one was lost"

    def reconnected(self) -> bool:
        """Whether it has another connection than before; that is the one from now on."""
        before, self.connection = self.connection, self._connections()
        return len(self.connection) == 1 and self.connection != before

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def caller(lab: Lab) -> Iterator[Caller]:
    made = Caller(lab.node("client"))
    try:
        yield made
    finally:
        made.close()


def nodes(lab: Lab) -> dict[str, str]:
    """Names and states, as the master has them."""
    answer = lab.node("master").run(["clupyctl", "--json", "nodes"], environment=["CLUPY_MASTER_URL="]).stdout
    return {node["name"]: node["state"] for node in json.loads(answer)["nodes"]}


def main_pid(node: Node, unit: str) -> str:
    return node.run(["systemctl", "show", "--value", "--property=MainPID", unit]).stdout.strip()

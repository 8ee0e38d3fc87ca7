# SPDX-License-Identifier: Apache-2.0
"""What tests of environments do with a cluster: set its manifest, ask what became of it, make calls."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Sequence

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

MANIFEST = "/etc/clupy/clupy.master.dependency.yaml"
ENVIRONMENTS = "/var/lib/clupy/environments"
BUILDING = "/var/lib/clupy/building"
WHEELS = "/lab/wheels"

# Everything that a test's program needs; what it prints last is one JSON value.
PRELUDE = """
import json, os, sys, time, warnings
import clupy

def version(name):
    import importlib
    module = importlib.import_module(name)
    return getattr(module, "VERSION", None) or module.__version__

def where():
    import socket
    return socket.gethostname()

def outcome(future, timeout=120):
    try:
        return {"value": future.result(timeout=timeout)}
    except Exception as error:
        return {"error": type(error).__name__, "text": str(error), "log": getattr(error, "log", None)}

def say(value):
    print(json.dumps(value), flush=True)
"""

# In a node: the files of an environment against the RECORD of each of its packages; prints what is wrong.
VERIFY = """
import base64, csv, hashlib, os, pathlib, sys
wrong, records = [], 0
for record in pathlib.Path(sys.argv[1]).glob("lib/python*/site-packages/*.dist-info/RECORD"):
    records += 1
    top = record.parent.parent
    for name, digest, size in csv.reader(record.open()):
        file = top / name
        if not file.exists():
            wrong.append(f"{file}: missing")
        elif digest:
            kind, _, expected = digest.partition("=")
            found = base64.urlsafe_b64encode(hashlib.new(kind, file.read_bytes()).digest()).rstrip(b"=").decode()
            if found != expected:
                wrong.append(f"{file}: {found} instead of {expected}")
for folder, folders, files in os.walk(sys.argv[1]):
    for name in [".", *files]:
        status = os.lstat(os.path.join(folder, name))
        if status.st_uid != 0 or status.st_gid != 0 or (not os.path.islink(os.path.join(folder, name)) and status.st_mode & 0o6022):
            wrong.append(f"{folder}/{name}: {status.st_uid}:{status.st_gid} {status.st_mode:o}")
print(records, *wrong, sep="\\n")
"""


class Cluster:
    """The master's manifest, its environments, and calls from the client's node."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.agents = [name for name in lab.node_names() if name.startswith("agent")]

    @property
    def master(self) -> Node:
        """The master's node."""
        return self.lab.node("master")

    def ctl(self, *arguments: str, status: int = 0) -> Any:
        """clupyctl --json on the master, over D-Bus."""
        done = self.master.run(["clupyctl", "--json", *arguments], check=False, environment=["CLUPY_MASTER_URL="])
        assert done.returncode == status, f"clupyctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout.startswith(("{", "[")) else done.stdout + done.stderr

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
        """Until the condition is true; returns what it gave."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}"
            time.sleep(0.1)
        return found

    def manifest(self, **keys: Any) -> None:
        """Writes the manifest; the wheels of the tests and no index, unless keys say otherwise. Comes back when the
        master goes by it."""
        text = json.dumps({"index": "none", "wheels": [WHEELS], "sync": "never", **keys})
        self.master.write(f"{MANIFEST}.new", text)
        self.master.run(["mv", f"{MANIFEST}.new", MANIFEST])
        self.ctl("env", "sync")

    def environments(self) -> list[dict[str, Any]]:
        """All environments that the master knows."""
        found: list[dict[str, Any]] = self.ctl("env", "list")["environments"]
        return found

    def show(self, name: str) -> dict[str, Any]:
        """One environment, with its lock and its log."""
        found: dict[str, Any] = self.ctl("env", "show", name)
        return found

    def wait_default(self, **libraries: str) -> dict[str, Any]:
        """Until the default environment is ready on all nodes and consists of exactly these versions of libraries."""
        def condition() -> dict[str, Any] | None:
            for entry in self.environments():
                ready = {node["node"] for node in entry.get("nodes", []) if node["state"] == "ready"}
                if entry.get("default") and entry["python"] == "3.11" and set(self.agents) <= ready and \
                        entry.get("libraries", {}) == libraries:
                    return entry
            return None

        try:
            found: dict[str, Any] = self.wait(condition, f"default environment with {libraries}")
        except AssertionError:
            print(json.dumps(self.environments(), indent=1))
            raise
        return found

    def call(self, program: str, *arguments: str, user: str = "user", node: str = "client", timeout: float = 180.0,
             python: str = "python3", environment: Sequence[str] = ()) -> Any:
        """Runs a program of the client's, behind PRELUDE; returns the JSON that it says."""
        done = self.lab.node(node).run([python, "-c", PRELUDE + program, *arguments], user, check=False, timeout=timeout,
                                       environment=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def ready_on(self, agent: str) -> list[str]:
        """The names of the environments on an agent's disk."""
        listing = self.lab.node(agent).run(["sh", "-c", f"ls {ENVIRONMENTS} 2> /dev/null || true"]).stdout
        return listing.split()

    def verify(self, agent: str, name: str) -> int:
        """Holds an environment's files against their RECORD, and its owner and modes; returns how many packages it has."""
        count, *wrong = self.lab.node(agent).run(["python3", "-c", VERIFY, f"{ENVIRONMENTS}/{name}"]).stdout.splitlines()
        assert wrong == [], wrong[:20]
        return int(count)

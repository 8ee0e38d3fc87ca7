# SPDX-License-Identifier: Apache-2.0
"""The environments that come with a node's Python, without anything built: what can be imported there. Through the launcher
alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1

RUN = """
import json, sys
sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import connected

def look():
    import importlib.util, subprocess, sys
    names = ("clupy", "cloudpickle", "ssl", "sqlite3", "numpy", "yaml", "left_by_the_node")
    found = [name for name in names if importlib.util.find_spec(name)]
    child = subprocess.run([sys.executable, "-c", "import numpy"], capture_output=True).returncode
    return {"found": found, "prefix": sys.prefix, "child": child, "series": "%d.%d" % sys.version_info[:2]}

event = connected().run(look, environment=sys.argv[1])
print(json.dumps({"op": event.op.name, "error": event.error, "text": event.text,
                  "value": event.value if event.result else None}))
"""


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    """A node whose launcher serves the test instead of the agent, and on which an administrator has left a module."""
    node = lab.node("agent1")
    node.run(["systemctl", "stop", "clupy-agent.service"])
    node.write("/usr/local/lib/python3.11/dist-packages/left_by_the_node.py", "")
    yield node
    node.run(["rm", "/usr/local/lib/python3.11/dist-packages/left_by_the_node.py"])
    node.run(["systemctl", "start", "clupy-agent.service"])


def run(node: Node, environment: str) -> dict[str, Any]:
    process = node.run(["python3", "-", environment], input=RUN, timeout=90)
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return result


def test_a_bare_python_has_its_standard_library_and_nothing_of_the_nodes(node: Node) -> None:
    value = run(node, "python-3.11")["value"]
    assert value["found"] == ["clupy", "cloudpickle", "ssl", "sqlite3"]
    assert value["series"] == "3.11" and value["prefix"] != "/usr"
    assert value["child"] == 1  # nor has a program that the task starts


def test_the_systems_python_has_the_distributions_packages(node: Node) -> None:
    value = run(node, "system-3.11")["value"]
    assert {"clupy", "cloudpickle", "numpy", "left_by_the_node"} <= set(value["found"])
    assert value["prefix"] == "/usr" and value["child"] == 0


@pytest.mark.parametrize("name", ["python-3.2", "system-99.99", "0" * 40])
def test_what_the_node_does_not_have_is_refused(node: Node, name: str) -> None:
    event = run(node, name)
    assert (event["op"], event["error"]) == ("REFUSED", -2) and "not on this node" in event["text"]


@pytest.mark.parametrize("name", ["python-", "python-3", "python-3.11.", "system-3.x", "../default", "python-3.11/..", ""])
def test_what_is_no_name_is_refused(node: Node, name: str) -> None:
    assert run(node, name)["op"] == "REFUSED"

# SPDX-License-Identifier: Apache-2.0
"""The launcher alone, without agent, master and network: every way to end, many times. tests/lab/uml has the same on cgroup
version 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1
COUNT = 200
REASONS = ("return", "abort", "sigterm", "memory", "exit", "cancel")


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    """A node whose launcher serves the test instead of the agent."""
    node = lab.node("agent1")
    node.run(["systemctl", "stop", "clupy-agent.service"])
    yield node
    node.run(["systemctl", "start", "clupy-agent.service"])


@pytest.fixture(scope="module")
def outcome(node: Node) -> dict[str, Any]:
    """What the program on the node found."""
    process = node.run(["python3", "/src/tests/lab/core/launcher_reasons.py", str(COUNT)], check=False, timeout=500)
    print(process.stdout, process.stderr)
    lines = process.stdout.strip().splitlines()
    assert process.returncode in (0, 1) and lines, process.stderr
    found: dict[str, Any] = json.loads(lines[-1])
    return found


@pytest.mark.parametrize("reason", REASONS)
def test_every_end_has_its_reason_its_peak_and_its_lines(outcome: dict[str, Any], reason: str) -> None:
    run = next(run for run in outcome["runs"] if run["reason"] == reason)
    lines = COUNT * (2 if reason == "return" else 1)
    assert run == {"reason": reason, "attempts": COUNT, "wrong": 0, "without_peak": 0, "lines": lines,
                   "expected_lines": lines, "bad_lines": 0}


def test_nothing_is_left(outcome: dict[str, Any]) -> None:
    """No unit, cgroup or log-extra-fields file of a task; descriptors, mounts, network namespaces and children as before."""
    assert not outcome["left"] and not outcome["changed"]

# SPDX-License-Identifier: Apache-2.0
"""Environments as the launcher makes them: builds and what they must not be able to do. Through the launcher alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1
CHECKS = re.findall(r"^@check\ndef (\w+)", (Path(__file__).parent / "build_checks.py").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    """A node whose launcher serves the test instead of the agent."""
    node = lab.node("agent1")
    node.run(["systemctl", "stop", "clupy-agent.service"])
    yield node
    node.run(["systemctl", "start", "clupy-agent.service"])


@pytest.mark.parametrize("name", CHECKS)
def test_check(node: Node, name: str) -> None:
    process = node.run(["python3", "/src/tests/lab/env/build_checks.py", name], check=False, timeout=280)
    assert process.returncode == 0, process.stdout + process.stderr

# SPDX-License-Identifier: Apache-2.0
"""The launcher replaces itself under what runs: by itself, and under the load of a cluster."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1
CHECKS = re.findall(r"^@check\ndef (\w+)", (Path(__file__).parent / "launcher_upgrade_checks.py").read_text(), re.MULTILINE)

# 300 calls, a few of them longer than the others; prints what came of them.
LOAD = """
import json, time, clupy

def work(i):
    import time
    time.sleep(0.02 if i % 10 else 1.0)
    print("call", i)
    return i * i

call = clupy.parallel(work, cpus=0.1, memory="64M")
call(1).result(60)
print("begin", flush=True)
futures = []
for i in range(300):
    futures.append(call(i))
    time.sleep(0.02)
wrong = [i for i, future in enumerate(futures) if future.result(120) != i * i]
print(json.dumps({"wrong": wrong, "attempts": sorted({future.attempts for future in futures})}))
"""


@pytest.fixture(scope="module")
def node(lab: Lab) -> Iterator[Node]:
    """A node whose launcher serves the test instead of the agent."""
    node = lab.node("agent1")
    node.run(["systemctl", "stop", "clupy-agent.service"])
    yield node
    node.run(["systemctl", "start", "clupy-agent.service"])


@pytest.mark.parametrize("name", CHECKS)
def test_check(node: Node, name: str) -> None:
    process = node.run(["python3", "/src/tests/lab/core/launcher_upgrade_checks.py", name], check=False, timeout=280)
    assert process.returncode == 0, process.stdout + process.stderr


def test_ten_upgrades_under_load(lab: Lab, node: Node) -> None:
    """No call notices: all are right, and none was tried twice."""
    node.run(["systemctl", "start", "clupy-agent.service"])
    before = node.run(["systemctl", "show", "-pMainPID", "-pNRestarts", "clupy-launcher.service"]).stdout
    with lab.node("client").popen(["python3", "-c", LOAD], "user", stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline().strip() == "begin"
        for _ in range(10):
            node.run(["systemctl", "reload", "clupy-launcher.service"])
            node.run(["sh", "-c", "sleep 0.5"])
        text = client.stdout.read()
        assert client.wait(timeout=60) == 0
    found = json.loads(text)
    assert found == {"wrong": [], "attempts": [1]}
    assert node.run(["systemctl", "show", "-pMainPID", "-pNRestarts", "clupy-launcher.service"]).stdout == before
    taken = node.run(["journalctl", "-u", "clupy-launcher.service", "-o", "cat", "-g", "Took over", "--no-pager"]).stdout
    assert taken.count("Took over") >= 10, taken

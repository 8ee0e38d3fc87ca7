# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the lab tests.

`lab` is a running lab, one per module: AGENTS in the module says how many agents it has (default 3). A test that
breaks nodes leaves them running again, or uses `fresh_lab`, a lab of its own. Both are labtool.lab.Lab:
`lab.node("client").run([...], "user")`, `lab.node("client").python(text)`, `lab.crash("agent1")`, ….
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from labtool import build, paths  # noqa: E402
from labtool.lab import Lab  # noqa: E402

# The labs of one run of pytest. The process's number in their names tells ./lab test which were abandoned.
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def installed() -> Path | None:
    """The staging directory with the product; built now, unless `./lab test` has just done so."""
    return build.staged() if os.environ.get("CLUPY_LAB_STAGED") else build.build_or_last()


def _boot(request: pytest.FixtureRequest, installed: Path | None) -> Iterator[Lab]:
    lab = Lab(f"t{os.getpid()}_{next(_numbers)}")
    failed = request.session.testsfailed
    try:
        lab.up(getattr(request.module, "AGENTS", 3), installed)
        if installed is not None:
            _await_agents(lab)
        yield lab
    finally:
        if request.session.testsfailed > failed and lab.exists():
            keep_journals(lab)
        lab.down()


def _await_agents(lab: Lab) -> None:
    """Until the master knows all agents: their units are up before that."""
    wanted = {name for name in lab.node_names() if name.startswith("agent")}
    deadline = time.monotonic() + 60
    while True:
        answer = lab.node("master").run(["clupyctl", "--json", "nodes"], check=False, environment=["CLUPY_MASTER_URL="])
        if answer.returncode == 0:
            ready = {node["name"] for node in json.loads(answer.stdout)["nodes"] if node["state"] == "ready"}
            if wanted <= ready:
                return
        assert time.monotonic() < deadline, f"not within a minute: {wanted} ready; {answer.stdout}{answer.stderr}"
        time.sleep(0.05)


def keep_journals(lab: Lab) -> None:
    """Keeps the nodes' journals of a lab in which a test failed."""
    directory = paths.build_directory() / "logs" / f"journals-{lab.name}"
    directory.mkdir(parents=True, exist_ok=True)
    for node in lab.nodes():
        if node.pid() is not None:
            text = node.run(["journalctl", "--no-pager", "--output=short-precise"], check=False).stdout
            (directory / f"{node.name}.log").write_text(text)
    print(f"the nodes' journals are in {directory}", file=sys.stderr)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, installed: Path | None) -> Iterator[Lab]:
    """A running lab, shared by the tests of a module."""
    yield from _boot(request, installed)


@pytest.fixture
def fresh_lab(request: pytest.FixtureRequest, installed: Path | None) -> Iterator[Lab]:
    """A running lab for one test alone."""
    yield from _boot(request, installed)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """wait_until(condition, timeout, what): for conditions of another machine that nothing announces."""

    def wait(condition: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
            time.sleep(0.05)

    return wait

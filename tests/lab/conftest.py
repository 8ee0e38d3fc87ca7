# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the lab tests.

`lab` is a running lab, one per module: AGENTS in the module says how many agents it has (default 3). A test that
breaks nodes leaves them running again, or uses `fresh_lab`, a lab of its own. Where SYSTEM_PACKAGES in the module is
true, tasks can import what the distribution has (numpy), too. Both are labtool.lab.Lab:
`lab.node("client").run([...], "user")`, `lab.node("client").python(text)`, `lab.crash("agent1")`, ….
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from labs import await_agents, keep_journals  # noqa: E402
from labtool import build  # noqa: E402
from labtool.lab import Lab  # noqa: E402

if TYPE_CHECKING:
    from cluster import Cluster

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
            await_agents(lab)
            if getattr(request.module, "SYSTEM_PACKAGES", False):
                lab.node("master").write("/etc/clupy/clupy.master.dependency.yaml", "system_packages: true\n")
                lab.node("master").run(["clupyctl", "env", "sync"])
        yield lab
    finally:
        if request.session.testsfailed > failed and lab.exists():
            keep_journals(lab)
        lab.down()


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, installed: Path | None) -> Iterator[Lab]:
    """A running lab, shared by the tests of a module."""
    yield from _boot(request, installed)


@pytest.fixture
def fresh_lab(request: pytest.FixtureRequest, installed: Path | None) -> Iterator[Lab]:
    """A running lab for one test alone."""
    yield from _boot(request, installed)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, installed: Path | None) -> Iterator[Cluster]:
    """The one cluster of all tests of environments: two agents; its master offers wheels that are made here, and reaches
    the index of this machine's pip. Tests leave its nodes running, and the manifest to those that come after them."""
    from cluster import Cluster
    from offered import make_wheels

    lab = Lab(f"t{os.getpid()}_{next(_numbers)}")
    failed = request.session.testsfailed
    try:
        lab.up(2, installed, with_index=True)
        await_agents(lab)
        make_wheels(lab.shared / "wheels")
        yield Cluster(lab)
    finally:
        if request.session.testsfailed > failed and lab.exists():
            keep_journals(lab)
        lab.down()


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., None]:
    """wait_until(condition, timeout, what): for conditions of another machine that nothing announces."""

    def wait(condition: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
            time.sleep(0.05)

    return wait

# SPDX-License-Identifier: Apache-2.0
"""Makes clupy importable from the source tree, and a fake master for the tests that want one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "python"), str(HERE)]

import clupy  # noqa: E402

from fake_master import FakeMaster  # noqa: E402


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    with FakeMaster() as running:
        yield running


@pytest.fixture
def client(master: FakeMaster) -> Iterator[clupy.Client]:
    with clupy.Client(master.url) as connected:
        yield connected

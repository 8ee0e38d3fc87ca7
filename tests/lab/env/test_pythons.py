# SPDX-License-Identifier: Apache-2.0
"""Nodes that offer several Pythons: a client gets its own, or is told which there are."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import PRELUDE, Cluster
from labtool import pythons

PROGRAM = """
say([outcome(clupy.parallel(lambda: ["%d.%d" % sys.version_info[:2], version("alpha")])()), "%d.%d" % sys.version_info[:2]])
"""


def run(cluster: Cluster, prefix: Path, series: str) -> subprocess.CompletedProcess[str]:
    """PROGRAM with another Python; as root, since others may not see into its folder."""
    return cluster.lab.node("client").run(
        [f"{prefix}/bin/python{series}", "-c", PRELUDE + PROGRAM], check=False, timeout=120,
        environment=["PYTHONPATH=/usr/lib/clupy/python:/usr/lib/clupy/client"])


@pytest.fixture(scope="module", autouse=True)
def manifest(cluster: Cluster) -> Iterator[None]:
    cluster.manifest(packages=["alpha<2"])
    cluster.wait_default(alpha="1.1")
    yield


def test_a_client_gets_its_own(cluster: Cluster) -> None:
    assert cluster.call(PROGRAM) == [{"value": ["3.11", "1.1"]}, "3.11"]
    # Where this machine has no other Python there is none to offer.
    for series, prefix in pythons.offered().items():
        # Only this client makes the cluster want the packages for that one, too.
        wanted = f'[{{"value": ["{series}", "1.1"]}}, "{series}"]'
        cluster.wait(lambda series=series, prefix=prefix, wanted=wanted: wanted in  # type: ignore[misc]
                     run(cluster, prefix, series).stdout, f"Python {series} has the packages")


def test_one_that_no_node_has_is_told_which_there_are(cluster: Cluster) -> None:
    others = {series: prefix for series, prefix in pythons.found().items() if series not in pythons.offered()}
    for series, prefix in list(others.items())[:1]:
        done = run(cluster, prefix, series)
        assert done.returncode != 0 and "VersionMismatchError" in done.stderr
        for offered in ("3.11", *pythons.offered()):
            assert offered in done.stderr
        assert series in done.stderr

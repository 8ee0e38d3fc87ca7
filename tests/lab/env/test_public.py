# SPDX-License-Identifier: Apache-2.0
"""Packages of the index that this machine's pip uses, through the master's cache."""

from __future__ import annotations

from cluster import MANIFEST, WHEELS, Cluster

PROGRAM = """
def look(seconds):
    begun = time.monotonic()
    import numpy
    time.sleep(seconds)
    return [numpy.__version__, where(), float((numpy.arange(4.0) ** 2).sum()), begun, time.monotonic()]
functions = [clupy.parallel(look, cpus=0.1, packages=[wanted]) for wanted in ("numpy==1.26.*", "numpy>=2,<3")]
for function in functions:
    function(0).result(timeout=300)
say([outcome(future) for future in [function(4) for function in functions]])
"""


def test_both_generations_of_numpy_on_one_node(cluster: Cluster) -> None:
    cluster.master.write(MANIFEST, f'{{"wheels": ["{WHEELS}"], "packages": ["alpha<2", "six"], "sync": "never"}}\n')
    cluster.ctl("env", "sync")
    cluster.ctl("drain", "agent2")
    try:
        first, second = (each["value"] for each in cluster.call(PROGRAM, timeout=600))
    finally:
        cluster.ctl("undrain", "agent2")
    assert first[0].startswith("1.26.") and second[0].startswith("2.")
    assert [first[1:3], second[1:3]] == [["agent1", 14.0]] * 2
    assert max(first[3], second[3]) < min(first[4], second[4]), "they ran one after the other"
    cached = cluster.master.run(["find", "/var/cache/clupy-index/files", "-type", "f", "-size", "+1M"]).stdout.split()
    assert cached, "the master keeps what nodes have asked for"

# SPDX-License-Identifier: Apache-2.0
"""Environments over time: removed for want of room, torn builds, restarts in the middle, several who want the same."""

from __future__ import annotations

import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from cluster import BUILDING, PRELUDE, Cluster

ASK = """
say(outcome(clupy.parallel(version, packages=sys.argv[2:], retries=100)(sys.argv[1]), 240))
"""
PREFIX = """
say(outcome(clupy.parallel(lambda: sys.prefix, packages=sys.argv[1:])()))
"""


@pytest.fixture(scope="module", autouse=True)
def manifest(cluster: Cluster) -> Iterator[None]:
    """One agent takes all."""
    cluster.manifest(packages=["alpha<2"])
    cluster.wait_default(alpha="1.1")
    cluster.ctl("drain", "agent2")
    yield
    cluster.ctl("undrain", "agent2")


def name_of(cluster: Cluster, *packages: str) -> str:
    """The name of the user's environment with these packages, which is ready then."""
    prefix: str = cluster.call(PREFIX, *packages)["value"]
    return prefix.rsplit("/", 1)[1]


def await_agent(cluster: Cluster) -> None:
    """Until the master has agent1 again."""
    cluster.wait(lambda: any((node["name"], node["state"]) == ("agent1", "ready") for node in cluster.ctl("nodes")["nodes"]),
                 "agent1 is ready")


def forget(cluster: Cluster, name: str) -> None:
    """Has agent1 remove an environment."""
    def gone() -> bool:
        # In use for as long as a zygote of it waits for more calls.
        cluster.master.run(["clupyctl", "env", "remove", name], check=False, environment=["CLUPY_MASTER_URL="])
        return name not in cluster.ready_on("agent1")
    cluster.wait(gone, f"{name} is removed", 120)
    # What is removed lies where builds begin until it is gone.
    cluster.wait(lambda: cluster.lab.node("agent1").run(["ls", BUILDING]).stdout == "", "its files are gone")


def test_power_cuts_in_the_middle_of_builds(cluster: Cluster) -> None:
    """At ten random points; then two who want it at once. There is one environment, and it is whole."""
    node = cluster.lab.node("agent1")
    name = name_of(cluster, "many", "beta")
    whole = cluster.verify("agent1", name)
    assert whole == 3
    chance = random.Random(4)
    torn = 0
    for _ in range(10):
        forget(cluster, name)
        with cluster.lab.node("client").popen(["python3", "-c", PRELUDE + ASK, "many", "many", "beta"], "user",
                                              stdout=subprocess.PIPE) as process:
            cluster.wait(lambda: node.run(["ls", BUILDING], check=False).stdout or name in cluster.ready_on("agent1"),
                         "the build has begun")
            time.sleep(chance.uniform(0, 2.0))
            cluster.lab.crash("agent1")
            process.kill()
        # Nobody wants it any more.
        for task in cluster.ctl("tasks")["tasks"]:
            cluster.master.run(["clupyctl", "cancel", task["id"]], check=False, environment=["CLUPY_MASTER_URL="])
        cluster.lab.start("agent1")
        if name in cluster.ready_on("agent1"):
            assert cluster.verify("agent1", name) == whole
        else:
            torn += 1
        cluster.wait(lambda: node.run(["ls", BUILDING]).stdout == "", "what was torn is cleared away")
        await_agent(cluster)
    assert torn >= 3, "the cuts all came too late to tear anything"
    forget(cluster, name)
    _two_at_once(cluster, name, whole)


def _two_at_once(cluster: Cluster, name: str, whole: int) -> None:
    values: list[object] = []

    def ask() -> None:
        values.append(cluster.call(ASK, "many", "many", "beta"))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [{"value": "1.0"}] * 2
    assert cluster.ready_on("agent1").count(name) == 1
    assert cluster.verify("agent1", name) == whole
    assert cluster.lab.node("agent1").run(["ls", BUILDING]).stdout == ""


@pytest.mark.parametrize(("where", "units"), [("master", ["clupy-masterd.service"]), ("agent1", ["clupy-agent.service"]),
                                              ("agent1", ["clupy-launcher.service"]), ("master", ["clupy-index.service"])])
def test_restarts_in_the_middle_of_a_build(cluster: Cluster, where: str, units: list[str]) -> None:
    node = cluster.lab.node("agent1")
    name = name_of(cluster, "many", "beta")
    forget(cluster, name)
    with cluster.lab.node("client").popen(["python3", "-c", PRELUDE + ASK, "many", "many", "beta"], "user",
                                          stdout=subprocess.PIPE) as process:
        cluster.wait(lambda: node.run(["ls", BUILDING], check=False).stdout, "the build has begun")
        cluster.lab.node(where).run(["systemctl", "restart", *units])
        output, _ = process.communicate(timeout=240)
    assert json.loads(output.splitlines()[-1]) == {"value": "1.0"}
    assert cluster.verify("agent1", name) == 3


def test_what_was_not_used_for_longest_is_removed(cluster: Cluster) -> None:
    node = cluster.lab.node("agent1")
    configuration = node.run(["cat", "/etc/clupy/clupy.server.yaml"]).stdout
    names = [name_of(cluster, "many", f"alpha=={version}") for version in ("1.0", "1.1")]
    default = cluster.wait_default(alpha="1.1")["name"]
    size = next(entry["bytes"] for entry in cluster.environments() if entry["name"] == names[1])
    assert 2 * size < 64 << 20 < 3 * size, "there is room for two of them"
    try:
        node.write("/etc/clupy/clupy.server.yaml", f"{configuration}environments: {{size: 64M}}\n")
        node.run(["systemctl", "restart", "clupy-agent.service"])
        await_agent(cluster)
        last = name_of(cluster, "many", "alpha==2.0")
        cluster.wait(lambda: not set(names) <= set(cluster.ready_on("agent1")), "the oldest is removed", 120)
        left = cluster.ready_on("agent1")
        assert default in left and last in left and names[0] not in left
        # It comes back when it is wanted.
        assert name_of(cluster, "many", "alpha==1.0") == names[0]
    finally:
        node.write("/etc/clupy/clupy.server.yaml", configuration)
        node.run(["systemctl", "restart", "clupy-agent.service"])
        await_agent(cluster)

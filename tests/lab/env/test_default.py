# SPDX-License-Identifier: Apache-2.0
"""The master's manifest: what is in it every task can import, and nothing else."""

from __future__ import annotations

import json
import subprocess

import pytest

from cluster import MANIFEST, WHEELS, Cluster

IMPORTS = """
def look(names):
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except ModuleNotFoundError as error:
            found[name] = type(error).__name__
    return {"found": found, "where": where(), "prefix": sys.prefix}

futures = [clupy.parallel(look, cpus=0.5)(sys.argv[1:]) for _ in range(8)]
say([outcome(future) for future in futures])
"""


@pytest.fixture(scope="module", autouse=True)
def manifest(cluster: Cluster) -> None:
    cluster.manifest(packages=["alpha<1.1", "beta"])
    cluster.wait_default(alpha="1.0", beta="1.0")


def test_it_reaches_every_node(cluster: Cluster) -> None:
    answers = [each["value"] for each in cluster.call(IMPORTS, "alpha", "beta")]
    assert {answer["where"] for answer in answers} == set(cluster.agents)
    for answer in answers:
        assert answer["found"] == {"alpha": "1.0", "beta": "1.0"}
        assert answer["prefix"].startswith("/var/lib/clupy/environments/")


def test_what_lies_on_the_host_is_not_there(cluster: Cluster) -> None:
    """numpy and yaml are installed on every node, pip and setuptools too."""
    for agent in cluster.agents:
        cluster.lab.node(agent).run(["/usr/bin/python3", "-c", "import numpy, yaml, pip"])
    names = ["numpy", "yaml", "pip", "setuptools", "many"]
    for answer in cluster.call(IMPORTS, *names):
        assert answer["value"]["found"] == dict.fromkeys(names, "ModuleNotFoundError")


def test_its_files_are_whole_and_nobodys_to_change(cluster: Cluster) -> None:
    entry = cluster.wait_default(alpha="1.0", beta="1.0")
    for agent in cluster.agents:
        assert cluster.verify(agent, entry["name"]) == 2
    said = cluster.call("""
def write():
    failed = []
    for path in (sys.prefix, os.path.dirname(os.__file__), os.path.dirname(__import__("alpha").__file__)):
        try:
            open(os.path.join(path, "x.py"), "w")
        except OSError as error:
            failed.append(error.errno)
    return failed
say(outcome(clupy.parallel(write)()))
""")
    assert len(said["value"]) == 3 and set(said["value"]) <= {13, 30}


SWITCH = """
def hold(seconds):
    import alpha, importlib
    time.sleep(seconds)
    return [alpha.VERSION, importlib.import_module("beta").VERSION]

old = clupy.parallel(hold, cpus=0.1)(600)
while not old.running():
    old.wait(0.05)
say("running")
sys.stdin.readline()
new = clupy.parallel(hold, cpus=0.1)(0).result(timeout=60)
running = old.running()
old.cancel()
say([new, running])
"""


def test_a_change_switches_over_and_running_tasks_keep_theirs(cluster: Cluster) -> None:
    before = cluster.wait_default(alpha="1.0", beta="1.0")
    from cluster import PRELUDE
    with cluster.lab.node("client").popen(["python3", "-c", PRELUDE + SWITCH], "user", stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline()) == "running"
        cluster.manifest(packages=["alpha>=2", "beta"])
        after = cluster.wait_default(alpha="2.0", beta="1.0")
        assert after["name"] != before["name"]
        output, _ = process.communicate("go\n", timeout=120)
    assert json.loads(output.splitlines()[-1]) == [["2.0", "1.0"], True]
    # Back again: nothing is built anew, it is all still there.
    names = {agent: cluster.ready_on(agent) for agent in cluster.agents}
    cluster.manifest(packages=["alpha<1.1", "beta"])
    assert cluster.wait_default(alpha="1.0", beta="1.0")["name"] == before["name"]
    assert {agent: cluster.ready_on(agent) for agent in cluster.agents} == names


def test_a_wrong_manifest_changes_nothing_and_says_where(cluster: Cluster) -> None:
    good = cluster.master.run(["cat", MANIFEST]).stdout
    before = cluster.wait_default(alpha="1.0", beta="1.0")
    cluster.master.write(MANIFEST, 'index: none\npackages: [alpha, "no requirement!"]\n')
    check = cluster.master.run(["/usr/lib/clupy/clupy-masterd", "--check-config"], check=False)
    assert check.returncode == 78 and f"{MANIFEST}:2: " in check.stderr
    cluster.wait(lambda: f"{MANIFEST}:2" in json.dumps(cluster.ctl("status")), "status says where", 30)
    assert cluster.call(IMPORTS, "alpha")[0]["value"]["found"] == {"alpha": "1.0"}
    cluster.master.write(MANIFEST, good)
    cluster.wait(lambda: f"{MANIFEST}:2" not in json.dumps(cluster.ctl("status")), "status says no more", 30)
    assert cluster.wait_default(alpha="1.0", beta="1.0")["name"] == before["name"]


def test_a_lock_is_kept_to_the_letter(cluster: Cluster) -> None:
    cluster.manifest(packages=["alpha<1.1", "beta"])
    cluster.wait_default(alpha="1.0", beta="1.0")
    lock = cluster.ctl("env", "lock")
    text = lock["lock"] if isinstance(lock, dict) else lock
    assert "alpha==1.0" in text and "--hash=sha256:" in text
    cluster.master.write("/etc/clupy/locked.txt", text.replace("alpha==1.0", "alpha==2.0"))
    # The digest is the other version's: nothing of that is installed.
    cluster.manifest(lock="locked.txt")
    refused = cluster.wait(lambda: next((each for each in cluster.environments() if each.get("default") and
                                         {node["state"] for node in each.get("nodes", [])} == {"failed"}), None),
                           "the lock is no good")
    assert all("Hash mismatch" in node["message"] for node in cluster.show(refused["name"])["nodes"])
    cluster.master.write("/etc/clupy/locked.txt", text)
    cluster.manifest(lock="locked.txt", only_wheels=True)
    cluster.wait(lambda: cluster.call(IMPORTS, "alpha", "beta")[0]["value"]["found"] == {"alpha": "1.0", "beta": "1.0"},
                 "the locked ones are there")
    cluster.manifest(packages=["alpha<1.1", "beta"], wheels=[WHEELS])
    cluster.wait_default(alpha="1.0", beta="1.0")

# SPDX-License-Identifier: Apache-2.0
"""What a client asks for: packages of its calls, of its file, wheels of its own; and how its libraries compare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import Cluster
from packages import wheel

FOLDER = "/home/user/work"
FILE = f"{FOLDER}/clupy.client.dependency.yaml"
MOVE = f"os.chdir({FOLDER!r})\n"


@pytest.fixture(scope="module", autouse=True)
def manifest(cluster: Cluster) -> None:
    cluster.manifest(packages=["alpha<2", "beta"])
    cluster.wait_default(alpha="1.1", beta="1.0")


@pytest.fixture(autouse=True)
def folder(cluster: Cluster) -> Iterator[None]:
    """A working folder of the user's, without a file of CluPy's."""
    client = cluster.lab.node("client")
    client.run(["sh", "-c", f"rm -rf {FOLDER}; mkdir {FOLDER}; chown user: {FOLDER}"])
    yield
    client.run(["rm", "-rf", FOLDER])


def test_a_call_adds_to_what_there_is(cluster: Cluster) -> None:
    said = cluster.call("""
def look():
    return {name: version(name) for name in ("alpha", "beta", "many")}
say(outcome(clupy.parallel(look, packages=["many"])()))
""")
    # The others stay as they are, though there is a newer alpha.
    assert said["value"] == {"alpha": "1.1", "beta": "1.0", "many": "1.0"}


def test_two_versions_at_the_same_time_on_one_node(cluster: Cluster) -> None:
    cluster.ctl("drain", "agent2")
    try:
        said = cluster.call("""
def look(seconds):
    begun = time.monotonic()
    import alpha
    time.sleep(seconds)
    return [alpha.VERSION, where(), begun, time.monotonic()]
futures = [clupy.parallel(look, cpus=0.1, packages=[f"alpha=={wanted}"]) for wanted in ("1.0", "2.0")]
for function in futures:
    function(0).result(timeout=120)
futures = [function(5) for function in futures]
say([outcome(future) for future in futures])
""")
    finally:
        cluster.ctl("undrain", "agent2")
    first, second = (each["value"] for each in said)
    assert [first[:2], second[:2]] == [["1.0", "agent1"], ["2.0", "agent1"]]
    assert max(first[2], second[2]) < min(first[3], second[3]), "they ran one after the other"


def test_without_the_default_packages(cluster: Cluster) -> None:
    client = cluster.lab.node("client")
    client.write(FILE, "packages: [alpha]\nbase: none\n")
    said = cluster.call(MOVE + """
def look():
    import importlib.util
    return [version("alpha"), importlib.util.find_spec("beta") is None]
say(outcome(clupy.parallel(look)()))
""")
    assert said["value"] == ["2.0", True]


def test_wheels_travel_with_the_client(cluster: Cluster, tmp_path: Path) -> None:
    made = wheel(tmp_path, "mine", "3.0", {"mine.py": "VERSION = '3.0'\nimport alpha\n"}, ["alpha"])
    other = wheel(tmp_path, "filed", "1.0")
    client = cluster.lab.node("client")
    for each in (made, other):
        (cluster.lab.shared / each.name).write_bytes(each.read_bytes())
        client.run(["cp", f"/lab/{each.name}", f"{FOLDER}/{each.name}"])
    client.write(FILE, f"wheels: [{other.name}]\n")
    program = MOVE + """
def look():
    return [version(name) for name in ("mine", "filed", "alpha")]
say(outcome(clupy.parallel(look, packages=["./mine-3.0-py3-none-any.whl"])()))
"""
    assert cluster.call(program)["value"] == ["3.0", "1.0", "1.1"]
    # The same name and other content is another package.
    changed = wheel(tmp_path, "mine", "3.0", {"mine.py": "VERSION = 'changed'\n"})
    (cluster.lab.shared / changed.name).write_bytes(changed.read_bytes())
    client.run(["cp", f"/lab/{changed.name}", f"{FOLDER}/{changed.name}"])
    assert cluster.call(program)["value"] == ["changed", "1.0", "1.1"]


def test_what_one_users_wheels_are_no_other_user_sees(cluster: Cluster) -> None:
    """Packages of a call's own make an environment of its owner's own."""
    program = "say(outcome(clupy.parallel(lambda: sys.prefix, packages=['many', 'alpha==1.0'])()))"
    mine = cluster.call(program)["value"]
    others = cluster.call(program, user="root")["value"]
    assert mine != others and mine.startswith("/var/lib/clupy/environments/")
    owners = {entry["name"]: entry.get("owner") for entry in cluster.environments()}
    assert owners[mine.rsplit("/", 1)[1]] == "user" and owners[others.rsplit("/", 1)[1]] == "root"
    listing = cluster.lab.node("client").run(["clupyctl", "--json", "env", "list"], "user").stdout
    assert mine.rsplit("/", 1)[1] in listing and others.rsplit("/", 1)[1] not in listing


LIBRARIES = MOVE + """
sys.path.insert(0, "here")
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    try:
        result = clupy.parallel(lambda: version("alpha"))().result(timeout=60)
    except clupy.ClupyError as error:
        result = {"error": type(error).__name__, "text": str(error)}
say({"result": result, "warnings": [str(each.message) for each in said]})
"""


@pytest.mark.parametrize("libraries", [None, "warn", "error", "ignore"])
def test_a_client_whose_libraries_differ(cluster: Cluster, libraries: str | None) -> None:
    client = cluster.lab.node("client")
    client.run(["sh", "-c", f"mkdir -p {FOLDER}/here && cd {FOLDER}/here && python3 -m zipfile -e "
                "/lab/wheels/alpha-2.0-py3-none-any.whl ."])
    if libraries is not None:
        client.write(FILE, f"libraries: {libraries}\n")
    said = cluster.call(LIBRARIES)
    text = json.dumps(said)
    if libraries == "error":
        assert said["result"]["error"] == "LibraryMismatchError"
        assert "alpha" in text and "2.0" in text and "1.1" in text
    else:
        assert said["result"] == "1.1"
        assert ("alpha" in json.dumps(said["warnings"])) == (libraries != "ignore")
        assert libraries == "ignore" or ("2.0" in text and "1.1" in text)

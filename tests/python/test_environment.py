# SPDX-License-Identifier: Apache-2.0
"""Packages that calls name: options, clupy.client.dependency.yaml, wheels that travel; libraries that differ."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import clupy
import pytest
from clupy import _environment, _libraries
from clupy._failures import EnvironmentFailedError

import own_packages as packages
from fake_master import FakeMaster

HERE = importlib.metadata.version("cloudpickle")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    own = tmp_path / "work"
    own.mkdir()
    monkeypatch.chdir(own)
    monkeypatch.setattr(_libraries, "_told", set())
    return own


def twice(x: int) -> int:
    return 2 * x


def jobs(master: FakeMaster) -> List[Dict[str, Any]]:
    return list(master.jobs.values())


def manifest(folder: Path, text: str) -> None:
    (folder / "clupy.client.dependency.yaml").write_text(text)


def test_options_reach_the_master(master: FakeMaster, client: clupy.Client) -> None:
    wrapped = client.parallel(twice, packages=["polars>=1", "numpy==1.26.4"], preload=["polars"], requires={"gpu": 1},
                              labels={"zone": "a"})
    assert wrapped(2).result(20) == 4
    assert wrapped(3).result(20) == 6
    assert client.parallel(twice)(4).result(20) == 8
    with_environment, without = jobs(master)
    assert with_environment["environment"] == {"packages": ["polars>=1", "numpy==1.26.4"], "preload": ["polars"]}
    assert with_environment["requires"] == {"gpu": 1} and with_environment["labels"] == {"zone": "a"}
    assert not {"environment", "requires", "labels"} & without.keys()


@pytest.mark.parametrize("options, error, words", [
    ({"packages": "polars"}, TypeError, r'packages: expected a list, as in packages=\["polars>=1"\], got \'polars\''),
    ({"packages": ["-r other.txt"]}, ValueError, "packages: expected a requirement, as in 'polars>=1', or the path of a "
                                                "wheel, as in dist/name-1.0-py3-none-any.whl, got '-r other.txt'"),
    ({"packages": ["./mine"]}, ValueError, "got './mine': make a wheel of it (pip wheel --no-deps)"),
    ({"packages": ["x @ https://example.org/x"]}, ValueError, "packages come from the master's index; fetch this one as a"),
    ({"packages": ["x.whl"]}, ValueError, "got 'x.whl'"),
    ({"packages": ["two words"]}, ValueError, "got 'two words'"),
    ({"packages": [3]}, TypeError, "got 3"),
    ({"preload": ["os; exit()"]}, ValueError, "preload: expected the name of a module, as in 'pandas', got 'os; exit"),
    ({"requires": ["gpu"]}, TypeError, 'requires: expected names with their values, as in requires={"gpu": 1}'),
    ({"requires": {"gpu": 0}}, ValueError, "requires: gpu: expected a number from 1 to"),
    ({"requires": {"a b": 1}}, ValueError, "requires: expected names of letters"),
    ({"labels": {"zone": 1}}, TypeError, "labels: zone: expected text, got 1"),
    ({"package": ["x"]}, TypeError, "did you mean 'packages'?"),
])
def test_options_that_are_wrong(options: Dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error) as raised:
        clupy.parallel(twice, **options)
    assert words.replace("\\", "") in str(raised.value)


@pytest.mark.parametrize("requirement", [
    "numpy", "numpy>=2,<3", "numpy >= 2", "requests[socks]>=2; python_version < '3.12'", "zope.interface", "a~=1.0", "a (>=1)"])
def test_requirements(requirement: str) -> None:
    assert _environment.check_package("packages", requirement) == requirement


def test_the_users_file(master: FakeMaster, folder: Path) -> None:
    packages.wheel(folder / "dist", "mine")
    (folder / "all.lock").write_text("polars==1.0 --hash=sha256:" + "0" * 64 + "\n")
    manifest(folder, "packages: [polars>=1, dist/mine-1.0-py3-none-any.whl]\npreload: [polars]\nbase: none\nlibraries: ignore\n")
    with clupy.Client(master.url) as client:
        assert client.parallel(twice)(1).result(20) == 2
        # What the call names replaces what the file names for the same package.
        assert client.parallel(twice, packages=["Polars==1.5", "arrow"], preload=["arrow"])(1).result(20) == 2
    first, second = (job["environment"] for job in jobs(master))
    digest = packages.digest(folder / "dist/mine-1.0-py3-none-any.whl")
    wheel = {"name": "mine-1.0-py3-none-any.whl", "digest": digest,
             "size": (folder / "dist/mine-1.0-py3-none-any.whl").stat().st_size}
    assert first == {"packages": ["polars>=1"], "preload": ["polars"], "base": "none", "wheels": [wheel]}
    assert second == {"packages": ["Polars==1.5", "arrow"], "preload": ["polars", "arrow"], "base": "none",
                      "wheels": [wheel]}


def test_a_lock_in_the_users_file(master: FakeMaster, folder: Path) -> None:
    lock = "polars==1.0 --hash=sha256:" + "0" * 64 + "\n"
    (folder / "all.lock").write_text(lock)
    manifest(folder, "lock: all.lock\n")
    with clupy.Client(master.url) as client:
        assert client.parallel(twice)(1).result(20) == 2
        with pytest.raises(ValueError, match="has a lock, which names all packages that there are; add arrow there"):
            client.parallel(twice, packages=["arrow"])(1)
    assert jobs(master)[0]["environment"] == {"lock": lock}


def test_the_file_in_the_users_configuration_folder(master: FakeMaster, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "config/clupy").mkdir(parents=True)
    manifest(tmp_path / "config/clupy", "packages: [polars]\n")
    assert _environment.load().packages == ("polars",)
    manifest(folder, "packages: [arrow]\n")
    assert _environment.load().packages == ("arrow",)


@pytest.mark.parametrize("text, words", [
    ("package: [x]\n", "clupy.client.dependency.yaml:1: unknown key 'package'; did you mean 'packages'?"),
    ("index: none\n", ":1: unknown key 'index'; known is packages, wheels, lock, preload, base, libraries"),
    ("\npackages:\n  - polars\n  - -r x\n", ":4: key 'packages': expected a requirement, as in 'polars>=1'"),
    ("packages: {a: 1}\n", ":1: key 'packages': expected a list of a requirement"),
    ("wheels: [x.zip]\n", ":1: key 'wheels': expected the path of a wheel"),
    ("lock: nowhere.txt\n", ":1: key 'lock': there is no file"),
    ("packages: [polars]\nlock: some.lock\n", ":1: key 'packages': expected none beside 'lock'"),
    ("preload: [a-b]\n", ":1: key 'preload': expected the name of a module, as in 'pandas', got 'a-b'"),
    ("base: other\n", ":1: key 'base': expected default or none, got 'other'"),
    ("libraries: maybe\n", ":1: key 'libraries': expected warn, error or ignore, got 'maybe'"),
    ("base: none\nbase: none\n", ":2: key 'base' is there twice"),
    ("packages: [\n", "clupy.client.dependency.yaml:2:"),
    ("- x\n", ":1: expected 'key: value' lines"),
])
def test_what_is_wrong_in_the_file(folder: Path, text: str, words: str) -> None:
    manifest(folder, text)
    (folder / "some.lock").write_text("polars==1.0\n")
    with pytest.raises(clupy.ConfigurationError) as raised:
        clupy.Client("clupy+insecure://127.0.0.1:1")
    assert words in str(raised.value)


def test_an_empty_file_says_nothing(folder: Path) -> None:
    manifest(folder, "# packages: [x]\npackages:\n")
    assert _environment.environment_of(_environment.load(), (), ()).message() == {}


def test_a_task_needs_no_yaml(folder: Path) -> None:
    """A module of the user's that says @clupy.parallel is imported by its tasks."""
    program = ("import sys; sys.modules['yaml'] = None\nimport clupy\n@clupy.parallel(packages=['polars'])\ndef f(): pass\n"
               "clupy.Client('clupy+insecure://127.0.0.1:1')\n")
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    manifest(folder, "packages: [polars]\n")
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert "clupy.client.dependency.yaml: PyYAML is needed to read it" in done.stderr


# Wheels that travel.


def test_a_wheel_travels(master: FakeMaster, client: clupy.Client, folder: Path) -> None:
    large = packages.wheel(folder, "large", files={"large/data": os.urandom(1 << 20).hex()})  # more than the window
    small = packages.wheel(folder, "small")
    wrapped = client.parallel(twice, packages=["large-1.0-py3-none-any.whl", str(small), "numpy"])
    assert wrapped(1).result(20) == 2
    assert jobs(master)[0]["environment"]["packages"] == ["numpy"]
    assert [wheel["name"] for wheel in jobs(master)[0]["environment"]["wheels"]] == [large.name, small.name]
    for digest, data in master.wheels.items():
        assert hashlib.sha256(data).hexdigest() == digest
    assert set(master.wheels) == {packages.digest(large), packages.digest(small)}


def test_a_wheel_that_was_built_again_is_another_environment(master: FakeMaster, client: clupy.Client,
                                                             folder: Path) -> None:
    packages.wheel(folder, "mine")
    wrapped = client.parallel(twice, packages=["mine-1.0-py3-none-any.whl"])
    assert wrapped(1).result(20) == 2
    packages.wheel(folder, "mine", code="x = 1\n")
    assert wrapped(1).result(20) == 2
    assert len(master.wheels) == 2 and len(jobs(master)) == 2


def test_a_wheel_that_is_not_there(client: clupy.Client) -> None:
    wrapped = client.parallel(twice, packages=["gone-1.0-py3-none-any.whl"])  # a task that imports this may not have it
    with pytest.raises(ValueError, match=r"packages: the wheel /.*/gone-1.0-py3-none-any.whl cannot be read: No such file"):
        wrapped(1)


def test_a_wheel_that_changes_under_way(master: FakeMaster, client: clupy.Client, folder: Path) -> None:
    wheel = packages.wheel(folder, "large", files={"large/data": os.urandom(1 << 20).hex()})
    master.before_wheel = lambda: wheel.write_bytes(b"x" * 10)
    future = client.parallel(twice, packages=[str(wheel)])(1)
    error = future.exception(20)
    assert isinstance(error, EnvironmentFailedError) and f"{wheel} has changed since the call was made" in error.log


# What the installer says.


@pytest.mark.parametrize("log, words", [
    ("clupy: resolving\nerror: No solution found when resolving dependencies\n  cause: Because nosuch was not found\n",
     "No solution found when resolving dependencies: Because nosuch was not found; more of the log is in .log"),
    ("ERROR: No matching distribution found for nosuch\nhint: see above\n", "No matching distribution found for nosuch; more of the log"),
    ("error: one\n\nthe installer ended with exit status 1", ": one; more of the log"),
    ("error: uv ended with signal 9\n\nit needed more than 2.0G of memory", "it needed more than 2.0G of memory; more of the log"),
    ("one\nlast words\n", "last words; more of the log"),
    ("", "no log; more of the log"),
])
def test_what_an_installer_says_comes_to_one_sentence(log: str, words: str) -> None:
    error = EnvironmentFailedError(log, name="f()", node="node1")
    assert str(error).startswith("the environment of f() could not be built on node1: ")
    assert words in str(error) and error.log == log


# Libraries that differ.


def test_differences_are_told_once(master: FakeMaster) -> None:
    master.libraries = {"cloudpickle": "0.1", "no-such-library": "2.0", "PyYAML": importlib.metadata.version("PyYAML")}
    with pytest.warns(clupy.LibraryMismatchWarning) as told:
        for _ in range(2):
            with clupy.Client(master.url) as client:
                assert client.parallel(twice)(1).result(20) == 2
    warning, = told
    message = str(warning.message)
    assert warning.filename == __file__
    assert message.startswith("2 libraries differ from what the cluster has:\n")
    width = max(len("missing"), len(HERE))
    assert f"  LIBRARY          {'HERE':{width}}  CLUSTER\n" in message
    assert f"  cloudpickle      {HERE:{width}}  0.1\n" in message
    assert f"  no-such-library  {'missing':{width}}  2.0\n" in message
    assert "PyYAML" not in message
    master.libraries = {"cloudpickle": "0.2"}
    with pytest.warns(clupy.LibraryMismatchWarning, match="cloudpickle"), clupy.Client(master.url) as client:
        assert client.parallel(twice)(1).result(20) == 2


def test_differences_that_come_up_later(master: FakeMaster, client: clupy.Client, caplog: pytest.LogCaptureFixture) -> None:
    assert client.parallel(twice)(1).result(20) == 2
    master.libraries = {"cloudpickle": "0.1"}
    master.drop()
    assert client.parallel(twice)(1).result(20) == 2
    assert any("1 library differs" in record.getMessage() for record in caplog.records)


@pytest.mark.filterwarnings("error")
def test_nothing_differs(master: FakeMaster) -> None:
    master.libraries = {"cloudpickle": HERE + ".0"}
    with clupy.Client(master.url) as client:
        assert client.parallel(twice)(1).result(20) == 2


def test_differences_may_be_errors(master: FakeMaster, folder: Path) -> None:
    master.libraries = {"cloudpickle": "0.1"}
    manifest(folder, "libraries: error\n")
    with clupy.Client(master.url) as client:
        for _ in range(2):
            with pytest.raises(clupy.LibraryMismatchError, match=f"cloudpickle  {HERE}  0.1") as raised:
                client.parallel(twice)(1)
        assert raised.value.differences == (("cloudpickle", HERE, "0.1"),)
        assert isinstance(raised.value, clupy.VersionMismatchError)
        master.libraries = {"cloudpickle": HERE}
        assert client.parallel(twice)(1).result(20) == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["libraries: ignore\n", "packages: [cloudpickle==0.2]\n", "base: none\n"])
def test_differences_that_do_not_matter(master: FakeMaster, folder: Path, text: str) -> None:
    master.libraries = {"cloudpickle": "0.1"}
    manifest(folder, text)
    with clupy.Client(master.url) as client:
        assert client.parallel(twice)(1).result(20) == 2


def test_versions_that_the_cluster_has(master: FakeMaster, client: clupy.Client) -> None:
    master.refuse = {"error": "version-mismatch", "message": "no", "client": "3.13.1", "server": "3.11.2",
                     "cluster": ["3.11", "3.12"]}
    with pytest.raises(clupy.VersionMismatchError) as raised:
        client.parallel(twice)(1)
    assert (raised.value.client, raised.value.server, raised.value.cluster) == ("3.13.1", "3.11.2", ("3.11", "3.12"))
    for words in ("this client has Python 3.13.1", "the cluster has Python 3.11.2 (its nodes have 3.11, 3.12)",
                  "run this program with Python 3.11 or Python 3.12"):
        assert words in str(raised.value)

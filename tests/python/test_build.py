# SPDX-License-Identifier: Apache-2.0
"""The builder of environments, run as the launcher runs it, with packages that the tests make themselves: no network."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

import pytest
from clupy import _build

import own_packages as packages
from own_packages import Page

PROGRAM = Path(_build.__file__)
PYTHON = "{}.{}".format(*sys.version_info)
INTERPRETER = f"{sys.base_prefix}/bin/python{PYTHON}"


class Result(NamedTuple):
    status: int
    log: str
    report: Dict[str, Any]


class Builder:
    """Runs it. with_uv: else it finds pip only."""

    def __init__(self, folder: Path, page: Page, with_uv: bool) -> None:
        self.folder, self.page, self.with_uv = folder, page, with_uv
        self.bin = folder / "bin"
        self.bin.mkdir()
        if with_uv:
            (self.bin / "uv").symlink_to(Path(sys.executable).parent / "uv")

    def run(self, op: str, target: Optional[Path] = None, **order: Any) -> Result:
        if target is None:
            target = Path(tempfile.mkdtemp(prefix="env", dir=self.folder))
        message = {"op": op, "python": PYTHON, "target": str(target), "index": None, "find_links": [self.page.address],
                   "base": self.page.base, **order}
        given, report, log = (tempfile.TemporaryFile() for _ in range(3))
        with given, report, log:
            given.write(json.dumps(message).encode())
            given.seek(0)
            environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "PIP_INDEX_URL": "http://127.0.0.1:1/", "UV_OFFLINE": "1",
                           "PYTHONPATH": "/nowhere"}

            def descriptors() -> None:
                order_fd, report_fd = os.dup(given.fileno()), os.dup(report.fileno())
                os.dup2(order_fd, 3)
                os.dup2(report_fd, 4)

            process = subprocess.run([INTERPRETER, "-I", "-B", str(PROGRAM)], stdin=subprocess.DEVNULL, stdout=log,
                                     stderr=log, env=environment, close_fds=False, preexec_fn=descriptors, check=False)
            log.seek(0)
            report.seek(0)
            text = report.read()
            return Result(process.returncode, log.read().decode(), json.loads(text) if text else {})

    def resolve(self, *wanted: str, **order: Any) -> Result:
        return self.run("resolve", packages=list(wanted), **order)

    def build(self, lock: str, target: Path, **order: Any) -> Result:
        target.mkdir()
        return self.run("build", target, lock=lock, **order)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages."""
    folder = tmp_path_factory.mktemp("shelf")
    packages.wheel(folder, "alpha", requires=["beta-lib>=1"],
                   files={"alpha/tests/test_it.py": "", "alpha/old.py": "print 1\n"})
    for version in ("1.0", "1.5", "2.0"):
        packages.wheel(folder, "beta-lib", version)
    packages.wheel(folder, "old", requires=["beta-lib<2"])
    packages.wheel(folder, "new", requires=["beta-lib>=2"])
    packages.sdist(folder, "source", "3.0")
    packages.sdist(folder, "broken", before='sys.exit("the moon is in the wrong phase")')
    packages.wheel(folder, "failing", code='raise ValueError("no such phase")\n')
    return folder


@pytest.fixture(scope="module")
def page(shelf: Path) -> Iterator[Page]:
    with Page(shelf) as serving:
        yield serving


@pytest.fixture(params=["uv", "pip"])
def builder(request: pytest.FixtureRequest, tmp_path: Path, page: Page) -> Builder:
    if request.param == "pip" and os.path.exists("/usr/lib/clupy/uv"):
        pytest.skip("this machine is a node, with a uv of its own")
    return Builder(tmp_path, page, request.param == "uv")


@pytest.fixture
def with_uv(tmp_path: Path, page: Page) -> Builder:
    """For what is the same with both."""
    return Builder(tmp_path, page, True)


def records(environment: Path) -> List[str]:
    """The files that are not as their wheels' RECORD says; at least one must be there."""
    wrong, seen = [], 0
    site = environment / f"lib/python{PYTHON}/site-packages"
    for record in site.glob("*.dist-info/RECORD"):
        with record.open(newline="") as lines:
            for name, digest, _ in csv.reader(lines):
                if digest:
                    seen += 1
                    if packages.record_digest((site / name).read_bytes()) != digest:
                        wrong.append(name)
    assert seen
    return wrong


def imports(environment: Path, statement: str) -> str:
    return subprocess.run([str(environment / "bin/python"), "-I", "-c", statement], capture_output=True, text=True,
                          check=False).stdout.strip()


def test_what_is_resolved_is_built(builder: Builder, shelf: Path) -> None:
    resolved = builder.resolve("alpha")
    assert resolved.status == 0, resolved.log
    assert resolved.report["libraries"] == {"alpha": "1.0", "beta-lib": "2.0"}
    assert resolved.report["installer"].startswith("uv " if builder.with_uv else "pip ")
    assert resolved.report["platform"].startswith("linux-")
    lock = resolved.report["lock"]
    for file in ("alpha-1.0-py3-none-any.whl", "beta_lib-2.0-py3-none-any.whl"):
        assert packages.digest(shelf / file) in lock
    assert builder.page.base not in lock
    environment = builder.folder / "made"
    built = builder.build(lock, environment, preload=["alpha", "json"])
    assert built.status == 0, built.log
    assert built.report["libraries"] == {"alpha": "1.0", "beta-lib": "2.0"}
    assert imports(environment, "import alpha, beta_lib; print(beta_lib.__version__)") == "2.0"
    assert (environment / "preload").read_text() == "alpha\njson\n"
    assert not records(environment)
    assert list(environment.glob("lib/*/site-packages/alpha/__pycache__/*.pyc")), "nobody can write them later"
    assert not list(environment.glob("lib/*/site-packages/alpha/tests/__pycache__"))
    assert not [path for path in environment.rglob("*") if path.is_file() and path.stat().st_nlink > 1]
    assert not (environment / ".cache").exists()
    # Nothing of the interpreter's own packages is there, unless asked for.
    assert imports(environment, "import importlib.util as u; print(u.find_spec('pip'))") == "None"


def test_the_same_lock_twice(with_uv: Builder) -> None:
    one, other = with_uv.resolve("alpha", "source"), with_uv.resolve("source", "alpha")
    assert one.status == other.status == 0, one.log
    assert one.report["lock"] == other.report["lock"]


def test_versions_of_a_lock_are_kept_where_they_fit(builder: Builder) -> None:
    former = builder.resolve("beta-lib==1.5").report["lock"]
    assert builder.resolve("alpha", lock=former).report["libraries"]["beta-lib"] == "1.5"
    assert builder.resolve("new", lock=former).report["libraries"]["beta-lib"] == "2.0"


def test_a_source_distribution(builder: Builder) -> None:
    resolved = builder.resolve("source>=3")
    assert resolved.status == 0, resolved.log
    environment = builder.folder / "made"
    built = builder.build(resolved.report["lock"], environment)
    assert built.status == 0, built.log
    assert imports(environment, "import source; print(source.__version__)") == "3.0"
    only = builder.resolve("source", only_wheels=True)
    assert only.status == 1 and "source" in only.log, only.log


def test_a_wheel_by_its_digest(builder: Builder, tmp_path: Path, shelf: Path) -> None:
    file = packages.wheel(tmp_path / "own", "mine", "0.1+local", requires=["beta-lib<2"])
    served = shelf / "wheels" / packages.digest(file) / file.name
    served.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, served)
    wheels = [{"name": file.name, "digest": packages.digest(file)}]
    resolved = builder.resolve(wheels=wheels)
    assert resolved.status == 0, resolved.log
    assert resolved.report["libraries"] == {"mine": "0.1+local", "beta-lib": "1.5"}
    assert f"mine==0.1+local \\\n    --hash=sha256:{packages.digest(file)}\n" in resolved.report["lock"]
    environment = builder.folder / "made"
    built = builder.build(resolved.report["lock"], environment, wheels=wheels)
    assert built.status == 0, built.log
    assert built.report["libraries"] == {"mine": "0.1+local", "beta-lib": "1.5"}


def test_no_packages(with_uv: Builder) -> None:
    resolved = with_uv.resolve()
    assert resolved.status == 0 and resolved.report["lock"].strip() == "", resolved.log
    environment = with_uv.folder / "made"
    built = with_uv.build("", environment, preload=["decimal"])
    assert built.status == 0 and built.report["libraries"] == {}, built.log
    assert imports(environment, "print(1)") == "1"


def test_the_interpreters_own_packages(with_uv: Builder) -> None:
    environment = with_uv.folder / "made"
    assert with_uv.build(with_uv.resolve("alpha").report["lock"], environment, system_packages=True).status == 0
    assert "include-system-site-packages = true" in (environment / "pyvenv.cfg").read_text()


def test_there_is_no_such_package(builder: Builder) -> None:
    result = builder.resolve("nosuch-package")
    assert result.status == 1 and not result.report
    assert "nosuch-package" in result.log and "was not found" in result.log or "No matching distribution" in result.log


def test_a_conflict(builder: Builder) -> None:
    result = builder.resolve("old", "new")
    assert result.status == 1
    assert "beta-lib<2" in result.log and "beta-lib>=2" in result.log
    assert "Traceback" not in result.log


def test_a_broken_source_distribution(builder: Builder) -> None:
    resolved = builder.resolve("broken")
    if resolved.status == 0:  # its metadata was all that resolving needed
        resolved = builder.build(resolved.report["lock"], builder.folder / "made")
    assert resolved.status == 1
    assert "the moon is in the wrong phase" in resolved.log


def test_a_wrong_hash(builder: Builder) -> None:
    lock = builder.resolve("beta-lib").report["lock"]
    start = lock.index("sha256:") + len("sha256:")
    wrong = lock[:start] + ("0" if lock[start] != "0" else "1") + lock[start + 1:]
    result = builder.build(wrong, builder.folder / "made")
    assert result.status == 1
    assert "hash" in result.log.lower() and wrong[start:start + 64] in result.log
    assert not list((builder.folder / "made").rglob("beta_lib"))


def test_a_lock_without_hashes(with_uv: Builder) -> None:
    result = with_uv.build("beta-lib==1.0\n", with_uv.folder / "made")
    assert result.status == 1 and "hash" in result.log.lower()


def test_a_lock_of_another_tool(with_uv: Builder) -> None:
    lock = "# made by hand\n--index-url http://127.0.0.1:1/\n" + with_uv.resolve("beta-lib").report["lock"]
    result = with_uv.build(lock, with_uv.folder / "made")
    assert result.status == 0, result.log
    assert "line 2 of the lock, '--index-url http://127.0.0.1:1/', is left out" in result.log
    result = with_uv.build("-r other.txt\n", with_uv.folder / "other")
    assert result.status == 1 and "line 1 of the lock: expected name==version and its hashes, got '-r other.txt'" in result.log


def test_preloading_what_cannot_be_imported(with_uv: Builder) -> None:
    lock = with_uv.resolve("failing").report["lock"]
    result = with_uv.build(lock, with_uv.folder / "made", preload=["failing"])
    assert result.status == 1
    assert result.log.rstrip().endswith("error: failing (preload) cannot be imported: ValueError: no such phase")
    assert "Traceback" in result.log


@pytest.mark.parametrize("order, words", [
    ({"packages": ["--index-url=http://example.org"]}, "expected the name of a package"),
    ({"packages": ["alpha\n-r /etc/passwd"]}, "expected the name of a package"),
    ({"preload": ["os; print(1)"]}, "expected the name of a module to preload"),
    ({"wheels": [{"name": "../x.whl", "digest": "0" * 64}]}, "is not the name of a wheel"),
    ({"python": "2.7"}, f"this is Python {PYTHON}, and the environment is for Python 2.7"),
])
def test_orders_that_cannot_be_meant(with_uv: Builder, order: Dict[str, Any], words: str) -> None:
    result = with_uv.run("resolve", **order)
    assert result.status == 1 and words in result.log and "Traceback" not in result.log

# SPDX-License-Identifier: Apache-2.0
"""``./lab test mutants``: breaks one promise after the other and sees which test notices.

Each file of ``patches/`` is a patch with a header: ``Promise:`` says what it breaks, ``Caught-by:`` (one or more) names the
tests that must fail: a pytest node id below ``tests/``, or ``unit NAME`` for a test of meson's. The patch is applied to a copy
of the tree, what the tests need is built, and they run there. A mutant that no named test catches survives, and that fails
the run; so does a patch that no longer applies or builds. First the tests run on the unbroken copy: one that fails there as
well would 'catch' anything. A patch is what ``git diff`` prints in a clone with the promise broken, below its header.

Arguments: names of patches (``08-early-release``) or patterns (``'*-auth-*'``), default: all. Builds are kept in build/mutants for
the next run.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from labtool.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"
CLEAN = WORK / "clean"  # the tree as it was when this began: one can go on editing meanwhile
TREE = WORK / "tree"
UNIT = WORK / "build" / "unit"
NAME_WIDTH = 42


def file_of(test: str) -> str:
    """The part of a test's name that says where it is."""
    return test.split("::")[0]


class Unusable(Exception):
    """What can neither pass nor fail: a patch that does not apply, code that does not build, a test that is not there."""


@dataclass
class Mutant:
    """One broken promise."""

    patch: Path
    promise: str
    caught_by: list[str]

    @staticmethod
    def read(patch: Path) -> Mutant:
        """Reads a patch's header. Raises SystemExit when it has none."""
        promise, caught_by = "", []
        for line in patch.read_text().splitlines():
            if line.startswith("--- "):
                break
            key, _, value = line.partition(": ")
            if key == "Promise":
                promise = value
            elif key == "Caught-by":
                caught_by.append(value)
        if not promise or not caught_by:
            sys.exit(f"{patch}: expected 'Promise: …' and 'Caught-by: …' before the patch")
        return Mutant(patch, promise, caught_by)


def clean_make() -> None:
    """Copies the tree's tracked files, and those that will be."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shutil.rmtree(CLEAN, ignore_errors=True)
    for name in listing.split("\0"):
        if name and (ROOT / name).is_file():
            (CLEAN / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, CLEAN / name)


def tree_reset() -> None:
    """Undoes a mutant. Only what it had changed gets a new time stamp, so that builds are incremental."""
    wanted = {path.relative_to(CLEAN) for path in CLEAN.rglob("*") if path.is_file()}
    for path in TREE.rglob("*") if TREE.exists() else []:
        if path.is_file() and path.relative_to(TREE) not in wanted:
            path.unlink()
    for name in wanted:
        source, target = CLEAN / name, TREE / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


def run(command: list[str], log: Path) -> int:
    """Runs a command in the copy, its output to a log; returns the exit code."""
    environment = {
        **os.environ,
        "CLUPY_LAB_BUILD": str(WORK / "build"),
        "CLUPY_LAB_STAGED": "1",
        "PYTHONPATH": f"{TREE}/tests:{TREE}/python",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with log.open("ab") as output:
        return subprocess.run(command, cwd=TREE, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                              check=False).returncode


def introspect(what: str) -> list[dict[str, object]]:
    """What meson knows of the unit tests' build."""
    text = subprocess.run(["meson", "introspect", what, str(UNIT)], capture_output=True, text=True, check=True).stdout
    found: list[dict[str, object]] = json.loads(text)
    return found


def unit_build(name: str, log: Path) -> None:
    """Builds one unit test. Raises Unusable."""
    if not (UNIT / "build.ninja").exists():
        shutil.rmtree(UNIT, ignore_errors=True)
        if run(["meson", "setup", str(UNIT), str(TREE), "-Dsanitizers=true", "-Db_lundef=false"], log) != 0:
            raise Unusable(f"NO UNIT TESTS: {log}")
    # The last run's build knows only the tests that there were.
    elif run(["ninja", "-C", str(UNIT), "build.ninja"], log) != 0:
        raise Unusable(f"NO UNIT TESTS: {log}")
    needed = next((test["depends"] for test in introspect("--tests") if test["name"] == name), None)
    if needed is None:
        raise Unusable(f"NO SUCH TEST: unit {name}")
    assert isinstance(needed, list)
    files = [str(file) for target in introspect("--targets") if target["id"] in needed
             for file in (target["filename"] if isinstance(target["filename"], list) else [])]
    if run(["ninja", "-C", str(UNIT), *(os.path.relpath(file, UNIT) for file in files)], log) != 0:
        raise Unusable(f"DOES NOT BUILD: {log}")


def lab_build(log: Path) -> None:
    """Builds and stages what the nodes get. Raises Unusable."""
    if run([sys.executable, "-c", "from labtool import build; build.build_release()"], log) != 0:
        raise Unusable(f"DOES NOT BUILD: {log}")


def passes(tests: list[str], log: Path) -> bool:
    """Whether tests, of one file if there are several, pass in the copy; what they need is built. Raises Unusable."""
    if tests[0].startswith("unit "):
        name = tests[0].removeprefix("unit ")
        unit_build(name, log)
        return run(["meson", "test", "--no-rebuild", "-C", str(UNIT), name], log) == 0
    if tests[0].startswith("lab/"):
        lab_build(log)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--timeout=300", "-p", "no:cacheprovider"]
    code = run([*command, f"--rootdir={TREE}/tests", *(f"{TREE}/tests/{test}" for test in tests)], log)
    if code not in (0, 1):
        raise Unusable(f"NO SUCH TEST, or it cannot run: {' '.join(tests)}: {log}")
    return code == 0


def judge(mutant: Mutant, broken: set[str], log: Path) -> tuple[bool, str]:
    """Whether one of its tests notices, and the words for it. broken: files whose tests fail without it."""
    tests = [test for test in mutant.caught_by if file_of(test) not in broken]
    if not tests:
        return False, "NOT TRIED: its tests fail without it"
    tree_reset()
    patch = ["patch", "--silent", "--force", "--no-backup-if-mismatch", "-p1", "-i", str(mutant.patch)]
    if run(patch, log) != 0:
        return False, f"DOES NOT APPLY, make the patch anew: {log}"
    try:
        caught = next((each for each in tests if not passes([each], log)), None)
    except Unusable as error:
        return False, str(error)
    return caught is not None, f"caught by {caught}" if caught else f"SURVIVED: {log}"


def check_unbroken(tests: set[str], log: Path) -> set[str]:
    """Runs tests without a mutant, and says which do not pass. Returns their files."""
    begin, broken = time.monotonic(), set()
    tree_reset()
    groups: dict[str, list[str]] = {}
    for test in sorted(tests):
        groups.setdefault(file_of(test), []).append(test)
    for name, group in groups.items():
        try:
            verdict = "" if passes(group, log) else f"FAILS WITHOUT A MUTANT: {log}"
        except Unusable as error:
            verdict = str(error)
        if verdict:
            broken.add(name)
            say(f"unbroken: {name}", begin, verdict)
    say("unbroken", begin, f"{len(groups) - len(broken)} of {len(groups)} test files pass")
    return broken


def say(name: str, begin: float, verdict: str) -> None:
    print(f"{name:{NAME_WIDTH}} {time.monotonic() - begin:5.0f} s  {verdict}", flush=True)


@contextmanager
def workplace() -> Iterator[Path]:
    """The directory of logs, for one run at a time; afterwards no lab is left and no mutant in the copy."""
    logs = WORK / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (WORK / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for log in logs.glob("*.log"):
            log.unlink()
        clean_make()
        try:
            yield logs
        finally:
            tree_reset()
            Lab.remove_abandoned()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    patches = sorted((Path(__file__).parent / "patches").glob("*.patch"))
    wanted = sys.argv[1:] or ["*"]
    unknown = [name for name in wanted if not any(fnmatch(patch.stem, name) for patch in patches)]
    if unknown:
        sys.exit(f"mutants: there is no patch {', '.join(unknown)}")
    mutants = [Mutant.read(patch) for patch in patches if any(fnmatch(patch.stem, name) for name in wanted)]
    passed = 0
    with workplace() as logs:
        broken = check_unbroken({test for mutant in mutants for test in mutant.caught_by}, logs / "unbroken.log")
        for mutant in mutants:
            begin = time.monotonic()
            caught, verdict = judge(mutant, broken, logs / f"{mutant.patch.stem}.log")
            passed += caught
            say(mutant.patch.stem, begin, f"{verdict}  ({mutant.promise})")
    failed = len(mutants) - passed + len(broken)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())

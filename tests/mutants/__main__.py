# SPDX-License-Identifier: Apache-2.0
"""``./lab test mutants``: breaks one promise after the other and sees which test notices.

Each file of ``patches/`` is a patch with a header: ``Promise:`` says what it breaks, ``Caught-by:`` (one or more) names the
tests that must fail: a pytest node id below ``tests/``, or ``unit NAME`` for a test of meson's. The patch is applied to a copy
of the tree, built, and the named tests run there. A mutant that no named test catches survives, and that fails the run; so
does a patch that no longer applies or builds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutants"
TREE = WORK / "tree"


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


def tree_make() -> None:
    """A fresh copy of the tree's tracked files; the build folder beside it stays, so that builds are incremental."""
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    wanted = {name for name in listing.split("\0") if name and (ROOT / name).exists()}
    for path in sorted(TREE.rglob("*")) if TREE.exists() else []:
        if path.is_file() and str(path.relative_to(TREE)) not in wanted:
            path.unlink()
    for name in wanted:
        source, target = ROOT / name, TREE / name
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)  # a new time stamp, so that what a former mutant changed is built again


def run(command: list[str], log: Path) -> int:
    """Runs a command in the copy, its output to a log; returns the exit code."""
    environment = {
        **os.environ,
        "CLUPY_LAB_BUILD": str(WORK / "build"),
        "PYTHONPATH": f"{TREE}/tests:{TREE}/python",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.pop("CLUPY_LAB_STAGED", None)
    with log.open("ab") as output:
        return subprocess.run(command, cwd=TREE, env=environment, stdout=output, stderr=output, check=False).returncode


def test(name: str, log: Path) -> bool:
    """Whether a test passes in the copy."""
    if name.startswith("unit "):
        build = WORK / "build" / "unit"
        if not (build / "build.ninja").exists():
            run(["meson", "setup", str(build), str(TREE), "-Dsanitizers=true", "-Db_lundef=false"], log)
        return run(["meson", "test", "-C", str(build), name.removeprefix("unit ")], log) == 0
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--timeout=300", "-p", "no:cacheprovider"]
    return run([*command, f"--rootdir={TREE}/tests", f"{TREE}/tests/{name}"], log) == 0


def builds(log: Path) -> bool:
    """Whether the mutant builds at all: one that does not would be 'caught' by any test."""
    return run([sys.executable, "-c", "from labtool import build; build.build_release()"], log) == 0


def main() -> int:
    chosen = sys.argv[1:]
    patches = sorted((Path(__file__).parent / "patches").glob("*.patch"))
    mutants = [Mutant.read(patch) for patch in patches if not chosen or patch.stem in chosen]
    (WORK / "logs").mkdir(parents=True, exist_ok=True)
    failed = 0
    for mutant in mutants:
        begin, name = time.monotonic(), mutant.patch.stem
        log = WORK / "logs" / f"{name}.log"
        log.unlink(missing_ok=True)
        tree_make()
        if subprocess.run(["patch", "-s", "-p1", "-d", str(TREE), "-i", str(mutant.patch)], check=False).returncode != 0:
            verdict = "DOES NOT APPLY: make the patch anew"
        elif not builds(log):
            verdict = f"DOES NOT BUILD: {log}"
        else:
            caught = next((each for each in mutant.caught_by if not test(each, log)), None)
            verdict = f"caught by {caught}" if caught else f"SURVIVED: {log}"
        failed += not verdict.startswith("caught")
        print(f"{name:32} {time.monotonic() - begin:5.0f} s  {verdict}  ({mutant.promise})", flush=True)
    print(f"{len(mutants) - failed} passed, {failed} failed")
    return 1 if failed or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())

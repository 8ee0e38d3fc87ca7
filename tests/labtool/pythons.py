# SPDX-License-Identifier: Apache-2.0
"""Other Pythons than Debian's, for nodes that offer several: those that pyenv has on this machine.

The services of a node see nobody's home, where pyenv's are: the one that nodes offer is copied to where they do.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .command import run_quiet
from .console import say

OLDEST = (3, 9)
COPIES = Path("/var/cache/clupy-lab/pythons")
# Of how they are copied: another way makes another copy.
_STAMP = "1"


def _root() -> Path | None:
    """pyenv's folder, or None."""
    program = shutil.which("pyenv")
    if program is not None:
        answer = subprocess.run([program, "root"], capture_output=True, text=True, check=False)
        return Path(answer.stdout.strip()) if answer.returncode == 0 else None
    usual = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return usual if usual.is_dir() else None


def found() -> dict[str, Path]:
    """Series ("3.12") and prefix of each Python that programs can be linked with, the newest of its series, the newest
    series first; Debian's series is not among them."""
    root = _root()
    best: dict[tuple[int, int], tuple[int, Path]] = {}
    for prefix in sorted((root / "versions").iterdir()) if root is not None and (root / "versions").is_dir() else ():
        match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", prefix.name)
        if match is None or prefix.is_symlink():
            continue
        major, minor, micro = map(int, match.groups())
        series = f"{major}.{minor}"
        whole = (prefix / f"lib/libpython{series}.so").exists() and (prefix / f"include/python{series}/Python.h").exists()
        if whole and (major, minor) >= OLDEST and micro >= best.get((major, minor), (-1, prefix))[0]:
            best[major, minor] = micro, prefix
    # This tool itself runs with Debian's.
    best.pop(sys.version_info[:2], None)
    return {f"{major}.{minor}": prefix for (major, minor), (_, prefix) in sorted(best.items(), reverse=True)}


def offered() -> dict[str, Path]:
    """The one of them that the nodes offer besides Debian's: the newest. Series and prefix of the copy."""
    return {series: COPIES / f"{prefix.name}-{_STAMP}" for series, prefix in list(found().items())[:1]}


def prepare() -> None:
    """Copies what the nodes offer, unless it is there."""
    for series, copy in offered().items():
        if copy.is_dir():
            continue
        source = found()[series]
        say(f"copying Python {series} to where nodes can use it")
        fresh = copy.with_name(f"{copy.name}.new{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        COPIES.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, fresh, symlinks=True,
                        ignore=shutil.ignore_patterns("test", "tests", "__pycache__", "site-packages", "*.a"))
        (fresh / f"lib/python{series}/site-packages").mkdir()
        for program in (fresh / f"bin/python{series}", *(fresh / f"lib/python{series}/lib-dynload").glob("*.so")):
            run_quiet("making a program find its library", ["patchelf", "--set-rpath", f"{copy}/lib", str(program)])
        try:
            fresh.rename(copy)
        except OSError:
            # Another ./lab was quicker.
            shutil.rmtree(fresh)


def options() -> list[str]:
    """meson's options for building with them."""
    others = offered()
    if not others:
        return []
    prepare()
    return ["-Dpythons=" + ",".join(f"{series}={prefix}" for series, prefix in others.items())]

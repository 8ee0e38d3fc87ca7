# SPDX-License-Identifier: Apache-2.0
"""Other Pythons than Debian's, for nodes that offer several: those that pyenv has on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import paths

OLDEST = (3, 9)


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
    """The one of them that the nodes offer besides Debian's: the newest."""
    return dict(list(found().items())[:1])


def options() -> list[str]:
    """meson's options for building with them."""
    others = offered()
    if not others or "'pythons'" not in (paths.SOURCE / "meson_options.txt").read_text():
        return []
    return ["-Dpythons=" + ",".join(f"{series}={prefix}" for series, prefix in others.items())]

# SPDX-License-Identifier: Apache-2.0
"""Mounts of the host's mount namespace."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .command import run_quiet
from .console import LabError


def mounted_below(directory: Path) -> list[Path]:
    """The mount points at or below a directory, the latest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        where = line.split()[4].encode().decode("unicode_escape")
        if where == str(directory) or where.startswith(f"{directory}/"):
            found.append(Path(where))
    return found[::-1]


def unmount_below(directory: Path) -> None:
    """Unmounts everything at or below a directory. What is still in use goes when its user does (lazily)."""
    for where in mounted_below(directory):
        with contextlib.suppress(LabError):
            run_quiet("unmounting", ["umount", "--lazy", str(where)])
    left = mounted_below(directory)
    if left:
        raise LabError(f"cannot unmount {', '.join(map(str, left))}")

# SPDX-License-Identifier: Apache-2.0
"""Compares the libraries of this process with those of the cluster: a value made by one version of a library may not be
readable by another."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
import threading
import warnings
from typing import Any, FrozenSet, List, Mapping, Optional, Sequence, Set, Tuple

from ._environment import Manifest, project
from ._failures import LibraryMismatchError, LibraryMismatchWarning

_PACKAGE = os.path.dirname(__file__)
_ROWS_MAX = 25
_ADVICE = ("values of one version may not be readable by another; install what the cluster has, or name what this program "
           "needs in clupy.client.dependency.yaml (`libraries: ignore` there says that it does not matter)")

Difference = Tuple[str, Optional[str], str]  # library, version here (None: not installed), version in the cluster

_told: Set[FrozenSet[Difference]] = set()
_lock = threading.Lock()


def compare(manifest: Manifest, libraries: Any, *, may_raise: bool) -> str:
    """libraries: WELCOME's. Returns what to warn the user of, once in this process for the same differences; "" for nothing.
    Raises LibraryMismatchError when the user's file has `libraries: error` and may_raise."""
    if manifest.libraries == "ignore" or not isinstance(libraries, dict) or manifest.lock or manifest.base == "none":
        return ""
    found = differences(libraries, [project(package) for package in manifest.packages])
    if not found:
        return ""
    if manifest.libraries == "error" and may_raise:
        raise LibraryMismatchError(found, table(found), _ADVICE)
    key = frozenset(found)
    with _lock:
        if key in _told:
            return ""
        _told.add(key)
    return f"{headline(found)}:\n{table(found)}\n{_ADVICE}"


def warn(words: str) -> None:
    """As of the line of the user's program that this is called for."""
    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == _PACKAGE:
        level, frame = level + 1, frame.f_back
    warnings.warn(words, LibraryMismatchWarning, stacklevel=level + 1)


def differences(libraries: Mapping[Any, Any], replaced: Sequence[str] = ()) -> List[Difference]:
    """What is not the same here. replaced: names of packages that this client's own requirements decide on."""
    found: List[Difference] = []
    for name, version in sorted(libraries.items()):
        if not isinstance(name, str) or not isinstance(version, str) or project(name) in replaced:
            continue
        try:
            here: Optional[str] = importlib.metadata.version(name)
        except Exception:  # PackageNotFoundError, or its metadata is broken
            here = None
        if here is None or _canonical(here) != _canonical(version):
            found.append((name, here, version))
    return found


def _canonical(version: str) -> str:
    """1.0 and 1.0.0 are the same."""
    return re.sub(r"(\.0+)+(?=$|[+])", "", version.strip().lower().lstrip("v"))


def headline(found: Sequence[Difference]) -> str:
    count = "1 library differs" if len(found) == 1 else f"{len(found)} libraries differ"
    return f"{count} from what the cluster has"


def table(found: Sequence[Difference]) -> str:
    """As lines of text."""
    rows = [("LIBRARY", "HERE", "CLUSTER"), *((name, here or "missing", there) for name, here, there in found[:_ROWS_MAX])]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {name:{widths[0]}}  {here:{widths[1]}}  {there}" for name, here, there in rows]
    if len(found) > _ROWS_MAX:
        lines.append(f"  and {len(found) - _ROWS_MAX} more")
    return "\n".join(lines)

# SPDX-License-Identifier: Apache-2.0
"""Whether a call failed because there was no room in its own /tmp or /dev/shm. Imported by the few tasks that ask."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from types import FrameType
from typing import Any, Iterator, List, Optional, Set

PLACES = ("/tmp", "/dev/shm")
_CHAIN_MAX = 100
_FILE_TYPES = (io.FileIO, io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper)


def full_place(error: BaseException) -> str:
    """The place that the failure comes from, "/tmp" or "/dev/shm"; "" when it comes from neither, or cannot be told.

    ENOSPC has other sources too: other devices (/dev/full), the kernel's tables of watches."""
    for failure in _chain(error):
        if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
            with contextlib.suppress(Exception):
                return _place_of(failure)
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, and those that led to it, as a traceback would show them."""
    waiting: List[BaseException] = [error]
    seen: Set[int] = set()
    while waiting and len(seen) < _CHAIN_MAX:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        members = getattr(one, "exceptions", ())  # of a group
        linked = [one.__cause__, None if one.__suppress_context__ else one.__context__,
                  *(members if isinstance(members, (tuple, list)) else ())]
        waiting.extend(other for other in linked if isinstance(other, BaseException))


def _place_of(failure: OSError) -> str:
    names = [name for name in (failure.filename, failure.filename2) if name is not None]
    if names:
        return _only({_place_of_path(name) for name in names}) or ""
    traceback = failure.__traceback__
    frames: List[FrameType] = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    for frame in reversed(frames):  # who wrote is further in than who called
        found = {_place_of_path(name) for name in _files_written(frame)}
        if found:
            place = _only(found)
            if place is not None:
                return place
            break
    return _full_now()


def _only(found: Set[str]) -> Optional[str]:
    return next(iter(found)) if len(found) == 1 else None


def _place_of_path(name: Any) -> str:
    """name: a path, or a descriptor. Files that are gone have their name still."""
    path = os.readlink(f"/proc/self/fd/{name}") if isinstance(name, int) else os.path.realpath(os.fsdecode(name))
    return next((place for place in PLACES if path == place or path.startswith(f"{place}/")), "")


def _files_written(frame: FrameType) -> Iterator[Any]:
    """Names (paths or descriptors) of a function's files that are open for writing, or were."""
    tempfile: Any = sys.modules.get("tempfile")
    for value in list(frame.f_locals.values()):
        if tempfile is not None and type(value) is tempfile._TemporaryFileWrapper:
            value = value.file
        if type(value) not in _FILE_TYPES:
            continue
        raw = value.buffer if type(value) is io.TextIOWrapper else value
        raw = getattr(raw, "raw", raw)
        if type(raw) is not io.FileIO or not set(raw.mode) & set("wax+"):
            continue
        if not isinstance(raw.name, int) or not (raw.closed or raw.name in (0, 1, 2)):
            yield raw.name


def _full_now() -> str:
    for place in PLACES:
        with contextlib.suppress(OSError):
            state = os.statvfs(place)
            if state.f_bfree == 0 or (state.f_files and state.f_ffree == 0):
                return place
    return ""

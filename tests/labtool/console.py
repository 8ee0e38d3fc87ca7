# SPDX-License-Identifier: Apache-2.0
"""What a person sees: progress lines with the time that has passed, and errors that say what to do next."""

from __future__ import annotations

import sys
import time
from pathlib import Path

_start = time.monotonic()


class LabError(Exception):
    """Something the lab could not do: what, where its log is, what to do next."""

    def __init__(self, what: str, *, log: Path | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.log = log
        self.next_step = next_step

    def __str__(self) -> str:
        lines = [self.what]
        if self.log is not None:
            lines.append(f"  log:  {self.log}")
        if self.next_step is not None:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


def say(text: str) -> None:
    """One progress line on stderr, with the seconds since the tool started."""
    print(f"[{time.monotonic() - _start:6.1f} s] {text}", file=sys.stderr, flush=True)


def elapsed() -> float:
    """Seconds since the tool started."""
    return time.monotonic() - _start

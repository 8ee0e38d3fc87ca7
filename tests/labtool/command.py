# SPDX-License-Identifier: Apache-2.0
"""Running other programs, with their output kept in a log that an error can point at."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from .console import LabError


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented, for an error message."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join("    | " + line for line in text.splitlines()[-lines:])


def run_logged(what: str, arguments: Sequence[str], log: Path, *, next_step: str | None = None,
               environment: Mapping[str, str] | None = None, directory: Path | None = None) -> None:
    """Runs a program with its output appended to log. Raises LabError that shows the log's end."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(("$ " + " ".join(arguments) + "\n").encode())
        output.flush()
        result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                env=None if environment is None else {**os.environ, **environment},
                                cwd=directory, check=False)
    if result.returncode != 0:
        raise LabError(f"{what} failed (exit {result.returncode}); its last lines:\n{tail(log)}", log=log,
                       next_step=next_step)


def run_quiet(what: str, arguments: Sequence[str], *, text: str | None = None) -> str:
    """Runs a short program and returns what it printed. Raises LabError with its error output."""
    result = subprocess.run(arguments, input=text, stdin=subprocess.DEVNULL if text is None else None,
                            capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise LabError(f"{what} failed: {' '.join(arguments)}: exit {result.returncode}: "
                       f"{(result.stderr or result.stdout).strip()}")
    return result.stdout

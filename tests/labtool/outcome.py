# SPDX-License-Identifier: Apache-2.0
"""What came of a test, whatever ran it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from .console import LabError, say


HEAD = 10  # lines of a failure's text that are shown of its beginning,
TAIL = 50  # and of its end
LINE_MAX = 400  # characters of the one line that closes the output


@dataclass(frozen=True)
class Outcome:
    """One test's end. status is passed, failed or skipped; detail says why, if it did not pass."""

    name: str
    status: str
    seconds: float
    detail: str = ""


def check(name: str, function: Callable[[], None]) -> Outcome:
    """Runs a check that raises LabError when it finds something."""
    started = monotonic()
    try:
        function()
    except LabError as error:
        return Outcome(name, "failed", monotonic() - started, str(error))
    return Outcome(name, "passed", monotonic() - started)


def _shortened(lines: list[str]) -> list[str]:
    """The first lines say what, the last ones how it came to it."""
    if len(lines) <= HEAD + TAIL:
        return lines
    return [*lines[:HEAD], f"… {len(lines) - HEAD - TAIL} lines …", *lines[-TAIL:]]


def _reason(text: str) -> str:
    """The first line; with the next ones, as long as it is hardly more than a heading."""
    reason = ""
    for line in text.split("\n"):
        reason = f"{reason} {line.strip()}".strip()
        if len(reason) > 30 and not reason.endswith(":"):
            break
    return reason[:LINE_MAX]


def report(outcomes: list[Outcome]) -> int:
    """Prints the ten slowest, what did not pass, first at length and then in a line each (a CI may keep only the end of
    the output), and the closing line; returns the exit code. A test that was skipped counts as failed: what was not run
    was not shown."""
    bad = [outcome for outcome in outcomes if outcome.status != "passed"]
    sys.stderr.flush()
    print("\nslowest:")
    for outcome in sorted(outcomes, key=lambda each: -each.seconds)[:10]:
        print(f"  {outcome.seconds:7.1f} s  {outcome.name}")
    for outcome in bad:
        print(f"\n{outcome.status.upper()} {outcome.name} ({outcome.seconds:.1f} s)")
        print("\n".join("  " + line for line in _shortened(outcome.detail.splitlines())))
    if bad:
        print()
    for outcome in bad:
        print(f"{outcome.status.upper()} {outcome.name} - {_reason(outcome.detail)}")
    skipped = sum(outcome.status == "skipped" for outcome in bad)
    if skipped:
        print(f"{skipped} skipped, which counts as failed")
    print(f"{len(outcomes) - len(bad)} passed, {len(bad)} failed", flush=True)
    return 1 if bad or not outcomes else 0


def announce(outcomes: list[Outcome]) -> list[Outcome]:
    """Says how each test ended, and returns them."""
    for outcome in outcomes:
        say(f"{outcome.status:7} {outcome.name} ({outcome.seconds:.1f} s)")
    return outcomes

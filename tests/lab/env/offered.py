# SPDX-License-Identifier: Apache-2.0
"""The packages that the master offers in the tests of environments."""

from __future__ import annotations

from pathlib import Path

from packages import source, wheel

BROKEN = """
import sys
print("the words of broken: its tape is worn", file=sys.stderr, flush=True)
raise SystemExit(1)
"""


def make_wheels(folder: Path) -> None:
    """What the master offers besides its index."""
    folder.mkdir()
    for version in ("1.0", "1.1", "2.0"):
        wheel(folder, "alpha", version)
    wheel(folder, "beta", "1.0", {"beta/__init__.py": "import alpha\nVERSION = '1.0'\n"}, ["alpha>=1"])
    # Large enough that its installation takes a moment: many files.
    wheel(folder, "many", "1.0", {"many/__init__.py": "VERSION = '1.0'\n",
                                  **{f"many/part{number}.py": f"NUMBER = {number}\n" * 50 for number in range(3000)}})
    wheel(folder, "slow", "1.0", {"slow.py": "import time\ntime.sleep(0.5)\nVERSION = '1.0'\n"})
    source(folder, "fromsource", "1.0")
    source(folder, "broken", "1.0", BROKEN)

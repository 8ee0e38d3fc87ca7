# SPDX-License-Identifier: Apache-2.0
"""Where things are: the checkout, its build products, the state of running labs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

TOOL = Path(__file__).resolve().parent
SOURCE = TOOL.parent.parent
LISTS = TOOL / "dependencies"

# State of running labs: one directory per lab, each a mount of its own, so that one umount takes it away.
STATE = Path("/run/clupy-lab")


def build_directory() -> Path:
    """The directory for everything that is built: `build` in the checkout, or one below /var/cache when the
    checkout cannot be written. CLUPY_LAB_BUILD overrides both."""
    override = os.environ.get("CLUPY_LAB_BUILD")
    if override:
        directory = Path(override).absolute()
    else:
        directory = SOURCE / "build"
        parent = directory if directory.exists() else SOURCE
        if not os.access(parent, os.W_OK):
            digest = hashlib.sha256(str(SOURCE).encode()).hexdigest()[:12]
            directory = Path("/var/cache/clupy-lab") / digest
    directory.mkdir(parents=True, exist_ok=True)
    return directory

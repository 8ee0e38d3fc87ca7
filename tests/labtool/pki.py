# SPDX-License-Identifier: Apache-2.0
"""A lab's certificates: an authority of the lab's own, kept by the product's own `clupyctl pki`, before the first boot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from . import content, network
from .command import run_quiet

FOLDER = "/etc/clupy/pki"


class Pki:
    """The authority of a lab. It lives on the master's node afterwards: there `clupyctl pki` goes on with it."""

    def __init__(self, directory: Path, installed: Path, nodes: list[str]) -> None:
        """directory is made. installed is the layer that holds the product; nodes are those of the lab."""
        self._directory = directory
        self._authority = directory / "authority"
        self._program = installed / "usr/bin/clupyctl"
        directory.mkdir()
        self._run("init", "--name", "master", "--name", network.address("master"))
        # Before the authority moves to its node: what it does not know it could not revoke.
        for node in nodes:
            if content.role_of(node) == "agent":
                self._issue("agent", node)
        self._issue("user", content.USER)
        self._issue("admin", "root")

    def _run(self, verb: str, *arguments: str) -> None:
        run_quiet(f"clupyctl pki {verb}", [str(self._program), "pki", verb, "--folder", str(self._authority), *arguments])

    def _issue(self, role: str, name: str) -> Path:
        out = self._directory / f"{role}-{name}"
        if not out.exists():
            self._run("issue", role, name, "--out", str(out))
        return out

    def write(self, upper: content.Upper, node: str) -> None:
        """Puts onto a node what it has of certificates and keys. The ordinary user has one everywhere; root is an
        administrator; the master's node has the authority."""
        role = content.role_of(node)
        if role == "agent":
            _copy(upper, self._issue("agent", node), FOLDER, 0)
        if role == "master":
            shutil.copytree(self._authority, upper.path(FOLDER))
        for issued, home, owner in ((self._issue("user", content.USER), f"/home/{content.USER}", content.USER_ID),
                                    (self._issue("admin", "root"), "/root", 0)):
            _copy(upper, issued, f"{home}/.config/clupy", owner)


def _copy(upper: content.Upper, source: Path, folder: str, owner: int) -> None:
    for file in source.iterdir():
        path = upper.path(f"{folder}/{file.name}")
        shutil.copy(file, path)
        os.chown(path, owner, owner)
    if owner:
        # A renewal writes there.
        os.chown(path.parent, owner, owner)
        os.chown(path.parent.parent, owner, owner)

# SPDX-License-Identifier: Apache-2.0
"""A lab: nodes, their network and their state, from `up` to `down`.

The state directory is made first and removed last, and everything else has a name that follows from the lab's, so
`down` removes a lab wholly whatever moment its maker was killed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from . import cgroup, index, mounts, paths
from .command import run_quiet
from .console import LabError, say
from .network import Network, address
from .node import Boot, Node
from .pki import Pki

NAME = re.compile(r"[a-z0-9_]{1,24}")
DEFAULT = "lab"
MAX_AGENTS = 64


def host_memory() -> int:
    """The host's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Lab:
    """A lab, known by its name."""

    def __init__(self, name: str = DEFAULT) -> None:
        if not NAME.fullmatch(name):
            raise LabError(f"'{name}' is no name for a lab: 1 to 24 of a-z, 0-9 and _")
        self.name = name
        self.directory = paths.STATE / name
        self.shared = self.directory / "shared"
        self.network = Network(self.directory / "network")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps two `./lab` from changing the same lab at once. Goes with its process, however that ends."""
        paths.STATE.mkdir(parents=True, exist_ok=True)
        path = paths.STATE / f".{self.name}.lock"
        while True:
            with path.open("w") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    say(f"waiting for another ./lab that works on '{self.name}'")
                    fcntl.flock(file, fcntl.LOCK_EX)
                # `down` removes the file, and then this lock is nobody's.
                if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    yield
                    return

    @staticmethod
    def all() -> list[str]:
        """The names of all labs of which anything exists."""
        names = cgroup.labs()
        if paths.STATE.is_dir():
            names |= {entry.name for entry in paths.STATE.iterdir() if entry.is_dir()}
        return sorted(names)

    def exists(self) -> bool:
        """Whether the lab was made."""
        return (self.directory / "lab.json").exists()

    def node_names(self) -> list[str]:
        """The lab's nodes: master, agents, client."""
        if not self.exists():
            raise LabError(f"there is no lab '{self.name}'", next_step=f"./lab up --name {self.name}")
        agents = int(json.loads((self.directory / "lab.json").read_text())["agents"])
        return ["master", *(f"agent{number}" for number in range(1, agents + 1)), "client"]

    def nodes(self) -> list[Node]:
        """The lab's nodes."""
        return [Node(self.name, self.directory, name) for name in self.node_names()]

    def node(self, name: str) -> Node:
        """One node. Raises LabError when the lab has none of this name."""
        if name not in self.node_names():
            raise LabError(f"lab '{self.name}' has no node '{name}'; it has {', '.join(self.node_names())}")
        return Node(self.name, self.directory, name)

    def up(self, agents: int, installed: Path | None, insecure: bool = False, with_index: bool = False) -> None:
        """Makes the lab and boots it. installed is a staging directory with the product, or None; insecure: the nodes
        speak plaintext instead of TLS; with_index: the master reaches the package index of this machine's pip."""
        if not 0 <= agents <= MAX_AGENTS:
            raise LabError(f"--agents {agents}: expected 0 to {MAX_AGENTS}")
        public = index.ask() if with_index else None
        with self.lock():
            if self.directory.exists() or cgroup.find(self.name):
                raise LabError(f"there is already a lab '{self.name}'", next_step=f"./lab down --name {self.name}, "
                               "or another --name")
            try:
                self._create(agents, installed, insecure)
                if public is not None:
                    index.write(self.node("master").upper, public)
                    index.start(self.name, self.directory, self.network, public)
                self._boot([(node, node.start(self.network)) for node in self.nodes()])
            except KeyboardInterrupt:
                self.remove()
                raise

    def mount(self) -> None:
        """Makes the state directory and what all nodes share; call with the lock held."""
        self.directory.mkdir()
        run_quiet("mounting the lab's state", ["mount", "-t", "tmpfs", "-o", "mode=0755", f"clupy-lab-{self.name}",
                                               str(self.directory)])
        self.shared.mkdir()
        self.shared.chmod(0o1777)

    def _create(self, agents: int, installed: Path | None, insecure: bool) -> None:
        self.mount()
        (self.directory / "lab.json").write_text(json.dumps({"agents": agents, "source": str(paths.SOURCE)}))
        # Once: a shell reads its script as it runs, and must not find another node's copying at work on it.
        for script in ("supervisor.sh", "boot.sh"):
            shutil.copy(paths.TOOL / script, self.directory / script)
        layer = self.directory / "install"
        # A copy: a layer must not change under a mounted overlay, and the staging directory does, at the next build.
        if installed is not None:
            shutil.copytree(installed, layer, symlinks=True)
        else:
            layer.mkdir()
        self.network.create()
        names = self.node_names()
        pki = None if insecure or installed is None else Pki(self.directory / "pki", layer, names)
        for node in self.nodes():
            self.network.attach(node.name)
            node.create(names, host_memory() // (agents + 2), layer, self.shared, pki)

    def _boot(self, boots: list[tuple[Node, Boot]]) -> None:
        for node, boot in boots:
            seconds = boot.wait()
            failed = node.failed_units()
            state = f"up in {seconds:.1f} s" if not failed else f"up, but degraded: {', '.join(failed)} failed"
            say(f"{self.name}: {node.name} {address(node.name)} {state}")
            for unit in failed:
                log = node.run(["journalctl", "--unit", unit, "--lines", "5", "--no-pager", "--output", "cat"])
                print("".join(f"    | {line}\n" for line in log.stdout.splitlines()), end="", file=sys.stderr,
                      flush=True)

    def start(self, name: str) -> None:
        """Switches a node on again that crash() switched off."""
        with self.lock():
            node = self.node(name)
            if node.pid() is not None:
                raise LabError(f"{name} is already running")
            self._boot([(node, self._switch_on(node))])

    def _switch_on(self, node: Node) -> Boot:
        cgroup.remove(node.groups())
        self.network.detach(node.name)
        self.network.attach(node.name)
        return node.start(self.network)

    def crash(self, name: str) -> None:
        """Cuts a node's power. Its cable goes dead first: a machine without power says no goodbye on the network."""
        with self.lock():
            node = self.node(name)
            if node.pid() is None:
                raise LabError(f"{name} is not running")
            self.network.link(name, False)
            node.cut_power()
            say(f"{self.name}: {name} lost its power")

    def partition(self, name: str) -> None:
        """Pulls a node's cable."""
        self.network.link(self.node(name).name, False)

    def heal(self, name: str) -> None:
        """Plugs a node's cable in again."""
        self.network.link(self.node(name).name, True)

    def down(self) -> None:
        """Removes everything of the lab. Not an error if there is nothing, or only a part."""
        with self.lock():
            self.remove()
            (paths.STATE / f".{self.name}.lock").unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes everything; call with the lock held."""
        cgroup.remove(cgroup.find(self.name))
        if self.directory.exists():
            mounts.unmount_below(self.directory)
            # Before the state was mounted, or where its mount came from: an empty directory.
            shutil.rmtree(self.directory)
        cgroup.remove(cgroup.find(self.name))

    def push(self, installed: Path) -> None:
        """Puts a newly built product on the running nodes."""
        with self.lock():
            archive = self.directory / "push.tar"
            run_quiet("packing the product", ["tar", "--create", f"--file={archive}", f"--directory={installed}", "."])
            for node in self.nodes():
                if node.pid() is None:
                    say(f"{self.name}: {node.name} is off and keeps what it has")
                    continue
                node.push(archive)
                failed = node.failed_units()
                say(f"{self.name}: {node.name} has the new build" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
            archive.unlink()

    @staticmethod
    def remove_abandoned() -> None:
        """Removes the labs of tests whose process is gone. Their names hold its number: tPID…, umlPID."""
        for name in Lab.all():
            match = re.match(r"(?:t|uml)(\d+)(?:x|_\d+)?$", name)
            if match and not Path("/proc", match[1]).exists():
                say(f"removing lab '{name}', which a test left behind")
                Lab(name).down()

    def status(self) -> str:
        """A table of the nodes."""
        rows = [("NODE", "ADDRESS", "PID", "LINK", "SYSTEM", "FAILED UNITS")]
        for node in self.nodes():
            pid = node.pid()
            if pid is None:
                rows.append((node.name, address(node.name), "-", "-", "off", ""))
                continue
            state = node.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            link = "up" if self.network.link_is_up(node.name) else "down"
            rows.append((node.name, address(node.name), str(pid), link, state,
                         ", ".join(node.failed_units())))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                         for row in rows)


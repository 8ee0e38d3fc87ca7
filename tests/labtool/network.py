# SPDX-License-Identifier: Apache-2.0
"""The network of a lab: a bridge in a network namespace of its own, and one namespace per node.

Nothing of it is visible on the host: the namespaces are held by bind mounts in the lab's own state directory, so all
labs use the same addresses and device names, and one umount takes everything away.
"""

from __future__ import annotations

from pathlib import Path

from . import mounts
from .command import run_quiet

PREFIX = "10.78.0"
BRIDGE = "bridge"


def address(node: str) -> str:
    """A node's address: master .10, client .11, agentN .20+N."""
    if node == "master":
        return f"{PREFIX}.10"
    if node == "client":
        return f"{PREFIX}.11"
    return f"{PREFIX}.{20 + int(node.removeprefix('agent'))}"


def _namespace_create(path: Path) -> None:
    path.touch()
    run_quiet("making a network namespace", ["unshare", f"--net={path}", "true"])


def _ip(namespace: Path, batch: list[str]) -> None:
    run_quiet("setting up the network", ["nsenter", f"--net={namespace}", "ip", "-batch", "-"],
              text="\n".join(batch) + "\n")


class Network:
    """The network of one lab, kept in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def namespace(self, node: str) -> Path:
        """The file that a node's network namespace is mounted on."""
        return self.directory / node

    @property
    def bridge(self) -> Path:
        """The file that the bridge's network namespace is mounted on."""
        return self.directory / BRIDGE

    def create(self) -> None:
        """Makes the bridge."""
        self.directory.mkdir(exist_ok=True)
        _namespace_create(self.bridge)
        _ip(self.bridge, [f"link add name {BRIDGE} type bridge", f"link set dev {BRIDGE} up", "link set lo up"])

    def address_add(self, addresses: list[str]) -> None:
        """Gives the bridge itself addresses (with the length of their prefix), in its own namespace."""
        _ip(self.bridge, [f"addr add {address} dev {BRIDGE}" for address in addresses])

    def attach(self, node: str) -> None:
        """Makes a node's namespace and plugs it into the bridge."""
        namespace = self.namespace(node)
        _namespace_create(namespace)
        _ip(self.bridge, [f"link add name {node} type veth peer name eth0 netns {namespace}",
                          f"link set dev {node} master {BRIDGE}", f"link set dev {node} up"])
        _ip(namespace, ["link set lo up", f"addr add {address(node)}/24 dev eth0", "link set eth0 up"])

    def detach(self, node: str) -> None:
        """Takes a node off the bridge, with its namespace."""
        namespace = self.namespace(node)
        if not namespace.exists():
            return
        result = run_quiet("listing links", ["nsenter", f"--net={self.bridge}", "ip", "-brief", "link"])
        if any(line.startswith((f"{node}@", f"{node} ")) for line in result.splitlines()):
            _ip(self.bridge, [f"link del dev {node}"])
        mounts.unmount_below(namespace)
        namespace.unlink()

    def link(self, node: str, up: bool) -> None:
        """Pulls a node's cable or plugs it in again: the bridge's end, so that the node sees its carrier go."""
        _ip(self.bridge, [f"link set dev {node} {'up' if up else 'down'}"])

    def link_is_up(self, node: str) -> bool:
        """Whether a node's cable is plugged in."""
        result = run_quiet("looking at a link", ["nsenter", f"--net={self.bridge}", "ip", "-brief", "link", "show",
                                                 "dev", node])
        return ",UP" in result or "<UP" in result

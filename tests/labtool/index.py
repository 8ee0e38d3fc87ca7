# SPDX-License-Identifier: Apache-2.0
"""A lab's way to the package index that pip on this machine uses.

Nodes have no route to anywhere. With `./lab up --index` the master's node, and only it, reaches the index's hosts: each
has an address on the lab's bridge, where a program of the host listens and passes the bytes on. Which hosts these are is
asked of pip and of the index, with the product's own means.
"""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from . import cgroup, content, network, paths
from .command import run_quiet, tail
from .console import LabError

GROUP = "index"
MASTER = "master"


@dataclass(frozen=True)
class Host:
    """One host of the index: the address that stands for it in the lab, its name and its port."""

    address: str
    name: str
    port: int


@dataclass(frozen=True)
class PublicIndex:
    """What pip on this machine says: URL, file of certificate authorities, folders of wheels, and the hosts."""

    url: str
    authorities: str | None
    folders: list[str]
    hosts: list[Host]


def ask() -> PublicIndex:
    """Asks pip, and the index for where its files lie. Raises LabError."""
    text = run_quiet("asking pip for its index", ["/usr/bin/python3", "-I", str(paths.SOURCE / "index/config.py"),
                                                  "--ask"])
    answer = json.loads(text)
    seen: dict[str, int] = {}
    for url in [answer["index"], *answer["files"]]:
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and seen.setdefault(parts.hostname, parts.port or 443) != (parts.port or 443):
            raise LabError(f"the index uses two ports of {parts.hostname}")
    hosts = [Host(f"{network.PREFIX}.{number}", name, port) for number, (name, port) in enumerate(seen.items(), 1)]
    if len(hosts) > 9:
        raise LabError(f"the index's files lie on {len(hosts)} hosts; there is room for 9")
    return PublicIndex(answer["index"], answer["authorities"], list(answer["folders"]), hosts)


def write(upper: content.Upper, index: PublicIndex) -> None:
    """Tells the master's node: the hosts' addresses, and what pip uses, which may be this user's own configuration."""
    hosts = upper.path("/etc/hosts")
    hosts.write_text(hosts.read_text() + "".join(f"{host.address} {host.name}\n" for host in index.hosts))
    authorities = f"cert = {index.authorities}\n" if index.authorities else ""
    upper.write("/etc/pip.conf", f"[global]\nindex-url = {index.url}\n{authorities}", 0o600)


def start(lab: str, directory: Path, net: network.Network, index: PublicIndex) -> None:
    """Starts the program that passes the bytes on. It is in a group of the lab and ends with it."""
    net.address_add([f"{host.address}/24" for host in index.hosts])
    groups = cgroup.create(lab, GROUP)
    arguments = [str(net.bridge), network.address(MASTER),
                 *(f"{host.address}={host.name}={host.port}" for host in index.hosts)]
    command = ["/usr/bin/python3", "-I", str(paths.TOOL / "forward.py"), *arguments]
    if cgroup.uses_scope():
        command = ["systemd-run", "--quiet", "--scope", "--collect", f"--unit={cgroup.group_name(lab, GROUP)}.scope",
                   *command]
    log = directory / "index.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, cwd="/",
                                   start_new_session=True, preexec_fn=lambda: cgroup.enter(groups, "supervisor"))
    assert process.stdout is not None
    ready = process.stdout.readline()
    process.stdout.close()
    if ready != b"ready\n":
        raise LabError(f"the way to the index cannot be made:\n{tail(log)}")
    # It outlives this process, which has nothing to wait for.
    process.returncode = 0

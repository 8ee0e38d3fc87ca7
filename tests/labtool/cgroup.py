# SPDX-License-Identifier: Apache-2.0
"""The cgroups of a node, on both layouts.

A node has one group `lab-LAB-NODE` per hierarchy, with three children:

    supervisor  the process outside that holds the node's namespaces
    node        what the node sees as its root
    exec        (below node) what `./lab exec` starts

On a host whose PID 1 is systemd and whose cgroups are unified, systemd is asked for a delegated scope, which is then
the node's group. Everywhere else the groups are made by hand. Because every process of a lab is in one of these
groups from its first moment, they are also how `down` finds what to end: no PID file can be stale.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .console import LabError

ROOT = Path("/sys/fs/cgroup")


def unified() -> bool:
    """Whether the host has only the unified hierarchy (version 2)."""
    return (ROOT / "cgroup.controllers").exists()


def systemd_is_host() -> bool:
    """Whether the host's PID 1 is systemd (the rule of sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def uses_scope() -> bool:
    """Whether the node's group must be asked of systemd rather than made by hand."""
    return unified() and systemd_is_host()


def hierarchies() -> list[Path]:
    """The mount points of all cgroup hierarchies."""
    if unified():
        return [ROOT]
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        if kind in ("cgroup", "cgroup2") and Path(where).parent == ROOT:
            found.append(Path(where))
    if not found:
        raise LabError("no cgroup hierarchy is mounted below /sys/fs/cgroup",
                       next_step="mount one: mount -t cgroup2 none /sys/fs/cgroup")
    return found


def group_name(lab: str, node: str) -> str:
    """The name of a node's group. Lab names hold no '-', so no lab's prefix is another's."""
    return f"lab-{lab}-{node}"


def create(lab: str, node: str) -> list[Path]:
    """Makes a node's groups by hand and returns them. With uses_scope() it makes none: the supervisor does."""
    if uses_scope():
        return []
    groups = []
    for hierarchy in hierarchies():
        group = hierarchy / group_name(lab, node)
        if hierarchy.name == "cpuset":
            _cpuset_create(hierarchy, group)
        for child in (group / "supervisor", group / "node"):
            child.mkdir(parents=True, exist_ok=True)
            if hierarchy.name == "cpuset":
                _cpuset_create(group, child)
        if unified():
            _delegate(hierarchy)
            _delegate(group)
        groups.append(group)
    return groups


def _cpuset_create(parent: Path, group: Path) -> None:
    """A version 1 cpuset takes no process before its CPUs and memory nodes are set."""
    group.mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):
        (group / name).write_text((parent / name).read_text())


def _delegate(group: Path) -> None:
    for controller in (group / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")


def find(lab: str, node: str | None = None) -> list[Path]:
    """The groups that exist of one node, or of all nodes of a lab, in all hierarchies."""
    prefix = group_name(lab, node) if node is not None else f"lab-{lab}-*"
    found = []
    for hierarchy in hierarchies():
        for pattern in (prefix, f"*.slice/{prefix}.scope"):
            found += [group for group in hierarchy.glob(pattern) if group.is_dir()]
    return found


def labs() -> set[str]:
    """The names of all labs that have a group."""
    return {group.name.split("-")[1] for group in find("*")}


def processes(group: Path) -> set[int]:
    """The processes in a group and in all groups below it."""
    found: set[int] = set()
    for directory in _walk(group):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in (directory / "cgroup.procs").read_text().split())
    found.discard(0)
    return found


def _walk(group: Path) -> Iterator[Path]:
    """All groups of a tree, children before their parents."""
    for directory, _, _ in os.walk(group, topdown=False):
        yield Path(directory)


def enter(groups: Iterable[Path], child: str) -> None:
    """Moves the calling process into the child of each of the groups, which is made if it does not exist."""
    for group in groups:
        where = group / child
        with contextlib.suppress(FileExistsError):
            where.mkdir()
            if "cpuset" in group.parts:
                _cpuset_create(where.parent, where)
        (where / "cgroup.procs").write_text("0")


def kill(groups: list[Path], timeout: float = 30.0) -> None:
    """Ends every process in the groups, frozen ones too, and waits until none is left. Raises LabError when some
    are still there after timeout seconds."""
    deadline = time.monotonic() + timeout
    while True:
        _thaw(groups)
        pids = {pid for group in groups for pid in processes(group)}
        pids.discard(os.getpid())
        if not pids:
            return
        if time.monotonic() > deadline:
            raise LabError(f"processes {sorted(pids)} do not end", next_step="look at /proc/PID/stack of these")
        _kill_and_wait(pids, min(1.0, timeout))


def _kill_and_wait(pids: set[int], timeout: float) -> None:
    poll = select.poll()
    descriptors = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            descriptors.append(descriptor)
            poll.register(descriptor, select.POLLIN)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    deadline = time.monotonic() + timeout
    waiting = len(descriptors)
    while waiting > 0 and (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left * 1000):
            poll.unregister(descriptor)
            waiting -= 1
    for descriptor in descriptors:
        os.close(descriptor)


def _thaw(groups: list[Path]) -> None:
    """On version 1 a frozen process does not even die."""
    for group in groups:
        for directory in _walk(group):
            for name, thawed in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                with contextlib.suppress(OSError):
                    if (directory / name).read_text().strip() != thawed:
                        (directory / name).write_text(thawed)


def remove(groups: list[Path], timeout: float = 10.0) -> None:
    """Ends what runs in the groups and removes them. A group stays busy for a moment after its last process."""
    kill(groups)
    scopes = [group.name for group in groups if group.suffix == ".scope"]
    if scopes:
        # What systemd made it also removes, and its name is free again only then.
        subprocess.run(["systemctl", "stop", *scopes], capture_output=True, check=False)
    deadline = time.monotonic() + timeout
    for group in groups:
        while group.exists():
            for directory in _walk(group):
                with contextlib.suppress(OSError):
                    directory.rmdir()
            if group.exists() and time.monotonic() > deadline:
                raise LabError(f"cgroup {group} cannot be removed: {sorted(processes(group))} are in it")
            if group.exists():
                kill([group])
                time.sleep(0.01)

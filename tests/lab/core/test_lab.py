# SPDX-License-Identifier: Apache-2.0
"""The lab keeps its own promises: real nodes, side by side, wholly removed whatever happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labtool import cgroup, network, paths
from labtool.lab import Lab

AGENTS = 2


def tool(*arguments: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs ./lab."""
    return subprocess.run([str(paths.SOURCE / "lab"), *arguments], input=text, capture_output=True, text=True,
                          check=check, timeout=120)


def traces(name: str) -> list[str]:
    """Everything on the host that belongs to a lab of this name: state, mounts, cgroups, processes, namespaces."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}/" in line
             or f"clupy-lab-{name} " in line]
    found += [str(group) for group in cgroup.find(name)]
    if (paths.STATE / name).exists():
        found.append(str(paths.STATE / name))
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            groups = (process / "cgroup").read_text()
        except OSError:
            continue
        if not command:  # without memory: it has ended, and waits for the host's PID 1
            continue
        if f"/lab-{name}-" in groups or (f"{paths.STATE}/{name}/" in command):
            found.append(f"process {process.name}: {command}")
    return found


def network_namespaces() -> int:
    """How many network namespaces live processes and mounts of this host hold."""
    return sum("net:[" in line for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture
def other_name() -> Iterator[str]:
    """A name for a second lab, which is removed at the end."""
    name = f"t{os.getpid()}x"
    yield name
    Lab(name).down()


def test_every_node_is_a_systemd_of_its_own(lab: Lab) -> None:
    assert lab.node_names() == ["master", "agent1", "agent2", "client"]
    seen = set()
    for node in lab.nodes():
        facts = node.run(["sh", "-c", "cat /proc/1/comm /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; "
                                      "ip -4 -brief addr show eth0; findmnt -no FSTYPE /"]).stdout.split()
        assert facts[0] == "systemd"
        assert facts[3] == node.name
        assert network.address(node.name) in facts[6]
        assert facts[7] == "overlay"
        seen.update(facts[1:3])
    assert len(seen) == 2 * len(lab.nodes()), "boot ids and machine ids must all differ"


def test_exec_passes_streams_and_exit_code(lab: Lab) -> None:
    result = tool("exec", "--name", lab.name, "client", "--user", "user", "--", "sh", "-c",
                  'cat; echo "$HOME $(id -u) $(pwd)" >&2; exit 42', text="from stdin\n", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (42, "from stdin\n", "/home/user 1000 /home/user\n")
    big = "x" * 5_000_000
    assert tool("exec", "--name", lab.name, "agent1", "--", "cat", text=big).stdout == big
    assert tool("exec", "--name", lab.name, "nowhere", "--", "true", check=False).returncode == 1
    killed = tool("exec", "--name", lab.name, "agent1", "--", "sh", "-c", "kill -TERM $$", check=False)
    assert killed.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_python_is_complete_for_every_user(lab: Lab) -> None:
    for node in lab.nodes():
        for user in ("root", "user", "nobody"):
            result = node.python("import cloudpickle, numpy, yaml, sys; print(sys.version_info[:2], sys.argv[1:])",
                                 user, "an argument")
            assert result.stdout.startswith("(3, ") and "['an argument']" in result.stdout


def test_source_and_shared_directory(lab: Lab) -> None:
    client = lab.node("client")
    assert client.run(["cat", "/src/LICENSE"]).stdout == (paths.SOURCE / "LICENSE").read_text()
    assert client.run(["touch", "/src/x"], check=False).returncode != 0
    client.run(["sh", "-c", "echo hello > /lab/greeting"], "user")
    assert lab.node("agent1").run(["cat", "/lab/greeting"]).stdout == "hello\n"
    assert (lab.shared / "greeting").read_text() == "hello\n"


def test_a_scope_has_its_limits(lab: Lab) -> None:
    unit = "lab-limits.scope"
    node = lab.node("agent1")
    with node.popen(["systemd-run", "--quiet", "--scope", f"--unit={unit}", "--property=MemoryMax=64M",
                     "--property=CPUQuota=10%", "sh", "-c", "echo ready; read -r line"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        shown = node.run(["systemctl", "show", "--property=MemoryMax,CPUQuotaPerSecUSec,ControlGroup", unit]).stdout
        assert "MemoryMax=67108864" in shown and "CPUQuotaPerSecUSec=100ms" in shown
        process.communicate("go\n")


def test_crash_and_start(lab: Lab) -> None:
    node = lab.node("agent2")
    node.run(["sh", "-c", "echo kept > /var/lib/kept; echo gone > /run/gone"])
    facts = ["cat", "/proc/sys/kernel/random/boot_id", "/etc/machine-id"]
    scripts = {path: path.stat().st_mtime_ns for path in lab.directory.glob("*.sh")}
    before = node.run(facts).stdout.split()
    lab.crash("agent2")
    assert node.pid() is None and not node.groups()
    assert "off" in lab.status()
    lab.start("agent2")
    after = node.run(facts).stdout.split()
    assert before[0] != after[0] and before[1] == after[1]
    assert node.run(["cat", "/var/lib/kept"]).stdout == "kept\n"
    assert node.run(["cat", "/run/gone"], check=False).returncode != 0
    # Other nodes' shells may be reading them: one that finds its script cut short ends, and says nothing.
    assert scripts and {path: path.stat().st_mtime_ns for path in scripts} == scripts


REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=1)
except ConnectionRefusedError:
    print("reached")
except OSError:
    print("unreachable")
"""


def test_partition_and_heal(lab: Lab, wait_until: Callable[..., None]) -> None:
    client = lab.node("client")

    def reaches(name: str) -> bool:
        return client.python(REACH, "user", name).stdout == "reached\n"

    assert reaches("agent1")
    lab.partition("agent1")
    assert not reaches("agent1") and reaches("agent2")
    assert lab.node("agent1").run(["cat", "/proc/1/comm"]).stdout == "systemd\n"
    lab.heal("agent1")
    wait_until(lambda: reaches("agent1"), 20, "agent1 answers again")


def test_two_labs_side_by_side(lab: Lab, other_name: str) -> None:
    other = Lab(other_name)
    tool("up", "--name", other_name, "--agents", "1", "--no-build")
    assert {lab.name, other_name} <= set(Lab.all())
    (other.shared / "here").touch()
    assert lab.node("client").run(["ls", "/lab/here"], check=False).returncode != 0
    assert tool("up", "--name", other_name, "--no-build", check=False).returncode == 1, "the name is taken"
    other.crash("master")
    assert lab.node("master").run(["true"]).returncode == 0
    tool("down", "--name", other_name)
    assert traces(other_name) == []
    assert lab.node("client").run(["cat", "/proc/1/comm"]).stdout == "systemd\n"


def test_down_after_kill_at_any_moment(lab: Lab, other_name: str) -> None:
    """kill -9 of `./lab up` early, late and in between: `down` removes what there is, each time wholly."""
    namespaces = network_namespaces()
    chance = random.Random(7)
    for delay in [0.02, 0.1, 0.2, 0.3, 0.5, 1.0, *(chance.uniform(0.05, 1.5) for _ in range(6))]:
        with subprocess.Popen([str(paths.SOURCE / "lab"), "up", "--name", other_name, "--agents", "2", "--no-build"],
                              stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.kill()
        tool("down", "--name", other_name)
        assert traces(other_name) == [], f"after {delay} s"
    assert network_namespaces() == namespaces
    assert lab.node("client").run(["true"]).returncode == 0


def test_interrupted_up_removes_itself(other_name: str) -> None:
    with subprocess.Popen([str(paths.SOURCE / "lab"), "up", "--name", other_name, "--agents", "2", "--no-build"],
                          stderr=subprocess.PIPE, text=True) as process:
        try:
            process.wait(0.6)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    if process.returncode != 0:
        assert process.returncode == 130, errors
        assert traces(other_name) == []


def test_down_ends_what_is_frozen_or_exec_ed(other_name: str) -> None:
    tool("up", "--name", other_name, "--agents", "0", "--no-build")
    master = Lab(other_name).node("master")
    sleeper = master.popen(["sleep", "1000"])
    freezer = "/sys/fs/cgroup/freezer"
    if Path(freezer).exists():
        master.run(["sh", "-c", f"mkdir {freezer}/deep && (echo 0 > {freezer}/deep/cgroup.procs; exec sleep 1000) "
                                f"> /dev/null 2>&1 & while ! grep -q . {freezer}/deep/cgroup.procs; do :; done; "
                                f"echo FROZEN > {freezer}/deep/freezer.state"])
    tool("down", "--name", other_name)
    assert sleeper.wait(30) != 0
    assert traces(other_name) == []
    assert tool("down", "--name", other_name).returncode == 0, "nothing to remove is no error"

# SPDX-License-Identifier: Apache-2.0
"""Keys and join tokens are where they belong and nowhere else: no argument, environment, journal, D-Bus, core file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from witnesses import main_pid, nodes

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 1
PKI = "/etc/clupy/pki"

Wait = Callable[..., None]

DAEMONS = {"master": ("clupy-masterd", "clupy-signer"), "agent1": ("clupy-agent",)}
KEYS = {"master": (f"{PKI}/ca.key", f"{PKI}/master.key", "/root/.config/clupy/user.key", "/home/user/.config/clupy/user.key"),
        "agent1": (f"{PKI}/agent.key",)}


def pieces(node: Node, file: str) -> set[str]:
    """What a key would be known by, were it printed: the lines of its file, and the number itself in hexadecimal
    digits, in whatever form."""
    lines = {line for line in node.run(["cat", file]).stdout.splitlines() if line and "-----" not in line}
    text = node.run(["openssl", "pkey", "-in", file, "-noout", "-text"]).stdout
    number = "".join(text.partition("priv:")[2].partition("pub:")[0].split())
    assert len(lines) >= 3 and len(number) > 80
    plain = number.replace(":", "")
    return {line[:40] for line in lines} | {number[:47], plain[2:42], plain[2:42].upper()}


def everything_told(node: Node) -> dict[str, str]:
    """All that a machine shows of its processes and of what they say."""
    told = {what: node.run(["sh", "-c", f"cat /proc/[0-9]*/{what} 2>/dev/null | tr '\\0' '\\n'"]).stdout
            for what in ("cmdline", "environ", "comm")}
    told["journal"] = node.run(["journalctl", "--output=export", "--no-pager"]).stdout
    told["units"] = node.run(["systemctl", "show", "--all", "clupy-*"]).stdout
    for name, path in (("org.clupy.Master1", "/org/clupy/Master1"), ("org.clupy.Agent1", "/org/clupy/Agent1")):
        told[name] = node.run(["busctl", "introspect", "--full", name, path], check=False).stdout
    for verb in ("status", "version", "nodes", "tasks"):
        told[verb] = node.run(["clupyctl", "--json", verb], check=False).stdout
    return told


@pytest.fixture(scope="module", autouse=True)
def talkative(lab: Lab, wait_until: Wait) -> None:
    """The daemons say all that they ever say."""
    for name, units in DAEMONS.items():
        node = lab.node(name)
        node.run(["systemctl", "set-environment", "CLUPY_LOG_LEVEL=debug"])
        node.run(["systemctl", "stop", *units])
        node.run(["systemctl", "start", units[0]])
    wait_until(lambda: nodes(lab) == {"agent1": "ready"}, 20, "the node is ready")
    program = "import clupy\nprint(clupy.parallel(abs, cpus=0.1, memory='64M')(-7).result(30))"
    assert lab.node("client").python(program).stdout.strip() == "7"


def test_keys(lab: Lab) -> None:
    secrets: dict[str, set[str]] = {}
    for name, files in KEYS.items():
        for file in files:
            secrets[f"{name}:{file}"] = pieces(lab.node(name), file)
            assert lab.node(name).run(["stat", "--format=%a", file]).stdout.strip() == "600"
    for node in lab.nodes():
        told = everything_told(node)
        if node.name in DAEMONS:
            assert "PRIORITY=7" in told["journal"] and DAEMONS[node.name][0] in told["cmdline"] and told["units"]
            assert "CREDENTIALS_DIRECTORY=" in told["environ"]
            assert " property " in told["org.clupy.Master1"] + told["org.clupy.Agent1"]
        for file, parts in secrets.items():
            for where, text in told.items():
                assert not [part for part in parts if part in text], f"{file} in the {where} of {node.name}"


def test_token(lab: Lab, wait_until: Wait) -> None:
    """While a node joins with it, and afterwards."""
    master, agent = lab.node("master"), lab.node("agent1")
    token = master.run(["clupyctl", "token", "new", "--node", "agent1"]).stdout.strip().splitlines()[-1]
    secret = token.split("-")[3]
    assert len(secret) == 32
    with agent.popen(["clupy-agent", "--join", "master"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                     stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(token)  # without the end of the line: it waits for that
        process.stdin.flush()
        wait_until(lambda: "clupy-agent\n--join\nmaster" in everything_told(agent)["cmdline"], 5, "its start")
        for where, text in everything_told(agent).items():
            assert secret not in text, where
        said, errors = process.communicate("\n", timeout=30)
        assert process.returncode == 0, said + errors
    assert secret not in said + errors
    for node in lab.nodes():
        for where, text in everything_told(node).items():
            assert secret not in text, f"{where} of {node.name}"
        found = node.run(["sh", "-c", "grep -rlF -D skip -f - /etc/clupy /var/lib/clupy-*"], check=False, input=secret)
        assert found.stdout == "", f"{found.stdout} of {node.name}"


@pytest.mark.parametrize(("name", "unit"), [(name, unit) for name, units in DAEMONS.items() for unit in units])
def test_memory(lab: Lab, name: str, unit: str) -> None:
    """Neither files with it, nor anybody who looks into it."""
    node = lab.node(name)
    if unit == "clupy-signer":
        node.run(["clupyctl", "token", "new"])
        # Whoever comes to join has it started.
        lab.node("agent1").run(["clupy-agent", "--join", "master"], check=False,
                               input=node.run(["clupyctl", "token", "new", "--node", "nobody"]).stdout)
    pid = main_pid(node, unit)
    assert pid != "0"
    assert node.run(["systemctl", "show", "--value", "--property=LimitCORE", unit]).stdout.strip() == "0"
    limits = node.run(["cat", f"/proc/{pid}/limits"]).stdout
    core = next(line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core[4:6] == ["0", "0"], core
    # What cannot be dumped belongs to root, and not to whose process it is.
    owner = node.run(["stat", "--format=%U", f"/proc/{pid}/environ"]).stdout.strip()
    assert owner == "root"
    user = node.run(["ps", "-o", "user=", "-p", pid]).stdout.strip()
    assert user != "root", "it runs as itself"
    for what in ("environ", "mem", "maps"):
        assert node.run(["dd", f"if=/proc/{pid}/{what}", "count=1", "of=/dev/null"], user, check=False).returncode != 0
    assert node.run(["sh", "-c", f"cat /run/credentials/{unit}.service/*"], "user", check=False).returncode != 0


def test_a_crash_leaves_no_core(lab: Lab, wait_until: Wait) -> None:
    for name, unit in (("agent1", "clupy-agent"), ("master", "clupy-masterd")):
        node = lab.node(name)
        pid = main_pid(node, unit)
        node.run(["kill", "-SEGV", pid])
        wait_until(lambda node=node, unit=unit, pid=pid: main_pid(node, unit) not in ("0", pid), 20, "its restart")
        told = node.run(["journalctl", f"--unit={unit}", "--output=cat"]).stdout
        assert "code=killed, status=11/SEGV" in told and "code=dumped" not in told
        assert node.run(["sh", "-c", "ls /core* /var/lib/systemd/coredump/* /var/lib/clupy-*/core* 2>/dev/null"],
                        check=False).stdout == ""
    wait_until(lambda: nodes(lab) == {"agent1": "ready"}, 20, "the node is ready")

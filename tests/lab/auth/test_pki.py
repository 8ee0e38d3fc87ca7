# SPDX-License-Identifier: Apache-2.0
"""The cluster's certificates: from nothing to a running cluster, joining with tokens, renewing, revoking."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from labtool import paths

if TYPE_CHECKING:
    from labtool.lab import Lab
    from labtool.node import Node

AGENTS = 2
PKI = "/etc/clupy/pki"
JOINED = "This machine is node"

Wait = Callable[..., None]


def ctl(node: Node, *arguments: str, status: int = 0, user: str = "root") -> Any:
    """What `clupyctl --json` prints on a node."""
    done = node.run(["clupyctl", "--json", *arguments], user, check=False)
    assert done.returncode == status, f"clupyctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def token_new(lab: Lab, *arguments: str) -> str:
    token = ctl(lab.node("master"), "token", "new", *arguments)["token"]
    assert isinstance(token, str)
    return token


def token_state(lab: Lab, token: str) -> str:
    listing = ctl(lab.node("master"), "token", "list")["tokens"]
    return next((str(entry["state"]) for entry in listing if entry["id"] == token.split("-")[2]), "unknown")


def join(node: Node, token: str, master: str = "master") -> subprocess.CompletedProcess[str]:
    """Joins without touching the agent that runs."""
    return node.run(["clupy-agent", "--join", master], check=False, input=token + "\n")


def serials(lab: Lab, name: str) -> set[str]:
    """Of the certificates of a node or user that are valid."""
    return {entry["serial"] for entry in ctl(lab.node("master"), "pki", "list")["certificates"]
            if entry.get("name") == name and entry["state"] == "valid"}


def node_state(lab: Lab, name: str) -> str:
    # Over D-Bus: root has no certificate once a machine has been bared.
    done = lab.node("master").run(["clupyctl", "--json", "nodes"], check=False, environment=("CLUPY_MASTER_URL=",))
    if done.returncode != 0:
        return "no master"
    return next((str(node["state"]) for node in json.loads(done.stdout)["nodes"] if node["name"] == name), "unknown")


def journal(node: Node, *arguments: str) -> str:
    return node.run(["journalctl", "--no-pager", "--output=cat", *arguments]).stdout


def bare(node: Node) -> None:
    """A machine on which CluPy is installed, and nothing else has been done."""
    units = ["clupy-masterd.service", "clupy-masterd.socket", "clupy-signer.socket", "clupy-signer.service",
             "clupy-agent.service"]
    node.run(["systemctl", "disable", "--now", *units], check=False)
    node.run(["sh", "-c", f"rm -rf {PKI} /etc/clupy/*.yaml /var/lib/clupy-master/* /var/lib/clupy-agent/* "
              "/var/lib/clupy-signer/* /root/.config/clupy /home/user/.config/clupy"])


def test_three_commands_of_the_readme(lab: Lab, wait_until: Wait) -> None:
    section = (paths.SOURCE / "README.md").read_text().split("## A cluster of your own")[1]
    commands = re.findall(r"^    root@(\w+)# (.*)$", section, re.MULTILINE)[:3]
    assert [machine for machine, _ in commands] == ["master", "master", "node"]
    master = lab.node("master")
    for name in ("master", "agent1", "agent2"):
        bare(lab.node(name))
    master.run(["sh", "-c", commands[0][1]])
    for name in ("agent1", "agent2"):
        token = master.run(["sh", "-c", commands[1][1]]).stdout
        said = lab.node(name).run(["sh", "-c", commands[2][1]], input=token).stdout
        assert f"{JOINED} {name} " in said
        assert "systemctl enable clupy-agent" in said
    for name in ("agent1", "agent2"):
        wait_until(lambda name=name: node_state(lab, name) == "ready", 20, f"{name} is ready")
    # A user of the master's machine, without a certificate.
    program = "import clupy\nprint(clupy.parallel(abs)(-7).result(30))"
    done = master.run(["env", "-u", "CLUPY_MASTER_URL", "python3", "-c", program], "user")
    assert done.stdout.strip() == "7"
    # And one of another.
    ctl(master, "pki", "issue", "user", "user")
    folder = "/home/user/.config/clupy"
    for file in ("ca.crt", "user.crt", "user.key"):
        lab.node("client").write(f"{folder}/{file}", master.run(["cat", f"{PKI}/made/user-user/{file}"]).stdout)
    lab.node("client").run(["sh", "-c", f"chown -R user: /home/user/.config && chmod 600 {folder}/user.key"])
    assert lab.node("client").run(["python3", "-c", program], "user").stdout.strip() == "7"


def test_keys_are_roots(lab: Lab) -> None:
    for name, keys in {"master": ["ca.key", "master.key"], "agent1": ["agent.key"]}.items():
        node = lab.node(name)
        for key in keys:
            assert node.run(["stat", "-c", "%a %U", f"{PKI}/{key}"]).stdout.split() == ["600", "root"]
            body = node.run(["cat", f"{PKI}/{key}"]).stdout.splitlines()[1]
            assert body not in journal(node)
        unit = "clupy-masterd" if name == "master" else "clupy-agent"
        pid = node.run(["systemctl", "show", "--value", "--property=MainPID", unit]).stdout.strip()
        environment = node.run(["cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline"]).stdout
        assert "PRIVATE KEY" not in environment
        assert "CREDENTIALS_DIRECTORY=" in environment
    for user in ("clupy-master", "clupy-signer", "user"):
        assert lab.node("master").run(["cat", f"{PKI}/ca.key"], user, check=False).returncode != 0


def test_token_is_good_once(lab: Lab) -> None:
    # The node is in the cluster already: only a token that names it lets it in again.
    any_node = token_new(lab)
    done = join(lab.node("agent1"), any_node)
    assert done.returncode == 77
    assert "There is a node of this name already" in done.stderr
    assert token_state(lab, any_node) == "good"
    token = token_new(lab, "--node", "agent1")
    assert token_state(lab, token) == "good"
    assert join(lab.node("agent1"), token).returncode == 0
    assert token_state(lab, token) == "used"
    before = lab.node("agent2").run(["cat", f"{PKI}/agent.crt"]).stdout
    done = join(lab.node("agent2"), token)
    assert done.returncode == 77
    assert "has been used already" in done.stderr
    assert lab.node("agent2").run(["cat", f"{PKI}/agent.crt"]).stdout == before
    told = journal(lab.node("master"), "-u", "clupy-masterd", "-p", "warning")
    assert re.search(r"Refused node agent2 at 10\.\S+: The token has been used already", told)
    secret = token.split("-")[3]
    for name in ("master", "agent1", "agent2"):
        assert secret not in journal(lab.node(name))


def test_other_tokens_are_refused_by_name(lab: Lab) -> None:
    node = lab.node("agent1")
    before = serials(lab, "agent1")
    bound = token_new(lab, "--node", "agent2")
    done = join(node, bound)
    assert done.returncode == 77
    assert "for a node of another name" in done.stderr
    assert token_state(lab, bound) == "good"

    short = token_new(lab, "--node", "agent1", "--valid", "1s")
    time.sleep(1.1)  # until it has expired: nothing tells
    done = join(node, short)
    assert done.returncode == 77
    assert "has expired" in done.stderr

    revoked = token_new(lab)
    ctl(lab.node("master"), "token", "revoke", revoked.split("-")[2])
    done = join(node, revoked)
    assert done.returncode == 77
    assert "has been revoked" in done.stderr

    parts = token_new(lab).split("-")
    guessed = "-".join([*parts[:3], "0" * 32, parts[4]])
    done = join(node, guessed)
    assert done.returncode == 77
    assert "does not know this token" in done.stderr
    assert token_state(lab, "-".join(parts)) == "good"

    assert join(node, "clupy-join-nonsense").returncode == 65
    assert serials(lab, "agent1") == before


def test_token_of_another_cluster(lab: Lab) -> None:
    """The node does not even tell its secret to a master of a cluster that the token is not of."""
    token = token_new(lab)
    strange = token[:-64] + "0123456789abcdef" * 4
    done = join(lab.node("agent1"), strange)
    assert done.returncode == 78
    assert "of another cluster" in done.stderr
    lab.node("agent1").run(["mv", PKI, "/root/pki"])
    try:
        done = join(lab.node("agent1"), strange)
        assert done.returncode == 69, done.stderr
        assert lab.node("agent1").run(["ls", PKI]).stdout == ""
    finally:
        lab.node("agent1").run(["sh", "-c", f"rm -rf {PKI}; mv /root/pki {PKI}"])
    assert token_state(lab, token) == "good"


def test_master_under_another_name(lab: Lab) -> None:
    token = token_new(lab)
    node = lab.node("agent1")
    node.run(["sh", "-c", "grep -q elsewhere /etc/hosts || sed -n 's/ master$/ elsewhere/p' /etc/hosts >> /etc/hosts"])
    done = join(node, token, "elsewhere")
    assert done.returncode == 69
    assert "elsewhere" in done.stderr
    assert token_state(lab, token) == "good"


def test_two_nodes_with_one_token(lab: Lab) -> None:
    for number in range(5):
        token = token_new(lab)
        # Two that are new here.
        processes = [lab.node(name).popen(["unshare", "--uts", "sh", "-c",
                                           f"hostname {name}-{number} && exec clupy-agent --join master"],
                                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                     for name in ("agent1", "agent2")]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(token + "\n")
            process.stdin.flush()
        said = [process.communicate(timeout=30) for process in processes]
        assert sorted(process.returncode for process in processes) == [0, 77], said
    for name in ("agent1", "agent2"):
        assert join(lab.node(name), token_new(lab, "--node", name)).returncode == 0


def test_signer_killed_while_it_is_asked(lab: Lab, wait_until: Wait) -> None:
    """However it dies: at most one certificate for one token, and the next signer goes on."""
    master, node = lab.node("master"), lab.node("agent1")
    for _ in range(3):
        join(node, token_new(lab, "--node", "nobody"))  # the signer runs
        pid = master.run(["systemctl", "show", "--value", "--property=MainPID", "clupy-signer"]).stdout.strip()
        assert pid != "0"
        token, before = token_new(lab, "--node", "agent1"), serials(lab, "agent1")
        with node.popen(["clupy-agent", "--join", "master"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE) as process:
            master.run(["sh", "-c", f"kill -STOP {pid}"])
            assert process.stdin is not None
            process.stdin.write(token + "\n")
            process.stdin.flush()
            wait_until(lambda: "signer.sock" in master.run(["ss", "-xa"]).stdout, 5, "the master asks")
            master.run(["sh", "-c", f"kill -KILL {pid}"])
            process.communicate(timeout=30)
            joined = process.returncode == 0
        again = join(node, token)
        assert again.returncode == (77 if joined else again.returncode)
        assert joined or again.returncode == 0 or "used already" in again.stderr
        assert len(serials(lab, "agent1") - before) <= 1


def test_renewal_needs_no_restart(lab: Lab, wait_until: Wait) -> None:
    assert join(lab.node("agent1"), token_new(lab, "--node", "agent1")).returncode == 0
    lab.node("agent1").run(["systemctl", "restart", "clupy-agent"])
    wait_until(lambda: node_state(lab, "agent1") == "ready", 20, "agent1 is ready")
    node, master = lab.node("agent1"), lab.node("master")
    show = ["systemctl", "show", "--value", "--property=MainPID,NRestarts"]
    agent, daemon = node.run([*show, "clupy-agent"]).stdout, master.run([*show, "clupy-masterd"]).stdout
    before = node.run(["cat", f"{PKI}/agent.crt", f"{PKI}/agent.key"]).stdout
    [renewed] = ctl(node, "pki", "renew")["renewed"]
    assert renewed["name"] == "agent1"
    assert renewed["serial"] in serials(lab, "agent1")
    after = node.run(["cat", f"{PKI}/agent.crt", f"{PKI}/agent.key"]).stdout
    assert after != before
    assert after.splitlines()[-2] == before.splitlines()[-2], "the key stays"
    ctl(master, "pki", "renew")
    for machine in (node, master):
        wait_until(lambda machine=machine: "read anew" in journal(machine, "-b"), 5, "the new file is read")
    assert node.run([*show, "clupy-agent"]).stdout == agent
    assert master.run([*show, "clupy-masterd"]).stdout == daemon
    assert node_state(lab, "agent1") == "ready"
    # Users do it too, for themselves.
    [mine] = ctl(lab.node("client"), "pki", "renew", user="user")["renewed"]
    assert (mine["role"], mine["name"]) == ("user", "user")


def test_revocation_closes_what_is_open(lab: Lab, wait_until: Wait) -> None:
    wait_until(lambda: node_state(lab, "agent1") == "ready", 20, "agent1 is ready")
    master, node = lab.node("master"), lab.node("agent1")
    began = time.monotonic()
    revoked = ctl(master, "pki", "revoke", "agent1", "--reason", "key-compromise")["revoked"]
    assert {entry["state"] for entry in revoked} == {"revoked"}
    wait_until(lambda: node_state(lab, "agent1") != "ready", 5, "the connection is closed")
    assert time.monotonic() - began < 5
    assert ctl(master, "pki", "revoke", "agent1", status=3)["error"] == "revoked"
    assert ctl(node, "pki", "renew", status=4)["error"] == "no-master"
    # With a new key, by a new token, it is back.
    assert join(node, token_new(lab, "--node", "agent1")).returncode == 0
    node.run(["systemctl", "restart", "clupy-agent"])
    wait_until(lambda: node_state(lab, "agent1") == "ready", 20, "agent1 is back")


def test_nothing_is_overwritten_or_half_written(lab: Lab) -> None:
    master = lab.node("master")
    before = master.run(["sh", "-c", f"sha256sum {PKI}/*"], check=False).stdout
    assert ctl(master, "pki", "init", status=1)["error"] == "exists"
    assert master.run(["sh", "-c", f"sha256sum {PKI}/*"], check=False).stdout == before
    master.run(["sh", "-c", "mkdir -p /mnt/full && mount -t tmpfs -o size=16k,nr_inodes=16 tmpfs /mnt/full "
                            "&& dd if=/dev/zero of=/mnt/full/ballast bs=4k count=2 2>/dev/null"])
    try:
        assert ctl(master, "pki", "init", "--folder", "/mnt/full/pki", status=1)["error"] == "failed"
        left = master.run(["find", "/mnt/full/pki", "-type", "f"], check=False).stdout
        assert left == ""
    finally:
        master.run(["umount", "/mnt/full"])


def test_who_may(lab: Lab) -> None:
    master = lab.node("master")
    for arguments in (["pki", "list"], ["pki", "issue", "user", "mallory"], ["token", "new"], ["token", "list"],
                      ["pki", "init", "--folder", "/etc/clupy/mine"]):
        assert ctl(master, *arguments, status=5, user="user")["error"] == "not-allowed"
    assert ctl(lab.node("agent1"), "pki", "issue", "user", "mallory", status=3)["error"] == "not-found"
    assert "needs root" in lab.node("agent1").run(["clupy-agent", "--join", "master"], "user", check=False).stderr


ASK_SIGNER = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("/run/clupy/signer.sock")
s.send(bytes.fromhex(sys.argv[1]) or b"x")
print(len(s.recv(65536)))
"""


def test_signer_answers_the_master_only(lab: Lab) -> None:
    master = lab.node("master")
    assert "PermissionError" in master.python(ASK_SIGNER, "user", "00", check=False).stderr
    # Somebody who has come into the group, but is not the master.
    done = master.run(["setpriv", "--reuid=clupy", "--regid=clupy-master", "--clear-groups", "python3", "-c", ASK_SIGNER,
                       "00"], check=False)
    assert done.stdout.strip() in ("", "0")
    assert "only clupy-masterd may ask" in journal(master, "-u", "clupy-signer")
    # Rubbish is refused, and the next one is served.
    for rubbish in ("00", "53494731" + "01000000" + "41" * 4000, "41" * 60000):
        assert int(master.python(ASK_SIGNER, "root", rubbish).stdout) > 0
    assert join(lab.node("agent2"), token_new(lab, "--node", "agent2")).returncode == 0


def test_signer_is_locked_in(lab: Lab, wait_until: Wait) -> None:
    master = lab.node("master")
    text = master.run(["systemd-analyze", "security", "--no-pager", "clupy-signer.service"]).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", text)
    assert found and float(found.group(1)) <= 2.0
    active = ["systemctl", "is-active", "clupy-signer.service"]
    join(lab.node("agent2"), token_new(lab, "--node", "nobody"))
    assert master.run(active).stdout.strip() == "active"
    wait_until(lambda: master.run(active, check=False).stdout.strip() == "inactive", 45, "it ends when nobody asks")

# SPDX-License-Identifier: Apache-2.0
"""clupy-index.service on a master: what systemd does for it. What it serves has test_index.py."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from cluster import MANIFEST, Cluster

if TYPE_CHECKING:
    from labtool.node import Node

SOCKET = "/run/clupy-index/index.sock"


@pytest.fixture
def master(cluster: Cluster) -> Node:
    """The master's node, with a manifest that has only wheels."""
    cluster.master.write(MANIFEST, '{"index": "none", "wheels": ["/lab/wheels"]}\n')
    return cluster.master


def fetch(master: Node, path: str, user: str = "root") -> tuple[str, str]:
    """Status and body of an answer, by the socket."""
    done = master.run(["curl", "--silent", "--show-error", "--unix-socket", SOCKET, "--write-out", "\n%{http_code}",
                       f"http://index{path}"], user, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return status, body + done.stderr


def journal(master: Node) -> str:
    """What the unit has said."""
    return master.run(["journalctl", "--unit=clupy-index.service", "--output=cat", "--no-pager"]).stdout


def test_it_starts_when_somebody_asks_and_only_the_master_may(master: Node) -> None:
    assert master.run(["systemctl", "is-active", "clupy-index.socket"]).stdout == "active\n"
    assert fetch(master, "/local/0/")[0] == "200"
    assert master.run(["stat", "--format=%U:%G %a", SOCKET]).stdout == "clupy-index:clupy-master 660\n"
    assert fetch(master, "/local/0/", "clupy-master")[0] == "200"
    for user in ("user", "clupy", "nobody"):
        assert fetch(master, "/local/0/", user)[0] == "000"
    assert master.run(["systemctl", "show", "--property=User", "clupy-index.service"]).stdout == "User=clupy-index\n"
    # It sees nothing of the master's but the wheels that clients sent.
    pid = master.run(["systemctl", "show", "--property=MainPID", "--value", "clupy-index.service"]).stdout.strip()
    hidden = master.run(["nsenter", "--target", pid, "--mount", "setpriv", "--reuid=clupy-index", "--regid=clupy-index",
                         "--clear-groups", "sh", "-c", "cat /etc/clupy/pki/ca.key /var/lib/clupy-master/epoch /root/.profile; "
                         "touch /etc/x /var/lib/clupy-master/wheels/x /run/clupy-index/wheels/x"], check=False).stderr
    assert hidden.count("Permission denied") + hidden.count("Read-only") + hidden.count("No such file") == 6, hidden


def test_no_worker_waits_for_another_ones_connection(master: Node) -> None:
    """All of them are woken by one connection: who comes too late must not hang in accept(), with the requests it has."""
    assert fetch(master, "/local/0/")[0] == "200"
    pid = master.run(["systemctl", "show", "--property=MainPID", "--value", "clupy-index.service"]).stdout.strip()
    flags = master.run(["sed", "-n", r"s/^flags:\s*//p", f"/proc/{pid}/fdinfo/3"]).stdout
    assert int(flags, 8) & os.O_NONBLOCK, flags


def test_a_change_is_followed_and_a_wrong_one_refused(master: Node, cluster: Cluster) -> None:
    assert fetch(master, "/local/1/")[0] == "404"
    master.write(MANIFEST, '{"index": "none", "wheels": ["/lab/wheels", "/lab"]}\n')
    cluster.wait(lambda: fetch(master, "/local/1/")[0] == "200", "the second folder is offered", 30)
    master.write(MANIFEST, "index: none\nwheels: 7\n")
    done = master.run(["systemctl", "reload", "clupy-index.service"], check=False)
    assert done.returncode != 0
    assert f"{MANIFEST}:2: " in journal(master)
    assert fetch(master, "/local/1/")[0] == "200"
    # Who starts with it serves nothing, and says why; a good one mends that by itself.
    master.run(["systemctl", "restart", "clupy-index.service"])
    status, body = fetch(master, "/local/0/")
    assert status == "503" and f"{MANIFEST}:2: " in body
    master.write(MANIFEST, '{"index": "none", "wheels": ["/lab/wheels"]}\n')
    cluster.wait(lambda: fetch(master, "/local/0/")[0] == "200", "it serves again", 30)


def test_the_index_of_this_machines_pip(master: Node, cluster: Cluster) -> None:
    """The public one, through the lab's forwarder, and away when its addresses are."""
    master.write(MANIFEST, '{"wheels": ["/lab/wheels"]}\n')
    cluster.wait(lambda: fetch(master, "/simple/pip/")[0] == "200", "the index answers", 60)
    hosts = master.run(["cat", "/etc/hosts"]).stdout
    try:
        master.write("/etc/hosts", "".join(line + "\n" for line in hosts.splitlines() if not line.startswith("10.78.0.")
                                           or int(line.split()[0].rpartition(".")[2]) > 9))
        # Each time another project: what was had before is served.
        names = (f"/simple/no-such-{number}/" for number in itertools.count())
        cluster.wait(lambda: fetch(master, next(names))[0] == "502", "it is away", 60)
        assert "cannot be reached from the cluster's master" in fetch(master, next(names))[1]
        assert fetch(master, "/simple/pip/")[0] == "200"
        assert fetch(master, "/local/0/")[0] == "200"
    finally:
        master.write("/etc/hosts", hosts)
    assert master.run(["systemctl", "is-active", "clupy-index.service"]).stdout == "active\n"


def test_nodes_have_no_way_to_it(cluster: Cluster) -> None:
    """No route, no port: the way to the index is the master's word."""
    program = ("import ssl, socket; ssl.create_default_context().wrap_socket(socket.create_connection(('10.78.0.1', 443), 2), "
               "server_hostname='x')")
    for name in (*cluster.agents, "client"):
        node = cluster.lab.node(name)
        assert node.run(["ip", "route", "show", "default"]).stdout == ""
        # The forwarder takes the master's connections only: others are closed before a byte.
        said = node.run(["python3", "-c", program], check=False)
        assert said.returncode != 0 and "CERTIFICATE" not in said.stderr, said.stderr

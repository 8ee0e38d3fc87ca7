# SPDX-License-Identifier: Apache-2.0
"""python -m clupy --master and --serve: the daemons in the foreground, with the working directory's configuration."""

from __future__ import annotations

import signal
import subprocess

from labtool.lab import Lab

AGENTS = 1
WORK = "/srv/by-hand"


def test_a_cluster_in_two_terminals(lab: Lab) -> None:
    """TLS as with the services: root's keys reach the daemons, which are not root."""
    master, agent, client = lab.node("master"), lab.node("agent1"), lab.node("client")
    master.run(["systemctl", "stop", "clupy-masterd.socket", "clupy-masterd.service"])
    agent.run(["systemctl", "stop", "clupy-agent.service", "clupy-launcher.service"])
    for node, name in ((master, "clupy.master.yaml"), (agent, "clupy.server.yaml")):
        node.run(["mkdir", WORK])
        node.run(["mv", f"/etc/clupy/{name}", WORK])
    in_work = ["sh", "-c", f'cd {WORK} && exec "$@"', "sh"]

    def secrets(node: str) -> str:
        return lab.node(node).run(["sh", "-c", "ls -d /run/clupy-master-* /run/clupy-serve-* 2> /dev/null"], check=False).stdout

    with master.popen([*in_work, "python3", "-m", "clupy", "--master"], "root", stderr=subprocess.PIPE) as first, \
         agent.popen([*in_work, "python3", "-m", "clupy", "--serve", "--master-url", "clupy://master:7878"], "root",
                     stderr=subprocess.PIPE) as second:
        called = client.python("import clupy; print(clupy.parallel(len)([1, 2]).result(60))", "user", timeout=90)
        assert called.stdout == "2\n"
        assert secrets("master") and secrets("agent1")
        for node, option, process in ((agent, "--serve", second), (master, "--master", first)):
            node.run(["pkill", f"-{signal.SIGTERM:d}", "-f", f"python3 -m clupy {option}"])
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
    assert not secrets("master") and not secrets("agent1")

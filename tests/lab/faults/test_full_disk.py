# SPDX-License-Identifier: Apache-2.0
"""A full disk under the master: what it cannot write down it does not promise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 1

STATE = "/var/lib/clupy-master"


def test_a_drain_that_cannot_be_written_down_is_refused(fresh_lab: Lab, wait_until: Any) -> None:
    master, client = fresh_lab.node("master"), fresh_lab.node("client")

    def state() -> str:
        nodes = json.loads(client.run(["clupyctl", "--json", "nodes"]).stdout)["nodes"]
        return str(nodes[0]["state"]) if nodes else "unknown"

    master.run(["systemctl", "stop", "clupy-masterd.service"])
    master.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", STATE])
    master.run(["systemctl", "start", "clupy-masterd.service"])
    wait_until(lambda: state() == "ready", 20, "the node to have reported to a master that knows nothing")
    master.run(["sh", "-c", f"dd if=/dev/zero of={STATE}/filler bs=4k 2>/dev/null; true"])

    refused = client.run(["clupyctl", "drain", "agent1"], check=False)
    assert refused.returncode == 1
    assert "agent1" in refused.stderr and "No space left on device" in refused.stderr

    assert state() not in ("drained", "draining")
    assert client.python("import clupy; print(clupy.parallel(abs)(-7).result(60))").stdout == "7\n"

    master.run(["rm", f"{STATE}/filler"])
    client.run(["clupyctl", "drain", "--wait", "agent1"])
    assert state() == "drained"
    master.run(["systemctl", "restart", "clupy-masterd.service"])
    wait_until(lambda: state() == "drained", 20, "the node to be drained still")

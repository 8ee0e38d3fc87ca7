# SPDX-License-Identifier: Apache-2.0
"""What fixtures that boot labs have in common."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from labtool import paths

if TYPE_CHECKING:
    from labtool.lab import Lab


def await_agents(lab: Lab) -> None:
    """Until the master knows all agents: their units are up before that."""
    wanted = {name for name in lab.node_names() if name.startswith("agent")}
    deadline = time.monotonic() + 60
    while True:
        answer = lab.node("master").run(["clupyctl", "--json", "nodes"], check=False, environment=["CLUPY_MASTER_URL="])
        if answer.returncode == 0:
            ready = {node["name"] for node in json.loads(answer.stdout)["nodes"] if node["state"] == "ready"}
            if wanted <= ready:
                return
        assert time.monotonic() < deadline, f"not within a minute: {wanted} ready; {answer.stdout}{answer.stderr}"
        time.sleep(0.05)


def keep_journals(lab: Lab) -> None:
    """Keeps the nodes' journals of a lab in which a test failed."""
    directory = paths.build_directory() / "logs" / f"journals-{lab.name}"
    directory.mkdir(parents=True, exist_ok=True)
    for node in lab.nodes():
        if node.pid() is not None:
            text = node.run(["journalctl", "--no-pager", "--output=short-precise"], check=False).stdout
            (directory / f"{node.name}.log").write_text(text)
    print(f"the nodes' journals are in {directory}", file=sys.stderr)

# SPDX-License-Identifier: Apache-2.0
"""A task with a device, through the launcher alone: what it sees, what it can open. Runs on a node, as root, with the agent
stopped; makes the stand-ins and the configuration itself."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, "/src/tests/lab/core")
from launcher_client import Op, connected  # noqa: E402

STANDINS = {"/dev/standin0": 5, "/dev/standin1": 5, "/dev/standinlog": 11}
COMMON = ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"]


def look() -> dict[str, Any]:
    import os
    import time
    with open("/dev/standin0", "r+b", buffering=0) as file:
        content = file.read(8)
    time.sleep(1)
    return {"dev": sorted(os.listdir("/dev")), "content": content, "variable": os.environ.get("GPUS")}


def can_open(group: Path, path: str) -> bool:
    """Whether a process of that cgroup can, as root and with the machine's /dev."""
    program = f"echo $$ > {group}/cgroup.procs && : < {path}"
    return subprocess.run(["sh", "-c", program], stderr=subprocess.DEVNULL, check=False).returncode == 0


def devices_group(pid: int) -> Path:
    """The cgroup that decides: of the devices hierarchy, or of the only one."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controller, path in lines:
        if controller == "devices":
            return Path(f"/sys/fs/cgroup/devices{path}")
    return Path(f"/sys/fs/cgroup{lines[0][2]}")


def main() -> None:
    for path, minor in STANDINS.items():
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        os.chmod(path, 0o666)
    with open("/etc/clupy/clupy.server.yaml", "a", encoding="utf-8") as file:
        file.write("resources:\n  gpu:\n    devices: [/dev/standin0, /dev/standin1]\n")
    subprocess.run(["systemctl", "restart", "clupy-policyc.service", "clupy-launcher.service"], check=True)
    client = connected()
    task = client.start(look, devices=(0,), variables="GPUS=0\n")
    event = client.wait_for(lambda e: e.task == task and e.op in (Op.STARTED, Op.REFUSED, Op.ENDED))
    assert event.op == Op.STARTED, event
    group = devices_group(event.pid)
    assert "clupy-tasks-devices.slice" in str(group), group
    openable = {path: can_open(group, path) for path in ("/dev/null", *STANDINS)}
    event = client.wait_for(lambda e: e.task == task and e.op == Op.ENDED)
    assert event.value == {"dev": sorted([*COMMON, "standin0"]), "content": bytes(8), "variable": "0"}, event
    print(f"{group}: {openable}")
    # standin1 has the numbers of zero, which everybody may open; the kernel's log is nobody's.
    assert openable == {"/dev/null": True, "/dev/standin0": True, "/dev/standin1": True, "/dev/standinlog": False}
    assert can_open(devices_group(os.getpid()), "/dev/standinlog")  # it is the scope that refuses


if __name__ == "__main__":
    main()

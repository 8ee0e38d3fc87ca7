# SPDX-License-Identifier: Apache-2.0
"""Runs on a node: memory and wakeups a second of CluPy's daemons while nothing happens. Prints one JSON object."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def main() -> None:
    seconds = float(sys.argv[1])
    pids = {}
    for daemon in ("masterd", "agent", "launcher"):
        shown = subprocess.run(
            ["systemctl", "show", "-P", "MainPID", f"clupy-{daemon}.service"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if shown not in ("", "0"):
            pids[f"clupy-{daemon}"] = int(shown)
    before = {name: int(status(pid)["voluntary_ctxt_switches"]) for name, pid in pids.items()}
    time.sleep(seconds)
    figures = {}
    for name, pid in pids.items():
        now = status(pid)
        figures[name] = {
            "rss_mib": round(int(now["VmRSS"].split()[0]) / 1024, 1),
            "anonymous_mib": round(int(now["RssAnon"].split()[0]) / 1024, 1),
            "wakeups_per_second": round((int(now["voluntary_ctxt_switches"]) - before[name]) / seconds, 2),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""``./lab bench [calls]``: CluPy beside the bare limit and its peers, in one run, on one node after the other.

Everything runs inside the same lab on the same machine within a few minutes; the machine's load average is printed beside
the figures. Results: a table on stdout and JSON in ``build/bench/calls.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"
LAB = "bench"
PEERS = ("ProcessPoolExecutor", "Dask distributed", "Ray", "ipyparallel", "systemd-run --scope")


def lab(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs ``./lab`` and returns what it printed; stderr goes through to the user."""
    return subprocess.run([str(ROOT / "lab"), *arguments], stdout=subprocess.PIPE, text=True, check=check)


def on_node(node: str, *command: str, user: str = "root") -> dict[str, Any]:
    """Runs a command on a node; its last line of output is one JSON object."""
    done = lab("exec", "--name", LAB, node, "--user", user, "--", *command, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"error": f"exit {done.returncode}: {done.stdout.strip()[-300:]}"}
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def venv() -> Path:
    """The peers' venv, made once; its Python."""
    python = OUT / "venv" / "bin" / "python"
    requirements = Path(__file__).with_name("requirements.txt")
    stamp = OUT / "venv" / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print("making the peers' venv …", flush=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", str(OUT / "venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "-q", "install", "-r", str(requirements)], check=True)
        stamp.write_text(requirements.read_text())
    return python


def bare_limit_build() -> None:
    """Compiles the bare limit with the same libraries that the product uses."""
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libsystemd", "python3-embed"], capture_output=True, text=True, check=True
    ).stdout.split()
    source = Path(__file__).with_name("bare_limit.c")
    subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", str(OUT / "bare-limit"), str(source), *flags], check=True)


def row(name: str, figures: dict[str, Any], limit: float | None) -> str:
    """One line of the table."""
    if "error" in figures:
        return f"{name:34} {figures['error']}"
    share = f"{100 * figures['calls_per_second'] / limit:5.0f} %" if limit else "      -"
    return (
        f"{name:34} {figures['calls_per_second']:>10} {figures.get('p50_ms', '-'):>9} {figures.get('p99_ms', '-'):>9} {share}"
    )


def bench_calls(calls: int, one_by_one: int, peers: list[str]) -> dict[str, Any]:
    """Boots a lab of one master, one agent and a client, measures, and takes it down."""
    OUT.mkdir(parents=True, exist_ok=True)
    python = venv()
    bare_limit_build()
    results: dict[str, Any] = {"load_before": os.getloadavg(), "cpus": os.cpu_count()}
    lab("up", "--name", LAB, "--agents", "1")
    try:
        results["idle_master"] = on_node("master", "/usr/bin/python3", "/src/tests/bench/node_idle.py", "10")
        results["idle_agent"] = on_node("agent1", "/usr/bin/python3", "/src/tests/bench/node_idle.py", "10")
        bare = str(OUT / "bare-limit")
        results["bare limit"] = on_node("client", bare, str(calls), "16")
        results["CluPy"] = on_node(
            "client", "/usr/bin/python3", "/src/tests/bench/node_clupy.py", str(calls), str(one_by_one), user="user"
        )
        results["bare limit, again"] = on_node("client", bare, str(calls), "16")
        for peer in peers:
            command = f"cd /src && exec {python} -m tests.bench.node_peers '{peer}' {calls} {one_by_one}"
            results[peer] = on_node("client", "/bin/sh", "-c", command)
    finally:
        lab("down", "--name", LAB)
    results["load_after"] = os.getloadavg()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="./lab bench", description=__doc__)
    parser.add_argument("what", nargs="?", default="calls", choices=["calls"])
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--one-by-one", type=int, default=200)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="PEER")
    arguments = parser.parse_args()
    results = bench_calls(arguments.calls, arguments.one_by_one, arguments.peers)
    (OUT / "calls.json").write_text(json.dumps(results, indent=2) + "\n")

    limits = [results[name].get("calls_per_second") for name in ("bare limit", "bare limit, again")]
    known = [value for value in limits if value]
    limit = sum(known) / len(known) if known else None
    print(f"no-op calls, {results['cpus']} CPUs, load {results['load_before'][0]:.2f} before, {results['load_after'][0]:.2f} after")
    print(f"{'':34} {'calls/s':>10} {'p50 ms':>9} {'p99 ms':>9} of bare limit")
    for name in ("CluPy", "bare limit", "bare limit, again", *arguments.peers):
        version = results[name].get("version")
        print(row(f"{name} {version}" if version else name, results[name], limit))
    for node in ("idle_master", "idle_agent"):
        for daemon, figures in results[node].items():
            print(f"idle {daemon}: {figures}")
    print(f"JSON: {OUT / 'calls.json'}")
    return 1 if any("error" in value for value in results.values() if isinstance(value, dict)) else 0


if __name__ == "__main__":
    sys.exit(main())

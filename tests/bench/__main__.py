# SPDX-License-Identifier: Apache-2.0
"""``./lab bench [calls|auth|env]``: CluPy beside the bare limit and its peers, in one run, on one node after the other.

Everything runs inside the same lab on the same machine within a few minutes; the machine's load average is printed beside
the figures. The machine's speed swings: CluPy and the bare limit take turns, and the medians count. Results: a table on
stdout and JSON in ``build/bench/calls.json``, ``auth.json`` or ``env.json``; `auth` is what certificates and TLS cost,
`env` what environments cost.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import auth, environments  # noqa: E402
from tests.bench.nodes import OUT, Figures, booted, compile_program, failures, median, on_node, save  # noqa: E402

LAB = "bench"
PEERS = ("ProcessPoolExecutor", "Dask distributed", "Ray", "ipyparallel", "systemd-run --scope")


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


def row(name: str, figures: Figures, limit: float | None) -> str:
    """One line of the table."""
    if "error" in figures:
        return f"{name:34} {figures['error']}"
    share = f"{100 * figures['calls_per_second'] / limit:5.0f} %" if limit else "      -"
    return (
        f"{name:34} {figures['calls_per_second']:>10} {figures.get('p50_ms', '-'):>9} {figures.get('p99_ms', '-'):>9} {share}"
    )


def bare_limit(calls: int, one_by_one: int) -> Figures:
    """Many at once for the rate, as many at a time as are in flight with CluPy; one after the other for the times."""
    program = str(OUT / "bare-limit")
    many = on_node(LAB, "client", program, str(calls), "16")
    single = on_node(LAB, "client", program, str(one_by_one), "1")
    if "error" in many or "error" in single:
        return many if "error" in many else single
    return {**many, "p50_ms": single["p50_ms"], "p99_ms": single["p99_ms"]}


def bench_calls(calls: int, one_by_one: int, rounds: int, peers: list[str]) -> Figures:
    """Boots a lab of one master, one agent and a client, measures, and takes it down."""
    OUT.mkdir(parents=True, exist_ok=True)
    python = venv() if peers else Path()
    compile_program("bare_limit.c", "libsystemd", "python3-embed")
    results: Figures = {"load_before": os.getloadavg(), "cpus": os.cpu_count()}
    bare, clupy = [], []
    with booted(LAB):
        results["idle_master"] = on_node(LAB, "master", "/usr/bin/python3", "/src/tests/bench/node_idle.py", "10")
        results["idle_agent"] = on_node(LAB, "agent1", "/usr/bin/python3", "/src/tests/bench/node_idle.py", "10")
        for _ in range(rounds):
            bare.append(bare_limit(calls, one_by_one))
            clupy.append(on_node(LAB, "client", "/usr/bin/python3", "/src/tests/bench/node_clupy.py", str(calls),
                                 str(one_by_one), user="user"))
        results["bare limit"] = median(bare)
        results["CluPy"] = median(clupy)
        for peer in peers:
            command = f"cd /src && exec {python} -m tests.bench.node_peers '{peer}' {calls} {one_by_one}"
            results[peer] = on_node(LAB, "client", "/bin/sh", "-c", command)
    results["load_after"] = os.getloadavg()
    return results


def run_calls(calls: int, one_by_one: int, rounds: int, peers: list[str]) -> int:
    """Returns the exit code."""
    results = bench_calls(calls, one_by_one, rounds, peers)
    limit = results["bare limit"].get("calls_per_second")
    print(f"no-op calls, {results['cpus']} CPUs, load {results['load_before'][0]:.2f} before, "
          f"{results['load_after'][0]:.2f} after; CluPy and the bare limit: medians of {rounds} rounds in turns")
    print(f"{'':34} {'calls/s':>10} {'p50 ms':>9} {'p99 ms':>9} of bare limit")
    for name in ("CluPy", "bare limit", *peers):
        version = results[name].get("version")
        print(row(f"{name} {version}" if version else name, results[name], limit))
    for name in ("CluPy", "bare limit"):
        swing = [figures["calls_per_second"] for figures in results[name].get("rounds", ())]
        print(f"{name}, round by round: {', '.join(map(str, swing))} calls/s")
    for node in ("idle_master", "idle_agent"):
        for daemon, figures in results[node].items():
            print(f"idle {daemon}: {figures}")
    save("calls", results)
    return 1 if failures(results) else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="./lab bench", description=__doc__)
    parser.add_argument("what", nargs="?", default="calls", choices=["calls", "auth", "env"])
    parser.add_argument("--calls", type=int, default=1000, help="no-op calls at once (default: 1000)")
    parser.add_argument("--one-by-one", type=int, default=200, help="calls one after the other (default: 200)")
    parser.add_argument("--connections", type=int, default=1000, help="auth: connections a round (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="in turns with what it is compared with (default: 3)")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="PEER")
    arguments = parser.parse_args()
    if min(arguments.calls, arguments.one_by_one, arguments.connections, arguments.rounds) < 1:
        parser.error("numbers from 1 on")
    if arguments.what == "auth":
        return auth.run(arguments.calls, arguments.one_by_one, arguments.connections, arguments.rounds)
    if arguments.what == "env":
        return environments.run(arguments.one_by_one, arguments.rounds)
    return run_calls(arguments.calls, arguments.one_by_one, arguments.rounds, arguments.peers)


if __name__ == "__main__":
    sys.exit(main())

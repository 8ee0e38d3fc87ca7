# SPDX-License-Identifier: Apache-2.0
"""``./lab bench auth``: what certificates and encryption cost.

Calls: the same no-op calls in a lab that speaks TLS and in one that speaks plaintext, in turns. Connections: connect, TLS
with certificates on both sides, hello, goodbye; by one client process and by several; of the master, and in turns with it of
a server on the same node that does nothing but OpenSSL.
"""

from __future__ import annotations

import os
from typing import Any

from tests.bench.nodes import (Figures, await_agent, booted, column, compile_program, failures, lab, median, on_node, ratio,
                               save, OUT)

LABS = {"TLS": "bench", "plaintext": "bench_plain"}
MANY = 4
PORT, BARE_PORT = "7878", "7879"
MASTER_UNIT = "clupy-masterd.service"
BARE_UNIT = "bench-handshakes.service"
MASTER_FILES = [f"/etc/clupy/pki/{name}" for name in ("master.crt", "master.key", "ca.crt")]
CLIENT_FILES = [f"/home/user/.config/clupy/{name}" for name in ("user.crt", "user.key", "ca.crt")]

# One address makes all connections of the benchmark.
LIMITS = "limits: {rate: 1000000, burst: 1000000, unproven: 4096, unproven_per_address: 4096}"


def lift_limits(name: str) -> None:
    """Takes the bounds off that keep one address from doing just this."""
    lab("exec", "--name", name, "master", "--", "/bin/sh", "-c",
        f"echo '{LIMITS}' >> /etc/clupy/clupy.master.yaml && systemctl restart {MASTER_UNIT}")
    await_agent(name)


def handshakes(name: str, port: str, processes: int, connections: int, files: list[str]) -> Figures:
    """Connections of the client's node to the master's."""
    return on_node(name, "client", str(OUT / "handshakes"), "connect", "master", port, str(processes), str(connections),
                   "user", *files, user="user")


def cpu_seconds(name: str, unit: str) -> float:
    """What a service of the master's node has used."""
    done = lab("exec", "--name", name, "master", "--", "/bin/sh", "-c",
               f"cat /proc/$(systemctl show --property=MainPID --value {unit})/schedstat")
    return int(done.stdout.split()[0]) / 1e9


def served(name: str, unit: str, port: str, processes: int, connections: int, files: list[str]) -> Figures:
    """Connections, and what each has cost the service that took them; that figure depends least on what else runs."""
    before = cpu_seconds(name, unit)
    figures = handshakes(name, port, processes, connections, files)
    if "error" not in figures:
        figures["server_cpu_ms"] = round((cpu_seconds(name, unit) - before) * 1000 / figures["connections"], 3)
    return figures


def measure(calls: int, one_by_one: int, connections: int, rounds: int) -> Figures:
    """Boots both labs, measures, takes them down."""
    program = compile_program("handshakes.c", "openssl")
    results: Figures = {"cpus": os.cpu_count(), "load_before": os.getloadavg(), "connections_of": MANY}
    found: dict[str, list[Figures]] = {}

    def note(what: str, figures: Figures) -> None:
        found.setdefault(what, []).append(figures)

    with booted(LABS["TLS"]) as tls, booted(LABS["plaintext"], "--insecure", "--no-build") as plain:
        for name in (tls, plain):
            lift_limits(name)
        lab("exec", "--name", tls, "master", "--", "systemd-run", "--quiet", f"--unit={BARE_UNIT}", str(program), "serve",
            BARE_PORT, *MASTER_FILES)
        for _ in range(rounds):
            for name, where in LABS.items():
                note(f"calls, {name}", on_node(where, "client", "/usr/bin/python3", "/src/tests/bench/node_clupy.py",
                                               str(calls), str(one_by_one), user="user"))
            for processes in (1, MANY):
                note(f"CluPy, {processes}", served(tls, MASTER_UNIT, PORT, processes, connections, CLIENT_FILES))
                note(f"bare OpenSSL, {processes}", served(tls, BARE_UNIT, BARE_PORT, processes, connections, CLIENT_FILES))
                note(f"plaintext, {processes}", served(plain, MASTER_UNIT, PORT, processes, connections, []))
    results.update((what, median(figures)) for what, figures in found.items())
    results["load_after"] = os.getloadavg()
    results["tls_of_plaintext"] = {key: ratio(results["calls, TLS"], results["calls, plaintext"], key)
                                   for key in ("calls_per_second", "p50_ms", "p99_ms")}
    results["handshakes_of_bare"] = {
        str(processes): {key: ratio(results[f"CluPy, {processes}"], results[f"bare OpenSSL, {processes}"], key)
                         for key in ("per_second", "server_cpu_ms")} for processes in (1, MANY)}
    return results


def _row(name: str, figures: Figures, key: str, share: Any) -> str:
    if "error" in figures:
        return f"{name:34} {figures['error']}"
    return (f"{name:34} {figures[key]:>10} {figures['p50_ms']:>9} {figures['p99_ms']:>9} {column(share):>8} "
            f"{figures.get('server_cpu_ms', ''):>13}".rstrip())


def table(results: Figures) -> None:
    """Prints the figures."""
    rounds = len(results["calls, TLS"].get("rounds", ()))
    print(f"medians of {rounds} rounds, {results['cpus']} CPUs, load {results['load_before'][0]:.2f} before, "
          f"{results['load_after'][0]:.2f} after")
    print(f"{'no-op calls':34} {'calls/s':>10} {'p50 ms':>9} {'p99 ms':>9} of plaintext")
    shares = results["tls_of_plaintext"]
    for name in LABS:
        print(_row(name, results[f"calls, {name}"], "calls_per_second",
                   shares["calls_per_second"] if name == "TLS" else None))
    print(f"TLS by plaintext: calls/s {column(shares['calls_per_second'])}, p50 {column(shares['p50_ms'])}, "
          f"p99 {column(shares['p99_ms'])}")
    for processes in (1, MANY):
        print(f"{f'connections, {processes} client processes' if processes > 1 else 'connections, 1 client process':34} "
              f"{'per s':>10} {'p50 ms':>9} {'p99 ms':>9}  of bare server CPU ms")
        for name in ("CluPy", "bare OpenSSL", "plaintext"):
            print(_row({"CluPy": "CluPy, TLS", "plaintext": "CluPy, plaintext"}.get(name, name),
                       results[f"{name}, {processes}"], "per_second",
                       results["handshakes_of_bare"][str(processes)]["per_second"] if name == "CluPy" else None))


def run(calls: int, one_by_one: int, connections: int, rounds: int) -> int:
    """Returns the exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    results = measure(calls, one_by_one, connections, rounds)
    table(results)
    save("auth", results)
    return 1 if failures(results) else 0

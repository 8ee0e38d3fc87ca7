# SPDX-License-Identifier: Apache-2.0
"""``./lab bench env``: what an environment costs, from nothing to a warm call.

Bare Python, with pandas, and with torch (for the CPU, where pip on this machine is configured with a folder that has its
wheel). Cold build: the first call for packages that nobody has asked for, with the index's cache empty. Cached build: the
same after the node has dropped the environment; the master has the files. Cold start: the environment is there, and no
process of it. Warm call: one by one; its median in relation to the bare one's. PSS: the memory of one of several tasks that
run side by side, pages that they share counted in parts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.nodes import OUT, ROOT, Figures, await_agent, booted, column, failures, lab, on_node, save

LAB = "bench_env"
MANIFEST = "/etc/clupy/clupy.master.dependency.yaml"
TOGETHER = 4
SETS: dict[str, dict[str, Any]] = {
    "bare": {"packages": [], "preload": [], "module": ""},
    "pandas": {"packages": ["pandas"], "preload": ["pandas"], "module": "pandas"},
    "torch": {"packages": ["torch"], "preload": ["torch"], "module": "torch"},
}
COLUMNS = (("cold_build_s", "cold build s"), ("cached_build_s", "cached build s"), ("cold_start_s", "cold start s"),
           ("p50_ms", "warm p50 ms"), ("p99_ms", "p99 ms"), ("warm_of_bare", "of bare"), ("pss_mb", "PSS/task MB"))


def wheel_folders() -> list[str]:
    """The folders of wheels that pip on this machine is configured with."""
    answer = subprocess.run(["/usr/bin/python3", "-I", str(ROOT / "index/config.py"), "--ask"], capture_output=True,
                            text=True, check=True).stdout
    return [folder for folder in json.loads(answer)["folders"] if Path(folder).is_dir()]


def run_calls(order: dict[str, Any], one_by_one: int) -> Figures:
    """node_env.py on the client."""
    order = {**order, "one_by_one": one_by_one, "together": TOGETHER}
    return on_node(LAB, "client", "/usr/bin/python3", "/src/tests/bench/node_env.py", json.dumps(order), user="user")


def on_master(*command: str) -> str:
    """Runs a command there, with clupyctl over D-Bus."""
    return lab("exec", "--name", LAB, "master", "--", "env", "CLUPY_MASTER_URL=", *command).stdout


def restart_launcher() -> None:
    """Ends every zygote."""
    lab("exec", "--name", LAB, "agent1", "--", "systemctl", "restart", "clupy-launcher.service", "clupy-agent.service")
    await_agent(LAB)


def drop(packages: list[str]) -> None:
    """Has the node drop the environment with these packages; the launcher's restart has ended its zygotes."""
    for entry in json.loads(on_master("clupyctl", "--json", "env", "list"))["environments"]:
        if set(packages) <= set(entry.get("packages", ())):
            on_master("clupyctl", "env", "remove", entry["name"])


def measure_one(order: dict[str, Any], one_by_one: int) -> Figures:
    """All figures of one set."""
    figures = run_calls(order, one_by_one)
    if "error" in figures:
        return figures
    built = figures.pop("first_s")
    restart_launcher()
    started = run_calls(order, 0)
    if "error" in started:
        return started
    figures |= {"cold_start_s": started["first_s"]}
    if order["packages"]:
        restart_launcher()
        drop(order["packages"])
        cached = run_calls(order, 0)
        if "error" in cached:
            return cached
        figures |= {"cold_build_s": built, "cached_build_s": cached["first_s"]}
    return figures


def measure(one_by_one: int, rounds: int) -> Figures:
    """Boots a lab with a way to the index, measures, takes it down."""
    folders = wheel_folders()
    results: Figures = {"cpus": os.cpu_count(), "load_before": os.getloadavg()}
    sets = dict(SETS)
    # The one in the folder: the index's newest may be for other machines, and of gigabytes.
    found = sorted(path.name.split("-")[1] for folder in folders for path in Path(folder).glob("torch-*.whl"))
    if found:
        sets["torch"] = {**SETS["torch"], "packages": [f"torch=={found[-1]}"]}
    else:
        print("no folder that pip is configured with has a wheel of torch: measured without it", file=sys.stderr)
        del sets["torch"]
    with booted(LAB, "--index"):
        text = json.dumps({"packages": [], "wheels": folders, "sync": "never"})
        on_master("sh", "-c", 'printf "%s\\n" "$1" > "$2"', "sh", text, MANIFEST)
        on_master("clupyctl", "env", "sync")
        for name, order in sets.items():
            results[name] = measure_one(order, one_by_one)
        # In turns, for the relation: the machine's speed swings.
        bare = {name: [results[name].get("p50_ms")] for name in sets}
        for _ in range(rounds - 1):
            for name, order in sets.items():
                bare[name].append(run_calls(order, one_by_one).get("p50_ms"))
        for name in sets:
            known = sorted(value for value in bare[name] if value is not None)
            if known:
                results[name]["p50_ms"] = known[len(known) // 2]
        for name in sets:
            if results[name].get("p50_ms") and results["bare"].get("p50_ms"):
                results[name]["warm_of_bare"] = round(results[name]["p50_ms"] / results["bare"]["p50_ms"], 2)
    results["load_after"] = os.getloadavg()
    return results


def table(results: Figures) -> None:
    """Prints the figures."""
    print(f"{results['cpus']} CPUs, load {results['load_before'][0]:.2f} before, {results['load_after'][0]:.2f} after")
    print(f"{'':16} " + " ".join(f"{title:>14}" for _, title in COLUMNS))
    for name in SETS:
        if name in results:
            figures = results[name]
            title = f"{name} {figures.get('version', '')}".strip()
            print(f"{title:16} " + (figures["error"] if "error" in figures else
                                    " ".join(f"{column(figures.get(key)):>14}" for key, _ in COLUMNS)))


def run(one_by_one: int, rounds: int) -> int:
    """Returns the exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    results = measure(one_by_one, rounds)
    table(results)
    save("env", results)
    return 1 if failures(results) else 0

# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' labs: booting them, running programs on their nodes, and what is done with the figures."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "bench"
READY_TIMEOUT = 60  # seconds

Figures = dict[str, Any]


def lab(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs ``./lab`` and returns what it printed; stderr goes through to the user."""
    return subprocess.run([str(ROOT / "lab"), *arguments], stdout=subprocess.PIPE, text=True, check=check)


def on_node(name: str, node: str, *command: str, user: str = "root") -> Figures:
    """Runs a command on a node of a lab; its last line of output is one JSON object."""
    done = lab("exec", "--name", name, node, "--user", user, "--", *command, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"error": f"exit {done.returncode}: {done.stdout.strip()[-300:]}"}
    figures: Figures = json.loads(lines[-1])
    return figures


@contextlib.contextmanager
def booted(name: str, *options: str) -> Iterator[str]:
    """A lab of one master, one agent and a client, with the agent at work."""
    lab("up", "--name", name, "--agents", "1", *options)
    try:
        await_agent(name)
        yield name
    finally:
        lab("down", "--name", name)


def await_agent(name: str) -> None:
    """Until the master has its agent. Raises TimeoutError."""
    deadline = time.monotonic() + READY_TIMEOUT
    while '"ready"' not in lab("exec", "--name", name, "master", "--", "env", "CLUPY_MASTER_URL=", "clupyctl", "--json",
                               "nodes", check=False).stdout:
        if time.monotonic() > deadline:
            raise TimeoutError(f"lab '{name}' has no agent after {READY_TIMEOUT} s")
        time.sleep(0.2)


def compile_program(source: str, *libraries: str) -> Path:
    """Compiles a program with the same libraries that the product uses."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", *libraries], capture_output=True, text=True,
                           check=True).stdout.split()
    program = OUT / Path(source).stem.replace("_", "-")
    subprocess.run(["cc", "-O2", "-D_GNU_SOURCE", "-o", str(program), str(Path(__file__).with_name(source)), *flags],
                   check=True)
    return program


def median(rounds: Sequence[Figures]) -> Figures:
    """Of several rounds the median of each figure, and the rounds; of one that failed, why."""
    for figures in rounds:
        if "error" in figures:
            return figures
    middle = {key: round(statistics.median(figures[key] for figures in rounds), 3) if isinstance(value, float) else value
              for key, value in rounds[0].items()}
    return {**middle, "rounds": list(rounds)}


def ratio(figures: Figures, limit: Figures, key: str) -> float | None:
    """The share of the limit that it reaches, if both are known."""
    return round(figures[key] / limit[key], 3) if figures.get(key) and limit.get(key) else None


def column(value: Any) -> str:
    """A figure in a table."""
    return "-" if value is None else str(value)


def save(name: str, results: Figures) -> None:
    """Writes a benchmark's figures beside the others', and says where."""
    path = OUT / f"{name}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"JSON: {path}")


def failures(results: Figures) -> bool:
    """Whether anything could not be measured."""
    return any("error" in value or failures(value) for value in results.values() if isinstance(value, dict))

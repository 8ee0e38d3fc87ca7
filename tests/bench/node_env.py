# SPDX-License-Identifier: Apache-2.0
"""Runs on the client node: calls in an environment. Arguments: one JSON object. Prints one JSON object.

packages, preload: of the calls; module: what they import; one_by_one: how many calls one after the other, 0: the first one
alone; together: how many tasks run side by side when their memory is looked at."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import clupy

from calls import percentile

MEMORY = "1G"
TIMEOUT = 900


def use(module: str) -> str:
    """What a task does: it has the module."""
    return str(getattr(__import__(module), "__version__", "")) if module else ""


def hold(module: str, until: float) -> float:
    """Its share of the memory in MB, while others run."""
    import time

    if module:
        __import__(module)
    time.sleep(max(until - time.time(), 0.1))
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1000


def main() -> None:
    order: dict[str, Any] = json.loads(sys.argv[1])
    options = {"packages": order["packages"], "preload": order["preload"]} if order["packages"] else {}
    call = clupy.parallel(use, memory=MEMORY, **options)
    begin = time.perf_counter()
    version = call(order["module"]).result(timeout=TIMEOUT)
    figures: dict[str, Any] = {"version": version, "first_s": round(time.perf_counter() - begin, 3)}
    if order["one_by_one"]:
        for future in [call(order["module"]) for _ in range(20)]:
            future.result(timeout=TIMEOUT)
        trips = []
        for _ in range(order["one_by_one"]):
            begin = time.perf_counter()
            call(order["module"]).result(timeout=TIMEOUT)
            trips.append((time.perf_counter() - begin) * 1000)
            time.sleep(0.02)  # as node_clupy.py: a lone call
        shares = clupy.parallel(hold, memory=MEMORY, cpus=0.1, **options)
        until = time.time() + 4
        parts = [future.result(timeout=TIMEOUT) for future in
                 [shares(order["module"], until) for _ in range(order["together"])]]
        figures |= {"p50_ms": round(percentile(trips, 0.50), 3), "p99_ms": round(percentile(trips, 0.99), 3),
                    "pss_mb": round(sum(parts) / len(parts), 1), "together": len(parts)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

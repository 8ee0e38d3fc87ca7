# SPDX-License-Identifier: Apache-2.0
"""Runs in the benchmark's own venv: no-op calls through each peer, two workers each. Prints one JSON object a peer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.bench.calls import nothing, percentile

Measure = Callable[[int, int], dict[str, Any]]


def measure(calls: int, one_by_one: int, submit: Callable[[], Any], result: Callable[[Any], Any]) -> dict[str, Any]:
    """Round trips one by one, then ``calls`` at once, of a no-op submitted by ``submit`` and awaited by ``result``."""
    for _ in range(20):
        result(submit())
    trips = []
    for _ in range(one_by_one):
        begin = time.perf_counter()
        result(submit())
        trips.append((time.perf_counter() - begin) * 1000)
    begin = time.perf_counter()
    for handle in [submit() for _ in range(calls)]:
        result(handle)
    seconds = time.perf_counter() - begin
    return {
        "calls": calls,
        "calls_per_second": round(calls / seconds, 1),
        "p50_ms": round(percentile(trips, 0.50), 3),
        "p99_ms": round(percentile(trips, 0.99), 3),
    }


def process_pool(calls: int, one_by_one: int) -> dict[str, Any]:
    """concurrent.futures.ProcessPoolExecutor: no isolation, one machine."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        figures = measure(calls, one_by_one, lambda: pool.submit(nothing), lambda future: future.result())
    return {"version": sys.version.split()[0], **figures}


def dask(calls: int, one_by_one: int) -> dict[str, Any]:
    """Dask distributed with two worker processes."""
    import distributed  # type: ignore[import-not-found, unused-ignore]

    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as client:
        figures = measure(
            calls, one_by_one, lambda: client.submit(nothing, pure=False), lambda future: future.result()
        )
    return {"version": distributed.__version__, **figures}


def ray(calls: int, one_by_one: int) -> dict[str, Any]:
    """Ray with two CPUs, without dashboard and usage statistics."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray as peer  # type: ignore[import-not-found, unused-ignore]

    peer.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remote = peer.remote(nothing)
    figures = measure(calls, one_by_one, remote.remote, peer.get)
    peer.shutdown()
    return {"version": peer.__version__, **figures}


def ipyparallel(calls: int, one_by_one: int) -> dict[str, Any]:
    """ipyparallel with two engines, load-balanced."""
    import ipyparallel as peer  # type: ignore[import-not-found, unused-ignore]

    with peer.Cluster(n=2, log_level=40) as client:
        view = client.load_balanced_view()
        figures = measure(calls, one_by_one, lambda: view.apply_async(nothing), lambda future: future.get())
    return {"version": peer.__version__, **figures}


def systemd_run(calls: int, one_by_one: int) -> dict[str, Any]:
    """systemd-run --scope python3: the isolation that systemd offers without CluPy (limits, no sandbox)."""
    del calls
    trips = []
    for _ in range(one_by_one):
        begin = time.perf_counter()
        subprocess.run(
            ["systemd-run", "--scope", "--quiet", "-p", "MemoryMax=64M", "-p", "TasksMax=64", "/usr/bin/python3", "-c", "pass"],
            check=True,
        )
        trips.append((time.perf_counter() - begin) * 1000)
    version = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return {
        "version": version,
        "calls": one_by_one,
        "calls_per_second": round(1000 * len(trips) / sum(trips), 1),
        "p50_ms": round(percentile(trips, 0.50), 3),
        "p99_ms": round(percentile(trips, 0.99), 3),
    }


PEERS: dict[str, Measure] = {
    "ProcessPoolExecutor": process_pool,
    "Dask distributed": dask,
    "Ray": ray,
    "ipyparallel": ipyparallel,
    "systemd-run --scope": systemd_run,
}


def main() -> None:
    name, calls, one_by_one = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if name == "systemd-run --scope" and not shutil.which("systemd-run"):
        sys.exit("systemd-run is not here")
    print(json.dumps(PEERS[name](calls, one_by_one)))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Runs on the client node: no-op calls through CluPy, one by one and many at once. Prints one JSON object."""

from __future__ import annotations

import json
import sys
import time

import clupy

from calls import nothing, percentile


def main() -> None:
    calls, one_by_one = int(sys.argv[1]), int(sys.argv[2])
    call = clupy.parallel(nothing)
    for future in [call() for _ in range(20)]:  # zygote started, code sent, pairs warm
        future.result(timeout=60)

    trips = []
    for _ in range(one_by_one):
        begin = time.perf_counter()
        call().result(timeout=60)
        trips.append((time.perf_counter() - begin) * 1000)
        time.sleep(0.02)  # a lone call: the next waiting pair is ready again, as it is for a person at a prompt

    begin = time.perf_counter()
    for future in [call() for _ in range(calls)]:
        future.result(timeout=600)
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "version": clupy.__version__,
                "calls": calls,
                "calls_per_second": round(calls / seconds, 1),
                "p50_ms": round(percentile(trips, 0.50), 3),
                "p99_ms": round(percentile(trips, 0.99), 3),
            }
        )
    )


if __name__ == "__main__":
    main()

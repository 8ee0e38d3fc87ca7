# SPDX-License-Identifier: Apache-2.0
"""Prime divisors of a hundred numbers, each computed by a call of its own somewhere in the cluster.

    python3 primes.py
"""

import clupy


def primes(n):
    divisors = [d for d in range(2, n // 2 + 1) if n % d == 0]
    return [d for d in divisors if all(d % od != 0 for od in divisors if od != d)]


if __name__ == "__main__":
    # The client's configuration is read from the local clupy.client.yaml if there is one.
    results = [clupy.parallel(primes, server_count=10)(n) for n in range(100, 200)]
    clupy.wait_all(results, time_out=10)
    for res in results:
        if res.completed:
            if res.value is not None:
                print("results: ", res.value)
            elif res.failure is not None:
                print("failure: ", res.failure)

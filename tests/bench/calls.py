# SPDX-License-Identifier: Apache-2.0
"""What CluPy and its peers are both measured with."""

from __future__ import annotations


def nothing() -> None:
    """The call that is measured: what is left is the cluster's own cost."""


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` (0..1) of ``values`` lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

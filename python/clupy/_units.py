# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes as people write them: seconds or "1m30s", bytes or "512M"."""

from __future__ import annotations

import math
import re
from typing import Union

Duration = Union[int, float, str]
Size = Union[int, str]

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|min|s|m|h|d)\s*")
_NUMBER = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?\s*")
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]?)(?:i?B)?\s*", re.IGNORECASE)
_SIZE_UNITS = ("", "K", "M", "G", "T", "P")


def parse_duration(value: Duration, what: str) -> float:
    """Returns seconds from a number of seconds or from text like "90s", "1m30s", "8h".

    what names the option in the error. Raises TypeError for another type, ValueError for text that is no
    duration, for negative numbers and for what is not finite."""
    expected = f"{what}: expected seconds or text like '90s' or '8h', got {value!r}"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(expected)
    if isinstance(value, str):
        seconds = _duration_from_text(value, expected)
    else:
        seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(expected)
    return seconds


def _duration_from_text(text: str, expected: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    seconds, position = 0.0, 0
    while position < len(text):
        match = _DURATION_PART.match(text, position)
        if match is None:
            raise ValueError(expected)
        seconds += float(match.group(1)) * _DURATION_UNITS[match.group(2)]
        position = match.end()
    if position == 0:
        raise ValueError(expected)
    return seconds


def parse_size(value: Size, what: str) -> int:
    """Returns bytes from a number of bytes or from text like "512M", "1.5G" (powers of 1024).

    Raises TypeError for another type, ValueError for text that is no size and for what is not positive."""
    expected = f"{what}: expected bytes or text like '512M' or '2G', got {value!r}"
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(expected)
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(expected)
        size = int(float(match.group(1)) * 1024 ** _SIZE_UNITS.index(match.group(2).upper()))
    else:
        size = value
    if not 0 < size < 1 << 63:
        raise ValueError(expected)
    return size


def format_size(size: float) -> str:
    """512 MiB is "512M": what parse_size() reads, with one decimal where it is no whole number."""
    for unit in _SIZE_UNITS:
        if size < 1024 or unit == _SIZE_UNITS[-1]:
            break
        size /= 1024
    text = f"{size:.1f}"
    return (text[:-2] if text.endswith(".0") else text) + (unit or " bytes")


def format_duration(seconds: float) -> str:
    """1.5 is "1.5s", 5400 is "1h30m"."""
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    whole = round(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    return "".join(f"{count}{unit}" for count, unit in parts if count)

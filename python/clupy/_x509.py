# SPDX-License-Identifier: Apache-2.0
"""What of an X.509 certificate of one's own the client has to know: whom it names, and until when. The ssl module
tells that only of the other side's; what others send is never read here."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime, timezone
from typing import List, NamedTuple, Tuple

SCHEME = "clupy:"

_PEM = re.compile("-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
_URI, _VERSION, _EXTENSIONS, _UTC_TIME = 0x86, 0xA0, 0xA3, 0x17
_SUBJECT_ALTERNATIVE_NAME = bytes((0x55, 0x1D, 0x11))


class Certificate(NamedTuple):
    """names: its clupy: URIs. The times are aware ones."""

    names: Tuple[str, ...]
    not_before: datetime
    not_after: datetime


def read_certificate(pem: str) -> Certificate:
    """The first certificate of a PEM text. Raises ValueError when there is none or it cannot be read."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate in it")
    try:
        fields = _items(_items(_items(base64.b64decode(found.group(1)))[0][1])[0][1])
        if fields[0][0] == _VERSION:
            del fields[0]
        before, after = _items(fields[3][1])
        return Certificate(tuple(_names(fields)), _time(*before), _time(*after))
    except (IndexError, binascii.Error) as error:
        raise ValueError(f"no certificate in it ({error})") from None


def _items(data: bytes) -> List[Tuple[int, bytes]]:
    """The tags and contents that stand one after the other in DER."""
    found: List[Tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size & 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[at:at + count], "big")
            at += count
        if at + size > len(data):
            raise IndexError("it is cut short")
        found.append((tag, data[at:at + size]))
        at += size
    return found


def _names(fields: List[Tuple[int, bytes]]) -> List[str]:
    names: List[str] = []
    for tag, content in fields[6:]:
        if tag == _EXTENSIONS:
            for _, extension in _items(_items(content)[0][1]):
                parts = _items(extension)
                if parts[0][1] == _SUBJECT_ALTERNATIVE_NAME:
                    names += [name.decode("ascii", "replace") for kind, name in _items(_items(parts[-1][1])[0][1])
                              if kind == _URI]
    return [name for name in names if name.startswith(SCHEME)]


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii", "replace")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    if len(text) != 15 or not text[:14].isdigit() or text[14] != "Z":
        raise ValueError("it has a time that is none")
    year, rest = int(text[:4]), [int(text[at:at + 2]) for at in range(4, 14, 2)]
    return datetime(year, rest[0], rest[1], rest[2], rest[3], rest[4], tzinfo=timezone.utc)

# SPDX-License-Identifier: Apache-2.0
"""The frames of the wire protocol (docs/protocol.md): a binary header, JSON for control, raw bytes for payloads."""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

Buffer = Union[bytes, bytearray, memoryview]

PROTOCOL = 1
JSON_MAX = 1 << 20
PAYLOAD_COUNT_MAX = 256
PAYLOAD_SIZE_MAX = 256 << 10
PAYLOAD_TOTAL_MAX = 2 << 20
INLINE_MAX = 64 << 10  # larger arguments and results are fetched as streams

_HEADER = struct.Struct("<4sBBHIHHQ")
_MAGIC = b"CLPY"
_BUFFER_INITIAL = 256 << 10
_BUFFER_STREAMING = 1 << 20


class FrameType(IntEnum):
    """The types that a client sends or gets."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    GOODBYE = 4
    SUBMIT = 16
    CANCEL = 17
    ACK = 18
    QUERY = 19
    STATUS = 32
    RESULT = 33
    ANSWER = 34
    FETCH = 80
    DATA = 81
    CREDIT = 82
    END = 83


class Frame(NamedTuple):
    """payloads are views of the decoder's buffer, valid until it is asked for room again."""

    type: int
    message: Dict[str, Any]
    payloads: Sequence[memoryview]


class FrameError(Exception):
    """What came is no frame of this protocol; the connection cannot go on."""


def encode(frame_type: int, message: Mapping[str, Any], payloads: Sequence[Buffer] = ()) -> List[Buffer]:
    """Returns the buffers to write: one with header and JSON, then the payloads themselves, which are not copied.

    Raises ValueError when a bound of the protocol is broken."""
    return encode_text(frame_type, json.dumps(message, separators=(",", ":")).encode("ascii"), payloads)


def encode_text(frame_type: int, text: bytes, payloads: Sequence[Buffer] = ()) -> List[Buffer]:
    """As encode(), for JSON that is text already."""
    sizes = [memoryview(payload).nbytes for payload in payloads]
    total = sum(sizes)
    if (len(text) > JSON_MAX or len(sizes) > PAYLOAD_COUNT_MAX or total > PAYLOAD_TOTAL_MAX
            or (sizes and max(sizes) > PAYLOAD_SIZE_MAX)):
        raise ValueError(f"frame {frame_type} is over a bound: {len(text)} bytes of JSON, {len(sizes)} payloads of {total}")
    head = _HEADER.pack(_MAGIC, PROTOCOL, frame_type, 0, len(text), len(sizes), 0, total)
    if sizes:
        head += struct.pack(f"<{len(sizes)}I", *sizes)
    return [head + text, *payloads]


class Decoder:
    """Incremental: receive into room(), tell received() how much came, take frames until next() has none."""

    def __init__(self) -> None:
        self._buffer = bytearray(_BUFFER_INITIAL)
        self._start = 0
        self._end = 0
        self._needed = _HEADER.size

    def room(self) -> memoryview:
        """A view to receive into; ends the life of the payloads given out before."""
        pending = self._end - self._start
        if self._needed > len(self._buffer):
            # A frame with large payloads: more of its kind will follow.
            grown = bytearray(max(self._needed, _BUFFER_STREAMING))
            grown[:pending] = memoryview(self._buffer)[self._start:self._end]
            self._buffer = grown
            self._start, self._end = 0, pending
        elif pending == 0:
            self._start = self._end = 0
        elif self._start + self._needed > len(self._buffer) or self._end == len(self._buffer):
            self._buffer[:pending] = self._buffer[self._start:self._end]
            self._start, self._end = 0, pending
        return memoryview(self._buffer)[self._end:]

    @property
    def rest(self) -> bytes:
        """The first bytes of what is no whole frame."""
        return bytes(self._buffer[self._start:min(self._end, self._start + _HEADER.size)])

    def received(self, size: int) -> None:
        self._end += size

    def next(self) -> Optional[Frame]:
        """The next whole frame, or None. Raises FrameError."""
        pending = self._end - self._start
        self._needed = _HEADER.size
        if pending < self._needed:
            return None
        magic, version, frame_type, flags, json_size, count, reserved, total = _HEADER.unpack_from(
            self._buffer, self._start)
        if magic != _MAGIC:
            raise FrameError("what answers there is no CluPy master")
        if version != PROTOCOL:
            raise FrameError(f"the master speaks version {version} of the protocol, this client version {PROTOCOL}")
        if (flags or reserved or json_size > JSON_MAX or count > PAYLOAD_COUNT_MAX or total > PAYLOAD_TOTAL_MAX
                or (total and not count)):
            raise FrameError(f"a frame of type {frame_type} breaks the protocol's bounds")
        head = _HEADER.size + 4 * count
        self._needed = head + json_size + total
        if pending < self._needed:
            return None
        position = self._start + head
        payloads: List[memoryview] = []
        with memoryview(self._buffer) as view:
            try:
                message = json.loads(bytes(view[position:position + json_size])) if json_size else {}
            except ValueError as error:
                raise FrameError(f"a frame of type {frame_type} holds no JSON: {error}") from None
        if not isinstance(message, dict):
            raise FrameError(f"a frame of type {frame_type} holds JSON that is no object")
        if count:
            sizes = struct.unpack_from(f"<{count}I", self._buffer, self._start + _HEADER.size)
            if sum(sizes) != total:
                raise FrameError(f"the payload sizes of a frame of type {frame_type} do not add up")
            view = memoryview(self._buffer)
            position += json_size
            for size in sizes:
                payloads.append(view[position:position + size])
                position += size
        self._start += self._needed
        self._needed = _HEADER.size
        return Frame(frame_type, message, payloads)

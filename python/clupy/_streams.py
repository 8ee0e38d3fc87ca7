# SPDX-License-Identifier: Apache-2.0
"""Payloads too large for one frame: what this client serves (arguments, code), and what it fetches (results)."""

from __future__ import annotations

import collections
import mmap
from bisect import bisect_right
from typing import List, Optional, Protocol, Sequence, Union

from ._connection import Connection
from ._frame import PAYLOAD_SIZE_MAX, Buffer, FrameType, encode_text

RESULT_WINDOW = 4 << 20  # how far a master may send ahead of our credit, in bytes
_CREDIT_STEP = RESULT_WINDOW // 4
_QUEUE_LOW = 1 << 20  # outgoing streams are served while fewer bytes than this wait to be written
_MMAP_MIN = 1 << 20
_PAYLOAD_PER_FRAME = PAYLOAD_SIZE_MAX


class Source(Protocol):
    """A payload of known size, whose bytes can be had in pieces; pieces() raises OSError when they are gone."""

    @property
    def size(self) -> int: ...

    def pieces(self, offset: int, size: int) -> List[memoryview]: ...


class Blob:
    """A payload as the buffers it is made of; served from them without joining."""

    __slots__ = ("_ends", "_views", "size")

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._views: List[memoryview] = []
        self._ends: List[int] = []
        self.size = 0
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            if view.nbytes:
                self.size += view.nbytes
                self._views.append(view)
                self._ends.append(self.size)

    def pieces(self, offset: int, size: int) -> List[memoryview]:
        """Views of the bytes from offset to offset + size, which must be within the payload."""
        found: List[memoryview] = []
        index = bisect_right(self._ends, offset)
        while size > 0:
            view = self._views[index]
            start = offset - (self._ends[index] - view.nbytes)
            piece = view[start:start + size]
            found.append(piece)
            offset += piece.nbytes
            size -= piece.nbytes
            index += 1
        return found

    def joined(self) -> bytes:
        return b"".join(self._views)


class OutgoingStream:
    """One payload on its way to the master, which grants credit for it."""

    __slots__ = ("_blob", "_credit", "_head", "_offset", "_text", "number")

    def __init__(self, number: int, blob: Source, window: int) -> None:
        self.number = number
        self._blob = blob
        self._credit = window
        self._offset = 0
        self._text = b'{"stream":%d}' % number
        # All but the last piece have the same head, which would otherwise be built thousands of times.
        self._head: Optional[Buffer] = None

    def credit(self, size: int) -> None:
        self._credit += size

    @property
    def finished(self) -> bool:
        return self._offset == self._blob.size

    @property
    def ready(self) -> bool:
        return self._offset == self._blob.size or self._credit > 0

    def next_frame(self) -> List[Buffer]:
        """The next piece, or the end. Only when ready."""
        if self.finished:
            return encode_text(FrameType.END, self._text)
        size = min(_PAYLOAD_PER_FRAME, self._credit, self._blob.size - self._offset)
        if size != _PAYLOAD_PER_FRAME:
            head = _data_head(self._text, size)
        else:
            if self._head is None:
                self._head = _data_head(self._text, size)
            head = self._head
        frame: List[Buffer] = [head, *self._blob.pieces(self._offset, size)]
        self._offset += size
        self._credit -= size
        return frame


_ZEROES = bytes(PAYLOAD_SIZE_MAX)


def _data_head(text: bytes, size: int) -> Buffer:
    return encode_text(FrameType.DATA, text, [memoryview(_ZEROES)[:size]])[0]


class OutgoingStreams:
    """All that are on their way over one connection."""

    def __init__(self) -> None:
        self._streams: collections.OrderedDict[int, OutgoingStream] = collections.OrderedDict()

    def begin(self, number: int, blob: Source, window: int) -> None:
        self._streams[number] = OutgoingStream(number, blob, window)

    def credit(self, number: int, size: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            stream.credit(size)

    def end(self, number: int) -> None:
        """The master wants no more of it, if it ever did."""
        self._streams.pop(number, None)

    def clear(self) -> None:
        self._streams.clear()

    def serve(self, connection: Connection) -> bool:
        """Queues one piece of each in turn, until enough waits to be written. Returns whether there was any."""
        any_sent = False
        while connection.queued < _QUEUE_LOW:
            ready = [stream for stream in self._streams.values() if stream.ready]
            if not ready:
                break
            for stream in ready:
                if stream.finished:
                    del self._streams[stream.number]
                try:
                    connection.send_encoded(stream.next_frame())
                except OSError as error:
                    del self._streams[stream.number]
                    connection.send(FrameType.END, {"stream": stream.number, "error": "gone", "message": str(error)})
                any_sent = True
                if connection.queued >= _QUEUE_LOW:
                    if stream.number in self._streams:
                        self._streams.move_to_end(stream.number)
                    break
        return any_sent


class IncomingStream:
    """One result on its way here, into memory that is writable so that arrays made from it are."""

    __slots__ = ("_received", "_uncredited", "_view", "buffer", "number", "size")

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        # Not touched before it is filled, unlike a bytearray's.
        self.buffer: Union[bytearray, mmap.mmap] = (
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) if size >= _MMAP_MIN else bytearray(size))
        self._view = memoryview(self.buffer)
        self._received = 0
        self._uncredited = 0

    def take(self, payload: memoryview) -> int:
        """Stores one piece; returns the credit to send now, in bytes, or 0. Raises ValueError when there is more than
        was announced."""
        end = self._received + payload.nbytes
        if end > self.size:
            raise ValueError(f"stream {self.number} brings more than its {self.size} bytes")
        self._view[self._received:end] = payload
        self._received = end
        self._uncredited += payload.nbytes
        if self._uncredited < _CREDIT_STEP:
            return 0
        credit, self._uncredited = self._uncredited, 0
        return credit

    @property
    def complete(self) -> bool:
        return self._received == self.size

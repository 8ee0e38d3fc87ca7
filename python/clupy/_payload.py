# SPDX-License-Identifier: Apache-2.0
"""What client and task hand each other: a pickle of protocol 5 and, beside it, the large buffers it refers to.

The layout (docs/protocol.md, "Payload streams"): "CPB1", the number of buffers (u32), the size of the pickle (u64),
the size of each buffer (u64), all little-endian; then, each from a multiple of 64 on, the pickle and the buffers. A
numpy array of any size goes into its pickle as a reference, so neither end copies it, and an array that is decoded
from writable memory is writable.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, Callable, Iterable, List, Optional, Sequence, Union

import cloudpickle  # type: ignore[import-untyped, import-not-found, unused-ignore]

if TYPE_CHECKING:
    import mmap  # few tasks need it, and each library is a handful of mappings that every task's fork copies

Buffer = Union[bytes, bytearray, memoryview, "mmap.mmap"]

MAGIC = b"CPB1"
ALIGNMENT = 64
BUFFERS_MAX = 1 << 20
OUT_OF_BAND_MIN = 4096  # bytes; smaller buffers cost more as buffers than as part of the pickle
_HEAD = struct.Struct("<4sIQ")
_PADDING = bytes(ALIGNMENT)
_IOV_MAX = 1024
_MAP_MIN = 256 << 10  # bytes; below, reading is cheaper than mapping


class PayloadError(ValueError):
    """Bytes that are no payload."""


class UnpicklableError(Exception):
    """A value that cannot be pickled. name: the type that is to blame, as exactly as it could be found out."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc, unused-ignore]
    """cloudpickle, except that it would send the content of an open file instead of the file, without a word."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
            if value not in (sys.stdin, sys.stdout, sys.stderr):
                raise UnpicklableError(type_name(type(value)), f"an open file ({_file_name(value)}) is no value")
        return super().reducer_override(value)


def _file_name(file: Any) -> str:
    return repr(getattr(file, "name", None) or type_name(type(file)))


def type_name(kind: type) -> str:
    """"module.Name", or "Name" for what is built in."""
    module = getattr(kind, "__module__", None)
    name = str(getattr(kind, "__qualname__", None) or kind)
    return name if module in (None, "builtins") else f"{module}.{name}"


def dumps(value: Any, buffer_callback: Optional[Callable[[pickle.PickleBuffer], Any]] = None) -> bytes:
    """Pickles with cloudpickle, protocol 5. Raises UnpicklableError, whatever went wrong, MemoryError apart."""
    file = io.BytesIO()
    try:
        _Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    except (UnpicklableError, MemoryError):
        raise
    except Exception as error:
        raise UnpicklableError(_culprit(value, error), _one_line(error)) from error
    return file.getvalue()


def _one_line(error: BaseException) -> str:
    try:
        return " ".join(str(error).split()) or type_name(type(error))
    except Exception:
        return type_name(type(error))


def _culprit(value: Any, error: Exception) -> str:
    """The type's name in "cannot pickle '_thread.lock' object", else that of the whole value."""
    found = re.search(r"cannot pickle '([^']+)'", _one_line(error))
    return found.group(1) if found else type_name(type(value))


def encode(value: Any) -> List[Buffer]:
    """The payload of a value as a list of buffers to be sent one after the other. Large ones are views of the value's
    own memory: it must not change until they are sent. Raises UnpicklableError."""
    buffers: List[memoryview] = []

    def out_of_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: as part of the pickle
            return True
        if view.nbytes < OUT_OF_BAND_MIN or len(buffers) >= BUFFERS_MAX:
            return True
        buffers.append(view)
        return False

    return assemble(dumps(value, out_of_band), buffers)


def assemble(data: bytes, buffers: Sequence[memoryview] = ()) -> List[Buffer]:
    """The payload of a pickle and its buffers."""
    head = _HEAD.pack(MAGIC, len(buffers), len(data)) + struct.pack(f"<{len(buffers)}Q", *(b.nbytes for b in buffers))
    parts: List[Buffer] = [head]
    position = len(head)
    content: List[Buffer] = [data, *buffers]
    for part in content:
        gap = -position % ALIGNMENT
        if gap:
            parts.append(_PADDING[:gap])
        parts.append(part)
        position += gap + memoryview(part).nbytes
    return parts


def decode(payload: Buffer) -> Any:
    """The value of a payload. Arrays in it are views of the payload's memory: writable if that is.

    Raises PayloadError when it is no payload, and whatever loading the pickle raises."""
    view = memoryview(payload).cast("B")
    if view.nbytes < _HEAD.size:
        raise PayloadError(f"a payload of {view.nbytes} bytes")
    magic, count, size = _HEAD.unpack_from(view)
    sizes_end = _HEAD.size + 8 * count
    if magic != MAGIC or count > BUFFERS_MAX or sizes_end > view.nbytes:
        raise PayloadError("no payload")
    position = sizes_end
    parts: List[memoryview] = []
    for part_size in (size, *struct.unpack_from(f"<{count}Q", view, _HEAD.size)):
        position += -position % ALIGNMENT
        if part_size > view.nbytes - position:
            raise PayloadError("a payload that was cut short")
        parts.append(view[position:position + part_size])
        position += part_size
    return pickle.loads(parts[0], buffers=parts[1:])


def read(fd: int) -> Buffer:
    """A whole file, usually a memfd, as writable memory: mapped privately when it is large. fd stays open.

    Raises OSError."""
    size = os.fstat(fd).st_size
    if size >= _MAP_MIN:
        import mmap

        return mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    content = bytearray(size)
    view = memoryview(content)
    position = 0
    while position < size:
        got = os.preadv(fd, [view[position:]], position)
        if got == 0:
            raise PayloadError("a file that became shorter")
        position += got
    return content


def write(fd: int, buffers: Iterable[Buffer]) -> None:
    """Writes all buffers, in order, without joining them. Raises OSError."""
    left = [view for view in (memoryview(buffer).cast("B") for buffer in buffers) if view.nbytes]
    first = 0
    while first < len(left):
        written = os.writev(fd, left[first:first + _IOV_MAX])
        while first < len(left) and written >= left[first].nbytes:
            written -= left[first].nbytes
            first += 1
        if written:
            left[first] = left[first][written:]


def to_memfd(buffers: Iterable[Buffer], name: str) -> int:
    """A new memfd that holds the buffers and can still be sealed; the caller closes it. Raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        write(fd, buffers)
    except BaseException:
        os.close(fd)
        raise
    return fd

# SPDX-License-Identifier: Apache-2.0
"""The layout of payloads, and what it promises: no copy, writable arrays, nothing believed."""

from __future__ import annotations

import io
import os
import struct
import threading
from typing import Any

import numpy
import pytest
from clupy import _payload


def joined(value: Any) -> Any:
    return b"".join(bytes(b) for b in _payload.encode(value))


def test_small_values_return() -> None:
    for value in (None, 1, "ä", [1, {"a": (2.5, b"x")}], {3, 4}, range(5)):
        assert _payload.decode(joined(value)) == value


def test_layout() -> None:
    array = numpy.arange(10000, dtype="u1")
    data = joined(array)
    magic, count, size = struct.unpack_from("<4sIQ", data)
    assert (magic, count) == (b"CPB1", 1)
    assert struct.unpack_from("<Q", data, 16) == (10000,)
    start = 64 + size + -size % 64  # the head has 24 bytes, so the pickle begins at 64
    assert data[start:] == array.tobytes()


def test_encoding_does_not_copy_large_buffers() -> None:
    array = numpy.zeros(1 << 20)
    views = [b for b in _payload.encode(array) if memoryview(b).nbytes == array.nbytes]
    array[5] = 7
    assert numpy.frombuffer(views[0])[5] == 7


def test_arrays_are_as_writable_as_their_memory() -> None:
    payload = joined({"large": numpy.ones(100000), "small": numpy.ones(3)})
    value = _payload.decode(bytearray(payload))
    value["large"][0] = 2
    value["small"][0] = 2
    assert not _payload.decode(bytes(payload))["large"].flags.writeable


def test_a_memfd_is_mapped_and_its_arrays_are_writable_without_changing_it() -> None:
    for size in (10, 1 << 20):
        fd = _payload.to_memfd(_payload.encode(numpy.zeros(size)), "test")
        value = _payload.decode(_payload.read(fd))
        value[0] = 1
        assert _payload.decode(_payload.read(fd))[0] == 0
        os.close(fd)


def test_arrays_that_are_not_contiguous() -> None:
    array = numpy.arange(100000).reshape(100, 1000)[::2, ::3]
    assert (_payload.decode(joined(array)) == array).all()
    fortran = numpy.asfortranarray(numpy.arange(10000.0).reshape(100, 100))
    returned = _payload.decode(bytearray(joined(fortran)))
    assert (returned == fortran).all() and returned.flags.f_contiguous


def test_many_buffers() -> None:
    arrays = [numpy.full(1024, i) for i in range(3000)]
    fd = _payload.to_memfd(_payload.encode(arrays), "test")
    assert all((a == b).all() for a, b in zip(arrays, _payload.decode(_payload.read(fd))))
    os.close(fd)


def test_nothing_is_believed() -> None:
    good = joined(numpy.zeros(1000))
    for end in range(0, len(good) - 1, 97):
        with pytest.raises(_payload.PayloadError):
            _payload.decode(good[:end])
    for bad in (b"CPB2" + good[4:], struct.pack("<4sIQ", b"CPB1", 0xFFFFFFFF, 1) + good[16:],
                struct.pack("<4sIQ", b"CPB1", 1, 1 << 63) + good[16:]):
        with pytest.raises(_payload.PayloadError):
            _payload.decode(bad)


@pytest.mark.parametrize(("make", "name"), [
    (threading.Lock, "_thread.lock"),
    (lambda: (None for _ in ()), "generator"),
    (lambda: open(os.devnull), "_io.TextIOWrapper"),
    (lambda: open(os.devnull, "rb"), "_io.BufferedReader"),
])
def test_what_cannot_be_pickled_is_named(make: Any, name: Any) -> None:
    with pytest.raises(_payload.UnpicklableError) as caught:
        _payload.encode({"deep": [make()]})
    assert caught.value.name == name


def test_nesting_that_is_too_deep() -> None:
    value: Any = []
    for _ in range(100000):
        value = [value]
    with pytest.raises(_payload.UnpicklableError, match="recursion"):
        _payload.encode(value)


def test_memory_files_are_values() -> None:
    assert _payload.decode(joined(io.BytesIO(b"x"))).read() == b"x"

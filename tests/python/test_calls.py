# SPDX-License-Identifier: Apache-2.0
"""What may be called, with what, and what comes back: against a process that does not have the tests' modules."""

from __future__ import annotations

import enum
import functools
import math
import pickle
import random
import socket
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, Iterator, Tuple

import clupy
import pytest

from fake_master import FakeMaster

OFFSET = 100
TABLE = {"a": 1}


def plain(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> Tuple[Any, ...]:
    return a, b, rest, c, more


def uses_global(x: int) -> int:
    return x + OFFSET + TABLE["a"]


class Point:
    made = 0

    def __init__(self, x: int) -> None:
        self.x = x

    def shifted(self, by: int) -> Point:
        return Point(self.x + by)

    @staticmethod
    def static(x: int) -> int:
        return x * 2

    @classmethod
    def origin(cls) -> Point:
        return cls(0)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class OwnError(Exception):
    pass


class ParticularError(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"code {code}: {reason}")
        self.code = code


class ReducedError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"reduced {code}")
        self.code = code

    def __reduce__(self) -> Any:
        return ReducedError, (self.code,)


def raises(kind: type, *args: Any) -> None:
    raise kind(*args)


def twice(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args) * 2
    return wrapper


@twice
def decorated(x: int) -> int:
    return x + 1


def make_closure(n: int) -> Any:
    return lambda x: x + n


def call(client: clupy.Client, function: Any, *args: Any, **kwargs: Any) -> Any:
    return client.parallel(function)(*args, **kwargs).result(20)


def test_arguments(client: clupy.Client) -> None:
    assert call(client, plain, 1) == (1, 2, (), 3, {})
    assert call(client, plain, 1, 5, 6, 7, c=8, d=9) == (1, 5, (6, 7), 8, {"d": 9})


def test_kinds_of_functions(client: clupy.Client) -> None:
    assert call(client, uses_global, 1) == 102
    assert call(client, lambda x: x * 3, 4) == 12
    assert call(client, make_closure(5), 1) == 6
    assert call(client, decorated, 4) == 10
    assert call(client, Point(4).shifted, 3).x == 7
    assert call(client, Point.static, 3) == 6
    assert isinstance(call(client, Point.origin), Point)
    assert call(client, functools.partial(plain, 9), c=1) == (9, 2, (), 1, {})
    assert call(client, math.sqrt, 16.0) == 4.0
    assert call(client, int, "12") == 12
    assert isinstance(call(client, Point, 3), Point)


def test_classes_come_back_as_themselves(client: clupy.Client) -> None:
    Point.made = 7

    def bump(point: Any) -> Any:
        type(point).made = 99
        return type(point)(point.x + 1), Colour.BLUE

    before = Point.__init__
    point, colour = call(client, bump, Point(1))
    assert type(point) is Point and point.x == 2 and colour is Colour.BLUE
    assert Point.made == 7, "what a task does to its copy of a class stays there"
    assert Point.__init__ is before


def test_a_class_made_in_the_task(client: clupy.Client) -> None:
    def make() -> Any:
        class Made:
            def hello(self) -> str:
                return "hello"
        return Made(), Made()

    first, second = call(client, make)
    assert first.hello() == "hello" and type(first) is type(second)


@pytest.fixture
def local_modules(tmp_path: Path) -> Iterator[Any]:
    (tmp_path / "localhelper.py").write_text(textwrap.dedent("""
        import threading
        import localother
        from localpackage.inner import deep
        SCALE = 3
        lock = threading.Lock()
        class Shape:
            def area(self): return SCALE * localother.base()
        class LocalError(Exception): pass
        def scaled(x): return x * SCALE
        def through_module(x):
            with lock:
                return localother.plus(x) + deep(x)
        def fails(): raise LocalError("local")
        """))
    (tmp_path / "localother.py").write_text(textwrap.dedent("""
        import localhelper
        log_file = open(__file__)
        def base(): return 10
        def plus(x): return x + 1 + localhelper.SCALE
        """))
    (tmp_path / "localpackage").mkdir()
    (tmp_path / "localpackage/__init__.py").write_text("")
    (tmp_path / "localpackage/inner.py").write_text("from . import deeper\ndef deep(x): return deeper.most(x) * 1000\n")
    (tmp_path / "localpackage/deeper.py").write_text("def most(x): return x + 1\n")
    sys.path.insert(0, str(tmp_path))
    import localhelper  # type: ignore[import-not-found]
    yield localhelper
    sys.path.remove(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("local") and name != "locale"]:
        del sys.modules[name]


def test_local_modules_travel_by_value(client: clupy.Client, local_modules: Any) -> None:
    assert call(client, local_modules.scaled, 4) == 12
    assert call(client, local_modules.through_module, 1) == 1 + 1 + 3 + 2000
    shape = call(client, lambda: local_modules.Shape())
    assert isinstance(shape, local_modules.Shape) and shape.area() == 30
    assert call(client, lambda shape: shape.area(), shape) == 30
    future = client.parallel(local_modules.fails)()
    with pytest.raises(local_modules.LocalError):
        future.result(20)


def test_functions_of_one_code_with_other_values(client: clupy.Client, master: FakeMaster) -> None:
    futures = [client.parallel(make_closure(n), server_count=2)(1) for n in range(5)]
    assert [future.result(20) for future in futures] == [1, 2, 3, 4, 5]
    assert len({future.job for future in futures}) == 1

    global OFFSET
    first = client.parallel(uses_global)(0)
    OFFSET += 1000
    try:
        second = client.parallel(uses_global)(0)
        assert second.result(20) - first.result(20) == 1000
    finally:
        OFFSET -= 1000
    TABLE["a"] = 50
    try:
        assert call(client, uses_global, 0) == 150
    finally:
        TABLE["a"] = 1


def test_own_exceptions(client: clupy.Client) -> None:
    with pytest.raises(OwnError) as caught:
        call(client, raises, OwnError, "text", 5)
    assert caught.value.args == ("text", 5)


def test_exceptions_whose_init_is_particular(client: clupy.Client) -> None:
    with pytest.raises(ParticularError) as caught:
        call(client, raises, ParticularError, 5, "odd")
    assert str(caught.value) == "code 5: odd" and caught.value.code == 5
    with pytest.raises(ReducedError) as reduced:
        call(client, raises, ReducedError, 5)
    assert str(reduced.value) == "reduced 5"
    with pytest.raises(UnicodeDecodeError, match="can't decode"):
        call(client, bytes.decode, b"\xff")
    with pytest.raises(FileNotFoundError) as missing:
        call(client, open, "/no/such/file")
    assert missing.value.errno == 2 and missing.value.filename == "/no/such/file"


def test_own_exception_type_and_traceback(client: clupy.Client) -> None:
    future = client.parallel(raises)(KeyError, "gone")
    with pytest.raises(KeyError) as caught:
        future.result(20)
    cause = caught.value.__cause__
    assert isinstance(cause, clupy.RemoteTraceback)
    assert "raise kind(*args)" in str(cause) and "test_calls.py" in str(cause)
    assert future.completed and not future.successful and future.value is None and future.failure is caught.value


def test_exit_does_not_end_this_program(client: clupy.Client) -> None:
    future = client.parallel(raises)(KeyboardInterrupt)
    with pytest.raises(clupy.RemoteError, match="KeyboardInterrupt, which is no Exception"):
        future.result(20)


def test_value_that_cannot_be_pickled(client: clupy.Client) -> None:
    with pytest.raises(clupy.ResultPicklingError, match="lock"):
        call(client, lambda: __import__("threading").Lock())


def test_value_that_cannot_be_loaded(client: clupy.Client) -> None:
    def foreign() -> Any:
        import sys
        import types
        module = types.ModuleType("only_there")
        sys.modules["only_there"] = module
        exec("class Thing: pass\nclass OddError(Exception): pass", module.__dict__)
        module.Thing.__module__ = module.OddError.__module__ = "only_there"
        return module

    def value() -> Any:
        return foreign().Thing()

    def failure() -> None:
        raise foreign().OddError("odd")

    with pytest.raises(clupy.RemoteError, match="only_there"):
        call(client, value)
    with pytest.raises(clupy.RemoteError, match="odd") as caught:
        call(client, failure)
    assert caught.value.type_name == "only_there.OddError" and "foreign()" in caught.value.traceback


@pytest.mark.parametrize(("make", "words"), [
    (lambda: open(__file__), "an open file"),
    (threading.Lock, "a lock"),
    (threading.RLock, "a lock"),
    (socket.socket, "a socket"),
    (lambda: (x for x in [1]), "a generator"),
    (lambda: [1, {"deep": threading.Event()}], "holds a lock"),
])
def test_refused_arguments(client: clupy.Client, make: Any, words: str) -> None:
    value = make()
    with pytest.raises(clupy.ArgumentPicklingError, match=rf"argument 'b' of plain\(\).*{words}") as caught:
        client.parallel(plain)(1, value)
    assert caught.value.name == "argument 'b' of plain()"
    with pytest.raises(clupy.ArgumentPicklingError, match="argument 'extra'"):
        client.parallel(plain)(1, extra=value)

    def captures() -> Any:
        return value

    with pytest.raises(clupy.ArgumentPicklingError, match="variable 'value'"):
        client.parallel(captures)()
    if hasattr(value, "close"):
        value.close()


def test_a_future_is_no_argument(client: clupy.Client) -> None:
    future = client.parallel(plain)(1)
    with pytest.raises(clupy.ArgumentPicklingError, match="result"):
        client.parallel(plain)(future)


class Vector:
    """Numbers in memory that pickles out of band, as numpy's arrays do; these tests run without numpy."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Vector, (pickle.PickleBuffer(self.data),)


def test_arguments_are_taken_at_call_time(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    data, words = bytearray(1 << 20), [1, 2]
    future = client.parallel(lambda v, w: (bytes(v.data[:2]), w))(Vector(data), words)
    data[:] = b"x" * len(data)
    words.append(3)
    master.hold.set()
    assert future.result(20) == (bytes(2), [1, 2])


def test_large_values(client: clupy.Client) -> None:
    data = random.randbytes(64 << 20)
    returned = call(client, lambda d: d + b"!", data)
    assert returned == data + b"!"


@pytest.mark.parametrize("size", [10, 5000, 64 << 20])
def test_arrays_are_out_of_band_and_writable(client: clupy.Client, size: int) -> None:
    def change(vector: Any) -> Any:
        vector.data[0] += 1  # writable there
        return vector

    vector = Vector(bytearray(size))
    result = call(client, change, vector)
    assert isinstance(result, Vector) and not result.data.readonly and len(result.data) == size
    result.data[1] = 5  # and here
    assert bytes(result.data[:2]) == b"\x01\x05" and vector.data[0] == 0
    frozen = call(client, lambda v: (v.data.readonly, v), Vector(bytes(size)))
    assert frozen[0] and frozen[1].data.readonly


def test_decorator_forms(client: clupy.Client) -> None:
    @client.parallel
    def first(x: int) -> int:
        "doc"
        return x if x == 0 else first(x - 1)  # type: ignore[return-value]  # in the task, the plain function

    @client.parallel(cpus=2, name="second one")
    def second(x: int) -> int:
        return x + 2

    class Model:
        factor = 3

        @client.parallel
        def fit(self, x: int) -> int:
            return self.factor * x

    assert first(3).result(20) == 0 and first.__doc__ == "doc" and getattr(first, "__name__") == "first"  # noqa: B009
    assert second(3).result(20) == 5
    assert Model().fit(5).result(20) == 15
    assert client.parallel(second, cpus=1)(1).result(20) == 3  # type: ignore[comparison-overlap]


def test_options_on_the_wire(client: clupy.Client, master: FakeMaster) -> None:
    future = client.parallel(plain, server_count=3, cpus=0.5, memory="2G", timeout="90s", priority=5, retries=0,
                             name="grid", deadline="8h")(1)
    future.result(20)
    job = master.jobs[future.job]
    assert {key: job[key] for key in ("name", "server_count", "cpus", "memory", "timeout_ms", "priority", "retries")} == {
        "name": "grid", "server_count": 3, "cpus": 0.5, "memory": 2 << 30, "timeout_ms": 90000, "priority": 5,
        "retries": 0}
    task = next(t for kind, m in master.frames if kind == 16 for t in m["tasks"] if t["id"] == future.id)
    assert 8 * 3600_000 - 20_000 < task["deadline_ms"] <= 8 * 3600_000
    future = client.parallel(plain)(1)
    future.result(20)
    plain_job = master.jobs[future.job]
    assert not {"cpus", "memory", "timeout_ms", "server_count"} & plain_job.keys()


@pytest.mark.parametrize(("options", "kind", "words"), [
    ({"cpu": 1}, TypeError, "did you mean 'cpus'"),
    ({"cpus": 0}, ValueError, "cpus"),
    ({"cpus": "2"}, TypeError, "cpus"),
    ({"memory": "5 apples"}, ValueError, "memory"),
    ({"memory": -1}, ValueError, "memory"),
    ({"timeout": "soon"}, ValueError, "timeout"),
    ({"timeout": 0}, ValueError, "timeout"),
    ({"timeout": 1e30}, ValueError, "timeout: expected at most"),
    ({"deadline": 1e30}, ValueError, "deadline: expected at most"),
    ({"memory": 1 << 62}, ValueError, "memory: expected at most"),
    ({"memory": "1K"}, ValueError, "memory: expected at least 16M"),
    ({"memory": (16 << 20) - 1}, ValueError, "memory: expected at least 16M"),
    ({"server_count": 100001}, ValueError, "server_count"),
    ({"retries": -1}, ValueError, "retries"),
    ({"retry_on": 5}, TypeError, "retry_on"),
    ({"server_count": 0}, ValueError, "server_count"),
    ({"server_count": 1.5}, TypeError, "server_count"),
    ({"isolation": "none"}, ValueError, "isolation"),
    ({"isolation": "job"}, NotImplementedError, "isolation"),
    ({"policy": "A B"}, ValueError, "policy"),
    ({"name": ""}, ValueError, "name"),
    ({"detach": 1}, TypeError, "detach"),
])
def test_wrong_options(options: Any, kind: type, words: str) -> None:
    for form in (lambda: clupy.parallel(plain, **options), lambda: clupy.parallel(**options)):
        with pytest.raises(kind, match=words):
            form()
    with pytest.raises(TypeError, match="function"):
        clupy.parallel(5)  # type: ignore[call-overload]


def test_jobs(client: clupy.Client, master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    import clupy._job
    first = [client.parallel(plain, server_count=2)(n) for n in range(3)]
    assert len({future.job for future in first}) == 1
    assert client.parallel(plain, server_count=3)(1).job != first[0].job
    assert client.parallel(plain)(1).job != first[0].job
    clupy.wait_all(first)
    assert client.parallel(plain, server_count=2)(1).job == first[0].job, "open for a second after its last call"
    monkeypatch.setattr(clupy._job, "OPEN_AFTER_LAST", -1.0)
    master.wait_for(lambda: client.parallel(plain, server_count=2)(1).job != first[0].job)


def test_explicit_jobs(client: clupy.Client, master: FakeMaster) -> None:
    with client.job("grid", server_count=50, cpus=2):
        futures = [client.parallel(plain)(1), client.parallel(uses_global)(1), client.parallel(make_closure(1))(1)]
        other = client.parallel(plain, cpus=1)(1)
    assert len({future.job for future in futures}) == 1
    job = master.jobs[futures[0].job] if clupy.wait_all(futures, time_out=20) else {}
    assert (job["name"], job["server_count"], job["cpus"]) == ("grid", 50, 2.0)
    assert other.job != futures[0].job
    assert [future.value for future in futures] == [(1, 2, (), 3, {}), 102, 2]
    assert client.parallel(plain)(1).job != futures[0].job
    with pytest.raises(TypeError, match="server_coun"):
        client.job("x", server_coun=1)


def test_code_is_sent_once(client: clupy.Client, master: FakeMaster) -> None:
    clupy.wait_all([client.parallel(uses_global)(n) for n in range(20)], time_out=20)
    # Asked for by the fake for each task that it has no code for yet; the job is one, its digest too.
    assert len({job["code"] for job in master.jobs.values()}) == 1


def test_generators_of_modules_by_name(client: clupy.Client) -> None:
    """`from random import random`, used or called: the task's own generator, not a copy of this process's."""
    draw, name = random.random, "random"
    state = random.getstate()
    random.seed(3)
    ours = random.random()
    random.seed(3)
    try:
        assert client.parallel(lambda: draw.__self__ is sys.modules[name]._inst)().result(20)  # type: ignore[attr-defined]
        assert client.parallel(random.random)().result(20) != ours
        assert client.parallel(random.Random(3).random)().result(20) == ours
    finally:
        random.setstate(state)


def test_function_too_large(client: clupy.Client) -> None:
    data = bytes(65 << 20)
    with pytest.raises(clupy.ArgumentPicklingError, match=r"65M, and 64M is the most; hand large data over as arguments"):
        client.parallel(lambda: len(data))()
    assert client.parallel(len)(data).result(20) == len(data)


def test_long_names(client: clupy.Client, master: FakeMaster) -> None:
    """Bounds are in bytes."""
    assert client.parallel(plain, name="é" * 64)(1).result(20)
    with pytest.raises(ValueError, match="128 bytes"):
        client.parallel(plain, name="é" * 65)
    with pytest.raises(ValueError, match="128 bytes"):
        client.job("x" * 129)

# SPDX-License-Identifier: Apache-2.0
"""What happens around the user's function in a task, each in a forked child as in the sandbox, without the sandbox."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import random
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, Callable, Optional, Tuple

import cloudpickle  # type: ignore[import-untyped, unused-ignore]
import numpy
import pytest
from clupy import _current, _payload, _task

COUNTER = 0
ID = "0123456789abcdef" * 2


class Outcome:
    def __init__(self, status: Any, kind: Any, value: Any, retry: Any, detail: Any, messages: Any, out: Any) -> None:
        self.status, self.kind, self.value, self.retry, self.detail = status, kind, value, retry, detail
        self.messages, self.out = messages, out


def run(function: Any, *args: Any, retry_on: Tuple[Any, ...] = (), cpus: int = 1, rehearse: bool = True,
        before: Optional[Callable[[], Any]] = None, code: Optional[bytes] = None, **kwargs: Any) -> Outcome:
    """As clupy-zygote's child runs it."""
    ours, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    code_fd = _payload.to_memfd([code or cloudpickle.dumps(function, protocol=5)], "code")
    args_fd = _payload.to_memfd(_payload.encode((args, kwargs, {"retry_on": retry_on})), "args")
    out_fd = os.memfd_create("out")
    answer, answer_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(out_fd, 1)
            os.dup2(out_fd, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
            if before:
                before()
            _task.prepare()
            if rehearse:
                _task.rehearse()
            kind, fd, retry, detail = _task.run(control.fileno(), code_fd, args_fd, {
                "task": ID, "job": ID, "owner": "alice", "node": "node1", "unit": "u.scope", "attempt": 2, "cpus": cpus})
            content = b""
            if fd >= 0:
                content = bytes(_payload.read(fd))
            os.write(answer_child, json.dumps([kind, retry, detail, len(content)]).encode().ljust(4096))
            os.lseek(out_fd, 0, os.SEEK_END)
            with open(answer_child, "wb", closefd=False) as file:
                file.write(content)
        finally:
            os._exit(0)
    os.close(answer_child)
    os.close(code_fd)
    os.close(args_fd)
    with open(answer, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    control.close()
    messages = []
    while True:
        message = ours.recv(1024)
        if not message:
            break
        messages.append(message)
    ours.close()
    os.lseek(out_fd, 0, os.SEEK_SET)
    with open(out_fd) as file:
        out = file.read()
    if not data:
        return Outcome(os.waitstatus_to_exitcode(status), None, None, 0, "", messages, out)
    kind, retry, detail, size = json.loads(data[:4096])
    content = data[4096:]
    assert len(content) == size
    return Outcome(os.waitstatus_to_exitcode(status), kind, _payload.decode(content) if content else None, retry, detail,
                   messages, out)


def value_of(function: Any, *args: Any, **kwargs: Any) -> Any:
    outcome = run(function, *args, **kwargs)
    assert outcome.kind == _task.VALUE, (outcome.kind, outcome.value, outcome.detail, outcome.out)
    return outcome.value


def test_value() -> None:
    assert value_of(lambda a, b=2: a * b, 21) == 42
    assert value_of(lambda a, b=2: a * b, 21, b=3) == 63
    assert value_of(lambda: None) is None


def test_large_argument_is_writable() -> None:
    def change(array: Any) -> Any:
        array[0] = 5
        return array

    returned = value_of(change, numpy.zeros(1 << 20))
    assert returned[0] == 5 and returned.nbytes == 8 << 20


def test_coroutine_function() -> None:
    async def wait(x: Any) -> Any:
        await asyncio.sleep(0.001)
        return x + 1

    assert value_of(wait, 1) == 2


def test_global_counter_is_one_in_every_call() -> None:
    def count() -> Any:
        global COUNTER
        COUNTER += 1
        return COUNTER

    count.__module__ = "__main__"  # as in a user's program: by value
    code = cloudpickle.dumps(count, protocol=5)
    assert [value_of(None, code=code) for _ in range(3)] == [1, 1, 1]


def test_exception() -> None:
    def outer(x: Any) -> Any:
        def inner() -> Any:
            raise ValueError("no ä")
        inner()

    outcome = run(outer, 1)
    assert outcome.kind == _task.EXCEPTION
    error = pickle.loads(outcome.value["exception"])
    assert type(error) is ValueError and error.args == ("no ä",)
    assert outcome.value["type"] == "builtins.ValueError" and outcome.value["message"] == "no ä"
    text = outcome.value["traceback"]
    assert text.startswith("Traceback") and text.rstrip().endswith("ValueError: no ä")
    assert "in outer" in text and "in inner" in text and "_task.py" not in text and not outcome.retry


def test_exception_in_a_coroutine_shows_the_users_frames_only() -> None:
    async def fail() -> Any:
        raise KeyError("k")

    text = run(fail).value["traceback"]
    assert "in fail" in text and "asyncio" not in text and "_task.py" not in text


def test_chained_exceptions() -> None:
    def fail() -> Any:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error

    text = run(fail).value["traceback"]
    assert text.index("first") < text.index("direct cause") < text.index("second")


def test_exception_that_cannot_be_pickled() -> None:
    def fail() -> Any:
        error = RuntimeError("has a lock")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    content = run(fail).value
    assert content["exception"] is None and content["type"] == "builtins.RuntimeError"
    assert content["message"] == "has a lock" and "in fail" in content["traceback"]


def test_exception_without_text() -> None:
    class Odd(Exception):
        def __str__(self) -> Any:
            raise RuntimeError

    def fail() -> Any:
        raise Odd

    assert run(fail).value["message"] == "<" + Odd.__qualname__ + " without text>"


def test_keyboard_interrupt_is_an_exception() -> None:
    def interrupt() -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    assert run(interrupt).value["type"] == "builtins.KeyboardInterrupt"


def test_endless_recursion() -> None:
    def recurse(n: Any) -> Any:
        return recurse(n + 1)

    content = run(recurse, 0).value
    assert content["type"] == "builtins.RecursionError" and len(content["traceback"]) < 10000


def test_retry_on() -> None:
    class Mine(OSError):
        pass

    def fail(kind: Any) -> Any:
        raise kind("again")

    assert run(fail, ConnectionError, retry_on=(OSError,)).retry == 1
    assert run(fail, ValueError, retry_on=(OSError, KeyError)).retry == 0
    assert run(fail, Mine, retry_on=(Mine,)).retry == 1


@pytest.mark.parametrize(("code", "status"), [(None, 0), (3, 3), (256 + 7, 7), ("words", 1)])
def test_exit(code: Any, status: Any) -> None:
    def leave() -> Any:
        print("before")
        sys.exit(code)

    outcome = run(leave)
    assert outcome.kind is None and outcome.status == status
    assert outcome.out == "before\n" + ("words\n" if code == "words" else "")


def test_lines_are_out_before_the_process_ends() -> None:
    def die() -> Any:
        print("last words")
        os._exit(9)

    outcome = run(die)
    assert outcome.status == 9 and outcome.out == "last words\n"


def test_result_that_cannot_be_pickled() -> None:
    outcome = run(lambda: {"x": threading.Lock()})
    assert outcome.kind == _task.UNPICKLABLE and outcome.value is None and outcome.detail == "_thread.lock"
    assert run(lambda: open(os.devnull)).detail.startswith("_io.TextIOWrapper (an open file")
    assert len(run(lambda: type("N" * 500, (), {"__reduce__": lambda s: 1 / 0})()).detail.encode()) <= 127


def test_a_function_that_cannot_be_loaded() -> None:
    class Missing:
        def __reduce__(self) -> Any:
            return __import__, ("no_such_module",)

    content = run(None, code=pickle.dumps(Missing())).value
    assert content["type"] == "builtins.ModuleNotFoundError" and "no_such_module" in content["message"]


def test_arguments_that_are_none() -> None:
    outcome = run(lambda: 1, code=b"junk")
    assert outcome.kind == _task.EXCEPTION


def test_random_numbers_differ() -> None:
    random.seed(1)
    numpy.random.seed(1)
    values = {value_of(lambda: (random.random(), float(numpy.random.rand()))) for _ in range(20)}
    assert len({a for a, _ in values}) == 20 and len({b for _, b in values}) == 20


def test_thread_limits() -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    assert value_of(lambda: [os.environ[n] for n in names], cpus=3) == ["3"] * 4


def test_current() -> None:
    def who() -> Any:
        import clupy._current
        return clupy._current.current()

    task = value_of(who, cpus=2)
    assert (task.id, task.task_id, task.job, task.attempt) == (ID, ID, ID, 2)
    assert (task.owner, task.node, task.unit, task.cpus) == ("alice", "node1", "u.scope", 2)
    assert _current.current() is None


def parsed(message: Any) -> Any:
    op, _, done, total, note = struct.unpack("@IIdd128s", message)
    assert op == 8
    return done, total, note.split(b"\0")[0].decode()


def test_progress_is_limited_and_the_last_one_arrives() -> None:
    def work() -> Any:
        from clupy._current import progress
        for i in range(1000):
            progress(i, 1000, f"step {i}\nä" + "é" * 100)
        progress(1000)

    outcome = run(work)
    assert 2 <= len(outcome.messages) <= 5
    done, total, note = parsed(outcome.messages[0])
    assert (done, total) == (0, 1000) and note.startswith("step 0 ä") and len(note.encode()) <= 127
    assert parsed(outcome.messages[-1]) == (1000, 0, "")


def test_progress_never_raises() -> None:
    def work() -> Any:
        from clupy._current import progress
        progress(float("nan"))
        progress("x")  # type: ignore[arg-type]
        progress(1, object(), object())  # type: ignore[arg-type]
        for _ in range(20000):
            progress(1)

    run(work, before=None)
    _current.progress(1, 2)
    assert run(lambda: None).messages == []


def test_progress_does_not_wait_for_its_reader() -> None:
    def work() -> Any:
        import clupy._current
        clupy._current._INTERVAL = 0
        for i in range(100000):
            clupy._current.progress(i)
        return True

    assert value_of(work) is True


def test_broken_pipes_raise() -> None:
    def write() -> Any:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            os.write(writer, b"x")
        except BrokenPipeError:
            return "raised"

    assert value_of(write) == "raised"


def test_the_function_finds_no_descriptors_of_ours() -> None:
    def listed() -> Any:
        import glob
        return [os.readlink(name) for name in glob.glob("/proc/self/fd/*") if os.path.lexists(name)]

    assert not [name for name in value_of(listed) if "memfd:" in name and "memfd:out" not in name]


@pytest.mark.parametrize("fails", [False, True])
def test_a_forked_child_that_returns_has_no_result(fails: Any) -> None:
    def split() -> Any:
        pid = os.fork()
        if pid == 0:
            if fails:
                raise ValueError
            return "child"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert value_of(split) == int(fails)


def test_without_rehearsal() -> None:
    assert value_of(lambda: 1, rehearse=False) == 1


# What a failure for want of room comes from. The files here are the host's: that they are full is only said.


def _no_room(path: str, cause: bool = False) -> None:
    import errno
    raise OSError(errno.ENOSPC, "No space left on device", path)


def _wrapped() -> None:
    try:
        _no_room("/tmp/work/x")
    except OSError:
        raise RuntimeError("cannot save the model")


def _wrapped_from() -> None:
    try:
        _no_room("/dev/shm/x")
    except OSError as error:
        raise RuntimeError("cannot save the model") from error


def _hidden() -> None:
    try:
        _no_room("/tmp/x")
    except OSError:
        raise RuntimeError("cannot save the model") from None


def _handled() -> str:
    try:
        _no_room("/tmp/x")
    except OSError as error:
        return f"caught {error.errno}"
    return ""


def _written(path: str) -> None:
    """As a write fails: without a name."""
    import errno
    import tempfile
    with tempfile.TemporaryDirectory() as folder, open(path.replace("FOLDER", folder), "wb") as file:
        if not file.closed:
            raise OSError(errno.ENOSPC, "No space left on device")


def _dev_full() -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def _other_error() -> None:
    raise FileNotFoundError(2, "No such file", "/tmp/x")


@pytest.mark.parametrize(("function", "arguments", "kind", "place"), [
    (_no_room, ("/tmp/work/x",), _task.DISK, "/tmp"), (_no_room, ("/dev/shm/x",), _task.DISK, "/dev/shm"),
    (_no_room, ("/tmpx/x",), _task.EXCEPTION, ""), (_no_room, ("/dev/full",), _task.EXCEPTION, ""),
    (_no_room, (b"/tmp/x",), _task.DISK, "/tmp"),
    (_wrapped, (), _task.DISK, "/tmp"), (_wrapped_from, (), _task.DISK, "/dev/shm"), (_hidden, (), _task.EXCEPTION, ""),
    (_handled, (), _task.VALUE, ""), (_written, ("FOLDER/x",), _task.DISK, "/tmp"), (_dev_full, (), _task.EXCEPTION, ""),
    (_other_error, (), _task.EXCEPTION, ""),
])
def test_want_of_room(function: Any, arguments: Any, kind: Any, place: Any) -> None:
    outcome = run(function, *arguments)
    assert (outcome.kind, outcome.detail) == (kind, place)


def test_want_of_room_is_run_again_for() -> None:
    assert run(_no_room, "/tmp/x", retry_on=(OSError,)).retry == 1
    assert run(_no_room, "/tmp/x").retry == 0


def test_practice_leaves_a_zygote_as_it_was() -> None:
    def seen() -> Tuple[int, Any, Any, bool]:
        return _task._prepared_process, signal.getsignal(signal.SIGXFSZ), _current.current(), bool(_task._kept)

    answer, answer_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            registered = []
            os.register_at_fork = lambda **hooks: registered.append(hooks)
            before = len(os.listdir("/proc/self/fd"))
            _task.prepare()
            same = len(os.listdir("/proc/self/fd")) == before
            os.write(answer_child, repr((seen() == (0, signal.SIG_DFL, None, True), same, registered)).encode())
        finally:
            os._exit(0)
    os.close(answer_child)
    os.waitpid(pid, 0)
    assert os.read(answer, 4096).decode() == "(True, True, [])"
    os.close(answer)


def test_what_a_child_makes_lies_side_by_side() -> None:
    def distances() -> int:
        made = [[bytes(size - bytes.__basicsize__) for _ in range(2)] for size in range(48, 513, 16)]
        return sum(id(second) - id(first) == sys.getsizeof(first) + -sys.getsizeof(first) % 16 for first, second in made)

    answer, answer_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _task.prepare()
            os.write(answer_child, str(distances()).encode())
        finally:
            os._exit(0)
    os.close(answer_child)
    os.waitpid(pid, 0)
    assert int(os.read(answer, 64)) >= 25  # of 30 sizes
    os.close(answer)

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

import cloudpickle
import numpy
import pytest
from clupy import _current, _payload, _task

COUNTER = 0
ID = "0123456789abcdef" * 2


class Outcome:
    def __init__(self, status, kind, value, retry, detail, messages, out):
        self.status, self.kind, self.value, self.retry, self.detail = status, kind, value, retry, detail
        self.messages, self.out = messages, out


def run(function, *args, retry_on=(), cpus=1, rehearse=True, before=None, code=None, **kwargs):
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


def value_of(function, *args, **kwargs):
    outcome = run(function, *args, **kwargs)
    assert outcome.kind == _task.VALUE, (outcome.kind, outcome.value, outcome.detail, outcome.out)
    return outcome.value


def test_value():
    assert value_of(lambda a, b=2: a * b, 21) == 42
    assert value_of(lambda a, b=2: a * b, 21, b=3) == 63
    assert value_of(lambda: None) is None


def test_large_argument_is_writable():
    def change(array):
        array[0] = 5
        return array

    returned = value_of(change, numpy.zeros(1 << 20))
    assert returned[0] == 5 and returned.nbytes == 8 << 20


def test_coroutine_function():
    async def wait(x):
        await asyncio.sleep(0.001)
        return x + 1

    assert value_of(wait, 1) == 2


def test_global_counter_is_one_in_every_call():
    def count():
        global COUNTER
        COUNTER += 1
        return COUNTER

    count.__module__ = "__main__"  # as in a user's program: by value
    code = cloudpickle.dumps(count, protocol=5)
    assert [value_of(None, code=code) for _ in range(3)] == [1, 1, 1]


def test_exception():
    def outer(x):
        def inner():
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


def test_exception_in_a_coroutine_shows_the_users_frames_only():
    async def fail():
        raise KeyError("k")

    text = run(fail).value["traceback"]
    assert "in fail" in text and "asyncio" not in text and "_task.py" not in text


def test_chained_exceptions():
    def fail():
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error

    text = run(fail).value["traceback"]
    assert text.index("first") < text.index("direct cause") < text.index("second")


def test_exception_that_cannot_be_pickled():
    def fail():
        error = RuntimeError("has a lock")
        error.lock = threading.Lock()
        raise error

    content = run(fail).value
    assert content["exception"] is None and content["type"] == "builtins.RuntimeError"
    assert content["message"] == "has a lock" and "in fail" in content["traceback"]


def test_exception_without_text():
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    def fail():
        raise Odd

    assert run(fail).value["message"] == "<" + Odd.__qualname__ + " without text>"


def test_keyboard_interrupt_is_an_exception():
    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    assert run(interrupt).value["type"] == "builtins.KeyboardInterrupt"


def test_endless_recursion():
    def recurse(n):
        return recurse(n + 1)

    content = run(recurse, 0).value
    assert content["type"] == "builtins.RecursionError" and len(content["traceback"]) < 10000


def test_retry_on():
    class Mine(OSError):
        pass

    def fail(kind):
        raise kind("again")

    assert run(fail, ConnectionError, retry_on=(OSError,)).retry == 1
    assert run(fail, ValueError, retry_on=(OSError, KeyError)).retry == 0
    assert run(fail, Mine, retry_on=(Mine,)).retry == 1


@pytest.mark.parametrize(("code", "status"), [(None, 0), (3, 3), (256 + 7, 7), ("words", 1)])
def test_exit(code, status):
    def leave():
        print("before")
        sys.exit(code)

    outcome = run(leave)
    assert outcome.kind is None and outcome.status == status
    assert outcome.out == "before\n" + ("words\n" if code == "words" else "")


def test_lines_are_out_before_the_process_ends():
    def die():
        print("last words")
        os._exit(9)

    outcome = run(die)
    assert outcome.status == 9 and outcome.out == "last words\n"


def test_result_that_cannot_be_pickled():
    outcome = run(lambda: {"x": threading.Lock()})
    assert outcome.kind == _task.UNPICKLABLE and outcome.value is None and outcome.detail == "_thread.lock"
    assert run(lambda: open(os.devnull)).detail.startswith("_io.TextIOWrapper (an open file")
    assert len(run(lambda: type("N" * 500, (), {"__reduce__": lambda s: 1 / 0})()).detail.encode()) <= 127


def test_a_function_that_cannot_be_loaded():
    class Missing:
        def __reduce__(self):
            return __import__, ("no_such_module",)

    content = run(None, code=pickle.dumps(Missing())).value
    assert content["type"] == "builtins.ModuleNotFoundError" and "no_such_module" in content["message"]


def test_arguments_that_are_none():
    outcome = run(lambda: 1, code=b"junk")
    assert outcome.kind == _task.EXCEPTION


def test_random_numbers_differ():
    random.seed(1)
    numpy.random.seed(1)
    values = {value_of(lambda: (random.random(), float(numpy.random.rand()))) for _ in range(20)}
    assert len({a for a, _ in values}) == 20 and len({b for _, b in values}) == 20


def test_thread_limits():
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    assert value_of(lambda: [os.environ[n] for n in names], cpus=3) == ["3"] * 4


def test_current():
    def who():
        import clupy._current
        return clupy._current.current()

    task = value_of(who, cpus=2)
    assert (task.id, task.task_id, task.job, task.attempt) == (ID, ID, ID, 2)
    assert (task.owner, task.node, task.unit, task.cpus) == ("alice", "node1", "u.scope", 2)
    assert _current.current() is None


def parsed(message):
    op, _, done, total, note = struct.unpack("@IIdd128s", message)
    assert op == 8
    return done, total, note.split(b"\0")[0].decode()


def test_progress_is_limited_and_the_last_one_arrives():
    def work():
        from clupy._current import progress
        for i in range(1000):
            progress(i, 1000, f"step {i}\nä" + "é" * 100)
        progress(1000)

    outcome = run(work)
    assert 2 <= len(outcome.messages) <= 5
    done, total, note = parsed(outcome.messages[0])
    assert (done, total) == (0, 1000) and note.startswith("step 0 ä") and len(note.encode()) <= 127
    assert parsed(outcome.messages[-1]) == (1000, 0, "")


def test_progress_never_raises():
    def work():
        from clupy._current import progress
        progress(float("nan"))
        progress("x")
        progress(1, object(), object())
        for _ in range(20000):
            progress(1)

    run(work, before=None)
    _current.progress(1, 2)
    assert run(lambda: None).messages == []


def test_progress_does_not_wait_for_its_reader():
    def work():
        import clupy._current
        clupy._current._INTERVAL = 0
        for i in range(100000):
            clupy._current.progress(i)
        return True

    assert value_of(work) is True


def test_broken_pipes_raise():
    def write():
        reader, writer = os.pipe()
        os.close(reader)
        try:
            os.write(writer, b"x")
        except BrokenPipeError:
            return "raised"

    assert value_of(write) == "raised"


def test_the_function_finds_no_descriptors_of_ours():
    def listed():
        import glob
        return [os.readlink(name) for name in glob.glob("/proc/self/fd/*") if os.path.lexists(name)]

    assert not [name for name in value_of(listed) if "memfd:" in name and "memfd:out" not in name]


@pytest.mark.parametrize("fails", [False, True])
def test_a_forked_child_that_returns_has_no_result(fails):
    def split():
        pid = os.fork()
        if pid == 0:
            if fails:
                raise ValueError
            return "child"
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert value_of(split) == int(fails)


def test_without_rehearsal():
    assert value_of(lambda: 1, rehearse=False) == 1

# SPDX-License-Identifier: Apache-2.0
"""RemoteExecutionFuture: the seed's interface, concurrent.futures, asyncio, callbacks, cancellation, Ctrl-C."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, List

import clupy
import pytest

from fake_master import ANSWER, CANCEL, GOODBYE, STATUS, SUBMIT, FakeMaster


def same(x: Any) -> Any:
    return x


def fails(x: Any) -> None:
    raise ValueError(x)


def test_the_seeds_interface(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    future = client.parallel(same)(5)
    assert not future.completed and not future.successful and future.value is None and future.failure is None
    assert future.wait(0.05) is False and future.wait(time_out=0.01) is False and future.wait(timeout="50ms") is False
    master.hold.set()
    assert future.wait() is True
    assert future.completed and future.successful and future.value == 5 and future.failure is None
    failed = client.parallel(fails)(5)
    assert failed.wait(timeout=20)
    assert failed.completed and not failed.successful and failed.value is None and isinstance(failed.failure, ValueError)


def test_both_spellings_of_timeout(client: clupy.Client) -> None:
    future = client.parallel(same)(1)
    for wait in (future.wait, future.result, future.exception, lambda **k: clupy.wait_all([future], **k)):
        with pytest.raises(TypeError, match="time_out"):
            wait(timeout=1, time_out=1)
    assert clupy.wait_all([future], timeout=20) and clupy.wait_all([future], time_out="20s")
    with pytest.raises(TypeError, match="wait_all"):
        clupy.wait_all([5])  # type: ignore[list-item]
    assert clupy.wait_all([]) is True


@pytest.mark.parametrize("value", [None, 0, "", [], 7])
def test_callbacks_fire_once(client: clupy.Client, master: FakeMaster, value: Any) -> None:
    master.hold.clear()
    seen: List[Any] = []
    future = client.parallel(same)(value)
    assert future.succeed(lambda x: seen.append(("early", x))).fail(lambda x: seen.append(("never", x))) is future
    master.hold.set()
    assert clupy.wait_all([future], time_out=20)
    assert seen == [("early", value)], "when wait_all returns the callbacks have run"
    future.succeed(lambda x: seen.append(("late", x)))
    assert seen == [("early", value), ("late", value)], "at once if already done"
    failed = client.parallel(fails)(value)
    failed.fail(lambda error: seen.append(error.args)).succeed(lambda x: seen.append("never"))
    clupy.wait_all([failed], time_out=20)
    assert seen[2:] == [(value,)]
    with pytest.raises(TypeError):
        future.succeed(5)  # type: ignore[arg-type]


def test_callbacks_run_on_one_thread_in_order(client: clupy.Client) -> None:
    threads, order, done = set(), [], []
    futures = []

    def ran(x: Any) -> None:
        threads.add(threading.current_thread().name)
        order.append(x)

    for n in range(50):
        future = client.parallel(same)(n)
        future.add_done_callback(lambda f: done.append(f.id))  # type: ignore[attr-defined]
        future.succeed(ran)
        futures.append(future)
    assert clupy.wait_all(futures, time_out=30)
    assert sorted(order) == list(range(50)) and done == [futures[n].id for n in order]
    assert threads <= {"clupy-callbacks", "MainThread"}


def test_a_callback_may_use_the_cluster(client: clupy.Client, caplog: pytest.LogCaptureFixture) -> None:
    seen: List[Any] = []
    future = client.parallel(same)(1)
    future.succeed(lambda x: seen.append(client.parallel(same)(x + 1).result(20)))
    future.succeed(lambda x: 1 / 0).succeed(lambda x: seen.append("after"))
    future.succeed(lambda x: seen.append(clupy.wait_all([future])))
    clupy.wait_all([future], time_out=20)
    assert seen == [2, "after", True] and "ZeroDivisionError" in caplog.text


def test_concurrent_futures(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    futures = [client.parallel(same)(n) for n in range(5)]
    assert isinstance(futures[0], concurrent.futures.Future)
    with pytest.raises(concurrent.futures.TimeoutError):
        futures[0].result(0.01)
    with pytest.raises(concurrent.futures.TimeoutError):
        futures[0].exception(timeout=0.01)
    master.wait_for(lambda: all(future.running() for future in futures))
    assert not futures[0].done() and not futures[0].cancelled()
    master.hold.set()
    done, pending = concurrent.futures.wait(futures, 20)
    assert done == set(futures) and not pending
    assert sorted(f.result() for f in concurrent.futures.as_completed(futures, 20)) == [0, 1, 2, 3, 4]
    assert futures[0].exception() is None and futures[0].done() and not futures[0].running()
    failed = client.parallel(fails)(1)
    done, _ = concurrent.futures.wait([failed], 20, concurrent.futures.FIRST_EXCEPTION)
    assert isinstance(failed.exception(), ValueError) and not failed.cancel()


def test_awaiting(client: clupy.Client, master: FakeMaster) -> None:
    async def main() -> Any:
        values = await asyncio.gather(*(client.parallel(same)(n) for n in range(5)))
        with pytest.raises(ValueError):
            await client.parallel(fails)(1)
        wrapped = await asyncio.wrap_future(client.parallel(same)(9))
        master.hold.clear()
        future = client.parallel(same)(1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(_wait(future)), 0.05)
        assert future.cancelled()
        return [*values, wrapped]

    async def _wait(future: Any) -> Any:
        return await future

    assert asyncio.run(main()) == [0, 1, 2, 3, 4, 9]


def test_cancel(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    future, seen = client.parallel(same)(1), []
    future.fail(lambda error: seen.append(type(error)))
    master.wait_for(lambda: future.running())
    assert future.cancel() and future.cancelled() and future.done() and future.completed and not future.successful
    assert future.cancel(), "as in concurrent.futures: still cancelled"
    for kind in (clupy.CancelledError, concurrent.futures.CancelledError):
        with pytest.raises(kind, match="cancelled by this program.*fake1"):
            future.result()
    clupy.wait_all([future])
    assert seen == [clupy.CancelledError]
    master.wait_for(lambda: master.count(CANCEL) == 1)
    master.wait_for(lambda: future.id in master.acknowledged)
    assert future.usage is not None
    assert concurrent.futures.wait([future], 1).not_done == set()


def test_cancelled_by_others(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    future = client.parallel(same)(1)
    master.wait_for(lambda: future.running())
    master.end(future.id, {"kind": "cancelled", "by": "root"}, b"")
    assert future.wait(20) and future.cancelled() and "cancelled by root" in str(future.failure)


def test_what_is_known_of_a_call(client: clupy.Client, master: FakeMaster) -> None:
    master.hold.clear()
    future = client.parallel(same)(1)
    assert len(future.id) == len(future.job) == 32 and future.usage is None and future.progress is None
    master.wait_for(lambda: future.running())
    assert (future.node, future.unit, future.attempts) == ("fake1", "fake.scope", 1)
    master.status({"id": future.id, "progress": {"done": 3, "total": 10, "note": "third"}})
    master.wait_for(lambda: future.progress == clupy.Progress(3.0, 10.0, "third"))
    master.hold.set()
    future.result(20)
    usage = future.usage
    assert usage is not None and usage.cpu_us == usage["cpu_us"] == 4 and usage.read_bytes is None
    assert usage.unknown["read_bytes"] and dict(usage)["memory_peak"] == 3


OUTCOMES: List[Any] = [
    ({"kind": "memory", "limit": 512 << 20, "peak": 513 << 20}, clupy.MemoryLimitError,
     r"same went over its memory limit of 512M \(peak 513M\) on fake1 \(unit fake.scope\); .*memory=\"1G\""),
    ({"kind": "exit", "status": 3}, clupy.ExitError, "exit status 3"),
    ({"kind": "cpu-time", "limit_ms": 1500}, clupy.CpuLimitError, "1.5s"),
    ({"kind": "timeout", "limit_ms": 60000}, clupy.DeadlineError, "timeout of 1m"),
    ({"kind": "deadline", "limit_ms": 5000}, clupy.DeadlineError, "deadline of 5s"),
    ({"kind": "memory", "limit": 64 << 20, "peak": 64 << 20, "tmp": 60 << 20, "shm": 0}, clupy.MemoryLimitError,
     r"\(peak 64M, 60M of it for its files in /tmp\) .*or write less"),
    ({"kind": "memory", "limit": 64 << 20, "peak": 64 << 20, "tmp": 4096, "shm": 0}, clupy.MemoryLimitError, r"\(peak 64M\) "),
    ({"kind": "disk", "limit": 1 << 20}, clupy.QuotaError, "1M"),
    ({"kind": "disk", "place": "/dev/shm", "limit": 8 << 20, "used": 8 << 20, "files_limit": 1000, "files_used": 2},
     clupy.DiskLimitError, r"its /dev/shm of 8M \(8M in use when it failed\) on fake1 .*task.tmp"),
    ({"kind": "disk", "place": "/tmp", "limit": 8 << 20, "used": 4096, "files_limit": 1000, "files_used": 1000},
     clupy.DiskLimitError, r"the 1000 files that its /tmp may have on fake1"),
    ({"kind": "syscall", "name": "bpf"}, clupy.SyscallRefusedError, r"bpf\(\)"),
    ({"kind": "signal", "name": "SIGSEGV"}, clupy.SignalError, "SIGSEGV"),
    ({"kind": "environment", "log": "one\nno such package\n"}, clupy.EnvironmentFailedError, "no such package"),
    ({"kind": "result-pickling", "name": "_thread.lock", "message": "no"}, clupy.ResultPicklingError, "_thread.lock"),
    ({"kind": "node-lost", "attempts": 4}, clupy.NodeLostError, "4 attempts"),
    ({"kind": "refused", "message": "no node has 64 CPUs"}, clupy.RefusedError, "no node has 64 CPUs"),
    ({"kind": "new-kind"}, clupy.ClupyError, "new-kind"),
]


@pytest.mark.parametrize(("outcome", "kind", "words"), OUTCOMES, ids=[outcome[0]["kind"] for outcome in OUTCOMES])
def test_failures(client: clupy.Client, master: FakeMaster, outcome: Any, kind: type, words: str) -> None:
    import pickle
    master._run = lambda code, args: (outcome, b"")
    future = client.parallel(same)(1)
    with pytest.raises(kind, match=words) as caught:
        future.result(20)
    error = caught.value
    assert isinstance(error, clupy.ClupyError) and "\n" not in str(error)
    assert (error.node, error.unit, error.task) == ("fake1", "fake.scope", future.id)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and copy.__dict__ == error.__dict__


def test_logs(client: clupy.Client, master: FakeMaster) -> None:
    def logs(link: Any, message: Any) -> None:
        if not message["args"]["follow"]:
            link.send(ANSWER, {"id": message["id"], "ok": True, "result": {"text": "one\ntwo\n"}})
            return
        for text, more in (("on", True), ("e\ntw", True), ("o\nthree", False)):
            link.send(ANSWER, {"id": message["id"], "ok": True, "result": {"text": text}, "more": more})

    master.answers["logs"] = logs
    future = client.parallel(same)(1)
    assert future.logs() == "one\ntwo\n"
    assert list(future.logs(follow=True)) == ["one", "two", "three"]
    del master.answers["logs"]
    with pytest.raises(clupy.ClupyError, match="no such verb"):
        future.logs()


def test_attach(client: clupy.Client, master: FakeMaster) -> None:
    def attach(link: Any, message: Any) -> None:
        if message["args"]["id"] == "f" * 32:
            link.send(ANSWER, {"id": message["id"], "ok": False, "error": "not-found", "message": "no such task"})
        else:
            master.sessions[message["args"]["id"]] = {link.hello["session"]}  # from now on they are its results
            link.send(ANSWER, {"id": message["id"], "ok": True, "result": {"id": message["args"]["id"],
                                                                          "state": "running"}})

    master.answers["attach"] = attach
    master.hold.clear()
    with clupy.Client(master.url) as other:
        owner = other.parallel(same, detach=True)({"deep": 1})
        future = client.attach(owner.id)
        assert future.running() and future.id == owner.id
        assert client.attach(owner.id) is future and other.attach(owner.id) is owner
        assert not owner.done()
        master.hold.set()
        assert future.result(20) == {"deep": 1}
    with pytest.raises(clupy.ClupyError, match="no such task"):
        client.attach("f" * 32)
    with pytest.raises(ValueError, match="hexadecimal"):
        client.attach("nonsense")


def _program(master: FakeMaster, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "python"),
                   "CLUPY_MASTER_URL": master.url}
    return subprocess.Popen([sys.executable, "-", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=environment)


def _feed(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(textwrap.dedent(text))
    process.stdin.close()
    process.stdin = None


@pytest.mark.parametrize("signals", [1, 2])
def test_interrupt(master: FakeMaster, signals: int) -> None:
    master.hold.clear()
    process = _program(master)
    _feed(process, """
        import sys, threading, time
        import clupy
        def say_when_it_waits(thread):
            while True:
                frame = sys._current_frames()[thread]
                while frame is not None and frame.f_code is not clupy.RemoteExecutionFuture._wait.__code__:
                    frame = frame.f_back
                if frame is not None:
                    break
                time.sleep(0.01)
            print("waiting", flush=True)
        futures = [clupy.parallel(lambda x: x)(n) for n in range(3)]
        threading.Thread(target=say_when_it_waits, args=[threading.get_ident()], daemon=True).start()
        try:
            clupy.wait_all(futures)
        except KeyboardInterrupt:
            print("interrupted", [f.cancelled() for f in futures])
        """)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "waiting\n"
    master.wait_for(lambda: len(master.executions) == 3)
    if signals == 2:  # the master does not answer
        master._handle = lambda *_: None  # type: ignore[method-assign]
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "clupy: interrupted, cancelling 3 calls\n"
    if signals == 2:
        master.wait_for(lambda: master.count(CANCEL) > 0)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=8 if signals == 2 else 20)  # alone it waits 10 s for the master's word
    assert out == "interrupted [True, True, True]\n"


def test_leaving_says_what_is_cancelled(master: FakeMaster) -> None:
    master.hold.clear()
    process = _program(master)
    _feed(process, """
        import clupy
        futures = [clupy.parallel(lambda x: x)(n) for n in range(2)]
        """)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "") and error == "clupy: leaving, cancelling 2 calls that had not ended\n"
    master.wait_for(lambda: master.frames and master.frames[-1][0] == GOODBYE)  # read after the process has ended, perhaps


_DETACHES = """
    import importlib, sys
    import clupy
    importlib.import_module("clupy._client")._KEPT_WITHIN = float(sys.argv[1])
    futures = [clupy.parallel(lambda x: x, detach=True)(n) for n in range(int(sys.argv[2]))]
    print(futures[0].id)
    """


@pytest.mark.parametrize("calls", [1, 2])
def test_leaving_waits_until_detached_calls_are_kept(master: FakeMaster, calls: int) -> None:
    asked = threading.Event()
    may_go_on = threading.Event()
    advance = master._advance

    def late(link: Any, task: Any) -> None:
        asked.set()
        assert may_go_on.wait(20)
        if "args" in task and master.jobs[task["job"]]["code"] in master.codes:
            master.status({"id": task["id"], "state": "queued"})  # and there it stays: no node has room
        else:
            advance(link, task)

    master._advance = late  # type: ignore[method-assign]
    process = _program(master, "20", str(calls))
    _feed(process, _DETACHES)
    assert asked.wait(20)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    assert not master.count(GOODBYE)
    may_go_on.set()
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0
    assert error == ("clupy: 2 detached calls go on\n" if calls == 2 else
                     f"clupy: 1 detached call goes on: clupy.attach(\"{out.strip()}\")\n")
    assert master.codes and all("args" in task for task in master.tasks.values()) and not master.count(CANCEL)
    master.wait_for(lambda: master.frames[-1][0] == GOODBYE)


def test_leaving_tells_that_a_detached_call_may_be_lost(master: FakeMaster) -> None:
    master._advance = lambda link, task: None  # type: ignore[method-assign]
    process = _program(master, "0.5", "1")
    _feed(process, _DETACHES)
    out, error = process.communicate(timeout=30)
    assert error == ("clupy: 1 detached call may be lost, the master has not said that it keeps it: "
                     f"clupy.attach(\"{out.strip()}\")\n")


def test_the_goodbye_arrives_at_a_master_that_is_talking() -> None:
    """Whoever cannot write to a client reads no further: so the client stays until its master has closed."""
    with FakeMaster() as master:
        master.hold.clear()
        handle = master._handle

        def talk(link: Any, kind: int, message: Any, payloads: List[bytes]) -> None:
            handle(link, kind, message, payloads)
            if kind == SUBMIT and message["tasks"]:
                for _ in range(4):
                    time.sleep(0.1)
                    link.send(STATUS, {"tasks": [{"id": message["tasks"][0]["id"], "state": "running"}]})

        master._handle = talk  # type: ignore[method-assign]
        process = _program(master)
        _feed(process, "import clupy; future = clupy.parallel(lambda x: x)(1)")
        assert process.wait(30) == 0
        master.wait_for(lambda: master.frames and master.frames[-1][0] == GOODBYE)


def test_a_deadline_is_told_as_it_was_given() -> None:
    """The master is told what is left of it, which is less."""
    with FakeMaster(run=lambda code, args: ({"kind": "deadline", "limit_ms": 1998}, b"")) as master:
        with clupy.Client(master.url) as client:
            failure = client.parallel(same, deadline=2)(1).exception(20)
    assert isinstance(failure, clupy.DeadlineError) and "deadline of 2s" in str(failure)


def test_leaving_quietly(master: FakeMaster) -> None:
    process = _program(master)
    _feed(process, """
        import clupy
        clupy.parallel(lambda x: x)(1).succeed(lambda x: print("callback", x)).wait()
        """)
    assert process.communicate(timeout=30) == ("callback 1\n", "") and process.returncode == 0


def test_fork(master: FakeMaster) -> None:
    process = _program(master)
    _feed(process, """
        import concurrent.futures, multiprocessing, os, warnings
        import clupy
        warnings.simplefilter("ignore")  # newer Pythons warn of every fork of a process with threads
        def double(x): return 2 * x
        done = clupy.parallel(double)(4)
        done.wait()
        pending = clupy.parallel(double)(5)
        child = os.fork()
        if child == 0:
            for future in (done, pending):
                for use in (future.result, future.wait, future.done, lambda: future.value, lambda: clupy.wait_all([future])):
                    try:
                        use()
                    except clupy.ForkedError as error:
                        assert "parent" in str(error)
                    else:
                        print("no ForkedError")
            print("child", clupy.parallel(double)(21).result(20), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print("parent", pending.result(20), clupy.parallel(double)(3).result(20), flush=True)
        def work(n):
            return clupy.parallel(double)(n).result(20)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(work, range(4)))
        """)
    out, error = process.communicate(timeout=40)
    assert out == "child 42\nparent 10 6\n[0, 2, 4, 6]\n" and not error, error
    assert len({hello["session"] for hello in master.hellos}) >= 3

# SPDX-License-Identifier: Apache-2.0
"""The client against a real cluster: what can be called and with what, what comes back, versions, no master."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 2
SYSTEM_PACKAGES = True

PACKAGE = "/usr/lib/clupy/python:/usr/lib/clupy/client"  # what any Python can import clupy from


def run(lab: Lab, program: str, *, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
    return lab.node("client").python(textwrap.dedent(program), timeout=timeout, check=check)


def last_json(lab: Lab, program: str, timeout: float = 120) -> Any:
    return json.loads(run(lab, program, timeout=timeout).stdout.strip().splitlines()[-1])


def test_the_seeds_program(lab: Lab) -> None:
    out = run(lab, """
        import clupy

        def primes(n):
            divisors = [ d for d in range(2,n//2+1) if n % d == 0 ]
            return [ d for d in divisors if \\
                     all( d % od != 0 for od in divisors if od != d ) ]

        if __name__ == "__main__":
          results = [clupy.parallel(primes, server_count=10)(n) for n in range(100, 110)]
          clupy.wait_all(results, time_out=60)
          for res in results:
            if res.completed:
                if not res.value is None:
                    print("results: ", res.value)
                elif not res.failure is None:
                    print("failure: ", res.failure)
        """).stdout
    assert out.splitlines()[:3] == ["results:  [2, 5]", "results:  []", "results:  [2, 3, 17]"]
    assert len(out.splitlines()) == 10 and "failure" not in out


def test_callbacks_of_the_seed(lab: Lab) -> None:
    out = run(lab, """
        import clupy
        results = [clupy.parallel(lambda n: n * n if n else None)(n) for n in range(5)]
        for r in results:
            r.succeed(lambda x: print("value", x)).fail(lambda x: print("failure", x))
        clupy.wait_all(results, time_out=60)
        """).stdout
    assert sorted(out.splitlines()) == ["value 1", "value 16", "value 4", "value 9", "value None"]


def test_functions(lab: Lab) -> None:
    assert last_json(lab, """
        import functools, json, math
        import clupy

        OFFSET = 100
        def plain(a, b=2, *rest, c=3, **more): return [a, b, list(rest), c, more]
        def uses_global(x): return x + OFFSET
        def closure(n): return lambda x: x + n
        def twice(function):
            @functools.wraps(function)
            def wrapper(*args): return 2 * function(*args)
            return wrapper
        @twice
        def decorated(x): return x + 1
        class Model:
            factor = 3
            def __init__(self, bias): self.bias = bias
            def fit(self, x): return self.factor * x + self.bias
            @staticmethod
            def static(x): return -x
            @classmethod
            def make(cls): return cls(5)
        @clupy.parallel(cpus=0.5)
        def always(x): return x * 7
        async def later(x): return x + 0.5

        calls = [clupy.parallel(plain)(1), clupy.parallel(plain)(1, 5, 6, c=8, d=9), clupy.parallel(uses_global)(1),
                 clupy.parallel(closure(5))(1), clupy.parallel(lambda x: x * 3)(4), clupy.parallel(decorated)(4),
                 clupy.parallel(Model(1).fit)(2), clupy.parallel(Model.static)(3), clupy.parallel(functools.partial(plain, 9))(),
                 clupy.parallel(math.sqrt)(16.0), always(6), clupy.parallel(later)(1)]
        made = clupy.parallel(Model.make)().result(60)
        print(json.dumps([call.result(60) for call in calls] + [isinstance(made, Model), made.bias]))
        """) == [[1, 2, [], 3, {}], [1, 5, [6], 8, {"d": 9}], 101, 6, 12, 10, 7, -3, [9, 2, [], 3, {}], 4.0, 42, 1.5,
                 True, 5]


def test_many_functions_of_one_code(lab: Lab) -> None:
    assert last_json(lab, """
        import json, clupy
        futures = [clupy.parallel(lambda x, n=n: x + n, server_count=1)(100) for n in range(20)]
        print(json.dumps([[f.result(60) for f in futures], len({f.job for f in futures}), len({f.node for f in futures})]))
        """) == [list(range(100, 120)), 1, 1]


def test_local_modules_travel_by_value(lab: Lab) -> None:
    client = lab.node("client")
    files = {
        "shapes.py": """
            import threading
            import units
            from tools.deep import stretch
            SCALE = 3
            lock = threading.Lock()
            class Shape:
                def __init__(self, side): self.side = side
                def area(self): return units.square(self.side) * SCALE
            class ShapeError(Exception): pass
            def grown(shape):
                with lock:
                    return Shape(stretch(shape.side))
            def broken(): raise ShapeError("no shape")
            """,
        "units.py": "import shapes\ndef square(x): return x * x\n",
        "tools/__init__.py": "",
        "tools/deep.py": "from . import deeper\ndef stretch(x): return deeper.by(x, 2)\n",
        "tools/deeper.py": "def by(x, n): return x * n\n",
        "main.py": """
            import json, clupy, shapes
            from shapes import Shape
            shape = clupy.parallel(shapes.grown)(Shape(2)).result(60)
            failed = clupy.parallel(shapes.broken)()
            failed.wait(60)
            area = clupy.parallel(Shape.area)(shape).result(60)
            print(json.dumps([isinstance(shape, Shape), shape.area(), area, isinstance(failed.failure, shapes.ShapeError),
                              "no shape" in str(failed.failure.__cause__)]))
            """}
    for name, text in files.items():
        client.write(f"/tmp/local/{name}", textwrap.dedent(text))
    out = client.run(["python3", "/tmp/local/main.py"], "user", timeout=120).stdout
    assert json.loads(out) == [True, 48, 48, True, True]


def test_exceptions(lab: Lab) -> None:
    assert last_json(lab, """
        import json, clupy
        class OwnError(Exception): pass
        def fails(kind): raise kind("went wrong here")
        own = clupy.parallel(fails)(OwnError)
        plain = clupy.parallel(fails)(ValueError)
        clupy.wait_all([own, plain], time_out=60)
        try:
            own.result()
        except OwnError as error:
            caught = str(error)
        cause = str(own.failure.__cause__)
        print(json.dumps([caught, "Traceback" in cause and "in fails" in cause, type(plain.failure).__name__,
                          plain.successful, plain.completed, plain.value]))
        """) == ["went wrong here", True, "ValueError", False, True, None]


def test_how_calls_end(lab: Lab) -> None:
    ends = last_json(lab, """
        import json, clupy
        def leaves(): import os; os._exit(3)
        def aborts(): import os; os.abort()
        def eats(): x = bytearray(200 << 20); return len(x)
        def waits(): import time; time.sleep(60)
        def lock(): import threading; return threading.Lock()
        options = {"leaves": {}, "aborts": {}, "eats": {"memory": "64M"}, "waits": {"timeout": 1}, "lock": {}}
        futures = {name: clupy.parallel(globals()[name], **given)() for name, given in options.items()}
        futures["large"] = clupy.parallel(leaves, cpus=500, deadline="2s")()
        clupy.wait_all(futures.values(), time_out=90)
        print(json.dumps({name: [type(f.failure).__name__, str(f.failure), f.node, f.unit] for name, f in futures.items()}))
        """)
    assert {name: end[0] for name, end in ends.items()} == {
        "leaves": "ExitError", "aborts": "SignalError", "eats": "MemoryLimitError", "waits": "TimeLimitError",
        "lock": "ResultPicklingError", "large": "DeadlineError"}
    for name, words in {"leaves": "exit status 3", "aborts": "SIGABRT", "eats": "64M", "waits": "1s", "lock": "lock",
                        "large": "deadline of 2s"}.items():
        _, sentence, node, unit = ends[name]
        assert words in sentence and "\n" not in sentence
        if name != "large":
            assert node in sentence and unit in sentence


def test_64_mib_each_way(lab: Lab) -> None:
    seconds, equal, writable = last_json(lab, """
        import json, os, time, clupy
        import numpy
        data = os.urandom(64 << 20)
        begin = time.monotonic()
        back = clupy.parallel(lambda d: d[::-1], memory="512M")(data).result(100)
        seconds = time.monotonic() - begin
        def double(a):
            a *= 2  # writable there
            return a
        array = numpy.arange(8 << 20, dtype=float)
        doubled = clupy.parallel(double, memory="512M")(array).result(100)
        doubled += 1  # and here
        print(json.dumps([seconds, back == data[::-1], bool(doubled[5] == 11 and array[5] == 5)]))
        """, timeout=200)
    assert equal and writable
    assert seconds < 40, "quick, also on a small machine"


def test_what_a_future_knows(lab: Lab) -> None:
    known = last_json(lab, """
        import json, time, clupy
        def work():
            import time, clupy
            print("begun", flush=True)
            task = clupy.current()
            clupy.progress(1, 2, "half")
            time.sleep(2)
            return [task.id, task.job, task.node, task.attempt, task.unit, task.owner]
        future = clupy.parallel(work)()
        states = []
        while not future.wait(0.05):
            states.append((future.running(), future.progress and [future.progress.done, future.progress.note]))
        lines = list(future.logs(follow=True))
        print(json.dumps([future.value, [future.id, future.job, future.node, future.attempts, future.unit, "user"],
                          [True, [1.0, "half"]] in [list(s) for s in states], future.logs(), lines,
                          future.usage.memory_peak > 0, future.usage.run_us > 1900000]))
        """)
    assert known[0] == known[1]
    assert known[2:] == [True, "begun\n", ["begun"], True, True]


def test_cancel_and_interrupt(lab: Lab) -> None:
    out = run(lab, """
        import os, signal, threading, time, clupy
        future = clupy.parallel(time.sleep)(100)
        while not future.running():
            future.wait(0.05)
        print(future.cancel(), future.cancelled(), type(future.failure).__name__)
        pending = [clupy.parallel(time.sleep)(100) for _ in range(2)]
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
        begin = time.monotonic()
        try:
            clupy.wait_all(pending)
        except KeyboardInterrupt:
            print("interrupted", [f.cancelled() for f in pending], time.monotonic() - begin < 12)
        """)
    assert out.stdout == "True True CancelledError\ninterrupted [True, True] True\n"
    assert out.stderr == "clupy: interrupted, cancelling 2 calls\n"


def test_leaving_cancels(lab: Lab, wait_until: Callable[..., None]) -> None:
    out = run(lab, """
        import time, clupy
        future = clupy.parallel(time.sleep)(1000)
        while not future.running():
            future.wait(0.05)
        print(future.id)
        """)
    assert out.stderr == "clupy: leaving, cancelling 1 call that had not ended\n"
    shown = ["clupyctl", "--json", "task", "show", out.stdout.strip()]
    wait_until(lambda: json.loads(lab.node("master").run(shown).stdout)["state"] not in ("running", "starting"), 30,
               "the call of a client that said goodbye is cancelled")


def test_a_daemon_of_the_master_restarts(lab: Lab) -> None:
    """The connection is made again, and futures live through it."""
    with lab.node("client").popen(["python3", "-"], "user", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(textwrap.dedent("""
            import time, clupy
            def slow(x): import time; time.sleep(4); return x
            futures = [clupy.parallel(slow, cpus=0.1)(n) for n in range(6)]
            while not futures[0].running():
                futures[0].wait(0.05)
            print("running", flush=True)
            clupy.wait_all(futures, time_out=60)
            print([f.value for f in futures], [f.attempts for f in futures])
            """))
        process.stdin.close()
        process.stdin = None
        assert process.stdout.readline() == "running\n"
        lab.node("master").run(["systemctl", "kill", "--signal=KILL", "clupy-masterd"])
        out, error = process.communicate(timeout=90)
    assert out == "[0, 1, 2, 3, 4, 5] [1, 1, 1, 1, 1, 1]\n", error


def _with_python(lab: Lab, version: str, program: str) -> subprocess.CompletedProcess[str]:
    for folder in (Path.home() / ".pyenv/versions", Path("/opt/python")):
        python = folder / version / "bin/python3"
        if os.access(python, os.X_OK):
            return lab.node("client").run([str(python), "-"], "root", input=textwrap.dedent(program), check=False,
                                          environment=[f"PYTHONPATH={PACKAGE}", "CLUPY_MASTER_URL=clupy://master:7878",
                                                       "PYTHONDONTWRITEBYTECODE=1"])
    pytest.fail(f"Python {version} is not installed here (pyenv install {version})")


def test_another_python_is_refused(lab: Lab) -> None:
    result = _with_python(lab, "3.12.1", """
        import clupy
        try:
            clupy.parallel(len)([1])
        except clupy.VersionMismatchError as error:
            print(error.client, error.server, error)
        """)
    assert result.stdout.startswith("3.12.1 3.11"), result.stderr
    assert "Python 3.12.1" in result.stdout and "run this program with Python 3.11" in result.stdout


def test_another_patch_level_is_served(lab: Lab) -> None:
    result = _with_python(lab, "3.11.7", """
        import clupy
        print(clupy.parallel(lambda x: x + 1)(1).result(60))
        """)
    assert result.stdout == "2\n", result.stderr


def test_no_master(lab: Lab) -> None:
    begin = time.monotonic()
    out = run(lab, """
        import time, clupy
        begin = time.monotonic()
        for url in ("clupy://agent1:7878", "clupy://10.255.255.1:7878"):
            clupy.shutdown()
            clupy.init(url)
            try:
                clupy.parallel(len)([1])
            except clupy.ConnectError as error:
                print(error.tried[0][:2], time.monotonic() - begin < 10, error)
        """).stdout.splitlines()
    assert time.monotonic() - begin < 15
    assert out[0].startswith("('agent1', 7878) True no CluPy master answers (agent1:7878: connection refused")
    assert out[1].startswith("('10.255.255.1', 7878) True") and "systemctl start clupy-masterd" in out[1]


def test_run_by_hand(lab: Lab) -> None:
    client = lab.node("client")
    version = client.run(["python3", "-m", "clupy", "--version"], "user").stdout
    assert version.startswith("clupy 0.") and "(Python 3." in version
    master = client.run(["python3", "-m", "clupy", "--master"], "user", check=False)
    assert master.returncode == 77 and "systemctl start clupy-masterd" in master.stderr
    node = client.run(["python3", "-m", "clupy", "--serve", "--master-url", "clupy://master:7878"], "user", check=False)
    assert node.returncode == 77 and "systemctl start clupy-agent" in node.stderr
    publish = client.run(["python3", "-m", "clupy", "--publish", "x.py"], "user", check=False)
    assert publish.returncode != 0 and "not there yet" in publish.stderr

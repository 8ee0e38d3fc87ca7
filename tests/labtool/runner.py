# SPDX-License-Identifier: Apache-2.0
"""`./lab test`: runs groups of tests and adds up what came of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import build, dependencies, lint, paths
from .command import tail
from .console import LabError, say
from .lab import Lab
from .outcome import Outcome, announce, report

LAB_GROUPS = ("core", "faults", "operator", "sandbox", "auth", "env", "service", "store", "sync", "ha", "api")
GROUPS = ("unit", "fuzz", *LAB_GROUPS)
FUZZ_SECONDS = 10


def run(groups: list[str]) -> int:
    """Runs groups (none named: all) and returns the exit code."""
    for group in groups:
        if group not in GROUPS and group != "mutants":
            raise LabError(f"there is no group '{group}'; there are {', '.join(GROUPS)} and mutants")
    chosen = groups or list(GROUPS)
    dependencies.ensure_test()
    if set(chosen) & {"core"}:
        dependencies.ensure_uml()
    if "mutants" in chosen:
        return _mutants()
    Lab.remove_abandoned()
    outcomes: list[Outcome] = []
    if set(chosen) & set(LAB_GROUPS):
        say("building the product")
        build.build_release()
    for group in chosen:
        say(f"group {group}")
        if group == "unit":
            outcomes += lint.run() + _guarded("unit", _unit) + _pytest("unit", paths.SOURCE / "tests/python")
        elif group == "fuzz":
            outcomes += _guarded("fuzz", _fuzz)
        else:
            outcomes += _pytest(group, paths.SOURCE / "tests/lab" / group)
            if group == "core":
                outcomes += _uml()
    return report(outcomes)


def _guarded(name: str, function: object) -> list[Outcome]:
    """A group that cannot even be built is one failure, not the end of the others."""
    assert callable(function)
    try:
        outcomes: list[Outcome] = function()
        return announce(outcomes)
    except LabError as error:
        return announce([Outcome(f"{name}: building the tests", "failed", 0.0, str(error))])


def _unit() -> list[Outcome]:
    """meson's tests, under AddressSanitizer and UndefinedBehaviorSanitizer."""
    with build.locked("sanitize") as directory:
        log = directory.parent / "logs" / "sanitize.log"
        log.unlink(missing_ok=True)
        build.configure(directory, ["-Dsanitizers=true", "-Db_lundef=false", "--werror",
                                    # gcc warns wrongly where the sanitizers have changed the code.
                                    "-Dc_args=-Wno-error=maybe-uninitialized"])
        build.compile_all(directory)
        results = directory / "meson-logs/testlog.json"
        results.unlink(missing_ok=True)
        with log.open("ab") as output:
            subprocess.run(["meson", "test", "--no-rebuild", "-C", str(directory)], stdin=subprocess.DEVNULL,
                           stdout=output, stderr=output, check=False)
        if not results.exists():
            # meson writes none when there is no test.
            return []
        names = {"OK": "passed", "EXPECTEDFAIL": "passed", "SKIP": "skipped"}
        outcomes = []
        for line in results.read_text().splitlines():
            test = json.loads(line)
            outcomes.append(Outcome(f"unit: {test['name']}", names.get(test["result"], "failed"),
                                    float(test["duration"] or 0.0),
                                    f"{test['result']}\n{test.get('stdout', '')}\n{test.get('stderr', '')}"))
        return outcomes


def _fuzz() -> list[Outcome]:
    """Each libFuzzer target for a few seconds, from its corpus."""
    with build.locked("fuzz") as directory:
        build.configure(directory, *build.FUZZ)
        build.compile_all(directory)
        listing = subprocess.run(["meson", "introspect", "--targets", str(directory)], capture_output=True, text=True,
                                 check=True).stdout
        programs = [Path(target["filename"][0]) for target in json.loads(listing)
                    if target["type"] == "executable" and "/tests/fuzz" in target["defined_in"]]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda program: _fuzz_one(directory, program), sorted(programs)))


def _fuzz_one(directory: Path, program: Path) -> Outcome:
    """directory: the build's. Uses one CPU."""
    corpus = directory / "corpus" / program.name
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    seeds = [path for path in (paths.SOURCE / "tests/fuzz/corpus" / program.name,
                               paths.SOURCE / "tests/fuzz/corpus" / program.name.removeprefix("fuzz-"))
             if path.is_dir()]
    log = directory.parent / "logs" / f"{program.name}.log"
    with log.open("wb") as output:
        result = subprocess.run(
            [str(program), f"-max_total_time={FUZZ_SECONDS}", "-rss_limit_mb=2048", "-timeout=10",
             f"-artifact_prefix={directory}/{program.name}-", str(corpus), *map(str, dict.fromkeys(seeds))],
            stdout=output, stderr=output, check=False)
    status = "passed" if result.returncode == 0 else "failed"
    return Outcome(f"fuzz: {program.name}", status, float(FUZZ_SECONDS),
                   f"exit {result.returncode}, log {log}:\n{tail(log, 40)}")


def _pytest(group: str, directory: Path) -> list[Outcome]:
    """A directory of pytest tests, in the tests' own environment; their output goes to the terminal as it comes."""
    if not any(directory.rglob("test_*.py")):
        return []
    results = paths.build_directory() / "logs" / f"{group}.xml"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": f"{paths.SOURCE}/tests:{paths.SOURCE}/python",
                   "PYTHONDONTWRITEBYTECODE": "1", "CLUPY_LAB_STAGED": "1"}
    process = subprocess.run([str(dependencies.test_python()), "-m", "pytest", "-v", "--tb=short", "--timeout=600",
                              "-p", "no:cacheprovider", f"--rootdir={paths.SOURCE}/tests", f"--junitxml={results}",
                              str(directory)], stdin=subprocess.DEVNULL, env=environment, check=False,
                             cwd=paths.SOURCE, preexec_fn=_interruptible)
    if process.returncode not in (0, 1) or not results.exists():
        return [Outcome(f"{group}: pytest", "failed", 0.0, f"pytest ended with exit code {process.returncode}")]
    outcomes = []
    for case in ElementTree.parse(results).iter("testcase"):
        name = f"{group}: {case.get('classname', '').split('.')[-1]}: {case.get('name')}"
        seconds = float(case.get("time", "0"))
        problem = next((element for kind in ("failure", "error", "skipped") for element in case.iter(kind)), None)
        if problem is None:
            outcomes.append(Outcome(name, "passed", seconds))
        else:
            status = "skipped" if problem.tag == "skipped" else "failed"
            outcomes.append(Outcome(name, status, seconds, f"{problem.get('message')}\n{problem.text or ''}"))
    return outcomes


def _interruptible() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would the programs that tests interrupt."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _uml() -> list[Outcome]:
    """Every test file for a kernel of its own; such a kernel has one CPU, so two of them run side by side."""
    tests = [test for test in sorted((paths.SOURCE / "tests/lab/uml").iterdir(), reverse=True)
             if test.suffix in (".sh", ".py") and os.access(test, os.X_OK)]
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        return list(pool.map(_uml_one, tests))


def _uml_one(test: Path) -> Outcome:
    started = time.monotonic()
    # A process of its own, as its kernel's lab is named after it.
    result = subprocess.run([sys.executable, "-P", "-m", "labtool", "uml", "--no-build", str(test)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            errors="replace", check=False)
    status = "passed" if result.returncode == 0 else "failed"
    said = (line for line in result.stdout.splitlines() if line.startswith("FAIL"))
    return announce([Outcome(f"core: uml: {test.name}", status, time.monotonic() - started,
                             f"{next(said, f'it ended with exit code {result.returncode}')}\n{result.stdout}")])[0]


def _mutants() -> int:
    """Has a part of its own, which changes the source tree's copy and calls this again."""
    return run_part("mutants", [])


def run_part(name: str, arguments: list[str]) -> int:
    """Runs the program of tests/NAME with the tests' own Python and returns its exit code."""
    program = paths.SOURCE / "tests" / name
    if not (program / "__main__.py").exists():
        raise LabError(f"tests/{name} has no __main__.py")
    environment = {**os.environ, "PYTHONPATH": f"{paths.SOURCE}/tests", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([str(dependencies.test_python()), str(program), *arguments], env=environment,
                          check=False).returncode

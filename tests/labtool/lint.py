# SPDX-License-Identifier: Apache-2.0
"""Checks that read the source without running it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import build, dependencies, paths
from .command import run_quiet
from .console import LabError
from .outcome import Outcome, announce, check

# Not ours to judge, or no text.
SKIPPED = {"build", ".git", "__pycache__"}
HEADER = "SPDX-License-Identifier: Apache-2.0"
WITH_HEADER = {".c", ".h", ".py", ".sh", ".build"}

# What of bugprone and cert asks for another style than the one that STYLE.md sets, or judges what C cannot do better.
TIDY_CHECKS = ("-*,bugprone-*,cert-*,clang-analyzer-*,-bugprone-easily-swappable-parameters,"
               "-bugprone-reserved-identifier,-cert-dcl37-c,-cert-dcl51-cpp,-bugprone-narrowing-conversions,"
               "-bugprone-implicit-widening-of-multiplication-result,-bugprone-assignment-in-if-condition,"
               "-bugprone-macro-parentheses,-cert-err33-c,-cert-err34-c,-bugprone-branch-clone,"
               "-bugprone-sizeof-expression,-bugprone-signal-handler,-cert-sig30-c,-bugprone-suspicious-include,"
               "-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling,"
               "-clang-analyzer-valist.Uninitialized,"
               # Knows nothing of the cleanup attribute; and these take a negated errno for possibly 0 after a failure.
               "-clang-analyzer-unix.Malloc,-clang-analyzer-core.NonNullParamChecker,"
               "-clang-analyzer-core.UndefinedBinaryOperatorResult")

WRONG = re.compile(": (fatal )?error: ")

# What gcc 12's analyzer finds although it is not there: the source file, the function, the warning. Anything else that
# it finds is a failure. Each of these files fails to compile under the analyzer every time, so nothing gets lost.
ANALYZER_MISTAKES = {
    # An element stored at an index that is not a constant counts as leaked.
    ("memory-util.c", "strv_extend", "analyzer-malloc-leak"),
    ("environment-node.c", "resources_add", "analyzer-malloc-leak"),
    ("pki-issue.c", "pki_renewals_add", "analyzer-malloc-leak"),
    ("pki-issue.c", "targets_add", "analyzer-malloc-leak"),
    # So does a member of an intrusive list, known to the list only by its link ...
    ("agent-link.c", "enqueue", "analyzer-malloc-leak"),
    ("warm-pool.c", "warm_pool_follow", "analyzer-malloc-leak"),
    ("detached.c", "detached_attach", "analyzer-malloc-leak"),
    # ... and an object that the cleanup reaches from a member of it.
    ("state-store-file.c", "state_store_file_open", "analyzer-malloc-leak"),
    ("environment-default.c", "load_failed", "analyzer-malloc-leak"),
    # Takes a frame's first bytes for possibly none, after a check that there are some.
    ("frame.c", "frame_header_parse", "analyzer-use-of-uninitialized-value"),
}


def files() -> list[Path]:
    """The project's files: what git knows or would add; without git, everything."""
    command = ["git", "-c", f"safe.directory={paths.SOURCE}", "-C", str(paths.SOURCE), "ls-files", "--cached",
               "--others", "--exclude-standard", "-z"]
    if (paths.SOURCE / ".git").exists():
        names = run_quiet("listing the files", command).split("\0")
        found = [paths.SOURCE / name for name in names if name]
    else:
        found = [Path(directory) / name for directory, _, entries in os.walk(paths.SOURCE) for name in entries]
    return sorted(path for path in found
                  if path.is_file() and not SKIPPED & set(path.relative_to(paths.SOURCE).parts))


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(200).decode(errors="replace")


def _is_shell(path: Path) -> bool:
    line = _first_line(path)
    script = line.startswith("#!") and line.split("/")[-1].split()[-1] in ("sh", "bash")
    return script or path.suffix in (".sh", ".bash")


def _in_chunks(what: str, command: list[str], arguments: list[Path]) -> None:
    """Runs a checker over files; raises LabError with all that it says."""
    if not arguments:
        return
    result = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False,
                            cwd=paths.SOURCE)
    if result.returncode != 0:
        raise LabError(f"{what}:\n{result.stdout}{result.stderr}")


def _format() -> None:
    _in_chunks("not formatted; next: clang-format -i FILE", ["clang-format", "--dry-run", "--Werror"],
               [path for path in files() if path.suffix in (".c", ".h")])


def _shellcheck() -> None:
    _in_chunks("shellcheck", ["shellcheck"], [path for path in files() if _is_shell(path)])


def _headers() -> None:
    missing = []
    for path in files():
        if path.suffix in WITH_HEADER or path.name == "meson.build" or _is_shell(path):
            text = path.read_text(errors="replace")
            if text.strip() and HEADER not in text[:400]:
                missing.append(str(path.relative_to(paths.SOURCE)))
    if missing:
        raise LabError("no SPDX line in: " + ", ".join(missing))


def _mypy(packages: list[str], path: str = "tests:python") -> None:
    arguments = [str(dependencies.test_python()), "-m", "mypy", "--strict", "--no-error-summary",
                 "--cache-dir", str(paths.build_directory() / "mypy")]
    result = subprocess.run([*arguments, *packages], capture_output=True, text=True, check=False, cwd=paths.SOURCE,
                            env={**os.environ, "MYPYPATH": path})
    if result.returncode != 0:
        raise LabError(f"mypy --strict {' '.join(packages)}:\n{result.stdout}{result.stderr}")


def _mypy_bench() -> None:
    # These run in a node as programs, beside a module that the others have as one of the package.
    programs = ["tests/bench/node_clupy.py", "tests/bench/node_env.py"]
    for program in programs:
        _mypy([program], "tests/bench:python")
    _mypy(["--explicit-package-bases", *(str(path.relative_to(paths.SOURCE)) for path in
                                         sorted((paths.SOURCE / "tests/bench").glob("*.py"))
                                         if f"tests/bench/{path.name}" not in programs)], "python:.")


def _errors(text: str) -> str:
    """Only the lines of a compiler's output that say what is wrong, each once."""
    plain = re.sub(r"\x1b\[[0-9;]*[mK]", "", text)
    return "\n".join(dict.fromkeys(line for line in plain.splitlines() if WRONG.search(line)))


def _analyzer_errors(text: str) -> tuple[str, bool]:
    """As _errors(), without the analyzer's known mistakes, and whether it made any."""
    found: dict[str, None] = {}
    mistaken = False
    source = function = ""
    for line in re.sub(r"\x1b\[[0-9;]*[mK]", "", text).splitlines():
        if failed := re.match(r"FAILED: .*?([^/ ]+)\.o\b", line):
            source, function = failed[1], ""
        elif inside := re.search(r"In function [‘'](\w+)[’']", line):
            function = inside[1]
        elif WRONG.search(line):
            warning = re.search(r"\[-Werror=([\w-]+)\]$", line)
            if warning and (source, function, warning[1]) in ANALYZER_MISTAKES:
                mistaken = True
            else:
                found[line] = None
    return "\n".join(found), mistaken


def _warnings() -> None:
    """All warnings, and gcc's analyzer, as errors, in everything that is installed (the tests' own warnings are
    errors where they are built)."""
    with build.locked("analyzer") as directory:
        log = directory.parent / "logs" / "analyzer.log"
        log.unlink(missing_ok=True)
        build.configure(directory, ["--werror", "-Dtests=false",
                                    # It mistakes variables of functions that were inlined into others.
                                    "-Dc_args=-fanalyzer -fno-inline"])
        try:
            build.compile_all(directory, keep_going=True)
        except LabError as error:
            found, mistaken = _analyzer_errors(log.read_text(errors="replace"))
            if found or not mistaken:
                raise LabError(found or error.what, log=log) from error


def _tidy() -> None:
    with build.locked("fuzz") as directory:
        build.configure(directory, *build.FUZZ)
        # The list of files is renewed when a meson.build has changed.
        build.compile_all(directory, ["build.ninja"])
        database = json.loads((directory / "compile_commands.json").read_text())
        sources = sorted({str((directory / entry["file"]).resolve()) for entry in database})
        # Generated headers must exist before a file that includes them can be read.
        command = ["clang-tidy", "-p", str(directory), "--quiet", "--warnings-as-errors=*", f"--checks={TIDY_CHECKS}",
                   f"--header-filter={paths.SOURCE}/(common|agent|masterd|ctl)/.*"]

        def tidy(source: str) -> str:
            result = subprocess.run([*command, source], capture_output=True, text=True, check=False)
            return "" if result.returncode == 0 else result.stdout

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = "".join(pool.map(tidy, [each for each in sources if "/build/" not in each
                                            and "/tests/" not in each]))
    if found:
        raise LabError(f"clang-tidy:\n{_errors(found)}")


def run() -> list[Outcome]:
    """All checks."""
    checks = {"clang-format": _format, "shellcheck": _shellcheck, "SPDX lines": _headers,
              "mypy --strict, the lab": lambda: _mypy(["tests/labtool", "tests/mutants"]),
              "mypy --strict, the package": lambda: _mypy(["python/clupy"]),
              "mypy --strict, the package's tests": lambda: _mypy(["tests/python"]),
              "mypy --strict, the lab's tests": lambda: _mypy(["tests/lab"], "tests:python:tests/lab"),
              "mypy --strict, the index": lambda: _mypy(["index/config.py"]),
              "mypy --strict, the benchmarks": _mypy_bench,
              "warnings and -fanalyzer": _warnings, "clang-tidy": _tidy}
    return [outcome for name, function in checks.items()
            for outcome in announce([check(f"lint: {name}", function)])]

# SPDX-License-Identifier: Apache-2.0
"""Building the product and putting it into a staging directory, which becomes a layer of every node's disk.

Nothing is installed on the host: a layer with the built programs lies above the host's root on the nodes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import dependencies, paths, pythons
from .command import run_logged
from .console import LabError, say

JOBS = str(os.cpu_count() or 1)

# meson's options and the environment of the build with clang, which the fuzzers and clang-tidy share.
FUZZ = (["-Dfuzzers=true", "-Dtests=false"], {"CC": "clang"})


@contextlib.contextmanager
def locked(name: str) -> Iterator[Path]:
    """A build directory that no other ./lab uses meanwhile."""
    directory = paths.build_directory()
    with (directory / f".{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build in {directory / name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield directory / name


def configure(directory: Path, options: list[str], environment: dict[str, str] | None = None) -> None:
    """Makes a meson build directory, unless it is there. Call with its lock held."""
    stamp = directory / "lab-options"
    told = "".join(f"{option}\n" for option in options)
    if (directory / "build.ninja").exists() and stamp.exists() and stamp.read_text() == told:
        return
    shutil.rmtree(directory, ignore_errors=True)
    run_logged("configuring the build", ["meson", "setup", str(directory), str(paths.SOURCE), *options],
               directory.parent / "logs" / f"{directory.name}.log", environment=environment,
               next_step="read the log; ./lab installs what it knows to be needed, see "
                         "tests/labtool/dependencies")
    stamp.write_text(told)


def compile_all(directory: Path, targets: list[str] | None = None, keep_going: bool = False) -> None:
    """Compiles. Raises LabError with the compiler's words."""
    run_logged("compiling", ["ninja", "-C", str(directory), "-j", JOBS, *(["-k", "0"] if keep_going else []),
                             *(targets or [])], directory.parent / "logs" / f"{directory.name}.log",
               next_step="mend what the compiler names")


def staged() -> Path | None:
    """The staging directory of the last build that succeeded, or None."""
    stage = paths.build_directory() / "stage"
    return stage if stage.is_dir() else None


def build_release() -> Path:
    """Builds and stages the product; returns the staging directory. Raises LabError."""
    dependencies.ensure_build()
    with locked("release") as directory:
        log = directory.parent / "logs" / "release.log"
        log.unlink(missing_ok=True)
        configure(directory, ["--buildtype=debugoptimized", "-Dtests=false", *pythons.options()])
        compile_all(directory)
        stage = directory.parent / "stage"
        fresh = directory.parent / "stage.new"
        shutil.rmtree(fresh, ignore_errors=True)
        run_logged("installing into the staging directory",
                   ["meson", "install", "--no-rebuild", "-C", str(directory), "--destdir", str(fresh)], log)
        fresh.mkdir(exist_ok=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            if (fresh / name).exists() and Path("/", name).is_symlink():
                raise LabError(f"the product installs into /{name}, which is a link on Debian: the layer would hide "
                               "it", next_step=f"install into /usr/{name}")
        _stage_python(fresh, log)
        _stage_uv(fresh, log)
        shutil.rmtree(stage, ignore_errors=True)
        fresh.rename(stage)
        return stage


def build_sandbox_off() -> list[Path]:
    """Builds the launcher whose tasks run without any sandbox, and its helper; both belong into the folder of the others,
    for as long as a test needs them. Raises LabError."""
    dependencies.ensure_build()
    with locked("sandbox-off") as directory:
        configure(directory, ["--buildtype=debugoptimized", "-Dtests=false", "-Dsandbox_off=true"])
        programs = [directory / "agent/launcher" / name for name in ("clupy-launcher-off", "clupy-sandbox-off")]
        compile_all(directory, [str(program.relative_to(directory)) for program in programs])
        return programs


def build_or_last() -> Path | None:
    """As build_release(), but a tree that does not build gives the last one that did, or None, and says so."""
    try:
        return build_release()
    except LabError as error:
        last = staged()
        say(f"the product was NOT built: {error}")
        say("the nodes get the last build that succeeded" if last else "the nodes get no CluPy at all")
        return last


def _fetched(requirements: Path, log: Path) -> Path:
    """A folder with the packages of a list, which is kept as long as the list does not change."""
    name = requirements.stem.removeprefix("python-").removeprefix("requirements-")
    cache = paths.build_directory() / f"python-{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    if not cache.is_dir():
        fresh = cache.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        run_logged("fetching the Python packages of a node",
                   ["/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(fresh),
                    "--requirement", str(requirements)], log, next_step="check the network, or pip's index")
        fresh.rename(cache)
    return cache


def _stage_uv(stage: Path, log: Path) -> None:
    """Puts the program that makes environments where the nodes look for it first."""
    program = _fetched(paths.LISTS / "python-uv.txt", log) / "bin/uv"
    shutil.copy(program, stage / "usr/lib/clupy/uv")


def _stage_python(stage: Path, log: Path) -> None:
    """Puts what tasks need of the Python package's dependencies beside it, the rest where only programs look, and both on
    every Python program's path."""
    python = stage / "usr/lib/clupy/python"
    cache = _fetched(paths.SOURCE / "python" / "requirements-node.txt", log)
    client = stage / "usr/lib/clupy/client"
    for entry in cache.iterdir():
        folder = python if entry.name.startswith("cloudpickle") else client
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name, symlinks=True, dirs_exist_ok=True)
    pth = stage / "usr/lib/python3/dist-packages/clupy.pth"
    pth.parent.mkdir(parents=True, exist_ok=True)
    pth.write_text("/usr/lib/clupy/python\n/usr/lib/clupy/client\n")

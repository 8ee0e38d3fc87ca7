# SPDX-License-Identifier: Apache-2.0
"""What the project needs from Debian and from the Python index. The lists are in dependencies/, in one place."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from . import paths
from .command import run_logged, run_quiet
from .console import say


def _list(name: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (paths.LISTS / name).read_text().splitlines())
    return [line for line in lines if line]


def _missing(packages: list[str]) -> list[str]:
    status = run_quiet("asking dpkg", ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n"])
    installed = {line.split()[0] for line in status.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in installed]


def _apt(lists: list[str]) -> None:
    missing = _missing([package for name in lists for package in _list(name)])
    if not missing:
        return
    say(f"installing {len(missing)} Debian packages: {' '.join(missing)}")
    log = paths.build_directory() / "logs" / "apt.log"
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    advice = "check the network and /etc/apt/sources.list, then run this again"
    # Nothing that comes with a daemon shall start it here.
    environment = {"DEBIAN_FRONTEND": "noninteractive", "SYSTEMD_OFFLINE": "1"}
    run_logged("apt-get update", ["apt-get", "update"], log, next_step=advice)
    run_logged("apt-get install", install, log, next_step=advice, environment=environment)


def ensure_build() -> None:
    """What building the product and booting a lab needs."""
    _apt(["apt-build.txt"])


def ensure_test() -> None:
    """What the tests need besides."""
    _apt(["apt-build.txt", "apt-test.txt"])


def ensure_uml() -> None:
    """The kernel that runs as a program."""
    _apt(["apt-build.txt", "apt-uml.txt"])


def test_python() -> Path:
    """The Python of the tests' own virtual environment, which is made or renewed when its list has changed."""
    requirements = paths.LISTS / "python-test.txt"
    both = requirements.read_bytes() + (paths.LISTS / "python-uv.txt").read_bytes()
    digest = hashlib.sha256(both).hexdigest()
    directory = paths.build_directory() / "venv"
    stamp = directory / "READY"
    if not stamp.exists() or stamp.read_text() != digest:
        say("making the tests' Python environment")
        log = paths.build_directory() / "logs" / "venv.log"
        shutil.rmtree(directory, ignore_errors=True)
        run_logged("making a virtual environment", ["/usr/bin/python3", "-m", "venv", str(directory)], log)
        run_logged("installing the tests' Python packages",
                   [str(directory / "bin/python"), "-m", "pip", "install", "--quiet", "--requirement",
                    str(requirements)], log, next_step="check the network, or pip's index",
                   environment={"PYTHONPATH": "", "PATH": os.environ["PATH"]})
        stamp.write_text(digest)
    return directory / "bin/python"

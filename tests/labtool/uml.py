# SPDX-License-Identifier: Apache-2.0
"""Single-node tests on a kernel of their own: user-mode-linux with only the unified cgroup hierarchy (version 2).

Each test file gets a boot of its own. It runs as root in the guest, which is the host's image with the product
installed, under systemd as PID 1; its output and its exit code come back through files that both sides see. The kernel
is a process in a lab's cgroups, and its root a mount of the lab's, so `down` removes it like any lab.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import cgroup, content, paths
from .command import run_quiet, tail
from .console import LabError, say
from .lab import Lab

NODE = "uml"
MEMORY = 2 << 30
TIMEOUT = 600.0


@dataclass(frozen=True)
class Result:
    """What a test file did: its exit code (None: it came to no end), what it printed, how long all of it took."""

    test: Path
    code: int | None
    output: str
    seconds: float
    console: Path


def _write_guest(upper: content.Upper, test: Path) -> None:
    content.write_system(upper, NODE)
    upper.write("/etc/hosts", f"127.0.0.1 localhost master {NODE}\n::1 localhost\n")
    for role in ("master", "agent"):
        for name, text in content.configuration(role, MEMORY // 2, insecure=True).items():
            upper.write(f"/etc/clupy/{name}", text)
    # Both configurations are there, no service is enabled: the test starts what it is about.
    script = test.resolve().relative_to(paths.SOURCE)
    command = [] if os.access(test, os.X_OK) else ["/usr/bin/python3" if test.suffix == ".py" else "/bin/sh"]
    upper.write("/etc/systemd/system/lab-test.service", "\n".join([
        "[Unit]", "Description=The test of this boot", "Requires=multi-user.target", "After=multi-user.target",
        "[Service]", "Type=oneshot", "TimeoutStartSec=infinity", "WorkingDirectory=/root",
        "Environment=HOME=/root USER=root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1",
        f"Environment=CLUPY_MASTER_URL={content.MASTER_URL}",
        "StandardOutput=append:/lab/output", "StandardError=append:/lab/output",
        f"ExecStart=/bin/sh -c '{' '.join([*command, f'/src/{script}'])}; echo $$? > /lab/exit'",
        "ExecStopPost=/bin/systemctl poweroff --force", ""]))
    upper.write("/etc/systemd/system/lab-test.target",
                "[Unit]\nDescription=A test in this kernel\nRequires=multi-user.target lab-test.service\n")
    upper.link("/etc/systemd/system/default.target", "/etc/systemd/system/lab-test.target")
    # The kernel's modules lie where modprobe does not look.
    for modules in Path("/usr/lib/uml/modules").glob("*"):
        upper.link(f"/usr/lib/modules/{modules.name}", str(modules))


def run(test: Path, installed: Path | None, timeout: float = TIMEOUT) -> Result:
    """Boots a kernel for one test file and waits for its end. Raises LabError when the kernel cannot be started."""
    if not test.resolve().is_relative_to(paths.SOURCE):
        raise LabError(f"{test} is not in {paths.SOURCE}, which is what the guest sees as /src")
    started = time.monotonic()
    lab = Lab(f"uml{os.getpid()}")
    logs = paths.build_directory() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    console = logs / f"uml-{test.stem}.log"
    try:
        with lab.lock():
            code, output = _boot(lab, test, installed, console, timeout)
    finally:
        lab.down()
    return Result(test, code, output, time.monotonic() - started, console)


def _boot(lab: Lab, test: Path, installed: Path | None, console: Path, timeout: float) -> tuple[int | None, str]:
    lab.mount()
    directory = lab.directory / "nodes" / NODE
    for name in ("upper", "work", "root"):
        (directory / name).mkdir(parents=True)
    layer = lab.directory / "install"
    if installed is not None:
        shutil.copytree(installed, layer, symlinks=True)
    else:
        layer.mkdir()
    _write_guest(content.Upper(directory / "upper"), test)
    root = directory / "root"
    for arguments in (
            ["overlay", "-o", f"lowerdir={layer}:/,upperdir={directory}/upper,workdir={directory}/work", "-t",
             "overlay"],
            ["--bind", str(lab.shared), f"{root}/lab"],
            ["--bind", str(paths.SOURCE), f"{root}/src"],
            ["-o", "remount,bind,ro", f"{root}/src"]):
        target = [str(root)] if arguments[0] == "overlay" else []
        run_quiet("mounting the guest's root", ["mount", *arguments, *target])
    # The kernel's memory is a file of the program linux.uml; it must lie where files may be executed.
    memory = lab.directory / "memory"
    memory.mkdir()
    groups = cgroup.create(lab.name, NODE)
    command = ["linux.uml", "root=/dev/root", "rootfstype=hostfs", f"rootflags={root}", "rw",
               f"mem={MEMORY >> 20}M", "con=null", "con0=fd:0,fd:1", "init=/lib/systemd/systemd",
               "systemd.unified_cgroup_hierarchy=1", "systemd.show_status=0", f"uml_dir={lab.directory}/"]
    with console.open("wb") as log:
        kernel = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                  env={**os.environ, "TMPDIR": str(memory)},
                                  preexec_fn=lambda: cgroup.enter(groups, "supervisor"))
        try:
            kernel.wait(timeout)
        except subprocess.TimeoutExpired:
            say(f"{test.name}: not done after {timeout:.0f} s")
            cgroup.kill(groups)
            kernel.wait()
    output = lab.shared / "output"
    code = lab.shared / "exit"
    text = output.read_text(errors="replace") if output.exists() else f"the guest came to nothing:\n{tail(console)}\n"
    return (int(code.read_text()) if code.exists() else None), text


def run_all(tests: list[Path], installed: Path | None) -> int:
    """Runs test files one after the other, prints what they printed, and returns how many failed."""
    failed = 0
    for test in tests:
        say(f"uml: {test.name}: booting")
        result = run(test, installed)
        print(result.output, end="" if result.output.endswith("\n") else "\n", flush=True)
        if result.code != 0:
            failed += 1
        end = "no end" if result.code is None else f"exit {result.code}"
        say(f"uml: {test.name}: {end} after {result.seconds:.1f} s (console: {result.console})")
    return failed

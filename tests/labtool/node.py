# SPDX-License-Identifier: Apache-2.0
"""One node: a machine with systemd as PID 1, from its power switch to a command in it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from . import cgroup, content, paths
from .command import tail
from .console import LabError
from .network import Network
from .pki import Pki

BOOT_TIMEOUT = 120.0


@dataclass
class Boot:
    """A boot under way."""

    node: Node
    notify: socket.socket
    supervisor: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    def wait(self) -> float:
        """Waits until systemd says that it is up; returns the seconds it took. Raises LabError when it dies before
        or takes longer than BOOT_TIMEOUT seconds."""
        deadline = self.started + BOOT_TIMEOUT
        poll = select.poll()
        poll.register(self.notify, select.POLLIN)
        died = os.pidfd_open(self.supervisor.pid)
        poll.register(died, select.POLLIN)
        try:
            while True:
                events = [descriptor for descriptor, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
                if self.notify.fileno() in events:
                    if "READY=1" in self.notify.recv(4096).decode(errors="replace").splitlines():
                        return time.monotonic() - self.started
                elif died in events:
                    raise LabError(f"{self.node.name} died while booting (status {self.supervisor.wait()}):\n"
                                   f"{tail(self.node.console)}", log=self.node.console)
                elif not events:
                    raise LabError(f"{self.node.name} is not up after {BOOT_TIMEOUT:.0f} s", log=self.node.console,
                                   next_step=f"./lab exec --name {self.node.lab} {self.node.name} -- "
                                             "systemctl list-jobs")
        finally:
            os.close(died)
            self.notify.close()


class Node:
    """A node of a lab, known by its name; everything about it is read from its directory and its cgroups."""

    def __init__(self, lab: str, lab_directory: Path, name: str) -> None:
        self.lab = lab
        self.name = name
        self.role = content.role_of(name)
        self.lab_directory = lab_directory
        self.directory = lab_directory / "nodes" / name
        self.console = self.directory / "console.log"

    @property
    def upper(self) -> content.Upper:
        """The node's disk, as long as it is not running."""
        return content.Upper(self.directory / "upper")

    def create(self, nodes: list[str], memory: int, installed: Path, shared: Path, pki: Pki | None) -> None:
        """Makes the node's disk. pki None: it has no certificate and speaks plaintext."""
        for name in ("upper", "work", "root"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "lower").write_text(f"{installed}:/")
        (self.directory / "source").write_text(f"{paths.SOURCE}")
        (self.directory / "shared").write_text(f"{shared}")
        content.write_node(self.upper, self.name, nodes, memory, installed, pki is None)
        if pki is not None:
            pki.write(self.upper, self.name)

    def start(self, network: Network) -> Boot:
        """Switches the node on. It boots with a new boot id, like a real machine."""
        link = self.directory / "net"
        link.unlink(missing_ok=True)
        link.symlink_to(network.namespace(self.name))
        (self.directory / "boot_id").write_text(f"{uuid.uuid4()}\n")
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        notify.bind(str(path))
        groups = cgroup.create(self.lab, self.name)
        (self.directory / "cgroups").write_text("".join(f"{group}\n" for group in groups))
        command = ["/bin/sh", str(self.lab_directory / "supervisor.sh"), str(self.directory)]
        if cgroup.uses_scope():
            command = ["systemd-run", "--quiet", "--scope", "--collect", "--property=Delegate=yes",
                       f"--unit={cgroup.group_name(self.lab, self.name)}.scope", *command]
        with self.console.open("ab") as output:
            supervisor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                          start_new_session=True, cwd="/")
        return Boot(self, notify, supervisor)

    def groups(self) -> list[Path]:
        """The node's cgroups that exist."""
        return cgroup.find(self.lab, self.name)

    def pid(self) -> int | None:
        """The host's number of the node's PID 1, or None when the node is off."""
        for group in self.groups():
            for supervisor in cgroup.processes(group / "supervisor"):
                with contextlib.suppress(OSError):
                    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
                    if children:
                        return int(children[0])
        return None

    def cut_power(self) -> None:
        """Ends the node at once: PID 1 first, so that nothing inside sees it coming; what is on its disk stays."""
        pid = self.pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        cgroup.remove(self.groups())

    def enter_command(self, command: Sequence[str], user: str = "root",
                      environment: Sequence[str] = ()) -> list[str]:
        """The command that runs another one in the node, as a user, with a clean environment and PATH."""
        pid = self.pid()
        if pid is None:
            raise LabError(f"{self.name} is not running", next_step=f"./lab start --name {self.lab} {self.name}")
        variables = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
                     f"TERM={os.environ.get('TERM', 'dumb')}", f"CLUPY_MASTER_URL={content.MASTER_URL}",
                     *environment]
        uid, gid = self._user(pid, user)
        # setpriv's --reset-env sets HOME, USER, SHELL; the death signal ends the command with its nsenter.
        return ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root",
                "--wd", "--", "setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--reset-env",
                "--pdeathsig=KILL", "env", *variables, "/bin/sh", "-c", 'cd "$HOME" 2> /dev/null || cd /; exec "$@"', "sh", *command]

    def _user(self, pid: int, user: str) -> tuple[str, str]:
        """A user's uid and gid by the node's own list, where the product's users are."""
        for line in Path(f"/proc/{pid}/root/etc/passwd").read_text().splitlines():
            fields = line.split(":")
            if len(fields) == 7 and user in (fields[0], fields[2]):
                return fields[2], fields[3]
        raise LabError(f"{self.name} knows no user '{user}'")

    def enter_group(self) -> None:
        """Moves the calling process into the node's cgroups."""
        cgroup.enter(self.groups(), "node/exec")

    def exec(self, command: Sequence[str], user: str = "root", environment: Sequence[str] = ()) -> NoReturn:
        """Becomes a command in the node."""
        arguments = self.enter_command(command, user, environment)
        self.enter_group()
        os.execvp(arguments[0], arguments)

    def popen(self, command: Sequence[str], user: str = "root", environment: Sequence[str] = (),
              text: bool = True, **options: object) -> subprocess.Popen[str]:
        """Starts a command in the node; options are subprocess.Popen's."""
        arguments = self.enter_command(command, user, environment)
        groups = self.groups()

        def prepare() -> None:
            cgroup.enter(groups, "node/exec")
            # A shell has its background jobs ignore Ctrl-C; that is no business of what runs on a node.
            signal.signal(signal.SIGINT, signal.SIG_DFL)

        process: subprocess.Popen[str] = subprocess.Popen(  # type: ignore[call-overload]
            arguments, text=text, preexec_fn=prepare, **options)
        return process

    def run(self, command: Sequence[str], user: str = "root", *, check: bool = True, input: str | None = None,
            timeout: float | None = 60.0, environment: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Runs a command in the node to its end. Raises LabError if it fails and check is set, and
        subprocess.TimeoutExpired after timeout seconds."""
        with self.popen(command, user, environment, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                output, errors = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            raise LabError(f"on {self.name}: {' '.join(command)}: exit {process.returncode}:\n{output}{errors}")
        return subprocess.CompletedProcess(list(command), process.returncode, output, errors)

    def python(self, program: str, user: str = content.USER, *arguments: str, check: bool = True,
               timeout: float | None = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs a Python program, given as text, in the node."""
        return self.run(["python3", "-", *arguments], user, check=check, input=program, timeout=timeout)

    def write(self, path: str, text: str) -> None:
        """Writes a file on the running node, with the directories above it."""
        self.run(["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1"', "sh", path], input=text)

    def failed_units(self) -> list[str]:
        """Names of the units that failed, and of CluPy's own that run not although they should."""
        listing = self.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout
        failed = [line.split()[0] for line in listing.splitlines() if line.strip()]
        wanted = self.run(["sh", "-c", "cd /etc/systemd/system/multi-user.target.wants && ls"]).stdout.split()
        if wanted:
            states = self.run(["systemctl", "is-active", *wanted], check=False).stdout.split()
            failed += [unit for unit, state in zip(wanted, states, strict=True)
                       if state != "active" and unit not in failed]
        return failed

    def push(self, archive: Path) -> None:
        """Unpacks a newly built product on the running node, through the node itself (the layer that it was booted
        with must not change), and restarts what runs of it."""
        units = " ".join(content.services(self.role))
        script = ("set -e; tar --extract --file=- --directory=/ --no-same-owner --no-overwrite-dir; "
                  "systemctl daemon-reload; systemd-sysusers; systemd-tmpfiles --create 2>/dev/null || true; "
                  "systemctl reload dbus.service; "
                  f"for unit in {units}; do if [ -e /usr/lib/systemd/system/$unit ]; then "
                  "mkdir -p /etc/systemd/system/multi-user.target.wants; "
                  "ln -sf /usr/lib/systemd/system/$unit /etc/systemd/system/multi-user.target.wants/$unit; "
                  "found=\"$found $unit\"; fi; done; systemctl daemon-reload; "
                  "if [ -n \"$found\" ]; then systemctl reset-failed $found; systemctl restart $found; fi")
        with archive.open("rb") as source, self.popen(["sh", "-c", script], stdin=source, stdout=subprocess.PIPE,
                                                      stderr=subprocess.STDOUT) as process:
            output, _ = process.communicate(timeout=120)
        if process.returncode != 0:
            raise LabError(f"pushing to {self.name} failed (exit {process.returncode}):\n{output}",
                           next_step=f"./lab exec --name {self.lab} {self.name} -- journalctl -b -n 50")

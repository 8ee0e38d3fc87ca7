# SPDX-License-Identifier: Apache-2.0
"""python -m clupy --master | --serve: the installed daemons in the foreground, with the configuration of the working
directory. On a machine that stays, they are services: systemctl start clupy-masterd, clupy-agent."""

from __future__ import annotations

import argparse
import os
import platform
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import yaml

from . import _config
from ._failures import ConfigurationError
from ._version import VERSION

EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_NOT_PERMITTED = 77
EXIT_CONFIG = 78

PROGRAM_DIRECTORY = Path("/usr/lib/clupy")
RUNTIME_DIRECTORY = Path("/run/clupy")
MASTER_STATE = Path("/var/lib/clupy-master")
PKI_DIRECTORY = Path("/etc/clupy/pki")
MASTER_USER, AGENT_USER = "clupy-master", "clupy"
_STOP_TIMEOUT = 20.0  # seconds until a daemon that does not stop is killed


class _EndError(Exception):
    """The program ends here. status: its exit status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def main(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, that of the daemon that ended, 64 usage, 69 daemons not installed, 77 not root,
    78 configuration."""
    parser = argparse.ArgumentParser(prog="python -m clupy", description="CluPy: parallel Python calls in a cluster.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--master", action="store_true",
                      help="run a master here, with clupy.master.yaml of the working directory if it is there")
    what.add_argument("--serve", action="store_true",
                      help="run this machine as a node, with clupy.server.yaml of the working directory if it is there")
    what.add_argument("--publish", metavar="FILE", help="publish the service that FILE defines")
    what.add_argument("--version", action="store_true", help="print the versions of clupy and Python")
    parser.add_argument("--master-url", metavar="URL", help="the master of --serve and --publish "
                        "(default: what the configuration says, else clupy://localhost:7878)")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as end:
        return EXIT_USAGE if end.code else 0
    try:
        if options.version:
            print(f"clupy {VERSION} (Python {platform.python_version()})")
            return 0
        if options.publish is not None:
            raise _EndError(EXIT_UNAVAILABLE, "--publish is not there yet: publishing services comes with a later version")
        if options.master:
            if options.master_url is not None:
                raise _EndError(EXIT_USAGE, "--master-url is for --serve; a master's own addresses are `listen:` in "
                                            "clupy.master.yaml")
            return _run_master()
        return _run_node(options.master_url)
    except _EndError as end:
        print(f"clupy: {end}", file=sys.stderr)
        return end.status
    except ConfigurationError as error:
        print(f"clupy: {error}", file=sys.stderr)
        return EXIT_CONFIG


def _program(name: str) -> str:
    path = PROGRAM_DIRECTORY / name
    found = str(path) if path.exists() else shutil.which(name)
    if found is None:
        raise _EndError(EXIT_UNAVAILABLE, f"{name} is not installed: this needs the system package clupy, which has the "
                        "daemons (or `meson install` from CluPy's source); the Python package alone is for clients")
    return found


def _require_root(option: str, service: str) -> None:
    if os.geteuid() != 0:
        raise _EndError(EXIT_NOT_PERMITTED, f"{option} needs root; as a service it is started with\n"
                                            f"    sudo systemctl start {service}")


def _user(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise _EndError(EXIT_UNAVAILABLE, f"the user {name} does not exist: the system package clupy makes it "
                                          "(systemd-sysusers does so now)") from None


def _run_master() -> int:
    program = _program("clupy-masterd")
    _require_root("--master", "clupy-masterd")
    user = _user(MASTER_USER)
    MASTER_STATE.mkdir(mode=0o700, exist_ok=True)
    os.chown(MASTER_STATE, user.pw_uid, user.pw_gid)
    local = Path("clupy.master.yaml").absolute()
    with tempfile.TemporaryDirectory(prefix="clupy-master-", dir="/run") as folder:
        daemons = _Daemons()
        daemons.start([program, *(["--config", str(local)] if local.exists() else [])], user,
                      _credentials("master.key", user, Path(folder)))
        return daemons.wait()


def _run_node(master_url: Optional[str]) -> int:
    policyc, launcher, agent = (_program(f"clupy-{name}") for name in ("policyc", "launcher", "agent"))
    _require_root("--serve", "clupy-agent")
    user = _user(AGENT_USER)
    local = Path("clupy.server.yaml").absolute()
    with tempfile.TemporaryDirectory(prefix="clupy-serve-", dir="/run") as folder:
        config = local if local.exists() else None
        if master_url is not None:
            config = _with_master(local, master_url, Path(folder))
        given = [] if config is None else ["--config", str(config)]
        RUNTIME_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
        status = subprocess.run([policyc, *given], check=False).returncode
        if status != 0:
            return status
        daemons = _Daemons()
        daemons.start([launcher])
        daemons.start([agent, *given], user, _credentials("agent.key", user, Path(folder)))
        return daemons.wait()


def _credentials(name: str, user: pwd.struct_passwd, folder: Path) -> Dict[str, str]:
    """Hands a private key, which root alone can read, to a daemon as its unit's LoadCredential= does. Returns what the
    daemon's environment needs for it."""
    try:
        key = (PKI_DIRECTORY / name).read_bytes()
    except FileNotFoundError:  # the configuration names another one, or does without TLS; else the daemon says so
        return {}
    directory = folder / "credentials"
    directory.mkdir(mode=0o700)
    descriptor = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with open(descriptor, "wb") as file:
        file.write(key)
        os.chown(descriptor, user.pw_uid, user.pw_gid)
    os.chown(directory, user.pw_uid, user.pw_gid)
    folder.chmod(0o711)  # its name is known to the daemon alone, and the folder within is the daemon's
    return {"CREDENTIALS_DIRECTORY": str(directory)}


def _with_master(local: Path, url: str, folder: Path) -> Path:
    """The local configuration with another master, in a file that the agent's user can read."""
    target = _config.parse_url(url, "--master-url")
    if _config.is_socket(target.addresses[0]):
        raise ConfigurationError("--master-url: expected an address like clupy://host:7878: a UNIX socket is for clients, "
                                 "nodes have certificates")
    content: Dict[str, Any] = {}
    if local.exists():
        try:
            loaded = yaml.safe_load(local.read_text("utf-8"))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigurationError(f"{local}:{line}: {error.problem or 'this is no YAML'}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigurationError(f"{local}: {error}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigurationError(f"{local}:1: expected 'key: value' lines")
        content = loaded or {}
    content["master"] = "clupy://" + ",".join(map(_config.format_address, target.addresses))
    if target.insecure:
        content["insecure"] = True
    folder.chmod(0o711)
    path = folder / "clupy.server.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    path.chmod(0o644)
    return path


class _Daemons:
    """Children that belong together: when one ends, or this program is told to, all end, the last started first."""

    def __init__(self) -> None:
        self._children: List[subprocess.Popen[bytes]] = []
        self._changed = threading.Event()
        self._told = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        self._told = True
        self._changed.set()

    def start(self, command: List[str], user: Optional[pwd.struct_passwd] = None,
              environment: Optional[Dict[str, str]] = None) -> None:
        """environment: what is added to this program's own. They run in /, as services do."""
        options: Dict[str, Any] = {"env": {**os.environ, **(environment or {})}, "cwd": "/"}
        if user is not None:
            groups = os.getgrouplist(user.pw_name, user.pw_gid)
            options.update(user=user.pw_uid, group=user.pw_gid, extra_groups=groups)
        # In a session of its own: Ctrl-C comes here, and ends them in order.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self._children.append(child)
        threading.Thread(target=self._watch, args=(child,), daemon=True).start()

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        child.wait()
        self._changed.set()

    def wait(self) -> int:
        """Until the end. Returns the status of the one that ended by itself, 0 when this program was told to end."""
        self._changed.wait()
        ended = next((child for child in self._children if child.poll() is not None), None)
        for child in reversed(self._children):
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(_STOP_TIMEOUT)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        if self._told or ended is None or ended.returncode is None:
            return 0
        return ended.returncode if ended.returncode >= 0 else 128 - ended.returncode

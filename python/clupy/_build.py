# SPDX-License-Identifier: Apache-2.0
"""Makes an environment: finds out which packages it consists of, and installs them with uv, with pip where uv is missing.

A program of its own, which runs in a build's sandbox, with no more rights than the setup.py of a package that it
installs, and uses nothing but the standard library:

    INTERPRETER -I -B _build.py

Descriptor 3 holds the order, descriptor 4 takes the report, both JSON objects; standard output and standard error are the
log, in the installer's own words. It exits with 0, or with 1 when the environment cannot be made.

The order:

- `op`: "resolve" or "build";
- `python`: "3.11", the interpreter's version;
- `target`: the environment's folder, empty. What resolving leaves there is of no use to anybody;
- `packages`: requirements as in "polars>=1", to resolve; `wheels`: `[{"name": file name, "digest": SHA-256}]`, to resolve
  as well, which `base` + "/wheels/DIGEST/NAME" serves;
- `lock`: what resolving has reported. For building all that is installed; for resolving the versions to prefer;
- `index`: the address of a package index, or null; `find_links`: addresses of pages with links to packages; `base`: where
  the master's index is, "http://127.0.0.1:7879" when it is missing;
- `only_wheels`: no source distributions; `system_packages`: the interpreter's own packages are visible too;
- `preload`: modules that are imported once for all tasks.

The report: `lock` (resolving), `libraries` ({name: version}), `installer` ("uv 0.5.1"), `platform` ("linux-x86_64").
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import Any, Dict, List, Mapping, Optional, Sequence

ORDER_FD = 3
REPORT_FD = 4
_UV = "/usr/lib/clupy/uv"
_BASE = "http://127.0.0.1:7879"
_CACHE = ".cache"  # within the environment: files of it are linked into their places, not copied
_PRELOAD = "preload"  # a file of the environment, a module a line
_IMPORT_TIMEOUT = 300  # seconds
_COMPILERS_MAX = 8  # processes

_REQUIREMENT = re.compile(r"[A-Za-z0-9][^\r\n\0]*")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_WHEEL = re.compile(r"([A-Za-z0-9][A-Za-z0-9._]*)-([A-Za-z0-9._+!]+)(-[0-9][A-Za-z0-9._]*)?-[^-/]+-[^-/]+-[^-/]+\.whl")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PINNED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*===?\s*([^\s;\\]+)")
_FROM_ADDRESS = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?\s*@\s*([^\s;\\]+)")
# Where a lock's packages were found when it was made is none of the build's business.
_PLACES = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host", "--no-index", "--prefer-binary",
           "--only-binary", "--no-binary", "--pre", "--default-index", "--index")


class BuildError(Exception):
    """The environment cannot be made. Without words: the installer has said why."""


class Order:
    """What is to be done; see this module's text. Raises BuildError for one that cannot be meant."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.resolving = message["op"] == "resolve"
        self.python = str(message["python"])
        self.target = str(message["target"])
        self.packages = [str(text).strip() for text in message.get("packages") or ()]
        self.lock = str(message.get("lock") or "")
        self.index: Optional[str] = message.get("index")
        self.find_links = [str(address) for address in message.get("find_links") or ()]
        self.only_wheels = bool(message.get("only_wheels"))
        self.system_packages = bool(message.get("system_packages"))
        self.preload = [str(name).strip() for name in message.get("preload") or ()]
        base = str(message.get("base") or _BASE).rstrip("/")
        self.wheels = [_wheel_requirement(base, str(wheel["name"]), str(wheel["digest"]))
                       for wheel in message.get("wheels") or ()]
        for text in self.packages:
            if not _REQUIREMENT.fullmatch(text):
                raise BuildError(f"error: expected the name of a package, as in 'polars>=1', got {text!r}")
        for name in self.preload:
            if not _MODULE.fullmatch(name):
                raise BuildError(f"error: expected the name of a module to preload, as in 'pandas', got {name!r}")

    @property
    def cache(self) -> str:
        return os.path.join(self.target, _CACHE)

    def file(self, name: str, text: str) -> str:
        """Writes a file for the installer and returns its path."""
        path = os.path.join(self.cache, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path


def _wheel_requirement(base: str, name: str, digest: str) -> str:
    match = _WHEEL.fullmatch(name)
    if match is None or not _DIGEST.fullmatch(digest):
        raise BuildError(f"error: {name!r} is not the name of a wheel (name-version-python-abi-platform.whl)")
    return f"{match.group(1)} @ {base}/wheels/{digest}/{name.replace('+', '%2B')}"


class Uv:
    """Installs with uv."""

    def __init__(self, order: Order, program: str) -> None:
        self._order = order
        self._program = program
        self.version = _version(_output([program, "--version"]))
        self._sources = [*(["--default-index", order.index] if order.index else ["--no-index"]),
                         *(f"--find-links={address}" for address in order.find_links),
                         *(["--only-binary", ":all:"] if order.only_wheels else [])]

    def resolve(self, requirements: str) -> str:
        # The versions in a file that is there already are kept where they fit.
        lock = self._order.file("resolved.txt", lock_entries(self._order.lock))
        self._uv("pip", "compile", "--quiet", "--python", sys.executable, "--generate-hashes", "--no-annotate",
                 "--no-header", *self._sources, "--output-file", lock, requirements)
        with open(lock, encoding="utf-8") as file:
            return file.read()

    def build(self, lock: Optional[str]) -> None:
        order = self._order
        self._uv("venv", "--quiet", "--allow-existing", "--no-project", "--python", sys.executable,
                 *(["--system-site-packages"] if order.system_packages else []), order.target)
        if lock is not None:
            self._uv("pip", "sync", "--python", _python_of(order.target), "--require-hashes", *self._sources, lock)

    def _uv(self, *arguments: str) -> None:
        _run([self._program, *arguments])


class Pip:
    """Installs with pip: slower, and without the versions that a lock would rather have, where they do not all fit."""

    def __init__(self, order: Order) -> None:
        self._order = order
        for interpreter in dict.fromkeys((sys.executable, shutil.which("python3") or "/usr/bin/python3")):
            self._pip = [interpreter, "-I", "-m", "pip"]
            words = _output([*self._pip, "--version"])
            if words:
                break
        else:
            raise BuildError("error: this node has neither uv nor pip; its administrator can install one (apt-get install "
                             "python3-pip)")
        self.version = _version(words)
        self._sources = [*(["--index-url", order.index] if order.index else ["--no-index"]),
                         *(f"--find-links={address}" for address in order.find_links),
                         *(["--only-binary", ":all:"] if order.only_wheels else [])]

    def resolve(self, requirements: str) -> str:
        order = self._order
        self._environment()
        report = os.path.join(order.cache, "report.json")
        arguments = ["--dry-run", "--report", report, "--requirement", requirements]
        preferred = "".join(f"{name}=={version}\n" for name, version in lock_libraries(order.lock).items())
        if not (preferred and self._install([*arguments, "--constraint", order.file("preferred.txt", preferred)], True)):
            self._install(arguments)
        with open(report, encoding="utf-8") as file:
            found = json.load(file)["install"]
        lines = []
        for entry in found:
            name, version = normalized(entry["metadata"]["name"]), entry["metadata"]["version"]
            download = entry["download_info"]
            archive = download.get("archive_info") or {}
            digest = (archive.get("hashes") or {}).get("sha256") or str(archive.get("hash", "")).partition("sha256=")[2]
            if not digest:
                raise BuildError(f"error: {name} comes from {download.get('url')}, which has no SHA-256 to lock")
            exact = f"{name} @ {download['url'].partition('#')[0]}" if entry.get("is_direct") else f"{name}=={version}"
            lines.append(f"{exact} \\\n    --hash=sha256:{digest}\n")
        return "".join(sorted(lines))

    def build(self, lock: Optional[str]) -> None:
        self._environment()
        if lock is not None:
            self._install(["--require-hashes", "--no-deps", "--no-compile", "--requirement", lock])

    def _environment(self) -> None:
        order = self._order
        _run([sys.executable, "-I", "-m", "venv", "--without-pip",
              *(["--system-site-packages"] if order.system_packages else []), order.target])

    def _install(self, arguments: Sequence[str], may_fail: bool = False) -> bool:
        command = [*self._pip, "--python", _python_of(self._order.target), "install", "--ignore-installed",
                   "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar=off", *self._sources,
                   *arguments]
        if may_fail:
            return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, check=False).returncode == 0
        _run(command)
        return True


def _run(command: Sequence[str]) -> None:
    """Raises BuildError when it fails, without words: it has printed its own."""
    try:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        raise BuildError(f"error: {command[0]} cannot be started: {error.strerror}") from None
    if status < 0:
        raise BuildError(f"error: {os.path.basename(command[0])} ended with {_ending(status)}")
    if status:
        raise BuildError


def _output(command: Sequence[str]) -> str:
    """What a program prints; nothing when it fails."""
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                check=False)
    except OSError:
        return ""
    return result.stdout.decode("utf-8", "replace") if result.returncode == 0 else ""


def _version(words: str) -> str:
    """"uv 0.5.1" of "uv 0.5.1 (…)"."""
    return " ".join(words.split()[:2])


def _python_of(folder: str) -> str:
    return os.path.join(folder, "bin", "python")


def _installer(order: Order) -> Any:
    for program in (_UV, shutil.which("uv")):
        if program and os.access(program, os.X_OK):
            uv = Uv(order, program)
            if uv.version:
                return uv
            print(f"clupy: {program} does not run here; installing with pip", flush=True)
    return Pip(order)


def normalized(name: str) -> str:
    """As the index calls a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_libraries(lock: str) -> Dict[str, str]:
    """{name: version} of what a lock pins."""
    found: Dict[str, str] = {}
    for line in lock.splitlines():
        pinned = _PINNED.match(line)
        address = None if pinned else _FROM_ADDRESS.match(line)
        if pinned:
            found[normalized(pinned.group(1))] = pinned.group(2)
        elif address:
            wheel = _WHEEL.fullmatch(address.group(2).partition("#")[0].rpartition("/")[2].replace("%2B", "+"))
            if wheel:
                found[normalized(address.group(1))] = wheel.group(2)
    return found


def lock_entries(lock: str) -> str:
    """A lock's entries alone. Raises BuildError for what a lock cannot consist of."""
    kept: List[str] = []
    continued = False
    for number, line in enumerate(lock.splitlines(), 1):
        text = line.strip()
        entry = bool(text) and not text.startswith("#")
        if entry and not continued and text.startswith("-"):
            if re.split(r"[\s=]", text, maxsplit=1)[0] not in _PLACES:
                raise BuildError(f"error: line {number} of the lock: expected name==version and its hashes, got "
                                 f"'{text[:200]}'")
            print(f"clupy: line {number} of the lock, '{text[:200]}', is left out: packages come from the master's index",
                  flush=True)
        elif entry:
            kept.append(line)
        continued = entry and text.endswith("\\")
    return "".join(f"{line}\n" for line in kept)


def _without_addresses(lock: str) -> str:
    """A lock names a wheel that travels by its version, as it would one of an index: its hash says which one it is."""
    lines = []
    for line in lock.splitlines(keepends=True):
        address = _FROM_ADDRESS.match(line)
        pinned = list(lock_libraries(line).items()) if address else []
        lines.append(f"{pinned[0][0]}=={pinned[0][1]}{line[address.end():]}" if address and pinned else line)
    return "".join(lines)


def _with_wheels(lock: str, wheels: Sequence[str]) -> str:
    """The lock with the addresses of such wheels."""
    addresses = {tuple(lock_libraries(wheel).items())[0]: wheel for wheel in wheels}
    lines = []
    for line in lock.splitlines(keepends=True):
        pinned = _PINNED.match(line)
        address = pinned and addresses.get((normalized(pinned.group(1)), pinned.group(2)))
        lines.append(f"{address}{line[pinned.end():]}" if pinned and address else line)
    return "".join(lines)


def _installed(order: Order) -> Dict[str, str]:
    """{name: version} of what is in the environment."""
    found = {}
    for distribution in importlib.metadata.distributions(path=[_site_packages(order)]):
        name = distribution.metadata["Name"]
        if name:
            found[normalized(name)] = distribution.version
    return dict(sorted(found.items()))


def _site_packages(order: Order) -> str:
    return os.path.join(order.target, "lib", f"python{order.python}", "site-packages")


def _compile(order: Order) -> None:
    """Nobody can write to the environment later, so that each task would compile what it imports. Packages' own tests, most
    of the work in some, are left out; what cannot be compiled is told to who imports it."""
    jobs = str(min(os.cpu_count() or 1, _COMPILERS_MAX))
    subprocess.run([_python_of(order.target), "-I", "-m", "compileall", "-qq", "-j", jobs, "-x", "/tests?/",
                    _site_packages(order)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


_IMPORT = """
import importlib, sys, traceback
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        traceback.print_exc()
        words = traceback.format_exception_only(type(error), error)[-1].strip()
        print(f"error: {name} (preload) cannot be imported: {words}", file=sys.stderr, flush=True)
        sys.exit(1)
"""


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _preload(order: Order) -> None:
    """Notes what tasks are to find imported, if it can be."""
    if order.preload:
        print(f"clupy: importing {', '.join(order.preload)}", flush=True)
        try:
            status = subprocess.run([_python_of(order.target), "-I", "-c", _IMPORT, *order.preload], cwd=order.target,
                                    stdin=subprocess.DEVNULL, timeout=_IMPORT_TIMEOUT, check=False).returncode
        except subprocess.TimeoutExpired:
            raise BuildError(f"error: importing {', '.join(order.preload)} (preload) takes more than {_IMPORT_TIMEOUT} s"
                             ) from None
        if status:
            names = ", ".join(order.preload)
            raise BuildError("" if status == 1 else f"error: importing {names} (preload) ended with {_ending(status)}")
    with open(os.path.join(order.target, _PRELOAD), "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in order.preload)


def _prepare(order: Order) -> None:
    """Nothing of the node's own settings counts, and nothing is written but the environment and /tmp."""
    os.makedirs(order.cache, exist_ok=True)
    home = os.path.join(order.cache, "home")
    os.makedirs(home, exist_ok=True)
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    os.environ.clear()
    os.environ.update({
        "PATH": "/usr/local/bin:/usr/bin:/bin", **kept, "HOME": home, "LANG": "C.UTF-8", "NO_COLOR": "1",
        "UV_NO_CONFIG": "1", "UV_CACHE_DIR": os.path.join(order.cache, "uv"), "UV_LINK_MODE": "hardlink",
        "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "UV_NO_WRAP": "1", "UV_HTTP_TIMEOUT": "120",
        # Each is a connection of this node to the master, and a process or thread of this build.
        "UV_CONCURRENT_DOWNLOADS": "16", "UV_CONCURRENT_BUILDS": "2",
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_COLOR": "1", "PIP_DEFAULT_TIMEOUT": "120", "PIP_ROOT_USER_ACTION": "ignore",
    })


def make(order: Order) -> Dict[str, Any]:
    """Does it, and returns the report. Raises BuildError."""
    own = "{}.{}".format(*sys.version_info)
    if order.python != own:
        raise BuildError(f"error: this is Python {own}, and the environment is for Python {order.python}")
    _prepare(order)
    installer = _installer(order)
    report: Dict[str, Any] = {"installer": installer.version, "platform": sysconfig.get_platform()}
    print(f"clupy: {'resolving' if order.resolving else 'building'} with {installer.version} for Python {own}, "
          f"{report['platform']}", flush=True)
    if order.resolving:
        wanted = [*order.packages, *order.wheels]
        lock = installer.resolve(order.file("wanted.txt", "".join(f"{line}\n" for line in wanted)))
        report["lock"] = _without_addresses(lock)
        report["libraries"] = lock_libraries(report["lock"])
    else:
        lock = _with_wheels(lock_entries(order.lock), order.wheels)
        installer.build(order.file("lock.txt", lock) if lock else None)
        _compile(order)
        _preload(order)
        report["libraries"] = _installed(order)
    return report


def main() -> int:
    """Returns the exit status."""
    order: Optional[Order] = None
    try:
        with open(ORDER_FD, encoding="utf-8") as file:
            order = Order(json.load(file))
        report = make(order)
        with open(REPORT_FD, "w", encoding="utf-8") as file:
            json.dump(report, file)
    except BuildError as error:
        if str(error):
            print(error, file=sys.stderr, flush=True)
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        if order is not None:
            shutil.rmtree(order.cache, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The packages that calls need besides what the cluster has: the options packages= and preload= of clupy.parallel(), and
clupy.client.dependency.yaml in the working directory, else in the user's configuration folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from . import _yaml
from ._config import user_folder
from ._failures import ConfigurationError
from ._units import format_size

FILE_NAME = "clupy.client.dependency.yaml"
_KEYS = ("packages", "wheels", "lock", "preload", "base", "libraries")
BASES = ("default", "none")
LIBRARIES = ("warn", "error", "ignore")

# The master's bounds.
PACKAGES_MAX = 1000
MODULES_MAX = 256
_WHEELS_MAX = 64
_REQUIREMENT_MAX = 1000  # characters
_MODULE_MAX = 255  # bytes
_FILE_NAME_MAX = 255  # bytes
_ENVIRONMENT_MAX = 512 << 10  # bytes of an environment's texts; the master's bound
_READ_SIZE = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_REQUIREMENT = re.compile(_NAME.pattern + r"\s*(\[[^\]]*\])?\s*([<>=!~;(][^@#\\\x00-\x1f\x7f]*)?")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_WHEEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._]*-[A-Za-z0-9._+!]+(-[0-9][A-Za-z0-9._]*)?-[^-/]+-[^-/]+-[^-/]+\.whl")
_WHEEL_EXPECTED = "the path of a wheel, as in dist/name-1.0-py3-none-any.whl"
_PACKAGE_EXPECTED = f"a requirement, as in 'polars>=1', or {_WHEEL_EXPECTED}"
_MODULE_EXPECTED = "the name of a module, as in 'pandas'"


class Wheel(NamedTuple):
    """A wheel on this machine, as it was when it was read. digest: SHA-256, size: bytes."""

    path: str
    digest: str
    size: int
    changed_ns: int

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def pieces(self, offset: int, size: int) -> List[memoryview]:
        """Its bytes from offset to offset + size. Raises OSError when it is no longer the file that it was."""
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if (status.st_size, status.st_mtime_ns) != (self.size, self.changed_ns):
                raise OSError(f"{self.path} has changed since the call was made")
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"{self.path} ended early")
        return [memoryview(data)]


class Manifest(NamedTuple):
    """What a clupy.client.dependency.yaml says; paths are absolute. path: its own, "" when there is none."""

    path: str = ""
    packages: Tuple[str, ...] = ()
    wheels: Tuple[str, ...] = ()
    lock: str = ""  # its text
    preload: Tuple[str, ...] = ()
    base: str = "default"
    libraries: str = "warn"


class Environment(NamedTuple):
    """What the tasks of a job can import. Equal ones are the same."""

    packages: Tuple[str, ...] = ()
    wheels: Tuple[Wheel, ...] = ()
    lock: str = ""
    preload: Tuple[str, ...] = ()
    base: str = "default"

    def message(self) -> Dict[str, Any]:
        """JOB's `environment` of docs/protocol.md; empty when it is the cluster's default."""
        message: Dict[str, Any] = {}
        if self.packages:
            message["packages"] = list(self.packages)
        if self.wheels:
            message["wheels"] = [{"name": wheel.name, "digest": wheel.digest, "size": wheel.size} for wheel in self.wheels]
        if self.lock:
            message["lock"] = self.lock
        if self.preload:
            message["preload"] = list(self.preload)
        if self.base != "default":
            message["base"] = self.base
        return message


def load() -> Manifest:
    """The user's file; the defaults when there is none. Raises ConfigurationError, which names file, line and what was
    expected."""
    for path in (Path(FILE_NAME), Path(user_folder(), FILE_NAME)):
        manifest = _read(path)
        if manifest is not None:
            return manifest
    return Manifest()


def _read(path: Path) -> Optional[Manifest]:
    nodes = _yaml.read_entries(path, _KEYS)
    if nodes is None:
        return None
    found: Dict[str, Any] = {"path": str(path)}
    wheels: List[str] = []
    for name, node in nodes.items():
        if name == "packages":
            packages: List[str] = []
            for text, where in _items(path, node, name, _PACKAGE_EXPECTED):
                package = _checked(check_package, text, f"{where}: key '{name}'", os.path.dirname(os.path.abspath(path)))
                (wheels if is_wheel(package) else packages).append(package)
            found[name] = tuple(packages)
        elif name == "wheels":
            for text, where in _items(path, node, name, _WHEEL_EXPECTED):
                wheel = _yaml.beside(path, text)
                if not _WHEEL.fullmatch(os.path.basename(wheel)):
                    raise ConfigurationError(f"{where}: key '{name}': expected {_WHEEL_EXPECTED}, got '{text}'")
                wheels.append(wheel)
        elif name == "lock":
            lock = _yaml.path_of(path, node, name)
            text_of_lock = _yaml.read_text(Path(lock))
            if text_of_lock is None:
                raise ConfigurationError(f"{_yaml.where(path, node)}: key '{name}': there is no file {lock}")
            found[name] = text_of_lock
        elif name == "preload":
            found[name] = tuple(_checked(check_module, text, f"{where}: key '{name}'")
                                for text, where in _items(path, node, name, _MODULE_EXPECTED))
        else:
            found[name] = _yaml.choice_of(path, node, name, BASES if name == "base" else LIBRARIES)
    if found.get("lock") and found.get("packages"):
        raise ConfigurationError(f"{_yaml.where(path, nodes['packages'])}: key 'packages': expected none beside 'lock', "
                                 "which names all packages that there are")
    return Manifest(**found, wheels=tuple(dict.fromkeys(wheels)))


def _items(path: Path, node: Any, name: str, expected: str) -> List[Tuple[str, str]]:
    items = _yaml.items_of(path, node, name, expected)
    most = MODULES_MAX if name == "preload" else PACKAGES_MAX
    if len(items) > most:
        raise ConfigurationError(f"{_yaml.where(path, node)}: key '{name}': expected at most {most}, got {len(items)}")
    return items


def _checked(check: Any, text: str, place: str, *more: str) -> str:
    try:
        checked: str = check(place, text, *more)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return checked


def is_wheel(package: str) -> bool:
    """Whether an entry of packages is the path of a wheel."""
    return package.endswith(".whl") and "://" not in package and " @ " not in package


def check_package(what: str, value: Any, folder: str = "") -> str:
    """A requirement, or a wheel's path, which is made absolute from folder (the working directory). what names the option
    in the error. Raises TypeError, ValueError."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{what}: expected {_PACKAGE_EXPECTED}, got {value!r}")
    text = os.fspath(value)
    if isinstance(text, str) and len(text) <= _REQUIREMENT_MAX:
        if is_wheel(text) and len(os.path.basename(text)) <= _FILE_NAME_MAX and _WHEEL.fullmatch(os.path.basename(text)):
            return os.path.abspath(os.path.join(folder, os.path.expanduser(text)))
        if isinstance(value, str) and not is_wheel(text) and _REQUIREMENT.fullmatch(text.strip()):
            return text.strip()
    hint = ""
    if isinstance(text, str) and ("://" in text or "@" in text):
        hint = ": packages come from the master's index; fetch this one as a wheel, and name that"
    elif isinstance(text, str) and os.path.sep in text:
        hint = ": make a wheel of it (pip wheel --no-deps), and name that"
    raise ValueError(f"{what}: expected {_PACKAGE_EXPECTED}, got {text[:300]!r}{hint}")


def check_module(what: str, value: Any) -> str:
    """Raises TypeError, ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{what}: expected {_MODULE_EXPECTED}, got {value!r}")
    if len(value.encode()) > _MODULE_MAX or not _MODULE.fullmatch(value):
        raise ValueError(f"{what}: expected {_MODULE_EXPECTED}, got {value[:300]!r}")
    return value


def project(requirement: str) -> str:
    """The name of the package that a requirement is for, as the index has it."""
    match = re.match(_NAME.pattern, requirement)
    return re.sub(r"[-_.]+", "-", match.group() if match else requirement).lower()


def environment_of(manifest: Manifest, packages: Sequence[str], preload: Sequence[str]) -> Environment:
    """The environment of a call with these options; a requirement replaces one of the file for the same package.

    Raises ValueError when the file has a lock, which names all packages there are, and for a wheel that is not there."""
    if packages and manifest.lock:
        raise ValueError(f"packages: {manifest.path} has a lock, which names all packages that there are; add "
                         f"{', '.join(packages[:3])} there, or leave out the lock")
    if not manifest.path and not packages and not preload:
        return _DEFAULT
    wheels = [package for package in packages if is_wheel(package)]
    wanted = {project(package): package for package in packages if not is_wheel(package)}
    own = {project(os.path.basename(path).partition("-")[0]) for path in wheels}
    kept = [package for package in manifest.packages if project(package) not in wanted and project(package) not in own]
    paths = [path for path in manifest.wheels if project(os.path.basename(path).partition("-")[0]) not in {*wanted, *own}]
    environment = Environment(
        tuple(dict.fromkeys([*kept, *(package for package in packages if not is_wheel(package))])),
        tuple(_wheels.read(path) for path in dict.fromkeys([*paths, *wheels])), manifest.lock,
        tuple(dict.fromkeys([*manifest.preload, *preload])), manifest.base)
    if len(environment.packages) > PACKAGES_MAX or len(environment.wheels) > _WHEELS_MAX or (
            len(environment.preload) > MODULES_MAX):
        raise ValueError(f"packages: at most {PACKAGES_MAX} packages, {_WHEELS_MAX} wheels and {MODULES_MAX} modules to "
                         "preload make an environment")
    size = _text_size(environment)
    if size > _ENVIRONMENT_MAX:
        raise ValueError(f"packages: with the lock they are {format_size(size)} of text, and "
                         f"{format_size(_ENVIRONMENT_MAX)} is the most")
    return environment


@functools.lru_cache(maxsize=64)
def _text_size(environment: Environment) -> int:
    return len(json.dumps(environment.message()))


_DEFAULT = Environment()


class _Wheels:
    """The wheels that were read; a file is read again when it has changed. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Dict[str, Wheel] = {}

    def read(self, path: str) -> Wheel:
        try:
            status = os.stat(path)
            known = self._known.get(path)
            if known is not None and (known.size, known.changed_ns) == (status.st_size, status.st_mtime_ns):
                return known
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                digest = hashlib.sha256()
                for piece in _pieces(file):
                    digest.update(piece)
        except OSError as error:
            raise ValueError(f"packages: the wheel {path} cannot be read: {error.strerror}") from None
        wheel = Wheel(path, digest.hexdigest(), status.st_size, status.st_mtime_ns)
        with self._lock:
            self._known[path] = wheel
        return wheel


def _pieces(file: Any) -> Iterable[bytes]:
    while True:
        piece = file.read(_READ_SIZE)
        if not piece:
            return
        yield piece


_wheels = _Wheels()

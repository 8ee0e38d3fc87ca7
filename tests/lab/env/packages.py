# SPDX-License-Identifier: Apache-2.0
"""Python packages that tests make themselves: wheels and source distributions, a few lines each."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Mapping, Sequence

# Builds a wheel of what lies beside it, without anything from an index.
BACKEND = '''
import base64, csv, hashlib, io, os, zipfile
NAME, VERSION = {name!r}, {version!r}
def build_wheel(folder, config_settings=None, metadata_directory=None):
    hook()
    files = {{}}
    for top, _, names in os.walk(NAME):
        for each in names:
            with open(os.path.join(top, each), "rb") as file:
                files[os.path.join(top, each)] = file.read()
    info = f"{{NAME}}-{{VERSION}}.dist-info"
    files[f"{{info}}/METADATA"] = f"Metadata-Version: 2.1\\nName: {{NAME}}\\nVersion: {{VERSION}}\\n".encode()
    files[f"{{info}}/WHEEL"] = b"Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    rows = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append((path, f"sha256={{digest}}", len(data)))
    text = io.StringIO()
    csv.writer(text).writerows([*rows, (f"{{info}}/RECORD", "", "")])
    files[f"{{info}}/RECORD"] = text.getvalue().encode()
    made = f"{{NAME}}-{{VERSION}}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, made), "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return made
def build_sdist(folder, config_settings=None):
    raise NotImplementedError
def hook():
    {hook}
'''


def _metadata(name: str, version: str, requires: Sequence[str]) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in requires)]
    return "\n".join(lines) + "\n"


def wheel(folder: Path, name: str, version: str, files: Mapping[str, str | bytes] | None = None,
          requires: Sequence[str] = ()) -> Path:
    """Makes a wheel: by default a package with VERSION in it. Its path tells name and version."""
    info = f"{name}-{version}.dist-info"
    content = {member: text.encode() if isinstance(text, str) else text for member, text in
               (files or {f"{name}/__init__.py": f"VERSION = {version!r}\n"}).items()}
    content[f"{info}/METADATA"] = _metadata(name, version, requires).encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = []
    for member, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append((member, f"sha256={digest}", str(len(data))))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    content[f"{info}/RECORD"] = text.getvalue().encode()
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in content.items():
            # A fixed date: the same content has the same digest.
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), data)
    return path


def metadata_of(wheel_file: Path) -> bytes:
    """The METADATA of a wheel."""
    with zipfile.ZipFile(wheel_file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")))


def source(folder: Path, name: str, version: str, hook: str = "pass") -> Path:
    """Makes a source distribution, which builds itself without needing anything. hook: Python that its build runs, in the
    rights of the build."""
    lines = "\n    ".join(hook.strip().splitlines())
    files = {"pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
             "backend.py": BACKEND.format(name=name, version=version, hook=lines),
             "PKG-INFO": _metadata(name, version, ()),
             f"{name}/__init__.py": f"VERSION = {version!r}\n"}
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def digest_of(path: Path) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()

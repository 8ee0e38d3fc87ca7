# SPDX-License-Identifier: Apache-2.0
"""Wheels and source distributions for tests, made without any build tool, and a page that links to them."""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

# A build backend that a source distribution brings with it: nothing has to be installed to build it.
_BACKEND = '''
import os
import sys
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    {before}
    name = "{module}-{version}-py3-none-any.whl"
    info = "{module}-{version}.dist-info"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.write("{module}.py")
        archive.writestr(info + "/METADATA", """{metadata}""")
        archive.writestr(info + "/WHEEL", """{wheel}""")
        archive.writestr(info + "/RECORD", "{module}.py,,\\n" + "".join(
            info + "/" + part + ",,\\n" for part in ("METADATA", "WHEEL", "RECORD")))
    return name
'''
_PROJECT = '''
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
'''


def _metadata(name: str, version: str, requires: Sequence[str]) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(
        f"Requires-Dist: {requirement}\n" for requirement in requires)


def _wheel_file(tag: str) -> str:
    return f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"


def record_digest(data: bytes) -> str:
    """As RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def wheel(folder: Path, name: str, version: str = "1.0", *, requires: Sequence[str] = (), code: str = "",
          files: Optional[Mapping[str, str]] = None, tag: str = "py3-none-any") -> Path:
    """Makes name-version-TAG.whl with the module `name`, whose __version__ is version. files: path and text of others."""
    module = re.sub(r"[-.]", "_", name)
    info = f"{module}-{version}.dist-info"
    texts: Dict[str, str] = {f"{module}/__init__.py": f"__version__ = {version!r}\n{code}", **(files or {}),
                             f"{info}/METADATA": _metadata(name, version, requires), f"{info}/WHEEL": _wheel_file(tag)}
    record = "".join(f"{path},{record_digest(text.encode())},{len(text.encode())}\n" for path, text in texts.items())
    texts[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in texts.items():
            archive.writestr(zipfile.ZipInfo(inside, (2026, 1, 1, 0, 0, 0)), text)
    return path


def sdist(folder: Path, name: str, version: str = "1.0", *, requires: Sequence[str] = (), code: str = "",
          before: str = "pass") -> Path:
    """Makes name-version.tar.gz with the module `name`. before: a statement that building runs first."""
    module = re.sub(r"[-.]", "_", name)
    texts = {
        "PKG-INFO": _metadata(name, version, requires), "pyproject.toml": _PROJECT,
        "backend.py": _BACKEND.format(before=before, module=module, version=version,
                                      metadata=_metadata(name, version, requires), wheel=_wheel_file("py3-none-any")),
        f"{module}.py": f"__version__ = {version!r}\n{code}"}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inside, text in texts.items():
            entry = tarfile.TarInfo(f"{module}-{version}/{inside}")
            entry.size, entry.mtime = len(text.encode()), 1767225600
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def digest(path: Path) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Page:
    """`with Page(folder) as page:` serves a folder at page.base, its listing is page.address."""

    def __init__(self, folder: Path) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                                       functools.partial(_Handler, directory=str(folder)))
        self.base = f"http://127.0.0.1:{self._server.server_port}"
        self.address = f"{self.base}/"

    def __enter__(self) -> Page:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

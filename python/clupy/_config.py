# SPDX-License-Identifier: Apache-2.0
"""Where the master is: clupy.init(url), CLUPY_MASTER_URL, clupy.client.yaml, unix:/run/clupy/master.sock if it is
there, clupy://localhost:7878, in this order. And with which files this client shows who it is: CLUPY_TLS_CERTIFICATE,
CLUPY_TLS_KEY, CLUPY_TLS_AUTHORITY, the section `tls:` of clupy.client.yaml, the usual places."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

from . import _yaml
from ._failures import ConfigurationError

DEFAULT_PORT = 7878
DEFAULT_URL = "clupy://localhost:7878"
DEFAULT_SOCKET = "/run/clupy/master.sock"
SYSTEM_FOLDER = "/etc/clupy/pki"
FILE_NAME = "clupy.client.yaml"
_KEYS = ("master", "insecure", "tls.certificate", "tls.key", "tls.authority")
_TOP_KEYS = tuple(dict.fromkeys(key.partition(".")[0] for key in _KEYS))
_TLS_KEYS = tuple(key.partition(".")[2] for key in _KEYS if "." in key)
_SOCKET_PATH_MAX = 107  # bytes; the kernel's bound
_SECURE, _INSECURE, _UNIX = "clupy", "clupy+insecure", "unix:"

Address = Tuple[str, int]  # host and port; an absolute path and 0 for a UNIX socket


class Target(NamedTuple):
    """What an URL says. insecure: plaintext over TCP."""

    addresses: Tuple[Address, ...]
    insecure: bool = False


class TlsFile(NamedTuple):
    """A path, and where it was named (for error messages)."""

    path: str
    source: str


class TlsFiles(NamedTuple):
    """The files that were named; None: the usual places."""

    certificate: Optional[TlsFile] = None
    key: Optional[TlsFile] = None
    authority: Optional[TlsFile] = None


class Master(NamedTuple):
    """The addresses to try in turn, and where they were named (for error messages)."""

    addresses: Tuple[Address, ...]
    source: str
    insecure: bool = False
    tls: TlsFiles = TlsFiles()

    @property
    def url(self) -> str:
        if is_socket(self.addresses[0]):
            return format_address(self.addresses[0])
        return f"{_INSECURE if self.insecure else _SECURE}://" + ",".join(map(format_address, self.addresses))


class _File(NamedTuple):
    """What a clupy.client.yaml says."""

    master: Optional[Tuple[Target, str]] = None  # and where
    insecure: Optional[bool] = None
    tls: Optional[TlsFiles] = None


def is_socket(address: Address) -> bool:
    """Whether it is the path of a UNIX socket."""
    return address[0].startswith("/")


def format_address(address: Address) -> str:
    """As in URLs and sentences: host:port, [v6]:port or unix:/path."""
    host, port = address
    if is_socket(address):
        return f"{_UNIX}{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def user_folder() -> str:
    """Where a user's own configuration and certificate are."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(folder, "clupy")


def resolve(url: Optional[str] = None) -> Master:
    """Finds the master's addresses. Raises ConfigurationError, naming file and line where there is one."""
    source = "clupy.init()"
    target = None if url is None else parse_url(url)
    if target is None and os.environ.get("CLUPY_MASTER_URL"):
        source = "CLUPY_MASTER_URL"
        target = parse_url(os.environ[source], source)
    if target is not None and (target.insecure or is_socket(target.addresses[0])):
        return Master(target.addresses, source, target.insecure)
    files = [_read_file(path) for path in (Path(FILE_NAME), Path(user_folder(), FILE_NAME))]
    if target is None:
        target, source = next((file.master for file in files if file.master is not None), (_default(), "the default"))
    insecure = target.insecure or next((file.insecure for file in files if file.insecure is not None), False)
    named = next((file.tls for file in files if file.tls is not None), TlsFiles())
    return Master(target.addresses, source, insecure and not is_socket(target.addresses[0]), _environment(named))


def _default() -> Target:
    try:
        there = stat.S_ISSOCK(os.stat(DEFAULT_SOCKET).st_mode)
    except OSError:
        there = False
    return Target(((DEFAULT_SOCKET, 0),)) if there else parse_url(DEFAULT_URL)


def _environment(files: TlsFiles) -> TlsFiles:
    names = {key: f"CLUPY_TLS_{key.upper()}" for key in _TLS_KEYS}
    return files._replace(**{key: TlsFile(os.path.abspath(os.environ[name]), name) for key, name in names.items()
                             if os.environ.get(name)})


def parse_url(url: str, where: str = "") -> Target:
    """`host`, `host:port`, `[v6]:port`, `clupy://host[:port][,host[:port]…]`, `clupy+insecure://…` or `unix:/path`.
    Raises ConfigurationError; where is put in front of its sentence."""
    prefix = f"{where}: " if where else ""
    if not isinstance(url, str):
        raise ConfigurationError(f"{prefix}expected a master's address like 'clupy://host:7878', got {url!r}")
    text = url.strip()
    if text.startswith(_UNIX):
        path = text[len(_UNIX):]
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _SOCKET_PATH_MAX:
            raise ConfigurationError(f"{prefix}expected an absolute path of at most {_SOCKET_PATH_MAX} bytes, as in "
                                     f"unix:{DEFAULT_SOCKET} (over TCP: clupy://host:7878), got '{url}'")
        return Target(((path, 0),))
    scheme, separator, rest = text.partition("://")
    if not separator:
        rest = scheme
    elif scheme not in (_SECURE, _INSECURE):
        raise ConfigurationError(f"{prefix}expected an address that begins with clupy://, clupy+insecure:// or unix:, "
                                 f"got '{url}'")
    addresses = tuple(_parse_address(part.strip(), url, prefix) for part in rest.rstrip("/").split(","))
    return Target(addresses, bool(separator) and scheme == _INSECURE)


def _parse_address(text: str, url: str, prefix: str) -> Address:
    wrong = ConfigurationError(f"{prefix}expected a master's address like 'clupy://host:7878', got '{url}'")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise wrong
        port_text = rest[1:] if rest else ""
        has_port = bool(rest)
    elif text.count(":") > 1:
        host, port_text, has_port = text, "", False
    else:
        host, separator, port_text = text.partition(":")
        has_port = bool(separator)
    if not host or any(character.isspace() or character in "/@?#" for character in host):
        raise wrong
    if not has_port:
        return host, DEFAULT_PORT
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
        raise wrong
    return host, int(port_text)


def _read_file(path: Path) -> _File:
    found = _File()
    for name, value in (_yaml.read_entries(path, _TOP_KEYS) or {}).items():
        if name == "master":
            where = _yaml.where(path, value)
            target = parse_url(_yaml.text_of(path, value, name, "a master's address like 'clupy://host:7878'"),
                               f"{where}: key '{name}'")
            found = found._replace(master=(target, where))
        elif name == "insecure":
            found = found._replace(insecure=_yaml.truth_of(path, value, name))
        else:
            paths = {key: TlsFile(_yaml.path_of(path, entry, f"tls.{key}"), f"{_yaml.where(path, entry)}: key 'tls.{key}'")
                     for key, entry in _yaml.entries(path, value, _TLS_KEYS, "tls.").items()}
            found = found._replace(tls=TlsFiles(**paths))
    return found

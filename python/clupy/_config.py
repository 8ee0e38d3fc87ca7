# SPDX-License-Identifier: Apache-2.0
"""Where the master is: clupy.init(url), CLUPY_MASTER_URL, clupy.client.yaml, clupy://localhost:7878, in this order."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

import yaml

from ._failures import ConfigurationError

DEFAULT_PORT = 7878
DEFAULT_URL = "clupy://localhost:7878"
FILE_NAME = "clupy.client.yaml"
_KEYS = ("master",)
_FILE_MAX = 1 << 20

Address = Tuple[str, int]


class Master(NamedTuple):
    """The addresses to try in turn, and where they were named (for error messages)."""

    addresses: Tuple[Address, ...]
    source: str

    @property
    def url(self) -> str:
        return "clupy://" + ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                                     for host, port in self.addresses)


def resolve(url: Optional[str] = None) -> Master:
    """Finds the master's addresses. Raises ConfigurationError, naming file and line where there is one."""
    if url is not None:
        return Master(parse_url(url), "clupy.init()")
    from_environment = os.environ.get("CLUPY_MASTER_URL")
    if from_environment:
        return Master(parse_url(from_environment, "CLUPY_MASTER_URL"), "CLUPY_MASTER_URL")
    for path in _files():
        master = _read_file(path)
        if master is not None:
            return master
    return Master(parse_url(DEFAULT_URL), "the default")


def parse_url(url: str, where: str = "") -> Tuple[Address, ...]:
    """`host`, `host:port`, `[v6]:port` or `clupy://host[:port][,host[:port]…]`. Raises ConfigurationError; where is
    put in front of its sentence."""
    prefix = f"{where}: " if where else ""
    if not isinstance(url, str):
        raise ConfigurationError(f"{prefix}expected a master's address like 'clupy://host:7878', got {url!r}")
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        rest = scheme
    elif scheme != "clupy":
        raise ConfigurationError(f"{prefix}expected an address that begins with clupy://, got '{url}'")
    return tuple(_parse_address(part.strip(), url, prefix) for part in rest.rstrip("/").split(","))


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


def _files() -> List[Path]:
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return [Path(FILE_NAME), Path(folder, "clupy", FILE_NAME)]


def _read_file(path: Path) -> Optional[Master]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    if len(text) > _FILE_MAX:
        raise ConfigurationError(f"{path}: larger than 1 MiB")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}:{line}: {error.problem or 'this is no YAML'}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}:1: {error}") from None
    if root is None:
        return None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigurationError(f"{path}:{root.start_mark.line + 1}: expected 'key: value' lines")
    master: Optional[Master] = None
    for key, value in root.value:
        line = key.start_mark.line + 1
        name = key.value if isinstance(key, yaml.ScalarNode) else "?"
        if name not in _KEYS:
            near = difflib.get_close_matches(str(name), _KEYS, 1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known is {', '.join(_KEYS)}"
            raise ConfigurationError(f"{path}:{line}: unknown key '{name}'{hint}")
        if master is not None:
            raise ConfigurationError(f"{path}:{line}: key '{name}' is there twice")
        if not isinstance(value, yaml.ScalarNode) or not value.value:
            raise ConfigurationError(f"{path}:{value.start_mark.line + 1}: key '{name}': expected a master's address "
                                     "like 'clupy://host:7878'")
        where = f"{path}:{value.start_mark.line + 1}"
        master = Master(parse_url(value.value, f"{where}: key '{name}'"), where)
    return master

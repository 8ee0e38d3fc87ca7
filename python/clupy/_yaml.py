# SPDX-License-Identifier: Apache-2.0
"""Configuration files in YAML: what is wrong in one is told with file, line and what was expected.

PyYAML is imported when there is a file to read: tasks need not have it."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

from ._failures import ConfigurationError

if TYPE_CHECKING:
    import yaml

_FILE_MAX = 1 << 20


def read_text(path: Path) -> Optional[str]:
    """A file's text, None when there is none. Raises ConfigurationError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from None
    if len(text) > _FILE_MAX:
        raise ConfigurationError(f"{path}: larger than 1 MiB")
    return text


def read_entries(path: Path, known: Tuple[str, ...]) -> Optional[Dict[str, yaml.Node]]:
    """A file's top-level keys; None when there is no such file. Raises ConfigurationError, also for an unknown key."""
    text = read_text(path)
    if text is None:
        return None
    try:
        import yaml
    except ModuleNotFoundError:
        raise ConfigurationError(f"{path}: PyYAML is needed to read it, and is not installed: pip install PyYAML") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigurationError(f"{path}:{line}: {error.problem or 'this is no YAML'}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}:1: {error}") from None
    return {} if root is None else entries(path, root, known, "")


def _kind(node: yaml.Node) -> str:
    return str(getattr(node, "id", ""))  # "mapping", "sequence", "scalar"


def where(path: Path, node: yaml.Node) -> str:
    """File and line."""
    return f"{path}:{node.start_mark.line + 1}"


def entries(path: Path, node: yaml.Node, known: Tuple[str, ...], prefix: str) -> Dict[str, yaml.Node]:
    """A mapping's keys, which must be known and there once."""
    if _kind(node) != "mapping":
        raise ConfigurationError(f"{where(path, node)}: expected 'key: value' lines"
                                 + (f" below '{prefix[:-1]}:'" if prefix else ""))
    found: Dict[str, yaml.Node] = {}
    for key, value in node.value:
        place = where(path, key)
        name = str(key.value) if _kind(key) == "scalar" else "?"
        if name not in known:
            near: List[str] = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean '{prefix}{near[0]}'?" if near else f"; known is {', '.join(known)}"
            raise ConfigurationError(f"{place}: unknown key '{prefix}{name}'{hint}")
        if name in found:
            raise ConfigurationError(f"{place}: key '{prefix}{name}' is there twice")
        found[name] = value
    return found


def text_of(path: Path, node: yaml.Node, name: str, expected: str) -> str:
    """A value that is not empty. expected: for the error message."""
    if _kind(node) != "scalar" or not node.value:
        raise ConfigurationError(f"{where(path, node)}: key '{name}': expected {expected}")
    return str(node.value)


def items_of(path: Path, node: yaml.Node, name: str, expected: str) -> List[Tuple[str, str]]:
    """A list's values, each with its file and line. A list of one may be written as that value."""
    if _kind(node) == "scalar" and not node.value:
        return []
    nodes = node.value if _kind(node) == "sequence" else [node]
    return [(text_of(path, item, name, f"a list of {expected}"), where(path, item)) for item in nodes]


def truth_of(path: Path, node: yaml.Node, name: str) -> bool:
    """true or false."""
    text = text_of(path, node, name, "true or false")
    if text not in ("true", "yes", "on", "false", "no", "off"):
        raise ConfigurationError(f"{where(path, node)}: key '{name}': expected true or false, got '{text}'")
    return text in ("true", "yes", "on")


def choice_of(path: Path, node: yaml.Node, name: str, choices: Sequence[str]) -> str:
    """One of choices."""
    expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
    text = text_of(path, node, name, expected)
    if text not in choices:
        raise ConfigurationError(f"{where(path, node)}: key '{name}': expected {expected}, got '{text}'")
    return text


def path_of(path: Path, node: yaml.Node, name: str) -> str:
    """A path is meant from the folder of its configuration file."""
    return beside(path, text_of(path, node, name, "the path of a file"))


def beside(path: Path, text: str) -> str:
    """text as a path, from the folder of the file at path."""
    return os.path.join(os.path.dirname(os.path.abspath(path)), os.path.expanduser(text))

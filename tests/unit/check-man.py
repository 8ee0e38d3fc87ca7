#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the manual pages against the code, both ways: the options of the programs as their --help tells them, the keys
of the configuration files as their tables have them, the D-Bus interfaces and the queries as the code registers them.

usage: check-man.py SOURCE BUILD. Prints each difference; exit status 1 when there is one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAMS = {"clupyctl": "clupyctl.1", "clupy-masterd": "clupy-masterd.8", "clupy-agent": "clupy-agent.8",
            "clupy-launcher": "clupy-launcher.8", "clupy-policyc": "clupy-policyc.8", "clupy-signer": "clupy-signer.8",
            "clupy-index-config": "clupy-index.8"}
CONFIGURATIONS = {"clupy.master.yaml.5": ["masterd/master-config.c"], "clupy.server.yaml.5": ["agent/server-config.c"],
                  "clupy.master.dependency.yaml.5": ["common/dependency-config.c"],
                  "clupy.client.dependency.yaml.5": ["python/clupy/_environment.py"],
                  "clupy.client.yaml.5": ["ctl/client-config.c", "python/clupy/_config.py"]}
INTERFACES = {"org.clupy.Master1.5": "masterd/master-bus.c", "org.clupy.Agent1.5": "agent/agent-bus.c"}
QUERIES = ("org.clupy.Master1.5", "masterd/query.c")

OPTION = re.compile(r"(?<![\w-])--([a-z][a-z-]+)")


class Page:
    """A manual page's tagged paragraphs, by section."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.text = path.read_text().replace("\\-", "-")
        self.tags: dict[str, list[str]] = {}
        section, tagged = "", False
        for line in self.text.splitlines():
            if line.startswith((".SH ", ".SS ")):
                section = line[4:].strip()
                self.tags.setdefault(section, [])
            elif tagged:
                self.tags[section].append(re.sub(r"\\f[A-Z]|^\.[BI]R? |\"", "", line))
            tagged = line.startswith(".TP")

    def words(self, section: str) -> set[str]:
        """The first word of each tag of a section."""
        return {tag.split()[0] for tag in self.tags.get(section, [])}

    def options(self, section: str) -> set[str]:
        """The long options among the tags of a section."""
        return {option for tag in self.tags.get(section, []) for option in OPTION.findall(tag)}


def compare(page: Page, what: str, in_page: set[str], in_code: set[str]) -> list[str]:
    """The differences, as sentences."""
    return [f"{page.name}: {what} '{name}' is in the code and not in the page" for name in sorted(in_code - in_page)] + \
           [f"{page.name}: {what} '{name}' is in the page and not in the code" for name in sorted(in_page - in_code)]


def find_program(build: Path, name: str) -> Path | None:
    """An executable of this name below the build directory."""
    return next((path for path in build.glob(f"**/{name}") if path.is_file() and os.access(path, os.X_OK)), None)


def help_options(program: Path, *words: str) -> set[str]:
    """The options that a program's help tells, those in front of a line: the text behind them may name others."""
    text = subprocess.run([str(program), *words, "--help"], capture_output=True, text=True, check=True, timeout=20).stdout
    return {option for line in text.splitlines()
            for option in OPTION.findall(re.split(r"\s{2,}(?=[^\s-])", line.strip())[0])
            if line.startswith(" ") and line.strip().startswith("-")}


def check_programs(source: Path, build: Path) -> list[str]:
    """Options of all programs, verbs of clupyctl."""
    wrong = []
    for name, page_name in PROGRAMS.items():
        page = Page(source / "man" / page_name)
        program = find_program(build, name)
        if program is None:
            wrong.append(f"{page_name}: there is no program {name} below {build}")
            continue
        wrong += compare(page, "option", page.options("OPTIONS"), help_options(program))
        if name == "clupyctl":
            text = subprocess.run([str(program), "--help"], capture_output=True, text=True, check=True, timeout=20).stdout
            verbs = set(re.findall(r"^  ([a-z]+) ", text, re.MULTILINE))
            wrong += compare(page, "verb", page.words("VERBS"), verbs)
            for verb in sorted(verbs):
                wrong += compare(page, f"option of {verb}", page.options(f"Options of {verb}"),
                                 help_options(program, verb))
    return wrong


def read(path: Path) -> str:
    """A source file; an error of its own line when it has moved."""
    if not path.exists():
        sys.exit(f"check-man.py: there is no {path}: say in this program where it has gone")
    return path.read_text()


def table_keys(path: Path) -> set[str]:
    """The keys of a configuration table, in C or in Python."""
    text = read(path)
    if path.suffix == ".py":
        match = re.search(r"^_KEYS = \(([^)]*)\)", text, re.MULTILINE)
        return set(re.findall(r'"([^"]+)"', match.group(1))) if match else set()
    return set(re.findall(r'\{\s*"([^"]+)",\s*CONFIG_(?:SCALAR|LIST|MAP|TREE)', text))


def check_configurations(source: Path) -> list[str]:
    """Keys of all configuration files."""
    wrong = []
    for page_name, tables in CONFIGURATIONS.items():
        page = Page(source / "man" / page_name)
        for table in tables:
            wrong += compare(page, f"key of {table}", page.words("KEYS"), table_keys(source / table))
    return wrong


def interface_members(text: str, kind: str) -> set[str]:
    """The names in the first vtable of a file: that of the interface itself, not those of its objects."""
    for vtable in re.findall(r"SD_BUS_VTABLE_START.*?SD_BUS_VTABLE_END", text, re.DOTALL):
        if "SD_BUS_METHOD" in vtable:
            return set(re.findall(r"SD_BUS_(?:WRITABLE_)?" + kind + r'\w*\(\s*"([^"]+)"', vtable))
    return set()


def check_interfaces(source: Path) -> list[str]:
    """Properties and methods on D-Bus, queries."""
    wrong = []
    for page_name, file in INTERFACES.items():
        page, text = Page(source / "man" / page_name), read(source / file)
        wrong += compare(page, "property", page.words("PROPERTIES"), interface_members(text, "PROPERTY"))
        wrong += compare(page, "method", page.words("METHODS"), interface_members(text, "METHOD"))
        wrong += compare(page, "signal", page.words("SIGNALS"), interface_members(text, "SIGNAL"))
    page = Page(source / "man" / QUERIES[0])
    verbs = set(re.findall(r'\{\s*"([a-z-]+)",\s*(?:query_|answer_|verb_)\w+', read(source / QUERIES[1])))
    wrong += compare(page, "query", page.words("QUERIES"), verbs)
    return wrong


def main() -> int:
    """Checks everything."""
    source, build = Path(sys.argv[1]), Path(sys.argv[2])
    wrong = check_programs(source, build) + check_configurations(source) + check_interfaces(source)
    for sentence in wrong:
        print(sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

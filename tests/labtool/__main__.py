# SPDX-License-Identifier: Apache-2.0
"""The command line of the lab."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from . import build, demo, dependencies, runner, uml
from .console import LabError, elapsed, say
from .lab import DEFAULT, Lab


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab", description="CluPy's lab: a cluster of real systemd nodes on one "
                                                             "machine.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, text: str, *, lab: bool = True, node: bool = False) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        if lab:
            sub.add_argument("--name", default=DEFAULT, help=f"the lab's name (default: {DEFAULT})")
        if node:
            sub.add_argument("node", help="master, client, agent1, agent2, …")
        return sub

    show = verb("demo", "install, build, boot, run examples/primes.py, show it, clean up", lab=False)
    show.add_argument("--name", default="demo", help="the lab's name (default: demo)")
    up = verb("up", "boot a lab: master, client and the agents")
    up.add_argument("--agents", type=int, default=3, help="how many agents (default: 3)")
    up.add_argument("--insecure", action="store_true", help="plaintext between the nodes, instead of TLS")
    up.add_argument("--index", action="store_true", help="the master, and only it, reaches the package index that pip "
                                                         "on this machine uses")
    up.add_argument("--no-build", action="store_true", help="install what was built last, build nothing")
    execute = verb("exec", "run a command on a node; streams and exit code pass through", node=True)
    execute.add_argument("--user", default="root", help="as whom (default: root)")
    execute.add_argument("--env", action="append", default=[], metavar="NAME=VALUE",
                         help="set a variable for the command")
    execute.add_argument("command", nargs="+", help="-- COMMAND [ARGUMENT…]")
    shell = verb("shell", "a login shell on a node", node=True)
    shell.add_argument("--user", default="root", help="as whom (default: root)")
    verb("status", "show a lab's nodes")
    verb("crash", "cut a node's power", node=True)
    verb("start", "switch a node on again", node=True)
    verb("partition", "pull a node's network cable", node=True)
    verb("heal", "plug it in again", node=True)
    push = verb("push", "build, install on the running nodes, restart the services there")
    push.add_argument("--no-build", action="store_true", help="install what was built last, build nothing")
    down = verb("down", "remove a lab wholly")
    down.add_argument("--all", action="store_true", help="remove all labs of this machine")
    kernel = verb("uml", "run test files on a kernel with cgroup version 2, one boot each", lab=False)
    kernel.add_argument("tests", nargs="+", type=Path, metavar="TEST", help="a script in the checkout")
    kernel.add_argument("--no-build", action="store_true", help="install what was built last, build nothing")
    test = verb("test", "run the tests; last line: N passed, N failed", lab=False)
    test.add_argument("groups", nargs="*", metavar="GROUP", help=f"{', '.join(runner.GROUPS)}, mutants (default: all "
                                                                 "but mutants)")
    verb("bench", "measure, side by side with others; arguments: ./lab bench --help", lab=False)
    verb("list", "names of all labs", lab=False)
    return parser


def _run(options: argparse.Namespace, arguments: list[str]) -> int:
    lab = Lab(getattr(options, "name", DEFAULT))
    match options.verb:
        case "demo":
            demo.run(options.name)
        case "up":
            installed = build.staged() if options.no_build else build.build_or_last()
            lab.up(options.agents, installed, options.insecure, options.index)
            say(f"lab '{lab.name}' is up; try: ./lab exec --name {lab.name} client --user user -- "
                "python3 -c 'import clupy'")
        case "exec":
            lab.node(options.node).exec(options.command, options.user, options.env)
        case "shell":
            lab.node(options.node).exec(["bash", "-l"], options.user)
        case "status":
            print(lab.status())
        case "crash":
            lab.crash(options.node)
        case "start":
            lab.start(options.node)
        case "partition":
            lab.partition(options.node)
        case "heal":
            lab.heal(options.node)
        case "push":
            stage = build.staged() if options.no_build else build.build_release()
            if stage is None:
                raise LabError("nothing was built yet", next_step="./lab push without --no-build")
            lab.push(stage)
        case "down":
            for name in Lab.all() if options.all else [lab.name]:
                Lab(name).down()
                say(f"lab '{name}' is down")
        case "uml":
            dependencies.ensure_uml()
            installed = build.staged() if options.no_build else build.build_or_last()
            return 1 if uml.run_all(options.tests, installed) else 0
        case "test":
            return runner.run(options.groups)
        case "bench":
            dependencies.ensure_test()
            return runner.run_part("bench", arguments)
        case "list":
            print("\n".join(Lab.all()))
    return 0


def main() -> int:
    """Runs one command; returns the exit code."""
    # The benchmark has options of its own, --help among them.
    arguments = sys.argv[1:]
    own, others = (arguments[:1], arguments[1:]) if arguments[:1] == ["bench"] else (arguments, [])
    options = _parser().parse_args(own)
    if os.geteuid() != 0:
        print("lab: needs root: it makes namespaces, mounts and cgroups. Try: sudo ./lab …", file=sys.stderr)
        return 77
    try:
        return _run(options, others)
    except LabError as error:
        print(f"lab: after {elapsed():.1f} s: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted", file=sys.stderr)
        return 130


sys.exit(main())

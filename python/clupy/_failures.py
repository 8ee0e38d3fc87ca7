# SPDX-License-Identifier: Apache-2.0
"""Everything that can go wrong, one exception each. str() is one sentence a person can act on: what, limit and actual,
node, unit, what to do next."""

from __future__ import annotations

import concurrent.futures
from typing import Any, Dict, Optional, Sequence, Tuple, Type

from ._units import format_duration, format_size

_GIST_MAX = 500  # characters


class ClupyError(Exception):
    """The base of all failures that CluPy itself reports.

    node, unit and task (each str or None) say where it happened, when it happened to a call."""

    node: Optional[str] = None
    unit: Optional[str] = None
    task: Optional[str] = None

    def __reduce__(self) -> Tuple[Any, ...]:
        return _restore, (type(self), self.args, dict(self.__dict__))


def _restore(cls: Type[ClupyError], arguments: Tuple[Any, ...], state: Dict[str, Any]) -> ClupyError:
    error = cls.__new__(cls, *arguments)
    error.args = arguments
    error.__dict__.update(state)
    return error


def _located(error: ClupyError, node: Optional[str], unit: Optional[str], task: Optional[str]) -> str:
    error.node, error.unit, error.task = node, unit, task
    return (f" on {node}" if node else "") + (f" (unit {unit})" if unit else "")


class RemoteTraceback(Exception):
    """The traceback of an exception that was raised in a task, as text; the `__cause__` of that exception."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class RemoteError(ClupyError):
    """A call raised an exception (or returned a value) whose type cannot be loaded here, or one (foreign) that is no
    Exception, as KeyboardInterrupt."""

    def __init__(self, type_name: str, message: str, traceback: str, *, why: str = "", what: str = "",
                 foreign: bool = False,
                 node: Optional[str] = None, unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.type_name, self.message, self.traceback = type_name, message, traceback
        reason = f" ({why})" if why else ""
        if what:
            super().__init__(f"{what}{where} could not be loaded here{reason}: install the packages that define its type "
                             "on this side too, or return plain data")
        elif foreign:
            text = f"{type_name}: {message}" if message else type_name
            super().__init__(f"the call{where} raised {text}, which is no Exception and would end this program if it were "
                             "raised here: .type_name and .traceback tell more")
        else:
            text = f"{type_name}: {message}" if message else type_name
            super().__init__(f"the call{where} raised {text}; the type itself could not be loaded here{reason}: install "
                             "its package on this side to catch it by its type")


class MemoryLimitError(ClupyError):
    """A call needed more memory than it had asked for, where its files in /tmp and /dev/shm count.

    limit_bytes, peak_bytes, tmp_bytes, shm_bytes (what its files took): int or None."""

    def __init__(self, limit_bytes: Optional[int], peak_bytes: Optional[int], *, tmp_bytes: Optional[int] = None,
                 shm_bytes: Optional[int] = None, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.limit_bytes, self.peak_bytes = limit_bytes, peak_bytes
        self.tmp_bytes, self.shm_bytes = tmp_bytes, shm_bytes
        limit = "its memory limit" if limit_bytes is None else f"its memory limit of {format_size(limit_bytes)}"
        figures = [] if peak_bytes is None else [f"peak {format_size(peak_bytes)}"]
        files, place = max((tmp_bytes or 0, "/tmp"), (shm_bytes or 0, "/dev/shm"), key=lambda share: share[0])
        much = limit_bytes is not None and 0 < limit_bytes <= 8 * files
        if much:
            figures.append(f"{format_size(files)} of it for its files in {place}")
        more = format_size(2 * limit_bytes) if limit_bytes else "2G"
        shown = f" ({', '.join(figures)})" if figures else ""
        super().__init__(f"{name} went over {limit}{shown}{where}; give it more: "
                         f"memory=\"{more}\"{', or write less' if much else ''}")


class CpuLimitError(ClupyError):
    """A call used more CPU time than it may. limit_seconds: float or None."""

    def __init__(self, limit_seconds: Optional[float] = None, *, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.limit_seconds = limit_seconds
        limit = "its limit" if limit_seconds is None else f"its limit of {format_duration(limit_seconds)}"
        super().__init__(f"{name} used more CPU time than {limit}{where}; split the work into smaller calls or raise "
                         "the limit")


class DeadlineError(ClupyError):
    """A call had not ended at its deadline (waiting included). limit_seconds: float or None."""

    def __init__(self, limit_seconds: Optional[float] = None, *, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.limit_seconds = limit_seconds
        super().__init__(self._sentence(name, where))

    def _sentence(self, name: str, where: str) -> str:
        limit = "" if self.limit_seconds is None else f" of {format_duration(self.limit_seconds)} after its submission"
        return (f"{name} had not ended at its deadline{limit}{where}; give it a later deadline, a higher priority, or "
                "more nodes (clupyctl tasks shows what it waited for)")


class TimeLimitError(DeadlineError):
    """One attempt of a call ran longer than its `timeout`. limit_seconds: float or None."""

    def _sentence(self, name: str, where: str) -> str:
        limit = "timeout" if self.limit_seconds is None else f"timeout of {format_duration(self.limit_seconds)}"
        return f"{name} ran longer than its {limit}{where}; give it a longer timeout or split the work"


class QuotaError(ClupyError):
    """A bound on what one owner may use was reached."""


class DiskLimitError(QuotaError):
    """A call failed because there was no room left in its private /tmp or /dev/shm (place). Its own exception is the
    `__cause__`.

    limit_bytes, used_bytes, limit_files, used_files (what it may have, and had when it failed): int or None."""

    def __init__(self, limit_bytes: Optional[int] = None, used_bytes: Optional[int] = None, *, place: str = "/tmp",
                 limit_files: Optional[int] = None, used_files: Optional[int] = None, name: str = "the call",
                 node: Optional[str] = None, unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.place, self.limit_bytes, self.used_bytes = place, limit_bytes, used_bytes
        self.limit_files, self.used_files = limit_files, used_files
        used = "" if used_bytes is None else f" ({format_size(used_bytes)} in use when it failed)"
        if limit_files and (used_files or 0) >= limit_files and (used_bytes or 0) < (limit_bytes or 0):
            super().__init__(f"{name} used up the {limit_files} files that its {place} may have{where}; make fewer, or "
                             "remove those that are done with")
            return
        limit = "" if limit_bytes is None else f" of {format_size(limit_bytes)}"
        super().__init__(f"{name} ran out of room in its {place}{limit}{used}{where}; write less, remove what is done with, "
                         "or have the node's task.tmp in clupy.server.yaml raised")


class SyscallRefusedError(ClupyError):
    """A call made a system call that its policy answers with the end of the process. syscall: its name."""

    def __init__(self, syscall: str, *, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.syscall = syscall
        super().__init__(f"{name} was ended because it made the system call {syscall}(), which its policy does not "
                         f"allow{where}; do without it, or ask the operator for a policy that has it")


class SignalError(ClupyError):
    """A call's process was ended by a signal. signal: its name, as "SIGSEGV"."""

    def __init__(self, signal: str, *, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.signal = signal
        super().__init__(f"the process of {name} was ended by {signal}{where}; see what it printed last with "
                         f"{_log_command(task)}")


class ExitError(ClupyError):
    """A call's process ended by itself without a result. status: its exit status."""

    def __init__(self, status: int, *, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.status = status
        super().__init__(f"the process of {name} ended by itself with exit status {status}, without a result{where}; "
                         f"something in it called exit: see what it printed with {_log_command(task)}")


def _log_command(task: Optional[str]) -> str:
    return f"clupyctl logs {task[:12]}" if task else "future.logs()"


class CancelledError(ClupyError, concurrent.futures.CancelledError):
    """A call was cancelled. by: who did it."""

    def __init__(self, by: str = "", *, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.by = by
        super().__init__(f"{name} was cancelled{f' by {by}' if by else ''}{where}; call it again if its value is "
                         "still wanted")


class EnvironmentFailedError(ClupyError):
    """The packages that a call needs could not be installed. log: the installer's words, their end when they are long
    (`clupyctl env show` has all of them)."""

    def __init__(self, log: str, *, name: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.log = log
        super().__init__(f"the environment of {name} could not be built{where}: {_gist(log)}; more of the log is in .log")


def _gist(log: str) -> str:
    """What an installer's words come to: the sentence that stands alone at their end, when it is of a limit and the like; the
    first error with the causes that follow; the last line."""
    rows = [line.strip() for line in log.strip().splitlines()]
    if len(rows) > 1 and not rows[-2] and not rows[-1].startswith(("the installer ended with", "hint:", "note:")):
        return rows[-1][:_GIST_MAX]
    lines = [line for line in rows if line]
    for index, line in enumerate(lines):
        kind, _, words = line.partition(":")
        if kind.lower() in ("error", "fatal") and words:
            for cause in lines[index + 1:]:
                if not cause.startswith("cause:"):
                    break
                words += f": {cause.partition(':')[2].strip()}"
            return words.strip()[:_GIST_MAX]
    return lines[-1][:_GIST_MAX] if lines else "no log"


class NodeLostError(ClupyError):
    """The node of a call was lost, and its retries are used up. attempts: how many were made."""

    def __init__(self, node: Optional[str], attempts: int, *, name: str = "the call", unit: Optional[str] = None,
                 task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.attempts = attempts
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"{name} was lost with its node{where} after {times}; look at the node with clupyctl nodes, "
                         "then call again or allow more with retries=")


class VersionMismatchError(ClupyError):
    """The versions of both ends do not go together. client, server: str. cluster: a tuple of the versions of Python that
    its nodes have, as "3.11"; empty when it is not known."""

    def __init__(self, client: str, server: str, *, subject: str = "Python", cluster: Sequence[str] = ()) -> None:
        self.client, self.server, self.cluster = client, server, tuple(cluster)
        choices = self.cluster or (".".join(server.split(".")[:2]),)
        versions = f" or {subject} ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
        advice = (f"run this program with Python {versions}" if subject == "Python"
                  else "install the version of clupy that the cluster has")
        nodes = f" (its nodes have {', '.join(self.cluster)})" if self.cluster else ""
        super().__init__(f"this client has {subject} {client} and the cluster has {subject} {server}{nodes}, whose values "
                         f"it could not load: {advice}")


class LibraryMismatchError(VersionMismatchError):
    """Libraries differ from those of the cluster, and clupy.client.dependency.yaml has `libraries: error`.

    differences: a tuple of (library, version here or None, version in the cluster)."""

    def __init__(self, differences: Sequence[Tuple[str, Optional[str], str]], table: str = "", advice: str = "") -> None:
        self.differences = tuple(differences)
        super().__init__(", ".join(f"{name} {here}" for name, here, _ in differences if here),
                         ", ".join(f"{name} {there}" for name, _, there in differences))
        self.args = (f"the libraries of this client are not those of the cluster:\n{table}\n{advice}",)


class LibraryMismatchWarning(UserWarning):
    """The same as a warning, which `libraries: warn`, the default, gives."""


class ConnectError(ClupyError):
    """No master could be reached, or none that can be trusted. tried: a tuple of (host, port, what happened); for a UNIX
    socket, its path and 0."""

    def __init__(self, tried: Sequence[Tuple[str, int, str]], *, source: str = "", in_task: bool = False,
                 advice: str = "") -> None:
        self.tried = tuple(tried)
        attempts = "; ".join(f"{_address(host, port)}: {why}" for host, port, why in self.tried) or "no address"
        if in_task:
            super().__init__(f"no CluPy master answers ({attempts}), because this runs in a task, which has no network: "
                             "make such calls from the program that submits, with the values that tasks return")
            return
        named = f" (this one is from {source})" if source else ""
        if advice:
            super().__init__(f"no connection to a CluPy master ({attempts}); {advice}{named}")
            return
        super().__init__(f"no CluPy master answers ({attempts}); start one there (systemctl start clupy-masterd), or "
                         f"name the right address with clupy.init(\"clupy://host:7878\") or CLUPY_MASTER_URL{named}")


def _address(host: str, port: int) -> str:
    if host.startswith("/"):
        return f"unix:{host}"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class ResultPicklingError(ClupyError):
    """The value of a call cannot be pickled. name: the type that cannot."""

    def __init__(self, name: str, message: str = "", *, call: str = "the call", node: Optional[str] = None,
                 unit: Optional[str] = None, task: Optional[str] = None) -> None:
        where = _located(self, node, unit, task)
        self.name, self.message = name, message
        super().__init__(f"{call} returned a value that cannot be pickled: {name}{f' ({message})' if message else ''}"
                         f"{where}; return plain data instead")


class ArgumentPicklingError(ClupyError):
    """An argument, or something that the function refers to, cannot be sent. name: which one."""

    def __init__(self, name: str, message: str = "") -> None:
        self.name, self.message = name, message
        super().__init__(f"{name} cannot be sent to another machine{f': {message}' if message else ''}")


class NotAllowedError(ClupyError):
    """The cluster does not allow this to this user."""


class RefusedError(ClupyError):
    """The cluster does not take the call: no node is large enough, its policy is unknown and the like."""


class ForkedError(ClupyError):
    """A future that was made before os.fork() was used in the child."""

    def __init__(self, task: Optional[str] = None) -> None:
        self.task = task
        super().__init__(f"the future{f' of task {task[:12]}' if task else ''} belongs to the parent process: wait for "
                         "it there, or make the call again in this process")


class ConfigurationError(ClupyError):
    """A configuration file or a master's address is wrong."""


class LockTimeoutError(ClupyError):
    """A lock of clupy.sync could not be had in time."""

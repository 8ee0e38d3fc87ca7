# SPDX-License-Identifier: Apache-2.0
"""A client of clupy-launcher's own protocol (agent/launcher/launcher-protocol.h), for tests on a node, as root.

It stands in for the agent, which must be stopped: the launcher serves one at a time. Runs under the node's Python.
"""

from __future__ import annotations

import array
import ctypes
import enum
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

sys.path.insert(0, "/usr/lib/clupy/python")  # a node's, where it is not on every program's path

from clupy import _payload  # noqa: E402

SOCKET = "/run/clupy/launcher.sock"
VERSION = 1
MIB = 1 << 20


class Op(enum.IntEnum):
    HELLO = 1
    LIST = 2
    START = 3
    STOP = 4
    RELEASE = 5
    LEASE = 6
    POOL = 7
    BUILD = 8
    BUILD_STOP = 9
    ENVIRONMENTS = 10
    ENVIRONMENT_REMOVE = 11
    WELCOME = 64
    LIST_END = 65
    STARTED = 66
    PROGRESS = 67
    FROZEN = 68
    THAWED = 69
    ENDED = 70
    REFUSED = 71
    BUILD_STARTED = 72
    BUILD_ENDED = 73
    ENVIRONMENT = 74
    ENVIRONMENTS_END = 75
    ENVIRONMENT_REMOVED = 76
    DEVICE = 77


class Outcome(enum.IntEnum):
    """OutcomeKind of common/outcome.h."""

    NONE = 0
    VALUE = 1
    EXCEPTION = 2
    EXIT = 3
    MEMORY = 4
    CPU_TIME = 5
    TIMEOUT = 6
    DEADLINE = 7
    DISK = 8
    SYSCALL = 9
    SIGNAL = 10
    CANCELLED = 11
    ENVIRONMENT = 12
    RESULT_PICKLING = 13
    NODE_LOST = 14
    REFUSED = 15
    INFRASTRUCTURE = 16
    SUPERSEDED = 17


RECEIPT_FIELDS = ("cpu_usec", "memory_peak", "read_chars", "write_chars", "read_bytes", "write_bytes", "pressure_usec")


class _Key(ctypes.Structure):
    _fields_ = [("owner", ctypes.c_char * 64), ("environment", ctypes.c_char * 64), ("policy", ctypes.c_char * 32),
                ("host_network", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]


class _Start(ctypes.Structure):
    _fields_ = [("key", _Key), ("job", ctypes.c_uint8 * 16), ("session", ctypes.c_uint8 * 16),
                ("name", ctypes.c_char * 64), ("epoch", ctypes.c_uint64), ("memory_max", ctypes.c_uint64),
                ("cpu_quota_usec", ctypes.c_uint64), ("cpu_time_max_usec", ctypes.c_uint64),
                ("timeout_usec", ctypes.c_uint64), ("deadline_usec", ctypes.c_uint64), ("tmp_max", ctypes.c_uint64),
                ("tasks_max", ctypes.c_uint32), ("cpus", ctypes.c_uint32), ("devices", ctypes.c_uint64 * 2),
                ("variables", ctypes.c_char * 256)]


class _Stop(ctypes.Structure):
    _fields_ = [("why", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("grace_usec", ctypes.c_uint64),
                ("by", ctypes.c_char * 64)]


class _Lease(ctypes.Structure):
    _fields_ = [("until_usec", ctypes.c_uint64)]


class _Pool(ctypes.Structure):
    _fields_ = [("key", _Key), ("count", ctypes.c_uint32)]


class _Build(ctypes.Structure):
    _fields_ = [("environment", ctypes.c_char * 64), ("owner", ctypes.c_char * 64), ("python", ctypes.c_char * 16),
                ("flags", ctypes.c_uint32), ("tasks_max", ctypes.c_uint32),
                *((name, ctypes.c_uint64) for name in ("memory_max", "cpu_quota_usec", "timeout_usec", "disk_max",
                                                       "files_max"))]


class _Environment(ctypes.Structure):
    _fields_ = [("environment", ctypes.c_char * 64)]


class _RequestUnion(ctypes.Union):
    _fields_ = [("start", _Start), ("stop", _Stop), ("lease", _Lease), ("pool", _Pool), ("build", _Build),
                ("environment", _Environment)]


class _Request(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("op", ctypes.c_uint32), ("task", ctypes.c_uint8 * 16),
                ("attempt", ctypes.c_uint32), ("reserved", ctypes.c_uint32), ("u", _RequestUnion)]


class _Receipt(ctypes.Structure):
    _fields_ = [("known", ctypes.c_uint32), ("reserved", ctypes.c_uint32),
                *((name, ctypes.c_uint64) for name in RECEIPT_FIELDS),
                *((name, ctypes.c_uint64) for name in ("start_usec", "run_usec", "started_at", "ended_at"))]


class _Welcome(ctypes.Structure):
    _fields_ = [("instance", ctypes.c_uint8 * 16), ("cgroup_v2", ctypes.c_uint32), ("memory_known", ctypes.c_uint32)]


class _Disk(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("limit", "used", "files_limit", "files_used")]


class _Info(ctypes.Structure):
    _fields_ = [("unit", ctypes.c_char * 64), ("pid", ctypes.c_uint32), ("uid", ctypes.c_uint32),
                ("started_at", ctypes.c_uint64), ("owner", ctypes.c_char * 64), ("name", ctypes.c_char * 64),
                ("job", ctypes.c_uint8 * 16), ("session", ctypes.c_uint8 * 16), ("epoch", ctypes.c_uint64),
                ("memory_max", ctypes.c_uint64), ("cpu_quota_usec", ctypes.c_uint64), ("devices", ctypes.c_uint64 * 2),
                ("outcome", ctypes.c_uint32),
                ("status", ctypes.c_int32), ("limit", ctypes.c_uint64), ("peak", ctypes.c_uint64),
                ("detail", ctypes.c_char * 128), ("result_size", ctypes.c_uint64), ("tmp", _Disk),
                ("shm", _Disk), ("receipt", _Receipt)]


class _Progress(ctypes.Structure):
    _fields_ = [("done", ctypes.c_double), ("total", ctypes.c_double), ("note", ctypes.c_char * 128)]


class _Refused(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char * 256), ("environment", ctypes.c_char * 64)]


class _EnvironmentEvent(ctypes.Structure):
    _fields_ = [("environment", ctypes.c_char * 64), ("owner", ctypes.c_char * 64), ("python", ctypes.c_char * 16),
                ("unit", ctypes.c_char * 64), *((name, ctypes.c_uint64) for name in ("bytes", "files", "built_at", "used_at")),
                ("in_use", ctypes.c_uint32), ("reserved", ctypes.c_uint32)]


class _BuildEnded(ctypes.Structure):
    _fields_ = [("environment", ctypes.c_char * 64), ("outcome", ctypes.c_uint32), ("status", ctypes.c_int32),
                *((name, ctypes.c_uint64) for name in ("limit", "bytes", "files", "run_usec", "cpu_usec")),
                ("detail", ctypes.c_char * 128)]


class _EventUnion(ctypes.Union):
    _fields_ = [("welcome", _Welcome), ("info", _Info), ("progress", _Progress), ("refused", _Refused),
                ("environment", _EnvironmentEvent), ("build_ended", _BuildEnded)]


class _Event(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("op", ctypes.c_uint32), ("task", ctypes.c_uint8 * 16),
                ("attempt", ctypes.c_uint32), ("error", ctypes.c_int32), ("flags", ctypes.c_uint32),
                ("reserved", ctypes.c_uint32), ("u", _EventUnion)]


@dataclass
class Event:
    """One message of the launcher; result is the payload that came with it, still encoded."""

    op: Op
    task: str
    attempt: int
    error: int
    flags: int
    unit: str = ""
    pid: int = 0
    uid: int = 0
    outcome: Outcome = Outcome.NONE
    status: int = 0
    limit: int = 0
    peak: int = 0
    detail: str = ""
    text: str = ""
    done: float = 0.0
    total: float = 0.0
    receipt: dict[str, int] = field(default_factory=dict)  # what is known
    disks: dict[str, dict[str, int]] = field(default_factory=dict)
    result: bytes | None = None
    seals: int = 0
    instance: str = ""
    cgroup_v2: bool = False
    environment: str = ""
    figures: dict[str, Any] = field(default_factory=dict)  # of an environment or a build
    log: str = ""  # of a build
    report: bytes = b""
    socket: socket.socket | None = None  # a build's, for the index

    @property
    def value(self) -> Any:
        """The value, or for an exception the dict of docs/protocol.md."""
        assert self.result is not None, self
        return _payload.decode(bytearray(self.result))


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class Client:
    """A connection to the launcher."""

    def __init__(self, owner: str = "alice", path: str = SOCKET) -> None:
        self.owner = owner
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(path)
        self._later: list[Event] = []

    def close(self) -> None:
        self.socket.close()

    def _key(self, policy: str = "default", host_network: bool = False, owner: str | None = None,
             environment: str = "default") -> _Key:
        return _Key(owner=(owner or self.owner).encode(), environment=environment.encode(), policy=policy.encode(),
                    host_network=int(host_network))

    def request(self, op: int, task: str | None = None, attempt: int = 0, fds: tuple[int, ...] = (),
                **union: ctypes.Structure) -> None:
        request = _Request(version=VERSION, op=op, attempt=attempt)
        if task is not None:
            ctypes.memmove(request.task, bytes.fromhex(task), 16)
        for name, part in union.items():
            setattr(request.u, name, part)
        self.send(bytes(request), fds)

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], control)

    def build(self, name: str, order: bytes = b"{}", owner: str = "", python: str = "3.11", resolve: bool = False,
              index: bool = False, memory_max: int = 256 * MIB, cpu_quota_usec: int = 2_000_000, tasks_max: int = 64,
              timeout_usec: int = 60_000_000, disk_max: int = 256 * MIB, files_max: int = 20_000, seal: bool = True) -> None:
        """Orders a build."""
        build = _Build(environment=name.encode(), owner=owner.encode(), python=python.encode(),
                       flags=int(resolve) | int(index) << 1, tasks_max=tasks_max, memory_max=memory_max,
                       cpu_quota_usec=cpu_quota_usec, timeout_usec=timeout_usec, disk_max=disk_max, files_max=files_max)
        fd = _sealed([order]) if seal else os.memfd_create("order")
        try:
            self.request(Op.BUILD, fds=(fd,), build=build)
        finally:
            os.close(fd)

    def build_stop(self, name: str) -> None:
        self.request(Op.BUILD_STOP, environment=_Environment(environment=name.encode()))

    def build_end(self, name: str, timeout: float = 120.0) -> Event:
        """Waits for the end of a build, or its refusal."""
        return self.wait_for(lambda e: e.environment == name and e.op in (Op.BUILD_ENDED, Op.REFUSED), timeout)

    def environments(self) -> dict[str, Event]:
        self.request(Op.ENVIRONMENTS)
        found: dict[str, Event] = {}
        while (event := self.wait_for(lambda e: e.op in (Op.ENVIRONMENT, Op.ENVIRONMENTS_END))).op == Op.ENVIRONMENT:
            found[event.environment] = event
        return found

    def environment_remove(self, name: str) -> Event:
        """Returns the answer."""
        self.request(Op.ENVIRONMENT_REMOVE, environment=_Environment(environment=name.encode()))
        return self.wait_for(lambda e: e.environment == name and e.op in (Op.ENVIRONMENT_REMOVED, Op.REFUSED))

    def receive(self, timeout: float = 60.0) -> Event:
        """The next message. Raises TimeoutError, ConnectionError."""
        if self._later:
            return self._later.pop(0)
        if not select.select([self.socket], [], [], timeout)[0]:
            raise TimeoutError(f"no word from the launcher for {timeout} s")
        data, control, flags, _ = self.socket.recvmsg(ctypes.sizeof(_Event) + 1, socket.CMSG_SPACE(64))
        if not data:
            raise ConnectionError("the launcher has hung up")
        assert len(data) == ctypes.sizeof(_Event), (len(data), ctypes.sizeof(_Event))
        assert not flags & socket.MSG_CTRUNC
        fds = array.array("i")
        for _, _, content in control:
            fds.frombytes(content)
        return _event(_Event.from_buffer_copy(data), list(fds))

    def wait_for(self, wanted: Callable[[Event], bool], timeout: float = 60.0) -> Event:
        """The next message that is wanted; others are kept for later."""
        kept: list[Event] = []
        deadline = time.monotonic() + timeout
        try:
            while True:
                event = self.receive(max(0.0, deadline - time.monotonic()))
                if wanted(event):
                    return event
                kept.append(event)
        finally:
            self._later = kept + self._later

    def hello(self) -> Event:
        self.request(Op.HELLO)
        return self.wait_for(lambda e: e.op in (Op.WELCOME, Op.REFUSED))

    def lease(self, seconds: float) -> None:
        until = int((time.clock_gettime(time.CLOCK_BOOTTIME) + seconds) * 1e6)
        self.request(Op.LEASE, lease=_Lease(until_usec=until))

    def pool(self, count: int, **key: Any) -> None:
        self.request(Op.POOL, pool=_Pool(key=self._key(**key), count=count))

    def start(self, function: Callable[..., Any], *args: Any, task: str | None = None, attempt: int = 1,
              policy: str = "default", host_network: bool = False, owner: str | None = None, name: str = "test",
              memory_max: int = 128 * MIB, cpu_quota_usec: int = 1_000_000, cpu_time_max_usec: int = 0,
              timeout_usec: int = 0, deadline_usec: int = 0, tmp_max: int = 0, tasks_max: int = 128,
              cpus: int = 1, epoch: int = 1, retry_on: tuple[type, ...] = (), environment: str = "default",
              devices: tuple[int, ...] = (), variables: str = "") -> str:
        """Starts an attempt; returns the task's id."""
        task = task or os.urandom(16).hex()
        start = _Start(key=self._key(policy, host_network, owner, environment), name=name.encode(), epoch=epoch,
                       memory_max=memory_max, cpu_quota_usec=cpu_quota_usec, cpu_time_max_usec=cpu_time_max_usec,
                       timeout_usec=timeout_usec, deadline_usec=deadline_usec, tmp_max=tmp_max, tasks_max=tasks_max,
                       cpus=cpus, variables=variables.encode())
        for index in devices:
            start.devices[index // 64] |= 1 << index % 64
        ctypes.memmove(start.job, bytes.fromhex(task), 16)
        code = _sealed([_payload.dumps(function)])
        arguments = _sealed(_payload.encode((args, {}, {"retry_on": retry_on})))
        try:
            self.request(Op.START, task, attempt, (code, arguments), start=start)
        finally:
            os.close(code)
            os.close(arguments)
        return task

    def stop(self, task: str, attempt: int = 1, why: Outcome = Outcome.CANCELLED, grace: float = 0.0,
             by: str = "tester") -> None:
        self.request(Op.STOP, task, attempt, stop=_Stop(why=why, grace_usec=int(grace * 1e6), by=by.encode()))

    def release(self, task: str, attempt: int = 1) -> None:
        self.request(Op.RELEASE, task, attempt)

    def run(self, function: Callable[..., Any], *args: Any, timeout: float = 60.0, **options: Any) -> Event:
        """Starts, waits for the end (or a refusal), releases."""
        task = self.start(function, *args, **options)
        event = self.wait_for(lambda e: e.task == task and e.op in (Op.ENDED, Op.REFUSED), timeout)
        if event.op == Op.ENDED:
            self.release(task, options.get("attempt", 1))
        return event


def connected(owner: str = "alice", lease: float = 3600.0) -> Client:
    """A client that has said hello and has a lease."""
    client = Client(owner)
    welcome = client.hello()
    assert welcome.op == Op.WELCOME, welcome
    client.lease(lease)
    return client


F_GET_SEALS = 1034
F_ADD_SEALS = 1033
ALL_SEALS = 0xF


def _sealed(buffers: list[Any]) -> int:
    import fcntl
    fd = _payload.to_memfd(buffers, "test")
    fcntl.fcntl(fd, F_ADD_SEALS, ALL_SEALS)
    return fd


def _event(raw: _Event, fds: list[int]) -> Event:
    import fcntl
    assert raw.version == VERSION
    op = Op(raw.op)
    event = Event(op, bytes(raw.task).hex(), raw.attempt, raw.error, raw.flags)
    if op == Op.WELCOME:
        event.instance = bytes(raw.u.welcome.instance).hex()
        event.cgroup_v2 = bool(raw.u.welcome.cgroup_v2)
    elif op == Op.REFUSED:
        event.text = text(raw.u.refused.text)
        event.environment = text(raw.u.refused.environment)
    elif op in (Op.BUILD_STARTED, Op.ENVIRONMENT, Op.ENVIRONMENT_REMOVED):
        about = raw.u.environment
        event.environment, event.unit = text(about.environment), text(about.unit)
        event.figures = {"owner": text(about.owner), "python": text(about.python), "bytes": about.bytes, "files": about.files,
                         "built_at": about.built_at, "used_at": about.used_at, "in_use": about.in_use}
        if fds:
            event.socket = socket.socket(fileno=os.dup(fds[0]))
    elif op == Op.BUILD_ENDED:
        ended = raw.u.build_ended
        event.environment, event.outcome, event.status = text(ended.environment), Outcome(ended.outcome), ended.status
        event.limit, event.detail = ended.limit, text(ended.detail)
        event.figures = {name: getattr(ended, name) for name in ("bytes", "files", "run_usec", "cpu_usec")}
        assert all(fcntl.fcntl(fd, F_GET_SEALS) == ALL_SEALS for fd in fds)
        parts = [os.pread(fd, 4 * MIB, 0) for fd in fds] + [b"", b""]
        event.log, event.report = text(parts[0]), parts[1]
    elif op == Op.PROGRESS:
        event.done, event.total, event.text = raw.u.progress.done, raw.u.progress.total, text(raw.u.progress.note)
    elif op in (Op.STARTED, Op.FROZEN, Op.THAWED, Op.ENDED):
        info = raw.u.info
        event.unit, event.pid, event.uid = text(info.unit), info.pid, info.uid
        if op == Op.ENDED:
            event.outcome, event.status, event.limit = Outcome(info.outcome), info.status, info.limit
            event.peak, event.detail = info.peak, text(info.detail)
            event.disks = {name: {entry[0]: getattr(disk, entry[0]) for entry in _Disk._fields_}
                           for name, disk in (("/tmp", info.tmp), ("/dev/shm", info.shm))}
            receipt = info.receipt
            event.receipt = {name: getattr(receipt, name) for bit, name in enumerate(RECEIPT_FIELDS)
                             if receipt.known & 1 << bit}
            event.receipt |= {name: getattr(receipt, name)
                              for name in ("start_usec", "run_usec", "started_at", "ended_at")}
            assert bool(fds) == bool(info.result_size), (fds, info.result_size)
            if fds:
                event.seals = fcntl.fcntl(fds[0], F_GET_SEALS)
                event.result = bytes(_payload.read(fds[0]))
                assert len(event.result) == info.result_size
    for fd in fds:
        os.close(fd)
    return event

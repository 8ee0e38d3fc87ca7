# SPDX-License-Identifier: Apache-2.0
"""A peer of clupy-masterd's wire protocol for tests: frames by hand, hello as client, agent or operator.

Standard library only, blocking sockets with timeouts. Nothing here is the product's: tests that talk to a daemon through it
check docs/protocol.md and not the client library's idea of it.
"""

from __future__ import annotations

import json
import secrets
import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence

import ways

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
HEADER = struct.Struct("<4sBBHIHHQ")
MAGIC = b"CLPY"

TYPES = {
    "HELLO": 1, "WELCOME": 2, "REFUSED": 3, "GOODBYE": 4, "HEARTBEAT": 5, "HEARTBEAT_ACK": 6,
    "JOIN": 7, "JOINED": 8, "RENEW": 9, "RENEWED": 10,
    "SUBMIT": 16, "CANCEL": 17, "ACK": 18, "QUERY": 19,
    "STATUS": 32, "RESULT": 33, "ANSWER": 34,
    "DISPATCH": 48, "STOP": 49, "RELEASE": 50, "RECONCILE": 51,
    "REPORT": 64, "STARTED": 65, "ENDED": 66, "LOG": 67, "PROGRESS": 68,
    "FETCH": 80, "DATA": 81, "CREDIT": 82, "END": 83,
    "ENVIRONMENT": 96, "ENVIRONMENT_STATE": 97, "INDEX": 98,
}
NAMES = {number: name for name, number in TYPES.items()}

Json = Dict[str, Any]


def new_id() -> str:
    """A random id: 32 hexadecimal digits."""
    return secrets.token_hex(16)


@dataclass
class Frame:
    """A decoded frame: the type's name, the JSON object, the payloads."""

    type: str
    json: Json
    payloads: List[bytes] = field(default_factory=list)


def encode(kind: str, body: Optional[Json] = None, payloads: Sequence[bytes] = ()) -> bytes:
    """The bytes of a frame. body None: a frame without a JSON part."""
    text = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    sizes = [len(p) for p in payloads]
    head = HEADER.pack(MAGIC, 1, TYPES[kind], 0, len(text), len(sizes), 0, sum(sizes))
    return b"".join([head, struct.pack("<%dI" % len(sizes), *sizes), text, *payloads])


class Closed(Exception):
    """The other end closed the connection; with TLS perhaps saying why."""


class Wire:
    """One connection. Frames that were not asked for wait in `inbox`. way: how it is made, as default ways.default();
    path: a UNIX socket, instead of host, port and way;
    identity: whose certificate it shows when it is TLS and certificates are made for whoever speaks."""

    def __init__(self, host: str = "127.0.0.1", port: int = 7878, timeout: float = 10.0,
                 way: Optional[ways.Way] = None, identity: str = "clupy:user:alice", path: str = "") -> None:
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(path)
        else:
            self.socket = (way or ways.default()).connect(host, port, identity, timeout)
        self.timeout = timeout
        self.buffer = bytearray()
        self.inbox: List[Frame] = []

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Without a goodbye."""
        self.socket.close()

    def send(self, kind: str, body: Optional[Json] = None, payloads: Sequence[bytes] = ()) -> None:
        self.socket.sendall(encode(kind, {} if body is None else body, payloads))

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_hearing(self, data: bytes) -> None:
        """Sends much, and takes meanwhile what comes, as one who does not block would."""
        rest = memoryview(data)
        self.socket.setblocking(False)
        try:
            while rest:
                blocked = 0
                try:
                    rest = rest[self.socket.send(rest[:16384]):]
                except WOULD_BLOCK:
                    blocked += 1
                try:
                    self._hear()
                except WOULD_BLOCK:
                    blocked += 1
                if blocked == 2:
                    select.select([self.socket], [self.socket], [], self.timeout)
        finally:
            self.socket.settimeout(self.timeout)

    def _hear(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            raise Closed from None
        except WOULD_BLOCK:
            raise
        except ssl.SSLError as error:
            raise Closed(str(error)) from None
        if not data:
            raise Closed
        self.buffer += data

    def end_sending(self) -> None:
        """The other end reads to its end, and may still answer."""
        ways.half_close(self.socket)

    def _decode(self) -> Optional[Frame]:
        if len(self.buffer) < HEADER.size:
            return None
        magic, version, kind, flags, json_size, count, reserved, total = HEADER.unpack_from(self.buffer)
        assert magic == MAGIC and version == 1 and flags == 0 and reserved == 0, bytes(self.buffer[:HEADER.size])
        end = HEADER.size + 4 * count + json_size + total
        if len(self.buffer) < end:
            return None
        sizes = struct.unpack_from("<%dI" % count, self.buffer, HEADER.size)
        assert sum(sizes) == total
        at = HEADER.size + 4 * count
        body = json.loads(bytes(self.buffer[at:at + json_size])) if json_size else {}
        at += json_size
        payloads = []
        for size in sizes:
            payloads.append(bytes(self.buffer[at:at + size]))
            at += size
        del self.buffer[:end]
        return Frame(NAMES[kind], body, payloads)

    def receive(self, timeout: Optional[float] = None) -> Frame:
        """The next frame off the socket. Raises Closed, TimeoutError."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            frame = self._decode()
            if frame:
                return frame
            left = end - time.monotonic()
            waits = isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()
            if left <= 0 or not (waits or select.select([self.socket], [], [], left)[0]):
                raise TimeoutError("no frame in time")
            self.socket.settimeout(left)
            try:
                self._hear()
            finally:
                self.socket.settimeout(self.timeout)

    def expect(self, kind: str, timeout: Optional[float] = None,
               where: Optional[Callable[[Frame], bool]] = None) -> Frame:
        """The next frame of that type (and for which `where` holds); others are kept in `inbox`."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        for i, frame in enumerate(self.inbox):
            if frame.type == kind and (where is None or where(frame)):
                return self.inbox.pop(i)
        while True:
            frame = self.receive(max(0.0, end - time.monotonic()))
            if frame.type == kind and (where is None or where(frame)):
                return frame
            self.inbox.append(frame)

    def drain(self, seconds: float = 0.2) -> List[Frame]:
        """Everything that comes within that time, and what waits."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.inbox.append(self.receive(max(0.0, end - time.monotonic())))
            except TimeoutError:
                frames, self.inbox = self.inbox, []
                return frames

    def wait_closed(self, timeout: Optional[float] = None) -> List[Frame]:
        """Waits for the other end to close. Returns what it still said."""
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            try:
                self.inbox.append(self.receive(max(0.0, end - time.monotonic())))
            except Closed:
                return self.inbox


class Client(Wire):
    """Speaks as a client. jobs: what each job id was defined with."""

    def __init__(self, port: int, user: str = "alice", session: Optional[str] = None, python: str = "3.11.2",
                 welcome: bool = True, way: Optional[ways.Way] = None, **more: Any) -> None:
        super().__init__(port=port, way=way, identity=f"clupy:user:{user}")
        self.session = session or new_id()
        self.user = user
        self.send("HELLO", {"role": "client", "protocol": [1, 1], "software": "0.1.0", "python": python,
                            "session": self.session, "user": user, "host": "test", "pid": 1, **more})
        self.welcome = self.expect("WELCOME").json if welcome else {}

    def job(self, **options: Any) -> str:
        """Defines a job. Returns its id."""
        job = {"id": new_id(), "name": "f", "code": "0" * 64, "code_size": 10, "cpus": 1.0, "memory": 1 << 20, **options}
        self.send("SUBMIT", {"jobs": [job]})
        return str(job["id"])

    def submit(self, job: str, n: int = 1, argument: bytes = b"", inline: bool = True, **more: Any) -> List[str]:
        """n tasks with the same argument. Returns their ids."""
        ids: List[str] = []
        while len(ids) < n:
            part = min(200, n - len(ids))
            tasks = []
            for i in range(part):
                task = {"id": new_id(), "job": job, "size": len(argument), **more}
                if argument and inline:
                    task["payload"] = i
                tasks.append(task)
                ids.append(task["id"])
            self.send("SUBMIT", {"tasks": tasks}, [argument] * part if argument and inline else ())
        return ids

    def results(self, n: int, timeout: float = 10.0, ack: bool = True) -> Dict[str, Json]:
        """n results, acknowledged; an inline payload is under "data"."""
        found: Dict[str, Json] = {}
        end = time.monotonic() + timeout
        while len(found) < n:
            frame = self.expect("RESULT", max(0.0, end - time.monotonic()))
            for result in frame.json["results"]:
                if "payload" in result:
                    result["data"] = frame.payloads[result["payload"]]
                found[result["id"]] = result
            if ack:
                self.send("ACK", {"tasks": [r["id"] for r in frame.json["results"]]})
        return found

    def query(self, verb: str, **args: Any) -> Json:
        """The answer's result. Raises LookupError with the code and message."""
        return query(self, verb, args)

    def goodbye(self) -> None:
        self.send("GOODBYE", {})
        self.close()


class Operator(Wire):
    """Asks only."""

    def __init__(self, port: int, user: str = "root", way: Optional[ways.Way] = None) -> None:
        super().__init__(port=port, way=way, identity=f"clupy:admin:{user}")
        self.send("HELLO", {"role": "operator", "protocol": [1, 1], "software": "0.1.0", "user": user})
        self.welcome = self.expect("WELCOME").json

    def query(self, verb: str, **args: Any) -> Json:
        return query(self, verb, args)


_query_number = 0


def query(wire: Wire, verb: str, args: Json) -> Json:
    global _query_number
    _query_number += 1
    number = _query_number
    wire.send("QUERY", {"id": number, "verb": verb, "args": args})
    answer = wire.expect("ANSWER", where=lambda f: f.json["id"] == number).json
    if not answer["ok"]:
        raise LookupError(answer["error"], answer["message"])
    result: Json = answer["result"]
    return result


RECEIPT = {"queued_us": None, "start_us": 100, "run_us": 1000, "cpu_us": 900, "memory_peak": 1 << 20,
           "read_chars": 1, "write_chars": 1, "read_bytes": None, "write_bytes": None, "pressure_us": None,
           "warm": True, "started_at": 1, "ended_at": 2, "unknown": {"read_bytes": "not counted here"}}


class Agent(Wire):
    """Speaks as an agent. What is dispatched to it is under `held` by task id, until it says how it ended."""

    def __init__(self, port: int, name: str = "node1", cpus: float = 2.0, memory: int = 1 << 30,
                 boot_id: Optional[str] = None, instance: Optional[str] = None, python: str = "3.11.2",
                 epoch: int = 0, report: Optional[List[Json]] = None, welcome: bool = True,
                 way: Optional[ways.Way] = None, **more: Any) -> None:
        super().__init__(port=port, way=way, identity=f"clupy:agent:{name}")
        self.name = name
        self.boot_id = boot_id or new_id()
        self.instance = instance or new_id()
        self.held: Dict[str, Json] = {}
        self.arguments: Dict[str, bytes] = {}
        self.heartbeats = 0
        self.send("HELLO", {"role": "agent", "protocol": [1, 1], "software": "0.1.0", "python": python, "name": name,
                            "session": new_id(), "host": name, "pid": 1,
                            "boot_id": self.boot_id, "instance": self.instance, "cpus": cpus, "memory": memory,
                            "epoch": epoch, "defaults": {"memory": 1 << 20, "cpus": 1.0, "tasks_max": 64}, **more})
        self.stopped: List[Json] = []
        if not welcome:
            return
        self.welcome = self.expect("WELCOME").json
        if report is not None:
            self.report(report)

    def report(self, attempts: List[Json]) -> List[Json]:
        """Sends the REPORT. Returns what RECONCILE stops."""
        self.send("REPORT", {"attempts": attempts, "more": False})
        self.stopped = self.expect("RECONCILE").json["stop"]
        return self.stopped

    def heartbeat(self, unreleased: int = 0) -> None:
        self.heartbeats += 1
        self.send("HEARTBEAT", {"seq": self.heartbeats, "unreleased": unreleased, "load": 0.5, "running": len(self.held)})

    def dispatched(self, n: int, timeout: float = 5.0) -> List[Json]:
        """n tasks that were dispatched, in order."""
        tasks: List[Json] = []
        end = time.monotonic() + timeout
        while len(tasks) < n:
            frame = self.expect("DISPATCH", max(0.0, end - time.monotonic()))
            for task in frame.json["tasks"]:
                if "payload" in task:
                    self.arguments[task["id"]] = frame.payloads[task["payload"]]
                self.held[task["id"]] = task
                tasks.append(task)
        return tasks

    def started(self, tasks: Sequence[Json]) -> None:
        self.send("STARTED", {"tasks": [{"id": t["id"], "attempt": t["attempt"], "unit": unit(t), "pid": 1, "uid": 1}
                                        for t in tasks]})

    def ended(self, tasks: Sequence[Json], data: bytes = b"", outcome: Optional[Json] = None,
              inline: bool = True) -> None:
        entries = []
        payloads: List[bytes] = []
        for t in tasks:
            self.held.pop(t["id"], None)
            entry = {"id": t["id"], "attempt": t["attempt"], "outcome": outcome or {"kind": "value"},
                     "receipt": RECEIPT, "unit": unit(t), "size": len(data)}
            if data and inline:
                entry["payload"] = len(payloads)
                payloads.append(data)
            entries.append(entry)
        self.send("ENDED", {"tasks": entries}, payloads)

    def run(self, n: int, data: bytes = b"v") -> List[Json]:
        """Takes n tasks and ends them with a value at once."""
        done: List[Json] = []
        while len(done) < n:
            tasks = self.dispatched(1)
            self.started(tasks)
            self.ended(tasks, data)
            done += tasks
        return done


def unit(task: Json) -> str:
    return "clupy-task-%s.scope" % str(task["id"])[:12]


def reported(task: Json, state: str, **more: Any) -> Json:
    """An entry of REPORT for what a DISPATCH brought."""
    return {"id": task["id"], "attempt": task["attempt"], "epoch": 1, "owner": task["owner"],
            "session": task["session"], "job": task["job"], "name": task["name"], "state": state,
            "cpus": task["cpus"], "memory": task["memory"], "unit": unit(task), **more}

# SPDX-License-Identifier: Apache-2.0
"""A master in a thread, for the client's unit tests: speaks docs/protocol.md from its text alone (it shares no code with
the client) and runs the calls in processes that know nothing of the tests' modules."""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from certificates import Pair

HEADER = struct.Struct("<4sBBHIHHQ")
HELLO, WELCOME, REFUSED, GOODBYE, SUBMIT, CANCEL, ACK, QUERY, STATUS, RESULT, ANSWER, FETCH, DATA, CREDIT, END = (
    1, 2, 3, 4, 16, 17, 18, 19, 32, 33, 34, 80, 81, 82, 83)
INLINE = 64 << 10
PIECE = 256 << 10

Outcome = Tuple[Dict[str, Any], bytes]

_RUNNER = """
import os, struct, sys, types
sys.path.insert(0, sys.argv[1])
package = types.ModuleType("clupy")       # only the parts that run in a task
package.__path__ = [os.path.join(sys.argv[1], "clupy")]
sys.modules["clupy"] = package
from clupy import _payload, _task
source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
pipe_read, pipe_write = os.pipe()
while True:
    head = source.read(16)
    if len(head) < 16:
        break
    sizes = struct.unpack("<QQ", head)
    fds = [_payload.to_memfd([source.read(size)], "part") for size in sizes]
    kind, fd, retry, detail = _task.run(pipe_write, *fds, {"task": "0" * 32, "attempt": 1, "job": "0" * 32,
                                        "node": "fake1", "owner": "alice", "unit": "fake.scope", "cpus": 1})
    data = b""
    if fd >= 0:
        data = os.pread(fd, os.fstat(fd).st_size, 0) if os.fstat(fd).st_size < 1 << 30 else b""
        os.close(fd)
    text = detail.encode()
    out.write(struct.pack("<IIQ", kind, len(text), len(data)))
    out.write(text)
    out.write(data)
    out.flush()
"""


class Runner:
    """Runs code and arguments in another process, one call at a time."""

    def __init__(self) -> None:
        python = Path(__file__).resolve().parents[2] / "python"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self._lock = threading.Lock()
        self._process = subprocess.Popen([sys.executable, "-c", _RUNNER, str(python)], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, cwd="/", env=environment)

    def __call__(self, code: bytes, args: bytes) -> Outcome:
        with self._lock:
            pipe_in, pipe_out = self._process.stdin, self._process.stdout
            assert pipe_in is not None and pipe_out is not None
            pipe_in.write(struct.pack("<QQ", len(code), len(args)))
            pipe_in.write(code)
            pipe_in.write(args)
            pipe_in.flush()
            head = pipe_out.read(16)
            if len(head) < 16:
                return {"kind": "exit", "status": self._process.wait()}, b""
            kind, text_size, size = struct.unpack("<IIQ", head)
            text = pipe_out.read(text_size).decode()
            data = pipe_out.read(size)
        if kind == 1:
            return {"kind": "value"}, data
        if kind == 2:
            return {"kind": "exception", "retry": False}, data
        return {"kind": "result-pickling", "name": text, "message": ""}, b""

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Link:
    """One accepted connection; frames may be sent from any thread."""

    def __init__(self, master: FakeMaster, sock: socket.socket) -> None:
        self.master = master
        self.sock = sock
        self.lock = threading.Lock()
        self.hello: Dict[str, Any] = {}
        self.streams: Dict[int, Dict[str, Any]] = {}
        self.jobs: Dict[str, Dict[str, Any]] = {}
        self.next_stream = 0
        self.credit = threading.Condition()

    def send(self, kind: int, message: Dict[str, Any], payloads: List[bytes] = []) -> None:  # noqa: B006
        text = json.dumps(message).encode()
        head = HEADER.pack(b"CLPY", 1, kind, 0, len(text), len(payloads), 0, sum(map(len, payloads)))
        sizes = struct.pack(f"<{len(payloads)}I", *map(len, payloads))
        with self.lock:
            self.sock.sendall(head + sizes + text + b"".join(payloads))

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.sock.recv(min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def receive(self) -> Tuple[int, Dict[str, Any], List[bytes]]:
        magic, version, kind, flags, json_size, count, reserved, total = HEADER.unpack(self._exactly(24))
        assert (magic, version, flags, reserved) == (b"CLPY", 1, 0, 0), "header"
        assert json_size <= 1 << 20 and count <= 256 and total <= 2 << 20, "bounds"
        sizes = struct.unpack(f"<{count}I", self._exactly(4 * count))
        assert sum(sizes) == total and all(size <= PIECE for size in sizes), "payload sizes"
        message = json.loads(self._exactly(json_size)) if json_size else {}
        return kind, message, [self._exactly(size) for size in sizes]

    def fetch(self, what: Dict[str, Any], size: int, window: int = 1 << 20) -> None:
        """Asks for a payload; master.fetched is called with it when it is there."""
        self.next_stream += 2
        self.streams[self.next_stream] = {"what": what, "parts": [], "size": size, "got": 0, "credit": window}
        self.send(FETCH, {"stream": self.next_stream, "size": size, "window": window, **what})

    def close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


class TlsEnd:
    """The TLS side of an accepted connection, in a thread of its own: a Link reads and writes at the same time, which one
    TLS object cannot bear."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, serials: List[str]) -> None:
        self.inside, self._plain = socket.socketpair()
        self._sock, self._context, self._serials = sock, context, serials
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._sock.settimeout(10)
            with self._context.wrap_socket(self._sock, server_side=True) as tls, self._plain:
                self._serials.append(str((tls.getpeercert() or {}).get("serialNumber")))
                tls.setblocking(False)
                self._plain.setblocking(False)
                self._pump(tls)
        except (OSError, EOFError):  # among them ssl.SSLError
            self._sock.close()
            self._plain.close()

    def _pump(self, tls: ssl.SSLSocket) -> None:
        out = b""  # for the client; what SSL_write() was given must be given again
        back = b""
        ended = False  # the client sends no more
        while True:
            moved = False
            if not out:
                try:
                    out = self._plain.recv(1 << 18)
                    if not out:
                        raise EOFError
                except BlockingIOError:
                    pass
            if out:
                try:
                    out = out[tls.send(out):]
                    moved = True
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
            if not back and not ended:
                try:
                    back = tls.recv(1 << 18)
                    if not back:
                        ended = True
                        self._plain.shutdown(socket.SHUT_WR)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
            if back:
                try:
                    back = back[self._plain.send(back):]
                    moved = True
                except BlockingIOError:
                    pass
            if not moved:
                select.select([*([] if out else [self._plain]), *([] if back or ended else [tls])],
                              [*([tls] if out else []), *([self._plain] if back else [])], [], 10)


def server_context(certificate: Pair, authority: Path, revoked: Optional[Path] = None) -> ssl.SSLContext:
    """As masterd's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate.certificate, certificate.key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    if revoked is not None:
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


class FakeMaster:
    """with FakeMaster() as master: clupy.Client(master.url) … — attributes are read and set by tests. tls: speak TLS
    with it; may be set anew for later connections. path: listen on a UNIX socket."""

    def __init__(self, run: Optional[Callable[[bytes, bytes], Outcome]] = None, window: int = 20000, *,
                 tls: Optional[ssl.SSLContext] = None, port: int = 0, path: Optional[Path] = None) -> None:
        self.tls = tls
        self.serials: List[str] = []  # of the certificates that were shown
        self.port = 0
        if path is not None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(path))
            self._listener.listen()
            self.url = f"unix:{path}"
        else:
            self._listener = socket.create_server(("127.0.0.1", port))
            self.port = self._listener.getsockname()[1]
            self.url = f"{'clupy' if tls else 'clupy+insecure'}://127.0.0.1:{self.port}"
        self._own_runner: Optional[Runner] = None
        self._run = run
        self.window = window
        self.refuse: Optional[Dict[str, Any]] = None
        self.hold = threading.Event()  # cleared: results are kept back
        self.hold.set()
        self.lock = threading.RLock()
        self.links: List[Link] = []
        self.hellos: List[Dict[str, Any]] = []
        self.frames: List[Tuple[int, Dict[str, Any]]] = []
        self.jobs: Dict[str, Dict[str, Any]] = {}
        self.tasks: Dict[str, Dict[str, Any]] = {}
        self.results: Dict[str, Tuple[Dict[str, Any], bytes]] = {}  # unacknowledged
        self.sessions: Dict[str, Set[str]] = {}  # of each task: who gets its results
        self.executions: List[str] = []
        self.acknowledged: List[str] = []
        self.codes: Dict[str, bytes] = {}
        self.libraries: Optional[Dict[str, str]] = None
        self.wheels: Dict[str, bytes] = {}
        self.before_wheel: Callable[[], object] = lambda: None  # called before a wheel is fetched
        self.inline_code = False
        self.answers: Dict[str, Callable[[Link, Dict[str, Any]], None]] = {}
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeMaster:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        self._closed = True
        self.hold.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self.drop()
        if self._own_runner is not None:
            self._own_runner.close()

    def drop(self) -> None:
        """Breaks all connections."""
        with self.lock:
            links, self.links = self.links, []
        for link in links:
            link.close()

    def forget(self) -> None:
        """As a master that was killed and has started again."""
        with self.lock:
            self.tasks.clear()
            self.jobs.clear()
        self.drop()

    def run(self, code: bytes, args: bytes) -> Outcome:
        if self._run is not None:
            return self._run(code, args)
        with self.lock:
            if self._own_runner is None:
                self._own_runner = Runner()
        return self._own_runner(code, args)

    def count(self, kind: int) -> int:
        with self.lock:
            return sum(1 for frame in self.frames if frame[0] == kind)

    def wait_for(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "what the test waits for did not happen"
            time.sleep(0.005)

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                sock = TlsEnd(sock, self.tls, self.serials).inside
            threading.Thread(target=self._serve, args=(Link(self, sock),), daemon=True).start()

    def _serve(self, link: Link) -> None:
        try:
            kind, hello, _ = link.receive()
            assert kind == HELLO
            with self.lock:
                self.hellos.append(hello)
                link.hello = hello
                if self.refuse is not None:
                    link.send(REFUSED, self.refuse)
                    link.close()
                    return
                self.links.append(link)
            link.send(WELCOME, {"protocol": 1, "software": "0", "python": hello["python"], "epoch": 1,
                                "session_kept": False, "heartbeat_ms": 1000, "lease_ms": 15000,
                                "task_window": self.window, "insecure": False,
                                **({} if self.libraries is None else {"libraries": self.libraries})})
            for task in list(self.results):
                self.deliver(link, task)
            while True:
                kind, message, payloads = link.receive()
                with self.lock:
                    self.frames.append((kind, message))
                self._handle(link, kind, message, payloads)
        except (EOFError, OSError):
            with self.lock:
                if link in self.links:
                    self.links.remove(link)
            link.close()

    def _handle(self, link: Link, kind: int, message: Dict[str, Any], payloads: List[bytes]) -> None:
        if kind == SUBMIT:
            for job in message["jobs"]:
                assert job["id"] not in link.jobs, "a job is defined once per connection"
                link.jobs[job["id"]] = job
                self.jobs[job["id"]] = job
            for task in message["tasks"]:
                assert task["job"] in link.jobs, "a job is defined before its first task"
                with self.lock:
                    self.sessions.setdefault(task["id"], set()).add(link.hello["session"])
                    if task["id"] in self.tasks or task["id"] in self.results:
                        continue
                    self.tasks[task["id"]] = task
                if "payload" in task:
                    assert len(payloads[task["payload"]]) == task["size"] <= INLINE
                    task["args"] = payloads[task["payload"]]
                self._advance(link, task)
        elif kind == ACK:
            for task_id in message["tasks"]:
                self.results.pop(task_id, None)
                self.acknowledged.append(task_id)
        elif kind == CANCEL:
            for task_id in message["tasks"]:
                task = self.tasks.get(task_id)
                if task is not None and task_id not in self.results:
                    task["cancelled"] = True
                    self.end(task_id, {"kind": "cancelled", "by": "alice"}, b"")
        elif kind == QUERY:
            if message["verb"] in self.answers:
                self.answers[message["verb"]](link, message)
            else:
                link.send(ANSWER, {"id": message["id"], "ok": False, "error": "invalid", "message": "no such verb"})
        elif kind == DATA:
            stream = link.streams[message["stream"]]
            stream["parts"].append(payloads[0])
            stream["got"] += len(payloads[0])
            stream["credit"] -= len(payloads[0])
            assert stream["credit"] >= 0, "more than the credit"
            if stream["credit"] < 512 << 10:
                stream["credit"] += 1 << 20
                link.send(CREDIT, {"stream": message["stream"], "bytes": 1 << 20})
        elif kind == END and message["stream"] in link.streams:
            stream = link.streams.pop(message["stream"])
            if "error" not in message:
                assert stream["got"] == stream["size"], "an argument or code was cut short"
                self._fetched(link, stream["what"], b"".join(stream["parts"]))
            elif stream["what"]["what"] == "wheel":
                self.end(stream["what"]["task"], {"kind": "environment", "log": message["message"]}, b"")
        elif kind == FETCH:
            threading.Thread(target=self._send_result, args=(link, message), daemon=True).start()
        elif kind == CREDIT:
            with link.credit:
                link.streams[message["stream"]]["credit"] += message["bytes"]
                link.credit.notify_all()
        elif kind == GOODBYE:
            link.close()
            raise EOFError

    def _advance(self, link: Link, task: Dict[str, Any]) -> None:
        job = self.jobs[task["job"]]
        if "args" not in task:
            link.fetch({"task": task["id"], "attempt": 1, "what": "args"}, task["size"])
        elif job["code"] not in self.codes:
            link.fetch({"task": task["id"], "attempt": 1, "what": "code", "code": job["code"]}, job["code_size"])
        elif missing := [wheel for wheel in job.get("environment", {}).get("wheels", ())
                         if wheel["digest"] not in self.wheels]:
            self.before_wheel()
            link.fetch({"task": task["id"], "what": "wheel", "code": missing[0]["digest"]}, missing[0]["size"], 1 << 19)
        else:
            threading.Thread(target=self._execute, args=(task,), daemon=True).start()

    def _fetched(self, link: Link, what: Dict[str, Any], data: bytes) -> None:
        task = self.tasks[what["task"]]
        if what["what"] == "code":
            self.codes[what["code"]] = data
        elif what["what"] == "wheel":
            self.wheels[what["code"]] = data
        else:
            task["args"] = data
        self._advance(link, task)

    def _execute(self, task: Dict[str, Any]) -> None:
        self.executions.append(task["id"])
        self.status({"id": task["id"], "state": "running", "attempt": 1, "node": "fake1", "unit": "fake.scope"})
        self.hold.wait()
        if task.get("cancelled"):
            return
        try:
            outcome, payload = self.run(self.codes[self.jobs[task["job"]]["code"]], task["args"])
        except (KeyError, OSError, ValueError):  # forget(), close()
            return
        self.end(task["id"], outcome, payload)

    def status(self, status: Dict[str, Any]) -> None:
        with self.lock:
            links = [link for link in self.links if link.hello["session"] in self.sessions[status["id"]]]
        for link in links:
            try:
                link.send(STATUS, {"tasks": [status]})
            except OSError:
                pass

    def end(self, task_id: str, outcome: Dict[str, Any], payload: bytes) -> None:
        with self.lock:
            if task_id in self.results or task_id not in self.tasks:
                return
            result = {"id": task_id, "attempt": 1, "attempts": 1, "node": "fake1", "unit": "fake.scope",
                      "outcome": outcome, "size": len(payload),
                      "receipt": {"run_us": 5, "cpu_us": 4, "memory_peak": 3, "read_bytes": None, "warm": True,
                                  "unknown": {"read_bytes": "no block I/O accounting here"}}}
            self.results[task_id] = (result, payload)
            links = list(self.links)
        for link in links:
            self.deliver(link, task_id)

    def deliver(self, link: Link, task_id: str) -> None:
        entry = self.results.get(task_id)
        if entry is None or link.hello["session"] not in self.sessions[task_id]:
            return
        result, payload = entry
        try:
            if 0 < len(payload) <= INLINE:
                link.send(RESULT, {"results": [{**result, "payload": 0}]}, [payload])
            else:
                link.send(RESULT, {"results": [result]})
        except OSError:
            pass

    def _send_result(self, link: Link, message: Dict[str, Any]) -> None:
        number = message["stream"]
        entry = self.results.get(message["task"])
        try:
            if entry is None:
                link.send(END, {"stream": number, "error": "gone", "message": "no such result"})
                return
            payload = memoryview(entry[1])
            stream = {"credit": message["window"]}
            link.streams[number] = stream
            offset = 0
            while offset < len(payload):
                with link.credit:
                    while stream["credit"] <= 0:
                        link.credit.wait()
                    size = min(PIECE, stream["credit"], len(payload) - offset)
                    stream["credit"] -= size
                link.send(DATA, {"stream": number}, [bytes(payload[offset:offset + size])])
                offset += size
            link.send(END, {"stream": number})
        except OSError:
            pass

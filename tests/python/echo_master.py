# SPDX-License-Identifier: Apache-2.0
"""The least a master can do, as a process of its own: answers each task with None at once. For measuring the client's
part of a round trip. Prints its port."""

import json
import socket
import struct
import sys
from typing import Any, Dict

HEADER = struct.Struct("<4sBBHIHHQ")


def exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            sys.exit(0)
        data += part
    return bytes(data)


def frame(kind: int, message: Dict[str, Any], payload: bytes = b"") -> bytes:
    text = json.dumps(message).encode()
    sizes = struct.pack("<I", len(payload)) if payload else b""
    return HEADER.pack(b"CLPY", 1, kind, 0, len(text), bool(payload), 0, len(payload)) + sizes + text + payload


def main() -> None:
    value = bytes.fromhex(sys.argv[1])
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        _, _, kind, _, size, count, _, total = HEADER.unpack(exactly(sock, 24))
        exactly(sock, 4 * count)
        message = json.loads(exactly(sock, size) or b"{}")
        exactly(sock, total)
        if kind == 1:
            sock.sendall(frame(2, {"task_window": 20000, "python": message["python"]}))
        elif kind == 16:
            for task in message["tasks"]:
                sock.sendall(frame(33, {"results": [{"id": task["id"], "attempt": 1, "attempts": 1, "node": "n",
                                                     "unit": "u", "outcome": {"kind": "value"}, "size": len(value),
                                                     "payload": 0, "receipt": {}}]}, value))


main()

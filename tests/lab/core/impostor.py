# SPDX-License-Identifier: Apache-2.0
"""A package that, while it is imported in the zygote, takes the zygote's place: it says "ready" to the launcher and hands in,
for each task that it is ordered to make, a process of its own choice. Never returns. impostor.kind, beside it, says which:

- stranger: a child of its own, which is not the launcher's
- zygote: itself, which is the launcher's child but no task
- bare: a child made for the launcher as it should be, but without uid, namespaces and filter of a task
- nobody: no process at all
- anchor: the process that all others of the zygote hang on, which is the launcher's child and ordered
- mute: it does not answer at all
- closed: it closes its socket, and lives on
"""

from __future__ import annotations

import array
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

KIND = Path(__file__).with_name("impostor.kind").read_text().strip()
REQUEST = struct.Struct("@IIIIQQ")  # struct ZygoteRequest
REPLY = struct.Struct("@IIiI")  # struct ZygoteReply
TASK_SOCKET = 4  # among the descriptors of OP_MAKE
OP_MAKE, OP_MADE, OP_READY = 1, 2, 3
LIBC = ctypes.CDLL(None, use_errno=True)


def sleeper(for_the_launcher: bool) -> int:
    flags = signal.SIGCHLD | (0x8000 if for_the_launcher else 0)  # CLONE_PARENT
    pid = int(LIBC.syscall(ctypes.c_long(56), ctypes.c_long(flags), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0),
                           ctypes.c_long(0)))
    if pid == 0:
        while True:
            signal.pause()
    return pid


def main() -> None:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=3)
    control.send(REPLY.pack(OP_READY, 0, 0, 0))
    while True:
        data, ancillary, _, _ = control.recvmsg(REQUEST.size, socket.CMSG_SPACE(64))
        if len(data) != REQUEST.size:
            os._exit(0)
        _, slot, *_ = REQUEST.unpack(data)
        if KIND in ("mute", "closed"):
            print(f"impostor: {KIND} nothing handed in", file=sys.stderr, flush=True)
            if KIND == "closed":
                control.close()
            while True:
                signal.pause()
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content)
        makers: dict[str, Callable[[], int]] = {"stranger": lambda: sleeper(False), "zygote": os.getpid,
                                                "bare": lambda: sleeper(True), "nobody": lambda: -1, "anchor": lambda: 1}
        pid = makers[KIND]()
        rights = []
        if pid > 0:
            pidfd = os.pidfd_open(pid)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
        print(f"impostor: {KIND} {pid} handed in", file=sys.stderr, flush=True)
        control.sendmsg([REPLY.pack(OP_MADE, slot, 0, 0)], rights)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fds.pop(TASK_SOCKET)) as task:
            task.send(REPLY.pack(OP_READY, slot, 0, 0))  # "sandboxed and rehearsed", says the task
        for fd in fds:
            os.close(fd)


main()

# SPDX-License-Identifier: Apache-2.0
"""Something between a client and a master that passes bytes on in its own way."""

from __future__ import annotations

import socket
import threading
from typing import Any, Callable, List, Optional


class Relay:
    """with Relay(port) as relay: … — pieces: bytes that are passed on at once. cut(n): the connections break after n more
    bytes from the master."""

    def __init__(self, port: int, pieces: Callable[[], int] = lambda: 1 << 16, window: int = 0) -> None:
        self._target = port
        self._pieces = pieces
        self._window = window
        self._left: Optional[int] = None
        self._sockets: List[socket.socket] = []
        self._listener = socket.socket()
        if window:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: Any) -> None:
        for sock in [self._listener, *self._sockets]:
            self._end(sock)

    def cut(self, after: int) -> None:
        self._left = after

    @staticmethod
    def _end(sock: socket.socket) -> None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            master = socket.create_connection(("127.0.0.1", self._target))
            for sock in (client, master):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, master]
            for source, target in ((client, master), (master, client)):
                threading.Thread(target=self._pass, args=(source, target, source is master), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, from_master: bool) -> None:
        try:
            while True:
                data = source.recv(self._pieces())
                if not data:
                    break
                if from_master and self._left is not None:
                    data = data[:self._left]
                    self._left -= len(data)
                    target.sendall(data)
                    if not self._left:
                        self._left = None
                        break
                else:
                    target.sendall(data)
        except OSError:
            pass
        self._end(source)
        self._end(target)

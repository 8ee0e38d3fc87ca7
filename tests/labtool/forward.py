# SPDX-License-Identifier: Apache-2.0
"""Passes TCP connections from a lab's bridge on to hosts that this machine reaches.

Usage: forward.py NAMESPACE PEER ADDRESS=HOST=PORT...

It listens in the network namespace of the file NAMESPACE at each ADDRESS, takes connections from PEER only, and says
`ready` on its output. It runs until it is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


def enter(namespace: int) -> None:
    """Takes this thread into a network namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def listen(namespace: str, places: list[tuple[str, int]]) -> list[socket.socket]:
    """Sockets that listen in another network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    enter(there)
    sockets = [socket.create_server(place, backlog=64) for place in places]
    enter(home)
    os.close(home)
    os.close(there)
    return sockets


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def _serve(server: socket.socket, peer: str, host: str, port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer.get_extra_info("peername")[0] != peer:
            writer.close()
            return
        try:
            there = await asyncio.wait_for(asyncio.open_connection(host, port), 10)
        except (OSError, asyncio.TimeoutError) as error:
            print(f"{host}:{port}: {error}", file=sys.stderr, flush=True)
            writer.close()
            return
        await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        there[1].close()
        writer.close()

    await (await asyncio.start_server(connected, sock=server)).serve_forever()


async def _main(namespace: str, peer: str, hosts: list[tuple[str, str, int]]) -> None:
    sockets = listen(namespace, [(address, port) for address, _, port in hosts])
    print("ready", flush=True)
    sys.stdout.close()
    await asyncio.gather(*(_serve(server, peer, host, port)
                           for server, (_, host, port) in zip(sockets, hosts, strict=True)))


if __name__ == "__main__":
    places = [argument.split("=") for argument in sys.argv[3:]]
    asyncio.run(_main(sys.argv[1], sys.argv[2], [(address, host, int(port)) for address, host, port in places]))

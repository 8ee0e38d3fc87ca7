# SPDX-License-Identifier: Apache-2.0
"""clupy-signer alone: what strangers ask does not fill the journal."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Has the socket as systemd would hand it over.
START = """
import os, sys
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.dup2(int(sys.argv[1]), 3)
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Path:
    """CLUPY_SIGNER, or the staged build's."""
    given = os.environ.get("CLUPY_SIGNER")
    if given:
        return Path(given)
    return Path(request.getfixturevalue("installed") or "/") / "usr/lib/clupy/clupy-signer"


@pytest.mark.skipif(os.geteuid() != 0, reason="the signer answers root and the master only")
def test_refusals_are_told_once_a_second(program: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    log = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(8)
        fd = os.dup(listener.fileno())
        os.set_inheritable(fd, True)
        signer = subprocess.Popen([sys.executable, "-c", START, str(fd), str(program), "--folder", str(tmp_path),
                                   "--tokens", str(tmp_path)], pass_fds=(fd,), stderr=log.open("w"))
        os.close(fd)
    try:
        begin = time.monotonic()
        asked = 0
        while asked < 150 or "more since" not in log.read_text():
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
                caller.settimeout(10)
                caller.connect(path)
                caller.send(b"nonsense")
                assert caller.recv(1 << 16)
            asked += 1
            assert time.monotonic() < begin + 30
        lines = [line for line in log.read_text().splitlines() if "Refused" in line]
        assert 2 <= len(lines) <= time.monotonic() - begin + 2
    finally:
        signer.kill()
        signer.wait()

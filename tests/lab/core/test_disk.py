# SPDX-License-Identifier: Apache-2.0
"""A call that fills its own files fails alone, with that reason, all the way to its client and its operator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from labtool.lab import Lab

AGENTS = 1

# Two calls on one node at a time: one overfills a place of its own, its neighbour writes to its own all the while.
PROGRAM = """
import errno, json, sys, clupy

place, how = sys.argv[1:]

def fill(place, how):
    import os, time
    time.sleep(1)  # the neighbour is at work
    if how == "blocks":
        with open(place + "/fill", "wb") as file:
            while True:
                file.write(b"x" * (1 << 20))
    for number in range(200_000):
        open(f"{place}/{number}", "w").close()

def neighbour(place):
    import os, time
    end, rounds = time.time() + 6, 0
    while time.time() < end:
        with open(place + "/mine", "wb") as file:
            file.write(b"y" * (8 << 20))
        for number in range(100):
            open(f"{place}/mine-{number}", "w").close()
        rounds += 1
        assert os.path.getsize(place + "/mine") == 8 << 20
        time.sleep(0.01)
    return rounds

def careful(place):
    try:
        fill(place, "blocks")
    except OSError as error:
        return [error.errno, clupy.__name__]

beside = clupy.parallel(neighbour, cpus=0.5, memory="256M")(place)
filling = clupy.parallel(fill, cpus=0.5, memory="512M", retries=0)(place, how)
error = filling.exception(60)
again = clupy.parallel(fill, cpus=0.5, memory="512M", retries=2, retry_on=OSError)(place, how)
caught = clupy.parallel(careful, cpus=0.5, memory="512M")(place)
print(json.dumps({
    "type": type(error).__name__, "clupy": isinstance(error, clupy.ClupyError), "text": str(error), "place": error.place,
    "limit": error.limit_bytes, "used": error.used_bytes, "files": [error.limit_files, error.used_files],
    "cause": [type(error.__cause__).__name__, getattr(error.__cause__, "errno", None)],
    "traceback": str(error.__cause__.__cause__), "id": filling.id, "unit": filling.unit,
    "neighbour": beside.result(60), "beside": [beside.node == filling.node, beside.attempts],
    "again": [type(again.exception(60)).__name__, again.attempts], "caught": caught.result(60)}))
"""

MEMORY = """
import json, clupy

def fill():
    with open("/tmp/fill", "wb") as file:
        while True:
            file.write(b"x" * (1 << 20))

future = clupy.parallel(fill, memory="64M", retries=0)()
error = future.exception(60)
print(json.dumps({"type": type(error).__name__, "text": str(error), "id": future.id}))
"""


@pytest.fixture(scope="module")
def small(lab: Lab) -> Lab:
    """A node whose tasks have 32 MiB in each place."""
    node = lab.node("agent1")
    node.run(["sh", "-c", "printf 'task:\\n  tmp: 32M\\n' >> /etc/clupy/clupy.server.yaml"])
    node.run(["systemctl", "restart", "clupy-policyc.service", "clupy-launcher.service", "clupy-agent.service"])
    return lab


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
@pytest.mark.parametrize("how", ["blocks", "inodes"])
def test_who_fills_its_files_fails_alone(small: Lab, place: str, how: str) -> None:
    client = small.node("client")
    result = json.loads(client.run(["python3", "-c", PROGRAM, place, how], "user", timeout=200).stdout)
    assert (result["type"], result["clupy"], result["place"]) == ("DiskLimitError", True, place)
    assert result["limit"] == 32 << 20 and result["files"][0] == 100_000
    assert result["cause"] == ["OSError", 28] and "in fill" in result["traceback"]
    assert result["unit"] in result["text"] and "\n" not in result["text"]
    why = client.run(["clupyctl", "why", result["id"]]).stdout
    if how == "blocks":
        assert result["used"] == 32 << 20
        assert f"ran out of room in its {place} of 32M (32M in use when it failed)" in result["text"]
        assert f"ran out of room in its {place} of 32.0M (32.0M in use when it failed)" in why
    else:
        assert result["files"][1] == 100_000
        assert f"used up the 100000 files that its {place} may have" in result["text"]
        assert f"used up the 100000 files that its {place} may have" in why
    assert "disk (" in client.run(["clupyctl", "task", "show", result["id"]]).stdout
    # The neighbour had its own all the while; a call may catch the error, or be run again for it.
    assert result["neighbour"] > 10 and result["beside"] == [True, 1]
    assert result["again"] == ["DiskLimitError", 3] and result["caught"] == [28, "clupy"]


def test_files_that_drive_a_call_over_its_memory_are_named(lab: Lab) -> None:
    client = lab.node("client")
    lab.node("agent1").run(["sh", "-c", "sed -i 's/tmp: 32M/tmp: 256M/' /etc/clupy/clupy.server.yaml"])
    lab.node("agent1").run(["systemctl", "restart", "clupy-policyc.service", "clupy-launcher.service", "clupy-agent.service"])
    result = json.loads(client.run(["python3", "-c", MEMORY], "user", timeout=100).stdout)
    assert result["type"] == "MemoryLimitError" and "of it for its files in /tmp)" in result["text"], result
    assert "of it for files in /tmp)" in client.run(["clupyctl", "why", result["id"]]).stdout

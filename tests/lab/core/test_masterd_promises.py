# SPDX-License-Identifier: Apache-2.0
"""What masterd promises about results and strangers, spoken to as in test_masterd_wire.py."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from test_masterd_wire import Master, master, program, ready, start  # noqa: E402, F401
from wire import Agent, Client, Closed, Wire, reported  # noqa: E402


def test_a_result_stays_until_its_client_has_it(master: Master) -> None:  # noqa: F811
    """Neither sending it nor the end of the connection releases it on its node, but the client's word."""
    agent, client = ready(master), Client(master.port)
    task = client.submit(client.job(), 1)[0]
    agent.ended(agent.dispatched(1), b"value")
    assert client.results(1, ack=False)[task]["data"] == b"value"
    assert not [frame for frame in agent.drain(0.5) if frame.type == "RELEASE"]
    client.close()
    assert not [frame for frame in agent.drain(0.5) if frame.type == "RELEASE"]
    again = Client(master.port, session=client.session)
    assert again.results(1)[task]["size"] == len(b"value")
    assert agent.expect("RELEASE").json["tasks"] == [{"id": task, "attempt": 1}]


def test_a_reported_result_stays_until_its_client_has_it(master: Master) -> None:  # noqa: F811
    agent, client = ready(master), Client(master.port)
    task = client.submit(client.job(), 1)[0]
    dispatched = agent.dispatched(1)[0]
    agent.close()
    back = Agent(master.port, boot_id=agent.boot_id, instance=agent.instance)
    assert back.report([reported(dispatched, "ended", outcome={"kind": "value"}, receipt={}, size=5)]) == []
    assert client.results(1, ack=False)[task]["size"] == 5
    assert not [frame for frame in back.drain(0.5) if frame.type in ("RELEASE", "DISPATCH")]
    client.send("ACK", {"tasks": [task]})
    assert back.expect("RELEASE").json["tasks"] == [{"id": task, "attempt": 1}]


def test_who_does_not_say_hello_is_hung_up_on(master: Master) -> None:  # noqa: F811
    begin = time.monotonic()
    strangers = [Wire(port=master.port) for _ in range(3)]
    for stranger, said in zip(strangers, (b"", b"C", b"CLPY\x01\x01")):
        stranger.send_raw(said)
    for stranger in strangers:
        stranger.wait_closed(40)
        assert 1 < time.monotonic() - begin < 30
        stranger.close()


def test_before_the_hello_nothing_is_answered(master: Master) -> None:  # noqa: F811
    for kind in ("QUERY", "SUBMIT", "HEARTBEAT", "REPORT", "ACK"):
        with Wire(port=master.port) as stranger:
            stranger.send(kind, {"id": 1, "verb": "status", "args": {}, "tasks": [], "attempts": [], "seq": 1})
            with pytest.raises(Closed):
                stranger.receive(5)

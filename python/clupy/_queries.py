# SPDX-License-Identifier: Apache-2.0
"""Questions to the master (docs/protocol.md, "Queries") that have not been answered to the end."""

from __future__ import annotations

import queue
from typing import Any, Dict, Mapping, Optional, Tuple

from ._connection import Connection
from ._frame import FrameType

# Asked for one connection only: attach is asked again by the session, stop is of no use any more.
_OF_ONE_CONNECTION = ("attach", "stop")


class Query:
    """A question to the master; answers come as ("answer", result, more) or ("error", code, message)."""

    def __init__(self, verb: str, arguments: Mapping[str, Any]) -> None:
        self.verb = verb
        self.arguments = dict(arguments)
        self.number = 0
        self.restarted = False  # asked again on another connection
        self.answers: queue.SimpleQueue[Tuple[Any, ...]] = queue.SimpleQueue()


class Queries:
    """All of a session; belongs to its I/O thread. Without a connection they wait for the next one."""

    def __init__(self) -> None:
        self._asked: Dict[int, Query] = {}
        self._number = 0

    def ask(self, asked: Query, connection: Optional[Connection]) -> None:
        self._number += 1
        asked.number = self._number
        self._asked[asked.number] = asked
        if connection is not None:
            _send(connection, asked)

    def end(self, asked: Query, connection: Optional[Connection]) -> None:
        """Nobody waits for its answers any more."""
        if self._asked.pop(asked.number, None) is not None and connection is not None:
            self.ask(Query("stop", {"id": asked.number}), connection)

    def again(self, connection: Connection) -> None:
        """On a new connection."""
        self._asked = {number: asked for number, asked in self._asked.items() if asked.verb not in _OF_ONE_CONNECTION}
        for asked in self._asked.values():
            asked.restarted = True
            _send(connection, asked)

    def answered(self, message: Mapping[str, Any]) -> Optional[Query]:
        """Takes an ANSWER to the one who asked. Returns the query; None when nobody did."""
        asked = self._asked.get(message["id"])
        if asked is None:
            return None
        more = bool(message.get("more"))
        if not more:
            del self._asked[asked.number]
        if message["ok"]:
            asked.answers.put(("answer", message.get("result") or {}, more))
        else:
            asked.answers.put(("error", str(message.get("error", "")), answer_words(message)))
        return asked

    def fail(self, words: str) -> None:
        """There will be no connection any more."""
        for asked in self._asked.values():
            asked.answers.put(("error", "connection", words))


def answer_words(message: Mapping[str, Any]) -> str:
    """Why an ANSWER is none, in the master's words."""
    return str(message.get("message") or message.get("error") or "no reason given")


def _send(connection: Connection, asked: Query) -> None:
    connection.send(FrameType.QUERY, {"id": asked.number, "verb": asked.verb, "args": asked.arguments})

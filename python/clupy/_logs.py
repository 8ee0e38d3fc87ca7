# SPDX-License-Identifier: Apache-2.0
"""What a task printed: future.logs()."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List

from ._failures import ClupyError

if TYPE_CHECKING:
    from ._client import Client


def read(client: Client, task_id: str, ended: bool = False) -> str:
    """The last 64 KiB of it, as far as it has reached the master. ended: the last words of a task that has just ended
    are waited for, as long as they may take (a second). Raises ClupyError."""
    if ended:
        asked = client._connected().ask("logs", {"id": task_id, "follow": True})
        parts: List[str] = []
        while True:
            answer = asked.answers.get()
            if answer[0] == "error":
                break  # too many are followed at once, or it is no more known: as for others
            if asked.restarted:
                asked.restarted = False
                parts.clear()
            parts.append(str(answer[1].get("text", "")))
            if not answer[2]:
                return "".join(parts)
    return str(client.query("logs", {"id": task_id, "follow": False}).get("text", ""))


def follow(client: Client, task_id: str) -> Iterator[str]:
    """Its lines, without their ends, as they come, until the task has ended. Raises ClupyError."""
    session = client._connected()
    asked = session.ask("logs", {"id": task_id, "follow": True})
    given = 0  # characters; a new connection begins again
    skip = 0
    rest = ""
    ended = False
    try:
        while not ended:
            answer = asked.answers.get()
            if asked.restarted:
                asked.restarted = False
                skip = given
            if answer[0] == "error":
                ended = True
                raise ClupyError(f"the log of task {task_id[:12]} cannot be read: {answer[2]}")
            ended = not answer[2]
            text = str(answer[1].get("text", ""))
            skipped = min(skip, len(text))
            skip -= skipped
            given += len(text) - skipped
            lines = (rest + text[skipped:]).split("\n")
            rest = lines.pop()
            yield from lines
        if rest:
            yield rest
    finally:
        if not ended:
            session.end_query(asked)

# SPDX-License-Identifier: Apache-2.0
"""Names of the interface whose parts are not there yet: they say so, and nothing else."""

from __future__ import annotations

from typing import Any, NoReturn


def service(*_: Any, **__: Any) -> NoReturn:
    """Publishes functions as a service. Not there yet."""
    raise NotImplementedError("clupy.service() is not there yet: publishing services comes with a later version")


def connect(*_: Any, **__: Any) -> NoReturn:
    """Connects to a published service. Not there yet."""
    raise NotImplementedError("clupy.connect() is not there yet: published services come with a later version")


class _Later:
    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._sentence = f"is not there yet: {what} comes with a later version"

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__") and attribute.endswith("__"):
            raise AttributeError(attribute)
        raise NotImplementedError(f"{self._name}.{attribute} {self._sentence}")

    def __repr__(self) -> str:
        return f"<{self._name}, which {self._sentence}>"


store = _Later("clupy.store", "the file store")
sync = _Later("clupy.sync", "coordination")

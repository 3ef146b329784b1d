"""The port of the log: what everything that has to say something is given, and a test replaces."""

from __future__ import annotations

from typing import Protocol


class Audit(Protocol):
    def event(self, event: str, /, *, level: str = "info", **fields: str | int | float | bool | None) -> None:
        """Write one event down: `event` is its kind, `fields` hold neither a secret nor a statement's constants."""

"""The client's bytes that are not served yet, and what becomes of a message that is not whole."""

from __future__ import annotations

from typing import Final

STREAM_BIND_FROM: Final = 65_536
"""A Bind that is not whole after so many bytes is forwarded as it arrives: only its two names are read."""


class Inbox:
    """Keep bytes until there are enough of them; count what is streamed, or thrown away, as it arrives."""

    __slots__ = ("_parts", "dropping", "flow", "flushes", "have", "need", "passes")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.have = 0
        """How many bytes are kept."""
        self.need = 0
        """How many bytes there have to be before it is worth to look."""
        self.flow = 0
        """How many bytes are still to come of a message whose handler has run."""
        self.dropping = False
        """Whether these are thrown away."""
        self.flushes = False
        """Whether the last message that was served asks the server for its answers, in the middle of a group."""
        self.passes = False
        """Whether the message whose handler runs is forwarded, as far as it has come."""

    @property
    def half_sent(self) -> bool:
        """Whether half a message went upstream."""
        return self.flow > 0 and not self.dropping

    def keep(self, rest: bytes, need: int) -> None:
        """Keep bytes that cannot be served yet, until there are `need` of them."""
        if rest:
            self._parts.append(rest)
        self.have = len(rest)
        self.need = need

    def add(self, data: bytes) -> None:
        """Keep more of them."""
        self._parts.append(data)
        self.have += len(data)

    def put_back(self, data: bytes) -> None:
        """Put bytes that were served in front of what is kept: they are to be served again."""
        self._parts.insert(0, data)
        self.have += len(data)

    def take(self) -> bytes:
        """Return all of them; none is left."""
        data = b"".join(self._parts)
        self.clear()
        return data

    def clear(self) -> None:
        self._parts.clear()
        self.have = 0

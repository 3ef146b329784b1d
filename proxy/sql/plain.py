"""Whole messages whose verdict is known: one look-up stands for decoding and judging what drivers send again and again.

A Query or Parse message is remembered by its bytes, header included, where it is short, in UTF-8, allowed, and leaves
nothing behind. Most Queries differ from one before in nothing but numbers: they are remembered with each digit a 0,
where the verdict is that of all of these (see `normal_form.digits_are_constants`).
"""

from __future__ import annotations

from typing import Final
from weakref import WeakSet

from proxy.sql.verdict import Verdict

MAX_MESSAGES: Final = 2_000
"""Messages that are remembered for one database, whatever the search_paths."""
MAX_MESSAGE: Final = 2_048
"""Bytes of a message that is remembered: 4 MB in all at most."""
DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")
"""Makes a 0 of each digit."""


class Room:
    """Bound what is remembered for one database: when it is full, all is forgotten."""

    __slots__ = ("_count", "_members")

    def __init__(self) -> None:
        self._count = 0
        self._members: WeakSet[PlainMessages] = WeakSet()

    def enter(self, messages: PlainMessages) -> None:
        """Count these messages in from now on."""
        self._members.add(messages)

    def take(self) -> None:
        """Make room for one message."""
        if self._count >= MAX_MESSAGES:
            for each in self._members:
                each.clear()
            self._count = 0
        self._count += 1


class PlainMessages:
    """Keep the verdicts of whole messages, under one search_path."""

    __slots__ = ("__weakref__", "_room", "alike", "parses", "queries")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.parses: dict[bytes, Verdict] = {}
        self.queries: dict[bytes, Verdict] = {}
        self.alike: dict[bytes, Verdict] = {}
        """Queries whose digits may be any: translated by `DIGITS`. Whoever looks one up makes sure that it is one whole
        message: among the bytes of its length there can be digits, too."""
        room.enter(self)

    def __repr__(self) -> str:
        return f"<PlainMessages {len(self.parses)} Parse, {len(self.queries)} + {len(self.alike)} Query>"

    def knows(self, message: bytes) -> bool:
        """Whether a Query is remembered."""
        return message in self.queries or message.translate(DIGITS) in self.alike

    def keep_parse(self, message: bytes, verdict: Verdict) -> None:
        """Remember a Parse."""
        if len(message) <= MAX_MESSAGE:
            self._room.take()
            self.parses[message] = verdict

    def keep_query(self, message: bytes, verdict: Verdict, *, alike: bool) -> None:
        """Remember a Query. `alike`: its verdict is that of all that differ from it in nothing but digits."""
        if len(message) <= MAX_MESSAGE:
            self._room.take()
            if alike:
                self.alike[message.translate(DIGITS)] = verdict
            else:
                self.queries[message] = verdict

    def clear(self) -> None:
        """Forget all."""
        self.parses.clear()
        self.queries.clear()
        self.alike.clear()

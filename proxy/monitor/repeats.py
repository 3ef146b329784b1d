"""Which events the log has line by line, and which as a number: nobody who can provoke them fills it.

Of lines that differ in nothing but their session the first `LINES` of a second are written, of all of one event the
first `LINES_OF_EVENT`. The rest is counted, kind by kind while there are no more than `KINDS` of them, and becomes one
line for each kind, with the number as `repeated`, when the second has ended. Pure: the time comes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Value: TypeAlias = str | int | float | bool | None

LINES: Final = 10
"""Like lines of a second that are written."""
LINES_OF_EVENT: Final = 100
"""Lines of one event and second that are written, however they differ: what makes them differ can be the client's."""
KINDS: Final = 64
"""Kinds of line of one event and second that are told apart; what is beyond them is counted for the event alone."""

_Kind: TypeAlias = tuple[tuple[str, Value], ...]
_UNLIKE: Final = "session"
"""The field in which like lines may differ."""


@dataclass(slots=True)
class _Seen:
    written: int = 0
    counted: int = 0


@dataclass(slots=True)
class _Event(_Seen):
    kinds: dict[_Kind, _Seen] = field(default_factory=dict)


class Repeats:
    """Say of each event of a second whether it is written, and keep count of the others. Bounded in memory."""

    __slots__ = ("_events", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._events: dict[tuple[str, str], _Event] = {}  # by level and name, and names are the program's own

    def __bool__(self) -> bool:
        """Whether a second has begun that has not been told."""
        return bool(self._events)

    def ended(self, now: float) -> bool:
        """Whether there is a second to be told, and it is over: whichever way the clock was set."""
        return bool(self._events) and int(now) != self._second

    def write(self, now: float, level: str, event: str, fields: Mapping[str, Value]) -> bool:
        """Return whether an event is written; if not, it has been counted."""
        if not self._events:
            self._second = int(now)
        of_event = self._events.setdefault((level, event), _Event())
        kind = tuple([each for each in fields.items() if each[0] != _UNLIKE])
        seen = of_event.kinds.get(kind)
        if seen is None and len(of_event.kinds) < KINDS:
            seen = of_event.kinds[kind] = _Seen()
        if of_event.written < LINES_OF_EVENT and (seen is None or seen.written < LINES):
            of_event.written += 1
            if seen is not None:
                seen.written += 1
            return True
        (of_event if seen is None else seen).counted += 1
        return False

    def tell(self) -> list[tuple[str, str, Mapping[str, Value]]]:
        """Return level, name and fields of a line for each kind that was counted, and begin a new second."""
        lines: list[tuple[str, str, Mapping[str, Value]]] = []
        for (level, event), of_event in self._events.items():
            for kind, seen in (*of_event.kinds.items(), ((), of_event)):
                if seen.counted:
                    lines.append((level, event, {**dict(kind), "repeated": seen.counted}))
        self._events.clear()
        return lines

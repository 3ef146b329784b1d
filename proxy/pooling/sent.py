"""What messages that the server has not answered yet make of things: the one rule for all that is under way.

A message that was sent may fail, or be ignored behind an earlier error. So what it changes counts within its own group
of messages (up to Sync): the server gets to a later message of that group only if everything before has succeeded. A
message of a later group has to wait for the answers, and then finds what whoever learned of them has kept. Nobody has
to be told that a wait is over: it is asked again.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
NEVER: Final = -1
"""The number of no group."""
ROOM: Final = 256
"""Changes that are kept before those that have been answered are looked for, where there is never a quiet moment."""


class Awaits(enum.Enum):
    """What a client's next message waits for."""

    NOTHING = enum.auto()
    UPSTREAM = enum.auto()
    """The client stands in its pool's line."""
    VERDICT = enum.auto()
    """The helper process judges a text, or a newer catalogue is read."""
    REPLIES = enum.auto()
    """What the message means depends on messages of an earlier group that the server has not answered yet."""


class MustWait(Exception):  # noqa: N818 - no error, but one of the ways to leave a handler
    """Say that a message cannot be served now: it is served again, as a whole, when there is what it `awaits`."""

    def __init__(self, awaits: Awaits = Awaits.REPLIES) -> None:
        super().__init__(awaits.name)
        self.awaits = awaits


class Groups:
    """Count groups of messages. Those below `answered` have their ReadyForQuery, or never get one; `sent` is open."""

    __slots__ = ("answered", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.answered = 0

    def __repr__(self) -> str:
        return f"<Groups {self.sent} sent, {self.answered} answered>"

    @property
    def unanswered(self) -> int:
        """How many ReadyForQuery are owed."""
        return self.sent - self.answered

    def lose(self) -> None:
        """Note that nothing of what was sent will be answered any more, the open group included."""
        self.sent += 1
        self.answered = self.sent

    def settle(self, number: int, value: V, known: V) -> V:
        """Return what a message that is sent now finds of a thing that was changed to `value` in group `number`.

        `known` is what the answers so far have made of it. Raises MustWait.
        """
        if number == self.sent:
            return value
        if number >= self.answered:
            raise MustWait
        return known


class Sent(Generic[K, V]):
    """Hold what is under way of things of one kind, such as the statements that names mean."""

    __slots__ = ("_changes", "_every", "_groups", "_room", "newest")

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._changes: dict[K, tuple[int, V]] = {}
        self._every: tuple[int, V] | None = None  # what all others were changed to
        self.newest = NEVER
        """The group with the last change."""
        self._room = ROOM

    def __repr__(self) -> str:
        return f"<Sent {len(self._changes)} changes, of every other {self._every}>"

    @property
    def settled(self) -> bool:
        """Whether everything has been answered, in all groups."""
        return self.newest < self._groups.answered

    @property
    def things(self) -> tuple[K, ...]:
        """Return those that were changed by themselves."""
        return () if self.settled else tuple(self._changes)

    def put(self, thing: K, value: V) -> None:
        """Note that what is sent now makes this of a thing."""
        self._forget_answered()
        self._changes[thing] = (self._groups.sent, value)
        self.newest = self._groups.sent

    def put_every(self, value: V) -> None:
        """Note that what is sent now makes this of all things, whatever they are."""
        self._changes.clear()
        self._every = (self._groups.sent, value)
        self.newest = self._groups.sent

    def find(self, thing: K, known: V) -> V:
        """Return what a message finds that is sent now; `known` is what the answers have made of it.

        Raises MustWait.
        """
        if self.settled:
            return known
        change = self._changes.get(thing, self._every)
        return known if change is None else self._groups.settle(*change, known)

    def _forget_answered(self) -> None:
        if self.settled:
            self._changes.clear()
            self._every = None
        elif len(self._changes) >= self._room:
            answered = self._groups.answered
            self._changes = {thing: change for thing, change in self._changes.items() if change[0] >= answered}
            self._room = max(ROOM, 2 * len(self._changes))

    def swap(self, thing: K, old: V, new: V) -> None:
        """Put one value of a thing in the place of another that means the same."""
        change = self._changes.get(thing)
        if change is not None and change[1] is old:
            self._changes[thing] = (change[0], new)

    def rename(self, old: K, new: K) -> None:
        """Note that a thing has turned out to be another one; what was made of that since counts."""
        change = self._changes.pop(old, None)
        if change is not None and self._changes.get(new, change)[0] <= change[0]:
            self._changes[new] = change

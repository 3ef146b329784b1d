"""The unnamed statement of one client, wherever it is: what a private connection would hold, and who holds it now.

What is sent and what has been answered are two things: a Parse may fail, or be skipped behind an earlier error. So each
method says either that something was *sent*, or what became of it.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Unnamed(Generic[T]):
    """Track the unnamed statement of a client, a `T`, over upstreams that come and go.

    `message` is the one there is, as far as the server has answered; `coming` what it will be when everything that was
    sent has been answered without an error. `synced` says that a Bind which is sent now finds on the link what it would
    find on a private connection; else `coming` has to be repeated first.
    """

    __slots__ = ("_held", "_owed", "coming", "group", "message", "synced")

    def __init__(self) -> None:
        self.message: T | None = None
        self.coming: T | None = None
        self.synced = False
        self.group = -1
        """The group of messages in which something was sent last that a later message of that group depends on."""
        self._held = False  # as `synced`, for what has been answered
        self._owed: deque[T | None] | None = None  # what each Parse leaves whose reply is owed; None: there are none

    def __repr__(self) -> str:
        return f"<Unnamed {self.message is not None} synced={self.synced} held={self._held}>"

    @property
    def stays(self) -> bool:
        """Whether the upstream that is released now holds it."""
        return self._held and self.message is not None

    def unsettled(self, group: int) -> bool:
        """Whether the link has what it should only if what an earlier group has sent succeeds: it had not before."""
        return self.synced and not self._held and self.group != group

    def attach(self, holds: bool) -> None:
        """Note a new link, and whether its upstream still holds this client's statement."""
        self._held = self.synced = holds and self.message is not None

    def drop(self) -> None:
        """Note that it was destroyed here, without the server."""
        self.message = self.coming = None
        self._held = self.synced = False

    def keep(self, statement: T) -> None:
        """Note that it was parsed here, without the server."""
        self.message = self.coming = statement
        self._held = self.synced = False

    # --- sent -----------------------------------------------------------------------------------------------------

    def parse_sent(self, parse: T | None) -> None:
        """Note a Parse of it; None for the stand-in of a refused one, which fails."""
        if self._owed is None:
            self._owed = deque()
        self._owed.append(parse)
        self.coming = parse
        self.synced = True

    def end_sent(self) -> None:
        """Note what destroys it on the server: a simple Query, a Close."""
        self.coming = None
        self.synced = True

    def repeat_sent(self) -> None:
        """Note that `coming` was sent again."""
        self.synced = True

    def other_sent(self) -> None:
        """Note a Query of ours, which destroys what the upstream holds, but not what the client has."""
        self._held = self.synced = False

    # --- answered -------------------------------------------------------------------------------------------------

    def parsed(self, outcome: bool | None) -> None:
        """Note what became of the oldest Parse: done, failed (the old one is gone too), or never run (None)."""
        if self._owed is None:
            return
        parse = self._owed.popleft()
        if not self._owed:
            self._owed = None
        if outcome is not None:
            self.message = parse if outcome else None
            self._held = True
        self.synced = self._held

    def repeated(self, outcome: bool | None) -> None:
        """Note what became of a repeated Parse, likewise. A failed one has destroyed what the upstream held."""
        if outcome is not None:
            self._held = outcome
        self.synced = self._held

    def ended(self) -> None:
        """Note the end of a simple Query or a Close of it."""
        self.message = None
        self._held = True

    def groups_settled(self) -> None:
        """Note that nothing is owed any more but of the group that is open."""
        if self._owed is None:
            self.settled()

    def settled(self) -> None:
        """Note that nothing is owed any more."""
        self.coming = self.message
        self.synced = self._held

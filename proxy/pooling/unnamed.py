"""The unnamed statement of one client, wherever it is: what a private connection would hold, and who holds it now.

What is sent and what has been answered are two things: a Parse may fail, or be skipped behind an earlier error. So each
method says either that something was *sent*, or what became of it.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from proxy.pooling.owed import DONE, IGNORED, PARSE, REFUSED, Holder, Outcome, Owed
from proxy.pooling.sent import NEVER, Groups

T = TypeVar("T")


class Unnamed(Generic[T]):
    """Track the unnamed statement of a client, a `T`, over upstreams that come and go.

    `message` is the one there is, as far as the server has answered. `which` it is, and whether it is `there` on the
    link, is what a message finds that is sent now.
    """

    __slots__ = (
        "_groups",
        "_held",
        "_mark",
        "_marked",
        "_there",
        "_there_in",
        "_which",
        "_which_in",
        "message",
        "parsed_in",
        "told",
    )

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.message: T | None = None
        self.parsed_in = NEVER
        """In which group the client has parsed the last one that gives the rows of another one."""
        self.told: tuple[bytes, bytes, bool] | None = None
        """Its Parse, and what the server has said that it gives: all of its identity, or its rows."""
        self._held = False  # as `there`, for what has been answered
        # What was sent last that changes them, and in which group: two registers, by hand as each Parse sets both.
        self._which: T | None = None
        self._which_in = NEVER
        self._there = False
        self._there_in = NEVER
        # What stands on upstreams for the statement that they held when they were released; which one that was.
        self._mark: object | None = None
        self._marked: T | None = None

    def __repr__(self) -> str:
        return f"<Unnamed {self.message is not None} held={self._held}>"

    # --- asked ----------------------------------------------------------------------------------------------------

    def which(self) -> T | None:
        """Return the statement that a message means which is sent now. Raises MustWait."""
        return self._groups.settle(self._which_in, self._which, self.message)

    def there(self) -> bool:
        """Return whether such a message finds on the link what it would find on a private connection.

        Otherwise `which` has to be repeated first. Raises MustWait.
        """
        return self._groups.settle(self._there_in, self._there, self._held)

    # --- here -----------------------------------------------------------------------------------------------------

    def attach(self, mark: object | None) -> None:
        """Note a new link, and what `leave` has said of its upstream, if nobody else had it since."""
        if self._marked is not self.message:
            self._mark = self._marked = None  # other upstreams may hold the one before
        self._held = mark is not None and mark is self._mark

    def leave(self) -> object | None:
        """Return what marks the upstream that is released now as one that holds the statement there is, if it does."""
        if not self._held or self.message is None:
            return None
        if self._marked is not self.message:
            self._mark, self._marked = object(), self.message
        return self._mark

    def drop(self) -> None:
        """Note that it was destroyed here, without the server."""
        self.message = None
        self._held = False

    def keep(self, statement: T) -> None:
        """Note that it was parsed here, without the server."""
        self.message = statement
        self._held = False

    # --- sent -----------------------------------------------------------------------------------------------------

    def parse_sent(self, parse: T) -> Owed:
        """Note a Parse of it; return the reply that is owed."""
        self._which = parse
        self._there = True
        self._which_in = self._there_in = self._groups.sent
        return UnnamedParse(self, parse)

    def refusal_sent(self, error: bytes) -> Owed:
        """Note the stand-in of a refused Parse, which fails; return the reply owed, whose error the client reads."""
        self.end_sent()
        return RefusedParse(self, error)

    def end_sent(self) -> None:
        """Note what destroys it on the server: a simple Query, a Close."""
        self._which = None
        self._there = True
        self._which_in = self._there_in = self._groups.sent

    def repeat_sent(self) -> None:
        """Note that it was sent again."""
        self._there = True
        self._there_in = self._groups.sent

    def other_sent(self) -> None:
        """Note a Query of ours, ahead of all else: it destroys what the upstream holds, but not what the client has."""
        self._held = False

    def other_behind(self) -> None:
        """Note a Query of ours behind what was sent: it destroys the same, once the server gets there."""
        self._there = False
        self._there_in = self._groups.sent

    # --- answered -------------------------------------------------------------------------------------------------

    def parsed(self, parse: T | None, outcome: Outcome) -> None:
        """Note what became of a Parse. One that failed has destroyed the old one, too."""
        if outcome is not IGNORED:
            self.message = parse if outcome is DONE else None
            self._held = True

    def repeated(self, outcome: Outcome) -> None:
        """Note what became of a repeated Parse, likewise. A failed one has destroyed what the upstream held."""
        if outcome is not IGNORED:
            self._held = outcome is DONE

    def ended(self) -> None:
        """Note the end of a simple Query or a Close of it."""
        self.message = None
        self._held = True


class UnnamedParse(Owed):
    """A Parse of the unnamed statement."""

    __slots__ = ("_parse", "_unnamed")

    # Not set for each: there is one with nearly every query.
    answered_by = PARSE.answered_by
    ends_with_ready = syncs = ours = hidden = shows_ready = firm = False
    when_done = when_failed = None
    like = PARSE

    def __init__(self, unnamed: Unnamed[Any], parse: object) -> None:
        self._unnamed = unnamed
        self._parse = parse

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        self._unnamed.parsed(self._parse, outcome)


class RefusedParse(Owed):
    """The stand-in of a refused Parse of the unnamed statement."""

    __slots__ = ("_unnamed",)

    def __init__(self, unnamed: Unnamed[Any], error: bytes) -> None:
        self._be(REFUSED)
        self.when_failed = error
        self._unnamed = unnamed

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        self._unnamed.parsed(None, outcome)

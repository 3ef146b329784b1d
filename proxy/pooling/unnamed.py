"""The unnamed statement of one client, wherever it is: what a private connection would hold, and who holds it now.

What is sent and what has been answered are two things: a Parse may fail, or be skipped behind an earlier error. So each
method says either that something was *sent*, or what became of it.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

from proxy.pooling.owed import DONE, IGNORED, PARSE, REFUSED, Holder, Outcome, Owed
from proxy.pooling.sent import NEVER, Groups
from proxy.protocol import PARSE_COMPLETE

T = TypeVar("T")
_QUICK: Final = {**PARSE.quick, PARSE_COMPLETE: 4}


class Unnamed(Generic[T]):
    """Track the unnamed statement of a client, a `T`, over upstreams that come and go.

    `message` is the one there is, as far as the server has answered. `which` it is, and whether it is `there` on the
    link, is what a message finds that is sent now.
    """

    __slots__ = (
        "_groups",
        "_there",
        "_there_in",
        "_which",
        "_which_in",
        "held",
        "mark",
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
        self.held = False
        """As `there`, for what has been answered."""
        # What was sent last that changes them, and in which group: two registers, by hand as each Parse sets both.
        self._which: T | None = None
        self._which_in = NEVER
        self._there = False
        self._there_in = NEVER
        self.mark: object | None = None
        """Stands for `message` on upstreams that held it when they were released; None, where there is none."""

    def __repr__(self) -> str:
        return f"<Unnamed {self.message is not None} held={self.held}>"

    # --- asked ----------------------------------------------------------------------------------------------------

    def which(self) -> T | None:
        """Return the statement that a message means which is sent now. Raises MustWait."""
        return self._groups.settle(self._which_in, self._which, self.message)

    def there(self) -> bool:
        """Return whether such a message finds on the link what it would find on a private connection.

        Otherwise `which` has to be repeated first. Raises MustWait.
        """
        return self._groups.settle(self._there_in, self._there, self.held)

    # --- here -----------------------------------------------------------------------------------------------------

    def drop(self) -> None:
        """Note that it was destroyed here, without the server."""
        self.message = self.mark = None
        self.held = False

    def keep(self, statement: T) -> None:
        """Note that it was parsed here, without the server."""
        self.message = statement
        self.mark = object()
        self.held = False

    def replace(self, statement: T, same: T) -> None:
        """Put in the place of a statement what means the same, wherever it is still the one that there is."""
        if self.message is statement:
            self.message = same
        if self._which is statement:
            self._which = same

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
        self.held = False

    def other_behind(self) -> None:
        """Note a Query of ours behind what was sent: it destroys the same, once the server gets there."""
        self._there = False
        self._there_in = self._groups.sent

    # --- answered -------------------------------------------------------------------------------------------------

    def repeated(self, outcome: Outcome) -> None:
        """Note what became of a repeated Parse, likewise. A failed one has destroyed what the upstream held."""
        if outcome is not IGNORED:
            self.held = outcome is DONE

    def ended(self) -> None:
        """Note the end of a simple Query or a Close of it, or that its Parse has failed: the old one is gone, too."""
        self.message = self.mark = None
        self.held = True


class UnnamedParse(Owed):
    """A Parse of the unnamed statement."""

    __slots__ = ("_parse", "_unnamed")

    # Not set for each: there is one with nearly every query.
    remembers = True
    answered_by = PARSE.answered_by
    quick = _QUICK
    ends_with_ready = syncs = ours = hidden = shows_ready = firm = False
    when_done = when_failed = None
    like = PARSE

    def __init__(self, unnamed: Unnamed[Any], parse: object) -> None:
        self._unnamed = unnamed
        self._parse = parse

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is DONE:
            unnamed = self._unnamed
            unnamed.message = self._parse
            unnamed.mark = object()
            unnamed.held = True
        elif outcome is not IGNORED:
            self._unnamed.ended()


class RefusedParse(Owed):
    """The stand-in of a refused Parse of the unnamed statement."""

    __slots__ = ("_unnamed",)

    def __init__(self, unnamed: Unnamed[Any], error: bytes) -> None:
        self._be(REFUSED)
        self.when_failed = error
        self._unnamed = unnamed

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is not IGNORED:
            self._unnamed.ended()

"""The unnamed statement of one client, wherever it is: what a private connection would hold, and who holds it now.

What is sent and what has been answered are two things: a Parse may fail, or be skipped behind an earlier error. So each
method says either that something was *sent*, or what became of it.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from proxy.sent import NEVER, Groups

T = TypeVar("T")


class Unnamed(Generic[T]):
    """Track the unnamed statement of a client, a `T`, over upstreams that come and go.

    `message` is the one there is, as far as the server has answered. `which` it is, and whether it is `there` on the
    link, is what a message finds that is sent now.
    """

    __slots__ = ("_groups", "_held", "_owed", "_there", "_there_in", "_which", "_which_in", "message")

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self.message: T | None = None
        self._held = False  # as `there`, for what has been answered
        self._owed: deque[T | None] = deque()  # what each Parse leaves whose reply is owed
        # What was sent last that changes them, and in which group: two registers, by hand as each Parse sets both.
        self._which: T | None = None
        self._which_in = NEVER
        self._there = False
        self._there_in = NEVER

    def __repr__(self) -> str:
        return f"<Unnamed {self.message is not None} held={self._held}>"

    @property
    def stays(self) -> bool:
        """Whether the upstream that is released now holds it."""
        return self._held and self.message is not None

    # --- asked ----------------------------------------------------------------------------------------------------

    def which(self) -> T | None:
        """Return the statement that a message means which is sent now. Raises UnsettledError."""
        return self._groups.settle(self._which_in, self._which, self.message)

    def there(self) -> bool:
        """Return whether such a message finds on the link what it would find on a private connection.

        Otherwise `which` has to be repeated first. Raises UnsettledError.
        """
        return self._groups.settle(self._there_in, self._there, self._held)

    # --- here -----------------------------------------------------------------------------------------------------

    def attach(self, holds: bool) -> None:
        """Note a new link, and whether its upstream still holds this client's statement."""
        self._held = holds and self.message is not None

    def drop(self) -> None:
        """Note that it was destroyed here, without the server."""
        self.message = None
        self._held = False

    def keep(self, statement: T) -> None:
        """Note that it was parsed here, without the server."""
        self.message = statement
        self._held = False

    # --- sent -----------------------------------------------------------------------------------------------------

    def parse_sent(self, parse: T | None) -> None:
        """Note a Parse of it; None for the stand-in of a refused one, which fails."""
        self._owed.append(parse)
        self._which = parse
        self._there = True
        self._which_in = self._there_in = self._groups.sent

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

    # --- answered -------------------------------------------------------------------------------------------------

    def parsed(self, outcome: bool | None) -> None:
        """Note what became of the oldest Parse: done, failed (the old one is gone too), or never run (None)."""
        if self._owed:
            parse = self._owed.popleft()
            if outcome is not None:
                self.message = parse if outcome else None
                self._held = True

    def repeated(self, outcome: bool | None) -> None:
        """Note what became of a repeated Parse, likewise. A failed one has destroyed what the upstream held."""
        if outcome is not None:
            self._held = outcome

    def ended(self) -> None:
        """Note the end of a simple Query or a Close of it."""
        self.message = None
        self._held = True

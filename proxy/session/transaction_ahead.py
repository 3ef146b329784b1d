"""What becomes of the transaction behind messages that the server has not answered yet."""

from __future__ import annotations

import enum
from typing import Final

from proxy import protocol as p
from proxy.pooling.guard import UNKNOWN
from proxy.pooling.replies import Replies
from proxy.pooling.sent import NEVER, Groups
from proxy.sql.verdict import Verdict

_A_QUIET_MOMENT: Final = 1 << 62
"""More groups than there will ever be: of something that waits until nothing is owed."""


class Block(enum.Enum):
    """Whose transaction block was begun in the group that is open."""

    NONE = enum.auto()
    OURS = enum.auto()
    """For what filter.mode observe lets through."""
    CLIENTS = enum.auto()


class TransactionAhead:
    """Follow one lease's transactions. Groups are told by their number: see `Groups`."""

    __slots__ = (
        "_groups",
        "_replies",
        "_steered",
        "_steered_until",
        "asked_in",
        "block",
        "ending",
        "mixed",
        "parted",
        "ran_in",
        "read_in",
    )

    def __init__(self, groups: Groups, replies: Replies) -> None:
        self._groups = groups
        self._replies = replies
        self.block = Block.NONE
        self.ending = False
        """COMMIT or ROLLBACK was sent: the transaction ends, however that goes."""
        self.mixed = False
        """A group was ended by something else than a Sync, and nothing of ours has run since: see `Link.tidy`."""
        self.parted = NEVER
        """The group that a Sync of ours has begun, in the middle of one of the client's."""
        self.asked_in = self.read_in = self.ran_in = NEVER
        """In which group something of ours has run, or was parsed; the client has read; it has run anything."""
        self._steered = 0
        self._steered_until = NEVER  # `_steered` holds until so many groups are answered

    @property
    def is_steered(self) -> bool:
        """Whether something that may change the transaction status is not answered yet."""
        return self._steered_until > self._groups.answered

    @property
    def status(self) -> int:
        """Return the transaction status as a message finds it that is sent now, or UNKNOWN."""
        return self._steered if self.is_steered else self._replies.status

    @property
    def may_have_failed(self) -> bool:
        """Whether there is, or may be, a transaction, which a message that is sent now can find failed."""
        return self._replies.status != p.IDLE or self.is_steered

    def steer(self, status: int) -> None:
        """Note what the status is behind what goes out now, in a group whose ReadyForQuery is not owed yet."""
        if self._steered_until <= self._groups.sent:
            self._steered = status
            self._steered_until = self._groups.sent + 1
        else:
            self._steered = UNKNOWN

    def steer_by(self, verdict: Verdict) -> None:
        """Note what becomes of the status behind a statement of this verdict, which steers."""
        if verdict.kind != "rollback_to":
            self.steer(UNKNOWN)
        elif self.status != p.IDLE:
            self.steer(p.IN_TRANSACTION)  # it begins no block, and ends none

    def cut(self) -> None:
        """Note that a group ends with something else than a Sync: ignored, if what stands before it has failed."""
        self.mixed = True
        self._steered = UNKNOWN
        self._steered_until = _A_QUIET_MOMENT
        if self.block is Block.CLIENTS:
            self.block = Block.NONE

    def quiet(self) -> None:
        """Note that nothing is owed, and no group open."""
        self._steered_until = NEVER

    def another(self) -> None:
        """Note that another transaction begins behind what is sent now."""
        self.ran_in = self.asked_in = self.read_in = NEVER

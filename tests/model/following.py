"""Follow an answer, message by message: which frontend message each backend message answers, and when all are answered.

This needs no end that is known before: after an error PostgreSQL skips all up to Sync, a Query included, and how many
ReadyForQuery come depends on that.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field

from proxy import protocol as p
from tests.model.sketch import Message
from tests.wire import what_counts

_ENDS = {
    "P": frozenset((p.PARSE_COMPLETE,)),
    "B": frozenset((p.BIND_COMPLETE,)),
    "D": frozenset((p.ROW_DESCRIPTION, p.NO_DATA)),
    "E": frozenset((p.COMMAND_COMPLETE, p.EMPTY_QUERY_RESPONSE, p.PORTAL_SUSPENDED)),
    "C": frozenset((p.CLOSE_COMPLETE,)),
    "Q": frozenset((p.READY_FOR_QUERY,)),
    "S": frozenset((p.READY_FOR_QUERY,)),
}
"""What the last message of an answer can be, by the letter of what is answered."""

_WITHIN = {
    "P": frozenset[int](),
    "B": frozenset[int](),
    "D": frozenset((p.PARAMETER_DESCRIPTION,)),
    "E": frozenset((p.DATA_ROW, p.COPY_OUT_RESPONSE, p.COPY_DATA, p.COPY_DONE)),
    "C": frozenset[int](),
    "Q": frozenset(
        (
            p.ROW_DESCRIPTION,
            p.DATA_ROW,
            p.COMMAND_COMPLETE,
            p.EMPTY_QUERY_RESPONSE,
            p.ERROR_RESPONSE,
            p.COPY_OUT_RESPONSE,
            p.COPY_DATA,
            p.COPY_DONE,
        )
    ),
    "S": frozenset((p.ERROR_RESPONSE,)),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold a backend message, what of it counts, and the number of the frontend message that it answers.

    The greeting is number -1. A ParameterStatus comes before other messages of its group, sorted: nothing defines its
    place there.
    """

    kind: str
    body: object
    answers: int


@dataclass(slots=True)
class Following:
    """Take what is sent and what comes."""

    replies: list[Reply] = field(default_factory=list)
    status: int = p.IDLE
    """The transaction status with the last ReadyForQuery."""
    broken: str = ""
    """Why what came is no answer, if so."""
    sent: int = 0
    """How many messages have been sent."""
    open: bool = False
    """Whether messages of a group have been sent whose Sync has not."""
    statuses: list[tuple[int, int]] = field(default_factory=list)
    _waiting: deque[tuple[int, str]] = field(default_factory=deque)
    _due: int = 0  # the number behind the last message whose answer comes without anything more being sent
    _skips: bool = False
    _greeted: bool = False
    _group: int = 0  # where in `replies` the group begins

    def send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            number, kind = self.sent, message.kind
            self.sent += 1
            if kind == "X":
                continue
            self.open = kind not in "SQ"
            if kind == "S":
                self._skips = False
            elif self._skips:
                continue
            if kind != "H":
                self._waiting.append((number, kind))
            if kind in "SQH":
                self._due = self.sent

    @property
    def is_answered(self) -> bool:
        """Whether everything has come that comes without anything more being sent."""
        return self._greeted and (not self._waiting or self._waiting[0][0] >= self._due)

    @property
    def comparable(self) -> int:
        """Return the number behind the last message whose answer must have come."""
        return self._due

    def receive(self, kind: int, body: bytes) -> None:
        number, head = self._waiting[0] if self._waiting else (self.sent, "")
        if not self._greeted:
            number, head = -1, ""
        if kind == p.PARAMETER_STATUS:
            self._add(Reply("S", p.parameter_parts(body), number))
            return
        self.replies.append(Reply(chr(kind), what_counts(kind, body), number))
        if kind == p.NOTICE_RESPONSE:
            return
        if kind == p.READY_FOR_QUERY:
            self.status = body[0]
            self.statuses.append((number, body[0]))
            self._group = len(self.replies)
        if not self._greeted:
            self._greeted = kind == p.READY_FOR_QUERY
        elif not head:
            self.broken = self.broken or f"{chr(kind)} answers nothing"
        elif kind in _ENDS[head]:
            self._waiting.popleft()
        elif kind == p.ERROR_RESPONSE and head not in "SQ":
            while self._waiting and self._waiting[0][1] != "S":
                self._waiting.popleft()
            self._skips = not self._waiting
        elif kind not in _WITHIN[head]:
            self.broken = self.broken or f"{chr(kind)} does not answer {head}"

    def _add(self, parameter: Reply) -> None:
        """Put a ParameterStatus where its group begins, in order."""
        at = self._group
        while (
            at < len(self.replies) and self.replies[at].kind == "S" and str(self.replies[at].body) < str(parameter.body)
        ):
            at += 1
        number = self.replies[self._group - 1].answers if self._group else -1
        self.replies.insert(at, Reply("S", parameter.body, number))

    def end(self, why: str) -> None:
        self.replies.append(Reply("end", why, self.sent))


REPORTS_CHANGES = 14
"""From this version on a server reports settings that have changed; before, what each SET and RESET comes to, of the
same value too (ReportGUCOption(), utils/misc/guc.c), which SideCart says once."""


def major_of(parameters: Iterable[object]) -> int:
    """Return the major version of the server that has sent these ParameterStatus messages."""
    versions = [str(each[1]) for each in parameters if isinstance(each, tuple) and each[0] == "server_version"]
    return int(versions[0].partition(".")[0]) if versions else REPORTS_CHANGES


def said_once(answers: Sequence[Iterable[tuple[str, str]]], left_out: Set[str]) -> list[set[tuple[str, str]]]:
    """Return of each answer the ParameterStatus messages that say another value than the last one of their name did.

    Those of these names are `left_out`.
    """
    known: dict[str, str] = {}
    left: list[set[tuple[str, str]]] = []
    for parameters in answers:
        new = {each for each in parameters if each[0] not in left_out and known.get(each[0]) != each[1]}
        known.update(new)
        left.append(new)
    return left


def said_twice(answers: Iterable[Iterable[tuple[str, str]]]) -> set[str]:
    """Return the names of which an answer says several values: which one was the last is not known."""
    return {
        name for parameters in answers for name, count in Counter(n for n, _ in set(parameters)).items() if count > 1
    }


def first_difference(theirs: list[Reply], ours: list[Reply]) -> int | None:
    """Return the number of the first message that differs."""
    for number in range(max(len(theirs), len(ours))):
        if theirs[number : number + 1] != ours[number : number + 1]:
            return number
    return None

"""A reply owed: which backend messages answer a frontend message, who gets them, and what its outcome settles.

A message that leaves nothing to remember shares its reply with all of its kind: told by identity, and made once. One
that does has a reply of its own: what is to be done when it is known that the server has done it, that it failed, or
that it was ignored behind an earlier error.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from enum import Enum
from typing import Any, Final, Protocol

from proxy.pooling.snapshot import Settings
from proxy.pooling.statements import Context, Held, Statement
from proxy.protocol import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_DATA,
    COPY_DONE,
    COPY_OUT_RESPONSE,
    DATA_ROW,
    EMPTY_QUERY_RESPONSE,
    FUNCTION_CALL_RESPONSE,
    NO_DATA,
    PARAMETER_DESCRIPTION,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    ROW_DESCRIPTION,
    column_types,
    row_values,
)


class Outcome(Enum):
    """What became of a message."""

    DONE = "done"
    """The server has done what it asks for. Of a Query, or a Sync: its ReadyForQuery is there."""
    FAILED = "failed"
    """The server has answered it with an error."""
    IGNORED = "ignored"
    """It was never run: an error ahead of it made the server skip it, or the upstream was lost."""


DONE: Final = Outcome.DONE
FAILED: Final = Outcome.FAILED
IGNORED: Final = Outcome.IGNORED


class Unnamed(Protocol):
    """The unnamed statement, to those replies that say what has become of it."""

    message: Any
    mark: object | None
    held: bool

    def repeated(self, outcome: Outcome) -> None: ...


class Holder(Protocol):
    """Who holds the upstream, to those replies that are shared and so cannot know it."""

    @property
    def unnamed(self) -> Unnamed:
        """Is told what becomes of the unnamed statement."""

    def bind_failed(self) -> None:
        """Note that a Bind to the unnamed portal has failed, or was ignored."""

    def skipped_row(self, body: bytes) -> None:
        """Note a DataRow of a Query of ours."""


PASSES: Final = -1
"""A message of the answer goes by; more of it is to come."""
_ANY_LENGTH: Final = 1 << 32
_PASS_ROWS: Final = {DATA_ROW: PASSES, COPY_DATA: PASSES}


class Owed:
    """The reply to one message.

    `answered_by` are the types of messages that answer it, ErrorResponse and ReadyForQuery aside. `ends_with_ready`:
    only ReadyForQuery completes it; `shows_ready`: the client gets that. `syncs`: it is a Sync's, up to which the
    server skips what is behind an error. `ours`: we ask for ourselves, and nothing of it reaches the client but the
    error that ends its group. `hidden`: nothing of it does at the moment, whosever it is. `firm`: an error ends the
    upstream. `when_done` and `when_failed` stand in the place of what completes it, or of its error; None: that passes.

    `quick` is what is known of messages of which nothing is to be noted: PASSES, or how long one may be that completes
    it. All others are looked at.
    """

    __slots__ = (
        "answered_by",
        "ends_with_ready",
        "firm",
        "hidden",
        "like",
        "name",
        "ours",
        "quick",
        "shows_ready",
        "syncs",
        "when_done",
        "when_failed",
    )

    answered_by: frozenset[int]
    ends_with_ready: bool
    firm: bool
    hidden: bool
    like: Owed
    """The shared one that it is answered like; itself, if it is shared."""
    name: str
    ours: bool
    quick: Mapping[int, int]
    syncs: bool
    shows_ready: bool
    when_done: bytes | None
    when_failed: bytes | None

    collects: bool = False
    """Whether `collect` wants the answer."""
    resets: Set[str] = frozenset()
    """Settings that are set again right behind it: what is reported of them meanwhile may be what the server has."""
    changed: bool = False
    """Whether the answer says that a statement is no longer what its clients were told."""
    remembers: bool = False
    """Whether `settle` wants to know of what `quick` has completed."""

    def __init__(
        self,
        name: str,
        *answered_by: int,
        ends_with_ready: bool = False,
        syncs: bool = False,
        ours: bool = False,
        shows_ready: bool = False,
        firm: bool = False,
        when_done: bytes | None = None,
        when_failed: bytes | None = None,
        quick: Mapping[int, int] = _PASS_ROWS,
    ) -> None:
        self.name = name
        self.answered_by = frozenset(answered_by)
        self.ends_with_ready = ends_with_ready
        self.syncs = syncs
        self.ours = self.hidden = ours
        self.quick = {} if ours else quick
        self.shows_ready = shows_ready
        self.firm = firm
        self.when_done = b"" if ours else when_done
        self.when_failed = when_failed
        self.like = self

    def _be(self, like: Owed) -> None:
        """Be answered like this one, which is shared."""
        self.answered_by = like.answered_by
        self.ends_with_ready = like.ends_with_ready
        self.syncs = like.syncs
        self.ours = like.ours
        self.hidden = like.hidden
        self.quick = {} if like.hidden else _PASS_ROWS
        self.shows_ready = like.shows_ready
        self.firm = like.firm
        self.when_done = like.when_done
        self.when_failed = like.when_failed
        self.like = like

    def __repr__(self) -> str:
        return self.name if self.like is self else f"<{type(self).__name__} {self.like.name}>"

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        """Learn what became of the message: once, when that is known. Nothing follows from most that are shared."""

    def collect(self, kind: int, body: bytes) -> None:
        """Take a message of the answer."""

    def row(self, body: bytes, holder: Holder) -> None:
        """Take a DataRow that the client does not get."""

    def completed(self, tag: bytes) -> bool:
        """Learn of a CommandComplete; return whether it has discarded what the session had."""
        return False

    def failed(self, body: bytes) -> bytes:
        """Learn of an ErrorResponse that ReadyForQuery will follow; return its body as the client may see it."""
        return body


# --- those that are shared --------------------------------------------------------------------------------------------


class _EndsUnnamed(Owed):
    """A message that destroys the unnamed statement."""

    __slots__ = ()

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is DONE:  # `Unnamed.ended`, of which there is one with nearly every query
            unnamed = holder.unnamed
            unnamed.message = unnamed.mark = None
            unnamed.held = True


class _RepeatsUnnamed(Owed):
    __slots__ = ()

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        holder.unnamed.repeated(outcome)


class _BindsUnnamed(Owed):
    """A Bind to the unnamed portal."""

    __slots__ = ()

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is not DONE:
            holder.bind_failed()


class _Asks(Owed):
    """A Query of ours."""

    __slots__ = ()

    def row(self, body: bytes, holder: Holder) -> None:
        holder.skipped_row(body)


class _Tries(_Asks):
    """A Query of ours behind a message of the client's: it destroys what the upstream holds as unnamed statement."""

    __slots__ = ()

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is DONE:
            holder.unnamed.repeated(FAILED)


_EXECUTED: Final = (COMMAND_COMPLETE, EMPTY_QUERY_RESPONSE)
_COPIES: Final = (COPY_OUT_RESPONSE, COPY_DONE)
_DESCRIBED: Final = (PARAMETER_DESCRIPTION, ROW_DESCRIPTION, NO_DATA)
_QUERIED: Final = (ROW_DESCRIPTION, *_EXECUTED)

NOTHING: Final = Owed("NOTHING", quick={})
"""Stands for the reply that is due where none is."""
QUERY: Final = _EndsUnnamed(
    "QUERY",
    *(*_QUERIED, *_COPIES),
    ends_with_ready=True,
    shows_ready=True,
    quick={**_PASS_ROWS, ROW_DESCRIPTION: PASSES},
)
"""Everything up to ReadyForQuery."""
SYNC: Final = Owed("SYNC", ends_with_ready=True, syncs=True, shows_ready=True)
FUNCTION: Final = Owed("FUNCTION", FUNCTION_CALL_RESPONSE, ends_with_ready=True, shows_ready=True)
REFUSED_QUERY: Final = _EndsUnnamed("REFUSED_QUERY", ends_with_ready=True, shows_ready=True)
"""The stand-in of a refused Query, see `StandIn`."""
REFUSED_CALL: Final = Owed("REFUSED_CALL", ends_with_ready=True, shows_ready=True)
"""The same of a FunctionCall."""
REFUSED: Final = Owed("REFUSED")
"""The same of an extended message."""
PARSE: Final = Owed("PARSE", PARSE_COMPLETE)
REPEAT: Final = Owed("REPEAT", PARSE_COMPLETE, when_done=b"")
"""A Parse that we repeat: an error answers the Bind behind it."""
REPEAT_UNNAMED: Final = _RepeatsUnnamed("REPEAT_UNNAMED", PARSE_COMPLETE, when_done=b"")
BIND: Final = _BindsUnnamed("BIND", BIND_COMPLETE, quick={**_PASS_ROWS, BIND_COMPLETE: 4})
"""A Bind to the unnamed portal."""
BIND_NAMED: Final = Owed("BIND_NAMED", BIND_COMPLETE, quick={**_PASS_ROWS, BIND_COMPLETE: 4})
"""A Bind to another one."""
DESCRIBE: Final = Owed("DESCRIBE", *_DESCRIBED, quick={**_PASS_ROWS, NO_DATA: 4, ROW_DESCRIPTION: _ANY_LENGTH})
EXECUTE: Final = Owed("EXECUTE", *_EXECUTED, *_COPIES, PORTAL_SUSPENDED)
CLOSE: Final = Owed("CLOSE", CLOSE_COMPLETE, quick={**_PASS_ROWS, CLOSE_COMPLETE: 4})
CLOSE_UNNAMED: Final = _EndsUnnamed("CLOSE_UNNAMED", CLOSE_COMPLETE)
"""A Close of the unnamed statement."""
# From here on what *we* ask.
SKIP: Final = Owed("SKIP", PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, *_EXECUTED, ours=True)
"""One message of a group."""
SKIP_PARSE: Final = Owed("SKIP_PARSE", PARSE_COMPLETE, ours=True)
SKIP_CLOSE: Final = Owed("SKIP_CLOSE", CLOSE_COMPLETE, ours=True)
SKIP_DESCRIBE: Final = Owed("SKIP_DESCRIBE", *_DESCRIBED, ours=True)
SKIP_EXECUTE: Final = Owed("SKIP_EXECUTE", *_EXECUTED, ours=True)
SKIP_SET: Final = Owed("SKIP_SET", *_EXECUTED, ours=True)
"""An Execute that sets settings again: what it reports is the client's to know."""
SKIP_FIRM: Final = Owed("SKIP_FIRM", PARSE_COMPLETE, ours=True, firm=True)
"""A Parse: if it fails, the Query behind it is ignored, and nobody could answer it."""
SKIP_ANYHOW: Final = Owed("SKIP_ANYHOW", PARSE_COMPLETE, *_EXECUTED, ours=True, when_failed=b"")
"""One message and its Sync: whether it fails does not matter."""
GUARDING: Final = Owed("GUARDING", ours=True)
"""The guard, as long as it is answered in one piece."""
GUARDING_PART: Final = Owed(
    "GUARDING_PART", PARSE_COMPLETE, BIND_COMPLETE, CLOSE_COMPLETE, *_EXECUTED, ours=True, firm=True
)
"""One message of it."""
SKIP_SYNC: Final = Owed("SKIP_SYNC", ends_with_ready=True, syncs=True, ours=True)
CUT_SYNC: Final = Owed("CUT_SYNC", ends_with_ready=True, syncs=True, ours=True)
"""The same behind messages of the client's: an error ahead of it is the client's to know."""
SKIP_QUERY: Final = _Asks("SKIP_QUERY", *_QUERIED, ends_with_ready=True, ours=True)
SKIP_TRY: Final = _Tries("SKIP_TRY", *_QUERIED, ends_with_ready=True, ours=True, shows_ready=True)
"""A Query that belongs to the Query or Sync before it: its error does not matter, and its ReadyForQuery is theirs."""


# --- those that remember ----------------------------------------------------------------------------------------------


class Done(Owed):
    """A message of which only success matters: `then` is called."""

    __slots__ = ("_then",)

    def __init__(self, like: Owed, then: Callable[[], None]) -> None:
        self._be(like)
        self._then = then

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        self.like.settle(outcome, holder)
        if outcome is DONE:
            self._then()


class Undone(Owed):
    """A Close of ours of which only failure matters."""

    __slots__ = ("_then",)

    def __init__(self, then: Callable[[], None]) -> None:
        self._be(SKIP_CLOSE)
        self._then = then

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is not DONE:
            self._then()


class Dropped(Owed):
    """A Close of ours; where it was never run, the name may still have to be closed."""

    __slots__ = ("_held", "_name")

    def __init__(self, held: Held, name: bytes) -> None:
        self._be(SKIP_CLOSE)
        self._held = held
        self._name = name

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is DONE:
            self._held.closed(self._name)
        else:
            self._held.left(self._name)


class StandIn(Owed):
    """What the server gets for a message that is answered here, in its turn: the client reads `words` for its answer.

    A refused one (REFUSED…) has a stand-in that fails; CLOSE one of nothing, which is done.
    """

    __slots__ = ()

    def __init__(self, like: Owed, words: bytes) -> None:
        self._be(like)
        self.when_done = self.when_failed = words

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        self.like.settle(outcome, holder)


class NamedParse(Owed):
    """A Parse of a client's statement, under a name of ours or its own; `statement` becomes what others share.

    `kept` is called with it when the server has it, and `replaced` with both when it turns out to be another one.
    """

    __slots__ = ("_kept", "_replaced", "server_name", "statement")

    def __init__(
        self,
        like: Owed,
        statement: Statement,
        server_name: bytes,
        kept: Callable[[Statement], None],
        replaced: Callable[[Statement, Statement], None],
    ) -> None:
        self._be(like)
        self.statement = statement
        self.server_name = server_name
        self._kept = kept
        self._replaced = replaced

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is DONE:
            self._kept(self.statement)
            self._share()

    def described(self, answer: bytes) -> bool:
        """Take what the server says of it; return whether that is what it said before.

        Of a client's own Parse there is no before: from now on it is shared with those of whom the same was said.
        """
        mine = self.statement
        if mine.described is not None:
            return mine.described == answer
        mine.described = answer
        self._share()
        return True

    def _share(self) -> None:
        mine, self.statement = self.statement, self.statement.share()
        if self.statement is not mine:
            self._replaced(mine, self.statement)


class Described(Owed):
    """A Describe, the client's or ours, whose answer is told: all of it if it is to be `exact`.

    Otherwise what of it belongs to a statement's identity. `described` returns whether the statement still gives what
    its clients were told.
    """

    __slots__ = ("_answer", "_described", "_exact", "changed", "parameters")

    collects = True

    def __init__(self, like: Owed, described: Callable[[bytes], bool], *, exact: bool = False) -> None:
        self._be(like)
        self._described = described
        self._exact = exact
        self._answer = b""
        self.changed = False
        self.parameters = b""
        """The body of the ParameterDescription."""

    def collect(self, kind: int, body: bytes) -> None:
        if kind == PARAMETER_DESCRIPTION:
            self.parameters = body
        self._answer += column_types(body) if kind == ROW_DESCRIPTION and not self._exact else body

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is DONE:
            self.changed = not self._described(self._answer)


class Learned(Owed):
    """A SELECT of ours that asks for the settings which shaped the message before it; `context` once it is answered.

    `told` is called with them.
    """

    __slots__ = ("_codec", "_found", "_told", "context")

    def __init__(self, codec: str, told: Callable[[Settings], None] = lambda found: None) -> None:
        self._be(SKIP_EXECUTE)
        self.context: Context = None
        self._codec = codec
        self._told = told
        self._found: list[tuple[str, str]] = []

    def row(self, body: bytes, holder: Holder) -> None:
        name, value = ((part or b"").decode(self._codec, "replace") for part in row_values(body))
        self._found.append((name, value))

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        if outcome is DONE:
            self.context = found = Settings.of(self._found)
            self._told(found)


class Shown(Owed):
    """A SHOW of ours: `told` is called with what it shows, or with "" if it has failed or was ignored."""

    __slots__ = ("_told", "_value")

    def __init__(self, told: Callable[[str], None]) -> None:
        self._be(SKIP_EXECUTE)
        self._told = told
        self._value = ""

    def row(self, body: bytes, holder: Holder) -> None:
        self._value = (row_values(body)[0] or b"").decode("ascii", "replace")

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        self._told(self._value if outcome is DONE else "")


class Run(Owed):
    """A Query or Execute whose statements change names or settings: what its CommandCompletes mean.

    `closes` are the names that its DEALLOCATEs drop, in their order; `dropped` is told of each, and `replanned` of a
    DISCARD PLANS. `resets` are the settings that it resets and that are set again behind it.
    """

    __slots__ = ("_closes", "_done", "_dropped", "_inserts", "_numbers", "_replanned", "_resets", "resets")

    def __init__(
        self,
        like: Owed,
        closes: Iterable[bytes] = (),
        dropped: Callable[[bytes | None], None] = lambda name: None,
        replanned: Callable[[], None] = lambda: None,
        *,
        resets: Set[str] = frozenset(),
    ) -> None:
        self._be(like)
        self._closes = deque(closes)
        self._dropped = dropped
        self._replanned = replanned
        self.resets = self._resets = resets
        self._done = 0
        self._numbers: frozenset[int] = frozenset()
        self._inserts: Sequence[tuple[int, int]] = ()

    def settle(self, outcome: Outcome, holder: Holder) -> None:
        self.like.settle(outcome, holder)

    def hide(self, numbers: Iterable[int], inserts: Sequence[tuple[int, int]]) -> None:
        """Note that these of its statements are ours, and where their text was inserted: (start, length) in characters.

        Statements count from 0, and the first one is the client's.
        """
        self._numbers = frozenset(numbers)
        self._inserts = inserts
        self._note_reset()

    def completed(self, tag: bytes) -> bool:
        ours = self.hidden
        self._done += 1
        self._note_reset()
        self._hide(self._done in self._numbers)
        if tag == b"DEALLOCATE":
            if self._closes:
                self._dropped(self._closes.popleft())
        elif tag in (b"DEALLOCATE ALL", b"DISCARD ALL"):
            self._dropped(None)
        elif tag == b"DISCARD PLANS" and not ours:
            self._replanned()
        return tag == b"DISCARD ALL"

    def _note_reset(self) -> None:
        """Note whether a RESET runs that is undone within the same Query: from 14 on what it does is never reported."""
        if self._numbers:
            self.resets = self._resets if self._done + 1 in self._numbers else frozenset()

    def _hide(self, hidden: bool) -> None:
        self.hidden = hidden
        self.quick = {} if hidden else _PASS_ROWS

    def failed(self, body: bytes) -> bytes:
        """Put its POSITION into the text that the client has sent.

        What is reported behind it comes from the end of the transaction.
        """
        self.resets = frozenset()
        self._hide(False)
        self._numbers = frozenset()
        found = _POSITION.search(body)
        if found is None:
            return body
        position = int(found[1])
        meant = self.in_the_clients_text(position)
        return body if meant == position else body[: found.start(1)] + b"%d" % meant + body[found.end(1) :]

    def in_the_clients_text(self, position: int) -> int:
        """Return which character of the client's own text an error's POSITION means."""
        return position - sum(length for start, length in self._inserts if start + length < position)


_POSITION: Final = re.compile(rb"\0P([0-9]{1,10})\0")

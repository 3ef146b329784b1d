"""The queue of replies owed: which frontend message each backend message answers, and what becomes of it.

Every message sent upstream registers its reply in the same breath. A chunk from the upstream is walked header by
header; rows are never opened. What the client is owed passes on, in the very `bytes` that came in where nothing of the
chunk has to go; replies to what *we* sent are skipped; the error of a refused message's stand-in is replaced by ours.

The end of an answer is never guessed from the tail of a chunk: a row may contain those bytes.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Any, Final, Protocol, cast

from proxy.errors import FEATURE_NOT_SUPPORTED, QUERY_CANCELED, UpstreamFloodError, UpstreamProtocolError
from proxy.ours import PREFIX
from proxy.pooling.guard import GUARDED, PARTS
from proxy.pooling.sent import Groups
from proxy.pooling.statements import Described, Learned, Run, Shown, Ticket
from proxy.pooling.unnamed import Unnamed
from proxy.protocol import BACKEND_LIMITS as LIMITS
from proxy.protocol import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COMMAND_COMPLETE,
    COPY_BOTH_RESPONSE,
    COPY_DATA,
    COPY_DONE,
    COPY_IN_RESPONSE,
    COPY_OUT_RESPONSE,
    DATA_ROW,
    EMPTY_QUERY_RESPONSE,
    ERROR_RESPONSE,
    FAILED,
    FUNCTION_CALL_RESPONSE,
    IDLE,
    IN_TRANSACTION,
    MAX_ROW,
    NO_DATA,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    READY,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
    column_types,
    error_response,
    message,
    read_header,
    row_values,
)

# What is owed, as small integers: a slotted object for each would cost twice the header walk. Those that somebody has
# to hear of have a ticket besides.
QUERY: Final = 0  # everything up to ReadyForQuery
QUERY_RUN: Final = 1  # as QUERY, with the ticket of a Run; a SKIP_TRY behind it ends it
SYNC: Final = 2  # ReadyForQuery; likewise
FUNCTION: Final = 3  # FunctionCallResponse and ReadyForQuery
REFUSED_QUERY: Final = 4  # the stand-in of a refused Query: its error is replaced
REFUSED_CALL: Final = 5  # the same of a FunctionCall
PARSE_UNNAMED: Final = 6
PARSE_NAMED: Final = 7  # a Parse under a name of ours, or the client's own; ticket
REPEAT_UNNAMED: Final = 8  # a Parse that we repeat: ParseComplete is skipped, an error answers the Bind behind it
REPEAT_NAMED: Final = 9  # the same, with a ticket
BIND: Final = 10  # a Bind to the unnamed portal
BIND_NAMED: Final = 11  # to another one
BIND_NOTED: Final = 12  # as BIND, with a ticket
BIND_NAMED_NOTED: Final = 13  # as BIND_NAMED, with a ticket
DESCRIBE: Final = 14
EXECUTE: Final = 15
EXECUTE_RUN: Final = 16  # as EXECUTE, with the ticket of a Run
CLOSE: Final = 17
CLOSE_UNNAMED: Final = 18  # as CLOSE, for the unnamed statement
CLOSE_NAMED: Final = 19  # as CLOSE, with a ticket
REFUSED: Final = 20  # the stand-in of a refused extended message: its error is replaced
REFUSED_UNNAMED: Final = 21  # as REFUSED, for a Parse of the unnamed statement
DESCRIBE_UNNAMED: Final = 22  # as DESCRIBE, with the ticket of a Described
STAND_IN: Final = 23  # a Close of nothing, for a message that is answered here: its CloseComplete is replaced
# From here on what *we* ask, for ourselves: nothing of it reaches the client but the error that ends its group.
SKIP: Final = 24  # one message of a group
SKIP_TICKET: Final = 25  # the same, with a ticket
SKIP_DESCRIBE: Final = 26  # the same, with the ticket of a Described
SKIP_EXECUTE: Final = 27  # the same, with the ticket of a Learned or a Shown
SKIP_SET: Final = 28  # an Execute that sets settings again: what it reports is the client's to know
SKIP_FIRM: Final = 29  # as SKIP_TICKET: if it fails, the Query behind it is ignored, and nobody could answer it
SKIP_ANYHOW: Final = 30  # one message and its Sync, with a ticket: whether it fails does not matter
GUARDING: Final = 31  # the guard, as long as it is answered in one piece
GUARDING_PART: Final = 32  # one message of it; an error ends the upstream
SKIP_SYNC: Final = 33
CUT_SYNC: Final = 34  # the same behind messages of the client's: an error ahead of it is the client's to know
SKIP_QUERY: Final = 35  # a Query
SKIP_TRY: Final = 36  # a Query that belongs to the QUERY_RUN or SYNC before it; its error does not matter

_OURS: Final = SKIP
_ENDS_WITH_READY = frozenset(
    (
        *(QUERY, QUERY_RUN, SYNC, FUNCTION, REFUSED_QUERY, REFUSED_CALL),
        *(SKIP_SYNC, CUT_SYNC, SKIP_QUERY, SKIP_TRY),
    )
)
_REFUSALS = frozenset((REFUSED_QUERY, REFUSED_CALL, REFUSED, REFUSED_UNNAMED))
_FAKED = _REFUSALS | {STAND_IN}
_SYNCS = frozenset((SYNC, SKIP_SYNC, CUT_SYNC))
_TICKETED = frozenset(
    (
        QUERY_RUN,
        PARSE_NAMED,
        REPEAT_NAMED,
        BIND_NOTED,
        BIND_NAMED_NOTED,
        EXECUTE_RUN,
        CLOSE_NAMED,
        DESCRIBE_UNNAMED,
        SKIP_TICKET,
        SKIP_DESCRIBE,
        SKIP_EXECUTE,
        SKIP_FIRM,
        SKIP_ANYHOW,
    )
)
_BINDS = frozenset((BIND, BIND_NOTED))
_DESCRIBES = frozenset((DESCRIBE, DESCRIBE_UNNAMED, SKIP_DESCRIBE))
_REPEATS = frozenset((REPEAT_UNNAMED, REPEAT_NAMED))
_QUERIES = frozenset((QUERY, QUERY_RUN, SKIP_QUERY, SKIP_TRY))
_EXECUTES = frozenset((EXECUTE, EXECUTE_RUN, SKIP, SKIP_EXECUTE, SKIP_SET, SKIP_ANYHOW, GUARDING_PART))

# Which owed reply each of these answers, and whether it completes it. Query and FunctionCall are only completed by
# ReadyForQuery.
_ANSWERS: Final = {
    PARSE_COMPLETE: frozenset(
        (
            *(PARSE_UNNAMED, PARSE_NAMED, REPEAT_UNNAMED, REPEAT_NAMED),
            *(SKIP, SKIP_TICKET, SKIP_FIRM, SKIP_ANYHOW, GUARDING_PART),
        )
    ),
    BIND_COMPLETE: frozenset((BIND, BIND_NAMED, BIND_NOTED, BIND_NAMED_NOTED, SKIP, GUARDING_PART)),
    CLOSE_COMPLETE: frozenset((CLOSE, CLOSE_UNNAMED, CLOSE_NAMED, STAND_IN, SKIP, SKIP_TICKET, GUARDING_PART)),
    NO_DATA: _DESCRIBES,
    ROW_DESCRIPTION: _DESCRIBES | _QUERIES,
    PARAMETER_DESCRIPTION: _DESCRIBES,
    COMMAND_COMPLETE: _QUERIES | _EXECUTES,
    EMPTY_QUERY_RESPONSE: _QUERIES | _EXECUTES,
    PORTAL_SUSPENDED: frozenset((EXECUTE, EXECUTE_RUN)),
    COPY_OUT_RESPONSE: frozenset((EXECUTE, EXECUTE_RUN, QUERY, QUERY_RUN)),
    COPY_DONE: frozenset((EXECUTE, EXECUTE_RUN, QUERY, QUERY_RUN)),
    FUNCTION_CALL_RESPONSE: frozenset((FUNCTION,)),
}
# The replies that complete what is owed and nothing else happens: the general route costs 0.5 µs more for each.
_DIRECT: Final = {
    BIND_COMPLETE: BIND,
    CLOSE_COMPLETE: CLOSE,
    NO_DATA: DESCRIBE,
    ROW_DESCRIPTION: DESCRIBE,
}
_CARRY_ON = frozenset((PARAMETER_DESCRIPTION, COPY_OUT_RESPONSE, COPY_DONE))

# Tags of statements that read, or that only touch the session (SPEC of the filter, P8). SELECT INTO reports SELECT
# too: the tag alone proves nothing, but any other tag proves a hole.
READ_TAGS: Final = frozenset(
    b"SELECT SHOW SET RESET BEGIN START COMMIT ROLLBACK SAVEPOINT RELEASE DECLARE FETCH MOVE CLOSE PREPARE DEALLOCATE "
    b"DISCARD COPY EXPLAIN LOCK UNLISTEN LISTEN EXECUTE".split()
)

MAX_CONTROL_MESSAGE: Final = 8 << 20
"""Longest backend message that is held whole. RowDescription and errors stay far below; rows stream."""
LONG_NOTICE: Final = 65_536
"""Length of a notice that is no longer held whole, but streams, once its first fields are known."""
_NOTICE_HEAD: Final = 5 + 256
"""Bytes of a notice in which its SQLSTATE stands."""
MAX_OWN_ANSWER: Final = 4 << 20
"""Bytes that are kept of one answer to a question of ours: settings, and what Describe says of a statement."""

CANCELED: Final = f"\0C{QUERY_CANCELED}\0".encode()
"""In an ErrorResponse: a statement was cancelled."""


class TripwireError(UpstreamProtocolError):
    """The upstream reported what no judged read can cause: a hole in the filter, or a hostile server."""


class Listener(Protocol):
    """Takes the events that are not plain forwarding. Called while a chunk is walked; must not feed again."""

    unnamed: Unnamed[Any]
    """Is told what becomes of the unnamed statement."""

    def bind_failed(self) -> None:
        """Note that a Bind to the unnamed portal has failed, or was ignored."""

    def parameter_reported(self, body: bytes) -> bytes | None:
        """Note a ParameterStatus; return None to forward it, or what stands in its place (b"" for nothing)."""

    def in_its_words(self, body: bytes) -> bytes:
        """Return the body of an ErrorResponse as the client may see it: it names a statement by a name of ours, or says
        that one was cancelled."""

    def skipped_row(self, body: bytes) -> None:
        """Note a DataRow of a Query of ours."""

    def skipped_error(self, body: bytes) -> bool:
        """Note an ErrorResponse to a Query of ours; return whether what follows it still counts."""

    def notification_arrived(self, body: bytes) -> bool:
        """Return whether a NotificationResponse goes to the client."""


class Replies:
    """Match backend messages with what is owed, for one upstream. Hold the framing of the upstream's bytes.

    `status` is the transaction status of the last ReadyForQuery, and nothing else sets it. `ready` collects
    `1 << code` of the owed replies that ReadyForQuery completed since the owner last reset it to 0. `copying` says
    that a COPY OUT is under way.
    """

    __slots__ = (
        "_discarded",
        "_fakes",
        "_have",
        "_hiding",
        "_kept",
        "_need",
        "_parts",
        "_passing",
        "_restored",
        "_tickets",
        "copying",
        "fatal",
        "groups",
        "halted",
        "listener",
        "observed",
        "owed",
        "ready",
        "skipping",
        "status",
    )

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        """Whoever holds the upstream now: changes at lease and release."""
        self.groups = Groups()
        """Counts what is owed for the listener, and changes with it."""
        self.owed: deque[int] = deque()
        self._fakes: deque[bytes] = deque()
        self._tickets: deque[Ticket] = deque()
        self.status = IDLE
        self.ready = 0
        self.skipping = False
        """An error in an extended message came: the server skips everything up to the Sync that is yet to be sent."""
        self.copying = False
        self.observed = False
        """filter.mode observe has let a refused text through here: the tag of a write is no surprise."""
        self.halted: bytes | None = None
        """The body of the ErrorResponse after which nothing that comes counts: the upstream is not to be used again."""
        self.fatal = False
        """Whether the server itself has ended the session by it."""
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._kept = 0  # bytes of the answer to a question of ours
        self._passing = 0
        self._hiding = False  # what runs is a statement of ours inside a Query of the client's
        self._discarded = False  # a DISCARD ALL of this group has committed
        self._restored = False  # and behind it the client's settings were set again, which an error undoes

    def __repr__(self) -> str:
        return f"<Replies {chr(self.status)} owed={list(self.owed)} skipping={self.skipping}>"

    def owe(self, code: int, ticket: Ticket | None = None) -> None:
        """Register the reply to a message that goes out now. While the server skips, it answers nothing but Sync."""
        if self.skipping:
            if code not in _SYNCS:
                if ticket is not None:
                    ticket.settle(None)
                return
            self.skipping = False
        self.owed.append(code)
        if code <= REFUSED_CALL or code >= SKIP_SYNC:
            self.groups.sent += 1
        if ticket is not None:
            self._tickets.append(ticket)

    def owe_refusal(self, fake: bytes, code: int = REFUSED) -> None:
        """Register a stand-in whose error, or CloseComplete, is replaced by what `fake` holds."""
        if not self.skipping:
            self.owed.append(code)
            self._fakes.append(fake)
            if code <= REFUSED_CALL:
                self.groups.sent += 1

    def abandon(self, error: bytes, status: int, *, group_open: bool) -> bytes:
        """Answer everything that is owed: each group with this ErrorResponse and its ReadyForQuery.

        `group_open`: messages of a group were sent, but not yet its Sync.
        """
        out: list[bytes] = []
        begun = False
        last = -1
        for code in self.owed:
            if code <= REFUSED_CALL or (code == SKIP_TRY and last not in (QUERY_RUN, SYNC)):
                if begun or code != SYNC or not out:  # a Sync alone cannot fail
                    out.append(error)
                out.append(READY[status])
            begun = code < _OURS and code not in _ENDS_WITH_READY
            last = code
        if group_open and not self.skipping:
            out.append(error)
        self.forget()
        return b"".join(out)

    def forget(self) -> None:
        """Note that nothing of what is owed will ever come."""
        while self.owed:
            self._settle(self.owed.popleft(), ran=False)

    @property
    def awaited(self) -> bool:
        """Whether anything is owed to the client, and not to us alone."""
        return any(code < _OURS or code == SKIP_TRY for code in self.owed)

    @property
    def ours(self) -> bool:
        """Whether anything is owed that we have asked ourselves: a cancel can leave it half done."""
        return any(code >= _OURS for code in self.owed)

    @property
    def helping(self) -> bool:
        """Whether what runs is a statement of ours inside a group of the client's."""
        return bool(self.owed) and self.owed[0] == SKIP

    @property
    def resetting(self) -> bool:
        """Whether what is reported may be settings that are set again right behind it, or before the next statement."""
        if self._discarded and not self._restored:
            return True
        head = self.owed[0] if self.owed else -1
        if head not in (QUERY_RUN, EXECUTE_RUN):
            return False
        ticket = self._tickets[0]
        return isinstance(ticket, Run) and ticket.resets

    @property
    def whole(self) -> bool:
        """Whether what was passed on ends between two messages: what has come of a control message is held back."""
        return not self._passing

    def feed(self, chunk: bytes) -> bytes:
        """Walk one chunk; return what the client gets of it, often the same object.

        Raises UpstreamProtocolError for a message that nothing owed allows, TripwireError for one that no read causes.
        """
        if self.halted is not None:
            return b""
        size = len(chunk)
        pos = 0
        if self._passing:
            if size <= self._passing:
                self._passing -= size
                return chunk
            pos = self._passing
            self._passing = 0
        elif self._parts:
            self._parts.append(chunk)
            self._have += size
            if self._have < self._need:
                return b""
            chunk = b"".join(self._parts)
            size = self._have
            self._parts.clear()
        owed = self.owed
        start = 0
        pieces: list[bytes] = []
        skip = bool(owed) and (owed[0] >= _OURS or self._hiding)
        need = 5
        while size - pos >= 5:
            kind, length = read_header(chunk, pos)
            end = pos + 1 + length
            # Rows first: a header walk of about 0.1 µs is all that a row costs here.
            if not skip and kind in (DATA_ROW, COPY_DATA):
                if length < 4 or not owed:
                    raise UpstreamProtocolError("row out of place")
                if end > size:
                    if length > MAX_ROW:  # a negative one, too; it never ends in its chunk
                        raise UpstreamProtocolError("invalid length of a row")
                    self._passing = end - size
                    pos = size
                    break
                pos = end
                continue
            if length < 4 or length > LIMITS.get(kind, MAX_CONTROL_MESSAGE):
                raise UpstreamProtocolError(f"invalid length {length} of backend message {kind}")
            if end > size:
                need = end - pos
                if kind == NOTICE_RESPONSE and length > LONG_NOTICE and owed and not skip:
                    if size - pos < _NOTICE_HEAD:
                        need = _NOTICE_HEAD
                    elif not _LAST_WORDS.search(chunk, pos + 5, pos + _NOTICE_HEAD):
                        self._passing = end - size
                        pos = size
                break
            if owed and _DIRECT.get(kind) == owed[0]:
                owed.popleft()
                skip = bool(owed) and owed[0] >= _OURS
                pos = end
                continue
            if kind == READY_FOR_QUERY:
                if not owed or owed[0] not in _ENDS_WITH_READY or length != 5:
                    raise UpstreamProtocolError("ReadyForQuery out of place")
                status = chunk[pos + 5]
                if status not in (IDLE, IN_TRANSACTION, FAILED):
                    raise UpstreamProtocolError("unknown transaction status")
                self.status = status
                self.copying = False
                replacement = self._ended(owed.popleft())
                skip = bool(owed) and owed[0] >= _OURS
            elif (
                kind == COMMAND_COMPLETE
                and owed
                and (owed[0] == QUERY or owed[0] == EXECUTE)
                and chunk.startswith(b"SELECT ", pos + 5)
                and chunk.find(0, pos + 5, end) == end - 1
            ):
                # The commonest tag, without the general route below.
                if owed[0] == EXECUTE:
                    owed.popleft()
                replacement = None
            elif skip and owed and owed[0] == GUARDING and chunk.startswith(GUARDED, pos):
                end = pos + len(GUARDED)
                replacement = b""
                owed.popleft()
                skip = bool(owed) and owed[0] >= _OURS
            else:
                replacement = self._control(kind, chunk, pos + 5, end)
                if self.halted is not None:
                    return b"".join((*pieces, chunk[start:pos], replacement or b""))
                # An error may have uncovered what follows it in the queue.
                skip = bool(owed) and (owed[0] >= _OURS or self._hiding)
            if replacement is not None:
                if pos > start:
                    pieces.append(chunk[start:pos])
                if replacement:
                    pieces.append(replacement)
                start = end
            pos = end
        if pos < size:
            self._parts.append(chunk[pos:])
            self._have = size - pos
            self._need = need
        if not pieces:
            return chunk if not start and pos == size else chunk[start:pos]
        if pos > start:
            pieces.append(chunk[start:pos])
        return b"".join(pieces)

    def _ended(self, head: int) -> bytes | None:
        """Settle what ReadyForQuery has completed; return what stands in its place."""
        self.groups.answered += 1
        self._discarded = self._restored = False
        owed = self.owed
        if head <= QUERY_RUN or head == REFUSED_QUERY:
            self.listener.unnamed.ended()
            if head == QUERY_RUN:
                self._tickets.popleft().settle(True)
                if owed and owed[0] == SKIP_TRY:
                    return b""  # the client gets the one that follows
        if head in (REFUSED_QUERY, REFUSED_CALL):
            self._fakes.popleft()
        self.ready |= 1 << head
        self._kept = 0
        if head == SYNC and self.observed and owed and owed[0] == SKIP_TRY:
            return b""  # the same: a transaction of ours ends behind it
        return b"" if _OURS <= head < SKIP_TRY else None

    def _control(self, kind: int, chunk: bytes, start: int, end: int) -> bytes | None:
        """Handle one whole message; return None to forward it, or what stands in its place (b"" for nothing)."""
        owed = self.owed
        head = owed[0] if owed else -1
        if head == GUARDING:
            owed.popleft()
            owed.extendleft((GUARDING_PART,) * PARTS)
            head = GUARDING_PART
        if kind == ERROR_RESPONSE:
            return self._error(chunk[start:end])
        if kind == NOTICE_RESPONSE:
            if _LAST_WORDS.search(chunk, start, min(end, start - 5 + _NOTICE_HEAD)):
                self.halted, self.fatal = chunk[start:end], True
                return b""
            return b"" if head >= _OURS else None
        if kind == PARAMETER_STATUS:
            return self.listener.parameter_reported(chunk[start:end])
        if kind == NOTIFICATION_RESPONSE:
            return None if self.listener.notification_arrived(chunk[start:end]) else b""
        if kind in (COPY_IN_RESPONSE, COPY_BOTH_RESPONSE):
            raise TripwireError("the upstream began a COPY FROM or a replication stream")
        hidden = self._hiding
        if kind == DATA_ROW and (head >= _OURS or hidden):
            self._own_row(head, chunk[start:end])
            return b""
        answers = _ANSWERS.get(kind)
        if answers is None or head not in answers:
            raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place")
        if kind == COMMAND_COMPLETE:
            if chunk.find(0, start, end) != end - 1:
                raise UpstreamProtocolError("malformed CommandComplete")
            tag = chunk[start : end - 1]
            if tag.split(b" ", 1)[0] not in READ_TAGS and not self.observed:
                raise TripwireError("the upstream completed a command that is not a read")
            if head in (QUERY_RUN, EXECUTE_RUN):
                run = cast(Run, self._tickets[0])
                run.completed(tag)
                self._hiding = run.hides
                self._discarded = self._discarded or tag == b"DISCARD ALL"
        elif head in (SKIP_DESCRIBE, DESCRIBE_UNNAMED):
            self._keep(end - start)
            ticket = cast(Described, self._tickets[0])
            ticket.add(chunk[start:end] if ticket.exact else _described(kind, chunk[start:end]))
        elif kind == COPY_OUT_RESPONSE:
            self.copying = True
        elif kind == COPY_DONE:
            self.copying = False
        if head in _ENDS_WITH_READY or kind in _CARRY_ON:
            return b"" if head >= _OURS or hidden else None
        owed.popleft()
        return self._complete(head)

    def _complete(self, head: int) -> bytes | None:
        """Settle what a message of a group has completed."""
        unnamed = self.listener.unnamed
        if head in _TICKETED:
            self._kept = 0
            ticket = self._tickets.popleft()
            ticket.settle(True)
            if isinstance(ticket, Described) and not ticket.matches():
                self.halted = _CHANGED
                if self.owed and self.owed[0] in (DESCRIBE, DESCRIBE_UNNAMED):
                    # Parameters come first, and do not change (exec_describe_statement_message(), tcop/postgres.c).
                    return message(PARAMETER_DESCRIPTION, ticket.parameters)
        elif head == REPEAT_UNNAMED:
            unnamed.repeated(True)
        elif head == PARSE_UNNAMED:
            unnamed.parsed(True)
        elif head == CLOSE_UNNAMED:
            unnamed.ended()
        elif head == STAND_IN:
            return self._fakes.popleft()
        elif head == SKIP_SET:
            self._restored = True
        return b"" if head >= _OURS or head in _REPEATS else None

    def _keep(self, size: int) -> None:
        self._kept += size + 5
        if self._kept > MAX_OWN_ANSWER:
            raise UpstreamFloodError("the upstream answers a question of ours without end")

    def _own_row(self, head: int, body: bytes) -> None:
        self._keep(len(body))
        if head == SKIP_EXECUTE:
            cast(Learned | Shown, self._tickets[0]).add(row_values(body))
        elif head >= SKIP_QUERY:
            self.listener.skipped_row(body)

    def _error(self, body: bytes) -> bytes | None:
        owed = self.owed
        head = owed[0] if owed else -1
        self.copying = False
        if b"\0VFATAL\0" in body or b"\0VPANIC\0" in body:
            self.halted, self.fatal = body, True
            return b""
        if head == SKIP_TRY:
            return b""
        if head in (GUARDING_PART, SKIP_FIRM):
            self.halted = body  # the server ignores what is behind it, and what comes behind that is not to be run
            return b""
        if head in (SKIP_QUERY, SKIP_SYNC, CUT_SYNC):
            if not self.listener.skipped_error(body):
                self.halted = body
            return b""
        self._restored = False
        replacement: bytes | None = None
        if head == QUERY_RUN:
            run = cast(Run, self._tickets[0])
            run.failed()
            self._hiding = False
            moved = _moved(body, run)
            replacement = None if moved is body else message(ERROR_RESPONSE, moved)
        if head in (REFUSED_QUERY, REFUSED_CALL):
            return self._fakes[0]
        if head not in _ENDS_WITH_READY and owed:
            owed.popleft()
            replacement = self._settle(head, ran=True)
            # The server ignores everything up to the next Sync, a Query included (postgres.c, ignore_till_sync).
            while owed and owed[0] not in _SYNCS:
                self._settle(owed.popleft(), ran=False)
            self.skipping = not owed
            if owed and owed[0] == SKIP_SYNC and head >= _OURS and head != SKIP_ANYHOW:
                self.halted = body  # of a group that is all ours: nobody knows any more what the upstream holds
                return b""
        if replacement is None and (PREFIX in body or CANCELED in body):
            replacement = message(ERROR_RESPONSE, self.listener.in_its_words(body))
        return replacement

    def _settle(self, code: int, *, ran: bool) -> bytes | None:
        """Tell of a message that failed, or that the server ignored; return what stands for its error, if anything."""
        if code in _ENDS_WITH_READY:
            self.groups.answered += 1
        if code in _BINDS:
            self.listener.bind_failed()
        if code in _TICKETED:
            self._tickets.popleft().settle(False if ran else None)
        elif code in (PARSE_UNNAMED, REFUSED_UNNAMED):
            self.listener.unnamed.parsed(False if ran else None)
        elif code == REPEAT_UNNAMED:
            self.listener.unnamed.repeated(False if ran else None)
        if code == SKIP_ANYHOW:
            return b""
        return self._fakes.popleft() if code in _FAKED else None


def _moved(body: bytes, run: Run) -> bytes:
    """Return the body of an ErrorResponse whose POSITION points into the text that the client has sent."""
    found = _POSITION.search(body)
    if found is None:
        return body
    position = int(found[1])
    meant = run.in_the_clients_text(position)
    return body if meant == position else body[: found.start(1)] + b"%d" % meant + body[found.end(1) :]


_POSITION: Final = re.compile(rb"\0P([0-9]{1,10})\0")


def _described(kind: int, body: bytes) -> bytes:
    """Return what of an answer to Describe belongs to a statement's identity."""
    return column_types(body) if kind == ROW_DESCRIPTION else body


_LAST_WORDS: Final = re.compile(rb"\0C57P0[12]\0")
"""In a NoticeResponse: an immediate shutdown, or a crash elsewhere, ends the session without an ErrorResponse.

See `quickdie()` in tcop/postgres.c. The socket ends right behind it. The SQLSTATE is among the first fields
(`send_message_to_frontend()`, utils/error/elog.c).
"""

_CHANGED: Final = error_response("ERROR", FEATURE_NOT_SUPPORTED, "cached plan must not change result type")[5:]

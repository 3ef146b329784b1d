"""The queue of replies owed: which frontend message each backend message answers, and what becomes of it.

Every message sent upstream registers its reply in the same breath. A chunk from the upstream is walked header by
header; rows are never opened. What the client is owed passes on, in the very `bytes` that came in where nothing of the
chunk has to go; replies to what *we* sent are skipped; the error of a refused message's stand-in is replaced by ours.

The end of an answer is never guessed from the tail of a chunk: a row may contain those bytes.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from proxy.errors import UpstreamProtocolError
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
    NO_DATA,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    PARSE_COMPLETE,
    PORTAL_SUSPENDED,
    READY_FOR_QUERY,
    ROW_DESCRIPTION,
    read_header,
)
from proxy.unnamed import Unnamed

# What is owed, as small integers: a slotted object for each would cost twice the header walk.
QUERY: Final = 0  # everything up to ReadyForQuery
SYNC: Final = 1  # ReadyForQuery
FUNCTION: Final = 2  # FunctionCallResponse and ReadyForQuery
SKIP_QUERY: Final = 3  # as QUERY, for a Query of ours: nothing of it reaches the client
PARSE: Final = 4
PARSE_UNNAMED: Final = 5
SKIP_PARSE: Final = 6  # a Parse that we repeat: its ParseComplete is skipped, its error answers the client's Bind
BIND: Final = 7
DESCRIBE: Final = 8
EXECUTE: Final = 9
CLOSE: Final = 10
REFUSED: Final = 11  # the stand-in of a refused message: its error is replaced
REFUSED_UNNAMED: Final = 12  # as REFUSED, for a Parse of the unnamed statement
CLOSE_UNNAMED: Final = 13  # as CLOSE, for the unnamed statement

_ENDS_WITH_READY = frozenset((QUERY, SYNC, FUNCTION, SKIP_QUERY))

# Which owed reply each of these answers, and whether it completes it. Query and FunctionCall are only completed by
# ReadyForQuery.
_ANSWERS: Final = {
    PARSE_COMPLETE: frozenset((PARSE, PARSE_UNNAMED, SKIP_PARSE)),
    BIND_COMPLETE: frozenset((BIND,)),
    CLOSE_COMPLETE: frozenset((CLOSE, CLOSE_UNNAMED)),
    NO_DATA: frozenset((DESCRIBE,)),
    ROW_DESCRIPTION: frozenset((DESCRIBE, QUERY, SKIP_QUERY)),
    PARAMETER_DESCRIPTION: frozenset((DESCRIBE,)),
    COMMAND_COMPLETE: frozenset((EXECUTE, QUERY, SKIP_QUERY)),
    EMPTY_QUERY_RESPONSE: frozenset((EXECUTE, QUERY, SKIP_QUERY)),
    PORTAL_SUSPENDED: frozenset((EXECUTE,)),
    COPY_OUT_RESPONSE: frozenset((EXECUTE, QUERY)),
    COPY_DONE: frozenset((EXECUTE, QUERY)),
    FUNCTION_CALL_RESPONSE: frozenset((FUNCTION,)),
}
# The replies that complete what is owed and nothing else happens: the general route costs 0.5 µs more for each.
_DIRECT: Final = {
    BIND_COMPLETE: BIND,
    PARSE_COMPLETE: PARSE,
    CLOSE_COMPLETE: CLOSE,
    NO_DATA: DESCRIBE,
    ROW_DESCRIPTION: DESCRIBE,
}
_CARRY_ON = frozenset((PARAMETER_DESCRIPTION, COPY_OUT_RESPONSE, COPY_DONE))

# Tags of statements that read, or that only touch the session (SPEC of the filter, P8). SELECT INTO reports SELECT
# too: the tag alone proves nothing, but any other tag proves a hole.
READ_TAGS: Final = frozenset(
    b"SELECT SHOW SET RESET BEGIN START COMMIT ROLLBACK SAVEPOINT RELEASE DECLARE FETCH MOVE CLOSE PREPARE DEALLOCATE "
    b"DISCARD COPY EXPLAIN LOCK UNLISTEN LISTEN".split()
)

MAX_CONTROL_MESSAGE: Final = 64 << 20
"""Longest backend message that is held whole. RowDescription, errors and notices stay far below; rows stream."""


class TripwireError(UpstreamProtocolError):
    """The upstream reported what no judged read can cause: a hole in the filter, or a hostile server."""


class Listener(Protocol):
    """Takes the events that are not plain forwarding. Called while a chunk is walked; must not feed again."""

    unnamed: Unnamed
    """Is told what becomes of the unnamed statement."""

    def parameter_reported(self, body: bytes) -> bytes | None:
        """Note a ParameterStatus; return None to forward it, or what stands in its place (b"" for nothing)."""

    def error_reported(self, body: bytes) -> None:
        """Note an ErrorResponse that goes to the client."""

    def skipped_row(self, body: bytes) -> None:
        """Note a DataRow of a Query of ours."""

    def skipped_error(self, body: bytes) -> None:
        """Note an ErrorResponse to a Query of ours. May raise UpstreamProtocolError to end the upstream."""

    def notification_arrived(self, body: bytes) -> bool:
        """Return whether a NotificationResponse goes to the client."""


class Replies:
    """Match backend messages with what is owed, for one upstream. Hold the framing of the upstream's bytes.

    `status` is the transaction status of the last ReadyForQuery, and nothing else sets it. `ready` collects
    `1 << code` of the owed replies that ReadyForQuery completed since the owner last reset it to 0. `copying` says
    that a COPY OUT is under way.
    """

    __slots__ = (
        "_fakes",
        "_have",
        "_need",
        "_parts",
        "_passing",
        "copying",
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
        self.owed: deque[int] = deque()
        self._fakes: deque[bytes] = deque()
        self.status = IDLE
        self.ready = 0
        self.skipping = False
        """An error in an extended message came: the server skips everything up to the Sync that is yet to be sent."""
        self.copying = False
        self.observed = False
        """filter.mode observe has let a refused text through here: the tag of a write is no surprise."""
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._passing = 0

    def __repr__(self) -> str:
        return f"<Replies {chr(self.status)} owed={list(self.owed)} skipping={self.skipping}>"

    def owe(self, code: int) -> None:
        """Register the reply to a message that goes out now. While the server skips, it answers nothing but Sync."""
        if self.skipping:
            if code != SYNC:
                return
            self.skipping = False
        self.owed.append(code)

    def owe_refusal(self, fake: bytes, code: int = REFUSED) -> None:
        """Register a stand-in whose error is replaced by the ErrorResponse `fake`."""
        if not self.skipping:
            self.owed.append(code)
            self._fakes.append(fake)

    @property
    def whole(self) -> bool:
        """Whether the upstream's bytes end between two messages."""
        return not self._passing and not self._parts

    def feed(self, chunk: bytes) -> bytes:
        """Walk one chunk; return what the client gets of it, often the same object.

        Raises UpstreamProtocolError for a message that nothing owed allows, TripwireError for one that no read causes.
        """
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
        skip = bool(owed) and owed[0] == SKIP_QUERY
        need = 5
        while size - pos >= 5:
            kind, length = read_header(chunk, pos)
            end = pos + 1 + length
            # Rows first: a header walk of about 0.1 µs is all that a row costs here.
            if not skip and kind in (DATA_ROW, COPY_DATA):
                if length < 4 or not owed:
                    raise UpstreamProtocolError("row out of place")
                if end > size:
                    self._passing = end - size
                    pos = size
                    break
                pos = end
                continue
            if length < 4 or length > MAX_CONTROL_MESSAGE:
                raise UpstreamProtocolError(f"invalid length {length} of backend message {kind}")
            if end > size:
                need = end - pos
                break
            if owed and _DIRECT.get(kind) == owed[0]:
                owed.popleft()
                skip = bool(owed) and owed[0] == SKIP_QUERY
                pos = end
                continue
            if kind == READY_FOR_QUERY:
                if not owed or owed[0] not in _ENDS_WITH_READY or length != 5:
                    raise UpstreamProtocolError("ReadyForQuery out of place")
                status = chunk[pos + 5]
                if status not in (IDLE, IN_TRANSACTION, FAILED):
                    raise UpstreamProtocolError("unknown transaction status")
                self.status = status
                head = owed.popleft()
                self.ready |= 1 << head
                if head == QUERY:
                    self.listener.unnamed.ended()
                self.copying = False
                replacement: bytes | None = b"" if skip else None
                skip = bool(owed) and owed[0] == SKIP_QUERY
            elif kind == COMMAND_COMPLETE and owed and not skip and chunk.startswith(b"SELECT ", pos + 5):
                # The commonest tag, without the general route below.
                if owed[0] == EXECUTE:
                    owed.popleft()
                elif owed[0] != QUERY:
                    raise UpstreamProtocolError("CommandComplete out of place")
                replacement = None
            else:
                replacement = self._control(kind, chunk, pos + 5, end)
                # An error may have uncovered what follows it in the queue.
                skip = bool(owed) and owed[0] == SKIP_QUERY
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

    def _control(self, kind: int, chunk: bytes, start: int, end: int) -> bytes | None:
        """Handle one whole message; return None to forward it, or what stands in its place (b"" for nothing)."""
        owed = self.owed
        head = owed[0] if owed else -1
        if kind == ERROR_RESPONSE:
            return self._error(chunk[start:end])
        if kind == NOTICE_RESPONSE:
            return b"" if head == SKIP_QUERY else None
        if kind == PARAMETER_STATUS:
            return self.listener.parameter_reported(chunk[start:end])
        if kind == NOTIFICATION_RESPONSE:
            return None if self.listener.notification_arrived(chunk[start:end]) else b""
        if kind in (COPY_IN_RESPONSE, COPY_BOTH_RESPONSE):
            raise TripwireError("the upstream began a COPY FROM or a replication stream")
        if kind == DATA_ROW and head == SKIP_QUERY:
            self.listener.skipped_row(chunk[start:end])
            return b""
        answers = _ANSWERS.get(kind)
        if answers is None or head not in answers:
            raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place")
        if kind == COMMAND_COMPLETE and chunk[start : end - 1].split(b" ", 1)[0] not in READ_TAGS and not self.observed:
            raise TripwireError("the upstream completed a command that is not a read")
        if head == SKIP_QUERY:
            return b""
        if kind == COPY_OUT_RESPONSE:
            self.copying = True
        elif kind == COPY_DONE:
            self.copying = False
        if head >= PARSE and kind not in _CARRY_ON:
            owed.popleft()
            if head == SKIP_PARSE:
                self.listener.unnamed.repeated(True)
                return b""
            if head == PARSE_UNNAMED:
                self.listener.unnamed.parsed(True)
            elif head == CLOSE_UNNAMED:
                self.listener.unnamed.ended()
        return None

    def _error(self, body: bytes) -> bytes | None:
        owed = self.owed
        head = owed[0] if owed else -1
        self.copying = False
        if head == SKIP_QUERY:
            self.listener.skipped_error(body)
            return b""
        fake: bytes | None = None
        if head > SKIP_QUERY:
            owed.popleft()
            fake = self._settle(head, ran=True)
            # The server ignores everything up to the next Sync, a Query included (postgres.c, ignore_till_sync).
            while owed and owed[0] != SYNC:
                self._settle(owed.popleft(), ran=False)
            self.skipping = not owed
        self.listener.error_reported(body if fake is None else fake)
        return fake

    def _settle(self, code: int, *, ran: bool) -> bytes | None:
        """Tell the listener of a message that failed, or that the server ignored; return its fake, if it has one."""
        if code in (PARSE_UNNAMED, REFUSED_UNNAMED):
            self.listener.unnamed.parsed(False if ran else None)
        elif code == SKIP_PARSE:
            self.listener.unnamed.repeated(False if ran else None)
        return self._fakes.popleft() if code in (REFUSED, REFUSED_UNNAMED) else None

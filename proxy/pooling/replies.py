"""The queue of replies owed: which frontend message each backend message answers, and who gets that.

Every message sent upstream registers its reply in the same breath. A chunk from the upstream is walked header by
header; rows are never opened. What the client is owed passes on, in the very `bytes` that came in where nothing of the
chunk has to go; replies to what *we* sent are skipped; the error of a refused message's stand-in is replaced by ours.

The end of an answer is never guessed from the tail of a chunk: a row may contain those bytes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from proxy.errors import FEATURE_NOT_SUPPORTED, QUERY_CANCELED, UpstreamFloodError, UpstreamProtocolError
from proxy.ours import PREFIX
from proxy.pooling.guard import GUARDED, PARTS
from proxy.pooling.owed import (
    CUT_SYNC,
    DESCRIBE,
    DONE,
    EXECUTE,
    GUARDING,
    GUARDING_PART,
    IGNORED,
    NOTHING,
    PASSES,
    SKIP,
    SKIP_QUERY,
    SKIP_SET,
    SKIP_SYNC,
    SKIP_TRY,
    SYNC,
    Described,
    Holder,
    Outcome,
    Owed,
)
from proxy.pooling.sent import Groups
from proxy.protocol import BACKEND_LIMITS as LIMITS
from proxy.protocol import (
    COMMAND_COMPLETE,
    COPY_BOTH_RESPONSE,
    COPY_DATA,
    COPY_DONE,
    COPY_IN_RESPONSE,
    COPY_OUT_RESPONSE,
    DATA_ROW,
    ERROR_RESPONSE,
    IDLE,
    MAX_ROW,
    NOTICE_RESPONSE,
    NOTIFICATION_RESPONSE,
    PARAMETER_DESCRIPTION,
    PARAMETER_STATUS,
    READY,
    READY_FOR_QUERY,
    error_response,
    message,
    read_header,
)

_ROWS: Final = frozenset((DATA_ROW, COPY_DATA))
_CARRY_ON: Final = frozenset((PARAMETER_DESCRIPTION, COPY_OUT_RESPONSE, COPY_DONE))
"""What is not the last word of an answer, nor its ReadyForQuery."""

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


class Listener(Holder, Protocol):
    """Takes the events that are not plain forwarding. Called while a chunk is walked; must not feed again."""

    def parameter_reported(self, body: bytes) -> bytes | None:
        """Note a ParameterStatus; return None to forward it, or what stands in its place (b"" for nothing)."""

    def in_its_words(self, body: bytes) -> bytes:
        """Return the body of an ErrorResponse as the client may see it: it names a statement by a name of ours, or says
        that one was cancelled."""

    def skipped_error(self, body: bytes) -> bool:
        """Note an ErrorResponse to a Query of ours; return whether what follows it still counts."""

    def notification_arrived(self, body: bytes) -> bool:
        """Return whether a NotificationResponse goes to the client."""


class Replies:
    """Match backend messages with what is owed, for one upstream. Hold the framing of the upstream's bytes.

    `status` is the transaction status of the last ReadyForQuery, and nothing else sets it. `ready` says that there was
    one since the owner last asked to `forget_ready`, `told` that the client got one, `asked` that one was of a Query of
    ours. `copying` says that a COPY OUT is under way.
    """

    __slots__ = (
        "_discarded",
        "_have",
        "_kept",
        "_need",
        "_parts",
        "_passing",
        "_restored",
        "asked",
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
        "told",
    )

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        """Whoever holds the upstream now: changes at lease and release."""
        self.groups = Groups()
        """Counts what is owed for the listener, and changes with it."""
        self.owed: deque[Owed] = deque()
        self.status = IDLE
        self.ready = self.told = self.asked = False
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
        self._discarded = False  # a DISCARD ALL of this group has committed
        self._restored = False  # and behind it the client's settings were set again, which an error undoes

    def __repr__(self) -> str:
        return f"<Replies {chr(self.status)} owed={list(self.owed)} skipping={self.skipping}>"

    # --- owed -----------------------------------------------------------------------------------------------------

    def owe(self, reply: Owed) -> None:
        """Register the reply to a message that goes out now. While the server skips, it answers nothing but Sync."""
        if self.skipping:
            if not reply.syncs:
                reply.settle(IGNORED, self.listener)
                return
            self.skipping = False
        self.owed.append(reply)
        if reply.ends_with_ready:
            self.groups.sent += 1

    def abandon(self, error: bytes, status: int, *, group_open: bool) -> bytes:
        """Answer everything that is owed: each group with this ErrorResponse and its ReadyForQuery.

        `group_open`: messages of a group were sent, but not yet its Sync.
        """
        out: list[bytes] = []
        begun = False
        for number, reply in enumerate(self.owed):
            # What a Query of ours belongs to was answered with it, unless that has gone already.
            if reply.shows_ready and (reply is not SKIP_TRY or not number):
                if begun or reply is not SYNC or not out:  # a Sync alone cannot fail
                    out.append(error)
                out.append(READY[status])
            begun = not (reply.ours or reply.ends_with_ready)
        if group_open and not self.skipping:
            out.append(error)
        self.forget()
        return b"".join(out)

    def forget(self) -> None:
        """Note that nothing of what is owed will ever come."""
        while self.owed:
            self._ignore()

    def forget_ready(self) -> None:
        """Note that the owner has acted on every ReadyForQuery that has come."""
        self.ready = self.told = self.asked = False

    @property
    def awaited(self) -> bool:
        """Whether anything is owed to the client, and not to us alone."""
        return any(reply.shows_ready or not reply.ours for reply in self.owed)

    @property
    def ours(self) -> bool:
        """Whether anything is owed that we have asked ourselves: a cancel can leave it half done."""
        return any(reply.ours for reply in self.owed)

    @property
    def helping(self) -> bool:
        """Whether what runs is a statement of ours inside a group of the client's."""
        return bool(self.owed) and self.owed[0] is SKIP

    @property
    def cutting(self) -> bool:
        """Whether what comes now is of the end of a group that the client has not ended."""
        return bool(self.owed) and self.owed[0] is CUT_SYNC

    @property
    def resetting(self) -> bool:
        """Whether what is reported may be settings that are set again right behind it, or before the next statement."""
        return self._awaits_restoring or (bool(self.owed) and bool(self.owed[0].resets))

    def resets(self, name: str) -> bool:
        """Whether this setting may be one of them."""
        return self._awaits_restoring or (bool(self.owed) and name in self.owed[0].resets)

    @property
    def _awaits_restoring(self) -> bool:
        return self._discarded and not self._restored

    # --- answered -------------------------------------------------------------------------------------------------

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
        if not self._passing:
            return self._walk(self._joined(chunk) if self._parts else chunk, 0)
        passing, size = self._passing, len(chunk)
        self._passing = max(0, passing - size)
        return chunk if size <= passing else self._walk(chunk, passing)

    def _walk(self, chunk: bytes, pos: int) -> bytes:
        """Walk a chunk header by header from `pos`, where a message begins; return what the client gets of all of it.

        Of a row its header is read, and one name looked up: about 0.1 µs.
        """
        size = len(chunk)
        owed = self.owed
        head = owed[0] if owed else NOTHING
        start = 0
        pieces: list[bytes] = []
        while size - pos >= 5:
            kind, length = read_header(chunk, pos)
            if not 4 <= length < size - pos:
                break
            end = pos + 1 + length
            longest = head.quick.get(kind, 0)
            if longest == PASSES:
                pos = end
                continue
            replacement: bytes | None = None
            if length <= longest:
                owed.popleft()
                if head.remembers:
                    head.settle(DONE, self.listener)
            elif head is GUARDING:
                replacement, end = self._guarded(kind, chunk, pos, end)
            else:
                replacement = _STEPS.get(kind, Replies._control)(self, head, kind, chunk, pos + 5, end)
            if replacement is not None:
                pieces += (chunk[start:pos], replacement)
                start = end
                if self.halted is not None:
                    return b"".join(pieces)
            head = owed[0] if owed else NOTHING
            pos = end
        if pos == size and not pieces:
            return chunk
        return self._ends(head, chunk, start, pos, pieces)

    def _ends(self, head: Owed, chunk: bytes, start: int, pos: int, pieces: list[bytes]) -> bytes:
        """Return what the client gets of a chunk in which `pos` stands behind the last whole message.

        The `pieces` are what it gets of all up to `start`.
        """
        if pos < len(chunk):
            pos = self._begun(head, chunk, pos)
            if pos == len(chunk) and not pieces:
                return chunk
        pieces.append(chunk[start:pos])
        return b"".join(pieces)

    def _joined(self, chunk: bytes) -> bytes:
        """Return what was held back with what has come now, if a message is whole by that; else nothing."""
        self._parts.append(chunk)
        self._have += len(chunk)
        if self._have < self._need:
            return b""
        chunk = b"".join(self._parts)
        self._parts.clear()
        return chunk

    def _begun(self, head: Owed, chunk: bytes, pos: int) -> int:
        """Deal with a message that is not whole: a row passes, a control message is held back until it is.

        Return how much of the chunk has passed. Raises UpstreamProtocolError for a length that no message has.
        """
        size = len(chunk)
        if size - pos < 5:
            return self._hold(chunk, pos, 5)
        kind, length = read_header(chunk, pos)
        if kind in _ROWS and not head.hidden:
            _check_row(head, length)
            self._passing = pos + 1 + length - size
            return size
        if length < 4 or length > LIMITS.get(kind, MAX_CONTROL_MESSAGE):
            raise UpstreamProtocolError(f"invalid length {length} of backend message {kind}")
        if kind == NOTICE_RESPONSE and length > LONG_NOTICE and not (head.hidden or head is NOTHING):
            if size - pos < _NOTICE_HEAD:
                return self._hold(chunk, pos, _NOTICE_HEAD)
            if not _LAST_WORDS.search(chunk, pos + 5, pos + _NOTICE_HEAD):
                self._passing = pos + 1 + length - size
                return size
        return self._hold(chunk, pos, 1 + length)

    def _hold(self, chunk: bytes, pos: int, need: int) -> int:
        """Hold back what stands from `pos` on until so many bytes of it are there; return `pos`."""
        self._parts.append(chunk[pos:])
        self._have = len(chunk) - pos
        self._need = need
        return pos

    def _ended(self, head: Owed, _kind: int, chunk: bytes, start: int, end: int) -> bytes | None:
        """Settle what ReadyForQuery has completed; return what stands in its place."""
        if not head.ends_with_ready or end - start != 1:
            raise UpstreamProtocolError("ReadyForQuery out of place")
        status = chunk[start]
        if status not in READY:
            raise UpstreamProtocolError("unknown transaction status")
        self.status = status
        self.copying = self._discarded = self._restored = False
        self._kept = 0
        self.groups.answered += 1
        owed = self.owed
        owed.popleft()
        if head is not SYNC:  # of which nothing is kept
            head.settle(DONE, self.listener)
        if owed and owed[0] is SKIP_TRY:
            return b""  # the client gets the one that follows
        self.ready = True
        if head.shows_ready:
            self.told = True
            return None
        if head is SKIP_QUERY:
            self.asked = True
        return b""

    def _guarded(self, kind: int, chunk: bytes, pos: int, end: int) -> tuple[bytes | None, int]:
        """Take what answers the guard, in one piece if that is there; return what stands in its place, and its end."""
        if chunk.startswith(GUARDED, pos):
            self.owed.popleft()
            return b"", pos + len(GUARDED)
        self.owed.popleft()
        self.owed.extendleft((GUARDING_PART,) * PARTS)
        return _STEPS.get(kind, Replies._control)(self, GUARDING_PART, kind, chunk, pos + 5, end), end

    def _completed(self, head: Owed, kind: int, chunk: bytes, start: int, end: int) -> bytes | None:
        """Handle a CommandComplete; return None to forward it, or what stands in its place."""
        if kind not in head.answered_by or end - start + 4 > LIMITS[kind]:
            return self._control(head, kind, chunk, start, end)
        if chunk.find(0, start, end) != end - 1:
            raise UpstreamProtocolError("malformed CommandComplete")
        hidden = head.hidden
        if not chunk.startswith(b"SELECT ", start) or head.like is not head:
            self._look_at_tag(head, chunk[start : end - 1])
        if head.ends_with_ready:
            return b"" if hidden else None
        if head is EXECUTE:
            self.owed.popleft()
            return None
        return self._settled(head)

    def _look_at_tag(self, head: Owed, tag: bytes) -> None:
        if tag.split(b" ", 1)[0] not in READ_TAGS and not self.observed:
            raise TripwireError("the upstream completed a command that is not a read")
        if head.completed(tag):
            self._discarded = True

    def _control(self, head: Owed, kind: int, chunk: bytes, start: int, end: int) -> bytes | None:
        """Handle one whole message; return None to forward it, or what stands in its place (b"" for nothing)."""
        if end - start + 4 > LIMITS.get(kind, MAX_CONTROL_MESSAGE):
            raise UpstreamProtocolError(f"invalid length {end - start + 4} of backend message {kind}")
        if kind in head.answered_by:
            return self._answered(head, kind, chunk, start, end)
        if kind == ERROR_RESPONSE:
            return self._error(head, chunk[start:end])
        if kind == NOTICE_RESPONSE:
            if _LAST_WORDS.search(chunk, start, min(end, start - 5 + _NOTICE_HEAD)):
                self.halted, self.fatal = chunk[start:end], True
                return b""
            return b"" if head.ours else None
        if kind == PARAMETER_STATUS:
            return self.listener.parameter_reported(chunk[start:end])
        if kind == NOTIFICATION_RESPONSE:
            return None if self.listener.notification_arrived(chunk[start:end]) else b""
        if kind in (COPY_IN_RESPONSE, COPY_BOTH_RESPONSE):
            raise TripwireError("the upstream began a COPY FROM or a replication stream")
        if kind == DATA_ROW and head.hidden:
            self._keep(end - start)
            head.row(chunk[start:end], self.listener)
            return b""
        raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place")

    def _answered(self, head: Owed, kind: int, chunk: bytes, start: int, end: int) -> bytes | None:
        """Handle a message that answers what is due."""
        if head.collects:
            self._keep(end - start)
            head.collect(kind, chunk[start:end])
        elif kind == COPY_OUT_RESPONSE:
            self.copying = True
        elif kind == COPY_DONE:
            self.copying = False
        if head.ends_with_ready or kind in _CARRY_ON:
            return b"" if head.hidden else None
        return self._settled(head)

    def _settled(self, head: Owed) -> bytes | None:
        """Settle what a message has completed; return None to forward that, or what stands in its place."""
        self.owed.popleft()
        self._kept = 0
        head.settle(DONE, self.listener)
        if head.changed:
            return self._stop_changed(head)
        if head is SKIP_SET:
            self._restored = True
        return head.when_done

    def _stop_changed(self, head: Owed) -> bytes:
        """Stop where a statement gives something else by now than its clients were told."""
        self.halted = _CHANGED
        after = self.owed[0] if self.owed else NOTHING
        if isinstance(head, Described) and after.like is DESCRIBE:
            # Parameters come first, and do not change (exec_describe_statement_message(), tcop/postgres.c).
            return message(PARAMETER_DESCRIPTION, head.parameters)
        return b""

    def _keep(self, size: int) -> None:
        self._kept += size + 5
        if self._kept > MAX_OWN_ANSWER:
            raise UpstreamFloodError("the upstream answers a question of ours without end")

    def _error(self, head: Owed, body: bytes) -> bytes | None:
        """Handle an ErrorResponse; return None to forward it, or what stands in its place."""
        self.copying = False
        if b"\0VFATAL\0" in body or b"\0VPANIC\0" in body:
            self.halted, self.fatal = body, True
            return b""
        if head is SKIP_TRY:
            return b""
        if head.firm:
            self.halted = body  # the server ignores what is behind it, and what comes behind that is not to be run
            return b""
        if head.ends_with_ready:
            return self._error_of_query(head, body)
        self._restored = False
        if head is not NOTHING:
            self._skip_to_sync(head)
            if head.ours and head.when_failed is None and self.owed and self.owed[0] is SKIP_SYNC:
                self.halted = body  # of a group that is all ours: nobody knows any more what the upstream holds
                return b""
        return self._said(head, body, body)

    def _error_of_query(self, head: Owed, body: bytes) -> bytes | None:
        """Do the same for what ReadyForQuery will follow."""
        if head.ours:
            if not self.listener.skipped_error(body):
                self.halted = body
            return b""
        self._restored = False
        return self._said(head, body, head.failed(body))

    def _said(self, head: Owed, body: bytes, said: bytes) -> bytes | None:
        """Return what the client gets for an error of the server's, which says so to it."""
        if head.when_failed is not None:
            return head.when_failed
        if PREFIX in said or CANCELED in said:
            said = self.listener.in_its_words(said)
        return None if said is body else message(ERROR_RESPONSE, said)

    def _skip_to_sync(self, head: Owed) -> None:
        """Settle a message that has failed, and what the server ignores behind it.

        That is everything up to the next Sync, a Query included (postgres.c, ignore_till_sync).
        """
        self.owed.popleft()
        head.settle(Outcome.FAILED, self.listener)
        while self.owed and not self.owed[0].syncs:
            self._ignore()
        self.skipping = not self.owed

    def _ignore(self) -> None:
        """Settle what is due, and will never be answered."""
        reply = self.owed.popleft()
        if reply.ends_with_ready:
            self.groups.answered += 1
        reply.settle(IGNORED, self.listener)


def _check_row(head: Owed, length: int) -> None:
    """Raise UpstreamProtocolError for a row that is not due, or of a length that none has; it is not whole."""
    if length < 4 or head is NOTHING:
        raise UpstreamProtocolError("row out of place")
    if length > MAX_ROW:  # a negative one, too; it never ends in its chunk
        raise UpstreamProtocolError("invalid length of a row")


_STEPS: Final[Mapping[int, Callable[[Replies, Owed, int, bytes, int, int], bytes | None]]] = {
    READY_FOR_QUERY: Replies._ended,
    COMMAND_COMPLETE: Replies._completed,
}
"""Who handles a message of the types that come with each query."""

_LAST_WORDS: Final = re.compile(rb"\0C57P0[12]\0")
"""In a NoticeResponse: an immediate shutdown, or a crash elsewhere, ends the session without an ErrorResponse.

See `quickdie()` in tcop/postgres.c. The socket ends right behind it. The SQLSTATE is among the first fields
(`send_message_to_frontend()`, utils/error/elog.c).
"""

_CHANGED: Final = error_response("ERROR", FEATURE_NOT_SUPPORTED, "cached plan must not change result type")[5:]

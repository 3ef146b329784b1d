"""One frontend message after the other: served, answered here, or left until there is what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from proxy import protocol as p
from proxy.errors import PROTOCOL_VIOLATION, ClientProtocolError, CloseReason, MalformedMessageError
from proxy.pooling import owed as r
from proxy.pooling.sent import NEVER, Awaits, MustWait
from proxy.session import answers, boundaries, direct, encoding, extended, resetting, simple, verdicts
from proxy.session.answers import Refusal
from proxy.session.inbox import STREAM_BIND_FROM
from proxy.session.link import Link
from proxy.session.session import Session

MESSAGE_SLACK: Final = 262_400
"""What a Parse may carry beside its text: a name, and 65,535 parameter types of 4 bytes."""


def take(session: Session, data: bytes) -> None:
    """Take bytes from the client: serve them, or keep them behind what waits.

    Most who wait send nothing more until they are answered: reading pauses when one does.
    """
    session.activity += 1
    session.house.stats.client_bytes_received += len(data)
    if session.peer.leaving:
        return
    inbox = session.inbox
    if inbox.have or session.awaits is not Awaits.NOTHING:
        inbox.add(data)
        if session.held_up:
            session.pace()
            return
        if inbox.have < inbox.need:
            return
        data = inbox.take()
    serve(session, data)


def serve(session: Session, data: bytes, *, again: bool = False) -> None:
    """Serve these bytes; what breaks the protocol ends the connection, in its turn. `again`: as for `_pump`."""
    try:
        if not session.inbox.flow:
            for serves in _WHOLE.get(data[:1], ()):
                if serves(session, data):
                    return
        _pump(session, data, again=again)
    except MustWait as wait:  # of a whole group
        session.awaits = wait.awaits
        session.inbox.keep(data, 5)
    except ClientProtocolError as error:
        if session.link is not None:
            session.link.unit = None
        leave(session, CloseReason.CLIENT_PROTOCOL, error.sqlstate, str(error))


def go_on(session: Session) -> None:
    """Serve what waits in the inbox: what it has waited for is there, or will not come."""
    session.awaits = Awaits.NOTHING
    session.texts.counted = True
    serve(session, session.inbox.take(), again=True)
    session.texts.counted = False
    session.wait_error = None
    if not session.waiting and not session.judging:
        session.texts.served()
        if not session.held_up:
            verdicts.forget_path(session)
    leave_if_finished(session)
    session.pace()


def leave_if_finished(session: Session) -> None:
    """Act on the end of what the client sends, once it is served."""
    peer = session.peer
    if peer.finished and not (peer.leaving or session.held_up or peer.closed):
        leave(session, CloseReason.CLIENT_LOST)


def leave(session: Session, reason: CloseReason, sqlstate: str = "", text: str = "") -> None:
    """End, but answer first what was asked before, as a server does that reads one message after the other."""
    link = session.link
    if link is None or not link.replies.awaited:
        session.peer.end(reason, sqlstate, text)
        return
    session.peer.leaving = (reason, sqlstate, text)
    if link.group_open and not session.inbox.half_sent:
        link.group_open = False
        link.replies.owe(r.CUT_SYNC)
        link.upstream.write(p.SYNC_MESSAGE)


def _pump(session: Session, data: bytes, *, again: bool = False) -> None:
    """Serve every whole message in `data`; send what goes upstream in one write, and keep the rest.

    `again`: the first one has waited.
    """
    chunk = _Chunk(session, data)
    size = len(data)
    need, ended = 5, False
    try:
        while size - chunk.pos >= 5 and not ended:
            pos = chunk.pos
            kind, end = _frame(data, pos)
            if end > size and (lacking := _lacking(session, kind, end - pos - 1, size - pos)):
                need = lacking
                break
            ended = kind == p.TERMINATE
            answer = b"" if ended else _serve(session, kind, data, pos, end)
            if again:
                again = session.texts.counted = False
                verdicts.forget_path(session)
            chunk.served(session, kind, end, answer)
    except MustWait as wait:  # the message at `pos`, and all behind it
        session.awaits = wait.awaits
    finally:
        # Also ahead of Terminate, and of a message that breaks the protocol: what is owed was sent.
        if session.link is not None:
            chunk.send(session, session.link)
    if ended:
        leave(session, CloseReason.CLIENT_TERMINATE)
    elif chunk.pos < size:
        session.inbox.keep(data[chunk.pos :], need)


def _frame(data: bytes, pos: int) -> tuple[int, int]:
    """Return type and end of the message at `pos`. Raises ClientProtocolError for a header that no message has."""
    kind = data[pos]
    length = int.from_bytes(data[pos + 1 : pos + 5], "big")
    if not 4 <= length <= p.FRONTEND_LIMITS.get(kind, 0):
        p.check_frontend(kind, length)
    return kind, pos + 1 + length


class _Chunk:
    """What the client has sent in one piece, and what of it goes upstream.

    `pos` is where the next message begins that is to be served, `_start` where the bytes begin that go as they came
    behind the pieces in `_out`, `_first` where the messages begin that went to the link; -1: none did.
    """

    __slots__ = ("_data", "_first", "_out", "_start", "pos")

    def __init__(self, session: Session, data: bytes) -> None:
        inbox = session.inbox
        self._data = data
        self._first = 0 if session.link is not None else -1
        self._out: list[bytes] = []
        self.pos = self._start = 0
        if inbox.flow:  # of a message whose handler has run
            self.pos = min(len(data), inbox.flow)
            inbox.flow -= self.pos
            self._start = self.pos if inbox.dropping else 0

    def served(self, session: Session, kind: int, end: int, answer: bytes | None) -> None:
        """Note that the message up to `end` was served, with this in its place; None: it goes as it came."""
        inbox = session.inbox
        if session.meter is not None:
            session.meter.paid = False  # the next one is another statement
        inbox.flushes = kind == p.FLUSH
        if self._first < 0 and session.link is not None:
            self._first = self.pos
        size = len(self._data)
        if end > size:
            inbox.flow = end - size
            inbox.dropping = not inbox.passes
            end = size
        if answer is not None:
            if self.pos > self._start:
                self._out.append(self._data[self._start : self.pos])
            if answer:
                self._out.append(answer)
            self._start = end
        self.pos = end

    def send(self, session: Session, link: Link) -> None:
        """Send what goes upstream, which may have to be sent again."""
        link.send(self._data, self._start, self.pos, self._out)
        if self._first >= 0 and link.unit is not None:
            sent = self._data[self._first : self.pos] if self._first or self.pos < len(self._data) else self._data
            link.remember(sent, whole=not session.inbox.flow)


def _serve(session: Session, kind: int, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve one message; return None to forward it as it is, or what is sent in its place. Raises MustWait."""
    link = session.link
    if kind in _IGNORED and session.ignored:
        return b""
    if link is None or not (link.replies.owed or link.blind) or kind not in _BEGINNERS or not _begins(session, link):
        return _answer(session, kind, data, pos, end)
    # A group begins behind something unanswered: it may need the guard ahead, and start-up settings ahead of that.
    resetting.check_discarded(session)
    guard = link.ahead()
    if guard is None:
        raise MustWait
    before = len(link.replies.owed)
    answer = _answer(session, kind, data, pos, end)
    if link.blind:
        link.transaction.parted = NEVER  # what comes next is in the middle of its group
    if not guard or len(link.replies.owed) == before:
        return answer
    link.replies.owed.insert(before, r.GUARDING)
    return guard + (data[pos : min(end, len(data))] if answer is None else answer)


def _answer(session: Session, kind: int, data: bytes, pos: int, end: int) -> bytes | None:
    """Have the handler serve one message; answer it here where that refuses it, or cannot read it."""
    handler = _HANDLERS[kind]
    try:
        if session.ledger.recodes and kind in _WITH_TEXT:
            return encoding.recoding(session, handler, data, pos, end)
        return handler(session, data, pos, end)
    except Refusal as refusal:
        unnamed = kind == p.PARSE and data[pos + 5 : pos + 6] == b"\0"
        return answers.answer(session, refusal, kind, unnamed=unnamed)
    except MalformedMessageError as error:
        return _malformed(session, kind, error)


def _begins(session: Session, link: Link) -> bool:
    """Whether a group begins now: with the client's message, or because a Sync of ours stands ahead of it."""
    return not link.group_open or (link.blind and link.transaction.parted == session.groups.sent)


def _malformed(session: Session, kind: int, error: MalformedMessageError) -> bytes:
    """Answer a message that does not hold what its type asks for, as the server does that never gets to it."""
    refusal = answers.error(session, PROTOCOL_VIOLATION, str(error))
    refusal.destroys = False
    if kind != p.SYNC:
        return answers.answer(session, refusal, kind, unnamed=False)
    if session.ignored:
        session.peer.wire.write(refusal.response)  # it is a Sync even so: nothing is ignored any more
        before = b""
    else:
        before = answers.answer(session, refusal, kind, unnamed=False)
    sync = extended.sync(session, p.SYNC_MESSAGE, 0, len(p.SYNC_MESSAGE))
    return before + (p.SYNC_MESSAGE if sync is None else sync)


def _lacking(session: Session, kind: int, length: int, have: int) -> int:
    """Return how many bytes of a message there have to be before it is handled; 0: there are enough, of whichever it is
    the rest is passed on, or thrown away, as it arrives."""
    if kind == p.BIND:
        lacking = min(1 + length, STREAM_BIND_FROM) if have < STREAM_BIND_FROM else 0
    elif kind == p.COPY_DATA:
        lacking = 0
    else:
        streams = kind in (p.QUERY, p.PARSE) and length > session.house.max_query_length + MESSAGE_SLACK
        lacking = 0 if streams else 1 + length
    session.inbox.passes = False  # unless its handler says so: what was no Bind would be taken for messages
    return lacking


def _copy(session: Session, data: bytes, pos: int, end: int) -> bytes:
    return b""  # no COPY FROM ever begins; the server ignores these outside of one


_WHOLE: Final[Mapping[bytes, Sequence[Callable[[Session, bytes], bool]]]] = {
    b"Q": (direct.query,),
    b"P": (direct.parse_group, boundaries.take_group),
    b"B": (direct.bind_group,),
}
"""What serves a whole group at once, by the type of its first message, if the group is one of those that most drivers
send; each returns whether it was."""
_BEGINNERS: Final = frozenset((p.QUERY, p.PARSE, p.BIND, p.DESCRIBE, p.EXECUTE, p.CLOSE, p.FUNCTION_CALL))
"""Messages with which a group begins that can make the server do something."""
_IGNORED: Final = _BEGINNERS | {p.FLUSH}
"""Those that the server ignores behind an error, up to Sync."""
_WITH_TEXT: Final = frozenset((p.QUERY, p.PARSE, p.BIND))
"""Those that are read in the client's encoding."""

_HANDLERS: Final[Mapping[int, Callable[[Session, bytes, int, int], bytes | None]]] = {
    p.QUERY: simple.query,
    p.PARSE: extended.parse,
    p.BIND: extended.bind,
    p.DESCRIBE: extended.describe,
    p.EXECUTE: extended.execute,
    p.CLOSE: extended.close,
    p.SYNC: extended.sync,
    p.FLUSH: extended.flush,
    p.FUNCTION_CALL: simple.function_call,
    p.COPY_DATA: _copy,
    p.COPY_DONE: _copy,
    p.COPY_FAIL: _copy,
}

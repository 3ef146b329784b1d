"""What comes from the upstream: answers, the end of a group, errors after which it is of no use, its loss."""

from __future__ import annotations

import re
from typing import Final

from proxy import protocol as p
from proxy.errors import (
    ADMIN_SHUTDOWN,
    CONNECTION_FAILURE,
    CRASH_SHUTDOWN,
    FEATURE_NOT_SUPPORTED,
    INTERNAL_ERROR,
    CloseReason,
    UpstreamError,
    UpstreamProtocolError,
)
from proxy.ours import PREFIX
from proxy.pooling.replies import CANCELED, TripwireError
from proxy.pooling.sent import Awaits
from proxy.session import leasing, pump
from proxy.session.ledger import SETTING
from proxy.session.link import Link
from proxy.session.session import Session

INTERNAL_ERROR_TEXT: Final = "SideCart met an internal error and closed this connection"
GONE: Final = "terminating connection because the connection to the server was lost"
_MESSAGE: Final = re.compile(rb"\0M[^\0]*")


def take(session: Session, chunk: bytes) -> None:
    """Take bytes from the linked upstream. Raises nothing: an upstream that breaks the protocol is closed."""
    link, peer = session.link, session.peer
    if link is None:
        return
    session.activity += 1
    replies = link.replies
    try:
        out = replies.feed(chunk)
    except UpstreamProtocolError as error:
        _broken(session, error)
        return
    if replies.halted is not None:
        _halted(session, link, replies.halted, out)
        return
    if replies.skipping:
        link.group_open = True  # a Query in its middle would have ended it: that is ignored, with all up to a Sync
    if out:
        link.unit = None
        peer.delivered += 1
        session.house.stats.client_bytes_sent += len(out)
        peer.wire.write(out)
    if peer.notices:
        _tell_notices(session, link)
    if not replies.ready:
        _go_on_without_ready(session, link)
        return
    session.answered += 1
    if not replies.owed and leasing.let_go_at_once(session, link):
        session.house.stats.transactions += 1
    else:
        _ready(session, link)


def _tell_notices(session: Session, link: Link) -> None:
    """Tell what had to wait for the end of a message."""
    peer = session.peer
    if link.replies.whole:
        peer.wire.write(b"".join(peer.notices))
        peer.notices.clear()


def _go_on_without_ready(session: Session, link: Link) -> None:
    """Act on what follows from an error alone: behind that no more may be answered."""
    if session.awaits is Awaits.REPLIES and not session.groups.unanswered:
        # The server ignores the Query whose answer was waited for, as it does all up to the next Sync.
        pump.go_on(session)
    elif session.peer.leaving and not link.replies.owed:
        session.peer.end(*session.peer.leaving)


def _broken(session: Session, error: UpstreamProtocolError) -> None:
    """Close an upstream that breaks the protocol, or does what no read can cause, and the client with it."""
    house, ident = session.house, session.peer.who.ident
    if isinstance(error, TripwireError):
        house.stats.bugs += 1
        house.audit.event("tripwire", level="error", session=ident, what=str(error))
        _end_link(session, CloseReason.TRIPWIRE)
    else:
        house.audit.event("upstream protocol", level="error", session=ident, what=str(error))
        _end_link(session, error.reason)


def _ready(session: Session, link: Link) -> None:
    """Act on ReadyForQuery: nothing owed, status `I` and no pin is the end of the link."""
    replies, ledger = link.replies, session.ledger
    told, asked = replies.told, replies.asked
    replies.forget_ready()
    if told:
        session.local.seen = replies.status
    if not replies.owed:
        if session.peer.leaving:
            session.peer.end(*session.peer.leaving)
            return
        _quiet(session, link)
    if ledger.reading and asked:  # an error: a cancel, or a timeout that the client set
        ledger.not_read_back()
        leasing.pin(session, SETTING, "what could not be read back")
    if session.awaits is Awaits.REPLIES and not session.groups.unanswered:
        pump.go_on(session)
    if session.link is link and leasing.let_go(session, link):
        session.house.stats.transactions += 1


def _quiet(session: Session, link: Link) -> None:
    """Note that nothing is owed, on a link that goes on."""
    if link.cancelled is not None:
        link.cancelled = None
    transaction, ledger = link.transaction, session.ledger
    transaction.ending = False
    if not link.group_open:  # else the same chunk had more, of which ReadyForQuery says nothing yet
        transaction.quiet()
        if link.replies.status == p.IDLE:
            if link.noted is not None:
                link.noted.close_all()
            if ledger.unsure or ledger.recodes:
                ledger.ended()
    link.bound_before = link.bound


def take_row(session: Session, body: bytes) -> None:
    """Take a DataRow of a Query of ours: settings that are read back."""
    values = p.row_values(body) if session.ledger.reading else []
    if len(values) != 2:
        return
    carried = session.ledger.heard(values[0] or b"", values[1] or b"", session.codec)
    if carried is None or session.link is None:
        return
    session.filter = session.judge.under(session.ledger.settings.path)
    if carried:
        upstream = session.link.upstream
        upstream.settings = session.ledger.settings if session.ledger.as_asked else None
        upstream.customs |= session.ledger.settings.customs
    else:
        # What was set on this upstream cannot be set on another one, or is not known.
        leasing.pin(session, SETTING, "what could not be read back")


def in_its_words(session: Session, body: bytes) -> bytes:
    """Put the client's name of a statement in the place of ours, and our limit in that of the user's wish."""
    link = session.link
    if link is not None and link.cancelled and CANCELED in body:
        cause, link.cancelled = link.cancelled, ""
        return _MESSAGE.sub(f"\0Mcanceling statement due to {cause}".encode(), body, count=1)
    start = body.find(PREFIX)
    if start < 0:
        return body
    stop = start
    while stop < len(body) and body[stop] not in b'"\0':
        stop += 1
    ours = body[start:stop]
    return body.replace(ours, session.prepared.shown.get(ours, b"of SideCart"))


# --- an upstream that is lost -----------------------------------------------------------------------------------------


def lose(session: Session, link: Link, reason: CloseReason, sqlstate: str, text: str, out: bytes = b"") -> None:
    """Go on without the upstream: run again what has not been answered, or answer it with the error.

    `out` has not been delivered. A client whose session had state on the upstream alone is closed: that is gone.
    """
    if link.unit and _can_repeat(session, link, sqlstate):
        _repeat(session, link, link.unit, reason)
        return
    peer = session.peer
    if out:
        peer.wire.write(out)
    if not link.replies.whole or session.inbox.flow or _holds_state(session):
        whole = drop_link(session, reason)
        peer.end(reason, ADMIN_SHUTDOWN if sqlstate == CONNECTION_FAILURE else sqlstate, text if whole else "")
        return
    _answer_with(session, link, UpstreamError(text, sqlstate, reason=reason))
    if peer.leaving:
        peer.end(*peer.leaving)
    elif session.awaits is Awaits.REPLIES:
        pump.go_on(session)
    else:
        session.pace()


def _holds_state(session: Session) -> bool:
    """Whether the client's session has state on its upstream alone."""
    ledger = session.ledger
    # Of a client_encoding that its transaction has set nobody would know what it is now.
    if ledger.pins or ledger.reading or ledger.recodes:
        return True
    return bool(ledger.touched) and session.local.seen == p.IDLE


def _answer_with(session: Session, link: Link, error: UpstreamError) -> None:
    """Answer with this error what has not been answered, and forget the upstream."""
    local = session.local
    status = p.IDLE if local.seen == p.IDLE or link.transaction.ending else p.FAILED
    shown = p.error_response("ERROR", error.sqlstate, str(error), codec=session.codec)
    answer = link.replies.abandon(shown, status, group_open=link.group_open)
    drop_link(session, error.reason)
    _forget(session)
    local.became(status)
    session.swallowing = session.swallowing or link.group_open
    if answer:
        local.seen = status
        session.peer.wire.write(answer)
    elif status == p.FAILED:
        # Nobody expects an answer now: whatever comes next gets it.
        local.parting = error


def _halted(session: Session, link: Link, body: bytes, out: bytes) -> None:
    """Act on an error after which the upstream is of no use: the server's FATAL, or one to what we asked."""
    fields = p.error_fields(body, session.codec)
    sqlstate, text = fields.get("C", CONNECTION_FAILURE), fields.get("M", GONE)
    reason = CloseReason.UPSTREAM_LOST if link.replies.fatal else CloseReason.DIRTY
    ident = session.peer.who.ident
    session.house.audit.event("upstream failed", level="warning", session=ident, sqlstate=sqlstate)
    lose(session, link, reason, sqlstate, text, out)


def _can_repeat(session: Session, link: Link, sqlstate: str) -> bool:
    """Whether the unit may run on another upstream: once, and nobody wanted it to end."""
    limits = session.pool.limits
    if not limits.retry or session.repeated or link.cancelled is not None or session.inbox.flow or session.ledger.pins:
        return False
    if sqlstate == ADMIN_SHUTDOWN:
        return session.house.now() - link.since <= limits.retry_max_age
    return sqlstate not in (CRASH_SHUTDOWN, FEATURE_NOT_SUPPORTED)


def _repeat(session: Session, link: Link, unit: bytes, reason: CloseReason) -> None:
    """Serve once more what was sent since the lease, on another upstream. The client has seen nothing of it."""
    who, house = session.peer.who, session.house
    link.replies.forget()
    drop_link(session, reason)
    _forget(session)
    # Another message is at the head of the inbox now: the answer would be taken for that one's.
    session.texts.cancel()
    session.texts.served()
    session.prepared.undo()
    session.local.status, session.local.begin, _ = link.before
    session.repeated = True
    session.swallowing = False
    session.peer.leaving = None
    house.stats.retries += 1
    house.audit.event("statement repeated", session=who.ident, user=who.user, reason=reason.value)
    session.inbox.put_back(unit)
    if session.meter is not None:
        session.meter.paid = True  # the first of its statements has been counted
    pump.go_on(session)


def _forget(session: Session) -> None:
    """Forget what was sent to a link that has gone."""
    session.groups.lose()
    session.repeated = False
    session.told_path = None
    ledger = session.ledger
    session.filter = session.judge.under(ledger.settings.path)  # that of no search_path which went with the link
    ledger.touched.clear()
    ledger.lost.clear()
    ledger.ended()


def _end_link(session: Session, reason: CloseReason) -> None:
    """Close the upstream, and this client with it."""
    whole = drop_link(session, reason)
    session.peer.end(reason, CONNECTION_FAILURE, GONE if whole else "")


def drop_link(session: Session, reason: CloseReason) -> bool:
    """Close the linked upstream; return whether what the client has got of it ends between two messages."""
    link, session.link = session.link, None
    if link is None:
        return True
    link.upstream.detach()
    session.peer.full = False  # nobody tells when there is room again
    link.upstream.close(reason)
    session.pool.lost(link.upstream, session.house.now())
    return link.replies.whole


def fail(session: Session) -> None:
    """End after an unexpected exception: this session and its upstream never resume."""
    session.house.stats.bugs += 1
    whole = drop_link(session, CloseReason.BUG)
    session.peer.end(CloseReason.BUG, INTERNAL_ERROR, INTERNAL_ERROR_TEXT if whole else "")


def hand_back(session: Session, link: Link) -> None:
    """Give back the upstream of a client that has gone: clean, to be cleaned, or not at all."""
    session.link = None
    upstream, replies, ledger = link.upstream, link.replies, session.ledger
    upstream.detach()
    if not session.peer.writable:
        upstream.resume_reading()
    if ledger.pins or ledger.lost or ledger.touched or ledger.reading:
        upstream.settings = None
    if _cannot_be_cleaned(session, link):
        upstream.close(CloseReason.DIRTY)
        session.pool.lost(upstream, session.house.now())
        return
    # What is under way is cancelled. Where that can hit a message of ours only DISCARD ALL knows what is left.
    discard = bool(ledger.pins or link.untidy or replies.ours) or link.blind
    if discard or not link.quiet:
        session.pool.recycle(upstream, discard=discard)
    else:
        session.pool.release(upstream, session.house.now())


def _cannot_be_cleaned(session: Session, link: Link) -> bool:
    """Whether the upstream has what no statement clears, or is in the middle of something."""
    ledger, replies = session.ledger, link.replies
    if ledger.scarred or ledger.tainted:
        return True
    return replies.copying or session.inbox.half_sent or replies.halted is not None

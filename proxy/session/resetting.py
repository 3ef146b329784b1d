"""Settings and plans that a client's messages lose: set again behind a RESET, planned anew behind a SET.

Every function returns the bytes to send, and has registered the replies to them.
"""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.owed import Run
from proxy.pooling.sent import MustWait
from proxy.pooling.snapshot import DISCARD_PLANS, Restore, literal, restore, set_again
from proxy.session import effects
from proxy.session.judging import MAX_INLINE
from proxy.session.leasing import ask_first
from proxy.session.link import Link
from proxy.session.session import Effects, Session
from proxy.sql import text as texts
from proxy.sql.tables import Refused
from proxy.sql.verdict import Effect, Verdict

_PLANNED: Final = frozenset({"select", "explain", "execute", "copy", "declare", "fetch", "multi"})
"""Kinds of texts that can call a function."""
_SETTING: Final = frozenset({"set", "reset"})
"""Kinds of statements that do to settings what they say, if they succeed, and take no snapshot."""

# --- start-up settings ------------------------------------------------------------------------------------------------


def check_discarded(session: Session) -> None:
    """Have start-up settings there for a group behind one with a DISCARD ALL. Raises MustWait.

    DISCARD ALL commits at once; what sets them again behind it is undone by a later error of its group.
    """
    link = session.link
    if link is None or link.discards in (None, session.groups.sent):
        return
    link.put_off = False
    if session.groups.unanswered:
        raise MustWait
    link.discards = None
    if session.ledger.lost and link.replies.status == p.IDLE:
        ask_first(session, link, restore(session.ledger.lost))


def after_discard(session: Session, link: Link, verdict: Verdict) -> bytes:
    """Set start-up settings again for what is parsed or bound behind a DISCARD ALL of the same group.

    Not in front of another one: what runs ahead of it in a group forbids it (PreventInTransactionBlock(), xact.c).
    All names are gone in this group. Where nothing else is unanswered nothing behind this raises MustWait;
    until then this does: what it registers would be owed, and never sent.
    """
    if not link.put_off or effects.has(verdict, Effect.DISCARD_ALL):
        return b""
    if session.groups.unanswered:
        raise MustWait
    link.put_off = False
    if link.discards != session.groups.sent or not session.ledger.lost:
        return b""
    return link.help(restore(session.ledger.lost), r.SKIP_SET)


def again(session: Session, link: Link, verdict: Verdict, done: Effects, *, group: bool) -> bytes:
    """Set start-up settings again right behind a RESET, which knows the server's own values only.

    `done` are the effects of it, and of what it executes.
    """
    lost = session.ledger.lost
    if not lost or not any(effect in effects.RESETTING for effect, _ in done):
        return b""
    if group and any(effect is Effect.DISCARD_ALL for effect, _ in done):
        link.discards = session.groups.sent
        link.put_off = link.stirred = True
        return b""
    built: list[bytes] = []
    # In a group, and in a transaction block, this runs if the RESET has. Others are there again.
    if verdict.kind in _SETTING and (group or link.transaction.status == p.IN_TRANSACTION):
        just = {name for effect, of in done for name in session.ledger.lost_by(effect, of)}
        built = [set_again(name, restored) for name, restored in lost.items() if name in just]
    built = built or [restore(lost)]
    if group:
        return b"".join(link.help(sql, r.SKIP_SET) for sql in built)
    link.replies.owe(r.SKIP_TRY)  # in a failed transaction nothing was reset, and nothing can be set
    return p.query(b";".join(built))


def with_startup(session: Session, verdict: Verdict, text: bytes) -> bytes | None:
    """Put what the client connected with in the place of a NULL for set_config, which the server would answer with
    its own value; return the text to send, if it is another."""
    built = text
    for at, name in reversed(verdict.nulls):
        value = session.ledger.startup.get(name)
        if value is not None and text[at : at + 4].lower() == b"null" and text.isascii():
            built = built[:at] + literal(value) + built[at + 4 :]
    return None if built is text else built


# --- plans ------------------------------------------------------------------------------------------------------------


def has_to_replan(session: Session, link: Link, verdict: Verdict) -> bool:
    """Whether functions plan anew first: a setting was changed in this lease, and their plans are of other clients.

    All statements are analysed anew then, under the settings of the moment: not as long as SQL has any, which
    keep what their literals meant before.
    """
    if not (link.replans and session.filter.caches) or verdict.kind not in _PLANNED:
        return False
    if session.groups.unanswered or link.group_open or session.ledger.pins or link.own:
        return False
    if link.replies.status == p.FAILED:
        return False
    discards = verdict.kind == "execute" and any(each is Effect.DISCARD_ALL for each, _ in effects.of(session, verdict))
    return not discards  # that fails, and behind an Execute of ours in other words


def replan(link: Link, *, query: bool = False) -> bytes:
    """Have functions plan anew. Ahead of a Query it is one, too, which is unanswered then."""
    link.replans = False
    link.held.drop_apart()
    if not query:
        return link.help(DISCARD_PLANS)
    link.replies.owe(r.SKIP_QUERY)
    return p.query(DISCARD_PLANS)


def replans_between(session: Session, link: Link, verdict: Verdict, text: bytes) -> bool:
    """Whether functions plan anew inside a Query, behind its first statement: that may set an isolation level.

    Nothing may have read in its transaction then, and DISCARD PLANS takes a snapshot.
    """
    if verdict.kind != "multi" or link.transaction.status != p.IN_TRANSACTION:
        return False
    if effects.names(verdict):
        return False  # what they are parsed for comes first, and reads
    pieces = _cut(session, text)
    return bool(pieces) and _judged(session, pieces[0]).kind not in _PLANNED


# --- inside a Query of several statements -----------------------------------------------------------------------------


def put_between(session: Session, run: Run, text: bytes, *, replans: bool) -> bytes | None:
    """Put statements of ours between those of a Query; return the text to send, None where it cannot be cut.

    Start-up settings are set again behind a RESET, and functions plan anew ahead of the first statement that can
    call one, if it `replans`. The `run` then knows which statements are ours.
    """
    pieces = _cut(session, text)
    if not pieces:
        return None
    built = ""
    hidden: list[int] = []
    inserts: list[tuple[int, int]] = []

    def put(sql: bytes, behind: int) -> None:
        nonlocal built
        ours = "\n;" + sql.decode("ascii")  # what stands before may end with a comment
        hidden.append(behind + len(inserts))
        inserts.append((len(built), len(ours)))
        built += ours

    for number, piece in enumerate(pieces[:-1]):
        verdict = _judged(session, piece)
        if replans and verdict.kind in _PLANNED:
            put(DISCARD_PLANS, number)
            replans = False
        built += piece
        lost: dict[str, Restore] = {}
        for effect, name in effects.of(session, verdict):
            lost |= session.ledger.lost_by(effect, name)
        if verdict.kind in _SETTING:
            for each in lost.items():
                put(set_again(*each), number + 1)
        elif lost:
            put(restore(lost), number + 1)
    run.hide(hidden, inserts)
    return (built + pieces[-1]).encode(session.codec)


def _cut(session: Session, text: bytes) -> list[str]:
    """Cut a text apart at the ends of its statements; what is behind the last is one more. Empty: it cannot be."""
    if len(text) > MAX_INLINE:
        return []
    try:
        decoded = texts.decode(text, session.codec)
        ends = texts.ends(decoded)
    except Refused:
        return []
    if decoded.encode(session.codec) != text:
        return []  # its bytes are not those of the statements
    utf8 = decoded.encode()
    return [utf8[start:end].decode() for start, end in zip([0, *ends], [*ends, len(utf8)], strict=True)]


def _judged(session: Session, piece: str) -> Verdict:
    return session.filter.judge(piece.lstrip(";").encode(session.codec), session.codec)

"""Messages of the extended protocol, up to Sync. What a handler returns, and raises: see `simple`."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from proxy import protocol as p
from proxy.ours import NO_NAME, PREFIX
from proxy.pooling import owed as r
from proxy.pooling.owed import Described, Done, Learned, Owed
from proxy.pooling.sent import MustWait
from proxy.pooling.snapshot import LEARN
from proxy.pooling.statements import OF_ANOTHER, Context, Statement
from proxy.session import (
    answers,
    binding,
    boundaries,
    effects,
    encoding,
    leasing,
    reparsing,
    resetting,
    row_sources,
    sql_names,
    transactions,
    verdicts,
)
from proxy.session.binding import Use
from proxy.session.judging import PATH_IN_USE
from proxy.session.ledger import PREPARED_STATEMENT
from proxy.session.link import Link
from proxy.session.portals import key
from proxy.session.session import Effects, Session
from proxy.session.transaction_ahead import Block
from proxy.sql.functions import Functions
from proxy.sql.verdict import Effect, Verdict

_CLOSE_COMPLETE = p.message(p.CLOSE_COMPLETE)
_MOVING: Final = re.compile(rb"\b(?:now|today|tomorrow|yesterday)\b[^'()$]*['$]", re.IGNORECASE)
"""A constant that means another time at each Parse: a client's own one counts, not that of others."""
_BLOCKS: Final = frozenset(("begin", "commit", "rollback"))


def forward(session: Session, owed: Owed) -> None:
    """Forward a message as it is."""
    resetting.check_discarded(session)
    link = session.link or leasing.lease(session)
    link.replies.owe(owed)
    link.group_open = True


# --- Parse ------------------------------------------------------------------------------------------------------------


def parse(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a Parse."""
    if end > len(data):
        raise answers.too_long(session)
    name, text = p.parse_parts(data, pos + 5, end)
    encoding.check_names(session, name)
    types = data[pos + 5 + len(name) + 1 + len(text) + 1 : end]
    if session.ledger.recodes:
        encoding.check_letters(session, text)
    verdict = verdicts.of(session, text, extended=True, types=types)
    judge = session.filter.functions
    link = _check_parse(session, name, text, verdict)
    taken = bool(name) and (name.startswith(PREFIX) or session.prepared.find(key(name)) is not None)
    told = row_sources.can_be_told(session, verdict)
    before = _ahead_of_parse(session, link, verdict, told=told)
    replaced = transactions.let_through(session, link, verdict)
    context = reparsing.context_of(session, verdict, text)  # what it runs itself may change that
    _note_parse(session, link, verdict, name)
    if verdict.nulls:
        replaced = resetting.with_startup(session, verdict, text)
    body = (text if replaced is None else replaced) + b"\0" + types
    if taken:
        return before + reparsing.parse_in_vain(session, link, name, body)
    if name:
        shown = text + b"\0" + types if verdict.nulls and replaced is not None else None
        statement = Statement(body, context, verdict, judge, shown, session.codec)
        statement.apart = _MOVING.search(text) is not None
        return before + _parse_named(session, link, name, statement, told=told)
    message = data[pos:end] if replaced is None else p.message(p.PARSE, b"\0" + body)
    behind = _parse_unnamed(session, link, message, context, verdict, judge, told=told)
    return p.in_place(message, None if replaced is None else message, before, behind)


def _check_parse(session: Session, name: bytes, text: bytes, verdict: Verdict) -> Link:
    """Return the link that a Parse goes to. Raises Refusal, MustWait where it does not, or not yet."""
    verdicts.check(session, verdict, text)
    if verdict.effects and (foreign := sql_names.name_of_ours(session, verdict)):
        raise answers.no_statement(session, foreign)
    transactions.check_failed(session, verdict)
    link = session.link or leasing.lease(session)
    if name and session.ledger.reading and PREPARED_STATEMENT in session.ledger.pins:
        raise MustWait  # the server is being asked whether SQL has prepared anything
    resetting.check_discarded(session)
    if effects.moves_used_path(session, verdict):
        raise answers.refused(session, PATH_IN_USE)
    return link


def _ahead_of_parse(session: Session, link: Link, verdict: Verdict, *, told: bool) -> bytes:
    """Return what goes ahead of a Parse. Raises MustWait, Refusal."""
    if told:
        verdicts.check_described(session, verdict)
    before = resetting.after_discard(session, link, verdict)
    if resetting.has_to_replan(session, link, verdict):
        before += resetting.replan(link)
    if verdict.effects:
        before += sql_names.provide(session, link, verdict, sql_names.At.PARSE)
    return before


def _parse_named(session: Session, link: Link, name: bytes, statement: Statement, *, told: bool) -> bytes:
    if session.prepared.full:
        return answers.answer(session, answers.too_many(session), p.PARSE, unnamed=False)
    statement.parsed_in = session.groups.sent
    parse_it = reparsing.parse_own if PREPARED_STATEMENT in session.ledger.pins else reparsing.parse_named
    return parse_it(session, link, name, statement, told=told)


def _note_parse(session: Session, link: Link, verdict: Verdict, name: bytes) -> None:
    """Note what a Parse that goes out changes for what comes behind it."""
    link.transaction.ending = verdict.kind in boundaries.ENDS
    link.stirred = link.stirred or link.transaction.ending
    link.group_open = True
    if verdict.kind in binding.ANALYSED:
        link.transaction.read_in = session.groups.sent
        link.names_may_change()  # a constant of a domain is checked at its Parse, by whatever function
    if verdict.kind in OF_ANOTHER:
        link.portals.fresh = (b"S" + name, session.groups.sent)
        if not name:
            session.unnamed.parsed_in = session.groups.sent
    if verdict.effects:
        binding.note_inside(session, link, verdict)


def _parse_unnamed(
    session: Session, link: Link, message: bytes, context: Context, verdict: Verdict, judge: Functions, *, told: bool
) -> bytes:
    """Owe the reply to a Parse of the unnamed statement; return what goes behind it."""
    learned = Learned(session.codec) if context is None else None
    shaped = context if learned is None else learned
    link.replies.owe(session.unnamed.parse_sent((message, shaped, verdict, judge, session.codec)))
    if session.codec == "utf-8":
        session.filter.remember_parse(message, verdict)
    if learned is not None:
        return link.help(LEARN, learned)
    return reparsing.describe_unnamed(session, link, message) if told else b""


# --- Bind, Describe ---------------------------------------------------------------------------------------------------


def bind(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a Bind."""
    portal, statement, rest = p.bind_names(data, pos + 5, min(end, len(data)))
    encoding.check_names(session, portal, statement)
    return binding.use(session, Use(statement, portal, data, pos, end, rest))


def describe(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a Describe."""
    if session.ledger.recodes:
        encoding.note_codec(session)
    target, name = p.target_parts(data, pos + 5, end, "Describe")
    encoding.check_names(session, name)
    if target == 0x53:  # 'S', a statement
        return binding.use(session, Use(name, None, data, pos, end, end))
    return _describe_portal(session, name, data, pos, end)


def _describe_portal(session: Session, portal: bytes, data: bytes, pos: int, end: int) -> bytes | None:
    link = session.link
    if link is None:
        forward(session, r.DESCRIBE)
        return None
    portals = link.portals
    if not portal and portals.unnamed_of is not None and portals.unnamed_of[1] == session.groups.sent:
        link.group_open = True
        told = partial(reparsing.tell_rows, session, portals.unnamed_of[0])
        link.replies.owe(Described(r.DESCRIBE, told))
        return None
    verdict = portals.find(portal) if portals.any else None
    if verdict is None or verdict.kind not in OF_ANOTHER:
        forward(session, r.DESCRIBE)
        return None
    row_sources.check_source(session, verdict)
    verdicts.check_described(session, verdict)
    before = row_sources.look_first(session, link, b"P" + portal, verdict)
    link.replies.owe(r.DESCRIBE)
    link.group_open = True
    return before + data[pos:end] if before else None


# --- Execute ----------------------------------------------------------------------------------------------------------


def execute(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve an Execute."""
    if session.ledger.recodes:
        encoding.note_codec(session)
    p.check_execute(data, pos + 5, end)
    portal = key(data[pos + 5 : end - 5])
    encoding.check_names(session, portal)
    link = session.link
    if link is not None:
        link.names_may_change(portal)
    if not portal:
        _check_unnamed_portal(session, link)
    answers.charge(session)
    verdict = link.portals.find(portal) if link is not None and link.portals.any else None
    if verdict is None or link is None:
        forward(session, r.EXECUTE)
        link = session.link
        if link is not None:
            link.transaction.ran_in = session.groups.sent
            encoding.executed(session, link, None)
        return None
    before = _ahead_of_execute(session, link, verdict, portal, data[end : end + 1] == b"S")
    done = _executed(session, link, verdict)
    behind = resetting.again(session, link, verdict, done, group=True)
    return before + data[pos:end] + behind if before or behind else None


def _check_unnamed_portal(session: Session, link: Link | None) -> None:
    """Raise the Refusal of an Execute of the unnamed portal where it may be no Bind's."""
    if link is not None and link.portals.bound_in == session.groups.sent:
        return
    if session.groups.unanswered:
        raise MustWait
    if link is None or (not link.bound and link.replies.status == p.FAILED):
        raise answers.no_portal(session)


def _ahead_of_execute(session: Session, link: Link, verdict: Verdict, portal: bytes, last: bool) -> bytes:
    """Return what goes ahead of an Execute of this verdict. `last`: a Sync follows it. Raises MustWait, Refusal."""
    verdicts.check_executed(session, verdict)
    if effects.moves_used_path(session, verdict):
        raise answers.refused(session, PATH_IN_USE)
    if verdict.kind in OF_ANOTHER:
        row_sources.check_fetched(session, verdict)
        if not link.portals.runs(portal, verdict):
            raise answers.refused(session, answers.LATE_PORTAL)
    before = sql_names.provide(session, link, verdict)
    if verdict.kind == "commit" and not last:
        before += transactions.before_end(session, link)
    return before + transactions.open_block(session, link, verdict)


def _executed(session: Session, link: Link, verdict: Verdict) -> Effects:
    """Owe the reply to an Execute, and note what it does; return its effects, with those of what it executes."""
    transaction = link.transaction
    if verdict.kind in _BLOCKS:
        transaction.block = Block.CLIENTS if verdict.kind == "begin" else Block.NONE
        link.stirred = True
    if verdict.steers:
        transaction.steer_by(verdict)
    done = effects.of(session, verdict)
    if verdict.kind in boundaries.ENDS or effects.has(verdict, Effect.DISCARD_ALL):
        transaction.another()
    else:
        transaction.ran_in = session.groups.sent
    effects.keep_prepared(session, verdict)
    owed = effects.follow(session, link, done, r.EXECUTE)
    encoding.executed(session, link, verdict)
    link.replies.owe(owed)
    link.group_open = True
    leasing.pin_for(session, done)
    return done


# --- Close, Sync, Flush -----------------------------------------------------------------------------------------------


def close(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a Close."""
    if session.ledger.recodes:
        encoding.note_codec(session)
    target, name = p.target_parts(data, pos + 5, end, "Close")
    encoding.check_names(session, name)
    link, prepared = session.link, session.prepared
    statement = target == 0x53  # 'S'
    if link is None:
        # Nothing is owed, no portal is open, and closing what does not exist is no error.
        if statement and name:
            prepared.forget(key(name))
        elif statement:
            session.unnamed.drop()
        session.peer.wire.write(_CLOSE_COMPLETE)
        return b""
    link.names_may_change()
    if not statement:
        forward(session, r.CLOSE)
        return None
    resetting.check_discarded(session)
    link.group_open = True
    if not name:
        session.unnamed.end_sent()
        link.replies.owe(r.CLOSE_UNNAMED)
        return None
    # The server has it under this name only if SQL may know it; else this closes nothing, which is no error.
    own, known_as = link.put_own(), key(name)

    def closed() -> None:
        prepared.forget(known_as)
        own.forget(known_as)

    prepared.close_sent(known_as)
    own.close_sent(known_as)
    link.replies.owe(Done(r.CLOSE, closed))
    session.ledger.loosened = bool(session.ledger.pins)
    return p.target(p.CLOSE, b"S", NO_NAME) if name.startswith(PREFIX) else None


def sync(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a Sync."""
    p.check_empty(pos + 5, end)
    link = session.link
    if session.swallowing or link is None:
        session.swallowing = False
        session.local.seen = session.status
        session.peer.wire.write(p.READY[session.status])
        return b""
    link.group_open = False
    link.replies.owe(r.SYNC)
    if link.transaction.block is Block.OURS:
        return p.SYNC_MESSAGE + transactions.end_ours(session, link)
    link.transaction.block = Block.NONE
    return None


def flush(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a Flush."""
    p.check_empty(pos + 5, end)
    return b"" if session.link is None else None

"""Messages that end with a ReadyForQuery of their own: Query, FunctionCall.

A handler returns None to forward the message's exact bytes, or other bytes to send in their place (b"" for nothing);
it raises MustWait to leave the message unserved until there is what it waits for, and Refusal to have it answered.
"""

from __future__ import annotations

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.owed import Run
from proxy.pooling.sent import MustWait
from proxy.session import (
    answers,
    boundaries,
    effects,
    encoding,
    leasing,
    resetting,
    row_sources,
    sql_names,
    transactions,
    verdicts,
)
from proxy.session.judging import PATH_IN_USE
from proxy.session.link import Link
from proxy.session.session import Effects, Session
from proxy.session.transaction_ahead import Block
from proxy.sql import observe
from proxy.sql.verdict import Action, Verdict


def query(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a Query."""
    if end > len(data):
        raise answers.too_long(session)
    if session.meter is not None:
        answers.charge(session)
    text = p.query_text(data, pos + 5, end)
    if session.link is not None:
        session.link.names_may_change()
    if session.ledger.recodes:
        encoding.check_letters(session, text)
    verdict = verdicts.of(session, text, extended=False)
    if verdict.plain and session.local.status != p.FAILED:
        link = session.link or leasing.lease(session)
        if not link.stirred:
            _forward(session, link, verdict)
            if session.codec == "utf-8":
                session.filter.remember_query(data[pos:end], verdict)
            return None
    verdicts.check(session, verdict, text)
    if boundaries.ends_here(session, verdict) and boundaries.take(session, verdict, text):
        return b""
    return _query(session, verdict, text, data[pos:end])


def _query(session: Session, verdict: Verdict, text: bytes, message: bytes) -> bytes | None:
    """Send a Query that is allowed, or observed, and may be anything."""
    if verdict.effects:
        if foreign := sql_names.name_of_ours(session, verdict):
            raise answers.no_statement(session, foreign)
        verdicts.check_executed(session, verdict)
    transactions.check_failed(session, verdict)
    link = session.link or leasing.lease(session)
    if link.group_open:
        transactions.check_order(session, link, verdict)
    opens = _check(session, link, verdict)
    before, between = _ahead(session, link, verdict, verdict.text or text)
    sent = _account(session, link, verdict, text)
    if opens:
        link.replies.owe(r.SKIP_QUERY)
        before += p.query(observe.BEGIN)
    sent, behind = _owe(session, link, verdict, sent, between=between, opens=opens)
    return p.in_place(message, None if sent == text else p.query(sent), before, behind)


def _account(session: Session, link: Link, verdict: Verdict, text: bytes) -> bytes:
    """Account for a Query that goes upstream; return the text to send."""
    replaced = transactions.let_through(session, link, verdict)
    if verdict.action is Action.REFUSE:
        leasing.pin_for(session, session.texts.sets_beside(text, session.codec))
    if session.meter is not None and verdict.statements > 1 and not session.repeated:
        session.meter.charge_more(verdict.statements - 1)
    if verdict.nulls:
        replaced = resetting.with_startup(session, verdict, text)
    return text if replaced is None else replaced


def _forward(session: Session, link: Link, verdict: Verdict) -> None:
    """Forward a plain query on a link with nothing to be looked at: what the general path does, and nothing between."""
    session.doing = verdict
    session.house.stats.statements[verdict.label] += 1
    if link.group_open:
        link.end_within()
    session.unnamed.end_sent()
    link.replies.owe(r.QUERY)
    link.bound = link.bound_before = False


def _check(session: Session, link: Link, verdict: Verdict) -> bool:
    """Raise Refusal, or MustWait, for what the link has open; return whether an observed text opens a block of ours."""
    resetting.check_discarded(session)
    if verdict.effects:
        row_sources.check_fetched(session, verdict)
    if effects.moves_used_path(session, verdict):
        raise answers.refused(session, PATH_IN_USE)
    opens = transactions.observes(session, verdict) and transactions.opens(session, link)
    if opens and link.group_open:
        raise answers.refused(session, verdict)
    return opens


def _ahead(session: Session, link: Link, verdict: Verdict, text: bytes) -> tuple[bytes, bool]:
    """Return what goes ahead of a Query, and whether functions plan anew between its statements. Raises MustWait."""
    before = resetting.after_discard(session, link, verdict)
    replans = resetting.has_to_replan(session, link, verdict)
    between = replans and resetting.replans_between(session, link, verdict, text)
    if between:
        link.held.drop_apart()
    elif replans:  # ahead of statements that keep what they were parsed as
        before += resetting.replan(link, query=True)
    leaving = sql_names.leaves_failed(session, link, verdict, text)
    if leaving is not None:
        if link.group_open and link.transaction.parted != session.groups.sent:
            # In a transaction block its Sync changes nothing, and what stands before it is known: the names, too.
            leasing.end_group(session, link)
            raise MustWait
        before += sql_names.provide_in_failed(session, link, verdict, *leaving)
    elif verdict.effects:
        if replans and not between:
            before += sql_names.provide_behind_ours(session, link, verdict)
        else:
            before += sql_names.provide(session, link, verdict, sql_names.At.QUERY)
    if link.transaction.block is Block.OURS:
        before += link.help(observe.END)  # the Query is in no transaction; the group's Sync ends what has failed
    return before, between


def _owe(
    session: Session, link: Link, verdict: Verdict, text: bytes, *, between: bool, opens: bool
) -> tuple[bytes, bytes]:
    """Owe the reply to a Query; return its text, with ours in between if that has to be, and what goes behind it."""
    if verdict.steers:
        link.transaction.steer_by(verdict)
    link.end_within()
    session.unnamed.end_sent()
    built: bytes | None = None
    behind = b""
    done: Effects = ()
    if verdict.effects or between:
        done = effects.of(session, verdict)
        built = _owe_effects(session, link, verdict, text, done, between=between)
    elif opens:
        link.replies.owe(Run(r.QUERY))
        behind = transactions.end_ours(session, link)
    else:
        link.replies.owe(r.QUERY)
    link.transaction.ending = verdict.kind in boundaries.ENDS
    link.stirred = link.stirred or link.transaction.ending
    link.bound = link.bound_before = False
    if built is not None:
        return built, behind
    return text, behind or resetting.again(session, link, verdict, done, group=False)


def _owe_effects(
    session: Session, link: Link, verdict: Verdict, text: bytes, done: Effects, *, between: bool
) -> bytes | None:
    """Owe the reply to a Query that changes names or settings; return its text with ours in between, if it is built."""
    owed = effects.follow(session, link, done, r.QUERY)
    if between and owed is r.QUERY:
        owed = Run(r.QUERY)
    built = None
    if isinstance(owed, Run) and verdict.kind == "multi" and (between or session.ledger.startup.items):
        built = resetting.put_between(session, owed, text, replans=between)
    link.replies.owe(owed)
    effects.keep_prepared(session, verdict)
    leasing.pin_for(session, done)
    return built


def function_call(session: Session, data: bytes, pos: int, end: int) -> bytes | None:
    """Serve a FunctionCall."""
    oid, formats, arguments = p.function_call_parts(data, pos + 5, end)
    answers.charge(session)
    if session.link is not None:
        session.link.names_may_change()
    verdict = session.filter.judge_function_call(oid, formats, arguments)
    if verdict.action is not Action.ALLOW:
        raise answers.refused(session, verdict)
    link = session.link or leasing.lease(session)
    ended = link.help(observe.END) if link.transaction.block is Block.OURS else b""
    link.end_within()
    link.replies.owe(r.FUNCTION)
    session.house.stats.statements[verdict.label] += 1
    return ended + data[pos:end] if ended else None

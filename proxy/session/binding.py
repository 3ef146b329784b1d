"""Bind and Describe of a statement: judged again, parsed first where the link lacks it, under its name there."""

from __future__ import annotations

from functools import partial
from typing import Final

from proxy import protocol as p
from proxy.errors import PROTOCOL_VIOLATION
from proxy.ours import PREFIX
from proxy.pooling import owed as r
from proxy.pooling.owed import Described, Done, Learned
from proxy.pooling.sent import MustWait
from proxy.pooling.statements import OF_ANOTHER, Statement
from proxy.session import (
    answers,
    effects,
    leasing,
    reparsing,
    resetting,
    row_sources,
    sql_names,
    transactions,
    verdicts,
)
from proxy.session.judging import MAX_INLINE, PATH_IN_USE
from proxy.session.link import Link
from proxy.session.portals import key
from proxy.session.session import Session
from proxy.sql import text as texts
from proxy.sql.verdict import Action, Effect, Verdict

ANALYSED: Final = frozenset(("select", "explain", "declare"))
"""Kinds of statements that are analysed at their Parse, under a snapshot (analyze_requires_snapshot() in analyze.c)."""
_WITH_ROWS: Final = frozenset(("select", "show", "explain", "fetch", "execute"))
"""Kinds of statements that may give rows (UtilityReturnsTuples(), tcop/utility.c)."""
_NOTHING: Final = Verdict(Action.ALLOW, "empty")
"""Of a Bind to what does not exist: the server says so."""


def use(
    session: Session, name: bytes, portal: bytes | None, data: bytes, pos: int, end: int, rest: int
) -> bytes | None:
    """Serve a Bind to a portal, or a Describe (None), of a statement; `rest` is where the message goes on behind it."""
    resetting.check_discarded(session)
    if name:
        return _use_named(session, name, portal, data, pos, end, rest)
    return _use_unnamed(session, portal, data, pos, end, rest)


# --- a named one ------------------------------------------------------------------------------------------------------


def _use_named(
    session: Session, name: bytes, portal: bytes | None, data: bytes, pos: int, end: int, rest: int
) -> bytes | None:
    statement = session.prepared.find(key(name))
    if statement is None:
        _use_unknown(session, name, portal)
        return None
    statement = _made_ready(session, name, statement)
    verdict = _bound(session, statement.verdict, statement.types, portal, data, rest, end)
    if statement.silent and portal is None:
        return answers.describe(session, statement.types)
    link = session.link
    server_name = None if link is None else reparsing.name_on(session, link, statement, name)
    if server_name is None and session.may_have_failed:
        values = None if portal is None else data[rest:end]
        answer = _use_when_failed(session, name, statement.body, statement.verdict, values)
        if answer is not None:
            return answer
    if link is None:
        transactions.check_failed(session, statement.verdict)
        link = leasing.lease(session)
        server_name = reparsing.name_on(session, link, statement, name)
    _check_link(session, link, portal, verdict)
    source = (b"S" + name, statement.parsed_in, statement.body) if portal is None else None
    before = _ahead(session, link, verdict, source)
    if verdict.effects:
        server_name = reparsing.name_on(session, link, statement, name)  # those of ours may be closed now
    if portal is None and statement.rows and server_name != statement.noted_as and link.replies.status != p.FAILED:
        # parsed again it may note something else
        return before + answers.describe(session, statement.types, statement.rows)
    if server_name is None:
        if reparsing.unreadable_named(session, statement):
            unreadable = answers.no_statement(session, name)
            return before + answers.answer(session, unreadable, p.BIND, unnamed=False)
        server_name, parse = reparsing.parse_again(session, link, statement, name)
        before += parse
    session.prepared.shown[server_name] = name
    session.doing = verdict
    _owe(session, link, portal, verdict)
    start = b"S" if portal is None else portal + b"\0"
    length = end - pos - 5 - len(name) + len(server_name)
    kind = p.DESCRIBE if portal is None else p.BIND
    return before + p.rewritten(kind, length, start + server_name + b"\0", data[rest : min(end, len(data))])


def _made_ready(session: Session, name: bytes, statement: Statement) -> Statement:
    """Return the statement of this name, judged anew where it has to be, and apart from other clients'."""
    verdicts.check_statement(session, statement)
    reparsing.settle_context(session, statement)
    if reparsing.at_home(session, statement):
        return statement
    if statement.context is None:
        statement.apart = True  # nobody else has it yet
        return statement
    return session.prepared.part(key(name), statement)


def _use_unknown(session: Session, name: bytes, portal: bytes | None) -> None:
    """Forward the use of a name that stands for none of the client's statements. Raises Refusal, MustWait."""
    if name.startswith(PREFIX) or session.link is None:
        raise answers.no_statement(session, name)
    verdicts.check_own(session, key(name))
    # The server may have it, by SQL; else its own error is the right one.
    _owe(session, session.link, portal, Verdict(Action.ALLOW, "execute", effects=session.texts.sql_effects))


# --- the unnamed one --------------------------------------------------------------------------------------------------


def _use_unnamed(session: Session, portal: bytes | None, data: bytes, pos: int, end: int, rest: int) -> bytes | None:
    unnamed = session.unnamed.which()
    if session.link is None and unnamed is None:
        raise answers.no_statement(session, b"")
    if unnamed is not None:
        unnamed = verdicts.check_unnamed(session, unnamed)
    link = session.link or leasing.lease(session)
    there = session.unnamed.there()
    if unnamed is None:
        if not there:
            raise answers.no_statement(session, b"")
        _owe(session, link, portal, _NOTHING)
        return None
    message, context, verdict, _, codec = unnamed
    if not there and reparsing.unreadable(session, context, message, codec):
        raise answers.no_statement(session, b"")
    verdict = _bound(session, verdict, message[message.index(0, 6) + 1 :], portal, data, rest, end)
    if portal is None and (silent := reparsing.silent_unnamed(session, message, verdict)) is not None:
        return answers.describe(session, silent)
    if not there and session.may_have_failed:
        values = None if portal is None else data[rest:end]
        answer = _use_when_failed(session, b"", message[6:], verdict, values)
        if answer is not None:
            return answer
    _check_link(session, link, portal, verdict)
    source = (b"S", session.unnamed.parsed_in, message[6:]) if portal is None else None
    before = _ahead(session, link, verdict, source)
    if not there:
        parse = partial(reparsing.repeat_unnamed, session, link, message, verdict)
        shaped = context.context if isinstance(context, Learned) else context
        before += reparsing.in_context(session, link, shaped, parse)
        leasing.count_replay(session, link)
    _owe_unnamed(session, link, portal, message, verdict)
    return before + data[pos : min(end, len(data))] if before else None


def _owe_unnamed(session: Session, link: Link, portal: bytes | None, message: bytes, verdict: Verdict) -> None:
    """Owe the reply to a use of the unnamed statement, which came with this Parse."""
    if portal is None:
        link.replies.owe(Described(r.DESCRIBE, partial(reparsing.tell_unnamed, session, message)))
        link.group_open = True
        return
    _owe(session, link, portal, verdict)
    if not portal and verdict.kind == "select":
        link.portals.unnamed_of = (message, session.groups.sent)


# --- what both have in common -----------------------------------------------------------------------------------------


def _bound(
    session: Session, verdict: Verdict, types: bytes, portal: bytes | None, data: bytes, rest: int, end: int
) -> Verdict:
    """Return the verdict on a Bind, whose values can be judged, too; `types` are those of its statement's Parse."""
    if portal is None or not verdict.at_bind:
        return verdict
    return verdicts.of_values(session, verdict, types, data, rest, end)


def _ahead(session: Session, link: Link, verdict: Verdict, source: tuple[bytes, int, bytes] | None) -> bytes:
    """Return what goes ahead of a use. Raises MustWait, Refusal.

    `source` is of a Describe: `S` and the statement's name, the group of its Parse, and the body of that.
    """
    what, parsed_in, body = source or (b"", 0, b"")
    describes = source is not None and verdict.kind in OF_ANOTHER
    if describes:
        row_sources.check_described(session, parsed_in, body, verdict)
    before = resetting.after_discard(session, link, verdict)
    if verdict.effects:
        before += sql_names.provide(session, link, verdict)
    return before + row_sources.look_first(session, link, what, verdict) if describes else before


def _check_link(session: Session, link: Link, portal: bytes | None, verdict: Verdict) -> None:
    """Raise MustWait, or Refusal, where what the link has open forbids it."""
    if portal is not None:
        transactions.check_order(session, link, verdict)
    if effects.moves_used_path(session, verdict):
        raise answers.refused(session, PATH_IN_USE)


def _owe(session: Session, link: Link, portal: bytes | None, verdict: Verdict) -> None:
    if portal is None:
        link.replies.owe(r.DESCRIBE)
    else:
        link.transaction.read_in = session.groups.sent
        _owe_bind(session, link, portal, verdict)
    link.group_open = True
    session.inbox.passes = True


def _owe_bind(session: Session, link: Link, portal: bytes, verdict: Verdict) -> None:
    """Owe the reply to a Bind, and keep in mind what an Execute of this portal leaves behind."""
    portals = link.portals
    matters = bool(verdict.effects or verdict.steers or session.ledger.recodes)
    noted = portals.bind_sent(portal, verdict, noted=matters)
    link.bound = link.bound or not portal
    if noted is None and not portals.any:
        link.replies.owe(r.BIND_NAMED if portal else r.BIND)
        return
    portals.note(portal, noted)
    note_inside(session, link, verdict)
    link.replies.owe(Done(r.BIND_NAMED if portal else r.BIND, partial(portals.keep, portal, noted)))
    if portal:
        # SQL can FETCH from it, and that leaves the same behind.
        leasing.pin_for(session, effects.of(session, verdict))


def note_inside(session: Session, link: Link, verdict: Verdict) -> None:
    """Note what the functions set that a statement uses: a Parse can run a CHECK, and a Bind what is IMMUTABLE."""
    inside = tuple(each for each in verdict.effects if each[0] is Effect.SETTING_INSIDE)
    if inside:
        leasing.pin_for(session, inside)
        link.encoding.obscure()


def _use_when_failed(
    session: Session, name: bytes, body: bytes, verdict: Verdict, values: bytes | None
) -> bytes | None:
    """Answer a Bind, or a Describe, where a failed transaction forbids to parse its statement; None: parse it.

    `body` is that of its Parse, behind the name; `values` are what a Bind has behind its names, None for a
    Describe. PostgreSQL looks at the transaction late: what gives no rows is described, and a Bind with too many
    values or too few is told so (exec_describe_statement_message() and exec_bind_message(), tcop/postgres.c).
    Raises MustWait where it is not known yet whether the transaction has failed.
    """
    unanswered, link = session.groups.unanswered, session.link
    if link is not None and link.transaction.is_steered and not unanswered:
        return None  # what stands before it in its own group may end it
    if session.status != p.FAILED and not unanswered:
        return None
    wrong = "" if values is None else _miscounted(session, name, body, verdict, values)
    if not wrong and (values is not None or verdict.kind in _WITH_ROWS):
        return None
    if unanswered:
        raise MustWait
    if wrong:
        raise answers.error(session, PROTOCOL_VIOLATION, wrong)
    return answers.describe(session, body[body.index(0) + 1 :])


def _miscounted(session: Session, name: bytes, body: bytes, verdict: Verdict, values: bytes) -> str:
    """Say what is wrong with the count of values in a Bind; "" if nothing is, or nobody knows.

    What is not analysed at its Parse has the parameters alone that are typed there: the $1 of a PREPARE is not its.
    """
    end = body.index(0)
    formats = 2 + 2 * int.from_bytes(values[:2], "big")
    analysed = verdict.kind in ANALYSED
    if (analysed and end > MAX_INLINE) or len(values) < formats + 2:
        return ""
    given = int.from_bytes(values[formats : formats + 2], "big")
    typed = int.from_bytes(body[end + 1 : end + 3], "big")
    wanted = max(typed, texts.parameters(body[:end].decode(session.codec, "replace"))) if analysed else typed
    if given == wanted:
        return ""
    shown = name.decode(session.codec, "replace")
    return f'bind message supplies {given} parameters, but prepared statement "{shown}" requires {wanted}'

"""Bind and Describe of a statement: judged again, parsed first where the link lacks it, under its name there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from proxy import protocol as p
from proxy.errors import PROTOCOL_VIOLATION
from proxy.ours import PREFIX
from proxy.pooling import owed as r
from proxy.pooling.owed import Described, Done, Learned
from proxy.pooling.sent import MustWait
from proxy.pooling.snapshot import Settings
from proxy.pooling.statements import OF_ANOTHER, Context, Statement
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


@dataclass(frozen=True, slots=True)
class Use:
    """A Bind to a portal, or a Describe, of a statement: `data[pos:end]`, which goes on at `rest` behind its names.

    All of it but the names may be yet to come.
    """

    name: bytes
    portal: bytes | None
    """None: a Describe."""
    data: bytes
    pos: int
    end: int
    rest: int

    @property
    def describes(self) -> bool:
        return self.portal is None

    @property
    def values(self) -> bytes | None:
        """Return what a Bind has behind its names; None for a Describe."""
        return None if self.portal is None else self.data[self.rest : self.end]

    @property
    def message(self) -> bytes:
        """Return it as far as it has come."""
        return self.data[self.pos : min(self.end, len(self.data))]

    def of(self, server_name: bytes) -> bytes:
        """Return it with this name of the statement."""
        start = b"S" if self.portal is None else self.portal + b"\0"
        length = self.end - self.pos - 5 - len(self.name) + len(server_name)
        tail = self.data[self.rest : min(self.end, len(self.data))]
        return p.rewritten(p.DESCRIBE if self.portal is None else p.BIND, length, start + server_name + b"\0", tail)

    def source(self, parsed_in: int, body: bytes) -> tuple[bytes, int, bytes] | None:
        """Return what a Describe asks about: `S` and the name, the group of the Parse, and the body of that."""
        return (b"S" + self.name, parsed_in, body) if self.portal is None else None


def use(session: Session, asked: Use) -> bytes | None:
    """Serve a Bind to a portal, or a Describe, of a statement."""
    resetting.check_discarded(session)
    session.prepared.note_discarded_plans()
    return _use_named(session, asked) if asked.name else _use_unnamed(session, asked)


# --- a named one ------------------------------------------------------------------------------------------------------


def _use_named(session: Session, use: Use) -> bytes | None:
    name, link = use.name, session.link
    statement = session.prepared.find(key(name))
    if statement is None:
        _use_unknown(session, name, use.portal)
        return None
    statement, anew = _made_ready(session, name, statement)
    verdict = _bound(session, use, statement.verdict, statement.types)
    if statement.silent and use.describes:
        return answers.describe(session, statement.types)
    server_name = None if link is None else reparsing.name_on(session, link, statement, name)
    if (
        server_name is None
        and (answer := _use_when_failed(session, use, statement.body, statement.verdict)) is not None
    ):
        return answer
    if link is None:
        transactions.check_failed(session, statement.verdict)
        link = leasing.lease(session)
        server_name = reparsing.name_on(session, link, statement, name)
    _check_link(session, link, use.portal, verdict)
    before = _ahead(session, link, verdict, use.source(statement.parsed_in, statement.body))
    if verdict.effects:
        server_name = reparsing.name_on(session, link, statement, name)  # those of ours may be closed now
    if use.describes and _was_told_other_rows(link, statement, server_name):
        return before + answers.describe(session, statement.types, statement.rows)
    if server_name is None:
        if reparsing.unreadable_named(session, statement):
            unreadable = answers.no_statement(session, name)
            return before + answers.answer(session, unreadable, p.BIND, unnamed=False)
        server_name, parse = reparsing.parse_again(session, link, statement, name)
        before += parse
    session.prepared.shown[server_name] = name
    session.doing = verdict
    _owe(session, link, use.portal, verdict)
    return before + use.of(server_name) + _behind(session, link, use, anew, statement.shaped, statement.shape)


def _was_told_other_rows(link: Link, statement: Statement, server_name: bytes | None) -> bool:
    """Whether a statement has noted its rows, and would note others now that it is parsed again."""
    return bool(statement.rows) and server_name != statement.noted_as and link.replies.status != p.FAILED


def _made_ready(session: Session, name: bytes, statement: Statement) -> tuple[Statement, bool]:
    """Return the statement of this name, judged anew where it has to be, and apart from other clients'.

    And whether its use may have it analysed anew.
    """
    verdicts.check_statement(session, statement)
    if reparsing.may_be_analysed_anew(session, statement.context):
        return statement if statement.apart else session.prepared.part(key(name), statement), True
    if reparsing.at_home(session, statement):
        return statement, False
    if statement.context is None:
        statement.apart = True  # nobody else has it yet
        return statement, False
    return session.prepared.part(key(name), statement), False


def _behind(
    session: Session,
    link: Link,
    use: Use,
    anew: bool,
    context: Callable[[], Context],
    shape: Callable[[Settings], None],
) -> bytes:
    """Return what goes behind a use, if that may have its statement analysed `anew`: see `learn_use`.

    Nothing goes behind a message that is yet to come.
    """
    return reparsing.learn_use(session, link, context, shape) if anew and use.end <= len(use.data) else b""


def _use_unknown(session: Session, name: bytes, portal: bytes | None) -> None:
    """Forward the use of a name that stands for none of the client's statements. Raises Refusal, MustWait."""
    if name.startswith(PREFIX) or session.link is None:
        raise answers.no_statement(session, name)
    verdicts.check_own(session, key(name))
    # The server may have it, by SQL; else its own error is the right one.
    _owe(session, session.link, portal, Verdict(Action.ALLOW, "execute", effects=session.texts.sql_effects))


# --- the unnamed one --------------------------------------------------------------------------------------------------


def _use_unnamed(session: Session, use: Use) -> bytes | None:
    unnamed = session.unnamed.which()
    if unnamed is None:
        _use_none(session, use.portal)
        return None
    message, context, verdict, judge, codec = verdicts.check_unnamed(session, unnamed)
    shaped = context.context if isinstance(context, Learned) else context
    link = session.link or leasing.lease(session)
    there = session.unnamed.there()
    if not there and reparsing.unreadable(session, shaped, message, codec):
        raise answers.no_statement(session, b"")
    verdict = _bound(session, use, verdict, message[message.index(0, 6) + 1 :])
    if use.describes and (silent := reparsing.silent_unnamed(session, message, verdict)) is not None:
        return answers.describe(session, silent)
    if not there and (answer := _use_when_failed(session, use, message[6:], verdict)) is not None:
        return answer
    _check_link(session, link, use.portal, verdict)
    before = _ahead(session, link, verdict, use.source(session.unnamed.parsed_in, message[6:]))
    if not there:
        parse = partial(reparsing.repeat_unnamed, session, link, message, verdict)
        before += reparsing.in_context(session, link, shaped, parse)
        leasing.count_replay(session, link)
    anew = reparsing.may_be_analysed_anew(session, shaped)
    _owe_unnamed(session, link, use.portal, message, verdict)

    def shape(found: Settings) -> None:
        session.unnamed.replace(unnamed, (message, found, verdict, judge, codec))

    return p.in_place(use.message, None, before, _behind(session, link, use, anew, lambda: shaped, shape))


def _use_none(session: Session, portal: bytes | None) -> None:
    """Forward the use of an unnamed statement that the client does not have. Raises Refusal, MustWait."""
    if session.link is None or not session.unnamed.there():
        raise answers.no_statement(session, b"")
    _owe(session, session.link, portal, _NOTHING)


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


def _bound(session: Session, use: Use, verdict: Verdict, types: bytes) -> Verdict:
    """Return the verdict on a Bind, whose values can be judged, too; `types` are those of its statement's Parse."""
    if use.describes or not verdict.at_bind:
        return verdict
    return verdicts.of_values(session, verdict, types, use.data, use.rest, use.end)


def _ahead(session: Session, link: Link, verdict: Verdict, source: tuple[bytes, int, bytes] | None) -> bytes:
    """Return what goes ahead of a use. Raises MustWait, Refusal.

    `source` is as in `Use`.
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


def _use_when_failed(session: Session, use: Use, body: bytes, verdict: Verdict) -> bytes | None:
    """Answer a Bind, or a Describe, where a failed transaction forbids to parse its statement; None: parse it.

    `body` is that of its Parse, behind the name. PostgreSQL looks at the transaction late: what gives no rows is
    described, and a Bind with too many values or too few is told so (exec_describe_statement_message() and
    exec_bind_message(), tcop/postgres.c). Raises MustWait where it is not known yet whether the transaction has failed.
    """
    if not session.may_have_failed:
        return None
    values = use.values
    unanswered, link = session.groups.unanswered, session.link
    if link is not None and link.transaction.is_steered and not unanswered:
        return None  # what stands before it in its own group may end it
    if session.status != p.FAILED and not unanswered:
        return None
    wrong = "" if values is None else _miscounted(session, use.name, body, verdict, values)
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

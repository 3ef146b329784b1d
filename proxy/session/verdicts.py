"""The verdict by which a message goes on: on its text, and again on what it uses that was judged before."""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.errors import PROGRAM_LIMIT_EXCEEDED
from proxy.pooling import owed as r
from proxy.pooling.owed import Learned, Shown
from proxy.pooling.sent import Awaits, MustWait
from proxy.pooling.snapshot import ANY_SETTINGS, NEXT_SETTINGS
from proxy.pooling.statements import OF_ANOTHER, Context, Statement
from proxy.session import answers, effects, encoding
from proxy.session.inbox import STREAM_BIND_FROM
from proxy.session.link import Link
from proxy.session.session import Session, Unparsed
from proxy.sql.verdict import Action, Effect, Verdict, changes_path

_LOOKS_UP: Final = frozenset(("select", "explain", "declare", "copy", "prepare", "execute"))
"""Kinds of texts of one statement in which there can be names that the search_path decides about."""


def of(
    session: Session, text: bytes, *, extended: bool, types: bytes = b"", codec: str = "", moves: bool = False
) -> Verdict:
    """Return the verdict on a text, and on the types of a Parse. Raises MustWait, and Refusal behind a wait in vain.

    `moves`: as in `judge_by_path`.
    """
    if session.wait_error is not None:
        answers.check_wait(session)
    judge_by_path(session, moves=moves)
    verdict = session.texts.verdict(text, codec or session.codec, extended=extended, types=types)
    if verdict is None:
        raise MustWait(Awaits.VERDICT)
    if verdict.action is Action.REFUSE:
        _check_path(session, verdict, moves=moves)
    return verdict


def check(session: Session, verdict: Verdict, text: bytes, codec: str = "") -> None:
    """Raise the Refusal of a text that does not go upstream, or MustWait."""
    if verdict.action is not Action.REFUSE or session.texts.passes(verdict, text, codec or session.codec):
        return
    if verdict.rule == "unknown-relation" and not verdict.hint and verdict.kind != "multi":
        _check_transaction(session)  # the server's words, which looks at the transaction first
    raise answers.refused(session, verdict)


def _check_transaction(session: Session) -> None:
    """Raise the Refusal of whatever finds a failed transaction, or MustWait where it is not known if this one does."""
    link = session.link
    if session.groups.unanswered:
        raise MustWait
    if (session.local.status if link is None else link.transaction.status) == p.FAILED:
        raise answers.failed_already(session)


# --- by which search_path ---------------------------------------------------------------------------------------------


def judge_by_path(session: Session, *, moves: bool = False) -> None:
    """Judge what comes next by the search_path that it finds; where that is not known, as under every path.

    `moves`: what it stands in may change the path first.
    """
    judge, ledger = session.judge, session.ledger
    if moves or (ledger.unsure and ledger.roams):
        found = judge.under(session.told_path) if session.told_path and not moves else judge.wide
    elif (path := ledger.settings.path) is None:
        found = judge  # the path that the session began with: nothing has to be looked for
    else:
        found = judge.under(path)
    session.filter = session.texts.filter = found


def forget_path(session: Session) -> None:
    """Forget which search_path the message found that has been served: another one need not find it."""
    if session.told_path is not None:
        session.told_path = None
        session.filter = session.judge.wide


def _check_path(session: Session, verdict: Verdict, *, moves: bool) -> None:
    """Raise MustWait where a text is no read under every search_path, and nobody knows which one there is.

    Only the server does: what was set can have failed, or been rolled back. It is asked in front of the message,
    as long as a path holds that is told there: not behind the first statement of a text.
    """
    link, ledger = session.link, session.ledger
    if verdict.action is not Action.REFUSE or not ledger.roams or session.told_path is not None or link is None:
        return
    if session.groups.unanswered:
        raise MustWait  # it may be known then
    if moves or verdict.kind not in _LOOKS_UP or link.upstream.cancelling:
        return
    if "search_path" in ledger.lost or link.replies.status == p.FAILED:
        return  # it is set again ahead of the message, or the server says no more than that all has failed
    if not link.asking:
        _ask_path(session, link)
    raise MustWait


def _ask_path(session: Session, link: Link) -> None:
    """Ask which search_path there is now, for the message at the head of the inbox alone."""

    def told(value: str) -> None:
        link.asking = False
        session.told_path = value

    link.asking = True
    link.suffix += link.help(b"SHOW search_path", Shown(told))
    if link.group_open:
        link.suffix += p.message(p.FLUSH)
    else:
        link.replies.owe(r.SKIP_SYNC)
        link.suffix += p.SYNC_MESSAGE


# --- judged again -----------------------------------------------------------------------------------------------------


def check_statement(session: Session, statement: Statement, *, moves: bool = False) -> None:
    """Raise Refusal where a statement is no read by the catalogue as it is now, or MustWait.

    The server analyses it anew where the search_path is another one than at its Parse (RevalidateCachedQuery(),
    plancache.c), so it has to be a read under both. `moves`: as in `judge_by_path`.
    """
    judge_by_path(session, moves=moves)
    if statement.judge is session.filter.functions:
        return
    text, codec = statement.text, statement.codec
    types = statement.body[len(text) + 1 :]
    verdict = of(session, text, extended=True, types=types, codec=codec, moves=moves)
    check(session, verdict, text, codec)
    _check_as_parsed(session, statement.context, text, types, codec)
    statement.verdict, statement.judge = verdict, session.filter.functions


def check_unnamed(session: Session, unnamed: Unparsed) -> Unparsed:
    """Do the same for the unnamed statement; return it with the verdict as it is now."""
    judge_by_path(session)
    message, context, _, judge, codec = unnamed
    if judge is session.filter.functions:
        return unnamed
    _, text = p.parse_parts(message, 5, len(message))
    types = message[7 + len(text) :]
    verdict = of(session, text, extended=True, types=types, codec=codec)
    check(session, verdict, text, codec)
    _check_as_parsed(session, context, text, types, codec)
    return message, context, verdict, session.filter.functions, codec


def _check_as_parsed(session: Session, context: Context | Learned, text: bytes, types: bytes, codec: str) -> None:
    """Do the same under the search_path that shaped a statement, for it may be parsed again under that."""
    context = context.context if isinstance(context, Learned) else context
    if context in (None, ANY_SETTINGS, NEXT_SETTINGS):
        return
    now, parsed = session.filter, session.judge.under(context.path)
    if parsed is now or now is session.judge.wide:
        return
    session.texts.filter = parsed
    verdict = session.texts.verdict(text, codec, extended=True, types=types)
    session.texts.filter = now
    if verdict is None:
        raise MustWait(Awaits.VERDICT)
    check(session, verdict, text, codec)


def check_own(session: Session, name: bytes, *, moves: bool = False) -> None:
    """Do the same for a statement that the server has under the client's own name."""
    judge_by_path(session, moves=moves)
    answers.check_wait(session)
    verdict = session.texts.again(name)
    if verdict is None:
        raise MustWait(Awaits.VERDICT)
    _check_path(session, verdict, moves=moves)
    if verdict.action is not Action.ALLOW:
        raise answers.refused(session, verdict)


def check_executed(session: Session, verdict: Verdict) -> None:
    """Do the same for all statements that a text executes by SQL.

    What it does itself may come first, or be a value that one of them is given.
    """
    if _misnames(session, verdict):
        raise answers.refused(session, answers.OTHER_LETTERS)
    found = effects.of(session, verdict)
    moves = (session.ledger.roams and verdict.statements > 1) or any(changes_path(*each) for each in found)
    executed = [session.encode(text) for effect, text in found if effect is Effect.EXECUTE]
    for name, statement in [(name, session.prepared.find(name)) for name in executed]:
        if statement is None:
            check_own(session, name, moves=moves)
            continue
        check_statement(session, statement, moves=moves)
        if statement.verdict.kind in OF_ANOTHER:
            raise answers.refused(session, answers.EXECUTE_OF_EXECUTE)
        if statement.verdict.at_bind:
            raise answers.refused(session, answers.BY_BIND_ALONE)


def check_described(session: Session, verdict: Verdict) -> None:
    """Do the same for what an EXECUTE gives the rows of.

    A Describe has the server analyse that, if the search_path is another one by now (CachedPlanGetTargetList(),
    plancache.c).
    """
    if verdict.kind == "execute":
        check_executed(session, verdict)


def _misnames(session: Session, verdict: Verdict) -> bool:
    """Whether SQL may mean one of the client's statements that is known by other letters. Raises MustWait."""
    return (
        any(effect in effects.NAMING and not name.isascii() for effect, name in verdict.effects)
        and not session.has_the_servers_letters
        and not all(map(bytes.isascii, session.prepared.all()))
    )


def of_values(session: Session, verdict: Verdict, types: bytes, data: bytes, rest: int, end: int) -> Verdict:
    """Judge a Bind's values where its statement gives them to set_config. Raises Refusal, MustWait."""
    if end > len(data):
        text = f"the values of a statement with set_config are longer than {STREAM_BIND_FROM} bytes"
        raise answers.error(session, PROGRAM_LIMIT_EXCEEDED, text, hint="Set it in a statement of its own.")
    values = p.bind_values(data, rest, end)
    if session.ledger.recodes:
        encoding.check_letters(session, b"".join(value for value in values if value is not None))
    given = session.filter.judge_bind(verdict, p.parameter_types(types), values, session.codec)
    if given.action is Action.REFUSE:
        raise answers.refused(session, given)
    return given

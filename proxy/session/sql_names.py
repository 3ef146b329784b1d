"""Names that SQL uses: PREPARE, EXECUTE and DEALLOCATE find the client's statements under the client's own names.

Every function returns the bytes to send, and has registered the replies to them.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from proxy import protocol as p
from proxy.ours import PREFIX
from proxy.pooling import owed as r
from proxy.pooling.owed import Described, Done, Dropped, Owed
from proxy.pooling.sent import MustWait
from proxy.pooling.statements import Statement
from proxy.session import effects, reparsing
from proxy.session.link import Link
from proxy.session.session import Session
from proxy.sql.verdict import Effect, Verdict

_FIRST: Final = re.compile(rb'[\s;]*((?:\s|--[^\n]*\n|/\*[^*/]*\*/|[\w$\x80-\xff]|"[^"]*")*);')
"""The first statement of a text, if it has only words and names in it."""
_LEAVING: Final = frozenset({"commit", "rollback", "rollback_to"})
_Missing = tuple[bytes, Statement, bool, bool | None]
"""A name that SQL uses, its statement, whether it needs all of that, and what of it is on the link: see `Own`."""


def provide(
    session: Session, link: Link, verdict: Verdict, *, query: bool = False, ended: bool = False, parse: bool = False
) -> bytes:
    """Put statements that SQL names on the link under their own names: PREPARE, EXECUTE and DEALLOCATE see them.

    Only EXECUTE needs more than the name, and needs it at its `parse` already. Whoever lists statements is to see
    this client's alone. `query`: in front of a Query; `ended`: behind a Query of ours alone. Raises MustWait.
    """
    unanswered = session.groups.unanswered
    if link.transaction.status == p.FAILED and not (ended or unanswered):
        return b""  # whatever it is, the server says no more than that the transaction has failed
    missing, lists = _missing(session, link, verdict, parse=parse)
    if (parse or query) and (missing or lists) and unanswered and not ended:
        raise MustWait  # in a transaction that fails only now, ours would fail in the place of the client's
    alone = query and (ended or not link.group_open)
    out = reparsing.drop(session, link, session.prepared.drop_sent(link.held) if lists else [])
    like = r.SKIP_ANYHOW if alone else r.SKIP_FIRM if query else r.SKIP_PARSE
    for name, statement, whole, there in missing:
        if there is not None:
            out += _close(link, name)
        if whole:
            reparsing.settle_context(session, statement)
            parse_it = partial(_parse_as_it_is, session, link, statement, name, like)
            out += reparsing.in_context(session, link, statement.context, parse_it, ended=ended)
        else:
            _owe(link, name, whole, like)
            shown = statement.original if lists else None
            out += p.parse(name, b"") if shown is None else p.message(p.PARSE, name + b"\0" + shown)
    if out and alone:
        # A Query behind a failed message would be ignored; on its own it gets the server's answer. Inside a group
        # that is the client's to end it has to be ignored where what stands before it has failed.
        link.replies.owe(r.SKIP_SYNC)
        out += p.SYNC_MESSAGE
    return out


def _missing(session: Session, link: Link, verdict: Verdict, *, parse: bool = False) -> tuple[list[_Missing], bool]:
    """Return the statements that SQL names and the link lacks, and whether it lists all. Raises MustWait."""
    wanted: dict[bytes, tuple[Statement, bool]] = {}
    lists = False
    for effect, text in effects.of(session, verdict):
        if effect is Effect.EXECUTE or (effect in effects.NAMING and text and not parse):
            name = session.encode(text)
            statement = session.prepared.find(name)
            if statement is None or (effect is Effect.EXECUTE and reparsing.unreadable_named(session, statement)):
                continue
            _, whole = wanted.get(name, (statement, False))
            wanted[name] = (statement, whole or effect is Effect.EXECUTE)
        elif effect is Effect.LIST_STATEMENTS:
            for name, statement in reversed(session.prepared.all().items()):
                _, whole = wanted.get(name, (statement, False))
                readable = statement.original is None and not reparsing.unreadable_named(session, statement)
                wanted[name] = (statement, whole or readable)
            lists = True
    # The oldest comes first: prepare_time shows it. But what executes another one is noted by the server as what
    # that is: the other one comes before it, or it does not.
    ordered = list(wanted.items())[::-1]
    ordered.sort(key=lambda item: item[1][0].verdict.kind == "execute")
    ordered.sort(key=lambda item: not item[1][0].silent)
    return [
        (name, statement, whole, there)
        for name, (statement, whole) in ordered
        if (there := link.own_name(name)) is None
        or there < whole
        or (lists and not whole)  # under its original text, which is never run
    ], lists


def _close(link: Link, name: bytes) -> bytes:
    own = link.put_own()
    own.close_sent(name)
    link.replies.owe(Done(r.SKIP_CLOSE, partial(own.forget, name)))
    return p.target(p.CLOSE, b"S", name)


def _parse_as_it_is(session: Session, link: Link, statement: Statement, name: bytes, like: Owed) -> bytes:
    """Parse a statement under the client's own name."""
    link.transaction.asked_in = session.groups.sent
    _owe(link, name, True, like)
    parse = p.message(p.PARSE, name + b"\0" + statement.body)
    if statement.verdict.kind != "select":
        return parse
    link.replies.owe(Described(r.SKIP_DESCRIBE, statement.gives))
    return parse + p.target(p.DESCRIBE, b"S", name)


def _owe(link: Link, name: bytes, whole: bool, like: Owed) -> None:
    own = link.put_own()
    own.parse_sent(name, whole)
    link.replies.owe(Done(like, partial(own.keep, name, whole)))


def name_of_ours(session: Session, verdict: Verdict) -> bytes:
    """Return the name of ours that SQL gives to PREPARE, EXECUTE or DEALLOCATE, if it does."""
    names = (session.encode(text) for effect, text in verdict.effects if effect in effects.NAMING)
    return next((name for name in names if name.startswith(PREFIX)), b"")


# --- in a failed transaction ------------------------------------------------------------------------------------------


def leaves_failed(session: Session, link: Link, verdict: Verdict, text: bytes) -> tuple[str, bytes] | None:
    """Return the kind and the text of the first statement of a Query, if names that it uses need that to run first.

    In a failed transaction nothing can be parsed until it is left. Raises MustWait.
    """
    if verdict.kind != "multi" or link.transaction.status != p.FAILED or session.groups.unanswered:
        return None
    if not effects.names(verdict):
        return None
    found = _FIRST.match(text)
    if found is None:
        return None
    kind = session.filter.judge(found[1], session.codec).kind
    return (kind, found[1]) if kind in _LEAVING and any(_missing(session, link, verdict)) else None


def provide_in_failed(session: Session, link: Link, verdict: Verdict, kind: str, first: bytes) -> bytes:
    """Put names on the link in front of a Query that leaves a failed transaction by its first statement.

    That runs ahead of them already. ROLLBACK TO can be said twice; behind another one a transaction fails in the
    place of the one that has ended.
    """
    owe = link.replies.owe
    if kind == "rollback_to":
        name = link.held.new_name()
        begin, execute, end = p.run(name, first)
        owe(r.SKIP)
        owe(r.SKIP)
        owe(r.SKIP_ANYHOW)  # there may be no such savepoint
        owe(r.SKIP)
        owe(Dropped(link.held, name))
        provided = provide(session, link, verdict, query=True, ended=True)
        if not provided:
            owe(r.SKIP_SYNC)
        return begin + execute + end + (provided or p.SYNC_MESSAGE)
    chains = not session.filter.judge(first, session.codec).boundary
    owe(r.SKIP_QUERY)
    provided = provide(session, link, verdict, query=True, ended=True)
    if not chains:
        owe(r.SKIP_QUERY)
    owe(r.SKIP_ANYHOW)
    owe(r.SKIP_SYNC)
    again = b"" if chains else p.query(b"BEGIN")
    return p.query(first) + provided + again + p.REFUSED_EXECUTE + p.SYNC_MESSAGE

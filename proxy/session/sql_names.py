"""Names that SQL uses: PREPARE, EXECUTE and DEALLOCATE find the client's statements under the client's own names.

Every function returns the bytes to send, and has registered the replies to them.
"""

from __future__ import annotations

import enum
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


class At(enum.Enum):
    """Where in what is sent the names are needed."""

    PARSE = "at a Parse"
    """Which analyses what an EXECUTE executes: it needs that already, and nothing else."""
    USE = "at a Bind or an Execute"
    QUERY = "in front of a Query"
    BEHIND_OURS = "in front of a Query, behind another one that is ours alone"
    """Whatever has come before is answered by then, and no transaction fails for it."""


def provide(session: Session, link: Link, verdict: Verdict, at: At = At.USE) -> bytes:
    """Put statements that SQL names on the link under their own names: PREPARE, EXECUTE and DEALLOCATE see them.

    Only EXECUTE needs more than the name. Whoever lists statements is to see this client's alone. Raises MustWait.
    """
    unanswered = session.groups.unanswered
    if link.transaction.status == p.FAILED and not unanswered:
        return b""  # whatever it is, the server says no more than that the transaction has failed
    session.prepared.note_discarded_plans()
    wanted = _wanted(session, verdict, at)
    missing = wanted.missing_on(link)
    if unanswered and at is not At.USE and (missing or wanted.lists):
        raise MustWait  # in a transaction that fails only now, ours would fail in the place of the client's
    return _put_all(session, link, missing, at, lists=wanted.lists)


def provide_behind_ours(session: Session, link: Link, verdict: Verdict) -> bytes:
    """Do so in front of a Query, behind another one that is ours alone. Raises MustWait."""
    wanted = _wanted(session, verdict, At.BEHIND_OURS)
    return _put_all(session, link, wanted.missing_on(link), At.BEHIND_OURS, lists=wanted.lists)


def _put_all(session: Session, link: Link, missing: list[_Missing], at: At, *, lists: bool) -> bytes:
    alone = at is At.BEHIND_OURS or (at is At.QUERY and not link.group_open)
    like = r.SKIP_ANYHOW if alone else r.SKIP_FIRM if at is At.QUERY else r.SKIP_PARSE
    out = reparsing.drop(session, link, session.prepared.drop_sent(link.held) if lists else [])
    for each in missing:
        out += _put(session, link, each, like, at, lists=lists)
    if out and alone:
        # A Query behind a failed message would be ignored; on its own it gets the server's answer. Inside a group
        # that is the client's to end it has to be ignored where what stands before it has failed.
        link.replies.owe(r.SKIP_SYNC)
        out += p.SYNC_MESSAGE
    return out


def _put(session: Session, link: Link, missing: _Missing, like: Owed, at: At, *, lists: bool) -> bytes:
    """Put a statement on the link, or only a name; for who `lists` them, under its original text."""
    name, statement, whole, there = missing
    out = b"" if there is None else _close(link, name)
    if whole:
        asks = not lists and reparsing.may_be_analysed_anew(session, statement.context)
        if asks and not statement.apart:
            statement = session.prepared.part(name, statement)
        if asks and (ours := session.prepared.on_link(statement, link.held)) is not None:
            out += reparsing.drop(session, link, [ours])  # that copy would be analysed anew by the use behind this one
        parse_it = partial(_parse_as_it_is, session, link, statement, name, like)
        out += reparsing.in_context(session, link, statement.context, parse_it, ended=at is At.BEHIND_OURS)
        # Ahead of the use, for a Query has nothing behind it in its group.
        return out + reparsing.learn_use(session, link, statement.shaped, statement.shape) if asks else out
    _owe(link, name, whole, like)
    shown = statement.original if lists else None
    return out + (p.parse(name, b"") if shown is None else p.message(p.PARSE, name + b"\0" + shown))


class _Wanted:
    """Hold the statements that SQL names or lists, and of which of them it needs more than the name."""

    __slots__ = ("_session", "_statements", "lists")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._statements: dict[bytes, tuple[Statement, bool]] = {}
        self.lists = False
        """Whether it lists all that there are."""

    def name(self, name: bytes, *, runs: bool) -> None:
        """Want the statement of a name; `runs`: all of it, if it can be had."""
        statement = self._session.prepared.find(name)
        if statement is None or (runs and reparsing.unreadable_named(self._session, statement)):
            return
        self._want(name, statement, runs)

    def every_one(self) -> None:
        """Want all that the client has: those with an original text are never run from the list."""
        self.lists = True
        for name, statement in reversed(self._session.prepared.all().items()):
            readable = statement.original is None and not reparsing.unreadable_named(self._session, statement)
            self._want(name, statement, readable)

    def _want(self, name: bytes, statement: Statement, whole: bool) -> None:
        _, before = self._statements.get(name, (statement, False))
        self._statements[name] = (statement, before or whole)

    def missing_on(self, link: Link) -> list[_Missing]:
        """Return what the link lacks, in the order in which it is to be put there.

        The oldest comes first: prepare_time shows it. But what executes another one is noted by the server as what that
        is: the other one comes before it, or it does not.
        """
        ordered = list(self._statements.items())[::-1]
        ordered.sort(key=lambda item: item[1][0].verdict.kind == "execute")
        ordered.sort(key=lambda item: not item[1][0].silent)
        return [
            (name, statement, whole, there)
            for name, (statement, whole) in ordered
            if (there := link.own_name(name)) is None
            or there < whole
            or (self.lists and not whole)  # under its original text, which is never run
        ]


def _wanted(session: Session, verdict: Verdict, at: At) -> _Wanted:
    """Find what a text names and lists. Raises MustWait."""
    wanted = _Wanted(session)
    for effect, text in effects.of(session, verdict):
        if effect is Effect.EXECUTE:
            wanted.name(session.encode(text), runs=True)
        elif effect is Effect.LIST_STATEMENTS:
            wanted.every_one()
        elif effect in effects.NAMING and text and at is not At.PARSE:
            wanted.name(session.encode(text), runs=False)
    return wanted


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
    if kind not in _LEAVING:
        return None
    wanted = _wanted(session, verdict, At.USE)
    return (kind, found[1]) if wanted.lists or wanted.missing_on(link) else None


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
        provided = provide_behind_ours(session, link, verdict)
        if not provided:
            owe(r.SKIP_SYNC)
        return begin + execute + end + (provided or p.SYNC_MESSAGE)
    chains = not session.filter.judge(first, session.codec).boundary
    owe(r.SKIP_QUERY)
    provided = provide_behind_ours(session, link, verdict)
    if not chains:
        owe(r.SKIP_QUERY)
    owe(r.SKIP_ANYHOW)
    owe(r.SKIP_SYNC)
    again = b"" if chains else p.query(b"BEGIN")
    return p.query(first) + provided + again + p.REFUSED_EXECUTE + p.SYNC_MESSAGE

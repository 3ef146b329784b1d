"""Rows of another statement, or of a cursor: what an EXECUTE or FETCH leads to, and where that ends PostgreSQL.

To name the columns of an EXECUTE or FETCH the server goes on to what gives the rows, and from there on and on. It does
not look whether a cursor is there (FetchStatementTargetList(), tcop/pquery.c), nor how deep it is by then: a Describe
ended PostgreSQL 18 with SIGSEGV, and so all its sessions. Nor does it ask again which columns these rows have: those
noted at Bind, or by the Parse of what EXECUTE runs, are taken for theirs (PortalStart() there,
UtilityTupleDescriptor() in tcop/utility.c), and a number where there was a text is the length of a text.
"""

from __future__ import annotations

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.owed import Described
from proxy.pooling.sent import MustWait
from proxy.pooling.statements import OF_ANOTHER
from proxy.session import answers, effects, verdicts
from proxy.session.ledger import PREPARED_STATEMENT
from proxy.session.link import Link
from proxy.session.portals import key
from proxy.session.session import Session
from proxy.sql.verdict import Effect, Verdict


def check_fetched(session: Session, verdict: Verdict) -> None:
    """Raise Refusal where a statement fetches from a portal that has its rows from elsewhere, or MustWait."""
    if _fetches_on(session, verdict):
        raise answers.refused(session, answers.FETCH_OF_FETCH)


def check_source(session: Session, verdict: Verdict) -> None:
    """Do the same where the statement that it executes has."""
    check_fetched(session, verdict)
    if _executes_on(session, verdict):
        raise answers.refused(session, answers.EXECUTE_OF_EXECUTE)


def can_be_told(session: Session, verdict: Verdict) -> bool:
    """Whether to ask what a statement has noted of another one, right behind its Parse. Raises MustWait."""
    if verdict.kind not in OF_ANOTHER or _fetches_on(session, verdict) or _executes_on(session, verdict):
        return False
    return verdict.kind == "fetch" or not _cursors(session, verdict)


def check_described(session: Session, parsed_in: int, body: bytes, verdict: Verdict) -> None:
    """Raise the Refusal of a Describe of a statement that gives other rows than its own, if it leads nowhere any more.

    `parsed_in` is the group of its Parse, and `body` that of the Parse. It may go on, behind what `look_first`
    returns; in the group of its Parse the server knows what it has noted there. Raises MustWait.
    """
    check_source(session, verdict)
    if parsed_in != session.groups.sent:
        if session.groups.unanswered:
            raise MustWait  # it is not known yet what it has noted
        if session.status != p.FAILED and PREPARED_STATEMENT not in session.ledger.pins:
            for effect, text in verdict.effects:
                name = session.encode(text)
                if effect is Effect.EXECUTE and session.prepared.find(name) is None:
                    parameters = p.message(p.PARAMETER_DESCRIPTION, body[body.index(0) + 1 :])
                    raise answers.no_statement(session, name, ahead=parameters)
    verdicts.check_described(session, verdict)


def look_first(session: Session, link: Link, what: bytes, verdict: Verdict) -> bytes:
    """Return what goes ahead of a Describe of such a statement, or portal: `S` or `P`, and its name.

    It asks for the cursors: where one is gone, that is the error.
    """
    if verdict.kind == "fetch" and link.portals.fresh == (what, session.groups.sent):
        return b""
    out = b""
    for cursor in _cursors(session, verdict):
        link.replies.owe(Described(r.SKIP_DESCRIBE, lambda described: True))
        out += p.target(p.DESCRIBE, b"P", cursor)
    return out


def _cursors(session: Session, verdict: Verdict) -> list[bytes]:
    """Return the cursors whose rows a statement gives. Raises MustWait."""
    found = effects.of(session, verdict)
    return [key(session.encode(name)) for effect, name in found if effect is Effect.FETCH]


def _fetches_on(session: Session, verdict: Verdict) -> bool:
    """Whether one of these cursors may have its rows from another one. Raises MustWait."""
    if session.link is None or not session.link.portals.any:
        return False
    portals = session.link.portals
    for cursor in _cursors(session, verdict):
        if not (cursor.isascii() or session.has_the_servers_letters) and (
            not portals.settled or portals.kinds() & OF_ANOTHER
        ):
            return True  # it is not known which of them it is
        behind = portals.find(cursor)
        if behind is None or behind.kind not in OF_ANOTHER:
            continue
        # A FETCH from the portal that it was bound to gives nothing: that was not there yet.
        if behind.kind != "fetch" or any(each != cursor for each in _cursors(session, behind)):
            return True
    return False


def _executes_on(session: Session, verdict: Verdict) -> bool:
    """Whether a statement executes one that has its rows from another one, in its turn. Raises MustWait."""
    for effect, text in verdict.effects:
        if effect is Effect.EXECUTE:
            statement = session.prepared.find(session.encode(text))
            if statement is not None and statement.verdict.kind in OF_ANOTHER:
                return True
    return False

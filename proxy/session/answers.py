"""What a client is told here, without the server or in its place: refusals, errors of ours, waits in vain."""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.errors import (
    FEATURE_NOT_SUPPORTED,
    IN_FAILED_SQL_TRANSACTION,
    INVALID_CURSOR_NAME,
    INVALID_SQL_STATEMENT_NAME,
    PROGRAM_LIMIT_EXCEEDED,
    CloseReason,
    UpstreamError,
)
from proxy.ours import NO_NAME
from proxy.pooling import owed as r
from proxy.pooling.owed import StandIn
from proxy.pooling.statements import MAX_KEPT
from proxy.session.quotas import Excess
from proxy.session.session import Session
from proxy.sql import tables
from proxy.sql.verdict import Action, Verdict

EXECUTE_OF_EXECUTE: Final = Verdict(
    Action.REFUSE,
    "execute",
    rule="execute-of-execute",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot execute a prepared statement that is an EXECUTE or FETCH",
    detail="PostgreSQL reads its rows by the columns that it had when it was prepared, and can end with all its"
    " sessions where they are others by now (rule: execute-of-execute).",
    hint="Execute what that statement executes or fetches.",
)
FETCH_OF_FETCH: Final = Verdict(
    Action.REFUSE,
    "fetch",
    rule="fetch-of-fetch",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot fetch from a portal that has its rows from an EXECUTE or another FETCH",
    detail="PostgreSQL can end with all its sessions when it looks for the columns of such rows"
    " (rule: fetch-of-fetch).",
    hint="Fetch from the cursor that the rows are of.",
)
LATE_PORTAL: Final = Verdict(
    Action.REFUSE,
    "execute",
    rule="late-portal",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot run a portal of EXECUTE or FETCH behind something else",
    detail="PostgreSQL reads its rows by the columns that it had at its Bind, and can end with all its sessions where"
    " they are others by now (rule: late-portal).",
    hint="Send its Execute right behind its Bind.",
)
OTHER_LETTERS: Final = Verdict(
    Action.REFUSE,
    "name",
    rule="other-letters",
    sqlstate=FEATURE_NOT_SUPPORTED,
    message="cannot use such a name of a prepared statement or portal in another encoding than the server's",
    detail="In the server's letters it may be another's, or longer than it keeps (rule: other-letters).",
    hint="Name it in ASCII, or set client_encoding to the server's encoding.",
)
BY_BIND_ALONE: Final = Verdict(
    Action.REFUSE,
    "execute",
    rule="setting-name",
    sqlstate=tables.FUNCTION_SQLSTATE,
    message="permission denied for function set_config: SideCart forwards reads only",
    detail="What it sets are the values of a Bind message, and EXECUTE has none (rule: setting-name).",
    hint="Execute it by the protocol, or give set_config constants.",
)
"""Of an EXECUTE of what was prepared by the protocol."""


class Refusal(Exception):  # noqa: N818 - no error of ours, but one of the ways to leave a handler
    """Have one message answered with an ErrorResponse, in its turn; the pump knows from its type what follows that.

    `destroys`: the server would have got so far with a Query, or an unnamed Parse, that the unnamed statement is gone.
    """

    def __init__(self, response: bytes, *, destroys: bool = True) -> None:
        super().__init__(response)
        self.response = response
        self.destroys = destroys


def answer(session: Session, refusal: Refusal, kind: int, *, unnamed: bool) -> bytes:
    """Answer a message of this type; return what stands for it upstream. `unnamed`: it is a Parse without a name."""
    link, error = session.link, refusal.response
    simple = kind in (p.QUERY, p.FUNCTION_CALL)
    destroys = refusal.destroys and (kind == p.QUERY or unnamed)
    if link is None or link.quiet:
        if destroys:
            session.unnamed.drop()
        session.local.fail()
        session.swallowing = not simple
        session.peer.wire.write(error + p.READY[session.status] if simple else error)
        if simple:
            session.local.seen = session.status
        return b""
    # The server has to know: it skips to Sync, rolls back, and turns `T` into `E` as it does for its own errors.
    if simple:
        # Like for like: behind an earlier error the server skips these as it would skip what was refused.
        link.end_within()
        if destroys:
            link.bound = link.bound_before = False
            session.unnamed.end_sent()
            link.replies.owe(StandIn(r.REFUSED_QUERY, error))
            return p.REFUSED_QUERY
        link.replies.owe(StandIn(r.REFUSED_CALL, error))
        return p.REFUSED_CALL
    link.group_open = True
    if destroys:
        link.replies.owe(session.unnamed.refusal_sent(error))
        return p.REFUSED_PARSE
    link.replies.owe(StandIn(r.REFUSED, error))
    return p.REFUSED_EXECUTE


def describe(session: Session, types: bytes, rows: bytes = b"") -> bytes:
    """Answer a Describe of a statement, not a query, that gives such rows. `types` are those of its Parse."""
    said = p.message(p.PARAMETER_DESCRIPTION, types)
    said += p.message(p.ROW_DESCRIPTION, rows) if rows else p.message(p.NO_DATA)
    link = session.link
    if link is None:
        session.peer.wire.write(said)
        return b""
    link.group_open = True
    link.replies.owe(StandIn(r.CLOSE, said))
    return p.target(p.CLOSE, b"S", NO_NAME)


# --- what is accounted for --------------------------------------------------------------------------------------------


def note(session: Session, event: str, verdict: Verdict) -> None:
    """Log what was refused, or observed."""
    who = session.peer.who
    session.house.audit.event(
        event,
        session=who.ident,
        peer=who.peer,
        user=who.user,
        database=session.pool.database,
        application=who.application,
        kind=verdict.kind,
        rule=verdict.rule,
        sqlstate=verdict.sqlstate,
        **({"object": verdict.object} if verdict.object else {}),
    )


def too_fast(session: Session, excess: Excess) -> UpstreamError:
    """Return the error of a statement that came too early; the log has it once, until one was in time."""
    if session.meter is not None and not session.meter.told:
        session.meter.told = True
        who = session.peer.who
        session.house.audit.event("limited", session=who.ident, user=who.user, peer=who.peer, limit=excess.limit)
    error = UpstreamError(excess.text, excess.sqlstate, reason=CloseReason.CLIENT_LIMIT, transient=False)
    error.detail = excess.detail
    error.hint = excess.hint
    return error


# --- refusals ---------------------------------------------------------------------------------------------------------


def error(
    session: Session, sqlstate: str, text: str, *, detail: str = "", hint: str = "", position: int = 0
) -> Refusal:
    """Return the refusal that says this."""
    response = p.error_response(
        "ERROR", sqlstate, text, detail=detail, hint=hint, position=position, codec=session.codec
    )
    return Refusal(response)


def refused(session: Session, verdict: Verdict) -> Refusal:
    """Return the refusal of a statement, and account for it."""
    stats = session.house.stats
    stats.statements[verdict.label] += 1
    stats.refused[verdict.rule] += 1
    note(session, "refused", verdict)
    return error(
        session,
        verdict.sqlstate,
        verdict.message,
        detail=verdict.detail,
        hint=verdict.hint,
        position=verdict.position,
    )


def in_vain(session: Session, why: UpstreamError) -> Refusal:
    """Return the refusal of a message whose wait was in vain."""
    return error(session, why.sqlstate, str(why), detail=why.detail, hint=why.hint)


def check_wait(session: Session) -> None:
    """Raise the Refusal of a message that has waited in vain."""
    if session.wait_error is not None:
        why, session.wait_error = session.wait_error, None
        raise in_vain(session, why)


def charge(session: Session) -> None:
    """Count a statement; raise the Refusal of one that comes too early for its client's rate."""
    if session.meter is not None and (excess := session.meter.charge()):
        raise in_vain(session, too_fast(session, excess))


def too_long(session: Session) -> Refusal:
    limit = session.house.max_query_length
    return refused(
        session,
        Verdict(
            Action.REFUSE,
            "unparsable",
            rule="too-long",
            sqlstate=PROGRAM_LIMIT_EXCEEDED,
            message=f"the statement is longer than {limit} bytes",
            hint="Send a shorter statement, or ask the operator to raise client.max_query_length.",
        ),
    )


def no_statement(session: Session, name: bytes, *, ahead: bytes = b"") -> Refusal:
    """Return the server's words for a statement that is not there; `ahead` is what it says before them."""
    shown = name.decode(session.codec, "replace")
    text = f'prepared statement "{shown}" does not exist' if name else "unnamed prepared statement does not exist"
    return Refusal(ahead + error(session, INVALID_SQL_STATEMENT_NAME, text).response)


def too_many(session: Session) -> Refusal:
    """Return the refusal of a Parse of a client that keeps too many named statements."""
    text = f"the named statements of one session take more than {MAX_KEPT >> 20} MB"
    return error(session, PROGRAM_LIMIT_EXCEEDED, text, hint="Close those that are not needed any more.")


def no_portal(session: Session) -> Refusal:
    """Return the refusal of an Execute of the unnamed portal, where the client has none.

    The server may have one that a failed Query has left in an aborted transaction, and reads freed memory when it
    is executed: exec_execute_message(), tcop/postgres.c, ended with SIGSEGV in 15.18.
    """
    return error(session, INVALID_CURSOR_NAME, 'portal "" does not exist')


def failed_already(session: Session) -> Refusal:
    """Return the refusal of what finds a failed transaction that no server knows of."""
    if session.local.parting is not None:
        why, session.local.parting = session.local.parting, None
        return in_vain(session, why)
    text = "current transaction is aborted, commands ignored until end of transaction block"
    return error(session, IN_FAILED_SQL_TRANSACTION, text)

"""What clients do at the moment, as the operator is shown it: rows in the manner of pg_stat_activity.

No text of SQL is in it: what runs is told by its kind.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy import protocol as p
from proxy.clients.client import Client, Phase
from proxy.session.link import Link
from proxy.session.session import Session

Row = dict[str, str | int | float | None]


def rows(clients: Iterable[Client], now: float) -> list[Row]:
    """Return a row for each client, the one that came first first. It only reads, so that any thread may call it.

    `state` is a word of pg_stat_activity's, or `login`, `waiting` (for an upstream), `judging`; `since` are the seconds
    for which it has been so, of an idle client to a second; `statement` is the kind of what runs, or ran last;
    `upstream_pid` is the server's process (pg_stat_activity.pid), null without one; `pins` says why it stays.
    """
    found = [_row(client, now) for client in clients if client.phase is not Phase.CLOSED]
    return sorted(found, key=lambda row: row["id"] or 0)


def _row(client: Client, now: float) -> Row:
    who, session = client.who, client.session
    # The event loop may take the link away meanwhile: it is read once.
    link = None if session is None else session.link
    state, since = ("login", 0.0) if session is None else _state(session, link)
    since = since or client.quiet_since or now
    row: Row = {"id": who.ident, "user": who.user, "database": "", "application": who.application, "address": who.peer}
    row |= {"state": state, "since": round(max(0.0, now - since), 1), "statement": "", "upstream_pid": None, "pins": ""}
    if session is not None:
        doing = session.doing
        row["database"] = session.pool.database
        row["statement"] = doing.kind if doing is not None else ""
        row["upstream_pid"] = link.upstream.backend.pid if link is not None else None
        row["pins"] = "+".join(list(session.ledger.pins))
    return row


def _state(session: Session, link: Link | None) -> tuple[str, float]:
    """Return the state, and since when; 0: nobody has noted that."""
    if session.waiting:
        return "waiting", session.pool.waits_since(session.port)
    if session.judging:
        return "judging", 0.0
    if link is None:
        status, since = session.status, 0.0
    elif link.replies.owed:
        return "active", session.leased_at
    else:
        status, since = link.replies.status, session.leased_at
    if status == p.IDLE:
        return "idle", 0.0
    return "idle in transaction" + (" (aborted)" if status == p.FAILED else ""), since

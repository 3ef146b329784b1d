"""What a statement finds of its transaction, and does to it: order in a group, layer 2, what is observed."""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.guard import PUT_BACK, UNKNOWN
from proxy.pooling.sent import MustWait
from proxy.session import answers, effects, leasing
from proxy.session.link import Link
from proxy.session.session import Session
from proxy.session.transaction_ahead import Block
from proxy.sql import observe, tables
from proxy.sql.verdict import Action, Effect, Verdict

OBSERVED: Final = "observed"
"""The pin of a client that sent what filter.mode observe has let through."""
_IN_FAILED: Final = frozenset(("empty", "multi", *tables.TRANSACTION_KINDS.values()))
"""Kinds of texts of which the server does more in a failed transaction than to say so."""


def check_failed(session: Session, verdict: Verdict) -> None:
    """Raise the Refusal of what finds a failed transaction that no server knows of."""
    if session.link is None and session.local.status == p.FAILED and verdict.kind not in _IN_FAILED:
        raise answers.failed_already(session)


def check_order(session: Session, link: Link, verdict: Verdict) -> None:
    """End the open group, and raise MustWait, where a statement fails only because of what is ours in it.

    Nothing may have run ahead of DISCARD ALL in its group (PreventInTransactionBlock(), xact.c), and nothing may
    have read ahead of an isolation level in its transaction (check_transaction_isolation(), variable.c). Only the
    former ends the portals that were bound there.
    """
    if _comes_too_late(session, link, verdict):
        leasing.end_group(session, link)
        raise MustWait


def _comes_too_late(session: Session, link: Link, verdict: Verdict) -> bool:
    transaction, group = link.transaction, session.groups.sent
    if verdict.kind in ("rollback", "multi") and link.discards == group:
        return True  # it would undo what is set again behind the DISCARD ALL of its group
    if (
        transaction.asked_in != group
        or transaction.ran_in == group
        or transaction.block is not Block.NONE
        or link.blind
    ):
        return False
    if transaction.status == p.FAILED:
        return False  # it fails in any case
    if effects.has(verdict, Effect.DISCARD_ALL):
        return True
    return verdict.kind in ("begin", "multi") and transaction.read_in != group


def before_end(session: Session, link: Link) -> bytes:
    """Put the setting of layer 2 back before a COMMIT that has something behind it in its own group.

    That is another transaction, and nothing can go ahead of it but what is part of this one: it holds if this one
    does. A ROLLBACK undoes what was set. Raises MustWait while earlier groups are unanswered.
    """
    if session.groups.unanswered:
        raise MustWait
    if link.transaction.status == p.FAILED:
        return b""  # this COMMIT is a ROLLBACK
    return link.help(PUT_BACK)


# --- what filter.mode observe lets through ----------------------------------------------------------------------------


def opens(session: Session, link: Link) -> bool:
    """Whether what filter.mode observe lets through needs a transaction of ours, for it is in none.

    It runs alone. Raises MustWait while anything that was sent before is unanswered.
    """
    if link.transaction.block is not Block.NONE:
        return False
    if session.groups.unanswered:
        raise MustWait
    return link.transaction.status == p.IDLE


def observes(session: Session, verdict: Verdict) -> bool:
    return verdict.action is Action.REFUSE and session.house.observe


def open_block(session: Session, link: Link, verdict: Verdict) -> bytes:
    """Begin a transaction of ours in the open group, for an Execute that needs one. Raises Refusal, MustWait."""
    if not observes(session, verdict):
        return b""
    if opens(session, link):
        begin = link.help(observe.BEGIN)
        link.transaction.block = Block.OURS
        link.stirred = True
        return begin
    if link.transaction.block is Block.NONE and link.transaction.status == UNKNOWN:
        raise answers.refused(session, verdict)
    return b""


def end_ours(session: Session, link: Link) -> bytes:
    """End a transaction of ours behind the group that it was begun in: the client learns how that has ended."""
    link.transaction.block = Block.NONE
    link.transaction.steer(UNKNOWN)
    session.unnamed.other_behind()
    link.replies.owe(r.SKIP_TRY)
    return p.query(observe.END)


def let_through(session: Session, link: Link, verdict: Verdict) -> bytes | None:
    """Account for what goes upstream; return the text to send instead, if any.

    What a refused text leaves behind is unknown, so nobody else gets the upstream of a client that sent one.
    """
    stats = session.house.stats
    session.doing = verdict
    if verdict.action is Action.ALLOW:
        stats.statements[verdict.label] += 1
        return None
    if verdict.action is Action.REPLACE:
        stats.statements[verdict.label] += 1
        session.notify(p.notice_response("WARNING", "01000", verdict.warning, codec=session.codec))
        return verdict.text
    stats.statements[("observe", verdict.kind)] += 1
    stats.observed[verdict.rule] += 1
    answers.note(session, "observed", verdict)
    session.ledger.scarred = True
    leasing.pin(session, OBSERVED, verdict.rule)
    link.replies.observed = True
    return None

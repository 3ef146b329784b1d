"""Lease and release: how a session gets an upstream and makes it its own, what pins it there, how it is given back."""

from __future__ import annotations

from functools import partial
from typing import cast

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.guard import GUARD
from proxy.pooling.owed import Undone
from proxy.pooling.pool import Upstream as PooledUpstream
from proxy.pooling.sent import Awaits, MustWait
from proxy.pooling.snapshot import DISCARD_PLANS, read_back, replay, restore
from proxy.session import answers
from proxy.session.link import Link
from proxy.session.parameter_status import tell
from proxy.session.ports import FRESH, Upstream
from proxy.session.session import Effects, Session


def lease(session: Session) -> Link:
    """Take an upstream. Raises MustWait where the client stands in line, Refusal where it cannot have one."""
    if session.local.parting is not None:
        session.wait_error, session.local.parting = session.local.parting, None
    if session.wait_error is not None:
        answers.check_wait(session)
    if session.meter is not None and (excess := session.meter.look()):
        raise answers.in_vain(session, answers.too_fast(session, excess))
    return take(session)


def take(session: Session) -> Link:
    """Take an upstream for a session that nothing speaks against. Raises MustWait where the client stands in line."""
    now = session.house.now()
    upstream = session.pool.lease(session.port, session.ledger.settings, now, fresh=session.repeated)
    if upstream is None:
        raise MustWait(Awaits.UPSTREAM)
    return attach(session, upstream, now)


def attach(session: Session, pooled: PooledUpstream, now: float) -> Link:
    """Make an upstream the session's own: settings, plans and the transaction that it is in go out first."""
    upstream = cast(Upstream, pooled)  # the pool holds what the server opened for it
    local, ledger, judge, unnamed = session.local, session.ledger, session.filter, session.unnamed
    link = session.link = Link(upstream, now, local.status, local.begin)
    mark, upstream.unnamed_of = upstream.unnamed_of, None
    unnamed.held = mark is not None and mark is unnamed.mark
    upstream.replies.listener = session.port
    upstream.replies.groups = session.groups
    upstream.attach(session.port)
    session.prepared.shown.clear()
    session.prepared.before.clear()
    is_as_needed = (
        upstream.settings is ledger.settings
        and upstream.plans is ledger.settings.parsing
        and upstream.proofs is judge.proofs
        and session.peer.defaults is upstream.defaults
        and not (upstream.restless or judge.plans_by_more)
    )
    if not is_as_needed:
        _adapt(session, link)
    if not session.peer.writable:
        upstream.pause_reading()
    if local.status != p.IDLE:
        _make_real(session, link)
    return link


def _adapt(session: Session, link: Link) -> None:
    """Have the upstream set, and plan, as this session needs it, where the last one left it otherwise."""
    upstream, ledger, judge = link.upstream, session.ledger, session.filter
    if upstream.restless:
        session.pool.settle(upstream)
    if session.peer.defaults is not upstream.defaults:
        _tell_defaults(session, link)
    if upstream.settings is not ledger.settings:
        ask_first(session, link, replay(upstream.settings, ledger.settings))
        upstream.settings = ledger.settings
        upstream.customs |= ledger.settings.customs
        count_replay(session, link)
    shaping: object = ledger.settings if judge.folds else ledger.settings.parsing
    if judge.dated:
        shaping = session.token
    outdated = upstream.proofs is not judge.proofs and _outdates_plans(session, upstream)
    if upstream.plans is not shaping or outdated:
        upstream.plans = None
        if judge.caches or judge.dated or outdated:
            ask_first(session, link, DISCARD_PLANS)
            link.held.drop_apart()
            upstream.plans = shaping


def _tell_defaults(session: Session, link: Link) -> None:
    """Tell the client what the server reports by now, where it was told something else."""
    upstream = link.upstream
    if upstream.settings is None:
        return  # some may be another client's
    session.peer.defaults = upstream.defaults
    own = {name for settings in (upstream.settings, session.settings) for name, _ in settings.items}
    told = [tell(session, link, *each) for each in upstream.parameters.items() if each[0].lower() not in own]
    session.peer.wire.write(b"".join(told))


def _outdates_plans(session: Session, upstream: Upstream) -> bool:
    """Whether statements and functions may have plans there that keep what a name meant in an older catalogue.

    PostgreSQL analyses nothing anew because a function was created that fits better.
    """
    proofs, before = session.filter.proofs, upstream.proofs
    if proofs is None and before is not FRESH:
        return False
    upstream.proofs = proofs
    return before is not FRESH


def _make_real(session: Session, link: Link) -> None:
    """Begin the transaction on the server that the client is in already, and let it fail if it has failed."""
    failed = session.local.status == p.FAILED
    link.prefix += session.local.made_real()
    link.transaction.steer(p.IN_TRANSACTION)
    link.replies.owe(r.SKIP_QUERY)
    session.unnamed.other_sent()
    if failed:
        link.prefix += p.REFUSED_EXECUTE + p.SYNC_MESSAGE
        link.replies.owe(r.SKIP_ANYHOW)
        link.replies.owe(r.SKIP_SYNC)


def ask_first(session: Session, link: Link, sql: bytes) -> None:
    """Put a Query of ours in front of what goes out next. It destroys the upstream's unnamed statement."""
    link.prefix += p.query(sql)
    link.replies.owe(r.SKIP_QUERY)
    session.unnamed.other_sent()


def count_replay(session: Session, link: Link) -> None:
    """Count a lease that needs something set or parsed again, once."""
    session.house.stats.replays += not link.replayed
    link.replayed = True


# --- what keeps it ----------------------------------------------------------------------------------------------------


def pin_for(session: Session, effects: Effects) -> None:
    """Note what a statement that runs now leaves behind."""
    ledger, link = session.ledger, session.link
    for reason in ledger.apply(effects):
        _pinned(session, reason)
    if link is not None and (ledger.unsure or (session.filter.folds and ledger.touched)):
        link.upstream.plans = None
        link.replans = link.stirred = True


def pin(session: Session, reason: str, name: str) -> None:
    """Note a reason to keep the upstream."""
    if session.ledger.pin(reason, name):
        _pinned(session, reason)


def _pinned(session: Session, reason: str) -> None:
    who = session.peer.who
    session.house.stats.pins[reason] += 1
    session.house.audit.event("pinned", session=who.ident, user=who.user, reason=reason)


# --- release ----------------------------------------------------------------------------------------------------------


def let_go_at_once(session: Session, link: Link) -> bool:
    """Give the upstream back at once where nothing at all was left on it; return whether that was so.

    It is what `let_go` comes to, for the commonest lease. Nothing is owed.
    """
    upstream, replies = link.upstream, link.replies
    if link.unclean or link.group_open or link.held.full or not session.ledger.at_rest:
        return False
    if upstream.cancelling or upstream.restless or not replies.told or replies.status != p.IDLE:
        return False
    if session.awaits is not Awaits.NOTHING or session.peer.leaving or not session.peer.writable:
        return False
    replies.ready = replies.told = replies.asked = False
    session.local.seen = p.IDLE
    session.link = None
    session.repeated = False
    upstream.unnamed_of = session.unnamed.mark if session.unnamed.held else None
    upstream.detach()
    session.pool.release(upstream, session.house.now())
    return True


def let_go(session: Session, link: Link) -> bool:
    """Give the upstream back where nothing keeps it; return whether that was so.

    Where settings were changed, or a pin may have ended, the server is asked first; its answer leads here again.
    """
    ledger, replies = session.ledger, link.replies
    if replies.owed or replies.status != p.IDLE or link.group_open or (ledger.pins and not ledger.loosened):
        return False
    if any(asks(session, link) for asks in (_let_cancel_end, _tidy, _read_back, _close_surplus, _put_back)):
        return False
    _release(session, link)
    return True


# What has to be asked before a release, one after the other; each returns whether it asks now, or waits.


def _let_cancel_end(session: Session, link: Link) -> bool:
    """Wait for the end of a cancel that is under way: it could hit what is asked now."""
    if not (link.upstream.cancelling and (link.untidy or session.ledger.may_be_asked)):
        return False
    link.upstream.cancel(partial(_cancel_ended, session, link))
    return True


def _tidy(session: Session, link: Link) -> bool:
    if not link.untidy:
        return False
    if not session.ledger.may_be_asked:
        _clean_up(session, link)
    link.tidy()
    return True


def _read_back(session: Session, link: Link) -> bool:
    """Ask what the settings are that statements have changed: then they can go to another upstream.

    Only the server knows: a SET can have been rolled back, to a savepoint too, and DateStyle is relative.
    """
    ledger = session.ledger
    if not ledger.may_be_asked:
        return False
    lost = restore(ledger.lost) + b";" if ledger.lost else b""
    ledger.lost.clear()
    ask_first(session, link, lost + read_back(ledger.ask(), state=ledger.asked_state))
    link.upstream.write(link.flushed())
    return True


def _close_surplus(session: Session, link: Link) -> bool:
    surplus = link.held.surplus() if link.held.full else []
    if surplus:
        _clean_up(session, link)
        link.close_all(surplus)
    return bool(surplus)


def _put_back(session: Session, link: Link) -> bool:
    """Put back the setting of layer 2, where the server does not report it."""
    if not link.blind or link.put_back:
        return False
    link.put_back = True
    _clean_up(session, link)
    link.replies.owe(r.GUARDING)
    link.replies.owe(r.SKIP_SYNC)
    link.upstream.write(GUARD + p.SYNC_MESSAGE)
    return True


def _clean_up(session: Session, link: Link) -> None:
    """Note that what is sent now is ours alone: should the upstream end, the client goes on elsewhere."""
    session.repeated = False
    link.unit = b""
    link.before = session.local.status, session.local.begin, link.before[2]
    link.since = session.house.now()
    session.prepared.mark()


def _cancel_ended(session: Session, link: Link) -> None:
    if session.link is link and let_go(session, link):
        session.house.stats.transactions += 1


def end_group(session: Session, link: Link) -> None:
    """End the group here, where the client goes on with it: the transaction behind it has nothing of ours in it.

    Where what stands before has failed, the client's messages are ignored up to its own Sync.
    """

    def ignore_rest() -> None:
        session.swallowing = True
        link.group_open = False

    link.replies.owe(Undone(ignore_rest))
    link.replies.owe(r.CUT_SYNC)
    link.transaction.parted = session.groups.sent
    link.suffix += link.cut_group()


def _release(session: Session, link: Link) -> None:
    upstream, ledger = link.upstream, session.ledger
    session.link = None
    if not session.peer.writable:
        upstream.resume_reading()
    if ledger.lost:
        upstream.settings = None
        ledger.lost.clear()
    if upstream.restless:
        session.pool.settle(upstream)
    upstream.unnamed_of = session.unnamed.mark if session.unnamed.held else None
    ledger.rest()
    session.repeated = False
    upstream.detach()
    session.pool.release(upstream, session.house.now())

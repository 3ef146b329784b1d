"""What a statement leaves behind, with what the statements do that it executes by name."""

from __future__ import annotations

from typing import Final

from proxy.pooling.owed import Owed, Run
from proxy.session.ledger import PREPARED_STATEMENT
from proxy.session.link import Link
from proxy.session.session import Effects, Session
from proxy.sql.verdict import Effect, Verdict, changes_path

NAMING: Final = frozenset({Effect.PREPARE, Effect.EXECUTE, Effect.DEALLOCATE})
RESETTING: Final = frozenset({Effect.RESET, Effect.RESET_LOCAL, Effect.DISCARD_ALL})
_EXPLAINED: Final = frozenset({"select", "declare", "execute"})
"""Kinds of prepared statements of which EXPLAIN EXECUTE does not say that they have no plan."""
_TOLD: Final = frozenset({Effect.DEALLOCATE, Effect.DISCARD_ALL, Effect.DISCARD_PLANS}) | RESETTING


def of(session: Session, verdict: Verdict) -> Effects:
    """Return what a text leaves behind, and what the statements do that it executes by name. Raises MustWait."""
    if not any(effect in NAMING for effect, _ in verdict.effects):
        return verdict.effects
    effects: list[tuple[Effect, str]] = []
    _expand(session, verdict.effects, effects, {})
    return tuple(effects)


def has(verdict: Verdict, wanted: Effect) -> bool:
    """Return whether a text does this itself."""
    return any(effect is wanted for effect, _ in verdict.effects)


def names(verdict: Verdict) -> bool:
    """Return whether a text names prepared statements, or lists them."""
    return any(effect in NAMING or effect is Effect.LIST_STATEMENTS for effect, _ in verdict.effects)


def keep_prepared(session: Session, verdict: Verdict) -> None:
    """Note what the server is about to prepare by SQL."""
    first = PREPARED_STATEMENT not in session.ledger.pins
    for name, text in verdict.prepares:
        session.texts.keep(session.encode(name), text, session.codec, first=first)
        first = False


def moves_used_path(session: Session, verdict: Verdict) -> bool:
    """Whether a statement may change the search_path that an open portal relies on. Raises MustWait."""
    link = session.link
    if link is None or not link.portals.path_in_use:
        return False
    return any(changes_path(*each) for each in of(session, verdict))


def _expand(
    session: Session,
    effects: Effects,
    into: list[tuple[Effect, str]],
    drops: dict[tuple[bytes, bool], Effects],
    *,
    runs: bool = True,
) -> None:
    """Add these effects, and those of what they execute, which may be an EXECUTE again, each where it comes.

    `drops` holds the names that have been looked at, and what each of them drops. Of what is explained (not `runs`)
    only a query counts (ExplainOneUtility(), commands/explain.c).
    """
    texts = session.texts
    if any(effect is Effect.PREPARE for effect, _ in effects):
        what = {each for each in effects if each[0] not in NAMING}
        texts.sql_effects = tuple(what.union(texts.sql_effects))
    explained = False
    for effect, text in effects:
        into.append((effect, text))
        explained, now = effect is Effect.EXPLAIN, runs and not explained
        if effect is not Effect.EXECUTE:
            continue
        name = session.encode(text)
        if (name, now) in drops:
            into += drops[name, now]
            continue
        drops[name, now] = ()
        start = len(into)
        statement = session.prepared.find(name)
        if statement is None:
            into += texts.sql_effects
        elif now or statement.verdict.kind in _EXPLAINED:
            keep_prepared(session, statement.verdict)
            _expand(session, statement.verdict.effects, into, drops, runs=now)
        drops[name, now] = tuple(each for each in into[start:] if each[0] is Effect.DEALLOCATE)


def follow(session: Session, link: Link, effects: Effects, owed: Owed) -> Owed:
    """Follow what a statement does to names and settings, where it matters; return what is owed in place of this."""
    if not any(effect in _TOLD for effect, _ in effects):
        return owed
    prepared, own = session.prepared, link.put_own()
    closes = []
    for effect, text in effects:
        if effect is Effect.DISCARD_ALL or (effect is Effect.DEALLOCATE and not text):
            prepared.all_closes_sent()
            own.all_closes_sent()
        elif effect is Effect.DISCARD_PLANS:
            prepared.discard_plans_sent()
        elif effect is Effect.DEALLOCATE:
            name = session.encode(text)
            closes.append(name)
            prepared.close_sent(name)
            own.close_sent(name)

    def dropped(name: bytes | None) -> None:
        if name is None:
            prepared.forget_all()
            own.all()
            link.held.clear()
        else:
            prepared.forget(name)
            own.forget(name)

    lost = session.ledger.lost_by
    resets = frozenset(name for effect, text in effects if effect in RESETTING for name in lost(effect, text))
    return Run(owed, closes, dropped, prepared.plans_discarded, resets=resets)

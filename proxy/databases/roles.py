"""Look at what the role of each database may do beside reading, and say whether the database may be served.

The first look is taken when the first upstream has logged in, then one from time to time, each with one query on a
connection of its own. Where only warnings are wanted (`require_readonly_role: warn`) nobody waits for it; with `refuse`
each login waits until the role was looked at, and nobody is served by a role with a critical finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from itertools import groupby
from typing import Any, Final, cast

from proxy.databases.helpers.messages import Results
from proxy.errors import CANNOT_CONNECT_NOW, CloseReason, UpstreamError
from proxy.events import Audit
from proxy.filter import Filter
from proxy.role import findings, probe
from proxy.role.findings import Finding, Severity
from proxy.sql.catalog import Key, Taint
from proxy.stats import Stats
from proxy.tasks import Tasks

INTERVAL: Final = 300.0
"""Seconds from one look to the next, at least; where the catalogue is read more seldom, as seldom."""
AGAIN: Final = 5.0
"""Seconds after which a login looks again at a role that was refused, or could not be looked at."""
RETRY: Final = 30.0
"""Seconds after which a look that failed is tried again without a login."""
UNPROVED_LOOKS: Final = 12
"""How often a look waits for the database's first catalogue, `AGAIN` seconds each time, where nobody waits for it."""


class RoleWatch:
    """Keep one process's findings about roles.

    `refresh` is filter.catalog_refresh in seconds; 0: look once. `fetch` is `Connector.fetch_once`. `refuses` says
    whether a database is served by a read-only role only; `on_refused` is called when one that was served is no more.
    """

    def __init__(
        self,
        refresh: float,
        fetch: Callable[[str, bytes], Awaitable[Results]],
        refuses: Callable[[str], bool],
        on_refused: Callable[[str, UpstreamError], None],
        stats: Stats,
        audit: Audit,
        tasks: Tasks,
        now: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._interval = max(refresh, INTERVAL) if refresh else 0.0
        self._fetch = fetch
        self._refuses = refuses
        self._on_refused = on_refused
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._now = now
        self._jitter = jitter
        self._kept: dict[str, _Kept] = {}

    async def admit(self, database: str, judge: Filter) -> None:
        """Have the role looked at, at the first login. Raises UpstreamError if the database may not be served by it."""
        kept = self._kept.get(database)
        now = self._now()
        if kept is None:
            kept = self._kept[database] = _Kept(database, judge)
            kept.due = now
        if not self._refuses(database):
            return
        while kept.looking is not None or kept.found is None or kept.refusal is not None:
            if kept.looking is None:
                if kept.refusal is not None and self._now() - kept.began < AGAIN:
                    raise kept.refusal
                self._start(kept)
            await asyncio.shield(cast("asyncio.Task[None]", kept.looking))
            if kept.refusal is not None:
                raise kept.refusal

    def forget(self, database: str) -> None:
        """Look no more at a database that is not served any longer."""
        self._kept.pop(database, None)

    def tick(self, now: float) -> None:
        """Begin the looks that are due. Called a few times a second."""
        for kept in list(self._kept.values()):
            if kept.due is None or now < kept.due or kept.looking is not None:
                continue
            if kept.judge.catalog is None and kept.unproved < UNPROVED_LOOKS:
                # What nothing was proved of would all count as a write.
                kept.unproved += 1
                kept.due = now + AGAIN
            else:
                self._start(kept)

    def found(self) -> Mapping[str, tuple[Finding, ...]]:
        """Return what was found in each database that was looked at."""
        return {name: kept.found for name, kept in self._kept.copy().items() if kept.found is not None}

    def _start(self, kept: _Kept) -> None:
        kept.due = None
        kept.began = self._now()
        kept.looking = self._tasks.start(self._look(kept), f"role {kept.database}")

    async def _look(self, kept: _Kept) -> None:
        try:
            found = await self._look_once(kept)
        except (UpstreamError, ValueError) as error:
            why = "the server gave an unexpected answer"
            if isinstance(error, UpstreamError):
                self._failed(kept, str(error), error.for_operator)
            else:
                self._failed(kept, why, why)
        except Exception as error:
            self._stats.bugs += 1
            self._audit.event("bug", level="error", what=type(error).__name__, where="role")
            self._failed(kept, "SideCart met an internal error", type(error).__name__)
        else:
            self._stats.role_checks["done"] += 1
            kept.why = ""
            kept.due = self._now() + self._interval * self._jitter() if self._interval else None
            self._take(kept, found)
        finally:
            kept.looking = None

    async def _look_once(self, kept: _Kept) -> tuple[Finding, ...]:
        catalog = kept.judge.catalog
        # What the filter looks up is a mapping; its type says only that it can be asked.
        taints = None if catalog is None else cast(Mapping[Key, Taint], catalog.taints)
        version = catalog.version if catalog is not None else kept.judge.policy.server_version
        results = await self._fetch(kept.database, probe.query(version, taints or {}))
        return findings.find(probe.decode(results), taints)

    def _take(self, kept: _Kept, found: tuple[Finding, ...]) -> None:
        if found != kept.found:
            self._tell(kept.database, found)
        kept.found = found
        self._settle(kept, _refusal(kept.database, found))

    def _failed(self, kept: _Kept, told: str, why: str) -> None:
        """Note a look that failed: what clients are told of it, and the operator."""
        self._stats.role_checks["failed"] += 1
        kept.due = self._now() + RETRY * self._jitter()
        if why != kept.why:
            kept.why = why
            self._audit.event("role not checked", level="error", database=kept.database, why=why)
        if kept.found is None:  # what was known before holds on
            self._settle(kept, _unknown(kept.database, told))

    def _settle(self, kept: _Kept, refusal: UpstreamError | None) -> None:
        served = kept.refusal is None
        kept.refusal = refusal if self._refuses(kept.database) else None
        if served and kept.refusal is not None:
            self._on_refused(kept.database, kept.refusal)

    def _tell(self, database: str, found: tuple[Finding, ...]) -> None:
        """Log a line for each kind of finding, then one for the whole."""
        for kind, group in groupby(sorted(found, key=lambda each: each.kind), key=lambda each: each.kind):
            alike = list(group)
            worst = findings.worst(alike)
            self._audit.event(
                "role finding",
                level="warning" if worst > Severity.INFO else "info",
                database=database,
                kind=kind,
                severity=worst.word,
                count=len(alike),
                first=max(alike, key=lambda each: each.severity).subject,
            )
        self._audit.event("role checked", database=database, **summary(found))


def summary(found: tuple[Finding, ...]) -> dict[str, Any]:
    """Return how many findings there are of each severity, by its word."""
    counted = findings.counts(found)
    return {severity.word: counted[severity] for severity in (Severity.CRITICAL, Severity.WARNING, Severity.INFO)}


_HINT: Final = "Ask the operator to run `sidecart doctor`, which has the SQL that mends it."


def _refusal(database: str, found: tuple[Finding, ...]) -> UpstreamError | None:
    kinds = sorted({each.kind for each in found if each.severity is Severity.CRITICAL})
    if not kinds:
        return None
    error = UpstreamError(
        f'database "{database}" is not served: SideCart\'s role there can do more than read',
        CANNOT_CONNECT_NOW,
        reason=CloseReason.ROLE_REFUSED,
        transient=False,
    )
    error.detail = f"Critical findings: {', '.join(kinds)} (upstream.require_readonly_role is refuse)."
    error.hint = _HINT
    return error


def _unknown(database: str, why: str) -> UpstreamError:
    error = UpstreamError(
        f'database "{database}" is not served: SideCart\'s role there could not be looked at',
        CANNOT_CONNECT_NOW,
        reason=CloseReason.ROLE_REFUSED,
        transient=False,
    )
    error.detail = f"{why[0].upper()}{why[1:]} (upstream.require_readonly_role is refuse)."
    error.hint = _HINT
    return error


class _Kept:
    """What is known of one database's role."""

    __slots__ = ("began", "database", "due", "found", "judge", "looking", "refusal", "unproved", "why")

    def __init__(self, database: str, judge: Filter) -> None:
        self.database = database
        self.judge = judge
        self.found: tuple[Finding, ...] | None = None
        """None: there was no look yet."""
        self.refusal: UpstreamError | None = None
        """Why the database is not served; None also where findings are no reason."""
        self.looking: asyncio.Task[None] | None = None
        self.began = 0.0
        """When the last look began."""
        self.due: float | None = None
        self.unproved = 0
        self.why = ""
        """Why the last look failed."""

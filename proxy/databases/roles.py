"""Look at what the role of a database may do beside reading, and say whether the database may be served.

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
from proxy.databases.ports import Around
from proxy.errors import CANNOT_CONNECT_NOW, CloseReason, UpstreamError
from proxy.filter import Filter
from proxy.role import findings, probe
from proxy.role.findings import Finding, Severity
from proxy.sql.catalog import Key, Taint

INTERVAL: Final = 300.0
"""Seconds from one look to the next, at least; where the catalogue is read more seldom, as seldom."""
AGAIN: Final = 5.0
"""Seconds after which a login looks again at a role that was refused, or could not be looked at."""
RETRY: Final = 30.0
"""Seconds after which a look that failed is tried again without a login."""
UNPROVED_LOOKS: Final = 12
"""How often a look waits for the database's first catalogue, `AGAIN` seconds each time, where nobody waits for it."""


class RoleWatch:
    """Look at the role of one database.

    `refresh` is filter.catalog_refresh in seconds; 0: look once. `fetch` runs a Query on a connection of its own.
    `refuses` says whether the database is served by a read-only role only; `on_refused` is called when it was served
    and is no more.
    """

    __slots__ = (
        "_around",
        "_began",
        "_database",
        "_due",
        "_fetch",
        "_interval",
        "_judge",
        "_looking",
        "_met",
        "_on_refused",
        "_refusal",
        "_refuses",
        "_unproved",
        "_why",
        "found",
    )

    def __init__(
        self,
        database: str,
        judge: Filter,
        refresh: float,
        fetch: Callable[[bytes], Awaitable[Results]],
        on_refused: Callable[[UpstreamError], None],
        around: Around,
        *,
        refuses: bool,
    ) -> None:
        self._database = database
        self._judge = judge
        self._interval = max(refresh, INTERVAL) if refresh else 0.0
        self._fetch = fetch
        self._refuses = refuses
        self._on_refused = on_refused
        self._around = around
        self.found: tuple[Finding, ...] | None = None
        """None: there was no look yet."""
        self._refusal: UpstreamError | None = None
        """Why the database is not served; None also where findings are no reason."""
        self._looking: asyncio.Task[None] | None = None
        self._met = False
        """Whether an upstream has logged in ever."""
        self._began = 0.0
        """When the last look began."""
        self._due: float | None = None
        self._unproved = 0
        self._why = ""
        """Why the last look failed."""

    async def admit(self) -> None:
        """Have the role looked at, at the first login. Raises UpstreamError if the database may not be served by it."""
        if not self._met:
            self._met = True
            self._due = self._around.now()
        if not self._refuses:
            return
        while self._looking is not None or self.found is None or self._refusal is not None:
            if self._looking is None:
                if self._refusal is not None and self._around.now() - self._began < AGAIN:
                    raise self._refusal
                self._start()
            await asyncio.shield(cast("asyncio.Task[None]", self._looking))
            if self._refusal is not None:
                raise self._refusal

    def tick(self, now: float) -> None:
        """Begin the look that is due. Called a few times a second."""
        if self._due is None or now < self._due or self._looking is not None:
            return
        if self._judge.catalog is None and self._unproved < UNPROVED_LOOKS:
            # What nothing was proved of would all count as a write.
            self._unproved += 1
            self._due = now + AGAIN
        else:
            self._start()

    def _start(self) -> None:
        self._due = None
        self._began = self._around.now()
        self._looking = self._around.tasks.start(self._look(), f"role {self._database}")

    async def _look(self) -> None:
        around = self._around
        try:
            found = await self._look_once()
        except UpstreamError as error:
            self._failed(str(error), error.for_operator)
        except ValueError:
            why = "the server gave an unexpected answer"
            self._failed(why, why)
        except Exception as error:
            around.stats.bugs += 1
            around.audit.event("bug", level="error", what=type(error).__name__, where="role")
            self._failed("SideCart met an internal error", type(error).__name__)
        else:
            around.stats.role_checks["done"] += 1
            self._why = ""
            self._due = around.now() + self._interval * around.jitter() if self._interval else None
            self._take(found)
        finally:
            self._looking = None

    async def _look_once(self) -> tuple[Finding, ...]:
        catalog = self._judge.catalog
        # What the filter looks up is a mapping; its type says only that it can be asked.
        taints = None if catalog is None else cast(Mapping[Key, Taint], catalog.taints)
        version = catalog.version if catalog is not None else self._judge.policy.server_version
        results = await self._fetch(probe.query(version, taints or {}))
        return findings.find(probe.decode(results), taints)

    def _take(self, found: tuple[Finding, ...]) -> None:
        if found != self.found:
            self._tell(found)
        self.found = found
        self._settle(_refusal(self._database, found))

    def _failed(self, told: str, why: str) -> None:
        """Note a look that failed: what clients are told of it, and the operator."""
        around = self._around
        around.stats.role_checks["failed"] += 1
        self._due = around.now() + RETRY * around.jitter()
        if why != self._why:
            self._why = why
            around.audit.event("role not checked", level="error", database=self._database, why=why)
        if self.found is None:  # what was known before holds on
            self._settle(_unknown(self._database, told))

    def _settle(self, refusal: UpstreamError | None) -> None:
        served = self._refusal is None
        self._refusal = refusal if self._refuses else None
        if served and self._refusal is not None:
            self._on_refused(self._refusal)

    def _tell(self, found: tuple[Finding, ...]) -> None:
        """Log a line for each kind of finding, then one for the whole."""
        audit = self._around.audit
        for kind, group in groupby(sorted(found, key=lambda each: each.kind), key=lambda each: each.kind):
            alike = list(group)
            worst = findings.worst(alike)
            audit.event(
                "role finding",
                level="warning" if worst > Severity.INFO else "info",
                database=self._database,
                kind=kind,
                severity=worst.word,
                count=len(alike),
                first=max(alike, key=lambda each: each.severity).subject,
            )
        audit.event("role checked", database=self._database, **summary(found))


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

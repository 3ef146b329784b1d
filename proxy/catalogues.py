"""Keep the live catalogue of each database: load it, have it proved, hand it to the filter, and know how old it is.

A load is one query on a connection of its own. It is repeated every `catalog_refresh` seconds, and when a statement
names what the catalogue does not have; one load at a time for each database. Where it brings what the last one brought,
nothing changes, and no verdict is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Final

from proxy import catalog_rows, rules
from proxy.errors import UpstreamError
from proxy.filter import Filter
from proxy.functions import Functions
from proxy.house import Asker, Audit, Question
from proxy.judge import ProofError, Prover, Results, encode_results
from proxy.policy import Policy
from proxy.stats import Stats
from proxy.tasks import Tasks

MIN_INTERVAL: Final = 1.0
"""Seconds from the beginning of one load to that of the next on demand, at least."""
MAX_SHARE: Final = 0.1
"""Part of the time that loads on demand may take: nobody can keep the server busy with them."""
PATIENCE: Final = 5.0
"""Seconds that a statement waits for a newer catalogue at most."""
RETRY: Final = 5.0
"""Seconds after which a load that failed is tried again."""


class Catalogues:
    """Keep one process's catalogues. Implements `house.Catalogues`.

    `refresh` is filter.catalog_refresh in seconds, 0 meaning on demand only. `fetch` is `Connector.fetch_once`.
    `jitter` returns a factor around 1, so that the processes of a fleet do not all load at once.
    """

    def __init__(
        self,
        refresh: float,
        fetch: Callable[[str, bytes], Awaitable[Results]],
        prover: Prover,
        stats: Stats,
        audit: Audit,
        tasks: Tasks,
        now: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._refresh = refresh
        self._fetch = fetch
        self._prover = prover
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._now = now
        self._jitter = jitter
        self._kept: dict[str, _Kept] = {}

    def serve(self, database: str, judge: Filter) -> None:
        """Load the catalogue of a database, for this filter. Does nothing where there is one.

        Two names with one filter are one database, with one catalogue.
        """
        kept = self._kept.get(database)
        if kept is None:
            shared = next((each for each in self._kept.values() if each.judge is judge), None)
            kept = self._kept[database] = shared or _Kept(database, judge)
        if kept.loaded_at is None and not kept.loading:
            self._start(kept)

    async def first(self, database: str) -> None:
        """Wait until the first load has ended, one way or the other, or the patience has.

        Without a catalogue the filter cannot know what a view or an operator calls, and it has nothing against them.
        """
        kept = self._kept.get(database)
        if kept is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(kept.tried.wait(), PATIENCE)

    def forget(self, database: str) -> None:
        """Load no more for a database that is not served any longer."""
        self._kept.pop(database, None)

    def refresh_for(self, database: str, asker: Asker) -> Question | None:
        """Ask for a catalogue that is newer than now; None where it has to be done without."""
        kept = self._kept.get(database)
        if kept is None:
            return None
        now = self._now()
        line = kept.waiting
        if kept.loading:
            # It may have read the system catalogues before there was what is asked for: the next one will know.
            if kept.loaded_at is not None and kept.began < now and kept.began + kept.interval <= now + MIN_INTERVAL:
                line = kept.later
        elif not self._load_soon(kept):
            return None
        question = Question(asker)
        line.append((now + PATIENCE, question))
        return question

    def _load_soon(self, kept: _Kept) -> bool:
        """Load on demand as soon as that may be; return whether it is worth waiting for."""
        now = self._now()
        at = kept.began + kept.interval
        if at > now + MIN_INTERVAL:
            return False
        if at > now:
            kept.due = at if kept.due is None else min(kept.due, at)
        else:
            self._start(kept)
        return True

    def ages(self) -> Mapping[str, float]:
        """Return for each database how many seconds ago its catalogue was loaded, or found unchanged."""
        now = self._now()
        return {name: now - kept.loaded_at for name, kept in self._kept.copy().items() if kept.loaded_at is not None}

    def tick(self, now: float) -> None:
        """Do what time asks for: begin loads, end waits. Called a few times a second."""
        for kept in set(self._kept.values()):
            if kept.due is not None and now >= kept.due and not kept.loading:
                self._start(kept)
            for line in (kept.waiting, kept.later):
                while line and now >= line[0][0]:
                    line.pop(0)[1].tell(None, self._audit)

    def _start(self, kept: _Kept) -> None:
        kept.loading = True
        kept.due = None
        kept.began = self._now()
        self._tasks.start(self._load(kept), f"catalogue {kept.database}")

    async def _load(self, kept: _Kept) -> None:
        try:
            outcome = await self._load_once(kept)
        except UpstreamError as error:
            self._failed(kept, error.for_operator)
        except ProofError as error:
            self._failed(kept, str(error))
        except Exception as error:
            self._stats.bugs += 1
            self._audit.event("bug", level="error", what=type(error).__name__, where="catalogue")
            self._failed(kept, type(error).__name__)
        else:
            self._stats.catalog_loads[outcome] += 1
            kept.reason = ""
            kept.loaded_at = kept.began
            kept.due = self._now() + self._refresh * self._jitter() if self._refresh else None
        kept.loading = False
        kept.tried.set()
        told, kept.waiting, kept.later = kept.waiting, kept.later, []
        if kept.waiting and not self._load_soon(kept):
            self._start(kept)
        for _, question in told:
            question.tell(None, self._audit)

    async def _load_once(self, kept: _Kept) -> str:
        """Load and prove; return whether anything has changed. Raises UpstreamError, ProofError."""
        judge = kept.judge
        query = catalog_rows.load_query(_attribute_names(judge.policy))
        fetched = await self._fetch(kept.database, query)
        seconds = self._now() - kept.began
        kept.interval = max(MIN_INTERVAL, seconds / MAX_SHARE)
        results = encode_results(fetched)
        policy = judge.policy
        digest = (hashlib.sha256(results).digest(), policy)
        if digest == kept.digest:
            return "unchanged"
        catalog = await self._prover.prove(results, policy)
        judge.learn_catalog(catalog)
        kept.digest = digest
        functions = sum(map(len, catalog.functions.values()))
        self._audit.event(
            "catalogue loaded",
            database=kept.database,
            functions=functions,
            bytes=len(results),
            seconds=round(seconds, 3),
        )
        return "changed"

    def _failed(self, kept: _Kept, reason: str) -> None:
        self._stats.catalog_loads["failed"] += 1
        kept.due = self._now() + RETRY * self._jitter()
        if reason != kept.reason:
            kept.reason = reason
            age = None if kept.loaded_at is None else round(self._now() - kept.loaded_at)
            self._audit.event("catalogue not loaded", level="error", database=kept.database, why=reason, age=age)


@lru_cache(maxsize=16)
def _attribute_names(policy: Policy) -> tuple[str, ...]:
    """Return the built-in functions for which it matters whether `x.name` is a column."""
    functions = Functions(policy)
    return tuple(name for name in sorted(rules.FUNCTIONS) if functions.is_attribute(name))


class _Kept:
    """What is known of one database's catalogue."""

    __slots__ = (
        "began",
        "database",
        "digest",
        "due",
        "interval",
        "judge",
        "later",
        "loaded_at",
        "loading",
        "reason",
        "tried",
        "waiting",
    )

    def __init__(self, database: str, judge: Filter) -> None:
        self.database = database
        self.judge = judge
        self.digest: object = None
        """Of the rows that the present catalogue follows from, and the policy."""
        self.loading = False
        self.tried = asyncio.Event()
        """Whether a load has ended, one way or the other."""
        self.began = 0.0
        """When the last load began."""
        self.loaded_at: float | None = None
        """When the load began that brought or confirmed the present catalogue; None: there is none."""
        self.due: float | None = None
        self.interval = MIN_INTERVAL
        """Seconds from the beginning of the last load to that of the next on demand."""
        self.reason = ""
        """Why the last load failed."""
        self.waiting: list[tuple[float, Question]] = []
        """Who waits for the load under way, and how long at most, in the order of that."""
        self.later: list[tuple[float, Question]] = []
        """Who waits for the one after it."""

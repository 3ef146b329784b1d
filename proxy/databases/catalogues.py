"""Keep the live catalogue of each database: load it, have it proved, hand it to the filter, and know how old it is.

A load is one query on a connection of its own, and takes the longer the more the database holds. Every few seconds, and
when a statement names what the catalogue does not have, a look asks on the same connection whether anything has changed
since: only then it is loaded again. There is one of them at a time for each database. Every `catalog_refresh` seconds
another connection takes the place of the old one, wherever the host is by then. Where a load brings what the last one
brought, nothing changes, and no verdict is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final, Protocol

from proxy.databases.helpers.messages import Results, encode_results
from proxy.databases.helpers.prover import ProofError, Prover
from proxy.errors import QueryFailedError, UpstreamError
from proxy.events import Audit
from proxy.filter import Filter
from proxy.proofs import rows
from proxy.proofs.rows import State
from proxy.session.ports import Asker, Question
from proxy.sql import tables
from proxy.sql.functions import Functions
from proxy.sql.policy import Policy
from proxy.sql.settings import shadows
from proxy.stats import Stats
from proxy.tasks import Tasks

MIN_INTERVAL: Final = 1.0
"""Seconds from the beginning of one load to that of the next on demand, at least."""
MAX_SHARE: Final = 0.1
"""Part of the time that loads may take: neither clients nor who changes the database can keep the server busy so."""
LOOK: Final = 3.0
"""Seconds from one look to the next, at least."""
LOOKS_SHARE: Final = 0.02
"""Part of the time that looks may take. One takes 25 ms where there are 3,000 tables, a load 0.35 s."""
PATIENCE: Final = 5.0
"""Seconds that a statement waits for a newer catalogue at most."""
LONGEST_INTERVAL: Final = PATIENCE - MIN_INTERVAL
"""Seconds after which a load on demand begins in any case: a table that was just created is not told to be missing."""
_ENDED: Final = "57P"
"""The SQLSTATEs with which a server ends a connection: a restart, idle_session_timeout."""
RETRY: Final = 5.0
"""Seconds after which a load that failed is tried again."""


class Reader(Protocol):
    """A connection that catalogues are read on."""

    async def ask(self, query: bytes) -> Results:
        """Return the rows of each result. Raises UpstreamError; it is of no use after that."""

    def close(self) -> None: ...


class Catalogues:
    """Keep one process's catalogues. Implements `house.Catalogues`.

    `refresh` is filter.catalog_refresh in seconds, 0 meaning on demand only. `reach` is `Backends.reader`. `jitter`
    returns a factor around 1, so that the processes of a fleet do not all load at once.
    """

    def __init__(
        self,
        refresh: float,
        reach: Callable[[str], Awaitable[Reader]],
        prover: Prover,
        stats: Stats,
        audit: Audit,
        tasks: Tasks,
        now: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._refresh = refresh
        self._reach = reach
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
        if judge.catalog is None:
            kept.loaded_at = None  # it may have had one that holds no longer: see Filter.learn_paths
            if not kept.loading:
                kept.tried.clear()
                self._start_now(kept)

    async def first(self, database: str) -> None:
        """Wait until the first load has ended, one way or the other, or the patience has.

        Without a catalogue the filter refuses whatever could run what is not built in.
        """
        kept = self._kept.get(database)
        if kept is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(kept.tried.wait(), PATIENCE)

    def forget(self, database: str) -> None:
        """Load no more for a database that is not served any longer."""
        kept = self._kept.pop(database, None)
        if kept is not None and kept not in self._kept.values():
            kept.hang_up()

    def close(self) -> None:
        """Close the connections that catalogues are read on."""
        for kept in self._kept.values():
            kept.hang_up()

    def refresh_for(self, database: str, asker: Asker) -> Question | None:
        """Ask for a catalogue that is newer than now; None for a database that is not kept."""
        kept = self._kept.get(database)
        if kept is None:
            return None
        now = self._now()
        line = kept.waiting
        if kept.loading:
            # It may have read the system catalogues before there was what is asked for: the next one will know.
            if kept.loaded_at is not None and kept.began < now:
                line = kept.later
        else:
            self._load_soon(kept)
        question = Question(asker)
        line.append((now + PATIENCE, question))
        return question

    def _load_soon(self, kept: _Kept) -> None:
        """Load on demand as soon as that may be: within the patience of who waits."""
        at = kept.demanded + kept.interval
        if at > self._now():
            kept.due = at if kept.due is None else min(kept.due, at)
        else:
            self._start_now(kept)

    def ages(self) -> Mapping[str, float]:
        """Return for each database how many seconds ago its catalogue was loaded, or found unchanged."""
        now = self._now()
        return {name: now - kept.loaded_at for name, kept in self._kept.copy().items() if kept.loaded_at is not None}

    def troubles(self) -> Mapping[str, str]:
        """Return why each database has no catalogue. Only reads: any thread may call it."""
        return {
            name: f"its catalogue cannot be read: {kept.reason}" if kept.reason else "its catalogue is being read"
            for name, kept in self._kept.copy().items()
            if kept.judge.catalog is None
        }

    def unprinted(self) -> Mapping[str, int]:
        """Return how many objects of each database could not be printed because of other sessions' locks."""
        found = ((name, kept.judge.catalog) for name, kept in self._kept.copy().items())
        return {name: catalog.unprinted for name, catalog in found if catalog is not None}

    def tick(self, now: float) -> None:
        """Do what time asks for: begin loads, end waits. Called a few times a second."""
        for kept in set(self._kept.values()):
            if kept.due is not None and now >= kept.due and not kept.loading:
                (self._start_now if kept.waiting else self._start)(kept)
            for line in (kept.waiting, kept.later):
                while line and now >= line[0][0]:
                    line.pop(0)[1].tell(None, self._audit)

    def _start_now(self, kept: _Kept) -> None:
        """Begin a load because somebody waits for it. Looks that time asks for keep nobody from asking."""
        self._start(kept)
        kept.demanded = kept.began

    def _start(self, kept: _Kept) -> None:
        kept.loading = True
        kept.due = None
        kept.began = self._now()
        self._tasks.start(self._load(kept), f"catalogue {kept.database}")

    async def _load(self, kept: _Kept) -> None:
        try:
            outcome = await self._load_once(kept)
        except UpstreamError as error:
            self._failed(kept, str(error), error.for_operator)
        except ProofError as error:
            self._failed(kept, str(error), str(error))
        except Exception as error:
            self._stats.bugs += 1
            self._audit.event("bug", level="error", what=type(error).__name__, where="catalogue")
            self._failed(kept, "SideCart met an internal error", type(error).__name__)
        else:
            self._stats.catalog_loads[outcome] += 1
            kept.reason = ""
            kept.loaded_at = kept.began
            pause = min(self._refresh, RETRY if kept.partial else kept.pause)
            kept.due = self._now() + pause * self._jitter() if self._refresh else None
        if not self._refresh:
            kept.hang_up()
        kept.loading = False
        kept.tried.set()
        told, kept.waiting, kept.later = kept.waiting, kept.later, []
        if kept.waiting:
            self._load_soon(kept)
        for _, question in told:
            question.tell(None, self._audit)

    async def _load_once(self, kept: _Kept) -> str:
        """Look, and load and prove where that has to be; return whether anything has changed.

        Raises UpstreamError, ProofError.
        """
        judge = kept.judge
        share = LOOKS_SHARE
        try:
            known = judge.catalog is not None and kept.policy == judge.policy
            if known and kept.state is not None and not kept.partial:
                state = rows.state(await self._ask(kept, rows.state_query(kept.state.since)))
                if state == kept.state:
                    return "unchanged"
            share = MAX_SHARE
            while True:
                policy = judge.policy
                fetched = await self._ask(kept, rows.load_query(_attribute_names(policy), whole=kept.whole))
                another = rows.is_another(fetched)
                if another and not kept.whole:
                    kept.whole = True
                    continue
                kept.whole = another
                state = rows.state(fetched)
                if shadows(state.path):
                    judge.learn_paths([state.path], shadowed=True)
                if judge.policy == policy:
                    break
        finally:
            seconds = self._now() - kept.began
            kept.interval = min(max(MIN_INTERVAL, seconds / MAX_SHARE), LONGEST_INTERVAL)
            kept.pause = max(LOOK, seconds / share)
        results = encode_results(rows.without_state(fetched))
        digest = hashlib.sha256(results).digest()
        if known and digest == kept.digest and policy == kept.policy:
            kept.state = state
            return "unchanged"
        catalog = await self._prover.prove(results, policy)
        if judge.policy != policy:  # by an upstream that has logged in meanwhile
            return await self._load_once(kept)
        if not self._refresh:
            catalog = replace(catalog, world=None)  # nothing would tell that sessions have another search_path by now
        judge.learn_catalog(catalog)
        kept.state, kept.digest, kept.policy, kept.partial = state, digest, judge.policy, catalog.unprinted > 0
        functions = sum(map(len, catalog.functions.values()))
        self._audit.event(
            "catalogue loaded",
            database=kept.database,
            functions=functions,
            bytes=len(results),
            unprinted=catalog.unprinted,
            seconds=round(seconds, 3),
        )
        return "changed"

    async def _ask(self, kept: _Kept, query: bytes) -> Results:
        """Ask on the connection that there is, or on a new one. Raises UpstreamError."""
        if kept.reader is not None and self._now() < kept.renew:
            try:
                return await kept.reader.ask(query)
            except QueryFailedError as error:
                if not error.sqlstate.startswith(_ENDED):
                    raise
            except UpstreamError:
                pass
        kept.hang_up()
        kept.reader = await self._reach(kept.database)
        kept.renew = self._now() + self._refresh * self._jitter()
        return await kept.reader.ask(query)

    def _failed(self, kept: _Kept, told: str, reason: str) -> None:
        """Note a load that failed: what clients are told of it, and the operator."""
        self._stats.catalog_loads["failed"] += 1
        kept.hang_up()
        kept.judge.learn_trouble(told)
        kept.due = self._now() + RETRY * self._jitter()
        if reason != kept.reason:
            kept.reason = reason
            age = None if kept.loaded_at is None else round(self._now() - kept.loaded_at)
            self._audit.event("catalogue not loaded", level="error", database=kept.database, why=reason, age=age)


@lru_cache(maxsize=16)
def _attribute_names(policy: Policy) -> tuple[str, ...]:
    """Return the built-in functions for which it matters whether `x.name` is a column."""
    functions = Functions(policy)
    return tuple(name for name in sorted(tables.FUNCTIONS) if functions.is_attribute(name))


class _Kept:
    """What is known of one database's catalogue."""

    __slots__ = (
        "began",
        "database",
        "demanded",
        "digest",
        "due",
        "interval",
        "judge",
        "later",
        "loaded_at",
        "loading",
        "partial",
        "pause",
        "policy",
        "reader",
        "reason",
        "renew",
        "state",
        "tried",
        "waiting",
        "whole",
    )

    def __init__(self, database: str, judge: Filter) -> None:
        self.database = database
        self.judge = judge
        self.state: State | None = None
        """Of the system catalogues when they were read last."""
        self.digest = b""
        """Of the rows that the present catalogue follows from."""
        self.policy: Policy | None = None
        """The one that it was proved under."""
        self.partial = False
        """Whether it could be a better one although nothing has changed: something could not be printed."""
        self.whole = False
        """Whether what is built in has to be read, too."""
        self.reader: Reader | None = None
        """The connection that it was read on, for the next look."""
        self.renew = 0.0
        """When another connection is to be opened in its place."""
        self.loading = False
        self.tried = asyncio.Event()
        """Whether a load has ended, one way or the other."""
        self.began = 0.0
        """When the last load or look began."""
        self.demanded = 0.0
        """When the last one began that somebody waited for."""
        self.loaded_at: float | None = None
        """When the load began that brought or confirmed the present catalogue; None: there is none."""
        self.due: float | None = None
        self.interval = MIN_INTERVAL
        """Seconds from the beginning of one on demand to that of the next."""
        self.pause = LOOK
        """Seconds from the end of the last load or look to the next look."""
        self.reason = ""
        """Why the last load failed."""
        self.waiting: list[tuple[float, Question]] = []
        """Who waits for the load under way, and how long at most, in the order of that."""
        self.later: list[tuple[float, Question]] = []
        """Who waits for the one after it."""

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        reader, self.reader = self.reader, None
        if reader is not None:
            reader.close()

"""Keep the live catalogue of a database: load it, have it proved, hand it to the filter, and know how old it is.

A load is one query on a connection of its own, and takes the longer the more the database holds. Every few seconds, and
when a statement names what the catalogue does not have, a look asks on the same connection whether anything has changed
since: only then it is loaded again. There is one of them at a time. Every `catalog_refresh` seconds another connection
takes the place of the old one, wherever the host is by then. Where a load brings what the last one brought, nothing
changes, and no verdict is forgotten.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from proxy.databases.helpers.messages import Results, encode_results
from proxy.databases.helpers.prover import ProofError, Prover
from proxy.databases.ports import Around, Reader
from proxy.errors import QueryFailedError, UpstreamError
from proxy.filter import Filter
from proxy.proofs import rows
from proxy.proofs.rows import State
from proxy.session.ports import Asker, Question
from proxy.sql import tables
from proxy.sql.functions import Functions
from proxy.sql.policy import Policy
from proxy.sql.settings import shadows

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


class LiveCatalogue:
    """Keep the catalogue of one database for its filter. Implements `session.ports.Catalogue`.

    `refresh` is filter.catalog_refresh in seconds, 0 meaning on demand only. `reach` opens a connection of its own to
    the database. Names with one filter are one database, with one catalogue.
    """

    __slots__ = (
        "_around",
        "_began",
        "_database",
        "_demanded",
        "_digest",
        "_due",
        "_ended",
        "_interval",
        "_judge",
        "_later",
        "_loaded_at",
        "_loading",
        "_partial",
        "_pause",
        "_policy",
        "_prover",
        "_reach",
        "_reader",
        "_reason",
        "_refresh",
        "_renew",
        "_state",
        "_tried",
        "_waiting",
        "_whole",
    )

    def __init__(
        self,
        database: str,
        judge: Filter,
        refresh: float,
        reach: Callable[[], Awaitable[Reader]],
        prover: Prover,
        around: Around,
    ) -> None:
        self._database = database
        self._judge = judge
        self._refresh = refresh
        self._reach = reach
        self._prover = prover
        self._around = around
        self._ended = False
        """Whether the database is not served any longer."""
        self._state: State | None = None
        """Of the system catalogues when they were read last."""
        self._digest = b""
        """Of the rows that the present catalogue follows from."""
        self._policy: Policy | None = None
        """The one that it was proved under."""
        self._partial = False
        """Whether it could be a better one although nothing has changed: something could not be printed."""
        self._whole = False
        """Whether what is built in has to be read, too."""
        self._reader: Reader | None = None
        """The connection that it was read on, for the next look."""
        self._renew = 0.0
        """When another connection is to be opened in its place."""
        self._loading = False
        self._tried = asyncio.Event()
        """Whether a load has ended, one way or the other."""
        self._began = 0.0
        """When the last load or look began."""
        self._demanded = 0.0
        """When the last one began that somebody waited for."""
        self._loaded_at: float | None = None
        """When the load began that brought or confirmed the present catalogue; None: there is none."""
        self._due: float | None = None
        self._interval = MIN_INTERVAL
        """Seconds from the beginning of one on demand to that of the next."""
        self._pause = LOOK
        """Seconds from the end of the last load or look to the next look."""
        self._reason = ""
        """Why the last load failed."""
        self._waiting: list[tuple[float, Question]] = []
        """Who waits for the load under way, each with the time since when, in the order of that."""
        self._later: list[tuple[float, Question]] = []
        """Who waits for the one after it."""

    # --- what others ask ------------------------------------------------------------------------------------------

    def need(self) -> None:
        """Begin the first load, where the filter has no catalogue, or no longer: see `Filter.learn_paths`."""
        if self._judge.catalog is not None:
            return
        self._loaded_at = None
        if not self._loading:
            self._tried.clear()
            self._start_now()

    async def first(self) -> None:
        """Wait until the first load has ended, one way or the other, or the patience has.

        Without a catalogue the filter refuses whatever could run what is not built in.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._tried.wait(), PATIENCE)

    def close(self) -> None:
        """Load no more: the database is not served any longer."""
        self._ended = True
        self._due = None
        self._hang_up()

    def refresh_for(self, asker: Asker) -> Question | None:
        """Ask for a catalogue that is newer than now; None: there is none to come."""
        if self._ended:
            return None
        now = self._around.now()
        line = self._waiting
        if self._loading:
            # It may have read the system catalogues before there was what is asked for: the next one will know.
            if self._loaded_at is not None and self._began < now:
                line = self._later
        else:
            self._load_soon()
        question = Question(asker)
        line.append((now, question))
        return question

    @property
    def age(self) -> float | None:
        """How many seconds ago it was loaded, or found unchanged; None: there is none."""
        loaded_at = self._loaded_at
        return None if loaded_at is None else self._around.now() - loaded_at

    @property
    def trouble(self) -> str:
        """Why there is no catalogue; empty where there is one, or none was needed yet. Any thread may call it."""
        needed = self._loading or self._tried.is_set()
        if self._judge.catalog is not None or not needed:
            return ""
        reason = self._reason
        return f"its catalogue cannot be read: {reason}" if reason else "its catalogue is being read"

    @property
    def unprinted(self) -> int | None:
        """How many objects could not be printed because of other sessions' locks; None: there is no catalogue."""
        catalog = self._judge.catalog
        return None if catalog is None else catalog.unprinted

    def tick(self, now: float) -> None:
        """Do what time asks for: begin loads, end waits. Called a few times a second."""
        if self._due is not None and now >= self._due and not self._loading:
            (self._start_now if self._waiting else self._start)()
        for line in (self._waiting, self._later):
            while line and now >= line[0][0] + PATIENCE:
                line.pop(0)[1].tell(None, self._around.audit)

    # --- loading --------------------------------------------------------------------------------------------------

    def _load_soon(self) -> None:
        """Load on demand as soon as that may be: within the patience of who waits."""
        at = self._demanded + self._interval
        if at > self._around.now():
            self._due = at if self._due is None else min(self._due, at)
        else:
            self._start_now()

    def _start_now(self) -> None:
        """Begin a load because somebody waits for it. Looks that time asks for keep nobody from asking."""
        self._start()
        self._demanded = self._began

    def _start(self) -> None:
        self._loading = True
        self._due = None
        self._began = self._around.now()
        self._around.tasks.start(self._load(), f"catalogue {self._database}")

    async def _load(self) -> None:
        around = self._around
        try:
            outcome = await self._load_once()
        except UpstreamError as error:
            self._failed(str(error), error.for_operator)
        except ProofError as error:
            self._failed(str(error), str(error))
        except Exception as error:
            around.stats.bugs += 1
            around.audit.event("bug", level="error", what=type(error).__name__, where="catalogue")
            self._failed("SideCart met an internal error", type(error).__name__)
        else:
            around.stats.catalog_loads[outcome] += 1
            self._reason = ""
            self._loaded_at = self._began
            pause = min(self._refresh, RETRY if self._partial else self._pause)
            self._due = around.now() + pause * around.jitter() if self._refresh else None
        if self._ended or not self._refresh:
            self._hang_up()
        self._loading = False
        self._tried.set()
        told, self._waiting, self._later = self._waiting, self._later, []
        if self._ended:
            self._due = None
        elif self._waiting:
            self._load_soon()
        for since, question in told:
            # Who waits for the first catalogue may have come while it was read.
            question.newer = not self._reason and since <= self._began
            question.tell(None, around.audit)

    async def _load_once(self) -> str:
        """Look, and load and prove where that has to be; return whether anything has changed.

        Raises UpstreamError, ProofError.
        """
        judge = self._judge
        known = judge.catalog is not None and self._policy == judge.policy
        is_whole = not self._partial and judge.wanted.is_met_by(judge.catalog)
        if known and is_whole and self._state is not None and await self._is_as_before(self._state):
            return "unchanged"
        fetched, state, policy = await self._read()
        seconds = self._around.now() - self._began
        results = encode_results(rows.without_state(fetched))
        digest = hashlib.sha256(results).digest()
        if known and digest == self._digest and policy == self._policy:
            self._state = state
            await self._prove_more(results)
            return "unchanged"
        catalog = await self._prover.prove(results, policy, judge.wanted.paths)
        if judge.policy != policy:  # by an upstream that has logged in meanwhile
            return await self._load_once()
        if not self._refresh:
            catalog = replace(catalog, world=None)  # nothing would tell that sessions have another search_path by now
        judge.learn_catalog(catalog)
        self._state, self._digest, self._policy = state, digest, judge.policy
        self._partial = catalog.unprinted > 0
        self._around.audit.event(
            "catalogue loaded",
            database=self._database,
            functions=sum(map(len, catalog.functions.values())),
            bytes=len(results),
            unprinted=catalog.unprinted,
            seconds=round(seconds, 3),
        )
        return "changed"

    async def _prove_more(self, results: bytes) -> None:
        """Have bodies proved under search_paths that sessions have set since, in a database that has not changed.

        Raises ProofError.
        """
        judge = self._judge
        known, policy = judge.catalog, judge.policy
        if judge.wanted.is_met_by(known):
            return
        catalog = await self._prover.prove(results, policy, judge.wanted.paths)
        if judge.catalog is known and judge.policy == policy:
            judge.learn_proofs(catalog)

    async def _is_as_before(self, known: State) -> bool:
        """Look whether the system catalogues have changed. Raises UpstreamError."""
        try:
            return rows.state(await self._ask(rows.state_query(known.since))) == known
        finally:
            self._rest(LOOKS_SHARE)

    async def _read(self) -> tuple[Results, State, Policy]:
        """Read the rows, for what the filter is to judge by when they have come. Raises UpstreamError."""
        judge = self._judge
        try:
            while True:
                policy = judge.policy
                fetched = await self._ask(rows.load_query(_attribute_names(policy), whole=self._whole))
                another = rows.is_another(fetched)
                if another and not self._whole:
                    self._whole = True
                    continue
                self._whole = another
                state = rows.state(fetched)
                if shadows(state.path):
                    judge.learn_paths([state.path], shadowed=True)
                if judge.policy == policy:
                    return fetched, state, policy
        finally:
            self._rest(MAX_SHARE)

    def _rest(self, share: float) -> None:
        """Say when the next one may begin, so that all of them take this share of the time at most."""
        seconds = self._around.now() - self._began
        self._interval = min(max(MIN_INTERVAL, seconds / MAX_SHARE), LONGEST_INTERVAL)
        self._pause = max(LOOK, seconds / share)

    async def _ask(self, query: bytes) -> Results:
        """Ask on the connection that there is, or on a new one. Raises UpstreamError."""
        around = self._around
        if self._reader is not None and around.now() < self._renew:
            try:
                return await self._reader.ask(query)
            except QueryFailedError as error:
                if not error.sqlstate.startswith(_ENDED):
                    raise
            except UpstreamError:
                pass
        self._hang_up()
        self._reader = await self._reach()
        self._renew = around.now() + self._refresh * around.jitter()
        return await self._reader.ask(query)

    def _hang_up(self) -> None:
        """Close the connection, if there is one."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _failed(self, told: str, reason: str) -> None:
        """Note a load that failed: what clients are told of it, and the operator."""
        around = self._around
        around.stats.catalog_loads["failed"] += 1
        self._hang_up()
        self._judge.learn_trouble(told)
        self._due = around.now() + RETRY * around.jitter()
        if reason != self._reason:
            self._reason = reason
            age = self.age
            around.audit.event(
                "catalogue not loaded",
                level="error",
                database=self._database,
                why=reason,
                age=None if age is None else round(age),
            )


@lru_cache(maxsize=16)
def _attribute_names(policy: Policy) -> tuple[str, ...]:
    """Return the built-in functions for which it matters whether `x.name` is a column."""
    functions = Functions(policy)
    return tuple(name for name in sorted(tables.FUNCTIONS) if functions.is_attribute(name))

"""Look whether a pooler in between keeps one of the server's sessions for each connection, and whether it may stay.

PgBouncer in session mode does, and clears the session before another connection gets it. In transaction mode, or in
statement mode, whoever asks next goes on where somebody else has stopped: settings, prepared statements, cursors and
temporary tables are another client's, and SideCart could promise its clients nothing.

That there is a pooler is seen at login: the process that answers is not the one in BackendKeyData. Which mode it has no
pooler tells. But two connections show it, with one of which the other is watched in pg_stat_activity: the server's
process must have run nothing but its last statement while it rests, and be cleared, or gone, once it is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

from proxy.databases.diagnosis import MORE, SHARED
from proxy.databases.helpers.messages import Results
from proxy.errors import CANNOT_CONNECT_NOW, CloseReason, UpstreamError
from proxy.events import Audit
from proxy.pooling.pool import Upstream
from proxy.tasks import Shared, Tasks

INTERVAL: Final = 300.0
"""Seconds from one look to the next: the mode of a pooler can be changed while it runs."""
AGAIN: Final = 5.0
"""Seconds after which a login looks again at a pooler that was refused."""
TRIES: Final = 10
"""Connections that are watched, one after the other, until one of them proves anything."""
RESTING: Final = 10
"""How often a connection that rests is looked at: on a busy server a shared session does not rest that long."""
AT_ONCE: Final = 50
"""How often it is looked at, once it is closed, without a pause: when it was cleared it may have a new owner soon."""
CLEARING: Final = 100
"""How often it is looked at in all, until it counts as one that nobody clears."""
PAUSE: Final = 0.02
"""Seconds from one of those looks to the next."""
PATIENCE: Final = 30.0
"""Seconds that a look may take."""
_CLEARED: Final = (b"DISCARD ALL", b"RESET ALL")
_STARTED: Final = b"pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())"
"""Tells servers apart: their processes may have the same numbers."""
_HINT: Final = "Ask the operator to run `sidecart preflight`, which says what to set."


class Pooling(enum.Enum):
    """What a pooler does with the server's sessions. The values are words for the log and the pages."""

    SESSION = "session"
    """A connection has one to itself until it ends, and whoever gets it next gets it cleared."""
    SHARED = "shared"
    """It has not."""


class Reader(Protocol):
    """A connection of its own, as `Backends.reader` opens it."""

    async def ask(self, query: bytes) -> Results:
        """Return the rows of each result. Raises UpstreamError; it is of no use after that."""

    def close(self) -> None: ...


async def look(
    reach: Callable[[], Awaitable[Reader]], pause: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> Pooling | None:
    """Find out what a pooler does with sessions, on connections of their own; None: nothing proved anything.

    Raises UpstreamError, ValueError for answers of another shape.
    """
    watcher = await reach()
    try:
        for _ in range(TRIES):
            found = await _watch(await reach(), watcher, pause)
            if found is not None:
                return found
        return None
    finally:
        watcher.close()


async def _watch(watched: Reader, watcher: Reader, pause: Callable[[float], Awaitable[object]]) -> Pooling | None:
    """Watch a connection rest, and close; None: that proved nothing."""
    try:
        last = b"SELECT pg_catalog.pg_backend_pid(), %b /* %b */" % (_STARTED, secrets.token_hex(8).encode())
        [[[pid, server]]] = await watched.ask(last)
        if pid is None:
            return None
        query = b"SELECT %b, (SELECT query FROM pg_catalog.pg_stat_activity WHERE pid OPERATOR(pg_catalog.=) %b)" % (
            _STARTED,
            pid,
        )
        for _ in range(RESTING):
            [[[where, seen]]] = await watcher.ask(query)
            if where != server or not seen:  # another server's, or hidden: track_activities is off
                return None
            if seen != last:
                return Pooling.SHARED
    finally:
        watched.close()
    for number in range(CLEARING):
        if number > AT_ONCE:
            await pause(PAUSE)
        [[[where, seen]]] = await watcher.ask(query)
        if where != server:
            return None
        if seen is None or any(word in seen.upper() for word in _CLEARED):
            return Pooling.SESSION
        if seen != last:
            return None  # it has a new owner, who came before it was seen to be cleared, or without that
    return Pooling.SHARED


class Poolers:
    """Keep what one process has found about poolers, by the database.

    `reach` is `Backends.reader`. `allows` says whether a database is served although sessions are shared; `on_refused`
    is called when one that was served is no more.
    """

    def __init__(
        self,
        reach: Callable[[str], Awaitable[Reader]],
        allows: Callable[[str], bool],
        on_refused: Callable[[str, UpstreamError], None],
        audit: Audit,
        tasks: Tasks,
        now: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._reach = reach
        self._allows = allows
        self._on_refused = on_refused
        self._audit = audit
        self._tasks = tasks
        self._now = now
        self._jitter = jitter
        self._kept: dict[str, _Kept] = {}

    async def admit(self, database: str, pid: int, others: Iterable[Upstream], *, pooled: bool) -> None:
        """Have a pooler looked at before the first upstream behind it is used.

        `pid` is the server's process that has answered, `others` are the upstreams that the pool has already. Raises
        UpstreamError if the database is not served that way, or if nothing could be found out.
        """
        doubt = any(
            other.backend.pid == pid for other in others
        )  # one process for two: its sessions are shared, or have been
        if not (pooled or doubt):
            self.forget(database)
            return
        kept = self._kept.get(database)
        if kept is None:
            kept = self._kept[database] = _Kept(Shared(self._tasks, lambda: self._look(database), f"pooler {database}"))
        if kept.pooling is Pooling.SESSION and not doubt:
            return
        if kept.pooling is Pooling.SHARED:
            if self._allows(database):
                return
            if self._now() - kept.looked < AGAIN:
                raise _refusal(database)
        await kept.look()
        if kept.pooling is Pooling.SHARED and not self._allows(database):
            raise _refusal(database)

    def forget(self, database: str) -> None:
        """Look no more at a database that is not served any longer, or that no pooler stands before."""
        self._kept.pop(database, None)

    def tick(self, now: float) -> None:
        """Begin the looks that are due. Called a few times a second."""
        for database, kept in self._kept.items():
            if now >= kept.due and not kept.look.under_way:
                kept.due = now + INTERVAL * self._jitter()
                self._tasks.start(self._look_again(kept), f"look at the pooler of {database}")

    def found(self) -> Mapping[str, str]:
        """Return what the poolers do, of each database that has one before it. Only reads: any thread may call it."""
        return {name: kept.pooling.value for name, kept in self._kept.copy().items() if kept.pooling is not None}

    async def _look_again(self, kept: _Kept) -> None:
        with contextlib.suppress(UpstreamError):  # it is full, say: what was known before holds on
            await kept.look()

    async def _look(self, database: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                pooling = await look(lambda: self._reach(database))
        except UpstreamError as error:
            raise _unknown(database, f"{error.for_operator}; {MORE}") from error
        except TimeoutError as error:
            raise _unknown(database, f"it took more than {PATIENCE:g} s; {MORE}") from error
        except ValueError as error:
            raise _unknown(database, "the server gave an unexpected answer") from error
        if pooling is None:
            raise _unknown(database, f"its sessions change hands too fast to tell; {SHARED}")
        kept = self._kept.get(database)
        if kept is None:
            return
        served = kept.pooling is Pooling.SESSION
        refused = pooling is Pooling.SHARED and not self._allows(database)
        if pooling is not kept.pooling:
            level = "warning" if pooling is Pooling.SHARED else "info"
            self._audit.event("pooler", level=level, database=database, pooling=pooling.value)
        kept.pooling = pooling
        kept.looked = self._now()
        kept.due = kept.looked + INTERVAL * self._jitter()
        if served and refused:
            self._on_refused(database, _refusal(database))


class _Kept:
    """What is known of the pooler before one database."""

    __slots__ = ("due", "look", "looked", "pooling")

    def __init__(self, look: Shared[None]) -> None:
        self.look = look
        self.pooling: Pooling | None = None
        """None: there was no look yet."""
        self.looked = 0.0
        self.due = float("inf")


def _refusal(database: str) -> UpstreamError:
    error = UpstreamError(
        f'database "{database}" is not served: a pooler in between shares the server\'s sessions among its clients',
        CANNOT_CONNECT_NOW,
        reason=CloseReason.POOLER_REFUSED,
        transient=False,
        cause=SHARED,
    )
    error.hint = _HINT
    return error


def _unknown(database: str, why: str) -> UpstreamError:
    error = UpstreamError(
        f'database "{database}" is not served: what the pooler in between does with sessions could not be found out',
        CANNOT_CONNECT_NOW,
        reason=CloseReason.POOLER_REFUSED,
        cause=why,
    )
    error.hint = _HINT
    return error

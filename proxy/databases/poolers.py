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
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from proxy.databases.diagnosis import MORE, SHARED
from proxy.databases.ports import Around, Reader
from proxy.errors import CANNOT_CONNECT_NOW, CloseReason, UpstreamError
from proxy.pooling.pool import Upstream
from proxy.tasks import Shared

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


class PoolerWatch:
    """Keep what has been found about the pooler before one database, if there is one.

    `reach` opens a connection of its own to the database. `allows` says whether it is served although sessions are
    shared; `on_refused` is called when it was served and is no more.
    """

    __slots__ = ("_around", "_database", "_due", "_look", "_looked", "_on_refused", "_reach", "allows", "pooling")

    def __init__(
        self,
        database: str,
        reach: Callable[[], Awaitable[Reader]],
        on_refused: Callable[[UpstreamError], None],
        around: Around,
        *,
        allows: bool,
    ) -> None:
        self._database = database
        self._reach = reach
        self._on_refused = on_refused
        self._around = around
        self._look = Shared(around.tasks, self._look_once, f"pooler {database}")
        self.allows = allows
        self.pooling: Pooling | None = None
        """What it does with sessions; None: that is not known, or there is no pooler."""
        self._looked = 0.0
        self._due: float | None = None
        """When it is looked at again; None: it never was, or there is no pooler."""

    async def admit(self, pid: int, others: Iterable[Upstream], *, pooled: bool) -> None:
        """Have a pooler looked at before the first upstream behind it is used.

        `pid` is the server's process that has answered, `others` are the upstreams that the pool has already. Raises
        UpstreamError if the database is not served that way, or if nothing could be found out.
        """
        doubt = any(
            other.backend.pid == pid for other in others
        )  # one process for two: its sessions are shared, or have been
        if not (pooled or doubt):
            self.pooling = self._due = None
            return
        if self.pooling is Pooling.SESSION and not doubt:
            return
        if self.pooling is Pooling.SHARED:
            if self.allows:
                return
            if self._around.now() - self._looked < AGAIN:
                raise _refusal(self._database)
        # Another login, of a server without a pooler, may forget meanwhile what is found here.
        if await self._look() is Pooling.SHARED and not self.allows:
            raise _refusal(self._database)

    def tick(self, now: float) -> None:
        """Begin the look that is due. Called a few times a second."""
        if self._due is not None and now >= self._due and not self._look.under_way:
            around = self._around
            self._due = now + INTERVAL * around.jitter()
            around.tasks.start(self._look_again(), f"look at the pooler of {self._database}")

    async def _look_again(self) -> None:
        with contextlib.suppress(UpstreamError):  # it is full, say: what was known before holds on
            await self._look()

    async def _look_once(self) -> Pooling:
        try:
            async with asyncio.timeout(PATIENCE):
                pooling = await look(self._reach)
        except UpstreamError as error:
            raise _unknown(self._database, f"{error.for_operator}; {MORE}") from error
        except TimeoutError as error:
            raise _unknown(self._database, f"it took more than {PATIENCE:g} s; {MORE}") from error
        except ValueError as error:
            raise _unknown(self._database, "the server gave an unexpected answer") from error
        if pooling is None:
            raise _unknown(self._database, f"its sessions change hands too fast to tell; {SHARED}")
        self._take(pooling)
        return pooling

    def _take(self, pooling: Pooling) -> None:
        around, before = self._around, self.pooling
        if pooling is not before:
            level = "warning" if pooling is Pooling.SHARED else "info"
            around.audit.event("pooler", level=level, database=self._database, pooling=pooling.value)
        self.pooling = pooling
        self._looked = around.now()
        self._due = self._looked + INTERVAL * around.jitter()
        if before is Pooling.SESSION and pooling is Pooling.SHARED and not self.allows:
            self._on_refused(_refusal(self._database))


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

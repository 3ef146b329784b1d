"""The pool of one database: who gets which upstream, what to open and what to close, at time `now`.

State is which set an upstream is in: `idle`, `leased`, `cleaning`, or a number that is `opening`. An upstream is in
exactly one; while it is checked it is in `cleaning`: nobody may have it. open + opening never exceed the size; every
count is a `len()`. Every method decides synchronously and acts through two ports: the opener, which starts a login, and
the upstreams themselves, which close, clean or ask for a sign of life.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from proxy.config.schema import PoolLimits
from proxy.errors import CANNOT_CONNECT_NOW, TOO_MANY_CONNECTIONS, CloseReason, UpstreamError
from proxy.pooling.snapshot import NO_SETTINGS, Settings
from proxy.stats import Stats

NOT_REACHED: Final = "the upstream has not been reached yet"
PATIENCE: Final = 1.0
"""Seconds that back-off may keep a waiting client from the next login."""


@dataclass(slots=True)
class Backend:
    """The server's process behind one connection, and the way to it."""

    address: str = ""
    """Where its server is; empty: on a Unix socket."""
    tls_version: str = ""
    auth: str = ""
    """How we have proved who we are; empty until it has let us in."""
    key: tuple[int, bytes] = (0, b"")
    """What a CancelRequest names: process and secret, the pooler's where there is one."""
    pid: int = 0
    """The server's process, as pg_stat_activity names it."""
    pooled: bool = False
    """Whether a pooler stands in between: the server's process is not the one that BackendKeyData names."""
    path: str = ""
    """The search_path that RESET returns to: the role's, the database's or the configuration's."""


@dataclass(slots=True)
class Term:
    """How long an upstream lives, and what it has done of that, in the pool's time."""

    born: float = 0.0
    """When it had logged in."""
    expires: float = 0.0
    """When it has lived long enough."""
    outlived: CloseReason = CloseReason.SERVER_LIFETIME
    """Why it closes when it has."""
    idle_since: float = 0.0
    heard: float = 0.0
    """When it has last shown that it lives, while nobody leased it."""


class Upstream(Protocol):
    """One logged-in connection to the server, as the pool sees it."""

    backend: Backend
    term: Term
    settings: Settings | None
    """The clients' settings that hold on it now; None: unknown."""
    customs: set[str]
    """Dotted settings that were ever set on it: they read '' instead of NULL until it closes."""
    parameters: dict[str, str]
    """What its server has reported by ParameterStatus."""
    defaults: Settings
    """What of that it reports to a client without settings of its own."""
    restless: bool
    """It has reported something that no client has set: see `Pool.settle`."""
    cancelling: bool
    """Whether a CancelRequest for it is still under way: it must reach nobody else's statement."""

    def close(self, reason: CloseReason) -> None:
        """Close it. It is never heard of again."""

    def recycle(self, *, discard: bool) -> None:
        """Bring it back to a clean idle state, with DISCARD ALL on request; it calls `Pool.cleaned` or `Pool.lost`."""

    def check(self) -> None:
        """Ask the server for a sign of life; it calls `Pool.answered`, `Pool.silent` or `Pool.lost`."""


class Waiter(Protocol):
    """A client that leases upstreams."""

    def leased(self, upstream: Upstream) -> None:
        """Take the upstream that it waited for."""

    def lease_failed(self, error: UpstreamError) -> None:
        """Learn that it waited in vain."""

    def still_waiting(self, seconds: float) -> None:
        """Learn that it waits, once, after `query_wait_notify` seconds."""

    def holding(self) -> tuple[str, str]:
        """Say who it is and, in a word, why it holds its upstream."""


class Opener(Protocol):
    """Starts logins, and asks the server for a sign of life."""

    def open(self, pool: Pool) -> None:
        """Start a login. It ends in exactly one `Pool.opened` or `Pool.failed`, later and not before this returns."""

    def probe(self, pool: Pool) -> None:
        """Ask on a connection of its own; it ends in exactly one `Pool.alive` or `Pool.hung`, later likewise."""


@dataclass(slots=True)
class _Wait:
    since: float
    settings: Settings
    fresh: bool = False
    notified: bool = False


@dataclass(slots=True)
class _Life:
    """Signs of life of the server, in the pool's time."""

    heard: float = -math.inf
    """When it has last answered anything."""
    asked_at: float = -math.inf
    """When it was last asked for a sign of life, …"""
    silent_at: float = -math.inf
    """… when it has not given one, …"""
    silence: UpstreamError | None = None
    """… and what is said of that."""


class Pool:
    """Share at most `default_pool_size` upstreams among the clients of one database, first come, first served.

    `jitter` returns a factor around 1 for life times and back-off, so that connections do not all end at once.
    `database` is the name that clients ask for, `dbname` its name on the server (None: the same). `application_name` is
    the pattern of what the server is shown (see `Naming`); `hint` what a client is told where the database does not
    exist.
    """

    def __init__(
        self,
        database: str,
        limits: PoolLimits,
        opener: Opener,
        stats: Stats,
        jitter: Callable[[], float],
        *,
        dbname: str | None = None,
        application_name: str = "",
        hint: str = "",
        max_client_conn: int = 0,
    ) -> None:
        self.database = database
        self.dbname = database if dbname is None else dbname
        self.application_name = application_name
        self.hint = hint
        self.max_client_conn = max_client_conn
        """Clients of this database at the same time; 0: no limit of its own."""
        self.clients = 0
        """How many there are."""
        self.limits = limits
        self.opener = opener
        self._stats = stats
        self._jitter = jitter
        self.idle: list[Upstream] = []
        self.leased: dict[Upstream, Waiter] = {}
        self.cleaning: set[Upstream] = set()
        self.opening = 0
        self.waiting: dict[Waiter, _Wait] = {}
        self.greetings: dict[Settings, dict[str, str]] = {}
        """The ParameterStatus values that a client with these settings is greeted with."""
        self.reloaded = False
        """Whether some upstreams may report something else as soon as something runs there."""
        self._defaults = NO_SETTINGS  # what the server has reported last to a client without settings of its own
        self.last_error: UpstreamError | None = None
        """Why the last login failed; None if it succeeded, or none has ended yet."""
        self._life = _Life()
        self._failures = 0
        self._retry_at = 0.0
        self._dispatching = False
        self.draining = False

    def __repr__(self) -> str:
        return (
            f"<Pool {self.database} idle={len(self.idle)} leased={len(self.leased)} cleaning={len(self.cleaning)} "
            f"opening={self.opening} waiting={len(self.waiting)}>"
        )

    @property
    def size(self) -> int:
        """How many upstreams are open or being opened."""
        return len(self.idle) + len(self.leased) + len(self.cleaning) + self.opening

    @property
    def trouble(self) -> str:
        """Say why a client would not be served now, as far as is known; empty if it would.

        An error of a login stands until a login succeeds, the silence of an upstream until the server is heard again.
        """
        if self.last_error is not None:
            return self.last_error.for_operator
        if self._life.silence is not None and self._life.silent_at > self._life.heard:
            return str(self._life.silence)
        return "" if self._life.heard > -math.inf else NOT_REACHED

    # --- clients -------------------------------------------------------------------------------------------------

    def lease(self, who: Waiter, settings: Settings, now: float, *, fresh: bool = False) -> Upstream | None:
        """Give an idle upstream at once, or put the client in line and return None.

        `settings` are those that it wants to find, which do not change while it waits.
        `fresh`: only one that logs in from now on will do. Where one upstream was lost the others often are too, and
        nobody has heard of it yet.
        """
        # Nothing that is idle suits anybody in line, except for a moment while the line is being served.
        if self.idle and not (self.waiting and self._dispatching):
            last = self.idle[-1]
            upstream: Upstream | None
            if last.settings is settings and not (fresh or last.customs):
                upstream = self.idle.pop()  # what `_pick` would take, which costs a call more
            else:
                upstream = self._pick(settings, now if fresh else -math.inf)
            if upstream is not None:
                self.leased[upstream] = who
                return upstream
        self.waiting[who] = _Wait(now, settings, fresh)
        self._retry_at = min(self._retry_at, now + PATIENCE)
        self._grow(now)
        return None

    def leave(self, who: Waiter) -> bool:
        """Take a client out of the line; return whether it stood there."""
        return self.waiting.pop(who, None) is not None

    def release(self, upstream: Upstream, now: float) -> None:
        """Take back an upstream that is idle and clean. One with a cancel under way is cleaned first."""
        del self.leased[upstream]
        self._life.heard = now
        if not (self.waiting or upstream.cancelling or self.draining or now >= upstream.term.expires):
            upstream.term.heard = upstream.term.idle_since = now  # what `_rest` would do
            self.idle.append(upstream)
        elif upstream.cancelling:
            self.cleaning.add(upstream)
            upstream.recycle(discard=False)
        else:
            self._rest(upstream, now)

    def recycle(self, upstream: Upstream, *, discard: bool) -> None:
        """Take back an upstream whose client has gone in the middle of something, or that keeps state."""
        del self.leased[upstream]
        self.cleaning.add(upstream)
        upstream.recycle(discard=discard)

    # --- upstreams -----------------------------------------------------------------------------------------------

    def opened(self, upstream: Upstream, now: float) -> None:
        """Take in a new upstream. Where its server reports what no other has, it was replaced, or promoted."""
        upstream.defaults = Settings.of(upstream.parameters.items())
        self._reports(upstream.defaults)
        self.opening -= 1
        self._failures = 0
        self.last_error = None
        self._life.heard = now
        upstream.term.born = now
        upstream.term.expires = now + self.limits.server_lifetime * self._jitter()
        self._rest(upstream, now)

    def failed(self, error: UpstreamError, now: float) -> None:
        """Note a login that failed: back off; where a later try cannot help, tell all who wait."""
        self.opening -= 1
        self.last_error = error
        self._failures += 1
        delay = min(2.0 ** min(self._failures - 1, 30), self.limits.server_login_retry)
        if self.waiting:
            delay = min(delay, PATIENCE)
        self._retry_at = now + delay * self._jitter()
        if not error.transient:
            self._fail_all(error)

    def cleaned(self, upstream: Upstream, now: float) -> None:
        """Take back an upstream that has proved to be clean."""
        self.cleaning.discard(upstream)
        self._life.heard = now
        self._rest(upstream, now)

    def answered(self, upstream: Upstream, now: float) -> None:
        """Take back an upstream that was checked. It has rested all the while."""
        self.cleaning.discard(upstream)
        self._life.heard = now
        self._rest(upstream, now, since=upstream.term.idle_since)

    def silent(self, upstream: Upstream, error: UpstreamError, now: float) -> None:
        """Forget an upstream that did not answer its check, and doubt all that are idle."""
        self._life.silence, self._life.silent_at = error, now
        self.lost(upstream, now)
        for other in list(self.idle):
            self._check(other)

    def alive(self, now: float) -> None:
        """Learn that the server has answered on another connection than those of the pool."""
        self._life.heard = now

    def hung(self, error: UpstreamError, now: float) -> None:
        """Learn that it has not. Whoever waits for a statement waits on: the server may come back."""
        self._life.silence, self._life.silent_at = error, now

    def lost(self, upstream: Upstream, now: float) -> None:
        """Forget an upstream that has ended, in whatever set it was."""
        if upstream in self.idle:
            self.idle.remove(upstream)
        self.leased.pop(upstream, None)
        self.cleaning.discard(upstream)
        self._grow(now)

    def unsettle(self, upstream: Upstream) -> None:
        """Learn that a server has reported what no client has set: it was promoted, or its configuration reloaded."""
        upstream.restless = self.reloaded = True
        self.greetings.clear()

    def settle(self, upstream: Upstream) -> None:
        """Look at what it reports by now, once for all reports; not while nobody knows which settings hold on it."""
        if not upstream.restless or upstream.settings is None:
            return
        upstream.restless = False
        set_ = {name for name, _ in upstream.settings.items}
        told = {name.lower(): value for name, value in upstream.parameters.items()}
        kept = (
            (name, told[name] if name in told and name not in set_ else old) for name, old in upstream.defaults.items
        )
        upstream.defaults = Settings.of(kept)
        self._reports(upstream.defaults)

    def _reports(self, defaults: Settings) -> None:
        if defaults is not self._defaults:
            self._defaults = defaults
            self.greetings.clear()

    def waits_since(self, who: Waiter) -> float:
        """Return when this one has come to stand in line; 0 if it does not."""
        wait = self.waiting.get(who)
        return 0.0 if wait is None else wait.since

    def refuse(self, error: UpstreamError) -> None:
        """End every upstream and tell all who wait: nobody is served before a new login succeeds."""
        self.last_error = error
        self.greetings.clear()
        for upstream in [*self.idle, *self.leased, *self.cleaning]:
            upstream.close(error.reason)  # what is leased or cleaning is lost when its socket has ended
        self.idle.clear()
        self._fail_all(error)

    def drain(self) -> None:
        """Send away who waits, close what is idle, and whatever comes back from now on."""
        self.draining = True
        self._send_away()
        for upstream in self.idle:
            upstream.close(CloseReason.DRAIN)
        self.idle.clear()

    def late(self, now: float) -> int:
        """Return how many have waited for half of `query_wait_timeout` while clients hold all that there may be."""
        timeout = self.limits.query_wait_timeout
        if not timeout or len(self.leased) < self.limits.default_pool_size:
            return 0
        return sum(now - wait.since >= timeout / 2 for wait in self.waiting.values())

    def depart(self, stays: Callable[[str], bool], now: float) -> None:
        """Leave the addresses that do not stay: close what is idle there, and the rest as soon as it is free."""
        for upstream in (*self.idle, *self.leased, *self.cleaning):
            if not stays(upstream.backend.address):
                upstream.term.expires = -math.inf
                upstream.term.outlived = CloseReason.ADDRESS_CHANGED
        for upstream in [each for each in self.idle if each.term.outlived is CloseReason.ADDRESS_CHANGED]:
            self.idle.remove(upstream)
            upstream.close(upstream.term.outlived)
        self._grow(now, warm=True)

    def tick(self, now: float) -> None:
        """Do what time asks for: give up waits, retire idle upstreams, keep `min_pool_size` open."""
        if self.draining:
            self._send_away()
        self._end_waits(now)
        self._retire(now)
        check_delay = self.limits.server_check_delay
        if check_delay and now - max(self._life.heard, self._life.asked_at) >= check_delay:
            self._ask(now)
        self._grow(now, warm=True)

    def _end_waits(self, now: float) -> None:
        """Tell who waits that it is still so, or that it was in vain."""
        for who, wait in list(self.waiting.items()):
            waited = now - wait.since
            if self.limits.query_wait_timeout and waited >= self.limits.query_wait_timeout:
                if self.waiting.pop(who, None) is not None:
                    who.lease_failed(self._waited_in_vain(now))
            elif self.limits.query_wait_notify and waited >= self.limits.query_wait_notify and not wait.notified:
                wait.notified = True
                who.still_waiting(waited)

    def _retire(self, now: float) -> None:
        """Close idle upstreams that are too old, or that nobody has used for long."""
        spare = self.size - self.limits.min_pool_size
        for upstream in list(self.idle):  # the front of the list has rested longest
            old = now >= upstream.term.expires
            rested = now - upstream.term.idle_since
            unused = spare > 0 and 0 < self.limits.server_idle_timeout <= rested
            if old or unused:
                self.idle.remove(upstream)
                spare -= 1
                upstream.close(upstream.term.outlived if old else CloseReason.SERVER_IDLE_TIMEOUT)

    def _ask(self, now: float) -> None:
        """Ask the server for a sign of life: on an idle upstream, else, where all are busy, beside them."""
        if not self.idle and not self.leased and not self.cleaning:
            return  # a login will tell
        self._life.asked_at = now
        if self.idle:
            # In turn: so each is heard of before a firewall forgets it.
            self._check(min(self.idle, key=lambda upstream: upstream.term.heard))
        else:
            self.opener.probe(self)

    def _check(self, upstream: Upstream) -> None:
        self.idle.remove(upstream)
        self.cleaning.add(upstream)
        upstream.check()

    def _send_away(self) -> None:
        text = "the database system is shutting down"
        self._fail_all(UpstreamError(text, CANNOT_CONNECT_NOW, reason=CloseReason.DRAIN))

    def _fail_all(self, error: UpstreamError) -> None:
        for who in list(self.waiting):
            if self.waiting.pop(who, None) is not None:
                who.lease_failed(error)

    # --- inside --------------------------------------------------------------------------------------------------

    def _pick(self, settings: Settings, after: float = -math.inf) -> Upstream | None:
        """Take the idle upstream that needs no replay, else the one used last: its caches are warm.

        None if none suits: if each had logged in before `after`, or has had a dotted setting that the client never set
        itself. Of the others those with the most such settings go first: the rest stay good for everybody.
        """
        idle, customs = self.idle, settings.customs
        best = -1
        for index in range(len(idle) - 1, -1, -1):
            upstream = idle[index]
            if upstream.term.born < after or (upstream.customs and not upstream.customs <= customs):
                continue
            if upstream.settings is settings:
                return idle.pop(index)
            if best < 0 or len(upstream.customs) > len(idle[best].customs):
                best = index
        return None if best < 0 else idle.pop(best)

    def _rest(self, upstream: Upstream, now: float, since: float | None = None) -> None:
        """Make an upstream idle, `since` then if it was before, or close it if it is old; then serve whoever waits."""
        if self.draining or now >= upstream.term.expires:
            upstream.close(CloseReason.DRAIN if self.draining else upstream.term.outlived)
            self._grow(now)
            return
        upstream.term.heard = now
        if since is None:
            upstream.term.idle_since = now
            self.idle.append(upstream)
        else:
            bisect.insort(self.idle, upstream, key=lambda each: each.term.idle_since)
        # A client that is served may end, and release, before `leased` returns: one loop, no recursion.
        if self._dispatching or not self.waiting:
            return
        self._dispatching = True
        try:
            while self.waiting and self.idle and self._serve(now):
                pass
        finally:
            self._dispatching = False

    def _serve(self, now: float) -> bool:
        """Serve the first in line whom an idle upstream suits; return whether there was one.

        Those before it need a new upstream. Each has a login under way, or one is started; it may cost what is idle. So
        nobody is passed by but for the time of a login, or because none is possible now.
        """
        for passed, (who, wait) in enumerate(self.waiting.items(), 1):
            upstream = self._pick(wait.settings, wait.since if wait.fresh else -math.inf)
            if upstream is not None:
                del self.waiting[who]
                self.leased[upstream] = who
                self._stats.queue_wait.observe(now - wait.since)
                who.leased(upstream)
                return True
            if passed > self.opening:
                self._open(now)
                if not self.idle:
                    break
        return False

    def _grow(self, now: float, *, warm: bool = False) -> None:
        """Open what those who wait need, as far as the size, the login limit and the back-off allow."""
        wanted = len(self.waiting) - self.opening
        if warm:
            wanted = max(wanted, self.limits.min_pool_size - self.size)
        if self._dispatching:  # what is idle at this moment may suit somebody in line
            wanted = min(wanted, self.limits.default_pool_size - self.size)
        for _ in range(wanted):
            if not self._open(now):
                break

    def _open(self, now: float) -> bool:
        """Start a login if one may start now; in a full pool the idle upstream that has rested longest gives way."""
        if self.draining or now < self._retry_at or self.opening >= self.limits.max_logins:
            return False
        if self.size >= self.limits.default_pool_size:
            if not self.idle:
                return False
            self.idle.pop(0).close(CloseReason.REPLACED)
        self.opening += 1
        self.opener.open(self)
        return True

    def _waited_in_vain(self, now: float) -> UpstreamError:
        """Build the error of a client that got no upstream: it says who holds them, and why."""
        seconds = f"{self.limits.query_wait_timeout:g}"
        if self._life.silence is not None and self._life.silent_at > self._life.heard:
            return UpstreamError(str(self._life.silence), CANNOT_CONNECT_NOW, reason=CloseReason.QUERY_WAIT_TIMEOUT)
        if self.last_error is not None and not self.leased:
            return UpstreamError(
                f"server login has been failing, cached error: {self.last_error}",
                self.last_error.sqlstate,
                reason=CloseReason.QUERY_WAIT_TIMEOUT,
            )
        holders = [who.holding() for who in self.leased.values()]
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(why for _, why in holders).most_common())
        names = ", ".join(who for who, _ in holders[:3]) + (" and others" if len(holders) > 3 else "")
        error = UpstreamError(
            f'query_wait_timeout: no upstream connection of database "{self.database}" became free in {seconds} s',
            TOO_MANY_CONNECTIONS,
            reason=CloseReason.QUERY_WAIT_TIMEOUT,
        )
        error.detail = f"{len(holders)} of {self.limits.default_pool_size} are held ({reasons}) by {names}."
        if not holders:
            error.detail = f"None is held; {self.opening} are being opened, and {len(self.cleaning)} cleaned."
        error.hint = (
            "A held connection is free when its client's transaction ends, a pinned one when its client disconnects."
        )
        return error

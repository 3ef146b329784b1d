"""Start, timers, signals, reload, drain and stop: everything that lives as long as the process, put together."""

from __future__ import annotations

import asyncio
import gc
import hmac
import secrets
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from proxy.auth.access import Access
from proxy.auth.scram import Verifier
from proxy.auth.users import NOBODY, OwnLogin, Users, read_users_file
from proxy.clients import activity
from proxy.clients.client import Client, Phase
from proxy.clients.listeners import MARGIN, Doors
from proxy.clients.time_limits import TimeLimits
from proxy.config.schema import Config, changed, filter_policy, watched
from proxy.databases.database import Database
from proxy.databases.databases import Databases
from proxy.databases.helpers.prover import Prover
from proxy.databases.helpers.texts import Texts
from proxy.databases.ports import Around
from proxy.databases.roles import summary
from proxy.errors import ConfigError
from proxy.monitor import metrics, web
from proxy.monitor.audit import Audit
from proxy.pooling.pool import Pool
from proxy.role.findings import Finding, Severity
from proxy.session.ports import House, Member
from proxy.session.quotas import Quotas
from proxy.sql.cache import VerdictCache
from proxy.sql.picked import ByNames
from proxy.sql.text import GRAMMAR
from proxy.stats import Stats
from proxy.system import files
from proxy.system.turns import Turns
from proxy.system.watch import Watched
from proxy.tasks import Tasks

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TICK: Final = 0.25
"""Seconds between two looks at who waits; idle sessions are swept every fourth time."""
LAG_TICKS: Final = 240
"""Ticks, a minute of them, of which /healthz tells the one that came latest."""
LOOK_TICKS: Final = 4
"""Ticks between two looks at the files that are read again when they change."""
SLOW: Final = 0.5
"""Seconds of waiting that /readyz speaks of."""
UNREAD: Final = 5.0
"""Seconds that a client may read nothing of an answer while others are about to have waited for an upstream in vain."""
FILE_MARGIN: Final = 256
"""File descriptors beside those of clients: upstreams, cancels, the metrics page, the log."""


def run(
    config: Config, on_ready: Callable[[], None] | None = None, read_again: Callable[[], Config] | None = None
) -> int:
    """Serve until SIGTERM or SIGINT has drained the last client; return the exit code.

    `on_ready` is called once, when every port listens; `read_again` on SIGHUP, to say what has changed in the
    configuration and does not count before the next start. Raises ConfigError for files that cannot be used, OSError
    for a port that cannot be bound.
    """
    _set_apart()
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(Server(config, read_again).serve(on_ready))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(config, read_again).serve(on_ready))


def _set_apart() -> None:
    """Have no search for cycles go through what there is for good: modules, and the filter's tables.

    It holds up every client. A catalogue, which comes and goes, has hardly anything that it looks at (`world.Row`).
    """
    gc.collect()
    gc.freeze()


class Server:
    """Own everything that lives as long as the process."""

    def __init__(self, config: Config, read_again: Callable[[], Config] | None = None) -> None:
        self.config = config
        self._read_again = read_again
        self.stats = Stats()
        self.audit = Audit(level=config.log.level, path=config.log.file)
        self.cache = VerdictCache(config.filter.cache_bytes)
        self._policy = replace(filter_policy(config), live=True)
        limits = config.client
        self._limits = TimeLimits(
            idle=limits.client_idle_timeout,
            idle_transaction=limits.idle_transaction_timeout,
            query=limits.query_timeout,
            login=limits.client_login_timeout,
            slow_reader=limits.slow_reader_timeout,
        )
        self.clients: set[Client] = set()
        self._keys: dict[int, tuple[bytes, Member]] = {}
        self._ticks = 0
        self._tasks = Tasks()
        self._watched: list[Watched[Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._beat = 0.0
        self._lags: deque[float] = deque(maxlen=LAG_TICKS)
        self.databases: Databases
        self._texts: Texts
        self._prover: Prover
        self._users: Users
        self._doors: Doors
        self.house: House

    # --- life -----------------------------------------------------------------------------------------------------

    async def serve(self, on_ready: Callable[[], None] | None = None) -> int:
        """Start, serve, drain and stop; return the exit code."""
        loop = asyncio.get_running_loop()
        config = self.config
        try:
            self._open(loop)
        except BaseException:
            self.audit.close()
            raise
        site = web.Web(
            config.metrics.host,
            config.metrics.port,
            metrics.registry(self.stats, self._gauges),
            self._health,
            self._ready,
            sessions=lambda: activity.rows(self.clients.copy(), self.house.now()),
            sessions_key=config.metrics.sessions_key,
            on_error=lambda error: self.audit.event("web error", level="error", what=type(error).__name__),
        )
        stop = asyncio.Event()
        kill = asyncio.Event()

        def on_signal() -> None:
            (kill if stop.is_set() else stop).set()

        try:
            self._raise_file_limit()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, on_signal)
            # Windows has none; to the demo it means that its terminal was closed.
            if hasattr(signal, "SIGHUP") and not callable(signal.getsignal(signal.SIGHUP)):
                loop.add_signal_handler(signal.SIGHUP, self._reload)
            port = self._doors.open()
            self._beat = loop.time()  # /healthz may be asked before the first tick
            if config.metrics.enabled:
                site.start()
            self.databases.start()
            self._tick()
            self.audit.event("started", host=config.listen.host, port=port, unix_socket=self._doors.unix_socket)
            if config.filter.mode == "observe":
                self.audit.event("filter.mode is observe: nothing that it refuses is held back", level="warning")
            if on_ready is not None:
                on_ready()
            await stop.wait()
            await self._drain(kill)
        finally:
            await self._stop(loop)
            site.close()
            self.audit.event("stopped")
            self.audit.close()
        return 0

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self.config
        turns = Turns()
        self._prover = Prover(self.stats, self.audit)
        around = Around(self.stats, self.audit, self._tasks, loop.time, _jitter)
        self.databases = Databases(config, self.cache, self._policy, self._prover, around, turns=turns)
        self._users = Users(config.auth.users, has_file=bool(config.auth.users_file), own=self._own_login)
        if config.auth.users_file:
            self._users.listed(_read_users(config.auth.users_file))
        self._texts = Texts(self.stats, self.audit, self._tasks)
        self.house = House(
            stats=self.stats,
            audit=self.audit,
            now=loop.time,
            max_query_length=config.client.max_query_length,
            max_client_conn=config.client.max_client_conn,
            database=self.databases.database,
            judge=self._texts,
            register=self._register,
            forget=self._forget,
            cancel=self._cancel,
            access=Access(config.auth.rules, self._users, config.listen.tls),
            quotas=Quotas(config.client, self._exceeded),
            half_close_grace=config.client.half_close_grace,
            observe=config.filter.mode == "observe",
        )

        login_timeout = config.client.client_login_timeout
        self._doors = Doors(config.listen, self.house, self.clients, self._tasks, login_timeout, turns)
        self._watch_files()

    def _watch_files(self) -> None:
        """Have certificates and users read again where their files change."""
        listen, auth = self.config.listen, self.config.auth
        if listen.tls != "off":
            read, use = self._doors.read_certificate, self._doors.use_certificate
            self._watched.append(Watched("TLS certificate", watched(listen), read, use, self.audit, self._tasks.start))
        if auth.users_file:
            read_users, listed = partial(_read_users, auth.users_file), self._users.listed
            self._watched.append(
                Watched("auth.users_file", watched(auth), read_users, listed, self.audit, self._tasks.start)
            )

    def _reload(self) -> None:
        """Open and read files again, on SIGHUP, without dropping anybody."""
        self.audit.reopen()
        self.databases.reload()
        for each in self._watched:
            each.now()
        self._tell_what_waits()
        self.audit.event("reloaded")

    def _tell_what_waits(self) -> None:
        """Say which keys of the configuration have another value now: none of them is read on SIGHUP."""
        if self._read_again is None:
            return
        try:
            keys = changed(self.config, self._read_again())
        except ConfigError as error:
            self.audit.event("the configuration is wrong now, the old goes on", level="error", why=str(error))
            return
        if keys:
            why = "they count from the next start on"
            self.audit.event("configuration not reloaded", level="warning", keys=", ".join(keys), why=why)

    async def _drain(self, kill: asyncio.Event) -> None:
        """Let running statements finish; take nothing new. A second signal or the deadline ends it."""
        loop = asyncio.get_running_loop()
        self.house.draining = True
        self.audit.event("draining", clients=len(self.clients))
        self.databases.drain()
        deadline = loop.time() + self.config.client.drain_timeout
        while loop.time() < deadline and not kill.is_set():
            for client in list(self.clients):
                client.drain()
            if not self.clients:
                break
            try:
                await asyncio.wait_for(kill.wait(), 0.05)
            except TimeoutError:
                continue

    async def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._doors.close()
        for client in list(self.clients):
            client.drain_now()
        self.databases.close()
        await self._tasks.stop()
        await self._texts.close()
        await self._prover.close()
        await asyncio.sleep(0)  # the transports' last writes and closes

    def _raise_file_limit(self) -> None:
        """Ask for as many file descriptors as max_client_conn can take; say so where the hard limit is lower."""
        if resource is None:
            return
        wanted = self.config.client.max_client_conn + MARGIN + FILE_MARGIN
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        given = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
        if given < wanted:
            self.audit.event(
                "the limit of open files is too low for client.max_client_conn",
                level="warning",
                limit=given,
                need=wanted,
            )

    # --- what sessions ask ----------------------------------------------------------------------------------------

    def _own_login(self, database: str) -> OwnLogin:
        """Return how the read-only role of a database logs in; of one that is not served, that of `upstream`."""
        databases = self.databases
        credentials = databases.credentials(database) or databases.credentials(self.config.upstream.dbname)
        secret = credentials.current if credentials is not None else None
        if secret is None:
            return NOBODY
        failed = [
            each.pool.last_error
            for each in databases.served.values()
            if each.pool.last_error is not None and each.connector.credentials is credentials
        ]
        # An error of a login stands until a login succeeds. Its text names the server's SQLSTATE, 28P01 or 28000.
        refused = any("(SQLSTATE 28" in str(error) for error in failed)
        return OwnLogin(secret.user, secret.password, refused)

    def _exceeded(self, limit: str) -> None:
        self.stats.limited[limit] += 1

    def _register(self, client: Member, length: int) -> tuple[int, bytes]:
        pid = 0
        while not pid or pid in self._keys:
            pid = secrets.randbits(31)
        secret = secrets.token_bytes(length)
        self._keys[pid] = (secret, client)
        client.key = pid
        return pid, secret

    def _forget(self, client: Member) -> None:
        self.clients.discard(client)
        self._keys.pop(client.key, None)

    def _cancel(self, pid: int, secret: bytes, then: Callable[[], None]) -> None:
        """Carry out a CancelRequest; a wrong key is ignored without a word, and takes as long."""
        expected, client = self._keys.get(pid, (b"", None))
        known = hmac.compare_digest(expected, secret)
        outcome = client.cancel(then) if known and client is not None else "unknown_key"
        if outcome != "sent":  # the upstream counts what is sent, and goes on
            self.stats.cancels[outcome] += 1
            then()

    # --- time -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is not None:
            self._lags.append(max(0.0, now - self._timer.when()))
        self._timer = loop.call_at(now + TICK, self._tick)
        self._beat = now
        self._ticks += 1
        self.databases.tick(now)
        pools = [each.pool for each in self.databases.served.values()]
        waiting = any(pool.waiting for pool in pools)
        for client in list(self.clients):
            if waiting:
                client.look_in_line()
            client.look_at_end(now)
        if self._ticks % LOOK_TICKS == 0:
            for each in self._watched:
                each.look()
            self._doors.look_at_certificate(time.time())
        if self._ticks % 4:
            return
        self.house.quotas.tick(now)
        for client in list(self.clients):
            client.sweep(now, self._limits)
        self._doors.sweep(now)
        if self._limits.slow_reader:
            for pool in pools:
                if late := pool.late(now):
                    self._take_back(pool, late, now)

    def _take_back(self, pool: Pool, wanted: int, now: float) -> None:
        """Take so many upstreams from clients that read nothing: those that have done so for longest."""
        slow = [(seconds, client) for client in self.clients if (seconds := client.unread_for(pool, now)) >= UNREAD]
        slow.sort(key=lambda each: -each[0])
        for _, client in slow[:wanted]:
            client.end_unread()

    # --- monitoring -----------------------------------------------------------------------------------------------

    def _gauges(self) -> metrics.Gauges:
        """Count what is, for a scrape. Called from the web thread: it only reads, and works on copies."""
        now = self.house.now()
        clients = Counter(dict.fromkeys(metrics.CLIENT_STATES, 0))
        pinned: Counter[str] = Counter()
        for client in self.clients.copy():
            session = client.session
            if client.phase is not Phase.READY or session is None:
                clients["login"] += 1
                continue
            if session.waiting or session.judging:
                clients["waiting" if session.waiting else "judging"] += 1
            else:
                clients["active" if session.link is not None else "idle"] += 1
            pinned.update(list(session.ledger.pins))
        servers: dict[tuple[str, str], int] = {}
        waits = []
        served = self.databases.served
        for name, each in served.items():
            pool = each.pool
            servers[name, "idle"] = len(pool.idle)
            servers[name, "active"] = len(pool.leased)
            servers[name, "cleaning"] = len(pool.cleaning)
            servers[name, "login"] = pool.opening
            waits += [now - wait.since for wait in pool.waiting.copy().values()]
        counts = [judge.counts for judge in {each.filter for each in served.values()}]
        ages = ((name, each.catalogue.age) for name, each in served.items())
        unprinted = ((name, each.catalogue.unprinted) for name, each in served.items())
        return metrics.Gauges(
            clients=dict(clients),
            servers=servers,
            waiting=len(waits),
            pinned=dict(pinned),
            maxwait_seconds=max(waits, default=0.0),
            verdict_cache_hits=sum(each.hits + each.shape_hits for each in counts),
            verdict_cache_misses=sum(each.misses for each in counts),
            verdict_cache_evictions=self.cache.evictions,
            verdict_cache_bytes=self.cache.size,
            judged_by_names={each.value: self.cache.by_names[each.value] for each in ByNames},
            catalog_ages={name: age for name, age in ages if age is not None},
            catalog_missing={name: int(bool(each.catalogue.trouble)) for name, each in served.items()},
            catalog_unprinted={name: count for name, count in unprinted if count is not None},
            role_findings={
                (database, severity): count
                for database, found in _found(served)
                for severity, count in summary(found).items()
            },
            servers_newer={name: int(each.filter.newer > 0) for name, each in served.items()},
            poolers=_poolers(served),
            certificate_ends=self._doors.certificate_ends,
            draining=self.house.draining,
            audit_dropped=self.audit.dropped,
        )

    def _health(self) -> tuple[bool, dict[str, object]]:
        """Say whether the event loop turns, and how late it was at worst: it is when work keeps it from the clients."""
        return self._turns(), {"clients": len(self.clients), "lag": round(self._lag(), 3)}

    def _lag(self) -> float:
        """Return how many seconds the loop's timer was late, at worst in the last minute, or is now."""
        return max(0.0, self.house.now() - self._beat - TICK, *self._lags.copy())

    def _turns(self) -> bool:
        return self.house.now() - self._beat < 20 * TICK

    def _ready(self) -> tuple[bool, dict[str, object]]:
        """Say whether a client would be served: the loop turns, nothing drains, upstream and catalogue are there.

        Where clients choose the database one that works is enough: the server is there, and a client that asks for a
        database which the role may not enter must not take SideCart out of service for all.
        """
        troubles = self.databases.troubles()
        served = self.databases.served
        failing = {name: why for name, why in troubles.items() if why}
        reached = not failing or len(failing) < len(troubles)
        draining = self.house.draining
        well = reached and not draining and self._turns()
        roles = {
            name: {**summary(found), "kinds": sorted({each.kind for each in found if each.severity > Severity.INFO})}
            for name, found in _found(served)
        }
        newer = {
            name: {"server": each.filter.newer, "grammar": GRAMMAR}
            for name, each in served.items()
            if each.filter.newer
        }
        return well, {
            "draining": draining,
            "stuck": not self._turns(),
            "failing": failing,
            "slow": self._slow(),
            "roles": roles,
            "poolers": _poolers(served),
            "newer": newer,
        }

    def _slow(self) -> dict[str, object]:
        """Say what keeps clients waiting: the loop itself, as `_lag`, and for which databases the line is long.

        Both in seconds, and only what somebody would notice: a client is served all the same.
        """
        now, lag = self.house.now(), self._lag()
        waiting = {}
        for name, each in self.databases.served.items():
            longest = max((now - wait.since for wait in each.pool.waiting.copy().values()), default=0.0)
            if longest >= SLOW:
                waiting[name] = round(longest, 3)
        return {**({"loop": round(lag, 3)} if lag >= SLOW else {}), **({"waiting": waiting} if waiting else {})}


def _found(served: Mapping[str, Database]) -> Iterator[tuple[str, tuple[Finding, ...]]]:
    """Yield what was found of the role of each database that was looked at."""
    return ((name, found) for name, each in served.items() if (found := each.role.found) is not None)


def _poolers(served: Mapping[str, Database]) -> dict[str, str]:
    """Return what the poolers do, of each database that has one before it."""
    return {name: found.value for name, each in served.items() if (found := each.pooler.pooling) is not None}


def _read_users(name: str) -> dict[str, Verifier]:
    """Read auth.users_file. Raises ConfigError."""
    try:
        text = files.read(name, private=True).decode("utf-8")
    except files.FileError as error:
        raise ConfigError(f"auth.users_file {name!r} {error}.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"auth.users_file {name!r} is not UTF-8 text.") from None
    return read_users_file(text, name)


def _jitter() -> float:
    """Return a factor from 0.9 to 1.1."""
    return 0.9 + secrets.randbelow(2001) / 10_000

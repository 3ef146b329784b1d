"""The databases that are served: for each name a pool, and what names that are on one server share."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from typing import Final

from proxy.config.schema import Config, Upstream
from proxy.databases.addresses import Resolve, ask_system
from proxy.databases.catalogues import Catalogues
from proxy.databases.connector import Connector, Reader
from proxy.databases.credentials import Credentials
from proxy.databases.helpers.messages import Results
from proxy.databases.poolers import Poolers
from proxy.databases.roles import RoleWatch
from proxy.errors import INVALID_CATALOG_NAME, CloseReason, ConfigError, UpstreamError
from proxy.events import Audit
from proxy.filter import Filter
from proxy.pooling.pool import NOT_REACHED, Pool
from proxy.sql import text
from proxy.sql.cache import VerdictCache
from proxy.sql.policy import Policy
from proxy.sql.settings import shadows
from proxy.stats import Stats
from proxy.system.turns import Turns
from proxy.tasks import Tasks
from proxy.tls import contexts
from proxy.upstream import UpstreamConnection

MAX_NAMES: Final = 20
"""Names of databases that a HINT lists."""


class Backends:
    """Own the pools, by the names that clients ask for, and what they share.

    A connector, with its password, its TLS context and its addresses, belongs to one `upstream` configuration; a filter
    and its catalogue to a database on it. Names that differ in their limits alone share all of these. Tests give
    `resolve`. Make one in the event loop. Raises ConfigError for files and keys that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        stats: Stats,
        audit: Audit,
        tasks: Tasks,
        cache: VerdictCache,
        policy: Policy,
        jitter: Callable[[], float],
        resolve: Resolve = ask_system,
        turns: Turns | None = None,
    ) -> None:
        self._config = config
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._cache = cache
        self._policy = policy
        self._jitter = jitter
        self._resolve = resolve
        self._turns = turns
        self._bundled = resources.files("proxy").joinpath("data/rds-ca.pem").read_bytes()
        self.pools: dict[str, Pool] = {}
        self.filters: dict[str, Filter] = {}
        """One for each pool, and as long as it; pools of one database share it."""
        self._newest = 0
        """The newest version that was warned of: one that the grammar does not know."""
        self._connectors: dict[Upstream, Connector] = {}
        self._catalogues: Catalogues
        self._roles: RoleWatch
        self.poolers = Poolers(
            self.reader, self._may_share, self.refuse, audit, tasks, asyncio.get_running_loop().time, jitter
        )
        for upstream in self._upstreams():
            self._connector(upstream)

    def start(self, catalogues: Catalogues, roles: RoleWatch) -> None:
        """Make the pools of all names that are known; their first tick opens `min_pool_size` upstreams."""
        self._catalogues = catalogues
        self._roles = roles
        for name in self.names:
            self.pool_for(name)
            catalogues.serve(name, self.filters[name])
        if not self._config.upstream.dbname and self._config.upstream.host:
            self._tasks.start(self._fetch_password(), "first password")

    @property
    def names(self) -> list[str]:
        """Return the names that are served whether or not somebody has asked for them."""
        own = self._config.upstream.dbname
        return list(dict.fromkeys([*([own] if own else []), *self._config.databases]))

    # --- what others ask ------------------------------------------------------------------------------------------

    def pool_for(self, name: str) -> Pool:
        """Return the pool of a database. Raises UpstreamError for one that is not served."""
        pool = self.pools.get(name)
        if pool is not None:
            return pool
        found = self._config.database(name)
        if found is None:
            raise self._unknown(name)
        upstream = found.upstream
        shared = next((self.filters[other] for other in self.pools if self._is_on(other, upstream)), None)
        self.filters[name] = shared or Filter(self._policy, self._cache)
        pool = self.pools[name] = Pool(
            name,
            found.pool,
            self._connector(upstream),
            self._stats,
            self._jitter,
            dbname=upstream.dbname,
            application_name=upstream.application_name,
            hint=self._hint(),
            max_client_conn=found.max_client_conn,
        )
        return pool

    def credentials(self, name: str) -> Credentials | None:
        """Return the credentials of a database's role; None for one that is not served."""
        found = self._config.database(name)
        return None if found is None else self._connector(found.upstream).credentials

    async def fetch(self, name: str, query: bytes) -> Results:
        """Run a Query in a database, on a connection of its own, as `RoleWatch` wants it. Raises UpstreamError."""
        found = self._config.database(name)
        if found is None:
            raise self._unknown(name)
        return await self._connector(found.upstream).fetch_once(found.upstream.dbname, query)

    async def reader(self, name: str) -> Reader:
        """Open a connection to a database for Queries of our own, as `Catalogues` want it. Raises UpstreamError."""
        found = self._config.database(name)
        if found is None:
            raise self._unknown(name)
        return await self._connector(found.upstream).reader(found.upstream.dbname)

    def _may_share(self, name: str) -> bool:
        """Tell whether a database is served although a pooler shares the server's sessions."""
        found = self._config.database(name)
        return found is not None and found.upstream.allow_shared_sessions

    def wants_readonly_role(self, name: str) -> bool:
        """Tell whether a database is served by a role that only reads, and by no other."""
        found = self._config.database(name)
        return found is not None and found.upstream.require_readonly_role == "refuse"

    def refuse(self, name: str, error: UpstreamError) -> None:
        """Serve nobody in a database any more, until a login finds that what was wrong with it was mended."""
        pool = self.pools.get(name)
        if pool is not None:
            pool.refuse(error)

    # --- time -----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what time asks for: tick the pools, look hosts up again, forget databases that do not exist."""
        for name, pool in list(self.pools.items()):
            pool.tick(now)
            error = pool.last_error
            if error is not None and error.sqlstate == INVALID_CATALOG_NAME and not (pool.size or pool.waiting):
                if name in self.names:
                    continue
                del self.pools[name], self.filters[name]  # else every name that somebody tries would stay
                self._catalogues.forget(name)
                self._roles.forget(name)
                self.poolers.forget(name)
        self.poolers.tick(now)
        for connector in self._connectors.values():
            if connector.addresses.due() and any(pool.size for pool in self._pools_of(connector)):
                self._tasks.start(self._look_up(connector), "look up")

    async def _look_up(self, connector: Connector) -> None:
        """Look a host up, and leave the addresses that it does not have any more: a failover, or a move."""
        try:
            await connector.addresses.find()
        except UpstreamError:
            return  # what is connected works; who connects next is told
        now = connector.addresses.now()
        for pool in self._pools_of(connector):
            pool.depart(connector.addresses.has, now)

    def reload(self) -> None:
        """Read certificates, keys and CAs again, for connections that begin from now on, and passwords too.

        What cannot be used is logged, and what was there before stays.
        """
        for upstream, connector in self._connectors.items():
            try:
                connector.tls = self._context(upstream)
            except ConfigError as error:
                self._audit.event("reload failed", level="error", host=upstream.host, why=str(error))
            connector.credentials.forget()

    def drain(self) -> None:
        """Send away who waits, close what is idle, and whatever comes back from now on."""
        for pool in self.pools.values():
            pool.drain()

    def close(self) -> None:
        """Close what is left."""
        self.drain()
        for pool in self.pools.values():
            for upstream in [*pool.leased, *pool.cleaning]:
                upstream.close(CloseReason.DRAIN)

    def troubles(self) -> Mapping[str, str]:
        """Return why each database would not be served; empty where it would. Only reads: any thread may call it.

        A configured one is named before it has a pool: the pages are there a moment earlier.
        """
        known = {name: pool.trouble for name, pool in self.pools.copy().items()}
        return dict.fromkeys(self.names, NOT_REACHED) | known

    # --- inside ---------------------------------------------------------------------------------------------------

    def _upstreams(self) -> list[Upstream]:
        return [self._config.upstream, *(database.upstream for database in self._config.databases.values())]

    def _is_on(self, name: str, upstream: Upstream) -> bool:
        """Whether the database of this name is that one on the server."""
        found = self._config.database(name)
        return found is not None and replace(found.upstream, application_name=upstream.application_name) == upstream

    def _connector(self, upstream: Upstream) -> Connector:
        """Return the connector of a configuration. Which database it is, and how clients are named, is the pool's."""
        key = replace(upstream, dbname="", application_name="")
        connector = self._connectors.get(key)
        if connector is None:
            connector = self._connectors[key] = Connector(
                key,
                self._context(key),
                self._stats,
                self._audit,
                self._tasks,
                self._config.pool.cancel_wait_timeout,
                self._logged_in,
                resolve=self._resolve,
                turns=self._turns,
            )
            connector.credentials.check()
        return connector

    def _context(self, upstream: Upstream) -> ssl.SSLContext | None:
        return contexts.upstream_context(
            upstream.sslmode, upstream.sslrootcert, self._bundled, upstream.sslcert, upstream.sslkey
        )

    def _pools_of(self, connector: Connector) -> list[Pool]:
        return [pool for pool in self.pools.values() if pool.opener is connector]

    async def _fetch_password(self) -> None:
        """Have the password before the first client comes: whoever authenticates clients by it asks for it then."""
        try:
            await self._connector(self._config.upstream).credentials.get()
        except UpstreamError as error:
            self._audit.event("no password", level="error", why=error.for_operator)

    async def _logged_in(self, upstream: UpstreamConnection) -> None:
        """Tell the database's filter which server it judges for; wait for its first catalogue, and for the role's word.

        `15.18 (Debian 15.18-0+deb12u1)` and `18beta1` begin with the version. A search_path is judged as it is on the
        worst of the upstreams: what ALTER ROLE changes holds for new sessions only.
        """
        name = upstream.pool.database
        judge = self.filters.get(name)
        if judge is None:
            return
        found = re.match(r"(\d+)", upstream.parameters.get("server_version", ""))
        if found is not None:
            judge.learn_version(int(found[1]) * 10000)
            if judge.newer > self._newest:
                self._newest = judge.newer
                self._audit.event(
                    "server newer", level="warning", database=name, server=judge.newer, grammar=text.GRAMMAR
                )
        own = upstream.pool
        others = (*own.idle, *own.leased, *own.cleaning)
        await self.poolers.admit(name, upstream.backend.pid, others, pooled=upstream.backend.pooled)
        pools = [pool for other, pool in self.pools.items() if self.filters[other] is judge]
        paths = {each.backend.path for pool in pools for each in (*pool.idle, *pool.leased, *pool.cleaning)} | {
            upstream.backend.path
        }
        judge.learn_paths(paths, shadowed=any(map(shadows, paths)))
        self._catalogues.serve(name, judge)
        await self._catalogues.first(name)
        await self._roles.admit(name, judge)

    def _unknown(self, name: str) -> UpstreamError:
        error = UpstreamError(
            f'database "{name}" does not exist',
            INVALID_CATALOG_NAME,
            reason=CloseReason.CLIENT_LOGIN_REFUSED,
            transient=False,
        )
        error.hint = self._hint()
        return error

    def _hint(self) -> str:
        """Return the HINT for who asks for a database that is not there: psql asks for the one called as the user."""
        names = self.names
        if not names:
            return "Name a database of the server; who names none asks for the one called as the user."
        listed = ", ".join(f'"{name}"' for name in names[:MAX_NAMES]) + (
            " and others" if len(names) > MAX_NAMES else ""
        )
        if self._config.upstream.dbname:
            served = f"the database {listed}" if len(names) == 1 else f"the databases {listed}"
            return f"SideCart serves {served}: connect with dbname={names[0]}."
        return f"SideCart serves {listed} and the databases of the server: connect with dbname={names[0]}, or another."

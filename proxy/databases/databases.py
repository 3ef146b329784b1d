"""The databases that are served, by name, and what names that are on one server share."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib import resources
from typing import Final

from proxy.config import schema
from proxy.config.schema import Config, Upstream
from proxy.databases.addresses import Resolve, ask_system
from proxy.databases.catalogues import LiveCatalogue
from proxy.databases.connector import Connector
from proxy.databases.credentials import Credentials
from proxy.databases.database import Database
from proxy.databases.helpers.prover import Prover
from proxy.databases.poolers import PoolerWatch
from proxy.databases.ports import Around
from proxy.databases.roles import RoleWatch
from proxy.errors import INVALID_CATALOG_NAME, CloseReason, ConfigError, UpstreamError
from proxy.filter import Filter
from proxy.pooling.pool import NOT_REACHED, Pool
from proxy.sql import text
from proxy.sql.cache import VerdictCache
from proxy.sql.policy import Policy
from proxy.sql.settings import shadows
from proxy.system.turns import Turns
from proxy.tls import contexts
from proxy.upstream import UpstreamConnection

MAX_NAMES: Final = 20
"""Names of databases that a HINT lists."""


class Databases:
    """Own the databases by the names that clients ask for, and make what several of them share.

    A connector, with its password, its TLS context and its addresses, belongs to one `upstream` configuration; a filter
    and its catalogue to a database on it. Names that differ in their limits alone share all of these. Tests give
    `resolve`. Make one in the event loop. Raises ConfigError for files and keys that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        cache: VerdictCache,
        policy: Policy,
        prover: Prover,
        around: Around,
        resolve: Resolve = ask_system,
        turns: Turns | None = None,
    ) -> None:
        self._config = config
        self._cache = cache
        self._policy = policy
        self._prover = prover
        self._around = around
        self._resolve = resolve
        self._turns = turns
        self._bundled = resources.files("proxy").joinpath("data/rds-ca.pem").read_bytes()
        self._served: dict[str, Database] = {}
        self._newest = 0
        """The newest version that was warned of: one that the grammar does not know."""
        self._connectors: dict[Upstream, Connector] = {}
        for upstream in self._upstreams():
            self._connector(upstream)

    def start(self) -> None:
        """Serve all names that are known; the first tick opens `min_pool_size` upstreams of each."""
        for name in self.names:
            self.database(name).catalogue.need()
        if not self._config.upstream.dbname and self._config.upstream.host:
            self._around.tasks.start(self._fetch_password(), "first password")

    @property
    def names(self) -> list[str]:
        """Return the names that are served whether or not somebody has asked for them."""
        own = self._config.upstream.dbname
        return list(dict.fromkeys([*([own] if own else []), *self._config.databases]))

    # --- what others ask ------------------------------------------------------------------------------------------

    def database(self, name: str) -> Database:
        """Return the database of a name. Raises UpstreamError for one that is not served."""
        database = self._served.get(name)
        if database is None:
            configured = self._config.database(name)
            if configured is None:
                raise self._unknown(name)
            database = self._served[name] = self._made(name, configured)
        return database

    @property
    def served(self) -> Mapping[str, Database]:
        """Return those that somebody has asked for, by name, as they are now: any thread may call it."""
        return self._served.copy()

    def credentials(self, name: str) -> Credentials | None:
        """Return the credentials of a database's role; None for one that is not served."""
        configured = self._config.database(name)
        return None if configured is None else self._connector(configured.upstream).credentials

    def troubles(self) -> Mapping[str, str]:
        """Return why each database would not be served; empty where it would. Only reads: any thread may call it.

        A configured one is named before anything was made for it: the pages are there a moment earlier.
        """
        known = {name: database.trouble for name, database in self.served.items()}
        return dict.fromkeys(self.names, NOT_REACHED) | known

    # --- time -----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what time asks for: of each database, look hosts up again, forget databases that do not exist."""
        for name, database in self.served.items():
            database.tick(now)
            if database.is_missing and name not in self.names:
                self._forget(name)  # else every name that somebody tries would stay
        for catalogue in self._catalogues():
            catalogue.tick(now)
        for connector in self._connectors.values():
            if connector.addresses.due() and any(pool.size for pool in self._pools_of(connector)):
                self._around.tasks.start(self._look_up(connector), "look up")

    def _forget(self, name: str) -> None:
        catalogue = self._served.pop(name).catalogue
        if catalogue not in self._catalogues():
            catalogue.close()

    def _catalogues(self) -> set[LiveCatalogue]:
        return {database.catalogue for database in self._served.values()}

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
                self._around.audit.event("reload failed", level="error", host=upstream.host, why=str(error))
            connector.credentials.forget()

    def drain(self) -> None:
        """Send away who waits, close what is idle, and whatever comes back from now on."""
        for database in self._served.values():
            database.pool.drain()

    def close(self) -> None:
        """Close what is left."""
        self.drain()
        for database in self._served.values():
            for upstream in [*database.pool.leased, *database.pool.cleaning]:
                upstream.close(CloseReason.DRAIN)
            database.catalogue.close()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _upstreams(self) -> list[Upstream]:
        return [self._config.upstream, *(database.upstream for database in self._config.databases.values())]

    def _made(self, name: str, configured: schema.Database) -> Database:
        """Make what serves a name; its twin, if there is one, lends what is of the database and not of the name."""
        upstream, around = configured.upstream, self._around
        connector = self._connector(upstream)
        reach = partial(connector.reader, upstream.dbname)
        refresh = self._config.filter.catalog_refresh
        twin = next((each for each in self._served.values() if each.is_also(upstream)), None)
        judge = Filter(self._policy, self._cache) if twin is None else twin.filter
        pool = Pool(
            name,
            configured.pool,
            connector,
            around.stats,
            around.jitter,
            dbname=upstream.dbname,
            application_name=upstream.application_name,
            hint=self._hint(),
            max_client_conn=configured.max_client_conn,
        )
        return Database(
            name,
            upstream,
            connector,
            judge,
            LiveCatalogue(name, judge, refresh, reach, self._prover, around) if twin is None else twin.catalogue,
            pool,
            RoleWatch(
                name,
                judge,
                refresh,
                partial(connector.fetch_once, upstream.dbname),
                pool.refuse,
                around,
                refuses=upstream.require_readonly_role == "refuse",
            ),
            PoolerWatch(name, reach, pool.refuse, around, allows=upstream.allow_shared_sessions),
        )

    def _connector(self, upstream: Upstream) -> Connector:
        """Return the connector of a configuration. Which database it is, and how clients are named, is the pool's."""
        key = replace(upstream, dbname="", application_name="")
        connector = self._connectors.get(key)
        if connector is None:
            connector = self._connectors[key] = Connector(
                key,
                self._context(key),
                self._around.stats,
                self._around.audit,
                self._around.tasks,
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
        return [database.pool for database in self._served.values() if database.connector is connector]

    async def _fetch_password(self) -> None:
        """Have the password before the first client comes: whoever authenticates clients by it asks for it then."""
        try:
            await self._connector(self._config.upstream).credentials.get()
        except UpstreamError as error:
            self._around.audit.event("no password", level="error", why=error.for_operator)

    async def _logged_in(self, upstream: UpstreamConnection) -> None:
        """Tell the database's filter which server it judges for; wait for its first catalogue, and for the role's word.

        A search_path is judged as it is on the worst of the upstreams: what ALTER ROLE changes holds for new sessions
        only.
        """
        database = self.database(upstream.pool.database)
        self._note_version(database, upstream.parameters.get("server_version", ""))
        own = database.pool
        backend = upstream.backend
        await database.pooler.admit(backend.pid, (*own.idle, *own.leased, *own.cleaning), pooled=backend.pooled)
        judge = database.filter
        pools = [each.pool for each in self._served.values() if each.filter is judge]
        paths = {each.backend.path for pool in pools for each in (*pool.idle, *pool.leased, *pool.cleaning)}
        paths.add(backend.path)
        judge.learn_paths(paths, shadowed=any(map(shadows, paths)))
        database.catalogue.need()
        await database.catalogue.first()
        await database.role.admit()

    def _note_version(self, database: Database, reported: str) -> None:
        """Read `15.18 (Debian 15.18-0+deb12u1)` and `18beta1`; warn once of what the grammar does not know."""
        found = re.match(r"(\d+)", reported)
        if found is None:
            return
        judge = database.filter
        judge.learn_version(int(found[1]) * 10000)
        if judge.newer > self._newest:
            self._newest = judge.newer
            self._around.audit.event(
                "server newer", level="warning", database=database.name, server=judge.newer, grammar=text.GRAMMAR
            )

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

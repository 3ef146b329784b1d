"""One name that clients ask for, and all that serves it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from proxy.config.schema import Upstream
from proxy.databases.catalogues import LiveCatalogue
from proxy.databases.connector import Connector
from proxy.databases.poolers import PoolerWatch
from proxy.databases.roles import RoleWatch
from proxy.errors import INVALID_CATALOG_NAME
from proxy.filter import Filter
from proxy.pooling.pool import Pool


@dataclass(frozen=True, slots=True, eq=False)
class Database:
    """Hold what serves one name, from the first that asks for it until it is known not to exist.

    Names of one database share its filter and its catalogue; names of one server the connector. Implements
    `session.ports.Database`.
    """

    name: str
    upstream: Upstream
    """Where it is, as configured."""
    connector: Connector
    filter: Filter
    catalogue: LiveCatalogue
    pool: Pool
    role: RoleWatch
    pooler: PoolerWatch

    def is_also(self, upstream: Upstream) -> bool:
        """Tell whether what is configured so is this database: it may show the server other names of clients."""
        return replace(self.upstream, application_name=upstream.application_name) == upstream

    @property
    def trouble(self) -> str:
        """Say why a client would not be served now; empty if it would. Only reads: any thread may call it."""
        return self.pool.trouble or self.catalogue.trouble

    @property
    def is_missing(self) -> bool:
        """Whether the server has said that it does not exist, and nobody here has anything to do with it."""
        pool = self.pool
        error = pool.last_error
        return (
            error is not None
            and error.sqlstate == INVALID_CATALOG_NAME
            and not (pool.size or pool.waiting or pool.clients)
        )

    def tick(self, now: float) -> None:
        """Do what time asks for, but for the catalogue, which several names may share."""
        self.pool.tick(now)
        self.role.tick(now)
        self.pooler.tick(now)

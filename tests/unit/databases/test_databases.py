"""What names of databases share, how long one is kept, and what readiness is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from proxy.config.schema import Config, Database, PoolLimits, Upstream
from proxy.databases.databases import Databases
from proxy.databases.ports import Around
from proxy.errors import INVALID_CATALOG_NAME, CloseReason, UpstreamError
from proxy.pooling.pool import NOT_REACHED
from proxy.sql.cache import VerdictCache
from proxy.sql.policy import Policy
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.unit.session.town import Quiet

T = TypeVar("T")

SERVER = Upstream(host="db.example", user="reader", sslmode="disable")
SHOP = replace(SERVER, dbname="shop")
ANY = Config(upstream=SERVER, pool=PoolLimits(min_pool_size=0))
"""Every name is served that a client asks for, and nothing is opened before it asks."""
GONE = UpstreamError("no such database", INVALID_CATALOG_NAME, reason=CloseReason.UPSTREAM_LOGIN)


class Nobody:
    """Stands for the helper process: nothing is proved."""


def served(config: Config, ask: Callable[[Databases], T]) -> T:
    """Ask what is served so, before anything was connected to."""

    async def make() -> T:
        around = Around(Stats(), Quiet(), Tasks(), asyncio.get_running_loop().time, lambda: 1.0)  # type: ignore[arg-type]
        return ask(Databases(config, VerdictCache(0), Policy(), Nobody(), around))  # type: ignore[arg-type]

    return asyncio.run(make())


def test_configured_databases_are_in_trouble_before_their_pools_are_made() -> None:
    """The pages listen a moment before: an empty answer would have been `ready`."""
    assert served(Config(upstream=SHOP), Databases.troubles) == {"shop": NOT_REACHED}
    both = Config(upstream=SHOP, databases={"sales": Database(upstream=SHOP, pool=PoolLimits())})
    assert served(both, Databases.troubles) == {"shop": NOT_REACHED, "sales": NOT_REACHED}


def test_nothing_is_known_where_clients_choose_the_database() -> None:
    assert served(Config(upstream=SERVER), Databases.troubles) == {}


def test_names_of_one_database_share_its_filter_and_catalogue_and_names_of_one_server_the_connector() -> None:
    named = {
        "sales": Database(upstream=replace(SHOP, application_name="{user}"), pool=PoolLimits()),
        "other": Database(upstream=replace(SHOP, dbname="other"), pool=PoolLimits()),
        "elsewhere": Database(upstream=replace(SHOP, host="other.example"), pool=PoolLimits()),
    }

    def ask(databases: Databases) -> None:
        shop, sales, other, elsewhere = (databases.database(name) for name in ("shop", *named))
        assert (sales.filter, sales.catalogue) == (shop.filter, shop.catalogue)
        assert len({shop.filter, other.filter, elsewhere.filter}) == 3
        assert len({shop.catalogue, other.catalogue, elsewhere.catalogue}) == 3
        assert len({each.pool for each in (shop, sales, other, elsewhere)}) == 4
        assert shop.connector is sales.connector is other.connector is not elsewhere.connector
        assert databases.database("shop") is shop

    served(Config(upstream=SHOP, databases=named), ask)


def test_name_of_no_database_is_forgotten_with_all_that_served_it() -> None:
    def ask(databases: Databases) -> None:
        tried = databases.database("tried")
        databases.tick(0.0)
        assert databases.served == {"tried": tried}
        tried.pool.last_error = GONE
        databases.tick(0.0)
        assert databases.served == {}
        assert tried.catalogue.refresh_for(Nobody()) is None  # type: ignore[arg-type]

    served(ANY, ask)


def test_attack_database_that_is_dropped_and_made_anew_under_a_client_that_rests() -> None:
    """It would have been judged by the old one's catalogue, and its upstreams by nobody: it kept what was forgotten."""

    def ask(databases: Databases) -> None:
        dropped = databases.database("dropped")
        dropped.pool.clients = 1
        dropped.pool.last_error = GONE
        databases.tick(0.0)
        assert databases.served == {"dropped": dropped}
        dropped.pool.clients = 0
        databases.tick(0.0)
        assert databases.served == {}

    served(ANY, ask)


def test_configured_name_of_no_database_is_kept() -> None:
    def ask(databases: Databases) -> None:
        shop = databases.database("shop")
        shop.pool.last_error = GONE
        databases.tick(0.0)
        assert databases.served == {"shop": shop}

    served(Config(upstream=SHOP), ask)

"""What readiness is told of the databases."""

from __future__ import annotations

import asyncio

from proxy.config.schema import Config, Database, PoolLimits, Upstream
from proxy.databases.databases import Backends
from proxy.pooling.pool import NOT_REACHED
from proxy.sql.cache import VerdictCache
from proxy.sql.policy import Policy
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.unit.session.town import Quiet

SERVER = Upstream(host="db.example", user="reader", sslmode="disable")


def troubles(config: Config) -> dict[str, str]:
    """Return what is told before any pool was made."""

    async def make() -> dict[str, str]:
        backends = Backends(config, Stats(), Quiet(), Tasks(), VerdictCache(0), Policy(), lambda: 1.0)  # type: ignore[arg-type]
        return dict(backends.troubles())

    return asyncio.run(make())


def test_configured_databases_are_in_trouble_before_their_pools_are_made() -> None:
    """The pages listen a moment before: an empty answer would have been `ready`."""
    shop = Upstream(host="db.example", user="reader", sslmode="disable", dbname="shop")
    assert troubles(Config(upstream=shop)) == {"shop": NOT_REACHED}
    both = Config(upstream=shop, databases={"sales": Database(upstream=shop, pool=PoolLimits())})
    assert troubles(both) == {"shop": NOT_REACHED, "sales": NOT_REACHED}


def test_nothing_is_known_where_clients_choose_the_database() -> None:
    assert troubles(Config(upstream=SERVER)) == {}

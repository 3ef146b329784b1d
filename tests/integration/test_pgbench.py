"""pgbench -S through SideCart: no failed transaction, and never more upstream connections than the pool may have."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests.running import SideCart

DATABASE = "bench"
POOL_SIZE = 5


@pytest.fixture(scope="module")
def bench(postgres: EmbeddedServer, upstream: Upstream, shop: Shop, tool: Callable[[str], Path]) -> Iterator[Upstream]:
    """Make pgbench's tables in a database of their own, readable for the reader."""
    pgbench = tool("pgbench")
    postgres.sql(f"create database {DATABASE} template template0")
    environment = os.environ | {"PGPASSWORD": postgres.superuser_password, "PGSSLMODE": "require"}
    where = ["-h", postgres.host, "-p", str(postgres.port), "-U", postgres.superuser]
    subprocess.run([pgbench, *where, "-i", "-s", "1", "-q", DATABASE], env=environment, check=True, capture_output=True)
    postgres.sql(f"grant select on all tables in schema public to {shop.reader}", DATABASE)
    yield dataclasses.replace(upstream, dbname=DATABASE)
    postgres.sql(f"drop database {DATABASE} with (force)")


def servers(sidecart: SideCart) -> int:
    """Return how many upstream connections SideCart says that it has, in whatever state."""
    pattern = rf'^sidecart_servers{{database="{DATABASE}",state="\w+"}} (\S+)$'
    return int(sum(float(value) for value in re.findall(pattern, sidecart.get("/metrics"), re.MULTILINE)))


@pytest.mark.parametrize(
    ("mode", "clients", "transactions"), [("simple", 50, 200), ("extended", 50, 200), ("prepared", POOL_SIZE, 1000)]
)
def test_pgbench(
    bench: Upstream,
    postgres: EmbeddedServer,
    tool: Callable[[str], Path],
    mode: str,
    clients: int,
    transactions: int,
) -> None:
    pool = {"SIDECART_POOL_DEFAULT_POOL_SIZE": POOL_SIZE, "SIDECART_POOL_MIN_POOL_SIZE": 2}
    pool["SIDECART_FILTER_CATALOG_REFRESH"] = 0  # its connection counts in no pool
    with SideCart(bench, **pool) as sidecart, psycopg.connect(postgres.dsn(), autocommit=True) as superuser:
        sidecart.settled()
        where = ["-h", "127.0.0.1", "-p", str(sidecart.port), "-U", "analyst"]
        load = ["-S", "-n", "-M", mode, "-c", str(clients), "-j", "2", "-t", str(transactions)]
        process = subprocess.Popen(
            [tool("pgbench"), *where, *load, DATABASE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        said, seen = [], []
        while process.poll() is None:
            said.append(servers(sidecart))
            row = superuser.execute(
                "select count(*) from pg_stat_activity where datname = %s and backend_type = 'client backend'",
                [DATABASE],
            ).fetchone()
            assert row is not None
            seen.append(row[0])
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert f"number of transactions actually processed: {clients * transactions}/{clients * transactions}" in out
        assert "number of failed transactions: 0 (0.000%)" in out
        assert not re.search("error|fatal|aborted", err, re.IGNORECASE), err
        assert max(said) == max(seen) == POOL_SIZE, (said, seen)
        assert sidecart.metric("sidecart_bugs_total") == 0

"""The live catalogue: what somebody creates, changes or drops in the database, seen through SideCart."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.databases import connector
from proxy.databases.connector import Connector
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from proxy.errors import UpstreamError
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.tls import contexts
from tests.running import SideCart, free_port, wait_until
from tests.wire import Wire

Run = Callable[[str], str]


@pytest.fixture
def owner(postgres: EmbeddedServer, shop: Shop) -> Run:
    """Return a function that runs SQL as the owner of the shop, beside SideCart."""
    return lambda sql: postgres.sql(sql, shop.dbname, user=shop.owner, password=shop.owner_password)


@pytest.fixture
def name(owner: Run) -> Iterator[str]:
    """Return a name for a function; what has it is dropped at the end."""
    new = f"f_{secrets.token_hex(6)}"
    yield new
    owner(f"DROP FUNCTION IF EXISTS {new}")


@pytest.fixture
def lone(upstream: Upstream, postgres: EmbeddedServer) -> Iterator[Upstream]:
    """Return the upstream as a role that no other SideCart of this run logs in as."""
    password = secrets.token_urlsafe(18)
    postgres.sql(f"CREATE ROLE lone_reader LOGIN PASSWORD '{password}' IN ROLE {upstream.user}")
    yield replace(upstream, user="lone_reader", password=password)
    postgres.sql("DROP ROLE lone_reader")


@contextmanager
def served(upstream: Upstream, refresh: str, **more: object) -> Iterator[tuple[SideCart, Wire]]:
    with SideCart(upstream, SIDECART_FILTER_CATALOG_REFRESH=refresh, **more) as own, Wire(own.port) as client:
        assert client.ask("SELECT 1") == "TDCZ"
        wait_until(lambda: age(own) > 0, 10, "the first catalogue")
        if refresh == "0":
            # On demand there is one load a second at most, and not more than a tenth of the time.
            (seconds,) = re.findall(r'"event":"catalogue loaded".*?"seconds":([\d.]+)', own.log)
            old = max(1.0, 10 * float(seconds))
            wait_until(lambda: age(own) > old + 0.01, 10 + old, "the time of the next load")
        yield own, client
        own.stop()
        assert '"event":"bug"' not in own.log
        assert '"event":"tripwire"' not in own.log


def loads(own: SideCart, outcome: str) -> float:
    return own.metric(f'sidecart_catalog_loads_total{{outcome="{outcome}"}}')


def age(own: SideCart, database: str = "shop") -> float:
    return own.metric(f'sidecart_catalog_age_seconds{{database="{database}"}}')


READS = "CREATE OR REPLACE FUNCTION {0}() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM orders'"
WRITES = "CREATE OR REPLACE FUNCTION {0}() RETURNS bigint LANGUAGE sql AS 'DELETE FROM orders RETURNING 1::bigint'"


@pytest.mark.parametrize("ask", [Wire.ask, Wire.ask_extended], ids=["simple", "extended"])
def test_function_is_called_as_soon_as_it_is_there(
    upstream: Upstream, owner: Run, name: str, ask: Callable[[Wire, str], str]
) -> None:
    with served(upstream, "0") as (own, client):
        owner(READS.format(name))
        assert ask(client, f"SELECT {name}()").endswith("DCZ"), client.error
        assert loads(own, "changed") == 2
        assert own.metric('sidecart_statements_total{verdict="refuse",kind="select"}') == 0


@pytest.mark.parametrize("called", ["{0}()", "{0}_outer()"], ids=["itself", "through another"])
def test_function_is_called_as_soon_as_the_table_is_there_that_its_body_names(
    upstream: Upstream, owner: Run, name: str, called: str
) -> None:
    """As pgJDBC's RefCursorFetchTest does: the function is older than the table that it reads."""
    body = f"LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM {name}_late); END'"
    owner(f"CREATE FUNCTION {name}() RETURNS bigint {body}")
    owner(f"CREATE FUNCTION {name}_outer() RETURNS bigint LANGUAGE sql AS 'SELECT {name}()'")
    try:
        with served(upstream, "0") as (own, client):
            owner(f"CREATE TABLE {name}_late (); GRANT SELECT ON {name}_late TO PUBLIC")
            assert client.ask(f"SELECT {called.format(name)}") == "TDCZ", client.error
            assert loads(own, "changed") == 2
    finally:
        owner(f"DROP FUNCTION {name}_outer; DROP TABLE IF EXISTS {name}_late")


def test_function_that_writes_is_refused_as_soon_as_it_is_there(upstream: Upstream, owner: Run, name: str) -> None:
    with served(upstream, "0") as (_, client):
        owner(WRITES.format(name))
        assert client.ask(f"SELECT {name}()") == "EZ"
        assert name in client.error["D"]


def test_read_that_becomes_a_write_is_refused_after_the_next_refresh(upstream: Upstream, owner: Run, name: str) -> None:
    owner(READS.format(name))
    with served(upstream, "300ms") as (_, client):
        assert client.ask(f"SELECT {name}()") == "TDCZ"
        owner(WRITES.format(name))
        wait_until(lambda: client.ask(f"SELECT {name}()") == "EZ" and "SideCart" in client.error["M"], 10, "a refusal")


def test_pipeline_keeps_its_order_while_the_catalogue_is_read(upstream: Upstream, owner: Run, name: str) -> None:
    with served(upstream, "0") as (_, client):
        owner(READS.format(name))
        texts = ["SELECT 1", f"SELECT {name}()", "DELETE FROM orders", "SELECT 2, 3"]
        client.send(b"".join(p.query(text.encode()) for text in texts))
        assert [client.until_ready() for _ in texts] == ["TDCZ", "TDCZ", "EZ", "TDCZ"]


def test_client_that_comes_with_the_process_waits_for_the_first_catalogue(
    upstream: Upstream, owner: Run, name: str
) -> None:
    owner(READS.format(name))
    with SideCart(upstream) as own, Wire(own.port) as client:
        assert client.ask(f"SELECT {name}()") == "TDCZ"


def test_database_that_a_client_asks_for_has_its_own_catalogue(
    postgres: EmbeddedServer, upstream: Upstream, shop: Shop, owner: Run, name: str
) -> None:
    owner(READS.format(name))
    anything = replace(upstream, dbname="")
    postgres.sql(f"GRANT CONNECT ON DATABASE postgres TO {shop.reader}")
    with SideCart(anything) as own, Wire(own.port) as client, Wire(own.port, "postgres") as stranger:
        assert client.ask(f"SELECT {name}()") == "TDCZ"
        assert stranger.ask(f"SELECT {name}()") == "EZ"
        assert stranger.ask("SELECT 1") == "TDCZ"
        assert client.ask(f"SELECT {name}()") == "TDCZ"
        assert age(own) > 0
        assert age(own, "postgres") > 0


def test_unknown_names_of_many_clients_do_not_keep_the_server_busy(upstream: Upstream) -> None:
    with served(upstream, "0") as (own, _), ExitStack() as stack:
        clients = [stack.enter_context(Wire(own.port)) for _ in range(40)]
        for number, client in enumerate(clients):
            client.send(p.query(f"SELECT nobody_knows_{number}()".encode()))
        assert [client.until_ready() for client in clients] == ["EZ"] * 40
        assert loads(own, "unchanged") <= 3
        assert loads(own, "changed") == 1


def test_refresh_that_finds_nothing_new_forgets_no_verdict(upstream: Upstream) -> None:
    with served(upstream, "200ms") as (own, client):
        for _ in range(3):
            assert client.ask("SELECT 'remembered'") == "TDCZ"
        before = own.metric("sidecart_verdict_cache_misses_total")
        seen = loads(own, "unchanged")
        wait_until(lambda: loads(own, "unchanged") > seen + 2, 10, "three refreshes")
        assert client.ask("SELECT 'remembered'") == "TDCZ"
        assert own.metric("sidecart_verdict_cache_misses_total") == before


def test_connection_that_reads_the_catalogue_is_one_and_counts_in_no_pool(
    lone: Upstream, postgres: EmbeddedServer
) -> None:
    with served(lone, "200ms", SIDECART_POOL_DEFAULT_POOL_SIZE=1) as (own, _):
        wait_until(lambda: loads(own, "unchanged") > 5, 10, "refreshes")
        # The one of the pool, and the one that looks; the server takes a moment to end the one before.
        count = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{lone.user}'"
        wait_until(lambda: int(postgres.sql(count)) <= 2, 10, "two connections")
        assert own.metric("sidecart_upstream_connects_total") == 1
        assert own.metric('sidecart_servers{database="shop",state="idle"}') == 1


def test_catalogue_that_cannot_be_read_is_said_once_and_built_in_reads_go_on(
    lone: Upstream, postgres: EmbeddedServer, owner: Run, name: str
) -> None:
    owner(READS.format(name))
    with served(lone, "200ms", SIDECART_POOL_DEFAULT_POOL_SIZE=1) as (own, client):
        postgres.sql(f"ALTER ROLE {lone.user} CONNECTION LIMIT 1")  # the pool has it already
        wait_until(lambda: loads(own, "failed") >= 1, 10, "a load to fail")
        assert client.ask("SELECT count(*) FROM orders") == "TDCZ"
        assert client.ask(f"SELECT {name}()") == "TDCZ"  # by the catalogue of before
        assert client.ask("SELECT nobody()") == "EZ"
        seen = loads(own, "failed")
        wait_until(lambda: client.ask("SELECT nobody()") == "EZ" and loads(own, "failed") > seen, 10, "another failure")
        assert own.log.count('"event":"catalogue not loaded"') == 1
        assert age(own) > 1
        owner(f"DROP FUNCTION {name}")
        owner(READS.format(name))
        postgres.sql(f"ALTER ROLE {lone.user} CONNECTION LIMIT 50")
        wait_until(lambda: age(own) < 1, 20, "the catalogue to be read again")
        assert client.ask(f"SELECT {name}()") == "TDCZ"


# --- the connection that reads it ------------------------------------------------------------------------------------


class Quiet:
    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None: ...


def fetched(upstream: Upstream, query: str) -> list[list[list[bytes | None]]]:
    """Run a query as a load of the catalogue runs its own."""

    async def work() -> list[list[list[bytes | None]]]:
        tasks = Tasks()
        context = contexts.upstream_context(upstream.sslmode, upstream.sslrootcert, b"")
        fetching = Connector(upstream, context, Stats(), Quiet(), tasks, 5.0)
        try:
            return await fetching.fetch_once(upstream.dbname, query.encode())
        finally:
            await tasks.stop()
            await asyncio.sleep(0.05)  # the transport's close

    return asyncio.run(work())


def test_rows_of_each_result_in_order(upstream: Upstream) -> None:
    query = (
        "BEGIN; SELECT 1; SELECT NULL, 'é', '' FROM generate_series(1, 2); SET LOCAL jit = off; SELECT 1 WHERE false"
    )
    assert fetched(upstream, query + "; COMMIT") == [[[b"1"]], [[None, "é".encode(), b""]] * 2, []]


def test_rows_in_many_chunks(upstream: Upstream) -> None:
    [rows] = fetched(upstream, "SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n")
    assert rows == [[str(n).encode(), b"x" * 1000] for n in range(1, 5001)]


def test_answer_that_is_too_long(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "MAX_FETCHED", 100_000)
    with pytest.raises(UpstreamError, match="needs more than 100000 bytes"):
        fetched(upstream, "SELECT repeat('x', 1000) FROM generate_series(1, 5000)")


def test_answer_that_does_not_come(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connector, "FETCH_TIMEOUT", 0.2)
    with pytest.raises(UpstreamError, match=r"did not answer within 0\.2 s"):
        fetched(upstream, "SELECT pg_sleep(2)")


def test_answer_that_is_an_error(upstream: Upstream) -> None:
    with pytest.raises(UpstreamError) as caught:
        fetched(upstream, "SELECT 1; SELECT 'a secret'::int")
    assert caught.value.sqlstate == "22P02"
    assert "secret" not in str(caught.value)


def test_server_that_is_not_there(upstream: Upstream) -> None:
    with pytest.raises(UpstreamError, match="cannot be reached"):
        fetched(replace(upstream, port=free_port()), "SELECT 1")

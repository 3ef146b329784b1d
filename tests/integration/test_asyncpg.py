"""asyncpg through SideCart: prepared statements, cursors, its pool with its reset query, timeouts, COPY."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests.running import SideCart

Connection = Any  # asyncpg has no type hints


def with_connection(sidecart: SideCart, work: Callable[[Connection], Awaitable[None]], **more: object) -> None:
    """Run `work` on a connection through SideCart, and close it as a program does."""

    async def go() -> None:
        connection = await asyncpg.connect(**sidecart.keywords(**more), ssl=False)
        try:
            await work(connection)
        finally:
            await connection.close(timeout=10)

    asyncio.run(go())


def with_both(
    sidecart: SideCart, postgres: EmbeddedServer, shop: Shop, work: Callable[[Connection], Awaitable[Any]]
) -> Any:
    """Run `work` direct and through SideCart, compare what it returns, and return it."""

    async def go() -> list[Any]:
        answers = []
        for dsn, options in (
            (f"postgresql://{postgres.host}:{postgres.port}", {"password": shop.reader_password, "ssl": "require"}),
            (f"postgresql://127.0.0.1:{sidecart.port}", {"ssl": False}),
        ):
            connection = await asyncpg.connect(dsn, user=shop.reader, database=shop.dbname, **options)
            try:
                answers.append(await work(connection))
            finally:
                await connection.close(timeout=10)
        return answers

    direct, through = asyncio.run(go())
    assert through == direct
    return through


def test_reads(sidecart: SideCart, postgres: EmbeddedServer, shop: Shop) -> None:
    async def work(connection: Connection) -> Any:
        return [
            await connection.fetch("select * from orders where id = any($1::int[]) order by id", [1, 5, 9]),
            await connection.fetchval("select count(*) from orders where status = $1", "paid"),
            await connection.fetchrow(
                "select 'é', '{\"a\": 1}'::jsonb, now() > '2000-01-01', interval '1 day', 1.50::numeric"
            ),
            await connection.execute("select 1; select 2"),
            await connection.fetch("select array[1, 2]::int[], row(1, 'x'), int4range(1, 5), '\\x00ff'::bytea"),
            connection.get_server_version(),
            connection.get_settings().server_encoding,
        ]

    assert with_both(sidecart, postgres, shop, work)[1] == 20_000


def test_types_that_asyncpg_looks_up(sidecart: SideCart, postgres: EmbeddedServer, shop: Shop) -> None:
    async def work(connection: Connection) -> Any:
        # A composite makes it read pg_catalog with its recursive introspection query, after SET jit.
        rows = await connection.fetch("select c, array_agg(c) over () from categories c order by id")
        await connection.set_type_codec("jsonb", encoder=str, decoder=len, schema="pg_catalog")
        return [str(rows), await connection.fetchval("select '[1, 2]'::jsonb")]

    with_both(sidecart, postgres, shop, work)


def test_prepare(sidecart: SideCart, postgres: EmbeddedServer, shop: Shop) -> None:
    async def work(connection: Connection) -> Any:
        statement = await connection.prepare("select id, total from orders where id between $1 and $2 order by id")
        again = await connection.prepare("select id, total from orders where id between $1 and $2 order by id")
        return [
            await statement.fetch(1, 3),
            await again.fetch(4, 6),
            await statement.fetchval(7, 7),
            [attribute.name for attribute in statement.get_attributes()],
            [parameter.name for parameter in statement.get_parameters()],
            statement.get_statusmsg(),
            await statement.explain(1, 3),
            await connection.fetchmany("select id from orders where id = $1", [(1,), (2,)]),
        ]

    assert len(with_both(sidecart, postgres, shop, work)[0]) == 3


def test_transactions(sidecart: SideCart) -> None:
    async def work(connection: Connection) -> None:
        for level in ("read_committed", "repeatable_read", "serializable"):
            async with connection.transaction(isolation=level):
                assert await connection.fetchval("show transaction_isolation") == level.replace("_", " ")
        async with connection.transaction(isolation="serializable", readonly=True, deferrable=True):
            assert await connection.fetchval("show transaction_deferrable") == "on"
        async with connection.transaction():
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError, match="SideCart forwards reads only"):
                async with connection.transaction():
                    await connection.execute("delete from orders where id = $1", 1)
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with connection.transaction():
                    await connection.fetchval("select 1/$1::int", 0)
            assert await connection.fetchval("select $1::int", 2) == 2
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            async with connection.transaction():
                await connection.execute("truncate orders")
        assert not connection.is_in_transaction()
        assert await connection.fetchval("select 3") == 3

    with_connection(sidecart, work)


def test_cursors(sidecart: SideCart) -> None:
    async def work(connection: Connection) -> None:
        async with connection.transaction():
            seen = 0
            async for row in connection.cursor("select id from orders order by id limit $1", 5000, prefetch=333):
                seen += 1
                assert row["id"] == seen
            assert seen == 5000
            cursor = await connection.cursor("select id from orders order by id")
            assert [row[0] for row in await cursor.fetch(3)] == [1, 2, 3]
            await cursor.forward(10)
            assert (await cursor.fetchrow())[0] == 14
            statement = await connection.prepare("select id from orders where id > $1 order by id")
            other = await statement.cursor(99_990)
            assert len(await other.fetch(100)) == 10
        with pytest.raises(asyncpg.NoActiveSQLTransactionError):
            await connection.cursor("select 1")

    with_connection(sidecart, work)


@pytest.mark.parametrize("copy_format", ["text", "csv", "binary"])
def test_copy_from_query(
    sidecart: SideCart, postgres: EmbeddedServer, shop: Shop, tmp_path: Path, copy_format: str
) -> None:
    async def work(connection: Connection) -> Any:
        file = tmp_path / "copied"
        query = "select * from orders where id > $1 order by id"
        status = await connection.copy_from_query(query, 1, output=file, format=copy_format)
        table = tmp_path / "table"
        await connection.copy_from_table("categories", output=table, format=copy_format)
        assert await connection.fetchval("select 1") == 1
        return status, file.read_bytes(), table.read_bytes()

    assert with_both(sidecart, postgres, shop, work)[0] == "COPY 99999"


def test_copy_to_table_is_refused(sidecart: SideCart, tmp_path: Path) -> None:
    async def work(connection: Connection) -> None:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.copy_records_to_table("categories", records=[(21, "Hats")])
        assert await connection.fetchval("select count(*) from categories") == 20

    with_connection(sidecart, work)


def test_timeout_cancels_and_the_connection_is_usable(sidecart: SideCart, postgres: EmbeddedServer) -> None:
    async def work(connection: Connection) -> None:
        for turn in range(5):
            with pytest.raises(TimeoutError):
                await connection.fetch("select pg_sleep(60), 'timeout'", timeout=0.1)
            assert await connection.fetchval("select $1::int", turn) == turn
        async with connection.transaction():
            with pytest.raises(TimeoutError):
                async with connection.transaction():
                    await connection.execute("select pg_sleep(60), 'timeout'", timeout=0.1)
            assert await connection.fetchval("select 1") == 1

    with_connection(sidecart, work)
    text = "select pg_sleep(60), ''timeout''%"
    assert postgres.sql(f"select from pg_stat_activity where state = 'active' and query like '{text}'") == ""


def test_server_settings_last(sidecart: SideCart) -> None:
    turn = itertools.count()

    async def work(connection: Connection) -> None:
        async def shown() -> list[str]:
            names = ("application_name", "search_path", "statement_timeout", "timezone")
            # DISCARD ALL takes asyncpg's cached statements away, here as on a private connection: each text is new.
            return [await connection.fetchval(f"show {name} -- {next(turn)}") for name in names]

        wanted = ["nightly report", "pg_catalog, public", "2min", "Asia/Kolkata"]
        assert await shown() == wanted
        await connection.execute("reset all")
        assert await shown() == wanted
        await connection.execute("set timezone to 'UTC'; set search_path to public")
        assert await shown() == ["nightly report", "public", "2min", "UTC"]
        await connection.execute("discard all")
        assert await shown() == wanted
        await connection.execute("set application_name to other")
        await connection.reset()
        assert await shown() == wanted
        assert connection.get_settings().application_name == "nightly report"

    settings = {
        "application_name": "nightly report",
        "search_path": "pg_catalog, public",
        "statement_timeout": "2min",
        "TimeZone": "Asia/Kolkata",
    }
    with_connection(sidecart, work, server_settings=settings)


def test_pool(sidecart: SideCart) -> None:
    """Its reset query: advisory unlock, CLOSE ALL, UNLISTEN *, RESET ALL."""

    async def go() -> None:
        pool = await asyncpg.create_pool(
            **sidecart.keywords(), ssl=False, min_size=3, max_size=3, server_settings={"application_name": "pool"}
        )
        async with pool:

            async def work(number: int) -> int:
                async with pool.acquire() as connection:
                    assert await connection.fetchval("show datestyle") == "ISO, MDY"
                    assert await connection.fetchval("show application_name") == "pool"
                    await connection.execute("set datestyle to german")
                    async with connection.transaction():
                        value = await connection.fetchval("select id from orders where id = $1", number)
                        await connection.execute("declare c cursor with hold for select 1")
                    assert await connection.fetchval("show datestyle") == "German, DMY"
                    assert await connection.fetchval("select count(*) from pg_cursors where name = 'c'") == 1
                    return int(value)

            assert await asyncio.gather(*[work(n) for n in range(1, 61)]) == list(range(1, 61))
            assert pool.get_size() == 3

    asyncio.run(go())


def test_refusals_leave_the_connection_usable(sidecart: SideCart) -> None:
    async def work(connection: Connection) -> None:
        for text in ("delete from orders", "create table t (a int)", "select 1; drop table orders", "vacuum"):
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.execute(text)
            with pytest.raises((asyncpg.ReadOnlySQLTransactionError, asyncpg.PostgresSyntaxError)):
                await connection.fetch(text)
            assert await connection.fetchval("select $1::text", text) == text
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("select pg_notify($1, 'x')", "channel")
        assert await connection.fetchval("select 1") == 1

    with_connection(sidecart, work)


def test_statement_cache_of_many_statements(sidecart: SideCart) -> None:
    async def work(connection: Connection) -> None:
        for number in range(250):  # beyond its cache of 100: it sends Close for the oldest
            assert await connection.fetchval(f"select {number} + $1::int", 1) == number + 1

    with_connection(sidecart, work)


def test_without_statement_cache_clients_take_turns(sidecart: SideCart) -> None:
    async def client(number: int) -> list[int]:
        connection = await asyncpg.connect(**sidecart.keywords(), ssl=False, statement_cache_size=0)
        try:
            return [await connection.fetchval("select $1::int * 1000 + $2::int", number, n) for n in range(30)]
        finally:
            await connection.close()

    async def go() -> list[list[int]]:
        return await asyncio.gather(*[client(number) for number in range(30)])

    assert asyncio.run(go()) == [[number * 1000 + n for n in range(30)] for number in range(30)]

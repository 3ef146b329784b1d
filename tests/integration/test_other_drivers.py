"""psycopg2 and pg8000 through SideCart: reads, transactions, refusals, and the statement after a refusal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pg8000.dbapi
import pg8000.native
import psycopg2
import psycopg2.errors
import psycopg2.extensions
import psycopg2.extras
import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests.running import SideCart

# --- psycopg2 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(sidecart: SideCart) -> Iterator[Any]:
    connection = psycopg2.connect(sidecart.dsn)
    yield connection
    connection.close()


def one(connection: Any, text: str, arguments: object = None) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(text, arguments)
        return cursor.fetchone()[0]


def test_psycopg2_reads(two: Any, postgres: EmbeddedServer, shop: Shop) -> None:
    direct = psycopg2.connect(postgres.dsn(shop.dbname, shop.reader, shop.reader_password))
    try:
        for text, arguments in (
            ("select * from orders where id < %s order by id", (20,)),
            ("select %s, %s::jsonb, %s", ("é", '{"a": 1}', b"\0\xff")),
            ("select * from reviews order by id", None),
            ("select array[1, 2], null, true, 1.50, date '2025-01-31'", None),
        ):
            answers = []
            for connection in (two, direct):
                with connection.cursor() as cursor:
                    cursor.execute(text, arguments)
                    rows = [[bytes(v) if isinstance(v, memoryview) else v for v in row] for row in cursor.fetchall()]
                    answers.append((rows, cursor.description, cursor.statusmessage, cursor.rowcount))
            assert answers[0] == answers[1]
    finally:
        direct.close()


def test_psycopg2_transactions_and_refusals(two: Any) -> None:
    assert one(two, "select 1") == 1
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction) as caught:
        one(two, "delete from orders where id = %s", (1,))
    assert caught.value.pgcode == "25006"
    assert caught.value.diag.statement_position is not None
    with pytest.raises(psycopg2.errors.InFailedSqlTransaction):
        one(two, "select 2")
    two.rollback()
    assert one(two, "select 3") == 3
    two.rollback()
    two.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    assert one(two, "show transaction_isolation") == "serializable"
    two.rollback()
    two.set_session(readonly=False)  # READ WRITE is granted as READ ONLY
    assert one(two, "show transaction_read_only") == "on"
    two.rollback()
    two.autocommit = True
    for text in ("drop table orders", "select 1; delete from orders", "select lo_creat(-1)"):
        with pytest.raises(psycopg2.Error):
            one(two, text)
        assert two.get_transaction_status() == psycopg2.extensions.TRANSACTION_STATUS_IDLE
        assert one(two, "select 4") == 4


def test_psycopg2_named_cursor_copy_and_encoding(two: Any) -> None:
    with two.cursor("every_order") as cursor:
        cursor.itersize = 1000
        cursor.execute("select id from orders order by id limit 5500")
        assert [row[0] for row in cursor] == list(range(1, 5501))
    two.commit()
    with two.cursor() as cursor:
        file = io.StringIO()
        cursor.copy_expert("copy (select id, name from categories order by id) to stdout", file)
        assert file.getvalue().endswith("20\tCafé\n")
        with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
            cursor.copy_expert("copy categories from stdin", io.StringIO("21\tHats\n"))
    two.rollback()
    two.set_client_encoding("LATIN1")
    assert one(two, "select name from categories where name = %s", ("Café",)) == "Café"
    assert two.encoding == "LATIN1"
    two.reset()
    assert one(two, "show client_encoding") == "UTF8"


def test_psycopg2_execute_values_and_dict_rows(two: Any) -> None:
    with two.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        text = "select v.a::int + o.id as sum from (values %s) as v (a) join orders o on o.id = v.a::int order by 1"
        rows = psycopg2.extras.execute_values(cursor, text, [(n,) for n in range(1, 301)], page_size=100, fetch=True)
    assert sorted(row["sum"] for row in rows) == [2 * n for n in range(1, 301)]


def test_psycopg2_green_threads_and_polling(sidecart: SideCart) -> None:
    connection = psycopg2.connect(sidecart.dsn, async_=True)
    psycopg2.extras.wait_select(connection)
    cursor = connection.cursor()
    cursor.execute("select count(*) from orders")
    psycopg2.extras.wait_select(connection)
    assert cursor.fetchone() == (100_000,)
    connection.close()


# --- pg8000 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "select id, total, status, ordered_at from orders where id < 20 order by id",
        "select 'é', null, true, 1.5, '{1,2}'::int[]",
    ],
)
def test_pg8000_reads(sidecart: SideCart, postgres: EmbeddedServer, shop: Shop, text: str) -> None:
    answers = []
    for options in (
        {"host": "127.0.0.1", "port": sidecart.port, "ssl_context": False},
        {"host": postgres.host, "port": postgres.port, "password": shop.reader_password, "ssl_context": None},
    ):
        with pg8000.native.Connection(shop.reader, database=shop.dbname, **options) as connection:
            rows = connection.run(text)
            answers.append((rows, [{**column, "name": column["name"]} for column in connection.columns or []]))
    assert answers[0] == answers[1]


def test_pg8000_parameters_transactions_and_refusals(sidecart: SideCart) -> None:
    connection = pg8000.dbapi.connect(**sidecart.keywords())
    cursor = connection.cursor()
    cursor.execute("select id from orders where id = %s", (42,))
    assert cursor.fetchone() == [42]
    for text, arguments in (("delete from orders where id = %s", (1,)), ("drop table orders", ())):
        with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
            cursor.execute(text, arguments)
        assert caught.value.args[0]["C"] == "25006"
        with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
            cursor.execute("select 1")
        assert caught.value.args[0]["C"] == "25P02"
        connection.rollback()
        cursor.execute("select %s", ("next",))
        assert cursor.fetchone() == ["next"]
        connection.commit()
    connection.autocommit = True
    with pytest.raises(pg8000.dbapi.DatabaseError):
        cursor.execute("truncate orders")
    cursor.executemany("select %s", (("a",), ("b",)))
    assert cursor.fetchone() == ["b"]
    file = io.BytesIO()
    cursor.execute("copy (select id, name from categories order by id) to stdout", stream=file)
    assert file.getvalue().endswith("20\tCafé\n".encode())
    connection.close()


def test_pg8000_prepared_statement(sidecart: SideCart) -> None:
    with pg8000.native.Connection(
        "analyst", **{k: v for k, v in sidecart.keywords().items() if k != "user"}
    ) as connection:
        statement = connection.prepare("select :n::int + 1")
        assert [statement.run(n=n) for n in range(5)] == [[[n + 1]] for n in range(5)]
        statement.close()
        assert connection.run("select 1") == [[1]]

"""psycopg 3 through SideCart: what it does in each of its modes is what it does on a direct connection."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.pq import TransactionStatus

from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests.running import SideCart, wait_until

Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(sidecart: SideCart) -> Iterator[Connection]:
    with psycopg.connect(sidecart.dsn) as made:
        yield made


@pytest.fixture
def direct(postgres: EmbeddedServer, shop: Shop) -> Iterator[Connection]:
    with psycopg.connect(postgres.dsn(shop.dbname, shop.reader, shop.reader_password)) as made:
        yield made


def one(connection: Connection, text: str, *arguments: object) -> Any:
    row = connection.execute(text, arguments or None).fetchone()
    assert row is not None
    return row[0]


def runs(postgres: EmbeddedServer, text: str) -> bool:
    quoted = text.replace("'", "''")
    answer = postgres.sql(f"select count(*) from pg_stat_activity where state = 'active' and query = '{quoted}'")
    return answer != "0\n"


def test_process_that_a_driver_shows_is_none_of_the_servers(sidecart: SideCart) -> None:
    with psycopg.connect(sidecart.dsn) as first, psycopg.connect(sidecart.dsn) as second:
        shown = [first.info.backend_pid, second.info.backend_pid]
        assert shown[0] != shown[1]
        assert one(first, "select pg_backend_pid()") not in shown
        assert one(first, "select count(*) from pg_stat_activity where pid = any(%s)", shown) == 0


# --- reads ------------------------------------------------------------------------------------------------------------


READS = [
    ("select * from orders where id = %s", [42]),
    (
        "select %s::text, %s::jsonb, %s::date, %s::numeric, %s::bytea",
        ["é日", '{"a": [1]}', "2025-01-31", "1.50", b"\0\xff"],
    ),
    ("select name, details from products where id < %s order by id", [50]),
    ("select array_agg(id order by id), null, true, interval '1 day 2 hours' from categories", []),
    ("select * from orders where false", []),
    ("select", []),
    ("", []),
    ("show server_version", []),
    ("explain (costs off) select * from orders where id = 1", []),
    ("select '2025-06-01 12:00:00+02'::timestamptz, '{1,2}'::int[], int4range(1, 5)", []),
]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("text", "arguments"), READS)
def test_reads(connection: Connection, direct: Connection, text: str, arguments: list[Any], binary: bool) -> None:
    def read(at: Connection) -> Any:
        cursor = at.execute(text, arguments or None, binary=binary)
        rows = cursor.fetchall() if cursor.description is not None else None
        return rows, cursor.statusmessage, str(cursor.description)

    assert read(connection) == read(direct)


def test_what_the_connection_says_of_itself(sidecart: SideCart, postgres: EmbeddedServer, shop: Shop) -> None:
    more = "application_name=report client_encoding=latin1 options='-c datestyle=german -c extra_float_digits=0'"
    names = [
        "server_version", "server_encoding", "client_encoding", "DateStyle", "TimeZone", "IntervalStyle",
        "integer_datetimes", "standard_conforming_strings", "application_name", "is_superuser",
        "default_transaction_read_only", "in_hot_standby", "session_authorization",
    ]  # fmt: skip

    def said(dsn: str) -> list[object]:
        with psycopg.connect(f"{dsn} {more}") as made:
            info = made.info
            return [
                *[info.parameter_status(name) for name in names],
                info.encoding,
                info.server_version,
                info.dbname,
                info.transaction_status,
                one(made, "show datestyle"),
                one(made, "show extra_float_digits"),
            ]

    through = said(sidecart.dsn.replace("analyst", shop.reader))
    assert through == said(postgres.dsn(shop.dbname, shop.reader, shop.reader_password))
    assert "iso8859-1" in through
    assert "German, DMY" in through


def test_parameter_status_follows_set_and_reset(connection: Connection) -> None:
    connection.autocommit = True
    connection.execute("set timezone to 'Asia/Tokyo'")
    assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
    assert str(connection.info.timezone) == "Asia/Tokyo"
    connection.execute("reset timezone")
    assert connection.info.parameter_status("TimeZone") != "Asia/Tokyo"
    connection.execute("set client_encoding to latin1")
    assert connection.info.encoding == "iso8859-1"
    assert one(connection, "select 'é'") == "é"


def test_notices(connection: Connection) -> None:
    told: list[str | None] = []
    connection.autocommit = True
    connection.add_notice_handler(lambda diagnostic: told.append(diagnostic.message_primary))
    connection.execute("commit")
    connection.execute("begin")
    connection.execute("begin")
    connection.execute("rollback")
    assert told == ["there is no transaction in progress", "there is already a transaction in progress"]


# --- prepared statements ----------------------------------------------------------------------------------------------


def test_prepared_statements(connection: Connection) -> None:
    for number in range(1, 20):
        assert one(connection, "select id from orders where id = %s", number) == number
        connection.commit()
    names = connection.execute("select statement from pg_prepared_statements", prepare=False).fetchall()
    assert names == [("select id from orders where id = $1",)]
    connection.execute("select 1", prepare=True)
    connection.execute("deallocate all")
    assert one(connection, "select count(*) from pg_prepared_statements") == 0


def test_prepared_on_first_use_by_many_connections(sidecart: SideCart) -> None:
    made = [psycopg.connect(sidecart.dsn, prepare_threshold=0, autocommit=True) for _ in range(4)]
    try:
        for turn in range(5):
            for number, each in enumerate(made):
                assert one(each, f"select %s + {number}", turn) == turn + number  # the same names, other texts
    finally:
        for each in made:
            each.close()


def test_prepared_statement_dropped_after_its_error(connection: Connection) -> None:
    connection.autocommit = True
    for divisor in (1, 0, 2, 0, 4):
        if divisor:
            assert connection.execute("select 4 / %s", [divisor], prepare=True).fetchone() == (4 // divisor,)
        else:
            with pytest.raises(errors.DivisionByZero):
                connection.execute("select 4 / %s", [divisor], prepare=True)


# --- transactions -----------------------------------------------------------------------------------------------------


def test_nested_transactions_with_an_error_in_the_inner_one(connection: Connection) -> None:
    with connection.transaction():
        assert one(connection, "select 1") == 1
        with pytest.raises(errors.DivisionByZero), connection.transaction():
            connection.execute("select 1/0")
        with pytest.raises(errors.ReadOnlySqlTransaction), connection.transaction("named"):
            connection.execute("delete from orders")
        with connection.transaction(force_rollback=True):
            connection.execute("set local datestyle to german")
        assert one(connection, "show datestyle") == "ISO, MDY"
        assert one(connection, "select 2") == 2
    assert connection.info.transaction_status is TransactionStatus.IDLE


@pytest.mark.parametrize("arguments", [None, ["x"]], ids=["simple", "extended"])
def test_refused_in_a_transaction_then_rollback(connection: Connection, arguments: list[str] | None) -> None:
    refused = "update orders set status = 'x'" if arguments is None else "update orders set status = %s"
    assert one(connection, "select 1") == 1
    with pytest.raises(errors.ReadOnlySqlTransaction) as caught:
        connection.execute(refused, arguments)
    assert caught.value.diag.message_primary == "cannot execute UPDATE: SideCart forwards reads only"
    assert connection.info.transaction_status is TransactionStatus.INERROR
    with pytest.raises(errors.InFailedSqlTransaction):
        connection.execute("select 1")
    connection.rollback()
    assert one(connection, "select txid_current_if_assigned() is null")
    assert one(connection, "select 3") == 3


@pytest.mark.parametrize("arguments", [None, [1]], ids=["simple", "extended"])
def test_refused_in_a_savepoint_then_go_on(connection: Connection, arguments: list[int] | None) -> None:
    refused = "delete from orders" if arguments is None else "delete from orders where id = %s"
    connection.execute("declare c cursor for select id from orders order by id")
    connection.execute("savepoint here")
    with pytest.raises(errors.ReadOnlySqlTransaction):
        connection.execute(refused, arguments)
    connection.execute("rollback to here")
    assert one(connection, "fetch 1 from c") == 1
    connection.commit()
    assert one(connection, "select count(*) from orders") == 100_000


def test_commit_of_a_refused_transaction_rolls_back(connection: Connection) -> None:
    connection.execute("set datestyle to german")
    with pytest.raises(errors.ReadOnlySqlTransaction):
        connection.execute("insert into orders default values")
    assert connection.execute("commit").statusmessage == "ROLLBACK"
    assert one(connection, "show datestyle") == "ISO, MDY"


def test_transaction_characteristics(connection: Connection) -> None:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.deferrable = True
    assert one(connection, "show transaction_isolation") == "repeatable read"
    assert one(connection, "show transaction_read_only") == "on"
    assert one(connection, "show transaction_deferrable") == "on"
    connection.rollback()
    connection.read_only = False  # psycopg now says READ WRITE: granted as READ ONLY
    assert one(connection, "show transaction_read_only") == "on"


def test_snapshot_of_repeatable_read(connection: Connection, postgres: EmbeddedServer, shop: Shop) -> None:
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    before = one(connection, "select body from reviews where id = 1")
    postgres.sql("update reviews set body = 'changed' where id = 1", shop.dbname)
    try:
        assert one(connection, "select body from reviews where id = 1") == before
        connection.commit()
        assert one(connection, "select body from reviews where id = 1") == "changed"
    finally:
        postgres.sql("update reviews set body = 'Review no. 1: it''s good' where id = 1", shop.dbname)
    connection.commit()
    assert one(connection, "select body from reviews where id = 1") == before


def test_autocommit_and_reuse_after_errors(connection: Connection) -> None:
    connection.autocommit = True
    for text, error in (
        ("select 1/0", errors.DivisionByZero),
        ("selec", errors.SyntaxError),
        ("select * from nope", errors.UndefinedTable),
        ("drop table orders", errors.ReadOnlySqlTransaction),
        ("select pg_notify('a', 'b')", errors.InsufficientPrivilege),
        ("select 1; delete from orders", errors.ReadOnlySqlTransaction),
        ("select 1; select 1/0", errors.DivisionByZero),
    ):
        with pytest.raises(error):
            connection.execute(text)
        assert connection.info.transaction_status is TransactionStatus.IDLE
        assert one(connection, "select %s::int", 7) == 7


# --- RESET with settings from the start-up packet ---------------------------------------------------------------------


RESETS = {
    "alone": ["set datestyle to sql", "reset datestyle", "show datestyle"],
    "all": ["set datestyle to sql", "reset all", "show datestyle"],
    "discard": ["set datestyle to sql", "discard all", "show datestyle"],
    "default": ["set datestyle to sql", "set datestyle to default", "show datestyle"],
    "local": ["begin", "set local datestyle to default", "show datestyle", "commit", "show datestyle"],
    "rolled back": ["set datestyle to sql", "begin", "reset datestyle", "show datestyle", "rollback", "show datestyle"],
    "rolled back in one string": ["set datestyle to sql", "begin; reset datestyle; rollback", "show datestyle"],
    "never run, after an error": ["set datestyle to sql", "select 1/0; reset datestyle", "show datestyle"],
    "in a failed transaction": [
        "set datestyle to sql", "begin", "select 1/0", "reset all", "rollback", "show datestyle",
    ],
    "undone by a savepoint": [
        "begin", "set datestyle to sql", "savepoint a", "reset datestyle", "rollback to a", "show datestyle", "commit",
        "show datestyle",
    ],
}  # fmt: skip


@pytest.mark.parametrize("texts", RESETS.values(), ids=RESETS)
def test_reset_returns_to_what_the_client_connected_with(
    sidecart: SideCart, postgres: EmbeddedServer, shop: Shop, texts: list[str]
) -> None:
    def said(dsn: str) -> list[object]:
        answers: list[object] = []
        with psycopg.connect(f"{dsn} options='-c datestyle=german'", autocommit=True) as made:
            for text in texts:
                cursor = made.cursor()
                try:
                    cursor.execute(text)
                    while cursor.nextset():
                        pass
                    answers.append(cursor.fetchall() if cursor.description else cursor.statusmessage)
                except psycopg.Error as error:
                    answers.append(error.sqlstate)
        return answers

    assert said(sidecart.dsn) == said(postgres.dsn(shop.dbname, shop.reader, shop.reader_password))


def test_parameter_status_after_reset_is_what_the_client_connected_with(sidecart: SideCart) -> None:
    """Drivers read dates by it: the value has to be right before the next statement, too."""
    with psycopg.connect(f"{sidecart.dsn} options='-c timezone=Asia/Tokyo'", autocommit=True) as made:
        for text in ("reset timezone", "reset all", "discard all", "set timezone to default"):
            made.execute(text)
            assert made.info.parameter_status("TimeZone") == "Asia/Tokyo", text


# --- the unnamed statement --------------------------------------------------------------------------------------------


UNNAMED = {
    "parsed": [("parse", "select 42")],
    "destroyed by a simple query": [("parse", "select 42"), ("query", "select 1")],
    "replaced in the next group": [("parse", "select 42"), ("sync", ""), ("parse", "select 43")],
    "destroyed by a refused one": [("parse", "select 42"), ("sync", ""), ("parse", "delete from orders")],
    "destroyed by a refused one of its group": [("parse", "select 42"), ("parse", "delete from orders")],
    "kept when the refused one is skipped": [
        ("parse", "select 42"), ("wait", ""), ("run wrongly", ""), ("parse", "delete from orders"),
    ],
    "destroyed by a refused one after its reply": [
        ("parse", "select 42"), ("wait", ""), ("parse", "delete from orders"),
    ],
    "kept when another is skipped": [("parse", "select 42"), ("wait", ""), ("run wrongly", ""), ("parse", "select 43")],
    "left by an error of its own group": [("parse", "select 42"), ("run", ""), ("run wrongly", "")],
}  # fmt: skip


@pytest.mark.parametrize("steps", UNNAMED.values(), ids=UNNAMED)
def test_unnamed_statement(
    sidecart: SideCart, postgres: EmbeddedServer, shop: Shop, steps: list[tuple[str, str]]
) -> None:
    """What a Bind of the unnamed statement finds after these steps, in one pipeline; other clients come in between."""

    def found(dsn: str) -> tuple[str, object]:
        with psycopg.connect(dsn) as made:
            low = made.pgconn
            if steps[-1][0] == "query":
                low.prepare(b"", steps[0][1].encode())
                low.exec_(steps[1][1].encode())
            else:
                low.enter_pipeline_mode()
                synced = 0

                def wait() -> None:
                    nonlocal synced
                    low.pipeline_sync()
                    synced += 1
                    while synced:
                        result = low.get_result()
                        synced -= result is not None and result.status == psycopg.pq.ExecStatus.PIPELINE_SYNC

                for step, text in steps:
                    if step == "parse":
                        # A refused text fails in its Parse here; direct, a syntax error stands for it.
                        refused = text.startswith("delete") and dsn != sidecart.dsn
                        low.send_prepare(b"", b"selec" if refused else text.encode())
                    elif step == "sync":
                        low.pipeline_sync()
                        synced += 1
                    elif step == "wait":
                        wait()
                    else:
                        low.send_query_prepared(b"", None if step == "run" else [b"a parameter too many"])
                wait()
                low.exit_pipeline_mode()
            with psycopg.connect(dsn) as other:
                other.execute("select 'another', %s::int", [1])
            result = low.exec_prepared(b"", None)
            error = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
            return psycopg.pq.ExecStatus(result.status).name, error or (
                result.get_value(0, 0) if result.ntuples else b""
            )

    assert found(sidecart.dsn) == found(postgres.dsn(shop.dbname, shop.reader, shop.reader_password))


# --- pipelines --------------------------------------------------------------------------------------------------------


def test_pipeline_of_a_hundred(connection: Connection) -> None:
    with connection.pipeline():
        cursors = [connection.execute("select id from orders where id = %s", [n]) for n in range(1, 101)]
    assert [cursor.fetchone() for cursor in cursors] == [(n,) for n in range(1, 101)]


@pytest.mark.parametrize(
    ("bad", "error"), [("select 1/0", errors.DivisionByZero), ("delete from orders", errors.ReadOnlySqlTransaction)]
)
@pytest.mark.parametrize("autocommit", [True, False])
def test_pipeline_with_an_error_in_the_middle(
    sidecart: SideCart, autocommit: bool, bad: str, error: type[Exception]
) -> None:
    with psycopg.connect(sidecart.dsn, autocommit=autocommit) as made:
        cursors = []
        with pytest.raises(error), made.pipeline() as pipeline:
            cursors += [made.execute("select %s::int", [n]) for n in range(50)]
            pipeline.sync()
            assert cursors[49].fetchone() == (49,)
            made.execute(bad)
            cursors += [made.execute("select %s::int", [n]) for n in range(50, 100)]
            pipeline.sync()
        assert [cursor.fetchone() for cursor in cursors[:49]] == [(n,) for n in range(49)]
        made.rollback()
        assert one(made, "select 1") == 1
        with made.pipeline():
            assert made.execute("select 2").fetchone() == (2,)


def test_pipeline_goes_on_after_the_sync_behind_an_error(sidecart: SideCart) -> None:
    with psycopg.connect(sidecart.dsn, autocommit=True) as made, made.pipeline() as pipeline:
        first = made.execute("select 1")
        made.execute("truncate orders")
        made.execute("select 2")
        with pytest.raises(errors.ReadOnlySqlTransaction):
            pipeline.sync()
        after = made.execute("select 3")
        pipeline.sync()
        assert first.fetchone() == (1,)
        assert after.fetchone() == (3,)


def test_set_in_a_refused_pipeline_is_undone(sidecart: SideCart) -> None:
    with psycopg.connect(sidecart.dsn, autocommit=True) as made:
        with pytest.raises(errors.ReadOnlySqlTransaction), made.pipeline():
            made.execute("set datestyle to german")
            made.execute("delete from orders")
        assert one(made, "show datestyle") == "ISO, MDY"


def test_executemany(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.executemany("select id from orders where id = %s", [[n] for n in range(1, 21)], returning=True)
        seen = []
        while True:
            seen.append(cursor.fetchone())
            if not cursor.nextset():
                break
    assert seen == [(n,) for n in range(1, 21)]


# --- much data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scrollable", [None, True])
@pytest.mark.parametrize("binary", [False, True])
def test_server_side_cursor(connection: Connection, scrollable: bool | None, binary: bool) -> None:
    with connection.cursor("all_orders", scrollable=scrollable, binary=binary) as cursor:
        cursor.itersize = 5000
        cursor.execute("select id, total from orders order by id")
        seen = 0
        for number, _ in cursor:
            seen += 1
            assert number == seen
    assert seen == 100_000


def test_server_side_cursor_with_hold(sidecart: SideCart) -> None:
    with psycopg.connect(sidecart.dsn, autocommit=True) as made:
        with made.cursor("held", withhold=True) as cursor:
            cursor.execute("select id from orders order by id limit 1000")
            assert len(cursor.fetchmany(10)) == 10
            assert one(made, "select 1") == 1
            assert cursor.fetchone() == (11,)
        assert one(made, "select count(*) from pg_cursors") == 0


@pytest.mark.parametrize("options", ["", "with (format binary)", "with (format csv, header)"])
def test_copy_to(connection: Connection, direct: Connection, options: str) -> None:
    def copied(at: Connection) -> bytes:
        with at.cursor() as cursor, cursor.copy(f"copy (select * from orders order by id) to stdout {options}") as copy:
            return b"".join(bytes(block) for block in copy)

    through = copied(connection)
    assert through == copied(direct)
    assert len(through) > 4_000_000
    assert one(connection, "select 1") == 1


def test_copy_rows(connection: Connection) -> None:
    with connection.cursor() as cursor, cursor.copy("copy categories to stdout with (format binary)") as copy:
        copy.set_types(["int4", "text"])
        assert len(list(copy.rows())) == 20


def test_copy_from_is_refused_and_the_connection_lives(connection: Connection) -> None:
    with (
        pytest.raises(errors.ReadOnlySqlTransaction),
        connection.cursor() as cursor,
        cursor.copy("copy orders from stdin") as copy,
    ):
        copy.write(b"1\t2\n")
    connection.rollback()
    assert one(connection, "select 1") == 1


def test_stream(connection: Connection) -> None:
    numbers = (row[0] for row in connection.cursor().stream("select id from orders order by id limit %s", [3000]))
    assert list(numbers) == list(range(1, 3001))


def test_large_values_and_large_parameters(connection: Connection, direct: Connection) -> None:
    big = "é" * 500_000
    assert one(connection, "select %s::text", big) == big
    assert one(connection, "select length(%s::bytea)", b"x" * 3_000_000) == 3_000_000
    assert one(connection, "select md5(repeat('x', 20000000))") == one(direct, "select md5(repeat('x', 20000000))")
    assert len(one(connection, "select repeat('x', 20000000)")) == 20_000_000


# --- cancel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cancel", "cancel_safe"])
def test_cancel(connection: Connection, postgres: EmbeddedServer, method: str) -> None:
    text = f"select pg_sleep(60) -- {method}"
    caught: list[BaseException] = []

    def sleep() -> None:
        try:
            connection.execute(text)
        except psycopg.Error as error:
            caught.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    wait_until(lambda: runs(postgres, text), 10, "the statement to run")
    getattr(connection, method)()
    thread.join(10)
    assert not thread.is_alive()
    assert [type(error) for error in caught] == [errors.QueryCanceled]
    assert not runs(postgres, text)
    connection.rollback()
    assert one(connection, "select 1") == 1


def test_cancel_of_nothing_hits_nothing(sidecart: SideCart) -> None:
    with psycopg.connect(sidecart.dsn, autocommit=True) as made:
        for number in range(20):
            made.cancel_safe()
            assert one(made, "select %s::int", number) == number


# --- async ------------------------------------------------------------------------------------------------------------


def test_async(sidecart: SideCart, postgres: EmbeddedServer) -> None:
    text = "select pg_sleep(60) -- async"

    async def go() -> None:
        async with await psycopg.AsyncConnection.connect(sidecart.dsn) as made:
            async with made.transaction():
                cursor = await made.execute("select sum(id) from orders where id <= %s", [100])
                assert await cursor.fetchone() == (5050,)
                with pytest.raises(errors.ReadOnlySqlTransaction):
                    async with made.transaction():
                        await made.execute("delete from orders")
            async with made.pipeline():
                cursors = [await made.execute("select %s::int", [n]) for n in range(100)]
            assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(100)]
            async with made.cursor("named") as named:
                await named.execute("select id from orders order by id limit 2500")
                assert [row[0] async for row in named] == list(range(1, 2501))
            await made.commit()
            task = asyncio.create_task(made.execute(text))
            while not await asyncio.to_thread(runs, postgres, text):
                assert not task.done()
            task.cancel()  # psycopg sends a CancelRequest
            with pytest.raises((asyncio.CancelledError, errors.QueryCanceled)):
                await task
            assert not await asyncio.to_thread(runs, postgres, text)

    asyncio.run(go())


def test_many_async_clients_at_once(sidecart: SideCart) -> None:
    async def client(number: int) -> list[int]:
        async with await psycopg.AsyncConnection.connect(sidecart.dsn, autocommit=number % 2 == 0) as made:
            seen = []
            for turn in range(20):
                cursor = await made.execute("select %s::int * 1000 + %s::int", [number, turn])
                seen.append((await cursor.fetchall())[0][0])
                await made.commit()
            return seen

    async def go() -> list[list[int]]:
        return await asyncio.gather(*[client(number) for number in range(40)])

    assert asyncio.run(go()) == [[number * 1000 + turn for turn in range(20)] for number in range(40)]

"""What drivers say on the wire, message for message, as seen from a server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.protocol import PROTOCOL_3_0
from tests.messages.conftest import WAYS
from tests.messages.conversation import (
    FLUSHED,
    SYNC,
    Message,
    Step,
    Talk,
    Way,
    ask,
    b,
    close_portal,
    close_statement,
    describe_portal,
    describe_statement,
    e,
    flushed,
    parse,
    parse_refused,
    q,
    refused,
    run,
    simple,
    step,
    talk,
)

ORDERS = "SELECT id, total FROM orders WHERE id < $1 ORDER BY id"
ROWS = "SELECT id FROM orders ORDER BY id LIMIT 7"


def jdbc(text: str, *values: str, name: str = "") -> tuple[Message, ...]:
    """Return what pgJDBC sends for a statement that it has not described yet."""
    return parse(name, text), b(name, *values), describe_portal(), e()


def autosaved(*messages: Message) -> Step:
    """Return a batch of pgJDBC with autosave=always."""
    return step(parse("", "SAVEPOINT PGJDBC_AUTOSAVE"), b(), e(limit=1), *messages, SYNC)


def odbc(text: str) -> Message:
    return q(f"SAVEPOINT _EXEC_SVP_0x55;{text};RELEASE _EXEC_SVP_0x55")


TALKS = (
    talk(
        "psycopg prepares after five executions and deallocates by SQL",
        step(q("BEGIN")),
        *(step(ask(ORDERS, "3"), SYNC) for _ in range(5)),
        step(parse("_pg3_0", ORDERS), SYNC),
        step(run("_pg3_0", "3"), SYNC),
        simple("COMMIT", "BEGIN"),
        step(run("_pg3_0", "4"), SYNC),
        step(q('DEALLOCATE "_pg3_0"')),
        simple("COMMIT"),
        step(run("_pg3_0", "4"), SYNC),
    ),
    talk(
        "psycopg with libpq 17 closes its statements",
        step(parse("_pg3_0", ORDERS), SYNC),
        step(run("_pg3_0", "3"), SYNC),
        step(close_statement("_pg3_0"), SYNC),
        step(parse("_pg3_1", ORDERS), SYNC),
        step(run("_pg3_1", "3"), SYNC),
        step(run("_pg3_0", "3"), SYNC),
    ),
    talk(
        "psycopg in pipeline mode with Flush requests and a Sync at the end",
        flushed("12nC", ask("BEGIN"), FLUSHED),
        flushed("12TDDC1", ask(ORDERS, "3"), parse("_pg3_0", ORDERS), FLUSHED),
        flushed("2TDC2TDDC", run("_pg3_0", "2"), run("_pg3_0", "3"), FLUSHED),
        step(SYNC),
        step(run("_pg3_0", "2"), ask("COMMIT"), SYNC),
        step(run("_pg3_0", "2"), SYNC),
    ),
    talk(
        "psycopg in pipeline mode loses the rest of a pipeline and goes on",
        step(ask("BEGIN"), ask("SELECT 1/0"), ask("SELECT 2"), SYNC),
        step(ask("ROLLBACK"), SYNC),
        step(parse("_pg3_0", ORDERS), run("_pg3_0", "x"), ask("SELECT 2"), SYNC, run("_pg3_0", "2"), SYNC),
    ),
    talk(
        "psycopg nests transactions by savepoints",
        simple("BEGIN", 'SAVEPOINT "_pg3_1"', "SELECT 1", 'RELEASE "_pg3_1"', 'SAVEPOINT "_pg3_1"'),
        step(ask("SELECT 1/$1::int", "0"), SYNC),
        step(q('ROLLBACK TO "_pg3_1"; RELEASE "_pg3_1"')),
        simple('SAVEPOINT "_pg3_1"', 'SAVEPOINT "_pg3_2"'),
        step(refused("DELETE FROM orders")),
        step(q('ROLLBACK TO "_pg3_2"; RELEASE "_pg3_2"')),
        simple("SELECT 2", 'RELEASE "_pg3_1"', "COMMIT"),
    ),
    talk(
        "psycopg fetches from a named cursor",
        simple("BEGIN"),
        step(ask('DECLARE "mine" CURSOR FOR SELECT id FROM orders WHERE id < 6 ORDER BY id'), SYNC),
        step(describe_portal("mine"), SYNC),
        step(q('FETCH FORWARD 3 FROM "mine"')),
        step(q('FETCH FORWARD ALL FROM "mine"')),
        step(q('CLOSE "mine"')),
        simple("COMMIT"),
    ),
    talk(
        "psycopg2 begins with every first statement",
        simple("BEGIN", "SELECT 1", "ROLLBACK", "BEGIN", "SELECT 1/0", "ROLLBACK"),
        simple("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "SHOW transaction_isolation", "COMMIT"),
        simple("SET datestyle TO 'ISO'", "SET client_encoding TO 'UTF8'"),
    ),
    talk(
        "pgJDBC names a statement after five executions",
        step(parse("", "SET extra_float_digits = 3"), b(), e(limit=1), SYNC),
        step(parse("", "SET application_name = 'PostgreSQL JDBC Driver'"), b(), e(limit=1), SYNC),
        *(step(jdbc(ORDERS, "3"), SYNC) for _ in range(4)),
        step(parse("S_1", ORDERS, 23), b("S_1", "3"), describe_portal(), e(), SYNC),
        step(b("S_1", "2"), e(), SYNC),
        step(b("S_1", "4"), e(), SYNC),
        step(close_statement("S_1"), jdbc("SELECT 1"), SYNC),
        step(b("S_1", "4"), e(), SYNC),
    ),
    talk(
        "pgJDBC begins in the batch of the first query",
        step(parse("", "BEGIN"), b(), e(), jdbc(ORDERS, "2"), SYNC),
        step(jdbc(ORDERS, "3"), SYNC),
        step(parse("", "COMMIT"), b(), e(limit=1), SYNC),
        step(parse("S_1", "BEGIN"), b("S_1"), e(), jdbc(ORDERS, "2", name="S_2"), SYNC),
        step(parse("S_3", "COMMIT"), b("S_3"), e(limit=1), SYNC),
        step(b("S_1"), e(), b("S_2", "3"), describe_portal(), e(), SYNC),
        step(b("S_3"), e(limit=1), SYNC),
        step(b("S_1"), e(), b("S_2", "x"), describe_portal(), e(), SYNC),
        step(parse("S_4", "ROLLBACK"), b("S_4"), e(limit=1), SYNC),
    ),
    talk(
        "pgJDBC reads by a fetch size",
        step(
            parse("", "BEGIN"),
            b(),
            e(),
            parse("S_1", ROWS),
            b("S_1", portal="C_2"),
            describe_portal("C_2"),
            e("C_2", 3),
            SYNC,
        ),
        step(e("C_2", 3), SYNC),
        step(b("S_1", portal="C_3"), e("C_3", 2), SYNC),
        step(e("C_2", 3), SYNC),
        step(close_portal("C_2"), e("C_3", 2), SYNC),
        step(close_portal("C_3"), parse("S_5", "COMMIT"), b("S_5"), e(limit=1), SYNC),
        step(e("C_3", 2), SYNC),
    ),
    talk(
        "pgJDBC with autosave",
        step(parse("", "BEGIN"), b(), e(), SYNC),
        autosaved(*jdbc("SELECT 1")),
        autosaved(*jdbc("SELECT 1/0")),
        step(parse("", "ROLLBACK TO SAVEPOINT PGJDBC_AUTOSAVE"), b(), e(limit=1), SYNC),
        autosaved(parse_refused("", "DELETE FROM orders"), b(), describe_portal(), e()),
        step(parse("", "ROLLBACK TO SAVEPOINT PGJDBC_AUTOSAVE"), b(), e(limit=1), SYNC),
        step(parse("", "RELEASE SAVEPOINT PGJDBC_AUTOSAVE"), b(), e(limit=1), SYNC),
        step(parse("", "COMMIT"), b(), e(limit=1), SYNC),
    ),
    talk(
        "pgJDBC heals itself by DEALLOCATE ALL",
        step(parse("S_1", ORDERS), run("S_1", "2"), SYNC),
        step(parse("", "DEALLOCATE ALL"), b(), e(limit=1), SYNC),
        step(b("S_1", "2"), e(), SYNC),
        step(parse("S_2", ORDERS), run("S_2", "2"), SYNC),
    ),
    talk(
        "pgJDBC as a pool asks whether the connection lives",
        step(parse("", ""), b(), e(limit=1), SYNC),
        step(parse("", "SELECT 1"), b(), describe_portal(), e(limit=1), SYNC),
        step(parse("", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"), b(), e(limit=1), SYNC),
        step(parse("", "SHOW TRANSACTION ISOLATION LEVEL"), b(), describe_portal(), e(limit=1), SYNC),
    ),
    talk(
        "pgJDBC in simple mode",
        simple("BEGIN;SELECT 1", "SELECT 1/0", "ROLLBACK", "SELECT ('2'::int4)"),
    ),
    talk(
        "asyncpg prepares and executes and closes",
        step(parse("__asyncpg_stmt_1__", ORDERS), describe_statement("__asyncpg_stmt_1__"), SYNC),
        step(b("__asyncpg_stmt_1__", "3", binary=True), e(), SYNC),
        step(b("__asyncpg_stmt_1__", "2", binary=True), e(), SYNC),
        step(close_statement("__asyncpg_stmt_1__"), SYNC),
        step(b("__asyncpg_stmt_1__", "3"), e(), SYNC),
    ),
    talk(
        "asyncpg executes many in one batch",
        step(parse("__asyncpg_stmt_1__", "SELECT $1::int"), describe_statement("__asyncpg_stmt_1__"), SYNC),
        step(*((b("__asyncpg_stmt_1__", str(n)), e()) for n in range(30)), SYNC),
        step(*((b("__asyncpg_stmt_1__", f"{n}x" if n == 7 else str(n)), e()) for n in range(20)), SYNC),
    ),
    talk(
        "asyncpg reads by a cursor in a transaction",
        simple("BEGIN;"),
        step(parse("__asyncpg_stmt_2__", ROWS), describe_statement("__asyncpg_stmt_2__"), SYNC),
        step(b("__asyncpg_stmt_2__", portal="__asyncpg_portal_3__"), e("__asyncpg_portal_3__", 2), SYNC),
        step(e("__asyncpg_portal_3__", 3), SYNC),
        step(close_portal("__asyncpg_portal_3__"), SYNC),
        simple("ROLLBACK;"),
    ),
    talk(
        "asyncpg resets a connection that goes back to its pool",
        step(parse("__asyncpg_stmt_1__", ORDERS), describe_statement("__asyncpg_stmt_1__"), SYNC),
        simple("SET timezone TO 'Asia/Tokyo'", "CLOSE ALL;\nUNLISTEN *;\nRESET ALL;", "SHOW timezone"),
        step(run("__asyncpg_stmt_1__", "2"), SYNC),
    ),
    talk(
        "Npgsql writes DISCARD ALL in front of its first query",
        step(q("DISCARD ALL"), ask(ORDERS, "2"), SYNC),
        step(parse("_p1", ORDERS), describe_statement("_p1"), SYNC),
        step(b("_p1", "3"), e(), SYNC),
        step(q("DISCARD ALL"), ask("SELECT 1"), SYNC),
        step(b("_p1", "3"), e(), SYNC),
        step(q("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED"), ask("SELECT 1"), SYNC),
        step(q("COMMIT")),
        step(q("SET datestyle TO German")),
        step(q("DISCARD ALL"), q("BEGIN"), ask("SHOW datestyle"), SYNC),
        step(q("ROLLBACK")),
    ),
    talk(
        "Npgsql prepares several statements of one command",
        step(
            parse("_p1", "SELECT 1"), describe_statement("_p1"), parse("_p2", ORDERS), describe_statement("_p2"), SYNC
        ),
        step(b("_p1"), e(), b("_p2", "2"), e(), SYNC),
        step(close_statement("_p1"), close_statement("_p2"), SYNC),
        step(b("_p1"), e(), SYNC),
    ),
    talk(
        "Npgsql keeps its statements over a pooled reset",
        step(parse("_auto0", ORDERS), b("_auto0", "2"), describe_portal(), e(), SYNC),
        step(
            q("SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;DISCARD TEMP"),
            b("_auto0", "2"),
            e(),
            SYNC,
        ),
    ),
    talk(
        "node-postgres runs a named query",
        step(ask(ORDERS, "2", name="fetch-orders"), SYNC),
        step(run("fetch-orders", "3"), SYNC),
        step(run("fetch-orders", "x"), SYNC),
        step(run("fetch-orders", "1"), SYNC),
    ),
    talk(
        "pg-cursor describes before it executes",
        flushed("12T", parse("", ROWS), b(), describe_portal(), FLUSHED),
        flushed("DDs", e(limit=2), FLUSHED),
        flushed("DDDs", e(limit=3), FLUSHED),
        step(close_portal(), SYNC),
        flushed("12T", parse("", ROWS), b(), describe_portal(), FLUSHED),
        flushed("DDDDDDDC", e(limit=50), FLUSHED),
        step(SYNC),
    ),
    talk(
        "pg-cursor describes what it never executes",
        flushed("12T", parse("", ROWS), b(), describe_portal(), FLUSHED),
        step(close_portal(), SYNC),
        flushed("E", parse("", "SELECT nope"), b(), describe_portal(), FLUSHED),
        step(SYNC),
        flushed("E", parse_refused("", "DELETE FROM orders"), b(), describe_portal(), FLUSHED),
        step(SYNC),
        simple("SELECT 1"),
    ),
    talk(
        "postgres.js parses and describes with a Flush and binds with a Sync",
        flushed("1tT", parse("p1", ORDERS), describe_statement("p1"), FLUSHED),
        step(b("p1", "2"), e(), SYNC),
        step(b("p1", "3"), e(), SYNC),
        flushed("1tn", parse("p2", "BEGIN"), describe_statement("p2"), FLUSHED),
        step(b("p2"), e(), SYNC),
        step(b("p1", "3"), e(), SYNC),
        simple("COMMIT"),
    ),
    talk(
        "tokio-postgres pipelines groups without waiting",
        step(parse("s0", ORDERS), describe_statement("s0"), SYNC),
        step(b("s0", "2", binary=True), e(), SYNC, b("s0", "3", binary=True), e(), SYNC),
        step(
            parse("s1", "SELECT 1"),
            describe_statement("s1"),
            SYNC,
            b("s0", "1"),
            e(),
            SYNC,
            q("BEGIN"),
            b("s1"),
            e(),
            SYNC,
            q("COMMIT"),
            close_statement("s1"),
            SYNC,
            b("s0", "2"),
            e(),
            SYNC,
        ),
        step(close_statement("s0"), SYNC),
        step(b("s1"), e(), SYNC),
    ),
    talk(
        "tokio-postgres reads by a portal",
        step(q("BEGIN")),
        step(parse("s0", ROWS), describe_statement("s0"), SYNC),
        step(b("s0", portal="p1"), SYNC),
        step(e("p1", 2), SYNC),
        step(e("p1", 9), SYNC),
        step(close_portal("p1"), SYNC),
        step(q("ROLLBACK"), close_statement("s0"), SYNC),
    ),
    talk(
        "pgx keeps a cache of described statements",
        step(parse("stmtcache_1", ORDERS), describe_statement("stmtcache_1"), SYNC),
        step(b("stmtcache_1", "2", binary=True), describe_portal(), e(), SYNC),
        step(q("begin")),
        step(b("stmtcache_1", "3", binary=True), describe_portal(), e(), SYNC),
        step(parse("stmtcache_2", "SELECT nope"), describe_statement("stmtcache_2"), SYNC),
        step(q("rollback")),
        step(close_statement("stmtcache_1"), SYNC),
        step(parse("stmtcache_1", ORDERS), describe_statement("stmtcache_1"), SYNC),
        step(b("stmtcache_1", "2"), describe_portal(), e(), b("stmtcache_1", "3"), describe_portal(), e(), SYNC),
    ),
    talk(
        "pgx sends a batch of statements that it parses and describes first",
        step(*((parse(f"b{n}", f"SELECT {n}, $1::int"), describe_statement(f"b{n}")) for n in range(9)), SYNC),
        step(*(run(f"b{n}", "1") for n in range(9)), SYNC),
        step(q("deallocate b1; deallocate b2")),
        step(run("b0", "1"), run("b1", "1"), run("b3", "1"), SYNC),
    ),
    talk(
        "lib/pq parses without a name and describes and runs",
        step(parse("", ORDERS), describe_statement(), SYNC),
        step(b("", "2"), e(), SYNC),
        step(parse("1", ORDERS), describe_statement("1"), SYNC),
        step(b("1", "2"), e(), SYNC),
        step(close_statement("1"), SYNC),
        simple(";"),
    ),
    talk(
        "Rails configures its connection and prepares by short names",
        simple(
            "SET client_min_messages TO 'warning'",
            "SET standard_conforming_strings = on",
            "SET SESSION timezone TO 'UTC'",
        ),
        step(parse("a1", ORDERS), SYNC),
        step(run("a1", "2"), SYNC),
        simple("BEGIN"),
        step(run("a1", "3"), SYNC),
        simple("SAVEPOINT active_record_1", "SELECT nope", "ROLLBACK TO SAVEPOINT active_record_1", "COMMIT"),
        simple("DEALLOCATE a1", ";"),
        step(parse("a1", "SELECT 2"), run("a1"), SYNC),
        simple("DISCARD ALL"),
        step(run("a1"), SYNC),
    ),
    talk(
        "PDO deallocates in a Query",
        step(parse("pdo_stmt_00000001", ORDERS), SYNC),
        step(b("pdo_stmt_00000001", "2"), describe_portal(), e(), SYNC),
        simple("DEALLOCATE pdo_stmt_00000001"),
        step(parse("pdo_stmt_00000002", "SELECT nope"), SYNC),
        simple("DEALLOCATE pdo_stmt_00000002"),
        step(parse("pdo_stmt_00000003", ORDERS), SYNC),
        step(b("pdo_stmt_00000003", "2"), describe_portal(), e(), SYNC),
    ),
    talk(
        "libpq prepares and describes and executes",
        step(parse("mine", ORDERS, 23), SYNC),
        step(describe_statement("mine"), SYNC),
        step(run("mine", "2"), SYNC),
        step(parse("mine", ORDERS, 23), SYNC),
        step(describe_portal("nope"), SYNC),
    ),
    talk(
        "Django reads by a cursor WITH HOLD outside a transaction",
        step(
            q('DECLARE "_django_curs_1" NO SCROLL CURSOR WITH HOLD FOR SELECT id FROM orders ORDER BY id LIMIT 5'),
            holds=True,
        ),
        step(q('FETCH FORWARD 2 FROM "_django_curs_1"'), holds=True),
        step(ask("SELECT $1::int", "1"), SYNC, holds=True),
        step(q('FETCH FORWARD 9 FROM "_django_curs_1"'), holds=True),
        step(q('CLOSE "_django_curs_1"')),
        step(ask("SELECT $1::int", "1"), SYNC),
    ),
    talk(
        "psqlODBC wraps statements in savepoints in one string",
        simple("BEGIN;SELECT 1"),
        step(odbc("SELECT 2")),
        step(odbc("SELECT 1/0")),
        step(q("ROLLBACK TO _EXEC_SVP_0x55;RELEASE _EXEC_SVP_0x55")),
        step(odbc("SELECT 3")),
        simple(
            "COMMIT",
            'BEGIN;declare "SQL_CUR0x55" cursor with hold for SELECT id FROM orders LIMIT 0;fetch 100 in "SQL_CUR0x55"',
            'close "SQL_CUR0x55"',
            "COMMIT",
        ),
    ),
    talk(
        "SQLAlchemy asks and rolls back",
        simple(
            "BEGIN",
            "select pg_catalog.version() IS NULL",
            "select current_schema()",
            "show standard_conforming_strings",
            "ROLLBACK",
        ),
        step(q("BEGIN")),
        step(ask(ORDERS, "2", name="__asyncpg_stmt_1__"), SYNC),
        simple("ROLLBACK", "ROLLBACK", "BEGIN", "COMMIT"),
        step(run("__asyncpg_stmt_1__", "2"), SYNC),
    ),
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", TALKS, ids=str)
def test_drivers(played: Talk, way: Way, same: Callable[[Talk, Way], None]) -> None:
    same(played, way)


def test_pgx_prepares_more_parameters_than_a_Bind_can_give(same: Callable[[Talk, Way], None]) -> None:  # noqa: N802
    """PostgreSQL describes all of them; a Bind of none fails, and the connection goes on."""
    text = f"SELECT 1 WHERE 1 IN ({', '.join(f'${number}' for number in range(1, 0x10001))})"
    played = talk(
        "more parameters than a Bind can give",
        step(parse("ps1", text), describe_statement("ps1"), SYNC),
        step(b("ps1"), e(), SYNC),
        step(q("SELECT 1")),
    )
    same(played, Way(1, by_byte=False, protocol=PROTOCOL_3_0))

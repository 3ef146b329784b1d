"""Catalogues that cannot be read, or not wholly: locks, bytes that are no UTF-8, what only the server knows."""

from __future__ import annotations

import json
import secrets
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.proofs import rows
from tests import servers
from tests.running import SideCart, wait_until
from tests.wire import Wire

PASSWORD = secrets.token_urlsafe(18)

OBJECTS = """
CREATE TABLE t (a int, b text);
CREATE TABLE journal (a int);
INSERT INTO t VALUES (1, 'x');
CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO journal VALUES (1); RETURN 1; END $$;
CREATE VIEW reads AS SELECT a, lower(b) FROM t;
CREATE VIEW writing AS SELECT writes() FROM t;
CREATE VIEW nested AS SELECT * FROM writing;
CREATE VIEW unlinking AS SELECT lo_unlink(a) FROM t;
CREATE VIEW other AS SELECT 1 AS one;
CREATE FUNCTION adds(text, text) RETURNS int LANGUAGE sql AS 'SELECT writes()';
CREATE OPERATOR + (LEFTARG = text, RIGHTARG = text, FUNCTION = adds);
CREATE DOMAIN checked AS int CHECK (writes() > 0);
"""


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        found.sql(f"CREATE ROLE unread_reader LOGIN PASSWORD '{PASSWORD}'")
        yield found
        found.sql("DROP ROLE unread_reader")


@pytest.fixture
def make(server: EmbeddedServer) -> Iterator[Callable[[str], Upstream]]:
    """Return a function that makes a database by what stands behind its name in CREATE DATABASE."""
    made = []

    def create(how: str = "") -> Upstream:
        name = f"unread_{secrets.token_hex(4)}"
        server.sql(f"CREATE DATABASE {name} {how}")
        made.append(name)
        return Upstream(
            host=server.host,
            port=server.port,
            dbname=name,
            user="unread_reader",
            password=PASSWORD,
            sslrootcert=str(server.ca_file),
        )

    yield create
    server.sql("ALTER ROLE unread_reader RESET ALL")
    for name in made:
        server.sql(f"DROP DATABASE {name} (FORCE)")


@pytest.fixture
def database(make: Callable[[str], Upstream], server: EmbeddedServer) -> Upstream:
    upstream = make("")
    server.sql(OBJECTS + "GRANT SELECT ON ALL TABLES IN SCHEMA public TO unread_reader", upstream.dbname)
    return upstream


def rule(client: Wire, sql: str) -> str:
    """Return the rule that refuses a statement, or the server's SQLSTATE; empty where it is answered."""
    if client.ask(sql).endswith("CZ"):
        return ""
    return client.error.get("D", client.error["C"]).rpartition("(rule: ")[2].partition(")")[0]


def ready(own: SideCart) -> tuple[int, str]:
    try:
        return 200, json.loads(own.get("/readyz"))["failing"].get(own.database, "")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["failing"].get(own.database, "")


def missing(own: SideCart) -> float:
    return own.metric(f'sidecart_catalog_missing{{database="{own.database}"}}')


def test_lock_on_a_table_while_sidecart_starts_hides_nothing(database: Upstream, server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn(database.dbname)) as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with SideCart(database) as own, Wire(own.port, database.dbname) as client:
            wait_until(lambda: missing(own) == 0, 30, "the catalogue")
            assert rule(client, "SELECT one FROM other") == ""
            assert rule(client, "SELECT * FROM writing") == "unproved-relation"
            assert rule(client, "SELECT * FROM nested") == "unproved-relation"
            assert rule(client, "SELECT * FROM unlinking") == "unproved-relation"
            assert rule(client, "SELECT 'a'::text + 'b'::text") == "unproved-operator"
            assert rule(client, "SELECT 1::checked") == "unproved-type"
            assert missing(own) == 0
            assert own.metric(f'sidecart_catalog_unprinted{{database="{own.database}"}}') >= 3
            other.rollback()
            assert rule(client, "SELECT * FROM reads") == ""
            wait_until(
                lambda: own.metric(f'sidecart_catalog_unprinted{{database="{own.database}"}}') == 0, 30, "a reading"
            )
            assert rule(client, "SELECT * FROM reads") == ""
            assert rule(client, "SELECT * FROM writing") == "unproved-relation"


def test_lock_that_is_waited_for_keeps_no_reading_waiting(database: Upstream, server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn(database.dbname)) as first, psycopg.connect(server.dsn(database.dbname)) as second:
        first.execute("SELECT * FROM t")
        second.execute("SET lock_timeout = '20s'")
        second.pgconn.send_query(b"LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        with SideCart(database) as own, Wire(own.port, database.dbname) as client:
            wait_until(lambda: missing(own) == 0, 30, "the catalogue")
            assert rule(client, "SELECT one FROM other") == ""
            assert rule(client, "SELECT * FROM writing") == "unproved-relation"
            assert own.metric('sidecart_catalog_loads_total{outcome="failed"}') == 0
        first.rollback()
        while second.pgconn.get_result() is not None:
            pass


def test_catalogue_that_cannot_be_read_lets_through_what_needs_none(database: Upstream, server: EmbeddedServer) -> None:
    server.sql("REVOKE EXECUTE ON FUNCTION pg_get_viewdef(oid) FROM PUBLIC", database.dbname)
    with SideCart(database) as own, Wire(own.port, database.dbname) as client:
        wait_until(lambda: "catalogue not loaded" in own.log, 30, "the failure")
        for sql in ("SELECT 1", "SHOW server_version", "BEGIN", "COMMIT", "SELECT version()", "SET datestyle = 'ISO'"):
            assert rule(client, sql) == ""
        for sql in ("SELECT * FROM writing", "SELECT one FROM other", "SELECT 'a'::text + 'b'::text"):
            assert rule(client, sql) == "no-catalogue"
            assert client.error["C"] == "57P03"
            assert "SQLSTATE 42501" in client.error["D"]
        assert client.ask("SELECT '1'::checked") == "EZ"
        assert client.ask("DELETE FROM t") == "EZ"
        assert int(server.sql("SELECT count(*) FROM journal", database.dbname)) == 0
        assert missing(own) == 1
        status, why = ready(own)
        assert status == 503
        assert "SQLSTATE 42501" in why
        assert "catalogue not loaded" in own.log
        server.sql("GRANT EXECUTE ON FUNCTION pg_get_viewdef(oid) TO PUBLIC", database.dbname)
        wait_until(lambda: missing(own) == 0, 30, "the catalogue")
        assert ready(own) == (200, "")
        assert rule(client, "SELECT one FROM other") == ""
        assert rule(client, "SELECT * FROM writing") == "unproved-relation"


def test_bytes_that_are_no_utf_8_spoil_no_reading(make: Callable[[str], Upstream], server: EmbeddedServer) -> None:
    upstream = make("ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    with psycopg.connect(server.dsn(upstream.dbname), autocommit=True, client_encoding="SQL_ASCII") as owner:
        owner.execute(OBJECTS.encode())
        owner.execute(b"CREATE VIEW broken AS SELECT 'caf\xe9'::text AS \"caf\xe9\", writes()")
        owner.execute(b"CREATE VIEW \"caf\xe9\" AS SELECT 'caf\xe9'::text AS x")
        owner.execute(b"CREATE FUNCTION \"caf\xe9\"(t) RETURNS int LANGUAGE sql AS 'SELECT writes()'")
        owner.execute(b"GRANT SELECT ON ALL TABLES IN SCHEMA public TO unread_reader")
    with SideCart(upstream) as own, Wire(own.port, upstream.dbname) as client:
        wait_until(lambda: missing(own) == 0, 30, "the catalogue")
        assert rule(client, "SELECT one FROM other") == ""
        assert rule(client, "SELECT * FROM broken") == "unproved-relation"
        assert rule(client, "SELECT * FROM writing") == "unproved-relation"
        assert client.ask("SET client_encoding = 'SQL_ASCII'").endswith("Z")
        # x.f is f(x), and its bytes are those of a function here.
        assert client.send(p.query(b"SELECT t.caf\xe9 FROM t")).until_ready() == "EZ"
        # In a comment they name nothing.
        assert client.send(p.query(b"SELECT t.b FROM t -- \xe9")).until_ready().endswith("CZ")
        assert client.ask("SELECT t.b FROM t").endswith("CZ")
        assert int(server.sql("SELECT count(*) FROM journal", upstream.dbname)) == 0


def test_replaced_function_is_seen_within_seconds(database: Upstream, server: EmbeddedServer) -> None:
    replaced = "CREATE OR REPLACE FUNCTION pure() RETURNS int LANGUAGE plpgsql AS 'BEGIN {} RETURN 1; END'"
    server.sql(replaced.format(""), database.dbname)
    with SideCart(database) as own, Wire(own.port, database.dbname) as client:
        assert rule(client, "SELECT pure()") == ""
        loads = own.metric('sidecart_catalog_loads_total{outcome="changed"}')
        server.sql(replaced.format("INSERT INTO journal VALUES (1);"), database.dbname)
        wait_until(lambda: rule(client, "SELECT pure()") == "unproved-function", 20, "a refusal")
        assert own.metric('sidecart_catalog_loads_total{outcome="changed"}') == loads + 1


CHANGES = (
    "CREATE FUNCTION n() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "DROP FUNCTION adds(text, text) CASCADE",
    "ALTER FUNCTION writes() STABLE",
    "CREATE OR REPLACE VIEW other AS SELECT writes() AS one",
    "CREATE OR REPLACE VIEW other AS SELECT 2 AS one",
    "ALTER VIEW other RENAME COLUMN one TO two",
    "ALTER TABLE t RENAME COLUMN b TO c",
    "ALTER TABLE t DROP COLUMN c CASCADE",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY p ON t USING (true)",
    "CREATE INDEX ON t ((a + 1))",
    "ALTER TABLE t ADD CHECK (a > 0)",
    "ALTER DOMAIN checked ADD CHECK (value > 0)",
    "ALTER DOMAIN checked DROP CONSTRAINT checked_check",
    "CREATE CAST (int AS checked) WITH INOUT",
    "CREATE SCHEMA extra",
    "ALTER SCHEMA extra RENAME TO more",
    "CREATE AGGREGATE agg(int) (sfunc = int4pl, stype = int)",
    "CREATE TABLE heir () INHERITS (t)",
    "ALTER TABLE t ADD COLUMN d int",
)


def test_state_changes_with_everything_that_is_read(database: Upstream, server: EmbeddedServer) -> None:
    def state(connection: psycopg.Connection[tuple[str, ...]], since: str) -> tuple[object, ...]:
        query = rows.state_query(since).decode()
        cursor = connection.execute(query)
        while cursor.statusmessage is None or not cursor.statusmessage.startswith("SELECT"):
            assert cursor.nextset()
        (row,) = cursor.fetchall()
        return tuple(row)

    with psycopg.connect(server.dsn(database.dbname), autocommit=True) as reader:
        (row,) = reader.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text").fetchall()
        since = row[0]
        before = state(reader, since)
        for change in CHANGES:
            with psycopg.connect(server.dsn(database.dbname)) as writer:
                writer.execute(change)
                assert state(reader, since) == before, f"{change} is not committed"
            after = state(reader, since)
            assert after != before, change
            before = after
        with psycopg.connect(server.dsn(database.dbname)) as passing:
            passing.execute("CREATE TEMPORARY TABLE passing (a int PRIMARY KEY, b text DEFAULT 'x')")
            passing.commit()
            assert state(reader, since) == before
        # One that began before the state was taken, and commits behind a later one.
        with psycopg.connect(server.dsn(database.dbname)) as late:
            late.execute("CREATE FUNCTION late() RETURNS int LANGUAGE sql AS 'SELECT 1'")
            reader.execute("CREATE FUNCTION early() RETURNS int LANGUAGE sql AS 'SELECT 1'")
            (row,) = reader.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::xid::text").fetchall()
            since = row[0]
            before = state(reader, since)
            late.commit()
            assert state(reader, since) != before


def test_connection_that_the_server_ends_is_replaced(database: Upstream, server: EmbeddedServer) -> None:
    with SideCart(replace(database, application_name=""), SIDECART_FILTER_CATALOG_REFRESH="1h") as own:
        with Wire(own.port, database.dbname) as client:
            assert client.ask("SELECT 1") == "TDCZ"
            seen = own.metric('sidecart_catalog_loads_total{outcome="unchanged"}')
            wait_until(
                lambda: own.metric('sidecart_catalog_loads_total{outcome="unchanged"}') > seen, 20, "the first look"
            )
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'unread_reader'")
        seen = own.metric('sidecart_catalog_loads_total{outcome="unchanged"}')
        wait_until(lambda: own.metric('sidecart_catalog_loads_total{outcome="unchanged"}') > seen, 20, "another look")
        assert own.metric('sidecart_catalog_loads_total{outcome="failed"}') == 0

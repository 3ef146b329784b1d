"""Functions that run what they are given by name, by OID or as text, and what shows one client another's statements."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.filter import Filter, Policy
from proxy.operating import catalogue
from proxy.proofs.prove import prove
from proxy.sql import tables
from proxy.sql.verdict import Action, Verdict
from tests import servers
from tests.running import SideCart, wait_until

TABLES = """
CREATE TABLE log (x int);
CREATE TABLE honest (x int PRIMARY KEY) PARTITION BY RANGE (x);
CREATE TABLE honest_part PARTITION OF honest FOR VALUES FROM (0) TO (10);
CREATE TABLE hashed (x int) PARTITION BY HASH (x);
CREATE EXTENSION amcheck;
CREATE EXTENSION dblink;
"""

WRITER = """
CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.log VALUES (1); RETURN 1; END $$;
"""
WRITERS = f"""{WRITER}
-- What is declared IMMUTABLE may not write, and what it calls may.
CREATE FUNCTION lies(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM public.writes(); RETURN $1; END $$;
CREATE FUNCTION hashes(int, bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN PERFORM public.writes(); RETURN 1; END $$;
CREATE VIEW writing AS SELECT writes() AS a, 2 AS b;
CREATE TABLE keyed (x int) PARTITION BY RANGE ((x + lies(1)));
CREATE TABLE keyed_part PARTITION OF keyed FOR VALUES FROM (0) TO (10);
CREATE OPERATOR === (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR CLASS lying FOR TYPE int USING hash AS OPERATOR 1 ===, FUNCTION 2 hashes(int, bigint);
CREATE TABLE lying_hashed (x int) PARTITION BY HASH (x lying);
CREATE TABLE indexed (x int);
CREATE INDEX indexed_x ON indexed ((x + lies(2)));
INSERT INTO indexed VALUES (1);
"""

HONEST = (
    "SELECT pg_get_partition_constraintdef('honest_part'::regclass)",
    "SELECT satisfies_hash_partition('hashed'::regclass, 2, 0, 3)",
    "SELECT bt_index_check('honest_part_pkey')",
    "SELECT bt_index_check('honest_part_pkey', true)",
    "SELECT dblink_get_pkey('honest_part')",
    "SELECT pg_get_partkeydef('honest'::regclass), pg_get_indexdef('honest_part_pkey'::regclass)",
)
RUN_BY_NAME = (
    "SELECT pg_get_partition_constraintdef('keyed_part'::regclass)",
    "SELECT pg_get_partition_constraintdef(oid) FROM pg_class WHERE relname = 'keyed_part'",
    "SELECT satisfies_hash_partition('lying_hashed'::regclass, 2, 0, 3)",
    "SELECT bt_index_check('indexed_x', true)",
    "SELECT dblink_build_sql_insert('writing', '2', 1, '{2}', '{2}')",
    "SELECT dblink_build_sql_update('writing', '2', 1, '{2}', '{2}')",
    "SELECT table_to_xml('writing', true, false, '')",
    "SELECT schema_to_xml('public', true, false, '')",
)


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        yield found


def learn(server: EmbeddedServer, dbname: str) -> Filter:
    rows = catalogue.load(server.dsn(dbname))
    judge = Filter(Policy(server_version=rows.version))
    judge.learn_catalog(prove(rows, judge.policy))
    return judge


def writes(server: EmbeddedServer, sql: str, dbname: str) -> bool:
    """Ask the server, in a transaction that may write and is rolled back."""
    said = server.sql(f"BEGIN; {sql}; SELECT 'rows: ' || count(*) FROM log; ROLLBACK", dbname)
    return not said.strip().endswith("rows: 0")


def test_what_is_run_by_its_name_is_judged(server: EmbeddedServer) -> None:
    server.sql("CREATE DATABASE by_name TEMPLATE template0")
    server.sql(TABLES, "by_name")
    judge = learn(server, "by_name")
    for sql in HONEST:
        assert judge.judge(sql.encode()).action is Action.ALLOW, sql
    server.sql(WRITERS + "; TRUNCATE log", "by_name")
    judge = learn(server, "by_name")
    for sql in RUN_BY_NAME:
        assert writes(server, sql, "by_name"), f"no attack: {sql}"
        verdict: Verdict = judge.judge(sql.encode())
        assert verdict.action is Action.REFUSE, sql
        assert verdict.rule not in ("internal", "syntax"), sql
    assert judge.judge(HONEST[-1].encode()).action is Action.ALLOW


def test_every_text_of_a_route_is_judged(postgres: EmbeddedServer) -> None:
    """pgr_dijkstra(edges, combinations) runs both."""
    if not postgres.sql("SELECT 1 FROM pg_available_extensions WHERE name = 'pgrouting'"):
        pytest.skip("this server has no pgrouting")
    postgres.sql("CREATE DATABASE routes TEMPLATE template0")
    postgres.sql("CREATE EXTENSION pgrouting CASCADE; CREATE TABLE log (x int);", "routes")
    postgres.sql(WRITER, "routes")
    judge = learn(postgres, "routes")
    edges = "'SELECT 1 AS id, 1 AS source, 2 AS target, 1.0::float8 AS cost'"
    evil = "'SELECT writes() AS source, 2 AS target'"
    for sql in (f"pgr_dijkstra({edges}, {evil})", f"pgr_bddijkstracost({edges}, {evil}, true)"):
        assert writes(postgres, f"SELECT * FROM {sql}", "routes"), f"no attack: {sql}"
        assert judge.judge(f"SELECT * FROM {sql}".encode()).rule == "sql-text-function", sql
    for sql in (
        f"pgr_dijkstra({edges}, 1, 2)",
        f"pgr_dijkstra({edges}, {edges}, true)",
        f"pgr_dijkstra({edges}, ARRAY[1, 2], 3, false)",
        f"pgr_kruskal({edges})",
    ):
        verdict = judge.judge(f"SELECT * FROM {sql}".encode())
        assert verdict.action is Action.ALLOW, verdict


def test_a_policy_on_what_postgis_looks_up(postgres: EmbeddedServer) -> None:
    """st_transform() reads spatial_ref_sys, whose owner can let a policy call what he likes."""
    if not postgres.sql("SELECT 1 FROM pg_available_extensions WHERE name = 'postgis'"):
        pytest.skip("this server has no postgis")
    postgres.sql("CREATE DATABASE maps TEMPLATE template0")
    postgres.sql("CREATE EXTENSION postgis; CREATE TABLE log (x int);", "maps")
    sql = "SELECT st_astext(st_transform('SRID=4326;POINT(1 2)'::geometry, 3857))"
    assert learn(postgres, "maps").judge(sql.encode()).action is Action.ALLOW
    postgres.sql(
        f"{WRITER} CREATE POLICY p ON spatial_ref_sys USING (writes() > 0);"
        " ALTER TABLE spatial_ref_sys ENABLE ROW LEVEL SECURITY",
        "maps",
    )
    verdict = learn(postgres, "maps").judge(sql.encode())
    assert verdict.action is Action.REFUSE
    assert "it runs what the extension postgis looks up, which leads to function public.writes()" in verdict.detail


def test_an_operator_that_postgis_runs_in_sql_of_its_own(postgres: EmbeddedServer) -> None:
    """st_asgml() joins auth_name to ':' in SQL without a schema: anybody's `||` for two varchar runs."""
    if not postgres.sql("SELECT 1 FROM pg_available_extensions WHERE name = 'postgis'"):
        pytest.skip("this server has no postgis")
    sql = "SELECT st_asgml(3, 'SRID=4326;POINT(1 2)'::geometry)"
    postgres.sql("CREATE DATABASE joining TEMPLATE template0")
    postgres.sql("CREATE EXTENSION postgis", "joining")
    assert learn(postgres, "joining").judge(sql.encode()).action is Action.ALLOW
    postgres.sql(
        "CREATE FUNCTION joined(varchar, varchar) RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_notify('x', ''); RAISE EXCEPTION 'HOSTILE'; END $$;"
        " CREATE OPERATOR || (FUNCTION = joined, LEFTARG = varchar, RIGHTARG = varchar)",
        "joining",
    )
    with pytest.raises(EmbeddedError, match="HOSTILE"):
        postgres.sql(sql, "joining")
    assert learn(postgres, "joining").judge(sql.encode()).action is Action.REFUSE


SECRET = "what the other client is after"
VIEWS = """
CREATE VIEW spying AS SELECT name, statement FROM pg_prepared_statements;
CREATE FUNCTION spies() RETURNS SETOF text LANGUAGE sql AS 'SELECT statement FROM pg_prepared_statement()';
CREATE FUNCTION spies_too() RETURNS text LANGUAGE plpgsql STABLE AS $$
    BEGIN RETURN string_agg(statement, ' ') FROM pg_prepared_statements; END $$;
CREATE FUNCTION finds_out() RETURNS text LANGUAGE plpgsql STABLE AS $$
    DECLARE found text;
    BEGIN SELECT string_agg(t::text, ' ') INTO found FROM pg_prepared_statements t; RETURN found; END $$;
CREATE VIEW remembering AS SELECT m::text FROM pg_backend_memory_contexts m;
"""


def test_no_client_sees_what_another_one_has_prepared(postgres: EmbeddedServer, upstream: Upstream) -> None:
    """Two clients on one upstream, whose role may look at all that a monitor may."""
    password = secrets.token_urlsafe(18)
    fourteen = int(postgres.version.split(".")[0]) >= 14
    postgres.sql(f"CREATE ROLE watcher LOGIN PASSWORD '{password}' IN ROLE pg_monitor")
    postgres.sql("CREATE DATABASE watched TEMPLATE template0")
    postgres.sql(VIEWS if fourteen else VIEWS.partition("CREATE VIEW remembering")[0], "watched")
    granted = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO watcher"
    postgres.sql(f"GRANT CONNECT ON DATABASE watched TO watcher; {granted}", "watched")
    listing = [
        "SELECT * FROM pg_prepared_statements",
        "SELECT pg_prepared_statement()",
        "SELECT query_to_xml('table pg_prepared_statements', true, false, '')",
        "SELECT table_to_xml('pg_prepared_statements', true, false, '')",
        "SELECT table_to_xml('pg_catalog.pg_prepared_statements'::regclass, true, false, '')",
        "COPY (SELECT * FROM pg_prepared_statements) TO STDOUT",
        "SELECT * FROM pg_cursors",
        "SELECT table_to_xml('pg_cursors', true, false, '')",
        "WITH x AS MATERIALIZED (TABLE pg_prepared_statements) SELECT * FROM x",
        "SELECT (SELECT string_agg(p::text, ' ') FROM pg_prepared_statements p)",
    ]
    refused = [
        "SELECT * FROM spying",
        "SELECT spies()",
        "SELECT spies_too()",
        "SELECT finds_out()",
        "SELECT table_to_xml('spying', true, false, '')",
        "SELECT table_to_xml(oid, true, false, '') FROM pg_class WHERE relname = 'pg_prepared_statements'",
        "SELECT schema_to_xml('pg_catalog', true, false, '')",
        "SELECT schema_to_xml(nspname, true, false, '') FROM pg_namespace",
        "SELECT schema_to_xml('public', true, false, '')",
        "SELECT database_to_xml(true, false, '')",
        *("SELECT * FROM pg_backend_memory_contexts", "SELECT * FROM remembering"),
        *("SELECT pg_get_backend_memory_contexts()", "TABLE pg_catalog.pg_backend_memory_contexts"),
    ]
    watched = replace(upstream, dbname="watched", user="watcher", password=password)
    one = {"SIDECART_POOL_DEFAULT_POOL_SIZE": 1, "SIDECART_POOL_MIN_POOL_SIZE": 1}
    with SideCart(watched, **one) as own:
        wait_until(lambda: "catalogue loaded" in own.log, 20, "the first catalogue")
        with (
            psycopg.connect(own.dsn, autocommit=True) as other,
            psycopg.connect(own.dsn, autocommit=True) as spy,
        ):
            pid = other.execute("SELECT pg_backend_pid()").fetchone()
            assert spy.execute("SELECT pg_backend_pid()").fetchone() == pid
            for sql in listing:
                for prepare in (False, True):
                    other.execute(f"SELECT '{SECRET}'", prepare=True)  # it stays on the upstream
                    assert SECRET not in answer(spy, sql, prepare=prepare), sql
            for sql in refused:
                other.execute(f"SELECT '{SECRET}'", prepare=True)
                with pytest.raises(psycopg.Error) as caught:
                    answer(spy, sql)
                assert SECRET not in str(caught.value)
                assert caught.value.sqlstate in ("42501", "42P01"), sql
            with spy.transaction():
                spy.execute("DECLARE c CURSOR FOR TABLE pg_prepared_statements")
                assert SECRET not in str(spy.execute("FETCH ALL FROM c").fetchall())


def answer(connection: psycopg.Connection[tuple[object, ...]], sql: str, *, prepare: bool = False) -> str:
    if sql.startswith("COPY"):
        with connection.cursor() as cursor, cursor.copy(sql.encode()) as copy:
            return " ".join(str(bytes(block)) for block in copy)
    return str(connection.execute(sql.encode(), prepare=prepare).fetchall())


def test_a_function_of_a_newer_server_is_unknown_to_this_version(
    postgres: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What bears the name of a built-in function that no table knows is never the one that is called."""
    postgres.sql("CREATE DATABASE newer TEMPLATE template0")
    postgres.sql("CREATE FUNCTION public.pg_size_pretty(bigint) RETURNS text LANGUAGE sql AS 'SELECT 1'", "newer")
    assert learn(postgres, "newer").judge(b"SELECT pg_size_pretty(1)").action is Action.ALLOW
    monkeypatch.delitem(tables.FUNCTIONS, "pg_size_pretty")
    judge = learn(postgres, "newer")
    for sql in ("SELECT pg_size_pretty(1)", "SELECT pg_catalog.pg_size_pretty(1)", "SELECT (1::int8).pg_size_pretty"):
        verdict = judge.judge(sql.encode())
        assert verdict.rule == "unknown-built-in", sql
        assert "unknown to this version of SideCart" in verdict.detail
    assert judge.judge(b"SELECT public.pg_size_pretty(1)").action is Action.ALLOW

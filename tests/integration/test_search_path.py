"""Sessions that begin with a search_path that puts other schemas before pg_catalog: names mean other things then."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.running import SideCart, wait_until
from tests.wire import Wire

PASSWORD = secrets.token_urlsafe(18)
OBJECTS = """
CREATE TABLE journal (a int);
GRANT ALL ON journal TO PUBLIC;
CREATE FUNCTION writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO journal VALUES (1); RETURN 1; END $$;
CREATE FUNCTION lower(text) RETURNS text LANGUAGE sql AS 'SELECT writes()::text';
CREATE FUNCTION now() RETURNS timestamptz LANGUAGE sql AS 'SELECT writes(); SELECT pg_catalog.now()';
CREATE FUNCTION calls_lower(text) RETURNS text LANGUAGE sql AS 'SELECT lower(''ABC'')';
CREATE FUNCTION declares() RETURNS int LANGUAGE plpgsql AS 'DECLARE d date := NULL; BEGIN RETURN 1; END';
CREATE DOMAIN date AS pg_catalog.date CHECK (writes() > 0);
CREATE DOMAIN time AS text;
CREATE FUNCTION adds(text, text) RETURNS int LANGUAGE sql AS 'SELECT writes()';
CREATE OPERATOR + (LEFTARG = text, RIGHTARG = text, FUNCTION = adds);
CREATE VIEW pg_class AS SELECT writes() AS oid;
CREATE VIEW harmless AS SELECT pg_catalog.lower('X') AS x;
"""

ATTACKS = (
    "SELECT lower('ABC')",
    "SELECT now()",
    "SELECT calls_lower('x')",
    "SELECT '2020-01-01'::date",
    "SELECT date '2020-01-01'",
    "SELECT NULL::date",
    "SELECT declares()",
    "SELECT 'a'::time + 'b'",
    "SELECT 1::int4 + 1 FROM pg_class",
    "TABLE pg_class",
    "SELECT * FROM json_to_record('{}') AS x (d date)",
    "PREPARE p (date) AS SELECT $1",
)
"""What runs writes() where public comes first."""
HONEST = (
    "SELECT pg_catalog.lower('ABC')",
    "SELECT upper('abc')",
    "SELECT '2020-01-01'::pg_catalog.date",
    "SELECT 2 * 3, 'a' || 'b'",
    "SELECT count(*) FROM pg_catalog.pg_class",
    "SELECT * FROM harmless",
    "SELECT current_date, trim('x')",
)


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        found.sql(f"CREATE ROLE path_reader LOGIN PASSWORD '{PASSWORD}'")
        yield found
        found.sql("DROP ROLE path_reader")


@pytest.fixture(scope="module")
def place(server: EmbeddedServer) -> Iterator[Upstream]:
    server.sql("CREATE DATABASE paths")
    server.sql(OBJECTS, "paths")
    server.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO path_reader", "paths")
    yield Upstream(
        host=server.host,
        port=server.port,
        dbname="paths",
        user="path_reader",
        password=PASSWORD,
        sslrootcert=str(server.ca_file),
    )
    server.sql("DROP DATABASE paths (FORCE)")


@pytest.fixture
def upstream(place: Upstream, server: EmbeddedServer) -> Iterator[Upstream]:
    yield place
    server.sql("ALTER ROLE path_reader RESET ALL; ALTER DATABASE paths RESET ALL")
    server.sql("ALTER ROLE path_reader IN DATABASE paths RESET ALL")


def refused(client: Wire, sql: str) -> bool:
    """Tell whether SideCart refuses a text, and not the server."""
    return client.ask(sql).startswith("E") and "(rule: " in client.error.get("D", "")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER ROLE path_reader SET search_path = public, pg_catalog",
        "ALTER DATABASE paths SET search_path = public, pg_catalog",
        "ALTER ROLE path_reader IN DATABASE paths SET search_path = '$user', public, pg_catalog",
    ],
)
def test_names_are_judged_by_the_path_that_sessions_begin_with(
    upstream: Upstream, server: EmbeddedServer, change: str
) -> None:
    server.sql(change)
    with SideCart(upstream) as own, Wire(own.port, "paths") as client:
        for sql in ATTACKS:
            assert refused(client, sql), sql
        for sql in HONEST:
            assert client.ask(sql).endswith("CZ"), (sql, client.error)
        for again in ("RESET search_path", "RESET ALL", "DISCARD ALL", "SET search_path TO DEFAULT"):
            assert client.ask(again).endswith("CZ"), (again, client.error)
            assert refused(client, ATTACKS[0]), again
        assert int(server.sql("SELECT count(*) FROM journal", "paths")) == 0


def test_path_that_changes_while_sidecart_runs_is_noticed(upstream: Upstream, server: EmbeddedServer) -> None:
    with SideCart(upstream, SIDECART_FILTER_CATALOG_REFRESH="1s") as own, Wire(own.port, "paths") as client:
        assert client.ask("SELECT lower('ABC')") == "TDCZ"
        server.sql("ALTER ROLE path_reader SET search_path = public, pg_catalog")
        wait_until(lambda: refused(client, "SELECT lower('ABC')"), 30, "the new path")
        assert refused(client, "SELECT calls_lower('x')")
        assert client.ask("SELECT upper('abc')") == "TDCZ"


@pytest.mark.parametrize(
    "sql",
    [
        "SET search_path = public, pg_catalog",
        "SET LOCAL search_path = public, pg_catalog",
        "SET SESSION search_path TO public, 'pg_catalog'",
        "SELECT set_config('search_path', 'public, pg_catalog', false)",
        "SELECT set_config('search_path', ' \"public\" ,PG_CATALOG', true)",
        "SELECT pg_catalog.set_config('SEARCH_PATH', 'public,pg_catalog', false)",
        "SET search_path = pg_temp, public",
        "SET search_path = '$user', public, pg_temp, pg_catalog",
    ],
)
def test_client_sets_no_path_that_puts_others_before_pg_catalog(
    upstream: Upstream, sql: str, default: SideCart
) -> None:
    with Wire(default.port, "paths") as client:
        assert refused(client, sql)
        assert client.ask("SELECT lower('ABC')") == "TDCZ"


@pytest.mark.parametrize("options", ["-c search_path=public,pg_catalog", "--search-path=public,pg_catalog"])
def test_client_begins_with_no_such_path(default: SideCart, options: str) -> None:
    with Wire(default.port, "paths", login=False) as client:
        client.send(p.startup_message({"user": "analyst", "database": "paths", "options": options}))
        assert client.until_ready() == "E"
        assert client.error["D"].endswith("(rule: setting-value).")


@pytest.mark.parametrize(
    "sql",
    [
        "SET search_path = pg_catalog, public",
        "SET search_path = public",
        "SET search_path = '$user', public",
        "SET search_path = ''",
        "SET search_path = public, pg_temp",
        "SET search_path = 'public, pg_catalog'",  # one schema with that name
        'SET search_path = public, "PG_CATALOG"',
    ],
)
def test_path_with_pg_catalog_first_is_the_client_s_to_set(default: SideCart, sql: str) -> None:
    with Wire(default.port, "paths") as client:
        assert client.ask(sql) in ("CZ", "CSZ"), client.error  # from 18 on it is reported
        assert client.ask("SELECT lower('ABC'), '2020-01-01'::date") == "TDCZ"
        assert refused(client, "SELECT * FROM public.pg_class")
        assert refused(client, "SELECT '2020-01-01'::public.date")


@pytest.fixture(scope="module")
def default(place: Upstream) -> Iterator[SideCart]:
    with SideCart(place) as own:
        yield own

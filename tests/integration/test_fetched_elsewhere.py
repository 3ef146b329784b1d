"""Code that ran behind the filter's back: cursors that one path opens and another one fetches, and rows of CYCLE."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.sql.verdict import Action
from tests import servers
from tests.integration.test_reach import HOSTILE, learn, runs
from tests.integration.test_roles import OBJECTS
from tests.running import SideCart
from tests.wire import Wire, execute

_BODY = f"LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', ''); RAISE EXCEPTION '{HOSTILE}'; END $$"
_OF_OTHER = "SET search_path = other, public"
SETUP = f"""
CREATE SCHEMA other;
CREATE FUNCTION helper() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION other.helper() RETURNS int {_BODY};
CREATE FUNCTION mid() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN helper(); END';
CREATE FUNCTION fetcher(refcursor) RETURNS int LANGUAGE plpgsql {_OF_OTHER}
    AS 'DECLARE x int; BEGIN FETCH $1 INTO x; RETURN x; END';
CREATE FUNCTION mover(refcursor) RETURNS int LANGUAGE plpgsql {_OF_OTHER}
    AS 'BEGIN MOVE FORWARD ALL IN $1; RETURN 1; END';
CREATE FUNCTION fetches(refcursor) RETURNS int LANGUAGE plpgsql
    AS 'DECLARE x int; BEGIN FETCH $1 INTO x; RETURN x; END';
CREATE FUNCTION by_another(refcursor) RETURNS int LANGUAGE sql {_OF_OTHER} AS 'SELECT public.fetches($1)';
CREATE FUNCTION shower(refcursor) RETURNS xml LANGUAGE sql {_OF_OTHER}
    AS $$ SELECT cursor_to_xml($1, 3, true, true, '') $$;
CREATE FUNCTION opener() RETURNS refcursor LANGUAGE plpgsql
    AS $$ DECLARE c refcursor := 'cc'; BEGIN OPEN c FOR SELECT mid() FROM generate_series(1, 2); RETURN c; END $$;
CREATE FUNCTION within() RETURNS int LANGUAGE plpgsql
    AS $$ DECLARE c CURSOR FOR SELECT mid(); BEGIN OPEN c; RETURN fetcher(c); END $$;
CREATE FUNCTION g(int) RETURNS int LANGUAGE sql AS 'SELECT $1'; CREATE FUNCTION g(text) RETURNS int {_BODY};
CREATE FUNCTION by_one_more(refcursor) RETURNS int LANGUAGE sql {_OF_OTHER} AS 'SELECT g(1); SELECT public.fetches($1)';
CREATE FUNCTION handing_on() RETURNS int LANGUAGE plpgsql AS $$ DECLARE r record;
    BEGIN FOR r IN SELECT mid() FROM generate_series(1, 99) LOOP
    PERFORM by_one_more('<unnamed portal 1>'); END LOOP; RETURN 1; END $$;
CREATE FUNCTION looping() RETURNS int LANGUAGE plpgsql
    AS $$ DECLARE c CURSOR FOR SELECT mid() FROM generate_series(1, 99);
    BEGIN FOR r IN c LOOP PERFORM fetcher(c); END LOOP; RETURN 1; END $$;
CREATE FUNCTION looping_unnamed() RETURNS int LANGUAGE plpgsql
    AS $$ DECLARE r record; BEGIN FOR r IN SELECT mid() FROM generate_series(1, 99) LOOP
    PERFORM mover('<unnamed portal 1>'); END LOOP; RETURN 1; END $$;
"""
CURSORS = [
    "SELECT fetcher(opener())",
    "SELECT mover(opener())",
    "SELECT by_another(opener())",
    "SELECT shower(opener())",
    "SELECT within()",
    "SELECT looping()",
    "SELECT looping_unnamed()",
    "SELECT handing_on()",
    "BEGIN; SELECT opener(); SELECT fetcher('cc'); ROLLBACK",
    "BEGIN; SELECT opener(); SET LOCAL search_path = other, public; FETCH cc; ROLLBACK",
]
_Q = "WITH RECURSIVE q(n, v) AS (SELECT 1, {} FROM t UNION ALL SELECT n + 1, v FROM q WHERE n < 3)"
CYCLES = [
    f"{_Q.format('s')} CYCLE v SET c USING p SELECT n FROM q",
    f"{_Q.format('ARRAY[s]')} CYCLE v SET c USING p SELECT n FROM q",
    f"{_Q.format('ROW(s)')} CYCLE v SET c USING p SELECT n FROM q",
]


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        found.sql("CREATE DATABASE found_a; CREATE ROLE found_reader LOGIN PASSWORD 'found'")
        found.sql(OBJECTS + SETUP + "GRANT USAGE ON SCHEMA other TO PUBLIC; GRANT SELECT ON t TO PUBLIC", "found_a")
        yield found
        found.sql("DROP DATABASE found_a; DROP ROLE found_reader")


def test_attack_cursor_that_is_fetched_under_another_path(server: EmbeddedServer) -> None:
    judge = learn(server, "found_a")
    assert [text for text in CURSORS if not runs(server, text, "found_a")] == []
    assert judge.judge(b"SELECT mid()").action is Action.ALLOW
    assert [text for text in CURSORS if judge.judge(text.encode()).action is Action.ALLOW] == []


def test_attack_rows_that_cycle_compares(server: EmbeddedServer) -> None:
    if int(server.sql("SHOW server_version_num", "found_a")) < 140_000:
        pytest.skip("there is no CYCLE before PostgreSQL 14")
    judge = learn(server, "found_a")
    assert [text for text in CYCLES if not runs(server, text, "found_a")] == []
    assert [text for text in CYCLES if judge.judge(text.encode()).action is Action.ALLOW] == []
    assert judge.judge(f"{_Q.format('s')} CYCLE n SET c USING p SELECT n FROM q".encode()).action is Action.ALLOW


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Wire]:
    upstream = Upstream(
        host=server.host,
        port=server.port,
        dbname="found_a",
        user="found_reader",
        password="found",
        sslrootcert=str(server.ca_file),
    )
    with SideCart(upstream) as own, Wire(own.port, "found_a") as wire:
        yield wire


@pytest.mark.parametrize("fetch", ["SELECT fetcher('p')", "SELECT by_another('p')", "SELECT shower('p')"])
def test_attack_portal_that_a_function_fetches_under_another_path(client: Wire, fetch: str) -> None:
    bind = p.message(p.BIND, b"p\0\0" + bytes(6))
    assert client.ask("BEGIN") == "CZ"
    opened = p.parse(b"", b"SELECT mid() FROM generate_series(1, 9)") + bind + execute("p", 1) + p.SYNC_MESSAGE
    assert client.send(opened).until_ready() == "12DsZ", client.error
    client.ask(fetch)
    assert client.error.get("M") != HOSTILE
    assert client.error


@pytest.mark.parametrize(
    "steps",
    [
        ("SELECT opener()", "SELECT fetcher('cc')"),
        ("SELECT opener()", "SET LOCAL search_path = other, public", "FETCH cc"),
    ],
)
def test_attack_cursor_that_a_function_has_left_open(client: Wire, steps: tuple[str, ...]) -> None:
    client.ask("BEGIN")
    for text in steps:
        client.ask(text)
        assert client.error.get("M") != HOSTILE
    assert client.error

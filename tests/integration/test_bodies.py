"""What the body of a function calls, under the search_path that it runs with, and nothing else that bears the name.

Whatever must not run raises HOSTILE. The server alone is asked first: each attack runs such a thing, and no read does.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.sql.verdict import Action
from tests import servers
from tests.integration.test_reach import _NOTIFYING, learn, runs
from tests.running import SideCart, wait_until
from tests.wire import Wire

DATABASE = "bodies"
PASSWORD = secrets.token_urlsafe(18)
SETUP = f"""
CREATE SCHEMA other; CREATE SCHEMA safe; CREATE SCHEMA kept; CREATE SCHEMA bodies_boss;
CREATE TABLE notes (id int, note text, spy int);
INSERT INTO notes VALUES (1, 'xx', 1);
CREATE TABLE safe.list (id int); INSERT INTO safe.list VALUES (1);
CREATE TABLE list (id int); INSERT INTO list VALUES (1);
CREATE FUNCTION g(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION g(text) RETURNS int {_NOTIFYING};
CREATE FUNCTION helper(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION other.g(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE DOMAIN kind AS int; CREATE DOMAIN other.kind AS text;
CREATE FUNCTION warm() RETURNS int LANGUAGE plpgsql SET search_path = other, public AS 'BEGIN RETURN public.f(); END';
CREATE FUNCTION other.helper(int) RETURNS int {_NOTIFYING};
CREATE FUNCTION bodies_boss.helper(int) RETURNS int {_NOTIFYING};
CREATE FUNCTION only_safe() RETURNS int {_NOTIFYING};
CREATE FUNCTION safe.only_safe() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION kept.only_safe() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION safe.helper(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION mid() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN helper(1); END';
CREATE FUNCTION mid_sql() RETURNS int LANGUAGE sql AS 'SELECT helper(1)';
CREATE FUNCTION mid_of_public() RETURNS int LANGUAGE sql SET search_path = public AS 'SELECT helper(1)';
CREATE FUNCTION sets_path() RETURNS text LANGUAGE sql AS $$ SELECT set_config('search_path', 'other, public', true) $$;
CREATE VIEW mids AS SELECT mid() AS m;
CREATE VIEW bound AS SELECT g(id) AS g FROM notes;
CREATE VIEW other.list AS SELECT g('x'::text) AS id;
CREATE FUNCTION takes(notes) RETURNS int LANGUAGE sql AS 'SELECT g($1.id)';
CREATE FUNCTION spied(notes) RETURNS int {_NOTIFYING};
CREATE FUNCTION plus(int, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION plus(text, text) RETURNS int {_NOTIFYING};
CREATE OPERATOR <+> (FUNCTION = plus, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR <+> (FUNCTION = plus, LEFTARG = text, RIGHTARG = text);
CREATE DOMAIN small AS int CHECK (g(VALUE) < 100);
CREATE FUNCTION twice(void_or_not anyelement, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION nothing() RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION one_or_two(int) RETURNS int {_NOTIFYING};
CREATE FUNCTION one_or_two(int, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
GRANT USAGE ON SCHEMA public, other, kept, bodies_boss TO bodies_boss;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public, other, kept, bodies_boss TO bodies_boss;
"""
SQL = "LANGUAGE sql AS"
PLPGSQL = "LANGUAGE plpgsql AS"
DEFINER = "SECURITY DEFINER"
READS = (
    f"f(n int) RETURNS int {SQL} 'SELECT g(n)' -- SELECT f(1)",
    f"f(int) RETURNS int {SQL} 'SELECT g($1)' -- SELECT f(1)",
    f"f(n int) RETURNS int {SQL} 'SELECT g(f.n) + g(id) FROM notes' -- SELECT f(1)",
    f"f(n int) RETURNS int {PLPGSQL} 'BEGIN RETURN g(n) + g($1) + g(f.n); END' -- SELECT f(1)",
    f"f() RETURNS int {PLPGSQL} 'DECLARE k int := 1; BEGIN PERFORM g(k); RETURN g(k); END' -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} 'DECLARE k notes; BEGIN SELECT * INTO k FROM notes; RETURN g(k.id); END' -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} 'DECLARE a int[]; s int := 0; BEGIN a[g(1)] := 2; FOR i IN 1..2 LOOP s := s + g(i);"
    " END LOOP; RETURN s; END' -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} $$ <<b>> DECLARE k int := 1; BEGIN RETURN g(b.k); END $$ -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} 'BEGIN RETURN helper(1); END' -- SELECT f()",
    f"f() RETURNS int {SQL} 'SELECT helper(1)' -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} 'DECLARE r record; n int := 0; BEGIN FOR r IN SELECT id, note FROM notes LOOP"
    " n := n + helper(r.id); END LOOP; RETURN n; END' -- SELECT f()",
    f"f() RETURNS bigint {SQL} 'SELECT count(*) FROM list' -- SELECT f()",
    f"f(n int) RETURNS int {SQL} 'SELECT n <+> 1' -- SELECT f(1)",
    f"f(n int) RETURNS int {PLPGSQL} 'BEGIN RETURN n <+> n; END' -- SELECT f(1)",
    f"f() RETURNS int SET search_path = safe {SQL} 'SELECT only_safe()' -- SELECT f()",
    f"f() RETURNS int SET search_path = pg_catalog, kept, pg_temp {DEFINER} {PLPGSQL} 'BEGIN RETURN only_safe(); END'"
    " -- SELECT f()",
    f"f(anyelement) RETURNS int {SQL} 'SELECT helper(1)' -- SELECT f(1)",
    f"f(n anyelement) RETURNS int {PLPGSQL} 'BEGIN RETURN helper(1); END' -- SELECT f(1)",
    f"f(r notes) RETURNS int {SQL} 'SELECT g(r.id)' -- SELECT f(notes) FROM notes",
    f"f(n int DEFAULT g(1)) RETURNS int {SQL} 'SELECT n' -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} 'BEGIN PERFORM nothing(); RETURN helper(1); END' -- SELECT f()",
    f"f() RETURNS int {SQL} 'SELECT mid() + mid_sql()' -- SELECT f()",
    f"f() RETURNS int {SQL} 'SELECT mid()' -- SELECT m + f() FROM mids",
    f"f() RETURNS int {SQL} 'SELECT max(g) FROM bound' -- SELECT f()",
    f"f(n small) RETURNS int {SQL} 'SELECT takes(notes) FROM notes WHERE id = n' -- SELECT f(1)",
    f"f() RETURNS int SET search_path = other {SQL} 'SELECT public.mid_of_public()' -- SELECT f()",
    f"f(OUT n int) {PLPGSQL} 'BEGIN n := 1; n := g(n); END' -- SELECT f()",
    f"f() RETURNS TABLE (label int) {PLPGSQL} 'BEGIN RETURN QUERY SELECT g(n.id) FROM notes n; END'"
    " -- SELECT * FROM f()",
)
ATTACKS = (
    f"f(n int) RETURNS int {SQL} 'SELECT g(n::text)' -- SELECT f(1)",
    f"f(n int) RETURNS int {PLPGSQL} $$ BEGIN RETURN g(n || ''); END $$ -- SELECT f(1)",
    f"f() RETURNS int SET search_path = other {SQL} 'SELECT helper(1)' -- SELECT f()",
    f"f() RETURNS int SET search_path = other {SQL} 'SELECT public.mid()' -- SELECT f()",
    f"f() RETURNS int SET search_path = other {SQL} 'SELECT m FROM public.mids' -- SELECT f()",
    f"f() RETURNS int SET search_path = other, public {PLPGSQL} 'BEGIN RETURN mid_sql(); END' -- SELECT f()",
    f"f() RETURNS int SET search_path = other {SQL} 'SELECT id FROM list' -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} $$ BEGIN PERFORM set_config('search_path', 'other, public', true); RETURN helper(1);"
    " END $$ -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} $$ BEGIN PERFORM set_config('search_path', 'other, public', true); RETURN mid(); END"
    " $$ -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} $$ BEGIN PERFORM sets_path(); RETURN mid(); END $$ -- SELECT f()",
    f"f() RETURNS text {SQL} 'SELECT sets_path()' -- SELECT s, m FROM (SELECT f() AS s OFFSET 0) s, mids",
    f"f() RETURNS int {SQL} 'SELECT 1' -- SELECT set_config('search_path', 'other, public', false), mid()",
    f"f() RETURNS int {SQL} 'SELECT mid()'"
    " -- BEGIN; DECLARE c CURSOR FOR SELECT f(); SET LOCAL search_path = other, public; FETCH c; ROLLBACK",
    f"f() RETURNS int {SQL} 'SELECT mid()' -- SET search_path = other, public; SELECT public.f()",
    f"f(id text) RETURNS int {PLPGSQL} $$ #variable_conflict use_variable\nBEGIN RETURN (SELECT g(id) FROM notes); END"
    " $$ -- SELECT f('x')",
    f"f(note int) RETURNS int {PLPGSQL} $$ #variable_conflict use_column\nBEGIN RETURN (SELECT g(note) FROM notes); END"
    " $$ -- SELECT f(1)",
    f"f(note int) RETURNS int {SQL} 'SELECT g(note) FROM notes' -- SELECT f(1)",
    f"f(x int) RETURNS int {SQL} 'SELECT g(x) FROM (SELECT note AS x FROM notes) s' -- SELECT f(1)",
    f"f() RETURNS int {PLPGSQL} 'DECLARE r record; BEGIN SELECT note AS x INTO r FROM notes; RETURN g(r.x); END'"
    " -- SELECT f()",
    f"f() RETURNS int {PLPGSQL} 'DECLARE x int; BEGIN DECLARE x text; BEGIN RETURN g(x); END; END' -- SELECT f()",
    f"f(x int) RETURNS int {PLPGSQL} 'DECLARE x text; BEGIN RETURN g(x); END' -- SELECT f(1)",
    f"f(x int) RETURNS int {PLPGSQL} 'DECLARE x text; BEGIN RETURN g(f.x) + g(x); END' -- SELECT f(1)",
    f"f(x int) RETURNS int {PLPGSQL} $$ DECLARE y text := 'x'; z ALIAS FOR y; BEGIN RETURN g(z); END $$ -- SELECT f(1)",
    f"f(anyelement) RETURNS int {SQL} 'SELECT g($1)' -- SELECT f('x'::text)",
    f"f(anyelement) RETURNS int {PLPGSQL} 'BEGIN RETURN g($1); END' -- SELECT f('x'::text)",
    f"f(r notes) RETURNS int {SQL} 'SELECT r.spied' -- SELECT f(notes) FROM notes",
    f"f(r notes) RETURNS int {PLPGSQL} 'BEGIN RETURN (r).spied; END' -- SELECT f(notes) FROM notes",
    f"f(r notes) RETURNS int {SQL} 'SELECT g(r.note)' -- SELECT f(notes) FROM notes",
    f"f(text) RETURNS int {SQL} 'SELECT $1 <+> ''x''' -- SELECT f('x')",
    f"f(n int DEFAULT g('x'::text)) RETURNS int {SQL} 'SELECT n' -- SELECT f()",
    f"f() RETURNS int {DEFINER} {SQL} 'SELECT helper(1)' -- SELECT f()",
    f"f() RETURNS int {DEFINER} {PLPGSQL} 'BEGIN RETURN mid(); END' -- SELECT f()",
    f"f() RETURNS int {DEFINER} SET search_path = safe, other {SQL} 'SELECT helper(1)' -- SELECT f()",
    f"f(anyelement) RETURNS int {SQL} 'SELECT one_or_two(1, $1)' -- SELECT f(nothing())",
    f"f() RETURNS int {PLPGSQL} 'DECLARE x kind; BEGIN RETURN g(x); END' -- SELECT warm(); SELECT f()",
)


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        server.sql("CREATE ROLE bodies_boss")
        try:
            server.sql(SETUP, DATABASE)
            yield server
        finally:
            server.sql(f"DROP DATABASE {DATABASE}")
            server.sql("DROP ROLE bodies_boss")


@pytest.fixture(params=[(text, True) for text in ATTACKS] + [(text, False) for text in READS])
def case(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[tuple[str, bool]]:
    text, hostile = request.param
    body, _, call = text.partition(" -- ")
    server.sql(f"CREATE FUNCTION {body}", DATABASE)
    try:
        if DEFINER in body:
            server.sql("ALTER FUNCTION f OWNER TO bodies_boss", DATABASE)
        yield call, hostile
    finally:
        server.sql("DROP FUNCTION f", DATABASE)


def test_a_body_is_judged_by_what_it_calls(server: EmbeddedServer, case: tuple[str, bool]) -> None:
    call, hostile = case
    assert runs(server, call, DATABASE) is hostile
    verdict = learn(server, DATABASE).judge(call.encode())
    assert (verdict.action is not Action.ALLOW) is hostile, verdict.detail


@pytest.fixture
def reader(server: EmbeddedServer) -> Iterator[Upstream]:
    server.sql(f"CREATE ROLE bodies_reader LOGIN PASSWORD '{PASSWORD}'")
    server.sql("GRANT SELECT ON notes TO bodies_reader; GRANT USAGE ON SCHEMA other TO bodies_reader", DATABASE)
    yield Upstream(
        host=server.host,
        port=server.port,
        dbname=DATABASE,
        user="bodies_reader",
        password=PASSWORD,
        sslrootcert=str(server.ca_file),
    )
    server.sql("DROP OWNED BY bodies_reader", DATABASE)
    server.sql("DROP ROLE bodies_reader")


EXECUTE_SETS = p.query(b"EXECUTE sets")


def test_attack_portal_that_goes_on_under_another_path(reader: Upstream) -> None:
    query = b"SELECT mid() FROM generate_series(1, 3)"
    bind = p.message(p.BIND, b"p\0\0" + bytes(6))
    some = p.message(p.EXECUTE, b"p\0" + (1).to_bytes(4, "big"))
    with SideCart(reader) as own, Wire(own.port, DATABASE) as client:
        for text in ("SET LOCAL search_path = other, public", "SELECT set_config('search_path', 'other', true)"):
            assert client.ask("BEGIN") == "CZ"
            assert client.send(p.parse(b"", query) + bind + some + p.SYNC_MESSAGE).until_ready() == "12DsZ", (
                client.error
            )
            assert client.ask_extended(text) == "EZ"
            assert client.error["M"] == "cannot change search_path while a portal is open"
            assert client.ask("ROLLBACK") == "CZ"
        for text in (b"SET LOCAL search_path = other, public", b"SELECT sets_path()"):
            assert client.send(p.parse(b"sets", text) + p.SYNC_MESSAGE).until_ready() == "1Z"
            for run in (p.message(p.BIND, b"\0sets\0" + bytes(6)) + p.execute(b"") + p.SYNC_MESSAGE, EXECUTE_SETS):
                assert client.ask("BEGIN") == "CZ"
                client.send(p.parse(b"", query) + bind + some + p.SYNC_MESSAGE).until_ready()
                client.error = {}
                assert client.send(run).until_ready().endswith("EZ")
                assert client.error["M"] == "cannot change search_path while a portal is open"
                assert client.ask("ROLLBACK") == "CZ"
            assert client.send(p.message(p.CLOSE, b"Ssets\0") + p.SYNC_MESSAGE).until_ready() == "3Z"
        assert client.ask("SET search_path = other, public") in ("CZ", "CSZ")  # 18 reports it
        assert client.ask("SELECT mid()") == "EZ"
        assert client.error["D"].endswith("(rule: unproved-function).")


def test_attack_plan_that_keeps_what_a_name_meant_before(server: EmbeddedServer, reader: Upstream) -> None:
    server.sql(
        "CREATE FUNCTION inmost() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';"
        "CREATE FUNCTION late(bigint) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN inmost(); END';"
        "CREATE FUNCTION early() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN late(1); END'",
        DATABASE,
    )
    bind, some = p.message(p.BIND, b"\0s\0" + bytes(6)), p.execute(b"") + p.SYNC_MESSAGE
    try:
        one = {"SIDECART_POOL_DEFAULT_POOL_SIZE": 1, "SIDECART_POOL_MIN_POOL_SIZE": 1}
        with SideCart(reader, SIDECART_FILTER_CATALOG_REFRESH="1s", **one) as own, Wire(own.port, DATABASE) as client:
            assert client.ask("SELECT early()") == "TDCZ", client.error
            assert client.send(p.parse(b"s", b"SELECT late(1)") + bind + some).until_ready() == "12DCZ", client.error
            server.sql(
                "CREATE FUNCTION late(int) RETURNS int LANGUAGE sql AS 'SELECT 2';"
                f"CREATE OR REPLACE FUNCTION inmost() RETURNS int {_NOTIFYING}",
                DATABASE,
            )
            wait_until(lambda: "(rule: " in _detail(client, "SELECT late(1::bigint)"), 30, "the new catalogue")
            assert client.ask("SELECT early()") == "TDCZ", client.error
            assert client.send(bind + some).until_ready() == "2DCZ", client.error
    finally:
        server.sql("DROP FUNCTION early(), late(bigint), inmost(); DROP FUNCTION IF EXISTS late(int)", DATABASE)


def _detail(client: Wire, text: str) -> str:
    client.error = {}
    client.ask(text)
    return client.error.get("D", "")

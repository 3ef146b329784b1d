"""What a text means to the server is what was judged: relations that no catalogue holds, parameters of type void,
constants, names of newer grammars, functions that are replaced.

Whatever must not run raises HOSTILE. Where the server alone is asked, it does: so each of these tests can fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.sql.tables import VOID_OID
from tests import servers
from tests.running import SideCart, wait_until
from tests.wire import Wire, bind, execute

DATABASE = "meaning"
HOSTILE = "HOSTILE"
_BODY = f"LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RAISE EXCEPTION '{HOSTILE}'; END $$"
SETUP = f"""
CREATE TABLE t (id int, v varchar, d date);
CREATE TABLE named ("system_user" text, nextval int); INSERT INTO named VALUES ('column', 1);
INSERT INTO t VALUES (1, 'x', '2020-01-01');
CREATE FUNCTION hostile() RETURNS int {_BODY};
CREATE FUNCTION vf(int, int) RETURNS int LANGUAGE sql AS 'SELECT $1 + $2';
CREATE FUNCTION vf(int) RETURNS int {_BODY};
CREATE FUNCTION add1(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
CREATE FUNCTION noted(int) RETURNS void LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION two_of(anyelement, int) RETURNS int LANGUAGE sql AS 'SELECT $2';
CREATE FUNCTION two_of(int) RETURNS int {_BODY};
CREATE FUNCTION anything(anyelement) RETURNS int LANGUAGE sql AS 'SELECT two_of($1, 1)';
CREATE FUNCTION named(x anyelement) RETURNS int LANGUAGE sql AS 'SELECT two_of(x, 1)';
DO $$ BEGIN -- newer minor versions know better
    EXECUTE 'CREATE FUNCTION of_columns(OUT a void, OUT b int) LANGUAGE sql AS ''SELECT pg_sleep(0), 1''';
EXCEPTION WHEN invalid_function_definition THEN NULL; END $$;
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = vf);
CREATE FUNCTION nothing(text, text) RETURNS void LANGUAGE sql AS '';
CREATE OPERATOR #### (LEFTARG = text, RIGHTARG = text, FUNCTION = nothing);
CREATE FUNCTION ceil(bigint) RETURNS int {_BODY};
CREATE FUNCTION scale(float8) RETURNS int {_BODY};
CREATE FUNCTION "json"(text) RETURNS int {_BODY};
CREATE FUNCTION "json_object"(varchar) RETURNS int {_BODY};
CREATE FUNCTION "json_array"(int) RETURNS int {_BODY};
CREATE FUNCTION "json_arrayagg"(int) RETURNS int {_BODY};
CREATE FUNCTION "json_scalar"(int) RETURNS int {_BODY};
CREATE FUNCTION "json_exists"(text, text) RETURNS int {_BODY};
CREATE FUNCTION "substring"(varchar, int) RETURNS int {_BODY};
CREATE FUNCTION "json_object"() RETURNS int {_BODY};
CREATE FUNCTION "json_array"() RETURNS int {_BODY};
CREATE FUNCTION "json_query"(text, text) RETURNS int {_BODY};
CREATE FUNCTION "json_value"(text, text) RETURNS int {_BODY};
CREATE FUNCTION "json_serialize"(text) RETURNS int {_BODY};
CREATE FUNCTION "system_user"() RETURNS int {_BODY};
CREATE FUNCTION "merge_action"() RETURNS int {_BODY};
CREATE FUNCTION "current_user"() RETURNS int {_BODY};
CREATE FUNCTION "overlay"(varchar, varchar, int) RETURNS int {_BODY};
CREATE FUNCTION "position"(varchar, varchar) RETURNS int {_BODY};
CREATE FUNCTION "btrim"(varchar) RETURNS int {_BODY};
CREATE FUNCTION "ltrim"(varchar) RETURNS int {_BODY};
CREATE FUNCTION "normalize"(varchar) RETURNS text {_BODY};
CREATE FUNCTION is_normalized(varchar) RETURNS bool {_BODY};
CREATE FUNCTION timezone(varchar, date) RETURNS int {_BODY};
CREATE FUNCTION timezone(date) RETURNS int {_BODY};
CREATE FUNCTION pg_collation_for(varchar) RETURNS int {_BODY};
CREATE FUNCTION like_escape(varchar, varchar) RETURNS text {_BODY};
CREATE FUNCTION similar_to_escape(varchar) RETURNS text {_BODY};
CREATE FUNCTION "xmlexists"(varchar, xml) RETURNS int {_BODY};
CREATE FUNCTION "overlaps"(date, int, date, int) RETURNS bool {_BODY};
CREATE FUNCTION "extract"(text, date) RETURNS int {_BODY};
CREATE FUNCTION date_part(varchar, date) RETURNS int {_BODY};
CREATE FUNCTION int4multirange(int4range) RETURNS int {_BODY};
CREATE FUNCTION replaced() RETURNS int LANGUAGE sql AS 'SELECT 1';
"""

VOIDS = [
    "$1::void",
    "coalesce($1, pg_sleep(0))",
    "CASE WHEN true THEN pg_sleep(0) ELSE $1 END",
    "(SELECT x FROM (VALUES ($1), (pg_sleep(0))) v(x) LIMIT 1)",
    "(SELECT $1 UNION ALL SELECT pg_sleep(0) LIMIT 1)",
    "coalesce(noted(1), $1)",
    "coalesce((0::float8).pg_sleep, $1)",
    "coalesce('a'::text #### 'b'::text, $1)",
    "coalesce((SELECT f.a FROM of_columns() f), $1)",
    "coalesce(void('x'), $1)",
    "coalesce(void_in('x'), $1)",
    "coalesce(setseed(0.5), $1)",
    "lag(pg_sleep(0), 1, $1) OVER ()",
]
CALLS = ["vf(1, $1)", "vf($1, 1)", "public.vf(1, VARIADIC $1)", "(SELECT x FROM vf(1, $1) x)", "vf(1, ($1))"]


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        found.sql(f"CREATE DATABASE {DATABASE}")
        found.sql(SETUP, DATABASE)
        yield found


@pytest.fixture(scope="module")
def major(server: EmbeddedServer) -> int:
    return int(server.version.split(".")[0])


def reached(server: EmbeddedServer, dbname: str) -> Upstream:
    return Upstream(
        host=server.host,
        port=server.port,
        dbname=dbname,
        user=server.superuser,
        password=server.superuser_password,
        sslrootcert=str(server.ca_file),
    )


@pytest.fixture(scope="module")
def sidecart(server: EmbeddedServer) -> Iterator[SideCart]:
    with SideCart(reached(server, DATABASE), SIDECART_FILTER_CATALOG_REFRESH="300ms") as running:
        yield running
        running.stop()
        for word in ("tripwire", "bug"):
            assert f'"event":"{word}"' not in running.log.replace(" ", "")


@pytest.fixture
def wire(sidecart: SideCart) -> Iterator[Wire]:
    with Wire(sidecart.port, DATABASE) as connected:
        yield connected


def is_hostile(server: EmbeddedServer, sql: str) -> bool:
    """Tell whether a script runs what must not run, on the server alone."""
    try:
        server.sql(sql, DATABASE)
    except EmbeddedError as error:
        return HOSTILE in str(error)
    return False


def refused(wire: Wire, text: str) -> None:
    for ask in (wire.ask, wire.ask_extended):
        assert ask(text).endswith("EZ"), text
        assert wire.error["M"] != HOSTILE, text
        # Of a relation that is not there, and of what a newer grammar cannot read, the server's words are told alone.
        assert wire.error["C"] in ("42P01", "42601") or "(rule: " in wire.error["D"], (text, wire.error)


# --- relations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "relation",
    [
        "pg_toast.pg_toast_1255",
        "pg_toast_1255",
        "pg_temp_99.x",
        "nosuch",
        "nosuch.x",
        f"{DATABASE}.pg_toast.pg_toast_1255",
    ],
)
@pytest.mark.parametrize("calls", ["hostile()", "lo_create(0)"])
def test_attack_write_beside_a_relation_that_no_catalogue_holds(wire: Wire, relation: str, calls: str) -> None:
    select = f"SELECT 1 FROM {relation} RIGHT JOIN (VALUES (1)) v(x) ON false WHERE {calls} > 0"
    assert wire.ask("SET search_path = public, pg_toast").endswith("Z")
    assert wire.tag == "SET"
    for text in (
        select,
        f"EXPLAIN ANALYZE {select}",
        f"COPY ({select}) TO STDOUT",
        f"DECLARE c CURSOR WITH HOLD FOR {select}",
        f"PREPARE p AS {select}",
        f"SELECT set_config('search_path', 'elsewhere', false) FROM {relation}",
    ):
        refused(wire, text)
    assert wire.ask("SHOW search_path") == "TDCZ" and b"public, pg_toast" in wire.last


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM nosuch",
        "SELECT * FROM nosuch.nosuch",
        "SELECT é, (SELECT 1 FROM nosuch1) FROM nosuch2",
        "WITH x AS (SELECT * FROM nosuch1) SELECT * FROM nosuch2",
        "SELECT 1 FROM t JOIN nosuch1 ON true, nosuch2",
        "SELECT 1 UNION SELECT 1 FROM nosuch",
        "EXPLAIN SELECT * FROM nosuch",
        "COPY nosuch TO STDOUT",
        "COPY (TABLE nosuch) TO STDOUT",
        'SELECT * FROM "No""such"',
        f"SELECT * FROM {DATABASE}.public.nosuch",
        "SELECT * FROM elsewhere.public.t",
        "SELECT * FROM pg_temp.nosuch",
        "WITH nosuch AS (SELECT 1) SELECT * FROM public.nosuch",
    ],
)
def test_missing_relation_is_told_as_the_server_tells_it(wire: Wire, server: EmbeddedServer, text: str) -> None:
    assert wire.ask(text) == "EZ"
    with psycopg.connect(server.dsn(DATABASE)) as direct, pytest.raises(psycopg.Error) as caught:
        direct.execute(text.encode())
    told = caught.value.diag
    assert (wire.error["C"], wire.error["M"]) == (told.sqlstate, told.message_primary)
    assert wire.error.get("P") == told.statement_position
    # Nothing else, where the catalogue could be read anew; else the hint to try again.
    assert "H" not in wire.error or wire.error["H"].endswith("try again.")


def test_relation_is_there_soon_after_it_is_created(wire: Wire, server: EmbeddedServer) -> None:
    for number in range(3):
        server.sql(f"CREATE TABLE fresh_{number} AS SELECT 1 AS a", DATABASE)
        wait_until(lambda name=f"fresh_{number}": wire.ask(f"SELECT * FROM {name}") == "TDCZ", 20, "the new table")


def test_attack_query_of_with_that_is_named_like_a_new_view(wire: Wire, server: EmbeddedServer) -> None:
    for number, text in enumerate(
        (
            "SELECT * FROM {0}, (WITH {0} AS (SELECT 1) SELECT * FROM {0}) x",
            "WITH a AS (SELECT * FROM {0}), {0} AS (SELECT 1) SELECT * FROM a",
            "WITH {0} AS (SELECT * FROM {0}) SELECT * FROM {0}",
        )
    ):
        view = f"brand_new_{number}"
        server.sql(f"CREATE VIEW {view} AS SELECT hostile()", DATABASE)
        assert is_hostile(server, text.format(view))
        refused(wire, text.format(view))


# --- parameters of type void ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("void", VOIDS)
def test_attack_parameter_that_becomes_void(wire: Wire, server: EmbeddedServer, void: str) -> None:
    ran = 0
    for call in CALLS:
        prepare = f"PREPARE p AS SELECT {void}, {call}"
        ran += is_hostile(server, f"{prepare}; EXECUTE p(NULL)")
        refused(wire, prepare)
        assert wire.ask_extended(f"SELECT {void}, {call}") == "EZ"
        assert "(rule: " in wire.error["D"]
    assert ran or "of_columns" in void


def test_attack_parameter_that_is_declared_void(wire: Wire, server: EmbeddedServer) -> None:
    for text in ("SELECT vf(1, $1)", "SELECT ts_rewrite('a'::tsquery, 'SELECT hostile(), 1', $1)"):
        prepare = f"PREPARE p(void) AS {text}"
        if "vf" in text:
            assert is_hostile(server, f"{prepare}; EXECUTE p(NULL)")
        refused(wire, prepare)
        wire.send(p.parse(b"", text.encode(), b"\0\1" + VOID_OID.to_bytes(4, "big")) + bind("", [None]) + execute())
        wire.send(p.SYNC_MESSAGE)
        assert wire.until_ready() == "EZ"
        assert "(rule: " in wire.error["D"]


def test_jdbc_gives_its_out_parameter_as_void(wire: Wire) -> None:
    """`{? = call public.add1(?)}`, as pgJDBC sends it."""
    types = b"\0\2" + VOID_OID.to_bytes(4, "big") + (23).to_bytes(4, "big")
    wire.send(p.parse(b"", b"select * from public.add1($1,$2)  as result", types))
    wire.send(bind("", [None, b"4"]) + execute() + p.SYNC_MESSAGE)
    assert wire.until_ready() == "12DCZ", wire.error
    assert b"\0\1\0\0\0\x015" in wire.last


@pytest.mark.parametrize("text", ["SELECT anything(pg_sleep(0))", "SELECT named(noted(1))"])
def test_attack_void_reaches_the_parameters_of_a_polymorphic_function(
    wire: Wire, server: EmbeddedServer, text: str
) -> None:
    assert is_hostile(server, text)
    refused(wire, text)


# --- types that nobody knows, constants, keywords ---------------------------------------------------------------------


def test_attack_parameter_type_that_is_a_moment_old(wire: Wire, server: EmbeddedServer) -> None:
    server.sql("CREATE DOMAIN fresh AS text CHECK (hostile() > 0)", DATABASE)
    oid = int(server.sql("SELECT 'fresh'::regtype::oid", DATABASE))
    for each in (oid, 4_000_000_000):
        wire.send(p.parse(b"", b"SELECT $1", b"\0\1" + each.to_bytes(4, "big")) + bind("", [b"x"]) + execute())
        wire.send(p.SYNC_MESSAGE)
        assert wire.until_ready() == "EZ"
        assert "(rule: un" in wire.error["D"]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT ceil(99999999999)",
        "SELECT ceil(-99999999999)",
        "SELECT ceil(-9223372036854775808)",
        "SELECT ceil(1), ceil(2147483647), ceil(-2147483648)",
        "SELECT ceil(1.5), ceil(9223372036854775808), ceil(1e3)",
        "SELECT scale(extract(year FROM d)) FROM t",
        "SELECT extract(year FROM d) FROM t",
        "SELECT json('{}')",
        "SELECT json(v) FROM t",
        "SELECT json_object(v) FROM t",
        "SELECT json_object('{a,b}')",
        "SELECT json_array(1)",
        "SELECT json_arrayagg(id) FROM t",
        "SELECT json_scalar(1)",
        "SELECT json_exists('{}', '$')",
        "SELECT substring(v, 1) FROM t",
        "SELECT substring(v FROM 1) FROM t",
        "SELECT '1'::json, json '1', CAST('1' AS json)",
        "SELECT json_object(), 1",
        "SELECT json_array()",
        "SELECT json_array(SELECT 1)",
        "SELECT json_query('{}'::text, '$'), json_value('{}', '$')",
        "SELECT json_value('{}'::text, '$'::text)",
        "SELECT json_serialize('{}')",
        "SELECT json_objectagg(v: 1) FROM t",
        "SELECT * FROM json_table('{}', '$' COLUMNS (a int)) x",
        "SELECT system_user",
        "SELECT system_user()",
        "SELECT merge_action()",
        "SELECT current_user",
        "SELECT overlay(v, v, 1) FROM t",
        "SELECT overlay(v PLACING v FROM 1) FROM t",
        "SELECT position(v IN v), trim(v), trim(LEADING v), normalize(v), v IS NORMALIZED FROM t",
        "SELECT normalize(v, nfc), v IS NOT NFD NORMALIZED FROM t",
        "SELECT d AT TIME ZONE v, COLLATION FOR (v) FROM t",
        "SELECT v LIKE v ESCAPE v, v SIMILAR TO v, v NOT SIMILAR TO v ESCAPE 'x' FROM t",
        "SELECT xmlexists(v PASSING '<a/>'::xml) FROM t",
        "SELECT (d, 1) OVERLAPS (d, 1) FROM t",
        "SELECT (d, d) OVERLAPS (d, d) FROM t",
        "SELECT int4multirange('[1,2]'::int4range)",
        "SELECT treat(d AS text) FROM t",
        "SELECT substring(v SIMILAR v ESCAPE v), substring(v FROM v FOR v) FROM t",
        "SELECT v IS JSON FROM t",
        "SELECT d AT LOCAL FROM t",
        "SELECT 0x1F, 1_000",
    ],
)
def test_attack_name_that_is_another_one_on_this_version(wire: Wire, server: EmbeddedServer, text: str) -> None:
    for ask in (wire.ask, wire.ask_extended):
        wire.error = {}
        ask(text)
        assert HOSTILE not in wire.error.get("M", "")
    if is_hostile(server, text):
        refused(wire, text)


def test_extract_is_a_read_on_every_version(wire: Wire) -> None:
    assert wire.ask("SELECT extract(year FROM d), extract(epoch FROM now()) FROM t") == "TDCZ", wire.error
    assert wire.ask_extended("SELECT extract(year FROM date '2024-05-06')") == "12TDCZ", wire.error


@pytest.mark.parametrize(
    "text",
    [
        "SELECT system_user FROM named",
        "SELECT n.system_user, n.nextval FROM named n WHERE n.system_user = 'column'",
        "SELECT 'column' AS system_user, 1 AS nextval",
        "SELECT s.system_user FROM (SELECT 'column' AS system_user) s",
        "WITH c AS (SELECT 'column' AS nextval) SELECT c.nextval FROM c",
        "WITH c (nextval) AS (SELECT 'column') SELECT d.nextval FROM c d",
        "SELECT s.lo_create FROM (SELECT 'column' AS lo_create) s",
        "SELECT s.pg_notify FROM (VALUES ('column')) s (pg_notify)",
    ],
)
def test_column_with_the_name_of_a_keyword_or_of_a_refused_function(
    wire: Wire, server: EmbeddedServer, major: int, text: str
) -> None:
    given = server.sql(text, DATABASE).splitlines()[0].partition("|")[0].encode()
    # A server of 16 and later takes system_user that stands alone for its keyword, which is null without a password.
    assert given == b"column" or (major >= 16 and "SELECT system_user" in text)
    for ask in (wire.ask, wire.ask_extended):
        assert ask(text).endswith("TDCZ"), wire.error
        assert major >= 16 or b"column" in wire.last.rpartition(b"D\0")[2]


def test_new_function_with_the_name_of_a_later_keyword_is_found_at_once(server: EmbeddedServer, major: int) -> None:
    """It was refused until the catalogue was read the next time, which here is never."""
    if major >= 17:
        pytest.skip("json_scalar is a keyword since 17")
    server.sql("CREATE DATABASE later")
    try:
        with (
            SideCart(reached(server, "later"), SIDECART_FILTER_CATALOG_REFRESH="0") as own,
            Wire(own.port, "later") as wire,
        ):
            assert wire.ask("SELECT json_scalar(1)") == "EZ"
            assert "(rule: keyword-function" in wire.error["D"]
            server.sql('CREATE FUNCTION "json_scalar"(int) RETURNS int LANGUAGE sql AS $$ SELECT 42 $$', "later")
            assert wire.ask("SELECT json_scalar(1)") == "TDCZ", wire.error
            assert b"42" in wire.last
    finally:
        server.sql("DROP DATABASE later WITH (FORCE)")


# --- what is replaced while it is prepared ----------------------------------------------------------------------------


def test_attack_prepared_statement_whose_function_is_replaced(wire: Wire, server: EmbeddedServer) -> None:
    assert wire.ask("PREPARE by_sql AS SELECT replaced()") == "CZ"
    wire.send(p.parse(b"by_protocol", b"SELECT replaced()") + p.SYNC_MESSAGE)
    assert wire.until_ready() == "1Z"
    texts = [f"{explain}EXECUTE {name}" for explain in ("", "EXPLAIN ANALYZE ") for name in ("by_sql", "by_protocol")]
    for text in texts:
        assert wire.ask(text) == "TDCZ" or text.startswith("EXPLAIN"), wire.error
    server.sql(f"CREATE OR REPLACE FUNCTION replaced() RETURNS int {_BODY}", DATABASE)
    wait_until(lambda: wire.ask("SELECT replaced()") == "EZ" and wire.error["M"] != HOSTILE, 20, "the new catalogue")
    for text in texts:
        refused(wire, text)
    for name in ("by_sql", "by_protocol"):
        wire.send(bind(name) + execute() + p.SYNC_MESSAGE)
        assert wire.until_ready() == "EZ"
        assert "(rule: unproved-function)" in wire.error["D"]

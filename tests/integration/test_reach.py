"""An object of the database spoils the statements that can reach it, and no others.

Whatever must not run raises HOSTILE. The server alone is asked first, and does: so each of these tests can fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.filter import OWN_PARSE, Filter, Policy
from proxy.operating import catalogue
from proxy.proofs.prove import prove
from proxy.sql.verdict import Action
from tests import servers

HOSTILE = "HOSTILE"
_BODY = f"IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{HOSTILE}'; END $$"
_NOTIFYING = f"LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', ''); RAISE EXCEPTION '{HOSTILE}'; END $$"
TABLES = """
CREATE TYPE mood AS ENUM ('well', 'ill');
CREATE TYPE other AS ENUM ('well', 'ill');
CREATE TYPE pair AS (a int, b int);
CREATE TABLE columns_of (hidden int); INSERT INTO columns_of VALUES (1);
CREATE TABLE t (id int, name text, m mood);
INSERT INTO t VALUES (5, 'x', 'well');
CREATE TABLE u (id int, m mood, s other, email varchar(99), total numeric, made timestamptz, meta jsonb, tags text[]);
INSERT INTO u VALUES (5, 'well', 'well', 'x', 1, now(), '{"a": 1}', '{x}');
CREATE TABLE plain (id int, name text);
INSERT INTO plain VALUES (5, 'x');
CREATE TABLE held (id int, ms mood[], r t);
INSERT INTO held VALUES (5, '{well}', ROW(5, 'x', 'well'));
CREATE DOMAIN spirit AS mood;
CREATE TABLE d (id int, s spirit);
INSERT INTO d VALUES (5, 'well');
CREATE VIEW v AS SELECT id, m AS shown FROM t;
CREATE FUNCTION gives() RETURNS mood LANGUAGE sql AS $$ SELECT 'well'::mood $$;
CREATE FUNCTION of_row(t) RETURNS mood LANGUAGE sql AS $$ SELECT 'well'::mood $$;
CREATE FUNCTION "case"(int) RETURNS mood LANGUAGE sql AS $$ SELECT 'well'::mood $$;
CREATE FUNCTION rows_of() RETURNS TABLE (i int, x mood) LANGUAGE sql AS $$ SELECT 1, 'well'::mood $$;
CREATE FUNCTION sum_of(int, int) RETURNS mood LANGUAGE sql AS $$ SELECT 'well'::mood $$;
CREATE OPERATOR <@@> (FUNCTION = sum_of, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION sum_of(bigint, bigint) RETURNS mood LANGUAGE sql AS $$ SELECT 'well'::mood $$;
CREATE OPERATOR - (FUNCTION = sum_of, LEFTARG = bigint, RIGHTARG = bigint);
"""
OPERATOR = f"""
CREATE FUNCTION same(mood, mood) RETURNS bool {_NOTIFYING};
CREATE OPERATOR = (FUNCTION = same, LEFTARG = mood, RIGHTARG = mood);
CREATE FUNCTION joined(mood, mood) RETURNS text {_NOTIFYING};
CREATE OPERATOR || (FUNCTION = joined, LEFTARG = mood, RIGHTARG = mood);
CREATE FUNCTION joined(pair, pair) RETURNS text {_NOTIFYING};
CREATE OPERATOR || (FUNCTION = joined, LEFTARG = pair, RIGHTARG = pair);
CREATE FUNCTION lower(mood) RETURNS text {_NOTIFYING};
CREATE FUNCTION hidden(anyelement) RETURNS text {_NOTIFYING};
CREATE FUNCTION to_pair(int) RETURNS pair LANGUAGE sql IMMUTABLE AS $$ SELECT ROW($1, $1)::pair $$;
CREATE CAST (int AS pair) WITH FUNCTION to_pair(int) AS IMPLICIT;
CREATE CAST (other AS mood) WITH INOUT AS IMPLICIT;
"""
BY_VALUE = [
    "SELECT m = m FROM t",
    "SELECT name FROM t WHERE m = 'well'",
    "SELECT t.m = 'well' FROM t",
    "SELECT 'well'::mood = 'well'",
    "SELECT CAST('well' AS public.mood) = 'well'",
    "SELECT gives() = 'well'",
    "SELECT x = 'well' FROM gives() x",
    "SELECT x = 'well' FROM rows_of()",
    "SELECT (rows_of()).x = 'well'",
    "SELECT (1 <@@> 2) = 'well'",
    "SELECT (3 OPERATOR(public.-) 4) = 'well'",
    "SELECT \"case\"(1) = 'well'",
    "SELECT t.of_row = 'well' FROM t",
    "SELECT (t).of_row = 'well' FROM t",
    "SELECT (enum_range(NULL::mood))[1] = 'well'",
    "SELECT unnest(ms) = 'well' FROM held",
    "SELECT ms[1] = 'well' FROM held",
    "SELECT (r).m = 'well' FROM held",
    "SELECT (s.r).m = 'well' FROM (SELECT t AS r FROM t) s",
    "SELECT (a[1]).m = 'well' FROM (SELECT array_agg(t) AS a FROM t) s",
    "SELECT shown = 'well' FROM v",
    "SELECT x = 'well' FROM v AS w(i, x)",
    "SELECT s = 'well' FROM d",
    "SELECT x = 'well' FROM (SELECT NULL AS x UNION SELECT m FROM t) s WHERE x IS NOT NULL",
    "SELECT column1 = 'well' FROM (VALUES (NULL), ('well'::mood)) s WHERE column1 IS NOT NULL",
    "WITH q AS (SELECT m AS x FROM t) SELECT x = 'well' FROM q",
    "WITH q (x) AS (TABLE t) SELECT m = 'well' FROM q",
    "SELECT CASE m WHEN 'well' THEN 1 END FROM t",
    "SELECT NULLIF(m, 'well') FROM t",
    "SELECT m IN ('well') FROM t",
    "SELECT m IN ('well', 'ill') FROM t",
    "SELECT m IN (SELECT m FROM u) FROM t",
    "SELECT m IS DISTINCT FROM 'well' FROM t",
    "SELECT m = ANY (ARRAY['well'::mood]) FROM t",
    "SELECT t.id FROM t JOIN u USING (m)",
    "SELECT t.id FROM t NATURAL JOIN u",
    "SELECT coalesce(NULL, m) = 'well' FROM t",
    "SELECT (lag(m, 0) OVER ()) = 'well' FROM t",
    "SELECT max(m) = 'well' FROM t",
    "SELECT (json_populate_record(NULL::t, '{\"m\": \"well\"}')).m = 'well'",
    "SELECT x.m = 'well' FROM json_to_record('{\"m\": \"well\"}') AS x(m mood)",
    "SELECT lower(m) FROM t",
    "SELECT lower(gives())",
    "SELECT t.m || t.m FROM t",
    "SELECT s || s FROM u",
    "SELECT 1 || 2",
    "SELECT id || id FROM plain",
    "SELECT x.hidden FROM (SELECT c.hidden AS other FROM columns_of c) x",
    "WITH x AS (SELECT c.hidden AS other FROM columns_of c) SELECT x.hidden FROM x",
]
"""Each gets a value of one of the types to an operator or a function that is no read."""
UNTOUCHED = [
    "SELECT id FROM t WHERE id = 5",
    "SELECT id FROM t WHERE id = 5 AND name = 'x'",
    "SELECT * FROM plain WHERE id = 5 AND name = 'x'",
    "SELECT * FROM plain WHERE id = '5' OR name IN ('x', 'y')",
    "SELECT name || 'x', 'x' || name, lower(name), lower('X') FROM plain",
    "SELECT CASE name WHEN 'x' THEN 1 END, NULLIF(name, ''), name IS DISTINCT FROM 'x' FROM plain",
    "SELECT email || 'x', total = 5, made = '2024-01-01', meta = '{}', tags = ARRAY['x'] FROM u",
    "SELECT a.id FROM plain a JOIN plain b USING (id) WHERE (a.id, a.name) = (5, 'x')",
    "SELECT * FROM plain WHERE id IN (SELECT id FROM t)",
    "SELECT 'x' = 'x', 'x' || 'y', 1 = 1, 1 = 2.5, NULL = NULL",
    "WITH q AS (SELECT id, name FROM t) SELECT * FROM q WHERE name = 'x' AND id = 5",
]
CAST_TO_JSON = f"""
CREATE FUNCTION shown(mood) RETURNS json {_BODY};
CREATE FUNCTION shown_too(mood) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT NULL::json $$;
CREATE FUNCTION noted() RETURNS int {_NOTIFYING};
CREATE OR REPLACE FUNCTION shown(mood) RETURNS json LANGUAGE sql IMMUTABLE AS $$ SELECT to_json(noted()) $$;
CREATE CAST (mood AS json) WITH FUNCTION shown(mood);
"""
TOUCHING = [
    "SELECT to_json(m) FROM t",
    "SELECT json_agg(m) FROM t",
    "SELECT to_json(t.m) FROM t",
    "SELECT row_to_json(t) FROM t",
    "SELECT row_to_json(t.*) FROM t",
    "SELECT row_to_json(a) FROM t a",
    "SELECT t.row_to_json FROM t",
    "SELECT a.to_json FROM t a",
    "SELECT (t).to_json FROM t",
    "SELECT row_to_json(s) FROM (SELECT * FROM t) s",
    "SELECT row_to_json(s) FROM (TABLE t) s",
    "WITH q AS (TABLE t) SELECT row_to_json(q) FROM q",
    "SELECT to_json(x) FROM t AS a(i, n, x)",
    "SELECT to_json(x) FROM (t JOIN plain ON true) AS a(i, n, x)",
    "SELECT row_to_json(a) FROM (t JOIN plain USING (id)) a",
    "SELECT to_json(a.m) FROM (t JOIN plain USING (id)) a",
    "SELECT (SELECT to_json(b.m)) FROM t b",
    "SELECT to_json(array_agg(b)) FROM t b",
    "SELECT row_to_json(w) FROM v w",
    "SELECT to_json(w.shown) FROM v w",
    "SELECT row_to_json(ROW(t.*)) FROM t",
    "SELECT to_json(h) FROM held h",
    "SELECT to_json(ms) FROM held",
    "SELECT to_json(d) FROM d",
]
"""Each gets a column of a type that is no read to what casts it."""
NOT_TOUCHING = [
    "SELECT id FROM t",
    "SELECT count(*), max(id) FROM t WHERE name = 'x'",
    "SELECT t.id, t.ctid FROM t ORDER BY t.id",
    "SELECT a.id, b.id FROM t a JOIN u b ON b.id = a.id JOIN plain c ON c.id = b.id",
    "SELECT to_json(s) FROM (SELECT id, name FROM t) s",
    "SELECT to_json(id), to_json(name) FROM t",
    "SELECT row_to_json(plain) FROM plain",
]
SPOILED = [
    "SELECT to_json(m) FROM t",
    "SELECT m FROM t",
    "SELECT * FROM t",
    "TABLE t",
    "COPY t TO STDOUT",
    "SELECT * FROM t NATURAL JOIN plain",
    "SELECT 'well'::mood",
]


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        yield found


@pytest.fixture(scope="module", params=["operator", "cast"])
def database(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[str]:
    name = f"reach_{request.param}"
    server.sql(f"CREATE DATABASE {name}")
    try:
        server.sql(TABLES + (OPERATOR if request.param == "operator" else CAST_TO_JSON), name)
        yield name
    finally:
        server.sql(f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def judge(server: EmbeddedServer, database: str) -> Filter:
    return learn(server, database)


def learn(server: EmbeddedServer, dbname: str, policy: Policy | None = None) -> Filter:
    rows = catalogue.load(server.dsn(dbname))
    judge = Filter(policy or Policy())
    judge.learn_version(rows.version)
    judge.learn_catalog(prove(rows, judge.policy))
    return judge


def runs(server: EmbeddedServer, sql: str, dbname: str) -> bool:
    """Tell whether a statement runs what must not run, on the server alone."""
    try:
        server.sql(sql, dbname)
    except EmbeddedError as error:
        if HOSTILE not in str(error):
            raise
        return True
    return False


@pytest.mark.parametrize(
    ("database", "attacks", "reads"),
    [("operator", BY_VALUE, UNTOUCHED), ("cast", TOUCHING, NOT_TOUCHING)],
    indirect=["database"],
    ids=["operator", "cast"],
)
def test_attack_value_of_a_type_that_no_name_in_the_statement_shows(
    server: EmbeddedServer, database: str, judge: Filter, attacks: list[str], reads: list[str]
) -> None:
    harmless = [text for text in attacks if not runs(server, text, database)]
    assert harmless == []
    passed = [text for text in attacks if judge.judge(text.encode()).action is not Action.REFUSE]
    assert passed == []
    refused = {text: judge.judge(text.encode()).message for text in reads}
    assert {text: message for text, message in refused.items() if message} == {}
    assert [text for text in reads if runs(server, text, database)] == []


@pytest.mark.parametrize("database", ["cast"], indirect=True)
def test_table_is_read_but_for_the_column_that_is_no_read(database: str, judge: Filter) -> None:
    assert database
    assert [text for text in SPOILED if judge.wide.judge(text.encode()).action is not Action.REFUSE] == []
    assert judge.wide.judge(b"SELECT id, m FROM t").position == len("SELECT id, ") + 1
    # With names resolved, what runs is known: a cast to json does not.
    refused = [text for text in SPOILED if judge.judge(text.encode()).action is Action.REFUSE]
    assert refused == ["SELECT to_json(m) FROM t", "COPY t TO STDOUT"]
    assert judge.judge(b"SELECT id, to_json(m) FROM t").position == len("SELECT id, ") + 1


@pytest.mark.parametrize("database", ["operator"], indirect=True)
def test_attack_parameter_of_a_type_that_the_client_names_by_its_number(database: str, judge: Filter) -> None:
    assert database
    text = b"SELECT id FROM plain WHERE $1 = $2"
    assert judge.judge(text, extended=1 | OWN_PARSE).rule == "unproved-operator"
    assert judge.judge(b"SELECT id FROM plain WHERE id = $1", extended=1).action is Action.ALLOW
    assert judge.judge(b"PREPARE p (mood, mood) AS SELECT $1 = $2").rule == "unproved-operator"
    assert judge.judge(b"PREPARE p (int) AS SELECT id FROM plain WHERE id = $1").action is Action.ALLOW


@pytest.mark.parametrize("database", ["operator"], indirect=True)
def test_attack_variable_that_takes_the_value_to_the_operator(server: EmbeddedServer, database: str) -> None:
    bodies = {
        "declared": "DECLARE x mood := 'well'; BEGIN RETURN x = 'well'; END",
        "like a column": "DECLARE x t.m%TYPE; BEGIN SELECT m INTO x FROM t; RETURN x = 'well'; END",
        "record": "DECLARE r record; BEGIN SELECT * INTO r FROM t; RETURN r.m = 'well'; END",
        "loop": "DECLARE r record; BEGIN FOR r IN SELECT m AS x FROM t LOOP RETURN r.x = 'well'; END LOOP; END",
        "result": "DECLARE r record; BEGIN r := rows_of(); RETURN r.x = 'well'; END",
        "row of any type": "DECLARE r record; BEGIN r := some_row(); RETURN r.m = 'well'; END",
        "cursor by its name": "DECLARE c refcursor := 'c'; r record; BEGIN FETCH c INTO r; RETURN r.m = r.m; END",
    }
    server.sql("CREATE FUNCTION some_row() RETURNS record LANGUAGE sql AS $$ SELECT t FROM t $$", database)
    for number, body in enumerate(bodies.values()):
        server.sql(f"CREATE FUNCTION carries{number}() RETURNS bool LANGUAGE plpgsql AS $$ {body} $$", database)
    server.sql("CREATE FUNCTION given(x mood) RETURNS bool LANGUAGE sql AS $$ SELECT x = 'well' $$", database)
    rows = "CREATE FUNCTION row_of(r {}) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN r.m = r.m; END $$"
    if server.sql("SHOW server_version_num") >= "140000":
        server.sql(rows.format("record"), database)
    server.sql(
        "CREATE FUNCTION taken(x mood) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN x = 'well'; END $$", database
    )
    honest = (
        "DECLARE r record; n int := 1; BEGIN FOR r IN SELECT id FROM t LOOP n := n + r.id; END LOOP; RETURN n = 6; END"
    )
    server.sql(f"CREATE FUNCTION counts(a text) RETURNS bool LANGUAGE plpgsql AS $$ {honest} $$", database)
    server.sql("CREATE FUNCTION asks(a text) RETURNS bool LANGUAGE sql AS $$ SELECT a = 'x' AND 5 = 5 $$", database)
    judge = learn(server, database)
    attacks = [f"SELECT carries{number}()" for number in range(len(bodies))]
    by_cursor = "BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; {}; ROLLBACK"
    for text in [*attacks, "SELECT given('well')", "SELECT taken('well')"]:
        assert runs(server, by_cursor.format(text) if text == attacks[-1] else text, database), text
        assert judge.judge(text.encode()).rule == "unproved-function", text
    assert judge.judge(b"SELECT row_of(t) FROM t").action is Action.REFUSE
    for text in ("SELECT counts('x')", "SELECT asks('x')"):
        assert judge.judge(text.encode()).action is Action.ALLOW, judge.judge(text.encode())


def test_attack_column_of_the_catalogues_that_holds_values_of_any_type(server: EmbeddedServer) -> None:
    """to_json() looks for the casts of what it is given when it runs."""
    server.sql("CREATE DATABASE reach_any")
    try:
        server.sql(
            f"""CREATE TYPE mood AS ENUM ('well');
            CREATE FUNCTION to_json(mood) RETURNS json {_NOTIFYING};
            CREATE CAST (mood AS json) WITH FUNCTION to_json(mood);
            CREATE TABLE t (id int); INSERT INTO t VALUES (1); ALTER TABLE t ADD m mood DEFAULT 'well';""",
            "reach_any",
        )
        judge = learn(server, "reach_any")
        where = "WHERE attrelid = 't'::regclass AND attnum = 2"
        for text in (
            f"SELECT pg_catalog.to_json(attmissingval) FROM pg_attribute {where}",
            f"SELECT row_to_json(x) FROM pg_catalog.pg_attribute x {where}",
            f"SELECT json_agg(x.*) FROM pg_attribute x {where}",
            f"SELECT json_agg(pg_attribute) FROM pg_attribute {where}",
            f"SELECT row_to_json(s) FROM (SELECT * FROM pg_attribute {where}) s",
            f"WITH q AS (TABLE pg_attribute) SELECT json_agg(q) FROM q {where}",
            f"SELECT json_build_array(attmissingval) FROM pg_attribute {where}",
        ):
            assert runs(server, text, "reach_any"), text
            assert judge.judge(text.encode()).action is Action.REFUSE, text
        for text in (f"SELECT attname, atttypid::regtype FROM pg_attribute {where}", "SELECT tablename FROM pg_stats"):
            assert judge.judge(text.encode()).action is Action.ALLOW, text
    finally:
        server.sql("DROP DATABASE reach_any")


def test_attack_operator_of_built_in_types(server: EmbeddedServer) -> None:
    """It spoils whatever it can take, wherever it is; where pg_catalog has one of the same types, that comes first."""
    server.sql("CREATE DATABASE reach_int")
    try:
        server.sql(
            f"""CREATE TABLE plain (id int, name text, made date);
            CREATE FUNCTION same(int, int) RETURNS bool {_NOTIFYING};
            CREATE OPERATOR = (FUNCTION = same, LEFTARG = int, RIGHTARG = int);
            CREATE FUNCTION minus(varchar, date) RETURNS bool {_NOTIFYING};
            CREATE OPERATOR - (FUNCTION = minus, LEFTARG = varchar, RIGHTARG = date);
            CREATE FUNCTION lower(varchar) RETURNS text {_NOTIFYING}""",
            "reach_int",
        )
        judge = learn(server, "reach_int")
        for text in ("SELECT id OPERATOR(public.=) 5 FROM plain", "SELECT 'x'::varchar - made FROM plain"):
            assert judge.judge(text.encode()).rule == "unproved-operator", text
        assert judge.judge(b"SELECT lower('x'::varchar)").rule == "unproved-function"
        for text in ("SELECT id, lower(name) FROM plain WHERE name = 'x'", "SELECT id = 5 FROM plain", "SELECT 1 = 1"):
            assert judge.judge(text.encode()).action is Action.ALLOW
    finally:
        server.sql("DROP DATABASE reach_int")


def test_function_that_is_a_built_in_of_another_name(server: EmbeddedServer) -> None:
    server.sql("CREATE DATABASE reach_internal")
    try:
        server.sql(
            """CREATE FUNCTION mine(int, int) RETURNS bool LANGUAGE internal AS 'int4eq';
            CREATE FUNCTION ends(int) RETURNS bool LANGUAGE internal AS 'pg_terminate_backend';
            CREATE FUNCTION sets(text, text, bool) RETURNS text LANGUAGE internal AS 'set_config_by_name'""",
            "reach_internal",
        )
        judge = learn(server, "reach_internal")
        assert judge.judge(b"SELECT mine(1, 1)").action is Action.ALLOW
        assert judge.judge(b"SELECT ends(1)").rule == "unproved-function"
        assert judge.judge(b"SELECT sets('transaction_read_only', 'off', true)").rule == "unproved-function"
    finally:
        server.sql("DROP DATABASE reach_internal")


EXTENSION = """
CREATE EXTENSION autoinc;
CREATE TYPE measure;
CREATE FUNCTION measure_in(cstring) RETURNS measure LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION measure_out(measure) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE measure (INPUT = measure_in, OUTPUT = measure_out, LIKE = text);
CREATE FUNCTION same(measure, measure) RETURNS bool LANGUAGE c IMMUTABLE STRICT AS '$libdir/citext', 'citext_eq';
CREATE OPERATOR = (FUNCTION = same, LEFTARG = measure, RIGHTARG = measure);
ALTER EXTENSION autoinc ADD TYPE measure;
ALTER EXTENSION autoinc ADD FUNCTION same(measure, measure);
ALTER EXTENSION autoinc ADD OPERATOR = (measure, measure);
CREATE TABLE customers (id int, name text);
CREATE TABLE measured (id int, m measure);
"""


def test_extension_in_c_that_nobody_knows_spoils_what_touches_it_alone(server: EmbeddedServer) -> None:
    """`SELECT * FROM customers WHERE id = 5` was refused beside it: permission denied for operator public.=."""
    server.sql("CREATE DATABASE reach_extension")
    try:
        server.sql(EXTENSION, "reach_extension")
        judge = learn(server, "reach_extension")
        trusting = learn(server, "reach_extension", Policy(allow_extensions=("autoinc",)))
        reads = (b"SELECT * FROM customers WHERE id = 5 AND name = 'x'", b"SELECT id FROM measured WHERE id = 5")
        touching = (b"SELECT id FROM measured WHERE m = 'x'", b"SELECT name FROM customers WHERE name::measure = 'x'")
        for each in (judge, judge.wide):
            assert [text for text in reads if each.judge(text).action is not Action.ALLOW] == []
            for text in touching:
                verdict = each.judge(text)
                assert verdict.action is Action.REFUSE, text
                assert verdict.hint.endswith('or all of the extension: filter.allow_extensions: ["autoinc"].')
        for each in (trusting, trusting.wide):
            assert [text for text in (*reads, *touching) if each.judge(text).action is not Action.ALLOW] == []
    finally:
        server.sql("DROP DATABASE reach_extension")

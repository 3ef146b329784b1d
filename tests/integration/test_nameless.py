"""What runs although no name in a statement shows it: support functions of operator classes, casts that the server's
own functions look up.

Whatever must not run raises HOSTILE. The server alone is asked first, and does: so each of these tests can fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.filter import Filter, Policy
from proxy.operating import catalogue
from proxy.proofs.prove import prove
from proxy.sql.verdict import Action
from tests import servers

HOSTILE = "HOSTILE"
_BODY = f"IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', ''); RAISE EXCEPTION '{HOSTILE}'; END $$"
_OPERATORS = """
    OPERATOR 1 {0}.<, OPERATOR 2 {0}.<=, OPERATOR 3 {0}.=, OPERATOR 4 {0}.>=, OPERATOR 5 {0}.>"""
_INT_OPERATORS = "".join(
    f"CREATE OPERATOR h.{name} (FUNCTION = int4{function}, LEFTARG = int, RIGHTARG = int{more});"
    for name, function, more in (
        ("<", "lt", ", COMMUTATOR = OPERATOR(h.>)"),
        ("<=", "le", ""),
        ("=", "eq", ", HASHES, MERGES"),
        (">=", "ge", ""),
        (">", "gt", ""),
    )
)
_UNICODE = '"u&""ok"""'
_MERGE = "SET enable_hashjoin = off; SET enable_nestloop = off;"
_HASH = "SET enable_mergejoin = off; SET enable_nestloop = off;"

ATTACKS = {
    "btree class, not the default one": (
        f"""{_INT_OPERATORS}
        CREATE FUNCTION h.cmp(int, int) RETURNS int {_BODY};
        CREATE OPERATOR CLASS h.ops FOR TYPE int USING btree AS {_OPERATORS.format("h")}, FUNCTION 1 h.cmp(int, int);
        CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 5) g;
        CREATE VIEW sorted AS SELECT * FROM t ORDER BY id USING OPERATOR(h.<)""",
        [
            "SELECT * FROM t ORDER BY id USING OPERATOR(h.<)",
            "SELECT array_agg(id ORDER BY id USING OPERATOR(h.<)) FROM t",
            "SELECT rank() OVER (ORDER BY id USING OPERATOR(h.>)) FROM t",
            f"{_MERGE} SELECT * FROM t a JOIN t b ON a.id OPERATOR(h.=) b.id",
            "SELECT * FROM sorted",
        ],
        ["SELECT * FROM t ORDER BY id", "SELECT DISTINCT id FROM t"],
    ),
    "commutator of a negator": (
        f"""CREATE FUNCTION h.equal(int, int) RETURNS bool {_BODY};
        CREATE OPERATOR h.=== (FUNCTION = h.equal, LEFTARG = int, RIGHTARG = int, HASHES, MERGES);
        CREATE OPERATOR h.== (FUNCTION = int4eq, LEFTARG = int, RIGHTARG = int, HASHES, MERGES,
            COMMUTATOR = OPERATOR(h.===));
        CREATE OPERATOR h.<>> (FUNCTION = int4ne, LEFTARG = int, RIGHTARG = int, NEGATOR = OPERATOR(h.==));
        CREATE OPERATOR CLASS h.ops FOR TYPE int USING hash AS OPERATOR 1 h.==, FUNCTION 1 hashint4(int);
        CREATE OPERATOR CLASS h.more FOR TYPE int USING hash AS OPERATOR 1 h.===, FUNCTION 1 hashint4(int);
        CREATE TABLE few AS SELECT g AS id FROM generate_series(1, 5) g;
        CREATE TABLE many AS SELECT g AS id FROM generate_series(1, 5000) g; ANALYZE""",
        [f"{_HASH} SELECT count(*) FROM few a JOIN many b ON NOT a.id OPERATOR(h.<>>) b.id"],
        ["SELECT * FROM few ORDER BY id"],
    ),
    "hash class, not the default one": (
        f"""{_INT_OPERATORS}
        CREATE FUNCTION h.hash(int) RETURNS int {_BODY};
        CREATE OPERATOR CLASS h.ops FOR TYPE int USING hash AS OPERATOR 1 h.=, FUNCTION 1 h.hash(int);
        CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 5) g""",
        [
            "SELECT * FROM t WHERE (id OPERATOR(h.=) ANY (SELECT id FROM t)) IS NOT FALSE",
            f"{_HASH} SELECT * FROM t a JOIN t b ON a.id OPERATOR(h.=) b.id",
        ],
        ["SELECT DISTINCT id FROM t ORDER BY id"],
    ),
    "class of built-in operators, not the default one": (
        f"""CREATE FUNCTION h.cmp(box, box) RETURNS int {_BODY};
        CREATE OPERATOR CLASS h.ops FOR TYPE box USING btree AS {_OPERATORS.format("pg_catalog")},
            FUNCTION 1 h.cmp(box, box);
        CREATE TABLE t AS SELECT box(point(g, g), point(g, g)) AS id FROM generate_series(1, 5) g""",
        ["SELECT * FROM t ORDER BY id USING <", "SELECT * FROM t ORDER BY id USING OPERATOR(pg_catalog.<)"],
        [],
    ),
    "default class of a built-in type": (
        f"""CREATE FUNCTION h.cmp(box, box) RETURNS int {_BODY};
        CREATE OPERATOR CLASS h.ops DEFAULT FOR TYPE box USING btree AS {_OPERATORS.format("pg_catalog")},
            FUNCTION 1 h.cmp(box, box);
        CREATE TABLE t AS SELECT box(point(g, g), point(g, g)) AS id FROM generate_series(1, 5) g""",
        [
            "SELECT * FROM t ORDER BY id",
            "SELECT DISTINCT id FROM t",
            "SELECT DISTINCT box(point(x, x), point(1, 1)) FROM generate_series(1, 3) x",
        ],
        [],
    ),
    "default class of a built-in type, with operators of its own": (
        f"""CREATE FUNCTION h.cmp(json, json) RETURNS int {_BODY};
        CREATE FUNCTION h.eq(json, json) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1::text = $2::text';
        CREATE OPERATOR h.= (FUNCTION = h.eq, LEFTARG = json, RIGHTARG = json);
        CREATE OPERATOR CLASS h.ops DEFAULT FOR TYPE json USING btree AS OPERATOR 3 h.=,
            FUNCTION 1 h.cmp(json, json)""",
        ["SELECT ARRAY[to_json(1)] < ARRAY[to_json(2)]"],
        [],
    ),
    "class with a built-in function that is not meant for it": (
        """CREATE OPERATOR h.= (FUNCTION = oideq, LEFTARG = oid, RIGHTARG = oid, HASHES);
        CREATE OPERATOR CLASS h.ops FOR TYPE oid USING hash AS OPERATOR 1 h.=, FUNCTION 1 lo_unlink(oid);
        CREATE TABLE t AS SELECT g::oid AS id FROM generate_series(100001, 100002) g""",
        [f"{_HASH} SELECT * FROM t a JOIN t b ON a.id OPERATOR(h.=) b.id"],
        ["SELECT * FROM t ORDER BY id"],
    ),
    "type that is another one without a word": (
        f"""CREATE TYPE h.t; CREATE FUNCTION h.t_in(cstring) RETURNS h.t IMMUTABLE STRICT LANGUAGE internal AS 'box_in';
        CREATE FUNCTION h.t_out(h.t) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'box_out';
        CREATE TYPE h.t (INPUT = h.t_in, OUTPUT = h.t_out, INTERNALLENGTH = 32, ALIGNMENT = double);
        CREATE CAST (box AS h.t) WITHOUT FUNCTION AS IMPLICIT;
        CREATE FUNCTION h.eq(h.t, h.t) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true';
        CREATE OPERATOR h.= (FUNCTION = h.eq, LEFTARG = h.t, RIGHTARG = h.t);
        CREATE OPERATOR h.< (FUNCTION = h.eq, LEFTARG = h.t, RIGHTARG = h.t);
        CREATE FUNCTION h.cmp(h.t, h.t) RETURNS int {_BODY};
        CREATE OPERATOR CLASS h.ops DEFAULT FOR TYPE h.t USING btree AS OPERATOR 1 h.<, OPERATOR 3 h.=,
            FUNCTION 1 h.cmp(h.t, h.t)""",
        ["SELECT ARRAY[box(point(1, 1), point(2, 2))] < ARRAY[box(point(1, 1), point(3, 3))]"],
        [],
    ),
    "cast of a built-in type to text": (
        f"""CREATE FUNCTION h.shown(point) RETURNS text {_BODY};
        CREATE CAST (point AS text) WITH FUNCTION h.shown(point);
        CREATE TABLE t AS SELECT point(1, 1) AS id""",
        [
            "SELECT quote_literal(id) FROM t",
            "SELECT quote_nullable(point(1, 1))",
            "SELECT point(1, 1) || version()",
            "SELECT textanycat('x', id) FROM t",
        ],
        [],
    ),
    "cast of a built-in type to another one, within a type that is made of it": (
        f"""CREATE FUNCTION h.as_int(point) RETURNS int {_BODY};
        CREATE CAST (point AS int) WITH FUNCTION h.as_int(point);
        CREATE DOMAIN h.number AS int; CREATE TYPE h.pair AS (a int)""",
        [
            "SELECT point(1, 1)::h.number",
            "SELECT ROW(point(1, 1))::h.pair",
            "SELECT ARRAY[point(1, 1)]::_int4",
        ],
        [],
    ),
    "cast to an array": (
        f"""CREATE TYPE h.mood AS ENUM ('well');
        CREATE FUNCTION h.moods(text) RETURNS h.mood[] {_BODY};
        CREATE CAST (text AS h.mood[]) WITH FUNCTION h.moods(text);
        CREATE TABLE t (mood h.mood, id int)""",
        ["SELECT version()::h.mood[]", "SELECT CAST(version() AS h._mood)"],
        ["SELECT '{well}'::h.mood[]", "SELECT mood FROM t"],
    ),
    "cast of an array of rows": (
        f"""CREATE TABLE t (id int); INSERT INTO t VALUES (1); CREATE TABLE other (id int);
        CREATE FUNCTION h.shown(t[]) RETURNS text {_BODY}; CREATE CAST (t[] AS text) WITH FUNCTION h.shown(t[])""",
        ["SELECT array_agg(t)::text FROM t", "SELECT quote_literal(ARRAY(SELECT t FROM t))"],
        ["SELECT array_agg(other)::text FROM other"],
    ),
    "relation whose name is no SQL": (
        f"""CREATE FUNCTION h.hostile() RETURNS int {_BODY};
        CREATE VIEW h.ok AS SELECT 1; CREATE VIEW h."ok*" AS SELECT h.hostile();
        CREATE VIEW h."ok--x" AS SELECT h.hostile(); CREATE VIEW h."ok;" AS SELECT h.hostile();
        CREATE VIEW h."ok/**/" AS SELECT h.hostile(); CREATE VIEW h.{_UNICODE} AS SELECT h.hostile();
        CREATE SCHEMA {"a" * 63}; CREATE VIEW {"a" * 63}.v AS SELECT h.hostile()""",
        [
            *(
                f"SELECT table_to_xml('{name}', true, true, '')"
                for name in ("h.ok*", "h.ok--x", "h.ok;", "h.ok/**/", 'h.u&"ok"', 'h."ok*"')
            ),
            f"SELECT schema_to_xml('{'a' * 64}', true, true, '')",
        ],
        ["SELECT table_to_xml('h.ok', true, true, '')", "SELECT table_to_xml('H.\"ok\"', true, true, '')"],
    ),
    "cast of an array to text": (
        f"""CREATE TYPE h.mood AS ENUM ('well');
        CREATE FUNCTION h.shown(h.mood[]) RETURNS text {_BODY};
        CREATE CAST (h.mood[] AS text) WITH FUNCTION h.shown(h.mood[]);
        CREATE TABLE t (mood h.mood, id int); INSERT INTO t VALUES ('well')""",
        ["SELECT quote_literal(array_agg(mood)) FROM t"],
        ["SELECT 1"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        yield found


def learn(server: EmbeddedServer, dbname: str) -> Filter:
    rows = catalogue.load(server.dsn(dbname))
    judge = Filter(Policy(server_version=rows.version))
    judge.learn_catalog(prove(rows, judge.policy))
    return judge


def runs(server: EmbeddedServer, sql: str, dbname: str) -> bool:
    """Tell whether a script runs what must not run, on the server alone."""
    try:
        server.sql(f"BEGIN READ ONLY; {sql}", dbname)
    except EmbeddedError as error:
        return any(words in str(error) for words in (HOSTILE, "large object", "lo_unlink"))
    return False


@pytest.mark.parametrize("kind", ATTACKS)
def test_attack_through_what_no_name_shows(server: EmbeddedServer, kind: str) -> None:
    setup, attacks, reads = ATTACKS[kind]
    server.sql("CREATE DATABASE nameless")
    try:
        server.sql(f"CREATE SCHEMA h; {setup}", "nameless")
        judge = learn(server, "nameless")
        for script in attacks:
            assert runs(server, script, "nameless"), script
            *_, statement = script.split("; ")
            verdict = judge.judge(statement.encode())
            assert verdict.action is Action.REFUSE, statement
            assert verdict.rule.startswith(("unproved-", "sql-text-")), (statement, verdict)
        for statement in reads:
            verdict = judge.judge(statement.encode())
            assert verdict.action is Action.ALLOW, (statement, verdict)
            assert not runs(server, statement, "nameless"), statement
    finally:
        server.sql("DROP DATABASE nameless")


EXTENSIONS = (
    *("btree_gin", "btree_gist", "citext", "cube", "dict_int", "earthdistance", "fuzzystrmatch", "hstore", "intarray"),
    *("isn", "ltree", "pg_trgm", "pgcrypto", "postgis", "seg", "unaccent", "uuid-ossp", "vector"),
)


_PAIR_OPERATORS = "".join(
    f"""CREATE FUNCTION h.{function}(h.pair, h.pair) RETURNS bool {_BODY};
    CREATE OPERATOR h.{name} (FUNCTION = h.{function}, LEFTARG = h.pair, RIGHTARG = h.pair);"""
    for name, function in (("<", "lt"), ("<=", "le"), ("=", "eq"), (">=", "ge"), (">", "gt"))
)
_PAIRS = f"""CREATE TYPE h.pair AS (x int, y int);
    {_PAIR_OPERATORS}
    CREATE FUNCTION h.cmp(h.pair, h.pair) RETURNS int {_BODY};
    CREATE OPERATOR CLASS h.ops DEFAULT FOR TYPE h.pair USING btree AS {_OPERATORS.format("h")},
        FUNCTION 1 h.cmp(h.pair, h.pair);
    CREATE TABLE t AS SELECT g AS id, row(g, g)::h.pair AS q FROM generate_series(1, 5) g"""


def test_attack_number_of_an_output_column_of_another_type_than_in_a_query_that_was_allowed(
    server: EmbeddedServer,
) -> None:
    server.sql("CREATE DATABASE nameless")
    try:
        server.sql(f"CREATE SCHEMA h; {_PAIRS}", "nameless")
        judge = learn(server, "nameless")
        for query in (
            "SELECT id, q FROM t ORDER BY {}",
            "TABLE t ORDER BY {} DESC",
            "SELECT DISTINCT ON ({}) id, q FROM t",
            "SELECT id, q FROM t UNION ALL SELECT id, q FROM t ORDER BY {}",
            "SELECT id FROM (SELECT id, q FROM t ORDER BY {} LIMIT 3) s",
        ):
            harmless, attack = query.format(1).encode(), query.format(2).encode()
            assert judge.judge(harmless).action is Action.ALLOW, harmless
            assert runs(server, attack.decode(), "nameless"), attack
            verdict = judge.judge(attack)
            assert (verdict.action, verdict.rule) == (Action.REFUSE, "unproved-operator"), attack
    finally:
        server.sql("DROP DATABASE nameless")


def test_extension_spoils_nothing(server: EmbeddedServer) -> None:
    available = set(server.sql("SELECT name FROM pg_available_extensions").split())
    found = [name for name in EXTENSIONS if name in available]
    server.sql("CREATE DATABASE extended")
    try:
        server.sql("".join(f'CREATE EXTENSION "{name}" CASCADE; ' for name in found), "extended")
        catalog = learn(server, "extended").functions.catalog
        assert catalog is not None
        assert catalog.everything is None
        rows = {row.oid: f"{row.schema}.{row.name}" for row in catalogue.load(server.dsn("extended")).operators}
        assert {rows[oid] for kind, oid in catalog.taints if kind == "operator"} == set()
    finally:
        server.sql("DROP DATABASE extended")

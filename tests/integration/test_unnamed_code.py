"""Code that the server runs and no statement names: estimators, support functions, parsers, replaced built-ins.

Each attack is code that raises HOSTILE. Where the server alone is asked, it does: so each of these tests can fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.filter import Policy
from proxy.operating import catalogue
from proxy.proofs.prove import prove
from proxy.sql.verdict import Action
from tests import servers
from tests.integration.test_reach import learn

HOSTILE = "binary upgrade mode"  # what the symbol below says, whatever it is given
_WRITES = "invalid large-object descriptor"  # of lo_truncate
_SYMBOL = "LANGUAGE internal AS 'binary_upgrade_set_record_init_privs'"
_BODY = f"LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RAISE EXCEPTION '{HOSTILE}'; END $$"
_DATABASE = "unnamed"
_TABLE = "CREATE TABLE t (id int, v varchar); INSERT INTO t VALUES (1, 'x'); CREATE TABLE other (id int);"
_DICTIONARY = f"""
CREATE FUNCTION lexize(internal, internal, internal, internal) RETURNS internal {_SYMBOL};
CREATE TEXT SEARCH TEMPLATE evil (LEXIZE = lexize);
CREATE TEXT SEARCH DICTIONARY evil (TEMPLATE = evil);
CREATE TEXT SEARCH CONFIGURATION evil (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION evil ALTER MAPPING FOR asciiword WITH evil;
"""

_CALL = "binary_upgrade_set_record_init_privs(true) IS NULL"


def _own_type(name: str) -> str:
    return f"""CREATE TYPE {name} AS ENUM ('a'); CREATE FUNCTION same({name}, {name}) RETURNS bool {_BODY};
        CREATE OPERATOR = (LEFTARG = {name}, RIGHTARG = {name}, FUNCTION = same)"""


SERVING: dict[str, tuple[str, str]] = {
    "estimator of an operator": (
        f"""CREATE FUNCTION estimate(internal, oid, internal, int) RETURNS float8 {_SYMBOL};
        CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq, RESTRICT = estimate)""",
        "SELECT * FROM t WHERE id === 1",
    ),
    "join estimator of an operator": (
        f"""CREATE FUNCTION estimate(internal, oid, internal, int2, internal) RETURNS float8 {_SYMBOL};
        CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq, JOIN = estimate)""",
        "SELECT * FROM t JOIN other o ON t.id === o.id",
    ),
    "estimator of a built-in operator": (
        f"""CREATE FUNCTION estimate(internal, oid, internal, int) RETURNS float8 {_SYMBOL};
        ALTER OPERATOR pg_catalog.= (int, int) SET (RESTRICT = estimate)""",
        "SELECT * FROM t WHERE id = 1",
    ),
    "support function": (
        f"""CREATE FUNCTION supports(internal) RETURNS internal {_SYMBOL};
        CREATE FUNCTION honest(int) RETURNS int LANGUAGE plpgsql SUPPORT supports AS 'BEGIN RETURN 1; END'""",
        "SELECT honest(id) FROM t",
    ),
    "support function of a built-in": (
        f"""CREATE FUNCTION supports(internal) RETURNS internal {_SYMBOL};
        ALTER FUNCTION pg_catalog.lower(text) SUPPORT supports""",
        "SELECT lower(v) FROM t",
    ),
    "type modifier of a built-in type": (
        f"""CREATE FUNCTION modified(cstring[]) RETURNS int {_SYMBOL};
        ALTER TYPE pg_catalog.varchar SET (TYPMOD_IN = modified)""",
        "SELECT 'x'::varchar(3)",
    ),
    "access method of a table": (
        """CREATE FUNCTION handles(internal) RETURNS table_am_handler LANGUAGE internal AS 'heap_tableam_handler';
        CREATE ACCESS METHOD evil TYPE TABLE HANDLER handles;
        CREATE TABLE held (id int) USING evil;
        """
        f"CREATE OR REPLACE FUNCTION handles(internal) RETURNS table_am_handler {_SYMBOL}",
        "SELECT * FROM held",
    ),
    "aggregate of pg_catalog's that is replaced": (
        f"""CREATE FUNCTION sums(bigint, int) RETURNS bigint {_BODY};
        CREATE OR REPLACE AGGREGATE pg_catalog.sum(int) (SFUNC = sums, STYPE = bigint)""",
        "SELECT sum(id) FROM t",
    ),
    "dictionary of a configuration": (_DICTIONARY, "SELECT to_tsvector('evil', v) FROM t"),
    "dictionary by its name": (_DICTIONARY, "SELECT ts_lexize('evil', 'x')"),
    "dictionary of the default configuration": (
        f"{_DICTIONARY}; ALTER DATABASE {_DATABASE} SET default_text_search_config = 'public.evil'",
        "SELECT * FROM t WHERE v::text @@ 'x'",
    ),
    "dictionary of a query": (_DICTIONARY, "SELECT plainto_tsquery('evil', 'x')"),
    "dictionary as an attribute": (
        f"{_DICTIONARY}; ALTER DATABASE {_DATABASE} SET default_text_search_config = 'public.evil'",
        "SELECT (x.y).to_tsvector FROM (VALUES ('x'::text)) x(y)",
    ),
    "dictionary in a function": (
        f"""{_DICTIONARY}
        CREATE FUNCTION honest(text) RETURNS tsvector LANGUAGE sql AS $$ SELECT to_tsvector('evil', $1) $$""",
        "SELECT honest('x')",
    ),
    "dictionary under an operator": (
        f"""{_DICTIONARY}; ALTER DATABASE {_DATABASE} SET default_text_search_config = 'public.evil';
        CREATE OPERATOR ==> (RIGHTARG = text, FUNCTION = to_tsvector)""",
        "SELECT ==> 'x'::text",
    ),
    "template that begins": (
        f"""CREATE FUNCTION begins(internal) RETURNS internal {_SYMBOL};
        CREATE TEXT SEARCH TEMPLATE evil (INIT = dsimple_init, LEXIZE = dsimple_lexize);
        CREATE TEXT SEARCH DICTIONARY evil (TEMPLATE = evil);
        UPDATE pg_ts_template SET tmplinit = 'begins'::regproc WHERE tmplname = 'evil'""",
        "SELECT ts_lexize('evil', 'x')",
    ),
    "parser": (
        f"""CREATE FUNCTION begins(internal, int) RETURNS internal {_SYMBOL};
        CREATE TEXT SEARCH PARSER evil (START = begins, GETTOKEN = prsd_nexttoken, END = prsd_end,
            LEXTYPES = prsd_lextype)""",
        "SELECT * FROM ts_parse('evil', 'x')",
    ),
    "default conversion": (
        f"""CREATE FUNCTION converts(int, int, cstring, internal, int) RETURNS void {_SYMBOL};
        CREATE FUNCTION converts(int, int, cstring, internal, int, bool) RETURNS int {_SYMBOL};
        CREATE DEFAULT CONVERSION evil FOR 'LATIN2' TO 'WIN1250' FROM latin2_to_win1250;
        UPDATE pg_conversion c SET conproc = p.oid, conforencoding = pg_char_to_encoding('LATIN1'),
            contoencoding = pg_char_to_encoding('LATIN2')
        FROM pg_proc p, pg_proc before
        WHERE conname = 'evil' AND before.oid = conproc AND p.proname = 'converts' AND p.pronargs = before.pronargs""",
        "SELECT convert('x', 'LATIN1', 'LATIN2')",
    ),
    "canonical function of a range": (
        """CREATE TYPE r;
        CREATE FUNCTION canonical(r) RETURNS r LANGUAGE internal IMMUTABLE AS 'int4range_canonical';
        CREATE TYPE r AS RANGE (SUBTYPE = int, CANONICAL = canonical);
        """
        f"CREATE OR REPLACE FUNCTION canonical(r) RETURNS r IMMUTABLE {_BODY}",
        "SELECT r(1, 2)",
    ),
}
REPLACED: dict[str, tuple[str, str]] = {
    "internal function that is in SQL by now": (
        f"""CREATE FUNCTION hostile() RETURNS text {_BODY};
        CREATE OR REPLACE FUNCTION pg_catalog.lower(text) RETURNS text LANGUAGE sql AS 'SELECT public.hostile()'""",
        "SELECT lower(v) FROM t",
    ),
    "function of an operator": (
        f"""CREATE FUNCTION hostile() RETURNS int {_BODY};
        CREATE OR REPLACE FUNCTION pg_catalog.int4pl(int, int) RETURNS int LANGUAGE sql AS 'SELECT public.hostile()'""",
        "SELECT id + 1 FROM t",
    ),
    "function in SQL": (
        f"""CREATE FUNCTION hostile() RETURNS interval {_BODY};
        CREATE OR REPLACE FUNCTION pg_catalog.age(timestamptz) RETURNS interval LANGUAGE sql
            AS 'SELECT public.hostile()'""",
        "SELECT age(now())",
    ),
    "function of information_schema": (
        f"""CREATE FUNCTION hostile() RETURNS int {_BODY};
        CREATE OR REPLACE FUNCTION information_schema._pg_char_max_length(typid oid, typmod int4) RETURNS int
            LANGUAGE sql AS 'SELECT public.hostile()'""",
        "SELECT information_schema._pg_char_max_length(1, 1)",
    ),
    "renamed to an overload of a read": (
        "ALTER FUNCTION pg_catalog.binary_upgrade_set_record_init_privs(bool) RENAME TO abs",
        "SELECT abs(true)",
    ),
    "renamed, with the source of a read": (
        """ALTER FUNCTION pg_catalog.binary_upgrade_set_record_init_privs(bool) RENAME TO abs;
        CREATE OR REPLACE FUNCTION pg_catalog.abs(bool) RETURNS void LANGUAGE internal AS 'int4abs'""",
        "SELECT abs(true)",
    ),
    "other source, where no OID says what it is": (
        f"""CREATE OR REPLACE FUNCTION information_schema._pg_char_max_length(typid oid, typmod int4) RETURNS int
            {_SYMBOL}""",
        "SELECT information_schema._pg_char_max_length(1, 1)",
    ),
    "renamed, and another in its place": (
        f"""ALTER FUNCTION pg_catalog.lower(text) RENAME TO lowered;
        CREATE FUNCTION pg_catalog.lower(text) RETURNS text {_BODY}""",
        "SELECT lower('X')",
    ),
    "symbol whose bearer was renamed": (
        f"""ALTER FUNCTION pg_catalog.binary_upgrade_set_record_init_privs(bool) RENAME TO abs;
        CREATE FUNCTION mine() RETURNS int {_SYMBOL}""",
        "SELECT mine()",
    ),
    "language that is called plpgsql": (
        f"""CREATE FUNCTION handles() RETURNS language_handler {_SYMBOL};
        ALTER LANGUAGE plpgsql RENAME TO real; CREATE LANGUAGE plpgsql HANDLER handles;
        CREATE FUNCTION mine() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'""",
        "SELECT mine()",
    ),
    "view of pg_catalog's": (
        f"CREATE OR REPLACE VIEW pg_catalog.pg_timezone_abbrevs AS SELECT CASE WHEN {_CALL} THEN 'x' END AS abbrev,"
        " interval '1 hour' AS utc_offset, true AS is_dst",
        "SELECT * FROM pg_timezone_abbrevs",
    ),
    "view of information_schema, renamed and back": (
        f"""BEGIN;
        ALTER VIEW information_schema.information_schema_catalog_name RENAME TO other;
        CREATE OR REPLACE VIEW information_schema.other AS
            SELECT CASE WHEN {_CALL} THEN 'x' END::information_schema.sql_identifier AS catalog_name;
        ALTER VIEW information_schema.other RENAME TO information_schema_catalog_name;
        COMMIT""",
        "SELECT * FROM information_schema.information_schema_catalog_name",
    ),
    "domain of information_schema with another CHECK": (
        f"""CREATE FUNCTION checks(int) RETURNS bool {_BODY};
        ALTER DOMAIN information_schema.cardinal_number ADD CHECK (checks(VALUE)) NOT VALID""",
        "SELECT ordinal_position FROM information_schema.columns",
    ),
    "aggregate of built-in functions that do more": (
        "CREATE OR REPLACE AGGREGATE pg_catalog.bit_or(int) (SFUNC = lo_truncate, STYPE = int, INITCOND = '0')",
        "SELECT bit_or(id) FROM t",
    ),
    "type that is renamed, and another in its place": (
        f"ALTER TYPE pg_catalog.macaddr RENAME TO former; {_own_type('macaddr')}",
        "SELECT 'a'::macaddr = 'a'",
    ),
    "domain in the place of a type": (
        f"""ALTER TYPE pg_catalog.macaddr RENAME TO former; CREATE FUNCTION checks(text) RETURNS bool {_BODY};
        CREATE DOMAIN macaddr AS text CHECK (checks(VALUE))""",
        "SELECT 'a'::macaddr",
    ),
}
MISTAKEN: dict[str, tuple[str, str]] = {
    "type with the name of a function": (_own_type("initcap"), "SELECT initcap('a') = 'a'"),
    "domain with the name of a function": (
        f"""CREATE DOMAIN md5 AS varchar; CREATE FUNCTION same(md5, md5) RETURNS bool {_BODY};
        CREATE OPERATOR = (LEFTARG = md5, RIGHTARG = md5, FUNCTION = same)""",
        "SELECT md5(v) = 'x' FROM t",
    ),
    "function that takes what has no type": (
        f"CREATE FUNCTION lower(unknown) RETURNS text {_SYMBOL}",
        "SELECT lower('x')",
    ),
}
"""Names that mean something else than what pg_catalog has under them."""
EVERY = SERVING | REPLACED | MISTAKEN


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        yield found


@pytest.fixture
def database(server: EmbeddedServer) -> Iterator[str]:
    server.sql(f"CREATE DATABASE {_DATABASE}")
    try:
        server.sql(_TABLE, _DATABASE)
        yield _DATABASE
    finally:
        server.sql(f"DROP DATABASE {_DATABASE}")


def runs(server: EmbeddedServer, sql: str) -> bool:
    """Tell whether a statement runs what must not run, on the server alone."""
    try:
        server.sql(sql, _DATABASE)
    except EmbeddedError as error:
        return HOSTILE in str(error) or _WRITES in str(error)
    return False


@pytest.mark.parametrize("attack", EVERY)
def test_attack_code_that_no_statement_names(server: EmbeddedServer, database: str, attack: str) -> None:
    setup, statement = EVERY[attack]
    before = learn(server, database)
    server.sql(f"SET allow_system_table_mods = on; {setup}", database)
    assert runs(server, statement)
    judge = learn(server, database)
    assert judge.judge(statement.encode()).action is not Action.ALLOW
    assert before.judge(b"SELECT id + 1, lower(v), to_tsvector('simple', v) FROM t").action is Action.ALLOW


def test_text_search_that_is_no_read_spoils_nothing_else(server: EmbeddedServer, database: str) -> None:
    server.sql(_DICTIONARY, database)
    judge = learn(server, database)
    for text in (b"SELECT id + 1, lower(v) FROM t", b"SELECT 'a b'::tsvector", b"SELECT count(*) FROM t WHERE v ~ 'x'"):
        assert judge.judge(text).action is Action.ALLOW
    refused = judge.judge(b"SELECT to_tsvector('simple', v) FROM t")
    assert refused.rule == "unproved-function"
    assert refused.hint == 'The operator can allow it: filter.allow_functions: ["public.lexize"].'
    allowing = learn(server, database, Policy(allow_functions=("public.lexize",)))
    assert allowing.judge(b"SELECT to_tsvector('simple', v) FROM t").action is Action.ALLOW


def test_rights_on_built_in_functions_can_change(server: EmbeddedServer, database: str) -> None:
    """A hardened server revokes rights on many of them, and they remain what they are."""
    server.sql(
        """DO $$ DECLARE f regprocedure; BEGIN
            FOR f IN SELECT oid FROM pg_proc WHERE oid < 16384 LOOP
                EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
            END LOOP;
        END $$""",
        database,
    )
    judge = learn(server, database)
    for text in (
        b"SELECT id + 1, lower(v), age(now()), lpad(v, 3), quote_literal(1) FROM t",
        b"SELECT count(*), sum(id), max(v), array_agg(id), json_agg(id), string_agg(v, '') FROM t",
        b"SELECT * FROM information_schema.columns",
    ):
        verdict = judge.judge(text)
        assert verdict.action is Action.ALLOW, (verdict.message, verdict.detail)


def test_ordinary_contrib(server: EmbeddedServer, database: str) -> None:
    made = [
        name
        for name in ("unaccent", "dict_xsyn", "dict_int", "pg_trgm", "btree_gist", "btree_gin", "bloom", "citext")
        if server.sql(f"SELECT name FROM pg_available_extensions WHERE name = '{name}'", database).strip()
    ]
    server.sql("".join(f"CREATE EXTENSION {name};" for name in made), database)
    if "bloom" in made:
        server.sql("CREATE INDEX ON t USING bloom (id)", database)
    if "btree_gist" in made:
        server.sql("CREATE INDEX ON t USING gist (id)", database)
    texts = [b"SELECT to_tsvector(v), v::text @@ 'x', id + 1 FROM t WHERE id = 1", b"SELECT ts_lexize('simple', 'x')"]
    texts += [b"SELECT unaccent(v) FROM t"] if "unaccent" in made else []
    texts += [b"SELECT v % 'x', similarity(v, 'x') FROM t WHERE v LIKE '%x%'"] if "pg_trgm" in made else []
    judge = learn(server, database)
    for text in texts:
        verdict = judge.judge(text)
        assert verdict.action is Action.ALLOW, (text, verdict.message, verdict.detail)


@pytest.mark.parametrize(
    ("extension", "text"),
    [
        ("xml2", "SELECT xpath_string('<a><b>x</b></a>', '/a/b'), xml_valid('<a/>')"),
        ("dblink", "SELECT dblink_get_connections()"),
    ],
)
def test_function_of_contrib_that_only_tells(server: EmbeddedServer, database: str, extension: str, text: str) -> None:
    if not server.sql(f"SELECT name FROM pg_available_extensions WHERE name = '{extension}'", database).strip():
        pytest.skip(f"the extension {extension} is not installed on this server")
    server.sql(f"CREATE EXTENSION {extension}; {text}", database)
    verdict = learn(server, database).judge(text.encode())
    assert verdict.action is Action.ALLOW, (verdict.message, verdict.detail)


_CAST = f"""
CREATE FUNCTION castf({{source}}) RETURNS {{target}} {_BODY};
CREATE CAST ({{source}} AS {{target}}) WITH FUNCTION castf({{source}});
CREATE DOMAIN d AS {{target}};
CREATE TYPE c AS (a {{target}});
"""
_MULTIRANGE_SINCE, _JSON_SINCE, _SORTED_SINCE = 14, 17, 18


def test_attack_cast_that_has_to_be_written_where_nobody_writes_it(server: EmbeddedServer, database: str) -> None:
    """A cast between built-in types that is no read counts where it can run, and nowhere else."""
    setup = _CAST.format(source="macaddr", target="text")
    server.sql(f"{setup}; CREATE TABLE cards (m macaddr); INSERT INTO cards VALUES ('08:00:2b:01:02:03')", database)
    judge = learn(server, database)
    casts = (
        *("m::text", "CAST(m AS text)", "ARRAY[m]::text[]", "m::d", "ARRAY[m]::d[]", "ROW(m)::c", "quote_literal(m)"),
        *("quote_nullable(m)", "m || ' '", "' ' || m", "ARRAY[m]::_text"),
    )
    for cast in casts:
        statement = f"SELECT {cast} FROM cards"
        assert judge.judge(statement.encode()).rule == "unproved-cast", statement
        assert runs(server, statement), statement
    reads = (
        *(
            "SELECT 1",
            "SELECT m, trunc(m) FROM cards",
            "SELECT 1::bigint, 'x'::text",
            "SELECT * FROM cards WHERE m = '::'",
        ),
        "SELECT to_json(m), format('%L', m), concat(m, ' '), m::macaddr FROM cards",
    )
    for statement in reads:
        verdict = judge.judge(statement.encode())
        assert verdict.action is Action.ALLOW, (statement, verdict.detail)
        assert not runs(server, statement), statement


def test_attack_type_that_only_a_newer_server_has(server: EmbeddedServer, database: str) -> None:
    if int(server.version.split(".")[0]) >= _MULTIRANGE_SINCE:
        pytest.skip("it has multiranges itself")
    server.sql(_own_type("datemultirange"), database)
    statement = "SELECT 'a'::datemultirange = 'a'"
    assert runs(server, statement)
    assert learn(server, database).judge(statement.encode()).action is not Action.ALLOW


_COMPARED = """
CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION less(pair, pair) RETURNS bool LANGUAGE sql AS 'SELECT $1.a < $2.a';
CREATE FUNCTION same(pair, pair) RETURNS bool LANGUAGE sql AS 'SELECT $1.a = $2.a';
CREATE FUNCTION compares(pair, pair) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1.a - $2.a; END';
CREATE FUNCTION hashes(pair) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1.a; END';
CREATE OPERATOR <<< (LEFTARG = pair, RIGHTARG = pair, FUNCTION = less);
CREATE OPERATOR === (LEFTARG = pair, RIGHTARG = pair, FUNCTION = same);
CREATE OPERATOR CLASS pairs DEFAULT FOR TYPE pair USING btree AS OPERATOR 1 <<<, OPERATOR 3 ===,
    FUNCTION 1 compares(pair, pair);
CREATE OPERATOR CLASS hashed DEFAULT FOR TYPE pair USING hash AS OPERATOR 1 ===, FUNCTION 1 hashes(pair);
CREATE FUNCTION mine(anyarray) RETURNS int LANGUAGE sql AS 'SELECT hash_array($1)';
CREATE TABLE pairs (x pair, y pair);
INSERT INTO pairs SELECT ROW(i % 3, 1)::pair, ROW(i % 3, 1)::pair FROM generate_series(1, 100) i;
ANALYZE pairs;
"""


def test_attack_statistics_that_are_compared(server: EmbeddedServer, database: str) -> None:
    """A column of type anyarray holds values of a type that nothing in the statement shows."""
    server.sql(
        f"""{_COMPARED}; CREATE OR REPLACE FUNCTION compares(pair, pair) RETURNS int {_BODY};
        CREATE OR REPLACE FUNCTION hashes(pair) RETURNS int {_BODY}""",
        database,
    )
    judge = learn(server, database)
    calls = [
        "max(most_common_vals)",
        "min(s.most_common_vals)",
        "hash_array(most_common_vals)",
        "mine(most_common_vals)",
    ]
    calls += ["(s.most_common_vals).hash_array"]
    calls += ["array_sort(most_common_vals)"] if int(server.version.split(".")[0]) >= _SORTED_SINCE else []
    for call in calls:
        statement = f"SELECT {call} FROM pg_stats s WHERE tablename = 'pairs'"
        assert judge.judge(statement.encode()).rule in ("unproved-type", "unproved-function"), statement
        assert runs(server, statement), statement
    for statement in (
        "SELECT * FROM pg_stats WHERE tablename = 'pairs'",
        "SELECT most_common_vals::text, array_length(most_common_vals, 1) FROM pg_stats WHERE tablename = 'pairs'",
        "SELECT max(n_distinct) FROM pg_stats",
    ):
        verdict = judge.judge(statement.encode())
        assert verdict.action is Action.ALLOW, (statement, verdict.detail)
        assert not runs(server, statement), statement


def test_attack_cast_to_json_that_nobody_writes(server: EmbeddedServer, database: str) -> None:
    if int(server.version.split(".")[0]) < _JSON_SINCE:
        pytest.skip("its functions in SQL/JSON came with PostgreSQL 17")
    server.sql(_CAST.format(source="bytea", target="jsonb"), database)
    judge = learn(server, database)
    for text in ("SELECT JSON_EXISTS('\\x20'::bytea, '$')", "SELECT JSON_VALUE('\\x20'::bytea, '$')"):
        assert judge.judge(text.encode()).rule == "unproved-cast"
    assert judge.judge(b"SELECT 1, to_json(1)").action is Action.ALLOW


OVERLOADS = {
    "= of a composite type": f"""CREATE TYPE c AS (a int); CREATE FUNCTION same(c, c) RETURNS bool {_BODY};
        CREATE OPERATOR = (LEFTARG = c, RIGHTARG = c, FUNCTION = same)""",
    "= in a schema that no path has": f"""CREATE TYPE c AS (a int); CREATE SCHEMA s;
        CREATE FUNCTION s.same(int, int) RETURNS bool {_BODY};
        CREATE OPERATOR s.= (LEFTARG = int, RIGHTARG = int, FUNCTION = s.same)""",
    "= of built-in types": f"""CREATE TYPE c AS (a int); CREATE FUNCTION same(int, int) RETURNS bool {_BODY};
        CREATE OPERATOR public.= (LEFTARG = int, RIGHTARG = int, FUNCTION = same)""",
    "operator class of an enum": f"""CREATE TYPE c AS ENUM ('a'); CREATE TYPE other_enum AS ENUM ('b', 'c');
        CREATE FUNCTION compares(anyenum, anyenum) RETURNS int {_SYMBOL};
        CREATE OPERATOR CLASS cs DEFAULT FOR TYPE c USING btree AS OPERATOR 1 < (anyenum, anyenum),
            OPERATOR 3 = (anyenum, anyenum), FUNCTION 1 (c, c) compares(anyenum, anyenum)""",
}
REFUSED = {
    "= of a composite type": ("SELECT x = x FROM (VALUES (ROW(1)::c)) v(x)",),
    "= in a schema that no path has": ("SELECT id OPERATOR(s.=) 1 FROM t",),
    "= of built-in types": ("SELECT id OPERATOR(public.=) 1 FROM t",),
    "operator class of an enum": (
        "SELECT ARRAY['a'::c] < ARRAY['a'::c]",
        # A merge may go by any family that has the operator.
        "SELECT x FROM unnest('{b,c}'::other_enum[]) v(x) ORDER BY x",
    ),
}


@pytest.mark.parametrize("overload", OVERLOADS)
def test_hostile_overload_spoils_no_statement_that_cannot_mean_it(
    server: EmbeddedServer, database: str, overload: str
) -> None:
    server.sql(OVERLOADS[overload], database)
    judge = learn(server, database)
    for statement in (
        "SELECT * FROM t JOIN other USING (id)",
        "SELECT * FROM t LEFT JOIN other o ON o.id = t.id WHERE o.id IS NULL",
        "SELECT CASE v WHEN 'x' THEN 1 ELSE 0 END, nullif(v, ''), id = 1 FROM t",
        "SELECT CASE 'x' WHEN v THEN 1 END FROM t",
        "SELECT * FROM t WHERE id IN (SELECT id FROM other) ORDER BY id",
        "SELECT relname FROM pg_class WHERE 'x' = ANY(reloptions) ORDER BY 1",
    ):
        verdict = judge.judge(statement.encode())
        assert verdict.action is Action.ALLOW, (statement, verdict.detail)
        assert not runs(server, statement), statement
    for statement in REFUSED[overload]:
        assert judge.judge(statement.encode()).action is not Action.ALLOW, statement
    assert runs(server, REFUSED[overload][0])


def test_attack_operator_of_the_same_types_where_a_path_can_come_first(server: EmbeddedServer, database: str) -> None:
    server.sql(OVERLOADS["= in a schema that no path has"], database)
    judge = learn(server, database)
    assert judge.judge(b"SELECT set_config('search_path', $1, true)").rule == "setting-value"
    judge.learn_paths([], shadowed=True)
    judge.learn_catalog(prove(catalogue.load(server.dsn(database)), judge.policy))
    assert judge.judge(b"SELECT id = 1 FROM t").rule == "unproved-operator"

"""Names that are looked up in a live catalogue: functions, attributes, relations, types, operators."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.filter import VOID_PARSE, Filter, Policy
from proxy.sql import catalog as c
from proxy.sql import operators, tables
from proxy.sql.text import parse
from proxy.sql.verdict import Action, Verdict

EVIL = 90_000
"""OIDs from here on are tainted."""


def relation(oid: int, schema: str = "public", *columns: str) -> c.Relation:
    return c.Relation(oid, schema, columns)


CATALOG = c.Catalog(
    functions={
        "slugify": (c.Callable(1, "public", 1, 1),),
        "writer": (c.Callable(EVIL + 1, "public", 0, 0),),
        "lower": (c.Callable(EVIL + 2, "public", 1, 1),),
        "total": (c.Callable(EVIL + 3, "public", 1, 1),),
        "computed": (c.Callable(EVIL + 4, "public", 1, 1),),
        "two": (c.Callable(2, "public", 1, 1), c.Callable(EVIL + 5, "audit", 2, 3)),
        "spread": (c.Callable(EVIL + 6, "public", 1, c.ANY_NUMBER),),
        "nextval": (c.Callable(3, "api", 1, 1),),
        "percentile": (c.Callable(EVIL + 7, "public", 2, 2),),
        "set_limit": (c.Callable(4, "public", 1, 1),),
        "json_value": (c.Callable(EVIL + 8, "public", 2, 2),),
        "abs": (c.Callable(EVIL + 9, "pg_catalog", 2, 2),),
        "replace": (c.Callable(5, "public", 3, 3, "text"),),  # as citext's
        "repeat": (c.Callable(6, "public", 2, 2),),
        "sampler": (c.Callable(EVIL + 10, "public", 1, 1),),
        "pg_brand_new": (c.Callable(7, "public", 1, 1),),
    },
    strangers=frozenset({"pg_brand_new"}),
    relations={
        "t": (relation(10, "public", "total"),),
        "u": (relation(11),),
        "v2": (relation(EVIL + 20),),
        "orders": (relation(12, "public"), relation(EVIL + 21, "api")),
        "pg_class": (relation(13, "pg_catalog"),),
        "pg_prepared_statements": (relation(14, "pg_catalog"),),
        "pg_backend_memory_contexts": (relation(15, "pg_catalog"),),
        "pg_stat_activity": (relation(16, "pg_catalog"),),
        "pg_hba_file_rules": (relation(17, "pg_catalog"),),
    },
    types={
        "evildom": (c.Type(EVIL + 30, "public"),),
        "_evildom": (c.Type(EVIL + 31, "public"),),
        "mood": (c.Type(30, "public"),),
        "t": (c.Type(31, "public"),),
        "int8": (c.Type(20, "pg_catalog"),),
        "money": (c.Type(EVIL + 32, "pg_catalog"),),
        "ct": (c.Type(33, "public"),),
        "date": (c.Type(34, "pg_catalog"),),
    },
    operators={
        "+": (c.Operator(EVIL + 40, "public", "int4", "text"), c.Operator(40, "public", "point", "box")),
        "=": (c.Operator(EVIL + 41, "public", "point", "box"),),
        "@@@": (c.Operator(EVIL + 42, "public", "int4", "text"),),
        "!!!": (c.Operator(EVIL + 43, "public", "", "text"),),
        "<=": (c.Operator(EVIL + 44, "public", "public.mood", "text"),),
        "~=": (c.Operator(41, "public", "text", "text"),),
    },
    taints={
        **{
            (kind, EVIL + number): c.Taint(f"{kind} public.x{number}", "its body executes INSERT", f"public.x{number}")
            for kind in (c.FUNCTION, c.RELATION, c.TYPE, c.OPERATOR)
            for number in range(50)
        },
        (c.CAST_TO, 33): c.Taint("the cast from text to public.ct", "it calls function public.x", "public.castf"),
        (c.CAST_TO, 34): c.Taint("the cast from text to date", "it calls function public.x", "public.castf"),
    },
    tainted_operators=frozenset({"+", "=", "@@@", "!!!", "<="}),
    tainted_types=True,
)
FILTER = Filter()
FILTER.learn_catalog(CATALOG)


def judge(sql: str, **policy: object) -> Verdict:
    if not policy:
        return FILTER.judge(sql.encode())
    other = Filter(Policy(**policy))  # type: ignore[arg-type]
    other.learn_catalog(CATALOG)
    return other.judge(sql.encode())


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("select writer()", "unproved-function"),
        ("select public.writer()", "unproved-function"),
        ("select lower('X'::varchar)", "unproved-function"),  # public.lower(varchar) beats pg_catalog.lower(text)
        ("select lower(v) from t", "unproved-function"),  # v may be a varchar
        ("select lower(slugify('x'))", "unproved-function"),
        ("select lower(repeat('x', 2))", "unproved-function"),
        ("select lower(variadic 'X'::text)", "unproved-function"),
        ("select lower('X'::text[])", "unproved-function"),
        ("select lower('X'::public.text)", "unproved-function"),
        ("select pg_catalog.abs(1, 2)", "unproved-function"),  # a superuser can put a function there
        ("select two(1, 2)", "unproved-function"),
        ("select spread(1, 2, 3, 4, 5)", "unproved-function"),
        ("select spread(variadic array[1])", "unproved-function"),
        ("select percentile(0.5) within group (order by a) from t", "unproved-function"),
        ("select nextval('s')", "side-effect-function"),  # api.nextval only reads, but pg_catalog's can be meant
        ("select nosuch(1)", "unknown-function"),
        ("select slugify()", "unknown-function"),
        ("select * from t tablesample sampler(10)", "unproved-function"),
        # x.f is f(x) where x has no column f, and a cast where f is a type
        ("select (t).computed from t", "unproved-function"),
        ("select t.computed from t", "unproved-function"),
        ("select (t).total from t", "unproved-function"),
        ("select u.total from u", "unproved-function"),
        ("select x.total from t as x(a)", "unproved-function"),
        ("select x.total from t as x, lateral (select x.total from u as x) y", "unproved-function"),
        ("select x.total from (select 1) x", "unproved-function"),
        ("with t as (select 1) select t.total from t", "unproved-function"),
        ("select api.t.total from public.t", "unproved-function"),
        ("select ('x'::text).evildom", "unproved-type"),
        ("select x.evildom from abs(1) x", "unproved-type"),
        # relations
        ("select * from v2", "unproved-relation"),
        ("select * from public.v2", "unproved-relation"),
        ("table v2", "unproved-relation"),
        ("copy (select 1 from v2) to stdout", "unproved-relation"),
        ("copy v2 to stdout", "unproved-relation"),
        ("explain select * from v2", "unproved-relation"),
        ("select * from orders", "unproved-relation"),
        ("select (with v2 as (select 1) select 1), * from v2", "unproved-relation"),
        ("select * from nosuch", "unknown-relation"),
        ("select * from public.pg_class", "unknown-relation"),
        ("with nosuch as (select 1) select * from public.nosuch", "unknown-relation"),
        # relations named by text
        ("select table_to_xml('v2', true, false, '')", "sql-text-function"),
        ("select table_to_xml('public.v2'::regclass, true, false, '')", "sql-text-function"),
        ("select table_to_xml('\"v2\"'::pg_catalog.regclass, true, false, '')", "sql-text-function"),
        ("select table_to_xml('u, v2', true, false, '')", "sql-text-function"),
        *(
            (f"select table_to_xml('{name}', true, false, '')", "sql-text-function")
            for name in ("u*", "u--x", "u;", "u/**/", 'u&"u"', "u ", "public.u*", "public. u", "é", '"u', "-", "1", "")
        ),
        (f"select table_to_xml('public.{'u' * 64}', true, false, '')", "sql-text-function"),
        (f"select schema_to_xml('{'u' * 64}', true, false, '')", "sql-text-function"),
        (f"select schema_to_xml('{'u' * 64}'::name, true, false, '')", "sql-text-function"),
        ("select table_to_xml(oid, true, false, '') from pg_class", "sql-text-function"),
        ("select table_to_xml(90020, true, false, '')", "sql-text-function"),
        ("select schema_to_xml('public', true, false, '')", "unproved-relation"),
        ("select schema_to_xml($1, true, false, '')", "sql-text-function"),
        ("select schema_to_xml('pg_catalog'::name, true, false, '')", "other-clients"),
        ("select schema_to_xml_and_xmlschema(name 'pg_catalog', true, false, '')", "other-clients"),
        ("select database_to_xml_and_xmlschema(true, false, 'public')", "unproved-relation"),
        # what other clients left on the connection
        ("table pg_backend_memory_contexts", "other-clients"),
        ("select ident from pg_catalog.pg_backend_memory_contexts", "other-clients"),
        ("select * from pg_get_backend_memory_contexts()", "other-clients"),
        ("select table_to_xml('pg_backend_memory_contexts', true, false, '')", "sql-text-function"),
        ("select query_to_xml('table pg_backend_memory_contexts', true, false, '')", "sql-text-function"),
        ("copy (table pg_backend_memory_contexts) to stdout", "other-clients"),
        # built-in functions that no table knows
        ("select pg_brand_new(1)", "unknown-built-in"),
        ("select pg_catalog.pg_brand_new(1)", "unknown-built-in"),
        ("select a.pg_brand_new from u a", "unknown-built-in"),
        ("select (a).pg_brand_new from u a", "unknown-built-in"),
        ("select database_to_xml(true, false, '')", "unproved-relation"),
        # types
        ("select 'x'::evildom", "unproved-type"),
        ("select cast('x' as public.evildom)", "unproved-type"),
        ("select '{x}'::evildom[]", "unproved-type"),
        ("select '{x}'::_evildom", "unproved-type"),
        ("select evildom('x')", "unproved-type"),
        ("select public.evildom('x')", "unproved-type"),
        ("select * from json_to_record('{}') as x(a evildom)", "unproved-type"),
        ("select * from json_table('{}', '$' columns (a evildom path '$.a')) x", "unproved-type"),
        ("select * from xmltable('/a' passing '<a/>' columns a evildom path 'x') x", "unproved-type"),
        ("prepare p(evildom) as select $1", "unproved-type"),
        ("select evildom 'x'", "unproved-type"),
        ("select json_value('{}', '$' returning evildom)", "unproved-type"),
        ("select 1::money", "unproved-type"),  # somebody's cast function to a built-in type
        ("select 'x'::nosuch", "unknown-type"),
        # casts
        ("select 'x'::text::ct", "unproved-cast"),
        ("select $1::ct", "unproved-cast"),
        ("select cast(v as ct) from t", "unproved-cast"),
        ("select ct(v) from t", "unproved-cast"),
        ("select v::ct, 'x'::ct from t", "unproved-cast"),
        ("select array['x'::text]::ct[]", "unproved-cast"),
        ("select v::date from t", "unproved-cast"),
        ("select date(v) from t", "unproved-cast"),
        ("select json_value('{}', '$' returning ct)", "unproved-cast"),
        # operators
        ("select 1 @@@ 'x'", "unproved-operator"),
        ("select 1 operator(public.@@@) 'x'", "unproved-operator"),
        ("select id + v from t", "unproved-operator"),
        ("select 1 + v from t", "unproved-operator"),
        ("select !!! v from t", "unproved-operator"),
        ("select a @@@ any (array['x']) from t", "unproved-operator"),
        ("select a in (b, c) from t", "unproved-operator"),
        ("select a in (select b from u) from t", "unproved-operator"),
        ("select a = all (select b from u) from t", "unproved-operator"),
        ("select case a when b then 1 end from t", "unproved-operator"),
        ("select nullif(a, b) from t", "unproved-operator"),
        ("select a is distinct from b from t", "unproved-operator"),
        ("select a between b and 'z' from t", "unproved-operator"),
        ("select * from t join u using (id)", "unproved-operator"),
        ("select * from t natural join u", "unproved-operator"),
        ("select * from t order by a using @@@", "unproved-operator"),
        ("select (a, b) = (select 1, 2) from t", "unproved-operator"),
        ("select 1 operator(public.%%%) 2", "unknown-operator"),
    ],
)
def test_disguise_is_refused(sql: str, rule: str) -> None:
    verdict = judge(sql)
    assert verdict.rule == rule, verdict
    assert f"(rule: {rule})" in verdict.detail
    assert verdict.position > 0


@pytest.mark.parametrize(
    "sql",
    [
        "select slugify('x'), public.slugify('x')",
        "select two(1)",
        "select pg_catalog.lower('X')",
        "select lower('X'), lower('X'::text), lower(replace('a', 'b', 'c')), lower(cast(1 as pg_catalog.text))",
        "lock table v2, nosuch in access share mode",
        "select abs(1)",
        "select api.nextval('s')",
        "select t.total, x.total from t, t as x",
        "select x.total from t as x(total)",
        "select public.t.total from public.t",
        "select t.slugify from t",
        "select x.mood, (x).mood from u x",
        "select * from t, u, pg_class, pg_catalog.pg_class",
        "select * from public.orders",
        "with nosuch as (select 1) select * from nosuch",
        "with recursive r as (select 1 union select 1 from r) select * from r",
        "select 'x'::mood, mood('x'), null::t, '1'::int8, int8 '1', 'a'::text, '{}'::int[]",
        "select a + 1, 2 + 3, a + '1 day'::interval, date '2020-01-01' + 1 from t",
        "select point '(1,2)' operator(pg_catalog.~=) point '(1,2)'",
        "select 'a' ~= 'b'",
        "select 1 = 1, a = 1, a = true, a in (1, 2), a between 1 and 2 from t",
        "select - a from t",
        "select '(1)'::ct, null::ct, cast('(1)' as public.ct), ct '(1)', date '2020-01-01', '2020-01-01'::date",
        "select table_to_xml('u', true, false, ''), table_to_xml('public.u'::regclass, true, false, '')",
        "select table_to_xml('PUBLIC.U', true, false, ''), table_to_xml('\"u\"', true, false, '')",
        "select schema_to_xml('information_schema'::name, true, false, '')",
        "select table_to_xmlschema('v2', true, false, ''), schema_to_xmlschema('pg_catalog', true, false, '')",
        "table pg_prepared_statements",
        "select public.pg_brand_new(1)",
        "select pg_get_partition_constraintdef(1), satisfies_hash_partition(1, 2, 0, 3)",
        "select 1 = any (array['x'])",  # its left operand can be no point
        "set constraints nosuch, t_fkey deferred",
        "select setting from t",
        "begin",
    ],
)
def test_honest_read_is_allowed(sql: str) -> None:
    verdict = judge(sql)
    assert verdict.action is Action.ALLOW, verdict


def test_alias_of_a_join_has_other_columns_than_the_table_of_that_name() -> None:
    without = Filter()
    without.learn_catalog(replace(CATALOG, operators={}))
    assert without.judge(b"select t.total from t join u using (id) as t").rule == "unproved-function"
    assert without.judge(b"select t.total from t join u using (id)").action is Action.ALLOW


def test_refusal_carries_the_line_that_would_allow_the_object() -> None:
    verdict = judge("select é, writer() from t")
    assert verdict.message == "permission denied for function public.x1: SideCart forwards reads only"
    assert verdict.detail == (
        "Nothing proves that function public.x1 only reads: its body executes INSERT (rule: unproved-function)."
    )
    assert verdict.hint == 'The operator can allow it: filter.allow_functions: ["public.x1"].'
    assert (verdict.sqlstate, verdict.position) == ("42501", 11)


def test_unknown_names_are_told_in_the_servers_words() -> None:
    unknown = [judge("select nosuch(1)"), judge("select 1 from nosuch"), judge("select 'x'::a.nosuch")]
    assert [(verdict.sqlstate, verdict.message) for verdict in unknown] == [
        ("42883", "function nosuch does not exist"),
        ("42P01", 'relation "nosuch" does not exist'),
        ("42704", 'type "a.nosuch" does not exist'),
    ]
    assert all(verdict.unresolved for verdict in unknown)
    assert not judge("select writer()").unresolved


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("select writer()", "public.x1"),
        ("select * from v2", "public.x20"),
        ("select 1::evildom", "public.x30"),
        ("select no_such_function(1)", "no_such_function"),
        ("select 1 from api.no_such_table", "api.no_such_table"),
        ("select 1::no_such_type", "no_such_type"),
    ],
)
def test_refusal_names_the_object_as_allow_functions_takes_it(sql: str, names: str) -> None:
    verdict = judge(sql)
    assert (verdict.action, verdict.object) == (Action.REFUSE, names)


def test_until_a_catalogue_is_there_the_hint_says_so() -> None:
    verdict = Filter(Policy(live=True)).judge(b"select slugify('x')")
    assert verdict.rule == "unknown-function" and verdict.unresolved
    assert verdict.hint == (
        "The catalogue of this database has not been read yet: try again in a moment."
        ' The operator can allow it: filter.allow_functions: ["slugify"].'
    )


def test_a_client_without_an_encoding_names_things_in_the_servers() -> None:
    """Read as Latin-1, `t.é` is no function that anybody knows; the server reads UTF-8 and calls it."""
    judge = Filter()
    writer = c.Callable(EVIL + 1, "public", 1, 1)
    judge.learn_catalog(replace(CATALOG, functions={"é": (writer,)}, relations={"té": (relation(10),)}, operators={}))
    verdict = judge.judge("select té.é from té".encode(), tables.RAW)
    assert (verdict.rule, verdict.position) == ("unproved-function", len("select ") + 1)
    assert judge.judge("select 1 from té".encode(), tables.RAW).action is Action.ALLOW
    assert judge.judge("select 'é', é() from té".encode(), tables.RAW).position == len("select 'é', ".encode()) + 1
    shown = judge.judge("select 1 from é".encode(), tables.RAW).message.encode(tables.RAW)
    assert shown == 'relation "é" does not exist'.encode()
    latin = judge.judge("select té.é from té".encode("latin-1"), "latin-1")
    assert latin.rule == "unproved-function"


def test_path_from_a_parameter_could_put_somebodys_function_before_the_built_in() -> None:
    sql = b"select set_config('search_path', $1, true)"
    twin = Filter()
    evil = {"lower": (c.Callable(EVIL + 1, "public", 1, 1, "text", twin=True),)}
    twin.learn_catalog(replace(CATALOG, functions=evil, types={}))
    assert twin.judge(sql).rule == "setting-value"
    without = Filter()
    harmless = {"lower": (c.Callable(1, "public", 1, 1, "text", twin=True), c.Callable(EVIL + 1, "public", 1, 1))}
    without.learn_catalog(replace(CATALOG, functions=harmless, types={"mood": CATALOG.types["mood"]}))
    assert without.judge(sql).action is Action.ALLOW
    assert Filter().judge(sql).action is Action.ALLOW


def test_path_from_a_parameter_could_make_an_operand_something_else_than_it_is_taken_for() -> None:
    """`'a'::time + 'b'` adds texts where public.time is a domain over text."""
    sql = b"select set_config('search_path', $1, true)"
    of_house = {"time": (c.Type(1, "pg_catalog"), c.Type(2, "public"))}
    adds = {"+": (c.Operator(EVIL + 1, "public", "text", "text"),)}
    judge = Filter()
    plain = replace(CATALOG, functions={}, types=of_house, operators={}, tainted_operators=frozenset())
    judge.learn_catalog(plain)
    assert judge.judge(sql).action is Action.ALLOW
    judge.learn_catalog(replace(plain, operators=adds, tainted_operators=frozenset("+")))
    assert judge.judge(sql).rule == "setting-value"
    judge.learn_catalog(replace(plain, functions={"lower": (c.Callable(EVIL + 1, "public", 1, 1),)}))
    assert judge.judge(sql).rule == "setting-value"
    judge.learn_catalog(replace(plain, operators=adds, tainted_operators=frozenset("+"), types={}))
    assert judge.judge(sql).action is Action.ALLOW


@pytest.mark.parametrize(
    "sql",
    [
        "select lower('x')",
        "select lower('x'::text)",
        "select '1'::date",
        "select date '1'",
        "select 'a'::time + 'b'",
        "select pg_input_is_valid('x', 'date')",
        "select pg_input_is_valid('x', 'date[]')",
    ],
)
def test_names_mean_anything_where_the_server_s_path_has_pg_catalog_behind_others(sql: str) -> None:
    catalog = replace(
        CATALOG,
        functions={"lower": (c.Callable(EVIL + 1, "public", 1, 1, "text", twin=True),)},
        types={"date": (c.Type(1, "pg_catalog"), c.Type(EVIL + 2, "public")), "time": (c.Type(2, "pg_catalog"),)},
        operators={"+": (c.Operator(EVIL + 3, "public", "text", "text"),)},
        tainted_operators=frozenset("+"),
        tainted_types=False,
    )
    judge = Filter()
    judge.learn_catalog(catalog)
    assert judge.judge(sql.encode()).action is Action.ALLOW
    judge.learn_paths([], shadowed=True)
    assert judge.catalog is None  # what it proved holds no more
    judge.learn_catalog(catalog)
    assert judge.judge(sql.encode()).action is Action.REFUSE
    assert judge.judge(b"select pg_catalog.lower('x'), '1'::pg_catalog.date, 2 * 3").action is Action.ALLOW
    judge.learn_paths([], shadowed=False)
    assert judge.judge(sql.encode()).action is Action.ALLOW


@pytest.mark.parametrize(
    ("server", "encoding", "sql", "refused"),
    [
        ("SQL_ASCII", tables.RAW, "é".encode("latin-1"), True),
        ("SQL_ASCII", tables.RAW, "é".encode(), False),
        ("SQL_ASCII", "latin-1", "é".encode("latin-1"), True),
        ("SQL_ASCII", "utf-8", "é".encode(), False),
        ("LATIN1", tables.RAW, "é".encode(), True),
        ("LATIN1", tables.RAW, b"e", False),
        ("LATIN1", "utf-8", "é".encode(), False),
        ("", tables.RAW, "é".encode(), False),
    ],
)
def test_bytes_that_the_server_may_read_as_another_name(server: str, encoding: str, sql: bytes, refused: bool) -> None:
    judge = Filter()
    judge.learn_catalog(replace(CATALOG, spellings=server))
    assert (judge.judge(b"select '" + sql + b"'", encoding).rule == "encoding") is refused


@pytest.mark.parametrize("server", ["LATIN1", "SQL_ASCII", "EUC_JP"])
def test_attack_name_that_a_server_in_another_encoding_cuts_off_elsewhere(server: str) -> None:
    judge = Filter()
    judge.learn_catalog(replace(CATALOG, spellings=server))
    long, quoted = "a" + 32 * "é", '"a ' + 31 * "é" + '"'
    for sql in (
        f"select {long} from t",
        f"with {long} as (select 1) select 1 from {long}",
        f"select 1 as {quoted}",
        f"select query_to_xml('select 1 as {long}', true, true, '')",
        'select U&"\\00e9" from t',
        "select 1 as Éa",
        "select query_to_xml(E'select 1 as \"\\xc3\\xa9\"', true, true, '')",
        "select table_to_xml(E'\"\\303\\251\"', true, true, '')",
        "select schema_to_xml(E'\\xc3\\xa9', true, true, '')",
    ):
        assert judge.judge(sql.encode()).action is Action.REFUSE, sql
    for sql in (
        f"select '{long}'",
        f"select 1 as a{31 * 'é'}",
        f"select 1 as {64 * 'a'}, 'é'",
        "select 1 as éa, 'É' as \"É\"",
        "select U&'\\00e9'",
    ):
        assert judge.judge(sql.encode()).action is Action.ALLOW, sql
    judge.learn_catalog(CATALOG)
    assert judge.judge(f"select 1 as {long}".encode()).action is Action.ALLOW


def test_session_state_is_noted_through_the_catalogue() -> None:
    assert [name for _, name in judge("select set_limit(0.1)").effects] == ["set_limit"]


def test_operator_of_the_house_has_the_last_word() -> None:
    assert judge("select slugify('x')", deny_functions=("public.slug*",)).rule == "denied-function"
    assert judge("select x.slugify from u x", deny_functions=("slugify",)).rule == "denied-function"
    assert judge("select later(1)", allow_functions=("later",)).action is Action.ALLOW


def test_keyword_of_a_newer_server_is_somebodys_function() -> None:
    assert judge("select json_value('{}', '$')", server_version=150000).rule == "unproved-function"
    assert judge("select json_value('{}', '$')", server_version=180000).action is Action.ALLOW


def test_implicit_casts_between_built_in_types_spoil_everything() -> None:
    spoiled = Filter()
    cast = c.Taint("cast from text to integer", "it calls function public.castf(text)", "public.castf")
    spoiled.learn_catalog(replace(CATALOG, everything=cast))
    assert spoiled.judge(b"select 1").rule == "unproved-cast"
    assert spoiled.judge(b"begin").action is Action.ALLOW


def test_implicit_casts_make_types_of_operands_say_nothing() -> None:
    cautious = Filter()
    cautious.learn_catalog(replace(CATALOG, implicit_casts=True))
    assert cautious.judge(b"select 1 + 1").rule == "unproved-operator"


def test_text_printed_by_the_server_means_built_ins_where_it_names_no_schema() -> None:
    exact = Filter()
    exact.learn_catalog(replace(CATALOG, exact=True))
    assert exact.judge(b"select lower('x'::varchar), 1 + 'x'::text from public.t").action is Action.ALLOW
    assert exact.judge(b"select public.lower('x')").rule == "unproved-function"
    assert exact.judge(b"select 1 operator(public.+) 'x'").rule == "unproved-operator"


def test_attack_a_cast_is_no_literal_because_a_forgotten_literal_stood_there_in_memory() -> None:
    literals = ", ".join(["''x''::public.ct"] * 500)  # so many that their places are taken again soon
    for others in range(40):
        cast = f"{'1, ' * others}v::public.ct from t"
        texts = (f"query_to_xml('select {text}', true, true, '')" for text in (literals, cast))
        assert judge(f"select {', '.join(texts)}").rule == "sql-text-function", others


def test_operators_with_a_schema_are_looked_at_where_none_is_tainted() -> None:
    clean = Filter()
    clean.learn_catalog(replace(CATALOG, taints={}, tainted_operators=frozenset(), tainted_types=False))
    assert clean.judge(b"select 1 @@@ 'x', 1 operator(public.@@@) 'x'").action is Action.ALLOW
    assert clean.judge(b"select 1 operator(public.%%%) 2").rule == "unknown-operator"
    assert clean.judge(b"select 1 from t order by 1 using operator(public.%%%)").rule == "unknown-operator"
    assert clean.judge(b"select 1 operator(public.%%%) any (select 1)").rule == "unknown-operator"


def test_code_of_tables_is_not_called_by_number_where_some_is_no_read() -> None:
    """pg_get_partition_constraintdef() computes what is constant in the key of a parent that no name shows."""
    judged = Filter()
    judged.learn_catalog(replace(CATALOG, code=c.Taint("function public.f()", "its body executes INSERT", "public.f")))
    for call in ("pg_get_partition_constraintdef(4711)", "pg_catalog.satisfies_hash_partition('t'::regclass, 2, 0, 1)"):
        verdict = judged.judge(f"select {call}".encode())
        assert verdict.rule == "unproved-function", verdict
        assert "function public.f()" in verdict.detail
    assert judged.judge(b"select pg_get_partkeydef(4711)").action is Action.ALLOW


def test_a_function_that_is_denied_is_denied_to_what_calls_it() -> None:
    sleep = {"deny_functions": ("pg_sleep",)}
    for sql in (
        "pg_sleep(1)",
        "pg_sleep_for('1s')",
        "pg_catalog.pg_sleep_until(now())",
        "(interval '1s').pg_sleep_for",
    ):
        verdict = judge(f"select {sql}", **sleep)
        assert verdict.rule == "denied-function", sql
        assert "pg_sleep" in verdict.detail
    for sql in ("query_to_xml('select pg_sleep_for(''1s'')', true, true, '')", "now()", "lower('x'::text)"):
        assert (judge(f"select {sql}", **sleep).action is Action.ALLOW) == (sql[0] != "q"), sql
    for denied in ("pg_stat_get_activity", "pg_catalog.pg_stat_get_*"):
        verdict = judge("select query from pg_stat_activity", deny_functions=(denied,))
        assert (verdict.rule, "pg_stat_get_activity" in verdict.detail) == ("denied-function", True)
        assert judge("table pg_class", deny_functions=(denied,)).action is Action.ALLOW
    for sql in ("'x' ~ 'y'", "'x' operator(pg_catalog.~) 'y'", "textregexeq('x', 'y')"):
        assert judge(f"select {sql}", deny_functions=("textregexeq",)).rule == "denied-function", sql
    assert judge("select 'x' like 'y'", deny_functions=("textregexeq",)).action is Action.ALLOW


def test_a_view_of_files_is_switched_off_as_its_function_is() -> None:
    assert judge("table pg_hba_file_rules").action is Action.ALLOW
    assert judge("table pg_hba_file_rules", deny_functions=("pg_hba_file_rules",)).rule == "denied-function"


def test_every_text_of_a_route_is_judged() -> None:
    """pgr_dijkstra(text, text) runs both; where the second one is a number or an array, another function is meant."""
    names = ["dijkstra", "astar", "bddijkstracost", "withpoints", "pickdeliver", "ksp", "kruskal"]
    judged = Filter(Policy(allow_functions=("crosstab", *(f"pgr_{name}" for name in names))))
    honest, evil = "'select 1 as id'", "'select writer()'"
    for sql in (
        f"pgr_dijkstra({evil}, 1, 2)",
        f"pgr_dijkstra({honest}, {evil})",
        f"pgr_dijkstra({honest}, {evil}, true)",
        f"pgr_dijkstra({honest}, $1)",
        f"pgr_astar({honest}, {evil}, true)",
        f"pgr_bddijkstracost({honest}, 'delete from t')",
        f"pgr_withpoints({honest}, {evil}, 1, 2)",
        f"pgr_withpoints({honest}, {honest}, {evil})",
        f"pgr_pickdeliver({honest}, {honest}, {evil})",
        f"pgr_ksp({honest}, start_vid => 1)",
        f"crosstab({honest}, {evil})",
    ):
        assert judged.judge(f"select * from {sql}".encode()).rule == "sql-text-function", sql
    for sql in (
        f"pgr_dijkstra({honest}, 1, 2, false)",
        f"pgr_dijkstra({honest}, {honest})",
        f"pgr_dijkstra({honest}, array[1, 2], $1::int8)",
        f"pgr_withpoints({honest}, {honest}, -1, 2)",
        f"pgr_kruskal({honest})",
        f"crosstab({honest}, 3)",
    ):
        verdict = judged.judge(f"select * from {sql}".encode())
        assert verdict.action is Action.ALLOW, verdict
    for name in ("pgr_degree", "pgr_createtopology", "_pgr_dijkstra", "dblink_build_sql_insert", "st_mapalgebrafct"):
        assert Filter(Policy(allow_functions=("*",))).judge(f"select {name}(1)".encode()).action is Action.REFUSE, name


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "missing"),
    [
        ("select (select 1 from b) from a", "a"),
        ("select 1 from a join b on true, c", "a"),
        ("with x as (select 1 from b) select (select 1 from c), * from a, x", "b"),
        ("select 1 from a union select 1 from b", "a"),
        ("select 1 from u where exists (select 1 from a)", "a"),
        ("select * from s.a, b", "s.a"),
        ("explain select 1 from a", "a"),
    ],
)
def test_the_missing_relation_is_the_one_that_the_server_comes_upon_first(sql: str, missing: str) -> None:
    verdict = judge(sql)
    assert verdict.message == f'relation "{missing}" does not exist'
    assert (verdict.sqlstate, verdict.position) == ("42P01", sql.index(f" {missing}") + 2)


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("select lo_create(0) from nosuch", "side-effect-function"),
        ("select 1 from nosuch where writer() > 0", "unproved-function"),
        ("select 1 from nosuch, v2", "unproved-relation"),
        ("select '(1)'::evildom from nosuch", "unproved-type"),
        ("select nosuch2(1) from nosuch", "unknown-function"),
        ("explain analyze select lo_create(0) from nosuch", "side-effect-function"),
        ("copy (select lo_create(0) from nosuch) to stdout", "side-effect-function"),
        ("declare c cursor for select lo_create(0) from nosuch", "side-effect-function"),
        ("prepare p as select lo_create(0) from nosuch", "side-effect-function"),
        ("select set_config('default_transaction_read_only', 'off', false) from nosuch", "setting-value"),
        ("select query_to_xml('select lo_create(0) from nosuch', true, true, '')", "sql-text-function"),
    ],
)
def test_attack_write_behind_a_relation_that_is_not_there(sql: str, rule: str) -> None:
    assert judge(sql).rule == rule


@pytest.mark.parametrize(
    ("sql", "message", "sqlstate"),
    [
        ("select 1 from pg_toast.pg_toast_1255", "permission denied for schema pg_toast", "42501"),
        ("select 1 from pg_temp_3.t", "permission denied for schema pg_temp_3", "42501"),
        ("table pg_toast_temp_3.pg_toast_1", "permission denied for schema pg_toast_temp_3", "42501"),
        ("select 1 from pg_temp.t", 'relation "pg_temp.t" does not exist', "42P01"),
        ("select 1 from d.s.t", 'cross-database references are not implemented: "d.s.t"', "0A000"),
        ("select 1 from d.public.u", 'cross-database references are not implemented: "d.public.u"', "0A000"),
        ("select 1 from shop.public.nosuch", 'relation "public.nosuch" does not exist', "42P01"),
    ],
)
def test_relations_that_no_catalogue_holds(sql: str, message: str, sqlstate: str) -> None:
    of_shop = Filter()
    of_shop.learn_catalog(replace(CATALOG, database="shop"))
    verdict = of_shop.judge(sql.encode())
    assert (verdict.message, verdict.sqlstate, verdict.position) == (message, sqlstate, sql.rindex(" ") + 2)
    assert of_shop.judge(b"select 1 from shop.public.u").action is Action.ALLOW


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        # WITH names a query only where it is seen: elsewhere it may be a view that is a moment old.
        ("select * from fresh, (with fresh as (select 1) select * from fresh) x", "unknown-relation"),
        ("with a as (select * from fresh), fresh as (select 1) select * from a", "unknown-relation"),
        ("with fresh as (select * from fresh) select * from fresh", "unknown-relation"),
        ("(with fresh as (select 1) select * from fresh) union select 1 from fresh", "unknown-relation"),
        ("with fresh as (select 1) select * from public.fresh", "unknown-relation"),
        ("select (with v2 as (select 1) select 1), * from v2", "unproved-relation"),
        ("with a as (select * from v2), v2 as (select 1) select * from a", "unproved-relation"),
        ("with v2 as (select 1) select * from v2", ""),
        ("with fresh as (select 1) select (select 1 from fresh), * from (select * from fresh) x", ""),
        ("with fresh as (select 1) select 1 union (select 1 from fresh order by 1)", ""),
        ("with fresh as (select 1), b as (select * from fresh) select * from b", ""),
        ("with recursive a as (select * from fresh), fresh as (select 1) select * from a", ""),
        ("with fresh as (select 1) select * from (with b as (select * from fresh) select * from b) x", ""),
        ("with a as (with fresh as (select 1) select * from fresh) select * from a, fresh", "unknown-relation"),
        ("with fresh as (with fresh as (select 1) select * from fresh) select * from fresh", ""),
    ],
)
def test_attack_query_of_with_that_is_named_like_a_new_view(sql: str, rule: str) -> None:
    assert judge(sql).rule == rule


# --- parameters of type void ------------------------------------------------------------------------------------------

OVERLOADS = c.Catalog(
    functions={
        "vf": (c.Callable(1, "public", 2, 2), c.Callable(EVIL, "public", 1, 1)),
        "add1": (c.Callable(2, "public", 1, 1),),
        "noted": (c.Callable(3, "public", 1, 1),),
        "date": (c.Callable(4, "public", 2, 2),),
    },
    relations={"t": (relation(10),)},
    types={"date": (c.Type(34, "pg_catalog"),), "void": (c.Type(tables.VOID_OID, "pg_catalog"),)},
    operators={"###": (c.Operator(5, "public", "int4", "int4"),)},
    taints={
        (c.FUNCTION, EVIL): c.Taint("function public.vf(integer)", "its body executes INSERT", "public.vf"),
        (c.CAST_TO, 34): c.Taint("the cast to date", "it calls function public.x", "public.castf"),
    },
    tainted_types=True,
    voids=frozenset({"noted", "###"}),
)
VOID = Filter()
VOID.learn_catalog(OVERLOADS)


@pytest.mark.parametrize(
    "void",
    [
        "$2::void",
        "$2::pg_catalog.void::void",
        "coalesce($2, pg_sleep(0))",
        "case when true then pg_sleep(0) else $2 end",
        "(select x from (values ($2), (pg_sleep(0))) v(x))",
        "(select noted(1) union all select $2)",
        "pg_sleep(0) in ($2)",
        "coalesce(1 ### 2, $2)",
        "coalesce((0::float8).pg_sleep, $2)",
        "coalesce(x.noted, $2)",
        "coalesce(void('x'), $2)",
        "coalesce(void_in('x'), $2)",
        "coalesce(setseed(0.5), $2)",
        "lag(pg_stat_clear_snapshot(), 1, $2) over ()",
        "void_out($2)",
        "pg_catalog.void_send($2)",
        "shell_out($2)",
        "(select 1 from void_out($2))",
    ],
)
@pytest.mark.parametrize(
    ("call", "rule"),
    [
        ("vf($1, $2)", "unproved-function"),
        ("public.vf($2, variadic $1)", "unproved-function"),
        ("date($1, $2)", "unproved-cast"),
        ("ts_rewrite('a'::tsquery, 'select lo_create(0)', $2)", "void-parameter"),
        ("set_config($2, 'default_transaction_read_only', 'off', false)", "void-parameter"),
        ("lo_open($2, 1, 131072)", "void-parameter"),
        ("table_to_xml($2, 'v2', true, false, '')", "void-parameter"),
    ],
)
def test_attack_parameter_that_becomes_void_in_the_text(void: str, call: str, rule: str) -> None:
    sql = f"select {void}, {call} from t x"
    for text in (sql, f"prepare p as {sql}", f"explain {sql}", f"select {call}, {void} from t x"):
        assert VOID.judge(text.encode(), extended=True).rule == rule, text


@pytest.mark.parametrize("extended", [1, VOID_PARSE])
@pytest.mark.parametrize(
    ("call", "rule"),
    [
        ("vf($1, $2)", "unproved-function"),
        ("ts_rewrite('a'::tsquery, 'select 1', $1)", "void-parameter"),
        ("lo_open($2, 1, 131072)", "void-parameter"),
        ("vf(1, $1::void)", "unproved-function"),
    ],
)
def test_attack_parameter_that_is_declared_void(extended: int, call: str, rule: str) -> None:
    sql = f"select {call}"
    if extended == 1:
        sql = f"prepare p(int, void) as {sql}"
    assert VOID.judge(sql.encode(), extended=extended).rule == rule


@pytest.mark.parametrize(
    "sql",
    [
        "select vf($1, $2)",
        "select set_config('TimeZone', $1, false)",
        "select lower($1), pg_sleep($2)",
        "select ts_rewrite('a'::tsquery, 'b', $1)",
        "select noted($1)",
    ],
)
def test_parameter_that_cannot_be_void_is_an_argument_like_others(sql: str) -> None:
    verdict = VOID.judge(sql.encode(), extended=True)
    assert verdict.action is Action.ALLOW, verdict


def test_jdbc_gives_its_out_parameter_as_void() -> None:
    """`{? = call public.add1(?)}` is a function of one argument; the other parameter vanishes."""
    sql = b"select * from public.add1($1,$2)  as result"
    assert VOID.judge(sql, extended=VOID_PARSE).action is Action.ALLOW
    assert VOID.judge(sql, extended=1).rule == "unknown-function"
    assert VOID.judge(b"select * from lower($1,$2)  as result", extended=VOID_PARSE).action is Action.ALLOW
    assert VOID.judge(b"select * from nosuch($1,$2)  as result", extended=VOID_PARSE).rule == "unknown-function"


# --- types of constants, and what older servers read ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constant", "type_"),
    [
        ("1", "int4"),
        ("2147483647", "int4"),
        ("2147483648", "int8"),
        ("-2147483648", "int4"),
        ("99999999999", "int8"),
        ("9223372036854775807", "int8"),
        ("9223372036854775808", "numeric"),
        ("-9223372036854775808", "int8"),
        ("1.0", "numeric"),
        ("1e3", "numeric"),
        ("0x1FFFFFFFFF", "int8"),
        ("0xFFFFFFFFFFFFFFFF", "numeric"),
        ("1_000_000_000_000", "int8"),
        ("true", "bool"),
        ("extract(year from now())", ""),
    ],
)
def test_type_of_a_constant_is_the_servers(constant: str, type_: str) -> None:
    value = parse(f"select {constant}")[0]["stmt"]["SelectStmt"]["targetList"][0]["ResTarget"]["val"]
    assert operators.type_of(value, operators.UNREAD) == type_


def test_attack_big_constant_calls_the_function_for_bigint() -> None:
    evil = {"ceil": (c.Callable(EVIL + 1, "public", 1, 1),)}
    own = Filter()
    own.learn_catalog(replace(CATALOG, functions=evil))
    assert own.judge(b"select ceil(99999999999)").rule == "unproved-function"
    assert own.judge(b"select ceil(-99999999999)").rule == "unproved-function"
    assert own.judge(b"select ceil(99999999999.5), ceil(99999999999999999999)").action is Action.ALLOW


def on(version: int, **more: object) -> Filter:
    """Return a filter for a server of this major version, whose database has hostile functions of a few names."""
    names = ("json", "json_object", "json_scalar", "json_array", "scale", "date_part", "extract", "substring")
    evil = {name: (c.Callable(EVIL + 1, "public", 0, 9),) for name in names}
    judge = Filter(Policy(server_version=version * 10000))
    judge.learn_catalog(replace(CATALOG, functions=evil, **more))  # type: ignore[arg-type]
    return judge


@pytest.mark.parametrize(
    ("sql", "since"),
    [
        ("select json('{}')", 17),
        ("select json(v) from t", 17),
        ("select json_object('{a,b}')", 16),
        ("select json_object('{a,b}'::text)", 16),
        ("select json_object()", 16),
        ("select json_array(1)", 16),
        ("select json_scalar(1)", 17),
    ],
)
def test_attack_keyword_of_a_newer_grammar_is_a_function_of_the_database(sql: str, since: int) -> None:
    assert on(since).judge(sql.encode()).action is Action.ALLOW
    assert on(since - 1).judge(sql.encode()).rule == "unproved-function"


def test_json_is_a_cast_where_it_is_no_keyword_and_no_function() -> None:
    plain = Filter(Policy(server_version=150000))
    plain.learn_catalog(replace(CATALOG, functions={}))
    assert plain.judge(b"select json('{}'), json(v), json_object('{a,b}') from t").action is Action.ALLOW


def test_extract_is_date_part_on_13() -> None:
    """public.scale(float8) is called there, where 14 calls pg_catalog.scale(numeric)."""
    assert on(13).judge(b"select extract(year from now())").action is Action.ALLOW
    assert on(14).judge(b"select extract(year from now())").action is Action.ALLOW
    assert on(13).judge(b"select scale(extract(year from now()))").rule == "unproved-function"
    assert on(13).judge(b"select substring('a', 1)").rule == "unproved-function"


def test_attack_type_of_the_database_with_the_name_of_a_newer_built_in() -> None:
    types = {"int4multirange": (c.Type(EVIL + 30, "public"),)}
    assert on(13, types=types).judge(b"select '{}'::int4multirange").rule == "unproved-type"
    types = {"int4multirange": (c.Type(4451, "pg_catalog"), *types["int4multirange"])}
    assert on(14, types=types).judge(b"select '{}'::int4multirange").action is Action.ALLOW


# --- work -------------------------------------------------------------------------------------------------------------


def test_attack_columns_named_like_functions_cost_no_more_the_more_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    find = c.Catalog.relation

    def counted(self: c.Catalog, schema: str, name: str) -> tuple[c.Relation, ...]:
        nonlocal asked
        asked += 1
        return find(self, schema, name)

    monkeypatch.setattr(c.Catalog, "relation", counted)
    many = " and ".join(["x.total = x.total"] * 500)
    others = ", ".join(f"(select 1 from t x where x.total = {n}) y{n}" for n in range(500))
    without = Filter(Policy(max_query_length=1 << 20))
    without.learn_catalog(replace(CATALOG, operators={}))
    assert without.judge(f"select 1 from t x, {others} where {many}".encode()).action is Action.ALLOW
    assert asked < 10


@pytest.mark.parametrize(
    "sql",
    [
        "with c as (select 1 as nextval) select c.nextval from c",
        "with c (nextval) as (select 1) select c.nextval from c",
        "with c (nextval) as (select 1) select d.nextval from c d",
        "select s.nextval from (select 1 as nextval) s",
        "select s.nextval from (select 1) s (nextval)",
        "select s.nextval from (select total as nextval from t union select 2) s",
        "with c as (select t.writer from (select 1 as writer) t) select c.writer from c",
    ],
)
def test_column_of_a_query_is_no_call(sql: str) -> None:
    assert judge(sql).action is Action.ALLOW, judge(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "with c as (select 't_seq'::text) select c.nextval from c",
        "with c (a) as (select 1 as nextval) select c.nextval from c",
        "select s.nextval from (select 1 as nextval) s (a)",
        "select s.nextval from (select 1 as nextval) s, (select s.nextval from (select 2) s) x",
        "with c as (select 1 as nextval) select c.nextval from u c",
        "with c as (select 1 as nextval) select (select c.nextval from u c) from c",
        "with c as (select 1 as nextval) select c.nextval from (with c as (select 2) select c.nextval from c) x, c",
    ],
)
def test_attack_call_that_looks_like_a_column_of_a_query(sql: str) -> None:
    assert judge(sql).action is Action.REFUSE, sql


def test_function_with_the_name_of_a_keyword_is_looked_for_once_more() -> None:
    judged = Filter(Policy(server_version=150018))
    judged.learn_catalog(replace(CATALOG, version=150018))
    verdict = judged.judge(b"select json_array(1)")
    assert (verdict.rule, verdict.unresolved) == ("keyword-function", True)

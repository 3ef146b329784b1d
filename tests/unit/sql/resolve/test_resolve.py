"""Names resolved as the server does, over what is built in and a few hostile objects. tests/oracle asks the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from proxy.sql.picked import ByNames, Meaning, Picked, pick
from proxy.sql.resolve import NotModelledError, RejectedError, Resolution, Resolver, building, built_in, oids, world
from proxy.sql.resolve.search import with_catalog
from proxy.sql.resolve.world import Cast, Function, Operator, Relation, Tables, Type, World
from proxy.sql.text import parse

PUBLIC, RIVAL = 2200, 16384
MOOD, MOODS, SMALL, PAIR, ROW = 16400, 16401, 16402, 16403, 16404
SHAPE = "23 id/20 big/1700 n/25 w/1043:14 v/1082 d/1114 e/3802 j/1007 a/16400 m/16402 s/16403 p"


def function(
    oid: int, name: str, arguments: tuple[int, ...], result: int, schema: int = PUBLIC, **more: object
) -> Function:
    return structs.replace(Function(oid, schema, name, "f", arguments, result, False, 0, 0, (), "", (), "", 0), **more)


OWN = Tables(
    schemas=[("pg_catalog", oids.PG_CATALOG, True), ("public", PUBLIC, True), ("rival", RIVAL, True)],
    types=[
        Type(MOOD, PUBLIC, "mood", "e", "E", False, 0, False, MOODS, 0, -1, 0, False, False, 3506, 3507, 0),
        Type(MOODS, PUBLIC, "_mood", "b", "A", False, MOOD, True, 0, 0, -1, 0, False, True, 750, 751, 0),
        Type(SMALL, PUBLIC, "small", "d", "N", False, 0, False, 0, oids.INT4, -1, 0, False, False, 2597, 43, 0),
    ],
    functions=[
        function(20001, "lower", (oids.VARCHAR,), oids.TEXT),
        function(20002, "lower", (oids.TEXT,), oids.TEXT, RIVAL),
        function(20003, "ceil", (oids.INT8,), oids.INT8),
        function(20004, "vf", (oids.INT4, oids.INT4), oids.INT4),
        function(20005, "vf", (oids.INT4,), oids.INT4),
        function(20006, "many", (oids.INT4, 1007), oids.INT4, variadic=oids.INT4),
        function(20007, "opt", (oids.INT4, oids.TEXT), oids.INT4, defaults=1, names=("a", "b")),
        function(20008, "full", (ROW,), oids.TEXT),
        function(20009, "two", (oids.INT4,), oids.RECORD, types=(23, 23, 25), modes="ioo", names=("x", "y", "z")),
        function(20010, "same", (oids.ANYELEMENT, oids.ANYELEMENT), oids.ANYELEMENT),
        function(20011, "alike", (oids.ANYCOMPATIBLE, oids.ANYCOMPATIBLEARRAY), oids.ANYCOMPATIBLE),
        function(20012, "shown", (MOOD,), oids.TEXT),
        function(
            20014,
            "pairs_of",
            (oids.ANYELEMENT,),
            oids.RECORD,
            types=(oids.ANYELEMENT, oids.ANYELEMENT, oids.ANYARRAY),
            modes="ioo",
            names=("", "x", "y"),
        ),
        function(
            20013, "default_of", (oids.ANYELEMENT, oids.ANYELEMENT), oids.ANYELEMENT, defaults=2, names=("a", "b")
        ),
    ],
    operators=[
        Operator(21001, PUBLIC, "=", MOOD, MOOD, oids.BOOL, 20012),
        Operator(21002, RIVAL, "+", oids.INT4, oids.INT4, oids.INT4, 20004),
        Operator(21003, PUBLIC, "=", oids.INT4, oids.NUMERIC, oids.BOOL, 20004),
    ],
    casts=[Cast(MOOD, oids.TEXT, 20012, "i", "f", 22001)],
    relations=[
        Relation(23001, PUBLIC, "t", "r", ROW, 0, 0, SHAPE),
        Relation(23002, PUBLIC, "u", "r", 16410, 0, 0, "20 id/25 other"),
        Relation(23003, PUBLIC, "pair", "c", PAIR, 0, 0, "23 a/25 b"),
        Relation(23004, PUBLIC, "v", "v", 16412, 0, 0, "23 one"),
    ],
)


def made(major: int) -> World:
    below = built_in.built_in(major)
    assert below is not None
    return building.build(major, OWN, below)


WORLD = made(15)


def resolve(
    sql: str, parameters: tuple[int, ...] = (), path: tuple[int, ...] = (PUBLIC,), major: int = 15
) -> Resolution:
    resolver = Resolver(WORLD if major == 15 else made(major), with_catalog(path))
    return resolver.resolve(parse(sql)[0]["stmt"], parameters)


def type_name(oid: int) -> str:
    row = WORLD.types.get(oid)
    return str(oid) if row is None else row.name


def names(found: Resolution, *kinds: str) -> list[str]:
    """Return what is picked, in order: `name(types)`; every set has to have one member."""
    shown: list[str] = []
    for use in found.uses:
        if use.kind not in kinds:
            continue
        assert use.oids is not None
        (oid,) = use.oids
        if use.kind == "function":
            function = WORLD.functions[oid]
            schema = {PUBLIC: "public.", RIVAL: "rival."}.get(function.schema, "")
            shown.append(f"{schema}{function.name}({','.join(map(type_name, function.arguments))})")
        else:
            operator = WORLD.operators[oid]
            schema = {PUBLIC: "public.", RIVAL: "rival."}.get(operator.schema, "")
            left = f"{type_name(operator.left)} " if operator.left else ""
            shown.append(f"{left}{schema}{operator.name} {type_name(operator.right)}")
    return shown


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT lower(w) FROM t", ["lower(text)"]),
        ("SELECT lower(v) FROM t", ["public.lower(varchar)"]),
        ("SELECT lower('x')", ["lower(text)"]),
        ("SELECT lower(n::text) FROM t", ["lower(text)"]),
        ("SELECT ceil(99999999999)", ["public.ceil(int8)"]),
        ("SELECT ceil(9999999999999999999)", ["ceil(numeric)"]),
        ("SELECT ceil(1)", ["ceil(float8)", "float8(int4)"]),
        ("SELECT sqrt(2)", ["sqrt(float8)", "float8(int4)"]),
        ("SELECT many(1, 2, 3)", ["public.many(int4,_int4)"]),
        ("SELECT many(1, VARIADIC a) FROM t", ["public.many(int4,_int4)"]),
        ("SELECT opt(1), opt(b => 'x', a => 1)", ["public.opt(int4,text)"] * 2),
        ("SELECT t.full FROM t", ["public.full(t)"]),
        ('SELECT "full"(t) FROM t', ["public.full(t)"]),
        ("SELECT same(1, id) FROM t", ["public.same(anyelement,anyelement)"]),
        ("SELECT alike(1, ARRAY[2.5])", ["public.alike(anycompatible,anycompatiblearray)", "numeric(int4)"]),
        ("SELECT upper(m) FROM t", ["upper(text)", "public.shown(mood)"]),
        ("SELECT m::text FROM t", ["public.shown(mood)"]),
        ("SELECT extract(year FROM d) FROM t", ["extract(text,date)"]),
        ("SELECT count(*), max(w) FROM t", ["count()", "max(text)"]),
        (
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM t",
            ["percentile_cont(float8,float8)", "float8(numeric)", "float8(int4)"],
        ),
        ("SELECT v::varchar(3) FROM t", ["varchar(varchar,int4,bool)"]),
        ("SELECT date(e), int4(big) FROM t", ["date(timestamp)", "int4(int8)"]),
        ("SELECT coalesce(id, n) FROM t", ["numeric(int4)"]),
        ("SELECT * FROM unnest(a, a) u, t", None),
    ],
)
def test_functions(sql: str, wanted: list[str] | None) -> None:
    if wanted is None:
        with pytest.raises(RejectedError):
            resolve(sql)
        return
    found = names(resolve(sql), "function")
    assert found[: len(wanted)] == wanted or sorted(found) == sorted(wanted)


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT id + 1 FROM t", ["int4 + int4"]),
        ("SELECT id = 2.5 FROM t", ["int4 public.= numeric"]),
        ("SELECT id IN (1, 2.5) FROM t", ["int4 public.= numeric"]),
        ("SELECT id IN (1, 2) FROM t", ["int4 = int4"]),
        ("SELECT big IN (id, 5) FROM t", ["int8 = int4", "int8 = int4"]),
        ("SELECT m = 'well' FROM t", ["mood public.= mood"]),
        ("SELECT s = 1 FROM t", ["int4 = int4"]),
        ("SELECT id BETWEEN 1 AND 2.5 FROM t", ["int4 >= int4", "numeric <= numeric"]),
        ("SELECT id = ANY (a) FROM t", ["int4 = int4"]),
        ("SELECT w LIKE 'a%' FROM t", ["text ~~ text"]),
        ("SELECT 'a' || 'b'", ["text || text"]),
        ("SELECT -id FROM t", ["- int4"]),
        ("SELECT (id, w) = (1, 'x') FROM t", ["int4 = int4", "text = text"]),
        ("SELECT CASE id WHEN 1.5 THEN 1 END FROM t", ["int4 public.= numeric"]),
        ("SELECT id FROM t JOIN u USING (id)", ["int4 = int8"]),
        ("SELECT id IN (SELECT id FROM u) FROM t", ["int4 = int8"]),
        ("SELECT d - d, e - e, d + 1 FROM t", ["date - date", "timestamp - timestamp", "date + int4"]),
        ("SELECT j -> 'a' ->> 'b' FROM t", ["jsonb -> text", "jsonb ->> text"]),
    ],
)
def test_operators(sql: str, wanted: list[str]) -> None:
    assert names(resolve(sql), "operator") == wanted


@pytest.mark.parametrize(
    ("sql", "declared", "wanted"),
    [
        ("SELECT $1 + 1, $1", (), [oids.INT4]),
        ("SELECT id FROM t WHERE id = $1 AND big = $2", (), [oids.INT4, oids.INT8]),
        ("SELECT t.id FROM t JOIN u ON u.id = $1 WHERE t.id = $1", (), [oids.INT8]),
        ("SELECT * FROM (SELECT $1 AS x) s", (), [oids.TEXT]),
        ("WITH q AS (SELECT $1 AS x) SELECT x FROM q", (), [oids.TEXT]),
        ("SELECT $1::small", (), [SMALL]),
        ("SELECT id FROM t LIMIT $1", (), [oids.INT8]),
        ("SELECT $1 || 'x'", (), [oids.TEXT]),
        ("SELECT id FROM t WHERE id = ANY ($1)", (), [1007]),
        ("SELECT $1 = id FROM t", (oids.UNKNOWN,), [oids.INT4]),
        ("SELECT $1 + 1", (oids.NUMERIC,), [oids.NUMERIC]),
    ],
)
def test_parameters(sql: str, declared: tuple[int, ...], wanted: list[int]) -> None:
    assert resolve(sql, declared).parameters == wanted


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("SELECT $1, $1 + 1", "42P08"),
        ("SELECT $2 + 1", "42P18"),
        ("SELECT nope", "42703"),
        ("SELECT x.id FROM t", "42P01"),
        ("SELECT * FROM nope", "42P01"),
        ("SELECT id FROM t, u", "42702"),
        ("SELECT nope(1)", "42883"),
        ("SELECT id + d + j FROM t", "42883"),
        ("SELECT 1::nope", "42704"),
        ("SELECT 1 UNION SELECT 1, 2", "42601"),
        ("SELECT CASE WHEN true THEN 1 ELSE j END FROM t", "42804"),
        ("SELECT j::int[] FROM t", "42846"),
        ("SELECT id FROM t JOIN t ON true", "42712"),
        ("SELECT ctid FROM v", "42703"),
        ("SELECT NULL ORDER BY NULL", "42601"),
        ("SELECT NULL GROUP BY NULL", "42601"),
    ],
)
def test_what_the_server_rejects(sql: str, sqlstate: str) -> None:
    with pytest.raises(RejectedError) as caught:
        resolve(sql)
    assert caught.value.sqlstate == sqlstate


def test_attack_void_parameter_vanishes() -> None:
    assert names(resolve("SELECT vf(1, $1)", (oids.INT4,)), "function") == ["public.vf(int4,int4)"]
    assert names(resolve("SELECT vf(1, $1)", (oids.VOID,)), "function") == ["public.vf(int4)"]


def test_path_decides_between_equals() -> None:
    assert names(resolve("SELECT lower('x')", path=(RIVAL,)), "function") == ["lower(text)"]
    first = (RIVAL, oids.PG_CATALOG)
    assert names(resolve("SELECT lower('x')", path=first), "function") == ["rival.lower(text)"]
    assert names(resolve("SELECT 1 + 1", path=first), "operator") == ["int4 rival.+ int4"]
    assert names(
        resolve("SELECT pg_catalog.lower('x'), 1 OPERATOR(pg_catalog.+) 1", path=first), "function", "operator"
    ) == [
        "lower(text)",
        "int4 + int4",
    ]


def test_versions_read_the_same_tree_otherwise() -> None:
    def called(sql: str, major: int) -> set[str]:
        return {
            WORLD.functions[oid].name if oid in WORLD.functions else made(major).functions[oid].name
            for use in resolve(sql, major=major).uses
            if use.kind == "function"
            for oid in use.oids or ()
        }

    assert "date_part" in called("SELECT extract(year FROM d) FROM t", 13)
    assert "extract" in called("SELECT extract(year FROM d) FROM t", 14)
    with pytest.raises(RejectedError):
        resolve("SELECT JSON_ARRAY(1 RETURNING text)", major=15)
    assert resolve("SELECT JSON_ARRAY(1 RETURNING text)", major=16).output == [("json_array", oids.TEXT)]
    with pytest.raises(RejectedError):
        resolve("SELECT json(id) FROM t", major=16)  # no cast of int4, and no function
    assert resolve("SELECT JSON(w) FROM t", major=17).output == [("json", oids.JSON)]


def test_output_has_the_servers_names_and_types() -> None:
    found = resolve("SELECT id, lower(v), t.*, p, (p).a, two(1), x.* FROM t, two(2) x WHERE id > 0")
    assert found.output[:2] == [("id", oids.INT4), ("lower", oids.TEXT)]
    assert found.output[-5:] == [
        ("p", PAIR),
        ("a", oids.INT4),
        ("two", oids.RECORD),
        ("y", oids.INT4),
        ("z", oids.TEXT),
    ]


def test_rows_that_are_lists_are_compared_one_by_one() -> None:
    def compared(sql: str) -> list[str]:
        return names(resolve(sql), "group")

    assert compared("SELECT count(*) FROM t GROUP BY (id, w)") == ["int4 = int4", "text = text"]
    assert compared("SELECT count(*) OVER (PARTITION BY (id, w)) FROM t") == ["int4 = int4", "text = text"]
    assert compared("SELECT count(*) FROM t GROUP BY ROLLUP ((id, w), d)")[:2] == ["int4 = int4", "text = text"]
    assert compared("SELECT count(*) OVER (PARTITION BY ROW(id, w)) FROM t") == ["record = record"]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("SELECT JSON_OBJECT('a': id, 'b': m) FROM t", []),
        ("SELECT JSON_OBJECT('a': id FORMAT JSON) FROM t", None),
        ("SELECT JSON_ARRAYAGG(id) FROM t", ["json_agg_strict(anyelement)"]),
        ("SELECT JSON_ARRAYAGG(id NULL ON NULL RETURNING jsonb) FROM t", ["jsonb_agg(anyelement)"]),
        ("SELECT JSON_OBJECTAGG(w: id WITH UNIQUE) FROM t", ["json_object_agg_unique(any,any)"]),
        ("SELECT JSON_ARRAY(SELECT id FROM t)", ["json_agg_strict(anyelement)"]),
        ("SELECT JSON('\\x00'::bytea)", ["convert_from(bytea,name)"]),
        ("SELECT JSON_SERIALIZE(j RETURNING bytea) FROM t", ["convert_to(text,name)"]),
        ("SELECT JSON_QUERY(j, '$' PASSING m AS x) FROM t", ["to_jsonb(anyelement)"]),
        ("SELECT JSON_QUERY(j, '$' PASSING id AS x) FROM t", []),
        ("SELECT JSON_VALUE(j, '$' RETURNING numeric DEFAULT 1 ON EMPTY) FROM t", ["numeric(int4)"]),
        ("SELECT x FROM t, JSON_TABLE(j, '$' COLUMNS (x int EXISTS)) q", ["int4(bool)"]),
    ],
)
def test_documents_are_made_by_what_the_server_takes_for_them(sql: str, wanted: list[str] | None) -> None:
    if wanted is None:
        with pytest.raises(RejectedError):
            resolve(sql, major=17)
        return
    functions = made(17).functions
    found = [functions[oid] for use in resolve(sql, major=17).uses if use.kind == "function" for oid in use.oids or ()]
    assert [f"{each.name}({','.join(map(type_name, each.arguments))})" for each in found] == wanted


def test_domains_over_domains_cut_values_as_the_inner_one_says() -> None:
    tables = Tables(*OWN)._replace(
        types=[
            *OWN.types,
            Type(16420, PUBLIC, "short", "d", "S", False, 0, False, 0, oids.VARCHAR, 8, 0, False, True, 2597, 43, 0),
            Type(16421, PUBLIC, "shorter", "d", "S", False, 0, False, 0, 16420, -1, 0, False, True, 2597, 43, 0),
        ]
    )
    below = built_in.built_in(15)
    assert below is not None
    resolver = Resolver(building.build(15, tables, below), with_catalog([PUBLIC]))
    found = resolver.resolve(parse("SELECT 'x'::shorter, 'y'::short")[0]["stmt"], ())
    assert names(found, "function") == ["varchar(varchar,int4,bool)"] * 2


@pytest.mark.parametrize(
    ("call", "result"),
    [("default_of(id)", oids.INT4), ("default_of(b => v)", oids.VARCHAR), ("default_of()", oids.ANY_TYPE)],
)
def test_a_default_of_a_polymorphic_argument_is_of_the_others_type(call: str, result: int) -> None:
    assert resolve(f"SELECT {call} FROM t").output[0][1] == result


def test_a_whole_row_of_the_alias_of_using_is_made_of_its_columns() -> None:
    found = resolve("SELECT to_json(x) FROM t JOIN u USING (id) AS x")
    assert [use.oids for use in found.uses if use.kind == "var"] == [frozenset({oids.INT8})]


def test_columns_of_a_whole_row_are_columns_where_that_is_used() -> None:
    def at(sql: str) -> dict[int, list[frozenset[int] | None]]:
        found: dict[int, list[frozenset[int] | None]] = {}
        for use in resolve(sql).uses:
            if use.kind == "var":
                found.setdefault(use.location, []).append(use.oids)
        return found

    assert at("SELECT big(t) FROM t")[7] == [frozenset({oids.INT8})]
    assert frozenset({oids.INT8}) in at("SELECT (t).* FROM t")[8]


def test_output_columns_that_there_are_not_are_no_error_until_they_are_used() -> None:
    assert resolve("SELECT pairs_of(id), pairs_of(a) FROM t").output == [("pairs_of", oids.RECORD)] * 2
    assert resolve("SELECT (pairs_of(id)).y FROM t").output == [("y", 1007)]
    with pytest.raises(RejectedError):
        resolve("SELECT (pairs_of(a)).y FROM t")


def test_cycle_tells_its_marks_apart_by_the_negator_of_what_is_equal() -> None:
    query = "WITH RECURSIVE q(x) AS (SELECT 1 UNION ALL SELECT x FROM q) CYCLE x SET c {} USING p SELECT c FROM q"
    assert names(resolve(query.format("")), "operator") == ["bool <> bool"]
    assert names(resolve(query.format("TO 'y' DEFAULT 'n'")), "operator") == ["text <> text"]
    assert names(resolve(query.format("TO mood 'ok' DEFAULT 'ok'")), "operator") == ["anyenum <> anyenum"]


def test_arguments_of_xml_are_converted_one_after_the_other() -> None:
    assert resolve("SELECT xmlroot($1, version $1)").parameters == [oids.XML]


@pytest.mark.parametrize(
    ("sql", "wanted"),
    [
        ("regr_slope(id, 1.5 ORDER BY id)", ["float8 < float8"]),
        ("regr_slope(id + 1, 1.5 ORDER BY id + 1, id)", ["float8 < float8", "int4 < int4"]),
        ("regr_slope(id, n::float8 ORDER BY n::float8 DESC)", ["float8 > float8"]),
        ("regr_slope(id, id ORDER BY j->>'a', id)", ["text < text", "float8 < float8"]),
        ("regr_slope(id, 1.5 ORDER BY t.id)", ["float8 < float8", "int4 < int4"]),
        ("max(id ORDER BY id)", ["int4 < int4"]),
        ("string_agg(v, 'x' ORDER BY 'x')", ["text < text"]),
    ],
)
def test_an_aggregate_that_is_sorted_by_an_argument_sorts_what_that_has_become(sql: str, wanted: list[str]) -> None:
    """An argument written otherwise (t.id) may be the same: both ways to sort are told then."""
    assert names(resolve(f"SELECT {sql} FROM t"), "sort") == wanted


def test_a_literal_that_an_aggregate_takes_and_sorts_by_is_text_where_it_is_taken() -> None:
    def places(sql: str) -> list[int]:
        return sorted(each.location for each in resolve(sql).uses if each.kind == "input")

    assert places("SELECT count('a' ORDER BY 'a')") == [13]
    assert places("SELECT count('a' ORDER BY 'b', 'a', 'a')") == [13, 26, 36]
    assert places("SELECT count($1 ORDER BY $1)") == [13]


def test_parameter_beside_a_list_has_the_type_of_that_in_the_other_comparisons() -> None:
    found = resolve("SELECT $1 NOT IN (7, 8, big) FROM t")
    assert found.parameters == [oids.INT4]
    assert names(found, "operator") == ["int4 <> int4", "int4 <> int8"]
    assert resolve("SELECT $1 COLLATE \"C\" IN ('a', 'b', v) FROM t").parameters == [oids.TEXT]
    with pytest.raises(RejectedError):
        resolve("SELECT $1 IN (7, 8, d) FROM t")
    with pytest.raises(RejectedError):
        resolve("SELECT $1 IN (big, id) FROM t")


@pytest.mark.parametrize("value", ["N'a'", "date '2024-01-01'", "CAST(1 AS int8)", "d"])
def test_what_is_given_in_the_place_of_nothing_begins_where_it_is_written(value: str) -> None:
    found = resolve(f"SELECT json_value(j, '$' RETURNING text DEFAULT {value} ON EMPTY) FROM t", major=18)
    places = {use.location for use in found.uses if use.kind in ("io-from", "function")}
    assert places == {48}


def test_windows_are_analysed_after_everything_else() -> None:
    """So a parameter has the type that it gets elsewhere, also where the window stands before that."""
    assert resolve("SELECT sum(id) OVER (ORDER BY $1), $1 + id FROM t").parameters == [oids.INT4]
    assert resolve("SELECT sum(id) OVER (PARTITION BY $1 ORDER BY $1 + id) FROM t").parameters == [oids.INT4]


@pytest.mark.parametrize(
    "value", ["v || 'x'", "CAST(id AS text)", "CAST($1 AS text)", "id::text", "id IN (1, 2)", "id BETWEEN 1 AND 2"]
)
def test_what_looks_like_a_column_of_an_operation_stands_where_that_begins(value: str) -> None:
    called = [use.location for use in resolve(f"SELECT ({value}).text FROM t").uses if use.kind == "called"]
    assert called[-1] == len("SELECT (")


def test_types_that_values_are_of() -> None:
    assert MOOD not in resolve("SELECT id FROM t").types
    assert MOOD in resolve("SELECT id FROM t ORDER BY m").types
    assert {MOOD, ROW} <= resolve("SELECT to_json(t) FROM t").types
    assert SMALL in resolve("SELECT '1'::small").types
    assert MOODS in resolve("SELECT array_agg(m) FROM t").types


def test_attack_built_in_function_that_was_changed() -> None:
    changed = Tables(*OWN)._replace(changed=[870])
    below = built_in.built_in(15)
    assert below is not None
    world_ = building.build(15, changed, below)
    for sql, found in (("SELECT lower(w) FROM t", False), ("SELECT upper(w) FROM t", True)):
        query = parse(sql)[0]["stmt"]["SelectStmt"]
        assert isinstance(pick(Meaning(Resolver(world_, with_catalog([PUBLIC]))), query), Picked) is found


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT lower(w) FROM t", None),
        ("SELECT no_such(w) FROM t", ByNames.REJECTED),
        ("SELECT 1 INTO x", ByNames.FORM),
        ("SELECT default_of()", ByNames.OPEN),
        ("SELECT lo_unlink(1), pg_notify('a', 'b')", ByNames.VOID),
    ],
)
def test_why_names_are_not_known(sql: str, why: ByNames | None) -> None:
    found = pick(Meaning(Resolver(WORLD, with_catalog([PUBLIC]))), parse(sql)[0]["stmt"]["SelectStmt"])
    assert (found if isinstance(found, ByNames) else None) is why


def test_attack_between_within_between_does_not_take_for_ever() -> None:
    inner = "id"
    for _ in range(40):
        inner = f"({inner} BETWEEN SYMMETRIC 1 AND 2)::int"
    with pytest.raises(NotModelledError):
        resolve(f"SELECT {inner} FROM t")


def test_long_chains_do_not_go_deep() -> None:
    assert len(names(resolve(f"SELECT {' + '.join(['1'] * 2000)}"), "operator")) == 1999
    assert len(resolve(" UNION ALL ".join(["SELECT 1"] * 500)).output) == 1


def test_attack_thousand_schemas_with_objects_of_one_name() -> None:
    """Each of many tenants has a table and a function of the same name: their rows are gone through once for each."""
    below = built_in.built_in(15)
    assert below is not None
    many = range(3000)
    tenants = Tables(
        schemas=[*OWN.schemas, *((f"tenant{at}", 30000 + at, True) for at in many)],
        functions=[function(40000 + at, "total", (oids.INT4,), oids.INT4, 30000 + at) for at in many],
        relations=[Relation(50000 + at, 30000 + at, "orders", "r", 60000 + at, 0, 0, "23 id") for at in many],
    )
    found = building.build(15, tenants, below)
    looked: list[str] = []

    class Rows(dict[str, Sequence[world.Relation]]):
        def get(self, name: str, default: object = None) -> Any:
            looked.append(name)
            return super().get(name, default)

    resolver = Resolver(replace(found, relations_named=Rows(found.relations_named)), with_catalog((PUBLIC,)))
    for at in (7, 2999, 1500):
        statement = parse(f"SELECT tenant{at}.total(id) FROM tenant{at}.orders")[0]["stmt"]
        uses = {(use.kind, *(use.oids or ())) for use in resolver.resolve(statement).uses}
        assert {("relation", 50000 + at), ("function", 40000 + at)} <= uses
    assert looked == ["orders"]


MANY = 3_000
BUSY = {
    "tables": f"SELECT {','.join(['a1.id'] * MANY)} FROM {','.join(f't a{at}' for at in range(MANY))}",
    "whole rows": f"SELECT {','.join(['r'] * MANY)} FROM (SELECT * FROM t a, t b, t c, t d, t e, t f, t g, t h) r",
    "stars": f"SELECT {','.join(['*'] * MANY)} FROM t",
    "names": f"SELECT {','.join(f'1 a{at}' for at in range(MANY))} ORDER BY {','.join(f'a{at}' for at in range(MANY))}",
    "numbers": f"SELECT {','.join(['1'] * MANY)} ORDER BY {','.join(['1'] * MANY)}",
    "BETWEEN": f"SELECT {'(' * 12}1{' BETWEEN SYMMETRIC 1 AND 2)::int' * 12}",
}


@pytest.mark.parametrize("text", BUSY.values(), ids=BUSY)
def test_attack_text_whose_analysis_takes_the_square_of_its_length(text: str) -> None:
    with pytest.raises(NotModelledError):
        resolve(text)


def test_long_text_is_resolved() -> None:
    assert len(resolve("SELECT 1 FROM t WHERE " + " AND ".join(["t.id = t.id"] * MANY)).uses) > MANY


def test_queries_of_with_recursive_stand_behind_those_that_they_name() -> None:
    chain = ", ".join(f"a{at} AS (SELECT n + 0 AS n FROM a{at + 1})" for at in range(MANY // 2))
    text = f"WITH RECURSIVE {chain}, a{MANY // 2} AS (SELECT 1::bigint AS n) SELECT n FROM a0"
    assert resolve(text).output == [("n", oids.INT8)]
    with pytest.raises(RejectedError, match="mutual recursion"):
        resolve("WITH RECURSIVE a AS (SELECT 1 FROM b), b AS (SELECT 1 FROM a) SELECT 1")

"""Make statements in which much runs that no name shows, over the types of reporting.sql."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.oracle.server import Analyst

_LITERALS: Final[Mapping[str, str]] = {
    "int": "1", "bigint": "2", "text": "x", "varchar": "y", "bool": "t", "float8": "0.5", "numeric": "1.5",
    "json": '{"a": 1, "m": "ok", "g": "b", "d": 3, "p": {"a": 1, "d": 2, "m": "ok"}, "ma": ["ok"], "r": "[c,b]"}',
    "jsonb": '[{"a": 1, "m": "ok", "d": 3}]', "mood": "ok", "grade": "b", "pair": "(1,2,ok)", "item": "(1,x)",
    "pos": "1", "word": "w", "long": "l", "felt": "sad", "mark": "a", "couple": "(1,2,ok)", "many": "{1,2}",
    "grades": "[c,b]", "span": "[1,5)", "small": "(1,ok)", "grown": "(1,ok,a)", "words": "[a,b]", "reach": "[c,b]",
    "marks": "{a,b}", "nest": '("(1,2,ok)",b,"{1,2}","[c,b]")', "nests": '{"(\\"(1,2,ok)\\",b,{1},)"}', "tag": "a.b",
    "label": "b", "stamp": "a", "grades_multirange": "{[c,b]}", "span_multirange": "{[1,2),[5,6)}",
    "mood[]": "{ok,sad}", "grade[]": "{a,b}", "pair[]": '{"(1,2,ok)"}', "item[]": '{"(1,x)"}', "pos[]": "{1,2}",
    "felt[]": "{ok}", "word[]": "{x,y}", "grades[]": '{"[c,b]"}', "tag[]": "{a,b}", "label[]": "{a}",
    "int[]": "{1,2}", "text[]": "{x,y}", "couple[]": '{"(1,2,ok)"}',
}  # fmt: skip
_PLAIN: Final = frozenset(("int", "bigint", "text", "varchar", "bool", "float8", "numeric", "json", "jsonb"))
_T1: Final = {
    "id": "int", "n": "int", "x": "text", "m": "mood", "g": "grade", "p": "pair", "i": "item", "d": "pos", "w": "word",
    "l": "long", "f": "felt", "k": "mark", "c": "couple", "my": "many", "r": "grades", "s": "span", "ma": "mood[]",
    "ga": "grade[]", "pa": "pair[]", "ia": "item[]", "da": "pos[]", "ra": "grades[]", "j": "json", "jb": "jsonb",
}  # fmt: skip
_TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "t1": _T1,
    "t2": {
        "id": "int", "n": "bigint", "m": "mood", "g": "grade", "p": "pair", "i": "item", "d": "pos", "w": "word",
        "f": "felt", "k": "mark", "r": "grades", "ma": "mood[]", "ga": "grade[]", "x": "varchar",
    },
    "small": {"a": "int", "m": "mood"},
    "grown": {"a": "int", "m": "mood", "b": "grade"},
    "odd": {"id": "int", "n": "int"},
    "parted": {"id": "int", "g": "grade", "m": "mood"},
    "ranged": {"id": "int", "g": "grade"},
    "guarded": {"id": "int", "m": "mood"},
    "v1": {"id": "int", "m": "mood", "g": "grade", "jm": "json", "lower": "bool", "e": "int", "p": "pair"},
    "v2": {"g": "grade", "same": "bool"},
    "tagged": {"id": "int", "t": "tag", "l": "label", "ts": "tag[]", "ls": "label[]", "s": "stamp"},
    "wide": {"id": "int", "mr": "grades_multirange", "sm": "span_multirange"},
}  # fmt: skip
_FAVOURITES: Final = ("t1", "t1", "t1", "t2", "t2", "tagged", "wide")
_BIG: Final = {
    "id": "int", "n": "int", "m": "mood", "g": "grade", "i": "item", "d": "pos", "r": "grades", "s": "span",
    "ga": "grade[]", "x": "text", "w": "word",
}  # fmt: skip
_FIELDS: Final = {"pair": {"a": "int", "d": "pos", "m": "mood"}, "item": {"k": "int", "w": "word"}}
_FIELDS["couple"] = _FIELDS["pair"]
_WITH_ONE: Final = (
    "to_json({x})", "to_jsonb({x})", "quote_literal({x})", "quote_nullable({x})", "concat({x}, 'y')",
    "concat_ws(',', {x}, {y})", "format('%s %s', {x}, {y})", "json_build_array({x}, {y})",
    "json_build_object('k', {x})", "json_build_object({x}, 1)", "jsonb_build_array({x})",
    "jsonb_build_object({x}, {y})", "row_to_json(ROW({x}, 1))", "to_json(ROW({x}, ROW({y})))", "ROW({x}, 1)",
    "ROW({x}, 1) = ROW({y}, 1)", "ROW({x}, 1) < ROW({y}, 1)", "(ROW({x}, 1))::text",
    "ROW({x}) IS DISTINCT FROM ROW({y})", "ROW({x}, 1) IN (ROW({y}, 2), ROW({z}, 1))", "ARRAY[{x}, {y}]",
    "ARRAY[{x}] = ARRAY[{y}]", "ARRAY[{x}] < ARRAY[{y}]", "ARRAY[{x}] @> ARRAY[{y}]", "ARRAY[{x}] && ARRAY[{y}]",
    "(ARRAY[{x}, {y}])[1]", "array_position(ARRAY[{x}], {y})", "ARRAY[{x}] || {y}", "array_remove(ARRAY[{x}], {y})",
    "array_replace(ARRAY[{x}], {y}, {z})", "to_json(ARRAY[{x}])", "array_to_json(ARRAY[{x}, {y}])",
    "array_to_string(ARRAY[{x}], ',')", "array_append(ARRAY[{x}], {y})", "width_bucket({x}, ARRAY[{y}])",
    "GREATEST({x}, {y})", "LEAST({x}, {y}, {z})", "COALESCE({x}, {y})", "NULLIF({x}, {y})",
    "CASE {x} WHEN {y} THEN 1 ELSE 2 END", "CASE WHEN {b} THEN {x} ELSE {y} END", "{x} IN ({y}, {z})",
    "{x} NOT IN ({y}, {z})", "{x} = ANY (ARRAY[{y}, {z}])", "{x} < ALL (ARRAY[{y}])", "{x} BETWEEN {y} AND {z}",
    "{x} BETWEEN SYMMETRIC {y} AND {z}", "{x} IS DISTINCT FROM {y}", "{x} IS NULL", "{x}::text", "{x}::json",
    "{x}::jsonb", "{x}::varchar(3)", "{x}::int", "text({x})", "poly_text({x})", "poly_json({x})",
    "poly_same({x}, {y})", "poly_quote({x})", "poly_plpgsql({x})", "poly_least(ARRAY[{x}, {y}])", "{x} ~~~ {y}",
    "pg_typeof({x})", "num_nulls({x}, {y})", "xmlforest({x} AS a)", "xmlelement(name a, {x})",
    "xmlelement(name a, xmlattributes({x} AS b))", "{x} = {y}", "{x} <> {y}", "{x} < {y}", "{x} >= {y}",
    "NOT {x} = {y}", "{x} = (SELECT {y})", "{x} IN (SELECT {y})", "EXISTS (SELECT 1 WHERE {x} = {y})",
    "ARRAY(SELECT {x})", "({x}, {y}) = ({y}, {z})", "({x}, 1) < ({y}, 2)", "({x}, {y}) = ANY (SELECT {y}, {z})",
    "{x} || 'y'", "'y' || {x}", "json_populate_record(NULL::pair, {j})", "(json_populate_record(NULL::t2, {j})).m",
    "jsonb_populate_record(NULL::small, {j}::jsonb)", "row_to_json({x})", "hash_array(ARRAY[{x}])",
    "array_fill({x}, ARRAY[2])", "lower(numrange(1, 2))", "pg_column_size({x})", "{x} IS NOT DISTINCT FROM NULL",
    "with_default({n})", "with_default({n}, c => 3)", "give_pos({n})", "give_couple('(1,2,ok)')", "take_pos({n})",
    "take_pos({d})", "take_couple('(1,2,sad)')", "many_moods('ok', {m})", "many_moods(VARIADIC ARRAY[{m}])",
    "{m} ## 'x'", "!! {m}", "{n} + 1", "enum_range({m})", "enum_first({m}) = {m}", "isempty({r})", "{r} @> {g}",
    "{r} && {r}", "{r} * {r}", "grades({g}, {g})", "lower({r})", "{r} = {r}", "{r} < {r}", "range_merge({r}, {r})",
    "({p}).d", "({p}).m", "({c}).a", "{p}::couple", "ROW({n}, {n}, 'ok')::pair", "ROW(1, 2, {m})::couple",
    "({n}, {d}, {m})::pair", "{n}::pos::int", "{x}::text::word", "{x}::text::long", "{n}::grade", "{m}::felt",
    "{g}::mark", "ARRAY[{n}]::pos[]", "ARRAY[{n}]::many", "'{{1,2}}'::pos[]", "'{{1}}'::many", "ARRAY[{m}]::text[]",
    "ARRAY[{m}]::text", "ARRAY[{m}]::felt[]", "'(1,2,ok)'::pair", "'(1,2,ok)'::couple", "'[c,a]'::grades", "'5'::pos",
    "NULL::pos", "NULL::couple", "{x}::text::mood", "'ok'::text::mood", "as_record({n})::text",
    "to_json(as_record({n}))", "as_record({n}) = as_record(2)", "(SELECT max({x}))",
    "(SELECT {x} ORDER BY 1 LIMIT 1)", "(table_of({n})).d", "moods()", "outs({m})", "(outs({m})).d",
    "to_json(outs({m}))", "({x}, {y})::text", "sorts({n})",
)  # fmt: skip
"""Expressions: x, y and z are of one type, b is a condition, the others are of the type of the column of t1."""
_SINCE: Final = {
    14: (
        "standard({m})", "grades_multirange({r})", "multirange({r})", "unnest(multirange({r}))",
        "trim_array(ARRAY[{x}, {y}], 1)",
    ),
    16: (
        "JSON_OBJECT('k': {x})", "JSON_OBJECT({x}::text: {y})", "JSON_ARRAY({x}, {y})", "JSON_ARRAY(SELECT {x})",
        "JSON_OBJECT('k': {x} RETURNING jsonb)", "{x}::text IS JSON", "array_shuffle(ARRAY[{x}])",
        "array_sample(ARRAY[{x}], 1)",
    ),
    17: (
        "JSON_SCALAR({x})", "JSON_SERIALIZE(JSON_ARRAY({x}))", "JSON_VALUE({jb}, '$.a' RETURNING pos)",
        "JSON_QUERY({jb}, '$' RETURNING pair)", "JSON_QUERY({jb}, '$' PASSING {x} AS v)",
        "JSON_VALUE({jb}, '$.m' RETURNING mood DEFAULT 'sad' ON EMPTY)", "JSON_EXISTS({jb}, '$.m' PASSING {x} AS v)",
    ),
    18: ("array_sort(ARRAY[{x}, {y}])", "array_reverse(ARRAY[{x}])", "casefold('X')"),
}  # fmt: skip
_AGGREGATES: Final = (
    "max({x})", "min({x})", "array_agg({x})", "array_agg({x} ORDER BY {x})", "array_agg(DISTINCT {x})",
    "json_agg({x})", "jsonb_agg({x} ORDER BY {y})", "json_object_agg({n}, {x})", "json_object_agg({x}, {n})",
    "jsonb_object_agg({n}, {x})", "count({x})", "count(DISTINCT {x})", "string_agg({x}::text, ',' ORDER BY {y})",
    "mode() WITHIN GROUP (ORDER BY {x})", "percentile_disc(0.5) WITHIN GROUP (ORDER BY {x})",
    "rank({y}) WITHIN GROUP (ORDER BY {x})", "best({g})", "gather({x})", "gather({x} ORDER BY {y} DESC)",
    "total({n})", "total(DISTINCT {n})", "kept({n})", "bool_or({x} = {y})", "max(ARRAY[{x}])",
    "count(*) FILTER (WHERE {b})", "cume_dist({y}) WITHIN GROUP (ORDER BY {x})", "max({g})", "min({g})",
)  # fmt: skip
_AGGREGATES_SINCE: Final = {
    14: ("range_agg({r})", "range_intersect_agg({r})"),
    16: (
        "any_value({x})", "JSON_ARRAYAGG({x})", "JSON_OBJECTAGG({n}: {x})",
        "JSON_ARRAYAGG({x} ORDER BY {y} RETURNING jsonb)",
    ),
    18: ("max(ROW({x}, 1))",),
}  # fmt: skip
_WINDOWS: Final = (
    "lag({x}) OVER (PARTITION BY {y} ORDER BY {z})", "rank() OVER (ORDER BY {x} DESC)",
    "dense_rank() OVER (PARTITION BY {x})", "first_value({x}) OVER (ORDER BY {n})",
    "count(*) OVER (ORDER BY {g} RANGE 1 PRECEDING)", "total({n}) OVER (ORDER BY {n} ROWS 1 PRECEDING)",
    "max({x}) OVER (ORDER BY {n} ROWS 1 PRECEDING)", "lead({x}, 1, {y}) OVER (ORDER BY {n})",
    "array_agg({x}) OVER (ORDER BY {x} GROUPS 1 PRECEDING)",
    "count(*) OVER (ORDER BY {x} RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)", "ntile(2) OVER (ORDER BY {x})",
)  # fmt: skip
_FIXED: Final = (
    "SELECT m, g, p, i, d, c, r, ma FROM t1", "SELECT to_json(m) FROM t1", "SELECT row_to_json(small) FROM small",
    "SELECT json_agg(m), jsonb_agg(g) FROM t1", "SELECT array_to_json(ma), array_to_json(ra) FROM t1",
    "SELECT jsonb_build_object('k', p) FROM t1", "SELECT quote_literal(m), quote_nullable(p) FROM t1",
    "SELECT m || 'y', 'y' || m FROM t1", "SELECT m::text || 'y' FROM t1", "SELECT with_default(1)", "SELECT '5'::pos",
    "SELECT n::pos FROM t1", "SELECT '(1,2,ok)'::pair, '{1}'::pos[], '(1,2,ok)'::couple, '[c,b]'::grades",
    """SELECT json_populate_record(p, '{"d": 3}') FROM t1""",
    "SELECT (jsonb_populate_record(NULL::t2, jb)).d FROM t1", """SELECT a FROM json_to_record('{"a": 1}') x(a pos)""",
    "SELECT GREATEST(g, 'b'), LEAST(i, i) FROM t1", "SELECT g FROM t1 ORDER BY g", "SELECT i FROM t1 ORDER BY i DESC",
    "SELECT ga FROM t1 ORDER BY ga", "SELECT ROW(g, 1) < ROW(g, 2), ROW(g, i) = ROW(g, i) FROM t1",
    "SELECT max(ga), min(ga) FROM t1", "SELECT width_bucket(g, ARRAY['a'::grade]) FROM t1",
    "SELECT ga = ga, ia = ia, ga @> ga FROM t1", "SELECT array_position(ga, 'b'), array_remove(ia, i) FROM t1",
    "SELECT t1 IS DISTINCT FROM t1 FROM t1", "SELECT DISTINCT g FROM t1", "SELECT i, count(*) FROM t1 GROUP BY i",
    "SELECT g FROM t1 UNION SELECT g FROM t2", "SELECT 1 FROM t1 JOIN t2 USING (g)",
    "SELECT 1 FROM t1 JOIN t2 ON t1.ga = t2.ga", "SELECT total(n) FROM big", "SELECT kept(n) FROM big",
    "SELECT array_agg(w) FROM big", "SELECT array_agg(r), array_agg(i) FROM big", "SELECT best(g), max(g) FROM big",
    "SELECT count(*) FROM big WHERE s && '[2,4)' AND r @> 'b'::grade",
    "SELECT total(n) OVER (ORDER BY id ROWS 1 PRECEDING) FROM t1", "SELECT id FROM odd WHERE n > 1",
    "SELECT id FROM parted WHERE g = 'a'", "SELECT id FROM ranged WHERE g > 'b'", "SELECT id FROM guarded",
    "SELECT poly_text(m), poly_json(m), poly_quote(m), poly_plpgsql(m) FROM t1",
    "SELECT poly_least(ga), poly_same(g, g) FROM t1", "SELECT gather(m) FROM t1", "SELECT g ~~~ g FROM t1",
    "SELECT ROW(m, g)::text, to_json(ROW(m, g)) FROM t1", "SELECT to_json(s) FROM (SELECT m AS x, p FROM t1) s",
    "SELECT s.y FROM big a, LATERAL (SELECT a.g AS y FROM t2 b WHERE b.id = a.n OFFSET 0) s",
    "SELECT xmlforest(m), xmlelement(name a, g) FROM t1",
    "SELECT m::json, ma::text, ma::json, ma::text[], m::int FROM t1", "SELECT jm, lower, e FROM v1",
    "SELECT * FROM v2", "SELECT take_couple(give_couple(p)), (give_couple(p)).d FROM t1",
    "SELECT count(*) OVER (ORDER BY g RANGE 1 PRECEDING) FROM t1", "SELECT mode() WITHIN GROUP (ORDER BY g) FROM t1",
    "SELECT to_json(small), small::text, small::json FROM small", "SELECT p::json, p::text, m::jsonb FROM t1",
    "SELECT ARRAY[n]::many, x::word::long, x::mood FROM (SELECT n, 'ok'::text AS x FROM t1) s",
)  # fmt: skip
"""Statements that run one thing each which nothing else does: they come with all settings."""
_CYCLES: Final = (
    "SEARCH DEPTH FIRST BY {c} SET s",
    "SEARCH BREADTH FIRST BY {c} SET s",
    "CYCLE {c} SET r USING p",
    "SEARCH DEPTH FIRST BY i, {c} SET s CYCLE i, {c} SET r USING p",
    "CYCLE {c}, i SET r TO {y} DEFAULT {z} USING p",
    "SEARCH BREADTH FIRST BY {c}, i SET s CYCLE {c} SET r TO {y} DEFAULT {y} USING p",
)
"""Clauses of a query of WITH RECURSIVE that has the columns v and i: c is one of them, y and z are of one type."""
_OF_CYCLES: Final = {
    "s": ("q.s", "q.s::text", "to_json(q.s)", "q.s = q.s", "count(DISTINCT q.s)", "max(q.s)"),
    "r": ("q.r", "q.r = q.r", "quote_literal(q.r)", "to_json(q.r)", "count(DISTINCT q.r)"),
    "p": ("q.p", "q.p::text", "q.p = q.p", "cardinality(q.p)", "q.p[1]", "to_json(q.p)"),
}
"""What can be done with the columns that they add."""
_FIXED_OF: Final = {
    "tag": (
        "SELECT t FROM tagged", "SELECT s FROM tagged", "SELECT l FROM tagged ORDER BY l", "SELECT 'a'::label IS NULL",
        "SELECT DISTINCT t FROM tagged", "SELECT to_json(l), to_json(t), concat(t), ts::text FROM tagged",
        "SELECT 1 FROM tagged a JOIN tagged b ON a.l = b.t",
    ),
    "grades_multirange": (
        "SELECT mr, mr = mr, to_json(mr) FROM wide", "SELECT range_agg(r) FROM t1",
        "WITH RECURSIVE q AS (SELECT 'b'::grade AS v, 1 AS i UNION ALL SELECT v, i + 1 FROM q WHERE i < 3)"
        " CYCLE v SET r USING p SELECT i FROM q",
        "WITH RECURSIVE q AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM q WHERE i < 3)"
        " CYCLE i SET r TO 'b'::grade DEFAULT 'a' USING p SELECT i FROM q",
        "WITH RECURSIVE q AS (SELECT 'b'::grade AS v, 1 AS i UNION ALL SELECT v, i + 1 FROM q WHERE i < 3)"
        " SEARCH BREADTH FIRST BY v SET s SELECT i FROM q ORDER BY s",
    ),
}  # fmt: skip
SETTINGS: Final[Sequence[Mapping[str, str]]] = (
    {},
    {"enable_hashjoin": "off", "enable_hashagg": "off"},
    {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_sort": "off"},
    {"enable_mergejoin": "off", "enable_nestloop": "off", "enable_sort": "off"},
    {"enable_seqscan": "off", "enable_bitmapscan": "off"},
    {"from_collapse_limit": "1", "join_collapse_limit": "1", "enable_material": "off"},
    {"plan_cache_mode": "force_generic_plan", "constraint_exclusion": "on"},
    {"enable_partitionwise_join": "on", "enable_partitionwise_aggregate": "on", "enable_indexscan": "off"},
    {
        "max_parallel_workers_per_gather": "2",
        "parallel_setup_cost": "0",
        "parallel_tuple_cost": "0",
        "min_parallel_table_scan_size": "0",
    },
)
"""What the planner is led by, one after the other."""


class Statement(NamedTuple):
    """One to run."""

    sql: str
    values: tuple[str | None, ...] = ()
    """Of its parameters."""
    types: tuple[str, ...] = ()
    """Their types, where the client declares them; an empty one: it does not."""
    binary: bool = False


@dataclass
class Function:
    name: str
    kind: str
    arguments: list[str] = field(default_factory=list)


@dataclass
class Things:
    """What a server has that statements are made of."""

    major: int
    types: list[str]
    """Those of the schema that it has."""
    functions: list[Function]
    """Built-in ones that take values of any type, and operators, which have `kind` O."""


_POLYMORPHIC: Final = frozenset(
    (
        "any", "anyelement", "anyarray", "anynonarray", "anyenum", "anyrange", "anymultirange", "anycompatible",
        "anycompatiblearray", "anycompatiblenonarray", "anycompatiblerange", "anycompatiblemultirange", "record",
    )
)  # fmt: skip
_FUNCTIONS: Final = """
SELECT proname, prokind, array_to_string(ARRAY(SELECT format_type(a, NULL) FROM unnest(proargtypes) a), ',')
FROM pg_proc
WHERE oid < 16384 AND pronamespace = 'pg_catalog'::regnamespace AND provolatile <> 'v' OR proname LIKE 'json%_agg%'
ORDER BY pg_proc.oid
"""
_OPERATORS: Final = """
SELECT oprname, 'O', format_type(oprleft, NULL) || ',' || format_type(oprright, NULL)
FROM pg_operator
WHERE oid < 16384 AND oprleft <> 0
ORDER BY oid
"""


def things(analyst: Analyst) -> Things:
    """Read what a server has."""
    names = [row[0] for row in analyst.run("SELECT typname FROM pg_type WHERE oid >= 16384 AND typelem = 0")]
    own = {name for name in names if name}
    types = [name for name in _LITERALS if name.removesuffix("[]") in own]
    rows = analyst.run(_FUNCTIONS) + analyst.run(_OPERATORS)
    functions = [
        Function(name or "", kind or "", found)
        for name, kind, arguments in rows
        if kind != "p"
        and _POLYMORPHIC.intersection(found := [each.strip('"') for each in (arguments or "").split(",")])
    ]
    return Things(analyst.version, types, [each for each in functions if "internal" not in each.arguments])


class Maker:
    """Make one statement after the other."""

    def __init__(self, found: Things, rng: random.Random) -> None:
        self._rng = rng
        self._types = found.types
        self._functions = found.functions
        major = found.major
        self._one = [*_WITH_ONE, *(each for since, some in _SINCE.items() if major >= since for each in some)]
        more = (each for since, some in _AGGREGATES_SINCE.items() if major >= since for each in some)
        self._aggregates = [*_AGGREGATES, *more]
        self._tables = {
            name: columns
            for name, columns in _TABLES.items()
            if all(type_ in _PLAIN or type_ in found.types for type_ in columns.values())
        }
        self._favourites = [name for name in _FAVOURITES if name in self._tables] + list(self._tables)
        self._major = major
        self._scope: list[tuple[str, Mapping[str, str]]] = []
        self._values: list[str | None] = []
        self._declared: list[str] = []
        self._next = 0

    def fixed(self) -> Iterator[Statement]:
        """Yield those that are always the same."""
        of = (each for type_, some in _FIXED_OF.items() if type_ in self._types for each in some)
        yield from map(Statement, (*_FIXED, *of))

    def statements(self) -> Iterator[Statement]:
        """Yield statements without end; every built-in function and operator of values of any type comes in turn."""
        turn = 0
        while True:
            for at in range(4):
                self._scope, self._values, self._declared = [], [], []
                sql = self._of_function(turn) if at == 3 else self._statement()
                turn += at == 3
                yield Statement(sql, tuple(self._values), tuple(self._declared), self._rng.random() < 0.1)

    # -- whole statements ----------------------------------------------------------------------------------------------

    def _statement(self) -> str:
        if self._rng.random() < 0.05:
            return self._estimated()
        query = self._query(self._rng.choice((0, 1, 1, 2)))
        r = self._rng.random()
        if self._values or r > 0.1:
            return query
        if r < 0.03:
            return f"EXPLAIN (VERBOSE, COSTS OFF) {query}"
        if r < 0.06:
            return f"EXPLAIN (ANALYZE, TIMING OFF) {query}"
        return f"COPY ({query}) TO STDOUT" + self._rng.choice(("", " (FORMAT binary)"))

    def _estimated(self) -> str:
        """Return a statement over the table with statistics, or the plan of one: then those are asked."""
        self._scope = [("a", _BIG), ("b", _BIG)]
        name = self._rng.choice(list(_BIG))
        comparison = self._rng.choice(("=", "<", "<>", ">="))
        if self._rng.random() < 0.3:
            self._scope.pop()
            return f"SELECT {self._filled(self._rng.choice(self._aggregates))} FROM big a"
        literal = f"'{_LITERALS[_BIG[name]]}'"
        where = self._rng.choice(
            (f"a.{name} {comparison} {literal}", f"a.s && {self._literal('span')}", "a.s @> 4", "a.ga @> '{a}'",
             f"a.r && {self._literal('grades')}", f"a.{name} IN ({literal}, {literal})")
        )  # fmt: skip
        join = self._rng.choice((f"a.{name} {comparison} b.{name}", f"a.{name} = b.{name}", "a.s && b.s"))
        return f"EXPLAIN SELECT count(*) FROM big a JOIN big b ON {join} WHERE {where}"

    def _query(self, depth: int) -> str:
        r = self._rng.random()
        saved = self._scope
        try:
            if r < 0.12:
                type_ = self._type()
                operation = self._rng.choice(("UNION", "UNION ALL", "INTERSECT", "EXCEPT"))
                sides = (f"SELECT {self._value(type_)} AS o FROM {self._from(depth)}" for _ in range(2))
                return f" {operation} ".join(sides) + self._rng.choice(("", " ORDER BY 1", " ORDER BY o DESC LIMIT 3"))
            if r < 0.2:
                inner, columns = self._derived(depth)
                self._scope = [("q", columns)]
                return f"WITH q AS {self._rng.choice(('', 'MATERIALIZED '))}({inner}) {self._select(depth, 'q')}"
            if r < 0.26:
                type_ = self._type()
                return self._recursive(type_)
            return self._select(depth, self._from(depth))
        finally:
            self._scope = saved

    def _recursive(self, type_: str) -> str:
        start = f"SELECT {self._literal(type_)} AS v, 1 AS i"
        again = f"SELECT {self._rng.choice(('v', self._literal(type_)))}, i + 1 FROM q WHERE i < 3"
        columns = ["*", "v", "i"]
        clauses = order = ""
        if self._major >= 14 and self._rng.random() < 0.7:
            clauses = self._filled(self._rng.choice(_CYCLES).replace("{c}", "v"))
            for name, uses in _OF_CYCLES.items():
                if f"SET {name}" in clauses or f"USING {name}" in clauses:
                    columns += uses
                    order = self._rng.choice((order, order, f" ORDER BY {name}"))
        union = self._rng.choice(("UNION", "UNION ALL"))
        listed = self._rng.choice(columns)
        order = "" if "max(" in listed or "count(" in listed else order
        return f"WITH RECURSIVE q AS ({start} {union} {again}) {clauses} SELECT {listed} FROM q{order}"

    def _derived(self, depth: int) -> tuple[str, Mapping[str, str]]:
        """Return a query with columns of known types."""
        saved = self._scope
        source = self._from(0)
        types = [self._type() for _ in range(2)]
        listed = ", ".join(f"{self._value(type_)} AS c{at}" for at, type_ in enumerate(types))
        query = self._rng.choice(("SELECT ", "SELECT ", "SELECT DISTINCT ")) + f"{listed} FROM {source}"
        query += self._rng.choice(("", "", " OFFSET 0", " ORDER BY 1 LIMIT 2"))
        self._scope = saved
        return query, {f"c{at}": type_ for at, type_ in enumerate(types)}

    def _select(self, depth: int, source: str) -> str:
        r = self._rng.random()
        where = f" WHERE {self._condition()}" if self._rng.random() < 0.4 else ""
        if r < 0.15:
            keys = [self._value(self._type()) for _ in range(self._rng.choice((1, 2)))]
            form = self._rng.choice(("{}", "{}", "ROLLUP ({})", "GROUPING SETS (({}), ())"))
            listed = ", ".join([*keys, self._filled(self._rng.choice(self._aggregates))])
            having = f" HAVING {self._filled('count(DISTINCT {x}) > 0')}" if self._rng.random() < 0.2 else ""
            return f"SELECT {listed} FROM {source}{where} GROUP BY {form.format(', '.join(keys))}{having}"
        if r < 0.3:
            aggregates = [self._filled(self._rng.choice(self._aggregates)) for _ in range(self._rng.choice((1, 2)))]
            return f"SELECT {', '.join(aggregates)} FROM {source}{where}"
        if r < 0.4:
            return f"SELECT {self._filled(self._rng.choice(_WINDOWS))} FROM {source}{where}"
        if r < 0.5:
            table, columns = self._rng.choice(self._scope)
            column = f"{table}.{self._rng.choice(list(columns))}"
            listed = self._rng.choice(
                ("*", table, f"{table}.*", f"to_json({table})", f"{table}::text", f"{table} = {table}", column, "1",
                 f"count(*), max({column})", f"row_to_json({table})", f"count({table})", f"quote_literal({table})",
                 f"count(DISTINCT {table})", f"ROW({table}.*) = ROW({table}.*)", f"json_agg({table})")
            )  # fmt: skip
            if self._rng.random() < 0.3:
                where += f" ORDER BY {column}" if "(" not in listed else ""
            return f"SELECT {listed} FROM {source}{where}"
        listed = ", ".join(self._expression(depth) for _ in range(self._rng.choice((1, 1, 2))))
        distinct = self._rng.choice(("", "", "", "DISTINCT "))
        order = ""
        if self._rng.random() < 0.25:
            order = " ORDER BY " + ("1" if distinct else self._value(self._type()) + self._rng.choice(("", " DESC")))
        return f"SELECT {distinct}{listed} FROM {source}{where}{order}" + self._rng.choice(("", "", " LIMIT 2"))

    def _from(self, depth: int) -> str:
        """Put something into the scope, and return it as it is written in FROM."""
        self._scope = []
        source = self._item(depth, "a")
        r = self._rng.random()
        if r < 0.45:
            return source
        lateral = self._rng.random() < 0.3
        if not lateral:
            before, self._scope = self._scope, []
        other = self._item(depth, "b")
        if not lateral:
            self._scope = [*before, *self._scope]
        common = [
            (name, type_) for name, type_ in self._scope[0][1].items() if self._scope[-1][1].get(name, "") == type_
        ]
        if r < 0.6 or not common:
            return f"{source}, {'LATERAL ' * (lateral and other.startswith('('))}{other}"
        name, _ = self._rng.choice(common)
        kind = self._rng.choice(("JOIN", "JOIN", "LEFT JOIN", "FULL JOIN"))
        if lateral:
            kind, other = "JOIN", f"LATERAL {other}" if other.startswith("(") else other
        if r < 0.75:
            return f"{source} {kind} {other} USING ({name})"
        comparison = self._rng.choice(("=", "=", "=", "<", "<>")) if kind != "FULL JOIN" else "="
        return f"{source} {kind} {other} ON a.{name} {comparison} b.{name}"

    def _item(self, depth: int, alias: str) -> str:
        r = self._rng.random()
        if r < 0.12 and depth:
            query, columns = self._derived(depth - 1) if self._rng.random() < 0.6 else self._correlated()
            self._scope = [*self._scope, (alias, columns)]
            return f"({query}) {alias}"
        if r < 0.22:
            item, columns = self._rng.choice(_ITEMS)
            if "JSON_TABLE" not in item or self._major >= 17:
                self._scope = [*self._scope, (alias, columns)]
                return item.format(alias)
        name = self._rng.choice(self._favourites)
        self._scope = [*self._scope, (alias, self._tables[name])]
        return f"{name} {alias}"

    def _correlated(self) -> tuple[str, Mapping[str, str]]:
        """Return a query that has something of what stands before it in FROM, if there is anything."""
        type_ = self._type()
        tail = self._rng.choice(("", " OFFSET 0", " LIMIT 1"))
        if not self._scope:
            return f"SELECT {self._literal(type_)} AS c0{tail}", {"c0": type_}
        return f"SELECT {self._value(type_)} AS c0, t2.id FROM t2{tail}", {"c0": type_, "id": "int"}

    # -- expressions ---------------------------------------------------------------------------------------------------

    def _expression(self, depth: int) -> str:
        if depth and self._rng.random() < 0.1:
            return f"(SELECT {self._filled(self._rng.choice(self._aggregates))} FROM t2)"
        if self._rng.random() < 0.1:
            return self._value(self._type())
        return self._filled(self._rng.choice(self._one))

    def _condition(self) -> str:
        forms = ("{x} = {y}", "{x} IN ({y}, {z})", "{x} < {y}", "{x} IS NOT NULL", "{x} IS DISTINCT FROM {y}",
                 "{x} IN (SELECT {y} FROM t2)", "EXISTS (SELECT 1 FROM t2 WHERE {x} = {y} AND t2.m = {m})",
                 "{x} = ANY (SELECT {y} FROM t2 WHERE t2.g = {g})", "{n} > 0", "{x} BETWEEN {y} AND {z}",
                 "{x} NOT IN (SELECT {y} FROM t2)", "({x}, {n}) IN (SELECT {y}, t2.id FROM t2)",
                 "{x} = ANY (ARRAY[{y}, {z}, {x}, {y}, {z}, {y}, {y}, {z}, {y}, {y}])")  # fmt: skip
        return self._filled(self._rng.choice(forms))

    def _filled(self, form: str) -> str:
        type_ = self._type()
        parts = {name: self._value(type_) for name in "xyz" if f"{{{name}}}" in form}
        if "{b}" in form:
            parts["b"] = f"{self._value(type_)} IS NOT NULL"
        parts |= {
            name: self._value(known) for name, known in _T1.items() if name not in parts and f"{{{name}}}" in form
        }
        return form.format(**parts)

    def _value(self, type_: str) -> str:
        """Return an expression of a type: mostly a column."""
        r = self._rng.random()
        if r < 0.65:
            found = [
                f"{table}.{name}" for table, columns in self._scope for name, its in columns.items() if its == type_
            ]
            found += (
                f"({table}.{name}).{part}"
                for table, columns in self._scope
                for name, its in columns.items()
                for part, of in _FIELDS.get(its, {}).items()
                if of == type_
            )
            if found:
                return self._rng.choice(found)
        if r < 0.72:
            return self._parameter(type_)
        return self._literal(type_)

    def _literal(self, type_: str) -> str:
        r = self._rng.random()
        if r < 0.05:
            return f"NULL::{type_}"
        text = "'" + _LITERALS[type_].replace("'", "''") + "'"
        return text if r < 0.25 else f"{text}::{type_}"

    def _parameter(self, type_: str) -> str:
        r = self._rng.random()
        self._values.append(_LITERALS[type_] if r < 0.9 else None)
        declared = self._rng.random() < 0.5
        self._declared.append(type_ if declared else "")
        number = f"${len(self._values)}"
        return number if declared or r < 0.3 else f"{number}::{type_}"

    def _type(self) -> str:
        r = self._rng.random()
        if r < 0.5:
            there = [its for _, columns in self._scope for its in columns.values() if its not in _PLAIN]
            if there:
                return self._rng.choice(there)
        return self._rng.choice(self._types) if r < 0.95 else self._rng.choice(("int", "text", "jsonb"))

    # -- built-in functions of any type --------------------------------------------------------------------------------

    def _of_function(self, turn: int) -> str:
        function = self._functions[turn % len(self._functions)]
        source = self._from(0)
        element = self._rng.choice([each for each in self._types if not each.endswith("[]")])
        array = f"{element}[]"
        of_range = self._rng.choice(("grades", "span"))
        stands_for = {
            **dict.fromkeys(("any", "anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray"), element),
            **dict.fromkeys(("anyarray", "anycompatiblearray"), array),
            **dict.fromkeys(("anyrange", "anycompatiblerange"), of_range),
            **dict.fromkeys(("anymultirange", "anycompatiblemultirange"), f"{of_range}_multirange"),
            "anyenum": self._rng.choice(("mood", "grade")),
            "integer": "int",
            "boolean": "bool",
            "double precision": "float8",
            "record": self._rng.choice(("pair", "item", "small")),
        }
        if {"anyrange", "anymultirange"} & set(function.arguments):
            stands_for["anyelement"] = "grade" if of_range == "grades" else "int"
            stands_for["anyarray"] = f"{stands_for['anyelement']}[]"
        given = []
        for each in function.arguments:
            type_ = stands_for.get(each, each)
            if type_ in _LITERALS:
                given.append(self._value(type_))
            elif type_.endswith("[]") and type_[:-2] in _LITERALS:
                value = self._value(type_[:-2])
                given.append(f"ARRAY[{value}]::{type_}" if value.startswith(("$", "'")) else f"ARRAY[{value}]")
            else:
                given.append("NULL" if self._rng.random() < 0.5 else "'1'")
        if function.kind == "O":
            return f"SELECT {given[0]} OPERATOR(pg_catalog.{function.name}) {given[1]} FROM {source}"
        over = " OVER (ORDER BY 1)" if function.kind == "w" else ""
        return f"SELECT pg_catalog.{function.name}({', '.join(given)}){over} FROM {source}"


_ITEMS: Final[Sequence[tuple[str, Mapping[str, str]]]] = (
    ("moods() {0}(m)", {"m": "mood"}),
    ("table_of(1) {0}", {"m": "mood", "d": "pos", "w": "word"}),
    ("sorts(1) {0}(g)", {"g": "grade"}),
    ("unnest('{{ok,sad}}'::mood[]) {0}(m)", {"m": "mood"}),
    ("unnest('{{a,b}}'::grade[], '{{1,2}}'::pos[]) {0}(g, d)", {"g": "grade", "d": "pos"}),
    ("as_record(1) {0}(m mood, g grade, d pos)", {"m": "mood", "g": "grade", "d": "pos"}),
    (
        """json_to_record('{{"m": "ok", "d": 1, "p": {{"d": 2}}}}') {0}(m mood, d pos, p pair)""",
        {"m": "mood", "d": "pos", "p": "pair"},
    ),
    ("""jsonb_to_recordset('[{{"g": "a", "k": "b"}}]') {0}(g grade, k mark)""", {"g": "grade", "k": "mark"}),
    ("""json_populate_recordset(NULL::small, '[{{"a": 1, "m": "ok"}}]') {0}""", {"a": "int", "m": "mood"}),
    ("(VALUES ('ok'::mood, 'a'::grade), ('sad', 'b')) {0}(m, g)", {"m": "mood", "g": "grade"}),
    (
        "xmltable('/r' PASSING '<r><m>ok</m><d>1</d></r>' COLUMNS m mood, d pos, g grade DEFAULT 'a') {0}",
        {"m": "mood", "d": "pos", "g": "grade"},
    ),
    (
        """JSON_TABLE('[{{"m": "ok", "d": 1, "p": {{"a": 1, "d": 2}}}}]', '$[*]'
            COLUMNS (m mood PATH '$.m', d pos PATH '$.d', p pair PATH '$.p')) {0}""",
        {"m": "mood", "d": "pos", "p": "pair"},
    ),
    ("generate_series(1, 3) {0}(id)", {"id": "int"}),
    ("(SELECT * FROM big WHERE id < 4) {0}", _BIG),
    ("(SELECT * FROM big WHERE id < 4) {0}", _BIG),
    ("ROWS FROM (moods(), sorts(2)) WITH ORDINALITY {0}(m, g, o)", {"m": "mood", "g": "grade", "o": "bigint"}),
)
"""What else stands in FROM, with the columns that it has."""

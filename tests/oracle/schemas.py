"""Make schemas at random that stand in the way of what is built in, have a server hold them, and compare in them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from hypothesis import strategies as st

from proxy.demo.embedded import EmbeddedServer
from proxy.sql.resolve.world import Tables
from tests.oracle import runs
from tests.oracle.catalogue import EVERY, Catalogue, prepare
from tests.oracle.compare import UNSOUND, Cause, Comparison, Problem, by_cause
from tests.oracle.resolving import Resolving
from tests.oracle.server import Analyst
from tests.oracle.statements import SOURCES, Statement

PATHS: Final = ("public", "rival, public", "public, pg_catalog", "rival, pg_catalog, public", "nowhere, pg_temp, rival")
FEW: Final = 300
"""Statements in each schema."""
_SCHEMAS: Final = st.sampled_from(("public", "public", "rival"))
_FUNCTIONS: Final = (
    *("lower", "upper", "length", "abs", "ceil", "round", "substring", "overlay", "position", "btrim", "concat"),
    *("format", "date_part", "extract", "timezone", "like_escape", "similar_to_escape", "xmlexists", "to_json"),
    *("unnest", "now"),
    *("generate_series", "array_length", "int4", "text", "date", "numeric", "varchar", "mood", "pair", "label", "full"),
    *("twice", "same_pair", "t", "id", "json_object", "json_array", "json", "system_user", "coalesce", "greatest"),
    *("max", "sum", "count", "string_agg", "array_agg", "rank", "lag", "percentile_disc", "mode"),
)  # fmt: skip
_OPERATORS: Final = (
    *("=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||", "->", "->>", "@>", "<@", "&&", "~", "~~", "!~~"),
    *("~~*", "^", "<#>", "##", "|/", "@@"),
)  # fmt: skip
_TYPES: Final = (
    *("int", "bigint", "smallint", "numeric", "real", "float8", "text", "varchar", "char(3)", "name", '"char"', "bool"),
    *("date", "timestamp", "timestamptz", "interval", "json", "jsonb", "oid", "regclass", "bytea", "uuid", "xml"),
    *("int[]", "text[]", "varchar[]", "int4range", "public.mood", "public.pair", "public.positive", "public.label"),
    *("public.mood[]", "public.pair[]", "public.t1", "record", "cstring", "void"),
    *("anyelement", "anyarray", "anynonarray", "anyenum", "anyrange", '"any"'),
    *("anycompatible", "anycompatiblearray", "anycompatiblenonarray", "anymultirange"),
    *("fresh0", "fresh1", "fresh2", "rival.fresh0", "fresh1[]", "fresh2[]"),
)  # fmt: skip
_FRESH: Final = ("fresh0", "fresh1", "fresh2", "rival.fresh0", "text", "int4", "date", "numeric", "bool")
"""Names of types that a schema makes: some are borne by built-in ones, too."""
_type = st.sampled_from(_TYPES)


def _body(result: str) -> str:
    return f"RETURNS {result} LANGUAGE sql AS $$ SELECT NULL::{result.removeprefix('SETOF ')} $$"


@st.composite
def _function(draw: st.DrawFn) -> str:
    arguments = draw(st.lists(_type, max_size=4))
    written = (
        [f"{name} {type_}" for name, type_ in zip("abcd", arguments, strict=False)]
        if draw(st.booleans())
        else arguments
    )
    kind = draw(st.sampled_from(("", "", "", "variadic", "default", "out", "setof")))
    if kind == "variadic" and written:
        written[-1] = "VARIADIC " + written[-1]
    elif kind == "default" and written:
        written[-1] += " DEFAULT NULL"
    result = draw(_type)
    if kind == "out":
        written += [f"OUT x {result}", f"OUT y {draw(_type)}"]
    body = "LANGUAGE sql AS $$ SELECT NULL, NULL $$" if kind == "out" else _body("SETOF " * (kind == "setof") + result)
    return f"CREATE FUNCTION {draw(_SCHEMAS)}.{_name(draw)}({', '.join(written)}) {body}"


def _name(draw: st.DrawFn) -> str:
    return f'"{draw(st.sampled_from(_FUNCTIONS))}"'


@st.composite
def _operator(draw: st.DrawFn) -> str:
    left, right, result = (
        draw(st.one_of(st.just(""), _type, _type)),
        draw(_type),
        draw(st.sampled_from(("bool", *_TYPES))),
    )
    schema, number = draw(_SCHEMAS), draw(st.integers(0, 999_999))
    taken = ", ".join(filter(None, (left, right)))
    operands = f"LEFTARG = {left}, RIGHTARG = {right}" if left else f"RIGHTARG = {right}"
    return (
        f"CREATE FUNCTION {schema}.op_{number}({taken}) {_body(result)};"
        f" CREATE OPERATOR {schema}.{draw(st.sampled_from(_OPERATORS))} (FUNCTION = {schema}.op_{number}, {operands})"
    )


@st.composite
def _cast(draw: st.DrawFn) -> str:
    source, target = draw(_type), draw(_type)
    number, context = (
        draw(st.integers(0, 999_999)),
        draw(st.sampled_from(("", " AS ASSIGNMENT", " AS IMPLICIT", " AS IMPLICIT"))),
    )
    way = draw(st.sampled_from(("function", "function", "WITH INOUT", "WITHOUT FUNCTION")))
    if way != "function":
        return f"CREATE CAST ({source} AS {target}) {way}{context}"
    return (
        f"CREATE FUNCTION public.cast_{number}({source}) {_body(target)};"
        f" CREATE CAST ({source} AS {target}) WITH FUNCTION public.cast_{number}({source}){context}"
    )


@st.composite
def _new_type(draw: st.DrawFn) -> str:
    name, one, other = draw(st.sampled_from(_FRESH)), draw(_type), draw(_type)
    name = name if "." in name else f"{draw(_SCHEMAS)}.{name}"
    return draw(
        st.sampled_from(
            (
                f"CREATE TYPE {name} AS ENUM ('1', 'ok', 'a')",
                f"CREATE DOMAIN {name} AS {one}",
                f"CREATE TYPE {name} AS (id {one}, full_name {other})",
                f"CREATE TYPE {name} AS RANGE (SUBTYPE = {one})",
            )
        )
    )


@st.composite
def _aggregate(draw: st.DrawFn) -> str:
    type_, state, number = draw(_type), draw(_type), draw(st.integers(0, 999_999))
    name, order = f"{draw(_SCHEMAS)}.{_name(draw)}", draw(st.sampled_from(("", "", "ORDER BY ")))
    return (
        f"CREATE FUNCTION public.step_{number}({state}, {type_}) {_body(state)};"
        f" CREATE AGGREGATE {name}({order}{type_}) (SFUNC = public.step_{number}, STYPE = {state})"
    )


@st.composite
def _relation(draw: st.DrawFn) -> str:
    name = draw(
        st.sampled_from(("rival.t1", "rival.t2", "rival.tab", "public.lower", "rival.pg_class", "rival.every_type"))
    )
    columns = draw(
        st.lists(st.tuples(st.sampled_from(("id", "n", "t", "v", "lower", "full_name", "p")), _type), max_size=6)
    )
    return f"CREATE TABLE {name} ({', '.join(f'{column} {type_}' for column, type_ in dict(columns).items())})"


objects: Final = st.lists(
    st.one_of(
        _new_type(), _function(), _function(), _function(), _operator(), _operator(), _cast(), _aggregate(), _relation()
    ),
    min_size=1,
    max_size=30,
)
"""Statements that make objects, in their order; the server does not take all of them."""


def _created(server: EmbeddedServer, database: str, made: Sequence[str]) -> None:
    """Make a database with these objects, as far as the server takes them."""
    template = runs.create(server)
    server.sql(f"DROP DATABASE IF EXISTS {database}")
    server.sql(f"CREATE DATABASE {database} TEMPLATE {template}")
    with Analyst(server.port, database) as analyst:
        analyst.run(f"CREATE SCHEMA rival; DROP TABLE IF EXISTS public.{EVERY}")
        analyst.run("SET check_function_bodies = off")
        for each in made:
            try:
                analyst.run(each)
            except RuntimeError:
                continue


def _statements(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield statements of every source that has some without end, in turn."""
    names = ("typed", "names", "typed", "branches", "typed", "random", "typed", "mixed-functions", "mixed-operators")
    sources = [SOURCES[name](catalogue, rng) for name in names]
    while True:
        for source in sources:
            yield from islice(source, 1)


def compare(
    server: EmbeddedServer,
    made: Sequence[str],
    path: str,
    seed: int,
    *,
    few: int = FEW,
    fault: Callable[[Tables], Tables] | None = None,
) -> Comparison:
    """Compare the resolver with the server on statements in a database with these objects.

    `fault` has the resolver know another catalogue than the server has.
    """
    database = "oracle_fuzzed"
    _created(server, database, made)
    with Analyst(server.port, database) as reader, Analyst(server.port, database, search_path=path) as analyst:
        catalogue = prepare(reader)
        resolving = Resolving(analyst, reader)
        if fault is not None:
            resolving.spoil(fault)
        found = Comparison(runs.names(analyst))
        statements = islice(_statements(catalogue, random.Random(seed)), few)
        runs.compare(analyst, resolving.resolve, found, statements)
    return found


def wrong(found: Comparison) -> list[Cause]:
    """Return what may not be: misses, and failures of the resolver."""
    return [cause for cause in by_cause(found.misses) if cause.problem in UNSOUND or cause.problem is Problem.CRASH]

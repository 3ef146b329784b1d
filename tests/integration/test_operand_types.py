"""What is held certain of an expression's type without a catalogue is what the server says of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import psycopg
import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.sql import operators, text
from tests import servers

TYPES = (
    *("int2", "int4", "int8", "numeric", "float4", "float8", "text", "varchar", "bpchar", "name", "bool", "uuid"),
    *("date", "time", "timetz", "timestamp", "timestamptz", "interval", "json", "jsonb", "bytea", "bit", "inet", "oid"),
    *("_int4", "_text", "point", "tsvector", "money", '"char"'),
)
VALUES = (*(f"NULL::{name}" for name in TYPES), "'1'", "NULL", "1", "2.5", "9999999999", "true", "B'10'", "X'1F'")
OPERATORS = (
    *("+", "-", "*", "/", "%", "^", "||", "=", "<>", "<", ">=", "~~", "!~~*", "~", "~*", "->", "->>", "#>>", "&", "@>"),
    *("LIKE", "ILIKE", "IS DISTINCT FROM"),
)
OTHERS = (
    *("- {0}", "+ {0}", "{0} IS NULL", "({0}) IS TRUE", "NOT ({0})", "EXISTS (SELECT {0})", "({0}) IN ({0}, {0})"),
    *("({0}) BETWEEN {0} AND {0}", "({0}) = ANY (SELECT {0})", "(SELECT {0})", "ARRAY(SELECT {0})", "COALESCE({0})"),
    *("CASE WHEN true THEN {0} END", "GREATEST({0}, NULL)", "NULLIF({0}, {0})", "COALESCE({0}, 'x') || 'y'"),
)
FIXED = (
    *("current_user", "session_user", "user", "current_role", "current_catalog", "current_schema", "current_date"),
    *("current_time", "current_time(2)", "current_timestamp", "current_timestamp(1)", "localtime", "localtime(1)"),
    *(
        "localtimestamp",
        "localtimestamp(0)",
        "1 + 2 * 3.5 - 4::int2",
        "'a' || 1 || 2.5",
        "1 + 2 || 'x' || current_date",
    ),
)
SPELLED = {
    '"char"': "char",
    "smallint": "int2",
    "integer": "int4",
    "bigint": "int8",
    "real": "float4",
    "double precision": "float8",
    "character varying": "varchar",
    "character": "bpchar",
    "boolean": "bool",
    "time without time zone": "time",
    "time with time zone": "timetz",
    "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamptz",
}


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as server:
        yield server


def expressions() -> Iterator[str]:
    yield from FIXED
    for left, name, right in product(VALUES, OPERATORS, VALUES):
        yield f"({left}) {name} ({right})"
    for form, value in product(OTHERS, VALUES):
        yield form.format(value)
    for one, other in product(VALUES, VALUES):
        yield f"COALESCE({one}, {other})"
        yield f"CASE WHEN true THEN {one} ELSE {other} END"


def certain(expression: str) -> str:
    """Give the type that is held certain; empty where none is."""
    (statement,) = text.parse(f"SELECT {expression}")
    (target,) = statement["stmt"]["SelectStmt"]["targetList"]
    found = operators.given(target["ResTarget"]["val"], operators.UNREAD)
    return "" if found in (operators.TYPED, operators.OPEN, "unknown") else found


def test_certain_types_are_those_of_the_server(server: EmbeddedServer) -> None:
    said = {expression: found for expression in expressions() if (found := certain(expression))}
    assert len(said) > 1000
    wrong = {}
    with psycopg.connect(server.dsn(), autocommit=True, prepare_threshold=None) as connection:
        for expression, found in said.items():
            try:
                # Not run: a value of NULL would do, an invalid one would not.
                rows = connection.execute(
                    f"SELECT pg_typeof(x) FROM (SELECT {expression} AS x WHERE false) s RIGHT JOIN (SELECT 1) t ON true"
                ).fetchall()
            except psycopg.Error:
                continue  # no such operator
            ((actual,),) = rows
            if SPELLED.get(actual, actual) != found:
                wrong[expression] = (found, actual)
    assert wrong == {}

"""Decoding the system catalogues' rows, and the query that asks for them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pglast.parser import parse_sql_json

from proxy.filter import Filter
from proxy.proofs import rows as catalog_rows
from proxy.sql.catalog import UNREADABLE, Rows
from proxy.sql.resolve import built_in, rows

SETS = 32
FUNCTION = (
    *(b"16400", b"public", b"f", b"f", b"sql", b"v", b"23", b"1", b"f", b"23", None, None),
    *(b"select 1", None, None, None, None, None),
)


def decode(**sets: list[list[bytes | None]]) -> Rows:
    """Decode result sets that are empty but for those given: `functions`, `relations`, `expressions` …"""
    order = ("server", "state", "functions", "relations", "expressions")
    given = [sets.get(name, []) for name in order] + [[] for _ in range(SETS - len(order))]
    given[0] = [[b"150018", b"shop", b"UTF8", b"reader", b"UTF8", b"t", b"t"]]
    given[catalog_rows.STATE] = [[None, b"public".hex().encode(), None]]
    given[-rows.SELECTS] = [[(built_in.digest(15) or "").encode(), b"12000"]]
    return catalog_rows.decode(given)


def test_empty_database() -> None:
    found = decode()
    assert found.own is not None
    assert (found.own.major, found.own.over, any(found.own.tables)) == (15, True, False)
    assert replace(found, own=None) == Rows(version=150018, database="shop", role="reader", begins_with="public")


@pytest.mark.parametrize("number", [0, 1, SETS - 1, SETS + 1])
def test_wrong_number_of_result_sets_is_an_error(number: int) -> None:
    with pytest.raises(ValueError, match="another number of results"):
        catalog_rows.decode([[] for _ in range(number)])


def test_function_dropped_while_it_was_read_is_unreadable() -> None:
    (row,) = decode(functions=[[*FUNCTION]]).functions
    assert (row.source, row.definition, row.default_expressions) == ("select 1", UNREADABLE, UNREADABLE)


def test_view_dropped_while_it_was_read_is_unreadable() -> None:
    view: list[bytes | None] = [b"16400", b"public", b"v", b"v", b"16402", None, None]
    table: list[bytes | None] = [b"16403", b"public", b"t", b"r", b"16405", None, None]
    built_in: list[bytes | None] = [b"12000", b"pg_catalog", b"pg_user", b"v", b"12002", None, None]
    rows = decode(relations=[view, table, built_in]).relations
    assert [row.definition for row in rows] == [UNREADABLE, "", ""]


def test_policy_dropped_while_it_was_read_is_unreadable() -> None:
    table: list[bytes | None] = [b"16403", b"public", b"t", b"r", b"16405", None, None]
    (row,) = decode(relations=[table], expressions=[[b"r", b"16403", None]]).relations
    assert row.expressions == (UNREADABLE,)


def test_unreadable_text_is_refused_by_the_filter() -> None:
    assert Filter().judge(f"SELECT {UNREADABLE}".encode()).rule == "nul-byte"


def test_bytes_that_are_not_utf_8_do_no_harm() -> None:
    table: list[bytes | None] = [b"16403", b"public", b"caf\xe9", b"r", b"16405", None, None]
    (row,) = decode(relations=[table]).relations
    assert row.name == "café"


@pytest.mark.parametrize("name", ["lower", "it's", "'; SELECT 1 --", "\\", "é", '"'])
def test_names_are_constants_of_the_query(name: str) -> None:
    plain, named = (strings(catalog_rows.load_query(names)) for names in ((), (name,)))
    assert sorted(named) == sorted([*plain, name])


def strings(query: bytes) -> list[str]:
    """Return all names and constants of a query."""
    found: list[str] = []
    waiting = [json.loads(parse_sql_json(query.decode()))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            found += [text for key, text in node.items() if key == "sval" and isinstance(text, str)]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return found

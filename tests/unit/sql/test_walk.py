"""The walk visits everything, and its table knows every node and field of the installed pglast."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from pglast import ast
from pglast.parser import ParseError, parse_sql_json

from proxy.sql import tables
from proxy.sql.walk import INTERESTING, walk

DATA = Path(__file__).parents[2] / "data"
CASES = [json.loads(line) for line in (DATA / "corpus.jsonl").read_text("utf-8").splitlines()]
LEAVES = {"String", "A_Star", "Integer", "Float", "Boolean", "BitString"}
"""Nodes without children: the walk checks them in place, where a list of names or a constant stands."""

CLASSES = {
    name: cls
    for name, cls in vars(ast).items()
    if inspect.isclass(cls) and issubclass(cls, ast.Node) and isinstance(cls.__slots__, dict)
}

EXOTIC = (DATA / "reads.sql").read_text("utf-8").splitlines()
"""Reads that use each kind of node, one a line."""


def traverse(node: Any, kind: str, seen: list[tuple[str, int]]) -> None:
    """Visit a tree by the shape of the JSON and pglast's own C types, with nothing of proxy/sql/walk.py in it."""
    seen.append((kind, id(node)))
    slots = CLASSES[kind].__slots__ if kind in CLASSES else {}
    for name, value in node.items():
        slot = slots.get(name)
        static = slot.c_type.removesuffix("*") if slot is not None and slot.c_type.endswith("*") else ""
        if kind == "A_Const" and isinstance(value, dict):
            seen.append(("constant", id(value)))
        elif isinstance(value, dict) and static in CLASSES:
            traverse(value, static, seen)
        elif isinstance(value, (dict, list)):
            for item in value if isinstance(value, list) else [value]:
                for inner, body in item.items():
                    traverse(body, inner, seen)


def texts() -> list[str]:
    parsed = []
    for text in [case["sql"] for case in CASES if "sql" in case] + EXOTIC:
        try:
            parse_sql_json(text)
        except ParseError:
            continue
        parsed.append(text)
    return parsed


ROOTS = [
    (kind, body)
    for text in texts()
    for raw in json.loads(parse_sql_json(text)).get("stmts", [])
    for kind, body in raw["stmt"].items()
]
ROOTS += [pair for _, body in ROOTS if "query" in body for pair in body["query"].items()]


def test_the_corpus_is_there() -> None:
    assert len(ROOTS) > 800


def test_the_visited_nodes_are_those_of_an_independent_traversal() -> None:
    compared = 0
    for kind, body in ROOTS:
        walked = walk(kind, body)
        if walked.unknown or kind not in tables.NODES:
            continue
        seen: list[tuple[str, int]] = []
        traverse(body, kind, seen)
        # An absent node in a list is `{}` and has no entry on either side.
        expected = [(name, at) for name, at in seen if name not in LEAVES and name != "constant"]
        visited = [(name, id(node)) for name, node in walked.visited if name not in LEAVES]
        assert sorted(visited) == sorted(expected), body
        compared += 1
    assert compared > 500


@pytest.mark.parametrize("text", EXOTIC)
def test_no_read_meets_an_unknown_node_or_field(text: str) -> None:
    (raw,) = json.loads(parse_sql_json(text))["stmts"]
    ((kind, body),) = raw["stmt"].items()
    assert walk(kind, body).unknown == []


def test_every_expression_node_of_the_table_is_exercised() -> None:
    seen = {name for kind, body in ROOTS for name, _ in walk(kind, body).visited}
    # JsonReturning is filled in by parse analysis; String and constants stand in places that are checked at once;
    # Integer stands in array bounds, Boolean, Float and BitString only in constants.
    never = {"JsonReturning", "A_Star", "BitString", "Boolean", "Float"}
    assert tables.NODES.keys() - seen <= never


def test_every_node_of_pglast_is_in_the_table() -> None:
    known = tables.NODES.keys() | tables.STATEMENT_NODES.keys() | tables.REFUSED_NODES
    assert CLASSES.keys() - known == set(), "pglast has nodes that nobody has looked at"
    assert known - CLASSES.keys() == {"List"}
    assert not tables.NODES.keys() & (tables.REFUSED_NODES | tables.STATEMENT_NODES.keys())


CONSTANTS = {"ival", "fval", "boolval", "sval", "bsval", "isnull", "location"}


@pytest.mark.parametrize("kind", sorted(tables.NODES.keys() | tables.STATEMENT_NODES.keys()))
def test_every_field_of_an_allowed_node_is_in_the_table_with_its_type(kind: str) -> None:
    fields = tables.NODES.get(kind) or tables.STATEMENT_NODES.get(kind) or {}
    if kind == "List":
        assert fields == {"items": tables.LIST}
        return
    if kind == "A_Const":  # the JSON writes its union out
        assert fields.keys() == CONSTANTS
        return
    slots = CLASSES[kind].__slots__
    assert fields.keys() == slots.keys()
    for name, slot in slots.items():
        what = fields[name]
        if isinstance(what, str) and what.startswith("!"):
            continue
        if slot.c_type == "List*":
            assert what in (tables.LIST, tables.NAMES, tables.PATH), name
        elif slot.c_type in ("Node*", "Expr*"):
            assert what in (tables.NODE, tables.QUERY), name
        elif slot.c_type.removesuffix("*") in CLASSES and slot.c_type.endswith("*"):
            assert what == slot.c_type.removesuffix("*"), name
            assert what in tables.NODES, name
        else:
            assert what == tables.SCALAR, name


def test_leaves_have_no_children() -> None:
    for kind in LEAVES:
        assert all(what == tables.SCALAR for what in tables.NODES[kind].values())


def test_an_unknown_field_is_reported() -> None:
    assert walk("SelectStmt", {"surprise": 1}).unknown[0].field == "surprise"
    assert walk("SelectStmt", {"whereClause": {"ParamRef": {"number": 1, "new": {}}}}).unknown[0].kind == "ParamRef"


def test_an_unknown_node_is_reported() -> None:
    assert walk("SelectStmt", {"whereClause": {"Surprise": {}}}).unknown[0].kind == "Surprise"
    assert walk("SelectStmt", {"fromClause": [{"List": {"items": [{"Surprise": {}}]}}]}).unknown[0].kind == "Surprise"


def test_a_name_that_is_no_string_is_reported() -> None:
    assert walk("FuncCall", {"funcname": [{"FuncCall": {"funcname": []}}]}).unknown[0].field == "funcname"


def test_a_statement_inside_an_expression_is_reported() -> None:
    for kind in tables.STATEMENT_NODES:
        assert walk("SelectStmt", {"whereClause": {kind: {}}}).unknown[0].kind == kind


def test_into_is_found_in_the_left_arm_of_a_union() -> None:
    (raw,) = json.loads(parse_sql_json("select 1 as a into t union select 2"))["stmts"]
    assert walk("SelectStmt", raw["stmt"]["SelectStmt"]).unknown[0].rule == "select-into"


def test_interesting_nodes_are_in_the_table() -> None:
    assert tables.NODES.keys() >= INTERESTING
    assert tables.KEYWORD_FUNCTIONS.keys() <= INTERESTING


def test_a_deep_tree_needs_no_stack() -> None:
    body: dict[str, Any] = {"A_Const": {"isnull": True}}
    for _ in range(100_000):
        body = {"A_Expr": {"kind": "AEXPR_OP", "name": [{"String": {"sval": "+"}}], "lexpr": body}}
    assert len(walk("SelectStmt", {"whereClause": body}).visited) == 100_002

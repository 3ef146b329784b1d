"""The normal form: a text and its normal form are judged alike, and texts of one form have one parse tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pglast.parser import ParseError, parse_sql_json

from proxy.filter import Filter
from proxy.shape import is_shareable, normal_form

DATA = Path(__file__).parent.parent / "data"
CORPUS = [
    case["sql"] for case in map(json.loads, (DATA / "corpus.jsonl").read_text("utf-8").splitlines()) if "sql" in case
]
LINES = [
    line for name in ("attacks", "harmless", "reads") for line in (DATA / f"{name}.sql").read_text("utf-8").splitlines()
]


def skeleton(tree: Any) -> Any:
    """Give a tree without locations, and without the values of constants; which kind of constant it is stays."""
    if isinstance(tree, list):
        return [skeleton(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "A_Const" in tree:
        constant = tree["A_Const"]
        kind = next((kind for kind in ("ival", "fval", "sval", "bsval", "boolval", "isnull") if kind in constant), "")
        return {"A_Const": kind if kind in ("ival", "fval", "sval") else constant[kind]}
    if "SQLValueFunction" in tree:
        return {"SQLValueFunction": tree["SQLValueFunction"]["op"]}  # current_timestamp(3) has its number in it
    skip = {"location", "stmt_len", "stmt_location", "list_start", "list_end", "rexpr_list_start", "rexpr_list_end"}
    return {key: skeleton(value) for key, value in tree.items() if key not in skip}


def parsed(sql: str) -> Any:
    try:
        return skeleton(json.loads(parse_sql_json(sql)).get("stmts", []))
    except ParseError:
        return None


def check(sql: str) -> None:
    """Hold a text against its normal form: what the cache relies on."""
    form = normal_form(sql.encode())
    if form is None or not is_shareable(form):
        return
    assert normal_form(form.encode()) == form
    tree = parsed(sql)
    only_selects = tree is not None and all("SelectStmt" in raw["stmt"] for raw in tree)
    if only_selects:
        assert parsed(form) == tree
        verdict, constants_decide = Filter()._judge(sql.encode(), "utf-8", False)
        if not constants_decide:
            assert Filter().judge(form.encode()).action is verdict.action
    # A text that was not allowed for itself may not pass through the form of another one that was.
    shared = Filter()
    shared.judge(form.encode())
    alone = Filter().judge(sql.encode())
    assert shared.judge(sql.encode()).action is alone.action


@pytest.mark.parametrize("sql", CORPUS + LINES)
def test_of_the_corpus(sql: str) -> None:
    check(sql)


PIECES = st.sampled_from(
    [
        "select",
        "from",
        "where",
        "t",
        "a",
        "x1",
        '"a',
        'b"',
        '"a\'b"',
        '"1"',
        '"a""b"',
        '"é1"',
        "é1",
        'U&"d\\0061"',
        "U&'d'",
        "E'\\''",
        "e'a'",
        "N'a'",
        "B'1'",
        "X'1f'",
        "'",
        "''",
        "'a'",
        "'it''s'",
        "'a\"b'",
        "'é'",
        "'1'",
        "'--'",
        "'/*'",
        "$$",
        "$a$",
        "$1",
        "$1$",
        "'x$$'",
        "--",
        "/*",
        "*/",
        ";",
        ",",
        "(",
        ")",
        ".",
        "::",
        "=",
        "-",
        "+",
        "&",
        "\\",
        "0",
        "1",
        "4711",
        "1.",
        ".5",
        "1.5",
        "1.5e3",
        "1e5",
        "0x1F",
        "1_000",
        "12345678901",
        "2147483648",
        "1a",
        "a1",
        "a$1",
        "interval",
        "int",
        "'1",
        "day'",
        "limit",
        "in",
        "between",
        "and",
        "or",
        "not",
        "null",
        "lo_open",
        "set_config",
        "lo_create",
        "count",
        "(",
        "1",
        ",",
        "2",
        ")",
        "as",
        "\n",
        "\t",
        "uescape",
        "'!'",
        "standard",
        "1'a'",
        "'a'1",
        "a'b'",
    ]
)
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from(["", " ", "\n"])), max_size=12).map(
    lambda parts: "select " + "".join(piece + gap for piece, gap in parts)
)


@given(TEXTS)
@example('select "a\'b" , "c\'d"')
@example("select \"a''d\"")
@example("select '1' as \"2\"")
@example("select a.1")
def test_of_generated_texts(sql: str) -> None:
    check(sql)


def mutate(sql: str, seed: int) -> str:
    """Change constants' values in place: digits and letters inside of strings."""
    out, inside = [], False
    for at, character in enumerate(sql):
        inside ^= character == "'"
        if inside and character.isalpha():
            character = "abcxyzé"[(seed + at) % 7]
        elif character.isdigit() and not inside:
            character = "0123456789"[(seed * 7 + at) % 10]
        out.append(character)
    return "".join(out)


@given(st.sampled_from(CORPUS + LINES), st.integers(0, 10_000))
def test_of_the_corpus_with_other_constants(sql: str, seed: int) -> None:
    check(mutate(sql, seed))


@pytest.mark.parametrize(
    "sql",
    [
        "select E'\\''",
        "select 'a\\'",
        "select e'a'",
        "select N'a'",
        "select U&'a'",
        'select U&"a"',
        "select $$a$$",
        "select $a$1$a$",
        "select 1 -- it's",
        "select 1 /* it's */",
        "select 'open",
        "select \"a'b\", 'c'",
        'select "1"',
        'select "a 1"',
        "select é1",
        "select a\0",
    ],
)
def test_no_form_where_lexing_could_change(sql: str) -> None:
    assert normal_form(sql.encode()) is None


@pytest.mark.parametrize(
    ("sql", "form"),
    [
        ("SELECT a FROM t WHERE id = 4711 AND v = 'x';", "SELECT a FROM t WHERE id = 0 AND v = '';"),
        ("select 'it''s'", "select ''''"),
        ("select 1, 1.5, $1, a1, 1e3, 0x1F, 1_0, 12345678901", "select 0, 0.0, $1, a1, 1e3, 0x1F, 1_0, 12345678901"),
        ('select "t"."total" from "T 2"', None),
        ('select "t"."total", "A b" from "t1" where "v"=\'é\'', 'select "t"."total", "A b" from "t1" where "v"=\'\''),
        ("select 'a'\n'b'", "select ''\n''"),
    ],
)  # fmt: skip
def test_forms(sql: str, form: str | None) -> None:
    assert normal_form(sql.encode()) == form

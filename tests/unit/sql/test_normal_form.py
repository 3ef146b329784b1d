"""The normal form: a text and its normal form are judged alike, and texts of one form have one parse tree."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pglast.parser import ParseError, parse_sql_json, scan

from proxy.filter import Filter
from proxy.sql.normal_form import emptied, is_shareable, normal_form

DATA = Path(__file__).parents[2] / "data"
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
    bare = emptied(sql.encode())
    form = normal_form(sql.encode()) if bare is None else normal_form(bare, comments=True)
    if form is None or not is_shareable(form):
        return
    assert normal_form(form.encode(), comments=True) == form
    tree = parsed(sql)
    only_selects = tree is not None and all("SelectStmt" in raw["stmt"] for raw in tree)
    if only_selects:
        assert parsed(form) == tree
        verdict, constants_decide, _ = Filter()._judge(sql.encode(), "utf-8", False)
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


# -- comments ----------------------------------------------------------------------------------------------------------

COMMENTS = [
    "/*traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01'*/",
    '/* it\'s "quoted" and $$ */',
    "/*+ SeqScan(t) Set(transaction_read_only off) */",
    "/* Query ID: 1; Username: é */",
    "/***/",
    "/**/",
    "/*--*/",
    "-- user: o'hara\n",
    "--\r",
    "-- /* \r\n",
    "--- 'x' \\\n",
]
WORDS = r"""/* */ /*/ */* /*/**/*/ -- \ \' \\' \\ ' '' E' e'\' U&' 'a' 'a\\' E'a\nb' " "a--b" U&"\0061" '--' '/*' '*/'
$$ $a$ $1 1$ a$1 $ é$$ + - * / @ < 1 1e 1. .5 a ; uescape"""
FRAGMENTS = st.sampled_from([*COMMENTS, *WORDS.split(), " ", "\n", "\r", "/* /* */ */"])


def comments_of(sql: str, *, escapes: bool) -> list[tuple[int, int]] | None:
    """Find the comments as scan.l does, letter by letter; None if something has no end. `escapes`: a backslash does."""
    found = []
    at = 0
    while at < len(sql):
        here = sql[at]
        dollar = re.match(r"\$(?:[A-Za-z_\x80-\U0010ffff][\w\x80-\U0010ffff]*)?\$", sql[at:], re.ASCII)
        word = re.match(r"[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*", sql[at:], re.ASCII)
        if sql.startswith("--", at):
            end = at
            while end < len(sql) and sql[end] not in "\r\n":
                end += 1
            found.append((at, end))
        elif sql.startswith("/*", at):
            end, depth = at + 2, 1
            while depth:
                if end >= len(sql):
                    return None
                two = sql[end : end + 2]
                depth += (two == "/*") - (two == "*/")
                end += 2 if two in ("/*", "*/") else 1
            found.append((at, end))
        elif here in "'\"":
            backslash = here == "'" and (escapes or sql[at - 1 : at] in ("e", "E"))
            end = at + 1
            while sql[end : end + 1] != here:
                end += 2 if backslash and sql[end : end + 1] == "\\" else 1
                if end >= len(sql):
                    return None
            end += 1
        elif dollar is not None:
            end = sql.find(dollar[0], at + len(dollar[0]))
            if end < 0:
                return None
            end += len(dollar[0])
        elif word is not None and word[0] not in ("e", "E"):
            end = at + len(word[0])
        else:
            end = at + 1
        at = end
    return found


@given(st.lists(FRAGMENTS, max_size=14).map("".join))
@example("'\\'/*'*/")
@example("'a\\\\'--b")
@example("$$/*$$*/")
@example("a$$/*$$*/")
@example("/*/*/")
@example("'a'--b\n'c'")
@example("1e--5")
@example("+/*+*/-")
def test_what_is_emptied_is_a_comment_whatever_a_backslash_means(sql: str) -> None:
    bare = emptied(sql.encode())
    if bare is None:
        return
    expected = sql
    for start, end in reversed(comments_of(sql, escapes=False) or []):
        expected = expected[:start] + ("--" if sql[start] == "-" else "/**/") + expected[end:]
    assert bare.decode() == expected
    assert comments_of(sql, escapes=False) == comments_of(sql, escapes=True)
    assert emptied(bare) == bare


@given(st.lists(FRAGMENTS, max_size=14).map("".join))
@example("'a' --b\n'c'")
@example("a <--b\n c")
def test_a_text_has_the_tokens_that_it_has_without_its_comments(sql: str) -> None:
    bare = emptied(sql.encode())
    if bare is None:
        return
    try:
        expected = tokens(sql)
    except ParseError:
        with pytest.raises(ParseError):
            tokens(bare.decode())
        return
    assert tokens(bare.decode()) == expected


def tokens(sql: str) -> list[tuple[str, str]]:
    """Give kind and spelling of each token; a string that goes on behind a new line can have a comment in it."""
    found = [(token.name, sql[token.start : token.end + 1]) for token in scan(sql)]
    return [
        (name, "" if name in ("SQL_COMMENT", "C_COMMENT") else (emptied(word.encode()) or word.encode()).decode())
        for name, word in found
    ]


def commented(sql: str, comments: list[tuple[int, str]]) -> str:
    """Put comments where blanks are, and at both ends."""
    parts = ["", *sql.split(" "), ""]
    for place, comment in comments:
        at = place % (len(parts) - 1)
        parts[at] += f" {comment}"
    return " ".join(parts)


@given(
    st.sampled_from(CORPUS + LINES),
    st.lists(st.tuples(st.integers(0, 50), st.sampled_from(COMMENTS), st.sampled_from(COMMENTS)), max_size=3),
    st.sampled_from(["utf-8", "latin-1", "euc_jp"]),
)
def test_a_verdict_does_not_depend_on_comments(sql: str, comments: list[tuple[int, str, str]], encoding: str) -> None:
    """Whatever another text with other comments has left in the cache."""
    # A text may end a line comment, or begin with one: only the kind of a comment's beginning has to be the same.
    pairs = [(place, one, other if other[:2] == one[:2] else one) for place, one, other in comments]
    try:
        first = commented(sql, [(place, one) for place, one, _ in pairs]).encode(encoding)
        second = commented(sql, [(place, other) for place, _, other in pairs]).encode(encoding)
    except UnicodeEncodeError:
        return
    warm = Filter()
    warm.judge(first, encoding)
    assert warm.judge(second, encoding) == Filter().judge(second, encoding)
    assert warm.judge(second, encoding) == Filter().judge(second, encoding)


@pytest.mark.parametrize(
    "sql",
    [
        "select 1 /* a /* b */ c */",
        "select 1 /* a /*/ b */",
        "select 1 /* open",
        "select 'open -- x",
        'select "open -- x',
        "select E'\\'' -- x",
        "select '\\' -- '",
        "select $$ -- $$",
        "select $a$ /* $a$, 1 */",
        "select a$b /* x */",
        "select 1 -- a\0b",
        "select 1" + "/**/" * 100,
    ],
)
def test_no_comment_is_emptied_where_it_may_be_none(sql: str) -> None:
    assert emptied(sql.encode()) is None


@pytest.mark.parametrize(
    ("sql", "bare"),
    [
        ("/* a */ select '/* b */' -- c", "/**/ select '/* b */' --"),
        ("-- a\nselect 1, -- b\r\n $1/*c*/", "--\nselect 1, --\r\n $1/**/"),
        ("select 'a\\nb', '\\\\' /* it's */", "select 'a\\nb', '\\\\' /**/"),
        ("select 1 -/*+*/- 1", "select 1 -/**/- 1"),
    ],
)
def test_emptied_comments(sql: str, bare: str) -> None:
    assert emptied(sql.encode()) == bare.encode()

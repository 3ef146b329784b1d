"""proxy/operating/script.py: a psql script is cut where psql cuts it, and nothing hides a statement."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.operating.script import Kind, Lines, cut
from proxy.sql.tables import Refused
from proxy.sql.text import parse

DATA = Path(__file__).parents[2] / "data"


def statements(script: str) -> list[str]:
    return [piece.text for piece in cut(script) if piece.kind is Kind.STATEMENT]


def others(script: str) -> list[tuple[Kind, str]]:
    return [(piece.kind, piece.text) for piece in cut(script) if piece.kind is not Kind.STATEMENT]


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("", []),
        (" ; ;\n-- only a comment;\n/* and; /* this */ ; */ ;", []),
        ("select 1", ["select 1"]),
        ("select 1;select 2 ; ", ["select 1", "select 2"]),
        ("-- a;\nselect 1 /* ; */; -- b", ["select 1 /* ; */"]),
        ("select /* /* ; */ ' */ 1; select 2", ["select /* /* ; */ ' */ 1", "select 2"]),
        ("select ';', 'it''s;', \"a;\"\";\"; select 2", ["select ';', 'it''s;', \"a;\"\";\"", "select 2"]),
        ("select E'it\\'s;', e'\\\\'; select 2", ["select E'it\\'s;', e'\\\\'", "select 2"]),
        # As psql cuts it. The server would go on in E'...': both pieces are wrong, so neither is let through.
        ("select E'a'\n 'b\\';c'; select 2", ["select E'a'\n 'b\\'", "c'; select 2"]),
        ("select name'\\'; select 2", ["select name'\\'", "select 2"]),
        ("select U&'\\0041;', '\\'; select 2", ["select U&'\\0041;', '\\'", "select 2"]),
        ("select $$;$$, $a$ $$;$b$ $a$; select 2", ["select $$;$$, $a$ $$;$b$ $a$", "select 2"]),
        ("select a$$; select b$$", ["select a$$", "select b$$"]),
        ("select $1;$2", ["select $1", "$2"]),
        ("create rule r as on insert to t do (select 1; select 2); select 3", None),
        ("select é日本$$; select 2", ["select é日本$$", "select 2"]),
        ("select $é$;$é$; select 2", ["select $é$;$é$", "select 2"]),
        ("select 1;\r\nselect 2;\r\n", ["select 1", "select 2"]),
    ],
)
def test_statements_are_found(script: str, found: list[str] | None) -> None:
    if found is None:
        found = ["create rule r as on insert to t do (select 1; select 2)", "select 3"]
    assert statements(script) == found


def test_body_in_sql_standard_form_is_one_statement() -> None:
    body = "begin atomic select 1; select case when true then 2 end; end"
    script = f"create or replace function f() returns int {body}; begin; select 3; end; select 4"
    assert statements(script) == [
        f"create or replace function f() returns int {body}",
        "begin",
        "select 3",
        "end",
        "select 4",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "selec 1",
        "select 1a",
        "select 'a' 'b'",
        "select (1",
        "select 1)",
        "select ((",
        "42",
        'select ""',
        "select U&'\\'",
    ],
)
def test_wrong_statement_hides_no_other(wrong: str) -> None:
    script = f"select 0; {wrong}; delete from t; select 2 \\g\ndrop table t"
    assert statements(script) == ["select 0", wrong, "delete from t", "select 2", "drop table t"]


def test_block_without_an_end_hides_no_statement() -> None:
    script = "create function f() returns int begin atomic; select 1; drop table t;\ncreate function begin; vacuum"
    assert statements(script) == [
        "create function f() returns int begin atomic",
        "select 1",
        "drop table t",
        "create function begin",
        "vacuum",
    ]


def test_only_the_white_space_of_the_lexer_is_left_out() -> None:
    assert statements("\t\v\f\r\n select 1\u00a0;\x1c\u3000") == ["select 1\u00a0", "\x1c\u3000"]


def test_open_parenthesis_hides_no_meta_command_and_tells_it_once() -> None:
    script = "select (1;\n\\set x 1\nselect 2\n\\set y 2\n+ 3;\nselect 4 \\gset\n"
    assert statements(script) == ["select (1", f"select 2\n{' ' * 8}\n+ 3", "select 4"]
    assert [text for _, text in others(script)] == ["\\set x 1", "\\set y 2", "\\gset"]


@pytest.mark.parametrize("rest", ["'open; select 2", '"open; select 2', "$a$ open; select 2", "/* open; select 2"])
def test_open_quote_or_comment_takes_the_rest(rest: str) -> None:
    assert statements(f"select 1; select {rest}") == ["select 1", f"select {rest}"]


def test_meta_commands_are_no_statements() -> None:
    script = "\\d orders\nselect 1 \\g out.txt\nselect\n\\set x 'don''t;'\n2;\nselect 3 \\; select 4;\n\\! echo ';'"
    assert statements(script) == ["select 1", f"select\n{' ' * 16}\n2", "select 3", "select 4"]
    metas = ["\\d orders", "\\g out.txt", "\\set x 'don''t;'", "\\! echo ';'"]
    assert others(script) == [(Kind.META, text) for text in metas]


def test_two_backslashes_end_a_meta_command() -> None:
    script = "\\echo hi \\\\ drop table t; select 1 \\g \\\\ vacuum;\n\\! a\\\\b; drop\n\\copy t from 'a\\\\b'; drop\n"
    assert statements(script) == ["drop table t", "select 1", "vacuum"]
    metas = ["\\echo hi \\\\", "\\g \\\\", "\\! a\\\\b; drop", "\\copy t from 'a\\\\b'; drop"]
    assert others(script) == [(Kind.META, text) for text in metas]


def test_data_of_copy_are_no_statements() -> None:
    script = "copy t from stdin; -- in\n1\tdon't; (\n\\.\nselect 1;\nCOPY t (a) FROM STDIN WITH CSV;\r\n2;\r\n\\.\r\nx"
    assert statements(script) == ["copy t from stdin", "select 1", "COPY t (a) FROM STDIN WITH CSV", "x"]
    assert others(script) == [(Kind.DATA, "1\tdon't; (\n\\."), (Kind.DATA, "2;\r\n\\.\r")]


@pytest.mark.parametrize(
    "copy", ["copy (select ' from stdin') to stdout", "copy t from '/tmp/from stdin'", "copy x from stdin stdin"]
)
def test_statement_after_another_copy_is_no_data(copy: str) -> None:
    assert statements(f"{copy};\ndrop table t;\n") == [copy, "drop table t"]


PARTS = [*"();'\"$\\-/*eE a1\n\r", "begin", "create function", "end", "$a$", "--", "/*"]


@given(st.lists(st.sampled_from(PARTS)))
def test_nothing_but_blanks_and_comments_is_left_out(parts: list[str]) -> None:
    script = "".join(parts)
    at = 0
    for piece in cut(script):
        if piece.kind is Kind.STATEMENT:
            assert piece.start >= at
            assert piece.text
            assert script[piece.start] == piece.text[0]
            at = piece.start + len(piece.text)
        assert len(piece.text) <= len(script) - piece.start


CORPUS = [json.loads(line) for line in (DATA / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
TEXTS = [case["sql"] for case in CORPUS if "sql" in case and "\0" not in case["sql"]]


def test_the_parser_cuts_the_corpus_in_the_same_places() -> None:
    compared = 0
    for text in TEXTS:
        try:
            raw = parse(text)
        except Refused:
            continue
        utf8 = text.encode()
        ends = [one.get("stmt_location", 0) + one["stmt_len"] if "stmt_len" in one else len(utf8) for one in raw]
        found = [piece for piece in cut(text) if piece.kind is Kind.STATEMENT]
        assert [len(text[: piece.start + len(piece.text)].encode()) for piece in found] == [
            len(utf8[:end].rstrip(b" \t\r\n\f\v;")) for end in ends
        ], text
        compared += 1
    assert compared > 600


def test_script_of_the_whole_corpus_gives_it_back() -> None:
    texts = []
    for text in TEXTS:
        pieces = cut(text)
        if len(pieces) == 1 and pieces[0].kind is Kind.STATEMENT and pieces[0].text == text and "--" not in text:
            texts.append(text)
    balanced = [text for text in texts if statements(f"{text};\nselect 1") == [text, "select 1"]]
    assert len(balanced) > 600
    assert statements(";\n".join(balanced)) == balanced


UNITS = [
    *("(;", "\\x\n", "a\n\\x\n", "(;\\x\n", "create function begin;", "$a$", "/*", "'", "E'\\'"),
    *("copy t from stdin;", "a -- \n", "E'' ", "\\ "),
]


@pytest.mark.parametrize("unit", UNITS)
def test_cutting_takes_time_in_proportion_to_the_length(unit: str) -> None:
    """Ten times the text may not take much more than ten times as long, of this process's own time."""

    def seconds(length: int) -> float:
        script = unit * (length // len(unit))
        taken = []
        for _ in range(5):
            start = time.process_time()
            cut(script)
            taken.append(time.process_time() - start)
        return min(taken)

    assert seconds(50_000) < 40 * max(seconds(5_000), 0.002)


def test_lines_and_columns_count_characters_of_the_file() -> None:
    lines = Lines("é\r\n日本x\n\ry")
    assert [lines.place(index) for index in (0, 1, 3, 5, 8)] == [(1, 1), (1, 2), (2, 1), (2, 3), (4, 1)]
    assert [lines.line(number) for number in (1, 2, 3, 4)] == ["é", "日本x", "", "y"]

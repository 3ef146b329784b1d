"""Hostile texts: whatever the bytes are, a verdict comes back, soon, and never "internal".

What could end a process (deep nesting overflows the C stack of a careless parser) is judged in another one.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import pytest

from proxy.filter import Filter, Policy
from proxy.sql.cache import VerdictCache
from proxy.sql.verdict import Action, Verdict
from tests.fuzz import fuzz_filter

PATIENCE = 60.0  # for a text of 1 MB, on a machine that is busy
MEGABYTE = 1_000_000


def judge(sql: bytes, encoding: str = "utf-8", *, longest: int = 1 << 20, extended: bool = False) -> Verdict:
    filter_ = Filter(Policy(max_query_length=longest), cache=VerdictCache(0))
    verdict = filter_.judge(sql, encoding, extended=extended)
    assert verdict.rule != "internal"
    return verdict


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """Return a process to judge in: a text that ends it breaks the pool, and with it the test."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def judge_elsewhere(pool: ProcessPoolExecutor, sql: bytes, longest: int = 1 << 20) -> Verdict:
    return pool.submit(judge, sql, longest=longest).result(PATIENCE)


# -- nesting -----------------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """A text that can be made as long as one likes: `unit` is repeated, and `close` as often."""

    before: str
    unit: str
    middle: str = ""
    close: str = ""
    after: str = ""

    def repeated(self, times: int) -> bytes:
        return (self.before + self.unit * times + self.middle + self.close * times + self.after).encode()

    def of_size(self, size: int) -> bytes:
        return self.repeated(size // len((self.unit + self.close).encode()))


SHAPES = {
    "sum": Shape("select ", "1+", "1"),
    "concatenation": Shape("select ", "a||", "a"),
    "casts": Shape("select 1", "::int"),
    "isnull": Shape("select a", " isnull"),
    "time zones": Shape("select a", " at time zone 'b'"),
    "collations": Shape("select a", ' collate "C"'),
    "union": Shape("table a", " union all table a"),
    "union of brackets": Shape("", "(table a union ", "table a", ")"),
    "natural joins": Shape("select from a", " natural join a"),
    "joins in brackets": Shape("select from ", "(", "a", " cross join a)"),
    "brackets": Shape("select ", "(", "1", ")"),
    "not": Shape("select ", "not ", "a"),
    "minus": Shape("select ", "- ", "1"),
    "sub-selects": Shape("select ", "(select ", "1", ")"),
    "sub-selects in FROM": Shape("", "select * from (", "select 1", ") a"),
    "lateral": Shape("select 1 from a", ", lateral (select 1 from a", "", ")", " b"),
    "with": Shape("", "with a as (", "select 1", ") table a"),
    "exists": Shape("select ", "exists (select ", "1", ")"),
    "in": Shape("select ", "1 in (select ", "1", ")"),
    "arrays": Shape("select ", "array[", "1", "]"),
    "subscripts": Shape("select a", "[a", "", "]"),
    "subscripts in a row": Shape("select a", "[1]"),
    "attributes": Shape("select (a)", ".b"),
    "rows": Shape("select ", "row(", "1", ")"),
    "case": Shape("select ", "case when true then ", "1", " end"),
    "else": Shape("select ", "case when a then 1 else ", "1", " end"),
    "calls": Shape("select ", "abs(", "1", ")"),
    "calls in FROM": Shape("select * from ", "abs(", "1", ")"),
    "coalesce": Shape("select ", "coalesce(null, ", "1", ")"),
    "over": Shape("select ", "sum(1) over (order by ", "1", ")"),
    "filter": Shape("select ", "count(*) filter (where ", "true", ")"),
    "between": Shape("select ", "a between 1 and ", "1"),
    "and, or": Shape("select ", "a and (b or ", "c", ")"),
    "xml": Shape("select ", "xmlelement(name a, ", "1", ")"),
    "json": Shape("select ", "json_array(", "1", ")"),
    "grouping sets": Shape("select 1 group by ", "grouping sets (", "a", ")"),
    "json_table": Shape("select * from json_table('', '$' columns (", "nested path '$' columns (", "a int", ")", "))"),
    "query_to_xml": Shape("select ''", " || query_to_xml('select 1', true, true, '')"),
    "comments": Shape("select 1 ", "/* ", "", "*/"),
    "flat or": Shape("select true", " or a"),
    "IN list": Shape("select 1 in (0", ", 12345", "", "", ")"),
    "VALUES": Shape("values (1)", ", (12345)"),
    "targets": Shape("select 1", ", 12345"),
    "FROM items": Shape("select 1 from a", ", abc"),
    "statements": Shape("", "select 1; "),
    "semicolons": Shape("", ";"),
    "long name": Shape("select a", "a"),
    "dotted name": Shape("select a", ".a"),
    "strings in a row": Shape("select ''", "\n'a'"),
    "quotes": Shape("select '", "''", "'"),
    "operator characters": Shape("select 1 ", "@", " 1"),
    "explain": Shape("", "explain ", "select 1"),
}  # fmt: skip


def deep(*values: object) -> list[object]:
    return [pytest.param(value, marks=pytest.mark.deep) for value in values]


@pytest.mark.parametrize("size", [1_000, 50_000, 200_000, *deep(5_000, 20_000, 100_000, 500_000, MEGABYTE)])
@pytest.mark.parametrize("name", SHAPES)
def test_a_long_text_gets_a_verdict(elsewhere: ProcessPoolExecutor, name: str, size: int) -> None:
    verdict = judge_elsewhere(elsewhere, SHAPES[name].of_size(size))
    assert verdict.action is Action.ALLOW or verdict.rule in ("depth", "syntax", "operator-run")


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.close])
def test_what_is_opened_and_never_closed_is_a_syntax_error(elsewhere: ProcessPoolExecutor, name: str) -> None:
    for size in (1_000, 20_000, 200_000):
        verdict = judge_elsewhere(elsewhere, SHAPES[name]._replace(close="", after="").of_size(size))
        assert verdict.rule in ("depth", "syntax"), size


HONEST = {
    "1,000 ||": SHAPES["concatenation"].repeated(1_000),
    "2,000 UNION ALL": SHAPES["union"].repeated(2_000),
    "1,000 alternating AND and OR": SHAPES["and, or"].repeated(500),
    "1,000 CASE": SHAPES["else"].repeated(200),
    "200,000 elements of IN": SHAPES["IN list"].repeated(200_000),
    "20,000 OR": SHAPES["flat or"].repeated(20_000),
    "10,000 statements": SHAPES["statements"].repeated(10_000),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_long_text_is_allowed(elsewhere: ProcessPoolExecutor, name: str) -> None:
    assert judge_elsewhere(elsewhere, HONEST[name], 4 << 20).action is Action.ALLOW


AT_THE_BOTTOM = (
    Shape("select ", "a||", "lo_create(0)").repeated(1_000),
    Shape("select lo_create(0)", "||a").repeated(1_000),
    Shape("select lo_create(0)", " union all table a").repeated(2_000),
    Shape("table a", " union all table a", after=" union all select lo_create(0)").repeated(2_000),
    Shape("select ", "a and (b or ", "lo_create(0) = 1", ")").repeated(500),
    Shape("select true", " or a", after=" or lo_create(0) = 1").repeated(20_000),
    Shape("select 1 in (0", ", 12345", after=", lo_create(0))").repeated(200_000),
    Shape("", "select 1; ", "select lo_create(0)").repeated(10_000),
)


@pytest.mark.parametrize("sql", AT_THE_BOTTOM, ids=lambda sql: sql[:40].decode())
def test_a_call_in_an_honest_long_text_is_found(elsewhere: ProcessPoolExecutor, sql: bytes) -> None:
    assert judge_elsewhere(elsewhere, sql, 4 << 20).rule == "side-effect-function"


# -- length ------------------------------------------------------------------------------------------------------------

SIXTEEN = 16 * MEGABYTE
LONG = {
    "string": Shape("select '", "x", "'"),
    "comment": Shape("select 1 /* ", "x", " */"),
    "white space": Shape("select", " ", "1"),
    "brackets": SHAPES["brackets"],
    "sum": SHAPES["sum"],
    "open string": Shape("select '", "x"),
    "é": Shape("select 'é", "é", "'"),
}


@pytest.mark.parametrize("name", ["string", "brackets", *deep("comment", "white space", "sum", "open string", "é")])
def test_sixteen_megabytes(elsewhere: ProcessPoolExecutor, name: str) -> None:
    text = LONG[name].of_size(SIXTEEN)
    verdict = judge_elsewhere(elsewhere, text, SIXTEEN + 100)
    assert verdict.action is Action.ALLOW or verdict.rule in ("depth", "syntax")
    assert judge_elsewhere(elsewhere, text).rule == "length"


def test_a_text_that_is_too_long_is_not_even_decoded() -> None:
    text = b"\xff" * SIXTEEN
    started = time.process_time()
    verdict = judge(text)
    assert (verdict.rule, verdict.sqlstate) == ("length", "54000")
    assert time.process_time() - started < 0.1
    assert judge(b"\xff" * (1 << 20)).rule == "encoding"
    assert judge(b" " * ((1 << 20) + 1)).rule == "length"
    assert judge(b" " * (1 << 20)).action is Action.ALLOW


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        (b"\0", "nul-byte"),
        (b"select 1\0", "nul-byte"),
        (b"select 1\0; drop table t", "nul-byte"),
        (b"select '\0'", "nul-byte"),
        (b"\xff", "encoding"),
        (b"select '\xc3'", "encoding"),
        (b"select '\xc0\xaf'", "encoding"),  # an overlong slash
        (b"select '\xe0\x80\xa7'", "encoding"),  # an overlong quote
        (b"select '\xed\xa0\x80'", "encoding"),  # a lone surrogate
        (b"select '\xed\xa0\xbd\xed\xb8\x80'", "encoding"),  # a pair of them, as CESU-8 writes it
        (b"select '\xf4\x90\x80\x80'", "encoding"),  # beyond U+10FFFF
        (rb"select U&'\D800'", "syntax"),
        (rb"select U&'\DC00\D800'", "syntax"),
        (rb"select E'\uD83D'", "syntax"),
        (rb"select E'\xff'", "syntax"),
        (rb"select E'\000'", "syntax"),
        (rb'select U&"a\0000"', "syntax"),
        (b"\xef\xbb\xbfselect 1", "syntax"),  # a byte order mark is a letter to PostgreSQL, too
        (b"\xfe\xffs\0e\0l\0e\0c\0t", "nul-byte"),
        (b"\x1a", "syntax"),
        (b"\x7f", "syntax"),
        (b"\\", "syntax"),
        (b"{", "syntax"),
    ],
)
def test_bytes_that_are_no_text(sql: bytes, rule: str) -> None:
    for extended in (False, True):
        verdict = judge(sql, extended=extended)
        assert (verdict.action, verdict.rule) == (Action.REFUSE, rule)
        assert 0 <= verdict.position <= len(sql) + 1


@pytest.mark.parametrize(
    "sql",
    [
        *(b"", b" \t\r\n\f", b"-- x", b"/* /* */ */", b";;;", b"select '\xef\xbf\xbe'", b"select '\xf4\x8f\xbf\xbf'"),
        *(rb"select U&'\+00D83D\+00DE00'", rb"select U&'\D83D\DE00'", rb"select E'\x01'"),
        *(b"select \xc2\xa0", b"select 1 as \xe2\x80\xa8"),
    ],
)  # fmt: skip
def test_odd_bytes_that_are_text(sql: bytes) -> None:
    assert judge(sql).action is Action.ALLOW


OPENINGS = (
    *("'", '"', "$$", "$a$", "/*", "/* /*", "e'", "E'\\", "U&'", 'U&"', "N'", "b'", "x'", "('", "(", "((", "["),
    *("array[", "case when", "row(", "f(a,", "select", "select 1 from", "select 1 where", "1 +", "a.", "a::"),
    *("x in (", "interval '1' day to", "$", "cast(a as"),
)  # fmt: skip


@pytest.mark.parametrize("opening", OPENINGS)
def test_what_is_not_finished_is_a_syntax_error_in_the_right_place(opening: str) -> None:
    for before in ("select ", "select 1; select ", "select '日本' || "):
        verdict = judge((before + opening).encode())
        assert verdict.rule == "syntax", before
        assert len(before.rstrip()) - 2 <= verdict.position <= len(before + opening) + 1, before
        # Whatever follows is inside of it, or stands where it cannot.
        assert judge((before + opening + " ; drop table t").encode()).action is Action.REFUSE, before


NO_CODECS = ("rot13", "idna", "utf-16", "utf-7", "sjis", "gbk", "big5", "unicode_escape", "", "x" * 300)


@pytest.mark.parametrize("encoding", NO_CODECS)
def test_an_encoding_that_no_client_can_have(encoding: str) -> None:
    assert judge(b"select 1", encoding).rule == "encoding"


# -- the fuzzer --------------------------------------------------------------------------------------------------------


def test_the_first_texts_of_the_fuzzer() -> None:
    """`make fuzz` goes on where this ends."""
    contract = fuzz_filter.Contract()
    for number in range(2_000):
        text, encoding = fuzz_filter.text_number(fuzz_filter.FIRST_SEED, number)
        _, wrong = contract.broken(text, encoding)
        assert not wrong, f"--seed {fuzz_filter.FIRST_SEED} --only {number}: {wrong}"


@pytest.mark.parametrize(
    ("sql", "seen"),
    [
        ("with d as (delete from t returning 1) select 1", "DeleteStmt"),
        ("select 1 union select 2 into x", "intoClause"),
        ("select * from t for update", "lockingClause"),
        ("select abs(pg_catalog.lo_create(0))", "pg_catalog.lo_create"),
        ("select x.lo_creat from abs(-1) x", "attribute lo_creat"),
        ("select (0::oid).lo_create", "attribute lo_create"),
        ("copy t from stdin", "is_from"),
        ("set session authorization x", "SET session_authorization"),
        ("select count(*) from t", ""),
    ],
)
def test_the_fuzzer_sees_what_should_not_be_allowed(sql: str, seen: str) -> None:
    assert fuzz_filter.seen_in(fuzz_filter.tree_of(sql)) == seen

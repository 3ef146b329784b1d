"""Whole messages that are known: what is remembered of them is what judging them would say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings, strategies

from proxy import protocol as p
from proxy.filter import Filter
from proxy.sql.plain import DIGITS, MAX_MESSAGE, MAX_MESSAGES, PlainMessages, Room
from proxy.sql.verdict import Action, Verdict

DATA = Path(__file__).parents[2] / "data" / "corpus.jsonl"
CASES = [json.loads(line) for line in DATA.read_text("utf-8").splitlines()]
SELECT = Verdict(Action.ALLOW, "select")
TEXTS = (
    *(case["sql"] for case in CASES if "sql" in case and re.search("[0-9]", case["sql"])),
    "select a from t where id = 4711",
    "select a from t where id = 4711 and v = 'order 66'",
    "select a from t1 where id = 4711",
    'select a from "t1" where "1a" = 4711',
    "select 1000000000",
    "select 0000000001",
    "select 1.5, 10.25 from t",
    "select 1e5, 1.5e-3, .5, 5.",
    "select 0x1F, 0b10, 0o17, 1_000",
    "select $1 + 1",
    "select E'\\x41', U&'\\0041', B'101', X'1F'",
    "select $a1$ 1 $a1$",
    "select a from t order by 1, 2 limit 10 offset 20",
    "select a from t group by 1",
    "select x::varchar(10), y::float(24), z::numeric(10, 2), w::float4",
    "select -- 1\n 2",
    "select /* 1 */ 2",
    "select interval '1 day', date '2024-01-01'",
    "select lo_get(1234)",
    "select pg_sleep(10)",
    "select current_setting('a1')",
    "select set_config('work_mem', '1MB', false)",
    "fetch 10 from c1",
    "show work_mem",
    "select 1; select 2",
    "select 'é1', 1",
    "",
)


def mutated(text: str, random: Random) -> str:
    return re.sub("[0-9]", lambda _: str(random.randrange(10)), text)


@settings(max_examples=150, deadline=None)
@given(strategies.sampled_from(TEXTS), strategies.randoms(use_true_random=False))
def test_what_is_found_by_digits_is_what_a_fresh_judgement_says(text: str, random: Random) -> None:
    judge = Filter()
    for each in (text, mutated(text, random)):  # which of a kind comes first does not matter
        verdict = judge.judge(each.encode())
        if verdict.plain:
            judge.remember_query(p.query(each.encode()), verdict)
    for _ in range(4):
        other = mutated(text, random).encode()
        message = p.query(other)
        found = judge.plain.queries.get(message) or judge.plain.alike.get(message.translate(DIGITS))
        if found is not None:
            fresh = Filter().judge(other)
            assert (fresh.plain, fresh) == (True, found)


@pytest.mark.parametrize(
    ("text", "other", "alike"),
    [
        (b"select a from t where id = 4711", b"select a from t where id = 1234", True),
        (b"select a from t where v = 'order 66'", b"select a from t where v = 'order 99'", True),
        (b"select 1.5 from t", b"select 9.9 from t", True),
        (b"select a from t0 where id = 4711", b"select a from t1 where id = 4711", False),
        (b"select $1", b"select $2", False),
        (b"select 0x1", b"select 0x2", False),
        (b"select x::float(10) from t", b"select x::float(90) from t", False),
        (b"select 1000000000", b"select 9999999999", False),
        (b"select a from t", b"select a from t", True),
    ],
)
def test_digits_may_be_any_where_each_stands_in_a_constant(text: bytes, other: bytes, alike: bool) -> None:
    judge = Filter()
    judge.remember_query(p.query(text), judge.judge(text))
    assert judge.plain.knows(p.query(text))
    assert judge.plain.knows(p.query(other)) is alike


def test_query_that_is_known_is_kept_once() -> None:
    judge = Filter()
    for number in range(100):
        text = b"select a from t where id = %d" % (number + 100)
        judge.remember_query(p.query(text), judge.judge(text))
    assert len(judge.plain.alike) == 1 and not judge.plain.queries


def test_room_is_shared_and_all_is_forgotten_when_it_is_full() -> None:
    room = Room()
    first, second = PlainMessages(room), PlainMessages(room)
    for number in range(MAX_MESSAGES // 2):
        first.keep_parse(b"P%d" % number, SELECT)
        second.keep_query(b"Q%d" % number, SELECT, alike=False)
    assert len(first.parses) + len(second.queries) == MAX_MESSAGES
    second.keep_query(b"Q one more", SELECT, alike=True)
    assert not first.parses and not second.queries and list(second.alike) == [b"Q one more"]


def test_long_message_is_not_kept() -> None:
    messages = PlainMessages(Room())
    messages.keep_parse(b"P" * (MAX_MESSAGE + 1), SELECT)
    messages.keep_query(b"Q" * (MAX_MESSAGE + 1), SELECT, alike=False)
    assert not messages.parses and not messages.queries

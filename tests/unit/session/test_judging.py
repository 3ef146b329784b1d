"""Texts that are judged elsewhere, and what their client does meanwhile."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.session.judging import MAX_INLINE
from tests.unit.session.scenes import LONG, LONG_WRITE, UNKNOWN, busy, newborn
from tests.unit.session.town import BOUND, EXECUTE, PARSED, READY_I, ROLLED_BACK, SELECTED, SYNC, Town, bind


def test_text_of_the_inline_length_is_judged_at_once_and_a_longer_one_elsewhere(town: Town) -> None:
    session, _ = town.client()
    text = b"select '" + b"x" * (MAX_INLINE - 9) + b"'"
    session.client_data(p.query(text))
    assert town.link(session).take() == p.query(text)
    town.link(session).says(SELECTED, READY_I)
    longer = text[:-1] + b"\\'"  # a backslash: it has no normal form, which the first could have left
    session.client_data(p.query(longer))
    assert session.judging
    assert [asked[1:] for asked in town.judge.asked] == [(longer, "utf-8", False)]


def test_long_text_is_forwarded_when_its_verdict_is_there_and_known_the_next_time(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    assert session.judging
    assert client.reading  # most send nothing more
    session.client_data(SYNC)
    assert not client.reading
    assert session.link is None
    town.judge.answer(town.filter)
    upstream = town.link(session)
    assert upstream.take() == p.query(LONG) + SYNC
    assert client.reading
    assert not session.judging
    upstream.says(SELECTED, READY_I, READY_I)
    session.client_data(p.query(LONG))
    assert town.link(session).take() == p.query(LONG)
    assert town.judge.asked == []


def test_refused_long_text_is_answered_here(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG_WRITE) + p.query(b"select 1"))
    town.judge.answer(town.filter)
    assert client.error()["C"] == "25006"
    assert town.link(session).take() == p.query(b"select 1")
    assert town.stats.refused == {"data-modification": 1}


@pytest.mark.parametrize("size", [1000, 100_000])
def test_order_of_a_pipeline_is_kept_while_a_text_of_it_is_judged(town: Town, size: int) -> None:
    session, client = town.client()
    data = p.query(b"select 1") + p.query(LONG) + p.query(b"select 2")
    for at in range(0, len(data), size):
        session.client_data(data[at : at + size])
    upstream = town.link(session)
    assert upstream.take() == p.query(b"select 1")
    upstream.says(SELECTED, READY_I)
    assert session.link is None, "nobody waits for the helper with an upstream in hand"
    town.judge.answer(town.filter)
    assert town.link(session).take() == p.query(LONG) + p.query(b"select 2")
    town.link(session).says(SELECTED, READY_I, SELECTED, READY_I)
    assert client.kinds() == "CZCZCZ"


def test_what_comes_while_a_text_is_judged_waits_and_asks_nothing(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(LONG))
    session.client_data(p.query(b"select 2"))  # was under way already
    session.client_data(p.query(LONG_WRITE)[:100])
    assert len(town.judge.asked) == 1
    town.judge.answer(town.filter)
    assert town.link(session).take() == p.query(LONG) + p.query(b"select 2")


def test_long_parse_waits_and_the_rest_of_its_group_behind_it(town: Town) -> None:
    session, client = town.client()
    group = p.parse(b"", LONG) + bind() + EXECUTE + SYNC
    session.client_data(group)
    assert session.judging
    assert town.judge.asked[0][3] is True
    town.judge.answer(town.filter)
    upstream = town.link(session)
    assert upstream.take() == group
    upstream.says(PARSED, BOUND, SELECTED, READY_I)
    assert client.kinds() == "12CZ"


def test_verdict_of_a_text_that_the_server_skips_is_not_used_for_the_next_one(town: Town) -> None:
    """Two long Parses in a group: an error before the first makes the server skip it while it is judged."""
    session, client = town.client()
    session.client_data(p.parse(b"", b"select oops") + p.parse(b"a", LONG) + SYNC + p.parse(b"b", LONG_WRITE) + SYNC)
    upstream = town.link(session)
    upstream.says(p.error_response("ERROR", "42703", "no oops"))
    town.judge.answer(town.filter)
    assert upstream.take() == p.parse(b"", b"select oops") + SYNC
    assert session.judging
    assert town.judge.asked[0][1] == LONG_WRITE
    upstream.says(READY_I)
    town.judge.answer(town.filter)
    assert client.kinds() == "EZEZ"
    assert upstream.take() == b""


def counted(town: Town) -> tuple[int, int]:
    """Return how often the cache had a verdict, and how often it had none."""
    return town.filter.counts.hits + town.filter.counts.shape_hits, town.filter.counts.misses


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (p.query(b"select now()"), 1),
        (p.query(b"select now()") * 2, 2),
        (p.parse(b"s", b"select now()") + bind(b"s") + EXECUTE + SYNC, 1),
        (p.parse(b"", b"select now()") + bind() + EXECUTE + SYNC, 1),
    ],
    ids=["simple", "two", "named", "unnamed"],
)
def test_text_that_waits_counts_once_in_the_cache(town: Town, data: bytes, texts: int) -> None:
    holders = busy(town)
    session, _ = town.client()
    hits, misses = counted(town)
    session.client_data(data)
    assert session.waiting
    holders[0].client_data(p.query(b"rollback"))
    town.link(holders[0]).says(ROLLED_BACK, READY_I)
    assert session.link is not None
    assert sum(counted(town)) == hits + misses + texts + 1  # ROLLBACK, too
    session.client_data(p.query(b"select 'another'"))
    assert sum(counted(town)) == hits + misses + texts + 2


def test_text_of_the_helper_that_waits_counts_once_in_the_cache(town: Town) -> None:
    holders = busy(town)
    session, _ = town.client()
    hits, misses = counted(town)
    session.client_data(p.query(LONG))
    answering = town.filter.counts.misses
    town.judge.answer(town.filter)
    answering = town.filter.counts.misses - answering  # what the helper counts, in its own process
    assert session.waiting
    holders[0].client_data(p.query(b"rollback"))
    town.link(holders[0]).says(ROLLED_BACK, READY_I)
    assert session.link is not None
    assert counted(town) == (hits, misses + 1 + answering + 1)  # ROLLBACK, too


def test_statement_without_parameters_counts_once_in_the_cache(town: Town) -> None:
    session, _ = town.client()
    for sql in (b"select now()", b"begin", b"commit", b"end_of_file"):
        hits, misses = counted(town)
        session.client_data(p.parse(b"", sql) + bind(b"", tail=bytes(6)) + EXECUTE + SYNC)
        assert sum(counted(town)) == hits + misses + 1, sql
        if session.link is not None:
            town.link(session).says(PARSED, BOUND, SELECTED, READY_I)


def test_judged_text_that_has_to_wait_for_an_upstream_is_judged_once(town: Town) -> None:
    holders = busy(town)
    session, _ = town.client()
    session.client_data(p.query(LONG))
    town.judge.answer(town.filter)
    assert session.waiting
    assert not session.judging
    upstream = town.link(holders[0])
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert upstream.take() == p.query(LONG)
    assert town.judge.asked == []


def test_judged_text_that_waits_for_an_upstream_is_judged_again_by_a_newer_catalogue(town: Town) -> None:
    holders = busy(town)
    session, client = town.client()
    text = LONG + b" or newborn(1)"
    town.filter.learn_catalog(newborn("newborn"))
    session.client_data(p.query(text))
    town.judge.answer(town.filter)
    assert session.waiting
    town.filter.learn_catalog(newborn("another"))
    town.judge.refreshable = False
    upstream = town.link(holders[0])
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert session.judging
    assert upstream in town.pool.idle
    town.judge.answer(town.filter)
    assert upstream.take() == b""
    assert client.kinds() == "EZ"


def test_upstream_goes_back_when_what_waited_for_it_is_refused_by_a_newer_catalogue(town: Town) -> None:
    holders = busy(town)
    town.judge.refreshable = False
    town.filter.learn_catalog(newborn("newborn"))
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    assert session.waiting
    town.filter.learn_catalog(newborn("another"))
    upstream = town.link(holders[0])
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert client.kinds() == "EZ"
    assert session.link is None
    assert upstream in town.pool.idle


def test_text_over_the_limit_never_goes_to_the_helper(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select '" + b"x" * 100_000 + b"'"))
    assert client.error()["C"] == "54000"
    assert town.judge.asked == []


def test_exception_while_a_verdict_is_taken_ends_that_session_and_is_counted(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    town.pool.lease = None  # type: ignore[method-assign, assignment]
    town.judge.answer(town.filter)
    assert client.error()["C"] == "XX000"
    assert client.closed
    assert town.stats.bugs == 1
    assert town.audit.events[-2][0] == "bug"

"""The guard of layer 2: where it goes, where it does not, where a group waits instead, and what its answer does."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.errors import CloseReason
from proxy.pooling import owed as r
from proxy.pooling.guard import GUARD, GUARDED, PUT_BACK, READ_ONLY
from tests.unit.pooling.test_replies import feed_in, make
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    COMMITTED,
    EXECUTE,
    PARSED,
    READY_I,
    READY_T,
    SELECTED,
    SYNC,
    FakeUpstream,
    Guest,
    Town,
    bind,
    group,
)

FAILED = p.error_response("ERROR", "57014", "canceling statement due to user request")
DESCRIBE = p.message(p.DESCRIBE, b"P\0")
NO_DATA = p.message(p.NO_DATA)
ONE, TWO = p.query(b"select 1"), p.query(b"select 2")


def begun(town: Town) -> tuple[Guest, FakeUpstream]:
    """Return a client in a transaction block, everything answered."""
    session, _ = town.client()
    session.client_data(BEGIN)
    link = town.link(session)
    link.says(BEGUN, READY_T)
    link.whole.clear()
    return session, link


# --- where it goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [ONE, group(b"select 1")])
@pytest.mark.parametrize("second", [TWO, group(b"select 2"), p.parse(b"", b"select 2")])
@pytest.mark.parametrize("writes", [1, 2])
def test_goes_ahead_of_a_group_that_is_sent_while_another_is_unanswered(
    town: Town, first: bytes, second: bytes, writes: int
) -> None:
    session, _ = town.client()
    for data in [first + second] if writes == 1 else [first, second]:
        session.client_data(data)
    assert town.link(session).whole == first + GUARD + second


def test_goes_ahead_of_what_the_direct_path_has_seen_before(town: Town) -> None:
    data = group(b"select 1")
    session, client = town.client()
    session.client_data(data)
    link = town.link(session)
    link.says(PARSED, BOUND, NO_DATA, SELECTED, READY_I)
    link.whole.clear()
    for _ in range(3):
        session.client_data(data)
    link = town.link(session)
    assert link.whole == data + GUARD + data + GUARD + data
    client.take()
    answer = PARSED + BOUND + NO_DATA + SELECTED + READY_I
    link.owner.upstream_data(answer + (GUARDED + answer) * 2)  # type: ignore[union-attr]
    assert client.take() == answer * 3
    assert session.link is None


def test_goes_nowhere_where_everything_is_answered(town: Town) -> None:
    session, _ = town.client()
    for data, answer in ((ONE, SELECTED), (group(b"select 1"), PARSED + BOUND + NO_DATA + SELECTED)) * 3:
        session.client_data(data)
        link = town.link(session)
        link.says(answer, READY_I)
        assert link.guards == 0


def test_goes_nowhere_within_a_group_and_not_ahead_of_a_sync_alone(town: Town) -> None:
    session, _ = town.client()
    messages = (p.parse(b"", b"select 1"), bind(), DESCRIBE, EXECUTE, p.message(p.FLUSH), bind(), EXECUTE, SYNC, SYNC)
    for data in messages:
        session.client_data(data)
    assert town.link(session).whole == b"".join(messages)


def test_goes_nowhere_in_a_transaction(town: Town) -> None:
    session, link = begun(town)
    session.client_data(ONE + group(b"select 1") + TWO)
    assert link.whole == ONE + group(b"select 1") + TWO


def test_group_waits_where_nobody_knows_yet_if_it_is_in_a_transaction(town: Town) -> None:
    session, link = begun(town)
    session.client_data(p.query(b"commit") + ONE)
    assert link.whole == p.query(b"commit")
    link.says(COMMITTED, READY_I)
    link = town.link(session)
    assert link.whole.endswith(ONE)
    assert link.guards == 0  # nothing is unanswered any more


@pytest.mark.parametrize(
    "first",
    [
        BEGIN,
        p.query(b"select 1; select 2"),
        p.query(b"execute nobody"),
        group(b"begin isolation level serializable"),
        p.parse(b"", b"select 1") + ONE,  # which is ignored if the Parse fails
    ],
)
def test_group_waits_behind_what_may_begin_a_transaction(town: Town, first: bytes) -> None:
    session, _ = town.client()
    session.client_data(first + TWO)
    assert town.link(session).whole == first


@pytest.mark.parametrize("rest", [SYNC, EXECUTE + SYNC, ONE, b""])
def test_setting_is_put_back_before_a_commit_that_has_something_behind_it_in_its_group(town: Town, rest: bytes) -> None:
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE)
    session.client_data(p.parse(b"", b"commit") + bind())
    link = town.link(session)
    link.whole.clear()
    session.client_data(EXECUTE + rest)
    assert (PUT_BACK in link.whole) is (rest != SYNC)
    assert link.whole.index(EXECUTE) >= link.whole.find(PUT_BACK)


def test_nothing_is_put_back_before_a_commit_that_is_a_rollback(town: Town) -> None:
    """The transaction has begun in a group that is answered: what follows it says nothing of that one any more."""
    session, _ = town.client()
    session.client_data(p.query(b"begin"))
    session.client_data(p.execute(b"p") + SYNC + p.parse(b"", b"commit and chain") + bind())
    link = town.link(session)
    link.says(BEGUN, READY_T)
    session.client_data(EXECUTE + EXECUTE + SYNC)
    link.says(p.error_response("ERROR", "34000", 'portal "p" does not exist'), p.READY[p.FAILED])
    assert PUT_BACK not in link.whole
    assert link.whole.endswith(bind() + EXECUTE + EXECUTE + SYNC)


def test_goes_nowhere_behind_a_query_that_is_ignored_in_its_group(town: Town) -> None:
    """Its ReadyForQuery never comes, and of the transaction that was begun ahead of it only the Sync's tells."""
    session, _ = town.client()
    session.client_data(p.parse(b"s", b"begin") + bind(b"s") + EXECUTE + bind(b"none") + p.query(b"begin"))
    link = town.link(session)
    link.says(PARSED, BOUND, BEGUN, p.error_response("ERROR", "26000", "no such statement"))
    link.whole.clear()
    session.client_data(SYNC + TWO)
    assert link.whole == SYNC


# --- a server that does not report the setting (before 14) -----------------------------------------------------------


def blind(town: Town, *, size: int = 1) -> tuple[Guest, FakeUpstream]:
    session, _ = town.client()
    (upstream,) = town.pool.idle
    assert isinstance(upstream, FakeUpstream)
    del upstream.parameters[READ_ONLY]
    return session, upstream


def test_before_14_it_is_put_back_before_anybody_else_gets_the_upstream(town: Town) -> None:
    session, link = blind(town)
    session.client_data(ONE)
    link.says(SELECTED, READY_I)
    assert link.whole == ONE + GUARD + SYNC
    assert not town.pool.idle
    session.client_data(TWO)  # behind it, and it is put back again behind that
    assert link.whole == ONE + GUARD + SYNC + GUARD + TWO
    link.says()
    link.says(READY_I)
    link.says(SELECTED, READY_I)
    assert link.whole == ONE + GUARD + SYNC + GUARD + TWO + GUARD + SYNC
    assert not town.pool.idle
    link.says(READY_I)
    assert town.pool.idle == [link]


def test_complaint_before_14_a_statement_right_behind_an_answer_was_not_run_again(town: Town) -> None:
    session, link = blind(town)
    session.client_data(ONE)
    link.says(SELECTED, READY_I)
    session.client_data(TWO)
    session.upstream_lost()
    again = town.opened()
    assert again.whole == TWO
    again.says(SELECTED, READY_I)
    assert session.status == p.IDLE and not session.closed


def test_before_14_an_upstream_of_a_client_that_has_gone_is_discarded(town: Town) -> None:
    session, link = blind(town)
    session.client_data(ONE)
    session.client.client_lost()
    assert link.recycled is True


def test_before_14_what_fails_to_be_put_back_ends_the_upstream(town: Town) -> None:
    session, link = blind(town)
    session.client_data(ONE)
    link.says(SELECTED, READY_I)
    assert link.owner is not None
    link.owner.upstream_data(FAILED)
    assert link.closed is CloseReason.DIRTY
    session.client_data(TWO)
    assert town.asked == 1  # on another one


# --- its answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, len(GUARDED) - 1, len(GUARDED), 1000])
def test_answer_is_hidden_however_it_is_cut(size: int) -> None:
    replies, _ = make(*(r.QUERY, r.GUARDING, r.QUERY, r.GUARDING, r.CLOSE, r.SYNC))
    first, second, third = SELECTED + READY_I, SELECTED + READY_I, p.message(p.CLOSE_COMPLETE) + READY_I
    assert feed_in(replies, first + GUARDED + second + GUARDED + third, size) == first + second + third
    assert not replies.owed
    assert replies.status == p.IDLE


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_other_things_may_be_said_in_the_middle_of_the_answer(size: int) -> None:
    replies, _ = make(r.GUARDING, r.QUERY)
    said = p.parameter_status("TimeZone", "Asia/Tokyo")
    at = GUARDED.index(PARSED, 1)
    assert feed_in(replies, GUARDED[:at] + said + GUARDED[at:] + SELECTED + READY_I, size) == said + SELECTED + READY_I


@pytest.mark.parametrize("parts", range(5))
def test_failure_ends_the_upstream_and_the_client_gets_it_for_the_group_behind(town: Town, parts: int) -> None:
    session, client = town.client()
    session.client_data(ONE + TWO)
    link = town.link(session)
    link.says(SELECTED, READY_I)
    assert client.take() == SELECTED + READY_I
    session.client_data(p.query(b"select 3"))
    pieces = [PARSED, BOUND, BEGUN, p.message(p.CLOSE_COMPLETE), PARSED]
    assert link.owner is not None
    link.owner.upstream_data(b"".join(pieces[:parts]) + FAILED + READY_I)
    assert link.closed is CloseReason.DIRTY
    assert client.kinds() == "EZEZ"
    assert town.stats.bugs == 0


def test_group_counts_as_settled_though_the_guard_behind_it_is_not() -> None:
    replies, _ = make(r.QUERY, r.GUARDING, r.CLOSE)
    assert replies.groups.unanswered == 1
    replies.feed(SELECTED + READY_I)
    assert not replies.groups.unanswered
    assert replies.awaited

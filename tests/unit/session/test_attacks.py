"""Sessions against clients and servers that do what nobody does by accident."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.filter import Filter
from proxy.ours import PREFIX
from proxy.pooling.guard import GUARD, READ_ONLY
from proxy.pooling.sent import Awaits
from proxy.session.judging import MAX_INLINE
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    CLOSED,
    COMMITTED,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    ROLLED_BACK,
    SELECTED,
    SET,
    SYNC,
    Town,
    bind,
)


@pytest.fixture
def town() -> Town:
    return Town()


def test_verdict_on_a_text_is_not_taken_for_that_on_another_behind_an_upstream_that_was_lost(town: Town) -> None:
    upstream = town.opened()
    session, client = town.client()
    session.client_data(p.query(b"select 0") + p.query(b"select 1 -- " + b"a" * MAX_INLINE))
    session.conversation.upstream_lost()
    upstream = town.opened()
    assert upstream.take() == p.query(b"select 0")
    session.client_data(p.query(b"delete from t -- " + b"b" * MAX_INLINE))
    upstream.says(SELECTED, READY_I)
    while town.judge.asked:
        town.judge.answer(town.filter)
        if upstream.replies.owed:
            upstream.says(SELECTED, READY_I)
    assert client.kinds() == "CZCZEZ"
    assert b"delete" not in upstream.whole


def test_start_up_settings_go_ahead_of_the_guard_to_a_server_that_reports_nothing(town: Town) -> None:
    upstream = town.opened()
    del upstream.parameters[READ_ONLY]
    session, client = town.client(search_path="a")
    session.client_data(p.parse(b"", b"discard all") + bind() + EXECUTE + SYNC)
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC)
    upstream.whole.clear()
    upstream.says(PARSED, BOUND, p.message(p.COMMAND_COMPLETE, b"DISCARD ALL\0"), READY_I)
    assert upstream.whole.index(b"search_path") < upstream.whole.index(GUARD) < upstream.whole.index(b"select 1")
    assert [reply.name for reply in list(upstream.replies.owed)[:2]] == ["SKIP_QUERY", "GUARDING"]
    client.take()
    upstream.says(SELECTED, READY_I, PARSED)
    assert client.kinds() == "1"


def test_client_whose_upstream_took_nothing_more_when_it_was_lost_is_read_again(town: Town) -> None:
    town.opened()
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    session.conversation.upstream_writable(False)
    assert not client.reading
    session.conversation.upstream_lost()
    town.opened().says(SELECTED, READY_I)
    assert client.kinds() == "CZ" and client.reading
    session.client_data(p.query(b"select 1"))
    town.link(session).says(p.message(p.ROW_DESCRIPTION, b"\0\0"))
    session.conversation.upstream_writable(False)
    session.conversation.upstream_lost()
    assert client.kinds() == "TEZ" and client.reading


def test_unnamed_statement_outlives_the_transaction_in_which_it_was_observed(town: Town) -> None:
    town.house.observe = True
    town.opened()
    session, _ = town.client()
    parse = p.parse(b"", b"delete from t")
    session.client_data(parse + bind() + EXECUTE + SYNC)
    upstream = town.link(session)
    upstream.take()
    upstream.says(PARSED, BOUND, PARSED, BOUND, BEGUN, CLOSED, CLOSED)
    upstream.says(p.message(p.COMMAND_COMPLETE, b"DELETE 1\0"), READY_T)
    session.client_data(bind() + EXECUTE + SYNC)
    assert upstream.take() == b"", "the COMMIT behind the group is a Query, which destroys it"
    upstream.says(COMMITTED, READY_I)
    assert upstream.take().startswith(parse + bind())


def test_names_that_a_rollback_gives_back_are_looked_for_behind_an_open_group(town: Town) -> None:
    town.opened()
    session, _ = town.client()
    for name in (b"x", b"y"):
        session.client_data(p.parse(name, b"show " + name) + SYNC)
        town.link(session).says(PARSED, READY_I)
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.query(b"select nonsense"))
    upstream.says(p.error_response("ERROR", "42703", "no"), READY_E)
    session.client_data(p.target(p.CLOSE, b"S", b"x") + p.message(p.FLUSH))
    upstream.says(CLOSED)
    session.client_data(p.query(b"rollback; execute y; execute x"))
    upstream.says(CLOSED, READY_E)
    assert b"rollback; execute y" in upstream.take(), "nothing is owed that was never sent"


def test_text_is_not_judged_by_the_search_path_of_an_upstream_that_was_lost(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Filter, "_find_under", lambda self, path: self._follower(self.cache.new_scope(), None))
    town.judge.refreshable = False
    town.opened()
    session, client = town.client(search_path="a")
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.query(b"set search_path to b"))
    upstream.says(SET, READY_T)
    session.client_data(p.query(b"select f() -- " + b"a" * MAX_INLINE))
    town.judge.answer(town.filter.wide)
    row = p.message(p.DATA_ROW, b"\0\1\0\0\0\1b")
    upstream.says(PARSED, BOUND, row, SELECTED, CLOSED, CLOSED, READY_T)
    assert session.filter is town.filter.under("b") and town.judge.asked
    client.take()
    session.conversation.upstream_lost()
    assert session.filter is town.filter.under("a")


def test_transaction_that_a_query_inside_a_group_leaves_half_ended_fails_no_other_client(town: Town) -> None:
    town.opened()
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + p.query(b"select 2"))
    upstream = town.link(session)
    upstream.says(PARSED, BOUND, SELECTED, SELECTED, READY_T)
    upstream.take()
    session.client_data(SYNC)
    upstream.says(READY_I)
    assert client.kinds() == "12CCZZ"
    assert town.link(session) is upstream
    name = PREFIX + upstream.held._token + b":1"
    assert upstream.take() == SYNC + p.parse(name, b"") + p.target(p.CLOSE, b"S", name) + SYNC
    upstream.says(p.error_response("ERROR", "XX000", "StartTransactionCommand: unexpected state STARTED"), READY_I)
    assert client.take() == b""
    upstream.says(CLOSED, READY_I)  # of the name, which may stand there
    assert session.link is None and town.pool.idle == [upstream]


def test_transaction_that_a_query_inside_a_group_leaves_half_ended_is_cleaned_behind_a_client_that_went(
    town: Town,
) -> None:
    town.opened()
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + p.query(b"select 2"))
    upstream = town.link(session)
    upstream.says(PARSED, BOUND, SELECTED, SELECTED, READY_T)
    session.client_lost()
    assert upstream.recycled is True, "DISCARD ALL tells whether anything runs there"


def test_group_that_a_sync_of_ours_begins_has_the_guard_ahead_where_the_server_reports_nothing(town: Town) -> None:
    upstream = town.opened()
    del upstream.parameters[READ_ONLY]
    session, client = town.client(search_path="a")
    group = p.parse(b"", b"discard all") + bind() + EXECUTE
    session.client_data(group + p.query(b"rollback; select 1") + SYNC)
    assert upstream.whole.endswith(SYNC) and b"rollback" not in upstream.whole
    upstream.whole.clear()
    upstream.says(PARSED, BOUND, p.message(p.COMMAND_COMPLETE, b"DISCARD ALL\0"), CLOSED, READY_I)
    assert upstream.whole.index(b"search_path") < upstream.whole.index(GUARD) < upstream.whole.index(b"rollback")
    assert upstream.whole.count(GUARD) == 1
    upstream.says(SELECTED, READY_I, ROLLED_BACK, SELECTED, READY_I, READY_I)
    assert client.kinds() == "12CCCZZ"


def test_group_that_a_sync_of_ours_begins_in_a_transaction_does_not_wait_for_itself(town: Town) -> None:
    upstream = town.opened()
    del upstream.parameters[READ_ONLY]
    session, _ = town.client(search_path="a")
    for text in (b"discard all", b"begin"):
        session.client_data(p.parse(b"", text) + bind() + EXECUTE)
    session.client_data(p.parse(b"", b"rollback") + bind() + EXECUTE)
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC)
    done = [p.message(p.COMMAND_COMPLETE, tag) for tag in (b"DISCARD ALL\0", b"SET\0")]
    own = (PARSED, BOUND, done[1], CLOSED, CLOSED)
    upstream.says(PARSED, BOUND, done[0], *own, PARSED, BOUND, BEGUN, PARSED, CLOSED, READY_T)
    assert session.awaits is Awaits.NOTHING
    assert upstream.whole.endswith(SYNC) and b"select 1" in upstream.whole

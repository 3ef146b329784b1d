"""How long a client may take: to read, in a transaction, for a query, to end; and the drain."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.clients.client import Client
from proxy.clients.time_limits import TimeLimits
from proxy.errors import QUERY_CANCELED
from proxy.session.ports import End
from tests.unit.session.scenes import LONG, busy
from tests.unit.session.town import BEGIN, BEGUN, READY_E, READY_I, READY_T, ROWS, SELECTED, Guest, Town, group


def test_client_that_hangs_up_in_line_is_noticed_though_it_is_not_read(town: Town) -> None:
    busy(town)
    waiting, client = town.client()
    waiting.client_data(p.query(b"select 1"))
    waiting.client.look_in_line()
    assert waiting.conversation in town.pool.waiting
    client.ended = End.FIN
    waiting.client.look_in_line()
    waiting.client.look_at_end(town.now + 0.9)
    assert waiting.conversation in town.pool.waiting
    waiting.client.look_at_end(town.now + 1)
    assert client.closed and not town.pool.waiting


def test_client_that_hangs_up_behind_a_message_that_waits_is_noticed_though_it_is_not_read(town: Town) -> None:
    """Its statement, and the upstream, ran on for as long as it took."""
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    session.client_data(p.query(LONG))
    session.client_data(p.query(b"select 2"))
    assert session.session.held_up and not session.session.waiting
    client.ended = End.FIN
    session.client.look_in_line()
    session.client.look_at_end(town.now + 0.9)
    assert not client.closed
    session.client.look_at_end(town.now + 1)
    assert client.closed


def test_drain_and_time_limits_leave_a_client_alone_whose_text_is_judged(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    session.drain()
    for moment in (1.0, 50.0, 99.0):
        session.sweep(moment, TimeLimits(idle=10.0, idle_transaction=5.0, query=0.0, login=2.0))
    assert not client.closed
    town.judge.answer(town.filter)
    town.link(session).says(SELECTED, READY_I)
    session.drain()
    assert client.error()["C"] == "57P01"


@pytest.mark.parametrize("half", [b"", p.message(p.BIND, b"\0" * 9)[:3], p.message(p.BIND, bytes(200_000))[:100_000]])
def test_attack_client_that_stops_in_the_middle_of_a_group(town: Town, half: bytes) -> None:
    """The server answers nothing before a Sync or Flush: a reply is owed for ever, and the upstream taken."""
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1"))
    session.client_data(half)
    for moment in (1.0, 6.1):
        session.sweep(moment, TimeLimits(idle=0.0, idle_transaction=5.0, query=0.0, login=0.0))
    assert client.error()["C"] == "25P03"


def test_statement_that_runs_behind_a_flush_is_left_alone(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.message(p.BIND, bytes(8)) + p.execute(b"") + p.message(p.FLUSH))
    for moment in (1.0, 50.0, 99.0):
        session.sweep(moment, TimeLimits(idle=1.0, idle_transaction=5.0, query=0.0, login=0.0))
    assert not client.closed


def test_query_timeout_counts_the_time_of_judging(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    for moment in (1.0, 3.9):
        session.sweep(moment, TimeLimits(idle=0.0, idle_transaction=0.0, query=3.0, login=2.0))
    assert session.judging
    session.sweep(4.0, TimeLimits(idle=0.0, idle_transaction=0.0, query=3.0, login=2.0))
    error = client.error()
    assert (error["C"], error["M"]) == ("57014", "canceling statement due to client.query_timeout")


def test_query_timeout_is_not_said_to_be_the_users_wish(town: Town) -> None:
    cancelled = p.error_response("ERROR", QUERY_CANCELED, "canceling statement due to user request", detail="as sent")
    session, client = town.client()
    for data in (p.query(b"select 1"), group(b"select 2")):
        session.client_data(data)
        upstream = town.link(session)
        for moment in (1.0, 4.0):
            session.sweep(moment, TimeLimits(idle=0.0, idle_transaction=0.0, query=3.0, login=2.0))
        assert upstream.cancels == 1
        upstream.cancels = 0
        upstream.says(cancelled, READY_I)
        error = client.error()
        assert (error["C"], error["M"], error["D"]) == (
            "57014",
            "canceling statement due to client.query_timeout",
            "as sent",
        )
    session.client_data(p.query(b"select 3"))
    session.cancel()
    upstream = town.link(session)
    upstream.says(cancelled, READY_I)
    assert client.take() == cancelled + READY_I


def test_query_timeout_that_came_too_late_is_not_blamed_for_a_later_cancel(town: Town) -> None:
    cancelled = p.error_response("ERROR", QUERY_CANCELED, "canceling statement due to user request")
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    for moment in (1.0, 4.0):
        session.sweep(moment, TimeLimits(idle=0.0, idle_transaction=0.0, query=3.0, login=2.0))
    upstream.says(BEGUN, READY_T)
    session.client_data(p.query(b"select 1"))
    upstream.says(cancelled, READY_E)
    assert client.take() == BEGUN + READY_T + cancelled + READY_E


def test_client_that_sends_no_more_is_gone_when_nothing_has_come_for_it(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1") * 2)
    assert session.client.client_finished()
    session.client.look_at_end(town.now + 0.9)
    town.link(session).says(SELECTED, READY_I)
    session.client.look_at_end(town.now + 1.1)
    session.client.look_at_end(town.now + 2)
    assert not client.closed
    session.client.look_at_end(town.now + 2.2)
    assert client.closed


def test_client_that_is_reset_is_gone_at_once(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    assert session.client.client_finished()
    client.ended = End.RESET
    session.client.look_at_end(town.now)
    assert client.closed


def test_client_that_reads_nothing_loses_its_statement_and_frees_its_upstream(town: Town) -> None:
    limits = {"idle": 0.0, "idle_transaction": 0.0, "query": 0.0, "login": 0.0, "slow_reader": 30.0}

    def reading(moment: float) -> None:
        """Read what there was, and get more."""
        session.client_writable(True)
        upstream.says(p.message(p.DATA_ROW, b"\0\0"))
        session.client_writable(False)
        session.sweep(moment, TimeLimits(**limits))

    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    upstream.says(ROWS)
    for moment in (1.0, 20.0, 40.0, 60.0):
        reading(moment)
    for moment in (61.0, 89.0):
        session.sweep(moment, TimeLimits(**limits))
    assert upstream in town.pool.leased
    session.sweep(90.0, TimeLimits(**limits))
    assert town.pool.cleaning == {upstream}
    assert upstream.recycled is False
    assert upstream.reading, "what is left of the answer would never come"
    assert client.error()["C"] == QUERY_CANCELED
    assert client.closed
    assert dict(town.stats.client_closes) == {"slow_reader_timeout": 1}


def test_client_that_reads_nothing_while_nothing_is_there_for_it_may_do_so(town: Town) -> None:
    limits = {"idle": 0.0, "idle_transaction": 0.0, "query": 0.0, "login": 0.0, "slow_reader": 30.0}
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(100)"))
    for moment in (1.0, 50.0, 100.0):
        session.sweep(moment, TimeLimits(**limits))
    assert not client.closed


def test_sweep_limits(town: Town) -> None:
    limits = {"idle": 10.0, "idle_transaction": 5.0, "query": 3.0, "login": 2.0}

    def sweep(session: Client | Guest, *moments: float) -> None:
        for moment in moments:
            session.sweep(moment, TimeLimits(**limits))

    silent, client = town.knock()
    sweep(silent, 1.0, 2.0)
    silent.client_data(b"\0")
    sweep(silent, 3.0)
    assert client.closed
    idle, client = town.client()
    sweep(idle, 1.0, 10.0)
    assert not client.closed
    sweep(idle, 11.0)
    assert client.error()["C"] == "57P05"
    running, _ = town.client()
    running.client_data(p.query(b"select pg_sleep(60)"))
    sweep(running, 1.0, 4.0)
    assert town.link(running).cancels == 1
    town.link(running).says(p.error_response("ERROR", "57014", "canceled"), READY_I)
    chatty, _ = town.client()
    chatty.client_data(p.query(b"select 1"))
    town.link(chatty).cancels = 0
    for moment in (1.0, 2.0, 3.0, 4.0):  # rows do not prolong it, the next statement does
        sweep(chatty, moment)
        town.link(chatty).says(p.message(p.DATA_ROW, b"\0\0"))
    assert town.link(chatty).cancels == 1
    chatty.client_data(p.query(b"select 2"))
    town.link(chatty).says(p.error_response("ERROR", "57014", "canceled"), READY_I)
    sweep(chatty, 5.0, 6.0)
    assert town.link(chatty).cancels == 1
    town.link(chatty).says(SELECTED, READY_I)
    quiet, client = town.client()
    quiet.client_data(BEGIN)
    town.link(quiet).says(BEGUN, READY_T)
    sweep(quiet, 1.0, 6.0)
    assert client.error()["C"] == "25P03" if client.closed else False


def test_drain_ends_idle_clients_and_lets_statements_finish(town: Town) -> None:
    idle, idle_client = town.client()
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.house.draining = True
    idle.drain()
    session.drain()
    assert idle_client.error()["C"] == "57P01"
    assert not client.closed
    town.link(session).says(SELECTED, READY_I)
    session.drain()
    assert client.closed
    late, late_client = town.knock()
    late.client_data(p.startup_message({"user": "a", "database": "shop"}))
    assert late_client.error()["C"] == "57P03"

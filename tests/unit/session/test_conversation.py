"""A client that cancels, leaves, or does not read: what becomes of what it waits for and of its upstream."""

from __future__ import annotations

from proxy import protocol as p
from proxy.pooling.snapshot import read_back
from tests.unit.session.scenes import LONG, UNKNOWN, busy, reads_back
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    EXECUTE,
    READY_E,
    READY_I,
    READY_T,
    RESET,
    SELECTED,
    SET,
    STAND_IN_FAILED,
    SYNC,
    Town,
    bind,
)


def test_cancel_of_a_waiting_client_answers_at_once(town: Town) -> None:
    busy(town)
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    assert session.cancel() == "waiting"
    error = client.error()
    assert error["C"] == "57014"
    assert not town.pool.waiting


def test_cancel_leaves_alone_what_sidecart_asks_for_itself(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    assert upstream.replies.owed, "the settings are being read back"
    assert session.cancel() == "idle" and not upstream.cancels


def test_cancel_that_is_still_on_its_way_does_not_hit_what_sidecart_asks_for_itself(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(session)
    assert session.cancel() == "sent"
    upstream.cancelling = True
    upstream.says(SET, READY_I)
    assert client.take() == SET + READY_I
    assert session.link is upstream and upstream.take() == p.query(b"set work_mem = '1MB'")
    upstream.cancelling = False
    upstream.then()
    assert upstream.take() == p.query(read_back(["work_mem"]))
    reads_back(upstream, work_mem="1MB")
    assert session.link is None and not session.ledger.pins


def test_cancel_reaches_only_a_running_statement(town: Town) -> None:
    session, _ = town.client()
    assert session.cancel() == "idle"
    session.client_data(p.query(b"select pg_sleep(60)"))
    upstream = town.link(session)
    assert session.cancel() == "sent"
    assert upstream.cancels == 1


def test_cancel_while_a_text_is_judged_answers_at_once(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG) + p.query(b"select 1"))
    assert session.cancel() == "waiting"
    assert client.error()["C"] == "57014"
    assert not session.judging
    assert town.link(session).take() == p.query(b"select 1")
    town.link(session).says(SELECTED, READY_I)
    town.judge.answer(town.filter)  # too late: nobody asks any more
    assert client.kinds() == "CZ"
    assert session.link is None


def test_cancel_of_a_parse_that_is_judged_swallows_up_to_sync(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", LONG) + bind() + EXECUTE + SYNC)
    assert session.cancel() == "waiting"
    assert client.kinds() == "EZ"
    assert session.link is None


def test_cancel_in_a_transaction_while_a_text_is_judged_fails_the_transaction(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    upstream.take()
    client.take()
    session.client_data(p.query(LONG))
    assert session.cancel() == "waiting"
    assert upstream.take() == p.REFUSED_QUERY
    upstream.says(STAND_IN_FAILED, READY_E)
    assert client.error()["C"] == "57014"


def test_cancel_reaches_the_statement_that_runs_not_the_one_that_is_judged_behind_it(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"select pg_sleep(60)") + p.query(LONG))
    assert session.cancel() == "sent"
    assert town.link(session).cancels == 1
    assert session.judging


def test_cancel_of_a_wait_for_the_catalogue(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    assert session.cancel() == "waiting"
    assert client.error()["C"] == "57014"
    town.judge.refreshed()
    assert client.take() == b""


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_client_that_leaves_the_line_is_forgotten(town: Town) -> None:
    busy(town)
    session, _ = town.client()
    session.client_data(p.query(b"select 1"))
    session.client_lost()
    assert not town.pool.waiting


def test_client_that_leaves_while_its_text_is_judged_is_told_nothing(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    session.client_lost()
    assert town.judge.asked[0][0].asker is None, "the helper need not begin with it"
    town.judge.answer(town.filter)
    assert client.take() == b""
    assert not town.pool.leased


def test_client_that_vanishes_while_we_ask_leaves_an_upstream_that_forgets_all(town: Town) -> None:
    """What has a name of ours could stay there, and the next client would meet it."""
    session, _ = town.client(TimeZone="Asia/Tokyo")
    session.client_data(p.parse(b"", b"reset all") + bind() + EXECUTE)
    upstream = town.link(session)
    session.client_lost()
    assert upstream.recycled is True


def test_client_that_vanishes_in_mid_statement_leaves_the_upstream_to_be_cleaned(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"select pg_sleep(60)"))
    upstream = town.link(session)
    session.client_lost()
    assert upstream.recycled is False
    assert upstream in town.pool.cleaning


def test_upstream_that_ignores_all_up_to_a_sync_goes_to_nobody(town: Town) -> None:
    """An error behind which a Query was sent, in one chunk with the answer to what sets the settings."""
    first, _ = town.client()
    first.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(first)
    upstream.says(SET, READY_I)
    reads_back(upstream, work_mem="1MB")
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1/0") + p.query(b"select 1"))
    assert town.link(session) is upstream
    upstream.says(RESET, READY_I, p.error_response("ERROR", "22012", "division by zero"))
    assert session.link is upstream
    session.client_data(p.parse(b"", b"select 2"))
    session.close()
    assert upstream.recycled is not None


def test_slow_client_pauses_the_upstream_and_the_next_lease_starts_reading(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    session.client_writable(False)
    assert not upstream.reading
    assert not client.reading
    session.client_writable(True)
    assert upstream.reading
    assert client.reading


def test_drain_sends_away_who_waits(town: Town) -> None:
    busy(town)
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.pool.drain()
    assert client.error()["C"] == "57P03"
    assert not town.pool.waiting

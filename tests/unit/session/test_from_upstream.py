"""What comes from an upstream that is lost, or says what it must not: run again, answered, or the end."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.errors import CloseReason
from proxy.ours import PREFIX
from tests.unit.session.scenes import parse_ours, pinned, prepare
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    DESCRIBED,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    SELECTED,
    SYNC,
    Town,
    bind,
    group,
)


def fatal(sqlstate: str) -> bytes:
    return p.error_response("FATAL", sqlstate, "terminating connection due to administrator command")


@pytest.mark.parametrize(("name", "value"), [("default_transaction_read_only", "off"), ("client_encoding", "SJIS")])
def test_tripwire_closes_both_sides(town: Town, name: str, value: str) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    upstream.says(p.parameter_status(name, value), SELECTED, READY_I)
    assert upstream.closed is CloseReason.TRIPWIRE
    assert client.closed
    assert town.stats.bugs == 1
    assert b"SELECT" not in client.take()


def test_statement_whose_upstream_dies_runs_on_another_one(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    first = town.link(session)
    session.upstream_lost()
    assert not client.sent and not client.closed
    second = town.opened()
    assert second is not first and second.take() == p.query(b"select 1")
    second.says(SELECTED, READY_I)
    assert client.kinds() == "CZ"
    assert town.stats.retries == 1


def test_parse_complete_and_fatal_in_one_chunk_leave_the_name_free(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"s1", b"select 1") + SYNC)
    town.link(session).says(PARSED, DESCRIBED, fatal("57P01"))
    again = town.opened()
    assert again.take() == parse_ours(1, b"select 1") + SYNC
    again.says(PARSED, DESCRIBED, READY_I)
    assert client.take() == PARSED + READY_I


def test_statement_runs_again_once_at_most(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    session.upstream_lost()
    town.opened()
    session.upstream_lost()
    assert client.error()["C"] == "08006"
    assert not client.closed and session.status == p.IDLE


def test_row_description_and_fatal_in_one_chunk_are_no_begun_answer(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(20)"))
    town.link(session).says(p.message(p.ROW_DESCRIPTION, b"\0\0"), fatal("57P01"))
    assert not client.sent
    assert town.opened().take() == p.query(b"select pg_sleep(20)")


@pytest.mark.parametrize("sqlstate", ["57P02"])
def test_crash_is_reported_and_nothing_runs_again(town: Town, sqlstate: str) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.link(session).says(fatal(sqlstate))
    assert client.error() == {
        "S": "ERROR",
        "V": "ERROR",
        "C": sqlstate,
        "M": "terminating connection due to administrator command",
    }
    assert town.stats.retries == 0 and not client.closed


def test_statement_that_an_administrator_ends_late_does_not_run_again(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(20)"))
    town.now += 6
    town.link(session).says(fatal("57P01"))
    assert client.error()["C"] == "57P01"


def test_cancelled_statement_does_not_run_again(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(20)"))
    assert session.cancel() == "sent"
    session.upstream_lost()
    assert client.kinds() == "EZ"


def test_transaction_whose_upstream_dies_has_failed_and_its_client_goes_on(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"begin"))
    session.client_data(p.query(b"select 1"))
    town.link(session).says(BEGUN, READY_T, SELECTED, READY_T)
    assert client.kinds() == "CZCZ"
    session.client_data(p.query(b"select 2"))
    town.link(session).says(fatal("57P01"))
    assert client.take().endswith(READY_E)
    session.client_data(p.query(b"rollback"))
    assert client.take() == p.message(p.COMMAND_COMPLETE, b"ROLLBACK\0") + READY_I
    assert not client.closed and session.link is None


def test_idle_transaction_whose_upstream_dies_is_told_with_the_next_statement(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    town.link(session).says(BEGUN, READY_T)
    client.take()
    session.upstream_lost()
    assert not client.sent
    session.client_data(p.query(b"select 1"))
    assert client.take()[-6:] == READY_E and session.link is None
    session.client_data(p.query(b"commit"))
    assert client.take() == p.message(p.COMMAND_COMPLETE, b"ROLLBACK\0") + READY_I


def test_commit_after_an_idle_loss_fails_and_ends_the_transaction(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    town.link(session).says(BEGUN, READY_T)
    client.take()
    session.upstream_lost()
    session.client_data(p.query(b"commit"))
    assert client.take().endswith(READY_I) and session.status == p.IDLE


def test_each_group_of_a_lost_pipeline_is_answered(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1") + group(b"select 2") + bind() + SYNC)
    upstream = town.link(session)
    upstream.says(SELECTED)
    client.take()
    session.upstream_lost()
    assert client.kinds() == "EZEZEZ"


def test_open_group_of_a_lost_upstream_is_swallowed_up_to_its_sync(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.message(p.FLUSH))
    town.link(session).says(PARSED)
    client.take()
    session.upstream_lost()
    session.client_data(bind() + EXECUTE + SYNC)
    assert client.kinds() == "EZ" and session.link is None


def test_pinned_client_is_closed_with_its_upstream(town: Town) -> None:
    _, client, upstream = pinned(town)
    upstream.says(fatal("57P01"))
    assert client.error()["S"] == "FATAL" and client.closed


def test_commit_that_is_lost_has_ended_the_transaction(town: Town) -> None:
    session, client = town.client()
    for text in (b"begin", b"select 1"):
        session.client_data(p.query(text))
    town.link(session).says(BEGUN, READY_T, SELECTED, READY_T)
    client.take()
    session.client_data(p.query(b"commit"))
    session.upstream_lost()
    assert client.take().endswith(READY_I) and session.status == p.IDLE


def test_half_of_a_message_that_was_held_back_does_not_end_the_client(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.link(session).says(SELECTED, READY_I[:3])
    session.upstream_lost()
    assert client.kinds() == "CEZ" and not client.closed


def test_error_names_a_statement_as_the_client_did(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    client.take()
    session.client_data(p.parse(b"s2", b"select 1") + bind(b"s2") + SYNC)
    name = PREFIX.decode() + upstream.take().rpartition(PREFIX)[2].split(b"\0")[0].decode()
    text = f'bind message supplies 0 parameters, but prepared statement "{name}" requires 1'
    upstream.says(PARSED, DESCRIBED, p.message(p.CLOSE_COMPLETE), p.error_response("ERROR", "08P01", text), READY_I)
    assert client.error()["M"] == 'bind message supplies 0 parameters, but prepared statement "s2" requires 1'


def test_error_is_never_written_into_the_middle_of_a_row(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    row = p.message(p.DATA_ROW, b"\0\1\0\0\0\x64" + b"x" * 100)
    town.link(session).says(row[:40])
    session.upstream_lost()
    assert client.take() == row[:40]
    assert client.closed

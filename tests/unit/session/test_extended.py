"""Parse, Execute, Close, Sync and Flush; the names of prepared statements."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from tests.unit.session.scenes import ours, parse_ours, prepare, run_unnamed
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    DESCRIBED,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    SELECTED,
    STAND_IN_FAILED,
    SYNC,
    Town,
    bind,
)


def test_sync_and_flush_alone_need_no_upstream(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.message(p.FLUSH) + SYNC)
    assert client.take() == READY_I
    assert session.link is None


def test_flush_asks_for_output_not_for_an_end(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.message(p.FLUSH))
    upstream = town.link(session)
    upstream.says(PARSED)
    assert client.take() == PARSED
    assert session.link is upstream
    session.client_data(SYNC)
    upstream.says(READY_I)
    assert session.link is None


def test_failed_parse_destroys_the_unnamed_statement(town: Town) -> None:
    session, client = town.client()
    upstream = run_unnamed(town, session)
    session.client_data(p.parse(b"", b"select nocolumn") + SYNC)
    upstream.says(p.error_response("ERROR", "42703", "no"), READY_I)
    client.take()
    session.client_data(bind() + SYNC)
    assert client.error()["C"] == "26000"


# --- named statements -------------------------------------------------------------------------------------------------


def test_named_statement_does_not_pin_and_its_names_are_ours(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    assert client.take() == PARSED + READY_I, "what Describe says is not the client's"
    session.client_data(bind(b"s1") + p.message(p.DESCRIBE, b"Ss1\0") + EXECUTE + SYNC)
    describe = p.target(p.DESCRIBE, b"S", ours(1))
    assert upstream.take() == bind(ours(1)) + describe + EXECUTE + SYNC


def test_taken_name_is_an_error_behind_all_others(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    client.take()
    session.client_data(p.parse(b"s1", b"select 2") + SYNC)
    assert upstream.take().endswith(p.REFUSED_EXECUTE + SYNC)
    upstream.says(PARSED, p.message(p.CLOSE_COMPLETE), STAND_IN_FAILED, READY_I)
    error = client.error()
    assert (error["C"], error["M"]) == ("42P05", 'prepared statement "s1" already exists')


def test_name_that_sidecart_gave_reaches_nothing(town: Town) -> None:
    one, _ = town.client()
    prepare(town, one, b"s1", b"select 'secret'")
    two, client = town.client()
    for message in (bind(ours(1)), p.message(p.DESCRIBE, b"S" + ours(1) + b"\0")):
        two.client_data(message + SYNC)
        assert client.error()["C"] == "26000"
    assert two.link is None


def test_closed_statement_is_gone_for_its_client_and_kept_for_others(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    session.client_data(p.message(p.CLOSE, b"Ss1\0") + SYNC)
    client.take()
    session.client_data(bind(b"s1") + SYNC)
    assert client.error()["C"] == "26000"
    assert upstream.held.names


def test_use_of_a_name_whose_parse_is_not_answered_waits_for_the_answer(town: Town) -> None:
    """It may fail, and then the later group must fail as it would on a private connection."""
    session, client = town.client()
    session.client_data(p.parse(b"s1", b"select nope") + SYNC + bind(b"s1") + EXECUTE + SYNC)
    upstream = town.link(session)
    assert upstream.take() == parse_ours(1, b"select nope") + SYNC
    upstream.says(p.error_response("ERROR", "42703", "no such column"), READY_I)
    assert client.kinds() == "EZ"
    assert upstream.take() == bind(b"s1") + EXECUTE + SYNC, "the server's own error, for the client has no such name"


def test_duplicate_parse_behind_another_message_of_its_group_waits_for_earlier_groups_only(town: Town) -> None:
    """What this group has sent is not answered before its Sync: waiting for that would be for ever."""
    session, client = town.client()
    parse = p.parse(b"s2", b"select 1")
    session.client_data(parse + SYNC + p.message(p.CLOSE, b"Ppt\0") + parse + SYNC)
    upstream = town.link(session)
    assert upstream.take() == parse_ours(1, b"select 1") + SYNC + p.message(p.CLOSE, b"Ppt\0")
    upstream.says(PARSED, DESCRIBED, READY_I)
    assert upstream.take().endswith(p.REFUSED_EXECUTE + SYNC)
    closed = p.message(p.CLOSE_COMPLETE)
    upstream.says(closed, PARSED, closed, STAND_IN_FAILED, READY_I)
    assert client.kinds() == "1Z3EZ" and session.link is None


@pytest.mark.parametrize("late", [p.parse(b"s1", b"select 2"), p.parse(b"", b"execute s1"), bind(b"s1")])
def test_late_message_of_a_group_waits_for_nothing_that_has_been_answered(late: bytes) -> None:
    town = Town()
    session, _ = town.client()
    session.client_data(p.parse(b"s1", b"select 1") + SYNC)
    link = town.link(session)
    link.says(PARSED, p.message(p.NO_DATA), READY_I)
    session.client_data(p.query(b"discard all") + p.parse(b"", b"select 3"))
    link = town.link(session)
    link.says(p.message(p.COMMAND_COMPLETE, b"DISCARD ALL\0"), READY_I)
    link.take()
    session.client_data(late + SYNC)
    assert link.take().endswith(SYNC)


def test_execute_without_a_bind_never_reaches_the_portal_that_a_failed_query_left(town: Town) -> None:
    """PostgreSQL 15.18 reads freed memory there, and ends with SIGSEGV."""
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC + p.query(b"close c") + bind(b"no") + SYNC)
    upstream.take()
    session.client_data(EXECUTE + SYNC)
    assert upstream.take() == b"", "waits"
    upstream.says(PARSED, BOUND, SELECTED, READY_T, p.error_response("ERROR", "34000", "no such cursor"), READY_E)
    upstream.says(p.error_response("ERROR", "26000", "no such statement"))
    assert upstream.take() == b"", "waits"
    upstream.says(READY_E)
    assert upstream.take() == p.REFUSED_EXECUTE + SYNC

"""Bind of the unnamed statement: wherever its client's upstream is, and nobody else's."""

from __future__ import annotations

import gc

from proxy import protocol as p
from proxy.session.session import Session
from tests.unit.session.scenes import reads_back, run_unnamed
from tests.unit.session.town import BEGIN, BOUND, EXECUTE, PARSED, READY_I, READY_T, SELECTED, SET, SYNC, Town, bind


def test_unnamed_statement_is_still_there_on_its_own_upstream(town: Town) -> None:
    session, _ = town.client()
    first = run_unnamed(town, session)
    session.client_data(bind() + EXECUTE + SYNC)
    assert town.link(session) is first
    assert first.take() == bind() + EXECUTE + SYNC


def test_upstream_keeps_no_session_whose_client_has_gone(town: Town) -> None:
    session, _ = town.client()
    upstream = run_unnamed(town, session)
    assert upstream.unnamed_of is not None
    assert not isinstance(upstream.unnamed_of, Session)
    assert not any(
        isinstance(held, Session) for held in gc.get_referents(upstream, upstream.replies, upstream.unnamed_of)
    )


def test_unnamed_statement_is_repeated_on_another_upstream(town: Town) -> None:
    session, client = town.client()
    first = run_unnamed(town, session)
    other, _ = town.client()
    other.client_data(BEGIN)
    assert town.link(other) is first
    client.take()
    session.client_data(bind() + EXECUTE + SYNC)
    second = town.opened()
    assert second.take() == p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC
    second.says(PARSED, BOUND, SELECTED, READY_I)
    assert client.kinds() == "2CZ"


def test_unnamed_statement_is_not_the_one_that_another_upstream_was_left_with(town: Town) -> None:
    other, _ = town.client()
    second = run_unnamed(town, other)
    other.client_data(p.query(b"begin; select 1"))
    second.says(READY_T)
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1") + SYNC)
    first = town.opened()
    first.says(PARSED, READY_I)
    other.client_data(p.query(b"rollback"))
    second.says(READY_I)
    assert run_unnamed(town, session, b"select 2") is second
    other.client_data(p.query(b"begin; select 1"))
    assert town.link(other) is second
    first.take()
    session.client_data(bind() + EXECUTE + SYNC)
    assert first.take() == p.parse(b"", b"select 2") + bind() + EXECUTE + SYNC


def test_unnamed_statement_is_what_ended_a_transaction_that_no_server_knew_of(town: Town) -> None:
    session, _ = town.client()
    first = run_unnamed(town, session)
    for text in (b"begin", b"commit"):
        session.client_data(p.parse(b"", text) + bind() + EXECUTE + SYNC)
    session.client_data(bind() + EXECUTE + SYNC)
    assert first.take() == p.parse(b"", b"commit") + bind() + EXECUTE + SYNC


def test_unnamed_statement_of_another_client_is_never_run(town: Town) -> None:
    session, _ = town.client()
    run_unnamed(town, session, b"select 'secret'")
    other, client = town.client()
    other.client_data(bind() + EXECUTE + SYNC)
    assert client.error()["C"] == "26000"
    assert town.pool.idle[0].take() == b""  # type: ignore[attr-defined]


def test_unnamed_statement_is_repeated_where_another_client_parsed_in_between(town: Town) -> None:
    session, _ = town.client()
    first = run_unnamed(town, session)
    other, _ = town.client()
    assert run_unnamed(town, other, b"select 2") is first
    session.client_data(bind() + SYNC)
    assert first.take() == p.parse(b"", b"select 1") + bind() + SYNC


def test_upstream_that_served_a_client_is_not_taken_for_holding_its_unnamed_statement(town: Town) -> None:
    session, _ = town.client()
    run_unnamed(town, session)
    other, _ = town.client()
    first = run_unnamed(town, other, b"select 'of the other client'")
    session.client_data(p.execute(b"nowhere") + SYNC)  # leases the same upstream without a look at the statement
    first.says(p.error_response("ERROR", "34000", "no such portal"), READY_I)
    first.take()
    session.client_data(bind() + EXECUTE + SYNC)
    assert first.take() == p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC


def test_settings_that_are_read_back_destroy_the_unnamed_statement(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.parse(b"", b"set work_mem = '1MB'") + bind() + EXECUTE + p.parse(b"", b"select 1") + SYNC)
    upstream = town.link(session)
    upstream.says(PARSED, BOUND, SET, PARSED, READY_I)
    upstream.take()
    reads_back(upstream, work_mem="1MB")
    assert session.link is None
    session.client_data(bind() + EXECUTE + SYNC)
    assert upstream.take() == p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC


def test_bind_behind_a_group_that_failed_never_reaches_the_statement_that_another_client_left() -> None:
    town = Town(1)
    first, _ = town.client()
    first.client_data(p.parse(b"", b"select 'of the first'") + bind() + EXECUTE + SYNC)
    link = town.link(first)
    link.says(PARSED, BOUND, SELECTED, READY_I)
    second, wire = town.client()
    link.take()
    second.client_data(p.parse(b"x", b"select nope") + p.parse(b"", b"select 2") + SYNC + bind() + EXECUTE + SYNC)
    assert town.link(second) is link
    link.says(p.error_response("ERROR", "42703", 'column "nope" does not exist'), READY_I)
    assert bind() not in link.take()
    assert wire.kinds() == "EZEZ"

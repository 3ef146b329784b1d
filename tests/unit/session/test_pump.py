"""One message after the other: cut anywhere, too long, malformed, and the end of them all."""

from __future__ import annotations

import struct

import pytest

from proxy import protocol as p
from tests.unit.session.scenes import busy
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    EXECUTE,
    PARSED,
    READY_I,
    READY_T,
    SELECTED,
    SET,
    STAND_IN_FAILED,
    SYNC,
    Town,
    bind,
)


@pytest.mark.parametrize("size", [1, 2, 5, 11])
def test_query_in_pieces(town: Town, size: int) -> None:
    session, _ = town.client()
    data = p.query(b"select 1") + p.query(b"select 2")
    for i in range(0, len(data), size):
        session.client_data(data[i : i + size])
    assert town.link(session).take() == data


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        struct.pack("!BI", p.QUERY, 0x80000000),
        struct.pack("!BI", p.QUERY, 0xFFFFFFFF),
        struct.pack("!BI", p.QUERY, 3),
        p.message(p.PASSWORD, b"secret\0"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_client_that_breaks_the_protocol_is_closed_with_a_reason(town: Town, data: bytes) -> None:
    session, client = town.client()
    session.client_data(data)
    assert client.error()["C"] == "08P01"
    assert client.closed
    assert town.stats.client_closes["client_protocol"] == 1
    assert town.stats.bugs == 0


@pytest.mark.parametrize(
    ("data", "simple"),
    [
        (p.query(b"select 1\0; drop table t"), True),
        (p.message(p.PARSE, b"\0select 1\0; drop table t\0\0\0"), False),
        (p.message(p.BIND, b"\0" + b"x" * 70_000), False),
        (p.message(p.DESCRIBE, b"X\0"), False),
        (p.message(p.SYNC, b"x"), True),
        (p.message(p.EXECUTE, b"p\0"), False),
    ],
)
@pytest.mark.parametrize("size", [70_000, 1_000_000])
def test_attack_message_that_holds_something_else_is_an_error_and_nothing_of_it_goes_upstream(
    town: Town, size: int, data: bytes, simple: bool
) -> None:
    session, client = town.client()
    for at in range(0, len(data), size):
        session.client_data(data[at : at + size])
    assert client.error()["C"] == "08P01"
    session.client_data(p.query(b"select 1"))
    assert (session.link is not None) is simple
    session.client_data(SYNC + p.query(b"select 2"))
    assert town.link(session).take().endswith(p.query(b"select 2"))
    assert not client.closed and town.stats.bugs == 0


@pytest.mark.parametrize("last", [b"\xff" * 5, struct.pack("!BI", p.QUERY, 3)])
def test_what_stands_before_what_breaks_the_protocol_is_answered(town: Town, last: bytes) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1") + p.query(b"select 2") + last)
    upstream = town.link(session)
    assert upstream.take() == p.query(b"select 1") + p.query(b"select 2")
    upstream.says(SELECTED, READY_I)
    assert not client.closed
    upstream.says(SELECTED, READY_I)
    assert client.closed and upstream in town.pool.idle
    assert client.take().startswith((SELECTED + READY_I) * 2 + b"E")


def test_end_of_what_a_client_sends_waits_for_the_answers(town: Town) -> None:
    busy(town, 2)
    session, client = town.client()
    session.client_data(p.query(b"select 1") + p.query(b"select 2") + p.query(b"select 3")[:-1])
    assert session.client.client_finished() and session.client.client_finished()
    assert not client.closed
    upstream = town.opened()
    assert upstream.take() == p.query(b"select 1") + p.query(b"select 2")
    upstream.says(SELECTED, READY_I)
    assert not client.closed
    upstream.says(SELECTED, READY_I)
    assert client.closed
    assert client.take() == (SELECTED + READY_I) * 2
    assert town.stats.client_closes["client_lost"] == 1


@pytest.mark.parametrize("text", [b"", b"begin", b"begin isolation level serializable"])
def test_end_of_what_an_idle_client_sends_is_its_end(text: bytes, town: Town) -> None:
    session, client = town.client()
    if text:
        session.client_data(p.query(text))
        if session.link is not None:
            town.link(session).says(BEGUN, READY_T)
    assert not session.client.client_finished()
    assert client.closed


@pytest.mark.parametrize("linked", [False, True])
def test_attack_end_of_a_long_bind_that_is_ignored_goes_upstream_as_messages(linked: bool, town: Town) -> None:
    session, _ = town.client()
    if linked:
        session.client_data(BEGIN)
        town.link(session).says(BEGUN, READY_T)
    session.client_data(p.parse(b"", b"select $1") + p.message(p.BIND, b"\0\0" + bytes(6)) + SYNC)
    upstream = town.link(session)
    upstream.says(PARSED, BOUND, READY_T if linked else READY_I)
    session.client_data(p.parse(b"", b"delete from t"))
    if linked:
        upstream.says(STAND_IN_FAILED)
    upstream.take()
    bound = p.message(p.BIND, b"\0\0" + bytes(70_000) + SYNC + p.query(b"delete from t"))
    session.client_data(bound[:70_007])
    session.client_data(bound[70_007:])
    assert upstream.take() == b""


def test_half_a_bind_that_went_upstream_is_followed_by_nothing(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select $1") + p.message(p.BIND, b"\0\0" + bytes(100_000))[:70_000])
    upstream = town.link(session)
    sent = len(upstream.take())
    assert sent and session.client.client_finished()
    assert upstream.take() == b""
    session.client.look_at_end(town.now + 1)
    assert client.closed and upstream.closed


def test_terminate_ends_when_what_stands_before_it_is_answered(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1") + p.parse(b"", b"select 2") + p.TERMINATE_MESSAGE + p.query(b"select 3"))
    session.client_data(p.query(b"select 4"))
    upstream = town.link(session)
    assert upstream.take() == p.query(b"select 1") + p.parse(b"", b"select 2") + SYNC
    upstream.says(SELECTED, READY_I)
    assert not client.closed
    upstream.says(PARSED, READY_I)
    assert client.closed
    assert client.take() == SELECTED + READY_I + PARSED
    assert upstream in town.pool.idle
    assert town.stats.client_closes["client_terminate"] == 1


def test_terminate_hides_what_the_server_reports_at_a_sync_that_is_ours(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"set datestyle to german") + bind() + EXECUTE + p.TERMINATE_MESSAGE)
    town.link(session).says(PARSED, BOUND, SET, p.parameter_status("DateStyle", "German, DMY"), READY_I)
    assert client.take() == PARSED + BOUND + SET
    assert client.closed


def test_terminate_waits_for_no_query_that_is_ignored(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select nope") + p.query(b"select 1") + p.TERMINATE_MESSAGE)
    town.link(session).says(p.error_response("ERROR", "42703", "no such column"))
    assert client.closed


def test_terminate_waits_for_an_upstream_that_is_lost_no_longer(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    town.link(session).says(BEGUN, READY_T)
    session.client_data(p.query(b"select 1") + p.TERMINATE_MESSAGE)
    session.upstream_lost()
    assert client.closed


def test_statement_longer_than_the_limit_is_thrown_away_as_it_arrives(town: Town) -> None:
    session, client = town.client()
    text = b"select '" + b"x" * 900_000 + b"'"
    data = p.query(text) + p.query(b"select 1")
    for i in range(0, len(data), 50_000):
        session.client_data(data[i : i + 50_000])
        assert session.inbox.have < 500_000
    assert client.error()["C"] == "54000"
    assert town.link(session).take() == p.query(b"select 1")


def test_long_bind_streams(town: Town) -> None:
    session, _ = town.client()
    value = b"v" * 300_000
    tail = struct.pack("!HHi", 0, 1, len(value)) + value + b"\0\0"
    data = p.parse(b"", b"select $1") + bind(tail=tail) + EXECUTE + SYNC
    sent = bytearray()
    for i in range(0, len(data), 10_000):
        session.client_data(data[i : i + 10_000])
        sent += town.link(session).take()
        assert session.inbox.have <= 80_000
    assert bytes(sent) == data


def test_long_bind_to_a_statement_that_is_not_there_is_thrown_away(town: Town) -> None:
    session, client = town.client()
    data = bind(tail=b"v" * 300_000) + SYNC
    for i in range(0, len(data), 10_000):
        session.client_data(data[i : i + 10_000])
    assert client.kinds() == "EZ"
    assert session.link is None


def test_copy_data_out_of_place_is_dropped(town: Town) -> None:
    session, _client = town.client()
    session.client_data(p.message(p.COPY_DATA, b"x" * 10) + p.message(p.COPY_DONE) + p.query(b"select 1"))
    assert town.link(session).take() == p.query(b"select 1")

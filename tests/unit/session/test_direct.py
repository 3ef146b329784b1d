"""Whole groups in one step: nothing differs from what the general path does of them."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from tests.unit.session.scenes import busy, ours, prepare
from tests.unit.session.town import BOUND, EXECUTE, PARSED, READY_I, ROWS, SELECTED, SYNC, Town, bind, group


def test_group_takes_the_direct_path_the_second_time_and_nothing_differs(town: Town) -> None:
    session, client = town.client()
    answer = PARSED + BOUND + ROWS + SELECTED + READY_I
    for _ in range(3):
        session.client_data(group(b"select $1"))
        upstream = town.link(session)
        assert upstream.take() == group(b"select $1")
        upstream.says(answer)
        assert client.take() == answer
        assert session.link is None
        assert session.unnamed.message is not None
        assert session.unnamed.message[0] == p.parse(b"", b"select $1")
    assert town.filter.plain_parses.keys() == {p.parse(b"", b"select $1")}
    assert town.stats.statements["allow", "select"] == 3


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
def test_direct_path_and_the_handlers_agree_however_the_bytes_come(town: Town, size: int) -> None:
    session, client = town.client()
    data = group(b"select $1") * 2 + group(b"select $1", portal=b"p") + group(b"drop table t") + group(b"select $1")
    town.filter.remember_parse(p.parse(b"", b"select $1"), town.filter.judge(b"select $1", extended=True))
    sent = b""
    for i in range(0, len(data), size):
        session.client_data(data[i : i + size])
        sent += town.link(session).take() if session.link is not None else b""
    # The refused group keeps its Bind, Describe and Execute, or other stand-ins: the server skips them all.
    assert sent.startswith(group(b"select $1") * 2 + group(b"select $1", portal=b"p") + p.REFUSED_PARSE)
    assert sent.endswith(SYNC + group(b"select $1"))
    assert b"drop" not in sent
    good = PARSED + BOUND + ROWS + SELECTED + READY_I
    town.link(session).says(good * 3, p.error_response("ERROR", "42601", "stand-in"), READY_I, good)
    assert client.kinds() == "12TCZ" * 3 + "EZ" + "12TCZ"
    assert session.link is None


def test_refused_or_effective_parse_never_takes_the_direct_path(town: Town) -> None:
    session, _ = town.client()
    for text in (b"delete from t", b"set work_mem = '1MB'", b"begin read write"):
        session.client_data(group(text))
    assert not town.filter.plain_parses
    town.filter.remember_parse(p.parse(b"", b"select 1"), town.filter.judge(b"select 1", extended=True))
    town.filter.learn_version(150000)
    assert not town.filter.plain_parses


def test_group_of_a_client_that_waits_is_served_later(town: Town) -> None:
    holders = busy(town)
    town.filter.remember_parse(p.parse(b"", b"select 1"), town.filter.judge(b"select 1", extended=True))
    session, client = town.client()
    session.client_data(group(b"select 1"))
    assert session.waiting
    upstream = town.link(holders[0])
    upstream.take()
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert upstream.take() == group(b"select 1")
    upstream.says(PARSED, BOUND, ROWS, SELECTED, READY_I)
    assert client.kinds() == "12TCZ"


def test_group_of_a_prepared_statement_takes_the_direct_path_and_nothing_differs(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    client.take()
    rest = p.message(p.DESCRIBE, b"P\0") + EXECUTE + SYNC
    for parameters in (b"\0\0\0\0\0\0", b"\0\0\0\1\0\0\0\2xy\0\0"):
        session.client_data(bind(b"s1", tail=parameters) + rest)
        assert upstream.take() == bind(ours(1), tail=parameters) + rest
        upstream.says(BOUND, ROWS, SELECTED, READY_I)
        assert client.take() == BOUND + ROWS + SELECTED + READY_I and session.link is None
    session.client_data(p.message(p.CLOSE, b"Ss1\0") + SYNC + bind(b"s1") + rest)
    assert client.kinds() == "3ZEZ"

"""Transactions that no server knows of."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from tests.unit.session.town import (
    BEGUN,
    BOUND,
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


def test_empty_transaction_takes_no_upstream(town: Town) -> None:
    session, client = town.client()
    for text, tag in ((b"begin", b"BEGIN"), (b"commit", b"COMMIT"), (b"START TRANSACTION", b"START TRANSACTION")):
        session.client_data(p.query(text))
        assert session.link is None
        assert client.take() == p.message(p.COMMAND_COMPLETE, tag + b"\0") + (READY_I if text == b"commit" else READY_T)
    assert not town.pool.leased


@pytest.mark.parametrize("formats", [b"\0\0", b"\0\1\0\0", b"\0\1\0\1"])
@pytest.mark.parametrize("describe", [b"", p.message(p.DESCRIBE, b"P\0")])
def test_begin_and_commit_in_groups_of_their_own_take_no_upstream(town: Town, formats: bytes, describe: bytes) -> None:
    session, client = town.client()
    rest = bind(tail=bytes(4) + formats) + describe + EXECUTE + SYNC
    for text, status in ((b"BEGIN", READY_T), (b"COMMIT", READY_I), (b"/* a */ begin", READY_T)):
        session.client_data(p.parse(b"", text) + rest)
        answer = client.take()
        assert answer.startswith(PARSED + BOUND + (p.message(p.NO_DATA) if describe else b""))
        assert answer.endswith(status) and session.link is None
    session.client_data(bind() + EXECUTE + SYNC)  # the unnamed statement is BEGIN, once more
    assert (
        town.link(session).take()
        == p.query(b"/* a */ begin") + p.parse(b"", b"/* a */ begin") + bind() + EXECUTE + SYNC
    )


def test_begin_goes_out_with_the_first_statement(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"BEGIN /* report 7 */ ISOLATION LEVEL REPEATABLE READ"))
    client.take()
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    begin = p.query(b"BEGIN /* report 7 */ ISOLATION LEVEL REPEATABLE READ")
    assert upstream.take() == begin + p.query(b"select 1")
    upstream.says(BEGUN, READY_T, SELECTED, READY_T)
    assert client.kinds() == "CZ" and session.link is upstream


def test_refused_statement_in_a_transaction_that_no_server_knows_of_fails_it(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"begin") + p.query(b"drop table t"))
    assert client.kinds() == "CZEZ" and session.status == p.FAILED and session.link is None
    session.client_data(p.query(b"select 1"))
    assert client.error()["C"] == "25P02" and session.link is None
    session.client_data(p.query(b"rollback to a"))
    upstream = town.link(session)
    assert upstream.take() == p.query(b"begin") + p.REFUSED_EXECUTE + SYNC + p.query(b"rollback to a")
    upstream.says(BEGUN, READY_T, STAND_IN_FAILED, READY_E, p.error_response("ERROR", "3B001", "no"), READY_E)
    assert client.error()["C"] == "3B001"


def test_commit_of_a_failed_transaction_that_no_server_knows_of_is_a_rollback(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"begin") + p.query(b"drop table t"))
    client.take()
    session.client_data(p.query(b"commit"))
    assert client.take() == p.message(p.COMMAND_COMPLETE, b"ROLLBACK\0") + READY_I

"""What is refused: answered here at once, or by the server in its turn."""

from __future__ import annotations

from proxy import protocol as p
from tests.unit.session.scenes import run_unnamed
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    SELECTED,
    SET,
    STAND_IN_FAILED,
    SYNC,
    Town,
    bind,
)


def test_refused_query_is_answered_here_and_the_session_goes_on(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"delete from t"))
    assert client.kinds() == "EZ"
    assert session.link is None
    session.client_data(p.query(b"select 1"))
    town.link(session).says(SELECTED, READY_I)
    assert client.kinds() == "CZ"
    assert town.stats.refused


def test_refused_query_in_a_transaction_fails_the_transaction_upstream(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    upstream.take()
    client.take()
    session.client_data(p.query(b"drop table t"))
    assert upstream.take() == p.REFUSED_QUERY
    upstream.says(STAND_IN_FAILED, READY_E)
    error = client.error()
    assert error["C"] == "25006"
    assert session.status == p.FAILED


def test_refusal_waits_its_turn_behind_an_earlier_reply(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1") + p.query(b"drop table t") + p.query(b"select 2"))
    upstream = town.link(session)
    assert upstream.take() == p.query(b"select 1") + p.REFUSED_QUERY + p.query(b"select 2")
    assert client.take() == b""
    upstream.says(SELECTED, READY_I, STAND_IN_FAILED, READY_I, SELECTED, READY_I)
    assert client.kinds() == "CZEZCZ"
    assert session.link is None


def test_refused_parse_swallows_up_to_sync(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"delete from t") + bind() + EXECUTE + p.query(b"select 1") + SYNC)
    assert client.kinds() == "EZ"
    assert session.link is None


def test_refused_parse_behind_a_set_lets_the_server_roll_the_set_back(town: Town) -> None:
    session, client = town.client()
    group = p.parse(b"", b"set work_mem = '1MB'") + bind() + EXECUTE
    session.client_data(group + p.parse(b"", b"delete from t") + bind() + EXECUTE + SYNC)
    upstream = town.link(session)
    sent = upstream.take()
    assert sent.startswith(group + p.REFUSED_PARSE)
    assert sent.endswith(EXECUTE + SYNC)
    assert b"delete" not in sent
    upstream.says(PARSED, BOUND, SET, STAND_IN_FAILED, READY_I)
    assert client.kinds() == "12CEZ"


def test_refused_parse_destroys_the_unnamed_statement(town: Town) -> None:
    session, client = town.client()
    run_unnamed(town, session)
    session.client_data(p.parse(b"", b"delete from t") + SYNC)
    client.take()
    session.client_data(bind() + EXECUTE + SYNC)
    assert client.error()["C"] == "26000"


def test_error_before_a_refusal_hides_the_refusal(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.parse(b"x", b"delete from t") + SYNC)
    upstream = town.link(session)
    upstream.says(p.error_response("ERROR", "42P01", "no"), READY_I)
    assert client.error()["C"] == "42P01"

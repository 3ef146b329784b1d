"""Query and FunctionCall."""

from __future__ import annotations

import struct

from proxy import protocol as p
from tests.unit.session.scenes import run_unnamed
from tests.unit.session.town import BEGIN, BEGUN, READY_I, READY_T, SELECTED, SYNC, Town, bind


def test_simple_query_borrows_an_upstream_for_its_transaction(town: Town) -> None:
    session, client = town.client()
    query = p.query(b"select 1")
    session.client_data(query)
    upstream = town.link(session)
    assert upstream.take() == query
    upstream.says(SELECTED)
    assert session.link is upstream
    upstream.says(READY_I)
    assert session.link is None
    assert client.take() == SELECTED + READY_I


def test_transaction_keeps_its_upstream(town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    assert session.link is upstream
    session.client_data(p.query(b"commit"))
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert session.link is None


def test_read_write_request_is_replaced_with_a_warning(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"begin isolation level serializable read write"))
    sent = town.link(session).take().upper()
    assert b"READ ONLY" in sent
    assert b"WRITE" not in sent
    assert client.kinds() == "N"


def test_the_server_gets_each_comment_and_a_statement_for_each(town: Town) -> None:
    session, _ = town.client()
    texts = [b"/*+ SeqScan(t) */ select 1 /*traceparent='00-%d'*/" % number for number in range(3)]
    for text in texts:
        session.client_data(p.query(text))
        upstream = town.link(session)
        assert upstream.take() == p.query(text)
        upstream.says(SELECTED, READY_I)
    session.client_data(b"".join(p.parse(text[-4:-3], text) for text in texts) + SYNC)
    sent = town.link(session).take()
    assert [sent.count(text) for text in texts] == [1, 1, 1]
    assert (town.filter.counts.misses, town.filter.counts.shape_hits) == (2, 4)


def test_function_call_is_refused(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.message(p.FUNCTION_CALL, struct.pack("!Ihhh", 957, 0, 0, 0)))  # lo_creat
    assert client.kinds() == "EZ"


def test_simple_query_destroys_the_unnamed_statement(town: Town) -> None:
    session, client = town.client()
    upstream = run_unnamed(town, session)
    session.client_data(p.query(b"select 2"))
    upstream.says(SELECTED, READY_I)
    client.take()
    session.client_data(bind() + SYNC)
    assert client.error()["C"] == "26000"

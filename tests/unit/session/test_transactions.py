"""Blocks for what filter.mode observe lets through, and for the guard."""

from __future__ import annotations

import struct

import pytest

from proxy import protocol as p
from proxy.errors import CloseReason
from proxy.ours import PREFIX
from proxy.pooling.guard import GUARDED
from proxy.sql import observe
from proxy.sql.observe import MAX_LENGTH
from tests.unit.session.scenes import LONG_WRITE
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    CLOSED,
    COMMITTED,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    ROLLED_BACK,
    SELECTED,
    SYNC,
    Town,
    bind,
    group,
)


@pytest.fixture
def lenient(town: Town) -> Town:
    town.house.observe = True
    town.judge.refreshable = False
    return town


def test_observed_text_goes_upstream_and_is_counted_noted_and_pinned(lenient: Town) -> None:
    session, client = lenient.client()
    session.client_data(p.query(b"delete from t"))
    upstream = lenient.link(session)
    assert upstream.take() == p.query(observe.BEGIN) + p.query(b"delete from t") + p.query(observe.END)
    refused = p.error_response("ERROR", "25006", "cannot execute DELETE in a read-only transaction")
    upstream.says(BEGUN, READY_T, refused, READY_E, ROLLED_BACK, READY_I)
    assert client.take() == refused + READY_I
    assert session.link is upstream
    assert lenient.stats.statements == {("observe", "delete"): 1}
    assert lenient.stats.observed == {"data-modification": 1}
    assert not lenient.stats.refused
    [fields] = [fields for event, fields in lenient.audit.events if event == "observed"]
    assert fields["rule"] == "data-modification"
    assert (fields["user"], fields["peer"], fields["object"]) == ("analyst", "127.0.0.1", "t")
    session.client_lost()
    assert upstream.closed is CloseReason.DIRTY


def test_observed_parse_goes_upstream_and_never_takes_the_direct_path(lenient: Town) -> None:
    session, client = lenient.client()
    for _ in range(2):
        data = group(b"select nobody_knows()")
        session.client_data(data)
        upstream = lenient.link(session)
        parse_bind_describe = data.removesuffix(EXECUTE + SYNC)
        sent = upstream.take()
        name = sent[len(parse_bind_describe) + 5 :].partition(b"\0")[0]
        assert name.startswith(PREFIX)
        ours = b"".join(p.run(name, observe.BEGIN))
        assert sent == parse_bind_describe + ours + EXECUTE + SYNC + p.query(observe.END)
        upstream.says(PARSED, BOUND, p.message(p.NO_DATA))
        upstream.says(PARSED, BOUND, BEGUN, CLOSED, CLOSED, SELECTED, READY_T, COMMITTED, READY_I)
        assert client.take() == PARSED + BOUND + p.message(p.NO_DATA) + SELECTED + READY_I
    assert lenient.stats.observed == {"unknown-function": 2}


def test_nothing_is_sent_behind_what_is_observed_before_it_is_answered(lenient: Town) -> None:
    session, client = lenient.client()
    session.client_data(p.query(b"select 1") + p.query(b"delete from t") + p.query(b"select 2"))
    upstream = lenient.link(session)
    assert upstream.take() == p.query(b"select 1")
    upstream.says(SELECTED, READY_I)
    upstream = lenient.link(session)
    assert upstream.take() == p.query(observe.BEGIN) + p.query(b"delete from t") + p.query(observe.END)
    upstream.says(BEGUN, READY_T, p.message(p.COMMAND_COMPLETE, b"DELETE 0\0"), READY_T, COMMITTED)
    assert upstream.take() == b""
    upstream.says(READY_I)
    assert upstream.take() == p.query(b"select 2")
    assert client.kinds() == "CZCZ"


def test_what_is_observed_runs_in_the_transaction_of_its_client(lenient: Town) -> None:
    session, _ = lenient.client()
    session.client_data(BEGIN)
    upstream = lenient.link(session)
    upstream.says(BEGUN, READY_T)
    upstream.take()
    for data in (p.query(b"delete from t"), group(b"select nobody_knows()")):
        session.client_data(data)
        assert upstream.take() == data
        upstream.says(*[PARSED, BOUND, p.message(p.NO_DATA)][: 3 * (data[:1] == b"P")], SELECTED, READY_T)
    session.client_data(p.query(b"commit"))
    upstream.says(COMMITTED, READY_I)
    begin = p.parse(b"", b"begin") + bind() + EXECUTE
    session.client_data(begin + group(b"select nobody_knows()"))
    assert upstream.take().endswith(begin + group(b"select nobody_knows()"))


def test_what_is_observed_stays_refused_where_nobody_knows_if_it_is_in_a_transaction(lenient: Town) -> None:
    session, _ = lenient.client()
    session.client_data(p.parse(b"", b"rollback") + bind() + EXECUTE + group(b"select nobody_knows()"))
    assert lenient.link(session).take().endswith(p.REFUSED_EXECUTE + SYNC)


def test_query_in_the_middle_of_an_observed_group_is_in_no_transaction(lenient: Town) -> None:
    session, _ = lenient.client()
    session.client_data(group(b"select nobody_knows()").removesuffix(SYNC) + p.query(b"select 1") + SYNC)
    sent = lenient.link(session).take()
    assert sent.index(observe.END) < sent.index(b"select 1") < sent.rindex(observe.END)


def test_tag_of_a_write_is_no_surprise_after_an_observed_text(lenient: Town) -> None:
    session, client = lenient.client()
    session.client_data(p.query(b"notify x"))
    lenient.link(session).says(BEGUN, READY_T, p.message(p.COMMAND_COMPLETE, b"NOTIFY\0"), READY_T, COMMITTED, READY_I)
    assert client.kinds() == "CZ"
    assert not client.closed


@pytest.mark.parametrize(
    "text",
    [
        b"set default_transaction_read_only = off",
        b"set transaction_read_only = off",
        b"reset transaction_read_only",
        b"set role postgres",
        b"set session authorization postgres",
        b"set standard_conforming_strings = off",
        b"set client_encoding = 'SJIS'",
        b"select set_config('transaction_read_only', 'off', false)",
        # What hides behind something that is refused first, and was not judged any more.
        b"notify x; set transaction_read_only = off; delete from t",
        b"begin read write; delete from t",
        b"do $$ begin execute 'set default_transaction_read' || '_only = off'; end $$; commit; delete from t",
        b"begin; delete from t; commit; delete from t",
        b"prepare transaction 'x'",
        b"select nobody_knows(), set_config('default_transaction_read_only', 'off', false)",
        b"select nobody_knows(), U&\"set\\005fconfig\"('default_transaction_read_only', 'off', false)",
        b"do $$ begin perform set_config('default_transaction_read_only', 'off', false); end $$",
        b"alter role current_user set default_transaction_read_only = off",
        b"copy t from stdin",
        b"selec 1",
        b"select '\xff'",
    ],
)
def test_text_that_stays_refused_when_others_are_observed(lenient: Town, text: bytes) -> None:
    session, client = lenient.client()
    session.client_data(p.query(text))
    assert session.link is None
    assert client.kinds() == "EZ"
    assert not lenient.stats.observed


def test_function_call_stays_refused_when_others_are_observed(lenient: Town) -> None:
    session, client = lenient.client()
    session.client_data(p.message(p.FUNCTION_CALL, struct.pack("!IHHH", 957, 0, 0, 0)))
    assert client.kinds() == "EZ"


def test_long_refused_text_stays_refused_when_others_are_observed(lenient: Town) -> None:
    session, client = lenient.client()
    session.client_data(p.query(b"insert into t values (" + b"1," * MAX_LENGTH + b"1)"))
    lenient.judge.answer(lenient.filter)
    assert client.kinds() == "EZ"
    session.client_data(p.query(LONG_WRITE))
    lenient.judge.answer(lenient.filter)
    assert p.query(LONG_WRITE) in lenient.link(session).take()


def test_guard_is_not_sent_into_a_transaction_whose_beginning_came_in_one_chunk_with_an_end(town: Town) -> None:
    """Its COMMIT would end it: the ReadyForQuery is of the group before."""
    session, _ = town.client()
    begin = p.parse(b"", b"start transaction isolation level serializable") + bind() + EXECUTE
    session.client_data(p.query(b"select 1") + begin)
    upstream = town.link(session)
    started = p.message(p.COMMAND_COMPLETE, b"START TRANSACTION\0")
    session.upstream_data(SELECTED + READY_I + GUARDED + PARSED + BOUND + started)
    upstream.take()
    session.client_data(SYNC + p.query(b"select 2"))
    assert upstream.take() == SYNC, "waits"
    upstream.says(READY_T)
    assert upstream.take() == p.query(b"select 2")

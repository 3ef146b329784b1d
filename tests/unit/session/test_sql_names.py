"""Prepared statements of the protocol, as SQL sees them."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.pooling.snapshot import read_back
from tests.unit.session.scenes import ours, prepare
from tests.unit.session.town import DEALLOCATED, DESCRIBED, PARSED, READY_I, SELECTED, SYNC, Town, bind


@pytest.mark.parametrize(
    "text", [b'execute "%s"', b'explain execute "%s"', b'deallocate "%s"', b'prepare "%s" as select 1']
)
@pytest.mark.parametrize("extended", [False, True])
def test_sql_reaches_no_name_that_sidecart_gave(town: Town, text: bytes, extended: bool) -> None:
    session, client = town.client()
    message = p.parse(b"", text % ours(1)) + SYNC if extended else p.query(text % ours(1))
    session.client_data(message)
    assert client.error()["C"] == "26000" and session.link is None


def test_deallocate_of_a_protocol_statement_is_the_servers_to_answer(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    client.take()
    session.client_data(p.query(b'deallocate "s1"'))
    assert upstream.take() == p.parse(b"s1", b"") + SYNC + p.query(b'deallocate "s1"')
    upstream.says(PARSED, READY_I, DEALLOCATED, READY_I)
    assert client.kinds() == "CZ"
    session.client_data(bind(b"s1") + SYNC)
    assert client.error()["C"] == "26000"


def test_execute_by_sql_does_what_the_statement_does(town: Town) -> None:
    """EXECUTE of a prepared set_config() leaked its setting to the next client."""
    session, _ = town.client()
    text = b"select set_config('work_mem', '5MB', false)"
    upstream = prepare(town, session, b"s1", text)
    session.client_data(p.query(b"execute s1"))
    upstream.says(PARSED, DESCRIBED, READY_I, SELECTED, READY_I)
    upstream.take()
    assert session.link is upstream and not session.ledger.pins
    upstream.says(p.message(p.CLOSE_COMPLETE), READY_I)
    assert upstream.take() == p.query(read_back(["work_mem"]))


def test_list_of_statements_shows_those_of_the_client_alone(town: Town) -> None:
    one, _ = town.client()
    upstream = prepare(town, one, b"a", b"select 'secret'")
    two, _ = town.client()
    assert prepare(town, two, b"b", b"select 2", number=2) is upstream
    two.client_data(p.query(b"table pg_prepared_statements"))
    closes = b"".join(p.target(p.CLOSE, b"S", ours(number)) for number in (1, 2))
    own = p.parse(b"b", b"select 2") + p.target(p.DESCRIBE, b"S", b"b")
    assert upstream.take() == closes + own + SYNC + p.query(b"table pg_prepared_statements")

"""Named statements on upstreams that lack them, or hold them for another client."""

from __future__ import annotations

from proxy import protocol as p
from proxy.errors import CloseReason
from proxy.pooling.snapshot import TAKE_OFF, Settings, wear
from tests.unit.session.scenes import ours, parse_ours, prepare
from tests.unit.session.town import BEGIN, BOUND, DESCRIBED, EXECUTE, PARSED, READY_I, SELECTED, SYNC, Town, bind


def test_equal_statements_of_two_clients_are_parsed_once_for_each_and_kept_once(town: Town) -> None:
    one, _ = town.client()
    two, _ = town.client()
    upstream = prepare(town, one, b"a")
    two.client_data(p.parse(b"b", b"select 1") + SYNC)
    assert upstream.take() == parse_ours(2, b"select 1") + p.target(p.CLOSE, b"S", ours(1)) + SYNC
    upstream.says(PARSED, DESCRIBED, p.message(p.CLOSE_COMPLETE), READY_I)
    assert list(upstream.held.names.values()) == [ours(2)]
    assert not upstream.held.stale and two.link is None
    one.client_data(bind(b"a") + EXECUTE + SYNC)
    assert upstream.take() == bind(ours(2)) + EXECUTE + SYNC


def test_statement_is_parsed_again_on_an_upstream_that_lacks_it(town: Town) -> None:
    session, client = town.client()
    first = prepare(town, session, b"s1")
    other, _ = town.client()
    other.client_data(BEGIN)
    assert town.link(other) is first
    client.take()
    session.client_data(bind(b"s1") + EXECUTE + SYNC)
    second = town.opened()
    assert second.take() == parse_ours(1, b"select 1") + bind(ours(1)) + EXECUTE + SYNC
    second.says(PARSED, DESCRIBED, BOUND, SELECTED, READY_I)
    assert client.kinds() == "2CZ"


def test_table_that_was_altered_meanwhile_is_the_error_that_a_private_connection_gives(town: Town) -> None:
    session, client = town.client()
    prepare(town, session, b"s1")
    other, _ = town.client()
    other.client_data(BEGIN)
    client.take()
    session.client_data(bind(b"s1") + EXECUTE + SYNC)
    second = town.opened()
    changed = p.message(p.PARAMETER_DESCRIPTION, b"\0\0") + p.message(p.NO_DATA)
    second.says(PARSED, changed, BOUND, SELECTED, READY_I)
    error = p.error_response("ERROR", "0A000", "cached plan must not change result type")
    assert client.take() == error + READY_I
    assert second.closed is CloseReason.DIRTY


def test_settings_at_its_parse_belong_to_a_statement(town: Town) -> None:
    session, _ = town.client(DateStyle="German")
    upstream = town.opened() if session.session is None else None
    assert upstream is None
    session.client_data(p.parse(b"s1", b"select date '1.2.2020'") + SYNC)
    upstream = town.link(session)
    upstream.says(*[SELECTED, READY_I] * (len(upstream.replies.owed) - 3), PARSED, DESCRIBED, READY_I)
    session.ledger.settings = Settings.of([("datestyle", "ISO, MDY")])
    upstream.held.clear()
    upstream.take()
    session.client_data(bind(b"s1") + SYNC)
    sent = upstream.take()
    put_on, again, off = (
        sent.find(wear(Settings.of([("datestyle", "German")]))),
        sent.find(b"1.2.2020"),
        sent.find(TAKE_OFF),
    )
    assert 0 < put_on < again < off < sent.find(bind(ours(2)))


def test_statement_whose_text_is_parsed_again_under_another_name_is_still_there(town: Town) -> None:
    session, _ = town.client()
    upstream = prepare(town, session, b"s2")
    session.client_data(p.parse(b"s1", b"select 1") + bind(b"s2") + SYNC)
    closes = p.target(p.CLOSE, b"S", ours(1))
    assert upstream.take() == parse_ours(2, b"select 1") + closes + parse_ours(3, b"select 1") + bind(ours(3)) + SYNC


def test_statement_that_is_equal_to_one_under_way_has_a_name_of_its_own(town: Town) -> None:
    """An error tells the name by which it was used last."""
    session, _ = town.client()
    upstream = prepare(town, session, b"s1")
    session.client_data(p.parse(b"s2", b"select 1") + SYNC)
    upstream.says(PARSED, DESCRIBED, p.message(p.CLOSE_COMPLETE), READY_I)
    upstream.take()
    session.client_data(bind(b"s1") + bind(b"s2") + SYNC)
    assert upstream.take() == bind(ours(2)) + parse_ours(3, b"select 1") + bind(ours(3)) + SYNC


def test_least_used_statement_makes_room(town: Town) -> None:
    session, _ = town.client()
    upstream = prepare(town, session, b"s1")
    upstream.held.limit = 1
    session.client_data(p.parse(b"s2", b"select 2") + SYNC)
    assert upstream.take() == p.target(p.CLOSE, b"S", ours(1)) + parse_ours(2, b"select 2") + SYNC
    upstream.says(p.message(p.CLOSE_COMPLETE), PARSED, DESCRIBED, READY_I)
    assert list(upstream.held.names.values()) == [ours(2)]

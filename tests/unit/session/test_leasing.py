"""What pins an upstream to its client, what goes with the client to another one, who stands in line."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.errors import CloseReason
from proxy.pooling.snapshot import NO_SETTINGS, read_back
from tests.unit.session.scenes import busy, pinned, reads_back
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    DEALLOCATED,
    EXECUTE,
    PREPARED,
    READY_I,
    READY_T,
    SELECTED,
    SET,
    SYNC,
    Town,
    bind,
)

# --- pins -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"prepare s as select 1", "prepared_statement"),
        (b"declare c cursor with hold for select 1", "hold_cursor"),
        (b"select setseed(0.5)", "session_state"),
    ],
)
def test_statement_that_changes_the_session_pins_it(town: Town, text: bytes, reason: str) -> None:
    session, _ = town.client()
    session.client_data(p.query(text))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    assert session.link is upstream
    assert list(session.ledger.pins) == [reason]
    assert town.stats.pins == {reason: 1}


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"set work_mem = '1MB'", b"select set_config('work_mem', '1MB', false)"])
def test_setting_goes_with_its_client_to_another_upstream(town: Town, text: bytes) -> None:
    session, client = town.client()
    session.client_data(p.query(text))
    first = town.link(session)
    first.take()
    first.says(SET, READY_I)
    assert client.kinds().endswith("CZ")
    assert first.take() == p.query(read_back(["work_mem"]))
    reads_back(first, work_mem="1MB")
    assert client.take() == b""
    assert session.link is None and not session.ledger.pins
    other, _ = town.client()
    other.client_data(p.query(b"select 1"))
    assert town.link(other) is first
    assert first.take() == p.query(b'RESET "work_mem"') + p.query(b"select 1")
    session.client_data(p.query(b"select 2"))
    second = town.opened()
    assert town.link(session) is second
    assert second.take() == p.query(b"SELECT pg_catalog.set_config('work_mem','1MB',false)") + p.query(b"select 2")


def test_setting_that_was_rolled_back_is_not_carried(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"begin; set work_mem = '1MB'; rollback"))
    upstream = town.link(session)
    upstream.says(BEGUN, SET, p.message(p.COMMAND_COMPLETE, b"ROLLBACK\0"), READY_I)
    reads_back(upstream)
    assert session.link is None
    assert session.settings is NO_SETTINGS


def test_settings_are_read_back_after_the_transaction_and_not_in_it(town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.query(b"set work_mem = '1MB'"))
    upstream.take()
    upstream.says(SET, READY_T)
    assert upstream.take() == b""


def test_statement_that_comes_while_settings_are_read_back(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    upstream.take()
    client.take()
    session.client_data(p.query(b"set jit = off"))
    assert upstream.take() == p.query(b"set jit = off")
    reads_back(upstream, work_mem="1MB")
    assert client.take() == b""
    upstream.says(SET, READY_I)
    assert upstream.take() == p.query(read_back(["jit"]))
    reads_back(upstream, jit="off")
    assert session.link is None
    assert dict(session.settings.items) == {"work_mem": "1MB", "jit": "off"}


def test_settings_that_cannot_be_read_back_pin(town: Town) -> None:
    """A timeout of 1 ms that the client has set, or its cancel that comes late."""
    session, client = town.client()
    session.client_data(p.query(b"set statement_timeout = 1"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    client.take()
    upstream.says(p.error_response("ERROR", "57014", "canceling statement due to statement timeout"), READY_I)
    assert client.take() == b""
    assert session.link is upstream
    assert list(session.ledger.pins) == ["setting"]


def test_timeout_under_which_nobody_else_could_work_pins(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"set statement_timeout = 5"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    reads_back(upstream, statement_timeout="5ms")
    assert session.link is upstream
    assert list(session.ledger.pins) == ["setting"]


def test_client_that_goes_while_settings_are_read_back_leaves_nothing(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    session.client_lost()
    assert upstream.settings is None
    assert upstream in town.pool.cleaning


def test_prepare_that_fails_pins_nothing(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"prepare s as select nope"))
    upstream = town.link(session)
    upstream.says(p.error_response("ERROR", "42703", "no such column"), READY_I)
    reads_back(upstream)
    assert session.link is None and not session.ledger.pins


def test_pin_ends_when_the_server_holds_nothing_any_more(town: Town) -> None:
    session, client, upstream = pinned(town)
    session.client_data(p.query(b"deallocate all"))
    upstream.take()
    upstream.says(DEALLOCATED, READY_I)
    assert upstream.take() == p.query(read_back([], state=True))
    reads_back(upstream)
    assert client.kinds() == "CZ"
    assert session.link is None and not session.ledger.pins


def test_statement_that_is_prepared_while_the_server_is_asked_keeps_its_pin(town: Town) -> None:
    session, _, upstream = pinned(town)
    session.client_data(p.query(b"deallocate s"))
    upstream.says(DEALLOCATED, READY_I)
    session.client_data(p.query(b"prepare s2 as select 1"))
    reads_back(upstream)
    upstream.says(PREPARED, READY_I)
    assert session.link is upstream
    assert list(session.ledger.pins) == ["prepared_statement"]


def test_transaction_scoped_settings_do_not_pin(town: Town) -> None:
    for text in (b"set local work_mem = '1MB'", b"select set_config('work_mem', '1MB', true)", b"show work_mem"):
        session, _ = town.client()
        session.client_data(p.query(text))
        town.link(session).says(SET, READY_I)
        assert session.link is None


def test_pinned_upstream_is_cleaned_before_anyone_else_gets_it(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"prepare s as select 1"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    session.client_data(p.TERMINATE_MESSAGE)
    assert upstream.recycled is True
    assert upstream in town.pool.cleaning


@pytest.mark.parametrize("text", [b"select setseed(0.5)", b"set app.tenant = '42'"])
def test_upstream_with_state_that_nothing_clears_is_closed(town: Town, text: bytes) -> None:
    session, _ = town.client()
    session.client_data(p.query(text))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    session.client_lost()
    assert upstream.closed is CloseReason.DIRTY
    assert town.pool.size == 0


def test_replay_that_fails_ends_the_upstream_and_nothing_behind_it_reaches_the_client(town: Town) -> None:
    session, client = town.client(application_name="other")
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    upstream.says(p.error_response("ERROR", "57014", "statement timeout"), READY_I, SELECTED, READY_I)
    assert upstream.closed is CloseReason.UPSTREAM_PROTOCOL
    assert client.kinds() == "E"
    assert client.closed


# --- the line ---------------------------------------------------------------------------------------------------------


def test_client_that_waits_is_not_read_beyond_one_chunk_and_goes_on_when_served(town: Town) -> None:
    holders = busy(town)
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    assert session.waiting
    assert client.reading  # most send nothing more
    session.client_data(p.query(b"select 2"))
    assert not client.reading
    session.client_data(p.query(b"select 3"))  # was under way already
    upstream = town.link(holders[0])
    upstream.take()
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert upstream.take() == p.query(b"select 1") + p.query(b"select 2") + p.query(b"select 3")
    assert client.reading


def test_wait_in_vain_says_who_holds_the_upstreams_and_why(town: Town) -> None:
    holders = busy(town)
    holders[0].client_data(p.query(b"prepare s as select 1"))
    town.link(holders[0]).says(SET, READY_T)
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.now += 6
    town.pool.tick(town.now)
    assert client.kinds() == "N"
    town.now += 10
    town.pool.tick(town.now)
    error = client.error()
    assert error["C"] == "53300"
    assert "query_wait_timeout" in error["M"]
    assert "1 pinned: prepared_statement" in error["D"]
    assert "1 in a transaction" in error["D"]
    [failed] = [fields for event, fields in town.audit.events if event == "lease failed"]
    assert (failed["user"], failed["peer"], failed["database"]) == ("analyst", "127.0.0.1", "shop")
    assert (failed["why"], failed["holders"]) == (error["M"], error["D"])
    assert not client.closed
    assert client.reading


def test_wait_in_vain_for_a_parse_swallows_up_to_sync(town: Town) -> None:
    busy(town)
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC)
    town.now += 16
    town.pool.tick(town.now)
    assert client.kinds() == "EZ"

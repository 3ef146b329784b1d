"""Settings set again behind a RESET; a DISCARD ALL behind what is SideCart's own."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.ours import NO_NAME
from proxy.pooling.snapshot import read_back, restore
from tests.unit.session.scenes import reads_back
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    CLOSED,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    RESET,
    SELECTED,
    SET,
    SYNC,
    FakeUpstream,
    Guest,
    Town,
    bind,
)


def in_transaction(town: Town, session: Guest) -> FakeUpstream:
    """Have a client begin a transaction; return its upstream, which has been sent nothing else since."""
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(*([SELECTED, READY_I] if len(upstream.replies.owed) == 2 else []), BEGUN, READY_T)
    upstream.take()
    return upstream


def test_reset_all_returns_to_what_the_client_started_with(town: Town) -> None:
    session, client = town.client(application_name="bi")
    session.client_data(p.query(b"reset all"))
    upstream = town.link(session)
    lost = restore({"application_name": ("bi", False)})
    assert upstream.take() == p.query(b"reset all") + p.query(lost)
    client.take()
    upstream.says(RESET, READY_I)
    assert client.kinds() == "C", "what is reported while start-up settings are set again comes before ReadyForQuery"
    upstream.says(SELECTED, READY_I)
    assert client.kinds() == "Z"
    assert upstream.take() == p.query(lost + b";" + read_back(["application_name"]))
    reads_back(upstream, application_name="bi")
    assert session.link is None
    session.client_data(p.query(b"show application_name"))
    assert upstream.take() == p.query(b"show application_name")


def test_reset_in_a_transaction_takes_no_snapshot(town: Town) -> None:
    session, client = town.client(application_name="bi")
    upstream = in_transaction(town, session)
    client.take()
    session.client_data(p.query(b"reset application_name"))
    again = b"SET SESSION \"application_name\" TO 'bi'"
    assert upstream.take() == p.query(b"reset application_name") + p.query(again)
    upstream.says(RESET, READY_T, SET, READY_T)
    assert client.kinds() == "CZ"
    session.client_data(p.query(b"reset application_name; show timezone; reset all -- yes"))
    assert upstream.take() == p.query(
        b"reset application_name\n;" + again + b"; show timezone; reset all -- yes\n;" + again
    )
    upstream.says(RESET, SET, SELECTED, RESET, SET, READY_T)
    assert client.kinds() == "CCCZ"


MAY_RESET = b"select set_config('application_name', null, false) where false"


@pytest.mark.parametrize("sent", (p.parse(b"", MAY_RESET) + bind() + EXECUTE + SYNC, p.query(MAY_RESET)))
def test_setting_that_a_select_may_not_have_reset_is_looked_at_first(town: Town, sent: bytes) -> None:
    session, _ = town.client(application_name="bi")
    upstream = in_transaction(town, session)
    session.client_data(sent)
    assert restore({"application_name": ("bi", False)}) in upstream.take()


def test_reset_of_a_pinned_session_is_repaired_before_its_next_statement(town: Town) -> None:
    session, _client = town.client(application_name="bi")
    session.client_data(p.query(b"declare c cursor with hold for select 1"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    reads_back(upstream, **{".hold_cursor": ""})
    upstream.take()
    session.client_data(p.query(b"reset application_name") + p.query(b"fetch c"))
    lost = restore({"application_name": ("bi", False)})
    assert upstream.take() == p.query(b"reset application_name") + p.query(lost) + p.query(b"fetch c")
    upstream.says(RESET, READY_I, SELECTED, READY_I, SELECTED, READY_I)
    assert upstream.take() == p.query(lost + b";" + read_back(["application_name"], state=True))
    reads_back(upstream, **{"application_name": "bi", ".hold_cursor": ""})
    assert list(session.ledger.pins) == ["hold_cursor"]


def test_setting_after_a_reset_in_a_transaction_is_reported_as_it_is(town: Town) -> None:
    session, client = town.client(client_encoding="UTF8", application_name="bi")
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(*([SELECTED, READY_I] if len(upstream.replies.owed) == 2 else []), BEGUN, READY_T)
    session.client_data(p.query(b"reset all"))
    upstream.says(p.parameter_status("application_name", ""), RESET, READY_T)
    upstream.says(p.parameter_status("application_name", "bi"), SELECTED, READY_T)
    assert (
        p.parameter_status("application_name", "") not in client.take()
    )  # the client connected with that value, which is set again now
    session.client_data(p.query(b"set client_encoding to latin1"))
    upstream.says(p.parameter_status("client_encoding", "LATIN1"), SET, READY_T)
    assert p.parameter_status("client_encoding", "LATIN1") in client.take()
    assert session.codec == "latin-1"


# --- what comes too late behind what is ours --------------------------------------------------------------------------


LEARNED = PARSED + BOUND + SELECTED + CLOSED + CLOSED
PARTED = p.target(p.CLOSE, b"S", NO_NAME) + SYNC


def test_discard_all_behind_what_is_asked_here_runs_in_a_transaction_of_its_own(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"set datestyle to german") + p.parse(b"", b"select 1") + p.query(b"discard all"))
    upstream = town.link(session)
    assert upstream.take().endswith(PARTED)
    upstream.says(SET, READY_I, PARSED, LEARNED, CLOSED, READY_I)
    assert upstream.take() == p.query(b"discard all")
    upstream.says(p.message(p.COMMAND_COMPLETE, b"DISCARD ALL\0"), READY_I)
    assert client.kinds() == "CZ1CZ"


def test_discard_all_behind_an_error_is_ignored_up_to_sync(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"set datestyle to german") + p.parse(b"s", b"select 1") + p.query(b"discard all"))
    upstream = town.link(session)
    upstream.take()
    upstream.says(SET, READY_I, p.error_response("ERROR", "42703", "no such column"), READY_I)
    upstream.says(p.message(p.DATA_ROW, b"\0\2" + bytes(8)), SELECTED, READY_I)  # the settings are read back
    assert client.kinds() == "CZE"
    assert p.query(b"discard all") not in upstream.take()
    session.client_data(p.query(b"select 2") + SYNC)
    assert client.kinds() == "Z"
    session.client_data(p.query(b"select 3"))
    assert upstream.take() == p.query(b"select 3")


@pytest.mark.parametrize("blind", [False, True])
def test_group_is_not_parted_where_that_is_of_no_use_or_nobody_could_see_what_it_sets(town: Town, blind: bool) -> None:
    session, _ = town.client()
    (upstream,) = town.pool.idle
    assert isinstance(upstream, FakeUpstream)
    if blind:
        del upstream.parameters["default_transaction_read_only"]
    ran = b"" if blind else bind() + EXECUTE
    session.client_data(p.query(b"set datestyle to german") + p.parse(b"", b"select 1") + ran + p.query(b"discard all"))
    sent = upstream.take()
    assert PARTED not in sent
    assert sent.endswith(p.query(b"discard all"))


def test_client_of_an_upstream_that_is_lost_behind_a_parted_group_is_told(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.query(b"set local datestyle to german"))
    upstream.says(SET, READY_T)
    session.client_data(p.parse(b"", b"select 1") + p.query(b"discard all"))
    assert upstream.take().endswith(PARTED)
    upstream.says(PARSED)
    client.take()
    session.upstream_lost()
    assert client.kinds() == "E"
    session.client_data(SYNC)
    assert client.take() == READY_E

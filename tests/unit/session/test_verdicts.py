"""The client session against a scripted upstream: order, refusals, pins, the unnamed statement, lengths."""

from __future__ import annotations

import gc
import struct

import pytest

from proxy import protocol as p
from proxy.auth.access import Access
from proxy.clients.client import Client, Phase
from proxy.errors import QUERY_CANCELED, CloseReason
from proxy.filter import Filter
from proxy.ours import NO_NAME, PREFIX
from proxy.pooling.guard import GUARDED
from proxy.pooling.snapshot import NO_SETTINGS, TAKE_OFF, Settings, read_back, restore, wear
from proxy.session.judging import MAX_INLINE
from proxy.session.ports import End
from proxy.session.session import Session
from proxy.sql import observe
from proxy.sql.catalog import FUNCTION, TYPE, Callable, Catalog, Taint, Type
from proxy.sql.observe import MAX_LENGTH
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    CLOSED,
    COMMITTED,
    EXECUTE,
    PARAMETERS,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    ROLLED_BACK,
    SELECTED,
    SET,
    STAND_IN_FAILED,
    SYNC,
    FakeUpstream,
    FakeWire,
    Guest,
    Town,
    bind,
)


@pytest.fixture
def town() -> Town:
    return Town()


# --- login -----------------------------------------------------------------------------------------------------------


def test_first_login_waits_for_an_upstream_and_the_second_does_not(town: Town) -> None:
    session, client = town.knock()
    session.client_data(p.startup_message({"user": "analyst", "database": "shop"}))
    assert session.phase is Phase.LOGIN
    assert client.take() == b""
    town.opened()
    assert client.kinds() == "R" + "S" * len(PARAMETERS) + "KZ"
    town.client()
    assert len(town.pool.idle) == 1


@pytest.mark.parametrize("size", [1, 3, 8])
def test_startup_packet_in_pieces_and_a_query_on_its_heels(town: Town, size: int) -> None:
    session, client = town.knock()
    data = p.startup_message({"user": "analyst", "database": "shop"}) + p.query(b"select 1")
    for i in range(0, len(data), size):
        session.client_data(data[i : i + size])
    upstream = town.opened()
    assert client.kinds().endswith("KZ")
    assert upstream.take() == p.query(b"select 1")


def test_client_settings_are_validated_by_the_server_and_then_remembered(town: Town) -> None:
    session, client = town.knock()
    session.client_data(
        p.startup_message({"user": "a", "database": "shop", "TimeZone": "UTC", "application_name": "x"})
    )
    upstream = town.opened()
    sent = upstream.take()
    assert sent == p.query(
        b"SELECT pg_catalog.set_config('application_name','x',false),pg_catalog.set_config('timezone','UTC',false)"
    )
    upstream.says(p.parameter_status("TimeZone", "UTC"), SELECTED, READY_I)
    assert client.kinds() == "R" + "S" * (len(PARAMETERS) + 1) + "KZ"
    other, _greeted = town.client(TimeZone="UTC", application_name="y")
    assert upstream.take() == b""
    assert other.reported["application_name"] == "y"
    assert other.reported["TimeZone"] == "UTC"


def test_setting_that_the_server_refuses_fails_the_login_with_its_words(town: Town) -> None:
    session, client = town.knock()
    session.client_data(p.startup_message({"user": "a", "database": "shop", "TimeZone": "Mars"}))
    upstream = town.opened()
    upstream.says(p.error_response("ERROR", "22023", 'invalid value for parameter "TimeZone": "Mars"'), READY_I)
    error = client.error()
    assert (error["S"], error["C"]) == ("FATAL", "22023")
    assert client.closed


@pytest.mark.parametrize(
    "parameters",
    [
        {"default_transaction_read_only": "off"},
        {"Default_Transaction_Read_Only": "off"},
        {"options": "-c default_transaction_read_only=off"},
        {"options": "--default-transaction-read-only=off"},
        {"options": "-c statement_timeout=1s --default_transaction_read_only=off"},
        {"options": "-F"},
        {"replication": "database"},
        {"replication": "true"},
        {"session_authorization": "postgres"},
        {"role": "postgres"},
        {"client_encoding": "SJIS"},
    ],
)
def test_startup_parameter_that_no_client_may_set(town: Town, parameters: dict[str, str]) -> None:
    session, client = town.knock()
    session.client_data(p.startup_message({"user": "a", "database": "shop", **parameters}))
    assert client.error()["S"] == "FATAL"
    assert client.closed
    assert town.asked == 0


def test_unknown_database(town: Town) -> None:
    session, client = town.knock()
    session.client_data(p.startup_message({"user": "analyst"}))
    assert client.error()["C"] == "3D000"


def test_client_that_comes_the_wrong_way_is_told_the_right_one(town: Town) -> None:
    town.house.access = Access(tls="require")
    session, client = town.knock()
    session.client_data(p.startup_message({"user": "analyst", "database": "shop"}))
    error = client.error()
    assert (error["C"], error["H"]) == ("28000", "Connect with sslmode=require.")
    assert error["M"].startswith('no pg_hba.conf entry for host "127.0.0.1"') and "no encryption" in error["M"]
    assert town.asked == 0


def test_too_many_clients(town: Town) -> None:
    for _ in range(10):
        town.client()
    session, client = town.knock()
    session.client_data(p.startup_message({"user": "analyst", "database": "shop"}))
    assert client.error()["C"] == "53300"


def test_newer_protocol_and_unknown_options_are_negotiated(town: Town) -> None:
    session, client = town.knock()
    body = struct.pack("!I", (3 << 16) | 7) + b"user\0a\0database\0shop\0_pq_.new\0on\0\0"
    session.client_data(struct.pack("!I", len(body) + 4) + body)
    town.opened()
    data = client.take()
    assert data.startswith(p.negotiate_protocol_version(2, ["_pq_.new"]))
    assert p.backend_key_data(1234, b"k" * 32) in data


def test_cancel_request_is_carried_out_and_closed(town: Town) -> None:
    session, client = town.knock()
    session.client_data(p.cancel_request(7, b"abcd"))
    assert town.cancelled == [(7, b"abcd")]
    assert not client.closed, "PQcancel() waits for that: the signal could hit the next statement"
    town.then()
    assert client.closed
    assert client.take() == b""


# --- queries ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [1, 2, 5, 11])
def test_query_in_pieces(town: Town, size: int) -> None:
    session, _ = town.client()
    data = p.query(b"select 1") + p.query(b"select 2")
    for i in range(0, len(data), size):
        session.client_data(data[i : i + size])
    assert town.link(session).take() == data


def test_transaction_keeps_its_upstream(town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    assert session.link is upstream
    session.client_data(p.query(b"commit"))
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert session.link is None


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


LATIN1 = p.parameter_status("client_encoding", "LATIN1")
BEYOND_ASCII = 'select "é"'.encode()


@pytest.mark.parametrize(
    ("change", "answers"),
    [
        (p.query(b"set client_encoding = latin1"), [SET]),
        (p.query(b"set names 'latin1'"), [SET]),
        (p.query(b"select set_config('client_encoding', 'latin1', false)"), [SELECTED]),
        (p.parse(b"", b"set client_encoding = latin1") + bind() + EXECUTE + SYNC, [PARSED, BOUND, SET]),
    ],
    ids=["set", "names", "set_config", "extended"],
)
@pytest.mark.parametrize("extended", [False, True], ids=["query", "parse"])
def test_attack_text_in_the_encoding_that_the_message_ahead_of_it_sets(
    town: Town, change: bytes, answers: list[bytes], extended: bool
) -> None:
    session, client = town.client()
    behind = p.parse(b"", BEYOND_ASCII) + bind() + EXECUTE + SYNC if extended else p.query(BEYOND_ASCII)
    session.client_data(change + behind)
    upstream = town.link(session)
    assert upstream.take() == change
    upstream.says(*answers, LATIN1, READY_I)
    assert session.codec == "latin-1"
    assert BEYOND_ASCII in upstream.take()
    assert client.kinds().endswith("SZ")


SET_LATIN1 = p.parse(b"", b"set client_encoding = latin1") + bind() + EXECUTE


def ran(text: bytes) -> bytes:
    return p.parse(b"", text) + bind() + EXECUTE


def test_attack_text_in_the_encoding_that_is_set_in_its_own_group(town: Town) -> None:
    session, client = town.client()
    session.client_data(SET_LATIN1 + ran(BEYOND_ASCII + b", nextval('s')") + SYNC)
    upstream = town.link(session)
    assert BEYOND_ASCII not in upstream.take()
    upstream.says(PARSED, BOUND, SET, STAND_IN_FAILED, READY_I)
    assert client.error()["P"] == "14"  # of LATIN1 it has a letter more


def test_text_is_judged_in_the_encoding_that_is_set_in_its_own_group(town: Town) -> None:
    session, _ = town.client()
    both = ran(b"select '\xe9'") + ran(b"select 1") + ran(b"set datestyle to german") + ran(b"select '\xe4'")
    session.client_data(SET_LATIN1 + both + ran(b"set names 'utf8'") + ran(BEYOND_ASCII) + SYNC)
    sent = town.link(session).take()
    assert b"'\xe9'" in sent and b"'\xe4'" in sent and sent.index(b"'utf8'") < sent.index(BEYOND_ASCII)
    assert session.codec == "utf-8"


@pytest.mark.parametrize(
    "between",
    [
        b"reset client_encoding",
        b"reset all",
        b"set client_encoding to default",
        b"discard all",
        b"select set_config('client_encoding', 'utf8', false)",
        b"rollback",
        b"commit",
        b"begin",
        b"rollback to s",
        b"execute s",
        b"fetch c",
        b"explain analyze select 1",
    ],
)
def test_attack_text_in_an_encoding_that_is_not_known(between: bytes, town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(SET_LATIN1 + ran(between) + ran(BEYOND_ASCII) + SYNC)
    sent = upstream.take()
    assert between in sent
    assert BEYOND_ASCII not in sent


def test_attack_portal_that_was_bound_before_ends_what_is_known_of_the_encoding(town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.parse(b"", b"rollback to s") + p.message(p.BIND, b"back\0\0" + bytes(6)) + SYNC)
    upstream.says(PARSED, BOUND, READY_T)
    upstream.take()
    session.client_data(SET_LATIN1 + p.execute(b"back") + ran(BEYOND_ASCII) + SYNC)
    assert BEYOND_ASCII not in upstream.take()


def test_attack_text_behind_a_flush_in_the_encoding_that_the_server_has_not_told_yet(town: Town) -> None:
    session, _ = town.client()
    change = p.parse(b"", b"select set_config('client_encoding', 'latin1', false)") + bind() + EXECUTE
    session.client_data(change + p.message(p.FLUSH))
    upstream = town.link(session)
    upstream.says(PARSED, BOUND, SELECTED)
    upstream.take()
    session.client_data(ran(BEYOND_ASCII) + SYNC)
    assert BEYOND_ASCII not in upstream.take()


def test_attack_statement_of_unknown_settings_is_not_parsed_again_in_another_encoding(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    first = town.link(session)
    first.says(BEGUN, READY_T)
    session.client_data(p.query(b"set client_encoding to latin1"))
    first.says(LATIN1, SET, READY_T)
    session.client_data(p.parse(b"s", b"select '\xc3\xa9'") + SYNC)
    failed = p.error_response("ERROR", "57014", "canceling statement due to statement timeout")
    first.says(PARSED, DESCRIBED, failed, READY_E)  # what asks for the settings fails
    session.client_data(p.query(b"rollback"))
    first.says(p.parameter_status("client_encoding", "UTF8"), ROLLED_BACK, READY_I)
    reads_back(first)
    first.says(CLOSED, READY_I)  # what has asked for the settings
    assert session.codec == "utf-8" and session.link is None
    first.held.clear()  # as if it were another one
    first.take()
    client.take()
    session.client_data(p.message(p.BIND, b"\0s\0" + bytes(6)) + EXECUTE + SYNC)
    assert client.error()["C"] == "26000"
    assert b"\xc3\xa9" not in first.take()


def test_text_in_ascii_waits_for_no_encoding(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"set client_encoding = latin1") + p.query(b"select 1"))
    assert town.link(session).take().endswith(p.query(b"select 1"))


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


def test_error_before_a_refusal_hides_the_refusal(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.parse(b"x", b"delete from t") + SYNC)
    upstream = town.link(session)
    upstream.says(p.error_response("ERROR", "42P01", "no"), READY_I)
    assert client.error()["C"] == "42P01"


def test_sync_and_flush_alone_need_no_upstream(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.message(p.FLUSH) + SYNC)
    assert client.take() == READY_I
    assert session.link is None


def test_flush_asks_for_output_not_for_an_end(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.message(p.FLUSH))
    upstream = town.link(session)
    upstream.says(PARSED)
    assert client.take() == PARSED
    assert session.link is upstream
    session.client_data(SYNC)
    upstream.says(READY_I)
    assert session.link is None


def test_read_write_request_is_replaced_with_a_warning(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"begin isolation level serializable read write"))
    sent = town.link(session).take().upper()
    assert b"READ ONLY" in sent
    assert b"WRITE" not in sent
    assert client.kinds() == "N"


# --- the unnamed statement -------------------------------------------------------------------------------------------


def run_unnamed(town: Town, session: Guest, text: bytes = b"select 1") -> FakeUpstream:
    session.client_data(p.parse(b"", text) + SYNC)
    upstream = town.link(session)
    upstream.says(PARSED, READY_I)
    upstream.take()
    assert session.link is None
    return upstream


def test_unnamed_statement_is_still_there_on_its_own_upstream(town: Town) -> None:
    session, _ = town.client()
    first = run_unnamed(town, session)
    session.client_data(bind() + EXECUTE + SYNC)
    assert town.link(session) is first
    assert first.take() == bind() + EXECUTE + SYNC


def test_upstream_keeps_no_session_whose_client_has_gone(town: Town) -> None:
    session, _ = town.client()
    upstream = run_unnamed(town, session)
    assert upstream.unnamed_of is not None
    assert not isinstance(upstream.unnamed_of, Session)
    assert not any(
        isinstance(held, Session) for held in gc.get_referents(upstream, upstream.replies, upstream.unnamed_of)
    )


def test_unnamed_statement_is_repeated_on_another_upstream(town: Town) -> None:
    session, client = town.client()
    first = run_unnamed(town, session)
    other, _ = town.client()
    other.client_data(BEGIN)
    assert town.link(other) is first
    client.take()
    session.client_data(bind() + EXECUTE + SYNC)
    second = town.opened()
    assert second.take() == p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC
    second.says(PARSED, BOUND, SELECTED, READY_I)
    assert client.kinds() == "2CZ"


def test_unnamed_statement_is_not_the_one_that_another_upstream_was_left_with(town: Town) -> None:
    other, _ = town.client()
    second = run_unnamed(town, other)
    other.client_data(p.query(b"begin; select 1"))
    second.says(READY_T)
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1") + SYNC)
    first = town.opened()
    first.says(PARSED, READY_I)
    other.client_data(p.query(b"rollback"))
    second.says(READY_I)
    assert run_unnamed(town, session, b"select 2") is second
    other.client_data(p.query(b"begin; select 1"))
    assert town.link(other) is second
    first.take()
    session.client_data(bind() + EXECUTE + SYNC)
    assert first.take() == p.parse(b"", b"select 2") + bind() + EXECUTE + SYNC


def test_unnamed_statement_is_what_ended_a_transaction_that_no_server_knew_of(town: Town) -> None:
    session, _ = town.client()
    first = run_unnamed(town, session)
    for text in (b"begin", b"commit"):
        session.client_data(p.parse(b"", text) + bind() + EXECUTE + SYNC)
    session.client_data(bind() + EXECUTE + SYNC)
    assert first.take() == p.parse(b"", b"commit") + bind() + EXECUTE + SYNC


def test_unnamed_statement_of_another_client_is_never_run(town: Town) -> None:
    session, _ = town.client()
    run_unnamed(town, session, b"select 'secret'")
    other, client = town.client()
    other.client_data(bind() + EXECUTE + SYNC)
    assert client.error()["C"] == "26000"
    assert town.pool.idle[0].take() == b""  # type: ignore[attr-defined]


def test_unnamed_statement_is_repeated_where_another_client_parsed_in_between(town: Town) -> None:
    session, _ = town.client()
    first = run_unnamed(town, session)
    other, _ = town.client()
    assert run_unnamed(town, other, b"select 2") is first
    session.client_data(bind() + SYNC)
    assert first.take() == p.parse(b"", b"select 1") + bind() + SYNC


def test_upstream_that_served_a_client_is_not_taken_for_holding_its_unnamed_statement(town: Town) -> None:
    session, _ = town.client()
    run_unnamed(town, session)
    other, _ = town.client()
    first = run_unnamed(town, other, b"select 'of the other client'")
    session.client_data(p.execute(b"nowhere") + SYNC)  # leases the same upstream without a look at the statement
    first.says(p.error_response("ERROR", "34000", "no such portal"), READY_I)
    first.take()
    session.client_data(bind() + EXECUTE + SYNC)
    assert first.take() == p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC


def test_settings_that_are_read_back_destroy_the_unnamed_statement(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.parse(b"", b"set work_mem = '1MB'") + bind() + EXECUTE + p.parse(b"", b"select 1") + SYNC)
    upstream = town.link(session)
    upstream.says(PARSED, BOUND, SET, PARSED, READY_I)
    upstream.take()
    reads_back(upstream, work_mem="1MB")
    assert session.link is None
    session.client_data(bind() + EXECUTE + SYNC)
    assert upstream.take() == p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC


def test_simple_query_destroys_the_unnamed_statement(town: Town) -> None:
    session, client = town.client()
    upstream = run_unnamed(town, session)
    session.client_data(p.query(b"select 2"))
    upstream.says(SELECTED, READY_I)
    client.take()
    session.client_data(bind() + SYNC)
    assert client.error()["C"] == "26000"


def test_failed_parse_destroys_the_unnamed_statement(town: Town) -> None:
    session, client = town.client()
    upstream = run_unnamed(town, session)
    session.client_data(p.parse(b"", b"select nocolumn") + SYNC)
    upstream.says(p.error_response("ERROR", "42703", "no"), READY_I)
    client.take()
    session.client_data(bind() + SYNC)
    assert client.error()["C"] == "26000"


def test_refused_parse_destroys_the_unnamed_statement(town: Town) -> None:
    session, client = town.client()
    run_unnamed(town, session)
    session.client_data(p.parse(b"", b"delete from t") + SYNC)
    client.take()
    session.client_data(bind() + EXECUTE + SYNC)
    assert client.error()["C"] == "26000"


# --- the direct path -------------------------------------------------------------------------------------------------


def group(text: bytes, *, portal: bytes = b"") -> bytes:
    """Build what most drivers send for a query with parameters."""
    describe = p.message(p.DESCRIBE, b"P" + portal + b"\0")
    return p.parse(b"", text) + bind(portal=portal) + describe + p.execute(portal) + SYNC


ROWS = p.message(p.ROW_DESCRIPTION, b"\0\0")


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


# --- pins ------------------------------------------------------------------------------------------------------------


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


def reads_back(upstream: FakeUpstream, **settings: str) -> None:
    """Answer the question what the settings are."""
    rows = [p.message(p.DATA_ROW, data_row(name, value)) for name, value in settings.items()]
    end = p.message(p.DATA_ROW, data_row("", ""))
    upstream.says(*rows, SELECTED, end, SELECTED, READY_I)


def data_row(*values: str) -> bytes:
    parts = (len(value).to_bytes(4, "big") + value.encode() for value in values)
    return len(values).to_bytes(2, "big") + b"".join(parts)


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


DEALLOCATED = p.message(p.COMMAND_COMPLETE, b"DEALLOCATE\0")


PREPARED = p.message(p.COMMAND_COMPLETE, b"PREPARE\0")


def pinned(town: Town) -> tuple[Guest, FakeWire, FakeUpstream]:
    """Return a client that has prepared a statement by SQL, and its upstream, which was asked and has said so."""
    session, client = town.client()
    session.client_data(p.query(b"prepare s as select 1"))
    upstream = town.link(session)
    upstream.says(PREPARED, READY_I)
    assert upstream.take().endswith(p.query(read_back([], state=True)))
    reads_back(upstream, **{".prepared_statement": ""})
    client.take()
    assert list(session.ledger.pins) == ["prepared_statement"]
    return session, client, upstream


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


RESET = p.message(p.COMMAND_COMPLETE, b"RESET\0")


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


def in_transaction(town: Town, session: Guest) -> FakeUpstream:
    """Have a client begin a transaction; return its upstream, which has been sent nothing else since."""
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(*([SELECTED, READY_I] if len(upstream.replies.owed) == 2 else []), BEGUN, READY_T)
    upstream.take()
    return upstream


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


def test_replay_that_fails_ends_the_upstream_and_nothing_behind_it_reaches_the_client(town: Town) -> None:
    session, client = town.client(application_name="other")
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    upstream.says(p.error_response("ERROR", "57014", "statement timeout"), READY_I, SELECTED, READY_I)
    assert upstream.closed is CloseReason.UPSTREAM_PROTOCOL
    assert client.kinds() == "E"
    assert client.closed


# --- waiting ---------------------------------------------------------------------------------------------------------


def busy(town: Town, count: int = 2) -> list[Guest]:
    """Hold every upstream in a transaction."""
    sessions = []
    for _ in range(count):
        session, _ = town.client()
        session.client_data(BEGIN)
        if session.link is None:
            town.opened()
        town.link(session).says(BEGUN, READY_T)
        sessions.append(session)
    return sessions


def test_client_that_waits_is_not_read_and_goes_on_when_served(town: Town) -> None:
    holders = busy(town)
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    assert session.waiting
    assert not client.reading
    session.client_data(p.query(b"select 2"))  # was under way already
    upstream = town.link(holders[0])
    upstream.take()
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert upstream.take() == p.query(b"select 1") + p.query(b"select 2")
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


def test_cancel_of_a_waiting_client_answers_at_once(town: Town) -> None:
    busy(town)
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    assert session.cancel() == "waiting"
    error = client.error()
    assert error["C"] == "57014"
    assert not town.pool.waiting


def test_cancel_leaves_alone_what_sidecart_asks_for_itself(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(session)
    upstream.says(SET, READY_I)
    assert upstream.replies.owed, "the settings are being read back"
    assert session.cancel() == "idle" and not upstream.cancels


def test_upstream_that_ignores_all_up_to_a_sync_goes_to_nobody(town: Town) -> None:
    """An error behind which a Query was sent, in one chunk with the answer to what sets the settings."""
    first, _ = town.client()
    first.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(first)
    upstream.says(SET, READY_I)
    reads_back(upstream, work_mem="1MB")
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1/0") + p.query(b"select 1"))
    assert town.link(session) is upstream
    upstream.says(RESET, READY_I, p.error_response("ERROR", "22012", "division by zero"))
    assert session.link is upstream
    session.client_data(p.parse(b"", b"select 2"))
    session.close()
    assert upstream.recycled is not None


def test_cancel_that_is_still_on_its_way_does_not_hit_what_sidecart_asks_for_itself(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"set work_mem = '1MB'"))
    upstream = town.link(session)
    assert session.cancel() == "sent"
    upstream.cancelling = True
    upstream.says(SET, READY_I)
    assert client.take() == SET + READY_I
    assert session.link is upstream and upstream.take() == p.query(b"set work_mem = '1MB'")
    upstream.cancelling = False
    upstream.then()
    assert upstream.take() == p.query(read_back(["work_mem"]))
    reads_back(upstream, work_mem="1MB")
    assert session.link is None and not session.ledger.pins


def test_cancel_reaches_only_a_running_statement(town: Town) -> None:
    session, _ = town.client()
    assert session.cancel() == "idle"
    session.client_data(p.query(b"select pg_sleep(60)"))
    upstream = town.link(session)
    assert session.cancel() == "sent"
    assert upstream.cancels == 1


def test_client_that_hangs_up_in_line_is_noticed_though_it_is_not_read(town: Town) -> None:
    busy(town)
    waiting, client = town.client()
    waiting.client_data(p.query(b"select 1"))
    waiting.client.look_in_line()
    assert waiting.conversation in town.pool.waiting
    client.ended = End.FIN
    waiting.client.look_in_line()
    waiting.client.look_at_end(town.now + 0.9)
    assert waiting.conversation in town.pool.waiting
    waiting.client.look_at_end(town.now + 1)
    assert client.closed and not town.pool.waiting


def test_client_that_leaves_the_line_is_forgotten(town: Town) -> None:
    busy(town)
    session, _ = town.client()
    session.client_data(p.query(b"select 1"))
    session.client_lost()
    assert not town.pool.waiting


# --- judging ---------------------------------------------------------------------------------------------------------

LONG = b"select 1 where 1 in (" + b",".join([b"1"] * MAX_INLINE) + b")"
LONG_WRITE = b"insert into t values (" + b"1," * MAX_INLINE + b"1)"
UNKNOWN = b"select newborn(1)"


def newborn(*names: str) -> Catalog:
    """Return a catalogue with harmless functions of one argument."""
    return Catalog(functions={name: (Callable(number, "public", 1, 1),) for number, name in enumerate(names, 20_000)})


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


def test_text_of_the_inline_length_is_judged_at_once_and_a_longer_one_elsewhere(town: Town) -> None:
    session, _ = town.client()
    text = b"select '" + b"x" * (MAX_INLINE - 9) + b"'"
    session.client_data(p.query(text))
    assert town.link(session).take() == p.query(text)
    town.link(session).says(SELECTED, READY_I)
    longer = text[:-1] + b"\\'"  # a backslash: it has no normal form, which the first could have left
    session.client_data(p.query(longer))
    assert session.judging
    assert [asked[1:] for asked in town.judge.asked] == [(longer, "utf-8", False)]


def test_long_text_is_forwarded_when_its_verdict_is_there_and_known_the_next_time(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    assert session.judging
    assert not client.reading
    assert session.link is None
    town.judge.answer(town.filter)
    upstream = town.link(session)
    assert upstream.take() == p.query(LONG)
    assert client.reading
    assert not session.judging
    upstream.says(SELECTED, READY_I)
    session.client_data(p.query(LONG))
    assert town.link(session).take() == p.query(LONG)
    assert town.judge.asked == []


def test_refused_long_text_is_answered_here(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG_WRITE) + p.query(b"select 1"))
    town.judge.answer(town.filter)
    assert client.error()["C"] == "25006"
    assert town.link(session).take() == p.query(b"select 1")
    assert town.stats.refused == {"data-modification": 1}


@pytest.mark.parametrize("size", [1000, 100_000])
def test_order_of_a_pipeline_is_kept_while_a_text_of_it_is_judged(town: Town, size: int) -> None:
    session, client = town.client()
    data = p.query(b"select 1") + p.query(LONG) + p.query(b"select 2")
    for at in range(0, len(data), size):
        session.client_data(data[at : at + size])
    upstream = town.link(session)
    assert upstream.take() == p.query(b"select 1")
    upstream.says(SELECTED, READY_I)
    assert session.link is None, "nobody waits for the helper with an upstream in hand"
    town.judge.answer(town.filter)
    assert town.link(session).take() == p.query(LONG) + p.query(b"select 2")
    town.link(session).says(SELECTED, READY_I, SELECTED, READY_I)
    assert client.kinds() == "CZCZCZ"


def test_what_comes_while_a_text_is_judged_waits_and_asks_nothing(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(LONG))
    session.client_data(p.query(b"select 2"))  # was under way already
    session.client_data(p.query(LONG_WRITE)[:100])
    assert len(town.judge.asked) == 1
    town.judge.answer(town.filter)
    assert town.link(session).take() == p.query(LONG) + p.query(b"select 2")


def test_long_parse_waits_and_the_rest_of_its_group_behind_it(town: Town) -> None:
    session, client = town.client()
    group = p.parse(b"", LONG) + bind() + EXECUTE + SYNC
    session.client_data(group)
    assert session.judging
    assert town.judge.asked[0][3] is True
    town.judge.answer(town.filter)
    upstream = town.link(session)
    assert upstream.take() == group
    upstream.says(PARSED, BOUND, SELECTED, READY_I)
    assert client.kinds() == "12CZ"


def test_verdict_of_a_text_that_the_server_skips_is_not_used_for_the_next_one(town: Town) -> None:
    """Two long Parses in a group: an error before the first makes the server skip it while it is judged."""
    session, client = town.client()
    session.client_data(p.parse(b"", b"select oops") + p.parse(b"a", LONG) + SYNC + p.parse(b"b", LONG_WRITE) + SYNC)
    upstream = town.link(session)
    upstream.says(p.error_response("ERROR", "42703", "no oops"))
    town.judge.answer(town.filter)
    assert upstream.take() == p.parse(b"", b"select oops") + SYNC
    assert session.judging
    assert town.judge.asked[0][1] == LONG_WRITE
    upstream.says(READY_I)
    town.judge.answer(town.filter)
    assert client.kinds() == "EZEZ"
    assert upstream.take() == b""


def test_cancel_while_a_text_is_judged_answers_at_once(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG) + p.query(b"select 1"))
    assert session.cancel() == "waiting"
    assert client.error()["C"] == "57014"
    assert not session.judging
    assert town.link(session).take() == p.query(b"select 1")
    town.link(session).says(SELECTED, READY_I)
    town.judge.answer(town.filter)  # too late: nobody asks any more
    assert client.kinds() == "CZ"
    assert session.link is None


def test_cancel_of_a_parse_that_is_judged_swallows_up_to_sync(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", LONG) + bind() + EXECUTE + SYNC)
    assert session.cancel() == "waiting"
    assert client.kinds() == "EZ"
    assert session.link is None


def test_cancel_in_a_transaction_while_a_text_is_judged_fails_the_transaction(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    upstream.take()
    client.take()
    session.client_data(p.query(LONG))
    assert session.cancel() == "waiting"
    assert upstream.take() == p.REFUSED_QUERY
    upstream.says(STAND_IN_FAILED, READY_E)
    assert client.error()["C"] == "57014"


def test_cancel_reaches_the_statement_that_runs_not_the_one_that_is_judged_behind_it(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"select pg_sleep(60)") + p.query(LONG))
    assert session.cancel() == "sent"
    assert town.link(session).cancels == 1
    assert session.judging


def test_client_that_leaves_while_its_text_is_judged_is_told_nothing(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    session.client_lost()
    assert town.judge.asked[0][0].asker is None, "the helper need not begin with it"
    town.judge.answer(town.filter)
    assert client.take() == b""
    assert not town.pool.leased


def test_drain_and_time_limits_leave_a_client_alone_whose_text_is_judged(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    session.drain()
    for moment in (1.0, 50.0, 99.0):
        session.sweep(moment, idle=10.0, idle_transaction=5.0, query=0.0, login=2.0)
    assert not client.closed
    town.judge.answer(town.filter)
    town.link(session).says(SELECTED, READY_I)
    session.drain()
    assert client.error()["C"] == "57P01"


@pytest.mark.parametrize("half", [b"", p.message(p.BIND, b"\0" * 9)[:3], p.message(p.BIND, bytes(200_000))[:100_000]])
def test_attack_client_that_stops_in_the_middle_of_a_group(town: Town, half: bytes) -> None:
    """The server answers nothing before a Sync or Flush: a reply is owed for ever, and the upstream taken."""
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1"))
    session.client_data(half)
    for moment in (1.0, 6.1):
        session.sweep(moment, idle=0.0, idle_transaction=5.0, query=0.0, login=0.0)
    assert client.error()["C"] == "25P03"


def test_statement_that_runs_behind_a_flush_is_left_alone(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.message(p.BIND, bytes(8)) + p.execute(b"") + p.message(p.FLUSH))
    for moment in (1.0, 50.0, 99.0):
        session.sweep(moment, idle=1.0, idle_transaction=5.0, query=0.0, login=0.0)
    assert not client.closed


def test_query_timeout_counts_the_time_of_judging(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    for moment in (1.0, 3.9):
        session.sweep(moment, idle=0.0, idle_transaction=0.0, query=3.0, login=2.0)
    assert session.judging
    session.sweep(4.0, idle=0.0, idle_transaction=0.0, query=3.0, login=2.0)
    error = client.error()
    assert (error["C"], error["M"]) == ("57014", "canceling statement due to client.query_timeout")


def test_query_timeout_is_not_said_to_be_the_users_wish(town: Town) -> None:
    cancelled = p.error_response("ERROR", QUERY_CANCELED, "canceling statement due to user request", detail="as sent")
    session, client = town.client()
    for data in (p.query(b"select 1"), group(b"select 2")):
        session.client_data(data)
        upstream = town.link(session)
        for moment in (1.0, 4.0):
            session.sweep(moment, idle=0.0, idle_transaction=0.0, query=3.0, login=2.0)
        assert upstream.cancels == 1
        upstream.cancels = 0
        upstream.says(cancelled, READY_I)
        error = client.error()
        assert (error["C"], error["M"], error["D"]) == (
            "57014",
            "canceling statement due to client.query_timeout",
            "as sent",
        )
    session.client_data(p.query(b"select 3"))
    session.cancel()
    upstream = town.link(session)
    upstream.says(cancelled, READY_I)
    assert client.take() == cancelled + READY_I


def test_query_timeout_that_came_too_late_is_not_blamed_for_a_later_cancel(town: Town) -> None:
    cancelled = p.error_response("ERROR", QUERY_CANCELED, "canceling statement due to user request")
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    for moment in (1.0, 4.0):
        session.sweep(moment, idle=0.0, idle_transaction=0.0, query=3.0, login=2.0)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.query(b"select 1"))
    upstream.says(cancelled, READY_E)
    assert client.take() == BEGUN + READY_T + cancelled + READY_E


def counted(town: Town) -> tuple[int, int]:
    """Return how often the cache had a verdict, and how often it had none."""
    return town.filter.counts.hits + town.filter.counts.shape_hits, town.filter.counts.misses


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (p.query(b"select now()"), 1),
        (p.query(b"select now()") * 2, 2),
        (p.parse(b"s", b"select now()") + bind(b"s") + EXECUTE + SYNC, 1),
        (p.parse(b"", b"select now()") + bind() + EXECUTE + SYNC, 1),
    ],
    ids=["simple", "two", "named", "unnamed"],
)
def test_text_that_waits_counts_once_in_the_cache(town: Town, data: bytes, texts: int) -> None:
    holders = busy(town)
    session, _ = town.client()
    hits, misses = counted(town)
    session.client_data(data)
    assert session.waiting
    holders[0].client_data(p.query(b"rollback"))
    town.link(holders[0]).says(ROLLED_BACK, READY_I)
    assert session.link is not None
    assert sum(counted(town)) == hits + misses + texts + 1  # ROLLBACK, too
    session.client_data(p.query(b"select 'another'"))
    assert sum(counted(town)) == hits + misses + texts + 2


def test_text_of_the_helper_that_waits_counts_once_in_the_cache(town: Town) -> None:
    holders = busy(town)
    session, _ = town.client()
    hits, misses = counted(town)
    session.client_data(p.query(LONG))
    answering = town.filter.counts.misses
    town.judge.answer(town.filter)
    answering = town.filter.counts.misses - answering  # what the helper counts, in its own process
    assert session.waiting
    holders[0].client_data(p.query(b"rollback"))
    town.link(holders[0]).says(ROLLED_BACK, READY_I)
    assert session.link is not None
    assert counted(town) == (hits, misses + 1 + answering + 1)  # ROLLBACK, too


def test_statement_without_parameters_counts_once_in_the_cache(town: Town) -> None:
    session, _ = town.client()
    for sql in (b"select now()", b"begin", b"commit", b"end_of_file"):
        hits, misses = counted(town)
        session.client_data(p.parse(b"", sql) + bind(b"", tail=bytes(6)) + EXECUTE + SYNC)
        assert sum(counted(town)) == hits + misses + 1, sql
        if session.link is not None:
            town.link(session).says(PARSED, BOUND, SELECTED, READY_I)


def test_judged_text_that_has_to_wait_for_an_upstream_is_judged_once(town: Town) -> None:
    holders = busy(town)
    session, _ = town.client()
    session.client_data(p.query(LONG))
    town.judge.answer(town.filter)
    assert session.waiting
    assert not session.judging
    upstream = town.link(holders[0])
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert upstream.take() == p.query(LONG)
    assert town.judge.asked == []


def test_judged_text_that_waits_for_an_upstream_is_judged_again_by_a_newer_catalogue(town: Town) -> None:
    holders = busy(town)
    session, client = town.client()
    text = LONG + b" or newborn(1)"
    town.filter.learn_catalog(newborn("newborn"))
    session.client_data(p.query(text))
    town.judge.answer(town.filter)
    assert session.waiting
    town.filter.learn_catalog(newborn("another"))
    town.judge.refreshable = False
    upstream = town.link(holders[0])
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert session.judging
    assert upstream in town.pool.idle
    town.judge.answer(town.filter)
    assert upstream.take() == b""
    assert client.kinds() == "EZ"


def test_upstream_goes_back_when_what_waited_for_it_is_refused_by_a_newer_catalogue(town: Town) -> None:
    holders = busy(town)
    town.judge.refreshable = False
    town.filter.learn_catalog(newborn("newborn"))
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    assert session.waiting
    town.filter.learn_catalog(newborn("another"))
    upstream = town.link(holders[0])
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert client.kinds() == "EZ"
    assert session.link is None
    assert upstream in town.pool.idle


def test_text_over_the_limit_never_goes_to_the_helper(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select '" + b"x" * 100_000 + b"'"))
    assert client.error()["C"] == "54000"
    assert town.judge.asked == []


def test_exception_while_a_verdict_is_taken_ends_that_session_and_is_counted(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(LONG))
    town.pool.lease = None  # type: ignore[method-assign, assignment]
    town.judge.answer(town.filter)
    assert client.error()["C"] == "XX000"
    assert client.closed
    assert town.stats.bugs == 1
    assert town.audit.events[-2][0] == "bug"


# --- a newer catalogue -----------------------------------------------------------------------------------------------


def test_unknown_name_waits_for_a_newer_catalogue_and_runs_if_it_is_there(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(UNKNOWN) + p.query(b"select 2"))
    assert session.judging
    assert client.take() == b""
    town.filter.learn_catalog(newborn("newborn"))
    town.judge.refreshed()
    assert town.link(session).take() == p.query(UNKNOWN) + p.query(b"select 2")
    assert not town.stats.refused


def test_parse_with_an_unknown_name_waits_and_the_rest_of_its_group_behind_it(town: Town) -> None:
    session, client = town.client()
    session.client_data(group(UNKNOWN))
    assert session.judging
    town.filter.learn_catalog(newborn("newborn"))
    town.judge.refreshed()
    assert town.link(session).take() == group(UNKNOWN)
    session.client_data(group(b"select stillborn(1)"))
    town.judge.refreshed()
    assert client.kinds() == ""
    town.link(session).says(PARSED, BOUND, p.message(p.NO_DATA), SELECTED, READY_I)
    assert client.kinds() == "12nCZ"


def test_unknown_name_is_refused_when_the_newer_catalogue_does_not_have_it(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    town.judge.refreshed()
    assert client.error()["C"] in ("42501", "42883")
    assert not session.judging
    assert town.judge.refreshes == []
    assert town.stats.refused == {"unknown-function": 1}


def test_unknown_name_is_refused_at_once_when_no_newer_catalogue_can_be_had(town: Town) -> None:
    town.judge.refreshable = False
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    assert client.kinds() == "EZ"


def test_attack_parameter_type_that_names_a_domain_by_its_oid(town: Town) -> None:
    """Bind would run the domain's CHECK; the text shows nothing of it."""
    taint = Taint("domain public.evildom", "it calls function public.chk(text)", "public.evildom")
    town.filter.learn_catalog(Catalog(taints={(TYPE, 16400): taint}, tainted_types=True))
    session, client = town.client()
    session.client_data(p.parse(b"", b"select $1", bytes.fromhex("0002 00000019 00004010")) + p.SYNC_MESSAGE)
    assert client.error()["D"].endswith("(rule: unproved-type).")
    session.client_data(p.parse(b"", b"select $1", bytes.fromhex("0001 00000019")) + p.SYNC_MESSAGE)
    assert town.link(session).take().startswith(b"P")


def test_attack_parameter_type_that_nobody_knows(town: Town) -> None:
    """A domain that was created a moment ago, or the row type of another session's temporary table."""
    town.filter.learn_catalog(Catalog(types={"fresh": (Type(16500, "public"),)}))
    session, client = town.client()
    unknown = p.parse(b"", b"select $1", bytes.fromhex("0002 00000019 00004010"))
    session.client_data(unknown + p.SYNC_MESSAGE)
    assert session.judging
    town.judge.refreshed()
    error = client.error()
    assert (error["C"], error["M"]) == ("42704", "type with OID 16400 does not exist")
    session.client_data(p.parse(b"", b"select $1", bytes.fromhex("0001 00004074")) + p.SYNC_MESSAGE)
    assert town.link(session).take().startswith(b"P")


def test_attack_parameter_of_type_void(town: Town) -> None:
    """ts_rewrite(query, text, void) is the function with two arguments, which runs the text."""
    session, client = town.client()
    text = b"select ts_rewrite('a'::tsquery, 'select 1', $1)"
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 000008e6")) + p.SYNC_MESSAGE)
    assert client.error()["D"].endswith("(rule: void-parameter).")
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 00000e1f")) + p.SYNC_MESSAGE)
    assert town.link(session).take().startswith(b"P")


def test_long_text_with_a_parameter_of_type_void_is_judged_as_such(town: Town) -> None:
    session, client = town.client()
    text = LONG + b" or ts_rewrite('a'::tsquery, 'select 1', $1) is null"
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 00000e1f")) + p.SYNC_MESSAGE)
    town.judge.answer(town.filter)
    town.link(session).take()
    town.link(session).says(PARSED, READY_I)
    client.take()
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 000008e6")) + p.SYNC_MESSAGE)
    town.judge.answer(town.filter)
    assert client.error()["D"].endswith("(rule: void-parameter).")


MISSING = b"select * from nowhere"


@pytest.mark.parametrize(
    "sql",
    [
        MISSING,
        b"explain analyze select * from nowhere",
        b"copy (select * from nowhere) to stdout",
        b"copy nowhere to stdout",
        b"declare c cursor for select * from nowhere",
        b"prepare p as select * from nowhere",
        b"select set_config('search_path', 'elsewhere', false) from nowhere",
    ],
)
def test_attack_relation_that_the_server_knows_and_the_catalogue_does_not(town: Town, sql: bytes) -> None:
    """It may be a TOAST table, another session's temporary table, or a moment old: nothing of the text is forwarded."""
    town.filter.learn_catalog(newborn("other"))
    for send in (p.query, group):
        session, client = town.client()
        session.client_data(send(sql))
        assert session.judging
        town.judge.refreshed()
        error = client.error()
        assert (error["C"], error["M"]) == ("42P01", 'relation "nowhere" does not exist')
        assert not error.keys() & {"D", "H"}, "the server says no more"
        assert session.link is None


def test_attack_write_beside_a_missing_relation_is_refused_for_what_it_is(town: Town) -> None:
    town.filter.learn_catalog(newborn("other"))
    session, client = town.client()
    session.client_data(p.query(b"select 1 from nowhere right join (values (1)) v(x) on false where lo_create(0) > 0"))
    assert not session.judging
    assert client.error()["D"].endswith("(rule: side-effect-function).")


def test_relation_that_is_missing_makes_nobody_wait_when_no_newer_catalogue_can_be_had(town: Town) -> None:
    town.filter.learn_catalog(newborn("other"))
    town.judge.refreshable = False
    session, client = town.client()
    session.client_data(p.query(MISSING))
    error = client.error()
    assert error["P"] == "15"
    assert error["D"].endswith("(rule: unknown-relation).")
    assert error["H"] == "If it was created a moment ago, try again."


# --- a function is replaced while statements that call it are prepared ------------------------------------------------


def turned(judge: Filter) -> None:
    """Let `f`, which was a read, be a write from now on."""
    taint = Taint("function public.f(integer)", "its body executes INSERT", "public.f")
    functions = {"f": (Callable(20_000, "public", 1, 1),)}
    judge.learn_catalog(Catalog(functions=functions, taints={(FUNCTION, 20_000): taint}))


def prepares(town: Town, session: Guest, text: bytes, answer: bytes = PREPARED) -> None:
    """Let a client prepare a statement by SQL; the server says that it holds one."""
    session.client_data(p.query(text))
    if town.judge.asked:
        town.judge.answer(town.filter)
    upstream = town.link(session)
    upstream.says(answer, READY_I)
    reads_back(upstream, **{".prepared_statement": ""})
    upstream.take()


def with_prepared(town: Town, text: bytes = b"prepare q as select f(1)") -> tuple[Guest, FakeWire]:
    town.filter.learn_catalog(newborn("f"))
    session, client = town.client()
    prepares(town, session, text)
    client.take()
    return session, client


@pytest.mark.parametrize(
    "execute",
    [
        p.query(b"execute q"),
        p.query(b"select 1; execute q"),
        p.query(b"explain analyze execute q"),
        group(b"execute q"),
        bind(b"q") + p.execute(b"") + SYNC,
        p.target(p.DESCRIBE, b"S", b"q") + SYNC,
    ],
)
def test_attack_statement_prepared_by_sql_calls_a_function_that_was_replaced(town: Town, execute: bytes) -> None:
    session, client = with_prepared(town)
    session.client_data(execute)
    assert b"q\0" in town.link(session).take()
    town = Town()
    session, client = with_prepared(town)
    turned(town.filter)
    session.client_data(execute)
    sent = town.link(session).take()
    assert not sent or p.REFUSED_EXECUTE in sent
    if sent:
        no_data = p.message(p.NO_DATA)
        described = [p.message(p.PARAMETER_DESCRIPTION, b"\0\0"), no_data]
        messages = [PARSED, *described, BOUND] if sent[:1] == b"P" else []
        town.link(session).says(*messages, p.error_response("ERROR", "34000", "no"), READY_I)
    assert client.error()["D"].endswith("(rule: unproved-function).")


def test_attack_name_is_prepared_twice_and_may_stand_for_either(town: Town) -> None:
    """Whether the DEALLOCATE or the second PREPARE succeeds, nobody knows when it is sent."""
    session, client = with_prepared(town)
    prepares(town, session, b"prepare q as select 1", p.error_response("ERROR", "42P05", "exists"))
    client.take()
    turned(town.filter)
    session.client_data(p.query(b"execute q"))
    assert client.error()["D"].endswith("(rule: unproved-function).")


def test_attack_statement_of_the_protocol_is_executed_by_sql_after_its_function_was_replaced(town: Town) -> None:
    town.filter.learn_catalog(newborn("f"))
    session, client = town.client()
    prepare(town, session, b"s", b"select f(1)")
    client.take()
    turned(town.filter)
    for text in (b"execute s", b"explain analyze execute s"):
        session.client_data(p.query(text))
        assert client.error()["D"].endswith("(rule: unproved-function).")


def test_statement_prepared_by_sql_that_is_still_a_read_is_executed(town: Town) -> None:
    session, _ = with_prepared(town)
    town.filter.learn_catalog(newborn("other", "f"))
    for _ in range(2):
        session.client_data(p.query(b"execute q"))
        assert town.link(session).take() == p.query(b"execute q")
        town.link(session).says(SELECTED, READY_I)


def test_long_statements_prepared_by_sql_are_judged_again_elsewhere(town: Town) -> None:
    more = LONG.removeprefix(b"select 1")
    session, client = with_prepared(town, b"prepare q as select 1")
    for name in (b"long1", b"long2"):
        prepares(town, session, b"prepare " + name + b" as select f(1)" + more)
    client.take()
    town.filter.learn_catalog(newborn("other", "f"))
    session.client_data(p.query(b"execute long1; execute long2"))
    while town.judge.asked:
        town.judge.answer(town.filter)
    assert town.link(session).take() == p.query(b"execute long1; execute long2")
    town.link(session).says(SELECTED, SELECTED, READY_I)
    client.take()
    turned(town.filter)
    session.client_data(p.query(b"execute long1; execute long2"))
    town.judge.answer(town.filter)
    assert client.error()["D"].endswith("(rule: unproved-function).")


def test_too_many_statements_prepared_by_sql_are_not_kept(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.session.judging.MAX_KEPT", 1000)
    session, client = with_prepared(town)
    for number in range(5):
        prepares(town, session, b"prepare q%d as select 1" % number)
    client.take()
    session.client_data(p.query(b"execute q"))
    assert client.error()["C"] == "54000"


def test_write_is_refused_without_looking_at_a_newer_catalogue(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"delete from t"))
    assert client.kinds() == "EZ"
    assert town.judge.refreshes == []


def test_long_text_with_an_unknown_name_is_judged_again_by_the_newer_catalogue_and_waits_once(town: Town) -> None:
    session, client = town.client()
    text = LONG + b" or newborn(1)"
    session.client_data(p.query(text))
    town.judge.answer(town.filter)
    assert len(town.judge.refreshes) == 1
    town.filter.learn_catalog(newborn("another"))
    town.judge.refreshed()
    town.judge.answer(town.filter)
    assert client.kinds() == "EZ"
    assert (town.judge.asked, town.judge.refreshes) == ([], [])


def test_cancel_of_a_wait_for_the_catalogue(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    assert session.cancel() == "waiting"
    assert client.error()["C"] == "57014"
    town.judge.refreshed()
    assert client.take() == b""


# --- filter.mode: observe --------------------------------------------------------------------------------------------


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


def test_attack_value_of_a_bind_that_is_named_in_the_log(town: Town) -> None:
    session, client = town.client()
    value = struct.pack("!i", 6) + b"secret"
    tail = struct.pack("!HH", 0, 2) + value * 2 + b"\0\0"
    session.client_data(p.parse(b"", b"select set_config($1, $2, false)") + bind(tail=tail) + EXECUTE + SYNC)
    if session.link is not None:
        town.link(session).says(PARSED, STAND_IN_FAILED, READY_I)
    assert "secret" in client.error()["M"]
    assert [event for event, _ in town.audit.events if event == "refused"] == ["refused"]
    assert "secret" not in str(town.audit.events)


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


# --- attacks and accidents -------------------------------------------------------------------------------------------


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


def test_client_that_sends_no_more_is_gone_when_nothing_has_come_for_it(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1") * 2)
    assert session.client.client_finished()
    session.client.look_at_end(town.now + 0.9)
    town.link(session).says(SELECTED, READY_I)
    session.client.look_at_end(town.now + 1.1)
    session.client.look_at_end(town.now + 2)
    assert not client.closed
    session.client.look_at_end(town.now + 2.2)
    assert client.closed


def test_client_that_is_reset_is_gone_at_once(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    assert session.client.client_finished()
    client.ended = End.RESET
    session.client.look_at_end(town.now)
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


def test_function_call_is_refused(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.message(p.FUNCTION_CALL, struct.pack("!Ihhh", 957, 0, 0, 0)))  # lo_creat
    assert client.kinds() == "EZ"


@pytest.mark.parametrize(("name", "value"), [("default_transaction_read_only", "off"), ("client_encoding", "SJIS")])
def test_tripwire_closes_both_sides(town: Town, name: str, value: str) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    upstream.says(p.parameter_status(name, value), SELECTED, READY_I)
    assert upstream.closed is CloseReason.TRIPWIRE
    assert client.closed
    assert town.stats.bugs == 1
    assert b"SELECT" not in client.take()


def test_statement_whose_upstream_dies_runs_on_another_one(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    first = town.link(session)
    session.upstream_lost()
    assert not client.sent and not client.closed
    second = town.opened()
    assert second is not first and second.take() == p.query(b"select 1")
    second.says(SELECTED, READY_I)
    assert client.kinds() == "CZ"
    assert town.stats.retries == 1


def test_parse_complete_and_fatal_in_one_chunk_leave_the_name_free(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"s1", b"select 1") + SYNC)
    town.link(session).says(PARSED, DESCRIBED, fatal("57P01"))
    again = town.opened()
    assert again.take() == parse_ours(1, b"select 1") + SYNC
    again.says(PARSED, DESCRIBED, READY_I)
    assert client.take() == PARSED + READY_I


def test_statement_runs_again_once_at_most(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    session.upstream_lost()
    town.opened()
    session.upstream_lost()
    assert client.error()["C"] == "08006"
    assert not client.closed and session.status == p.IDLE


def fatal(sqlstate: str) -> bytes:
    return p.error_response("FATAL", sqlstate, "terminating connection due to administrator command")


def test_row_description_and_fatal_in_one_chunk_are_no_begun_answer(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(20)"))
    town.link(session).says(p.message(p.ROW_DESCRIPTION, b"\0\0"), fatal("57P01"))
    assert not client.sent
    assert town.opened().take() == p.query(b"select pg_sleep(20)")


@pytest.mark.parametrize("sqlstate", ["57P02"])
def test_crash_is_reported_and_nothing_runs_again(town: Town, sqlstate: str) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.link(session).says(fatal(sqlstate))
    assert client.error() == {
        "S": "ERROR",
        "V": "ERROR",
        "C": sqlstate,
        "M": "terminating connection due to administrator command",
    }
    assert town.stats.retries == 0 and not client.closed


def test_statement_that_an_administrator_ends_late_does_not_run_again(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(20)"))
    town.now += 6
    town.link(session).says(fatal("57P01"))
    assert client.error()["C"] == "57P01"


def test_cancelled_statement_does_not_run_again(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(20)"))
    assert session.cancel() == "sent"
    session.upstream_lost()
    assert client.kinds() == "EZ"


def test_transaction_whose_upstream_dies_has_failed_and_its_client_goes_on(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"begin"))
    session.client_data(p.query(b"select 1"))
    town.link(session).says(BEGUN, READY_T, SELECTED, READY_T)
    assert client.kinds() == "CZCZ"
    session.client_data(p.query(b"select 2"))
    town.link(session).says(fatal("57P01"))
    assert client.take().endswith(READY_E)
    session.client_data(p.query(b"rollback"))
    assert client.take() == p.message(p.COMMAND_COMPLETE, b"ROLLBACK\0") + READY_I
    assert not client.closed and session.link is None


def test_idle_transaction_whose_upstream_dies_is_told_with_the_next_statement(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    town.link(session).says(BEGUN, READY_T)
    client.take()
    session.upstream_lost()
    assert not client.sent
    session.client_data(p.query(b"select 1"))
    assert client.take()[-6:] == READY_E and session.link is None
    session.client_data(p.query(b"commit"))
    assert client.take() == p.message(p.COMMAND_COMPLETE, b"ROLLBACK\0") + READY_I


def test_commit_after_an_idle_loss_fails_and_ends_the_transaction(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    town.link(session).says(BEGUN, READY_T)
    client.take()
    session.upstream_lost()
    session.client_data(p.query(b"commit"))
    assert client.take().endswith(READY_I) and session.status == p.IDLE


def test_each_group_of_a_lost_pipeline_is_answered(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1") + group(b"select 2") + bind() + SYNC)
    upstream = town.link(session)
    upstream.says(SELECTED)
    client.take()
    session.upstream_lost()
    assert client.kinds() == "EZEZEZ"


def test_open_group_of_a_lost_upstream_is_swallowed_up_to_its_sync(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.parse(b"", b"select 1") + p.message(p.FLUSH))
    town.link(session).says(PARSED)
    client.take()
    session.upstream_lost()
    session.client_data(bind() + EXECUTE + SYNC)
    assert client.kinds() == "EZ" and session.link is None


def test_pinned_client_is_closed_with_its_upstream(town: Town) -> None:
    _, client, upstream = pinned(town)
    upstream.says(fatal("57P01"))
    assert client.error()["S"] == "FATAL" and client.closed


def test_commit_that_is_lost_has_ended_the_transaction(town: Town) -> None:
    session, client = town.client()
    for text in (b"begin", b"select 1"):
        session.client_data(p.query(text))
    town.link(session).says(BEGUN, READY_T, SELECTED, READY_T)
    client.take()
    session.client_data(p.query(b"commit"))
    session.upstream_lost()
    assert client.take().endswith(READY_I) and session.status == p.IDLE


def test_half_of_a_message_that_was_held_back_does_not_end_the_client(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.link(session).says(SELECTED, READY_I[:3])
    session.upstream_lost()
    assert client.kinds() == "CEZ" and not client.closed


# --- transactions that no server knows of ----------------------------------------------------------------------------


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


# --- named statements ------------------------------------------------------------------------------------------------

DESCRIBED = p.message(p.PARAMETER_DESCRIPTION, b"\0\0") + p.message(
    p.ROW_DESCRIPTION, b"\0\1x\0" + bytes(6) + b"\0\0\0\x17\0\4\xff\xff\xff\xff\0\0"
)


def ours(number: int) -> bytes:
    return PREFIX + b"test:%d" % number


def parse_ours(number: int, text: bytes) -> bytes:
    return p.parse(ours(number), text) + p.target(p.DESCRIBE, b"S", ours(number))


def prepare(town: Town, session: Guest, name: bytes, text: bytes = b"select 1", number: int = 1) -> FakeUpstream:
    session.client_data(p.parse(name, text) + SYNC)
    upstream = town.link(session)
    assert upstream.take() == parse_ours(number, text) + SYNC
    upstream.says(PARSED, DESCRIBED, READY_I)
    assert session.link is None
    return upstream


def test_named_statement_does_not_pin_and_its_names_are_ours(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    assert client.take() == PARSED + READY_I, "what Describe says is not the client's"
    session.client_data(bind(b"s1") + p.message(p.DESCRIBE, b"Ss1\0") + EXECUTE + SYNC)
    describe = p.target(p.DESCRIBE, b"S", ours(1))
    assert upstream.take() == bind(ours(1)) + describe + EXECUTE + SYNC


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


def test_taken_name_is_an_error_behind_all_others(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    client.take()
    session.client_data(p.parse(b"s1", b"select 2") + SYNC)
    assert upstream.take().endswith(p.REFUSED_EXECUTE + SYNC)
    upstream.says(PARSED, p.message(p.CLOSE_COMPLETE), STAND_IN_FAILED, READY_I)
    error = client.error()
    assert (error["C"], error["M"]) == ("42P05", 'prepared statement "s1" already exists')


def test_name_that_sidecart_gave_reaches_nothing(town: Town) -> None:
    one, _ = town.client()
    prepare(town, one, b"s1", b"select 'secret'")
    two, client = town.client()
    for message in (bind(ours(1)), p.message(p.DESCRIBE, b"S" + ours(1) + b"\0")):
        two.client_data(message + SYNC)
        assert client.error()["C"] == "26000"
    assert two.link is None


@pytest.mark.parametrize(
    "text", [b'execute "%s"', b'explain execute "%s"', b'deallocate "%s"', b'prepare "%s" as select 1']
)
@pytest.mark.parametrize("extended", [False, True])
def test_sql_reaches_no_name_that_sidecart_gave(town: Town, text: bytes, extended: bool) -> None:
    session, client = town.client()
    message = p.parse(b"", text % ours(1)) + SYNC if extended else p.query(text % ours(1))
    session.client_data(message)
    assert client.error()["C"] == "26000" and session.link is None


def test_closed_statement_is_gone_for_its_client_and_kept_for_others(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    session.client_data(p.message(p.CLOSE, b"Ss1\0") + SYNC)
    client.take()
    session.client_data(bind(b"s1") + SYNC)
    assert client.error()["C"] == "26000"
    assert upstream.held.names


def test_use_of_a_name_whose_parse_is_not_answered_waits_for_the_answer(town: Town) -> None:
    """It may fail, and then the later group must fail as it would on a private connection."""
    session, client = town.client()
    session.client_data(p.parse(b"s1", b"select nope") + SYNC + bind(b"s1") + EXECUTE + SYNC)
    upstream = town.link(session)
    assert upstream.take() == parse_ours(1, b"select nope") + SYNC
    upstream.says(p.error_response("ERROR", "42703", "no such column"), READY_I)
    assert client.kinds() == "EZ"
    assert upstream.take() == bind(b"s1") + EXECUTE + SYNC, "the server's own error, for the client has no such name"


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


def test_duplicate_parse_behind_another_message_of_its_group_waits_for_earlier_groups_only(town: Town) -> None:
    """What this group has sent is not answered before its Sync: waiting for that would be for ever."""
    session, client = town.client()
    parse = p.parse(b"s2", b"select 1")
    session.client_data(parse + SYNC + p.message(p.CLOSE, b"Ppt\0") + parse + SYNC)
    upstream = town.link(session)
    assert upstream.take() == parse_ours(1, b"select 1") + SYNC + p.message(p.CLOSE, b"Ppt\0")
    upstream.says(PARSED, DESCRIBED, READY_I)
    assert upstream.take().endswith(p.REFUSED_EXECUTE + SYNC)
    closed = p.message(p.CLOSE_COMPLETE)
    upstream.says(closed, PARSED, closed, STAND_IN_FAILED, READY_I)
    assert client.kinds() == "1Z3EZ" and session.link is None


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


def test_statement_whose_text_is_parsed_again_under_another_name_is_still_there(town: Town) -> None:
    session, _ = town.client()
    upstream = prepare(town, session, b"s2")
    session.client_data(p.parse(b"s1", b"select 1") + bind(b"s2") + SYNC)
    closes = p.target(p.CLOSE, b"S", ours(1))
    assert upstream.take() == parse_ours(2, b"select 1") + closes + parse_ours(3, b"select 1") + bind(ours(3)) + SYNC


def test_execute_without_a_bind_never_reaches_the_portal_that_a_failed_query_left(town: Town) -> None:
    """PostgreSQL 15.18 reads freed memory there, and ends with SIGSEGV."""
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC + p.query(b"close c") + bind(b"no") + SYNC)
    upstream.take()
    session.client_data(EXECUTE + SYNC)
    assert upstream.take() == b"", "waits"
    upstream.says(PARSED, BOUND, SELECTED, READY_T, p.error_response("ERROR", "34000", "no such cursor"), READY_E)
    upstream.says(p.error_response("ERROR", "26000", "no such statement"))
    assert upstream.take() == b"", "waits"
    upstream.says(READY_E)
    assert upstream.take() == p.REFUSED_EXECUTE + SYNC


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


def test_unnamed_portal_of_a_set_is_followed_behind_a_chunk_that_holds_its_bind_and_an_end(town: Town) -> None:
    session, _ = town.client()
    begin = p.parse(b"", b"start transaction isolation level serializable") + bind() + EXECUTE
    session.client_data(p.query(b"select 1") + begin + p.parse(b"", b"set search_path to elsewhere") + bind())
    upstream = town.link(session)
    started = p.message(p.COMMAND_COMPLETE, b"START TRANSACTION\0")
    session.upstream_data(SELECTED + READY_I + GUARDED + PARSED + BOUND + started + PARSED + BOUND)
    session.client_data(SYNC)
    upstream.says(READY_T)
    session.client_data(EXECUTE + SYNC)
    upstream.says(SET, READY_T)
    assert session.ledger.touched == {"search_path"}


# --- rows of another statement, or of a cursor -----------------------------------------------------------------------


def described(kind: bytes, name: bytes) -> bytes:
    return p.target(p.DESCRIBE, kind, name)


NOTED = p.message(p.PARAMETER_DESCRIPTION, b"\0\0") + p.message(p.ROW_DESCRIPTION, b"\0\0")
NOTHING_NOTED = p.message(p.PARAMETER_DESCRIPTION, b"\0\0") + p.message(p.NO_DATA)
CLOSE_CURSOR = p.message(p.CLOSE, b"Pc\0")


def test_fetch_is_described_behind_a_look_for_its_cursor(town: Town) -> None:
    """Describe of a FETCH whose cursor is gone ended PostgreSQL 13 to 18 with SIGSEGV, with all sessions."""
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.parse(b"s", b"fetch 1 from c") + SYNC)
    upstream.says(PARSED, NOTED, READY_T)
    upstream.take()
    client.take()
    session.client_data(described(b"S", b"s") + SYNC)
    assert upstream.take() == described(b"P", b"c") + described(b"S", ours(1)) + SYNC
    upstream.says(p.error_response("ERROR", "34000", 'portal "c" does not exist'), READY_E)
    assert client.kinds() == "EZ"


@pytest.mark.parametrize("kind", [b"S", b"P"])
@pytest.mark.parametrize("between", [CLOSE_CURSOR, p.execute(b"q")])
def test_fetch_is_described_without_a_look_only_right_behind_its_parse_or_bind(
    town: Town, kind: bytes, between: bytes
) -> None:
    session, _ = town.client()
    made = p.parse(b"", b"fetch 1 from c") + (bind() if kind == b"P" else b"")
    describe = described(kind, b"")
    session.client_data(made + describe)
    upstream = town.link(session)
    assert described(b"P", b"c") not in upstream.take()
    session.client_data(between + describe)
    assert upstream.take() == between + described(b"P", b"c") + describe


def test_rows_that_a_portal_has_from_a_cursor_are_looked_for(town: Town) -> None:
    session, _ = town.client()
    made = p.parse(b"", b"fetch 1 from q") + bind(portal=b"p")
    session.client_data(made + p.message(p.CLOSE, b"Pq\0"))
    upstream = town.link(session)
    upstream.take()
    session.client_data(described(b"P", b"p"))
    assert upstream.take() == described(b"P", b"q") + described(b"P", b"p")


@pytest.mark.parametrize(
    "last",
    [
        p.query(b"fetch 1 from p"),
        p.query(b"select 1; fetch 1 from p"),
        p.parse(b"t", b"fetch 1 from p") + described(b"S", b"t"),
        p.parse(b"t", b"fetch 1 from p") + bind(b"t") + described(b"P", b""),
        p.parse(b"f", b"fetch 1 from p") + p.parse(b"t", b"execute f") + described(b"S", b"t"),
    ],
)
@pytest.mark.parametrize("text", [b"fetch 1 from q", b"execute s", b"fetch 1 from " + b"q" * 70])
def test_attack_a_fetch_of_a_fetch_ends_the_server(town: Town, text: bytes, last: bytes) -> None:
    """Where they lead round in a circle its process was busy for ever, and no cancel ended it."""
    session, _ = town.client()
    session.client_data(p.parse(b"s", b"fetch 1 from q") + p.parse(b"", text) + bind(portal=b"p") + last)
    upstream = town.link(session)
    stand_in = p.REFUSED_QUERY if last[:1] == b"Q" else p.REFUSED_EXECUTE
    assert upstream.take().endswith(stand_in)
    assert town.stats.refused["fetch-of-fetch"] == 1


def test_what_is_not_a_fetch_of_a_fetch(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1") + bind(portal=b"p") + p.query(b"fetch 1 from p"))
    session.client_data(p.parse(b"", b"fetch 1 from p") + bind(portal=b"p") + p.query(b"fetch 1 from p"))
    assert not town.stats.refused["fetch-of-fetch"]


ONE_TEXT = p.parse(b"t", b"select 'a'::text") + p.parse(b"s", b"execute t")
ANOTHER = p.message(p.CLOSE, b"St\0") + p.parse(b"t", b"select 1073741820")
CURSOR = p.parse(b"", b"declare c cursor for select 'a'::text") + bind() + EXECUTE + p.parse(b"s", b"fetch 1 from c")
ANOTHER_CURSOR = (
    p.parse(b"", b"close c") + bind() + EXECUTE + p.parse(b"", b"declare c cursor for select 1") + bind() + EXECUTE
)


@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        ("execute-of-execute", ONE_TEXT + p.query(b"execute s")),
        ("execute-of-execute", ONE_TEXT + p.query(b"select 1; execute s")),
        ("execute-of-execute", ONE_TEXT + p.query(b"explain analyze execute s")),
        ("execute-of-execute", p.parse(b"s", b"fetch 1 from c") + p.query(b"execute s")),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"execute s") + bind() + EXECUTE),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"execute s") + described(b"S", b"")),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"execute s") + bind() + described(b"P", b"")),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"explain execute s") + bind() + EXECUTE),
        ("execute-of-execute", p.parse(b"s", b"execute s") + described(b"S", b"s")),
        ("late-portal", ONE_TEXT + bind(b"s", portal=b"p") + ANOTHER + p.execute(b"p")),
        ("late-portal", ONE_TEXT + bind(b"s") + ANOTHER + EXECUTE),
        ("late-portal", ONE_TEXT + bind(b"s", portal=b"p") + p.message(p.CLOSE, b"Pq\0") + p.execute(b"p")),
        ("late-portal", ONE_TEXT + bind(b"s", portal=b"p") + bind(b"t") + EXECUTE + p.execute(b"p")),
        ("late-portal", CURSOR + bind(b"s", portal=b"p") + ANOTHER_CURSOR + p.execute(b"p")),
        ("fetch-of-fetch", ONE_TEXT + bind(b"s", portal=b"p") + ANOTHER + p.query(b"fetch 1 from p")),
        (
            "fetch-of-fetch",
            ONE_TEXT + bind(b"s", portal=b"p") + p.parse(b"f", b"fetch 1 from p") + bind(b"f") + EXECUTE,
        ),
    ],
)
def test_attack_rows_are_read_by_the_columns_of_others(town: Town, rule: str, messages: bytes) -> None:
    """PostgreSQL 13 to 18 took the number for the length of a text: memory of the server was shown, or it ended."""
    session, _ = town.client()
    session.client_data(messages)
    assert town.link(session).take().endswith(p.REFUSED_QUERY if b"Q" in messages[-32:] else p.REFUSED_EXECUTE)
    assert town.stats.refused[rule] == 1


def test_portal_of_an_execute_goes_on_giving_the_rows_that_it_has(town: Town) -> None:
    session, _ = town.client()
    one = p.message(p.EXECUTE, b"p\0\0\0\0\1")
    session.client_data(ONE_TEXT + bind(b"s", portal=b"p") + described(b"P", b"p") + one + ANOTHER + one + SYNC)
    assert town.link(session).take().count(one) == 2
    assert not town.stats.refused


def test_execute_whose_statement_is_gone_is_described_so(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"t")
    session.client_data(p.parse(b"s", b"execute t") + SYNC)
    upstream.says(PARSED, DESCRIBED, PARSED, NOTED, READY_I)
    upstream.says(CLOSED, READY_I)
    session.client_data(p.message(p.CLOSE, b"St\0") + SYNC)
    client.take()
    session.client_data(described(b"S", b"s") + SYNC)
    assert client.kinds() == "tEZ"


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


def test_error_names_a_statement_as_the_client_did(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    client.take()
    session.client_data(p.parse(b"s2", b"select 1") + bind(b"s2") + SYNC)
    name = PREFIX.decode() + upstream.take().rpartition(PREFIX)[2].split(b"\0")[0].decode()
    text = f'bind message supplies 0 parameters, but prepared statement "{name}" requires 1'
    upstream.says(PARSED, DESCRIBED, p.message(p.CLOSE_COMPLETE), p.error_response("ERROR", "08P01", text), READY_I)
    assert client.error()["M"] == 'bind message supplies 0 parameters, but prepared statement "s2" requires 1'


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


def test_error_is_never_written_into_the_middle_of_a_row(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    row = p.message(p.DATA_ROW, b"\0\1\0\0\0\x64" + b"x" * 100)
    town.link(session).says(row[:40])
    session.upstream_lost()
    assert client.take() == row[:40]
    assert client.closed


def test_client_that_vanishes_while_we_ask_leaves_an_upstream_that_forgets_all(town: Town) -> None:
    """What has a name of ours could stay there, and the next client would meet it."""
    session, _ = town.client(TimeZone="Asia/Tokyo")
    session.client_data(p.parse(b"", b"reset all") + bind() + EXECUTE)
    upstream = town.link(session)
    session.client_lost()
    assert upstream.recycled is True


def test_client_that_vanishes_in_mid_statement_leaves_the_upstream_to_be_cleaned(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"select pg_sleep(60)"))
    upstream = town.link(session)
    session.client_lost()
    assert upstream.recycled is False
    assert upstream in town.pool.cleaning


def test_slow_client_pauses_the_upstream_and_the_next_lease_starts_reading(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    session.client_writable(False)
    assert not upstream.reading
    assert not client.reading
    session.client_writable(True)
    assert upstream.reading
    assert client.reading


def test_client_that_reads_nothing_loses_its_statement_and_frees_its_upstream(town: Town) -> None:
    limits = {"idle": 0.0, "idle_transaction": 0.0, "query": 0.0, "login": 0.0, "slow_reader": 30.0}

    def reading(moment: float) -> None:
        """Read what there was, and get more."""
        session.client_writable(True)
        upstream.says(p.message(p.DATA_ROW, b"\0\0"))
        session.client_writable(False)
        session.sweep(moment, **limits)

    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    upstream = town.link(session)
    upstream.says(ROWS)
    for moment in (1.0, 20.0, 40.0, 60.0):
        reading(moment)
    for moment in (61.0, 89.0):
        session.sweep(moment, **limits)
    assert upstream in town.pool.leased
    session.sweep(90.0, **limits)
    assert town.pool.cleaning == {upstream}
    assert upstream.recycled is False
    assert upstream.reading, "what is left of the answer would never come"
    assert client.error()["C"] == QUERY_CANCELED
    assert client.closed
    assert dict(town.stats.client_closes) == {"slow_reader_timeout": 1}


def test_client_that_reads_nothing_while_nothing_is_there_for_it_may_do_so(town: Town) -> None:
    limits = {"idle": 0.0, "idle_transaction": 0.0, "query": 0.0, "login": 0.0, "slow_reader": 30.0}
    session, client = town.client()
    session.client_data(p.query(b"select pg_sleep(100)"))
    for moment in (1.0, 50.0, 100.0):
        session.sweep(moment, **limits)
    assert not client.closed


def test_sweep_limits(town: Town) -> None:
    limits = {"idle": 10.0, "idle_transaction": 5.0, "query": 3.0, "login": 2.0}

    def sweep(session: Client | Guest, *moments: float) -> None:
        for moment in moments:
            session.sweep(moment, **limits)

    silent, client = town.knock()
    sweep(silent, 1.0, 2.0)
    silent.client_data(b"\0")
    sweep(silent, 3.0)
    assert client.closed
    idle, client = town.client()
    sweep(idle, 1.0, 10.0)
    assert not client.closed
    sweep(idle, 11.0)
    assert client.error()["C"] == "57P05"
    running, _ = town.client()
    running.client_data(p.query(b"select pg_sleep(60)"))
    sweep(running, 1.0, 4.0)
    assert town.link(running).cancels == 1
    town.link(running).says(p.error_response("ERROR", "57014", "canceled"), READY_I)
    chatty, _ = town.client()
    chatty.client_data(p.query(b"select 1"))
    town.link(chatty).cancels = 0
    for moment in (1.0, 2.0, 3.0, 4.0):  # rows do not prolong it, the next statement does
        sweep(chatty, moment)
        town.link(chatty).says(p.message(p.DATA_ROW, b"\0\0"))
    assert town.link(chatty).cancels == 1
    chatty.client_data(p.query(b"select 2"))
    town.link(chatty).says(p.error_response("ERROR", "57014", "canceled"), READY_I)
    sweep(chatty, 5.0, 6.0)
    assert town.link(chatty).cancels == 1
    town.link(chatty).says(SELECTED, READY_I)
    quiet, client = town.client()
    quiet.client_data(BEGIN)
    town.link(quiet).says(BEGUN, READY_T)
    sweep(quiet, 1.0, 6.0)
    assert client.error()["C"] == "25P03" if client.closed else False


def test_drain_sends_away_who_waits(town: Town) -> None:
    busy(town)
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.pool.drain()
    assert client.error()["C"] == "57P03"
    assert not town.pool.waiting


def test_drain_ends_idle_clients_and_lets_statements_finish(town: Town) -> None:
    idle, idle_client = town.client()
    session, client = town.client()
    session.client_data(p.query(b"select 1"))
    town.house.draining = True
    idle.drain()
    session.drain()
    assert idle_client.error()["C"] == "57P01"
    assert not client.closed
    town.link(session).says(SELECTED, READY_I)
    session.drain()
    assert client.closed
    late, late_client = town.knock()
    late.client_data(p.startup_message({"user": "a", "database": "shop"}))
    assert late_client.error()["C"] == "57P03"


def test_bind_behind_a_group_that_failed_never_reaches_the_statement_that_another_client_left() -> None:
    town = Town(1)
    first, _ = town.client()
    first.client_data(p.parse(b"", b"select 'of the first'") + bind() + EXECUTE + SYNC)
    link = town.link(first)
    link.says(PARSED, BOUND, SELECTED, READY_I)
    second, wire = town.client()
    link.take()
    second.client_data(p.parse(b"x", b"select nope") + p.parse(b"", b"select 2") + SYNC + bind() + EXECUTE + SYNC)
    assert town.link(second) is link
    link.says(p.error_response("ERROR", "42703", 'column "nope" does not exist'), READY_I)
    assert bind() not in link.take()
    assert wire.kinds() == "EZEZ"


@pytest.mark.parametrize("late", [p.parse(b"s1", b"select 2"), p.parse(b"", b"execute s1"), bind(b"s1")])
def test_late_message_of_a_group_waits_for_nothing_that_has_been_answered(late: bytes) -> None:
    town = Town()
    session, _ = town.client()
    session.client_data(p.parse(b"s1", b"select 1") + SYNC)
    link = town.link(session)
    link.says(PARSED, p.message(p.NO_DATA), READY_I)
    session.client_data(p.query(b"discard all") + p.parse(b"", b"select 3"))
    link = town.link(session)
    link.says(p.message(p.COMMAND_COMPLETE, b"DISCARD ALL\0"), READY_I)
    link.take()
    session.client_data(late + SYNC)
    assert link.take().endswith(SYNC)

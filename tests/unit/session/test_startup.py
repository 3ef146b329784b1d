"""What a client says first, and how it is greeted: StartupMessage, CancelRequest."""

from __future__ import annotations

import struct

import pytest

from proxy import protocol as p
from proxy.auth.access import Access
from proxy.clients.client import Phase
from tests.unit.session.town import PARAMETERS, READY_I, SELECTED, Town


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
    error = client.error()
    assert (error["C"], error["M"]) == ("53300", "no more connections allowed (max_client_conn)")
    assert error["H"].endswith("ask the operator of SideCart to raise client.max_client_conn.")


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

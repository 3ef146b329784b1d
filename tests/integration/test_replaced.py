"""A server that was replaced behind its address, or promoted: new clients are greeted by what it is now."""

from __future__ import annotations

import signal
from functools import partial

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.relay import Relay
from tests.running import SideCart, wait_until

READER = "reader"
PASSWORD = "of-two-servers"
NAMES = (
    "server_version",
    "in_hot_standby",
    "scram_iterations",
    "search_path",
    "server_encoding",
    "integer_datetimes",
    "TimeZone",
    "is_superuser",
    "session_authorization",
)
"""What a server reports by itself: the second is of 14 and later, the third of 16, the fourth of 18."""


def reported(dsn: str) -> dict[str, bytes | None]:
    with psycopg.connect(dsn, application_name="the same") as client:
        client.execute("SELECT 1")
        return {name: client.pgconn.parameter_status(name.encode()) for name in NAMES}


def test_new_clients_are_greeted_by_the_server_that_is_there_now() -> None:
    with servers.running(13) as old, servers.running(18) as new, Relay(old.port) as relay:
        for server in (old, new):
            server.sql(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'; ALTER ROLE {READER} SET timezone = 'UTC'")
        upstream = Upstream(
            host="localhost", port=relay.port, dbname="postgres", user=READER, password=PASSWORD, sslmode="require"
        )
        with SideCart(upstream) as sidecart:

            def is_greeted_by(server: EmbeddedServer) -> bool:
                return reported(f"{sidecart.dsn} user={READER}") == reported(server.dsn("postgres", READER, PASSWORD))

            wait_until(partial(is_greeted_by, old), 20, "the first server's greeting")
            for server in (new, old):  # there and back again
                relay.target = server.port
                relay.reset()
                wait_until(partial(is_greeted_by, server), 20, "the other server's greeting")


@pytest.mark.parametrize("major", [pytest.param(14, marks=pytest.mark.deep), 18])
def test_new_clients_are_greeted_by_the_primary_that_was_promoted(major: int) -> None:
    """The setting is of 14 and later, which tell each session of it when it changes; before, no server reports it."""
    with servers.running(major, settings={"wal_level": "replica"}) as server:
        server.sql(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
        server.halt(signal.SIGINT)
        (server.folder / "data" / "standby.signal").touch()
        server.start()
        upstream = Upstream(
            host="localhost", port=server.port, dbname="postgres", user=READER, password=PASSWORD, sslmode="require"
        )
        with SideCart(upstream) as sidecart:

            def in_hot_standby() -> bytes | None:
                return reported(f"{sidecart.dsn} user={READER}")["in_hot_standby"]

            wait_until(lambda: in_hot_standby() == b"on", 20, "the standby's greeting")
            assert server.sql("SELECT pg_promote()").strip() == "t"
            wait_until(lambda: in_hot_standby() == b"off", 20, "the primary's greeting")

"""A server that was replaced behind its address by one of another version: new clients are greeted by the new one."""

from __future__ import annotations

from functools import partial

import psycopg

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

"""The server's configuration changes under its clients: all are told, those who come next, and those who are there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests.running import SideCart

Connection = psycopg.Connection[tuple[str]]


@pytest.fixture
def lone() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(plaintext=True, auth="trust") as server:
        yield server


def told(connection: Connection) -> tuple[str | None, ...]:
    return tuple(connection.info.parameter_status(name) for name in ("TimeZone", "DateStyle"))


def holds(connection: Connection) -> tuple[str, ...]:
    row = connection.execute("SELECT current_setting('TimeZone'), current_setting('DateStyle')").fetchone()
    assert row is not None
    return row


def reload(server: EmbeddedServer, *statements: str) -> None:
    for statement in statements:
        server.sql(statement)
    server.sql("SELECT pg_reload_conf()")
    time.sleep(0.5)


@pytest.mark.parametrize("size", [1, 3])
def test_complaint_clients_go_on_to_read_dates_as_they_were_told_at_login(
    lone: EmbeddedServer, upstream: Upstream, size: int
) -> None:
    before = replace(upstream, host="127.0.0.1", port=lone.port, dbname="postgres", user="postgres", sslmode="disable")
    sizes = {"SIDECART_POOL_DEFAULT_POOL_SIZE": size, "SIDECART_POOL_MIN_POOL_SIZE": size}
    with SideCart(before, **sizes) as own:

        def connect(**options: str) -> Connection:
            return psycopg.connect(own.dsn, autocommit=True, prepare_threshold=None, **options)

        with connect() as first, connect() as second, connect(options="-c TimeZone=Europe/Paris") as other:
            assert told(first) == told(second) == holds(first)
            reload(lone, "ALTER SYSTEM SET timezone = 'Asia/Tokyo'", "ALTER SYSTEM SET datestyle = 'German'")
            for _ in range(2 * size):  # each upstream learns it when something runs on it
                assert holds(first) == told(first) == ("Asia/Tokyo", "German, DMY")
            for connection in (second, first):
                assert holds(connection) == told(connection) == ("Asia/Tokyo", "German, DMY")
            assert holds(other) == told(other) == ("Europe/Paris", "German, DMY")
            with connect() as third:
                assert told(third) == holds(third) == ("Asia/Tokyo", "German, DMY")
            second.execute("SET timezone = 'America/Lima'")
            reload(lone, "ALTER SYSTEM RESET timezone", "ALTER SYSTEM RESET datestyle")
            for _ in range(2 * size):
                assert holds(first) == told(first)
            assert told(first)[0] != "Asia/Tokyo"
            assert holds(second) == told(second)
            assert told(second)[0] == "America/Lima"
            with connect() as fourth:
                assert told(fourth) == holds(fourth) == holds(first)

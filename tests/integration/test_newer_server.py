"""A server of a newer major version than the grammar that statements are read with: who is told, and how often."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from proxy.sql.text import GRAMMAR
from tests.relay import Relay
from tests.running import SideCart, wait_until

NEWER = GRAMMAR + 1
SYNTAX = "SELECT a FROM GRAPH_TABLE (g MATCH (n) COLUMNS (n.a))"


@pytest.fixture(scope="module")
def way() -> Iterator[Upstream]:
    with EmbeddedServer(plaintext=True) as server:
        shop = sample.create(server)
        yield Upstream(
            host="127.0.0.1",
            port=server.port,
            dbname=shop.dbname,
            user=shop.reader,
            password=shop.reader_password,
            sslmode="disable",
        )


def told(sidecart: SideCart) -> Any:
    """Return what /readyz tells of newer servers, once it has looked at one."""
    wait_until(sidecart.get_ready, 20, "the first login")
    return json.loads(sidecart.get("/readyz"))["newer"]


def warnings(sidecart: SideCart) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, sidecart.log.splitlines()) if line["event"] == "server newer"]


def refused(sidecart: SideCart) -> psycopg.errors.Diagnostic:
    with psycopg.connect(sidecart.dsn, autocommit=True) as client:
        with pytest.raises(psycopg.errors.SyntaxError) as caught:
            client.execute(SYNTAX)
        assert client.execute("SELECT 1").fetchone() == (1,)
    return caught.value.diag


def test_newer_server_is_warned_of_once_and_serves(way: Upstream) -> None:
    """With a server whose answer to the login is put right by the relay: there is none of that version yet."""
    with psycopg.connect(host=way.host, port=way.port, dbname=way.dbname, user=way.user, password=way.password) as own:
        reported = own.info.parameter_status("server_version")
        assert reported is not None
    start = b"server_version\0"
    with Relay(way.port) as relay:
        relay.put_in_place(start + reported[:2].encode(), start + str(NEWER).encode())
        with SideCart(replace(way, port=relay.port), SIDECART_POOL_MIN_POOL_SIZE=3) as sidecart:
            assert told(sidecart) == {way.dbname: {"server": NEWER, "grammar": GRAMMAR}}
            assert sidecart.metric(f'sidecart_server_newer{{database="{way.dbname}"}}') == 1
            diag = refused(sidecart)
            assert diag.message_hint is not None
            assert f"PostgreSQL {NEWER}" in diag.message_hint
            assert f"PostgreSQL {GRAMMAR}" in diag.message_hint
            (warning,) = warnings(sidecart)
            assert (warning["level"], warning["server"], warning["grammar"]) == ("warning", NEWER, GRAMMAR)


def test_nothing_is_said_of_a_server_that_the_grammar_knows(way: Upstream) -> None:
    with SideCart(way) as sidecart:
        assert told(sidecart) == {}
        assert sidecart.metric(f'sidecart_server_newer{{database="{way.dbname}"}}') == 0
        assert refused(sidecart).message_hint is None
        assert warnings(sidecart) == []

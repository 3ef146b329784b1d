"""A PostgreSQL that a bare connection reaches without TLS and password; SideCart reaches it over verified TLS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from proxy.protocol import PROTOCOL_3_0, PROTOCOL_3_2
from tests.messages.conversation import Admin, Answer, Talk, Way, alone, among_others, difference
from tests.running import SideCart, reader_of
from tests.servers import EVERY, running

WAYS = [
    pytest.param(Way(1, False, PROTOCOL_3_0), id="one-whole-3.0"),
    pytest.param(Way(2, True, PROTOCOL_3_2), id="two-bytes-3.2"),
    pytest.param(Way(1, True, PROTOCOL_3_0), id="one-bytes-3.0", marks=pytest.mark.deep),
    pytest.param(Way(2, False, PROTOCOL_3_2), id="two-whole-3.2", marks=pytest.mark.deep),
]
"""Whole and byte by byte, each in both versions of the protocol."""

TABLES = """
CREATE TABLE changing (id integer, name text);
CREATE SCHEMA here; CREATE TABLE here.spot AS SELECT 'here' AS place;
CREATE SCHEMA there; CREATE TABLE there.spot AS SELECT 'there' AS place, 7 AS more;
CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.spot AS SELECT 'elsewhere' AS place;
CREATE FUNCTION dmy() RETURNS text LANGUAGE sql AS $$ SELECT set_config('datestyle', 'ISO, DMY', true) $$;
CREATE FUNCTION dmy_by_another() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN dmy(); END $$;
CREATE FUNCTION tokyo() RETURNS text LANGUAGE sql AS $$ SELECT set_config('timezone', 'Asia/Tokyo', true) $$;
CREATE FUNCTION tenant() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.inside', 'x', true) $$;
CREATE FUNCTION worn() RETURNS text LANGUAGE sql SET app.worn TO 'x' AS $$ SELECT current_setting('app.worn') $$;
CREATE VIEW dated AS SELECT dmy_by_another() AS style;
GRANT SELECT ON dated TO PUBLIC;
GRANT USAGE ON SCHEMA here, there, elsewhere TO PUBLIC;
GRANT SELECT ON changing, here.spot, there.spot, elsewhere.spot TO PUBLIC;
"""


@pytest.fixture(scope="session", params=EVERY)
def private(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Run the server, with the sample shop and the tables of these tests."""
    if request.param == "default":
        with EmbeddedServer(plaintext=True, auth="trust") as server:
            yield server
    else:
        with running(request.param, plaintext=True, auth="trust") as server:
            yield server


@pytest.fixture(scope="session")
def reached(private: EmbeddedServer) -> Upstream:
    """Return how SideCart logs in; private connections are the same role's."""
    logins = sample.create(private)
    private.sql(TABLES, logins.dbname)
    return reader_of(private, logins)


@pytest.fixture(scope="session")
def admin(private: EmbeddedServer, reached: Upstream) -> Iterator[Admin]:
    """Return a function that runs SQL as a superuser and returns the rows; a lock that a client holds fails it soon."""
    with psycopg.connect(private.dsn(reached.dbname), autocommit=True, options="-c lock_timeout=5s") as connection:

        def run(sql: str) -> list[tuple[Any, ...]]:
            done = connection.execute(sql.encode())
            return done.fetchall() if done.description else []

        yield run


def serve(reached: Upstream, upstreams: int, **more: object) -> SideCart:
    """Return a SideCart that is not started yet; `more` overrides configuration keys."""
    environment: dict[str, object] = {
        "SIDECART_POOL_DEFAULT_POOL_SIZE": upstreams,
        "SIDECART_POOL_MIN_POOL_SIZE": 1,
        "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "3s",
        "SIDECART_POOL_QUERY_WAIT_NOTIFY": 0,  # its notice depends on the machine's speed
    }
    return SideCart(reached, **(environment | more))


@dataclass
class Fleet:
    """Hold the SideCarts that all talks share, by their number of upstreams."""

    reached: Upstream
    running: dict[int, SideCart] = field(default_factory=dict)

    def get(self, upstreams: int) -> SideCart:
        if upstreams not in self.running:
            self.running[upstreams] = serve(self.reached, upstreams).__enter__()
        return self.running[upstreams]

    def kill(self, upstreams: int) -> None:
        """End one that may hold clients and upstreams for good, which would fail what follows."""
        own = self.running.pop(upstreams)
        own.process.kill()
        own.process.wait()
        own.__exit__(None, None, None)

    def stop(self) -> None:
        for own in self.running.values():
            bugs = own.metric("sidecart_bugs_total")
            own.__exit__(None, None, None)
            assert bugs == 0


@pytest.fixture(scope="session")
def fleet(reached: Upstream) -> Iterator[Fleet]:
    made = Fleet(reached)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def one(reached: Upstream) -> Iterator[SideCart]:
    """Run a SideCart with one upstream and no other connection, for tests that look at what it holds."""
    with serve(reached, 1, SIDECART_FILTER_CATALOG_REFRESH=0) as own:
        yield own
        assert own.metric("sidecart_bugs_total") == 0, own.log[-8000:]


@pytest.fixture(scope="session")
def oracle(private: EmbeddedServer, admin: Admin) -> Callable[[Talk], list[Answer]]:
    """Return a function that plays a talk on a private connection, once."""
    known: dict[str, list[Answer]] = {}

    def ask(played: Talk) -> list[Answer]:
        if played.shows not in known:
            known[played.shows] = alone(private.port, played, admin)
        return known[played.shows]

    return ask


@pytest.fixture
def same(fleet: Fleet, oracle: Callable[[Talk], list[Answer]], admin: Admin) -> Callable[[Talk, Way], None]:
    """Return a function that fails where SideCart does not answer a talk as PostgreSQL does."""

    def compare(played: Talk, way: Way) -> None:
        expected = oracle(played)
        found = among_others(fleet.get(way.upstreams).port, played, admin, way)
        if told := difference(played, expected, found):
            fleet.kill(way.upstreams)
            pytest.fail(told)

    return compare

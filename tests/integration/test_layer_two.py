"""Layer 2 by itself: the filter has a hole, the role may write, and still nothing is written.

Each attack makes the session writable and writes, in the ways that outrun the tripwire. Everything with the mark passes
the filter (`tests.holed`). What is left to the filter alone is not here: a Query, or a group, that begins with SET
TRANSACTION READ WRITE, and a Query of several statements with a COMMIT among them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from tests.holed import HOLE, SET_CONFIG
from tests.running import SideCart, reader_of
from tests.servers import EVERY, running
from tests.wire import FLUSH, Wire, bind, execute

SYNC = p.SYNC_MESSAGE
OFF = f"select set_config('default_transaction_read_only', 'off', false) {HOLE}"
UNLOCK = f"select unlock() {HOLE}"
WRITE = f"insert into marks values (1) {HOLE}"
OBJECTS = """
CREATE TABLE marks (n integer);
GRANT SELECT, INSERT ON marks TO PUBLIC;
CREATE FUNCTION unlock() RETURNS void LANGUAGE plpgsql AS $$
  BEGIN PERFORM set_config('default_transaction_read_only', 'off', false); END $$;
CREATE FUNCTION unlock_and_forget() RETURNS void LANGUAGE plpgsql AS $$
  BEGIN PERFORM unlock(); EXECUTE 'DEALLOCATE ALL'; END $$;
CREATE FUNCTION unlock_and_replace() RETURNS void LANGUAGE plpgsql AS $$
  DECLARE each text;
  BEGIN
    PERFORM unlock();
    FOR each IN SELECT name FROM pg_prepared_statements LOOP
      EXECUTE format('DEALLOCATE %I', each);
      EXECUTE format('PREPARE %I AS SELECT 1', each);
    END LOOP;
  END $$;
CREATE PROCEDURE everything() LANGUAGE plpgsql AS $$
  BEGIN PERFORM unlock(); COMMIT; INSERT INTO marks VALUES (1); END $$;
CREATE FUNCTION dynamic(n integer) RETURNS SETOF integer LANGUAGE plpgsql AS $$
  BEGIN RETURN QUERY EXECUTE 'SELECT generate_series(1, 4) / ' || n; END $$;
"""


class Holed(SideCart):
    program = ("-m", "tests.holed")


def q(text: str) -> bytes:
    return p.query(text.encode())


def run(text: str, name: str = "") -> bytes:
    """Parse, bind and execute."""
    return p.parse(name.encode(), text.encode()) + bind(name) + execute()


def group(text: str) -> bytes:
    return run(text) + SYNC


CALL = p.message(
    p.FUNCTION_CALL,
    struct.pack("!IHH", SET_CONFIG, 0, 3)
    + b"".join(struct.pack("!i", len(each)) + each for each in (b"default_transaction_read_only", b"off", b"f"))
    + struct.pack("!H", 0),
)
PREPARED = p.parse(b"off", OFF.encode()) + p.parse(b"write", WRITE.encode()) + SYNC
HELD = f"declare c cursor with hold for select 1 {HOLE}"

ATTACKS: dict[str, list[bytes]] = {
    "two groups in one write": [group(OFF) + group(WRITE)],
    "two Queries in one write": [q(OFF) + q(WRITE)],
    "a group and a Query": [group(OFF) + q(WRITE)],
    "a Query and a group": [q(OFF) + group(WRITE)],
    "many groups": [group("select 1") * 9 + group(OFF) + group(WRITE) * 9],
    "two groups in two writes": [group(OFF), group(WRITE)],
    "statements that were parsed before": [PREPARED, bind("off") + execute() + SYNC + bind("write") + execute() + SYNC],
    "a function of the user's": [group(UNLOCK) + group(WRITE)],
    "a function that deallocates everything": [
        group("select 1") * 3 + group(f"select unlock_and_forget() {HOLE}") + group(WRITE) + q(WRITE)
    ],
    "a function that replaces every prepared statement": [
        group("select 1") * 3 + group(f"select unlock_and_replace() {HOLE}") + group(WRITE) + q(WRITE)
    ],
    "a Query that deallocates everything": [
        q("select 1") * 3 + q(f"select unlock_and_forget() {HOLE}") + q(WRITE) + group(WRITE)
    ],
    "a FunctionCall": [CALL + q(WRITE)],
    "a FunctionCall in a group": [run("select 1") + CALL + q(WRITE) + group(WRITE)],
    "a Flush": [run(OFF) + FLUSH + SYNC + group(WRITE)],
    "no Sync": [run(OFF) + q(WRITE) + q(WRITE)],
    "a Query in a group": [run("select 1") + q(OFF) + q(WRITE) + group(WRITE)],
    "a transaction that ends": [q("begin") + q(OFF) + q("commit") + q(WRITE)],
    "a transaction that ends, in groups": [group("begin") + group(OFF) + group("commit") + group(WRITE)],
    "a transaction that ends, and the next": [q("begin") + q(OFF) + q("commit and chain") + q(WRITE) + q("commit")],
    "a transaction that goes on": [q("begin"), q("select 1"), q(OFF) + q("commit") + q(WRITE)],
    "several statements": [q(f"begin; {OFF}; commit") + q(WRITE)],
    "a COMMIT in the group": [run(OFF) + run("commit") + run(WRITE) + SYNC],
    "a COMMIT in the group of a transaction": [q("begin"), run(OFF) + run("commit") + run(WRITE) + SYNC],
    "a COMMIT in the group behind the transaction": [
        q("begin") + q("select 1"),
        q(OFF) + run("commit") + run(WRITE) + SYNC,
    ],
    "a COMMIT in a group that is flushed": [run(OFF) + FLUSH, run("commit") + FLUSH, run(WRITE) + FLUSH, SYNC],
    "a COMMIT in the group, and a Query": [run(OFF) + run("commit") + q(WRITE) + group(WRITE)],
    "a COMMIT in a portal whose name is cut": [
        run(OFF) + p.parse(b"", b"commit") + bind("", portal="p" * 99) + execute("p" * 63) + run(WRITE) + SYNC
    ],
    "a COMMIT behind a ROLLBACK": [run("rollback") + run(OFF) + run("commit") + run(WRITE) + SYNC],
    "a failed group between": [group(OFF) + group("select 1/0") + group(WRITE)],
    "a pinned client": [q(f"begin; {HELD}; commit"), group(OFF) + group(WRITE)],
    "a pinned client that waits": [q(f"begin; {HELD}; commit"), group(OFF), group(WRITE), q(WRITE)],
    "a writer that begins a transaction": [group(OFF) + q("begin") + q(WRITE) + q("commit")],
}

HIDDEN = "execute 'set default_transaction_read' || '_only = off'"
DO_OFF = f"do $$ begin {HIDDEN}; end $$"
INSERT = "insert into marks values (1)"
DO_ALL = f"do $$ begin {HIDDEN}; commit; {INSERT}; end $$"
OBSERVED: dict[str, list[bytes]] = {
    "one Query": [q(f"{DO_OFF}; commit; {INSERT}")],
    "one Query with a transaction": [q(f"begin; {DO_OFF}; commit; {INSERT}")],
    "two Queries in one write": [q(DO_OFF) + q(INSERT)],
    "two groups in one write": [group(DO_OFF) + group(INSERT)],
    "one after the other": [q(DO_OFF), q(INSERT), group(INSERT)],
    "a COMMIT in DO": [q(DO_ALL) + q(INSERT)],
    "a COMMIT in DO, in a group": [group(DO_ALL) + group(INSERT)],
    "a COMMIT in DO, behind another statement": [run("select 1") + run(DO_ALL) + SYNC + q(INSERT)],
    "a COMMIT in DO, parsed before": [
        p.parse(b"all", DO_ALL.encode()) + SYNC,
        bind("all") + execute() + SYNC + bind("all") + execute() + SYNC,
        group(INSERT),
    ],
    "a COMMIT in a procedure": [q("call everything()") + q(INSERT) + group("call everything()")],
    "a COMMIT in the group": [run(DO_OFF) + run("commit") + run(INSERT) + SYNC],
    "a COMMIT in the group, and a procedure": [run(DO_OFF) + run("commit") + run("call everything()") + SYNC],
    "a ROLLBACK in the group": [run("rollback") + run(DO_ALL) + SYNC],
    "a transaction": [q("begin") + q(DO_OFF) + q("commit") + q(INSERT)],
    "a transaction that goes on": [q("begin"), q(DO_OFF), q("commit and chain"), q(INSERT), q("commit"), q(INSERT)],
    "a transaction in the group": [run("begin") + run(DO_OFF) + run("commit") + run(DO_ALL) + run(INSERT) + SYNC],
    "a Query in the group": [run(DO_OFF) + q("select 1") + q(INSERT) + SYNC + q(INSERT)],
    "a Query that is observed in the group": [run("select 1") + q(DO_ALL) + SYNC + q(INSERT)],
    "a function": [q("select unlock()") + q(INSERT), group("select unlock()"), group(INSERT)],
}


@pytest.fixture(scope="module", params=EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    if request.param == "default":
        with EmbeddedServer() as own:
            yield own
    else:
        with running(request.param) as own:
            yield own


@pytest.fixture(scope="module")
def reached(server: EmbeddedServer) -> Upstream:
    logins = sample.create(server)
    server.sql(OBJECTS, logins.dbname)
    return reader_of(server, logins)


@pytest.fixture(scope="module")
def holed(reached: Upstream) -> Iterator[SideCart]:
    """Run a SideCart with a hole, and one upstream for all."""
    with Holed(reached, SIDECART_POOL_DEFAULT_POOL_SIZE=1, SIDECART_POOL_MIN_POOL_SIZE=1) as own:
        yield own


@pytest.fixture(scope="module")
def observing(reached: Upstream) -> Iterator[SideCart]:
    """Run a SideCart whose filter only looks."""
    with SideCart(reached, SIDECART_FILTER_MODE="observe", SIDECART_POOL_DEFAULT_POOL_SIZE=2) as own:
        yield own


@pytest.fixture
def written(server: EmbeddedServer, reached: Upstream) -> Callable[[], int]:
    """Return a function that counts what has been written since."""
    server.sql("TRUNCATE marks", reached.dbname)

    def count() -> int:
        rows: list[tuple[Any, ...]] = server.sql("SELECT count(*) FROM marks", reached.dbname)
        return int(rows[0][0])

    return count


def attack(own: SideCart, writes: list[bytes]) -> None:
    """Send each write when what came before has been answered, and leave whatever becomes of it."""
    with Wire(own.port) as wire:
        wire.sock.settimeout(5)
        for data in writes:
            wire.send(data)
            for _ in range(_groups(data)):
                if not wire.until_ready().endswith("Z"):
                    return


def _groups(data: bytes) -> int:
    """Return how many ReadyForQuery answer what a client sends, if nothing fails."""
    at = found = 0
    while at < len(data):
        kind, length = p.read_header(data, at)
        found += kind in (p.QUERY, p.SYNC, p.FUNCTION_CALL)
        at += 1 + length
    return found


def is_shut(own: SideCart) -> None:
    """Assert that another client finds the setting on, and its transaction read-only."""
    with Wire(own.port) as later:
        assert later.ask("show default_transaction_read_only") == "TDCZ", later.error
        assert b"\x00\x02on" in later.last
        assert later.ask("show transaction_read_only") == "TDCZ", later.error
        assert b"\x00\x02on" in later.last


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_that_outruns_the_tripwire_commits_nothing(
    holed: SideCart, written: Callable[[], int], name: str
) -> None:
    attack(holed, ATTACKS[name])
    is_shut(holed)
    assert written() == 0


@pytest.mark.parametrize("text", [OFF, UNLOCK])
def test_attacker_who_leaves_at_once_leaves_nothing_writable(
    holed: SideCart, written: Callable[[], int], text: str
) -> None:
    for _ in range(20):
        with Wire(holed.port) as wire:
            wire.send(q(text) + group(text))
        with Wire(holed.port) as wire:
            wire.ask(WRITE)
        is_shut(holed)
    assert written() == 0


@pytest.mark.parametrize("name", OBSERVED)
def test_what_is_observed_commits_nothing(observing: SideCart, written: Callable[[], int], name: str) -> None:
    attack(observing, OBSERVED[name])
    is_shut(observing)
    assert written() == 0


def test_what_is_observed_is_answered_as_outside_of_a_transaction(observing: SideCart) -> None:
    with Wire(observing.port) as wire:
        for _ in range(2):
            assert wire.ask("select dynamic(1)") == "TDDDDCZ"
            assert wire.ask_extended("select dynamic(1)") == "12TDDDDCZ"
            assert wire.ask("select dynamic(0)") == "TEZ"
            assert (wire.error["C"], wire.status) == ("22012", p.IDLE)
            assert wire.ask_extended("select dynamic(0)") == "12TEZ"
            assert (wire.error["C"], wire.status) == ("22012", p.IDLE)
            assert wire.ask(INSERT) == "EZ"
            assert (wire.error["C"], wire.status) == ("25006", p.IDLE)
            assert wire.ask("select 1") == "TDCZ"
        wire.send(p.parse(b"some", b"select dynamic(1)") + SYNC).until_ready()
        wire.send(bind("some") + execute(limit=2) + execute(limit=3) + run("select 1") + SYNC)
        assert wire.until_ready() == "2DDsDDC12DCZ"
        assert wire.status == p.IDLE
        assert wire.ask("begin; select dynamic(1)") == "EZ"  # a text that ends or begins a transaction stays refused
        for text, kinds in (("begin", "CZ"), ("select dynamic(1)", "TDDDDCZ"), (INSERT, "EZ"), ("commit", "CZ")):
            assert wire.ask(text) == kinds
        assert wire.tag == "ROLLBACK"
        assert wire.ask(DO_ALL) == "EZ"
        assert wire.error["C"] == "2D000"

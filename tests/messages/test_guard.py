"""The guard of layer 2 before PostgreSQL itself: invisible, and what fails in it takes the group behind it along."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.pooling.guard import GUARD, GUARDED, NAME, PUT_BACK
from tests.wire import Wire, bind, execute

OFF = p.query(b"set default_transaction_read_only to off")
WRITE = p.query(b"create table written ()")
SYNC = p.SYNC_MESSAGE
PASSED = "12C3" * 3


@pytest.fixture
def wire(private: EmbeddedServer, reached: Upstream) -> Iterator[Wire]:
    """Return a private connection of a superuser: nothing but the setting keeps it from writing."""
    with Wire(private.port, login=False) as own:
        own.send(
            p.startup_message({"user": "postgres", "database": reached.dbname, "default_transaction_read_only": "on"})
        )
        assert own.until_ready().startswith("R"), own.error
        yield own


def test_guard_is_answered_as_expected(wire: Wire) -> None:
    wire.send(GUARD + p.query(b"select 1")).until_ready()
    assert wire.last.startswith(GUARDED)


def test_guard_puts_the_setting_back(wire: Wire) -> None:
    wire.send(OFF + GUARD + WRITE).until_ready()
    assert wire.until_ready().startswith(PASSED + "E")
    assert wire.error["C"] == "25006"
    assert wire.ask("select 1") == "TDCZ"


def test_guard_leaves_the_unnamed_statement(wire: Wire) -> None:
    wire.send(p.parse(b"", b"select 7") + SYNC).until_ready()
    wire.send(GUARD + bind("") + execute() + SYNC)
    assert wire.until_ready() == PASSED + "2DCZ"


@pytest.mark.parametrize(
    "guard",
    [
        GUARD.replace(PUT_BACK, b"SELEC default_transaction_read_only"),
        GUARD.replace(b"\0" + NAME + b"\0" + bytes(6), b"\0" + NAME[:-1] + b"?" + b"\0" + bytes(6)),
        GUARD.replace(p.execute(b""), p.execute(b"nobody"), 2),
    ],
    ids=["Parse", "Bind", "Execute"],
)
@pytest.mark.parametrize(
    "group", [WRITE, p.parse(b"", b"create table written ()") + bind("") + execute() + SYNC], ids=["Query", "group"]
)
def test_group_behind_a_guard_that_fails_is_ignored(wire: Wire, guard: bytes, group: bytes) -> None:
    # What is wrong with it stands for whatever makes a statement fail: a cancel, a timeout, no memory.
    assert guard != GUARD
    wire.send(OFF).until_ready()
    wire.send(guard + group + SYNC + p.query(b"rollback"))
    wire.send(p.query(b"select count(*), 'the end' from pg_class where relname = 'written'"))
    errors = 0
    while b"the end" not in wire.last:
        errors += wire.until_ready().count("E")
    assert errors == 1
    assert b"\0\0\0\x010" in wire.last

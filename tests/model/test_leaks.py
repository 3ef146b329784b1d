"""Whatever a client leaves behind, and however it goes: an upstream that rests holds nothing that the next one sees."""

from __future__ import annotations

import pytest

from proxy.demo.embedded import EmbeddedServer
from tests.model.conftest import StageOf
from tests.model.conversation import Connection
from tests.model.scripts import (
    SYNC,
    Batch,
    End,
    Play,
    Script,
    Step,
    batch,
    bind,
    close,
    execute,
    flushed,
    parse,
    query,
    say,
)
from tests.model.stage import LEAKS, rows

CURSOR = "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM orders LIMIT 50"

TOLD_BEFORE = (parse("", "DEALLOCATE ALL"), bind("", ""), execute())

LEFT: dict[str, tuple[Step, ...]] = {
    "a setting": (say("SET datestyle TO german"),),
    "a setting in an open transaction": (say("BEGIN; SET timezone TO 'Asia/Tokyo'"),),
    "a setting for the open transaction": (say("BEGIN; SET LOCAL datestyle TO german"),),
    "a setting in a failed transaction": (say("BEGIN"), say("SET datestyle TO german"), say("SELECT 1/0")),
    "a setting of an open group": (
        flushed(parse("", "SET datestyle TO german"), bind("", ""), execute()),
        batch([SYNC]),
    ),
    "a custom setting": (say("SET app.tenant TO 'a'"),),
    "a custom setting in a transaction": (say("BEGIN"), say("SET LOCAL app.tenant TO 'a'"), say("COMMIT")),
    "a custom setting of a function": (say("SELECT set_config('app.user', 'a', true)"),),
    "a custom setting that was rolled back": (say("BEGIN; SET app.tenant TO 'a'"), say("ROLLBACK")),
    "a prepared statement": (say("PREPARE p AS SELECT 1"),),
    "a prepared statement that a rollback keeps": (say("BEGIN"), say("PREPARE p AS SELECT 1"), say("ROLLBACK")),
    "a statement of the protocol": (batch([parse("s1", "SELECT 1"), SYNC]),),
    "a statement that SQL has named, closed behind an error": (
        say("BEGIN"),
        batch([parse("s1", "SELECT 1"), SYNC]),
        say("EXECUTE s1"),
        batch([parse("s2", "selec"), close("S", "s1"), SYNC]),
        say("ROLLBACK"),
    ),
    "a statement that SQL names behind a DEALLOCATE ALL of its group": (
        batch(
            [*TOLD_BEFORE, parse("s1", "SELECT $1::int + 1"), parse("", "EXECUTE s1"), bind("", ""), execute(), SYNC]
        ),
    ),
    "the unnamed statement": (batch([parse("", "SELECT 1"), SYNC]),),
    "a portal": (say("BEGIN"), batch([parse("", "SELECT 1"), bind("pt", ""), execute("pt", 1), SYNC])),
    "a cursor": (say("BEGIN"), say("DECLARE c CURSOR FOR SELECT 1")),
    "a cursor beyond its transaction": (say(CURSOR), say("FETCH 3 FROM h")),
    "a lock": (say("BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE"),),
    "everything": (
        say("SET datestyle TO german; SET app.tenant TO 'a'; PREPARE p AS SELECT 1"),
        say(CURSOR),
        batch([parse("s1", "SELECT 1"), bind("pt", "s1"), SYNC]),
    ),
}

SEEN = (
    say("SELECT timestamptz '2025-06-01 00:00+00'"),
    say("SELECT current_setting('app.tenant', true), current_setting('app.user', true)"),
    say("EXECUTE p"),
    say("FETCH 1 FROM h"),
    batch([bind("", ""), execute(), SYNC]),
    batch([bind("", "s1"), execute(), SYNC]),
    batch([execute("pt"), SYNC]),
)

UNHEARD: dict[str, Batch | None] = {
    "at rest": None,
    "while it runs": batch([query("SELECT pg_sleep(30)")]),
    "while rows come": batch([query("SELECT repeat('y', 2000) FROM orders WHERE id < 5000")]),
    "in the middle of a group": Batch((parse("", "SET timezone TO 'Asia/Tokyo'"), bind("", ""), execute())),
}


@pytest.mark.parametrize("end", (End.TERMINATE, End.RESET), ids=("terminate", "reset"))
@pytest.mark.parametrize("last", UNHEARD.values(), ids=UNHEARD)
@pytest.mark.parametrize("steps", LEFT.values(), ids=LEFT)
def test_nothing_is_left(steps: tuple[Step, ...], last: Batch | None, end: End, stage_of: StageOf) -> None:
    leaving = Script((), steps, end, last)
    stage_of(1).assert_faithful(Play((leaving, Script((), SEEN))))


def test_what_is_left_is_found(private: EmbeddedServer, stage_of: StageOf) -> None:
    """The question itself finds each kind of state, where nobody takes it away."""
    stage_of(1)
    connection = Connection(private.port, {"user": private.superuser, "database": "shop"})
    connection.collect()
    assert [what for what, _ in rows(connection, LEAKS)] == [b"upstream"]
    for text in ("SET work_mem TO '1MB'", "SET app.tenant TO 'a'", "PREPARE p AS SELECT 1", CURSOR, "LISTEN x"):
        rows(connection, text)
    for text in ("SELECT pg_advisory_lock(1)", "CREATE TEMPORARY TABLE t (a int)"):
        rows(connection, text)
    found = {(what or b"").decode() for what, _ in rows(connection, LEAKS)}
    connection.leave(End.TERMINATE)
    kinds = {
        "setting",
        "custom setting",
        "prepared statement",
        "cursor",
        "channel",
        "advisory lock",
        "temporary schema",
    }
    assert found == kinds | {"upstream"}

"""Messages that do not hold what their type asks for: an error in PostgreSQL's words, and the connection goes on."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from proxy import protocol as p
from tests.messages.conftest import WAYS
from tests.messages.conversation import SYNC, Message, Talk, Way, ask, parse, q, raw, run, step, talk

QUERIES = {
    "a NUL in its text": b"SELECT 1\0; SELECT 2\0",
    "two NULs": b"SELECT 1\0\0",
    "no NUL": b"SELECT 1",
    "nothing": b"",
}
EXTENDED: dict[str, tuple[int, bytes]] = {
    "Parse with a NUL in its text": (p.PARSE, b"\0SELECT 1\0 x\0\0\0"),
    "Parse with more behind its types": (p.PARSE, b"\0SELECT 1\0\0\0x"),
    "Parse without types": (p.PARSE, b"\0SELECT 1\0"),
    "Parse with a negative number of types": (p.PARSE, b"\0SELECT 1\0\xff\xff"),
    "Parse with half a type": (p.PARSE, b"\0SELECT 1\0\0\1\0\0"),
    "Parse with an endless text": (p.PARSE, b"\0SELECT 1"),
    "Parse of nothing": (p.PARSE, b""),
    "Parse of a name with more behind its types": (p.PARSE, b"kept\0SELECT 1\0\0\0x"),
    "Bind of nothing": (p.BIND, b""),
    "Bind with an endless name": (p.BIND, b"\0kept"),
    "Bind with names alone": (p.BIND, b"\0kept\0"),
    "Bind with a negative number of formats": (p.BIND, b"\0kept\0\xff\xff"),
    "Bind with a negative number of values": (p.BIND, b"\0kept\0\0\0\xff\xff"),
    "Bind with too many values": (p.BIND, b"\0kept\0" + struct.pack("!HHiHH", 0, 2, -1, 0xFFFF, 0xFFFF) + bytes(2)),
    "Bind with two formats and one value": (p.BIND, b"\0kept\0" + struct.pack("!HHHHiH", 2, 0, 0, 1, -1, 0)),
    "Bind with more behind its formats": (p.BIND, b"\0kept\0" + struct.pack("!HHiH", 0, 1, -1, 0) + b"x"),
    "Bind without formats of the results": (p.BIND, b"\0kept\0" + struct.pack("!HHi", 0, 1, -1)),
    "Bind of a statement that is not there with names alone": (p.BIND, b"\0nope\0"),
    "Describe of nothing": (p.DESCRIBE, b""),
    "Describe of a bad subtype": (p.DESCRIBE, b"X\0"),
    "Describe of a subtype beyond ASCII": (p.DESCRIBE, b"\xc8\0"),
    "Describe without a name": (p.DESCRIBE, b"S"),
    "Describe of a bad subtype with more behind its name": (p.DESCRIBE, b"X\0x"),
    "Describe of a portal with more behind its name": (p.DESCRIBE, b"P\0x"),
    "Close of nothing": (p.CLOSE, b""),
    "Close of a bad subtype": (p.CLOSE, b"X\0"),
    "Close with more behind its name": (p.CLOSE, b"Skept\0x"),
    "Execute of nothing": (p.EXECUTE, b""),
    "Execute with half a limit": (p.EXECUTE, b"\0\0\0"),
    "Execute with more behind its limit": (p.EXECUTE, b"\0\0\0\0\0x"),
    "Flush with a body": (p.FLUSH, b"x"),
}
KEPT = parse("kept", "SELECT $1::text")


def reaches_server(bad: Message) -> bool:
    """Whether the server itself says what is wrong with it: of a Bind SideCart reads the names alone."""
    return bad.data[0] == p.BIND and b"\0kept\0" in bad.data


def ending(shows: str, bad: Message) -> Talk:
    """Return a talk in which a message that ends with ReadyForQuery by itself stands everywhere."""
    return talk(
        shows,
        step(bad, ready=1),
        step(parse("", "SELECT 'unnamed'"), SYNC),
        step(q("SELECT 1") if bad.data[0] == p.SYNC else bad, ready=1),
        step(q("SELECT 'behind', 1"), bad, q("SELECT 2"), ready=3),
        step(ask("SET datestyle TO German"), bad, q("SHOW datestyle"), ready=2),
        step(q("BEGIN"), q("SELECT 1"), holds=True),
        step(bad, q("SELECT 2"), ready=2, holds=True),
        step(bad, q("COMMIT"), ready=2),
        step(q("BEGIN")),
        step(bad, ready=1, holds=False),
        step(q("ROLLBACK")),
    )


def skipping(shows: str, bad: Message) -> Talk:
    """Return a talk in which a message of the extended protocol stands everywhere."""
    return talk(
        shows,
        step(KEPT, SYNC),
        step(bad, SYNC),
        step(parse("", "SELECT 'unnamed'"), SYNC),
        step(bad, q("SELECT 'ignored'"), SYNC, ready=1),
        step(run("kept", "still there"), SYNC),
        step(ask("SET datestyle TO German"), bad, ask("SELECT 'ignored'"), SYNC, q("SHOW datestyle")),
        step(parse("", "SELECT nope"), bad, SYNC, bad, SYNC, q("SELECT 1")),
        step(q("BEGIN"), q("SELECT 1"), holds=True),
        step(bad, SYNC, bad, SYNC, q("COMMIT")),
        step(q("BEGIN")),
        step(bad, SYNC, q("SELECT 2"), holds=reaches_server(bad)),
        step(q("ROLLBACK")),
        step(run("kept", "still there"), SYNC),
    )


def made(kind: int, body: bytes) -> Message:
    return raw(f"{chr(kind)} {body!r}", p.message(kind, body))


TALKS = (
    *(ending(f"a Query with {what}", made(p.QUERY, body)) for what, body in QUERIES.items()),
    ending("Sync with a body", made(p.SYNC, b"x")),
    *(skipping(what, made(*parts)) for what, parts in EXTENDED.items()),
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", TALKS, ids=str)
def test_message_that_does_not_hold_what_it_should(played: Talk, way: Way, same: Callable[[Talk, Way], None]) -> None:
    same(played, way)

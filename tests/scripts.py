"""Random scripts of protocol messages, for the test of interleaved clients. The same seed gives the same scripts."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from proxy import protocol as p

STAND_IN = "refused"
"""What PostgreSQL is sent where SideCart has to refuse: a syntax error, which fails in the same turn, in any state."""

READS = (
    "",
    "  ;",
    "SELECT 1",
    "SELECT id, total FROM orders WHERE id < 4 ORDER BY id",
    "SELECT 1; SELECT 'two'; SELECT 3",
    "SELECT count(*) FROM categories",
    "SELECT name FROM categories WHERE name = 'Café'",
    "SELECT repeat('x', 30000)",
    "SELECT pg_sleep(0.002)",
    "SELECT pg_typeof($$a$$)",
    "SELECT current_user, session_user",
    "VALUES (1, 'x'), (2, NULL)",
    "TABLE categories LIMIT 0",
    "WITH t AS (SELECT 1 a) SELECT * FROM t",
    "EXPLAIN (COSTS off) SELECT * FROM orders WHERE id = 1",
    "COPY (SELECT id, name FROM categories ORDER BY id LIMIT 3) TO STDOUT",
)
FAILURES = ("SELECT 1/0", "SELECT nope", "selec", "SELECT 1; SELECT 1/0; SELECT 2", "SELECT 'é', nope")
SETTINGS_SEEN = (
    "SHOW datestyle",
    "SHOW search_path",
    "SHOW timezone",
    "SHOW application_name",
    "SHOW transaction_isolation",
    "SELECT current_setting('datestyle')",
    "SELECT timestamptz '2025-06-01 00:00+00', date '2025-12-24', interval '1 day 2:03'",
)
TRANSACTIONS = (
    *("BEGIN",) * 3,
    *("COMMIT",) * 2,
    *("ROLLBACK",) * 2,
    *("ROLLBACK TO a",) * 2,
    "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION READ ONLY",
    "SAVEPOINT a",
    "RELEASE a",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "BEGIN; SELECT 1; COMMIT",
    "BEGIN; SELECT 1",
    "SELECT 5; COMMIT",
    "ABORT",
    "END",
)
IN_TRANSACTIONS = (
    "DECLARE c CURSOR FOR SELECT id FROM orders ORDER BY id",
    "FETCH 2 FROM c",
    "MOVE 3 IN c",
    "CLOSE c",
    "SET LOCAL datestyle TO german",
    "SET LOCAL timezone TO 'Asia/Tokyo'",
    "SELECT set_config('datestyle', 'SQL, DMY', true)",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "LOCK TABLE orders IN ACCESS SHARE MODE",
)
SIMPLE = READS + FAILURES + SETTINGS_SEEN + TRANSACTIONS + IN_TRANSACTIONS

RESETS = ("RESET datestyle", "RESET timezone", "RESET ALL", "DISCARD ALL")
PINNING = (
    *RESETS,
    "SET datestyle TO german",
    "SET timezone TO 'Europe/Paris'",
    "SET application_name TO 'zzz'",
    "SET search_path TO pg_catalog",
    "SET client_encoding TO latin1",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "PREPARE p AS SELECT 42",
    "EXECUTE p",
    "DEALLOCATE p",
    "DEALLOCATE ALL",
    "DECLARE h CURSOR WITH HOLD FOR SELECT id FROM orders ORDER BY id LIMIT 50",
    "FETCH 3 FROM h",
    "CLOSE h",
    "CLOSE ALL",
)
"""What leaves something behind in the session, and what takes it away."""

Statement = tuple[str, Sequence[bytes]]
"""A text for Parse, and the values for Bind."""

EXTENDED: tuple[Statement, ...] = (
    ("", ()),
    ("SELECT 1", ()),
    ("SELECT $1::int + 1", (b"4",)),
    ("SELECT id FROM orders WHERE id < $1 ORDER BY id", (b"30",)),
    ("SELECT $1::text, current_setting('datestyle')", ("é".encode(),)),
    ("SELECT $1::date", (b"2025-12-24",)),
    ("SELECT timestamptz '2025-06-01'", ()),
    ("SELECT * FROM categories ORDER BY id", ()),
    ("SHOW datestyle", ()),
    ("COPY (SELECT 1) TO STDOUT", ()),
    ("SELECT 1/$1::int", (b"0",)),
    ("SELECT nope", ()),
    ("selec", ()),
    ("BEGIN", ()),
    ("COMMIT", ()),
    ("ROLLBACK", ()),
    ("SAVEPOINT a", ()),
    ("ROLLBACK TO a", ()),
    ("FETCH 2 FROM c", ()),
    ("SET LOCAL datestyle TO german", ()),
)
REFUSED = (
    "DELETE FROM orders",
    "DROP TABLE orders",
    "INSERT INTO orders DEFAULT VALUES",
    "SELECT 1; DELETE FROM orders",
    "BEGIN; DELETE FROM orders",
    "COMMIT; TRUNCATE orders",
)
REFUSED_EXTENDED: tuple[Statement, ...] = (
    ("DELETE FROM orders WHERE id = $1", (b"1",)),
    ("UPDATE orders SET status = $1", (b"x",)),
)
_ALL_REFUSED = frozenset(REFUSED) | {text for text, _ in REFUSED_EXTENDED}


@dataclass(frozen=True, slots=True)
class Message:
    """Hold one frontend message in words, as SideCart gets it, and as PostgreSQL gets it on a private connection."""

    shown: str
    data: bytes
    direct: bytes


Batch = Sequence[Message]
"""What is sent at once. Its last message is its only Query or Sync, so that exactly one ReadyForQuery answers it."""


@dataclass(slots=True)
class Script:
    """Hold what one client says: its start-up parameters, and batches, each of them once the last one is answered."""

    parameters: dict[str, str]
    batches: list[Batch] = field(default_factory=list)


def scripts(seed: int, clients: int, *, pinning: int = 0) -> list[Script]:
    """Write the scripts of that many clients, the first `pinning` of which leave state in their sessions."""
    chance = Random(seed)
    return [_Writer(chance, number, pins=number < pinning).script() for number in range(clients)]


def _query(text: str) -> Message:
    direct = STAND_IN if text in _ALL_REFUSED else text
    return Message(f"Query {text!r}", p.query(text.encode()), p.query(direct.encode()))


def _parse(name: str, text: str) -> Message:
    direct = STAND_IN if text in _ALL_REFUSED else text
    return Message(
        f"Parse {name!r} {text!r}", p.parse(name.encode(), text.encode()), p.parse(name.encode(), direct.encode())
    )


def _message(shown: str, kind: int, body: bytes = b"") -> Message:
    data = p.message(kind, body)
    return Message(shown, data, data)


def _bind(portal: str, name: str, values: Sequence[bytes], result_format: int = 0) -> Message:
    body = f"{portal}\0{name}\0".encode() + struct.pack("!HH", 0, len(values))
    body += b"".join(struct.pack("!i", len(value)) + value for value in values)
    shown = f"Bind {portal!r} {name!r} {list(values)} format {result_format}"
    return _message(shown, p.BIND, body + struct.pack("!HH", 1, result_format))


def _execute(portal: str, limit: int = 0) -> Message:
    return _message(f"Execute {portal!r} limit {limit}", p.EXECUTE, f"{portal}\0".encode() + struct.pack("!I", limit))


def _target(what: str, kind: int, target: str, name: str) -> Message:
    return _message(f"{what} {target} {name!r}", kind, f"{target}{name}\0".encode())


_SYNC = _message("Sync", p.SYNC)
_FLUSH = _message("Flush", p.FLUSH)


class _Writer:
    """Write the script of one client."""

    def __init__(self, chance: Random, number: int, *, pins: bool) -> None:
        self._chance = chance
        self._number = number
        self._pins = pins
        self._names = ("", "", "", "s1", "s2") if pins else ("",)
        self._reset_parsed = False
        """The group has prepared a RESET, and ends."""
        self._parts: dict[Callable[[], list[Message]], int] = {
            self._whole: 40,
            self._parse_only: 10,
            self._bind_again: 20,
            self._describe_only: 5,
            self._execute_again: 12,
            self._close: 8,
            self._flush: 5,
            self._nothing: 5,
        }

    def script(self) -> Script:
        script = Script(self._parameters())
        for _ in range(self._chance.randrange(5, 15)):
            if self._happens(0.35):
                script.batches.append([_query(self._text())])
                continue
            script.batches.append(self._group())
            if self._reset_parsed:  # a Query destroys the unnamed statement
                script.batches.append([_query("SELECT 1")])
                self._reset_parsed = False
        return script

    def _happens(self, probability: float) -> bool:
        return self._chance.random() < probability

    def _parameters(self) -> dict[str, str]:
        parameters = {"application_name": f"c{self._number % 3}", "client_encoding": "UTF8"}
        if self._happens(0.3):
            parameters["DateStyle"] = "German"
        if self._happens(0.2):
            parameters["TimeZone"] = "Asia/Kolkata"
        if self._happens(0.2):
            parameters["options"] = "-c search_path=public -c extra_float_digits=0"
        return parameters

    def _text(self) -> str:
        if self._happens(0.12):
            return self._chance.choice(REFUSED)
        return self._chance.choice(PINNING if self._pins and self._happens(0.4) else SIMPLE)

    def _statement(self) -> Statement:
        if self._pins and self._happens(0.1):
            return self._chance.choice(PINNING), ()
        return self._chance.choice(REFUSED_EXTENDED if self._happens(0.06) else EXTENDED)

    def _group(self) -> Batch:
        """Write an extended group: some parts, whole ones and loose ones, and a Sync."""
        out: list[Message] = []
        length = self._chance.choice((1, 1, 1, 2, 3, 6))
        for part in self._chance.choices(list(self._parts), list(self._parts.values()), k=length):
            out += part()
            if self._reset_parsed:
                break
        return [*out, _SYNC]

    def _prepare(self, text: str) -> tuple[str, Message]:
        """Write a Parse; return the statement's name, too.

        SideCart notes at the Parse of a RESET that start-up settings may be lost, and sets them again, once, in front
        of the next message that finds no answer owed. Until then, and where the same statement is executed again, a
        session that began with settings misses them: known limits. So a RESET ends its group, has no name here, and a
        Query after the group destroys it. A prepared SET has no such limits.
        """
        reset = text in RESETS
        name = "" if reset else self._chance.choice(self._names)
        self._reset_parsed = self._reset_parsed or reset
        return name, _parse(name, text)

    def _whole(self) -> list[Message]:
        text, values = self._statement()
        portal = self._chance.choice(("", "", "pt"))
        limit = self._chance.choice((0, 0, 1, 2, 5))
        name, parse = self._prepare(text)
        out = [parse]
        if self._happens(0.3):
            out.append(_target("Describe", p.DESCRIBE, "S", name))
        out.append(_bind(portal, name, values, self._chance.choice((0, 0, 1))))
        if self._happens(0.4):
            out.append(_target("Describe", p.DESCRIBE, "P", portal))
        out.append(_execute(portal, limit))
        if self._happens(0.2):
            out.append(_execute(portal, limit))
        if self._happens(0.15):
            out.append(_target("Close", p.CLOSE, "P", portal))
        return out

    def _parse_only(self) -> list[Message]:
        return [self._prepare(self._statement()[0])[1]]

    def _bind_again(self) -> list[Message]:
        """Use what an earlier group has left: the unnamed statement, or a named one."""
        name = self._chance.choice(self._names)
        return [_bind("", name, self._chance.choice(((), (b"4",), (b"4", b"5")))), _execute("")]

    def _describe_only(self) -> list[Message]:
        return [_target("Describe", p.DESCRIBE, "S", self._chance.choice(self._names))]

    def _execute_again(self) -> list[Message]:
        return [_execute("pt", 2)]

    def _close(self) -> list[Message]:
        target = self._chance.choice("SP")
        return [_target("Close", p.CLOSE, target, self._chance.choice((*self._names, "pt")))]

    def _flush(self) -> list[Message]:
        return [_FLUSH]

    def _nothing(self) -> list[Message]:
        return []

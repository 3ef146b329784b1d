"""Conversations: what a client says in steps, and the proof that SideCart answers each step as PostgreSQL does.

A talk is played on a private connection to PostgreSQL, and through SideCart in four ways: over one upstream and over
two, each batch in one write and one byte a write, and each of those in both versions of the protocol, of which the
private connection speaks the older one. Between its steps other clients come and go. Over one upstream they
use it after the client under test. Over two they take both, and leave the one that the client had not last: so every
step that can be served elsewhere is. They have other settings, and other statements under the same names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxy import protocol as p
from proxy.demo.shop import READER
from tests.wire import FLUSH, STAND_IN, Wire, bind, close, describe, execute, is_news, what_counts

Admin = Callable[[str], list[tuple[Any, ...]]]
"""Runs SQL as a superuser, on a connection of its own, and returns the rows."""


PATIENCE = 10.0
"""Seconds that a client waits for an answer."""


# --- what a client says ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """Hold one frontend message in words, as SideCart gets it, and as PostgreSQL gets it on a private connection."""

    shown: str
    data: bytes
    direct: bytes
    statement: str | None = None
    """The statement that it makes."""


def q(text: str) -> Message:
    data = p.query(text.encode())
    return Message(f"Query {text!r}", data, data)


def parse(name: str, text: str, *types: int) -> Message:
    data = p.parse(name.encode(), text.encode(), _types(types))
    return Message(f"Parse {name!r} {text!r}", data, data, name)


def refused(text: str) -> Message:
    """Return a Query that SideCart refuses."""
    return Message(f"Query {text!r}", p.query(text.encode()), p.query(STAND_IN.encode()))


def parse_refused(name: str, text: str, *types: int) -> Message:
    """Return a Parse that SideCart refuses."""
    direct = p.parse(name.encode(), STAND_IN.encode(), _types(types))
    return Message(f"Parse {name!r} {text!r}", p.parse(name.encode(), text.encode(), _types(types)), direct, name)


def _types(types: tuple[int, ...]) -> bytes:
    return len(types).to_bytes(2, "big") + b"".join(oid.to_bytes(4, "big") for oid in types)


def b(name: str = "", *values: str | None, portal: str = "", binary: bool = False) -> Message:
    data = bind(
        name, [None if each is None else each.encode() for each in values], portal=portal, result_format=int(binary)
    )
    return Message(f"Bind {portal!r} to {name!r} {list(values)}", data, data)


def e(portal: str = "", limit: int = 0) -> Message:
    return _same(f"Execute {portal!r}" + (f" limit {limit}" if limit else ""), execute(portal, limit))


def describe_statement(name: str = "") -> Message:
    return _same(f"Describe statement {name!r}", describe("S", name))


def describe_portal(name: str = "") -> Message:
    return _same(f"Describe portal {name!r}", describe("P", name))


def close_statement(name: str = "") -> Message:
    return _same(f"Close statement {name!r}", close("S", name))


def close_portal(name: str = "") -> Message:
    return _same(f"Close portal {name!r}", close("P", name))


def raw(shown: str, data: bytes) -> Message:
    return _same(shown, data)


def _same(shown: str, data: bytes) -> Message:
    return Message(shown, data, data)


SYNC = _same("Sync", p.SYNC_MESSAGE)
FLUSHED = _same("Flush", FLUSH)


def ask(text: str, *values: str | None, name: str = "") -> tuple[Message, ...]:
    """Return what most drivers send for a query, without its Sync."""
    return parse(name, text), *run(name, *values)


def run(name: str = "", *values: str | None) -> tuple[Message, ...]:
    """Return what most drivers send to execute a statement again, without its Sync."""
    return b(name, *values), describe_portal(), e()


@dataclass(frozen=True, slots=True)
class Step:
    """Hold messages that are sent at once, and what is read then."""

    messages: tuple[Message, ...]
    ready: int
    """How many ReadyForQuery are awaited; 0 where `reads` says it all."""
    reads: str = ""
    """The types of the messages that answer where no ReadyForQuery comes."""
    holds: bool | None = None
    """Whether the client keeps its upstream after this step; None: just while the transaction status is not idle."""
    before: str = ""
    """SQL that a superuser runs before."""


def step(
    *messages: Message | tuple[Message, ...], ready: int | None = None, holds: bool | None = None, before: str = ""
) -> Step:
    """Return a step that ends with as many ReadyForQuery as it has Query and Sync messages, or `ready`."""
    flat = tuple(each for part in messages for each in (part if isinstance(part, tuple) else (part,)))
    if ready is None:
        ready = sum(each.data[0] in (p.QUERY, p.SYNC, p.FUNCTION_CALL) for each in flat)
    return Step(flat, ready, holds=holds, before=before)


def flushed(reads: str, *messages: Message | tuple[Message, ...]) -> Step:
    """Return a step that ends without a Sync, and whose answer has just these types."""
    made = step(*messages)
    return Step(made.messages, 0, reads, holds=True)


def simple(*texts: str, holds: bool | None = None) -> tuple[Step, ...]:
    """Return one step for each text, sent as a Query."""
    return tuple(step(q(text), holds=holds) for text in texts)


@dataclass(frozen=True, slots=True)
class Talk:
    """Hold one client's side of a conversation, and what it shows."""

    shows: str
    steps: tuple[Step, ...]
    parameters: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.shows.replace(" ", "_")


def talk(shows: str, *steps: Step | tuple[Step, ...], **parameters: str) -> Talk:
    """Return a talk; its last steps show the transaction status, and that nothing was left unread."""
    flat = tuple(each for part in steps for each in (part if isinstance(part, tuple) else (part,)))
    ending = (step(SYNC, holds=flat[-1].holds), Step((_same("Terminate", p.TERMINATE_MESSAGE),), 0, "end"))
    return Talk(shows, (*flat, *ending), {"user": READER} | parameters)


# --- how it is played --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """Hold what answered one step. Nothing defines the order of ParameterStatus messages."""

    messages: list[tuple[str, object]] = field(default_factory=list)
    parameters: set[tuple[str, str]] = field(default_factory=set)


def read(wire: Wire, wanted: Step) -> Answer:
    """Read what answers a step, or what comes up to the end of the connection."""
    answer = Answer()
    ready = 0
    while ready < wanted.ready or (not wanted.ready and len(answer.messages) < len(wanted.reads)):
        try:
            kind, body = wire.message()
        except TimeoutError:
            answer.messages.append(("nothing more", f"in {wire.sock.gettimeout():g} s"))
            break
        if not kind:
            answer.messages.append(("end", ""))
            break
        if kind == p.PARAMETER_STATUS:
            name, value = p.parameter_parts(body)
            if is_news(wire.parameters, name, value):
                answer.parameters.add((name, value))
            continue
        answer.messages.append((chr(kind), what_counts(kind, body)))
        if kind == p.READY_FOR_QUERY:
            ready += 1
            wire.status = body[0]
    return answer


def alone(port: int, played: Talk, admin: Admin) -> list[Answer]:
    """Play a talk on a private connection to PostgreSQL, and check that it says what the talk takes for granted."""
    answers = []
    with Wire(port, login=True, **played.parameters) as wire:
        for each in played.steps:
            if each.before:
                admin(each.before)
            wire.send(b"".join(message.direct for message in each.messages))
            answers.append(answer := read(wire, each))
            kinds = "".join(kind for kind, _ in answer.messages)
            assert kinds.count("Z") == each.ready, f"PostgreSQL answered {kinds} to {shown(each)}"
            assert each.ready or kinds == each.reads, f"PostgreSQL answered {kinds} to {shown(each)}"
    return answers


class Way(NamedTuple):
    """Say how a talk is played through SideCart."""

    upstreams: int
    by_byte: bool
    """Whether each byte of the client comes by itself, those of its StartupMessage included."""
    protocol: int

    @contextmanager
    def connect(self, port: int, parameters: dict[str, str]) -> Iterator[Wire]:
        """Connect the client of a talk; what it is greeted with is that of its version of the protocol."""
        with Wire(port, login=False) as wire:
            wire.sock.settimeout(PATIENCE)
            self.send(wire, startup(self.protocol, {"database": "shop", **parameters}))
            greeting = wire.until_ready()
            assert greeting == "R" + "S" * len(wire.parameters) + "KZ", (greeting, wire.error)
            assert len(wire.key) == 4 + (32 if self.protocol == p.PROTOCOL_3_2 else 4)
            yield wire

    def send(self, wire: Wire, data: bytes) -> None:
        (wire.trickle if self.by_byte else wire.send)(data)


def startup(protocol: int, parameters: dict[str, str]) -> bytes:
    """Return a StartupMessage of a version of the protocol."""
    body = b"".join(name.encode() + b"\0" + value.encode() + b"\0" for name, value in parameters.items())
    return struct.pack("!II", len(body) + 9, protocol) + body + b"\0"


class NoUpstreamError(Exception):
    """The client under test keeps the upstream that it should have given back."""


class Other:
    """A client that is in the way: it has other settings, and other statements under the names of the talk."""

    def __init__(self, port: int, number: int, names: list[str]) -> None:
        settings = {"DateStyle": "German", "TimeZone": "Asia/Tokyo", "search_path": "pg_catalog"}
        text = f"SELECT 'another client', {number}, now() IS NULL, date '2020-03-04' FROM (VALUES (1), (2)) AS rows"
        self._parses = b"".join(p.parse(name.encode(), text.encode()) + bind(name) + execute() for name in names)
        self._closes = b"".join(close("S", name) for name in names)
        if number:
            self.wire = Wire(port, login=True, user=READER, **settings)
        else:
            self.wire = Wire(port, user=READER)
            self.wire.ask("".join(f"SET {name} TO '{value}';" for name, value in settings.items()))

    def take(self) -> bytes:
        """Take an upstream and keep it; return its process ID. Raises NoUpstreamError after a wait in vain."""
        self.wire.send(p.query(b"BEGIN; SELECT pg_backend_pid()"))
        if self.wire.until_ready() != "CTDCZ":
            raise NoUpstreamError(self.wire.error)
        pid = self.wire.last.split(b"SELECT 1\0")[0]
        self.wire.send(self._parses + p.SYNC_MESSAGE)
        assert "E" not in self.wire.until_ready(), self.wire.error
        return pid

    def leave(self) -> None:
        """Give the upstream back."""
        self.wire.send(self._closes + p.SYNC_MESSAGE + p.query(b"COMMIT"))
        assert "E" not in self.wire.until_ready() + self.wire.until_ready(), self.wire.error


@contextmanager
def others(port: int, played: Talk, count: int) -> Iterator[list[Other]]:
    """Connect the clients that are in the way of a talk."""
    names = sorted({each.statement or "" for part in played.steps for each in part.messages} | {""})
    made = [Other(port, number, names) for number in range(count)]
    try:
        yield made
    finally:
        for other in made:
            other.wire.sock.close()


def among_others(port: int, played: Talk, admin: Admin, way: Way) -> list[Answer]:
    """Play a talk through SideCart while other clients use its upstreams, too; return its answers."""
    answers: list[Answer] = []
    last = b""
    holds = False
    with others(port, played, way.upstreams) as rest, way.connect(port, played.parameters) as wire:
        for each in played.steps:
            try:
                taken = {other.take(): other for other in rest[: way.upstreams - holds]}
            except NoUpstreamError as error:
                answers.append(Answer([("held", f"another client waited in vain for an upstream: {error}")]))
                break
            staying = taken.pop(last if last in taken else next(iter(taken))) if len(taken) == 2 else None
            for pid, other in taken.items():
                other.leave()
                last = last if holds else pid
            if each.before:
                admin(each.before)
            way.send(wire, b"".join(message.data for message in each.messages))
            answers.append(answer := read(wire, each))
            if staying is not None:
                staying.leave()
            if answer.messages[-1:] and answer.messages[-1][0] in ("end", "nothing more"):
                break
            holds = wire.status != p.IDLE if each.holds is None else each.holds
    return answers


def shown(each: Step) -> str:
    return "; ".join(message.shown for message in each.messages)[:2000]


def difference(played: Talk, expected: list[Answer], found: list[Answer]) -> str:
    """Describe the first step whose answers differ, with what led to it; empty where there is none."""
    for number, each in enumerate(played.steps):
        theirs = expected[number]
        ours = found[number] if number < len(found) else Answer()
        if theirs != ours:
            lines = [f"  step {n + 1}: {shown(played.steps[n])}" for n in range(number + 1)]
            if each.before:
                lines.append(f"  before it, by a superuser: {each.before}")
            return "\n".join([f"{played.shows}, start-up parameters {played.parameters}", *lines, *_both(theirs, ours)])
    return ""


def _both(theirs: Answer, ours: Answer) -> list[str]:
    if theirs.messages == ours.messages:
        left: object = sorted(theirs.parameters - ours.parameters)
        right: object = sorted(ours.parameters - theirs.parameters)
        what = "ParameterStatus"
    else:
        longest = max(len(theirs.messages), len(ours.messages))
        padded = [side + [("nothing", "")] * (longest - len(side)) for side in (theirs.messages, ours.messages)]
        number = next(n for n in range(longest) if padded[0][n] != padded[1][n])
        what, left, right = f"message {number + 1}", padded[0][number], padded[1][number]
    kinds = ["".join(kind if len(kind) == 1 else f"({kind})" for kind, _ in side.messages) for side in (theirs, ours)]
    return [
        f"  all of PostgreSQL's: {kinds[0][:300]}",
        f"  all of SideCart's:   {kinds[1][:300]}",
        f"  {what} from PostgreSQL: {str(left)[:400]}",
        f"  {what} through SideCart: {str(right)[:400]}",
    ]

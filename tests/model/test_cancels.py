"""A cancel that comes late, or on its way to one statement meets another: what SideCart asks itself is cancelled, too.

It hits what it hits. But what a client is told of it is what has happened: a private connection on which just what was
cancelled fails answers all the rest in the same way, shows the same settings and statements at the end, and nothing is
hit for which nobody has asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random

import pytest

from proxy import protocol as p
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import READER
from tests.model import writer
from tests.model.conftest import StageOf
from tests.model.sketch import SYNC, Message, bind, describe, execute, parse, query
from tests.model.stage import Stage, stages
from tests.wire import STAND_IN, Wire, what_counts

CANCELED = "57014"
SLEEPS = (0.0, 0.002, 0.005, 0.01)
"""Seconds that a statement takes: a cancel needs about as long to the server."""
DELAYS = (0.0, 0.0, 0.002, 0.006)
"""Seconds after which it is asked for."""

SET = (
    "select set_config('datestyle', 'SQL, DMY', false)",
    "select set_config('app.tenant', 'b', false)",
    "select set_config('timezone', null, false)",
    "select set_config('datestyle', 'ISO, DMY', true)",
    *(f"select public.{call}()" for call in ("german", "elsewhere", "tenant", "dmy_local", "user_local", "more_local")),
)
"""What reads a setting back, or puts one back; it can take longer."""
QUICK = (
    "set search_path to here",
    "set timezone to 'Asia/Tokyo'",
    "set app.tenant to 'a'",
    "reset all",
    "reset datestyle",
    "set timezone to default",
    "deallocate all",
    "execute s",
    "deallocate s",
    "execute t",
    writer.PREPARED,
    writer.SHOWN,
)
AROUND = ("begin", "commit", "rollback", "begin read only", "set local timezone to 'Asia/Tokyo'")
OWN_SETTINGS = "select nullif(current_setting('app.tenant', true), ''), nullif(current_setting('app.user', true), '')"
"""A setting that was set by what was cancelled reads empty, one that never was NULL."""
NULLS = b"\0\2" + b"\xff" * 8
"""A row of two of them: a client that never set its own settings has none."""
NAMED = (writer.DATES, writer.SPOT, "select 1")
PARAMETERS: tuple[dict[str, str], ...] = ({}, {}, {"DateStyle": "German"}, {"TimeZone": "Asia/Kolkata"})

_ENDS = frozenset("123TnCsI")
"""Backend messages that complete what a message of the extended protocol asks for."""

Group = tuple[Message, ...]


@dataclass(slots=True)
class Said:
    """Hold a group of messages, and what answered it."""

    group: Group
    cancels: int = 0
    kinds: str = ""
    bodies: list[object] = field(default_factory=list)
    parameters: set[tuple[str, str]] = field(default_factory=set)
    status: int = 0
    sqlstate: str = ""

    @property
    def hit(self) -> bool:
        return self.sqlstate == CANCELED

    @property
    def ended(self) -> bool:
        """Whether the connection has ended."""
        return self.kinds.endswith("!")

    @property
    def failing(self) -> Group:
        """Return the group with what was cancelled replaced by what fails in its place."""
        if not self.hit:
            return self.group
        number = sum(kind in _ENDS for kind in self.kinds[: self.kinds.index("E")])
        if self.group[0].kind == "Q":
            number = 0
        return (*self.group[:number], *_failing(self.group[number]), *self.group[number + 1 :])

    @property
    def compared(self) -> tuple[object, ...]:
        """Return what has to be the same on a private connection; of what was cancelled, what became of it."""
        if self.hit:
            return self.status, self.parameters
        return self.kinds, self.bodies, self.status, self.parameters

    def __str__(self) -> str:
        asked = f" and {self.cancels} cancels" if self.cancels else ""
        return f"{', '.join(map(str, self.group))}{asked}: {self.kinds} {self.sqlstate} {chr(self.status or 63)}"


def _failing(message: Message) -> Group:
    match message.kind:
        case "Q":
            return (query(STAND_IN),)
        case "P":
            return (parse(message.name, STAND_IN),)
        case "B":
            return (bind("", "nobody"),)
        case "D":
            return (describe("S", "nobody"),)
        case "E":
            return (execute("nobody"),)
        case _:
            return execute("nobody"), message


def write(random: Random) -> Group:
    """Write a Query or a group whose own messages, or those beside it, a cancel may meet."""
    text = random.choice(random.choice((SET, SET, QUICK, AROUND)))
    if text in SET and (seconds := random.choice(SLEEPS)):
        text += f", pg_sleep({seconds})"
    if random.random() < 0.5:
        return (query(text),)
    name = random.choice(writer.NAMES)
    kind = random.random()
    if kind < 0.2:
        return parse(name, random.choice(NAMED)), SYNC
    if kind < 0.4:
        return bind("", name), execute(), SYNC
    return parse("", text), bind("", ""), execute(), SYNC


def listen(wire: Wire, said: Said) -> None:
    while said.kinds[-1:] != "Z":
        kind, body = wire.message()
        if not kind:
            said.kinds += "!"
            break
        if kind == p.PARAMETER_STATUS:
            said.parameters.add(p.parameter_parts(body))
            continue
        said.kinds += chr(kind)
        said.bodies.append(what_counts(kind, body))
        if kind == p.ERROR_RESPONSE:
            said.sqlstate = p.error_fields(body)["C"]
        elif kind == p.READY_FOR_QUERY:
            said.status = body[0]


class Other:
    """A client that uses the upstream between two groups, unless that is kept; it must find its own settings."""

    def __init__(self, port: int) -> None:
        self.wire = Wire(port, user=READER)
        self.owes = False
        self.zone = b""

    def meddle(self, zone: str) -> None:
        """Set something, and look at it."""
        self.wire.sock.settimeout(0.3)
        try:
            if self.owes:
                self.wire.until_ready()
                self.owes = False
            self.zone = zone.encode()
            self.owes = True
            text = f"set timezone to '{zone}'; show timezone; {writer.CUSTOM}; show datestyle"
            self.wire.send(p.query(text.encode()))
            assert self.wire.until_ready().replace("S", "") == "CTDCTDCTDCZ", self.wire.error
            self.owes = False
            assert self.zone in self.wire.last
            assert b"ISO, MDY" in self.wire.last
            assert NULLS in self.wire.last
        except TimeoutError:
            pass  # in a transaction the other one keeps the upstream, or because of what could not be read back


def perform(stage: Stage, seed: int) -> list[Said]:
    """Play a client whose groups are cancelled now and then; return what it was told."""
    random = Random(seed)
    parameters = random.choice(PARAMETERS)
    done: list[Said] = []
    other = Other(stage.sidecart_port)
    with other.wire, Wire(stage.sidecart_port, user=READER, **parameters) as wire:
        for _ in range(random.randint(3, 9)):
            if random.random() < 0.7:
                other.meddle(random.choice(("UTC", "Asia/Kolkata")))
            cancels = random.choice((0, 1, 1, 2))
            written = [Said(write(random), cancels) for _ in range(random.choice((1, 1, 2, 3)))]
            with ExitStack() as stack:
                keys = [stack.enter_context(Wire(stage.sidecart_port, login=False)) for _ in range(cancels)]
                wire.send(b"".join(message.data() for said in written for message in said.group))
                for key in keys:
                    time.sleep(random.choice(DELAYS))
                    key.send(p.cancel_request(int.from_bytes(wire.key[:4], "big"), wire.key[4:]))
                for said in written:
                    done.append(said)
                    listen(wire, said)
                for key in keys:
                    assert key.message() == (0, b"")  # nothing of it can reach what comes next
            if done[-1].ended:
                break
        for text in () if done[-1].ended else ("rollback", writer.SHOWN, OWN_SETTINGS, writer.DATES, writer.PREPARED):
            done.append(Said((query(text),)))
            wire.send(p.query(text.encode()))
            listen(wire, done[-1])
    expect(stage.port, parameters, done)
    return done


def expect(port: int, parameters: dict[str, str], done: Sequence[Said]) -> None:
    """Fail where a private connection says something else, with what was cancelled failing there."""
    with Wire(port, user=READER, **parameters) as wire:
        for number, said in enumerate(done):
            theirs = Said(said.group)
            wire.send(b"".join(message.data() for message in said.failing))
            listen(wire, theirs)
            story = "\n".join(map(str, done[: number + 1]))
            assert not said.hit or said.cancels, f"{story}\nnobody has asked for that"
            if said.ended:
                assert said.cancels, f"{story}\nnobody has asked for that"
                return
            theirs.sqlstate = said.sqlstate if said.hit else theirs.sqlstate
            assert said.compared == theirs.compared, f"{parameters}\n{story}\nexpected {theirs} {theirs.bodies}"


def perform_all(stage: Stage, seeds: range) -> None:
    hits = ends = 0
    for seed in seeds:
        try:
            done = perform(stage, seed)
            hits += sum(said.hit for said in done)
            ends += done[-1].ended
            assert stage.leaks() == []
        except AssertionError as error:
            stage.renew()
            raise AssertionError(f"seed {seed}") from error
    print(f"{hits} groups were cancelled, {ends} connections ended")
    assert hits >= len(seeds) // 10
    # A client goes with its upstream where that alone has what it has set, and a cancel meets what SideCart asks there.
    assert ends <= 2 + hits // 50


@pytest.fixture(scope="module")
def stage_of() -> Iterator[StageOf]:
    """Return a function that returns the stage with so many upstreams, without TLS: its handshake delays cancels."""
    with (
        EmbeddedServer(plaintext=True, auth="trust") as server,
        stages(server, sslmode="disable", sslrootcert="") as find,
    ):
        yield find


def test_what_was_cancelled_has_failed_and_nothing_else(stage_of: StageOf) -> None:
    perform_all(stage_of(1), range(40))


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("upstreams", (1, 2))
def test_what_was_cancelled_has_failed_and_nothing_else_for_long(upstreams: int, stage_of: StageOf) -> None:
    perform_all(stage_of(upstreams), range(1000, 2000))

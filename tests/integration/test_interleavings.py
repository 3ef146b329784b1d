"""Clients that share upstreams get, message for message, what a private connection to PostgreSQL gives each of them.

Each seed writes scripts (tests/scripts.py) for several clients, which run at once through SideCart, with pauses and
torn writes, and each alone on a connection to PostgreSQL. All answers are compared. Left out are the greeting's cancel
key, the place in PostgreSQL's source where an error was raised, the words of a refusal, and the DETAIL of a syntax
error, which SideCart may answer itself. The ParameterStatus messages of an answer are compared without their order,
which nothing defines.

A failure names the seed: `pytest "tests/integration/test_interleavings.py::test_...[17]"` runs the same scripts again.
The scheduling differs from run to run, so a rare failure may take several.
"""

from __future__ import annotations

import asyncio
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Self

import pytest

from proxy import protocol as p
from proxy.commands import shop as sample
from proxy.commands.embedded import EmbeddedServer
from proxy.config import Upstream
from tests.running import SideCart, wait_until
from tests.scripts import STAND_IN, Batch, Script, scripts

PATIENCE = 20.0
READ_ONLY_SQL_TRANSACTION = "25006"
SYNTAX_ERROR = "42601"

Seen = tuple[str, object]
"""The type of a backend message and what of it counts."""


@dataclass(slots=True)
class Answer:
    """Hold what came up to a ReadyForQuery, or to the end of the connection."""

    messages: list[Seen] = field(default_factory=list)
    parameters: set[tuple[str, str]] = field(default_factory=set)


@dataclass(slots=True)
class Connection:
    """Speak the protocol with one server; `ended` tells that it has hung up, or kept us waiting too long."""

    reader: StreamReader
    writer: StreamWriter
    ended: bool = False

    @classmethod
    async def open(cls, port: int, parameters: dict[str, str]) -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(p.startup_message(parameters))
        return cls(reader, writer)

    async def answer(self) -> Answer:
        answer = Answer()
        try:
            async with asyncio.timeout(PATIENCE):
                while await self._message(answer) != p.READY_FOR_QUERY:
                    pass
        except (IncompleteReadError, ConnectionError):
            self._end(answer, "the connection ended")
        except TimeoutError:
            self._end(answer, f"no answer in {PATIENCE:g} s")
        return answer

    async def _message(self, answer: Answer) -> int:
        header: tuple[int, int] = p.read_header(await self.reader.readexactly(5))
        kind, length = header
        body = await self.reader.readexactly(length - 4)
        if kind == p.PARAMETER_STATUS:
            answer.parameters.add(p.parameter_parts(body))
        else:
            answer.messages.append((chr(kind), what_counts(kind, body)))
        return kind

    def _end(self, answer: Answer, why: str) -> None:
        answer.messages.append(("end", why))
        self.ended = True

    async def close(self, farewell: bytes) -> None:
        """Say farewell, which may be nothing, and hang up."""
        try:
            self.writer.write(farewell)
            self.writer.close()
            await self.writer.wait_closed()
        except ConnectionError:
            pass


def what_counts(kind: int, body: bytes) -> object:
    """Return what has to be equal of a backend message.

    SQLSTATE 25006 is SideCart's refusal: no script asks for what PostgreSQL itself would answer so.
    """
    if kind == p.BACKEND_KEY_DATA:
        return "a key"
    if kind not in (p.ERROR_RESPONSE, p.NOTICE_RESPONSE):
        return body
    # A text in latin1 becomes the same replacement characters on both sides.
    fields = p.error_fields(body)
    sqlstate = fields.get("C")
    if sqlstate == READ_ONLY_SQL_TRANSACTION or fields.get("M") == f'syntax error at or near "{STAND_IN}"':
        return "refused"
    # F, L and R are PostgreSQL's file, line and routine.
    left_out = "FLRD" if sqlstate == SYNTAX_ERROR else "FLR"
    return {code: text for code, text in fields.items() if code not in left_out}


async def alone(port: int, script: Script) -> list[Answer]:
    """Play a script on a connection of its own."""
    connection = await Connection.open(port, script.parameters)
    answers = [await connection.answer()]
    for batch in script.batches:
        if connection.ended:
            break
        connection.writer.write(b"".join(message.direct for message in batch))
        answers.append(await connection.answer())
    await connection.close(p.TERMINATE_MESSAGE)
    return answers


async def among_others(port: int, script: Script, chance: Random) -> list[Answer]:
    """Play a script through SideCart: some writes are torn, between some batches the others get a turn."""
    connection = await Connection.open(port, script.parameters)
    answers = [await connection.answer()]
    for batch in script.batches:
        if connection.ended:
            break
        data = b"".join(message.data for message in batch)
        if chance.random() < 0.3:
            at = chance.randrange(1, len(data))
            connection.writer.write(data[:at])
            await asyncio.sleep(chance.choice((0, 0, 0.002)))
            data = data[at:]
        connection.writer.write(data)
        answers.append(await connection.answer())
        if chance.random() < 0.5:
            await asyncio.sleep(chance.choice((0, 0.001, 0.003)))
    await connection.close(chance.choice((p.TERMINATE_MESSAGE, b"")))
    return answers


async def play(direct: int, shared: int, written: Sequence[Script], seed: int) -> tuple[list[list[Answer]], ...]:
    """Play all scripts on both ports; return each client's answers from PostgreSQL, and through SideCart."""
    chances = [Random(seed * 100 + number) for number in range(len(written))]
    expected = await asyncio.gather(*(alone(direct, script) for script in written))
    found = await asyncio.gather(
        *(among_others(shared, script, chance) for script, chance in zip(written, chances, strict=True))
    )
    return expected, found


def difference(script: Script, expected: list[Answer], found: list[Answer]) -> str:
    """Describe where one client's answers first differ, with what led to it; empty where they do not."""
    for step in range(max(len(expected), len(found))):
        theirs = expected[step] if step < len(expected) else Answer([("end", "nothing was asked any more")])
        ours = found[step] if step < len(found) else Answer([("end", "nothing was asked any more")])
        if theirs != ours:
            lines = [f"step {step} of {len(script.batches)}, start-up parameters {script.parameters}"]
            lines += [f"  batch {n}: {shown(script.batches[n - 1])}" for n in range(max(1, step - 3), step + 1)]
            return "\n".join(lines + first_difference(theirs, ours))
    return ""


def shown(batch: Batch) -> str:
    return "; ".join(message.shown for message in batch)


def first_difference(theirs: Answer, ours: Answer) -> list[str]:
    """Show the first message that differs, from both sides, or the ParameterStatus messages that do."""
    if theirs.messages == ours.messages:
        what = "ParameterStatus"
        left: object = sorted(theirs.parameters - ours.parameters)
        right: object = sorted(ours.parameters - theirs.parameters)
    else:
        nothing: Seen = ("nothing", "")
        longest = max(len(theirs.messages), len(ours.messages))
        pairs = [
            (side + [nothing] * (longest - len(side)), name)
            for side, name in ((theirs.messages, "PostgreSQL"), (ours.messages, "SideCart"))
        ]
        number = next(n for n in range(longest) if pairs[0][0][n] != pairs[1][0][n])
        what, left, right = f"message {number + 1}", pairs[0][0][number], pairs[1][0][number]
    return [f"  {what} from PostgreSQL: {str(left)[:400]}", f"  {what} through SideCart: {str(right)[:400]}"]


@pytest.fixture(scope="module")
def private() -> Iterator[EmbeddedServer]:
    """Run a PostgreSQL that a bare connection reaches without TLS and password; SideCart comes over verified TLS."""
    with EmbeddedServer(plaintext=True, auth="trust") as server:
        yield server


@pytest.fixture(scope="module")
def logins(private: EmbeddedServer) -> sample.Shop:
    return sample.create(private)


def serve(server: EmbeddedServer, logins: sample.Shop, upstreams: int) -> SideCart:
    reached = Upstream(
        host=server.host,
        port=server.port,
        dbname=logins.dbname,
        user=logins.reader,
        password=logins.reader_password,
        sslrootcert=str(server.ca_file),
    )
    return SideCart(
        reached,
        SIDECART_POOL_DEFAULT_POOL_SIZE=upstreams,
        SIDECART_POOL_MIN_POOL_SIZE=1,
        SIDECART_POOL_QUERY_WAIT_TIMEOUT="1min",
        SIDECART_POOL_QUERY_WAIT_NOTIFY=0,  # its notice depends on the machine's speed
    )


@pytest.fixture(scope="module")
def two_upstreams(private: EmbeddedServer, logins: sample.Shop) -> Iterator[SideCart]:
    with serve(private, logins, 2) as running:
        yield running


@pytest.fixture(scope="module")
def four_upstreams(private: EmbeddedServer, logins: sample.Shop) -> Iterator[SideCart]:
    with serve(private, logins, 4) as running:
        yield running


def assert_no_difference(seed: int, server: EmbeddedServer, own: SideCart, written: list[Script]) -> None:
    """Play the scripts, and fail with all that is needed to understand the first difference of each client."""
    for script in written:
        script.parameters.update(user=sample.READER, database=sample.DATABASE)
    expected, found = asyncio.run(play(server.port, own.port, written, seed))
    told = []
    for number, script in enumerate(written):
        if what := difference(script, expected[number], found[number]):
            told.append(f"seed {seed}, client {number}, {what}")
    assert not told, "\n".join(told)
    assert "sidecart_bugs_total 0.0\n" in own.get("/metrics"), own.log[-8000:]
    wait_until(lambda: at_rest(own), 5, "all upstreams to be idle")


def at_rest(own: SideCart) -> bool:
    """Tell whether no upstream is leased, cleaned or opened, and one at least is there."""
    start = f'sidecart_servers{{database="{sample.DATABASE}",state="'
    lines = [line for line in own.get("/metrics").splitlines() if line.startswith(start)]
    servers = dict(line.removeprefix(start).split('"} ') for line in lines)
    return servers.pop("idle") != "0.0" and set(servers.values()) == {"0.0"}


def seeds(fast: int, deep: int) -> list[object]:
    """Return the first seeds for every run, and as many more as `deep` for the long one."""
    marked = [pytest.param(seed, marks=pytest.mark.deep) for seed in range(fast, fast + deep)]
    return [*range(fast), *marked]


@pytest.mark.parametrize("seed", seeds(60, 600))
def test_six_clients_share_two_upstreams(
    seed: int, private: EmbeddedServer, logins: sample.Shop, two_upstreams: SideCart
) -> None:
    """Transactions, errors, refusals, and the unnamed statement, also one that a later group uses."""
    assert_no_difference(seed, private, two_upstreams, scripts(seed, 6))


@pytest.mark.parametrize("seed", seeds(30, 300))
def test_sessions_that_pin_beside_sessions_that_do_not(
    seed: int, private: EmbeddedServer, logins: sample.Shop, four_upstreams: SideCart
) -> None:
    """Two of five clients set, reset and prepare as well.

    Two known limits are kept out of the scripts: a RESET that is prepared once and executed again, and statements that
    follow a RESET before it is answered (`_Writer._prepare` says why). Without them ParameterStatus is the same, too.
    """
    assert_no_difference(seed, private, four_upstreams, scripts(seed, 5, pinning=2))

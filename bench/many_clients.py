"""Many clients on few upstreams: each has its own settings and prepared statements, and checks every byte it gets.

Each client has a TimeZone, a search_path and an application_name of its own, half of them from the start-up packet and
half by SET, and three prepared statements whose names all clients share: what the settings are, a time that was baked
in under the client's time zone, and a table that only the client's search_path finds. The load is pgbench's manner: one
statement after another, at random, simple, prepared, and in transactions.

What is right is asked of PostgreSQL first: every client's whole conversation is held on a direct connection, and each
answer has to be the same, byte for byte. Run it with `python -m bench.many_clients`; the exit code is 1 if an answer
was wrong or a client was pinned.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, cast

import click
import uvloop

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests.running import SideCart

DATABASE = "many"
ROLE = "many_reader"
SCHEMAS = 50
ROWS = 4
LOGINS: Final = 50
"""Clients that log in at the same time."""
PATIENCE: Final = 30.0
"""Seconds for the last answers, when the load is over."""

Step = tuple[bytes, bytes]
"""What a client sends, and the whole answer."""


@dataclass(slots=True)
class Profile:
    """Say who a client is, and what it sends and gets."""

    startup: dict[str, str]
    setup: list[Step] = field(default_factory=list)
    work: list[list[Step]] = field(default_factory=list)
    """Pieces of work of one or several steps: the load is any of them in any order."""


@dataclass(slots=True)
class Tally:
    """Count what all clients see."""

    statements: int = 0
    transactions: int = 0
    wrong: list[str] = field(default_factory=list)


def profiles(count: int, zones: list[str]) -> Iterator[tuple[Profile, list[bytes]]]:
    """Yield each client, its answers still missing, and the settings in SQL that its start-up packet stands for."""
    for number in range(count):
        settings = {
            "TimeZone": zones[number % len(zones)],
            "search_path": f"s{number % SCHEMAS}, own_{number}",
            "application_name": f"client {number}",
        }
        sets = [
            f"SET TimeZone TO '{settings['TimeZone']}'".encode(),
            f"SET search_path TO {settings['search_path']}".encode(),
            f"SET application_name TO '{settings['application_name']}'".encode(),
        ]
        by_packet = number % 2 == 0
        profile = Profile({"user": "bench", "database": DATABASE, **(settings if by_packet else {})})
        if not by_packet:
            profile.setup = [(p.query(text), b"") for text in sets]
        baked = f"2024-{number % 12 + 1:02}-{number % 28 + 1:02} {number // 60 % 24:02}:{number % 60:02}"
        texts = (
            b"SELECT current_setting('TimeZone'), current_setting('search_path'), current_setting('application_name')",
            f"SELECT '{baked}'::timestamptz, extract(epoch FROM '{baked}'::timestamptz)::int8, $1::int".encode(),
            b"SELECT note, id FROM things WHERE id = $1::int",
        )
        profile.setup += [(p.parse(b"p%d" % index, text) + p.SYNC_MESSAGE, b"") for index, text in enumerate(texts, 1)]
        settings_step = (_run(b"p1"), b"")
        baked_steps = [(_run(b"p2", b"%d" % n), b"") for n in range(2)]
        row_steps = [(_run(b"p3", b"%d" % n), b"") for n in range(1, ROWS + 1)]
        simple_step = (p.query(b"SELECT note, current_setting('TimeZone') FROM things WHERE id = 2"), b"")
        unnamed_step = (p.parse(b"", b"SELECT count(*), min(note) FROM things") + _run(b""), b"")
        begin, commit = (p.query(b"BEGIN"), b""), (p.query(b"COMMIT"), b"")
        profile.work = [[step] for step in (settings_step, *baked_steps, *row_steps, simple_step, unnamed_step)]
        profile.work.append([begin, row_steps[0], settings_step, commit])
        yield profile, sets if by_packet else []


def _run(name: bytes, *values: bytes) -> bytes:
    """Bind, Describe, Execute and Sync of a prepared statement, values as text."""
    parameters = b"".join(len(value).to_bytes(4, "big") + value for value in values)
    body = b"\0" + name + b"\0\0\0" + len(values).to_bytes(2, "big") + parameters + b"\0\0"
    return p.message(p.BIND, body) + p.message(p.DESCRIBE, b"P\0") + p.execute(b"") + p.SYNC_MESSAGE


class Oracle:
    """A direct connection to PostgreSQL, on which each client's conversation is held once."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._sock.sendall(p.startup_message({"user": ROLE, "database": DATABASE}))
        self._answer()

    def ask(self, request: bytes) -> bytes:
        self._sock.sendall(request)
        answer = self._answer()
        if chr(answer[0]) == "E":
            raise click.ClickException(f"PostgreSQL refused {request!r}: {answer!r}")
        return answer

    def learn(self, profile: Profile, sets: list[bytes]) -> None:
        """Fill in the answers."""
        for text in sets:
            self.ask(p.query(text))
        known: dict[bytes, bytes] = {}
        profile.setup = [(request, self.ask(request)) for request, _ in profile.setup]
        for work in profile.work:
            for index, (request, _) in enumerate(work):
                answer = known.get(request) if len(work) == 1 else None
                if answer is None:
                    answer = known[request] = self.ask(request)
                work[index] = (request, answer)
        self.ask(p.query(b"DISCARD ALL"))

    def close(self) -> None:
        self._sock.close()

    def _answer(self) -> bytes:
        answer = bytearray()
        at = 0
        while True:
            while len(answer) >= at + 5 and len(answer) > at + (length := p.read_header(answer, at)[1]):
                kind = answer[at]
                at += 1 + length
                if kind == p.READY_FOR_QUERY:
                    return bytes(answer)
            data = self._sock.recv(65536)
            if not data:
                raise click.ClickException(f"PostgreSQL closed the direct connection: {bytes(answer)!r}")
            answer += data


class Client(asyncio.Protocol):
    """One client: logs in, sets itself up, waits for the start, then works until it is told to stop."""

    def __init__(self, number: int, profile: Profile, tally: Tally) -> None:
        self._number = number
        self._profile = profile
        self._tally = tally
        self._random = Random(number)  # a load that can be repeated
        self._steps: list[Step] = []
        self._at = 0
        self._expected = b""
        self._got = b""
        self._stopping = False
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self._transport.write(p.startup_message(self._profile.startup))

    def data_received(self, data: bytes) -> None:
        got = self._got + data if self._got else data
        expected = self._expected
        if got == expected:
            self._got = b""
            self._tally.statements += 1
            self._advance()
        elif not expected:
            self._greeted(got)
        elif expected.startswith(got):
            self._got = got
        else:
            self._wrong(got)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._wrong(self._got + b" and then the end of the connection")

    def begin(self) -> None:
        """Start to work, without an end."""
        self._advance()

    def stop(self) -> None:
        """Finish the piece of work, and hang up."""
        self._stopping = True

    def give_up(self) -> None:
        """Note that the answer did not come."""
        self._wrong(self._got + b" and nothing more")

    def _greeted(self, got: bytes) -> None:
        self._got = got
        if got.endswith(p.READY[p.IDLE]) and got[0] == p.AUTHENTICATION:
            self._got = b""
            self._steps = self._profile.setup
            self._advance()
        elif got[0] == p.ERROR_RESPONSE:
            self._wrong(got)

    def _advance(self) -> None:
        if self._at == len(self._steps):
            self._at = 0
            if not self.ready.done():
                self.ready.set_result(None)
                self._steps = []
                return
            self._tally.transactions += 1
            if self._stopping:
                self.done.set_result(None)
                self._transport.close()
                return
            self._steps = self._random.choice(self._profile.work)
        request, self._expected = self._steps[self._at]
        self._at += 1
        self._transport.write(request)

    def _wrong(self, got: bytes) -> None:
        if not self.done.done():
            request = self._steps[self._at - 1][0] if self._steps else b"the start-up packet"
            self._tally.wrong.append(
                f"client {self._number} asked {request!r}\n  expected {self._expected!r}\n  and got  {got!r}"
            )
            self.done.set_result(None)
        if not self.ready.done():
            self.ready.set_result(None)
        self._transport.close()


async def load(clients: list[Client], port: int, seconds: float, own: SideCart, tally: Tally) -> None:
    """Let the clients in, let them work for so long, and print what was seen."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(LOGINS)

    async def let_in(client: Client) -> None:
        async with gate:
            await loop.create_connection(lambda: client, "127.0.0.1", port)
            await client.ready

    before = own.memory()
    started = time.perf_counter()
    await asyncio.gather(*map(let_in, clients))
    click.echo(f"  {len(clients)} clients were set up in {time.perf_counter() - started:.1f} s")
    replays = own.metric("sidecart_upstream_replays_total")
    tally.statements = tally.transactions = 0
    started = time.perf_counter()
    for client in clients:
        if not client.done.done():
            client.begin()
    await asyncio.sleep(seconds)
    elapsed = time.perf_counter() - started
    statements, transactions = tally.statements, tally.transactions
    memory = own.memory() - before
    for client in clients:
        client.stop()
    await asyncio.wait([client.done for client in clients], timeout=PATIENCE)
    for client in clients:
        if not client.done.done():
            client.give_up()
    replays = own.metric("sidecart_upstream_replays_total") - replays
    click.echo(f"  {statements / elapsed:.0f} statements/s ({transactions / elapsed:.0f} pieces of work/s)")
    click.echo(f"  {replays / max(1, tally.statements):.2f} replays of settings and prepared statements per statement")
    click.echo(f"  {memory / len(clients) / 1024:.1f} kB of memory per client")


def fill(server: EmbeddedServer) -> list[str]:
    """Make the database, the role and tables of one name in many schemas; return the names of the time zones."""
    server.sql(f"CREATE ROLE {ROLE} LOGIN; CREATE DATABASE {DATABASE};")
    tables = (
        f"CREATE SCHEMA {name}; GRANT USAGE ON SCHEMA {name} TO {ROLE};"
        f"CREATE TABLE {name}.things (id int PRIMARY KEY, note text);"
        f"INSERT INTO {name}.things SELECT n, 'thing ' || n || ' of {name}' FROM generate_series(1, {ROWS}) n;"
        f"GRANT SELECT ON {name}.things TO {ROLE};"
        for name in (f"s{number}" for number in range(SCHEMAS))
    )
    server.sql("".join(tables), DATABASE)
    names = server.sql("SELECT name FROM pg_timezone_names WHERE name !~ '^(posix|right)/' ORDER BY 1")
    return names.split() or ["UTC"]


@click.command()
@click.option("--clients", "count", default=2000, show_default=True, help="Clients at the same time.")
@click.option("--upstreams", default=10, show_default=True, help="Connections to PostgreSQL.")
@click.option("--seconds", default=300.0, show_default=True, help="Length of the load.")
def main(count: int, upstreams: int, seconds: float) -> None:
    """Print the rate, and how many answers were wrong and how many pins there were: both have to be 0."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 2 * count + 200
    if hard not in (resource.RLIM_INFINITY, -1) and hard < files:
        raise click.ClickException(f"{count} clients need {files} open files; `ulimit -Hn` allows {hard}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))  # SideCart inherits it
    with EmbeddedServer(auth="trust", plaintext=True) as server:
        zones = fill(server)
        oracle = Oracle(server.port)
        known = []
        for profile, sets in profiles(count, zones):
            oracle.learn(profile, sets)
            known.append(profile)
        oracle.close()
        click.echo(f"{count} clients, {upstreams} upstreams, {seconds:g} s, {len(zones)} time zones")
        tally = Tally()
        upstream = Upstream(
            host=server.host, port=server.port, dbname=DATABASE, user=ROLE, sslrootcert=str(server.ca_file)
        )
        limits = {
            "SIDECART_POOL_DEFAULT_POOL_SIZE": upstreams,
            "SIDECART_POOL_MIN_POOL_SIZE": upstreams,
            "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "60s",
            "SIDECART_POOL_QUERY_WAIT_NOTIFY": 0,  # a NOTICE would be an answer that PostgreSQL does not give
            "SIDECART_CLIENT_MAX_CLIENT_CONN": count + 10,
            "SIDECART_CLIENT_CLIENT_LOGIN_TIMEOUT": "60s",
            "SIDECART_LOG_LEVEL": "error",
        }
        with SideCart(upstream, **limits) as own:

            async def run() -> None:
                clients = [Client(number, profile, tally) for number, profile in enumerate(known)]
                await load(clients, own.port, seconds, own, tally)

            uvloop.run(run())
            page = own.get("/metrics").splitlines()
        pins = sum(float(line.rpartition(" ")[2]) for line in page if line.startswith("sidecart_pins_total{"))
        bugs = sum(float(line.rpartition(" ")[2]) for line in page if line.startswith("sidecart_bugs_total"))
    click.echo(f"  {len(tally.wrong)} wrong answers, {pins:.0f} pins, {bugs:.0f} bugs")
    for text in tally.wrong[:5]:
        click.echo(text)
    sys.exit(bool(tally.wrong or pins or bugs))


if __name__ == "__main__":
    main()

"""Play scripts twice: each alone on a connection to PostgreSQL, and all of them through SideCart, in a fixed order.

One thread and plain sockets: whose step is next is decided here, and nowhere else. A client in a transaction, or one
that keeps an upstream for another reason, may leave no upstream to the others: then a client's turn passes while it
waits for its answer, so that no play comes to a standstill.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from proxy import protocol as p
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from tests.model import writer
from tests.model.conversation import GLANCE, LOOK, PATIENCE, Answer, Connection, Seen
from tests.model.following import REPORTS_CHANGES, major_of, said_once, said_twice
from tests.model.scripts import Batch, End, How, Play, Script, StrayCancel, say
from tests.running import SideCart, reader_of, wait_until

_KEEPS = re.compile(rb"(?i)PREPARE|WITH HOLD")
"""What may keep an upstream beyond a transaction. Too much here makes a play less orderly, too little makes it slow."""

_BEGIN = re.compile(rb"(?i)\b(begin|start transaction)\b[^;]*;?\0")


class Watch:
    """Ask PostgreSQL, as its superuser, what runs."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._connection = Connection(server.port, {"user": server.superuser, "database": "postgres"})
        self._connection.collect()

    def rows(self, text: str) -> list[list[bytes | None]]:
        return rows(self._connection, text)

    def sleeps(self, text: str) -> bool:
        """Return whether the last statement of a text is asleep; SideCart may have put one of its own ahead of it."""
        last = text.rpartition(";")[2].strip().replace("'", "''")
        asked = f"right(query, length('{last}')) = '{last}'"
        return bool(self.rows(f"SELECT 1 FROM pg_stat_activity WHERE {asked} AND wait_event = 'PgSleep'"))

    def close(self) -> None:
        self._connection.leave(End.TERMINATE)


def rows(connection: Connection, text: str) -> list[list[bytes | None]]:
    """Run a Query and return its rows."""
    batch = say(text)
    connection.send(batch, batch.messages[0].data)
    connection.collect()
    messages = connection.answers.pop().messages
    assert all(kind not in ("E", "end") for kind, _ in messages), messages
    return [p.row_values(body) for kind, body in messages if kind == "D" and isinstance(body, bytes)]


AGAIN = 10.0
"""How long a cancel may take until there is another one, which could hit the message behind."""


def until_cancelled(connection: Connection, watch: Watch, *, sure: bool) -> bool:
    """Cancel what is owed once it is asleep, and read the answer; return False if it stands in line, asleep nowhere."""
    deadline = time.monotonic() + PATIENCE
    while not connection.collect(GLANCE):
        assert connection.owed is not None
        if watch.sleeps(connection.owed.cancelled):
            connection.cancel()
            connection.collect(AGAIN)
        elif not sure:
            return False
        if time.monotonic() > deadline:
            connection.collect()
    return True


# --- on private connections ---------------------------------------------------------------------------------------


def alone(port: int, scripts: Sequence[Script], watch: Watch) -> list[list[Answer]]:
    """Return each script's answers on a connection of its own. They run side by side, which they cannot notice."""
    connections = [Connection(port, _parameters(script)) for script in scripts]
    for connection in connections:
        connection.collect()
    for number in range(max(len(script.steps) for script in scripts)):
        at_work = [
            (connection, script.steps[number])
            for connection, script in zip(connections, scripts, strict=True)
            if number < len(script.steps) and not connection.ended
        ]
        for connection, step in at_work:
            if isinstance(step, StrayCancel):
                connection.cancel(step.own_key)
            else:
                connection.send(step, b"".join(message.direct for message in step.messages))
        for connection, step in at_work:
            if isinstance(step, Batch) and step.cancelled:
                until_cancelled(connection, watch, sure=True)
            connection.collect()
    for connection in connections:
        connection.leave(End.TERMINATE)
    return [connection.answers for connection in connections]


def _parameters(script: Script) -> dict[str, str]:
    return {"user": sample.READER, "database": sample.DATABASE, **dict(script.parameters)}


# --- through SideCart ---------------------------------------------------------------------------------------------


class _Actor:
    """Hold one client of a play."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connection: Connection | None = None
        self.taken = 0
        self.gone = False
        self._keeps = False

    @property
    def holds(self) -> bool:
        """Whether it may hold an upstream."""
        connection = self.connection
        if connection is None or self.gone:
            return False
        return not connection.idle or connection.status != p.IDLE or connection.has_flushed or self._keeps

    @property
    def has_one(self) -> bool:
        """Whether it certainly holds an upstream until it is answered.

        A BEGIN alone may not have needed any yet, nor its failure; a pipeline may give it back in the middle.
        """
        connection = self.connection
        if connection is None or connection.answered is None:
            return False
        if connection.owed is not None and connection.owed.readies > 1:
            return False
        if connection.status != p.IN_TRANSACTION:
            return connection.has_flushed
        texts = connection.answered.texts
        return bool(texts) and not any(_BEGIN.search(message.data) for message in texts)

    @property
    def answers(self) -> list[Answer]:
        return [] if self.connection is None else self.connection.answers

    def says(self, step: Batch) -> bytes:
        self._keeps = self._keeps or any(_KEEPS.search(message.data) for message in step.messages)
        return b"".join(message.data for message in step.messages)


class Performance:
    """Let the clients of a play go on through a SideCart of so many upstreams, turn by turn."""

    def __init__(self, play: Play, port: int, upstreams: int, watch: Watch) -> None:
        self.play = play
        self._port = port
        self._upstreams = upstreams
        self._watch = watch
        self.actors = [_Actor(script) for script in play.scripts]

    def run(self) -> list[list[Answer]]:
        for turn in self.play.turns:
            if here := self._here():
                self._step(here[turn.who % len(here)], turn.how)
        got_on = time.monotonic()
        while here := self._here():
            if any(self._finish(actor) for actor in here):
                got_on = time.monotonic()
            elif time.monotonic() > got_on + PATIENCE:
                for actor in here:
                    if actor.connection is not None:
                        actor.connection.give_up()
        return [actor.answers for actor in self.actors]

    def close(self) -> None:
        """End what a play has left open that did not come to its end."""
        for actor in self.actors:
            if actor.connection is not None:
                actor.connection.leave(End.CLOSE)

    def _here(self) -> list[_Actor]:
        return [actor for actor in self.actors if not actor.gone]

    def _finish(self, actor: _Actor) -> bool:
        """Let a client go on to its end, or until it has to wait for others; return whether it got on at all."""
        if not self._step(actor, How.WAIT):
            return False
        while not actor.gone and self._step(actor, How.WAIT):
            pass
        return True

    def _step(self, actor: _Actor, how: How) -> bool:
        """Let a client take its next step; return False where it waits for others, and its turn passes."""
        script, connection = actor.script, actor.connection
        if connection is None:
            actor.connection = Connection(self._port, _parameters(script))
            return self._answered(actor)
        connection.send_rest()
        last = actor.taken == len(script.steps)
        if not (last and script.end is not End.TERMINATE) and not self._answered(actor):
            return False
        if last or connection.ended:
            self._leave(actor, connection)
            return True
        step = script.steps[actor.taken]
        actor.taken += 1
        if isinstance(step, StrayCancel):
            connection.cancel(step.own_key)
            return True
        if how in (How.TORN, How.TORN_WIDE):
            connection.send_torn(step, actor.says(step))
        else:
            connection.send(step, actor.says(step))
        if step.cancelled or how in (How.WAIT, How.TORN):
            connection.send_rest()
            self._answered(actor)
        return True

    def _answered(self, actor: _Actor) -> bool:
        """Read what is owed to a client; return False where it waits for others."""
        connection, sure = actor.connection, self._is_sure(actor)
        if connection is None:
            return True
        if connection.owed is not None and connection.owed.cancelled:
            return until_cancelled(connection, self._watch, sure=sure)
        return connection.collect(LOOK if sure else GLANCE)

    def _is_sure(self, actor: _Actor) -> bool:
        """Whether this client gets its answer though no other one goes on."""
        others = sum(other.holds for other in self.actors if other is not actor)
        return actor.has_one or others < self._upstreams

    def _leave(self, actor: _Actor, connection: Connection) -> None:
        script = actor.script
        if script.unheard is not None and not connection.ended:
            data = actor.says(script.unheard)
            connection.write(data[: len(data) * script.cut // 16])
        connection.leave(script.end)
        actor.gone = True


# --- what is found ------------------------------------------------------------------------------------------------

LEAKS = """
SELECT 'upstream', pg_backend_pid()::text
UNION ALL SELECT 'setting', name || ' = ' || setting FROM pg_settings
    WHERE source = 'session' AND name NOT LIKE 'transaction\\_%'
UNION ALL SELECT 'custom setting', name || ' = ' || current_setting(name, true)
    FROM (VALUES ('app.tenant'), ('app.user')) AS used (name) WHERE current_setting(name, true) IS NOT NULL
UNION ALL SELECT 'prepared statement', name || ': ' || statement FROM pg_prepared_statements WHERE from_sql
    OR name NOT LIKE 'sidecart%'
UNION ALL SELECT 'cursor', name || ': ' || statement FROM pg_cursors
UNION ALL SELECT 'channel', channel FROM pg_listening_channels() AS channel
UNION ALL SELECT 'advisory lock', objid::text FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
UNION ALL SELECT 'temporary schema', pg_my_temp_schema()::text WHERE pg_my_temp_schema() <> 0
"""
"""What a session holds that nobody has asked for; on a new private connection it is the first row alone."""


class Stage:
    """Play on PostgreSQL, and through a SideCart before it; tell what differs, and what idle upstreams still hold."""

    def __init__(self, server: EmbeddedServer, sidecart: SideCart, upstreams: int) -> None:
        self.port = server.port
        self.upstreams = upstreams
        self._sidecart = sidecart
        self._watch = Watch(server)
        self._askers: list[Connection] = []

    @property
    def sidecart_port(self) -> int:
        return self._sidecart.port

    def close(self) -> None:
        self._watch.close()
        for asker in self._askers:
            asker.leave(End.TERMINATE)
        assert self._sidecart.metric("sidecart_bugs_total") == 0, self._sidecart.log[-8000:]

    def assert_faithful(self, play: Play) -> None:
        """Fail with all that is needed to understand each client's first difference, and each leak."""
        expected = alone(self.port, play.scripts, self._watch)
        performance = Performance(play, self.sidecart_port, self.upstreams, self._watch)
        with closing(performance):
            found = performance.run()
        told = []
        for number, script in enumerate(play.scripts):
            if what := difference(script, expected[number], found[number]):
                told.append(f"client {number}, {what}")
        told += self.leaks()
        if told:
            self.renew()
        assert not told, "\n".join(["", *told, repr(play)])

    def renew(self) -> None:
        """End all upstreams: what a play has left there must not fail the next ones, by which it is shrunk."""
        of_reader = f"FROM pg_stat_activity WHERE usename = '{sample.READER}'"
        old = self._watch.rows(f"SELECT max(backend_start) {of_reader}")[0][0] or b"-infinity"
        self._watch.rows(f"SELECT pg_terminate_backend(pid) {of_reader}")
        still_there = f"SELECT 1 {of_reader} AND backend_start <= '{old.decode()}'"
        wait_until(lambda: not self._watch.rows(still_there), PATIENCE, "the upstreams to end")

    def leaks(self) -> list[str]:
        """Lease all upstreams at once, which waits for the pool to come to rest, and ask each one what it holds."""
        while len(self._askers) < self.upstreams:
            self._askers.append(Connection(self._sidecart.port, _parameters(Script((), ()))))
            self._askers[-1].collect()
        begin, ask, commit = say("BEGIN"), say(LEAKS), say("COMMIT")
        held: list[list[bytes | None]] = []
        for batch in (begin, ask, commit):
            for asker in self._askers:
                asker.send(batch, batch.messages[0].data)
            for asker in self._askers:
                asker.collect()
        out = []
        for asker in self._askers:
            messages = [message for answer in asker.answers[-3:] for message in answer.messages]
            out += [
                f"an upstream did not come back to rest: {kind} {body}"
                for kind, body in messages
                if kind in ("end", "E")
            ]
            held += [p.row_values(body) for kind, body in messages if kind == "D" and isinstance(body, bytes)]
            asker.answers.clear()
        if out:
            for asker in self._askers:
                asker.leave(End.CLOSE)
            self._askers.clear()
            return out
        pids = {value for what, value in held if what == b"upstream"}
        assert len(pids) == self.upstreams, "each asker leases an upstream of its own"
        return [
            f"an idle upstream holds a {(what or b'').decode()}: {(value or b'').decode()}"
            for what, value in held
            if what != b"upstream"
        ]


@contextmanager
def stages(server: EmbeddedServer, **reached_by: Any) -> Iterator[Callable[[int], Stage]]:
    """Fill a server with the sample shop and the functions of `writer`; yield what returns a stage by its upstreams.

    Each is set up once; `reached_by` overrides how SideCart reaches the server. At the end no SideCart may have counted
    a bug.
    """
    logins = sample.create(server)
    server.sql(f"ALTER ROLE {logins.reader} CONNECTION LIMIT -1")
    server.sql(writer.TABLES + writer.FUNCTIONS, logins.dbname)
    reached = replace(reader_of(server, logins), **reached_by)
    with ExitStack() as stack:

        @cache
        def stage(upstreams: int) -> Stage:
            sidecart = SideCart(
                reached,
                SIDECART_POOL_DEFAULT_POOL_SIZE=upstreams,
                SIDECART_POOL_MIN_POOL_SIZE=upstreams,
                SIDECART_POOL_QUERY_WAIT_TIMEOUT="1min",
                SIDECART_FILTER_ALLOW_FUNCTIONS=writer.ALLOWED,
                SIDECART_POOL_QUERY_WAIT_NOTIFY=0,  # its notice depends on the machine's speed
            )
            return stack.enter_context(closing(Stage(server, stack.enter_context(sidecart), upstreams)))

        yield stage


def difference(script: Script, expected: list[Answer], found: list[Answer]) -> str:
    """Describe where one client's answers first differ, with what led to it; empty where they do not."""
    if script.end is not End.TERMINATE:
        expected = expected[: len(found)]  # the client that left has not waited for the others
    if expected and major_of(expected[0].parameters) < REPORTS_CHANGES:
        sides = [[each.parameters for each in side] for side in (expected, found)]
        left_out = said_twice(sides[0]) | said_twice(sides[1])
        expected, found = (
            [Answer(each.messages, told) for each, told in zip(side, said_once(parameters, left_out), strict=True)]
            for side, parameters in zip((expected, found), sides, strict=True)
        )
    said = ["the greeting", *(repr(step) for step in script.steps if isinstance(step, Batch))]
    for number in range(max(len(expected), len(found))):
        theirs = expected[number] if number < len(expected) else Answer([("end", "nothing was asked any more")])
        ours = found[number] if number < len(found) else Answer([("end", "nothing was asked any more")])
        if theirs != ours:
            return "\n".join([f"the answer to {said[number]}", *first_difference(theirs, ours)])
    return ""


def first_difference(theirs: Answer, ours: Answer) -> list[str]:
    """Show the first message that differs, from both sides, or the ParameterStatus messages that do."""
    if theirs.messages == ours.messages:
        what = "ParameterStatus"
        left: object = sorted(theirs.parameters - ours.parameters)
        right: object = sorted(ours.parameters - theirs.parameters)
    else:
        nothing: Seen = ("nothing", "")
        longest = max(len(theirs.messages), len(ours.messages))
        pairs = [side.messages + [nothing] * (longest - len(side.messages)) for side in (theirs, ours)]
        number = next(n for n in range(longest) if pairs[0][n] != pairs[1][n])
        what, left, right = f"message {number + 1}", pairs[0][number], pairs[1][number]
    return [f"  {what} from PostgreSQL: {str(left)[:400]}", f"  {what} through SideCart: {str(right)[:400]}"]

"""Whole groups in one step: nothing differs from what the general path does of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock
from weakref import WeakValueDictionary

import pytest
from hypothesis import given, settings, strategies

from proxy import protocol as p
from proxy.pooling.guard import GUARD
from proxy.pooling.owed import GUARDING
from proxy.pooling.sent import MustWait
from proxy.pooling.statements import Statement
from proxy.session import direct, reparsing
from proxy.sql.verdict import Verdict
from proxy.stats import Stats
from tests.unit.session.scenes import busy, newborn, ours, prepare
from tests.unit.session.server import Server
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    COMMITTED,
    EXECUTE,
    PARSED,
    READY_I,
    READY_T,
    ROWS,
    SELECTED,
    SYNC,
    FakeUpstream,
    FakeWire,
    Guest,
    Town,
    bind,
    group,
)


def test_group_takes_the_direct_path_the_second_time_and_nothing_differs(town: Town) -> None:
    session, client = town.client()
    answer = PARSED + BOUND + ROWS + SELECTED + READY_I
    for _ in range(3):
        session.client_data(group(b"select $1"))
        upstream = town.link(session)
        assert upstream.take() == group(b"select $1")
        upstream.says(answer)
        assert client.take() == answer
        assert session.link is None
        assert session.unnamed.message is not None
        assert session.unnamed.message[0] == p.parse(b"", b"select $1")
    assert town.filter.plain.parses.keys() == {p.parse(b"", b"select $1")}
    assert town.stats.statements["allow", "select"] == 3


@pytest.mark.parametrize("size", [1, 7, 30, 1000])
def test_direct_path_and_the_handlers_agree_however_the_bytes_come(town: Town, size: int) -> None:
    session, client = town.client()
    data = group(b"select $1") * 2 + group(b"select $1", portal=b"p") + group(b"drop table t") + group(b"select $1")
    town.filter.remember_parse(p.parse(b"", b"select $1"), town.filter.judge(b"select $1", extended=True))
    sent = b""
    for i in range(0, len(data), size):
        session.client_data(data[i : i + size])
        sent += town.link(session).take() if session.link is not None else b""
    # The refused group keeps its Bind, Describe and Execute, or other stand-ins: the server skips them all.
    assert sent.startswith(group(b"select $1") * 2 + group(b"select $1", portal=b"p") + p.REFUSED_PARSE)
    assert sent.endswith(SYNC + group(b"select $1"))
    assert b"drop" not in sent
    good = PARSED + BOUND + ROWS + SELECTED + READY_I
    town.link(session).says(good * 3, p.error_response("ERROR", "42601", "stand-in"), READY_I, good)
    assert client.kinds() == "12TCZ" * 3 + "EZ" + "12TCZ"
    assert session.link is None


def test_refused_or_effective_parse_never_takes_the_direct_path(town: Town) -> None:
    session, _ = town.client()
    for text in (b"delete from t", b"set work_mem = '1MB'", b"begin read write"):
        session.client_data(group(text))
    assert not town.filter.plain.parses
    town.filter.remember_parse(p.parse(b"", b"select 1"), town.filter.judge(b"select 1", extended=True))
    town.filter.learn_version(150000)
    assert not town.filter.plain.parses


def test_group_of_a_client_that_waits_is_served_later(town: Town) -> None:
    holders = busy(town)
    town.filter.remember_parse(p.parse(b"", b"select 1"), town.filter.judge(b"select 1", extended=True))
    session, client = town.client()
    session.client_data(group(b"select 1"))
    assert session.waiting
    upstream = town.link(holders[0])
    upstream.take()
    holders[0].client_data(p.query(b"commit"))
    upstream.take()
    upstream.says(p.message(p.COMMAND_COMPLETE, b"COMMIT\0"), READY_I)
    assert upstream.take() == group(b"select 1")
    upstream.says(PARSED, BOUND, ROWS, SELECTED, READY_I)
    assert client.kinds() == "12TCZ"


def test_group_of_a_prepared_statement_takes_the_direct_path_and_nothing_differs(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"s1")
    client.take()
    rest = p.message(p.DESCRIBE, b"P\0") + EXECUTE + SYNC
    for parameters in (b"\0\0\0\0\0\0", b"\0\0\0\1\0\0\0\2xy\0\0"):
        session.client_data(bind(b"s1", tail=parameters) + rest)
        assert upstream.take() == bind(ours(1), tail=parameters) + rest
        upstream.says(BOUND, ROWS, SELECTED, READY_I)
        assert client.take() == BOUND + ROWS + SELECTED + READY_I and session.link is None
    session.client_data(p.message(p.CLOSE, b"Ss1\0") + SYNC + bind(b"s1") + rest)
    assert client.kinds() == "3ZEZ"


# --- the same, step by step -------------------------------------------------------------------------------------------

DESCRIBE = p.target(p.DESCRIBE, b"P", b"")
TEXTS = (
    b"select 1",
    b"select $1",
    b"show timezone",
    b"select nope",
    b"begin",
    b"begin isolation level serializable",
    b"commit",
    b"rollback",
    b"rollback to s",
    b"set work_mem to '1MB'",
    b"set local work_mem to '1MB'",
    b"set client_encoding to latin1",
    b"set search_path to elsewhere",
    b"select set_config('work_mem', '2MB', false)",
    b"reset all",
    b"discard all",
    b"discard plans",
    b"prepare s as select 1",
    b"deallocate all",
    b"execute s1",
    b"declare c cursor for select 1",
    b"fetch c",
    b"delete from t",
    b"",
)
PLAIN = TEXTS[:3]
NAMES = (b"s1", b"s2")


def used(name: bytes, describe: bytes = DESCRIBE) -> bytes:
    """Build what drivers send for a prepared statement."""
    return bind(name) + describe + EXECUTE + SYNC


text = strategies.sampled_from(6 * PLAIN + TEXTS)
name = strategies.sampled_from((*NAMES, b""))
describe = strategies.sampled_from((DESCRIBE, b""))
message = strategies.one_of(
    strategies.builds(p.query, text),
    strategies.builds(p.parse, name, text),
    strategies.builds(bind, name, strategies.sampled_from((b"", b"p"))),
    strategies.builds(p.target, strategies.just(p.DESCRIBE), strategies.just(b"S"), name),
    strategies.builds(p.execute, strategies.sampled_from((b"", b"p"))),
    strategies.builds(p.target, strategies.just(p.CLOSE), strategies.sampled_from((b"S", b"P")), name),
    strategies.sampled_from((SYNC, SYNC, p.message(p.FLUSH))),
)
direct_group = strategies.one_of(
    strategies.builds(lambda text, describe: p.parse(b"", text) + used(b"", describe), text, describe),
    strategies.builds(used, strategies.sampled_from(NAMES), describe),
    strategies.builds(p.query, strategies.sampled_from(PLAIN)),
)
chunk = strategies.one_of(
    direct_group, direct_group, direct_group, message, strategies.lists(message, max_size=4).map(b"".join)
)
client = strategies.sampled_from((0, 0, 0, 1))
step = strategies.one_of(
    strategies.tuples(strategies.just("client"), client, chunk),
    strategies.tuples(strategies.just("client"), client, chunk),
    strategies.tuples(strategies.just("halves"), client, strategies.tuples(chunk, strategies.integers(1, 60))),
    strategies.tuples(
        strategies.just("server"),
        client,
        strategies.tuples(
            strategies.integers(1, 9), strategies.sampled_from((0, 0, 0, 1, 2, 4)), strategies.booleans()
        ),
    ),
    strategies.tuples(strategies.just("server"), client, strategies.just((99, 0, False))),
    strategies.tuples(strategies.sampled_from(("lost", "cancel", "catalogue")), client, strategies.none()),
)
Step = tuple[str, int, Any]
ALL: Step = ("server", 0, (99, 0, False))
BEGINNINGS: tuple[list[Step], ...] = (
    [],
    [("client", 0, p.query(b"begin isolation level serializable")), ALL],
    [("client", 0, p.query(b"begin"))],
    [("client", 0, p.query(b"begin")), ("client", 0, p.query(b"delete from t"))],
    [("client", 0, p.query(b"begin") + p.query(b"select 1")), ALL, ("client", 0, p.query(b"select nope")), ALL],
    [("client", 0, p.query(b"set work_mem to '1MB'"))],
    [("client", 0, p.query(b"begin isolation level serializable")), ("client", 0, p.query(b"set work_mem to '1MB'"))],
    [("client", 0, p.query(b"select 1"))],
    [("client", 0, p.parse(b"", b"delete from t"))],
    [("client", 0, p.parse(b"", b"select nope")), ALL],
    [("client", 1, p.query(b"begin isolation level serializable")), ("server", 1, (99, 0, False))],
    [("client", 0, p.query(b"declare c cursor with hold for select 1")), ALL],
)
"""In a transaction, in one that no server knows of, in a failed one; behind what is unanswered; ignored up to Sync."""


class Stage:
    """Two clients, and as many upstreams as there are, with a script that runs in steps."""

    def __init__(self, size: int, *, blind: bool, observe: bool) -> None:
        self.town = Town(size)
        self.town.house.observe = observe
        self.blind = blind
        self.servers: dict[FakeUpstream, Server] = {}
        self.guests = [self.town.client() for _ in range(2)]
        self._meet()
        for text in TEXTS:
            self.town.filter.remember_parse(p.parse(b"", text), self.town.filter.judge(text, extended=True))
        for guest in range(2):
            self.act("client", guest, b"".join(p.parse(name, b"select " + name[1:]) for name in NAMES) + SYNC)
            self.act("server", guest, (99, 0, False))

    def act(self, kind: str, who: int, what: Any) -> dict[str, Any]:
        """Do one step; return all that is to be seen behind it."""
        guest, wire = self.guests[who]
        link = guest.session.link
        if wire.closed:
            pass
        elif kind == "client":
            guest.client_data(what)
        elif kind == "halves":
            data, at = what
            guest.client_data(data[:at])
            if data[at:]:
                guest.client_data(data[at:])
        elif kind == "cancel":
            guest.cancel()
        elif kind == "catalogue":
            self.town.filter.learn_catalog(newborn("f"))
        elif link is not None and kind == "lost":
            guest.upstream_lost()
        elif link is not None and kind == "server":
            self._answer(self.servers[link.upstream], *what)
        sent = self._meet()
        guards = sum(each.count(GUARD) for each in sent)
        seen = {"sent": [each.replace(GUARD, b"") for each in sent], "guards": guards, **self._counted()}
        for number, each in enumerate(self.guests):
            seen |= {f"{what} of {number}": found for what, found in self._seen(*each).items()}
        return seen

    def _answer(self, server: Server, count: int, fails: int, halves: bool) -> None:
        answers = [server.answer(fails=bool(fails >> number & 1)) for number in range(count)]
        data = b"".join(answers)
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]) if halves else (data,):
            owner = server.upstream.owner
            if piece and owner is not None:
                owner.upstream_data(piece)

    def _meet(self) -> list[bytes]:
        """Open what is to be opened, close what is to be cleaned; return what each upstream was sent."""
        pool = self.town.pool
        for dirty in list(pool.cleaning):
            pool.lost(dirty, self.town.now)
        while self.town.asked:
            self.town.opened(blind=self.blind)
        for upstream in [*pool.idle, *pool.leased]:
            self.servers.setdefault(upstream, Server(upstream))
        return [server.take() for server in self.servers.values()]

    def _counted(self) -> dict[str, object]:
        town, counts = self.town, self.town.filter.counts
        stats = {name: getattr(town.stats, name) for name in Stats.__slots__ if name != "queue_wait"}
        verdicts = (counts.hits + counts.shape_hits, counts.misses)  # of numbers it is not looked which they are
        pool = (len(town.pool.idle), len(town.pool.leased), len(town.pool.waiting))
        return {"stats": repr(stats), "verdicts": verdicts, "pool": pool, "log": repr(town.audit.events)}

    def _seen(self, guest: Guest, wire: FakeWire) -> dict[str, object]:
        session = guest.session
        link, ledger, local = session.link, session.ledger, session.local
        kept = ledger.pins or ledger.touched or ledger.unsure or ledger.lost or ledger.recodes or ledger.loosened
        assert not (ledger.at_rest and (kept or ledger.reading)), "a release would not look"
        seen: dict[str, object] = {
            "got": wire.take(),
            "closed": (wire.closed, wire.reading),
            "awaits": session.awaits,
            "groups": repr(session.groups),
            "status": (session.status, local.status, local.seen, local.parting is None),
            "ignores": (session.swallowing, session.ignored),
            "unnamed": asked(lambda: session.unnamed.which() and session.unnamed.which()[0]),
            "unnamed is there": asked(session.unnamed.there),
            "named": asked(lambda: [(name, each.body) for name, each in session.prepared.all().items()]),
            "doing": session.doing,
            "pins": sorted(ledger.pins),
            "touched": sorted(ledger.touched),
            "settings": ledger.settings.items,
            "unsure": (bool(ledger.unsure), bool(ledger.recodes), ledger.reading, ledger.scarred),
            "times": (session.answered, session.activity, session.repeated),
            "kept": (session.inbox.have, session.inbox.flow, session.unfinished, session.resting),
        }
        if link is not None:
            seen |= {
                "owed": [reply.like.name for reply in link.replies.owed if not (link.blind and reply is GUARDING)],
                "unit": link.unit,
                "group open": link.group_open,
                "bound": (link.bound, link.bound_before),
                "course": (
                    link.transaction.status,
                    link.transaction.is_steered,
                    link.transaction.ending,
                    link.transaction.block,
                ),
                "put back": (link.put_back, link.prefix, link.suffix),
                "held": sorted(link.held.names.values()),
                "upstream": (link.upstream.settings, sorted(link.upstream.customs), link.cancelled),
            }
        return seen


def asked(question: Callable[[], object]) -> object:
    """Return the answer, or that there is none yet."""
    try:
        return question()
    except MustWait as wait:
        return wait.awaits


@contextmanager
def alone() -> Iterator[None]:
    """Let statements be shared within one stage only; and what a Describe of a portal says be noted in none.

    The general path notes it, to look again where the unnamed statement is repeated on another upstream.
    """
    with (
        mock.patch.object(Statement, "_shared", WeakValueDictionary()),
        mock.patch.object(reparsing, "tell_rows", lambda session, message, described: True),
    ):
        yield


@contextmanager
def without_direct_ways() -> Iterator[None]:
    """Have everything go the general path."""
    never = {"return_value": False}
    slot = Verdict.plain
    plain = property(lambda verdict: False, slot.__set__)  # type: ignore[attr-defined]
    with (
        mock.patch.object(direct, "parse_group", **never),
        mock.patch.object(direct, "bind_group", **never),
        mock.patch.object(Verdict, "plain", plain),
    ):
        yield


def same(beginning: list[Step], script: list[Step], size: int, blind: bool, observe: bool) -> None:
    """Run a script twice, the second time without the direct ways; nothing differs behind any of its steps."""
    script = beginning + script
    with alone():
        stage = Stage(size, blind=blind, observe=observe)
        seen = [stage.act(*step) for step in script]
    with alone(), without_direct_ways():
        stage = Stage(size, blind=blind, observe=observe)
        for number, step in enumerate(script):
            found, before = stage.act(*step), seen[number]
            if blind and found["guards"] < before["guards"]:
                found["guards"] = before["guards"]  # a lease whose statement turned out not to be there has one more
            differs = {what: (found.get(what), before.get(what)) for what in found.keys() | before.keys()}
            assert {what: both for what, both in differs.items() if both[0] != both[1]} == {}, (number, step)


scripts = given(
    beginning=strategies.sampled_from(BEGINNINGS),
    script=strategies.lists(step, min_size=4, max_size=20),
    size=strategies.integers(1, 2),
    blind=strategies.booleans(),
    observe=strategies.booleans(),
)


@settings(max_examples=40)
@scripts
def test_direct_ways_do_what_the_general_path_does(
    beginning: list[Step], script: list[Step], size: int, blind: bool, observe: bool
) -> None:
    same(beginning, script, size, blind, observe)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@settings(max_examples=20_000)
@scripts
def test_direct_ways_do_what_the_general_path_does_whatever_comes(
    beginning: list[Step], script: list[Step], size: int, blind: bool, observe: bool
) -> None:
    same(beginning, script, size, blind, observe)


GROUP = p.parse(b"", b"select 1") + used(b"")


def test_group_in_a_failed_transaction_that_no_server_knows_of_takes_no_upstream(town: Town) -> None:
    town.filter.remember_parse(p.parse(b"", b"select 1"), town.filter.judge(b"select 1", extended=True))
    session, client = town.client()
    session.client_data(p.query(b"begin") + p.query(b"delete from t"))
    client.take()
    session.client_data(GROUP)
    assert client.error()["C"] == "25P02"
    assert session.link is None and not town.stats.statements["allow", "select"]


def test_commit_that_came_before_still_takes_no_upstream_for_an_empty_transaction(town: Town) -> None:
    session, client = town.client()
    commit = p.parse(b"", b"commit") + used(b"")
    for begin in (BEGIN, p.query(b"begin")):
        session.client_data(begin)
        if session.link is not None:
            town.link(session).says(BEGUN, READY_T)
        session.client_data(commit)
        if session.link is not None:
            town.link(session).says(PARSED, BOUND, p.message(p.NO_DATA), COMMITTED, READY_I)
        assert session.link is None and session.status == p.IDLE
        client.take()
    assert town.stats.transactions == 1


def test_commit_in_one_group_that_is_lost_has_ended_the_transaction(town: Town) -> None:
    session, client = town.client()
    commit = p.parse(b"", b"commit") + used(b"")
    for _ in range(2):
        session.client_data(BEGIN)
        if session.waiting:
            town.opened()
        town.link(session).says(BEGUN, READY_T)
        client.take()
        session.client_data(commit)
        session.upstream_lost()
        assert client.take().endswith(READY_I) and session.status == p.IDLE


def test_group_that_runs_again_on_another_upstream_counts_once_in_the_cache(town: Town) -> None:
    town.filter.remember_parse(p.parse(b"", b"select 1"), town.filter.judge(b"select 1", extended=True))
    session, _ = town.client()
    hits = town.filter.counts.hits
    session.client_data(GROUP)
    session.upstream_lost()
    assert town.opened().take() == GROUP
    assert town.filter.counts.hits == hits + 1

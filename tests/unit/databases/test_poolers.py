"""How a pooler is recognised that keeps sessions apart, who is served behind one, and when it is looked at again."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.databases.helpers.messages import Results
from proxy.databases.poolers import AGAIN, INTERVAL, TRIES, PoolerWatch, Pooling, look
from proxy.databases.ports import Around
from proxy.errors import CANNOT_CONNECT_NOW, CloseReason, UpstreamError
from proxy.pooling.pool import Backend
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.unit.session.town import Quiet

DOWN = UpstreamError("no more connections allowed", reason=CloseReason.UPSTREAM_LOGIN)


class Pooler:
    """A pooler, and the server behind it: processes by their numbers, each with the last text that it ran.

    `process` says which one answers the reader of this number, and `ends` what becomes of a process whose reader has
    gone: another text, or None. `meanwhile` happens before each question that is answered.
    """

    def __init__(
        self,
        process: Callable[[int], int],
        ends: Callable[[bytes], bytes | None] = lambda last: b"DISCARD ALL",
        meanwhile: Callable[[Pooler], None] = lambda pooler: None,
    ) -> None:
        self.process = process
        self.ends = ends
        self.meanwhile = meanwhile
        self.ran: dict[int, bytes] = {}
        self.readers: list[Reader] = []
        self.server = b"1700000000.25"
        self.shows: Callable[[bytes | None], bytes | None] = lambda last: last
        self.paused = 0.0

    async def reach(self) -> Reader:
        self.readers.append(Reader(self, len(self.readers)))
        return self.readers[-1]

    async def pause(self, seconds: float) -> None:
        self.paused += seconds

    def look(self) -> Pooling | None:
        found = asyncio.run(look(self.reach, self.pause))
        assert all(reader.closed for reader in self.readers)
        return found


class Reader:
    def __init__(self, pooler: Pooler, number: int) -> None:
        self.pooler = pooler
        self.number = number
        self.process = 0
        self.closed = False

    async def ask(self, query: bytes) -> Results:
        assert not self.closed
        pooler = self.pooler
        pooler.meanwhile(pooler)
        self.process = pooler.process(self.number)
        pooler.ran[self.process] = query
        asked = re.search(rb"=\) (\d+)\)$", query)
        if asked is None:
            return [[[b"%d" % self.process, pooler.server]]]
        return [[[pooler.server, pooler.shows(pooler.ran.get(int(asked[1])))]]]

    def close(self) -> None:
        self.closed = True
        ran = self.pooler.ran
        if self.process in ran:
            last = self.pooler.ends(ran.pop(self.process))
            if last is not None:
                ran[self.process] = last


def own(number: int) -> int:
    return 100 + number


def kept(last: bytes) -> bytes | None:
    return last


# --- one look ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [lambda last: b"DISCARD ALL", lambda last: b"reset all; select 1", lambda last: None])
def test_session_that_rests_and_is_cleared_belongs_to_its_connection(ends: Callable[[bytes], bytes | None]) -> None:
    pooler = Pooler(own, ends)
    assert (pooler.look(), pooler.paused) == (Pooling.SESSION, 0)
    assert len(pooler.readers) == 2


def test_one_process_that_answers_both_is_shared() -> None:
    assert Pooler(lambda number: 100, kept).look() is Pooling.SHARED


def test_processes_that_take_turns_are_shared() -> None:
    turns = itertools.cycle([101, 102])
    assert Pooler(lambda number: next(turns), kept).look() is Pooling.SHARED


def test_attack_two_poolers_behind_one_address_look_like_sessions() -> None:
    """Each has a process of its own, which answers one of the two connections alone: nobody clears it."""
    pooler = Pooler(own, kept)
    assert pooler.look() is Pooling.SHARED
    assert pooler.paused > 0.5


def test_process_that_runs_for_others_while_its_connection_rests_is_shared() -> None:
    def others(pooler: Pooler) -> None:
        if 101 in pooler.ran:
            pooler.ran[101] = b"SELECT 'of another client'"

    assert Pooler(own, meanwhile=others).look() is Pooling.SHARED


def test_process_that_is_cleared_while_its_connection_rests_is_shared() -> None:
    """server_reset_query_always."""

    def clear(pooler: Pooler) -> None:
        if 101 in pooler.ran:
            pooler.ran[101] = b"DISCARD ALL"

    assert Pooler(own, meanwhile=clear).look() is Pooling.SHARED


def test_session_with_a_new_owner_proves_nothing_and_the_next_one_is_watched() -> None:
    endings = iter([b"SELECT 'new owner'", b"SELECT 'new owner'", b"DISCARD ALL", None])
    pooler = Pooler(own, lambda last: next(endings))
    assert pooler.look() is Pooling.SESSION
    assert len(pooler.readers) == 4


def test_sessions_that_all_have_new_owners_prove_nothing() -> None:
    pooler = Pooler(own, lambda last: b"SELECT 'new owner'")
    assert pooler.look() is None
    assert len(pooler.readers) == 1 + TRIES


@pytest.mark.parametrize("hidden", [None, b""])
def test_what_cannot_be_seen_proves_nothing(hidden: bytes | None) -> None:
    """The empty text is what pg_stat_activity has where track_activities is off."""
    pooler = Pooler(own)
    pooler.shows = lambda last: hidden
    assert pooler.look() is None


def test_process_of_another_server_proves_nothing() -> None:
    """The same number there is somebody else's process."""
    pooler = Pooler(own)
    servers = itertools.count()

    def next_server(pooler: Pooler) -> None:
        pooler.server = b"%d" % next(servers)

    pooler.meanwhile = next_server
    assert pooler.look() is None


def test_connections_are_closed_when_one_fails() -> None:
    pooler = Pooler(own)
    questions = itertools.count()

    def fail(pooler: Pooler) -> None:
        if next(questions) == 3:
            raise DOWN

    pooler.meanwhile = fail
    with pytest.raises(UpstreamError):
        pooler.look()
    assert [reader.closed for reader in pooler.readers] == [True, True]


# --- who is served ----------------------------------------------------------------------------------------------------


class Live:
    def __init__(self, pid: int) -> None:
        self.backend = Backend(pid=pid)


class Place:
    """A process that serves `shop` behind a pooler, with a clock and a log."""

    def __init__(self, allows: bool) -> None:
        self.now = 1000.0
        self.log = Quiet()
        self.tasks = Tasks()
        self.refused: list[UpstreamError] = []
        self.pooler = Pooler(own)
        self.down = False
        self.looks = 0
        around = Around(Stats(), self.log, self.tasks, lambda: self.now, lambda: 1.0)
        self.watch = PoolerWatch("shop", self._reach, self.refused.append, around, allows=allows)

    async def _reach(self) -> Reader:
        if self.down:
            raise DOWN
        if all(reader.closed for reader in self.pooler.readers):
            self.looks += 1
        return await self.pooler.reach()

    async def log_in(self, pid: int = 7, *others: int, pooled: bool = True) -> None:
        live: Any = [Live(other) for other in others]
        await self.watch.admit(pid, live, pooled=pooled)

    async def fails(self, *pids: int) -> UpstreamError:
        with pytest.raises(UpstreamError) as caught:
            await self.log_in(*pids)
        return caught.value

    async def passes(self, seconds: float) -> None:
        self.now += seconds
        self.watch.tick(self.now)
        for _ in range(200):
            await asyncio.sleep(0)

    def shares(self) -> None:
        """From now on one process answers all."""
        self.pooler = Pooler(lambda number: 100, kept)


def in_place(work: Callable[[Place], Coroutine[Any, Any, None]], *, allows: bool = False) -> Place:
    async def run() -> Place:
        place = Place(allows)
        await work(place)
        await place.tasks.stop()
        return place

    return asyncio.run(run())


def test_server_itself_is_not_looked_at() -> None:
    async def work(place: Place) -> None:
        await place.log_in(7, 8, 9, pooled=False)
        await place.passes(2 * INTERVAL)
        assert place.watch.pooling is None

    assert in_place(work).looks == 0


def test_pooler_that_keeps_sessions_is_looked_at_once_and_told_of() -> None:
    async def work(place: Place) -> None:
        await asyncio.gather(place.log_in(7), place.log_in(8), place.log_in(9))
        await place.log_in(10, 7, 8, 9)
        assert place.watch.pooling is Pooling.SESSION

    place = in_place(work)
    assert place.looks == 1
    assert place.log.events == [("pooler", {"level": "info", "database": "shop", "pooling": "session"})]


def test_nobody_is_served_where_sessions_are_shared() -> None:
    async def work(place: Place) -> None:
        place.shares()
        error = await place.fails()
        assert str(error) == (
            'database "shop" is not served: a pooler in between shares the server\'s sessions among its clients'
        )
        assert (error.sqlstate, error.reason, error.transient) == (
            CANNOT_CONNECT_NOW,
            CloseReason.POOLER_REFUSED,
            False,
        )
        assert "pool_mode = session" in error.for_operator and "sidecart preflight" in error.hint
        assert place.watch.pooling is Pooling.SHARED
        await place.fails()
        assert place.looks == 1  # within AGAIN
        place.now += AGAIN
        await place.fails()
        assert place.looks == 2
        place.pooler = Pooler(own)  # it was mended
        place.now += AGAIN
        await place.log_in()

    assert in_place(work).refused == []  # nobody was served before


def test_all_are_served_where_the_operator_allows_it() -> None:
    async def work(place: Place) -> None:
        place.shares()
        await place.log_in(7)
        await place.log_in(7, 7)
        assert place.watch.pooling is Pooling.SHARED

    place = in_place(work, allows=True)
    assert (place.looks, place.log.events[0][1]["level"]) == (1, "warning")


def test_mode_that_is_changed_while_it_runs_is_found_by_the_next_look() -> None:
    async def work(place: Place) -> None:
        await place.log_in()
        place.shares()
        await place.passes(INTERVAL - 1)
        assert place.refused == []
        await place.passes(1)
        [error] = place.refused
        assert 'database "shop"' in str(error)
        assert error.reason is CloseReason.POOLER_REFUSED
        await place.fails()

    in_place(work)


def test_process_that_answers_two_upstreams_is_a_reason_to_look() -> None:
    async def work(place: Place) -> None:
        await place.log_in(7)
        place.shares()
        await place.log_in(8, 7)
        await place.fails(7, 8, 7)
        assert len(place.refused) == 1

    assert in_place(work).looks == 2


def test_attack_pooler_that_hands_on_the_servers_own_key() -> None:
    async def work(place: Place) -> None:
        place.shares()
        await place.log_in(7, pooled=False)
        with pytest.raises(UpstreamError):
            live: Any = [Live(7)]
            await place.watch.admit(7, live, pooled=False)

    in_place(work)


def test_pooler_that_is_full_is_tried_again_and_one_that_was_seen_is_believed() -> None:
    async def work(place: Place) -> None:
        place.down = True
        error = await place.fails()
        assert "could not be found out" in str(error) and "default_pool_size" in error.for_operator
        assert error.transient
        place.down = False
        await place.log_in()
        place.down = True
        await place.passes(INTERVAL)
        await place.log_in(8, 7)
        assert (place.refused, place.watch.pooling) == ([], Pooling.SESSION)

    in_place(work)


def test_look_that_proves_nothing_lets_nobody_in() -> None:
    async def work(place: Place) -> None:
        place.pooler.shows = lambda last: None
        assert "could not be found out" in str(await place.fails())
        assert place.watch.pooling is None

    in_place(work)


def test_pooler_that_is_gone_is_forgotten() -> None:
    async def work(place: Place) -> None:
        await place.log_in()
        await place.log_in(8, 7, pooled=False)
        assert place.watch.pooling is None

    in_place(work)


def test_attack_login_past_the_pooler_while_another_login_has_it_looked_at() -> None:
    """Behind one address are servers with a pooler and without: what the look finds holds for who waits for it."""

    async def work(place: Place) -> None:
        place.shares()
        behind = asyncio.ensure_future(place.log_in(7))
        while not place.pooler.readers:
            await asyncio.sleep(0)
        while not behind.done():
            await place.log_in(8, pooled=False)
            await asyncio.sleep(0)
        with pytest.raises(UpstreamError, match="shares the server's sessions"):
            await behind

    in_place(work)

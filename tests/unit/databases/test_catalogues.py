"""When a catalogue is loaded, who waits for it, and what is said of it: without processes and servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.databases.catalogues import LONGEST_INTERVAL, LOOK, MIN_INTERVAL, PATIENCE, RETRY, LiveCatalogue
from proxy.databases.helpers.messages import Results
from proxy.databases.helpers.prover import ProofError
from proxy.databases.ports import Around
from proxy.errors import CloseReason, QueryFailedError, UpstreamError
from proxy.filter import Filter
from proxy.session.ports import Question
from proxy.sql.catalog import Catalog
from proxy.sql.policy import Policy
from proxy.sql.resolve import built_in, rows
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.unit.databases.test_helper import Asking
from tests.unit.session.town import Quiet


class Library:
    """A database, its prover and a clock, for its catalogue: loads and looks end when the test says so."""

    def __init__(self, refresh: float = 60.0) -> None:
        self.now = 1000.0
        self.stats = Stats()
        self.audit = Quiet()
        self.tasks = Tasks()
        self.fetched: list[tuple[bool, asyncio.Future[Results]]] = []
        """Whether it is a look, and its answer."""
        self.whole: list[bool] = []
        """Whether what is built in is read, too."""
        self.digest = built_in.digest(15) or ""
        self.opened = self.closed = 0
        self.path = b'"$user", public'
        self.proved = self.unprinted = 0
        self.unprovable = False
        self._refresh = refresh
        self._around = Around(self.stats, self.audit, self.tasks, lambda: self.now, lambda: 1.0)
        self.keeps(Filter())

    def keeps(self, judge: Filter) -> None:
        """Keep the catalogue for this filter."""
        self.filter = judge
        self.catalogue = LiveCatalogue("shop", judge, self._refresh, self._reach, self, self._around)  # type: ignore[arg-type]

    async def _reach(self) -> Library:
        self.opened += 1
        return self

    async def ask(self, query: bytes) -> Results:
        answer = asyncio.get_running_loop().create_future()
        self.fetched.append((b"pg_get_viewdef" not in query, answer))
        self.whole.append(b"p.oid >= 0" in query)
        return await answer

    def close(self) -> None:
        self.closed += 1

    async def prove(self, results: bytes, policy: Policy, paths: tuple[tuple[int, ...], ...] = ()) -> Catalog:
        self.proved += 1
        if self.unprovable:
            raise ProofError("the helper was lost")
        return Catalog(version=self.proved, unprinted=self.unprinted, cleared_under=dict.fromkeys(paths, frozenset()))

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def ends(self, what: str | Exception = "rows") -> None:
        """End the look under way, and the load that follows where something has changed, or one with this error."""
        await self.settle()
        look, answer = self.fetched.pop(0)
        whole = self.whole.pop(0)
        if isinstance(what, Exception):
            answer.set_exception(what)
        else:
            state: list[list[bytes | None]] = [[b"700", self.path.hex().encode(), what.encode()]]
            world: Results = [
                [[self.digest.encode(), b"0" if whole else b"12000"]],
                *([] for _ in range(1, rows.SELECTS)),
            ]
            answer.set_result([state] if look else [[[b"150018"]], state, [[what.encode()]], *world])
        await self.settle()
        if look and self.fetched and not self.fetched[0][0]:
            await self.ends(what)

    async def serves(self) -> None:
        """Load the first catalogue."""
        self.catalogue.need()
        await self.ends()
        assert self.filter.catalog is not None

    async def loads_for_one_who_waits(self, seconds: float) -> None:
        """Have somebody want a newer catalogue, for whom no load begins now, but one does so many seconds later."""
        asking, question = self.wants()
        assert question is not None
        self.catalogue.tick(self.now)
        assert await self.under_way() == 0
        self.now += seconds
        self.catalogue.tick(self.now)
        assert await self.under_way() == 1
        await self.ends()
        assert asking.told == [None]

    def wants(self) -> tuple[Asking, Question | None]:
        asking = Asking()
        return asking, self.catalogue.refresh_for(asking)

    async def asked(self) -> list[tuple[bool, asyncio.Future[Results]]]:
        await self.settle()
        return self.fetched

    async def under_way(self) -> int:
        await self.settle()
        return len(self.fetched)


DOWN = UpstreamError("down", reason=CloseReason.UPSTREAM_LOGIN)


def in_library(work: Callable[[Library], Coroutine[Any, Any, None]], refresh: float = 60.0) -> Library:
    async def run() -> Library:
        library = Library(refresh)
        await work(library)
        await library.tasks.stop()
        return library

    return asyncio.run(run())


def test_first_catalogue_is_loaded_once_however_many_upstreams_open() -> None:
    async def work(library: Library) -> None:
        library.catalogue.need()
        library.catalogue.need()
        assert await library.under_way() == 1
        await library.ends()
        library.catalogue.need()
        assert await library.under_way() == 0

    assert in_library(work).stats.catalog_loads == {"changed": 1}


def test_same_rows_change_nothing_and_forget_no_verdict() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        before = library.filter.catalog
        library.filter.judge(b"select 1")
        library.now += 61
        library.catalogue.tick(library.now)
        await library.ends()
        assert library.filter.catalog is before
        assert library.filter.recall(b"select 1", "utf-8", False) is not None
        assert library.catalogue.age == 0.0
        library.now += 61
        library.catalogue.tick(library.now)
        await library.ends("other rows")
        assert library.filter.catalog is not before

    library = in_library(work)
    assert library.stats.catalog_loads == {"changed": 2, "unchanged": 1}
    assert library.proved == 2


def test_same_rows_are_proved_again_for_another_version_of_the_server() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.filter.learn_version(130000)
        library.now += 61
        library.catalogue.tick(library.now)
        await library.ends()

    assert in_library(work).proved == 2


def test_no_refresh_means_on_demand_only() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += 1e6
        library.catalogue.tick(library.now)
        assert await library.under_way() == 0
        _, question = library.wants()
        assert question is not None
        assert await library.under_way() == 1

    in_library(work, refresh=0.0)


def test_load_on_demand_is_single_flight_and_tells_all_who_wait() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += MIN_INTERVAL
        several = [library.wants() for _ in range(3)]
        assert all(question is not None for _, question in several)
        assert await library.under_way() == 1
        assert [asking.told for asking, _ in several] == [[], [], []]
        await library.ends()
        assert [asking.told for asking, _ in several] == [[None], [None], [None]]
        assert await library.under_way() == 0

    in_library(work)


def test_first_catalogue_is_not_newer_than_who_came_while_it_was_read() -> None:
    async def work(library: Library) -> None:
        library.catalogue.need()
        assert await library.under_way() == 1
        library.now += 0.5
        asking, first = library.wants()
        await library.ends()
        assert asking.told == [None]
        library.now += LONGEST_INTERVAL
        asking, second = library.wants()
        await library.ends()
        assert asking.told == [None]
        library.now += LONGEST_INTERVAL
        asking, failed = library.wants()
        await library.ends(DOWN)  # on the connection that there was
        await library.ends(DOWN)
        assert asking.told == [None]
        assert [question is not None and question.newer for question in (first, second, failed)] == [False, True, False]

    in_library(work)


def test_load_on_demand_waits_until_a_second_after_the_last_one() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += MIN_INTERVAL - 0.01
        await library.loads_for_one_who_waits(0.02)

    in_library(work)


def test_loads_on_demand_take_a_tenth_of_the_time_at_most() -> None:
    async def work(library: Library) -> None:
        library.catalogue.need()
        library.now += 0.4
        await library.ends()
        library.now += 2.5
        await library.loads_for_one_who_waits(1.2)

    in_library(work)


def test_table_that_was_just_created_is_waited_for_however_long_loads_take() -> None:
    async def work(library: Library) -> None:
        library.catalogue.need()
        library.now += 30.0
        await library.ends()
        asking, question = library.wants()
        assert question is not None
        library.catalogue.tick(library.now)
        assert await library.under_way() == 1
        await library.ends()
        assert asking.told == [None]

    in_library(work)


def test_load_that_began_long_before_the_question_does_not_answer_it() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += 61
        library.catalogue.tick(library.now)
        library.now += MIN_INTERVAL
        asking, question = library.wants()
        assert question is not None
        await library.ends()
        assert asking.told == []
        assert await library.under_way() == 1
        await library.ends("with it")
        assert asking.told == [None]
        assert await library.under_way() == 0

    in_library(work)


def test_first_load_answers_whoever_waits_for_it() -> None:
    async def work(library: Library) -> None:
        library.catalogue.need()
        library.now += 3 * MIN_INTERVAL
        asking, _ = library.wants()
        await library.ends()
        assert asking.told == [None]

    in_library(work)


def test_first_upstream_waits_until_the_first_load_has_ended() -> None:
    async def work(library: Library) -> None:
        library.catalogue.need()
        opening = asyncio.ensure_future(library.catalogue.first())
        await library.settle()
        assert not opening.done()
        await library.ends(DOWN)
        assert opening.done()
        await library.catalogue.first()  # the next one does not wait

    in_library(work)


def test_nobody_waits_longer_than_the_patience() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += MIN_INTERVAL
        early, _ = library.wants()
        library.now += PATIENCE - 0.1
        late, _ = library.wants()
        library.catalogue.tick(library.now)
        assert (early.told, late.told) == ([], [])
        library.now += 0.1
        library.catalogue.tick(library.now)
        assert (early.told, late.told) == ([None], [])
        await library.ends()
        await library.ends()
        assert (early.told, late.told) == ([None], [None])

    in_library(work)


@pytest.mark.parametrize("failure", ["upstream", "proof", "bug"])
def test_failed_load_keeps_the_old_catalogue_is_said_once_and_tried_again(failure: str) -> None:
    async def work(library: Library) -> None:
        await library.serves()
        before = library.filter.catalog
        library.unprovable = failure == "proof"
        error: str | Exception = {"upstream": DOWN, "proof": "new rows", "bug": RuntimeError("oops")}[failure]
        library.now += 61
        asking, _ = library.wants()
        await library.ends(error)
        assert asking.told == [None]
        for _ in range(3):
            library.now += RETRY
            library.catalogue.tick(library.now)
            await library.ends(error)
        assert library.filter.catalog is before
        assert library.catalogue.age == 61 + 3 * RETRY
        assert library.audit.names.count("catalogue not loaded") == 1
        library.unprovable = False
        library.now += RETRY
        library.catalogue.tick(library.now)
        await library.ends("new rows")
        assert library.filter.catalog is not before

    library = in_library(work)
    assert library.stats.catalog_loads == {"changed": 2, "failed": 4}
    assert library.stats.bugs == (4 if failure == "bug" else 0)


def test_changed_reason_is_said_again() -> None:
    async def work(library: Library) -> None:
        library.catalogue.need()
        await library.ends(DOWN)
        library.now += RETRY
        library.catalogue.tick(library.now)
        await library.ends(UpstreamError("full", reason=CloseReason.UPSTREAM_LOGIN))

    assert in_library(work).audit.names.count("catalogue not loaded") == 2


def test_database_that_is_not_served_any_longer_is_not_loaded() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.catalogue.close()
        library.now += 61
        library.catalogue.tick(library.now)
        assert await library.under_way() == 0
        assert library.wants()[1] is None
        assert (library.opened, library.closed) == (1, 1)

    in_library(work)


def test_looks_come_every_few_seconds_on_one_connection_that_is_replaced_at_the_refresh() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        for _ in range(19):
            library.now += LOOK
            library.catalogue.tick(library.now)
            ((look, _),) = await library.asked()
            assert look
            await library.ends()
        assert (library.opened, library.closed) == (1, 0)
        library.now += LOOK
        library.catalogue.tick(library.now)
        await library.ends()
        assert (library.opened, library.closed) == (2, 1)
        assert library.proved == 1
        library.catalogue.close()
        assert library.closed == 2

    in_library(work)


def test_look_is_tried_again_on_another_connection_where_the_old_one_has_ended() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += LOOK
        library.catalogue.tick(library.now)
        await library.ends(DOWN)
        assert (library.opened, library.closed) == (2, 1)
        await library.ends()
        assert library.stats.catalog_loads == {"changed": 1, "unchanged": 1}
        library.now += LOOK
        library.catalogue.tick(library.now)
        await library.ends(QueryFailedError("55P03", "canceling statement due to lock timeout"))
        assert library.stats.catalog_loads["failed"] == 1  # a new one would wait for the same lock

    in_library(work)


def test_what_could_not_be_printed_is_read_again_though_nothing_has_changed() -> None:
    async def work(library: Library) -> None:
        library.unprinted = 1
        await library.serves()
        library.unprinted = 0
        library.now += RETRY
        library.catalogue.tick(library.now)
        ((look, _),) = await library.asked()
        assert not look
        await library.ends("all of it")
        assert library.proved == 2
        library.now += LOOK
        library.catalogue.tick(library.now)
        ((look, _),) = await library.asked()
        assert look
        await library.ends("all of it")

    in_library(work)


def test_path_that_a_session_has_set_is_proved_in_a_database_that_has_not_changed() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        learned = library.filter.catalog
        library.filter.wanted.note((11, 2300))
        library.now += LOOK
        library.catalogue.tick(library.now)
        ((look, _),) = await library.asked()
        assert not look
        await library.ends()
        assert library.proved == 2
        assert library.filter.catalog is not learned
        assert library.stats.catalog_loads["changed"] == 1, "no verdict is forgotten"
        assert library.stats.catalog_loads["unchanged"] == 1
        library.now += 10 * LOOK
        library.catalogue.tick(library.now)
        ((look, _),) = await library.asked()
        assert look
        await library.ends()

    in_library(work)


def test_path_that_sessions_begin_with_is_learned_from_a_look() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.path = b"public, pg_catalog"
        library.now += LOOK
        library.catalogue.tick(library.now)
        await library.ends()
        # What was proved under the other path counts no more: it is read once more for the new policy.
        assert library.filter.policy.shadowed
        assert library.filter.catalog is None
        await library.ends()
        assert library.filter.catalog is not None
        assert library.proved == 2

    in_library(work)


def test_trouble_is_told_as_long_as_there_is_no_catalogue() -> None:
    async def work(library: Library) -> None:
        library.keeps(Filter(Policy(live=True)))
        assert library.catalogue.trouble == ""  # nobody was in the database yet: it may not exist
        library.catalogue.need()
        await library.settle()
        assert library.catalogue.trouble == "its catalogue is being read"
        await library.ends(DOWN)
        assert library.catalogue.trouble == "its catalogue cannot be read: down"
        assert "it could not be read: down" in library.filter.judge(b"table t").detail
        library.now += RETRY
        library.catalogue.tick(library.now)
        await library.ends()
        assert library.catalogue.trouble == ""

    in_library(work)


def test_looks_keep_nobody_from_asking() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += LOOK
        library.catalogue.tick(library.now)
        await library.ends()
        asking, question = library.wants()
        assert question is not None
        assert await library.under_way() == 1
        await library.ends()
        assert asking.told == [None]

    in_library(work)


def test_path_that_is_taken_back_at_once_leaves_no_database_without_a_catalogue() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.filter.learn_paths([], shadowed=True)
        library.filter.learn_paths([], shadowed=False)
        assert library.filter.catalog is None
        library.now += LOOK
        library.catalogue.tick(library.now)
        await library.ends()
        assert library.filter.catalog is not None

    in_library(work)


def test_catalogue_that_counts_no_more_is_loaded_anew_at_the_next_login() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.filter.learn_paths([], shadowed=True)
        library.catalogue.need()
        opening = asyncio.ensure_future(library.catalogue.first())
        await library.settle()
        assert not opening.done()
        await library.ends()
        assert opening.done()
        assert library.filter.catalog is not None

    in_library(work)


def test_server_with_other_objects_built_in_is_read_whole_from_then_on() -> None:
    """A superuser has changed one, or a minor version has more: the data says nothing of them."""

    async def work(library: Library) -> None:
        library.digest = "1 2 3"
        library.catalogue.need()
        await library.settle()
        assert library.whole == [False]
        await library.ends()
        assert library.filter.catalog is None
        assert library.whole == [True]
        await library.ends()
        assert library.filter.catalog is not None
        library.now += 100
        library.catalogue.tick(library.now)
        await library.settle()
        look, answer = library.fetched.pop(0)
        library.whole.pop(0)
        assert look
        answer.set_result([[[b"700", b"", b"changed"]]])
        await library.settle()
        assert library.whole == [True]

    in_library(work)

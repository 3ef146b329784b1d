"""What goes to the helper processes and comes back, and when a catalogue is loaded: without processes and servers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from proxy.databases.catalogues import LOOK, MIN_INTERVAL, PATIENCE, RETRY, Catalogues
from proxy.databases.helpers import messages, prover, supervisor, texts, worker
from proxy.databases.helpers.messages import Results, encode_results
from proxy.databases.helpers.prover import ProofError
from proxy.databases.helpers.supervisor import HelperLostError
from proxy.errors import CloseReason, QueryFailedError, UpstreamError
from proxy.filter import Filter
from proxy.session.ports import Question
from proxy.sql.catalog import Callable as Function
from proxy.sql.catalog import Catalog, Chosen, Operator, Plans, Relation, Taint, Type
from proxy.sql.policy import Policy
from proxy.sql.resolve import built_in, rows
from proxy.sql.resolve.world import Column, Own, Tables
from proxy.sql.resolve.world import Relation as Row
from proxy.sql.verdict import Action, Effect, Verdict
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.unit.session.town import Quiet


class Asking:
    def __init__(self) -> None:
        self.told: list[Verdict | None] = []
        self.bugs = 0

    def judged(self, verdict: Verdict | None) -> None:
        self.told.append(verdict)

    def bug(self) -> None:
        self.bugs += 1


SHAPE = r"23 a/1043:14 b\s"
CHOSEN = Chosen(frozenset({3}), frozenset({("int4", "unknown")}))
TABLES = Tables(schemas=[("public", 2200, True)], relations=[Row(2, 2200, "v", "v", 5, 0, 6, SHAPE)])
WORLD = built_in.build(Own(15, True, TABLES))
FULL = Catalog(
    functions={"f": (Function(1, "public", 0, 2, chosen=CHOSEN, gives=frozenset({3})),)},
    relations={"v": (Relation(2, "public", frozenset({"a", "b"}), 5, {"a": 3}, {"a": None, "b": "int4"}),)},
    types={"t": (Type(3, "public"),)},
    operators={"@@": (Operator(4, "public", "text", "", CHOSEN, frozenset({3})),)},
    cleared=frozenset({("function", 1)}),
    leaves={("function", 1): ((Effect.SETTING_INSIDE, "timezone"),)},
    taints={("function", 1): Taint("function public.f()", "it writes", "public.f", "extension-function")},
    tainted_operators=frozenset({"@@"}),
    tainted_types=True,
    everything=Taint("cast", "it calls", "x"),
    implicit_casts=True,
    voids=frozenset({"v"}),
    plans=Plans(folds=True, caches=True, dated=True),
    exact=True,
    code=Taint("function public.key()", "it writes", "public.key"),
    strangers=frozenset({"pg_brand_new"}),
    version=150018,
    unprinted=2,
    spellings="LATIN1",
    database="shop",
    world=WORLD,
    role="reader",
    begins_with="public",
    path=(11, 2200),
)


# --- what travels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_helper", [False, True])
def test_catalogue_travels_whole(to_helper: bool) -> None:
    for item in fields(Catalog):
        assert getattr(FULL, item.name) != getattr(Catalog(), item.name), f"{item.name} has to differ from its default"
    pieces = [msgspec.msgpack.encode(each) for each in messages.pieces_of(FULL)]
    if to_helper:
        request = messages.read_request(msgspec.msgpack.encode(messages.Learn(Policy(), messages.rest_of(FULL))))
        assert isinstance(request, messages.Learn)
        cut = [messages.read_request(each) for each in pieces]
        there = messages.joined(request.catalog, [each for each in cut if isinstance(each, messages.Piece)])
    else:
        answer = messages.read_answer(msgspec.msgpack.encode(messages.Proved(messages.rest_of(FULL))))
        assert isinstance(answer, messages.Proved)
        there = asyncio.run(prover.whole(answer.catalog, pieces))
    for item in fields(Catalog):
        if item.name != "world":
            assert getattr(there, item.name) == getattr(FULL, item.name)
    assert there.world is not None
    assert there.world.own == WORLD.own
    assert there.world.relations[2].columns == (Column("a", 23, -1), Column("b/", 1043, 14))
    assert there.taint("function", there.function("", "f", 1)) == FULL.taint("function", FULL.function("", "f", 1))


def test_pieces_of_a_catalogue_are_small_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "PIECE", 7)
    many = Catalog(types={f"t{n}": (Type(n, "public"),) for n in range(100)}, functions=FULL.functions)
    pieces = [msgspec.msgpack.encode(each) for each in messages.pieces_of(many)]
    assert len(pieces) == 1 + 15
    assert asyncio.run(prover.whole(messages.rest_of(many), pieces)).types == many.types


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(Action.ALLOW, "select"),
        Verdict(Action.REFUSE, "multi", "ddl", "25006", "no", "because", "do this", 7),
        Verdict(Action.REPLACE, "begin", text=b"begin read only", warning="careful", boundary="begin"),
        Verdict(Action.ALLOW, "set", effects=((Effect.SETTING, "é"), (Effect.RESET, "all"))),
        Verdict(Action.ALLOW, "multi", effects=((Effect.SETTING_LOCAL, "a.b"), (Effect.EXECUTE, "p"))),
    ],
)
def test_verdict_travels_whole(verdict: Verdict) -> None:
    answer = messages.read_answer(msgspec.msgpack.encode(messages.Judged(verdict)))
    assert isinstance(answer, messages.Judged)
    assert answer.verdict == verdict
    assert answer.verdict.label == verdict.label


def test_requests_travel_whole() -> None:
    policy = Policy(allow_functions=("a.*",), deny_functions=("b",), server_version=150018, live=True)
    for request in (
        messages.Learn(policy, None),
        messages.Learn(policy, messages.form(FULL)),
        messages.Text(b"select '\xff'", "latin-1", 1),
        messages.Proof(b"...", policy, frozenset({1, 2})),
    ):
        assert messages.read_request(msgspec.msgpack.encode(request)) == request


# --- who comes next ---------------------------------------------------------------------------------------------------


def test_no_search_for_cycles_interrupts_the_judging_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    searching: list[bool] = []

    def judge(*_: Any, **__: Any) -> Verdict:
        searching.append(gc.isenabled())
        raise MemoryError

    monkeypatch.setattr(Filter, "judge", judge)
    with pytest.raises(MemoryError):
        worker.judge_text(Filter(), messages.Text(b"select 1", "utf-8", 0))
    assert searching == [False]
    assert gc.isenabled()


class Helping:
    """A helper for which each byte of a text is a second's work, and which is too slow for texts of 50 or more."""

    def __init__(self) -> None:
        self.now = 0.0
        self.judged: list[bytes] = []

    async def start(self) -> int:
        return 1

    def tell(self, request: bytes) -> None: ...

    async def ask(self, request: bytes, *, patience: float) -> messages.Answer:
        text = messages.read_request(request)
        assert isinstance(text, messages.Text)
        self.judged.append(text.sql)
        self.now += len(text.sql)
        if len(text.sql) >= 50 and patience == texts.SHORT_PATIENCE:
            raise HelperLostError("it took longer", late=True)
        return messages.Judged(Verdict(Action.ALLOW, "select"))


class Insatiable(Asking):
    """A client that sends its next text as soon as it has a verdict."""

    def __init__(self, ask: Callable[[Asking, bytes], object], *texts: bytes) -> None:
        super().__init__()
        self._ask = ask
        self._texts = list(texts)
        self.judged(None)

    def judged(self, verdict: Verdict | None) -> None:
        if self._texts:
            self._ask(self, self._texts.pop(0))


def in_lanes(work: Callable[[Callable[[Asking, bytes], Question], Helping], None]) -> tuple[Helping, Helping]:
    short, long = Helping(), Helping()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        monkeyed: Any = loop
        monkeyed.time = lambda: short.now
        tasks = Tasks()
        asked = texts.Texts(Stats(), Quiet(), tasks)
        lanes: Any = (asked._short, asked._long)
        lanes[0]._helper, lanes[1]._helper = short, long
        work(lambda asking, sql: asked.ask(asking, Filter(), sql, "utf-8", False), short)
        while any(lane._worker is not None and not lane._worker.done() for lane in lanes):
            await asyncio.sleep(0)
        await tasks.stop()

    asyncio.run(run())
    return short, long


def test_attack_clients_with_one_text_after_the_other_leave_others_their_turn() -> None:
    def work(ask: Callable[[Asking, bytes], Question], helper: Helping) -> None:
        for name in (b"a", b"b", b"c", b"d"):
            Insatiable(ask, *[name * 10] * 4)

        class Late(Asking):
            def judged(self, verdict: Verdict | None) -> None:
                Insatiable(ask, b"x" * 20, b"x" * 20)

        ask(Late(), b"late")

    helper, _ = in_lanes(work)
    # By length alone the longer texts of the one that comes late would be the last.
    at = [place for place, sql in enumerate(helper.judged) if sql == b"x" * 20]
    assert at[0] == 5, "behind one text of each"
    assert at[1] < len(helper.judged) - 4


def test_text_that_is_too_slow_for_the_short_lane_is_judged_in_the_other() -> None:
    first, slow, third = Asking(), Asking(), Asking()

    def work(ask: Callable[[Asking, bytes], Question], helper: Helping) -> None:
        for asking, sql in ((first, b"s" * 50), (slow, b"t" * 60), (third, b"u")):
            ask(asking, sql)

    short, long = in_lanes(work)
    assert third.told == slow.told == first.told == [Verdict(Action.ALLOW, "select")]
    assert short.judged == [b"u", b"s" * 50, b"t" * 60]
    assert long.judged == [b"s" * 50, b"t" * 60]


def test_helper_gets_no_passwords_and_this_very_package() -> None:
    given = {"PATH": "/bin", "DB_READONLY_PASSWORD": "x", "SIDECART_UPSTREAM_PASSWORD": "x", "PGPASSWORD": "x"}
    kept = supervisor.environment_of({**given, "PYTHONPATH": "/elsewhere"})
    assert kept.keys() == {"PATH", "PYTHONPATH"}
    root, elsewhere = kept["PYTHONPATH"].split(":")
    assert supervisor.__file__ == f"{root}/proxy/databases/helpers/supervisor.py"
    assert elsewhere == "/elsewhere"


# --- the serving end of the pipes ------------------------------------------------------------------------------------


class FakePipes:
    """The transport of a helper that was never started."""

    def __init__(self) -> None:
        self.sent = b""
        self.killed = 0

    def get_pipe_transport(self, fd: int) -> FakePipes:
        return self

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.sent += b"".join(parts)

    def get_returncode(self) -> None:
        return None

    def kill(self) -> None:
        self.killed += 1

    def close(self) -> None: ...


def frame(answer: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(answer)
    return len(data).to_bytes(4, "big") + data


def with_process(work: Callable[[supervisor.Process, FakePipes], Coroutine[Any, Any, None]]) -> FakePipes:
    pipes = FakePipes()

    async def run() -> None:
        process = supervisor.Process()
        process.connection_made(pipes)  # type: ignore[arg-type]
        await work(process, pipes)

    asyncio.run(run())
    return pipes


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_answer_in_pieces(size: int) -> None:
    async def work(process: supervisor.Process, pipes: FakePipes) -> None:
        asking = asyncio.ensure_future(process.ask(b"request", []))
        await asyncio.sleep(0)
        assert pipes.sent == b"\0\0\0\7request"
        data = frame(messages.Step(5)) + frame(messages.Failed("x" * 300))
        for at in range(0, len(data), size):
            process.pipe_data_received(1, data[at : at + size])
        assert await asking == messages.Failed("x" * 300)

    assert with_process(work).killed == 0


def test_pieces_of_a_catalogue_are_kept_as_they_come() -> None:
    """Those of one read would hold the loop for 70 ms if they were decoded in one go."""

    async def work(process: supervisor.Process, pipes: FakePipes) -> None:
        pieces: list[bytes] = []
        asking = asyncio.ensure_future(process.ask(b"request", pieces))
        await asyncio.sleep(0)
        sent = [*messages.pieces_of(FULL), messages.Proved(messages.rest_of(FULL))]
        process.pipe_data_received(1, b"".join(map(frame, sent)))
        assert isinstance(await asking, messages.Proved)
        assert len(pieces) == len(sent) - 1
        with pytest.raises(ProofError):
            await prover.whole(messages.rest_of(FULL), [b"\x92\xa5Piece"])

    assert with_process(work).killed == 0


@pytest.mark.parametrize("end", ["garbage", "pipe", "exit"])
def test_helper_that_ends_names_its_last_step(end: str) -> None:
    async def work(process: supervisor.Process, pipes: FakePipes) -> None:
        asking = asyncio.ensure_future(process.ask(b"request", []))
        await asyncio.sleep(0)
        process.pipe_data_received(1, frame(messages.Step(7)))
        if end == "garbage":
            process.pipe_data_received(1, b"\0\0\0\1\xc1")
        elif end == "pipe":
            process.pipe_connection_lost(1, None)
        else:
            process.process_exited()
        with pytest.raises(HelperLostError) as caught:
            await asking
        assert caught.value.step == 7
        with pytest.raises(HelperLostError):
            await process.ask(b"another", [])

    assert with_process(work).killed == 1


def test_answer_that_nobody_waits_for_is_dropped() -> None:
    async def work(process: supervisor.Process, pipes: FakePipes) -> None:
        process.pipe_data_received(1, frame(messages.Failed("old")))
        asking = asyncio.ensure_future(process.ask(b"request", []))
        await asyncio.sleep(0)
        process.pipe_data_received(1, frame(messages.Failed("new")))
        assert await asking == messages.Failed("new")

    with_process(work)


# --- questions -------------------------------------------------------------------------------------------------------


def test_question_is_told_once() -> None:
    asking, audit = Asking(), Quiet()
    question = Question(asking)
    question.tell(None, audit)
    question.tell(None, audit)
    assert asking.told == [None]


def test_question_that_was_taken_back_is_not_told() -> None:
    asking = Asking()
    question = Question(asking)
    question.cancel()
    question.tell(None, Quiet())
    assert asking.told == []


# --- when a catalogue is loaded --------------------------------------------------------------------------------------


class Library:
    """A database, its prover and a clock, for Catalogues: loads and looks end when the test says so."""

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
        self.filter = Filter()
        self.catalogues = Catalogues(
            refresh,
            self._reach,
            self,  # type: ignore[arg-type]
            self.stats,
            self.audit,
            self.tasks,
            lambda: self.now,
            lambda: 1.0,
        )

    async def _reach(self, database: str) -> Library:
        assert database == "shop"
        self.opened += 1
        return self

    async def ask(self, query: bytes) -> Results:
        answer = asyncio.get_running_loop().create_future()
        self.fetched.append((b"pg_get_viewdef" not in query, answer))
        self.whole.append(b"p.oid >= 0" in query)
        return await answer

    def close(self) -> None:
        self.closed += 1

    async def prove(self, results: bytes, policy: Policy) -> Catalog:
        self.proved += 1
        if self.unprovable:
            raise ProofError("the helper was lost")
        return Catalog(version=self.proved, unprinted=self.unprinted)

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
        self.catalogues.serve("shop", self.filter)
        await self.ends()
        assert self.filter.catalog is not None

    def wants(self) -> tuple[Asking, Question | None]:
        asking = Asking()
        return asking, self.catalogues.refresh_for("shop", asking)

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
        library.catalogues.serve("shop", library.filter)
        library.catalogues.serve("shop", library.filter)
        assert await library.under_way() == 1
        await library.ends()
        library.catalogues.serve("shop", library.filter)
        assert await library.under_way() == 0

    assert in_library(work).stats.catalog_loads == {"changed": 1}


def test_same_rows_change_nothing_and_forget_no_verdict() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        before = library.filter.catalog
        library.filter.judge(b"select 1")
        library.now += 61
        library.catalogues.tick(library.now)
        await library.ends()
        assert library.filter.catalog is before
        assert library.filter.recall(b"select 1", "utf-8", False) is not None
        assert library.catalogues.ages() == {"shop": 0.0}
        library.now += 61
        library.catalogues.tick(library.now)
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
        library.catalogues.tick(library.now)
        await library.ends()

    assert in_library(work).proved == 2


def test_no_refresh_means_on_demand_only() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += 1e6
        library.catalogues.tick(library.now)
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


def test_load_on_demand_waits_until_a_second_after_the_last_one() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += MIN_INTERVAL - 0.01
        asking, question = library.wants()
        assert question is not None
        library.catalogues.tick(library.now)
        assert await library.under_way() == 0
        library.now += 0.02
        library.catalogues.tick(library.now)
        assert await library.under_way() == 1
        await library.ends()
        assert asking.told == [None]

    in_library(work)


def test_loads_on_demand_take_a_tenth_of_the_time_at_most() -> None:
    async def work(library: Library) -> None:
        library.catalogues.serve("shop", library.filter)
        library.now += 0.4
        await library.ends()
        library.now += 2.5
        asking, question = library.wants()
        assert question is not None
        library.catalogues.tick(library.now)
        assert await library.under_way() == 0
        library.now += 1.2
        library.catalogues.tick(library.now)
        assert await library.under_way() == 1
        await library.ends()
        assert asking.told == [None]

    in_library(work)


def test_table_that_was_just_created_is_waited_for_however_long_loads_take() -> None:
    async def work(library: Library) -> None:
        library.catalogues.serve("shop", library.filter)
        library.now += 30.0
        await library.ends()
        asking, question = library.wants()
        assert question is not None
        library.catalogues.tick(library.now)
        assert await library.under_way() == 1
        await library.ends()
        assert asking.told == [None]

    in_library(work)


def test_load_that_began_long_before_the_question_does_not_answer_it() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += 61
        library.catalogues.tick(library.now)
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
        library.catalogues.serve("shop", library.filter)
        library.now += 3 * MIN_INTERVAL
        asking, _ = library.wants()
        await library.ends()
        assert asking.told == [None]

    in_library(work)


def test_first_upstream_waits_until_the_first_load_has_ended() -> None:
    async def work(library: Library) -> None:
        library.catalogues.serve("shop", library.filter)
        opening = asyncio.ensure_future(library.catalogues.first("shop"))
        await library.settle()
        assert not opening.done()
        await library.ends(DOWN)
        assert opening.done()
        await library.catalogues.first("shop")  # the next one does not wait

    in_library(work)


def test_nobody_waits_longer_than_the_patience() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += MIN_INTERVAL
        early, _ = library.wants()
        library.now += PATIENCE - 0.1
        late, _ = library.wants()
        library.catalogues.tick(library.now)
        assert (early.told, late.told) == ([], [])
        library.now += 0.1
        library.catalogues.tick(library.now)
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
            library.catalogues.tick(library.now)
            await library.ends(error)
        assert library.filter.catalog is before
        assert library.catalogues.ages() == {"shop": 61 + 3 * RETRY}
        assert library.audit.names.count("catalogue not loaded") == 1
        library.unprovable = False
        library.now += RETRY
        library.catalogues.tick(library.now)
        await library.ends("new rows")
        assert library.filter.catalog is not before

    library = in_library(work)
    assert library.stats.catalog_loads == {"changed": 2, "failed": 4}
    assert library.stats.bugs == (4 if failure == "bug" else 0)


def test_changed_reason_is_said_again() -> None:
    async def work(library: Library) -> None:
        library.catalogues.serve("shop", library.filter)
        await library.ends(DOWN)
        library.now += RETRY
        library.catalogues.tick(library.now)
        await library.ends(UpstreamError("full", reason=CloseReason.UPSTREAM_LOGIN))

    assert in_library(work).audit.names.count("catalogue not loaded") == 2


def test_database_that_is_not_served_any_longer_is_not_loaded() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.catalogues.forget("shop")
        library.now += 61
        library.catalogues.tick(library.now)
        assert await library.under_way() == 0
        assert library.wants()[1] is None
        assert library.catalogues.ages() == {}

    in_library(work)


def test_looks_come_every_few_seconds_on_one_connection_that_is_replaced_at_the_refresh() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        for _ in range(19):
            library.now += LOOK
            library.catalogues.tick(library.now)
            ((look, _),) = await library.asked()
            assert look
            await library.ends()
        assert (library.opened, library.closed) == (1, 0)
        library.now += LOOK
        library.catalogues.tick(library.now)
        await library.ends()
        assert (library.opened, library.closed) == (2, 1)
        assert library.proved == 1
        library.catalogues.close()
        assert library.closed == 2

    in_library(work)


def test_look_is_tried_again_on_another_connection_where_the_old_one_has_ended() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += LOOK
        library.catalogues.tick(library.now)
        await library.ends(DOWN)
        assert (library.opened, library.closed) == (2, 1)
        await library.ends()
        assert library.stats.catalog_loads == {"changed": 1, "unchanged": 1}
        library.now += LOOK
        library.catalogues.tick(library.now)
        await library.ends(QueryFailedError("55P03", "canceling statement due to lock timeout"))
        assert library.stats.catalog_loads["failed"] == 1  # a new one would wait for the same lock

    in_library(work)


def test_what_could_not_be_printed_is_read_again_though_nothing_has_changed() -> None:
    async def work(library: Library) -> None:
        library.unprinted = 1
        await library.serves()
        library.unprinted = 0
        library.now += RETRY
        library.catalogues.tick(library.now)
        ((look, _),) = await library.asked()
        assert not look
        await library.ends("all of it")
        assert library.proved == 2
        library.now += LOOK
        library.catalogues.tick(library.now)
        ((look, _),) = await library.asked()
        assert look
        await library.ends("all of it")

    in_library(work)


def test_path_that_sessions_begin_with_is_learned_from_a_look() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.path = b"public, pg_catalog"
        library.now += LOOK
        library.catalogues.tick(library.now)
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
        library.filter = Filter(Policy(live=True))
        library.catalogues.serve("shop", library.filter)
        await library.settle()
        assert library.catalogues.troubles() == {"shop": "its catalogue is being read"}
        await library.ends(DOWN)
        assert library.catalogues.troubles() == {"shop": "its catalogue cannot be read: down"}
        assert "it could not be read: down" in library.filter.judge(b"table t").detail
        library.now += RETRY
        library.catalogues.tick(library.now)
        await library.ends()
        assert library.catalogues.troubles() == {}

    in_library(work)


def test_looks_keep_nobody_from_asking() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.now += LOOK
        library.catalogues.tick(library.now)
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
        library.catalogues.tick(library.now)
        await library.ends()
        assert library.filter.catalog is not None

    in_library(work)


def test_catalogue_that_counts_no_more_is_loaded_anew_at_the_next_login() -> None:
    async def work(library: Library) -> None:
        await library.serves()
        library.filter.learn_paths([], shadowed=True)
        library.catalogues.serve("shop", library.filter)
        opening = asyncio.ensure_future(library.catalogues.first("shop"))
        await library.settle()
        assert not opening.done()
        await library.ends()
        assert opening.done()
        assert library.filter.catalog is not None

    in_library(work)


def test_equal_results_are_equal_bytes_and_null_is_not_empty() -> None:
    assert encode_results([[[b"a", None]], []]) == encode_results([[[b"a", None]], []])
    assert encode_results([[[b"a", None]], []]) != encode_results([[[b"a", b""]], []])
    assert encode_results([[[b"a"], [b"b"]]]) != encode_results([[[b"a", b"b"]]])


def test_server_with_other_objects_built_in_is_read_whole_from_then_on() -> None:
    """A superuser has changed one, or a minor version has more: the data says nothing of them."""

    async def work(library: Library) -> None:
        library.digest = "1 2 3"
        library.catalogues.serve("shop", library.filter)
        await library.settle()
        assert library.whole == [False]
        await library.ends()
        assert library.filter.catalog is None
        assert library.whole == [True]
        await library.ends()
        assert library.filter.catalog is not None
        library.now += 100
        library.catalogues.tick(library.now)
        await library.settle()
        look, answer = library.fetched.pop(0)
        library.whole.pop(0)
        assert look
        answer.set_result([[[b"700", b"", b"changed"]]])
        await library.settle()
        assert library.whole == [True]

    in_library(work)

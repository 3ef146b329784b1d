"""What goes to the helper processes and comes back, and when a catalogue is loaded: without processes and servers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from dataclasses import fields
from typing import Any

import msgspec
import pytest

from proxy.databases.helpers import messages, prover, supervisor, texts, worker
from proxy.databases.helpers.messages import encode_results
from proxy.databases.helpers.prover import ProofError
from proxy.databases.helpers.supervisor import HelperLostError
from proxy.filter import Filter
from proxy.session.ports import Question
from proxy.sql.catalog import Callable as Function
from proxy.sql.catalog import Catalog, Chosen, Operator, Plans, Relation, Taint, Type
from proxy.sql.policy import Policy
from proxy.sql.resolve import built_in
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
    relations={"v": (Relation(2, "public", ("a", "b"), 5, {"a": 3}, {"a": None, "b": "int4"}),)},
    types={"t": (Type(3, "public"),)},
    operators={"@@": (Operator(4, "public", "text", "", CHOSEN, frozenset({3})),)},
    cleared=frozenset({("function", 1)}),
    cleared_under={(11, 2300): frozenset({("function", 2)})},
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


def test_equal_results_are_equal_bytes_and_null_is_not_empty() -> None:
    assert encode_results([[[b"a", None]], []]) == encode_results([[[b"a", None]], []])
    assert encode_results([[[b"a", None]], []]) != encode_results([[[b"a", b""]], []])
    assert encode_results([[[b"a"], [b"b"]]]) != encode_results([[[b"a", b"b"]]])


def test_hardly_anything_of_a_catalogue_is_searched_for_cycles() -> None:
    """With 20,000 tables such a search held up every client for 0.1 s."""
    tables = range(20_000, 22_000)
    catalog = Catalog(
        relations={f"t{oid}": (Relation(oid, "public", ("id", "name")),) for oid in tables},
        types={f"t{oid}": (Type(oid + 10_000, "public"),) for oid in tables},
    )
    pieces = [msgspec.msgpack.encode(piece) for piece in messages.pieces_of(catalog)]
    gc.collect()
    before = len(gc.get_objects())
    found = messages.joined(messages.form(Catalog()), map(messages.read_piece, pieces))
    gc.collect()
    assert found.relations["t21999"] == catalog.relations["t21999"]
    assert len(gc.get_objects()) - before < 100


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

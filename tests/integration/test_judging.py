"""The helper processes: real big texts, helpers that hang, die and lie; nobody else waits for any of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.databases.helpers import messages, supervisor
from proxy.databases.helpers.prover import ProofError, Prover
from proxy.databases.helpers.supervisor import Helper, HelperLostError
from proxy.databases.helpers.texts import Texts
from proxy.filter import Filter
from proxy.session.judging import MAX_INLINE
from proxy.sql.catalog import Catalog, Relation, Taint
from proxy.sql.policy import Policy
from proxy.sql.verdict import Action, Verdict
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.running import SideCart, wait_until
from tests.wire import Wire

LIST = "SELECT count(*) FROM orders WHERE id IN (" + ",".join(map(str, range(200_000))) + ")"
LITERAL = f"SELECT length('{'x' * (16 << 20)}')"
LONG = f"SELECT '{'x' * MAX_INLINE}'"
SLOW = 0.25
"""Seconds: what a bystander notices. Other work on the machine makes some answers late, so they are counted."""


@pytest.fixture(scope="module")
def roomy(upstream: Upstream) -> Iterator[SideCart]:
    """Run a SideCart that takes texts of 20 MB."""
    with SideCart(upstream, SIDECART_CLIENT_MAX_QUERY_LENGTH="20MB") as own:
        yield own
        own.stop()
        assert '"event":"bug"' not in own.log
        assert '"event":"tripwire"' not in own.log


class Bystander(threading.Thread):
    """Ask `SELECT 1` again and again; `took` holds the seconds that each answer took."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port
        self._done = threading.Event()
        self.took: list[float] = []

    def run(self) -> None:
        with Wire(self._port) as wire:
            while not self._done.is_set():
                began = time.perf_counter()
                assert wire.ask("SELECT 1") == "TDCZ"
                self.took.append(time.perf_counter() - began)

    def __enter__(self) -> Bystander:
        self.start()
        wait_until(lambda: len(self.took) > 10, 10, "a bystander")
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    @property
    def late(self) -> int:
        return sum(seconds > SLOW for seconds in self.took)


@pytest.mark.parametrize(("text", "tag"), [(LIST, "SELECT 1"), (LITERAL, "SELECT 1")], ids=["list", "literal"])
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_big_text_is_answered_and_holds_nobody_up(roomy: SideCart, text: str, tag: str, extended: bool) -> None:
    with Wire(roomy.port) as client, Bystander(roomy.port) as bystander:
        before = len(bystander.took)
        answer = client.ask_extended(text) if extended else client.ask(text)
        during = len(bystander.took) - before
    assert answer.endswith("TDCZ"), client.error
    assert client.tag == tag
    print(f"{during} answers meanwhile, the slowest after {max(bystander.took[before:]) * 1000:.0f} ms")
    assert during > 100
    assert bystander.late <= max(2, during // 50)  # others on this machine hold it up, too


def test_big_text_that_writes_is_refused_with_its_position(roomy: SideCart) -> None:
    with Wire(roomy.port) as client:
        assert client.ask(f"WITH x AS (DELETE FROM orders WHERE id IN ({','.join(['1'] * 100_000)})) TABLE x") == "EZ"
        assert client.error["C"] == "25006"
        assert client.error["P"] == "24"
        assert client.ask("SELECT 1") == "TDCZ"


def test_text_that_wants_too_much_memory_is_refused_and_the_next_one_is_not(roomy: SideCart) -> None:
    with Wire(roomy.port) as client:
        assert client.ask("SELECT " + "1," * 8_000_000 + "1") == "EZ"
        assert client.error["C"] == "54001"
        assert client.ask(LONG) == "TDCZ"


def test_cancel_while_a_big_text_is_judged(roomy: SideCart) -> None:
    with Wire(roomy.port) as client:
        began = time.monotonic()
        client.send(p.query(("SELECT " + "1," * 400_000 + "1").encode()))
        wait_until(lambda: roomy.metric('sidecart_clients{state="judging"}') == 1, 10, "the state judging")
        with Wire(roomy.port, login=False) as other:
            other.send(p.cancel_request(int.from_bytes(client.key[:4], "big"), client.key[4:]))
        assert client.until_ready() == "EZ"
        assert client.error["C"] == "57014"
        assert time.monotonic() - began < messages.PATIENCE
        assert client.ask("SELECT 1") == "TDCZ"


def test_client_that_leaves_while_its_text_is_judged(roomy: SideCart) -> None:
    with Wire(roomy.port) as client:
        client.send(p.query(("SELECT " + "2," * 60_000 + "2").encode()))
        wait_until(lambda: roomy.metric('sidecart_clients{state="judging"}') == 1, 10, "the state judging")
    wait_until(lambda: not roomy.metric('sidecart_clients{state="judging"}'), 20, "nobody to be judging")
    with Wire(roomy.port) as client:
        assert client.ask(LONG) == "TDCZ"


def test_texts_in_a_pipeline_are_answered_in_order(roomy: SideCart) -> None:
    with Wire(roomy.port) as client:
        texts = ["SELECT 1", LONG, "DELETE FROM orders", LIST, "SELECT 2, 3"]
        client.send(b"".join(p.query(text.encode()) for text in texts))
        assert [client.until_ready() for _ in texts] == ["TDCZ", "TDCZ", "EZ", "TDCZ", "TDCZ"]


def test_helper_that_is_killed_from_outside_is_replaced(roomy: SideCart) -> None:
    with Wire(roomy.port) as client:
        assert client.ask(LONG.replace("x", "y")) == "TDCZ"
        for pid in children(roomy.process.pid):
            os.kill(pid, signal.SIGKILL)
        assert client.ask(LONG.replace("x", "z")) in ("TDCZ", "EZ")  # it may die with this very text in hand
        assert client.ask(LONG.replace("x", "w")) == "TDCZ"


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_helpers_end_with_the_process_that_started_them(upstream: Upstream) -> None:
    with SideCart(upstream) as own:
        with Wire(own.port) as client:
            assert client.ask(LONG) == "TDCZ"
        helpers = children(own.process.pid)
        assert helpers
        for pid in helpers:
            os.kill(pid, signal.SIGINT)  # as Ctrl-C does, which goes to the whole group
            os.kill(pid, signal.SIGTERM)
        with Wire(own.port) as client:
            assert client.ask(LONG.replace("x", "y")) == "TDCZ"
        assert children(own.process.pid) == helpers
        own.process.kill()
        own.process.wait()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in helpers), 10, "the helpers to end")


def test_helpers_see_no_password_and_stand_back(roomy: SideCart) -> None:
    with Wire(roomy.port) as client:
        assert client.ask(LONG.replace("x", "v")) == "TDCZ"
    for pid in children(roomy.process.pid):
        assert b"PASSWORD" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
        assert f"Max address space         {messages.MEMORY}" in Path(f"/proc/{pid}/limits").read_text()


# --- the supervisor, with helpers that misbehave ----------------------------------------------------------------------


class Quiet:
    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None:
        self.events.append(event)


class Waiting:
    """Someone who has asked a question."""

    def __init__(self) -> None:
        self.verdict: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()

    def judged(self, verdict: Verdict | None) -> None:
        self.verdict.set_result(verdict)

    def bug(self) -> None:
        raise AssertionError("bug")


def script(body: str) -> tuple[str, ...]:
    """Return the command of a helper that runs this for each request; `answer(x)` sends an answer."""
    lines = (
        "import sys, os, time, msgspec, signal",
        "from proxy.databases.helpers import messages as judge",
        "from proxy.filter import Filter",
        "def answer(x):",
        "    data = msgspec.msgpack.encode(x)",
        "    sys.stdout.buffer.write(len(data).to_bytes(4, 'big') + data); sys.stdout.buffer.flush()",
        "while head := sys.stdin.buffer.read(4):",
        "    request = judge.read_request(sys.stdin.buffer.read(int.from_bytes(head, 'big')))",
        *(f"    {line}" for line in body.splitlines()),
    )
    return (sys.executable, "-c", "\n".join(lines))


def run(work: Callable[[Stats, Quiet], Coroutine[Any, Any, None]]) -> tuple[Stats, Quiet]:
    stats, audit = Stats(), Quiet()
    asyncio.run(work(stats, audit))
    return stats, audit


PROOF = msgspec.msgpack.encode(messages.Proof(b"", Policy(), frozenset()))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it ended"),
        ("sys.exit()", "it ended"),
        ("time.sleep(60)", "it took longer than 2 s"),
        ("sys.stdout.buffer.write(b'\\0\\0\\0\\3abc'); sys.stdout.buffer.flush()", "it sent what is no answer"),
        ("answer(judge.Step(1))\nwhile True: pass", "it took longer than 2 s"),
    ],
)
def test_helper_that_misbehaves_is_ended_and_the_next_request_has_another(
    monkeypatch: pytest.MonkeyPatch, body: str, why: str
) -> None:
    monkeypatch.setattr(supervisor, "PATIENCE", 2.0)

    async def work(stats: Stats, audit: Quiet) -> None:
        helper = Helper("test", stats, script(f"if request.skip: answer(judge.Failed('well'))\nelse:\n    {body}"))
        assert await helper.start() == 1
        with pytest.raises(HelperLostError, match=why):
            await helper.ask(PROOF)
        assert await helper.start() == 2
        fine = msgspec.msgpack.encode(messages.Proof(b"", Policy(), frozenset({1})))
        assert await helper.ask(fine) == messages.Failed("well")
        await helper.close()

    stats, _ = run(work)
    assert stats.helper_starts == {"test": 2}


def test_steps_keep_a_long_proof_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PATIENCE", 2.0)

    async def work(stats: Stats, audit: Quiet) -> None:
        body = "for n in range(6): answer(judge.Step(n)); time.sleep(0.5)\nanswer(judge.Failed('x'))"
        helper = Helper("test", stats, script(body))
        await helper.start()
        assert await helper.ask(PROOF) == messages.Failed("x")
        await helper.close()

    run(work)


def test_helper_ends_when_it_has_rested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "REST", 0.05)

    async def work(stats: Stats, audit: Quiet) -> None:
        helper = Helper("test", stats, script("answer(judge.Failed('x'))"))
        assert await helper.start() == 1
        await helper.ask(PROOF)
        await asyncio.sleep(0.2)
        assert await helper.start() == 2
        await helper.close()

    run(work)


def lanes(texts: Texts, command: tuple[str, ...]) -> None:
    for lane in (texts._short, texts._long):
        lane._helper._command = command


def asked(judge: Filter, *texts: bytes, command: tuple[str, ...] = ()) -> tuple[list[Verdict | None], Stats, Quiet]:
    """Have texts judged one after the other by a real helper, or by `command`."""
    verdicts = []

    async def work(stats: Stats, audit: Quiet) -> None:
        tasks = Tasks()
        lane = Texts(stats, audit, tasks)
        if command:
            lanes(lane, command)
        for text in texts:
            waiting = Waiting()
            lane.ask(waiting, judge, text, "utf-8", False)
            verdicts.append(await waiting.verdict)
        await lane.close()
        await tasks.stop()

    stats, audit = run(work)
    return verdicts, stats, audit


def test_text_that_kills_the_helper_twice_is_refused_without_blame_and_not_remembered() -> None:
    judge = Filter()
    command = script("if isinstance(request, judge.Text): os.kill(os.getpid(), signal.SIGSEGV)")
    [verdict], _, audit = asked(judge, b"select 1", command=command)
    assert verdict == messages.NOT_JUDGED
    assert "Send it again" in verdict.hint
    assert judge.recall(b"select 1", "utf-8", False) is None
    assert audit.events == ["helper lost", "helper lost"]


def test_text_whose_helper_was_killed_is_judged_again(tmp_path: Path) -> None:
    """As the kernel kills one for want of memory: the client was told that its statement is too complex."""
    command = script(
        f"if isinstance(request, judge.Text) and not os.path.exists({str(tmp_path / 'killed')!r}):\n"
        f"    open({str(tmp_path / 'killed')!r}, 'w')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if isinstance(request, judge.Text): answer(judge.Judged(Filter().judge(request.sql)))"
    )
    judge = Filter()
    [verdict], stats, audit = asked(judge, b"select 1", command=command)
    assert verdict == judge.recall(b"select 1", "utf-8", False) == Filter().judge(b"select 1")
    assert stats.helper_starts == {"texts": 2}
    assert audit.events == ["helper lost"]


def test_proof_whose_helper_was_killed_is_made_again(tmp_path: Path) -> None:
    body = f"""\
answer(judge.Step(1))
if not os.path.exists({str(tmp_path / "killed")!r}):
    open({str(tmp_path / "killed")!r}, 'w'); os.kill(os.getpid(), signal.SIGKILL)
{EMPTY}"""
    catalog, stats, audit = proved(script(body))
    assert catalog.version == 0  # nothing was skipped
    assert stats.helper_starts == {"proofs": 2}
    assert audit.events == ["helper lost"]


def test_helper_that_cannot_be_started_refuses() -> None:
    [verdict], _, audit = asked(Filter(), b"select 1", command=("/nonexistent/python",))
    assert verdict is not None
    assert (verdict.action, verdict.rule) == (Action.REFUSE, "internal")
    assert audit.events == ["helper not started"]


def test_helper_judges_by_the_policy_and_the_catalogue_of_each_filter() -> None:
    with_catalogue = Filter()
    with_catalogue.learn_catalog(
        Catalog(
            relations={"v": (Relation(1, "public", ("a",)),)},
            taints={("relation", 1): Taint("view public.v", "it calls public.w()", "public.v")},
        )
    )
    verdicts, stats, _ = asked(with_catalogue, b"select * from v", b"select 1")
    assert verdicts[0] is not None
    assert verdicts[0].action is Action.REFUSE
    assert "view public.v" in verdicts[0].detail + verdicts[0].message
    assert verdicts[1] is not None
    assert verdicts[1].action is Action.ALLOW
    assert stats.helper_starts == {"texts": 1}
    [denied], _, _ = asked(Filter(Policy(deny_functions=("pg_sleep",))), b"select pg_sleep(1)")
    assert denied is not None
    assert denied.rule == "denied-function"


def test_verdict_of_the_helper_is_that_of_the_filter() -> None:
    texts = [
        b"select 1",
        b"begin read write",
        b"set work_mem = '1MB'",
        b"delete from t",
        b"selec",
        b"",
        b"select '\xff'",
    ]
    found, _, _ = asked(Filter(), *texts)
    assert found == [Filter().judge(text) for text in texts]


def test_verdict_by_an_old_catalogue_is_not_remembered() -> None:
    judge = Filter()

    async def work(stats: Stats, audit: Quiet) -> None:
        tasks = Tasks()
        texts = Texts(stats, audit, tasks)
        waiting = Waiting()
        texts.ask(waiting, judge, b"select 1", "utf-8", False)
        await asyncio.sleep(0.01)  # the helper is being started, or at work
        judge.learn_catalog(Catalog())
        assert await waiting.verdict is not None
        await texts.close()
        await tasks.stop()

    run(work)
    assert judge.recall(b"select 1", "utf-8", False) is None


def test_question_that_was_taken_back_is_not_asked() -> None:
    async def work(stats: Stats, audit: Quiet) -> None:
        tasks = Tasks()
        texts = Texts(stats, audit, tasks)
        texts.ask(Waiting(), Filter(), b"select 1", "utf-8", False).cancel()
        await asyncio.sleep(0.05)
        await texts.close()
        await tasks.stop()

    stats, _ = run(work)
    assert not stats.helper_starts


def proved(command: tuple[str, ...]) -> tuple[Catalog, Stats, Quiet]:
    found: list[Catalog] = []

    async def work(stats: Stats, audit: Quiet) -> None:
        prover = Prover(stats, audit)
        prover._helper._command = command
        try:
            found.append(await prover.prove(b"", Policy()))
        finally:
            await prover.close()

    stats, audit = run(work)
    return found[0], stats, audit


EMPTY = "answer(judge.Proved(judge.form(judge.Catalog(version=len(request.skip)))))"


def test_function_that_kills_the_prover_is_skipped() -> None:
    body = f"""\
for oid in {{1, 3}} - request.skip:
    answer(judge.Step(oid)); os.abort()
{EMPTY}"""
    catalog, stats, audit = proved(script(body))
    assert catalog.version == 2
    assert stats.helper_starts == {"proofs": 5}
    assert audit.events == ["helper lost"] * 4


@pytest.mark.parametrize(
    "body", ["os.abort()", "answer(judge.Step(1)); os.abort()", "answer(judge.Failed('bad rows'))"]
)
def test_proof_that_cannot_be_had_is_an_error(body: str) -> None:
    with pytest.raises(ProofError):
        proved(script(body))


def test_task_that_is_cancelled_takes_the_helper_with_it() -> None:
    """Its late answer would be taken for the next request's."""

    async def work(stats: Stats, audit: Quiet) -> None:
        helper = Helper("test", stats, script("time.sleep(0.2); answer(judge.Failed('old'))"))
        await helper.start()
        asking = asyncio.ensure_future(helper.ask(PROOF))
        await asyncio.sleep(0.05)
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        assert await helper.start() == 2
        await helper.close()

    run(work)

"""Judge long texts, and prove what a database's own functions do, in helper processes.

Decoding a parse tree holds the interpreter's lock: a list of 200,000 elements would hold every client for a third of a
second. And what parses hostile input may hang, crash, or want all the memory there is. So this happens in processes of
their own, each with one request at a time: one that takes too long is killed, one that dies is replaced, and what it
worked on is refused.

Requests and answers go over the helper's standard input and output: four bytes of length, then MessagePack. The helper
ends when its input does. `python -m proxy.databases.helper` is the helper; it is of no use by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import traceback
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, cast, get_type_hints

import msgspec

from proxy.errors import INTERNAL_ERROR, STATEMENT_TOO_COMPLEX, SideCartError
from proxy.events import Audit
from proxy.filter import Filter
from proxy.session.ports import Asker, Question
from proxy.sql.cache import VerdictCache
from proxy.sql.catalog import Catalog, Key, Taint
from proxy.sql.policy import Policy
from proxy.sql.resolve import built_in
from proxy.sql.resolve.world import Builder, Own, Tables, World, cut
from proxy.sql.verdict import Action, Verdict
from proxy.stats import Stats
from proxy.system import environment
from proxy.tasks import Tasks

MAX_SHORT: Final = 65_536
"""Bytes of a text of the short lane: at the worst it takes a third of a second."""
PATIENCE: Final = 10.0
"""Seconds that a helper may take for a text, or for one step of a proof."""
SHORT_PATIENCE: Final = 2.0
"""Seconds that a text may take in the short lane: what takes longer for whatever reason is judged anew in the other."""
MEMORY: Final = 2 << 30
"""Bytes of address space that a helper may have. The tree of a text takes up to 500 times the text."""
REST: Final = 600.0
"""Seconds without work after which a helper ends: it costs 35 MB, and 0.2 s to start again."""
PIECE: Final = 1000
"""Entries of a catalogue that are decoded at a time: 100,000 in one go held the event loop for 0.25 s."""
MAX_CULPRITS: Final = 20
"""Objects that may kill the helper before the proof of their database is given up."""
NICE: Final = 5
"""How far the helper stands back behind the process that serves clients."""
_INTERPRETER: Final = ("PYTHON", "VIRTUAL_ENV", "COVERAGE_", "MALLOC_")
"""How the names of variables begin that a helper gets beside the ordinary ones, and what it is run and watched by."""

Results = list[list[list[bytes | None]]]
"""The rows of each result of a Query, their values in text format."""


class HelperLostError(SideCartError):
    """The helper died, or was killed, because it was `late` or for another reason.

    `step` is what it had said it would do next, if anything.
    """

    def __init__(self, message: str, step: int | None = None, *, late: bool = False) -> None:
        super().__init__(message)
        self.step = step
        self.late = late


class ProofError(SideCartError):
    """The catalogue could not be proved: the text says why."""


# --- what is sent -----------------------------------------------------------------------------------------------------

_HINTS: Final = {**get_type_hints(Catalog), "taints": dict[Key, Taint], "world": Own | None}
_Form = msgspec.defstruct("_Form", [(item.name, _HINTS[item.name]) for item in fields(Catalog)], array_like=True)
"""A Catalog as it travels: all its fields, in their order; of its world, what it was built of."""


def _form(catalog: Catalog, **others: Any) -> Any:
    """Give a catalogue the form in which it travels; `others` stand in the place of its own values."""
    others.setdefault("world", None if catalog.world is None else catalog.world.own)
    return _Form(*(others.get(item.name, getattr(catalog, item.name)) for item in fields(catalog)))


def _catalog(form: Any, world: World | None) -> Catalog:
    return Catalog(**{item.name: getattr(form, item.name) for item in fields(Catalog)} | {"world": world})


def _pieces(catalog: Catalog) -> Iterator[Piece]:
    """Cut a catalogue's mappings, and leave them empty, so that no piece holds up who decodes it for long."""
    for name in _MAPPINGS:
        entries = iter(getattr(catalog, name).items())
        while some := dict(islice(entries, PIECE)):
            yield Piece(_form(Catalog(), **{name: some}))
    if catalog.world is not None:
        for part in cut(catalog.world.own, PIECE):
            yield Piece(_form(Catalog(), world=part))


def _rest(catalog: Catalog) -> Any:
    """Give the form of a catalogue without what is cut."""
    world = None if catalog.world is None else catalog.world.own._replace(tables=Tables())
    return _form(catalog, world=world, **{name: {} for name in _MAPPINGS})


def _joined(form: Any, pieces: Iterable[Piece]) -> Catalog:
    """Put a catalogue that was cut together again."""
    builder = None if form.world is None else built_in.builder(form.world)
    for piece in pieces:
        _add(form, builder, piece)
    return _catalog(form, None if builder is None else builder.world())


def _add(form: Any, builder: Builder | None, piece: Piece) -> None:
    part: Any = piece.catalog
    for name in _MAPPINGS:
        getattr(form, name).update(getattr(part, name))
    if builder is not None and part.world is not None:
        builder.add(part.world.tables)


async def _whole(form: Any, pieces: list[bytes]) -> Catalog:
    """Put a catalogue that comes from the helper together again, and let others run in between; it leaves no pieces.

    Raises ProofError for what is no piece.
    """
    builder = None
    if form.world is not None:
        # Reading the data takes 35 ms, once: the loop gets its turn every few of them.
        builder = await asyncio.to_thread(built_in.builder, form.world)
    pieces.reverse()
    while pieces:
        try:
            piece = _read_piece(pieces.pop())
        except msgspec.MsgspecError as error:
            raise ProofError("the helper gave a wrong answer") from error
        _add(form, builder, piece)
        await asyncio.sleep(0)
    return _catalog(form, None if builder is None else builder.world())


_MAPPINGS: Final = ("functions", "relations", "types", "operators", "taints", "leaves")


class Learn(msgspec.Struct, tag=True, array_like=True):
    """Judge by this policy and this catalogue from now on, whose mappings came in pieces before. Has no answer."""

    policy: Policy
    catalog: _Form | None  # type: ignore[valid-type]


class Text(msgspec.Struct, tag=True, array_like=True):
    sql: bytes
    encoding: str
    extended: int
    types: tuple[int, ...] = ()
    schemas: tuple[int, ...] | None = None
    keeps_path: bool = False
    """Both as in Filter."""


class Proof(msgspec.Struct, tag=True, array_like=True):
    results: bytes
    """`Results`, encoded."""
    policy: Policy
    skip: frozenset[int]


class Step(msgspec.Struct, tag=True, array_like=True):
    """Answer in between: the function, relation or type with this OID comes next."""

    oid: int


class Judged(msgspec.Struct, tag=True, array_like=True):
    verdict: Verdict


class Piece(msgspec.Struct, tag=True, array_like=True):
    """A part of a catalogue: of the one that was proved, or that is to be learned."""

    catalog: _Form  # type: ignore[valid-type]


class Proved(msgspec.Struct, tag=True, array_like=True):
    """Answer with the catalogue, but for its mappings: they came in pieces."""

    catalog: _Form  # type: ignore[valid-type]


class Failed(msgspec.Struct, tag=True, array_like=True):
    why: str


_encode = msgspec.msgpack.Encoder().encode
_read_request = msgspec.msgpack.Decoder(Learn | Piece | Text | Proof).decode
_read_answer = msgspec.msgpack.Decoder(Step | Judged | Proved | Failed).decode
_read_piece = msgspec.msgpack.Decoder(Piece).decode
_PIECE = b"\x92\xa5Piece"
"""How the MessagePack of a Piece begins: an array of two, its tag. Many come in one read, and are decoded in turns."""
Answer = Judged | Proved | Failed


def encode_results(results: Sequence[Sequence[Sequence[bytes | None]]]) -> bytes:
    """Return results as a proof takes them; equal bytes are equal results."""
    return _encode(results)


# --- the serving side -------------------------------------------------------------------------------------------------


class Texts:
    """Have texts judged that are too long to be judged in line. Implements `house.Judge`.

    There are two lanes, so that a text of a few kB never waits for one of a few MB.
    """

    def __init__(self, stats: Stats, audit: Audit, tasks: Tasks) -> None:
        self._long = _Lane("long_texts", PATIENCE, None, stats, audit, tasks)
        self._short = _Lane("texts", SHORT_PATIENCE, self._long, stats, audit, tasks)

    def ask(
        self, asker: Asker, judge: Filter, sql: bytes, encoding: str, extended: int, types: tuple[int, ...] = ()
    ) -> Question:
        lane = self._short if len(sql) <= MAX_SHORT else self._long
        return lane.ask(_Text(asker, judge, sql, encoding, extended, types))

    async def close(self) -> None:
        await self._short.close()
        await self._long.close()


class _Lane:
    """Have texts judged by one helper, one after the other; a text that takes too long goes to the `slower` lane.

    The next text is that of the client who has had least of the helper's time, and then the shortest. Who comes anew
    counts as having had as much as whoever is served (start-time fair queueing): it waits for one text, and then for
    others that are new.
    """

    def __init__(
        self, name: str, patience: float, slower: _Lane | None, stats: Stats, audit: Audit, tasks: Tasks
    ) -> None:
        self._name = name
        self._patience = patience
        self._slower = slower
        self._helper = Helper(name, stats)
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._line: asyncio.PriorityQueue[tuple[float, int, int, _Text]] = asyncio.PriorityQueue()
        self._asked = 0
        self._had: dict[Asker, float] = {}  # seconds of those clients that have had more than is served now
        self._served = 0.0
        self._worker: asyncio.Task[None] | None = None
        self._learned: tuple[int, Policy, Catalog | None] | None = None  # by the helper process of this number

    def ask(self, question: _Text) -> Question:
        self._asked += 1
        had = self._served if question.asker is None else self._had.get(question.asker, self._served)
        self._line.put_nowait((max(had, self._served), len(question.sql), self._asked, question))
        if self._worker is None or self._worker.done():
            self._worker = self._tasks.start(self._work(), "judge texts")
        return question

    async def close(self) -> None:
        await self._helper.close()

    async def _work(self) -> None:
        now = asyncio.get_running_loop().time
        while not self._line.empty():
            self._served, _, _, question = self._line.get_nowait()
            asker = question.asker
            if asker is None:
                continue
            began = now()
            verdict = await self._judge(question)
            self._had = {each: had for each, had in self._had.items() if had > self._served}
            self._had[asker] = self._served + now() - began
            if verdict is not None:
                question.tell(verdict, self._audit)
        self._had.clear()
        self._served = 0.0

    async def _judge(self, question: _Text) -> Verdict | None:
        """Return the verdict; None: the slower lane has the question.

        A text whose helper was lost is judged once more by another: the kernel may have ended it, or the operator.
        """
        try:
            try:
                return await self._ask_helper(question)
            except HelperLostError:
                return await self._ask_helper(question)
        except HelperLostError:
            return NOT_JUDGED
        except OSError as error:
            self._audit.event("helper not started", level="error", helper=self._name, why=type(error).__name__)
        except Exception as error:
            self._stats.bugs += 1
            self._audit.event("bug", level="error", what=type(error).__name__, where="judge texts")
        return NOT_JUDGED

    async def _ask_helper(self, question: _Text) -> Verdict | None:
        judge = question.judge
        wanted = (judge.policy, judge.catalog)
        schemas = judge.schemas
        try:
            number = await self._helper.start()
            patience = self._patience
            if self._learned is None or self._learned[0] != number or self._learned[1:] != wanted:
                patience = PATIENCE  # to learn a large catalogue takes its time, too
                policy, catalog = wanted
                if catalog is not None:
                    for piece in _pieces(catalog):
                        self._helper.tell(_encode(piece))
                        await asyncio.sleep(0)  # to encode a large one takes 15 ms
                self._helper.tell(_encode(Learn(policy, None if catalog is None else _rest(catalog))))
                self._learned = (number, *wanted)
            text = Text(
                question.sql, question.encoding, int(question.extended), question.types, schemas, judge.keeps_path
            )
            request = _encode(text)
            answer = await self._helper.ask(request, patience=patience)
            if not isinstance(answer, Judged):
                raise HelperLostError("it gave another answer than a verdict")
            verdict = answer.verdict
        except HelperLostError as error:
            self._audit.event("helper lost", level="error", helper=self._name, why=str(error), bytes=len(question.sql))
            if not error.late:
                raise
            if self._slower is not None:
                if question.asker is not None:
                    self._slower.ask(question)
                return None
            verdict = TOO_COMPLEX
        if (judge.policy, judge.catalog, judge.schemas) == (*wanted, schemas):  # else it is of no use any more
            judge.remember(question.sql, question.encoding, question.extended, verdict, question.types)
        return verdict


class _Text(Question):
    __slots__ = ("encoding", "extended", "judge", "sql", "types")

    def __init__(
        self, asker: Asker, judge: Filter, sql: bytes, encoding: str, extended: int, types: tuple[int, ...] = ()
    ) -> None:
        super().__init__(asker)
        self.judge = judge
        self.sql = sql
        self.encoding = encoding
        self.extended = extended
        self.types = types


TOO_COMPLEX: Final = Verdict(
    Action.REFUSE,
    "unparsable",
    rule="depth",
    sqlstate=STATEMENT_TOO_COMPLEX,
    message="the statement is too complex to be judged",
    detail=f"Reading it took more than {PATIENCE:g} s or {MEMORY >> 30} GB of memory (rule: depth).",
    hint="Send fewer values in one text: as an array parameter, or in several statements.",
)
NOT_JUDGED: Final = Verdict(
    Action.REFUSE,
    "unparsable",
    rule="internal",
    sqlstate=INTERNAL_ERROR,
    message="the statement could not be judged",
    detail="The process that judges long texts could not do it (rule: internal).",
    hint="Send it again; if it is refused again, ask the operator to look into SideCart's log.",
)


class Prover:
    """Have the rows of a database proved, one database at a time."""

    def __init__(self, stats: Stats, audit: Audit) -> None:
        self._helper = Helper("proofs", stats)
        self._audit = audit
        self._turn = asyncio.Lock()

    async def prove(self, results: bytes, policy: Policy) -> Catalog:
        """Return the catalogue that follows from `encode_results(…)`; an object that kills the helper twice is no read.

        The first time it may have been the kernel's doing, or somebody's. Raises ProofError.
        """
        skip: frozenset[int] = frozenset()
        suspect: set[int | None] = set()
        async with self._turn:
            while True:
                try:
                    await self._helper.start()
                    pieces: list[bytes] = []
                    answer = await self._helper.ask(_encode(Proof(results, policy, skip)), pieces)
                except HelperLostError as error:
                    self._audit.event("helper lost", level="error", helper="proofs", why=str(error), oid=error.step)
                    if error.step not in suspect and not error.late:
                        suspect.add(error.step)
                        continue
                    if error.step is None or error.step in skip or len(skip) >= MAX_CULPRITS:
                        raise ProofError("the helper process that judges functions was lost") from error
                    skip |= {error.step}
                except OSError as error:
                    raise ProofError("the helper process that judges functions could not be started") from error
                else:
                    if isinstance(answer, Proved):
                        return await _whole(answer.catalog, pieces)
                    raise ProofError(answer.why if isinstance(answer, Failed) else "the helper gave a wrong answer")

    async def close(self) -> None:
        await self._helper.close()


class Helper:
    """Supervise one helper process: start it, ask it one thing at a time, end it when it rests or takes too long."""

    def __init__(self, name: str, stats: Stats, command: tuple[str, ...] = ()) -> None:
        self._name = name
        self._stats = stats
        self._command = command or (sys.executable, "-P", "-m", "proxy.databases.helper")
        self._process: _Process | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._started = 0

    async def start(self) -> int:
        """Have a process running, and return its number: another number is another process. Raises OSError."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._process is None or self._process.gone:
            await self._ended()  # there is never more than one
            loop = asyncio.get_running_loop()
            _, process = await loop.subprocess_exec(
                _Process, *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=_environment(os.environ)
            )
            self._process = process
            self._started += 1
            self._stats.helper_starts[self._name] += 1
        return self._started

    def tell(self, request: bytes) -> None:
        """Send what has no answer."""
        if self._process is not None:
            self._process.send(request)

    async def ask(self, request: bytes, pieces: list[bytes] | None = None, *, patience: float | None = None) -> Answer:
        """Send a request to the process that `start` gave, and return its answer. Raises HelperLostError.

        Pieces that come ahead of the answer are added to `pieces` as they came. Each step on the way has `patience`
        seconds, or else PATIENCE.
        """
        process = self._process
        if process is None:
            raise HelperLostError("it is not running")
        try:
            answer = await process.ask(
                request, [] if pieces is None else pieces, PATIENCE if patience is None else patience
            )
        except BaseException:
            # Also where this task is cancelled: the answer would be taken for the next request's.
            process.kill()
            raise
        self._rest = asyncio.get_running_loop().call_later(REST, process.kill)
        return answer

    async def close(self) -> None:
        """End the process, and wait until the kernel has let go of it."""
        if self._rest is not None:
            self._rest.cancel()
        if self._process is not None:
            self._process.kill()
        await self._ended()

    async def _ended(self) -> None:
        if self._process is not None:
            await self._process.ended
            self._process = None


class _Process(asyncio.SubprocessProtocol):
    """The serving end of a helper's pipes."""

    def __init__(self) -> None:
        self.gone = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._pieces: list[bytes] = []
        self._limit: asyncio.Timeout | None = None
        self._patience = PATIENCE
        self._step: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's are not subclasses
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def send(self, request: bytes) -> None:
        if self._stdin is not None and not self.gone:
            self._stdin.writelines((len(request).to_bytes(4, "big"), request))

    async def ask(self, request: bytes, pieces: list[bytes], patience: float = PATIENCE) -> Answer:
        """Return the answer; each step on the way to it has its own `patience` seconds. Raises HelperLostError."""
        self._step = None
        self._patience = patience
        self._pieces = pieces
        self._answer = asyncio.get_running_loop().create_future()
        if self.gone:
            raise HelperLostError("it has ended")
        self.send(request)
        try:
            async with asyncio.timeout(patience) as self._limit:
                return await self._answer
        except TimeoutError as error:
            raise HelperLostError(f"it took longer than {patience:g} s", self._step, late=True) from error
        finally:
            self._answer = self._limit = None

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:4], "big")
            if len(buffer) < end:
                return
            frame = bytes(buffer[4:end])
            del buffer[:end]
            self._take(frame)

    def _take(self, frame: bytes) -> None:
        if frame.startswith(_PIECE):
            self._pieces.append(frame)
            self._go_on()
            return
        try:
            answer = _read_answer(frame)
        except msgspec.MsgspecError:
            self._lose("it sent what is no answer")
            return
        if isinstance(answer, Step):
            self._step = answer.oid
            self._go_on()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _go_on(self) -> None:
        """Give the helper its patience anew: it has taken a step."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._patience)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._lose("it ended")

    def process_exited(self) -> None:
        self._lose("it ended")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _lose(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(HelperLostError(why, self._step))
        self.kill()

    def kill(self) -> None:
        """End the process now: it holds nothing that could be lost."""
        if self.gone or self._transport is None:
            return
        self.gone = True
        if self._transport.get_returncode() is None:
            self._transport.kill()
        self._transport.close()


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the helper's environment: no passwords, and this very package."""
    kept = environment.small(given, beginnings=_INTERPRETER)
    path = [str(Path(__file__).parents[2]), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path)}


# --- the helper -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Answer requests until there are no more. Runs in the helper process."""
    _confine()
    judge = Filter(Policy(), _cache())
    pieces: list[Piece] = []
    while head := sys.stdin.buffer.read(4):
        request = _read_request(sys.stdin.buffer.read(int.from_bytes(head, "big")))
        _set_alarm()
        if isinstance(request, Learn):
            judge = Filter(request.policy, _cache())
            if request.catalog is not None:
                judge.learn_catalog(_joined(request.catalog, pieces))
            pieces.clear()
            _set_apart()
        elif isinstance(request, Piece):
            pieces.append(request)
        elif isinstance(request, Text):
            verdict = judge_text(judge, request)
            _answer(sys.stdout.buffer, Judged(TOO_COMPLEX if verdict.message == "out of memory" else verdict))
        else:
            _prove(sys.stdout.buffer, request)
        del request  # before the next one is read: it can be large
        signal.alarm(0)


def judge_text(judge: Filter, request: Text) -> Verdict:
    """Judge one text without a search for cycles: a parse tree has none, and was searched the oftener the longer it is.

    That took 0.09 of 0.2 s for 180 kB of `c.name = c.name`, and grew faster than the length.
    """
    gc.disable()
    try:
        by_path = judge if request.keeps_path and request.schemas == judge.schemas else judge.by(request.schemas)
        return by_path.judge(request.sql, request.encoding, extended=request.extended, types=request.types)
    finally:
        gc.enable()


def _set_apart() -> None:
    """Have a new catalogue searched for cycles once, with what is left of the old one, and then no more."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _cache() -> VerdictCache:
    """Make a cache for the normal forms of texts: exact ones are remembered by the serving process."""
    return VerdictCache(4 << 20)


def _confine() -> None:
    """Stand back: bounded memory, the last in line for the CPU and the first for the kernel's out-of-memory killer.

    Signals of a terminal or an init system go to every process of a group. What they mean is for the serving process to
    decide: this one ends with its input.
    """
    import resource  # absent on Windows, where the serving process has to get along without

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold clients' texts
    os.nice(NICE)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with contextlib.suppress(OSError, ValueError):  # macOS has neither
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        Path("/proc/self/oom_score_adj").write_text("1000")


def _set_alarm() -> None:
    """End this process if the serving one, which would kill it earlier, is no more. SIGALRM's default action does."""
    signal.alarm(int(2 * PATIENCE))


def _answer(out: BinaryIO, answer: Step | Piece | Answer) -> None:
    data = _encode(answer)
    out.write(len(data).to_bytes(4, "big") + data)
    out.flush()


def _prove(out: BinaryIO, request: Proof) -> None:
    # Here and not above: the serving process needs neither of them.
    from proxy.proofs import prove
    from proxy.proofs import rows as catalog_rows

    def progress(oid: int) -> None:
        _set_alarm()
        _answer(out, Step(oid))

    try:
        rows = catalog_rows.decode(msgspec.msgpack.decode(request.results, type=Results))
        catalog = prove.prove(rows, request.policy, skip=request.skip, progress=progress)
    except Exception as error:
        # Where, and not what: the words of an exception can hold a piece of a body.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        _answer(out, Failed(f"the rows of the system catalogues could not be judged ({where})"))
        return
    for piece in _pieces(catalog):
        _answer(out, piece)
    _answer(out, Proved(_rest(catalog)))


if __name__ == "__main__":
    main()

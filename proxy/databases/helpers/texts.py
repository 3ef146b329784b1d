"""Have long texts judged by helper processes.

Decoding a parse tree holds the interpreter's lock: a list of 200,000 elements would hold every client for a third of a
second. And what parses hostile input may hang, crash, or want all the memory there is. So this happens in processes of
their own, each with one request at a time: one that takes too long is killed, one that dies is replaced, and what it
worked on is refused.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.databases.helpers.messages import (
    NOT_JUDGED,
    PATIENCE,
    TOO_COMPLEX,
    Judged,
    Learn,
    Text,
    encode,
    pieces_of,
    rest_of,
)
from proxy.databases.helpers.supervisor import Helper, HelperLostError
from proxy.events import Audit
from proxy.filter import Filter
from proxy.session.ports import Asker, Question
from proxy.sql.catalog import Catalog
from proxy.sql.policy import Policy
from proxy.sql.verdict import Verdict
from proxy.stats import Stats
from proxy.tasks import Tasks

MAX_SHORT: Final = 65_536
"""Bytes of a text of the short lane: at the worst it takes a third of a second."""
SHORT_PATIENCE: Final = 2.0
"""Seconds that a text may take in the short lane: what takes longer for whatever reason is judged anew in the other."""


class Texts:
    """Have texts judged that are too long to be judged in line. Implements `ports.Judge`.

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
                    for piece in pieces_of(catalog):
                        self._helper.tell(encode(piece))
                        await asyncio.sleep(0)  # to encode a large one takes 15 ms
                self._helper.tell(encode(Learn(policy, None if catalog is None else rest_of(catalog))))
                self._learned = (number, *wanted)
            text = Text(
                question.sql, question.encoding, int(question.extended), question.types, schemas, judge.keeps_path
            )
            request = encode(text)
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

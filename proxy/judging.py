"""Verdicts on one client's texts: found at once, or asked of the helper process, or after a newer catalogue.

A session has one message at a time whose verdict is awaited. It keeps the message, and asks again when it is told.
"""

from __future__ import annotations

from typing import Final

from proxy import observe, rules
from proxy import protocol as p
from proxy.filter import VOID_PARSE, Filter
from proxy.functions import Functions
from proxy.house import Asker, House, Question
from proxy.verdict import Action, Verdict

MAX_INLINE: Final = 2_048
"""Bytes of a text that is judged at once; a longer one that is not known yet goes to the helper process.

A text of so many bytes holds the event loop for 18 ms at the worst (`1+1+1+…`; 37 ms for 4 kB, 60 ms for 16 kB of
`1::int::int…`), an ordinary one for less than one.
"""


class Judging:
    """Find the verdicts on one client's texts. `asker` is told when an awaited one can be had."""

    __slots__ = ("_asked", "_asker", "_database", "_house", "_question", "_refreshed", "_verdict", "filter")

    def __init__(self, house: House, judge: Filter, database: str, asker: Asker) -> None:
        self._house = house
        self.filter = judge
        self._database = database
        self._asker = asker
        self._question: Question | None = None
        self._asked: tuple[bytes, str, int, Functions] | None = None  # what was sent to the helper, and judged by
        self._verdict: Verdict | None = None  # what the helper says of just that
        self._refreshed = False  # the message has waited for a newer catalogue already

    @property
    def awaited(self) -> bool:
        """Whether an answer is still to come."""
        return self._question is not None

    def verdict(self, text: bytes, codec: str, *, extended: int = False, types: bytes = b"") -> Verdict | None:
        """Return the verdict on a text; None: it is awaited. `types` are those of a Parse, as it carries them."""
        oids = p.parameter_types(types) if len(types) > 2 else ()
        if rules.VOID_OID in oids:
            extended = VOID_PARSE
        if len(text) > MAX_INLINE:
            verdict = self._long(text, codec, extended)
        else:
            verdict = self.filter.judge(text, codec, extended=extended)
        if oids and verdict is not None and verdict.action is not Action.REFUSE:
            verdict = self.filter.judge_types(oids) or verdict
        if verdict is not None and verdict.unresolved and not self._refreshed:
            self._question = self._house.catalogues.refresh_for(self._database, self._asker)
            self._refreshed = self._question is not None
            if self._refreshed:
                return None
        return verdict

    def _long(self, text: bytes, codec: str, extended: int) -> Verdict | None:
        if len(text) > self._house.max_query_length:
            return self.filter.judge(text, codec, extended=extended)  # it looks at the length first
        asked = (text, codec, extended, self.filter.functions)
        if self._verdict is not None and asked == self._asked:
            return self._verdict
        verdict = self.filter.recall(text, codec, extended)
        if verdict is None:
            self._asked = asked
            self._question = self._house.judge.ask(self._asker, self.filter, text, codec, extended)
        return verdict

    def answered(self, verdict: Verdict | None) -> None:
        """Take the helper's answer; None: there is a newer catalogue, or none to be had."""
        self._question = None
        self._verdict = verdict

    def served(self) -> None:
        """Forget the message that was waited for: it is served."""
        self._asked = self._verdict = None
        self._refreshed = False

    def cancel(self) -> bool:
        """Take the question back; return whether there was one."""
        question, self._question = self._question, None
        if question is not None:
            question.cancel()
        return question is not None

    def passes(self, verdict: Verdict, text: bytes, codec: str) -> bool:
        """Whether a text goes upstream: it is allowed, or filter.mode lets it."""
        return verdict.action is not Action.REFUSE or (
            self._house.observe and observe.lets_through(verdict.rule, text, codec)
        )

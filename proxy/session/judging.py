"""Verdicts on one client's texts: found at once, or asked of the helper process, or after a newer catalogue.

A session has one message at a time whose verdict is awaited. It keeps the message, and asks again when it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from proxy import protocol as p
from proxy.errors import OBJECT_IN_USE, PROGRAM_LIMIT_EXCEEDED
from proxy.filter import OWN_PARSE, VOID_PARSE
from proxy.session.ports import Asker, Database, House, Question
from proxy.sql import observe, tables
from proxy.sql.catalog import FIRST_NORMAL_OID
from proxy.sql.functions import Functions
from proxy.sql.verdict import Action, Effect, Verdict

MAX_INLINE: Final = 2_048
"""Bytes of a text that is judged at once; a longer one that is not known yet goes to the helper process.

A text of so many bytes holds the event loop for 18 ms at the worst (`1+1+1+…`; 37 ms for 4 kB, 60 ms for 16 kB of
`1::int::int…`), an ordinary one for less than one.
"""
MAX_KEPT: Final = 16 << 20
"""Bytes of statements prepared by SQL that are kept of one client, to be judged again."""
_Asked = tuple[bytes, str, int, tuple[int, ...], Functions]
"""A text, its codec, how it came and with which types of parameters, and what it is judged by."""
_Kept = tuple[bytes, str, bytes]
"""A text, its codec, and the types of its parameters."""
_Effects = tuple[tuple[Effect, str], ...]
_STILL: Final = Verdict(Action.ALLOW, "execute")
_LONG: Final = Verdict(Action.REFUSE, "multi", rule="length")
_FORGOTTEN: Final = Verdict(
    Action.REFUSE,
    "execute",
    rule="length",
    sqlstate=PROGRAM_LIMIT_EXCEEDED,
    message="the prepared statement is not known any more",
    detail=f"This session has prepared more than {MAX_KEPT >> 20} MB of statements by SQL (rule: length).",
    hint="Prepare it again.",
)

PATH_IN_USE: Final = Verdict(
    Action.REFUSE,
    "set",
    rule="setting-value",
    sqlstate=OBJECT_IN_USE,
    message="cannot change search_path while a portal is open",
    detail="A portal of this transaction has functions that were proved under the present search_path, and could go on"
    " under the new one (rule: setting-value).",
    hint="Set it first, or end the transaction.",
    object="search_path",
)
"""The verdict on what changes the search_path where that would change what an open portal runs."""
_OVERHEAD: Final = 256


class Judging:
    """Find the verdicts on one client's texts. `asker` is told when an awaited one can be had."""

    __slots__ = (
        "_answers",
        "_asked",
        "_asker",
        "_blind",
        "_database",
        "_forgotten",
        "_house",
        "_kept",
        "_newer",
        "_question",
        "_refreshed",
        "_size",
        "counted",
        "filter",
        "sql_effects",
    )

    def __init__(self, house: House, database: Database, asker: Asker) -> None:
        self._house = house
        self.filter = database.filter
        self._database = database
        self._asker = asker
        self._question: Question | None = None
        self._asked: _Asked | None = None  # what was last sent to the helper
        self._answers: dict[_Asked, Verdict] = {}  # what it has said of texts of this message
        self._kept: dict[bytes, dict[_Kept, Functions | None]] = {}  # what names may stand for, and was judged by
        self._size = 0
        self._forgotten = False  # there were too many of these
        self.sql_effects: _Effects = ()
        """What statements do that were prepared by SQL."""
        self._refreshed = False  # the message has waited for a newer catalogue already
        self._blind = False  # there was none at all when it began to
        self._newer = False  # and has got one that was read since
        self.counted = False
        """The text that comes next has been asked for before: its message has waited. The cache's counts have it."""

    @property
    def awaited(self) -> bool:
        """Whether an answer is still to come."""
        return self._question is not None

    def verdict(self, text: bytes, codec: str, *, extended: int = False, types: bytes = b"") -> Verdict | None:
        """Return the verdict on a text; None: it is awaited. `types` are those of a Parse, as it carries them."""
        if self.counted:
            self.counted = False
            counts = self.filter.counts
            before = counts.hits, counts.shape_hits, counts.misses
            found = self.verdict(text, codec, extended=extended, types=types)
            counts.hits, counts.shape_hits, counts.misses = before
            return found
        oids = p.parameter_types(types) if len(types) > 2 else ()
        if oids:
            extended = extended | VOID_PARSE * (tables.VOID_OID in oids) | OWN_PARSE * (max(oids) >= FIRST_NORMAL_OID)
        if len(text) > MAX_INLINE:
            verdict = self._long(text, codec, extended, oids)
        else:
            verdict = self.filter.judge(text, codec, extended=extended, types=oids)
        if oids and verdict is not None and verdict.action is not Action.REFUSE:
            verdict = self.filter.judge_types(verdict, oids) or verdict
        return self._resolved(verdict) if verdict is not None and verdict.action is Action.REFUSE else verdict

    def _resolved(self, verdict: Verdict) -> Verdict | None:
        """Return what a refusal comes to once the catalogue was read anew for what it lacks; None: awaited.

        That is a name, or a proof of what bodies do under the session's search_path.
        """
        lacks_proof = not self._refreshed and self.filter.awaits_proof(verdict)
        if lacks_proof or (verdict.unresolved and (not self._refreshed or self._first_may_be_older())):
            self.cancel()
            self._blind = self.filter.catalog is None
            self._question = self._database.catalogue.refresh_for(self._asker)
            self._refreshed = self._question is not None
            if self._refreshed:
                return None
        if self._newer and verdict.rule == "unknown-relation" and verdict.hint:
            # By a catalogue that has just been read, this is the server's answer, which says no more.
            return replace(verdict, detail="", hint="")
        return verdict

    def _first_may_be_older(self) -> bool:
        """Say whether the first catalogue was awaited and is there, but was read before the message came."""
        return self._blind and not self._newer and self.filter.catalog is not None

    def _long(self, text: bytes, codec: str, extended: int, oids: tuple[int, ...]) -> Verdict | None:
        if len(text) > self._house.max_query_length:
            return self.filter.judge(text, codec, extended=extended)  # it looks at the length first
        asked = (text, codec, extended, oids, self.filter.functions)
        verdict = self._answers.get(asked) or self.filter.recall(text, codec, extended, oids)
        if verdict is None:
            self.cancel()
            self._asked = asked
            self._question = self._house.judge.ask(self._asker, self.filter, text, codec, extended, oids)
        return verdict

    def answered(self, verdict: Verdict | None) -> None:
        """Take the helper's answer; None: there is a newer catalogue, or none to be had."""
        self._newer = self._newer or (self._question is not None and self._question.newer)
        self._question = None
        if verdict is not None and self._asked is not None:
            self._answers[self._asked] = verdict

    def served(self) -> None:
        """Forget the message that was waited for: it is served."""
        self._asked = None
        if self._answers:
            self._answers.clear()
        self._refreshed = self._blind = self._newer = False

    # --- statements that the server keeps under the client's own names ------------------------------------------------

    def keep(self, name: bytes, text: bytes, codec: str, types: bytes = b"", *, first: bool) -> None:
        """Note what a name may stand for from now on, to be judged again by another catalogue: see `again`.

        It may fail, and another may hold the name already: whatever was ever kept for a name counts. `first`: the
        server holds none of the client's statements yet.
        """
        if first:
            self._kept.clear()
            self._size = 0
            self._forgotten = False
        kept = self._kept.setdefault(name, {})
        if (text, codec, types) not in kept:
            self._size += len(text) + len(types) + _OVERHEAD
        kept[text, codec, types] = None
        if self._forgotten or self._size > MAX_KEPT:
            self._kept.clear()
            self._forgotten = True

    def again(self, name: bytes) -> Verdict | None:
        """Judge again what a name may stand for, where the catalogue is another one than it was judged by.

        Return the first verdict that refuses, or one that allows; None: it is awaited.
        """
        if self._forgotten:
            return _FORGOTTEN
        functions = self.filter.functions
        kept = self._kept.get(name, {})
        for (text, codec, types), judge in kept.items():
            if judge is not functions:
                verdict = self.verdict(text, codec, types=types)
                if verdict is None or not self.passes(verdict, text, codec):
                    return verdict
                kept[text, codec, types] = functions
        return _STILL

    def cancel(self) -> bool:
        """Take the question back; return whether there was one."""
        question, self._question = self._question, None
        if question is not None:
            question.cancel()
        return question is not None

    def passes(self, verdict: Verdict, text: bytes, codec: str) -> bool:
        """Whether a text goes upstream: it is allowed, or filter.mode lets it."""
        return verdict.action is not Action.REFUSE or (
            self._house.observe and observe.lets_through(verdict.rule, text, codec, self._piece(codec))
        )

    def sets_beside(self, text: bytes, codec: str) -> _Effects:
        """Return what a text sets that was refused, and that filter.mode lets through."""
        return observe.sets(text, codec, self._piece(codec)) or ()

    def _piece(self, codec: str) -> Callable[[bytes], Verdict]:
        return lambda piece: self.filter.judge(piece, codec) if len(piece) <= MAX_INLINE else _LONG

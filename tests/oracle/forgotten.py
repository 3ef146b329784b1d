"""Forget on purpose, one after the other, a part of what is judged: a harness that cannot fail proves nothing.

Two kinds of faults: what is judged for a statement leads nowhere any more, and what the resolver says is not heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple
from unittest import mock

from proxy.sql import picked
from proxy.sql.catalog import (
    CAST,
    CHECK,
    COMPARE,
    FUNCTION,
    INPUT,
    OPERATOR,
    OUTPUT,
    RELATION,
    ROLES,
    TO_JSON,
    TO_TEXT,
    TYPE,
    Key,
)
from proxy.sql.resolve import hidden, oids, queries
from tests.oracle.ran import Closures, Evidence

Cut = Callable[[Key, Key], bool]
"""Tell whether what the first leads to is to be forgotten."""


class Fault(NamedTuple):
    """What is forgotten: keys that were asked for, by their kind, and what leads to what."""

    asked: str = ""
    cut: Cut = lambda key, used: False

    def is_found(self, closures: Closures, evidence: Iterable[Evidence]) -> bool:
        """Tell whether a function ran that would be missing."""
        edges = {
            key: frozenset(each for each in used if not self.cut(key, each)) for key, used in closures.edges.items()
        }
        return any(
            not each.ran <= closures.reached((key for key in each.asked if key[0] != self.asked), edges)
            for each in evidence
        )


def _from(kind: str, to: str) -> Cut:
    return lambda key, used: key[0] == kind and used[0] == to


OF_WHAT_IS_ASKED: Final[Mapping[str, Fault]] = {
    **{f"asks for no {role}": Fault(role) for role in (INPUT, CHECK, OUTPUT, COMPARE, TO_JSON, TO_TEXT)},
    **{f"asks for no {kind}": Fault(kind) for kind in (FUNCTION, OPERATOR, RELATION, TYPE)},
    **{f"{role} of the type alone": Fault(cut=_from(role, role)) for role in ROLES if role not in (OUTPUT, TO_TEXT)},
    "input without checks": Fault(cut=_from(INPUT, CHECK)),
    "input of ranges without order": Fault(cut=_from(INPUT, COMPARE)),
    "json by output alone": Fault(cut=_from(TO_JSON, CAST)),
    "text by output alone": Fault(cut=_from(TO_TEXT, CAST)),
    "order by the own class alone": Fault(cut=lambda key, used: key[0] == COMPARE and used[0] in (CAST, COMPARE)),
    "checks call nothing": Fault(cut=_from(CHECK, FUNCTION)),
    "order calls nothing": Fault(cut=_from(COMPARE, FUNCTION)),
    "input calls nothing": Fault(cut=_from(INPUT, FUNCTION)),
    "output calls nothing": Fault(cut=_from(OUTPUT, FUNCTION)),
    "functions call nothing": Fault(cut=_from(FUNCTION, FUNCTION)),
    "functions return and take nothing": Fault(cut=_from(FUNCTION, TYPE)),
    "operators call nothing": Fault(cut=_from(OPERATOR, FUNCTION)),
    "casts call nothing": Fault(cut=_from(CAST, FUNCTION)),
    "tables call nothing": Fault(cut=_from(RELATION, FUNCTION)),
}
"""By what they are called."""


OF_C: Final = frozenset((f"asks for no {OUTPUT}", "output calls nothing", "input calls nothing"))
"""Those that only code in C shows."""
Patch = Callable[[], AbstractContextManager[object]]


def _roles(**changed: str) -> Patch:
    return lambda: mock.patch.dict(hidden.ROLES, changed)


def _kinds(*names: str) -> Patch:
    kept = {name: role for name, role in picked._ROLES.items() if name not in names}
    return lambda: mock.patch.object(picked, "_ROLES", kept)


OF_THE_RESOLVER: Final[Mapping[str, Patch]] = {
    "json_agg makes no json": _roles(json_agg="", jsonb_agg=""),
    "to_json makes no json": _roles(to_json="", row_to_json="", to_jsonb=""),
    "array_to_json makes no json": _roles(array_to_json=""),
    "quote_literal makes no text": _roles(quote_literal="", quote_nullable=""),
    "an operator makes no text": _roles(anytextcat="", textanycat=""),
    "json_populate_record reads nothing": _roles(json_populate_record="", json_populate_recordset=""),
    "max compares nothing": _roles(max="", min=""),
    "arrays compare nothing": _roles(array_eq="", array_lt="", arraycontains="", arrayoverlap="", array_position=""),
    "rows compare nothing": _roles(record_eq="", record_lt=""),
    "array_agg receives nothing": _roles(array_agg=""),
    "functions of the database do nothing with values of any type": lambda: mock.patch.object(hidden, "EVERYTHING", ""),
    "input": _kinds("input"),
    "checks": _kinds("check", "domain"),
    "order": _kinds("order", "minmax"),
    "equality": _kinds("equality"),
    "comparison by functions": _kinds("compare"),
    "json": _kinds("cast-to-json"),
    "text": _kinds("cast-to-text"),
    "everything": _kinds("everything"),
    "CYCLE compares nothing": lambda: mock.patch.object(queries, "_cycled", lambda *_: None),
    "rows hold nothing": lambda: mock.patch.object(picked, "_ROWS", frozenset({oids.ANY_TYPE})),
}
"""What is put in the place of something while a statement is judged."""


SINCE: Final = {"array_agg receives nothing": 16, "CYCLE compares nothing": 14}
"""From which major version on a server does what is left out."""


def is_missed(patch: Patch, closures: Closures, evidence: Sequence[Evidence]) -> bool:
    """Tell whether a function ran that would be missing from what is judged with something else in its place."""
    closures.forget()
    with patch():
        judged = (closures.judged(each.sql, each.types, resolves=True) for each in evidence)
        found = any(
            now is not None and not each.ran <= now.functions for each, now in zip(evidence, judged, strict=True)
        )
    closures.forget()
    return found

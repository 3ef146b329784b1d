"""Say what of a catalogue the statements have never made a server pick, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from tests.oracle import picked
from tests.oracle.catalogue import Catalogue, Function
from tests.oracle.compare import Comparison

_INTERNAL: Final = 2281
_NOT_YET: Final = "in no statement"


def never_picked(catalogue: Catalogue, comparison: Comparison) -> dict[str, dict[str, list[str]]]:
    """Return the names of functions, operators and casts that the server has not picked, by kind and by reason."""
    covered = comparison.tally.covered

    def names(kind: str, oids: Iterable[int], why: Callable[[int], str]) -> dict[str, list[str]]:
        seen = covered.get(kind, {})
        found: dict[str, list[str]] = {}
        for oid in oids:
            if oid not in seen:
                found.setdefault(why(oid), []).append(comparison.name(kind, oid))
        return {reason: sorted(each) for reason, each in sorted(found.items())}

    functions = {each.oid: each for each in catalogue.functions if each.kind != "p"}
    conversions = covered.get(picked.CONVERSION, {})
    casts: dict[str, list[str]] = {}
    for source, target in catalogue.casts:
        if picked.pair(source, target) not in conversions:
            words = " to ".join(comparison.name(picked.CONST, each) for each in (source, target))
            casts.setdefault(_NOT_YET, []).append(words)
    return {
        picked.FUNCTION: names(picked.FUNCTION, functions, lambda oid: _why(functions[oid])),
        picked.OPERATOR: names(picked.OPERATOR, (each.oid for each in catalogue.operators), lambda oid: _NOT_YET),
        "cast": casts,
    }


def _why(function: Function) -> str:
    """Say why a function cannot be called from a statement."""
    return "takes or gives internal" if _INTERNAL in (*function.arguments, function.result) else _NOT_YET

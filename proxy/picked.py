"""Hold what the server picks for the names in one query, so that the judgement asks of those objects alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .sql.resolve import NotModelledError, RejectedError, Resolver, Use
from .sql.resolve.world import World
from .walk import Body

FUNCTIONS: Final = frozenset({"function", "in-range"})
"""What is called. The handler of a TABLESAMPLE method is not among it: the name of the method says what it does."""
OPERATORS: Final = frozenset({"operator", "sort", "group"})
_PLACED: Final = frozenset({"relation", "called", "var"})
"""What else is asked for by its place."""
TYPES: Final = frozenset({"type", "io", "io-from", "input", "output", "domain", "check", "order", "equality", "minmax"})


class Picked:
    """Answer for one query. Made by `pick`."""

    __slots__ = ("_at", "_places", "_world", "by_place", "casts", "functions", "operators", "types")

    def __init__(self, world: World, uses: Sequence[Use], types: set[int], *, by_place: bool) -> None:
        self._world = world
        self._at: dict[tuple[str, int], frozenset[int]] = {}
        self._places: dict[int, int] = {}
        self.functions: set[int] = set()
        self.operators: set[int] = set()
        self.casts: set[int] = set()
        self.types = types
        """The types that values in it are of, and those that it names."""
        self.by_place = by_place
        """Whether the same query can come to something else where it names another output column by its number."""
        for kind, location, oids in uses:
            found = oids or frozenset()
            if location >= 0:
                for oid in found:
                    self._places.setdefault(oid, location)
            if kind in FUNCTIONS:
                self.functions |= found
            elif kind in OPERATORS:
                self.operators |= found
            elif kind in TYPES:
                self.types |= found
            elif kind == "cast":
                self.casts |= found
            elif kind not in _PLACED:
                continue
            key = (kind, location)
            known = self._at.get(key)
            self._at[key] = found if known is None else known | found

    def at(self, kind: str, location: int) -> frozenset[int] | None:
        """Return what is picked for a node of the tree; None: nothing of this kind was met there."""
        return self._at.get((kind, location))

    def is_column(self, location: int) -> bool:
        """Tell whether what looks like a column is one, and no call."""
        return ("var", location) in self._at and ("called", location) not in self._at

    def place(self, oid: int) -> int:
        """Return where the text has something that an object is used for; -1: nowhere."""
        return self._places.get(oid, -1)

    def name(self, function: int) -> tuple[str, str]:
        """Return schema and name of a function that is picked."""
        row = self._world.functions[function]
        return next((name for name, oid in self._world.schemas.items() if oid == row.schema), ""), row.name


def pick(resolver: Resolver, query: Body, parameters: Sequence[int]) -> Picked | None:
    """Return what the server picks for a SelectStmt; None: nobody knows it all, or the server rejects the text.

    Nor is a function that is built in and has been changed what its name promises.

    `parameters` are the types that a Parse gives.
    """
    try:
        found = resolver.resolve({"SelectStmt": query}, parameters)
    except (RejectedError, NotModelledError, RecursionError):
        return None
    if any(use.oids is None for use in found.uses):
        return None
    picked = Picked(resolver.world, found.uses, found.types.union(found.parameters), by_place=found.by_place)
    return picked if picked.functions.isdisjoint(resolver.world.changed) else None

"""Look names up along a search_path: catalog/namespace.c, parser/parse_type.c."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from . import oids
from .world import Function, Operator, Relation, Type, World

Row = TypeVar("Row", Type, Relation)


class Search:
    """Answer for one effective search_path: the OIDs of its schemas in their order, pg_catalog's among them.

    `temporary` is the session's own schema of temporary objects, which holds types and relations, never functions or
    operators, whatever its place in the path; 0: it has none.
    """

    __slots__ = ("_functions", "_operators", "_place", "path", "temporary", "world")

    def __init__(self, world: World, path: Sequence[int], temporary: int = 0) -> None:
        self.world = world
        self.path = tuple(path)
        self.temporary = temporary
        self._place = {schema: at for at, schema in enumerate(self.path) if schema != temporary}
        self._functions: dict[str, tuple[tuple[int, Function], ...]] = {}
        self._operators: dict[str, tuple[Operator, ...]] = {}

    def schema(self, name: str) -> int:
        """Return a schema's OID; 0: there is none of this name."""
        if name == "pg_temp":
            return self.temporary
        return self.world.schemas.get(name, 0)

    def functions(self, schema: str, name: str) -> tuple[tuple[int, Function], ...]:
        """Give the functions that bear a name, each with its schema's place in the path (0 where that is written)."""
        if schema:
            wanted = self.schema(schema)
            return tuple((0, each) for each in self.world.functions_named.get(name, ()) if each.schema == wanted)
        known = self._functions.get(name)
        if known is None:
            place = self._place
            named = self.world.functions_named.get(name, ())
            known = tuple((place[each.schema], each) for each in named if each.schema in place)
            if known:  # names that nothing bears come from clients, and there is no end to them
                self._functions[name] = known
        return known

    def operators(self, schema: str, name: str) -> tuple[Operator, ...]:
        """Give the operators that bear a name; of those that take the same, the first in the path alone."""
        if schema:
            wanted = self.schema(schema)
            return tuple(each for each in self.world.operators_named.get(name, ()) if each.schema == wanted)
        known = self._operators.get(name)
        if known is None:
            place = self._place
            seen = [each for each in self.world.operators_named.get(name, ()) if each.schema in place]
            seen.sort(key=lambda each: place[each.schema])
            first: dict[tuple[int, int], Operator] = {}
            for each in seen:
                first.setdefault((each.left, each.right), each)
            known = tuple(first.values())
            if known:
                self._operators[name] = known
        return known

    def type(self, schema: str, name: str, *, temporary: bool = True) -> Type | None:
        """Return the type that a name means; None: there is none. TypenameGetTypidExtended()."""
        found = self.world.types_named.get(name, ())
        if schema:
            wanted = self.schema(schema)
            return next((each for each in found if each.schema == wanted), None)
        return self._first(found) if temporary else self._first(each for each in found if each.schema != self.temporary)

    def relation(self, schema: str, name: str) -> Relation | None:
        """Return the relation that a name means; None: there is none. RangeVarGetRelid()."""
        found = self.world.relations_named.get(name, ())
        if schema:
            wanted = self.schema(schema)
            return next((each for each in found if each.schema == wanted), None)
        return self._first(found)

    def _first(self, rows: Iterable[Row]) -> Row | None:
        best: Row | None = None
        at = len(self.path)
        for each in rows:
            if each.schema in self.path and (place := self.path.index(each.schema)) < at:
                best, at = each, place
        return best


def with_catalog(path: Sequence[int], temporary: int = 0) -> tuple[int, ...]:
    """Return the effective path of one that a setting names: pg_catalog comes first, and pg_temp before it."""
    found = list(dict.fromkeys(path))
    if oids.PG_CATALOG not in found:
        found.insert(0, oids.PG_CATALOG)
    if temporary and temporary not in found:
        found.insert(0, temporary)
    return tuple(found)

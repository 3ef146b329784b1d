"""Look names up along a search_path: catalog/namespace.c, parser/parse_type.c."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from proxy.sql.resolve import oids
from proxy.sql.resolve.world import Function, Operator, Relation, Type, World

Row = TypeVar("Row", Type, Function, Operator, Relation)
MAX_INDEXED = 100_000
"""Objects of each kind that are kept by name and schema: a large catalogue has more, and few are asked for."""


class Search:
    """Answer for one effective search_path: the OIDs of its schemas in their order, pg_catalog's among them.

    `temporary` is the session's own schema of temporary objects, which holds types and relations, never functions or
    operators, whatever its place in the path; 0: it has none. A thousand schemas can have objects of one name: they are
    gone through once for each name.
    """

    __slots__ = ("_functions", "_operators", "_relations", "_types", "path", "temporary", "world")

    def __init__(self, world: World, path: Sequence[int], temporary: int = 0) -> None:
        self.world = world
        self.path = tuple(dict.fromkeys(path))
        self.temporary = temporary
        self._functions = _Index(world.functions_named)
        self._operators = _Index(world.operators_named)
        self._relations = _Index(world.relations_named)
        self._types = _Index(world.types_named)

    def schema(self, name: str) -> int:
        """Return a schema's OID; 0: there is none of this name."""
        if name == "pg_temp":
            return self.temporary
        return self.world.schemas.get(name, 0)

    def functions(self, schema: str, name: str) -> list[tuple[int, Function]]:
        """Give the functions that bear a name, each with its schema's place in the path (0 where that is written)."""
        found = self._functions.by_schema(name)
        if schema:
            return [(0, each) for each in found.get(self.schema(schema), ())]
        return [
            (place, each) for place, at in enumerate(self.path) if at != self.temporary for each in found.get(at, ())
        ]

    def operators(self, schema: str, name: str) -> Sequence[Operator]:
        """Give the operators that bear a name; of those that take the same, the first in the path alone."""
        found = self._operators.by_schema(name)
        if schema:
            return found.get(self.schema(schema), ())
        first: dict[tuple[int, int], Operator] = {}
        for at in self.path:
            if at != self.temporary:
                for each in found.get(at, ()):
                    first.setdefault((each.left, each.right), each)
        return list(first.values())

    def type(self, schema: str, name: str, *, temporary: bool = True) -> Type | None:
        """Return the type that a name means; None: there is none. TypenameGetTypidExtended()."""
        found = self._types.by_schema(name)
        if schema:
            return next(iter(found.get(self.schema(schema), ())), None)
        hidden = 0 if temporary else self.temporary
        for at in self.path:
            if at in found and at != hidden:
                return found[at][0]
        return None

    def relation(self, schema: str, name: str) -> Relation | None:
        """Return the relation that a name means; None: there is none. RangeVarGetRelid()."""
        found = self._relations.by_schema(name)
        if schema:
            return next(iter(found.get(self.schema(schema), ())), None)
        for at in self.path:
            if at in found:
                return found[at][0]
        return None


class _Index(Generic[Row]):
    """Hold objects by name, then by schema, once they were asked for."""

    __slots__ = ("_known", "_named", "_size")

    def __init__(self, named: Mapping[str, Sequence[Row]]) -> None:
        self._named: Mapping[str, Sequence[Row]] = named
        self._known: dict[str, dict[int, list[Row]]] = {}
        self._size = 0

    def by_schema(self, name: str) -> Mapping[int, Sequence[Row]]:
        found = self._known.get(name)
        if found is None:
            rows = self._named.get(name, ())
            found = {}
            for each in rows:
                found.setdefault(each.schema, []).append(each)
            if rows:  # names that nothing bears come from clients, and there is no end to them
                if self._size + len(rows) > MAX_INDEXED:
                    self._known.clear()
                    self._size = 0
                self._known[name] = found
                self._size += len(rows)
        return found


def effective(world: World, names: Iterable[str], role: str) -> tuple[int, ...] | None:
    """Return the schemas that a search_path of these names comes to for a role; None: nobody knows.

    That is recomputeNamespacePath() (catalog/namespace.c) in a session that has no temporary objects.
    """
    found: list[int] = []
    for name in names:
        if name.startswith(("pg_temp_", "pg_toast_temp_")):
            return None  # another session's, which a world does not have
        schema = world.schemas.get(role if name == "$user" else name, 0)
        if schema in world.usable:
            found.append(schema)
    return with_catalog(found)


def with_catalog(path: Sequence[int], temporary: int = 0) -> tuple[int, ...]:
    """Return the effective path of one that a setting names: pg_catalog comes first, and pg_temp before it."""
    found = list(dict.fromkeys(path))
    if oids.PG_CATALOG not in found:
        found.insert(0, oids.PG_CATALOG)
    if temporary and temporary not in found:
        found.insert(0, temporary)
    return tuple(found)

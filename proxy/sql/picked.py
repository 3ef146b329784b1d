"""Hold what the server picks for the names in one query, so that the judgement asks of those objects alone."""

from __future__ import annotations

from collections.abc import Sequence, Set
from enum import Enum
from typing import Final, NamedTuple

from proxy.sql.catalog import CHECK, COMPARE, FIRST_NORMAL_OID, INPUT, OUTPUT, TO_JSON, TO_TEXT, TYPE
from proxy.sql.resolve import NotModelledError, Outside, RejectedError, Resolution, Resolver, oids
from proxy.sql.resolve.oids import ANY_TYPE, VOID
from proxy.sql.resolve.world import World
from proxy.sql.walk import Body

FUNCTIONS: Final = frozenset({"function", "in-range"})
"""What is called. The handler of a TABLESAMPLE method is not among it: the name of the method says what it does."""
OPERATORS: Final = frozenset({"operator", "sort", "group"})
CASTS: Final = frozenset({"cast"})
TYPES: Final = frozenset({"type"})
_ROLES: Final = {
    **dict.fromkeys(("input", "io", "modifier"), INPUT),
    **dict.fromkeys(("output", "io-from"), OUTPUT),
    **dict.fromkeys(("check", "domain"), CHECK),
    **dict.fromkeys(("order", "equality", "minmax", "compare"), COMPARE),
    "cast-to-json": TO_JSON,
    "cast-to-text": TO_TEXT,
    "everything": TYPE,
}
"""In which role a type's own code runs, by what the resolver has found it used for; TYPE: in all there are.

What tells order and equality, and hashes, is one: how values are compared is for the planner to choose.
"""
_ROWS: Final = frozenset({oids.RECORD, oids.RECORD_ARRAY})
"""Values of these can have in them what is of any type in the statement."""


class ByNames(Enum):
    """Say why nobody knows what each name in a query means, so that all that bears it is judged."""

    CATALOGUE = "catalogue"
    """There is none, or none of this server's version."""
    PATH = "search_path"
    """Nobody knows the session's."""
    TEXT = "text"
    """It is too long; or it has numbers that the server reads as a number and a name; or values of types that a Parse
    does not give."""
    LATER = "later"
    """The server looks the names up later: behind a SET of the search_path, in SQL that is given as text."""
    REJECTED = "rejected"
    """The server is expected to reject it."""
    FORM = "form"
    """Something in it is not known to the resolver."""
    OPEN = "open"
    """A name in it can mean anything."""
    CHANGED = "changed"
    """It uses something built in that was changed."""
    VOID = "void"
    """A value of type void vanishes from the arguments of a call, which is judged by their count."""


def _objects(found: Resolution, kinds: Set[str]) -> set[int]:
    """Return what is used in one of these ways."""
    oids_ = {oid for kind in kinds if kind in found.noted for _, oid in found.noted[kind]}
    for use in found.uncertain:
        if use.kind in kinds:
            oids_.update(use.oids or ())
    return oids_


class Picked:
    """Answer for one query. Made by `pick`."""

    __slots__ = (
        "_found",
        "_placed",
        "_world",
        "by_place",
        "casts",
        "compares_by_place",
        "functions",
        "operators",
        "targets",
        "types",
    )

    def __init__(self, world: World, found: Resolution) -> None:
        self._world = world
        self._found = found
        self._placed: dict[str, dict[int, set[int]]] = {}
        self.functions = _objects(found, FUNCTIONS)
        self.operators = _objects(found, OPERATORS)
        self.casts = _objects(found, CASTS)
        self.types = found.types.union(found.parameters, _objects(found, TYPES))
        """The types that values in it are of, and those that it names."""
        self.by_place = found.by_place
        """Whether the same query can come to something else where it names another output column by its number."""
        self.compares_by_place = found.compares_by_place
        """Whether it then compares values of another type, at least."""
        self.types.discard(ANY_TYPE)
        self.targets = found.from_types - {ANY_TYPE}
        """What values of types that nobody knows are converted to, in the body of a function."""

    def hidden(self) -> dict[str, set[int]]:
        """Return the types whose own code runs without being named, by the role that it runs in; TYPE: in any."""
        found: dict[str, set[int]] = {OUTPUT: set(self.types), INPUT: set(self._found.parameters) - {ANY_TYPE}}
        for kind, name in _ROLES.items():
            found.setdefault(name, set()).update([oid for _, oid in self._found.noted.get(kind, ())])
        for use in self._found.uncertain:
            if use.kind in _ROLES:
                found[_ROLES[use.kind]].update(use.oids or ())
        if self._found.correlated:  # a plan may remember what it found for a value: get_memoize_path(), joinpath.c
            found[COMPARE].update(self.types)
        for role in found.values():
            if not role.isdisjoint(_ROWS):
                role |= self.types
            self._add_parts(role)
        return found

    def _add_parts(self, types: set[int]) -> None:
        """Add what rows and arrays among some types are made of: see `Roles.judged`."""
        world = self._world
        waiting = [oid for oid in types if oid >= FIRST_NORMAL_OID]
        while waiting:
            row = world.types.get(waiting.pop())
            if row is None:
                continue
            relation = world.relations.get(row.relation)
            parts = [row.element] if relation is None else [each.type for each in relation.columns]
            new = {oid for oid in parts if oid >= FIRST_NORMAL_OID}.difference(types)
            types |= new
            waiting += new

    def at(self, kind: str, location: int) -> Set[int] | None:
        """Return what is picked for a node of the tree; None: nothing of this kind was met there."""
        placed = self._placed.get(kind)
        if placed is None:
            placed = self._placed[kind] = {}
            for place, oid in self._found.noted.get(kind, ()):
                placed.setdefault(place, set()).add(oid)
            for use in self._found.uncertain:
                if use.kind == kind:
                    placed.setdefault(use.location, set()).update(use.oids or ())
        return placed.get(location)

    def is_column(self, location: int) -> bool:
        """Tell whether what looks like a column is one, or an argument or a variable, and no call."""
        is_value = self.at("var", location) is not None or self.at("param", location) is not None
        return is_value and self.at("called", location) is None

    def place(self, oid: int) -> int:
        """Return where the text names a type, or has something that an object is used for; -1: nowhere."""
        uses = [use for use in self._found.uses if use.location >= 0 and oid in (use.oids or ())]
        named = [use for use in uses if use.kind in TYPES]
        return min((use.location for use in named or uses), default=-1)

    def name(self, function: int) -> tuple[str, str]:
        """Return schema and name of a function that is picked."""
        row = self._world.functions[function]
        return self._world.schema_names.get(row.schema, ""), row.name


class Meaning(NamedTuple):
    """Say how to find what the names in a text mean."""

    resolver: Resolver
    """Under the search_path that the text will run with."""
    types: Sequence[int] = ()
    """Those of its parameters, as a Parse gives them, or of the arguments of the function whose body it is."""
    outside: Outside | None = None
    """The names that such a body has beside those of FROM."""


def pick(meaning: Meaning, query: Body, declared: Sequence[Body] = ()) -> Picked | ByNames:
    """Return what the server picks for a SelectStmt, or why nobody knows it all.

    A function that is built in and has been changed is not what its name promises.

    `declared` are the TypeNames of a PREPARE. The values in the body of a function are of types that are judged where
    they come from, so that what belongs to a type need not be known there.
    """
    resolver, parameters, outside = meaning
    try:
        found = resolver.resolve({"SelectStmt": query}, parameters, declared, outside)
    except RejectedError:
        return ByNames.REJECTED
    except (NotModelledError, RecursionError):
        return ByNames.FORM
    if found.is_open and (outside is None or found.opaque):
        return ByNames.OPEN
    picked = Picked(resolver.world, found)
    if outside is None and VOID in picked.types:  # no argument of a function vanishes
        return ByNames.VOID
    return picked if picked.functions.isdisjoint(resolver.world.changed) else ByNames.CHANGED

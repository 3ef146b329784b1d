"""Build the world of a database from the rows that were read of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from msgspec.structs import replace

from proxy.sql.resolve import oids
from proxy.sql.resolve.layers import Types, TypesNamed, layered
from proxy.sql.resolve.world import Cast, Function, Operator, OperatorClass, Own, Relation, Tables, Type, World

Key = TypeVar("Key")
Value = TypeVar("Value")
Row = TypeVar("Row", Type, Function, Operator, Relation)


class Builder:
    """Build a world, in as many steps as `add` is called: what it is given at a time bounds what one takes.

    `below` is what is built in, whose mappings are shared and not copied; its rows are not to be added again.
    """

    def __init__(self, major: int, below: World | None = None) -> None:
        self._major = major
        self._below = below
        self._tables: tuple[list[Any], ...] = tuple([] for _ in Tables._fields)
        self._types: dict[int, Type] = {}
        self._types_named: dict[str, Sequence[Type]] = {}
        self._functions: dict[int, Function] = {}
        self._functions_named: dict[str, Sequence[Function]] = {}
        self._operators: dict[int, Operator] = {}
        self._operators_named: dict[str, Sequence[Operator]] = {}
        self._classes: dict[int, Sequence[OperatorClass]] = {}
        self._casts: dict[tuple[int, int], Cast] = {}
        self._members: dict[tuple[int, int, int, int], int] = {}
        self._strategies: dict[int, Sequence[tuple[int, int]]] = {}
        self._in_range: dict[tuple[int, int], Sequence[tuple[int, int]]] = {}
        self._relations: dict[int, Relation] = {}
        self._relations_named: dict[str, Sequence[Relation]] = {}
        self._rows: dict[int, Relation] = {}
        self._parents: dict[int, Sequence[int]] = {}
        self._shapes: dict[str, str] = {}

    def add(self, some: Tables) -> None:
        """Take some rows of each kind."""
        below = self._below or _NOTHING
        some = some._replace(relations=[self._shared(row) for row in some.relations])
        for kept, rows in zip(self._tables, some, strict=True):
            kept += rows
        _enter(some.types, self._types, self._types_named, below.types_named)
        _enter(some.functions, self._functions, self._functions_named, below.functions_named)
        _enter(some.operators, self._operators, self._operators_named, below.operators_named)
        _enter(some.relations, self._relations, self._relations_named, below.relations_named)
        for relation in some.relations:
            if relation.row_type:
                self._rows[relation.row_type] = relation
            if relation.array:
                self._rows[relation.array] = relation
        for cast in some.casts:
            self._casts[cast.source, cast.target] = cast
        for each in some.classes:
            _append(self._classes, each.method, each, below.classes)
        for member in some.members:
            self._members[member.family, member.left, member.right, member.strategy] = member.operator
            if member.method == oids.BTREE:
                _append(self._strategies, member.operator, (member.family, member.strategy), below.strategies)
        for row in some.support:
            if row.number == oids.BT_IN_RANGE:
                _append(self._in_range, (row.family, row.left), (row.right, row.function), below.in_range)
        for inherits in some.parents:
            _append(self._parents, inherits.child, inherits.parent, below.parents)

    def _shared(self, relation: Relation) -> Relation:
        """Let relations with the same columns, those of many tenants, have them once."""
        shape = self._shapes.setdefault(relation.shape, relation.shape)
        return relation if shape is relation.shape else replace(relation, shape=shape)

    def world(self) -> World:
        """Return the world of all that was added."""
        below = self._below or _NOTHING
        own = Tables(*self._tables)
        return World(
            major=self._major,
            schemas={name: oid for name, oid, _ in own.schemas},
            schema_names={oid: name for name, oid, _ in own.schemas},
            usable=frozenset(oid for _, oid, usable in own.schemas if usable),
            types=Types(self._types, below.types, self._rows) if self._rows else layered(self._types, below.types),
            types_named=TypesNamed(self._types, self._types_named, below.types_named, self._relations_named)
            if self._rows
            else layered(self._types_named, below.types_named),
            functions=layered(self._functions, below.functions),
            functions_named=layered(self._functions_named, below.functions_named),
            operators=layered(self._operators, below.operators),
            operators_named=layered(self._operators_named, below.operators_named),
            casts=layered(self._casts, below.casts),
            classes=layered(self._classes, below.classes),
            members=layered(self._members, below.members),
            strategies=layered(self._strategies, below.strategies),
            in_range=layered(self._in_range, below.in_range),
            relations=self._relations,
            relations_named=self._relations_named,
            parents=self._parents,
            subtypes=layered({each.range: each.subtype for each in own.ranges}, below.subtypes),
            multiranges=layered(
                {each.range: each.multirange for each in own.ranges if each.multirange}, below.multiranges
            ),
            ranges=layered({each.multirange: each.range for each in own.ranges if each.multirange}, below.ranges),
            changed=frozenset(own.changed),
            own=Own(self._major, self._below is not None, own),
        )


def above(tables: Tables, below: World) -> Tables | None:
    """Return what a server has beyond what is built in, from all it has; None: some of that is not there as it was."""
    left: list[Any] = []
    for found, known in zip(tables, below.own.tables, strict=True):
        gone = set(known)
        if not gone.issubset(found):
            return None
        left.append([row for row in found if row not in gone] if gone else found)
    return Tables(*left)


def cut(own: Own, size: int) -> Iterator[Own]:
    """Cut what a world is made of into parts of so many rows at most."""
    for kind, rows in zip(Tables._fields, own.tables, strict=True):
        for first in range(0, len(rows), size):
            part: dict[str, Any] = {kind: rows[first : first + size]}
            yield own._replace(tables=Tables(**part))


def build(major: int, tables: Tables, below: World | None = None) -> World:
    """Return the world that these rows make."""
    builder = Builder(major, below)
    builder.add(tables)
    return builder.world()


def _enter(
    rows: Iterable[Row],
    known: dict[int, Row],
    named: dict[str, Sequence[Row]],
    below: Mapping[str, Sequence[Row]],
) -> None:
    for row in rows:
        known[row.oid] = row
        _append(named, row.name, row, below)


def _append(found: dict[Key, Sequence[Value]], key: Key, value: Value, below: Mapping[Key, Sequence[Value]]) -> None:
    """Add a value to those of a key. One is a tuple, more are a list: a thousand tenants have a table of one name."""
    before = found.get(key)
    if before is None:
        before = below.get(key)
        found[key] = (value,) if before is None else [*before, value]
    elif isinstance(before, list):
        before.append(value)
    else:
        found[key] = [*before, value]


_NOTHING = World(0)

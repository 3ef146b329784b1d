"""Hold the objects of a database by name and by OID, as parse analysis looks them up: a frozen snapshot.

`rows.py` reads them from a server. Nothing here decides anything: the rules are in the modules above.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from . import oids


class Type(NamedTuple):
    """One row of pg_type."""

    oid: int
    schema: int
    name: str
    kind: str
    """typtype: b base, c composite, d domain, e enum, m multirange, p pseudo, r range."""
    category: str
    preferred: bool
    element: int
    """typelem, whatever subscripts it."""
    is_array: bool
    """Whether it is a true array: IsTrueArrayType()."""
    array: int
    """The type of arrays of it."""
    base: int
    """The type that a domain is over."""
    modifier: int
    """The base type's modifier that a domain has; -1: none."""
    relation: int
    """The relation whose row it is."""
    is_collatable: bool
    can_be_subscripted: bool
    input: int
    output: int
    modifier_input: int
    """The functions of these names."""


class Function(NamedTuple):
    """One row of pg_proc."""

    oid: int
    schema: int
    name: str
    kind: str
    """prokind: f function, a aggregate, w window function, p procedure."""
    arguments: tuple[int, ...]
    """The types of the input arguments."""
    result: int
    returns_set: bool
    variadic: int
    """The type of the elements that the last argument takes any number of; 0: it is not variadic."""
    defaults: int
    """How many of the last arguments have a default."""
    types: tuple[int, ...]
    """The types of all arguments, where some are no input; else empty."""
    modes: str
    """i, o, b, v or t for each of `types`."""
    names: tuple[str, ...]
    """The names of all arguments; empty: none has one."""
    aggregate: str
    """aggkind: n normal, o ordered-set, h hypothetical-set; empty: no aggregate."""
    direct: int
    """aggnumdirectargs."""


class Operator(NamedTuple):
    """One row of pg_operator."""

    oid: int
    schema: int
    name: str
    left: int
    """0 for a prefix operator."""
    right: int
    result: int
    function: int


class Cast(NamedTuple):
    """One row of pg_cast."""

    source: int
    target: int
    function: int
    context: str
    """castcontext: i implicit, a in assignments too, e explicit only."""
    method: str
    """castmethod: f by function, i by input and output, b not at all."""
    oid: int


class OperatorClass(NamedTuple):
    """One row of pg_opclass that is its type's default."""

    oid: int
    method: int
    type: int
    family: int


class Column(NamedTuple):
    """One row of pg_attribute of a relation's own columns, in their order; or one of a query."""

    name: str
    type: int
    modifier: int
    columns: tuple[Column, ...] | None = None
    """Those of a query's column of type record, where they are known."""


class Relation(NamedTuple):
    """One row of pg_class that FROM can name, or a composite type's."""

    oid: int
    schema: int
    name: str
    kind: str
    row_type: int
    of_type: int
    """The composite type that a typed table is of."""
    columns: tuple[Column, ...]


Row = TypeVar("Row", Type, Function, Operator, Relation)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Answer for names and OIDs. Built by `build`."""

    major: int
    """PostgreSQL's major version."""
    schemas: Mapping[str, int] = field(default_factory=dict)
    types: Mapping[int, Type] = field(default_factory=dict)
    types_named: Mapping[str, Sequence[Type]] = field(default_factory=dict)
    functions: Mapping[int, Function] = field(default_factory=dict)
    functions_named: Mapping[str, Sequence[Function]] = field(default_factory=dict)
    operators: Mapping[int, Operator] = field(default_factory=dict)
    operators_named: Mapping[str, Sequence[Operator]] = field(default_factory=dict)
    casts: Mapping[tuple[int, int], Cast] = field(default_factory=dict)
    classes: Mapping[int, Sequence[OperatorClass]] = field(default_factory=dict)
    """Default operator classes, by access method."""
    members: Mapping[tuple[int, int, int, int], int] = field(default_factory=dict)
    """Operators, by family, left and right type, and strategy (pg_amop)."""
    strategies: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """The btree families of an operator, and its strategy in each."""
    support: Mapping[tuple[int, int, int, int], int] = field(default_factory=dict)
    """Functions, by family, left and right type, and number (pg_amproc)."""
    relations: Mapping[int, Relation] = field(default_factory=dict)
    relations_named: Mapping[str, Sequence[Relation]] = field(default_factory=dict)
    parents: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """The relations that one inherits from directly."""
    subtypes: Mapping[int, int] = field(default_factory=dict)
    """What a range is over."""
    multiranges: Mapping[int, int] = field(default_factory=dict)
    """A range's multirange."""
    ranges: Mapping[int, int] = field(default_factory=dict)
    """A multirange's range."""


class Tables(NamedTuple):
    """What is read, a table of a kind of object each."""

    schemas: Iterable[tuple[str, int]]
    types: Iterable[Type]
    functions: Iterable[Function]
    operators: Iterable[Operator]
    casts: Iterable[Cast]
    classes: Iterable[OperatorClass]
    members: Iterable[tuple[int, int, int, int, int, int]]
    """Of pg_amop: family, method, left, right, strategy, operator."""
    support: Iterable[tuple[int, int, int, int, int]]
    """Of pg_amproc: family, left, right, number, function."""
    relations: Iterable[Relation]
    parents: Iterable[tuple[int, int]]
    """Relation, and one that it inherits from."""
    ranges: Iterable[tuple[int, int, int]]
    """Range, subtype, multirange."""


def build(major: int, tables: Tables) -> World:
    """Return the world that these rows make."""
    types = {row.oid: row for row in tables.types}
    functions = {row.oid: row for row in tables.functions}
    operators = {row.oid: row for row in tables.operators}
    relations = {row.oid: row for row in tables.relations}
    classes: defaultdict[int, list[OperatorClass]] = defaultdict(list)
    for each in tables.classes:
        classes[each.method].append(each)
    parents: defaultdict[int, list[int]] = defaultdict(list)
    for child, parent in tables.parents:
        parents[child].append(parent)
    members: dict[tuple[int, int, int, int], int] = {}
    strategies: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for family, method, left, right, strategy, operator in tables.members:
        members[family, left, right, strategy] = operator
        if method == oids.BTREE:
            strategies[operator].append((family, strategy))
    ranges = list(tables.ranges)
    return World(
        major=major,
        schemas=dict(tables.schemas),
        types=types,
        types_named=_by_name(types.values()),
        functions=functions,
        functions_named=_by_name(functions.values()),
        operators=operators,
        operators_named=_by_name(operators.values()),
        casts={(row.source, row.target): row for row in tables.casts},
        classes=classes,
        members=members,
        strategies=strategies,
        support={(family, left, right, number): called for family, left, right, number, called in tables.support},
        relations=relations,
        relations_named=_by_name(relations.values()),
        parents=parents,
        subtypes={range_: subtype for range_, subtype, _ in ranges},
        multiranges={range_: multirange for range_, _, multirange in ranges if multirange},
        ranges={multirange: range_ for range_, _, multirange in ranges if multirange},
    )


def _by_name(rows: Iterable[Row]) -> dict[str, tuple[Row, ...]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.name].append(row)
    return {name: tuple(each) for name, each in found.items()}

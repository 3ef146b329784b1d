"""Hold the objects of a database by name and by OID, as parse analysis looks them up: a frozen snapshot.

`rows.py` reads them from a server. Nothing here decides anything: the rules are in the modules above. What initdb makes
is the same in every database of a major version: `built_in.py` holds it once for all of them, and the world of a
database is its own objects above that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import msgspec


class Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A row of a system catalogue.

    Nothing that it holds leads back to it, and there are hundreds of thousands of them: the search for cycles, which
    holds up every client, passes them over.
    """


class Type(Row, frozen=True):
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


class Function(Row, frozen=True):
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


class Operator(Row, frozen=True):
    """One row of pg_operator."""

    oid: int
    schema: int
    name: str
    left: int
    """0 for a prefix operator."""
    right: int
    result: int
    function: int


class Cast(Row, frozen=True):
    """One row of pg_cast."""

    source: int
    target: int
    function: int
    context: str
    """castcontext: i implicit, a in assignments too, e explicit only."""
    method: str
    """castmethod: f by function, i by input and output, b not at all."""
    oid: int


class OperatorClass(Row, frozen=True):
    """One row of pg_opclass that is its type's default."""

    oid: int
    method: int
    type: int
    family: int


class Member(Row, frozen=True):
    """One row of pg_amop."""

    family: int
    method: int
    left: int
    right: int
    strategy: int
    operator: int


class Support(Row, frozen=True):
    """One row of pg_amproc."""

    family: int
    left: int
    right: int
    number: int
    function: int


class Inheritance(Row, frozen=True):
    """One row of pg_inherits: a relation, and one that it inherits from."""

    child: int
    parent: int


class Range(Row, frozen=True):
    """One row of pg_range."""

    range: int
    subtype: int
    multirange: int


class Column(Row, frozen=True):
    """One row of pg_attribute of a relation's own columns, in their order; or one of a query."""

    name: str
    type: int
    modifier: int
    columns: tuple[Column, ...] | None = None
    """Those of a query's column of type record, where they are known."""


class Relation(Row, frozen=True):
    """One row of pg_class that FROM can name, or a composite type's."""

    oid: int
    schema: int
    name: str
    kind: str
    row_type: int
    of_type: int
    """The composite type that a typed table is of."""
    array: int
    """The type of arrays of its rows."""
    shape: str
    """Its columns in a compact form, as `columns_of` takes it: most relations are never named."""

    @property
    def columns(self) -> tuple[Column, ...]:
        return columns_of(self.shape)[0]


@lru_cache(maxsize=1024)
def columns_of(shape: str) -> tuple[tuple[Column, ...], dict[str, Column]]:
    """Return the columns of a shape: `type:modifier name` for each, `/` between them; no modifier is -1.

    They are given in their order, and by name.
    """
    found = []
    for part in shape.split("/") if shape else ():
        type_, _, name = part.partition(" ")
        oid, _, modifier = type_.partition(":")
        found.append(Column(unescaped(name), int(oid), int(modifier or -1)))
    return tuple(found), {each.name: each for each in found}


def unescaped(name: str) -> str:
    """Return a name in which a slash is written `\\s` and a backslash `\\b`."""
    return name.replace("\\s", "/").replace("\\b", "\\") if "\\" in name else name


class Tables(NamedTuple):
    """What is read, a table of a kind of object each: all of a server's, or what is not built in."""

    schemas: Sequence[tuple[str, int, bool]] = ()
    """Name, OID, and whether the role has USAGE."""
    types: Sequence[Type] = ()
    """But for those of relations' rows and of arrays of them, which follow from the relations."""
    functions: Sequence[Function] = ()
    operators: Sequence[Operator] = ()
    casts: Sequence[Cast] = ()
    classes: Sequence[OperatorClass] = ()
    members: Sequence[Member] = ()
    support: Sequence[Support] = ()
    relations: Sequence[Relation] = ()
    parents: Sequence[Inheritance] = ()
    ranges: Sequence[Range] = ()
    changed: Sequence[int] = ()
    """Built-in functions whose code is not what initdb made."""


class Own(NamedTuple):
    """What a database's world is made of, beside what is built in."""

    major: int = 0
    over: bool = False
    """Whether it stands above what is built in; else it holds everything."""
    tables: Tables = Tables()


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Answer for names and OIDs. Built by `building.Builder`."""

    major: int
    """PostgreSQL's major version."""
    schemas: Mapping[str, int] = field(default_factory=dict)
    schema_names: Mapping[int, str] = field(default_factory=dict)
    usable: frozenset[int] = frozenset()
    """The schemas that the role has USAGE on: names without a schema are not looked up in others."""
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
    in_range: Mapping[tuple[int, int], Sequence[tuple[int, int]]] = field(default_factory=dict)
    """By family and left type: the right types, and the functions that add an offset of that type (pg_amproc)."""
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
    changed: frozenset[int] = frozenset()
    """As in Tables: such a function is not the one that its name and OID promise."""
    own: Own = field(default_factory=Own)
    """What it was built of."""

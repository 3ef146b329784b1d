"""Hold the objects of a database by name and by OID, as parse analysis looks them up: a frozen snapshot.

`rows.py` reads them from a server. Nothing here decides anything: the rules are in the modules above. What initdb makes
is the same in every database of a major version: `built_in.py` holds it once for all of them, and the world of a
database is its own objects above that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, overload

from proxy.sql.resolve import oids


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


class Member(NamedTuple):
    """One row of pg_amop."""

    family: int
    method: int
    left: int
    right: int
    strategy: int
    operator: int


class Support(NamedTuple):
    """One row of pg_amproc."""

    family: int
    left: int
    right: int
    number: int
    function: int


class Inheritance(NamedTuple):
    """One row of pg_inherits: a relation, and one that it inherits from."""

    child: int
    parent: int


class Range(NamedTuple):
    """One row of pg_range."""

    range: int
    subtype: int
    multirange: int


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
    """Answer for names and OIDs. Built by `Builder`."""

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
        for family, method, left, right, strategy, operator in some.members:
            self._members[family, left, right, strategy] = operator
            if method == oids.BTREE:
                _append(self._strategies, operator, (family, strategy), below.strategies)
        for family, left, right, number, function in some.support:
            if number == oids.BT_IN_RANGE:
                _append(self._in_range, (family, left), (right, function), below.in_range)
        for child, parent in some.parents:
            _append(self._parents, child, parent, below.parents)

    def _shared(self, relation: Relation) -> Relation:
        """Let relations with the same columns, those of many tenants, have them once."""
        shape = self._shapes.setdefault(relation.shape, relation.shape)
        return relation if shape is relation.shape else Relation(*relation[:-1], shape)

    def world(self) -> World:
        """Return the world of all that was added."""
        below = self._below or _NOTHING
        own = Tables(*self._tables)
        return World(
            major=self._major,
            schemas={name: oid for name, oid, _ in own.schemas},
            schema_names={oid: name for name, oid, _ in own.schemas},
            usable=frozenset(oid for _, oid, usable in own.schemas if usable),
            types=_Types(self._types, below.types, self._rows) if self._rows else _layered(self._types, below.types),
            types_named=_TypesNamed(self._types, self._types_named, below.types_named, self._relations_named)
            if self._rows
            else _layered(self._types_named, below.types_named),
            functions=_layered(self._functions, below.functions),
            functions_named=_layered(self._functions_named, below.functions_named),
            operators=_layered(self._operators, below.operators),
            operators_named=_layered(self._operators_named, below.operators_named),
            casts=_layered(self._casts, below.casts),
            classes=_layered(self._classes, below.classes),
            members=_layered(self._members, below.members),
            strategies=_layered(self._strategies, below.strategies),
            in_range=_layered(self._in_range, below.in_range),
            relations=self._relations,
            relations_named=self._relations_named,
            parents=self._parents,
            subtypes=_layered({each: subtype for each, subtype, _ in own.ranges}, below.subtypes),
            multiranges=_layered({each: multi for each, _, multi in own.ranges if multi}, below.multiranges),
            ranges=_layered({multi: each for each, _, multi in own.ranges if multi}, below.ranges),
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


def _layered(own: dict[Key, Value], below: Mapping[Key, Value]) -> Mapping[Key, Value]:
    if not own:
        return below
    return Layered(own, below) if below else own


class Layered(Mapping[Key, Value]):
    """Look up in a database's own objects, then in the built-in ones."""

    __slots__ = ("_below", "_own")

    def __init__(self, own: Mapping[Key, Value], below: Mapping[Key, Value]) -> None:
        self._own = own
        self._below = below

    @overload
    def get(self, key: Key, default: None = None, /) -> Value | None: ...
    @overload
    def get(self, key: Key, default: Any, /) -> Any: ...
    def get(self, key: Key, default: Any = None, /) -> Any:
        # 0.1 us where a dict takes 0.03; ChainMap takes 0.6.
        found = self._own.get(key)
        return self._below.get(key, default) if found is None else found

    def __getitem__(self, key: Key) -> Value:
        found = self._own.get(key)
        return self._below[key] if found is None else found

    def __contains__(self, key: object) -> bool:
        return key in self._own or key in self._below

    def __iter__(self) -> Iterator[Key]:
        yield from self._own
        yield from (key for key in self._below if key not in self._own)

    def __len__(self) -> int:
        return len(self._own) + sum(key not in self._own for key in self._below)


class _Types(Mapping[int, Type]):
    """Hold types by OID, those of relations' rows among them: these are made when they are asked for.

    A large database has two of them for each table, and hardly a statement means one.
    """

    __slots__ = ("_below", "_own", "_rows")

    def __init__(self, own: Mapping[int, Type], below: Mapping[int, Type], rows: Mapping[int, Relation]) -> None:
        self._own = own
        self._below = below
        self._rows = rows

    @overload
    def get(self, key: int, default: None = None, /) -> Type | None: ...
    @overload
    def get(self, key: int, default: Any, /) -> Any: ...
    def get(self, key: int, default: Any = None, /) -> Any:
        found = self._below.get(key)  # most are built in, and no others have their OIDs
        if found is None:
            found = self._own.get(key)
        if found is None and (relation := self._rows.get(key)) is not None:
            return _row_type(relation) if relation.row_type == key else _array_type(relation)
        return default if found is None else found

    def __getitem__(self, key: int) -> Type:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[int]:
        yield from self._below
        yield from self._own
        yield from (key for key in self._rows if key not in self._own and key not in self._below)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _TypesNamed(Mapping[str, Sequence[Type]]):
    """Hold types by name, those of relations' rows among them."""

    __slots__ = ("_below", "_known", "_made", "_own", "_relations")

    def __init__(
        self,
        known: Mapping[int, Type],
        own: Mapping[str, Sequence[Type]],
        below: Mapping[str, Sequence[Type]],
        relations: Mapping[str, Sequence[Relation]],
    ) -> None:
        self._known = known
        self._own = own
        self._below = below
        self._relations = relations
        self._made: dict[str, Sequence[Type]] = {}

    @overload
    def get(self, key: str, default: None = None, /) -> Sequence[Type] | None: ...
    @overload
    def get(self, key: str, default: Any, /) -> Any: ...
    def get(self, key: str, default: Any = None, /) -> Any:
        relations = self._relations
        if key in relations or (key.startswith("_") and key[1:] in relations):
            return self._with_rows(key) or default
        found = self._own.get(key)
        return self._below.get(key, default) if found is None else found

    def _with_rows(self, key: str) -> Sequence[Type]:
        found = self._made.get(key)
        if found is None:
            known = self._known
            rows = self._relations.get(key, ())
            arrays = self._relations.get(key[1:], ()) if key.startswith("_") else ()
            found = (
                *(self._own.get(key) or self._below.get(key, ())),
                *(_row_type(each) for each in rows if each.row_type and each.row_type not in known),
                *(_array_type(each) for each in arrays if each.array and each.array not in known),
            )
            if len(self._made) >= _MAX_MADE:
                self._made.clear()
            self._made[key] = found
        return found

    def __getitem__(self, key: str) -> Sequence[Type]:
        found = self.get(key)
        if found is None:
            raise KeyError(key)
        return found

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys((*self._below, *self._own))
        for name, relations in self._relations.items():
            if any(each.row_type for each in relations):
                names[name] = None
            if any(each.array for each in relations):
                names[f"_{name}"] = None
        return (name for name in names if self.get(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_MAX_MADE = 256
_RECORD_IN, _RECORD_OUT, _ARRAY_IN, _ARRAY_OUT = 2290, 2291, 750, 751


def _row_type(relation: Relation) -> Type:
    """Return the type of a relation's rows: AddNewRelationType(), heap.c."""
    return Type(
        oid=relation.row_type,
        schema=relation.schema,
        name=relation.name,
        kind="c",
        category="C",
        preferred=False,
        element=0,
        is_array=False,
        array=relation.array,
        base=0,
        modifier=-1,
        relation=relation.oid,
        is_collatable=False,
        can_be_subscripted=False,
        input=_RECORD_IN,
        output=_RECORD_OUT,
        modifier_input=0,
    )


def _array_type(relation: Relation) -> Type:
    """Return the type of arrays of a relation's rows: heap_create_with_catalog(), heap.c."""
    return Type(
        oid=relation.array,
        schema=relation.schema,
        name=f"_{relation.name}",
        kind="b",
        category="A",
        preferred=False,
        element=relation.row_type,
        is_array=True,
        array=0,
        base=0,
        modifier=-1,
        relation=0,
        is_collatable=False,
        can_be_subscripted=True,
        input=_ARRAY_IN,
        output=_ARRAY_OUT,
        modifier_input=0,
    )


_NOTHING = World(0)

"""Look things up in a world that stands above another one: what it adds, and what is shared by all that stand there.

Types of relations' rows, and of arrays of them, are in no table: they follow from the relations, and are made when they
are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

from proxy.sql.resolve.world import Relation, Type

Key = TypeVar("Key")
Value = TypeVar("Value")


def layered(own: dict[Key, Value], below: Mapping[Key, Value]) -> Mapping[Key, Value]:
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


class Types(Mapping[int, Type]):
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


class TypesNamed(Mapping[str, Sequence[Type]]):
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

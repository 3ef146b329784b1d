"""Decide which types become which others, and by what: parser/parse_coerce.c.

Types are OIDs; ANY_TYPE, a type that is not known, becomes everything and is anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, IntEnum
from typing import NamedTuple

from proxy.sql.resolve import oids
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.polymorphic import is_consistent
from proxy.sql.resolve.tree import MismatchError
from proxy.sql.resolve.world import Cast, World


class Context(IntEnum):
    """Say what asks for a conversion, from the strictest on: CoercionContext (nodes/primnodes.h)."""

    IMPLICIT = 0
    ASSIGNMENT = 1
    EXPLICIT = 3


class Way(Enum):
    """Say how a value becomes one of another type: CoercionPathType (parser/parse_coerce.h)."""

    RELABEL = "as it is"
    FUNCTION = "by a function"
    ARRAY = "by element"
    INPUT_OUTPUT = "by output and input"


class Path(NamedTuple):
    way: Way
    function: int = 0
    cast: int = 0
    """The row of pg_cast."""


_RELABEL = Path(Way.RELABEL)
_ARRAY = Path(Way.ARRAY)
_INPUT_OUTPUT = Path(Way.INPUT_OUTPUT)
_NEEDED = {"e": Context.EXPLICIT, "a": Context.ASSIGNMENT, "i": Context.IMPLICIT}
MAX_REMEMBERED = 10_000
"""Answers that are kept of each kind: what is asked comes from clients."""
_STRING = "S"  # TYPCATEGORY_STRING
_INVALID = "\0"


def _cast_path(cast: Cast) -> Path:
    if cast.method == "f":
        return Path(Way.FUNCTION, cast.function, cast.oid)
    return Path(Way.INPUT_OUTPUT if cast.method == "i" else Way.RELABEL, 0, cast.oid)


class Order(NamedTuple):
    """The operators by which values of a type are put in order, and equal ones found; 0: there is none."""

    less: int
    greater: int
    equal: int


class Coercion:
    """Answer for the types of one world. What is asked for once is remembered."""

    __slots__ = ("_bases", "_classes", "_found", "_inherits", "_orders", "_types", "world")

    def __init__(self, world: World) -> None:
        self.world = world
        self._types = world.types
        self._found: dict[tuple[int, int, int], Path | None] = {}
        self._bases: dict[int, int] = {}
        self._inherits: dict[tuple[int, int], bool] = {}
        self._classes: dict[tuple[int, int], tuple[int, int] | None] = {}
        self._orders: dict[int, Order] = {}

    # -- what a type is ------------------------------------------------------------------------------------------------

    def base(self, type_: int) -> int:
        """Return the type below all domains: getBaseType()."""
        known = self._bases.get(type_)
        if known is None:
            known = type_
            while (row := self._types.get(known)) is not None and row.kind == "d":
                known = row.base
            self._bases[type_] = known
        return known

    def has_modifier(self, domain: int) -> bool:
        """Tell whether a domain, or one below it, gives its type a modifier: getBaseTypeAndTypmod()."""
        while (row := self._types.get(domain)) is not None and row.kind == "d":
            if row.modifier >= 0:
                return True
            domain = row.base
        return False

    def category(self, type_: int) -> str:
        row = self._types.get(type_)
        return row.category if row is not None else _INVALID

    def is_preferred(self, category: str, type_: int) -> bool:
        """Tell whether a type is of this category and preferred in it: IsPreferredType()."""
        row = self._types.get(type_)
        return row is not None and row.category == category and row.preferred

    def element(self, type_: int) -> int:
        """Return the type of a true array's elements; 0 for anything else: get_element_type()."""
        row = self._types.get(type_)
        return row.element if row is not None and row.is_array else 0

    def base_element(self, type_: int) -> int:
        """Return the same for a domain over an array, too: get_base_element_type()."""
        return self.element(self.base(type_))

    def array(self, type_: int) -> int:
        """Return the type of arrays of a type; 0: there is none."""
        row = self._types.get(type_)
        return row.array if row is not None else 0

    def is_composite(self, type_: int) -> bool:
        """Tell whether a type is a row type or a domain over one: ISCOMPLEX()."""
        return self.relation(type_) != 0

    def relation(self, type_: int) -> int:
        """Return the relation whose row a type is, or a domain over it is: typeOrDomainTypeRelid()."""
        row = self._types.get(self.base(type_))
        return row.relation if row is not None else 0

    def is_enum(self, type_: int) -> bool:
        row = self._types.get(type_)
        return row is not None and row.kind == "e"

    def subtype(self, type_: int) -> int:
        """Return what a range is over; 0 for anything else."""
        return self.world.subtypes.get(type_, 0)

    def multirange(self, range_: int) -> int:
        return self.world.multiranges.get(range_, 0)

    def range_of(self, multirange: int) -> int:
        return self.world.ranges.get(multirange, 0)

    # -- one type to another -------------------------------------------------------------------------------------------

    def path(self, target: int, source: int, context: Context) -> Path | None:
        """Return how a value of one type becomes one of another; None: it does not. find_coercion_pathway()."""
        key = (target, source, context)
        try:
            return self._found[key]
        except KeyError:
            if len(self._found) >= MAX_REMEMBERED:
                self._found.clear()
            found = self._found[key] = self._find_path(self.base(target), self.base(source), context)
            return found

    def _find_path(self, target: int, source: int, context: Context) -> Path | None:
        if target == source or ANY_TYPE in (target, source):
            return _RELABEL
        cast = self.world.casts.get((source, target))
        if cast is not None:
            return _cast_path(cast) if context >= _NEEDED[cast.context] else None
        if self._is_by_element(target, source, context):
            return _ARRAY
        if context >= Context.ASSIGNMENT and self.category(target) == _STRING:
            return _INPUT_OUTPUT
        if context >= Context.EXPLICIT and self.category(source) == _STRING:
            return _INPUT_OUTPUT
        return None

    def _is_by_element(self, target: int, source: int, context: Context) -> bool:
        """Tell whether an array becomes one of another type because its elements do."""
        if target in (oids.OIDVECTOR, oids.INT2VECTOR):
            return False
        to, from_ = self.element(target), self.element(source)
        return bool(to and from_) and self.path(to, from_, context) is not None

    def modifier_function(self, type_: int) -> Path | None:
        """Return what applies a type's modifier to a value: find_typmod_coercion_function()."""
        row = self._types.get(type_)
        if row is None:
            return None
        of = row.element if row.is_array else type_
        cast = self.world.casts.get((of, of))
        if cast is None or not cast.function:
            return None
        return Path(Way.ARRAY if row.is_array else Way.FUNCTION, cast.function)

    def can(self, sources: Sequence[int], targets: Sequence[int], context: Context = Context.IMPLICIT) -> bool:
        """Tell whether each source becomes its target: can_coerce_type()."""
        generic = False
        for source, target in zip(sources, targets, strict=False):
            if source in (target, ANY_TYPE) or target == oids.ANY:
                generic = generic or target in oids.POLYMORPHIC
                continue
            if target in oids.POLYMORPHIC:
                generic = True
                continue
            if source == UNKNOWN or self.path(target, source, context) is not None:
                continue
            if not self._is_row_of(source, target):
                return False
        return not generic or is_consistent(self, sources, targets)

    def _is_row_of(self, source: int, target: int) -> bool:
        if source == oids.RECORD:
            return self.is_composite(target)
        if target == oids.RECORD:
            return self.is_composite(source)
        if target == oids.RECORD_ARRAY:
            return self._is_row_array(source)
        return self.inherits(source, target)

    def inherits(self, source: int, target: int) -> bool:
        """Tell whether a row type is of a relation that inherits from the target's, or is a typed table of it."""
        key = (source, target)
        if key not in self._inherits:
            if len(self._inherits) >= MAX_REMEMBERED:
                self._inherits.clear()
            self._inherits[key] = self._find_inherits(source, target)
        return self._inherits[key]

    def _find_inherits(self, source: int, target: int) -> bool:
        relation, wanted = self.relation(source), self.relation(target)
        if not relation or not wanted:
            return False
        row = self.world.relations.get(relation)
        if row is not None and row.of_type == target:
            return True
        waiting, seen = [relation], {relation}
        while waiting:
            for parent in self.world.parents.get(waiting.pop(), ()):
                if parent == wanted:
                    return True
                if parent not in seen:
                    seen.add(parent)
                    waiting.append(parent)
        return False

    def is_binary(self, source: int, target: int) -> bool:
        """Tell whether a value is one of another type as it is: IsBinaryCoercible()."""
        if source in (target, ANY_TYPE) or target in (oids.ANY, oids.ANYELEMENT, oids.ANYCOMPATIBLE):
            return True
        source = self.base(source)
        if source == target:
            return True
        stands_for = _STANDS_FOR.get(target)
        if stands_for is not None:
            return bool(stands_for(self, source))
        cast = self.world.casts.get((source, target))
        return cast is not None and cast.method == "b" and cast.context == "i"

    def _is_row_array(self, type_: int) -> bool:
        element = self.element(type_)
        return bool(element) and self.is_composite(element)

    def default_class(self, type_: int, method: int) -> tuple[int, int] | None:
        """Return family and type of the default operator class that a type has: GetDefaultOpClass()."""
        key = (type_, method)
        if key not in self._classes:
            if len(self._classes) >= MAX_REMEMBERED:
                self._classes.clear()
            self._classes[key] = self._find_class(self.base(type_), method)
        return self._classes[key]

    def _find_class(self, base: int, method: int) -> tuple[int, int] | None:
        preferred: list[tuple[int, int]] = []
        compatible: list[tuple[int, int]] = []
        category = self.category(base)
        for each in self.world.classes.get(method, ()):
            if each.type == base:
                return each.family, each.type
            if self.is_binary(base, each.type):
                (preferred if self.is_preferred(category, each.type) else compatible).append((each.family, each.type))
        if len(preferred) == 1:
            return preferred[0]
        return compatible[0] if not preferred and len(compatible) == 1 else None

    def order(self, type_: int) -> Order:
        """Return the operators of a type's default classes: get_sort_group_operators() (parser/parse_oper.c)."""
        known = self._orders.get(type_)
        if known is None:
            if len(self._orders) >= MAX_REMEMBERED:
                self._orders.clear()
            equal = self._member(type_, oids.BTREE, oids.BT_EQUAL) or self._member(type_, oids.HASH, oids.HASH_EQUAL)
            less, greater = (self._member(type_, oids.BTREE, each) for each in (oids.BT_LESS, oids.BT_GREATER))
            known = self._orders[type_] = Order(less, greater, equal)
        return known

    def _member(self, type_: int, method: int, strategy: int) -> int:
        found = self.default_class(type_, method)
        return 0 if found is None else self.world.members.get((found[0], found[1], found[1], strategy), 0)

    # -- several types to one ------------------------------------------------------------------------------------------

    def common(self, types: Sequence[int], what: str = "") -> int:
        """Return the type that all of these become: select_common_type().

        Without `what`, 0 where there is none; else raises MismatchError.
        """
        first = types[0]
        if ANY_TYPE in types:
            return ANY_TYPE
        if first != UNKNOWN and all(each == first for each in types):
            return first
        known = [base for base in map(self.base, types) if base != UNKNOWN]
        if not known:
            return oids.TEXT
        found = known[0]
        category = self.category(found)
        for other in known:
            if other == found:
                continue
            if self.category(other) != category:
                if not what:
                    return 0
                raise MismatchError(f"{what} types cannot be matched")
            if self._gives_way(found, other):
                found = other
        return found

    def _gives_way(self, type_: int, other: int) -> bool:
        """Tell whether of two types of one category the other one is chosen for both."""
        if self.is_preferred(self.category(type_), type_):
            return False
        return self.can([type_], [other]) and not self.can([other], [type_])

    def fits(self, common: int, types: Sequence[int]) -> bool:
        """Tell whether all become this type without a word: verify_common_type()."""
        return all(self.can([each], [common]) for each in types)


def _is_no_array(types: Coercion, type_: int) -> bool:
    return not types.element(type_)


_STANDS_FOR: dict[int, Callable[[Coercion, int], int]] = {
    **dict.fromkeys((oids.ANYARRAY, oids.ANYCOMPATIBLEARRAY), Coercion.element),
    **dict.fromkeys((oids.ANYNONARRAY, oids.ANYCOMPATIBLENONARRAY), _is_no_array),
    oids.ANYENUM: Coercion.is_enum,
    **dict.fromkeys((oids.ANYRANGE, oids.ANYCOMPATIBLERANGE), Coercion.subtype),
    **dict.fromkeys((oids.ANYMULTIRANGE, oids.ANYCOMPATIBLEMULTIRANGE), Coercion.range_of),
    oids.RECORD: Coercion.is_composite,
    oids.RECORD_ARRAY: Coercion._is_row_array,
}
"""Tell of what a value is that a type stands for: IsBinaryCoercible()."""

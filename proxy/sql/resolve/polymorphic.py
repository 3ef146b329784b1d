"""Decide what polymorphic functions take and give where these are their arguments (parser/parse_coerce.c).

Types are OIDs; ANY_TYPE, a type that is not known, fits everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.sql.resolve import oids
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.tree import MismatchError


class Types(Protocol):
    """What is asked about types. `Coercion` answers, and asks here whether arguments fit."""

    def base(self, type_: int) -> int: ...
    def element(self, type_: int) -> int: ...
    def base_element(self, type_: int) -> int: ...
    def array(self, type_: int) -> int: ...
    def is_enum(self, type_: int) -> bool: ...
    def subtype(self, type_: int) -> int: ...
    def multirange(self, range_: int) -> int: ...
    def range_of(self, multirange: int) -> int: ...
    def common(self, types: Sequence[int], what: str = "") -> int: ...
    def fits(self, common: int, types: Sequence[int]) -> bool: ...


def is_consistent(types: Types, actual: Sequence[int], declared: Sequence[int]) -> bool:
    """Tell whether arguments fit a polymorphic function: check_generic_type_consistency()."""
    given = _Given(types, checks=True)
    for type_, wanted in zip(actual, declared, strict=False):
        if wanted in oids.POLYMORPHIC:
            if type_ == ANY_TYPE:
                return True
            if given.take(type_, wanted):
                return False
    return given.elements_agree() and given.compatible_agree()


def resolve(types: Types, actual: Sequence[int], declared: Sequence[int], result: int) -> tuple[list[int], int]:
    """Return what a polymorphic function takes and gives where these are its arguments.

    enforce_generic_type_consistency(); raises MismatchError.
    """
    if oids.POLYMORPHIC.isdisjoint(declared):
        return list(declared), result
    if ANY_TYPE in actual:
        *takes, result = (ANY_TYPE if each in oids.POLYMORPHIC else each for each in (*declared, result))
        return takes, result
    return _resolve(types, actual, declared, result)


def _resolve(types: Types, actual: Sequence[int], declared: Sequence[int], result: int) -> tuple[list[int], int]:
    """Return the same where each argument's type is known, and some of what they are declared as is polymorphic."""
    given = _Given(types, checks=False)
    # Defaults, which are omitted, count as literals do.
    polymorphic = [
        (at, actual[at] if at < len(actual) else UNKNOWN, wanted)
        for at, wanted in enumerate(declared)
        if wanted in oids.POLYMORPHIC
    ]
    for _, type_, wanted in polymorphic:
        why = given.take(type_, wanted)
        if why:
            raise MismatchError(why)
    becomes = given.elements() | given.common()
    takes = list(declared)
    for at, type_, wanted in polymorphic:
        if type_ == UNKNOWN or wanted not in oids.ELEMENT_FAMILY:  # else it keeps its own type
            takes[at] = becomes.get(wanted, 0)
    if result in oids.POLYMORPHIC:
        result = becomes.get(result, 0)
    if 0 in takes or not result:
        raise MismatchError("could not determine polymorphic type")
    return takes, result


class _Given:
    """What arguments say of the polymorphic types that they are declared as.

    `checks`: it is only asked whether they fit. What a range of the compatible family is over counts in its turn then,
    as in the server; where types are resolved, behind all others.
    """

    __slots__ = ("_checks", "_compatible", "_found", "_types", "_unknown", "_wanted")

    def __init__(self, types: Types, *, checks: bool) -> None:
        self._types = types
        self._checks = checks
        self._found: dict[int, int] = {}  # what each stands for; those of elements count as one
        self._compatible: list[int] = []  # what has to have a common type
        self._wanted: set[int] = set()
        self._unknown: set[int] = set()  # of those, what literals are declared as

    def take(self, type_: int, wanted: int) -> str:
        """Take an argument of a type that is declared as another one; return why it does not fit."""
        self._wanted.add(wanted)
        if type_ == UNKNOWN:
            self._unknown.add(wanted)
            return ""
        if wanted in _COMPATIBLE_ELEMENTS:
            self._compatible.append(type_)
            return ""
        if wanted == oids.ANYCOMPATIBLEARRAY:
            of = self._types.base_element(type_)
            self._compatible.append(of)
            return "" if of else "argument is not an array"
        if wanted in _ELEMENTS:
            wanted = oids.ANYELEMENT
        else:
            type_ = self._types.base(type_)
        if wanted in self._found:
            return "" if self._found[wanted] == type_ else "arguments declared alike are not all alike"
        self._found[wanted] = type_
        return self._check_range(type_, wanted) if self._checks and wanted in _COMPATIBLE_RANGES else ""

    def _check_range(self, type_: int, wanted: int) -> str:
        is_range = wanted == oids.ANYCOMPATIBLERANGE
        of = self._types.subtype(type_) if is_range else self._types.range_of(type_)
        if is_range:
            self._compatible.append(of)
        return "" if of else "argument is not a range"

    def elements_agree(self) -> bool:
        """Tell whether what is declared as anyelement and its family is about one type."""
        types = self._types
        element, array, range_, multirange = map(self._get, _ELEMENT_KEYS)
        limited = not self._wanted.isdisjoint(_LIMITED)
        if array == oids.ANYARRAY:
            if element or limited:  # the element's type would have to be known
                return False
        elif array:
            element = _agreed(element, types.element(array))
            if not element:
                return False
        if multirange:
            range_ = _agreed(range_, types.range_of(multirange))
            if not range_:
                return False
        if range_:
            element = _agreed(element, types.subtype(range_))
            if not element:
                return False
        return not (limited and element) or self._is_allowed(element)

    def _is_allowed(self, element: int) -> bool:
        """Tell whether a type can be what is declared as anynonarray, and as anyenum."""
        if oids.ANYNONARRAY in self._wanted and self._types.base_element(element):
            return False
        return oids.ANYENUM not in self._wanted or self._types.is_enum(element)

    def compatible_agree(self) -> bool:
        """Tell whether what is declared as anycompatible and its family has a common type."""
        types = self._types
        range_, multirange = self._get(oids.ANYCOMPATIBLERANGE), self._get(oids.ANYCOMPATIBLEMULTIRANGE)
        if multirange:
            of = types.range_of(multirange)
            if range_ and range_ != of:
                return False
            if not range_:
                range_ = of
                self._compatible.append(types.subtype(of))
        if not self._compatible:
            return True
        common = self._common_type(self._compatible)
        if not common or not types.fits(common, self._compatible):
            return False
        if oids.ANYCOMPATIBLENONARRAY in self._wanted and types.base_element(common):
            return False
        return not range_ or common == types.subtype(range_)

    def elements(self) -> dict[int, int]:
        """Return what each type of anyelement's family becomes. Raises MismatchError."""
        if self._wanted.isdisjoint(oids.ELEMENT_FAMILY):
            return {}
        types = self._types
        element, array, range_, multirange = map(self._get, _ELEMENT_KEYS)
        if array and array != oids.ANYARRAY:
            element = _agreed(element, types.element(array))
            if not element:
                raise MismatchError("argument declared anyarray is not an array of the others' type")
        elif array and element:
            raise MismatchError("cannot determine element type of anyarray")
        if multirange:
            range_ = _agreed(range_, types.range_of(multirange))
            if not range_:
                raise MismatchError("argument declared anymultirange is not of the others' range")
        elif range_:
            multirange = types.multirange(range_)
        if range_:
            element = _agreed(element, types.subtype(range_))
            if not element:
                raise MismatchError("argument declared anyrange is not over the others' type")
        element = self._one_element(element, array)
        return {
            **dict.fromkeys(_ELEMENTS, element),
            oids.ANYARRAY: array or types.array(element),
            oids.ANYRANGE: range_,
            oids.ANYMULTIRANGE: multirange,
        }

    def _one_element(self, element: int, array: int) -> int:
        """Return the type that anyelement becomes, if it can."""
        if element:
            if not self._is_allowed(element):
                raise MismatchError("type matched to anynonarray is an array type, or to anyenum is not an enum type")
            return element
        if array == oids.ANYARRAY:
            if not self._wanted.isdisjoint(_LIMITED):
                raise MismatchError("cannot determine element type of anyarray")
            return oids.ANYELEMENT
        why = "" if self._unknown.isdisjoint(oids.ELEMENT_FAMILY) else " because input has type unknown"
        raise MismatchError(f"could not determine polymorphic type{why}")

    def common(self) -> dict[int, int]:
        """Return what each type of anycompatible's family becomes. Raises MismatchError."""
        if self._wanted.isdisjoint(oids.COMPATIBLE_FAMILY):
            return {}
        types = self._types
        range_, multirange = self._get(oids.ANYCOMPATIBLERANGE), self._get(oids.ANYCOMPATIBLEMULTIRANGE)
        if multirange and not range_:
            range_ = types.range_of(multirange)
        if range_:
            multirange = multirange or types.multirange(range_)
            of = types.subtype(range_)
            if not of:
                raise MismatchError("argument is not a range")
            self._compatible.append(of)
        common, array = self._common_and_array()
        if range_ and common != types.subtype(range_):
            raise MismatchError("the range does not fit the other arguments")
        if oids.ANYCOMPATIBLENONARRAY in self._wanted and types.base_element(common):
            raise MismatchError("type matched to anycompatiblenonarray is an array type")
        return {
            **dict.fromkeys(_COMPATIBLE_ELEMENTS, common),
            oids.ANYCOMPATIBLEARRAY: array,
            oids.ANYCOMPATIBLERANGE: range_,
            oids.ANYCOMPATIBLEMULTIRANGE: multirange,
        }

    def _common_and_array(self) -> tuple[int, int]:
        """Return what all become that has to have a common type, and the array of that; 0, 0: there is nothing."""
        if self._compatible:
            common = self._common_type(self._compatible)
            if not common or not self._types.fits(common, self._compatible):
                raise MismatchError("arguments of the anycompatible family cannot be cast to a common type")
            return common, self._types.array(common)
        if self._unknown.isdisjoint(oids.COMPATIBLE_FAMILY):
            return 0, 0
        # All are literals: text, as in a UNION.
        if not self._wanted.isdisjoint(_COMPATIBLE_RANGES):
            raise MismatchError("could not determine polymorphic type")
        return oids.TEXT, oids.TEXT_ARRAY

    def _common_type(self, types: Sequence[int]) -> int:
        """select_common_type_from_oids()."""
        known = [each for each in types if each != UNKNOWN]
        if not known:
            return oids.TEXT
        return self._types.common([*known, *(UNKNOWN for each in types if each == UNKNOWN)])

    def _get(self, wanted: int) -> int:
        return self._found.get(wanted, 0)


def _agreed(known: int, of: int) -> int:
    """Return a type that two things say, the first one perhaps nothing; 0: they do not say the same."""
    return of if not known or known == of else 0


_ELEMENT_KEYS = (oids.ANYELEMENT, oids.ANYARRAY, oids.ANYRANGE, oids.ANYMULTIRANGE)
_ELEMENTS = frozenset({oids.ANYELEMENT, oids.ANYNONARRAY, oids.ANYENUM})
_COMPATIBLE_ELEMENTS = frozenset({oids.ANYCOMPATIBLE, oids.ANYCOMPATIBLENONARRAY})
_COMPATIBLE_RANGES = frozenset({oids.ANYCOMPATIBLERANGE, oids.ANYCOMPATIBLEMULTIRANGE})
_LIMITED = frozenset({oids.ANYNONARRAY, oids.ANYENUM})
"""What does not stand for every type."""

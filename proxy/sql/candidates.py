"""Work out of which types operands have to be for an operator or function of the database to be chosen.

PostgreSQL chooses among all that bear a name by the types of what they are given (manual, "Type Conversion";
func_select_candidate(), parser/parse_func.c). What takes a type of the database's own is chosen where a value of that
type stands, or of one that becomes it without a word. Where only values of built-in types and literals stand, a
built-in one is chosen nearly always: which of these cases are left is tried out here, one by one, by as much of those
rules as holds whatever else bears the name. In doubt a case is left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import product
from math import prod

from proxy.sql.catalog import FIRST_NORMAL_OID, UNKNOWN, Chosen, FunctionRow, OperatorRow, Rows, TypeRow

MAX_CASES = 4_000
"""Combinations of types that are tried out for one function or operator."""
MAX_LEFT = 200
"""Combinations that are kept: whoever leaves more can be chosen by anything."""
_STRING = "S"  # TYPCATEGORY_STRING
_RECORDS = frozenset({"record", "_record"})
_LITERAL = 0


class Candidates:
    """Answer for the operators and functions in one reading of the catalogues."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._types = {row.oid: row for row in rows.types}
        self._records = {row.oid for row in rows.types if row.name in _RECORDS}
        self._implicit = [row for row in rows.casts if row.context == "i"]
        self._arrays: defaultdict[int, list[int]] = defaultdict(list)
        for row in rows.types:
            if row.element:
                self._arrays[row.element].append(row.oid)
        self._leading = self._find_leading()
        self._values = cache(self._find_values)
        self._sources = cache(self._find_sources)

    def operator(self, row: OperatorRow) -> Chosen | None:
        """Say when an operator can be chosen. None: nobody knows."""
        types = tuple(oid for oid in (row.left, row.right) if oid)
        signatures = (each for each in self._rows.operands.get(row.name, ()) if len(each) == len(types))
        return self._chosen([types], signatures, operator=True)

    def function(self, row: FunctionRow) -> Chosen | None:
        """Say when a function can be chosen whose name a built-in one bears, too. None: nobody knows."""
        signatures = self._rows.signatures.get(row.name, ())
        if row.variadic or not signatures:
            return None
        counts = range(len(row.arguments) - row.defaults, len(row.arguments) + 1)
        return self._chosen([row.arguments[:count] for count in counts], signatures)

    def given(self, oids: Iterable[int]) -> frozenset[int]:
        """Leave out the built-in ones of some types."""
        return frozenset(oid for oid in oids if oid in self._types and not is_built_in(self._types[oid]))

    def _chosen(
        self, takes: Sequence[tuple[int, ...]], signatures: Iterable[tuple[int, ...]], *, operator: bool = False
    ) -> Chosen | None:
        others = [each for each in signatures if all(oid in self._types for oid in each)]
        others = [each for each in others if all(self._types[oid].kind != "p" for oid in each)]
        left: set[tuple[str, ...]] = set()
        for wanted in takes:
            sources = [self._sources(oid) for oid in wanted]
            if not wanted or not all(sources) or prod(map(len, sources)) > MAX_CASES:
                return None
            rivals = [each for each in others if len(each) == len(wanted)]
            for given in product(*sources):
                if not any(self._beats(rival, wanted, given, operator=operator) for rival in rivals):
                    left.add(tuple(self._types[oid].name if oid else UNKNOWN for oid in given))
            if len(left) > MAX_LEFT:
                return None
        own = frozenset[int]().union(*(self._values(oid) for wanted in takes for oid in wanted))
        return Chosen(own, frozenset(left))

    def _beats(
        self, rival: tuple[int, ...], wanted: tuple[int, ...], given: tuple[int, ...], *, operator: bool
    ) -> bool:
        """Tell whether a built-in is chosen before what wants these types, whatever else bears the name."""
        if any(map(self._is_unknown, wanted)):
            return False  # a literal is of that type exactly
        if rival == wanted:
            return True  # of the two pg_catalog's comes first: see `Functions.comes_first` and `Functions.shadow`
        if not all(map(self._becomes, given, rival)):
            return False
        if operator and given.count(_LITERAL) == 1 and len(given) == 2:
            # binary_oper_exact(), parser/parse_oper.c: a literal is of the other operand's type first of all.
            both = (max(given),) * 2
            if both in (rival, wanted):
                return both == rival
        better = self._score(rival, given), self._score(wanted, given)
        if better[0] != better[1]:
            return better[0] > better[1]
        literals = [at for at, oid in enumerate(given) if not oid]
        return (
            bool(literals)
            and all(self._is_text(rival[at]) for at in literals)
            and not all(self._is_text(wanted[at]) for at in literals)
        )

    def _becomes(self, given: int, wanted: int) -> bool:
        return given in (_LITERAL, wanted) or (given, wanted) in self._rows.implicit

    def _score(self, takes: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, int]:
        """Count the exact matches, and those together with the preferred types of the category."""
        exact = [oid == wanted for oid, wanted in zip(given, takes, strict=True)]
        good = [
            oid != _LITERAL and (match or self._is_preferred(oid, wanted))
            for oid, wanted, match in zip(given, takes, exact, strict=True)
        ]
        return sum(exact), sum(good)

    def _is_preferred(self, given: int, wanted: int) -> bool:
        return self._types[wanted].preferred and self._types[wanted].category == self._types[given].category

    def _is_text(self, oid: int) -> bool:
        return self._types[oid].preferred and self._types[oid].category == _STRING

    def _is_unknown(self, oid: int) -> bool:
        return oid in self._types and self._types[oid].name == UNKNOWN and is_built_in(self._types[oid])

    # -- which types become which --------------------------------------------------------------------------------------

    def _find_sources(self, oid: int) -> tuple[int, ...]:
        """Give the built-in types that become a type without a word, and that of a literal; nothing in doubt."""
        row = self._types.get(oid)
        if self._is_unknown(oid):
            return (_LITERAL,)
        if row is None or row.kind == "p" or not row.category:
            return ()
        return (_LITERAL, *sorted(self._becoming(row)))

    def _becoming(self, row: TypeRow) -> set[int]:
        """Give the built-in types that become a type without a word: can_coerce_type(), parser/parse_coerce.c."""
        if row.base in self._types:
            return self._becoming(self._types[row.base])
        found = {row.oid} | {source for source, target in self._rows.implicit if target == row.oid}
        found |= {cast.source for cast in self._implicit if cast.target == row.oid}
        if row.kind == "c":
            found |= self._records
        if row.element in self._types:
            elements = self._becoming(self._types[row.element])
            found |= elements & self._records
            found.update(array for element in elements for array in self._arrays[element])
        return {oid for oid in found if oid in self._types and is_built_in(self._types[oid])}

    def _find_values(self, oid: int) -> frozenset[int]:
        """Give the database's own types a value of which is, holds or becomes one of this type, or is made one."""
        found: set[int] = set()
        waiting = [oid]
        while waiting:
            wanted = waiting.pop()
            if wanted not in found:
                found.add(wanted)
                waiting += self._leading[wanted]
        return self.given(found)

    def _find_leading(self) -> defaultdict[int, list[int]]:
        """Give for each type those a value of which can stand for one of it, or be taken apart or made into one."""
        leading: defaultdict[int, list[int]] = defaultdict(list)
        for row in self._rows.types:
            for part in row.parts:
                leading[part].append(row.oid)  # the rows of a table have columns, a range has bounds
                if row.kind in _MADE:
                    leading[row.oid].append(part)
        for cast in self._implicit:
            leading[cast.target].append(cast.source)
            for array, source in product(self._arrays[cast.target], self._arrays[cast.source]):
                leading[array].append(source)
        row_types = {relation.oid: relation.row_type for relation in self._rows.relations}
        for relation in self._rows.relations:
            leading[relation.row_type] += (row_types[child] for child in relation.children if child in row_types)
        return leading


_MADE = frozenset("bdmr")
"""typtype of what is made of a value without being named: arrays, domains, ranges and multiranges."""


def is_built_in(row: TypeRow) -> bool:
    """Tell whether a type is one of pg_catalog's own, made by initdb."""
    return row.schema == "pg_catalog" and row.oid < FIRST_NORMAL_OID

"""Say what of a type's own code runs in which role: hardly a statement runs all that a type has.

A type that is no read as a whole can be shown where its casts write, or compared where its CHECK does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

from proxy.sql import tables
from proxy.sql.catalog import CAST, CHECK, COMPARE, INPUT, OUTPUT, TO_JSON, TO_TEXT, TYPE, CastRow, TypeRow

Use = Callable[[str, Iterable[int]], None]
"""Notes that objects of a kind are used."""
_RANGES = frozenset("rm")
"""typtype of ranges and multiranges."""


class Roles:
    """Judge types, one at a time. What a type is made of and is none of `spoiled` is a read as a whole.

    `call` notes functions that are called where no text shows it, `checks` judges the CHECKs of a domain.
    """

    def __init__(
        self,
        types: Mapping[int, TypeRow],
        casts: Iterable[CastRow],
        spoiled: Iterable[int],
        *,
        use: Use,
        call: Callable[[Iterable[int]], None],
        checks: Callable[[TypeRow], None],
    ) -> None:
        self._types = types
        self._use = use
        self._call = call
        self._checks = checks
        self._casts: defaultdict[int, list[CastRow]] = defaultdict(list)
        for cast in casts:
            self._casts[cast.source].append(cast)
        self._plain = {oid for oid in spoiled if self._is_plain(types[oid])}
        self.judged = frozenset(spoiled).difference(self._plain)
        """Those that have roles. Rows and arrays without code of their own run what they are made of; a large database
        has two such types for each table."""
        self.judges: dict[str, Callable[[TypeRow], None]] = {
            INPUT: self._input,
            CHECK: self._check,
            OUTPUT: self._output,
            COMPARE: self._compare,
            TO_JSON: self._to_json,
            TO_TEXT: self._to_text,
        }
        """What is asked of a type, by role."""

    def _is_plain(self, row: TypeRow) -> bool:
        return (row.kind == "c" or bool(row.element)) and not row.functions and row.oid not in self._casts

    def _role(self, role: str, oids: Iterable[int]) -> None:
        waiting, seen = list(oids), set[int]()
        while waiting:
            oid = waiting.pop()
            if oid in self.judged:
                self._use(role, (oid,))
            elif oid in self._plain and oid not in seen:
                waiting += self._types[oid].parts
            elif oid and oid not in self._types:
                self._use(TYPE, (oid,))
            seen.add(oid)

    def _base(self, role: str, row: TypeRow) -> None:
        """Note what a domain's base type runs by itself, and not what that is made of."""
        if row.base in self.judged or row.base not in self._types:
            self._role(role, (row.base,))

    def _input(self, row: TypeRow) -> None:
        """Judge what makes a value of a text: of its columns, elements or bounds, too, and a range compares those."""
        self._call(row.inputs)
        self._role(INPUT, (*row.parts, row.base))
        if row.kind == "d":
            self._role(CHECK, (row.oid,))
        elif row.kind in _RANGES:
            self._role(COMPARE, (row.oid,))

    def _check(self, row: TypeRow) -> None:
        self._checks(row)
        if row.kind == "d":
            self._call(set(row.functions).difference(row.sorting))
            self._base(CHECK, row)

    def _output(self, row: TypeRow) -> None:
        self._call(row.outputs)
        self._role(OUTPUT, (*row.parts, row.base))

    def _compare(self, row: TypeRow) -> None:
        """Judge what orders values, tells equal ones, and hashes them; of ranges, what makes them canonical, too."""
        self._call(row.functions if row.kind in _RANGES else row.sorting)
        self._role(COMPARE, (*row.parts, row.base))
        for cast in self._casts.get(row.oid, ()):
            if not cast.function and cast.context == "i":
                # A type without a default operator class takes that of another one that it is without a word:
                # GetDefaultOpClass(), commands/indexcmds.c.
                self._use(CAST, (cast.oid,))
                self._role(COMPARE, (cast.target,))

    def _to_json(self, row: TypeRow) -> None:
        """Judge what makes JSON of a value: a cast, or else its output (json_categorize_type(), utils/adt/json.c)."""
        self._cast(row, tables.JSON_OIDS)
        self._role(TO_JSON, (*row.parts, row.base))

    def _to_text(self, row: TypeRow) -> None:
        self._cast(row, {tables.TEXT_OID})
        self._base(TO_TEXT, row)

    def _cast(self, row: TypeRow, targets: Collection[int]) -> None:
        self._role(OUTPUT, (row.oid,))
        self._use(CAST, (cast.oid for cast in self._casts.get(row.oid, ()) if cast.target in targets))

"""Make statements at random by the grammar over the schema, with types in mind: the server takes half of them."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Final

from tests.oracle.catalogue import EVERY, Catalogue

_BOOL: Final = 16
_INT4: Final = 23
_COMMON: Final = (
    16,
    20,
    21,
    23,
    25,
    700,
    701,
    1043,
    1042,
    19,
    1082,
    1114,
    1184,
    1186,
    1700,
    3802,
    114,
    1007,
    1009,
    2950,
    26,
)
_NEAR: Final[dict[int, tuple[int, ...]]] = {
    20: (21, 23, 20),
    23: (21, 23),
    26: (21, 23, 20, 26),
    700: (21, 23, 20, 1700, 700),
    701: (21, 23, 20, 700, 1700, 701),
    1700: (21, 23, 20, 1700),
    25: (25, 1043, 1042, 19, 18),
    1043: (25, 1043, 1042),
    1042: (25, 1043, 1042),
    1114: (1082, 1114),
    1184: (1082, 1114, 1184),
}
"""Types that become another one implicitly."""
_POLYMORPHIC: Final = frozenset((2277, 2283, 2776, 3500, 3831, 4537, 4538, 5077, 5078, 5079, 5080, 2276, 2249))


class Generator:
    """Make one statement after the other."""

    def __init__(self, catalogue: Catalogue, rng: random.Random) -> None:
        self._catalogue = catalogue
        self._rng = rng
        self._types = list(catalogue.types)
        user = [oid for oid in catalogue.types if oid >= 16384]
        self._favourites = [oid for oid in (*_COMMON, *_COMMON, *user) if oid in catalogue.types]
        self._returning: defaultdict[int, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
        self._operators: defaultdict[int, list[tuple[str, int, int]]] = defaultdict(list)
        self._aggregates: defaultdict[int, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
        for function in catalogue.functions:
            if not all(oid in catalogue.types or oid in _POLYMORPHIC for oid in function.arguments):
                continue
            if function.kind == "f" and not function.returns_set:
                self._returning[function.result].append((function.name, function.arguments))
            elif function.kind == "a" and function.aggregate == "n":
                self._aggregates[function.result].append((function.name, function.arguments))
        for operator in catalogue.operators:
            if all(not oid or oid in catalogue.types or oid in _POLYMORPHIC for oid in (operator.left, operator.right)):
                self._operators[operator.result].append((operator.name, operator.left, operator.right))
        self._scopes: list[dict[str, dict[str, int]]] = []
        self._parameters = 0

    def statement(self) -> str:
        """Return one statement."""
        self._parameters = 0
        self._scopes = []
        return self._query(
            self._rng.choice((1, 2, 2, 3)), [self._type() for _ in range(self._rng.choice((1, 1, 2, 3)))]
        )

    # -- queries -------------------------------------------------------------------------------------------------------

    def _query(self, depth: int, types: list[int]) -> str:
        r = self._rng.random()
        if depth > 0 and r < 0.1:
            operation = self._rng.choice(("UNION", "UNION ALL", "INTERSECT", "EXCEPT"))
            first, second = (self._select(depth - 1, [self._nearly(each) for each in types]) for _ in range(2))
            return f"{first} {operation} {second}" + self._rng.choice(("", " ORDER BY 1"))
        if depth > 0 and r < 0.2:
            inner = [self._type() for _ in range(2)]
            query = self._query(depth - 1, inner)
            self._scopes.append({"w": {"a": inner[0], "b": inner[1]}})
            outer = self._select(depth - 1, types, source="w")
            self._scopes.pop()
            return f"WITH w(a, b) AS ({query}) {outer}"
        return self._select(depth, types)

    def _select(self, depth: int, types: list[int], *, source: str = "") -> str:
        scope: dict[str, dict[str, int]] = {}
        if source:
            scope[source] = self._scopes[-1][source]
            from_ = source
        else:
            from_ = self._from(depth, scope)
        self._scopes.append(scope)
        grouped = self._rng.random() < 0.15
        if grouped:
            keys = [self._expression(1, oid) for oid in types[:-1]]
            last = self._aggregate(depth, types[-1])
            targets = [*keys, last]
        else:
            targets = [self._expression(depth, oid) for oid in types]
        named = [f"{text} AS x{at}" if self._rng.random() < 0.2 else text for at, text in enumerate(targets)]
        sql = "SELECT " + self._rng.choice(("", "", "", "", "DISTINCT ")) + ", ".join(named) + " FROM " + from_
        if self._rng.random() < 0.5:
            sql += " WHERE " + self._expression(depth, _BOOL)
        if grouped and len(types) > 1:
            sql += " GROUP BY " + ", ".join(str(at + 1) for at in range(len(types) - 1))
            if self._rng.random() < 0.3:
                sql += " HAVING " + self._aggregate(depth, _BOOL)
        if not self._scopes[:-1] and not grouped and self._rng.random() < 0.2 and "DISTINCT" not in sql[:16]:
            sql += " ORDER BY " + self._rng.choice((self._expression(depth, self._type()), "1", "1 DESC"))
        if self._rng.random() < 0.1:
            sql += " LIMIT " + self._rng.choice(("1", f"${self._next()}", "1 + 1", "NULL"))
        self._scopes.pop()
        return sql

    def _from(self, depth: int, scope: dict[str, dict[str, int]]) -> str:
        r = self._rng.random()
        name = f"s{len(self._scopes)}"
        if depth > 0 and r < 0.2:
            types = [self._type(), self._type()]
            query = self._query(depth - 1, types)
            scope[name] = {"a": types[0], "b": types[1]}
            return f"({query}) {name}(a, b)"
        if r < 0.3:
            types = [self._type(), self._type()]
            rows = ", ".join(
                "(" + ", ".join(self._value(oid) for oid in types) + ")" for _ in range(self._rng.choice((1, 2)))
            )
            scope[name] = {"a": types[0], "b": types[1]}
            return f"(VALUES {rows}) {name}(a, b)"
        scope["e"] = {each.column: each.oid for each in self._catalogue.types.values()}
        if r < 0.4:
            scope["g"] = {"g": _INT4}
            return f"{EVERY} e, generate_series(1, {self._value(_INT4)}) g"
        if r < 0.5:
            column = self._rng.choice(list(self._catalogue.types.values())).column
            scope["h"] = scope["e"]
            if self._rng.random() < 0.5:
                return f"{EVERY} e JOIN {EVERY} h ON e.{column} = h.{column}"
            return f"{EVERY} e JOIN {EVERY} h USING ({column})"
        return f"{EVERY} e"

    # -- expressions ---------------------------------------------------------------------------------------------------

    def _expression(self, depth: int, oid: int) -> str:
        if depth <= 0 or self._rng.random() < 0.15:
            return self._leaf(oid)
        r = self._rng.random()
        if r < 0.3:
            return self._call(depth, oid)
        if r < 0.6:
            return self._operation(depth, oid)
        if r < 0.66:
            first, second = self._expression(depth - 1, oid), self._expression(depth - 1, self._nearly(oid))
            return f"CASE WHEN {self._expression(depth - 1, _BOOL)} THEN {first} ELSE {second} END"
        if r < 0.7:
            return f"COALESCE({self._expression(depth - 1, oid)}, {self._expression(depth - 1, self._nearly(oid))})"
        if r < 0.73:
            return f"NULLIF({self._expression(depth - 1, oid)}, {self._leaf(self._nearly(oid))})"
        if r < 0.76:
            return f"GREATEST({self._leaf(oid)}, {self._expression(depth - 1, self._nearly(oid))})"
        if r < 0.8:
            return f"CAST({self._expression(depth - 1, self._type())} AS {self._catalogue.types[oid].name})"
        if r < 0.85:
            return f"({self._select(depth - 1, [oid])})"
        if oid == _BOOL:
            return self._predicate(depth)
        return self._leaf(oid)

    def _predicate(self, depth: int) -> str:
        oid = self._type()
        left = self._expression(depth - 1, oid)
        right = self._leaf(self._nearly(oid))
        form = self._rng.choice(
            (
                "{l} IN ({r}, {r2})",
                "{l} BETWEEN {r} AND {r2}",
                "{l} IS DISTINCT FROM {r}",
                "{l} = ANY (ARRAY[{r}, {r2}])",
                "{l} IN (SELECT {r})",
                "({l}, {r}) < ({r2}, {r})",
                "({l}, {r}) = ({r2}, {r})",
                "EXISTS (SELECT 1 FROM every_type z WHERE {l} = {r})",
                "{l} IS NULL AND {r} IS NOT NULL",
                "CASE {l} WHEN {r} THEN true END",
                "{l} LIKE {r}",
                "NOT ({l} <> {r})",
            )
        )
        return form.format(l=left, r=right, r2=self._leaf(self._nearly(oid)))

    def _call(self, depth: int, oid: int) -> str:
        known = self._returning.get(oid)
        if not known:
            return self._leaf(oid)
        name, arguments = self._rng.choice(known)
        return f"{name}({', '.join(self._expression(depth - 1, each) for each in self._concrete(arguments))})"

    def _operation(self, depth: int, oid: int) -> str:
        known = self._operators.get(oid)
        if not known:
            return self._leaf(oid)
        name, left, right = self._rng.choice(known)
        operands = [
            self._expression(depth - 1, each) for each in self._concrete([each for each in (left, right) if each])
        ]
        return f"({operands[0]} {name} {operands[1]})" if left else f"({name} {operands[0]})"

    def _aggregate(self, depth: int, oid: int) -> str:
        known = self._aggregates.get(oid)
        if not known:
            return f"max({self._leaf(oid)})"
        name, arguments = self._rng.choice(known)
        inner = ", ".join(self._expression(depth - 1, each) for each in self._concrete(arguments))
        form = self._rng.choice(
            ("{n}({i})", "{n}({i})", "{n}(DISTINCT {i})", "{n}({i}) FILTER (WHERE true)", "{n}({i}) OVER ()")
        )
        return form.format(n=name, i=inner or "*")

    def _concrete(self, arguments: tuple[int, ...] | list[int]) -> list[int]:
        if not _POLYMORPHIC.intersection(arguments):
            return [self._nearly(each) for each in arguments]
        element = self._type()
        array = self._catalogue.types[element].array
        by_type = {2277: array, 5078: array}
        found = []
        for each in arguments:
            if each in (2283, 2776, 5077, 5079):
                found.append(element)
            elif each in by_type:
                found.append(by_type[each] if by_type[each] in self._catalogue.types else 1007)
            elif each in (3831, 5080):
                found.append(3904)
            elif each in (4537, 4538):
                found.append(4451 if 4451 in self._catalogue.types else 3904)
            else:
                found.append(each if each in self._catalogue.types else self._type())
        return found

    def _leaf(self, oid: int) -> str:
        r = self._rng.random()
        if r < 0.5:
            found = [
                f"{table}.{column}"
                for scope in self._scopes[-2:]
                for table, columns in scope.items()
                if table != "w" or scope is self._scopes[-1]
                for column, each in columns.items()
                if each == oid
            ]
            if found:
                return self._rng.choice(found)
        return self._value(oid)

    def _value(self, oid: int) -> str:
        r = self._rng.random()
        known = self._catalogue.types[oid]
        literal = "'" + known.literal.replace("'", "''") + "'"
        if r < 0.3:
            return literal
        if r < 0.4 and oid in (20, 21, 23, 26, 700, 701, 1700):
            return self._rng.choice(("1", "2.5", "99999999999"))
        if r < 0.5:
            return "NULL"
        if r < 0.6:
            return f"${self._next()}"
        return f"{literal}::{known.name}"

    def _next(self) -> int:
        if self._parameters and self._rng.random() < 0.2:
            return self._rng.randint(1, self._parameters)
        self._parameters += 1
        return self._parameters

    def _type(self) -> int:
        return self._rng.choice(self._favourites if self._rng.random() < 0.8 else self._types)

    def _nearly(self, oid: int) -> int:
        near = _NEAR.get(oid)
        return self._rng.choice(near) if near and self._rng.random() < 0.4 else oid

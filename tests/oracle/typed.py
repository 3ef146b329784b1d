"""Make statements that the server takes: each function, operator, cast and form in turn, on operands of its own types.

An operand is what gives a value of a type in one of many ways; the whole stands in one of many places of a query.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from tests.oracle import typed_forms as forms
from tests.oracle.catalogue import Catalogue, Function, concrete

_SLOT: Final = re.compile(r"\{(\w+)\}")
_NUMBERS: Final = frozenset((20, 21, 23, 26, 700, 701, 1700))
_WAYS: Final[Sequence[tuple[int, str]]] = (
    (30, "{c}"),
    (8, "{l}::{t}"),
    (4, "CAST({l} AS {t})"),
    (4, "CAST(NULL AS {t})"),
    (8, "{l}"),
    (5, "{p}"),
    (4, "{p}::{t}"),
    (2, "NULL"),
    (3, "(SELECT {c})"),
    (2, "(SELECT x FROM (VALUES ({l}::{t})) v(x))"),
    (2, "(SELECT x FROM (SELECT {c} AS x UNION ALL SELECT {l}) v)"),
    (3, "COALESCE({c}, {l})"),
    (3, "CASE WHEN e.c_bool THEN {c} END"),
    (2, "CASE WHEN e.c_bool THEN {l} ELSE {c} END"),
    (2, "(ROW({c})).f1"),
    (2, "(SELECT (s).x FROM (SELECT {c} AS x) s)"),
    (2, "(WITH w(x) AS (SELECT {l}::{t}) SELECT x FROM w)"),
    (12, "{call}"),
    (8, "{operation}"),
)
"""How a value of a type is had, and how often: as column, literal, parameter, and as what is made of others."""
_OF_ARRAYS: Final = "(ARRAY[{c}])[1]"
_TYPE_NAMES: Final = {
    "bool": 16,
    "bytea": 17,
    "name": 19,
    "int8": 20,
    "int2": 21,
    "int4": 23,
    "text": 25,
    "oid": 26,
    "json": 114,
    "xml": 142,
    "float4": 700,
    "float8": 701,
    "varchar": 1043,
    "bpchar": 1042,
    "date": 1082,
    "time": 1083,
    "timestamp": 1114,
    "timestamptz": 1184,
    "interval": 1186,
    "timetz": 1266,
    "bit": 1560,
    "numeric": 1700,
    "uuid": 2950,
    "jsonb": 3802,
    "int4s": 1007,
    "texts": 1009,
    "int4range": 3904,
    "jsonpath": 4072,
    "point": 600,
    "int8s": 1016,
    "numerics": 1231,
    "int8range": 3926,
    "tsvector": 3614,
    "tsquery": 3615,
    "inet": 869,
}
"""What the slots of forms are called."""
_WITHOUT_CALLS: Final = 0.6
_CSTRING: Final = 2275
_UNTYPED: Final = ("'1'", "''", "NULL", "'{1}'")
_IMPLICIT: Final = 0.08
"""How often a value is of a type that becomes the one that is wanted."""


class Typed:
    """Make statements without end over the catalogue of one database."""

    def __init__(self, catalogue: Catalogue, rng: random.Random) -> None:
        self._catalogue = catalogue
        self._rng = rng
        self._types = list(catalogue.types)
        self._parameters: list[int] = []
        self._sortable = {each.left for each in catalogue.operators if each.name == "<" and each.left == each.right}
        self._returning: defaultdict[int, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
        for function in catalogue.functions:
            if function.kind == "f" and not function.returns_set and self._is_plain(function.arguments):
                self._returning[function.result].append((function.name, function.arguments))
        self._becoming: defaultdict[int, list[int]] = defaultdict(list)
        for source, target in catalogue.implicit:
            if source in catalogue.types:
                self._becoming[target].append(source)
        self._giving: defaultdict[int, list[tuple[str, int, int]]] = defaultdict(list)
        for operator in catalogue.operators:
            if self._is_plain([each for each in (operator.left, operator.right) if each]):
                self._giving[operator.result].append((operator.name, operator.left, operator.right))

    def _is_plain(self, types: Sequence[int]) -> bool:
        return all(each in self._catalogue.types for each in types)

    def statements(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield a text and the types of parameters that it declares, of each kind in turn."""
        makers = [self._functions(), self._operators(), self._casts(), self._aggregates(), self._of_forms()]
        while True:
            for maker in makers:
                self._parameters = []
                text = next(maker)
                declared = tuple(self._parameters) if self._rng.random() < 0.4 else ()
                yield text, declared

    # -- values --------------------------------------------------------------------------------------------------------

    def value(self, oid: int, depth: int = 1) -> str:
        """Return what gives a value of a type, or of one that becomes it by itself."""
        if oid in self._becoming and self._rng.random() < _IMPLICIT:
            oid = self._rng.choice(self._becoming[oid])
        known = self._catalogue.types.get(oid)
        if known is None:
            return "NULL" if self._rng.random() < 0.5 else self._parameter(oid)
        ways = _WAYS[:-2] if depth <= 0 else _WAYS
        (form,) = self._rng.choices([way for _, way in ways], [weight for weight, _ in ways])
        if form == "{call}":
            return self._call(oid, depth)
        if form == "{operation}":
            return self._operation(oid, depth)
        if form == "{l}" and oid in _NUMBERS and self._rng.random() < 0.7:
            return self._rng.choice(("1", "2.5", "99999999999", "-1", "7"))
        if form == "{c}" and known.array and self._rng.random() < 0.1:
            form = _OF_ARRAYS
        literal = "'" + known.literal.replace("'", "''") + "'"
        parameter = self._parameter(oid) if "{p}" in form else ""
        return form.format(c=f"e.{known.column}", l=literal, t=known.name, p=parameter)

    def _parameter(self, oid: int) -> str:
        if oid in self._parameters and self._rng.random() < 0.3:
            return f"${self._parameters.index(oid) + 1}"
        self._parameters.append(oid)
        return f"${len(self._parameters)}"

    def _call(self, oid: int, depth: int) -> str:
        known = self._returning.get(oid)
        if not known:
            return self.value(oid, 0)
        name, arguments = self._rng.choice(known)
        return f"{name}({', '.join(self.value(each, depth - 1) for each in arguments)})"

    def _operation(self, oid: int, depth: int) -> str:
        known = self._giving.get(oid)
        if not known:
            return self.value(oid, 0)
        name, left, right = self._rng.choice(known)
        one = self.value(left, depth - 1) + " " if left else ""
        return f"({one}{name} {self.value(right, depth - 1)})"

    def _values(self, types: Sequence[int]) -> list[str]:
        """Return arguments, most of them plain: what is wrong with one spoils the whole statement."""
        depth = 0 if self._rng.random() < _WITHOUT_CALLS else 1
        return [self.value(each, depth) for each in types]

    # -- what is called ------------------------------------------------------------------------------------------------

    def _placed(self, expression: str, type_: int) -> str:
        """Return a query with an expression at a place."""
        places = forms.PLACES
        if type_ in self._sortable:
            places = (*places, *forms.SORTED_PLACES)
        place = self._rng.choice(places) if self._rng.random() < 0.7 else places[0]
        if "CYCLE" in place and self._catalogue.version < 14:
            place = places[0]
        return self._filled(place.replace("{x}", expression.replace("{", "{{").replace("}", "}}")))

    def _functions(self) -> Iterator[str]:
        plain = [each for each in self._catalogue.functions if each.kind in "fw"]
        while True:
            self._rng.shuffle(plain)
            for each in plain:
                yield self._of_function(each)

    def _of_function(self, each: Function) -> str:
        families = concrete(self._catalogue, each.arguments) or [list(each.arguments)]
        types = self._rng.choice(families)
        count = len(types) - self._rng.randint(0, each.defaults)
        declared = each.arguments[:count]
        # Nothing becomes a cstring but what has no type.
        arguments = [
            self._rng.choice(_UNTYPED) if oid == _CSTRING else value
            for oid, value in zip(declared, self._values(types[:count]), strict=True)
        ]
        if each.variadic and arguments:
            arguments = self._variadic(each, arguments)
        elif each.names and len(each.names) == len(types) and self._rng.random() < 0.25:
            arguments = [f"{name} => {text}" for name, text in zip(each.names, arguments, strict=False)]
            self._rng.shuffle(arguments)
        name = f"{each.schema}.{each.name}" if self._rng.random() < 0.1 else each.name
        call = f"{name}({', '.join(arguments)})"
        if each.kind == "w":
            return self._placed(call + self._rng.choice(forms.WINDOWS), 0)
        if self._rng.random() < (0.7 if each.returns_set else 0.08):
            return self._rng.choice(forms.CALLS_IN_FROM).format(x=call)
        return self._placed(call, each.result)

    def _variadic(self, each: Function, arguments: list[str]) -> list[str]:
        if self._rng.random() < 0.5:
            return [*arguments[:-1], "VARIADIC " + arguments[-1]]
        of = each.variadic if each.variadic in self._catalogue.types else self._rng.choice(forms.COMMON)
        more = [self.value(of, 0) for _ in range(self._rng.randint(1, 3))]
        return [*arguments[:-1], *more]

    def _operators(self) -> Iterator[str]:
        known = list(self._catalogue.operators)
        while True:
            self._rng.shuffle(known)
            for each in known:
                wanted = [oid for oid in (each.left, each.right) if oid]
                types = self._rng.choice(concrete(self._catalogue, wanted) or [wanted])
                name = each.name if self._rng.random() < 0.9 else f"OPERATOR({each.schema}.{each.name})"
                values = self._values(types)
                if len(values) == 2 and each.result == _TYPE_NAMES["bool"] and self._rng.random() < 0.3:
                    form = self._rng.choice(forms.COMPARISONS)
                    text = form.format(l=values[0], o=name, r=values[1], r2=self.value(types[1], 0))
                else:
                    text = f"{values[0]} {name} {values[1]}" if each.left else f"{name} {values[0]}"
                yield self._placed(f"({text})", each.result)

    def _casts(self) -> Iterator[str]:
        """Yield casts of every pair that pg_cast has, and of a type to and from text, by element as well."""
        types = self._catalogue.types
        pairs = [(one, other) for one, other in self._catalogue.casts if one in types and other in types]
        pairs += [(one, 25) for one in types] + [(25, one) for one in types]
        pairs += [(types[one].array, types[other].array) for one, other in pairs]
        pairs = [(one, other) for one, other in pairs if one in types and other in types]
        while True:
            self._rng.shuffle(pairs)
            for source, target in pairs:
                value = self.value(source, 0)
                name = types[target].name
                if target in forms.MODIFIED and self._rng.random() < 0.4:
                    name = self._rng.choice(forms.MODIFIED[target])
                form = self._rng.choice(forms.CASTS)
                if "{t}(" in form:
                    name = types[target].name
                yield self._placed(form.format(v=value, t=name), target)

    def _aggregates(self) -> Iterator[str]:
        known = [each for each in self._catalogue.functions if each.kind == "a"]
        while True:
            self._rng.shuffle(known)
            for each in known:
                types = self._rng.choice(concrete(self._catalogue, each.arguments) or [list(each.arguments)])
                yield self._of_aggregate(each, types)

    def _of_aggregate(self, each: Function, types: Sequence[int]) -> str:
        values = self._values(types)
        if each.aggregate != "n":
            direct, ordered = values[: each.direct], values[each.direct :]
            if each.variadic:
                of = [self._rng.choice(forms.COMMON) for _ in range(self._rng.randint(1, 2))]
                direct, ordered = [self.value(oid, 0) for oid in of], [self.value(oid, 0) for oid in of]
            order = ", ".join(text + self._rng.choice(("", " DESC", " NULLS FIRST")) for text in ordered)
            call = f"{each.name}({', '.join(direct)}) WITHIN GROUP (ORDER BY {order})"
            return self._in_groups(call + self._rng.choice(("", "", " FILTER (WHERE e.c_bool)")))
        inner = ", ".join(values) or "*"
        form = self._rng.choice(forms.AGGREGATES if values else forms.AGGREGATES_OF_NOTHING)
        key = self._rng.choice([oid for oid in forms.COMMON if oid in self._sortable])
        return self._in_groups(form.format(n=each.name, i=inner, f=values[0] if values else "", k=self.value(key, 0)))

    def _in_groups(self, call: str) -> str:
        return self._rng.choice(forms.GROUPS).format(x=call)

    # -- forms ---------------------------------------------------------------------------------------------------------

    def _of_forms(self) -> Iterator[str]:
        version = self._catalogue.version
        expressions = [form for since, each in forms.EXPRESSIONS.items() if version >= since for form in each]
        wholes = [form for since, each in forms.STATEMENTS.items() if version >= since for form in each]
        while True:
            for form in expressions:
                yield self._placed(self._filled(form), 0)
            for form in wholes:
                yield self._filled(form)

    def _filled(self, form: str) -> str:
        """Put values into the slots of a form: each by its type's name, `any` one that `same` is of as well."""
        one, near = self._two()
        array = self._catalogue.types[one].array
        chosen = {"any": one, "same": one, "near": near, "array": array if array in self._catalogue.types else 1007}

        def slot(match: re.Match[str]) -> str:
            name = match[1]
            if name == "type":
                return self._catalogue.types[self._rng.choice(forms.COMMON)].name
            if name == "column":
                return self._catalogue.types[one].column
            if name == "of_any":
                return self._catalogue.types[one].name
            if name in forms.WORDS:
                return self._rng.choice(forms.WORDS[name])
            return self.value(chosen.get(name) or _TYPE_NAMES[name], int(self._rng.random() < 0.2))

        return _SLOT.sub(slot, form.replace("{{", "\0").replace("}}", "\1")).replace("\0", "{").replace("\1", "}")

    def _two(self) -> tuple[int, int]:
        """Return a type that can be compared, and one that is compared with it."""
        one = self._rng.choice([oid for oid in forms.COMMON if oid in self._catalogue.types])
        return one, self._rng.choice(forms.NEAR.get(one, (one,)))

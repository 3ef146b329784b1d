"""Make the statements on which the resolver and the server are compared: texts with types of parameters."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests import ordinary
from tests.oracle import branches, generator, naming
from tests.oracle.catalogue import EVERY, Catalogue, Function, concrete
from tests.oracle.typed import Typed


class Statement(NamedTuple):
    sql: bytes
    parameters: tuple[int, ...] = ()


Source = Callable[[Catalogue, random.Random], Iterator[Statement]]
_DATA: Final = Path(__file__).parents[1] / "data"

_MIXED: Final = (
    *("e.c_int2", "e.c_int4", "e.c_int8", "e.c_numeric", "e.c_float4", "e.c_float8", "e.c_text", "e.c_varchar"),
    *("e.c_bpchar", "e.c_name", "e.c_date", "e.c_timestamptz", "e.c_bool", "e.c__int4", "e.c_jsonb", "e.c_oid"),
    *("1", "1.5", "99999999999", "'1'", "NULL", "$1", "(1, 2)", "e"),
)
"""Arguments of the types between which overloads are chosen, and what has no type."""


def functions(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield calls of every function with arguments of its own types, as column, NULL, literal and parameter."""
    for each in _shuffled(catalogue.functions, rng):
        for types in concrete(catalogue, each.arguments) or [list(each.arguments)]:
            counts = {len(types), len(types) - each.defaults}
            for count in counts:
                yield from _calls(catalogue, each, types[:count], rng)
        if each.variadic:
            yield from _variadic(catalogue, each)
        if each.names and len(each.names) == len(each.arguments):
            for types in concrete(catalogue, each.arguments):
                named = [f"{name} => {_column(catalogue, oid)}" for name, oid in zip(each.names, types, strict=True)]
                rng.shuffle(named)
                yield _select(f"{each.name}({', '.join(named)})")
                yield _select(f"{each.name}({', '.join(named[: -each.defaults or None])})")


def mixed_functions(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield calls of every name with one, two and three arguments of any types."""
    names = {(each.name, count) for each in catalogue.functions if each.kind != "p" for count in _counts(each)}
    calls: list[Iterator[Statement]] = []
    for name, count in _shuffled(sorted(names), rng):
        calls.append(_mixed_calls(name, count, random.Random(f"{name}{count}")))
    yield from _in_turns(calls)


def _mixed_calls(name: str, count: int, rng: random.Random) -> Iterator[Statement]:
    if count <= 2:
        every = list(itertools.product(_MIXED, repeat=count))
        rng.shuffle(every)
    else:
        every = [tuple(rng.choice(_MIXED) for _ in range(count)) for _ in range(200)]
    for arguments in every:
        yield _select(f"{name}({', '.join(arguments)})")


def _counts(function: Function) -> Iterator[int]:
    for count in range(len(function.arguments) - function.defaults, len(function.arguments) + 1):
        if 1 <= count <= 4:
            yield count
    if function.variadic:
        yield len(function.arguments) + 1


def _calls(catalogue: Catalogue, function: Function, types: Sequence[int], rng: random.Random) -> Iterator[Statement]:
    name = function.name
    columns = [_column(catalogue, oid) for oid in types]
    kinds = [columns]
    if types:
        kinds.append([_null(catalogue, oid) for oid in types])
        kinds.append([_literal(catalogue, oid) for oid in types])
        kinds.append([f"${at + 1}" for at in range(len(types))])
        kinds.append([rng.choice(each) for each in zip(*kinds, strict=True)])
    if function.kind == "a" and function.aggregate != "n":
        for arguments in kinds:
            direct, ordered = arguments[: function.direct], arguments[function.direct :]
            order = ", ".join(ordered) or columns[0] if columns else "e.c_int4"
            yield _select(f"{name}({', '.join(direct)}) WITHIN GROUP (ORDER BY {order})")
        return
    for arguments in kinds:
        yield _select(f"{name}({', '.join(arguments)})")
    if types:
        declared = tuple(types)
        yield Statement(f"SELECT {name}({', '.join(f'${at + 1}' for at in range(len(types)))})".encode(), declared)
        yield _select(f"{function.schema}.{name}({', '.join(columns)})")
    if function.kind == "a":
        text = ", ".join(columns) or "*"
        yield _select(f"{name}({text}) FILTER (WHERE e.c_bool)")
        yield _select(f"{name}({text}) OVER (PARTITION BY e.c_text ORDER BY e.c_int4)")
        if columns:
            yield _select(f"{name}(DISTINCT {text})")
            yield _select(f"{name}({text} ORDER BY {rng.choice(columns)} DESC)")
    elif function.kind == "w":
        yield _select(f"{name}({', '.join(columns)}) OVER (ORDER BY e.c_date)")
        yield _select(f"{name}({', '.join(kinds[-1])}) OVER w", tail=" WINDOW w AS (PARTITION BY e.c_jsonb)")
    elif function.kind == "f":
        arguments = ", ".join(columns)
        yield Statement(f"SELECT f FROM {EVERY} e, {name}({arguments}) AS f".encode())
        yield Statement(f"SELECT f.* FROM {EVERY} e, {name}({arguments}) WITH ORDINALITY AS f".encode())
        if len(columns) == 1:
            yield _select(f"({columns[0]}).{name}")


def _variadic(catalogue: Catalogue, function: Function) -> Iterator[Statement]:
    before = [_column(catalogue, oid) for oid in function.arguments[:-1] if oid in catalogue.types]
    element = _column(catalogue, function.variadic)
    for more in range(4):
        yield _select(f"{function.name}({', '.join(before + [element] * more)})")
        yield _select(f"{function.name}({', '.join([*before, *(['1', chr(39) + 'a' + chr(39), 'NULL'][:more])])})")
    for array in ("ARRAY[1, 2]", "e.c__int4", "e.c__text", "'{1}'", "NULL", "$1", "e.c_int4"):
        yield _select(f"{function.name}({', '.join([*before, 'VARIADIC ' + array])})")


def operators(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield uses of every operator with operands of its own types, each as column, NULL, literal and parameter."""
    for each in _shuffled(catalogue.operators, rng):
        wanted = [oid for oid in (each.left, each.right) if oid]
        for types in concrete(catalogue, wanted):
            forms = [(_column(catalogue, oid), _null(catalogue, oid), _literal(catalogue, oid), "$1") for oid in types]
            for operands in itertools.product(*forms):
                if operands == ("$1", "$1"):
                    operands = ("$1", "$2")
                yield _select(_operation(each.name, each.left, operands))
            left_and_right = [form[0] for form in forms]
            yield _select(_operation(f"OPERATOR({_quoted(each.schema)}.{each.name})", each.left, left_and_right))
            if len(types) == 2:
                left, right = left_and_right
                yield _select(f"{left} {each.name} ANY (ARRAY[{right}])")
                yield _select(f"{left} {each.name} ALL ('{{}}')")
                yield _select(f"{left} {each.name} ANY (SELECT {right})")
                yield _select(f"{left} {each.name} ANY ($1)")
                yield _select(f"ROW({left}, 1) {each.name} ROW({right}, 2)")


def mixed_operators(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield uses of every operator name with operands of any types."""
    names = {(each.name, bool(each.left)) for each in catalogue.operators}
    calls = [_mixed_operations(name, binary) for name, binary in _shuffled(sorted(names), rng)]
    yield from _in_turns(calls)


def _mixed_operations(name: str, binary: bool) -> Iterator[Statement]:
    pairs = list(itertools.product(_MIXED, repeat=2 if binary else 1))
    random.Random(name).shuffle(pairs)
    for operands in pairs:
        yield _select(_operation(name, int(binary), operands))


def casts(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield, for every two types, casts and all that looks for a common type."""
    named = set(catalogue.casts)
    every = list(catalogue.types)
    pairs = [(a, b) for a in every for b in every]
    rng.shuffle(pairs)
    pairs.sort(key=lambda pair: pair not in named)
    for source, target in pairs:
        a, b = _column(catalogue, source), _column(catalogue, target)
        yield _select(f"{a}::{catalogue.types[target].name}")
        for form in rng.sample(_TOGETHER, 2):
            yield _select(form.format(a=a, b=b, type=catalogue.types[target].name))
    for target in every:
        type_ = catalogue.types[target].name
        literal = _literal(catalogue, target)
        for form in (
            "{l}::{t}",
            "CAST({l} AS {t})",
            "$1::{t}",
            "NULL::{t}",
            "CAST(ARRAY[{l}] AS {t}[])",
            "ARRAY[$1]::{t}[]",
        ):
            yield _select(form.format(l=literal, t=type_))
        yield _select(f"{_column(catalogue, target)}::text", tail=" GROUP BY 1 ORDER BY 1")


_TOGETHER: Final = (
    "CASE WHEN e.c_bool THEN {a} ELSE {b} END",
    "COALESCE({a}, {b})",
    "GREATEST({a}, {b})",
    "ARRAY[{a}, {b}]",
    "{a} = {b}",
    "{a} IN ({b}, NULL)",
    "{a} IN ({b}, {a})",
    "NULLIF({a}, {b})",
    "{a} IS DISTINCT FROM {b}",
    "{a} BETWEEN {b} AND {b}",
    "CASE {a} WHEN {b} THEN 1 END",
    "({a}, 1) < ({b}, 2)",
    "({a}, 1) = ({b}, 2)",
    "{a} || {b}",
    "ARRAY[{a}]::{type}[]",
    "(SELECT {a} UNION SELECT {b})",
    "(SELECT x FROM (VALUES ({a}), ({b})) v(x) ORDER BY x LIMIT 1)",
    "{a} = ANY (ARRAY[{b}])",
    "{a} IN (SELECT {b})",
    "CAST(ROW({a}) AS {type})",
    "{a} LIKE {b}",
    "twice({a})",
    "same_pair({a}, {b})",
)


def corpus(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield the texts of the project's own data, among them psql's and the drivers' catalogue queries."""
    cases = [json.loads(line) for line in (_DATA / "corpus.jsonl").read_text("utf-8").splitlines()]
    texts = [case["sql"] for case in cases if "sql" in case]
    for name in ("harmless.sql", "reads.sql", "attacks.sql"):
        texts += (_DATA / name).read_text("utf-8").splitlines()
    for text in texts:
        if ("\0" not in text and text.isprintable()) or "\n" in text:
            yield Statement(text.encode("utf-8", "surrogateescape"))


def field(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield what the field's programs and people ask, as far as it is allowed: for a database of its own."""
    cases = [json.loads(line) for line in (_DATA / "corpus.jsonl").read_text("utf-8").splitlines()]
    texts = [case["sql"] for case in cases if "sql" in case and case["verdict"] == "allow"]
    for name in ("harmless.sql", "reads.sql"):
        texts += (_DATA / name).read_text("utf-8").splitlines()
    # Those of drivers have %s where they send $1.
    texts += [*ordinary.STATEMENTS, *(_numbered(text) for text, _ in ordinary.PREPARED)]
    for text in dict.fromkeys(texts):
        yield Statement(text.encode("utf-8", "surrogateescape"))


def _numbered(text: str) -> str:
    number = itertools.count(1)
    return re.sub("%s", lambda _: f"${next(number)}", text)


def given(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield the texts of the file that CORPUS names: a JSON object with `sql` on each line, or a statement."""
    path = os.environ.get("CORPUS", "")
    if not path:
        return
    data = Path(path).read_bytes()
    for line in (gzip.decompress(data) if path.endswith(".gz") else data).decode().splitlines():
        text = json.loads(line)["sql"] if line.startswith("{") else line
        if re.match(r"\s*(?:\(*\s*select|with|values|table)\b", text, re.IGNORECASE):
            yield Statement(text.encode())


def views(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield, for each view of the catalogue and the information schema, the columns as they are used in reports."""
    for name in (
        "pg_class",
        "pg_attribute",
        "pg_proc",
        "pg_stat_activity",
        "pg_settings",
        "information_schema.columns",
    ):
        yield Statement(f"SELECT * FROM {name}".encode())
        yield Statement(f"SELECT DISTINCT * FROM {name}".encode())
        yield Statement(f"SELECT x, x.*, to_json(x), count(*) FROM {name} x GROUP BY x".encode())


def of_branches(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield every form of the grammar that analysis treats by itself, with operands of many types."""
    for text in branches.statements(catalogue.version, rng):
        yield _declared(text, rng)


def at_random(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield statements without end, made by the grammar over the schema."""
    make = generator.Generator(catalogue, rng)
    seen: set[str] = set()
    while True:
        text = make.statement()
        if text not in seen:
            seen.add(text)
            yield _declared(text, rng)


def _declared(text: str, rng: random.Random) -> Statement:
    """Return a statement, a fifth of those with parameters with types declared for some: 0 and 705 are unknown."""
    count = max((int(number) for number in _PARAMETER.findall(text)), default=0)
    if not count or rng.random() < 0.8:
        return Statement(text.encode())
    return Statement(text.encode(), tuple(rng.choice(_DECLARED) for _ in range(rng.randint(1, count))))


def typed(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield statements without end that the server takes, most of them: each object and each form in turn."""
    for text, declared in Typed(catalogue, rng).statements():
        yield Statement(text.encode(), declared)


_PARAMETER: Final = re.compile(r"\$(\d+)")
_DECLARED: Final = (0, 705, 0, 705, 23, 20, 25, 1043, 1700, 16, 1082, 1184, 114, 1007, 1009, 701, 19, 1042, 2249, 2278)


def names(catalogue: Catalogue, rng: random.Random) -> Iterator[Statement]:
    """Yield names written in every way, where they can mean several things."""
    for text in naming.statements(rng):
        yield Statement(text.encode())


SOURCES: Final[Mapping[str, Source]] = {
    "corpus": corpus,
    "branches": of_branches,
    "names": names,
    "operators": operators,
    "functions": functions,
    "casts": casts,
    "mixed-operators": mixed_operators,
    "mixed-functions": mixed_functions,
    "views": views,
    "random": at_random,
    "typed": typed,
    "field": field,
    "given": given,
}


def sources(*, in_field: bool = False) -> list[str]:
    """Return the names of all sources for one of the databases."""
    return ["field"] if in_field else [name for name in SOURCES if name not in ("field", "given")]


def _select(expression: str, *, tail: str = "") -> Statement:
    return Statement(f"SELECT {expression} FROM {EVERY} e{tail}".encode())


def _operation(name: str, left: int, operands: Sequence[str]) -> str:
    return f"{operands[0]} {name} {operands[1]}" if left else f"{name} {operands[0]}"


def _column(catalogue: Catalogue, oid: int) -> str:
    if oid == 0:
        return "ROW(1, 2)"
    known = catalogue.types.get(oid)
    return f"e.{known.column}" if known else "NULL"


def _null(catalogue: Catalogue, oid: int) -> str:
    known = catalogue.types.get(oid)
    return f"NULL::{known.name}" if known else "NULL"


def _literal(catalogue: Catalogue, oid: int) -> str:
    known = catalogue.types.get(oid)
    return "'" + known.literal.replace("'", "''") + "'" if known else "'1'"


def _quoted(name: str) -> str:
    return '"' + name + '"'


def _shuffled(found: Sequence[object], rng: random.Random) -> list:  # type: ignore[type-arg]
    copy = list(found)
    rng.shuffle(copy)
    return copy


def _in_turns(sources: Sequence[Iterator[Statement]]) -> Iterator[Statement]:
    """Yield one of each, again and again, so that the first thousand already show all names."""
    left = list(sources)
    while left:
        going = []
        for source in left:
            found = next(source, None)
            if found is not None:
                yield found
                going.append(source)
        left = going

"""Read from a server what statements can be made of: types with a literal each, functions, operators, casts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.oracle.server import Analyst

EVERY: Final = "every_type"
"""The table with a column of every type."""


class Type(NamedTuple):
    """A type that a column can have."""

    oid: int
    name: str
    """As it is written where it may not be in the path."""
    column: str
    """The column of EVERY that has it."""
    literal: str
    """What its input function takes, without quotes."""
    kind: str
    """typtype"""
    array: int


class Function(NamedTuple):
    oid: int
    schema: str
    name: str
    """Quoted where it has to be."""
    kind: str
    """prokind"""
    arguments: tuple[int, ...]
    defaults: int
    variadic: int
    returns_set: bool
    result: int
    names: tuple[str, ...]
    """Of the input arguments; empty where not all have one."""
    aggregate: str
    """aggkind"""
    direct: int


class Operator(NamedTuple):
    oid: int
    schema: str
    name: str
    left: int
    """0 for a prefix operator; the grammar of today has no postfix ones."""
    right: int
    result: int


_LITERALS: Final[Mapping[str, str]] = {
    "B": "t",
    "D": "2024-02-29 12:30:00+00",
    "G": "((1,2),(3,4))",
    "I": "10.0.0.1",
    "N": "1",
    "S": "1",
    "T": "1 day",
    "V": "101",
    "A": "{}",
    "R": "empty",
    "Z": "1",
}
"""A text for each category of types."""
_LITERALS_BY_NAME: Final[Mapping[str, str]] = {
    "point": "(1,2)",
    "line": "{1,2,3}",
    "circle": "<(1,2),3>",
    "polygon": "((1,2),(3,4))",
    "path": "((1,2),(3,4))",
    "json": "[1]",
    "jsonb": "[1]",
    "jsonpath": "$.a",
    "xml": "<a/>",
    "uuid": "00000000-0000-0000-0000-000000000001",
    "macaddr": "08:00:2b:01:02:03",
    "macaddr8": "08:00:2b:01:02:03:04:05",
    "bytea": "\\x00",
    "tsvector": "a b",
    "tsquery": "a & b",
    "tid": "(0,1)",
    "pg_lsn": "0/0",
    "txid_snapshot": "1:1:",
    "pg_snapshot": "1:1:",
    "int2vector": "1",
    "oidvector": "1",
    "time": "12:30",
    "timetz": "12:30+00",
    "regclass": "pg_class",
    "regtype": "int4",
    "regproc": "now",
    "regprocedure": "now()",
    "regoper": "pg_catalog.||/",
    "regoperator": "pg_catalog.=(int4,int4)",
    "regnamespace": "pg_catalog",
    "regrole": "postgres",
    "regconfig": "english",
    "regdictionary": "simple",
    "regcollation": '"C"',
    "mood": "ok",
    "pair": "(1,x)",
    "nested": '("(1,x)",ok,1)',
    "numbers": "{1}",
    "pairs": "(1,x)",
    "refcursor": "c",
    "aclitem": "postgres=r/postgres",
    "bit": "1",
    "varbit": "101",
}


@dataclass
class Catalogue:
    """Everything of one database that statements are made of."""

    version: int
    types: dict[int, Type]
    functions: list[Function]
    operators: list[Operator]
    casts: list[tuple[int, int]]
    implicit: Sequence[tuple[int, int]] = ()
    """Types that become others by themselves: by a cast, or as the type that a domain is over."""


_TYPES: Final = """
SELECT t.oid, typname, typcategory, typtype, typarray, n.nspname, quote_ident(n.nspname) || '.' || quote_ident(typname)
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = typnamespace
WHERE typisdefined AND typtype IN ('b', 'd', 'e', 'r', 'm', 'c') AND nspname IN ('pg_catalog', 'public', 'rival')
  AND NOT (typtype = 'c' AND nspname = 'pg_catalog') AND typname NOT IN ('{every}', '_{every}')
  AND NOT (typname LIKE E'\\\\_pg\\\\_%' OR (typcategory = 'A' AND EXISTS (SELECT FROM pg_catalog.pg_type e
    WHERE e.oid = t.typelem AND (e.typtype = 'p' OR e.typtype = 'c' AND e.typnamespace = 11))))
ORDER BY t.oid
"""
_FUNCTIONS: Final = """
SELECT p.oid, quote_ident(nspname), quote_ident(proname), prokind, proargtypes, pronargdefaults, provariadic,
  proretset, prorettype, CASE WHEN proargmodes IS NULL THEN array_to_string(proargnames, E'\\x01') END,
  aggkind, aggnumdirectargs
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = pronamespace
  LEFT JOIN pg_catalog.pg_aggregate a ON aggfnoid = p.oid
WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg_temp%' ORDER BY p.oid
"""


def prepare(analyst: Analyst) -> Catalogue:
    """Make the table EVERY, with a column of every type that one can have, and read the catalogue."""
    types = {}
    rows = analyst.run(_TYPES.format(every=EVERY))
    for oid, name, category, kind, array, schema, qualified in rows:
        assert oid and name and category and kind and qualified
        column = ("c_" if schema == "pg_catalog" else f"{str(schema)[0]}_") + name.strip('"')
        literal = _LITERALS_BY_NAME.get(name, _LITERALS.get(category, "1"))
        types[int(oid)] = Type(int(oid), qualified, f'"{column}"', literal, kind, int(array or 0))
    columns = ", ".join(f"{each.column} {each.name}" for each in types.values())
    analyst.run(f"CREATE TABLE IF NOT EXISTS public.{EVERY} ({columns})")
    functions = [
        Function(
            int(oid or 0),
            schema or "",
            name or "",
            kind or "",
            _oids(arguments),
            int(defaults or 0),
            int(variadic or 0),
            returns_set == "t",
            int(result or 0),
            tuple(filter(None, (names or "").split("\x01"))),
            aggregate or "",
            int(direct or 0),
        )
        for oid, schema, name, kind, arguments, defaults, variadic, returns_set, result, names, aggregate, direct in (
            analyst.run(_FUNCTIONS)
        )
    ]
    operators = [
        Operator(int(oid or 0), schema or "", name or "", int(left or 0), int(right or 0), int(result or 0))
        for oid, schema, name, left, right, result in analyst.run(
            "SELECT o.oid, nspname, oprname, oprleft, oprright, oprresult FROM pg_catalog.pg_operator o"
            " JOIN pg_catalog.pg_namespace n ON n.oid = oprnamespace"
            " WHERE oprcode <> 0 AND oprright <> 0 ORDER BY o.oid"
        )
    ]
    casts = [
        (int(source or 0), int(target or 0))
        for source, target in analyst.run("SELECT castsource, casttarget FROM pg_catalog.pg_cast ORDER BY oid")
    ]
    implicit = [
        (int(source or 0), int(target or 0))
        for source, target in analyst.run(
            "SELECT castsource, casttarget FROM pg_catalog.pg_cast WHERE castcontext = 'i' AND castsource <> casttarget"
            " UNION SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE typtype = 'd' ORDER BY 1, 2"
        )
    ]
    return Catalogue(analyst.version, types, functions, operators, casts, implicit)


def _oids(text: str | None) -> tuple[int, ...]:
    return tuple(map(int, (text or "").split()))


def concrete(catalogue: Catalogue, arguments: Sequence[int]) -> Sequence[Sequence[int]]:
    """Return arguments of real types for declared ones: each polymorphic family as a few types, nothing for `internal`.

    The families go together, so that anyelement and anyarray fit each other, and there is one that does not.
    """
    if all(each in catalogue.types or each in _PLAIN for each in arguments):
        return [[_PLAIN.get(each, each) for each in arguments]]
    an_enum = next((oid for oid, each in catalogue.types.items() if each.kind == "e"), 0)
    found = []
    for element, array, of_range, multirange in _FAMILIES:
        stands_for = {
            **dict.fromkeys((2283, 2776, 5077, 5079, 2276), element),
            **dict.fromkeys((2277, 5078), array),
            **dict.fromkeys((3831, 5080), of_range),
            **dict.fromkeys((4537, 4538), multirange),
            3500: an_enum,
            **_PLAIN,
        }
        if all(stands_for[each] in (0, *catalogue.types) for each in arguments if each in stands_for):
            found.append([stands_for.get(each, each) for each in arguments])
    return found


_PLAIN: Final[Mapping[int, int]] = {2275: 25, 2249: 0}
"""cstring, for which an untyped literal stands; a record."""
_FAMILIES: Final = (
    (23, 1007, 3904, 4451),
    (25, 1009, 3904, 4451),
    (1700, 1231, 3906, 4532),
    (1082, 1182, 3912, 4535),
    (23, 1016, 3926, 4536),
)
"""An element, an array, a range and a multirange; the last of each does not fit int4."""

"""Write names in every way, and let them mean several things at once: columns, tables, aliases, functions, types."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Final

_LONG: Final = "e" * 63
_TABLES: Final = (
    *(
        "tab",
        "TAB",
        '"tab"',
        "public.tab",
        '"Mixed"',
        'public."Mixed"',
        "mixed",
        "lower",
        "t1",
        "t2",
        "parent",
        "child",
    ),
    *(
        _LONG,
        _LONG + "x",
        "pg_class",
        "pg_catalog.pg_class",
        "information_schema.tables",
        "v1",
        "w",
        "only parent",
        "parted",
    ),
    *(
        "rival.t1",
        "second.t2",
        "pg_temp.t3",
        "t3",
        "no_such",
        "oracle_honest.public.tab",
        "other.public.tab",
        "pg_type",
    ),
)
_ALIASES: Final = (
    "",
    "",
    "",
    "tab",
    "t1",
    "a",
    "b",
    '"A"',
    "lower",
    "id",
    "w",
    "AS t2",
    "a (id, tab)",
    "a (lower)",
    "public",
)
_COLUMNS: Final = (
    *(
        "tab",
        "Tab",
        '"Tab"',
        "TAB",
        "id",
        '"Id"',
        "ID",
        "lower",
        '"Lower"',
        '"select"',
        '"a.b"',
        "t",
        "n",
        "upper",
        "oid",
    ),
    *(
        "ünïcode",
        '"ünïcode"',
        'U&"\\00fcn\\00efcode"',
        "c" * 63,
        "c" * 70,
        "ctid",
        "tableoid",
        "xmin",
        "name",
        "computed",
    ),
    *("of_tab", "full_name", "extra", "x", "y", "no_such", "relname", "table_name", "column1"),
)
_FUNCTIONS: Final = (
    *(
        "lower",
        "LOWER",
        '"lower"',
        '"Lower"',
        '"lower "',
        "pg_catalog.lower",
        "public.lower",
        "rival.lower",
        "second.lower",
    ),
    *(
        "tab",
        "of_tab",
        "f" * 62 + "g",
        "f" * 62 + "gx",
        "text",
        '"text"',
        "int4",
        "date",
        "pg_catalog.date",
        "no_such.lower",
    ),
    *(
        "upper",
        "public.upper",
        "takes",
        "rival.takes",
        "pg_temp.lower",
        "oracle_honest.pg_catalog.lower",
        "many",
        "second.many",
    ),
)
_TYPES: Final = (
    *(
        "tab",
        "public.tab",
        '"Mixed"',
        "lower",
        "text",
        "pg_catalog.text",
        '"text"',
        "rival.text",
        "date",
        "rival.date",
        "int8",
    ),
    *(
        "public.int8",
        "pg_catalog.int8",
        '"int8"',
        "label",
        "rival.label",
        "_int4",
        "pg_catalog._text",
        "t1",
        "t1[]",
        "t3",
        "pg_temp.temporary",
    ),
    *(
        "temporary",
        "Temporary",
        "bigint",
        "varchar",
        '"varchar"',
        "pg_catalog.varchar(3)",
        "public.mood",
        "mood",
        "no_such",
        "public.text",
    ),
)

_FORMS: Final = (
    "SELECT {c} FROM {t} {a}",
    "SELECT {q}.{c} FROM {t} {a}",
    "SELECT {t}.{c} FROM {t}",
    "SELECT {t}.* FROM {t}",
    "SELECT {q} FROM {t} {a}",
    "SELECT {q}.* FROM {t} {a}",
    "SELECT ({q}).{c} FROM {t} {a}",
    "SELECT ({q}.{c}).{c} FROM {t} {a}",
    "SELECT {f}({c}) FROM {t} {a}",
    "SELECT {f}({q}) FROM {t} {a}",
    "SELECT {f}({q}.{c}) FROM {t} {a}",
    "SELECT {f}({q}.*) FROM {t} {a}",
    "SELECT ({c}).{f} FROM {t} {a}",
    "SELECT {f}('x')",
    "SELECT {f}(1), {f}(1, 2)",
    "SELECT {c}::{y} FROM {t} {a}",
    "SELECT '1'::{y}",
    "SELECT {y} '1'",
    "SELECT CAST({q} AS {y}) FROM {t} {a}",
    "SELECT NULL::{y}",
    "SELECT (NULL::{y}).{c}",
    "SELECT $1::{y}, $1",
    "SELECT ARRAY[NULL]::{y}[]",
    "SELECT {c} FROM {t} {a}, {t} {a}",
    "SELECT {q}.{c}, {q}.{c} FROM {t} {a}, {t} {a}",
    "SELECT {c} FROM {t} {a} JOIN {t} {a} USING ({c})",
    "SELECT {q}.{c} FROM {t} {a} FULL JOIN {t} {a} USING ({c})",
    "SELECT {q}, {q}.{c} FROM ({t} {a} JOIN {t} {a} USING ({c})) AS {n}",
    "SELECT {q}.{c} FROM ({t} CROSS JOIN {t} {a}) AS {n}",
    "SELECT {c} FROM {t} {a} NATURAL JOIN {t} {a}",
    "SELECT (SELECT {c} FROM {t} {a}) FROM {t} {a}",
    "SELECT (SELECT {q}.{c}) FROM {t} {a}",
    "SELECT (SELECT {f}({q}.{c}) FROM {t} {a} WHERE {c} = {q}.{c}) FROM {t} {a}",
    "SELECT EXISTS (SELECT {c} FROM {t} {a} WHERE {q}.{c} = {c}) FROM {t} {a}",
    "SELECT s.{c} FROM {t} {a}, LATERAL (SELECT {q}.{c}, {c} AS x) s",
    "SELECT s.{c} FROM {t} {a}, (SELECT {q}.{c} AS x) s",
    "SELECT {c} AS {n} FROM {t} {a} ORDER BY {n}",
    "SELECT {c} AS {n} FROM {t} {a} ORDER BY {n} + 1, {c}",
    "SELECT {c} AS {n}, count(*) FROM {t} {a} GROUP BY {n}",
    "SELECT DISTINCT ON ({c}) {c} AS {n} FROM {t} {a} ORDER BY {c}",
    "SELECT {c} FROM {t} {a} WHERE {q} = {q}",
    "SELECT {c} FROM {t} {a} WHERE {c} IN (SELECT {c} FROM {t})",
    "WITH {n} AS (SELECT {c} FROM {t} {a}) SELECT {c} FROM {n}",
    "WITH {n} AS (SELECT {c} FROM {t} {a}) SELECT {q}.{c} FROM {t} {a}, {n}",
    "WITH tab AS (SELECT 1 AS x), w AS (SELECT * FROM tab) SELECT {c}, {q} FROM {t} {a}",
    "WITH tab(x) AS (WITH tab AS (SELECT 'a' AS y) SELECT y FROM tab) SELECT lower(x) FROM tab, public.tab q",
    "WITH RECURSIVE tab(tab) AS (SELECT 1 UNION ALL SELECT tab + 1 FROM tab) SELECT tab, {c} FROM {t} {a}",
    "SELECT x, {q} FROM {f}(1) AS x, {t} {a}",
    "SELECT {n}.{n}, {n} FROM {f}('x') AS {n}",
    "SELECT {n}.x FROM {f}('x') AS {n}(x)",
    "SELECT {c} FROM generate_series(1, 2) AS {n}, {t} {a}",
    "SELECT {n} FROM (SELECT {c} FROM {t} {a}) AS {n}",
    "SELECT {n}.{c} FROM (SELECT {c} FROM {t} {a}) AS {n} WHERE {n}.{c} = {n}.{c}",
    "SELECT {n} FROM (VALUES (1, 'a')) AS {n}({n}, y)",
    "SELECT column1, {q} FROM (VALUES (1)) tab",
    "SELECT {f}(VARIADIC ARRAY[1]), {f}(a => 1)",
    "SELECT {c} OPERATOR(public.=) {c}, {c} OPERATOR(rival.+) 1 FROM {t} {a}",
    'SELECT {c} COLLATE "C" FROM {t} {a}',
    "TABLE {t}",
    "SELECT FROM {t} {a} WHERE {q} IS NULL",
    "SELECT {c}, {c} FROM {t} {a} UNION SELECT {c}, {c} FROM {t} {a} ORDER BY {c}",
    "SELECT row_to_json({q}), to_json({q}.{c}), {q}::text FROM {t} {a}",
    "SELECT {c} FROM {t} {a} FOR SHARE OF {n}",
)
_SLOT: Final = re.compile(r"\{(\w)\}")


def statements(rng: random.Random) -> Iterator[str]:
    """Yield statements without end, each form in turn; most of the names of one are of the same table."""
    while True:
        for form in _FORMS:
            yield _filled(form, rng)


def _filled(form: str, rng: random.Random) -> str:
    tables = rng.sample(_TABLES, 2)
    aliases = [rng.choice(_ALIASES), rng.choice(_ALIASES)]
    columns = [_FAMILIAR.get(table.split(".")[-1].strip('"').lower(), _COLUMNS) for table in tables]
    qualifiers = [*tables, *(alias.removeprefix("AS ").split(" (")[0] for alias in aliases if alias)]

    def slot(match: re.Match[str]) -> str:
        match match[1]:
            case "t":
                return rng.choice(tables)
            case "a":
                return rng.choice(aliases)
            case "c":
                return rng.choice(rng.choice(columns) if rng.random() < 0.9 else _COLUMNS)
            case "f":
                return rng.choice(_FUNCTIONS)
            case "y":
                return rng.choice(_TYPES)
            case "n":
                return rng.choice(("tab", "x", "id", "lower", '"Tab"', "t1", "n"))
        return rng.choice(_QUALIFIERS if rng.random() < 0.1 else qualifiers)

    return _SLOT.sub(slot, form)


_QUALIFIERS: Final = ("tab", "TAB", "public.tab", "lower", "t1", "t2", "a", '"A"', "w", "x", '"Mixed"', "parent", "id")
_FAMILIAR: Final = {
    "tab": ("tab", '"Tab"', "lower", "of_tab", "ctid"),
    "mixed": ('"Id"', "id", '"select"', '"a.b"', "lower", '"Lower"', '"ünïcode"', "ünïcode"),
    "lower": ("lower", "t", "upper", "tableoid"),
    "t1": ("id", "n", "t", "v", "full_name", "g", "name", "computed"),
    "t2": ("id", "n", "t", "v", "w"),
    "t3": ("id", "t1", "n", "a"),
    "parent": ("id", "name", "computed"),
    "child": ("id", "name", "extra", "computed"),
    "pg_class": ("oid", "relname", "ctid", "relkind"),
    "v1": ("id", "n", "t"),
    "pg_type": ("oid", "typname"),
    "tables": ("table_name", "table_schema"),
    _LONG: ("c" * 63, "c" * 70, "tab"),
}
"""The columns of tables, and functions that can be written as if they were columns."""

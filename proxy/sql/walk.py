"""Walk a parse tree, every field of every node, against the table of (node, field) pairs in `rules.py`.

The tree is what `pglast.parser.parse_sql_json` gives, decoded from JSON. Two properties of it shape this module
(libpg_query, src/pg_query_outfuncs_json.c):

- A field whose C type is `Node *` holds `{"FuncCall": {...}}`, but a field of a definite type (`IntoClause *`,
  `SelectStmt *` under a UNION) holds the bare body. A walker that looks for capitalised keys never sees those, so the
  table says for each field what stands in it.
- Zero values are left out: an absent field is zero, never unknown.

The walk is a loop over a list that grows while it is read: no recursion, so nothing a client sends can exhaust the
stack here, and the list is at the same time the record of what was visited.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from proxy.sql.tables import LIST, NAMES, NODE, NODES, PATH, QUERY, SCALAR, STATEMENT_NODES, Field

Body = dict[str, Any]
Entry = tuple[str, Body]

INTERESTING = frozenset(
    {"FuncCall", "A_Indirection", "RangeVar", "RangeTableSample", "CommonTableExpr"}
    | {"JsonObjectConstructor", "JsonArrayConstructor", "JsonArrayQueryConstructor", "JsonObjectAgg", "JsonArrayAgg"}
    | {"JsonParseExpr", "JsonScalarExpr", "JsonSerializeExpr", "JsonTable", "JsonFuncExpr"}
)
"""Nodes that the filter looks into in any case. Those with a PATH field join them when that has more than one part."""


class Unknown(NamedTuple):
    """Report what the table does not allow: `kind` and, for a field, its name, `rule` when the table names one."""

    kind: str
    field: str
    rule: str
    body: Any


class Walked(NamedTuple):
    """Hold the nodes visited, those that the filter looks into, and what the table does not allow, in tree order."""

    visited: list[Entry]
    found: list[Entry]
    unknown: list[Unknown]


_ROOTS: Mapping[str, dict[str, Field]] = {**NODES, **STATEMENT_NODES}


def walk(kind: str, body: Body, interesting: frozenset[str] = INTERESTING) -> Walked:
    """Visit `body`, a node of the given kind, and all that it contains; report the nodes of the `interesting` kinds.

    A statement's own node may be the root and nothing else. The statements inside EXPLAIN, PREPARE, DECLARE and COPY
    are not followed: the caller judges them. Nothing below an unknown node or field is visited: one is enough to
    refuse.
    """
    visited: list[Entry] = [(kind, body)]
    found: list[Entry] = []
    unknown: list[Unknown] = []
    push = visited.append
    tables: Mapping[str, dict[str, Field]] = _ROOTS
    for entry in visited:
        kind, body = entry
        fields = tables.get(kind)
        tables = NODES
        if fields is None:
            unknown.append(Unknown(kind, "", "", body))
            continue
        if kind in interesting:
            found.append(entry)
        for name, value in body.items():
            what = fields.get(name)
            if what == SCALAR:
                continue
            if what == LIST:
                for item in value:
                    for child in item.items():
                        push(child)
            elif what == NODE:
                for child in value.items():
                    push(child)
            elif what in (PATH, NAMES):
                for item in value:
                    if "String" not in item and "A_Star" not in item:
                        unknown.append(Unknown(kind, name, "", body))
                        break
                if what == PATH and len(value) > 1 and kind not in interesting:
                    found.append(entry)
            elif what is None:
                unknown.append(Unknown(kind, name, "", body))
            elif what == QUERY:
                continue
            elif what[0] == "!":  # type: ignore[index]
                unknown.append(Unknown(kind, name, what[1:], value))  # type: ignore[index]
            else:
                push((what, value))  # type: ignore[arg-type]
    return Walked(visited, found, unknown)

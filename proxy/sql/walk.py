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

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from proxy.sql.tables import LIST, NAMES, NODE, NODES, PATH, QUERY, STATEMENT_NODES, Field

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
    extend = visited.extend
    plain = _plain(interesting)
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
        for name in body:
            what = fields.get(name, _UNKNOWN)
            if not what:  # SCALAR, as most
                continue
            value = body[name]
            if what == LIST:
                for item in value:
                    extend(item.items())
            elif what == NODE:
                extend(value.items())
            elif what in _OF_NAMES and _are_names(value):
                if len(value) > plain.get(kind, _ANY):
                    found.append(entry)
            elif not _follow(visited, what, value):
                unknown.append(_not_allowed(entry, name, what))
    return Walked(visited, found, unknown)


_UNKNOWN = "?"
_OF_NAMES = frozenset({NAMES, PATH})
_WITH_PATHS = frozenset(kind for kind, fields in _ROOTS.items() if PATH in fields.values())
_ANY = 1 << 20


@cache
def _plain(interesting: frozenset[str]) -> Mapping[str, int]:
    """Return how many parts a name in a node may have for the filter not to look into it; absent: any number."""
    return dict.fromkeys(_WITH_PATHS - interesting, 1)


def _are_names(parts: Sequence[Body]) -> bool:
    for part in parts:  # noqa: SIM110  # a generator takes three times as long for one name, as nearly all are
        if "String" not in part and "A_Star" not in part:
            return False
    return True


def _follow(visited: list[Entry], what: Field, value: Body) -> bool:
    """Visit a node whose field says of what kind it is; return whether it does, or the caller judges what is in it."""
    if what not in NODES:
        return what == QUERY
    visited.append((str(what), value))
    return True


def _not_allowed(entry: Entry, name: str, what: Field) -> Unknown:
    """Report a field that the table does not hold, or has a rule for, or that has no names in it but should."""
    kind, body = entry
    if isinstance(what, str) and what != _UNKNOWN:
        return Unknown(kind, name, what[1:], body[name])
    return Unknown(kind, name, "", body)

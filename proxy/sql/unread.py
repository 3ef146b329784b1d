"""Judge while the catalogue of the database has not been read: what means the same in every database, and nothing else.

Any operator, cast or function can be a user's, and any view, policy or domain can run one: two types that meet are
enough. What is left is a short list of nodes, with built-in functions and types where nothing else can be meant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxy import errors
from proxy.sql import literals, operators
from proxy.sql.functions import Functions
from proxy.sql.tables import Refusal, Refused
from proxy.sql.walk import Body, Walked

_PLAIN: Final = frozenset(
    {"A_Const", "A_Star", "Alias", "DefElem", "Integer", "NullTest", "ParamRef", "RangeFunction", "RangeSubselect"}
    | {"ResTarget", "SQLValueFunction", "String"}
)
"""Nodes inside a statement that look nothing up, and bring no two types together."""
_FIELDS: Final = {
    "SelectStmt": {"targetList", "fromClause", "limitCount", "limitOption", "op"},
    "FuncCall": {"funcname", "args", "agg_star", "funcformat", "location"},
    "SubLink": {"subLinkType", "subselect", "location"},
    "TypeName": {"names", "typmods", "typemod", "arrayBounds", "location"},
}
"""Those of the fields that do no more: ORDER BY, DISTINCT, UNION and IN look for operators, WHERE for casts."""
_LITERALS: Final = frozenset({"sval", "isnull"})
_RUN_NOTHING: Final = frozenset({"ConstraintsSetStmt", "LockStmt", "VariableSetStmt"})
"""Statements with names of relations and types in them that are only looked up."""
_BARE: Final = frozenset(
    {"now", "clock_timestamp", "statement_timestamp", "transaction_timestamp", "version", "current_database"}
    | {"current_schema", "pg_backend_pid", "pg_is_in_recovery", "pg_postmaster_start_time", "inet_client_addr"}
    | {"inet_client_port", "inet_server_addr", "inet_server_port", "pg_last_xact_replay_timestamp"}
    | {"pg_last_wal_receive_lsn", "pg_last_wal_replay_lsn", "pg_current_wal_lsn"}
)
"""Functions without arguments that health checks call; pg_catalog has them on PostgreSQL 13 to 18."""


def check(walked: Walked, functions: Functions, trouble: str) -> None:
    """Refuse a statement that has to be judged by the catalogue. `trouble` is why there is none. Raises Refused."""
    root, body = walked.visited[0]
    if root in _RUN_NOTHING:
        return
    casts: set[int] = set()
    if root in ("SelectStmt", "ExecuteStmt") and not _is_plain(root, body, functions, casts):
        raise Refused(needed(trouble))
    for kind, node in walked.visited[1:]:
        if kind not in _PLAIN and not _is_plain(kind, node, functions, casts):
            raise Refused(needed(trouble), node.get("location", -1))


def _is_plain(kind: str, node: Body, functions: Functions, casts: set[int]) -> bool:
    """Tell whether a node means the same in every database. `casts` takes the types that constants are written with."""
    if kind in _FIELDS and not node.keys() <= _FIELDS[kind]:
        return False
    check = _CHECKS.get(kind)
    return kind == "SubLink" if check is None else check(node, functions, casts)


def _plain_call(node: Body, functions: Functions, _: set[int]) -> bool:
    schema, name = literals.qualified(node["funcname"])
    if not functions.comes_first(schema) or name not in functions.plain:
        return False
    bare = name in _BARE or (name == "count" and "agg_star" in node)
    return operators.means_built_in(name, node, operators.UNREAD) if node.get("args") else bare


def _plain_column(node: Body, _: Functions, __: set[int]) -> bool:
    return len(node["fields"]) == 1 or "A_Star" in node["fields"][-1]  # x.f can be f(x)


def _plain_relation(node: Body, _: Functions, __: set[int]) -> bool:
    return bool(node.get("schemaname") == "pg_catalog")  # nobody makes relations there (heap_create(), catalog/heap.c)


def _plain_cast(node: Body, _: Functions, casts: set[int]) -> bool:
    casts.add(id(node["typeName"]))
    return _is_literal(node["arg"])


def _plain_type(node: Body, functions: Functions, casts: set[int]) -> bool:
    schema, name = functions.meant_type(node["names"])
    return id(node) in casts and functions.comes_first(schema) and functions.is_built_in_type(name)


def _plain_execute(node: Body, _: Functions, __: set[int]) -> bool:
    return all(map(_is_literal, node.get("params", ())))  # what is no literal is cast to the parameter's type


def _plain_select(node: Body, _: Functions, __: set[int]) -> bool:
    return "limitCount" not in node or "ival" in node["limitCount"].get("A_Const", {})


def _is_literal(node: Body) -> bool:
    return bool(node.get("A_Const", {}).keys() & _LITERALS)


_CHECKS: dict[str, Callable[[Body, Functions, set[int]], bool]] = {
    "FuncCall": _plain_call,
    "ColumnRef": _plain_column,
    "RangeVar": _plain_relation,
    "TypeCast": _plain_cast,
    "TypeName": _plain_type,
    "ExecuteStmt": _plain_execute,
    "SelectStmt": _plain_select,
}


def needed(trouble: str) -> Refusal:
    """Refuse what cannot be judged without a catalogue, in words that say why there is none."""
    why = f"it could not be read: {trouble}" if trouble else "it has not been read yet"
    return Refusal(
        "no-catalogue",
        "the statement cannot be judged without the database's catalogue",
        f"Views, operators, casts and functions are judged by the catalogue of the database, and {why}"
        " (rule: no-catalogue).",
        "Try again in a moment. If it stays so, /readyz and the log tell the operator why.",
        errors.CANNOT_CONNECT_NOW,
    )

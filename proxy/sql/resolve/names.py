"""Read names in a parse tree: qualified ones, types, and the columns that a query gives (FigureColname())."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from proxy.sql import versions
from proxy.sql.resolve import oids
from proxy.sql.resolve.analysis import UNDEFINED_OBJECT, Analysis
from proxy.sql.resolve.tree import Body, NotModelledError, RejectedError


def qualified(names: Sequence[Body]) -> tuple[str, str]:
    """Return schema and name of a list of String nodes; no schema is an empty text."""
    schema = names[-2]["String"].get("sval", "") if len(names) > 1 else ""
    return schema, names[-1]["String"].get("sval", "")


def kind_of(node: Body) -> tuple[str, Body]:
    """Return a node's kind and its body."""
    ((kind, body),) = node.items()
    return kind, body


def location(body: Body) -> int:
    """Return where a node stands: zero values are left out of the tree."""
    found: int = body.get("location", 0)
    return found


def type_named(analysis: Analysis, node: Body) -> tuple[int, int]:
    """Return the type that a TypeName means, and 0 or more where it has a modifier, else -1. Raises RejectedError."""
    if node.get("pct_type") or "names" not in node:
        raise NotModelledError("%TYPE")
    schema, name = qualified(node["names"])
    if schema == "pg_catalog" and analysis.world.major < versions.UNQUALIFIED_TYPES_BEFORE.get(name, 0):
        _check_only(name, (each.schema for each in analysis.world.types_named.get(name, ())))
    row = analysis.search.type(schema, name)
    if row is None:
        raise RejectedError(UNDEFINED_OBJECT, f'type "{name}" does not exist')
    found = row.oid
    if "arrayBounds" in node:
        found = row.array
        if not found:
            raise RejectedError(UNDEFINED_OBJECT, f'could not find array type for type "{name}"')
    analysis.use("type", location(node), found)
    modifier = node.get("typemod", 0)
    if "typmods" in node:
        if row.modifier_input:
            analysis.use("modifier", location(node), row.oid)
        return found, 0
    return found, modifier if modifier > 0 else -1


def meant(analysis: Analysis, call: Body, schema: str, name: str) -> tuple[str, str]:
    """Return a call's schema and name as this server reads them: the grammar is a newer one's."""
    major = analysis.world.major
    if schema == "pg_catalog":
        written = call.get("funcformat") == versions.SQL_SYNTAX
        if name == versions.EXTRACT and major < versions.EXTRACT_SINCE and written:
            return schema, versions.EXTRACT_BEFORE
        if major < versions.UNQUALIFIED_BEFORE.get(name, 0):
            _check_only(name, (each.schema for each in analysis.world.functions_named.get(name, ())))
    elif not schema and major < 14 and name == "substring":
        _check_only(name, (each.schema for each in analysis.world.functions_named.get(name, ())))
    return schema, name


def _check_only(name: str, schemas: Iterable[int]) -> None:
    """Raise NotModelledError where pg_catalog does not alone have a name: nothing tells whether the client wrote it."""
    if any(each != oids.PG_CATALOG for each in schemas):
        raise NotModelledError(name)


def is_system_user(analysis: Analysis, call: Body) -> bool:
    """Tell whether a call is SYSTEM_USER as this grammar reads it, and a column's name to this server."""
    if analysis.world.major >= versions.SYSTEM_USER_SINCE or call.get("funcformat") != versions.SQL_SYNTAX:
        return False
    return qualified(call["funcname"]) == ("pg_catalog", versions.SYSTEM_USER)


def output_name(analysis: Analysis, node: Body) -> str:
    """Return what the column of an expression is called: FigureColname() (parser/parse_target.c)."""
    return _figure(analysis, node)[0] or "?column?"


def _figure(analysis: Analysis, node: Body) -> tuple[str, int]:
    kind, body = kind_of(node)
    if kind in _NAMED:
        return _NAMED[kind]
    figure = _FIGURES.get(kind)
    return _NONE if figure is None else figure(analysis, body)


def _figure_column(_: Analysis, body: Body) -> tuple[str, int]:
    names = [each["String"]["sval"] for each in body["fields"] if "String" in each]
    return (names[-1], 2) if names else _NONE


def _figure_indirection(analysis: Analysis, body: Body) -> tuple[str, int]:
    names = [each["String"]["sval"] for each in body["indirection"] if "String" in each]
    return (names[-1], 2) if names else _figure(analysis, body["arg"])


def _figure_call(analysis: Analysis, body: Body) -> tuple[str, int]:
    return meant(analysis, body, *qualified(body["funcname"]))[1], 2


def _figure_expression(_: Analysis, body: Body) -> tuple[str, int]:
    return ("nullif", 2) if body.get("kind") == "AEXPR_NULLIF" else _NONE


def _figure_cast(analysis: Analysis, body: Body) -> tuple[str, int]:
    name, strength = _figure(analysis, body["arg"])
    return (name, strength) if strength > 1 else (body["typeName"]["names"][-1]["String"]["sval"], 1)


def _figure_collation(analysis: Analysis, body: Body) -> tuple[str, int]:
    return _figure(analysis, body["arg"])


def _figure_case(analysis: Analysis, body: Body) -> tuple[str, int]:
    name, strength = _figure(analysis, body["defresult"]) if "defresult" in body else _NONE
    return (name, strength) if strength > 1 else ("case", 1)


def _figure_xml(_: Analysis, body: Body) -> tuple[str, int]:
    return (_XML[body["op"]], 2) if body["op"] in _XML else _NONE


def _figure_least(_: Analysis, body: Body) -> tuple[str, int]:
    return ("least" if body["op"] == "IS_LEAST" else "greatest"), 2


def _figure_value(_: Analysis, body: Body) -> tuple[str, int]:
    return _VALUE_NAMES[body["op"]], 2


def _figure_json(_: Analysis, body: Body) -> tuple[str, int]:
    return versions.JSON_FUNCTIONS[body["op"]], 2


def _figure_constant(analysis: Analysis, body: Body) -> tuple[str, int]:
    return ("bool", 1) if "boolval" in body and analysis.world.major < 15 else _NONE  # it was a cast


def _figure_sublink(analysis: Analysis, body: Body) -> tuple[str, int]:
    form = body["subLinkType"]
    if form == "EXISTS_SUBLINK":
        return "exists", 2
    if form == "ARRAY_SUBLINK":
        return "array", 2
    if form != "EXPR_SUBLINK":
        return "", 0
    select = body["subselect"].get("SelectStmt", {})
    while "larg" in select:
        select = select["larg"]
    if "targetList" not in select:
        return ("column1", 2) if "valuesLists" in select else ("", 0)
    target = select["targetList"][0]["ResTarget"]
    return target.get("name") or output_name(analysis, target["val"]), 2


_NONE = ("", 0)
_FIGURES: dict[str, Callable[[Analysis, Body], tuple[str, int]]] = {
    "ColumnRef": _figure_column,
    "A_Indirection": _figure_indirection,
    "FuncCall": _figure_call,
    "A_Expr": _figure_expression,
    "TypeCast": _figure_cast,
    "CollateClause": _figure_collation,
    "CaseExpr": _figure_case,
    "SubLink": _figure_sublink,
    "XmlExpr": _figure_xml,
    "MinMaxExpr": _figure_least,
    "SQLValueFunction": _figure_value,
    "JsonFuncExpr": _figure_json,
    "A_Const": _figure_constant,
}
_NAMED = {
    "A_ArrayExpr": ("array", 2),
    "RowExpr": ("row", 2),
    "CoalesceExpr": ("coalesce", 2),
    "GroupingFunc": ("grouping", 2),
    "MergeSupportFunc": ("merge_action", 2),
    "XmlSerialize": ("xmlserialize", 2),
    "JsonParseExpr": ("json", 2),
    "JsonScalarExpr": ("json_scalar", 2),
    "JsonSerializeExpr": ("json_serialize", 2),
    "JsonObjectConstructor": ("json_object", 2),
    "JsonArrayConstructor": ("json_array", 2),
    "JsonArrayQueryConstructor": ("json_array", 2),
    "JsonObjectAgg": ("json_objectagg", 2),
    "JsonArrayAgg": ("json_arrayagg", 2),
}
_XML = {
    "IS_XMLCONCAT": "xmlconcat",
    "IS_XMLELEMENT": "xmlelement",
    "IS_XMLFOREST": "xmlforest",
    "IS_XMLPARSE": "xmlparse",
    "IS_XMLPI": "xmlpi",
    "IS_XMLROOT": "xmlroot",
    "IS_XMLSERIALIZE": "xmlserialize",
}
_VALUE_NAMES = {
    "SVFOP_CURRENT_DATE": "current_date",
    "SVFOP_CURRENT_TIME": "current_time",
    "SVFOP_CURRENT_TIME_N": "current_time",
    "SVFOP_CURRENT_TIMESTAMP": "current_timestamp",
    "SVFOP_CURRENT_TIMESTAMP_N": "current_timestamp",
    "SVFOP_LOCALTIME": "localtime",
    "SVFOP_LOCALTIME_N": "localtime",
    "SVFOP_LOCALTIMESTAMP": "localtimestamp",
    "SVFOP_LOCALTIMESTAMP_N": "localtimestamp",
    "SVFOP_CURRENT_ROLE": "current_role",
    "SVFOP_CURRENT_USER": "current_user",
    "SVFOP_USER": "user",
    "SVFOP_SESSION_USER": "session_user",
    "SVFOP_CURRENT_CATALOG": "current_catalog",
    "SVFOP_CURRENT_SCHEMA": "current_schema",
}
VALUE_TYPES = {
    name: oids.DATE
    if "DATE" in name
    else (oids.TIMESTAMP if "LOCAL" in name else oids.TIMESTAMPTZ)
    if "TIMESTAMP" in name
    else (oids.TIME if "LOCAL" in name else oids.TIMETZ)
    if "TIME" in name
    else oids.NAME
    for name in _VALUE_NAMES
}
"""The types of CURRENT_DATE and its like."""

"""Analyse what SQL has for XML and JSON: transformXmlExpr() and its like (parser/parse_expr.c), parse_jsontable.c.

What a JSON value is made by depends on casts to json that no tree shows; here nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from . import calls, names, oids, sorting
from .analysis import Analysis
from .calls import Call
from .coercion import Context
from .names import location
from .oids import UNKNOWN
from .tree import Body, Expr, Level, NotModelledError, RejectedError, levels_of
from .world import Column

_SYNTAX_ERROR = "42601"
_CONSTRUCTORS_SINCE = 16
_FUNCTIONS_SINCE = 17


def _xml(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformXmlExpr()."""
    at = location(node)
    operation = node.get("op", "IS_XMLCONCAT")
    named = [analysis.expression(analysis, level, each["ResTarget"]["val"]) for each in node.get("named_args", ())]
    found = [analysis.expression(analysis, level, each) for each in node.get("args", ())]
    for expr, type_ in zip(found, _XML_TAKES.get(operation, ()) or [oids.XML] * len(found), strict=False):
        if operation not in ("IS_XMLELEMENT", "IS_XMLFOREST"):
            analysis.to_specific(expr, type_)
    for expr in (*named, *(found if operation == "IS_XMLELEMENT" else ())):
        analysis.use("output", expr.location, expr.type)
    type_ = oids.BOOL if operation == "IS_DOCUMENT" else oids.XML
    return Expr(type_, at, levels=levels_of([*named, *found]))


_XML_TAKES = {
    "IS_XMLPARSE": (oids.TEXT, oids.BOOL),
    "IS_XMLPI": (oids.TEXT,),
    "IS_XMLROOT": (oids.XML, oids.TEXT, oids.INT4),
    "IS_DOCUMENT": (oids.XML,),
}


def _xml_serialize(analysis: Analysis, level: Level, node: Body) -> Expr:
    value = analysis.to_specific(analysis.expression(analysis, level, node["expr"]), oids.XML)
    type_, modifier = names.type_named(analysis, node["typeName"])
    text = Expr(oids.TEXT, location(node), levels=value.levels)
    return analysis.to_target(text, type_, modifier, Context.IMPLICIT)


def xml_table(analysis: Analysis, level: Level, node: Body) -> Sequence[Column]:
    """Return the columns of XMLTABLE: transformRangeTableFunc()."""

    def expression(each: Body) -> Expr:
        return analysis.expression(analysis, level, each)

    analysis.to_specific(expression(node["rowexpr"]), oids.TEXT)
    analysis.to_specific(expression(node["docexpr"]), oids.XML)
    found: list[Column] = []
    for each in node["columns"]:
        column = each["RangeTableFuncCol"]
        if column.get("for_ordinality"):
            found.append(Column(column["colname"], oids.INT4, -1))
            continue
        type_, modifier = names.type_named(analysis, column["typeName"])
        analysis.use("input", location(column), type_)
        found.append(Column(column["colname"], type_, modifier))
        if "colexpr" in column:
            analysis.to_specific(expression(column["colexpr"]), oids.TEXT)
        if "coldefexpr" in column:
            analysis.to_target(expression(column["coldefexpr"]), type_, modifier, Context.ASSIGNMENT)
    for each in node.get("namespaces", ()):
        analysis.to_specific(expression(each["ResTarget"]["val"]), oids.TEXT)
    return found


# -- JSON --------------------------------------------------------------------------------------------------------------


def _since(analysis: Analysis, major: int) -> None:
    if analysis.world.major < major:
        raise RejectedError(_SYNTAX_ERROR, "syntax error")


def _values(analysis: Analysis, level: Level, nodes: Sequence[Body]) -> list[Expr]:
    """Analyse JsonValueExprs; nobody knows what makes JSON of them."""
    found = [
        analysis.expression(analysis, level, each.get("JsonValueExpr", each).get("raw_expr", each)) for each in nodes
    ]
    analysis.open(found)
    for each in found:
        analysis.use("cast-to-json", each.location, each.type)
    return found


def _result(analysis: Analysis, node: Body, default: int) -> int:
    """Return the type that RETURNING names."""
    output = node.get("output")
    if output is None:
        return default
    type_, _ = names.type_named(analysis, output["typeName"])
    analysis.use("input", location(node), type_)
    return type_


def _made(analysis: Analysis, level: Level, node: Body, values: Sequence[Body]) -> Expr:
    found = _values(analysis, level, values)
    default = oids.JSONB if any(each.type == oids.JSONB for each in found) else oids.JSON
    return Expr(_result(analysis, node, default), location(node), levels=levels_of(found))


def _object(analysis: Analysis, level: Level, node: Body) -> Expr:
    pairs = [each["JsonKeyValue"] for each in node.get("exprs", ())]
    if not pairs and "output" not in node:
        return _before(analysis, level, node, "json_object", [], _CONSTRUCTORS_SINCE) or _made(
            analysis, level, node, []
        )
    _since(analysis, _CONSTRUCTORS_SINCE)
    return _made(analysis, level, node, [each[key] for each in pairs for key in ("key", "value")])


def _array(analysis: Analysis, level: Level, node: Body) -> Expr:
    values = node.get("exprs", ())
    plain = [each["JsonValueExpr"]["raw_expr"] for each in values]
    call = _before(analysis, level, node, "json_array", plain, _CONSTRUCTORS_SINCE)
    return call or _made(analysis, level, node, values)


def _array_of_query(analysis: Analysis, level: Level, node: Body) -> Expr:
    _since(analysis, _CONSTRUCTORS_SINCE)
    query = analysis.query(analysis, node["query"], level, True)
    analysis.unknown("function", location(node))
    default = oids.JSONB if any(each.type == oids.JSONB for each in query.columns) else oids.JSON
    return Expr(_result(analysis, node, default), location(node), levels=query.levels)


def _aggregate(analysis: Analysis, level: Level, node: Body) -> Expr:
    """A JsonObjectAgg or JsonArrayAgg."""
    _since(analysis, _CONSTRUCTORS_SINCE)
    constructor = node.get("constructor", {})
    argument = node["arg"]
    values = [argument[key] for key in ("key", "value")] if "key" in argument else [argument]
    found = _values(analysis, level, values)
    name = "_object_agg" if "key" in argument else "_agg"
    aggregates = [
        each.oid
        for kind in ("json", "jsonb")
        for suffix in ("", "_strict", "_unique", "_unique_strict")
        for _, each in analysis.search.functions("pg_catalog", f"{kind}{name}{suffix}")
    ]
    analysis.use("function", location(constructor), *aggregates)
    for each in constructor.get("agg_order", ()):
        sort = each["SortBy"]
        sorting.sort_by(analysis, analysis.expression(analysis, level, sort["node"]), sort)
    if "agg_filter" in constructor:
        analysis.to_bool(analysis.expression(analysis, level, constructor["agg_filter"]))
    default = oids.JSONB if any(each.type == oids.JSONB for each in found) else oids.JSON
    return Expr(_result(analysis, constructor, default), location(constructor), levels=levels_of(found))


def _is_json(analysis: Analysis, level: Level, node: Body) -> Expr:
    _since(analysis, _CONSTRUCTORS_SINCE)
    value = analysis.expression(analysis, level, node["expr"])
    if value.type == UNKNOWN:
        value = analysis.coerce(value, oids.TEXT)
    return Expr(oids.BOOL, location(node), levels=value.levels)


def _parse(analysis: Analysis, level: Level, node: Body) -> Expr:
    value = node["expr"]
    call = _before(analysis, level, node, "json", [value["raw_expr"]], _FUNCTIONS_SINCE)
    return call or Expr(oids.JSON, location(node), levels=_made(analysis, level, node, [value]).levels)


def _scalar(analysis: Analysis, level: Level, node: Body) -> Expr:
    call = _before(analysis, level, node, "json_scalar", [node["expr"]], _FUNCTIONS_SINCE)
    return call or _made(analysis, level, node, [node["expr"]])


def _serialize(analysis: Analysis, level: Level, node: Body) -> Expr:
    call = _before(analysis, level, node, "json_serialize", [node["expr"]["raw_expr"]], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    found = _values(analysis, level, [node["expr"]])
    return Expr(_result(analysis, node, oids.TEXT), location(node), levels=levels_of(found))


_QUERY_FUNCTIONS = {
    "JSON_EXISTS_OP": ("json_exists", oids.BOOL),
    "JSON_QUERY_OP": ("json_query", oids.JSONB),
    "JSON_VALUE_OP": ("json_value", oids.TEXT),
}


def _query(analysis: Analysis, level: Level, node: Body) -> Expr:
    """A JsonFuncExpr."""
    name, default = _QUERY_FUNCTIONS[node.get("op", "JSON_EXISTS_OP")]
    item, path = node["context_item"], node["pathspec"]
    call = _before(analysis, level, node, name, [item["raw_expr"], path], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    values = [item, path, *(each["JsonArgument"]["val"] for each in node.get("passing", ()))]
    values += [node[key]["expr"] for key in ("on_empty", "on_error") if "expr" in node.get(key, ())]
    found = _values(analysis, level, values)
    return Expr(_result(analysis, node, default), location(node), levels=levels_of(found))


def _before(
    analysis: Analysis, level: Level, node: Body, name: str, arguments: Sequence[Body], major: int
) -> Expr | None:
    """Return what is a call of a function of this name to an older server, the path's; None: this one knows more."""
    if analysis.world.major >= major:
        return None
    if "output" in node or "passing" in node:
        raise RejectedError(_SYNTAX_ERROR, "syntax error")
    given = [analysis.expression(analysis, level, each) for each in arguments]
    called = calls.resolve(analysis, Call("", name, given, location(node)))
    if called is None:
        raise NotModelledError(name)
    return called.expr


def json_table(analysis: Analysis, level: Level, node: Body) -> Sequence[Column]:
    """Return the columns of JSON_TABLE."""
    _since(analysis, _FUNCTIONS_SINCE)
    _values(analysis, level, [node["context_item"], *(each["JsonArgument"]["val"] for each in node.get("passing", ()))])
    found: list[Column] = []
    _json_columns(analysis, level, node["columns"], found)
    return found


def _json_columns(analysis: Analysis, level: Level, nodes: Sequence[Body], found: list[Column]) -> None:
    for each in nodes:
        column = each["JsonTableColumn"]
        kind = column.get("coltype", "JTC_FOR_ORDINALITY")
        if kind == "JTC_NESTED":
            _json_columns(analysis, level, column["columns"], found)
        elif kind == "JTC_FOR_ORDINALITY":
            found.append(Column(column["name"], oids.INT4, -1))
        else:
            type_, modifier = names.type_named(analysis, column["typeName"])
            analysis.use("input", location(column), type_)
            found.append(Column(column["name"], type_, modifier))
            defaults = [column[key]["expr"] for key in ("on_empty", "on_error") if "expr" in column.get(key, ())]
            _values(analysis, level, defaults)


KINDS: dict[str, Callable[[Analysis, Level, Body], Expr]] = {
    "XmlExpr": _xml,
    "XmlSerialize": _xml_serialize,
    "JsonObjectConstructor": _object,
    "JsonArrayConstructor": _array,
    "JsonArrayQueryConstructor": _array_of_query,
    "JsonObjectAgg": _aggregate,
    "JsonArrayAgg": _aggregate,
    "JsonIsPredicate": _is_json,
    "JsonParseExpr": _parse,
    "JsonScalarExpr": _scalar,
    "JsonSerializeExpr": _serialize,
    "JsonFuncExpr": _query,
}

"""Analyse what SQL has for XML and JSON: transformXmlExpr() and its like (parser/parse_expr.c), parse_jsontable.c.

What a JSON value is made by depends on casts to json that no tree shows; here nobody knows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import versions
from . import calls, names, oids, sorting
from .analysis import Analysis
from .calls import Call
from .coercion import Context
from .names import location
from .oids import ANY_TYPE, UNKNOWN
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
    """Analyse JsonValueExprs, or plain expressions: transformJsonValueExpr()."""
    return [_value(analysis, level, each.get("JsonValueExpr", each).get("raw_expr", each)) for each in nodes]


def _value(analysis: Analysis, level: Level, node: Body) -> Expr:
    """Analyse one, and record all that may make JSON of it, whatever its format."""
    found = analysis.expression(analysis, level, node)
    if found.type == UNKNOWN:
        found = analysis.coerce(found, oids.TEXT)
    if found.type == ANY_TYPE:
        analysis.open([found])
        return found
    _built_in(analysis, found.location, "to_json", "to_jsonb", "convert_from")
    for source in {found.type, oids.TEXT} if found.type == oids.BYTEA else {found.type}:
        for target in (oids.JSON, oids.JSONB):
            if analysis.coercion.can([source], [target], Context.EXPLICIT):
                analysis.coerce(Expr(source, found.location), target, Context.EXPLICIT, found.location)
    analysis.use("cast-to-json", found.location, found.type)
    return found


def _built_in(analysis: Analysis, at: int, *wanted: str) -> None:
    """Record functions of pg_catalog that the server may call by itself."""
    found = [each.oid for name in wanted for _, each in analysis.search.functions("pg_catalog", name)]
    analysis.use_one_of("function", at, found)


def _result(analysis: Analysis, node: Body, default: int) -> int:
    """Return the type that RETURNING names, and record all that may make it of JSON: coerceJsonFuncExpr()."""
    output = node.get("output")
    if output is None:
        return default
    type_, modifier = names.type_named(analysis, output["typeName"])
    _returned(analysis, location(node), type_, modifier)
    return type_


def _returned(analysis: Analysis, at: int, type_: int, modifier: int) -> None:
    analysis.use("input", at, type_)
    for place in (at, -1):
        _built_in(analysis, place, "convert_to")
        for source in (oids.JSON, oids.JSONB, oids.TEXT, oids.BYTEA, oids.BOOL):
            if analysis.coercion.can([source], [type_], Context.EXPLICIT):
                analysis.to_target(Expr(source, place), type_, modifier, Context.EXPLICIT, place)
            analysis.coerce(Expr(source, place), oids.TEXT, Context.EXPLICIT, place)


def _made(analysis: Analysis, level: Level, node: Body, values: Sequence[Body]) -> Expr:
    found = _values(analysis, level, values)
    default = oids.JSONB if any(each.type == oids.JSONB for each in found) else oids.JSON
    return Expr(_result(analysis, node, default), location(node), levels=levels_of(found))


def _object(analysis: Analysis, level: Level, node: Body) -> Expr:
    pairs = [each["JsonKeyValue"] for each in node.get("exprs", ())]
    if not pairs and "output" not in node:
        call = _before(analysis, level, node, "json_object", [], _CONSTRUCTORS_SINCE)
        return call or _made(analysis, level, node, [])
    _since(analysis, _CONSTRUCTORS_SINCE)
    return _made(analysis, level, node, [each[key] for each in pairs for key in ("key", "value")])


def _array(analysis: Analysis, level: Level, node: Body) -> Expr:
    values = node.get("exprs", ())
    plain = [each["JsonValueExpr"]["raw_expr"] for each in values]
    call = _before(analysis, level, node, "json_array", plain, _CONSTRUCTORS_SINCE)
    return call or _made(analysis, level, node, values)


def _array_of_query(analysis: Analysis, level: Level, node: Body) -> Expr:
    """JSON_ARRAY(SELECT …) is an aggregate over a query: transformJsonArrayQueryConstructor()."""
    _since(analysis, _CONSTRUCTORS_SINCE)
    query = analysis.query(analysis, node["query"], level, True)
    at = location(node)
    for each in query.columns:
        analysis.use("var", at, each.type)
        analysis.use("cast-to-json", at, each.type)
    _aggregates(analysis, at, "_agg")
    default = oids.JSONB if any(each.type == oids.JSONB for each in query.columns) else oids.JSON
    return Expr(_result(analysis, node, default), at, levels=query.levels)


def _aggregates(analysis: Analysis, at: int, name: str) -> None:
    suffixes = ("", "_strict", "_unique", "_unique_strict")
    _built_in(analysis, at, *(f"{kind}{name}{suffix}" for kind in ("json", "jsonb") for suffix in suffixes))


def _aggregate(analysis: Analysis, level: Level, node: Body) -> Expr:
    """A JsonObjectAgg or JsonArrayAgg."""
    _since(analysis, _CONSTRUCTORS_SINCE)
    constructor = node.get("constructor", {})
    argument = node["arg"]
    values = [argument[key] for key in ("key", "value")] if "key" in argument else [argument]
    found = _values(analysis, level, values)
    _aggregates(analysis, location(constructor), "_object_agg" if "key" in argument else "_agg")
    for each in constructor.get("agg_order", ()):
        sort = each["SortBy"]
        sorting.sort_by(analysis, analysis.expression(analysis, level, sort["node"]), sort)
    if "agg_filter" in constructor:
        analysis.to_bool(analysis.expression(analysis, level, constructor["agg_filter"]))
    if "over" in constructor and "name" not in constructor["over"]:
        sorting.window(analysis, level, constructor["over"])
    default = oids.JSONB if any(each.type == oids.JSONB for each in found) else oids.JSON
    return Expr(_result(analysis, constructor, default), location(constructor), levels=levels_of(found))


def _is_json(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformJsonParseArg()."""
    _since(analysis, _CONSTRUCTORS_SINCE)
    value = analysis.expression(analysis, level, node["expr"])
    if value.type == oids.BYTEA:
        _built_in(analysis, value.location, "convert_from")
    elif value.type == UNKNOWN or analysis.coercion.category(value.type) == "S":
        value = analysis.to_target(value, oids.TEXT, -1, Context.IMPLICIT)
    return Expr(oids.BOOL, location(node), levels=value.levels)


def _parse(analysis: Analysis, level: Level, node: Body) -> Expr:
    value = node["expr"]
    call = _before(analysis, level, node, "json", [value["raw_expr"]], _FUNCTIONS_SINCE)
    return call or Expr(oids.JSON, location(node), levels=_values(analysis, level, [value])[0].levels)


def _scalar(analysis: Analysis, level: Level, node: Body) -> Expr:
    call = _before(analysis, level, node, "json_scalar", [node["expr"]], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    found = _values(analysis, level, [node["expr"]])
    return Expr(_result(analysis, node, oids.JSON), location(node), levels=levels_of(found))


def _serialize(analysis: Analysis, level: Level, node: Body) -> Expr:
    call = _before(analysis, level, node, "json_serialize", [node["expr"]["raw_expr"]], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    found = _values(analysis, level, [node["expr"]])
    _returned(analysis, location(node), oids.TEXT, -1)
    return Expr(_result(analysis, node, oids.TEXT), location(node), levels=levels_of(found))


_QUERY_TYPES = {"JSON_EXISTS_OP": oids.BOOL, "JSON_QUERY_OP": oids.JSONB, "JSON_VALUE_OP": oids.TEXT}


def _query(analysis: Analysis, level: Level, node: Body) -> Expr:
    """A JsonFuncExpr: transformJsonFuncExpr()."""
    operation = node.get("op", "JSON_EXISTS_OP")
    name, default = versions.JSON_FUNCTIONS[operation], _QUERY_TYPES[operation]
    item, path = node["context_item"], node["pathspec"]
    call = _before(analysis, level, node, name, [item["raw_expr"], path], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    found = _values(analysis, level, [item])
    found.append(_path(analysis, level, path))
    found += _values(analysis, level, [each["JsonArgument"]["val"] for each in node.get("passing", ())])
    type_ = _result(analysis, node, default)
    found += _defaults(analysis, level, node, type_)
    return Expr(type_, location(node), levels=levels_of(found))


def _path(analysis: Analysis, level: Level, node: Body) -> Expr:
    found = analysis.expression(analysis, level, node)
    return analysis.to_target(found, oids.JSONPATH, -1, Context.EXPLICIT, found.location)


def _defaults(analysis: Analysis, level: Level, node: Body, type_: int) -> list[Expr]:
    """Analyse what DEFAULT … ON EMPTY and ON ERROR give: transformJsonBehavior()."""
    found: list[Expr] = []
    for key in ("on_empty", "on_error"):
        if "expr" in node.get(key, ()):
            value = analysis.expression(analysis, level, node[key]["expr"])
            found.append(analysis.to_target(value, type_, -1, Context.EXPLICIT, value.location))
            analysis.coerce(Expr(value.type, -1), type_, Context.EXPLICIT) if value.type != UNKNOWN else None
    return found


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
    passing = [each["JsonArgument"]["val"] for each in node.get("passing", ())]
    _values(analysis, level, [node["context_item"], *passing])
    _path_of(analysis, level, node)
    found: list[Column] = []
    _json_columns(analysis, level, node["columns"], found)
    return found


def _path_of(analysis: Analysis, level: Level, node: Body) -> None:
    """Analyse the path that JSON_TABLE or a column of it names."""
    if "pathspec" in node:
        _path(analysis, level, node["pathspec"]["string"])


def _json_columns(analysis: Analysis, level: Level, nodes: Sequence[Body], found: list[Column]) -> None:
    for each in nodes:
        column = each["JsonTableColumn"]
        kind = column.get("coltype", "JTC_FOR_ORDINALITY")
        _path_of(analysis, level, column)
        if kind == "JTC_NESTED":
            _json_columns(analysis, level, column["columns"], found)
        elif kind == "JTC_FOR_ORDINALITY":
            found.append(Column(column["name"], oids.INT4, -1))
        else:
            type_ = _result(analysis, {**column, "output": column}, oids.TEXT)
            found.append(Column(column["name"], type_, -1))
            _defaults(analysis, level, column, type_)


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

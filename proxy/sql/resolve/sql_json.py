"""Analyse what SQL has for JSON: transformJsonValueExpr() and what follows it (parse_expr.c), parse_jsontable.c.

By what cast a value becomes a part of a document is decided when it runs: no tree shows it, and nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy.sql import versions
from proxy.sql.resolve import calls, names, oids, sorting
from proxy.sql.resolve.analysis import CANNOT_COERCE, MISMATCH, Analysis
from proxy.sql.resolve.calls import Call
from proxy.sql.resolve.coercion import Context
from proxy.sql.resolve.names import location
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.tree import Body, Expr, Form, Level, NotModelledError, RejectedError, levels_of
from proxy.sql.resolve.world import Column

_SYNTAX_ERROR = "42601"
_CONSTRUCTORS_SINCE = 16
_FUNCTIONS_SINCE = 17
_DEFAULT, _JSON, _JSONB = "JS_FORMAT_DEFAULT", "JS_FORMAT_JSON", "JS_FORMAT_JSONB"
_STRING, _BITS = "S", "V"  # TYPCATEGORY_STRING, TYPCATEGORY_BITSTRING
_PASSED = frozenset(
    (
        *(oids.BOOL, oids.NUMERIC, oids.INT2, oids.INT4, oids.INT8, oids.FLOAT4, oids.FLOAT8, oids.TEXT, oids.VARCHAR),
        *(oids.DATE, oids.TIME, oids.TIMETZ, oids.TIMESTAMP, oids.TIMESTAMPTZ),
    )
)
"""The types of which PASSING hands over values as they are."""


_DOCUMENTS = frozenset({oids.JSON, oids.JSONB})


class _Returned(NamedTuple):
    """What RETURNING says: JsonReturning (nodes/primnodes.h)."""

    type: int
    """0: nothing."""
    modifier: int = -1
    format: str = _DEFAULT


def _since(analysis: Analysis, major: int) -> None:
    if analysis.world.major < major:
        raise RejectedError(_SYNTAX_ERROR, "syntax error")


def _built_in(analysis: Analysis, at: int, name: str) -> None:
    """Record a function of pg_catalog that the server calls by itself."""
    found = [each.oid for _, each in analysis.search.functions("pg_catalog", name)]
    analysis.use_one_of("function", at, found)


# -- values ------------------------------------------------------------------------------------------------------------


def _value(
    analysis: Analysis, level: Level, node: Body, format_: str = _DEFAULT, target: int = 0, *, is_argument: bool = False
) -> Expr:
    """Analyse a JsonValueExpr."""
    node = node.get("JsonValueExpr", node)
    found = analysis.expression(analysis, level, node["raw_expr"])
    return _formatted(analysis, found, _written(node), format_, target, is_argument=is_argument)


def _written(node: Body) -> str:
    """Return the format that a text gives to something."""
    found: str = node.get("format", {}).get("format_type", _DEFAULT)
    return found


def _formatted(
    analysis: Analysis, found: Expr, written: str, format_: str, target: int, *, is_argument: bool = False
) -> Expr:
    """Make JSON of a value, where its format says that it is some: transformJsonValueExpr().

    `format_`: what it is taken for where nothing is written. `target`: what it has to become, by a cast alone.
    `is_argument`: of PASSING.
    """
    if found.type == UNKNOWN:
        found = analysis.to_specific(found, oids.TEXT)
    if found.type == ANY_TYPE:
        analysis.open([found])
        return found
    analysis.use("cast-to-json", found.location, found.type)
    format_ = _read_as(analysis, found.type, written, format_, is_argument=is_argument)
    if format_ == _DEFAULT and target in (0, found.type):
        return found
    if not (is_argument or target or _is_string(analysis, found.type) or found.type == oids.BYTEA):
        raise RejectedError(MISMATCH, "cannot use non-string types with FORMAT JSON clause")
    return _read(analysis, found, format_, target)


def _is_string(analysis: Analysis, type_: int) -> bool:
    return analysis.coercion.category(type_) == _STRING


def _read_as(analysis: Analysis, type_: int, written: str, otherwise: str, *, is_argument: bool) -> str:
    """Return the format in which a value is read; the default: it is taken as it is."""
    if is_argument and written == _DEFAULT:
        return _DEFAULT if type_ in _PASSED or _is_string(analysis, type_) else otherwise
    if type_ in _DOCUMENTS:
        return _DEFAULT
    return otherwise if written == _DEFAULT else written


def _read(analysis: Analysis, found: Expr, format_: str, target: int) -> Expr:
    """Make JSON of a value, as `_formatted` does, by a cast or by the function that the server has for it."""
    at, source = found.start, found
    if format_ == _JSON and found.type == oids.BYTEA:
        _built_in(analysis, at, "convert_from")
        source = Expr(oids.TEXT, at, levels=found.levels)
    wanted = target or (oids.JSONB if format_ == _JSONB else oids.JSON)
    if analysis.coercion.can([source.type], [wanted], Context.EXPLICIT):
        return analysis.to_target(source, wanted, -1, Context.EXPLICIT, at)
    if target:
        raise RejectedError(CANNOT_COERCE, "cannot cast type")
    _built_in(analysis, at, "to_json" if wanted == oids.JSON else "to_jsonb")
    return Expr(wanted, at, levels=found.levels)


def _returned(analysis: Analysis, node: Body) -> _Returned:
    """Return what RETURNING says: transformJsonOutput()."""
    output = node.get("output")
    if output is None:
        return _Returned(0)
    type_, modifier = names.type_named(analysis, output["typeName"])
    analysis.use("input", location(node), type_)
    written = _written(output["returning"])
    if written == _DEFAULT:
        written = _JSONB if type_ == oids.JSONB else _JSON
    return _Returned(type_, modifier, written)


def _constructed(analysis: Analysis, node: Body, values: Sequence[Expr]) -> _Returned:
    """Return what a constructor gives, by its values if it does not say: transformJsonConstructorOutput()."""
    found = _returned(analysis, node)
    if found.type:
        return found
    types = {each.type for each in values}
    if ANY_TYPE in types:
        return _Returned(ANY_TYPE)
    return _Returned(oids.JSONB, -1, _JSONB) if oids.JSONB in types else _Returned(oids.JSON, -1, _JSON)


def _made(analysis: Analysis, node: Body, returned: _Returned, values: Sequence[Expr]) -> Expr:
    """Return what a constructor makes: makeJsonConstructorExpr(), coerceJsonFuncExpr()."""
    made = oids.JSONB if returned.format == _JSONB else oids.JSON
    if returned.type == ANY_TYPE:
        analysis.unknown("function", -1)
    elif returned.type == oids.BYTEA and returned.format == _JSON:
        analysis.to_specific(Expr(made), oids.TEXT)
        _built_in(analysis, -1, "convert_to")
    elif returned.type != made:
        analysis.to_target(Expr(made), returned.type, returned.modifier, Context.ASSIGNMENT)
    return Expr(returned.type, location(node), levels=levels_of(values))


# -- constructors ------------------------------------------------------------------------------------------------------


def _object(analysis: Analysis, level: Level, node: Body) -> Expr:
    pairs = [each["JsonKeyValue"] for each in node.get("exprs", ())]
    if not pairs and "output" not in node:
        call = _before(analysis, level, node, "json_object", [], _CONSTRUCTORS_SINCE)
        return call or _made(analysis, node, _constructed(analysis, node, []), [])
    _since(analysis, _CONSTRUCTORS_SINCE)
    found: list[Expr] = []
    for each in pairs:
        found += _pair(analysis, level, each)
    return _made(analysis, node, _constructed(analysis, node, found), found)


def _pair(analysis: Analysis, level: Level, node: Body) -> list[Expr]:
    key = analysis.expression(analysis, level, node["key"])
    analysis.use("cast-to-json", key.location, key.type)
    return [key, _value(analysis, level, node["value"])]


def _array(analysis: Analysis, level: Level, node: Body) -> Expr:
    values = node.get("exprs", ())
    plain = [each["JsonValueExpr"]["raw_expr"] for each in values]
    call = _before(analysis, level, node, "json_array", plain, _CONSTRUCTORS_SINCE)
    if call is not None:
        return call
    found = [_value(analysis, level, each) for each in values]
    return _made(analysis, node, _constructed(analysis, node, found), found)


def _array_of_query(analysis: Analysis, level: Level, node: Body) -> Expr:
    """JSON_ARRAY(SELECT …) is an aggregate over a query: transformJsonArrayQueryConstructor()."""
    _since(analysis, _CONSTRUCTORS_SINCE)
    query = analysis.query(analysis, node["query"], level, True)
    if analysis.parameters:  # it is analysed twice, and the first time gives them their types
        query = analysis.query(analysis, node["query"], level, True)
    if len(query.columns) != 1:
        raise RejectedError(_SYNTAX_ERROR, "subquery must return only one column")
    at = location(node)
    type_ = query.columns[0].type
    analysis.use("var", at, type_)
    column = Expr(type_, at, Form.COLUMN, levels=query.levels)
    value = _formatted(analysis, column, _written(node), _DEFAULT, 0)
    return _aggregated(analysis, node, node, [value], "_agg")


def _aggregated(analysis: Analysis, aggregate: Body, constructor: Body, values: Sequence[Expr], name: str) -> Expr:
    """Record the function that an aggregate is, and return what it makes: transformJsonAggConstructor()."""
    returned = _constructed(analysis, constructor, values)
    name = ("jsonb" if returned.format == _JSONB else "json") + name
    for key, suffix in (("unique", "_unique"), ("absent_on_null", "_strict")):
        if aggregate.get(key):
            name += suffix
    _built_in(analysis, location(constructor), name)
    return _made(analysis, constructor, returned, values)


def _aggregate(analysis: Analysis, level: Level, node: Body) -> Expr:
    """A JsonObjectAgg or JsonArrayAgg."""
    _since(analysis, _CONSTRUCTORS_SINCE)
    constructor = node.get("constructor", {})
    argument = node["arg"]
    is_object = "key" in argument
    found = _pair(analysis, level, argument) if is_object else [_value(analysis, level, argument)]
    made = _aggregated(analysis, node, constructor, found, "_object_agg" if is_object else "_agg")
    if "agg_filter" in constructor:
        analysis.to_bool(analysis.expression(analysis, level, constructor["agg_filter"]))
    for each in constructor.get("agg_order", ()):
        sort = each["SortBy"]
        sorting.sort_by(analysis, analysis.expression(analysis, level, sort["node"]), sort)
    if "over" in constructor:
        sorting.add_window(level, constructor["over"])
    return made


# -- text that is JSON -------------------------------------------------------------------------------------------------


def _text(analysis: Analysis, level: Level, node: Body) -> Expr:
    """Analyse what may be JSON, or text that is: transformJsonParseArg()."""
    value = analysis.expression(analysis, level, node)
    if value.type == oids.BYTEA:
        _built_in(analysis, value.start, "convert_from")
        return Expr(oids.TEXT, value.location, levels=value.levels)
    if value.type == UNKNOWN or _is_string(analysis, value.type):
        return analysis.to_target(value, oids.TEXT, -1, Context.IMPLICIT)
    return value


def _is_json(analysis: Analysis, level: Level, node: Body) -> Expr:
    _since(analysis, _CONSTRUCTORS_SINCE)
    value = _text(analysis, level, node["expr"])
    if value.type not in (oids.TEXT, oids.JSON, oids.JSONB, ANY_TYPE):
        raise RejectedError(MISMATCH, "cannot use type in IS JSON predicate")
    return Expr(oids.BOOL, location(node), levels=value.levels)


def _parse(analysis: Analysis, level: Level, node: Body) -> Expr:
    value = node["expr"]
    call = _before(analysis, level, node, "json", [value["raw_expr"]], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    if node.get("unique_keys"):
        found = _text(analysis, level, value["raw_expr"])
        if found.type not in (oids.TEXT, ANY_TYPE):
            raise RejectedError(MISMATCH, "cannot use non-string types with WITH UNIQUE KEYS clause")
    else:
        found = _value(analysis, level, value, _JSON, oids.JSON)
    return Expr(oids.JSON, location(node), levels=found.levels)


def _scalar(analysis: Analysis, level: Level, node: Body) -> Expr:
    call = _before(analysis, level, node, "json_scalar", [node["expr"]], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    found = analysis.expression(analysis, level, node["expr"])
    if found.type == UNKNOWN:
        found = analysis.to_specific(found, oids.TEXT)
    analysis.use("cast-to-json", found.location, found.type)
    return Expr(oids.JSON, location(node), levels=found.levels)


def _serialize(analysis: Analysis, level: Level, node: Body) -> Expr:
    call = _before(analysis, level, node, "json_serialize", [node["expr"]["raw_expr"]], _FUNCTIONS_SINCE)
    if call is not None:
        return call
    found = _value(analysis, level, node["expr"], _JSON)
    returned = _returned(analysis, node)
    if not returned.type:
        returned = _Returned(oids.TEXT, -1, _JSON)
    if returned.type != oids.BYTEA and not _is_string(analysis, returned.type):
        raise RejectedError(MISMATCH, "cannot use RETURNING type in JSON_SERIALIZE()")
    return _made(analysis, node, returned, [found])


# -- queries of JSON ---------------------------------------------------------------------------------------------------

_EXISTS, _QUERY, _VALUE, _TABLE = "JSON_EXISTS_OP", "JSON_QUERY_OP", "JSON_VALUE_OP", "JSON_TABLE_OP"
_TYPES = {_EXISTS: oids.BOOL, _QUERY: oids.JSONB, _VALUE: oids.TEXT, _TABLE: oids.JSONB}
_FORMATS = {_QUERY: _JSONB, _TABLE: _JSONB}
_BEHAVIOURS = {
    _EXISTS: {"on_error": "JSON_BEHAVIOR_FALSE"},
    _QUERY: {"on_empty": "JSON_BEHAVIOR_NULL", "on_error": "JSON_BEHAVIOR_NULL"},
    _VALUE: {"on_empty": "JSON_BEHAVIOR_NULL", "on_error": "JSON_BEHAVIOR_NULL"},
    _TABLE: {"on_error": "JSON_BEHAVIOR_EMPTY_ARRAY"},
}
"""What happens where ON EMPTY or ON ERROR is not written."""
_GIVEN = {
    "JSON_BEHAVIOR_TRUE": oids.BOOL,
    "JSON_BEHAVIOR_FALSE": oids.BOOL,
    "JSON_BEHAVIOR_EMPTY_ARRAY": oids.JSONB,
    "JSON_BEHAVIOR_EMPTY_OBJECT": oids.JSONB,
}
"""The types of the constants that they stand for; the others are NULL."""


def _query(analysis: Analysis, level: Level, node: Body) -> Expr:
    """A JsonFuncExpr: transformJsonFuncExpr()."""
    operation = node.get("op", _EXISTS)
    item, path = node["context_item"], node["pathspec"]
    call = _before(
        analysis, level, node, versions.JSON_FUNCTIONS[operation], [item["raw_expr"], path], _FUNCTIONS_SINCE
    )
    if call is not None:
        return call
    found = [_value(analysis, level, item, _FORMATS.get(operation, _DEFAULT), oids.JSONB)]
    return _answered(analysis, level, operation, node, found)


def _answered(analysis: Analysis, level: Level, operation: str, node: Body, found: list[Expr]) -> Expr:
    """Analyse what follows the document in which something is looked for."""
    if "pathspec" in node:
        path = analysis.expression(analysis, level, node["pathspec"])
        found.append(analysis.to_target(path, oids.JSONPATH, -1, Context.EXPLICIT, path.start))
    passed = [each["JsonArgument"]["val"] for each in node.get("passing", ())]
    found += [_value(analysis, level, each, _JSONB, is_argument=True) for each in passed]
    returned = _returned(analysis, node)
    type_ = returned.type or _TYPES[operation]
    for key, default in _BEHAVIOURS[operation].items():
        found.append(_behaviour(analysis, level, node.get(key, {"btype": default}), type_, returned.modifier))
    return Expr(type_, location(node), modifier=returned.modifier, levels=levels_of(found))


def _behaviour(analysis: Analysis, level: Level, node: Body, type_: int, modifier: int) -> Expr:
    """Analyse what ON EMPTY or ON ERROR gives: transformJsonBehavior()."""
    kind = node.get("btype")
    if kind == "JSON_BEHAVIOR_ERROR":
        return Expr(type_)
    if kind == "JSON_BEHAVIOR_DEFAULT":
        value = analysis.expression(analysis, level, node["expr"])
    else:
        value = Expr(_GIVEN.get(kind or "", oids.INT4), is_null=kind not in _GIVEN)
    if value.type == type_ or value.is_null or value.type == oids.JSONB:
        return value
    if value.type == oids.BOOL and analysis.coercion.base(type_) != oids.INT4:
        return value
    is_string = analysis.coercion.category(type_) in (_STRING, _BITS)
    context = Context.ASSIGNMENT if is_string else Context.EXPLICIT
    return analysis.to_target(value, type_, modifier, context, _start(node, value))


def _start(behaviour: Body, value: Expr) -> int:
    """Return where what DEFAULT gives begins, as it is written: exprLocation(). Of `date 'x'` that is the type."""
    cast = behaviour.get("expr", {}).get("TypeCast")
    places = [value.start] if cast is None else [value.start, location(cast), location(cast["typeName"])]
    return min((at for at in places if at >= 0), default=-1)


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


# -- JSON_TABLE --------------------------------------------------------------------------------------------------------


def json_table(analysis: Analysis, level: Level, node: Body) -> Sequence[Column]:
    """Return the columns of JSON_TABLE: transformJsonTable()."""
    _since(analysis, _FUNCTIONS_SINCE)
    document = _value(analysis, level, node["context_item"], _JSONB, oids.JSONB)
    passing = node.get("passing", ())
    path = {"pathspec": node["pathspec"]["string"]} if "pathspec" in node else {}
    errors = {"on_error": node["on_error"]} if "on_error" in node else {}
    _answered(analysis, level, _TABLE, {**path, **errors, "passing": passing}, [document])
    found: list[Column] = []
    _json_columns(analysis, level, node["columns"], passing, found)
    return found


def _json_columns(
    analysis: Analysis, level: Level, nodes: Sequence[Body], passing: Sequence[Body], found: list[Column]
) -> None:
    """Analyse columns, those of nested paths after the others: transformJsonTableColumns()."""
    nested: list[Body] = []
    for each in nodes:
        column = each["JsonTableColumn"]
        kind = column.get("coltype", "JTC_FOR_ORDINALITY")
        if kind == "JTC_NESTED":
            nested.append(column)
        elif kind == "JTC_FOR_ORDINALITY":
            found.append(Column(column["name"], oids.INT4, -1))
        else:
            found.append(_json_column(analysis, level, kind, column, passing))
    for column in nested:
        _json_columns(analysis, level, column["columns"], passing, found)


def _json_column(analysis: Analysis, level: Level, kind: str, column: Body, passing: Sequence[Body]) -> Column:
    """Analyse a column, which is a function of its own over each row's document: transformJsonTableColumn()."""
    type_, _ = names.type_named(analysis, column["typeName"])
    operation = _EXISTS if kind == "JTC_EXISTS" else _QUERY
    if kind == "JTC_REGULAR" and not _is_document(analysis, type_):
        operation = _VALUE
    node: Body = {key: column[key] for key in ("on_empty", "on_error", "location") if key in column}
    node["output"] = {"typeName": column["typeName"], "returning": column}
    if "pathspec" in column:
        node["pathspec"] = column["pathspec"]["string"]
    if analysis.parameters:  # what is passed is analysed again for each column, and may have its types by now
        node["passing"] = passing
    made = _answered(analysis, level, operation, node, [])
    return Column(column["name"], made.type, made.modifier)


def _is_document(analysis: Analysis, type_: int) -> bool:
    """Tell whether a column of a type is made of a document, and not of a scalar in it: isCompositeType()."""
    coercion = analysis.coercion
    base = coercion.base(type_)
    return bool(
        type_ in (oids.JSON, oids.JSONB, oids.RECORD) or coercion.is_composite(type_) or coercion.element(type_)
    ) or (base != type_ and _is_document(analysis, base))


KINDS: dict[str, Callable[[Analysis, Level, Body], Expr]] = {
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

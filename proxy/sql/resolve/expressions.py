"""Analyse expressions: parser/parse_expr.c. One function for each kind of node, found by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.sql.resolve import calls, columns, documents, names, oids, operations, sorting, sql_json
from proxy.sql.resolve.analysis import MAX_STEPS, MISMATCH, UNDEFINED_COLUMN, Analysis
from proxy.sql.resolve.calls import Call
from proxy.sql.resolve.coercion import Context
from proxy.sql.resolve.containers import array, array_of, subscript
from proxy.sql.resolve.names import location, qualified
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.tree import CONSTANT, OTHER, Body, Expr, Form, Level, NotModelledError, RejectedError, levels_of


def analyse(analysis: Analysis, level: Level, node: Body) -> Expr:
    """Analyse one expression. Raises RejectedError and NotModelledError."""
    ((kind, body),) = node.items()
    function = _KINDS.get(kind)
    analysis.steps += 1
    if function is None or analysis.steps > MAX_STEPS:
        raise NotModelledError(kind)
    found = function(analysis, level, body)
    analysis.types.add(found.type)
    return found


def _all(analysis: Analysis, level: Level, nodes: Sequence[Body]) -> list[Expr]:
    return [analyse(analysis, level, each) for each in nodes]


# -- leaves ------------------------------------------------------------------------------------------------------------


def _constant(analysis: Analysis, level: Level, node: Body) -> Expr:
    at = node.get("location", 0)
    if "isnull" in node:
        return Expr(UNKNOWN, at, CONSTANT, is_null=True)
    if "sval" in node:
        return Expr(UNKNOWN, at, CONSTANT)
    if "ival" in node:
        type_ = oids.INT4
    elif "fval" in node:
        type_ = number_type(node["fval"]["fval"])
    elif "boolval" in node:
        type_ = oids.BOOL
    else:
        type_ = oids.BIT
    analysis.noted["const"].append((at, type_))
    return Expr(type_, at, CONSTANT)


def number_type(digits: str) -> int:
    """Return the type of a number that the grammar has no int4 for: make_const() (parser/parse_node.c)."""
    text = digits.replace("_", "")
    try:
        value = int(text, 0) if text.lstrip("-")[:2].lower() in ("0x", "0o", "0b") else int(text)
    except ValueError:
        return oids.NUMERIC
    if -(1 << 31) <= value < 1 << 31:
        return oids.INT4
    return oids.INT8 if -(1 << 63) <= value < 1 << 63 else oids.NUMERIC


def _parameter(analysis: Analysis, level: Level, node: Body) -> Expr:
    return analysis.parameter(node.get("number", 0), location(node))


def _value_function(analysis: Analysis, level: Level, node: Body) -> Expr:
    return Expr(names.VALUE_TYPES[node["op"]], location(node))


# -- choices -----------------------------------------------------------------------------------------------------------


def _bool(analysis: Analysis, level: Level, node: Body) -> Expr:
    found = [analysis.to_bool(analyse(analysis, level, each)) for each in node["args"]]
    return Expr(oids.BOOL, location(node), parts=found, levels=levels_of(found))


def _test(analysis: Analysis, level: Level, node: Body) -> Expr:
    """A NullTest."""
    found = analyse(analysis, level, node["arg"])
    return Expr(oids.BOOL, location(node), parts=[found], levels=found.levels)


def _bool_test(analysis: Analysis, level: Level, node: Body) -> Expr:
    found = analysis.to_bool(analyse(analysis, level, node["arg"]))
    return Expr(oids.BOOL, location(node), parts=[found], levels=found.levels)


def _case(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformCaseExpr(): the ELSE counts first for the common type."""
    argument = None
    seen: list[Expr] = []
    if "arg" in node:
        argument = analyse(analysis, level, node["arg"])
        seen.append(argument)
        if argument.type == UNKNOWN:
            argument = analysis.to_common(argument, oids.TEXT)
        argument = Expr(argument.type, location(node), levels=argument.levels)
    results: list[Expr] = []
    for each in node["args"]:
        when = each["CaseWhen"]
        if argument is None:
            condition = analyse(analysis, level, when["expr"])
        else:
            condition = analysis.operator("", "=", argument, analyse(analysis, level, when["expr"]), location(when))
        seen.append(analysis.to_bool(condition))
        results.append(analyse(analysis, level, when["result"]))
    default = Expr(UNKNOWN, -1, CONSTANT, is_null=True)
    if "defresult" in node:
        default = analyse(analysis, level, node["defresult"])
    common = analysis.common([default, *results], "CASE")
    for each_result in (default, *results):
        analysis.to_common(each_result, common)
    return Expr(common, location(node), levels=levels_of([*seen, *results, default]))


def _coalesce(analysis: Analysis, level: Level, node: Body) -> Expr:
    found = _all(analysis, level, node["args"])
    common = analysis.common(found, "COALESCE")
    for each in found:
        analysis.to_common(each, common)
    return Expr(common, location(node), levels=levels_of(found))


def _least(analysis: Analysis, level: Level, node: Body) -> Expr:
    found = _coalesce(analysis, level, node)
    if found.type == ANY_TYPE:
        analysis.by_type(found.location, "minmax")
    else:
        analysis.use("minmax", found.location, found.type)
        analysis.use("order", found.location, found.type)
    return found


# -- values made of others ---------------------------------------------------------------------------------------------


def _row(analysis: Analysis, level: Level, node: Body) -> Expr:
    parts = columns.expand(analysis, level, node.get("args", ()))
    return Expr(oids.RECORD, location(node), Form.ROW, parts=parts, levels=levels_of(parts))


def _cast(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformTypeCast()."""
    type_, modifier = names.type_named(analysis, node["typeName"])
    argument = node["arg"]
    if "A_ArrayExpr" in argument:
        base = analysis.coercion.base(type_)
        element = analysis.coercion.element(base)
        body = argument["A_ArrayExpr"]
        value = array_of(analysis, level, body, base if element else 0, element, modifier)
    else:
        value = analyse(analysis, level, argument)
    at = location(node)
    if at < 0:
        at = location(node["typeName"])
    found = analysis.to_target(value, type_, modifier, Context.EXPLICIT, at)
    if found.form is OTHER and found.type != value.type and at >= 0:
        found.location = min(at, value.start)
    return found


def _collate(analysis: Analysis, level: Level, node: Body) -> Expr:
    value = analyse(analysis, level, node["arg"])
    row = analysis.world.types.get(value.type)
    if row is not None and not row.is_collatable and value.type != UNKNOWN:
        raise RejectedError(MISMATCH, "collations are not supported by the type")
    return Expr(value.type, location(node), Form.COLLATED, parts=[value], levels=value.levels)


def _indirection(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformIndirection()."""
    value = analyse(analysis, level, node["arg"])
    subscripts: list[Body] = []
    for each in node["indirection"]:
        if "A_Indices" in each:
            subscripts.append(each["A_Indices"])
            continue
        if "A_Star" in each:
            raise RejectedError("0A000", 'row expansion via "*" is not supported here')
        if subscripts:
            value = subscript(analysis, level, value, subscripts)
            subscripts = []
        name = each["String"]["sval"]
        called = calls.resolve(analysis, Call("", name, [value], value.start, is_column=True))
        if called is None:
            raise RejectedError(UNDEFINED_COLUMN, f'could not identify column "{name}" in record data type')
        value = called.expr
    return subscript(analysis, level, value, subscripts) if subscripts else value


# -- calls -------------------------------------------------------------------------------------------------------------


def _call(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformFuncCall()."""
    analysis.steps += 1
    schema, name = names.meant(analysis, node, *qualified(node["funcname"]))
    at = location(node)
    if names.is_system_user(analysis, node):
        return columns.column(analysis, level, {"fields": node["funcname"][1:], "location": at})
    arguments, argument_names = _arguments(analysis, level, node)
    within = bool(node.get("agg_within_group"))
    order = node.get("agg_order", ())
    sorted_ = [analyse(analysis, level, each["SortBy"]["node"]) for each in order] if within else []
    if "agg_filter" in node:
        analysis.to_bool(analyse(analysis, level, node["agg_filter"]))
    plain = _is_plain(node)
    call = Call(
        schema,
        name,
        arguments,
        at,
        argument_names,
        within=sorted_,
        is_within=within,
        variadic=bool(node.get("func_variadic")),
        plain=plain,
    )
    called = calls.resolve(analysis, call)
    if called is None:
        raise NotModelledError("a call that is none")
    if called.function is None and not plain and called.expr.type != ANY_TYPE:
        raise RejectedError("42809", f"{name} is not an aggregate function")
    if order:
        sorting.sort_arguments(analysis, level, node, arguments, called)
    if node.get("agg_distinct"):
        for expr in called.arguments:
            analysis.sort(analysis.to_text(expr))
    if "over" in node:
        sorting.add_window(level, node["over"])
    return called.expr


def _is_plain(call: Body) -> bool:
    """Tell whether a call is written as one of no aggregate."""
    return _FOR_AGGREGATES.isdisjoint(call)


_FOR_AGGREGATES = frozenset({"agg_order", "agg_filter", "over", "agg_within_group", "agg_star", "agg_distinct"})
"""Flags among them that are not set are no part of the tree."""


def _arguments(analysis: Analysis, level: Level, node: Body) -> tuple[list[Expr], list[str]]:
    """Analyse the arguments of a call; return the names of the last ones, too, that are given by name."""
    found: list[Expr] = []
    given: list[str] = []
    for each in node.get("args", ()):
        if "NamedArgExpr" in each:
            given.append(each["NamedArgExpr"]["name"])
            found.append(analyse(analysis, level, each["NamedArgExpr"]["arg"]))
        elif given:
            raise RejectedError("42601", "positional argument cannot follow named argument")
        else:
            found.append(analyse(analysis, level, each))
    if len(set(given)) < len(given):
        raise RejectedError("42601", "argument name used more than once")
    return found, given


def _grouping(analysis: Analysis, level: Level, node: Body) -> Expr:
    _all(analysis, level, node.get("args", ()))
    return Expr(oids.INT4, location(node))


_KINDS: dict[str, Callable[[Analysis, Level, Body], Expr]] = {
    "A_Const": _constant,
    "ParamRef": _parameter,
    "ColumnRef": columns.column,
    "SQLValueFunction": _value_function,
    "BoolExpr": _bool,
    "NullTest": _test,
    "BooleanTest": _bool_test,
    "CaseExpr": _case,
    "CoalesceExpr": _coalesce,
    "MinMaxExpr": _least,
    "RowExpr": _row,
    "A_ArrayExpr": array,
    "TypeCast": _cast,
    "CollateClause": _collate,
    "A_Indirection": _indirection,
    "FuncCall": _call,
    "GroupingFunc": _grouping,
    **documents.KINDS,
    **operations.KINDS,
    **sql_json.KINDS,
}

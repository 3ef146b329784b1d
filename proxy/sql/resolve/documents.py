"""Analyse what SQL has for XML: transformXmlExpr() and its like (parser/parse_expr.c)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.sql.resolve import names, oids
from proxy.sql.resolve.analysis import Analysis
from proxy.sql.resolve.coercion import Context
from proxy.sql.resolve.names import location
from proxy.sql.resolve.tree import Body, Expr, Level, levels_of
from proxy.sql.resolve.world import Column


def _xml(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformXmlExpr()."""
    at = location(node)
    operation = node.get("op", "IS_XMLCONCAT")
    named = [analysis.expression(analysis, level, each["ResTarget"]["val"]) for each in node.get("named_args", ())]
    found: list[Expr] = []
    for at_argument, each in enumerate(node.get("args", ())):
        # Each is converted before the next one is looked at: a parameter that comes again has its type by then.
        expr = analysis.expression(analysis, level, each)
        found.append(expr)
        takes = _XML_TAKES.get(operation) or (oids.XML,) * (at_argument + 1)
        if operation not in ("IS_XMLELEMENT", "IS_XMLFOREST") and at_argument < len(takes):
            analysis.to_specific(expr, takes[at_argument])
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


KINDS: dict[str, Callable[[Analysis, Level, Body], Expr]] = {
    "XmlExpr": _xml,
    "XmlSerialize": _xml_serialize,
}

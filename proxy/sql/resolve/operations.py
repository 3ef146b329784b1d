"""Analyse what applies operators: every form of an A_Expr, and subqueries that a value is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.sql.resolve import oids
from proxy.sql.resolve.analysis import MISMATCH, UNDEFINED_OBJECT, Analysis
from proxy.sql.resolve.names import location, qualified
from proxy.sql.resolve.oids import ANY_TYPE
from proxy.sql.resolve.tree import Body, Expr, Form, Level, RejectedError, levels_of


def _expression(analysis: Analysis, level: Level, node: Body) -> Expr:
    """Analyse an A_Expr; a chain of operators is followed without going deeper for each."""
    if "A_Expr" not in node.get("lexpr", ()):
        return _EXPRESSIONS[node.get("kind", "AEXPR_OP")](analysis, level, node, None)
    chain: list[Body] = []
    while node.get("kind", "AEXPR_OP") in _OPERATORS and "lexpr" in node and "A_Expr" in node["lexpr"]:
        chain.append(node)
        node = node["lexpr"]["A_Expr"]
    found = _EXPRESSIONS[node.get("kind", "AEXPR_OP")](analysis, level, node, None)
    for each in reversed(chain):
        found = _EXPRESSIONS[each.get("kind", "AEXPR_OP")](analysis, level, each, found)
    return found


_OPERATORS = frozenset({"AEXPR_OP", "AEXPR_LIKE", "AEXPR_ILIKE", "AEXPR_SIMILAR"})


def _operation(analysis: Analysis, level: Level, node: Body, left: Expr | None) -> Expr:
    """transformAExprOp()."""
    parts = node["name"]
    schema, name = qualified(parts) if len(parts) > 1 else ("", parts[0]["String"]["sval"])
    at = node.get("location", 0)
    lexpr, rexpr = node.get("lexpr"), node["rexpr"]
    if left is None and lexpr is not None and "RowExpr" in lexpr:
        if "SubLink" in rexpr and rexpr["SubLink"]["subLinkType"] == "EXPR_SUBLINK":
            link = {**rexpr["SubLink"], "subLinkType": "ROWCOMPARE_SUBLINK", "testexpr": lexpr}
            return _sublink(analysis, level, {**link, "operName": node["name"], "location": at})
        if "RowExpr" in rexpr:
            rows = [analysis.expression(analysis, level, each) for each in (lexpr, rexpr)]
            return _row_operation(analysis, schema, name, rows[0].parts, rows[1].parts, at)
    if left is None and lexpr is not None:
        left = analysis.expression(analysis, level, lexpr)
    return analysis.operator(schema, name, left, analysis.expression(analysis, level, rexpr), at)


def _row_operation(
    analysis: Analysis, schema: str, name: str, left: Sequence[Expr], right: Sequence[Expr], at: int
) -> Expr:
    """Compare rows field by field: make_row_comparison_op()."""
    if len(left) != len(right):
        raise RejectedError("42601", "unequal number of entries in row expressions")
    if not left:
        raise RejectedError("0A000", "cannot compare rows of zero length")
    pairs = [analysis.operator(schema, name, *pair, at) for pair in zip(left, right, strict=True)]
    if any(each.type not in (oids.BOOL, ANY_TYPE) for each in pairs):
        raise RejectedError(MISMATCH, "row comparison operator must yield type boolean")
    return Expr(oids.BOOL, at, parts=pairs, levels=levels_of(pairs))


def _any_all(analysis: Analysis, level: Level, node: Body, _: Expr | None) -> Expr:
    left, right = (
        analysis.expression(analysis, level, node["lexpr"]),
        analysis.expression(analysis, level, node["rexpr"]),
    )
    return analysis.array_operator(*qualified(node["name"]), left, right, location(node))


def _distinct(analysis: Analysis, level: Level, node: Body, _: Expr | None) -> Expr:
    """transformAExprDistinct()."""
    at = location(node)
    lexpr, rexpr = node["lexpr"], node["rexpr"]
    for null, other in ((rexpr, lexpr), (lexpr, rexpr)):
        if null.get("A_Const", {}).get("isnull"):
            tested = analysis.expression(analysis, level, other)
            return Expr(oids.BOOL, at, parts=[tested], levels=tested.levels)
    left, right = analysis.expression(analysis, level, lexpr), analysis.expression(analysis, level, rexpr)
    schema, name = qualified(node["name"])
    if left.form is Form.ROW and right.form is Form.ROW:
        if len(left.parts) != len(right.parts):
            raise RejectedError("42601", "unequal number of entries in row expressions")
        for pair in zip(left.parts, right.parts, strict=True):
            analysis.operator(schema, name, *pair, at)
    else:
        analysis.operator(schema, name, left, right, at)
    return Expr(oids.BOOL, at, parts=[left], levels=left.levels | right.levels)


def _nullif(analysis: Analysis, level: Level, node: Body, _: Expr | None) -> Expr:
    left, right = (
        analysis.expression(analysis, level, node["lexpr"]),
        analysis.expression(analysis, level, node["rexpr"]),
    )
    found = analysis.operator(*qualified(node["name"]), left, right, location(node))
    if found.type not in (oids.BOOL, ANY_TYPE):
        raise RejectedError(MISMATCH, "NULLIF requires = operator to yield boolean")
    type_ = found.parts[0].type if found.parts else ANY_TYPE
    return Expr(type_, location(node), parts=found.parts, levels=found.levels)


def _in(analysis: Analysis, level: Level, node: Body, _: Expr | None) -> Expr:
    """transformAExprIn(): one operator for the common type, where the values have one and are no columns."""
    schema, name = qualified(node["name"])
    at = location(node)
    left = analysis.expression(analysis, level, node["lexpr"])
    values = [analysis.expression(analysis, level, each) for each in node["rexpr"]["List"]["items"]]
    bit = 1 << level.depth
    plain = [each for each in values if not each.levels & bit]
    levels = levels_of([left, *values])
    scalar, array = _array_for(analysis, left, plain)
    if array:
        for each in plain:
            analysis.to_common(each, scalar)
        analysis.array_operator(schema, name, left, Expr(array, at), at)
        left = analysis.settled(left)  # it is no copy there, as it is for each of the others
        values = [each for each in values if each.levels & bit]
    for each in values:
        if left.form is Form.ROW and each.form is Form.ROW:
            found = _row_operation(analysis, schema, name, left.parts, each.parts, at)
        else:
            found = analysis.operator(schema, name, left, each, at)
        analysis.to_bool(found)
    return Expr(oids.BOOL, at, parts=[left], levels=levels)


def _array_for(analysis: Analysis, left: Expr, plain: Sequence[Expr]) -> tuple[int, int]:
    """Return the type that the values of IN are compared in, and that of their array; 0, 0: one by one."""
    if len(plain) < 2:
        return 0, 0
    types = [left.type, *(each.type for each in plain)]
    scalar = analysis.coercion.common(types)
    if not scalar or scalar == oids.RECORD or not (analysis.world.major < 14 or analysis.coercion.fits(scalar, types)):
        return 0, 0
    return scalar, ANY_TYPE if scalar == ANY_TYPE else analysis.coercion.array(scalar)


def _between(analysis: Analysis, level: Level, node: Body, _: Expr | None) -> Expr:
    """transformAExprBetween(): comparisons, each with an analysis of its own of the value."""
    at = location(node)
    low, high = node["rexpr"]["List"]["items"]
    below, above = ("<", ">") if "NOT" in node.get("kind", "") else (">=", "<=")
    pairs = [(below, low), (above, high)]
    if "SYM" in node.get("kind", ""):
        pairs += [(below, high), (above, low)]
    comparisons: list[Expr] = []
    for name, limit in pairs:
        comparison = {"kind": "AEXPR_OP", "name": [{"String": {"sval": name}}], "lexpr": node["lexpr"], "rexpr": limit}
        found = _operation(analysis, level, {**comparison, "location": at}, None)
        comparisons.append(analysis.to_bool(found))
    return Expr(oids.BOOL, at, parts=comparisons, levels=levels_of(comparisons))


_EXPRESSIONS: dict[str, Callable[[Analysis, Level, Body, Expr | None], Expr]] = {
    "AEXPR_OP": _operation,
    "AEXPR_LIKE": _operation,
    "AEXPR_ILIKE": _operation,
    "AEXPR_SIMILAR": _operation,
    "AEXPR_OP_ANY": _any_all,
    "AEXPR_OP_ALL": _any_all,
    "AEXPR_DISTINCT": _distinct,
    "AEXPR_NOT_DISTINCT": _distinct,
    "AEXPR_NULLIF": _nullif,
    "AEXPR_IN": _in,
    "AEXPR_BETWEEN": _between,
    "AEXPR_NOT_BETWEEN": _between,
    "AEXPR_BETWEEN_SYM": _between,
    "AEXPR_NOT_BETWEEN_SYM": _between,
}


def _sublink(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformSubLink()."""
    at = location(node)
    form = node["subLinkType"]
    query = analysis.query(analysis, node["subselect"], level, True)
    columns = query.columns
    levels = query.levels
    if form == "EXISTS_SUBLINK":
        return Expr(oids.BOOL, at, levels=levels)
    if form in ("EXPR_SUBLINK", "ARRAY_SUBLINK"):
        if len(columns) != 1:
            raise RejectedError("42601", "subquery must return only one column")
        type_ = columns[0].type
        if form == "ARRAY_SUBLINK" and type_ != ANY_TYPE and not analysis.coercion.element(type_):
            type_ = analysis.coercion.array(type_)
            if not type_:
                raise RejectedError(UNDEFINED_OBJECT, "could not find array type")
        return Expr(type_, at, levels=levels, modifier=columns[0].modifier, columns=columns[0].columns)
    test = analysis.expression(analysis, level, node["testexpr"])
    left = list(test.parts) if test.form is Form.ROW else [test]
    right = [Expr(each.type, at) for each in columns]
    if len(left) != len(right):
        raise RejectedError("42601", "subquery has another number of columns")
    schema, name = qualified(node["operName"]) if "operName" in node else ("", "=")
    found = _row_operation(analysis, schema, name, left, right, at)
    return Expr(found.type, at, parts=left, levels=levels | found.levels)


KINDS: dict[str, Callable[[Analysis, Level, Body], Expr]] = {"A_Expr": _expression, "SubLink": _sublink}

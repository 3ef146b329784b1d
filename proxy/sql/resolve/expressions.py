"""Analyse expressions: parser/parse_expr.c. One function for each kind of node, found by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.sql.resolve import calls, documents, names, oids, sorting, sql_json
from proxy.sql.resolve.analysis import (
    INDETERMINATE,
    MAX_STEPS,
    MISMATCH,
    PER_STEP,
    UNDEFINED_COLUMN,
    UNDEFINED_OBJECT,
    Analysis,
    Outside,
)
from proxy.sql.resolve.calls import Call
from proxy.sql.resolve.coercion import Context
from proxy.sql.resolve.names import location, qualified
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.scopes import column_named, column_of, item_named, variable, whole_row
from proxy.sql.resolve.tree import Body, Expr, Form, Item, Level, NotModelledError, RejectedError, levels_of


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
        return Expr(UNKNOWN, at, Form.CONSTANT, is_null=True)
    if "sval" in node:
        return Expr(UNKNOWN, at, Form.CONSTANT)
    if "ival" in node:
        type_ = oids.INT4
    elif "fval" in node:
        type_ = number_type(node["fval"]["fval"])
    elif "boolval" in node:
        type_ = oids.BOOL
    else:
        type_ = oids.BIT
    analysis.noted["const"].append((at, type_))
    return Expr(type_, at, Form.CONSTANT)


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


def _name(analysis: Analysis, outside: Outside, level: Level, node: Body) -> Expr:
    """Analyse a ColumnRef in the body of a function, where other names than those in FROM can be meant."""
    parts = [each["String"]["sval"] for each in node["fields"] if "String" in each]
    analysis.outside = None
    try:
        found = _column(analysis, level, node)
    except RejectedError as error:
        is_there = error.sqlstate not in _NOT_THERE
        value = None if is_there and not outside.clashes else outside.find(analysis, parts, location(node))
        if value is None:
            raise
        if is_there:
            raise NotModelledError("a column or a variable") from error
        return value
    finally:
        analysis.outside = outside
    if outside.clashes and outside.find(analysis, parts, location(node)) is not None:
        raise NotModelledError("a column or a variable")
    return found


_NOT_THERE = frozenset({UNDEFINED_COLUMN, "42P01"})


def _column(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformColumnRef()."""
    if analysis.outside is not None:
        return _name(analysis, analysis.outside, level, node)
    fields = node["fields"]
    at = node.get("location", 0)
    last = fields[-1].get("String")
    if last is None:
        return _star(analysis, level, node)
    name = last["sval"]
    if len(fields) == 1:
        found = column_named(analysis, level, name, at)
        if found is not None:
            return found
        row = item_named(analysis, level, "", name)
        if row is None:
            raise RejectedError(UNDEFINED_COLUMN, f'column "{name}" does not exist')
        return whole_row(analysis, level, *row, at)
    before = fields[0].get("String") if len(fields) == 2 else None
    row = None if before is None else item_named(analysis, level, "", before["sval"])
    item, owner = row or _item(analysis, level, fields)
    found = column_of(analysis, level, item, owner, name, at)
    if found is not None:
        return found
    call = Call("", name, [whole_row(analysis, level, item, owner, at)], at, is_column=True)
    called = calls.resolve(analysis, call)
    if called is None:
        raise RejectedError(UNDEFINED_COLUMN, f"column {item.name}.{name} does not exist")
    return called.expr


def _star(analysis: Analysis, level: Level, node: Body) -> Expr:
    """Analyse `x.*` where it is one value."""
    if len(node["fields"]) == 1:
        raise RejectedError("42601", "improper use of *")
    return whole_row(analysis, level, *_item(analysis, level, node["fields"]), location(node))


def _item(analysis: Analysis, level: Level, fields: Sequence[Body]) -> tuple[Item, Level]:
    """Return what stands before a column's name, and whose FROM it is of. Raises RejectedError."""
    before = fields[-2].get("String")
    schema = fields[-3].get("String") if len(fields) > 2 else _NO_SCHEMA
    if before is None or schema is None or (len(fields) > 3 and any("A_Star" in each for each in fields[:-1])):
        raise RejectedError("42601", "improper use of *")
    name = before["sval"]
    row = item_named(analysis, level, schema["sval"], name)
    if row is None:
        raise RejectedError("42P01", f'missing FROM-clause entry for table "{name}"')
    return row


_NO_SCHEMA: Body = {"sval": ""}


def _value_function(analysis: Analysis, level: Level, node: Body) -> Expr:
    return Expr(names.VALUE_TYPES[node["op"]], location(node))


# -- operators ---------------------------------------------------------------------------------------------------------


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
            rows = [analyse(analysis, level, each) for each in (lexpr, rexpr)]
            return _row_operation(analysis, schema, name, rows[0].parts, rows[1].parts, at)
    if left is None and lexpr is not None:
        left = analyse(analysis, level, lexpr)
    return analysis.operator(schema, name, left, analyse(analysis, level, rexpr), at)


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
    left, right = analyse(analysis, level, node["lexpr"]), analyse(analysis, level, node["rexpr"])
    return analysis.array_operator(*qualified(node["name"]), left, right, location(node))


def _distinct(analysis: Analysis, level: Level, node: Body, _: Expr | None) -> Expr:
    """transformAExprDistinct()."""
    at = location(node)
    lexpr, rexpr = node["lexpr"], node["rexpr"]
    for null, other in ((rexpr, lexpr), (lexpr, rexpr)):
        if null.get("A_Const", {}).get("isnull"):
            tested = analyse(analysis, level, other)
            return Expr(oids.BOOL, at, parts=[tested], levels=tested.levels)
    left, right = analyse(analysis, level, lexpr), analyse(analysis, level, rexpr)
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
    left, right = analyse(analysis, level, node["lexpr"]), analyse(analysis, level, node["rexpr"])
    found = analysis.operator(*qualified(node["name"]), left, right, location(node))
    if found.type not in (oids.BOOL, ANY_TYPE):
        raise RejectedError(MISMATCH, "NULLIF requires = operator to yield boolean")
    type_ = found.parts[0].type if found.parts else ANY_TYPE
    return Expr(type_, location(node), parts=found.parts, levels=found.levels)


def _in(analysis: Analysis, level: Level, node: Body, _: Expr | None) -> Expr:
    """transformAExprIn(): one operator for the common type, where the values have one and are no columns."""
    schema, name = qualified(node["name"])
    at = location(node)
    left = analyse(analysis, level, node["lexpr"])
    values = _all(analysis, level, node["rexpr"]["List"]["items"])
    bit = 1 << level.depth
    rest = [each for each in values if each.levels & bit]
    plain = [each for each in values if not each.levels & bit]
    levels = levels_of([left, *values])
    array = 0
    if len(plain) > 1:
        types = [left.type, *(each.type for each in plain)]
        scalar = analysis.coercion.common(types)
        if scalar and scalar != oids.RECORD and (analysis.world.major < 14 or analysis.coercion.fits(scalar, types)):
            array = ANY_TYPE if scalar == ANY_TYPE else analysis.coercion.array(scalar)
        if array:
            for each in plain:
                analysis.to_common(each, scalar)
            analysis.array_operator(schema, name, left, Expr(array, at), at)
            plain = []
    for each in rest if array else values:
        if left.form is Form.ROW and each.form is Form.ROW:
            found = _row_operation(analysis, schema, name, left.parts, each.parts, at)
        else:
            found = analysis.operator(schema, name, left, each, at)
        analysis.to_bool(found)
    return Expr(oids.BOOL, at, parts=[left], levels=levels)


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
    default = Expr(UNKNOWN, -1, Form.CONSTANT, is_null=True)
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
    parts = expand(analysis, level, node.get("args", ()))
    return Expr(oids.RECORD, location(node), Form.ROW, parts=parts, levels=levels_of(parts))


def expand(analysis: Analysis, level: Level, nodes: Sequence[Body]) -> list[Expr]:
    """Analyse a list of expressions in which `x.*` stands for all columns of x: transformExpressionList()."""
    found: list[Expr] = []
    for node in nodes:
        columns = expanded(analysis, level, node)
        if columns is None:
            found.append(analyse(analysis, level, node))
        else:
            found += (expr for _, expr in columns)
    return found


def expanded(analysis: Analysis, level: Level, node: Body) -> list[tuple[str, Expr]] | None:
    """Return the columns that `*`, `x.*` or `(row).*` stands for, with their names; None: it is none of these."""
    if "ColumnRef" in node:
        fields = node["ColumnRef"]["fields"]
        if "A_Star" not in fields[-1]:
            return None
        at = location(node["ColumnRef"])
        if len(fields) == 1:
            return _every_column(analysis, level, at)
        try:
            item, owner = _item(analysis, level, fields)
        except RejectedError:
            if analysis.outside is not None:
                raise NotModelledError("a row from outside") from None
            raise
        analysis.spend(PER_STEP * len(item.columns))
        return [(each.name, variable(analysis, level, owner, each, at)) for each in item.columns]
    if "A_Indirection" in node and "A_Star" in node["A_Indirection"]["indirection"][-1]:
        body = node["A_Indirection"]
        rest = body["indirection"][:-1]
        inner = {"A_Indirection": {**body, "indirection": rest}} if rest else body["arg"]
        value = analyse(analysis, level, inner)
        columns = calls.columns_of(analysis, value)
        if columns is None:
            if value.type == ANY_TYPE:
                raise NotModelledError("columns of an unknown row")
            raise RejectedError(MISMATCH, "type is not composite")
        if value.form is Form.WHOLE_ROW:
            for each in columns:
                analysis.use("var", value.location, each.type)
        return [
            (each.name, Expr(each.type, value.start, levels=value.levels, columns=each.columns)) for each in columns
        ]
    return None


def _every_column(analysis: Analysis, level: Level, at: int) -> list[tuple[str, Expr]]:
    found: list[tuple[str, Expr]] = []
    visible = [item for item in level.items if item.columns_visible and not item.lateral_only]
    if not visible:
        raise RejectedError("42601", "SELECT * with no tables specified is not valid")
    for item in visible:
        analysis.spend(PER_STEP * len(item.columns))
        found += ((each.name, variable(analysis, level, level, each, at)) for each in item.columns)
    return found


def _array(analysis: Analysis, level: Level, node: Body) -> Expr:
    return _array_of(analysis, level, node, 0, 0, -1)


def _array_of(analysis: Analysis, level: Level, node: Body, array: int, element: int, modifier: int) -> Expr:
    """transformArrayExpr(). `array` and `element`: a cast gives it this type."""
    at = location(node)
    nested = False
    found: list[Expr] = []
    for each in node.get("elements", ()):
        if "A_ArrayExpr" in each:
            found.append(_array_of(analysis, level, each["A_ArrayExpr"], array, element, modifier))
            nested = True
        else:
            value = analyse(analysis, level, each)
            found.append(value)
            if not nested and value.type not in (oids.INT2VECTOR, oids.OIDVECTOR):
                nested = bool(analysis.coercion.element(value.type))
    levels = levels_of(found)
    if array:
        wanted = array if nested else element
        for value in found:
            analysis.to_target(value, wanted, modifier, Context.EXPLICIT, -1)
        return Expr(array, at, levels=levels)
    if not found:
        raise RejectedError(INDETERMINATE, "cannot determine type of empty array")
    common = analysis.common(found, "ARRAY")
    result = common if nested or common == ANY_TYPE else analysis.coercion.array(common)
    if not result or (nested and common != ANY_TYPE and not analysis.coercion.element(common)):
        raise RejectedError(UNDEFINED_OBJECT, "could not find array type")
    for value in found:
        analysis.to_common(value, common)
    return Expr(result, at, levels=levels)


def _cast(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformTypeCast()."""
    type_, modifier = names.type_named(analysis, node["typeName"])
    argument = node["arg"]
    if "A_ArrayExpr" in argument:
        base = analysis.coercion.base(type_)
        element = analysis.coercion.element(base)
        body = argument["A_ArrayExpr"]
        value = _array_of(analysis, level, body, base if element else 0, element, modifier)
    else:
        value = analyse(analysis, level, argument)
    at = location(node)
    if at < 0:
        at = location(node["typeName"])
    found = analysis.to_target(value, type_, modifier, Context.EXPLICIT, at)
    if found.form is Form.OTHER and found.type != value.type and at >= 0:
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
            value = _subscript(analysis, level, value, subscripts)
            subscripts = []
        name = each["String"]["sval"]
        called = calls.resolve(analysis, Call("", name, [value], value.start, is_column=True))
        if called is None:
            raise RejectedError(UNDEFINED_COLUMN, f'could not identify column "{name}" in record data type')
        value = called.expr
    return _subscript(analysis, level, value, subscripts) if subscripts else value


def _subscript(analysis: Analysis, level: Level, value: Expr, subscripts: Sequence[Body]) -> Expr:
    """transformContainerSubscripts()."""
    container = analysis.coercion.base(value.type)
    indices = [analyse(analysis, level, each[key]) for each in subscripts for key in ("lidx", "uidx") if key in each]
    levels = value.levels | levels_of(indices)
    sliced = any(each.get("is_slice") for each in subscripts)
    row = analysis.world.types.get(container)
    if container == ANY_TYPE or row is None:
        analysis.open(indices)
        return Expr(ANY_TYPE, value.location, levels=levels)
    if container == oids.INT2VECTOR:
        container = analysis.coercion.array(oids.INT2)
    elif container == oids.OIDVECTOR:
        container = analysis.coercion.array(oids.OID)
    if not row.can_be_subscripted:
        raise RejectedError(MISMATCH, "cannot subscript type because it does not support subscripting")
    analysis.use("subscript", value.location, container)
    if container >= 16384 and not row.is_array:
        analysis.use("everything", value.location, container)
    if container == oids.JSONB:
        for each in indices:
            wanted = next(
                (t for t in (oids.INT4, oids.TEXT) if each.type != UNKNOWN and analysis.coercion.can([each.type], [t])),
                oids.TEXT,
            )
            analysis.to_specific(each, wanted) if each.type != UNKNOWN else analysis.coerce(each, oids.TEXT)
        return Expr(oids.JSONB, value.location, levels=levels)
    element = analysis.coercion.element(container) or (row.element if row.oid < oids.FIRST_NORMAL else 0)
    if not element:
        analysis.open(indices)
        return Expr(ANY_TYPE, value.location, levels=levels)
    for each in indices:
        analysis.to_specific(each, oids.INT4)
    return Expr(container if sliced else element, value.location, levels=levels)


# -- subqueries --------------------------------------------------------------------------------------------------------


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
    test = analyse(analysis, level, node["testexpr"])
    left = list(test.parts) if test.form is Form.ROW else [test]
    right = [Expr(each.type, at) for each in columns]
    if len(left) != len(right):
        raise RejectedError("42601", "subquery has another number of columns")
    schema, name = qualified(node["operName"]) if "operName" in node else ("", "=")
    found = _row_operation(analysis, schema, name, left, right, at)
    return Expr(found.type, at, parts=left, levels=levels | found.levels)


# -- calls -------------------------------------------------------------------------------------------------------------


def _call(analysis: Analysis, level: Level, node: Body) -> Expr:
    """transformFuncCall()."""
    analysis.steps += 1
    schema, name = names.meant(analysis, node, *qualified(node["funcname"]))
    at = location(node)
    if names.is_system_user(analysis, node):
        return _column(analysis, level, {"fields": node["funcname"][1:], "location": at})
    arguments: list[Expr] = []
    argument_names: list[str] = []
    for each in node.get("args", ()):
        if "NamedArgExpr" in each:
            argument_names.append(each["NamedArgExpr"]["name"])
            arguments.append(analyse(analysis, level, each["NamedArgExpr"]["arg"]))
        else:
            if argument_names:
                raise RejectedError("42601", "positional argument cannot follow named argument")
            arguments.append(analyse(analysis, level, each))
    if len(set(argument_names)) < len(argument_names):
        raise RejectedError("42601", "argument name used more than once")
    within = bool(node.get("agg_within_group"))
    order = node.get("agg_order", ())
    sorted_ = [analyse(analysis, level, each["SortBy"]["node"]) for each in order] if within else []
    if "agg_filter" in node:
        analysis.to_bool(analyse(analysis, level, node["agg_filter"]))
    plain = not ("agg_order" in node or "agg_filter" in node or "over" in node or within)
    plain = plain and not node.get("agg_star") and not node.get("agg_distinct")
    called = calls.resolve(
        analysis,
        Call(
            schema,
            name,
            arguments,
            at,
            argument_names,
            within=sorted_,
            is_within=within,
            variadic=bool(node.get("func_variadic")),
            plain=plain,
        ),
    )
    if called is None:
        raise NotModelledError("a call that is none")
    if called.function is None and not plain and called.expr.type != ANY_TYPE:
        raise RejectedError("42809", f"{name} is not an aggregate function")
    if within:
        for expr, each in zip(list(called.arguments)[len(arguments) :], order, strict=False):
            sorting.sort_by(analysis, expr, each["SortBy"])
    else:
        for each in order:
            sorting.sort_by(analysis, analyse(analysis, level, each["SortBy"]["node"]), each["SortBy"])
    if node.get("agg_distinct"):
        for expr in called.arguments:
            analysis.sort(analysis.to_text(expr))
    if "over" in node and "name" not in node["over"]:
        level.inline_windows.append(node["over"])
    return called.expr


def _grouping(analysis: Analysis, level: Level, node: Body) -> Expr:
    _all(analysis, level, node.get("args", ()))
    return Expr(oids.INT4, location(node))


_KINDS: dict[str, Callable[[Analysis, Level, Body], Expr]] = {
    "A_Const": _constant,
    "ParamRef": _parameter,
    "ColumnRef": _column,
    "SQLValueFunction": _value_function,
    "A_Expr": _expression,
    "BoolExpr": _bool,
    "NullTest": _test,
    "BooleanTest": _bool_test,
    "CaseExpr": _case,
    "CoalesceExpr": _coalesce,
    "MinMaxExpr": _least,
    "RowExpr": _row,
    "A_ArrayExpr": _array,
    "TypeCast": _cast,
    "CollateClause": _collate,
    "A_Indirection": _indirection,
    "SubLink": _sublink,
    "FuncCall": _call,
    "GroupingFunc": _grouping,
    **documents.KINDS,
    **sql_json.KINDS,
}

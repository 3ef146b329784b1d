"""Analyse what FROM names: parser/parse_clause.c, parser/parse_relation.c."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from proxy.sql.resolve import calls, documents, names, oids, sql_json
from proxy.sql.resolve.analysis import UNDEFINED_COLUMN, Analysis
from proxy.sql.resolve.expressions import analyse
from proxy.sql.resolve.names import location
from proxy.sql.resolve.oids import ANY_TYPE
from proxy.sql.resolve.tree import Body, Expr, Form, Item, Level, NotModelledError, RejectedError, WithQuery
from proxy.sql.resolve.world import Column, columns_of


def from_clause(analysis: Analysis, level: Level, nodes: Sequence[Body]) -> None:
    """Add what FROM names to a level, one by one: transformFromClause()."""
    named: dict[str, list[Item]] = {}
    for node in nodes:
        found = _item(analysis, level, node)
        if len(nodes) > 1:
            _add_names(named, found)
        level.items += found
        for item in found:
            item.lateral_only = True
            item.lateral_allowed = True
    for item in level.items:
        item.lateral_only = False
        item.lateral_allowed = True


def _add_names(named: dict[str, list[Item]], added: Sequence[Item]) -> None:
    """checkNameSpaceConflicts(): a table without an alias may stand twice, in two schemas."""
    for item in added if named else ():
        for other in named.get(item.name, ()) if item.named else ():
            if not (item.relation and other.relation and item.relation != other.relation):
                raise RejectedError("42712", f'table name "{item.name}" specified more than once')
    for item in added:
        if item.named:
            named.setdefault(item.name, []).append(item)


def _item(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    ((kind, body),) = node.items()
    function = _KINDS.get(kind)
    if function is None:
        raise NotModelledError(kind)
    return function(analysis, level, body)


# -- tables ------------------------------------------------------------------------------------------------------------


def _table(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    schema, name = node.get("schemaname", ""), node["relname"]
    query = None if schema else _query_named(level, name)
    alias = node.get("alias")
    if query is not None:
        if query.columns is None:
            raise RejectedError("42P19", "recursive reference to query must not appear here")
        columns = _renamed(query.columns, alias, name)
        return [Item(alias["aliasname"] if alias else name, columns, hidden=query.added)]
    relation = analysis.search.relation(schema, name)
    if relation is None:
        raise RejectedError("42P01", f'relation "{name}" does not exist')
    if relation.kind == "c":
        raise RejectedError("42809", f'cannot open relation "{name}"')
    analysis.noted["relation"].append((node.get("location", 0), relation.oid))
    columns, by_name = columns_of(relation.shape)
    renamed = _renamed(columns, alias, name) if alias else columns
    return [
        Item(
            alias["aliasname"] if alias else name,
            renamed,
            relation.row_type or oids.RECORD,
            0 if alias else relation.oid,
            is_table=relation.kind not in "vc",
            by_name=by_name if renamed is columns else None,
        )
    ]


def _query_named(level: Level, name: str) -> WithQuery | None:
    around: Level | None = level
    while around is not None:
        if name in around.queries:
            return around.queries[name]
        around = around.parent
    return None


def _renamed(columns: Sequence[Column], alias: Body | None, what: str) -> Sequence[Column]:
    """Give columns the names that an alias has for them: buildRelationAliases()."""
    if not alias or "colnames" not in alias:
        return columns
    new = [each["String"]["sval"] for each in alias["colnames"]]
    if len(new) > len(columns):
        raise RejectedError("42P10", f'table "{what}" has fewer columns than specified')
    return [column if at >= len(new) else replace(column, name=new[at]) for at, column in enumerate(columns)]


def _sample(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    """transformRangeTableSample()."""
    found = _item(analysis, level, node["relation"])
    schema, name = names.qualified(node["method"])
    method = next(
        (
            each
            for _, each in analysis.search.functions(schema, name)
            if each.arguments == (oids.INTERNAL,) and each.result == oids.TSM_HANDLER
        ),
        None,
    )
    if method is None:
        raise RejectedError("42704", f"tablesample method {name} does not exist")
    analysis.use("sample", location(node), method.oid)
    # system and bernoulli take a float4; the others are in contrib, and take an int8 or a float8
    wanted = (
        oids.FLOAT4
        if method.oid < oids.FIRST_NORMAL
        else {"system_rows": oids.INT8, "system_time": oids.FLOAT8}.get(name, 0)
    )
    for each in node.get("args", ()):
        value = analyse(analysis, level, each)
        if wanted:
            analysis.to_specific(value, wanted)
        else:
            analysis.open([value])
    if "repeatable" in node:
        analysis.to_specific(analyse(analysis, level, node["repeatable"]), oids.FLOAT8)
    return found


def _subquery(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    level.lateral = bool(node.get("lateral"))
    query = analysis.query(analysis, node["subquery"], level, True)
    level.lateral = False
    alias = node.get("alias")
    columns = _renamed(query.columns, alias, alias["aliasname"] if alias else "unnamed_subquery")
    return [Item(alias["aliasname"] if alias else "unnamed_subquery", columns, named=alias is not None)]


# -- functions ---------------------------------------------------------------------------------------------------------


def _function(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    """transformRangeFunction()."""
    pairs: list[tuple[Body, Sequence[Body] | None]] = []
    for each in node["functions"]:
        call, definitions = each["List"]["items"]
        columns = definitions["List"]["items"] if definitions else None
        pairs += ((one, columns) for one in _unnested(call, columns))
    if "coldeflist" in node:
        if len(pairs) != 1:
            raise RejectedError("42601", "multiple functions with a column definition list")
        pairs = [(pairs[0][0], node["coldeflist"])]
    alias = node.get("alias")
    level.lateral = True
    found: list[Column] = []
    scalar = False
    row_type = oids.RECORD
    for call, definitions in pairs:
        value = analyse(analysis, level, call)
        columns, is_scalar = _columns(analysis, value, call, definitions, alias if len(pairs) == 1 else None)
        found += columns
        scalar = is_scalar
        row_type = value.type if analysis.coercion.relation(value.type) else oids.RECORD
    level.lateral = False
    ordinality = bool(node.get("ordinality"))
    if ordinality:
        found.append(Column("ordinality", oids.INT8, -1))
    if ordinality or len(pairs) != 1:
        scalar, row_type = False, oids.RECORD
    name = alias["aliasname"] if alias else names.output_name(analysis, pairs[0][0])
    return [Item(name, _renamed(found, alias, name), row_type, scalar=scalar)]


def _unnested(call: Body, definitions: object) -> list[Body]:
    """Give a call of unnest with several arrays as one for each, which is pg_catalog's."""
    body = call.get("FuncCall")
    if body is None or definitions is not None or len(body["funcname"]) != 1:
        return [call]
    arguments = body.get("args", ())
    special = {"agg_order", "agg_filter", "over", "agg_star", "agg_distinct", "func_variadic"}
    if body["funcname"][0]["String"]["sval"] != "unnest" or len(arguments) < 2 or special & body.keys():
        return [call]
    name = [{"String": {"sval": "pg_catalog"}}, {"String": {"sval": "unnest"}}]
    return [{"FuncCall": {**body, "funcname": name, "args": [each]}} for each in arguments]


def _columns(
    analysis: Analysis, value: Expr, call: Body, definitions: Sequence[Body] | None, alias: Body | None
) -> tuple[list[Column], bool]:
    """Return the columns of a function in FROM, and whether it is no row: addRangeTableEntryForFunction()."""
    if definitions is not None:
        return [_defined(analysis, each["ColumnDef"]) for each in definitions], False
    columns = calls.columns_of(analysis, value)
    if columns is not None:
        return list(columns), False
    if value.type == oids.RECORD:
        raise RejectedError("42601", "a column definition list is required for functions returning record")
    if value.type == ANY_TYPE:
        raise NotModelledError("columns of an unknown function")
    name = _only_output(analysis, call) or (alias["aliasname"] if alias else names.output_name(analysis, call))
    return [Column(name, value.type, value.modifier)], True


def _only_output(analysis: Analysis, call: Body) -> str:
    """Return the name of the one OUT parameter of the function that a call has picked: get_func_result_name()."""
    body = call.get("FuncCall")
    if body is None:
        return ""
    at = location(body)
    for place, found in reversed(analysis.noted["function"]):
        if place == at:
            function = analysis.world.functions[found]
            outputs = [name for name, mode in zip(function.names, function.modes, strict=False) if mode in "obt"]
            return outputs[0] if len(outputs) == 1 else ""
    return ""


def _defined(analysis: Analysis, node: Body) -> Column:
    type_, modifier = names.type_named(analysis, node["typeName"])
    analysis.use("input", location(node), type_)  # json_to_record() and its like read it
    return Column(node["colname"], type_, modifier)


def _xml_table(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    return _document(level, node, "xmltable", lambda: documents.xml_table(analysis, level, node))


def _json_table(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    return _document(level, node, "json_table", lambda: sql_json.json_table(analysis, level, node))


def _document(level: Level, node: Body, name: str, columns: Callable[[], Sequence[Column]]) -> list[Item]:
    level.lateral = True
    found = columns()
    level.lateral = False
    alias = node.get("alias")
    name = alias["aliasname"] if alias else name
    return [Item(name, _renamed(found, alias, name))]


# -- joins -------------------------------------------------------------------------------------------------------------


def _join(analysis: Analysis, level: Level, node: Body) -> list[Item]:
    """Analyse a JoinExpr: transformFromClauseItem()."""
    left = _item(analysis, level, node["larg"])
    kind = node.get("jointype", "JOIN_INNER")
    before = len(level.items)
    for item in left:
        item.lateral_only = True
        item.lateral_allowed = kind in ("JOIN_INNER", "JOIN_LEFT")
    level.items += left
    right = _item(analysis, level, node["rarg"])
    del level.items[before:]
    named: dict[str, list[Item]] = {}
    for side in (left, right):
        _add_names(named, side)
    if not ("isNatural" in node or "usingClause" in node or "alias" in node):
        if "quals" in node:
            _condition(analysis, level, [*left, *right], node["quals"])
        for item in (*left, *right):
            item.in_join = True
        return [*left, *right]
    return _merged(analysis, level, node, left, right)


def _merged(analysis: Analysis, level: Level, node: Body, left: list[Item], right: list[Item]) -> list[Item]:
    """Return the items of a join that has columns of its own: merged ones, or those of its alias."""
    left_columns = [column for item in left if item.columns_visible for column in item.columns]
    right_columns = [column for item in right if item.columns_visible for column in item.columns]
    analysis.spend(len(left_columns) + len(right_columns))
    using = _using(node, left_columns, right_columns)
    pairs = [(_one(left_columns, name), _one(right_columns, name)) for name in using]
    merged = [_merge(analysis, level, *pair) for pair in pairs]
    for one, other in pairs:
        analysis.to_bool(analysis.operator("", "=", _side(one, level), _side(other, level), -1))
    names_ = set(using)
    columns = [*merged, *(each for each in (*left_columns, *right_columns) if each.name not in names_)]
    if "quals" in node:
        _condition(analysis, level, [*left, *right], node["quals"])
    alias = node.get("alias")
    if alias:
        found = [Item(alias["aliasname"], _renamed(columns, alias, alias["aliasname"]))]
    else:
        # the sides' own items may still be named, not their columns alone
        for item in (*left, *right):
            item.columns_visible = False
        found = [*left, *right, Item("", columns, named=False)]
    using_alias = node.get("join_using_alias")
    if using_alias:
        found.append(Item(using_alias["aliasname"], merged, columns_visible=False, is_constructed=True))
    return found


def _using(node: Body, left: Sequence[Column], right: Sequence[Column]) -> list[str]:
    """Return the names of the columns that are merged."""
    if not node.get("isNatural"):
        return [each["String"]["sval"] for each in node.get("usingClause", ())]
    common = {each.name for each in right}
    return [each.name for each in left if each.name in common]


def _merge(analysis: Analysis, level: Level, left: Column, right: Column) -> Column:
    """Return the column that two become: buildMergedJoinVar()."""
    # No node of the tree is a column of these, but they are compared: an array by the operators of its elements.
    analysis.types.update((left.type, right.type))
    type_ = left.type
    if type_ != right.type:
        sides = (_side(left, level), _side(right, level))
        type_ = analysis.common(sides, "JOIN/USING")
        for expr in sides:
            analysis.coerce(expr, type_)
    return Column(left.name, type_, left.modifier if left == right else -1)


def _condition(analysis: Analysis, level: Level, items: Sequence[Item], quals: Body) -> None:
    """Analyse ON with what the join's two sides have, and nothing else of this FROM: transformJoinOnClause()."""
    saved = level.items
    for item in items:
        item.lateral_only = False
        item.lateral_allowed = True
    level.items = list(items)
    analysis.to_bool(analyse(analysis, level, quals))
    level.items = saved


def _one(columns: Sequence[Column], name: str) -> Column:
    found = [each for each in columns if each.name == name]
    if len(found) > 1:
        raise RejectedError("42702", f'common column name "{name}" appears more than once')
    if not found:
        raise RejectedError(UNDEFINED_COLUMN, f'column "{name}" specified in USING clause does not exist')
    return found[0]


def _side(column: Column, level: Level) -> Expr:
    return Expr(column.type, -1, Form.COLUMN, column.modifier, levels=1 << level.depth)


_KINDS: dict[str, Callable[[Analysis, Level, Body], list[Item]]] = {
    "RangeVar": _table,
    "RangeTableSample": _sample,
    "RangeSubselect": _subquery,
    "RangeFunction": _function,
    "RangeTableFunc": _xml_table,
    "JsonTable": _json_table,
    "JoinExpr": _join,
}

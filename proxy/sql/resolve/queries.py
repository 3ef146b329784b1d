"""Analyse queries: transformSelectStmt() and what is beside it in parser/analyze.c, parser/parse_cte.c.

The order is the server's own: it decides where a parameter without a type gets one.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set

from msgspec.structs import replace

from proxy.sql.resolve import calls, names, oids, sorting
from proxy.sql.resolve.analysis import PER_STEP, Analysis
from proxy.sql.resolve.columns import expand, expanded
from proxy.sql.resolve.expressions import analyse
from proxy.sql.resolve.from_clause import from_clause
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.scopes import has_column
from proxy.sql.resolve.tree import Body, Expr, Form, Level, NotModelledError, Query, RejectedError, Target, WithQuery
from proxy.sql.resolve.world import Column

MAX_LEVELS = 40
"""Queries within each other that are looked into."""
_SET_NAMES = {"SETOP_UNION": "UNION", "SETOP_INTERSECT": "INTERSECT", "SETOP_EXCEPT": "EXCEPT"}


def statement(analysis: Analysis, node: Body) -> list[Target]:
    """Analyse a statement of its own, and return its output columns. Raises RejectedError."""
    return _outputs(analysis, Level(None, 0), _select(node), resolve=True)


def query(analysis: Analysis, node: Body, parent: Level | None, resolve: bool) -> Query:
    """Analyse a query and return its output. `resolve`: literals left open become text. Raises RejectedError."""
    level = _below(parent)
    found = _outputs(analysis, level, _select(node), resolve=resolve)
    columns = [calls.output_column(each.name, each.expr) for each in found]
    return Query(columns, level.used & ((1 << level.depth) - 1))


def _select(node: Body) -> Body:
    """Return the body of a SelectStmt; nothing else is a query that is looked into."""
    select: Body | None = node.get("SelectStmt")
    if select is None:
        raise NotModelledError(names.kind_of(node)[0])
    return select


def _below(parent: Level | None) -> Level:
    level = Level(parent, 0 if parent is None else parent.depth + 1)
    if level.depth > MAX_LEVELS:
        raise NotModelledError("queries within each other")
    return level


def _outputs(
    analysis: Analysis, level: Level, body: Body, *, resolve: bool, recursive: WithQuery | None = None
) -> list[Target]:
    if "withClause" in body:
        _with(analysis, level, body["withClause"])
    if "intoClause" in body:
        raise NotModelledError("INTO")
    is_operation = body.get("op", "SETOP_NONE") != "SETOP_NONE"
    if is_operation or "valuesLists" in body:
        found = _set_operations(analysis, level, body, recursive) if is_operation else _values(analysis, level, body)
        _sort(analysis, level, found, body)
        _limit(analysis, level, body)
    else:
        found = _plain(analysis, level, body)
    for definition in (*level.windows.values(), *level.inline_windows):
        sorting.window(analysis, level, definition)
    if resolve:
        for each in found:
            if each.expr.type == UNKNOWN:
                each.expr = analysis.to_text(each.expr)
    return found


def _plain(analysis: Analysis, level: Level, body: Body) -> list[Target]:
    if "windowClause" in body:
        level.windows = {each["WindowDef"]["name"]: each["WindowDef"] for each in body["windowClause"]}
    if "fromClause" in body:
        from_clause(analysis, level, body["fromClause"])
    targets = _targets(analysis, level, body.get("targetList", ()))
    for key in ("whereClause", "havingClause"):
        if key in body:
            condition = analyse(analysis, level, body[key])
            if condition.type != oids.BOOL:
                analysis.to_bool(condition)
    if "sortClause" in body:
        _sort(analysis, level, targets, body)
    if "groupClause" in body:
        for each in sorting.flattened(body["groupClause"]):
            _group(analysis, level, targets, each)
    if "distinctClause" in body:
        _distinct(analysis, level, targets, body["distinctClause"])
    _limit(analysis, level, body)
    return targets


def _sort(analysis: Analysis, level: Level, targets: list[Target], body: Body) -> None:
    for each in body.get("sortClause", ()):
        sort = each["SortBy"]
        at = _found_target(analysis, level, targets, sort["node"], grouping=False)
        if isinstance(at, int):
            targets[at].expr = sorting.sort_by(analysis, targets[at].expr, sort)
        else:
            sorting.sort_by(analysis, at, sort)


def _limit(analysis: Analysis, level: Level, body: Body) -> None:
    for key in ("limitOffset", "limitCount"):
        if key in body:
            analysis.to_specific(analyse(analysis, level, body[key]), oids.INT8)


def _targets(analysis: Analysis, level: Level, nodes: Sequence[Body]) -> list[Target]:
    found: list[Target] = []
    for each in nodes:
        target = each["ResTarget"]
        value = target["val"]
        column = value.get("ColumnRef")
        last = None if column is None else column["fields"][-1].get("String")
        if last is not None:  # nothing else is as frequent
            found.append(Target(target.get("name") or last["sval"], analyse(analysis, level, value)))
            continue
        columns = expanded(analysis, level, value)
        if columns is not None:
            found += [Target(name, expr) for name, expr in columns]
            continue
        expr = analyse(analysis, level, value)
        found.append(Target(target.get("name") or names.output_name(analysis, value), expr))
    return found


def _found_target(
    analysis: Analysis, level: Level, targets: Sequence[Target], node: Body, *, grouping: bool
) -> int | Expr:
    """Return the output column that ORDER BY or GROUP BY means, or else the expression: findTargetlistEntrySQL92()."""
    name = _only_name(node)
    if name and not (grouping and has_column(analysis, level, name)):
        if len(targets) > PER_STEP:
            analysis.spend(len(targets))
        for at, each in enumerate(targets):
            if each.name == name:
                return at
    constant = node.get("A_Const")
    if constant is not None and _is_place(analysis, constant):
        return _target_at(analysis, targets, constant)
    return analyse(analysis, level, node)


def _only_name(node: Body) -> str:
    """Return the name of a column that nothing stands before; empty: it is something else."""
    column = node.get("ColumnRef")
    if column is None or len(column["fields"]) > 1:
        return ""
    name: str = column["fields"][0].get("String", {}).get("sval", "")
    return name


def _is_place(analysis: Analysis, constant: Body) -> bool:
    """Tell whether a constant in ORDER BY or GROUP BY means an output column: TRUE was a cast before 15."""
    return not ("boolval" in constant and analysis.world.major < 15)


def _target_at(analysis: Analysis, targets: Sequence[Target], constant: Body) -> int:
    if "ival" not in constant:
        raise RejectedError("42601", "non-integer constant in ORDER BY or GROUP BY")
    at: int = constant["ival"].get("ival", 0)
    if not 0 < at <= len(targets):
        raise RejectedError("42P10", f"position {at} is not in select list")
    if len(targets) > PER_STEP:
        analysis.spend(len(targets))
    types = {each.expr.type for each in targets}
    analysis.by_place = analysis.by_place or UNKNOWN in types
    analysis.compares_by_place = analysis.compares_by_place or len(types) > 1 or ANY_TYPE in types
    return at - 1


def _group(analysis: Analysis, level: Level, targets: list[Target], node: Body) -> None:
    """transformGroupClause()."""
    if "GroupingSet" in node:
        for each in sorting.flattened(node["GroupingSet"].get("content", ())):
            _group(analysis, level, targets, each)
        return
    _compare(analysis, targets, _found_target(analysis, level, targets, node, grouping=True))


def _compare(analysis: Analysis, targets: list[Target], at: int | Expr) -> None:
    """Record how equal values of an output column, or of an expression, are found: addTargetToGroupList()."""
    expr = targets[at].expr if isinstance(at, int) else at
    if expr.type == UNKNOWN:
        expr = analysis.to_text(expr)
        if isinstance(at, int):
            targets[at].expr = expr
    analysis.group(expr.type, expr.location)


def _distinct(analysis: Analysis, level: Level, targets: list[Target], nodes: Sequence[Body]) -> None:
    """transformDistinctClause(), transformDistinctOnClause()."""
    wanted: list[int | Expr] = [_found_target(analysis, level, targets, node, grouping=False) for node in nodes if node]
    if not wanted:
        wanted = list(range(len(targets)))
    for at in wanted:
        _compare(analysis, targets, at)


# -- VALUES, UNION -----------------------------------------------------------------------------------------------------


def _values(analysis: Analysis, level: Level, body: Body) -> list[Target]:
    """transformValuesClause()."""
    rows = [expand(analysis, level, each["List"]["items"]) for each in body["valuesLists"]]
    if len({len(row) for row in rows}) > 1:
        raise RejectedError("42601", "VALUES lists must all be the same length")
    found: list[Target] = []
    for at in range(len(rows[0])):
        column = [row[at] for row in rows]
        common = analysis.common(column, "VALUES")
        converted = [analysis.to_common(each, common) for each in column]
        modifiers = {each.modifier for each in converted}
        modifier = modifiers.pop() if len(modifiers) == 1 else -1
        found.append(Target(f"column{at + 1}", Expr(common, converted[0].location, modifier=modifier)))
    return found


def _set_operations(analysis: Analysis, level: Level, body: Body, recursive: WithQuery | None) -> list[Target]:
    """transformSetOperationTree(): a chain of them is followed without going deeper for each."""
    chain = [body]
    while _is_operation(chain[-1]["larg"]):
        chain.append(chain[-1]["larg"])
    found = _side(analysis, level, chain[-1]["larg"])
    for each in reversed(chain):
        if recursive is not None and each is body:
            recursive.columns = _first_columns(recursive, found)
        found = _merge(analysis, each, found, _side(analysis, level, each["rarg"]))
    if recursive is not None and recursive.columns is not None:
        for target, column in zip(found, recursive.columns, strict=False):
            if target.expr.type != column.type and ANY_TYPE not in (target.expr.type, column.type):
                raise RejectedError("42804", f'recursive query "{recursive.name}" column has another type overall')
    return found


def _side(analysis: Analysis, level: Level, body: Body) -> list[Target]:
    if _is_operation(body):
        return _set_operations(analysis, level, body, None)
    return _outputs(analysis, _below(level), body, resolve=False)


def _is_operation(body: Body) -> bool:
    """Tell whether it is a set operation without clauses of its own, which would make it a query within."""
    if body.get("op", "SETOP_NONE") == "SETOP_NONE":
        return False
    return not body.keys() & {"sortClause", "limitOffset", "limitCount", "lockingClause", "withClause"}


def _merge(analysis: Analysis, body: Body, left: Sequence[Target], right: Sequence[Target]) -> list[Target]:
    name = _SET_NAMES[body["op"]]
    if len(left) != len(right):
        raise RejectedError("42601", f"each {name} query must have the same number of columns")
    found: list[Target] = []
    for one, other in zip(left, right, strict=True):
        pair = (one.expr, other.expr)
        common = analysis.common(pair, name)
        for expr in pair:
            if expr.type != UNKNOWN or expr.form in (Form.CONSTANT, Form.PARAMETER):
                analysis.to_common(expr, common)
        if name != "UNION" or not body.get("all"):
            analysis.group(common, -1)
        modifier = one.expr.modifier if one.expr.modifier == other.expr.modifier else -1
        found.append(Target(one.name, Expr(common, one.expr.location, modifier=modifier)))
    return found


# -- WITH --------------------------------------------------------------------------------------------------------------


def _first_columns(query_: WithQuery, left: Sequence[Target]) -> list[Column]:
    """Fix the columns of a recursive query by what it begins with: determineRecursiveColTypes()."""
    columns = [
        replace(
            calls.output_column(each.name, each.expr), type=oids.TEXT if each.expr.type == UNKNOWN else each.expr.type
        )
        for each in left
    ]
    return _renamed(columns, query_.names)


def _renamed(columns: Sequence[Column], new: Sequence[str]) -> list[Column]:
    if len(new) > len(columns):
        raise RejectedError("42P10", "WITH query has fewer columns than specified")
    return [replace(column, name=new[at]) if at < len(new) else column for at, column in enumerate(columns)]


def _with(analysis: Analysis, level: Level, clause: Body) -> None:
    """transformWithClause(). With RECURSIVE a query is analysed before those that name it."""
    bodies = [each["CommonTableExpr"] for each in clause["ctes"]]
    if len({each["ctename"] for each in bodies}) < len(bodies):
        raise RejectedError("42712", "WITH query name specified more than once")
    recursive = bool(clause.get("recursive"))
    queries = {each["ctename"]: _query_of(each) for each in bodies}
    if recursive:
        level.queries |= queries
    for each in _in_order(bodies) if recursive else bodies:
        found = queries[each["ctename"]]
        _analyse_with(analysis, level, found, each, recursive=recursive)
        level.queries[found.name] = found


def _query_of(body: Body) -> WithQuery:
    return WithQuery(body["ctename"], None, [each["String"]["sval"] for each in body.get("aliascolnames", ())])


def _in_order(bodies: Sequence[Body]) -> list[Body]:
    """Put queries behind those that they name, others as they stand: TopologicalSort()."""
    places = {each["ctename"]: at for at, each in enumerate(bodies)}
    waits = [_named(each["ctequery"], places.keys()) - {each["ctename"]} for each in bodies]
    behind: list[list[int]] = [[] for _ in bodies]
    for at, names_ in enumerate(waits):
        for name in names_:
            behind[places[name]].append(at)
    ready = [at for at, names_ in enumerate(waits) if not names_]
    found: list[Body] = []
    while ready:
        first = heapq.heappop(ready)
        found.append(bodies[first])
        for at in behind[first]:
            waits[at].discard(bodies[first]["ctename"])
            if not waits[at]:
                heapq.heappush(ready, at)
    if len(found) < len(bodies):
        raise RejectedError("0A000", "mutual recursion between WITH items is not implemented")
    return found


def _named(node: object, wanted: Set[str]) -> set[str]:
    """Give the names among these that tables in a tree have; a WITH inside that hides one is not looked at."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if "relname" in part and "schemaname" not in part and part["relname"] in wanted:
                found.add(part["relname"])
            waiting += part.values()
    return found


def _analyse_with(analysis: Analysis, level: Level, found: WithQuery, body: Body, *, recursive: bool) -> None:
    """analyzeCTE()."""
    kind, select = names.kind_of(body["ctequery"])
    if kind != "SelectStmt":
        raise NotModelledError(kind)
    is_recursive = recursive and found.name in _named(select, {found.name})
    operation = select.get("op") == "SETOP_UNION"
    inner = _below(level)
    found.added = _searched(analysis, level, body)
    targets = _outputs(analysis, inner, select, resolve=True, recursive=found if is_recursive and operation else None)
    columns = [calls.output_column(each.name, each.expr) for each in targets]
    found.columns = [*_renamed(columns, found.names), *found.added]
    found.added = ()
    if "cycle_clause" in body:
        _cycled(analysis, found.columns, body["cycle_clause"])


def _cycled(analysis: Analysis, columns: Sequence[Column], cycle: Body) -> None:
    """Record how rows of the columns of CYCLE are sought among those on the path: rewriteSearchAndCycle()."""
    cycled = {each["String"]["sval"] for each in cycle["cycle_col_list"]}
    for column in columns:
        if column.name in cycled:
            analysis.use("compare", -1, column.type)


def _searched(analysis: Analysis, level: Level, body: Body) -> list[Column]:
    """Return the columns that SEARCH and CYCLE add."""
    found: list[Column] = []
    search = body.get("search_clause")
    if search is not None:
        depth = not search.get("search_breadth_first")
        found.append(Column(search["search_seq_column"], oids.RECORD_ARRAY if depth else oids.RECORD, -1))
    cycle = body.get("cycle_clause")
    if cycle is not None:
        value = analyse(analysis, level, cycle["cycle_mark_value"])
        default = analyse(analysis, level, cycle["cycle_mark_default"])
        common = analysis.common([value, default], "CYCLE")
        for each in (value, default):
            analysis.to_common(each, common)
        analysis.inequality(common)
        found.append(Column(cycle["cycle_mark_column"], common, -1))
        found.append(Column(cycle["cycle_path_column"], oids.RECORD_ARRAY, -1))
    return found

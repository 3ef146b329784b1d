"""Analyse ORDER BY and window frames: parser/parse_clause.c."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from proxy.sql.resolve import oids
from proxy.sql.resolve.analysis import Analysis
from proxy.sql.resolve.calls import Called, is_dropped
from proxy.sql.resolve.names import kind_of, qualified
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.tree import Body, Expr, Level, RejectedError

FRAME_RANGE = 0x00002  # FRAMEOPTION_RANGE, nodes/parsenodes.h


def sort_by(analysis: Analysis, expr: Expr, node: Body) -> Expr:
    """Record how an expression is put in order, and return what is: addTargetToSortList()."""
    expr = analysis.to_text(expr)
    if "useOp" not in node:
        analysis.sort(expr, descending=node.get("sortby_dir") == "SORTBY_DESC")
        return expr
    found = analysis.choosing.operation(*qualified(node["useOp"]), expr.type, expr.type).operators
    if not found:
        raise RejectedError("42883", "operator does not exist")
    analysis.use_one_of("sort", expr.location, [each.oid for each in found])
    equal: set[int] = set()
    for each in found:
        for family, strategy in analysis.world.strategies.get(each.oid, ()):
            if strategy in (oids.BT_LESS, oids.BT_GREATER):
                equal.add(analysis.world.members.get((family, each.left, each.right, oids.BT_EQUAL), 0))
    equal.discard(0)
    if not equal:
        raise RejectedError("42809", "operator is not a valid ordering operator")
    analysis.use_one_of("group", expr.location, equal)
    analysis.use("order", expr.location, expr.type)
    return expr


def sort_arguments(analysis: Analysis, level: Level, node: Body, given: Sequence[Expr], called: Called) -> None:
    """Analyse the ORDER BY of an aggregate, one expression after the other: transformAggregateCall() (parse_agg.c).

    One that is equal to an argument sorts by what that has become, converted to the type that the aggregate takes.
    What stands in WITHIN GROUP is an argument itself.
    """
    if node.get("agg_within_group"):
        for taken, each in zip(called.arguments[len(given) :], node["agg_order"], strict=False):
            sort_by(analysis, taken, each["SortBy"])
        return
    found = _Arguments(node, given, called)
    for each in node["agg_order"]:
        sort = each["SortBy"]
        expr = analysis.expression(analysis, level, sort["node"])
        equal, is_sure = found.equal(sort["node"], expr)
        for at in equal:
            found.taken[at] = sort_by(analysis, found.taken[at], sort)
        if not is_sure:
            sort_by(analysis, expr, sort)


class _Arguments:
    """Tell which arguments of an aggregate are equal to an expression: findTargetlistEntrySQL99() (parse_clause.c)."""

    def __init__(self, node: Body, given: Sequence[Expr], called: Called) -> None:
        count = len(given)
        function = called.function
        if function is not None and function.variadic not in (0, oids.ANY) and not node.get("func_variadic"):
            count = len(function.arguments) - 1  # the others have become one array
        nodes = [each.get("NamedArgExpr", {}).get("arg", each) for each in node.get("args", ())]
        kept = [(node, expr) for node, expr in zip(nodes, given, strict=True) if not is_dropped(expr)][:count]
        self._given = [(node, _written(node), expr.type) for node, expr in kept]
        self.taken = list(called.arguments[: len(kept)])

    def equal(self, node: Body, expr: Expr) -> tuple[list[int], bool]:
        """Return the arguments by which it sorts, if that is by another type or place than its own.

        And whether it is equal for sure, and not only by names that can mean the same.
        """
        found: list[int] = []
        written = _written(node)
        for at, (taken, (given, its, type_)) in enumerate(zip(self.taken, self._given, strict=True)):
            if type_ != expr.type or (type_ == UNKNOWN and taken.type != UNKNOWN):
                continue  # a literal that has a type by now is equal to none without
            if taken.type == type_ != UNKNOWN:
                if its == written:
                    break
            elif its == written:
                return [*found, at], True
            elif _may_be_same(given, node):
                found.append(at)
        return found, False


def _may_be_same(one: Body, other: Body) -> bool:
    """Tell whether two expressions of one type that are written otherwise can be the same: `x` and `t.x`, `x::int`."""
    (kind, first), (other_kind, second) = kind_of(one), kind_of(other)
    if kind not in _PLAIN or other_kind not in _PLAIN:
        return True
    if kind != other_kind or ("sval" in first and "sval" in second):
        return False
    return kind != "ColumnRef" or first["fields"][-1] == second["fields"][-1]


_PLAIN = frozenset({"ColumnRef", "A_Const", "A_Expr"})
"""Kinds of nodes that no other one of them gives the same expression as."""


_PLACE = re.compile(rb'"\w*location":-?\d+')


def _written(node: Body) -> bytes:
    """Return a node as a text, without what says where it stands."""
    return _PLACE.sub(b"", msgspec.json.encode(node))


def in_range(analysis: Analysis, column: Expr, offset: Expr) -> None:
    """Record the function that adds a frame's offset, and convert that: transformFrameOffset()."""
    if ANY_TYPE in (column.type, offset.type):
        analysis.unknown("function", -1)
        analysis.unknown("in-range", -1)
        analysis.open([offset])
        return
    found = analysis.coercion.default_class(column.type, oids.BTREE)
    if found is None:
        raise RejectedError("42883", "could not identify an ordering operator")
    wanted = found[1] if offset.type == UNKNOWN else offset.type
    fitting = {
        right: function
        for right, function in analysis.world.in_range.get(found, ())
        if analysis.coercion.can([offset.type], [right])
    }
    if wanted not in fitting and len(fitting) != 1:
        raise RejectedError("0A000", "RANGE with offset PRECEDING/FOLLOWING is not supported for these types")
    chosen = wanted if wanted in fitting else next(iter(fitting))
    analysis.use("in-range", -1, fitting[chosen])
    analysis.to_specific(offset, chosen)


def flattened(nodes: Sequence[Body]) -> Iterator[Body]:
    """Give what GROUP BY or PARTITION BY lists; `(a, b)` there is no row, but both: flatten_grouping_sets()."""
    for node in nodes:
        kind, body = kind_of(node)
        if kind == "RowExpr" and body.get("row_format") == "COERCE_IMPLICIT_CAST":
            yield from flattened(body.get("args", ()))
        else:
            yield node


def add_window(level: Level, over: Body) -> None:
    """Keep a window that is defined in a call, to be analysed behind everything else."""
    if "name" not in over:
        level.inline_windows.append(over)


def window(analysis: Analysis, level: Level, node: Body) -> None:
    """Analyse what a window is made of: transformWindowDefinitions()."""
    sorted_: list[Expr] = []
    for each in node.get("orderClause", ()):
        sort = each["SortBy"]
        sorted_.append(sort_by(analysis, analysis.expression(analysis, level, sort["node"]), sort))
    for each in flattened(node.get("partitionClause", ())):
        expr = analysis.to_text(analysis.expression(analysis, level, each))
        analysis.group(expr.type, expr.location)
    if not sorted_ and "refname" in node and node["refname"] in level.windows:
        referenced = level.windows[node["refname"]].get("orderClause", ())
        sorted_ = [analysis.expression(analysis, level, each["SortBy"]["node"]) for each in referenced]
    for key in ("startOffset", "endOffset"):
        if key in node:
            offset = analysis.expression(analysis, level, node[key])
            if node.get("frameOptions", 0) & FRAME_RANGE:
                if not sorted_:
                    raise RejectedError("42P20", "RANGE with offset requires exactly one ORDER BY column")
                in_range(analysis, sorted_[0], offset)
            else:
                analysis.to_specific(offset, oids.INT8)

"""Find what a ColumnRef means, and what `*` stands for: transformColumnRef() (parser/parse_expr.c)."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.sql.resolve import calls
from proxy.sql.resolve.analysis import MISMATCH, PER_STEP, UNDEFINED_COLUMN, Analysis, Outside
from proxy.sql.resolve.calls import Call
from proxy.sql.resolve.names import location
from proxy.sql.resolve.oids import ANY_TYPE
from proxy.sql.resolve.scopes import column_named, column_of, item_named, variable, whole_row
from proxy.sql.resolve.tree import Body, Expr, Form, Item, Level, NotModelledError, RejectedError


def _name(analysis: Analysis, outside: Outside, level: Level, node: Body) -> Expr:
    """Analyse a ColumnRef in the body of a function, where other names than those in FROM can be meant."""
    parts = [each["String"]["sval"] for each in node["fields"] if "String" in each]
    analysis.outside = None
    try:
        found = column(analysis, level, node)
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


def column(analysis: Analysis, level: Level, node: Body) -> Expr:
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


def expand(analysis: Analysis, level: Level, nodes: Sequence[Body]) -> list[Expr]:
    """Analyse a list of expressions in which `x.*` stands for all columns of x: transformExpressionList()."""
    found: list[Expr] = []
    for node in nodes:
        columns = expanded(analysis, level, node)
        if columns is None:
            found.append(analysis.expression(analysis, level, node))
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
        value = analysis.expression(analysis, level, inner)
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

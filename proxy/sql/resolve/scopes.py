"""Find what a name means among the things in FROM, of this query and of those around it: parser/parse_relation.c."""

from __future__ import annotations

from . import oids
from .analysis import Analysis
from .oids import ANY_TYPE
from .tree import Expr, Form, Item, Level, RejectedError
from .world import Column

SYSTEM_COLUMNS = {
    "ctid": oids.TID,
    "xmin": oids.XID,
    "cmin": oids.CID,
    "xmax": oids.XID,
    "cmax": oids.CID,
    "tableoid": oids.OID,
}
_AMBIGUOUS_COLUMN = "42702"


def column_named(
    analysis: Analysis, level: Level, name: str, at: int, of: tuple[Item, Level] | None = None
) -> Expr | None:
    """Return a column by its name, of one item or of all that can be seen; None: there is none. colNameToVar()."""
    if of is not None:
        column = _column(of[0], name)
        return None if column is None else variable(analysis, level, of[1], column, at)
    around: Level | None = level
    while around is not None:
        found = _in_from(around, name)
        if found is not None:
            return variable(analysis, level, around, found, at)
        around = around.parent
    return None


def has_column(level: Level, name: str) -> bool:
    """Tell whether FROM of this very query has a column of this name."""
    return _in_from(level, name) is not None


def _in_from(level: Level, name: str) -> Column | None:
    """Return the column that a name means in a query's FROM; None: it has none. scanNSItemForColumn()."""
    found: Column | None = None
    for item in level.items:
        if not item.columns_visible or (item.lateral_only and not level.lateral):
            continue
        column = _column(item, name)
        if column is None:
            continue
        if found is not None:
            raise RejectedError(_AMBIGUOUS_COLUMN, f'column reference "{name}" is ambiguous')
        if item.lateral_only and not item.lateral_allowed:
            raise RejectedError("42P10", f'invalid reference to FROM-clause entry for table "{item.name}"')
        found = column
    return found


def _column(item: Item, name: str) -> Column | None:
    found = [each for each in item.columns if each.name == name]
    found += (each for each in item.hidden if each.name == name)
    if len(found) > 1:
        raise RejectedError(_AMBIGUOUS_COLUMN, f'column reference "{name}" is ambiguous')
    if found:
        return found[0]
    if item.is_table and name in SYSTEM_COLUMNS:
        return Column(name, SYSTEM_COLUMNS[name], -1)
    return None


def variable(analysis: Analysis, level: Level, owner: Level, column: Column, at: int) -> Expr:
    """Return a column of something in a query's FROM as an expression of a query below or the same."""
    analysis.types.add(column.type)
    if column.type == ANY_TYPE:
        analysis.unknown("var", at)
    else:
        analysis.use("var", at, column.type)
    return Expr(column.type, at, Form.COLUMN, column.modifier, levels=_touch(level, owner), columns=column.columns)


def _touch(level: Level, owner: Level) -> int:
    """Note that something below `level` is of `owner`, and return the owner's bit."""
    bit = 1 << owner.depth
    each: Level | None = level
    while each is not None and each.depth >= owner.depth:
        each.used |= bit
        each = each.parent
    return bit


def item_named(analysis: Analysis, level: Level, schema: str, name: str) -> tuple[Item, Level] | None:
    """Return what a name in FROM means, and whose FROM it is; None: nothing. refnameNamespaceItem()."""
    relation = analysis.search.relation(schema, name) if schema else None
    if schema and relation is None:
        return None
    around: Level | None = level
    while around is not None:
        found: Item | None = None
        for item in around.items:
            if not item.named or (item.lateral_only and not around.lateral):
                continue
            if (item.relation != relation.oid) if relation is not None else (item.name != name):
                continue
            if found is not None:
                raise RejectedError("42P09", f'table reference "{name}" is ambiguous')
            if item.lateral_only and not item.lateral_allowed:
                raise RejectedError("42P10", f'invalid reference to FROM-clause entry for table "{name}"')
            found = item
        if found is not None:
            return found, around
        around = around.parent
    return None


def whole_row(analysis: Analysis, level: Level, item: Item, owner: Level, at: int) -> Expr:
    """Return all of an item as one value: transformWholeRowRef()."""
    bit = _touch(level, owner)
    if item.scalar:
        return variable(analysis, level, owner, item.columns[0], at)
    analysis.types.add(item.row_type)
    analysis.types.update(each.type for each in item.columns)
    analysis.use("var", at, item.row_type)
    return Expr(item.row_type, at, Form.WHOLE_ROW, levels=bit, columns=item.columns, is_table=item.is_table)

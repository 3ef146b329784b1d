"""Find what a name means among the things in FROM, of this query and of those around it: parser/parse_relation.c."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.sql.resolve import oids
from proxy.sql.resolve.analysis import PER_STEP, Analysis
from proxy.sql.resolve.oids import ANY_TYPE
from proxy.sql.resolve.tree import COLUMN, Expr, Form, Item, Level, RejectedError
from proxy.sql.resolve.world import Column

SYSTEM_COLUMNS = {
    name: Column(name, type_, -1)
    for name, type_ in (
        ("ctid", oids.TID),
        ("xmin", oids.XID),
        ("cmin", oids.CID),
        ("xmax", oids.XID),
        ("cmax", oids.CID),
        ("tableoid", oids.OID),
    )
}
_AMBIGUOUS_COLUMN = "42702"


def column_named(analysis: Analysis, level: Level, name: str, at: int) -> Expr | None:
    """Return a column by its name, of all that can be seen; None: there is none. colNameToVar()."""
    around: Level | None = level
    while around is not None:
        column = _in_from(analysis, around, name)
        if column is not None:
            return variable(analysis, level, around, column, at)
        around = around.parent
    return None


def column_of(analysis: Analysis, level: Level, item: Item, owner: Level, name: str, at: int) -> Expr | None:
    """Return a column of something in FROM by its name; None: it has none of this name. scanRTEForColumn()."""
    named = item.by_name
    column = (_name_columns(item) if named is None else named).get(name)
    if column is None:
        if not item.is_table or name not in SYSTEM_COLUMNS:
            return None
        column = SYSTEM_COLUMNS[name]
    elif column is _SEVERAL:
        raise RejectedError(_AMBIGUOUS_COLUMN, f'column reference "{name}" is ambiguous')
    return variable(analysis, level, owner, column, at)


def has_column(analysis: Analysis, level: Level, name: str) -> bool:
    """Tell whether FROM of this very query has a column of this name."""
    return _in_from(analysis, level, name) is not None


def _in_from(analysis: Analysis, level: Level, name: str) -> Column | None:
    """Return the column that a name means in a query's FROM; None: it has none. scanNSItemForColumn()."""
    found: Column | None = None
    items = level.items
    if len(items) > PER_STEP:
        analysis.spend(len(items))
    for item in items:
        if not item.columns_visible or (item.lateral_only and not level.lateral):
            continue
        named = item.by_name
        column = (_name_columns(item) if named is None else named).get(name)
        if column is None:
            if name not in SYSTEM_COLUMNS or not _shows_system_columns(item):
                continue
            column = SYSTEM_COLUMNS[name]
        if found is not None or column is _SEVERAL:
            raise RejectedError(_AMBIGUOUS_COLUMN, f'column reference "{name}" is ambiguous')
        if item.lateral_only:
            _use_beside(analysis, item)
        found = column
    return found


def _shows_system_columns(item: Item) -> bool:
    """Tell whether its system columns can be meant without its name."""
    return item.is_table and not item.in_join


def _use_beside(analysis: Analysis, item: Item) -> None:
    """Note that an item of FROM uses one that stands before it: check_lateral_ref_ok(). Raises RejectedError."""
    if not item.lateral_allowed:
        raise RejectedError("42P10", f'invalid reference to FROM-clause entry for table "{item.name}"')
    analysis.correlated = True


def _name_columns(item: Item) -> Mapping[str, Column]:
    found: dict[str, Column] = {}
    for column in (*item.columns, *item.hidden):
        found[column.name] = _SEVERAL if column.name in found else column
    item.by_name = found
    return found


_SEVERAL = Column("", 0, -1)
"""Stands for columns that bear one name."""


def variable(analysis: Analysis, level: Level, owner: Level, column: Column, at: int) -> Expr:
    """Return a column of something in a query's FROM as an expression of a query below or the same."""
    type_ = column.type
    analysis.types.add(type_)
    if level is not owner:
        analysis.correlated = True
    if type_ == ANY_TYPE:
        analysis.by_type(at, "var")
    else:
        analysis.noted["var"].append((at, type_))
    bit = 1 << owner.depth
    if level is owner:
        level.used |= bit
    else:
        _touch(level, owner, bit)
    return Expr(type_, at, COLUMN, column.modifier, (), 0, column.columns, bit)


def _touch(level: Level, owner: Level, bit: int) -> None:
    """Note that something below `level` is of `owner`, which has this bit."""
    each: Level | None = level
    while each is not None and each.depth >= owner.depth:
        each.used |= bit
        each = each.parent


def item_named(analysis: Analysis, level: Level, schema: str, name: str) -> tuple[Item, Level] | None:
    """Return what a name in FROM means, and whose FROM it is; None: nothing. refnameNamespaceItem()."""
    oid = 0
    if schema:
        relation = analysis.search.relation(schema, name)
        if relation is None:
            return None
        oid = relation.oid
    around: Level | None = level
    while around is not None:
        found = _named(analysis, around, oid, name)
        if found is not None:
            if around is not level:
                analysis.correlated = True
            return found, around
        around = around.parent
    return None


def _named(analysis: Analysis, level: Level, oid: int, name: str) -> Item | None:
    """Return what bears a name in a query's FROM, or is this table; None: nothing. scanNameSpaceForRefname()."""
    found: Item | None = None
    items = level.items
    if len(items) > PER_STEP:
        analysis.spend(len(items))
    for item in items:
        if (item.relation != oid) if oid else (item.name != name):
            continue
        if not item.named or (item.lateral_only and not level.lateral):
            continue
        if found is not None:
            raise RejectedError("42P09", f'table reference "{name}" is ambiguous')
        if item.lateral_only:
            _use_beside(analysis, item)
        found = item
    return found


def whole_row(analysis: Analysis, level: Level, item: Item, owner: Level, at: int) -> Expr:
    """Return all of an item as one value: transformWholeRowRef()."""
    bit = 1 << owner.depth
    _touch(level, owner, bit)
    if item.scalar:
        return variable(analysis, level, owner, item.columns[0], at)
    if item.is_constructed:
        parts = [variable(analysis, level, owner, each, at) for each in item.columns]
        return Expr(item.row_type, at, Form.ROW, parts=parts, levels=bit, columns=item.columns)
    analysis.types.add(item.row_type)
    analysis.spend(len(item.columns))
    analysis.types.update([each.type for each in item.columns])
    analysis.use("var", at, item.row_type)
    return Expr(item.row_type, at, Form.WHOLE_ROW, levels=bit, columns=item.columns, is_table=item.is_table)

"""Analyse arrays and the subscripts of arrays and of what else has them (parser/parse_expr.c, parse_node.c)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from proxy.sql.resolve import oids
from proxy.sql.resolve.analysis import INDETERMINATE, MISMATCH, UNDEFINED_OBJECT, Analysis
from proxy.sql.resolve.coercion import Context
from proxy.sql.resolve.names import location
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.tree import Body, Expr, Level, RejectedError, levels_of
from proxy.sql.resolve.world import Type


def array(analysis: Analysis, level: Level, node: Body) -> Expr:
    return array_of(analysis, level, node, 0, 0, -1)


def array_of(analysis: Analysis, level: Level, node: Body, array: int, element: int, modifier: int) -> Expr:
    """transformArrayExpr(). `array` and `element`: a cast gives it this type."""
    at = location(node)
    nested = False
    found: list[Expr] = []
    for each in node.get("elements", ()):
        if "A_ArrayExpr" in each:
            found.append(array_of(analysis, level, each["A_ArrayExpr"], array, element, modifier))
            nested = True
        else:
            value = analysis.expression(analysis, level, each)
            found.append(value)
            if not nested and value.type not in (oids.INT2VECTOR, oids.OIDVECTOR):
                nested = bool(analysis.coercion.element(value.type))
    levels = levels_of(found)
    if array:
        wanted = array if nested else element
        for value in found:
            analysis.to_target(value, wanted, modifier, Context.EXPLICIT, -1)
        return Expr(array, at, levels=levels)
    return Expr(_array_type(analysis, found, nested=nested), at, levels=levels)


def _array_type(analysis: Analysis, elements: Sequence[Expr], *, nested: bool) -> int:
    """Return the type of an array that no cast gives one, its elements made alike."""
    if not elements:
        raise RejectedError(INDETERMINATE, "cannot determine type of empty array")
    common = analysis.common(elements, "ARRAY")
    result = common if nested or common == ANY_TYPE else analysis.coercion.array(common)
    if not result or (nested and common != ANY_TYPE and not analysis.coercion.element(common)):
        raise RejectedError(UNDEFINED_OBJECT, "could not find array type")
    for value in elements:
        analysis.to_common(value, common)
    return result


_VECTORS = {oids.INT2VECTOR: oids.INT2, oids.OIDVECTOR: oids.OID}


def subscript(analysis: Analysis, level: Level, value: Expr, subscripts: Sequence[Body]) -> Expr:
    """transformContainerSubscripts()."""
    indices = [analysis.expression(analysis, level, each) for each in _indices(subscripts)]
    sliced = any(each.get("is_slice") for each in subscripts)
    type_ = _subscripted(analysis, value, indices, sliced=sliced)
    return Expr(type_, value.location, levels=value.levels | levels_of(indices))


def _subscripted(analysis: Analysis, value: Expr, indices: Sequence[Expr], *, sliced: bool) -> int:
    """Return the type of what subscripts give of a value; they become what it takes."""
    container = analysis.coercion.base(value.type)
    row = analysis.world.types.get(container)
    if container == ANY_TYPE or row is None:
        analysis.open(indices)
        return ANY_TYPE
    if not row.can_be_subscripted:
        raise RejectedError(MISMATCH, "cannot subscript type because it does not support subscripting")
    if container in _VECTORS:
        container = analysis.coercion.array(_VECTORS[container])
    analysis.use("subscript", value.location, container)
    if container >= oids.FIRST_NORMAL and not row.is_array:
        analysis.use("everything", value.location, container)
    if container == oids.JSONB:
        for each in indices:
            _subscript_jsonb(analysis, each)
        return oids.JSONB
    element = _element(analysis, container, row)
    if not element:
        analysis.open(indices)
        return ANY_TYPE
    for each in indices:
        analysis.to_specific(each, oids.INT4)
    return container if sliced else element


def _element(analysis: Analysis, container: int, row: Type) -> int:
    """Return the type of an array's elements, or of what else is built in and has some; 0: nobody knows."""
    element = analysis.coercion.element(container)
    return row.element if not element and row.oid < oids.FIRST_NORMAL else element


def _indices(subscripts: Sequence[Body]) -> Iterator[Body]:
    for each in subscripts:
        yield from (each[key] for key in ("lidx", "uidx") if key in each)


def _subscript_jsonb(analysis: Analysis, index: Expr) -> None:
    """Convert one subscript of a jsonb: jsonb_subscript_transform() (utils/adt/jsonbsubs.c)."""
    if index.type == UNKNOWN:
        analysis.coerce(index, oids.TEXT)
        return
    is_number = analysis.coercion.can([index.type], [oids.INT4])
    analysis.to_specific(index, oids.INT4 if is_number else oids.TEXT)

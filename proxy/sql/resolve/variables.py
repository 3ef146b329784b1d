"""Give the names that the body of a function has beside columns: its arguments, and its variables in PL/pgSQL."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from proxy.sql.resolve import calls, oids
from proxy.sql.resolve.analysis import Analysis, Outside
from proxy.sql.resolve.oids import ANY_TYPE
from proxy.sql.resolve.tree import Expr, Form
from proxy.sql.resolve.world import Function, World


def argument_types(function: Function) -> list[int]:
    """Return the types of the input arguments, as `$1` and on have them; a call says what polymorphic ones are."""
    return [_actual(each) for each in function.arguments]


def _actual(type_: int) -> int:
    return ANY_TYPE if type_ in oids.POLYMORPHIC else type_


def arguments(function: Function) -> Outside:
    """Return what the body of a function in SQL sees: sql_fn_post_column_ref() (executor/functions.c)."""
    modes = function.modes or "i" * len(function.arguments)
    names = [name for name, mode in zip(function.names, modes, strict=False) if mode in "ibv"]
    types = argument_types(function)

    def named(analysis: Analysis, name: str, at: int) -> Expr | None:
        if not name or name not in names:
            return None
        number = names.index(name)
        _use(analysis, types[number], at)
        return Expr(types[number], at, Form.PARAMETER, number=number + 1)

    def find(analysis: Analysis, parts: Sequence[str], at: int) -> Expr | None:
        if len(parts) > 3 or (len(parts) == 3 and parts[0] != function.name):
            return None
        rest = list(parts)
        found = None
        if len(parts) == 3:
            found, rest = named(analysis, parts[1], at), rest[2:]
        elif len(parts) == 2 and parts[0] == function.name:
            found, rest = named(analysis, parts[1], at), []
        if found is None and len(parts) < 3:
            found, rest = named(analysis, parts[0], at), list(parts[1:])
        if found is None or not rest:
            return found
        called = calls.resolve(analysis, calls.Call("", rest[0], [found], at, is_column=True))
        return None if called is None else called.expr

    return Outside(find, clashes=False)


def _use(analysis: Analysis, type_: int, at: int) -> None:
    if type_ == ANY_TYPE:
        analysis.by_type(at, "param")
    else:
        analysis.use("param", at, type_)


def parameters(function: Function) -> dict[str, int]:
    """Return the types of all arguments that have a name, of OUT and TABLE ones too: they are variables in PL/pgSQL."""
    types = function.types or function.arguments
    return {name: _actual(type_) for name, type_ in zip(function.names, types, strict=False) if name}


def variables(world: World, types: Mapping[str, int], labels: Collection[str]) -> Outside:
    """Return what an expression in PL/pgSQL sees: resolve_column_ref() (pl_comp.c).

    `types` are those of the variables, ANY_TYPE where nobody knows; `labels` are the names of blocks and loops, and the
    function's. Where FROM has such a name as well, plpgsql.variable_conflict decides.
    """

    def field(type_: int, name: str) -> int | None:
        row = world.types.get(type_)
        if type_ in (ANY_TYPE, oids.RECORD) or row is None or row.kind == "d":
            return ANY_TYPE
        relation = world.relations.get(row.relation)
        columns = () if relation is None else relation.columns
        return next((each.type for each in columns if each.name == name), None)

    def find(analysis: Analysis, parts: Sequence[str], at: int) -> Expr | None:
        found: set[int | None] = set()
        first, *rest = parts
        if first in types:
            found.add(field(types[first], rest[0]) if len(rest) == 1 else None if rest else types[first])
        if first in labels and rest and rest[0] in types:
            found.add(field(types[rest[0]], rest[1]) if len(rest) == 2 else None if rest[1:] else types[rest[0]])
        known = found - {None}
        if not known:
            return None
        type_ = (known.pop() or ANY_TYPE) if len(known) == 1 else ANY_TYPE
        _use(analysis, type_, at)
        return Expr(type_, at)

    return Outside(find, clashes=True)

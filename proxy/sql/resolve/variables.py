"""Give the names that the body of a function has beside columns: its arguments, and its variables in PL/pgSQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

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
    return Outside(_Arguments(function).find, clashes=False)


class _Arguments:
    """The names of a function's input arguments, with its own before them, and the name of a column behind them."""

    __slots__ = ("_function", "_names", "_types")

    def __init__(self, function: Function) -> None:
        modes = function.modes or "i" * len(function.arguments)
        self._function = function.name
        self._names = [name for name, mode in zip(function.names, modes, strict=False) if mode in "ibv"]
        self._types = argument_types(function)

    def find(self, analysis: Analysis, parts: Sequence[str], at: int) -> Expr | None:
        for name, rest in self._readings(parts):
            found = self._named(analysis, name, at)
            if found is None:
                continue
            if not rest:
                return found
            called = calls.resolve(analysis, calls.Call("", rest[0], [found], at, is_column=True))
            return None if called is None else called.expr
        return None

    def _readings(self, parts: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
        """Give which part may be an argument, and what stands behind it then: the likeliest first."""
        if 1 < len(parts) < 4 and parts[0] == self._function:
            yield parts[1], parts[2:]
        if len(parts) < 3:
            yield parts[0], parts[1:]

    def _named(self, analysis: Analysis, name: str, at: int) -> Expr | None:
        if not name or name not in self._names:
            return None
        number = self._names.index(name)
        _use(analysis, self._types[number], at)
        return Expr(self._types[number], at, Form.PARAMETER, number=number + 1)


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

    return Outside(_Variables(world, types, labels).find, clashes=True)


class _Variables:
    """The names of variables, with a label before them, and the name of a column behind them."""

    __slots__ = ("_labels", "_types", "_world")

    def __init__(self, world: World, types: Mapping[str, int], labels: Collection[str]) -> None:
        self._world = world
        self._types = types
        self._labels = labels

    def find(self, analysis: Analysis, parts: Sequence[str], at: int) -> Expr | None:
        found = {self._read(parts), self._read(parts[1:]) if parts[0] in self._labels else None} - {None}
        if not found:
            return None
        type_ = (found.pop() or ANY_TYPE) if len(found) == 1 else ANY_TYPE
        _use(analysis, type_, at)
        return Expr(type_, at)

    def _read(self, parts: Sequence[str]) -> int | None:
        """Return the type of a variable, or of a column of it; None: there is none of this name."""
        if not 0 < len(parts) < 3 or parts[0] not in self._types:
            return None
        type_ = self._types[parts[0]]
        return type_ if len(parts) == 1 else self._field(type_, parts[1])

    def _field(self, type_: int, name: str) -> int | None:
        row = self._world.types.get(type_)
        if type_ in (ANY_TYPE, oids.RECORD) or row is None or row.kind == "d":
            return ANY_TYPE
        relation = self._world.relations.get(row.relation)
        columns = () if relation is None else relation.columns
        return next((each.type for each in columns if each.name == name), None)

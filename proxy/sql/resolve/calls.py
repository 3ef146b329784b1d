"""Resolve what stands in the place of a function or of a column of something: ParseFuncOrColumn() (parse_func.c)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from proxy.sql.resolve import hidden, oids, polymorphic
from proxy.sql.resolve.analysis import AMBIGUOUS_FUNCTION, UNDEFINED_FUNCTION, Analysis
from proxy.sql.resolve.choosing import Candidate, Choice, Signature
from proxy.sql.resolve.coercion import Context, Way
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.scopes import SYSTEM_COLUMNS
from proxy.sql.resolve.tree import (
    CONSTANT,
    PARAMETER,
    Expr,
    Form,
    MismatchError,
    NotModelledError,
    RejectedError,
    Use,
    levels_of,
)
from proxy.sql.resolve.world import Column, Function

MAX_ARGUMENTS = 100
"""FUNC_MAX_ARGS (pg_config_manual.h)."""


_NOTHING: frozenset[int] = frozenset()


class Call(msgspec.Struct):
    """A call as it is written, its arguments analysed."""

    schema: str
    name: str
    arguments: Sequence[Expr]
    location: int
    names: Sequence[str] = ()
    """Those of the last arguments, in named notation."""
    within: Sequence[Expr] = ()
    """What WITHIN GROUP (ORDER BY …) sorts, which are arguments, too."""
    is_within: bool = False
    variadic: bool = False
    """Whether VARIADIC is written."""
    plain: bool = True
    """Whether it has nothing that an aggregate alone has, nor OVER."""
    is_column: bool = False
    """Whether it is written as a column: `x.name`."""


class Called(msgspec.Struct):
    """What a call came to: a value, and the function if it is one."""

    expr: Expr
    function: Function | None = None
    arguments: Sequence[Expr] = ()
    """Converted to what the function takes."""


def resolve(analysis: Analysis, call: Call) -> Called | None:
    """Return what a call comes to; None: it is written as a column, and there is nothing of the kind.

    Raises RejectedError.
    """
    analysis.uncertain.append(Use("called", call.location, _NOTHING))
    arguments = _arguments(analysis, call)
    projection = _may_be_column(analysis, call, arguments)
    if projection and call.is_column:
        found = project(analysis, call.name, arguments[0], call.location)
        if found is not None:
            return Called(found)
    arguments += call.within
    if len(arguments) > MAX_ARGUMENTS:
        raise RejectedError("54023", f"cannot pass more than {MAX_ARGUMENTS} arguments to a function")
    choice = _choose(analysis, call, tuple([each.type for each in arguments]))
    if not choice.is_exact and len(arguments) == 1 and not call.names:
        cast = _as_cast(analysis, call, arguments[0])
        if cast is not None:
            return Called(cast)
    if not choice.candidates or choice.is_ambiguous:
        return _no_function(analysis, call, choice, arguments[0] if projection else None)
    if len(choice.candidates) > 1:
        analysis.use_one_of("function", call.location, [each.function.oid for each in choice.candidates])
        return _one_of(analysis, call, choice.candidates, arguments)
    analysis.use("function", call.location, choice.candidates[0].function.oid)
    return _apply(analysis, call, choice, arguments)


def _arguments(analysis: Analysis, call: Call) -> list[Expr]:
    """Return the arguments that count; parameters of type void are taken for OUT parameters of a driver."""
    arguments = list(call.arguments)
    if analysis.outside is not None and any(each.type == ANY_TYPE and each.form is PARAMETER for each in arguments):
        raise NotModelledError("an argument that can be of type void")
    if call.is_column or call.is_within:
        return arguments
    return [each for each in arguments if not is_dropped(each)]


def is_dropped(argument: Expr) -> bool:
    """Tell whether an argument does not count: a parameter of type void."""
    return argument.type == oids.VOID and argument.form is PARAMETER


def _may_be_column(analysis: Analysis, call: Call, arguments: Sequence[Expr]) -> bool:
    """Tell whether a call can be a column of its one argument, or a column a call: ParseFuncOrColumn()."""
    if len(arguments) != 1 or not call.plain or call.variadic or call.names or call.schema:
        return False
    type_ = arguments[0].type
    return type_ in (oids.RECORD, ANY_TYPE) or analysis.coercion.is_composite(type_)


def _choose(analysis: Analysis, call: Call, given: tuple[int, ...]) -> Choice:
    choice = analysis.choosing.function(call.schema, call.name, given, call.names, expand_variadic=not call.variadic)
    if call.names and call.variadic and not choice.is_exact:
        last = len(given) - 1
        choice = Choice(tuple(each for each in choice.candidates if each.order[last] == last))
    return choice


def _no_function(analysis: Analysis, call: Call, choice: Choice, row: Expr | None) -> Called | None:
    """Return what is written like a call and is none: a column of a `row`. Raises RejectedError."""
    if row is not None and not call.is_column:
        found = project(analysis, call.name, row, call.location)
        if found is not None:
            return Called(found)
    if call.is_column:
        return None
    if choice.is_ambiguous:
        raise RejectedError(AMBIGUOUS_FUNCTION, f"function {call.name} is not unique")
    raise RejectedError(UNDEFINED_FUNCTION, f"function {call.name} does not exist")


def _as_cast(analysis: Analysis, call: Call, argument: Expr) -> Expr | None:
    """Return a call's value where it is a cast by a type's name: the second step of func_get_detail()."""
    row = analysis.search.type(call.schema, call.name, temporary=False)
    if row is None or row.relation:
        return None
    source = argument.type
    if source == ANY_TYPE:
        analysis.unknown("function", call.location)
        return Expr(ANY_TYPE, call.location, levels=argument.levels)
    if not (source == UNKNOWN and argument.form is CONSTANT):
        path = analysis.coercion.path(row.oid, source, Context.EXPLICIT)
        if path is None or path.way not in (Way.RELABEL, Way.INPUT_OUTPUT):
            return None
        is_row = source == oids.RECORD or analysis.coercion.is_composite(source)
        if path.way is Way.INPUT_OUTPUT and row.category == "S" and is_row:
            return None
    return analysis.coerce(argument, row.oid, Context.EXPLICIT, call.location)


def _apply(analysis: Analysis, call: Call, choice: Choice, arguments: list[Expr]) -> Called:
    chosen = choice.candidates[0]
    function = chosen.function
    if function.kind == "p":
        raise RejectedError("42809", f"{call.name} is a procedure")
    count = len(arguments)
    signature = choice.signature
    if function.aggregate == "h" and call.is_within:
        arguments = _unify_hypothetical(analysis, len(call.within), arguments, chosen.arguments[:count])
        signature = None
    omitted: Sequence[int] = chosen.arguments[count:]
    if not oids.POLYMORPHIC.isdisjoint(omitted):
        omitted, signature = _defaults(arguments, chosen.arguments[:count], omitted), None
        if ANY_TYPE in omitted:
            analysis.unknown("default", call.location)
    if signature is None:  # or the arguments do not fit each other, which this says
        with_defaults = [*(each.type for each in arguments), *omitted]
        takes, gives = analysis.resolve(with_defaults, chosen.arguments, function.result)
        runs = hidden.runs(analysis.coercion, function, chosen.arguments, with_defaults, takes)
        signature = Signature(takes, gives, True, runs)
    wanted, result = signature.takes, signature.gives
    if signature.runs:
        analysis.runs(signature, call.location)
    converted = analysis.arguments(arguments, wanted[:count]) if signature.converts else arguments
    if chosen.variadic and function.variadic != oids.ANY:
        _pack(analysis, converted[count - chosen.variadic :])
    if chosen.defaults:
        analysis.use("default", call.location, function.oid)
    columns: Sequence[Column] | None = None
    if result == oids.RECORD:
        columns = _outputs(analysis, function, _actual(arguments, wanted), chosen)
    return Called(Expr(result, call.location, levels=levels_of(arguments), columns=columns), function, converted)


def _defaults(given: Sequence[Expr], declared: Sequence[int], omitted: Sequence[int]) -> list[int]:
    """Return the types of defaults: of a polymorphic argument it is not known, unless another argument says it."""
    settled = any(
        type_ in oids.ELEMENT_FAMILY and each.type != UNKNOWN for each, type_ in zip(given, declared, strict=True)
    )
    return [
        each if each not in oids.POLYMORPHIC else UNKNOWN if settled and each in oids.ELEMENT_FAMILY else ANY_TYPE
        for each in omitted
    ]


def _pack(analysis: Analysis, elements: Sequence[Expr]) -> None:
    """Make an array of variadic arguments."""
    first = elements[0].type
    if first != ANY_TYPE and not analysis.coercion.array(first):
        raise RejectedError("42704", "could not find array type")


def _unify_hypothetical(
    analysis: Analysis, aggregated: int, arguments: list[Expr], declared: Sequence[int]
) -> list[Expr]:
    """Give each hypothetical argument and what is sorted beside it one type: unify_hypothetical_args()."""
    found = list(arguments)
    for sorted_at in range(len(found) - aggregated, len(found)):
        at = sorted_at - aggregated
        if at < 0 or declared[at] != oids.ANY:
            continue
        common = analysis.common([found[sorted_at], found[at]], "WITHIN GROUP")
        found[at] = analysis.coerce(found[at], common)
        found[sorted_at] = analysis.coerce(found[sorted_at], common)
    return found


def _one_of(analysis: Analysis, call: Call, candidates: Sequence[Candidate], arguments: Sequence[Expr]) -> Called:
    analysis.open(arguments)
    results = {ANY_TYPE if each.function.result in oids.POLYMORPHIC else each.function.result for each in candidates}
    for each in candidates:
        if each.defaults:
            analysis.use("default", call.location, each.function.oid)
    result = results.pop() if len(results) == 1 else ANY_TYPE
    kinds = {each.function.kind for each in candidates}
    function = candidates[0].function if len(kinds) == 1 else None
    return Called(Expr(result, call.location, levels=levels_of(arguments)), function, arguments)


def _actual(arguments: Sequence[Expr], wanted: Sequence[int]) -> list[int]:
    """Return the types of what a function is given, literals as what they become, and of its defaults."""
    given = [type_ if each.type == UNKNOWN else each.type for each, type_ in zip(arguments, wanted, strict=False)]
    return [*given, *wanted[len(arguments) :]]


def _outputs(
    analysis: Analysis, function: Function, given: Sequence[int], chosen: Candidate
) -> Sequence[Column] | None:
    """Return the columns of a function that gives records and says which: build_function_result_tupdesc_t()."""
    if not function.types:
        return None
    at_parameter = dict(zip(chosen.order or range(len(given)), given, strict=False))
    actual = [at_parameter.get(at, UNKNOWN) for at in range(len(function.arguments))]
    names = function.names or ("",) * len(function.types)
    found: list[Column] = []
    for type_, mode, name in zip(function.types, function.modes, names, strict=False):
        if mode not in "obt":
            continue
        if type_ in oids.POLYMORPHIC:
            try:
                _, type_ = polymorphic.resolve(analysis.coercion, actual, function.arguments, type_)
            except MismatchError:
                return None  # the server looks for them where they are asked for
        found.append(Column(name or f"column{len(found) + 1}", type_, -1))
    return found or None


def _fields(expr: Expr) -> tuple[Column, ...] | None:
    if expr.type != oids.RECORD:
        return None
    if expr.columns is not None:
        return tuple(expr.columns)
    if expr.form is not Form.ROW:
        return None
    return tuple(Column(f"f{at + 1}", each.type, each.modifier, _fields(each)) for at, each in enumerate(expr.parts))


def output_column(name: str, expr: Expr) -> Column:
    """Return the column that an expression is in a query's output."""
    return Column(name, expr.type, expr.modifier, _fields(expr))


def columns_of(analysis: Analysis, expr: Expr) -> Sequence[Column] | None:
    """Return the columns of a value that is a row; None: nobody knows them, or it is none."""
    if expr.columns is not None:
        return expr.columns
    relation = analysis.coercion.relation(expr.type)
    if relation:
        row = analysis.world.relations.get(relation)
        return row.columns if row is not None else None
    return _fields(expr)


def project(analysis: Analysis, name: str, row: Expr, at: int) -> Expr | None:
    """Return a column of a row; None: it has none of this name. ParseComplexProjection()."""
    if row.type == ANY_TYPE:
        analysis.unknown("function", row.location)
        return Expr(ANY_TYPE, row.location, levels=row.levels)
    columns = list(columns_of(analysis, row) or ())
    if row.is_table and name in SYSTEM_COLUMNS:
        columns.append(SYSTEM_COLUMNS[name])
    for column in columns:
        if column.name == name:
            form = Form.OTHER
            if row.form is Form.WHOLE_ROW:
                analysis.use("var", at, column.type)
                form = Form.COLUMN
            else:
                at = row.start
            return Expr(column.type, at, form, column.modifier, levels=row.levels, columns=column.columns)
    return None

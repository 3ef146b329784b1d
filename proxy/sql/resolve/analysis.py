"""Carry one statement's analysis: what was found in use, the parameters' types, and conversions of expressions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from proxy.sql.resolve import oids, polymorphic
from proxy.sql.resolve.choosing import Choosing, Operation, Signature
from proxy.sql.resolve.coercion import Context, Path, Way
from proxy.sql.resolve.oids import ANY_TYPE, FIRST_NORMAL, UNKNOWN
from proxy.sql.resolve.tree import (
    COLUMN,
    CONSTANT,
    OTHER,
    PARAMETER,
    Body,
    Expr,
    Form,
    Level,
    MismatchError,
    Noted,
    NotModelledError,
    Query,
    RejectedError,
    Use,
)
from proxy.sql.resolve.world import Column, Operator

MISMATCH = "42804"  # datatype_mismatch
UNDEFINED_FUNCTION = "42883"
AMBIGUOUS_FUNCTION = "42725"
INDETERMINATE = "42P18"  # indeterminate_datatype
AMBIGUOUS_PARAMETER = "42P08"
CANNOT_COERCE = "42846"
UNDEFINED_OBJECT = "42704"
UNDEFINED_COLUMN = "42703"
TOO_MUCH = "more than is looked into"
MAX_PARAMETERS = 65_535
MAX_STEPS = 12_000
"""Expressions that are analysed of one statement, a call counting for two: 20 to 30 ms. BETWEEN analyses its first
operand once for each comparison, so that a few of them within each other could keep anybody busy for ever."""
PER_STEP = 16
"""Columns or tables that are gone through in the time of a step."""


_TAKES_ALL = frozenset({oids.ANY, oids.ANYELEMENT, oids.ANYNONARRAY, oids.ANYCOMPATIBLE, oids.ANYCOMPATIBLENONARRAY})
"""Types whose functions are given the value as it is."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Hold the names that a statement in the body of a function can use beside those of its FROM."""

    find: Callable[[Analysis, Sequence[str], int], Expr | None]
    """Gives the value of a name of one part or several, at a place in the text; None: nothing bears it."""
    clashes: bool
    """Whether nobody knows what is meant by a name that FROM has as well; else that comes first."""


class Analysis:
    """Analyse one statement. `given` are the parameters' types that the client declares, 0 or unknown where none."""

    __slots__ = (
        "by_place",
        "choosing",
        "coercion",
        "compares_by_place",
        "correlated",
        "expression",
        "from_types",
        "is_open",
        "noted",
        "opaque",
        "outside",
        "parameters",
        "query",
        "search",
        "steps",
        "types",
        "uncertain",
        "world",
    )

    def __init__(self, choosing: Choosing, given: Sequence[int]) -> None:
        self.choosing = choosing
        self.search = choosing.search
        self.world = choosing.search.world
        self.coercion = choosing.coercion
        self.parameters = [each or UNKNOWN for each in given] if given else []
        self.noted: Noted = defaultdict(list)
        self.uncertain: list[Use] = []
        """Uses of one object of several, or of none."""
        self.is_open = False
        """Whether anything can be used somewhere."""
        self.steps = 0
        """How many expressions have been analysed, and what took as long as one."""
        self.types: set[int] = set()
        """Those that values in the statement are of."""
        self.by_place = False
        """Whether the number of an output column, in ORDER BY and its like, says which literal or parameter is text."""
        self.compares_by_place = False
        """Whether it says of which type the values are that are compared."""
        self.outside: Outside | None = None
        """Gives the arguments and variables of the function that it stands in: then it has no other parameters."""
        self.opaque = False
        """Whether anything can be used that the types of values do not bring with them."""
        self.from_types: set[int] = set()
        """What values of types that nobody knows are converted to."""
        self.correlated = False
        """Whether a query has something of one around it, or of what stands beside it in FROM."""
        self.query: Callable[[Analysis, Body, Level | None, bool], Query]
        """Analyses a subquery. This and the next are set by what stands above those that need them."""
        self.expression: Callable[[Analysis, Level, Body], Expr]
        """Analyses an expression."""

    def use(self, kind: str, location: int, found: int) -> None:
        """Record that an object is used."""
        self.noted[kind].append((location, found))

    def use_one_of(self, kind: str, location: int, found: Iterable[int]) -> None:
        """Record that one of these is used."""
        several = frozenset(found)
        if len(several) == 1:
            self.use(kind, location, *several)
        else:
            self.uncertain.append(Use(kind, location, several))

    def runs(self, signature: Signature, location: int) -> None:
        """Record what a function may run of the types that it is given."""
        for kind, types in signature.runs:
            self.noted[kind] += [(location, type_) for type_ in types]

    def unknown(self, kind: str, location: int) -> None:
        """Record that anything can be used."""
        self.is_open = self.opaque = True
        self.uncertain.append(Use(kind, location, None))

    def by_type(self, location: int, *kinds: str) -> None:
        """Record that what belongs to the type of a value can be used, which nobody knows."""
        self.is_open = True
        self.uncertain += [Use(kind, location, None) for kind in kinds]

    def spend(self, count: int) -> None:
        """Count columns or tables that are gone through. Raises NotModelledError where that comes to too much."""
        self.steps += count // PER_STEP
        if self.steps > MAX_STEPS:
            raise NotModelledError(TOO_MUCH)

    # -- parameters ----------------------------------------------------------------------------------------------------

    def parameter(self, number: int, location: int) -> Expr:
        """Return `$number`: variable_paramref_hook() (parser/parse_param.c)."""
        if not 0 < number <= (MAX_PARAMETERS if self.outside is None else len(self.parameters)):
            raise RejectedError("42P02", f"there is no parameter ${number}")
        while len(self.parameters) < number:
            self.parameters.append(0)
        self.parameters[number - 1] = self.parameters[number - 1] or UNKNOWN
        type_ = self.parameters[number - 1]
        self.use("param", location, type_)
        return Expr(type_, location, PARAMETER, number=number)

    def _settle(self, expr: Expr, target: int, location: int) -> Expr:
        """Give a parameter its type: variable_coerce_param_hook()."""
        known = self.parameters[expr.number - 1]
        if known in (UNKNOWN, target):
            self.parameters[expr.number - 1] = target
        elif ANY_TYPE not in (known, target):
            raise RejectedError(AMBIGUOUS_PARAMETER, f"inconsistent types deduced for parameter ${expr.number}")
        at = min(expr.location, location) if location >= 0 else expr.location
        self.use("param", at, target)
        self.use("input", at, target)
        return Expr(target, at, PARAMETER, number=expr.number)

    def settled(self, expr: Expr) -> Expr:
        """Return an expression with the type that its parameter has got since it was analysed."""
        if expr.type != UNKNOWN:
            return expr
        if expr.form is Form.COLLATED:
            inner = self.settled(expr.parts[0])
            return Expr(inner.type, expr.location, Form.COLLATED, parts=[inner], levels=expr.levels)
        if expr.form is Form.PARAMETER:
            return Expr(self.parameters[expr.number - 1], expr.location, Form.PARAMETER, number=expr.number)
        return expr

    def check_parameters(self) -> None:
        """Raise RejectedError where a parameter's type is still open: check_parameter_resolution_walker()."""
        for at, each in enumerate(self.parameters):
            if each in (0, UNKNOWN):
                raise RejectedError(INDETERMINATE, f"could not determine data type of parameter ${at + 1}")

    # -- conversions ---------------------------------------------------------------------------------------------------

    def coerce(self, expr: Expr, target: int, context: Context = Context.IMPLICIT, location: int = -1) -> Expr:
        """Return an expression that `Coercion.can` become another type as one of that type: coerce_type()."""
        source = expr.type
        self.types.add(target)
        if target == source or target in _TAKES_ALL:
            return expr
        found = self._written(expr, target, context, location) if source == UNKNOWN else self._as_it_is(expr, target)
        if found is not None:
            return found
        if ANY_TYPE in (source, target):
            self.by_type(location, "function", "io")
            self.from_types.add(target)
            return Expr(target, expr.location, levels=expr.levels)
        path = self.coercion.path(target, source, context)
        if path is not None:
            return self._along(path, expr, target, context, location)
        if source == oids.RECORD and self.coercion.is_composite(target):
            return self._record_to_row(expr, target, context, location)
        if source == UNKNOWN:
            raise RejectedError(CANNOT_COERCE, "failed to find conversion function from unknown")
        return Expr(target, expr.location, levels=expr.levels)

    def _written(self, expr: Expr, target: int, context: Context, location: int) -> Expr | None:
        """Give a literal or a parameter without a type this one; None: it is neither, or the type is not known."""
        if target == ANY_TYPE:
            return None
        if expr.form is CONSTANT:
            return self._input(expr, target)
        if expr.form is PARAMETER:
            return self._settle(expr, target, location)
        if expr.form is Form.COLLATED:
            inner = self.coerce(expr.parts[0], target, context, location)
            return Expr(target, expr.location, levels=inner.levels)
        return None

    def _as_it_is(self, expr: Expr, target: int) -> Expr | None:
        """Return a value that a type stands for which is none itself: a polymorphic one, record; None: it does not."""
        source, coercion = expr.type, self.coercion
        if target in oids.POLYMORPHIC:
            base = coercion.base(source)
            return expr if base == source else Expr(base, expr.location, levels=expr.levels)
        if target == oids.RECORD:
            return expr if coercion.is_composite(source) else None
        if target == oids.RECORD_ARRAY:
            return expr if coercion.is_composite(coercion.element(source)) else None
        return None

    def _input(self, expr: Expr, target: int) -> Expr:
        base = self.coercion.base(target)
        self.noted["const"].append((expr.location, base))
        self.noted["input"].append((expr.location, base))
        literal = Expr(base, expr.location, CONSTANT, is_null=expr.is_null)
        return literal if base == target else self._check_domain(literal, target)

    def _along(self, path: Path, expr: Expr, target: int, context: Context, location: int) -> Expr:
        base = self.coercion.base(target)
        self.types.add(base)
        if path.cast:
            self.use("cast", location, path.cast)
        if path.way is Way.FUNCTION:
            self.use("function", location, path.function)
        elif path.way is Way.INPUT_OUTPUT:
            self.use("io", location, base)
            self.use("io-from", location, expr.type)
            self.use("output", location, expr.type)
            self.use("input", location, base)
        elif path.way is Way.ARRAY:
            self.use("array-cast", location, base)
            element = Expr(self.coercion.element(self.coercion.base(expr.type)), location)
            self.coerce(element, self.coercion.element(base), context, location)
        found = Expr(base, expr.location, levels=expr.levels, columns=expr.columns)
        return found if base == target else self._check_domain(found, target)

    def _check_domain(self, expr: Expr, domain: int) -> Expr:
        """Record that a value becomes one of a domain: coerce_to_domain()."""
        self.use("domain", -1, domain)
        self.use("check", expr.location, domain)
        if self.coercion.has_modifier(domain):
            self._modify(self.coercion.base(domain), -1)
        return Expr(domain, expr.location, levels=expr.levels, columns=expr.columns)

    def _modify(self, type_: int, location: int) -> None:
        path = self.coercion.modifier_function(type_)
        if path is not None:
            if path.way is Way.ARRAY:
                self.use("array-cast", location, type_)
            self.use("function", location, path.function)

    def _record_to_row(self, expr: Expr, target: int, context: Context, location: int) -> Expr:
        """Make a row constructor one of a row type, field by field: coerce_record_to_complex()."""
        relation = self.world.relations.get(self.coercion.relation(target))
        columns: Sequence[Column] = relation.columns if relation is not None else ()
        parts: Sequence[Expr]
        if expr.form is Form.ROW:
            parts = expr.parts
        elif expr.form is Form.WHOLE_ROW and expr.columns is not None:
            parts = [Expr(each.type, expr.location, COLUMN) for each in expr.columns]
        else:
            raise RejectedError(CANNOT_COERCE, "cannot cast type record")
        if len(parts) != len(columns):
            raise RejectedError(CANNOT_COERCE, "cannot cast type record: input has another number of columns")
        for part, column in zip(parts, columns, strict=True):
            self.to_target(part, column.type, column.modifier, context, -1)
        base = self.coercion.base(target)
        self.use("row", location, base)
        found = Expr(base, expr.location, levels=expr.levels)
        return found if base == target else self._check_domain(found, target)

    def to_target(
        self, expr: Expr, target: int, modifier: int = -1, context: Context = Context.EXPLICIT, location: int = -1
    ) -> Expr:
        """Convert, or raise RejectedError: coerce_to_target_type()."""
        if not self.coercion.can([expr.type], [target], context):
            raise RejectedError(CANNOT_COERCE, "cannot cast type")
        return self._converted(expr, target, modifier, context, location)

    def _converted(self, expr: Expr, target: int, modifier: int, context: Context, location: int) -> Expr:
        inner = expr
        while inner.form is Form.COLLATED:
            inner = inner.parts[0]
        found = self.coerce(inner, target, context, location)
        if modifier >= 0 and target != ANY_TYPE:
            # Only where the value has another modifier; that a constant is applied to is not worth knowing.
            self._modify(self.coercion.base(target), location)
        return Expr(
            found.type,
            found.location if found.form is PARAMETER else expr.location,
            found.form if inner is expr else OTHER,
            modifier,
            found.parts,
            found.number,
            found.columns,
            expr.levels,
            found.is_null,
        )

    def to_text(self, expr: Expr) -> Expr:
        """Make text of what has no type: resolveTargetListUnknowns(), addTargetToSortList()."""
        return self.coerce(expr, oids.TEXT) if expr.type == UNKNOWN else expr

    def to_common(self, expr: Expr, target: int) -> Expr:
        """Convert to what `Coercion.common` has found: coerce_to_common_type()."""
        if expr.type == target:
            return expr
        if not self.coercion.can([expr.type], [target]):
            raise RejectedError(CANNOT_COERCE, "could not convert type")
        return self.coerce(expr, target)

    def common(self, exprs: Sequence[Expr], what: str) -> int:
        """Return the common type of expressions: select_common_type(). Raises RejectedError."""
        try:
            return self.coercion.common([each.type for each in exprs], what)
        except MismatchError as error:
            raise RejectedError(MISMATCH, str(error)) from error

    def to_bool(self, expr: Expr) -> Expr:
        """Convert to boolean: coerce_to_boolean()."""
        return expr if expr.type == oids.BOOL else self.to_specific(expr, oids.BOOL)

    def to_specific(self, expr: Expr, target: int) -> Expr:
        """Convert as in an assignment: coerce_to_specific_type()."""
        if expr.type == target:
            return expr
        if not self.coercion.can([expr.type], [target], Context.ASSIGNMENT):
            raise RejectedError(MISMATCH, "argument must be of another type")
        return self._converted(expr, target, -1, Context.ASSIGNMENT, -1)

    def arguments(self, given: Sequence[Expr], wanted: Sequence[int]) -> list[Expr]:
        """Convert what a function or operator is given: make_fn_arguments()."""
        found = list(given)
        for at, type_ in enumerate(wanted[: len(found)]):
            if found[at].type != type_:
                found[at] = self.coerce(found[at], type_)
        return found

    # -- operators -----------------------------------------------------------------------------------------------------

    def operator(self, schema: str, name: str, left: Expr | None, right: Expr, location: int) -> Expr:
        """Apply an operator: make_op()."""
        if left is None:
            left_type, given, levels = 0, [right], right.levels
        else:
            left_type, given, levels = left.type, [left, right], left.levels | right.levels
        key = (schema, name, left_type, right.type)
        found = self.choosing.operations.get(key) or self.choosing.operation(*key)
        signature = found.signature
        if signature is None:
            signature = self._unsigned(found, left_type, right.type, location)
            if signature is None:
                return self._one_of(found.operators, given, location, levels)
        self.noted["operator"].append((location, found.operators[0].oid))
        if signature.runs:
            self.runs(signature, location)
        if signature.converts:
            given = self.arguments(given, signature.takes)
        return Expr(signature.gives, location, levels=levels, parts=given)

    def _unsigned(self, found: Operation, left: int, right: int, location: int) -> Signature | None:
        """Record that one of several operators is used; raise RejectedError if there is none, or none that fits."""
        operators = found.operators
        if not operators:
            raise RejectedError(UNDEFINED_FUNCTION, "operator does not exist")
        if len(operators) > 1:
            self.use_one_of("operator", location, [each.oid for each in operators])
            return None
        (one,) = operators
        given, takes = ([left, right], [one.left, one.right]) if one.left else ([right], [one.right])
        return Signature(*self.resolve(given, takes, one.result), True)

    def _one_of(self, operators: Sequence[Operator], given: Sequence[Expr], location: int, levels: int) -> Expr:
        """Apply one of several operators: nobody knows what becomes of the operands."""
        self.open(given)
        results = {ANY_TYPE if each.result in oids.POLYMORPHIC else each.result for each in operators}
        return Expr(results.pop() if len(results) == 1 else ANY_TYPE, location, levels=levels)

    def open(self, given: Sequence[Expr]) -> None:
        """Record that nobody knows what becomes of these; literals and parameters can become anything."""
        self.by_type(-1, "function", "io")
        for each in given:
            if each.form is PARAMETER and each.type == UNKNOWN:
                self.parameters[each.number - 1] = ANY_TYPE
            if each.type == UNKNOWN:
                self.by_type(each.location, "input")

    def resolve(self, actual: Sequence[int], declared: Sequence[int], result: int) -> tuple[list[int], int]:
        """Return what is taken and given, polymorphic types replaced. Raises RejectedError."""
        try:
            return polymorphic.resolve(self.coercion, actual, declared, result)
        except MismatchError as error:
            raise RejectedError(MISMATCH, str(error)) from error

    def array_operator(self, schema: str, name: str, left: Expr, right: Expr, location: int) -> Expr:
        """Apply an operator to each element of an array: make_scalar_array_op()."""
        element = right.type
        if element != UNKNOWN:
            element = self.coercion.base_element(right.type) if right.type != ANY_TYPE else ANY_TYPE
            if not element:
                raise RejectedError("42809", "op ANY/ALL (array) requires array on right side")
        found = self.choosing.operation(schema, name, left.type, element)
        levels = left.levels | right.levels
        signature = found.signature or self._unsigned(found, left.type, element, location)
        if signature is None:
            self.open([left, right])
            return Expr(oids.BOOL, location, levels=levels)
        self.noted["operator"].append((location, found.operators[0].oid))
        self.runs(signature, location)
        wanted, result = signature.takes, signature.gives
        if result not in (oids.BOOL, ANY_TYPE):
            raise RejectedError("42809", "op ANY/ALL (array) requires operator to yield boolean")
        # A polymorphic operator may still take its elements as they are: then the array is.
        array = right.type if wanted[1] in oids.POLYMORPHIC else self.coercion.array(wanted[1])
        if not array and wanted[1] != ANY_TYPE:
            raise RejectedError(UNDEFINED_OBJECT, "could not find array type")
        self.arguments([left, right], [wanted[0], array or ANY_TYPE])
        return Expr(oids.BOOL, location, parts=[left], levels=levels)

    # -- order, equality -----------------------------------------------------------------------------------------------

    def inequality(self, type_: int) -> None:
        """Record the operator that tells values of a type apart: the negator of what finds them equal.

        Of what is built in it is `<>`; nobody knows that of other operators.
        """
        equality = 0 if type_ == ANY_TYPE else self.coercion.order(type_).equal
        if type_ != ANY_TYPE and not equality:
            raise RejectedError(UNDEFINED_FUNCTION, "could not identify an equality operator")
        found: list[int] = []
        if 0 < equality < FIRST_NORMAL:
            same = self.world.operators[equality]
            found = [
                each.oid
                for each in self.search.operators("pg_catalog", "<>")
                if (each.left, each.right) == (same.left, same.right) and each.oid < FIRST_NORMAL
            ]
        if found:
            self.use_one_of("operator", -1, found)
        else:
            self.unknown("operator", -1)

    def sort(self, expr: Expr, *, descending: bool = False) -> None:
        """Record how values are put in order: addTargetToSortList()."""
        if expr.type == ANY_TYPE:
            self.by_type(expr.location, "sort", "group")
            return
        order = self.coercion.order(expr.type)
        operator = order.greater if descending else order.less
        if not operator or not order.equal:
            raise RejectedError(UNDEFINED_FUNCTION, "could not identify an ordering operator")
        at = expr.location
        self.noted["sort"].append((at, operator))
        self.noted["group"].append((at, order.equal))
        self.noted["order"].append((at, expr.type))

    def group(self, type_: int, location: int) -> None:
        """Record how equal values are found: addTargetToGroupList()."""
        if type_ == ANY_TYPE:
            self.by_type(location, "group", "sort")
            return
        order = self.coercion.order(type_)
        if not order.equal:
            raise RejectedError(UNDEFINED_FUNCTION, "could not identify an equality operator")
        self.noted["group"].append((location, order.equal))
        self.noted["equality"].append((location, type_))
        if order.less:
            self.use("sort", location, order.less)

"""Choose among functions and operators that bear one name: parser/parse_func.c, parser/parse_oper.c.

Where an argument's type is not known, every candidate that the known ones leave can be chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from proxy.sql.resolve import hidden, polymorphic
from proxy.sql.resolve.coercion import MAX_REMEMBERED, Coercion
from proxy.sql.resolve.oids import ANY_TYPE, UNKNOWN
from proxy.sql.resolve.search import Search
from proxy.sql.resolve.tree import MismatchError
from proxy.sql.resolve.world import Function, Operator

MAX_ARGUMENTS_REMEMBERED = 16
_STRING = "S"  # TYPCATEGORY_STRING
_INVALID = ""


class Candidate(NamedTuple):
    """One function as a call would use it: FuncCandidateList (catalog/namespace.h)."""

    function: Function
    place: int
    """Of its schema in the path."""
    arguments: tuple[int, ...]
    """What it takes, argument by argument of the call as it is written, then those left to their defaults."""
    variadic: int
    """How many arguments its variadic one takes up."""
    defaults: int
    """How many are left to their defaults."""
    order: tuple[int, ...] = ()
    """With named arguments: which parameter each argument of the call is, then those left out."""
    is_ambiguous: bool = False
    """Whether another function takes the same, and nothing says which is meant."""


class Signature(NamedTuple):
    """What a function or operator takes and gives where certain types are given: none of them is polymorphic."""

    takes: Sequence[int]
    gives: int
    converts: bool
    """Whether it takes other types than are given."""
    runs: Sequence[tuple[str, frozenset[int]]] = ()
    """What it may run of them where it takes any: see `hidden`."""


class Choice(NamedTuple):
    """What func_get_detail() found: what can be meant, or that several fit, or nothing."""

    candidates: tuple[Candidate, ...]
    is_ambiguous: bool = False
    is_exact: bool = False
    """Whether the only candidate takes just the types that are given."""
    signature: Signature | None = None
    """Of the only candidate; None, too, if the types that are given do not fit each other."""


class Operation(NamedTuple):
    """What oper() found: the operators that can be meant."""

    operators: tuple[Operator, ...]
    signature: Signature | None
    """As in Choice."""


class Choosing:
    """Choose along one search_path. What was chosen for certain types is remembered, as parser/parse_oper.c does it."""

    __slots__ = ("_candidates", "_functions", "_named", "coercion", "operations", "search")

    def __init__(self, coercion: Coercion, search: Search) -> None:
        self.coercion = coercion
        self.search = search
        self.operations: dict[tuple[str, str, int, int], Operation] = {}
        """What `operation` has found."""
        self._named: dict[tuple[str, str, bool], dict[tuple[int, int], Operator]] = {}
        self._functions: dict[tuple[str, str, tuple[int, ...], bool], Choice] = {}
        self._candidates: dict[tuple[str, str, int, bool], list[Candidate]] = {}

    # -- functions -----------------------------------------------------------------------------------------------------

    def function(
        self, schema: str, name: str, given: tuple[int, ...], names: Sequence[str] = (), *, expand_variadic: bool
    ) -> Choice:
        """Give what a call with arguments of these types means: func_get_detail().

        `names` are those of the last arguments, in named notation.
        """
        if names:
            return self._find_function(schema, name, given, names, expand_variadic)
        key = (schema, name, given, expand_variadic)
        known = self._functions.get(key)
        if known is None:
            known = self._find_function(schema, name, given, (), expand_variadic)
            if known.candidates and len(given) <= MAX_ARGUMENTS_REMEMBERED:  # as in `_candidates`
                if len(self._functions) >= MAX_REMEMBERED:
                    self._functions.clear()
                self._functions[key] = known
        return known

    def _find_function(
        self, schema: str, name: str, given: tuple[int, ...], names: Sequence[str], expand_variadic: bool
    ) -> Choice:
        found = self.best(self.candidates(schema, name, len(given), names, expand_variadic=expand_variadic), given)
        if len(found.candidates) != 1:
            return found
        function, takes = found.candidates[0].function, found.candidates[0].arguments
        signature = self._signature(function, (*given, *takes[len(given) :]), takes, function.result)
        return found._replace(is_exact=takes[: len(given)] == given, signature=signature)

    def _signature(
        self, function: Function | None, given: Sequence[int], declared: Sequence[int], gives: int
    ) -> Signature | None:
        try:
            takes, gives = polymorphic.resolve(self.coercion, given, declared, gives)
        except MismatchError:
            return None
        runs = hidden.runs(self.coercion, function, declared, given, takes)
        return Signature(takes, gives, list(takes) != list(given), runs)

    def candidates(
        self, schema: str, name: str, count: int, names: Sequence[str], *, expand_variadic: bool
    ) -> Sequence[Candidate]:
        """Give what a call with so many arguments can mean: FuncnameGetCandidates().

        `names` are those of the last arguments, in named notation.
        """
        if names:
            return self._find_candidates(schema, name, count, names, expand_variadic)
        key = (schema, name, count, expand_variadic)
        known = self._candidates.get(key)
        if known is None:
            known = self._find_candidates(schema, name, count, (), expand_variadic)
            if known:  # names that nothing bears come from clients, and there is no end to them
                if len(self._candidates) >= MAX_REMEMBERED:
                    self._candidates.clear()
                self._candidates[key] = known
        return known

    def _find_candidates(
        self, schema: str, name: str, count: int, names: Sequence[str], expand_variadic: bool
    ) -> list[Candidate]:
        found: list[Candidate] = []
        for place, function in self.search.functions(schema, name):
            candidate = self._candidate(function, place, count, names, expand_variadic)
            if candidate is not None:
                _add(found, candidate)
        return found

    @staticmethod
    def _candidate(
        function: Function, place: int, count: int, names: Sequence[str], expand_variadic: bool
    ) -> Candidate | None:
        parameters = len(function.arguments)
        if names:
            if (function.variadic and expand_variadic) or parameters < count:
                return None
            if count + function.defaults < parameters:
                return None
            order = _match_names(function, count, names)
            if order is None:
                return None
            arguments = tuple(function.arguments[at] for at in order)
            return Candidate(function, place, arguments, 0, parameters - count, order)
        variadic = bool(function.variadic) and expand_variadic and parameters <= count
        if variadic:
            taken = count - parameters + 1
            arguments = function.arguments[:-1] + (function.variadic,) * taken
            return Candidate(function, place, arguments, taken, 0)
        if parameters > count:
            if count + function.defaults < parameters:
                return None
            return Candidate(function, place, function.arguments, 0, parameters - count)
        if parameters != count:
            return None
        return Candidate(function, place, function.arguments, 0, 0)

    def best(self, candidates: Sequence[Candidate], given: Sequence[int]) -> Choice:
        """Give the candidates that can be chosen for arguments of these types: the rest of func_get_detail()."""
        count = len(given)
        if ANY_TYPE not in given:
            wanted = tuple(given)
            for each in candidates:
                if not count or each.arguments[:count] == wanted:
                    return Choice((each,), each.is_ambiguous)
        return self.coerced(candidates, given)

    def coerced(self, candidates: Sequence[Candidate], given: Sequence[int]) -> Choice:
        """Give those that can be chosen where none takes just these types."""
        count = len(given)
        can = self.coercion.can
        fitting = [each for each in candidates if can(given, each.arguments[:count])]
        if len(fitting) > 1 and ANY_TYPE not in given:
            at = self._select(given, [each.arguments for each in fitting])
            if at is None:
                return Choice((), is_ambiguous=True)
            fitting = [fitting[at]]
        if len(fitting) == 1:
            return Choice((fitting[0],), fitting[0].is_ambiguous)
        return Choice(tuple(each for each in fitting if not each.is_ambiguous))

    # -- operators -----------------------------------------------------------------------------------------------------

    def operation(self, schema: str, name: str, left: int, right: int) -> Operation:
        """Give the operators that can be chosen for operands of these types; none: the server finds none.

        `left` is 0 for a prefix operator. oper(), left_oper().
        """
        key = (schema, name, left, right)
        known = self.operations.get(key)
        if known is None:
            operators = self._find_operators(schema, name, left, right)
            signature = None
            if len(operators) == 1:
                (one,) = operators
                given, takes = ((left, right), (one.left, one.right)) if left else ((right,), (one.right,))
                function = self.coercion.world.functions.get(one.function)
                signature = self._signature(function, given, takes, one.result)
            if len(self.operations) >= MAX_REMEMBERED:
                self.operations.clear()
            known = self.operations[key] = Operation(operators, signature)
        return known

    def _operators_named(self, schema: str, name: str, *, prefix: bool) -> dict[tuple[int, int], Operator]:
        """Give the operators that bear a name by what they take."""
        key = (schema, name, prefix)
        known = self._named.get(key)
        if known is None:
            named = self.search.operators(schema, name)
            known = {(each.left, each.right): each for each in named if prefix == (not each.left)}
            if known:  # as in `_candidates`
                if len(self._named) >= MAX_REMEMBERED:
                    self._named.clear()
                self._named[key] = known
        return known

    def _find_operators(self, schema: str, name: str, left: int, right: int) -> tuple[Operator, ...]:
        by_operands = self._operators_named(schema, name, prefix=not left)
        exact = self._exact(by_operands, left, right)
        if exact is not None:
            return (exact,)
        given = (left, right) if left else (right,)
        named = list(by_operands.values())
        takes = [(each.left, each.right) if left else (each.right,) for each in named]
        fitting = [at for at, each in enumerate(takes) if self.coercion.can(given, each)]
        if len(fitting) > 1 and ANY_TYPE not in given:
            chosen = self._select(given, [takes[at] for at in fitting])
            fitting = [] if chosen is None else [fitting[chosen]]
        return tuple(named[at] for at in fitting)

    def _exact(self, operators: dict[tuple[int, int], Operator], left: int, right: int) -> Operator | None:
        """Return the operator that takes just these types, a literal's being the other one: binary_oper_exact()."""
        if ANY_TYPE in (left, right):
            return None
        one = right if left == UNKNOWN else left
        other = left if right == UNKNOWN and left else right
        found = operators.get((one, other))
        if found is None and left and UNKNOWN in (left, right):
            base = self.coercion.base(one)
            found = operators.get((base, base))
        return found

    # -- both ----------------------------------------------------------------------------------------------------------

    def _select(self, given: Sequence[int], candidates: Sequence[Sequence[int]]) -> int | None:
        """Return which of the candidates is chosen; None: that is ambiguous. func_select_candidate()."""
        coercion = self.coercion
        bases = [each if each == UNKNOWN else coercion.base(each) for each in given]
        known = [(at, each, coercion.category(each)) for at, each in enumerate(bases) if each != UNKNOWN]

        def exact(at: int) -> int:
            return sum(candidates[at][i] == base for i, base, _ in known)

        def preferred(at: int) -> int:
            takes = candidates[at]
            return sum(takes[i] == base or coercion.is_preferred(category, takes[i]) for i, base, category in known)

        left: Sequence[int] = _most(_most(range(len(candidates)), exact), preferred)
        if len(left) > 1 and len(known) < len(bases):
            left = self._left_by_literals(bases, candidates, left)
        return left[0] if len(left) == 1 else None

    def _left_by_literals(
        self, bases: Sequence[int], candidates: Sequence[Sequence[int]], left: Sequence[int]
    ) -> Sequence[int]:
        """Return which candidates the arguments without a type leave: the second half of func_select_candidate()."""
        count = len(bases)
        unknown = [at for at, each in enumerate(bases) if each == UNKNOWN]
        slots = self._slots(unknown, [candidates[at] for at in left])
        if slots is not None:
            left = [at for at in left if self._fits(candidates[at], slots)] or left
        known = {each for each in bases if each != UNKNOWN}
        if len(left) > 1 and len(known) == 1:
            guess = [*known] * count
            left = [at for at in left if self.coercion.can(guess, candidates[at][:count])]
        return left

    def _slots(self, unknown: Sequence[int], candidates: Sequence[Sequence[int]]) -> dict[int, tuple[str, bool]] | None:
        """Give for each literal the category that it is taken for, and whether a preferred type of it is wanted."""
        types = self.coercion.world.types
        slots: dict[int, tuple[str, bool]] = {}
        for at in unknown:
            category, has_preferred, conflict = _INVALID, False, False
            for each in candidates:
                row = types.get(each[at])
                its, preferred = (row.category, row.preferred) if row is not None else ("\0", False)
                if category == _INVALID:
                    category, has_preferred = its, preferred
                elif its == category:
                    has_preferred = has_preferred or preferred
                elif its == _STRING:
                    category, has_preferred = its, preferred
                else:
                    conflict = True
            if conflict and category != _STRING:
                return None
            slots[at] = (category, has_preferred)
        return slots

    def _fits(self, candidate: Sequence[int], slots: dict[int, tuple[str, bool]]) -> bool:
        types = self.coercion.world.types
        for at, (category, has_preferred) in slots.items():
            row = types.get(candidate[at])
            if row is None or row.category != category or (has_preferred and not row.preferred):
                return False
        return True


def _most(left: Sequence[int], count: Callable[[int], int]) -> list[int]:
    """Leave those of the highest count."""
    counts = [count(at) for at in left]
    most = max(counts)
    return [at for at, each in zip(left, counts, strict=True) if each == most]


def _add(found: list[Candidate], candidate: Candidate) -> None:
    """Add a candidate, unless one that takes the same is to be preferred: see FuncnameGetCandidates()."""
    takes = candidate.arguments[: len(candidate.arguments) - candidate.defaults]
    for at, other in enumerate(found):
        if other.arguments[: len(other.arguments) - other.defaults] != takes:
            continue
        if candidate.place != other.place:
            preference = candidate.place - other.place
        elif candidate.variadic and not other.variadic:
            preference = 1
        elif other.variadic and not candidate.variadic:
            preference = -1
        else:
            preference = 0
        if preference < 0:
            found[at] = candidate
        elif not preference:
            found[at] = other._replace(is_ambiguous=True)
        return
    found.append(candidate)


def _match_names(function: Function, count: int, names: Sequence[str]) -> tuple[int, ...] | None:
    """Return which parameter each argument is, and then those left to defaults: MatchNamedCall()."""
    if not function.names:
        return None
    modes = function.modes or "i" * len(function.arguments)
    inputs = [name for name, mode in zip(function.names, modes, strict=False) if mode in "ibv"]
    positional = count - len(names)
    order = list(range(positional))
    taken = set(order)
    for name in names:
        if name not in inputs:
            return None
        at = inputs.index(name)
        if at in taken:
            return None
        taken.add(at)
        order.append(at)
    parameters = len(function.arguments)
    first_default = parameters - function.defaults
    for at in range(parameters):
        if at not in taken:
            if at < first_default:
                return None
            order.append(at)
    return tuple(order)

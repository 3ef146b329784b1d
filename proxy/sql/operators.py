"""Find the operators that a node applies, also those that no name shows, and what is known of arguments' types.

`x IN (1, 2)` applies `=`, `BETWEEN` two comparisons, `CASE x WHEN y` and `JOIN … USING` a hidden `=`. PostgreSQL looks
those up by name like any other (parser/parse_expr.c, parse_clause.c), so an operator that somebody made can be meant.
Which one is, types decide, and so they do among functions of one name; the tree has types only where they are written
down: in constants, in casts, in calls of built-in functions that return one type.
"""

from __future__ import annotations

import re
from collections.abc import Callable as Function
from collections.abc import Collection, Mapping
from itertools import product
from typing import Any, NamedTuple, Protocol

from proxy.sql import literals, tables, versions
from proxy.sql.catalog import UNKNOWN, Callable, Chosen, Operator, Type, are_own

Body = dict[str, Any]


class Use(NamedTuple):
    """One operator as it is applied. The families are those of `family`; `left` is None for a prefix operator."""

    schema: str
    name: str
    left: str | None
    right: str
    given: tuple[str, ...]
    """What is known of the operands' types, as `given` says it."""


ANY = ""
"""The family of an operand that can be of any type."""
_FAMILIES = {
    "number": "int2 int4 int8 float4 float8 numeric oid",
    "text": "text varchar bpchar name char",
    "time": "date time timetz timestamp timestamptz interval",
    "bool": "bool",
    "uuid": "uuid",
    "json": "json jsonb",
    "bytea": "bytea",
}
# Families are closed under the built-in implicit casts (pg_cast.dat, castcontext i) but for the reg* types, which take
# text and numbers and are in none.
_FAMILY = {name: family for family, names in _FAMILIES.items() for name in names.split()}

_OPEN = ("reg", "any", "record")
"""Types that many others become without a word."""

_BETWEEN = {
    "AEXPR_BETWEEN": (">=", "<="),
    "AEXPR_NOT_BETWEEN": ("<", ">"),
    "AEXPR_BETWEEN_SYM": (">=", "<="),
    "AEXPR_NOT_BETWEEN_SYM": ("<", ">"),
}
_LISTS = frozenset({"AEXPR_IN", "AEXPR_OP_ANY", "AEXPR_OP_ALL"})

KINDS = frozenset({"A_Expr", "SubLink", "SortBy", "CaseExpr", "JoinExpr"})
"""The nodes that `used` looks into."""


def family(node: Body | None) -> str:
    """Give the family of types that an expression is of, ANY when the tree does not say."""
    if node is None:
        return ANY
    constant = node.get("A_Const")
    if constant is not None:
        if "ival" in constant or "fval" in constant:
            return "number"
        return "bool" if "boolval" in constant else ANY  # a string is of unknown type: it becomes what is wanted
    cast = node.get("TypeCast")
    if cast is not None and "arrayBounds" not in cast["typeName"]:
        names = [name["String"]["sval"] for name in cast["typeName"].get("names", ())]
        if len(names) == 1 or names[:1] == ["pg_catalog"]:
            return _FAMILY.get(names[-1], ANY)
    return ANY


class Names(Protocol):
    """What the names of functions and types can mean: a Catalog says it, or `Known`."""

    @property
    def functions(self) -> Mapping[str, tuple[Callable, ...]]:
        """The database's own, by name."""

    @property
    def types(self) -> Mapping[str, tuple[Type, ...]]:
        """All there are, by name."""


TYPED, OPEN, STORED = "", "?", "*"
"""What stands for a type that is not certain: of an expression that has one, of one that may be a literal, and of a
column of a table or view."""
_NEVER_STORED = frozenset({UNKNOWN, "record", "_record"})  # CheckAttributeType(), catalog/heap.c
_TYPED = frozenset(
    {"A_ArrayExpr", "A_Expr", "BoolExpr", "BooleanTest", "CaseExpr", "CoalesceExpr", "ColumnRef"}
    | {"FuncCall", "MinMaxExpr", "NullTest", "SQLValueFunction", "SubLink", "TypeCast"}
)
"""Expressions that have a type: where all that they are made of is literals, that is text."""


class Known(NamedTuple):
    """What there is to know beside the tree."""

    functions: Mapping[str, tuple[Callable, ...]]
    operators: Mapping[str, tuple[Operator, ...]]
    types: Mapping[str, tuple[Type, ...]]
    column: Function[[Body], str]
    """Gives the built-in type of a column, STORED or TYPED where it is not certain."""
    joined: Function[[str], Collection[str]]
    """Gives the same of all columns of a name that a join takes together: the result is of the type of one of them."""


def given(node: Body | None, known: Known, depth: int = 0) -> str:
    """Give the built-in type of an operand where it is certain, UNKNOWN for a literal, TYPED or OPEN.

    A parameter is OPEN: it has a type where the client has given it one.
    """
    if node is None:
        return OPEN
    ((kind, body),) = node.items()
    if kind == "ColumnRef":
        return known.column(body)
    if kind in _MADE and depth < _DEPTH:
        return _made(kind, body, known, depth) or TYPED
    if kind == "A_Const" and body.keys() & {"sval", "isnull"}:
        return UNKNOWN
    if _is_to_unknown(kind, body):
        return OPEN
    return type_of(node, known) or (TYPED if kind in _TYPED else OPEN)


def _is_to_unknown(kind: str, body: Body) -> bool:
    """Tell whether something is made one of type unknown: 'x'::unknown and unknown('x') are literals still."""
    names = body["typeName"].get("names") if kind == "TypeCast" else body["funcname"] if kind == "FuncCall" else None
    return names[-1]["String"]["sval"] == UNKNOWN if names else False


def _made(kind: str, body: Body, known: Known, depth: int) -> str:
    """Give the built-in type of what is made of others, where theirs are certain; else an empty text."""
    if kind == "A_Expr":
        return _result(body, known, depth)
    if kind == "SQLValueFunction":
        return _VALUES.get(body.get("op", ""), "")
    if kind == "SubLink":
        return "" if body.get("subLinkType") in _NO_TEST else "bool"
    if kind not in _CHOOSING:
        return "bool"
    if kind == "CaseExpr":
        parts = [when["CaseWhen"].get("result") for when in body.get("args", ())] + [body.get("defresult")]
        chosen = {given(part, known, depth + 1) for part in parts if part is not None}
    else:
        chosen = {given(part, known, depth + 1) for part in body.get("args", ())}
    types = chosen - {UNKNOWN}
    return "text" if not types else types.pop() if len(types) == 1 and types.isdisjoint(_UNSAID) else ""


def _result(body: Body, known: Known, depth: int) -> str:
    """Give the type of an operator's result where it is certain that a built-in one is meant.

    Only what is in its tables counts: of what types the built-in operators' results are, where the operands' are these.
    """
    form = body.get("kind", "AEXPR_OP")
    if form not in ("AEXPR_OP", "AEXPR_LIKE", "AEXPR_ILIKE"):
        return "bool" if form in _TESTS else ""
    (*schema, name) = (part["String"]["sval"] for part in body["name"])
    sides = tuple(given(body[side], known, depth + 1) for side in ("lexpr", "rexpr") if side in body)
    if schema or not _UNSAID.isdisjoint(sides):
        return ""
    if any(can_be_chosen(other.chosen, sides, _NONE) for other in known.operators.get(name, ())):
        return ""
    if len(sides) == 1:
        return sides[0] if name == "-" and sides[0] in _NUMBERS else ""
    return _result_of(name, *sides)


def _result_of(name: str, left: str, right: str) -> str:
    """Give the type of what a built-in operator makes of operands of these types."""
    result = _RESULTS.get(name)
    if result is not None:
        return result(left, right)
    if left == right == UNKNOWN:
        return ""
    one, other = (right if left == UNKNOWN else left), (left if right == UNKNOWN else right)
    if one in _NUMBERS and other in _NUMBERS:
        return _arithmetic(name, one, other)
    return _TIMES.get((name, left, right), "")


def _joined(left: str, right: str) -> str:
    sides = (left, right)
    return "text" if _TEXTS.intersection(sides) and _SAID.issuperset(sides) else ""


def _compared(left: str, right: str) -> str:
    sides = (left, right)
    return "bool" if _SAID.issuperset(sides) and (left == right or UNKNOWN in sides or _alike(left, right)) else ""


def _taken_out(left: str, _: str) -> str:
    return "text" if left in ("json", "jsonb") else ""


def _arithmetic(name: str, left: str, right: str) -> str:
    """Give the type of a number that is reckoned of two: func_select_candidate(), parser/parse_func.c."""
    if name not in ("+", "-", "*", "/"):
        return ""
    if left == right:
        return left
    both = {left, right}
    return "float8" if not both.isdisjoint(("float4", "float8")) else max(both, key=_NUMBERS.index)


def _alike(left: str, right: str) -> bool:
    return bool(_FAMILY.get(left)) and _FAMILY.get(left) == _FAMILY.get(right)


_MADE = frozenset(
    {"A_Expr", "BoolExpr", "BooleanTest", "CaseExpr", "CoalesceExpr", "MinMaxExpr", "NullTest", "SQLValueFunction"}
    | {"SubLink"}
)
_CHOOSING = frozenset({"CaseExpr", "CoalesceExpr", "MinMaxExpr"})
_NO_TEST = frozenset({None, "EXPR_SUBLINK", "MULTIEXPR_SUBLINK", "ARRAY_SUBLINK", "CTE_SUBLINK"})
_TESTS = frozenset(
    {"AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN", "AEXPR_BETWEEN_SYM", "AEXPR_NOT_BETWEEN_SYM"}
    | {"AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT", "AEXPR_IN", "AEXPR_OP_ANY", "AEXPR_OP_ALL"}
)
"""What gives a bool or an error, whatever the operator."""
_NUMBERS = ("int2", "int4", "int8", "numeric", "float4", "float8")
_SAID = frozenset(
    {*_NUMBERS, "text", "varchar", "bpchar", UNKNOWN, "name", "bool", "uuid"} | set(_FAMILIES["time"].split())
)
"""Types a value of which becomes text beside a text and `||`, and that `=` takes two of."""
_COMPARISONS = frozenset(["=", "<>", "!=", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~", "~*", "!~*"])
_RESULTS: dict[str, Function[[str, str], str]] = {
    "||": _joined,
    **dict.fromkeys(_COMPARISONS, _compared),
    **dict.fromkeys(("->>", "#>>"), _taken_out),
}
_TIMES = {
    ("+", "date", "int4"): "date",
    ("-", "date", "int4"): "date",
    ("-", "date", "date"): "int4",
    ("+", "date", "interval"): "timestamp",
    ("-", "date", "interval"): "timestamp",
    ("+", "timestamp", "interval"): "timestamp",
    ("-", "timestamp", "interval"): "timestamp",
    ("-", "timestamp", "timestamp"): "interval",
    ("+", "timestamptz", "interval"): "timestamptz",
    ("-", "timestamptz", "interval"): "timestamptz",
    ("-", "timestamptz", "timestamptz"): "interval",
    ("+", "interval", "interval"): "interval",
    ("-", "interval", "interval"): "interval",
}
_VALUES = {
    **dict.fromkeys(("SVFOP_CURRENT_USER", "SVFOP_CURRENT_ROLE", "SVFOP_USER", "SVFOP_SESSION_USER"), "name"),
    **dict.fromkeys(("SVFOP_CURRENT_CATALOG", "SVFOP_CURRENT_SCHEMA"), "name"),
    "SVFOP_CURRENT_DATE": "date",
    **dict.fromkeys(("SVFOP_CURRENT_TIME", "SVFOP_CURRENT_TIME_N"), "timetz"),
    **dict.fromkeys(("SVFOP_CURRENT_TIMESTAMP", "SVFOP_CURRENT_TIMESTAMP_N"), "timestamptz"),
    **dict.fromkeys(("SVFOP_LOCALTIME", "SVFOP_LOCALTIME_N"), "time"),
    **dict.fromkeys(("SVFOP_LOCALTIMESTAMP", "SVFOP_LOCALTIMESTAMP_N"), "timestamp"),
}


def can_be_chosen(chosen: Chosen | None, given: tuple[str, ...] | None, own: frozenset[int] | None) -> bool:
    """Tell whether an object can be the one that is meant where these operands or arguments are given.

    `given` is None where what is given stands in another order or number, `own` the database's own types that values
    in the statement can be of; None: of any.
    """
    if chosen is None or given is None or own is None:
        return True
    if not _UNSAID.isdisjoint(given) and not chosen.own.isdisjoint(own):
        return True  # a value of such a type can stand where nobody knows what stands
    return any(len(types) == len(given) and all(map(_fits, given, types)) for types in chosen.built_in)


_UNSAID = frozenset({TYPED, OPEN, STORED})
_TEXTS = frozenset({"text", "varchar", "bpchar", UNKNOWN})
_NONE = frozenset[int]()
_DEPTH = 8
"""Operators in a row that are looked into: each one is asked for by itself, too."""


def nothing(_: Body) -> str:
    """Know of no column's type."""
    return TYPED


def anything(_: str) -> Collection[str]:
    """Know of no columns' types."""
    return (TYPED,)


UNREAD = Known({}, {}, {}, nothing, anything)
"""What is known without a catalogue."""


def _fits(given: str, wanted: str) -> bool:
    if given == STORED:
        return wanted not in _NEVER_STORED
    return given in (OPEN, wanted) or (given == TYPED and wanted != UNKNOWN)


def arguments(call: Body, known: Known) -> tuple[str, ...] | None:
    """Give what is known of the types of a call's arguments; None where they are not given one by one, in order."""
    if call.get("func_variadic") or call.get("agg_within_group"):
        return None
    if any("NamedArgExpr" in argument for argument in call.get("args", ())):
        return None
    return tuple(given(argument, known) for argument in call.get("args", ()))


def type_of(node: Body, known: Names) -> str:
    """Give the built-in type of an expression where the tree is certain of it, else an empty text."""
    if "A_Const" in node:
        return _type_of_constant(node["A_Const"])
    if "TypeCast" in node:
        return _type_of_cast(node["TypeCast"], known)
    return _type_of_call(node["FuncCall"], known) if "FuncCall" in node else ""


def _type_of_constant(constant: Body) -> str:
    if "ival" in constant:
        return "int4"
    if "fval" in constant:
        return _type_of_number(constant["fval"].get("fval", ""))
    if "bsval" in constant:
        return "bit"
    return "bool" if "boolval" in constant else ""


def _type_of_cast(cast: Body, known: Names) -> str:
    named = cast["typeName"]
    names = [name["String"]["sval"] for name in named.get("names", ())]
    certain = len(names) == 1 or names[:1] == ["pg_catalog"]
    if not certain or names[-1] not in tables.TYPES or named.keys() & {"arrayBounds", "setof"}:
        return ""
    return "" if are_own(known.types.get(names[-1], ())) else names[-1]


def _type_of_call(call: Body, known: Names) -> str:
    *schema, name = (name["String"]["sval"] for name in call["funcname"])
    if name == versions.EXTRACT:
        return ""  # numeric or, where it is date_part, float8
    if len(call.get("args", ())) == 1 and are_own(known.types.get(name, ())):
        return ""  # a cast, where no function takes exactly this argument: func_get_detail(), parser/parse_func.c
    returns = {tables.CALLS.get(name, ("", frozenset()))[0]}
    if schema != ["pg_catalog"]:
        returns.update(function.returns for function in known.functions.get(name, ()))
    return returns.pop() if len(returns) == 1 and schema in ([], ["pg_catalog"]) else ""


def _type_of_number(digits: str) -> str:
    """Give the type of a number that the grammar has no int4 for: make_const(), parser/parse_node.c.

    `-2147483648` is one constant, and an int4: doNegateFloat(), parser/gram.y.
    """
    if not _INTEGER.fullmatch(digits):
        return "numeric"
    bits = int(digits, 0 if digits.lstrip("-").startswith(("0x", "0X", "0o", "0O", "0b", "0B")) else 10)
    return "int4" if -(1 << 31) <= bits < 1 << 31 else "int8" if -(1 << 63) <= bits < 1 << 63 else "numeric"


_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F_]{1,40}|0[oO][0-7_]{1,80}|0[bB][01_]{1,160}|[0-9][0-9_]{0,40})")


def vanishing(call: Body, *, names: bool) -> int:
    """Count the arguments of a call that vanish if they are of type void.

    ParseFuncOrColumn() (parser/parse_func.c) drops parameters of that type before it looks a function up, for JDBC,
    which gives OUT parameters like others; not those of an ordered-set aggregate. A cast to void of a parameter whose
    type is open gives it that type. `names`: columns are parameters, as the arguments of a function in SQL are.
    """
    if call.get("agg_within_group"):
        return 0
    found = 0
    for argument in call.get("args", ()):
        while "TypeCast" in argument and is_void(argument["TypeCast"]["typeName"]):
            argument = argument["TypeCast"]["arg"]
        found += "ParamRef" in argument or (names and "ColumnRef" in argument)
    return found


def is_void(named: Body) -> bool:
    """Tell whether a TypeName can mean void."""
    return bool(named.get("names")) and named["names"][-1]["String"]["sval"] == tables.VOID


def means_built_in(name: str, call: Body, known: Names) -> bool:
    """Tell whether a call can mean nothing but pg_catalog's function, although others bear its name.

    A built-in that takes exactly the types of the arguments is chosen (func_select_candidate() is not even asked), and
    of two such functions the one that comes first in the path, where pg_catalog does. A string constant alone becomes
    text, the preferred one of the string types.
    """
    arguments = call.get("args", ())
    if call.get("func_variadic") or call.get("agg_within_group"):
        return False
    types = [type_of(argument, known) for argument in arguments]
    if len(types) == 1 and "sval" in arguments[0].get("A_Const", {}):
        others = known.functions.get(name, ())
        if any(other.chosen is not None and (UNKNOWN,) in other.chosen.built_in for other in others):
            return False  # one in C can take what is of type unknown, exactly
        types = ["text"]
    return all(types) and ",".join(types) in tables.CALLS.get(name, ("", frozenset()))[1]


def can_be(operand: str | None, wanted: str) -> bool:
    """Tell whether an operand of this family can stand where an operator wants this type.

    `operand` is None for the missing one of a prefix operator; `wanted` is a type as `catalog.Operator` has it, empty
    for the same.
    """
    if operand is None or not wanted:
        return operand is None and not wanted
    if operand == ANY or wanted.startswith(_OPEN):
        return True
    # A type of the database can be a domain over anything; a built-in one outside the families takes none of them.
    return _FAMILY[wanted] == operand if wanted in _FAMILY else wanted not in tables.TYPES


def used(kind: str, node: Body, known: Known) -> list[Use]:
    """Give the operators that a node of one of KINDS applies."""
    if kind == "A_Expr":
        return _expression(node, known)
    if kind == "CaseExpr":
        if "arg" not in node:
            return []
        left = _operand(node["arg"], known)
        if left.given == UNKNOWN:
            left = left._replace(given="text")  # transformCaseExpr(), parser/parse_expr.c
        whens = (when["CaseWhen"] for when in node.get("args", ()) if "CaseWhen" in when)
        return [_use(_EQUALS, left, _operand(when.get("expr"), known)) for when in whens]
    if kind == "JoinExpr":
        if node.get("isNatural"):
            return [_use(_EQUALS, _COLUMN, _COLUMN)]
        return [
            _use(_EQUALS, _Operand(ANY, left), _Operand(ANY, right))
            for using in node.get("usingClause", ())
            for left, right in product(known.joined(using["String"]["sval"]), repeat=2)
        ]
    if kind == "SortBy":
        return [_use(node["useOp"], _COLUMN, _COLUMN)] if "useOp" in node else []
    if "operName" in node:
        return [_use(node["operName"], _operand(node.get("testexpr"), known), _COLUMN)]
    return [_use(_EQUALS, _operand(node["testexpr"], known), _COLUMN)] if "testexpr" in node else []


class _Operand(NamedTuple):
    family: str
    given: str


_EQUALS = [{"String": {"sval": "="}}]
_COLUMN = _Operand(ANY, TYPED)
_ANYTHING = _Operand(ANY, OPEN)


def _operand(node: Body | None, known: Known) -> _Operand:
    return _Operand(family(node), given(node, known))


def _expression(node: Body, known: Known) -> list[Use]:
    form = node.get("kind", "AEXPR_OP")
    left = _operand(node["lexpr"], known) if "lexpr" in node else None
    right = node.get("rexpr")
    items = [] if right is None else right.get("List", {}).get("items", ())
    if form in _BETWEEN:
        limits = [_operand(item, known) for item in items] or [_ANYTHING]
        return [_use([{"String": {"sval": name}}], left, limit) for name in _BETWEEN[form] for limit in limits]
    if form in _LISTS:
        # Of the type that all of them become, or of that of an array's elements.
        if not items:
            array = given(right, known)
            return [_use(node["name"], left, _Operand(ANY, array[1:] if array.startswith("_") else OPEN))]
        families = {family(item) for item in items}
        return [_use(node["name"], left, _Operand(each, OPEN)) for each in families]
    if form == "AEXPR_SIMILAR":
        return [_use(node["name"], left, _ANYTHING)]
    return [_use(node["name"], left, _operand(right, known))]


def _use(names: list[Body], left: _Operand | None, right: _Operand) -> Use:
    if left is None:
        return Use(*literals.qualified(names), None, right.family, (right.given,))
    return Use(*literals.qualified(names), left.family, right.family, (left.given, right.given))

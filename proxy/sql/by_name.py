"""Sort what a database has by name, as the filter looks it up, before anything is judged."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection

from proxy.sql import tables
from proxy.sql.candidates import Candidates, is_built_in
from proxy.sql.catalog import ANY_NUMBER, Callable, Catalog, Operator, Plans, Relation, Rows, Type


def is_polymorphic(name: str) -> bool:
    return name.startswith("any")


def _voids(rows: Rows) -> frozenset[str]:
    """Give the names of functions and operators with a result, a column of it, or an argument of type void."""
    void = {type_.oid for type_ in rows.types if is_built_in(type_) and type_.name == tables.VOID}
    functions = {
        row.oid: row.name
        for row in rows.functions
        if row.kind != "p" and void.intersection((*row.returns, *row.arguments))
    }
    functions |= {row.oid: row.name for row in rows.built_ins if row.name in tables.VOID_FUNCTIONS}
    operators = {row.name for row in rows.operators if row.function in functions}
    return frozenset(operators.union(functions.values()))


_READS_SETTINGS = re.compile("current_setting|pg_settings|pg_show_all_settings|\\bshow\\b", re.IGNORECASE)
COMPILED = ("c", "internal")


def _caches(rows: Rows) -> bool:
    """Tell whether functions keep plans of their own."""
    return any(
        row.language not in COMPILED and (row.language != "sql" or rows.version >= 180000) for row in rows.functions
    )


def _folds(rows: Rows) -> bool:
    """Tell whether a plan can hold what a setting says, by a function that is wrongly labelled IMMUTABLE.

    In C, an extension's are trusted to have the right label.
    """
    written = [row for row in rows.functions if row.language not in COMPILED or not row.extension]
    immutable = [row for row in written if row.volatility == "i"]
    if any(row.language not in ("sql", "plpgsql") for row in immutable):
        return True
    return bool(immutable) and any(_READS_SETTINGS.search(row.source + row.definition) for row in written)


def _can_take(taken: list[str], low: int, built_in: Collection[str], *, variadic: bool) -> bool:
    """Tell whether a call can give a function just the types that a built-in of its name takes.

    Of two such functions the one earlier in the path is called, whether or not it is variadic or fills in defaults
    (FuncnameGetCandidates(), catalog/namespace.c).
    """
    for types in (each.split(",") if each else [] for each in built_in):
        spread = taken[:-1] + [taken[-1].removeprefix("_")] * (len(types) - len(taken) + 1) if variadic else taken
        if len(types) >= low and types in (taken[: len(types)], spread[: len(types)]):
            return True
    return False


def _functions(
    rows: Rows, candidates: Candidates, every: dict[int, str], known: dict[int, str]
) -> dict[str, tuple[Callable, ...]]:
    functions: defaultdict[str, tuple[Callable, ...]] = defaultdict(tuple)
    for row in rows.functions:
        if not row.trigger:
            low = max(len(row.arguments) - row.defaults - row.variadic, 0)
            high = ANY_NUMBER if row.variadic else len(row.arguments)
            taken = [every.get(oid, "?") for oid in row.arguments]
            # Which polymorphic arguments a built-in takes is in no table: any of them can be its twin.
            twin = _can_take(taken, low, tables.CALLS.get(row.name, ("", ()))[1], variadic=row.variadic)
            twin = twin or any(map(is_polymorphic, taken)) or row.arguments in rows.signatures.get(row.name, ())
            returns = known.get(row.returns[0], "")
            chosen, gives = candidates.function(row), candidates.given(row.returns)
            functions[row.name] += (Callable(row.oid, row.schema, low, high, returns, twin, chosen, gives),)
    return functions


def _operators(rows: Rows, candidates: Candidates, every: dict[int, str]) -> dict[str, tuple[Operator, ...]]:
    shown = {type_.oid: f"{type_.schema}.{type_.name}" for type_ in rows.types} | every | {0: ""}
    operators: defaultdict[str, tuple[Operator, ...]] = defaultdict(tuple)
    for operator in rows.operators:
        left, right = (shown.get(oid, "?") for oid in (operator.left, operator.right))
        chosen, gives = candidates.operator(operator), candidates.given((operator.result,))
        twin = tuple(oid for oid in (operator.left, operator.right) if oid) in rows.operands.get(operator.name, ())
        operators[operator.name] += (Operator(operator.oid, operator.schema, left, right, chosen, gives, twin),)
    return operators


def sort(rows: Rows, candidates: Candidates) -> Catalog:
    """Sort the rows by name."""
    every = {type_.oid: type_.name for type_ in rows.types if is_built_in(type_)}
    known = {type_.oid: type_.name for type_ in rows.types if is_built_in(type_) and type_.kind != "p"}
    functions = _functions(rows, candidates, every, known)
    relations: defaultdict[str, tuple[Relation, ...]] = defaultdict(tuple)
    for relation in rows.relations:
        own = dict(relation.own_columns) or None
        found = Relation(relation.oid, relation.schema, relation.columns, relation.row_type, own, relation.types)
        relations[relation.name] += (found,)
    types: defaultdict[str, tuple[Type, ...]] = defaultdict(tuple)
    for type_ in rows.types:
        types[type_.name] += (Type(type_.oid, type_.schema),)
    operators = _operators(rows, candidates, every)
    return Catalog(
        dict(functions),
        dict(relations),
        dict(types),
        dict(operators),
        voids=_voids(rows),
        plans=Plans(folds=_folds(rows), caches=_caches(rows)),
        implicit_casts=any(
            cast.context == "i" and cast.source in known and cast.target in known for cast in rows.casts
        ),
        strangers=rows.strangers,
        version=rows.version,
        database=rows.database,
        unprinted=rows.unprinted,
        spellings="" if rows.encoding == "UTF8" or all(map(str.isascii, (*functions, *types))) else rows.encoding,
    )

"""Have queries analysed inside of a function, where its arguments and variables are names beside those of columns.

A function in SQL is analysed by its validator. One in PL/pgSQL has to run: OPEN analyses its query, and fetches
nothing. All of it is rolled back.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from proxy.sql.resolve import NotModelledError, Outside, RejectedError, Resolver, variables
from proxy.sql.resolve.world import Function
from tests.oracle.bodies import body
from tests.oracle.compare import Answer, Comparison, guarded
from tests.oracle.server import Analyst
from tests.oracle.statements import Statement

NAME: Final = "oracle_inside"
ARGUMENTS: Final[Mapping[str, str]] = {
    "a1": "int",
    "id": "text",
    "v": "numeric",
    "own": "date",
    "word": "varchar",
    "ta": "int[]",
    "row1": "t1",
    "p": "pair",
}
"""Some bear the names of columns, which are of other types."""
VARIABLES: Final[Mapping[str, str]] = {"big": "bigint", "couple": "pair", "n": "text"}
LANGUAGES: Final = ("sql", "plpgsql")
CONFLICTS: Final = ("error", "use_variable", "use_column")


class Fault(NamedTuple):
    """What is made wrong on purpose."""

    types: Callable[[dict[str, int]], dict[str, int]] = lambda types: types
    names: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda names: names
    outside: Callable[[Outside], Outside] = lambda outside: outside


def _rotated(types: dict[str, int]) -> dict[str, int]:
    values = list(types.values())
    return dict(zip(types, [*values[1:], values[0]], strict=True))


def _shown(outside: Outside, keep: Callable[[Sequence[str]], bool]) -> Outside:
    return Outside(
        lambda analysis, parts, at: outside.find(analysis, parts, at) if keep(parts) else None, clashes=outside.clashes
    )


FAULTS: Final[Mapping[str, tuple[str, Fault, str]]] = {
    "arguments of other types": ("sql", Fault(_rotated), "SELECT upper(word), a1 + 1 FROM t1"),
    "variables of other types": ("plpgsql", Fault(_rotated), "SELECT upper(word), big + 1 FROM t1 x(y)"),
    "numbers of other arguments": ("sql", Fault(_rotated), "SELECT $1 + 1, upper($5)"),
    "names in another order": ("sql", Fault(names=lambda names: names[::-1]), "SELECT own + 1, a1 + 1"),
    "arguments without fields": (
        "sql",
        Fault(outside=lambda each: _shown(each, lambda parts: len(parts) == 1)),
        "SELECT row1.id + 1",
    ),
    "a variable in the place of a column": (
        "plpgsql",
        Fault(outside=lambda each: Outside(each.find, clashes=False)),
        "SELECT n || 'xxx' FROM t1",
    ),
}
"""The language, the fault, and a query that shows it."""
_CONTEXT: Final = {"sql": rb'SQL function "oracle_inside"', "plpgsql": rb"PL/pgSQL function oracle_inside\("}
_LITERAL: Final = re.compile(r"(?<![\w.'$])(?:[0-9]|'[a-z]')(?![\w.'(])")
_PARAMETER: Final = re.compile(r"\$([1-8])")


_NUMBERS: Final = ("a1", "v", "$1", "$3", "row1.id", "(row1).n", "p.a", f"{NAME}.a1", f"{NAME}.p.a", "row1.of_pair")
_TEXTS: Final = ("id", "word", "$2", "row1.t", "(p).b", "row1.computed", f"{NAME}.word", f"{NAME}.id", "row1.full_name")
_DECLARED: Final = ("big", "couple.a", "n", f"{NAME}.n", f"{NAME}.big", "(couple).b")


def varied(statement: Statement, rng: random.Random, language: str) -> str:
    """Return a text with arguments, or fields of them, in the place of some literals and parameters."""

    def literal(found: re.Match[str]) -> str:
        if rng.random() < 0.7:
            return found[0]
        if language == "plpgsql" and rng.random() < 0.3:
            return rng.choice(_DECLARED)
        return rng.choice(_NUMBERS if found[0].isdigit() else _TEXTS)

    def parameter(found: re.Match[str]) -> str:
        name = tuple(ARGUMENTS)[int(found[1]) - 1]
        return rng.choice((found[0], name, f"{NAME}.{name}"))

    text = statement.sql.decode("utf-8", "surrogateescape")
    return _LITERAL.sub(literal, _PARAMETER.sub(parameter, text))


class Inside:
    """Ask both sides, for one language."""

    def __init__(self, analyst: Analyst, resolver: Resolver, language: str) -> None:
        self._analyst = analyst
        self._resolver = resolver
        self._language = language
        self._context = re.compile(_CONTEXT[language])
        every = {**ARGUMENTS, **VARIABLES}
        found = analyst.run("SELECT " + ", ".join(f"'{type_}'::regtype::oid::int" for type_ in every.values()))[0]
        types = dict(zip(every, (int(each or 0) for each in found), strict=True))
        given = tuple(types[name] for name in ARGUMENTS)
        self._function = Function(1, 0, NAME, "f", given, 2278, False, 0, 0, (), "", tuple(ARGUMENTS), "", 0)
        self._types = types
        self._outside = self._made()

    def spoil(self, fault: Fault) -> None:
        """Let the resolver know other arguments and variables than the server has."""
        self._types = fault.types(self._types)
        given = tuple(self._types[name] for name in ARGUMENTS)
        self._function = replace(self._function, arguments=given, names=fault.names(self._function.names))
        self._outside = fault.outside(self._made())

    def _made(self) -> Outside:
        if self._language == "sql":
            return variables.arguments(self._function)
        return variables.variables(self._resolver.world, self._types, {NAME})

    def resolve(self, tree: Any) -> Answer:
        """Return what the resolver says of a query."""
        types = variables.argument_types(self._function)
        outside = self._outside
        return guarded(lambda: self._resolver.resolve(tree, types, outside=outside), RejectedError, NotModelledError)

    def compare(self, comparison: Comparison, texts: Iterator[str], limit: int) -> None:
        """Have texts analysed by both sides."""
        for text in islice(texts, limit):
            tree = body(text.encode("utf-8", "surrogateescape"))
            if tree is not None and "$b$" not in text:
                answer = self._analyst.analyse_inside(self._asking(text), self._is_ours)
                answer.parameters = tuple(variables.argument_types(self._function))
                comparison.add(text.encode("utf-8", "surrogateescape"), answer, self.resolve(tree))

    def _asking(self, text: str) -> str:
        arguments = ", ".join(f"{name} {type_}" for name, type_ in ARGUMENTS.items())
        declared = "".join(f"{name} {type_}; " for name, type_ in VARIABLES.items())
        create = f"CREATE FUNCTION pg_catalog.{NAME}({arguments}) RETURNS void LANGUAGE {self._language} AS $b$"
        begin = "ROLLBACK; BEGIN; SET LOCAL statement_timeout = '5s'; SET LOCAL allow_system_table_mods = on; "
        if self._language == "sql":
            return f"{begin}SET LOCAL check_function_bodies = on; {create}{text}$b$; ROLLBACK"
        nulls = ", ".join("NULL" for _ in ARGUMENTS)
        conflict = CONFLICTS[len(text) % len(CONFLICTS)]
        opened = (
            f"#variable_conflict {conflict}\nDECLARE {declared}cursor_ refcursor; BEGIN OPEN cursor_ FOR {text}; END$b$"
        )
        return f"{begin}{create}{opened}; SELECT pg_catalog.{NAME}({nulls}); ROLLBACK"

    def _is_ours(self, context: bytes) -> bool:
        """Tell whether a tree that was printed in this context is the query's own, and not of what analysis runs."""
        return len(re.findall(rb'function "|PL/pgSQL function', context)) == 1 and bool(self._context.search(context))


def texts(source: Callable[[], Iterator[Statement]], rng: random.Random, language: str) -> Iterator[str]:
    """Return statements of a source as they stand in a body."""
    return (varied(each, rng, language) for each in source())

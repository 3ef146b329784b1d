"""Read a server's system catalogues for parse analysis: the queries, and what their answers say.

The queries are those of data/world.sql. They read what is not built in, and a digest of what is: where that is another
than the digest in the project's own data (`built_in.py`), a superuser has changed something, or the server is a fork;
then everything has to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from typing import Final

from proxy.sql.resolve import world
from proxy.sql.resolve.world import Tables

Rows = Sequence[Sequence[bytes | None]]
"""The rows of one SELECT: values in text format."""
Text = Callable[[bytes | None], str]
"""Give a value's text; that of NULL is empty."""

FIRST_OWN: Final = 12000
"""What is built in has OIDs below it: see data/world.sql."""

_SELECTS: Final = resources.files("proxy").joinpath("data/world.sql").read_text("utf-8").split(";\n")
SELECTS: Final = len(_SELECTS)
"""How many results there are."""


def text(*, whole: bool = False) -> str:
    """Return the SELECTs that read what is not built in, or all there is; `digest` and `read` take their results."""
    return ";\n".join(_SELECTS).replace("$from", "0" if whole else str(FIRST_OWN))


def digest(results: Sequence[Rows]) -> str:
    """Return the digest of what is built in, from the results of `text`. Raises ValueError if they are others."""
    ((value, _),) = results[0]
    return (value or b"").decode("ascii")


def is_whole(results: Sequence[Rows]) -> bool:
    """Tell whether everything was read. Raises ValueError if they are other results."""
    ((_, first),) = results[0]
    return first == b"0"


def read(results: Sequence[Rows], as_text: Text, codes: Mapping[int, int] | None = None) -> Tables:
    """Return what the results of `text` say. Raises ValueError if they are others.

    `codes` are of the functions that are built in, where everything was read.
    """
    _, schemas, types, functions, operators, casts, classes, members, support, relations, parents, ranges = results
    shown = [[as_text(value) for value in row] for row in functions]
    return Tables(
        schemas=[(as_text(name), _integer(oid), usable == b"t") for name, oid, usable in schemas],
        types=[type_([as_text(value) for value in row]) for row in types],
        functions=[function(row) for row in shown],
        operators=[operator([as_text(value) for value in row]) for row in operators],
        casts=[cast([as_text(value) for value in row]) for row in casts],
        classes=[world.OperatorClass(*_integers(row)) for row in classes],
        members=[world.Member(*_integers(row)) for row in members],
        support=[world.Support(*_integers(row)) for row in support],
        relations=[_relation(row, as_text) for row in relations],
        parents=[world.Inheritance(*_integers(row)) for row in parents],
        ranges=[world.Range(*_integers(row)) for row in ranges],
        changed=[int(row[0]) for row in shown if codes and _is_changed(row, codes)],
    )


def type_(row: Sequence[str]) -> world.Type:
    """Return the type of a row of text."""
    oid, schema, name, kind, category, preferred, element, is_array, array, base, modifier, relation, *rest = row
    collatable, subscripts, takes, gives, modifier_input = rest
    return world.Type(
        int(oid),
        int(schema),
        name,
        kind,
        category,
        preferred == "t",
        int(element),
        is_array == "t",
        int(array),
        int(base),
        int(modifier),
        int(relation),
        collatable == "t",
        subscripts == "t",
        int(takes),
        int(gives),
        int(modifier_input),
    )


def function(row: Sequence[str]) -> world.Function:
    """Return the function of a row of text."""
    oid, schema, name, kind, arguments, result, returns_set, variadic, defaults, types, modes, names, *rest = row
    _, aggregate, direct = rest
    return world.Function(
        int(oid),
        int(schema),
        name,
        kind,
        _oids(arguments),
        int(result),
        returns_set == "t",
        int(variadic),
        int(defaults),
        _oids(types),
        modes,
        tuple(map(world.unescaped, names.split("/"))) if names else (),
        aggregate,
        int(direct or 0),
    )


def operator(row: Sequence[str]) -> world.Operator:
    """Return the operator of a row of text."""
    oid, schema, name, left, right, result, function_ = row
    return world.Operator(int(oid), int(schema), name, int(left), int(right), int(result), int(function_))


def cast(row: Sequence[str]) -> world.Cast:
    """Return the cast of a row of text."""
    source, target, function_, context, method, oid = row
    return world.Cast(int(source), int(target), int(function_), context, method, int(oid))


def code(row: Sequence[str]) -> int:
    """Return the hash of what a function does, from its row of text; 0 for one that is not built in."""
    return int(row[12] or 0)


def _is_changed(row: Sequence[str], codes: Mapping[int, int]) -> bool:
    return codes.get(int(row[0]), code(row)) != code(row)


def _relation(row: Sequence[bytes | None], as_text: Text) -> world.Relation:
    oid, schema, name, kind, row_type, of_type, array, shape = row
    return world.Relation(
        _integer(oid),
        _integer(schema),
        as_text(name),
        as_text(kind),
        _integer(row_type),
        _integer(of_type),
        _integer(array),
        # One by one: in SQL_ASCII, one name can be UTF-8 and another not.
        as_text(shape) if shape is None or shape.isascii() else "/".join(map(as_text, shape.split(b"/"))),
    )


def _integer(value: bytes | None) -> int:
    return int(value or 0)


def _integers(row: Iterable[bytes | None]) -> tuple[int, ...]:
    return tuple(map(_integer, row))


def _oids(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))

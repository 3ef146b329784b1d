"""Hold the objects that initdb makes, for each major version: once per process, whatever the number of databases.

They stand in data/built_ins, written by tools/built_ins.py from servers: a table for each kind of object, with the
first and the last major version that has a row as it is, then the values as data/world.sql reads them. What differs
from server to server is not there: see `rows.FIRST_OWN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Final

from proxy.sql.resolve import building, rows, world
from proxy.sql.resolve.building import Builder
from proxy.sql.resolve.world import Own, Tables, World

KINDS: Final = ("types", "functions", "operators", "casts", "classes", "members", "support", "ranges")
_DATA: Final = resources.files("proxy").joinpath("data/built_ins")


@cache
def built_in(major: int) -> World | None:
    """Return the world of what is built in; None for a version that the data does not have."""
    if digest(major) is None:
        return None
    return building.build(
        major,
        Tables(
            types=[rows.type_(row) for row in _rows("types", major)],
            functions=[rows.function(row) for row in _rows("functions", major)],
            operators=[rows.operator(row) for row in _rows("operators", major)],
            casts=[rows.cast(row) for row in _rows("casts", major)],
            classes=[world.OperatorClass(*map(int, row)) for row in _rows("classes", major)],
            members=[world.Member(*map(int, row)) for row in _rows("members", major)],
            support=[world.Support(*map(int, row)) for row in _rows("support", major)],
            ranges=[world.Range(*map(int, row)) for row in _rows("ranges", major)],
        ),
    )


def own(major: int, results: Sequence[rows.Rows], as_text: rows.Text) -> Own | None:
    """Return what the results of `rows.text` say of a database; None for a version that the data does not have.

    None, too, if not everything was read although something built in is another: `is_another` tells that before.
    Raises ValueError if they are other results.
    """
    below = built_in(major)
    if below is None:
        return None
    if not rows.is_whole(results):
        return None if is_another(major, results) else Own(major, True, rows.read(results, as_text))
    tables = rows.read(results, as_text, codes(major))
    more = building.above(tables, below)
    return Own(major, False, tables) if more is None else Own(major, True, more)


def is_another(major: int, results: Sequence[rows.Rows]) -> bool:
    """Tell whether a server has other objects built in than the data: of a minor version, a fork, or changed ones."""
    return digest(major) not in (None, rows.digest(results))


def builder(own: Own) -> Builder:
    """Return a builder for a world of which this is a part. Raises ValueError for a version that is not known."""
    below = built_in(own.major)
    if below is None:
        raise ValueError(f"PostgreSQL {own.major} is not known")
    return Builder(own.major, below if own.over else None)


def build(own: Own) -> World:
    """Return the world that this is of. Raises ValueError for a version that is not known."""
    built = builder(own)
    built.add(own.tables)
    return built.world()


@cache
def digest(major: int) -> str | None:
    """Return the digest that `rows.digest` finds on a server of this version that nobody has changed."""
    return next((row[0] for row in _rows("digests", major)), None)


def codes(major: int) -> dict[int, int]:
    """Return the hashes of what each built-in function does."""
    return {int(row[0]): rows.code(row) for row in _rows("functions", major)}


def _rows(kind: str, major: int) -> Iterator[list[str]]:
    for line in _DATA.joinpath(f"{kind}.tsv").read_text("utf-8").splitlines():
        since, until, *values = line.split("\t")
        if int(since) <= major <= int(until):
            yield values

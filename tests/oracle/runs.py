"""Run sources of statements against one server and the resolver, and put the outcome into words."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from proxy.demo.embedded import EmbeddedServer
from tests import corpus, ordinary
from tests.oracle import inside, picked
from tests.oracle.bodies import body
from tests.oracle.catalogue import prepare
from tests.oracle.compare import Answer, Comparison, by_cause
from tests.oracle.never import never_picked
from tests.oracle.resolving import Resolving
from tests.oracle.server import SERVER_SETTINGS, Analyst
from tests.oracle.statements import SOURCES, Statement

__all__ = ["PATHS", "SERVER_SETTINGS", "report", "run"]

PATHS: Final[Mapping[bool, Sequence[str]]] = {
    False: ("public",),
    True: (
        "public",
        "public, pg_catalog",
        "rival, second, public",
        "second, rival, pg_catalog, public",
        "rival, pg_temp, public",
        "pg_temp, pg_catalog, public",
    ),
}
"""The search_paths that are tried, by whether the schema is hostile."""
_TURN: Final = 500
"""Statements of one source at once."""
_FOLDER: Final = Path(__file__).parent
Ask = Callable[[Any, Sequence[int]], Answer]
"""Answers for a statement's body, as pglast has it, and the types of its parameters that are declared."""


def run(
    server: EmbeddedServer,
    sources: Sequence[str],
    limit: int,
    *,
    hostile: bool = False,
    in_field: bool = False,
    path: str = "public",
    seed: str = "1",
    only: Sequence[str] | None = None,
    wanted: int | None = None,
    seconds: float = math.inf,
) -> Comparison:
    """Compare the resolver with the server on at most `limit` statements of each source, or on those of `only`.

    `wanted`: so many that the server takes, different by normal form, are enough; `seconds`: so is so long a time.
    """
    database = create_field(server) if in_field else create(server, hostile=hostile)
    with Analyst(server.port, database) as reader, Analyst(server.port, database, search_path=path) as analyst:
        catalogue = prepare(reader)
        ask = Resolving(analyst, reader).resolve
        comparison = Comparison(names(analyst))
        if only:
            compare(analyst, ask, comparison, (Statement(text.encode()) for text in only))
        else:
            again = [name for at, name in enumerate(sources) if name in sources[:at]]
            found = [islice(SOURCES[name](catalogue, random.Random(seed)), limit) for name in dict.fromkeys(sources)]
            # A source that is given again has other statements, and a greater share of the time.
            found += [
                islice(SOURCES[each](catalogue, random.Random(f"{seed}, again {at}")), limit)
                for at, each in enumerate(again)
            ]
            _take_turns(analyst, ask, comparison, found, wanted, time.monotonic() + seconds)
        comparison.tally.unpicked = never_picked(catalogue, comparison)
    return comparison


def run_inside(
    server: EmbeddedServer, language: str, sources: Iterable[str], limit: int, *, hostile: bool, path: str, seed: str
) -> Comparison:
    """Do the same with the statements in the body of a function."""
    database = create(server, hostile=hostile)
    with Analyst(server.port, database) as reader, Analyst(server.port, database, search_path=path) as analyst:
        catalogue = prepare(reader)
        asked = inside.Inside(analyst, Resolving(analyst, reader).resolver, language)
        comparison = Comparison(names(analyst))
        for source in sources:
            rng = random.Random(seed)
            asked.compare(comparison, inside.texts(partial(SOURCES[source], catalogue, rng), rng, language), limit)
    return comparison


def _take_turns(
    analyst: Analyst,
    ask: Ask,
    comparison: Comparison,
    sources: Sequence[Iterator[Statement]],
    wanted: int | None,
    until: float,
) -> None:
    """Compare some statements of each source after the other, until there are no more, or it is enough."""
    left = list(sources)
    while left:
        for source in list(left):
            before = comparison.tally.statements
            compare(analyst, ask, comparison, islice(source, _TURN))
            if comparison.tally.statements == before:
                left.remove(source)
            if time.monotonic() > until or (wanted is not None and len(comparison.tally.forms) >= wanted):
                return


def create(server: EmbeddedServer, *, hostile: bool = False) -> str:
    """Make the database for the statements, where it is not there; return its name."""
    database = f"oracle_{'hostile' if hostile else 'honest'}"
    if server.sql(f"SELECT 1 FROM pg_database WHERE datname = '{database}'").strip():
        return database
    server.sql(f"CREATE DATABASE {database}")
    for name in ("schema.sql", "hostile.sql") if hostile else ("schema.sql",):
        server.sql((_FOLDER / name).read_text("utf-8"), database)
    return database


def create_field(server: EmbeddedServer) -> str:
    """Make the database that the field's queries speak of, where it is not there; return its name."""
    database = "oracle_field"
    if not server.sql(f"SELECT 1 FROM pg_database WHERE datname = '{database}'").strip():
        server.sql(f"CREATE DATABASE {database}")
        server.sql(ordinary.TABLES, database)
        corpus.fill(server, database)
    return database


def compare(analyst: Analyst, ask: Ask, comparison: Comparison, statements: Iterable[Statement]) -> None:
    """Have statements analysed by both sides; texts that are no single query of today's grammar are left out."""
    bodies: list[Any] = []

    def queries() -> Iterator[Statement]:
        for statement in statements:
            tree = body(statement.sql)
            if tree is not None:
                bodies.append((statement, tree))
                yield statement

    for answer in analyst.analyse_all(queries()):
        statement, tree = bodies.pop(0)
        comparison.add(statement.sql, answer, ask(tree, statement.parameters))


def names(analyst: Analyst) -> Callable[[str, int], str]:
    """Return a function that names an object of a kind as PostgreSQL writes it."""
    functions = dict(analyst.run("SELECT oid, oid::regprocedure FROM pg_catalog.pg_proc"))
    operators = dict(analyst.run("SELECT oid, oid::regoperator FROM pg_catalog.pg_operator"))
    types = dict(analyst.run("SELECT oid, format_type(oid, NULL) FROM pg_catalog.pg_type"))
    relations = dict(analyst.run("SELECT oid, oid::regclass FROM pg_catalog.pg_class"))
    by_kind = {
        picked.FUNCTION: functions,
        picked.IN_RANGE: functions,
        picked.OPERATOR: operators,
        picked.SORT: operators,
        picked.GROUP: operators,
        picked.RELATION: relations,
    }
    return lambda kind, oid: by_kind.get(kind, types).get(str(oid)) or f"OID {oid}"


def _counted(kind: str, found: Mapping[str, Sequence[str]]) -> str:
    return f"{sum(map(len, found.values()))} {kind}s" + "".join(f", {len(each)} {why}" for why, each in found.items())


def report(found: Comparison, where: str, seconds: float, causes: int, examples: int) -> str:
    """Return the outcome in words: the counts, then the causes with the smallest statement of each."""
    tally = found.tally
    compared = tally.taken
    sets = tally.single + tally.several + tally.anything
    lines = [
        f"# {where}",
        f"{tally.statements} statements in {seconds:.0f} s: the server takes {compared}, both reject {tally.rejected},"
        f" {tally.of_values} fail by a value",
        f"{len(tally.forms)} of those taken differ by normal form",
        f"{tally.precise} are precise; of {sets} sets {tally.several} have several members, {tally.anything} anything",
        "picked: " + ", ".join(f"{len(counts)} {kind}s" for kind, counts in sorted(tally.covered.items())),
        "never picked: " + "; ".join(_counted(kind, found) for kind, found in tally.unpicked.items()),
    ]
    grouped = by_cause(found.misses)
    wrong = {}
    for cause in grouped:
        wrong[cause.problem] = wrong.get(cause.problem, 0) + cause.count
    lines.append("wrong: " + (", ".join(f"{count} {problem.name}" for problem, count in wrong.items()) or "nothing"))
    for cause in grouped[:causes]:
        lines += ["", f"## {cause.count} x {cause.problem.name} {cause.kind}"]
        lines += [f"- {count} x {detail}" for detail, count in cause.details[:examples]]
        at = f" -- at {cause.smallest.location}" if cause.smallest.location >= 0 else ""
        if cause.smallest.elsewhere:
            at += f", not {', '.join(map(str, cause.smallest.elsewhere))}"
        lines.append(f"    {cause.smallest.sql}{at}")
        if cause.smallest.detail != cause.details[0][0]:
            lines.append(f"    -- {cause.smallest.detail}")
    if len(grouped) > causes:
        lines += ["", f"and {len(grouped) - causes} other causes"]
    return "\n".join(lines)

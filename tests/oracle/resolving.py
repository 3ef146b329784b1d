"""Ask the project's resolver, in a world read from the server that is the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from proxy.sql import resolve as resolver
from proxy.sql.resolve import rows
from proxy.sql.resolve.search import with_catalog
from tests.oracle.compare import Answer, guarded
from tests.oracle.server import Analyst


class Resolving:
    """Hold the resolver for the database and the search_path of a connection.

    `reader` is a connection to the same database whose search_path hides nothing of pg_catalog.
    """

    def __init__(self, analyst: Analyst, reader: Analyst) -> None:
        self._major = reader.version
        self._answers = {
            name: [["" if value is None else value for value in row] for row in reader.run(query)]
            for name, query in rows.queries(reader.version).items()
        }
        self._path = with_catalog([int(row[0] or 0) for row in analyst.run(_PATH)])
        self._temporary = int(analyst.run("SELECT pg_catalog.pg_my_temp_schema()")[0][0] or 0)
        self._resolver = self._made(self._answers)

    def spoil(self, fault: Callable[[dict[str, rows.Rows]], None]) -> None:
        """Let the resolver know another catalogue than the server has: `fault` changes what was read of it."""
        answers: dict[str, rows.Rows] = dict(self._answers)
        fault(answers)
        self._resolver = self._made(answers)

    def resolve(self, body: Any, parameters: Sequence[int]) -> Answer:
        """Return what the resolver says of a statement's body."""
        return guarded(
            lambda: self._resolver.resolve(body, parameters), resolver.RejectedError, resolver.NotModelledError
        )

    def _made(self, answers: Mapping[str, rows.Rows]) -> resolver.Resolver:
        return resolver.Resolver(rows.read(self._major, answers), self._path, self._temporary)


_PATH = (
    "SELECT oid FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY u(name, at)"
    " JOIN pg_catalog.pg_namespace ON nspname OPERATOR(pg_catalog.=) name ORDER BY at"
)

"""Ask the project's resolver, in a world read from the server that is the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from proxy.sql import resolve as resolver
from proxy.sql.resolve import building, rows
from proxy.sql.resolve.search import with_catalog
from proxy.sql.resolve.world import Tables
from tests.oracle.compare import Answer, guarded
from tests.oracle.server import Analyst


class Resolving:
    """Hold the resolver for the database and the search_path of a connection.

    `reader` is a connection to the same database whose search_path hides nothing of pg_catalog.
    """

    def __init__(self, analyst: Analyst, reader: Analyst) -> None:
        self._major = reader.version
        reader.run("BEGIN; SET LOCAL search_path = ''")
        answers = [
            [[None if value is None else value.encode() for value in row] for row in reader.run(query)]
            for query in rows.text(whole=True).replace(_NOT_TEMPORARY, "").split(";\n")
        ]
        reader.run("COMMIT")
        self._tables = rows.read(answers, lambda value: (value or b"").decode())
        self._path = with_catalog([int(row[0] or 0) for row in analyst.run(_PATH)])
        self._temporary = int(analyst.run("SELECT pg_catalog.pg_my_temp_schema()")[0][0] or 0)
        self._resolver = self._made(self._tables)

    def spoil(self, fault: Callable[[Tables], Tables]) -> None:
        """Let the resolver know another catalogue than the server has: `fault` changes what was read of it."""
        self._resolver = self._made(fault(self._tables))

    @property
    def resolver(self) -> resolver.Resolver:
        return self._resolver

    def resolve(self, body: Any, parameters: Sequence[int]) -> Answer:
        """Return what the resolver says of a statement's body."""
        return guarded(
            lambda: self._resolver.resolve(body, parameters), resolver.RejectedError, resolver.NotModelledError
        )

    def _made(self, tables: Tables) -> resolver.Resolver:
        return resolver.Resolver(building.build(self._major, tables), self._path, self._temporary)


_NOT_TEMPORARY = " AND c.relpersistence <> 't'"
"""What keeps temporary tables out: here those of the session are the session's own."""
_PATH = (
    "SELECT oid FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY u(name, at)"
    " JOIN pg_catalog.pg_namespace ON nspname OPERATOR(pg_catalog.=) name ORDER BY at"
)

"""Resolve names as the server does: PostgreSQL's parse analysis, as far as it decides which objects are reached.

For every call, operator, cast, type and relation in a query it gives the set of objects that the server can pick: one
wherever its rules leave one, more where a type is not known. Sound: the server's choice is always in the set. What the
server rejects is a RejectedError, what is not modelled here a NotModelledError: neither says anything about the names.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from proxy.sql.resolve import expressions, names, queries
from proxy.sql.resolve.analysis import Analysis, Outside
from proxy.sql.resolve.choosing import Choosing
from proxy.sql.resolve.coercion import Coercion
from proxy.sql.resolve.search import Search, effective
from proxy.sql.resolve.tree import Body, Noted, NotModelledError, RejectedError, Target, Use
from proxy.sql.resolve.world import World

__all__ = ["Coercion", "NotModelledError", "Outside", "RejectedError", "Resolution", "Resolver", "Use", "effective"]


class Resolution(msgspec.Struct, frozen=True):
    """What a statement comes to."""

    noted: Noted
    uncertain: list[Use]
    is_open: bool
    """As in Analysis."""
    targets: list[Target]
    parameters: list[int]
    types: set[int]
    """Those that values in it are of."""
    by_place: bool
    compares_by_place: bool
    opaque: bool
    from_types: set[int]
    correlated: bool
    """These five as in Analysis."""

    @property
    def output(self) -> list[tuple[str, int]]:
        """Return its columns: names and types."""
        return [(each.name, each.expr.type) for each in self.targets]

    @property
    def uses(self) -> list[Use]:
        """Return what it names, and uses without naming it."""
        certain = [Use(kind, at, frozenset((oid,))) for kind, uses in self.noted.items() for at, oid in uses]
        return certain + self.uncertain


class Resolver:
    """Resolve statements for one database and one effective search_path."""

    __slots__ = ("_choosing", "world")

    def __init__(self, world: World, path: Sequence[int], temporary: int = 0, coercion: Coercion | None = None) -> None:
        self._choosing = Choosing(coercion or Coercion(world), Search(world, path, temporary))
        self.world = world

    @property
    def path(self) -> tuple[int, ...]:
        """Return the OIDs of the schemas that names are looked up in, in their order."""
        return self._choosing.search.path

    def resolve(
        self,
        statement: Body,
        parameters: Sequence[int] = (),
        declared: Sequence[Body] = (),
        outside: Outside | None = None,
    ) -> Resolution:
        """Return what a query, a tree as pglast gives it, comes to.

        `parameters` are the types that a Parse gives, `declared` the TypeNames of a PREPARE; `outside`: as in Analysis.
        Raises RejectedError and NotModelledError.
        """
        analysis = Analysis(self._choosing, parameters)
        analysis.outside = outside
        analysis.query = queries.query
        analysis.expression = expressions.analyse
        if declared:
            analysis.parameters += [names.type_named(analysis, each["TypeName"])[0] for each in declared]
        targets = queries.statement(analysis, statement)
        if analysis.parameters:
            analysis.check_parameters()
        return Resolution(
            analysis.noted,
            analysis.uncertain,
            analysis.is_open,
            targets,
            analysis.parameters,
            analysis.types,
            analysis.by_place,
            analysis.compares_by_place,
            analysis.opaque,
            analysis.from_types,
            analysis.correlated,
        )

"""Resolve names as the server does: PostgreSQL's parse analysis, as far as it decides which objects are reached.

For every call, operator, cast, type and relation in a query it gives the set of objects that the server can pick: one
wherever its rules leave one, more where a type is not known. Sound: the server's choice is always in the set. What the
server rejects is a RejectedError, what is not modelled here a NotModelledError: neither says anything about the names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import expressions, queries
from .analysis import Analysis
from .choosing import Choosing
from .coercion import Coercion
from .search import Search
from .tree import Body, Noted, NotModelledError, RejectedError, Use
from .world import World

__all__ = ["NotModelledError", "RejectedError", "Resolution", "Resolver", "Use"]


class Resolution(NamedTuple):
    """What a statement comes to."""

    noted: list[Noted]
    is_open: bool
    """As in Analysis."""
    output: list[tuple[str, int]]
    """Its columns: names and types."""
    parameters: list[int]
    types: set[int]
    """Those that values in it are of."""
    by_place: bool
    """As in Analysis."""

    @property
    def uses(self) -> list[Use]:
        """Return what it names, and uses without naming it."""
        return [
            Use(kind, at, frozenset((found,)) if isinstance(found, int) else found) for kind, at, found in self.noted
        ]


class Resolver:
    """Resolve statements for one database and one effective search_path."""

    __slots__ = ("_choosing",)

    def __init__(self, world: World, path: Sequence[int], temporary: int = 0, coercion: Coercion | None = None) -> None:
        self._choosing = Choosing(coercion or Coercion(world), Search(world, path, temporary))

    @property
    def world(self) -> World:
        return self._choosing.search.world

    def resolve(self, statement: Body, parameters: Sequence[int] = ()) -> Resolution:
        """Return what a query, a tree as pglast gives it, comes to. `parameters` are the types that a Parse declares.

        Raises RejectedError and NotModelledError.
        """
        analysis = Analysis(self._choosing, parameters)
        analysis.query = queries.query
        analysis.expression = expressions.analyse
        output = [(each.name, each.expr.type) for each in queries.statement(analysis, statement)]
        analysis.check_parameters()
        return Resolution(
            analysis.noted, analysis.is_open, output, analysis.parameters, analysis.types, analysis.by_place
        )

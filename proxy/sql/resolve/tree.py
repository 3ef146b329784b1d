"""Hold what analysis makes of a text: expressions with their types, what FROM names, and the levels of queries.

They are structs of msgspec, which are made in a fifth of the time that dataclasses take: a text has dozens of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec

from proxy.sql.resolve.oids import RECORD
from proxy.sql.resolve.world import Column

Body = dict[str, Any]


class RejectedError(Exception):
    """Report that the server rejects the statement, with the SQLSTATE and the words that it is expected to use."""

    def __init__(self, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class NotModelledError(Exception):
    """Report that the statement has something in it that is not analysed here: nobody knows what it means."""


class MismatchError(Exception):
    """Report that types do not fit together: the server rejects the statement."""


class Use(msgspec.Struct, frozen=True):
    """One thing that a statement names or uses without naming it."""

    kind: str
    location: int
    """Where the parse tree has it, in bytes; -1: nowhere."""
    oids: frozenset[int] | None
    """Every object that the server can pick; None: nobody knows."""


Noted = dict[str, list[tuple[int, int]]]
"""Uses of one object each, as nearly all are: by kind, the places and the objects. No set is made for them."""


class Form(Enum):
    """Say what an expression is, as far as its form decides what becomes of it."""

    CONSTANT = "a literal"
    PARAMETER = "a parameter"
    COLUMN = "a column"
    ROW = "a row constructor"
    COLLATED = "something with a COLLATE clause"
    WHOLE_ROW = "a row of something in FROM"
    OTHER = "anything else"


CONSTANT: Final = Form.CONSTANT
PARAMETER: Final = Form.PARAMETER
COLUMN: Final = Form.COLUMN
OTHER: Final = Form.OTHER
"""Those that nearly every expression is asked for: to look one up in its enum takes 70 ns before Python 3.12."""


class Expr(msgspec.Struct):
    """One expression, analysed."""

    type: int
    location: int = -1
    form: Form = Form.OTHER
    modifier: int = -1
    parts: Sequence[Expr] = ()
    """A row's fields; an operator's operands; what a COLLATE clause is for."""
    number: int = 0
    """A parameter's."""
    columns: Sequence[Column] | None = None
    """Those of a value of type record, where they are known."""
    levels: int = 0
    """A bit for each depth of query that it has columns of."""
    is_null: bool = False
    """Whether it is NULL without a type."""
    is_table: bool = False
    """Whether it is a row of a table, which has system columns, too."""

    @property
    def start(self) -> int:
        """Where an operation's leftmost operand stands: exprLocation() (nodes/nodeFuncs.c)."""
        at, inner = self.location, self
        while inner.parts and inner.form in _MADE_OF_PARTS:
            inner = inner.parts[0]
            if inner.location >= 0:
                at = min(at, inner.location)
        return at


class Item(msgspec.Struct, eq=False):
    """One thing in FROM: ParseNamespaceItem (parser/parse_node.h)."""

    name: str
    columns: Sequence[Column]
    row_type: int = RECORD
    relation: int = 0
    """The table's OID, where it has no alias: then its schema can be written, too."""
    is_table: bool = False
    """Whether it has system columns."""
    scalar: bool = False
    """Whether it is a function that gives no row: as a whole it is its only column."""
    hidden: Sequence[Column] = ()
    """Columns that `*` leaves out."""
    named: bool = True
    """Whether its name can be used."""
    columns_visible: bool = True
    is_constructed: bool = False
    """Whether a whole row of it is made of its columns, as by ROW()."""
    in_join: bool = False
    """Whether a join hides its system columns: they can be named with its name only."""
    lateral_only: bool = False
    lateral_allowed: bool = True
    by_name: Mapping[str, Column] | None = None
    """Its columns by their names, once they are needed: see `scopes`."""


class Query(NamedTuple):
    """A query's output."""

    columns: Sequence[Column]
    levels: int = 0


class WithQuery(msgspec.Struct, eq=False):
    """A query of WITH."""

    name: str
    columns: Sequence[Column] | None
    """None: it is not analysed yet."""
    names: Sequence[str] = ()
    """What it calls its columns."""
    added: Sequence[Column] = ()
    """Those that SEARCH and CYCLE give it, while it is analysed: `*` leaves them out in the query itself."""


class Level(msgspec.Struct, eq=False):
    """One query under analysis: ParseState (parser/parse_node.h)."""

    parent: Level | None
    depth: int
    items: list[Item] = []
    queries: dict[str, WithQuery] = {}
    windows: dict[str, Body] = {}
    """Those of the WINDOW clause."""
    inline_windows: list[Body] = []
    """Those that stand in calls: as the others, they are analysed after everything else."""
    used: int = 0
    """A bit for each depth of query that it has columns of."""
    lateral: bool = False
    """Whether what stands before an item of FROM can be used in it."""


class Target(msgspec.Struct):
    """One output column."""

    name: str
    expr: Expr


_MADE_OF_PARTS: Final = frozenset({Form.OTHER, Form.COLLATED})


def levels_of(exprs: Iterable[Expr]) -> int:
    """Return a bit for each depth of query that any of these has columns of."""
    found = 0
    for each in exprs:
        found |= each.levels
    return found

"""Say what is believed of functions whose bodies nobody can read: tables of those that somebody has looked into.

A label is believed of the versions of extensions alone that somebody has read.
"""

from __future__ import annotations

from dataclasses import replace

from proxy.proofs.bodies import Spoiled
from proxy.sql import tables
from proxy.sql.candidates import is_built_in
from proxy.sql.catalog import FunctionRow, Rows
from proxy.sql.functions import Functions
from proxy.sql.policy import Policy

LISTED = "extension-function"
"""The rule under which what the tables call no read is refused."""
_CONSTRUCTORS = frozenset(
    {"range_constructor2", "range_constructor3"} | {f"multirange_constructor{n}" for n in range(3)}
)
_LABELS = {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}


class Labels:
    """Answer for the compiled functions of one reading of the catalogues."""

    def __init__(self, rows: Rows, policy: Policy) -> None:
        self._symbols = rows.symbols
        self._types = {row.oid: row for row in rows.types}
        self._reads = Functions(replace(policy, server_version=0)).plain  # of any version: a symbol can be as old

    def listed(self, row: FunctionRow) -> str:
        """Give the table's verdict on an extension's function; empty without one. pg_depend says whose it is."""
        found = tables.EXTENSIONS.get(f"{row.schema}.{row.name}") or tables.EXTENSIONS.get(row.name)
        if found is None:
            return ""
        owners = found.extension.partition(" (")[0].split("/")
        return found.verdict if row.extension in owners else ""

    def check(self, row: FunctionRow) -> None:
        """Look at a function that is written in neither SQL nor PL/pgSQL. Raises Spoiled."""
        if row.language == "internal" and (row.source in _CONSTRUCTORS or self._is_plain(row.source)):
            return  # CREATE TYPE AS RANGE made it, or it is a built-in of another name; a superuser alone makes such
        if row.language not in ("c", "internal") or row.extension not in tables.READING_EXTENSIONS:
            raise Spoiled(f"it is written in {row.language}, which cannot be read")
        if row.name in tables.READING_EXTENSIONS[row.extension]:
            raise Spoiled(f"it does more than read, and is declared {_LABELS[row.volatility]}", rule=LISTED)
        if row.volatility == "v" and not any(map(self._is_internal, row.arguments)):
            raise Spoiled(f"it is written in {row.language} and VOLATILE, and no table says that it only reads")
        if self._is_given_a_name(row):
            raise Spoiled(f"it is written in {row.language}, and no table says what it does with the name it is given")

    def _is_plain(self, symbol: str) -> bool:
        """Tell whether an internal symbol is that of built-in functions which read, whatever they are given."""
        names = self._symbols.get(symbol, ())
        return bool(names) and self._reads.issuperset((*names, *tables.bearers(symbol)))

    def _is_given_a_name(self, row: FunctionRow) -> bool:
        """Tell whether a function takes the name or OID of something, and no table says that it only looks it up.

        The labels that are believed are those of the versions that somebody has read.
        """
        types = [self._types[oid].name if oid in self._types else "?" for oid in row.arguments]
        if types[:1] == ["cstring"] or any(map(self._is_internal, row.arguments)):
            return False  # the server calls it: an input function is given its type
        if not any(type_ in ("oid", "name") or type_.startswith("reg") for type_ in types):
            return False
        what = tables.ARGUMENTS.get((row.extension, row.name, ",".join(types)), "")
        return what not in ("data", "describes", "search")

    def _is_internal(self, oid: int) -> bool:
        """Tell whether a type is `internal`: then no statement can call the function, only the planner, an index or an
        aggregate, and the label (selectivity functions are VOLATILE) says nothing."""
        row = self._types.get(oid)
        return row is not None and row.name == "internal" and is_built_in(row)

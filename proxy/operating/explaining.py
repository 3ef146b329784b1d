"""What each name in a query means in a database, and what of it is a read: `sidecart rules --explain`."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import NamedTuple

from proxy.filter import Filter
from proxy.sql import text as texts
from proxy.sql.catalog import CAST, FIRST_NORMAL_OID, FUNCTION, OPERATOR, OUTPUT, RELATION, TYPE, Catalog
from proxy.sql.picked import Picked
from proxy.sql.resolve import NotModelledError, RejectedError, Resolver, Use
from proxy.sql.resolve.world import World
from proxy.sql.tables import Refused
from proxy.sql.verdict import Action, Verdict

_KINDS = {
    "function": FUNCTION,
    "in-range": FUNCTION,
    "sample": FUNCTION,
    "operator": OPERATOR,
    "sort": OPERATOR,
    "group": OPERATOR,
    "relation": RELATION,
    "type": TYPE,
    "cast": CAST,
}
"""The uses that are shown, by what they are of; `cast` shows those of the database alone."""
_ROLES = {"sort": "orders by", "group": "tells equal values by", "in-range": "adds a frame's offset by"}


class Line(NamedTuple):
    """One thing that a query uses."""

    at: int
    """Where the query has it, in characters from 0; -1: nowhere."""
    word: str
    """The query's own word there."""
    what: str
    """The object, or all that it can be."""
    why: str
    """Why it is no read; empty: it is one, or a built-in, which is judged with the whole query."""


class Explained(NamedTuple):
    """What a query comes to."""

    lines: list[Line]
    note: str
    """Why there are no lines; empty: there are."""
    verdict: Verdict


def explain(sql: str, judge: Filter) -> Explained:
    """Say what the names in one SELECT mean under the search_path that a session begins with."""
    verdict = judge.judge(sql.encode())
    catalog = judge.catalog
    if catalog is None or catalog.world is None:
        return Explained([], "The version of this server is not known to the resolver", verdict)
    try:
        statements = texts.parse(sql)
    except Refused:
        return Explained([], "It is no SQL that PostgreSQL's grammar takes", verdict)
    if len(statements) != 1 or "SelectStmt" not in statements[0]["stmt"]:
        return Explained([], "Names are resolved of one SELECT", verdict)
    try:
        found = Resolver(catalog.world, catalog.path).resolve(statements[0]["stmt"])
    except RejectedError as error:
        return Explained([], f"The server is expected to reject it ({error.sqlstate}): {error}", verdict)
    except (NotModelledError, RecursionError) as error:
        return Explained([], f"Something in it is not resolved, and judged by its name: {error}", verdict)
    utf8, own = sql.encode(), judge.functions.own
    shown = (_line(use, utf8, catalog, catalog.world, own) for use in found.uses)
    lines = dict.fromkeys(line for line in shown if line is not None)
    lines |= dict.fromkeys(_hidden(Picked(catalog.world, found), utf8, catalog, catalog.world))
    return Explained(sorted(lines, key=lambda line: line.at), "", verdict)


def _line(use: Use, utf8: bytes, catalog: Catalog, world: World, own: Set[int]) -> Line | None:
    kind = _KINDS.get(use.kind)
    if kind is None or (kind == CAST and not any(oid >= FIRST_NORMAL_OID for oid in use.oids or ())):
        return None
    at, word = _place(utf8, use.location)
    if use.oids is None:
        return Line(at, word, f"{use.kind}: nobody knows which", "")
    # A built-in function's verdict goes by its name, with the whole query.
    judged = [oid for oid in sorted(use.oids) if kind != TYPE and (kind != FUNCTION or oid in own)]
    taints = (catalog.taints.get((kind, oid)) for oid in judged)
    why = next((taint.why for taint in taints if taint is not None), "")
    shown = " or ".join(_name(kind, oid, world) for oid in sorted(use.oids))
    role = _ROLES.get(use.kind)
    return Line(at, word, f"{role} {shown}" if role else shown, why)


def _hidden(picked: Picked, utf8: bytes, catalog: Catalog, world: World) -> Iterator[Line]:
    """Give what runs of the database's own types; that they can be shown goes without saying."""
    for role, types in picked.hidden().items():
        for oid in sorted(types):
            taint = catalog.taints.get((role, oid))
            if taint is not None or (oid >= FIRST_NORMAL_OID and role != OUTPUT):
                at, word = _place(utf8, picked.place(oid))
                what = "everything" if role == TYPE else role
                yield Line(at, word, f"{what} of type {_type(oid, world)}", "" if taint is None else taint.why)


def _place(utf8: bytes, location: int) -> tuple[int, str]:
    """Return where a place is, in characters, and the word there; -1 and none: nowhere."""
    if location < 0:
        return -1, ""
    words = utf8[location:].decode("utf-8", "ignore").split(maxsplit=1)
    return len(utf8[:location].decode("utf-8", "ignore")), words[0][:20]


def _name(kind: str, oid: int, world: World) -> str:
    if kind == FUNCTION:
        function = world.functions[oid]
        arguments = ", ".join(_type(each, world) for each in function.arguments)
        return f"function {_schema(function.schema, world)}{function.name}({arguments})"
    if kind == OPERATOR:
        operator = world.operators[oid]
        operands = ", ".join(_type(each, world) for each in (operator.left, operator.right) if each)
        return f"operator {_schema(operator.schema, world)}{operator.name} ({operands})"
    if kind == RELATION:
        relation = world.relations[oid]
        return f"relation {_schema(relation.schema, world)}{relation.name}"
    if kind == TYPE:
        return f"type {_type(oid, world)}"
    cast = next((each for each in world.casts.values() if each.oid == oid), None)
    return "a cast" if cast is None else f"cast from {_type(cast.source, world)} to {_type(cast.target, world)}"


def _type(oid: int, world: World) -> str:
    row = world.types.get(oid)
    return str(oid) if row is None else f"{_schema(row.schema, world)}{row.name}"


def _schema(oid: int, world: World) -> str:
    name = next((name for name, each in world.schemas.items() if each == oid), str(oid))
    return "" if name == "pg_catalog" else f"{name}."


def screen(found: Explained) -> str:
    """Return what a person reads."""
    rows = [f"{found.note}."] if found.note else []
    width = max((len(line.word) for line in found.lines), default=0)
    for line in found.lines:
        place = f"at {line.at + 1}" if line.at >= 0 else "hidden"
        why = f": no read, {line.why}" if line.why else ""
        rows.append(f"{place:>8}  {line.word:<{width}}  {line.what}{why}")
    verdict = found.verdict
    if verdict.action is Action.REFUSE:
        rows += [f"refused: {verdict.message}", f"  {verdict.detail}"]
    else:
        rows.append("allowed")
    return "\n".join(rows)

"""Judge the database's own objects that the server picks for the names in a query: each has to be a read."""

from __future__ import annotations

from proxy.sql import refusals
from proxy.sql.catalog import CAST, CAST_TO, FUNCTION, OPERATOR, TYPE, Catalog
from proxy.sql.judgement import Judgement
from proxy.sql.picked import ByNames, Picked
from proxy.sql.picked import pick as find
from proxy.sql.tables import Refused
from proxy.sql.walk import Body


def pick(judgement: Judgement, name: str, body: Body) -> Picked | None:
    """Find what the server picks for a query; None: nobody knows.

    The server looks into SQL given as text when the function that runs it is called: later in the same statement, or at
    a FETCH or an Execute, when the search_path may be another one.
    """
    if name != "SelectStmt":
        return None
    found: Picked | ByNames
    terms = judgement.terms
    if terms.meaning is None:
        found = ByNames.TEXT
    elif not terms.resolves or judgement.changes_path or judgement.depth:
        found = ByNames.LATER
    else:
        found = find(terms.meaning, body, terms.declared)
    if isinstance(found, ByNames):
        judgement.by_names = judgement.by_names or found
        return None
    judgement.constants_decide = judgement.constants_decide or found.by_place or _compares_what(judgement, found)
    return found


def _compares_what(judgement: Judgement, picked: Picked) -> bool:
    """Tell whether the number of an output column decides: some types are compared by what is no read."""
    catalog = judgement.catalog
    if not picked.compares_by_place or catalog is None:
        return False
    return catalog.tainted_types or bool(catalog.tainted_operators)


def judge(judgement: Judgement, picked: Picked, catalog: Catalog) -> None:
    """Judge all that is picked for a query, and note what it leaves behind. Raises Refused."""
    taints = catalog.taints
    for kind, rule, found in _used(judgement, picked, catalog):
        for oid in found:
            taint = taints.get((kind, oid))
            # What is built in is judged where it is called, by its name.
            if taint is None or (kind == FUNCTION and oid not in judgement.functions.own):
                continue
            place = picked.place(oid)
            if not judgement.is_cleared(kind, oid, rule, place):
                raise Refused(refusals.unproved(rule, taint), place)
    for type_ in picked.targets:
        taint = taints.get((CAST_TO, type_))
        if taint is not None:
            raise Refused(refusals.unproved("unproved-cast", taint), picked.place(type_))
    for function in picked.functions:
        judgement.effects += catalog.leaves.get((FUNCTION, function), ())
    if judgement.relied is not None and judgement.changes_path:
        raise judgement.relied


def _used(judgement: Judgement, picked: Picked, catalog: Catalog) -> list[tuple[str, str, set[int]]]:
    """Return what is used, by its kind, and the rule under which it is refused."""
    used = [
        (CAST, "unproved-cast", picked.casts),
        (OPERATOR, "unproved-operator", picked.operators),
        (FUNCTION, "unproved-function", picked.functions),
    ]
    meaning = judgement.terms.meaning
    if meaning is not None and meaning.outside is not None:
        # What becomes of a value in another statement of the body need not be known.
        used.append((TYPE, "unproved-type", set[int]().union(*picked.hidden().values())))
    elif catalog.tainted_types:
        used += ((role, "unproved-type", types) for role, types in picked.hidden().items())
    return used


def call(judgement: Judgement, picked: Picked, node: Body) -> None:
    """Judge a call, or what is written like one, by what is picked for it: functions or casts, or a column.

    Those of the database are judged at the end, too; here, where an error can point to them. Raises Refused.
    """
    location = node.get("location", 0)
    arguments = len(node.get("args", ()))
    functions = judgement.functions
    for oid in picked.at("function", location) or ():
        schema, called = picked.name(oid)
        own = functions.functions_by_oid.get(called, oid)
        if own is not None and judgement.is_cleared(FUNCTION, oid, "unproved-function", location):
            own = None
        refusal = functions.judge(schema, called, arguments, [] if own is None else [own])
        if refusal is not None:
            raise Refused(refusal, location)

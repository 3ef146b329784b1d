"""Read a server's system catalogues for parse analysis: the queries, and what their answers say.

The same queries gave the project's own data of the built-in objects (`built_in.py`); a database adds its own to those.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from . import world
from .world import Column, Tables, World

Rows = Sequence[Sequence[str]]
"""One answer: values in text format; the empty text for NULL."""

_TYPES = """
SELECT oid, typnamespace, typname, typtype, typcategory, typispreferred, typelem, {true_array}, typarray, typbasetype,
  typtypmod, typrelid, typcollation <> 0, {subscripts}, typinput::oid, typoutput::oid, typmodin::oid
FROM pg_type WHERE typisdefined"""
_FUNCTIONS = """
SELECT p.oid, pronamespace, proname, prokind, proargtypes, prorettype, proretset, provariadic, pronargdefaults,
  array_to_string(proallargtypes, ' '), array_to_string(proargmodes, ''), array_to_string(proargnames, E'\\x01', ''),
  aggkind, aggnumdirectargs
FROM pg_proc p LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid"""
_RANGES = "SELECT rngtypid, rngsubtype, rngmultitypid FROM pg_range"
_RANGES_ALONE = "SELECT rngtypid, rngsubtype, 0 FROM pg_range"
_OTHERS: Mapping[str, str] = {
    "schemas": "SELECT nspname, oid FROM pg_namespace",
    "operators": "SELECT oid, oprnamespace, oprname, oprleft, oprright, oprresult, oprcode::oid FROM pg_operator",
    "casts": "SELECT castsource, casttarget, castfunc, castcontext, castmethod, oid FROM pg_cast",
    "classes": "SELECT oid, opcmethod, opcintype, opcfamily FROM pg_opclass"
    " WHERE opcdefault AND opcmethod IN (403, 405)",
    "members": "SELECT amopfamily, amopmethod, amoplefttype, amoprighttype, amopstrategy, amopopr FROM pg_amop"
    " WHERE amopmethod IN (403, 405) AND amoppurpose = 's'",
    "support": "SELECT amprocfamily, amproclefttype, amprocrighttype, amprocnum, amproc::oid FROM pg_amproc"
    " JOIN pg_opfamily f ON f.oid = amprocfamily WHERE opfmethod IN (403, 405)",
    "relations": "SELECT oid, relnamespace, relname, relkind, reltype, reloftype FROM pg_class"
    " WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c', 't')",
    "columns": "SELECT attrelid, attname, atttypid, atttypmod FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped"
    " AND EXISTS (SELECT FROM pg_class c WHERE c.oid = attrelid AND relkind NOT IN ('i', 'I'))"
    " ORDER BY attrelid, attnum",
    "parents": "SELECT inhrelid, inhparent FROM pg_inherits",
}


def queries(major: int) -> dict[str, str]:
    """Return a SELECT for each kind of object, for a server of this major version; `read` takes their answers."""
    handlers = {
        "true_array": "typsubscript = 'array_subscript_handler'::regproc"
        if major >= 14
        else "typlen = -1 AND typelem <> 0",
        "subscripts": "typsubscript <> 0" if major >= 14 else "typelem <> 0",
    }
    return {
        "types": _TYPES.format(**handlers),
        "functions": _FUNCTIONS,
        "ranges": _RANGES if major >= 14 else _RANGES_ALONE,
        **_OTHERS,
    }


def read(major: int, answers: Mapping[str, Rows]) -> World:
    """Return the world that the answers to `queries` describe. Raises ValueError if they are others."""
    columns: defaultdict[str, list[Column]] = defaultdict(list)
    for relation, name, type_, modifier in answers["columns"]:
        columns[relation].append(Column(name, int(type_), int(modifier)))
    return world.build(
        major,
        Tables(
            schemas=((name, int(oid)) for name, oid in answers["schemas"]),
            types=map(_type, answers["types"]),
            functions=map(_function, answers["functions"]),
            operators=(
                world.Operator(int(oid), int(schema), name, *map(int, rest))
                for oid, schema, name, *rest in answers["operators"]
            ),
            casts=(
                world.Cast(int(source), int(target), int(function), context, method, int(oid))
                for source, target, function, context, method, oid in answers["casts"]
            ),
            classes=(world.OperatorClass(*map(int, row)) for row in answers["classes"]),
            members=(_integers(row) for row in answers["members"]),  # type: ignore[misc]
            support=(_integers(row) for row in answers["support"]),  # type: ignore[misc]
            relations=(
                world.Relation(int(oid), int(schema), name, kind, int(row), int(of_type), tuple(columns[oid]))
                for oid, schema, name, kind, row, of_type in answers["relations"]
            ),
            parents=((int(child), int(parent)) for child, parent in answers["parents"]),
            ranges=((int(range_), int(subtype), int(multi)) for range_, subtype, multi in answers["ranges"]),
        ),
    )


def _integers(row: Sequence[str]) -> tuple[int, ...]:
    return tuple(map(int, row))


def _type(row: Sequence[str]) -> world.Type:
    oid, schema, name, kind, category, preferred, element, is_array, array, base, modifier, relation, *rest = row
    collatable, subscripts, takes, gives, modifier_input = rest
    return world.Type(
        int(oid),
        int(schema),
        name,
        kind,
        category,
        preferred == "t",
        int(element),
        is_array == "t",
        int(array),
        int(base),
        int(modifier),
        int(relation),
        collatable == "t",
        subscripts == "t",
        int(takes),
        int(gives),
        int(modifier_input),
    )


def _function(row: Sequence[str]) -> world.Function:
    oid, schema, name, kind, arguments, result, returns_set, variadic, defaults, types, modes, names, *rest = row
    aggregate, direct = rest
    return world.Function(
        int(oid),
        int(schema),
        name,
        kind,
        _oids(arguments),
        int(result),
        returns_set == "t",
        int(variadic),
        int(defaults),
        _oids(types),
        modes,
        tuple(names.split("\x01")) if names else (),
        aggregate,
        int(direct or 0),
    )


def _oids(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))

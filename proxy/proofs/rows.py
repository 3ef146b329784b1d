"""Read a database's system catalogues: one Query text, in one round trip, and the rows that come back.

The text is proxy/data/catalogue.sql, the same for PostgreSQL 13 to 18 and for a role that owns nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import resources
from typing import NamedTuple, TypeVar

from proxy.sql import tables
from proxy.sql.catalog import (
    FIRST_NORMAL_OID,
    UNREADABLE,
    BuiltIn,
    CastRow,
    FamilyRow,
    FunctionRow,
    OperatorRow,
    RelationRow,
    Rows,
    TypeRow,
    UserRow,
)
from proxy.sql.resolve import built_in
from proxy.sql.resolve import rows as world_rows

ResultSet = Sequence[Sequence[bytes | None]]
"""The rows of one SELECT: values in text format, in UTF-8."""

T = TypeVar("T")

_DATA = resources.files("proxy").joinpath("data")
_STATE = _DATA.joinpath("catalogue_state.sql").read_text("utf-8")
_LOAD = (
    _DATA.joinpath("catalogue.sql")
    .read_text("utf-8")
    .replace("$state", _STATE.replace("$since", "pg_snapshot_xmin(pg_current_snapshot())::xid"))
)
_WORLD = -world_rows.SELECTS
"""Where the result sets for parse analysis begin: they are the last."""
_LOOK = (
    "BEGIN READ ONLY; SET LOCAL search_path = ''; SET LOCAL lock_timeout = '3s'; SET LOCAL jit = off; $state; COMMIT"
)
STATE = 1
"""Which of the result sets of `load_query` is the state: it alone differs where the rows are the same, and `decode`
does without it."""
_BUILT_IN_SCHEMAS = ("pg_catalog", "information_schema")
_PRINTED_LANGUAGES = ("sql", "plpgsql")
_TRIGGERS = (2279, 3838)  # the types trigger and event_trigger


def load_query(names: Iterable[str] = (), *, whole: bool = False) -> bytes:
    """Return the text of one Query message that reads everything; `decode` takes the result sets of its SELECTs.

    `names` are those of refused built-in functions with one argument: columns of these names are worth knowing. With
    `whole`, what is built in is read, too: see `is_another`. The session must have standard_conforming_strings on.
    Where something is dropped or locked meanwhile, the server may answer with an error, and the transaction is left
    failed: roll back, and read again.
    """
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
    return _LOAD.replace("$world", world_rows.text(whole=whole)).replace("$names", f"ARRAY[{quoted}]").encode()


def is_another(result_sets: Sequence[ResultSet]) -> bool:
    """Tell from the answer to `load_query` whether the server has other objects built in than the data.

    Then a `whole` answer is wanted. Raises ValueError if it is another one.
    """
    return built_in.is_another(_major(result_sets), result_sets[_WORLD:])


def without_state(result_sets: Sequence[ResultSet]) -> list[ResultSet]:
    """Return the answer to `load_query` with what remains the same as long as the rows are the same."""
    kept = list(result_sets)
    kept[STATE] = [[None, path, None] for _, path, _ in kept[STATE]]
    return kept


class State(NamedTuple):
    """What state the system catalogues are in, and from when on one is compared with it."""

    since: str
    """The xmin of the snapshot of a reading."""
    path: str
    """The search_path that a session begins with."""
    rows: str


def state_query(since: str) -> bytes:
    """Return the text of one Query message; `state` takes its answer. `since` is a State's."""
    return _LOOK.replace("$state", _STATE.replace("$since", f"'{int(since)}'::xid")).encode()


def state(result_sets: Sequence[ResultSet]) -> State:
    """Return the State from the answer to `load_query` or `state_query`. Raises ValueError if it is another one."""
    ((since, path, rows),) = result_sets[0 if len(result_sets) == 1 else STATE]
    return State(_text(since), _path(_text(path)), _text(rows))


def _path(shown: str) -> str:
    return bytes.fromhex(shown).decode(tables.RAW)


def _major(result_sets: Sequence[ResultSet]) -> int:
    ((version, *_),) = result_sets[0]
    return int(version or 0) // 10000


def decode(result_sets: Sequence[ResultSet]) -> Rows:
    """Return the rows from the result sets of `load_query`, in its order. Raises ValueError if they are others."""
    read = [[[_text(value) for value in row] for row in rows] for rows in result_sets[:_WORLD]]
    server, state_, functions, relations, expressions, references, unprinted, *more = read
    (
        inherits,
        columns,
        column_kinds,
        types,
        operators,
        families,
        casts,
        built_ins,
        operands,
        implicit,
        members,
        users,
        schemas,
    ) = more
    ((version, database, encoding, role, *_),) = server
    ((_, path, _),) = state_
    printed = _grouped((kind + owner, expression or UNREADABLE) for kind, owner, expression in expressions)
    children = _grouped((parent, child) for parent, child in inherits)
    column_types = _grouped((relation, int(type_)) for relation, _, type_, _ in columns if type_)
    own_columns = _grouped((relation, (name, int(type_))) for relation, name, type_, _ in columns if type_)
    built_in_types = {relation: json.loads(kinds) for relation, kinds in column_kinds}
    extensions = {kind + oid: extension for kind, oid, extension in members}
    column_names = _grouped((relation, name) for relation, name, _, is_function in columns if is_function == "t")
    codes: defaultdict[str, set[int]] = defaultdict(set)
    used_operators: defaultdict[str, set[int]] = defaultdict(set)
    for kind, owner, code, operator in references:
        if kind == "r" and operator != "0":
            used_operators[owner].add(int(operator))
        else:
            codes[kind + owner].add(int(code))
    for owner, kind, oid in unprinted:
        if kind == "f":
            codes["r" + owner].add(int(oid))
        elif kind == "t":
            column_types[owner].append(int(oid))
        else:
            children[owner].append(oid)
    by_tree = {owner for owner, *_ in unprinted}
    own_functions = tuple(_function(row, codes["f" + row[0]]) for row in functions)
    own_types = {int(oid) for oid, schema, *_ in types if _own_object(oid, schema)}

    rows = Rows(
        version=int(version),
        database=database,
        encoding=encoding,
        role=role,
        begins_with=_path(path),
        path=tuple(int(oid) for (oid,) in schemas),
        users=tuple(UserRow(int(oid), name, frozenset(_oids(usable))) for oid, name, usable in users),
        own=built_in.own(int(version) // 10000, result_sets[_WORLD:], _text),
        unprinted=len(by_tree) + sum(row.definition == UNREADABLE for row in own_functions),
        functions=own_functions,
        relations=tuple(
            RelationRow(
                oid=int(oid),
                schema=schema,
                name=name,
                kind=kind,
                row_type=int(row_type),
                definition=definition
                or (UNREADABLE if kind == "v" and _own_object(oid, schema) and oid not in by_tree else ""),
                expressions=tuple(printed["r" + oid]),
                children=tuple(map(int, children[oid])),
                server=server_name,
                functions=tuple(sorted(codes["r" + oid])),
                operators=tuple(sorted(used_operators[oid])),
                column_types=tuple(dict.fromkeys(column_types[oid])),
                columns=tuple(column_names[oid]),
                own_columns=tuple(own_columns[oid]),
                types=built_in_types.get(oid),
                extension=extensions.get("r" + oid, ""),
            )
            for oid, schema, name, kind, row_type, definition, server_name in relations
        ),
        types=tuple(
            TypeRow(
                oid=int(oid),
                schema=schema,
                name=name,
                kind=kind,
                parts=tuple(sorted(own_types.intersection([*_oids(parts), *column_types[relation]]))),
                expressions=tuple(printed["t" + oid]),
                functions=tuple(sorted(codes["t" + oid] | codes["d" + oid])),
                sorting=tuple(sorted(codes["d" + oid])),
                inputs=tuple(sorted(codes["t" + oid].intersection(_oids(inputs)))),
                outputs=tuple(sorted(codes["t" + oid].intersection(_oids(outputs)))),
                base=int(base),
                element=int(element),
                category=category,
                preferred=preferred == "t",
                extension=extensions.get("t" + oid, ""),
            )
            for oid, schema, name, kind, relation, parts, base, element, category, preferred, inputs, outputs in types
        ),
        operators=tuple(
            OperatorRow(
                oid=int(oid),
                schema=schema,
                name=name,
                left=int(left),
                right=int(right),
                function=int(function),
                support=tuple(sorted(codes["o" + oid])),
                replaces=replaces == "t",
                result=int(result),
                extension=extensions.get("o" + oid, ""),
            )
            for oid, schema, name, left, right, function, replaces, result in operators
        ),
        families=tuple(
            FamilyRow(int(oid), schema, name, tuple(sorted(codes["c" + oid])), extensions.get("c" + oid, ""))
            for oid, schema, name in families
        ),
        casts=tuple(
            CastRow(int(oid), int(source), int(target), int(function), context, extensions.get("x" + oid, ""))
            for oid, source, target, function, context in casts
        ),
    )
    called = {cast.function for cast in rows.casts}
    called.update(*codes.values(), (operator.function for operator in rows.operators))
    named = [BuiltIn(int(oid), schema, name) for oid, schema, name, *_ in built_ins]
    return replace(
        rows,
        built_ins=tuple(row for row in named if row.oid in called),
        symbols=_tuples((symbol, name) for *_, name, _, symbol in built_ins if symbol),
        signatures=_tuples((name, _oids(types)) for _, _, name, types, _ in built_ins if types),
        operands=_tuples(
            (name, tuple(oid for oid in map(int, (left, right)) if oid)) for name, left, right in operands
        ),
        implicit=frozenset((int(source), int(target)) for source, target in implicit),
        renamed=tuple(row for row in named if row.name not in tables.OIDS.get(row.oid, {row.name})),
        nameless=tuple(sorted(codes["n0"])),
        text_search=tuple(sorted(codes["s0"])),
        strangers=frozenset(row.name for row in named if row.schema == "pg_catalog") - _known(rows.version // 10000),
    )


def _known(major: int) -> set[str]:
    """Give the names of built-in functions that the tables have for this version. Refused ones are known everywhere."""
    return {
        name
        for name, function in tables.FUNCTIONS.items()
        if function.verdict == "block" or (function.since <= major and not 0 < function.until < major)
    }


def _text(value: bytes | None) -> str:
    if value is None:
        return ""
    try:
        return value.decode()
    except UnicodeDecodeError:  # of a database in SQL_ASCII: as `filter` reads a text that is no UTF-8
        return value.decode(tables.RAW)


def _grouped(pairs: Iterable[tuple[str, T]]) -> defaultdict[str, list[T]]:
    groups: defaultdict[str, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def _tuples(pairs: Iterable[tuple[str, T]]) -> dict[str, tuple[T, ...]]:
    return {key: tuple(values) for key, values in _grouped(pairs).items()}


def _own_object(oid: str, schema: str) -> bool:
    return int(oid) >= FIRST_NORMAL_OID or schema not in _BUILT_IN_SCHEMAS


def _oids(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _function(row: list[str], support: set[int]) -> FunctionRow:
    oid, schema, name, kind, language, volatility, arguments, defaults, variadic, results, types, modes, *rest = row
    source, definition, default_expressions, settings, extension, definer = rest
    result, *states = _oids(results)
    outputs = (type_ for type_, mode in zip(_oids(types), modes, strict=True) if mode in "obt")
    readable = language in _PRINTED_LANGUAGES and kind != "a"
    return FunctionRow(
        oid=int(oid),
        schema=schema,
        name=name,
        kind=kind,
        language=language,
        volatility=volatility,
        arguments=_oids(arguments),
        defaults=int(defaults),
        variadic=variadic == "t",
        returns=(result, *outputs, *states),
        trigger=result in _TRIGGERS,
        source=source,
        definition=definition or (UNREADABLE if readable else ""),
        default_expressions=default_expressions or (UNREADABLE if defaults != "0" else ""),
        settings=tuple(json.loads(settings)) if settings else (),
        extension=extension,
        support=tuple(sorted(support)),
        definer=int(definer or 0),
    )

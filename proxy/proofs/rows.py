"""Read a database's system catalogues: one Query text, in one round trip, and the rows that come back.

The text is proxy/data/catalogue.sql, the same for PostgreSQL 13 to 18 and for a role that owns nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
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
    own = result_sets[:_WORLD]
    if len(own) != len(_Read._fields):
        raise ValueError("the answer has another number of results")
    read = _Read(*([[_text(value) for value in row] for row in rows] for rows in own))
    parts = _Parts(read)
    ((version, database, encoding, role, *_),) = read.server
    ((_, path, _),) = read.state
    major = int(version) // 10000
    functions = tuple(_function(row, parts.codes["f" + row[0]]) for row in read.functions)
    operators = tuple(map(parts.operator, read.operators))
    casts = tuple(map(parts.cast, read.casts))
    named = [BuiltIn(int(oid), schema, name) for oid, schema, name, *_ in read.built_ins]
    called = {cast.function for cast in casts}
    called.update(*parts.codes.values(), (operator.function for operator in operators))
    return Rows(
        version=int(version),
        database=database,
        encoding=encoding,
        role=role,
        begins_with=_path(path),
        path=tuple(int(oid) for (oid,) in read.schemas),
        users=tuple(UserRow(int(oid), name, frozenset(_oids(usable))) for oid, name, usable in read.users),
        own=built_in.own(major, result_sets[_WORLD:], _text),
        unprinted=len(parts.by_tree) + sum(row.definition == UNREADABLE for row in functions),
        functions=functions,
        relations=tuple(map(parts.relation, read.relations)),
        types=tuple(map(parts.type, read.types)),
        operators=operators,
        families=tuple(map(parts.family, read.families)),
        casts=casts,
        built_ins=tuple(row for row in named if row.oid in called),
        symbols=_tuples((symbol, name) for *_, name, _, symbol in read.built_ins if symbol),
        signatures=_tuples((name, _oids(types)) for _, _, name, types, _ in read.built_ins if types),
        operands=_tuples(
            (name, tuple(oid for oid in map(int, (left, right)) if oid)) for name, left, right in read.operands
        ),
        implicit=frozenset((int(source), int(target)) for source, target in read.implicit),
        renamed=tuple(row for row in named if row.name not in tables.OIDS.get(row.oid, {row.name})),
        nameless=tuple(sorted(parts.codes["n0"])),
        text_search=tuple(sorted(parts.codes["s0"])),
        strangers=frozenset(row.name for row in named if row.schema == "pg_catalog") - _known(major),
    )


Texts = list[list[str]]


class _Read(NamedTuple):
    """The result sets of `load_query`, in its order, their values as text."""

    server: Texts
    state: Texts
    functions: Texts
    relations: Texts
    expressions: Texts
    references: Texts
    unprinted: Texts
    inherits: Texts
    columns: Texts
    column_kinds: Texts
    types: Texts
    operators: Texts
    families: Texts
    casts: Texts
    built_ins: Texts
    operands: Texts
    implicit: Texts
    members: Texts
    users: Texts
    schemas: Texts


class _Parts:
    """What belongs to objects, by their kind and OID, to put rows together of.

    Kinds are f, r, t, o, c (operator families), x (casts), d (what sorts a type), n (what runs without a name) and s
    (text search).
    """

    def __init__(self, read: _Read) -> None:
        self._printed = _grouped((kind + owner, text or UNREADABLE) for kind, owner, text in read.expressions)
        self._children = _grouped((parent, child) for parent, child in read.inherits)
        columns = read.columns
        self._column_types = _grouped((relation, int(type_)) for relation, _, type_, _ in columns if type_)
        self._own_columns = _grouped((relation, (name, int(type_))) for relation, name, type_, _ in columns if type_)
        self._column_names = _grouped(
            (relation, name) for relation, name, _, is_function in columns if is_function == "t"
        )
        self._built_in_types = {relation: json.loads(kinds) for relation, kinds in read.column_kinds}
        self._extensions = {kind + oid: extension for kind, oid, extension in read.members}
        self._own_types = {int(oid) for oid, schema, *_ in read.types if _own_object(oid, schema)}
        self.codes: defaultdict[str, set[int]] = defaultdict(set)
        """The functions that belong to each."""
        self._operators: defaultdict[str, set[int]] = defaultdict(set)  # by relation
        self.by_tree = {owner for owner, *_ in read.unprinted}
        """Relations that the server could not print: what they use is read from their trees."""
        self._add_references(read)

    def _add_references(self, read: _Read) -> None:
        for kind, owner, code, operator in read.references:
            if kind == "r" and operator != "0":
                self._operators[owner].add(int(operator))
            else:
                self.codes[kind + owner].add(int(code))
        for owner, kind, oid in read.unprinted:
            if kind == "f":
                self.codes["r" + owner].add(int(oid))
            elif kind == "t":
                self._column_types[owner].append(int(oid))
            else:
                self._children[owner].append(oid)

    def _extension(self, key: str) -> str:
        return self._extensions.get(key, "")

    def relation(self, row: list[str]) -> RelationRow:
        """Put a relation together."""
        oid, schema, name, kind, row_type, definition, server = row
        if not definition and kind == "v" and _own_object(oid, schema) and oid not in self.by_tree:
            definition = UNREADABLE
        return RelationRow(
            oid=int(oid),
            schema=schema,
            name=name,
            kind=kind,
            row_type=int(row_type),
            definition=definition,
            expressions=tuple(self._printed["r" + oid]),
            children=tuple(map(int, self._children[oid])),
            server=server,
            functions=tuple(sorted(self.codes["r" + oid])),
            operators=tuple(sorted(self._operators[oid])),
            column_types=tuple(dict.fromkeys(self._column_types[oid])),
            columns=tuple(self._column_names[oid]),
            own_columns=tuple(self._own_columns[oid]),
            types=self._built_in_types.get(oid),
            extension=self._extension("r" + oid),
        )

    def type(self, row: list[str]) -> TypeRow:
        """Put a type together."""
        oid, schema, name, kind, relation, parts, base, element, category, preferred, inputs, outputs = row
        functions, sorting = self.codes["t" + oid], self.codes["d" + oid]
        return TypeRow(
            oid=int(oid),
            schema=schema,
            name=name,
            kind=kind,
            parts=tuple(sorted(self._own_types.intersection([*_oids(parts), *self._column_types[relation]]))),
            expressions=tuple(self._printed["t" + oid]),
            functions=tuple(sorted(functions | sorting)),
            sorting=tuple(sorted(sorting)),
            inputs=tuple(sorted(functions.intersection(_oids(inputs)))),
            outputs=tuple(sorted(functions.intersection(_oids(outputs)))),
            base=int(base),
            element=int(element),
            category=category,
            preferred=preferred == "t",
            extension=self._extension("t" + oid),
        )

    def operator(self, row: list[str]) -> OperatorRow:
        """Put an operator together."""
        oid, schema, name, left, right, function, replaces, result = row
        return OperatorRow(
            oid=int(oid),
            schema=schema,
            name=name,
            left=int(left),
            right=int(right),
            function=int(function),
            support=tuple(sorted(self.codes["o" + oid])),
            replaces=replaces == "t",
            result=int(result),
            extension=self._extension("o" + oid),
        )

    def family(self, row: list[str]) -> FamilyRow:
        """Put an operator family together."""
        oid, schema, name = row
        return FamilyRow(int(oid), schema, name, tuple(sorted(self.codes["c" + oid])), self._extension("c" + oid))

    def cast(self, row: list[str]) -> CastRow:
        """Put a cast together."""
        oid, source, target, function, context = row
        return CastRow(int(oid), int(source), int(target), int(function), context, self._extension("x" + oid))


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

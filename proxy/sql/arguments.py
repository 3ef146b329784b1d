"""Judge what a function is given, where that decides: the names and the SQL that it takes as texts, a mode, a setting.

All of these have to be constants, since what a parameter or an expression comes to is not known here. Whatever is
judged so makes constants decide: a text of the same shape may get another verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from proxy.sql import literals, operators, refusals, settings
from proxy.sql import tables as rules
from proxy.sql import text as texts
from proxy.sql.catalog import RELATION
from proxy.sql.judgement import Judgement
from proxy.sql.tables import Refusal, Refused
from proxy.sql.verdict import AtBind, Effect
from proxy.sql.walk import Body, Walked


def look_into(judgement: Judgement, name: str, node: Body, walked: Walked) -> None:
    """Judge the arguments of a call of a function of this name, but for SQL: see `sql_given`. Raises Refused."""
    check = _CHECKS.get(name)
    if check is not None:
        check(judgement, name, node, walked)
    elif name in rules.CODE_FUNCTIONS and judgement.catalog is not None and judgement.catalog.code is not None:
        # Which table it is about, a number may say. (RelationGetPartitionKey() computes what is constant in a key,
        # utils/cache/partcache.c; satisfies_hash_partition() and amcheck call functions of operator classes.)
        code = judgement.catalog.code
        why = f"The function {name} runs what belongs to tables, such as {code.what}: {code.why}"
        raise Refused(refusals.function("unproved-function", name, why), node.get("location", 0))


def _lo_open(judgement: Judgement, name: str, node: Body, _: Walked) -> None:
    judgement.constants_decide = True
    mode = literals.integer(literals.arguments(node), 1)
    if mode is None or mode & rules.INV_WRITE:
        raise Refused(
            refusals.function(
                "large-object-write",
                name,
                "The mode of lo_open has to be a number without INV_WRITE (131072)",
                "lo_open(oid, 262144) opens a large object for reading.",
            ),
            node.get("location", 0),
        )


def _input_type(judgement: Judgement, name: str, node: Body, _: Walked) -> None:
    judgement.constants_decide = True
    functions = judgement.functions
    given = literals.string(literals.arguments(node), 1)
    base = "" if given is None or not given.isascii() else _TYPE_SUFFIX.sub("", given.strip(_SPACE)).lower()
    first = base.startswith("pg_catalog.") or functions.comes_first("")
    base = base.removeprefix("pg_catalog.") if first else ""
    if not functions.is_built_in_type(base) and base not in rules.TYPE_ALIASES:
        raise Refused(
            refusals.function(
                "input-type",
                name,
                f"The type given to {name} has to be the name of a built-in type, as a string constant",
            ),
            node.get("location", 0),
        )


# --- SQL, and names of relations, given as texts ---------------------------------------------------------------------


def sql_given(judgement: Judgement, name: str, node: Body) -> Iterator[str]:
    """Give the SQL that a function runs which is given to it as texts: each has to be one read.

    A relation that is given by its name is `TABLE` and that name. Raises Refused where it is not known.
    """
    judgement.constants_decide = True
    arguments = literals.arguments(node)
    location = node.get("location", 0)
    if name in rules.RELATION_TEXT_FUNCTIONS:
        relation = literals.string(arguments, 0, "regclass")
        if relation is None:
            raise _no_name(name, "relation", location)
        sql = f"TABLE {_as_sql(name, relation, location)}"
        _check_spelling(judgement, name, sql, location)
        yield sql
        return
    if name == "ts_rewrite" and arguments is not None and len(arguments) != 2:
        return  # with three arguments it takes queries, not SQL
    for at in rules.SQL_TEXT_FUNCTIONS[name]:
        if arguments is not None and (at >= len(arguments) or (at and _is_no_text(judgement, arguments[at]))):
            continue
        constant = literals.string(arguments, at)
        if constant is None:
            why = f"The SQL that {name} runs has to be a string constant"
            raise Refused(refusals.function("sql-text-function", name, why), location)
        _check_spelling(judgement, name, constant, location)
        yield constant


def is_foreign(judgement: Judgement) -> bool:
    """Tell whether names beyond ASCII may be other ones to the server: its encoding is not UTF-8."""
    return judgement.catalog is not None and bool(judgement.catalog.spellings)


def _is_no_text(judgement: Judgement, argument: Body) -> bool:
    """Tell whether an argument cannot become a text, so that another function of that name is meant."""
    if "A_ArrayExpr" in argument:
        return True
    catalog = judgement.catalog
    casts = catalog is not None and catalog.implicit_casts
    return operators.type_of(argument, catalog or operators.UNREAD) in _NO_TEXTS and not casts


def _check_spelling(judgement: Judgement, function: str, given: str, location: int) -> None:
    """Refuse a text that names things to a function, where E'\\xc3\\xa9' is not the letter that it was read as."""
    if is_foreign(judgement) and not given.isascii():
        why = f"What {function} is given may have letters of ASCII alone, as the database's encoding is not UTF-8"
        raise Refused(refusals.function("sql-text-function", function, why), location)


def _as_sql(function: str, given: str, location: int) -> str:
    """Write a relation's name in SQL that is given as a text, where much is a letter that means something in SQL.

    stringToQualifiedNameList(), utils/adt/regproc.c, takes what is not quoted up to the next dot or white space:
    `ok*`, `ok--x`, `u&"ok"`.
    """
    if _NAME_AS_TEXT.fullmatch(given) is None:
        why = f"The name of the relation that {function} reads has to be a plain or a quoted one"
        raise Refused(refusals.function("sql-text-function", function, why), location)
    parts = [part if part[0] == '"' else f'"{part.lower()}"' for part in _NAME_PART.findall(given)]
    if any(len(part.encode()) - 2 >= literals.NAMEDATALEN for part in parts):
        raise Refused(refusals.function("sql-text-function", function, f"No name is as long as {given}"), location)
    return ".".join(parts)


def _no_name(function: str, what: str, location: int) -> Refused:
    why = f"The name of the {what} that {function} reads has to be a string constant"
    return Refused(refusals.function("sql-text-function", function, why), location)


def _schema(judgement: Judgement, name: str, node: Body, _: Walked) -> None:
    """Judge all relations of a schema, or of the database, whose rows a function reads (utils/adt/xml.c)."""
    judgement.constants_decide = True
    location = node.get("location", 0)
    given = ""
    if name in rules.SCHEMA_TEXT_FUNCTIONS:  # the only text of the others is the namespace of the document
        constant = literals.string(literals.arguments(node), 0, "name")
        if constant is None:
            raise _no_name(name, "schema", location)
        given = constant
        _check_schema(judgement, name, given, location)
    catalog = judgement.catalog
    if catalog is not None:
        relations = catalog.relations_of(given)
        taint = catalog.taint(RELATION, relations)
        if taint is not None:
            raise Refused(refusals.unproved("unproved-relation", taint), location)
        for type_ in (type_ for each in relations if each.own for type_ in (each.row_type, *each.own.values())):
            judgement.touch(type_, location)
        judgement.effects += catalog.left_by(RELATION, relations)


def _check_schema(judgement: Judgement, function: str, given: str, location: int) -> None:
    _check_spelling(judgement, function, given, location)
    if len(given.encode()) >= literals.NAMEDATALEN:
        # The server cuts it off, by the bytes of its own encoding.
        raise Refused(refusals.function("sql-text-function", function, f"No name is as long as {given}"), location)
    if given == rules.SHARED_SCHEMA:
        why = f"The schema {given} has views that show what other clients left on the connection"
        raise Refused(refusals.function("other-clients", function, why), location)


# --- settings --------------------------------------------------------------------------------------------------------


def _set_config(judgement: Judgement, _: str, node: Body, walked: Walked) -> None:
    judgement.constants_decide = True
    arguments = literals.arguments(node)
    location = node.get("location", 0)
    name = literals.string(arguments, 0)
    if (at_bind := _at_bind(judgement, arguments, walked)) is not None:
        judgement.at_bind.append(at_bind)
        judgement.effects.append((Effect.AT_BIND, ""))
        return
    if name is None or arguments is None or len(arguments) != 3:
        if literals.bare(walked.visited[0][1]) in _pg_dump_trees():
            judgement.effects += settings.effect_of_value("restrict_nonsystem_relation_kind")
            return
        raise Refused(
            refusals.function("setting-name", "set_config", "The name of the setting has to be a string constant"),
            location,
        )
    folded = settings.fold(name)
    local = literals.is_true(arguments[2])
    resets = literals.is_null(arguments[1])  # set_config_by_name(), utils/misc/guc_funcs.c
    refusal = _refusal_of_setting(judgement, folded, arguments, local=local, location=location)
    if refusal is not None:
        raise Refused(refusal, location)
    if resets:
        judgement.effects += settings.effect_of_reset(folded, local=local)
        if not judgement.depth:
            judgement.nulls.append((arguments[1]["A_Const"].get("location", 0), folded))
    else:
        judgement.effects += settings.effect_of_value(folded, local=local)


def _refusal_of_setting(
    judgement: Judgement, name: str, arguments: list[Body], *, local: bool, location: int
) -> Refusal | None:
    """Return why set_config may not set this; None: it may."""
    if literals.is_null(arguments[1]):
        return settings.refuse_reset(name)
    value = literals.string(arguments, 1)
    if value is None and local and name == "search_path" and "ParamRef" in arguments[1]:
        # PostgREST sends this in each transaction, and no path is known to put pg_catalog anywhere but first. Names
        # are looked up in every schema, so this matters only where a name of pg_catalog's is somebody's, too.
        taint = judgement.functions.shadow()
        if taint is not None:
            raise Refused(refusals.unproved("setting-value", taint), location)
        value = ""
    return settings.refuse_value(name, value)


def _at_bind(judgement: Judgement, arguments: list[Body] | None, walked: Walked) -> AtBind | None:
    """Give what a call of set_config leaves to the values of a Bind; None where it leaves nothing to them.

    A parameter that stands there and nowhere else is of the type that the Parse gives it, or text.
    """
    if not judgement.terms.bound or judgement.depth or arguments is None or len(arguments) != 3:
        return None
    given = [literals.parameter(argument) for argument in arguments[:2]]
    if not any(given) or not _stand_alone(given, walked):
        return None
    name = given[0] or literals.string(arguments, 0)
    if not name or (isinstance(name, str) and settings.refuse_value(settings.fold(name), None) is None):
        return None  # whatever the value is
    value = given[1] or literals.string(arguments, 1)
    return AtBind(name, value, literals.is_null(arguments[1]), literals.is_true(arguments[2]))


def _stand_alone(numbers: Sequence[int | None], walked: Walked) -> bool:
    """Tell whether each of these parameters stands in one place of a statement only."""
    every = [node.get("number") for kind, node in walked.visited if kind == "ParamRef"]
    return all(every.count(number) == 1 for number in numbers if number)


@cache
def _pg_dump_trees() -> frozenset[str]:
    """Give the one statement with a computed name that is allowed: pg_dump's of August 2024 and later.

    With any other operator, clause or value the row could be another setting's.
    """
    return frozenset(literals.bare(texts.parse(sql)[0]["stmt"]["SelectStmt"]) for sql in _PG_DUMP)


_PG_DUMP = (
    "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings"
    " WHERE name = 'restrict_nonsystem_relation_kind'",
    "SELECT pg_catalog.set_config(name, 'view, foreign-table', false) FROM pg_catalog.pg_settings"
    " WHERE name = 'restrict_nonsystem_relation_kind'",
)

_PART = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"]|"")+")'
_NAME_PART = re.compile(_PART)
_NAME_AS_TEXT = re.compile(rf"{_PART}(?:\.{_PART}){{0,2}}")
_NO_TEXTS = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "bool"})
"""Types that no built-in implicit cast makes a text of."""
_SPACE = " \t\n\r\f"
"""White space between words of SQL (parser/scan.l); from PostgreSQL 16 on \v is, too."""
_S = f"[{_SPACE}]*"
_TYPE_SUFFIX = re.compile(rf"{_S}(\({_S}\d+{_S}(,{_S}-?\d+{_S})?\))?{_S}(\[{_S}\d*{_S}\]{_S})*\Z", re.ASCII)

_CHECKS: dict[str, Callable[[Judgement, str, Body, Walked], None]] = {
    "set_config": _set_config,
    "lo_open": _lo_open,
    **dict.fromkeys(rules.INPUT_TYPE_FUNCTIONS, _input_type),
    **dict.fromkeys(rules.SCHEMA_TEXT_FUNCTIONS | rules.DATABASE_FUNCTIONS, _schema),
}
TAKING_SQL = rules.SQL_TEXT_FUNCTIONS.keys() | rules.RELATION_TEXT_FUNCTIONS
"""Functions that run SQL which is given to them as texts, or read the relation that such a text names."""
LOOKED_INTO = TAKING_SQL | _CHECKS.keys()
"""Functions of which it matters what stands in which place."""

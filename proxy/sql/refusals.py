"""Word the refusals of statements: what the client reads, and where the caret belongs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from proxy import errors
from proxy.sql import tables
from proxy.sql.catalog import Taint
from proxy.sql.tables import Refusal, Refused

Body = dict[str, Any]


def function(rule: str, name: str, why: str, hint: str = "") -> Refusal:
    """Refuse a call of a function because of its arguments."""
    return Refusal(
        rule,
        f"permission denied for function {name}: SideCart forwards reads only",
        f"{why} (rule: {rule}).",
        hint,
        object=name,
    )


def unknown_part(name: str, rule: str = "unknown-node") -> Refusal:
    """Refuse what the tables do not hold."""
    return Refusal(
        rule,
        f"cannot execute {tables.COMMAND}: SideCart forwards reads only",
        f'The filter does not know "{name}" here (rule: {rule}).',
        sqlstate=tables.STATEMENT_SQLSTATE,
    )


def dotted(schema: str, name: str) -> str:
    """Give a name as a person writes it: with its schema, where there is one."""
    return f"{schema}.{name}" if schema else name


def _not_there(rule: str, sqlstate: str, what: str, shown: str) -> Refusal:
    return Refusal(
        rule,
        f'{what} "{shown}" does not exist',
        f"The catalogue of this database, as it was last read, has no {what} {shown} (rule: {rule}).",
        "If it was created a moment ago, try again.",
        sqlstate,
        shown,
    )


def unknown_relation(database: str, schema: str, name: str, ours: str) -> Refusal:
    """Refuse a name in FROM that the catalogue does not hold, in the words that the server has for it.

    `database` is the one that the name gives, empty without one, `ours` the one that the catalogue is of.
    """
    refusal = _not_there("unknown-relation", errors.UNDEFINED_TABLE, "relation", dotted(schema, name))
    if database not in ("", ours):
        message = f'cross-database references are not implemented: "{database}.{schema}.{name}"'
        return refusal._replace(message=message, sqlstate=errors.FEATURE_NOT_SUPPORTED)
    if _HIDDEN_SCHEMA.fullmatch(schema):
        # The server says so, too, to a role that is no superuser.
        return Refusal(
            refusal.rule,
            f"permission denied for schema {schema}",
            "TOAST tables and other sessions' temporary tables are in no catalogue of SideCart's"
            f" (rule: {refusal.rule}).",
            object=refusal.object,
        )
    return refusal


_HIDDEN_SCHEMA = re.compile(r"pg_toast|pg_(?:toast_)?temp_[0-9]+")


def unknown_type(schema: str, name: str) -> Refusal:
    """Refuse a type that the catalogue does not hold."""
    return _not_there("unknown-type", errors.UNDEFINED_OBJECT, "type", dotted(schema, name))


def unknown_type_oid(oid: int) -> Refusal:
    """Refuse the type of a parameter, given by its OID, that the catalogue does not hold."""
    refusal = _not_there("unknown-type", errors.UNDEFINED_OBJECT, "type", f"with OID {oid}")
    return refusal._replace(message=f"type with OID {oid} does not exist", object="")


def unknown_operator(schema: str, name: str) -> Refusal:
    """Refuse OPERATOR(schema.name) where nothing is known of it."""
    shown = dotted(schema, name)
    return Refusal(
        "unknown-operator",
        f"permission denied for operator {shown}: SideCart forwards reads only",
        f"The operator {shown} is not built in, and nothing says that its function only reads"
        " (rule: unknown-operator).",
        allow_line(shown),
        object=shown,
    )


def allow_line(shown: str, extension: str = "") -> str:
    """Give the line of the configuration that would allow an object, or all of the extension that spoils it."""
    line = f"The operator can allow it: filter.allow_functions: {_list(shown)}"
    return f"{line}, or all of the extension: filter.allow_extensions: {_list(extension)}." if extension else f"{line}."


def _list(name: str) -> str:
    return json.dumps([name], ensure_ascii=False)


def unproved(rule: str, taint: Taint) -> Refusal:
    """Refuse the use of an object of the database that is no read."""
    rule = taint.rule or rule
    return Refusal(
        rule,
        f"permission denied for {taint.what}: SideCart forwards reads only",
        f"Nothing proves that {taint.what} only reads: {taint.why} (rule: {rule}).",
        allow_line(taint.allow, taint.extension),
        object=taint.allow,
        lacks=taint.lacks,
    )


def relation(body: Body) -> str:
    """Give the name of the table that a statement is about; empty where it is about none, or many."""
    found = body.get("relation")
    if not isinstance(found, dict):
        return ""
    found = found.get("RangeVar", found)
    return dotted(found.get("schemaname", ""), found.get("relname", ""))


def table(body: Body) -> str:
    """Give the same quoted, for a DETAIL."""
    name = relation(body)
    return f'"{name}"' if name else "of the query"


def statement(name: str, body: Body, within: str = "") -> Refused:
    """Refuse a statement by its node's name. `within` says where it stands."""
    known = tables.STATEMENTS.get(name, tables.OTHER_STATEMENT)
    command = known.command or tables.COMMAND
    detail = tables.RULES[known.rule].rstrip(".")
    word, location = "", -1
    if known.rule == "data-modification" and "relation" in body:
        detail = f"The statement modifies table {table(body)}"
        location = body["relation"].get("location", -1)
        word = {"DELETE": "DELETE_P"}.get(command, command)
    elif name == "CreateTableAsStmt":
        word = "CREATE"
    return Refused(
        Refusal(
            known.rule,
            f"cannot execute {command}: SideCart forwards reads only",
            f"{detail} (rule: {known.rule}{within}).",
            _HINTS.get(known.rule, ""),
            tables.STATEMENT_SQLSTATE,
            relation(body),
        ),
        location,
        word,
    )


ELSEWHERE = "Run it on a connection that does not go through SideCart."

_HINTS = {"listen": ELSEWHERE, "data-modification": ELSEWHERE, "ddl": ELSEWHERE}


def unknown(visited: Sequence[tuple[str, Body]], kind: str, field: str, rule: str, found: Any) -> Refused:
    """Say what a walk came upon: a writing statement, INTO, a row lock, or something the table does not hold.

    `found` is the unknown node's body or the refused field's value.
    """
    if kind.endswith("Stmt") and not field:
        within = ""
        for name, body in visited:
            if name == "CommonTableExpr" and any(inner is found for inner in body.get("ctequery", {}).values()):
                within = f', in WITH "{body["ctename"]}"'
        return statement(kind, found, within)
    if rule == "select-into":
        into = found.get("rel", {})
        name = into.get("relname", "")
        return Refused(
            Refusal(
                rule,
                "cannot execute SELECT INTO: SideCart forwards reads only",
                f'The statement creates table "{name}" (rule: select-into).',
                "",
                tables.STATEMENT_SQLSTATE,
                name,
            ),
            into.get("location", -1),
            "INTO",
        )
    if rule == "row-lock":
        lock = _LOCKS.get(found[0].get("LockingClause", {}).get("strength", ""), "FOR UPDATE")
        return Refused(
            Refusal(
                rule,
                f"cannot execute SELECT {lock}: SideCart forwards reads only",
                f"{lock} locks rows that other sessions write (rule: row-lock).",
                f"Leave out {lock}.",
                tables.STATEMENT_SQLSTATE,
            ),
            word="FOR UPDATE SHARE NO KEY",
        )
    location = found.get("location", -1) if isinstance(found, dict) else -1
    if field:
        return Refused(unknown_part(f"{kind}.{field}", "unknown-field"), location)
    return Refused(unknown_part(kind), location)


_LOCKS = {
    "LCS_FORKEYSHARE": "FOR KEY SHARE",
    "LCS_FORSHARE": "FOR SHARE",
    "LCS_FORNOKEYUPDATE": "FOR NO KEY UPDATE",
    "LCS_FORUPDATE": "FOR UPDATE",
}

"""Hold the condition under which each kind of statement is a read, and what it leaves behind.

`expressions.py` holds what is asked of the names and expressions in them.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.sql import expressions, literals, operators, refusals, settings, tables
from proxy.sql.judgement import Judgement
from proxy.sql.tables import Refusal, Refused
from proxy.sql.verdict import Effect
from proxy.sql.walk import Body


def judge(judgement: Judgement, statement: Body) -> None:
    """Judge one statement of the text that a Judgement is about. Raises Refused.

    Sets its `kind`, `replacement` where the statement is rewritten, and `boundary` as in Verdict.
    """
    judgement.replacement = judgement.boundary = ""
    ((name, body),) = statement.items()
    judgement.kind = tables.KINDS.get(name, "")
    if name == "SelectStmt":
        expressions.judge(judgement, name, body)
        return
    handler = _HANDLERS.get(name)
    if handler is None:
        judgement.kind = tables.STATEMENTS.get(name, tables.OTHER_STATEMENT).kind
        raise refusals.statement(name, body)
    handler(judgement, name, body)


def _harmless(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)


def _inner(judgement: Judgement, body: Body, allowed: frozenset[str], command: str) -> None:
    """Judge the statement inside EXPLAIN, PREPARE, DECLARE or COPY; the outer statement's kind stays."""
    kind, terms = judgement.kind, judgement.terms
    ((name, inner),) = body["query"].items()
    if name not in allowed:
        refused = refusals.statement(name, inner) if name not in _HANDLERS else None
        if refused is None:
            what = "SELECT, DECLARE or EXECUTE" if len(allowed) > 1 else "SELECT"
            refused = Refused(
                Refusal(
                    "inner-statement",
                    f"cannot execute {command}: SideCart forwards reads only",
                    f"{command} takes a {what} here (rule: inner-statement).",
                    sqlstate=tables.STATEMENT_SQLSTATE,
                )
            )
        raise refused
    judgement.terms = terms._replace(bound=False)
    try:
        judge(judgement, {name: inner})
    finally:
        judgement.kind, judgement.terms = kind, terms


def _explain(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    before = len(judgement.effects)
    _inner(judgement, body, _EXPLAINABLE, "EXPLAIN")
    if any(effect is Effect.EXECUTE for effect, _ in judgement.effects[before:]):
        judgement.effects.insert(before, (Effect.EXPLAIN, ""))


def _prepare(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    terms, types = judgement.terms, body.get("argtypes", ())
    judgement.terms = terms._replace(
        lasts=True,
        # One in a Parse is analysed when a portal of it runs, and behind one in a text the path may change, and then an
        # EXECUTE of it follow, of which nothing is known here.
        resolves=terms.alone and not terms.bound,
        declared=types,
        void=terms.void or any(operators.is_void(type_["TypeName"]) for type_ in types),
        own=terms.own if expressions.are_built_in(judgement.functions, types) else None,
    )
    _inner(judgement, body, _SELECT, "PREPARE")
    judgement.terms = terms
    judgement.effects.append((Effect.PREPARE, body["name"]))


def _declare(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    terms = judgement.terms
    judgement.terms = terms._replace(lasts=True)
    _inner(judgement, body, _SELECT, "DECLARE CURSOR")
    judgement.terms = terms
    if body.get("options", 0) & tables.CURSOR_OPT_HOLD:
        judgement.effects.append((Effect.HOLD_CURSOR, body["portalname"]))


def _copy(judgement: Judgement, name: str, body: Body) -> None:
    rule, right = "", "COPY ... TO STDOUT is allowed."
    table = refusals.table(body)
    if body.get("is_from"):
        rule, detail = "copy-from", f"The statement writes table {table}"
    elif body.get("is_program"):
        rule, detail = "copy-program", "The statement runs a command on the server"
    elif "filename" in body:
        rule, detail = "copy-file", "The statement writes a file on the server"
    if rule:
        raise Refused(
            Refusal(
                rule,
                f"cannot execute COPY {'FROM' if rule == 'copy-from' else 'TO'}: SideCart forwards reads only",
                f"{detail} (rule: {rule}).",
                right,
                tables.STATEMENT_SQLSTATE,
                refusals.relation(body),
            ),
            word={"copy-from": "FROM", "copy-program": "PROGRAM", "copy-file": "TO"}[rule],
        )
    expressions.judge(judgement, name, body)
    if "query" in body:
        # What came in a Parse is analysed when a portal of it is executed (BeginCopyTo(), commands/copyto.c): another
        # one may have changed the search_path by then.
        terms = judgement.terms
        judgement.terms = terms._replace(resolves=not terms.bound)
        _inner(judgement, body, _SELECT, "COPY")
        judgement.terms = terms


def _lock(judgement: Judgement, name: str, body: Body) -> None:
    if body.get("mode") != tables.ACCESS_SHARE_LOCK:
        raise Refused(
            Refusal(
                "table-lock",
                "cannot execute LOCK TABLE: SideCart forwards reads only",
                "The lock would stall other sessions (rule: table-lock).",
                "LOCK TABLE ... IN ACCESS SHARE MODE is allowed.",
                tables.STATEMENT_SQLSTATE,
            )
        )
    expressions.judge(judgement, name, body)


def _execute(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    judgement.effects.append((Effect.EXECUTE, body["name"]))


def _deallocate(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    judgement.effects.append((Effect.DEALLOCATE, body.get("name", "")))


def _fetch(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    if not body.get("ismove"):
        judgement.effects.append((Effect.FETCH, body["portalname"]))


def _close(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    judgement.effects.append((Effect.CLOSE, body.get("portalname", "")))


def _unlisten(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    judgement.effects.append((Effect.UNLISTEN, body.get("conditionname", "")))


_DISCARDS = {"DISCARD_ALL": Effect.DISCARD_ALL, "DISCARD_PLANS": Effect.DISCARD_PLANS}


def _discard(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    if (effect := _DISCARDS.get(body.get("target", ""))) is not None:
        judgement.effects.append((effect, ""))


def _transaction(judgement: Judgement, name: str, body: Body) -> None:
    kind = body.get("kind", "")
    judgement.kind = tables.TRANSACTION_KINDS.get(kind, "two_phase")
    if kind not in tables.TRANSACTION_KINDS:
        raise Refused(
            Refusal(
                "two-phase",
                f"cannot execute {tables.COMMAND}: SideCart forwards reads only",
                "A two-phase transaction outlives its session (rule: two-phase).",
                sqlstate=tables.STATEMENT_SQLSTATE,
            )
        )
    expressions.judge(judgement, name, body)
    start = "START TRANSACTION" if kind == "TRANS_STMT_START" else "BEGIN"
    modes = _modes(judgement, start, body.get("options", []))
    if judgement.kind in _BOUNDARIES and not body.get("chain") and _PLAIN_MODES.issuperset(modes):
        judgement.boundary = judgement.kind


def _modes(judgement: Judgement, start: str, options: list[Body]) -> list[str]:
    """Check transaction modes; where one of them is READ WRITE, build the statement anew with READ ONLY.

    The new text consists of fixed words only, so nothing of the client's can be in it (SQL: transaction_mode_list).
    Returns the modes that are forwarded.
    """
    words: list[str] = []
    wants_write = False
    for option in options:
        definition = option["DefElem"]
        mode = definition["defname"]
        constant = definition.get("arg", {}).get("A_Const", {})
        if mode == "transaction_isolation" and literals.string([{"A_Const": constant}], 0) in tables.ISOLATION_LEVELS:
            words.append(f"ISOLATION LEVEL {constant['sval']['sval'].upper()}")
        elif mode == "transaction_read_only" and "ival" in constant:
            wants_write |= not constant["ival"].get("ival", 0)
            words.append("READ ONLY")
        elif mode == "transaction_deferrable" and "ival" in constant:
            words.append("DEFERRABLE" if constant["ival"].get("ival", 0) else "NOT DEFERRABLE")
        else:
            raise Refused(refusals.unknown_part(mode), definition.get("location", -1))
    if wants_write:
        judgement.replacement = f"{start} {', '.join(words)}"
    return words


def _set(judgement: Judgement, name: str, body: Body) -> None:
    expressions.judge(judgement, name, body)
    handler = _SETS.get(body.get("kind", "VAR_SET_VALUE"))
    if handler is None:  # VAR_SET_CURRENT means something in CREATE FUNCTION only
        raise Refused(refusals.unknown_part("FROM CURRENT"), body.get("location", -1))
    handler(judgement, body)


def _set_value(judgement: Judgement, body: Body) -> None:
    setting = settings.fold(body["name"])
    values = [literals.setting_word(argument) for argument in body["args"]]
    known = [value for value in values if value is not None]
    complete = len(known) == len(values)
    value = ", ".join(known) if complete else None
    refusal = settings.refuse_value(setting, value, known if complete else None)
    if refusal is not None:
        at = literals.argument_location(body) if refusal.rule != "setting" else -1
        raise Refused(refusal._replace(object=setting), at)
    judgement.effects += settings.effect_of_value(setting, local=body.get("is_local", False))
    if setting == "client_encoding" and value is not None:
        judgement.codec = settings.python_codec(value) or ""
    elif setting == "search_path" and complete:
        judgement.path = settings.join_identifiers(known)


def _set_default(judgement: Judgement, body: Body) -> None:
    setting = settings.fold(body["name"])
    refusal = settings.refuse_reset(setting)
    if refusal is not None:
        raise Refused(refusal._replace(object=setting))
    judgement.effects += settings.effect_of_reset(setting, local=body.get("is_local", False))


def _reset(judgement: Judgement, body: Body) -> None:
    judgement.kind = "reset"
    _set_default(judgement, body)


def _reset_all(judgement: Judgement, body: Body) -> None:
    judgement.kind = "reset"
    judgement.effects.append((Effect.RESET, "all"))


def _set_multi(judgement: Judgement, body: Body) -> None:
    what = body["name"]
    if what == "TRANSACTION SNAPSHOT":
        return
    options = body["args"]
    if what == "TRANSACTION":
        _modes(judgement, "SET TRANSACTION", options)
    elif what == "SESSION CHARACTERISTICS":
        _modes(judgement, "SET SESSION CHARACTERISTICS AS TRANSACTION", options)
        for option in options:
            setting = f"default_{option['DefElem']['defname']}"
            judgement.effects += settings.effect_of_value(setting)
    else:
        raise Refused(refusals.unknown_part(what))


_SETS: dict[str, Callable[[Judgement, Body], None]] = {
    "VAR_SET_VALUE": _set_value,
    "VAR_SET_DEFAULT": _set_default,
    "VAR_SET_MULTI": _set_multi,
    "VAR_RESET": _reset,
    "VAR_RESET_ALL": _reset_all,
}
"""What SET and RESET do, by VariableSetKind (nodes/parsenodes.h)."""
_SELECT = frozenset({"SelectStmt"})
_BOUNDARIES = frozenset({"begin", "commit", "rollback"})
_PLAIN_MODES = frozenset(
    {"READ ONLY"} | {f"ISOLATION LEVEL {level.upper()}" for level in tables.ISOLATION_LEVELS - {"serializable"}}
)
_EXPLAINABLE = frozenset({"SelectStmt", "DeclareCursorStmt", "ExecuteStmt"})

_HANDLERS: dict[str, Callable[[Judgement, str, Body], None]] = {
    **dict.fromkeys(("VariableShowStmt", "ConstraintsSetStmt"), _harmless),
    "FetchStmt": _fetch,
    "ExplainStmt": _explain,
    "PrepareStmt": _prepare,
    "DeclareCursorStmt": _declare,
    "CopyStmt": _copy,
    "LockStmt": _lock,
    "ExecuteStmt": _execute,
    "DeallocateStmt": _deallocate,
    "ClosePortalStmt": _close,
    "UnlistenStmt": _unlisten,
    "DiscardStmt": _discard,
    "TransactionStmt": _transaction,
    "VariableSetStmt": _set,
}
"""Statements that are reads, each with its condition; SELECT is apart, as the most frequent one."""

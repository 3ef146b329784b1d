"""Judge SQL text, settings and FunctionCall messages: text in, `Verdict` out. Nothing here raises.

The text is decoded, parsed by PostgreSQL's own grammar (`parse_sql_json`; never `parse_sql`, which ends the process on
long chains of operators), and walked completely against the tables. Whatever the tables do not know is refused.
`Judgement` holds what is asked of each statement.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from . import constants, errors, refusals, rules, settings
from . import text as texts
from .functions import Functions
from .rules import Refusal, Refused
from .verdict import Action, Effect, Verdict
from .walk import Body, walk

_ENTRY_BYTES = 700  # on the safe side: 170 to 600 bytes apart from texts, measured with tracemalloc


MAX_PLAIN_PARSES = 2_000
MAX_PLAIN_PARSE = 2_048
"""Bytes of a Parse message that is remembered whole: 4 MB in all at most."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Hold what an operator decides about the filter. Patterns are `name`, `schema.name`, and either with a `*`."""

    allow_functions: tuple[str, ...] = ()
    """Functions (and operators, as `schema.@@`) that are reads although they are not built in."""
    deny_functions: tuple[str, ...] = ()
    """Functions that are refused although the tables allow them; wins over `allow_functions`."""
    max_query_length: int = 1 << 20
    """Bytes of a query text; longer ones are refused with 54000."""
    server_version: int = 0
    """The upstream's server_version_num. 0: unknown, and taken for a version as new as the parser's."""
    allow_listen: bool = False
    allow_advisory_locks: bool = False
    allow_pg_sleep: bool = True
    allow_file_listing: bool = True
    """pg_ls_waldir and its like, which monitoring agents use; the server grants them to pg_monitor only."""
    allow_large_object_reads: bool = True
    """lo_open for reading, loread and lo_lseek through FunctionCall, as pg_dump and pgJDBC send them."""
    deny_settings: tuple[str, ...] = ()
    """Settings that a client may not change although the table allows them, such as `app.tenant_id` or `app.*`."""


class Filter:
    """Judge texts under one policy, and remember the verdicts.

    The cache is keyed by exact text, encoding and protocol, least recently used out first, and bounded by
    `cache_bytes`. `hits`, `misses`, `evictions` and `cached_bytes` are plain integers for the metrics.
    """

    __slots__ = (
        "_cache",
        "_cache_bytes",
        "cached_bytes",
        "evictions",
        "functions",
        "hits",
        "misses",
        "plain_parses",
        "policy",
    )

    def __init__(self, policy: Policy | None = None, cache_bytes: int = 32 << 20) -> None:
        self.policy = policy or Policy()
        self.functions = self._functions()
        self._cache: OrderedDict[tuple[bytes, str, bool], Verdict] = OrderedDict()
        self._cache_bytes = cache_bytes
        self.plain_parses: dict[bytes, Verdict] = {}
        """Whole Parse messages, in UTF-8, that are allowed and leave nothing behind: see `remember_parse`."""
        self.cached_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0

    def __repr__(self) -> str:
        return (
            f"<Filter {len(self._cache)} verdicts, {self.cached_bytes} bytes, {self.hits} hits, {self.misses} misses>"
        )

    def _functions(self) -> Functions:
        policy = self.policy
        return Functions(
            policy.allow_functions,
            policy.deny_functions,
            server_version=policy.server_version // 10000,
            advisory_locks=policy.allow_advisory_locks,
            file_listing=policy.allow_file_listing,
            sleep=policy.allow_pg_sleep,
        )

    def learn_version(self, server_version: int) -> None:
        """Judge for this server_version_num from now on: which names are built in depends on it."""
        if server_version // 10000 == self.policy.server_version // 10000:
            return
        self.policy = replace(self.policy, server_version=server_version)
        self.functions = self._functions()
        self._cache.clear()
        self.plain_parses.clear()
        self.cached_bytes = 0

    def judge(self, sql: bytes, encoding: str = "utf-8", *, extended: bool = False) -> Verdict:
        """Judge one query text, without its terminating NUL.

        `encoding` is the Python codec of the session's client_encoding. `extended`: the text came in a Parse message
        and may hold one statement at most.
        """
        key = (sql, encoding, extended)
        try:
            verdict = self._cache[key]
        except KeyError:
            self.misses += 1
        else:
            self.hits += 1
            self._cache.move_to_end(key)
            return verdict
        verdict = self._judge(sql, encoding, extended)
        self._remember(key, verdict)
        return verdict

    def remember_parse(self, message: bytes, verdict: Verdict) -> None:
        """Keep the verdict of a whole Parse message, as long as it is short, allowed and without effects.

        Drivers send the same bytes again and again: one look-up then stands for decoding and judging them.
        """
        if verdict.action is Action.ALLOW and not verdict.effects and len(message) <= MAX_PLAIN_PARSE:
            if len(self.plain_parses) >= MAX_PLAIN_PARSES:
                self.plain_parses.clear()
            self.plain_parses[message] = verdict

    def _remember(self, key: tuple[bytes, str, bool], verdict: Verdict) -> None:
        size = _size(key[0], verdict)
        if size * 8 > self._cache_bytes:
            return  # one text may not push out everything else
        self._cache[key] = verdict
        self.cached_bytes += size
        while self.cached_bytes > self._cache_bytes:
            (text, _, _), old = self._cache.popitem(last=False)
            self.cached_bytes -= _size(text, old)
            self.evictions += 1

    def _judge(self, sql: bytes, encoding: str, extended: bool) -> Verdict:
        try:
            return self._judge_text(sql, encoding, extended)
        except Refused as refused:  # about the text as a whole
            return _refuse(refused.refusal, "unparsable", max(refused.location + 1, 0))
        except RecursionError:
            return _refuse(texts.TOO_DEEP, "unparsable")
        except Exception:  # whatever goes wrong, nothing is forwarded
            return _refuse(_INTERNAL, "unparsable")

    def _judge_text(self, sql: bytes, encoding: str, extended: bool) -> Verdict:
        if len(sql) > self.policy.max_query_length:
            raise Refused(
                Refusal(
                    "length",
                    f"query is too long: {len(sql)} bytes",
                    f"client.max_query_length is {self.policy.max_query_length} (rule: length).",
                    sqlstate=errors.PROGRAM_LIMIT_EXCEEDED,
                )
            )
        text = texts.decode(sql, encoding)
        try:
            statements = texts.parse(text)
        except Refused as refused:
            return _refuse(refused.refusal, "unparsable", refused.location + 1)
        if not statements:
            return _ALLOWED["empty"]
        if extended and len(statements) > 1:
            # exec_parse_message(), tcop/postgres.c
            return _refuse(
                Refusal(
                    "several-statements",
                    "cannot insert multiple commands into a prepared statement",
                    "A Parse message holds one statement (rule: several-statements).",
                    sqlstate=errors.SYNTAX_ERROR,
                ),
                "multi",
            )
        return self._judge_statements(sql, text, encoding, statements)

    def _judge_statements(self, sql: bytes, text: str, encoding: str, statements: list[dict[str, Any]]) -> Verdict:
        judgement = Judgement(self.policy, self.functions)
        several = len(statements) > 1
        kind = "multi" if several else ""
        replacements: list[tuple[int, int, str]] = []
        for raw in statements:
            start = raw.get("stmt_location", 0)
            try:
                judgement.statement(raw["stmt"])
            except Refused as refused:
                end = start + raw["stmt_len"] if "stmt_len" in raw else None
                position, command = texts.caret(text, start, end, refused.location, refused.word)
                refusal = refused.refusal
                message = refusal.message.replace(rules.COMMAND, command or "the statement")
                detail = refusal.detail.replace(rules.COMMAND, command or "the statement")
                refusal = refusal._replace(message=message, detail=detail)
                return _refuse(refusal, kind or judgement.kind, position)
            kind = kind or judgement.kind
            if judgement.replacement:
                end = start + raw["stmt_len"] if "stmt_len" in raw else -1
                replacements.append((start, end, judgement.replacement))
        effects = tuple(judgement.effects)
        if replacements:
            return self._replace(sql, text, encoding, replacements, kind, effects)
        if judgement.flagged:
            return Verdict(
                Action.ALLOW,
                kind,
                rule="secret-catalogue",
                detail=f'The statement reads "{judgement.flagged}" (rule: secret-catalogue).',
                effects=effects,
            )
        if effects:
            return Verdict(Action.ALLOW, kind, effects=effects)
        return _ALLOWED[kind]

    def _replace(
        self,
        sql: bytes,
        text: str,
        encoding: str,
        replacements: list[tuple[int, int, str]],
        kind: str,
        effects: tuple[tuple[Effect, str], ...],
    ) -> Verdict:
        """Put generated statements in the place of the client's; everything else stays, byte by byte."""
        utf8 = text.encode()
        parts: list[str] = []
        at = 0
        for start, end, generated in replacements:
            parts += (utf8[at:start].decode(), generated)
            at = len(utf8) if end < 0 else end
        parts.append(utf8[at:].decode())
        built = "".join(parts)
        if text.encode(encoding) != sql:
            # The codec does not give the client's bytes back, so they cannot be cut apart at the statement's ends.
            return _refuse(_INTERNAL, kind)
        # Generated text is judged like any other: what is forwarded was seen by the filter in exactly this form.
        again = texts.parse(built)
        judgement = Judgement(self.policy, self.functions)
        for raw in again:
            judgement.statement(raw["stmt"])
            if judgement.replacement:
                return _refuse(_INTERNAL, kind)
        return Verdict(
            Action.REPLACE,
            kind,
            rule="read-write",
            text=built.encode(encoding),
            warning="SideCart forwards reads only: READ WRITE was replaced by READ ONLY",
            effects=effects,
        )

    def judge_setting(self, name: str, value: str) -> Verdict:
        """Judge one startup parameter, by the same table as SET. `options` is split into its settings."""
        answer = settings.judge_startup(name, value, self.policy.deny_settings)
        if isinstance(answer, Refusal):
            return _refuse(answer, "startup")
        return Verdict(Action.ALLOW, "startup", effects=tuple(answer))

    def judge_function_call(self, oid: int, formats: Sequence[int], arguments: Sequence[bytes | None]) -> Verdict:
        """Judge a FunctionCall message: reading large objects is all that it may do.

        `formats` are the message's argument format codes: none (all text), one for all, or one for each argument.
        """
        refusal = self.functions.fastpath(oid, formats, arguments, self.policy.allow_large_object_reads)
        return Verdict(Action.ALLOW, "function_call") if refusal is None else _refuse(refusal, "function_call")

    @staticmethod
    def python_codec(pg_encoding: str) -> str | None:
        """Give the Python codec for a PostgreSQL encoding's name in any spelling; None: unsafe or unknown."""
        return settings.python_codec(pg_encoding)


class Judgement:
    """Judge the statements of one text, one after the other; collect what they leave behind. Raises Refused."""

    __slots__ = ("_depth", "_functions", "_policy", "effects", "flagged", "kind", "replacement")

    def __init__(self, policy: Policy, functions: Functions) -> None:
        self._policy = policy
        self._functions = functions
        self._depth = 0  # of SQL given as text to functions
        self.effects: list[tuple[Effect, str]] = []
        self.kind = ""
        self.replacement = ""
        self.flagged = ""

    def statement(self, node: Body) -> None:
        """Judge one statement. Sets `kind`, and `replacement` where the statement is rewritten."""
        self.replacement = ""
        ((name, body),) = node.items()
        self.kind = rules.KINDS.get(name, "")
        if name == "SelectStmt":
            self._expressions(name, body, body)
            return
        handler = _HANDLERS.get(name)
        if handler is None:
            self.kind = rules.STATEMENTS.get(name, rules.OTHER_STATEMENT).kind
            raise refusals.statement(name, body)
        handler(self, name, body)

    # -- expressions ---------------------------------------------------------------------------------------------------

    def _expressions(self, name: str, body: Body, statement: Body) -> None:
        walked = walk(name, body)
        if walked.unknown:
            part = walked.unknown[0]
            raise refusals.unknown(walked.visited, part.kind, part.field, part.rule, part.body)
        for kind, node in walked.found:
            _EXPRESSIONS[kind](self, kind, node, statement)

    def _call(self, _: str, node: Body, statement: Body) -> None:
        names = node["funcname"]
        name = names[-1]["String"]["sval"]
        # A name of three parts starts with the database's, which the server only accepts if it is the current one.
        schema = names[-2]["String"]["sval"] if len(names) > 1 else ""
        if name in self._functions.plain and (not schema or schema == "pg_catalog"):
            return
        location = node.get("location", 0)
        if self._functions.is_type(schema, name):
            if len(node.get("args", ())) == 1:
                return
        else:
            refusal = self._functions.judge(schema, name)
            if refusal is not None:
                raise Refused(refusal, location)
        if name in rules.SQL_TEXT_FUNCTIONS:
            self._sql_text(name, node)
        elif name == "set_config":
            self._set_config(node, statement)
        elif name == "lo_open":
            mode = constants.integer(constants.arguments(node), 1)
            if mode is None or mode & rules.INV_WRITE:
                raise Refused(
                    refusals.function(
                        "large-object-write",
                        name,
                        "The mode of lo_open has to be a number without INV_WRITE (131072)",
                        "lo_open(oid, 262144) opens a large object for reading.",
                    ),
                    location,
                )
        elif name in rules.INPUT_TYPE_FUNCTIONS:
            self._input_type(name, node)
        self._leaves(name)

    def _leaves(self, function: str) -> None:
        if function in rules.SESSION_STATE_FUNCTIONS:
            self.effects.append((Effect.SESSION_STATE, function))
        elif rules.ADVISORY_LOCKS.get(function):
            self.effects.append((Effect.ADVISORY_LOCK, function))

    def _column(self, _: str, node: Body, __: Body) -> None:
        # ParseFuncOrColumn(), parser/parse_func.c: `x.f` is f(x) where x has no column f. Only the last part can be f.
        last = node["fields"][-1].get("String")
        if last is not None:
            self._attribute(last["sval"], node.get("location", 0))

    def _indirection(self, _: str, node: Body, __: Body) -> None:
        for part in node["indirection"]:
            if "String" in part:
                self._attribute(part["String"]["sval"], -1)

    def _attribute(self, name: str, location: int) -> None:
        refusal = self._functions.attribute(name)
        if refusal is not None:
            raise Refused(refusal, location, "" if location >= 0 else f"={name}")
        self._leaves(name)

    def _operator(self, kind: str, node: Body, _: Body) -> None:
        names = node.get({"A_Expr": "name", "SortBy": "useOp"}.get(kind, "operName"), ())
        if len(names) > 1:
            refusal = self._functions.operator(names[-2]["String"]["sval"], names[-1]["String"]["sval"])
            if refusal is not None:
                raise Refused(refusal, node.get("location", 0))

    def _relation(self, _: str, node: Body, __: Body) -> None:
        if node["relname"] in rules.SECRET_RELATIONS and node.get("schemaname", "pg_catalog") == "pg_catalog":
            self.flagged = node["relname"]

    def _sample(self, _: str, node: Body, __: Body) -> None:
        name = node["method"][-1]["String"]["sval"]
        schema = node["method"][-2]["String"]["sval"] if len(node["method"]) > 1 else ""
        if name not in rules.SAMPLE_METHODS or schema not in ("", "pg_catalog"):
            refusal = self._functions.judge(schema or "", name)
            if refusal is not None:
                raise Refused(refusal, node.get("location", 0))

    def _keyword(self, kind: str, node: Body, _: Body) -> None:
        name, since = rules.KEYWORD_FUNCTIONS[kind]
        refusal = self._functions.keyword(name or rules.JSON_FUNCTIONS.get(node.get("op", ""), "json_value"), since)
        if refusal is not None:
            raise Refused(refusal, node.get("location", -1))

    def _sql_text(self, name: str, node: Body) -> None:
        arguments = constants.arguments(node)
        location = node.get("location", 0)
        if name == "ts_rewrite" and arguments is not None and len(arguments) != 2:
            return  # with three arguments it takes queries, not SQL
        for at in rules.SQL_TEXT_FUNCTIONS[name]:
            if (
                name == "crosstab"
                and at == 1
                and (len(arguments or ()) < 2 or constants.integer(arguments, 1) is not None)
            ):
                continue
            constant = constants.string(arguments, at)
            if constant is None:
                raise Refused(
                    refusals.function(
                        "sql-text-function",
                        name,
                        f"The SQL that {name} runs has to be a string constant",
                    ),
                    location,
                )
            self._inner_text(name, constant, location)

    def _inner_text(self, name: str, sql: str, location: int) -> None:
        kind = self.kind
        self._depth += 1
        try:
            statements = texts.parse(sql) if self._depth <= _TEXT_DEPTH else []
            if len(statements) != 1 or "SelectStmt" not in statements[0]["stmt"]:
                raise Refused(
                    refusals.function("sql-text-function", name, f"The SQL given to {name} has to be one SELECT")
                )
            self.statement(statements[0]["stmt"])
        except Refused as refused:
            inner = refused.refusal
            raise Refused(
                refusals.function("sql-text-function", name, f"In the SQL given to {name}: {inner.message}"), location
            ) from refused
        finally:
            self._depth -= 1
            self.kind = kind

    def _input_type(self, name: str, node: Body) -> None:
        given = constants.string(constants.arguments(node), 1)
        base = "" if given is None else _TYPE_SUFFIX.sub("", given.strip()).lower().removeprefix("pg_catalog.")
        if base not in rules.TYPES and base not in rules.TYPE_ALIASES:
            raise Refused(
                refusals.function(
                    "input-type",
                    name,
                    f"The type given to {name} has to be the name of a built-in type, as a string constant",
                ),
                node.get("location", 0),
            )

    def _set_config(self, node: Body, statement: Body) -> None:
        arguments = constants.arguments(node)
        location = node.get("location", 0)
        name = constants.string(arguments, 0)
        if name is None or arguments is None or len(arguments) != 3:
            if constants.bare(statement) in _pg_dump_trees():
                self.effects += settings.effect_of_value("restrict_nonsystem_relation_kind")
                return
            raise Refused(
                refusals.function("setting-name", "set_config", "The name of the setting has to be a string constant"),
                location,
            )
        folded = settings.fold(name)
        constant = arguments[2].get("A_Const", {})
        local = "boolval" in constant and constant["boolval"].get("boolval", False) is True
        value = constants.string(arguments, 1)
        denied = self._policy.deny_settings
        if "isnull" in arguments[1].get("A_Const", {}):  # set_config with a null resets (guc_funcs.c)
            refusal = settings.refuse_reset(folded, denied)
        elif value is None and local and folded == "search_path" and "ParamRef" in arguments[1]:
            # PostgREST sends this in each transaction. What a path can do to the names that we look up, it can do only
            # with schemas that somebody could already create functions in; the catalogue check (DESIGN 6) closes it.
            refusal = settings.refuse_value(folded, "", None, denied)
        else:
            refusal = settings.refuse_value(folded, value, None, denied)
        if refusal is not None:
            raise Refused(refusal, location)
        if not local or folded == "seed":
            self.effects += settings.effect_of_value(folded)

    # -- statements ----------------------------------------------------------------------------------------------------

    def _harmless(self, name: str, body: Body) -> None:
        self._expressions(name, body, body)

    def _inner(self, body: Body, allowed: frozenset[str], command: str) -> None:
        """Judge the statement inside EXPLAIN, PREPARE, DECLARE or COPY; the outer statement's kind stays."""
        kind = self.kind
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
                        sqlstate=rules.STATEMENT_SQLSTATE,
                    )
                )
            raise refused
        try:
            self.statement({name: inner})
        finally:
            self.kind = kind

    def _explain(self, name: str, body: Body) -> None:
        self._expressions(name, body, body)
        self._inner(body, _EXPLAINABLE, "EXPLAIN")

    def _prepare(self, name: str, body: Body) -> None:
        self._expressions(name, body, body)
        self._inner(body, _SELECT, "PREPARE")
        self.effects.append((Effect.PREPARE, body["name"]))

    def _declare(self, name: str, body: Body) -> None:
        self._expressions(name, body, body)
        self._inner(body, _SELECT, "DECLARE CURSOR")
        if body.get("options", 0) & rules.CURSOR_OPT_HOLD:
            self.effects.append((Effect.HOLD_CURSOR, body["portalname"]))

    def _copy(self, name: str, body: Body) -> None:
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
                    rules.STATEMENT_SQLSTATE,
                ),
                word={"copy-from": "FROM", "copy-program": "PROGRAM", "copy-file": "TO"}[rule],
            )
        self._expressions(name, body, body)
        if "query" in body:
            self._inner(body, _SELECT, "COPY")

    def _lock(self, name: str, body: Body) -> None:
        if body.get("mode") != rules.ACCESS_SHARE_LOCK:
            raise Refused(
                Refusal(
                    "table-lock",
                    "cannot execute LOCK TABLE: SideCart forwards reads only",
                    "The lock would stall other sessions (rule: table-lock).",
                    "LOCK TABLE ... IN ACCESS SHARE MODE is allowed.",
                    rules.STATEMENT_SQLSTATE,
                )
            )
        self._expressions(name, body, body)

    def _listen(self, name: str, body: Body) -> None:
        if not self._policy.allow_listen:
            raise refusals.statement(name, body)
        self._expressions(name, body, body)
        self.effects.append((Effect.LISTEN, body["conditionname"]))

    def _deallocate(self, name: str, body: Body) -> None:
        self._expressions(name, body, body)
        self.effects.append((Effect.DEALLOCATE, body.get("name", "")))

    def _discard(self, name: str, body: Body) -> None:
        self._expressions(name, body, body)
        if body.get("target") == "DISCARD_ALL":
            self.effects.append((Effect.DISCARD_ALL, ""))

    def _transaction(self, name: str, body: Body) -> None:
        kind = body.get("kind", "")
        self.kind = rules.TRANSACTION_KINDS.get(kind, "two_phase")
        if kind not in rules.TRANSACTION_KINDS:
            raise Refused(
                Refusal(
                    "two-phase",
                    f"cannot execute {rules.COMMAND}: SideCart forwards reads only",
                    "A two-phase transaction outlives its session (rule: two-phase).",
                    sqlstate=rules.STATEMENT_SQLSTATE,
                )
            )
        self._expressions(name, body, body)
        start = "START TRANSACTION" if kind == "TRANS_STMT_START" else "BEGIN"
        self._modes(start, body.get("options", []))

    def _modes(self, start: str, options: list[Body]) -> None:
        """Check transaction modes; where one of them is READ WRITE, build the statement anew with READ ONLY.

        The new text consists of fixed words only, so nothing of the client's can be in it (SQL: transaction_mode_list).
        """
        words: list[str] = []
        wants_write = False
        for option in options:
            definition = option["DefElem"]
            mode = definition["defname"]
            constant = definition.get("arg", {}).get("A_Const", {})
            if (
                mode == "transaction_isolation"
                and constants.string([{"A_Const": constant}], 0) in rules.ISOLATION_LEVELS
            ):
                words.append(f"ISOLATION LEVEL {constant['sval']['sval'].upper()}")
            elif mode == "transaction_read_only" and "ival" in constant:
                wants_write |= not constant["ival"].get("ival", 0)
                words.append("READ ONLY")
            elif mode == "transaction_deferrable" and "ival" in constant:
                words.append("DEFERRABLE" if constant["ival"].get("ival", 0) else "NOT DEFERRABLE")
            else:
                raise Refused(refusals.unknown_part(mode), definition.get("location", -1))
        if wants_write:
            self.replacement = f"{start} {', '.join(words)}"

    def _set(self, name: str, body: Body) -> None:
        kind = body.get("kind", "VAR_SET_VALUE")
        local = body.get("is_local", False)
        if kind == "VAR_SET_MULTI":
            self._set_multi(name, body)
            return
        self._expressions(name, body, body)
        denied = self._policy.deny_settings
        if kind == "VAR_RESET_ALL":
            self.kind = "reset"
            self.effects.append((Effect.RESET, "all"))
            return
        setting = settings.fold(body["name"])
        if kind == "VAR_SET_VALUE":
            values = [constants.setting_word(argument) for argument in body["args"]]
            known = [value for value in values if value is not None]
            complete = len(known) == len(values)
            value = ", ".join(known) if complete else None
            refusal = settings.refuse_value(setting, value, known if complete else None, denied)
            if refusal is not None:
                raise Refused(refusal, constants.argument_location(body) if refusal.rule != "setting" else -1)
            if not local or setting == "seed":
                self.effects += settings.effect_of_value(setting)
        elif kind in ("VAR_SET_DEFAULT", "VAR_RESET"):
            self.kind = "set" if kind == "VAR_SET_DEFAULT" else "reset"
            refusal = settings.refuse_reset(setting, denied)
            if refusal is not None:
                raise Refused(refusal)
            if local:
                self.effects.append((Effect.RESET_LOCAL, setting))
            else:
                self.effects += settings.effect_of_reset(setting)
        else:  # VAR_SET_CURRENT means something in CREATE FUNCTION only
            raise Refused(refusals.unknown_part("FROM CURRENT"), body.get("location", -1))

    def _set_multi(self, name: str, body: Body) -> None:
        self._expressions(name, body, body)
        what = body["name"]
        if what == "TRANSACTION SNAPSHOT":
            return
        options = body["args"]
        if what == "TRANSACTION":
            self._modes("SET TRANSACTION", options)
        elif what == "SESSION CHARACTERISTICS":
            self._modes("SET SESSION CHARACTERISTICS AS TRANSACTION", options)
            for option in options:
                setting = f"default_{option['DefElem']['defname']}"
                if settings.matches(self._policy.deny_settings, setting):
                    raise Refused(refusals.unknown_part(setting))
                self.effects += settings.effect_of_value(setting)
        else:
            raise Refused(refusals.unknown_part(what))


_TEXT_DEPTH = 3
_TYPE_SUFFIX = re.compile(r"\s*(\(\s*\d+\s*(,\s*-?\d+\s*)?\))?\s*(\[\s*\d*\s*\]\s*)*\Z")
_SELECT = frozenset({"SelectStmt"})
_EXPLAINABLE = frozenset({"SelectStmt", "DeclareCursorStmt", "ExecuteStmt"})

_HANDLERS: dict[str, Callable[[Judgement, str, Body], None]] = {
    **dict.fromkeys(
        ("VariableShowStmt", "FetchStmt", "ClosePortalStmt", "ExecuteStmt", "ConstraintsSetStmt", "UnlistenStmt"),
        Judgement._harmless,
    ),
    "ExplainStmt": Judgement._explain,
    "PrepareStmt": Judgement._prepare,
    "DeclareCursorStmt": Judgement._declare,
    "CopyStmt": Judgement._copy,
    "LockStmt": Judgement._lock,
    "ListenStmt": Judgement._listen,
    "DeallocateStmt": Judgement._deallocate,
    "DiscardStmt": Judgement._discard,
    "TransactionStmt": Judgement._transaction,
    "VariableSetStmt": Judgement._set,
}
"""Statements that are reads, each with its condition; SELECT is apart, as the most frequent one."""

_EXPRESSIONS: dict[str, Callable[[Judgement, str, Body, Body], None]] = {
    "FuncCall": Judgement._call,
    "ColumnRef": Judgement._column,
    "A_Indirection": Judgement._indirection,
    "A_Expr": Judgement._operator,
    "SortBy": Judgement._operator,
    "SubLink": Judgement._operator,
    "RangeVar": Judgement._relation,
    "RangeTableSample": Judgement._sample,
    **dict.fromkeys(rules.KEYWORD_FUNCTIONS, Judgement._keyword),
}
"""What is asked of the nodes that `walk` reports."""


@cache
def _pg_dump_trees() -> frozenset[str]:
    """Give the one statement with a computed name that is allowed: pg_dump's of August 2024 and later.

    With any other operator, clause or value the row could be another setting's.
    """
    return frozenset(constants.bare(texts.parse(sql)[0]["stmt"]["SelectStmt"]) for sql in _PG_DUMP)


_PG_DUMP = (
    "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings"
    " WHERE name = 'restrict_nonsystem_relation_kind'",
    "SELECT pg_catalog.set_config(name, 'view, foreign-table', false) FROM pg_catalog.pg_settings"
    " WHERE name = 'restrict_nonsystem_relation_kind'",
)


def _size(text: bytes, verdict: Verdict) -> int:
    more = len(verdict.message) + len(verdict.detail) + len(verdict.hint) + len(verdict.text or b"")
    return _ENTRY_BYTES + len(text) + more + 120 * len(verdict.effects)


def _refuse(refusal: Refusal, kind: str, position: int = 0) -> Verdict:
    return Verdict(
        Action.REFUSE,
        kind,
        rule=refusal.rule,
        sqlstate=refusal.sqlstate,
        message=refusal.message,
        detail=refusal.detail,
        hint=refusal.hint,
        position=position,
    )


_ALLOWED = {
    kind: Verdict(Action.ALLOW, kind)
    for kind in {*rules.KINDS.values(), *rules.TRANSACTION_KINDS.values(), "empty", "multi", "reset"}
}
"""The verdicts of texts that leave nothing behind, made once: a Verdict costs 1.5 µs."""

_INTERNAL = Refusal(
    "internal",
    "the statement could not be judged",
    "This is a fault of SideCart, and the statement was not forwarded (rule: internal).",
    "Please report the statement.",
    errors.INTERNAL_ERROR,
)

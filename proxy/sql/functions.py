"""Judge a function by its name: one policy for calls, attribute notation and operators.

Names are the parser's: folded, unescaped, cut to 63 bytes, and compared part by part, never as joined text: a function
called "pg_catalog.count" (with the dot in its name) is not pg_catalog's count.

A name that is not built in is looked up in the live catalogue, where every function that it can mean has to be a read,
in whatever schema it lies. A built-in's name is looked up as well: `public.lower(varchar)` is called by `lower(x)` for
a varchar, although pg_catalog comes first (parser/parse_func.c picks by argument types, then by schema).

Without a catalogue a name that is not built in is refused until the operator lists it, and that holds for the harmless
functions of `functions_ext.tsv` too: only pg_depend knows whether `last(x)` is TimescaleDB's or a function that
somebody wrote yesterday. What the file adds then are refusals, and hints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

from proxy import errors
from proxy.sql import literals, tables, versions
from proxy.sql.catalog import (
    CAST_TO,
    FUNCTION,
    OPERATOR,
    TEXT_SEARCH,
    TYPE,
    ByOid,
    Callable,
    Catalog,
    Key,
    Operator,
    Taint,
    Type,
    are_own,
)
from proxy.sql.operators import KINDS
from proxy.sql.patterns import Patterns
from proxy.sql.policy import Policy
from proxy.sql.refusals import ELSEWHERE, allow_line, dotted, unproved
from proxy.sql.tables import Refusal
from proxy.sql.walk import INTERESTING

_BUILT_IN = ("", "pg_catalog")
MAX_PLAIN = 4_096
"""Answers that are kept of each kind: the names come from clients."""
_ASSIGNED = "pg_current_xact_id_if_assigned() tells the transaction's id where it has one, and gives it none."
_VIEWS = ("", "pg_catalog", "information_schema")
_REFUSED = frozenset(name for name, function in tables.FUNCTIONS.items() if function.verdict != "allow")
LEADS: dict[str, Key] = {
    **dict.fromkeys(tables.TEXT_SEARCH_FUNCTIONS | tables.TEXT_SEARCH_OPERATORS, (TEXT_SEARCH, 0)),
    **dict.fromkeys(tables.CASTS_TO_TEXT, (CAST_TO, tables.TEXT_OID)),
}
"""Functions and operators of pg_catalog that run what the database has, and name none of it."""


_LOOKED_AT = (
    tables.SQL_TEXT_FUNCTIONS.keys()
    | tables.ADVISORY_LOCKS
    | tables.SESSION_STATE_FUNCTIONS
    | {tables.STATEMENTS_FUNCTION}
    | tables.TRANSACTION_ID_FUNCTIONS
    | tables.RELATION_TEXT_FUNCTIONS
    | tables.SCHEMA_TEXT_FUNCTIONS
    | tables.DATABASE_FUNCTIONS
    | tables.CODE_FUNCTIONS
    | tables.INPUT_TYPE_FUNCTIONS
)
"""Built-in reads of which it matters what they are given, or that leave something behind."""


def _interesting(catalog: Catalog | None, *, operators: bool) -> frozenset[str]:
    """Give the nodes to look into: with a catalogue names of types, too, and operators if any of them is no read.

    Operators with their schema are looked into in any case: see `walk`.
    """
    found = INTERESTING if catalog is None else INTERESTING | {"TypeCast", "TypeName"}
    return found | KINDS if operators or (catalog is not None and catalog.tainted_operators) else found


class Functions:
    """Hold the policy of one configuration and one catalogue, and answer for names.

    `remember`: keep the answers; not while it is recorded which taints are asked for.
    """

    __slots__ = (
        "_allow",
        "_callers",
        "_deny",
        "_memo",
        "_policy",
        "_refused_attributes",
        "_remember",
        "_version",
        "attributes",
        "catalog",
        "denies",
        "denies_operators",
        "functions_by_oid",
        "interesting",
        "own",
        "plain",
        "plain_qualified",
        "plain_relations",
        "relations_by_oid",
        "voids",
    )

    def __init__(self, policy: Policy, catalog: Catalog | None = None, *, remember: bool = True) -> None:
        self._policy = policy
        self._allow = Patterns(policy.allow_functions)
        self._deny = Patterns(policy.deny_functions)
        self.denies = bool(policy.deny_functions)
        self._callers = self._find_callers()
        self.denies_operators = any(kind == "operator" for kind, _ in self._callers)
        """Whether an operator of pg_catalog calls a function that is denied."""
        self.interesting = _interesting(catalog, operators=self.denies_operators)
        """The nodes to look into."""
        self._version = policy.server_version // 10000
        self.catalog = catalog
        functions = catalog.functions.values() if catalog is not None else ()
        self.own = frozenset(each.oid for named in functions for each in named)
        """The database's own functions."""
        self.functions_by_oid = ByOid(catalog.functions if catalog is not None else {})
        self.relations_by_oid = ByOid(catalog.relations if catalog is not None else {})
        self._remember = remember
        self._memo: dict[tuple[str, str, int, tuple[int, ...] | None], Refusal | None] = {}
        known = catalog.functions.keys() | catalog.types.keys() if catalog is not None else set()
        leading = LEADS.keys() if catalog is not None else set[str]()
        self.plain = self._find_plain(known | leading)
        """Built-in reads that need no second look, called without a schema or with pg_catalog."""
        self.plain_qualified = self.plain - versions.READ_OTHERWISE
        """Those of them that every version of the server finds where pg_catalog is written."""
        self.plain_relations: set[tuple[str, str, int]] = set()
        """Relations that need no second look where they are picked for a schema (or none) and a name."""
        voids = {name for name in tables.VOID_FUNCTIONS if self._built_in(name, tables.FUNCTIONS[name]) is None}
        self.voids = voids.union({tables.VOID}, () if catalog is None else catalog.voids)
        """Names of functions, operators and types that can make a parameter one of type void, and are allowed."""
        self._refused_attributes = self._find_refused_attributes()
        known |= catalog.strangers | leading if catalog is not None else set()
        self.attributes = self._refused_attributes | tables.SESSION_STATE_FUNCTIONS | tables.ADVISORY_LOCKS | known
        """Names that need a second look as an attribute; where `denies`, all do."""

    def _find_plain(self, known: Set[str]) -> frozenset[str]:
        """Find the built-in reads that need no second look; `known` are names that something else bears, too."""
        # date(x) is a cast where no function date takes an x, and then a cast's function can be meant.
        cast_like = tables.TYPES.keys() if self.catalog is not None and self.catalog.tainted_types else set[str]()
        special = _LOOKED_AT | known | cast_like
        return frozenset(
            name
            for name, function in tables.FUNCTIONS.items()
            if name not in special
            and function.verdict == "allow"
            and self._exists(function.since, function.until)
            and not function.takes_type
            and not self._is_denied_built_in(name)
        )

    def _find_callers(self) -> dict[tuple[str, str], str]:
        """Find the built-in functions in SQL, views and operators that call a function which the operator denies."""
        if not self.denies:
            return {}
        called = {name for names in tables.CALLED.values() for name in names}
        denied = {name for name in called if self._deny.match("pg_catalog", name)}
        callers = ((caller, calls & denied) for caller, calls in tables.CALLED.items())
        return {caller: min(calls) for caller, calls in callers if calls}

    def _is_denied_built_in(self, name: str) -> bool:
        return self._deny.match("pg_catalog", name) or ("function", name) in self._callers

    def before(self, major: int) -> bool:
        """Tell whether the server is older than a major version."""
        return 0 < self._version < major

    def is_built_in_type(self, name: str) -> bool:
        """Tell whether pg_catalog has a type of this name on this server."""
        if name not in tables.TYPES or not self._exists(*tables.TYPES[name]):
            return False
        return self.catalog is None or not are_own(self.catalog.types.get(name, ()))

    def meant(self, call: dict[str, Any], schema: str, name: str) -> tuple[str, str]:
        """Give a call's schema and name as this server reads them: the parser is a newer one's."""
        if schema != "pg_catalog":
            return schema, name
        if (
            name == versions.EXTRACT
            and self.before(versions.EXTRACT_SINCE)
            and call.get("funcformat") == versions.SQL_SYNTAX
        ):
            return schema, versions.EXTRACT_BEFORE
        # Nothing tells whether the client wrote the schema; without one, all functions of the name are looked at.
        unqualified = name in versions.UNQUALIFIED_BEFORE and self.before(versions.UNQUALIFIED_BEFORE[name])
        return "" if unqualified else schema, name

    def as_column(self, kind: str, node: dict[str, Any]) -> dict[str, Any] | None:
        """Give what a node is to this server where that is a column's name, as a ColumnRef."""
        if kind == "ColumnRef":
            return node
        if (
            kind == "FuncCall"
            and node.get("funcformat") == versions.SQL_SYNTAX
            and self.before(versions.SYSTEM_USER_SINCE)
        ):
            fields = node["funcname"][1:]
            if [part["String"]["sval"] for part in fields] == [versions.SYSTEM_USER]:
                return {"fields": fields, "location": node.get("location", -1)}
        return None

    def meant_type(self, names: list[dict[str, Any]]) -> tuple[str, str]:
        """Give a type's schema and name as this server reads them."""
        schema, name = literals.qualified(names)
        # As with a call, the client may have written the schema.
        unqualified = schema == "pg_catalog" and self.before(versions.UNQUALIFIED_TYPES_BEFORE.get(name, 0))
        return "" if unqualified else schema, name

    def _exists(self, since: int, until: int) -> bool:
        return not self._version or (since <= self._version and not 0 < until < self._version)

    def _find_refused_attributes(self) -> frozenset[str]:
        refused = {
            name
            for name, function in tables.FUNCTIONS.items()
            if function.one_argument
            and self._exists(function.since, function.until)
            and (self._built_in(name, function) is not None or name in tables.SQL_TEXT_FUNCTIONS)
        }
        # Which of an extension's functions take one argument is not known, and its schema may be on the path.
        refused |= {
            name
            for name, function in tables.EXTENSIONS.items()
            if "." not in name and function.verdict != "allow" and self.judge("", name, 1) is not None
        }
        return frozenset(refused)

    def _find(self, schema: str, name: str) -> tables.Function | None:
        """Give the built-in function that a name can mean on this server. A refused one is known on every server."""
        function = tables.FUNCTIONS.get(name) if schema in _BUILT_IN else None
        if function is None or function.verdict == "block" or self._exists(function.since, function.until):
            return function
        return None

    def comes_first(self, schema: str) -> bool:
        """Tell whether pg_catalog is the first place where a name with this schema, or with none, is looked for."""
        return schema == "pg_catalog" or (not schema and not self._policy.shadowed)

    def is_type(self, schema: str, name: str) -> bool:
        """Tell whether a call of this name with one argument is a cast: no function, but a type."""
        if self._find(schema, name) is not None or (schema in _BUILT_IN and self._is_stranger(schema, name)):
            return False
        known = schema in _BUILT_IN and self.is_built_in_type(name)
        if not known and self.catalog is not None:
            known = bool(self.catalog.type(schema, name))
        if not known or self._deny.match(schema, name, unqualified=True):
            return False
        return self.catalog is None or not self.catalog.function(schema, name, 1)

    def can_be_cast(self, schema: str, name: str) -> bool:
        """Tell whether a call of a function can be a cast as well, because a type has that name, too."""
        if schema in _BUILT_IN and self.is_built_in_type(name):
            return True
        return self.catalog is not None and bool(self.catalog.type(schema, name))

    def judge(self, schema: str, name: str, arguments: int, among: Sequence[Callable] | None = None) -> Refusal | None:
        """Say why a function may not be called with so many arguments; None when it may, as far as that tells.

        `among`: those of the database's functions that can be meant; None: all that take so many. The caller still
        looks at the arguments of those in SQL_TEXT_FUNCTIONS and INPUT_TYPE_FUNCTIONS, of set_config and of lo_open.
        """
        key = (schema, name, arguments, None if among is None else tuple(each.oid for each in among))
        try:
            return self._memo[key]
        except KeyError:
            pass
        refusal = self._judge(schema, name, arguments, among)
        if self._remember:
            if len(self._memo) >= MAX_PLAIN:
                self._memo.clear()
            self._memo[key] = refusal
        return refusal

    def _judge(self, schema: str, name: str, arguments: int, among: Sequence[Callable] | None = None) -> Refusal | None:
        denied = self._denied(schema, name)
        if denied is not None:
            return denied
        if schema in _BUILT_IN and self._is_stranger(schema, name):
            return None if self._allow.match("pg_catalog", name, exact=True) else _stranger(name)
        function = self._find(schema, name)
        if function is not None:
            return self._built_in(name, function) or self._tainted(schema, name, arguments, among)
        return self._judge_others(schema, name, arguments, among)

    def _denied(self, schema: str, name: str) -> Refusal | None:
        """Refuse a function that the operator denies, or that calls one."""
        shown = dotted(schema, name)
        if self._deny.match(schema, name, unqualified=True):
            return _refusal(
                "denied-function",
                shown,
                f"The operator lists {shown} in filter.deny_functions (rule: denied-function).",
                _ASSIGNED if name in tables.TRANSACTION_ID_FUNCTIONS else "",
            )
        if schema in _BUILT_IN and ("function", name) in self._callers:
            return self._denied_caller("function", name, shown)
        return None

    def _judge_others(self, schema: str, name: str, arguments: int, among: Sequence[Callable] | None) -> Refusal | None:
        """Judge a function whose name is not built in."""
        shown = dotted(schema, name)
        extension = tables.EXTENSIONS.get(shown) or tables.EXTENSIONS.get(name)
        if schema == "information_schema" and extension is not None and extension.extension == schema:
            return None
        if self.catalog is None:
            return self._guess(schema, name, shown, extension)
        if self.catalog.function(schema, name, arguments):
            return self._tainted(schema, name, arguments, among)
        if self._allow.match(schema, name):
            return None
        plural = "argument" if arguments == 1 else "arguments"
        return Refusal(
            "unknown-function",
            f"function {shown} does not exist",
            f"Neither PostgreSQL nor this database, as its catalogue was last read, has a function {shown} that takes"
            f" {arguments} {plural} (rule: unknown-function).",
            f"If it was created a moment ago, try again. {allow_line(shown)}",
            errors.UNDEFINED_FUNCTION,
            shown,
        )

    def _denied_caller(self, kind: str, name: str, shown: str) -> Refusal:
        detail = f"The {kind} {shown} calls {self._callers[kind, name]}, which the operator lists in"
        return Refusal(
            "denied-function",
            f"permission denied for {kind} {shown}: SideCart forwards reads only",
            f"{detail} filter.deny_functions (rule: denied-function).",
            object=shown,
        )

    def _is_stranger(self, schema: str, name: str) -> bool:
        """Tell whether a name is one of pg_catalog's, and of a function that no table knows."""
        if self.catalog is not None:
            return name in self.catalog.strangers
        return schema == "pg_catalog" and name not in tables.FUNCTIONS and name not in tables.TYPES

    def operator(self, schema: str, name: str) -> Refusal | None:
        """Say why an operator of pg_catalog may not be used, whatever its operands are.

        It calls a denied function, or leads to what is no read.
        """
        if schema in _BUILT_IN and ("operator", name) in self._callers:
            return self._denied_caller("operator", name, name)
        return self._led(schema, name)

    def relation(self, schema: str, name: str) -> Refusal | None:
        """Say why a built-in view may not be read: it calls a function that is refused or denied."""
        calls = tables.CALLED.get(("view", name))
        if calls is None or schema not in _VIEWS:
            return None
        if ("view", name) in self._callers:
            return self._denied_caller("view", name, name)
        for called in calls & _REFUSED:
            refusal = self._built_in(called, tables.FUNCTIONS[called])
            if refusal is not None:
                text = f"permission denied for view {name}: SideCart forwards reads only"
                return refusal._replace(message=text, object=name)
        return None

    def remember_plain(self, schema: str, name: str, oid: int) -> None:
        """Keep that a relation needs no second look."""
        if self._remember:
            if len(self.plain_relations) >= MAX_PLAIN:
                self.plain_relations.clear()
            self.plain_relations.add((schema, name, oid))

    def _tainted(
        self, schema: str, name: str, arguments: int, among: Sequence[Callable] | None = None
    ) -> Refusal | None:
        """Refuse a call that can mean a function of the database that is no read."""
        if self.catalog is None:
            return None
        found = self.catalog.function(schema, name, arguments) if among is None else among
        taint = self.catalog.taint(FUNCTION, found)
        refusal = None if taint is None else unproved("unproved-function", taint)
        return refusal or self._led(schema, name)

    def _led(self, schema: str, name: str) -> Refusal | None:
        """Refuse a function or operator of pg_catalog that leads to what is no read."""
        if self.catalog is None or name not in LEADS or schema not in _BUILT_IN:
            return None
        kind, _ = LEADS[name]
        taint = self.catalog.taints.get(LEADS[name])
        return None if taint is None else unproved("unproved-cast" if kind == CAST_TO else "unproved-function", taint)

    def _guess(self, schema: str, name: str, shown: str, extension: tables.Extension | None) -> Refusal | None:
        """Judge a name that is not built in without a catalogue."""
        twin = tables.FUNCTIONS.get(name)
        risky = (extension is not None and extension.verdict != "allow") or (
            twin is not None and twin.verdict != "allow"
        )
        # A pattern with a * cannot have meant dblink_exec or a function that is called like a refused built-in one.
        if self._allow.match(schema, name, exact=risky):
            return None
        if twin is not None and twin.verdict == "block":
            return _refusal(
                "side-effect-function",
                shown,
                f"The function {shown} bears the name of pg_catalog.{name}, which does more than read"
                " (rule: side-effect-function).",
            )
        if extension is not None and extension.verdict == "block":
            return _refusal(
                "extension-function",
                shown,
                f"The function {shown} of the extension {extension.extension} does more than read"
                " (rule: extension-function).",
            )
        known = "" if extension is None else f" It may belong to the extension {extension.extension}."
        soon = "The catalogue of this database has not been read yet: try again in a moment. "
        return _refusal(
            "unknown-function",
            shown,
            f"The function {shown} is not built in, and nothing says that it only reads"
            f" (rule: unknown-function).{known}",
            (soon if self._policy.live else "") + allow_line(shown),
        )

    def _built_in(self, name: str, function: tables.Function) -> Refusal | None:
        shown = f"pg_catalog.{name}"
        if function.takes_type:
            return _refusal(
                "input-function",
                name,
                f"The input function {shown} takes a type's OID and runs that type's checks (rule: input-function).",
                "Write a cast instead.",
            )
        if name in tables.ADVISORY_LOCKS:
            return _refusal(
                "advisory-lock",
                name,
                f"The function {shown} takes a lock that can stall other sessions (rule: advisory-lock).",
                "Take it on a connection that does not go through SideCart.",
            )
        if function.group == "file" and function.verdict == "block":
            return _refusal(
                "file-function", name, f"The function {shown} reads files of the server (rule: file-function)."
            )
        if function.group == "other_clients":
            return _refusal(
                "other-clients",
                name,
                f"The function {shown} shows what other clients left on the connection (rule: other-clients).",
            )
        if function.verdict == "block":
            return _refusal(
                "side-effect-function",
                name,
                f"The function {shown} does more than read (rule: side-effect-function).",
            )
        return None

    def is_attribute(self, name: str) -> bool:
        """Tell whether `x.name` needs a second look: where x has no such column it calls a function, or casts."""
        return name in self.attributes or self._is_denied(name)

    def _is_denied(self, name: str) -> bool:
        return self.denies and (self._deny.match("", name, unqualified=True) or ("function", name) in self._callers)

    def attribute(self, name: str, among: Sequence[Callable]) -> Refusal | None:
        """Say why `x.name` may not be written where x has no such column: it would call a refused function, or cast.

        `among` are those of the database's functions that can be meant.
        """
        refusal = None
        if name in self._refused_attributes or self._is_denied(name) or self._is_stranger("", name):
            refusal = self.judge("", name, 1)
            if refusal is None:
                refusal = _refusal(
                    "sql-text-function", name, f"The function {name} runs SQL given as text (rule: sql-text-function)."
                )
        elif self.catalog is not None:
            refusal = self._tainted("", name, 1, among)
            taint = None if refusal else self.catalog.taint(TYPE, self.catalog.type("", name))
            if taint is not None:
                refusal = unproved("unproved-type", taint)
        if refusal is None:
            return None
        return refusal._replace(
            detail=f"{refusal.detail} A column of that name is written in the same way as a call of the function."
        )

    def fastpath(self, oid: int, formats: Sequence[int], arguments: Sequence[bytes | None]) -> Refusal | None:
        """Say why a FunctionCall message may not call this OID; None when it reads a large object."""
        name = tables.FASTPATH_READS.get(oid)
        if name is None:
            name = tables.FASTPATH_WRITES.get(oid, "")
            which = name or f"with OID {oid}"
            detail = f"The function {which} is not one of those that read large objects (rule: fastpath)."
            hint = ELSEWHERE if name else "Call functions by SQL."
            return _refusal("fastpath", which, detail, hint)._replace(object=name)
        if self._deny.match("pg_catalog", name):
            return _refusal("fastpath", name, "The operator has switched off reading large objects (rule: fastpath).")
        if oid == tables.LO_OPEN and not _opens_for_reading(formats, arguments):
            detail = "lo_open needs its mode as 4 bytes in binary format, without INV_WRITE (rule: fastpath)."
            return _refusal("fastpath", name, detail)
        return None

    def json_casts(self) -> Refusal | None:
        """Say why what SQL/JSON's functions cast may not be cast."""
        taints = () if self.catalog is None else (self.catalog.taints.get((CAST_TO, oid)) for oid in tables.JSON_CASTS)
        found = [taint for taint in taints if taint is not None]  # while bodies are proved, each one is asked for
        return unproved("unproved-cast", found[0]) if found else None

    def keyword(self, name: str, since: int) -> Refusal | None:
        """Say why a keyword that PostgreSQL has since `since` may not be used on this server; None when it may."""
        if self.denies:
            for called in tables.KEYWORD_CALLS.get(name, ()):
                if self._is_denied_built_in(called):
                    return self._judge("pg_catalog", called, 1)
        if self._version == 0 or self._version >= since or self._allow.match("", name):
            return None
        if self.catalog is not None and self.catalog.functions.get(name):
            taint = self.catalog.taint(FUNCTION, self.catalog.functions[name])
            return None if taint is None else unproved("unproved-function", taint)
        return _refusal(
            "keyword-function",
            name,
            f"Before PostgreSQL {since}, {name} is the name of a function that is not built in"
            " (rule: keyword-function).",
            allow_line(name),
        )

    def shadow(self) -> Taint | None:
        """Give a taint that a search_path with pg_catalog last would put in the place of a built-in."""
        catalog = self.catalog
        if catalog is None:
            return None
        twins = (
            found
            for name in catalog.functions.keys() & tables.FUNCTIONS
            for found in catalog.functions[name]
            if found.twin
        )
        types = [found for name in catalog.types.keys() & tables.TYPES for found in catalog.types[name]]
        operators = (found for found in _tainted_operators(catalog) if found.twin)
        taint = catalog.taint(FUNCTION, twins) or catalog.taint(OPERATOR, operators)
        return taint or catalog.taint(TYPE, types) or self._mistaken(catalog, types)

    def _mistaken(self, catalog: Catalog, types: Sequence[Type]) -> Taint | None:
        """Give a taint that an operand can reach whose type is taken for the built-in one of its name."""
        if all(found.schema == "pg_catalog" for found in types):
            return None
        overloads = (found for name in catalog.functions.keys() & tables.FUNCTIONS for found in catalog.functions[name])
        return catalog.taint(OPERATOR, _tainted_operators(catalog)) or catalog.taint(FUNCTION, overloads)

    def allows_operator(self, schema: str, name: str) -> bool:
        """Tell whether the operator of SideCart lists this operator of SQL as a read."""
        return self._allow.match(schema, name)


def _tainted_operators(catalog: Catalog) -> Iterator[Operator]:
    return (found for name in catalog.tainted_operators for found in catalog.operators.get(name, ()))


def _refusal(rule: str, shown: str, detail: str, hint: str = "") -> Refusal:
    text = f"permission denied for function {shown}: SideCart forwards reads only"
    return Refusal(rule, text, detail, hint, object=shown)


def _stranger(name: str) -> Refusal:
    return _refusal(
        "unknown-built-in",
        f"pg_catalog.{name}",
        f"The function pg_catalog.{name} is unknown to this version of SideCart, and nothing says that it only reads"
        " (rule: unknown-built-in).",
        f"A newer version of SideCart may know it. {allow_line(f'pg_catalog.{name}')}",
    )


def _opens_for_reading(formats: Sequence[int], arguments: Sequence[bytes | None]) -> bool:
    # Arguments are converted as Bind's are (tcop/fastpath.c): in text format "131072" is INV_WRITE, so only the four
    # bytes of a binary integer will do.
    if len(arguments) != 2 or len(formats) not in (1, 2) or formats[-1] != 1:
        return False
    mode = arguments[1]
    return mode is not None and len(mode) == 4 and not int.from_bytes(mode, "big") & tables.INV_WRITE

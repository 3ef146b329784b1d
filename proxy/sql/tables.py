"""The tables the filter reads: parse-tree nodes, statements, functions, settings, rule names. Data, no logic.

The long tables are tab-separated files in `proxy/data/`:

- `nodes.tsv`: every node class of pglast 8.7 and, for those the filter lets through, every field with what stands in
  it. It was generated from pglast's own definitions (`pglast.ast.*.__slots__`, which carry the C types); a test
  compares the two, so that a new pglast cannot bring a node or a field that nobody looked at.
- `functions.tsv` (PostgreSQL 15), `functions_16plus.tsv`, `functions_more.tsv` (what pg_proc of 13 to 18 holds beyond
  them), `functions_ext.tsv` (extensions): the verdict for each function by name.
- `functions_types.tsv`: from pg_proc of 13 to 18: argument and result types, to tell which overload a call means.
- `functions_arguments.tsv`: what becomes of arguments that can hold SQL or name something, for each signature with
  texts, names or OIDs: of pg_proc of 13 to 18 and of extensions' functions that no body proves. See `ARGUMENTS`.
- `functions_symbols.tsv`: from 13 to 18: the OIDs of functions that do more than read, and what they are called in C
  where that is not their name.
- `functions_calls.tsv`: from 13 to 18: which built-in functions those written in SQL, views and operators call.
- `extensions.tsv`: extensions, the version that was read and from what; whether labels on functions in C are believed,
  the exceptions among them, and what SQL the others run; what there is to it.
- `functions_shape.tsv`: from pg_proc of 13 to 18: the first and last version that has the function, whether a refused
  one can be called with one argument (and so as an attribute), whether it is an input function that takes a type's OID.
- `settings.tsv`: the settings a client may change, and to which values.
- `types.tsv`: the built-in types: a cast written as a function call carries a type's name.
"""

from __future__ import annotations

from importlib import resources
from typing import NamedTuple

from proxy.errors import INSUFFICIENT_PRIVILEGE, READ_ONLY_SQL_TRANSACTION
from proxy.sql import conversions


class Refusal(NamedTuple):
    """Hold what a refused client reads, apart from the position."""

    rule: str
    message: str
    detail: str
    hint: str = ""
    sqlstate: str = INSUFFICIENT_PRIVILEGE
    object: str = ""
    """The function, relation, type, operator or setting that it is about, as filter.allow_functions takes it.

    It goes into the log: a name in the text or the catalogue, never a constant's or a parameter's value.
    """
    lacks: bool = False
    """Whether that is refused for want of something that its own text names."""


COMMAND = "\x01"
"""Stands in a refusal for the command's name, which is read from the text when it is known where it begins."""


NO_POSITION = -2
"""In a Refused: the server's own error has no position."""


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """Carry a refusal out of the judging of one text. `location` is a byte offset of the UTF-8 text; -1: unknown."""

    def __init__(self, refusal: Refusal, location: int = -1, word: str = "") -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.location = location
        self.word = word


RULES: dict[str, str] = {
    "nul-byte": "A query text contains no NUL byte, because the parser and the server would see different texts.",
    "encoding": "A query text is valid in the client's encoding, which is one in which no byte of a character can be a"
    " quote or a backslash.",
    "length": "A query text is no longer than client.max_query_length.",
    "depth": "A query's expressions are nested no deeper than the parser and the filter can safely follow.",
    "operator-run": "A query text holds no endless run of operator characters: the lexer takes very long to read them.",
    "syntax": "A query text is one that PostgreSQL's own grammar accepts.",
    "several-statements": "A prepared statement holds one statement.",
    "execute-of-execute": "SQL executes no prepared statement that is an EXECUTE or FETCH itself.",
    "fetch-of-fetch": "A FETCH takes no rows of a portal that has them from an EXECUTE or another FETCH.",
    "late-portal": "A portal of EXECUTE or FETCH first runs right behind its Bind.",
    "other-letters": "A name of a prepared statement or portal outside ASCII is said in the server's encoding.",
    "unknown-statement": "A statement is of a kind that the filter knows to be a read.",
    "unknown-node": "An expression consists of parts that the filter knows.",
    "unknown-field": "A part of a statement has only those properties that the filter knows.",
    "data-modification": "INSERT, UPDATE, DELETE, MERGE and TRUNCATE are refused at any depth.",
    "ddl": "Statements that create, alter, drop or grant are refused.",
    "select-into": "SELECT INTO creates a table.",
    "row-lock": "SELECT ... FOR UPDATE or FOR SHARE locks rows of other sessions, and writes to them.",
    "table-lock": "LOCK TABLE is a read only IN ACCESS SHARE MODE.",
    "copy-from": "COPY ... FROM writes a table.",
    "copy-file": "COPY is a read only TO STDOUT; a file belongs to the server.",
    "copy-program": "COPY ... PROGRAM runs a command on the server.",
    "two-phase": "Two-phase transactions outlive their session and keep locks.",
    "procedure": "DO and CALL run code that the filter cannot see.",
    "notify": "NOTIFY writes to a queue that all sessions share.",
    "listen": "LISTEN registers in a queue that all sessions share, and needs a session of its own.",
    "maintenance": "VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT, LOAD and REFRESH change the server's files.",
    "server-setting": "ALTER SYSTEM changes the server's configuration.",
    "inner-statement": "EXPLAIN, PREPARE, DECLARE and COPY take a SELECT (EXPLAIN also DECLARE and EXECUTE).",
    "read-write": "A READ WRITE transaction is replaced by a READ ONLY one.",
    "reset-read-only": "transaction_read_only can be reset to a writable state on PostgreSQL 15 and older.",
    "setting": "Only settings that concern the session's own reading can be changed.",
    "setting-value": "Some settings can be changed only to values that keep the session readable and read-only.",
    "setting-name": "set_config takes the setting's name as a string constant, or as a parameter of a Bind.",
    "other-clients": "What shows the statements that other clients left on a shared connection is refused.",
    "side-effect-function": "Functions that do more than read are refused, however they are called.",
    "file-function": "Functions that read the server's files are refused.",
    "extension-function": "Functions of extensions that do more than read are refused.",
    "advisory-lock": "Advisory locks can stall other sessions.",
    "sql-text-function": "A function that runs SQL given as text takes a constant that is itself a single read.",
    "void-parameter": "A parameter of type void vanishes before a function is looked up, so none is given to a function"
    " that is judged by its arguments.",
    "large-object-write": "lo_open takes a constant mode without INV_WRITE.",
    "input-function": "Input functions that take a type's OID run the checks of that type.",
    "input-type": "pg_input_is_valid and pg_input_error_info take a built-in type's name as a constant.",
    "unknown-function": "A function that is not built in is refused until the operator lists it.",
    "unknown-built-in": "A function of PostgreSQL that this version of SideCart does not know is refused.",
    "unproved-function": "A function of the database is a read only if its body, and all that it calls, is one.",
    "unproved-relation": "What a view, a policy or a generated column runs has to be a read; no foreign table is one.",
    "unproved-type": "A type is a read only if its domain's CHECKs, its functions and its parts are reads.",
    "unproved-operator": "An operator of the database is a read only if its function is one.",
    "no-catalogue": "Without the catalogue of a database, only what means the same in every one is let through.",
    "unproved-cast": "A cast of the database is a read only if its function is one.",
    "unknown-relation": "A relation is one that the database had when its catalogue was last read.",
    "unknown-type": "A type is one that the database had when its catalogue was last read.",
    "unknown-operator": "An operator of a schema other than pg_catalog is refused until the operator lists it.",
    "denied-function": "The operator lists this function in filter.deny_functions.",
    "keyword-function": "On an older server this keyword is an ordinary function's name.",
    "fastpath": "The FunctionCall message may read large objects, and do nothing else.",
    "startup-parameter": "A startup parameter is a setting that the session may change.",
    "secret-catalogue": "The statement is allowed, and reads a catalogue that can hold secrets.",
    "internal": "The filter could not judge the text.",
}
"""Every rule that a verdict can name, with the sentence the documentation prints."""


def _rows(name: str) -> list[list[str]]:
    text = resources.files("proxy").joinpath("data", name).read_text("utf-8")
    return [line.split("\t") for line in text.split("\n")[1:] if line]


# ---------------------------------------------------------------------------------------------------------------------
# Nodes. What stands in a field:
SCALAR = 0  # a number, a word, a flag, or a constant: nothing to walk
NODE = 1  # a node that carries its own tag: {"FuncCall": {...}}
LIST = 2  # a list of such nodes
NAMES = 3  # a list of String or A_Star nodes
PATH = 4  # the same; the node is of interest to the filter when the list is longer than one
QUERY = 5  # a statement under EXPLAIN, PREPARE, DECLARE, COPY: the filter judges it apart

Field = int | str
"""One of the numbers above, or the name of the node that stands there without a tag, or `!rule`: refused."""

NODES: dict[str, dict[str, Field]] = {}
"""Nodes that may stand in an expression: their fields."""
STATEMENT_NODES: dict[str, dict[str, Field]] = {}
"""Nodes that may stand only as a whole statement: their fields."""
REFUSED_NODES: set[str] = set()
"""All other nodes that pglast knows."""


def _load_nodes() -> None:
    kinds: dict[str, Field] = {".": SCALAR, "node": NODE, "list": LIST, "names": NAMES, "path": PATH, "query": QUERY}
    for name, role, fields in _rows("nodes.tsv"):
        if role == "refused":
            REFUSED_NODES.add(name)
            continue
        table = NODES if role == "expression" else STATEMENT_NODES
        row = table[name] = {}
        for pair in fields.split():
            field, what = pair.split(":")
            row[field] = kinds[what] if what in kinds else what.removeprefix("=")


_load_nodes()

# ---------------------------------------------------------------------------------------------------------------------
# Statements


class Statement(NamedTuple):
    """Say how a refused kind of statement is called. An empty command is read from the text."""

    kind: str
    command: str
    rule: str


STATEMENTS: dict[str, Statement] = {
    "InsertStmt": Statement("insert", "INSERT", "data-modification"),
    "UpdateStmt": Statement("update", "UPDATE", "data-modification"),
    "DeleteStmt": Statement("delete", "DELETE", "data-modification"),
    "MergeStmt": Statement("merge", "MERGE", "data-modification"),
    "TruncateStmt": Statement("truncate", "TRUNCATE TABLE", "data-modification"),
    "CallStmt": Statement("call", "CALL", "procedure"),
    "DoStmt": Statement("do", "DO", "procedure"),
    "NotifyStmt": Statement("notify", "NOTIFY", "notify"),
    "ListenStmt": Statement("listen", "LISTEN", "listen"),
    "VacuumStmt": Statement("maintenance", "", "maintenance"),
    "ClusterStmt": Statement("maintenance", "CLUSTER", "maintenance"),
    "ReindexStmt": Statement("maintenance", "REINDEX", "maintenance"),
    "RefreshMatViewStmt": Statement("maintenance", "REFRESH MATERIALIZED VIEW", "maintenance"),
    "CheckPointStmt": Statement("maintenance", "CHECKPOINT", "maintenance"),
    "LoadStmt": Statement("maintenance", "LOAD", "maintenance"),
    "AlterSystemStmt": Statement("alter_system", "ALTER SYSTEM", "server-setting"),
    "CreateTableAsStmt": Statement("ddl", "", "ddl"),
    "GrantRoleStmt": Statement("ddl", "", "ddl"),
    "PLAssignStmt": Statement("unknown", "", "unknown-statement"),
    "ReturnStmt": Statement("unknown", "RETURN", "unknown-statement"),
    "SetOperationStmt": Statement("unknown", "", "unknown-statement"),
}
OTHER_STATEMENT = Statement("ddl", "", "ddl")
"""Every other `…Stmt` of pglast is DDL; a kind that pglast adds is refused as such, too."""

KINDS: dict[str, str] = {
    "SelectStmt": "select",
    "VariableShowStmt": "show",
    "ExplainStmt": "explain",
    "CopyStmt": "copy",
    "DeclareCursorStmt": "declare",
    "FetchStmt": "fetch",
    "ClosePortalStmt": "close",
    "PrepareStmt": "prepare",
    "ExecuteStmt": "execute",
    "DeallocateStmt": "deallocate",
    "DiscardStmt": "discard",
    "LockStmt": "lock",
    "ConstraintsSetStmt": "set_constraints",
    "UnlistenStmt": "unlisten",
    "VariableSetStmt": "set",
}
TRANSACTION_KINDS: dict[str, str] = {
    "TRANS_STMT_BEGIN": "begin",
    "TRANS_STMT_START": "begin",
    "TRANS_STMT_COMMIT": "commit",
    "TRANS_STMT_ROLLBACK": "rollback",
    "TRANS_STMT_SAVEPOINT": "savepoint",
    "TRANS_STMT_RELEASE": "release",
    "TRANS_STMT_ROLLBACK_TO": "rollback_to",
}
"""The kinds of TransactionStmt that are allowed; the others are two-phase."""
ISOLATION_LEVELS = frozenset({"read uncommitted", "read committed", "repeatable read", "serializable"})
CURSOR_OPT_HOLD = 0x0020  # nodes/parsenodes.h
ACCESS_SHARE_LOCK = 1  # storage/lockdefs.h

KEYWORD_FUNCTIONS: dict[str, tuple[str, int]] = {
    "JsonObjectConstructor": ("json_object", 16),
    "JsonArrayConstructor": ("json_array", 16),
    "JsonArrayQueryConstructor": ("json_array", 16),
    "JsonObjectAgg": ("json_objectagg", 16),
    "JsonArrayAgg": ("json_arrayagg", 16),
    "JsonParseExpr": ("json", 17),
    "JsonScalarExpr": ("json_scalar", 17),
    "JsonSerializeExpr": ("json_serialize", 17),
    "JsonTable": ("json_table", 17),
    "JsonFuncExpr": ("", 17),  # its `op` says which
}
"""Keywords of this parser that were names of ordinary functions before the given major version of PostgreSQL."""
KEYWORD_CALLS: dict[str, tuple[str, ...]] = {
    "json_objectagg": tuple(
        f"{json}_object_agg{form}"
        for json in ("json", "jsonb")
        for form in ("", "_strict", "_unique", "_unique_strict")
    ),
    "json_arrayagg": ("json_agg", "json_agg_strict", "jsonb_agg", "jsonb_agg_strict"),
}
"""The aggregates that such a keyword stands for (transformJsonObjectAgg(), parser/parse_expr.c), with their rights."""
SAMPLE_METHODS = frozenset({"bernoulli", "system", "system_rows", "system_time"})
SECRET_RELATIONS = frozenset({"pg_authid", "pg_shadow", "pg_user_mapping", "pg_user_mappings", "pg_subscription"})
"""Catalogues and views that hold password hashes and connection strings. A role that may read them (pg_read_all_data
may) hands them to every client."""


# ---------------------------------------------------------------------------------------------------------------------
# Functions


class Function(NamedTuple):
    """Say what is known of one built-in function's name. Versions are majors; 0 means no bound."""

    group: str
    verdict: str
    since: int = 0
    until: int = 0
    one_argument: bool = False
    takes_type: bool = False


def _load_functions() -> dict[str, Function]:
    plain: dict[str, tuple[str, str, int]] = {}
    for name, since, group, verdict, _ in _rows("functions_more.tsv"):
        plain[name] = (group, verdict, int(since))
    for name, since, group, verdict, _ in _rows("functions_16plus.tsv"):
        plain[name] = (group, verdict, int(since))
    for name, _, _, group, verdict, _, _ in _rows("functions.tsv"):
        plain[name] = (group, verdict, 0)
    shapes = {name: (since, until, shape) for name, since, until, shape in _rows("functions_shape.tsv")}
    found: dict[str, Function] = {}
    for name, (group, verdict, listed) in plain.items():
        if name in shapes:
            since, until, shape = shapes[name]
            found[name] = Function(
                group, verdict, int(since or 0), int(until or 0), "one_argument" in shape, "input" in shape
            )
        else:
            found[name] = Function(group, verdict, listed)
    return found


FUNCTIONS: dict[str, Function] = _load_functions()
"""pg_catalog's functions of PostgreSQL 13 to 18, by name."""

OIDS: dict[int, set[str]] = {}
"""The built-in functions in C that do more than read, or can: a row of pg_proc may bear another name by now. Some have
had several."""
_SYMBOLS: dict[str, set[str]] = {}
for _name, _oids, _symbols in _rows("functions_symbols.tsv"):
    for _oid in _oids.split():
        OIDS.setdefault(int(_oid), set()).add(_name)
    for _symbol in _symbols.split():
        _SYMBOLS.setdefault(_symbol, set()).add(_name)


def bearers(symbol: str) -> set[str]:
    """Give the names under which PostgreSQL has a function in C (an `internal` one's prosrc), if they matter."""
    return _SYMBOLS.get(symbol, set()).union({symbol} & FUNCTIONS.keys())


TEXT_SEARCH_FUNCTIONS = frozenset(
    {"to_tsvector", "json_to_tsvector", "jsonb_to_tsvector", "to_tsquery", "plainto_tsquery", "phraseto_tsquery"}
    | {"websearch_to_tsquery", "ts_headline", "ts_lexize", "ts_parse", "ts_token_type", "ts_debug"}
    | {"ts_match_tt", "ts_match_tq"}
)
TEXT_SEARCH_OPERATORS = frozenset({"@@", "@@@"})
"""What calls a text search parser's functions, or a dictionary's."""
CASTS_TO_TEXT = frozenset({"quote_literal", "quote_nullable", "textanycat", "anytextcat", "||"})
"""Functions in SQL with a polymorphic argument that their bodies cast to text, and their operator (pg_proc.dat)."""
TEXT_OID = 25  # pg_type.dat
JSON_OIDS = (114, 3802)  # json, jsonb
JSON_CASTS = (*JSON_OIDS, TEXT_OID, 17)  # bytea is the last
"""What SQL/JSON's functions cast their arguments to, and their results, without a word (parser/parse_expr.c)."""

CALLS: dict[str, tuple[str, frozenset[str]]] = {
    name: (returns, frozenset(signatures.split())) for name, returns, signatures in _rows("functions_types.tsv")
}
"""For names of pg_catalog's functions: the type that all of that name return on PostgreSQL 13 to 18 (empty: several, or
a polymorphic one), and the lists of argument types, separated by commas, that all those versions have."""


class Extension(NamedTuple):
    """Say what is known of an extension's function."""

    extension: str
    verdict: str
    group: str


EXTENSIONS: dict[str, Extension] = {
    name: Extension(extension, verdict, group) for extension, name, group, verdict, _ in _rows("functions_ext.tsv")
}
"""Functions of extensions by `name` or `schema.name`; they hold only where the function belongs to the extension."""

READING_EXTENSIONS: dict[str, frozenset[str]] = {
    name: frozenset(liars.split()) for name, _, _, labels, liars, _, _ in _rows("extensions.tsv") if labels
}
"""Extensions whose functions in C only read if they are declared IMMUTABLE or STABLE, apart from those named here."""

SEEN_EXTENSIONS: dict[str, str] = {name: seen for name, _, seen, _, _, _, _ in _rows("extensions.tsv")}
"""From what it was read what an extension does, of all that RDS offers and Debian packages: `installed` (its objects,
where it has been created), `published` (its source), `documented`, or `name` (nothing but that it is there)."""

RUN_BY_EXTENSIONS: dict[str, str] = {name: sql for name, _, _, _, _, sql, _ in _rows("extensions.tsv") if sql}
"""What functions in C of an extension run as SQL, as PostGIS looks up a reference system, in one statement that names
what theirs name: it is looked up under the session's search_path, where `||` can be anybody's, and the relation's owner
can give it a policy, which calls what he likes."""

TYPES: dict[str, tuple[int, int]] = {
    name: (int(since or 0), int(until or 0)) for name, since, until in _rows("types.tsv")
}
"""Built-in base, range and multirange types, with the first and last version that has them (0: no bound)."""
TYPE_ALIASES = frozenset(
    {"int", "integer", "smallint", "bigint", "real", "double precision", "decimal", "boolean", "character", "char"}
    | {"character varying", "bit varying", "timestamp with time zone", "timestamp without time zone"}
    | {"time with time zone", "time without time zone", "float"}
)

ADVISORY_LOCKS = frozenset(
    f"pg_{how}advisory_{until}lock{shared}"
    for how in ("", "try_")
    for until in ("", "xact_")
    for shared in ("", "_shared")
)
"""Functions that take an advisory lock."""
ARGUMENTS: dict[tuple[str, str, str], str] = {
    (extension, name, signature): what
    for extension, name, what, signatures in _rows("functions_arguments.tsv")
    for signature in signatures.split()
}
"""What a function does with those of its arguments that can hold SQL, or a name or an OID of something, by extension
(pg_catalog for the built-in ones), name and signature. The first word says it; positions follow:

- `data`: they are values, and mean nothing but themselves.
- `describes`: it looks the object up and tells what catalogues, statistics or its pages say; nothing of it runs.
- `sql`: it runs the text as a query.
- `relation`, `schema`, `database`: it reads the rows of that relation, or of all in there.
- `code`: it computes expressions of that table's indexes or partition key, or calls their operator classes.
- `type`, `input`: it runs the input function of a type, and a domain's CHECKs.
- `setting`: it changes a setting. `cursor`: it fetches from a cursor of this session. `large_object`: it opens one.
- `search`: it calls a parser or dictionary of text search: code in C that a superuser installed.
- `runs`, `function`: it makes SQL or code of the text, or calls the function. `file`: it reads or writes one of the
  server's. `effect`: it has effects of its own. Such functions are refused whatever they are given.
"""


def _taking(what: str) -> dict[str, tuple[int, ...]]:
    """Give the functions that do this with some arguments, and the positions that those have in any signature."""
    found: dict[str, set[int]] = {}
    for (_, name, _), (first, *positions) in ((key, words.split()) for key, words in ARGUMENTS.items()):
        if first == what:
            found.setdefault(name, set()).update(map(int, positions))
    return {name: tuple(sorted(positions)) for name, positions in found.items()}


SQL_TEXT_FUNCTIONS = _taking("sql")
"""Functions that run arguments as SQL, and which ones, unless something that is no text stands there (crosstab's second
argument may be a number, pgr_dijkstra's an array). Those of extensions are to be known as the extension's, or listed in
allow_functions."""
RELATION_TEXT_FUNCTIONS = frozenset(_taking("relation"))
"""Functions that read the relation whose name, as text, is their first argument."""
SCHEMA_TEXT_FUNCTIONS = frozenset(_taking("schema"))
DATABASE_FUNCTIONS = frozenset(_taking("database"))
"""Functions that read every relation of a schema, and of the database."""
CODE_FUNCTIONS = frozenset(_taking("code"))
"""Functions that run code which belongs to a table: whose, is not known."""
INPUT_TYPE_FUNCTIONS = frozenset(_taking("type"))

CALLED: dict[tuple[str, str], frozenset[str]] = {
    (kind, name): frozenset(calls.split()) for kind, name, calls in _rows("functions_calls.tsv")
}
"""Which built-in functions a built-in `function` in SQL, a `view` or an `operator` calls on any of 13 to 18, itself or
through others; by kind and name."""
VOID, VOID_OID = "void", 2278  # pg_type.dat
VOID_FUNCTIONS = frozenset(
    {"pg_sleep", "pg_sleep_for", "pg_sleep_until", "pg_stat_clear_snapshot", "pg_stat_force_next_flush"}
    | {"setseed", "shell_in", "void_in", "pg_advisory_unlock_all"}
    | {"pg_advisory_lock", "pg_advisory_lock_shared", "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared"}
    | {"shell_out", "void_out", "void_send"}
)
"""pg_catalog's functions that return or take void, of those that can be called and may be."""
SESSION_STATE_FUNCTIONS = frozenset({"setseed", "set_limit"})
"""Functions that leave state in the session that no statement can read back."""
TRANSACTION_ID_FUNCTIONS = frozenset(name for name, function in FUNCTIONS.items() if function.group == "transaction_id")
"""Functions that give their transaction an id where it has none: the one trace that a read may leave."""

ANYARRAY_FUNCTIONS = frozenset({"array_sort", "hash_array", "hash_array_extended", "max", "min"})
"""Functions of pg_catalog that take an anyarray and call what its elements' type has for comparing or hashing."""

ANYARRAYS: dict[str, frozenset[str]] = {
    "pg_attribute": frozenset({"attmissingval"}),
    "pg_statistic": frozenset(f"stavalues{number}" for number in range(1, 6)),
    "pg_statistic_ext_data": frozenset({"stxdexpr"}),
    **dict.fromkeys(
        ("pg_stats", "pg_stats_ext_exprs"),
        frozenset({"most_common_vals", "histogram_bounds", "most_common_elems", "range_length_histogram"})
        | {"range_bounds_histogram"},
    ),
}
"""Relations of pg_catalog with columns of type anyarray, and these columns: they hold values of any type."""

STATEMENTS_VIEW, STATEMENTS_FUNCTION = "pg_prepared_statements", "pg_prepared_statement"
"""What shows the prepared statements of the session (system view): those of other clients are taken away before."""
SHARED_SCHEMA = "pg_catalog"
"""The schema with the views that show what other clients left on the connection."""

INV_WRITE = 0x20000  # libpq/libpq-fs.h
LO_OPEN = 952
FASTPATH_READS: dict[int, str] = {
    LO_OPEN: "lo_open",
    953: "lo_close",
    954: "loread",
    956: "lo_lseek",
    958: "lo_tell",
    3170: "lo_lseek64",
    3171: "lo_tell64",
}
"""pg_proc OIDs (include/catalog/pg_proc.dat) that a FunctionCall message may name."""
FASTPATH_WRITES: dict[int, str] = {
    715: "lo_create",
    955: "lowrite",
    957: "lo_creat",
    964: "lo_unlink",
    1004: "lo_truncate",
    3172: "lo_truncate64",
}
"""Those that libpq calls in this way, too, and that may not be called in any other."""

# ---------------------------------------------------------------------------------------------------------------------
# Settings: what a name may be set to. RESET and TO DEFAULT are allowed for all of them but one.
ANY = "any"
TRANSIENT = "transient"  # any value; gone with the transaction
READ_ONLY = "read_only"  # only to on; the running transaction's may never be reset
SWITCHED_ON = "on"
NOBODY = "none"
PATH_VALUE = "path"
ENCODING = "encoding"
QUOTING = "quoting"
RESET_ONLY = "reset_only"
SEED = "seed"

SETTINGS: dict[str, str] = {row[0]: row[1] for row in _rows("settings.tsv")}
"""Settings a client may change, and to what. A name that is not here, has no dot in it and does not start with one of
PLANNER_PREFIXES is refused."""
PLANNER_PREFIXES = ("enable_",)
REFUSED_PREFIXES = (
    *("pgaudit.", "auto_explain.", "rds.", "cron.", "plperl.", "plperlu.", "plpython", "plv8.", "pljava."),
    *("apg_plan_mgmt.", "pg_stat_statements.", "supautils.", "pgtle.", "aurora.", "_pq_."),
    *("postgis.gdal_", "postgis.enable_outdb_rasters", "pltcl.", "pltclu."),
)
"""Dotted settings that switch off auditing, or let an extension reach outside the database."""

RAW = "iso8859-1"
"""Python's codec for encodings that it has none for: Latin-1 under another name, which keeps every byte. The server
takes the bytes of an SQL_ASCII client for its own encoding's."""
ENCODINGS: dict[str, str] = {
    "utf8": "utf-8",
    "sqlascii": RAW,
    "muleinternal": RAW,
    "eucjp": conversions.EUC_JP,
    "eucjis2004": conversions.EUC_JIS_2004,
    "euckr": "euc_kr",
    "euccn": "gb2312",
    "euctw": RAW,
    "latin1": "latin-1",
    "latin2": "iso8859-2",
    "latin3": "iso8859-3",
    "latin4": "iso8859-4",
    "latin5": "iso8859-9",
    "latin6": "iso8859-10",
    "latin7": "iso8859-13",
    "latin8": "iso8859-14",
    "latin9": "iso8859-15",
    "latin10": "iso8859-16",
    "iso88595": "iso8859-5",
    "iso88596": "iso8859-6",
    "iso88597": "iso8859-7",
    "iso88598": "iso8859-8",
    "koi8r": "koi8-r",
    "koi8u": "koi8-u",
    "win866": "cp866",
    "win874": "cp874",
    "win1250": "cp1250",
    "win1251": "cp1251",
    "win1252": "cp1252",
    "win1253": "cp1253",
    "win1254": "cp1254",
    "win1255": "cp1255",
    "win1256": "cp1256",
    "win1257": "cp1257",
    "win1258": "cp1258",
}
"""PostgreSQL's client encodings in which every byte below 0x80 is that ASCII character, and the Python codec that
decodes them. EUC_TW, MULE_INTERNAL and SQL_ASCII have none: positions count bytes there.
SJIS, SHIFT_JIS_2004, BIG5, GBK, UHC, GB18030 and JOHAB are missing on purpose."""
ENCODING_ALIASES: dict[str, str] = {
    "unicode": "utf8",
    "iso88591": "latin1",
    "iso88592": "latin2",
    "iso88593": "latin3",
    "iso88594": "latin4",
    "iso88599": "latin5",
    "iso885910": "latin6",
    "iso885913": "latin7",
    "iso885914": "latin8",
    "iso885915": "latin9",
    "iso885916": "latin10",
    "koi8": "koi8r",
    "win": "win1251",
    "alt": "win866",
    "abc": "win1258",
    "tcvn": "win1258",
    "tcvn5712": "win1258",
    "vscii": "win1258",
    "windows866": "win866",
    "windows874": "win874",
} | {f"windows125{digit}": f"win125{digit}" for digit in range(9)}
"""Other spellings: common/encnames.c, pg_encname_tbl."""

STATEMENT_SQLSTATE = READ_ONLY_SQL_TRANSACTION
FUNCTION_SQLSTATE = INSUFFICIENT_PRIVILEGE

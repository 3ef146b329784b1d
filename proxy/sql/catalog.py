"""Hold what a database has beside the built-ins: a frozen snapshot in which the filter looks names up.

Two forms of it. `Rows` is what the system catalogues say, as `data/catalogue.sql` reads them: names, types, bodies.
`Catalog` is what remains once `prove.py` has judged those bodies: for each name the objects that it can mean, and for
each object that is no read the `Taint` that says why. The serving process keeps the second form alone.

Objects are looked up by name in every schema, whatever the search_path: it is the client's to change, so an
unqualified name is a read only if everything that it can mean is one. Where a text was printed by the server under an
empty search_path (the definition of a view, the expression of a policy), an unqualified name means the built-in alone:
such texts are judged `exact`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from proxy.sql.resolve.world import Own, Row, World
from proxy.sql.verdict import Effect

FUNCTION, RELATION, TYPE, OPERATOR, CAST = "function", "relation", "type", "operator", "cast"
CAST_TO = "cast to"
FAMILY = "operator family"
TEXT_SEARCH = "text search"
LOOKED_UP = "looked up"
INPUT, CHECK, OUTPUT, COMPARE = "input", "check", "output", "comparison"
TO_JSON, TO_TEXT = "cast to json", "cast to text"
ROLES = (INPUT, CHECK, OUTPUT, COMPARE, TO_JSON, TO_TEXT)
"""What a type's own code is for: what a statement runs of a type is seldom all of it."""
Key = tuple[str, int]
"""An object: its kind, and its OID. CAST_TO has a type's: it stands for the casts to this type that have to be written,
which a value's own type and its columns do not run. A role has a type's, too: it stands for what runs of the type in
that role, where TYPE stands for all that it has; only types that are no reads have any. TEXT_SEARCH has OID 0 alone: it
stands for all dictionaries and parsers. LOOKED_UP is the SQL in an extension's C, by its place in
rules.RUN_BY_EXTENSIONS."""

FIRST_NORMAL_OID = 16384
"""FirstNormalObjectId (access/transam.h): the objects that initdb made are below it."""

UNREADABLE = "\0"
"""Stands for a text that the server did not print, because the object was being dropped. The filter lets no text with
this byte in it pass, so that nothing can be proved of it."""

ANY_NUMBER = 1 << 20
"""More arguments than any call has: the upper bound of a variadic function's."""


# -- what the system catalogues say ------------------------------------------------------------------------------------


class FunctionRow(NamedTuple):
    """One row of pg_proc that is not built in: of another schema, or with an OID that initdb did not give."""

    oid: int
    schema: str
    name: str
    kind: str
    """prokind: f function, a aggregate, w window function, p procedure."""
    language: str
    volatility: str
    """provolatile: i, s or v. Believed of extensions' functions in C only."""
    arguments: tuple[int, ...]
    """The types of the input arguments."""
    defaults: int
    """How many of the last arguments may be left out."""
    variadic: bool
    returns: tuple[int, ...]
    """The result type, then those of OUT and TABLE columns, then an aggregate's types of states."""
    trigger: bool
    """It returns trigger or event_trigger, so no statement can call it."""
    source: str
    """prosrc; empty for a body in SQL-standard form."""
    definition: str
    """pg_get_functiondef for SQL and PL/pgSQL: the whole CREATE FUNCTION, with its arguments' names and defaults,
    and the body of a function in SQL-standard form, all printed under an empty search_path. Else empty."""
    default_expressions: str
    """pg_get_expr(proargdefaults): a comma-separated list, exact. Empty without defaults."""
    settings: tuple[str, ...]
    """proconfig: `name=value`."""
    extension: str
    """The extension that owns it by pg_depend (deptype e), or empty."""
    support: tuple[int, ...]
    """Functions that run when this one does, or when it is planned: its support function, an aggregate's transition,
    final, combine, serial and moving functions (built-in ones, too), and what pg_depend says that a body in
    SQL-standard form and the arguments' defaults call: through operators and casts as well, which the printed text need
    not show."""
    definer: int = 0
    """The role that it runs as: its owner, where it is SECURITY DEFINER."""


class RelationRow(NamedTuple):
    """One row of pg_class that a FROM can name: tables, views, materialised views, foreign and partitioned tables."""

    oid: int
    schema: str
    name: str
    kind: str
    """relkind: r, p, v, m, f; S for sequences, which a FROM can name, too."""
    row_type: int
    """reltype: the composite type of its rows; 0 for none."""
    definition: str
    """A view's SELECT by pg_get_viewdef, exact. Empty for everything else; a materialised view runs nothing."""
    expressions: tuple[str, ...]
    """What reading a row evaluates: policies for SELECT where row security is on, virtual generated columns; exact."""
    children: tuple[int, ...]
    """Relations that are read with it: partitions and inheriting tables."""
    server: str
    """The foreign server, empty for a local relation."""
    functions: tuple[int, ...]
    """Functions outside the built-ins that planning or doing a read can run, by pg_depend: of CHECK constraints,
    indexes, extended statistics, partition keys (the parents', too), policies for SELECT, virtual generated columns
    and, for views, of the rewrite rule."""
    operators: tuple[int, ...]
    """The same for operators."""
    column_types: tuple[int, ...]
    """The types of its columns that are not built in, and, of a view that was not printed, those that its tree has."""
    columns: tuple[str, ...]
    """Those of its column names that are also the name of a function outside the built-ins with one argument, or of
    such a type, or stand in the list of names that the query was given: `x.name` is no call where x has the column.
    All of them, where one is of a type that is not built in."""
    own_columns: tuple[tuple[str, int], ...] = ()
    """The columns of such types, and the types."""
    types: Mapping[str, str | None] | None = None
    """The names of its columns' types, as far as they are built in; None: not known."""
    extension: str = ""


class TypeRow(NamedTuple):
    """One row of pg_type. For built-in types only oid, schema, name and kind are filled in."""

    oid: int
    schema: str
    name: str
    kind: str
    """typtype: b base, c composite, d domain, e enum, m multirange, p pseudo, r range."""
    parts: tuple[int, ...]
    """Types it is made of and that are not built in: a domain's base, an array's element, a composite's columns, a
    range's subtype."""
    expressions: tuple[str, ...]
    """A domain's CHECKs, with VALUE in them, and its default; exact."""
    functions: tuple[int, ...]
    """Its input, output, receive, send, typmod, subscript and range functions outside the built-ins; what its
    expressions call; the functions of its default operator classes, which ORDER BY, GROUP BY and DISTINCT call without
    naming them."""
    sorting: tuple[int, ...] = ()
    """Those of its default operator classes alone."""
    inputs: tuple[int, ...] = ()
    """Those alone that make a value of a text, of bytes that were sent, or of a modifier."""
    outputs: tuple[int, ...] = ()
    """Those alone that write out a value or a modifier, or send it."""
    base: int = 0
    """The type that a domain is over."""
    element: int = 0
    """The type of an array's elements."""
    category: str = ""
    preferred: bool = False
    """typcategory and typispreferred: which of several functions or operators takes a value."""
    extension: str = ""


class OperatorRow(NamedTuple):
    """One row of pg_operator that is not built in. `left` is 0 for a prefix operator."""

    oid: int
    schema: str
    name: str
    left: int
    right: int
    function: int
    support: tuple[int, ...] = ()
    """Its estimators, the functions of its commutator and its negator, and of theirs, which the planner puts in its
    place, and all of the operator families of btree and hash that have one of them: sorting, merging and hashing call
    those."""
    replaces: bool = False
    """Whether it is the commutator or negator of an operator of pg_catalog's, so that the planner puts it in the place
    of that one."""
    result: int = 0
    extension: str = ""


class FamilyRow(NamedTuple):
    """One row of pg_opfamily that is used where nobody names anything of it.

    It has operators of pg_catalog, or a class in it is the default of a built-in type that had none, as json.
    """

    oid: int
    schema: str
    name: str
    functions: tuple[int, ...]
    """What was put into it: support functions, and the functions of operators that are not built in."""
    extension: str = ""


class CastRow(NamedTuple):
    """One row of pg_cast that is not built in, and calls a function or is implicit."""

    oid: int
    source: int
    target: int
    function: int
    """0: none, the value stays as it is or goes through its text form."""
    context: str
    """castcontext: i implicit, a in assignments, e explicit only."""
    extension: str = ""


class UserRow(NamedTuple):
    """A role that bodies run as, as far as it decides which schemas of a search_path count."""

    oid: int
    """0: that of the session."""
    name: str
    usable: frozenset[int]
    """The schemas that it has USAGE on."""


class BuiltIn(NamedTuple):
    """A built-in function that something of the user's calls without naming it: its verdict goes by its name.

    An aggregate over set_config or an operator over lo_unlink needs no superuser.
    """

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Rows:
    """Hold one reading of the system catalogues, taken in one transaction."""

    version: int
    """server_version_num."""
    database: str
    encoding: str = "UTF8"
    """The database's own encoding, as the server calls it."""
    role: str = ""
    """The role that SideCart logs in with."""
    begins_with: str = ""
    """The search_path that a session of the role begins with, as the setting has it."""
    path: tuple[int, ...] = ()
    """The schemas in it that are there and that the role has USAGE on, in their order, pg_catalog among them."""
    users: tuple[UserRow, ...] = ()
    """The session's, and the owners of functions that are SECURITY DEFINER."""
    own: Own | None = None
    """What parse analysis looks up; None: the version is not known."""
    unprinted: int = 0
    """How many objects the server could not print, because another session had a lock: see data/catalogue.sql."""
    functions: tuple[FunctionRow, ...] = ()
    relations: tuple[RelationRow, ...] = ()
    types: tuple[TypeRow, ...] = ()
    operators: tuple[OperatorRow, ...] = ()
    families: tuple[FamilyRow, ...] = ()
    casts: tuple[CastRow, ...] = ()
    built_ins: tuple[BuiltIn, ...] = ()
    symbols: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The built-in functions of an internal symbol that a function of the database names, too."""
    signatures: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    """The argument types of built-in functions whose name others bear, too, but for variadic ones."""
    operands: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    """The same for operators."""
    implicit: frozenset[tuple[int, int]] = frozenset()
    """Which built-in types become which others without a word."""
    renamed: tuple[BuiltIn, ...] = ()
    """Built-in functions that do more than read, or can, under another name than theirs."""
    nameless: tuple[int, ...] = ()
    """Functions outside the built-ins that serve what is built in, as an estimator of `=`, or convert encodings."""
    text_search: tuple[int, ...] = ()
    """The functions outside the built-ins of text search templates and parsers."""
    strangers: frozenset[str] = frozenset()
    """Names of functions in pg_catalog that no table knows on this server: those of a newer minor version."""


# -- what the filter looks up ------------------------------------------------------------------------------------------


class Taint(Row, frozen=True):
    """Say why an object is no read."""

    what: str
    """The object as a person writes it: `function public.writer()`, `view public.v2`, `domain public.evildom`."""
    why: str
    """One clause without a full stop: `its body executes INSERT`, `it calls function public.vol_writer()`."""
    allow: str
    """The name that filter.allow_functions takes to call it a read all the same: `public.writer`."""
    rule: str = ""
    """Another rule than the kind's own, such as extension-function."""
    root: Key | None = None
    """The object whose own text is no read, where the reason lies: itself, or what it uses."""
    extension: str = ""
    """The extension that the object at the root is a member of, where trusting it would help."""
    lacks: bool = False
    """Whether the reason is that something is not there which the text at the root names."""


class Chosen(NamedTuple):
    """Say of which types operands or arguments have to be for an object to be chosen among all that bear its name."""

    own: frozenset[int]
    """The database's own types of whose values one in the statement is enough."""
    built_in: frozenset[tuple[str, ...]]
    """What the operands or arguments are where none is of a type of the database's own: names of built-in types,
    UNKNOWN for a literal that has no type yet."""


UNKNOWN = "unknown"
"""The type of a literal before it becomes what is wanted."""


class Callable(Row, frozen=True):
    """A function that a call can mean when it has `low` to `high` arguments."""

    oid: int
    schema: str
    low: int
    high: int
    returns: str = ""
    """The name of the built-in type that it returns; empty for any other type."""
    twin: bool = False
    """Whether a built-in of this name takes the very same types: then the search_path alone decides between them."""
    chosen: Chosen | None = None
    """None: nobody knows."""
    gives: frozenset[int] = frozenset()
    """The database's own types that its result, or a column of it, is of."""


class Relation(Row, frozen=True):
    oid: int
    schema: str
    columns: tuple[str, ...]
    """As in RelationRow: a set would take three times the memory for the few that they are."""
    row_type: int = 0
    own: Mapping[str, int] | None = None
    """Its columns of types that are not built in, and the types: `columns` are all of its columns then."""
    types: Mapping[str, str | None] | None = None
    """As in RelationRow."""


class Type(Row, frozen=True):
    oid: int
    schema: str


def are_own(types: Iterable[Type]) -> bool:
    """Tell whether what bears a type's name is the database's own alone, although it is one that pg_catalog can have.

    A newer PostgreSQL has that type, or somebody has renamed it: then the name means what stands behind pg_catalog.
    """
    found = [each.schema == "pg_catalog" and each.oid < FIRST_NORMAL_OID for each in types]
    return bool(found) and not any(found)


class Operator(Row, frozen=True):
    """`left` and `right` are types' names, with their schema unless that is pg_catalog; empty: no operand there."""

    oid: int
    schema: str
    left: str
    right: str
    chosen: Chosen | None = None
    gives: frozenset[int] = frozenset()
    twin: bool = False
    """These three are as in Callable."""


Named = TypeVar("Named", Callable, Relation)


class ByOid(Generic[Named]):
    """Find an object whose name and OID are known: a thousand schemas can have one of the same name."""

    __slots__ = ("_found", "_named")

    def __init__(self, named: Mapping[str, Sequence[Named]]) -> None:
        self._named: Mapping[str, Sequence[Named]] = named
        self._found: dict[str, dict[int, Named]] = {}

    def get(self, name: str, oid: int) -> Named | None:
        """Return the object; None: there is none of this name and OID."""
        known = self._found.get(name)
        if known is None:
            known = {each.oid: each for each in self._named.get(name, ())}
            if len(known) >= _MANY:
                self._found[name] = known
        return known.get(oid)


_MANY = 8


class Lookup(Protocol):
    """Give the taint of an object. A dict does; so does what records who asked, while bodies are being proved."""

    def get(self, key: Key, /) -> Taint | None: ...


class Plans(NamedTuple):
    """Say what plans can have in them that another client, or the same one later, must not get."""

    folds: bool = False
    """Whether a function may return what a setting says and is labelled IMMUTABLE: plans have its value in them."""
    caches: bool = False
    """Whether functions keep plans of their own in the session: those in PL/pgSQL, and since 18 in SQL."""
    dated: bool = False
    """Whether a plan can have in it what held when it was made: no client is to get another one's then."""


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """Answer for names. Built by `prove.prove`; every mapping is by bare name."""

    functions: Mapping[str, tuple[Callable, ...]] = field(default_factory=dict)
    relations: Mapping[str, tuple[Relation, ...]] = field(default_factory=dict)
    types: Mapping[str, tuple[Type, ...]] = field(default_factory=dict)
    operators: Mapping[str, tuple[Operator, ...]] = field(default_factory=dict)
    taints: Lookup = field(default_factory=dict[Key, Taint])
    cleared: frozenset[Key] = frozenset()
    """What has a taint because of what its names can mean under some search_path, and is a read under `begins_with`."""
    cleared_under: Mapping[tuple[int, ...], frozenset[Key]] = field(default_factory=dict)
    """What is one in sessions that have set a search_path that comes to these schemas, as far as that was asked for."""
    leaves: Mapping[Key, tuple[tuple[Effect, str], ...]] = field(default_factory=dict)
    """What functions and relations that are reads leave behind in the session."""
    tainted_operators: frozenset[str] = frozenset()
    """Names of operators that are no reads: without one, operators without a schema need not be looked at."""
    tainted_types: bool = False
    """Whether any type, domain or cast is no read: without one, names of built-in types need not be looked at."""
    everything: Taint | None = None
    """A taint that no name in a statement shows, such as a cast between built-in types, which a function of the
    server's can look up for a value: it spoils all."""
    implicit_casts: bool = False
    """Whether the database has implicit casts of its own between built-in types: then types of operands do not say
    which operator is meant."""
    voids: frozenset[str] = frozenset()
    """Names of functions and operators with a result or an argument of type void: a parameter beside it or in it can be
    of that type."""
    plans: Plans = field(default_factory=Plans)
    exact: bool = False
    """Unqualified names mean built-ins alone: for texts that the server printed under an empty search_path."""
    code: Taint | None = None
    """A taint of what belongs to some table, and is no view's: of an index, a partition key, an operator class."""
    strangers: frozenset[str] = frozenset()
    """Built-in functions that no table knows, as in Rows."""
    version: int = 0
    database: str = ""
    unprinted: int = 0
    """As in Rows: another reading could know better, although nothing has changed."""
    world: World | None = None
    """What the resolver looks names up in; None: there is none for this server."""
    role: str = ""
    """The role of the sessions, which `$user` in a search_path stands for."""
    begins_with: str = ""
    """The search_path that a session begins with, as the setting has it."""
    path: tuple[int, ...] = ()
    """The OIDs of the schemas in it that the role may use, pg_catalog's among them."""
    spellings: str = ""
    """The database's encoding, if it is not UTF-8 and somebody's function or type has a name beyond ASCII: what bytes
    such a name has depends on it."""

    def function(self, schema: str, name: str, arguments: int) -> tuple[Callable, ...]:
        """Give the functions that a call with so many arguments can mean; the built-in ones are not among them."""
        return tuple(
            found
            for found in self.functions.get(name, ())
            if found.low <= arguments <= found.high and self.fits(schema, found.schema)
        )

    def relation(self, schema: str, name: str) -> tuple[Relation, ...]:
        return tuple(found for found in self.relations.get(name, ()) if self.fits(schema, found.schema))

    def type(self, schema: str, name: str) -> tuple[Type, ...]:
        return tuple(found for found in self.types.get(name, ()) if self.fits(schema, found.schema))

    def operator(self, schema: str, name: str) -> tuple[Operator, ...]:
        return tuple(found for found in self.operators.get(name, ()) if self.fits(schema, found.schema))

    def taint(self, kind: str, objects: Iterable[Callable | Relation | Type | Operator]) -> Taint | None:
        """Give the first taint among objects of one kind."""
        for found in objects:
            taint = self.taints.get((kind, found.oid))
            if taint is not None:
                return taint
        return None

    def left_by(self, kind: str, objects: Iterable[Callable | Relation]) -> list[tuple[Effect, str]]:
        """Give what objects of one kind leave behind, as in Verdict."""
        if not self.leaves:
            return []
        return [each for found in objects for each in self.leaves.get((kind, found.oid), ())]

    def relations_of(self, schema: str) -> tuple[Relation, ...]:
        """Give the relations of a schema; of all schemas, for an empty name."""
        return tuple(
            found for known in self.relations.values() for found in known if not schema or found.schema == schema
        )

    def fits(self, wanted: str, schema: str) -> bool:
        """Tell whether an object of this schema can be meant where `wanted`, or no schema, is written."""
        return schema == wanted if wanted else not self.exact or schema == "pg_catalog"

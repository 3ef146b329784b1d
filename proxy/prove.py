"""Prove what in a database only reads: functions by their bodies, everything else by what it calls.

Each body, and each definition of a view, a policy, a domain or a default, is judged by the filter that judges clients'
statements. While it is, the catalogue that the filter looks names up in has no taints, and writes down who was asked
for: so the verdict on a body says whether it writes by itself, and the record says what else it uses. Declared
volatility and SECURITY DEFINER play no part: a label is a promise, not a proof. What is no read then taints all that
uses it: see `taints.py`.

Texts that the server printed under an empty search_path are judged `exact`. The text of a body is bound when it runs,
under a search_path that is not known here (proconfig or not), so a name in it can mean that object of any schema.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable as Function
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from . import plpgsql, refusals, rules, settings
from . import text as texts
from .candidates import Candidates, is_built_in
from .catalog import (
    ANY_NUMBER,
    CAST,
    CAST_TO,
    FAMILY,
    FIRST_NORMAL_OID,
    FUNCTION,
    LOOKED_UP,
    OPERATOR,
    RELATION,
    TEXT_SEARCH,
    TYPE,
    UNREADABLE,
    BuiltIn,
    Callable,
    CastRow,
    Catalog,
    FamilyRow,
    FunctionRow,
    Key,
    Operator,
    OperatorRow,
    Relation,
    RelationRow,
    Rows,
    Taint,
    Type,
    TypeRow,
)
from .functions import LEADS, Functions, Patterns
from .judgement import Judgement
from .policy import Policy
from .rules import Refused
from .sql.resolve import built_in
from .taints import NOWHERE, Finding, Place, carried, spread, using
from .verdict import Effect

_CONSTRUCTORS = frozenset(
    {"range_constructor2", "range_constructor3"} | {f"multirange_constructor{n}" for n in range(3)}
)
_BY_NAME_ONLY = rules.SQL_TEXT_FUNCTIONS.keys() | rules.SESSION_STATE_FUNCTIONS | rules.CODE_FUNCTIONS
"""Functions that the filter allows by looking at the call: reached in any other way, nobody looks."""


class Proof(NamedTuple):
    """Say why an object is a read, or why not."""

    what: str
    """As in Taint: `function public.my_stable_report()`."""
    taint: Taint | None
    uses: tuple[str, ...]
    """The objects of the database that it was found to use."""
    statement: str
    """The part of its text that is no read, or that uses what is none. Empty where that is not in a text."""
    line: int
    """The line of the body on which that stands; 0: unknown."""


def prove(
    rows: Rows,
    policy: Policy,
    *,
    skip: Collection[int] = (),
    progress: Function[[int], None] | None = None,
) -> Catalog:
    """Judge everything in `rows`, and give the catalogue that the filter looks names up in.

    Call it in a helper process: PL/pgSQL's parser may end it. `progress` is called with the OID of each object before
    its texts are parsed; those in `skip` are not parsed, and are no reads.
    """
    return _Court(rows, policy, skip, progress).catalog()


def explain(rows: Rows, policy: Policy, name: str) -> list[Proof]:
    """Give the proofs of all objects of this name, with or without their schema: functions, views, types, operators."""
    return _Court(rows, policy, (), None).proofs(name)


class _Spoiled(Exception):  # noqa: N818 - it is a finding
    """Say in a clause why the object that is being judged is no read, and where that stands."""

    def __init__(self, why: str, place: Place = NOWHERE, rule: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.place = place
        self.rule = rule


class _Recorder:
    """Stand in for the taints: there are none, and whoever is asked for is written down."""

    __slots__ = ("place", "uses")

    def __init__(self) -> None:
        self.uses: dict[Key, Place] = {}
        self.place = NOWHERE

    def get(self, key: Key, /) -> Taint | None:
        self.uses.setdefault(key, self.place)
        return None


class _Court:
    """Judge the objects of one reading of the catalogues, then let the taints spread."""

    def __init__(
        self, rows: Rows, policy: Policy, skip: Collection[int], progress: Function[[int], None] | None
    ) -> None:
        self._rows = rows
        self._policy = replace(policy, server_version=rows.version)
        self._allow = Patterns(policy.allow_functions)
        self._deny = Patterns(policy.deny_functions)
        self._skip = skip
        self._progress = progress
        self._recorder = _Recorder()
        self._types = {row.oid: row for row in rows.types}
        self._functions = {row.oid: row for row in rows.functions}
        self._row_types = {row.oid: row.row_type for row in rows.relations}
        self._shadows = frozenset(self._row_types.values())
        self._odd_rows = self._find_odd_rows()
        self._plain = Functions(self._policy).plain
        self._reads = Functions(replace(policy, server_version=0)).plain  # of any version: a symbol can be as old
        self._candidates = Candidates(rows)
        self._names = _names(rows, self._candidates)
        recording = replace(
            self._names,
            taints=self._recorder,
            # So that each one is asked for.
            tainted_operators=frozenset((*self._names.operators, *LEADS)),
            tainted_types=True,
            code=Taint("code that is no read", "which one, its argument says", ""),
        )
        self._anywhere = Functions(self._policy, recording, remember=False)
        self._exact = Functions(self._policy, replace(recording, exact=True), remember=False)
        self.objects: dict[Key, Finding] = {}
        records = {oid for oid, type_ in self._types.items() if type_.name in _ROWS}
        self._record_givers = {row.name.lower() for row in rows.functions if records.issuperset(row.returns)}
        self._leaves: set[tuple[Effect, str]] = set()  # what the object that is judged leaves behind
        self._judge_all()
        self._left = carried(self.objects)
        self._spoil_what_nobody_sees()
        self.taints, self._through = spread(self.objects)

    def catalog(self) -> Catalog:
        """Give what the filter needs."""
        operators = {row.name for row in self._rows.operators if (OPERATOR, row.oid) in self.taints}
        operators |= {name for name, key in LEADS.items() if key in self.taints}
        return replace(
            self._names,
            taints=self.taints,
            leaves={key: tuple(left) for key, left in self._left.items() if key not in self.taints},
            tainted_operators=frozenset(operators),
            tainted_types=any(kind in (TYPE, CAST, CAST_TO) for kind, _ in self.taints),
            everything=next(self._nameless(), None),
            code=next(self._tainted_code(), None),
            dated=self._has_dates(),
            world=None if self._rows.own is None else built_in.build(self._rows.own),
            role=self._rows.role,
            begins_with=self._rows.begins_with,
            path=self._rows.path,
        )

    def _has_dates(self) -> bool:
        """Tell whether a plan with a call of a function, or one of its own, can hold what was true when it was made.

        A literal such as 'now' is read when it is analysed, and what is labelled IMMUTABLE runs when it is planned.
        """
        written = [
            row
            for row in self._rows.functions
            if row.language not in _COMPILED and not row.trigger and (FUNCTION, row.oid) not in self.taints
        ]
        if any(texts.has_moment(row.source) for row in written):
            return True
        immutable = {(FUNCTION, row.oid) for row in written if row.volatility == "i"}
        if not immutable:
            return False
        changing = {key for key in self.objects if key[0] == RELATION}
        changing |= {(FUNCTION, row.oid) for row in written if _CLOCK.search(row.source + row.definition)}
        return not immutable.isdisjoint(using(self.objects, changing))

    def _nameless(self) -> Iterator[Taint]:
        """Give the taints of what runs where no name in a statement shows it."""
        for family in self._rows.families:
            if (FAMILY, family.oid) in self.taints:
                taint = self.taints[FAMILY, family.oid]
                yield taint._replace(rule=taint.rule or "unproved-operator")
        for operator in self._rows.operators:
            if operator.replaces and (OPERATOR, operator.oid) in self.taints:
                taint = self.taints[OPERATOR, operator.oid]
                yield taint._replace(rule=taint.rule or "unproved-operator")
        for oid in (*self._rows.nameless, *(row.oid for row in self._rows.functions if _is_replaced(row))):
            if (FUNCTION, oid) in self.taints:
                taint = self.taints[FUNCTION, oid]
                yield taint._replace(rule=taint.rule or "unproved-function")
        for type_ in self._rows.types:
            # The views of information_schema have columns of its domains.
            if type_.oid < FIRST_NORMAL_OID and type_.expressions and (TYPE, type_.oid) in self.taints:
                yield self.taints[TYPE, type_.oid]._replace(rule="unproved-type")
        yield from self._renamed()
        for cast in self._rows.casts:
            if self._hidden(cast) and (CAST, cast.oid) in self.taints:
                yield self.taints[CAST, cast.oid]

    def _renamed(self) -> Iterator[Taint]:
        """Give the built-in functions that bear the name of a read, and do more."""
        major = self._rows.version // 10000
        for row in self._rows.renamed:
            # What is gone from this version has left its OID to another one.
            own = [each for each in rules.OIDS[row.oid] if not 0 < rules.FUNCTIONS[each].until < major]
            if own and row.name in self._plain and not self._plain.issuperset(own):
                why = f"it is {min(own)} under another name"
                yield Taint(f"function {row.schema}.{row.name}", why, f"{row.schema}.{row.name}", "unproved-function")

    def _tainted_code(self) -> Iterator[Taint]:
        """Give the taints of code that belongs to tables."""
        for row in self._rows.relations:
            if row.kind != "v":
                used = [(FUNCTION, oid) for oid in row.functions] + [(OPERATOR, oid) for oid in row.operators]
                yield from (self.taints[key] for key in used if key in self.taints)

    def proofs(self, name: str) -> list[Proof]:
        """Give the proofs of what bears a name."""
        return [
            self._proof(key, found)
            for key, found in self.objects.items()
            if self._is_shown(key) and name in (found.name, found.name.partition(".")[2])
        ]

    def _is_shown(self, key: Key) -> bool:
        """Tell whether a person has heard of an object: not of the row type of a table beside the table."""
        kind, oid = key
        if kind == TYPE:
            return oid in self._types and not is_built_in(self._types[oid]) and oid not in self._shadows
        return kind not in (CAST, CAST_TO) and key in self.objects

    def _proof(self, key: Key, found: Finding) -> Proof:
        taint = self.taints.get(key)
        place = found.place
        if key in self._through:
            place = found.uses[self._through[key]]
        uses = tuple(self.objects[used].what for used in found.uses if used != key and self._is_shown(used))
        return Proof(found.what, taint, uses, place.text, place.line)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _judge_all(self) -> None:
        for function in self._rows.functions:
            if not function.trigger:
                what = f"{_FUNCTIONS.get(function.kind, 'function')} {self._signature(function)}"
                # A pattern with a * cannot have meant dblink_exec.
                self._judge(FUNCTION, function, what, self._function, exact=self._listed(function) == "block")
        for named in self._rows.built_ins:
            if (FUNCTION, named.oid) in self.objects:
                continue  # somebody has replaced it
            self._judge(FUNCTION, named, f"function {named.schema}.{named.name}", self._built_in)
        for relation in self._rows.relations:
            what = f"{_RELATIONS.get(relation.kind, 'table')} {relation.schema}.{relation.name}"
            self._judge(RELATION, relation, what, self._relation)
        written = any(cast.context == "e" for cast in self._rows.casts)
        for type_ in self._rows.types:
            what = f"{'domain' if type_.kind == 'd' else 'type'} {self._type_name(type_.oid)}"
            self._judge(TYPE, type_, what, self._type)
            if not is_built_in(type_) or written:
                # A row, an array and a domain are cast by casting what they are made of.
                to = f"the cast to {self._type_name(type_.oid)}"
                self._judge(CAST_TO, type_, to, lambda row: self._use(CAST_TO, (*row.parts, row.base, row.element)))
        for operator in self._rows.operators:
            operands = ", ".join(self._type_name(oid) for oid in (operator.left, operator.right) if oid)
            what = f"operator {operator.schema}.{operator.name} ({operands})"
            self._judge(OPERATOR, operator, what, self._operator)
        for family in self._rows.families:
            what = f"operator family {family.schema}.{family.name}"
            self._judge(FAMILY, family, what, lambda row: self._call(row.functions))
        self._judge_one(_SEARCH, Finding("text search", ""), self._call, self._rows.text_search)
        for extension in {row.extension for row in self._rows.functions} & _LOOKED_UP.keys():
            found = Finding(f"what the extension {extension} looks up", "")
            self._judge_one(
                (LOOKED_UP, _LOOKED_UP[extension]), found, self._looks_up, rules.RUN_BY_EXTENSIONS[extension]
            )
        self._casts()
        self._collections()

    def _judge(
        self,
        kind: str,
        row: FunctionRow | BuiltIn | RelationRow | TypeRow | OperatorRow | FamilyRow,
        what: str,
        judge: Function[[Any], None],
        *,
        exact: bool = False,
    ) -> None:
        found = Finding(what, f"{row.schema}.{row.name}")
        if not isinstance(row, BuiltIn):
            # What the tables call no read has to be named for itself.
            worse = exact or row.name in rules.READING_EXTENSIONS.get(row.extension, ())
            found.extension = "" if worse else row.extension
            found.allowed = self._allow.match(row.schema, row.name, exact=exact)
            found.allowed |= found.extension in self._policy.allow_extensions
        if kind == FUNCTION and self._deny.match(row.schema, row.name):
            # A text that names it is refused for that; an operator, a cast or an aggregate calls it without a word.
            found.allowed, found.why, found.rule = False, "it is listed in filter.deny_functions", "denied-function"
        self._judge_one((kind, row.oid), found, judge, row)

    def _judge_one(self, key: Key, found: Finding, judge: Function[[Any], None], subject: Any) -> None:
        self.objects[key] = found
        if found.why:
            return
        self._leaves = found.leaves
        self._recorder.uses = found.uses
        self._recorder.place = NOWHERE
        try:
            self._announce(key[1], subject)
            judge(subject)
        except _Spoiled as spoiled:
            found.why, found.place, found.rule = spoiled.why, spoiled.place, spoiled.rule
        except Exception as error:  # whatever goes wrong, it is not called a read
            found.why = f"it could not be judged, which is a fault of SideCart ({type(error).__name__})"
        if found.allowed:  # whatever it does, the operator calls it a read; what it leaves behind counts all the same
            found.why, found.place, found.rule = "", NOWHERE, ""
            found.carries.update(found.uses)
            found.uses.clear()

    def _spoil_what_nobody_sees(self) -> None:
        """Call no read what leaves something behind where no name in a statement shows it."""
        for key, left in self._left.items():
            found = self.objects[key]
            names = ", ".join(sorted({name for effect, name in left if effect is Effect.SETTING_INSIDE}))
            if names and key[0] not in (FUNCTION, RELATION) and not found.why and not found.allowed:
                found.why = f"it sets {names}, and no name in a statement shows that"

    def _announce(self, oid: int, subject: Any) -> None:
        """Tell of an object whose texts are about to be parsed; one that the parser ended at is not parsed again."""
        if any(getattr(subject, name, ()) for name in ("definition", "default_expressions", "expressions")):
            if oid in self._skip:
                raise _Spoiled("its text ends the parser")
            if self._progress is not None:
                self._progress(oid)

    # -- functions -----------------------------------------------------------------------------------------------------

    def _function(self, row: FunctionRow) -> None:
        if row.kind == "p":
            raise _Spoiled("it is a procedure, which can commit")
        verdict = self._listed(row)
        if verdict == "block":
            raise _Spoiled(f"it is one of those of the extension {row.extension} that do more than read", rule=_LISTED)
        if verdict == "conditional" and row.name not in _BY_NAME_ONLY:
            raise _Spoiled("it can do more than read, depending on its arguments", rule=_LISTED)
        if not verdict and row.kind != "a":
            self._body(row)
        if row.extension in _LOOKED_UP and row.language == "c":
            self._use(LOOKED_UP, (_LOOKED_UP[row.extension],))
        if row.kind == "a":
            self._call(row.support)
        else:
            self._use(FUNCTION, row.support)
        if row.default_expressions:
            self._text(f"SELECT {row.default_expressions}", "argument's default", self._exact)
        for setting in row.settings:
            name, _, value = setting.partition("=")
            if settings.refuse_value(settings.fold(name), value, None, self._policy.deny_settings) is not None:
                raise _Spoiled(f'it sets {name} to "{value}"')
            if "." in name:
                self._leaves.add((Effect.SETTING_INSIDE, settings.fold(name)))  # it reads '' afterwards, and not NULL
        # Arguments and results are coerced to their types: to a domain, by running its CHECKs.
        self._use(TYPE, row.arguments)
        self._use(TYPE, row.returns)

    def _built_in(self, row: BuiltIn) -> None:
        # An operator, a cast or an aggregate calls it by its OID, with arguments that no text shows: the names that are
        # judged by their arguments will not do.
        if row.schema == "pg_catalog" and row.name not in self._plain:
            raise _Spoiled("it does more than read, or can do more than read")
        if row.name in LEADS:
            self._recorder.get(LEADS[row.name])

    def _listed(self, row: FunctionRow) -> str:
        """Give the table's verdict on an extension's function; empty without one. pg_depend says whose it is."""
        found = rules.EXTENSIONS.get(f"{row.schema}.{row.name}") or rules.EXTENSIONS.get(row.name)
        if found is None:
            return ""
        owners = found.extension.partition(" (")[0].split("/")
        return found.verdict if row.extension in owners else ""

    def _body(self, row: FunctionRow) -> None:
        if row.language in ("sql", "plpgsql"):
            if UNREADABLE in row.definition:
                raise _Spoiled("its body could not be printed by the server")
            if row.language == "plpgsql":
                self._plpgsql(row)
            elif row.source:
                anything = self._takes_anything(row)
                own = None if anything else self._candidates.given(row.arguments)
                named = self._parameters(row)
                self._text(row.source, "body", self._anywhere, polymorphic=anything, own=own, variables=named)
            else:
                self._sql_standard(row)
        elif row.language == "internal" and (row.source in _CONSTRUCTORS or self._is_plain(row.source)):
            return  # CREATE TYPE AS RANGE made it, or it is a built-in of another name; a superuser alone makes such
        elif row.language not in ("c", "internal") or row.extension not in rules.READING_EXTENSIONS:
            raise _Spoiled(f"it is written in {row.language}, which cannot be read")
        elif row.name in rules.READING_EXTENSIONS[row.extension]:
            raise _Spoiled(f"it does more than read, and is declared {_LABELS[row.volatility]}", rule=_LISTED)
        elif row.volatility == "v" and not any(map(self._is_internal, row.arguments)):
            raise _Spoiled(f"it is written in {row.language} and VOLATILE, and no table says that it only reads")
        elif self._is_given_a_name(row):
            raise _Spoiled(f"it is written in {row.language}, and no table says what it does with the name it is given")

    def _parameters(self, row: FunctionRow) -> dict[str, str]:
        """Give the names of the arguments of a function in SQL, and their types where those are built-in ones."""
        try:
            (raw,) = texts.parse(row.definition, foreign=bool(self._names.spellings))
            parameters = raw["stmt"]["CreateFunctionStmt"].get("parameters", ())
        except (Refused, ValueError, KeyError) as error:
            raise _Spoiled("its arguments cannot be parsed") from error
        given = [each["FunctionParameter"] for each in parameters]
        named = [each.get("name", "") for each in given if each["mode"] not in plpgsql.OUTPUTS]
        types = [self._types.get(oid) for oid in row.arguments]
        if len(named) != len(types):
            return dict.fromkeys(named, "")
        return {
            name: type_.name if type_ is not None and is_built_in(type_) and type_.name in rules.TYPES else ""
            for name, type_ in zip(named, types, strict=True)
            if name
        }

    def _is_plain(self, symbol: str) -> bool:
        """Tell whether an internal symbol is that of built-in functions which read, whatever they are given."""
        names = self._rows.symbols.get(symbol, ())
        return bool(names) and self._reads.issuperset((*names, *rules.bearers(symbol)))

    def _looks_up(self, sql: str) -> None:
        self._text(sql, "SQL", self._anywhere, own=frozenset())

    def _is_given_a_name(self, row: FunctionRow) -> bool:
        """Tell whether a function takes the name or OID of something, and no table says that it only looks it up.

        The labels that are believed are those of the versions that somebody has read.
        """
        types = [self._types[oid].name if oid in self._types else "?" for oid in row.arguments]
        if types[:1] == ["cstring"] or any(map(self._is_internal, row.arguments)):
            return False  # the server calls it: an input function is given its type
        if not any(type_ in ("oid", "name") or type_.startswith("reg") for type_ in types):
            return False
        what = rules.ARGUMENTS.get((row.extension, row.name, ",".join(types)), "")
        return what not in ("data", "describes", "search")

    def _is_internal(self, oid: int) -> bool:
        """Tell whether a type is `internal`: then no statement can call the function, only the planner, an index or an
        aggregate, and the label (selectivity functions are VOLATILE) says nothing."""
        row = self._types.get(oid)
        return row is not None and row.name == "internal" and is_built_in(row)

    def _plpgsql(self, row: FunctionRow) -> None:
        try:
            parts = plpgsql.read(row.definition, row.source, self._is_scalar)
        except plpgsql.Unreadable as unreadable:
            raise _Spoiled(f"its body {unreadable.why}", Place(unreadable.text, unreadable.line)) from unreadable
        pieces = {piece.sql: Place(piece.text, piece.line) for piece in parts.pieces}
        own: frozenset[int] | None = self._candidates.given((*row.arguments, *row.returns))
        if parts.row_types or self._takes_anything(row) or self._takes_rows(row):
            own = None
        while True:
            # A variable takes a value from one piece to another.
            occurring = frozenset(own or ()).union(
                *(
                    self._text(sql, "body", self._anywhere, place, own=own, variables=parts.variables)
                    for sql, place in pieces.items()
                )
            )
            if own is None or occurring == own:
                break
            own = occurring
        for row_type in parts.row_types:
            self._recorder.place = Place(".".join(row_type.names), row_type.line)
            for name in row_type.names:
                self._use(TYPE, (found.oid for found in self._names.types.get(name, ())))
                self._use(TYPE, (self._row_types[found.oid] for found in self._names.relations.get(name, ())))

    def _is_scalar(self, names: tuple[str, ...]) -> bool | None:
        """Tell whether all types of the database with this name have no columns; None where there is none."""
        found = [
            type_.oid for type_ in self._names.types.get(names[-1], ()) if len(names) == 1 or type_.schema == names[-2]
        ]
        kinds = {self._types[oid].kind for oid in found if not is_built_in(self._types[oid])}
        return "c" not in kinds if kinds else None

    def _sql_standard(self, row: FunctionRow) -> None:
        """Judge `BEGIN ATOMIC … END` or `RETURN …`: trees that stand in the CREATE FUNCTION itself."""
        try:
            (raw,) = texts.parse(row.definition, foreign=bool(self._names.spellings))
            body = raw["stmt"]["CreateFunctionStmt"].get("sql_body", {"List": {}})
        except (Refused, ValueError, KeyError) as error:
            raise _Spoiled("its body cannot be parsed") from error
        blocks = body["List"].get("items", ()) if "List" in body else [{"List": {"items": [body]}}]
        start = _STANDARD_BODY.search(row.definition)
        place = Place("" if start is None else row.definition[start.start() :].strip(), 1)
        for statement in (item for block in blocks for item in block.get("List", {}).get("items", ())):
            judgement = Judgement(self._exact, self._policy, own=None)
            self._statement({"stmt": _selected(statement)}, row.definition, "body", judgement, place)

    # -- everything else -----------------------------------------------------------------------------------------------

    def _relation(self, row: RelationRow) -> None:
        if row.server:
            raise _Spoiled(f"it reads the foreign server {row.server}")
        if row.definition:
            self._text(row.definition, "definition", self._exact)
        for expression in row.expressions:
            self._text(f"SELECT {expression}", "policy or generated column", self._exact)
        if row.definition and row.kind == "v":  # it shows how they are called
            self._use(FUNCTION, row.functions)
        else:
            self._call(row.functions)
        self._use(OPERATOR, row.operators)
        self._use(RELATION, row.children)
        is_printed = row.kind != "v" or bool(row.definition)
        own = [type_ for _, type_ in row.own_columns] if is_printed else []
        self._use(TYPE, (type_ for type_ in row.column_types if type_ not in own))
        if row.expressions or row.functions or row.operators or row.row_type in self._odd_rows:
            # What belongs to the table names no columns as a statement does, and a whole row is a value of its own:
            # `Reach.touched` knows nothing of either.
            self._use(TYPE, (row.row_type, *own))

    def _type(self, row: TypeRow) -> None:
        for expression in row.expressions:
            self._text(f"SELECT {expression}", "CHECK or default", self._exact)
        self._call(row.functions)
        self._use(TYPE, row.parts)

    def _operator(self, row: OperatorRow) -> None:
        self._call((row.function, *row.support))
        self._use(TYPE, (row.left, row.right))

    def _casts(self) -> None:
        for row in self._rows.casts:
            source, target = self._types.get(row.source), self._types.get(row.target)
            what = f"the cast from {self._type_name(row.source)} to {self._type_name(row.target)}"
            function = self.objects.get((FUNCTION, row.function))
            found = Finding(what, "" if function is None else function.name, extension=row.extension)
            found.allowed = row.extension in self._policy.allow_extensions
            if row.function:
                self._judge_one((CAST, row.oid), found, self._call, (row.function,))
            elif target is not None and source is not None and is_built_in(source):
                # A type without a default operator class takes that of another one that it is without a word:
                # GetDefaultOpClass(), commands/indexcmds.c.
                self._judge_one((CAST, row.oid), found, self._call, target.sorting)
            else:
                self._judge_one((CAST, row.oid), found, lambda target: self._use(TYPE, (target,)), row.target)
            if source is None or target is None or self._hidden(row):
                continue  # the last one spoils everything
            if is_built_in(source) and is_built_in(target):
                # The columns of a row are cast with it, and which types they are of is not known here.
                rows = (type_ for type_ in self._rows.types if type_.kind == "c")
                users = [(CAST_TO, type_) for type_ in (target, *rows)]
            elif not row.function or is_built_in(target):
                users = [(TYPE, source)]  # what is cast is not named
            elif row.context != "e":  # PL/pgSQL assigns wherever it has a variable, but what it assigns is of a type
                users = [(TYPE, target if is_built_in(source) else source)]
            else:
                users = [(CAST_TO, target)]
            for user in (self.objects[kind, type_.oid] for kind, type_ in users):
                if not user.allowed:
                    user.uses.setdefault((CAST, row.oid), NOWHERE)

    def _hidden(self, row: CastRow) -> bool:
        """Tell whether a cast runs where no name shows it: between built-in types, if it need not be written.

        Where one runs that has to be, the statement has the name of the type, or of what casts by itself: see `LEADS`
        and `Functions.json_casts`.
        """
        if row.context == "e" and row.source in self._types and row.target in self._types:
            return False
        types = (self._types.get(row.source), self._types.get(row.target) if row.function else None)
        return all(type_ is None or is_built_in(type_) for type_ in types)

    def _collections(self) -> None:
        """Let arrays and multiranges with casts or operator classes of their own count with what they are made of.

        array_agg and range_agg make them where no name says so, and `x::mood[]` names mood alone.
        """
        waiting = [row.oid for row in self._rows.types if row.functions]
        waiting += [oid for row in self._rows.casts for oid in (row.source, row.target)]
        seen: set[int] = set()
        while waiting:
            row = self._types.get(waiting.pop())
            if row is None or row.oid in seen or row.kind not in _COLLECTIONS:
                continue
            seen.add(row.oid)
            waiting += row.parts
            for kind, part in product((TYPE, CAST_TO), row.parts):
                self.objects[kind, part].uses.setdefault((kind, row.oid), NOWHERE)

    def _find_odd_rows(self) -> frozenset[int]:
        """Give the row types with casts or operator classes of their own, or of their arrays."""
        odd = {row.oid for row in self._rows.types if row.functions} | {row.source for row in self._rows.casts}
        holding = {
            part for row in self._rows.types if row.oid in odd and row.kind in _COLLECTIONS for part in row.parts
        }
        return self._shadows & (odd | holding)

    def _use(self, kind: str, oids: Iterable[int]) -> None:
        for oid in oids:
            if oid:
                self._recorder.get((kind, oid))

    def _call(self, oids: Iterable[int]) -> None:
        """Note calls that stand in no text, so that nobody looks at their arguments."""
        for oid in oids:
            row = self._functions.get(oid)
            if row is not None and row.name in _BY_NAME_ONLY and self._listed(row) == "conditional":
                raise _Spoiled(f"it calls {self.objects[FUNCTION, oid].what}, whose arguments nobody looks at there")
            self._use(FUNCTION, (oid,))

    # -- texts ---------------------------------------------------------------------------------------------------------

    def _takes_rows(self, row: FunctionRow) -> bool:
        """Tell whether a function in PL/pgSQL gets rows from elsewhere, whose columns can be of any type."""
        if any(self._types[oid].name in _ROWS for oid in row.arguments if oid in self._types):
            return True
        words = {word.lower() for word in _WORD.findall(row.source)}
        return not words.isdisjoint(_CURSORS) or not words.isdisjoint(self._record_givers)

    def _takes_anything(self, row: FunctionRow) -> bool:
        """Tell whether a function in SQL takes arguments of types that its call decides: of void, among others."""
        return any(_is_polymorphic(self._types[oid].name) for oid in row.arguments if oid in self._types)

    def _text(
        self,
        sql: str,
        part: str,
        functions: Functions,
        place: Place | None = None,
        *,
        polymorphic: bool = False,
        own: frozenset[int] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> set[int]:
        """Judge a text that is to consist of SELECTs. `part` is what the reason calls it.

        Return what `Judgement.occurring` says.
        """
        if UNREADABLE in sql:  # the parser would stop there without a word
            raise _Spoiled(f"its {part} could not be printed by the server")
        try:
            statements = texts.parse(sql, foreign=bool(self._names.spellings))
        except Refused as refused:
            raise _Spoiled(f"its {part} cannot be parsed: {refused.refusal.message}", place or NOWHERE) from refused
        occurring: set[int] = set()
        for raw in statements:
            judgement = Judgement(functions, self._policy, polymorphic=polymorphic, own=own, variables=variables)
            self._statement(raw, sql, part, judgement, place)
            occurring |= judgement.occurring
        return occurring

    def _statement(
        self,
        raw: dict[str, Any],
        sql: str,
        part: str,
        judgement: Judgement,
        place: Place | None = None,
    ) -> None:
        start = raw.get("stmt_location", 0)
        end = start + raw["stmt_len"] if "stmt_len" in raw else None
        self._recorder.place = place or _place(sql, start, end)
        ((name, body),) = raw["stmt"].items()
        try:
            if name != "SelectStmt":
                raise refusals.statement(name, body)
            judgement.select(body)
        except Refused as refused:
            _, command = texts.caret(sql, start, end, refused.location, refused.word)
            raise _Spoiled(f"its {part} {_reason(refused.refusal, command)}", self._recorder.place) from refused
        for effect, what in judgement.effects:
            # The transaction takes a SET LOCAL away, and it is a read, too; what takes an id has left all there is.
            local = effect in (Effect.SETTING_LOCAL, Effect.RESET_LOCAL)
            left = Effect.SETTING_INSIDE if local else Effect.SETTING if effect is Effect.RESET else effect
            self._leaves.add((left, what))
            if local or effect is Effect.TRANSACTION_ID:
                continue
            if effect is Effect.LIST_STATEMENTS:
                why = f"its {part} shows what other clients have prepared on the connection"
                raise _Spoiled(why, self._recorder.place, "other-clients")
            does = (
                f"sets {what} for the session"
                if effect in (Effect.SETTING, Effect.RESET)
                else f"leaves a trace in the session ({what})"
            )
            raise _Spoiled(f"its {part} {does}", self._recorder.place)

    # -- names ---------------------------------------------------------------------------------------------------------

    def _signature(self, row: FunctionRow) -> str:
        return f"{row.schema}.{row.name}({', '.join(map(self._type_name, row.arguments))})"

    def _type_name(self, oid: int) -> str:
        row = self._types.get(oid)
        if row is None:
            return f"type {oid}"
        name = f"{row.name[1:]}[]" if row.name.startswith("_") else row.name
        return name if row.schema == "pg_catalog" else f"{row.schema}.{name}"


_SEARCH = (TEXT_SEARCH, 0)
_LOOKED_UP = {extension: place for place, extension in enumerate(rules.RUN_BY_EXTENSIONS, 1)}
_COLLECTIONS = frozenset("bm")
"""typtype of arrays, which nothing but what they are made of sets apart from base types, and of multiranges."""
_LISTED = "extension-function"
_LABELS = {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}
_FUNCTIONS = {"a": "aggregate", "p": "procedure"}
_RELATIONS = {
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
}


_STANDARD_BODY = re.compile(r"^(?:BEGIN ATOMIC|RETURN )", re.MULTILINE)


def _selected(statement: dict[str, Any]) -> dict[str, Any]:
    """Give a statement of a SQL-standard body; RETURN as the SELECT that it is."""
    returned = statement.get("ReturnStmt")
    if returned is None:
        return statement
    return {"SelectStmt": {"targetList": [{"ResTarget": {"val": returned["returnval"]}}], "op": "SETOP_NONE"}}


def _place(sql: str, start: int, end: int | None) -> Place:
    """Find a statement, given by byte offsets, in its text."""
    first = texts.character(sql, start)
    text = sql[first : None if end is None else texts.character(sql, end)]
    return Place(text.strip(), sql.count("\n", 0, first + len(text) - len(text.lstrip())) + 1)


_RULE = re.compile(r" \(rule: [^)]*\)")
_DETAIL = re.compile(
    r"The (?:input )?function (.+?) ((?:does|reads|takes|holds|is|bears|runs) .+?) \(rule: .*", re.DOTALL
)


def _reason(refusal: rules.Refusal, command: str) -> str:
    """Turn a refusal into what a body does: `executes INSERT`."""
    message = refusal.message.removesuffix(": SideCart forwards reads only")
    if message.startswith("cannot execute "):
        return f"executes {message.removeprefix('cannot execute ').replace(rules.COMMAND, command or 'a statement')}"
    called = _DETAIL.fullmatch(refusal.detail)
    if called is not None:
        return f"calls {called[1]}, which {called[2]}"
    if message.startswith("permission denied "):
        message = f"{message}: {_RULE.sub('', refusal.detail).rstrip('.')}"
    return f"is refused: {message}"


def _is_replaced(row: FunctionRow) -> bool:
    """Tell whether a function is a built-in that is not as initdb wrote it."""
    return row.oid < FIRST_NORMAL_OID and row.schema in ("pg_catalog", "information_schema")


def _is_polymorphic(name: str) -> bool:
    return name.startswith("any")


def _voids(rows: Rows) -> frozenset[str]:
    """Give the names of functions and operators with a result, a column of it, or an argument of type void."""
    void = {type_.oid for type_ in rows.types if is_built_in(type_) and type_.name == rules.VOID}
    functions = {
        row.oid: row.name
        for row in rows.functions
        if row.kind != "p" and void.intersection((*row.returns, *row.arguments))
    }
    functions |= {row.oid: row.name for row in rows.built_ins if row.name in rules.VOID_FUNCTIONS}
    operators = {row.name for row in rows.operators if row.function in functions}
    return frozenset(operators.union(functions.values()))


_ROWS = frozenset({"record", "_record", "refcursor", "_refcursor"})
_CURSORS = frozenset({"fetch", "cursor", "refcursor"})
_WORD = re.compile(r"\w+")
_READS_SETTINGS = re.compile("current_setting|pg_settings|pg_show_all_settings|\\bshow\\b", re.IGNORECASE)
_CLOCK = re.compile(
    r"\b(now\s*\(|current_(date|time)|localtime|(clock|statement|transaction)_timestamp|timeofday|age\s*\()",
    re.IGNORECASE,
)
_COMPILED = ("c", "internal")


def _folds(rows: Rows) -> bool:
    """Tell whether a plan can hold what a setting says, by a function that is wrongly labelled IMMUTABLE.

    In C, an extension's are trusted to have the right label.
    """
    written = [row for row in rows.functions if row.language not in _COMPILED or not row.extension]
    immutable = [row for row in written if row.volatility == "i"]
    if any(row.language not in ("sql", "plpgsql") for row in immutable):
        return True
    return bool(immutable) and any(_READS_SETTINGS.search(row.source + row.definition) for row in written)


def _can_take(taken: list[str], low: int, built_in: Collection[str], *, variadic: bool) -> bool:
    """Tell whether a call can give a function just the types that a built-in of its name takes.

    Of two such functions the one earlier in the path is called, whether or not it is variadic or fills in defaults
    (FuncnameGetCandidates(), catalog/namespace.c).
    """
    for types in (each.split(",") if each else [] for each in built_in):
        spread = taken[:-1] + [taken[-1].removeprefix("_")] * (len(types) - len(taken) + 1) if variadic else taken
        if len(types) >= low and types in (taken[: len(types)], spread[: len(types)]):
            return True
    return False


def _names(rows: Rows, candidates: Candidates) -> Catalog:
    """Sort the rows by name."""
    every = {type_.oid: type_.name for type_ in rows.types if is_built_in(type_)}
    known = {type_.oid: type_.name for type_ in rows.types if is_built_in(type_) and type_.kind != "p"}
    functions: defaultdict[str, tuple[Callable, ...]] = defaultdict(tuple)
    for row in rows.functions:
        if not row.trigger:
            low = max(len(row.arguments) - row.defaults - row.variadic, 0)
            high = ANY_NUMBER if row.variadic else len(row.arguments)
            taken = [every.get(oid, "?") for oid in row.arguments]
            # Which polymorphic arguments a built-in takes is in no table: any of them can be its twin.
            twin = _can_take(taken, low, rules.CALLS.get(row.name, ("", ()))[1], variadic=row.variadic)
            twin = twin or any(map(_is_polymorphic, taken)) or row.arguments in rows.signatures.get(row.name, ())
            returns = known.get(row.returns[0], "")
            chosen, gives = candidates.function(row), candidates.given(row.returns)
            functions[row.name] += (Callable(row.oid, row.schema, low, high, returns, twin, chosen, gives),)
    relations: defaultdict[str, tuple[Relation, ...]] = defaultdict(tuple)
    for relation in rows.relations:
        own = dict(relation.own_columns) or None
        found = Relation(
            relation.oid, relation.schema, frozenset(relation.columns), relation.row_type, own, relation.types
        )
        relations[relation.name] += (found,)
    types: defaultdict[str, tuple[Type, ...]] = defaultdict(tuple)
    for type_ in rows.types:
        types[type_.name] += (Type(type_.oid, type_.schema),)
    shown = {type_.oid: f"{type_.schema}.{type_.name}" for type_ in rows.types} | every | {0: ""}
    operators: defaultdict[str, tuple[Operator, ...]] = defaultdict(tuple)
    for operator in rows.operators:
        left, right = (shown.get(oid, "?") for oid in (operator.left, operator.right))
        chosen, gives = candidates.operator(operator), candidates.given((operator.result,))
        twin = tuple(oid for oid in (operator.left, operator.right) if oid) in rows.operands.get(operator.name, ())
        operators[operator.name] += (Operator(operator.oid, operator.schema, left, right, chosen, gives, twin),)
    return Catalog(
        dict(functions),
        dict(relations),
        dict(types),
        dict(operators),
        voids=_voids(rows),
        folds=_folds(rows),
        caches=any(
            row.language not in _COMPILED and (row.language != "sql" or rows.version >= 180000)
            for row in rows.functions
        ),
        implicit_casts=any(
            cast.context == "i" and cast.source in known and cast.target in known for cast in rows.casts
        ),
        strangers=rows.strangers,
        version=rows.version,
        database=rows.database,
        unprinted=rows.unprinted,
        spellings="" if rows.encoding == "UTF8" or all(map(str.isascii, (*functions, *types))) else rows.encoding,
    )

"""Prove what in a database only reads: functions by their bodies, everything else by what it calls.

Each body, and each definition of a view, a policy, a domain or a default, is judged by the filter that judges clients'
statements. While it is, the catalogue that the filter looks names up in has no taints, and writes down who was asked
for: so the verdict on a body says whether it writes by itself, and the record says what else it uses. Declared
volatility and SECURITY DEFINER play no part: a label is a promise, not a proof. What is no read then taints all that
uses it: see `taints.py`.

Everything is proved under any search_path first: a name in a body can mean that object of any schema. What is no read
then, because of what its names can mean, is proved once more under the one that sessions begin with: see `paths.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable as Function
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from msgspec import structs

from proxy.proofs.bodies import Bodies, Spoiled
from proxy.proofs.labels import LISTED, Labels
from proxy.proofs.paths import Cleared, Paths, leaves
from proxy.proofs.taints import NOWHERE, Finding, carried, fetching, spread, using
from proxy.sql import by_name, settings, tables
from proxy.sql import text as texts
from proxy.sql.by_name import COMPILED
from proxy.sql.candidates import Candidates, is_built_in
from proxy.sql.catalog import (
    CAST,
    CAST_TO,
    FAMILY,
    FIRST_NORMAL_OID,
    FUNCTION,
    LOOKED_UP,
    OPERATOR,
    RELATION,
    ROLES,
    TEXT_SEARCH,
    TYPE,
    BuiltIn,
    CastRow,
    Catalog,
    FamilyRow,
    FunctionRow,
    Key,
    OperatorRow,
    RelationRow,
    Rows,
    Taint,
    TypeRow,
)
from proxy.sql.functions import LEADS, Functions
from proxy.sql.patterns import Patterns
from proxy.sql.policy import Policy
from proxy.sql.resolve import Resolver, built_in
from proxy.sql.type_roles import Roles
from proxy.sql.verdict import Effect

_BY_NAME_ONLY = tables.SQL_TEXT_FUNCTIONS.keys() | tables.SESSION_STATE_FUNCTIONS | tables.CODE_FUNCTIONS
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
    paths: Collection[tuple[int, ...]] = (),
    skip: Collection[int] = (),
    progress: Function[[int], None] | None = None,
) -> Catalog:
    """Judge everything in `rows`, and give the catalogue that the filter looks names up in.

    Call it in a helper process: PL/pgSQL's parser may end it. `progress` is called with the OID of each object before
    its texts are parsed; those in `skip` are not parsed, and are no reads. `paths`: the schemas of search_paths that
    sessions have set, under which bodies are proved as well.
    """
    return _Court(rows, policy, skip, progress, paths=paths).catalog()


def explain(rows: Rows, policy: Policy, name: str) -> list[Proof]:
    """Give the proofs of all objects of this name, with or without their schema: functions, views, types, operators."""
    return _Court(rows, policy, (), None).proofs(name)


class Uses(NamedTuple):
    """Say what leads to what in a database, whether or not it is a read."""

    names: Catalog
    """What names can mean, and no taints."""
    objects: Mapping[Key, Finding]
    nameless: frozenset[Key]
    """What can run in every statement."""


def uses(rows: Rows, policy: Policy) -> Uses:
    """Find what uses what."""
    court = _Court(rows, policy, (), None, roles=True)
    return Uses(replace(court.catalog(), everything=None), court.objects, frozenset(key for key, _ in court.nameless()))


class _Court:
    """Judge the objects of one reading of the catalogues, then let the taints spread."""

    def __init__(
        self,
        rows: Rows,
        policy: Policy,
        skip: Collection[int],
        progress: Function[[int], None] | None,
        *,
        roles: bool = False,
        paths: Collection[tuple[int, ...]] = (),
    ) -> None:
        """Judge. `roles`: judge all types by role, and not only those that are no reads as a whole."""
        self._rows = rows
        self._policy = replace(policy, server_version=rows.version)
        self._allow = Patterns(policy.allow_functions)
        self._deny = Patterns(policy.deny_functions)
        self._skip = skip
        self._progress = progress
        self._types = {row.oid: row for row in rows.types}
        self._functions = {row.oid: row for row in rows.functions}
        self._row_types = {row.oid: row.row_type for row in rows.relations}
        self._shadows = frozenset(self._row_types.values())
        self._odd_rows = self._find_odd_rows()
        self._plain = Functions(self._policy).plain
        self._labels = Labels(rows, policy)
        self._candidates = Candidates(rows)
        self._names = by_name.sort(rows, self._candidates)
        self._bodies = Bodies(rows, self._policy, self._names, self._candidates)
        self._recorder = self._bodies.recorder
        self._world = None if rows.own is None else built_in.build(rows.own)
        self.objects: dict[Key, Finding] = {}
        self._judge_all()
        self._spread(by_role=False)
        if roles or any(kind == TYPE for kind, _ in self.taints):
            self._judge_roles(every=roles)
            self._spread(by_role=True)
        self.cleared, self._cleared_under = self._clear(paths)

    def catalog(self) -> Catalog:
        """Give what the filter needs."""
        operators = {row.name for row in self._rows.operators if (OPERATOR, row.oid) in self.taints}
        operators |= {name for name, key in LEADS.items() if key in self.taints}
        return replace(
            self._names,
            taints=self.taints,
            cleared=frozenset(self.cleared),
            cleared_under={schemas: frozenset(found) for schemas, found in self._cleared_under.items()},
            leaves=leaves(self._left, self.taints, (self.cleared, *self._cleared_under.values())),
            tainted_operators=frozenset(operators),
            tainted_types=any(kind in (TYPE, CAST, CAST_TO) for kind, _ in self.taints),
            everything=next(self._nameless(), None),
            code=next(self._tainted_code(), None),
            plans=self._names.plans._replace(dated=self._has_dates()),
            world=self._world,
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
            if row.language not in COMPILED and not row.trigger and (FUNCTION, row.oid) not in self.taints
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
        for key, rule in self.nameless():
            if key in self.taints:
                taint = self.taints[key]
                yield structs.replace(taint, rule=taint.rule or rule)
        yield from self._renamed()

    def nameless(self) -> Iterator[tuple[Key, str]]:
        """Give what runs where no name in a statement shows it, and the rule by which a statement is refused for it."""
        yield from (((FAMILY, row.oid), "unproved-operator") for row in self._rows.families)
        yield from (((OPERATOR, row.oid), "unproved-operator") for row in self._rows.operators if row.replaces)
        replaced = (row.oid for row in self._rows.functions if _is_replaced(row))
        yield from (((FUNCTION, oid), "unproved-function") for oid in (*self._rows.nameless, *replaced))
        # The views of information_schema have columns of its domains.
        built_in_types = (row for row in self._rows.types if row.oid < FIRST_NORMAL_OID and row.expressions)
        yield from (((TYPE, row.oid), "unproved-type") for row in built_in_types)
        yield from (((CAST, row.oid), "unproved-cast") for row in self._rows.casts if self._hidden(row))

    def _renamed(self) -> Iterator[Taint]:
        """Give the built-in functions that bear the name of a read, and do more."""
        major = self._rows.version // 10000
        for row in self._rows.renamed:
            # What is gone from this version has left its OID to another one.
            own = [each for each in tables.OIDS[row.oid] if not 0 < tables.FUNCTIONS[each].until < major]
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
        return kind not in (CAST, CAST_TO, *ROLES) and key in self.objects

    def _proof(self, key: Key, found: Finding) -> Proof:
        taint = None if key in self.cleared else self.taints.get(key)
        place = found.place
        if key in self._through:
            place = found.uses[self._through[key]]
        uses = tuple(self.objects[used].what for used in found.uses if used != key and self._is_shown(used))
        return Proof(found.what, taint, uses, place.text, place.line)

    # -- judging -------------------------------------------------------------------------------------------------------

    def _spread(self, *, by_role: bool) -> None:
        self._note_fetches()
        self._left = carried(self.objects)
        self._spoil_what_nobody_sees()
        self.taints, self._through = spread(self.objects, by_role=by_role)

    def _judge_all(self) -> None:
        for function in self._rows.functions:
            if not function.trigger:
                what = f"{_FUNCTIONS.get(function.kind, 'function')} {self._signature(function)}"
                # A pattern with a * cannot have meant dblink_exec.
                self._judge(FUNCTION, function, what, self._function, exact=self._labels.listed(function) == "block")
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
        self._judge_operators()
        self._judge_one(_SEARCH, Finding("text search", ""), self._call, self._rows.text_search)
        for extension in {row.extension for row in self._rows.functions} & _LOOKED_UP.keys():
            found = Finding(f"what the extension {extension} looks up", "")
            self._judge_one(
                (LOOKED_UP, _LOOKED_UP[extension]), found, self._bodies.looked_up, tables.RUN_BY_EXTENSIONS[extension]
            )
        self._casts()
        self._collections()

    def _judge_operators(self) -> None:
        for operator in self._rows.operators:
            operands = ", ".join(self._type_name(oid) for oid in (operator.left, operator.right) if oid)
            what = f"operator {operator.schema}.{operator.name} ({operands})"
            self._judge(OPERATOR, operator, what, self._operator)
        for family in self._rows.families:
            what = f"operator family {family.schema}.{family.name}"
            self._judge(FAMILY, family, what, lambda row: self._call(row.functions))

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
            worse = exact or row.name in tables.READING_EXTENSIONS.get(row.extension, ())
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
        self._bodies.begin(found)
        try:
            self._announce(key[1], subject)
            judge(subject)
        except Spoiled as spoiled:
            found.why, found.place, found.rule = spoiled.why, spoiled.place, spoiled.rule
            found.named, found.lacks = spoiled.named, spoiled.lacks
        except Exception as error:  # whatever goes wrong, it is not called a read
            found.why = f"it could not be judged, which is a fault of SideCart ({type(error).__name__})"
        if found.allowed:  # whatever it does, the operator calls it a read; what it leaves behind counts all the same
            found.why, found.place, found.rule = "", NOWHERE, ""
            found.carries.update(found.uses)
            found.uses.clear()

    def _note_fetches(self) -> None:
        """Have what fetches with settings of its own count as what sets the search_path: a query goes on under that."""
        keys = fetching(self.objects)
        for row in self._rows.functions:
            if (FUNCTION, row.oid) in keys and (row.definer or row.settings):
                self.objects[FUNCTION, row.oid].leaves.add((Effect.SETTING_INSIDE, "search_path"))

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
                raise Spoiled("its text ends the parser")
            if self._progress is not None:
                self._progress(oid)

    def _clear(self, others: Collection[tuple[int, ...]]) -> tuple[Cleared, dict[tuple[int, ...], Cleared]]:
        """Find what is a read under the search_path that sessions begin with, or another, of what is none under all."""
        if self._world is None or not self.taints:
            return {}, {}
        paths = Paths(self._rows, self._world, self._prove_again)
        cleared = paths.cleared(self.objects, self.taints, self._left)
        return cleared, {each: paths.cleared(self.objects, self.taints, self._left, each) for each in others}

    def _prove_again(self, row: FunctionRow, resolver: Resolver) -> Finding:
        """Judge a function under the search_path that it will run under."""
        found = Finding("", "")
        self._bodies.begin(found)
        try:
            self._announce(row.oid, row)
            self._function(row, resolver)
        except Spoiled as spoiled:
            found.why = spoiled.why
        except Exception as error:
            found.why = type(error).__name__
        return found

    # -- functions -----------------------------------------------------------------------------------------------------

    def _function(self, row: FunctionRow, resolver: Resolver | None = None) -> None:
        if row.kind == "p":
            raise Spoiled("it is a procedure, which can commit")
        verdict = self._labels.listed(row)
        if verdict == "block":
            raise Spoiled(f"it is one of those of the extension {row.extension} that do more than read", rule=LISTED)
        if verdict == "conditional" and row.name not in _BY_NAME_ONLY:
            raise Spoiled("it can do more than read, depending on its arguments", rule=LISTED)
        if not verdict and row.kind != "a":
            if row.language in ("sql", "plpgsql"):
                self._bodies.function(row, resolver)
            else:
                self._labels.check(row)
        if row.extension in _LOOKED_UP and row.language == "c":
            self._use(LOOKED_UP, (_LOOKED_UP[row.extension],))
        if row.kind == "a":
            self._call(row.support)
        else:
            self._use(FUNCTION, row.support)
        if row.default_expressions:
            bound = {(FUNCTION, oid) for oid in row.support}
            self._bodies.exact(f"SELECT {row.default_expressions}", "argument's default", bound)
        self._settings(row)
        # Arguments and results are coerced to their types: to a domain, by running its CHECKs.
        self._use(TYPE, row.arguments)
        self._use(TYPE, row.returns)

    def _settings(self, row: FunctionRow) -> None:
        for setting in row.settings:
            name, _, value = setting.partition("=")
            if settings.refuse_value(settings.fold(name), value) is not None:
                raise Spoiled(f'it sets {name} to "{value}"')
            if "." in name:  # it reads '' afterwards, and not NULL
                self._bodies.leaves.add((Effect.SETTING_INSIDE, settings.fold(name)))

    def _built_in(self, row: BuiltIn) -> None:
        # An operator, a cast or an aggregate calls it by its OID, with arguments that no text shows: the names that are
        # judged by their arguments will not do.
        if row.schema == "pg_catalog" and row.name not in self._plain:
            raise Spoiled("it does more than read, or can do more than read")
        if row.name in LEADS:
            self._recorder.get(LEADS[row.name])

    # -- everything else -----------------------------------------------------------------------------------------------

    def _relation(self, row: RelationRow) -> None:
        if row.server:
            raise Spoiled(f"it reads the foreign server {row.server}")
        bound = {(FUNCTION, oid) for oid in row.functions} | {(OPERATOR, oid) for oid in row.operators}
        if row.definition:
            self._bodies.exact(row.definition, "definition", bound)
        for expression in row.expressions:
            self._bodies.exact(f"SELECT {expression}", "policy or generated column", bound)
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
        self._checks(row)
        self._call(row.functions)
        self._use(TYPE, row.parts)

    def _judge_roles(self, *, every: bool) -> None:
        """Judge by role the types that are no reads as a whole; or `every` one."""
        spoiled = {oid for oid in self._types if every or (TYPE, oid) in self.taints}
        roles = Roles(self._types, self._rows.casts, spoiled, use=self._use, call=self._call, checks=self._checks)
        for oid in roles.judged:
            whole = self.objects[TYPE, oid]
            for role, judge in roles.judges.items():
                found = Finding(whole.what, whole.name, extension=whole.extension, allowed=whole.allowed)
                self._judge_one((role, oid), found, judge, self._types[oid])

    def _checks(self, row: TypeRow) -> None:
        bound = {(FUNCTION, oid) for oid in row.functions}
        for expression in row.expressions:
            self._bodies.exact(f"SELECT {expression}", "CHECK or default", bound)

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
            for user in (self.objects[kind, type_.oid] for kind, type_ in self._casting(row, source, target)):
                if not user.allowed:
                    user.uses.setdefault((CAST, row.oid), NOWHERE)

    def _casting(self, row: CastRow, source: TypeRow, target: TypeRow) -> list[tuple[str, TypeRow]]:
        """Return what a statement has in it that runs a cast: types, or casts to them."""
        if is_built_in(source) and is_built_in(target):
            # The columns of a row are cast with it, and which types they are of is not known here.
            rows = (type_ for type_ in self._rows.types if type_.kind == "c")
            return [(CAST_TO, type_) for type_ in (target, *rows)]
        if not row.function or is_built_in(target):
            return [(TYPE, source)]  # what is cast is not named
        if row.context != "e":  # PL/pgSQL assigns wherever it has a variable, but what it assigns is of a type
            return [(TYPE, target if is_built_in(source) else source)]
        return [(CAST_TO, target)]

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
            if row is not None and row.name in _BY_NAME_ONLY and self._labels.listed(row) == "conditional":
                raise Spoiled(f"it calls {self.objects[FUNCTION, oid].what}, whose arguments nobody looks at there")
            self._use(FUNCTION, (oid,))

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
_LOOKED_UP = {extension: place for place, extension in enumerate(tables.RUN_BY_EXTENSIONS, 1)}
_COLLECTIONS = frozenset("bm")
"""typtype of arrays, which nothing but what they are made of sets apart from base types, and of multiranges."""
_FUNCTIONS = {"a": "aggregate", "p": "procedure"}
_RELATIONS = {
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
}


def _is_replaced(row: FunctionRow) -> bool:
    """Tell whether a function is a built-in that is not as initdb wrote it."""
    return row.oid < FIRST_NORMAL_OID and row.schema in ("pg_catalog", "information_schema")


_CLOCK = re.compile(
    r"\b(now\s*\(|current_(date|time)|localtime|(clock|statement|transaction)_timestamp|timeofday|age\s*\()",
    re.IGNORECASE,
)

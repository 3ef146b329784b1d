"""Judge texts of a database's own: bodies of functions, and what the server has printed of views, policies and types.

Whoever is asked for while a text is judged is written down (`Recorder`), and what it leaves behind.

A text that the server printed under an empty search_path is judged `exact`. The text of a body means what its names
mean when it runs: any object of that name in any schema, unless the search_path is given that it will run under. Then
the resolver says what the server picks, statement by statement; where it does not know, any object counts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from proxy.proofs import plpgsql
from proxy.proofs.taints import NOWHERE, Finding, Place
from proxy.sql import expressions, refusals, tables
from proxy.sql import text as texts
from proxy.sql.by_name import is_polymorphic
from proxy.sql.candidates import Candidates, is_built_in
from proxy.sql.catalog import FUNCTION, OPERATOR, TYPE, UNREADABLE, Catalog, FunctionRow, Key, Rows, Taint
from proxy.sql.functions import LEADS, Functions
from proxy.sql.judgement import Judgement, Terms
from proxy.sql.picked import Meaning
from proxy.sql.policy import Policy
from proxy.sql.resolve import NotModelledError, RejectedError, Resolver, oids, variables
from proxy.sql.resolve.oids import ANY_TYPE
from proxy.sql.tables import Refused
from proxy.sql.verdict import UNRESOLVED, Effect

Bound = Set[Key]


class Spoiled(Exception):  # noqa: N818 - it is a finding
    """Say in a clause why the object that is being judged is no read, and where that stands.

    `named`: what its names mean has a part in it. `lacks`: one of them is not there.
    """

    def __init__(
        self, why: str, place: Place = NOWHERE, rule: str = "", *, named: bool = False, lacks: bool = False
    ) -> None:
        super().__init__(why)
        self.why = why
        self.place = place
        self.rule = rule
        self.named = named
        self.lacks = lacks


class Recorder:
    """Stand in for the taints: there are none, and whoever is asked for is written down."""

    __slots__ = ("place", "uses")

    def __init__(self) -> None:
        self.uses: dict[Key, Place] = {}
        self.place = NOWHERE

    def get(self, key: Key, /) -> Taint | None:
        self.uses.setdefault(key, self.place)
        return None


class Bodies:
    """Judge the texts in one reading of the catalogues. `names` are the rows by name."""

    def __init__(self, rows: Rows, policy: Policy, names: Catalog, candidates: Candidates) -> None:
        self._policy = policy
        self._names = names
        self._candidates = candidates
        self._foreign = bool(names.spellings)
        self._types = {row.oid: row for row in rows.types}
        self._row_types = {row.oid: row.row_type for row in rows.relations}
        records = {oid for oid, type_ in self._types.items() if type_.name in _ROWS}
        self._record_givers = {row.name.lower() for row in rows.functions if records.issuperset(row.returns)}
        self._codes: dict[Key, int] = {(OPERATOR, row.oid): row.function for row in rows.operators}
        self._overloaded: dict[Key, tuple[str, str, str]] = {
            (kind, found.oid): (kind, found.schema, name)
            for kind, mapping in ((FUNCTION, names.functions), (OPERATOR, names.operators))
            for name, every in mapping.items()
            if len(every) > 1
            for found in every
        }
        self.recorder = Recorder()
        self.leaves: set[tuple[Effect, str]] = set()
        """What the object that is being judged leaves behind."""
        self._found = Finding("", "")
        recording = replace(
            names,
            taints=self.recorder,
            # So that each one is asked for.
            tainted_operators=frozenset((*names.operators, *LEADS)),
            tainted_types=True,
            code=Taint("code that is no read", "which one, its argument says", ""),
        )
        self._anywhere = Functions(policy, recording, remember=False)
        self._exact = Functions(policy, replace(recording, exact=True), remember=False)

    def begin(self, found: Finding) -> None:
        """Write down from now on what `found` uses and leaves behind."""
        self.recorder.uses = found.uses
        self.recorder.place = NOWHERE
        self.leaves = found.leaves
        self._found = found

    def looked_up(self, sql: str) -> None:
        """Judge a text that the C code of an extension runs, under whatever search_path there is. Raises Spoiled."""
        self._text(sql, "SQL", self._anywhere, own=frozenset())

    # -- bodies of functions -------------------------------------------------------------------------------------------

    def function(self, row: FunctionRow, resolver: Resolver | None = None) -> None:
        """Judge the body of a function in SQL or PL/pgSQL. `resolver`: of the search_path that it will run under.

        Raises Spoiled.
        """
        if UNREADABLE in row.definition:
            raise Spoiled("its body could not be printed by the server")
        if row.language == "plpgsql":
            self._plpgsql(row, resolver)
        elif row.source:
            self._sql(row, resolver)
        else:
            self._sql_standard(row)

    def _sql(self, row: FunctionRow, resolver: Resolver | None) -> None:
        anything = self._takes_anything(row)
        meaning = None
        if resolver is not None:
            function = resolver.world.functions[row.oid]
            meaning = Meaning(resolver, variables.argument_types(function), variables.arguments(function))
        self._text(
            row.source,
            "body",
            self._anywhere,
            polymorphic=anything,
            own=None if anything else self._candidates.given(row.arguments),
            named=self._parameters(row),
            meaning=meaning,
        )

    def _parameters(self, row: FunctionRow) -> dict[str, str]:
        """Give the names of the arguments of a function in SQL, and their types where those are built-in ones."""
        try:
            (raw,) = texts.parse(row.definition, foreign=self._foreign)
            parameters = raw["stmt"]["CreateFunctionStmt"].get("parameters", ())
        except (Refused, ValueError, KeyError) as error:
            raise Spoiled("its arguments cannot be parsed") from error
        given = [each["FunctionParameter"] for each in parameters]
        named = [each.get("name", "") for each in given if each["mode"] not in plpgsql.OUTPUTS]
        types = [self._types.get(oid) for oid in row.arguments]
        if len(named) != len(types):
            return dict.fromkeys(named, "")
        return {
            name: type_.name if type_ is not None and is_built_in(type_) and type_.name in tables.TYPES else ""
            for name, type_ in zip(named, types, strict=True)
            if name
        }

    def _plpgsql(self, row: FunctionRow, resolver: Resolver | None) -> None:
        try:
            parts = plpgsql.read(row.definition, row.source, self._is_scalar)
        except plpgsql.Unreadable as unreadable:
            raise Spoiled(f"its body {unreadable.why}", Place(unreadable.text, unreadable.line)) from unreadable
        self._found.fetches |= _FETCH.search(row.source) is not None
        pieces = {piece.sql: Place(piece.text, piece.line) for piece in parts.pieces}
        own: frozenset[int] | None = self._candidates.given((*row.arguments, *row.returns))
        if parts.row_types or self._takes_anything(row) or self._takes_rows(row):
            own = None
        meaning, uncertain = None, set[str]()
        if resolver is not None:
            meaning = self._variables(row, parts, resolver)
            uncertain = {sql for sql in parts.declared.values() if self._declared(sql, resolver) == ANY_TYPE}
        while True:
            # A variable takes a value from one piece to another.
            occurring = frozenset(own or ()).union(
                *(
                    self._text(
                        sql,
                        "body",
                        self._anywhere,
                        place,
                        own=own,
                        named=parts.variables,
                        meaning=None if sql in uncertain else meaning,
                    )
                    for sql, place in pieces.items()
                )
            )
            if own is None or occurring == own:
                break
            own = occurring
        self._note_rows(parts)

    def _note_rows(self, parts: plpgsql.Parts) -> None:
        """Note the types of variables that hold rows."""
        for row_type in parts.row_types:
            self.recorder.place = Place(".".join(row_type.names), row_type.line)
            for name in row_type.names:
                for type_ in self._names.types.get(name, ()):
                    self.recorder.get((TYPE, type_.oid))
                for relation in self._names.relations.get(name, ()):
                    self.recorder.get((TYPE, self._row_types[relation.oid]))

    def _variables(self, row: FunctionRow, parts: plpgsql.Parts, resolver: Resolver) -> Meaning:
        """Say what the expressions of a function in PL/pgSQL see, and of which types that is, where it is certain."""
        function = resolver.world.functions[row.oid]
        given = variables.parameters(function)
        types = {_SUBSCRIPTED: ANY_TYPE}
        for name, built_in in parts.variables.items():
            if name in parts.repeated or (name in given and name in parts.declared):
                types[name] = ANY_TYPE
            elif name in given:
                types[name] = given[name]
            elif name in parts.declared:
                types[name] = self._declared(parts.declared[name], resolver)
            else:
                types[name] = _IMPLICIT.get(built_in, ANY_TYPE)
        outside = variables.variables(resolver.world, types, {row.name, *parts.labels})
        return Meaning(resolver, variables.argument_types(function), outside)

    def _declared(self, sql: str, resolver: Resolver) -> int:
        """Return the type that a DECLARE gives a variable; ANY_TYPE where it is not certain.

        Types are looked up when a function is called first in its session, under whatever path that has then, and stay
        as they are (plpgsql_compile(), pl_comp.c).
        """
        try:
            statement = texts.parse(sql, foreign=self._foreign)[0]["stmt"]
            names = statement["SelectStmt"]["targetList"][0]["ResTarget"]["val"]["TypeCast"]["typeName"]["names"]
            if len(names) == 1 and len(resolver.world.types_named.get(names[0]["String"]["sval"], ())) > 1:
                return ANY_TYPE
            ((_, type_),) = resolver.resolve(statement).output
        except (Refused, RejectedError, NotModelledError, ValueError, LookupError):
            return ANY_TYPE
        return ANY_TYPE if type_ in (oids.RECORD, oids.UNKNOWN) or type_ in oids.POLYMORPHIC else type_

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
            (raw,) = texts.parse(row.definition, foreign=self._foreign)
            body = raw["stmt"]["CreateFunctionStmt"].get("sql_body", {"List": {}})
        except (Refused, ValueError, KeyError) as error:
            raise Spoiled("its body cannot be parsed") from error
        blocks = body["List"].get("items", ()) if "List" in body else [{"List": {"items": [body]}}]
        start = _STANDARD_BODY.search(row.definition)
        place = Place("" if start is None else row.definition[start.start() :].strip(), 1)
        bound = {(FUNCTION, oid) for oid in row.support}
        self._found.fetches |= _TO_XML.search(row.definition) is not None
        with self._apart():
            for statement in (item for block in blocks for item in block.get("List", {}).get("items", ())):
                judgement = Judgement(self._exact, self._policy, Terms(own=None))
                self._statement({"stmt": _selected(statement)}, row.definition, "body", judgement, place, bound)

    def _takes_rows(self, row: FunctionRow) -> bool:
        """Tell whether a function in PL/pgSQL gets rows from elsewhere, whose columns can be of any type."""
        if any(self._types[oid].name in _ROWS for oid in row.arguments if oid in self._types):
            return True
        words = {word.lower() for word in _WORD.findall(row.source)}
        return not words.isdisjoint(_CURSORS) or not words.isdisjoint(self._record_givers)

    def _takes_anything(self, row: FunctionRow) -> bool:
        """Tell whether a function in SQL takes arguments of types that its call decides: of void, among others."""
        return any(is_polymorphic(self._types[oid].name) for oid in row.arguments if oid in self._types)

    def _text(
        self,
        sql: str,
        part: str,
        functions: Functions,
        place: Place | None = None,
        *,
        polymorphic: bool = False,
        own: frozenset[int] | None = None,
        named: Mapping[str, str] | None = None,
        meaning: Meaning | None = None,
        bound: Bound | None = None,
    ) -> set[int]:
        """Judge a text that is to consist of SELECTs. `part` is what the reason calls it.

        Return what `Judgement.occurring` says.
        """
        if UNREADABLE in sql:  # the parser would stop there without a word
            raise Spoiled(f"its {part} could not be printed by the server")
        try:
            statements = texts.parse(sql, foreign=self._foreign)
        except Refused as refused:
            raise Spoiled(f"its {part} cannot be parsed: {refused.refusal.message}", place or NOWHERE) from refused
        self._found.fetches |= _TO_XML.search(sql) is not None
        occurring: set[int] = set()
        for raw in statements:
            terms = Terms(polymorphic=polymorphic, own=own, variables=named, meaning=meaning)
            judgement = Judgement(functions, self._policy, terms)
            self._statement(raw, sql, part, judgement, place, bound)
            occurring |= judgement.occurring
        return occurring

    def _statement(
        self,
        raw: dict[str, Any],
        sql: str,
        part: str,
        judgement: Judgement,
        place: Place | None = None,
        bound: Bound | None = None,
    ) -> None:
        start = raw.get("stmt_location", 0)
        end = start + raw["stmt_len"] if "stmt_len" in raw else None
        self.recorder.place = place or _place(sql, start, end)
        ((name, body),) = raw["stmt"].items()
        try:
            if name != "SelectStmt":
                raise refusals.statement(name, body)
            expressions.judge(judgement, name, body)
        except Refused as refused:
            _, command = texts.caret(sql, start, end, refused.location, refused.word)
            named = name == "SelectStmt"
            why = f"its {part} {_reason(refused.refusal, command)}"
            lacks = refused.refusal.rule in UNRESOLVED
            raise Spoiled(why, self.recorder.place, named=named, lacks=lacks) from refused
        if bound is not None and not judgement.constants_decide:
            self._leave_out_others(bound)
        for effect, what in judgement.effects:
            self._leave(effect, what, part)

    def _leave(self, effect: Effect, what: str, part: str) -> None:
        """Note what a statement leaves behind. Raises Spoiled where no read does that."""
        # The transaction takes a SET LOCAL away, and it is a read, too; what takes an id has left all there is.
        local = effect in (Effect.SETTING_LOCAL, Effect.RESET_LOCAL)
        left = Effect.SETTING_INSIDE if local else Effect.SETTING if effect is Effect.RESET else effect
        self.leaves.add((left, what))
        if local or effect is Effect.TRANSACTION_ID:
            return
        if effect is Effect.LIST_STATEMENTS:
            why = f"its {part} shows what other clients have prepared on the connection"
            raise Spoiled(why, self.recorder.place, "other-clients")
        does = (
            f"sets {what} for the session"
            if effect in (Effect.SETTING, Effect.RESET)
            else f"leaves a trace in the session ({what})"
        )
        raise Spoiled(f"its {part} {does}", self.recorder.place)

    def _leave_out_others(self, bound: Bound) -> None:
        """Forget the overloads that a text was not bound to, where one of the same name is among what it was."""
        named: defaultdict[tuple[str, str, str], list[Key]] = defaultdict(list)
        for kind, oid in self.recorder.uses:
            if (kind, oid) in self._overloaded:
                named[self._overloaded[kind, oid]].append((kind, oid))
        for keys in named.values():
            meant = [key for key in keys if key in bound or (FUNCTION, self._codes.get(key, 0)) in bound]
            for key in keys if meant else ():
                if key not in meant:
                    del self.recorder.uses[key]

    # -- texts that the server has printed -----------------------------------------------------------------------------

    def exact(self, sql: str, part: str, bound: Bound) -> None:
        """Judge what was printed under an empty search_path: names mean what stands there, but for overloads.

        `bound` has the functions and operators that it refers to, by pg_depend. Raises Spoiled.
        """
        with self._apart():
            self._text(sql, part, self._exact, bound=bound)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Write down who is asked for apart from those before, until all of it is known."""
        uses = self.recorder.uses
        self.recorder.uses = {}
        try:
            yield
        finally:
            for key, place in self.recorder.uses.items():
                uses.setdefault(key, place)
            self.recorder.uses = uses


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


def _reason(refusal: tables.Refusal, command: str) -> str:
    """Turn a refusal into what a body does: `executes INSERT`."""
    message = refusal.message.removesuffix(": SideCart forwards reads only")
    if message.startswith("cannot execute "):
        return f"executes {message.removeprefix('cannot execute ').replace(tables.COMMAND, command or 'a statement')}"
    called = _DETAIL.fullmatch(refusal.detail)
    if called is not None:
        return f"calls {called[1]}, which {called[2]}"
    if message.startswith("permission denied "):
        message = f"{message}: {_RULE.sub('', refusal.detail).rstrip('.')}"
    return f"is refused: {message}"


_ROWS = frozenset({"record", "_record", "refcursor", "_refcursor"})
_CURSORS = frozenset({"fetch", "cursor", "refcursor"})
_WORD = re.compile(r"\w+")
_FETCH = re.compile(r"\b(?:fetch|move)\b", re.IGNORECASE)
_TO_XML = re.compile(r'cursor_to_xml\b|u&"', re.IGNORECASE)
"""What is written U&"…" can be that name."""
_SUBSCRIPTED = "subscripted"
"""What `plpgsql` calls the array whose element is assigned to."""
_IMPLICIT = {"int4": oids.INT4, "bool": oids.BOOL, "text": oids.TEXT}
"""The types of variables that nobody declares: of a FOR loop, FOUND, SQLSTATE and SQLERRM."""

"""Judge the names and expressions in a text: what each call, operator, relation and type has to be for a read.

`conditions.py` holds what is asked of each kind of statement; `filter.py` makes verdicts of both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from typing import TypeVar, cast

from proxy.sql import literals, operators, refusals, settings, unread, versions
from proxy.sql import tables as rules
from proxy.sql import text as texts
from proxy.sql.catalog import (
    CAST,
    CAST_TO,
    FIRST_NORMAL_OID,
    FUNCTION,
    OPERATOR,
    RELATION,
    TYPE,
    Catalog,
    Key,
    Operator,
)
from proxy.sql.catalog import Callable as Function
from proxy.sql.functions import Functions
from proxy.sql.picked import ByNames, Meaning, Picked, pick
from proxy.sql.policy import Policy
from proxy.sql.reach import Reach
from proxy.sql.scope import Scope, Table
from proxy.sql.tables import Refused
from proxy.sql.verdict import AtBind, Effect, changes_path
from proxy.sql.walk import INTERESTING, Body, walk

Named = TypeVar("Named", Function, Operator)


class Judgement:
    """Hold what is found out about one text, and judge the expressions in it. Raises Refused."""

    __slots__ = (
        "_catalog",
        "_cleared",
        "_depth",
        "_functions",
        "_interesting",
        "_literals",
        "_meaning",
        "_mixed",
        "_picked",
        "_polymorphic",
        "_reach",
        "_read",
        "_relied",
        "_scope",
        "_variables",
        "alone",
        "at_bind",
        "bound",
        "boundary",
        "by_names",
        "codec",
        "constants_decide",
        "declared",
        "effects",
        "flagged",
        "kind",
        "lasts",
        "nulls",
        "occurring",
        "own",
        "policy",
        "replacement",
        "resolves",
        "under_path",
        "void",
    )

    def __init__(
        self,
        functions: Functions,
        policy: Policy,
        *,
        void: bool = False,
        polymorphic: bool = False,
        bound: bool = False,
        own: frozenset[int] | None = frozenset(),
        variables: Mapping[str, str] | None = None,
        meaning: Meaning | None = None,
        cleared: Collection[Key] = (),
    ) -> None:
        """Begin. `void`: parameters can be of type void for a reason that the text does not show. `bound`: a Bind gives
        them their values before anything runs.

        `polymorphic`: it is the body of a function in SQL with polymorphic arguments, which are parameters, are called
        by name, too, and can be of any type. `own`: see the attribute. `variables`: it is a piece of a function with
        parameters or variables of these names and built-in types; an empty text is any type.

        `meaning`: finds what the server picks; None: the search_path that the text will run with is not known, and a
        name can mean whatever bears it in any schema. `cleared` has what is a read under that path, although it is none
        under every path.
        """
        self._functions = functions
        self.policy = policy
        self._catalog = functions.catalog
        self._interesting = _interesting(self._catalog)
        if functions.denies_operators:
            self._interesting |= operators.KINDS
        # The TypeNames that constants are written with, by id(). They are kept, for the tree of SQL given as text is
        # gone before the statement is judged, and another TypeName could be made where one of them was.
        self._literals: dict[int, Body] = {}
        self._depth = 0  # of SQL given as text to functions
        self._polymorphic = polymorphic
        self.own = own
        """The database's own types that parameters and names can be of, and the text does not show it; None: any."""
        self._variables = variables
        self.occurring: set[int] = set()
        """With `variables`: the database's own types that values in what was judged can be of."""
        self._meaning = meaning
        self._cleared = cleared
        self._relied: Refused | None = None  # why what the text uses that is `cleared` is no read under another path
        self.under_path = False
        """As in Verdict."""
        self.lasts = False
        """Whether what is judged may run later on, when the search_path is another one."""
        self.resolves = True
        """Whether the server looks the names of a query up before anything else can change the search_path."""
        self.declared: Sequence[Body] = ()
        """The TypeNames of the parameters that a PREPARE has."""
        self.alone = True
        """Whether the text holds nothing but one statement."""
        self._picked: Picked | None = None  # what the server picks for the statement that is being walked
        self._scope: Scope | None = None  # of the statement that is being walked
        self._reach: Reach | None = None  # of the same, once it is asked for: making it costs 8 µs
        self._mixed = False  # whether it reads a table with columns of the database's own types
        self._read: set[tuple[object, ...]] = set()  # what was looked up and found to be a read
        self.void = void or polymorphic
        self.effects: list[tuple[Effect, str]] = []
        """What the statements so far leave behind, as in Verdict."""
        self.nulls: list[tuple[int, str]] = []
        self.at_bind: list[AtBind] = []
        self.codec = ""
        """These three as in Verdict."""
        self.bound = bound
        self.flagged = ""
        """A relation with secrets that is read."""
        self.kind = ""
        self.replacement = ""
        self.boundary = ""
        """These three are the last statement's, by `conditions.judge`."""
        self.by_names: ByNames | None = None
        """Why the first query of which not every name is known was judged by names; without a resolver: TEXT."""
        self.constants_decide = False
        """Whether a constant's value had a part in the verdict: another text of the same shape may get another one."""

    @property
    def changes_path(self) -> bool:
        """Whether a statement so far changes the search_path of what comes behind it."""
        return any(changes_path(*each) or each[0] is Effect.EXECUTE for each in self.effects)

    def select(self, body: Body) -> None:
        """Judge a SelectStmt."""
        self.expressions("SelectStmt", body)

    def expressions(self, name: str, body: Body) -> None:
        """Judge everything in a statement of this name, but for statements inside it."""
        if self._catalog is not None and self._catalog.everything is not None and name in _EVALUATES:
            raise Refused(refusals.unproved("unproved-cast", self._catalog.everything))
        walked = walk(name, body, self._interesting)
        if walked.unknown:
            part = walked.unknown[0]
            raise refusals.unknown(walked.visited, part.kind, part.field, part.rule, part.body)
        functions = self._functions
        scope = Scope(walked)
        if not self._depth:
            self._relied = None
        outer = self._scope, self._reach, self._mixed, self._picked
        self._scope, self._reach, self._mixed, self._picked = scope, None, False, self._pick(name, body)
        plain, attributes, denies = functions.plain, functions.attributes, functions.denies
        for kind, node in walked.found:
            # Most nodes are columns of some table, and calls of built-ins that only read: a tenth less time for a join.
            if kind == "ColumnRef":
                last = node["fields"][-1].get("String")
                if last is None or (last["sval"] not in attributes and not denies):
                    continue
            elif kind == "FuncCall":
                names = node["funcname"]
                if len(names) == 1 and names[0]["String"]["sval"] in plain:
                    continue
            _EXPRESSIONS[kind](self, kind, node, scope)
        if self._picked is not None and self._catalog is not None:
            self._judge_picked(self._picked, self._catalog)
        elif self._mixed and self._catalog is not None:
            for type_, location in self._reached(self._catalog).touched.items():
                self._touch(type_, location)
        if self._picked is None and self._variables is not None and self._catalog is not None:
            self.occurring |= self._reached(self._catalog).own
        self._scope, self._reach, self._mixed, self._picked = outer
        if self._catalog is None and self.policy.live:
            unread.check(walked, functions, self.policy.trouble)
        if scope.missing and self._catalog is not None:
            # Nothing else is wrong, which the server need not find: reading one may run what nobody has looked at.
            table = scope.first_missing()
            names = table.get("catalogname", ""), table.get("schemaname", ""), table["relname"]
            at = rules.NO_POSITION if scope.root == "CopyStmt" else table.get("location", 0)
            raise Refused(refusals.unknown_relation(*names, self._catalog.database), at)

    def _pick(self, name: str, body: Body) -> Picked | None:
        """Find what the server picks for a query; None: nobody knows.

        The server looks into SQL given as text when the function that runs it is called: later in the same statement,
        or at a FETCH or an Execute, when the search_path may be another one.
        """
        if name != "SelectStmt":
            return None
        found: Picked | ByNames
        if self._meaning is None:
            found = ByNames.TEXT
        elif not self.resolves or self.changes_path or self._depth:
            found = ByNames.LATER
        else:
            found = pick(self._meaning, body, self.declared)
        if isinstance(found, ByNames):
            self.by_names = self.by_names or found
            return None
        self.constants_decide = self.constants_decide or found.by_place
        return found

    def _is_cleared(self, kind: str, oid: int, rule: str, location: int) -> bool:
        """Tell whether what is picked is a read under the search_path of the statement, and under no other one.

        What a statement sets may come before what it calls, so it is judged at its end: see `_judge_picked`.
        """
        if self.lasts or self._catalog is None or (kind, oid) not in self._cleared:
            return False
        taint = self._catalog.taints.get((kind, oid))
        if taint is not None and self._relied is None:
            self._relied = Refused(refusals.unproved(rule, taint), location)
            self.under_path = True
        return True

    def _judge_picked(self, picked: Picked, catalog: Catalog) -> None:
        """Judge the database's own objects that the server picks."""
        taints = catalog.taints
        used = [
            (CAST, "unproved-cast", picked.casts),
            (OPERATOR, "unproved-operator", picked.operators),
            (FUNCTION, "unproved-function", picked.functions),
        ]
        if self._meaning is not None and self._meaning.outside is not None:
            # What becomes of a value in another statement of the body need not be known.
            used.append((TYPE, "unproved-type", set[int]().union(*picked.hidden().values())))
        elif catalog.tainted_types:
            used += ((role, "unproved-type", types) for role, types in picked.hidden().items())
        for kind, rule, found in used:
            for oid in found:
                taint = taints.get((kind, oid))
                # What is built in is judged where it is called, by its name.
                if taint is None or (kind == FUNCTION and oid not in self._functions.own):
                    continue
                place = picked.place(oid)
                if not self._is_cleared(kind, oid, rule, place):
                    raise Refused(refusals.unproved(rule, taint), place)
        for type_ in picked.targets:
            taint = taints.get((CAST_TO, type_))
            if taint is not None:
                raise Refused(refusals.unproved("unproved-cast", taint), picked.place(type_))
        for function in picked.functions:
            self.effects += catalog.leaves.get((FUNCTION, function), ())
        if self._relied is not None and self.changes_path:
            raise self._relied

    def _call_picked(self, picked: Picked, catalog: Catalog, node: Body) -> None:
        """Judge a call, or what is written like one, by what the server picks for it: functions or casts, or a column.

        Those of the database are judged at the end, too; here, where an error can point to them.
        """
        location = node.get("location", 0)
        arguments = len(node.get("args", ()))
        for oid in picked.at("function", location) or ():
            schema, called = picked.name(oid)
            own = self._functions.functions_by_oid.get(called, oid)
            if own is not None and self._is_cleared(FUNCTION, oid, "unproved-function", location):
                own = None
            refusal = self._functions.judge(schema, called, arguments, [] if own is None else [own])
            if refusal is not None:
                raise Refused(refusal, location)

    def _call(self, _: str, node: Body, scope: Scope) -> None:
        if self._functions.as_column("FuncCall", node) is not None:
            return
        schema, name = self._functions.meant(node, *literals.qualified(node["funcname"]))
        # Those without a schema were passed by in `expressions`.
        if schema == "pg_catalog" and name in self._functions.plain:
            return
        location = node.get("location", 0)
        picked = self._picked
        if picked is not None and picked.at("called", location) is not None and self._catalog is not None:
            self._call_picked(picked, self._catalog, node)
            self._look_into(name, node, scope)
            return
        arguments = len(node.get("args", ()))
        vanishing = operators.vanishing(node, names=self._polymorphic)
        if vanishing and self._can_be_void(scope) and self._without(schema, name, arguments, vanishing, location):
            return
        if arguments == 1 and self._functions.is_type(schema, name):
            self._type_named(schema, name, location)
            return
        # WITHIN GROUP (ORDER BY …): the sorted expressions are arguments, too (parser/parse_func.c).
        arguments += len(node.get("agg_order", ())) if node.get("agg_within_group") else 0
        meant, among = schema, None
        if self._catalog is not None and name in self._catalog.functions and not schema:
            first = self._functions.comes_first("")
            if not (first and operators.means_built_in(name, node, self._catalog)):
                can_vanish = vanishing and self._can_be_void(scope)
                given = None if can_vanish else operators.arguments(node, self._reached(self._catalog).known)
                among = self._can_mean(self._catalog.function("", name, arguments), given)
            meant = "" if among or not first else "pg_catalog"
        refusal = self._functions.judge(meant, name, arguments, among)
        if refusal is not None:
            raise Refused(refusal, location)
        if arguments == 1 and self._functions.can_be_cast(schema, name):
            self._type_named(schema, name, location)  # no such function of that type: then it is a cast
        self._look_into(name, node, scope)
        if self._catalog is not None:
            self.effects += self._catalog.left_by(FUNCTION, self._catalog.function(meant, name, arguments))

    def _look_into(self, name: str, node: Body, scope: Scope) -> None:
        """Judge what a function is given, where that decides, and note what it leaves behind."""
        location = node.get("location", 0)
        if name in rules.SQL_TEXT_FUNCTIONS:
            self._sql_text(name, node)
        elif name == "set_config":
            self._set_config(node, scope)
        elif name == "lo_open":
            self._lo_open(name, node)
        elif name in rules.INPUT_TYPE_FUNCTIONS:
            self._input_type(name, node)
        elif name in _READS_BY_NAME:
            self._reads_by_name(name, node)
        elif name in rules.CODE_FUNCTIONS and self._catalog is not None and self._catalog.code is not None:
            # Which table it is about, a number may say. (RelationGetPartitionKey() computes what is constant in a key,
            # utils/cache/partcache.c; satisfies_hash_partition() and amcheck call functions of operator classes.)
            code = self._catalog.code
            why = f"The function {name} runs what belongs to tables, such as {code.what}: {code.why}"
            raise Refused(refusals.function("unproved-function", name, why), location)
        self._leaves(name)

    def _reached(self, catalog: Catalog) -> Reach:
        """Give what the statement that is being walked can reach."""
        if self._reach is None:
            scope = cast(Scope, self._scope)
            given = self.own or frozenset()
            self._reach = Reach(scope, self._functions, catalog, given, variables=self._variables)
        return self._reach

    def _can_mean(self, found: tuple[Named, ...], given: tuple[str, ...] | None) -> tuple[Named, ...]:
        """Leave out the functions or operators that are not chosen where these arguments are given."""
        if not self._functions.comes_first(""):
            return found  # then not even an exact match of pg_catalog's is sure to be chosen
        if not found or self.own is None or self._catalog is None:
            return found
        own = self._reached(self._catalog).own
        return tuple(each for each in found if operators.can_be_chosen(each.chosen, given, own))

    def _without(self, schema: str, name: str, arguments: int, vanishing: int, location: int) -> bool:
        """Judge a call without any of the arguments that can vanish; return whether it means something only so."""
        if name in _JUDGED_BY_ARGUMENTS:
            why = f"A parameter given to {name} may be of type void, and is none of its arguments then"
            hint = "Give the parameter a type, and write no cast to void."
            raise Refused(refusals.function("void-parameter", name, why, hint), location)
        found = False
        for count in range(arguments - vanishing, arguments):
            refusal = self._functions.judge(schema, name, count)
            if refusal is None:
                found = True
                if self._catalog is not None:
                    self.effects += self._catalog.left_by(FUNCTION, self._catalog.function(schema, name, count))
            elif refusal.rule != "unknown-function":
                raise Refused(refusal, location)
            if count == 1 and self._functions.can_be_cast(schema, name):
                self._type_named(schema, name, location)
        refusal = self._functions.judge(schema, name, arguments)
        if found and refusal is not None and refusal.rule == "unknown-function":
            self._leaves(name)
            return True
        return False

    def _can_be_void(self, scope: Scope) -> bool:
        """Tell whether a parameter of the statement can be of type void: it gets its type from what it stands beside.

        No column of a table is of that type (CheckAttributeType(), catalog/heap.c): it is written, or a function's.
        """
        return self.void or scope.gives_void(self._functions.voids)

    def _lo_open(self, name: str, node: Body) -> None:
        self.constants_decide = True
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

    def _leaves(self, function: str) -> None:
        if function in rules.SESSION_STATE_FUNCTIONS:
            self.effects.append((Effect.SESSION_STATE, function))
        elif function in rules.TRANSACTION_ID_FUNCTIONS:
            self.effects.append((Effect.TRANSACTION_ID, function))
        elif function == rules.STATEMENTS_FUNCTION:
            self.effects.append((Effect.LIST_STATEMENTS, function))

    def _column(self, _: str, node: Body, scope: Scope) -> None:
        # ParseFuncOrColumn(), parser/parse_func.c: `x.f` is f(x) where x has no column f. Only the last part can be f.
        fields = node["fields"]
        name = fields[-1]["String"]["sval"]
        if self._picked is not None and self._picked.is_column(node.get("location", 0)):
            return
        if self._functions.is_attribute(name):
            schema = fields[-3]["String"]["sval"] if len(fields) > 2 else ""
            if not self._is_column(schema, fields[-2]["String"]["sval"], name, scope):
                self._attribute(name, operators.TYPED, node.get("location", 0))

    def _is_column(self, schema: str, table: str, name: str, scope: Scope) -> bool:
        """Tell whether `table` has this column, wherever in the statement that name is given to something."""
        key = (schema, table, name)
        if key not in scope.columns:
            scope.columns[key] = self._catalog is not None and self._has_column(
                self._catalog, schema, name, scope.tables(table)
            )
        return scope.columns[key]

    @staticmethod
    def _has_column(catalog: Catalog, schema: str, name: str, tables: Collection[Table]) -> bool:
        for in_schema, relation, columns in tables:
            if schema and in_schema and in_schema != schema:
                return False
            if columns is not None:  # its columns bear other names here
                if name not in columns:
                    return False
                continue
            meant = catalog.relation(in_schema, relation)
            if not meant or not all(name in each.columns for each in meant):
                return False
        return bool(tables)

    def _indirection(self, _: str, node: Body, __: Scope) -> None:
        for part in node["indirection"]:
            if "String" in part and self._functions.is_attribute(part["String"]["sval"]):
                self._attribute(part["String"]["sval"], operators.OPEN, -1)

    def _attribute(self, name: str, given: str, location: int) -> None:
        key = (FUNCTION, name, given)
        if key in self._read:
            return
        found = () if self._catalog is None else self._catalog.function("", name, 1)
        refusal = self._functions.attribute(name, self._can_mean(found, (given,)))
        if refusal is not None:
            raise Refused(refusal, location, "" if location >= 0 else f"={name}")
        if self._catalog is not None:
            self.effects += self._catalog.left_by(FUNCTION, self._catalog.function("", name, 1))
        self._leaves(name)
        self._read.add(key)

    def _operator(self, kind: str, node: Body, _: Scope) -> None:
        known = operators.UNREAD if self._catalog is None else self._reached(self._catalog).known
        for use in operators.used(kind, node, known):
            key = (OPERATOR, use)
            if key not in self._read:
                location = node.get("location", 0)
                picked = self._picked is not None and self._picked.at("operator", location) is not None
                self._used(use, location, picked=picked)
                if not picked:
                    self._read.add(key)

    def _used(self, use: operators.Use, location: int, *, picked: bool) -> None:
        """Judge an operator; one that is picked, by its name alone: the object is judged with the others."""
        refusal = self._functions.operator(use.schema, use.name)
        if refusal is not None:
            raise Refused(refusal, location)
        if picked:
            return
        catalog = self._catalog
        meant = () if catalog is None else catalog.operator(use.schema, use.name)
        if catalog is None or not meant:
            if use.schema in ("", "pg_catalog") or self._functions.allows_operator(use.schema, use.name):
                return
            raise Refused(refusals.unknown_operator(use.schema, use.name), location)
        # What is cast to date need not be one where other schemas come before pg_catalog.
        if not catalog.implicit_casts and self._functions.comes_first(""):
            meant = tuple(
                operator
                for operator in meant
                if operators.can_be(use.left, operator.left) and operators.can_be(use.right, operator.right)
            )
        taint = catalog.taint(OPERATOR, meant if use.schema else self._can_mean(meant, use.given))
        if taint is not None:
            raise Refused(refusals.unproved("unproved-operator", taint), location)

    def _relation(self, _: str, node: Body, scope: Scope) -> None:
        name = node["relname"]
        schema = node.get("schemaname", "")
        if name in rules.SECRET_RELATIONS and schema in ("", "pg_catalog"):
            self.flagged = name
        if name == rules.STATEMENTS_VIEW and schema in ("", "pg_catalog"):
            self.effects.append((Effect.LIST_STATEMENTS, name))
        refusal = self._functions.relation(schema, name)
        if refusal is not None:
            raise Refused(refusal, node.get("location", 0))
        if self._catalog is None or scope.root in _READS_NOTHING or scope.is_query(node):
            return
        key = (RELATION, node.get("catalogname", ""), schema, name)
        if key in self._read:
            return
        if self._picked is None:
            meant = self._catalog.relation(schema, name)
        else:
            places = self._picked.at("relation", node.get("location", 0)) or ()
            found = [self._functions.relations_by_oid.get(name, oid) for oid in places]
            meant = tuple([each for each in found if each is not None and self._catalog.fits(schema, each.schema)])
        if not meant or node.get("catalogname", self._catalog.database) != self._catalog.database:
            scope.missing.append(node)
            return
        location = node.get("location", 0)
        judged = meant
        if self._picked is not None and self._cleared:
            rule = "unproved-relation"
            judged = tuple(each for each in meant if not self._is_cleared(RELATION, each.oid, rule, location))
        taint = self._catalog.taint(RELATION, judged)
        if taint is not None:
            raise Refused(refusals.unproved("unproved-relation", taint), location)
        self.effects += self._catalog.left_by(RELATION, meant)
        if name in rules.ANYARRAYS and schema in ("", "pg_catalog"):
            self._values_of_any_type(name, self._catalog, scope)
            return
        if any(each.own for each in meant):
            self._mixed = True  # which of its columns the statement touches is asked of each statement
        else:
            self._read.add(key)

    def _values_of_any_type(self, name: str, catalog: Catalog, scope: Scope) -> None:
        """Judge every type of the database where a statement touches a column that holds values of any type.

        What is given them looks them over at run time: to_json() casts them, max() compares them.
        """
        if not any(
            kind in rules.KEYWORD_FUNCTIONS or self._looks_over(kind, node) for kind, node in scope.walked.visited
        ):
            return
        rows, renamed = {name}, False  # the name of a table is its whole row
        for kind, node in scope.walked.visited:
            if kind in ("RangeVar", "JoinExpr", "RangeSubselect"):
                alias = node.get("alias", {})
                rows.add(alias.get("aliasname", name))
                renamed = renamed or "colnames" in alias or "isNatural" in node
        for kind, node in scope.walked.visited:
            if kind != "ColumnRef":
                continue
            last = node["fields"][-1]
            if "A_Star" in last or renamed or last["String"]["sval"] in rules.ANYARRAYS[name] | rows:
                for type_ in (each.oid for found in catalog.types.values() for each in found):
                    if type_ >= FIRST_NORMAL_OID:
                        self._touch(type_, node.get("location", -1))
                return

    def _looks_over(self, kind: str, node: Body) -> bool:
        """Tell whether a node calls, or may call, what looks a value of any type over, or what nobody has looked at."""
        if kind == "FuncCall":
            names = [node["funcname"][-1]]
        elif kind == "ColumnRef":
            names = node["fields"][1:]
        else:
            names = node["indirection"] if kind == "A_Indirection" else []
        called = [name["String"]["sval"] for name in names if "String" in name]
        own = {} if self._catalog is None else self._catalog.functions
        return any("json" in name or name in rules.ANYARRAY_FUNCTIONS or name in own for name in called)

    def _touch(self, type_: int, location: int) -> None:
        """Judge the type of a column that the statement touches, or of the rows of a table."""
        taint = None if self._catalog is None else self._catalog.taints.get((TYPE, type_))
        if taint is not None:
            raise Refused(refusals.unproved("unproved-type", taint), location)

    def _cast(self, _: str, node: Body, __: Scope) -> None:
        # The type's own input function reads 'x'::t and null::t; there is nothing to cast (coerce_type()).
        if node["arg"].get("A_Const", {}).keys() & {"sval", "isnull"}:
            self._literals[id(node["typeName"])] = node["typeName"]

    def _type(self, _: str, node: Body, __: Scope) -> None:
        if "names" in node and (self._picked is None or self._picked.at("type", node.get("location", 0)) is None):
            literal = id(node) in self._literals
            self._type_named(*self._functions.meant_type(node["names"]), node.get("location", -1), literal=literal)

    def _type_named(self, schema: str, name: str, location: int, *, literal: bool = False) -> None:
        catalog = self._catalog
        key = (TYPE, schema, name, literal)
        if catalog is None or key in self._read:
            return
        # settings.py lets no search_path of a client's put pg_catalog anywhere but first; the server's own can.
        built_in = self._functions.comes_first(schema) and self._functions.is_built_in_type(name)
        if built_in and not catalog.tainted_types:
            return
        meant = catalog.type("pg_catalog" if built_in else schema, name)
        taint = catalog.taint(TYPE, meant)
        if taint is not None:
            raise Refused(refusals.unproved("unproved-type", taint), location)
        taint = None if literal else catalog.taint(CAST_TO, meant)
        if taint is not None:
            raise Refused(refusals.unproved("unproved-cast", taint), location)
        if not meant and not built_in:
            raise Refused(refusals.unknown_type(schema, name), location)
        self._read.add(key)

    def are_built_in(self, types: Collection[Body]) -> bool:
        """Tell whether types can mean nothing but pg_catalog's."""
        names = (self._functions.meant_type(type_["TypeName"].get("names", ())) for type_ in types)
        return all(
            self._functions.comes_first(schema) and self._functions.is_built_in_type(name) for schema, name in names
        )

    def _query(self, _: str, node: Body, __: Scope) -> None:
        """Let a query of WITH be: `Scope` looks for them among what the walk has found."""

    def _sample(self, _: str, node: Body, __: Scope) -> None:
        schema, name = literals.qualified(node["method"])
        if name not in rules.SAMPLE_METHODS or schema not in ("", "pg_catalog"):
            refusal = self._functions.judge(schema, name, 1)
            if refusal is not None:
                raise Refused(refusal, node.get("location", 0))

    def _keyword(self, kind: str, node: Body, scope: Scope) -> None:
        name, since = rules.KEYWORD_FUNCTIONS[kind]
        refusal = self._functions.json_casts()
        if refusal is not None:
            raise Refused(refusal, node.get("location", -1))
        if kind == "JsonParseExpr":
            # The one that is a type's name, too: before it was a keyword, json(x) was a function or a cast.
            if self._functions.before(since):
                location = node.get("location", 0)
                call = {
                    "funcname": [{"String": {"sval": name}}],
                    "args": [node["expr"]["raw_expr"]],
                    "location": location,
                }
                self._call("FuncCall", call, scope)
            return
        name = name or versions.JSON_FUNCTIONS.get(node.get("op", ""), "json_value")
        refusal = self._functions.keyword(name, since)
        if refusal is not None:
            raise Refused(refusal, node.get("location", -1))
        if self._catalog is not None:
            self.effects += self._catalog.left_by(FUNCTION, self._catalog.functions.get(name, ()))

    def _sql_text(self, name: str, node: Body) -> None:
        self.constants_decide = True
        arguments = literals.arguments(node)
        location = node.get("location", 0)
        if name == "ts_rewrite" and arguments is not None and len(arguments) != 2:
            return  # with three arguments it takes queries, not SQL
        for at in rules.SQL_TEXT_FUNCTIONS[name]:
            if arguments is not None and (at >= len(arguments) or (at and self._is_no_text(arguments[at]))):
                continue
            constant = literals.string(arguments, at)
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

    def _is_no_text(self, argument: Body) -> bool:
        """Tell whether an argument cannot become a text, so that another function of that name is meant."""
        if "A_ArrayExpr" in argument:
            return True
        catalog = self._catalog
        casts = catalog is not None and catalog.implicit_casts
        return operators.type_of(argument, catalog or operators.UNREAD) in _NO_TEXTS and not casts

    def _reads_by_name(self, name: str, node: Body) -> None:
        """Judge what a function reads that takes the name of a relation or schema as text (utils/adt/xml.c)."""
        self.constants_decide = True
        location = node.get("location", 0)
        given = None
        if name not in rules.DATABASE_FUNCTIONS:  # their only text is the namespace of the document
            cast = "regclass" if name in rules.RELATION_TEXT_FUNCTIONS else "name"
            given = literals.string(literals.arguments(node), 0, cast)
        if name in rules.RELATION_TEXT_FUNCTIONS and given is not None:
            self._inner_text(name, f"TABLE {self._as_sql(name, given, location)}", location)
            return
        if given is None and name not in rules.DATABASE_FUNCTIONS:
            what = "schema" if name in rules.SCHEMA_TEXT_FUNCTIONS else "relation"
            why = f"The name of the {what} that {name} reads has to be a string constant"
            raise Refused(refusals.function("sql-text-function", name, why), location)
        self._check_spelling(name, given or "", location)
        if given is not None and len(given.encode()) >= literals.NAMEDATALEN:
            # The server cuts it off, by the bytes of its own encoding.
            raise Refused(refusals.function("sql-text-function", name, f"No name is as long as {given}"), location)
        if given == rules.SHARED_SCHEMA:
            why = f"The schema {given} has views that show what other clients left on the connection"
            raise Refused(refusals.function("other-clients", name, why), location)
        if self._catalog is not None:
            relations = self._catalog.relations_of(given or "")
            taint = self._catalog.taint(RELATION, relations)
            if taint is not None:
                raise Refused(refusals.unproved("unproved-relation", taint), location)
            for type_ in (type_ for each in relations if each.own for type_ in (each.row_type, *each.own.values())):
                self._touch(type_, location)
            self.effects += self._catalog.left_by(RELATION, relations)

    def _is_foreign(self) -> bool:
        """Tell whether names beyond ASCII may be other ones to the server: its encoding is not UTF-8."""
        return self._catalog is not None and bool(self._catalog.spellings)

    def _check_spelling(self, function: str, given: str, location: int) -> None:
        """Refuse a text that names things to a function, where E'\\xc3\\xa9' is not the letter that it was read as."""
        if self._is_foreign() and not given.isascii():
            why = f"What {function} is given may have letters of ASCII alone, as the database's encoding is not UTF-8"
            raise Refused(refusals.function("sql-text-function", function, why), location)

    @staticmethod
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

    def _inner_text(self, name: str, sql: str, location: int) -> None:
        """Judge SQL given as text to a function: it has to be one read."""
        self._check_spelling(name, sql, location)
        self._depth += 1
        try:
            statements = texts.parse(sql, foreign=self._is_foreign()) if self._depth <= _TEXT_DEPTH else []
            one_select = len(statements) == 1 and "SelectStmt" in statements[0]["stmt"]
            if one_select:
                self.select(statements[0]["stmt"]["SelectStmt"])
        except Refused as refused:
            inner = refused.refusal
            why = f"In the SQL given to {name}: {inner.message}"
            raise Refused(refusals.function("sql-text-function", name, why, inner.hint), location) from refused
        finally:
            self._depth -= 1
        if not one_select:
            why = f"The SQL given to {name} has to be one SELECT"
            raise Refused(refusals.function("sql-text-function", name, why), location)

    def _input_type(self, name: str, node: Body) -> None:
        self.constants_decide = True
        given = literals.string(literals.arguments(node), 1)
        base = "" if given is None or not given.isascii() else _TYPE_SUFFIX.sub("", given.strip(_SPACE)).lower()
        if base.startswith("pg_catalog.") or self._functions.comes_first(""):
            base = base.removeprefix("pg_catalog.")
        else:
            base = ""
        if not self._functions.is_built_in_type(base) and base not in rules.TYPE_ALIASES:
            raise Refused(
                refusals.function(
                    "input-type",
                    name,
                    f"The type given to {name} has to be the name of a built-in type, as a string constant",
                ),
                node.get("location", 0),
            )

    def _set_config(self, node: Body, scope: Scope) -> None:
        self.constants_decide = True
        arguments = literals.arguments(node)
        location = node.get("location", 0)
        name = literals.string(arguments, 0)
        if (at_bind := self._at_bind(arguments, scope)) is not None:
            self.at_bind.append(at_bind)
            self.effects.append((Effect.AT_BIND, ""))
            return
        if name is None or arguments is None or len(arguments) != 3:
            if literals.bare(scope.walked.visited[0][1]) in _pg_dump_trees():
                self.effects += settings.effect_of_value("restrict_nonsystem_relation_kind")
                return
            raise Refused(
                refusals.function("setting-name", "set_config", "The name of the setting has to be a string constant"),
                location,
            )
        folded = settings.fold(name)
        local = literals.is_true(arguments[2])
        value = literals.string(arguments, 1)
        resets = literals.is_null(arguments[1])  # set_config_by_name(), utils/misc/guc_funcs.c
        if resets:
            refusal = settings.refuse_reset(folded)
        elif value is None and local and folded == "search_path" and "ParamRef" in arguments[1]:
            # PostgREST sends this in each transaction, and no path is known to put pg_catalog anywhere but first. Names
            # are looked up in every schema, so this matters only where a name of pg_catalog's is somebody's, too.
            taint = self._functions.shadow()
            if taint is not None:
                raise Refused(refusals.unproved("setting-value", taint), location)
            refusal = settings.refuse_value(folded, "")
        else:
            refusal = settings.refuse_value(folded, value)
        if refusal is not None:
            raise Refused(refusal, location)
        if resets:
            self.effects += settings.effect_of_reset(folded, local=local)
            if not self._depth:
                self.nulls.append((arguments[1]["A_Const"].get("location", 0), folded))
        else:
            self.effects += settings.effect_of_value(folded, local=local)

    def _at_bind(self, arguments: list[Body] | None, scope: Scope) -> AtBind | None:
        """Give what a call of set_config leaves to the values of a Bind; None where it leaves nothing to them.

        A parameter that stands there and nowhere else is of the type that the Parse gives it, or text.
        """
        if not self.bound or self._depth or arguments is None or len(arguments) != 3:
            return None
        numbers = [node.get("number") for kind, node in scope.walked.visited if kind == "ParamRef"]
        given = [literals.parameter(argument) for argument in arguments[:2]]
        if not any(given) or any(number and numbers.count(number) != 1 for number in given):
            return None
        name = given[0] or literals.string(arguments, 0)
        if not name or (isinstance(name, str) and settings.refuse_value(settings.fold(name), None) is None):
            return None  # without a name, or whatever the value is
        value = given[1] or literals.string(arguments, 1)
        return AtBind(name, value, literals.is_null(arguments[1]), literals.is_true(arguments[2]))


_TEXT_DEPTH = 3
_PART = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"]|"")+")'
_NAME_PART = re.compile(_PART)
_NAME_AS_TEXT = re.compile(rf"{_PART}(?:\.{_PART}){{0,2}}")
_NO_TEXTS = frozenset({"int2", "int4", "int8", "float4", "float8", "numeric", "bool"})
"""Types that no built-in implicit cast makes a text of."""
_SPACE = " \t\n\r\f"
"""White space between words of SQL (parser/scan.l); from PostgreSQL 16 on \v is, too."""
_S = f"[{_SPACE}]*"
_TYPE_SUFFIX = re.compile(rf"{_S}(\({_S}\d+{_S}(,{_S}-?\d+{_S})?\))?{_S}(\[{_S}\d*{_S}\]{_S})*\Z", re.ASCII)

_EXPRESSIONS: dict[str, Callable[[Judgement, str, Body, Scope], None]] = {
    "FuncCall": Judgement._call,
    "ColumnRef": Judgement._column,
    "A_Indirection": Judgement._indirection,
    **dict.fromkeys(operators.KINDS, Judgement._operator),
    "RangeVar": Judgement._relation,
    "TypeCast": Judgement._cast,
    "TypeName": Judgement._type,
    "RangeTableSample": Judgement._sample,
    "CommonTableExpr": Judgement._query,
    **dict.fromkeys(rules.KEYWORD_FUNCTIONS, Judgement._keyword),
}
"""What is asked of the nodes that `walk` reports."""

_EVALUATES = frozenset({"SelectStmt", "CopyStmt", "ExecuteStmt"})
"""Statements that can compute something; COPY of a table does by its policies."""
_READS_NOTHING = frozenset({"ConstraintsSetStmt", "LockStmt"})
"""Statements with RangeVars that are not read: the first one's are names of constraints."""
_READS_BY_NAME = rules.RELATION_TEXT_FUNCTIONS | rules.SCHEMA_TEXT_FUNCTIONS | rules.DATABASE_FUNCTIONS
_JUDGED_BY_ARGUMENTS = (
    rules.SQL_TEXT_FUNCTIONS.keys() | rules.INPUT_TYPE_FUNCTIONS | _READS_BY_NAME | {"set_config", "lo_open"}
)
"""Functions of which `Judgement._call` looks at what stands in which place."""
_WITH_TYPES = INTERESTING | {"TypeCast", "TypeName"}
_WITH_OPERATORS = _WITH_TYPES | operators.KINDS


def _interesting(catalog: Catalog | None) -> frozenset[str]:
    """Give the nodes to look into: with a catalogue names of types, too, and operators if any of them is no read.

    Operators with their schema are looked into in any case: see `walk`.
    """
    if catalog is None:
        return INTERESTING
    return _WITH_OPERATORS if catalog.tainted_operators else _WITH_TYPES


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

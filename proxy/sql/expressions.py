"""Judge the names and expressions in a statement: what each call, operator, relation and type has to be for a read.

`kinds.py` holds what is asked of each kind of statement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar, cast

from proxy.sql import arguments, literals, operators, own_objects, refusals, unread, versions
from proxy.sql import tables as rules
from proxy.sql import text as texts
from proxy.sql.catalog import CAST_TO, FIRST_NORMAL_OID, FUNCTION, OPERATOR, RELATION, TYPE, Catalog, Operator, Relation
from proxy.sql.catalog import Callable as Function
from proxy.sql.functions import Functions
from proxy.sql.judgement import Judgement
from proxy.sql.picked import Picked
from proxy.sql.reach import Reach
from proxy.sql.scope import Scope, Table
from proxy.sql.tables import Refused
from proxy.sql.verdict import Effect
from proxy.sql.walk import Body, walk

Named = TypeVar("Named", Function, Operator)


def judge(judgement: Judgement, name: str, body: Body) -> None:
    """Judge everything in a statement of this name, but for statements inside it. Raises Refused."""
    functions, catalog = judgement.functions, judgement.catalog
    if catalog is not None and catalog.everything is not None and name in _EVALUATES:
        raise Refused(refusals.unproved("unproved-cast", catalog.everything))
    walked = walk(name, body, functions.interesting)
    if walked.unknown:
        part = walked.unknown[0]
        raise refusals.unknown(walked.visited, part.kind, part.field, part.rule, part.body)
    if not judgement.depth:
        judgement.relied = None
    scope = Scope(walked)
    statement = _Statement(judgement, scope, own_objects.pick(judgement, name, body))
    statement.judge_names()
    if catalog is None:
        if judgement.policy.live:
            unread.check(walked, functions, judgement.policy.trouble)
        return
    statement.judge_objects(catalog)
    if scope.missing:
        # Nothing else is wrong, which the server need not find: reading one may run what nobody has looked at.
        table = scope.first_missing()
        names = table.get("catalogname", ""), table.get("schemaname", ""), table["relname"]
        at = rules.NO_POSITION if scope.root == "CopyStmt" else table.get("location", 0)
        raise Refused(refusals.unknown_relation(*names, catalog.database), at)


def are_built_in(functions: Functions, types: Collection[Body]) -> bool:
    """Tell whether types can mean nothing but pg_catalog's."""
    names = (functions.meant_type(type_["TypeName"].get("names", ())) for type_ in types)
    return all(functions.comes_first(schema) and functions.is_built_in_type(name) for schema, name in names)


class _Statement:
    """One statement that was walked, while what it names is judged. All of it raises Refused."""

    __slots__ = ("catalog", "functions", "judgement", "mixed", "picked", "reach", "scope")

    def __init__(self, judgement: Judgement, scope: Scope, picked: Picked | None) -> None:
        """Begin. `picked`: what the server picks for it; None: nobody knows."""
        self.judgement = judgement
        self.functions = judgement.functions
        self.catalog = judgement.catalog
        self.scope = scope
        self.picked = picked
        self.reach: Reach | None = None  # once it is asked for: making it costs 8 µs
        self.mixed = False  # whether it reads a table with columns of the database's own types

    def judge_names(self) -> None:
        """Judge each node that names something."""
        attributes, denies = self.functions.attributes, self.functions.denies
        for kind, node in self.scope.walked.found:
            # Most nodes are columns of some table, tables, and calls of built-ins that only read: a tenth less time.
            if kind == "ColumnRef":
                last = node["fields"][-1].get("String")
                if last is None or (last["sval"] not in attributes and not denies):
                    continue
            elif kind == "FuncCall":
                if self._is_plain_call(node["funcname"]):
                    continue
            elif kind == "RangeVar" and self._is_plain_relation(node):
                continue
            _EXPRESSIONS[kind](self, kind, node)

    def _is_plain_call(self, names: Sequence[Body]) -> bool:
        """Tell whether a call by this name needs no second look."""
        name = names[-1]["String"]["sval"]
        if len(names) == 1:
            return name in self.functions.plain
        return len(names) == 2 and names[0]["String"]["sval"] == "pg_catalog" and name in self.functions.plain_qualified

    def _is_plain_relation(self, node: Body) -> bool:
        """Tell whether a relation is picked that needs no second look."""
        if self.picked is None or "catalogname" in node:
            return False
        picked = self.picked.at("relation", node.get("location", 0))
        if picked is None or len(picked) > 1:
            return False
        return (node.get("schemaname", ""), node["relname"], *picked) in self.functions.plain_relations

    def judge_objects(self, catalog: Catalog) -> None:
        """Judge what of the database is picked, or can be reached, without a name that says so."""
        if self.picked is not None:
            own_objects.judge(self.judgement, self.picked, catalog)
            return
        if self.mixed:
            for type_, location in self._reached(catalog).touched.items():
                self.judgement.touch(type_, location)
        if self.judgement.terms.variables is not None:
            self.judgement.occurring |= self._reached(catalog).own

    def _reached(self, catalog: Catalog) -> Reach:
        """Give what the statement can reach."""
        if self.reach is None:
            terms = self.judgement.terms
            given = terms.own or frozenset()
            self.reach = Reach(self.scope, self.functions, catalog, given, variables=terms.variables)
        return self.reach

    def _call(self, _: str, node: Body) -> None:
        if self.functions.as_column("FuncCall", node) is not None:
            return
        schema, name = self.functions.meant(node, *literals.qualified(node["funcname"]))
        # Those without a schema were passed by in `judge_names`.
        if schema == "pg_catalog" and name in self.functions.plain:
            return
        picked = self.picked
        if picked is not None and picked.at("called", node.get("location", 0)) is not None:
            own_objects.call(self.judgement, picked, node)
            self._look_into(name, node)
        else:
            self._call_by_name(schema, name, node)

    def _call_by_name(self, schema: str, name: str, node: Body) -> None:
        """Judge a call by all that it can mean: functions, casts, also without what vanishes from its arguments."""
        functions, location = self.functions, node.get("location", 0)
        given = len(node.get("args", ()))
        vanishing = operators.vanishing(node, names=self.judgement.terms.polymorphic)
        if vanishing and not self._can_be_void():
            vanishing = 0
        if vanishing and self._without(schema, name, given, vanishing, location):
            return
        if given == 1 and functions.is_type(schema, name):
            self._type_named(schema, name, location)
            return
        # WITHIN GROUP (ORDER BY …): the sorted expressions are arguments, too (parser/parse_func.c).
        given += len(node.get("agg_order", ())) if node.get("agg_within_group") else 0
        meant, among = self._meant(schema, name, node, given, can_vanish=bool(vanishing))
        refusal = functions.judge(meant, name, given, among)
        if refusal is not None:
            raise Refused(refusal, location)
        if given == 1 and functions.can_be_cast(schema, name):
            self._type_named(schema, name, location)  # no such function of that type: then it is a cast
        self._look_into(name, node)
        if self.catalog is not None:
            self.judgement.effects += self.catalog.left_by(FUNCTION, self.catalog.function(meant, name, given))

    def _meant(
        self, schema: str, name: str, node: Body, given: int, *, can_vanish: bool
    ) -> tuple[str, tuple[Function, ...] | None]:
        """Return the schema in which the function of a call is, and which of the database's own it can be."""
        catalog = self.catalog
        if catalog is None or schema or name not in catalog.functions:
            return schema, None
        first = self.functions.comes_first("")
        among = None
        if not (first and operators.means_built_in(name, node, catalog)):
            types = None if can_vanish else operators.arguments(node, self._reached(catalog).known)
            among = self._can_mean(catalog.function("", name, given), types)
        return "" if among or not first else "pg_catalog", among

    def _can_be_void(self) -> bool:
        """Tell whether a parameter of the statement can be of type void: it gets its type from what it stands beside.

        No column of a table is of that type (CheckAttributeType(), catalog/heap.c): it is written, or a function's.
        """
        terms = self.judgement.terms
        return terms.void or terms.polymorphic or self.scope.gives_void(self.functions.voids)

    def _look_into(self, name: str, node: Body) -> None:
        """Judge what a function is given, where that decides, and note what it leaves behind."""
        if name in arguments.TAKING_SQL:
            for sql in arguments.sql_given(self.judgement, name, node):
                _judge_text(self.judgement, name, sql, node.get("location", 0))
        else:
            arguments.look_into(self.judgement, name, node, self.scope.walked)
        self.judgement.called(name)

    def _can_mean(self, found: tuple[Named, ...], given: tuple[str, ...] | None) -> tuple[Named, ...]:
        """Leave out the functions or operators that are not chosen where these arguments are given."""
        if not self.functions.comes_first(""):
            return found  # then not even an exact match of pg_catalog's is sure to be chosen
        if not found or self.judgement.terms.own is None or self.catalog is None:
            return found
        own = self._reached(self.catalog).own
        return tuple(each for each in found if operators.can_be_chosen(each.chosen, given, own))

    def _without(self, schema: str, name: str, given: int, vanishing: int, location: int) -> bool:
        """Judge a call without any of the arguments that can vanish; return whether it means something only so."""
        if name in arguments.LOOKED_INTO:
            why = f"A parameter given to {name} may be of type void, and is none of its arguments then"
            hint = "Give the parameter a type, and write no cast to void."
            raise Refused(refusals.function("void-parameter", name, why, hint), location)
        found = False
        for count in range(given - vanishing, given):
            refusal = self.functions.judge(schema, name, count)
            if refusal is None:
                found = True
                if self.catalog is not None:
                    self.judgement.effects += self.catalog.left_by(FUNCTION, self.catalog.function(schema, name, count))
            elif refusal.rule != "unknown-function":
                raise Refused(refusal, location)
            if count == 1 and self.functions.can_be_cast(schema, name):
                self._type_named(schema, name, location)
        refusal = self.functions.judge(schema, name, given)
        if found and refusal is not None and refusal.rule == "unknown-function":
            self.judgement.called(name)
            return True
        return False

    def _column(self, _: str, node: Body) -> None:
        # ParseFuncOrColumn(), parser/parse_func.c: `x.f` is f(x) where x has no column f. Only the last part can be f.
        fields = node["fields"]
        name = fields[-1]["String"]["sval"]
        if self.picked is not None and self.picked.is_column(node.get("location", 0)):
            return
        if self.functions.is_attribute(name):
            schema = fields[-3]["String"]["sval"] if len(fields) > 2 else ""
            if not self._is_column(schema, fields[-2]["String"]["sval"], name):
                self._attribute(name, operators.TYPED, node.get("location", 0))

    def _is_column(self, schema: str, table: str, name: str) -> bool:
        """Tell whether `table` has this column, wherever in the statement that name is given to something."""
        key = (schema, table, name)
        if key not in self.scope.columns:
            self.scope.columns[key] = self.catalog is not None and _has_column(
                self.catalog, schema, name, self.scope.tables(table)
            )
        return self.scope.columns[key]

    def _indirection(self, _: str, node: Body) -> None:
        for part in node["indirection"]:
            if "String" in part and self.functions.is_attribute(part["String"]["sval"]):
                self._attribute(part["String"]["sval"], operators.OPEN, -1)

    def _attribute(self, name: str, given: str, location: int) -> None:
        key = (FUNCTION, name, given)
        if key in self.judgement.read:
            return
        found = () if self.catalog is None else self.catalog.function("", name, 1)
        refusal = self.functions.attribute(name, self._can_mean(found, (given,)))
        if refusal is not None:
            raise Refused(refusal, location, "" if location >= 0 else f"={name}")
        if self.catalog is not None:
            self.judgement.effects += self.catalog.left_by(FUNCTION, self.catalog.function("", name, 1))
        self.judgement.called(name)
        self.judgement.read.add(key)

    def _operator(self, kind: str, node: Body) -> None:
        known = operators.UNREAD if self.catalog is None else self._reached(self.catalog).known
        for use in operators.used(kind, node, known):
            key = (OPERATOR, use)
            if key not in self.judgement.read:
                location = node.get("location", 0)
                picked = self.picked is not None and self.picked.at("operator", location) is not None
                self._used(use, location, picked=picked)
                if not picked:
                    self.judgement.read.add(key)

    def _used(self, use: operators.Use, location: int, *, picked: bool) -> None:
        """Judge an operator; one that is picked, by its name alone: the object is judged with the others."""
        refusal = self.functions.operator(use.schema, use.name)
        if refusal is not None:
            raise Refused(refusal, location)
        if picked:
            return
        catalog = self.catalog
        meant = () if catalog is None else catalog.operator(use.schema, use.name)
        if catalog is None or not meant:
            if use.schema in ("", "pg_catalog") or self.functions.allows_operator(use.schema, use.name):
                return
            raise Refused(refusals.unknown_operator(use.schema, use.name), location)
        # What is cast to date need not be one where other schemas come before pg_catalog.
        if not catalog.implicit_casts and self.functions.comes_first(""):
            meant = tuple(each for each in meant if _takes(each, use))
        taint = catalog.taint(OPERATOR, meant if use.schema else self._can_mean(meant, use.given))
        if taint is not None:
            raise Refused(refusals.unproved("unproved-operator", taint), location)

    def _relation(self, _: str, node: Body) -> None:
        name = node["relname"]
        schema = node.get("schemaname", "")
        built_in = schema in ("", "pg_catalog")
        if built_in and name in _TOLD:
            self._tell(name)
        refusal = self.functions.relation(schema, name)
        if refusal is not None:
            raise Refused(refusal, node.get("location", 0))
        catalog = self.catalog
        if catalog is None or self.scope.root in _READS_NOTHING or self.scope.is_query(node):
            return
        key = (RELATION, node.get("catalogname", ""), schema, name)
        if key in self.judgement.read:
            return
        meant = self._relations(catalog, schema, name, node.get("location", 0))
        if not meant or node.get("catalogname", catalog.database) != catalog.database:
            self.scope.missing.append(node)
            return
        self._judge_relations(catalog, meant, node.get("location", 0))
        if built_in and name in rules.ANYARRAYS:
            self._values_of_any_type(name, catalog)
        elif any(each.own for each in meant):
            self.mixed = True  # which of its columns the statement touches is asked of each statement
        else:
            self.judgement.read.add(key)
            self._keep_plain(catalog, schema, name, meant)

    def _keep_plain(self, catalog: Catalog, schema: str, name: str, meant: tuple[Relation, ...]) -> None:
        """Keep that a relation, if it is picked, is a read in any statement, and leaves nothing behind."""
        if self.picked is None or len(meant) > 1 or name in _TOLD:
            return
        key = (RELATION, meant[0].oid)
        if catalog.taints.get(key) is None and key not in catalog.leaves:
            self.functions.remember_plain(schema, name, meant[0].oid)

    def _tell(self, relation: str) -> None:
        """Note that a statement reads a relation with secrets in it, or with what was prepared on the connection."""
        if relation == rules.STATEMENTS_VIEW:
            self.judgement.effects.append((Effect.LIST_STATEMENTS, relation))
        if relation in rules.SECRET_RELATIONS:
            self.judgement.flagged = relation

    def _relations(self, catalog: Catalog, schema: str, name: str, location: int) -> tuple[Relation, ...]:
        """Return the relations that a name there can mean."""
        if self.picked is None:
            return catalog.relation(schema, name)
        places = self.picked.at("relation", location) or ()
        found = [self.functions.relations_by_oid.get(name, oid) for oid in places]
        return tuple([each for each in found if each is not None and catalog.fits(schema, each.schema)])

    def _judge_relations(self, catalog: Catalog, meant: tuple[Relation, ...], location: int) -> None:
        judged = meant
        if self.picked is not None and self.judgement.terms.cleared:
            rule = "unproved-relation"
            judged = tuple(each for each in meant if not self.judgement.is_cleared(RELATION, each.oid, rule, location))
        taint = catalog.taint(RELATION, judged)
        if taint is not None:
            raise Refused(refusals.unproved("unproved-relation", taint), location)
        self.judgement.effects += catalog.left_by(RELATION, meant)

    def _values_of_any_type(self, name: str, catalog: Catalog) -> None:
        """Judge every type of the database where a statement touches a column that holds values of any type.

        What is given them looks them over at run time: to_json() casts them, max() compares them.
        """
        if not any(
            kind in rules.KEYWORD_FUNCTIONS or _looks_over(kind, node, catalog)
            for kind, node in self.scope.walked.visited
        ):
            return
        location = _place_of_any_type(self.scope, name)
        if location is None:
            return
        for type_ in (each.oid for found in catalog.types.values() for each in found):
            if type_ >= FIRST_NORMAL_OID:
                self.judgement.touch(type_, location)

    def _cast(self, _: str, node: Body) -> None:
        # The type's own input function reads 'x'::t and null::t; there is nothing to cast (coerce_type()).
        if node["arg"].get("A_Const", {}).keys() & {"sval", "isnull"}:
            self.judgement.literals[id(node["typeName"])] = node["typeName"]

    def _type(self, _: str, node: Body) -> None:
        if "names" in node and (self.picked is None or self.picked.at("type", node.get("location", 0)) is None):
            literal = id(node) in self.judgement.literals
            self._type_named(*self.functions.meant_type(node["names"]), node.get("location", -1), literal=literal)

    def _type_named(self, schema: str, name: str, location: int, *, literal: bool = False) -> None:
        catalog = self.catalog
        key = (TYPE, schema, name, literal)
        if catalog is None or key in self.judgement.read:
            return
        # settings.py lets no search_path of a client's put pg_catalog anywhere but first; the server's own can.
        built_in = self.functions.comes_first(schema) and self.functions.is_built_in_type(name)
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
        self.judgement.read.add(key)

    def _query(self, _: str, node: Body) -> None:
        """Let a query of WITH be: `Scope` looks for them among what the walk has found."""

    def _sample(self, _: str, node: Body) -> None:
        schema, name = literals.qualified(node["method"])
        if name not in rules.SAMPLE_METHODS or schema not in ("", "pg_catalog"):
            refusal = self.functions.judge(schema, name, 1)
            if refusal is not None:
                raise Refused(refusal, node.get("location", 0))

    def _keyword(self, kind: str, node: Body) -> None:
        name, since = rules.KEYWORD_FUNCTIONS[kind]
        refusal = self.functions.json_casts()
        if refusal is not None:
            raise Refused(refusal, node.get("location", -1))
        if kind == "JsonParseExpr":
            # The one that is a type's name, too: before it was a keyword, json(x) was a function or a cast.
            if self.functions.before(since):
                location = node.get("location", 0)
                call = {
                    "funcname": [{"String": {"sval": name}}],
                    "args": [node["expr"]["raw_expr"]],
                    "location": location,
                }
                self._call("FuncCall", call)
            return
        name = name or versions.JSON_FUNCTIONS.get(node.get("op", ""), "json_value")
        refusal = self.functions.keyword(name, since)
        if refusal is not None:
            raise Refused(refusal, node.get("location", -1))
        if self.catalog is not None:
            self.judgement.effects += self.catalog.left_by(FUNCTION, self.catalog.functions.get(name, ()))


def _judge_text(judgement: Judgement, name: str, sql: str, location: int) -> None:
    """Judge SQL given as text to a function of this name: it has to be one read."""
    judgement.depth += 1
    try:
        foreign = arguments.is_foreign(judgement)
        statements = texts.parse(sql, foreign=foreign) if judgement.depth <= _TEXT_DEPTH else []
        one_select = len(statements) == 1 and "SelectStmt" in statements[0]["stmt"]
        if one_select:
            judge(judgement, "SelectStmt", statements[0]["stmt"]["SelectStmt"])
    except Refused as refused:
        inner = refused.refusal
        why = f"In the SQL given to {name}: {inner.message}"
        raise Refused(refusals.function("sql-text-function", name, why, inner.hint), location) from refused
    finally:
        judgement.depth -= 1
    if not one_select:
        why = f"The SQL given to {name} has to be one SELECT"
        raise Refused(refusals.function("sql-text-function", name, why), location)


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


def _takes(operator: Operator, use: operators.Use) -> bool:
    return operators.can_be(use.left, operator.left) and operators.can_be(use.right, operator.right)


def _place_of_any_type(scope: Scope, relation: str) -> int | None:
    """Return where a statement touches a column of this relation that holds values of any type; None: nowhere."""
    rows, renamed = {relation}, False  # the name of a table is its whole row
    for kind, node in scope.walked.visited:
        if kind in ("RangeVar", "JoinExpr", "RangeSubselect"):
            alias = node.get("alias", {})
            rows.add(alias.get("aliasname", relation))
            renamed = renamed or "colnames" in alias or "isNatural" in node
    for kind, node in scope.walked.visited:
        if kind == "ColumnRef":
            last = node["fields"][-1]
            if "A_Star" in last or renamed or last["String"]["sval"] in rules.ANYARRAYS[relation] | rows:
                return cast(int, node.get("location", -1))
    return None


def _looks_over(kind: str, node: Body, catalog: Catalog) -> bool:
    """Tell whether a node calls, or may call, what looks a value of any type over, or what nobody has looked at."""
    if kind == "FuncCall":
        names = [node["funcname"][-1]]
    elif kind == "ColumnRef":
        names = node["fields"][1:]
    else:
        names = node["indirection"] if kind == "A_Indirection" else []
    called = [name["String"]["sval"] for name in names if "String" in name]
    return any("json" in name or name in rules.ANYARRAY_FUNCTIONS or name in catalog.functions for name in called)


_TEXT_DEPTH = 3
_TOLD = rules.SECRET_RELATIONS | {rules.STATEMENTS_VIEW}

_EXPRESSIONS: dict[str, Callable[[_Statement, str, Body], None]] = {
    "FuncCall": _Statement._call,
    "ColumnRef": _Statement._column,
    "A_Indirection": _Statement._indirection,
    **dict.fromkeys(operators.KINDS, _Statement._operator),
    "RangeVar": _Statement._relation,
    "TypeCast": _Statement._cast,
    "TypeName": _Statement._type,
    "RangeTableSample": _Statement._sample,
    "CommonTableExpr": _Statement._query,
    **dict.fromkeys(rules.KEYWORD_FUNCTIONS, _Statement._keyword),
}
"""What is asked of the nodes that `walk` reports."""

_EVALUATES = frozenset({"SelectStmt", "CopyStmt", "ExecuteStmt"})
"""Statements that can compute something; COPY of a table does by its policies."""
_READS_NOTHING = frozenset({"ConstraintsSetStmt", "LockStmt"})
"""Statements with RangeVars that are not read: the first one's are names of constraints."""

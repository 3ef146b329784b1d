"""Tell what of a database's own types a statement can reach: columns that it touches, types that its values can be of.

A table with a column of a type that is no read can be read, as long as nothing touches that column. And an operator or
a function that takes such a type plays no part where no value of it can occur (see `candidates.py`). A value has its
type from a column, a name of a type, a parameter, or the result of a function or operator: from nowhere else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set

from proxy.sql import literals, operators, versions
from proxy.sql import tables as rules
from proxy.sql.catalog import Callable, Catalog, Operator, Relation
from proxy.sql.functions import Functions
from proxy.sql.resolve.scopes import SYSTEM_COLUMNS
from proxy.sql.scope import Scope
from proxy.sql.walk import Body

_DERIVED = frozenset({"RangeSubselect", "RangeFunction", "RangeTableFunc", "JsonTable", "CommonTableExpr"})
"""What else FROM can name."""


class _Touching:
    """Find which types of the database's own the columns are of that a statement touches, and where it does.

    What FROM names comes first, then what is joined, then all that looks like a column.
    """

    def __init__(self) -> None:
        self.found: dict[int, int] = {}
        """The types, each with the first place."""
        self._tables: defaultdict[str, list[Relation]] = defaultdict(list)  # by the name that they bear
        self._by_node: dict[int, list[Relation]] = {}
        self._every: list[Relation] = []
        self._expanded: set[int] = set()  # stars that stand for the columns of tables
        self._joins: set[str] = set()  # names of joins

    def name(self, node: Body, mixed: list[Relation], *, whole: bool) -> None:
        """Take a table of FROM, and what it can mean that has columns of such types; `whole`: all of them are read."""
        alias = node.get("alias", {})
        if whole or "colnames" in alias:
            self._whole(mixed, node.get("location", -1))
        self._tables[alias.get("aliasname", node["relname"])] += mixed
        self._by_node[id(node)] = mixed
        self._every += mixed

    def select(self, node: Body) -> None:
        """Take what the stars of a SELECT stand for."""
        stars = [star for star in map(_star, node.get("targetList", ())) if star is not None]
        if stars:
            self._expanded.update(map(id, stars))
            for table in _tables(node.get("fromClause", [])):
                self._whole(self._by_node.get(id(table), ()), stars[0].get("location", -1))

    def join(self, node: Body) -> None:
        """Take the columns by which a join joins, and its names."""
        alias = node.get("alias", {})
        self._joins.update(each["aliasname"] for each in (alias, node.get("join_using_alias")) if each)
        if node.get("isNatural") or "colnames" in alias:
            self._whole(self._every, -1)
        for using in node.get("usingClause", ()):
            _touch(using["String"]["sval"], self._every, self.found, -1)

    def column(self, column: Body) -> None:
        """Take what is written as a column, or a row."""
        if id(column) in self._expanded:
            return
        *qualifiers, last = ("*" if "A_Star" in part else part["String"]["sval"] for part in column["fields"])
        location = column.get("location", -1)
        near = self._tables[qualifiers[-1]] if qualifiers else self._every
        if self._joins.intersection((*qualifiers[-1:], last)) or (last == "*" and not qualifiers):
            self._whole(self._every, location)
        elif qualifiers:
            # x.f is f(x) where x has no column f.
            self._whole((each for each in near if last not in each.columns and last not in SYSTEM_COLUMNS), location)
        _touch(last, near, self.found, location)
        self._whole(self._tables.get(last, ()), location)  # a whole row

    def _whole(self, relations: Iterable[Relation], location: int) -> None:
        for each in relations:
            for type_ in (each.row_type, *(each.own or {}).values()):
                self.found.setdefault(type_, location)


class Reach:
    """Answer for one statement that was walked. `given` are the database's own types that its parameters can be of.

    `variables`: what looks like a column can be one of these, of that built-in type; an empty text is any type.
    """

    __slots__ = (
        "_catalog",
        "_found",
        "_functions",
        "_given",
        "_named_types",
        "_own",
        "_qualified",
        "_relations",
        "_scope",
        "_touched",
        "_unqualified",
        "_variables",
        "known",
    )

    def __init__(
        self,
        scope: Scope,
        functions: Functions,
        catalog: Catalog,
        given: frozenset[int],
        *,
        variables: Mapping[str, str] | None,
    ) -> None:
        self._scope = scope
        self._functions = functions
        self._catalog = catalog
        self._given = given
        self._relations: list[tuple[Body, tuple[Relation, ...]]] | None = None
        self._touched: dict[int, int] | None = None
        self._own: frozenset[int] | None = None
        self._found: dict[tuple[str, str], tuple[Relation, ...]] = {}
        self._qualified: dict[tuple[str, str], str] = {}
        self._unqualified: dict[str, set[str]] | None = None
        self._variables = variables or {}
        self._named_types: dict[tuple[str, ...], str] = {}
        column = self._type_of_column if variables is None else self._type_of_name
        self.known = operators.Known(
            catalog.functions, catalog.operators, catalog.types, column, self._types_of_columns
        )

    @property
    def touched(self) -> dict[int, int]:
        """Give the types of the columns that the statement touches, each with a location."""
        if self._touched is None:
            mixed = any(each.own for _, meant in self._named() for each in meant)
            self._touched = self._find_touched() if mixed else {}
        return self._touched

    @property
    def own(self) -> frozenset[int]:
        """Give the database's own types that values in the statement can be of."""
        if self._own is None:
            self._own = self._find_own()
        return self._own

    def _named(self) -> list[tuple[Body, tuple[Relation, ...]]]:
        """Give the tables and views in the statement, and what each can mean."""
        if self._relations is None:
            self._relations = [
                (node, self._meant(node.get("schemaname", ""), node["relname"]))
                for kind, node in self._scope.walked.visited
                if kind == "RangeVar" and not self._scope.is_query(node)
            ]
        return self._relations

    def _meant(self, schema: str, name: str) -> tuple[Relation, ...]:
        key = (schema, name)
        if key not in self._found:
            self._found[key] = self._catalog.relation(schema, name)
        return self._found[key]

    # -- columns -------------------------------------------------------------------------------------------------------

    def _find_touched(self) -> dict[int, int]:
        touching = _Touching()
        for node, meant in self._named():
            # The columns bear other names, or are not named.
            touching.name(node, [each for each in meant if each.own], whole=self._scope.root == "CopyStmt")
        visited = self._scope.walked.visited
        for kind, node in visited:
            if kind == "SelectStmt":
                touching.select(node)
        for kind, node in visited:
            if kind == "JoinExpr":
                touching.join(node)
        for kind, node in visited:
            column = self._functions.as_column(kind, node)
            if column is not None:
                touching.column(column)
        return touching.found

    def _type_of_column(self, node: Body) -> str:
        """Give the built-in type of a column, or STORED, where all it can be in are tables and views; else TYPED."""
        if any("A_Star" in part for part in node["fields"]):
            return operators.TYPED
        *qualifiers, name = (part["String"]["sval"] for part in node["fields"])
        if not qualifiers:
            found = self._types_of_columns(name)
            return next(iter(found)) if len(found) == 1 else operators.STORED
        key = (qualifiers[-1], name)
        if key not in self._qualified:
            named = self._scope.tables(qualifiers[-1])
            tables = [self._meant(schema, table) for schema, table, columns in named if columns is None]
            types = [each.types or {} for meant in tables for each in meant]
            is_column = bool(types) and len(tables) == len(named) and all(name in each for each in types)
            self._qualified[key] = _common({each[name] for each in types}) if is_column else operators.TYPED
        return self._qualified[key]

    def _types_of_columns(self, name: str) -> Set[str]:
        """Give the types of all columns of a name, as above."""
        if self._unqualified is None:
            self._unqualified = self._find_unqualified()
        return self._unqualified.get(name, _UNCERTAIN)

    def _type_of_name(self, node: Body) -> str:
        """Give the built-in type of a column or variable where all that it can be is of it; else TYPED.

        Which of two is meant, the language and plpgsql.variable_conflict decide.
        """
        names = tuple("" if "A_Star" in part else part["String"]["sval"] for part in node["fields"])
        if names not in self._named_types:
            self._named_types[names] = self._find_type_of_name(names, node)
        return self._named_types[names]

    def _find_type_of_name(self, names: tuple[str, ...], node: Body) -> str:
        if not any(kind == "RangeVar" or kind in _DERIVED for kind, _ in self._scope.walked.visited):
            return self._variables.get(names[0], operators.TYPED) if len(names) == 1 else operators.TYPED
        if self._variables.keys().isdisjoint(names):
            return self._type_of_column(node)
        if len(names) > 1:
            return operators.TYPED  # a record's field, or behind the name of a block
        variable = self._variables[names[0]]
        if self._is_no_column(names[0]):
            return variable
        return variable if self._type_of_column(node) == variable else operators.TYPED

    def _is_no_column(self, name: str) -> bool:
        """Tell whether nothing in FROM has a column of this name, or bears it."""
        if name in SYSTEM_COLUMNS or any(
            kind in _DERIVED or (kind in ("RangeVar", "JoinExpr") and "alias" in node and _renames(node, name))
            for kind, node in self._scope.walked.visited
        ):
            return False
        named = self._named()
        if any(not meant or node["relname"] == name for node, meant in named):
            return False
        return all(each.types is not None and name not in each.types for _, meant in named for each in meant)

    def _find_unqualified(self) -> dict[str, set[str]]:
        """Give the types of columns whose names need no table's, in each table."""
        called = self._plain_tables()
        found: dict[str, set[str | None]] = {}
        for meant in {id(meant): meant for _, meant in self._named()}.values() if called else ():
            if not all(each.types for each in meant):
                return {}
            types = [each.types or {} for each in meant]
            for name in {name for each in types for name in each}:
                found.setdefault(name, set()).update(each.get(name) for each in types)
        return {
            name: {type_ or operators.STORED for type_ in types} for name, types in found.items() if name not in called
        }

    def _plain_tables(self) -> frozenset[str]:
        """Give what the tables in FROM are called, where there is nothing else, and no column bears another name."""
        for kind, node in self._scope.walked.visited:
            if kind in _DERIVED or (kind in ("RangeVar", "JoinExpr") and "colnames" in node.get("alias", ())):
                return frozenset()
        return frozenset(node.get("alias", {}).get("aliasname", node["relname"]) for node, _ in self._named())

    # -- types of values -----------------------------------------------------------------------------------------------

    def _find_own(self) -> frozenset[int]:
        found = {*self._given, *self.touched}
        # A whole row with columns of such types is among what is touched.
        found.update(each.row_type for _, meant in self._named() for each in meant if not each.own)
        waiting: list[tuple[Callable | Operator, tuple[str, ...] | None]] = []
        for kind, node in self._scope.walked.visited:
            if kind == "TypeName" and "names" in node:
                found.update(self._types(*self._functions.meant_type(node["names"])))
                continue
            for name, arguments in self._called(kind, node):
                found.update(self._types("", name))
                waiting += ((each, arguments) for each in self._catalog.functions.get(name, ()) if each.gives)
            if kind in operators.KINDS:
                waiting += self._applied(kind, node)
        while True:
            own = frozenset(found)
            found.update(
                type_
                for each, given in waiting
                if operators.can_be_chosen(each.chosen, given, own)
                for type_ in each.gives
            )
            if len(found) == len(own):
                return own

    def _applied(self, kind: str, node: Body) -> Iterator[tuple[Operator, tuple[str, ...] | None]]:
        """Give the operators that a node may apply and that give values of the database's own types, and what to."""
        for use in operators.used(kind, node, self.known):
            for each in self._catalog.operators.get(use.name, ()):
                if each.gives:
                    # With its schema written, no built-in one is chosen before it.
                    yield each, None if use.schema else use.given

    def _types(self, schema: str, name: str) -> Iterator[int]:
        return (each.oid for each in self._catalog.type(schema, name))

    def _called(self, kind: str, node: Body) -> Iterator[tuple[str, tuple[str, ...] | None]]:
        """Give the names of functions or types that a node calls, or may call, and what with."""
        if kind == "FuncCall":
            schema, name = self._functions.meant(node, *literals.qualified(node["funcname"]))
            yield name, None if schema else operators.arguments(node, self.known)
        elif kind == "ColumnRef" and "String" in node["fields"][-1] and len(node["fields"]) > 1:
            yield node["fields"][-1]["String"]["sval"], (operators.TYPED,)
        elif kind == "A_Indirection":
            for part in node["indirection"]:
                if "String" in part:
                    yield part["String"]["sval"], (operators.OPEN,)
        elif kind in rules.KEYWORD_FUNCTIONS:
            name = rules.KEYWORD_FUNCTIONS[kind][0] or versions.JSON_FUNCTIONS.get(node.get("op", ""), "json_value")
            yield name, None


_UNCERTAIN = frozenset({operators.TYPED})


def _common(types: set[str | None]) -> str:
    """Give the built-in type that columns of some types are of."""
    return (next(iter(types)) if len(types) == 1 else None) or operators.STORED


def _renames(node: Body, name: str) -> bool:
    """Tell whether an alias is this name, or calls columns otherwise."""
    return "colnames" in node["alias"] or node["alias"]["aliasname"] == name


def _star(target: Body) -> Body | None:
    """Give the `*` that an output of a SELECT is."""
    column: Body = target.get("ResTarget", {}).get("val", {}).get("ColumnRef", {})
    return column if len(column.get("fields", ())) == 1 and "A_Star" in column["fields"][0] else None


def _tables(items: list[Body]) -> Iterator[Body]:
    """Give the tables that stand in a FROM, and in none below it."""
    waiting = list(items)
    while waiting:
        ((kind, node),) = waiting.pop().items()
        if kind == "RangeVar":
            yield node
        elif kind == "JoinExpr":
            waiting += (node["larg"], node["rarg"])
        elif kind == "RangeTableSample":
            waiting.append(node["relation"])


def _touch(name: str, relations: Iterable[Relation], found: dict[int, int], location: int) -> None:
    for each in relations:
        if each.own and name in each.own:
            found.setdefault(each.own[name], location)

"""Tell what the names in one statement's FROM mean: a query of WITH, a table with its columns, or what is not known.

Every look-up takes the same time however often a statement asks: what is found of it is found once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import Any

from proxy.sql import operators
from proxy.sql.walk import Body, Walked

_ALIASED = frozenset({"RangeVar", "RangeSubselect", "RangeFunction", "RangeTableFunc", "JoinExpr", "JsonTable"})
"""Nodes of FROM that can have an alias."""
_NAMED_BY_ITSELF = frozenset({"RangeFunction", "RangeTableFunc", "JsonTable"})
"""Those that bear the name of their function without one, which can be any."""

Table = tuple[str, str, frozenset[str] | None]
"""A table as FROM names it: its schema, or an empty text, its own name, and what an alias calls its columns."""


class Scope:
    """Hold what FROM and WITH name in one statement that was walked.

    `root` is the kind of the statement's own node. `missing` collects the tables that the catalogue does not hold: the
    judgement goes on without them. `columns` is what is known of names that look like columns: schema, table, name.
    """

    __slots__ = ("_hides_names", "_named", "_queries", "_uses", "_void", "columns", "missing", "root", "walked")

    def __init__(self, walked: Walked) -> None:
        self.walked = walked
        self.root = walked.visited[0][0]
        self.missing: list[Body] = []
        self.columns: dict[tuple[str, str, str], bool] = {}
        # What follows is found when it is first asked for.
        self._queries: Set[str] | None = None
        self._uses: Set[int] | None = None
        self._named: dict[str, set[Table] | None] | None = None
        self._hides_names = False
        self._void: bool | None = None

    def is_query(self, table: Body) -> bool:
        """Tell whether a RangeVar means a query of WITH, and no table."""
        queries = self.queries if self._queries is None else self._queries
        if table["relname"] not in queries:
            return False
        if self._uses is None:
            self._uses = _uses_of_queries(self.walked.visited[0][1])
        return id(table) in self._uses

    @property
    def queries(self) -> Set[str]:
        """Return the names that WITH gives, anywhere in the statement."""
        if self._queries is None:
            self._queries = {node["ctename"] for kind, node in self.walked.found if kind == "CommonTableExpr"}
        return self._queries

    def tables(self, name: str) -> Set[Table]:
        """Give the tables that bear a name in FROM; none where something else bears it, or could."""
        if self._named is None:
            self._named = self._find_named()
        return set() if self._hides_names else self._named.get(name) or set()

    def _find_named(self) -> dict[str, set[Table] | None]:
        found: dict[str, set[Table] | None] = {}
        for kind, node in self.walked.visited:
            if kind not in _ALIASED:
                continue
            if "join_using_alias" in node:
                found[node["join_using_alias"]["aliasname"]] = None
            alias = node.get("alias")
            name = alias["aliasname"] if alias else node.get("relname")
            if name is None:
                self._hides_names = self._hides_names or kind in _NAMED_BY_ITSELF
                continue
            tables = found.setdefault(name, set())
            if tables is None:
                continue
            columns = _columns(alias)
            if kind == "RangeSubselect":
                tables.add(("", "", _outputs(node["subquery"], name) if columns is None else columns))
            elif kind != "RangeVar":
                found[name] = None
            elif columns is None and self.is_query(node):
                tables.update(("", "", columns) for columns in self._columns_of_query(node["relname"]))
            else:
                tables.add((node.get("schemaname", ""), node["relname"], columns))
        return found

    def _columns_of_query(self, name: str) -> list[frozenset[str]]:
        """Give the names of columns of each query of WITH with this name."""
        queries = (node for kind, node in self.walked.found if kind == "CommonTableExpr" and node["ctename"] == name)
        return [
            frozenset(column["String"]["sval"] for column in query["aliascolnames"])
            if "aliascolnames" in query
            else _outputs(query["ctequery"], name)
            for query in queries
        ]

    def gives_void(self, names: Set[str]) -> bool:
        """Tell whether the statement uses a function, an operator or a type of one of these names."""
        if self._void is None:
            self._void = any(name in names for kind, node in self.walked.visited for name in _used(kind, node))
        return self._void

    def first_missing(self) -> Body:
        """Give the missing table that the server would come upon first."""
        if len(self.missing) == 1:
            return self.missing[0]
        wanted = {id(table) for table in self.missing}
        waiting: list[Any] = [self.walked.visited[0][1]]
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting += reversed(part)
            elif isinstance(part, dict):
                if id(part) in wanted:
                    return part
                waiting += (part[key] for key in sorted(part, key=_analysed, reverse=True))
        return self.missing[0]


_ORDER = {key: at for at, key in enumerate(("withClause", "larg", "rarg", "fromClause"))}


def _analysed(key: str) -> int:
    """Sort the fields of a SELECT as it is analysed: transformSelectStmt(), parser/analyze.c."""
    return _ORDER.get(key, len(_ORDER))


def _used(kind: str, node: Body) -> list[str]:
    """Give the names of functions, operators and types that a node uses itself, or may use."""
    if kind == "FuncCall":
        return [node["funcname"][-1]["String"]["sval"]]
    if kind == "TypeName":
        return [name["String"]["sval"] for name in node.get("names", ())[-1:]]
    if kind == "ColumnRef":
        return [name["String"]["sval"] for name in node["fields"][1:] if "String" in name]
    if kind == "A_Indirection":
        return [name["String"]["sval"] for name in node["indirection"] if "String" in name]
    return [use.name for use in operators.used(kind, node, operators.UNREAD)] if kind in operators.KINDS else []


def _outputs(query: Body, own: str) -> frozenset[str]:
    """Give the names of a query's columns, as far as they are written there: FigureColname(), parser/parse_target.c.

    `own` is what the query is called: nothing that it has from something of that name says what it has itself.
    """
    select = query.get("SelectStmt", {})
    while "larg" in select:
        select = select["larg"]
    targets = [target["ResTarget"] for target in select.get("targetList", ())]
    named = {target["name"] for target in targets if "name" in target}
    bare = (target["val"].get("ColumnRef") for target in targets if "name" not in target)
    columns = (column["fields"] for column in bare if column is not None)
    fields = [names[-1] for names in columns if names[-2:-1] != [{"String": {"sval": own}}]]
    return frozenset(named.union(field["String"]["sval"] for field in fields if "String" in field))


def _columns(alias: Body | None) -> frozenset[str] | None:
    """Give the names that an alias gives to columns; None where it gives none."""
    if alias is None or "colnames" not in alias:
        return None
    return frozenset(column["String"]["sval"] for column in alias["colnames"])


_BIND, _UNBIND = 1, -1
_INNER = (dict, list)


def _uses_of_queries(statement: Body) -> frozenset[int]:
    """Give the RangeVars that mean a query of WITH, by id().

    A WITH is seen in all of the SELECT that it belongs to, and below; its queries see those before them, and with
    RECURSIVE all of it (transformWithClause(), parser/parse_cte.c). A name with a schema means no query.
    """
    uses: set[int] = set()
    seen: Counter[str] = Counter()
    steps: list[tuple[int, Any]] = [(0, statement)]  # to look into something, or to open or close a name
    while steps:
        change, part = steps.pop()
        if change:
            seen[part] += change
        elif isinstance(part, list):
            steps += ((0, item) for item in part)
        elif isinstance(part, dict):
            if "relname" in part:
                if "schemaname" not in part and seen[part["relname"]]:
                    uses.add(id(part))
                continue
            rest = [(0, value) for key, value in part.items() if value.__class__ in _INNER and key != "withClause"]
            clause = part.get("withClause")
            if clause is None:
                steps += rest
                continue
            unbinds = [(_UNBIND, query["CommonTableExpr"]["ctename"]) for query in clause["ctes"]]
            steps += reversed([*_in_order(clause), *rest, *unbinds])
    return frozenset(uses)


def _in_order(clause: Body) -> list[tuple[int, Any]]:
    """Give the steps in which the queries of a WITH are looked into, and their names opened."""
    queries = [query["CommonTableExpr"] for query in clause["ctes"]]
    names = [(_BIND, query["ctename"]) for query in queries]
    inside = [(0, query) for query in queries]
    if clause.get("recursive"):
        return [*names, *inside]
    return [step for pair in zip(inside, names, strict=True) for step in pair]

"""List what PostgreSQL has picked, by the tree of its parse analysis: OIDs, each with its place in the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tests.oracle.nodes import Node


class Picked(NamedTuple):
    """An object that a place of a statement means."""

    kind: str
    location: int
    """Bytes before it in the text; -1 where the server does not say."""
    oid: int


FUNCTION: Final = "function"
"""What is called: functions, aggregates, window functions, casts made by a function, TABLESAMPLE's handler."""
OPERATOR: Final = "operator"
SORT: Final = "sort"
"""The operator that orders: ORDER BY, a window's ORDER BY, an aggregate's, and what DISTINCT and UNION can sort by."""
GROUP: Final = "group"
"""The operator that says what is equal: GROUP BY, DISTINCT, PARTITION BY, UNION."""
IN_RANGE: Final = "in-range"
"""The function behind RANGE with an offset."""
IO: Final = "io"
"""A cast by output function and input function: the type that it ends in."""
IO_FROM: Final = "io-from"
"""The type that such a cast starts from."""
ARRAY_CAST: Final = "array-cast"
"""A cast of each element of an array: the type that it ends in. What casts an element is listed by itself."""
DOMAIN: Final = "domain"
"""A domain whose constraints are checked."""
MINMAX: Final = "minmax"
"""The type by whose default order GREATEST and LEAST compare."""
CONST: Final = "const"
VAR: Final = "var"
PARAM: Final = "param"
RELATION: Final = "relation"

SUBSCRIPT: Final = "subscript"
"""The type whose subscripting function runs."""
RESULT: Final = "result"
"""The result type of a node that runs nothing of its own, by which the next choice is made."""
COLUMN: Final = "column"
"""The type of a column that XMLTABLE, JSON_TABLE, RETURNING or a column definition list makes by input."""

CONVERSION: Final = "conversion"
"""Two types, of which one becomes the other: pair() of their OIDs. No kind that the resolver has."""

DECIDING: Final = frozenset(
    (FUNCTION, OPERATOR, SORT, GROUP, IN_RANGE, IO, IO_FROM, ARRAY_CAST, DOMAIN, MINMAX, CONST, VAR, PARAM, RELATION)
)
"""The kinds that the resolver has to know."""

_CONVERTING: Final[Mapping[str, tuple[str, str]]] = {
    "FUNCEXPR": ("args", "funcresulttype"),
    "RELABELTYPE": ("arg", "resulttype"),
    "COERCEVIAIO": ("arg", "resulttype"),
}
"""Labels of what makes one type another, with the fields of what it takes and of the type that it gives."""
_CASTS: Final = (1, 2)
"""COERCE_EXPLICIT_CAST, COERCE_IMPLICIT_CAST: a function that is called by its name is no cast."""

_FIELDS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "FUNCEXPR": (("funcid", FUNCTION),),
    "AGGREF": (("aggfnoid", FUNCTION),),
    "WINDOWFUNC": (("winfnoid", FUNCTION),),
    "TABLESAMPLECLAUSE": (("tsmhandler", FUNCTION),),
    "OPEXPR": (("opno", OPERATOR),),
    "DISTINCTEXPR": (("opno", OPERATOR),),
    "NULLIFEXPR": (("opno", OPERATOR),),
    "SCALARARRAYOPEXPR": (("opno", OPERATOR),),
    "ROWCOMPAREEXPR": (("opnos", OPERATOR),),
    "CTECYCLECLAUSE": (("cycle_mark_neop", OPERATOR), ("cycle_mark_type", RESULT)),
    "WINDOWCLAUSE": (("startInRangeFunc", IN_RANGE), ("endInRangeFunc", IN_RANGE)),
    "COERCEVIAIO": (("resulttype", IO),),
    "COERCETODOMAIN": (("resulttype", DOMAIN),),
    "MINMAXEXPR": (("minmaxtype", MINMAX),),
    "CONST": (("consttype", CONST),),
    "VAR": (("vartype", VAR),),
    "PARAM": (("paramtype", PARAM),),
    "RANGETBLENTRY": (("relid", RELATION),),
    "SUBSCRIPTINGREF": (("refcontainertype", SUBSCRIPT),),
    "RANGETBLFUNCTION": (("funccoltypes", COLUMN),),
    "TABLEFUNC": (("coltypes", COLUMN),),
    "JSONRETURNING": (("typid", COLUMN),),
    "RELABELTYPE": (("resulttype", RESULT),),
    "ARRAYCOERCEEXPR": (("resulttype", ARRAY_CAST),),
    "CONVERTROWTYPEEXPR": (("resulttype", RESULT),),
    "FIELDSELECT": (("resulttype", RESULT),),
    "CASEEXPR": (("casetype", RESULT),),
    "COALESCEEXPR": (("coalescetype", RESULT),),
    "ARRAYEXPR": (("array_typeid", RESULT),),
    "ROWEXPR": (("row_typeid", RESULT),),
    "SQLVALUEFUNCTION": (("type", RESULT),),
    "XMLEXPR": (("type", RESULT),),
}
"""Fields that hold the OID of an object (or a list of them), by label, and what they are."""

_ALIASES: Final[Mapping[str, str]] = {
    # 13 to 15 print shorter labels (outfuncs.c), 16 and later the name of the struct.
    "RTE": "RANGETBLENTRY",
    "ROWCOMPARE": "ROWCOMPAREEXPR",
    "MINMAX": "MINMAXEXPR",
    "CASE": "CASEEXPR",
    "WHEN": "CASEWHEN",
    "COALESCE": "COALESCEEXPR",
    "ARRAY": "ARRAYEXPR",
    "ROW": "ROWEXPR",
    "COLLATE": "COLLATEEXPR",
}

_NOTHING: Final = frozenset(
    (
        *("QUERY", "ALIAS", "FROMEXPR", "JOINEXPR", "RANGETBLREF", "TARGETENTRY", "RTEPERMISSIONINFO"),
        *("SORTGROUPCLAUSE", "GROUPINGSET", "SETOPERATIONSTMT", "ROWMARKCLAUSE", "COMMONTABLEEXPR", "CTESEARCHCLAUSE"),
        *("BOOLEXPR", "NULLTEST", "BOOLEANTEST", "CASEWHEN", "CASETESTEXPR", "COLLATEEXPR", "SUBLINK"),
        *("NAMEDARGEXPR", "GROUPINGFUNC", "SETTODEFAULT", "COERCETODOMAINVALUE", "CURRENTOFEXPR"),
        *("JSONFORMAT", "JSONVALUEEXPR", "JSONCONSTRUCTOREXPR", "JSONISPREDICATE", "JSONEXPR", "JSONBEHAVIOR"),
        *("JSONTABLEPATH", "JSONTABLEPATHSCAN", "JSONTABLESIBLINGJOIN"),
    )
)
"""Labels of which no field names an object that is picked, besides what `picked` knows of them and their parts."""

_RESULT_TYPE: Final[Mapping[str, str]] = {
    "VAR": "vartype",
    "CONST": "consttype",
    "PARAM": "paramtype",
    "AGGREF": "aggtype",
    "WINDOWFUNC": "wintype",
    "FUNCEXPR": "funcresulttype",
    "OPEXPR": "opresulttype",
    "DISTINCTEXPR": "opresulttype",
    "NULLIFEXPR": "opresulttype",
    "FIELDSELECT": "resulttype",
    "RELABELTYPE": "resulttype",
    "COERCEVIAIO": "resulttype",
    "ARRAYCOERCEEXPR": "resulttype",
    "CONVERTROWTYPEEXPR": "resulttype",
    "CASEEXPR": "casetype",
    "CASETESTEXPR": "typeId",
    "ARRAYEXPR": "array_typeid",
    "ROWEXPR": "row_typeid",
    "COALESCEEXPR": "coalescetype",
    "MINMAXEXPR": "minmaxtype",
    "SQLVALUEFUNCTION": "type",
    "COERCETODOMAIN": "resulttype",
    "COERCETODOMAINVALUE": "typeId",
    "SETTODEFAULT": "typeId",
}
_BOOLEAN: Final = 16
_BOOLEANS: Final = frozenset(
    (
        *("SCALARARRAYOPEXPR", "BOOLEXPR", "ROWCOMPAREEXPR", "NULLTEST", "BOOLEANTEST"),
        *("JSONISPREDICATE", "CURRENTOFEXPR"),
    )
)
_INTEGER: Final = 23
_TEXT: Final = 25
_XML: Final = 142

# SubLinkType and XmlExprOp of primnodes.h
_EXPR_SUBLINK: Final = 4
_ARRAY_SUBLINK: Final = 6
_IS_XMLSERIALIZE: Final = 6
_IS_DOCUMENT: Final = 7


_DEFAULT_BEHAVIOUR: Final = 8
"""JSON_BEHAVIOR_DEFAULT"""


class UnknownNodeError(Exception):
    """The server's tree has a node of which this module does not know what it names."""


def picked(tree: Any) -> list[Picked]:
    """Return every object that a tree of parse analysis names, in no particular order.

    Raises UnknownNodeError for a label that is neither in the table of fields nor among those that name nothing.
    """
    found: list[Picked] = []
    stack: list[Any] = [tree]
    while stack:
        node = stack.pop()
        if type(node) is list:
            stack += node
            continue
        if type(node) is not dict:
            continue
        label = _label(node)
        if label == "QUERY":
            if node["utilityStmt"] is not None:
                stack += _analysed_inside(node["utilityStmt"])
                continue
            found += _of_query(node)
            if node["setOperations"] is not None:
                # Its columns are made of those of its first query: no text names them.
                stack += [value for name, value in node.items() if name != "targetList" and type(value) in (dict, list)]
                continue
        elif (
            label == "JSONBEHAVIOR" and node["btype"] != _DEFAULT_BEHAVIOUR and _label(node["expr"] or node) == "CONST"
        ):
            # What ON EMPTY and ON ERROR give is no literal of the text.
            continue
        elif label == "AGGREF":
            for clauses in (node["aggorder"], node["aggdistinct"]):
                found += _sorted(clauses, node["args"])
        elif label == "SETOPERATIONSTMT":
            found += _sorted(node["groupClauses"], None)
        elif label == "COERCEVIAIO":
            argument = type_of(node["arg"])
            if argument:
                found.append(Picked(IO_FROM, node["location"], argument))
        if label in _CONVERTING:
            found += _conversion(label, node)
        location = -1 if label == "ROWCOMPAREEXPR" else node.get("location", -1)
        fields = _FIELDS.get(label)
        if fields is None:
            if label not in _NOTHING:
                raise UnknownNodeError(label)
        else:
            for field, kind in fields:
                value = node.get(field)
                if type(value) is list:
                    found += [Picked(kind, location, oid) for oid in value if oid]
                elif value:
                    found.append(Picked(kind, location, value))
        stack += [value for value in node.values() if type(value) is dict or type(value) is list]
    return found


def pair(source: int, target: int) -> int:
    """Return one number for two OIDs."""
    return source << 32 | target


def _conversion(label: str, node: Node) -> Iterator[Picked]:
    argument, result = _CONVERTING[label]
    if node.get("funcformat", _CASTS[0]) not in _CASTS:
        return
    given = node[argument][0] if argument == "args" else node[argument]
    source = type_of(given)
    if source:
        yield Picked(CONVERSION, node["location"], pair(source, node[result]))


def output(tree: Node) -> list[tuple[str, int | None]]:
    """Return name and type of each column of the answer; None for a type that the tree does not tell."""
    return [
        (_name(target["resname"]), type_of(target["expr"]))
        for target in tree["targetList"] or ()
        if not target["resjunk"]
    ]


def type_of(node: Any) -> int | None:
    """Return an expression's type, as exprType() (nodeFuncs.c) does; None where it would ask the catalogue."""
    while True:
        label = _label(node)
        if label in _RESULT_TYPE:
            return int(node[_RESULT_TYPE[label]])
        if label in _BOOLEANS:
            return _BOOLEAN
        if label in ("NAMEDARGEXPR", "COLLATEEXPR"):
            node = node["arg"]
        elif label == "SUBSCRIPTINGREF":
            if "refrestype" in node:
                return int(node["refrestype"])
            return int(node["refcontainertype" if node["reflowerindexpr"] else "refelemtype"])
        elif label == "SUBLINK":
            if node["subLinkType"] == _ARRAY_SUBLINK:
                return None
            if node["subLinkType"] != _EXPR_SUBLINK:
                return _BOOLEAN
            node = next(target["expr"] for target in node["subselect"]["targetList"] if not target["resjunk"])
        elif label == "JSONVALUEEXPR":
            node = node["formatted_expr"] or node["raw_expr"]
        elif label in ("JSONCONSTRUCTOREXPR", "JSONEXPR"):
            return int(node["returning"]["typid"])
        elif label == "XMLEXPR":
            return {_IS_DOCUMENT: _BOOLEAN, _IS_XMLSERIALIZE: _TEXT}.get(node["op"], _XML)
        elif label == "GROUPINGFUNC":
            return _INTEGER
        else:
            raise UnknownNodeError(label)


_ARGUMENT: Final = ("arg", "args", "refexpr", "largs", "raw_expr", "testexpr")
"""The fields in which a node that knows no place has one that does."""


def place_of(node: Any) -> int:
    """Return the place of an expression: its own, and where it has none that of its first argument; -1: nowhere."""
    while node:
        if type(node) is list:
            node = node[0]
            continue
        location: int = node.get("location", -1)
        if location >= 0:
            return location
        node = next((node[field] for field in _ARGUMENT if node.get(field)), None)
    return -1


def _of_query(query: Node) -> Iterator[Picked]:
    targets = query["targetList"]
    for name in ("groupClause", "distinctClause", "sortClause"):
        yield from _sorted(query[name], targets)
    for window in query["windowClause"] or ():
        yield from _sorted(window["partitionClause"], targets)
        yield from _sorted(window["orderClause"], targets)


def _sorted(clauses: Sequence[Node] | None, targets: Sequence[Node] | None) -> Iterator[Picked]:
    """Yield the operators of SortGroupClauses; their place is that of the expression which they sort."""
    for clause in clauses or ():
        reference = clause["tleSortGroupRef"]
        expressions = [target["expr"] for target in targets or () if target["ressortgroupref"] == reference]
        expression = expressions[0] if reference and expressions else None
        for field, kind in (("eqop", GROUP), ("sortop", SORT)):
            if clause[field]:
                yield Picked(kind, place_of(expression), clause[field])


def _analysed_inside(statement: Any) -> Iterator[Node]:
    """Yield the analysed queries in a utility statement: that of EXPLAIN, DECLARE CURSOR, CREATE TABLE AS.

    What else stands there is as the grammar made it. 13 to 15 print most of them as `?`.
    """
    stack = [statement]
    while stack:
        node = stack.pop()
        if type(node) is list:
            stack += node
        elif type(node) is dict:
            if node.get("node") == "QUERY":
                yield node
            else:
                stack += [value for value in node.values() if type(value) is dict or type(value) is list]


def _label(node: Node) -> str:
    label: str = node["node"]
    return _ALIASES.get(label, label)


def _name(value: Any) -> str:
    """Return a name: nodes.read() takes it for a word where it is `true` or `false`, for nothing where it is empty."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)

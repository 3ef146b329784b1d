"""Take a PL/pgSQL function apart: everything in it that the server evaluates, as SQL for the filter to judge.

`parse_plpgsql_json` gives PL/pgSQL's own tree (libpg_query, src/pg_query_json_plpgsql.c) with the SQL in it as text.
The tree is walked against a table of nodes and their fields: what the table does not hold is refused, not skipped. Two
things are not in the tree and are read from the tokens of the body:

- A variable of a type that is not built in becomes a PLpgSQL_rec without its type and without its default: `d my_domain
  := writer()` leaves no trace of either. So the DECLARE sections are read here. DECLARE is a reserved word of PL/pgSQL
  (pl_reserved_kwlist.h): each section begins with that token; where it is something else, the function is refused.
- An assignment is one text, target and all. Its target's subscripts are evaluated, too.

That parser has no catalogue: it takes every type that is not built in for a record, `t%ROWTYPE` for a scalar, and gives
up at an array of either and at VARIADIC. So it gets a CREATE FUNCTION of our own, in which such types are replaced by
`text`, `text[]` and `record`. What is replaced is judged as a type, and is one name and nothing more: no call can be.

`parse_plpgsql_json` can end the process on a hostile body: only a helper process may call `read`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from pglast.parser import ParseError, Token, parse_plpgsql_json, scan

from proxy.sql import tables
from proxy.sql import text as texts
from proxy.sql.literals import NAMEDATALEN
from proxy.sql.tables import Refused

Body = dict[str, Any]


class Piece(NamedTuple):
    """Something that the function evaluates: a complete statement to judge, what of it stands in the body, and where.

    Lines count from the first one of the body, as the CONTEXT of the server's errors does.
    """

    sql: str
    text: str
    line: int


class RowType(NamedTuple):
    """A `%TYPE` or `%ROWTYPE`: the parts of the name before it, and its line."""

    names: tuple[str, ...]
    line: int


class Parts(NamedTuple):
    """All that a body evaluates."""

    pieces: list[Piece]
    row_types: list[RowType]
    variables: dict[str, str]
    """The built-in type of each variable; an empty text where it has another, or where several bear the name."""
    declared: dict[str, str]
    """The SELECT of a value of each type that a DECLARE writes for a variable; an empty text where it writes none."""
    repeated: set[str]
    """The names that several variables or arguments bear."""
    labels: set[str]
    """The names of blocks and loops."""


IsScalar = Callable[[tuple[str, ...]], bool | None]
"""Tells of a type's name, with or without its schema, whether a variable of it has no fields. None: it is built in."""


class Unreadable(Exception):  # noqa: N818 - it is a finding about a body, not an error
    """Say why a body is no read, as a clause of which `its body` is the subject: `executes dynamic SQL`."""

    def __init__(self, why: str, text: str = "", line: int = 0) -> None:
        super().__init__(why)
        self.why = why
        self.text = text
        self.line = line


# What stands in a field of the tree: nothing to look at; nodes, each under its name; a list of such; dynamic SQL.
_SCALAR, _NODE, _LIST, _DYNAMIC = range(4)


def _fields(scalars: str = "", nodes: str = "", lists: str = "", dynamic: str = "") -> dict[str, int]:
    table = dict.fromkeys(scalars.split(), _SCALAR)
    table |= dict.fromkeys(nodes.split(), _NODE)
    table |= dict.fromkeys(lists.split(), _LIST)
    return table | dict.fromkeys(dynamic.split(), _DYNAMIC)


_NODES: dict[str, dict[str, int]] = {
    "function": _fields(nodes="action", lists="datums"),
    "var": _fields(
        "refname lineno isconst notnull cursor_explicit_argrow cursor_options promise",
        "datatype default_val cursor_explicit_expr",
    ),
    "type": _fields("typname"),
    "row": _fields("refname lineno fields"),
    "rec": _fields("refname lineno dno"),
    "recfield": _fields("fieldname recparentno"),
    "stmt_block": _fields("lineno label", "exceptions", "body"),
    "exception_block": _fields(lists="exc_list"),
    "exception": _fields(lists="conditions action"),
    "condition": _fields("condname"),
    "stmt_assign": _fields("lineno varno", "expr"),
    "stmt_if": _fields("lineno", "cond", "then_body elsif_list else_body"),
    "if_elsif": _fields("lineno", "cond", "stmts"),
    "stmt_case": _fields("lineno t_varno have_else", "t_expr", "case_when_list else_stmts"),
    "case_when": _fields("lineno", "expr", "stmts"),
    "stmt_loop": _fields("lineno label", "", "body"),
    "stmt_while": _fields("lineno label", "cond", "body"),
    "stmt_fori": _fields("lineno label reverse", "var lower upper step", "body"),
    "stmt_fors": _fields("lineno label", "var query", "body"),
    "stmt_forc": _fields("lineno label curvar", "var argquery", "body"),
    "stmt_foreach_a": _fields("lineno label varno slice", "expr", "body"),
    "stmt_exit": _fields("lineno label is_exit", "cond"),
    "stmt_return": _fields("lineno", "expr"),
    "stmt_return_next": _fields("lineno", "expr"),
    "stmt_return_query": _fields("lineno", "query", "params", "dynquery"),
    "stmt_raise": _fields("lineno elog_level condname message", "", "params options"),
    "raise_option": _fields("opt_type", "expr"),
    "stmt_assert": _fields("lineno", "cond message"),
    "stmt_execsql": _fields("lineno into strict", "sqlstmt target"),
    "stmt_getdiag": _fields("lineno is_stacked", "", "diag_items"),
    "diag_item": _fields("kind target"),
    "stmt_open": _fields("lineno curvar cursor_options", "argquery query", "params", "dynquery"),
    "stmt_fetch": _fields("lineno curvar direction how_many is_move returns_multiple_rows", "target expr"),
    "stmt_close": _fields("lineno curvar"),
    "stmt_perform": _fields("lineno", "expr"),
}
"""The nodes of a function that can be a read, without their prefix PLpgSQL_, and all fields of each."""

_REFUSED = {
    "stmt_dynexecute": "executes dynamic SQL",
    "stmt_dynfors": "executes dynamic SQL",
    "stmt_call": "executes CALL or DO",
    "stmt_commit": "executes COMMIT",
    "stmt_rollback": "executes ROLLBACK",
}

# RawParseMode, parser/parser.h
_QUERY, _EXPRESSION, _ASSIGNMENTS = 0, 2, (3, 4, 5)


def read(definition: str, source: str, is_scalar: IsScalar) -> Parts:
    """Give all that a function's body evaluates. Raises Unreadable where the body is no read, or cannot be read.

    `definition` is the whole CREATE FUNCTION, `source` the body in it (pg_proc.prosrc).
    """
    parts = Parts([], [], {}, {}, set(), set())
    if "declare" in source.lower():
        source = _Declarations(source, parts, is_scalar).read()
    try:
        (function,) = msgspec.json.decode(parse_plpgsql_json(_create_function(definition, source, is_scalar)))
    except ParseError as error:
        raise Unreadable(f"cannot be parsed: {error.args[0]}") from error
    except Refused as refused:
        raise Unreadable(f"cannot be parsed: {refused.refusal.message}") from refused
    except (msgspec.DecodeError, ValueError, LookupError, RecursionError) as error:
        raise Unreadable("cannot be parsed") from error
    if "action" not in function.get("PLpgSQL_function", ()):
        raise Unreadable("cannot be parsed: it is not in PL/pgSQL")
    _walk(function, parts)
    _name_variables(function["PLpgSQL_function"].get("datums", ()), parts)
    return parts


def _name_variables(datums: Sequence[Body], parts: Parts) -> None:
    variables = parts.variables
    for kind, datum in (item for each in datums for item in each.items()):
        if kind in ("PLpgSQL_row", "PLpgSQL_recfield"):
            continue  # no name of the body's means one
        type_ = datum.get("datatype", {}).get("PLpgSQL_type", {}).get("typname", "")
        known = type_ if kind == "PLpgSQL_var" and type_ in tables.TYPES and type_ != _STAND_IN else ""
        name = datum.get("refname", "")
        if name in variables:
            parts.repeated.add(name)
        variables[name] = known if variables.get(name, known) == known else ""


def _create_function(definition: str, source: str, is_scalar: IsScalar) -> str:
    """Write a CREATE FUNCTION with this one's arguments and result, for a parser that knows built-in types only."""
    (raw,) = texts.parse(definition)
    create = raw["stmt"]["CreateFunctionStmt"]
    arguments: list[str] = []
    outputs: list[str] = []
    for parameter in (item["FunctionParameter"] for item in create.get("parameters", ())):
        mode = _MODES.get(parameter["mode"], "")
        kind = _type(parameter["argType"], is_scalar)
        arguments.append(f"{mode} {_quoted(parameter['name']) if 'name' in parameter else ''} {kind}")
        if mode:
            outputs.append(kind)
    result = create.get("returnType", {})
    returns = "record" if len(outputs) > 1 else outputs[0] if outputs else _type(result, is_scalar)
    if result.get("setof"):
        returns = f"SETOF {returns}"
    tag = "body"
    while f"${tag}$" in source:
        tag += "_"
    name = _quoted(create["funcname"][-1]["String"]["sval"])
    return (
        f"CREATE FUNCTION {name}({', '.join(arguments)}) RETURNS {returns} LANGUAGE plpgsql AS ${tag}${source}${tag}$"
    )


_STAND_IN = "name"
"""What stands for a type of the database, which may have a collation; what is of this type itself is taken for one."""
OUTPUTS = frozenset({"FUNC_PARAM_OUT", "FUNC_PARAM_TABLE"})
_MODES = {"FUNC_PARAM_OUT": "OUT", "FUNC_PARAM_TABLE": "OUT", "FUNC_PARAM_INOUT": "INOUT"}  # VARIADIC is left out


def _type(node: Body, is_scalar: IsScalar) -> str:
    """Give the type of a TypeName, or the one that stands in for it."""
    names = tuple(name["String"]["sval"] for name in node["names"])
    is_array = "arrayBounds" in node
    return _stand_in(names, is_array, is_scalar) or ".".join(map(_quoted, names)) + "[]" * is_array


def _stand_in(names: tuple[str, ...], is_array: bool, is_scalar: IsScalar) -> str:
    """Give the built-in type to write for a type; empty when it can stay."""
    own = is_scalar(names)
    if own is None or is_array or own:
        return "" if own is None else "text[]" if is_array else _STAND_IN
    # The parser looks for a type's schema, and knows of two.
    return f'"public".{_quoted(names[-1])}' if len(names) > 1 else ""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _walk(function: Body, parts: Parts) -> None:
    """Visit every node, in the order of the text, without recursion."""
    waiting: list[tuple[str, Any, int]] = [(*item, 0) for item in function.items()]
    while waiting:
        name, body, line = waiting.pop()
        name = name.removeprefix("PLpgSQL_")
        line = body.get("lineno", line)
        if "label" in body:
            parts.labels.add(body["label"])
        if name == "expr":
            parts.pieces.extend(_expression(body, line))
            continue
        if name in _REFUSED:
            raise Unreadable(_REFUSED[name], _shown(name, body), line)
        fields = _NODES.get(name)
        if fields is None:
            raise Unreadable(f"holds {name}, which the filter does not know", line=line)
        found: list[tuple[str, Any, int]] = []
        for field, value in body.items():
            what = fields.get(field)
            if what == _NODE:
                found += ((*item, line) for item in value.items())
            elif what == _LIST:
                found += ((*item, line) for node in value for item in node.items())
            elif what == _DYNAMIC:
                raise Unreadable("executes dynamic SQL", _shown(name, {field: value}), line)
            elif what is None:
                raise Unreadable(f"holds {name}.{field}, which the filter does not know", line=line)
        waiting += reversed(found)


def _shown(name: str, body: Body) -> str:
    """Give a refused statement in words."""
    words = {
        "stmt_dynexecute": "EXECUTE ",
        "stmt_dynfors": "FOR … IN EXECUTE ",
        "stmt_open": "OPEN … FOR EXECUTE ",
        "stmt_return_query": "RETURN QUERY EXECUTE ",
    }
    holders = (body[field] for field in ("query", "dynquery", "expr") if field in body)
    return words.get(name, "") + "".join(str(holder.get("PLpgSQL_expr", {}).get("query", "")) for holder in holders)


def _expression(body: Body, line: int) -> Iterator[Piece]:
    if not body.keys() <= {"query", "parseMode"}:
        raise Unreadable("holds an expression of a kind that the filter does not know", line=line)
    text: str = body.get("query", "")
    mode = body.get("parseMode", _QUERY)
    if mode == _QUERY:
        yield Piece(text, text, line)
    elif mode == _EXPRESSION:
        yield Piece(f"SELECT {text}", text, line)
    elif mode in _ASSIGNMENTS:
        yield from _assignment(text, line)
    else:
        raise Unreadable("holds an expression of a kind that the filter does not know", text, line)


def _assignment(text: str, line: int) -> Iterator[Piece]:
    """Split `target := value`; what is evaluated are the value, and the subscripts in the target."""
    depth = opened = 0
    subscripts = ""
    for token in _tokens(text):
        word = text[token.start : token.end + 1]
        if depth == 0 and word in (":=", "="):
            value = text[token.end + 1 :]
            if subscripts:
                yield Piece(f"SELECT subscripted{subscripts}", text, line)
            yield Piece(f"SELECT {value}", text, line)
            return
        if word == "[":
            opened = token.start if depth == 0 else opened
            depth += 1
        elif word == "]":
            depth -= 1
            if depth == 0:
                subscripts += text[opened : token.end + 1]
    raise Unreadable("holds an assignment that cannot be read", text, line)


# -- DECLARE -----------------------------------------------------------------------------------------------------------

_COMMENTS = ("SQL_COMMENT", "C_COMMENT")


def _tokens(text: str) -> list[Token]:
    try:
        return [token for token in scan(text) if token.name not in _COMMENTS]
    except ParseError as error:
        raise Unreadable(f"cannot be parsed: {error.args[0]}", text) from error


class _Declarations:
    """Read the DECLARE sections among the tokens of one body."""

    __slots__ = ("_at", "_is_scalar", "_parts", "_replaced", "_source", "_tokens", "_words")

    def __init__(self, source: str, parts: Parts, is_scalar: IsScalar) -> None:
        self._source = source
        self._parts = parts
        self._is_scalar = is_scalar
        self._tokens = _tokens(source)
        self._words = [source[token.start : token.end + 1].lower() for token in self._tokens]
        self._at = 0
        self._replaced: list[tuple[int, int, str]] = []

    def read(self) -> str:
        """Note what the sections evaluate; give the body with types that the parser knows."""
        while self._at < len(self._words):
            self._at += 1
            if self._words[self._at - 1] == "declare":
                while self._word() != "begin":
                    if self._word() == "declare":
                        self._at += 1
                    else:
                        self._declaration()
        built, at = "", 0
        for start, end, stand_in in self._replaced:
            lines = "\n" * self._source.count("\n", start, end)
            built += self._source[at:start] + stand_in + lines
            at = end
        return built + self._source[at:]

    def _word(self) -> str:
        return self._words[self._at] if self._at < len(self._words) else ""

    def _line(self, token: Token) -> int:
        return self._source.count("\n", 0, token.start) + 1

    def _name(self) -> Token:
        if self._at >= len(self._tokens):
            raise Unreadable(_LOST)
        self._at += 1
        return self._tokens[self._at - 1]

    def _declaration(self) -> None:
        name = self._name()
        if self._word() == "alias":
            self._parts.variables[_identifier(self._text([name]))] = ""
            self._parts.repeated.add(_identifier(self._text([name])))
            self._until(";")
        elif self._word() in ("cursor", "no", "scroll"):  # the query is in the tree
            while self._word() in ("no", "scroll", "cursor"):
                self._at += 1
            if self._word() == "(":
                self._cursor_arguments()
            self._until(";")
        else:
            if self._word() == "constant":
                self._at += 1
            self._variable(name, self._until(";", ":=", "=", "default", "collate", "not"))
            self._until(";", ":=", "=", "default")
            if self._word() != ";":
                self._at += 1
                text = self._text(self._until(";"))
                self._parts.pieces.append(Piece(f"SELECT {text}", text, self._line(name)))
        self._at += 1  # the semicolon

    def _cursor_arguments(self) -> None:
        while self._word() != ")":
            self._at += 1  # the parenthesis, or a comma
            self._variable(self._name(), self._until(",", ")"))
        self._at += 1

    def _until(self, *ends: str) -> Sequence[Token]:
        """Go on to the first of these words that stands in no bracket, as read_datatype does (pl_gram.y)."""
        start, depth = self._at, 0
        while self._word() not in ends or depth:
            if self._at >= len(self._words):
                raise Unreadable(_LOST)
            depth += (self._word() in ("(", "[")) - (self._word() in (")", "]"))
            self._at += 1
        return self._tokens[start : self._at]

    def _text(self, tokens: Sequence[Token]) -> str:
        return self._source[tokens[0].start : tokens[-1].end + 1] if tokens else ""

    def _variable(self, name: Token, type_: Sequence[Token]) -> None:
        """Note a variable's type. Where it is one name and nothing more, the parser may get another in its place."""
        line = self._line(name)
        self._parts.declared[_identifier(self._text([name]))] = ""
        words = [self._text([token]) for token in type_]
        length = 1
        while words[length : length + 1] == ["."]:
            length += 2
        parts, rest = words[:length:2], "".join(words[length:]).lower()
        is_array = rest.endswith("]")
        stand_in = ""
        if "%" in words:
            if _LIKE.fullmatch(rest) is None:
                raise Unreadable("declares a variable of a type that cannot be read", self._text(type_), line)
            is_row = rest.startswith("%row")
            # Before %TYPE, the last part is a column's name or a variable's.
            named = tuple(map(_identifier, parts if is_row else parts[:-1]))
            self._parts.row_types.append(RowType(named, line))
            stand_in = "text[]" if is_array else "record" if is_row else ""
        else:
            piece = Piece(f"SELECT NULL::{self._text(type_)}", self._text(type_), line)
            self._parts.pieces.append(piece)
            self._parts.declared[_identifier(self._text([name]))] = piece.sql
            if parts and _BOUNDS.fullmatch(rest) is not None:
                stand_in = _stand_in(tuple(map(_identifier, parts)), is_array, self._is_scalar)
        if stand_in and _is_name(name) and all(map(_is_name, type_[:length:2])):
            self._replaced.append((type_[0].start, type_[-1].end + 1, stand_in))


_LOST = 'holds the word "declare" where the filter cannot read on'
_BOUNDS = re.compile(r"(\[\d*\])*")
_LIKE = re.compile(r"%(row)?type(array)?(\[\d*\])*")


def _is_name(token: Token) -> bool:
    """Tell whether a token can be nothing but a name.

    DECLARE may stand where it begins no section, as in `AS declare FROM t;`: FROM is no variable's name, and t stays.
    """
    return token.name == "IDENT" or token.kind == "UNRESERVED_KEYWORD"


def _identifier(word: str) -> str:
    """Give a name as the server compares it (downcase_truncate_identifier, parser/scansup.c)."""
    if word.startswith('"'):
        name = word[1:-1].replace('""', '"')
    elif word[:2].lower() == "u&":
        raise Unreadable("names a type with Unicode escapes", word)
    else:
        name = "".join(char.lower() if char.isascii() else char for char in word)
    return name.encode()[: NAMEDATALEN - 1].decode(errors="ignore")

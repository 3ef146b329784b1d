"""Splice calls of functions into the expression slots of allowed statements.

A slot is a place of a text that takes an expression: the parse tree says where constants, parameters, columns and calls
stand, and after some keywords, and at the end, a clause can be added. A form is a way to call a function. The texts are
every form in every slot; the function takes turns, so that every function meets every form many times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from pglast.parser import Token, parse_sql_json, scan

from proxy.filter import Filter
from proxy.sql import tables
from proxy.sql.catalog import Catalog, Relation, Type
from proxy.sql.verdict import Action

DATA = Path(__file__).parent / "data"


class Slot(NamedTuple):
    """A part of a text that is replaced; `{}` in `pattern` is where the call goes."""

    kind: str
    start: int
    end: int
    pattern: str = "{}"


class Form(NamedTuple):
    """A way to call. In `pattern`, `{f}` is the function's name, as an identifier, and `{c}` a call of it."""

    pattern: str
    one_argument: bool = False


class Spliced(NamedTuple):
    """A text that has to be refused, unless it is a syntax error, and what it was made of."""

    text: str
    slot: Slot
    form: Form
    function: str


SPELLINGS = """
{f}()
{f}(0)
{f}(0, 'a', null)
pg_catalog.{f}(0)
pg_catalog /* x */ . {f} /* -- */ (0)
postgres.pg_catalog.{f}(0)
"pg_catalog".{f} ( 0 )
U&"pg\\005fcatalog".{f}(0)
{f}(VARIADIC ARRAY[0])
{f}(0, VARIADIC '{{}}')
{f}(a => 0)
{f}(0, b := 1)
{f}(*)
{f}(ALL 0)
{f}(DISTINCT 0)
{f}(0 ORDER BY 1 DESC)
{f}(0) FILTER (WHERE true)
{f}(0) OVER ()
{f}(0) OVER (PARTITION BY 1 ORDER BY 1)
{f}({f}(0))
{f}(0) WITHIN GROUP (ORDER BY 1)
{f}(0) FILTER (WHERE false) OVER (ROWS UNBOUNDED PRECEDING)
""".strip().split("\n")
ATTRIBUTES = """
(0::oid).{f}
zz.{f}
public.zz.{f}
db.public.zz.{f}
(zz).{f}
(zz.a).{f}
$1.{f}
(ROW(0)).{f}
((SELECT 0)).{f}
(ARRAY[0])[1].{f}
(zz).{f}.a
(abs(0)).{f}
(zz[1:2]).{f}
(zz.{f}).*
(CASE WHEN true THEN 0 END).{f}
""".strip().split("\n")
AROUND = """
(SELECT {c})
(SELECT 1 FROM {c})
(SELECT zz FROM LATERAL {c} AS zz)
(SELECT 1 FROM ROWS FROM ({c}, now()) AS zz)
(SELECT 1 FROM {c} WITH ORDINALITY)
(SELECT 1 FROM {c} AS (a int))
(SELECT 1 FROM a JOIN b ON {c} IS NULL)
(SELECT 1 WHERE {c} IS NULL)
(SELECT 1 GROUP BY {c})
(SELECT 1 GROUP BY CUBE (1, {c}))
(SELECT 1 HAVING {c} = 0)
(SELECT 1 ORDER BY {c})
(SELECT 1 LIMIT {c})
(SELECT 1 OFFSET {c})
(SELECT 1 ORDER BY 1 FETCH FIRST ({c}) ROWS WITH TIES)
(SELECT DISTINCT ON ({c}) 1)
(SELECT 1 UNION SELECT {c})
(SELECT {c} INTERSECT SELECT 1)
(VALUES (1), ({c}))
(WITH zz AS (SELECT {c}) TABLE zz)
(WITH RECURSIVE zz AS (SELECT 1 UNION ALL SELECT {c} FROM zz) TABLE zz)
(SELECT sum(1) OVER w FROM a WINDOW w AS (PARTITION BY {c}))
(SELECT 1 FROM a TABLESAMPLE system ({c}))
(SELECT 1 FROM a TABLESAMPLE system (1) REPEATABLE ({c}))
ARRAY(SELECT {c})
EXISTS (SELECT {c})
1 IN (SELECT {c})
1 = ANY (SELECT {c})
(1, 2) = (SELECT 1, {c})
1 = ALL (ARRAY[{c}])
1 NOT IN (2, {c})
CASE WHEN {c} IS NULL THEN 1 END
CASE {c} WHEN 1 THEN 1 END
CASE WHEN true THEN 1 ELSE {c} END
(ARRAY[1])[{c}]
(ARRAY[1])[1:{c}]
ARRAY[[1], [{c}]]
ROW(1, {c})
(1, {c})
COALESCE(NULL, {c})
GREATEST(1, {c})
NULLIF({c}, 1)
({c})::text
CAST({c} AS text)
({c}).zz
({c}).*
({c}) COLLATE "C"
({c}) AT TIME ZONE 'UTC'
({c}) IS TRUE
({c}) BETWEEN 1 AND 2
1 IS DISTINCT FROM {c}
'a' LIKE 'b' ESCAPE {c}
- {c}
1 OPERATOR(pg_catalog.+) {c}
NOT ({c})
abs({c})
abs(VARIADIC ARRAY[{c}])
count(*) FILTER (WHERE {c} IS NULL)
sum(1) OVER (ORDER BY {c})
max(1 ORDER BY {c})
sum(1) OVER (ROWS {c} PRECEDING)
percentile_cont({c}) WITHIN GROUP (ORDER BY {c})
EXTRACT(epoch FROM {c})
SUBSTRING({c} FROM 1)
POSITION('a' IN {c})
OVERLAY('a' PLACING {c} FROM 1)
TRIM({c})
NORMALIZE({c})
{c} IS NORMALIZED
XMLELEMENT(NAME a, XMLATTRIBUTES({c} AS b))
XMLFOREST({c} AS a)
XMLSERIALIZE(CONTENT {c} AS text)
XMLCONCAT({c})
XMLPARSE(DOCUMENT {c})
(SELECT 1 FROM XMLTABLE('/a' PASSING {c} COLUMNS b int))
(SELECT 1 FROM XMLTABLE('/a' PASSING '' COLUMNS b int DEFAULT {c}))
JSON_OBJECT('a': {c})
JSON_ARRAY(1, {c})
JSON_ARRAY(SELECT {c})
JSON_OBJECTAGG('a': {c})
JSON_ARRAYAGG({c})
JSON({c})
JSON_SCALAR({c})
JSON_SERIALIZE({c})
JSON_VALUE({c}, '$')
JSON_QUERY('1', '$' PASSING {c} AS a)
JSON_EXISTS('1', {c})
JSON_VALUE('1', '$' DEFAULT {c} ON EMPTY)
(SELECT 1 FROM JSON_TABLE({c}, '$' COLUMNS (a int)))
({c}) IS JSON
query_to_xml({c}, true, true, '')
query_to_xml('select {s}', true, true, '')
set_config('work_mem', {c}, true)
""".strip().split("\n")
FORMS = (
    *map(Form, SPELLINGS),
    *(Form(pattern, one_argument=True) for pattern in ATTRIBUTES),
    *map(Form, AROUND),
)


def refused_functions() -> list[str]:
    """Return the built-in functions that nothing may call, however it is called."""
    return sorted(
        name
        for name, function in tables.FUNCTIONS.items()
        if function.verdict == "block" or function.takes_type or name in tables.ADVISORY_LOCKS
    )


def spelled(name: str, turn: int) -> str:
    """Write an identifier: plain, quoted, with an escape, or in other letters."""
    escaped = f'U&"\\{ord(name[0]):04x}{name[1:]}"'
    if name != name.lower():
        return (f'"{name}"', escaped)[turn % 2]
    return (name, name, f'"{name}"', escaped, name.upper())[turn % 5]


def allowed_statements() -> list[str]:
    """Return the texts of one statement, of the corpus and the other files, that the filter allows."""
    cases = map(json.loads, (DATA / "corpus.jsonl").read_text("utf-8").splitlines())
    texts = [case["sql"] for case in cases if case["verdict"] == "allow" and "sql" in case]
    for name in ("harmless.sql", "reads.sql"):
        texts += (DATA / name).read_text("utf-8").splitlines()
    judge = Filter().judge
    verdicts = [(text, judge(text.encode(), extended=True)) for text in dict.fromkeys(texts)]
    return [text for text, verdict in verdicts if verdict.action is Action.ALLOW and verdict.kind != "empty"]


class Anything(Catalog):
    """A database with every table and type that a statement names, and no functions but the built-in ones."""

    def relation(self, schema: str, name: str) -> tuple[Relation, ...]:
        return (Relation(0, schema, ()),)

    def type(self, schema: str, name: str) -> tuple[Type, ...]:
        return (Type(0, schema),)


# -- slots -------------------------------------------------------------------------------------------------------------

AFTER = {
    "SELECT": ("target", "{}, "),
    "DISTINCT": ("target", "{}, "),
    "FROM": ("from", "{} AS zz, "),
    "WHERE": ("where", "{} IS NULL AND "),
    "ON": ("on", "{} IS NULL AND "),
    "HAVING": ("having", "{} IS NULL AND "),
    "BY": ("by", "{}, "),
    "VALUES": ("values", "({}), "),
}
"""What can be put after a keyword. Where it does not fit, as after the FROM of EXTRACT, a syntax error comes of it."""
AT_END = (
    *(" WHERE {} IS NULL", " GROUP BY {}", " HAVING {} IS NULL", " ORDER BY {}", " LIMIT {}", " OFFSET {}"),
    *(" FETCH NEXT ({}) ROWS ONLY", " UNION ALL SELECT {}", " WINDOW zz AS (ORDER BY {})"),
)
ITEMS_AT_END = (", {} AS zz", " CROSS JOIN {} AS zz", " NATURAL JOIN LATERAL {} AS zz")
AT_START = ("WITH zz AS (SELECT {}) ", "EXPLAIN SELECT {}, (", "WITH zz AS MATERIALIZED (VALUES ({})) ")


def slots(text: str) -> list[Slot]:
    """Return the places of a text of one statement where a call can be spliced in."""
    tokens = [token for token in scan(text) if token.name not in ("SQL_COMMENT", "C_COMMENT")]
    at = {token.start: number for number, token in enumerate(tokens)}
    found = set()
    for kind, location in _expressions(json.loads(parse_sql_json(text)), text):
        if location in at and not _belongs_to_a_type(tokens, at[location], text):
            start, end = _span(tokens, at[location], kind)
            if kind != "FuncCall" or text[end - 1] == ")":  # LIKE ... ESCAPE is a call as well
                found.add(Slot(kind, start, end))
    for token in tokens:
        word = text[token.start : token.end + 1].upper()
        if word in AFTER:
            kind, pattern = AFTER[word]
            found.add(Slot(kind, token.end + 1, token.end + 1, f" {pattern}"))
    last = tokens[-2 if tokens[-1].name == "ASCII_59" else -1].end + 1
    found |= {Slot("end", last, last, pattern) for pattern in AT_END}
    found |= {Slot("from", last, last, pattern) for pattern in ITEMS_AT_END}
    found |= {Slot("start", 0, 0, pattern) for pattern in AT_START}
    return sorted(found)


def _expressions(tree: Any, text: str) -> Iterator[tuple[str, int]]:
    """Give constants, parameters, columns and calls, each with the index of its first character."""
    widths = [0, *accumulate(len(character.encode()) for character in text)]
    characters = {offset: index for index, offset in enumerate(widths)}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for kind in ("A_Const", "ParamRef", "ColumnRef", "FuncCall"):
                if kind in node:
                    yield kind, characters.get(node[kind].get("location", 0), -1)
            waiting += node.values()
        elif isinstance(node, list):  # of a long one the ends: those between have nothing of their own
            waiting += node if len(node) < 9 else node[:4] + node[-4:]


def _belongs_to_a_type(tokens: list[Token], first: int, text: str) -> bool:
    """Tell whether it is the string of `date '2020-01-01'` or `N'x'`: the name would stay, and call something else."""
    start = tokens[first].start
    return text[start : start + 1] == "'" and (tokens[first - 1].name == "IDENT" or text[start - 1] in "Nn")


def _span(tokens: list[Token], first: int, kind: str) -> tuple[int, int]:
    """Return where the expression that begins with a token ends: at the last part of a name, or its closing bracket."""
    last = first
    if kind == "A_Const" and tokens[first].name == "ASCII_45":  # a minus
        last += 1
    if kind in ("ColumnRef", "FuncCall"):
        while last + 2 < len(tokens) and tokens[last + 1].name == "ASCII_46":  # a full stop
            last += 2
    if kind == "FuncCall" and last + 1 < len(tokens) and tokens[last + 1].name == "ASCII_40":
        depth = 0
        for number in range(last + 1, len(tokens)):
            depth += {"ASCII_40": 1, "ASCII_41": -1}.get(tokens[number].name, 0)
            if depth == 0:
                last = number
                break
    return tokens[first].start, tokens[last].end + 1


# -- the texts ---------------------------------------------------------------------------------------------------------


def spliced(parts: int = 1, part: int = 0, functions: Sequence[str] = ()) -> Iterator[Spliced]:
    """Give one of so many equal parts of all texts: call `functions`, or else those that are refused.

    The number of parts has no divisor in common with the number of forms, so that each part holds them all.
    """
    everything = functions or refused_functions()
    unary = [name for name in everything if tables.FUNCTIONS[name].one_argument or name in functions]
    places = [(text, slot) for text in allowed_statements() for slot in slots(text)]
    for number in range(part, len(places) * len(FORMS), parts):
        turn, offset = divmod(number, len(FORMS))
        (text, slot), form = places[turn], FORMS[offset]
        if form.one_argument and slot.kind in ("from", "FuncCall"):  # after FROM, `x.f` is a table's name
            continue
        choice = unary if form.one_argument else everything
        function = choice[(turn + offset) % len(choice)]
        name = spelled(function, turn // len(choice) + offset)
        call = (f"{name}(0)", f"pg_catalog.{name}(1, 'a')", f"{name}()")[turn % 3]
        payload = form.pattern.format(f=name, c=call, s=call.replace("'", "''"))
        middle = slot.pattern.replace("{}", payload)
        yield Spliced(f"{text[: slot.start]} {middle} {text[slot.end :]}", slot, form, function)

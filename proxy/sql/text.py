"""Turn a client's bytes into a parse tree, and find characters in them again: of an error, of a refusal's caret.

PostgreSQL's POSITION counts characters from 1 (manual, "Error and Notice Message Fields"). The parse tree's locations
count bytes of the UTF-8 text from 0, and pglast's ParseError counts neither.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, Final

import msgspec
from pglast.parser import ParseError, Token, parse_sql_json, scan

from proxy import errors
from proxy.sql import tables
from proxy.sql.literals import NAMEDATALEN
from proxy.sql.tables import Refusal, Refused

GRAMMAR = 18
"""The major version of PostgreSQL whose grammar reads here."""
MAX_DEPTH = 8000
"""Levels of JSON that are decoded: 4,000 terms of `a || b`, 8,000 of UNION."""
_PLAIN_LIMIT = 2000
"""Up to this recursion limit msgspec, which recurses in C, gives RecursionError long before an 8 MB stack ends.
Tried: a limit of 20,000 is still survived, 24,000 is not."""
_CODECS = frozenset(tables.ENCODINGS.values())
_EXACT = ("utf-8", "latin-1", tables.RAW)  # no character above 0x7F decodes to an ASCII one
_HIGH_BYTES = bytes(range(128, 256))
_decode = msgspec.json.Decoder().decode

TOO_DEEP = Refusal(
    "depth",
    "stack depth limit exceeded",
    "The expressions of the text are nested too deep (rule: depth).",
    "Use IN, ANY or a VALUES list in the place of long chains.",
    errors.STATEMENT_TOO_COMPLEX,
)


_OPERATOR_RUN = re.compile(r"[-~!@#^&|`?+*/%<>=]{32,}")  # op_chars, parser/scan.l
_RUN_BUDGET = 10_000_000
_LONG_RUN = Refusal(
    "operator-run",
    "too many operator characters in a row",
    "The grammar's lexer would need very long for them (rule: operator-run).",
    sqlstate=errors.STATEMENT_TOO_COMPLEX,
)


JUNK_SINCE = 150000
"""The server_version_num from which on a letter behind a number is an error."""
_SPLIT_NUMBER = re.compile(rb"(?<![A-Za-z0-9_$\x80-\xff])[0-9]+[xXoObB_]|[0-9.][eE][+-]?[0-9]+[xXoObB_]")
"""Looked for in time that grows with a text's length alone: each run of digits is gone through once."""


def may_split_numbers(sql: bytes) -> bool:
    """Tell whether there may be a number that is one token here, and to servers before JUNK_SINCE a number and a name.

    `SELECT 0x1F`, which is 31, is `SELECT 0 AS x1F` there, and `1_000` is `1 AS _000`.
    """
    return _SPLIT_NUMBER.search(sql) is not None


def check_operator_runs(text: str) -> None:
    """Refuse a text on which PostgreSQL's lexer takes quadratic time: `/*/*/*…` or `+-+-+-…`.

    At each `/*` inside a comment, and at each `+` of an operator, scan.l matches the whole run of operator characters
    and gives all but one or two of them back. Measured: 4 ns a character matched, 1.1 s for 16,000 characters of `+-`,
    more than an hour for 1 MiB. The budget is 40 ms; a text whose length alone keeps it is not searched.
    """
    if len(text) <= 3000 or len(text) * (text.count("+") + text.count("/*")) <= _RUN_BUDGET:
        return
    cost = 0
    for run in _OPERATOR_RUN.finditer(text):
        cost += len(run[0]) * (run[0].count("+") + run[0].count("/*"))
        if cost > _RUN_BUDGET:
            raise Refused(_LONG_RUN, run.start())


_FOREIGN_NAME = Refusal(
    "encoding",
    "a name with letters beyond ASCII may be another one to the server",
    "A name is cut off, and lowered where it is not quoted, by the bytes of the database's encoding, which is not UTF-8"
    " (rule: encoding).",
    "Quote the name, write no more of it than 63 bytes of UTF-8, and without U&.",
    errors.CHARACTER_NOT_IN_REPERTOIRE,
)


def _check_names(text: str) -> None:
    """Refuse names that the parser may read otherwise than a server whose encoding is not UTF-8.

    It cuts them off by the bytes of its encoding, and lowers letters beyond ASCII where each is one byte
    (truncate_identifier() and downcase_identifier(), parser/scansup.c). What U&"" stands for is not worked out.
    """
    if text.isascii() and "u&" not in text.lower():
        return
    try:
        tokens = scan(text)
    except ParseError:
        return  # it is no SQL
    for token in tokens:
        name = text[token.start : token.end + 1]
        if token.name == "UIDENT" or (token.name == "IDENT" and not name.isascii() and _is_foreign(name)):
            raise Refused(_FOREIGN_NAME, token.start)


def _is_foreign(name: str) -> bool:
    lowered = not name.startswith('"') and any(not letter.isascii() and letter != letter.lower() for letter in name)
    return lowered or len(name.strip('"').encode()) >= NAMEDATALEN


def parse(text: str, *, foreign: bool = False) -> list[dict[str, Any]]:
    """Parse a text into its RawStmt bodies. Raises Refused (42601, 54001) with a location in characters.

    `foreign`: for a server in another encoding than UTF-8; names that it may read otherwise are refused.
    """
    check_operator_runs(text)
    if foreign:
        _check_names(text)
    try:
        tree = parse_sql_json(text)
    except ParseError as error:
        message = str(error.args[0])
        index = error.args[1] if len(error.args) > 1 else None
        if any(words in message for words in ("stack depth", "memory exhausted", "out of memory")):
            raise Refused(TOO_DEEP) from error
        raise Refused(
            # No DETAIL: a private connection's error has none either.
            Refusal("syntax", message, "", sqlstate=errors.SYNTAX_ERROR),
            _error_location(text, message, index),
        ) from error
    if sys.getrecursionlimit() <= _PLAIN_LIMIT:
        try:
            return _decode(tree).get("stmts", [])  # type: ignore[no-any-return]
        except RecursionError:
            pass  # nested deeper than usual; how deep is too deep differs from one Python to the next
    if depth(tree) > MAX_DEPTH:
        raise Refused(TOO_DEEP)
    return decode_deep(tree).get("stmts", [])  # type: ignore[no-any-return]


def ends(text: str) -> list[int]:
    """Return where the statements of a text end, as byte offsets of its UTF-8 form. Raises Refused as `parse` does."""
    size = len(text.encode())
    raws = parse(text)
    return [raw.get("stmt_location", 0) + raw["stmt_len"] if "stmt_len" in raw else size for raw in raws]


_MOMENT: Final = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)


def has_moment(text: str) -> bool:
    """Tell whether a text has a literal that means another time whenever it is analysed, such as 'now'."""
    if _MOMENT.search(text) is None:
        return False
    try:
        tokens = scan(text)
    except ParseError:
        return True
    literals = (text[token.start : token.end + 1] for token in tokens if token.name in _LITERALS)
    return any(map(_MOMENT.search, literals))


_LITERALS: Final = frozenset({"SCONST", "USCONST"})
_PART = re.compile(r'[{}\[\]]|"(?:[^"\\]|\\.)*"|[^{}\[\]",:\s]+')


def parameters(text: str) -> int:
    """Return the highest number that a parameter ($1, $2 …) has in a text which the grammar accepts, or 0."""
    return max((int(text[each.start + 1 : each.end + 1]) for each in scan(text) if each.name == "PARAM"), default=0)


def decode_deep(tree: str) -> Any:
    """Decode a JSON text without recursion, however deep it is nested: about ten times slower than msgspec.

    For what the parser wrote, which is valid JSON.
    """
    root: list[Any] = []
    holders: list[Any] = [root]
    names: list[str | None] = [None]  # for each holder that is an object, the name whose value comes next
    for part in _PART.findall(tree):
        if part in ("}", "]"):
            holders.pop()
            names.pop()
            continue
        value: Any = {} if part == "{" else [] if part == "[" else _decode(part)
        holder = holders[-1]
        name = names[-1]
        if isinstance(holder, list):
            holder.append(value)
        elif name is None:
            names[-1] = value
            continue
        else:
            holder[name] = value
            names[-1] = None
        if part in ("{", "["):
            holders.append(value)
            names.append(None)
    return root[0]


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_STEP = {"{": 1, "[": 1, "}": -1, "]": -1}


def depth(text: str) -> int:
    """Count how deep the objects and arrays of a JSON text are nested, without recursion."""
    brackets = re.sub(r"[^][{}]+", "", _STRING.sub("", text))
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def decode(sql: bytes, encoding: str) -> str:
    """Decode a query text by one of the codecs in `rules.ENCODINGS`. Raises Refused (22021)."""
    if b"\0" in sql:  # the parser would stop there without a word
        raise Refused(
            Refusal(
                "nul-byte",
                "invalid byte sequence for encoding: 0x00",
                "A query text contains no NUL byte (rule: nul-byte).",
                sqlstate=errors.CHARACTER_NOT_IN_REPERTOIRE,
            )
        )
    if encoding not in _CODECS:
        raise Refused(
            Refusal(
                "encoding",
                f'encoding "{encoding}" is not supported',
                "No codec is known for the session's client_encoding (rule: encoding).",
                sqlstate=errors.FEATURE_NOT_SUPPORTED,
            )
        )
    try:
        decoded = sql.decode(encoding)
    except UnicodeDecodeError as error:
        shown = " ".join(f"0x{byte:02x}" for byte in sql[error.start : error.start + 4])
        raise Refused(
            Refusal(
                "encoding",
                f'invalid byte sequence for encoding "{encoding}": {shown}',
                "The text is not valid in the session's client_encoding (rule: encoding).",
                sqlstate=errors.CHARACTER_NOT_IN_REPERTOIRE,
            )
        ) from error
    if encoding not in _EXACT and decoded.encode("ascii", "ignore") != sql.translate(None, _HIGH_BYTES):
        # Python's EUC_JP makes an ASCII tilde, an operator, of 8F A2 B7, which the server takes for a letter of a name.
        return sql.decode("latin-1")
    return decoded


def character(text: str, offset: int) -> int:
    """Turn a byte offset of the UTF-8 text into an index of characters."""
    if text.isascii():
        return offset
    return len(text.encode()[:offset].decode(errors="ignore"))


def _error_location(text: str, message: str, index: int | None) -> int:
    """Give the index of the character that a ParseError is about; -1 when it does not say.

    libpg_query counts characters already; pglast up to 8.7 (parser.pyx, Displacements) takes that count for a byte
    offset and turns it into the index of the character which that byte is a part of. So the truth is one of that
    character's byte offsets, and the token named in the message tells which.
    """
    if message.endswith("at end of input"):
        return len(text)
    if index is None or index < 0 or text.isascii() or not _converts_twice():
        return -1 if index is None else index
    start = len(text[:index].encode())
    near = _NEAR.search(message)
    if near is not None:
        for at in range(start, start + len(text[index : index + 1].encode())):
            if text.startswith(near[1], at):
                return at
    return min(start, len(text))


@cache
def _converts_twice() -> bool:
    """Ask the installed pglast itself which of the two it is."""
    text = "select 'éé' frm frm"
    try:
        parse_sql_json(text)
    except ParseError as error:
        return bool(error.args[1] != text.rindex("frm"))
    raise AssertionError("PostgreSQL's grammar has accepted an alias behind an alias")


_NEAR = re.compile(r'at or near "(.*)"\Z', re.DOTALL)
_TOKENS_UP_TO = 100_000  # characters; a longer text gets its caret at the start of the statement
_COMMENTS = frozenset({"SQL_COMMENT", "C_COMMENT"})
_MODIFIERS = frozenset(
    {"OR", "REPLACE", "TEMP", "TEMPORARY", "LOCAL", "GLOBAL", "UNLOGGED", "UNIQUE", "RECURSIVE", "CONSTRAINT"}
    | {"TRUSTED", "PROCEDURAL"}
)
_ALONE = frozenset({"GRANT", "REVOKE", "COMMENT", "ANALYZE", "VACUUM", "TRUNCATE"})
_OBJECTS = [
    "ACCESS METHOD",
    "EVENT TRIGGER",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "MATERIALIZED VIEW",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "USER MAPPING",
]
_LONG_COMMANDS = frozenset((verb, *what.split()) for verb in ("CREATE", "ALTER", "DROP") for what in _OBJECTS) | {
    ("ALTER", "DEFAULT", "PRIVILEGES"),
    ("ALTER", "LARGE", "OBJECT"),
    ("IMPORT", "FOREIGN", "SCHEMA"),
    ("REFRESH", "MATERIALIZED", "VIEW"),
}
"""The commands of more than two words (tcop/cmdtaglist.h); of all others the first two are the name."""
_LONGEST = max(map(len, _LONG_COMMANDS))


def caret(text: str, start: int, end: int | None, location: int, word: str) -> tuple[int, str]:
    """Give the POSITION for a refusal in the statement between two byte offsets, and the command as written there.

    `location` is a byte offset or -1. `word` names a token (`INTO`), a token and those that may follow it, or an
    identifier (`=name`): the last such token before `location`, or the first one without a location. With neither, the
    statement's first token is meant.
    """
    first = character(text, start)
    last = len(text) if end is None else character(text, end)
    at = character(text, location) if location >= 0 else -1
    if len(text) > _TOKENS_UP_TO:
        return max(first, at) + 1, ""
    tokens = [token for token in scan(text) if first <= token.start < last and token.name not in _COMMENTS]
    if not tokens:
        return max(first, at) + 1, ""
    found = at if at >= 0 else tokens[0].start
    if word:
        hits = _places(text, tokens, word)
        before = [hit for hit in hits if hit <= at]
        found = next(iter(before[-1:] if at >= 0 else hits), found)
    return found + 1, _command(text, [token for token in tokens if not word or token.start >= found])


def _places(text: str, tokens: Sequence[Token], word: str) -> list[int]:
    """Return where a word stands, as `caret` has it."""
    name, *followers = word.split()
    if name.startswith("="):
        return [token.start for token in tokens if text[token.start : token.end + 1].strip('"').lower() == name[1:]]
    return [
        token.start
        for token, follower in zip(tokens, [*tokens[1:], tokens[-1]], strict=True)
        if token.name == name and (not followers or follower.name in followers)
    ]


def _command(text: str, tokens: Iterable[Token]) -> str:
    """Return the words of the command that these tokens begin with."""
    command: list[str] = []
    for token in tokens:
        spelled = text[token.start : token.end + 1].upper()
        if command and spelled in _MODIFIERS:
            continue
        if not spelled.isalpha() or len(command) == _LONGEST:
            break
        command.append(spelled)
        if spelled in _ALONE:
            break
    long = (size for size in range(len(command), 2, -1) if tuple(command[:size]) in _LONG_COMMANDS)
    return " ".join(command[: next(long, 2)])

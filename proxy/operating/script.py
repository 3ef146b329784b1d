"""Cut a psql script into statements, as psql does: by its lexer alone, so that a wrong statement hides no other.

pglast's two splitters will not do. The one with the parser gives up at the first error. The one with the scanner drops
a statement without a keyword (`selec 1`), takes `\\d` and data of COPY for SQL, and gives up at the first text that is
no token. What stands here follows psql's own lexer, fe_utils/psqlscan.l.
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import NamedTuple

from proxy.sql.tables import Refused
from proxy.sql.text import parse


class Kind(enum.Enum):
    """What a piece of a script is."""

    STATEMENT = "statement"
    META = "meta-command"
    """From a backslash to the end of the line or to two backslashes: psql acts on it, and no server sees it."""
    DATA = "data"
    """The lines that follow COPY ... FROM STDIN, up to `\\.`."""


class Piece(NamedTuple):
    """A piece of a script: its kind, the index of its first character in the script, and its text."""

    kind: Kind
    start: int
    text: str


_SPACE = " \t\n\r\f\v"  # scan.l; Python's idea of white space is wider
# What can hold a semicolon that ends nothing, and what must not be taken for that; everything else is passed over.
_TOKEN = re.compile(
    r"""
      (?P<comment> --[^\r\n]* )
    | (?P<block> /\* )
    | [eE]' (?: [^'\\]++ | \\. | '' )*+ (?: ' | \Z )
    | '(?: [^']++ | '' )*+ (?: ' | \Z )
    | "(?: [^"]++ | "" )*+ (?: " | \Z )
    | (?P<dollar> \$ (?: [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_\x80-\U0010ffff]*+ )?+ \$ )
    | (?P<word> [A-Za-z_\x80-\U0010ffff] [A-Za-z0-9_$\x80-\U0010ffff]*+ )
    | (?P<meta> \\ (?: ; | (?P<command> ! | [A-Za-z_]*+ )
        # Two backslashes end the arguments, apart from those of \! and \copy, which take the whole line.
        (?: (?<= \\! ) [^\r\n]*+ | (?<= \\copy ) [^\r\n]*+ | (?: (?! \\\\ ) [^\r\n] )*+ (?: \\\\ )?+ ) ) )
    | (?P<mark> [;()] )
    """,
    re.VERBOSE | re.DOTALL,
)
_BLOCK_MARK = re.compile(r"/\*|\*/")
_SENDING = frozenset({"g", "gx", "gdesc", "gexec", "gset", "crosstabview", "watch"})
"""Meta-commands that send what was typed before them, as a semicolon does."""
_COPY_IN = re.compile(r"copy\b.*\bfrom\s+stdin\b", re.DOTALL | re.IGNORECASE)
_REST_OF_LINE = re.compile(r"[ \t\f\v]*(?:--[^\r\n]*)?\r?(?:\n|\Z)")
_END_OF_DATA = re.compile(r"^\\\.\r?$", re.MULTILINE)
_ROUTINE = re.compile(r"c(or)?[fp]")
_INITIALS = frozenset({"create", "or", "replace", "function", "procedure"})


class _Cutter:
    """Hold the state of one cut: the statement that is being read, and what it is nested in."""

    __slots__ = ("_at", "_blanks", "_block", "_counts", "_first", "_inside", "_parens", "_text", "_told", "_words")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counts = True  # parentheses
        self._told = 0  # where the last meta-command that was yielded ends
        self._begin()

    def _begin(self) -> None:
        self._first = -1  # index of the statement's first token
        self._parens = 0
        self._inside = -1  # index of the first semicolon in what is open: CREATE RULE ... DO (a; b), BEGIN ATOMIC
        self._block = 0  # depth of BEGIN ATOMIC ... END
        self._words = ""  # initials of the first words, while they can be CREATE OR REPLACE FUNCTION
        self._blanks: list[tuple[int, int]] = []  # meta-commands in the middle of the statement

    def pieces(self) -> Iterator[Piece]:
        text = self._text
        while True:
            token = _TOKEN.search(text, self._at)
            gap = token.start() if token is not None else len(text)
            if self._first < 0:
                self._first = next((at for at in range(self._at, gap) if text[at] not in _SPACE), -1)
            if token is not None:
                self._at = token.end()
                yield from self._token(token)
            elif not self._goes_back():
                yield from self._statement(len(text))
                return

    def _token(self, token: re.Match[str]) -> Iterable[Piece]:
        """Take a token; return what ends with it."""
        kind = token.lastgroup
        if kind == "meta":
            return self._meta(token)
        if token[0] == ";" and not self._parens and not self._block:
            return self._semicolon(token.start())
        if kind == "block":
            self._at = _end_of_block(self._text, self._at)
        elif kind != "comment":
            self._within(token)
        return ()

    def _within(self, token: re.Match[str]) -> None:
        """Take a token of the statement that is being read, which ends nothing."""
        if self._first < 0:
            self._first = token.start()
        kind, word = token.lastgroup, token[0]
        if kind == "word":
            self._word(word.lower())
        elif kind == "dollar":
            close = self._text.find(word, self._at)
            self._at = len(self._text) if close < 0 else close + len(word)
        elif word == ";" and self._inside < 0:
            self._inside = token.start()
        elif word == "(" and self._counts:
            self._parens += 1
        elif word == ")" and self._parens:
            self._parens -= 1
            self._leaves()

    def _goes_back(self) -> bool:
        """Go back to the first semicolon in parentheses or a block that is still open; count neither from now on.

        psql would wait for the end for ever; here nothing that is missing may hide a statement.
        """
        if self._inside < 0:
            return False
        self._counts = False
        self._at = self._inside
        self._blanks = [blank for blank in self._blanks if blank[0] < self._at]
        self._parens = self._block = 0
        self._inside = -1
        return True

    def _leaves(self) -> None:
        if not self._parens and not self._block:
            self._inside = -1

    def _word(self, word: str) -> None:
        """Keep count of BEGIN and END in the body of a function in SQL-standard form, by psqlscan.l's heuristic."""
        if len(self._words) < 4:
            self._words += word[0] if word in _INITIALS else "."
        if self._parens or not self._counts or not _ROUTINE.match(self._words):
            return
        if word == "begin" or (word == "case" and self._block):
            self._block += 1
        elif word == "end" and self._block:
            self._block -= 1
            self._leaves()

    def _statement(self, end: int) -> Iterator[Piece]:
        if 0 <= self._first < end:
            parts: list[str] = []
            at = self._first
            for start, stop in self._blanks:
                parts += (self._text[at:start], " " * (stop - start))
                at = stop
            parts.append(self._text[at:end])
            yield Piece(Kind.STATEMENT, self._first, "".join(parts).rstrip(_SPACE))

    def _semicolon(self, at: int) -> Iterator[Piece]:
        text = self._text
        copies = self._first >= 0 and _takes_data(text[self._first : at])
        yield from self._statement(at)
        rest = _REST_OF_LINE.match(text, at + 1)
        if copies and rest is not None and rest.end() < len(text):
            end = _END_OF_DATA.search(text, rest.end())
            self._at = len(text) if end is None else end.end()
            yield Piece(Kind.DATA, rest.end(), text[rest.end() : self._at])
        self._begin()

    def _meta(self, token: re.Match[str]) -> Iterator[Piece]:
        at, command = token.start(), token["command"]
        sends = command is None or command in _SENDING  # None: a backslash and a semicolon
        if sends and self._goes_back():
            return
        if sends:
            yield from self._statement(at)
        elif self._first >= 0:
            self._blanks.append(token.span())
        if command is not None and at >= self._told:
            self._told = token.end()
            yield Piece(Kind.META, at, token[0].rstrip())
        if sends or self._first < 0:
            self._begin()


def _takes_data(statement: str) -> bool:
    """Tell whether lines of data follow this statement: whether it is COPY ... FROM STDIN."""
    if _COPY_IN.match(statement) is None:  # which `COPY (SELECT 'from stdin') TO STDOUT` matches, too
        return False
    try:
        copy = parse(statement)[0]["stmt"]["CopyStmt"]
    except (Refused, KeyError):
        return False
    return copy.get("is_from", False) and not copy.get("is_program", False) and "filename" not in copy


def _end_of_block(text: str, at: int) -> int:
    """Return where the comment ends whose inside begins at `at`; comments nest."""
    depth = 1
    while depth:
        mark = _BLOCK_MARK.search(text, at)
        if mark is None:
            return len(text)
        depth += 1 if mark[0] == "/*" else -1
        at = mark.end()
    return at


def cut(text: str) -> list[Piece]:
    """Cut a script into its pieces, in order. A statement's text begins at its first token and has no semicolon.

    Where a meta-command stands in the middle of a statement, the statement's text has blanks in its place.
    """
    return sorted(_Cutter(text).pieces(), key=attrgetter("start"))


class Lines:
    """Find lines and columns, both from 1 and in characters, in a script of any line ends."""

    __slots__ = ("_starts", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(found.end() for found in re.finditer(r"\r\n|\n|\r", text))]

    def place(self, index: int) -> tuple[int, int]:
        """Return the line and the column of a character."""
        line = bisect_right(self._starts, index)
        return line, index - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Return a line without its end."""
        start = self._starts[number - 1]
        end = self._starts[number] if number < len(self._starts) else len(self._text)
        return self._text[start:end].rstrip("\r\n")

"""Give a query text's normal form: constants replaced, comments emptied, so that one verdict serves many texts.

BI tools, psycopg2 and pgbench's simple mode send statements that differ in nothing but constants. The normal form of
`SELECT a FROM t WHERE id = 4711 AND v = 'x'` is `SELECT a FROM t WHERE id = 0 AND v = ''`. Two texts with one normal
form have the same tokens apart from the values of constants, hence the same parse tree apart from those and from
locations; so a verdict that no constant's value had a part in holds for both. Whether one had is for the caller to
know (`Judgement.constants_decide`), and only *allow* may be shared: a refusal carries a position.

That the tokens are the same holds because lexing is regular here (parser/scan.l): `'` opens a string wherever it stands
outside a string and outside a quoted identifier, once everything is ruled out that would change this: a backslash,
comments that hold anything, dollar quotes, `U&`, prefixed strings (`E''`), and quoted identifiers with a `'` in them.
Where in doubt there is no normal form, and the text is parsed.

Comments are emptied and not cut: `--` and `/**/` stay in their places, so what stands around them is read as before.
(`'a' -- x`, a new line and `'b'` are one string; with `/* x */` in between they are none.)
"""

from __future__ import annotations

import re

# An integer of up to 9 digits is an ICONST (it fits int4), a decimal an FCONST: the grammar tells them apart, so do we.
# What touches a word, a `$`, a dot or another digit is left alone: `t1`, `$1`, `1.5e3`, `0x1F`, `1_000`.
# The digit comes first, and then a look at what stands before it: a pattern that begins with a set of characters is
# searched for in C, twice as fast.
_NUMBER = re.compile(r"[0-9](?<![\w$.][0-9])[0-9]{0,8}(?![\w.])", re.ASCII)
_DECIMAL = re.compile(r"[0-9](?<![\w$.][0-9])[0-9]{0,8}\.[0-9]{1,9}(?![\w.])", re.ASCII)
_DIGIT = re.compile("[0-9]")
_DOLLAR = re.compile(r"\$(?![0-9])|[0-9]\$")
_PLAIN_IDENTIFIER = re.compile(r'"(?:[^"0-9]+|[A-Za-z_]\w*)"', re.ASCII)
# What the lexer reads as no comment, whatever the settings and the version: a string ends at the same quote if a
# backslash is taken for what it is and if it escapes (E'', standard_conforming_strings off), unless one stands before a
# quote; a `$` before a digit opens no dollar quote.
_CODE = re.compile(r"""[^'"/$-]*+(?:(?:'[^'\\]*+(?:\\[^'][^'\\]*+)*+'|"[^"]*+"|-(?!-)|/(?!\*)|\$[0-9])[^'"/$-]*+)*+""")
_LINE_END = re.compile(r"[\r\n]|\Z")
MAX_COMMENTS = 64
"""Comments that are emptied in one text; nobody who has more of them changes them with every statement."""
_GLUE = frozenset('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$&"')


def emptied(sql: bytes) -> bytes | None:
    """Return a text with nothing in its comments, in an encoding whose bytes below 0x80 are ASCII; None if in doubt.

    The result has the same tokens between its comments. What has a nested comment, a backslash before a quote, a dollar
    quote, or a string or comment without an end is left to the parser.
    """
    text = sql.decode("latin-1")
    if "\0" in text:
        return None
    parts: list[str] = []
    at = 0
    while len(parts) <= 2 * MAX_COMMENTS:
        found = _CODE.match(text, at)
        end = at if found is None else found.end()
        parts.append(text[at:end])
        opening = text[end : end + 2]
        if not opening:
            return "".join(parts).encode("latin-1")
        if opening == "/*":
            close = text.find("*/", end + 2)
            if close < 0 or text.find("/*", end + 2, close + 1) >= 0:  # of `/*/`, too, the first half is an opening
                return None
            at = close + 2
            parts.append("/**/")
        elif opening == "--":
            line_end = _LINE_END.search(text, end)
            at = len(text) if line_end is None else line_end.start()
            parts.append("--")
        else:
            return None
    return None


def normal_form(sql: bytes, *, comments: bool = False) -> str | None:
    """Return the normal form of a text in an encoding whose bytes below 0x80 are ASCII; None where it has none.

    The result is valid SQL where the text is, is ASCII, and is its own normal form. Whether the strings are valid in
    their encoding is for the caller to see. `comments`: there may be some, and they are `emptied`.
    """
    text = sql.decode("latin-1")  # `in` takes a quarter of the time that it takes on bytes
    if "\\" in text or "\0" in text or ("$" in text and _DOLLAR.search(text)):
        return None  # what ends a string, or the text, could depend on it
    if not comments and ("--" in text or "/*" in text):
        return None
    if "'" in text or '"' in text:
        unquoted = _with_empty_strings(text)
        if unquoted is None:
            return None
        text = unquoted
    if not text.isascii():
        return None  # a letter of an identifier may stand before a digit
    text = _NUMBER.sub("0", text)
    return _DECIMAL.sub("0.0", text) if "." in text else text


def digits_are_constants(form: str) -> bool:
    """Tell whether each digit of a text of this form stands in a string, or in a number that the form has as 0.

    Then the form of a text that differs from it in nothing but digits is the same.
    """
    return not _DIGIT.search(_DECIMAL.sub("", _NUMBER.sub("", form)))


def _with_empty_strings(text: str) -> str | None:
    """Return a text with nothing in its strings; None where in doubt about a `'`, or about a digit between `"`."""
    parts = text.split("'")
    if not len(parts) & 1:
        return None  # a string that does not end
    outside = parts[::2]
    for part in outside[:-1]:
        if part and part[-1] in _GLUE:
            return None
    if '"' not in text:
        return "''".join(outside)
    # Up to each `'` quoted identifiers have ended: else it was part of one.
    if any(part.count('"') & 1 for part in outside):
        return None
    text = "''".join(outside)
    return None if _hides_digits(text) else text


def _hides_digits(text: str) -> bool:
    """Tell whether digits in a quoted identifier would be taken for a number; there is nothing in the strings."""
    return '"' in _PLAIN_IDENTIFIER.sub("", text) or 'U&"' in text or 'u&"' in text


def is_shareable(form: str) -> bool:
    """Tell whether the verdict of one text may stand for all of its form; to be asked once, when it is remembered.

    float(n) is the one place where the grammar itself looks at a number: it is float4 or float8, or an error
    (parser/gram.y, opt_float).
    """
    return "float" not in form.lower()

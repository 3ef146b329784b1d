"""Give a query text's normal form: the same text with its constants replaced, so that one verdict serves many texts.

BI tools, psycopg2 and pgbench's simple mode send statements that differ in nothing but constants. The normal form of
`SELECT a FROM t WHERE id = 4711 AND v = 'x'` is `SELECT a FROM t WHERE id = 0 AND v = ''`. Two texts with one normal
form have the same tokens apart from the values of constants, hence the same parse tree apart from those and from
locations; so a verdict that no constant's value had a part in holds for both. Whether one had is for the caller to
know (`Judgement.constants_decide`), and only *allow* may be shared: a refusal carries a position.

That the tokens are the same holds because lexing is regular here (parser/scan.l): `'` opens a string wherever it stands
outside a string and outside a quoted identifier, once everything is ruled out that would change this: a backslash,
comments, dollar quotes, `U&`, prefixed strings (`E''`), and quoted identifiers with a `'` in them. Where in doubt there
is no normal form, and the text is parsed.
"""

from __future__ import annotations

import re

# An integer of up to 9 digits is an ICONST (it fits int4), a decimal an FCONST: the grammar tells them apart, so do we.
# What touches a word, a `$`, a dot or another digit is left alone: `t1`, `$1`, `1.5e3`, `0x1F`, `1_000`.
# The digit comes first, and then a look at what stands before it: a pattern that begins with a set of characters is
# searched for in C, twice as fast.
_NUMBER = re.compile(r"[0-9](?<![\w$.][0-9])[0-9]{0,8}(?![\w.])", re.ASCII)
_DECIMAL = re.compile(r"[0-9](?<![\w$.][0-9])[0-9]{0,8}\.[0-9]{1,9}(?![\w.])", re.ASCII)
_DOLLAR = re.compile(r"\$(?![0-9])|[0-9]\$")
_PLAIN_IDENTIFIER = re.compile(r'"(?:[^"0-9]+|[A-Za-z_]\w*)"', re.ASCII)
_GLUE = frozenset('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_$&"')


def normal_form(sql: bytes) -> str | None:
    """Return the normal form of a text in an encoding whose bytes below 0x80 are ASCII; None where it has none.

    The result is valid SQL where the text is, is ASCII, and is its own normal form. Whether the strings are valid in
    their encoding is for the caller to see.
    """
    text = sql.decode("latin-1")  # `in` takes a quarter of the time that it takes on bytes
    if "\\" in text or "\0" in text or "--" in text or "/*" in text or ("$" in text and _DOLLAR.search(text)):
        return None
    quoted = '"' in text
    if "'" in text:
        parts = text.split("'")
        if not len(parts) & 1:
            return None  # a string that does not end
        outside = parts[::2]
        for part in outside[:-1]:
            if part and part[-1] in _GLUE:
                return None
        if quoted:
            # Outside of strings, so up to each `'`, quoted identifiers have ended: else it was part of one.
            for part in outside:
                if part.count('"') & 1:
                    return None
        text = "''".join(outside)
    if not text.isascii():
        return None  # a letter of an identifier may stand before a digit
    if quoted and ('"' in _PLAIN_IDENTIFIER.sub("", text) or 'U&"' in text or 'u&"' in text):
        return None  # digits in it would be taken for a number
    text = _NUMBER.sub("0", text)
    return _DECIMAL.sub("0.0", text) if "." in text else text


def is_shareable(form: str) -> bool:
    """Tell whether the verdict of one text may stand for all of its form; to be asked once, when it is remembered.

    float(n) is the one place where the grammar itself looks at a number: it is float4 or float8, or an error
    (parser/gram.y, opt_float).
    """
    return "float" not in form.lower()

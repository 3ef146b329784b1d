"""What a terminal is shown: text that cannot command it, tables that fit, durations that a person reads."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

REPLACEMENT: Final = "\ufffd"
_COMMANDS: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that move the cursor, change colours, end a line or turn it around."""
GAP: Final = "  "


def visible(text: str, keep: str = "") -> str:
    """Put a mark in the place of characters that would command the terminal, or turn the line around."""
    if text.isprintable():
        return text
    return "".join(
        REPLACEMENT if unicodedata.category(char) in _COMMANDS and char not in keep else char for char in text
    )


def width(text: str) -> int:
    """Return how many columns of a terminal a text without control characters takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def cut(text: str, columns: int) -> str:
    """Shorten a text to so many columns; what is missing is an ellipsis."""
    if width(text) <= columns:
        return text
    kept = ""
    for char in text:
        if width(kept + char) > columns - 1:
            break
        kept += char
    return kept + "…"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], columns: int, *, right: Iterable[int] = ()) -> list[str]:
    """Return the lines of a table that is no wider than `columns`; what is shortened are the widest of its columns.

    Numbers in `right` are of columns that stand to the right. No column becomes narrower than its head.
    """
    cells = [list(heads), *([visible(cell) for cell in row] for row in rows)]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    least = [width(head) for head in heads]
    room = columns - len(GAP) * (len(heads) - 1)
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda at: (widths[at] > least[at], widths[at]))
        if widths[widest] <= least[widest]:
            break  # a terminal narrower than the heads wraps the lines
        widths[widest] -= 1
    to_the_right = frozenset(right)
    return [GAP.join(_fitted(row, widths, to_the_right)).rstrip() for row in cells]


def _fitted(row: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> Iterable[str]:
    for at, (cell, columns) in enumerate(zip(row, widths, strict=True)):
        text = cut(cell, columns)
        blanks = " " * (columns - width(text))
        yield blanks + text if at in right else text + blanks


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: 0.3 s, 42 s, 5 min 12 s, 3 h 5 min, 2 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"

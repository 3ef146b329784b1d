"""Match names of functions against what the operator lists in filter.allow_functions and filter.deny_functions."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Patterns:
    """Match names against `name`, `schema.name`, and either with `*` in it."""

    __slots__ = ("_parts",)

    def __init__(self, patterns: Sequence[str]) -> None:
        self._parts: list[tuple[re.Pattern[str] | None, re.Pattern[str], bool]] = []
        for pattern in patterns:
            schema, dot, name = pattern.rpartition(".")
            compiled = _glob(schema) if dot else None
            self._parts.append((compiled, _glob(name), "*" not in name))

    def match(self, schema: str, name: str, *, unqualified: bool = False, exact: bool = False) -> bool:
        """Tell whether a pattern names this function. A pattern without a schema fits every schema.

        `unqualified`: a name called without a schema fits a pattern with one, too (it may resolve there). `exact`:
        leave out patterns with a `*` in the function's name.
        """
        for in_schema, pattern, is_exact in self._parts:
            if (exact and not is_exact) or pattern.fullmatch(name) is None:
                continue
            if in_schema is None or (unqualified and not schema) or in_schema.fullmatch(schema):
                return True
        return False


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)

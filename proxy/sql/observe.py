"""Say which of the texts that the filter refuses filter.mode `observe` lets through to the other two layers.

Not those that would weaken these layers or confuse the proxy itself: what changes settings, what ends transactions,
what server and parser may read differently, and what is not even SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pglast.parser import ParseError, parse_sql_json

from proxy.sql.tables import Refused
from proxy.sql.text import decode, ends
from proxy.sql.verdict import Action, Effect, Verdict

KEPT: Final = frozenset(
    {"nul-byte", "encoding", "length", "depth", "operator-run", "syntax", "several-statements", "internal"}
    | {"setting", "setting-value", "setting-name", "reset-read-only", "startup-parameter"}
    # The one that calls a function by its number, and the one after which the server waits for the client's data.
    | {"fastpath", "copy-from"}
)
"""Rules that refuse in every mode."""
MAX_LENGTH: Final = 16_384
"""Bytes of a text that is looked through for settings; a longer one that was refused stays refused."""

_TRACES = re.compile("VariableSetStmt|set_config|transaction_read_only|TransactionStmt", re.IGNORECASE)
"""What a change of settings leaves in a parse tree, the bodies of DO and CREATE FUNCTION included; and statements that
would end the transaction in which what is observed runs.
"""
BEGIN: Final = b"BEGIN READ ONLY"
END: Final = b"COMMIT"
"""Around what is observed and is in no transaction of its client's: whatever runs there stays read-only, for the first
snapshot has been taken (check_transaction_read_only(), commands/variable.c), and can end no transaction: a COMMIT in DO
or in a procedure is error 2D000 within a block (_SPI_commit(), executor/spi.c). An END of a failed one is a ROLLBACK.
"""


_CLAUSE = re.compile('"defname":"set","arg":{"VariableSetStmt"')
"""The SET of a CREATE FUNCTION or ALTER FUNCTION, which sets nothing by itself."""
_SETS: Final = frozenset({Effect.SETTING, Effect.SETTING_LOCAL})


def lets_through(rule: str, sql: bytes, encoding: str, judge: Callable[[bytes], Verdict]) -> bool:
    """Whether a text that this rule has refused may run. What else is in it was not judged any more."""
    return rule not in KEPT and sets(sql, encoding, judge) is not None


def sets(sql: bytes, encoding: str, judge: Callable[[bytes], Verdict]) -> tuple[tuple[Effect, str], ...] | None:
    """Return what is set by statements of a text that may run; None: something in it may not.

    A statement that changes settings has to be one that `judge` allows by itself.
    """
    if len(sql) > MAX_LENGTH:
        return None
    found: list[tuple[Effect, str]] = []
    try:
        text = decode(sql, encoding)
        if not _traced(text):
            return ()
        utf8 = text.encode()
        start = 0
        for end in ends(text):
            piece = utf8[start:end].decode().lstrip(";")
            start = end
            if not _traced(piece):
                continue
            verdict = judge(piece.encode(encoding))
            if verdict.action is not Action.ALLOW or not _SETS.issuperset(effect for effect, _ in verdict.effects):
                return None
            if not verdict.effects:
                return None  # such as the end of a transaction
            found += verdict.effects
    except (Refused, ParseError, UnicodeEncodeError):
        return None
    return tuple(found)


def _traced(text: str) -> bool:
    return _TRACES.search(_CLAUSE.sub("", parse_sql_json(text))) is not None

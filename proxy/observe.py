"""Say which of the texts that the filter refuses filter.mode `observe` lets through to the other two layers.

Not those that would weaken these layers or confuse the proxy itself: what changes settings, what ends transactions,
what server and parser may read differently, and what is not even SQL.
"""

from __future__ import annotations

import re
from typing import Final

from pglast.parser import ParseError, parse_sql_json

from .rules import Refused
from .text import decode

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


def lets_through(rule: str, sql: bytes, encoding: str) -> bool:
    """Whether a text that this rule has refused may run. What else is in it was not judged any more."""
    if rule in KEPT or len(sql) > MAX_LENGTH:
        return False
    try:
        tree = parse_sql_json(decode(sql, encoding))
    except (Refused, ParseError):
        return False
    return _TRACES.search(tree) is None

"""Parse a text as the resolver wants it: the body of one query, in pglast's JSON."""

from __future__ import annotations

import json
from typing import Any

from pglast.parser import ParseError, parse_sql_json


def body(sql: bytes) -> Any:
    """Return the tree of the one statement of a text; None where it is none, or several, or no query."""
    try:
        found = json.loads(parse_sql_json(sql.decode("utf-8", "surrogateescape")))["stmts"]
    except (ParseError, UnicodeError):
        return None
    if len(found) != 1:
        return None
    statement = found[0]["stmt"]
    return statement if "SelectStmt" in statement else None

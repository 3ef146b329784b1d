"""Hold what the grammar, the newest server's, makes of a text that older servers read otherwise: one table."""

from __future__ import annotations

SQL_SYNTAX = "COERCE_SQL_SYNTAX"
"""The `funcformat` of a call that is written with keywords."""
UNQUALIFIED_BEFORE = {"json_object": 16}
"""Functions that this parser puts into pg_catalog by itself, and older servers look up in the path (parser/gram.y). The
opposite, substring and overlay before PostgreSQL 14, needs nothing: every function of the name is looked at."""
UNQUALIFIED_TYPES_BEFORE = {"json": 17}
"""Types of which the same is true."""
EXTRACT, EXTRACT_SINCE, EXTRACT_BEFORE = "extract", 14, "date_part"
"""EXTRACT(… FROM …) calls this function of pg_catalog since that version, and the other one before."""
SYSTEM_USER, SYSTEM_USER_SINCE = "system_user", 16
"""SYSTEM_USER calls this function of pg_catalog since that version; before, it is the name of a column."""
READ_OTHERWISE = frozenset({*UNQUALIFIED_BEFORE, EXTRACT, SYSTEM_USER})
"""What this parser puts into pg_catalog may be something else to an older server if it is one of these."""
JSON_FUNCTIONS = {"JSON_EXISTS_OP": "json_exists", "JSON_QUERY_OP": "json_query", "JSON_VALUE_OP": "json_value"}
"""The functions that JSON_EXISTS and its like were, by the `op` of a JsonFuncExpr."""

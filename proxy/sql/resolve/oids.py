"""Name the types that PostgreSQL's parse analysis itself names, by OID (catalog/pg_type.dat: they never change)."""

from __future__ import annotations

from typing import Final

ANY_TYPE: Final = -1
"""Not an OID: a type that is not known."""

FIRST_NORMAL: Final = 16384
"""FirstNormalObjectId (access/transam.h): what initdb made is below it."""

BOOL: Final = 16
NAME: Final = 19
INT8: Final = 20
INT2: Final = 21
INT2VECTOR: Final = 22
INT4: Final = 23
TEXT: Final = 25
OID: Final = 26
TID: Final = 27
XID: Final = 28
CID: Final = 29
OIDVECTOR: Final = 30
JSON: Final = 114
XML: Final = 142
FLOAT4: Final = 700
FLOAT8: Final = 701
UNKNOWN: Final = 705
VARCHAR: Final = 1043
BYTEA: Final = 17
DATE: Final = 1082
TIME: Final = 1083
TIMESTAMP: Final = 1114
TIMESTAMPTZ: Final = 1184
INTERVAL: Final = 1186
TIMETZ: Final = 1266
BIT: Final = 1560
NUMERIC: Final = 1700
ANY: Final = 2276
ANYARRAY: Final = 2277
VOID: Final = 2278
TRIGGER: Final = 2279
INTERNAL: Final = 2281
ANYELEMENT: Final = 2283
RECORD: Final = 2249
RECORD_ARRAY: Final = 2287
TEXT_ARRAY: Final = 1009
ANYNONARRAY: Final = 2776
JSONB: Final = 3802
ANYENUM: Final = 3500
ANYRANGE: Final = 3831
JSONPATH: Final = 4072
TSM_HANDLER: Final = 3310
ANYMULTIRANGE: Final = 4537
ANYCOMPATIBLEMULTIRANGE: Final = 4538
ANYCOMPATIBLE: Final = 5077
ANYCOMPATIBLEARRAY: Final = 5078
ANYCOMPATIBLENONARRAY: Final = 5079
ANYCOMPATIBLERANGE: Final = 5080

ELEMENT_FAMILY: Final = frozenset({ANYELEMENT, ANYARRAY, ANYNONARRAY, ANYENUM, ANYRANGE, ANYMULTIRANGE})
"""IsPolymorphicTypeFamily1(): all of them stand for one type."""
COMPATIBLE_FAMILY: Final = frozenset(
    {ANYCOMPATIBLE, ANYCOMPATIBLEARRAY, ANYCOMPATIBLENONARRAY, ANYCOMPATIBLERANGE, ANYCOMPATIBLEMULTIRANGE}
)
"""IsPolymorphicTypeFamily2(): all of them become one common type."""
POLYMORPHIC: Final = ELEMENT_FAMILY | COMPATIBLE_FAMILY

PG_CATALOG: Final = 11
"""The schema."""
BTREE: Final = 403
HASH: Final = 405
"""The access methods."""
BT_LESS, BT_LESS_EQUAL, BT_EQUAL, BT_GREATER_EQUAL, BT_GREATER = 1, 2, 3, 4, 5
"""Strategies of btree (access/stratnum.h)."""
HASH_EQUAL: Final = 1
BT_IN_RANGE: Final = 3
"""The support function of btree that adds a window frame's offset (access/nbtree.h)."""

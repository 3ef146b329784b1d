"""The guard of layer 2: puts `default_transaction_read_only` back to `on` ahead of what would outrun the tripwire.

A server from 14 on reports the setting with the ReadyForQuery of what has changed it, and the tripwire closes the
connection. A group of messages that is sent before this one has come would run all the same; a server before 14 never
says a word. So the guard goes ahead of such a group, in the same write.

It has to hold whatever else goes wrong. A RESET of ours can fail: a cancel or a timeout hits it, a DEALLOCATE ALL has
destroyed the statement that it is made of, a PREPARE has put another one in its place. So all of it is parsed anew each
time, under a name that nobody can guess and that stands nowhere while a client's code runs; and it has no Sync of its
own: after an error in it the server ignores the group that it goes ahead of (`ignore_till_sync`, tcop/postgres.c). In
the place of the Sync a COMMIT ends its transaction, so that the group begins as it would without it.
"""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.ours import PREFIX

READ_ONLY: Final = "default_transaction_read_only"
LOCKED: Final = {READ_ONLY: "on", "standard_conforming_strings": "on"}
"""Settings that no client may change, with their values: the one keeps transactions read-only, by the other a text is
cut into the same tokens here and there."""
START_UP: Final = {**LOCKED, "client_encoding": "UTF8"}
"""Travel in the StartupMessage: what a packet sets, RESET ALL and DISCARD ALL return to. SQL SET would be undone."""
PUT_BACK: Final = b"RESET default_transaction_read_only"
"""Returns to the `on` of the StartupMessage, which no statement can change; leaves no trace where nobody has set it.

It takes no snapshot (analyze_requires_snapshot(), parser/analyze.c), so it is in nothing's way.
"""

UNSUPPORTED: Final = (
    "in pgbouncer.ini set track_extra_parameters = IntervalStyle, default_transaction_read_only (before PgBouncer 1.20"
    " ignore_startup_parameters = default_transaction_read_only), and at the server ALTER ROLE … SET"
    " default_transaction_read_only = on"
)
"""What to do where a pooler refuses the start-up parameters."""
LOST: Final = (
    "at the server give the role its own (ALTER ROLE … SET default_transaction_read_only = on, as sql/readonly_role.sql"
    " does; the others likewise), and let the pooler connect anew (RECONNECT in PgBouncer)"
)
"""What to do where a pooler drops them, or a RESET behind it would."""

UNKNOWN: Final = -1
"""The transaction status behind what may have begun or ended a transaction block, until it is answered."""

NAME: Final = PREFIX + b"guard"
STATEMENTS: Final = (b"BEGIN", PUT_BACK, b"COMMIT")

GUARD: Final = b"".join(
    p.parse(NAME, sql)
    + p.message(p.BIND, b"\0" + NAME + b"\0" + bytes(6))
    + p.execute(b"")
    + p.target(p.CLOSE, b"S", NAME)
    for sql in STATEMENTS
)
"""Goes ahead of a group while the session is in no transaction block: there the unnamed portal is nobody's.

A Sync would make the server send what it has, and over TLS that costs three times what all of this does.
"""
GUARDED: Final = b"".join(
    p.message(p.PARSE_COMPLETE)
    + p.message(p.BIND_COMPLETE)
    + p.message(p.COMMAND_COMPLETE, sql.split()[0] + b"\0")
    + p.message(p.CLOSE_COMPLETE)
    for sql in STATEMENTS
)
"""All that a server answers to it, unless it has something else to say in between."""
PARTS: Final = 4 * len(STATEMENTS)
"""How many messages that are."""

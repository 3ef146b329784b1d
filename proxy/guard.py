"""The guard of layer 2: puts `default_transaction_read_only` back to `on` ahead of what would outrun the tripwire.

A server from 14 on reports the setting with the ReadyForQuery of what has changed it, and the tripwire closes the
connection. A group of messages that is sent before this one has come would run all the same; a server before 14 never
says a word. So the guard goes ahead of such a group, in the same write.

It has to hold whatever else goes wrong. A RESET of ours can fail: a cancel or a timeout hits it, a DEALLOCATE ALL has
destroyed the statement that it is made of, a PREPARE has put another one in its place. So all of it is parsed anew each
time, under names that nobody can guess and that stand nowhere while a client's code runs; and the group that comes
behind it begins by asking for a statement that exists only if the RESET has succeeded. If it has not, that is an error
of the group, and the server ignores all of the group up to its Sync (`ignore_till_sync`, tcop/postgres.c).
"""

from __future__ import annotations

import secrets
from typing import Final

from proxy import protocol as p
from proxy.statements import PREFIX

READ_ONLY: Final = "default_transaction_read_only"
PUT_BACK: Final = b"RESET default_transaction_read_only"
"""Returns to the `on` of the StartupMessage, which no statement can change; leaves no trace where nobody has set it.

It takes no snapshot (analyze_requires_snapshot(), parser/analyze.c), so it is in nothing's way.
"""

UNKNOWN: Final = -1
"""The transaction status behind what may have begun or ended a transaction block, until it is answered."""

_SECRET: Final = secrets.token_hex(16).encode()
RESETTER: Final = PREFIX + b"reset:" + _SECRET
PROOF: Final = PREFIX + b"proof:" + _SECRET

GUARD: Final = b"".join(
    (
        p.parse(RESETTER, PUT_BACK),
        p.message(p.BIND, b"\0" + RESETTER + b"\0" + bytes(6)),
        p.execute(b""),
        p.parse(PROOF, b""),
        p.target(p.CLOSE, b"S", RESETTER),
        p.SYNC_MESSAGE,
        # What follows belongs to the client's group: in front of it, no statement and no portal but this one.
        p.target(p.DESCRIBE, b"S", PROOF),
        p.target(p.CLOSE, b"S", PROOF),
    )
)
"""Goes ahead of a group while the session is in no transaction block: there the unnamed portal is nobody's."""
PUT_BACK_DONE: Final = b"".join(
    (
        p.message(p.PARSE_COMPLETE),
        p.message(p.BIND_COMPLETE),
        p.message(p.COMMAND_COMPLETE, b"RESET\0"),
        p.message(p.PARSE_COMPLETE),
        p.message(p.CLOSE_COMPLETE),
        p.READY[p.IDLE],
    )
)
PROVED: Final = b"".join(
    (
        p.message(p.PARAMETER_DESCRIPTION, b"\0\0"),
        p.message(p.NO_DATA),
        p.message(p.CLOSE_COMPLETE),
    )
)
GUARDED: Final = PUT_BACK_DONE + PROVED
"""All that a server answers to it, unless it has something else to say in between; at ReadyForQuery it flushes."""
BEFORE_SYNC: Final = 5
BEHIND_SYNC: Final = 2
"""How many of the guard's messages are answered one by one before its ReadyForQuery, and behind it."""

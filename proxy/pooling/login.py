"""Say what a login to the upstream consists of: the settings that it sends and reads back, and what its errors mean.

`upstream.py` holds the conversation.
"""

from __future__ import annotations

from typing import Final

from proxy import protocol as p
from proxy.errors import (
    CANNOT_CONNECT_NOW,
    INVALID_CATALOG_NAME,
    INVALID_PASSWORD,
    TOO_MANY_CONNECTIONS,
    CloseReason,
    PasswordRefusedError,
    UpstreamError,
    UpstreamFloodError,
    UpstreamProtocolError,
)
from proxy.pooling.guard import LOST, START_UP, UNSUPPORTED

READ_BACK: Final = (
    b"SELECT "
    + b"".join(b"pg_catalog.current_setting('%b')," % name.encode() for name in START_UP)
    + b"pg_catalog.encode(pg_catalog.convert_to(pg_catalog.current_setting('search_path'),'SQL_ASCII'),'hex'),"
    b"pg_catalog.pg_backend_pid()"
)
"""In hexadecimal digits what may hold any bytes."""
RETURNED_TO: Final = b"SELECT " + b",".join(
    b"(SELECT reset_val FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) '%b')" % name.encode()
    for name in START_UP
)
"""What RESET and DISCARD ALL return to: a pooler may have put a SET in the place of the start-up value."""
MAX_CAUSE: Final = 300
"""Characters of the server's own words about a login that it refused."""
MAX_LOGIN_MESSAGE: Final = 30_000
"""Bytes of a message that comes during the login, from a server that has proved nothing: as libpq bounds an error."""
MAX_LOGIN: Final = 256 << 10
"""Bytes of all that comes until a login is over, headers included. PostgreSQL sends some 600."""
MAX_LOGIN_MESSAGES: Final = 1000
"""Messages of it: a login trigger can raise notices."""


class LoginMessages:
    """What comes until a login is over, cut into messages; bounded, for the server has proved nothing."""

    __slots__ = ("_buffer", "_left")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = (MAX_LOGIN, MAX_LOGIN_MESSAGES)  # what may still come

    def __bool__(self) -> bool:
        """Tell whether bytes are left that nobody has taken."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._buffer += data

    def take(self) -> tuple[int, bytes] | None:
        """Return the type and body of the next message; None: it is not whole yet.

        Raises UpstreamProtocolError, and UpstreamFloodError where more comes than a login has.
        """
        buffer = self._buffer
        if len(buffer) < 5:
            return None
        kind, length = p.read_header(buffer)
        if not 4 <= length <= MAX_LOGIN_MESSAGE:
            raise UpstreamProtocolError("invalid length of a backend message")
        if len(buffer) <= length:
            return None
        body = bytes(buffer[5 : length + 1])
        del buffer[: length + 1]
        size, count = self._left
        self._left = size - length - 1, count - 1
        if min(self._left) < 0:
            raise UpstreamFloodError("the upstream sends more than a login needs")
        return kind, body


def demand(found: list[str]) -> None:
    """Raise UpstreamError where a setting is not as it was sent, or RESET would make it another one."""
    sent = START_UP.items()
    lost = [name for (name, value), kept in zip(sent, found, strict=True) if kept != value]
    if lost:
        raise UpstreamError(
            f"the upstream did not keep {' and '.join(lost)} as sent",
            reason=CloseReason.UPSTREAM_LOGIN,
            transient=False,
            cause=f"a pooler in between drops it, or a RESET would; {LOST}",
        )


def login_error(fields: dict[str, str], database: str) -> UpstreamError:
    """Translate the server's refusal. What it says of our own role is for the operator, not for a client to read.

    It may lack any field (CVE-2026-6666 of PgBouncer).
    """
    sqlstate = fields.get("C", "")
    said = "".join(char if char.isprintable() else " " for char in fields.get("M", ""))[:MAX_CAUSE]
    cause = f"the server says: {said}" if said else ""
    if sqlstate == INVALID_CATALOG_NAME:
        return UpstreamError(
            f'database "{database}" does not exist',
            sqlstate,
            reason=CloseReason.UPSTREAM_LOGIN,
            transient=False,
            cause=cause,
        )
    if sqlstate in (TOO_MANY_CONNECTIONS, CANNOT_CONNECT_NOW):
        return UpstreamError(said or "the upstream is busy", sqlstate, reason=CloseReason.UPSTREAM_LOGIN)
    text = f"the upstream refused SideCart's own login (SQLSTATE {sqlstate or 'unknown'})"
    if "startup parameter" in said:  # PgBouncer's words
        return UpstreamError(text, reason=CloseReason.UPSTREAM_LOGIN, transient=False, cause=f"{cause}; {UNSUPPORTED}")
    if sqlstate == INVALID_PASSWORD:
        cause += "; the password is wrong, or it has expired (VALID UNTIL)"
        return PasswordRefusedError(text, reason=CloseReason.UPSTREAM_LOGIN, transient=False, cause=cause.lstrip("; "))
    return UpstreamError(
        text,
        reason=CloseReason.UPSTREAM_LOGIN,
        transient=not sqlstate.startswith(("28", "42")),
        cause=cause,
    )

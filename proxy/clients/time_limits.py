"""How long a client may be quiet, by what it is about, and how it ends where it was quiet for longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.errors import (
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    IDLE_SESSION_TIMEOUT,
    PROTOCOL_VIOLATION,
    QUERY_CANCELED,
    CloseReason,
)
from proxy.session.session import Session


class Ending(NamedTuple):
    """Why a client is closed, and what it is told."""

    reason: CloseReason
    sqlstate: str
    text: str


_LOGIN: Final = Ending(CloseReason.CLIENT_LOGIN_TIMEOUT, PROTOCOL_VIOLATION, "client_login_timeout")
_IDLE: Final = Ending(CloseReason.CLIENT_IDLE_TIMEOUT, IDLE_SESSION_TIMEOUT, "client_idle_timeout")
_IDLE_TRANSACTION: Final = Ending(
    CloseReason.IDLE_TRANSACTION_TIMEOUT, IDLE_IN_TRANSACTION_SESSION_TIMEOUT, "idle transaction timeout"
)
# The server cannot be heard of its end, nor can the client: rows stand before it (secure_write(), libpq/be-secure.c,
# heeds no cancel). What is left of the answer goes with the connection.
UNREAD: Final = Ending(
    CloseReason.SLOW_READER_TIMEOUT, QUERY_CANCELED, "canceling statement due to client.slow_reader_timeout"
)
"""The end of a client that reads nothing of its answer."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Hold the limits of `client` in seconds; 0: none."""

    idle: float
    idle_transaction: float
    query: float
    """Of a statement that is judged or runs, however busy its client is: see `Client.sweep`."""
    login: float
    slow_reader: float = 0.0

    def exceeded(self, session: Session | None, quiet: float) -> Ending | None:
        """Return how a client ends about which nothing has happened for so many seconds; None: it stays."""
        if session is not None and self.slow_reader and session.unread and quiet >= self.slow_reader:
            return UNREAD
        if session is None:
            limit, ending = self.login, _LOGIN
        elif (session.waiting or session.judging or session.running) and not session.unfinished:
            return None
        elif session.resting:
            limit, ending = self.idle, _IDLE
        else:
            limit, ending = self.idle_transaction, _IDLE_TRANSACTION
        return ending if limit and quiet >= limit else None

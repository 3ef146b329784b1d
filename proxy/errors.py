"""SQLSTATEs that SideCart sends, the reasons for which a connection closes, and its few exceptions.

SQLSTATE names follow the PostgreSQL manual, appendix A. Where PostgreSQL has a code for the occasion, we use that one,
so that drivers which already know it do the right thing.
"""

from __future__ import annotations

import enum

# Class 08: connection exception
CONNECTION_FAILURE = "08006"
PROTOCOL_VIOLATION = "08P01"
# Class 0A
FEATURE_NOT_SUPPORTED = "0A000"
# Class 22, 25, 26
INVALID_PARAMETER_VALUE = "22023"
CHARACTER_NOT_IN_REPERTOIRE = "22021"
READ_ONLY_SQL_TRANSACTION = "25006"
IN_FAILED_SQL_TRANSACTION = "25P02"
IDLE_IN_TRANSACTION_SESSION_TIMEOUT = "25P03"
INVALID_SQL_STATEMENT_NAME = "26000"
INVALID_CURSOR_NAME = "34000"
# Class 28, 3D
INVALID_AUTHORIZATION_SPECIFICATION = "28000"
INVALID_PASSWORD = "28P01"  # noqa: S105  # nosec B105
INVALID_CATALOG_NAME = "3D000"
# Class 42
INSUFFICIENT_PRIVILEGE = "42501"
SYNTAX_ERROR = "42601"
UNDEFINED_OBJECT = "42704"
UNDEFINED_FUNCTION = "42883"
UNDEFINED_TABLE = "42P01"
DUPLICATE_PREPARED_STATEMENT = "42P05"
# Class 53, 54, 57
TOO_MANY_CONNECTIONS = "53300"
CONFIGURATION_LIMIT_EXCEEDED = "53400"
PROGRAM_LIMIT_EXCEEDED = "54000"
STATEMENT_TOO_COMPLEX = "54001"
OBJECT_IN_USE = "55006"
QUERY_CANCELED = "57014"
ADMIN_SHUTDOWN = "57P01"
CRASH_SHUTDOWN = "57P02"
CANNOT_CONNECT_NOW = "57P03"
IDLE_SESSION_TIMEOUT = "57P05"
# Class XX
INTERNAL_ERROR = "XX000"


class CloseReason(enum.Enum):
    """Say why a connection was closed: a metric label and a log field. Every close names one."""

    CLIENT_TERMINATE = "client_terminate"
    """The client sent Terminate."""
    CLIENT_LOST = "client_lost"
    """The client's socket ended without Terminate."""
    CLIENT_CANCEL_REQUEST = "client_cancel_request"
    """The connection carried a CancelRequest and is done."""
    CLIENT_PROTOCOL = "client_protocol"
    """The client broke the protocol: framing, length, a message out of phase."""
    CLIENT_TLS = "client_tls"
    """The TLS handshake with the client failed, or came in a form that is not spoken."""
    CLIENT_LOGIN_TIMEOUT = "client_login_timeout"
    CLIENT_LOGIN_REFUSED = "client_login_refused"
    """The client's startup packet asked for what it may not have, or it did not prove who it is."""
    CLIENT_LIMIT = "client_limit"
    """A limit of connections, or their rate, was reached."""
    CLIENT_IDLE_TIMEOUT = "client_idle_timeout"
    IDLE_TRANSACTION_TIMEOUT = "idle_transaction_timeout"
    SLOW_READER_TIMEOUT = "slow_reader_timeout"
    """The client has read nothing for too long, and its statement held an upstream all the while."""
    TOO_MANY_CLIENTS = "too_many_clients"
    QUERY_WAIT_TIMEOUT = "query_wait_timeout"
    DRAIN = "drain"
    """SideCart is shutting down."""
    UPSTREAM_LOGIN = "upstream_login"
    """The upstream refused our login, or could not be reached."""
    UPSTREAM_LOST = "upstream_lost"
    """The upstream's socket ended, or it sent FATAL."""
    UPSTREAM_PROTOCOL = "upstream_protocol"
    """The upstream sent what the protocol does not allow here."""
    UPSTREAM_FLOOD = "upstream_flood"
    """The upstream sent more than it may before it has proved itself, or while nothing was asked of it."""
    UPSTREAM_TLS = "upstream_tls"
    TRIPWIRE = "tripwire"
    """The upstream reported something that a judged read cannot cause: counted as a bug."""
    ADDRESS_CHANGED = "address_changed"
    """The upstream's address is none of its host name's any more: a failover, or a move."""
    SERVER_LIFETIME = "server_lifetime"
    SERVER_IDLE_TIMEOUT = "server_idle_timeout"
    SERVER_CHECK = "server_check"
    """An idle upstream gave no sign of life when it was asked for one."""
    ROLE_REFUSED = "role_refused"
    """The role can do more than read, and upstream.require_readonly_role is refuse."""
    POOLER_REFUSED = "pooler_refused"
    """A pooler in between shares the server's sessions, and upstream.allow_shared_sessions is off."""
    REPLACED = "replaced"
    """The upstream gave way to a new one, for a client that it did not suit: see `Pool._pick`."""
    DIRTY = "dirty"
    """The upstream kept state of a client that could not be proved gone."""
    CANCEL_UNFINISHED = "cancel_unfinished"
    """A cancel or a clean-up did not end in time."""
    BUG = "bug"
    """An unexpected exception: this session and its upstream end, nothing resumes."""


class SideCartError(Exception):
    """Base of the exceptions that SideCart raises on purpose."""


class ConfigError(SideCartError):
    """The configuration is wrong: the text names file, line, key and what is accepted."""


class InUseError(SideCartError):
    """Another program listens where we should: the text says where, and what to do."""


class ClientProtocolError(SideCartError):
    """The client sent bytes that version 3 of the protocol does not allow. Its connection closes with `sqlstate`."""

    def __init__(self, message: str, sqlstate: str = PROTOCOL_VIOLATION) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class MalformedMessageError(SideCartError):
    """A message of the client's does not hold what its type asks for. It is told so, and its connection goes on."""


class NoStartupError(ClientProtocolError):
    """What came first is no start-up packet. Nobody is told: whoever sent it may speak another protocol."""


class UpstreamProtocolError(SideCartError):
    """The upstream sent bytes that version 3 of the protocol does not allow. The connection closes."""

    reason = CloseReason.UPSTREAM_PROTOCOL


class UpstreamFloodError(UpstreamProtocolError):
    """The upstream sent more than SideCart keeps for anybody."""

    reason = CloseReason.UPSTREAM_FLOOD


class UpstreamError(SideCartError):
    """The upstream could not be used: unreachable, TLS failed, login refused.

    The text and `sqlstate` are what the waiting client gets; `cause` is for the operator's log alone. `transient` says
    that a later try may succeed.
    """

    def __init__(
        self,
        message: str,
        sqlstate: str = CONNECTION_FAILURE,
        *,
        reason: CloseReason,
        transient: bool = True,
        cause: str = "",
    ) -> None:
        super().__init__(message)
        self.cause = cause
        self.sqlstate = sqlstate
        self.reason = reason
        self.transient = transient
        self.detail = ""
        self.hint = ""

    @property
    def for_operator(self) -> str:
        """Return the text with the cause, for a log or a page of the operator's."""
        return f"{self}: {self.cause}" if self.cause else str(self)


class PasswordRefusedError(UpstreamError):
    """The server did not take the role's password: another one may have been set meanwhile."""


class QueryFailedError(UpstreamError):
    """The server answered a Query of SideCart's own with an error.

    `words` are the server's, for the person who wanted the Query: they can quote values, and belong into no log.
    """

    def __init__(self, sqlstate: str, words: str) -> None:
        super().__init__(
            f"the upstream answered with an error (SQLSTATE {sqlstate})", sqlstate, reason=CloseReason.UPSTREAM_PROTOCOL
        )
        self.words = words


class LoginRefusedError(UpstreamError):
    """The client asks for what it may not have, or has not proved who it is. `why` is for the log alone."""

    def __init__(self, sqlstate: str, text: str, *, detail: str = "", hint: str = "", why: str = "") -> None:
        super().__init__(text, sqlstate, reason=CloseReason.CLIENT_LOGIN_REFUSED, transient=False)
        self.detail = detail
        self.hint = hint
        self.why = why

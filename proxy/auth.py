"""Prove who we are to the upstream: SCRAM-SHA-256, MD5 and cleartext as pure step functions.

The caller hands in the body of each Authentication message ('R') and sends what comes back as the body of a 'p'
message. Nothing here knows a socket. Formats: PostgreSQL manual, "Message Formats" and "SASL Authentication".
"""

from __future__ import annotations

import enum
import hashlib
import struct
from typing import Any, Final

from scramp import ScramClient, ScramException

from proxy.errors import CONNECTION_FAILURE, CloseReason, UpstreamError

# The Int32 that opens the body of every Authentication message (src/include/libpq/protocol.h, AUTH_REQ_*).
AUTH_OK: Final = 0
AUTH_KERBEROS_V5: Final = 2
AUTH_CLEARTEXT_PASSWORD: Final = 3
AUTH_MD5_PASSWORD: Final = 5
AUTH_GSS: Final = 7
AUTH_GSS_CONTINUE: Final = 8
AUTH_SSPI: Final = 9
AUTH_SASL: Final = 10
AUTH_SASL_CONTINUE: Final = 11
AUTH_SASL_FINAL: Final = 12

_UNSUPPORTED: Final = {
    AUTH_KERBEROS_V5: "KerberosV5",
    AUTH_GSS: "GSSAPI",
    AUTH_GSS_CONTINUE: "GSSAPI",
    AUTH_SSPI: "SSPI",
}

SCRAM_SHA_256: Final = "SCRAM-SHA-256"

SCRAM_USER: Final = "*"
"""PostgreSQL takes the user from the StartupMessage and ignores the one inside SCRAM (read_client_first_message() in
src/backend/libpq/auth-scram.c). libpq sends an empty one, which scramp refuses to build; pgJDBC sends this star. The
real name would have to survive SASLprep, and a role name need not."""

MAX_SCRAM_ITERATIONS: Final = 1_000_000
"""PBKDF2 runs on the event loop's thread: 4096 rounds (PostgreSQL's default) take about 2 ms, a million about half a
second. Until SASLFinal is checked the number comes from a server that has proved nothing, so it is bounded."""


class _Phase(enum.Enum):
    """Where the login stands."""

    START = "start"
    """Nothing was asked yet."""
    PASSWORD_SENT = "password_sent"  # noqa: S105  # nosec B105
    """(A state's name, no secret.) A cleartext or MD5 password went out; only AuthenticationOk may follow."""
    SASL_STARTED = "sasl_started"
    """The client-first-message went out."""
    SASL_PROVED = "sasl_proved"
    """Our proof went out; the server owes its own."""
    SASL_VERIFIED = "sasl_verified"
    """The server's signature is right; only AuthenticationOk may follow."""
    DONE = "done"
    FAILED = "failed"
    """An error was raised: the connection is to be closed, every further step fails."""


# Which message may come in which phase. Whatever is not in here is an error: above all AuthenticationOk in
# SASL_STARTED and SASL_PROVED, where a server that does not know the password would skip its proof.
_LEGAL: Final = frozenset(
    {
        (_Phase.START, AUTH_OK),  # pg_hba.conf says trust, peer or cert
        (_Phase.START, AUTH_CLEARTEXT_PASSWORD),
        (_Phase.START, AUTH_MD5_PASSWORD),
        (_Phase.START, AUTH_SASL),
        (_Phase.PASSWORD_SENT, AUTH_OK),
        (_Phase.SASL_STARTED, AUTH_SASL_CONTINUE),
        (_Phase.SASL_PROVED, AUTH_SASL_FINAL),
        (_Phase.SASL_VERIFIED, AUTH_OK),
    }
)

_SUPPORTED_TEXT: Final = "SideCart supports scram-sha-256, md5 and, over TLS and where it is allowed, password"


class UpstreamLogin:
    """Answer the Authentication messages of one upstream connection.

    Make one for each connection. `password` may be empty for an upstream that asks for none (trust, peer, cert); if one
    is asked for, that is an error before anything is sent. `allow_cleartext` lets AuthenticationCleartextPassword pass,
    which RDS asks for with IAM tokens; without TLS (`tls` false) it is refused all the same, since a man in the middle
    can ask for a password in the clear as easily as the server. `nonce` fixes the SCRAM nonce and is for tests only.

    Every failure is an UpstreamError (08006, CloseReason.UPSTREAM_LOGIN, not transient) that holds nothing of the
    password. After one the object is finished.
    """

    __slots__ = ("_allow_cleartext", "_nonce", "_password", "_phase", "_scram", "_tls", "_user", "method")

    def __init__(
        self, user: str, password: str, *, tls: bool, allow_cleartext: bool = False, nonce: str | None = None
    ) -> None:
        self._user = user
        self._password = password
        self._tls = tls
        self._allow_cleartext = allow_cleartext
        self._nonce = nonce
        self._phase = _Phase.START
        self._scram: Any = None  # a ScramClient; scramp has no type hints
        self.method = "none"
        """What the upstream asked for, in pg_hba.conf's words: none, password, md5 or scram-sha-256."""

    def __repr__(self) -> str:
        return f"<UpstreamLogin {self.method} {self._phase.value}>"

    @property
    def done(self) -> bool:
        """Tell whether AuthenticationOk came, after every proof that was due."""
        return self._phase is _Phase.DONE

    def step(self, body: bytes) -> bytes | None:
        """Take the body of one 'R' message; return the body of the 'p' message to send, or None if none is due.

        The bodies have neither type byte nor length. None comes for AuthenticationOk (`done` is then true) and for a
        SASLFinal whose signature is right.
        """
        try:
            return self._step(body)
        except UpstreamError:
            self._phase = _Phase.FAILED
            self._scram = None
            raise

    def _step(self, body: bytes) -> bytes | None:
        if len(body) < 4:
            raise _error("The upstream sent an Authentication message of fewer than 4 bytes, which names no method.")
        code: int = struct.unpack_from("!i", body)[0]
        if code not in range(AUTH_OK, AUTH_SASL_FINAL + 1) or code in _UNSUPPORTED:
            name = _UNSUPPORTED.get(code, f"number {code}")
            raise _error(f"The upstream asks for authentication by {name}; {_SUPPORTED_TEXT}.")
        if (self._phase, code) not in _LEGAL:
            raise self._out_of_turn(code)
        data = body[4:]
        if code == AUTH_OK:
            if data:
                raise _error("The upstream sent an AuthenticationOk longer than the protocol defines it.")
            self._phase = _Phase.DONE
            self._scram = None
            self._password = ""  # nosec B105
            return None
        if code == AUTH_CLEARTEXT_PASSWORD:
            return self._cleartext(data)
        if code == AUTH_MD5_PASSWORD:
            return self._md5(data)
        if code == AUTH_SASL:
            return self._sasl_start(data)
        if code == AUTH_SASL_CONTINUE:
            return self._sasl_continue(data)
        self._sasl_final(data)
        return None

    def _cleartext(self, data: bytes) -> bytes:
        self.method = "password"
        if data:
            raise _error("The upstream sent an AuthenticationCleartextPassword longer than the protocol defines it.")
        if not self._allow_cleartext:
            raise _error(
                "The upstream asks for the password in cleartext, which is not allowed here; set the role's "
                "pg_hba.conf method to scram-sha-256."
            )
        if not self._tls:
            raise _error(
                "The upstream asks for the password in cleartext over a connection without TLS; "
                "use sslmode verify-full, or scram-sha-256."
            )
        secret = self._secret()
        self._phase = _Phase.PASSWORD_SENT
        return secret + b"\0"

    def _md5(self, data: bytes) -> bytes:
        self.method = "md5"
        if len(data) != 4:
            raise _error(f"The upstream sent an MD5 salt of {len(data)} bytes; the protocol has 4.")
        secret = self._secret()
        # pg_md5_encrypt() in src/common/md5_common.c. The server chooses the method; `usedforsecurity` says that we
        # do not rely on MD5 (TLS does the work), and keeps Python builds with a FIPS policy from failing here.
        inner = hashlib.md5(secret + self._user.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
        outer = hashlib.md5(inner.encode() + data, usedforsecurity=False).hexdigest()
        self._phase = _Phase.PASSWORD_SENT
        return b"md5" + outer.encode() + b"\0"

    def _sasl_start(self, data: bytes) -> bytes:
        self.method = "scram-sha-256"
        # A list of NUL-terminated names that an empty name ends.
        names = data.split(b"\0")
        if len(names) < 2 or names[-2:] != [b"", b""]:
            raise _error("The upstream sent a list of SASL mechanisms that does not end as the protocol says.")
        if SCRAM_SHA_256.encode() not in names[:-2]:
            offered = ", ".join(ascii(name.decode("latin-1"))[:40] for name in names[:-2][:8]) or "none"
            raise _error(f"The upstream offers the SASL mechanisms {offered}; SideCart speaks {SCRAM_SHA_256}.")
        self._secret()
        # GS2 flag (RFC 5802, section 6): 'n' says that the client has no channel binding; 'y' says that it has, but
        # thinks that the server has not. We have none, so 'n' is the true answer with or without TLS, and also when
        # SCRAM-SHA-256-PLUS is on offer; 'y' would then be taken for a downgrade attack and refused. scramp sends
        # 'n' whenever it is given no binding data.
        #
        # SASLprep: where the password has a character that SASLprep prohibits (a control character, an emoji younger
        # than Unicode 3.2), PostgreSQL takes the raw bytes instead (src/common/saslprep.c and its callers); scramp
        # raises. Such a password cannot be used with SideCart, and the error says so.
        try:
            scram = ScramClient([SCRAM_SHA_256], SCRAM_USER, self._password, c_nonce=self._nonce)
            first: bytes = scram.get_client_first().encode()
        except (ScramException, ValueError):
            # `from None`: a UnicodeError carries the text that it failed on.
            raise _error(
                "The upstream's password has a character that SASLprep (RFC 4013) prohibits, such as a control "
                "character; set a password of printable characters for the role."
            ) from None
        self._scram = scram
        self._phase = _Phase.SASL_STARTED
        return SCRAM_SHA_256.encode() + b"\0" + struct.pack("!i", len(first)) + first

    def _sasl_continue(self, data: bytes) -> bytes:
        try:
            self._scram.set_server_first(data.decode())
            rounds = int(self._scram.iterations)
            if rounds > MAX_SCRAM_ITERATIONS:
                raise _error(
                    f"The upstream asks for {rounds} SCRAM iterations (scram_iterations); the most that SideCart "
                    f"computes is {MAX_SCRAM_ITERATIONS}."
                )
            final: bytes = self._scram.get_client_final().encode()
        except (ScramException, ValueError) as error:
            raise _error(f"The upstream's SCRAM server-first-message is wrong: {_plain(error)}.") from error
        self._phase = _Phase.SASL_PROVED
        return final

    def _sasl_final(self, data: bytes) -> None:
        try:
            self._scram.set_server_final(data.decode())
        except (ScramException, ValueError) as error:
            raise _error(
                "The upstream did not prove that it knows the password; its SCRAM server-final-message is wrong: "
                f"{_plain(error)}."
            ) from error
        self._phase = _Phase.SASL_VERIFIED

    def _secret(self) -> bytes:
        """Return the password's bytes, as libpq would send them."""
        if not self._password:
            raise _error("The upstream asks for a password and none is configured.")
        try:
            # surrogateescape: a password from the environment that is not UTF-8 goes out as the bytes it came in.
            secret = self._password.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            # `from None`: the exception carries the text that it failed on.
            raise _error("The upstream's password is not valid Unicode.") from None
        if b"\0" in secret:
            raise _error("The upstream's password has a NUL character, which the protocol cannot carry.")
        return secret

    def _out_of_turn(self, code: int) -> UpstreamError:
        if code == AUTH_OK and self._phase in (_Phase.SASL_STARTED, _Phase.SASL_PROVED):
            return _error(
                "The upstream let us in without proving that it knows the password (AuthenticationOk before a "
                "verified SASLFinal); it may not be the server that it says it is."
            )
        return _error(
            f"The upstream sent Authentication message {code} out of turn (the login was at {self._phase.value})."
        )


def _error(message: str) -> UpstreamError:
    return UpstreamError(message, CONNECTION_FAILURE, reason=CloseReason.UPSTREAM_LOGIN, transient=False)


def _plain(error: Exception) -> str:
    """Return the error's text on one bounded line: it may quote what an unproved server sent."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "".join(char if char.isprintable() else "?" for char in str(error))[:200].rstrip(". ")

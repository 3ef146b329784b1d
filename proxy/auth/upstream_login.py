"""Prove who we are to the upstream: SCRAM-SHA-256 (-PLUS), MD5 and cleartext as pure step functions.

The caller hands in the body of each Authentication message ('R') and sends what comes back as the body of a 'p'
message. Nothing here knows a socket. Formats: PostgreSQL manual, "Message Formats" and "SASL Authentication".
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
import re
import secrets
import struct
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from proxy.auth.scram import END_POINT, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, prepared
from proxy.config.values import MD5, NONE, PASSWORD, SCRAM
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

SCRAM_USER: Final = "*"
"""PostgreSQL takes the user from the StartupMessage and ignores the one inside SCRAM (read_client_first_message() in
src/backend/libpq/auth-scram.c). libpq sends an empty one; pgJDBC sends this star. The real name would have to survive
SASLprep, and a role name need not."""
_NONCE_BYTES: Final = 18
"""Random bytes of our nonce (SCRAM_RAW_NONCE_LEN in src/include/common/scram-common.h)."""

MAX_SCRAM_ITERATIONS: Final = 1_000_000
"""4096 rounds (PostgreSQL's default) take about 2 ms, a million about half a second, in a thread. Until SASLFinal is
checked the number comes from a server that has proved nothing, so it is bounded."""
MAX_SCRAM_MESSAGE: Final = 2000
"""Bytes of what a server sends in the course of SCRAM, as libpq bounds an Authentication message. PostgreSQL's own are
of about 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Say what carries a login, and so what may travel on it."""

    tls: bool = False
    verified: bool = False
    """The server's certificate leads to a CA that is trusted."""
    binding: bytes | None = field(default=None, repr=False)
    """The hash of the server's certificate, for channel binding; None: there is none to be had."""
    second_try: bool = False
    """It goes without TLS because a try with TLS has failed."""


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

_SUPPORTED_TEXT: Final = "SideCart supports scram-sha-256, md5 and password"


class UpstreamLogin:
    """Answer the Authentication messages of one upstream connection.

    Make one for each connection. `password` may be empty for an upstream that asks for none (trust, peer, cert); if one
    is asked for, that is an error before anything is sent. `accepted` and `channel_binding` are what libpq calls
    require_auth and channel_binding. A password in the clear goes over a channel alone that is verified, an MD5 hash
    over none that a failed TLS handshake has led to: a man in the middle can ask for either as easily as the server.
    `nonce` fixes the SCRAM nonce and is for tests only.

    Every failure is an UpstreamError (08006, CloseReason.UPSTREAM_LOGIN, not transient) whose cause says why, and that
    holds nothing of the password. After one the object is finished.
    """

    __slots__ = (
        "_accepted",
        "_binding_mode",
        "_bound",
        "_nonce",
        "_password",
        "_phase",
        "_scram",
        "_user",
        "channel",
        "method",
    )

    def __init__(
        self,
        user: str,
        password: str,
        channel: Channel,
        *,
        accepted: Collection[str] = (SCRAM, NONE),
        channel_binding: str = "prefer",
        nonce: str | None = None,
    ) -> None:
        self._user = user
        self._password = password
        self.channel = channel
        self._accepted = accepted
        self._binding_mode = channel_binding
        self._nonce = nonce
        self._phase = _Phase.START
        self._scram: _Proof | None = None
        self._bound = False
        self.method = NONE
        """What the upstream asked for, in pg_hba.conf's words: none, password, md5 or scram-sha-256."""

    def __repr__(self) -> str:
        return f"<UpstreamLogin {self.method} {self._phase.value}>"

    @property
    def begun(self) -> bool:
        """Tell whether anything was sent that the password has a part in, or that begins a proof of it."""
        return self.method != NONE

    @property
    def name(self) -> str:
        """Return the method for a log: scram-sha-256-plus says that the channel was bound."""
        return f"{self.method}-plus" if self._bound else self.method

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
        if len(data) > MAX_SCRAM_MESSAGE:
            raise _error(f"The upstream sent an Authentication message of more than {MAX_SCRAM_MESSAGE} bytes.")
        if code == AUTH_OK:
            if data:
                raise _error("The upstream sent an AuthenticationOk longer than the protocol defines it.")
            if self._phase is _Phase.START:
                self._accept(NONE, "lets us in without asking for anything")
            self._need_binding()
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

    def _accept(self, method: str, what: str) -> None:
        """Go on with a method that was named in require_auth, and with no other: a server can ask for anything."""
        if method not in self._accepted:
            raise _error(
                f"The upstream {what} ({method}), and upstream.require_auth names {', '.join(self._accepted)} alone."
            )
        self.method = method

    def _need_binding(self) -> None:
        if self._binding_mode == "require" and not self._bound:
            raise _error(
                "The upstream does not ask for SCRAM with channel binding, which upstream.channel_binding requires."
            )

    def _cleartext(self, data: bytes) -> bytes:
        self._accept(PASSWORD, "asks for the password in cleartext")
        self._need_binding()
        if data:
            raise _error("The upstream sent an AuthenticationCleartextPassword longer than the protocol defines it.")
        if not self.channel.verified:
            carrier = "TLS whose certificate is not verified" if self.channel.tls else "a connection without TLS"
            raise _error(
                f"The upstream asks for the password in cleartext over {carrier}; use sslmode verify-full, or"
                " scram-sha-256."
            )
        secret = self._secret()
        self._phase = _Phase.PASSWORD_SENT
        return secret + b"\0"

    def _md5(self, data: bytes) -> bytes:
        self._accept(MD5, "asks for an MD5 hash of the password")
        self._need_binding()
        if len(data) != 4:
            raise _error(f"The upstream sent an MD5 salt of {len(data)} bytes; the protocol has 4.")
        if self.channel.second_try:
            raise _error(
                "The upstream asks for an MD5 hash of the password without TLS, after TLS has failed; use sslmode"
                " verify-full, or scram-sha-256."
            )
        secret = self._secret()
        # pg_md5_encrypt() in src/common/md5_common.c. The server chooses the method; `usedforsecurity` says that we
        # do not rely on MD5 (TLS does the work), and keeps Python builds with a FIPS policy from failing here.
        inner = hashlib.md5(secret + self._user.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
        outer = hashlib.md5(inner.encode() + data, usedforsecurity=False).hexdigest()
        self._phase = _Phase.PASSWORD_SENT
        return b"md5" + outer.encode() + b"\0"

    def _sasl_start(self, data: bytes) -> bytes:
        self._accept(SCRAM, "asks for SCRAM")
        # A list of NUL-terminated names that an empty name ends.
        names = data.split(b"\0")
        if len(names) < 2 or names[-2:] != [b"", b""]:
            raise _error("The upstream sent a list of SASL mechanisms that does not end as the protocol says.")
        offered = names[:-2]
        mechanism, header, binding = self._mechanism(offered)
        if mechanism.encode() not in offered:
            shown = ", ".join(ascii(name.decode("latin-1"))[:40] for name in offered[:8]) or "none"
            raise _error(f"The upstream offers the SASL mechanisms {shown}; SideCart speaks {mechanism} here.")
        self._secret()
        nonce = base64.b64encode(secrets.token_bytes(_NONCE_BYTES)).decode() if self._nonce is None else self._nonce
        self._scram = _Proof(prepared(self._password), nonce.encode(), header.encode(), binding)
        self._bound = mechanism == SCRAM_SHA_256_PLUS
        self._phase = _Phase.SASL_STARTED
        first = self._scram.client_first
        return mechanism.encode() + b"\0" + struct.pack("!i", len(first)) + first

    def _mechanism(self, offered: Collection[bytes]) -> tuple[str, str, bytes]:
        """Choose the mechanism as pg_SASL_init() does (src/interfaces/libpq/fe-auth.c); return its GS2 header and data.

        The GS2 flag (RFC 5802, section 6): 'p' with PLUS; 'y' where we could bind the channel and the server did not
        offer to, so that a server whose offer was cut out on the way refuses; else 'n'.
        """
        plus = SCRAM_SHA_256_PLUS.encode() in offered
        if plus and not self.channel.tls:
            raise _error(f"The upstream offers {SCRAM_SHA_256_PLUS} over a connection without TLS.")
        possible = self._binding_mode != "disable" and self.channel.binding is not None
        if self._binding_mode == "require" and not (plus and possible):
            if not self.channel.tls:
                missing = "the connection has no TLS"
            elif not plus:
                missing = "the upstream does not offer it"
            else:
                missing = "the hash of the upstream's certificate is not defined"
            raise _error(f"upstream.channel_binding requires channel binding, but {missing}.")
        if plus and possible and self.channel.binding is not None:
            return SCRAM_SHA_256_PLUS, f"p={END_POINT},,", self.channel.binding
        return SCRAM_SHA_256, "y,," if possible else "n,,", b""

    def _sasl_continue(self, data: bytes) -> bytes:
        if self._scram is None:
            raise self._out_of_turn(AUTH_SASL_CONTINUE)
        try:
            final = self._scram.client_final(data)
        except _WrongError as error:
            raise _error(f"The upstream's SCRAM server-first-message is wrong: {error}.") from error
        self._phase = _Phase.SASL_PROVED
        return final

    def _sasl_final(self, data: bytes) -> None:
        if self._scram is None:
            raise self._out_of_turn(AUTH_SASL_FINAL)
        try:
            self._scram.check(data)
        except _WrongError as error:
            raise _error(
                "The upstream did not prove that it knows the password; its SCRAM server-final-message is wrong:"
                f" {error}."
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


class _WrongError(Exception):
    """A server's SCRAM message is wrong; the text says how, on one bounded line: it may quote an unproved server."""


class _Proof:
    """One SCRAM exchange, as libpq has it (src/interfaces/libpq/fe-auth-scram.c).

    Whatever libpq takes is taken: one iteration, an empty salt. How much work a password is worth was decided where its
    verifier was made, and a refusal here would protect nobody.
    """

    __slots__ = ("_bare", "_binding", "_header", "_nonce", "_password", "_signature")

    def __init__(self, password: bytes, nonce: bytes, header: bytes, binding: bytes) -> None:
        self._password = password
        self._nonce = nonce
        self._header = header
        self._binding = binding
        self._bare = b"n=%b,r=%b" % (SCRAM_USER.encode(), nonce)
        self._signature = b""

    @property
    def client_first(self) -> bytes:
        return self._header + self._bare

    def client_final(self, server_first: bytes) -> bytes:
        """Take the server-first-message; return the client-final-message, with the proof. Raises _WrongError."""
        found = _SERVER_FIRST.fullmatch(server_first)
        if found is None:
            raise _WrongError(_said(server_first) or "it must be r=…,s=…,i=… and nothing else")
        nonce, salt, rounds = found[1], _decoded(found[2], "salt"), int(found[3])
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise _WrongError("its nonce is not ours with one of the server's behind it")
        if not 1 <= rounds <= MAX_SCRAM_ITERATIONS:
            raise _WrongError(
                f"it asks for {rounds} SCRAM iterations (scram_iterations), and SideCart computes 1 to"
                f" {MAX_SCRAM_ITERATIONS}"
            )
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, rounds)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without = b"c=%b,r=%b" % (base64.b64encode(self._header + self._binding), nonce)
        signed = b",".join((self._bare, server_first, without))
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        return without + b",p=" + base64.b64encode(proof)

    def check(self, server_final: bytes) -> None:
        """Take the server-final-message. Raises _WrongError unless it proves that the server has the verifier."""
        if server_final[:2] != b"v=":
            raise _WrongError(_said(server_final) or "it must be v=… and nothing else")
        if not hmac.compare_digest(_decoded(server_final[2:], "signature"), self._signature):
            raise _WrongError("the signature is not that of the password")


_SERVER_FIRST: Final = re.compile(rb"r=([\x21-\x2b\x2d-\x7e]+),s=([^,]*),i=([0-9]{1,10})")


def _said(message: bytes) -> str:
    """Return what a server says of an error, e=… (RFC 5802, section 7); empty: it is no such message."""
    if message[:2] != b"e=":
        return ""
    return "".join(char if char.isprintable() else "?" for char in message[2:].decode("latin-1"))[:200].rstrip(". ")


def _decoded(text: bytes, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _WrongError(f"the {what} is not base64") from None


def _error(cause: str) -> UpstreamError:
    return UpstreamError(
        "SideCart could not log in to the upstream",
        CONNECTION_FAILURE,
        reason=CloseReason.UPSTREAM_LOGIN,
        transient=False,
        cause=cause,
    )

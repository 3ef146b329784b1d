"""SCRAM-SHA-256 and -PLUS as a server: verifiers, and one client's exchange, as pure step functions.

What is refused, in which words and with which SQLSTATE, is PostgreSQL's (src/backend/libpq/auth-scram.c, auth-sasl.c).
RFC 5802 and RFC 7677 say what the messages mean, RFC 5929 what tls-server-end-point binds to.
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
from dataclasses import dataclass, field
from typing import Final

from scramp import ScramException
from scramp.utils import saslprep

from proxy.config import values
from proxy.errors import FEATURE_NOT_SUPPORTED, INVALID_AUTHORIZATION_SPECIFICATION, PROTOCOL_VIOLATION, SideCartError

SCRAM_SHA_256: Final = "SCRAM-SHA-256"
SCRAM_SHA_256_PLUS: Final = "SCRAM-SHA-256-PLUS"
"""The mechanisms by which a login is proved, ours to the upstream (`upstream_login`) and a client's to us."""
END_POINT: Final = "tls-server-end-point"
"""The one channel binding that PostgreSQL knows (RFC 5929, section 4): a hash of the server's certificate."""
ITERATIONS: Final = 4096
"""SCRAM_SHA_256_DEFAULT_ITERATIONS; PostgreSQL 16 has a setting for it, scram_iterations."""
MAX_MESSAGE: Final = 1024
"""PG_MAX_SASL_MESSAGE_LENGTH: the longest body of a message that a client may send while it logs in."""
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 18
_KEY_BYTES: Final = 32
_NONCE: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_ATTRIBUTE: Final = re.compile(rb"[A-Za-z]=[^,]*")


class ScramError(SideCartError):
    """The client's message is not what SCRAM allows here. The login is over."""

    def __init__(self, text: str, detail: str = "", sqlstate: str = PROTOCOL_VIOLATION) -> None:
        super().__init__(text)
        self.detail = detail
        self.sqlstate = sqlstate


def _malformed(detail: str) -> ScramError:
    return ScramError("malformed SCRAM message", detail)


# --- verifiers --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verifier:
    """Hold what is kept of a password: enough to check a proof, not enough to make one."""

    iterations: int
    salt: bytes = field(repr=False)
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Verifier:
        """Read PostgreSQL's format (pg_authid.rolpassword). Raises ValueError, which quotes nothing."""
        rounds, _, rest = values.verifier(text).removeprefix(f"{SCRAM_SHA_256}$").partition(":")
        salt, _, keys = rest.partition("$")
        stored, _, server = keys.partition(":")
        return cls(int(rounds), *(base64.b64decode(part) for part in (salt, stored, server)))

    @property
    def text(self) -> str:
        """Return it in PostgreSQL's format."""
        salt, stored, server = (_b64(part).decode() for part in (self.salt, self.stored_key, self.server_key))
        return f"{SCRAM_SHA_256}${self.iterations}:{salt}${stored}:{server}"


def make_verifier(password: str, iterations: int = ITERATIONS, salt: bytes | None = None) -> Verifier:
    """Return the verifier of a password, as PostgreSQL would keep it; the salt is random unless given."""
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password), salt, iterations)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    return Verifier(iterations, salt, stored, _hmac(salted, b"Server Key"))


def prepared(password: str) -> bytes:
    """Return the bytes that are hashed: by SASLprep, or the raw ones where that fails, as PostgreSQL and libpq do.

    (pg_saslprep() in src/common/saslprep.c, and its callers.) A password that is no Unicode came as bytes in
    surrogates, and goes out as those.
    """
    raw = password.encode("utf-8", "surrogateescape")
    if raw.isascii():
        return raw
    try:
        return saslprep(password).encode("utf-8") or raw
    except (ScramException, ValueError):
        return raw


class Mocks:
    """Make verifiers for users that do not exist, so that a stranger cannot tell them from those that do.

    A user has the same one as long as the process lives (mock_scram_secret() in auth-scram.c); `secret` makes them
    unpredictable. They look like `model`: as many iterations, as long a salt.
    """

    __slots__ = ("_secret", "model")

    def __init__(self, secret: bytes, model: tuple[int, int] = (ITERATIONS, _SALT_BYTES)) -> None:
        self._secret = secret
        self.model = model

    def verifier(self, user: str) -> Verifier:
        """Return the verifier that no password fits."""
        iterations, length = self.model
        name = user.encode("utf-8", "surrogateescape")
        salt = b""
        while len(salt) < length:
            salt += _hmac(self._secret, bytes([len(salt) // 32 % 256]) + name)
        return Verifier(iterations, salt[:length], bytes(_KEY_BYTES), bytes(_KEY_BYTES))


# --- the exchange -----------------------------------------------------------------------------------------------------


class _Phase(enum.Enum):
    """Where the exchange stands."""

    START = "start"
    """Nothing came yet."""
    ASKED = "asked"
    """The server-first-message went out; the client owes its proof."""
    OVER = "over"
    """The proof was looked at, or a message was wrong: no further message is legal."""


class Exchange:
    """Check one client's proof that it knows the password of a verifier.

    `known` is false for a user that does not exist: everything is as for others, and fails at the end. `binding` is
    the channel-binding data of the connection; empty: SCRAM-SHA-256-PLUS is not on offer. `nonce` is for tests only.
    """

    __slots__ = ("_binding", "_first_bare", "_gs2", "_known", "_nonce", "_phase", "_server_first", "_verifier", "plus")

    def __init__(self, verifier: Verifier, *, known: bool, binding: bytes = b"", nonce: bytes | None = None) -> None:
        self._verifier = verifier
        self._known = known
        self._binding = binding
        self._nonce = _b64(secrets.token_bytes(_NONCE_BYTES)) if nonce is None else nonce
        self._phase = _Phase.START
        self._gs2 = b""
        self._first_bare = b""
        self._server_first = b""
        self.plus = False
        """Whether the client has chosen channel binding."""

    def __repr__(self) -> str:
        return f"<Exchange {self._phase.value}>"

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Return what is on offer, the strongest first."""
        return (SCRAM_SHA_256_PLUS, SCRAM_SHA_256) if self._binding else (SCRAM_SHA_256,)

    @property
    def started(self) -> bool:
        """Whether the client's next message is its proof."""
        return self._phase is _Phase.ASKED

    def first(self, body: bytes) -> bytes:
        """Take the body of a SASLInitialResponse; return the server-first-message. Raises ScramError."""
        if self._phase is not _Phase.START:
            raise ScramError("expected SASL response, got SASL initial response")
        self._phase = _Phase.OVER  # unless all is well
        name, message = _initial_response(body)
        if name.decode("ascii", "replace") not in self.mechanisms:
            raise ScramError("client selected an invalid SASL authentication mechanism")
        self.plus = name == SCRAM_SHA_256_PLUS.encode()
        _check_text(message)
        nonce = self._read_first(message)
        self._nonce = nonce + self._nonce
        self._server_first = b"r=%b,s=%b,i=%d" % (self._nonce, _b64(self._verifier.salt), self._verifier.iterations)
        self._phase = _Phase.ASKED
        return self._server_first

    def final(self, message: bytes) -> bytes | None:
        """Take a SASLResponse, the client-final-message; return the server-final-message, None for a wrong proof.

        Raises ScramError for everything else that is wrong with it.
        """
        if self._phase is not _Phase.ASKED:
            raise ScramError("SASL response out of turn")
        self._phase = _Phase.OVER
        _check_text(message)
        before, found, encoded = message.rpartition(b",p=")
        parts = before.split(b",")
        if not found or len(parts) < 2 or not all(_ATTRIBUTE.fullmatch(part) for part in parts):
            raise _malformed("Malformed client-final-message: expected c=, r= and p=.")
        if b"," in encoded:
            raise _malformed("Garbage found at the end of client-final-message.")
        self._check_binding(parts[0])
        if parts[1][:2] != b"r=":
            raise _malformed('Expected attribute "r" in client-final-message.')
        if not hmac.compare_digest(parts[1][2:], self._nonce):
            raise ScramError("invalid SCRAM response", "Nonce does not match.")
        proof = _decoded(encoded, "Malformed proof in client-final-message.")
        if len(proof) != _KEY_BYTES:
            raise _malformed("Malformed proof in client-final-message.")
        signed = b",".join((self._first_bare, self._server_first, before))
        signature = _hmac(self._verifier.stored_key, signed)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        right = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        answer = b"v=" + _b64(_hmac(self._verifier.server_key, signed))
        return answer if right and self._known else None

    def _read_first(self, message: bytes) -> bytes:
        """Read the client-first-message; return the client's nonce. read_client_first_message() is the model."""
        flag, _, rest = message.partition(b",")
        self._check_flag(flag)
        authzid, comma, bare = rest.partition(b",")
        if authzid[:2] == b"a=":
            raise ScramError("client uses authorization identity, but it is not supported", "", FEATURE_NOT_SUPPORTED)
        if authzid or not comma:
            raise _malformed("Unexpected attribute in client-first-message.")
        self._gs2 = flag + b",,"
        self._first_bare = bare
        parts = bare.split(b",")
        if parts[0][:2] == b"m=":
            raise ScramError("client requires an unsupported SCRAM extension", "", FEATURE_NOT_SUPPORTED)
        # The name in here counts for nothing: the one of the StartupMessage does.
        if len(parts) < 2 or parts[0][:2] != b"n=" or parts[1][:2] != b"r=":
            raise _malformed("Expected a name and a nonce in client-first-message.")
        if not all(_ATTRIBUTE.fullmatch(part) for part in parts[2:]):
            raise _malformed("Malformed extension in client-first-message.")
        nonce = parts[1][2:]
        if not _NONCE.fullmatch(nonce):
            raise ScramError("non-printable characters in SCRAM nonce" if nonce else "empty SCRAM nonce")
        return nonce

    def _check_flag(self, flag: bytes) -> None:
        """Check what the client says of channel binding against what was offered, and what it has chosen."""
        if flag[:2] == b"p=":
            if not self.plus:
                raise _malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel"
                    " binding data."
                )
            if flag[2:] != END_POINT.encode():
                raise ScramError("unsupported SCRAM channel-binding type")
        elif flag not in (b"n", b"y"):
            raise _malformed("Unexpected channel-binding flag.")
        elif self.plus:
            raise _malformed(
                "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."
            )
        elif flag == b"y" and self._binding:
            # Somebody in between has taken SCRAM-SHA-256-PLUS out of the offer.
            raise ScramError(
                "SCRAM channel binding negotiation error",
                "The client supports SCRAM channel binding but thinks the server does not.  However, this server does"
                " support channel binding.",
                INVALID_AUTHORIZATION_SPECIFICATION,
            )

    def _check_binding(self, attribute: bytes) -> None:
        if attribute[:2] != b"c=":
            raise _malformed('Expected attribute "c" in client-final-message.')
        expected = _b64(self._gs2 + (self._binding if self.plus else b""))
        if hmac.compare_digest(attribute[2:], expected):
            return
        if self.plus:
            raise ScramError("SCRAM channel binding check failed", "", INVALID_AUTHORIZATION_SPECIFICATION)
        raise ScramError("unexpected SCRAM channel-binding attribute in client-final-message")


def _initial_response(body: bytes) -> tuple[bytes, bytes]:
    """Return (mechanism, message) of a SASLInitialResponse. Its length must be the one that is left, exactly."""
    name, found, rest = body.partition(b"\0")
    if not found or len(rest) < 4:
        raise ScramError("invalid message format")
    (length,) = struct.unpack_from("!i", rest)
    if length != len(rest) - 4:
        # -1, for no message, too: no PostgreSQL client leaves it out.
        raise ScramError("invalid message format", "The length of the SASL initial response is wrong.")
    return name, rest[4:]


def _check_text(message: bytes) -> None:
    if not message:
        raise _malformed("The message is empty.")
    if b"\0" in message:
        raise _malformed("Message length does not match input length.")


def _decoded(text: bytes, complaint: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise _malformed(complaint) from None


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _b64(data: bytes) -> bytes:
    return base64.b64encode(data)

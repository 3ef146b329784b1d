"""SCRAM as a server: what PostgreSQL and scramp make of the same password, and what no honest client sends."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import struct

import pytest
from hypothesis import given, strategies
from scramp import ScramClient

from proxy.auth.scram import (
    MAX_MESSAGE,
    SCRAM_SHA_256,
    SCRAM_SHA_256_PLUS,
    Exchange,
    Mocks,
    ScramError,
    Verifier,
    make_verifier,
    prepared,
)

PENCIL = make_verifier("pencil", 4096, b"0123456789abcdef")
BINDING = hashlib.sha256(b"certificate").digest()

FROM_POSTGRES = (
    "SCRAM-SHA-256$4096:d0UUoWGlKmVnVwi/2JTqcQ==$6zMGQ8yWO/m7eWj6CwYgKzNfmoUBj9oUHrsjd2pBfxM=:"
    "dY/XgrEt2nEx8iyf1Sf2AAeuQ3VA+Jf3cLBGqMSWmvY="
)


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def initial(message: bytes, mechanism: str = SCRAM_SHA_256, length: int | None = None) -> bytes:
    return mechanism.encode() + b"\0" + struct.pack("!i", len(message) if length is None else length) + message


def proof(verifier: Verifier, password: str, first_bare: bytes, server_first: bytes, before: bytes) -> bytes:
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password), verifier.salt, verifier.iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    signature = hmac.digest(
        hashlib.sha256(client_key).digest(), b",".join((first_bare, server_first, before)), "sha256"
    )
    return b64(bytes(a ^ b for a, b in zip(client_key, signature, strict=True)))


class Client:
    """An honest client, that a test can make dishonest."""

    def __init__(self, exchange: Exchange, *, gs2: bytes = b"n,,", mechanism: str = SCRAM_SHA_256) -> None:
        self.exchange = exchange
        self.gs2 = gs2
        self.bare = b"n=,r=clientnonce"
        self.mechanism = mechanism

    def first(self) -> bytes:
        self.server_first = self.exchange.first(initial(self.gs2 + self.bare, self.mechanism))
        self.nonce = self.server_first.split(b",")[0][2:]
        return self.server_first

    def final(self, password: str = "pencil", *, c: bytes | None = None, nonce: bytes | None = None) -> bytes | None:
        before = b"c=" + b64(self.gs2 if c is None else c) + b",r=" + (self.nonce if nonce is None else nonce)
        return self.exchange.final(before + b",p=" + proof(PENCIL, password, self.bare, self.server_first, before))


def exchange(*, known: bool = True, binding: bytes = b"") -> Exchange:
    return Exchange(PENCIL, known=known, binding=binding, nonce=b"servernonce")


# --- verifiers --------------------------------------------------------------------------------------------------------


def test_verifier_is_what_postgresql_keeps() -> None:
    verifier = Verifier.of(FROM_POSTGRES)
    assert verifier.text == FROM_POSTGRES
    assert (verifier.iterations, len(verifier.salt)) == (4096, 16)
    assert Verifier.of(PENCIL.text) == PENCIL


def test_rfc_7677_example() -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    checked = Exchange(make_verifier("pencil", 4096, salt), known=True, nonce=b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    first = checked.first(initial(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"))
    assert first == b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    assert (
        checked.final(final + b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
        == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )


def test_verifier_shows_no_key() -> None:
    assert b64(PENCIL.stored_key).decode() not in repr(PENCIL) and "salt" not in repr(PENCIL)


@pytest.mark.parametrize(
    ("password", "raw"),
    [
        ("plain", b"plain"),
        ("tab\there", b"tab\there"),
        ("I\u00adX", b"IX"),
        ("\u2168", b"IX"),
        ("a\u00a0b", b"a b"),
        ("\u0627\u0031", "\u0627\u0031".encode()),
        ("\u0007\u00e9", "\u0007\u00e9".encode()),
        ("\u00ad", "\u00ad".encode()),
        ("\U0001f512", "\U0001f512".encode()),
        ("\udcff", b"\xff"),
    ],
)
def test_password_is_prepared_as_postgresql_does_or_taken_raw(password: str, raw: bytes) -> None:
    assert prepared(password) == raw


@pytest.mark.parametrize("password", ["pencil", "größe", "\u2168", " "])
def test_scramp_gets_in(password: str) -> None:
    verifier = make_verifier(password)
    checked = Exchange(verifier, known=True)
    client = ScramClient([SCRAM_SHA_256], "*", password)
    client.set_server_first(checked.first(initial(client.get_client_first().encode())).decode())
    answer = checked.final(client.get_client_final().encode())
    assert answer is not None
    client.set_server_final(answer.decode())


# --- the exchange -----------------------------------------------------------------------------------------------------


def test_right_password() -> None:
    client = Client(exchange())
    assert client.first() == b"r=clientnonceservernonce,s=" + b64(PENCIL.salt) + b",i=4096"
    answer = client.final()
    assert answer is not None and answer.startswith(b"v=")


def test_wrong_password() -> None:
    client = Client(exchange())
    client.first()
    assert client.final("crayon") is None


def test_right_password_of_a_user_that_does_not_exist() -> None:
    client = Client(exchange(known=False))
    client.first()
    assert client.final() is None


def test_channel_binding() -> None:
    client = Client(exchange(binding=BINDING), gs2=b"p=tls-server-end-point,,", mechanism=SCRAM_SHA_256_PLUS)
    assert client.exchange.mechanisms == (SCRAM_SHA_256_PLUS, SCRAM_SHA_256)
    client.first()
    assert client.exchange.plus
    assert client.final(c=client.gs2 + BINDING) is not None


def test_attack_channel_binding_to_another_certificate() -> None:
    client = Client(exchange(binding=BINDING), gs2=b"p=tls-server-end-point,,", mechanism=SCRAM_SHA_256_PLUS)
    client.first()
    with pytest.raises(ScramError, match="SCRAM channel binding check failed") as caught:
        client.final(c=client.gs2 + hashlib.sha256(b"of the man in the middle").digest())
    assert caught.value.sqlstate == "28000"


def test_attack_offer_without_plus_by_a_man_in_the_middle() -> None:
    with pytest.raises(ScramError, match="channel binding negotiation error") as caught:
        Client(exchange(binding=BINDING), gs2=b"y,,").first()
    assert caught.value.sqlstate == "28000"
    client = Client(exchange(), gs2=b"y,,")  # in the clear nothing was offered, and the client says so
    client.first()
    assert client.final() is not None


def test_client_without_channel_binding_over_tls() -> None:
    client = Client(exchange(binding=BINDING))
    client.first()
    assert client.final() is not None


def test_other_header_than_at_first() -> None:
    client = Client(exchange(), gs2=b"y,,")
    client.first()
    with pytest.raises(ScramError, match="unexpected SCRAM channel-binding attribute"):
        client.final(c=b"n,,")


@pytest.mark.parametrize("nonce", [b"clientnonce", b"clientnonceservernoncX", b"", b"clientnonceservernonceX"])
def test_other_nonce(nonce: bytes) -> None:
    client = Client(exchange())
    client.first()
    with pytest.raises(ScramError, match="invalid SCRAM response"):
        client.final(nonce=nonce)


@pytest.mark.parametrize("length", [-1, -2, 0, 1, 24, 26, 0x7FFFFFFF, -0x80000000])
def test_cve_2026_6664_length_of_the_initial_response_overflows(length: int) -> None:
    message = b"n,,n=,r=clientnonce-12345"
    assert len(message) == 25
    with pytest.raises(ScramError, match="invalid message format"):
        exchange().first(initial(message, length=length))


@pytest.mark.parametrize("body", [b"", b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0\0\0", b"\0" * 9])
def test_cve_2026_6664_initial_response_that_is_cut_off(body: bytes) -> None:
    with pytest.raises(ScramError):
        exchange().first(body)


@pytest.mark.parametrize(
    ("message", "mechanism", "binding", "says"),
    [
        (b"n,,n=,r=abc", "SCRAM-SHA-1", b"", "invalid SASL authentication mechanism"),
        (b"n,,n=,r=abc", "", b"", "invalid SASL authentication mechanism"),
        (b"n,,n=,r=abc", SCRAM_SHA_256_PLUS, b"", "invalid SASL authentication mechanism"),
        (b"n,,n=,r=abc", SCRAM_SHA_256_PLUS, BINDING, "malformed SCRAM message"),
        (b"y,,n=,r=abc", SCRAM_SHA_256_PLUS, BINDING, "malformed SCRAM message"),
        (b"p=tls-server-end-point,,n=,r=abc", SCRAM_SHA_256, BINDING, "malformed SCRAM message"),
        (b"p=tls-unique,,n=,r=abc", SCRAM_SHA_256_PLUS, BINDING, "unsupported SCRAM channel-binding type"),
        (b"", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"x,,n=,r=abc", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"n", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"n,", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"n,a=root,n=,r=abc", SCRAM_SHA_256, b"", "authorization identity"),
        (b"n,x,n=,r=abc", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"n,,m=ext,n=,r=abc", SCRAM_SHA_256, b"", "unsupported SCRAM extension"),
        (b"n,,r=abc,n=", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"n,,n=", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"n,,n=,r=", SCRAM_SHA_256, b"", "empty SCRAM nonce"),
        (b"n,,n=,r=a\x01c", SCRAM_SHA_256, b"", "non-printable characters"),
        (b"n,,n=,r=a\xffc", SCRAM_SHA_256, b"", "non-printable characters"),
        (b"n,,n=,r=abc,junk", SCRAM_SHA_256, b"", "malformed SCRAM message"),
        (b"n,,n=,r=abc\0", SCRAM_SHA_256, b"", "malformed SCRAM message"),
    ],
)
def test_first_message_that_is_wrong(message: bytes, mechanism: str, binding: bytes, says: str) -> None:
    checked = exchange(binding=binding)
    with pytest.raises(ScramError, match=says):
        checked.first(initial(message, mechanism))
    with pytest.raises(ScramError):  # and there is no second try
        checked.first(initial(b"n,,n=,r=abc"))
    with pytest.raises(ScramError):
        checked.final(b"c=biws,r=abc,p=")


def test_extensions_of_the_first_message_are_ignored() -> None:
    assert exchange().first(initial(b"n,,n=,r=abc,x=1,y=2")).startswith(b"r=abcservernonce,")


NONCE = b"r=clientnonceservernonce"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"c=biws",
        b"c=biws," + NONCE,
        b"c=biws," + NONCE + b",p=",
        b"c=biws," + NONCE + b",p=????",
        b"c=biws," + NONCE + b",p=" + b64(b"x" * 31),
        b"c=biws," + NONCE + b",p=" + b64(b"x" * 33),
        b"c=biws," + NONCE + b",p=" + b64(b"x" * 32) + b",x=1",
        NONCE + b",c=biws,p=" + b64(b"x" * 32),
        b"c=biws,x=1,p=" + b64(b"x" * 32),
        b"c=biws," + NONCE + b",junk,p=" + b64(b"x" * 32),
        b"c=biws," + NONCE + b",p=" + b64(b"x" * 32) + b"\0",
        b"," * 1000,
    ],
)
def test_final_message_that_is_wrong(message: bytes) -> None:
    client = Client(exchange())
    client.first()
    with pytest.raises(ScramError):
        client.exchange.final(message)
    with pytest.raises(ScramError):
        client.final()


def test_final_message_comes_first_or_twice() -> None:
    checked = exchange()
    with pytest.raises(ScramError):
        checked.final(b"c=biws," + NONCE + b",p=" + b64(b"x" * 32))
    client = Client(exchange())
    client.first()
    assert client.final() is not None
    with pytest.raises(ScramError):
        client.final()


def test_second_initial_response() -> None:
    client = Client(exchange())
    client.first()
    with pytest.raises(ScramError):
        client.first()


@given(strategies.binary(max_size=MAX_MESSAGE), strategies.binary(max_size=MAX_MESSAGE))
def test_nothing_but_scram_error_whatever_comes(one: bytes, two: bytes) -> None:
    checked = exchange(binding=BINDING)
    with contextlib.suppress(ScramError):
        checked.first(one)
        assert checked.final(two) is None


@given(strategies.binary(max_size=200))
def test_nothing_but_scram_error_whatever_the_final_message(message: bytes) -> None:
    client = Client(exchange())
    client.first()
    with contextlib.suppress(ScramError):
        assert client.exchange.final(message) is None


# --- users that do not exist ------------------------------------------------------------------------------------------


def test_mock_is_the_same_for_the_same_user_and_no_other() -> None:
    mocks = Mocks(b"secret")
    assert mocks.verifier("nobody") == mocks.verifier("nobody")
    assert mocks.verifier("nobody").salt != mocks.verifier("noone").salt
    assert Mocks(b"other").verifier("nobody").salt != mocks.verifier("nobody").salt


@pytest.mark.parametrize("length", [1, 12, 16, 32, 33, 64])
def test_mock_looks_like_the_others(length: int) -> None:
    mock = Mocks(b"secret", (15000, length)).verifier("nobody")
    assert (mock.iterations, len(mock.salt)) == (15000, length)


def test_nobody_has_the_password_of_a_mock() -> None:
    mock = Mocks(b"secret").verifier("nobody")
    checked = Exchange(mock, known=False, nonce=b"servernonce")
    first = checked.first(initial(b"n,,n=,r=clientnonce"))
    before = b"c=biws," + NONCE
    assert checked.final(before + b",p=" + proof(mock, "", b"n=,r=clientnonce", first, before)) is None

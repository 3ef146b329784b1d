"""The upstream login: vectors, a fake server made with scramp's server side, and servers that cheat."""

from __future__ import annotations

import base64
import hashlib
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramException, ScramMechanism

from proxy.auth import upstream_login
from proxy.auth.scram import Exchange, Verifier, make_verifier
from proxy.auth.upstream_login import Channel, UpstreamLogin
from proxy.errors import CONNECTION_FAILURE, CloseReason, UpstreamError

PASSWORD = "tr0ub4dor&3"
BINDING = bytes(range(32))
PLAIN = Channel()
TLS = Channel(tls=True)
VERIFIED = Channel(tls=True, verified=True)
BOUND = Channel(tls=True, verified=True, binding=BINDING)
ALL = ("scram-sha-256", "md5", "password", "none")
OK = struct.pack("!i", 0)
CLEARTEXT = struct.pack("!i", 3)
SASL = struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"
SASL_PLUS = struct.pack("!i", 10) + b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"


def md5_request(salt: bytes) -> bytes:
    return struct.pack("!i", 5) + salt


def message(code: int, text: str) -> bytes:
    return struct.pack("!i", code) + text.encode()


def client_first(body: bytes, expected: str = "SCRAM-SHA-256") -> str:
    """Take a SASLInitialResponse apart and check its frame."""
    mechanism, rest = body.split(b"\0", 1)
    assert mechanism == expected.encode()
    (length,) = struct.unpack_from("!i", rest)
    assert length == len(rest) - 4
    return rest[4:].decode()


class FakeServer:
    """PostgreSQL's side of SCRAM, made with scramp's server."""

    def __init__(self, password: str = PASSWORD, mechanism: str = "SCRAM-SHA-256", binding: bytes = b"") -> None:
        self.mechanism = mechanism
        made = ScramMechanism(mechanism)
        info = made.make_auth_info(password)
        bound = ("tls-server-end-point", binding) if binding else None
        self.scram = made.make_server(lambda user: info, channel_binding=bound)

    def first(self, initial_response: bytes) -> bytes:
        self.scram.set_client_first(client_first(initial_response, self.mechanism))
        return message(11, self.scram.get_server_first())

    def final(self, response: bytes) -> bytes:
        self.scram.set_client_final(response.decode())
        return message(12, self.scram.get_server_final())


def fails(login: UpstreamLogin, body: bytes, match: str) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        login.step(body)
    error = caught.value
    assert str(error) == "SideCart could not log in to the upstream"
    assert re.search(match, error.cause)
    assert (error.sqlstate, error.reason, error.transient) == (CONNECTION_FAILURE, CloseReason.UPSTREAM_LOGIN, False)
    assert not login.done
    with pytest.raises(UpstreamError) as caught:  # nothing resumes
        login.step(OK)
    assert "out of turn" in caught.value.cause
    return error


@pytest.mark.parametrize(("request_body", "channel"), [(SASL, PLAIN), (SASL, TLS), (SASL_PLUS, TLS)])
@pytest.mark.parametrize("password", [PASSWORD, "pass wörd", "Ⅸ", "a,b=c"])
def test_scram_against_a_server(request_body: bytes, channel: Channel, password: str) -> None:
    server, login = FakeServer(password), UpstreamLogin("bi", password, channel)
    initial = login.step(request_body)
    assert initial is not None
    assert client_first(initial).startswith("n,,")
    response = login.step(server.first(initial))
    assert response is not None
    assert login.step(server.final(response)) is None
    assert not login.done
    assert login.step(OK) is None
    assert login.done
    assert login.method == "scram-sha-256"


def test_scram_vector_of_rfc_7677(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream_login, "SCRAM_USER", "user")
    login = UpstreamLogin("user", "pencil", TLS, nonce="rOprNGfwEbeRWgbNEkqO")
    initial = login.step(SASL)
    assert initial is not None
    assert client_first(initial) == "n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    final = login.step(message(11, f"r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"))
    assert final == f"c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
    assert login.step(message(12, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")) is None
    assert login.step(OK) is None
    assert login.done


def test_two_logins_use_two_nonces() -> None:
    bodies = {UpstreamLogin("bi", PASSWORD, TLS).step(SASL) for _ in range(2)}
    assert len(bodies) == 2


def to_server_first() -> tuple[FakeServer, UpstreamLogin, bytes]:
    server, login = FakeServer(), UpstreamLogin("bi", PASSWORD, TLS)
    initial = login.step(SASL)
    assert initial is not None
    return server, login, server.first(initial)


def to_server_final() -> tuple[FakeServer, UpstreamLogin, bytes]:
    server, login, first = to_server_first()
    response = login.step(first)
    assert response is not None
    return server, login, server.final(response)


def test_attack_server_with_a_wrong_signature() -> None:
    _, login, _ = to_server_final()
    forged = base64.b64encode(bytes(32)).decode()
    fails(login, message(12, f"v={forged}"), "did not prove that it knows the password.*signature")


def test_attack_server_that_skips_sasl_final() -> None:
    _, login, _ = to_server_final()
    fails(login, OK, "without proving")


def test_attack_server_that_skips_sasl_continue_too() -> None:
    _, login, _ = to_server_first()
    fails(login, OK, "without proving")


def test_attack_server_that_asks_for_cleartext_in_the_middle_of_scram() -> None:
    _, login, _ = to_server_first()
    fails(login, CLEARTEXT, "out of turn")


def test_attack_server_that_asks_for_md5_after_cleartext() -> None:
    login = UpstreamLogin("bi", PASSWORD, VERIFIED, accepted=ALL)
    login.step(CLEARTEXT)
    fails(login, md5_request(b"salt"), "out of turn")


def test_attack_server_nonce_that_does_not_begin_with_ours() -> None:
    _, login, _ = to_server_first()
    fails(login, message(11, "r=someoneelse,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"), "nonce")


def test_attack_server_nonce_that_adds_nothing_to_ours() -> None:
    login = UpstreamLogin("bi", PASSWORD, TLS, nonce="ours")
    login.step(SASL)
    fails(login, message(11, "r=ours,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"), "nonce")


def test_attack_iteration_count_that_would_stop_the_event_loop() -> None:
    login = UpstreamLogin("bi", PASSWORD, TLS, nonce="ours")
    login.step(SASL)
    fails(login, message(11, "r=ours1,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000001"), "1000001 SCRAM iterations")


def test_second_authentication_ok_is_out_of_turn() -> None:
    login = UpstreamLogin("bi", "", TLS)
    assert login.step(OK) is None
    assert login.done
    with pytest.raises(UpstreamError) as caught:
        login.step(OK)
    assert "out of turn" in caught.value.cause
    assert not login.done


def test_attack_nonce_that_is_longer_than_any_buffer() -> None:
    """CVE-2026-6665 of PgBouncer: an over-long server nonce."""
    login = UpstreamLogin("bi", PASSWORD, TLS, nonce="ours")
    login.step(SASL)
    fails(login, message(11, f"r=ours{'x' * 4000},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"), "more than 2000 bytes")


# --- channel binding -------------------------------------------------------------------------------------------------


def proved(login: UpstreamLogin, server: FakeServer, offer: bytes) -> None:
    initial = login.step(offer)
    assert initial is not None
    response = login.step(server.first(initial))
    assert response is not None
    login.step(server.final(response))
    login.step(OK)
    assert login.done


@pytest.mark.parametrize("wanted", ["prefer", "require"])
def test_plus_is_taken_when_it_is_offered(wanted: str) -> None:
    login = UpstreamLogin("bi", PASSWORD, BOUND, channel_binding=wanted)
    proved(login, FakeServer(mechanism="SCRAM-SHA-256-PLUS", binding=BINDING), SASL_PLUS)


def test_attack_another_certificate_than_the_servers() -> None:
    """A man in the middle with a certificate of his own: the server sees another hash than the client."""
    login = UpstreamLogin("bi", PASSWORD, BOUND)
    server = FakeServer(mechanism="SCRAM-SHA-256-PLUS", binding=bytes(32))
    initial = login.step(SASL_PLUS)
    assert initial is not None
    response = login.step(server.first(initial))
    assert response is not None
    with pytest.raises(ScramException, match="channel binding"):
        server.final(response)


def test_attack_plus_is_cut_out_of_the_offer() -> None:
    """The flag says 'y': we can, you said that you cannot. A server that can refuses then."""
    login = UpstreamLogin("bi", PASSWORD, BOUND)
    initial = login.step(SASL)
    assert initial is not None
    assert client_first(initial).startswith("y,,")
    server = FakeServer(binding=BINDING)
    with pytest.raises(ScramException):
        server.first(initial)


@pytest.mark.parametrize(
    ("channel", "wanted", "offer", "flag"),
    [
        (BOUND, "disable", SASL_PLUS, "n,,"),
        (BOUND, "disable", SASL, "n,,"),
        (TLS, "prefer", SASL_PLUS, "n,,"),  # a certificate whose hash is not defined
        (PLAIN, "prefer", SASL, "n,,"),
    ],
)
def test_flag_without_channel_binding(channel: Channel, wanted: str, offer: bytes, flag: str) -> None:
    initial = UpstreamLogin("bi", PASSWORD, channel, channel_binding=wanted).step(offer)
    assert initial is not None
    assert client_first(initial).startswith(flag)


@pytest.mark.parametrize(
    ("channel", "body", "why"),
    [
        (BOUND, SASL, "the upstream does not offer it"),
        (PLAIN, SASL, "the connection has no TLS"),
        (TLS, SASL_PLUS, "is not defined"),
        (BOUND, CLEARTEXT, "channel_binding requires"),
        (BOUND, md5_request(b"salt"), "channel_binding requires"),
        (BOUND, OK, "channel_binding requires"),
    ],
)
def test_required_channel_binding_that_is_not_to_be_had(channel: Channel, body: bytes, why: str) -> None:
    fails(UpstreamLogin("bi", PASSWORD, channel, accepted=ALL, channel_binding="require"), body, why)


def test_attack_plus_without_tls() -> None:
    fails(UpstreamLogin("bi", PASSWORD, PLAIN), SASL_PLUS, "without TLS")


# --- what may be asked for --------------------------------------------------------------------------------------------


def test_md5_vector() -> None:
    login = UpstreamLogin("bi", PASSWORD, PLAIN, accepted=ALL)
    inner = hashlib.md5((PASSWORD + "bi").encode()).hexdigest()
    expected = "md5" + hashlib.md5(inner.encode() + b"\x01\xff\x00\x7f").hexdigest()
    assert login.step(md5_request(b"\x01\xff\x00\x7f")) == expected.encode() + b"\0"
    assert login.step(OK) is None
    assert login.done


@pytest.mark.parametrize("salt", [b"", b"abc", b"abcde"])
def test_md5_salt_of_another_length(salt: bytes) -> None:
    fails(UpstreamLogin("bi", PASSWORD, TLS, accepted=ALL), md5_request(salt), f"salt of {len(salt)} bytes")


@pytest.mark.parametrize("body", [CLEARTEXT, md5_request(b"salt")])
def test_attack_server_that_asks_for_less_than_scram(body: bytes) -> None:
    login = UpstreamLogin("bi", PASSWORD, VERIFIED)
    fails(login, body, "upstream.require_auth names scram-sha-256, none alone")
    assert not login.begun


@pytest.mark.parametrize("method", ["md5", "password", "scram-sha-256"])
def test_attack_server_that_asks_for_nothing_where_a_method_is_required(method: str) -> None:
    fails(UpstreamLogin("bi", PASSWORD, VERIFIED, accepted=(method,)), OK, "without asking for anything")


def test_scram_can_be_left_out_of_require_auth() -> None:
    fails(UpstreamLogin("bi", PASSWORD, VERIFIED, accepted=("md5",)), SASL, "names md5 alone")


@pytest.mark.parametrize(("channel", "carrier"), [(PLAIN, "without TLS"), (TLS, "not verified")])
def test_cleartext_goes_over_verified_tls_alone(channel: Channel, carrier: str) -> None:
    fails(UpstreamLogin("bi", PASSWORD, channel, accepted=ALL), CLEARTEXT, carrier)


def test_attack_md5_without_tls_after_tls_has_failed() -> None:
    fails(UpstreamLogin("bi", PASSWORD, Channel(second_try=True), accepted=ALL), md5_request(b"salt"), "TLS has failed")


def test_cleartext_where_allowed() -> None:
    login = UpstreamLogin("bi", PASSWORD, VERIFIED, accepted=ALL)
    assert login.step(CLEARTEXT) == PASSWORD.encode() + b"\0"
    assert login.step(OK) is None
    assert login.done
    assert login.method == "password"


def test_trust_needs_no_password() -> None:
    login = UpstreamLogin("bi", "", PLAIN)
    assert login.step(OK) is None
    assert login.done
    assert login.method == "none"


@pytest.mark.parametrize("body", [CLEARTEXT, md5_request(b"salt"), SASL])
def test_empty_password_is_an_error_before_anything_is_sent(body: bytes) -> None:
    fails(UpstreamLogin("bi", "", VERIFIED, accepted=ALL), body, "none is configured")


@pytest.mark.parametrize("code,name", [(2, "KerberosV5"), (7, "GSSAPI"), (9, "SSPI"), (6, "6"), (99, "99"), (-1, "-1")])
def test_other_methods_are_named_and_refused(code: int, name: str) -> None:
    login = UpstreamLogin("bi", PASSWORD, TLS)
    fails(login, struct.pack("!i", code), f"{name}\\b")


def test_unknown_method_says_what_is_supported() -> None:
    fails(UpstreamLogin("bi", PASSWORD, TLS), struct.pack("!i", 7), "GSSAPI; SideCart supports scram-sha-256, md5")


def test_only_plus_on_offer() -> None:
    body = struct.pack("!i", 10) + b"SCRAM-SHA-256-PLUS\0OAUTHBEARER\0\0"
    fails(UpstreamLogin("bi", PASSWORD, TLS), body, "'SCRAM-SHA-256-PLUS', 'OAUTHBEARER'; SideCart speaks")


@pytest.mark.parametrize("tail", [b"", b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0x"])
def test_mechanism_list_that_does_not_end(tail: bytes) -> None:
    fails(UpstreamLogin("bi", PASSWORD, TLS), struct.pack("!i", 10) + tail, "does not end|offers the SASL")


@pytest.mark.parametrize("password", ["secret\x01word", "secret\U0001fae0word", "secret\udc80word"])
def test_password_that_saslprep_prohibits_is_used_as_it_stands(password: str) -> None:
    """As PostgreSQL and libpq do: scram_init() in src/interfaces/libpq/fe-auth-scram.c."""
    logs_in(UpstreamLogin("bi", password, TLS), make_verifier(password))


def logs_in(login: UpstreamLogin, verifier: Verifier) -> None:
    """Log in to a server that has this verifier."""
    server = Exchange(verifier, known=True)
    initial = login.step(SASL)
    assert initial is not None
    response = login.step(struct.pack("!i", 11) + server.first(initial))
    assert response is not None
    final = server.final(response)
    assert final is not None
    assert login.step(struct.pack("!i", 12) + final) is None
    assert login.step(OK) is None
    assert login.done


@pytest.mark.parametrize("iterations", [1, 2, 1000, 4095, 4096, 100_000])
@pytest.mark.parametrize("salt", [b"", b"s", b"12345678901", bytes(16), bytes(200)])
def test_server_whose_verifier_costs_little_is_as_good(iterations: int, salt: bytes) -> None:
    """libpq takes any salt, and every number of iterations from 1 on."""
    logs_in(UpstreamLogin("bi", PASSWORD, TLS), make_verifier(PASSWORD, iterations, salt))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("r=ours1,s=W22Z,i=0", "0 SCRAM iterations"),
        ("r=ours1,s=W22Z,i=-1", "nothing else"),
        ("r=ours1,s=W22Z,i=", "nothing else"),
        ("r=ours1,s=W22Z,i=4096,x=y", "nothing else"),
        ("r=ours1,s=W22Z,i=4096x", "nothing else"),
        ("m=ext,r=ours1,s=W22Z,i=4096", "nothing else"),
        ("r=ours1,s=W2 Z,i=4096", "salt is not base64"),
        ("r=ours1,s=W22,i=4096", "salt is not base64"),
        ("s=W22Z,r=ours1,i=4096", "nothing else"),
        ("r=ours1,s=W22Z", "nothing else"),
        ("r=our,s=W22Z,i=4096", "nonce"),
        ("e=other-error", "other-error"),
        ("", "nothing else"),
    ],
)
def test_wrong_server_first_message_is_named(text: str, why: str) -> None:
    login = UpstreamLogin("bi", PASSWORD, TLS, nonce="ours")
    login.step(SASL)
    fails(login, message(11, text), f"server-first-message is wrong: .*{why}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("v=", "signature is not that"),
        ("v=AAAA", "signature is not that"),
        ("v=*", "not base64"),
        ("e=invalid-proof", "invalid-proof"),
        ("x=y", "nothing else"),
        ("", "nothing else"),
    ],
)
def test_wrong_server_final_message_is_named(text: str, why: str) -> None:
    _, login, _ = to_server_final()
    fails(login, message(12, text), f"server-final-message is wrong: .*{why}")


@pytest.mark.parametrize("password,match", [("secret\0word", "NUL"), ("secret\ud800word", "not valid Unicode")])
def test_password_that_the_wire_cannot_carry(password: str, match: str) -> None:
    error = fails(UpstreamLogin("bi", password, TLS, accepted=ALL), md5_request(b"salt"), match)
    assert "secret" not in error.for_operator
    assert error.__suppress_context__ or error.__context__ is None


def test_secrets_do_not_show() -> None:
    _, login, final = to_server_final()
    login.step(final)
    assert repr(login) == "<UpstreamLogin scram-sha-256 sasl_verified>"
    assert PASSWORD not in str(login)


def test_password_is_forgotten_after_the_login() -> None:
    login = UpstreamLogin("bi", PASSWORD, TLS)
    login.step(OK)
    assert all(getattr(login, slot) != PASSWORD for slot in UpstreamLogin.__slots__)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_bytes_end_in_an_answer_or_an_upstream_error(bodies: list[bytes]) -> None:
    login = UpstreamLogin("bi", PASSWORD, TLS)
    try:
        for body in bodies:
            login.step(body)
    except UpstreamError as error:
        assert PASSWORD not in error.for_operator


@given(st.sampled_from([11, 12]), st.text(alphabet="rsivem=,0123456789aAz+/\0é", max_size=60))
def test_any_scram_text_ends_in_an_upstream_error(code: int, text: str) -> None:
    login = UpstreamLogin("bi", PASSWORD, TLS)
    login.step(SASL)
    with pytest.raises(UpstreamError) as caught:
        login.step(message(code, text))
    assert PASSWORD not in caught.value.for_operator
    assert caught.value.for_operator.isprintable()

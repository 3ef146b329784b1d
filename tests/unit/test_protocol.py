"""Framing and bodies: every length is bounded, every body is consumed exactly."""

from __future__ import annotations

import struct

import pytest

from proxy import protocol as p
from proxy.errors import ClientProtocolError, MalformedMessageError


def startup(**parameters: str) -> bytes:
    return p.startup_message(parameters)


@pytest.mark.parametrize("length", [0, 3, 0xFFFFFFFF, 0x80000000, p.LARGE_MESSAGE + 1])
def test_length_that_no_message_has_is_refused_before_its_body(length: int) -> None:
    with pytest.raises(ClientProtocolError, match="invalid message length"):
        p.check_frontend(p.QUERY, length)


@pytest.mark.parametrize(
    "kind", [0x00, 0x16, p.PASSWORD, p.DATA_ROW ^ 0x20 ^ 0x01, p.AUTHENTICATION, p.READY_FOR_QUERY]
)
def test_type_that_no_client_may_send_is_refused(kind: int) -> None:
    with pytest.raises(ClientProtocolError, match="invalid frontend message type"):
        p.check_frontend(kind, 4)


def test_small_messages_have_small_limits() -> None:
    p.check_frontend(p.SYNC, 4)
    with pytest.raises(ClientProtocolError):
        p.check_frontend(p.EXECUTE, p.SMALL_MESSAGE + 1)


def test_query_text() -> None:
    assert p.query_text(b"xselect 1\0y", 1, 10) == b"select 1"


@pytest.mark.parametrize("body", [b"", b"select 1", b"select 1\0; drop table t\0", b"\0\0"])
def test_nul_inside_a_query_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        p.query_text(body, 0, len(body))


def test_parse_parts() -> None:
    body = p.parse(b"s1", b"select $1", struct.pack("!HI", 1, 23))[5:]
    assert p.parse_parts(body, 0, len(body)) == (b"s1", b"select $1")


@pytest.mark.parametrize(
    "body",
    [b"", b"s", b"s\0", b"s\0select 1\0", b"s\0select 1\0\0", b"s\0select 1\0\0\1", b"s\0select 1\0\0\0x"],
)
def test_parse_that_is_not_consumed_exactly_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        p.parse_parts(body, 0, len(body))


def test_bind_names() -> None:
    assert p.bind_names(b"portal\0stmt\0\0\0", 0, 14) == (b"portal", b"stmt", 12)
    with pytest.raises(MalformedMessageError):
        p.bind_names(b"portal\0stmt", 0, 11)


def test_target_parts() -> None:
    assert p.target_parts(b"Sname\0", 0, 6, "Describe") == (0x53, b"name")
    for body in (b"", b"S", b"Xname\0", b"Sname", b"Sname\0x"):
        with pytest.raises(MalformedMessageError):
            p.target_parts(body, 0, len(body), "Describe")


def test_function_call_parts() -> None:
    body = struct.pack("!IhhhiIih", 954, 1, 1, 2, 4, 7, -1, 1)
    assert p.function_call_parts(body, 0, len(body)) == (954, [1, 1], [struct.pack("!I", 7), None])
    for cut in range(len(body)):
        with pytest.raises(MalformedMessageError):
            p.function_call_parts(body[:cut], 0, cut)
    with pytest.raises(MalformedMessageError):
        p.function_call_parts(body + b"\0", 0, len(body) + 1)


def test_function_call_argument_longer_than_the_message_is_refused() -> None:
    body = struct.pack("!Ihhi", 954, 0, 1, 0x7FFFFFFF) + b"abc"
    with pytest.raises(MalformedMessageError):
        p.function_call_parts(body, 0, len(body))


def test_startup_message_round_trip() -> None:
    packet = startup(user="analyst", database="shop", application_name="")
    assert p.startup_length(packet) == len(packet)
    assert p.read_startup(packet) == p.Startup(
        p.PROTOCOL_3_0, {"user": "analyst", "database": "shop", "application_name": ""}, ()
    )


def test_startup_keeps_pq_options_apart() -> None:
    packet = struct.pack("!II", 27, (3 << 16) | 5) + b"_pq_.x\0" + b"1\0" + b"user\0" + b"a\0\0"
    request = p.read_startup(packet)
    assert isinstance(request, p.Startup)
    assert request.unknown_options == ("_pq_.x",)
    assert request.parameters == {"user": "a"}


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", "TLS"),
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"\x7f\xff\xff\xff....", "length"),
        (b"\xff\xff\xff\xff....", "length"),
        (b"\0\0\0\x04....", "length"),
        (b"SELECT 1", "length"),
    ],
)
def test_what_is_no_startup_packet_is_refused_by_its_first_bytes(head: bytes, says: str) -> None:
    with pytest.raises(ClientProtocolError, match=says):
        p.startup_length(head)


@pytest.mark.parametrize(
    "packet",
    [
        struct.pack("!II", 8, p.SSL_REQUEST_CODE),
        struct.pack("!II", 8, p.GSSENC_REQUEST_CODE),
        struct.pack("!II", 9, 2 << 16) + b"\0",
        struct.pack("!II", 14, 3 << 16) + b"user\0x",
        struct.pack("!II", 14, 3 << 16) + b"user\0\0",
        struct.pack("!II", 15, 3 << 16) + b"\0user\0\0",
        struct.pack("!II", 12, p.CANCEL_REQUEST_CODE) + b"1234",
    ],
)
def test_malformed_startup_packet_is_refused(packet: bytes) -> None:
    with pytest.raises(ClientProtocolError):
        p.read_startup(packet)


def test_cancel_request_round_trip_with_a_long_key() -> None:
    assert p.read_startup(p.cancel_request(7, b"k" * 32)) == p.CancelRequest(7, b"k" * 32)


def test_error_response_fields() -> None:
    body = p.error_response("ERROR", "25006", "no", detail="d", hint="h", position=3)[5:]
    assert p.error_fields(body) == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "25006",
        "M": "no",
        "D": "d",
        "H": "h",
        "P": "3",
    }


def test_error_response_speaks_the_clients_encoding() -> None:
    assert "é".encode("latin-1") + b"\0" in p.error_response("ERROR", "42601", "é", codec="latin-1")
    assert b"M?\0" in p.error_response("ERROR", "42601", "日", codec="latin-1")


def test_error_response_cannot_be_cut_by_a_nul() -> None:
    assert p.error_fields(p.error_response("ERROR", "42601", "a\0b")[5:])["M"] == "a?b"


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0\0", b"\0\0\0\1", b"\0\0\0\1\0\0\0\2x", b"\0\0\0\0", b"\0\0\0\0\0\0x"]
)
def test_values_of_a_bind_that_is_cut_off(body: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        p.bind_values(body, 0, len(body))


def test_values_of_a_bind() -> None:
    body = b"\0\1\0\1" + b"\0\3" + b"\0\0\0\2ab" + b"\xff\xff\xff\xff" + b"\0\0\0\0" + b"\0\1\0\0"
    assert p.bind_values(b"??" + body, 2, 2 + len(body)) == [b"ab", None, b""]
    with pytest.raises(MalformedMessageError):
        p.bind_values(b"??" + body, 2, 1 + len(body))

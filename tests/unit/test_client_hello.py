"""What a ClientHello offers, as Python's own TLS writes it, in pieces, cut and bent."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.client_hello import LONGEST, offered


def hello(*protocols: str, name: str | None = "db.example.test", old: bool = False) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if old:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(list(protocols))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("protocols", [(), ("postgresql",), ("h2",), ("http/1.1", "postgresql", "x" * 255)])
def test_what_is_offered(protocols: tuple[str, ...], old: bool) -> None:
    expected = tuple(name.encode() for name in protocols)
    data = hello(*protocols, old=old)
    assert offered(data) == offered(data + b"what follows") == expected
    assert offered(hello(*protocols, name=None, old=old)) == expected
    assert all(offered(data[:size]) is None for size in range(len(data)))


def test_message_in_several_records() -> None:
    data = hello("h2")
    message = data[5:]
    for size in (1, 3, 4, 100):
        pieces = [message[at : at + size] for at in range(0, len(message), size)]
        cut = b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)
        assert offered(cut) == (b"h2",)
        assert offered(cut[:-1]) is None


@pytest.mark.parametrize(
    "data", [b"\0" * 8, b"\x15\x03\x03\0\x02\x02\x78", b"\x16\x03\x01\0\x04\x02\0\0\0", b"\x16\x03\x01\0\x04\x01\0\0\0"]
)
def test_what_is_no_client_hello_offers_nothing(data: bytes) -> None:
    assert offered(data) == ()


def test_hello_without_end_is_not_waited_for() -> None:
    endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(LONGEST)
    assert offered(endless[: LONGEST - 1]) is None
    assert offered(endless[:LONGEST]) == ()
    empty = b"\x16\x03\x01\0\0" * (LONGEST // 5 + 1)
    assert offered(empty[:LONGEST]) == ()


@given(st.integers(5, 600), st.binary(min_size=1, max_size=4))
def test_any_bytes_end(at: int, bent: bytes) -> None:
    data = hello("h2", "postgresql")
    offered(data[:at] + bent + data[at + len(bent) :])

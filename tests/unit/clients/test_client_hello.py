"""What a ClientHello offers, as Python's own TLS writes it, in pieces, cut and bent."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clients.client_hello import LONGEST, ClientHello


def offered(data: bytes, size: int = 1 << 20) -> tuple[bytes, ...] | None:
    """Return what is offered when the data come in pieces of this size."""
    reader = ClientHello()
    for at in range(0, len(data), size):
        found = reader.feed(data[at : at + size])
        if found is not None:
            return found
    return None


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
        for step in (1, 2, 7, len(cut)):
            assert offered(cut, step) == (b"h2",)
            assert offered(cut[:-1], step) is None


@pytest.mark.parametrize("data", [b"\x16\x03\x01\0\x04\x02\0\0\0", b"\x16\x03\x01\0\x04\x01\0\0\0"])
def test_what_is_no_client_hello_offers_nothing(data: bytes) -> None:
    assert offered(data) == offered(data, 1) == ()


def test_attack_records_that_hide_an_offer() -> None:
    """The records are not signed: whoever stands between can put more of them among those of a ClientHello."""
    data = hello("h2")
    half = data[:3] + b"\0\x09" + data[5:14]
    for more in (b"\x16\x03\x01\0\0", b"\x15\x03\x01\0\x02\x01\0", b"\0" * 8):
        for size in (1, 4, 1000):
            with pytest.raises(ValueError, match=r"empty TLS record|no TLS handshake"):
                offered(half + more, size)
            with pytest.raises(ValueError, match=r"empty TLS record|no TLS handshake"):
                offered(more + data, size)


def test_hello_without_end_is_not_waited_for() -> None:
    endless = b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(LONGEST)
    cut = b"\x16\x03\x01\0\x01\x01" + b"\x16\x03\x01\0\x01\xff" * LONGEST
    for data in (endless, cut):
        for size in (1, 1000, LONGEST):
            assert offered(data[: LONGEST - 1], size) is None
            with pytest.raises(ValueError, match="too long"):
                offered(data[:LONGEST], size)


@given(st.integers(5, 600), st.binary(min_size=1, max_size=4), st.integers(1, 700))
def test_any_bytes_end(at: int, bent: bytes, size: int) -> None:
    data = hello("h2", "postgresql")
    data = data[:at] + bent + data[at + len(bent) :]
    found = []
    for step in (size, len(data)):
        try:
            found.append(str(offered(data, step)))
        except ValueError as error:
            found.append(str(error))
    assert found[0] == found[1]

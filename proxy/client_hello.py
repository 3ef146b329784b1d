"""Read from a TLS ClientHello which protocols it offers (ALPN), before anything answers it.

Python's TLS goes on without ALPN where the client offers other protocols than ours, and tells nobody what those were.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 16_384
"""Bytes of a ClientHello that are looked at; clients send 300 to 2,000. The limit of one record (RFC 8446, 5.1)."""
NO_APPLICATION_PROTOCOL: Final = b"\x15\x03\x03\x00\x02\x02\x78"
"""The alert, fatal, as a record (RFC 7301, section 3.2)."""
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16


def offered(data: bytes) -> tuple[bytes, ...] | None:
    """Return the protocols that the ClientHello at the beginning of `data` offers; None: it has not all arrived.

    Empty: it offers none, or is not well-formed, which is for the handshake to say.
    """
    message = b""
    at = 0
    while True:
        if len(data) - at < 5:
            return None if len(data) < LONGEST else ()
        if data[at] != _HANDSHAKE:
            return ()
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            break
    if message[0] != _CLIENT_HELLO:
        return ()
    try:
        return _protocols(message[4 : 4 + int.from_bytes(message[1:4], "big")])
    except ValueError:
        return ()


def _protocols(hello: bytes) -> tuple[bytes, ...]:
    """Read the body of a ClientHello (RFC 8446, section 4.1.2). Raises ValueError."""
    rest = hello[34:]  # behind version and random
    for width in (1, 2, 1):  # session id, cipher suites, compression methods
        _, rest = _vector(rest, width)
    if not rest:
        return ()
    extensions, _ = _vector(rest, 2)
    while extensions:
        kind = int.from_bytes(extensions[:2], "big")
        content, extensions = _vector(extensions[2:], 2)
        if kind == _ALPN:
            names, _ = _vector(content, 2)
            found = []
            while names:
                name, names = _vector(names, 1)
                found.append(name)
            return tuple(found)
    return ()


def _vector(data: bytes, width: int) -> tuple[bytes, bytes]:
    """Return the content of the vector at the beginning, whose length has `width` bytes, and what is behind it."""
    end = width + int.from_bytes(data[:width], "big")
    if len(data) < max(width, end):
        raise ValueError("too short")
    return data[width:end], data[end:]

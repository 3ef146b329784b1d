"""Read from a TLS ClientHello which protocols it offers (ALPN), before anything answers it.

Python's TLS goes on without ALPN where the client offers other protocols than ours, and tells nobody what those were.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 16_384
"""Bytes of a ClientHello, its records' headers included; clients send 300 to 2,000. The limit of one record (RFC 8446,
section 5.1)."""
NO_APPLICATION_PROTOCOL: Final = b"\x15\x03\x03\x00\x02\x02\x78"
"""The alert, fatal, as a record (RFC 7301, section 3.2)."""
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_ALPN: Final = 16


class ClientHello:
    """Take a ClientHello as it comes. What has been looked at is not looked at again, however small the pieces are."""

    __slots__ = ("_left", "_message", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""  # of a record's header
        self._left = 0  # bytes that its record still has
        self._message = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> tuple[bytes, ...] | None:
        """Take what has come; return the protocols that are offered, or None as long as it has not all arrived.

        Empty: it offers none, or is not well-formed, which is for the handshake to say. Raises ValueError for what no
        client sends and this does not read to its end: the records of a ClientHello are not signed, so whoever stands
        between could cut it up for the handshake to see an offer that was not seen here.
        """
        self._size += len(data)
        at = 0
        message = self._message
        while at < len(data):
            if not self._left:
                more = data[at : at + 5 - len(self._rest)]
                at += len(more)
                self._left, self._rest = _header(self._rest + more)
                continue
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            message += piece
            if message[0] != _CLIENT_HELLO:
                return ()
            if len(message) >= 4 and len(message) >= (end := 4 + int.from_bytes(message[1:4], "big")):
                return _offered(bytes(message[4:end]))
        if self._size >= LONGEST:
            raise ValueError("a ClientHello that is too long")
        return None


def _header(data: bytes) -> tuple[int, bytes]:
    """Return the length of the record that begins so, and what is to be kept of a header that is not whole."""
    if data[0] != _HANDSHAKE:
        raise ValueError("no TLS handshake")
    if len(data) < 5:
        return 0, data
    length = int.from_bytes(data[3:], "big")
    if not length:  # nobody may send one (RFC 8446, section 5.1), and there is no end to them
        raise ValueError("an empty TLS record")
    return length, b""


def _offered(hello: bytes) -> tuple[bytes, ...]:
    try:
        return _protocols(hello)
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

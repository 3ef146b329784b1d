"""A server that says what a test wants, on a loopback address, and keeps what it hears."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from proxy import protocol as p

AUTH_OK = p.message(p.AUTHENTICATION, struct.pack("!i", 0))
CLEARTEXT = p.message(p.AUTHENTICATION, struct.pack("!i", 3))
MD5 = p.message(p.AUTHENTICATION, struct.pack("!i", 5) + b"salt")


def row(*values: bytes | None) -> bytes:
    """Return the body of a DataRow."""
    parts = [struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values]
    return struct.pack("!H", len(values)) + b"".join(parts)


def sasl(*mechanisms: str) -> bytes:
    return p.message(p.AUTHENTICATION, struct.pack("!i", 10) + b"".join(m.encode() + b"\0" for m in mechanisms) + b"\0")


def sasl_continue(text: str) -> bytes:
    return p.message(p.AUTHENTICATION, struct.pack("!i", 11) + text.encode())


class HungUpError(Exception):
    """The client has ended the conversation."""


class Conversation:
    """One connection. `raw` is all that came before TLS, `inside` what came after it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.raw = b""
        self.inside = b""
        self.tls = ""
        """How the handshake went: "" (none), "done", or the client's alert."""

    def take(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            try:
                piece = self._sock.recv(size - len(got))
            except OSError as error:
                raise HungUpError from error
            if not piece:
                raise HungUpError
            got += piece
        if self.tls:
            self.inside += got
        else:
            self.raw += got
        return got

    def say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(data)

    def shake_hands(self, context: ssl.SSLContext) -> None:
        """Answer SSLRequest, and shake hands."""
        assert self.take(8) == p.SSL_REQUEST
        self.say(b"S")
        self.shake_hands_at_once(context)

    def shake_hands_at_once(self, context: ssl.SSLContext) -> None:
        try:
            self._sock = context.wrap_socket(self._sock, server_side=True)
        except (ssl.SSLError, OSError) as error:
            self.tls = getattr(error, "reason", None) or type(error).__name__
            raise HungUpError from error
        self.tls = "done"

    def startup(self) -> bytes:
        """Take a StartupMessage."""
        length = self.take(4)
        return self.take(int.from_bytes(length, "big") - 4)

    def answer(self) -> bytes:
        """Take the body of one frontend message."""
        head = self.take(5)
        return self.take(int.from_bytes(head[1:], "big") - 4)

    def client_first(self) -> str:
        """Take a SASLInitialResponse; return the nonce in it."""
        return self.answer().rsplit(b"r=", 1)[1].decode()

    def until_end(self) -> None:
        """Take whatever comes until the client closes."""
        while True:
            self.take(1)


class HostileServer:
    """Run `script` with each connection, one after the other; a context manager."""

    def __init__(self, script: Callable[[Conversation], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard: list[Conversation] = []
        self.wrong: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, name="hostile")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._thread.join(10)
        if error is None and self.wrong:
            raise self.wrong[0]

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(10)
            talk = Conversation(sock)
            self.heard.append(talk)
            try:
                self._script(talk)
                talk.until_end()
            except HungUpError:
                pass
            except BaseException as error:
                self.wrong.append(error)
            finally:
                talk._sock.close()

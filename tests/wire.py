"""A client that speaks the protocol byte by byte, for what no driver would send."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from proxy import protocol as p


class Wire:
    """A bare connection, logged in unless `login` is False. Replies are shown by their type bytes."""

    def __init__(self, port: int, database: str = "shop", *, login: bool = True, **parameters: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._buffer = b""
        self.last = b""
        """The bytes of the last answer."""
        self.error: dict[str, str] = {}
        self.tag = ""
        self.status = 0
        self.key = b""
        self.parameters: dict[str, str] = {}
        if login:
            self.send(p.startup_message({"user": "analyst", "database": database, **parameters}))
            assert self.until_ready().startswith("R"), self.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def message(self) -> tuple[int, bytes]:
        """Return the next message; (0, b"") at the end."""
        while True:
            if len(self._buffer) >= 5:
                kind, length = p.read_header(self._buffer)
                if len(self._buffer) > length:
                    whole, self._buffer = self._buffer[: length + 1], self._buffer[length + 1 :]
                    self.last += whole
                    return kind, whole[5:]
            try:
                data = self.sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return 0, b""
            self._buffer += data

    def until_ready(self) -> str:
        """Read up to ReadyForQuery, or to the end; return the type bytes."""
        kinds = ""
        self.last = b""
        while True:
            kind, body = self.message()
            if not kind:
                return kinds
            kinds += chr(kind)
            if kind == p.ERROR_RESPONSE:
                self.error = p.error_fields(body)
            elif kind == p.COMMAND_COMPLETE:
                self.tag = body[:-1].decode()
            elif kind == p.BACKEND_KEY_DATA:
                self.key = body
            elif kind == p.PARAMETER_STATUS:
                self.parameters.update([p.parameter_parts(body)])
            elif kind == p.READY_FOR_QUERY:
                self.status = body[0]
                return kinds

    def ask(self, text: str) -> str:
        """Run a simple Query."""
        return self.send(p.query(text.encode())).until_ready()

    def ask_extended(self, text: str) -> str:
        """Run Parse, Bind, Describe, Execute, Sync."""
        bind = p.message(p.BIND, b"\0\0" + bytes(6))
        describe = p.message(p.DESCRIBE, b"P\0")
        return self.send(p.parse(b"", text.encode()) + bind + describe + p.execute(b"") + p.SYNC_MESSAGE).until_ready()

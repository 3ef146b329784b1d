"""A client that speaks the protocol byte by byte, for what no driver would send."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from proxy import protocol as p
from proxy.session.answers import EXECUTE_OF_EXECUTE, FETCH_OF_FETCH, LATE_PORTAL, OTHER_LETTERS
from tests import secrecy

READ_ONLY_SQL_TRANSACTION = "25006"
SYNTAX_ERROR = "42601"

STAND_IN = "refused"
"""What PostgreSQL is sent where SideCart has to refuse: a syntax error, which fails in the same turn, in any state."""
STANDING_IN = (f'syntax error at or near "{STAND_IN}"', "function with OID 0 does not exist")

OF_NAMES = "refused for what names mean by now"
"""What counts of a refusal that no text shows, but what else its client has prepared and bound."""
_OF_NAMES = {verdict.message for verdict in (EXECUTE_OF_EXECUTE, FETCH_OF_FETCH, LATE_PORTAL, OTHER_LETTERS)}

FLUSH = p.message(p.FLUSH)


def bind(name: str, values: Sequence[bytes | None] = (), *, portal: str = "", result_format: int = 0) -> bytes:
    """Build a Bind: all values as text, all results in one format."""
    body = f"{portal}\0{name}\0".encode() + struct.pack("!HH", 0, len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return p.message(p.BIND, body + struct.pack("!HH", 1, result_format))


def execute(portal: str = "", limit: int = 0) -> bytes:
    """Build an Execute; a limit of 0 is none."""
    return p.message(p.EXECUTE, f"{portal}\0".encode() + struct.pack("!I", limit))


def describe(target: str, name: str = "") -> bytes:
    """Build a Describe of a statement ("S") or a portal ("P")."""
    return p.message(p.DESCRIBE, f"{target}{name}\0".encode())


def close(target: str, name: str = "") -> bytes:
    """Build a Close of a statement ("S") or a portal ("P")."""
    return p.message(p.CLOSE, f"{target}{name}\0".encode())


def is_news(known: dict[str, str], name: str, value: str) -> bool:
    """Tell whether a ParameterStatus says what is not `known` from those before it, and note it there.

    A server before 14 reports what each SET and RESET comes to, of the same value too (ReportGUCOption(),
    utils/misc/guc.c of 13), and SideCart says a value once. Of others each message counts.
    """
    before, known[name] = known.get(name), value
    return before != value or not known.get("server_version", "").startswith("13.")


def what_counts(kind: int, body: bytes) -> object:
    """Return what of a backend message has to be the same on a private connection and through SideCart.

    Left out are the cancel key, the place in PostgreSQL's source where an error was raised (F, L and R), the words of
    a refusal, and the DETAIL of a syntax error, which SideCart may answer itself. SQLSTATE 25006 is SideCart's refusal:
    no test asks for what PostgreSQL itself would answer so. So is what has its name; the stand-ins fail by their words.
    """
    if kind == p.BACKEND_KEY_DATA:
        return "a key"
    if kind not in (p.ERROR_RESPONSE, p.NOTICE_RESPONSE):
        return body
    # A text in latin1 becomes the same replacement characters on both sides.
    fields = p.error_fields(body)
    sqlstate = fields.get("C")
    text = fields.get("M", "")
    if text in _OF_NAMES:
        return OF_NAMES
    if sqlstate == READ_ONLY_SQL_TRANSACTION or "SideCart" in text or text in STANDING_IN:
        return "refused"
    left_out = "FLRD" if sqlstate == SYNTAX_ERROR else "FLR"
    return {code: text for code, text in fields.items() if code not in left_out}


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

    def trickle(self, data: bytes) -> Self:
        """Send one byte a packet."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            self.sock.sendall(data[at : at + 1])
        return self

    @property
    def rest(self) -> bytes:
        """Return what has come of a message that is not whole."""
        return self._buffer

    def message(self) -> tuple[int, bytes]:
        """Return the next message; (0, b"") at the end."""
        while True:
            if len(self._buffer) >= 5:
                kind, length = p.read_header(self._buffer)
                if len(self._buffer) > length:
                    whole, self._buffer = self._buffer[: length + 1], self._buffer[length + 1 :]
                    self.last += whole
                    secrecy.look(whole, "an answer")
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

"""Let a PostgreSQL server analyse statements and say what it made of them, without running any."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from types import TracebackType
from typing import Any, NamedTuple, Self

from proxy import protocol as p
from tests.oracle import nodes

SETTINGS = {
    "client_min_messages": "log",
    "debug_print_parse": "on",
    "debug_pretty_print": "off",
    "check_function_bodies": "off",
}
SERVER_SETTINGS = {"log_min_messages": "fatal", "autovacuum": "off"}
"""What a server for this purpose is started with: else each tree would go to its log, 16 MB for 2,000 statements."""

_TEMPORARY = """
CREATE TEMPORARY TABLE t3 (id text, n date, a int, temporary int);
CREATE TEMPORARY TABLE lower (lower bigint, t int);
CREATE DOMAIN pg_temp.temporary AS int;
CREATE DOMAIN pg_temp.mood AS text;
CREATE FUNCTION pg_temp.lower(text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION pg_temp.only_here(int) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
"""
"""Objects of the session's own, made where the search_path speaks of pg_temp."""
_AT_ONCE = 200
"""Statements in flight."""


class Complaint(NamedTuple):
    """Why the server takes a statement for an error."""

    sqlstate: str
    message: str
    position: int
    """In characters, from 1; 0 where the server does not say."""


@dataclass
class Analysed:
    """What the server says about one statement: a tree, or a complaint."""

    text: bytes | None = None
    """The tree as printed."""
    rewritten_text: bytes | None = None
    complaint: Complaint | None = None
    parameters: tuple[int, ...] = ()
    """The types that ParameterDescription gives."""
    columns: list[tuple[str, int]] | None = None
    """Name and type of the columns that RowDescription gives: of a domain the base type."""
    notices: int = field(default=0)

    @cached_property
    def tree(self) -> Any:
        """The analysed Query; None where there is none: an error, no statement, a statement kept raw."""
        return None if self.text is None else nodes.read(self.text, column_names=False)

    @cached_property
    def rewritten(self) -> Any:
        """The rewritten Queries, as a list; None where they were not asked for."""
        return None if self.rewritten_text is None else nodes.read(self.rewritten_text)


class Analyst:
    """Hold one connection to a server that wants no password, over TCP without TLS: a context manager."""

    def __init__(
        self, port: int, database: str, *, user: str = "postgres", rewritten: bool = False, search_path: str = ""
    ) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self.version = 0
        self._sock.sendall(p.startup_message({"user": user, "database": database, "client_encoding": "UTF8"}))
        self._until_ready()
        settings = dict(SETTINGS, debug_print_rewritten="on" if rewritten else "off")
        if "pg_temp" in search_path:
            self.run(_TEMPORARY)
        if search_path:
            settings["search_path"] = search_path
        self.run("".join(f"SET {name} = {value};" for name, value in settings.items()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sock.close()

    def run(self, sql: str) -> list[list[str | None]]:
        """Run statements by simple Query; return the rows of all of them. Raises RuntimeError with the complaint."""
        self._sock.sendall(p.query(sql.encode()))
        return self._until_ready()

    def analyse(self, sql: bytes, parameter_types: Sequence[int] = ()) -> Analysed:
        """Have one statement analysed."""
        return next(self.analyse_all([(sql, parameter_types)]))

    def analyse_all(self, statements: Iterable[tuple[bytes, Sequence[int]]]) -> Iterator[Analysed]:
        """Have statements analysed, many in flight; yield an answer for each, in order."""
        source = iter(statements)
        while batch := list(islice(source, _AT_ONCE)):
            yield from self._analyse_batch(batch)

    def analyse_inside(self, sql: str, is_ours: Callable[[bytes], bool]) -> Analysed:
        """Run a Query that has another one analysed; its tree is what is printed in a context that `is_ours`."""
        self._sock.sendall(p.query(sql.encode("utf-8", "surrogateescape")))
        answer = Analysed()
        complaint: Complaint | None = None
        while True:
            for kind, body in self._messages():
                if kind == p.NOTICE_RESPONSE:
                    context = next((part[1:] for part in body.split(b"\0") if part[:1] == b"W"), b"")
                    if is_ours(context):
                        _note(answer, kind, body)
                elif kind == p.ERROR_RESPONSE:
                    complaint = _complaint(body)
                elif kind == p.READY_FOR_QUERY:
                    if answer.text is None:
                        answer.complaint = complaint
                    return answer
            self._receive()

    def _analyse_batch(self, batch: Sequence[tuple[bytes, Sequence[int]]]) -> Iterator[Analysed]:
        describe = p.message(p.DESCRIBE, b"S\0")
        unsent = memoryview(
            b"".join(
                p.parse(b"", sql, struct.pack(f"!H{len(types)}I", len(types), *types)) + describe + p.SYNC_MESSAGE
                for sql, types in batch
            )
        )
        answer = Analysed()
        left = len(batch)
        # The server stops reading while nobody takes its answers: neither side may wait for the other.
        while left:
            readable, writable, _ = select.select([self._sock], [self._sock] if unsent else [], [], 60)
            if not readable and not writable:
                raise TimeoutError("the server does not answer")
            if writable:
                unsent = unsent[self._sock.send(unsent[:65536]) :]
            if readable:
                self._receive()
                for kind, body in self._messages():
                    if kind == p.READY_FOR_QUERY:
                        yield answer
                        answer = Analysed()
                        left -= 1
                    else:
                        _note(answer, kind, body)

    def _receive(self) -> None:
        data = self._sock.recv(1 << 20)
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._received += data

    def _messages(self) -> list[tuple[int, bytes]]:
        """Take the whole messages out of what was received."""
        found: list[tuple[int, bytes]] = []
        at = 0
        received = self._received
        end = len(received)
        while end - at >= 5:
            kind, length = p.read_header(received, at)
            if end - at <= length:
                break
            found.append((kind, bytes(received[at + 5 : at + length + 1])))
            at += length + 1
        del received[:at]
        return found

    def _until_ready(self) -> list[list[str | None]]:
        rows: list[list[str | None]] = []
        complaint: Complaint | None = None
        while True:
            for kind, body in self._messages():
                if kind == p.DATA_ROW:
                    rows.append([None if value is None else value.decode() for value in p.row_values(body)])
                elif kind == p.ERROR_RESPONSE:
                    complaint = _complaint(body)
                elif kind == p.PARAMETER_STATUS:
                    name, value = p.parameter_parts(body)
                    if name == "server_version":
                        self.version = int(value.split(".")[0])
                elif kind == p.READY_FOR_QUERY:
                    if complaint:
                        raise RuntimeError(f"{complaint.sqlstate}: {complaint.message}")
                    return rows
            if complaint and complaint.sqlstate[:2] in ("28", "3D"):
                raise RuntimeError(f"{complaint.sqlstate}: {complaint.message}")
            self._receive()


def _note(answer: Analysed, kind: int, body: bytes) -> None:
    """Take a message of the answer to Parse, Describe, Sync."""
    if kind == p.NOTICE_RESPONSE:
        # What analysis itself runs (a domain's CHECK) prints its trees first: the last pair is the statement's.
        parts = body.split(b"\0")
        title = next((part[1:] for part in parts if part[:1] == b"M"), b"")
        if title in (b"parse tree:", b"rewritten parse tree:"):
            detail = next((part[1:] for part in parts if part[:1] == b"D"), b"")
            if title == b"parse tree:":
                answer.text = detail
                answer.notices += 1
            else:
                answer.rewritten_text = detail
    elif kind == p.ERROR_RESPONSE:
        answer.complaint = _complaint(body)
        answer.text = answer.rewritten_text = None
    elif kind == p.PARAMETER_DESCRIPTION:
        (count,) = struct.unpack_from("!H", body)
        answer.parameters = struct.unpack_from(f"!{count}I", body, 2)
    elif kind == p.ROW_DESCRIPTION:
        answer.columns = list(_columns(body))


def _complaint(body: bytes) -> Complaint:
    fields = p.error_fields(body)
    return Complaint(fields.get("C", ""), fields.get("M", ""), int(fields.get("P", "0")))


def _columns(body: bytes) -> Iterator[tuple[str, int]]:
    (count,) = struct.unpack_from("!H", body)
    at = 2
    for _ in range(count):
        end = body.index(b"\0", at)
        (oid,) = struct.unpack_from("!I", body, end + 7)
        yield body[at:end].decode("utf-8", "replace"), oid
        at = end + 19

"""Make a database whose functions say that they run, and say which of them a statement has run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import psycopg
from psycopg import pq

from proxy.demo.embedded import EmbeddedServer

DATABASE: Final = "reporting"
READER: Final = "reader"
"""A role that may read everything and owns nothing, so that policies hold for it."""
SERVER_SETTINGS: Final = {
    "track_functions": "all",
    "autovacuum": "off",
    "log_min_messages": "fatal",
    "fsync": "off",
    "max_parallel_workers_per_gather": "0",
}
_SCRIPT: Final = Path(__file__).parent / "reporting.sql"
_REPORT: Final = re.compile(r"^REPORT (\w+)(\(.*?\)) RETURNS (\S+): (.*)$", re.MULTILINE)
_FUNCTION: Final = (
    r"CREATE FUNCTION \1\2 RETURNS \3 IMMUTABLE PARALLEL SAFE LANGUAGE plpgsql"
    r" AS $$ BEGIN RAISE NOTICE 'ran \1'; RETURN \4; END $$;"
)
_PART: Final = re.compile(r"^-- (since (?P<major>\d+)|contrib)\n(?P<body>.*?)^-- end\n", re.MULTILINE | re.DOTALL)


def create(server: EmbeddedServer) -> None:
    """Make the database."""
    major = int(server.sql("SHOW server_version_num")) // 10000
    contrib = server.sql("SELECT 1 FROM pg_available_extensions WHERE name = 'ltree'").strip()
    text = _PART.sub(
        lambda part: part["body"] if (major >= int(part["major"]) if part["major"] else contrib) else "",
        _SCRIPT.read_text("utf-8"),
    )
    server.sql(f"CREATE DATABASE {DATABASE}")
    server.sql("SET check_function_bodies = off;" + _REPORT.sub(_FUNCTION, text), DATABASE)


class Run(NamedTuple):
    """What became of one statement."""

    functions: frozenset[int]
    """Those that ran."""
    sqlstate: str
    """Empty: it ended well."""
    message: str = ""


class Reports:
    """Hold one session in the database, and run statements in it: a context manager."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._connection = psycopg.connect(server.dsn(DATABASE, READER, "", sslmode="disable"), autocommit=True)
        self._pq = self._connection.pgconn
        self._names: dict[str, int] = {}
        self.reporters: set[int] = set()
        self._heard: set[int] = set()
        rows = self._connection.execute(
            "SELECT proname, p.oid, lanname = 'c' FROM pg_proc p JOIN pg_language l ON l.oid = prolang"
            " WHERE p.oid >= 16384 AND (lanname = 'c' OR prosrc LIKE '%RAISE NOTICE %')"
        ).fetchall()
        self._names = {name: oid for name, oid, is_c in rows if not is_c}
        self.reporters = set(self._names.values())
        self.counted = sorted(oid for _, oid, is_c in rows if is_c)
        counts = ", ".join(f"coalesce(pg_stat_get_xact_function_calls({oid}), 0)" for oid in self.counted)
        self._look = f"SELECT {counts}".encode()
        self._counts: list[bytes | None] = []
        self._pq.notice_handler = self._hear

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def settle(self, settings: Mapping[str, str]) -> None:
        """Set what the planner goes by; everything else as it was."""
        self._pq.exec_(b"RESET ALL")
        self._pq.exec_("".join(f"SET {name} = {value};" for name, value in settings.items()).encode())

    def run(self, sql: str, values: Sequence[str | None], types: Sequence[int], *, binary: bool = False) -> Run:
        """Run one statement: without parameters as a simple Query, with some or for a `binary` answer in parts."""
        self._heard.clear()
        if values or types or binary:
            given = [None if value is None else value.encode() for value in values]
            result = self._pq.exec_params(sql.encode(), given, types, None, int(binary))
        else:
            result = self._pq.exec_(sql.encode())
        failed = result.status == pq.ExecStatus.FATAL_ERROR
        sqlstate = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode() if failed else ""
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode() if failed else ""
        return Run(frozenset(self._heard).union(self._counted()), sqlstate, message)

    def _hear(self, result: pq.abc.PGresult) -> None:
        message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        if message.startswith(b"ran "):
            self._heard.add(self._names[message[4:].decode()])

    def _counted(self) -> Iterator[int]:
        """Give the functions in C that ran: the server's counters are another, and not because it has sent them off."""
        if not self.counted:
            return
        found = self._pq.exec_(self._look)
        counts = [found.get_value(0, at) for at in range(found.nfields)]
        before, self._counts = self._counts or [b"0"] * len(counts), counts
        yield from (
            oid
            for oid, one, other in zip(self.counted, before, counts, strict=True)
            if one != other and other not in (b"0", None)
        )

"""A PostgreSQL for scripts of sessions: it answers in its turn what it was sent, as far as a session depends on it."""

from __future__ import annotations

import re

from proxy import protocol as p
from tests.unit.session.scenes import data_row
from tests.unit.session.town import BOUND, CLOSED, PARSED, ROWS, FakeUpstream

_NO_SQL = p.REFUSED_QUERY[5:-1]
_TAGS = {"start": b"START TRANSACTION", "end": b"COMMIT", "select": b"SELECT 1", "explain": b"EXPLAIN"}
_ENDS = frozenset(("commit", "end", "rollback"))
_ROWS = frozenset(("select", "show", "explain", "fetch", "execute", "values", "table"))
_SET = re.compile(r"set (?:session |local )?\"?(\w+)\"?(?: to | ?= ?)'?([^']*)'?", re.IGNORECASE)
_SET_CONFIG = re.compile(r"set_config\('(\w+)', ?'([^']*)'")
_READ_BACK = "current_setting(w.n,true) FROM (VALUES "
_LEARN = re.compile(r"^SELECT w\.n,pg_catalog\.current_setting\(w\.n\) FROM ")
_NAME = re.compile(r"\('(\w+)'\)")


class _FailedError(Exception):
    """A message has failed, with this SQLSTATE."""


class Server:
    """Answer what an upstream was sent, message by message; a test says which of them fail for no reason."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        self.status = p.IDLE
        self.skipping = False
        self.settings: dict[str, str] = {}
        self._before: dict[str, str] = {}  # the settings when the transaction began
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._sql_statements: set[str] = set()
        self._sent = bytearray()
        self._told = "UTF8"

    def take(self) -> bytes:
        """Return what was sent since the last look; from now on it is there to be answered."""
        sent = bytes(self.upstream.whole)
        self.upstream.whole.clear()
        self._sent += sent
        return sent

    def answer(self, *, fails: bool) -> bytes:
        """Answer the oldest message; b"" where there is none that is whole."""
        if len(self._sent) < 5:
            return b""
        kind, length = p.read_header(bytes(self._sent[:5]), 0)
        if len(self._sent) < 1 + length:
            return b""
        body = bytes(self._sent[5 : 1 + length])
        del self._sent[: 1 + length]
        if kind == p.QUERY:
            return b"" if self.skipping else self._query(body[:-1].decode("latin-1"), fails)
        if kind == p.FUNCTION_CALL:
            return b"" if self.skipping else self._failed("42883") + self._ready()
        if kind == p.SYNC:
            self.skipping = False
            return self._ready()
        if self.skipping or kind == p.FLUSH:
            return b""
        try:
            if fails and kind != p.CLOSE:
                raise _FailedError("57014")
            return self._extended(kind, body)
        except _FailedError as error:
            self.skipping = True
            return self._failed(str(error))

    # --- messages -------------------------------------------------------------------------------------------------

    def _extended(self, kind: int, body: bytes) -> bytes:
        if kind == p.PARSE:
            name, text = body.split(b"\0")[:2]
            sql = text.decode("latin-1")
            self._check(sql)
            if name and name in self._statements:
                raise _FailedError("42P05")
            self._statements[name] = sql
            return PARSED
        if kind == p.BIND:
            portal, name = body.split(b"\0")[:2]
            self._portals[portal] = sql = self._statement(name)
            self._check(sql)
            return BOUND
        if kind == p.DESCRIBE:
            name = body[1:-1]
            sql = self._statement(name) if body[:1] == b"S" else self._portal(name)
            said = p.message(p.PARAMETER_DESCRIPTION, b"\0\0") if body[:1] == b"S" else b""
            return said + (ROWS if _word(sql) in _ROWS else p.message(p.NO_DATA))
        if kind == p.EXECUTE:
            sql = self._portal(body[: body.index(0)])
            self._check(sql)
            return self._run(sql, describe=False)
        assert kind == p.CLOSE, kind
        (self._statements if body[:1] == b"S" else self._portals).pop(body[1:-1], None)
        return CLOSED

    def _query(self, text: str, fails: bool) -> bytes:
        self._statements.pop(b"", None)
        self._portals.pop(b"", None)
        out = b""
        try:
            for sql in text.split(";"):
                self._check(sql)
                if fails:
                    raise _FailedError("57014")
                out += self._run(sql, describe=True)
        except _FailedError as error:
            out += self._failed(str(error))
        return out + self._ready()

    def _ready(self) -> bytes:
        reported = self.settings.get("client_encoding", "UTF8").upper()
        told = b"" if reported == self._told else p.parameter_status("client_encoding", reported)
        self._told = reported
        if self.status == p.IDLE:
            self._portals.clear()
            self._before = dict(self.settings)
        return told + p.READY[self.status]

    def _failed(self, sqlstate: str) -> bytes:
        if self.status == p.IN_TRANSACTION:
            self.status = p.FAILED
        elif self.status == p.IDLE:
            self.settings = dict(self._before)
        return p.error_response("ERROR", sqlstate, f"so much for {sqlstate}")

    # --- statements -----------------------------------------------------------------------------------------------

    def _statement(self, name: bytes) -> str:
        if name not in self._statements:
            raise _FailedError("26000")
        return self._statements[name]

    def _portal(self, name: bytes) -> str:
        if name not in self._portals:
            raise _FailedError("34000")
        return self._portals[name]

    def _check(self, sql: str) -> None:
        if sql == _NO_SQL.decode():
            raise _FailedError("42601")
        if self.status == p.FAILED and _word(sql) not in _ENDS:
            raise _FailedError("25P02")
        if "nope" in sql:
            raise _FailedError("42703")

    def _run(self, sql: str, *, describe: bool) -> bytes:
        word = _word(sql)
        tag = _TAGS.get(word, word.upper().encode())
        rows: list[bytes] = []
        if word in ("begin", "start"):
            self.status = p.IN_TRANSACTION
        elif word in _ENDS:
            if self.status == p.FAILED or word == "rollback":
                tag = b"ROLLBACK"
                self.settings = dict(self._before)
            self.status = p.IDLE
            self._portals.clear()
        elif word == "set" and (found := _SET.match(sql.strip())):
            self.settings[found[1].lower()] = found[2]
        elif word == "reset":
            name = sql.split()[1].strip('"').lower()
            self.settings = {} if name == "all" else {key: each for key, each in self.settings.items() if key != name}
        elif word == "prepare":
            self._sql_statements.add(sql)
        elif word in ("discard", "deallocate"):
            tag = sql.strip().upper().encode() if word == "discard" else tag
            if tag != b"DISCARD PLANS":
                self._sql_statements.clear()
                self._statements.clear()
            if tag == b"DISCARD ALL":
                self.settings.clear()
        elif word in _ROWS:
            rows = self._rows(sql)
        if not word:
            return p.message(p.EMPTY_QUERY_RESPONSE)
        head = ROWS if rows and describe else b""
        return head + b"".join(p.message(p.DATA_ROW, row) for row in rows) + p.message(p.COMMAND_COMPLETE, tag + b"\0")

    def _rows(self, sql: str) -> list[bytes]:
        for name, value in _SET_CONFIG.findall(sql):
            self.settings[name.lower()] = value
        if _READ_BACK in sql:
            return [data_row(name, self.settings[name]) for name in _NAME.findall(sql) if name in self.settings]
        if _LEARN.match(sql):
            return [data_row(name, self.settings.get(name, "")) for name in _NAME.findall(sql)]
        if "'.prepared_statement'" in sql:
            return [data_row(".prepared_statement", "")] if self._sql_statements else []
        if sql == "SELECT '',''":
            return [data_row("", "")]
        if sql.lower().startswith("show "):
            name = sql[5:].strip()
            return [data_row(self.settings.get(name, "UTF8" if name == "client_encoding" else '"$user", public'))]
        return [data_row("1")]


def _word(sql: str) -> str:
    found = re.match(r"\s*(\w+)", sql)
    return found[1].lower() if found else ""

"""Snapshots of session settings, and the SQL that turns an upstream from one into another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Final
from weakref import WeakValueDictionary

Restore = tuple[str, bool]
"""A value to set again, and whether for the running transaction only."""


class Settings:
    """Hold settings as an immutable snapshot, interned: equal snapshots are one object, compared with `is`.

    Make one with `Settings.of`. Names are case-folded; values are as the client gave them.
    """

    __slots__ = ("__weakref__", "customs", "items")
    _interned: ClassVar[WeakValueDictionary[tuple[tuple[str, str], ...], Settings]] = WeakValueDictionary()

    def __init__(self, items: tuple[tuple[str, str], ...]) -> None:
        self.items = items
        self.customs = frozenset(name for name, _ in items if "." in name)
        """Names with a dot. Such a name, once set, reads '' instead of NULL until the socket closes."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Settings:
        """Return the one snapshot of these (name, value) pairs; of equal names the last counts."""
        # The server folds ASCII letters and no others (guc_name_compare(), guc.c).
        items = tuple(sorted({n.lower() if n.isascii() else n: value for n, value in pairs}.items()))
        known = cls._interned.get(items)
        if known is None:
            known = cls._interned[items] = cls(items)
        return known

    def __repr__(self) -> str:
        return f"<Settings {', '.join(name for name, _ in self.items)}>"

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.items if key == name), None)


NO_SETTINGS: Final = Settings.of(())


def replay(current: Settings | None, wanted: Settings) -> bytes:
    """Return the SQL that turns an upstream whose clients' settings are `current` (None: unknown) into `wanted`.

    One text, so that it is one implicit transaction: all of it holds, or nothing. It is plain ASCII, whatever encoding
    the upstream's session has at the moment. Values go through set_config(), which takes them as the StartupMessage
    does; SET would make one name of the search_path `a, b`.
    """
    if current is None:
        return b"RESET ALL" if not wanted.items else b"RESET ALL;" + assign(wanted.items)
    kept = {name for name, _ in wanted.items}
    statements = [b"RESET " + _identifier(name) for name, _ in current.items if name not in kept]
    held = set(current.items)
    changed = [pair for pair in wanted.items if pair not in held]
    if changed:
        statements.append(assign(changed))
    return b";".join(statements)


def assign(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Return the SELECT that sets these settings for the session, in plain ASCII."""
    calls = (b"pg_catalog.set_config(" + _literal(n) + b"," + _literal(v) + b",false)" for n, v in pairs)
    return b"SELECT " + b",".join(calls)


def restore(lost: Mapping[str, Restore]) -> bytes:
    """Return the SELECT that sets each of these settings again where it has been reset, in plain ASCII.

    A RESET may have been rolled back, or never have run: a value that the session has SET stays.
    """
    rows = b",".join(
        b"(" + _literal(name) + b"," + _literal(value) + (b",true)" if local else b",false)")
        for name, (value, local) in lost.items()
    )
    return (
        b"SELECT pg_catalog.set_config(w.n,w.v,w.l) FROM (VALUES " + rows + b") AS w(n,v,l)"
        b" WHERE w.n OPERATOR(pg_catalog.~~) '%.%' OR EXISTS (SELECT FROM pg_catalog.pg_settings s"
        b" WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) w.n"
        b" AND s.source OPERATOR(pg_catalog.<>) 'session')"
    )


def read_back(names: Iterable[str], *, state: bool = False) -> bytes:
    """Return the SQL that tells which of these settings the session has set, and to what: rows of (name, value).

    `state`: tell as well what else the session holds, as rows of (`.` and the pin's reason, ``). The last row is empty:
    it says that those before it are all.
    """
    rows = b",".join(b"(" + _literal(name) + b")" for name in sorted(names))
    settings = (
        b"SELECT w.n,pg_catalog.current_setting(w.n,true) FROM (VALUES " + rows + b") AS w(n)"
        b" WHERE EXISTS (SELECT FROM pg_catalog.pg_settings s"
        b" WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) w.n"
        b" AND s.source OPERATOR(pg_catalog.=) 'session');"
    )
    return (settings if rows else b"") + (_STATE if state else b"") + b"SELECT '',''"


_STATE: Final = (
    b"SELECT '.prepared_statement','' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements)"
    b" UNION ALL SELECT '.hold_cursor','' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors)"
    b" UNION ALL SELECT '.listen','' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())"
    b" UNION ALL SELECT '.advisory_lock','' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks l"
    b" WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'"
    b" AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid());"
)


def _literal(text: str) -> bytes:
    return _quote(text, "'")


def _identifier(name: str) -> bytes:
    return b".".join(_quote(part, '"') for part in name.split("."))


def _quote(text: str, mark: str) -> bytes:
    quoted = text.replace(mark, mark * 2)
    if text.isascii():  # standard_conforming_strings is on: a backslash is a backslash
        return f"{mark}{quoted}{mark}".encode()
    escaped = "".join("\\\\" if c == "\\" else c if c.isascii() else f"\\+{ord(c):06x}" for c in quoted)
    return f"U&{mark}{escaped}{mark}".encode()

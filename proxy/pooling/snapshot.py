"""Snapshots of session settings, and the SQL that turns an upstream from one into another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from proxy.ours import PREFIX

Restore = tuple[str, bool]
"""A value to set again, and whether for the running transaction only."""


PARSING: Final = frozenset(
    (
        *("search_path", "datestyle", "timezone", "intervalstyle", "timezone_abbreviations", "client_encoding"),
        *("transform_null_equals", "array_nulls", "xmloption", "backslash_quote"),
        *("lc_monetary", "lc_numeric", "lc_time", "default_text_search_config"),
        *("bytea_output", "extra_float_digits", "quote_all_identifiers"),
    )
)
"""Settings that decide what a statement means: at its Parse literals become values and names become objects, and in its
plan calls of functions that are labelled IMMUTABLE become what they return."""
_NO_MEANING: Final = "application_name"


class Settings:
    """Hold settings as an immutable snapshot, interned: equal snapshots are one object, compared with `is`.

    Make one with `Settings.of`. Names are case-folded; values are as the client gave them.
    """

    __slots__ = ("__weakref__", "customs", "items", "others", "parsing", "path")
    _interned: ClassVar[WeakValueDictionary[tuple[tuple[str, str], ...], Settings]] = WeakValueDictionary()

    def __init__(self, items: tuple[tuple[str, str], ...]) -> None:
        self.items = items
        self.customs = frozenset(name for name, _ in items if "." in name)
        """Names with a dot: once set, such a setting reads '' instead of NULL until the socket closes."""
        parsing = tuple(pair for pair in items if pair[0] in PARSING)
        self.parsing: Settings = self if len(parsing) == len(items) else Settings.of(parsing)
        """Those of them that shape what a statement means."""
        self.others = any(name not in PARSING and name != _NO_MEANING for name, _ in items)
        """Whether there are others, which a function can read."""
        self.path = self.get("search_path")
        """The search_path; None: the one that sessions begin with."""

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
ANY_SETTINGS: Final = Settings(())
"""What shapes a text that no setting shapes. It is like no other snapshot."""
NEXT_SETTINGS: Final = Settings(())
"""What shapes a text that is analysed anew by its next use: the settings of that, whatever they are."""


DISCARD_PLANS: Final = b"DISCARD PLANS"
"""Has every plan of the session made anew, and before that every statement analysed (ResetPlanCache(), plancache.c)."""


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
    calls = (b"pg_catalog.set_config(" + literal(n) + b"," + literal(v) + b",false)" for n, v in pairs)
    return b"SELECT " + b",".join(calls)


def restore(lost: Mapping[str, Restore]) -> bytes:
    """Return the SELECT that sets each of these settings again where it has been reset, in plain ASCII.

    A RESET may have been rolled back, or never have run: a value that the session has SET stays. Of a custom setting
    only an empty value shows that it was reset.
    """
    rows = b",".join(
        b"(" + literal(name) + b"," + literal(value) + (b",true)" if local else b",false)")
        for name, (value, local) in lost.items()
    )
    return (
        b"SELECT pg_catalog.set_config(w.n,w.v,w.l) FROM (VALUES " + rows + b") AS w(n,v,l)"
        b" WHERE (w.n OPERATOR(pg_catalog.~~) '%.%' AND pg_catalog.current_setting(w.n,true) OPERATOR(pg_catalog.=) '')"
        b" OR EXISTS (SELECT FROM pg_catalog.pg_settings s"
        b" WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) w.n"
        b" AND s.source OPERATOR(pg_catalog.<>) 'session')"
    )


def set_again(name: str, restored: Restore) -> bytes:
    """Return the statement that sets this setting again right behind a RESET that has run, in plain ASCII.

    It takes no snapshot, where that can be had: an isolation level may still be set behind it. A list of names keeps
    its spelling only where SET would give it just that.
    """
    value, local = restored
    if name in _NAME_LISTS:
        words = value.split(", ")
        if not all(map(_PLAIN_NAME.fullmatch, words)):
            return restore({name: restored})
    else:
        words = [value]
    scope = b"LOCAL " if local else b"SESSION "
    return b"SET " + scope + _identifier(name) + b" TO " + b",".join(map(literal, words))


_NAME_LISTS: Final = frozenset({"search_path", "temp_tablespaces"})
"""Settings of which SET quotes each word by itself (GUC_LIST_QUOTE)."""
_PLAIN_NAME: Final = re.compile("[a-z_][a-z0-9_]*")


def read_back(names: Iterable[str], *, state: bool = False) -> bytes:
    """Return the SQL that tells which of these settings the session has set, and to what: rows of (name, value).

    `state`: tell as well what else the session holds, as rows of (`.` and the pin's reason, ``). The last row is empty:
    it says that those before it are all.
    """
    rows = b",".join(b"(" + literal(name) + b")" for name in sorted(names))
    settings = (
        b"SELECT w.n,pg_catalog.current_setting(w.n,true) FROM (VALUES " + rows + b") AS w(n)"
        b" WHERE (w.n OPERATOR(pg_catalog.~~) '%.%' AND pg_catalog.current_setting(w.n,true) IS NOT NULL)"
        b" OR EXISTS (SELECT FROM pg_catalog.pg_settings s"
        b" WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) w.n"
        b" AND s.source OPERATOR(pg_catalog.=) 'session');"
    )
    return (settings if rows else b"") + (_STATE if state else b"") + b"SELECT '',''"


def wear(context: Settings) -> bytes:
    """Return the SELECT that puts these settings on for a Parse, until `take_off`, and the others of PARSING off.

    It keeps the present values in custom settings of ours. All of it ends with the transaction.
    """
    worn = dict(context.items)
    rows = b",".join(
        b"(" + literal(name) + b"," + (literal(worn[name]) if name in worn else b"NULL") + b")" for name in _WORN
    )
    return (
        b"SELECT pg_catalog.set_config('sidecart.' OPERATOR(pg_catalog.||) w.n,pg_catalog.current_setting(w.n),true),"
        b"pg_catalog.set_config(w.n,COALESCE(w.v,(SELECT s.reset_val FROM pg_catalog.pg_settings s"
        b" WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) w.n)),true) FROM (VALUES " + rows + b") AS w(n,v)"
    )


_WORN: Final = sorted(PARSING)
_NAMES: Final = b"(VALUES " + b",".join(b"('%s')" % name.encode() for name in _WORN) + b") AS w(n)"
TAKE_OFF: Final = (
    b"SELECT pg_catalog.set_config(w.n,pg_catalog.current_setting('sidecart.' OPERATOR(pg_catalog.||) w.n),true)"
    b" FROM " + _NAMES
)
"""Undoes `wear`."""
LEARN: Final = b"SELECT w.n,pg_catalog.current_setting(w.n) FROM " + _NAMES
"""Tells the present values of all settings that shape a Parse, as rows of (name, value)."""


_STATE: Final = (
    b"SELECT '.prepared_statement','' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements"
    b" WHERE pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.left(name,%d),'SQL_ASCII'))"
    b" OPERATOR(pg_catalog.<>) '\\x%s')"
    b" UNION ALL SELECT '.hold_cursor','' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors);"
) % (len(PREFIX), hashlib.sha256(PREFIX).hexdigest().encode())
"""It does not tell how our names begin: other sessions of the role can read it, in pg_stat_activity."""


def literal(text: str) -> bytes:
    """Return a string constant, in plain ASCII."""
    return _quote(text, "'")


def _identifier(name: str) -> bytes:
    return b".".join(_quote(part, '"') for part in name.split("."))


def _quote(text: str, mark: str) -> bytes:
    quoted = text.replace(mark, mark * 2)
    if text.isascii():  # standard_conforming_strings is on: a backslash is a backslash
        return f"{mark}{quoted}{mark}".encode()
    escaped = "".join("\\\\" if c == "\\" else c if c.isascii() else f"\\+{ord(c):06x}" for c in quoted)
    return f"U&{mark}{escaped}{mark}".encode()

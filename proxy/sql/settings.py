"""Judge what a session may set: one table for SET, set_config, startup parameters and `options`.

Also the two parsers that PostgreSQL applies to such values, and the names of encodings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from proxy.errors import FEATURE_NOT_SUPPORTED, READ_ONLY_SQL_TRANSACTION
from proxy.sql import tables
from proxy.sql.literals import NAMEDATALEN
from proxy.sql.tables import Refusal
from proxy.sql.verdict import Effect

_SPACE = " \t\n\r\f"  # scanner_isspace(), parser/scansup.c; from PostgreSQL 16 on it has \v, too
_OPTION_SPACE = f"{_SPACE}\v"  # isspace(3)
_LISTED = re.compile(rf"""[{_SPACE}]*+(?:"((?:[^"]|"")*+)"|([^"\v,{_SPACE}][^\v,{_SPACE}]*+))[{_SPACE}]*+(,|\Z)""")
"""A name of a list, quoted or not, and what follows it: SplitIdentifierString()."""


def fold(name: str) -> str:
    """Give a setting's name as the server compares it: ASCII letters lowered, nothing else (guc_name_compare)."""
    return name.lower() if name.isascii() else name


def encoding_key(name: str) -> str:
    """Normalise an encoding's name as pg_char_to_encoding does: letters and digits only, lowered, aliases resolved."""
    key = "".join(c for c in name if c.isascii() and c.isalnum()).lower()
    return tables.ENCODING_ALIASES.get(key, key)


def python_codec(pg_encoding: str) -> str | None:
    """Give the Python codec to decode a PostgreSQL client encoding by; None when it is unknown or unsafe."""
    return tables.ENCODINGS.get(encoding_key(pg_encoding))


def parse_bool(value: str) -> bool | None:
    """Read a boolean as parse_bool_with_len does (utils/adt/bool.c); None when it is none."""
    text = fold(value)
    if not text:
        return None
    if text in ("1", "on") or "true".startswith(text) or "yes".startswith(text):
        return True
    if text in ("0", "of", "off") or "false".startswith(text) or "no".startswith(text):
        return False
    return None


def join_identifiers(names: Iterable[str]) -> str:
    """Make a list of names, as SET does of its values: flatten_set_variable_args() (utils/misc/guc_funcs.c)."""
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


def split_identifiers(value: str) -> list[str] | None:
    """Split a list of names as SplitIdentifierString does (utils/adt/varlena.c); None when it is malformed.

    A \\v outside of quotes, which is a letter or white space as the server's version has it, counts as malformed.
    """
    names: list[str] = []
    at = 0
    more = bool(value.strip(_SPACE))
    while more:
        found = _LISTED.match(value, at)
        if found is None:
            return None
        quoted, plain, comma = found.groups()
        name = quoted.replace('""', '"') if plain is None else fold(plain)
        names.append(name.encode()[: NAMEDATALEN - 1].decode(errors="ignore"))
        at, more = found.end(), bool(comma)
    return names


def split_options(value: str) -> list[tuple[str, str]] | None:
    """Split the startup parameter `options` into (name, value) pairs; None when it holds anything but settings.

    Follows pg_split_opts (words split at white space, a backslash keeps the next character) and
    process_postgres_switches (`-c name=value`, `-cname=value`, `--name=value`; dashes of a name become underscores).
    """
    words: list[str] = []
    word: str | None = None
    at = 0
    while at < len(value):
        char = value[at]
        if char in _OPTION_SPACE:
            if word is not None:
                words.append(word)
            word = None
        else:
            if char == "\\":
                at += 1
                char = value[at : at + 1]
            word = (word or "") + char
        at += 1
    if word is not None:
        words.append(word)
    pairs: list[tuple[str, str]] = []
    rest = iter(words)
    for text in rest:
        if text == "-c":
            pair = next(rest, "")
        elif text.startswith(("-c", "--")):
            pair = text[2:]
        else:
            return None
        name, equals, setting = pair.partition("=")
        if not equals or not name:
            return None
        pairs.append((name.replace("-", "_"), setting))
    return pairs


def _not_allowed(name: str) -> Refusal:
    return Refusal(
        "setting",
        f'permission denied to set parameter "{name}"',
        f'"{name}" is not one of the settings that a client may change (rule: setting).',
        "Settings of planning, formatting, memory and timeouts can be changed.",
    )


def _wrong_value(name: str, value: str | None, right: str, sqlstate: str = tables.FUNCTION_SQLSTATE) -> Refusal:
    what = "a value that is not in the text" if value is None else f'"{value}"'
    return Refusal(
        "setting-value",
        f'cannot set parameter "{name}" to {what}: SideCart forwards reads only',
        f'The setting "{name}" may not have this value here (rule: setting-value).',
        right,
        sqlstate,
    )


def refuse_reset(name: str) -> Refusal | None:
    """Say why a folded name may not be RESET or set TO DEFAULT; None when it may."""
    if name == "transaction_read_only":
        # On 15 and older this makes the running transaction writable; 16 has GUC_NO_RESET (utils/misc/guc_tables.c).
        return Refusal(
            "reset-read-only",
            'cannot reset parameter "transaction_read_only": SideCart forwards reads only',
            "Resetting it makes the running transaction writable on PostgreSQL 15 and older (rule: reset-read-only).",
            "Leave it as it is: every transaction is read-only.",
            READ_ONLY_SQL_TRANSACTION,
        )
    if _group(name) is None:
        return _not_allowed(name)
    return None


def _group(name: str) -> str | None:
    group = tables.SETTINGS.get(name)
    if group is not None:
        return group
    if name.startswith(tables.PLANNER_PREFIXES):
        return tables.ANY
    if "." in name and not name.startswith(tables.REFUSED_PREFIXES):
        return tables.ANY
    return None


def refuse_value(name: str, value: str | None, elements: Sequence[str] | None = None) -> Refusal | None:
    """Say why a folded name may not be set to `value`; None when it may.

    `value` None means that the text does not tell it: a parameter or an expression. `elements` are the words of a SET
    with a list, which the server quotes one by one; without them search_path's value is split as the server splits it.
    """
    group = _group(name)
    if group is None:
        return _not_allowed(name)
    if group in (tables.ANY, tables.TRANSIENT, tables.SEED):
        return None
    if group == tables.RESET_ONLY:
        return _wrong_value(name, value, "Only DEFAULT is accepted.")
    if value is None:
        return _wrong_value(name, value, "Give the value as a string constant.")
    if group == tables.PATH_VALUE:
        return _refuse_path(name, value, split_identifiers(value) if elements is None else elements)
    check = _CHECKS.get(group)
    return _not_allowed(name) if check is None else check(name, value)


def _refuse_off(name: str, value: str) -> Refusal | None:
    return None if parse_bool(value) is True else _wrong_value(name, value, "It stays on.")


def _refuse_writing(name: str, value: str) -> Refusal | None:
    return None if parse_bool(value) is True else _wrong_value(name, value, "It stays on.", READ_ONLY_SQL_TRANSACTION)


def _refuse_quoting(name: str, value: str) -> Refusal | None:
    if fold(value) == "safe_encoding" or parse_bool(value) is False:
        return None
    return _wrong_value(name, value, "Accepted are safe_encoding and off.")


def _refuse_role(name: str, value: str) -> Refusal | None:
    return None if value == "none" else _wrong_value(name, value, "Only NONE is accepted.")


def _refuse_encoding(_: str, value: str) -> Refusal | None:
    if python_codec(value) is not None:
        return None
    return Refusal(
        "encoding",
        f'cannot set parameter "client_encoding" to "{value}"',
        "In this encoding a byte of a character can be a quote or a backslash, or it is unknown (rule: encoding).",
        "Use UTF8, or any other client encoding but SJIS, SHIFT_JIS_2004, BIG5, GBK, UHC, GB18030 and JOHAB.",
    )


_CHECKS: dict[str, Callable[[str, str], Refusal | None]] = {
    tables.READ_ONLY: _refuse_writing,
    tables.SWITCHED_ON: _refuse_off,
    tables.QUOTING: _refuse_quoting,
    tables.NOBODY: _refuse_role,
    tables.ENCODING: _refuse_encoding,
}
"""What is asked of the value of a setting, by its group."""


def _refuse_path(name: str, value: str, path: Sequence[str] | None) -> Refusal | None:
    if path is None:
        return _wrong_value(name, value, "It is a list of schema names, separated by commas.")
    if "pg_catalog" in path and path[0] != "pg_catalog":
        # Schemas before it could replace built-in functions and operators that the filter takes for the server's own.
        return _wrong_value(name, value, "Leave pg_catalog out (it is then searched first), or put it first.")
    if any(element.startswith("pg_temp") for element in path[:-1]):
        return _wrong_value(name, value, "Leave pg_temp out, or put it last.")
    return None


def shadows(path: str) -> bool:
    """Tell whether a search_path puts other schemas before pg_catalog, which comes first where it is not named."""
    schemas = split_identifiers(path)
    return schemas is None or ("pg_catalog" in schemas and schemas[0] != "pg_catalog")


_NO_TRACE = frozenset(
    {tables.TRANSIENT, tables.READ_ONLY, tables.SWITCHED_ON, tables.NOBODY, tables.RESET_ONLY}
)  # gone with the transaction, or only ever set to the value that every session starts with


def effect_of_value(name: str, *, local: bool = False) -> list[tuple[Effect, str]]:
    """Give what setting a folded name changes in the session; `local`: until the transaction ends."""
    if name == "seed":
        return [(Effect.SESSION_STATE, "setseed")]  # SHOW seed does not tell it, and it makes random() predictable
    if tables.SETTINGS.get(name) in _NO_TRACE:
        return []
    return [(Effect.SETTING_LOCAL if local else Effect.SETTING, name)]


def effect_of_reset(name: str, *, local: bool = False) -> list[tuple[Effect, str]]:
    """Give what RESET of a folded name changes in the session; `local`: until the transaction ends."""
    if name == "seed" or tables.SETTINGS.get(name) in _NO_TRACE:
        return []
    return [(Effect.RESET_LOCAL if local else Effect.RESET, name)]


def judge_startup(name: str, value: str) -> Refusal | list[tuple[Effect, str]]:
    """Say why a startup parameter is refused, or what it sets. `options` is split into its settings."""
    key = fold(name)
    if key in ("user", "database"):
        return []
    if key == "replication":
        if parse_bool(value) is False:
            return []
        return Refusal(
            "startup-parameter",
            "replication connections are not forwarded",
            "A replication connection can create slots and read every change (rule: startup-parameter).",
            "Leave out the parameter replication.",
            FEATURE_NOT_SUPPORTED,
        )
    pairs = split_options(value) if key == "options" else [(name, value)]
    if pairs is None:
        return Refusal(
            "startup-parameter",
            'invalid startup parameter "options"',
            "It holds something that is no setting (rule: startup-parameter).",
            "Accepted are -c name=value and --name=value.",
        )
    effects: list[tuple[Effect, str]] = []
    for setting, given in pairs:
        folded = fold(setting)
        refusal = refuse_value(folded, given)
        if refusal is not None:
            return refusal
        effects += effect_of_value(folded)
    return effects

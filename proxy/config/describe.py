"""Describe the configuration, as `schema` declares it: config.yaml with every default, and its page of the manual.

Pure: `python -m tools.configuration` writes both files, and a test compares them with what stands here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from itertools import groupby
from typing import Any, Final

from proxy.config.keys import key_of
from proxy.config.schema import SECTIONS, Database

COMMENTS_AT: Final = 30
"""The column of config.yaml in which comments begin, where there is room."""

_FILE: Final = """\
# SideCart's configuration: every key with its default. Copy what you change; what is missing keeps its default.
# Every key can come from the environment, which wins over this file: SIDECART_<SECTION>_<KEY>, for example
# SIDECART_POOL_DEFAULT_POOL_SIZE. The upstream has short names too, which stand in parentheses. An empty variable
# counts as not set. Durations are seconds or text (500ms, 30s, 5min, 1h); sizes are bytes or text (64kB, 1MB, 1GB).
# Relative paths are relative to this file. docs/configuration.md says more of each key.
"""
_FILE_DATABASES: Final = """
# Databases that are elsewhere, or have limits of their own, by the name that clients ask for. An entry has keys of
# upstream and of pool, and max_client_conn; what it leaves out is as above. A role of its own brings its own password.
databases:
#  reports:
#    host: replica.example.com
#    dbname: app
#    default_pool_size: 3
"""
_PAGE: Final = """\
# Configuration

<!-- Written by `python -m tools.configuration` from proxy/config/schema.py: change it there. -->

`sidecart serve -c config.yaml` reads a file; without one the environment alone decides.
[config.yaml](../config.yaml) holds every key with its default: copy what you change.

- **Environment**: each key has a variable, which beats the file; some have a short one beside it, which the long one
  beats. An empty variable counts as not set. A list has commas between its parts there; `auth.rules`, `auth.users` and
  `databases` are YAML.
- **Durations** are seconds, or text such as `500ms`, `30s`, `5min`, `1h`; **sizes** are bytes, or text such as `64kB`,
  `1MB`, `1GB`. **Paths** in the file are relative to its folder.
- **Mistakes** stop the start: a wrong key or value is named with its line, and with what would be right.
- **SIGHUP** changes no key: those that have another value by then are named in the log (`configuration not reloaded`),
  and count from the next start on. What a key names (certificates, passwords, users, the file of the log) is read again
  where that is said below, and nobody is dropped. If the new one is wrong the log says so, and the old one goes on.
"""
_PAGE_DATABASES: Final = """
## `databases`

Maps names that clients ask for to another host, database, role or limits (`SIDECART_DATABASES`, as YAML). An entry has
keys of `upstream` and of `pool`, and the one below; what it leaves out is as in those sections. One that names a user
or a password inherits neither password nor client certificate.

{table}
```yaml
databases:
  reports: {{host: replica.example.com, dbname: app, default_pool_size: 3}}
```
"""


def config_file() -> str:
    """Return the text of config.yaml."""
    parts = [_FILE]
    for section, kind in SECTIONS.items():
        about, _, _ = _about(kind).partition(".")
        lines = [(f"{section}:", about[0].lower() + about[1:].replace("`", ""))]
        lines += [(f"  {item.name}: {_default(item)}".rstrip(), _told(item)) for item in fields(kind)]
        parts.append("\n" + _commented(lines))
    return "".join([*parts, _FILE_DATABASES])


def page() -> str:
    """Return the text of docs/configuration.md."""
    parts = [_PAGE]
    for section, kind in SECTIONS.items():
        parts.append(f"\n## `{section}`\n\n{_about(kind)}\n\n{_table(section, kind)}")
    return "".join([*parts, _PAGE_DATABASES.format(table=_table("", Database))])


def variable(section: str, name: str) -> str:
    """Return the name of the environment variable of a key."""
    return f"SIDECART_{section}_{name}".upper()


def _about(kind: type[Any]) -> str:
    """Return what a section is: the docstring of its class."""
    return re.sub(r"\n +", "\n", kind.__doc__ or "")


def _default(item: Field[Any]) -> str:
    """Return a key's default as it is written; empty for none."""
    form = key_of(item).form
    if item.default is MISSING:
        return ""
    return form.write(item.default) if item.default not in ("", ()) else form.empty


# --- config.yaml ------------------------------------------------------------------------------------------------------


def _told(item: Field[Any]) -> str:
    """Return the comment beside a key."""
    key = key_of(item)
    text = f"required: {key.meaning}" if item.default is MISSING else key.meaning
    if key.form.words and not any(f"`{word}`" in text for word in key.form.words):
        text += f": {', '.join(key.form.words)}"
    return text.replace("`", "") + (f" ({key.variable})" if key.variable else "")


def _commented(lines: Iterable[tuple[str, str]]) -> str:
    """Put comments behind lines, one below the other: in their column, and further right where lines are too long."""
    text = ""
    for is_long, group in groupby(lines, lambda line: len(line[0]) >= COMMENTS_AT):
        together = list(group)
        column = max(len(line) for line, _ in together) + 2 if is_long else COMMENTS_AT
        text += "".join(f"{line:<{column}}# {comment}\n" for line, comment in together)
    return text


# --- docs/configuration.md --------------------------------------------------------------------------------------------


def _table(section: str, kind: type[Any]) -> str:
    rows = "".join(_row(section, item) for item in fields(kind) if item.metadata)
    return f"| key | default | form | environment | meaning |\n| --- | --- | --- | --- | --- |\n{rows}"


def _row(section: str, item: Field[Any]) -> str:
    key = key_of(item)
    name = f"{section}.{item.name}" if section else item.name
    written = _default(item)
    default = "(required)" if item.default is MISSING else f"`{written}`" if written else "(empty)"
    variables = [variable(section, item.name)] if section else []
    variables += [key.variable] if key.variable else []
    told = [f"{key.meaning[0].upper()}{key.meaning[1:]}.", key.more, f"*{key.again.value}*" if key.again.value else ""]
    cells = (
        f"`{name}`",
        default,
        key.form.kind,
        ", ".join(f"`{each}`" for each in variables),
        " ".join(filter(None, told)),
    )
    return f"| {' | '.join(cells)} |\n"

"""config.yaml and the environment become one frozen, typed `Config`; what is wrong in them is named where it stands.

Pure: the caller reads the file and hands over its text. Precedence: `SIDECART_<SECTION>_<KEY>`, then the short names of
`ENVIRONMENT_NAMES`, then the file, then the default. An empty variable counts as not set (compose files pass those on).
"""

from __future__ import annotations

import difflib
import os.path
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import yaml

from proxy.errors import ConfigError
from proxy.policy import Policy

ENVIRONMENT_NAMES = {
    "DB_HOST": ("upstream", "host"),
    "DB_PORT": ("upstream", "port"),
    "DB_NAME": ("upstream", "dbname"),
    "DB_READONLY_USERNAME": ("upstream", "user"),
    "DB_READONLY_PASSWORD": ("upstream", "password"),
    "DB_SSLMODE": ("upstream", "sslmode"),
    "DB_SSLROOTCERT": ("upstream", "sslrootcert"),
    "DB_CONNECT_TIMEOUT": ("upstream", "connect_timeout"),
}

# Kubernetes gives every pod variables for each Service of its namespace; a Service named `sidecart-metrics` makes
# SIDECART_METRICS_PORT=tcp://10.0.0.1:9632 and others like it. They are not ours.
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://")

_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*(ms|s|min|h|d)?", re.ASCII)
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_YEAR = 366 * 86400.0
_SIZE = re.compile(r"(\d{1,15})\s*(b|kb|mb|gb)?", re.ASCII | re.IGNORECASE)
_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_HARMLESS = re.compile(r"[\w.,:/+ -]{0,60}")
_LOOPBACK = re.compile(r"localhost|::1|127(\.\d{1,3}){3}")

Reader = Callable[[str], Any]
"""Turn the text of one value into the value, or raise ValueError with what is accepted, as the end of a sentence."""


def _integer(low: int, high: int) -> Reader:
    def read(text: str) -> int:
        digits = text.replace("_", "")
        if re.fullmatch(r"[0-9]{1,18}", digits) and low <= int(digits) <= high:
            return int(digits)
        raise ValueError(f"a whole number from {low} to {high}")

    return read


def _duration(*, zero: bool) -> Reader:
    def read(text: str) -> float:
        found = _DURATION.fullmatch(text)
        if found:
            seconds = float(found[1]) * _SECONDS[found[2]]
            if (seconds > 0 or zero) and seconds <= _YEAR:
                return seconds
        least = "0 (off)" if zero else "more than 0"
        raise ValueError(f"seconds, or a duration such as 500ms, 30s, 5min or 1h; {least}, at most one year")

    return read


def _size(low: int, high: int) -> Reader:
    def read(text: str) -> int:
        found = _SIZE.fullmatch(text)
        if found:
            size = int(found[1]) * _BYTES[(found[2] or "").lower()]
            if low <= size <= high:
                return size
        raise ValueError(f"a number of bytes, or a size such as 64kB, 1MB or 1GB, from {low} to {high} bytes")

    return read


def _choice(*words: str) -> Reader:
    def read(text: str) -> str:
        if text in words:
            return text
        raise ValueError(f"one of {', '.join(words)}")

    return read


def _boolean(text: str) -> bool:
    word = text.lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError("true or false")


def _host(text: str) -> str:
    # `db:5432` and URLs are the usual slips; an IPv6 address has at least two colons.
    if text and text.count(":") != 1 and not re.search(r"[\s@\[\]]|://", text):
        return text
    raise ValueError("a host name or an IP address alone: no port, no user, no URL, no brackets")


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("text without a NUL byte")
    return text


def _functions(text: str) -> tuple[str, ...]:
    names = tuple(name for name in (part.strip() for part in text.split(",")) if name)
    if any("(" in name or ")" in name for name in names):
        raise ValueError("names of functions without their arguments, such as public.slugify")
    return names


def _key(read: Reader, default: Any = MISSING, *, secret: bool = False, path: bool = False) -> Any:
    """Declare one key: how its text is read, its default (none: it is required), and what is special about it."""
    facts = {"read": read, "secret": secret, "path": path}
    return field(default=default, repr=not secret, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Say where clients connect, and with which certificate."""

    host: str = _key(_host, "127.0.0.1")
    port: int = _key(_integer(0, 65535), 6432)
    tls: str = _key(_choice("off", "prefer", "require"), "prefer")
    tls_cert_file: str = _key(_text, "", path=True)
    tls_key_file: str = _key(_text, "", path=True)
    backlog: int = _key(_integer(1, 65535), 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Name the PostgreSQL server and the read-only role. An empty `dbname` means any database that clients ask for."""

    host: str = _key(_host)
    port: int = _key(_integer(1, 65535), 5432)
    dbname: str = _key(_text, "")
    user: str = _key(_text)
    password: str = _key(_text, "", secret=True)
    sslmode: str = _key(
        _choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
        "verify-full",
    )
    sslrootcert: str = _key(_text, "", path=True)
    connect_timeout: float = _key(_duration(zero=False), 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bound the pools of upstream connections. All durations are seconds."""

    default_pool_size: int = _key(_integer(1, 10_000), 10)
    min_pool_size: int = _key(_integer(1, 10_000), 2)
    max_logins: int = _key(_integer(1, 1000), 4)
    server_lifetime: float = _key(_duration(zero=False), 3300.0)
    server_idle_timeout: float = _key(_duration(zero=True), 600.0)
    server_login_retry: float = _key(_duration(zero=False), 15.0)
    query_wait_timeout: float = _key(_duration(zero=True), 15.0)
    query_wait_notify: float = _key(_duration(zero=True), 5.0)
    cancel_wait_timeout: float = _key(_duration(zero=False), 10.0)
    max_prepared_statements: int = _key(_integer(1, 10_000), 200)
    retry: bool = _key(_boolean, True)
    retry_max_age: float = _key(_duration(zero=True), 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Bound what clients may hold. All durations are seconds; 0 turns a time limit off where that is allowed."""

    max_client_conn: int = _key(_integer(1, 1_000_000), 1000)
    client_login_timeout: float = _key(_duration(zero=False), 15.0)
    client_idle_timeout: float = _key(_duration(zero=True), 0.0)
    idle_transaction_timeout: float = _key(_duration(zero=True), 300.0)
    query_timeout: float = _key(_duration(zero=True), 0.0)
    max_query_length: int = _key(_size(1024, 1 << 30), 1048576)
    drain_timeout: float = _key(_duration(zero=True), 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """Adjust what the filter takes for a read. Names are `function` or `schema.function`, and may have a `*`."""

    mode: str = _key(_choice("enforce", "observe"), "enforce")
    catalog_refresh: float = _key(_duration(zero=True), 60.0)
    allow_functions: tuple[str, ...] = _key(_functions, ())
    deny_functions: tuple[str, ...] = _key(_functions, ())
    cache_bytes: int = _key(_size(0, 1 << 36), 33554432)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Say where /metrics and the health pages are served."""

    enabled: bool = _key(_boolean, True)
    host: str = _key(_host, "127.0.0.1")
    port: int = _key(_integer(0, 65535), 9632)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Say how much is logged."""

    level: str = _key(_choice("debug", "info", "warning", "error"), "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Hold the whole configuration. `load` makes it; tests may construct it themselves."""

    listen: Listen = Listen()
    upstream: Upstream
    pool: PoolLimits = PoolLimits()
    client: ClientLimits = ClientLimits()
    filter: FilterConfig = FilterConfig()
    metrics: Metrics = Metrics()
    log: Log = Log()


SECTIONS: dict[str, type[Any]] = {
    "listen": Listen,
    "upstream": Upstream,
    "pool": PoolLimits,
    "client": ClientLimits,
    "filter": FilterConfig,
    "metrics": Metrics,
    "log": Log,
}


@dataclass(frozen=True, slots=True)
class _Value:
    """One value as it was written: its text, and where, as the start of an error line."""

    text: str
    where: str
    folder: str = ""  # relative paths are relative to this; empty: leave them as they are


_Values = dict[tuple[str, str], _Value]


def load(text: str | None, environ: Mapping[str, str], *, source: str = "config.yaml") -> Config:
    """Build the configuration from the file's text (None: no file) and the environment.

    `source` is the file's path: errors name it, and relative paths in the file are relative to its folder.
    Raises ConfigError with every problem found, one a line. No error text holds a secret.
    """
    problems: list[str] = []
    values = _from_file(text, source, problems) if text is not None else {}
    values |= _from_environment(environ, problems)

    sections: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        given: dict[str, Any] = {}
        before = len(problems)
        for item in fields(kind):
            value = values.get((name, item.name))
            if value is not None:
                try:
                    given[item.name] = _read(value, item.metadata)
                except ValueError as error:
                    problems.append(f"{value.where}: must be {error}{_shown(value, item.metadata)}")
                    continue
            if item.default is MISSING and not given.get(item.name):
                short = next(variable for variable, place in ENVIRONMENT_NAMES.items() if place == (name, item.name))
                problems.append(f"{name}.{item.name} is required: set it in the file, or as {short} in the environment")
        if name == "pool" and "min_pool_size" not in given:
            # Who asks for a pool of one wants no lecture about the default of two that are kept warm.
            given["min_pool_size"] = min(PoolLimits().min_pool_size, given.get("default_pool_size", 10))
        if len(problems) == before:
            sections[name] = kind(**given)
    _check_together(sections, values, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return Config(**sections)


def filter_policy(config: Config) -> Policy:
    """Return what the configuration decides about the filter."""
    return Policy(
        allow_functions=config.filter.allow_functions,
        deny_functions=config.filter.deny_functions,
        max_query_length=config.client.max_query_length,
    )


def start_up_notes(config: Config) -> tuple[str, ...]:
    """Return what an operator should know at start-up about a configuration that is valid, one sentence each."""
    notes = []
    if config.upstream.sslmode not in ("verify-full", "verify-ca") and not _LOOPBACK.fullmatch(config.upstream.host):
        notes.append(
            f"upstream.sslmode is {config.upstream.sslmode}: the server's identity is not checked; use verify-full."
        )
    if config.filter.mode == "observe":
        notes.append(
            "filter.mode is observe: what the filter would refuse is logged and LET THROUGH; only the read-only session"
            " and the role's privileges protect the server."
        )
    if not config.upstream.password:
        notes.append("upstream.password is empty: this works only if the server asks the role for no password.")
    return tuple(notes)


def _read(value: _Value, facts: Mapping[str, Any]) -> Any:
    result = facts["read"](value.text)
    if facts["path"] and result and value.folder:
        return os.path.join(value.folder, result)
    return result


def _shown(value: _Value, facts: Mapping[str, Any]) -> str:
    """Quote the wrong value, unless it is a secret or could hold one (a URL with a password given as the host)."""
    if facts["secret"] or not _HARMLESS.fullmatch(value.text) or "://" in value.text:
        return ""
    return f"; it is {value.text!r}"


def _check_together(sections: Mapping[str, Any], values: _Values, problems: list[str]) -> None:
    """Check keys that depend on each other, of the sections that are right in themselves."""

    def where(section: str, *keys: str) -> str:
        given = [values[section, key].where for key in keys if (section, key) in values]
        return given[0] if given else f"{section}.{keys[0]}"

    pool, listen, filter_ = (sections.get(name) for name in ("pool", "listen", "filter"))
    if pool and pool.min_pool_size > pool.default_pool_size:
        problems.append(
            f"{where('pool', 'min_pool_size', 'default_pool_size')}: min_pool_size ({pool.min_pool_size}) must not be"
            f" larger than default_pool_size ({pool.default_pool_size})"
        )
    if listen and bool(listen.tls_cert_file) != bool(listen.tls_key_file):
        place = where("listen", "tls_cert_file", "tls_key_file")
        problems.append(f"{place}: tls_cert_file and tls_key_file must be set together")
    both = sorted(set(filter_.allow_functions) & set(filter_.deny_functions)) if filter_ else []
    problems += [
        f"{where('filter', 'allow_functions')}: {name} stands in deny_functions too; remove it from one of them"
        for name in both
    ]


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> _Values:
    values: _Values = {}
    for variable, place in ENVIRONMENT_NAMES.items():
        if environ.get(variable):
            values[place] = _Value(environ[variable], variable)
    for variable in sorted(environ):
        text = environ[variable]
        section, _, key = variable.removeprefix("SIDECART_").lower().partition("_")
        if not variable.startswith("SIDECART_") or section not in SECTIONS or not text:
            continue
        if _SERVICE_LINK_NAME.search(variable) or _SERVICE_LINK_VALUE.match(text):
            continue
        if key in _keys(section):
            values[section, key] = _Value(text, variable)
        else:
            problems.append(
                f"{variable}: there is no such setting{_nearest(section, key, 'SIDECART_{}_{}', str.upper)}"
            )
    return values


def _from_file(text: str, source: str, problems: list[str]) -> _Values:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # What stands in quotes is text of the file, and may be a piece of the password.
        problem = re.sub(r"'[^']*'|\"[^\"]*\"", "…", error.problem or "unreadable")
        raise ConfigError(
            f"{source}, line {line}: this is not valid YAML: {problem}; a value with special characters needs quotes"
        ) from None
    except yaml.YAMLError:
        raise ConfigError(f"{source}: this is not valid YAML: it holds control characters") from None
    if root is None or _is_null(root):
        return {}
    values: _Values = {}
    folder = os.path.dirname(source)
    for section, where, node in _pairs(root, source, "", tuple(SECTIONS), problems):
        if _is_null(node):
            continue
        for key, key_where, value in _pairs(node, source, section, _keys(section), problems, where):
            _take(value, section, key, key_where, folder, values, problems)
    return values


def _take(
    node: yaml.Node, section: str, key: str, where: str, folder: str, values: _Values, problems: list[str]
) -> None:
    if _is_null(node):
        return
    parts = node.value if isinstance(node, yaml.SequenceNode) and key.endswith("_functions") else [node]
    if not all(isinstance(part, yaml.ScalarNode) and part.tag.startswith("tag:yaml.org,2002:") for part in parts):
        accepted = "a list of function names" if key.endswith("_functions") else "a single value"
        problems.append(f"{where}: must be {accepted}")
        return
    # The text as written, not YAML 1.1's idea of it: `tls: off` is the word off, a password 0123 keeps its zero.
    values[section, key] = _Value(",".join(part.value for part in parts), where, folder)


def _pairs(
    node: yaml.Node, source: str, section: str, known: tuple[str, ...], problems: list[str], where: str = ""
) -> list[tuple[str, str, yaml.Node]]:
    """Return (key, where it stands, value) of a mapping's known keys; report everything else."""
    if not isinstance(node, yaml.MappingNode):
        inside = f"{section} must hold keys and values" if section else "the file must hold sections"
        problems.append(f"{where or f'{source}, line {node.start_mark.line + 1}'}: {inside}: {', '.join(known)}")
        return []
    found: dict[str, int] = {}
    pairs = []
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        name = f"{section}.{key}" if section else key
        here = f"{source}, line {line}: {name}"
        if key in found:
            problems.append(f"{here}: this key stands twice, first in line {found[key]}; remove one of them")
        elif key not in known:
            hint = _nearest(section, key, "{}.{}") if section else _nearest_section(key)
            problems.append(f"{here}: there is no such {'key' if section else 'section'}{hint}")
        else:
            pairs.append((key, here, value))
        found.setdefault(key, line)
    return pairs


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _keys(section: str) -> tuple[str, ...]:
    return tuple(item.name for item in fields(SECTIONS[section]))


def _nearest(section: str, key: str, form: str, case: Callable[[str], str] = str) -> str:
    """Name the key that was probably meant: of this section, else of another, else list what the section has."""

    def named(*place: str) -> str:
        return form.format(*(case(part) for part in place))

    elsewhere = [name for name in SECTIONS if key in _keys(name)]
    if close := difflib.get_close_matches(key, _keys(section), 1, 0.75):
        return f"; did you mean {named(section, close[0])}?"
    if elsewhere:
        return f"; did you mean {' or '.join(named(name, key) for name in elsewhere)}?"
    if close := difflib.get_close_matches(key, _keys(section), 1, 0.5):
        return f"; did you mean {named(section, close[0])}?"
    return f"; section {section} has {', '.join(_keys(section))}"


def _nearest_section(key: str) -> str:
    if close := difflib.get_close_matches(key, SECTIONS, 1, 0.6):
        return f"; did you mean {close[0]}?"
    if homes := [name for name in SECTIONS if key in _keys(name)]:
        return f"; the key {key} belongs into section {' or '.join(homes)}"
    return f"; the sections are {', '.join(SECTIONS)}"

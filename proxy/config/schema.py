"""What can be configured: every key with its type, its default, and how its text is read, as one frozen `Config`.

`loading.py` makes it from config.yaml and the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from proxy.config import values
from proxy.config.values import Network, Reader
from proxy.sql.policy import Policy

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

_LOOPBACK = re.compile(r"localhost|::1|127(\.\d{1,3}){3}")


def _key(read: Reader | None, default: Any = MISSING, *, secret: bool = False, path: bool = False) -> Any:
    """Declare one key: how its text is read, its default (none: it is required), and what is special about it.

    What is no single text (no reader) is read by `loading.py`, in the environment as YAML.
    """
    facts = {"read": read, "secret": secret, "path": path}
    return field(default=default, repr=not secret, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Say where clients connect, and with which certificate."""

    host: str = _key(values.host, "127.0.0.1")
    port: int = _key(values.integer(0, 65535), 6432)
    tls: str = _key(values.choice("off", "prefer", "require", "verify"), "prefer")
    tls_cert_file: str = _key(values.text, "", path=True)
    tls_key_file: str = _key(values.text, "", path=True)
    tls_ca_file: str = _key(values.text, "", path=True)
    tls_crl_file: str = _key(values.text, "", path=True)
    unix_socket_dir: str = _key(values.text, "", path=True)
    unix_socket_mode: int = _key(values.mode, 0o777)
    unix_socket_owner: str = _key(values.text, "")
    unix_socket_group: str = _key(values.text, "")
    backlog: int = _key(values.integer(1, 65535), 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRule:
    """Say how clients prove who they are that come from there, for that database, as that user."""

    networks: tuple[Network, ...]
    """Empty: the Unix socket."""
    databases: tuple[str, ...] = ()
    """Empty: all."""
    users: tuple[str, ...] = ()
    """Empty: all."""
    method: str

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can be meant."""
        return all(values.is_loopback(network) for network in self.networks)


AUTH_METHODS = ("trust", "scram-sha-256", "cert", "reject")
"""What a rule may ask of a client, in pg_hba.conf's words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Say who may come in. Without rules: loopback and the Unix socket are trusted, all else needs a password."""

    rules: tuple[AuthRule, ...] = _key(None, ())
    users: tuple[tuple[str, str], ...] = _key(None, (), secret=True)
    """Names, each with its SCRAM-SHA-256 verifier."""
    users_file: str = _key(values.text, "", path=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Name the PostgreSQL server and the read-only role. An empty `dbname` means any database that clients ask for."""

    host: str = _key(values.host)
    port: int = _key(values.integer(1, 65535), 5432)
    dbname: str = _key(values.text, "")
    user: str = _key(values.text)
    password: str = _key(values.text, "", secret=True)
    password_file: str = _key(values.text, "", path=True)
    password_command: str = _key(values.text, "", secret=True)
    password_command_env: tuple[str, ...] = _key(values.variables, ())
    aws_secret: str = _key(values.text, "")
    aws_iam: bool = _key(values.boolean, False)
    aws_region: str = _key(values.text, "")
    sslmode: str = _key(
        values.choice("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
        "verify-full",
    )
    sslrootcert: str = _key(values.text, "", path=True)
    sslcert: str = _key(values.text, "", path=True)
    sslkey: str = _key(values.text, "", path=True)
    sslnegotiation: str = _key(values.choice("postgres", "direct"), "postgres")
    channel_binding: str = _key(values.choice("disable", "prefer", "require"), "prefer")
    require_auth: tuple[str, ...] = _key(values.auth_methods, ("scram-sha-256", "none"))
    application_name: str = _key(values.application_name, "")
    require_readonly_role: str = _key(values.choice("warn", "refuse"), "warn")
    allow_shared_sessions: bool = _key(values.boolean, False)
    dns_max_ttl: float = _key(values.duration(zero=False), 5.0)
    connect_timeout: float = _key(values.duration(zero=False), 10.0)
    tcp_user_timeout: float = _key(values.duration(zero=True), 30.0)


PASSWORD_SOURCES = ("password", "password_file", "password_command", "aws_secret", "aws_iam")
"""Keys of `Upstream` that say where the role's password comes from: one of them at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bound the pools of upstream connections. All durations are seconds."""

    default_pool_size: int = _key(values.integer(1, 10_000), 10)
    min_pool_size: int = _key(values.integer(1, 10_000), 2)
    max_logins: int = _key(values.integer(1, 1000), 4)
    server_lifetime: float = _key(values.duration(zero=False), 3300.0)
    server_idle_timeout: float = _key(values.duration(zero=True), 600.0)
    server_login_retry: float = _key(values.duration(zero=False), 15.0)
    server_check_delay: float = _key(values.duration(zero=True), 10.0)
    query_wait_timeout: float = _key(values.duration(zero=True), 15.0)
    query_wait_notify: float = _key(values.duration(zero=True), 5.0)
    cancel_wait_timeout: float = _key(values.duration(zero=False), 10.0)
    max_prepared_statements: int = _key(values.integer(1, 10_000), 200)
    retry: bool = _key(values.boolean, True)
    retry_max_age: float = _key(values.duration(zero=True), 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Bound what clients may hold. All durations are seconds; 0 turns a time limit off where that is allowed."""

    max_client_conn: int = _key(values.integer(1, 1_000_000), 1000)
    max_user_client_connections: int = _key(values.integer(0, 1_000_000), 0)
    max_address_client_connections: int = _key(values.integer(0, 1_000_000), 0)
    connection_rate: float = _key(values.rate, 0.0)
    statement_rate: float = _key(values.rate, 0.0)
    client_login_timeout: float = _key(values.duration(zero=False), 15.0)
    client_idle_timeout: float = _key(values.duration(zero=True), 0.0)
    idle_transaction_timeout: float = _key(values.duration(zero=True), 300.0)
    query_timeout: float = _key(values.duration(zero=True), 0.0)
    slow_reader_timeout: float = _key(values.duration(zero=True), 300.0)
    half_close_grace: float = _key(values.duration(zero=True), 1.0)
    max_query_length: int = _key(values.size(1024, 1 << 30), 1048576)
    drain_timeout: float = _key(values.duration(zero=True), 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """Adjust what the filter takes for a read. Names are `function` or `schema.function`, and may have a `*`."""

    mode: str = _key(values.choice("enforce", "observe"), "enforce")
    catalog_refresh: float = _key(values.duration(zero=True), 60.0)
    allow_functions: tuple[str, ...] = _key(values.functions, ())
    allow_extensions: tuple[str, ...] = _key(values.extensions, ())
    deny_functions: tuple[str, ...] = _key(values.functions, ())
    cache_bytes: int = _key(values.size(0, 1 << 36), 33554432)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Say where /metrics and the health pages are served, and who may see /sessions."""

    enabled: bool = _key(values.boolean, True)
    host: str = _key(values.host, "127.0.0.1")
    port: int = _key(values.integer(0, 65535), 9632)
    sessions_key: str = _key(values.bearer_key, "", secret=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Say how much is logged, and where."""

    level: str = _key(values.choice("debug", "info", "warning", "error"), "info")
    file: str = _key(values.text, "", path=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Say where the database of a name is that clients ask for, and its limits."""

    upstream: Upstream
    """Its `dbname` is the name on the server."""
    pool: PoolLimits
    max_client_conn: int = _key(values.integer(0, 1_000_000), 0)
    """Clients of this database at the same time; 0: no limit of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Hold the whole configuration. `load` makes it; tests may construct it themselves."""

    listen: Listen = Listen()
    auth: Auth = Auth()
    upstream: Upstream
    pool: PoolLimits = PoolLimits()
    client: ClientLimits = ClientLimits()
    filter: FilterConfig = FilterConfig()
    metrics: Metrics = Metrics()
    log: Log = Log()
    databases: Mapping[str, Database] = field(default_factory=dict)
    """By the names that clients ask for. Any other name is `upstream`'s, unless that has a dbname."""

    def database(self, name: str) -> Database | None:
        """Return where the database of this name is; None: it is not served."""
        found = self.databases.get(name)
        if found is None and self.upstream.dbname in ("", name):
            found = Database(upstream=replace(self.upstream, dbname=name), pool=self.pool)
        return found


SECTIONS: dict[str, type[Any]] = {
    "listen": Listen,
    "auth": Auth,
    "upstream": Upstream,
    "pool": PoolLimits,
    "client": ClientLimits,
    "filter": FilterConfig,
    "metrics": Metrics,
    "log": Log,
}


def changed(old: Config, new: Config) -> tuple[str, ...]:
    """Return the keys whose values differ, by name alone: some of the values are secrets."""
    keys = [
        f"{section}.{item.name}"
        for section, kind in SECTIONS.items()
        for item in fields(kind)
        if getattr(getattr(old, section), item.name) != getattr(getattr(new, section), item.name)
    ]
    names = {**old.databases, **new.databases}
    return (*keys, *(f"databases.{name}" for name in names if old.databases.get(name) != new.databases.get(name)))


def filter_policy(config: Config) -> Policy:
    """Return what the configuration decides about the filter."""
    return Policy(
        allow_functions=config.filter.allow_functions,
        allow_extensions=config.filter.allow_extensions,
        deny_functions=config.filter.deny_functions,
        max_query_length=config.client.max_query_length,
    )


def start_up_notes(config: Config) -> tuple[str, ...]:
    """Return what an operator should know at start-up about a configuration that is valid, one sentence each."""
    notes = []
    places = {"upstream": config.upstream} | {f"databases.{n}": each.upstream for n, each in config.databases.items()}
    for place, upstream in places.items():
        known = place != "upstream" and (upstream.host, upstream.sslmode) == (
            config.upstream.host,
            config.upstream.sslmode,
        )
        if (
            upstream.sslmode not in ("verify-full", "verify-ca")
            and not _LOOPBACK.fullmatch(upstream.host)
            and not known
        ):
            notes.append(
                f"{place}.sslmode is {upstream.sslmode}: the server's identity is not checked; use verify-full."
            )
    if config.listen.tls == "off" and not _LOOPBACK.fullmatch(config.listen.host):
        notes.append(
            f"listen.tls is off and listen.host is {config.listen.host}: what clients read travels over the network in"
            " the clear; use prefer or require."
        )
    if config.filter.mode == "observe":
        notes.append(
            "filter.mode is observe: what the filter would refuse is logged and LET THROUGH; only the read-only session"
            " and the role's privileges protect the server."
        )
    if not any(getattr(config.upstream, key) for key in (*PASSWORD_SOURCES, "sslcert")):
        notes.append("upstream.password is empty: this works only if the server asks the role for no password.")
    return tuple(notes)

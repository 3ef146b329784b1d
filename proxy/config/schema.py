"""What can be configured: every key with its form, its default and its meaning, as one frozen `Config`.

`load` makes it from config.yaml and the environment; `describe` writes config.yaml and docs/configuration.md, where the
docstring of a section is what stands above its keys. Durations are kept in seconds, sizes in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from proxy.config import values
from proxy.config.keys import Again, key, key_of
from proxy.config.values import Network
from proxy.sql.policy import Policy

_LOOPBACK = re.compile(r"localhost|::1|127(\.\d{1,3}){3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where clients connect, and with which certificate."""

    host: str = key(
        values.HOST,
        "127.0.0.1",
        meaning="address that clients connect to; `0.0.0.0`: every IPv4 address of the machine",
        more="`::` is every IPv6 address. A name stands for all of its addresses.",
    )
    port: int = key(values.integer(0, 65535), 6432, meaning="port that clients connect to; 0 takes any free one")
    tls: str = key(
        values.choice("off", "prefer", "require", "verify"),
        "prefer",
        meaning="TLS for clients: `off`, `prefer` (for those who ask), `require`, `verify` (and a certificate)",
        more="The Unix socket has no TLS, and needs none.",
    )
    tls_cert_file: str = key(
        values.PATH,
        "",
        meaning="PEM file: certificate and chain; empty: a self-signed one is made at start",
        again=Again.CHANGE,
    )
    tls_key_file: str = key(
        values.PATH,
        "",
        meaning="PEM file: its private key, for nobody else to read",
        more="It may belong to root, and be readable by a group then.",
        again=Again.CHANGE,
    )
    tls_ca_file: str = key(
        values.PATH,
        "",
        meaning="PEM file: the CAs of clients' certificates, for `verify` and the method `cert`",
        again=Again.CHANGE,
    )
    tls_crl_file: str = key(
        values.PATH,
        "",
        meaning="PEM file: lists of the revoked ones, of each of these CAs; empty: none is revoked",
        more="A certificate without a valid list of its CA is refused, as in PostgreSQL.",
        again=Again.CHANGE,
    )
    unix_socket_dir: str = key(
        values.PATH, "", meaning="folder of the Unix socket `.s.PGSQL.<port>`; empty: there is none"
    )
    unix_socket_mode: int = key(values.MODE, 0o777, meaning="its permissions")
    unix_socket_owner: str = key(
        values.TEXT,
        "",
        meaning="its owner, a name or a number; empty: who runs SideCart",
        more="Only root may give it away.",
    )
    unix_socket_group: str = key(
        values.TEXT,
        "",
        meaning="its group, a name or a number; empty: that of the process",
        more="Who is not root can choose among the groups that it belongs to.",
    )
    backlog: int = key(
        values.integer(1, 65535),
        1024,
        meaning="connections that may wait to be accepted",
        more="The system may allow fewer (`net.core.somaxconn`).",
    )


RULE_METHODS = ("trust", "scram-sha-256", "cert", "reject")
"""What a rule may ask of a client, in pg_hba.conf's words."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Who may come in, and how they prove who they are."""

    rules: tuple[AuthRule, ...] = key(
        values.RULES,
        (),
        meaning="in order, the first that fits decides: `[{from: 10.0.0.0/8, method: scram-sha-256}]`",
        more="A rule has `from` (`local`, `loopback`, `all`, an address or a network) and `method`"
        f" ({', '.join(f'`{method}`' for method in RULE_METHODS)}), and may have `database` and `user`, each a name or"
        " a list of names. Without rules loopback and the Unix socket are trusted, and all else needs a password. See"
        " [who may come in](access.md).",
    )
    users: tuple[tuple[str, str], ...] = key(
        values.USERS,
        (),
        meaning="names and their verifiers, made by `sidecart hash-password`",
        more="Without users, here and in the file, the read-only role's own name and password let in.",
        secret=True,
    )
    users_file: str = key(
        values.PATH,
        "",
        meaning='more of them, a line each: `"name" "SCRAM-SHA-256$..."`; for nobody else to read',
        more="A user of `auth.users` beats one of the same name in the file.",
        again=Again.CHANGE,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The PostgreSQL server, and the read-only role."""

    host: str = key(
        values.HOST,
        meaning="name of the PostgreSQL server, best that of a read replica",
        more="A path is the folder of the server's Unix socket.",
        variable="DB_HOST",
    )
    port: int = key(values.integer(1, 65535), 5432, meaning="its port", variable="DB_PORT")
    dbname: str = key(
        values.TEXT,
        "",
        meaning="the one database to serve; empty: any database that clients ask for",
        more="The databases of the section `databases` are served beside it.",
        variable="DB_NAME",
    )
    user: str = key(
        values.TEXT,
        meaning="the read-only role, see sql/readonly_role.sql",
        variable="DB_READONLY_USERNAME",
    )
    password: str = key(
        values.TEXT,
        "",
        meaning="its password; better in the environment",
        more="It comes from one source at most. See [the role's password](passwords.md).",
        variable="DB_READONLY_PASSWORD",
        secret=True,
    )
    password_file: str = key(
        values.PATH, "", meaning="file that holds it instead, for nobody else to read", again=Again.CONNECTION
    )
    password_command: str = key(
        values.TEXT,
        "",
        meaning="program, with its arguments, that prints it",
        more="No shell runs it; it has 10 seconds.",
        secret=True,
        again=Again.CONNECTION,
    )
    password_command_env: tuple[str, ...] = key(
        values.VARIABLES,
        (),
        meaning="variables that it gets beside the ordinary ones: `VAULT_ADDR, VAULT_TOKEN`",
        more="Ordinary are `PATH`, `HOME`, `LANG` and their like, `AWS_*`, and those of proxies.",
    )
    aws_secret: str = key(
        values.TEXT,
        "",
        meaning="ARN or name of a secret of AWS Secrets Manager that holds it",
        more="The secret is the password, or JSON with `username` and `password`, as RDS makes it.",
        again=Again.REFUSED,
    )
    aws_iam: bool = key(
        values.BOOLEAN,
        False,
        meaning="log in with a token of Amazon RDS's IAM authentication instead",
        more="It travels as a password: `sslmode` has to be `verify-full` or `verify-ca`.",
        again=Again.CONNECTION,
    )
    aws_region: str = key(
        values.TEXT,
        "",
        meaning="region of both; empty: that of the secret's ARN, the host's name, or the environment",
    )
    sslmode: str = key(
        values.choice(*values.SSL_MODES),
        "verify-full",
        meaning="as in libpq",
        variable="DB_SSLMODE",
    )
    sslrootcert: str = key(
        values.PATH,
        "",
        meaning="PEM file of CAs; empty: the system's and the shipped ones of Amazon RDS",
        more="`system`: the system's alone, with `verify-full`.",
        variable="DB_SSLROOTCERT",
        again=Again.SIGHUP,
    )
    sslcert: str = key(values.PATH, "", meaning="PEM file: the role's client certificate", again=Again.SIGHUP)
    sslkey: str = key(values.PATH, "", meaning="PEM file: its private key, for nobody else to read", again=Again.SIGHUP)
    sslnegotiation: str = key(
        values.choice(*values.SSL_NEGOTIATIONS),
        "postgres",
        meaning="`direct`: TLS from the first byte, for PostgreSQL 17 and later",
    )
    channel_binding: str = key(values.choice(*values.CHANNEL_BINDINGS), "prefer", meaning="of SCRAM, as in libpq")
    require_auth: tuple[str, ...] = key(
        values.REQUIRE_AUTH,
        (values.SCRAM, values.NONE),
        meaning="what the server may ask for, as in libpq",
        more="With `aws_iam` it is the password, whatever stands here.",
    )
    application_name: str = key(
        values.APPLICATION_NAME,
        "",
        meaning='what pg_stat_activity shows: `"{user}@{application}"`; empty: the client\'s own',
    )
    require_readonly_role: str = key(
        values.choice("warn", "refuse"),
        "warn",
        meaning="`refuse`: serve nobody as a role that can do more than read; `warn`: say so in the log",
        more="See [the role](role.md).",
    )
    allow_shared_sessions: bool = key(
        values.BOOLEAN,
        False,
        meaning="`true`: serve behind a pooler that shares the server's sessions, too",
        more="See [behind PgBouncer](pgbouncer.md).",
    )
    dns_max_ttl: float = key(
        values.duration(zero=False),
        5.0,
        meaning="how long an address of the host is believed",
        more="Upstream connections to an address that the name has no more are closed as soon as they are free.",
    )
    connect_timeout: float = key(
        values.duration(zero=False),
        10.0,
        meaning="longest time for a connection with its TLS and its login",
        variable="DB_CONNECT_TIMEOUT",
    )
    tcp_user_timeout: float = key(
        values.duration(zero=True),
        30.0,
        meaning="a connection that acknowledges nothing for this long is lost; 0: as the system has it",
        more="Linux only.",
    )


PASSWORD_SOURCES = ("password", "password_file", "password_command", "aws_secret", "aws_iam")
"""Keys of `Upstream` that say where the role's password comes from: one of them at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of the pools of upstream connections, one pool for each database."""

    default_pool_size: int = key(values.integer(1, 10_000), 10, meaning="upstream connections per database, at most")
    min_pool_size: int = key(
        values.integer(1, 10_000),
        2,
        meaning="upstream connections per database that are kept warm",
        more="Where it is not set it is no more than `default_pool_size`.",
    )
    max_logins: int = key(values.integer(1, 1000), 4, meaning="upstream logins per database at the same time")
    server_lifetime: float = key(
        values.duration(zero=False),
        3300.0,
        meaning="an upstream connection older than this is replaced, when it is free",
        more="Each has a tenth more or less, so that they do not all end at once.",
    )
    server_idle_timeout: float = key(
        values.duration(zero=True),
        600.0,
        meaning="an upstream connection beyond min_pool_size is closed when idle for this long; 0: never",
    )
    server_login_retry: float = key(
        values.duration(zero=False),
        15.0,
        meaning="longest wait after a failed upstream login; a second while clients wait",
        more="The first wait is a second, and each is twice as long as the one before.",
    )
    server_check_delay: float = key(
        values.duration(zero=True),
        10.0,
        meaning="a server that was silent for this long is asked for a sign of life; 0: never",
        more="It is asked on an idle connection, or on one of its own where all are busy.",
    )
    query_wait_timeout: float = key(
        values.duration(zero=True), 15.0, meaning="longest wait for a free upstream connection; 0: no limit"
    )
    query_wait_notify: float = key(
        values.duration(zero=True), 5.0, meaning="a client that waits longer is told so, by a NOTICE; 0: never"
    )
    cancel_wait_timeout: float = key(
        values.duration(zero=False),
        10.0,
        meaning="longest time in which a cancelled statement may end",
        more="After that its upstream connection is closed.",
    )
    max_prepared_statements: int = key(
        values.integer(1, 10_000), 200, meaning="prepared statements kept on each upstream connection"
    )
    retry: bool = key(
        values.BOOLEAN,
        True,
        meaning="run a statement again, once, if its upstream connection ends before the answer begins",
        more="Outside a transaction only, and not for a client that is pinned.",
    )
    retry_max_age: float = key(
        values.duration(zero=True),
        5.0,
        meaning="a statement that an administrator ended (57P01) is run again if it is younger; 0: never",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """What clients may hold, and for how long."""

    max_client_conn: int = key(values.integer(1, 1_000_000), 1000, meaning="clients at the same time")
    max_user_client_connections: int = key(values.integer(0, 1_000_000), 0, meaning="of them, by one user; 0: no limit")
    max_address_client_connections: int = key(
        values.integer(0, 1_000_000), 0, meaning="of them, from one address; 0: no limit"
    )
    connection_rate: float = key(
        values.RATE,
        0.0,
        meaning="logins a second of one user and of one address; 0: no limit",
        more="A second's worth may come at once.",
    )
    statement_rate: float = key(
        values.RATE,
        0.0,
        meaning="statements a second of one user and of one address; 0: no limit",
        more="A second's worth may come at once.",
    )
    client_login_timeout: float = key(
        values.duration(zero=False),
        15.0,
        meaning="longest time for a client's start-up, its TLS and its proof included",
    )
    client_idle_timeout: float = key(
        values.duration(zero=True), 0.0, meaning="a client that sends nothing for this long is closed; 0: never"
    )
    idle_transaction_timeout: float = key(
        values.duration(zero=True),
        300.0,
        meaning="a client that idles in a transaction for this long is closed; 0: never",
    )
    query_timeout: float = key(
        values.duration(zero=True), 0.0, meaning="a statement that runs longer is cancelled; 0: never"
    )
    slow_reader_timeout: float = key(
        values.duration(zero=True),
        300.0,
        meaning="a client that reads nothing of an answer for this long is closed; 0: never",
        more="Its statement is cancelled. Where others wait in vain for its upstream connection this comes sooner.",
    )
    half_close_grace: float = key(
        values.duration(zero=True),
        1.0,
        meaning="time for an answer, and for each next piece of it, to a client that sends no more (FIN)",
        more="It is answered what it has asked. When nothing has come for it for this long it is taken for gone, and"
        " its statement is cancelled.",
    )
    max_query_length: int = key(values.size(1024, 1 << 30), 1048576, meaning="longer SQL texts are refused")
    drain_timeout: float = key(
        values.duration(zero=True),
        30.0,
        meaning="at shutdown, how long running statements may take to finish",
        more="A second signal ends the wait.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterConfig:
    """What is taken for a read. Names are `function` or `schema.function`, and may have a `*`."""

    mode: str = key(
        values.choice("enforce", "observe"),
        "enforce",
        meaning="`observe`: what would be refused is logged, and let through; for a trial, never for good",
        more="See [observe](observe.md).",
    )
    catalog_refresh: float = key(
        values.duration(zero=True),
        60.0,
        meaning="longest time between two looks at functions, views and types; 0: for unknown names only",
        more="As a rule there are some seconds between them, and the connection is opened anew as often as this says."
        " With 0 there is one when the first client connects, one for each unknown name, and names are not resolved."
        " The role is looked at as often, but at most every five minutes.",
    )
    allow_functions: tuple[str, ...] = key(
        values.FUNCTIONS,
        (),
        meaning="functions that count as reads although nothing proves it: `[public.slugify]`",
        more="Operators (`public.@@`), views, types and foreign tables, too; `postgis.st_*` names several. See"
        " [functions and views of your own](functions.md).",
    )
    allow_extensions: tuple[str, ...] = key(
        values.EXTENSIONS,
        (),
        meaning="extensions that are trusted as a whole, with their types, operators and casts: `[unit]`",
        more="But for the functions of which SideCart knows that they do more than read.",
    )
    deny_functions: tuple[str, ...] = key(
        values.FUNCTIONS,
        (),
        meaning="functions that are refused although they are reads, with what calls them: `[pg_sleep]`",
    )
    cache_bytes: int = key(values.size(0, 1 << 36), 33554432, meaning="memory for remembered verdicts; 0: none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Where `/metrics` and the health pages are served, and who may see `/sessions`."""

    enabled: bool = key(values.BOOLEAN, True, meaning="serve `/metrics` for Prometheus, and the health pages")
    host: str = key(values.HOST, "127.0.0.1", meaning="address of these pages")
    port: int = key(values.integer(0, 65535), 9632, meaning="their port; 0 takes any free one")
    sessions_key: str = key(
        values.BEARER_KEY,
        "",
        meaning="key of `/sessions`, for `sidecart sessions`; empty: nobody is told who is connected",
        more="`openssl rand -hex 16` makes one. The page is told to loopback addresses alone.",
        secret=True,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """How much is logged, and where."""

    level: str = key(values.choice("debug", "info", "warning", "error"), "info", meaning="the least that is logged")
    file: str = key(values.PATH, "", meaning="file that the log goes to; empty: standard error", again=Again.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the database of a name is that clients ask for, and its limits."""

    upstream: Upstream
    """Its `dbname` is the name on the server."""
    pool: PoolLimits
    max_client_conn: int = key(
        values.integer(0, 1_000_000), 0, meaning="clients of this database at the same time; 0: no limit of its own"
    )


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

ENVIRONMENT_NAMES = {
    key_of(item).variable: (section, item.name)
    for section, kind in SECTIONS.items()
    for item in fields(kind)
    if key_of(item).variable
}
"""The short names of variables, each with its section and key."""


def watched(section: Listen | Auth) -> tuple[str, ...]:
    """Return the names of a section's files that are read again when one of them changes; empty ones are not set."""
    return tuple(getattr(section, item.name) for item in fields(section) if key_of(item).again is Again.CHANGE)


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

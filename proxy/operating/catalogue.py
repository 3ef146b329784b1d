"""Read and prove the catalogue of a database that a libpq connection string names: for `check` and `rules`.

What the string means is libpq's (manual, "Connection Strings"), defaults and environment variables included, so that
one that works with psql works here. It connects as the server does, read-only.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from urllib.parse import unquote

from proxy.config import values
from proxy.config.schema import Upstream
from proxy.databases.connector import Connector
from proxy.databases.helpers.messages import Results, encode_results
from proxy.databases.helpers.prover import ProofError, Prover
from proxy.errors import ConfigError, UpstreamError
from proxy.operating.usage import Unusable
from proxy.proofs import rows
from proxy.sql import tables
from proxy.sql.catalog import Catalog, Rows
from proxy.sql.policy import Policy
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.tls import contexts

_VARIABLES = {
    word: f"PG{word.upper()}"
    for word in ("host", "port", "dbname", "user", "password", "sslmode", "sslrootcert", "connect_timeout")
} | {
    "dbname": "PGDATABASE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "channel_binding": "PGCHANNELBINDING",
    "require_auth": "PGREQUIREAUTH",
}
"""The keywords that count here, and the variables that stand in for them, as in libpq."""
_IDLE = frozenset(
    {"application_name", "client_encoding", "fallback_application_name", "gssencmode", "keepalives"}
    | {"keepalives_count", "keepalives_idle", "keepalives_interval", "options", "sslcompression", "sslsni"}
    | {"target_session_attrs", "tcp_user_timeout"}
)
"""Keywords of libpq that change nothing of what is read."""

_URI = re.compile(
    r"""
    postgres(?:ql)?://
    (?: (?P<user>[^:@/]*) (?: : (?P<password>[^@/]*) )? @ )?
    (?: \[ (?P<address>[^\]]*) \] | (?P<host>[^:/?\[]*) ) (?: : (?P<port>\d*) )?
    (?: / (?P<dbname>[^?]*) )? (?: \? (?P<options>.*) )?
    """,
    re.VERBOSE | re.DOTALL,
)
_PAIR = re.compile(r"\s*(\w+)\s*=\s*(?:'((?:[^'\\]|\\.)*)'|(?!')((?:[^\s\\]|\\.)*))(?=\s|\Z)\s*", re.DOTALL)


class CatalogueError(Unusable):
    """Say in one sentence why a catalogue could not be read."""


def load(dsn: str) -> Rows:
    """Return the rows of the database that a connection string names. Raises CatalogueError."""
    return rows.decode(_read(parse(dsn, os.environ)))


def prove(dsn: str, policy: Policy) -> Catalog:
    """Return the proved catalogue of the database that a connection string names. Raises CatalogueError.

    It is proved where the server has it proved, in a helper process: PL/pgSQL's parser may end that.
    """
    upstream = parse(dsn, os.environ)
    results = encode_results(_read(upstream))
    try:
        return asyncio.run(prove_rows(results, policy))
    except ProofError as error:
        raise CatalogueError(f"The catalogue of {_where(upstream)} could not be judged: {error}.") from error


def _read(upstream: Upstream) -> Results:
    # Which functions a policy refuses is not known here: every built-in name can matter for a column.
    query = rows.load_query(tables.FUNCTIONS, whole=True)
    try:
        return asyncio.run(_fetch(upstream, query))
    except (ConfigError, UpstreamError) as error:
        why = (error.for_operator if isinstance(error, UpstreamError) else str(error)).rstrip(".")
        raise CatalogueError(f"The catalogue of {_where(upstream)} could not be read: {why}.") from error


def _where(upstream: Upstream) -> str:
    return f"{upstream.dbname} on {upstream.host} port {upstream.port}"


def parse(dsn: str, environ: Mapping[str, str], *, weakest: str = "prefer") -> Upstream:
    """Return the server that a connection string names, in URI or in keyword form. Raises CatalogueError.

    `weakest` is the sslmode where neither the string nor the environment has one.
    """
    words = _uri(dsn) if re.match(r"postgres(ql)?://", dsn) else _pairs(dsn)
    for word in words:
        if word not in _VARIABLES and word not in _IDLE:
            raise CatalogueError(
                f'The connection string has the keyword "{word}", which does not work here: leave it out;'
                f" {', '.join(_VARIABLES)} work."
            )

    def value(word: str, default: str) -> str:
        return words.get(word) or environ.get(_VARIABLES[word]) or default

    host = value("host", "localhost")
    if "," in host:
        raise CatalogueError("The connection string names several hosts: name the one whose catalogue is to be read.")
    user = value("user", "") or getpass.getuser()
    sslmode = value("sslmode", weakest)
    _word("sslmode", sslmode, values.SSL_MODES)
    return Upstream(
        host=host,
        port=_number(value("port", "5432"), "port", 65535),
        dbname=value("dbname", user),
        user=user,
        password=value("password", ""),
        sslmode=sslmode,
        sslrootcert=value("sslrootcert", ""),
        sslcert=value("sslcert", ""),
        sslkey=value("sslkey", ""),
        sslnegotiation=_word("sslnegotiation", value("sslnegotiation", "postgres"), values.SSL_NEGOTIATIONS),
        channel_binding=_word("channel_binding", value("channel_binding", "prefer"), values.CHANNEL_BINDINGS),
        # As in libpq, whatever the server asks for; a password in the clear goes over verified TLS alone.
        require_auth=tuple(
            _word("require_auth", method.strip(), values.REQUIRABLE)
            for method in value("require_auth", ",".join(values.REQUIRABLE)).split(",")
        ),
        # As in libpq, 0 means no limit; a program that nobody watches needs one.
        connect_timeout=float(_number(value("connect_timeout", "10"), "connect_timeout", 3600) or 3600),
    )


def _word(name: str, text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise CatalogueError(f'{name} is "{text}" in the connection string; it is one of {", ".join(words)}.')
    return text


def _number(text: str, word: str, highest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > highest:
        raise CatalogueError(f'{word} is "{text}" in the connection string; it is a number up to {highest}.')
    return int(text)


def _uri(dsn: str) -> dict[str, str]:
    found = _URI.fullmatch(dsn)
    if found is None:
        # The text is not repeated: it can hold a password.
        raise CatalogueError(
            "The connection string is no URI such as postgresql://user@host:5432/dbname?sslmode=require."
        )
    parts = found.groupdict(default="")
    words = {word: unquote(parts[word]) for word in ("user", "password", "host", "port", "dbname")}
    words["host"] = parts["address"] or words["host"]
    for option in filter(None, parts["options"].split("&")):
        word, _, value = option.partition("=")
        if option == "ssl=true":  # libpq takes it for JDBC's sake
            word, value = "sslmode", "require"
        words[unquote(word)] = unquote(value)
    return words


def _pairs(dsn: str) -> dict[str, str]:
    words: dict[str, str] = {}
    at = 0
    while at < len(dsn.rstrip()):
        found = _PAIR.match(dsn, at)
        if found is None:
            raise CatalogueError(
                "The connection string is neither a URI (postgresql://user@host/dbname) nor made of keyword=value"
                " pairs, such as 'host=db.example.com dbname=app user=reader'."
            )
        words[found[1]] = re.sub(r"\\(.)", r"\1", found[2] if found[2] is not None else found[3], flags=re.DOTALL)
        at = found.end()
    return words


@asynccontextmanager
async def visiting(upstream: Upstream) -> AsyncIterator[Connector]:
    """Give a connector to a server, for a command. Raises ConfigError for files that cannot be used."""
    bundled = resources.files("proxy").joinpath("data/rds-ca.pem").read_bytes()
    context = contexts.upstream_context(
        upstream.sslmode, upstream.sslrootcert, bundled, upstream.sslcert, upstream.sslkey
    )
    tasks = Tasks()
    try:
        yield Connector(upstream, context, Stats(), _Silent(), tasks, upstream.connect_timeout)
    finally:
        await tasks.stop()


async def _fetch(upstream: Upstream, query: bytes) -> Results:
    async with visiting(upstream) as connector:
        return await connector.fetch_once(upstream.dbname, query)


async def prove_rows(results: bytes, policy: Policy) -> Catalog:
    """Prove encoded rows in a helper process. Raises ProofError."""
    prover = Prover(Stats(), _Silent())
    try:
        return await prover.prove(results, policy)
    finally:
        await prover.close()


class _Silent:
    """An audit that keeps nothing: what goes wrong is said by the command."""

    def event(self, event: str, /, *, level: str = "info", **fields: str | int | float | bool | None) -> None:
        pass

"""What `check` and `rules` share: the policy of a configuration without its server, and the live catalogue of another.

Whatever cannot be had is an `Unusable` with one sentence; both verbs print it and end with exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from proxy.config import schema as configuration
from proxy.config.load import load
from proxy.errors import ConfigError
from proxy.filter import Filter
from proxy.operating.usage import ANY_UPSTREAM, F, Unusable, config_option
from proxy.sql.policy import Policy

STDIN = 0
"""The file descriptor itself: `sys.stdin` is None where it was closed."""


def options(command: F) -> F:
    """Add the options that say what counts as a read."""
    for decorate in reversed(
        (
            config_option("config.yaml: its section filter and client.max_query_length hold here, too."),
            click.option(
                "--allow-function",
                "allowed",
                multiple=True,
                metavar="NAME",
                help="A function that counts as a read, as in filter.allow_functions. May be repeated.",
            ),
            click.option(
                "--server-version",
                type=click.IntRange(10, 99),
                metavar="MAJOR",
                help="Major version of the server, such as 15. Default: the newest one that the parser knows.",
            ),
            click.option(
                "--catalog",
                "dsn",
                metavar="DSN",
                help="Read functions, views and types from this database first, and prove them. For example"
                " 'host=db.example.com dbname=app user=reader'.",
            ),
        )
    ):
        command = decorate(command)
    return command


def echo(text: str) -> None:
    """Print a line; a character that standard output cannot show becomes a question mark."""
    encoding = sys.stdout.encoding
    click.echo(text.encode(encoding, "replace").decode(encoding))


def read(file: Path | str) -> bytes:
    """Return a file's bytes; `-` is standard input."""
    standard = str(file) == "-"
    try:
        with open(STDIN if standard else file, "rb", closefd=not standard) as opened:
            return opened.read()
    except OSError as error:
        raise Unusable(f"{file} cannot be read: {error.strerror}.") from error


def text(file: Path | str) -> str:
    """Return a file's text, without the byte order mark that editors on Windows write."""
    data = read(file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unusable(f"{file}, line {line}: this is not UTF-8 text.") from error


def policy(
    config_file: Path | None, allowed: tuple[str, ...], server_version: int | None, environ: Mapping[str, str]
) -> Policy:
    """Return the policy that `sidecart serve` would have by this configuration, with what the options add."""
    # No connection is made with the upstream that serve would need, so where it is missing anything will do.
    try:
        config = load(
            None if config_file is None else text(config_file),
            {**ANY_UPSTREAM, **environ},
            source=str(config_file),
        )
    except ConfigError as error:
        raise Unusable(str(error)) from error
    found = configuration.filter_policy(config)
    return replace(
        found,
        allow_functions=(*found.allow_functions, *allowed),
        server_version=(server_version or 0) * 10000,
    )


def learn(judge: Filter, dsn: str) -> None:
    """Let a filter judge by the live catalogue of a database, and for its version unless the policy names one."""
    from proxy.operating import catalogue  # asyncio and TLS: nothing that a check of a file needs

    found = catalogue.prove(dsn, judge.policy)
    judge.learn_version(judge.policy.server_version or found.version)
    judge.learn_catalog(found)


def page(rule: str) -> str:
    """Return where the page about a rule stands in the project."""
    return f"docs/rules/{rule}.md"

"""`sidecart preflight`: before and after a deployment, look at each piece of it, and say what is wrong and the fix."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from proxy.config import schema as configuration
from proxy.config.schema import Config, Upstream
from proxy.errors import ConfigError
from proxy.operating import terminal
from proxy.operating.offline import echo
from proxy.operating.usage import config_option, configured
from proxy.preflight import pieces, reaching
from proxy.preflight.inspection import Inspection
from proxy.preflight.own_doors import USER, OwnDoors
from proxy.preflight.pieces import Fine, Result, State, Step
from proxy.tls import contexts

FAILED = 1
"""Exit code when a piece has failed."""
WIDTH: Final = 120
_COLUMNS: Final = "{:<8} {:<14} "
_INDENT: Final = " " * len(_COLUMNS.format("", ""))
_PATIENCE: Final = 60.0
"""Seconds that a piece may take beside three times connect_timeout: of a large database the catalogue is read."""
_UNKNOWN: Final = Upstream(host="localhost", user="nobody")


@click.command(epilog="Exit code: 0 when nothing failed, 1 when something did, 2 for wrong options.")
@config_option("The config.yaml that `sidecart serve` reads; without it, the same environment.")
@click.option("--dbname", help="Look at this database. Default: each one that the configuration names.")
@click.option(
    "--user", default=USER, metavar="NAME", help="Log in to SideCart as this user; its password is in PGPASSWORD."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array: an object for each piece.")
def command(config_file: Path | None, dbname: str | None, user: str, as_json: bool) -> None:
    """Say what is wrong with a deployment.

    Each piece is looked at, from the configuration to the metrics, and of what has failed the fix is said. Run it
    before and after: what is not deployed yet is skipped.
    """
    found: list[Result] = []

    def show(result: Result) -> None:
        if not as_json:
            before = found[-1].database if found else ""
            if result.database != before:
                echo(f"-- {terminal.visible(result.database) or 'SideCart itself'}")
            echo("\n".join(lines(result)))
            sys.stdout.flush()
        found.append(result)

    ended = reaching.run(look(config_file, dbname, user, show))
    if as_json:
        click.echo(json.dumps([as_object(result) for result in found], indent=2))
    else:
        echo(f"\n{summary(found)}")
    code = FAILED if any(result.state is State.FAILED for result in found) else 0
    if not ended:  # a file on a disk that is gone, say: whoever waits for the exit code gets it all the same
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


async def look(config_file: Path | None, dbname: str | None, user: str, show: Callable[[Result], None]) -> None:
    """Look at each piece in turn and show its result. Raises nothing that can be expected."""
    failed: dict[str, str] = {}
    config = Config(upstream=_UNKNOWN)

    async def read() -> Fine:
        nonlocal config
        config = configured(config_file)
        check(config)
        where = str(config_file) if config_file else "the environment"
        names = [
            f"{name or 'any database'} on {place(upstream)}" for name, upstream in databases(config, dbname).items()
        ]
        return Fine(f"{where}: {'; '.join(names)}", configuration.start_up_notes(config))

    steps = [Step(pieces.CONFIGURATION, (), read)]
    await pieces.go_through(steps, show, failed, seconds=_PATIENCE)
    upstreams = {"": _UNKNOWN} if failed else databases(config, dbname)
    several = len(upstreams) > 1
    policy = configuration.filter_policy(config)
    for name, upstream in upstreams.items():
        await pieces.go_through(
            Inspection(upstream, policy).steps(),
            show,
            dict(failed),
            seconds=_PATIENCE + 3 * upstream.connect_timeout,
            database=name if several else "",
        )
    doors = OwnDoors(config, [name for name, upstream in upstreams.items() if upstream.dbname], user, os.environ)
    seconds = _PATIENCE + 3 * config.upstream.connect_timeout * len(upstreams)
    await pieces.go_through(doors.steps(), show, failed, seconds=seconds)


def check(config: Config) -> None:
    """Raise ConfigError for TLS files of the clients' door that the server would not start with."""
    listen = config.listen
    if listen.tls != "off":
        names = (listen.tls_cert_file, listen.tls_key_file, listen.tls_ca_file, listen.tls_crl_file)
        contexts.client_side(*names, demand_certificate=listen.tls == "verify")


def databases(config: Config, dbname: str | None) -> dict[str, Upstream]:
    """Return where the databases are, by the names that clients ask for; one without a name, where none has one.

    Raises ConfigError for a name that is not served.
    """
    names = [dbname] if dbname else list(dict.fromkeys([*filter(None, [config.upstream.dbname]), *config.databases]))
    if not names:
        return {"": config.upstream}
    found = {}
    for name in names:
        database = config.database(name)
        if database is None:
            raise ConfigError(f"The database {name} is not served by this configuration: see upstream.dbname.")
        found[name] = database.upstream
    return found


def place(upstream: Upstream) -> str:
    """Say where an upstream is, and as whom it is logged in to."""
    return f"{upstream.host} port {upstream.port} as {upstream.user}"


def lines(result: Result) -> list[str]:
    """Return what a person reads of one piece: its line, and below it the fix and the notes."""
    rows = _wrapped(_COLUMNS.format(result.state.value, result.piece), result.says)
    if result.fix:
        rows += _wrapped(_INDENT, f"fix: {result.fix}")
    for note in result.notes:
        rows += _wrapped(_INDENT, f"note: {note}")
    return rows


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        terminal.visible(text), WIDTH, initial_indent=head, subsequent_indent=_INDENT, break_on_hyphens=False
    ) or [head.rstrip()]


def summary(found: list[Result]) -> str:
    """Return the last line."""
    failed = list(dict.fromkeys(result.piece for result in found if result.state is State.FAILED))
    missing = [result.piece for result in found if result.says.startswith(pieces.NOT_DEPLOYED)]
    later = f" Not deployed yet: {', '.join(missing)}." if missing else ""
    if failed:
        return f"Failed: {', '.join(failed)}.{later}"
    return f"Nothing failed.{later}"


def as_object(result: Result) -> dict[str, Any]:
    """Return what --json says of a piece."""
    return {**dataclasses.asdict(result), "state": result.state.value, "notes": list(result.notes)}

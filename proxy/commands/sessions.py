"""`sidecart sessions`: who is connected through the SideCart that runs on this machine, and what each does."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
from pathlib import Path
from typing import Final

import click
import msgspec

from proxy.config.schema import Config
from proxy.errors import ConfigError, SideCartError
from proxy.operating import terminal
from proxy.operating.asking import NoAnswerError, fetch
from proxy.operating.offline import echo
from proxy.operating.usage import UNUSABLE, complain, config_option, configured
from proxy.sql.literals import NAMEDATALEN

SILENT = 1
"""Exit code when nobody answers."""
NOBODY: Final = "nobody is connected"
LONGEST: Final = NAMEDATALEN - 1
"""Columns of a name where no terminal bounds them: bytes that PostgreSQL keeps of one."""
_HEADS: Final = ("user", "database", "application", "address", "state", "since", "statement", "upstream pid", "pins")
_NUMBERS: Final = (5, 7)


class Row(msgspec.Struct, frozen=True):
    """One client, as /sessions tells of it (proxy/clients/activity.py)."""

    id: int
    user: str
    database: str
    application: str
    address: str
    state: str
    since: float
    statement: str
    upstream_pid: int | None
    pins: str


@click.command(epilog="Exit code: 0, 1 when no SideCart answers here, 2 for a wrong configuration.")
@config_option("The config.yaml that `sidecart serve` reads; without it, the same environment.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array: an object for each client.")
def command(config_file: Path | None, as_json: bool) -> None:
    """Show who is connected through SideCart.

    The SideCart that runs on this machine is asked: who is there, since when, and what each does. It answers those who
    have its metrics.sessions_key, as whoever can read its configuration does.
    """
    try:
        rows = ask(configured(config_file, upstream=False))
    except ConfigError as error:
        complain(str(error))
        sys.exit(UNUSABLE)
    except SideCartError as error:
        complain(str(error))
        sys.exit(SILENT)
    if as_json:
        # json and not msgspec, which leaves DEL and the C1 controls of a client's own name as they are.
        click.echo(json.dumps([msgspec.to_builtins(row) for row in rows], indent=2))
        return
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    echo("\n".join(listing(rows, columns)))


def ask(config: Config) -> list[Row]:
    """Fetch the clients of the process with this configuration, the one that came first first.

    Raises NoAnswerError, and with it the sentence for what is wrong.
    """
    key = config.metrics.sessions_key
    if not key:
        raise NoAnswerError(
            "metrics.sessions_key is empty, so nobody is told who is connected: set it, or"
            " SIDECART_METRICS_SESSIONS_KEY, for `sidecart serve` and here.",
            asked=False,
        )
    status, page = fetch(config, "/sessions", key)
    return read(status, page, config.metrics.host)


def read(status: int, page: bytes, host: str) -> list[Row]:
    """Return the rows of a page, which metrics.host `host` has served. Raises NoAnswerError."""
    if status == http.client.FORBIDDEN:
        raise NoAnswerError(
            f"SideCart tells who is connected to loopback addresses alone, and metrics.host is {host}: set it to"
            " 127.0.0.1, or to 0.0.0.0, and ask on the same machine."
        )
    if status == http.client.UNAUTHORIZED:
        raise NoAnswerError("The SideCart that runs here has another metrics.sessions_key.")
    if status == http.client.NOT_FOUND:
        raise NoAnswerError("What runs here has no page of that name: it was started without metrics.sessions_key.")
    try:
        if status == http.client.OK:
            return msgspec.json.decode(page, type=list[Row])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    raise NoAnswerError(f"The page has status {status}, and is none of this version of SideCart's.")


def listing(rows: list[Row], columns: int) -> list[str]:
    """Return the lines that a person reads, in so many columns."""
    if not rows:
        return [NOBODY]
    cells = [
        (
            *(terminal.cut(name, LONGEST) for name in (row.user, row.database, row.application, row.address)),
            row.state,
            terminal.duration(row.since),
            row.statement,
            "" if row.upstream_pid is None else str(row.upstream_pid),
            row.pins,
        )
        for row in rows
    ]
    return terminal.table(_HEADS, cells, columns, right=_NUMBERS)

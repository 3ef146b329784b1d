"""`sidecart demo`: an embedded PostgreSQL with a sample shop behind SideCart, in a few seconds and without a trace."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import click

from proxy.config.schema import Config, Listen, Log, Metrics, Upstream
from proxy.demo import shop
from proxy.demo.embedded import EmbeddedError, EmbeddedServer, find_tool
from proxy.errors import ConfigError
from proxy.operating.starting import explain, taken

_HOST = "127.0.0.1"


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=6432, show_default=True, help="Port for clients.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), default=9632, show_default=True, help="Port for metrics."
)
def command(port: int, metrics_port: int) -> None:
    """Try SideCart on a sample database of its own. Ctrl-C ends it and removes everything."""
    with _termination_as_interrupt():
        try:
            code = demo(port, metrics_port)
        except KeyboardInterrupt:
            code = 130
    if code in (0, 130):
        click.echo("Stopped; nothing is left of it.")
    sys.exit(code)


def demo(port: int, metrics_port: int) -> int:
    """Start everything, serve until interrupted, stop everything; return the exit code."""
    for option, number in (("--port", port), ("--metrics-port", metrics_port)):
        if taken(_HOST, number):
            click.echo(
                f"Port {number} of {_HOST} is in use by another program: stop that program, or choose another port with"
                f" {option}.",
                err=True,
            )
            return 1

    from proxy.server import run

    started = time.monotonic()
    click.echo("Starting an embedded PostgreSQL …")
    try:
        with EmbeddedServer() as postgres:
            click.echo(f"PostgreSQL {postgres.version} runs on {_HOST}:{postgres.port}, in {postgres.folder}.")
            access = shop.create(postgres)
            logins = _write_logins(postgres, access)
            click.echo(f"The sample database {access.dbname} has 200,000 rows; SideCart logs in as {access.reader}.")
            config = Config(
                listen=Listen(host=_HOST, port=port),
                upstream=Upstream(
                    host=postgres.host,
                    port=postgres.port,
                    dbname=access.dbname,
                    user=access.reader,
                    password=access.reader_password,
                    sslmode="verify-full",
                    sslrootcert=str(postgres.ca_file),
                ),
                metrics=Metrics(host=_HOST, port=metrics_port),
                log=Log(level="error"),  # the holes that are there to be found would make warnings
            )
            try:
                return run(config, on_ready=_welcome(config, started, logins))
            except OSError as error:
                click.echo(explain(error, config), err=True)
            except ConfigError as error:
                click.echo(str(error), err=True)
            return 1
    except EmbeddedError as error:
        click.echo(str(error), err=True)
        return 1


def _write_logins(postgres: EmbeddedServer, access: shop.Shop) -> Path:
    """Write what `sidecart doctor` and `sidecart role` log in with, for the shell to read; it goes with the rest."""
    variables = {
        "DB_HOST": postgres.host,
        "DB_PORT": str(postgres.port),
        "DB_NAME": access.dbname,
        "DB_SSLMODE": "verify-full",
        "DB_SSLROOTCERT": str(postgres.ca_file),
        "DB_READONLY_USERNAME": access.reader,
        "DB_READONLY_PASSWORD": access.reader_password,
        "DB_ADMIN_USERNAME": access.owner,
        "DB_ADMIN_PASSWORD": access.owner_password,
    }
    path = postgres.folder / "logins.sh"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    return path


def _welcome(config: Config, started: float, logins: Path) -> Callable[[], None]:
    def ready() -> None:
        listen, metrics = config.listen, config.metrics
        psql = shlex.quote(_psql())
        to_shop = f'{psql} "host={listen.host} port={listen.port} dbname={config.upstream.dbname} user=analyst"'

        def paste(statement: str) -> str:
            return f'  {to_shop} -c "{statement}"'

        lines = (
            f"SideCart listens on {listen.host}:{listen.port}, ready after {time.monotonic() - started:.1f} s."
            " Paste into another terminal:",
            "",
            "  # reads",
            paste("select count(*) from orders"),
            paste("select * from monthly_revenue order by month limit 3"),
            "",
            "  # refused: a write, and a write that hides in a SELECT",
            paste("delete from orders"),
            paste("select cancel_order(1)"),
            "",
            "  # what the role itself could do, and how to take it away",
            f"  (. {shlex.quote(str(logins))}; {_sidecart()} doctor)",
            f"  (. {shlex.quote(str(logins))}; {_sidecart()} role --apply --revoke-public)",
            "",
            "  # what was counted",
            f"  curl -s http://{metrics.host}:{metrics.port}/metrics | grep sidecart_",
            "",
            "Ctrl-C stops SideCart and PostgreSQL and removes everything.",
        )
        click.echo("\n".join(lines))

    return ready


def _sidecart() -> str:
    """Return the command that this is, as a shell finds it."""
    beside = Path(sys.executable).with_name("sidecart")
    if shutil.which("sidecart") == str(beside):
        return "sidecart"
    return shlex.quote(str(beside)) if beside.exists() else f"{shlex.quote(sys.executable)} -m proxy"


def _psql() -> str:
    tool = find_tool("psql")
    return "psql" if tool is None or str(tool) == shutil.which("psql") else str(tool)


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as Ctrl-C does, so that everything is removed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM, signal.SIGHUP]
    # Under nohup the terminal may close.
    before = {number: signal.getsignal(number) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

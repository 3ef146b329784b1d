"""`sidecart health`: ask the running process on this machine how it is, for a container's health check."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy.config.schema import Config
from proxy.errors import ConfigError
from proxy.operating.asking import NoAnswerError, fetch, judge
from proxy.operating.usage import config_option, configured


@click.command()
@config_option("The config.yaml that `sidecart serve` reads; without it, the same environment.")
@click.option("--live", is_flag=True, help="Ask only whether the process works; the upstream plays no part.")
def command(config_file: Path | None, live: bool) -> None:
    """Say whether the SideCart that runs here would serve a client; exit with 0 if so, else with 1."""
    try:
        well, line = ask(configured(config_file, upstream=False), live=live)
    except ConfigError as error:
        well, line = False, " ".join(str(error).splitlines())
    click.echo(line, err=not well)
    sys.exit(0 if well else 1)


def ask(config: Config, *, live: bool) -> tuple[bool, str]:
    """Fetch /readyz, or /healthz, of the process with this configuration; return whether all is well, and a line."""
    try:
        status, page = fetch(config, "/healthz" if live else "/readyz")
    except NoAnswerError as error:
        return False, f"{'dead' if error.asked else 'unknown'}: {error}"
    return judge(status, page, live=live)

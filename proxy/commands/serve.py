"""`sidecart serve`: read the configuration, then serve until SIGTERM or SIGINT."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from proxy import config as configuration
from proxy.commands.starting import explain
from proxy.commands.usage import UNUSABLE, complain, config_option, configured
from proxy.errors import ConfigError, InUseError


@click.command()
@config_option("config.yaml; without it, the environment alone decides (DB_HOST, DB_READONLY_USERNAME …).")
def command(config_file: Path | None) -> None:
    """Serve clients until SIGTERM or Ctrl-C, then let running statements finish."""
    sys.exit(serve(config_file))


def serve(file: Path | None) -> int:
    """Run the server and return the exit code: 2 for a wrong configuration, 1 for a port that cannot be had."""
    try:
        config = configured(file)
    except ConfigError as error:
        complain(str(error))
        return UNUSABLE
    for note in configuration.start_up_notes(config):
        complain(note)

    from proxy.server import run

    try:
        return run(config)
    except ConfigError as error:
        complain(str(error))
        return UNUSABLE
    except InUseError as error:
        complain(str(error))
        return 1
    except OSError as error:
        complain(explain(error, config))
        return 1

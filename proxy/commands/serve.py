"""`sidecart serve`: read the configuration, then serve until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from proxy import config as configuration
from proxy.commands.starting import explain
from proxy.commands.usage import UNUSABLE, complain, config_option
from proxy.errors import ConfigError
from proxy.loading import load


@click.command()
@config_option("config.yaml; without it, the environment alone decides (DB_HOST, DB_READONLY_USERNAME …).")
def command(config_file: Path | None) -> None:
    """Serve clients until SIGTERM or Ctrl-C, then let running statements finish."""
    sys.exit(serve(config_file))


def serve(file: Path | None) -> int:
    """Run the server and return the exit code: 2 for a wrong configuration, 1 for a port that cannot be had."""
    try:
        config = _load(file)
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
    except OSError as error:
        complain(explain(error, config))
        return 1


def _load(file: Path | None) -> configuration.Config:
    if file is None:
        if not (os.environ.get("DB_HOST") or os.environ.get("SIDECART_UPSTREAM_HOST")):
            raise ConfigError(
                "There is no configuration: name a file with -c config.yaml, or set DB_HOST, DB_READONLY_USERNAME and"
                " DB_READONLY_PASSWORD in the environment."
            )
        return load(None, os.environ)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: this is not UTF-8 text.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    return load(text, os.environ, source=str(file))

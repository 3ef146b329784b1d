"""`sidecart serve`: read the configuration, then serve until SIGTERM or SIGINT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from proxy.config import schema as configuration
from proxy.config.load import load
from proxy.config.schema import Config
from proxy.errors import ConfigError, InUseError
from proxy.operating.starting import explain
from proxy.operating.usage import UNUSABLE, complain, config_option, configured
from proxy.system import files


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
        return run(config, read_again=None if file is None else lambda: read_again(file))
    except ConfigError as error:
        complain(str(error))
        return UNUSABLE
    except InUseError as error:
        complain(str(error))
        return 1
    except OSError as error:
        complain(explain(error, config))
        return 1


def read_again(file: Path) -> Config:
    """Read the configuration as it stands in the file by now. Raises ConfigError.

    While clients are served nobody waits for it: what was a pipe at the start (`-c <(…)`) is not read again.
    """
    try:
        return load(files.read(str(file), files.SMALL).decode("utf-8"), os.environ, source=str(file))
    except files.FileError as error:
        raise ConfigError(f"{file} {error}.") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: this is not UTF-8 text.") from None

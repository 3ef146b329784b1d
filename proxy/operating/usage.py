"""What the verbs do in the same way: find and read the configuration, and say that something cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from proxy.config.load import load
from proxy.config.schema import Config
from proxy.errors import ConfigError

UNUSABLE = 2
"""Exit code for wrong options, and for what cannot be read."""

F = TypeVar("F", bound=Callable[..., Any])


class Unusable(click.ClickException):
    """Say that an option, a file or a database cannot be used."""

    exit_code = UNUSABLE

    def show(self, file: Any = None) -> None:
        complain(self.message)


def complain(text: str) -> None:
    """Print lines for the person at the terminal to standard error."""
    for line in text.splitlines():
        click.echo(f"sidecart: {line}", err=True)


def config_option(says: str) -> Callable[[F], F]:
    """Return the option that names config.yaml, as the parameter `config_file`."""
    return click.option(
        "-c", "--config", "config_file", envvar="SIDECART_CONFIG", type=click.Path(path_type=Path), help=says
    )


ANY_UPSTREAM: Final = {"DB_HOST": "localhost", "DB_READONLY_USERNAME": "nobody"}
"""Stands for the upstream where no connection is made with it, and only the rest of a configuration counts."""


def configured(file: Path | None, *, upstream: bool = True) -> Config:
    """Read the configuration of a server: the file, or the environment alone. Raises ConfigError.

    Where not `upstream`, it may be missing: who asks the process that runs here needs to know of its pages only.
    """
    environ = dict(os.environ) if upstream else {**ANY_UPSTREAM, **os.environ}
    if file is None:
        if not (environ.get("DB_HOST") or environ.get("SIDECART_UPSTREAM_HOST")):
            raise ConfigError(
                "There is no configuration: name a file with -c config.yaml, or set DB_HOST, DB_READONLY_USERNAME and"
                " DB_READONLY_PASSWORD in the environment."
            )
        return load(None, environ)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: this is not UTF-8 text.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    return load(text, environ, source=str(file))

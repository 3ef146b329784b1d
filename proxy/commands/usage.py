"""What the verbs say in the same way: where config.yaml is, and that something cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

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

"""`sidecart hash-password`: turn a password into the verifier that `auth.users` and the users file hold."""

from __future__ import annotations

import sys

import click

from proxy.auth.scram import ITERATIONS, make_verifier
from proxy.auth.users import users_file_line
from proxy.operating.usage import Unusable


@click.command()
@click.argument("user", required=False)
@click.option(
    "--iterations",
    type=click.IntRange(4096, 10_000_000),
    default=ITERATIONS,
    show_default=True,
    help="Rounds of hashing: more make guessing slower, and each login of the client too.",
)
def command(user: str | None, iterations: int) -> None:
    """Print the SCRAM-SHA-256 verifier of a password, or with USER its line for `auth.users_file`.

    The password is asked for twice on a terminal, and read from standard input elsewhere: its first line.
    """
    verifier = make_verifier(_password(), iterations)
    if user is not None and (not user or not user.isprintable()):
        raise Unusable("USER must be a name without control characters.")
    click.echo(verifier.text if user is None else users_file_line(user, verifier))


def _password() -> str:
    if sys.stdin.isatty():
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt="Once more", err=True))
    else:
        raw = sys.stdin.buffer.readline().removesuffix(b"\n").removesuffix(b"\r")
        password = raw.decode("utf-8", "surrogateescape")
    if not password or "\0" in password:
        raise Unusable("The password is empty; SCRAM needs one." if not password else "A password has no NUL byte.")
    return password

"""The `sidecart` command: it finds the verb's file in `proxy/commands` and runs it."""

from __future__ import annotations

import importlib

import click

from proxy import __version__

VERBS = ("check", "demo", "doctor", "hash-password", "health", "preflight", "role", "rules", "serve", "sessions")
"""Each verb is a module of proxy.commands, `-` written `_`, that holds a click command named `command`."""


class _Verbs(click.Group):
    """Load a verb when it is asked for: `serve` needs nothing of what `demo` needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"proxy.commands.{cmd_name.replace('-', '_')}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"proxy.commands.{cmd_name}.command must be a click command")
        return command


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sidecart", message="%(prog)s %(version)s")
def main() -> None:
    """Let clients read a production PostgreSQL database, and nothing else."""

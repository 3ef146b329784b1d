"""Compare the resolver with PostgreSQL in schemas that hypothesis makes, and that stand in the way of what is built in.

A finding is made as small as can be: its objects, the search_path and the statement are printed. Another seed gives
other schemas: `python -m tests.fuzz.fuzz_names --seed S --seconds N --version V`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import click
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests import servers
from tests.oracle import runs, schemas

AT_ONCE = 25
"""Schemas before the clock is looked at."""


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long to go on.")
@click.option("--seed", "number", default=1, show_default=True, help="Of the first schemas.")
@click.option("--version", default=15, show_default=True, help="The server's major version.")
def main(seconds: float, number: int, version: int) -> None:
    """Compare; exit with 1 if there is a miss, or the resolver fails."""
    counts: Counter[str] = Counter()
    failed = False
    with servers.running(version, settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as server:

        @settings(
            max_examples=AT_ONCE,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(schemas.objects, st.sampled_from(schemas.PATHS), st.integers(0, 1 << 30))
        def hold(made: list[str], path: str, of_statements: int) -> None:
            found = schemas.compare(server, made, path, of_statements)
            counts["schemas"] += 1
            counts["statements"] += found.tally.statements
            counts["taken by the server"] += found.tally.taken
            counts["precise"] += found.tally.precise
            assert not schemas.wrong(found), runs.report(found, path, 0, 5, 2)

        started = time.monotonic()
        first = number
        while not failed and time.monotonic() < started + seconds:
            try:
                seed(number)(hold)()
            except AssertionError as error:
                failed = True
                click.echo(f"FOUND --seed {number} --version {version}: {error}\n{getattr(error, '__notes__', '')}")
            number += 1
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    click.echo(f"PostgreSQL {version}, seeds {first} to {number - 1}, {time.monotonic() - started:.0f} s: {told}")
    sys.exit(failed)


if __name__ == "__main__":
    main()

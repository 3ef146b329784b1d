"""`python -m tests.oracle`: compare the resolver with a server, and print what is amiss grouped by cause."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Sequence

from tests import servers
from tests.oracle import ran, reporting, runs
from tests.oracle.branching import Branching
from tests.oracle.compare import UNSOUND
from tests.oracle.statements import SOURCES, sources


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 where something unsound was found."""
    options = _options(arguments)
    branching = Branching() if options.branches else None
    with branching or contextlib.nullcontext():
        worst = _run(options) if options.run else _analyse(options)
    if branching is not None:
        print(branching.report())
    return worst


def _analyse(options: argparse.Namespace) -> int:
    worst = 0
    for version in options.version or [15]:
        with servers.running(version, settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
            for path in options.path or runs.PATHS[options.hostile]:
                started = time.monotonic()
                found = runs.run(
                    server,
                    options.source or sources(in_field=options.field),
                    options.limit,
                    hostile=options.hostile,
                    in_field=options.field,
                    path=path,
                    seed=options.seed,
                    only=options.sql,
                    wanted=options.wanted,
                    seconds=options.seconds,
                )
                seconds = time.monotonic() - started
                where = f"PostgreSQL {version}{', hostile' if options.hostile else ''}, search_path {path}"
                print(runs.report(found, where, seconds, options.causes, options.examples))
                if options.unpicked:
                    for kind, by_reason in found.tally.unpicked.items():
                        for why, each in by_reason.items():
                            print(*(f"never picked: {kind} {name}: {why}" for name in each), sep="\n")
                worst |= any(miss.problem in UNSOUND for miss in found.misses)
    return worst


def _run(options: argparse.Namespace) -> int:
    """Run statements, and compare what ran with what is judged."""
    worst = 0
    for version in options.version or [15]:
        with servers.running(version, settings=reporting.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
            reporting.create(server)
            found = ran.run(server, ran.learn(server), options.limit, seed=options.seed)
            print(f"# PostgreSQL {version}", ran.report(found), sep="\n")
            worst |= bool(found.misses)
    return worst


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--version", type=int, action="append", help="a major version (15); may be given again")
    parser.add_argument("--source", action="append", choices=SOURCES, help="where statements come from (all); again")
    parser.add_argument("--limit", type=int, default=5000, help="statements of each source (5000)")
    parser.add_argument("--run", action="store_true", help="run statements, and see what runs beside what is judged")
    parser.add_argument("--wanted", type=int, help="stop at so many that the server takes, by normal form")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many, for each path")
    parser.add_argument("--hostile", action="store_true", help="with overloads of what is built in")
    parser.add_argument("--field", action="store_true", help="what programs and people ask, in a database for it")
    parser.add_argument("--path", action="append", help="the search_path; may be given again")
    parser.add_argument("--seed", default="1", help="of what is chosen at random")
    parser.add_argument("--causes", type=int, default=40, help="how many causes are printed (40)")
    parser.add_argument("--examples", type=int, default=3, help="how many details of each (3)")
    parser.add_argument("--branches", action="store_true", help="name the resolver's branches that are not taken: slow")
    parser.add_argument("--unpicked", action="store_true", help="name what the server has never picked")
    parser.add_argument("--sql", action="append", help="this statement only; may be given again")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

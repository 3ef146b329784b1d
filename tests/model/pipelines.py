"""Perform sketches by their seeds, and show what differs: `python -m tests.model.pipelines --seeds 0:20000 --pool 1`.

What differs is made short, and printed in the notation of tests/model/sketch.py; `--sketch FILE` performs one from a
file. The exit code is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.model import writer
from tests.model.performing import Difference, Performance, alone, difference, has_crashed, refused
from tests.model.shrink import shrunk
from tests.model.sketch import Sketch, sketch, without
from tests.model.stage import Stage, stages
from tests.wire import OF_NAMES

PATIENCE = 6.0
SHORT_PATIENCE = 0.8
"""The same while a sketch is made short."""


class CrashedError(Exception):
    """Say that PostgreSQL has ended with what was sent to it without SideCart, and all its connections with it."""


class Judge:
    """Perform sketches on a stage, and tell what differs."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.cut = 0
        """How many sketches had a client that was compared up to a refusal of what names mean, and no further."""
        self.refused = refused(stage.sidecart_port, writer.vocabulary())
        stage.renew()

    def look(self, played: Sketch, patience: float = PATIENCE) -> Difference | None:
        """Perform a sketch; return what differs, or what idle upstreams still hold. Then they begin anew.

        Raises CrashedError.
        """
        stage = self.stage
        twins = alone(stage.port, played, self.refused.__contains__)
        if has_crashed(played, twins):
            raise CrashedError
        found = Performance(played, stage.sidecart_port, stage.upstreams, twins, patience).run()
        what = difference(played, twins, found)
        self.cut += any(reply.body == OF_NAMES for each in found for reply in each.replies)
        if what is None and (left := stage.leaks()):
            what = Difference(0, "what is left", "nothing", "; ".join(left))
        if what is not None:
            stage.renew()
        return what

    def shrink(self, played: Sketch, attempts: int = 400) -> Sketch:
        """Make short what differs; what does so now and then only is tried a few times at each step."""
        tries = 1 if self.look(played) is not None else 4

        def fails(smaller: Sketch) -> bool:
            return any(self.look(smaller, SHORT_PATIENCE) is not None for _ in range(tries))

        return shrunk(played, fails, attempts)


@contextmanager
def judges(server: EmbeddedServer) -> Iterator[Callable[[int], Judge]]:
    """Yield a function that returns the judge for so many upstreams; it asks SideCart what is refused each time."""
    with stages(server) as stage_of:
        yield lambda upstreams: Judge(stage_of(upstreams))


def show(number: int, played: Sketch, what: Difference) -> None:
    print(f"--- seed {number}\n{played}\n{what}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model.pipelines", description=__doc__)
    parser.add_argument("--seeds", default="0:200", help="first:behind the last, or one")
    parser.add_argument("--pool", type=int, default=1, help="how many upstreams")
    parser.add_argument("--major", type=int, help="the version of PostgreSQL")
    parser.add_argument("--most", type=int, default=20, help="stop when so many differ")
    parser.add_argument("--long", action="store_true", help="do not make short what differs")
    parser.add_argument("--without", type=re.compile, help="leave out the messages in whose notation this is found")
    parser.add_argument("--sketch", type=Path, help="perform the sketch of this file")
    given = parser.parse_args(arguments)
    first, _, behind = given.seeds.partition(":")
    seeds = range(int(first), int(behind or int(first) + 1))
    worst = 0
    while seeds:
        started = (
            servers.running(given.major, auth="trust", plaintext=True)
            if given.major
            else EmbeddedServer(plaintext=True, auth="trust")
        )
        with started as server, judges(server) as judge_of:
            judge = judge_of(given.pool)
            print(f"refused: {sorted(judge.refused)}", flush=True)
            if given.sketch:
                what = judge.look(sketch(given.sketch.read_text()))
                print(what or "no difference")
                return what is not None
            differs, seeds = _perform(judge, seeds, given.most, given.without, short=not given.long)
            worst |= differs
    return worst


def _perform(
    judge: Judge, seeds: range, most: int, left_out: re.Pattern[str] | None, *, short: bool
) -> tuple[bool, range]:
    """Perform one sketch after the other; return whether any differs, and the seeds that want another server."""
    begun, differing, done = time.monotonic(), 0, 0
    left = seeds[:0]
    for number in seeds:
        played = writer.write(number)
        if left_out is not None:
            played = without(played, left_out)
        try:
            what = judge.look(played)
        except CrashedError:
            print(f"seed {number} ends PostgreSQL without SideCart: left out", flush=True)
            left = range(number + 1, seeds.stop)
            break
        done += 1
        if what is not None:
            differing += 1
            if short:
                print(f"seed {number} differs", flush=True)
                played = judge.shrink(played)
                what = judge.look(played) or what
            show(number, played, what)
            if differing == most:
                break
        if done % 200 == 0:
            print(f"{done} performed in {time.monotonic() - begun:.0f} s, {differing} differ", flush=True)
    print(
        f"{done} performed in {time.monotonic() - begun:.0f} s, {differing} differ, {judge.cut} cut short by a refusal"
    )
    return differing > 0, left


if __name__ == "__main__":
    sys.exit(main())

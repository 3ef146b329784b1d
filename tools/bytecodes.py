"""Count the bytecodes of a query: what it costs in Python, the same on every machine however busy that is.

Run it as `.venv/bin/python -m tools.bytecodes`; `--write` puts what it finds into tools/bytecodes.json, for the version
of Python that runs it. tests/unit/test_bytecodes.py fails where a count is another one there by more than 3 %: what has
become dearer is to be looked at, and what has become cheaper is to be kept.

A bytecode in a function of proxy/ counts, from the transport's hand-over to the write, out and back together. What C
code does in between is not seen, nor that some bytecodes take ten times as long as others: `make bench` measures time.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from tools.measure import BOUND, PARSED, ROOT, SIMPLE, Exchange, Query, queries

FIGURES = Path(__file__).with_suffix(".json")
"""By Python's version, as in `VERSION`, what each query was found to cost."""
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
ALLOWED = 0.03
_TURNS = 4
"""Queries ahead of the one that is counted: everything is known of it then."""


def known() -> dict[str, int]:
    """Return what is written down for this version of Python; nothing where that was never counted."""
    found: dict[str, dict[str, int]] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return found.get(VERSION, {})


def count() -> dict[str, int]:
    """Count the three protocols, with an upstream that is free and behind a client that has the only one."""
    found = {query.name: query for query in queries()}
    return {
        f"{name}{behind}": counts(found[name])
        for name in (SIMPLE, PARSED, BOUND)
        for counts, behind in ((_free, ""), (_in_line, ", in line"))
    }


def _free(query: Query) -> int:
    """Count a query for which there is an upstream."""
    from tests.unit.session.town import Town

    town = Town()
    guest, wire = town.client()
    for each in _ahead(query):
        wire.receive(each.sent)
        town.link(guest).says(*each.answer)
    for _ in range(2):  # from 3.12 on a function's bytecodes are told of from the second time that it is traced
        wire.take()
        out = bytecodes(partial(wire.receive, query.exchange.sent))
        back = bytecodes(partial(town.link(guest).says, *query.exchange.answer))
        _check(query, wire.take())
    return out + back


def _in_line(query: Query) -> int:
    """Count a query that waits for another client's answer, and the answer that lets the next one go on."""
    from tests.unit.session import town as t

    town = t.Town(1)
    clients = [town.client() for _ in range(2)]
    for guest, wire in clients:
        for each in _ahead(query):
            wire.receive(each.sent)
            upstream = town.link(guest)
            again = each is query.first and guest is not clients[0][0]
            # The second client's statement takes the place of the first one's, which is closed.
            upstream.says(*each.answer[:-1], *((t.CLOSED,) if again else ()), each.answer[-1])
    (_, goes), (_, waits) = clients
    exchange = query.exchange
    goes.receive(exchange.sent)
    for _ in range(2):  # as above, and the first turn is ahead of those in line
        goes.take()
        out = bytecodes(partial(waits.receive, exchange.sent))
        back = bytecodes(partial(upstream.says, *exchange.answer))
        _check(query, goes.take())
        goes, waits = waits, goes
    return out + back


def _ahead(query: Query) -> Iterator[Exchange]:
    if query.first is not None:
        yield query.first
    for _ in range(_TURNS):
        yield query.exchange


def _check(query: Query, told: bytes) -> None:
    if told != b"".join(query.exchange.answer):
        raise RuntimeError(f"{query.name} was not answered: {told!r}")


def bytecodes(call: Callable[[], object], folder: Path = ROOT) -> int:
    """Call something, and return how many bytecodes it runs in functions of a folder."""
    count = 0
    inside = f"{folder}/"

    def each(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "opcode"
        return each

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(inside):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return each

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def differing(found: dict[str, int], written: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Return the queries whose count is not the one that was written down, by more than is allowed, with both."""
    return {
        name: (written.get(name, 0), each)
        for name, each in found.items()
        if abs(each - written.get(name, 0)) > ALLOWED * written.get(name, 0)
    }


@click.command()
@click.option("--write", is_flag=True, help=f"Put what is found into {FIGURES.name}.")
def main(write: bool) -> None:
    """Print how many bytecodes a query runs; exit with 1 where that is not what was written down."""
    found, written = count(), known()
    click.echo(f"{f'Python {VERSION}':48} {'found':>8} {'written':>8}")
    for name, each in found.items():
        click.echo(f"{name:48} {each:8} {written.get(name, 0) or '-':>8}")
    if write:
        every = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
        FIGURES.write_text(json.dumps({**every, VERSION: found}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    elif differing(found, written):
        sys.exit(1)


if __name__ == "__main__":
    main()

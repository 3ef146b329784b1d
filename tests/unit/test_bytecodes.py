"""A query costs no more than what is written down in tools/bytecodes.json; and the counting is right."""

from __future__ import annotations

import pytest

from tools import bytecodes


def test_query_costs_what_is_written_down() -> None:
    written = bytecodes.known()
    if not written:
        pytest.skip(f"nothing is written down for Python {bytecodes.VERSION}: see `python -m tools.bytecodes --write`")
    found = bytecodes.differing(bytecodes.count(), written)
    assert found == {}, "where it is meant to be so: python -m tools.bytecodes --write"


def test_what_is_counted() -> None:
    def call() -> int:
        return sum((1, 2))

    def twice() -> int:
        return call() + call()

    here = bytecodes.Path(__file__).parent
    for each in (call, twice):
        bytecodes.bytecodes(each, here)  # from Python 3.12 on the second time tells
    once = bytecodes.bytecodes(call, here)
    assert once > 0
    assert bytecodes.bytecodes(twice, here) > 2 * once
    assert bytecodes.bytecodes(call, here / "elsewhere") == 0


@pytest.mark.parametrize(("found", "differs"), [(100, False), (103, False), (104, True), (97, False), (96, True)])
def test_what_differs(found: int, differs: bool) -> None:
    assert bool(bytecodes.differing({"query": found}, {"query": 100})) is differs


def test_query_that_nobody_has_counted_differs() -> None:
    assert bytecodes.differing({"query": 1}, {}) == {"query": (0, 1)}

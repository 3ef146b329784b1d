"""Names that look like SideCart's own belong to the client that has chosen them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.messages.conftest import WAYS
from tests.messages.conversation import (
    SYNC,
    Talk,
    Way,
    b,
    close_portal,
    close_statement,
    describe_portal,
    describe_statement,
    e,
    parse,
    parse_refused,
    q,
    refused,
    run,
    simple,
    step,
    talk,
)

NAMES = ("sidecart:", "sidecart: refused", "sidecart:none", "sidecart:0123456789abcdef:none", "sidecart:guard:1")


def named(name: str) -> Talk:
    return talk(
        f"a client that calls all that it has {name}",
        step(parse(name, "SELECT $1::int, 'mine'"), describe_statement(name), SYNC),
        step(run(name, "1"), SYNC, run(name, "2"), SYNC),
        step(b(name), SYNC),
        step(parse(name, "SELECT 1"), SYNC),
        simple(f'EXECUTE "{name}"(3)', f'DEALLOCATE "{name}"', f'EXECUTE "{name}"(4)'),
        step(b(name, "1"), SYNC),
        step(q(f'PREPARE "{name}" AS SELECT 5'), holds=True),
        step(run(name), SYNC, q(f'EXECUTE "{name}"'), holds=True),
        step(close_statement(name), SYNC, holds=False),
        step(q("BEGIN"), q(f'SAVEPOINT "{name}"'), holds=True),
        step(parse("", "VALUES (1), (2)"), b(portal=name), describe_portal(name), e(name, 1), SYNC),
        step(e(name), close_portal(name), e(name), SYNC),
        step(q(f'ROLLBACK TO "{name}"'), q(f'DECLARE "{name}" CURSOR FOR VALUES (1), (2)'), q(f'FETCH "{name}"')),
        step(e(name), SYNC),
        step(refused("DELETE FROM orders")),
        step(q("ROLLBACK")),
        step(parse("", "SELECT 6"), b(portal=name), parse_refused("", "DELETE FROM orders"), SYNC),
        step(parse("", "SELECT 7"), b(portal=name), parse_refused("other", "DELETE FROM orders"), e(name), SYNC),
        step(b(name), SYNC),
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", [named(name) for name in NAMES], ids=str)
def test_names_of_clients_that_look_like_ours(played: Talk, way: Way, same: Callable[[Talk, Way], None]) -> None:
    same(played, way)

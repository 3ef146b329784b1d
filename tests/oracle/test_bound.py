"""What a view uses is what its stored tree calls, whatever else has such a name by now."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.operating import catalogue
from proxy.proofs import prove
from proxy.proofs.bodies import Bodies
from proxy.sql.catalog import FIRST_NORMAL_OID, FUNCTION, OPERATOR, RELATION, Key
from proxy.sql.policy import Policy
from tests.oracle import runs
from tests.oracle.catalogue import prepare
from tests.oracle.server import Analyst
from tests.oracle.statements import SOURCES

VIEWS = 150
TREES = """
SELECT ev_class, array_to_string(ARRAY(
    SELECT DISTINCT found[1] FROM regexp_matches(ev_action::text, ':(?:funcid|aggfnoid|winfnoid) (\\d+)', 'g') found
), ' '), array_to_string(ARRAY(
    SELECT DISTINCT found[1] FROM regexp_matches(ev_action::text, ':opno (\\d+)', 'g') found
), ' ')
FROM pg_rewrite JOIN pg_class c ON c.oid = ev_class WHERE c.relname LIKE 'bound%' AND ev_type = '1'
"""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
        yield server


@pytest.fixture(scope="module")
def trees(server: EmbeddedServer) -> dict[int, set[Key]]:
    """Make views of statements among rivals; return what the server says that each one calls."""
    database = runs.create(server, hostile=True)
    with Analyst(server.port, database) as reader:
        known = prepare(reader)
    with Analyst(server.port, database, search_path="rival, second, public") as analyst:
        made = 0
        for source in ("branches", "mixed-functions", "mixed-operators", "random"):
            for statement in islice(SOURCES[source](known, random.Random(3)), 2000):
                try:
                    analyst.run(f"CREATE VIEW second.bound{made} AS {statement.sql.decode()}")
                except (RuntimeError, UnicodeDecodeError):
                    continue
                made += 1
                if made % VIEWS == 0:
                    break
        rows = analyst.run(TREES)
    return {
        int(view or 0): {(FUNCTION, int(each)) for each in (functions or "").split()}
        | {(OPERATOR, int(each)) for each in (operators or "").split()}
        for view, functions, operators in rows
    }


def missed(server: EmbeddedServer, trees: dict[int, set[Key]]) -> list[tuple[int, Key]]:
    """Return what a view calls and is not found to use, of what is not built in."""
    rows = catalogue.load(server.dsn(runs.create(server, hostile=True), sslmode="disable"))
    codes = {(OPERATOR, row.oid): (FUNCTION, row.function) for row in rows.operators}
    found = prove._Court(rows, Policy(), (), None).objects
    return [
        (view, key)
        for view, called in trees.items()
        for key in called
        if key[1] >= FIRST_NORMAL_OID
        and key not in found[RELATION, view].uses
        and codes.get(key, key) not in found[RELATION, view].uses
    ]


def test_view_uses_what_its_tree_calls(server: EmbeddedServer, trees: dict[int, set[Key]]) -> None:
    assert sum(any(oid >= FIRST_NORMAL_OID for _, oid in called) for called in trees.values()) > 30
    assert missed(server, trees) == []


def test_fault_of_the_wrong_overload_is_found(
    server: EmbeddedServer, trees: dict[int, set[Key]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_out_meant(bodies: Bodies, bound: set[Key]) -> None:
        for key in bound:
            bodies.recorder.uses.pop(key, None)

    monkeypatch.setattr(Bodies, "_leave_out_others", leave_out_meant)
    monkeypatch.setattr(prove._Court, "_use", lambda *_: None)
    assert missed(server, trees) != []

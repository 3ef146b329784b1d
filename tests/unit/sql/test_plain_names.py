"""What needs no second look is known for one catalogue, and for the very object that is picked."""

from __future__ import annotations

import pytest

from proxy.filter import Filter
from proxy.sql import functions
from proxy.sql.cache import VerdictCache
from proxy.sql.catalog import RELATION, Catalog, Key, Relation, Taint
from proxy.sql.policy import Policy
from proxy.sql.resolve import building, built_in, oids
from proxy.sql.resolve.world import Relation as Row
from proxy.sql.resolve.world import Tables
from proxy.sql.verdict import Action, Effect

PUBLIC, OTHER = 2200, 16384
PLAIN, TWIN, AUTHID = 20001, 20002, 1260
TAINT = Taint("view other.t", "it calls function public.writer()", "public.writer")


def catalogue(taints: dict[Key, Taint], leaves: dict[Key, tuple[tuple[Effect, str], ...]]) -> Catalog:
    below = built_in.built_in(15)
    assert below is not None
    rows = [Row(oid, schema, "t", "r", 0, 0, 0, "23 id") for oid, schema in ((PLAIN, PUBLIC), (TWIN, OTHER))]
    rows.append(Row(AUTHID, oids.PG_CATALOG, "pg_authid", "r", 0, 0, 0, "26 oid"))
    schemas = [("pg_catalog", oids.PG_CATALOG, True), ("public", PUBLIC, True), ("other", OTHER, True)]
    return Catalog(
        version=150018,
        relations={
            "t": (Relation(PLAIN, "public", ()), Relation(TWIN, "other", ())),
            "pg_authid": (Relation(AUTHID, "pg_catalog", ()),),
        },
        taints=taints,
        leaves=leaves,
        world=building.build(15, Tables(schemas=schemas, relations=rows), below),
        begins_with="public",
        path=(oids.PG_CATALOG, PUBLIC),
    )


def judge(
    taints: dict[Key, Taint] | None = None, leaves: dict[Key, tuple[tuple[Effect, str], ...]] | None = None
) -> Filter:
    """Return a filter that remembers no verdicts."""
    found = Filter(Policy(server_version=150018), VerdictCache(0))
    found.learn_catalog(catalogue(taints or {}, leaves or {}))
    return found


def test_a_relation_that_is_picked_is_looked_at_once() -> None:
    found = judge()
    assert found.judge(b"SELECT id FROM t").action is Action.ALLOW
    assert found.functions.plain_relations == {("", "t", PLAIN)}
    assert found.judge(b"SELECT id FROM public.t").action is Action.ALLOW
    assert ("public", "t", PLAIN) in found.functions.plain_relations


def test_attack_relation_of_the_same_name_that_is_no_read() -> None:
    found = judge({(RELATION, TWIN): TAINT})
    for _ in range(2):
        assert found.judge(b"SELECT id FROM t").action is Action.ALLOW
        assert found.judge(b"SELECT id FROM other.t").rule == "unproved-relation"
        assert found.under("other").judge(b"SELECT id FROM t").rule == "unproved-relation"
    assert TWIN not in {oid for *_, oid in found.functions.plain_relations}


def test_a_newer_catalogue_says_that_a_relation_is_no_read_any_more() -> None:
    found = judge()
    assert found.judge(b"SELECT id FROM t").action is Action.ALLOW
    found.learn_catalog(catalogue({(RELATION, PLAIN): TAINT}, {}))
    assert found.judge(b"SELECT id FROM t").rule == "unproved-relation"


def test_what_a_relation_leaves_behind_is_said_each_time() -> None:
    left = (Effect.SETTING_INSIDE, "x.y")
    found = judge(leaves={(RELATION, PLAIN): (left,)})
    assert [found.judge(b"SELECT id FROM t").effects for _ in range(2)] == [(left,), (left,)]


def test_a_query_of_with_hides_a_relation() -> None:
    found = judge({(RELATION, TWIN): TAINT})
    for _ in range(2):
        assert found.judge(b"SELECT * FROM t, (WITH t AS (SELECT 1) SELECT * FROM t) s").action is Action.ALLOW


@pytest.mark.parametrize("text", [b"SELECT * FROM pg_authid", b"SELECT * FROM pg_catalog.pg_authid"])
def test_a_relation_with_secrets_is_flagged_each_time(text: bytes) -> None:
    found = judge()
    assert [found.judge(text).rule for _ in range(2)] == ["secret-catalogue", "secret-catalogue"]
    assert not found.functions.plain_relations


def test_relations_that_are_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "MAX_PLAIN", 1)
    found = judge()
    for text in (b"SELECT id FROM t", b"SELECT id FROM public.t", b"SELECT id FROM other.t"):
        assert found.judge(text).action is Action.ALLOW
        assert len(found.functions.plain_relations) == 1

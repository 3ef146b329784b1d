"""What is no read under every search_path is proved under the one that it runs with, and no further than that holds."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import permutations

import pytest

from proxy.databases.helpers.messages import Text
from proxy.databases.helpers.worker import judge_text
from proxy.filter import Filter
from proxy.proofs import paths
from proxy.proofs.prove import explain, prove
from proxy.sql.catalog import FUNCTION, RELATION, UserRow
from proxy.sql.policy import Policy
from proxy.sql.resolve.world import Function, Own, Tables
from proxy.sql.verdict import Action, Effect, Verdict
from proxy.sql.wanted import MAX_WANTED
from tests.unit.proofs.test_prove import HEAD, INSERT, World

SCHEMAS = {"public": 2200, "other": 2300, "boss": 2400}
BOSS = 77


@pytest.fixture
def world() -> World:
    """Give a database with a `g` that reads, one that writes, and a `helper` of the other kind in each other schema."""
    made = World()
    made.relation("t")
    made.sql("public.g(n int4) returns int4", "SELECT n")
    made.function("public.g(n text) returns int4", INSERT)
    made.sql("public.helper() returns int4", "SELECT 1")
    made.function("other.helper() returns int4", INSERT)
    made.function("boss.helper() returns int4", INSERT)
    return made


def judge(world: World, path: str = "public") -> Filter:
    """Return the filter for sessions that begin with a search_path; the role of it has no schema."""
    functions = []
    for row in world.rows.functions:
        head = re.match(r"CREATE OR REPLACE FUNCTION (.+)\n", row.definition)
        found = re.fullmatch(HEAD, head[1]) if head is not None else None
        named = found["arguments"].split(", ") if found is not None and found["arguments"] else []
        names = tuple(each.partition(" ")[0] for each in named)
        schema, result = SCHEMAS[row.schema], row.returns[0]
        own = Function(row.oid, schema, row.name, "f", row.arguments, result, False, 0, 0, (), "", names, "", 0)
        functions.append(own)
    tables = Tables(schemas=[(name, oid, True) for name, oid in SCHEMAS.items()], functions=functions)
    world.rows = replace(
        world.rows,
        own=Own(15, True, tables),
        begins_with=path,
        path=(11, *(SCHEMAS[name] for name in path.split(", ") if name in SCHEMAS)),
        users=(
            UserRow(0, "reader", frozenset({11, *SCHEMAS.values()})),
            UserRow(BOSS, "boss", frozenset({11, SCHEMAS["public"], SCHEMAS["boss"]})),
        ),
    )
    found = Filter(Policy(server_version=150018))
    found.learn_catalog(prove(world.rows, Policy()))
    return found


def is_read(world: World, sql: str, path: str = "public") -> bool:
    return judge(world, path).judge(sql.encode()).action is Action.ALLOW


@pytest.mark.parametrize("language", ["sql", "plpgsql"])
def test_overload_that_a_body_does_not_call(language: str, world: World) -> None:
    bodies = {"sql": "SELECT g(n)", "plpgsql": "begin return g(n); end"}
    world.function("public.f(n int4) returns int4", bodies[language], language)
    world.function("public.h(n text) returns int4", bodies[language], language)
    assert is_read(world, "SELECT f(1)")
    assert not is_read(world, "SELECT h('x')")


def test_function_of_a_schema_that_is_not_in_the_path(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    assert is_read(world, "SELECT f()")
    assert not is_read(world, "SELECT public.f()", "other, public")


def test_attack_session_that_has_another_path(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world)
    assert found.judge(b"SELECT f()").under_path
    assert found.wide.judge(b"SELECT f()").action is Action.REFUSE


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT set_config('search_path', 'other', false), f()",
        "SELECT f() FROM (SELECT set_config('search_path', 'other', true) OFFSET 0) s",
        "SELECT f(), sets()",
        "DECLARE c CURSOR FOR SELECT f()",
        "SET search_path = other; SELECT f()",
        "SELECT query_to_xml('SELECT f()', true, true, '')",
    ],
)
def test_attack_statement_that_runs_on_under_another_path(sql: str, world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    world.sql("public.sets() returns text", "SELECT set_config('search_path', 'other', true)")
    assert is_read(world, "SELECT f()")
    assert not is_read(world, sql)


def test_path_that_changes_behind_a_statement(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    assert is_read(world, "SELECT f(); SET search_path = other")


@pytest.mark.parametrize("sets", ["set_config('search_path', 'other', true)", "sets()"])
def test_attack_body_that_changes_the_path(sets: str, world: World) -> None:
    world.sql("public.sets() returns text", "SELECT set_config('search_path', 'other', true)")
    world.sql("public.f() returns int4", "SELECT helper()")
    changing = world.function("public.h() returns int4", f"begin perform {sets}; return f(); end")
    calling = world.sql("public.calls_h() returns int4", "SELECT h()")
    catalog = judge(world).catalog
    assert catalog is not None
    assert catalog.cleared.isdisjoint({(FUNCTION, changing), (FUNCTION, calling)})
    assert not is_read(world, "SELECT h()")
    assert not is_read(world, "SELECT calls_h()")


def test_path_that_a_function_sets_for_itself(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()", settings=("search_path=public",))
    world.sql("public.h() returns int4", "SELECT public.mid()", settings=("search_path=other",))
    world.sql("public.mid() returns int4", "SELECT helper()")
    assert is_read(world, "SELECT f() + mid()")
    assert not is_read(world, "SELECT h()")
    assert is_read(world, "SELECT public.f()", "other")


def test_owner_of_a_function_that_is_security_definer(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()", definer=BOSS)
    world.sql("public.calls() returns int4", "SELECT mid()", definer=BOSS)
    world.sql("public.mid() returns int4", "SELECT helper()")
    world.sql("public.usable() returns int4", "SELECT helper()", definer=BOSS, settings=("search_path=other, public",))
    world.sql("public.stranger() returns int4", "SELECT helper()", definer=78)
    begins = '"$user", public'
    assert is_read(world, "SELECT mid()", begins)
    for call in ("f()", "calls()", "stranger()"):
        assert not is_read(world, f"SELECT {call}", begins), call
    assert is_read(world, "SELECT usable()", begins)  # boss may not use the schema of the writer
    assert is_read(world, "SELECT f() + calls()")


def test_view_over_a_function_and_the_bodies_that_read_it(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    view = world.view("v", "SELECT public.f() AS f")
    catalog = judge(world).catalog
    assert catalog is not None
    assert (RELATION, view) in catalog.cleared


def test_what_a_cleared_function_leaves_behind(world: World) -> None:
    world.function(
        "public.f() returns int4", "begin perform set_config('work_mem', '64kB', true); return helper(); end"
    )
    verdict: Verdict = judge(world).judge(b"SELECT f()")
    assert (verdict.action, verdict.effects) == (Action.ALLOW, ((Effect.SETTING_INSIDE, "work_mem"),))


@pytest.mark.parametrize("body", ["execute 'SELECT 1'; return helper();", "insert into t values (1); return helper();"])
def test_attack_body_that_does_more_than_read_beside(body: str, world: World) -> None:
    world.function("public.f() returns int4", f"begin {body} end")
    assert not is_read(world, "SELECT f()")


@pytest.mark.parametrize("limit", ["MAX_PROOFS", "MAX_NODES"])
def test_work_is_bounded(limit: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    monkeypatch.setattr(paths, limit, 0)
    assert not is_read(world, "SELECT f()")


def test_paths_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.sql("public.f() returns int4", "SELECT helper()", settings=("search_path=boss, public",))
    world.sql("public.h() returns int4", "SELECT helper()")
    monkeypatch.setattr(paths, "MAX_PATHS", 0)
    assert is_read(world, "SELECT h()")
    assert not is_read(world, "SELECT f()")


def test_proof_says_that_it_is_a_read(world: World) -> None:
    oid = world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world).catalog
    assert found is not None
    assert (FUNCTION, oid) in found.taints  # type: ignore[operator]
    (proof,) = explain(world.rows, Policy(), "public.f")
    assert proof.taint is None


def test_each_proof_under_a_path_is_told_of_before_it_begins(world: World) -> None:
    oid = world.sql("public.f() returns int4", "SELECT helper()")
    judge(world)
    told: list[int] = []
    prove(world.rows, Policy(), progress=told.append)
    assert told.count(oid) == 2


def test_long_text_is_judged_like_a_short_one(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world)
    for keeps in (True, False):
        text = Text(b"SELECT f()", "utf-8", 0, (), found.schemas, keeps)
        assert (judge_text(found, text).action is Action.ALLOW) is keeps


# --- under a search_path that a session has set -----------------------------------------------------------------------

PUBLIC = (11, 2200)
OTHERS = (11, 2300, 2200)


def judge_again(world: World, found: Filter) -> Filter:
    """Have the filter learn what the next reading brings."""
    found.learn_catalog(prove(world.rows, Policy(), paths=found.wanted.paths))
    return found


def test_path_that_a_session_has_set_is_proved_with_the_next_reading(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world, "other, public")
    refused = found.under("public").judge(b"SELECT f()")
    assert refused.rule == "unproved-function"
    assert not found.awaits_proof(refused), "the path that it began with has been looked at"
    assert not found.wide.awaits_proof(refused)
    assert found.wanted.is_met_by(found.catalog)
    assert found.under("public").awaits_proof(refused)
    assert found.wanted.paths == (PUBLIC,)
    assert not found.wanted.is_met_by(found.catalog)
    judge_again(world, found)
    assert found.wanted.is_met_by(found.catalog)
    verdict = found.under("public").judge(b"SELECT f()")
    assert verdict.action is Action.ALLOW
    assert verdict.under_path
    assert found.under("public, nowhere").judge(b"SELECT f()") == verdict
    assert found.judge(b"SELECT f()").action is Action.REFUSE
    assert found.wide.judge(b"SELECT f()").action is Action.REFUSE


def test_path_under_which_a_body_writes_is_looked_at_once(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world)
    assert found.under("other, public").awaits_proof(found.under("other, public").judge(b"SELECT f()"))
    judge_again(world, found)
    under = found.under("other, public")
    refused = under.judge(b"SELECT f()")
    assert refused.rule == "unproved-function"
    assert not under.awaits_proof(refused)
    assert found.wanted.paths == (OTHERS,)
    assert found.judge(b"SELECT f()").action is Action.ALLOW


def test_attack_path_that_was_set_and_what_changes_it_in_the_statement(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    world.sql("public.sets() returns text", "SELECT set_config('search_path', 'other', true)")
    found = judge(world, "other, public")
    found.under("public").awaits_proof(found.under("public").judge(b"SELECT f()"))
    under = judge_again(world, found).under("public")
    assert under.judge(b"SELECT f()").action is Action.ALLOW
    for sql in (b"SELECT f(), sets()", b"DECLARE c CURSOR FOR SELECT f()", b"SET search_path = other; SELECT f()"):
        assert under.judge(sql).action is Action.REFUSE, sql


def test_attack_owner_under_a_path_that_was_set(world: World) -> None:
    """Which schemas a definer finds by the names of a setting, its schemas do not say."""
    world.sql("public.f() returns int4", "SELECT helper()", definer=BOSS)
    world.sql("public.calls() returns int4", "SELECT f()")
    world.sql("public.mid() returns int4", "SELECT helper()")
    world.sql("public.own() returns int4", "SELECT helper()", definer=BOSS, settings=("search_path=public",))
    found = judge(world, "other, public")
    under = found.under('"$user", public')
    assert under.awaits_proof(under.judge(b"SELECT mid()"))
    under = judge_again(world, found).under('"$user", public')
    assert under.judge(b"SELECT mid() + own()").action is Action.ALLOW
    for sql in (b"SELECT f()", b"SELECT calls()"):
        assert under.judge(sql).action is Action.REFUSE, sql


def test_what_is_left_behind_under_a_path_that_was_set(world: World) -> None:
    world.function(
        "public.f() returns int4", "begin perform set_config('work_mem', '64kB', true); return helper(); end"
    )
    found = judge(world, "other, public")
    found.under("public").awaits_proof(found.under("public").judge(b"SELECT f()"))
    effects = judge_again(world, found).under("public").judge(b"SELECT f()").effects
    assert (Effect.SETTING_INSIDE, "work_mem") in effects


def test_attack_paths_without_end_to_be_proved(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world)
    for count in range(3):
        for names in permutations(["other", "boss", "public", "pg_catalog"]):
            under = found.under(", ".join(names[count:]))
            under.awaits_proof(under.judge(b"SELECT public.f()"))
    assert len(found.wanted.paths) == MAX_WANTED


def test_helper_that_judges_texts_knows_what_is_a_read_under_a_path_that_was_set(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world, "other, public")
    found.under("public").awaits_proof(found.under("public").judge(b"SELECT f()"))
    judge_again(world, found)
    assert judge_text(found, Text(b"SELECT f()", "utf-8", 0, (), PUBLIC, False)).under_path


def test_proofs_under_one_more_path_have_no_verdict_forgotten(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world, "other, public")
    before, known = found.under("public"), found.proofs
    found.judge(b"SELECT 1")
    before.judge(b"SELECT 1")
    assert before.awaits_proof(before.judge(b"SELECT f()"))
    found.learn_proofs(prove(world.rows, Policy(), paths=found.wanted.paths))
    misses = found.counts.misses
    found.judge(b"SELECT 1")
    assert found.counts.misses == misses
    assert found.proofs is known, "plans are not older than what is known"
    under = found.under("public")
    assert under is not before
    assert under.proofs is known
    assert under.judge(b"SELECT f()").action is Action.ALLOW
    assert under.catalog is found.catalog is found.wide.catalog is found.under("boss").catalog


def test_path_that_a_text_sets_for_itself_is_proved_as_one_that_the_session_has(world: World) -> None:
    world.sql("public.f() returns int4", "SELECT helper()")
    found = judge(world, "other, public")
    text = b"SET search_path = public; SELECT f()"
    for each in (found, found.wide, found.under("boss")):
        refused = each.judge(text)
        assert refused.rule == "unproved-function"
        assert each.awaits_proof(refused)
    assert found.wanted.paths == (PUBLIC,)
    found.learn_proofs(prove(world.rows, Policy(), paths=found.wanted.paths))
    for each in (found, found.wide, found.under("boss")):
        assert each.judge(text).action is Action.ALLOW
        refused = each.judge(b"SET search_path = boss, public; SELECT f()")
        assert each.awaits_proof(refused)
    found.learn_proofs(prove(world.rows, Policy(), paths=found.wanted.paths))
    refused = found.judge(b"SET search_path = boss, public; SELECT f()")
    assert refused.action is Action.REFUSE
    assert not found.awaits_proof(refused)

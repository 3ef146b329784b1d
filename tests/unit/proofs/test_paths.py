"""The filters of search_paths: one for all spellings of a path, few that are kept, none that outlives its catalogue."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest

from proxy.filter import MAX_PATH, MAX_PATHS, MAX_SCHEMAS, Filter
from proxy.sql.catalog import FUNCTION, Callable, Catalog, Taint
from proxy.sql.plain import MAX_MESSAGES
from proxy.sql.resolve import building, built_in, effective, oids
from proxy.sql.resolve.world import Function, Tables
from proxy.sql.verdict import Action, Effect, Verdict, changes_path

PUBLIC, APP, EVIL, READER, HIDDEN, ODD = 2200, 16384, 16385, 16386, 16387, 16388
SCHEMAS = [
    ("pg_catalog", oids.PG_CATALOG, True),
    ("public", PUBLIC, True),
    ("app", APP, True),
    ("evil", EVIL, True),
    ("reader", READER, True),
    ("hidden", HIDDEN, False),
    ('Odd, "one"', ODD, True),
]


def of(oid: int, schema: int) -> Function:
    return Function(oid, schema, "of", "f", (oids.INT4,), oids.TEXT, False, 0, 0, (), "", (), "", 0)


def catalogue(*more: tuple[str, int, bool]) -> Catalog:
    below = built_in.built_in(15)
    assert below is not None
    tables = Tables(schemas=[*SCHEMAS, *more], functions=[of(20001, APP), of(20002, EVIL)])
    return Catalog(
        version=150018,
        functions={"of": (Callable(20001, "app", 1, 1), Callable(20002, "evil", 1, 1))},
        taints={(FUNCTION, 20002): Taint("function evil.of(int4)", "it writes", "evil.of")},
        world=building.build(15, tables, below),
        role="reader",
        begins_with='"$user", public',
        path=(oids.PG_CATALOG, READER, PUBLIC),
    )


@pytest.fixture
def judge() -> Filter:
    found = Filter()
    found.learn_version(150018)
    found.learn_catalog(catalogue())
    return found


def allows(judge: Filter, text: bytes = b"SELECT of(1)") -> bool:
    return judge.judge(text).action is Action.ALLOW


@pytest.mark.parametrize(
    ("names", "schemas"),
    [
        ((), (oids.PG_CATALOG,)),
        (("app", "nowhere", "hidden", "public", "app"), (oids.PG_CATALOG, APP, PUBLIC)),
        (("$user", "app"), (oids.PG_CATALOG, READER, APP)),
        (("app", "pg_catalog"), (APP, oids.PG_CATALOG)),
        (("app", "pg_temp"), (oids.PG_CATALOG, APP)),
        (("", 'Odd, "one"'), (oids.PG_CATALOG, ODD)),
        (("APP", "$USER"), (oids.PG_CATALOG,)),
        (("app", "pg_temp_3"), None),
        (("pg_toast_temp_3",), None),
    ],
)
def test_effective_path(names: tuple[str, ...], schemas: tuple[int, ...] | None) -> None:
    found = catalogue().world
    assert found is not None
    assert effective(found, names, "reader") == schemas


def test_all_spellings_of_a_path_share_a_filter_and_its_verdicts(judge: Filter) -> None:
    app = judge.under("app")
    for spelling in ("APP", ' "app" ', "app, nowhere", "app,hidden", "app, app", "pg_catalog, app", "app, pg_temp"):
        assert judge.under(spelling) is app
    assert allows(app)
    assert allows(judge.under("app, public"))
    assert not allows(judge.under("evil, app"))
    assert not allows(judge.wide)
    assert not allows(judge)
    counts = judge.counts.misses
    assert allows(judge.under("nowhere, app"))
    assert judge.counts.misses == counts


def test_path_that_sessions_begin_with_is_known_by_any_spelling(judge: Filter) -> None:
    assert judge.under(None) is judge
    assert judge.under('"$user", public') is judge
    assert judge.under("reader,public") is judge
    assert judge.under("public") is not judge


@pytest.mark.parametrize(
    "path",
    ["app, pg_temp_3", "app, pg_toast_temp_3", "\u00e4pp", 'app, "\u00e4"', "app,", '"app', "app" + " " * MAX_PATH],
)
def test_path_of_which_nobody_knows_what_it_comes_to(judge: Filter, path: str) -> None:
    assert judge.under(path) is judge.wide


def test_path_of_very_many_schemas(judge: Filter) -> None:
    many = [(f"s{number}", 30000 + number, True) for number in range(100)]
    judge.learn_catalog(catalogue(*many))
    names = [name for name, _, _ in many]
    assert judge.under(",".join(names[: MAX_SCHEMAS - 1])) is not judge.wide
    assert judge.under(",".join(names[:MAX_SCHEMAS])) is judge.wide, "pg_catalog is one, too"


def test_filter_of_a_path_outlives_no_catalogue(judge: Filter) -> None:
    app = judge.under("app")
    before = app.functions
    app.remember_parse(b"a Parse", Verdict(Action.ALLOW, "select"))
    assert allows(app)
    judge.learn_catalog(catalogue(("late", 16390, True)))
    assert app.functions is not before
    assert not app.plain.parses
    assert not allows(app), "its path may come to other schemas by now"
    assert allows(judge.under("app"))
    assert app.under("app") is judge.under("app")
    assert app.wide is judge.wide
    judge.learn_catalog(None)
    assert judge.under("app") is judge.wide


def test_where_sessions_begin_with_different_paths_those_that_are_set_are_known(judge: Filter) -> None:
    judge.learn_paths(["public", '"$user", public'], shadowed=False)
    assert not allows(judge, b"SELECT of(1) FROM (SELECT 1) s")
    assert allows(judge.under("app"))
    assert judge.under('"$user", public') is not judge
    judge.learn_paths(["public, pg_catalog"], shadowed=True)
    assert judge.under("app") is judge.wide


def test_attack_paths_without_end(judge: Filter) -> None:
    made: weakref.WeakSet[Filter] = weakref.WeakSet()
    held = judge.under("app")
    count = 0
    for names in itertools.permutations(["app", "public", "reader", "evil", "pg_temp"]):
        for blank in range(80):
            made.add(judge.under(("," + " " * blank).join(names)))
            count += 1
    assert count > 9000
    gc.collect()
    assert len(made) <= MAX_PATHS
    assert judge.under("app") is held
    for number in range(3 * MAX_MESSAGES):
        path = "app, evil" if number % 2 else "evil, app"
        judge.under(path).remember_parse(b"%d" % number, Verdict(Action.ALLOW, "select"))
    kept = (judge, judge.wide, *made)
    assert sum(len(each.plain.parses) for each in kept) <= MAX_MESSAGES


def test_verdict_is_found_again_when_its_filter_was_forgotten(judge: Filter) -> None:
    assert allows(judge.under("app"))
    misses = judge.counts.misses
    for number in range(2 * MAX_PATHS):
        judge.under(f"app, evil, s{number}")
    gc.collect()
    assert allows(judge.under("app"))
    assert judge.counts.misses == misses


@pytest.mark.parametrize("effect", [Effect.SETTING, Effect.SETTING_LOCAL, Effect.SETTING_INSIDE, Effect.RESET])
def test_what_changes_the_path(effect: Effect) -> None:
    assert changes_path(effect, "search_path")
    assert not changes_path(effect, "datestyle")
    assert changes_path(Effect.RESET, "all")
    assert changes_path(Effect.DISCARD_ALL, "")
    assert not changes_path(Effect.PREPARE, "search_path")


# --- set in the text itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "SET search_path = app; SELECT of(1)",
        "SET SESSION search_path TO nowhere, 'app'; SELECT of(1); SELECT of(2)",
        "SET LOCAL search_path = evil; SET search_path = app, evil; SELECT of(1)",
        "BEGIN; SET LOCAL search_path = app; EXPLAIN ANALYZE SELECT of(1); COPY (SELECT of(1)) TO STDOUT; COMMIT",
        "SELECT set_config('search_path', 'evil', true); SET search_path = app; SHOW work_mem; SELECT of(1)",
        "SET search_path = APP; SET work_mem = '1MB'; SELECT of(1); SELECT set_config('search_path', 'evil', true)",
    ],
)
def test_path_that_is_set_in_the_text_itself(judge: Filter, text: str) -> None:
    for each in (judge, judge.wide, judge.under("evil")):
        assert allows(each, text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "SET search_path = evil; SELECT of(1)",
        "SET search_path = evil, app; SELECT of(1)",
        "SET search_path = app; SET search_path = evil; SELECT of(1)",
        "SET search_path = app; SET search_path TO DEFAULT; SELECT of(1)",
        "SET search_path = app; RESET ALL; SELECT of(1)",
        "SET search_path = app; FETCH c; SELECT of(1)",
        "SET search_path = app; EXECUTE x; SELECT of(1)",
        "SET search_path = app; EXPLAIN ANALYZE EXECUTE x; SELECT of(1)",
        "BEGIN; SET search_path = app; COMMIT; SELECT of(1)",
        "SET LOCAL search_path = app; ROLLBACK; SELECT of(1)",
        "SET search_path = app; ROLLBACK TO a; SELECT of(1)",
        "SET search_path = app; SELECT set_config('search_path', 'evil', true); SELECT of(1)",
        "SET search_path = app; COPY (SELECT set_config('search_path', 'evil', true)) TO STDOUT; SELECT of(1)",
        "SET search_path = 'app, evil'; SELECT of(1)",
        'SET search_path = "APP"; SELECT of(1)',
        "SET search_path = app, pg_temp_3; SELECT of(1)",
        "SET search_path = app; PREPARE x AS SELECT of(1)",
        "SET search_path = app; SELECT query_to_xml('SELECT of(1)', true, true, '')",
    ],
)
def test_attack_path_that_is_another_one_by_then(judge: Filter, text: str) -> None:
    for each in (judge, judge.wide, judge.under("app")):
        assert not allows(each, text.encode())

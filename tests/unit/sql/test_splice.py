"""A refused function is refused in every call form in every expression slot of what is allowed (tests/splice.py).

`make test` takes every 331st text, `make deep` all 1.6 million of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from proxy.filter import Filter, Policy
from proxy.sql import tables
from proxy.sql.cache import VerdictCache
from proxy.sql.catalog import TYPE, Catalog, Relation, Taint, Type
from proxy.sql.verdict import Action
from tests.splice import FORMS, Anything, Spliced, allowed_statements, refused_functions, slots, spliced

SAMPLE = 331
PARTS = 31

OWN = {"side-effect-function", "other-clients", "file-function", "advisory-lock", "input-function"}
"""Why the functions are refused."""
OF_THE_PLACE = {"setting-name", "setting-value", "large-object-write", "input-type", "sql-text-function"}
"""The slot or the form is an argument that has to be a constant, so any call is refused there."""


def _default() -> Filter:
    return Filter(cache=VerdictCache(0))


def _everything_allowed() -> Filter:
    return Filter(Policy(allow_functions=("*", "*.*")), cache=VerdictCache(0))


def _with_catalogue() -> Filter:
    filter_ = _default()
    filter_.learn_catalog(Anything())
    return filter_


def assert_all_refused(filter_: Filter, parts: int, part: int) -> tuple[list[Spliced], Counter[str]]:
    """Judge one part of the texts; return those that were refused for what they mean, and by which rules."""
    holes, refused, by_rule = [], [], Counter[str]()
    for case in spliced(parts, part):
        verdict = filter_.judge(case.text.encode())
        if verdict.rule == "syntax":
            continue
        by_rule[verdict.rule] += 1
        if verdict.action is Action.REFUSE and verdict.rule in OWN | OF_THE_PLACE:
            refused.append(case)
        else:
            holes.append((verdict.rule or verdict.action, case))
    assert not holes, holes[:20]
    # Most are refused for the call itself: else the texts would prove nothing.
    assert sum(by_rule[rule] for rule in OWN) > 0.95 * len(refused)
    return refused, by_rule


@pytest.mark.parametrize("make", [_default, _everything_allowed, _with_catalogue])
def test_refused_functions_are_refused_wherever_a_call_can_stand(make: Callable[[], Filter]) -> None:
    refused, by_rule = assert_all_refused(make(), SAMPLE, 0)
    assert len(refused) > 3000
    assert by_rule.keys() >= OWN
    assert {case.function for case in refused} == set(refused_functions())
    assert {case.form for case in refused} == set(FORMS)
    assert {case.slot.kind for case in refused} >= {
        *("A_Const", "ColumnRef", "FuncCall", "ParamRef"),
        *("target", "from", "where", "on", "by", "start", "end"),
    }


@pytest.mark.deep
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
def test_all_of_them(part: int) -> None:
    refused, _ = assert_all_refused(_default(), PARTS, part)
    assert len(refused) > 30_000
    pairs = {(case.function, case.form) for case in refused}
    names = refused_functions()
    unary = [name for name in names if tables.FUNCTIONS[name].one_argument]
    assert len(pairs) > 0.9 * sum(len(unary if form.one_argument else names) for form in FORMS)


def _with_types(**tainted: bool) -> Filter:
    """Return a filter whose catalogue has these types, in schema public."""
    types = {name: (Type(oid, "public"),) for oid, name in enumerate(tainted)}
    taints = {(TYPE, types[name][0].oid): Taint(name, "its CHECK writes", name) for name in tainted if tainted[name]}
    filter_ = _default()
    filter_.learn_catalog(Catalog(types=types, taints=taints, tainted_types=bool(taints)))
    return filter_


@pytest.mark.parametrize("sql", ["SELECT lo_create(0)", 'SELECT "lo_create"(0)', "SELECT * FROM lo_create(0)"])
def test_a_table_named_like_a_refused_function_does_not_open_it(sql: str) -> None:
    """The server takes the function first (func_get_detail, parser/parse_func.c), and a table has a type, too."""
    assert _with_types(lo_create=False).judge(sql.encode()).action is Action.REFUSE


@pytest.mark.parametrize("sql", ["SELECT abs('x')", "SELECT * FROM abs('x')", "SELECT 1 WHERE abs($1) IS NULL"])
def test_a_domain_named_like_a_harmless_function_is_looked_at(sql: str) -> None:
    """abs('x') fits no function exactly, so the server takes it for a cast, and runs the domain's CHECK."""
    assert _with_types(abs=True).judge(sql.encode()).action is Action.REFUSE
    assert _with_types(abs=False).judge(sql.encode()).action is Action.ALLOW


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT abs.lo_creat, (SELECT count(*) FROM abs) FROM abs(-1)",
        "SELECT abs.lo_creat FROM abs(-1), LATERAL (SELECT 1 FROM abs LIMIT 1) a",
        "SELECT (SELECT abs.lo_creat FROM abs(-1)) FROM abs",
        "SELECT a.lo_creat FROM abs(-1) a, LATERAL (SELECT 1 FROM abs a) b",
    ],
)
def test_a_function_in_from_hides_the_column_of_a_table_of_its_name(sql: str) -> None:
    """Without an alias a function in FROM bears its own name, so `abs.lo_creat` calls lo_creat (verified)."""
    filter_ = _default()
    filter_.learn_catalog(Catalog(relations={"abs": (Relation(0, "public", ("lo_creat",)),)}))
    assert filter_.judge(b"SELECT abs.lo_creat FROM abs").action is Action.ALLOW
    assert filter_.judge(sql.encode()).action is Action.REFUSE


def test_a_harmless_function_is_allowed_in_the_same_places() -> None:
    """The control: what is refused above is refused for the function that is called."""
    filter_, rules_seen = _default(), Counter[str]()
    for case in spliced(SAMPLE, 0, ["abs"]):
        verdict = filter_.judge(case.text.encode())
        rules_seen[verdict.rule] += 1
    del rules_seen["syntax"]
    assert rules_seen.keys() - {"", "secret-catalogue"} <= OF_THE_PLACE
    assert rules_seen[""] > 0.9 * rules_seen.total() > 2500


def test_what_is_spliced() -> None:
    assert len(allowed_statements()) > 450
    assert len(refused_functions()) > 140
    assert {"pg_notify", "lo_create", "nextval", "pg_advisory_lock", "pg_read_file"} <= set(refused_functions())
    assert sum(tables.FUNCTIONS[name].one_argument for name in refused_functions()) > 60


def test_the_slots_of_a_statement() -> None:
    text = "SELECT é.a, -1, f(b, (2)) FROM g(3) WHERE c = $1"
    found = {(slot.kind, text[slot.start : slot.end]) for slot in slots(text)}
    assert found >= {
        *(("ColumnRef", "é.a"), ("A_Const", "-1"), ("FuncCall", "f(b, (2))"), ("ColumnRef", "b"), ("A_Const", "2")),
        *(("FuncCall", "g(3)"), ("A_Const", "3"), ("ColumnRef", "c"), ("ParamRef", "$1")),
        *(("target", ""), ("from", ""), ("where", ""), ("end", ""), ("start", "")),
    }

"""The labelled corpus against the filter: every SQL text, and of the protocol cases those that the filter answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.filter import Filter, Policy
from proxy.sql.verdict import Action

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parents[2] / "data" / "corpus.jsonl").read_text("utf-8").splitlines()
]
SQL = [case for case in CASES if "sql" in case]
MESSAGES = [case for case in CASES if "messages" in case]

NEED_CATALOGUE = {
    "A-udf-0342": "crosstab: only pg_depend says that it is tablefunc's",
    "A-udf-0343": "slugify: only its body says that it reads",
    "A-udf-0344": "similarity and others: only pg_depend says that they are the extensions'",
    "B-udf-0636": "(t).computed looks like a column",
    "B-udf-0641": "a cast to a domain looks like a cast to an enum",
    "B-udf-0642": "a cast to a domain looks like a cast to an enum",
    "B-udf-0643": "a cast with a user's cast function looks like any other",
    "B-udf-0644": "a view that calls a function looks like a table",
}
"""Cases of which only the live catalogue tells the truth. The allowed ones are refused until the operator lists the
functions; the refused ones pass, and the other two layers have to hold."""

REFUSED_WITHOUT_CATALOGUE = {
    "B-udf-0627": "unknown-function",
    "B-udf-0629": "unknown-function",
    "B-udf-0630": "unknown-function",
    "B-udf-0631": "unknown-function",
    "B-udf-0634": "unknown-function",
    "B-udf-0637": "unknown-function",
    "B-udf-0640": "unknown-operator",
    "B-udf-0646": "unknown-function",
}
"""Cases marked `requires: catalog` that the default refusal of unknown names stops anyway, and by which rule."""

STRICT = Policy(deny_functions=("pg_sleep*", "pg_ls_*", "lo_*", "loread"))
OPEN = Policy(
    allow_functions=(
        *("crosstab", "slugify", "public.slugify", "my_stable_report", "similarity", "unaccent"),
        *("levenshtein", "uuid_generate_v4", "gen_random_bytes", "digest"),
    ),
)


OFF = [b"default_transaction_read_only", b"off"]
"""The values of a Bind."""


@pytest.fixture(scope="module")
def filter_() -> Filter:
    return Filter()


@pytest.mark.parametrize("case", SQL, ids=lambda case: case["id"])
@pytest.mark.parametrize("extended", [False, True], ids=["Query", "Parse"])
def test_sql(filter_: Filter, case: dict[str, Any], extended: bool) -> None:
    verdict = filter_.judge(case["sql"].encode(), extended=extended)
    if verdict.at_bind:  # what cannot be refused at its Parse is refused at each Bind with such values
        verdict = filter_.judge_bind(verdict, (), OFF, "utf-8")
    assert verdict.rule != "internal", case["sql"]
    if case["id"] in NEED_CATALOGUE or case.get("policy_knob"):
        return
    if extended and verdict.rule == "several-statements":
        assert filter_.judge(case["sql"].encode()).kind == "multi"
        return
    if case.get("neutralise"):
        assert verdict.action in (Action.REPLACE, Action.REFUSE), case["why"]
    elif case["verdict"] == "allow":
        assert verdict.action is Action.ALLOW, (verdict.message, verdict.detail, case["sql"])
    else:
        assert verdict.action is Action.REFUSE, (case["sql"], case["why"])
        assert verdict.sqlstate
        assert verdict.message
        # A syntax error looks as the server's own does.
        assert verdict.rule == "syntax" or f"(rule: {verdict.rule}" in verdict.detail
        assert 0 <= verdict.position <= len(case["sql"]) + 1
        assert "\x01" not in verdict.message + verdict.detail


@pytest.mark.parametrize(
    "case", [c for c in SQL if c["id"].startswith("B-txn-rw") and c.get("neutralise")], ids=lambda c: c["id"]
)
def test_neutralised_texts_ask_for_nothing_but_reading(filter_: Filter, case: dict[str, Any]) -> None:
    verdict = filter_.judge(case["sql"].encode())
    assert verdict.action is Action.REPLACE
    assert verdict.text is not None and verdict.warning
    assert b"READ ONLY" in verdict.text and b"WRITE" not in verdict.text
    assert filter_.judge(verdict.text).action is Action.ALLOW


@pytest.mark.parametrize(("case_id", "rule"), REFUSED_WITHOUT_CATALOGUE.items())
def test_refused_without_a_catalogue(filter_: Filter, case_id: str, rule: str) -> None:
    (case,) = (c for c in SQL if c["id"] == case_id)
    assert filter_.judge(case["sql"].encode()).rule == rule


def test_the_cases_that_need_a_catalogue_are_all_accounted_for() -> None:
    marked = {case["id"] for case in CASES if case.get("requires") == "catalog"}
    assert marked == NEED_CATALOGUE.keys() | REFUSED_WITHOUT_CATALOGUE.keys()


@pytest.mark.parametrize("case_id", ["A-udf-0342", "A-udf-0343", "A-udf-0344"])
def test_the_operator_can_allow(case_id: str) -> None:
    (case,) = (c for c in SQL if c["id"] == case_id)
    assert Filter(OPEN).judge(case["sql"].encode()).action is Action.ALLOW


@pytest.mark.parametrize("case_id", ["A-read-0116", "A-read-0117", "B-attr-0466", "B-notify-0122", "A-read-0106"])
def test_the_operator_can_refuse(case_id: str) -> None:
    (case,) = (c for c in SQL if c["id"] == case_id)
    assert Filter(STRICT).judge(case["sql"].encode()).action is Action.REFUSE


def test_crosstab_still_needs_a_constant_read_when_it_is_allowed() -> None:
    for sql in (
        "SELECT * FROM crosstab('select lo_create(0)::text, 1, 2') AS c(a text)",
        "SELECT * FROM crosstab('delete from t returning 1') AS c(a text)",
        "SELECT * FROM crosstab($1) AS c(a text)",
        "SELECT * FROM crosstab('select 1', 'select nextval(''s'')') AS c(a text)",
    ):
        assert Filter(OPEN).judge(sql.encode()).action is Action.REFUSE, sql
    assert Filter(OPEN).judge(b"SELECT * FROM crosstab('select 1', 2) AS c(a text)").action is Action.ALLOW


def _items(kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(case, item) for case in MESSAGES for item in case["messages"] if item.get("t") == kind]


@pytest.mark.parametrize(
    ("case", "item"), _items("F"), ids=[f"{case['id']}-{n}" for n, (case, _) in enumerate(_items("F"))]
)
def test_function_calls(case: dict[str, Any], item: dict[str, Any]) -> None:
    arguments = [bytes.fromhex(argument) for argument in item["args"]]
    verdict = Filter().judge_function_call(item["oid"], [1], arguments)
    assert verdict.action is (Action.ALLOW if case["verdict"] == "allow" else Action.REFUSE)
    if case.get("policy_knob"):
        assert Filter(STRICT).judge_function_call(item["oid"], [1], arguments).action is Action.REFUSE


STARTUP_ELSEWHERE = {
    "A-proto-0045": "_pq_ options are negotiated before parameters are judged",
    "B-proto-0047": "protocol 2",
    "B-proto-0048": "the packet's length",
}
ELSEWHERE = {
    "B-proto-0110": "the startup parameter SJIS is refused, not the text",
    "B-proto-0113": "the startup parameter GB18030 is refused, not the text",
}
"""Cases that another module, or another of the filter's answers, decides."""

STARTUPS = [(case, item) for case, item in _items("startup") if case["id"] not in STARTUP_ELSEWHERE]


@pytest.mark.parametrize(("case", "item"), STARTUPS, ids=[case["id"] for case, _ in STARTUPS])
def test_startup_parameters(case: dict[str, Any], item: dict[str, Any]) -> None:
    verdicts = [Filter().judge_setting(name, value) for name, value in item["params"].items()]
    refused = [verdict for verdict in verdicts if verdict.action is Action.REFUSE]
    assert bool(refused) is (case["verdict"] == "block")
    for verdict in refused:
        assert verdict.sqlstate and verdict.detail


def _text(item: dict[str, Any]) -> bytes:
    if "raw_sql_hex" in item:
        return bytes.fromhex(item["raw_sql_hex"]).removesuffix(b"\0")
    if "sql_repeat" in item:
        prefix, unit, count, suffix = item["sql_repeat"]
        return (prefix + unit * count + suffix).encode()
    return item["sql"].encode()


TEXTS = [
    (case, texts)
    for case in MESSAGES
    if case["id"] not in ELSEWHERE
    and (texts := [(item["t"], _text(item)) for item in case["messages"] if item.get("t") in ("Q", "P")])
]


@pytest.mark.parametrize(("case", "texts"), TEXTS, ids=[case["id"] for case, _ in TEXTS])
def test_texts_of_messages(case: dict[str, Any], texts: list[tuple[str, bytes]]) -> None:
    verdicts = [Filter().judge(text, extended=kind == "P") for kind, text in texts]
    values = [[value.encode() for value in item["params"]] for item in case["messages"] if item.get("params")]
    verdicts += [Filter().judge_bind(verdict, (), *values, "utf-8") for verdict in verdicts if verdict.at_bind]
    allowed = all(verdict.action is Action.ALLOW for verdict in verdicts)
    assert allowed is (case["verdict"] == "allow"), [(v.rule, v.message) for v in verdicts]


def test_the_parameters_of_the_corpus_are_spread_over_the_rules() -> None:
    """The corpus would be of no use if one rule refused everything."""
    rules = {Filter().judge(case["sql"].encode()).rule for case in SQL if case["verdict"] == "block"}
    assert len(rules) > 25
    assert not any(re.search(r"\s", rule) for rule in rules)

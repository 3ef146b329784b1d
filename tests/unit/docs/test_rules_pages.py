"""docs/rules: every rule has a page, and every screen on a page is what the filter says."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.commands import check
from proxy.config.load import load
from proxy.filter import Filter
from proxy.operating import offline
from proxy.operating.script import Lines
from proxy.session.answers import EXECUTE_OF_EXECUTE, FETCH_OF_FETCH, LATE_PORTAL, OTHER_LETTERS
from proxy.sql.policy import Policy
from proxy.sql.tables import RULES
from proxy.sql.verdict import Action, Verdict

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "rules"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md")) if path.stem != "README"}
INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")
MINIMAL = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}
SECTIONS = ["Why", "What to do instead", "Configuration"]

POLICIES = {
    "keyword-function": Policy(server_version=150000),
    "no-catalogue": Policy(live=True),
}
"""What no configuration says: the server's version, and its catalogue."""

NOT_AS_SQL: dict[str, Callable[[], Verdict]] = {
    "nul-byte": lambda: Filter().judge(b"SELECT 1\0; DROP TABLE orders"),
    "encoding": lambda: Filter().judge(b"SELECT '\xff'"),
    "length": lambda: Filter().judge(b"SELECT " + b"1," * 600_000 + b"1"),
    "depth": lambda: Filter().judge(b"SELECT " + b"1+" * 30_000 + b"1"),
    "operator-run": lambda: Filter().judge(b"SELECT 1 " + b"+-" * 10_000 + b" 1"),
    "several-statements": lambda: Filter().judge(b"SELECT 1; SELECT 2", extended=True),
    "execute-of-execute": lambda: EXECUTE_OF_EXECUTE,
    "fetch-of-fetch": lambda: FETCH_OF_FETCH,
    "late-portal": lambda: LATE_PORTAL,
    "other-letters": lambda: OTHER_LETTERS,
    "fastpath": lambda: Filter().judge_function_call(2078, (0,), (b"default_transaction_read_only", b"off", b"f")),
    "startup-parameter": lambda: Filter().judge_setting("replication", "database"),
}
"""The ```text blocks: what the page describes in words, because psql cannot send it or a page cannot hold it."""

UNREACHABLE = {"unknown-statement", "unknown-field", "inner-statement", "internal"}
"""Rules that no text reaches, as their pages say."""


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE)


def examples(rule: str) -> list[tuple[str, str]]:
    """Return each statement on a page with what psql prints for it."""
    found = []
    for block in blocks(PAGES[rule], "console"):
        for part in block.split("\n\n"):
            sql, _, printed = part.partition("\n")
            if sql.startswith("shop=> "):
                found.append((sql.removeprefix("shop=> "), printed))
    return found


def as_psql_prints(sql: str, verdict: Verdict) -> str:
    if verdict.action is Action.REPLACE:
        return f"WARNING:  {verdict.warning}\nBEGIN"
    rows = [f"ERROR:  {verdict.message}"]
    if verdict.position and sql:
        rows += [f"LINE 1: {sql}", " " * (len("LINE 1: ") + verdict.position - 1) + "^"]
    rows += [f"DETAIL:  {verdict.detail}"] if verdict.detail else []
    rows += [f"HINT:  {verdict.hint}"] if verdict.hint else []
    return "\n".join(rows)


def policy(rule: str, yaml: str) -> Policy:
    config = load(yaml or None, MINIMAL)
    return Policy(
        allow_functions=config.filter.allow_functions,
        deny_functions=config.filter.deny_functions,
        server_version=POLICIES.get(rule, Policy()).server_version,
    )


def judge(rule: str, sql: str) -> Verdict:
    """Judge under the configuration that the page shows above its first example."""
    above = PAGES[rule].partition("```console")[0]
    yaml = blocks(above, "yaml")
    given = policy(rule, yaml[0]) if yaml else POLICIES.get(rule, Policy())
    return Filter(given).judge(sql.encode())


LIVE = {rule for rule in PAGES if rule.startswith("unproved-")} | {"unknown-relation", "unknown-type"}
"""Rules that need a database. tests/integration/test_rules.py runs their examples, on what their pages create."""
EXAMPLES = [(rule, *example) for rule in PAGES if rule not in LIVE for example in examples(rule)]


def test_every_rule_has_a_page_and_no_page_is_without_a_rule() -> None:
    assert set(PAGES) == set(RULES)


def test_index_lists_every_rule_in_order_with_its_sentence() -> None:
    rows = re.findall(r"^\| \[([a-z-]+)\]\(([^)]+)\) \| (.+) \|$", INDEX, re.MULTILINE)
    assert rows == [(rule, f"{rule}.md", sentence) for rule, sentence in RULES.items()]


@pytest.mark.parametrize("rule", PAGES)
def test_page_has_its_title_its_sentence_and_its_sections(rule: str) -> None:
    title, sentence, *_ = PAGES[rule].split("\n\n")
    assert title == f"# {rule}"
    assert sentence.replace("\n", " ") == RULES[rule]
    assert re.findall(r"^## (.+)$", PAGES[rule], re.MULTILINE) == SECTIONS
    lines = PAGES[rule].splitlines()
    assert 14 <= len(lines) <= 60
    assert all(len(line) <= 120 or line.startswith(("DETAIL:", "HINT:")) for line in lines)


@pytest.mark.parametrize("rule", PAGES)
def test_page_shows_an_example(rule: str) -> None:
    shown = bool(examples(rule)) + bool(blocks(PAGES[rule], "text")) + ("sidecart check" in PAGES[rule])
    assert bool(shown) != (rule in UNREACHABLE)
    if rule in UNREACHABLE - {"internal"}:
        assert "No text reaches" in PAGES[rule].replace("\n", " ")


@pytest.mark.parametrize(("rule", "sql", "printed"), EXAMPLES, ids=[f"{rule}-{sql}" for rule, sql, _ in EXAMPLES])
def test_example_is_what_psql_prints(rule: str, sql: str, printed: str) -> None:
    verdict = judge(rule, sql)
    assert verdict.rule == rule
    assert as_psql_prints(sql, verdict) == printed
    assert not verdict.sqlstate or verdict.sqlstate in PAGES[rule].partition("## Why")[0].rpartition("SQLSTATE")[2]
    assert len(sql) <= 60  # psql shortens a longer line


@pytest.mark.parametrize("rule", NOT_AS_SQL)
def test_text_is_what_the_filter_says(rule: str) -> None:
    verdict = NOT_AS_SQL[rule]()
    assert verdict.rule == rule
    assert blocks(PAGES[rule], "text") == [as_psql_prints("", verdict)]
    assert verdict.sqlstate in PAGES[rule].partition("## Why")[0].rpartition("SQLSTATE")[2]


def test_screen_of_check_is_what_it_prints() -> None:
    (block,) = blocks(PAGES["secret-catalogue"], "console")
    command, _, printed = block.partition("\n")
    sql = re.fullmatch(r"\$ echo '([^']+)' \| sidecart check -", command)
    assert sql is not None
    lines = Lines(sql[1])
    (finding,) = check.judge_script(Filter(), "<stdin>", sql[1], lines, check.Summary())
    assert check.screen(finding, lines) == printed


def test_every_text_block_is_compared() -> None:
    assert {rule for rule, page in PAGES.items() if blocks(page, "text")} == set(NOT_AS_SQL)


CONFIGURED = [rule for rule in PAGES if blocks(PAGES[rule].partition("## Configuration")[2], "yaml")]


@pytest.mark.parametrize("rule", CONFIGURED)
def test_configuration_changes_what_the_page_says(rule: str) -> None:
    """The lines under "Configuration" allow the first example."""
    below = PAGES[rule].partition("## Configuration")[2]
    given = policy(rule, blocks(below, "yaml")[0])
    if rule in LIVE or not examples(rule):
        return
    verdict = Filter(given).judge(examples(rule)[0][0].encode())
    assert verdict.rule == ""


def test_there_are_configurations_to_check() -> None:
    assert {"unknown-function", "unknown-operator", "length", "extension-function", "keyword-function"} <= set(
        CONFIGURED
    )


def test_readme_leads_to_the_rules() -> None:
    assert "](docs/rules/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES)
def test_command_names_a_page_that_exists(rule: str) -> None:
    assert (ROOT / offline.page(rule)).is_file()


def test_prose_is_wrapped_where_it_can_be() -> None:
    for rule, page in PAGES.items():
        prose = re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
        for paragraph in prose.split("\n\n"):
            text = paragraph.strip()
            assert text == textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False), rule

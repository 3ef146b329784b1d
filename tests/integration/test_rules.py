"""`sidecart rules`, and the pages in docs/rules that need a server: their screens are what psql shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.filter import Filter
from proxy.operating import offline
from proxy.sql.policy import Policy
from proxy.sql.tables import RULES
from tests.running import SideCart
from tests.unit.docs.test_rules_pages import LIVE, PAGES, as_psql_prints, blocks, examples, policy

FUNCTIONS = """
CREATE TABLE t (id int);
CREATE FUNCTION words(text) RETURNS text LANGUAGE sql AS 'SELECT lower($1)';
CREATE FUNCTION slugify(text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN replace(words($1), ' ', '-') || (SELECT count(*) FROM t);
END $$;
CREATE FUNCTION writer() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO t
  VALUES (1);
  RETURN 1;
END $$;
CREATE TYPE mood AS ENUM ('ok');
CREATE FUNCTION noted(mood) RETURNS json LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); RETURN NULL; END';
CREATE CAST (mood AS json) WITH FUNCTION noted(mood);
CREATE TABLE moods (m mood);
CREATE FUNCTION report() RETURNS int LANGUAGE sql STABLE AS 'SELECT writer()';
CREATE FUNCTION report(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1';
"""


def rules(*arguments: str) -> tuple[int, str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DB_", "SIDECART_", "PG"))}
    command = [sys.executable, "-m", "proxy", "rules", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=kept)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def database(postgres: EmbeddedServer) -> Iterator[Callable[[str], str]]:
    """Return a function that makes a database with a script, and returns its connection string."""
    made: list[str] = []

    def make(script: str) -> str:
        name = f"rules_{len(made)}"
        postgres.sql(f"CREATE DATABASE {name} TEMPLATE template0")
        made.append(name)
        postgres.sql(script, name)
        return postgres.dsn(name)

    yield make
    for name in made:
        postgres.sql(f"DROP DATABASE {name}")


@pytest.fixture(scope="module")
def dsn(database: Callable[[str], str]) -> str:
    return database(FUNCTIONS)


# --- the command ------------------------------------------------------------------------------------------------------


def test_every_rule_is_listed() -> None:
    code, out, err = rules()
    assert (code, err) == (0, "")
    text = " ".join(out.split())
    assert all(f"{rule} {sentence}" in text for rule, sentence in RULES.items())
    code, out, _ = rules("--json")
    assert [entry["rule"] for entry in json.loads(out)] == list(RULES)
    assert all(entry["sentence"] == RULES[entry["rule"]] for entry in json.loads(out))


def test_one_rule_says_where_its_page_is() -> None:
    assert rules("row-lock") == (
        0,
        f"row-lock: {RULES['row-lock']}\nAn example, the reason, and what to do instead: docs/rules/row-lock.md\n",
        "",
    )
    assert rules("rowlock") == (
        2,
        "",
        "sidecart: There is no rule rowlock. Did you mean row-lock? `sidecart rules` lists them.\n",
    )


def test_function_without_a_catalogue_is_a_wrong_option() -> None:
    code, _, err = rules("--function", "slugify")
    assert code == 2
    assert "--function needs --catalog DSN" in err


def test_proof_of_a_read_names_what_it_rests_on(dsn: str) -> None:
    code, out, err = rules("--function", "public.slugify", "--catalog", dsn)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "function public.slugify(text): a read"
    assert "function public.words(text)" in second
    assert "table public.t" in second
    assert "type text" not in second


def test_refusal_names_the_statement_that_spoils_it(dsn: str) -> None:
    assert rules("--function", "writer", "--catalog", dsn) == (
        1,
        "function public.writer(): refused (rule: unproved-function)\n"
        "  Nothing proves that it only reads: its body executes INSERT.\n"
        "  LINE 3: INSERT INTO t\n"
        "            VALUES (1)\n"
        '  The operator can allow it: filter.allow_functions: ["public.writer"].\n',
        "",
    )


def test_query_is_explained_name_by_name(dsn: str) -> None:
    code, out, err = rules("--explain", "SELECT slugify('A'), id + 1.5 FROM t ORDER BY 2", "--catalog", dsn)
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "at 8 slugify('A'), function public.slugify(text)" in lines
    assert "at 25 + operator + (numeric, numeric)" in lines
    assert "hidden function numeric(int4)" in lines
    assert any(line.endswith("orders by operator < (numeric, numeric)") for line in lines)
    assert any(line.endswith("relation public.t") for line in lines)
    assert lines[-1] == "allowed"


def test_query_that_is_refused_is_explained_with_the_reason(dsn: str) -> None:
    code, out, _ = rules("--explain", "SELECT writer()", "--catalog", dsn)
    assert code == 1
    assert "function public.writer(): no read, its body executes INSERT" in out
    assert "refused: permission denied for function public.writer" in out
    code, out, _ = rules("--explain", "SELECT nope", "--catalog", dsn)
    assert 'The server is expected to reject it (42703): column "nope" does not exist.' in out
    assert code == 0  # it says so itself
    code, out, _ = rules("--json", "--explain", "SELECT 1 + 1", "--catalog", dsn)
    assert json.loads(out) == [{"at": 9, "word": "+", "what": "operator + (int4, int4)", "why": ""}]
    assert rules("--explain", "SELECT 1")[0] == 2


def test_query_is_explained_by_what_runs_of_its_types(dsn: str) -> None:
    code, out, _ = rules("--explain", "SELECT to_json(m) FROM moods", "--catalog", dsn)
    assert code == 1
    assert "cast to json of type public.mood: no read, it has the cast from public.mood to json" in out
    code, out, _ = rules("--explain", "SELECT m FROM moods ORDER BY m", "--catalog", dsn)
    assert code == 0
    assert "comparison of type public.mood" in out
    assert "no read" not in out


def test_one_refused_overload_is_enough_for_1(dsn: str) -> None:
    code, out, _ = rules("--json", "--function", "report", "--catalog", dsn)
    assert code == 1
    by_name = {proof["object"]: proof for proof in json.loads(out)}
    assert by_name["function public.report(int4)"]["read"] is True
    spoiled = by_name["function public.report()"]
    assert (spoiled["read"], spoiled["rule"], spoiled["allow"]) == (False, "unproved-function", "public.report")
    assert "function public.writer(), whose body executes INSERT" in spoiled["why"]


def test_allowed_function_is_a_read(dsn: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("filter:\n  allow_functions: [public.writer]\n")
    assert rules("--function", "report", "--catalog", dsn, "-c", str(config))[0] == 0
    assert rules("--function", "report", "--catalog", dsn, "--allow-function", "writer")[0] == 0


def test_function_that_is_not_there_ends_with_2(dsn: str) -> None:
    code, out, err = rules("--function", "nope", "--catalog", dsn)
    assert (code, out) == (2, "")
    assert err == "sidecart: There is no nope in the database, beside what is PostgreSQL's own.\n"


# --- the pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", sorted(LIVE))
def test_page_about_a_live_catalogue_is_what_the_filter_says(rule: str, database: Callable[[str], str]) -> None:
    """What the page creates is created; its example then is refused as it shows, and allowed as it is configured."""
    page = PAGES[rule]
    dsn = database("\n".join(blocks(page, "sql")) or "SELECT 1")

    def learned(given: Policy) -> Filter:
        judge = Filter(given)
        offline.learn(judge, dsn)
        return judge

    judge = learned(Policy())
    assert examples(rule)
    for sql, printed in examples(rule):
        verdict = judge.judge(sql.encode())
        assert verdict.rule == rule
        assert as_psql_prints(sql, verdict) == printed
        assert f"SQLSTATE {verdict.sqlstate}." in page
    for yaml in blocks(page, "yaml"):
        assert learned(policy(rule, yaml)).judge(examples(rule)[0][0].encode()).rule == ""


SHOWN = (
    *("advisory-lock", "copy-file", "copy-program", "data-modification", "ddl", "encoding", "file-function"),
    *("listen", "maintenance", "notify", "procedure", "read-write", "reset-read-only", "row-lock", "select-into"),
    *("server-setting", "setting", "setting-value", "side-effect-function", "syntax", "table-lock", "two-phase"),
)
"""Rules whose examples need nothing but a SideCart."""


@pytest.mark.parametrize("rule", SHOWN)
def test_psql_shows_what_the_page_shows(rule: str, sidecart: SideCart, tool: Callable[[str], Path]) -> None:
    assert examples(rule)
    for sql, printed in examples(rule):
        command = [str(tool("psql")), "-X", sidecart.dsn, "-c", sql]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.stderr + done.stdout).rstrip() == printed

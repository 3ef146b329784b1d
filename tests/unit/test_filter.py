"""The filter's answers: rules, messages, positions, effects, replacements, settings, the cache, and attacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pglast
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pglast.parser import ParseError, parse_sql_json

from proxy.filter import Filter, Policy
from proxy.sql import tables, text
from proxy.sql.cache import VerdictCache
from proxy.sql.catalog import RELATION, Catalog, Relation, Taint
from proxy.sql.functions import Functions
from proxy.sql.settings import parse_bool, python_codec, split_identifiers, split_options
from proxy.sql.tables import ADVISORY_LOCKS
from proxy.sql.verdict import Action, Effect, Verdict

DATA = Path(__file__).parent.parent / "data"
FILTER = Filter()


def judge(sql: str, policy: Policy | None = None, encoding: str = "utf-8", *, extended: bool = False) -> Verdict:
    chosen = FILTER if policy is None else Filter(policy)
    return chosen.judge(sql.encode(encoding), encoding, extended=extended)


def at(sql: str, verdict: Verdict) -> str:
    """Give the text from the caret on."""
    return sql[verdict.position - 1 :]


# -- attacks and reads, one a line ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", (DATA / "attacks.sql").read_text("utf-8").splitlines())
def test_attack_is_refused(sql: str) -> None:
    verdict = judge(sql)
    assert verdict.action is Action.REFUSE
    assert verdict.rule in tables.RULES and verdict.rule != "internal"
    assert verdict.sqlstate in ("25006", "42501", "42601")


@pytest.mark.parametrize("sql", (DATA / "harmless.sql").read_text("utf-8").splitlines())
def test_harmless_text_is_allowed(sql: str) -> None:
    verdict = judge(sql)
    assert verdict.action is Action.ALLOW, verdict


# -- rules, messages, positions ------------------------------------------------------------------------------------

REFUSALS = [
    ("/* é */ DELETE FROM orders", "data-modification", "25006", "DELETE FROM orders", "delete"),
    (
        'WITH a AS (SELECT 1), "x é" AS (DELETE FROM t) SELECT 1',
        "data-modification",
        "25006",
        "DELETE FROM t",
        "select",
    ),
    ("EXPLAIN ANALYZE DELETE FROM t", "data-modification", "25006", "DELETE FROM t", "explain"),
    ("COPY (UPDATE t SET a = 1 RETURNING a) TO STDOUT", "data-modification", "25006", "UPDATE t", "copy"),
    ("PREPARE p AS INSERT INTO t VALUES (1)", "data-modification", "25006", "INSERT INTO", "prepare"),
    ("SELECT 'é' AS a INTO x", "select-into", "25006", "INTO x", "select"),
    ("SELECT '日本' FROM t /* for update */ FOR NO KEY UPDATE", "row-lock", "25006", "FOR NO KEY", "select"),
    ("DECLARE c CURSOR FOR SELECT 1 FROM t FOR SHARE", "row-lock", "25006", "FOR SHARE", "declare"),
    ("CREATE OR REPLACE TEMP VIEW x AS SELECT 1", "ddl", "25006", "CREATE OR", "ddl"),
    ("EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1", "ddl", "25006", "CREATE TABLE", "explain"),
    ("COPY t FROM STDIN", "copy-from", "25006", "FROM STDIN", "copy"),
    ("COPY t TO PROGRAM 'x'", "copy-program", "25006", "PROGRAM", "copy"),
    ("COPY t TO '/x'", "copy-file", "25006", "TO '/x'", "copy"),
    ("LOCK TABLE t", "table-lock", "25006", "LOCK", "lock"),
    ("PREPARE TRANSACTION 'x'", "two-phase", "25006", "PREPARE", "two_phase"),
    ("DO 'x'", "procedure", "25006", "DO", "do"),
    ("CALL x()", "procedure", "25006", "CALL", "call"),
    ("NOTIFY x", "notify", "25006", "NOTIFY", "notify"),
    ("LISTEN x", "listen", "25006", "LISTEN", "listen"),
    ("VACUUM t", "maintenance", "25006", "VACUUM", "maintenance"),
    ("ALTER SYSTEM RESET ALL", "server-setting", "25006", "ALTER", "alter_system"),
    ("SELECT '日本', lo_create(0)", "side-effect-function", "42501", "lo_create(0)", "select"),
    ("SELECT '日本', (0::oid).lo_create", "side-effect-function", "42501", "lo_create", "select"),
    ("SELECT 'é', x.lo_creat FROM abs(-1) x", "side-effect-function", "42501", "x.lo_creat", "select"),
    ("SELECT pg_read_file('x')", "file-function", "42501", "pg_read_file", "select"),
    ("SELECT dblink_exec('x')", "extension-function", "42501", "dblink_exec", "select"),
    ("SELECT a.slugify('x')", "unknown-function", "42501", "a.slugify", "select"),
    ("SELECT pg_advisory_lock(1)", "advisory-lock", "42501", "pg_advisory_lock", "select"),
    ("SELECT 1 OPERATOR(public.@@@) 2", "unknown-operator", "42501", "OPERATOR", "select"),
    ("SELECT query_to_xml($1, true, true, '')", "sql-text-function", "42501", "query_to_xml", "select"),
    ("SELECT lo_open(1, 131072)", "large-object-write", "42501", "lo_open", "select"),
    ("SELECT array_in('{x}', 'd'::regtype, -1)", "input-function", "42501", "array_in", "select"),
    ("SELECT pg_input_is_valid('x', 'd')", "input-type", "42501", "pg_input_is_valid", "select"),
    *(
        (f"SELECT pg_input_is_valid('x', '{name}')", "input-type", "42501", "pg_input_is_valid", "select")
        for name in (
            "int4\u00a0",
            "\u3000text",
            "int4\v",
            "int4\x1f",
            "numeric(\u0663)",
            "numeric(1)\u2003",
            "\u212aint4",
        )
    ),
    ("SELECT 'é', set_config($1, $2, false)", "setting-name", "42501", "set_config", "select"),
    ("SELECT set_config('role', 'x', false)", "setting-value", "42501", "set_config", "select"),
    ("SET log_statement = 'none'", "setting", "42501", "SET", "set"),
    ("SET ROLE postgres", "setting-value", "42501", "postgres", "set"),
    ("SET default_transaction_read_only = off", "setting-value", "25006", "off", "set"),
    ("RESET transaction_read_only", "reset-read-only", "25006", "RESET", "reset"),
    ("SET client_encoding = 'SJIS'", "encoding", "42501", "'SJIS'", "set"),
    ("SELECT 'é'; SELECT 1; DROP TABLE t", "ddl", "25006", "DROP TABLE", "multi"),
    ("SELECT 'é' FROM t TABLESAMPLE f(1)", "unknown-function", "42501", "f(1)", "select"),
]


@pytest.mark.parametrize(("sql", "rule", "sqlstate", "caret", "kind"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_refusal(sql: str, rule: str, sqlstate: str, caret: str, kind: str) -> None:
    verdict = judge(sql)
    assert (verdict.action, verdict.rule, verdict.sqlstate) == (Action.REFUSE, rule, sqlstate)
    assert at(sql, verdict).startswith(caret)
    assert verdict.kind == kind
    assert f"(rule: {rule}" in verdict.detail


def test_every_rule_has_a_sentence_and_is_reached_by_a_test() -> None:
    assert all(sentence.endswith(".") and rule == rule.lower() for rule, sentence in tables.RULES.items())
    elsewhere = {"nul-byte", "encoding", "length", "depth", "operator-run", "syntax", "several-statements", "internal"}
    elsewhere |= {"unknown-statement", "unknown-node", "unknown-field", "inner-statement", "read-write"}
    elsewhere |= {"denied-function", "keyword-function", "fastpath", "startup-parameter"}
    elsewhere |= {"secret-catalogue"}
    # In test_row_sources.py and test_encoding.py: what the names of a session decide.
    elsewhere |= {"execute-of-execute", "fetch-of-fetch", "late-portal", "other-letters"}
    # In test_judgement.py: what only a catalogue knows.
    elsewhere |= {"unknown-built-in", "other-clients"}
    elsewhere |= {f"unproved-{kind}" for kind in ("function", "relation", "type", "operator", "cast")}
    elsewhere |= {"unknown-relation", "unknown-type", "void-parameter"}
    elsewhere |= {"no-catalogue"}  # in test_unread.py
    assert tables.RULES.keys() == elsewhere | {row[1] for row in REFUSALS}


def test_messages_are_in_postgresqls_manner() -> None:
    verdict = judge('with "x" as (delete from sales.orders) select 1')
    assert verdict.message == "cannot execute DELETE: SideCart forwards reads only"
    assert verdict.detail == ('The statement modifies table "sales.orders" (rule: data-modification, in WITH "x").')
    verdict = judge("select public.slugify('x')")
    assert verdict.message == "permission denied for function public.slugify: SideCart forwards reads only"
    assert verdict.hint == 'The operator can allow it: filter.allow_functions: ["public.slugify"].'
    assert judge("select lo_create(0)").hint == ""
    assert judge("create unlogged table x (a int)").message.startswith("cannot execute CREATE TABLE")


@pytest.mark.parametrize(
    ("sql", "command"),
    [
        ("drop materialized view x", "DROP MATERIALIZED VIEW"),
        ("create materialized view if not exists x as select 1", "CREATE MATERIALIZED VIEW"),
        ("create foreign table x (a int) server s", "CREATE FOREIGN TABLE"),
        ("create foreign data wrapper w", "CREATE FOREIGN DATA WRAPPER"),
        ("create access method m type index handler h", "CREATE ACCESS METHOD"),
        ("create text search configuration c (copy = english)", "CREATE TEXT SEARCH CONFIGURATION"),
        ("create event trigger e on ddl_command_start execute function f()", "CREATE EVENT TRIGGER"),
        ("create user mapping for u server s", "CREATE USER MAPPING"),
        ("import foreign schema s from server x into y", "IMPORT FOREIGN SCHEMA"),
        ("alter default privileges grant select on tables to x", "ALTER DEFAULT PRIVILEGES"),
        ("alter large object 1 owner to x", "ALTER LARGE OBJECT"),
        ("create user x", "CREATE USER"),
        ("create or replace temp view x as select 1", "CREATE VIEW"),
        ("grant select on x to y", "GRANT"),
    ],
)
def test_a_refusal_names_the_whole_command(sql: str, command: str) -> None:
    assert judge(sql).message == f"cannot execute {command}: SideCart forwards reads only"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", tables.ENCODINGS["eucjp"], "iso8859-15"])
@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("select 'éé' frm frm x", "frm x"),
        ("select 日本 frm frm x", "frm x"),
        ("select 'é', (", ""),
        ("select 'é", "'é"),
        ("select 'éé', lo_create(0)", "lo_create(0)"),
        ("select 'éé'; drop table 日本", "drop table"),
        ("éé frm x", "éé"),
        ("sele 日", "sele"),
    ],
)
def test_position_counts_characters(sql: str, found: str, encoding: str) -> None:
    try:
        sql.encode(encoding)
    except UnicodeEncodeError:
        sql = sql.encode("utf-8").decode("latin-1")  # as SQL_ASCII: one character a byte
        found = found.encode("utf-8").decode("latin-1")
        encoding = tables.RAW
    verdict = judge(sql, encoding=encoding)
    assert verdict.action is Action.REFUSE
    assert at(sql, verdict).startswith(found)
    assert verdict.position == (len(sql) + 1 if found == "" else sql.rindex(found) + 1)


def test_syntax_error_is_the_parsers_own() -> None:
    verdict = judge("selec 1")
    assert (verdict.sqlstate, verdict.message, verdict.position, verdict.kind) == (
        "42601", 'syntax error at or near "selec"', 1, "unparsable",
    )  # fmt: skip


@pytest.mark.parametrize(("version", "told"), [(170000, False), (180000, True)])
def test_syntax_error_has_a_position_where_the_servers_has_one(version: int, told: bool) -> None:
    older = Filter(Policy(server_version=version))
    assert older.judge(b"select 1 fetch first 1 row with ties").position == 28 * told
    assert older.judge(b"select 1 order by 1 for update skip locked fetch first 1 row with ties").position == 62 * told
    assert older.judge(b'select 1 frm "WITH TIES" x').position == 14


def test_several_statements_in_parse() -> None:
    verdict = judge("select 1; select 2", extended=True)
    assert (verdict.sqlstate, verdict.message) == (
        "42601", "cannot insert multiple commands into a prepared statement",
    )  # fmt: skip
    assert judge("select 1; select 2").kind == "multi"
    assert judge("select 1;", extended=True).kind == "select"


@pytest.mark.parametrize("sql", ["", ";", " ;; ", "-- x", "/* é */"])
def test_nothing_is_allowed(sql: str) -> None:
    assert judge(sql, extended=True) == Verdict(Action.ALLOW, "empty")


def test_nul_and_invalid_bytes() -> None:
    assert FILTER.judge(b"select 1\0; drop table t").rule == "nul-byte"
    assert FILTER.judge(b"select 1\0").sqlstate == "22021"
    for bad in (b"select '\xc0'", b"select '\xed\xa0\x80'", b"select '\xff"):
        assert (FILTER.judge(bad).sqlstate, FILTER.judge(bad).rule) == ("22021", "encoding")
    assert FILTER.judge(b"select '\xc0'", "latin-1").action is Action.ALLOW
    assert FILTER.judge(b"select 1", "shift_jis").rule == "encoding"
    assert FILTER.judge(b"select 1", "no such codec").rule == "encoding"


def test_length() -> None:
    policy = Policy(max_query_length=10)
    assert judge("select 123", policy).action is Action.ALLOW
    assert judge("select 1234", policy).sqlstate == "54000"


def test_control_characters_in_strings_are_no_fault_of_ours() -> None:
    assert judge("select E'\\x01\\x1f', '\x01\x7f\x1f\t', \"a\x02\"").action is Action.ALLOW


# -- replacements --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "replaced"),
    [
        ("BEGIN READ WRITE", "BEGIN READ ONLY"),
        ("start transaction read write", "START TRANSACTION READ ONLY"),
        (
            "begin isolation level read committed read write not deferrable",
            "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY, NOT DEFERRABLE",
        ),
        ("START TRANSACTION READ ONLY, READ WRITE", "START TRANSACTION READ ONLY, READ ONLY"),
        ("set transaction read write", "SET TRANSACTION READ ONLY"),
        (
            "set session characteristics as transaction isolation level serializable, read write",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        ),
        ("select 'é' ; begin read write;  select 2 -- é", "select 'é' ; BEGIN READ ONLY;  select 2 -- é"),
        ("/* é */ begin read write /* x */; commit", "/* é */ BEGIN READ ONLY; commit"),
        ("begin read write; set transaction read write", "BEGIN READ ONLY; SET TRANSACTION READ ONLY"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_read_write_is_replaced(sql: str, replaced: str, encoding: str) -> None:
    verdict = judge(sql, encoding=encoding)
    assert verdict.action is Action.REPLACE
    assert verdict.text is not None
    assert verdict.text.decode(encoding) == replaced
    assert verdict.warning == "SideCart forwards reads only: READ WRITE was replaced by READ ONLY"
    assert FILTER.judge(verdict.text, encoding).action is Action.ALLOW


@pytest.mark.parametrize(
    "sql", ["begin", "begin read only", "set transaction read only", "start transaction isolation level serializable"]
)
def test_reading_transactions_keep_their_text(sql: str) -> None:
    verdict = judge(sql)
    assert verdict == Verdict(Action.ALLOW, "begin" if "set" not in sql else "set", boundary=verdict.boundary)


# -- boundaries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "boundary"),
    [
        ("begin", "begin"),
        ("BEGIN WORK", "begin"),
        (" ; /* é */ start transaction ; ; -- x", "begin"),
        ("begin read only", "begin"),
        ("begin isolation level read committed", "begin"),
        ("begin isolation level read uncommitted", "begin"),
        ("start transaction isolation level repeatable read, read only", "begin"),
        ("begin read write", "begin"),
        ("; begin isolation level repeatable read read write;", "begin"),
        ("begin isolation level serializable", ""),
        ("begin isolation level serializable, read write", ""),
        ("begin isolation level serializable, isolation level read committed", ""),
        ("begin deferrable", ""),
        ("begin read write, not deferrable", ""),
        ("begin; begin", ""),
        ("begin read write; begin read write", ""),
        ("begin; select 1", ""),
        ("select 1; begin", ""),
        ("commit", "commit"),
        ("end transaction;", "commit"),
        ("commit and no chain", "commit"),
        ("commit and chain", ""),
        ("commit; commit", ""),
        ("rollback", "rollback"),
        ("abort work", "rollback"),
        ("rollback and no chain", "rollback"),
        ("rollback and chain", ""),
        ("rollback to s", ""),
        ("begin; rollback", ""),
        ("savepoint s", ""),
        ("release s", ""),
        ("set transaction read only", ""),
        ("set transaction read write", ""),
        ("set session characteristics as transaction read write", ""),
        ("select 'begin'", ""),
        ("explain select 1", ""),
        ("prepare transaction 'x'", ""),
        ("commit prepared 'x'", ""),
        ("rollback prepared 'x'", ""),
        ("", ""),
        (";", ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_lone_boundary_of_a_transaction_is_told(sql: str, boundary: str, encoding: str) -> None:
    judging = Filter()
    for _ in range(2):  # the second answer is the cache's
        verdict = judging.judge(sql.encode(encoding), encoding)
        assert verdict.boundary == boundary
        if boundary:
            assert (verdict.kind, verdict.effects) == (boundary, ())
        if verdict.text is not None:  # what is forwarded in its place is the same boundary
            assert judging.judge(verdict.text, encoding).boundary == boundary


def test_every_kind_of_boundary_stays_apart_from_what_shares_its_kind() -> None:
    judging = Filter()
    assert judging.judge(b"commit and chain").boundary == ""
    assert judging.judge(b"commit").boundary == "commit"
    assert judging.judge(b"rollback").boundary == "rollback"
    assert judging.judge(b"rollback and chain").boundary == ""
    assert judging.judge(b"begin deferrable").boundary == ""
    assert judging.judge(b"begin").boundary == "begin"
    assert judging.judge(b"begin", extended=True).boundary == "begin"


# -- effects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "effects"),
    [
        ("set work_mem = '1MB'", [(Effect.SETTING, "work_mem")]),
        ("set session \"Work_Mem\" = '1MB'", [(Effect.SETTING, "work_mem")]),
        ("set local work_mem = '1MB'", [(Effect.SETTING_LOCAL, "work_mem")]),
        ('set local "App".Tenant_Id to 1', [(Effect.SETTING_LOCAL, "app.tenant_id")]),
        ("set local time zone 'x'", [(Effect.SETTING_LOCAL, "timezone")]),
        ("set local time zone default", [(Effect.RESET_LOCAL, "timezone")]),
        ("set local transaction_isolation = 'serializable'", []),
        ("set local role none", []),
        ("set local default_transaction_read_only = on", []),
        ("set app.tenant_id = 1", [(Effect.SETTING, "app.tenant_id")]),
        ("set time zone 'x'", [(Effect.SETTING, "timezone")]),
        ("set names 'latin1'", [(Effect.SETTING, "client_encoding")]),
        ("set schema 'x'", [(Effect.SETTING, "search_path")]),
        ("set xml option document", [(Effect.SETTING, "xmloption")]),
        ("set transaction isolation level serializable", []),
        ("set transaction_isolation = 'serializable'", []),
        (
            "set session characteristics as transaction isolation level serializable, deferrable",
            [(Effect.SETTING, "default_transaction_isolation"), (Effect.SETTING, "default_transaction_deferrable")],
        ),
        ("set session characteristics as transaction read write", []),  # replaced; the value stays on
        ("set role none", []),
        ("set default_transaction_read_only = on", []),
        ("reset timezone", [(Effect.RESET, "timezone")]),
        ("set timezone to default", [(Effect.RESET, "timezone")]),
        ("reset all", [(Effect.RESET, "all")]),
        ("select set_config('a.b', $1, false)", [(Effect.SETTING, "a.b")]),
        ("select set_config('a.b', $1, true)", [(Effect.SETTING_LOCAL, "a.b")]),
        ("select set_config('Work_Mem', null, true)", [(Effect.RESET_LOCAL, "work_mem")]),
        ("select set_config('app.x', null, false)", [(Effect.RESET, "app.x")]),
        ("select set_config('work_mem', null, $1)", [(Effect.RESET, "work_mem")]),
        ("select set_config('work_mem', null::text, false)", [(Effect.SETTING, "work_mem")]),
        ("select set_config('role', null, true)", []),
        ("select set_config('transaction_isolation', 'serializable', true)", []),
        ("select set_config('seed', '0.5', true)", [(Effect.SESSION_STATE, "setseed")]),
        ("select set_config('a.b', 'x', $1)", [(Effect.SETTING, "a.b")]),
        ("select set_config('a.b', 'x', 'f')", [(Effect.SETTING, "a.b")]),
        ("select query_to_xml('select set_config(''a.b'',''x'',false)',true,true,'')", [(Effect.SETTING, "a.b")]),
        ("select setseed(0.1)", [(Effect.SESSION_STATE, "setseed")]),
        ("select txid_current()", [(Effect.TRANSACTION_ID, "txid_current")]),
        ("select * from pg_catalog.pg_current_xact_id() x", [(Effect.TRANSACTION_ID, "pg_current_xact_id")]),
        ("select (0.1::float8).setseed", [(Effect.SESSION_STATE, "setseed")]),
        ("set seed to 0.5", [(Effect.SESSION_STATE, "setseed")]),
        ("set local seed to 0.5", [(Effect.SESSION_STATE, "setseed")]),
        ('prepare "P" as select 1', [(Effect.PREPARE, "P")]),
        ("execute p(1, now())", [(Effect.EXECUTE, "p")]),
        ('explain (analyze) execute "P"', [(Effect.EXPLAIN, ""), (Effect.EXECUTE, "P")]),
        ("prepare p as select 1; execute p", [(Effect.PREPARE, "p"), (Effect.EXECUTE, "p")]),
        ("deallocate p", [(Effect.DEALLOCATE, "p")]),
        ("deallocate all", [(Effect.DEALLOCATE, "")]),
        ("declare c cursor with hold for select 1", [(Effect.HOLD_CURSOR, "c")]),
        ("declare c cursor without hold for select 1", []),
        ("discard all", [(Effect.DISCARD_ALL, "")]),
        ("discard plans", [(Effect.DISCARD_PLANS, "")]),
        ("set a.b = 1; reset c.d", [(Effect.SETTING, "a.b"), (Effect.RESET, "c.d")]),
    ],
)
def test_effects(sql: str, effects: list[tuple[Effect, str]]) -> None:
    verdict = judge(sql)
    assert verdict.action is not Action.REFUSE
    assert list(verdict.effects) == effects


@pytest.mark.parametrize("codec", ["utf-8", "latin-1", tables.RAW])
@pytest.mark.parametrize("sent", ["utf-8", "latin-1"])
def test_names_of_effects_are_the_bytes_that_the_client_sent(codec: str, sent: str) -> None:
    text = 'execute "é"; set "app"."é" = 1; begin read write'.encode(sent)
    if sent == "latin-1" and codec == "utf-8":
        assert FILTER.judge(text, codec).action is Action.REFUSE
        return
    verdict = FILTER.judge(text, codec)
    assert [name.encode(codec) for _, name in verdict.effects] == ["é".encode(sent), "app.é".encode(sent)]
    assert verdict.text == text.replace(b"begin read write", b"BEGIN READ ONLY")


def test_sleep_and_lists_of_files_can_be_denied() -> None:
    quiet = Policy(deny_functions=("pg_sleep*", "pg_ls_*"))
    for sql in ("pg_sleep(1)", "pg_sleep_for('1s')", "(1::float8).pg_sleep", "pg_ls_waldir()"):
        assert judge(f"select {sql}").action is Action.ALLOW, sql
        assert judge(f"select {sql}", quiet).rule == "denied-function", sql


@pytest.mark.parametrize("name", sorted(ADVISORY_LOCKS))
def test_no_pattern_allows_an_advisory_lock(name: str) -> None:
    every = Policy(allow_functions=("*", "*.*", name, f"pg_catalog.{name}"))
    for policy in (Policy(), every):
        assert judge(f"select {name}(1)", policy).rule == "advisory-lock"
        assert judge(f"select x.{name} from abs(1::bigint) x", policy).action is Action.REFUSE


# -- functions -----------------------------------------------------------------------------------------------------


def test_allow_and_deny_patterns() -> None:
    policy = Policy(
        allow_functions=("slugify", "app.*", "postgis.st_*", "op.@@@"), deny_functions=("app.evil", "lower", "st_bad")
    )
    for sql in ("slugify(1)", "x.slugify(1)", "app.f(1)", "postgis.st_area(1)", "1 operator(op.@@@) 2"):
        assert judge(f"select {sql}", policy).action is Action.ALLOW, sql
    for sql in ("f(1)", "st_area(1)", "other.st_area(1)", '"Slugify"(1)', "1 operator(x.@@@) 2", '"app.f"(1)'):
        assert judge(f"select {sql}", policy).action is Action.REFUSE, sql
    for sql in ("app.evil(1)", "evil(1)", "lower('x')", "pg_catalog.lower('x')", "postgis.st_bad(1)", "(x).lower"):
        assert judge(f"select {sql}", policy).rule == "denied-function", sql


@pytest.mark.parametrize("name", ["json_object_agg", "jsonb_object_agg", "pg_catalog.json_object_agg_unique_strict"])
def test_attack_keyword_that_stands_for_a_denied_aggregate(name: str) -> None:
    for version in (0, 150000, 160000, 180000):
        policy = Policy(deny_functions=(name,), server_version=version)
        assert judge("select json_objectagg(a: b) from t", policy).action is Action.REFUSE
        assert judge("select json_arrayagg(a) from t", Policy(deny_functions=("*agg",))).action is Action.REFUSE


def test_transaction_ids_can_be_denied() -> None:
    verdict = judge("select txid_current()", Policy(deny_functions=("txid_current",)))
    assert verdict.rule == "denied-function"
    assert "pg_current_xact_id_if_assigned()" in verdict.hint


def test_a_wildcard_does_not_allow_what_is_known_to_write() -> None:
    policy = Policy(allow_functions=("*", "public.*"))
    for sql in (
        "dblink_exec('x')",
        "public.dblink_exec('x')",
        "lo_create(0)",
        "public.nextval('s')",
        "cron.schedule(1)",
    ):
        assert judge(f"select {sql}", policy).action is Action.REFUSE, sql
    assert judge("select public.nextval('s')", Policy(allow_functions=("public.nextval",))).action is Action.ALLOW
    assert judge("select nextval('s')", Policy(allow_functions=("nextval",))).action is Action.REFUSE


def test_names_are_compared_part_by_part() -> None:
    for sql in ('"pg_catalog.count"(1)', '"Count"(1)', '"COUNT"(1)', "public.count(1)"):
        assert judge(f"select {sql}").rule == "unknown-function", sql
    assert judge("select pg_catalog.count(1), COUNT(1)").action is Action.ALLOW


def test_verdicts_that_were_found_by_names_are_counted() -> None:
    filter_ = Filter()
    for sql in (b"select now()", b"select now()", b"show x", b"begin", b"explain select v from t"):
        filter_.judge(sql)
    assert filter_.cache.by_names == {"catalogue": 2}
    filter_.remember(b"select 1, 2", "utf-8", 0, Verdict(Action.ALLOW, "select", by_names="rejected"))
    assert filter_.cache.by_names == {"catalogue": 2, "rejected": 1}


def test_old_servers_have_other_keywords_and_functions() -> None:
    old, new = Policy(server_version=150018), Policy(server_version=180004)
    for sql in (
        "select json_value('{}', '$')",
        "select * from json_table('{}', '$' columns (a int path '$'))",
        "select json_array(1), 2",
        "select json_scalar(1)",
        "select json_object()",
    ):
        assert judge(sql, old).rule == "keyword-function", sql
        assert judge(sql, new).action is Action.ALLOW
    assert judge("select array_sort('{1}'::int[])", old).rule == "unknown-function"
    assert judge("select array_sort('{1}'::int[])", new).action is Action.ALLOW
    assert judge(
        "select json_value('{}', '$')", Policy(server_version=150000, allow_functions=("json_value",))
    ) == Verdict(Action.ALLOW, "select")


def test_secret_catalogues_are_flagged() -> None:
    verdict = judge("select rolpassword from pg_catalog.pg_authid")
    assert (verdict.action, verdict.rule) == (Action.ALLOW, "secret-catalogue")
    assert judge("select 1 from app.pg_authid").rule == ""


def test_fastpath() -> None:
    oid = b"\0\0\x10\x92"
    reading, writing = (0x40000).to_bytes(4, "big"), (0x60000).to_bytes(4, "big")
    assert FILTER.judge_function_call(952, [1], [oid, reading]).action is Action.ALLOW
    assert FILTER.judge_function_call(952, [0, 1], [b"4242", reading]).action is Action.ALLOW
    for formats, arguments in (
        ([1], [oid, writing]),
        ([], [b"4242", b"131072"]),
        ([0], [b"4242", b"1310"]),  # four bytes, but as text
        ([1, 0], [oid, b"1310"]),
        ([1], [oid]),
        ([1], [oid, None]),
        ([1], [oid, reading + b"\0"]),
        ([1], [oid, reading[:2]]),
        ([1, 1, 1], [oid, reading]),
    ):
        verdict = FILTER.judge_function_call(952, formats, arguments)
        assert (verdict.action, verdict.rule, verdict.sqlstate) == (Action.REFUSE, "fastpath", "42501")
    for other in (957, 964, 955, 1574, 3036, 2078, 0, -1):
        assert FILTER.judge_function_call(other, [1], [oid]).action is Action.REFUSE


def test_function_call_that_writes_is_not_advised_to_use_sql() -> None:
    for oid, name in tables.FASTPATH_WRITES.items():
        verdict = FILTER.judge_function_call(oid, [1], [])
        assert (verdict.rule, verdict.object) == ("fastpath", name)
        assert "by SQL" not in verdict.hint
        assert judge(f"select {name}(0)").action is Action.REFUSE
    assert FILTER.judge_function_call(1598, [], []).hint == "Call functions by SQL."


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("select nextval('orders_id_seq')", "nextval"),
        ("select public.slugify(name) from t", "public.slugify"),
        ("select 1 from t where a operator(public.@@) 2", "public.@@"),
        ("delete from api.orders", "api.orders"),
        ("with gone as (delete from orders returning 1) select 1", "orders"),
        ("explain analyze update orders set a = 'secret'", "orders"),
        ("copy orders from stdin", "orders"),
        ("select 1 into copied", "copied"),
        ("set session_preload_libraries = 'secret'", "session_preload_libraries"),
        ("reset transaction_read_only", "transaction_read_only"),
        ("select set_config('secret', 'secret', false)", ""),
        ("select lo_open(1, 131072)", "lo_open"),
        ("drop table orders", ""),
        ("select 'secret' for update", ""),
        ("selekt 'secret'", ""),
    ],
)
def test_refusal_names_what_it_is_about(sql: str, names: str) -> None:
    verdict = judge(sql)
    assert (verdict.action, verdict.object) == (Action.REFUSE, names)


# -- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("application_name", "x'; DROP TABLE t; --", True),
        ("client_encoding", "'utf-8'", True),
        ("client_encoding", "U-T-F 8", True),
        ("client_encoding", "SQL_ASCII", True),
        ("client_encoding", "WINDOWS-1252", True),
        ("CLIENT_ENCODING", "Shift_JIS_2004", False),
        ("client_encoding", "GB18030", False),
        ("client_encoding", "nonsense", False),
        ("default_transaction_read_only", "on", True),
        ("default_transaction_read_only", "off", False),
        ("Default_Transaction_Read_Only", "false", False),
        ("transaction_read_only", "off", False),
        ("search_path", "a, b", True),
        ("search_path", "", True),
        ("search_path", 'a,"pg_catalog"', False),
        ("search_path", "pg_catalog\v,a,pg_catalog", False),
        ("search_path", "pg_catalog,\va", False),
        ("search_path", "a\v", False),
        ("search_path", '"a\v"', True),
        ("search_path", "a, PG_CATALOG", False),
        ("search_path", 'a,"PG_CATALOG"', True),
        ("search_path", "pg_temp, a", False),
        ("search_path", "a,,b", False),
        ("search_path", '"a', False),
        ("role", "postgres", False),
        ("session_authorization", "x", False),
        ("log_statement", "none", False),
        ("standard_conforming_strings", "off", False),
        ("backslash_quote", "safe_encoding", True),
        ("backslash_quote", "on", False),
        ("replication", "database", False),
        ("replication", "off", True),
        ("options", "-c statement_timeout=5s --work-mem=1MB -cgeqo=off", True),
        ("options", "-c default_transaction_read_only=off", False),
        ("options", "-c a.b=1 --default-transaction-read-only=off", False),
        ("options", r"-c search_path=a,\ pg_catalog", False),
        ("options", "-d 5", False),
        ("options", "-c", False),
        ("_pq_.x", "1", False),
        ("pgaudit.log", "none", False),
        ("app.user", "x", True),
    ],
)
def test_startup_parameter(name: str, value: str, allowed: bool) -> None:
    verdict = FILTER.judge_setting(name, value)
    assert verdict.action is (Action.ALLOW if allowed else Action.REFUSE)
    assert verdict.kind == "startup"


def test_startup_effects() -> None:
    assert FILTER.judge_setting("options", "-c a.b=1 -c geqo=off").effects == (
        (Effect.SETTING, "a.b"),
        (Effect.SETTING, "geqo"),
    )


def test_value_parsers() -> None:
    assert split_identifiers(' a , "B ""c" ,D ') == ["a", 'B "c', "d"]
    assert split_identifiers("") == [] and split_identifiers("a b") is None and split_identifiers("a,") is None
    assert split_options(r"-c a=b\ c  --d-e=f") == [("a", "b c"), ("d_e", "f")]
    assert [parse_bool(v) for v in ("t", "YES", "on", "1", "o", "of", "F", "", "onn", "2")] == [
        True, True, True, True, None, False, False, None, None, None,
    ]  # fmt: skip


def test_codecs_leave_ascii_alone() -> None:
    """No byte of a multi-byte character may decode to ASCII, and ASCII decodes to itself."""
    ascii_bytes = bytes(range(1, 128))
    for name, codec in tables.ENCODINGS.items():
        assert ascii_bytes.decode(codec) == ascii_bytes.decode("ascii"), name
        leads = [b"", b"\x8e", b"\x8f"] if "euc" in codec else [b""]
        for first in range(128, 256):
            for second in range(128, 256) if "euc" in codec or codec == "gb2312" else (None,):
                for lead in leads:
                    data = lead + bytes([first]) + (b"" if second is None else bytes([second]))
                    try:
                        decoded = text.decode(data, codec)
                    except tables.Refused:
                        continue
                    assert not any(char < "\x80" for char in decoded), (name, data)
            for tail in b"'\\;$\"":
                try:
                    decoded = text.decode(bytes([first, tail]), codec)
                except tables.Refused:
                    continue
                assert decoded.endswith(chr(tail)), (name, first, tail)


@pytest.mark.parametrize(
    "name", ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "mskanji", "win949"]
)
def test_unsafe_encodings(name: str) -> None:
    assert python_codec(name) is None


def test_encoding_names() -> None:
    assert python_codec("UTF8") == python_codec("Unicode") == python_codec("'utf-8'") == "utf-8"
    assert python_codec("Latin1") == python_codec("ISO-8859-1") == "latin-1"
    assert python_codec("SQL_ASCII") == python_codec("EUC_TW") == tables.RAW
    assert (
        python_codec("EUC_JP") == tables.ENCODINGS["eucjp"]
        and python_codec("WIN1251") == python_codec("win") == "cp1251"
    )


# -- the cache -----------------------------------------------------------------------------------------------------


def test_cache_hit_is_the_same_verdict() -> None:
    cached = Filter()
    first = cached.judge(b"set a.b = 1")
    assert cached.judge(bytes(bytearray(b"set a.b = 1"))) is first
    assert (cached.counts.hits, cached.counts.misses) == (1, 1)


def test_cache_key_holds_encoding_and_protocol() -> None:
    cached = Filter()
    sql = "select 'é'; select 1".encode()
    assert cached.judge(sql).action is Action.ALLOW
    assert cached.judge(sql, extended=True).action is Action.REFUSE
    assert cached.judge("select 'é'".encode("latin-1"), "latin-1").action is Action.ALLOW
    assert cached.judge("select 'é'".encode("latin-1")).action is Action.REFUSE
    assert cached.counts.hits == 0


def test_cache_tells_constants_apart() -> None:
    cached = Filter()
    assert cached.judge(b"select lo_open(1, 262144)").action is Action.ALLOW
    assert cached.judge(b"select lo_open(1, 131072)").action is Action.REFUSE


def test_cache_is_bounded_by_bytes_and_forgets_the_least_recently_used() -> None:
    cached = Filter(cache=VerdictCache(20_000))
    for number in range(100):
        cached.judge(f"select a{number}".encode())
        cached.judge(b"select 'kept'")
        assert cached.cache.size <= 20_000
    assert cached.cache.evictions > 50
    assert cached.counts.hits == 99
    long = b"select '" + b"\\" * 5000 + b"'"
    before = cached.cache.evictions
    cached.judge(long)
    cached.judge(long)
    assert cached.counts.hits == 99 and cached.cache.evictions == before  # one text may not push out the others


def test_databases_share_a_cache_and_no_verdict() -> None:
    cache = VerdictCache()
    one, other = Filter(cache=cache), Filter(Policy(allow_functions=("slugify",)), cache)
    assert one.judge(b"select slugify('x')").action is Action.REFUSE
    assert other.judge(b"select slugify('x')").action is Action.ALLOW
    assert len(cache.entries) == 3  # both texts, and the shape of the allowed one


def test_grammar_is_that_of_the_parser() -> None:
    assert pglast.get_postgresql_version()[0] == text.GRAMMAR


def test_a_syntax_error_says_that_a_newer_server_may_know_better() -> None:
    newer, grammar = Filter(), text.GRAMMAR
    newer.learn_version((grammar + 1) * 10000)
    statement = b"WAIT FOR LSN '0/306EE20'"
    verdict = newer.judge(statement)
    assert (verdict.rule, verdict.sqlstate, verdict.position) == ("syntax", "42601", 1)
    assert verdict.hint == (
        f"The server is PostgreSQL {grammar + 1}, and SideCart reads with the grammar of PostgreSQL {grammar}:"
        " if the syntax is new since then, upgrade SideCart, or write the statement without it."
    )
    assert newer.judge(b"delete from t") == Filter().judge(b"delete from t")
    for version in (0, 13, grammar):
        older = Filter()
        older.learn_version(version * 10000)
        assert older.judge(statement).hint == ""
        assert older.newer == 0


def test_a_new_catalogue_forgets_every_verdict() -> None:
    cached = Filter()
    message = b"P..."
    cached.remember_parse(message, cached.judge(b"select count(*) from orders where id = 1"))
    view = Relation(16384, "public", ())
    taint = Taint("view public.orders", "it calls function public.writer()", "public.orders")
    cached.learn_catalog(Catalog(relations={"orders": (view,)}, taints={(RELATION, 16384): taint}))
    assert cached.judge(b"select count(*) from orders where id = 1").rule == "unproved-relation"
    assert cached.judge(b"select count(*) from orders where id = 2").rule == "unproved-relation"
    assert not cached.plain.parses


def test_statements_that_differ_in_constants_are_parsed_once() -> None:
    cached = Filter()
    for number in range(50):
        assert cached.judge(f"select a from t where id = {number} and v = 'é{number}'".encode()).action is Action.ALLOW
    assert (cached.counts.misses, cached.counts.shape_hits) == (1, 49)


TRACED = "/*action='index',traceparent='00-{number:032x}-{number:016x}-01'*/"


@pytest.mark.parametrize(
    ("sql", "extended"),
    [
        (f"select a from t where id = {{number}} {TRACED}", 0),
        (f"{TRACED} select a from t where v = 'it''s' and w = '\\w+'", 1),
        ("-- user: o'hara{number}\nselect a from t where v = E'a\\nb'", 0),
        ("/* Query ID: {number}; Username: é */ select 1 -- {number}", 0),
        (f"select set_config('a.b', 'c', false) {TRACED}", 0),
        (f"begin {TRACED}", 0),
        (f"select 1; select 2 {TRACED}", 0),
        ("select " + "a, " * 4_000 + "b from t " + TRACED, 0),
    ],
)
def test_statements_that_differ_in_comments_are_parsed_once_and_kept_once(sql: str, extended: int) -> None:
    cached = Filter()
    texts = changing(sql, 200)
    alone = Filter().judge(texts[0], extended=extended)
    assert alone.action is Action.ALLOW
    for each in texts:
        assert cached.judge(each, extended=extended) == alone
    assert (cached.counts.misses, cached.counts.shape_hits, len(cached.cache.entries)) == (1, 199, 1)
    assert cached.recall(changing(sql, 300)[-1], "utf-8", extended) == alone


def changing(sql: str, count: int) -> list[bytes]:
    """Return a text under so many numbers, which stand there as in a format string."""
    return [numbered(sql, number).encode() for number in range(count)]


def numbered(sql: str, number: int) -> str:
    return re.sub(r"\{number:?(\w*)\}", lambda found: format(number, found[1]), sql)


def test_a_text_whose_comment_stays_is_kept_whole() -> None:
    cached = Filter()
    for _ in range(5):
        cached.judge(b"/* the application */ select a from t where v = 'x'")
    assert (cached.counts.misses, cached.counts.shape_hits, cached.counts.hits) == (1, 1, 3)
    for _ in range(4):
        cached.judge(b"/* the application */ delete from t")
    assert (cached.counts.misses, cached.counts.hits) == (3, 5)


def test_refusals_and_whole_messages_are_not_kept_under_comments_that_change() -> None:
    cached = Filter()
    for each in changing(f"delete from t {TRACED}", 50):
        assert cached.judge(each).rule == Filter().judge(each).rule
    assert not cached.cache.entries
    for each in changing(f"select 1 {TRACED}", 50):
        cached.remember_parse(b"P" + each, cached.judge(each, extended=1))
    assert not cached.plain.parses
    for _ in range(2):
        cached.remember_parse(b"P/* the application */ select 1", cached.judge(b"/**/ select 1", extended=1))
    assert len(cached.plain.parses) == 1


def test_a_refusal_points_to_its_place_behind_any_comment() -> None:
    cached = Filter()
    cached.judge(b"/**/ select 1, lo_create(1)")
    for comment in ("/**/", "/* é */", "-- x\n", "/* a longer one */"):
        text = f"{comment} select 1, lo_create(1)"
        assert cached.judge(text.encode()).position == text.index("lo_create") + 1
        text = f"{comment} select 1 frm frm"
        assert cached.judge(text.encode()).position == text.rindex("frm") + 1


def test_a_comment_is_read_in_its_encoding_all_the_same() -> None:
    cached = Filter()
    assert cached.judge("/* é */ select 1".encode()).action is Action.ALLOW
    assert cached.judge(b"/* \xe9 */ select 1").rule == "encoding"
    assert cached.judge(b"/* \xe9 */ select 1", "latin-1").action is Action.ALLOW
    assert cached.judge(b"/* \0 */ select 1").rule == "nul-byte"
    short = Filter(Policy(max_query_length=100))
    assert short.judge(b"/* a */ select 1").action is Action.ALLOW
    assert short.judge(b"/* " + b"a" * 100 + b" */ select 1").rule == "length"


def test_operators_without_end_are_refused_in_comments_too() -> None:
    cached = Filter()
    assert cached.judge(b"/* a */ select 1").action is Action.ALLOW
    assert cached.judge(b"/*" + b"/*" * 3_000 + b"*/ select 1").rule == "operator-run"
    assert cached.judge(b"select " + b"+-" * 1_500 + b"1 /*a*/").action is Action.ALLOW
    assert cached.judge(b"select " + b"+-" * 1_500 + b"/*" + b"-" * 5_000 + b"*/1").rule == "operator-run"


def test_letters_beyond_ascii_in_a_comment_name_nothing() -> None:
    cached = Filter()
    cached.learn_catalog(Catalog(spellings="LATIN1"))
    assert cached.judge("/* José */ select 1".encode("latin-1"), tables.RAW).action is Action.ALLOW
    assert cached.judge("select 1 as é /* José */".encode("latin-1"), tables.RAW).rule == "encoding"


def test_a_shape_is_of_no_use_where_a_constant_decides() -> None:
    cached = Filter()
    for mode, action in (("262144", Action.ALLOW), ("131072", Action.REFUSE), ("262144", Action.ALLOW)):
        assert cached.judge(f"select lo_open(1, {mode})".encode()).action is action
    for sql, action in (("select 1", Action.ALLOW), ("delete from t", Action.REFUSE)):
        assert cached.judge(f"select query_to_xml('{sql}', true, true, '')".encode()).action is action
    for value, action in (("on", Action.ALLOW), ("off", Action.REFUSE)):
        text = f"select set_config('default_transaction_read_only', '{value}', false)"
        assert cached.judge(text.encode()).action is action
    for name, action in (("int4", Action.ALLOW), ("evildom", Action.REFUSE)):
        assert cached.judge(f"select pg_input_is_valid('1', '{name}')".encode()).action is action
    assert cached.counts.shape_hits == 0


# -- shapes that end other processes (SPEC 5.8) --------------------------------------------------------------------

SHAPES = {
    "plus": ("select ", "1+", 100_000, "1"),
    "concat": ("select ", "'a'||", 20_000, "'b'"),
    "cast": ("select 1", "::int", 100_000, ""),
    "isnull": ("select 1", " isnull", 100_000, ""),
    "union": ("table a", " union all table a", 50_000, ""),
    "time zone": ("select a", " at time zone 'x'", 30_000, ""),
    "join": ("select * from a", " natural join a", 40_000, ""),
    "collate": ("select a", " collate b", 60_000, ""),
    "parentheses": ("select ", "(", 100_000, "1"),
    "not": ("select ", "not ", 100_000, "1"),
    "minus": ("select ", "- ", 100_000, "1"),
    "sub-select": ("select ", "(select ", 50_000, "1"),
    "array": ("select ", "array[", 50_000, "1"),
    "case": ("select ", "case when a then ", 50_000, "1"),
    "call": ("select ", "abs(", 50_000, "1"),
    "with": ("", "with a as (", 5_000, "select 1"),
    "comment": ("", "/*", 500_000, ""),
    "comment with an operator": ("/*", ">/*", 300_000, ""),
    "plus and minus": ("select 1", "+-", 500_000, "1"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_endless_shapes_are_refused(shape: str) -> None:
    head, unit, count, tail = SHAPES[shape]
    verdict = judge((head + unit * count + tail)[: 1 << 20])
    assert (verdict.action, verdict.sqlstate) == (Action.REFUSE, "54001")


@pytest.mark.parametrize(
    "sql",
    [
        "select " + "'a'||" * 3900 + "'b'",
        " union all ".join(["select 1"] * 3000),
        "select 1 where " + "a and (b or (" * 300 + "c" + "))" * 300,
        "select 1 where a" + " or a" * 20_000,
        "select 1 where 1 in (" + "12345," * 20_000 + "1)",
        "select '" + "+-/*" * 1000 + "'",
        "-- " + "=" * 5000 + "\nselect 1 + 1",
    ],
    ids=["concat", "union", "and-or", "or", "in", "a string of operators", "a banner"],
)
def test_long_reports_are_allowed(sql: str) -> None:
    limit = sys.getrecursionlimit()
    assert judge(sql).action is Action.ALLOW
    assert sys.getrecursionlimit() == limit


def test_the_deepest_tree_that_is_decoded_does_not_end_the_process() -> None:
    """In a process of its own: with an 8 MB stack, right below the bound, and right above it."""
    code = (
        "import msgspec, sys; from proxy.sql import text; from proxy.filter import Filter\n"
        "sys.setrecursionlimit(1_000_000)\n"
        "f = Filter()\n"
        "n = (text.MAX_DEPTH - 20) // 2\n"
        "near, beyond = (f.judge(b'select ' + b'1+' * n + b'1') for n in (n, n + 20))\n"
        "print(near.action.value, beyond.rule)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["allow", "depth"]), done.stderr


@pytest.mark.parametrize("value", [{}, [], {"a": [1, -2.5, True, False, None, {}, [[]]], "b": '{["\u00e9é,:]}'}])
def test_deep_decoder_reads_what_json_writes(value: object) -> None:
    for written in (json.dumps(value), json.dumps(value, separators=(",", ":"), ensure_ascii=False)):
        assert text.decode_deep(written) == value


def test_deep_decoder_agrees_with_the_other_on_the_whole_corpus() -> None:
    for line in (DATA / "corpus.jsonl").read_text().splitlines():
        sql = json.loads(line).get("sql", "")
        if "\0" in sql:
            continue
        try:
            tree = parse_sql_json(sql)
        except ParseError:
            continue
        assert text.decode_deep(tree) == json.loads(tree)


def test_depth_counts_brackets_outside_strings() -> None:
    assert text.depth('{"a":["{[\\"{",{"b":{}}]}') == 4
    assert text.depth('"["') == 0


def test_an_unexpected_fault_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> list[object]:
        raise ZeroDivisionError

    monkeypatch.setattr("proxy.sql.text.parse", broken)
    verdict = Filter().judge(b"select 1")
    assert (verdict.action, verdict.rule, verdict.sqlstate) == (Action.REFUSE, "internal", "XX000")


def test_unknown_parts_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(tables.NODES, "ParamRef")
    assert Filter().judge(b"select $1").rule == "unknown-node"
    monkeypatch.setitem(tables.NODES, "ParamRef", {"location": tables.SCALAR})
    assert Filter().judge(b"select $1").rule == "unknown-field"


# -- splicing ------------------------------------------------------------------------------------------------------

SLOTS = [
    "select {}", "select 1 where {} is null", "select case when true then {} end", "select array[{}]", "values ({})",
    "select * from t order by {}", "select * from t group by {}", "select count(*) filter (where {} is null) from t",
    "select sum(1) over (partition by {} order by {}) from t", "select * from t join u on {} = 1", "select 1 limit {}",
    "select (select {})", "select exists (select {})", "with x as (select {}) select * from x", "select row({}, 1)",
    "select * from unnest(array[{}]) u", "select * from rows from (generate_series(1, {}))", "select 1 in (1, {})",
    "select {} between 1 and 2", "select coalesce({}, 1)", "select nullif(1, {})", "select {}::text collate \"C\"",
    "select json_object('a': {})", "select xmlelement(name a, {})", "select distinct on ({}) 1", "select -({})",
    "select * from t tablesample bernoulli ({})", "select (array[1])[{}]", "select a[{}:1] from t", "execute p({})",
    "explain select {}", "explain (analyze) select {}", "copy (select {}) to stdout", "prepare p as select {}",
    "declare c cursor for select {}", "select 1; select {}", "select query_to_xml('select {}', true, true, '')",
    "select f.x from (select {} as x) f", "select 1 union all select {}", "select * from (values (1, {})) v",
    "select max({}) within group (order by 1)", "select (({}))", "select lower({}::text)", "select 1 offset {}",
    "select * from xmltable('/a' passing {} columns a int path '.')", "select {} at time zone 'utc'",
]  # fmt: skip
CALLS = [
    "lo_create(0)", "pg_catalog.lo_creat(-1)", "(0::oid).lo_create", "x.nextval", "no_such_function(1)",
    "public.f(1)", "pg_notify(chr(1), chr(2))", "set_config($1, $2, false)", "pg_switch_wal()", "pg_read_file(chr(1))",
    "ts_stat($1)", "lo_open(1, 131072)", "1 operator(public.+) 2", "(with d as (delete from t) select 1)",
    "(select 1 from t for update)", "pg_terminate_backend(1)", "dblink_exec(chr(1))",
]  # fmt: skip


def test_the_slots_are_reads() -> None:
    for slot in SLOTS:
        assert judge(slot.replace("{}", "1")).action is Action.ALLOW, slot


@given(st.lists(st.sampled_from(SLOTS[:27]), max_size=3), st.sampled_from(SLOTS), st.sampled_from(CALLS))
@settings(deadline=None, max_examples=400)
def test_a_side_effect_in_any_slot_is_refused(inner: list[str], outer: str, call: str) -> None:
    """Nest the call as sub-selects in a few slots, then in one that may be a statement's."""
    expression = call
    for slot in inner:
        expression = f"({slot.replace('{}', expression)})"
    verdict = judge(outer.replace("{}", expression))
    assert verdict.action is Action.REFUSE
    assert verdict.rule != "internal"


ALLOWED = [
    sql
    for line in (DATA / "corpus.jsonl").read_text("utf-8").splitlines()
    if (case := json.loads(line))["verdict"] == "allow" and "requires" not in case and (sql := case.get("sql"))
]


@given(st.sampled_from(ALLOWED), st.data())
@settings(deadline=None, max_examples=300)
def test_spliced_constants_of_the_corpus(sql: str, data: st.DataObject) -> None:
    """Put a call in the place of one constant of an allowed text: what still parses is refused."""
    from pglast.parser import scan

    constants = [token for token in scan(sql) if token.name in ("ICONST", "SCONST")]
    if not constants:
        return
    token = data.draw(st.sampled_from(constants))
    call = data.draw(st.sampled_from(CALLS))
    assert judge(f"{sql[: token.start]}({call}){sql[token.end + 1 :]}").action is Action.REFUSE


@given(st.binary(max_size=60), st.sampled_from(["utf-8", "latin-1", tables.ENCODINGS["eucjp"]]))
@settings(deadline=None, max_examples=300)
def test_no_bytes_raise(data: bytes, encoding: str) -> None:
    verdict = FILTER.judge(data, encoding)
    assert verdict.rule != "internal"
    assert verdict.position <= len(data) + 1


@given(st.sampled_from(ALLOWED), st.integers(0, 400), st.text(max_size=4))
@settings(deadline=None, max_examples=300)
def test_no_broken_text_is_an_internal_fault(sql: str, cut: int, more: str) -> None:
    broken = (sql[:cut] + more + sql[cut + 1 :]).encode(errors="replace")
    assert FILTER.judge(broken).rule != "internal"


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ("", []),
        ("-c work_mem=1MB", [("work_mem", "1MB")]),
        ("-cwork_mem=1MB --search-path=a", [("work_mem", "1MB"), ("search_path", "a")]),
        (r"-c search_path=a,\ b\\c", [("search_path", "a, b\\c")]),
        ("  -c a=  ", [("a", "")]),
        ("-c default-transaction-read-only=off", [("default_transaction_read_only", "off")]),
    ],
)
def test_startup_options(options: str, pairs: list[tuple[str, str]]) -> None:
    assert split_options(options) == pairs


@pytest.mark.parametrize("options", ["-F", "-c", "-c a", "--", "-c =x", "word", "-e"])
def test_options_that_are_no_settings_are_refused(options: str) -> None:
    assert split_options(options) is None


def test_version_of_the_server_decides_which_names_are_built_in() -> None:
    judge = Filter()
    assert judge.judge(b"select array_sort(array[2, 1])").action is Action.ALLOW
    judge.learn_version(150000)
    assert judge.judge(b"select array_sort(array[2, 1])").rule == "unknown-function"
    judge.learn_version(180000)
    assert judge.judge(b"select array_sort(array[2, 1])").action is Action.ALLOW


def test_what_does_more_with_its_arguments_than_look_at_them_is_asked_for_them() -> None:
    plain = Functions(Policy()).plain
    looks = {"data", "describes", "search", "cursor", "file"}  # files are the switch's
    for (extension, name, signature), words in tables.ARGUMENTS.items():
        what, *positions = words.split()
        assert all(int(position) < len(signature.split(",")) for position in positions), name
        if extension == "pg_catalog":
            assert what in looks | {"input"} or name not in plain, name
            continue
        found = tables.EXTENSIONS.get(name)
        verdict = found.verdict if found is not None and found.extension.startswith(extension) else ""
        if what in ("runs", "function", "effect", "relation", "code", "sql"):
            # Without a word in the table it is refused, unless labels of that extension are believed.
            believed = extension in tables.READING_EXTENSIONS and name not in tables.READING_EXTENSIONS[extension]
            assert verdict in ("block", "conditional") or not (verdict or believed), (extension, name)


@pytest.mark.parametrize(
    ("encoding", "bytes_", "name"), [("EUC_JP", b"f\xa1\xc1", "f\uff5e"), ("EUC_JIS_2004", b"f\xa1\xbd", "f\u2014")]
)
def test_attack_name_with_a_letter_that_python_takes_for_another_one(encoding: str, bytes_: bytes, name: str) -> None:
    codec = python_codec(encoding)
    assert codec is not None
    assert text.decode(bytes_, codec) == name
    assert name.encode(codec) == bytes_
    begin = Filter().judge(b"begin read write; select '" + bytes_ + b"'", codec)
    assert begin.text == b"BEGIN READ ONLY; select '" + bytes_ + b"'"


def test_system_user_is_a_column_before_it_is_a_keyword() -> None:
    for sql in ("select system_user from t", "select 1 as system_user", "select t.system_user from t"):
        for version in (150018, 160014):
            assert Filter(Policy(server_version=version)).judge(sql.encode()).action is Action.ALLOW, (sql, version)


def test_wide_filter_learns_what_the_other_learns() -> None:
    judge = Filter()
    wide = judge.wide
    assert wide.wide is wide is judge.wide
    assert wide.counts is judge.counts
    judge.learn_version(150000)
    judge.learn_catalog(Catalog(database="shop"))
    assert (wide.policy, wide.catalog) == (judge.policy, judge.catalog)
    assert wide.functions is not judge.functions

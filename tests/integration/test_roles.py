"""Of a type's own code a statement is judged by what it runs: what it does not run may do anything.

Whatever must not run raises HOSTILE. The server alone is asked first, and does: so each of these tests can fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.filter import OWN_PARSE, Filter
from proxy.sql.verdict import Action
from tests import servers
from tests.integration.test_reach import HOSTILE, learn, runs

_BODY = f"LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', ''); RAISE EXCEPTION '{HOSTILE}'; END $$"
OBJECTS = f"""
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE FUNCTION shown(mood) RETURNS json IMMUTABLE {_BODY};
CREATE FUNCTION told(mood) RETURNS text IMMUTABLE {_BODY};
CREATE CAST (mood AS json) WITH FUNCTION shown(mood);
CREATE CAST (mood AS text) WITH FUNCTION told(mood);
CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE DOMAIN checked AS int CHECK (is_fine(value));
CREATE TYPE size AS ENUM ('s', 'l');
CREATE FUNCTION less(size, size) RETURNS bool IMMUTABLE {_BODY};
CREATE FUNCTION same(size, size) RETURNS bool IMMUTABLE {_BODY};
CREATE FUNCTION compared(size, size) RETURNS int IMMUTABLE {_BODY};
CREATE OPERATOR <<<< (FUNCTION = less, LEFTARG = size, RIGHTARG = size);
CREATE OPERATOR ==== (FUNCTION = same, LEFTARG = size, RIGHTARG = size);
CREATE OPERATOR >>>> (FUNCTION = less, LEFTARG = size, RIGHTARG = size);
CREATE OPERATOR CLASS size_ops DEFAULT FOR TYPE size USING btree AS
    OPERATOR 1 <<<<, OPERATOR 3 ====, OPERATOR 5 >>>>, FUNCTION 1 compared(size, size);
CREATE TYPE duo AS (m mood, d checked);
CREATE TABLE t (i int, m mood, d checked, s size, b duo, ms mood[]);
INSERT INTO t VALUES (1, 'ok', 1, 's', '(ok,1)', '{{ok}}'), (2, 'sad', 2, 'l', NULL, '{{}}');
CREATE FUNCTION as_text(anyelement) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
CREATE OR REPLACE FUNCTION is_fine(int) RETURNS bool IMMUTABLE {_BODY};
"""
ATTACKS = [
    "SELECT to_json(m) FROM t",
    "SELECT row_to_json(t) FROM t",
    "SELECT json_agg(m) FROM t",
    "SELECT jsonb_build_object('m', m) FROM t",
    "SELECT array_to_json(ms) FROM t",
    "SELECT to_json(ARRAY[m]) FROM t",
    "SELECT to_json(ROW(m, 1)) FROM t",
    "SELECT to_json(x) FROM (SELECT m AS y FROM t) x",
    "SELECT to_json(b) FROM t",
    "SELECT quote_literal(m) FROM t",
    "SELECT quote_nullable(m) FROM t",
    "SELECT m || 'x' FROM t",
    "SELECT m::text FROM t",
    "SELECT as_text(m) FROM t",
    "SELECT '1'::checked",
    "SELECT i::checked FROM t",
    "SELECT '(ok,1)'::duo",
    "SELECT ROW(m, 1)::duo FROM t",
    "SELECT '{1}'::checked[]",
    "SELECT json_populate_record(b, '{\"d\": 1}') FROM t",
    """SELECT d FROM json_to_record('{"d": 1}') x(d checked)""",
    "SELECT s FROM t ORDER BY s",
    "SELECT s FROM t ORDER BY 1 DESC",
    "SELECT GREATEST(s, 'l') FROM t",
    "SELECT DISTINCT s FROM t",
    "SELECT s, count(*) FROM t GROUP BY s",
    "SELECT s FROM t UNION SELECT s FROM t",
    "SELECT ARRAY[s] = ARRAY[s] FROM t",
    "SELECT x = x FROM (SELECT s AS y FROM t) x",
    "SELECT t = t FROM t",
    "SELECT rank() OVER (ORDER BY s) FROM t",
    "SELECT array_position(ARRAY[s], 'l') FROM t",
]
READS = [
    "SELECT i FROM t",
    "SELECT m FROM t",
    "SELECT * FROM t",
    "SELECT t FROM t",
    "TABLE t",
    "SELECT m FROM t WHERE m = 'ok' ORDER BY m",
    "SELECT m, count(*) FROM t GROUP BY m",
    "SELECT DISTINCT d FROM t",
    "SELECT max(d), min(m), count(DISTINCT m) FROM t",
    "SELECT d + 1 FROM t WHERE d > 0 ORDER BY d",
    "SELECT concat(m, s), format('%s', m) FROM t",
    "SELECT array_to_string(ms, ','), ms[1], ms || m FROM t",
    "SELECT to_json(d), to_json(s), quote_literal(d) FROM t",
    "SELECT 'ok'::mood, 's'::size",
    "SELECT (b).m, b FROM t",
    "SELECT lag(s) OVER (ORDER BY i), first_value(s) OVER (ORDER BY m) FROM t",
    "SELECT a.s FROM t a JOIN t b ON a.m = b.m",
]


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        found.sql("CREATE DATABASE roles")
        found.sql(OBJECTS, "roles")
        yield found
        found.sql("DROP DATABASE roles")


@pytest.fixture(scope="module")
def judge(server: EmbeddedServer) -> Filter:
    return learn(server, "roles")


def _allows(judge: Filter, text: str) -> bool:
    return judge.judge(text.encode()).action is Action.ALLOW


def test_attack_code_of_a_type_in_each_of_its_roles(server: EmbeddedServer, judge: Filter) -> None:
    assert [text for text in ATTACKS if not runs(server, text, "roles")] == []
    assert [text for text in ATTACKS if _allows(judge, text)] == []
    assert [text for text in ATTACKS if _allows(judge.wide, text)] == []


def test_code_of_a_type_that_does_not_run_spoils_nothing(server: EmbeddedServer, judge: Filter) -> None:
    assert [text for text in READS if runs(server, text, "roles")] == []
    assert [text for text in READS if not _allows(judge, text)] == []


def test_attack_plan_that_may_remember_what_it_found_for_a_value(judge: Filter) -> None:
    """PostgreSQL 14.0 and 14.1 told such values apart by the type's own operators."""
    query = "SELECT x.y FROM t, LATERAL (SELECT {} AS y FROM t b WHERE b.i = t.i OFFSET 0) x"
    assert _allows(judge, query.format("t.m"))
    assert not _allows(judge, query.format("t.s"))


def test_attack_parameter_of_a_type_whose_input_is_no_read(server: EmbeddedServer, judge: Filter) -> None:
    (oid,) = map(int, server.sql("SELECT 'checked'::regtype::oid", "roles").split())
    verdict = judge.judge(b"SELECT $1", extended=True | OWN_PARSE, types=(oid,))
    assert verdict.action is Action.REFUSE
    assert not _allows(judge, "SELECT $1::checked")


def test_refusal_says_what_runs(judge: Filter) -> None:
    verdict = judge.judge(b"SELECT to_json(m) FROM t")
    assert verdict.rule == "unproved-type"
    assert "type public.mood" in verdict.detail
    assert "the cast from public.mood to json" in verdict.detail

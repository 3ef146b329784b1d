"""What a name in a body is of: a parameter, a variable or a column, whichever the server takes.

Beside operators that are no reads: each attack runs one of them on the server alone, and no read does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.sql.verdict import Action
from tests import servers
from tests.integration.test_reach import _NOTIFYING, learn, runs

DATABASE = "variables"
SETUP = f"""
CREATE TYPE spy AS ENUM ('x', '2 m');
CREATE CAST (text AS spy) WITH INOUT AS IMPLICIT;
CREATE FUNCTION likes(jsonb, spy) RETURNS bool {_NOTIFYING};
CREATE OPERATOR ~~ (FUNCTION = likes, LEFTARG = jsonb, RIGHTARG = spy);
CREATE FUNCTION joined(spy, spy) RETURNS spy {_NOTIFYING};
CREATE OPERATOR || (FUNCTION = joined, LEFTARG = spy, RIGHTARG = spy);
CREATE TABLE notes (id int, note text, meta jsonb);
INSERT INTO notes VALUES (1, 'xx', '{{}}');
"""
READS = (
    "f(n int) RETURNS text LANGUAGE sql AS $$ SELECT 'few ' || n $$; SELECT f(1)",
    "f(n int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN 'few ' || n; END $$; SELECT f(1)",
    "f(n bigint, OUT r text) LANGUAGE plpgsql AS $$ DECLARE v text := 'a'; k int; BEGIN SELECT count(*) INTO k"
    " FROM notes WHERE note LIKE '%x'; v := v || n || k; IF v LIKE 'x%' THEN r := v || '!'; END IF; END $$;"
    " SELECT f(1)",
    "f(c text) RETURNS bool LANGUAGE sql AS $$ SELECT c LIKE 'a%' AND EXISTS (SELECT 1 FROM notes WHERE note LIKE"
    " c || '%' AND c > 'a') $$; SELECT f('b')",
    "f(n int) RETURNS text LANGUAGE plpgsql AS $$ DECLARE r text := ''; BEGIN FOR i IN 1..n LOOP r := r || i || ', ';"
    " END LOOP; RETURN r; END $$; SELECT f(2)",
    "f() RETURNS TABLE (label text) LANGUAGE plpgsql AS $$ BEGIN label := 'a'; label := label || '!';"
    " RETURN NEXT; END $$; SELECT * FROM f()",
)
ATTACKS = (
    "f(j jsonb) RETURNS bool LANGUAGE sql AS $$ SELECT j ~~ '2 m' $$; SELECT f('{}')",
    "f(j jsonb) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN j ~~ '2 m'; END $$; SELECT f('{}')",
    "f(note jsonb) RETURNS bigint LANGUAGE plpgsql AS $$ #variable_conflict use_variable\n"
    "BEGIN RETURN (SELECT count(*) FROM notes WHERE note ~~ '2 m'); END $$; SELECT f('{}')",
    "f(meta text) RETURNS bigint LANGUAGE plpgsql AS $$ #variable_conflict use_column\n"
    "BEGIN RETURN (SELECT count(*) FROM notes WHERE meta ~~ '2 m'); END $$; SELECT f('a')",
    "f(meta text) RETURNS bool LANGUAGE sql AS $$ SELECT meta ~~ '2 m' FROM notes $$; SELECT f('a')",
    "f(x text) RETURNS bool LANGUAGE sql AS $$ SELECT x ~~ '2 m' FROM (SELECT meta AS x FROM notes) s $$;"
    " SELECT f('a')",
    "f(x text) RETURNS bool LANGUAGE sql AS $$ SELECT x ~~ '2 m' FROM notes n(a, b, x) $$; SELECT f('a')",
    "f(x text) RETURNS bool LANGUAGE sql AS $$ WITH q(x) AS (SELECT meta FROM notes) SELECT x ~~ '2 m' FROM q $$;"
    " SELECT f('a')",
    "f(x text) RETURNS bool LANGUAGE sql AS $$ SELECT x ~~ '2 m' FROM jsonb_array_elements('[1]') x $$; SELECT f('a')",
    "f(j jsonb) RETURNS bool LANGUAGE plpgsql AS $$ DECLARE note ALIAS FOR j; BEGIN RETURN note ~~ '2 m'; END $$;"
    " SELECT f('{}')",
    "f(j jsonb) RETURNS bigint LANGUAGE plpgsql AS $$ #variable_conflict use_variable\n DECLARE note ALIAS FOR j;"
    " BEGIN RETURN (SELECT count(*) FROM notes WHERE note ~~ '2 m'); END $$; SELECT f('{}')",
    "f(x text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN DECLARE x jsonb := '{}'; BEGIN RETURN x ~~ '2 m'; END; END $$;"
    " SELECT f('a')",
    "f(x text) RETURNS bool LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN SELECT meta AS x INTO r FROM notes;"
    " RETURN r.x ~~ '2 m'; END $$; SELECT f('a')",
    "f(a text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE v spy := 'x'; BEGIN RETURN v || 'x'; END $$; SELECT f('a')",
    "f(v spy) RETURNS text LANGUAGE sql AS $$ SELECT v || 'x' $$; SELECT f('x')",
    "f(v spy) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN v || 'x'; END $$; SELECT f('x')",
)


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        try:
            server.sql(SETUP, DATABASE)
            yield server
        finally:
            server.sql(f"DROP DATABASE {DATABASE}")


@pytest.fixture(params=[(text, True) for text in ATTACKS] + [(text, False) for text in READS])
def case(request: pytest.FixtureRequest, server: EmbeddedServer) -> Iterator[tuple[str, bool]]:
    text, hostile = request.param
    body, _, call = text.rpartition("; ")
    server.sql(f"CREATE FUNCTION {body}", DATABASE)
    try:
        yield call, hostile
    finally:
        server.sql("DROP FUNCTION f", DATABASE)


def test_a_name_in_a_body_is_of_the_type_that_the_server_takes(server: EmbeddedServer, case: tuple[str, bool]) -> None:
    call, hostile = case
    assert runs(server, call, DATABASE) is hostile
    verdict = learn(server, DATABASE).judge(call.encode())
    assert (verdict.action is not Action.ALLOW) is hostile, verdict.detail

"""What is judged by the objects that the server picks is judged by all that it can pick, and all that then runs.

Whatever must not run raises HOSTILE. The server alone is asked first, and does: so each of these tests can fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.filter import Filter
from proxy.sql.verdict import Action, Verdict
from tests import servers
from tests.integration.test_reach import HOSTILE, learn, runs

_BODY = f"LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', ''); RAISE EXCEPTION '{HOSTILE}'; END $$"
OBJECTS = f"""
CREATE TYPE pair AS (a int, b int);
CREATE FUNCTION less(pair, pair) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE FUNCTION same(pair, pair) RETURNS bool IMMUTABLE {_BODY};
CREATE FUNCTION compared(pair, pair) RETURNS int IMMUTABLE {_BODY};
CREATE OPERATOR <<<< (FUNCTION = less, LEFTARG = pair, RIGHTARG = pair);
CREATE OPERATOR ==== (FUNCTION = same, LEFTARG = pair, RIGHTARG = pair);
CREATE OPERATOR >>>> (FUNCTION = less, LEFTARG = pair, RIGHTARG = pair);
CREATE OPERATOR CLASS pair_ops DEFAULT FOR TYPE pair USING btree AS
    OPERATOR 1 <<<<, OPERATOR 3 ====, OPERATOR 5 >>>>, FUNCTION 1 compared(pair, pair);
CREATE TABLE pairs (ps pair[]); INSERT INTO pairs VALUES ('{{"(1,2)"}}');
CREATE TABLE others (ps pair[]); INSERT INTO others VALUES ('{{"(1,2)"}}');
CREATE TABLE held (rs pairs[]); INSERT INTO held SELECT ARRAY[pairs] FROM pairs;
CREATE TABLE held_too (rs pairs[]); INSERT INTO held_too TABLE held;
CREATE TABLE plain (id int, name varchar(9)); INSERT INTO plain VALUES (1, 'x');
CREATE FUNCTION shown(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION shown(varchar) RETURNS text {_BODY};
CREATE FUNCTION shown(bigint) RETURNS text {_BODY};
CREATE FUNCTION two(text, bigint) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION two(int, int) RETURNS text {_BODY};
CREATE FUNCTION of_path(bigint) RETURNS text LANGUAGE sql AS 'SELECT ''x''::text';
CREATE SCHEMA evil;
CREATE FUNCTION evil.of_path(int) RETURNS text {_BODY};
"""
MERGED = [
    "SELECT 1 FROM pairs JOIN others USING (ps)",
    "SELECT count(*) FROM pairs NATURAL JOIN others",
    "SELECT 1 FROM pairs FULL JOIN others USING (ps)",
    "SELECT 1 FROM pairs JOIN others USING (ps) AS merged",
    "SELECT 1 FROM held JOIN held_too USING (rs)",
]
BY_PLACE = "SELECT shown(x) FROM (SELECT 'x' AS x, 'y' AS y GROUP BY {} UNION ALL SELECT name, name FROM plain) s"
TEXT = "query_to_xml('SELECT of_path(1)', true, true, '')"
CHANGED = [
    f"SELECT {TEXT} FROM (SELECT set_config('search_path', 'evil,public', false) OFFSET 0) s",
    f"BEGIN; DECLARE c CURSOR FOR SELECT {TEXT}; SET LOCAL search_path = evil, public; FETCH c; ROLLBACK",
]


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        found.sql("CREATE DATABASE picked")
        found.sql(OBJECTS, "picked")
        yield found
        found.sql("DROP DATABASE picked")


@pytest.fixture
def judge(server: EmbeddedServer) -> Filter:
    return learn(server, "picked")


def _allows(judge: Filter, text: str, *types: int) -> bool:
    return judge.judge(text.encode(), extended=bool(types), types=types).action is Action.ALLOW


def test_attack_column_that_a_join_compares_and_no_node_of_the_tree_names(
    server: EmbeddedServer, judge: Filter
) -> None:
    if server.sql("SHOW server_version_num") < "140000":
        attacks = [text for text in MERGED if " AS merged" not in text]
    else:
        attacks = MERGED
    assert [text for text in attacks if not runs(server, text, "picked")] == []
    assert [text for text in attacks if _allows(judge, text)] == []
    assert _allows(judge, "SELECT 1 FROM plain a JOIN plain b USING (id)")


def test_attack_text_that_runs_under_a_path_that_comes_later(server: EmbeddedServer, judge: Filter) -> None:
    assert [text for text in CHANGED if not runs(server, text, "picked")] == []
    assert [text for text in CHANGED if _allows(judge, text)] == []
    assert not _allows(judge, f"SELECT {TEXT}")  # a portal of it may be run when another statement has changed the path
    assert _allows(judge, "SELECT of_path(1)")
    assert _allows(judge, "SELECT query_to_xml('SELECT id FROM plain', true, true, '')")


def test_attack_number_of_an_output_column_that_says_which_literal_is_text(
    server: EmbeddedServer, judge: Filter
) -> None:
    assert runs(server, BY_PLACE.format(2), "picked")
    assert not runs(server, BY_PLACE.format(1), "picked")
    assert _allows(judge, BY_PLACE.format(1))
    assert not _allows(judge, BY_PLACE.format(2))
    text = "SELECT $1, 1, count(*) OVER w FROM plain WINDOW w AS (ORDER BY two($1, 1)) ORDER BY {}"
    assert _allows(judge, text.format(1), 0)
    assert not _allows(judge, text.format(2), 0)
    assert _allows(judge, "SELECT id, count(*) FROM plain GROUP BY 1 ORDER BY 2")
    assert _allows(judge, "SELECT id, count(*) FROM plain GROUP BY 1 ORDER BY 1")
    assert judge.counts.shape_hits == 0, "types are compared by what is no read here, and these two differ"
    assert _allows(judge, "SELECT id, id + 1 FROM plain ORDER BY 2")
    assert _allows(judge, "SELECT id, id + 1 FROM plain ORDER BY 1")
    assert judge.counts.shape_hits == 1, "no literal is a column of it, and both are of one type: one verdict for all"


def test_attack_long_text_that_is_like_a_short_one_with_parameters_of_other_types(judge: Filter) -> None:
    text = b"SELECT shown($1), '%s'"
    assert judge.judge(text % b"x", extended=1).action is Action.ALLOW
    assert judge.judge(text % b"x", extended=1, types=(20,)).action is Action.REFUSE
    assert judge.recall(text % (b"x" * 3000), "utf-8", 1, (20,)) is None
    judge.remember(text % (b"y" * 3000), "utf-8", 1, Verdict(Action.ALLOW, "select"), (25,))
    assert judge.recall(text % (b"y" * 3000), "utf-8", 1, (25,)) is not None
    assert judge.recall(text % (b"y" * 3000), "utf-8", 1, (20,)) is None
    assert judge.recall(text % (b"x" * 3000), "utf-8", 1) is not None


def test_function_of_the_information_schema_is_the_one_that_it_is_where_it_stands(judge: Filter) -> None:
    """That is how JDBC drivers look for primary keys."""
    assert _allows(judge, "SELECT (information_schema._pg_expandarray(i.indkey)).n FROM pg_catalog.pg_index i")
    assert not _allows(judge, "SELECT information_schema._pg_no_such(1)")


def test_sample_of_a_method_that_an_extension_has(server: EmbeddedServer) -> None:
    if not server.sql("SELECT 1 FROM pg_available_extensions WHERE name = 'tsm_system_rows'"):
        pytest.skip("the server has no contrib")
    server.sql("CREATE EXTENSION tsm_system_rows", "picked")
    try:
        assert _allows(learn(server, "picked"), "SELECT id FROM plain TABLESAMPLE system_rows(1)")
    finally:
        server.sql("DROP EXTENSION tsm_system_rows", "picked")


def test_prepare_is_resolved_with_the_types_that_it_gives(server: EmbeddedServer, judge: Filter) -> None:
    """Not behind something in the same text, where an EXECUTE could follow under another path; nor in a Parse."""
    honest = [
        "PREPARE p AS SELECT shown($1)",
        "PREPARE p (text) AS SELECT shown($1), $2 + 1",
        "PREPARE p (name) AS TABLE plain",
    ]
    assert [text for text in honest if not _allows(judge, text)] == []
    for type_, value in (("varchar", "'x'"), ("varchar(3)", "'x'"), ("bigint", "1"), ("int", "1"), ("smallint", "1")):
        text = f"PREPARE p ({type_}) AS SELECT shown($1)"
        assert runs(server, f"{text}; EXECUTE p ({value})", "picked"), text
        assert not _allows(judge, text), text
    later = "PREPARE p AS SELECT of_path(1); SET search_path = evil, public; EXECUTE p"
    assert runs(server, later, "picked")
    assert not _allows(judge, later)
    assert _allows(judge, "PREPARE p AS SELECT of_path(1)")
    assert judge.judge(b"PREPARE p AS SELECT of_path(1)", extended=1).action is Action.REFUSE


SPLIT = [("0x1f", "x1f"), ("1_0", "_0"), ("0b1", "b1"), ("0O7", "o7"), ("1e1_0", "_0"), ("1.5_0", "_0")]


@pytest.mark.parametrize(("number", "name"), SPLIT)
def test_attack_number_that_is_another_one_and_a_name_to_older_servers(
    server: EmbeddedServer, number: str, name: str
) -> None:
    """To those before 15, `SELECT 0x1f` is `SELECT 0 AS x1f`, where the parser here reads 31."""
    attack = f"SELECT (SELECT seen({name}) FROM (SELECT {number}) s) FROM (SELECT 1::bigint AS {name}) o"
    server.sql(f"CREATE FUNCTION seen(numeric) RETURNS text {_BODY}", "picked")
    server.sql(f"CREATE FUNCTION seen(int) RETURNS text {_BODY}", "picked")
    server.sql("CREATE FUNCTION seen(bigint) RETURNS text LANGUAGE sql AS 'SELECT ''x''::text'", "picked")
    try:
        known = learn(server, "picked")
        if known.policy.server_version < 150000:
            assert runs(server, attack, "picked")
            assert not _allows(known, attack)
        assert _allows(known, "SELECT seen(10::bigint), a1_0 FROM (SELECT 1 AS a1_0) x1")
    finally:
        server.sql("DROP FUNCTION seen(int), seen(numeric), seen(bigint)", "picked")

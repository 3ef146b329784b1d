"""The world of a database against its server: what is built in, and its own; on the shared one, and on 13 to 18."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.operating import catalogue
from proxy.proofs.rows import load_query
from proxy.sql.resolve import building, built_in, rows
from proxy.sql.resolve.world import World
from tests import servers
from tests.integration.test_pg_proc import LOOKED_AT
from tools.built_ins import tables

READER, PASSWORD = "world_reader", "secret"

HOSTILE = r"""
create function pg_catalog.smuggled(int) returns int language sql as 'select 1';
create function public.upper(varchar) returns text language sql as $$ select 'mine' $$;
create function public."odd/name\"("a/b" int, "c\d" int default 1, out text) returns text language sql as
    $$ select 'x' $$;
create function public.many(variadic int[]) returns int language sql as 'select 1';
create procedure public.does() language sql as 'select 1';
create schema hidden;
create schema other;
create type public.mood as enum ('well', 'ill');
create type public.ct as (a int, "b/\ c" varchar(10)[]);
create domain public.small as int check (value < 10);
create domain other.of_rows as public.ct[];
create type public.spread as range (subtype = public.small);
create table public.t (id int, "slash/ed" numeric(10,2), "back\slash" text, gone int, "ü" public.mood, r public.ct);
alter table public.t drop column gone;
create table other.t (like public.t);
create table other."_t" (id int);
create table public.none ();
create table public.heir (more int) inherits (public.t, other.t);
create table public.typed of public.ct;
create table public.parts (id int) partition by range (id);
create table public.part partition of public.parts for values from (0) to (9);
create view public.v as select t.*, 1::smallint as n from public.t;
create materialized view public.m as select 1 as one;
create sequence public.s;
create table public.sixty_three_bytes_are_what_a_name_can_have_in_postgresql_at_most (a int);
create function public.less(public.ct, public.ct) returns bool language sql immutable as $$ select ($1).a < ($2).a $$;
create function public.compare(public.ct, public.ct) returns int language sql immutable as $$ select ($1).a - ($2).a $$;
create operator public.<~ (leftarg = public.ct, rightarg = public.ct, function = public.less);
create operator class public.ct_ops default for type public.ct using btree as
    operator 1 public.<~, function 1 public.compare(public.ct, public.ct);
create function public.shown(public.mood) returns text language sql as $$ select 'x' $$;
create operator other.@ (rightarg = public.mood, function = public.shown);
create cast (public.mood as varchar) with function public.shown as assignment;
create cast (int as varchar) with inout as implicit;
create aggregate public.last(int) (sfunc = int4larger, stype = int);
create function public.across(int, numeric) returns int language sql immutable as 'select 0';
alter operator family integer_ops using btree add function 1 (int, numeric) public.across(int, numeric);
"""


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Run the server, with a database `world` that holds everything."""
    with servers.serving(request) as found:
        found.sql("CREATE DATABASE world TEMPLATE template0")
        found.sql(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
        found.sql(HOSTILE, "world")
        found.sql(f"GRANT USAGE ON SCHEMA other TO {READER}", "world")
        yield found
        found.sql(f"DROP DATABASE world; DROP ROLE {READER}")


@pytest.fixture
def major(server: EmbeddedServer) -> int:
    return int(server.version.split(".")[0])


def results(server: EmbeddedServer, *, whole: bool, role: bool = True) -> list[rows.Rows]:
    """Return the results of `rows.text`, as the read-only role or a superuser."""
    dsn = server.dsn("world", READER, PASSWORD) if role else server.dsn("world")
    found: list[rows.Rows] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET search_path = ''")
        for query in rows.text(whole=whole).split(";\n"):
            answer = connection.pgconn.exec_(query.encode())
            assert not answer.error_message, answer.error_message.decode()
            columns = range(answer.nfields)
            found.append([[answer.get_value(row, column) for column in columns] for row in range(answer.ntuples)])
    return found


def text(value: bytes | None) -> str:
    return (value or b"").decode()


def content(of: World) -> dict[str, Any]:
    """Return all that a world answers, in a form that compares."""
    named = {name: getattr(of, name) for name in World.__dataclass_fields__ if name not in ("major", "own")}
    return {name: plain(value) if isinstance(value, Mapping) else value for name, value in named.items()}


def plain(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    items = ((key, mapping.get(key)) for key in mapping)
    found = {
        key: sorted(value, key=repr) if isinstance(value, list) or type(value) is tuple else value
        for key, value in items
    }
    assert len(found) == len(mapping)
    assert all(key in mapping and mapping[key] is not None for key in found)
    return found


def test_built_in_and_own_together_are_what_the_server_has(server: EmbeddedServer, major: int) -> None:
    everything = building.build(major, rows.read(results(server, whole=True), text))
    below = built_in.built_in(major)
    assert below is not None
    whole = built_in.own(major, results(server, whole=True), text)
    assert whole is not None
    assert whole.over
    assert content(built_in.build(whole)) == content(everything)
    assert len(whole.tables.functions) < 60
    own = results(server, whole=False)
    if built_in.is_another(major, own):
        pytest.skip(f"PostgreSQL {server.version} has more built in: it is always read whole")
    found = built_in.own(major, own, text)
    assert found is not None
    assert content(built_in.build(found)) == content(everything)


def test_world_comes_with_the_catalogue(server: EmbeddedServer, major: int) -> None:
    found = catalogue.load(server.dsn("world", READER, PASSWORD))
    assert found.own is not None
    there = built_in.build(found.own)
    assert content(there) == content(building.build(major, rows.read(results(server, whole=True), text)))
    assert found.begins_with == '"$user", public'
    assert found.path == (there.schemas["pg_catalog"], there.schemas["public"])
    assert {name for name, oid in there.schemas.items() if oid in there.usable} == {
        "pg_catalog",
        "information_schema",
        "other",
        "public",
    }
    assert "hidden" in there.schemas


def test_effective_path_is_the_servers(server: EmbeddedServer) -> None:
    """A schema without USAGE drops out, one that is not there, too; `"$user"` is the role's; no operator of it runs."""
    try:
        server.sql(
            f"""
            create schema {READER} authorization {READER};
            create function {READER}.fails(name, name) returns bool language plpgsql as 'begin raise ''no''; end';
            create operator {READER}.= (leftarg = name, rightarg = name, function = {READER}.fails);
            alter role {READER} set search_path = hidden, "$user", nowhere, other, pg_catalog, public;
            """,
            "world",
        )
        found = catalogue.load(server.dsn("world", READER, PASSWORD))
        assert found.own is not None
        named = {oid: name for name, oid, _ in found.own.tables.schemas}
        assert [named[oid] for oid in found.path] == [READER, "other", "pg_catalog", "public"]
        assert found.begins_with == 'hidden, "$user", nowhere, other, pg_catalog, public'
    finally:
        server.sql(f"drop schema {READER} cascade; alter role {READER} reset search_path", "world")


def test_columns_and_row_types(server: EmbeddedServer, major: int) -> None:
    found = built_in.own(major, results(server, whole=True), text)
    assert found is not None
    there = built_in.build(found)
    public, other = there.schemas["public"], there.schemas["other"]
    table = next(each for each in there.relations_named["t"] if each.schema == public)
    (mood,) = there.types_named["mood"]
    (ct,) = there.types_named["ct"]
    assert [(each.name, each.type, each.modifier) for each in table.columns] == [
        ("id", 23, -1),
        ("slash/ed", 1700, (10 << 16) + 2 + 4),
        ("back\\slash", 25, -1),
        ("ü", mood.oid, -1),
        ("r", ct.oid, -1),
    ]
    assert [each.name for each in there.relations_named["ct"][0].columns] == ["a", "b/\\ c"]
    assert there.relations_named["none"][0].columns == ()
    row = there.types[table.row_type]
    assert (row.name, row.kind, row.relation) == ("t", "c", table.oid)
    assert there.types[row.array].element == row.oid
    # PostgreSQL finds another name for the array of rows of other.t: other._t's row type has that.
    assert {(each.schema, each.kind) for each in there.types_named["_t"]} == {(public, "b"), (other, "c")}
    assert there.types_named["__t"][0].element in {each.row_type for each in there.relations_named["t"]}
    odd = there.functions_named["odd/name\\"][0]
    assert (odd.names, odd.defaults) == (("a/b", "c\\d", ""), 1)
    (longest,) = (each for name, each in there.types_named.items() if name.startswith("sixty_three"))
    assert there.types[longest[0].array].element == longest[0].oid


def test_rows_of_the_server_are_those_of_the_data(server: EmbeddedServer, major: int) -> None:
    """The data has what all minor versions have; a server with more is read whole."""
    found = tables(server.dsn("world"))
    more = []
    for kind in built_in.KINDS:
        known = {tuple(row) for row in built_in._rows(kind, major)}
        there = {row for row in found[kind] if kind in ("types", "functions") or row in known}
        assert sorted(known - there) == [], f"tools/built_ins.py has to be run again for {kind}"
        more += [f"{kind[:-1]} {row[2]}" for row in there - known]
    minor = int(server.version.split(".")[1].split()[0])
    if more:
        said = f"PostgreSQL {server.version} has more built in: {', '.join(sorted(more))}"
        assert minor >= LOOKED_AT[major], said
        pytest.skip(said)
    assert found["digests"][0][0] == built_in.digest(major)


CHANGES = {
    "body": "CREATE OR REPLACE FUNCTION pg_catalog.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
    "name": "ALTER FUNCTION pg_catalog.lower(text) RENAME TO lowered",
    "schema": "ALTER FUNCTION pg_catalog.lower(text) SET SCHEMA public",
    "settings": "ALTER FUNCTION pg_catalog.lower(text) SET work_mem = '1MB'",
    "security": "ALTER FUNCTION pg_catalog.lower(text) SECURITY DEFINER",
    "operator": "UPDATE pg_operator SET oprcode = 'int4ne' WHERE oid = 96",
    "cast": "UPDATE pg_cast SET castcontext = 'i' WHERE castsource = 23 AND casttarget = 16",
    "class": "UPDATE pg_opclass SET opcdefault = false WHERE oid = 1978",
    "member": "UPDATE pg_amop SET amopopr = 518 WHERE amopopr = 96 AND amopmethod = 403",
    "support": "UPDATE pg_amproc SET amproc = 'btint8cmp' WHERE amproc = 'btint4cmp'::regproc",
    "aggregate": "UPDATE pg_aggregate SET aggtransfn = 'int4smaller' WHERE aggfnoid = 'max(int4)'::regprocedure",
    "type": "ALTER TYPE pg_catalog.circle RENAME TO ring",
    "input": "UPDATE pg_type SET typinput = 'int8in' WHERE oid = 23",
    "gone": "DELETE FROM pg_proc WHERE oid = 'lower(text)'::regprocedure",
}


@pytest.mark.parametrize("change", CHANGES)
def test_superusers_change_of_what_is_built_in_is_seen(server: EmbeddedServer, major: int, change: str) -> None:
    before = rows.digest(results(server, whole=False))
    server.sql("CREATE DATABASE changed TEMPLATE world")
    try:
        server.sql(CHANGES[change], "changed")
        with psycopg.connect(server.dsn("changed"), autocommit=True) as connection:
            connection.execute("SET search_path = ''")
            answer = connection.pgconn.exec_(rows.text().split(";\n")[0].encode())
            assert text(answer.get_value(0, 0)) != before
        found = catalogue.load(server.dsn("changed", READER, PASSWORD)).own
        assert found is not None
        if change in ("body", "settings", "security"):
            assert found.over
            assert 870 in found.tables.changed
        elif change != "aggregate":
            assert not found.over
        there = built_in.build(found)
        assert not set(there.changed) - {870}
        if change in ("name", "schema", "gone"):
            named = [each.oid for each in there.functions_named["lower"] if each.schema == 11]
            assert 870 not in named
            assert [each.name for each in [there.functions.get(870)] if each] == (
                {"name": ["lowered"], "schema": ["lower"], "gone": []}[change]
            )
    finally:
        server.sql("DROP DATABASE changed")


def test_query_is_one_text(server: EmbeddedServer) -> None:
    assert load_query().count(b"$") == load_query(whole=True).count(b"$")


def test_answers_that_are_not_whole_are_no_world_where_something_is_another(server: EmbeddedServer, major: int) -> None:
    found = results(server, whole=False)
    found[0] = [[b"1 2 3", b"12000"]]
    assert built_in.own(major, found, text) is None
    assert built_in.own(99, found, text) is None
    assert built_in.built_in(99) is None

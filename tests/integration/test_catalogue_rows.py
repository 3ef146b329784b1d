"""What is read of a database's system catalogues by a role that owns nothing: on the shared server, and on 13 to 18."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.operating import catalogue
from proxy.sql.catalog import FunctionRow, OperatorRow, RelationRow, Rows, TypeRow
from tests import servers

FIXTURE = Path(__file__).parents[1] / "data" / "fixture.sql"
READER, PASSWORD = "catalogue_reader", "pä ss'\\wörd"

OBJECTS = r"""
create schema other;
create function pg_catalog.smuggled() returns int language sql as 'select 1';
create function public.settings_inside(a text, variadic b int[]) returns int language plpgsql
    set search_path = public, "a ""b" as $$ begin return 1; end $$;
create function public.outs(a int, out b text, out c public.ct) returns record language sql as
    $$ select 'x', row(1)::public.ct $$;
create function public.fires() returns trigger language plpgsql as $$ begin return new; end $$;
create function public.label(int) returns text language sql immutable as $$ select 'x' $$;

create aggregate public.sets(text, bool) (sfunc = pg_catalog.set_config, stype = text, initcond = 'x');
create function public.keeps(public.evildom, text) returns public.evildom language sql as 'select $1';
create aggregate public.states(text) (sfunc = public.keeps, stype = public.evildom, initcond = 'x');

create view public.adds as select 1 operator(public.+) 'x'::text as sum;
create function public.ct_eq(public.ct, public.ct) returns bool language sql immutable as $$ select ($1).a = ($2).a $$;
create function public.ct_ne(public.ct, public.ct) returns bool language sql immutable as $$ select ($1).a <> ($2).a $$;
create function public.ct_cmp(public.ct, public.ct) returns int language sql immutable as $$ select ($1).a - ($2).a $$;
create operator public.= (
    leftarg = public.ct, rightarg = public.ct, function = public.ct_eq, negator = operator(public.<>));
create operator public.<> (
    leftarg = public.ct, rightarg = public.ct, function = public.ct_ne, negator = operator(public.=));
create operator public.<~ (leftarg = public.ct, rightarg = public.ct, function = public.ct_eq);
create operator class public.ct_ops default for type public.ct using btree as
    operator 1 public.<~, operator 3 public.=, function 1 public.ct_cmp(public.ct, public.ct);
create table public.holds_ct (id int, first public.ct, second public.ct, label text, lo_unlink int, mood text);
create type public.mood as enum ('well', 'ill');
set search_path = public;
create view public.hides_equality as select nullif(first, second) as n from public.holds_ct;
reset search_path;

create type public.spread as range (subtype = public.ct, subtype_opclass = public.ct_ops);
create domain public.list as int[] default '{7}'
    check (cardinality(value) > 0) check (public.label(cardinality(value)) = 'x');

create table public.guarded (id int check (public.label(1) = 'x'), v text);
create index on public.guarded ((public.label(id)));
alter table public.guarded enable row level security;
create policy all_rows on public.guarded using (v = 'seen');
create policy reads on public.guarded for select using (id = (select max(id) from public.t));
create policy writes on public.guarded for insert with check (public.chk(v));
create table public.unguarded (id int);
create policy idle on public.unguarded using (id = 1);

create function public.part(int) returns text language plpgsql immutable as $$ begin return 'x'; end $$;
create table public.parent (id int, n int) partition by list (public.part(id));
create table public.child partition of public.parent for values in ('x') partition by list (n);
create table public.grandchild partition of public.child for values in (1);
create table public.base (a int);
create table other.heir () inherits (public.base);
"""

NEWER = {
    14: """
create function public.atomic(a int default length(public.label(1))) returns text
    begin atomic select public.label(a); end;
create statistics public.expressions (mcv) on (public.label(id)), v from public.guarded;
""",
    18: """
create table public.computes
    (a int, b int generated always as (a + 1) virtual, c int generated always as (a) stored);
""",
}


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Run the server, with a database `catalogue` that holds everything."""
    with servers.serving(request) as found:
        major = int(found.version.split(".")[0])
        found.sql("CREATE DATABASE catalogue")
        found.sql(FIXTURE.read_text().replace("sc_reader", READER), "catalogue")
        found.sql(f"ALTER ROLE {READER} PASSWORD 'pä ss''\\wörd'")
        found.sql(OBJECTS, "catalogue")
        for since, text in NEWER.items():
            if major >= since:
                found.sql(text, "catalogue")
        for extension in available(found):
            found.sql(f"CREATE EXTENSION {extension} SCHEMA other", "catalogue")
        yield found
        found.sql(f"DROP DATABASE catalogue; DROP ROLE {READER}")


def available(server: EmbeddedServer) -> list[str]:
    """Return those of some extensions that this server has."""
    names = "'citext', 'file_fdw', 'hstore', 'postgres_fdw'"
    return server.sql(f"SELECT name FROM pg_available_extensions WHERE name IN ({names}) ORDER BY 1").split()


def load(server: EmbeddedServer) -> Rows:
    return catalogue.load(server.dsn("catalogue", READER, PASSWORD))


@pytest.fixture(scope="module")
def rows(server: EmbeddedServer) -> Rows:
    return load(server)


def function(rows: Rows, name: str, schema: str = "public") -> FunctionRow:
    (found,) = (row for row in rows.functions if (row.schema, row.name) == (schema, name))
    return found


def relation(rows: Rows, name: str, schema: str = "public") -> RelationRow:
    (found,) = (row for row in rows.relations if (row.schema, row.name) == (schema, name))
    return found


def type_(rows: Rows, name: str, schema: str = "public") -> TypeRow:
    (found,) = (row for row in rows.types if (row.schema, row.name) == (schema, name))
    return found


def operator(rows: Rows, name: str) -> OperatorRow:
    (found,) = (row for row in rows.operators if (row.schema, row.name) == ("public", name))
    return found


def names(rows: Rows, oids: tuple[int, ...]) -> set[str]:
    """Return the names of functions, the built-in ones with their schema."""
    known = {row.oid: row.name for row in rows.functions} | {r.oid: f"{r.schema}.{r.name}" for r in rows.built_ins}
    return {known[oid] for oid in oids}


def test_server_is_named(rows: Rows, server: EmbeddedServer) -> None:
    assert rows.version // 10000 == int(server.version.split(".")[0])
    assert rows.database == "catalogue"


def test_second_reading_is_equal(rows: Rows, server: EmbeddedServer) -> None:
    server.sql("VACUUM FULL pg_class; VACUUM FULL pg_type; ANALYZE", "catalogue")
    assert load(server) == rows


def test_no_built_in_is_among_the_users_objects(rows: Rows) -> None:
    assert {row.schema for row in rows.functions if row.name != "smuggled"} <= {"public", "other"}
    assert {row.schema for row in rows.operators} <= {"public", "other"}


def test_function_that_a_superuser_put_into_pg_catalog_is_the_users(rows: Rows) -> None:
    assert function(rows, "smuggled", "pg_catalog").source == "select 1"


def test_function_has_its_body_and_its_definition(rows: Rows) -> None:
    row = function(rows, "volatile_by_default")
    assert (row.kind, row.language, row.volatility) == ("f", "plpgsql", "v")
    assert row.source == " begin return (select v from public.t where id = i); end "
    assert row.source in row.definition
    assert row.definition.startswith("CREATE OR REPLACE FUNCTION public.volatile_by_default(i integer)")
    assert (row.arguments, row.defaults, row.variadic, row.returns) == ((23,), 0, False, (25,))


def test_default_of_an_argument_is_printed_with_schemas(rows: Rows) -> None:
    row = function(rows, "defarg")
    assert row.defaults == 1
    assert row.default_expressions == "nextval('public.s'::regclass)"


def test_settings_and_variadic_arguments(rows: Rows) -> None:
    row = function(rows, "settings_inside")
    assert row.settings == ('search_path=public, "a ""b"',)
    assert row.variadic
    assert row.arguments == (25, 1007)


def test_out_columns_are_returned(rows: Rows) -> None:
    row = function(rows, "outs")
    assert row.arguments == (23,)
    assert row.returns == (2249, 25, type_(rows, "ct").oid)


def test_trigger_function_and_procedure_are_marked(rows: Rows) -> None:
    assert function(rows, "fires").trigger
    assert not function(rows, "label").trigger
    assert function(rows, "proc1").kind == "p"


def test_body_in_standard_form_is_printed_and_what_it_calls_is_known(rows: Rows) -> None:
    if rows.version < 140000:
        pytest.skip("PostgreSQL 13 has no SQL-standard function bodies")
    row = function(rows, "atomic")
    assert row.source == ""
    assert "BEGIN ATOMIC" in row.definition
    assert row.default_expressions == "length(public.label(1))"
    assert names(rows, row.support) == {"label"}


def test_aggregate_names_the_functions_that_it_runs(rows: Rows) -> None:
    assert (function(rows, "evilagg").kind, function(rows, "evilagg").definition) == ("a", "")
    assert names(rows, function(rows, "evilagg").support) == {"vsf"}


def test_aggregate_over_set_config_is_seen_through(rows: Rows) -> None:
    assert names(rows, function(rows, "sets").support) == {"pg_catalog.set_config"}


def test_aggregate_with_a_state_of_a_domain_names_it(rows: Rows) -> None:
    assert type_(rows, "evildom").oid in function(rows, "states").returns


def test_view_is_printed_with_schemas(rows: Rows) -> None:
    row = relation(rows, "v2")
    assert (row.kind, row.definition) == ("v", " SELECT public.vol_writer() AS w;")
    assert names(rows, row.functions) == {"vol_writer"}
    assert "nextval('public.s'::regclass)" in relation(rows, "vv").definition


def test_view_over_an_operator_names_it(rows: Rows) -> None:
    row = relation(rows, "adds")
    assert "OPERATOR(public.+)" in row.definition
    assert row.operators == (operator(rows, "+").oid,)


def test_view_that_hides_an_equality_names_its_operator(rows: Rows) -> None:
    row = relation(rows, "hides_equality")
    assert "public.=" not in row.definition
    assert row.operators == (operator(rows, "=").oid,)


def test_materialised_view_runs_nothing(rows: Rows) -> None:
    row = relation(rows, "mv")
    assert (row.kind, row.definition, row.functions, row.operators) == ("m", "", (), ())


def test_policies_for_reading_are_printed(rows: Rows) -> None:
    assert relation(rows, "rls").expressions == ("public.chk('x'::text)",)
    first, second = relation(rows, "guarded").expressions
    assert "max(t.id)" in first.replace("public.", "")
    assert "FROM public.t" in first
    assert second == "(v = 'seen'::text)"


def test_policies_without_row_security_count_for_nothing(rows: Rows) -> None:
    assert relation(rows, "unguarded").expressions == ()


def test_planning_runs_functions_of_checks_indexes_and_statistics(rows: Rows) -> None:
    assert names(rows, relation(rows, "guarded").functions) == {"label"}


def test_partitions_are_children_and_have_the_keys_of_all_ancestors(rows: Rows) -> None:
    parent, child, grandchild = (relation(rows, name) for name in ("parent", "child", "grandchild"))
    assert (parent.kind, parent.children, child.children) == ("p", (child.oid,), (grandchild.oid,))
    for row in (parent, child, grandchild):
        assert names(rows, row.functions) == {"part"}


def test_inheriting_table_is_a_child(rows: Rows) -> None:
    assert relation(rows, "base").children == (relation(rows, "heir", "other").oid,)


def test_virtual_generated_column_is_an_expression(rows: Rows) -> None:
    if rows.version < 180000:
        pytest.skip("virtual generated columns came with PostgreSQL 18")
    assert relation(rows, "computes").expressions == ("(a + 1)",)


def test_columns_that_could_be_calls_or_casts_are_listed(rows: Rows) -> None:
    row = relation(rows, "holds_ct")
    assert row.columns == ("id", "first", "second", "label", "lo_unlink", "mood")
    assert row.column_types == (type_(rows, "ct").oid,)
    assert row.own_columns == (("first", type_(rows, "ct").oid), ("second", type_(rows, "ct").oid))
    assert row.types == {
        "id": "int4",
        "first": None,
        "second": None,
        "label": "text",
        "lo_unlink": "int4",
        "mood": "text",
    }
    assert row.row_type == type_(rows, "holds_ct").oid
    assert type_(rows, "holds_ct").parts == (type_(rows, "ct").oid,)


def test_system_catalogues_are_relations(rows: Rows) -> None:
    assert relation(rows, "pg_authid", "pg_catalog").kind == "r"
    assert relation(rows, "pg_user", "pg_catalog").definition == ""
    assert relation(rows, "tables", "information_schema").kind == "v"


def test_domain_has_its_checks_and_its_default(rows: Rows) -> None:
    row = type_(rows, "evildom")
    assert (row.kind, row.expressions) == ("d", ("public.chk(VALUE)",))
    assert names(rows, row.functions) == {"chk"}
    assert set(type_(rows, "list").expressions) == {
        "(cardinality(VALUE) > 0)",
        "(public.label(cardinality(VALUE)) = 'x'::text)",
        "'{7}'::integer[]",
    }


def test_array_and_range_name_their_elements(rows: Rows) -> None:
    ct, spread = type_(rows, "ct"), type_(rows, "spread")
    assert type_(rows, "_ct").parts == (ct.oid,)
    assert (spread.kind, spread.parts) == ("r", (ct.oid,))
    if rows.version >= 140000:
        multirange = type_(rows, "spread_multirange")
        assert (multirange.kind, multirange.parts) == ("m", (spread.oid,))


def test_default_operator_class_runs_functions_that_no_statement_names(rows: Rows) -> None:
    assert {"ct_cmp", "ct_eq"} <= names(rows, type_(rows, "ct").functions)
    assert "ct_cmp" in names(rows, type_(rows, "spread").functions)


def test_built_in_types_have_nothing_but_their_names(rows: Rows) -> None:
    row = type_(rows, "int4", "pg_catalog")
    assert row == TypeRow(23, "pg_catalog", "int4", "b", (), (), (), category="N")
    assert type_(rows, "_int4", "pg_catalog").oid == 1007


def test_operator_has_its_types_and_its_negator(rows: Rows) -> None:
    row = operator(rows, "+")
    assert (row.left, row.right) == (23, 25)
    assert names(rows, (row.function,)) == {"vop"}
    assert "ct_ne" in names(rows, operator(rows, "=").support)


def test_operator_has_what_its_families_run(rows: Rows) -> None:
    assert names(rows, operator(rows, "<~").support) == {"ct_cmp", "ct_eq", "ct_ne"}


def test_operator_family_is_listed_where_nobody_names_it(rows: Rows) -> None:
    assert "ct_ops" not in {row.name for row in rows.families}


def test_cast_with_a_function(rows: Rows) -> None:
    (row,) = (row for row in rows.casts if row.target == type_(rows, "ct").oid)
    assert (row.source, row.context, names(rows, (row.function,))) == (25, "e", {"castf"})


def test_extension_owns_its_functions(rows: Rows, server: EmbeddedServer) -> None:
    if "citext" not in available(server):
        pytest.skip("this server has no citext")
    row = function(rows, "citext_cmp", "other")
    assert (row.extension, row.language, row.volatility, row.definition) == ("citext", "c", "i", "")
    assert "citext_cmp" in names(rows, type_(rows, "citext", "other").functions)
    assert function(rows, "label").extension == ""


@pytest.mark.parametrize("wrapper", ["file_fdw", "postgres_fdw"])
def test_foreign_table_names_its_server(server: EmbeddedServer, wrapper: str) -> None:
    if wrapper not in available(server):
        pytest.skip(f"this server has no {wrapper}")
    options = "OPTIONS (filename '/dev/null')" if wrapper == "file_fdw" else ""
    server.sql(f"CREATE SERVER far FOREIGN DATA WRAPPER {wrapper}", "catalogue")
    server.sql(f"CREATE FOREIGN TABLE public.away (a int) SERVER far {options}", "catalogue")
    try:
        row = relation(load(server), "away")
    finally:
        server.sql("DROP SERVER far CASCADE", "catalogue")
    assert (row.kind, row.server) == ("f", "far")


def test_temporary_tables_of_other_sessions_change_nothing(server: EmbeddedServer, rows: Rows) -> None:
    with psycopg.connect(server.dsn("catalogue")) as other:
        other.execute("CREATE TEMPORARY TABLE passing (a int, b text)")
        other.commit()
        assert load(server) == rows


@pytest.mark.deep
def test_table_that_is_locked_ends_the_reading_in_time(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn("catalogue")) as other:
        other.execute("LOCK TABLE public.holds_ct")
        with pytest.raises(catalogue.CatalogueError, match="55P03"):
            load(server)

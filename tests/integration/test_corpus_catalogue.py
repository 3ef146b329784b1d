"""The corpus judged by the live catalogue of fixture.sql, on PostgreSQL 13 to 18: nothing wrong, either way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.filter import Filter, Policy
from proxy.operating import catalogue
from proxy.proofs.prove import prove
from proxy.sql.verdict import Action
from tests import servers
from tests.corpus import BY_BIND, EXTENSIONS, PROVED, SPOILED, SQL, create

MORE_EXTENSIONS = ("hstore", "citext", "ltree", "btree_gist", "intarray", "cube", "earthdistance", "pg_stat_statements")

MORE = """
create or replace function public.reads_itself(i int) returns int language plpgsql as $$
    begin if i < 1 then return 0; end if; return public.reads_itself(i - 1); end $$;
create or replace function public.inner_writer(i int) returns int language plpgsql as $$
    declare x int[]; begin x[public.vol_writer()] := 1; return 1; end $$;
create or replace function public.atomic_reader() returns bigint language sql return (select count(*) from public.t);
create or replace function public.calls_dynamic() returns void language sql as $$ select public.dynamic('x') $$;
create or replace function public.in_handler() returns int language plpgsql stable as $$
    begin return 1 / 0; exception when others then return public.writer(); end $$;
create or replace function public.of_default(a int default public.writer()) returns int language sql as 'select a';
create view public.honest as select id, public.slugify(v) as slug from public.t;
create view public.over_v2 as select * from public.v2;
create view public.with_plus as select id + v as c from public.t;
create table public.honest_rls(id int); alter table public.honest_rls enable row level security;
create policy p on public.honest_rls using (id > (select min(id) from public.t));
create policy w on public.honest_rls for insert with check (public.chk('x'));
create domain public.honest_domain as text check (length(value) < 100);
create domain public.over_evil as public.evildom;
create type public.composed as (a int, b public.evildom);
create table public.has_evil(a public.evildom);
create table public.parent(id int); create table public.child() inherits (public.parent);
alter table public.child enable row level security; create policy p on public.child using (public.chk('x'));
create operator public.=== (leftarg = text, rightarg = text, function = texteq);
create aggregate public.honest_agg(int) (sfunc = int4pl, stype = int, initcond = '0');
create aggregate public.setter(text, bool)
    (sfunc = set_config, stype = text, initcond = 'default_transaction_read_only');
create function pg_catalog.in_the_catalog() returns int language sql as 'select public.writer()';
create function public.touch() returns trigger language plpgsql as $$
    begin insert into public.t values (1); return new; end $$;
"""
"""Objects beside those of the fixture: each with a verdict below."""

REFUSED = """
select inner_writer(1)
select calls_dynamic()
select in_handler()
select of_default()
select of_default(1)
select * from v2
select * from over_v2
select * from with_plus
select * from rls
select * from child
select * from parent
select a::text::evildom from has_evil
select jsonb_populate_record(h, '{}') from has_evil h
select 'x'::over_evil
select null::composed
select null::composed[]
select 'x'::evildom = 'x'
select pg_input_is_valid('x', 'evildom')
select domain_in('x', 'public.evildom'::regtype::oid, -1)
select setter('off', false)
select in_the_catalog()
select pg_catalog.in_the_catalog()
select id + v from t
select id + v as x from t order by 1
select t.id from t where id = any (select id + v from t)
select 1 @@@ 'x' from t
select id from t where id @@@ any (array['x'])
select id from t where id @@@ all (select v from t)
select id from t order by id using operator(public.@@@)
select evilagg(id) from t
select evilagg(id) over () from t
select evilagg(id) filter (where true) from t
select "computed"(t) from t
select (t).computed from t
select t.computed from t
select x.computed from t x
select table_to_xml('v2', true, false, '')
select schema_to_xml('public', true, false, '')
select leaks_setting()
select last(1)
select public.lower('x'::varchar)
select lower('x'::varchar)
select lower(v::varchar) from t
select lower(name) from (select v::varchar as name from t) s
select touch()
select * from json_to_record('{"a":"x"}') as r(a evildom)
prepare p(evildom) as select $1
""".strip().splitlines()

ALLOWED = """
select reads_itself(3)
select atomic_reader()
select volatile_by_default(1), my_stable_report(), slugify('A b')
select * from honest
select * from honest_rls
select 'x'::honest_domain
select a, a || 'x' from has_evil order by a
select honest_agg(id) from t
select 'a' === 'b'
select 'a' operator(public.===) 'b'
select slugify('x'), lower('X'), lower(v::text), id + 1, amount + 2, now() + interval '1 day' from t
select pg_catalog.lower(v) from t
select lower(v) from t
select "Count"(1), "pg_catalog.count"(1)
select t.amount, t.v from t
select id from t where id in (1, 2) and id between 1 and 3 and v like 'x%'
select table_to_xml('t', true, false, '')
table t
""".strip().splitlines()


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        yield found


@pytest.fixture(scope="module")
def judge(server: EmbeddedServer) -> Filter:
    """Return a filter that judges by the catalogue of a database with fixture.sql, MORE and extensions."""
    create(server, "fixture", *EXTENSIONS, *MORE_EXTENSIONS)
    major = int(server.version.split(".")[0])
    old_body = ("return (select count(*) from public.t)", "as 'select count(*) from public.t'")
    server.sql("SET allow_system_table_mods = on; " + (MORE if major >= 14 else MORE.replace(*old_body)), "fixture")
    rows = catalogue.load(server.dsn("fixture"))
    judge = Filter(Policy(server_version=rows.version))
    judge.learn_catalog(prove(rows, judge.policy))
    return judge


@pytest.mark.parametrize("extended", [False, True], ids=["Query", "Parse"])
def test_nothing_of_the_corpus_is_judged_wrong(judge: Filter, extended: bool) -> None:
    newer = judge.policy.server_version < 180000
    wrong = []
    for case in SQL:
        verdict = judge.judge(case["sql"].encode(), extended=extended)
        if case.get("policy_knob") or verdict.rule == "several-statements":
            continue
        if case["verdict"] == "block":
            fine = verdict.action is Action.REFUSE or (case.get("neutralise") and verdict.action is Action.REPLACE)
            fine = fine or case["id"] in PROVED or (extended and case["id"] in BY_BIND)
        else:
            # What the server does not have is refused in the words that the server has for it.
            not_there = verdict.sqlstate in ("42P01", "42883", "42704") or (
                newer and verdict.rule == "keyword-function"
            )
            fine = verdict.action is Action.ALLOW or not_there or case["id"] in SPOILED
        if not fine:
            wrong.append((case["id"], case["sql"][:200], verdict.rule, verdict.detail))
    assert not wrong


@pytest.mark.parametrize("sql", REFUSED)
def test_disguise_is_refused(judge: Filter, sql: str) -> None:
    verdict = judge.judge(sql.encode())
    assert verdict.action is Action.REFUSE
    assert verdict.rule not in ("internal", "syntax")


@pytest.mark.parametrize("sql", ALLOWED)
def test_honest_read_is_allowed(judge: Filter, sql: str) -> None:
    verdict = judge.judge(sql.encode())
    assert verdict.action is Action.ALLOW, (verdict.message, verdict.detail)


def test_honest_reads_run_without_a_transaction_id(judge: Filter, server: EmbeddedServer) -> None:
    """As a superuser in a transaction that may write."""
    for sql in ALLOWED:
        assert (
            server.sql(f"BEGIN; {sql}; SELECT pg_current_xact_id_if_assigned() IS NULL; COMMIT", "fixture")
            .strip()
            .endswith("t")
        ), sql


HIDDEN = """
create function public.equals(int, text) returns bool language plpgsql as $$
    begin perform public.writer(); return true; end $$;
create operator public.= (leftarg = int, rightarg = text, function = equals);
create view public.by_case as select case 1 when 'x'::text then 2 end as c;
create view public.by_in as select 1 in ('x'::text) as c;
create view public.by_nullif as select nullif(1, 'x'::text) as c;
create view public.honest as select 1 = 1 as c, t.id = 2 as d from public.t where v = 'x';
create function public.compares(a int, b text) returns bool language sql as 'select a = b';
create function public.compares_inside(a int, b text) returns bool language plpgsql as $$
    begin case a when b then return true; else return false; end case; end $$;
"""


def test_operator_of_a_view_is_found_where_no_text_shows_it(server: EmbeddedServer) -> None:
    """An `=` that writes, called by CASE, IN and NULLIF: pg_depend knows."""
    create(server, "hidden")
    server.sql(HIDDEN, "hidden")
    rows = catalogue.load(server.dsn("hidden"))
    judge = Filter(Policy(server_version=rows.version))
    judge.learn_catalog(prove(rows, judge.policy))
    for view in ("by_case", "by_in", "by_nullif"):
        assert judge.judge(f"select * from {view}".encode()).rule == "unproved-relation", view
    for call in ("compares(1, 'x')", "compares_inside(1, 'x')"):
        assert judge.judge(f"select {call}".encode()).rule == "unproved-function", call
    for sql in ("select case id when v then 1 end from t", "select id from t where id = v", "select id in (v) from t"):
        assert judge.judge(sql.encode()).rule == "unproved-operator", sql
    for sql in ("select * from honest", "select 1 = 1, id = 1 from t where id in (1, 2)"):
        assert judge.judge(sql.encode()).action is Action.ALLOW, sql

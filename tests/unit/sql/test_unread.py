"""Judged without a catalogue: what means the same in every database is let through, and nothing else."""

from __future__ import annotations

import pytest

from proxy.filter import Filter
from proxy.sql.catalog import Catalog
from proxy.sql.policy import Policy
from proxy.sql.verdict import Action


@pytest.fixture
def blind() -> Filter:
    return Filter(Policy(live=True))


PLAIN = (
    "select 1",
    "select 1 as ok, 'x', null, true, -1, 1.5",
    "select 'x'::text, '1'::int, '{1,2}'::int[], 'x'::varchar(10), null::pg_catalog.date",
    "select version(), current_database(), pg_catalog.now(), current_user, current_date",
    "select pg_is_in_recovery()",
    "select lower('X'), upper('x'::text), pg_catalog.current_setting('timezone')",
    "select count(*) from pg_catalog.pg_class",
    "select c.*, relname, relacl is null from pg_catalog.pg_class c limit 5",
    "select exists (select from pg_catalog.pg_class)",
    "select * from pg_catalog.pg_stat_activity",
    "select $1",
    "begin",
    "begin isolation level repeatable read read only",
    "commit",
    "rollback",
    "show all",
    "show server_version",
    "set datestyle = 'ISO'",
    "set time zone interval '1' hour",
    "reset all",
    "discard all",
    "deallocate all",
    "explain (costs off) select 1",
    "prepare p as select 1",
    "execute p",
    "execute p('x', null)",
    "declare c cursor for select 1",
    "fetch c",
    "close c",
    "lock table t in access share mode",
    "copy pg_catalog.pg_class to stdout (format csv)",
    "copy (select 1) to stdout",
    "",
)

NEED_IT = (
    "select * from v",
    "table v",
    "select * from public.v",
    "select * from pg_class",  # which may be a view of somebody's on a server that has no such catalogue
    "select * from information_schema.tables",
    "select 1 + 1",
    "select 1 operator(pg_catalog.+) 1",
    "select 1 where true",
    "select not 1.5",
    "select 1.5 is true",
    "select 1 limit true",  # to bigint
    "select 1 limit $1",
    "select 1 offset 1",
    "execute p(true)",
    "select -n from pg_catalog.pg_class",
    "select relname from pg_catalog.pg_class where relname = 'x'",
    "select 1 where 1 in (1)",
    "select 1 where 1 between 1 and 2",
    "select case 1 when 1 then 2 end",
    "select case when true then 1 else 1.5 end",
    "select coalesce(1, 1.5)",
    "select greatest(1, 2)",
    "select nullif(1, 2)",
    "select array[1, 1.5]",
    "select row(1) is distinct from row(2)",
    "values (1), (1.5)",
    "select 1 union select 1.5",
    "select relname from pg_catalog.pg_class order by 1",
    "select distinct relname from pg_catalog.pg_class",
    "select relname from pg_catalog.pg_class group by relname",
    "select count(distinct relname) from pg_catalog.pg_class",
    "select count(*) over () from pg_catalog.pg_class",
    "select count(*) filter (where relhasindex) from pg_catalog.pg_class",
    "select * from pg_catalog.pg_class a join pg_catalog.pg_class b using (oid)",
    "select * from pg_catalog.pg_class a natural join pg_catalog.pg_class b",
    "select 1::text",
    "select relname::text from pg_catalog.pg_class",
    "select $1::int",
    "select 'x'::mood",
    "select 'x'::public.date",
    "select 'x'::citext[]",
    "select date 'today', mood 'x'",
    "select c.relname from pg_catalog.pg_class c",
    "select c.f from pg_catalog.pg_class c",
    "select (c).f from pg_catalog.pg_class c",
    "select f(1)",
    "select public.lower('x')",
    "select lower(relname) from pg_catalog.pg_class",
    "select length(now()::text)",
    "select lower()",
    "select abs($1)",
    "select abs(1::smallint)",
    "select lower(variadic array['x'])",
    "select * from xmltable('/a' passing '<a/>' columns x dom)",
    "select json_value('1', '$')",
    "select * from json_to_record('{}') as x (a dom)",
    "prepare p(dom) as select 1",
    "prepare p as select * from v",
    "execute p(f(1))",
    "declare c cursor for select * from v",
    "explain select * from v",
    "copy v to stdout",
    "copy (select * from v) to stdout",
    "with pg_class as (select * from v) select * from pg_class",
    "select 1; select * from v",
)


@pytest.mark.parametrize("sql", PLAIN)
def test_what_means_the_same_everywhere_is_let_through(blind: Filter, sql: str) -> None:
    verdict = blind.judge(sql.encode())
    assert verdict.action is Action.ALLOW, verdict


@pytest.mark.parametrize("sql", NEED_IT)
def test_what_can_be_somebody_s_needs_the_catalogue(blind: Filter, sql: str) -> None:
    verdict = blind.judge(sql.encode())
    assert verdict.action is Action.REFUSE
    assert verdict.unresolved


@pytest.mark.parametrize("sql", ["delete from t", "select lo_unlink(1)", "select * from t for update"])
def test_what_no_catalogue_would_allow_is_refused_at_once(blind: Filter, sql: str) -> None:
    verdict = blind.judge(sql.encode())
    assert verdict.action is Action.REFUSE
    assert not verdict.unresolved


@pytest.mark.parametrize(
    "sql", ["select lower('x')", "select '2020-01-01'::date", "select now()", "select upper('x'::pg_catalog.text)"]
)
def test_names_are_pg_catalog_s_only_where_it_comes_first(sql: str) -> None:
    judge = Filter(Policy(live=True, shadowed=True))
    assert judge.judge(sql.encode()).rule == "no-catalogue"
    assert judge.judge(b"select pg_catalog.lower('x'::pg_catalog.text)").action is Action.ALLOW


def test_attack_json_is_an_ordinary_name_before_it_was_a_keyword() -> None:
    judge = Filter(Policy(live=True, shadowed=True, server_version=160000))
    for sql in (b"select '1'::json", b"select json '1'", b"select null::json"):
        assert judge.judge(sql).rule == "no-catalogue"
    judge.learn_version(170000)
    assert judge.judge(b"select '1'::json").action is Action.ALLOW


def test_type_or_function_of_a_newer_server_can_be_somebody_s(blind: Filter) -> None:
    assert blind.judge(b"select '{}'::int4multirange").action is Action.ALLOW
    blind.learn_version(130000)
    assert blind.judge(b"select '{}'::int4multirange").rule == "no-catalogue"


def test_parameter_of_a_type_that_initdb_did_not_make_needs_the_catalogue(blind: Filter) -> None:
    assert blind.judge_types(blind.judge(b"select $1"), [23, 0, 25]) is None
    verdict = blind.judge_types(blind.judge(b"select $1"), [23, 16385])
    assert verdict is not None
    assert verdict.rule == "no-catalogue"


def test_trouble_is_told_until_there_is_a_catalogue(blind: Filter) -> None:
    sql = b"select * from v"
    assert "it has not been read yet" in blind.judge(sql).detail
    blind.learn_trouble("the upstream answered with an error (SQLSTATE 55P03)")
    assert "it could not be read: the upstream answered with an error (SQLSTATE 55P03)" in blind.judge(sql).detail
    blind.learn_catalog(Catalog())
    assert blind.judge(sql).rule == "unknown-relation"
    blind.learn_trouble("too late")
    assert not blind.policy.trouble


def test_filter_without_a_live_catalogue_judges_by_the_built_ins() -> None:
    assert Filter().judge(b"select * from v where n = 1").action is Action.ALLOW

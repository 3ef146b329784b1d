select pg_catalog.lo_create(0)
select mydb.pg_catalog.lo_create(0)
select PG_CATALOG.LO_CREATE(0)
select "lo_create"(0)
select U&"\006Co_create"(0)
select treat(0 as lo_create)
select treat(0 as public.nextval)
select (select x.lo_creat from abs(-1) x)
select (x).lo_creat from abs(-1) x
select ((x)).lo_creat from abs(-1) x
select (x).lo_creat.* from abs(-1) x
select a from t order by x.lo_creat
select a from t group by (x.lo_creat)
select * from t where t.pg_advisory_lock = 1
select * from t join u using (lo_creat) where u.lo_creat is null
select * from lateral lo_create(0) x
select * from rows from (abs(1), lo_create(0)) x
select 1 limit lo_create(0)
select 1 offset (select lo_create(0))
select 1 fetch first (lo_create(0)) rows only
select json_value('1','$' default lo_create(0) on empty)
select * from json_table('1','$' columns (a int path '$' default lo_create(0) on empty))
select xmlserialize(content xmlelement(name a, lo_create(0)) as text)
select * from xmltable('/a' passing xmlparse(document '<a/>') columns a int path '/a' default lo_create(0))
select * from t tablesample lo_create(1)
select * from t tablesample public.bernoulli(1)
select * from t tablesample bernoulli(1) repeatable (lo_create(0))
select sum(a) over (order by b rows between lo_create(0) preceding and current row) from t
select array_agg(a order by lo_create(0)) from t
select percentile_cont(lo_create(0)) within group (order by a) from t
with recursive x(a) as (select 1 union all select a+lo_create(0)::int from x) cycle a set c to 1 default 0 using p select * from x
with x as (select 1 for update) select 1
select * from (select * from t for share) x
select 1 union all (select * from t for update)
(select 1 into x)
select 1 where exists (select 1 into y)
values (1), ((select lo_create(0)))
select a[lo_create(0)] from t
select (array[1])[1:lo_create(0)]
select case lo_create(0) when 1 then 1 end
select coalesce(null, lo_create(0)), greatest(lo_create(0),1)
select row(lo_create(0))
select lo_create(0)::int collate "C"
select not lo_create(0) is null
select interval '1' * lo_create(0)
select set_config('transaction_read_only'::text,'off',true)
select set_config('transaction_read_only','on'||'',true)
select set_config('transaction_read_only',null,true)
select set_config('role','none ',false)
select set_config('search_path','a,"pg_catalog"',false)
select set_config('search_path','a, PG_CATALOG',false)
select set_config('search_path', $1, false)
select set_config('search_path', 'x'||current_setting('search_path'), true)
select set_config('search_path', '"a', true)
select set_config(name, 'view, foreign-table', false) from pg_settings where name is distinct from 'a.b'
select set_config(name, 'view, foreign-table', false) from pg_settings where name = 'restrict_nonsystem_relation_kind' limit 1
select set_config(name, 'view, foreign-table', true) from pg_settings where name = 'restrict_nonsystem_relation_kind'
select set_config(name, 'view, foreign-table', false) from public.pg_settings where name = 'restrict_nonsystem_relation_kind'
select set_config(name, 'view, foreign-table', false) from pg_settings where name = 'default_transaction_read_only'
select set_config(name, 'view, foreign-table', false) from pg_settings where name operator(public.=) 'restrict_nonsystem_relation_kind'
select set_config(name, 'view, foreign-table', false) from pg_settings where name = 'restrict_nonsystem_relation_kind' union all select set_config(name,'off',false) from pg_settings
select (select set_config(name, 'view, foreign-table', false) from pg_settings where name = 'restrict_nonsystem_relation_kind')
set "Role" = postgres
set session_authorization = 'x'
set local session authorization x
reset transaction_read_only
set transaction_read_only to default
set session characteristics as transaction read write; select lo_create(0)
set default_transaction_read_only = 'OFF'
set default_transaction_read_only = off
set default_transaction_read_only = 'o'
set standard_conforming_strings = off
set standard_conforming_strings = 0
set "standard_conforming_strings" to 'f'
set client_encoding to 'S J I S'
set client_encoding to 'windows-932'
set names 'gbk'
set pgaudit.log = 'none'
set "PgAudit"."log" = 'none'
set search_path = pg_temp, public
set work_mem from current
set foo = 1
set session_preload_libraries = 'x'
explain (analyze) create materialized view x as select 1
explain analyze select 1 union select 2 into x
explain declare c cursor for select lo_create(0)
explain execute p(lo_create(0))
execute p(lo_create(0))
copy (select lo_create(0)) to stdout
copy (select 1 into x) to stdout
copy t from program 'x'
declare c cursor for select * from t for update
prepare p as delete from t
prepare p(int) as select lo_create($1)
select query_to_xml('select query_to_xml(''select lo_create(0)'',true,true,'''')',true,true,'')
select query_to_xml(query => 'select 1', nulls => true, tableforest=>true, targetns=>'')
select query_to_xml(variadic array['select 1'])
select ts_rewrite('a'::tsquery, $1)
select ts_rewrite('a'::tsquery, 'delete from t returning 1,1')
select ts_stat('select 1; select 2')
select ts_stat('set role postgres')
select ts_stat('explain select 1')
select (q).ts_stat from (select 'select lo_create(0)'::text) x(q)
select q.ts_stat from cast('select 1' as text) q
select lo_open(1, 131072)
select lo_open(1, 262144 + 131072)
select lo_open(1, '131072')
select lo_open(1, x'20000'::int)
select lo_open(1, -1)
select lo_open(variadic array[1,131072])
select domain_in('x', 'evildom'::regtype::oid, -1)
select pg_catalog.record_in('(x)', 't'::regtype, -1)
select pg_input_is_valid('x','public.evildom')
select pg_input_is_valid('x',$1)
select pg_input_error_info('x','evildom[]')
select json(lo_create(0))
select pg_current_xact_id(), pg_switch_wal()
lock table t in row share mode
lock t
fetch 1 from c; delete from t
begin; insert into t values(1)
create table x (a int)
select 1; select 2; set role x
notify x
unlisten *; listen y
do 'x'
call pg_catalog.lo_create(0)
prepare transaction 'x'
commit prepared 'x'
rollback prepared 'x'
select * from dblink('x','y') as t(a int)
select public.dblink_exec('x')
select cron.schedule('x','y')
select nextval('s'), currval('s')
select 1 operator(public.+) 1
select 1 order by 1 using operator(public.<)
select 1 = any (select 1) and (1,2) operator(evil.=) (select 1,2)
select 1 operator(evil.=) any (array[1])
select * from t where a operator(evil.~~) 'x'
select postgres.pg_catalog.lo_create(0)
select U&"pg\005fcatalog".U&"\006Co_create"(0)
select json_array(select lo_create(0))
select (zz.lo_creat).* from abs(-1) zz
select (case when true then 0::oid end).lo_create
select lo_create(0) within group (order by 1)
select lo_create(0) filter (where false) over (rows unbounded preceding)
select 1 from a tablesample system (1) repeatable (lo_create(0))
select 1 order by 1 fetch first (lo_create(0)) rows with ties
select 1 group by cube (1, lo_create(0))
select distinct on (lo_create(0)) 1
select 1 from rows from (now(), lo_create(0)) as zz
with recursive zz as (select 1 union all select lo_create(0) from zz) table zz

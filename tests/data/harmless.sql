select o.total, t.count, u.name, x.date, x.user from o
select 1; ; select 2;
-- only a comment
/* x */
select * from t where x.send = 1 and x.read > 2 and a.status
select "select", 'x' "delete"
select E'\x01\x02\x1f\x7f\u00e9', e'\t\n\\', U&'\0041\+01F600'
select $$a'b"c\d$$, $tag$ $$ $tag$
set application_name = 'é"\'
set search_path = "$user", public, "Ünïcode"
select set_config('app.x', current_setting('app.y'), false)
select set_config('app.x', null, false)
set time zone interval '-08:00' hour to minute
set time zone -7
set local statement_timeout = '1s'; reset statement_timeout
begin isolation level repeatable read, read only, deferrable
set transaction isolation level serializable, read only
commit and chain
rollback to savepoint x
release savepoint x
savepoint "X y"
show all
show "work_mem"
discard plans
deallocate prepare all
close c
move 5 in c
fetch relative -3 from c
explain (costs off, format 'json') select 1
explain verbose table t
copy t (a,b) to stdout with (format csv, header, force_quote *)
copy (values (1)) to stdout
lock table only a, b.c in access share mode nowait
execute p(1, 'x', now())
prepare p(int, text[]) as select $1, $2
declare "c é" insensitive scroll cursor with hold for select 1
select json('1'), json_scalar(1), system_user
select pg_catalog.int4range(1,2), tsquery('a'), "json"('1')
select * from generate_series(1,10) g, lateral unnest(array[g]) u
select (p).x from (select point(1,2) p) q
select * from pg_catalog.pg_class c where c.relname operator(pg_catalog.~) '^(x)$' collate pg_catalog.default
select query_to_xml('select query_to_xml(''select 1'',true,true,'''')',true,true,'')
select lo_open(1, 262144), lo_open(1,0)
select information_schema._pg_expandarray(array[1])
select setseed(0.5), random()
select 1 as into_, 2 as "for update"
reset all; reset enable_seqscan; set enable_hashjoin to default
select pg_get_sequence_data('s'), bytea(1)
select pg_input_is_valid('1', 'integer'), pg_input_is_valid('1', ' timestamp(3) '), pg_input_error_info('1','pg_catalog.int4[]')
values ($1), ($2)
select 1 where 1 = $1::int and a = any($2::uuid[])
with x as not materialized (table t) select * from x
select txid_current(), pg_current_xact_id()

select 1
select a.b.c.*, (a).b.*, (x).y[1:2], a[1][2:3], $1
select f(distinct a order by b using > nulls first) filter (where c) over (partition by d order by e rows between 1 preceding and current row) from t
select * from s.t(1) with ordinality as z(a int), rows from (f(1), g(2) as (a int, b text collate "C")), lateral (select 1) q
with recursive x(a, b) as materialized (select 1 union all select 2) search depth first by a, b set o cycle a set c to 1 default 0 using p select * from x
select 1 union (select 2 intersect select 3 order by 1 limit 1) except all select 4 order by 1 offset 1 fetch first 3 rows with ties
select a, grouping(a, b) from t group by distinct grouping sets ((a), (b), ()), rollup (a, (b, c)), cube (d)
select case a when 1 then 2 else 3 end, case when a then b end, coalesce(a, b), greatest(a, b), nullif(a, b)
select array[[1], [2]], row(1, 2), (1, 2) = (3, 4), array(select 1), exists (select 1), a = any (select 1), a in (select 1), a not in (1, 2)
select a like b escape c, a ilike b, a similar to b, a between symmetric b and c, a is distinct from b, a is not document
select cast(a as numeric(10, 2)[]), a::interval day to second(3), timestamp with time zone '2020-01-01', a at time zone 'b', a collate "C"
select current_date, current_timestamp(3), current_user, xmlelement(name a, xmlattributes(b as c), d), xmlforest(a as b), xmlserialize(document a as text indent)
select * from xmltable(xmlnamespaces('x' as y), '/a' passing b columns c int path '.' default 1 not null, d for ordinality)
select * from json_table(a, '$' as p passing 1 as x columns (a int path '$' default 1 on empty error on error, nested path '$.b' as q columns (c text exists path '$'), d for ordinality) error on error)
select json_object('a': 1, b value c format json null on null with unique keys returning jsonb), json_array(1, 2 absent on null), json_array(select 1), json_objectagg(a: b), json_arrayagg(a order by b) filter (where c) over w from t window w as (partition by d)
select json_value(a, '$' passing b as c returning int default 1 on empty null on error), json_query(a, '$' with conditional array wrapper keep quotes), json_exists(a, '$' false on error), a is json object with unique keys, json(a), json_scalar(a), json_serialize(a returning bytea)
select * from t tablesample bernoulli (1) repeatable (2), only u, a natural join b, c cross join d, e left join f using (g) as h, (i join j on true) as k(l)
select extract(year from a), overlay(a placing b from c for d), position(a in b), substring(a from b for c), trim(both a from b), normalize(a, nfc), (a, b) overlaps (c, d)
select f(a, variadic b), f(a => 1, b := 2), count(*), percentile_cont(0.5) within group (order by a)
select distinct on (a, b) * from t order by a asc nulls last, b using operator(pg_catalog.<)
select 1 operator(pg_catalog.+) 2, - 1, not a, a is true, a is not unknown, a isnull, b'01', x'1f', 1.5e3, 'a', true, null
values (1, default_value), (2, 3) order by 1
table t
select from t where current_date > a and (b or c) and not d
select x from (values (1)) v(x), unnest(array[1], array[2]) u(a, b) limit all
select to_tsvector('a') @@ 'b', a -> 'b' ->> 'c' #>> '{d}', a @> b, a ?| c
select (select a from t limit 1), (f(x)).*, (f(x)).y.z

"""Ordinary tables, functions and statements of an analyst: what is read whatever else a database holds."""

TABLES = """
CREATE TABLE customers (id bigserial PRIMARY KEY, name text NOT NULL, email varchar(200), status varchar(20),
    country char(2), created_at timestamptz DEFAULT now(), tags text[], meta jsonb, ip inet, active bool);
CREATE TABLE orders (id serial PRIMARY KEY, customer_id bigint REFERENCES customers, total numeric(12, 2), quantity int,
    placed timestamp, shipped_on date, note text, status text);
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON customers (lower(email));
INSERT INTO customers (name, email, status, country, created_at, tags, meta, ip, active)
    SELECT 'customer ' || i, 'c' || i || '@x.com', (ARRAY['active', 'gone'])[1 + i % 2],
        (ARRAY['DE', 'FR', 'US'])[1 + i % 3],
        '2024-01-01 12:00+00'::timestamptz + i * interval '9 days', ARRAY['x', 'tag ' || i],
        jsonb_build_object('plan', 'p' || i % 3, 'seats', i), '10.0.0.1'::inet + i, i % 4 > 0
    FROM generate_series(1, 20) i;
INSERT INTO orders (customer_id, total, quantity, placed, shipped_on, note, status)
    SELECT 1 + i % 15, i * 13.37, i % 7, '2024-01-01'::timestamp + i * interval '31 hours', date '2024-01-04' + i,
        CASE WHEN i % 3 = 0 THEN 'the quick brown fox no. ' || i END, (ARRAY['paid', 'open', 'void'])[1 + i % 3]
    FROM generate_series(1, 60) i;
CREATE VIEW big_orders AS SELECT id, customer_id, total FROM orders WHERE total > 100 AND status <> 'void';
CREATE VIEW labels AS SELECT id, name || ' (' || coalesce(country, '?') || ')' AS label, 'no. ' || id AS number,
    to_char(created_at, 'YYYY-MM') AS month FROM customers;
CREATE MATERIALIZED VIEW per_month AS
    SELECT date_trunc('month', placed) AS month, sum(total) AS total FROM orders GROUP BY 1;
CREATE FUNCTION vat(x numeric) RETURNS numeric LANGUAGE sql AS 'SELECT round(x * 0.19, 2)';
CREATE FUNCTION of_customer(c bigint) RETURNS SETOF orders LANGUAGE sql STABLE
    AS 'SELECT * FROM orders WHERE customer_id = c ORDER BY id';
CREATE FUNCTION how_many(n int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
    RETURN CASE WHEN n < 3 THEN 'few ' || n ELSE 'many ' || n END; END $$;
CREATE FUNCTION told(o orders) RETURNS text LANGUAGE plpgsql STABLE AS $$
    DECLARE said text := ''; each record; n bigint := 0; BEGIN
    FOR each IN SELECT * FROM customers WHERE id = o.customer_id LOOP
        n := n + 1;
        said := said || each.name || ', ' || to_char(o.placed, 'DD.MM.YYYY') || ': ' || o.total || ' / ' || n;
        IF o.note IS NOT NULL AND o.note LIKE '%fox%' THEN said := said || ' ' || upper(substr(o.note, 1, 3)); END IF;
    END LOOP;
    RETURN said; END $$;
CREATE FUNCTION joined(VARIADIC parts text[]) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(p || '-' || n, ',' ORDER BY n) FROM unnest(parts) WITH ORDINALITY AS t(p, n) $$;
"""

STATEMENTS = (
    "SELECT * FROM customers WHERE id = 5",
    "SELECT * FROM customers WHERE id = '5' OR status = 'active' AND country IN ('DE', 'FR') ORDER BY id",
    "SELECT count(*) FROM orders WHERE total > 100",
    "SELECT id, total * quantity AS amount FROM orders ORDER BY amount DESC, id LIMIT 10",
    "SELECT c.name, sum(o.total) FROM customers c JOIN orders o ON o.customer_id = c.id GROUP BY c.name"
    " HAVING sum(o.total) > 1000 ORDER BY 1",
    "SELECT id FROM customers WHERE created_at >= '2024-01-01' AND created_at < now() - interval '7 days' ORDER BY 1",
    "SELECT date_trunc('month', placed) AS m, count(*), avg(total) FROM orders GROUP BY 1 ORDER BY 1",
    "SELECT lower(email), upper(name), length(name), substr(name, 1, 3) FROM customers WHERE email LIKE '%@x.com'"
    " ORDER BY id",
    "SELECT name || ' <' || email || '>' FROM customers ORDER BY 1",
    "SELECT * FROM orders WHERE id BETWEEN 10 AND 20 AND quantity <> 0 ORDER BY id",
    "SELECT CASE status WHEN 'paid' THEN 1 ELSE 0 END, coalesce(note, ''), nullif(status, '') FROM orders ORDER BY id",
    "SELECT id FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.id = o.customer_id AND c.active)"
    " ORDER BY id",
    "WITH m AS (SELECT customer_id, sum(total) AS s FROM orders GROUP BY customer_id) SELECT * FROM m WHERE s > 500"
    " ORDER BY 1",
    "SELECT id, rank() OVER (PARTITION BY customer_id ORDER BY total DESC), row_number() OVER (ORDER BY id)"
    " FROM orders ORDER BY id",
    "SELECT extract(year FROM placed) AS y, round(avg(total), 2) FROM orders WHERE extract(year FROM placed) = 2024"
    " GROUP BY 1",
    "SELECT meta->>'plan', meta @> '{}', tags && ARRAY['x'], 'x' = ANY(tags), ip << '10.0.0.0/8' FROM customers"
    " ORDER BY id",
    "SELECT placed::date, shipped_on - placed::date FROM orders WHERE shipped_on > placed::date + 3 ORDER BY id",
    "SELECT c.id, o.total FROM customers c LEFT JOIN orders o ON o.customer_id = c.id WHERE o.id IS NULL ORDER BY 1",
    "SELECT * FROM customers c LEFT JOIN orders o USING (id) WHERE o.id IS NULL",
    "SELECT DISTINCT ON (customer_id) * FROM orders ORDER BY customer_id, placed DESC",
    "SELECT o.id FROM big_orders o WHERE total = 5 UNION SELECT c.id FROM customers c WHERE c.name ~* '^c' ORDER BY 1",
    "SELECT vat(total), quantity::numeric / 3, -total, abs(total), quantity & 1 FROM orders ORDER BY id",
    "SELECT 'few ' || quantity, quantity || ' pieces', total || '', 'x' || placed, shipped_on || '!' FROM orders"
    " ORDER BY id",
    "SELECT how_many(quantity), told(o) FROM orders o ORDER BY id",
    "SELECT joined('a', 'b', 'c'), joined(VARIADIC tags) FROM customers ORDER BY id",
    "SELECT * FROM of_customer(3)",
    "SELECT * FROM labels ORDER BY id",
    "SELECT l.label, m.total FROM labels l JOIN per_month m ON to_char(m.month, 'YYYY-MM') = l.month ORDER BY 1",
    "SELECT c.name, last.* FROM customers c, LATERAL (SELECT o.id, o.total FROM orders o WHERE o.customer_id = c.id"
    " ORDER BY o.placed DESC LIMIT 2) last ORDER BY c.id, last.id",
    "SELECT d::date, count(o.id) FROM generate_series('2024-01-01'::timestamp, '2024-02-01', '1 day') d"
    " LEFT JOIN orders o ON o.placed >= d AND o.placed < d + interval '1 day' GROUP BY d ORDER BY d",
    "SELECT n, n * 2.5, n / 2, n % 3, n ^ 2, sqrt(n), n::text || 'th' FROM generate_series(1, 10) AS n",
    "SELECT to_char(total, 'FM999G990D00'), to_char(placed, 'Day DD Month YYYY HH24:MI'), to_date('2024-05-06',"
    " 'YYYY-MM-DD'), to_number('12,454.8-', '99G999D9S'), to_timestamp(1700000000) FROM orders ORDER BY id LIMIT 5",
    "SELECT to_tsvector('english', note) @@ to_tsquery('english', 'fox & quick'), ts_rank(to_tsvector('english', note),"
    " plainto_tsquery('brown')), ts_headline(note, to_tsquery('fox')) FROM orders WHERE note IS NOT NULL ORDER BY id",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY total), mode() WITHIN GROUP (ORDER BY status), stddev(total),"
    " corr(total, quantity), bool_and(total > 0), min(status), max(placed), array_agg(id ORDER BY id),"
    " string_agg(status, ',' ORDER BY id), count(*) FILTER (WHERE quantity > 3) FROM orders",
    "SELECT status, quantity, sum(total) FROM orders GROUP BY ROLLUP (status, quantity) ORDER BY 1, 2",
    "SELECT id, lag(total) OVER w, lead(total, 2, 0.0) OVER w, sum(total) OVER (ORDER BY id ROWS 3 PRECEDING),"
    " first_value(id) OVER w, ntile(4) OVER w, sum(total) OVER (ORDER BY placed RANGE '7 days' PRECEDING)"
    " FROM orders WINDOW w AS (PARTITION BY status ORDER BY placed) ORDER BY id",
    "WITH RECURSIVE t(n, path) AS (SELECT 1, '1' UNION ALL SELECT n + 1, path || '>' || n + 1 FROM t WHERE n < 8)"
    " SELECT * FROM t",
    "SELECT id FROM orders WHERE (status, quantity) IN (('paid', 1), ('open', 2)) OR quantity IN (1, 2.5, 3)"
    " OR total IN (SELECT total FROM big_orders) ORDER BY 1",
    "SELECT id FROM customers WHERE country NOT IN ('DE', 'US') AND name NOT LIKE '%9' AND email ILIKE 'C1%'"
    " AND name SIMILAR TO '(customer|client) %' ORDER BY 1",
    "SELECT split_part(email, '@', 1), position('@' IN email), replace(name, 'customer', 'client'), trim(country),"
    " left(name, 3), right(name, 2), lpad(id::text, 5, '0'), initcap(name), md5(email), concat_ws('/', id, name),"
    " regexp_replace(email, '\\d+', 'N'), format('%s is %L', name, status), overlay(name PLACING 'C' FROM 1)"
    " FROM customers ORDER BY id",
    "SELECT meta->'seats', (meta->>'seats')::int + 1, meta #>> '{plan}', jsonb_typeof(meta), meta ? 'plan',"
    " jsonb_path_query_first(meta, '$.seats') FROM customers WHERE meta->>'plan' = 'p1' ORDER BY id",
    "SELECT k, v FROM customers, jsonb_each_text(meta) AS e(k, v) WHERE id < 4 ORDER BY id, k",
    "SELECT json_agg(row_to_json(s)) FROM (SELECT id, name FROM customers ORDER BY id LIMIT 3) s",
    "SELECT DISTINCT country, status FROM customers ORDER BY country, status DESC NULLS LAST",
    "SELECT country, count(DISTINCT status) FROM customers GROUP BY country ORDER BY 2 DESC, 1 OFFSET 0 ROWS"
    " FETCH FIRST 2 ROWS ONLY",
    "SELECT id FROM customers INTERSECT SELECT customer_id FROM orders EXCEPT SELECT 3 ORDER BY 1",
    "SELECT id::text FROM orders UNION ALL SELECT name FROM customers ORDER BY 1",
    "SELECT age('2024-05-01'::date, '2023-01-15'), date_part('dow', placed), placed AT TIME ZONE 'Europe/Berlin',"
    " placed + interval '1 month', shipped_on + 7, make_date(2024, 2, 29), extract(epoch FROM placed - '2024-01-01'),"
    " (placed, placed + interval '1 day') OVERLAPS (timestamp '2024-01-05', timestamp '2024-01-09') FROM orders"
    " ORDER BY id",
    "SELECT greatest(total, 100), least(quantity, 3), coalesce(note, status, 'none'), round(total), trunc(total, 1),"
    " ceil(total), floor(total), mod(quantity, 3), sign(total), power(quantity, 2), width_bucket(total, 0, 1000, 10)"
    " FROM orders ORDER BY id",
    "SELECT CAST(total AS int), total::float8, quantity::bool, '12'::int + 1, 'true'::bool, '2024-01-01'::date,"
    " '{1,2}'::int[], ARRAY[1, 2] || 3, ARRAY['a'] || ARRAY['b'], array_length(ARRAY[1, 2], 1), 1 = ANY ('{1,2}')"
    " FROM orders WHERE id = 7",
    "SELECT tags[1], tags[1:1], array_to_string(tags, ';'), cardinality(tags), array_position(tags, 'x'),"
    " unnest(tags) FROM customers ORDER BY id",
    "SELECT host(ip), masklen(ip), ip + 1, ip <<= inet '10.0.0.0/24', network(ip) FROM customers ORDER BY id",
    "SELECT a.id, b.id FROM orders a JOIN orders b ON a.customer_id = b.customer_id AND a.id < b.id"
    " AND a.total IS DISTINCT FROM b.total ORDER BY 1, 2 LIMIT 20",
    "SELECT int4range(1, 5) @> 3, numrange(1.5, 2.5) && numrange(2, 3), tsrange(placed, placed + interval '1 day')"
    " @> timestamp '2024-01-05', B'101' | B'010', '(1,1)'::point <-> '(2,2)'::point FROM orders WHERE id = 2",
    "SELECT (SELECT max(total) FROM orders o WHERE o.customer_id = c.id) AS best, NOT active, active IS TRUE,"
    " (total > 10) = active FROM customers c JOIN orders USING (id) ORDER BY id",
    "SELECT relname, relkind FROM pg_class WHERE relname IN ('customers', 'orders') ORDER BY 1",
    "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_name = 'orders'"
    " ORDER BY ordinal_position",
    "SELECT t.typname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a JOIN pg_type t ON t.oid ="
    " a.atttypid WHERE a.attrelid = 'orders'::regclass AND a.attnum > 0 ORDER BY a.attnum",
    "EXPLAIN (COSTS off) SELECT * FROM customers WHERE lower(email) = 'c1@x.com'",
    "VALUES (1, 'one'), (2, 'two')",
    "TABLE per_month ORDER BY 1",
    "WITH q AS (SELECT id, note FROM orders) SELECT * FROM q WHERE note LIKE '%x%' ORDER BY id",
    "SELECT * FROM (SELECT id, note AS n FROM orders) q WHERE q.n LIKE '%fox%' AND q.id > 2 ORDER BY id",
    "SELECT upper(note) LIKE 'THE%', lower(name) || '!' FROM orders o JOIN customers c ON c.id = customer_id"
    " ORDER BY o.id",
    "SELECT coalesce(note, '') LIKE 't%', 'a' || coalesce(quantity, 0), 'x' || (quantity + 1), 'x' || total * 2,"
    " 'x' || -quantity, round(total, 1) || ' EUR', 'x' || extract(year FROM placed) || date_trunc('day', placed)"
    " FROM orders ORDER BY id",
    "SELECT 'a' || sum(total), 'few ' || count(*), count(*) || ' few', max(note) LIKE 't%', 'x' || max(id) FROM orders",
    "SELECT 'a' || n, n || 'th', x LIKE 'a%' FROM generate_series(1, 3) AS n, unnest(ARRAY['a', 'b']) AS x"
    " ORDER BY 1, 3",
    "SELECT CASE WHEN id > 30 THEN 'a' ELSE note END LIKE 'a%', row_number() OVER (ORDER BY id) || '.' FROM orders"
    " ORDER BY id",
    "SELECT (meta->>'plan') LIKE 'p%', (meta->>'plan') || 'x', tags[1] LIKE 'x%', 'x' || tags[1] FROM customers"
    " ORDER BY id",
    "SELECT (SELECT max(name) FROM customers) LIKE 'c%', current_user LIKE 'x%', 'x' || current_database()",
    "SELECT v.name LIKE 'c%', v.n || '!' FROM (VALUES ('x', 1), ('c', 2)) v(name, n)",
    "SELECT e.key LIKE 'p%', value LIKE 'p%', key || '=' || value FROM customers, jsonb_each_text(meta) e"
    " ORDER BY id, 1",
    "SELECT relname LIKE 'c%', 'x' || relname || relkind::text FROM pg_class WHERE relname = 'customers'",
    "SELECT (X'1F'::int), B'101' | B'010', id FROM orders WHERE id = 2 AND note IS NULL",
    "SELECT status FROM orders WHERE status = ANY (ARRAY['paid', 'open']) AND note !~~ 'a' AND NOT note ~ 'b+'"
    " AND note || status > 'a' ORDER BY id",
)
"""Answered alike whenever they are asked, so that two answers can be compared."""

PREPARED = (
    ("SELECT * FROM customers WHERE id = %s AND status = %s AND created_at > %s", (5, "gone", "2020-01-01")),
    ("SELECT id, 'no. ' || %s, name || %s FROM customers WHERE name LIKE %s ORDER BY id", (7, "!", "customer 1%")),
    (
        "SELECT id FROM orders WHERE total > %s AND placed < %s AND id = ANY (%s) ORDER BY id",
        (9.5, "2025-01-01", [1, 2]),
    ),
    (
        "SELECT how_many(%s), %s || 'x', coalesce(%s, note), quantity + %s FROM orders WHERE id = %s",
        (2, "y", None, 1, 3),
    ),
)
"""With what a driver binds to them."""

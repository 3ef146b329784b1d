-- An honest schema for the statements of tests/oracle; on top of it comes a table with a column of every type.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE nested AS (p pair, m mood, n numeric(10, 2));
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE DOMAIN label AS text CHECK (value <> 'forbidden');
CREATE DOMAIN short AS varchar(10);
CREATE DOMAIN narrow AS positive CHECK (value < 1000);
CREATE DOMAIN numbers AS int[];
CREATE DOMAIN pairs AS pair;
CREATE TYPE label_range AS RANGE (subtype = text);
CREATE TABLE t1 (id int PRIMARY KEY, n bigint, s smallint, f real, d double precision, m numeric(12, 3), v varchar(20), t text,
  c char(5), g name, o oid, k boolean, e date, z timestamptz, ts timestamp, i interval, j json, jb jsonb, a int[], ta text[],
  u uuid, y bytea, x xml, md mood, p pair, po positive, l label, sh short, nu numbers, r int4range, q "char", bt bit(3));
CREATE TABLE t2 (id bigint, n numeric, t varchar, v text, k boolean, p positive, md mood, e timestamp, a bigint[], jb jsonb, w short);
CREATE TABLE t3 (id smallint, t1 int, n double precision, c char(10), r int8range, a text[]);
CREATE TABLE parent (id int, name text);
CREATE TABLE child (extra numeric) INHERITS (parent);
CREATE TABLE parted (id int, at date) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE VIEW v1 AS SELECT id, n, upper(t) AS t, m FROM t1;
CREATE VIEW v2 (x, y) AS SELECT t1.id, t2.n FROM t1 JOIN t2 USING (id);
CREATE MATERIALIZED VIEW mv1 AS SELECT id, t FROM t1;
CREATE SEQUENCE seq1;
CREATE FUNCTION with_defaults(a int, b text DEFAULT 'x', c numeric DEFAULT 1) RETURNS text LANGUAGE sql AS $$ SELECT b $$;
CREATE FUNCTION many(VARIADIC a int[]) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION many_any(f text, VARIADIC a "any") RETURNS text LANGUAGE internal IMMUTABLE AS 'text_format';
CREATE FUNCTION outs(a int, OUT b text, OUT c numeric) LANGUAGE sql AS $$ SELECT 'x'::text, 1::numeric $$;
CREATE FUNCTION set_of_pair() RETURNS SETOF pair LANGUAGE sql AS $$ SELECT 1, 'x'::text $$;
CREATE FUNCTION table_of(n int) RETURNS TABLE (a int, b text) LANGUAGE sql AS $$ SELECT 1, 'x'::text $$;
CREATE FUNCTION record_of(n int) RETURNS SETOF record LANGUAGE sql AS $$ SELECT 1, 'x'::text $$;
CREATE FUNCTION twice(anyelement) RETURNS anyelement LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION same_pair(anyelement, anyarray) RETURNS anyarray LANGUAGE sql AS $$ SELECT $2 $$;
CREATE FUNCTION nothing(int) RETURNS void LANGUAGE sql AS $$ SELECT $$;
CREATE FUNCTION full_name(t1) RETURNS text LANGUAGE sql AS $$ SELECT $1.t $$;
CREATE FUNCTION of_pair(pair) RETURNS int LANGUAGE sql AS $$ SELECT $1.a $$;
CREATE PROCEDURE nothing_done(int) LANGUAGE sql AS $$ SELECT $$;
-- names that mean several things, or are written in several ways
CREATE TABLE "Mixed" ("Id" int, id text, "select" numeric, "a.b" bigint, lower varchar, "Lower" char(3), "ünïcode" date);
CREATE TABLE lower (lower int, t text, upper varchar);
CREATE TABLE tab (tab int, "Tab" text, lower numeric);
CREATE TABLE eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee (
  ccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc int, tab text
);
CREATE FUNCTION "Lower"(text) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION "lower "(text) RETURNS numeric LANGUAGE sql AS $$ SELECT 1::numeric $$;
CREATE FUNCTION tab(tab) RETURNS numeric LANGUAGE sql AS $$ SELECT 1::numeric $$;
CREATE FUNCTION of_tab(tab) RETURNS text LANGUAGE sql AS $$ SELECT 'x'::text $$;
CREATE FUNCTION ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffg(int) RETURNS bigint LANGUAGE sql AS $$ SELECT 1::bigint $$;
-- functions of every family of polymorphic types
CREATE FUNCTION poly_pair(anyelement, anyelement) RETURNS anyarray LANGUAGE sql AS $$ SELECT ARRAY[$1, $2] $$;
CREATE FUNCTION poly_in(anyarray, anyelement) RETURNS boolean LANGUAGE sql AS $$ SELECT $2 = ANY ($1) $$;
CREATE FUNCTION poly_plain(anynonarray, anyelement) RETURNS anyelement LANGUAGE sql AS $$ SELECT $2 $$;
CREATE FUNCTION poly_enum(anyenum, anyarray) RETURNS anyenum LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION poly_range(anyrange, anyelement) RETURNS anyrange LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION poly_bound(anyrange) RETURNS anyelement LANGUAGE sql AS $$ SELECT lower($1) $$;
CREATE FUNCTION poly_bounds(anyrange, anyarray) RETURNS anyarray LANGUAGE sql AS $$ SELECT $2 $$;
CREATE FUNCTION poly_first(anyarray) RETURNS anyelement LANGUAGE sql AS $$ SELECT $1[1] $$;
CREATE FUNCTION poly_all(VARIADIC anyarray) RETURNS anyelement LANGUAGE sql AS $$ SELECT $1[1] $$;
CREATE FUNCTION poly_out(anyelement, OUT a anyelement, OUT b anyarray) LANGUAGE sql AS $$ SELECT $1, ARRAY[$1] $$;
CREATE FUNCTION poly_table(anyarray) RETURNS TABLE (a anyelement, n bigint) LANGUAGE sql AS $$ SELECT $1[1], 1::bigint $$;
CREATE FUNCTION like_pair(anycompatible, anycompatible) RETURNS anycompatible LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION like_in(anycompatiblearray, anycompatible) RETURNS anycompatiblearray LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION like_plain(anycompatiblenonarray, anycompatible) RETURNS anycompatible LANGUAGE sql AS $$ SELECT $2 $$;
CREATE FUNCTION like_range(anycompatiblerange, anycompatible) RETURNS anycompatiblerange LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION like_bound(anycompatiblerange, anycompatiblearray) RETURNS anycompatible LANGUAGE sql AS $$ SELECT $2[1] $$;
CREATE FUNCTION like_all(VARIADIC anycompatiblearray) RETURNS anycompatible LANGUAGE sql AS $$ SELECT $1[1] $$;
CREATE FUNCTION like_out(anycompatible, anycompatible, OUT a anycompatible, OUT b anycompatiblearray)
  LANGUAGE sql AS $$ SELECT $1, ARRAY[$1] $$;
CREATE FUNCTION two_families(anyelement, anycompatible, anycompatiblearray) RETURNS anyelement LANGUAGE sql AS $$ SELECT $1 $$;
DO $do$
BEGIN
  IF current_setting('server_version_num')::int >= 140000 THEN
    CREATE FUNCTION poly_multi(anymultirange, anyelement) RETURNS anyrange LANGUAGE sql AS $$ SELECT range_merge($1) $$;
    CREATE FUNCTION poly_ranges(anyrange, anymultirange) RETURNS anymultirange LANGUAGE sql AS $$ SELECT $2 $$;
    CREATE FUNCTION poly_of_range(anyrange) RETURNS anymultirange LANGUAGE sql AS $$ SELECT multirange($1) $$;
    CREATE FUNCTION like_multi(anycompatiblemultirange, anycompatible) RETURNS anycompatiblerange
      LANGUAGE sql AS $$ SELECT range_merge($1) $$;
    CREATE FUNCTION like_ranges(anycompatiblerange, anycompatiblemultirange) RETURNS anycompatiblemultirange
      LANGUAGE sql AS $$ SELECT $2 $$;
    CREATE FUNCTION like_bounds(anycompatiblemultirange, anycompatiblearray) RETURNS anycompatiblemultirange
      LANGUAGE sql AS $$ SELECT $1 $$;
  END IF;
END $do$;
CREATE TYPE shape AS (id int, at date);
CREATE TABLE of_shape OF shape;
CREATE FUNCTION of_shapes(shape) RETURNS int LANGUAGE sql AS $$ SELECT $1.id $$;
CREATE FUNCTION of_parent(parent) RETURNS text LANGUAGE sql AS $$ SELECT $1.name $$;
CREATE FUNCTION of_parents(parent[]) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION of_record(record) RETURNS text LANGUAGE internal AS 'pg_typeof';
CREATE FUNCTION of_records(record[]) RETURNS text LANGUAGE internal AS 'pg_typeof';
CREATE FUNCTION in_and_out(INOUT a int, INOUT b text DEFAULT 'x') LANGUAGE sql AS $$ SELECT $1, $2 $$;
CREATE FUNCTION all_defaults(a int DEFAULT 1, b bigint DEFAULT 2, c text DEFAULT 'x') RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION named_variadic(a int, VARIADIC b text[]) RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE AGGREGATE summed(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION poly_last(anyelement, anyelement) RETURNS anyelement LANGUAGE sql AS $$ SELECT $2 $$;
CREATE AGGREGATE gathered(anyelement) (SFUNC = poly_last, STYPE = anyelement);
CREATE AGGREGATE ranked(VARIADIC "any" ORDER BY VARIADIC "any")
  (SFUNC = ordered_set_transition_multi, STYPE = internal, FINALFUNC = rank_final, FINALFUNC_EXTRA, HYPOTHETICAL);
CREATE DOMAIN shorter AS short;
CREATE FUNCTION default_of(a anyelement DEFAULT NULL, b anyelement DEFAULT NULL, c boolean DEFAULT true) RETURNS anyelement
  LANGUAGE sql AS $$ SELECT $1 $$;

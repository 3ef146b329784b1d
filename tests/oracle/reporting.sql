-- A schema whose types, casts, operators, classes, aggregates and expressions are made of functions that say that they
-- run. A line `REPORT name(arguments) RETURNS type: expression` becomes one of them: see reporting.py. Each name is
-- borne by one function only. What only some servers can make stands between `-- since N` or `-- contrib` and `-- end`.

-- an enum in the built-in order, with casts
CREATE TYPE mood AS ENUM ('sad', 'ok', 'glad');
REPORT mood_json(mood) RETURNS json: '"mood"'
REPORT mood_jsonb(mood) RETURNS jsonb: '"mood"'
REPORT mood_text(mood) RETURNS text: 'a mood'
REPORT mood_int(mood) RETURNS int: 1
REPORT text_mood(text) RETURNS mood: 'ok'::mood
REPORT moods_text(mood[]) RETURNS text: 'moods'
REPORT moods_json(mood[]) RETURNS json: '"moods"'
CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);
CREATE CAST (mood AS jsonb) WITH FUNCTION mood_jsonb(mood);
CREATE CAST (mood AS text) WITH FUNCTION mood_text(mood);
CREATE CAST (mood AS int) WITH FUNCTION mood_int(mood) AS ASSIGNMENT;
CREATE CAST (text AS mood) WITH FUNCTION text_mood(text) AS ASSIGNMENT;
CREATE CAST (mood[] AS text) WITH FUNCTION moods_text(mood[]);
CREATE CAST (mood[] AS json) WITH FUNCTION moods_json(mood[]);
REPORT mood_with(mood, text) RETURNS mood: $1
REPORT mood_not(mood) RETURNS mood: $1
CREATE OPERATOR ## (FUNCTION = mood_with, LEFTARG = mood, RIGHTARG = text);
CREATE OPERATOR !! (FUNCTION = mood_not, RIGHTARG = mood);

-- an enum with classes of its own
CREATE TYPE grade AS ENUM ('c', 'b', 'a');
REPORT grade_lt(grade, grade) RETURNS bool: pg_catalog.enum_lt($1, $2)
REPORT grade_le(grade, grade) RETURNS bool: pg_catalog.enum_le($1, $2)
REPORT grade_eq(grade, grade) RETURNS bool: pg_catalog.enum_eq($1, $2)
REPORT grade_ne(grade, grade) RETURNS bool: pg_catalog.enum_ne($1, $2)
REPORT grade_ge(grade, grade) RETURNS bool: pg_catalog.enum_ge($1, $2)
REPORT grade_gt(grade, grade) RETURNS bool: pg_catalog.enum_gt($1, $2)
REPORT grade_cmp(grade, grade) RETURNS int: pg_catalog.enum_cmp($1, $2)
REPORT grade_hash(grade) RETURNS int: pg_catalog.hashenum($1)
REPORT grade_hash8(grade, bigint) RETURNS bigint: pg_catalog.hashenumextended($1, $2)
REPORT grade_in_range(grade, grade, int, bool, bool) RETURNS bool: true
CREATE OPERATOR < (FUNCTION = grade_lt, LEFTARG = grade, RIGHTARG = grade, COMMUTATOR = >, NEGATOR = >=,
    RESTRICT = scalarltsel, JOIN = scalarltjoinsel);
CREATE OPERATOR <= (FUNCTION = grade_le, LEFTARG = grade, RIGHTARG = grade, COMMUTATOR = >=, NEGATOR = >,
    RESTRICT = scalarlesel, JOIN = scalarlejoinsel);
CREATE OPERATOR = (FUNCTION = grade_eq, LEFTARG = grade, RIGHTARG = grade, COMMUTATOR = =, NEGATOR = <>,
    RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES);
CREATE OPERATOR <> (FUNCTION = grade_ne, LEFTARG = grade, RIGHTARG = grade, COMMUTATOR = <>, NEGATOR = =,
    RESTRICT = neqsel, JOIN = neqjoinsel);
CREATE OPERATOR >= (FUNCTION = grade_ge, LEFTARG = grade, RIGHTARG = grade, COMMUTATOR = <=, NEGATOR = <,
    RESTRICT = scalargesel, JOIN = scalargejoinsel);
CREATE OPERATOR > (FUNCTION = grade_gt, LEFTARG = grade, RIGHTARG = grade, COMMUTATOR = <, NEGATOR = <=,
    RESTRICT = scalargtsel, JOIN = scalargtjoinsel);
CREATE OPERATOR CLASS grade_ops DEFAULT FOR TYPE grade USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
    OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 grade_cmp(grade, grade),
    FUNCTION 3 (grade, int) grade_in_range(grade, grade, int, bool, bool);
CREATE OPERATOR CLASS grade_hash_ops DEFAULT FOR TYPE grade USING hash AS OPERATOR 1 =, FUNCTION 1 grade_hash(grade),
    FUNCTION 2 grade_hash8(grade, bigint);
REPORT int_grade(int) RETURNS grade: 'b'::grade
REPORT grade_json(grade) RETURNS json: '"grade"'
CREATE CAST (int AS grade) WITH FUNCTION int_grade(int) AS IMPLICIT;
CREATE CAST (grade AS json) WITH FUNCTION grade_json(grade);

-- domains
REPORT check_pos(int) RETURNS bool: true
CREATE DOMAIN pos AS int CHECK (check_pos(value));
REPORT check_word(text) RETURNS bool: true
CREATE DOMAIN word AS text CHECK (check_word(value));
REPORT check_long(text) RETURNS bool: true
CREATE DOMAIN long AS word CHECK (check_long(value));
REPORT check_felt(mood) RETURNS bool: true
CREATE DOMAIN felt AS mood CHECK (check_felt(value));
REPORT check_mark(grade) RETURNS bool: true
CREATE DOMAIN mark AS grade CHECK (check_mark(value));
REPORT check_many(int[]) RETURNS bool: true
CREATE DOMAIN many AS int[] CHECK (check_many(value));

-- composites: one with a domain and casts, one with classes of its own
CREATE TYPE pair AS (a int, d pos, m mood);
REPORT pair_json(pair) RETURNS json: '"pair"'
REPORT pair_text(pair) RETURNS text: 'a pair'
CREATE CAST (pair AS json) WITH FUNCTION pair_json(pair);
CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair);
REPORT check_couple(pair) RETURNS bool: true
CREATE DOMAIN couple AS pair CHECK (check_couple(value));
CREATE TYPE item AS (k int, w word);
REPORT item_lt(item, item) RETURNS bool: pg_catalog.record_lt($1, $2)
REPORT item_le(item, item) RETURNS bool: pg_catalog.record_le($1, $2)
REPORT item_eq(item, item) RETURNS bool: pg_catalog.record_eq($1, $2)
REPORT item_ge(item, item) RETURNS bool: pg_catalog.record_ge($1, $2)
REPORT item_gt(item, item) RETURNS bool: pg_catalog.record_gt($1, $2)
REPORT item_cmp(item, item) RETURNS int: pg_catalog.btrecordcmp($1, $2)
REPORT item_hash(item) RETURNS int: 1
CREATE OPERATOR < (FUNCTION = item_lt, LEFTARG = item, RIGHTARG = item);
CREATE OPERATOR <= (FUNCTION = item_le, LEFTARG = item, RIGHTARG = item);
CREATE OPERATOR = (FUNCTION = item_eq, LEFTARG = item, RIGHTARG = item, COMMUTATOR = =, HASHES, MERGES);
CREATE OPERATOR >= (FUNCTION = item_ge, LEFTARG = item, RIGHTARG = item);
CREATE OPERATOR > (FUNCTION = item_gt, LEFTARG = item, RIGHTARG = item);
CREATE OPERATOR CLASS item_ops DEFAULT FOR TYPE item USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
    OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 item_cmp(item, item);
CREATE OPERATOR CLASS item_hash_ops DEFAULT FOR TYPE item USING hash AS OPERATOR 1 =, FUNCTION 1 item_hash(item);

-- ranges
REPORT grade_diff(grade, grade) RETURNS float8: 1
CREATE TYPE grades AS RANGE (SUBTYPE = grade, SUBTYPE_DIFF = grade_diff);
-- What makes a range canonical has to be there before the range is, and then only C will do; so it comes afterwards.
REPORT grades_canonical(grades) RETURNS grades: $1
SET allow_system_table_mods = on;
UPDATE pg_range SET rngcanonical = 'grades_canonical'::regproc WHERE rngtypid = 'grades'::regtype;
INSERT INTO pg_depend
    VALUES ('pg_type'::regclass, 'grades'::regtype, 0, 'pg_proc'::regclass, 'grades_canonical'::regproc, 0, 'n');
RESET allow_system_table_mods;
REPORT grades_json(grades) RETURNS json: '"grades"'
CREATE CAST (grades AS json) WITH FUNCTION grades_json(grades);
REPORT int_diff(int, int) RETURNS float8: 1
CREATE TYPE span AS RANGE (SUBTYPE = int, SUBTYPE_DIFF = int_diff);

CREATE TYPE words AS RANGE (SUBTYPE = word);
REPORT check_reach(grades) RETURNS bool: true
CREATE DOMAIN reach AS grades CHECK (check_reach(value));
REPORT check_marks(grade[]) RETURNS bool: true
CREATE DOMAIN marks AS grade[] CHECK (check_marks(value));

-- composites of these
CREATE TYPE nest AS (p pair, g grade, ds pos[], r reach);
REPORT check_nests(nest[]) RETURNS bool: true
CREATE DOMAIN nests AS nest[] CHECK (check_nests(value));

-- a type with code in C, whose calls the server counts where they are SECURITY DEFINER
-- contrib
CREATE TYPE tag;
CREATE FUNCTION tag_in(cstring) RETURNS tag IMMUTABLE STRICT SECURITY DEFINER LANGUAGE c AS '$libdir/ltree', 'ltree_in';
CREATE FUNCTION tag_out(tag) RETURNS cstring IMMUTABLE STRICT SECURITY DEFINER LANGUAGE c AS '$libdir/ltree', 'ltree_out';
CREATE FUNCTION tag_recv(internal) RETURNS tag IMMUTABLE STRICT SECURITY DEFINER LANGUAGE c AS '$libdir/ltree', 'ltree_recv';
CREATE FUNCTION tag_send(tag) RETURNS bytea IMMUTABLE STRICT SECURITY DEFINER LANGUAGE c AS '$libdir/ltree', 'ltree_send';
CREATE TYPE tag (INPUT = tag_in, OUTPUT = tag_out, RECEIVE = tag_recv, SEND = tag_send, STORAGE = extended);
CREATE FUNCTION tag_cmp(tag, tag) RETURNS int IMMUTABLE STRICT SECURITY DEFINER LANGUAGE c AS '$libdir/ltree', 'ltree_cmp';
REPORT tag_lt(tag, tag) RETURNS bool: tag_cmp($1, $2) OPERATOR(pg_catalog.<) 0
REPORT tag_le(tag, tag) RETURNS bool: tag_cmp($1, $2) OPERATOR(pg_catalog.<=) 0
REPORT tag_eq(tag, tag) RETURNS bool: tag_cmp($1, $2) OPERATOR(pg_catalog.=) 0
REPORT tag_ge(tag, tag) RETURNS bool: tag_cmp($1, $2) OPERATOR(pg_catalog.>=) 0
REPORT tag_gt(tag, tag) RETURNS bool: tag_cmp($1, $2) OPERATOR(pg_catalog.>) 0
REPORT tag_hash(tag) RETURNS int: 1
CREATE OPERATOR < (FUNCTION = tag_lt, LEFTARG = tag, RIGHTARG = tag);
CREATE OPERATOR <= (FUNCTION = tag_le, LEFTARG = tag, RIGHTARG = tag);
CREATE OPERATOR = (FUNCTION = tag_eq, LEFTARG = tag, RIGHTARG = tag, COMMUTATOR = =, HASHES, MERGES);
CREATE OPERATOR >= (FUNCTION = tag_ge, LEFTARG = tag, RIGHTARG = tag);
CREATE OPERATOR > (FUNCTION = tag_gt, LEFTARG = tag, RIGHTARG = tag);
CREATE OPERATOR CLASS tag_ops DEFAULT FOR TYPE tag USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =,
    OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 tag_cmp(tag, tag);
CREATE OPERATOR CLASS tag_hash_ops DEFAULT FOR TYPE tag USING hash AS OPERATOR 1 =, FUNCTION 1 tag_hash(tag);
-- one that is a tag as it is
CREATE TYPE label;
CREATE FUNCTION label_in(cstring) RETURNS label IMMUTABLE STRICT SECURITY DEFINER LANGUAGE c AS '$libdir/ltree', 'ltree_in';
CREATE FUNCTION label_out(label) RETURNS cstring IMMUTABLE STRICT SECURITY DEFINER LANGUAGE c AS '$libdir/ltree', 'ltree_out';
CREATE TYPE label (INPUT = label_in, OUTPUT = label_out, STORAGE = extended);
CREATE CAST (label AS tag) WITHOUT FUNCTION AS IMPLICIT;
REPORT label_json(label) RETURNS json: '"label"'
CREATE CAST (label AS json) WITH FUNCTION label_json(label);
CREATE DOMAIN stamp AS tag;
CREATE TABLE tagged (id int, t tag, l label, ts tag[], ls label[], s stamp);
INSERT INTO tagged VALUES (1, 'a', 'a', '{a,b}', '{a}', 'b'), (2, 'b', 'b', '{}', '{b}', 'a'), (3, NULL, 'a', NULL, NULL, NULL);
ANALYZE tagged;
-- end

-- functions
REPORT give_pos(int) RETURNS pos: $1
REPORT give_couple(pair) RETURNS couple: $1
REPORT default_part(int) RETURNS int: $1
CREATE FUNCTION with_default(a int, b int DEFAULT default_part(1), c pos DEFAULT 5) RETURNS int LANGUAGE sql
    AS 'SELECT pg_catalog.int4pl(a, b)';
CREATE FUNCTION poly_text(anyelement) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
CREATE FUNCTION poly_json(anyelement) RETURNS json LANGUAGE sql AS 'SELECT to_json($1)';
CREATE FUNCTION poly_same(anyelement, anyelement) RETURNS bool LANGUAGE sql AS 'SELECT $1 = $2';
CREATE FUNCTION poly_least(anyarray) RETURNS anyelement LANGUAGE sql AS 'SELECT x FROM unnest($1) x ORDER BY x LIMIT 1';
CREATE FUNCTION poly_quote(anyelement) RETURNS text LANGUAGE sql AS 'SELECT quote_nullable($1)';
CREATE FUNCTION poly_plpgsql(anyelement) RETURNS text LANGUAGE plpgsql AS
    'DECLARE t text; BEGIN t := $1; RETURN t; END';
CREATE FUNCTION moods() RETURNS SETOF mood LANGUAGE sql AS 'SELECT ''ok''::mood UNION ALL SELECT ''sad''';
CREATE FUNCTION table_of(int) RETURNS TABLE (m mood, d pos, w word) LANGUAGE sql AS 'SELECT ''ok''::mood, 1::pos, ''x''::word';
CREATE FUNCTION as_record(int) RETURNS record LANGUAGE sql AS 'SELECT ''ok''::mood, ''b''::grade, 1::pos';
CREATE FUNCTION many_moods(VARIADIC mood[]) RETURNS int LANGUAGE sql AS 'SELECT pg_catalog.cardinality($1)';
CREATE FUNCTION take_pos(pos) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION take_couple(couple) RETURNS int LANGUAGE sql AS 'SELECT ($1).a';
CREATE FUNCTION outs(mood, OUT m mood, OUT d pos, OUT g grade) LANGUAGE sql AS 'SELECT $1, 1::pos, ''a''::grade';
CREATE FUNCTION sorts(int) RETURNS SETOF grade LANGUAGE sql AS 'SELECT x FROM unnest(''{a,b}''::grade[]) x ORDER BY x';
CREATE OPERATOR ~~~ (FUNCTION = poly_same, LEFTARG = anyelement, RIGHTARG = anyelement);

-- aggregates
REPORT total_step(int, int) RETURNS int: 1
REPORT total_final(int) RETURNS int: 1
REPORT total_both(int, int) RETURNS int: 1
REPORT total_back(int, int) RETURNS int: 1
REPORT total_again(int, int) RETURNS int: 1
REPORT total_last(int) RETURNS int: 1
CREATE AGGREGATE total(int) (SFUNC = total_step, STYPE = int, INITCOND = '0', FINALFUNC = total_final,
    COMBINEFUNC = total_both, MSFUNC = total_again, MINVFUNC = total_back, MSTYPE = int, MINITCOND = '0',
    MFINALFUNC = total_last, PARALLEL = safe);
REPORT best_step(grade, grade) RETURNS grade: $2
CREATE AGGREGATE best(grade) (SFUNC = best_step, STYPE = grade, SORTOP = >);
REPORT kept_step(pos, int) RETURNS pos: 1
CREATE AGGREGATE kept(int) (SFUNC = kept_step, STYPE = pos, INITCOND = '1');
REPORT gather_step(anyarray, anyelement) RETURNS anyarray: $1
CREATE AGGREGATE gather(anyelement) (SFUNC = gather_step, STYPE = anyarray, INITCOND = '{}');

-- tables
CREATE TABLE t1 (id int PRIMARY KEY, n int, x text, m mood, g grade, p pair, i item, d pos, w word, l long, f felt,
    k mark, c couple, my many, r grades, s span, ma mood[], ga grade[], pa pair[], ia item[], da pos[], ra grades[],
    j json, jb jsonb);
INSERT INTO t1 SELECT v, v % 3, 'x' || v, 'ok', 'b', '(1,2,ok)', '(1,x)', 1, 'w', 'l', 'ok', 'a', '(1,2,sad)', '{1}',
    '[c,b]', '[1,5)', '{ok,sad}', '{a,b}', '{"(1,2,ok)"}', '{"(1,x)"}', '{1,2}', '{"[c,b]"}', '{"a": 1}', '{"a": 1}'
    FROM generate_series(1, 4) v;
INSERT INTO t1 (id, n, x, m, g, i, r) VALUES (9, NULL, 'z', 'sad', 'a', '(2,y)', 'empty'), (10, 1, 'y', 'glad', 'c', NULL, NULL);
CREATE TABLE t2 (id int, n bigint, m mood, g grade, p pair, i item, d pos, w word, f felt, k mark, r grades, ma mood[],
    ga grade[], x varchar);
INSERT INTO t2 SELECT id, n, m, g, p, i, d, w, f, k, r, ma, ga, x FROM t1;
CREATE INDEX ON t2 (g);
CREATE INDEX ON t2 (m);
-- one with statistics to estimate by
CREATE TABLE big (id int, n int, m mood, g grade, i item, d pos, r grades, s span, ga grade[], x text, w word);
INSERT INTO big SELECT v, v % 7, (enum_range(NULL::mood))[v % 3 + 1], (enum_range(NULL::grade))[v % 3 + 1], ROW(v, 'x')::item,
    v % 50, grades('c', (enum_range(NULL::grade))[v % 2 + 2]), span(v, v + v % 9 + 1), ARRAY[(enum_range(NULL::grade))[v % 3 + 1]],
    'x' || v, 'w'
    FROM generate_series(1, 300) v;
CREATE INDEX ON big (g);
CREATE INDEX ON big (i);
CREATE INDEX ON big USING gist (s);
CREATE TABLE small (a int, m mood);
INSERT INTO small VALUES (1, 'ok');
REPORT small_json(small) RETURNS json: '"small"'
REPORT small_text(small) RETURNS text: 'small'
CREATE CAST (small AS json) WITH FUNCTION small_json(small);
CREATE CAST (small AS text) WITH FUNCTION small_text(small);
CREATE TABLE grown (b grade) INHERITS (small);
INSERT INTO grown VALUES (2, 'sad', 'a');
REPORT index_part(int) RETURNS int: $1
REPORT where_part(int) RETURNS int: $1
REPORT constraint_part(int) RETURNS int: $1
CREATE TABLE odd (id int, n int, CHECK (id < constraint_part(1000)));
INSERT INTO odd VALUES (1, 1), (2, 2);
CREATE INDEX ON odd ((id + index_part(7))) WHERE n > where_part(0);
CREATE TABLE parted (id int, g grade, m mood) PARTITION BY LIST (g);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b', 'c');
INSERT INTO parted VALUES (1, 'a', 'ok'), (2, 'b', 'sad');
CREATE TABLE ranged (id int, g grade) PARTITION BY RANGE (g);
CREATE TABLE ranged_1 PARTITION OF ranged FOR VALUES FROM ('c') TO ('b');
CREATE TABLE ranged_2 PARTITION OF ranged FOR VALUES FROM ('b') TO (MAXVALUE);
INSERT INTO ranged VALUES (1, 'a'), (2, 'c');
REPORT policy_part(int) RETURNS bool: true
CREATE TABLE guarded (id int, m mood);
INSERT INTO guarded VALUES (1, 'ok');
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY some_rows ON guarded FOR SELECT USING (policy_part(id) AND to_json(m) IS NOT NULL);
CREATE VIEW v1 AS SELECT id, m, g, to_json(m) AS jm, g < 'a' AS lower, d + 1 AS e, p FROM t1;
CREATE VIEW v2 AS SELECT DISTINCT g, ROW(m, id) = ROW(m, 1) AS same FROM t1 ORDER BY g;
-- since 14
CREATE FUNCTION standard(mood) RETURNS json LANGUAGE sql RETURN to_json($1);
REPORT statistics_part(int) RETURNS int: $1
CREATE STATISTICS odd_parts ON (n + statistics_part(3)), id FROM odd;
CREATE TABLE wide (id int, mr grades_multirange, sm span_multirange);
INSERT INTO wide VALUES (1, '{[c,b]}', '{[1,2)}'), (2, '{}', NULL);
-- end
ANALYZE;
CREATE ROLE reader LOGIN;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
GRANT USAGE ON SCHEMA public TO reader;

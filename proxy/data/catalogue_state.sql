-- Say in one row what state the catalogues are in that catalogue.sql reads, on PostgreSQL 13 to 18: as long as the row
-- stays the same, a reading would bring what the one before it has brought.
-- $since is the xmin of that reading's snapshot. What the snapshot did not see and can be seen now was written by a
-- transaction that ran then or began later, so its xmin is not older than $since. Therefore the xmins of such rows and
-- the number of all rows cannot stay the same where anything was created, changed or dropped; and a transaction that
-- commits late is not missed, as it is by looking for a greater xmin than the greatest.
-- Temporary tables come and go, and are not read. Indexes, defaults and generated columns change pg_class or
-- pg_attribute with them, where rows are deleted with a row of pg_class only.
WITH since AS MATERIALIZED (
    SELECT age($since) AS age
),
temporary AS MATERIALIZED (
    SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_(toast_)?temp_'
),
part (name, rows, new) AS (
    SELECT 'pg_attribute', 0, sum(hashint8extended(xmin::text::int8, 0))
    FROM pg_attribute
    WHERE attnum > 0 AND age(xmin) <= (SELECT age FROM since)
        AND NOT EXISTS (SELECT FROM pg_class WHERE oid = attrelid AND relpersistence = 't')
    UNION ALL
    SELECT 'pg_aggregate', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_aggregate
    UNION ALL
    SELECT 'pg_am', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_am
    UNION ALL
    SELECT 'pg_amop', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_amop
    UNION ALL
    SELECT 'pg_amproc', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_amproc
    UNION ALL
    SELECT 'pg_auth_members', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_auth_members
    UNION ALL
    SELECT 'pg_cast', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_cast
    UNION ALL
    SELECT 'pg_class', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_class
    WHERE relpersistence <> 't'
    UNION ALL
    SELECT 'pg_constraint', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_constraint
    WHERE connamespace NOT IN (SELECT oid FROM temporary)
    UNION ALL
    SELECT 'pg_conversion', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_conversion
    UNION ALL
    SELECT 'pg_depend', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_depend
    WHERE deptype = 'e'
    UNION ALL
    SELECT 'pg_extension', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_extension
    UNION ALL
    SELECT 'pg_foreign_server', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_foreign_server
    UNION ALL
    SELECT 'pg_foreign_table', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_foreign_table
    UNION ALL
    SELECT 'pg_inherits', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_inherits
    UNION ALL
    SELECT 'pg_language', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_language
    UNION ALL
    SELECT 'pg_namespace', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_namespace
    WHERE oid NOT IN (SELECT oid FROM temporary)
    UNION ALL
    SELECT 'pg_opclass', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_opclass
    UNION ALL
    SELECT 'pg_operator', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_operator
    UNION ALL
    SELECT 'pg_policy', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_policy
    UNION ALL
    SELECT 'pg_proc', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_proc
    UNION ALL
    SELECT 'pg_range', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_range
    UNION ALL
    SELECT 'pg_rewrite', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_rewrite
    UNION ALL
    SELECT 'pg_statistic_ext', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_statistic_ext
    WHERE stxnamespace NOT IN (SELECT oid FROM temporary)
    UNION ALL
    SELECT 'pg_ts_dict', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_ts_dict
    UNION ALL
    SELECT 'pg_ts_parser', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_ts_parser
    UNION ALL
    SELECT 'pg_ts_template', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_ts_template
    UNION ALL
    SELECT 'pg_type', count(*),
        sum(hashint8extended(xmin::text::int8, 0)) FILTER (WHERE age(xmin) <= (SELECT age FROM since))
    FROM pg_type
    WHERE typnamespace NOT IN (SELECT oid FROM temporary)
)
SELECT $since::text,
    (SELECT encode(convert_to(reset_val, 'SQL_ASCII'), 'hex') FROM pg_settings WHERE name = 'search_path'),
    concat_ws(' ', pg_postmaster_start_time(), string_agg(concat_ws(':', name, rows, new), ' ' ORDER BY name))
FROM part;

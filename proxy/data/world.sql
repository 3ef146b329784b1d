-- Read what parse analysis looks up (proxy/sql/resolve/world.py), on PostgreSQL 13 to 18, as any role, under an empty
-- search_path: the rows with an OID of at least $from, and a digest of those that are built in.
-- Up to 11999, OIDs are written down in PostgreSQL's source or given by its build (access/transam.h): what they mean is
-- the same on all servers of a major version, until a superuser changes it. initdb gives those of information_schema's
-- objects and of system views, which differ from server to server.
-- A column that older versions lack is taken from outside of the LATERAL subquery, where the table in it has none.

-- digest, and where the rows begin: the server's own hashes, added up. To print 3,000 functions takes 20 ms, to hash
-- them 2.
SELECT concat_ws(' ',
    (
        SELECT sum(hash)
        FROM (SELECT NULL::regproc AS typsubscript) absent, LATERAL (
            SELECT hashtextextended(
                concat_ws(' ', t.typname, t.typtype, t.typcategory, t.typispreferred, t.typisdefined, t.typlen,
                    t.typtypmod, t.typcollation <> 0, typsubscript::oid),
                hash_array_extended(ARRAY[t.oid, t.typnamespace, t.typelem, t.typarray, t.typbasetype, t.typinput::oid,
                    t.typoutput::oid, t.typmodin::oid], 0)) AS hash
            FROM pg_type t
            WHERE t.oid < 12000
        ) type
    ),
    (
        SELECT sum(hash)
        FROM (SELECT NULL::pg_node_tree AS prosqlbody) absent, LATERAL (
            SELECT hashtextextended(
                CASE
                    WHEN prosqlbody IS NULL AND p.proargdefaults IS NULL AND p.probin IS NULL AND p.proconfig IS NULL
                        THEN p.proname || p.prosrc
                    ELSE concat(p.proname, p.prosrc, prosqlbody, p.proargdefaults, p.probin, p.proconfig)
                END,
                hashoidvectorextended(p.proargtypes,
                    hash_array_extended(ARRAY[p.oid, p.pronamespace, p.prorettype, p.provariadic, p.prolang,
                        hashchar(p.prokind)::oid, p.prosecdef::int4::oid,
                        p.proretset::int4::oid, p.pronargdefaults::int4::oid], 0)
                    # coalesce(hash_array_extended(p.proallargtypes, 1), 0)
                    # coalesce(hash_array_extended(p.proargmodes, 2), 0)
                    # coalesce(hash_array_extended(p.proargnames, 3), 0))) AS hash
            FROM pg_proc p
            WHERE p.oid < 12000
        ) function
    ),
    (
        SELECT sum(hash_array_extended(ARRAY[aggfnoid::oid, aggtransfn::oid, aggfinalfn::oid, aggcombinefn::oid,
            aggserialfn::oid, aggdeserialfn::oid, aggmtransfn::oid, aggminvtransfn::oid, aggmfinalfn::oid,
            ascii(aggkind::text)::oid, aggnumdirectargs::int4::oid], 0))
        FROM pg_aggregate
        WHERE aggfnoid::oid < 12000
    ),
    (
        SELECT sum(hashtextextended(oprname::text, hash_array_extended(ARRAY[oid, oprnamespace, oprleft, oprright,
            oprresult, oprcode::oid, oprcom, oprnegate], 0)))
        FROM pg_operator
        WHERE oid < 12000
    ),
    (
        SELECT sum(hash_array_extended(ARRAY[oid, castsource, casttarget, castfunc, ascii(castcontext::text)::oid,
            ascii(castmethod::text)::oid], 0))
        FROM pg_cast
        WHERE oid < 12000
    ),
    (
        SELECT sum(hash_array_extended(ARRAY[oid, opcmethod, opcintype, opcfamily, opcdefault::int4::oid], 0))
        FROM pg_opclass
        WHERE oid < 12000
    ),
    (
        SELECT sum(hash_array_extended(ARRAY[oid, amopfamily, amopmethod, amoplefttype, amoprighttype,
            amopstrategy::int4::oid, ascii(amoppurpose::text)::oid, amopopr], 0))
        FROM pg_amop
        WHERE oid < 12000
    ),
    (
        SELECT sum(hash_array_extended(ARRAY[p.oid, amprocfamily, opfmethod, amproclefttype, amprocrighttype,
            amprocnum::int4::oid, amproc::oid], 0))
        FROM pg_amproc p
        JOIN pg_opfamily f ON f.oid = amprocfamily
        WHERE p.oid < 12000
    ),
    (
        SELECT sum(hash)
        FROM (SELECT 0::oid AS rngmultitypid) absent, LATERAL (
            SELECT hash_array_extended(ARRAY[rngtypid, rngsubtype, rngmultitypid], 0) AS hash
            FROM pg_range
            WHERE rngtypid < 12000
        ) range
    )
), $from;

-- schemas
SELECT nspname, oid, has_schema_privilege(oid, 'USAGE')
FROM pg_namespace
WHERE nspname !~ '^pg_(toast_)?temp_'
ORDER BY oid;

-- types, but for those of relations' rows and of arrays of them, where they are what follows from the relation: see
-- `world`. IsTrueArrayType() (catalog/pg_type.h), and whether anything subscripts it: up to 13, typelem says so.
SELECT found.*
FROM (SELECT NULL::regproc AS typsubscript) absent, LATERAL (
    SELECT t.oid, t.typnamespace, t.typname, t.typtype, t.typcategory, t.typispreferred, t.typelem,
        CASE WHEN typsubscript IS NULL THEN t.typlen = -1 AND t.typelem <> 0 ELSE typsubscript::oid = 6179 END,
        t.typarray, t.typbasetype, t.typtypmod, t.typrelid, t.typcollation <> 0,
        CASE WHEN typsubscript IS NULL THEN t.typelem <> 0 ELSE typsubscript::oid <> 0 END,
        t.typinput::oid, t.typoutput::oid, t.typmodin::oid
    FROM pg_type t
    WHERE t.typisdefined AND t.oid >= $from
        AND NOT EXISTS (
            SELECT
            FROM pg_class c
            WHERE c.oid = t.typrelid AND c.relname = t.typname AND c.relnamespace = t.typnamespace
                AND t.typinput::oid = 2290 AND t.typoutput::oid = 2291
        )
        AND NOT EXISTS (
            SELECT
            FROM pg_type e
            WHERE e.oid = t.typelem AND e.typarray = t.oid AND e.typtype = 'c' AND e.typnamespace = t.typnamespace
                AND '_' || e.typname = t.typname AND t.typinput::oid = 750 AND t.typoutput::oid = 751
        )
) found
ORDER BY found.oid;

-- functions; of built-in ones, a hash of what they do
SELECT found.*, a.aggkind, a.aggnumdirectargs
FROM (SELECT NULL::pg_node_tree AS prosqlbody) absent, LATERAL (
    SELECT p.oid, p.pronamespace, p.proname, p.prokind, p.proargtypes, p.prorettype, p.proretset, p.provariadic,
        p.pronargdefaults, array_to_string(p.proallargtypes, ' '), array_to_string(p.proargmodes, ''),
        CASE
            WHEN array_to_string(p.proargnames, '') ~ '[/\\]' THEN (
                SELECT string_agg(replace(replace(name, '\', '\b'), '/', '\s'), '/' ORDER BY number)
                FROM unnest(p.proargnames) WITH ORDINALITY argument (name, number)
            )
            ELSE array_to_string(p.proargnames, '/')
        END,
        CASE WHEN p.oid < 12000 THEN hashtext(concat_ws(' ', p.prolang, p.prosrc, prosqlbody, p.proargdefaults,
            p.probin, p.proconfig, p.prosecdef)) END
    FROM pg_proc p
    WHERE p.oid >= $from
) found
LEFT JOIN pg_aggregate a ON a.aggfnoid = found.oid
ORDER BY found.oid;

-- operators
SELECT oid, oprnamespace, oprname, oprleft, oprright, oprresult, oprcode::oid
FROM pg_operator
WHERE oid >= $from
ORDER BY oid;

-- casts
SELECT castsource, casttarget, castfunc, castcontext, castmethod, oid
FROM pg_cast
WHERE oid >= $from
ORDER BY oid;

-- default operator classes of btree and hash
SELECT oid, opcmethod, opcintype, opcfamily
FROM pg_opclass
WHERE opcdefault AND opcmethod IN (403, 405) AND oid >= $from
ORDER BY oid;

-- the operators of their families
SELECT amopfamily, amopmethod, amoplefttype, amoprighttype, amopstrategy, amopopr
FROM pg_amop
WHERE amopmethod IN (403, 405) AND amoppurpose = 's' AND oid >= $from
ORDER BY oid;

-- their support functions
SELECT amprocfamily, amproclefttype, amprocrighttype, amprocnum, amproc::oid
FROM pg_amproc p
JOIN pg_opfamily f ON f.oid = amprocfamily
WHERE opfmethod IN (403, 405) AND p.oid >= $from
ORDER BY p.oid;

-- all relations, with their columns in the form that `columns_of` reads. Other sessions' temporary tables come and go.
SELECT c.oid, c.relnamespace, c.relname, c.relkind, c.reltype, c.reloftype, coalesce(t.typarray, 0), s.shape
FROM pg_class c
LEFT JOIN pg_type t ON t.oid = c.reltype
LEFT JOIN (
    SELECT attrelid, string_agg(part, '/') AS shape
    FROM (
        SELECT attrelid,
            atttypid::text || CASE atttypmod WHEN -1 THEN ' ' ELSE ':' || atttypmod::text || ' ' END
            || CASE WHEN strpos(attname, '/') > 0 OR strpos(attname, '\') > 0
                THEN replace(replace(attname, '\', '\b'), '/', '\s') ELSE attname END AS part
        FROM pg_attribute
        WHERE attnum > 0 AND NOT attisdropped
        ORDER BY attrelid, attnum
    ) ordered
    GROUP BY attrelid
) s ON s.attrelid = c.oid
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND c.relpersistence <> 't'
ORDER BY c.oid;

-- inheritance and partitions
SELECT inhrelid, inhparent
FROM pg_inherits
ORDER BY inhrelid, inhseqno;

-- ranges; multiranges came with 14
SELECT found.*
FROM (SELECT 0::oid AS rngmultitypid) absent, LATERAL (
    SELECT rngtypid, rngsubtype, rngmultitypid
    FROM pg_range
    WHERE rngtypid >= $from
) found
ORDER BY found.rngtypid

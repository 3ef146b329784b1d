-- Read everything that proxy/sql/catalog.py's Rows hold, in one round trip, on PostgreSQL 13 to 18, as any role.
-- What the server prints under an empty search_path names every object outside pg_catalog in full.
-- Not built in is what initdb did not make (FirstNormalObjectId, access/transam.h), in pg_catalog too, where a
-- superuser can put things; and whatever stands in other schemas.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL search_path = '';
SET LOCAL quote_all_identifiers = off;
-- See the locked relations below: one that is locked later ends the reading.
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';
-- Compiling would take longer than all the rest.
SET LOCAL jit = off;

-- Rows come in order, so that two readings can be compared.
-- Printing what another session has just dropped can be an error, which would end the whole reading. The snapshot
-- has it still, but has_..._privilege and pg_relation_size (which takes the lock first) look at what there is now, and
-- are null.

-- Printing a view, a policy or a body in SQL-standard form locks the relations in it (AcquireRewriteLocks(),
-- ruleutils.c), which another session's ACCESS EXCLUSIVE lock keeps for as long as a migration takes, or waits for. What
-- would wait is not printed: relations are judged by their trees then, functions cannot be. All SELECTs go by the same
-- list of them.
-- A database in SQL_ASCII can hold bytes that are no UTF-8, which the server does not send where that is expected.

-- server
WITH locked AS MATERIALIZED (
    SELECT l.relation AS oid
    FROM pg_locks l
    JOIN pg_database d ON d.oid = l.database
    WHERE d.datname = current_database() AND l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
        AND l.pid <> pg_backend_pid()
),
touching AS MATERIALIZED (
    SELECT d.classid, d.objid
    FROM pg_depend d
    JOIN locked l ON d.refclassid = 'pg_class'::regclass AND d.refobjid = l.oid
)
SELECT current_setting('server_version_num'), current_database(), getdatabaseencoding(), current_user,
    set_config('client_encoding', CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, true),
    set_config('sidecart.unprinted_relations', (
        SELECT coalesce(array_agg(oid), '{}')::text
        FROM (
            SELECT oid FROM locked
            UNION
            SELECT r.ev_class
            FROM touching
            JOIN pg_rewrite r ON classid = 'pg_rewrite'::regclass AND objid = r.oid
            UNION
            SELECT p.polrelid
            FROM touching
            JOIN pg_policy p ON classid = 'pg_policy'::regclass AND objid = p.oid
        ) unprinted
    ), true) IS NOT NULL,
    set_config('sidecart.unprinted_functions', (
        SELECT coalesce(array_agg(objid), '{}')::text FROM touching WHERE classid = 'pg_proc'::regclass
    ), true) IS NOT NULL;

-- state
$state

-- functions. A language is what its handler makes it, whatever it is called: initdb gives the first three their OIDs. A
-- built-in function is read, too, if it is not as initdb wrote it: those in SQL, and aggregates, are older than the views of
-- information_schema, which stand at the end of its script. (Freezing a row leaves its xmin as it is.) Those in C are of
-- libraries that come with the server. An internal one is what its OID says (fmgr_isbuiltin(), utils/fmgr/fmgr.c),
-- whatever has become of its row, as long as that does not say that it is in SQL, for then the planner takes its body.
WITH language AS MATERIALIZED (
    SELECT l.oid, CASE
            WHEN l.oid = 12 THEN 'internal'
            WHEN l.oid = 13 THEN 'c'
            WHEN l.oid = 14 THEN 'sql'
            WHEN h.prolang = 13 AND (h.probin, h.prosrc) = ('$libdir/plpgsql', 'plpgsql_call_handler') THEN 'plpgsql'
            WHEN l.lanname IN ('internal', 'c', 'sql', 'plpgsql') THEN 'another ' || l.lanname
            ELSE l.lanname
        END AS lanname
    FROM pg_language l
    LEFT JOIN pg_proc h ON h.oid = l.lanplcallfoid
)
SELECT p.oid, n.nspname, p.proname, p.prokind, l.lanname, p.provolatile, p.proargtypes, p.pronargdefaults,
    p.provariadic <> 0, concat_ws(' ', p.prorettype, a.aggtranstype, nullif(a.aggmtranstype, 0)),
    array_to_string(p.proallargtypes, ' '), array_to_string(p.proargmodes, ''), p.prosrc,
    CASE WHEN l.lanname IN ('sql', 'plpgsql') AND p.prokind <> 'a'
        AND p.oid <> ALL ((SELECT current_setting('sidecart.unprinted_functions'))::oid[])
        THEN pg_get_functiondef(p.oid) END,
    CASE WHEN has_function_privilege(p.oid, 'EXECUTE') IS NOT NULL THEN pg_get_expr(p.proargdefaults, 0) END,
    to_json(p.proconfig), e.extname, CASE WHEN p.prosecdef THEN p.proowner END
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN language l ON l.oid = p.prolang
LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid
LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_extension e ON e.oid = d.refobjid
WHERE p.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema')
    OR l.lanname = 'internal' AND p.oid >= 10000
    OR l.lanname = 'c' AND p.probin !~ '^\$libdir/(\w+_and_\w+|euc2004_sjis2004|dict_snowball|plpgsql)$'
    OR (l.lanname NOT IN ('internal', 'c') OR p.prokind = 'a') AND p.xmin::text::int8 >= coalesce((
        SELECT min(xmin::text::int8)
        FROM pg_class
        WHERE oid < 16384 AND relkind = 'v' AND relnamespace = 'information_schema'::regnamespace
    ), 0)
ORDER BY p.oid;

-- relations; built-in views are not printed as long as they are as initdb wrote them: they are reads then, and
-- information_schema is long. A rule that is replaced is not of the transaction that made the view's row type any more,
-- and not older than PL/pgSQL, which initdb makes last. Other sessions' temporary tables come and go, and cannot be read.
SELECT c.oid, n.nspname, c.relname, c.relkind, c.reltype,
    CASE WHEN c.relkind = 'v' AND (c.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema') OR EXISTS (
            SELECT
            FROM pg_rewrite r
            JOIN pg_type t ON t.oid = c.reltype
            WHERE r.ev_class = c.oid AND r.ev_type = '1' AND (r.xmin <> t.xmin OR r.xmin::text::int8 >= (
                SELECT min(xmin::text::int8)
                FROM pg_proc
                WHERE oid < 16384 AND prolang = 13 AND probin = '$libdir/plpgsql'
            ))
        ))
        AND c.oid <> ALL ((SELECT current_setting('sidecart.unprinted_relations'))::oid[])
        AND pg_relation_size(c.oid) IS NOT NULL THEN pg_get_viewdef(c.oid) END,
    s.srvname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid
LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
WHERE c.relkind IN ('v', 'm', 'f') OR c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
ORDER BY c.oid;

-- expressions of (r)elations and (t)ypes: policies for SELECT, generated columns that are computed when they are read
-- (attgenerated v, from PostgreSQL 18 on), CHECKs and defaults of domains
SELECT 'r', c.oid, CASE WHEN has_table_privilege(c.oid, 'SELECT') IS NOT NULL THEN pg_get_expr(p.polqual, c.oid) END
FROM pg_policy p
JOIN pg_class c ON c.oid = p.polrelid AND c.relrowsecurity
WHERE p.polcmd IN ('r', '*') AND p.polqual IS NOT NULL
    AND c.oid <> ALL ((SELECT current_setting('sidecart.unprinted_relations'))::oid[])
UNION ALL
SELECT 'r', a.attrelid,
    CASE WHEN has_table_privilege(a.attrelid, 'SELECT') IS NOT NULL THEN pg_get_expr(d.adbin, d.adrelid) END
FROM pg_attribute a
JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attgenerated = 'v' AND a.attrelid <> ALL ((SELECT current_setting('sidecart.unprinted_relations'))::oid[])
UNION ALL
SELECT 't', contypid, CASE WHEN has_type_privilege(contypid, 'USAGE') IS NOT NULL THEN pg_get_expr(conbin, 0) END
FROM pg_constraint
WHERE contypid <> 0 AND contype = 'c' AND oid >= 16384
UNION ALL
SELECT 't', oid, CASE WHEN has_type_privilege(oid, 'USAGE') IS NOT NULL THEN pg_get_expr(typdefaultbin, 0) END
FROM pg_type
WHERE typdefaultbin IS NOT NULL AND oid >= 16384
ORDER BY 1, 2, 3;

-- references: (f)unctions, (r)elations, (t)ypes and their (d)efault operator classes, (o)perators and operator families (c),
-- and which functions and operators their definitions refer to.
-- Printed text hides calls: an implicit cast, the equality of CASE x WHEN, of NULLIF and of JOIN USING.
-- Planning a read of a relation computes the constant parts of CHECK constraints, indexes, partition keys and extended
-- statistics (eval_const_expressions() below get_relation_info(), plancat.c), and calls operator classes.
-- What the planner asks belongs to an operator (its estimators) or a function (its support function). Nobody names what
-- serves a built-in object (kind n, owner 0), nor what converts to and from a client's encoding. Text search reaches its
-- templates and parsers by the names of dictionaries and configurations (kind s, owner 0).
WITH RECURSIVE code AS (
    SELECT p.oid
    FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE p.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema')
),
operator AS (
    SELECT o.oid, o.oprcode::oid AS code
    FROM pg_operator o
    JOIN pg_namespace n ON n.oid = o.oprnamespace
    WHERE (o.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema')) AND o.oprcode <> 0
),
-- What was put into an operator family: a built-in support function can be made one of a family that it is not meant for
-- (CREATE OPERATOR CLASS looks at its result and the number of its arguments).
family AS (
    SELECT amprocfamily AS oid, amproc::oid AS code
    FROM pg_amproc
    WHERE oid >= 16384
    UNION
    SELECT a.amopfamily, operator.code
    FROM pg_amop a
    JOIN operator ON operator.oid = a.amopopr
),
opclass AS (
    SELECT c.oid, c.opcintype, c.opcdefault, c.opcmethod, family.code
    FROM pg_opclass c
    JOIN family ON family.oid = c.opcfamily
),
-- What can run in the place of an operator, or beside it: the planner puts the commutator, the negator or another member
-- of one of its families in its place (negate_clause(), CommuteOpExpr(), get_opfamily_member()), one after the other;
-- sorting, merging and hashing call the support functions of the families (get_ordering_op_properties(), lsyscache.c).
linked AS (
    SELECT o.oid, other.oid AS other
    FROM pg_operator o
    CROSS JOIN LATERAL unnest(ARRAY[o.oprcom, o.oprnegate]) other (oid)
    WHERE other.oid <> 0
    UNION
    SELECT a.amopopr, other.amopopr
    FROM pg_amop a
    JOIN pg_amop other USING (amopfamily)
    WHERE a.amopmethod IN (403, 405) AND (a.oid >= 16384 OR other.oid >= 16384)
),
reached AS (
    SELECT oid, oid AS other FROM operator
    UNION
    SELECT reached.oid, linked.other
    FROM reached
    JOIN linked ON linked.oid = reached.other
),
beside AS (
    SELECT reached.oid, o.oprcode::oid AS code
    FROM reached
    JOIN pg_operator o ON o.oid = reached.other AND o.oprcode <> 0 AND o.oid <> reached.oid
    UNION
    SELECT reached.oid, family.code
    FROM reached
    JOIN pg_amop a ON a.amopopr = reached.other AND a.amopmethod IN (403, 405)
    JOIN family ON family.oid = a.amopfamily
),
referred (refclassid, refobjid, code, operator) AS (
    SELECT 'pg_proc'::regclass::oid, oid, oid, 0::oid FROM code
    UNION ALL
    SELECT 'pg_operator'::regclass, oid, code, oid FROM operator
    UNION ALL
    SELECT 'pg_operator'::regclass, oid, code, oid FROM beside
    UNION ALL
    SELECT 'pg_opclass'::regclass, oid, code, 0 FROM opclass
),
referring (classid, objid, kind, owner) AS (
    SELECT 'pg_proc'::regclass::oid, oid, 'f', oid FROM pg_proc
    UNION ALL
    SELECT 'pg_type'::regclass, oid, 't', oid FROM pg_type
    UNION ALL
    SELECT 'pg_class'::regclass, a.relid::oid, 'r', c.oid
    FROM pg_class c
    CROSS JOIN LATERAL pg_partition_ancestors(c.oid) a -- and itself
    WHERE c.relkind = 'p' OR c.relispartition
    UNION ALL
    SELECT 'pg_class'::regclass, indexrelid, 'r', indrelid FROM pg_index
    UNION ALL
    SELECT 'pg_statistic_ext'::regclass, oid, 'r', stxrelid FROM pg_statistic_ext
    UNION ALL
    SELECT 'pg_constraint'::regclass, oid, 'r', conrelid FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0
    UNION ALL
    SELECT 'pg_constraint'::regclass, oid, 't', contypid FROM pg_constraint WHERE contype = 'c' AND contypid <> 0
    UNION ALL
    SELECT 'pg_rewrite'::regclass, r.oid, 'r', c.oid
    FROM pg_rewrite r
    JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'v'
    WHERE r.ev_type = '1'
    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, 'r', c.oid
    FROM pg_policy p
    JOIN pg_class c ON c.oid = p.polrelid AND c.relrowsecurity
    WHERE p.polcmd IN ('r', '*')
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid, 'r', d.adrelid
    FROM pg_attribute a
    JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attgenerated = 'v'
),
serving (kind, owner, code) AS (
    SELECT CASE WHEN o.oid < 16384 THEN 'n' ELSE 'o' END, CASE WHEN o.oid < 16384 THEN 0 ELSE o.oid END, part.code
    FROM pg_operator o
    CROSS JOIN LATERAL unnest(ARRAY[oprcode, oprrest, oprjoin]::oid[]) part (code)
    UNION ALL
    SELECT CASE WHEN oid < 16384 THEN 'n' ELSE 'f' END, CASE WHEN oid < 16384 THEN 0 ELSE oid END, prosupport::oid
    FROM pg_proc
    UNION ALL
    SELECT 'n', 0, part.code
    FROM pg_aggregate a
    CROSS JOIN LATERAL unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
        a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) part (code)
    WHERE a.aggfnoid < 16384
    UNION ALL
    SELECT 'n', 0, part.code
    FROM pg_type t
    CROSS JOIN LATERAL unnest(ARRAY[typinput, typoutput, typreceive, typsend, typmodin, typmodout, typanalyze,
        (to_jsonb(t) ->> 'typsubscript')::regproc]::oid[]) part (code) -- since 14
    WHERE t.oid < 16384
    UNION ALL
    SELECT 'n', 0, part.code
    FROM pg_range
    CROSS JOIN LATERAL unnest(ARRAY[rngcanonical, rngsubdiff]::oid[]) part (code)
    WHERE rngtypid < 16384
    UNION ALL
    SELECT 'n', 0, castfunc FROM pg_cast WHERE oid < 16384
    UNION ALL
    SELECT 'n', 0, amproc::oid FROM pg_amproc WHERE oid < 16384
    UNION ALL
    SELECT 'n', 0, amhandler::oid FROM pg_am WHERE oid < 16384
    UNION ALL
    SELECT 'n', 0, conproc::oid FROM pg_conversion WHERE condefault
    UNION ALL
    SELECT 'r', coalesce(i.indrelid, c.oid), a.amhandler::oid
    FROM pg_class c
    JOIN pg_am a ON a.oid = c.relam
    LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE a.oid >= 16384
    UNION ALL
    SELECT 's', 0, part.code
    FROM pg_ts_template t
    CROSS JOIN LATERAL unnest(ARRAY[tmplinit, tmpllexize]::oid[]) part (code)
    WHERE EXISTS (SELECT FROM pg_ts_dict WHERE dicttemplate = t.oid)
    UNION ALL
    SELECT 's', 0, part.code
    FROM pg_ts_parser
    CROSS JOIN LATERAL unnest(ARRAY[prsstart, prstoken, prsend, prsheadline, prslextype]::oid[]) part (code)
)
SELECT g.kind, g.owner, d.code, d.operator
FROM pg_depend
JOIN referred d USING (refclassid, refobjid)
JOIN referring g USING (classid, objid)
UNION
-- ORDER BY, GROUP BY and DISTINCT name no operator: they take the default operator class of btree or hash. Those of
-- built-in types are among the operator families below. (d)efault classes of a type are told apart from its (t)ype.
SELECT 'd', opcintype, code, 0
FROM opclass
WHERE opcdefault AND opcmethod IN (403, 405) AND opcintype >= 16384
UNION
-- The operators of enums are pg_catalog's own, for anyenum; so what stands beside them in a family is that of every enum.
SELECT 'd', t.oid, family.code, 0
FROM family
JOIN pg_amop a ON a.amopfamily = family.oid AND a.amopmethod IN (403, 405)
JOIN pg_operator o ON o.oid = a.amopopr AND o.oid < 16384 AND 'anyenum'::regtype IN (o.oprleft, o.oprright)
JOIN pg_type t ON t.typtype = 'e'
UNION
SELECT 'o', oid, code, 0
FROM beside
UNION
SELECT 'c', oid, code, 0
FROM family
UNION
SELECT kind, owner, code, 0
FROM serving
JOIN code ON code.oid = serving.code
UNION
SELECT 'f', p.oid, part.code, 0
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_aggregate a ON a.aggfnoid = p.oid
CROSS JOIN LATERAL unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggserialfn, a.aggdeserialfn,
    a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) part (code)
WHERE part.code <> 0 AND (
    p.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema') OR p.xmin::text::int8 >= coalesce((
        SELECT min(xmin::text::int8)
        FROM pg_class
        WHERE oid < 16384 AND relkind = 'v' AND relnamespace = 'information_schema'::regnamespace
    ), 0))
ORDER BY 1, 2, 3, 4;

-- unprinted: the (f)unctions, (r)elations and (t)ypes that the trees of what was not printed refer to. pg_depend does
-- not have the built-in ones (isObjectPinned(), catalog/catalog.c): those that an expression can call are in the tree.
WITH tree (classid, objid, owner, body) AS (
    SELECT 'pg_rewrite'::regclass::oid, oid, ev_class, ev_action::text FROM pg_rewrite WHERE ev_type = '1'
    UNION ALL
    SELECT 'pg_policy'::regclass, p.oid, c.oid, p.polqual::text
    FROM pg_policy p
    JOIN pg_class c ON c.oid = p.polrelid AND c.relrowsecurity
    WHERE p.polcmd IN ('r', '*')
    UNION ALL
    SELECT 'pg_attrdef'::regclass, d.oid, d.adrelid, d.adbin::text
    FROM pg_attribute a
    JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attgenerated = 'v'
),
unprinted AS MATERIALIZED (
    SELECT * FROM tree WHERE owner = ANY ((SELECT current_setting('sidecart.unprinted_relations'))::oid[])
)
SELECT owner, 'f', called[1]::oid
FROM unprinted, regexp_matches(body, ':(?:funcid|opfuncid|aggfnoid|winfnoid) (\d+)', 'g') called
UNION
SELECT owner, 'r', c.oid
FROM unprinted
JOIN pg_depend USING (classid, objid)
JOIN pg_class c ON refclassid = 'pg_class'::regclass AND refobjid = c.oid AND c.relkind IN ('r', 'v', 'm', 'f', 'p', 'S')
UNION
SELECT owner, 't', refobjid
FROM unprinted
JOIN pg_depend USING (classid, objid)
WHERE refclassid = 'pg_type'::regclass
ORDER BY 1, 2, 3;

-- inheritance and partitions
SELECT inhparent, inhrelid FROM pg_inherits ORDER BY inhparent, inhrelid;

-- columns with types that are not built in, and all the others beside one; columns with names of functions and types:
-- x.name is a call or a cast, too
WITH own AS MATERIALIZED (
    SELECT t.oid
    FROM pg_type t
    JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema')
),
mixed AS MATERIALIZED (
    SELECT DISTINCT attrelid FROM pg_attribute WHERE atttypid IN (SELECT oid FROM own)
)
SELECT a.attrelid, a.attname, t.oid, f.proname IS NOT NULL OR m.attrelid IS NOT NULL
FROM pg_attribute a
LEFT JOIN own t ON t.oid = a.atttypid
LEFT JOIN mixed m ON m.attrelid = a.attrelid
LEFT JOIN (
    SELECT p.proname
    FROM pg_proc p
    JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE (p.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema'))
        AND p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
    UNION
    SELECT t.typname
    FROM pg_type t
    JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE t.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema')
    UNION
    SELECT unnest($names::name[])
) f ON f.proname = a.attname
WHERE a.attnum > 0 AND NOT a.attisdropped AND (m.attrelid IS NOT NULL OR f.proname IS NOT NULL)
ORDER BY a.attrelid, a.attnum;

-- the built-in types of all columns, where an operator that is meant can depend on one: somebody's bears a built-in's name.
-- For a very large database that is too much to know.
SELECT a.attrelid, json_object_agg(a.attname, t.typname ORDER BY a.attnum)
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
LEFT JOIN pg_type t ON t.oid = a.atttypid AND t.oid < 16384 AND t.typnamespace = 'pg_catalog'::regnamespace
WHERE a.attnum > 0 AND NOT a.attisdropped
    AND EXISTS (
        SELECT FROM pg_operator o
        JOIN pg_operator other ON other.oprname = o.oprname AND other.oid < 16384
        WHERE o.oid >= 16384
    )
    AND (SELECT sum(relnatts) FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f')) <= 100000
GROUP BY a.attrelid
ORDER BY a.attrelid;

-- types, and those that they are made of, but for row types of temporary and TOAST tables; multiranges came with 14
SELECT t.oid, n.nspname, t.typname, t.typtype, t.typrelid,
    concat_ws(' ', t.typbasetype, t.typelem, r.rngsubtype, m.rngtypid),
    t.typbasetype, CASE t.typcategory WHEN 'A' THEN t.typelem ELSE 0 END, t.typcategory, t.typispreferred,
    CASE WHEN t.oid >= 16384 THEN concat_ws(' ', t.typinput::oid, t.typreceive::oid, t.typmodin::oid) END,
    CASE WHEN t.oid >= 16384 THEN concat_ws(' ', t.typoutput::oid, t.typsend::oid, t.typmodout::oid) END
FROM pg_type t
JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_range r ON r.rngtypid = t.oid
LEFT JOIN (
    SELECT rngtypid, (to_jsonb(pg_range) ->> 'rngmultitypid')::oid AS oid FROM pg_range
) m ON m.oid = t.oid
WHERE n.nspname !~ '^pg_(temp|toast)' OR t.typrelid = 0 AND t.typelem = 0
ORDER BY t.oid;

-- operators, and whether one of pg_catalog's has it as its commutator or negator
SELECT o.oid, n.nspname, o.oprname, o.oprleft, o.oprright, o.oprcode::oid,
    o.oid IN (SELECT unnest(ARRAY[oprcom, oprnegate]) FROM pg_operator WHERE oid < 16384), o.oprresult
FROM pg_operator o
JOIN pg_namespace n ON n.oid = o.oprnamespace
WHERE (o.oid >= 16384 OR n.nspname NOT IN ('pg_catalog', 'information_schema')) AND o.oprcode <> 0
ORDER BY o.oid;

-- operator families of btree and hash that nobody has to name: they have operators of pg_catalog (but for those of
-- enums), or a class in them is the default of a type of pg_catalog. And what was put into a built-in family of another method.
SELECT f.oid, n.nspname, f.opfname
FROM pg_opfamily f
JOIN pg_namespace n ON n.oid = f.opfnamespace
WHERE (EXISTS (SELECT FROM pg_amop WHERE amopfamily = f.oid AND oid >= 16384)
        OR EXISTS (SELECT FROM pg_amproc WHERE amprocfamily = f.oid AND oid >= 16384))
    AND (f.oid < 16384 OR f.opfmethod IN (403, 405))
    AND (f.opfmethod NOT IN (403, 405) OR EXISTS (
            SELECT
            FROM pg_amop a
            JOIN pg_operator o ON o.oid = a.amopopr AND o.oid < 16384
            WHERE a.amopfamily = f.oid AND 'anyenum'::regtype NOT IN (o.oprleft, o.oprright)
        )
        OR EXISTS (SELECT FROM pg_opclass WHERE opcfamily = f.oid AND opcdefault AND opcintype < 16384))
ORDER BY f.oid;

-- casts; one without a function runs nothing, but an implicit one has a say in which operator is meant
SELECT oid, castsource, casttarget, castfunc, castcontext
FROM pg_cast
WHERE oid >= 16384 AND (castfunc <> 0 OR castcontext = 'i')
ORDER BY oid;

-- built-in functions: the argument types of those whose name others bear, too, and the symbols that others name
WITH others AS MATERIALIZED (
    SELECT proname, CASE WHEN prolang = 12 THEN prosrc END AS symbol FROM pg_proc WHERE oid >= 16384
)
SELECT p.oid, n.nspname, p.proname,
    CASE WHEN p.provariadic = 0 AND p.proname IN (SELECT proname FROM others) THEN p.proargtypes END,
    CASE WHEN p.prolang = 12 AND p.prosrc IN (SELECT symbol FROM others WHERE symbol IS NOT NULL) THEN p.prosrc END
FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.oid < 16384 AND n.nspname IN ('pg_catalog', 'information_schema')
ORDER BY p.oid;

-- built-in operators whose name others bear, too
SELECT oprname, oprleft, oprright
FROM pg_operator
WHERE oid < 16384 AND oprname IN (SELECT oprname FROM pg_operator WHERE oid >= 16384)
ORDER BY oid;

-- what built-in types become without a word
SELECT castsource, casttarget
FROM pg_cast
WHERE oid < 16384 AND castcontext = 'i'
ORDER BY oid;

-- members of extensions, but for functions: (r)elations, (t)ypes, (o)perators, casts (x), operator families (c)
SELECT CASE d.classid
        WHEN 'pg_class'::regclass THEN 'r'
        WHEN 'pg_type'::regclass THEN 't'
        WHEN 'pg_operator'::regclass THEN 'o'
        WHEN 'pg_cast'::regclass THEN 'x'
        ELSE 'c'
    END, d.objid, e.extname
FROM pg_depend d
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
WHERE d.deptype = 'e' AND d.classid IN ('pg_class'::regclass, 'pg_type'::regclass, 'pg_operator'::regclass,
    'pg_cast'::regclass, 'pg_opfamily'::regclass)
ORDER BY d.classid, d.objid;

-- the role of the session (0) and the owners of functions that are SECURITY DEFINER, and the schemas that each may use
SELECT u.oid, u.rolname, string_agg(n.oid::text, ' ' ORDER BY n.oid)
FROM (
    SELECT 0::oid AS oid, current_user AS rolname, (SELECT oid FROM pg_roles WHERE rolname = current_user) AS role
    UNION ALL
    (
        SELECT oid, rolname, oid
        FROM pg_roles
        WHERE oid IN (SELECT proowner FROM pg_proc WHERE prosecdef AND oid >= 16384)
        ORDER BY oid
        LIMIT 50
    )
) u
JOIN pg_namespace n ON n.nspname !~ '^pg_(temp|toast)' AND has_schema_privilege(u.role, n.oid, 'USAGE')
GROUP BY u.oid, u.rolname
ORDER BY u.oid;

-- the search_path that a session begins with: those of its schemas that are there and that the role has USAGE on. Any of
-- them can come before pg_catalog.
SET LOCAL search_path = DEFAULT;
SELECT n.oid
FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY path (name, place)
JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) path.name
ORDER BY path.place;
SET LOCAL search_path = '';

-- world
$world;

COMMIT

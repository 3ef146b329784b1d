-- Read what a role may do in this database beside reading, in one round trip, on PostgreSQL 13 to 18, as any role.
-- $role is the role: a text constant, or current_user. $parameters is pg_parameter_acl, which came with 15. $functions
-- and the like are the OIDs of what is no read. proxy/role/probe.py says what the rows are, in the same order.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
-- Objects are printed with their schemas, and only pg_catalog's functions and operators are meant.
SET LOCAL search_path = '';
SET LOCAL quote_all_identifiers = off;
SET LOCAL lock_timeout = '3s';
SET LOCAL statement_timeout = '60s';
SET LOCAL jit = off;

-- server and role (a database in SQL_ASCII can hold bytes that are no UTF-8); and which roles within its reach, itself included, read passwords
WITH RECURSIVE me (oid) AS (
    SELECT oid FROM pg_roles WHERE rolname = $role
    UNION
    SELECT m.roleid
    FROM pg_auth_members m
    JOIN me ON m.member = me.oid
    JOIN pg_roles r ON r.oid = m.roleid AND NOT rolsuper
)
SELECT set_config('client_encoding', CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, true),
    -- what a session of the role begins with: its own settings for this database come first, then those for all of
    -- them, the database's, everybody's, and the configuration's
    coalesce(
        (
            SELECT substr(setting, 13)
            FROM pg_db_role_setting s, unnest(setconfig) setting
            WHERE setting LIKE 'search_path=%' AND setrole IN (0, r.oid) AND setdatabase IN (0, d.oid)
            ORDER BY setrole = 0, setdatabase = 0
            LIMIT 1
        ),
        (SELECT reset_val FROM pg_settings WHERE name = 'search_path' AND current_user = $role)
    ),
    current_setting('server_version_num'), current_setting('server_version'), quote_ident(current_database()),
    quote_ident(pg_get_userbyid(d.datdba)), pg_is_in_recovery(), current_setting('max_prepared_transactions'),
    current_setting('lo_compat_privileges')::bool, quote_ident(r.rolname), r.rolsuper, r.rolcreaterole, r.rolcreatedb,
    r.rolreplication, r.rolbypassrls, r.rolinherit,
    (SELECT string_agg(quote_ident(pg_get_userbyid(oid)), ', ' ORDER BY oid) FROM me
        WHERE has_column_privilege(oid, 'pg_catalog.pg_authid', 'rolpassword', 'SELECT')),
    (SELECT string_agg(quote_ident(pg_get_userbyid(oid)), ', ' ORDER BY oid) FROM me
        WHERE has_column_privilege(oid, 'pg_catalog.pg_user_mapping', 'umoptions', 'SELECT')),
    (SELECT string_agg(quote_ident(pg_get_userbyid(oid)), ', ' ORDER BY oid) FROM me
        WHERE has_column_privilege(oid, 'pg_catalog.pg_subscription', 'subconninfo', 'SELECT'))
FROM pg_database d, pg_roles r
WHERE d.datname = current_database() AND r.rolname = $role;

-- memberships, direct and indirect, and the direct ones that they come through
WITH RECURSIVE member (role, through) AS (
    SELECT m.roleid, m.roleid
    FROM pg_auth_members m
    WHERE m.member = (SELECT oid FROM pg_roles WHERE rolname = $role)
    UNION
    SELECT m.roleid, member.through
    FROM pg_auth_members m
    JOIN member ON m.member = member.role
)
SELECT r.rolname, quote_ident(r.rolname), string_agg(quote_ident(pg_get_userbyid(through)), ', ' ORDER BY through),
    r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls
FROM member
JOIN pg_roles r ON r.oid = member.role
GROUP BY r.oid, r.rolname, r.rolsuper, r.rolcreaterole, r.rolcreatedb, r.rolreplication, r.rolbypassrls
ORDER BY r.rolname;

-- roles that log in to this database, which may need what PUBLIC has; other readers of this kind do not
SELECT quote_ident(rolname)
FROM pg_roles r
WHERE rolcanlogin AND NOT rolsuper AND rolname <> $role AND rolname !~ '^(pg_|rds_|rdsadmin$|rdsrepladmin$)'
    AND has_database_privilege(oid, current_database(), 'CONNECT') AND NOT EXISTS (
        SELECT FROM pg_db_role_setting
        WHERE setrole = r.oid AND 'default_transaction_read_only=on' = ANY (setconfig)
    )
ORDER BY rolname;

-- privileges beyond reading, by who has them: the role, PUBLIC, or a role that it is a member of. A superuser needs
-- none, and what predefined roles have goes without saying.
WITH RECURSIVE me (oid) AS (
    SELECT oid FROM pg_roles WHERE rolname = $role AND NOT rolsuper
    UNION
    SELECT m.roleid FROM pg_auth_members m JOIN me ON m.member = me.oid WHERE m.roleid >= 16384
),
rights (kind, what, privilege, grantee, owner) AS (
    SELECT 'database', 'DATABASE ' || quote_ident(datname), a.privilege_type, a.grantee, datdba
    FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) a
    WHERE datname = current_database() AND a.privilege_type <> 'CONNECT'
    UNION ALL
    SELECT 'schema', 'SCHEMA ' || quote_ident(nspname), a.privilege_type, a.grantee, nspowner
    FROM pg_namespace, aclexplode(nspacl) a
    WHERE a.privilege_type = 'CREATE' AND nspname !~ '^pg_(toast_)?temp_'
    UNION ALL
    SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END,
        CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass, a.privilege_type, a.grantee,
        relowner
    FROM pg_class c, aclexplode(relacl) a
    -- Everybody may UPDATE pg_settings: that is SET, in other words.
    WHERE a.privilege_type <> 'SELECT' AND relpersistence <> 't' AND c.oid <> 'pg_catalog.pg_settings'::regclass
    UNION ALL
    SELECT 'table', 'TABLE ' || c.oid::regclass, a.privilege_type || ' (' || quote_ident(attname) || ')', a.grantee,
        relowner
    FROM pg_attribute
    JOIN pg_class c ON c.oid = attrelid, aclexplode(attacl) a
    WHERE a.privilege_type <> 'SELECT' AND NOT attisdropped
    UNION ALL
    SELECT 'large object', 'LARGE OBJECT ' || l.oid, a.privilege_type, a.grantee, lomowner
    FROM pg_largeobject_metadata l, aclexplode(lomacl) a
    WHERE a.privilege_type <> 'SELECT'
    UNION ALL
    SELECT 'foreign server', 'FOREIGN SERVER ' || quote_ident(srvname), a.privilege_type, a.grantee, srvowner
    FROM pg_foreign_server, aclexplode(srvacl) a
    UNION ALL
    SELECT 'foreign-data wrapper', 'FOREIGN DATA WRAPPER ' || quote_ident(fdwname), a.privilege_type, a.grantee,
        fdwowner
    FROM pg_foreign_data_wrapper, aclexplode(fdwacl) a
    UNION ALL
    SELECT 'tablespace', 'TABLESPACE ' || quote_ident(spcname), a.privilege_type, a.grantee, spcowner
    FROM pg_tablespace, aclexplode(spcacl) a
    UNION ALL
    SELECT 'parameter', 'PARAMETER ' || parname, a.privilege_type, a.grantee, 10
    FROM $parameters, aclexplode(paracl) a
    UNION ALL
    -- Built-in functions of which initdb took EXECUTE from PUBLIC.
    SELECT 'built-in function', 'FUNCTION ' || p.oid::regprocedure, a.privilege_type, a.grantee, proowner
    FROM pg_proc p
    JOIN pg_init_privs i ON i.classoid = 'pg_catalog.pg_proc'::regclass AND i.objoid = p.oid AND i.objsubid = 0,
        aclexplode(proacl) a
    WHERE p.oid < 16384 AND NOT EXISTS (SELECT FROM aclexplode(i.initprivs) b WHERE b.grantee IN (0, a.grantee))
)
SELECT kind, what, string_agg(DISTINCT privilege, ', '), g.grantee = 0,
    CASE WHEN r.rolname <> $role THEN quote_ident(r.rolname) ELSE '' END, quote_ident(pg_get_userbyid(owner))
FROM rights g
LEFT JOIN pg_roles r ON r.oid = g.grantee
WHERE EXISTS (SELECT FROM me) AND (g.grantee = 0 OR g.grantee IN (SELECT oid FROM me) AND g.grantee <> owner)
GROUP BY kind, what, g.grantee, r.rolname, owner
ORDER BY kind, what, 5;

-- objects that belong to the role, or to a role that it is a member of; other databases' objects by their number
WITH RECURSIVE me (oid) AS (
    SELECT oid FROM pg_roles WHERE rolname = $role AND NOT rolsuper
    UNION
    SELECT m.roleid FROM pg_auth_members m JOIN me ON m.member = me.oid WHERE m.roleid >= 16384
),
owned AS (
    SELECT s.*, CASE WHEN r.rolname <> $role THEN quote_ident(r.rolname) ELSE '' END AS owner
    FROM pg_shdepend s
    JOIN me ON me.oid = s.refobjid
    JOIN pg_roles r ON r.oid = me.oid
    WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.deptype = 'o'
        -- User mappings have a list of their own below. Default privileges are promises, no objects.
        AND s.classid NOT IN ('pg_catalog.pg_user_mapping'::regclass, 'pg_catalog.pg_default_acl'::regclass)
)
SELECT i.type, i.identity, owner
FROM owned, pg_identify_object(classid, objid, objsubid) i
WHERE dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND i.identity IS NOT NULL
UNION ALL
SELECT 'database', 'objects in ' || quote_ident(datname), owner
FROM owned
JOIN pg_database d ON d.oid = dbid
WHERE datname <> current_database()
GROUP BY datname, owner
ORDER BY 1, 2, 3;

-- functions outside the built-ins that the role may execute: SECURITY DEFINER, no read, or of an extension that acts
-- outside the database; and who gave it EXECUTE. Trigger functions cannot be called.
WITH RECURSIVE me (oid) AS (
    SELECT oid FROM pg_roles WHERE rolname = $role AND NOT rolsuper
    UNION
    SELECT m.roleid FROM pg_auth_members m JOIN me ON m.member = me.oid WHERE m.roleid >= 16384
)
SELECT p.oid,
    CASE prokind WHEN 'p' THEN 'PROCEDURE ' WHEN 'a' THEN 'AGGREGATE ' ELSE 'FUNCTION ' END || p.oid::regprocedure,
    prosecdef,
    quote_ident(pg_get_userbyid(proowner)), e.extname,
    bool_or(a.grantee = 0),
    bool_or(r.rolname = $role),
    string_agg(DISTINCT quote_ident(r.rolname), ', ') FILTER (WHERE r.rolname <> $role)
FROM pg_proc p
JOIN pg_namespace n ON n.oid = pronamespace
LEFT JOIN pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_extension e ON e.oid = d.refobjid
CROSS JOIN aclexplode(coalesce(proacl, acldefault('f', proowner))) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE (p.oid >= 16384 OR nspname NOT IN ('pg_catalog', 'information_schema'))
    AND (prosecdef OR p.oid = ANY ($functions) OR e.extname = ANY ($extensions))
    AND prorettype NOT IN ('pg_catalog.trigger'::regtype, 'pg_catalog.event_trigger'::regtype)
    AND EXISTS (SELECT FROM me) AND (a.grantee = 0 OR a.grantee IN (SELECT oid FROM me))
GROUP BY p.oid, prokind, prosecdef, proowner, e.extname
ORDER BY p.oid;

-- what is no read, and runs functions that nobody names: relations that the role may read (and whether everybody may),
-- operators, casts, and domains with their CHECKs
SELECT 'relation', c.oid,
    CASE relkind WHEN 'v' THEN 'VIEW ' WHEN 'm' THEN 'MATERIALIZED VIEW ' WHEN 'f' THEN 'FOREIGN TABLE '
        ELSE 'TABLE ' END || c.oid::regclass,
    CASE WHEN EXISTS (SELECT FROM aclexplode(relacl) a WHERE a.grantee = 0 AND a.privilege_type = 'SELECT')
        THEN 'public' ELSE '' END,
    w.fdwname, quote_ident(s.srvname)
FROM pg_class c
LEFT JOIN pg_foreign_table f ON f.ftrelid = c.oid
LEFT JOIN pg_foreign_server s ON s.oid = f.ftserver
LEFT JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
CROSS JOIN pg_roles r
WHERE r.rolname = $role AND NOT r.rolsuper AND c.oid = ANY ($relations) AND relkind <> 'S'
    AND has_schema_privilege(r.oid, relnamespace, 'USAGE') AND has_any_column_privilege(r.oid, c.oid, 'SELECT')
UNION ALL
SELECT 'operator', oid, 'OPERATOR ' || oid::regoperator, '', NULL, NULL
FROM pg_operator
WHERE oid = ANY ($operators)
UNION ALL
SELECT 'cast', oid, format('CAST (%s AS %s)', castsource::regtype, casttarget::regtype), '', NULL, NULL
FROM pg_cast
WHERE oid = ANY ($casts)
UNION ALL
SELECT 'type', t.oid, 'DOMAIN ' || t.oid::regtype,
    coalesce(string_agg('DROP CONSTRAINT ' || quote_ident(conname), ', ' ORDER BY conname), ''), NULL, NULL
FROM pg_type t
LEFT JOIN pg_constraint ON contypid = t.oid AND contype = 'c'
WHERE t.oid = ANY ($types) AND typtype = 'd'
GROUP BY t.oid
ORDER BY 1, 2;

-- logins on other servers that reading a foreign table uses
SELECT quote_ident(srvname), umuser = 0
FROM pg_user_mappings
WHERE umuser = 0 OR umuser = (SELECT oid FROM pg_roles WHERE rolname = $role AND NOT rolsuper)
ORDER BY srvname, umuser;

-- extensions
SELECT extname, quote_ident(extname), extversion FROM pg_extension ORDER BY extname;

COMMIT

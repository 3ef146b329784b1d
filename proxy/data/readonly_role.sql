-- The read-only role that SideCart logs in with, for PostgreSQL 13 to 18 and Amazon RDS. Run it once for each database
-- that SideCart serves, as the owner of the database and its tables (on RDS: the master user), and again whenever a
-- schema is added: what is there already stays as it is.
--
--   export DB_READONLY_USERNAME=sidecart_reader DB_READONLY_PASSWORD='a long random password'
--   psql "host=... dbname=app user=owner sslmode=verify-full" -f sql/readonly_role.sql
--
-- `sidecart role --apply` does the same without psql. Variables: `-v role=NAME` (default: DB_READONLY_USERNAME, else
-- sidecart_reader) and `-v revoke_public=on`.
--
-- It changes this role only. What everybody may do (PUBLIC: temporary tables, EXECUTE of SECURITY DEFINER functions, on
-- databases from before PostgreSQL 15 CREATE on the schema public), this role may do, too: the script prints SQL that
-- takes it from PUBLIC, and gives it back by name to the roles that log in to this database. revoke_public=on runs it.
--
-- The password: without DB_READONLY_PASSWORD it stays as it is. psql sends it as it stands, inside a SELECT, which the
-- server logs with log_statement = all, and not with ddl; `sidecart role --apply` and psql's `\password` send a hash.
-- For IAM authentication: GRANT rds_iam TO sidecart_reader, which the script leaves alone.
--
-- Why not pg_read_all_data: it reads password hashes (pg_authid), passwords of foreign servers (pg_user_mapping) and
-- of subscriptions, and every schema that will ever be made. It does not exist on PostgreSQL 13.

\set ON_ERROR_STOP on
\set QUIET on
\pset format unaligned
\pset tuples_only on
\if :{?role}
\else
\set role `printf %s "${DB_READONLY_USERNAME:-sidecart_reader}"`
\endif
\if :{?revoke_public}
\else
\set revoke_public off
\endif
\set password `printf %s "$DB_READONLY_PASSWORD"`
SELECT set_config('sidecart.role', :'role', false), set_config('sidecart.password', :'password', false),
    set_config('sidecart.revoke_public', :'revoke_public', false) \g /dev/null
\unset password

-- From here on it is plain SQL: `sidecart role --apply` sends it as it stands.

BEGIN READ WRITE;
-- Nobody's function or operator in another schema may stand in for a built-in one: an administrator runs this.
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $script$
DECLARE
    reader CONSTANT text := current_setting('sidecart.role');
    secret CONSTANT text := coalesce(current_setting('sidecart.password', true), '');
    revoke_public CONSTANT boolean := coalesce(nullif(current_setting('sidecart.revoke_public', true), ''), 'off');
    report text[] := '{}';
    impossible text[] := '{}';
    public_rights text[] := '{}';
    applications text[];
    steps text[];
    step text;
    statement text;
    found record;
BEGIN
    -- 0. Nobody's own role, by a slip of the pen.
    IF reader = '' OR octet_length(reader) > 63 THEN
        RAISE EXCEPTION 'The name of the role has % bytes; it has from 1 to 63.', octet_length(reader);
    ELSIF reader IN (current_user, session_user) THEN
        RAISE EXCEPTION 'The role "%" runs this script: name another one as the read-only role.', reader;
    ELSIF EXISTS (SELECT FROM pg_roles WHERE rolname = reader AND rolsuper) THEN
        RAISE EXCEPTION 'The role "%" is a superuser: name another one as the read-only role.', reader;
    ELSIF EXISTS (
        SELECT FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND deptype = 'o'
            AND refobjid = (SELECT oid FROM pg_roles WHERE rolname = reader)
    ) THEN
        RAISE EXCEPTION 'The role "%" owns objects: name another one as the read-only role, or give them away in each'
            ' database first, with REASSIGN OWNED BY % TO ...', reader, quote_ident(reader);
    ELSIF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = reader)
        AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreaterole))
    THEN
        RAISE EXCEPTION 'The role "%" has no CREATEROLE, so it cannot make "%": run this as one that has it, such as'
            ' the master user of Amazon RDS.', current_user, reader USING ERRCODE = 'insufficient_privilege';
    END IF;

    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = reader) THEN
        statement := format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS'
            ' NOINHERIT', reader);
        EXECUTE statement;
        report := report || statement;
    END IF;

    steps := ARRAY[
        -- 1. The role may log in, and nothing else. An existing one loses what it should not have. Amazon's membership
        -- in rds_iam says how it logs in.
        $$
        SELECT format('ALTER ROLE %I %s', rolname, attribute)
        FROM pg_roles,
            LATERAL (VALUES (rolcreatedb, 'NOCREATEDB'), (rolcreaterole, 'NOCREATEROLE'),
                (rolreplication, 'NOREPLICATION'), (rolbypassrls, 'NOBYPASSRLS'), (rolinherit, 'NOINHERIT'),
                (NOT rolcanlogin, 'LOGIN'), (rolconnlimit = -1, 'CONNECTION LIMIT 50')) AS wrong (found, attribute)
        WHERE rolname = $1 AND found
        $$,
        $$
        SELECT DISTINCT format('REVOKE %I FROM %I', granted.rolname, member.rolname)
            -- From PostgreSQL 16 on each grant has a grantor of its own.
            || CASE WHEN current_setting('server_version_num')::int >= 160000
                THEN format(' GRANTED BY %I', pg_get_userbyid(m.grantor)) ELSE '' END
        FROM pg_auth_members m
        JOIN pg_roles granted ON granted.oid = m.roleid
        JOIN pg_roles member ON member.oid = m.member
        WHERE member.rolname = $1 AND granted.rolname <> 'rds_iam'
        $$,
        -- Defaults of its sessions, where it has none yet; SideCart asserts the first one in each session. The last one
        -- is just above SideCart's own idle_transaction_timeout, which says more clearly what happened.
        $$
        SELECT format('ALTER ROLE %I SET %s', r.rolname, assignment)
        FROM pg_roles r,
            (VALUES ('default_transaction_read_only', '= on'), ('statement_timeout', $q$= '60s'$q$),
                ('idle_in_transaction_session_timeout', $q$= '330s'$q$)) AS defaults (name, value),
            LATERAL (VALUES (name || ' ' || value)) AS wanted (assignment)
        WHERE r.rolname = $1 AND NOT EXISTS (
            SELECT FROM pg_db_role_setting s, unnest(s.setconfig) AS setting
            WHERE s.setrole = r.oid AND s.setdatabase = 0 AND split_part(setting, '=', 1) = name
                AND (name <> 'default_transaction_read_only' OR setting = name || '=on')
        )
        $$,
        -- 2. What it was granted beyond reading.
        $$
        SELECT format('REVOKE %s ON %s %s FROM %I', string_agg(DISTINCT privilege_type, ', '),
            CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass, $1)
        FROM pg_class c, aclexplode(relacl)
        WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND privilege_type <> 'SELECT'
            AND pg_has_role(relowner, 'USAGE')
        GROUP BY c.oid, relkind
        $$,
        $$
        SELECT format('REVOKE %s ON TABLE %s FROM %I',
            string_agg(format('%s (%I)', privilege_type, attname), ', ' ORDER BY privilege_type, attnum),
            attrelid::regclass, $1)
        FROM pg_attribute
        JOIN pg_class c ON c.oid = attrelid, aclexplode(attacl)
        WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND privilege_type <> 'SELECT'
            AND pg_has_role(relowner, 'USAGE')
        GROUP BY attrelid
        $$,
        $$
        SELECT format('REVOKE CREATE ON SCHEMA %I FROM %I', nspname, $1)
        FROM pg_namespace, aclexplode(nspacl)
        WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND privilege_type = 'CREATE'
            AND pg_has_role(nspowner, 'USAGE')
        $$,
        $$
        SELECT format('REVOKE %s ON DATABASE %I FROM %I', string_agg(DISTINCT privilege_type, ', '), datname, $1)
        FROM pg_database, aclexplode(datacl)
        WHERE datname = current_database() AND grantee = (SELECT oid FROM pg_roles WHERE rolname = $1)
            AND privilege_type <> 'CONNECT' AND pg_has_role(datdba, 'USAGE')
        GROUP BY datname
        $$,
        -- 3. What it may read: this database, its schemas, their tables and views now and in future; not the tools of
        -- extensions that act outside the database.
        $$
        SELECT format('GRANT CONNECT ON DATABASE %I TO %I', datname, $1)
        FROM pg_database
        WHERE datname = current_database() AND has_database_privilege(oid, 'CONNECT WITH GRANT OPTION') AND NOT EXISTS (
            SELECT FROM aclexplode(datacl)
            WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND privilege_type = 'CONNECT'
        )
        $$,
        $$
        SELECT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, $1)
        FROM pg_namespace n
        WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
            AND has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION') AND NOT EXISTS (
                SELECT FROM aclexplode(nspacl)
                WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND privilege_type = 'USAGE'
            ) AND NOT EXISTS (
                SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid
                    AND d.refclassid = 'pg_extension'::regclass
                    AND extname IN ('aws_commons', 'aws_lambda', 'aws_ml', 'aws_s3', 'pg_cron')
            )
        $$,
        $$
        SELECT format('GRANT SELECT ON %s TO %I', string_agg(c.oid::regclass::text, ', ' ORDER BY relname), $1)
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
            AND nspname <> 'information_schema' AND nspname !~ '^pg_'
            AND has_schema_privilege($1, n.oid, 'USAGE')
            AND has_table_privilege(c.oid, 'SELECT WITH GRANT OPTION') AND NOT EXISTS (
                SELECT FROM aclexplode(relacl)
                WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND privilege_type = 'SELECT'
            )
        GROUP BY nspname
        $$,
        -- Default privileges belong to the role that will make the tables: whoever owns some there today, and you.
        $$
        SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON %s TO %I', owner, nspname,
            kind, $1)
        FROM pg_namespace n,
            LATERAL (
                SELECT pg_get_userbyid(relowner) FROM pg_class
                WHERE relnamespace = n.oid AND relkind IN ('r', 'p', 'v', 'm', 'f')
                UNION
                SELECT current_user
            ) AS owners (owner),
            (VALUES ('TABLES', 'r'), ('SEQUENCES', 'S')) AS kinds (kind, letter)
        WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND has_schema_privilege($1, n.oid, 'USAGE')
            AND pg_has_role(current_user, owner, 'USAGE') AND NOT EXISTS (
                SELECT FROM pg_default_acl, aclexplode(defaclacl)
                WHERE pg_get_userbyid(defaclrole) = owner AND defaclnamespace = n.oid
                    AND defaclobjtype::text = letter
                    AND grantee = (SELECT oid FROM pg_roles WHERE rolname = $1) AND privilege_type = 'SELECT'
            )
        $$
    ];
    FOREACH step IN ARRAY steps LOOP
        -- In the same order each time.
        FOR statement IN
            EXECUTE format('SELECT text FROM (%s) AS step (text) ORDER BY text COLLATE "C"', step) USING reader
        LOOP
            BEGIN
                EXECUTE statement;
                report := report || statement;
            EXCEPTION
                WHEN insufficient_privilege OR invalid_grant_operation OR dependent_objects_still_exist
                    OR undefined_object OR undefined_table THEN
                    impossible := impossible || format('-- %s: %s', statement, SQLERRM);
            END;
        END LOOP;
    END LOOP;

    IF secret <> '' THEN
        BEGIN
            EXECUTE format('ALTER ROLE %I PASSWORD %L', reader, secret);
        EXCEPTION WHEN OTHERS THEN
            -- Raised again from here, so that the context of the error, which the server logs, holds no password.
            RAISE EXCEPTION 'The password of the role "%" could not be set: %', reader, SQLERRM
                USING ERRCODE = SQLSTATE;
        END;
        report := report || format('ALTER ROLE %I PASSWORD ''...''', reader);
    END IF;

    FOR found IN
        SELECT format('USAGE ON SCHEMA %I', nspname) AS what, nspowner AS owner
        FROM pg_namespace
        WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND NOT has_schema_privilege(reader, oid, 'USAGE')
            AND NOT has_schema_privilege(oid, 'USAGE WITH GRANT OPTION')
        UNION ALL
        SELECT format('SELECT ON %s', c.oid::regclass), relowner
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = relnamespace
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relpersistence <> 't' AND nspname <> 'information_schema'
            AND nspname !~ '^pg_' AND NOT has_table_privilege(reader, c.oid, 'SELECT')
            AND NOT has_table_privilege(c.oid, 'SELECT WITH GRANT OPTION')
        ORDER BY 1
    LOOP
        impossible := impossible
            || format('-- GRANT %s TO %I: it belongs to %I', found.what, reader, pg_get_userbyid(found.owner));
    END LOOP;

    -- 4. What PUBLIC has. Roles that log in to this database keep it, by name; other readers of SideCart's kind do not.
    SELECT array_agg(rolname ORDER BY rolname) INTO applications
    FROM pg_roles r
    WHERE rolcanlogin AND NOT rolsuper AND rolname <> reader AND rolname !~ '^(pg_|rds_|rdsadmin$|rdsrepladmin$)'
        AND has_database_privilege(oid, current_database(), 'CONNECT') AND NOT EXISTS (
            SELECT FROM pg_db_role_setting
            WHERE setrole = r.oid AND 'default_transaction_read_only=on' = ANY (setconfig)
        );
    FOR found IN
        SELECT what, string_agg(DISTINCT privilege, ', ') AS privileges, pg_get_userbyid(owner) AS owner
        FROM (
            SELECT format('DATABASE %I', datname), privilege_type, datdba
            FROM pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba)))
            WHERE datname = current_database() AND grantee = 0 AND privilege_type <> 'CONNECT'
            UNION ALL
            SELECT format('SCHEMA %I', nspname), privilege_type, nspowner
            FROM pg_namespace, aclexplode(nspacl)
            WHERE grantee = 0 AND privilege_type = 'CREATE'
            UNION ALL
            SELECT format('%s %s', CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass),
                privilege_type, relowner
            FROM pg_class c, aclexplode(relacl)
            WHERE grantee = 0 AND privilege_type <> 'SELECT' AND relnamespace <> 'pg_catalog'::regnamespace
            UNION ALL
            SELECT format('TABLE %s', c.oid::regclass), format('%s (%I)', privilege_type, attname), relowner
            FROM pg_attribute
            JOIN pg_class c ON c.oid = attrelid, aclexplode(attacl)
            WHERE grantee = 0 AND privilege_type <> 'SELECT' AND relnamespace <> 'pg_catalog'::regnamespace
            UNION ALL
            -- Trigger functions cannot be called.
            SELECT format('%s %s', CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END, p.oid::regprocedure),
                privilege_type, proowner
            FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner)))
            WHERE prosecdef AND grantee = 0 AND pronamespace <> 'pg_catalog'::regnamespace
                AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
            UNION ALL
            SELECT format('LARGE OBJECT %s', l.oid), privilege_type, lomowner
            FROM pg_largeobject_metadata l, aclexplode(lomacl)
            WHERE grantee = 0 AND privilege_type <> 'SELECT'
            UNION ALL
            SELECT format('FOREIGN SERVER %I', srvname), privilege_type, srvowner
            FROM pg_foreign_server, aclexplode(srvacl)
            WHERE grantee = 0
            UNION ALL
            SELECT format('FOREIGN DATA WRAPPER %I', fdwname), privilege_type, fdwowner
            FROM pg_foreign_data_wrapper, aclexplode(fdwacl)
            WHERE grantee = 0
            UNION ALL
            SELECT format('TABLESPACE %I', spcname), privilege_type, spcowner
            FROM pg_tablespace, aclexplode(spcacl)
            WHERE grantee = 0
        ) AS rights (what, privilege, owner)
        GROUP BY what, owner
        ORDER BY pg_has_role(current_user, owner, 'USAGE') DESC, what
    LOOP
        steps := '{}';
        SELECT format('GRANT %s ON %s TO %s', found.privileges, found.what,
            string_agg(quote_ident(application), ', ' ORDER BY application)) INTO statement
        FROM unnest(applications) AS application
        WHERE application <> found.owner
        HAVING count(*) > 0;
        IF statement IS NOT NULL THEN
            steps := steps || statement;
        END IF;
        steps := steps || format('REVOKE %s ON %s FROM PUBLIC', found.privileges, found.what);
        IF NOT pg_has_role(current_user, found.owner, 'USAGE') THEN
            public_rights := public_rights || format('-- As %I:', found.owner) || steps;
        ELSIF revoke_public THEN
            BEGIN
                FOREACH statement IN ARRAY steps LOOP
                    EXECUTE statement;
                END LOOP;
                report := report || steps;
            EXCEPTION
                WHEN insufficient_privilege OR invalid_grant_operation OR dependent_objects_still_exist THEN
                    impossible := impossible || format('-- %s: %s', statement, SQLERRM);
            END;
        ELSE
            public_rights := public_rights || steps;
        END IF;
    END LOOP;

    report := array_prepend(format(CASE report WHEN '{}' THEN '-- Nothing to do in database %I for the role %I.'
        ELSE '-- Done in database %I for the role %I:' END, current_database(), reader), report);
    IF impossible <> '{}' THEN
        report := report || format('-- Not possible as %I:', current_user) || impossible;
    END IF;
    IF public_rights <> '{}' THEN
        report := report || ARRAY['-- PUBLIC may do what is no reading, and so may this role. This takes it from PUBLIC',
            '-- and gives it back to the roles that log in here; revoke_public=on runs it:'] || public_rights;
    END IF;
    PERFORM set_config('sidecart.report', array_to_string(report, E'\n'), true);
END
$script$;

SELECT line || CASE WHEN line LIKE '--%' THEN '' ELSE ';' END
FROM unnest(string_to_array(current_setting('sidecart.report'), E'\n')) WITH ORDINALITY AS report (line, number)
ORDER BY number;

COMMIT;

-- The read-only role that SideCart logs in with. A script for psql; run it once for each database that SideCart serves,
-- as the owner of the database and its tables (on Amazon RDS: the master user), and again whenever a schema is added.
--
--   export DB_READONLY_USERNAME=sidecart_reader DB_READONLY_PASSWORD='a long random password'
--   psql "host=... dbname=app user=owner sslmode=verify-full" -f sql/readonly_role.sql
--
-- Without DB_READONLY_PASSWORD the role gets none: set it with psql's `\password sidecart_reader`, which sends only its
-- hash, or use `GRANT rds_iam TO sidecart_reader` for IAM authentication. The name defaults to sidecart_reader.
--
-- What it changes for others: PUBLIC loses TEMPORARY on this database and CREATE on the schema public. An application
-- that needs them gets them by name: GRANT TEMPORARY ON DATABASE app TO app_role;
--
-- Why not pg_read_all_data: it reads password hashes (pg_authid), the passwords of foreign servers (pg_user_mapping) and
-- of subscriptions, and every schema that will ever be made. It does not exist on PostgreSQL 13.

\set ON_ERROR_STOP on
\set QUIET on
\set role `printf %s "${DB_READONLY_USERNAME:-sidecart_reader}"`
\set password `printf %s "$DB_READONLY_PASSWORD"`

BEGIN;

-- 1. The role. It may log in, and nothing else. An existing role loses what it should not have.
SELECT format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT', :'role')
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SELECT format('ALTER ROLE %I %s', rolname, attribute)
FROM pg_roles,
    LATERAL (VALUES (rolsuper, 'NOSUPERUSER'), (rolcreatedb, 'NOCREATEDB'), (rolcreaterole, 'NOCREATEROLE'),
        (rolreplication, 'NOREPLICATION'), (rolbypassrls, 'NOBYPASSRLS'), (rolinherit, 'NOINHERIT'),
        (NOT rolcanlogin, 'LOGIN')) AS wrong (found, attribute)
WHERE rolname = :'role' AND found \gexec
SELECT format('REVOKE %I FROM %I', granted.rolname, member.rolname)
FROM pg_auth_members m
JOIN pg_roles granted ON granted.oid = m.roleid
JOIN pg_roles member ON member.oid = m.member
WHERE member.rolname = :'role' AND granted.rolname <> 'rds_iam' \gexec
ALTER ROLE :"role" CONNECTION LIMIT 50;
-- Defaults for every session of the role; SideCart asserts the first one in each of its own.
ALTER ROLE :"role" SET default_transaction_read_only = on;
ALTER ROLE :"role" SET statement_timeout = '60s';
-- Just above SideCart's own idle_transaction_timeout, which says more clearly what happened.
ALTER ROLE :"role" SET idle_in_transaction_session_timeout = '330s';
-- SET LOCAL log_statement would keep the password out of the server's log, but takes a superuser.
SELECT format('ALTER ROLE %I PASSWORD %L', :'role', :'password') WHERE :'password' <> '' \gexec

-- 2. What it may read: this database, its schemas, their tables and views now and in future.
SELECT format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), :'role') \gexec
SELECT format(privilege, nspname, :'role')
FROM pg_namespace,
    LATERAL (VALUES ('GRANT USAGE ON SCHEMA %I TO %I'), ('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO %I'),
        ('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %I TO %I')) AS needed (privilege)
WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
ORDER BY nspname, privilege DESC \gexec
-- Default privileges belong to the role that will make the tables: whoever owns some there today, and you.
SELECT DISTINCT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON %s TO %I',
    pg_get_userbyid(owner), nspname, kind, :'role')
FROM pg_namespace n,
    LATERAL (SELECT relowner FROM pg_class WHERE relnamespace = n.oid AND relkind IN ('r', 'p', 'v', 'm', 'f')
        UNION SELECT oid FROM pg_roles WHERE rolname = current_user) AS owners (owner),
    (VALUES ('TABLES'), ('SEQUENCES')) AS kinds (kind)
WHERE nspname <> 'information_schema' AND nspname !~ '^pg_' AND pg_has_role(current_user, owner, 'USAGE') \gexec

-- 3. What PUBLIC has, and with it this role, although it is no reading.
-- TEMPORARY: EXPLAIN ANALYZE CREATE TEMP TABLE ... AS is not stopped by a read-only transaction.
SELECT format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) \gexec
-- CREATE: databases that were made before PostgreSQL 15 grant it.
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

COMMIT;

-- 4. What is left to do by hand: no lines here means nothing.
SELECT 'still allowed: TEMPORARY on the database; revoke it as its owner'
WHERE has_database_privilege(:'role', current_database(), 'TEMPORARY')
UNION ALL
SELECT format('still allowed: CREATE on schema %I; revoke it as its owner', nspname)
FROM pg_namespace WHERE nspname !~ '^pg_' AND has_schema_privilege(:'role', oid, 'CREATE')
UNION ALL
SELECT format('still allowed: writing to %s; revoke it as its owner', oid::regclass)
FROM pg_class
WHERE relkind IN ('r', 'p', 'v', 'f')
    AND has_table_privilege(:'role', oid, 'INSERT, UPDATE, DELETE, TRUNCATE') AND relname <> 'pg_settings'
UNION ALL
SELECT format('owned by the role: %s; give it to another owner', oid::regclass)
FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND pg_get_userbyid(relowner) = :'role'
UNION ALL
SELECT format('runs with the rights of its owner: %s; if it writes: REVOKE EXECUTE ON ROUTINE %1$s FROM PUBLIC, and'
    ' grant it to those who need it', p.oid::regprocedure)
FROM pg_proc p
JOIN pg_namespace n ON n.oid = pronamespace
WHERE prosecdef AND nspname !~ '^pg_' AND nspname <> 'information_schema'
    AND has_function_privilege(:'role', p.oid, 'EXECUTE')
ORDER BY 1;

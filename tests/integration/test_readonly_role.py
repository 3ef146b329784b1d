"""The role script, by psql and without it, as an owner who is no superuser: here, and on 13 to 18."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from proxy.demo.embedded import EmbeddedError
from proxy.operating import readonly_role
from proxy.operating.readonly_role import RoleError
from tests import servers
from tests.integration.clinic import APPLICATION, OWNER, READER, Clinic, clinic, places

# Everything that the script may touch, but for the verifier, which has another salt each time.
CATALOGUES = """
SELECT 'role', rolname, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication,
    rolbypassrls, rolconnlimit, rolpassword IS NULL) FROM pg_authid
UNION ALL SELECT 'member', pg_get_userbyid(member), pg_get_userbyid(roleid) FROM pg_auth_members
UNION ALL SELECT 'setting', pg_get_userbyid(setrole), setconfig::text FROM pg_db_role_setting
UNION ALL SELECT 'database', datname, datacl::text FROM pg_database WHERE datname = current_database()
UNION ALL SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
UNION ALL SELECT 'relation', oid::regclass::text, relacl::text FROM pg_class
UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, attacl::text FROM pg_attribute WHERE attacl IS NOT NULL
UNION ALL SELECT 'function', oid::regprocedure::text, proacl::text FROM pg_proc
UNION ALL SELECT 'large object', oid::text, lomacl::text FROM pg_largeobject_metadata
UNION ALL SELECT 'default', concat_ws(' ', pg_get_userbyid(defaclrole), defaclnamespace::regnamespace, defaclobjtype),
    defaclacl::text FROM pg_default_acl
ORDER BY 1, 2, 3
"""

# Who may do what, with what holds where nothing was granted yet.
RIGHTS = f"""
SELECT what, grantee::regrole, privilege_type, is_grantable
FROM (
    SELECT oid::regclass::text,
        coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner))
    FROM pg_class
    UNION ALL SELECT attrelid::regclass || '.' || attname, attacl FROM pg_attribute
    UNION ALL SELECT nspname, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace
    UNION ALL SELECT datname, coalesce(datacl, acldefault('d', datdba)) FROM pg_database
    UNION ALL SELECT oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
    UNION ALL SELECT oid::text, coalesce(lomacl, acldefault('L', lomowner)) FROM pg_largeobject_metadata
) AS objects (what, acl), aclexplode(acl)
WHERE grantee::regrole::text <> '{READER}'
ORDER BY 1, 2, 3, 4
"""

HOLES = f"""
GRANT INSERT ON patients TO PUBLIC;
GRANT UPDATE ("the note") ON archive."Old Visits" TO PUBLIC;
GRANT USAGE ON SEQUENCE tickets TO PUBLIC;
SELECT lo_create(99);
GRANT SELECT, UPDATE ON LARGE OBJECT 99 TO PUBLIC;
GRANT CREATE ON SCHEMA archive TO PUBLIC;
GRANT USAGE ON SCHEMA archive TO {APPLICATION};
CREATE FUNCTION forget(int) RETURNS int LANGUAGE sql SECURITY DEFINER AS
    'DELETE FROM patients WHERE id = $1 RETURNING 1';
CREATE PROCEDURE forget_all() LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM patients';
"""

GIVEN_BACK = """
CREATE TEMPORARY TABLE mine (a int);
INSERT INTO patients VALUES (7, 'seven');
SELECT nextval('tickets');
SELECT lo_put(99, 0, 'x');
CREATE TABLE archive.mine (a int);
SELECT forget(7);
CALL forget_all();
"""


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[servers.EmbeddedServer]:
    with servers.serving(request) as found:
        yield found


@pytest.fixture
def place(server: servers.EmbeddedServer) -> Iterator[Clinic]:
    with clinic(server, HOLES) as made:
        yield made


def catalogues(place: Clinic) -> list[str]:
    return place.sql(CATALOGUES).splitlines()


def by_psql(place: Clinic, *, revoke_public: bool = False) -> list[str]:
    """Run the script by psql, as a user does."""
    text = readonly_role.text()
    if revoke_public:
        text = f"\\set revoke_public on\n{text}"
    environ = {"DB_READONLY_USERNAME": READER, "DB_READONLY_PASSWORD": place.password}
    done = place.server.sql(text, "clinic", user=OWNER, password=place.owner_password, environ=environ)
    return done.splitlines()


def refused(place: Clinic, sql: str) -> bool:
    with pytest.raises(EmbeddedError) as caught:
        place.server.sql(sql, "clinic", user=READER, password=place.password)
    return "permission denied" in str(caught.value)


def test_second_run_and_dry_run_change_nothing(place: Clinic) -> None:
    for revoke_public in (False, True):
        before = catalogues(place)
        said = place.apply(revoke_public=revoke_public, dry_run=True)
        assert catalogues(place) == before
        assert place.apply(revoke_public=revoke_public) == said
        after = catalogues(place)
        lines = place.apply(revoke_public=revoke_public, password="")
        assert lines[0] == f"-- Nothing to do in database clinic for the role {READER}."
        assert catalogues(place) == after


def test_psql_and_the_verb_do_the_same(place: Clinic) -> None:
    for revoke_public in (False, True):
        printed = by_psql(place, revoke_public=revoke_public)
        after = catalogues(place)
        lines = place.apply(revoke_public=revoke_public)
        assert catalogues(place) == after
        # The password is set anew; everything else was done by psql.
        assert lines[:2] == [
            f"-- Done in database clinic for the role {READER}:",
            f"ALTER ROLE {READER} PASSWORD '...';",
        ]
        assert lines[2:] == printed[printed.index(lines[1]) + 1 :] or revoke_public
    assert place.findings() == []


def test_it_changes_this_role_only(place: Clinic) -> None:
    before = place.sql(RIGHTS)
    printed = place.apply()
    assert place.sql(RIGHTS) == before
    assert "REVOKE TEMPORARY ON DATABASE clinic FROM PUBLIC;" in printed
    place.as_application(GIVEN_BACK)


def test_what_is_printed_and_what_the_doctor_finds_is_what_revoke_public_does(place: Clinic) -> None:
    printed = place.apply()
    found = place.findings()
    assert places(found) == {
        ("temporary", "DATABASE clinic"),
        ("create", "SCHEMA archive"),
        *((("create", "SCHEMA public"),) if place.major < 15 else ()),
        ("writable-table", "TABLE public.patients"),
        ("writable-table", 'TABLE archive."Old Visits"'),
        ("writable-sequence", "SEQUENCE public.tickets"),
        ("writable-large-object", "LARGE OBJECT 99"),
        ("security-definer", "FUNCTION public.forget(integer)"),
        ("security-definer", "PROCEDURE public.forget_all()"),
    }
    start = next(number for number, line in enumerate(printed) if line.startswith("-- PUBLIC may do"))
    assert {line for line in printed[start:] if not line.startswith("--")} == {
        line for each in found for line in each.sql
    }
    place.as_owner("\n".join(printed[start:]))
    by_hand = catalogues(place)
    assert place.apply(revoke_public=True, password="")[0].startswith("-- Nothing to do")
    assert catalogues(place) == by_hand
    assert place.findings() == []


def test_applications_keep_what_public_loses(place: Clinic) -> None:
    place.apply(revoke_public=True)
    place.as_application(GIVEN_BACK)
    for statement in filter(None, map(str.strip, GIVEN_BACK.split(";"))):
        assert refused(place, f"SET default_transaction_read_only = off; {statement}"), statement
    place.as_owner(GIVEN_BACK.replace(".mine", ".mine2").replace("lo_put(99, 0, 'x')", "1"))


def test_role_reads_what_there_is_and_what_will_be(place: Clinic) -> None:
    place.apply(revoke_public=True)
    place.as_owner("CREATE TABLE later (a int); CREATE VIEW archive.later AS SELECT 1; CREATE SEQUENCE archive.s")
    reads = 'SELECT FROM patients, visits, names, days, archive."Old Visits", later, archive.later, archive.s, tickets'
    place.server.sql(reads, "clinic", user=READER, password=place.password)
    assert refused(place, "SET default_transaction_read_only = off; INSERT INTO later VALUES (1)")


def test_an_existing_role_loses_what_it_should_not_have_and_keeps_its_limits(place: Clinic) -> None:
    place.apply(revoke_public=True)
    place.sql(
        f"ALTER ROLE {READER} CREATEDB CREATEROLE INHERIT CONNECTION LIMIT 7;"
        f"ALTER ROLE {READER} SET statement_timeout = '5min';"
        f"ALTER ROLE {READER} SET default_transaction_read_only = off;"
        f"CREATE ROLE clinic_group; GRANT clinic_group TO {READER};"
        f"GRANT INSERT, DELETE ON patients TO {READER}; GRANT UPDATE (note) ON patients TO {READER};"
        f"GRANT CREATE ON SCHEMA public TO {READER}; GRANT TEMPORARY, CREATE ON DATABASE clinic TO {READER};"
        f"GRANT ALL ON SEQUENCE tickets TO {READER}"
    )
    # The owner may do so, too, where it may alter the role: from 16 on it has made it, and has CREATEDB itself.
    if place.major >= 16:
        place.sql(f"REVOKE clinic_group FROM {READER}")  # the superuser's grant is the superuser's to take
    place.apply()
    attributes = "rolcreatedb, rolcreaterole, rolinherit, rolconnlimit"
    assert place.sql(f"SELECT {attributes} FROM pg_roles WHERE rolname = '{READER}'") == "f|f|f|7\n"
    settings = place.sql(f"SELECT unnest(rolconfig) FROM pg_roles WHERE rolname = '{READER}' ORDER BY 1").split()
    assert settings == [
        "default_transaction_read_only=on",
        "idle_in_transaction_session_timeout=330s",
        "statement_timeout=5min",
    ]
    assert place.findings() == []


def test_what_is_somebody_elses_is_told_of(place: Clinic) -> None:
    place.sql(
        "CREATE TABLE foreign_land (a int); CREATE SCHEMA abroad; GRANT INSERT ON foreign_land TO PUBLIC;"
        f"REVOKE ALL ON DATABASE clinic FROM {OWNER}; GRANT CONNECT ON DATABASE clinic TO {OWNER}"
    )
    lines = place.apply(revoke_public=True)
    assert f"-- GRANT SELECT ON public.foreign_land TO {READER}: it belongs to postgres" in lines
    assert f"-- GRANT USAGE ON SCHEMA abroad TO {READER}: it belongs to postgres" in lines
    grant, revoke = lines[lines.index("-- As postgres:") + 1 :]
    # All that may connect get it back; other tests have roles of their own on this server.
    given = grant.removeprefix("GRANT INSERT ON TABLE public.foreign_land TO ").removesuffix(";").split(", ")
    assert {APPLICATION, OWNER} <= set(given) and READER not in given
    assert revoke == "REVOKE INSERT ON TABLE public.foreign_land FROM PUBLIC;"
    assert places(place.findings()) == {("writable-table", "TABLE public.foreign_land")}


NOT_TO_BE_TAKEN = {
    OWNER: f'The role "{OWNER}" runs this script: name another one as the read-only role (SQLSTATE P0001).',
    "postgres": 'The role "postgres" is a superuser: name another one as the read-only role (SQLSTATE P0001).',
    "clinic_keeper": 'The role "clinic_keeper" owns objects: name another one as the read-only role, or give them away',
    "pg_clinic": 'role name "pg_clinic" is reserved (SQLSTATE 42939).',
    "": "The name of the role has 0 bytes; it has from 1 to 63 (SQLSTATE P0001).",
    "x" * 64: "The name of the role has 64 bytes; it has from 1 to 63 (SQLSTATE P0001).",
}


def test_somebody_elses_role_is_refused(place: Clinic) -> None:
    place.sql("CREATE ROLE clinic_keeper; CREATE TABLE kept (a int); ALTER TABLE kept OWNER TO clinic_keeper")
    before = catalogues(place)
    for role, says in NOT_TO_BE_TAKEN.items():
        with pytest.raises(RoleError) as caught:
            place.run(readonly_role.apply(place.owner, role, "secret"))
        assert str(caught.value).startswith(says)
    with pytest.raises(RoleError, match=r'^The role "clinic_app" has no CREATEROLE'):
        place.run(readonly_role.apply(place.application, READER, "secret"))
    assert catalogues(place) == before


def test_password_reaches_the_server_as_a_verifier_alone(place: Clinic) -> None:
    place.sql(f"ALTER ROLE {OWNER} SET log_statement = 'all'; ALTER ROLE {OWNER} SET log_min_duration_statement = 0")
    odd = "pä ss'\\wörd \u2168"  # SASLprep makes IX of the last letter
    place.apply(password=odd)
    with pytest.raises(RoleError):
        place.run(readonly_role.apply(place.owner, OWNER, "an-other-secret"))
    log = place.server.log_file.read_text()
    assert "sidecart.password" in log
    assert "wörd" not in log
    assert "an-other-secret" not in log
    assert place.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{READER}'").startswith("SCRAM-SHA-256$4096:")
    with psycopg.connect(place.server.dsn("clinic", READER, odd)) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (READER,)
    made = readonly_role.verifier("the password")
    place.apply(password=made)
    assert place.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{READER}'") == made + "\n"
    psycopg.connect(place.server.dsn("clinic", READER, "the password")).close()


def test_schemas_of_extensions_that_act_outside_are_left_out(place: Clinic) -> None:
    place.sql("CREATE SCHEMA cron; CREATE EXTENSION citext SCHEMA archive")
    # A stand-in for pg_cron: the extension's name, and its schema as a part of it.
    place.sql(
        "UPDATE pg_extension SET extname = 'pg_cron' WHERE extname = 'citext';"
        "INSERT INTO pg_depend SELECT 'pg_namespace'::regclass, 'cron'::regnamespace, 0, 'pg_extension'::regclass, oid,"
        " 0, 'e' FROM pg_extension WHERE extname = 'pg_cron'; ALTER SCHEMA cron OWNER TO clinic_owner"
    )
    lines = place.apply()
    assert f"GRANT USAGE ON SCHEMA archive TO {READER};" in lines
    assert not any("SCHEMA cron " in line for line in lines)

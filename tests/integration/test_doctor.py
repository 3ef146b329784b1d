"""`doctor` finds each planted hole, nothing else, and the SQL that it prints closes it: here, and on 13 to 18."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from proxy.role.findings import KINDS, Finding, Severity
from tests import servers
from tests.integration.clinic import APPLICATION, OWNER, READER, Clinic, clinic, places


class Hole(NamedTuple):
    plant: str
    """SQL for a superuser."""
    found: set[tuple[str, str]]
    since: int = 13


def owned(kind: str, what: str, create: str, alter: str = "") -> Hole:
    kind_ = kind.upper()
    return Hole(
        f"{create}; ALTER {alter or f'{kind_} {what}'} OWNER TO {READER}", {("owned-object", f"{kind_} {what}")}
    )


def definer(name: str) -> str:
    return (
        f"CREATE FUNCTION public.{name} RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS"
        " $$ BEGIN DELETE FROM public.patients; RETURN 1; END $$;"
    )


def volatile(name: str, returns: str = "int", value: str = "1") -> str:
    """Create a function that does more than read, with its caller's rights."""
    return (
        f"CREATE FUNCTION public.{name} RETURNS {returns} LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_catalog.pg_notify('x', 'y'); RETURN {value}; END $$;"
    )


HOLES = {
    # Tables and what is like them
    "insert": Hole(f"GRANT INSERT ON patients TO {READER}", {("writable-table", "TABLE public.patients")}),
    "public insert": Hole("GRANT INSERT ON patients TO PUBLIC", {("writable-table", "TABLE public.patients")}),
    "both": Hole(
        f"GRANT UPDATE ON patients TO PUBLIC; GRANT DELETE ON patients TO {READER}",
        {("writable-table", "TABLE public.patients")},
    ),
    "column": Hole(
        f'GRANT UPDATE ("the note") ON archive."Old Visits" TO {READER}',
        {("writable-table", 'TABLE archive."Old Visits"')},
    ),
    "public column": Hole("GRANT INSERT (note) ON patients TO PUBLIC", {("writable-table", "TABLE public.patients")}),
    "truncate": Hole(f"GRANT TRUNCATE ON visits TO {READER}", {("writable-table", "TABLE public.visits")}),
    "partition": Hole(f"GRANT DELETE ON visits_1 TO {READER}", {("writable-table", "TABLE public.visits_1")}),
    "trigger": Hole(f"GRANT TRIGGER ON patients TO {READER}", {("writable-table", "TABLE public.patients")}),
    "references": Hole(f"GRANT REFERENCES ON patients TO {READER}", {("writable-table", "TABLE public.patients")}),
    "view": Hole(f"GRANT UPDATE ON names TO {READER}", {("writable-table", "TABLE public.names")}),
    "maintain": Hole(f"GRANT MAINTAIN ON days TO {READER}", {("writable-table", "TABLE public.days")}, 17),
    "catalogue": Hole(f"GRANT UPDATE ON pg_catalog.pg_class TO {READER}", {("writable-table", "TABLE pg_class")}),
    "group": Hole(
        f"CREATE ROLE clinic_writers; GRANT INSERT ON patients TO clinic_writers; GRANT clinic_writers TO {READER}",
        {("membership", "ROLE clinic_writers"), ("writable-table", "TABLE public.patients")},
    ),
    "sequence": Hole(
        f"GRANT USAGE ON SEQUENCE tickets TO {READER}", {("writable-sequence", "SEQUENCE public.tickets")}
    ),
    "public sequence": Hole(
        "GRANT UPDATE ON SEQUENCE tickets TO PUBLIC", {("writable-sequence", "SEQUENCE public.tickets")}
    ),
    "large object": Hole(
        f"SELECT lo_create(4711); GRANT UPDATE ON LARGE OBJECT 4711 TO {READER}",
        {("writable-large-object", "LARGE OBJECT 4711")},
    ),
    "public large object": Hole(
        "SELECT lo_create(4712); GRANT UPDATE ON LARGE OBJECT 4712 TO PUBLIC",
        {("writable-large-object", "LARGE OBJECT 4712")},
    ),
    "lo_compat_privileges": Hole(
        "ALTER DATABASE clinic SET lo_compat_privileges = on",
        {("large-object-privileges", "lo_compat_privileges = on")},
    ),
    "search_path of the role": Hole(
        f"ALTER ROLE {READER} SET search_path = public, pg_catalog",
        {("search-path", "search_path = public, pg_catalog")},
    ),
    "search_path of the database": Hole(
        "ALTER DATABASE clinic SET search_path = public, pg_catalog",
        {("search-path", "search_path = public, pg_catalog")},
    ),
    # Attributes and memberships
    "superuser": Hole(f"ALTER ROLE {READER} SUPERUSER", {("superuser", f"ROLE {READER}")}),
    "createrole": Hole(f"ALTER ROLE {READER} CREATEROLE", {("role-attribute", "CREATEROLE")}),
    "createdb": Hole(f"ALTER ROLE {READER} CREATEDB", {("role-attribute", "CREATEDB")}),
    "replication": Hole(f"ALTER ROLE {READER} REPLICATION", {("role-attribute", "REPLICATION")}),
    "bypassrls": Hole(f"ALTER ROLE {READER} BYPASSRLS", {("role-attribute", "BYPASSRLS")}),
    "programs": Hole(
        f"GRANT pg_execute_server_program TO {READER}", {("membership", "ROLE pg_execute_server_program")}
    ),
    "files": Hole(f"GRANT pg_read_server_files TO {READER}", {("membership", "ROLE pg_read_server_files")}),
    "signals": Hole(f"GRANT pg_signal_backend TO {READER}", {("membership", "ROLE pg_signal_backend")}),
    "write all": Hole(f"GRANT pg_write_all_data TO {READER}", {("membership", "ROLE pg_write_all_data")}, 14),
    "read all": Hole(
        f"GRANT pg_read_all_data TO {READER}",
        {
            ("membership", "ROLE pg_read_all_data"),
            ("readable-secret", "TABLE pg_catalog.pg_authid (rolpassword)"),
            ("readable-secret", "TABLE pg_catalog.pg_user_mapping (umoptions)"),
            ("readable-secret", "TABLE pg_catalog.pg_subscription (subconninfo)"),
        },
        14,
    ),
    "maintain all": Hole(f"GRANT pg_maintain TO {READER}", {("membership", "ROLE pg_maintain")}, 17),
    "by way of another": Hole(
        f"CREATE ROLE clinic_outer; CREATE ROLE clinic_inner; GRANT pg_write_server_files TO clinic_inner;"
        f"GRANT clinic_inner TO clinic_outer; GRANT clinic_outer TO {READER}",
        {
            ("membership", "ROLE clinic_outer"),
            ("membership", "ROLE clinic_inner"),
            ("membership", "ROLE pg_write_server_files"),
        },
    ),
    "superuser's member": Hole(
        f"CREATE ROLE clinic_root SUPERUSER; GRANT clinic_root TO {READER}", {("membership", "ROLE clinic_root")}
    ),
    # Owned objects of every kind
    "own table": owned("table", "public.own_table", "CREATE TABLE own_table (a int)"),
    "own view": owned("view", "public.own_view", "CREATE VIEW own_view AS SELECT 1 AS a"),
    "own materialized view": owned(
        "materialized view", "public.own_mv", "CREATE MATERIALIZED VIEW own_mv AS SELECT 1 AS a"
    ),
    "own sequence": owned("sequence", "public.own_sequence", "CREATE SEQUENCE own_sequence"),
    "own schema": owned("schema", "own_schema", "CREATE SCHEMA own_schema"),
    "own function": owned(
        "function",
        "public.own_function(integer)",
        "CREATE FUNCTION own_function(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ),
    "own procedure": owned(
        "procedure", "public.own_procedure()", "CREATE PROCEDURE own_procedure() LANGUAGE sql AS 'SELECT 1'"
    ),
    "own aggregate": owned(
        "aggregate",
        "public.own_sum(integer)",
        "CREATE AGGREGATE own_sum(int) (sfunc = int4pl, stype = int)",
    ),
    "own type": owned("type", "public.own_type", "CREATE TYPE own_type AS ENUM ('a')"),
    "own domain": owned("type", "public.own_domain", "CREATE DOMAIN own_domain AS int"),
    "own operator": owned(
        "operator",
        "public.!!!(integer,integer)",
        "CREATE OPERATOR !!! (leftarg = int, rightarg = int, function = int4pl)",
        "OPERATOR public.!!! (integer, integer)",
    ),
    "own collation": owned("collation", "public.own_collation", 'CREATE COLLATION own_collation FROM "C"'),
    "own conversion": owned(
        "conversion",
        "public.own_conversion",
        "CREATE CONVERSION own_conversion FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
    ),
    "own text search configuration": owned(
        "text search configuration", "public.own_ts", "CREATE TEXT SEARCH CONFIGURATION own_ts (copy = simple)"
    ),
    "own text search dictionary": owned(
        "text search dictionary", "public.own_dict", "CREATE TEXT SEARCH DICTIONARY own_dict (template = simple)"
    ),
    "own statistics": owned(
        "statistics object",
        "public.own_statistics",
        "CREATE STATISTICS own_statistics ON name, note FROM patients",
        "STATISTICS own_statistics",
    ),
    "own server": owned(
        "server",
        "own_server",
        "CREATE FOREIGN DATA WRAPPER own_wrapper; CREATE SERVER own_server FOREIGN DATA WRAPPER own_wrapper",
    ),
    "own publication": owned("publication", "own_publication", "CREATE PUBLICATION own_publication"),
    "own large object": owned("large object", "4713", "SELECT lo_create(4713)"),
    "own database": Hole(f"ALTER DATABASE clinic OWNER TO {READER}", {("owned-object", "DATABASE clinic")}),
    "owned by a group": Hole(
        f"CREATE ROLE clinic_group; GRANT clinic_group TO {READER}; CREATE TABLE group_table (a int);"
        "ALTER TABLE group_table OWNER TO clinic_group",
        {("membership", "ROLE clinic_group"), ("owned-object", "TABLE public.group_table")},
    ),
    # CREATE and TEMPORARY
    "create in database": Hole(f"GRANT CREATE ON DATABASE clinic TO {READER}", {("create", "DATABASE clinic")}),
    "create in schema": Hole(f"GRANT CREATE ON SCHEMA archive TO {READER}", {("create", "SCHEMA archive")}),
    "public create": Hole("GRANT CREATE ON SCHEMA public TO PUBLIC", {("create", "SCHEMA public")}),
    "create in tablespace": Hole(
        f"GRANT CREATE ON TABLESPACE pg_default TO {READER}", {("create", "TABLESPACE pg_default")}
    ),
    "temporary": Hole(f"GRANT TEMPORARY ON DATABASE clinic TO {READER}", {("temporary", "DATABASE clinic")}),
    "public temporary": Hole("GRANT TEMPORARY ON DATABASE clinic TO PUBLIC", {("temporary", "DATABASE clinic")}),
    # Functions
    "definer": Hole(definer("planted(int)"), {("security-definer", "FUNCTION public.planted(integer)")}),
    "definer by name": Hole(
        f"{definer('by_name()')} REVOKE EXECUTE ON FUNCTION by_name FROM PUBLIC;"
        f"GRANT EXECUTE ON FUNCTION by_name TO {READER}",
        {("security-definer", "FUNCTION public.by_name()")},
    ),
    "definer procedure": Hole(
        "CREATE PROCEDURE call_me() LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM public.patients'",
        {("security-definer", "PROCEDURE public.call_me()")},
    ),
    "definer in a schema out of reach": Hole(
        "CREATE SCHEMA hidden; CREATE FUNCTION hidden.f() RETURNS void LANGUAGE sql SECURITY DEFINER AS"
        " 'DELETE FROM public.patients'",
        {("security-definer", "FUNCTION hidden.f()")},
    ),
    "definer in a view": Hole(
        f"{definer('in_view()')} CREATE VIEW calls_definer AS SELECT in_view();"
        f"GRANT SELECT ON calls_definer TO {READER}",
        {("security-definer", "FUNCTION public.in_view()"), ("hidden-call", "FUNCTION public.in_view()")},
    ),
    "view over a function": Hole(
        f"{volatile('v()')} CREATE VIEW calls AS SELECT v(); GRANT SELECT ON calls TO {READER}",
        {("hidden-call", "FUNCTION public.v()")},
    ),
    "view over a view out of reach": Hole(
        "CREATE VIEW inner_view AS SELECT lo_create(0);"
        f"CREATE VIEW outer_view AS SELECT * FROM inner_view; GRANT SELECT ON outer_view TO {READER}",
        {("hidden-call", "VIEW public.inner_view")},
    ),
    "view over a built-in": Hole(
        "CREATE VIEW creates AS SELECT lo_create(0); GRANT SELECT ON creates TO PUBLIC",
        {("hidden-call", "VIEW public.creates")},
    ),
    "policy": Hole(
        f"{volatile('p(int)', 'bool', 'true')} CREATE TABLE guarded (a int);"
        "ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY p ON guarded USING (p(a)); GRANT SELECT ON guarded TO {READER}",
        {("hidden-call", "FUNCTION public.p(integer)")},
    ),
    "operator": Hole(
        f"{volatile('o(int, text)')} CREATE OPERATOR @@@ (leftarg = int, rightarg = text, function = o)",
        {("hidden-call", "FUNCTION public.o(integer,text)")},
    ),
    "operator over a built-in": Hole(
        "CREATE OPERATOR ~~~~ (rightarg = oid, function = lo_unlink)",
        {("hidden-call", "FUNCTION pg_catalog.lo_unlink")},
    ),
    "cast": Hole(
        "CREATE TYPE pair AS (a int);"
        f"{volatile('c(text)', 'pair', 'ROW(1)::public.pair')} CREATE CAST (text AS pair) WITH FUNCTION c(text)",
        {("hidden-call", "FUNCTION public.c(text)")},
    ),
    "domain": Hole(
        f"{volatile('d(int)', 'bool', 'true')} CREATE DOMAIN checked AS int CHECK (d(VALUE))",
        {("hidden-call", "FUNCTION public.d(integer)")},
    ),
    "domain over a built-in": Hole(
        "CREATE DOMAIN creating AS int CHECK (lo_create(0) > 0)", {("hidden-call", "DOMAIN public.creating")}
    ),
    "default of a domain": Hole(
        "CREATE DOMAIN defaulting AS oid DEFAULT lo_create(0)", {("hidden-call", "DOMAIN public.defaulting")}
    ),
    "default of an argument": Hole(
        "CREATE FUNCTION defaults(a oid DEFAULT lo_create(0)) RETURNS oid LANGUAGE sql AS 'SELECT a'",
        {("hidden-call", "FUNCTION public.defaults(oid)")},
    ),
    "aggregate": Hole(
        f"{volatile('s(int, int)')} CREATE AGGREGATE sums(int) (sfunc = s, stype = int)",
        {("hidden-call", "FUNCTION public.s(integer,integer)")},
    ),
    "granted built-in": Hole(
        f"GRANT EXECUTE ON FUNCTION pg_read_file(text) TO {READER}",
        {("granted-function", "FUNCTION pg_read_file(text)")},
    ),
    "public built-in": Hole(
        "GRANT EXECUTE ON FUNCTION pg_ls_dir(text) TO PUBLIC", {("granted-function", "FUNCTION pg_ls_dir(text)")}
    ),
    # The world outside
    "foreign server": Hole(
        "CREATE FOREIGN DATA WRAPPER far_wrapper; CREATE SERVER far FOREIGN DATA WRAPPER far_wrapper;"
        "GRANT USAGE ON FOREIGN SERVER far TO PUBLIC",
        {("foreign-server", "FOREIGN SERVER far")},
    ),
    "wrapper": Hole(
        f"CREATE FOREIGN DATA WRAPPER usable; GRANT USAGE ON FOREIGN DATA WRAPPER usable TO {READER}",
        {("foreign-server", "FOREIGN DATA WRAPPER usable")},
    ),
    "login for all": Hole(
        "CREATE FOREIGN DATA WRAPPER other_wrapper; CREATE SERVER other FOREIGN DATA WRAPPER other_wrapper;"
        "CREATE USER MAPPING FOR PUBLIC SERVER other",
        {("foreign-server", "USER MAPPING FOR PUBLIC SERVER other")},
    ),
    "login": Hole(
        "CREATE FOREIGN DATA WRAPPER third_wrapper; CREATE SERVER third FOREIGN DATA WRAPPER third_wrapper;"
        f"CREATE USER MAPPING FOR {READER} SERVER third",
        {("foreign-server", f"USER MAPPING FOR {READER} SERVER third")},
    ),
    "extension": Hole("CREATE EXTENSION dblink", {("extension", "EXTENSION dblink")}),
    "parameter": Hole(
        f"GRANT SET ON PARAMETER log_statement TO {READER}", {("server-parameter", "PARAMETER log_statement")}, 15
    ),
    "public parameter": Hole(
        "GRANT ALTER SYSTEM ON PARAMETER work_mem TO PUBLIC", {("server-parameter", "PARAMETER work_mem")}, 15
    ),
    "password hashes": Hole(
        f"GRANT SELECT ON pg_catalog.pg_authid TO {READER}",
        {("readable-secret", "TABLE pg_catalog.pg_authid (rolpassword)")},
    ),
    "password hashes by column": Hole(
        "GRANT SELECT (rolpassword) ON pg_catalog.pg_authid TO PUBLIC",
        {("readable-secret", "TABLE pg_catalog.pg_authid (rolpassword)")},
    ),
}


RESTORE = f";ALTER DATABASE clinic OWNER TO {OWNER}; DROP EXTENSION IF EXISTS dblink"


HIDE_OTHERS = ("superuser", "read all", "own database")
"""With these there are no other holes, or others."""


@pytest.fixture(scope="module", params=servers.EVERY)
def patient(request: pytest.FixtureRequest) -> Iterator[Clinic]:
    """Give a database whose role is healthy; each test leaves it so."""
    with servers.serving(request) as server, clinic(server) as made:
        made.apply(revoke_public=True)
        yield made


def test_healthy_role_has_no_finding(patient: Clinic) -> None:
    examination = patient.examine()
    assert {found.kind for found in examination.findings} == {"primary"}
    assert examination.tls_version == "TLSv1.3"
    assert (examination.probe.role, examination.probe.owner) == (READER, OWNER)
    assert APPLICATION in examination.probe.applications


def cure(found: list[Finding]) -> str:
    """Return the SQL of all findings, each statement once."""
    return "\n".join(dict.fromkeys(statement for each in found for statement in each.sql))


def test_planted_holes_are_found_all_and_alone_and_their_sql_closes_them(patient: Clinic) -> None:
    # One at a time takes minutes: that is the next test.
    planted = [hole for name, hole in HOLES.items() if patient.major >= hole.since and name not in HIDE_OTHERS]
    patient.sql(";".join(hole.plant for hole in planted))
    found = patient.findings()
    try:
        assert places(found) == set.union(*(hole.found for hole in planted))
        assert all(each.why and each.sql for each in found)
    finally:
        patient.sql(cure(found) + RESTORE)
    assert places(patient.findings()) == set()
    patient.create()  # what was planted is in the way of the next test
    patient.apply(revoke_public=True)


@pytest.mark.deep
@pytest.mark.parametrize("name", HOLES)
def test_planted_hole_is_found_alone_and_its_sql_closes_it(patient: Clinic, name: str) -> None:
    hole = HOLES[name]
    if patient.major < hole.since:
        pytest.skip(f"PostgreSQL {hole.since} brought it")
    patient.sql(hole.plant)
    found = patient.findings()
    try:
        assert places(found) == hole.found
        assert all(each.why and each.sql for each in found)
    finally:
        patient.sql(cure(found) + RESTORE)
    assert places(patient.findings()) == set()


def test_every_kind_is_planted() -> None:
    planted = {kind for hole in HOLES.values() for kind, _ in hole.found}
    assert planted | {"primary", "server-version", "prepared-transactions", "foreign-table"} == set(KINDS)


def test_reads_are_no_holes(patient: Clinic) -> None:
    patient.sql(
        "CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM patients';"
        "CREATE VIEW reads_only AS SELECT reads(); GRANT SELECT ON reads_only TO PUBLIC;"
        f"{definer('kept()')}"
        f"REVOKE EXECUTE ON FUNCTION kept FROM PUBLIC; GRANT EXECUTE ON FUNCTION kept TO {APPLICATION};"
        "CREATE VIEW keeps AS SELECT kept(); GRANT SELECT ON keeps TO PUBLIC;"
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN new; END $$;"
    )
    found = patient.examine().findings
    assert {each.kind for each in found} == {"primary", "security-definer"}
    assert found[-1].subject == "FUNCTION public.reads()"
    assert {each.severity for each in found} == {Severity.INFO}
    patient.sql("DROP VIEW reads_only, keeps; DROP FUNCTION reads, kept, fires")


def test_foreign_table_is_told_of(patient: Clinic) -> None:
    patient.sql(
        "CREATE FOREIGN DATA WRAPPER away_wrapper; CREATE SERVER away FOREIGN DATA WRAPPER away_wrapper;"
        f"CREATE FOREIGN TABLE away_table (a int) SERVER away; GRANT SELECT ON away_table TO {READER};"
        "CREATE VIEW away_view AS SELECT * FROM away_table; GRANT SELECT ON away_view TO PUBLIC"
    )
    (found,) = (each for each in patient.examine().findings if each.kind != "primary")
    assert (found.kind, found.severity, found.subject) == (
        "foreign-table",
        Severity.INFO,
        "FOREIGN TABLE public.away_table",
    )
    assert "view public.away_view" in found.why
    patient.sql("\n".join(found.sql))
    assert {each.kind for each in patient.examine().findings} == {"primary"}

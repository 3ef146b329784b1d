"""What rows of the probe and taints of the catalogue amount to: findings, severities, and the SQL that mends them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.role import findings
from proxy.role import probe as role_probe
from proxy.role.findings import KINDS, Severity, find
from proxy.role.probe import Attributes, Executable, Extension, Grant, Mapping_, Membership, Owned, Probe, Way
from proxy.sql.catalog import CAST, FUNCTION, OPERATOR, RELATION, TYPE, Key, Taint

ROOT = Path(__file__).parents[3]
PLAIN = Attributes(False, False, False, False, False)
HEALTHY = Probe(
    version=150018,
    version_text="15.18",
    database="shop",
    owner="owner",
    standby=True,
    max_prepared_transactions=0,
    lo_compat_privileges=False,
    search_path='"$user", public',
    role="reader",
    attributes=PLAIN,
    inherits=False,
    secrets=(),
    applications=("app", "owner", '"web shop"'),
)


def one(probe: Probe, taints: dict[Key, Taint] | None = None) -> findings.Finding:
    (found,) = find(probe, {} if taints is None else taints)
    return found


def executable(oid: int = 20000, what: str = "FUNCTION public.f()", **more: Any) -> Executable:
    values = {"definer": False, "owner": "owner", "extension": "", "public": True, "own": False, "roles": ""} | more
    return Executable(oid, what, **values)


def test_healthy_role_on_a_standby_has_no_finding() -> None:
    assert find(HEALTHY, {}) == ()
    assert findings.worst(()) is Severity.OK


@pytest.mark.parametrize("version", [120022, 190000])
def test_server_that_the_grammar_does_not_read(version: int) -> None:
    found = one(replace(HEALTHY, version=version, version_text="x"))
    assert (found.kind, found.severity) == ("server-version", Severity.WARNING)


def test_primary_is_told_of_and_two_phase_transactions_are_a_warning() -> None:
    assert one(replace(HEALTHY, standby=False)).severity is Severity.INFO
    found = one(replace(HEALTHY, max_prepared_transactions=5))
    assert (found.severity, found.sql) == (Severity.WARNING, ("ALTER SYSTEM SET max_prepared_transactions = 0;",))


@pytest.mark.parametrize("path", ["", "pg_catalog, public", 'public, "PG_CATALOG"', '"$user", public'])
def test_path_with_pg_catalog_in_front_is_no_finding(path: str) -> None:
    assert find(replace(HEALTHY, search_path=path), {}) == ()


def test_path_that_puts_other_schemas_before_pg_catalog_is_a_warning() -> None:
    found = one(replace(HEALTHY, search_path="public, pg_catalog"))
    assert (found.kind, found.severity) == ("search-path", Severity.WARNING)
    assert found.sql[1] == "ALTER ROLE reader RESET search_path;"


def test_what_public_has_is_given_back_to_those_who_log_in_but_for_the_owner() -> None:
    found = one(replace(HEALTHY, grants=(Grant("table", "TABLE public.t", "INSERT, UPDATE (a)", True, "", "owner"),)))
    assert found.sql == (
        'GRANT INSERT, UPDATE (a) ON TABLE public.t TO app, "web shop";',
        "REVOKE INSERT, UPDATE (a) ON TABLE public.t FROM PUBLIC;",
    )
    assert found.why.startswith("PUBLIC has INSERT, UPDATE (a). ")
    alone = replace(
        HEALTHY, applications=("owner",), grants=(Grant("schema", "SCHEMA s", "CREATE", True, "", "owner"),)
    )
    assert one(alone).sql == ("REVOKE CREATE ON SCHEMA s FROM PUBLIC;",)


def test_rights_of_one_object_are_one_finding_but_for_create_and_temporary() -> None:
    grants = (
        Grant("database", "DATABASE shop", "CREATE, TEMPORARY", False, "", "owner"),
        Grant("database", "DATABASE shop", "TEMPORARY", True, "", "owner"),
        Grant("table", "TABLE t", "INSERT", False, "", "owner"),
        Grant("table", "TABLE t", "DELETE", False, "w", "owner"),
    )
    members = (Membership("w", "w", "outer", PLAIN), Membership("outer", "outer", "outer", PLAIN))
    found = {each.kind: each for each in find(replace(HEALTHY, grants=grants, memberships=members), {})}
    assert found["create"].sql == ("REVOKE CREATE ON DATABASE shop FROM reader;",)
    assert found["create"].severity is Severity.CRITICAL
    assert found["temporary"].severity is Severity.WARNING
    assert found["temporary"].sql[-1] == "REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC;"
    # Membership in w comes through outer: that is what has to go.
    assert found["writable-table"].sql == ("REVOKE INSERT ON TABLE t FROM reader;", "REVOKE outer FROM reader;")


@pytest.mark.parametrize(
    ("name", "attributes", "severity"),
    [
        ("rds_superuser", PLAIN, Severity.CRITICAL),
        ("pg_monitor", PLAIN, Severity.INFO),
        ("anybody", PLAIN, Severity.WARNING),
        ("anybody", PLAIN._replace(createrole=True), Severity.CRITICAL),
        ("pg_of_the_future", PLAIN, Severity.WARNING),
    ],
)
def test_membership_weighs_what_the_role_may(name: str, attributes: Attributes, severity: Severity) -> None:
    assert one(replace(HEALTHY, memberships=(Membership(name, name, name, attributes),))).severity is severity


def test_membership_that_says_how_to_log_in_is_no_finding() -> None:
    assert find(replace(HEALTHY, memberships=(Membership("rds_iam", "rds_iam", "rds_iam", PLAIN),)), {}) == ()


def test_object_goes_to_the_owner_of_the_database_or_to_whoever_runs_the_sql() -> None:
    probe = replace(HEALTHY, owned=(Owned("table", "public.t", ""),))
    assert one(probe).sql == ("REASSIGN OWNED BY reader TO owner;",)
    assert one(replace(probe, owner="reader")).sql == ("REASSIGN OWNED BY reader TO CURRENT_USER;",)
    elsewhere = one(replace(HEALTHY, owned=(Owned("database", "objects in other", ""),)))
    assert elsewhere.subject == "objects in database other"
    assert elsewhere.sql == ("REASSIGN OWNED BY reader TO owner; -- in that database",)


def test_definer_is_judged_by_its_body_and_by_nothing_where_nothing_was_proved() -> None:
    probe = replace(HEALTHY, executables=(executable(definer=True),))
    taint = Taint("function public.f()", "its body executes DELETE", "public.f", "", (FUNCTION, 20000))
    assert one(probe).severity is Severity.INFO
    assert one(probe, {(FUNCTION, 20000): taint}).severity is Severity.CRITICAL
    (unproved,) = find(probe, None)
    assert unproved.severity is Severity.CRITICAL
    assert "could not be looked at" in unproved.why


def test_function_that_the_role_may_not_execute_is_no_way_to_anything() -> None:
    root: Key = (FUNCTION, 20000)
    taints = {
        root: Taint("function public.f()", "its body executes DELETE", "public.f", "", root),
        (RELATION, 20001): Taint("view public.v", "it calls function public.f()", "public.v", "", root),
    }
    way = Way((RELATION, 20001), "VIEW public.v", "", "", "")
    assert find(replace(HEALTHY, ways=(way,)), taints) == ()
    found = one(replace(HEALTHY, ways=(way,), executables=(executable(),)), taints)
    assert (found.kind, found.severity, found.subject) == ("hidden-call", Severity.WARNING, "FUNCTION public.f()")
    assert found.why.endswith("It runs without being named through view public.v.")
    # A view that cannot be read is no way either.
    assert find(replace(HEALTHY, executables=(executable(),)), taints) == ()


def test_many_ways_to_a_function_are_one_finding_that_names_some() -> None:
    root: Key = (FUNCTION, 20000)
    taints: dict[Key, Taint] = {root: Taint("function public.f()", "its body executes DELETE", "public.f", "", root)}
    ways = []
    for number in range(8):
        key = (OPERATOR, 30000 + number)
        taints[key] = Taint(f"operator public.+{number}", "it calls function public.f()", "", "", root)
        ways.append(Way(key, f"OPERATOR public.+{number}", "", "", ""))
    found = one(replace(HEALTHY, ways=tuple(ways), executables=(executable(),)), taints)
    assert found.why.endswith("operator public.+3, operator public.+4 and 3 more.")


@pytest.mark.parametrize(
    ("way", "sql"),
    [
        (Way((RELATION, 1), "VIEW public.v", "", "", ""), "REVOKE SELECT ON TABLE public.v FROM reader;"),
        (
            Way((RELATION, 1), 'MATERIALIZED VIEW "a b".m', "public", "", ""),
            'REVOKE SELECT ON TABLE "a b".m FROM reader, PUBLIC;',
        ),
        (Way((RELATION, 1), 'TABLE "a b"', "", "", ""), 'REVOKE SELECT ON TABLE "a b" FROM reader;'),
        (Way((TYPE, 1), "DOMAIN d", "DROP CONSTRAINT c", "", ""), "ALTER DOMAIN d DROP CONSTRAINT c;"),
        (Way((TYPE, 1), "DOMAIN d", "", "", ""), "ALTER DOMAIN d DROP DEFAULT;"),
        (Way((CAST, 1), "CAST (text AS public.t)", "", "", ""), "DROP CAST (text AS public.t);"),
        (Way((OPERATOR, 1), "OPERATOR public.!(NONE,integer)", "", "", ""), "DROP OPERATOR public.!(NONE,integer);"),
    ],
)
def test_way_that_is_no_read_by_itself_is_closed(way: Way, sql: str) -> None:
    taint = Taint("what", "its definition calls pg_catalog.lo_create", "", "", way.key)
    assert one(replace(HEALTHY, ways=(way,)), {way.key: taint}).sql == (sql,)


def test_extension_weighs_what_the_role_may_execute_of_it() -> None:
    probe = replace(HEALTHY, extensions=(Extension("dblink", "dblink", "1.2"), Extension("hstore", "hstore", "1")))
    assert one(probe).severity is Severity.INFO
    functions = (
        executable(1, "FUNCTION public.dblink(text)", extension="dblink"),
        executable(2, "FUNCTION public.dblink_exec(text)", extension="dblink"),
    )
    taints = {(FUNCTION, oid): Taint("f", "it is listed", "f", "", (FUNCTION, oid)) for oid in (1, 2)}
    found = one(replace(probe, executables=functions), taints)
    assert (found.severity, found.subject) == (Severity.WARNING, "EXTENSION dblink")
    what = "FUNCTION public.dblink(text), public.dblink_exec(text)"
    assert found.sql == (
        f'GRANT EXECUTE ON {what} TO app, "web shop";',
        f"REVOKE EXECUTE ON {what} FROM PUBLIC;",
    )
    cron = replace(
        HEALTHY,
        extensions=(Extension("pg_cron", "pg_cron", "1.6"),),
        executables=(executable(1, "FUNCTION cron.schedule(text)", extension="pg_cron"),),
    )
    assert one(cron, taints).severity is Severity.CRITICAL


def test_secrets_go_with_the_membership_that_shows_them() -> None:
    secret = role_probe.SECRETS[0]
    assert one(replace(HEALTHY, secrets=((secret, "reader"),))).sql == (
        "REVOKE SELECT ON TABLE pg_catalog.pg_authid FROM reader, PUBLIC;",
        "REVOKE SELECT (rolpassword) ON TABLE pg_catalog.pg_authid FROM reader, PUBLIC;",
    )
    member = Membership("pg_read_all_data", "pg_read_all_data", "readers", PLAIN)
    probe = replace(HEALTHY, secrets=((secret, "pg_read_all_data"),), memberships=(member,))
    found = {each.kind: each for each in find(probe, {})}
    assert found["readable-secret"].sql == ("REVOKE readers FROM reader;",)


def test_superuser_is_one_finding() -> None:
    probe = replace(HEALTHY, attributes=PLAIN._replace(superuser=True), secrets=((role_probe.SECRETS[0], "reader"),))
    assert one(probe).kind == "superuser"


def test_granted_function_that_only_reads_is_none() -> None:
    names = ("pg_config", "pg_switch_wal", "pg_ls_logdir", "of_the_future")
    grants = tuple(Grant("built-in function", f"FUNCTION {each}()", "EXECUTE", False, "", "postgres") for each in names)
    assert [(each.severity.word, each.subject) for each in find(replace(HEALTHY, grants=grants), {})] == [
        ("critical", "FUNCTION of_the_future()"),
        ("critical", "FUNCTION pg_switch_wal()"),
        ("warning", "FUNCTION pg_ls_logdir()"),
    ]


def test_worst_comes_first_and_severities_are_counted() -> None:
    probe = replace(
        HEALTHY,
        standby=False,
        mappings=(Mapping_("far", True),),
        attributes=PLAIN._replace(createdb=True),
    )
    found = find(probe, {})
    assert [each.severity.word for each in found] == ["critical", "warning", "info"]
    assert findings.counts(found) == {
        Severity.OK: 0,
        Severity.INFO: 1,
        Severity.WARNING: 1,
        Severity.CRITICAL: 1,
    }


def test_every_kind_has_its_section_in_the_documentation() -> None:
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    assert headings == [*KINDS, "reachable", "tls", "catalogue"]


# --- the probe's text -------------------------------------------------------------------------------------------------


def test_probe_names_what_is_no_read_and_quotes_the_role() -> None:
    taints: dict[Key, Taint] = {
        (FUNCTION, 3): Taint("", "", ""),
        (FUNCTION, 1): Taint("", "", ""),
        ("x", 9): Taint("", "", ""),
    }
    text = role_probe.query(150000, taints, "it's $functions").decode()
    assert "p.oid = ANY ('{1,3}'::oid[])" in text
    assert "rolname = 'it''s $functions'" in text
    assert "FROM pg_parameter_acl," in text
    assert set(re.findall(r"\$\w+", text.partition("\nBEGIN")[2])) == {"$functions"}
    old = role_probe.query(140000, taints).decode()
    assert "FROM pg_parameter_acl" not in old
    assert "rolname = current_user" in old


def test_probe_of_a_role_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="unpack"):
        role_probe.decode([[]] * 9)

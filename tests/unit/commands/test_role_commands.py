"""`sidecart role` and `sidecart doctor` without a server: what is sent, who logs in, and which databases are meant."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from dataclasses import replace

import pglast.parser
import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.commands import doctor, role
from proxy.config import values
from proxy.config.load import load
from proxy.config.schema import Upstream
from proxy.errors import ConfigError
from proxy.operating import readonly_role
from proxy.operating.examining import Examination
from proxy.operating.readonly_role import RoleError
from proxy.operating.usage import Unusable
from proxy.role.findings import Finding, Severity
from tests.unit.role.test_findings import HEALTHY, PLAIN

MINIMAL = {"DB_HOST": "db.example", "DB_READONLY_USERNAME": "reader"}


# --- the script -------------------------------------------------------------------------------------------------------


def test_script_below_its_line_is_plain_sql() -> None:
    parameters, script = readonly_role.queries("reader", "secret", revoke_public=False)
    tags = [next(iter(raw["stmt"])) for raw in _parsed(script)]
    assert tags == ["TransactionStmt", "VariableSetStmt", "VariableSetStmt", "DoStmt", "SelectStmt", "TransactionStmt"]
    assert len(_parsed(parameters)) == 1


def _parsed(query: bytes) -> list[dict[str, dict[str, object]]]:
    statements: list[dict[str, dict[str, object]]] = json.loads(pglast.parser.parse_sql_json(query.decode()))["stmts"]
    return statements


def test_dry_run_ends_with_a_rollback() -> None:
    _, script = readonly_role.queries("reader", "", revoke_public=False)
    _, dry = readonly_role.queries("reader", "", revoke_public=False, dry_run=True)
    assert script.count(b"\nCOMMIT;") == 1
    assert dry == script.replace(b"\nCOMMIT;", b"\nROLLBACK;")


def test_parameters_are_quoted_and_hold_no_password() -> None:
    parameters, script = readonly_role.queries("it's", "pass'word", revoke_public=True)
    assert b"'sidecart.role', 'it''s'" in parameters
    assert b"'sidecart.revoke_public', 'on'" in parameters
    assert b"'sidecart.password', 'SCRAM-SHA-256$4096:" in parameters
    assert b"pass" not in parameters.replace(b"sidecart.password", b"")
    assert b"it's" not in script
    assert b"'sidecart.password', ''" in readonly_role.queries("r", "", revoke_public=False)[0]


def test_verifier_is_postgresqls() -> None:
    # RFC 5802, section 3, in other words than scramp's.
    made = values.verifier(readonly_role.verifier("pencil"))
    rounds, salt, stored, server = made.removeprefix("SCRAM-SHA-256$").replace("$", ":").split(":")
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", base64.b64decode(salt), int(rounds))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    assert base64.b64decode(stored) == hashlib.sha256(client_key).digest()
    assert base64.b64decode(server) == hmac.digest(salted, b"Server Key", "sha256")
    assert readonly_role.verifier(made) == made
    assert readonly_role.verifier("pencil") != made


@pytest.mark.parametrize("password", ["bell\a", "nul\0"])
def test_password_that_cannot_be_is_refused_without_being_shown(password: str) -> None:
    with pytest.raises(RoleError) as caught:
        readonly_role.queries("reader", password, revoke_public=False)
    assert password[:3] not in str(caught.value)
    assert caught.value.__cause__ is None


# --- sidecart role ----------------------------------------------------------------------------------------------------


def test_without_a_login_the_script_is_printed() -> None:
    done = CliRunner(env={"DB_ADMIN_USERNAME": None}).invoke(main, ["role"])
    assert (done.exit_code, done.output) == (0, readonly_role.text())
    done = CliRunner(env={"DB_ADMIN_USERNAME": None}).invoke(main, ["role", "--revoke-public"])
    assert (done.exit_code, "needs --apply" in done.output) == (2, True)


def test_without_a_login_nothing_is_applied() -> None:
    environ = {"DB_ADMIN_USERNAME": None, "DB_HOST": "db.example", "DB_NAME": None}
    done = CliRunner(env=environ).invoke(main, ["role", "--apply"])
    assert done.exit_code == 2
    assert "DB_ADMIN_USERNAME, DB_NAME missing in the environment" in done.output


def test_administrator_comes_from_the_environment() -> None:
    environ = {
        "DB_HOST": "db.example",
        "DB_PORT": "5433",
        "DB_NAME": "app",
        "DB_ADMIN_USERNAME": "master",
        "DB_ADMIN_PASSWORD": "secret",
        "DB_READONLY_USERNAME": "reader",
        "DB_SSLROOTCERT": "/ca.pem",
    }
    found = role.administrator(None, environ)
    assert found == Upstream(
        host="db.example", port=5433, dbname="app", user="master", password="secret", sslrootcert="/ca.pem"
    )
    assert role.administrator(None, {**environ, "DB_SSLMODE": "require"}).sslmode == "require"
    with pytest.raises(Unusable, match="DB_PORT: must be a whole number"):
        role.administrator(None, {**environ, "DB_PORT": "x"})


def test_administrator_comes_from_a_connection_string() -> None:
    dsn = "host=db.example dbname=app user=master"
    found = role.administrator(dsn, {"DB_ADMIN_PASSWORD": "secret"})
    assert (found.user, found.password, found.sslmode) == ("master", "secret", "verify-full")
    assert role.administrator(dsn, {"DB_ADMIN_PASSWORD": "x", "PGPASSWORD": "y"}).password == "y"
    assert role.administrator(f"{dsn} password=z sslmode=disable", {"PGPASSWORD": "y"}).password == "z"


# --- sidecart doctor --------------------------------------------------------------------------------------------------


def test_databases_are_those_that_the_configuration_names() -> None:
    named = load("databases:\n  sales: {dbname: sales_2026}\n", {**MINIMAL, "DB_NAME": "app"})
    assert {name: each.dbname for name, each in doctor.databases(named, None).items()} == {
        "app": "app",
        "sales": "sales_2026",
    }
    assert list(doctor.databases(named, "sales")) == ["sales"]
    with pytest.raises(ConfigError, match="The database other is not served"):
        doctor.databases(named, "other")
    free = load(None, MINIMAL)
    assert doctor.databases(free, "any")["any"].dbname == "any"
    with pytest.raises(ConfigError, match="name the one to examine with --dbname"):
        doctor.databases(free, None)


def examination(*found: Finding, tls: str = "TLSv1.3", unproved: str = "") -> Examination:
    return Examination(HEALTHY, found, tls, 0.01, unproved)


@pytest.mark.parametrize(
    ("host", "sslmode", "tls", "severity"),
    [
        ("db.example", "verify-full", "TLSv1.3", Severity.OK),
        ("db.example", "verify-ca", "TLSv1.3", Severity.WARNING),
        ("db.example", "require", "TLSv1.2", Severity.WARNING),
        ("db.example", "disable", "", Severity.CRITICAL),
        ("localhost", "prefer", "", Severity.OK),
        ("127.0.0.1", "prefer", "TLSv1.3", Severity.INFO),
        ("/run/postgresql", "disable", "", Severity.OK),
    ],
)
def test_connection_is_judged_too(host: str, sslmode: str, tls: str, severity: Severity) -> None:
    upstream = Upstream(host=host, dbname="app", user="reader", sslmode=sslmode)
    reachable, found = doctor.connection(upstream, examination(tls=tls))
    assert reachable.severity is Severity.OK
    assert (found.kind, found.severity) == ("tls", severity)


def test_what_could_not_be_proved_is_a_warning() -> None:
    upstream = Upstream(host="localhost", dbname="app", user="reader")
    *_, found = doctor.connection(upstream, examination(unproved="the helper was lost"))
    assert (found.kind, found.severity) == ("catalogue", Severity.WARNING)
    assert "the helper was lost" in found.why


def test_screen_says_what_is_well_and_what_is_not() -> None:
    upstream = Upstream(host="localhost", dbname="shop", user="reader")
    hole = Finding("writable-table", Severity.CRITICAL, "TABLE public.t", "It writes.", ("REVOKE it;",))
    told = examination(hole)
    text = doctor.screen(upstream, told, [*doctor.connection(upstream, told), hole])
    assert "ok        owned-object            the role owns nothing\n" in text
    assert "ok        writable-table" not in text
    assert "critical  writable-table          TABLE public.t\n          It writes.\n            REVOKE it;\n" in text
    assert "\n1 critical. The SQL is for the owner" in text


def test_screen_claims_nothing_of_a_superuser() -> None:
    upstream = Upstream(host="localhost", dbname="shop", user="reader")
    probe = replace(HEALTHY, attributes=PLAIN._replace(superuser=True))
    hole = Finding("superuser", Severity.CRITICAL, "ROLE reader", "It may do everything.", ())
    told = Examination(probe, (hole,), "TLSv1.3", 0.01, "")
    text = doctor.screen(upstream, told, [hole])
    assert "owned-object" not in text
    assert "ok        prepared-transactions" in text


def test_wrong_configuration_ends_with_2() -> None:
    done = CliRunner(env={"DB_HOST": None, "SIDECART_UPSTREAM_HOST": None, "SIDECART_CONFIG": None}).invoke(
        main, ["doctor"]
    )
    assert (done.exit_code, "There is no configuration" in done.output) == (2, True)


def test_exit_codes_rise_with_the_severity() -> None:
    codes = [doctor.EXIT_CODES[severity] for severity in sorted(doctor.EXIT_CODES)]
    assert codes == sorted(codes) == [0, 0, 1, 3]
    assert doctor.UNREACHABLE not in codes

"""What preflight says of each usual error: the cause is named, the fix is there, and no secret is."""

from __future__ import annotations

import ast
import datetime
import re
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config.schema import Upstream
from proxy.databases import diagnosis
from proxy.databases.diagnosis import Advice
from proxy.pooling.guard import LOST, UNSUPPORTED
from proxy.tls import certificates
from proxy.tls.certificates import Authority, Certificate

NOW = datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
UPSTREAM = Upstream(host="db.example.com", dbname="app", user="reader", sslrootcert="ca.pem")
RDS = replace(UPSTREAM, host="db.abc.eu-west-1.rds.amazonaws.com")
SHOWN = Certificate("db", "Some CA", ("db.example.com",), NOW - DAY, NOW + 90 * DAY, False)
EU, US = "Amazon RDS eu-west-1 Root CA RSA2048 G1", "Amazon RDS us-east-1 Root CA ECC384 G1"


def both(advice: Advice) -> str:
    assert advice.means.endswith(".")
    assert advice.fix.endswith(".") or "://" in advice.fix
    return f"{advice.means}\n{advice.fix}"


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("Zq7%2Fxw", "looks percent-encoded"),
        ("Zq7xw\n", "ends with a line break"),
        ("Zq7xw\r\n", "ends with a line break"),
        (" Zq7xw", "begins or ends with a blank"),
        ('"Zq7xw"', "stands in quotes"),
        ("'Zq7xw'", "stands in quotes"),
        ("postgresql://reader:Zq7xw@db.example.com/app", "is a whole URL"),
        ("Zq7/xw", "must escape"),
        ("Zq7@xw#", "must escape"),
        ("Zq7äxw", "must escape"),
    ],
)
def test_what_is_odd_about_a_password_is_said_and_nothing_of_it_is_shown(password: str, says: str) -> None:
    notes = " ".join(diagnosis.password_notes(password))
    assert says in notes
    assert "Zq7" not in notes
    assert "xw" not in notes


@pytest.mark.parametrize("password", ["", "a-long_random.password~42"])
def test_plain_password_needs_no_note(password: str) -> None:
    assert diagnosis.password_notes(password) == []


def test_percent_alone_is_no_encoding() -> None:
    assert diagnosis.suspicions("100%sure") == []


@pytest.mark.parametrize(
    ("source", "why", "fix"),
    [
        ("aws_secret", "AWS secretsmanager: AccessDeniedException: not authorized", "secretsmanager:GetSecretValue"),
        ("aws_iam", "AWS rds: AccessDenied", "rds-db:connect"),
        ("aws_secret", "AWS secretsmanager: ResourceNotFoundException: can't find it", "upstream.aws_secret"),
        ("aws_iam", "AWS rds: Unable to locate credentials", "task role"),
        ("aws_iam", "the AWS region is unknown", "upstream.aws_region"),
        ("aws_secret", "Could not connect to the endpoint URL", "VPC endpoint"),
        ("password_file", "upstream.password_file 'x' cannot be read: No such file or directory", "mount the secret"),
        ("password_file", "upstream.password_file 'x' cannot be read: Permission denied", "read it"),
        ("password_file", "upstream.password_file 'x' is empty", "Put the password into it"),
        ("password_file", "upstream.password_file 'x' must belong to the user", "chmod it to 0600"),
        ("password_file", "upstream.password_file 'x' is no regular file", "Put the password into a file"),
        ("password_file", "password_file gave none within 20 s", "what keeps it"),
        ("password_command", "upstream.password_command ended with exit code 1", "Correct upstream.password_command"),
    ],
)
def test_password_that_cannot_be_fetched(source: str, why: str, fix: str) -> None:
    told = diagnosis.secret(source, why)
    assert fix in told.fix
    assert "Upstream." not in told.means and "Password_" not in told.means


# --- configuration, name and route ------------------------------------------------------------------------------------


def test_host_that_is_more_than_a_host() -> None:
    text = "DB_HOST: must be a host name or an IP address alone: no port, no user, no URL, no brackets"
    assert "host name alone" in diagnosis.configuration(text).fix


def test_problems_of_a_configuration_stand_on_one_line() -> None:
    assert diagnosis.configuration("a: wrong\nb: wrong").means == "a: wrong; b: wrong"


def test_name_that_nobody_knows() -> None:
    assert "is not known" in both(diagnosis.unresolved("db.example.com", "nothing", try_again=False))
    assert "endpoint" in both(diagnosis.unresolved(RDS.host, "nothing", try_again=False))
    assert "resolv.conf" in both(diagnosis.unresolved("db.example.com", "nothing", try_again=True))


def test_firewall_that_drops() -> None:
    said = both(diagnosis.unreachable("10.0.3.7", 5432, TimeoutError(), RDS.host, 10.0))
    assert "does not answer within 10 s" in said
    assert "security group must accept SideCart's group on port 5432" in said
    assert "inside the VPC" in said
    assert "VPC" not in both(diagnosis.unreachable("52.1.2.3", 5432, TimeoutError(), "db.example.com", 10.0))


def test_port_without_a_server() -> None:
    error = ConnectionRefusedError(111, "Connection refused")
    assert "DB_PORT" in both(diagnosis.unreachable("10.0.3.7", 5433, error, "db.example.com", 10.0))


def test_no_route_and_no_socket() -> None:
    error = OSError(113, "No route to host")
    assert "No route to host" in both(diagnosis.unreachable("10.0.3.7", 5432, error, "db.example.com", 10.0))
    missing = FileNotFoundError(2, "No such file or directory")
    assert "no socket /run/.s.PGSQL.5432" in both(
        diagnosis.unreachable("/run/.s.PGSQL.5432", 5432, missing, "/run", 10.0)
    )


# --- TLS --------------------------------------------------------------------------------------------------------------


def refused(
    certificate: Certificate | None, code: int = 20, upstream: Upstream = UPSTREAM, trusted: tuple[Authority, ...] = ()
) -> str:
    return both(diagnosis.refused_certificate(code, "why", certificate, upstream, trusted, NOW))


def authority(name: str, days: int = 900) -> Authority:
    return Authority(name, NOW + days * DAY)


def test_certificate_that_has_expired() -> None:
    said = refused(replace(SHOWN, ends=NOW - 3 * DAY), diagnosis.EXPIRED)
    assert "has expired on 2026-11-24" in said
    assert "rds" not in said
    assert "modify-db-instance" in refused(replace(SHOWN, ends=NOW - DAY, issuer=EU), diagnosis.EXPIRED)


def test_certificate_of_the_future() -> None:
    assert "valid from 2026-11-30 on, and here it is 2026-11-27" in refused(replace(SHOWN, starts=NOW + 3 * DAY), 9)


def test_certificate_for_another_name() -> None:
    shown = replace(SHOWN, names=("replica.example.com", "10.0.0.9"))
    said = refused(shown, 62)
    assert "for replica.example.com, 10.0.0.9, and not for db.example.com" in said
    assert "Set DB_HOST to one of them" in said
    assert "not to an address" in refused(shown, 64, replace(UPSTREAM, host="10.0.0.1"))


def test_certificate_of_another_region() -> None:
    said = refused(replace(SHOWN, issuer=EU), 20, RDS, (authority(US),))
    assert "of the CA of eu-west-1; ca.pem has the CA of us-east-1" in said
    assert "Leave DB_SSLROOTCERT empty" in said
    said = refused(replace(SHOWN, issuer="Amazon RDS xx-new-1 Root CA RSA2048 G1"), 20, replace(RDS, sslrootcert=""))
    assert "have none of that region" in said
    assert diagnosis.BUNDLE in said


def test_ca_that_has_expired() -> None:
    said = refused(SHOWN, diagnosis.EXPIRED, trusted=(authority("Some CA", -5),))
    assert "The CA Some CA" in said
    assert "has expired on 2026-11-22" in said


def test_certificate_that_is_self_signed() -> None:
    assert "self-signed" in refused(replace(SHOWN, self_signed=True), 18)


def test_certificate_of_an_unknown_ca() -> None:
    assert "signed by Some CA, which is not in ca.pem." in refused(SHOWN)
    assert "another CA of that name" in refused(SHOWN, trusted=(authority("Some CA"),))
    assert "the CAs of this system and of Amazon RDS" in refused(SHOWN, upstream=replace(UPSTREAM, sslrootcert=""))


def test_certificate_that_cannot_be_read() -> None:
    assert "(why)" in refused(None)
    assert certificates.read(b"no certificate") is None


@pytest.mark.parametrize(
    ("sslmode", "rootcert", "says"),
    [("verify-full", "", ""), ("verify-ca", "", "name is not checked"), ("require", "", "identity is not checked")],
)
def test_what_is_not_checked_is_noted(sslmode: str, rootcert: str, says: str) -> None:
    upstream = replace(UPSTREAM, sslmode=sslmode, sslrootcert=rootcert)
    notes = diagnosis.certificate_notes(SHOWN, upstream, NOW)
    assert bool(notes) is bool(says)
    assert says in " ".join(notes)


def test_certificate_that_ends_soon_is_noted() -> None:
    assert diagnosis.certificate_notes(replace(SHOWN, ends=NOW + 9 * DAY), UPSTREAM, NOW) == [
        "Renew the server's certificate before 2026-12-06."
    ]


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "upstream.sslcert"),
        ("TLSV1_ALERT_UNKNOWN_CA", "ssl_ca_file"),
        ("WRONG_VERSION_NUMBER", "DB_PORT"),
        ("TLSV1_ALERT_INTERNAL_ERROR", "server's log"),
    ],
)
def test_handshake_that_fails_for_another_reason(reason: str, fix: str) -> None:
    assert fix in both(diagnosis.handshake(reason, direct=False))


def test_other_answers_to_the_request_for_tls() -> None:
    assert "Turn TLS on" in both(diagnosis.no_tls("verify-full"))
    assert "no PostgreSQL" in both(diagnosis.not_postgres(b"H", 80))
    assert "closes the connection" in both(diagnosis.not_postgres(b"", 80))
    assert "within 10 s" in both(diagnosis.silent(5432, 10.0))
    assert "PostgreSQL 17" in both(diagnosis.handshake("WRONG_VERSION_NUMBER", direct=True))


# --- login ------------------------------------------------------------------------------------------------------------

OWN = "the upstream refused SideCart's own login (SQLSTATE {}) (the server says: {})"


def login(code: str, said: str, *, upstream: Upstream = UPSTREAM, password: str = "", encrypted: bool = True) -> str:
    return both(diagnosis.login("08006", OWN.format(code, said), upstream, password, encrypted=encrypted))


def test_login_without_tls_where_the_server_wants_it() -> None:
    said = 'no pg_hba.conf entry for host "10.0.0.9", user "reader", database "app", no encryption'
    told = login("28000", said, upstream=replace(UPSTREAM, sslmode="disable"), encrypted=False)
    assert "without TLS" in told
    assert "DB_SSLMODE=verify-full" in told


def test_login_that_pg_hba_conf_has_no_line_for() -> None:
    said = 'no pg_hba.conf entry for host "10.0.0.9", user "reader", database "app", SSL on'
    assert "hostssl app reader ADDRESS/32 scram-sha-256" in login("28000", said)


def test_wrong_password_names_what_is_odd_about_it() -> None:
    said = 'password authentication failed for user "reader"'
    told = login("28P01", said, password="Zq7%2Fxw\n")
    assert "looks percent-encoded" in told
    assert "ends with a line break" in told
    assert "rotated" in told
    assert "Zq7" not in told


@pytest.mark.parametrize(
    ("code", "said", "fix"),
    [
        ("28000", 'PAM authentication failed for user "reader"', "GRANT rds_iam TO reader"),
        ("28000", 'role "reader" is not permitted to log in', "ALTER ROLE reader LOGIN"),
        ("28000", 'pg_hba.conf rejects connection for host "10.0.0.9"', "pg_hba.conf"),
        ("42501", 'permission denied for database "app"', "GRANT CONNECT ON DATABASE app TO reader"),
        ("53300", "sorry, too many clients already", "max_connections"),
        ("57P03", "the database system is starting up", "Wait"),
        ("08P01", "unsupported startup parameter: default_transaction_read_only", "ignore_startup_parameters"),
    ],
)
def test_other_refusals(code: str, said: str, fix: str) -> None:
    assert fix in login(code, said)


@pytest.mark.parametrize("advice", [LOST, UNSUPPORTED])
def test_what_the_log_advises_is_not_said_twice(advice: str) -> None:
    text = f"the upstream did not keep x as sent, or has refused a startup parameter; {advice}"
    assert both(diagnosis.login("08006", text, UPSTREAM, "", encrypted=True)).count("ALTER ROLE") == 1


def test_database_that_does_not_exist() -> None:
    told = both(diagnosis.login("3D000", 'database "app" does not exist', UPSTREAM, "", encrypted=True))
    assert "DB_NAME" in told


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("The upstream asks for a password and none is configured.", "DB_READONLY_PASSWORD"),
        ("The upstream asks for the password in cleartext, which is not allowed here", "scram-sha-256"),
        (f"the upstream did not keep client_encoding as sent: a pooler drops it; {LOST}", "ALTER ROLE"),
        ("the upstream did not answer within 10 s", "DB_CONNECT_TIMEOUT"),
        ("something that nobody has thought of", "log of the server at db.example.com"),
    ],
)
def test_logins_that_end_without_the_servers_word(text: str, fix: str) -> None:
    assert fix in both(diagnosis.login("08006", text, UPSTREAM, "", encrypted=True))


def test_name_that_needs_quotes_gets_them() -> None:
    upstream = replace(UPSTREAM, user='Read "only"')
    assert 'ALTER ROLE "Read ""only""" LOGIN' in login("28000", "is not permitted to log in", upstream=upstream)


# --- version, role, SideCart ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text", "fine"),
    [
        (90624, "9.6.24", False),
        (120022, "12.22", False),
        (130000, "13.0", True),
        (180004, "18.4", True),
        (190000, "19beta1", True),
    ],
)
def test_versions(number: int, text: str, fine: bool) -> None:
    advice = diagnosis.version(number, text)
    assert (advice is None) is fine
    if advice is not None:
        assert f"PostgreSQL {text} is older than 13" in both(advice)
    assert bool(diagnosis.version_notes(number)) is (number >= 190000)


def test_role_that_can_write_is_told_with_what_it_can_write() -> None:
    told = both(diagnosis.writes("owner", ["TABLE a", "TABLE b", "TABLE c", "TABLE d", "TABLE e"], "It owns them."))
    assert "TABLE a, TABLE b, TABLE c and 2 more. It owns them." in told


def test_client_that_sidecart_does_not_serve() -> None:
    assert "PGPASSWORD" in both(diagnosis.not_served("The upstream asks for a password and none is configured.", "x"))
    refusal = "the upstream refused SideCart's own login (SQLSTATE 28P01)"
    assert "does not let this client in" in both(diagnosis.not_served(refusal, "127.0.0.1 port 6432"))
    assert "SELECT 1: It did not answer" in both(diagnosis.not_served("the upstream did not answer within 2 s", "x"))


def test_foreign_text_is_bounded_and_printable() -> None:
    told = login("57P03", "\x1b[2J" + "x" * 9000)
    assert "\x1b" not in told
    assert len(told) < 1000


# --- docs/preflight.md ------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[3]
SOURCES = ("databases/diagnosis.py", "pooling/guard.py", "config/values.py", "preflight/pieces.py")


def test_page_tells_of_what_is_really_said() -> None:
    """Each text that the table quotes is one of the texts of the code; an ellipsis stands for what varies."""
    said = ""
    for name in SOURCES:
        for node in ast.walk(ast.parse((ROOT / "proxy" / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said += "".join(str(each.value) if isinstance(each, ast.Constant) else "\0" for each in node.values)
            elif isinstance(node, ast.Constant):
                said += f"\n{node.value}"
    page = (ROOT / "docs" / "preflight.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.partition("## What each failure means")[2].splitlines()]
    quoted = [text for row in rows if len(row) > 2 for text in re.findall(r"`([^`]+)`", row[1])]
    assert len(quoted) > 30
    for text in quoted:
        for part in filter(None, (part.strip(" ,") for part in text.split("…"))):
            assert part in said, text

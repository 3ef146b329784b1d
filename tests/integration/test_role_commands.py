"""`sidecart role`, `sidecart doctor` and `upstream.require_readonly_role` as a person meets them."""

from __future__ import annotations

import json
import os
import time
import urllib.error
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.config.schema import Upstream
from proxy.databases.roles import AGAIN
from proxy.demo.embedded import EmbeddedServer
from tests.integration.clinic import APPLICATION, DATABASE, OWNER, READER, Clinic, clinic
from tests.running import SideCart, free_port, wait_until

DEFINER = (
    "CREATE FUNCTION public.forget() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS"
    " $$ BEGIN DELETE FROM public.patients; RETURN 1; END $$"
)


@pytest.fixture(scope="module")
def place(postgres: EmbeddedServer) -> Iterator[Clinic]:
    with clinic(postgres, f"{DEFINER};") as made:
        made.apply()
        yield made


def variables(upstream: Upstream, prefix: str) -> dict[str, str]:
    return {
        "DB_HOST": upstream.host,
        "DB_PORT": str(upstream.port),
        "DB_NAME": upstream.dbname,
        "DB_SSLROOTCERT": upstream.sslrootcert,
        f"DB_{prefix}_USERNAME": upstream.user,
        f"DB_{prefix}_PASSWORD": upstream.password,
    }


def sidecart(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Run a verb in this process; none of its output may hold a password."""
    unset = {name: None for name in os.environ if name.startswith(("DB_", "SIDECART_", "PG"))}
    done = CliRunner(env=unset | environ).invoke(main, arguments)
    for name, value in environ.items():
        assert not (name.endswith("PASSWORD") and value and value in done.output)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def doctor(place: Clinic, *arguments: str, **environ: str) -> tuple[int, str, str]:
    return sidecart("doctor", *arguments, **{**variables(place.reader, "READONLY"), **environ})


def role(place: Clinic, *arguments: str, **environ: str) -> tuple[int, str, str]:
    login = {**variables(place.owner, "ADMIN"), "DB_READONLY_USERNAME": READER, **environ}
    return sidecart("role", *arguments, **login)


def kinds(answer: dict[str, Any]) -> dict[str, str]:
    return {found["kind"]: found["severity"] for found in answer["findings"]}


def test_doctor_and_role_from_holes_to_health(place: Clinic) -> None:
    code, out, err = doctor(place)
    assert (code, err) == (3, "")
    assert f"The role {READER} in the database {DATABASE} on localhost port {place.server.port}\n" in out
    assert "\ncritical  security-definer        FUNCTION public.forget()\n" in out
    assert f"            GRANT EXECUTE ON FUNCTION public.forget() TO {APPLICATION}" in out
    assert "\nwarning   temporary               DATABASE clinic\n" in out

    code, out, err = doctor(place, "--json")
    (answer,) = json.loads(out)
    assert (code, err, answer["worst"]) == (3, "", "critical")
    assert (answer["role"], answer["dbname"], answer["tls"], answer["reachable"]) == (READER, DATABASE, "TLSv1.3", True)
    assert kinds(answer) == {
        "reachable": "ok",
        "tls": "ok",
        "security-definer": "critical",
        "temporary": "warning",
        "primary": "info",
    }

    # What the operator calls a read is one here, too.
    code, _, _ = doctor(place, SIDECART_FILTER_ALLOW_FUNCTIONS="public.forget")
    assert code == 1

    code, out, err = role(place, "--revoke-public")
    assert (code, err) == (0, "")
    assert out.startswith(f"-- To be done in database {DATABASE} for the role {READER}:\nGRANT TEMPORARY ON DATABASE")
    assert doctor(place)[0] == 3

    code, out, err = role(place, "--apply")
    assert (code, err) == (1, "")
    assert out.endswith(
        "-- critical: FUNCTION public.forget() (security-definer)\n-- warning: DATABASE clinic (temporary)\n"
    )

    dsn = place.server.dsn(DATABASE, OWNER, place.owner_password)
    code, out, err = sidecart("role", "--apply", "--revoke-public", "--admin-dsn", dsn, DB_READONLY_USERNAME=READER)
    assert (code, err) == (0, "")
    assert "REVOKE EXECUTE ON FUNCTION public.forget() FROM PUBLIC;\n" in out
    assert out.endswith("-- Nothing is left: this role reads, and does nothing else.\n")

    code, out, err = doctor(place)
    assert (code, err) == (0, "")
    assert out.endswith("This role reads, and does nothing else. 1 info.\n")
    place.sql("GRANT EXECUTE ON FUNCTION public.forget() TO PUBLIC; GRANT TEMPORARY ON DATABASE clinic TO PUBLIC")


def test_role_is_made_with_its_password(place: Clinic) -> None:
    given = {"DB_READONLY_USERNAME": "clinic_second", "DB_READONLY_PASSWORD": "a long random password"}
    code, out, _ = role(place, "--apply", **given)
    assert (code, "CREATE ROLE clinic_second " in out) == (1, True)  # there is the definer
    dsn = place.server.dsn(DATABASE, "clinic_second", "a long random password")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM patients").fetchone() == (0,)


def test_owner_without_createrole_is_told_what_is_missing(place: Clinic) -> None:
    place.sql(f"ALTER ROLE {OWNER} NOCREATEROLE")
    try:
        code, out, err = role(place, "--apply", DB_READONLY_USERNAME="clinic_third")
    finally:
        place.sql(f"ALTER ROLE {OWNER} CREATEROLE")
    assert (code, out) == (1, "")
    assert err == (
        f'sidecart: The role "{OWNER}" has no CREATEROLE, so it cannot make "clinic_third": run this as one that has'
        " it, such as the master user of Amazon RDS (SQLSTATE 42501).\n"
    )


def test_configuration_is_looked_at_before_the_role_is_made(place: Clinic) -> None:
    two_passwords = {"SIDECART_UPSTREAM_PASSWORD_COMMAND": "cat it", "SIDECART_UPSTREAM_PASSWORD_FILE": "it"}
    code, out, err = role(place, "--apply", DB_READONLY_USERNAME="clinic_third", **two_passwords)
    assert (code, out) == (2, "")
    assert "password_file" in err and "password_command" in err
    assert place.sql("SELECT count(*) FROM pg_roles WHERE rolname = 'clinic_third'").strip() == "0"


def test_what_cannot_be_reached_is_one_sentence(place: Clinic) -> None:
    port = str(free_port())
    code, out, err = doctor(place, DB_PORT=port)
    assert (code, out) == (4, "")
    assert err.startswith(f"sidecart: clinic on localhost port {port} could not be asked: the upstream localhost port")
    assert err.count("\n") == 1
    code, out, err = doctor(place, "--json", DB_READONLY_PASSWORD="wrong one")
    (answer,) = json.loads(out)
    assert (code, err, answer["reachable"]) == (4, "", False)
    refused = (
        "the upstream refused SideCart's own login (SQLSTATE 28P01): the server says: password authentication failed"
    )
    assert answer["why"].startswith(refused)
    code, out, err = role(place, "--apply", DB_ADMIN_PASSWORD="wrong one")
    assert (code, out) == (1, "")
    assert err.startswith(f"sidecart: clinic on localhost port {place.server.port}: {refused}")
    assert err.count("\n") == 1
    code, _, err = doctor(place, DB_SSLROOTCERT="/nothing/there.pem")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = role(place, "--apply", DB_READONLY_USERNAME=OWNER)
    assert (code, err) == (
        1,
        f'sidecart: The role "{OWNER}" runs this script: name another one as the read-only role (SQLSTATE P0001).\n',
    )


def test_all_databases_of_the_configuration_are_examined(place: Clinic) -> None:
    databases = "{second: {dbname: clinic}, gone: {dbname: nowhere}}"
    code, out, err = doctor(place, "--json", SIDECART_DATABASES=databases)
    answers = {answer["database"]: answer for answer in json.loads(out)}
    assert (code, err, list(answers)) == (4, "", [DATABASE, "second", "gone"])
    assert answers["second"]["worst"] == "critical"
    assert answers["gone"]["why"].startswith('database "nowhere" does not exist')


# --- the server -------------------------------------------------------------------------------------------------------


def ready(running: SideCart) -> tuple[int, dict[str, Any]]:
    try:
        return 200, json.loads(running.get("/readyz"))
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_warn_serves_everybody_and_says_what_was_found(place: Clinic) -> None:
    with SideCart(place.reader) as running:
        with psycopg.connect(running.dsn) as connection:
            assert connection.execute("SELECT count(*) FROM patients").fetchone() == (0,)
        sample = f'sidecart_role_findings{{database="{DATABASE}",severity="critical"}}'
        wait_until(lambda: running.metric(sample) == 1.0, 20, "the role to be looked at")
        code, body = ready(running)
        assert (code, body["failing"]) == (200, {})
        assert body["roles"] == {
            DATABASE: {"critical": 1, "warning": 1, "info": 1, "kinds": ["security-definer", "temporary"]}
        }
        lines = [json.loads(line) for line in running.log.splitlines() if '"role ' in line]
        assert [(line["event"], line.get("kind")) for line in lines] == [
            ("role finding", "primary"),
            ("role finding", "security-definer"),
            ("role finding", "temporary"),
            ("role checked", None),
        ]
        assert running.stop() == 0


def test_refuse_serves_nobody_until_the_role_is_mended(place: Clinic) -> None:
    with SideCart(place.reader, SIDECART_UPSTREAM_REQUIRE_READONLY_ROLE="refuse") as running:
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(running.dsn)
        text = str(caught.value)
        assert f'FATAL:  database "{DATABASE}" is not served: SideCart\'s role there can do more than read' in text
        assert "DETAIL:  Critical findings: security-definer (upstream.require_readonly_role is refuse)." in text
        assert "HINT:  Ask the operator to run `sidecart doctor`" in text
        code, body = ready(running)
        assert code == 503
        assert "can do more than read" in body["failing"][DATABASE]
        assert body["roles"][DATABASE]["critical"] == 1

        place.sql("REVOKE EXECUTE ON FUNCTION public.forget() FROM PUBLIC")
        try:
            wait_until(lambda: _served(running), AGAIN + 20, "the mended role to be served")
            assert ready(running)[0] == 200
        finally:
            place.sql("GRANT EXECUTE ON FUNCTION public.forget() TO PUBLIC")
        assert running.stop() == 0


class Hasty(SideCart):
    """Look at the role every second."""

    program = ("-c", "from proxy import cli; from proxy.databases import roles; roles.INTERVAL = 1.0; cli.main()")


def test_role_that_goes_bad_is_refused_to_those_who_are_there(place: Clinic) -> None:
    place.sql("REVOKE EXECUTE ON FUNCTION public.forget() FROM PUBLIC")
    keys = {"SIDECART_UPSTREAM_REQUIRE_READONLY_ROLE": "refuse", "SIDECART_FILTER_CATALOG_REFRESH": "1s"}
    with Hasty(place.reader, **keys) as running:
        with psycopg.connect(running.dsn) as busy, psycopg.connect(running.dsn, autocommit=True) as resting:
            busy.execute("SELECT count(*) FROM patients")  # and its transaction goes on
            resting.execute("SELECT 1")
            place.sql(f"GRANT INSERT ON public.patients TO {READER}")
            wait_until(lambda: ready(running)[0] == 503, 20, "the role to be refused")
            with pytest.raises(psycopg.OperationalError):
                busy.execute("SELECT count(*) FROM patients")
            with pytest.raises(psycopg.OperationalError, match="can do more than read"):
                resting.execute("SELECT 1")
            with pytest.raises(psycopg.OperationalError, match=r"FATAL:  database .* can do more than read"):
                psycopg.connect(running.dsn)
        place.sql(f"REVOKE INSERT ON public.patients FROM {READER}")
        wait_until(lambda: _served(running), AGAIN + 20, "the mended role to be served")
        assert running.metric('sidecart_upstream_closes_total{reason="role_refused"}') >= 1
        place.sql("GRANT EXECUTE ON FUNCTION public.forget() TO PUBLIC")
        assert running.stop() == 0
        assert '"bug"' not in running.log


def _served(running: SideCart) -> bool:
    try:
        with psycopg.connect(running.dsn) as connection:
            return connection.execute("SELECT count(*) FROM patients").fetchone() == (0,)
    except psycopg.OperationalError:
        time.sleep(0.5)
        return False

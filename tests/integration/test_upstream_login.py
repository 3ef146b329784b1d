"""How SideCart reaches its upstream: password methods and sslmodes, against servers set up for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from proxy import protocol as p
from proxy.commands.embedded import EmbeddedServer
from proxy.config import Upstream
from tests.running import SideCart
from tests.wire import Wire

ROLE = "reader"
PASSWORD = "the-password-of-this-test"


@pytest.fixture(scope="module", params=["md5", "scram-sha-256"])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Run a server whose verifiers and whose pg_hba.conf ask for one method, with TLS and without."""
    method: str = request.param
    with EmbeddedServer(
        auth=method, plaintext=True, settings={"password_encryption": method, "listen_addresses": "127.0.0.1,127.0.0.2"}
    ) as server:
        server.sql(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        verifier = server.sql(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{ROLE}'")
        assert verifier.lower().startswith(method[:5])
        yield server


def upstream(server: EmbeddedServer, **changes: str) -> Upstream:
    reached = Upstream(
        host=server.host,
        port=server.port,
        dbname="postgres",
        user=ROLE,
        password=PASSWORD,
        sslrootcert=str(server.ca_file),
        require_auth=("scram-sha-256", "md5"),
    )
    return replace(reached, **changes)


@pytest.mark.parametrize("sslmode", ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"])
def test_login_by_each_method_under_each_sslmode(server: EmbeddedServer, sslmode: str) -> None:
    with SideCart(upstream(server, sslmode=sslmode)) as own:
        with psycopg.connect(own.dsn) as client:
            (encrypted,) = client.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() or ()
        assert encrypted is (sslmode not in ("disable", "allow"))
        assert PASSWORD not in own.log


def refused(server: EmbeddedServer, **changes: str) -> tuple[str, str]:
    """Return the error of a client and the log, where the upstream is configured so."""
    with (
        SideCart(upstream(server, **changes), SIDECART_POOL_QUERY_WAIT_TIMEOUT="1s") as own,
        Wire(own.port, "postgres", login=False) as client,
    ):
        client.send(p.startup_message({"user": "a", "database": "postgres"}))
        assert client.until_ready() == "E"
        own.stop()  # a log has a thread of its own: now it is whole
        return client.error["C"], own.log


def test_wrong_password_is_our_trouble_and_not_the_clients(server: EmbeddedServer) -> None:
    sqlstate, log = refused(server, password="wrong")
    assert sqlstate == "08006"
    assert "28P01" in log
    assert PASSWORD not in log


def test_certificate_for_another_name_fails_verify_full_alone(server: EmbeddedServer) -> None:
    sqlstate, log = refused(server, host="127.0.0.2")
    assert sqlstate == "08006"
    assert "certificate" in log
    with (
        SideCart(upstream(server, host="127.0.0.2", sslmode="verify-ca")) as own,
        Wire(own.port, "postgres") as client,
    ):
        assert client.ask("SELECT 1") == "TDCZ"


def test_certificate_of_an_unknown_ca_is_refused(server: EmbeddedServer) -> None:
    sqlstate, log = refused(server, sslrootcert="")
    assert sqlstate == "08006"
    assert "certificate" in log

"""How SideCart reaches its upstream: password methods and sslmodes, against servers set up for each."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
import trustme

from proxy import protocol as p
from proxy.auth.scram import make_verifier
from proxy.config.schema import PoolLimits, Upstream
from proxy.databases.aws import Aws
from proxy.databases.connector import Connector
from proxy.databases.credentials import Credentials
from proxy.demo.embedded import EmbeddedServer
from proxy.errors import CloseReason, UpstreamError
from proxy.pooling.pool import Pool
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.tls import contexts
from tests.running import SideCart
from tests.servers import EVERY, running
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


def upstream(server: EmbeddedServer, **changes: Any) -> Upstream:
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


# --- every method on every version ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matrix:
    """A server on which each method has a role of its own."""

    server: EmbeddedServer
    major: int
    certificate: str
    key: str

    def log_in(self, role: str, *, service: object = None, **changes: Any) -> str:
        """Log in as that role; return the method that the upstream asked for, or the error."""
        config = replace(upstream(self.server), **{"user": role, "require_auth": ("scram-sha-256", "none")} | changes)

        async def work() -> str:
            tasks, stats = Tasks(), Stats()
            now = asyncio.get_running_loop().time
            made = contexts.upstream_context(config.sslmode, config.sslrootcert, b"", config.sslcert, config.sslkey)
            own = Credentials(config, stats, tasks, now, {}, service)  # type: ignore[arg-type]
            connector = Connector(config, made, stats, Quiet(), tasks, 5.0, credentials=own)
            try:
                reached = await connector._reach(Pool("postgres", PoolLimits(), connector, stats, lambda: 1.0))
            except UpstreamError as error:
                return error.for_operator
            finally:
                await tasks.stop()
            method = reached.backend.auth
            reached.close(CloseReason.DRAIN)
            await asyncio.sleep(0.01)
            return method

        return asyncio.run(work())


class Quiet:
    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None: ...


@pytest.fixture(scope="module", params=EVERY)
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    """Run a server whose pg_hba.conf has a method for each role."""
    with EmbeddedServer() if request.param == "default" else running(request.param) as server:
        ca = trustme.CA()
        own = tmp_path_factory.mktemp("role")
        made = ca.issue_cert(common_name="of_cert")
        certificate, key = own / "reader.pem", own / "reader.key"
        certificate.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        key.chmod(0o600)
        roots = server.folder / "clients.pem"
        roots.write_bytes(ca.cert_pem.bytes())
        roots.chmod(0o644)
        server.sql(f"ALTER SYSTEM SET ssl_ca_file = '{roots}'")
        for method in ("scram-sha-256", "md5"):
            server.sql(f"SET password_encryption = '{method}'; CREATE ROLE \"of_{method}\" LOGIN PASSWORD '{PASSWORD}'")
        server.sql(f"CREATE ROLE of_password LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE of_cert LOGIN")
        server.sql(
            f"CREATE ROLE of_trust LOGIN; CREATE ROLE expired LOGIN PASSWORD '{PASSWORD}' VALID UNTIL '2001-01-01'"
        )
        lines = [
            f'hostssl all "of_{m}" 127.0.0.1/32 {m}' for m in ("password", "md5", "scram-sha-256", "cert", "trust")
        ]
        lines += ["hostssl all expired 127.0.0.1/32 scram-sha-256", "local all all scram-sha-256"]
        (server.folder / "data/pg_hba.conf").write_text("\n".join(lines) + "\n")
        server.halt(signal.SIGINT)
        server.start()
        yield Matrix(server, int(server.version.split(".")[0]), str(certificate), str(key))


def test_scram_binds_itself_to_the_certificate(matrix: Matrix) -> None:
    assert matrix.log_in("of_scram-sha-256") == "scram-sha-256-plus"
    assert matrix.log_in("of_scram-sha-256", channel_binding="require") == "scram-sha-256-plus"
    assert matrix.log_in("of_scram-sha-256", channel_binding="disable") == "scram-sha-256"


@pytest.mark.parametrize(
    ("password", "iterations", "salt"),
    [
        (PASSWORD, 1, b"s"),
        (PASSWORD, 4095, b"12345678"),
        (PASSWORD, 100_000, bytes(64)),
        ("no\x01SASLprep", 4096, bytes(16)),
    ],
)
def test_what_libpq_accepts_of_a_servers_scram(matrix: Matrix, password: str, iterations: int, salt: bytes) -> None:
    """A low scram_iterations, a short salt, a password that SASLprep prohibits: each was refused here alone."""
    matrix.server.sql(f"ALTER ROLE \"of_scram-sha-256\" PASSWORD '{make_verifier(password, iterations, salt).text}'")
    try:
        to = {"host": "127.0.0.1", "port": matrix.server.port, "dbname": "postgres", "sslmode": "require"}
        psycopg.connect(**to, user="of_scram-sha-256", password=password).close()  # type: ignore[arg-type]
        assert matrix.log_in("of_scram-sha-256", password=password) == "scram-sha-256-plus"
        assert "SQLSTATE 28P01" in matrix.log_in("of_scram-sha-256", password="wrong")
    finally:
        matrix.server.sql(
            f"SET password_encryption='scram-sha-256'; ALTER ROLE \"of_scram-sha-256\" PASSWORD '{PASSWORD}'"
        )


@pytest.mark.parametrize("method", ["md5", "password"])
def test_weaker_methods_have_to_be_named(method: str, matrix: Matrix) -> None:
    assert "upstream.require_auth names" in matrix.log_in(f"of_{method}")
    assert matrix.log_in(f"of_{method}", require_auth=(method,)) == method
    assert "channel_binding requires" in matrix.log_in(
        f"of_{method}", require_auth=(method,), channel_binding="require"
    )


def test_password_in_the_clear_needs_a_verified_certificate(matrix: Matrix) -> None:
    assert matrix.log_in("of_password", require_auth=("password",), sslmode="verify-ca") == "password"
    weak = matrix.log_in("of_password", require_auth=("password",), sslmode="require", sslrootcert="")
    assert "TLS whose certificate is not verified" in weak


def test_certificate_of_the_role(matrix: Matrix) -> None:
    own = {"sslcert": matrix.certificate, "sslkey": matrix.key}
    assert matrix.log_in("of_cert", **own) == "none"
    assert "SQLSTATE 28000" in matrix.log_in("of_cert")
    assert "without asking for anything" in matrix.log_in("of_cert", require_auth=("scram-sha-256",), **own)
    assert matrix.log_in("of_scram-sha-256", **own) == "scram-sha-256-plus"


def test_server_that_asks_for_nothing(matrix: Matrix) -> None:
    assert matrix.log_in("of_trust") == "none"
    assert "without asking for anything" in matrix.log_in("of_trust", require_auth=("scram-sha-256",))


def test_expired_password_is_refused_and_named(matrix: Matrix) -> None:
    """CVE-2025-2291 of PgBouncer was an expired password that was accepted."""
    refused = matrix.log_in("expired")
    assert "SQLSTATE 28P01" in refused
    assert "it has expired (VALID UNTIL)" in refused


def test_direct_tls(matrix: Matrix) -> None:
    outcome = matrix.log_in("of_scram-sha-256", sslnegotiation="direct", channel_binding="require")
    if matrix.major >= 17:
        assert outcome == "scram-sha-256-plus"
    else:
        assert outcome.endswith("sslnegotiation direct needs PostgreSQL 17 or later")


def test_token_of_iam_is_a_password(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    """RDS asks for it in the clear, over TLS; here the role's password is a token that was really made."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t" * 600)
    config = replace(upstream(matrix.server), user="of_password", aws_region="eu-central-1", aws_iam=True, password="")
    token = Aws(config, {}).token()
    assert len(token) > 800

    class Mint:
        def token(self) -> str:
            return token

    matrix.server.sql(f"ALTER ROLE of_password PASSWORD '{token}'")
    try:
        own = {"aws_iam": True, "aws_region": "eu-central-1", "password": ""}
        assert matrix.log_in("of_password", service=Mint(), **own) == "password"
        refused = matrix.log_in("of_password", service=Mint(), sslmode="require", sslrootcert="", **own)
        assert "TLS whose certificate is not verified" in refused
        # A token is for the method password alone, whatever require_auth says.
        assert "names password alone" in matrix.log_in("of_scram-sha-256", service=Mint(), **own)
    finally:
        matrix.server.sql(f"ALTER ROLE of_password PASSWORD '{PASSWORD}'")

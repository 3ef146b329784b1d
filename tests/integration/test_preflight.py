"""`sidecart preflight` in broken set-ups, each made for real: it names the piece, the cause and the fix."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from cryptography import x509
from moto import mock_aws

from proxy.auth.scram import make_verifier
from proxy.commands import preflight
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.private_ca import ServerCertificate, server_certificate
from proxy.tls.contexts import self_signed
from tests import servers
from tests.integration.clinic import Clinic, clinic
from tests.relay import Relay
from tests.running import SideCart, free_port, wait_until

PIECES = ["configuration", "secret", "iam-token", "dns", "route", "tls", "login", "pooler", "version", "role"]
OWN = ["sidecart", "metrics"]
EARLIER = {"secret": PIECES[2:6], "iam-token": PIECES[3:6]}
"""Pieces behind one that do not need it."""
OURS = ("DB_", "SIDECART_", "PG")
SPECIAL = "p@ss/w:rd?#[%2F] 'quoted\""
NAMES: dict[str, Any] = {"hosts": ("localhost",), "addresses": ("127.0.0.1",)}


class Deployment:
    """A clinic's database, and the environment of a SideCart before it that is not there yet."""

    def __init__(self, made: Clinic) -> None:
        self.clinic = made
        self.server = made.server
        reader = made.reader
        self.environment = {
            "DB_HOST": reader.host,
            "DB_PORT": str(reader.port),
            "DB_NAME": reader.dbname,
            "DB_READONLY_USERNAME": reader.user,
            "DB_READONLY_PASSWORD": reader.password,
            "DB_SSLROOTCERT": reader.sslrootcert,
            "DB_CONNECT_TIMEOUT": "5s",
            "SIDECART_LISTEN_PORT": str(free_port()),
            "SIDECART_METRICS_PORT": str(free_port()),
        }

    def look(self, *options: str, **changes: str | None) -> Outcome:
        """Run the command in this process; every piece is told of, once, and nothing else is printed."""
        others = (name for name in os.environ if name.startswith(OURS))
        environment = {**dict.fromkeys(others), **self.environment, **changes}
        done = CliRunner().invoke(preflight.command, ["--json", *options], env=environment)
        assert done.stderr == ""
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return Outcome(json.loads(done.stdout), done.exit_code, done.stdout)


class Outcome:
    """What was said of each piece."""

    def __init__(self, results: list[dict[str, Any]], code: int, text: str) -> None:
        assert [result["piece"] for result in results] == PIECES + OWN
        self.results = {result["piece"]: result for result in results}
        self.code = code
        self.text = text

    def states(self, *pieces: str) -> list[str]:
        return [self.results[piece]["state"] for piece in pieces]

    def fails(self, piece: str, *says: str) -> None:
        """Assert that this piece alone has failed, that those behind it say so, and what is said of it."""
        failed = [name for name, result in self.results.items() if result["state"] == "failed"]
        assert failed == [piece], self.text
        assert self.code == 1
        for word in says:
            assert word in f"{self.results[piece]['says']} {self.results[piece]['fix']}", self.text
        behind = PIECES[PIECES.index(piece) + 1 :]
        for name in behind:
            if name not in EARLIER.get(piece, ()):
                assert (self.results[name]["state"], self.results[name]["says"]) == ("skipped", f"{piece} failed")
        assert self.not_deployed

    @property
    def not_deployed(self) -> bool:
        return all(self.results[piece]["says"].startswith("not deployed yet") for piece in OWN)


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployment]:
    with EmbeddedServer() as server, clinic(server) as made:
        made.apply(revoke_public=True)
        yield Deployment(made)


@contextmanager
def restarted(server: EmbeddedServer, change: Callable[[], object], back: Callable[[], object]) -> Iterator[None]:
    """Change the server, which takes it with a restart, and change it back at the end."""
    change()
    restart(server)
    try:
        yield
    finally:
        back()
        restart(server)


def restart(server: EmbeddedServer) -> None:
    # Not at once: with synchronous_commit = off the role's password may not be on the disk yet.
    server.halt(signal.SIGINT)
    server.start()


@contextmanager
def showing(server: EmbeddedServer, certificate: ServerCertificate) -> Iterator[None]:
    """Let the server have another certificate for a while; `ca_file` is of the CA that comes with it."""
    with restarted(server, lambda: server.show(certificate), lambda: server.show(server_certificate(**NAMES))):
        yield


# --- nothing is broken ------------------------------------------------------------------------------------------------


def test_everything_is_right_before_the_deployment(deployed: Deployment) -> None:
    found = deployed.look()
    assert found.code == 0, found.text
    assert found.states(*PIECES) == ["ok", "ok", "skipped", "ok", "ok", "ok", "ok", "ok", "ok", "ok"]
    assert found.not_deployed
    assert "verified" in found.results["tls"]["says"]
    assert found.results["role"]["says"] == f"{deployed.clinic.reader.user} can write nothing"


def test_everything_is_right_behind_the_deployment(deployed: Deployment) -> None:
    with SideCart(deployed.clinic.reader) as own:
        ports = {"SIDECART_LISTEN_PORT": str(own.port), "SIDECART_METRICS_PORT": str(own.metrics_port)}
        found = deployed.look(**ports)
        assert found.code == 0, found.text
        assert found.states(*OWN) == ["ok", "ok"]
        # As a user runs it.
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "preflight"],
            env={key: value for key, value in os.environ.items() if not key.startswith(OURS)}
            | deployed.environment
            | ports,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        own.stop()
        assert '"event":"bug"' not in own.log.replace(" ", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^(?:ok|skipped) +(\S+) ", done.stdout, re.MULTILINE) == PIECES + OWN
    assert done.stdout.endswith("\nNothing failed.\n")


def test_sidecart_whose_upstream_is_gone(deployed: Deployment) -> None:
    with SideCart(deployed.clinic.reader) as own:
        ports = {"SIDECART_LISTEN_PORT": str(own.port), "SIDECART_METRICS_PORT": str(own.metrics_port)}
        deployed.server.halt(signal.SIGINT)
        try:
            found = deployed.look(**ports, DB_CONNECT_TIMEOUT="1s")
        finally:
            deployed.server.start()
    assert found.code == 1
    assert found.states("route", *OWN) == ["failed", "failed", "failed"]
    assert "See the pieces above" in found.results["sidecart"]["fix"]
    assert "/readyz" in found.results["metrics"]["says"]


def test_sidecart_that_asks_its_clients_for_a_password(deployed: Deployment) -> None:
    reader = deployed.clinic.reader
    users = json.dumps({"alice": make_verifier("the-password-of-alice").text})
    rules = "[{from: loopback, method: scram-sha-256}]"
    with SideCart(reader, SIDECART_AUTH_RULES=rules, SIDECART_AUTH_USERS=users) as own:
        ports = {"SIDECART_LISTEN_PORT": str(own.port), "SIDECART_METRICS_PORT": str(own.metrics_port)}
        wait_until(own.get_ready, 30, "the catalogue")
        found = deployed.look(**ports)
        assert found.states(*OWN) == ["failed", "ok"]
        assert "asks its clients for a password" in found.results["sidecart"]["says"]
        assert "--user" in found.results["sidecart"]["fix"]
        found = deployed.look("--user", "alice", **ports, PGPASSWORD="wrong")
        assert "does not let this client in" in found.results["sidecart"]["says"]
        assert deployed.look("--user", "alice", **ports, PGPASSWORD="the-password-of-alice").code == 0


def test_metrics_of_another_program(deployed: Deployment) -> None:
    with SideCart(deployed.clinic.reader) as own, answering(b"HTTP/1.0 200 OK\r\n\r\nhello") as port:
        found = deployed.look(SIDECART_LISTEN_PORT=str(own.port), SIDECART_METRICS_PORT=str(port))
    assert found.states(*OWN) == ["ok", "failed"]
    assert "none of SideCart's" in found.results["metrics"]["says"]


# --- twelve broken set-ups, and some more -----------------------------------------------------------------------------


def test_wrong_port(deployed: Deployment) -> None:
    deployed.look(DB_PORT=str(free_port())).fails("route", "refuses the connection", "Correct DB_PORT")


def test_closed_port_behind_a_firewall_that_drops(deployed: Deployment) -> None:
    with socket.socket() as listener, socket.socket() as filling:
        # The system drops what comes to a listener with a full backlog, as a security group does.
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filling.connect(listener.getsockname())
        found = deployed.look(DB_PORT=str(listener.getsockname()[1]), DB_CONNECT_TIMEOUT="300ms")
    found.fails("route", "does not answer within 0.3 s", "packets are dropped", "security group")


def test_port_that_takes_connections_and_never_answers(deployed: Deployment) -> None:
    with Relay(deployed.server.port) as relay:
        relay.silence(True)
        found = deployed.look(DB_PORT=str(relay.port), DB_CONNECT_TIMEOUT="300ms")
    found.fails("tls", "no answer comes within 0.3 s")


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Run a server of another kind: it says this to whoever sends something, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(4096)
                    client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "is no PostgreSQL server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "DB_PORT"),  # the S of it looks like a yes
        (b"", "closes the connection"),
    ],
)
def test_port_of_another_kind_of_server(deployed: Deployment, answer: bytes, says: str) -> None:
    with answering(answer) as port:
        deployed.look(DB_PORT=str(port)).fails("tls", says)


def test_server_without_tls(deployed: Deployment) -> None:
    server = deployed.server
    own = server.folder / "data" / "postgresql.auto.conf"
    with restarted(server, lambda: server.sql("ALTER SYSTEM SET ssl = off"), lambda: own.write_text("")):
        found = deployed.look()
    found.fails("tls", "does not speak TLS", "ssl = on")


def test_tls_off_where_the_server_wants_it(deployed: Deployment) -> None:
    found = deployed.look(DB_SSLMODE="disable", DB_SSLROOTCERT=None)
    assert found.results["tls"]["says"].startswith("turned off")
    found.fails("login", "without TLS", "DB_SSLMODE=verify-full")


def test_wrong_ca(deployed: Deployment, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(server_certificate(ca_name="Another CA").ca)
    found = deployed.look(DB_SSLROOTCERT=str(tmp_path / "other.pem"))
    found.fails("tls", "signed by SideCart embedded PostgreSQL CA", "not in", "DB_SSLROOTCERT")


def test_certificate_of_another_region(deployed: Deployment, tmp_path: Path) -> None:
    (tmp_path / "us-east-1.pem").write_bytes(server_certificate(ca_name="Amazon RDS us-east-1 Root CA RSA2048 G1").ca)
    with showing(deployed.server, server_certificate(**NAMES, ca_name="Amazon RDS eu-west-1 Root CA RSA2048 G1")):
        found = deployed.look(DB_SSLROOTCERT=str(tmp_path / "us-east-1.pem"))
    found.fails("tls", "of the CA of eu-west-1", "has the CA of us-east-1", "Leave DB_SSLROOTCERT empty")


def test_wrong_name(deployed: Deployment) -> None:
    with showing(deployed.server, server_certificate(hosts=("db.example.com", "replica.example.com"))):
        found = deployed.look()
    found.fails("tls", "for db.example.com, replica.example.com, and not for localhost", "Set DB_HOST")


def test_expired_certificate(deployed: Deployment) -> None:
    made = server_certificate(**NAMES, days=30, age=datetime.timedelta(days=40))
    ended = x509.load_pem_x509_certificate(made.certificate).not_valid_after_utc
    with showing(deployed.server, made):
        found = deployed.look()
    found.fails("tls", f"has expired on {ended:%Y-%m-%d}", "Renew it")


def test_self_signed_certificate(deployed: Deployment) -> None:
    own = self_signed("localhost")
    with showing(deployed.server, ServerCertificate(server_certificate().ca, own, own)):
        found = deployed.look()
    found.fails("tls", "self-signed (sidecart)", "DB_SSLROOTCERT")


def test_wrong_password(deployed: Deployment) -> None:
    found = deployed.look(DB_READONLY_PASSWORD="Zq7%2Fxw9")
    found.fails("login", "does not accept the password", "looks percent-encoded", "the secret was rotated")
    assert "Zq7" not in found.text
    assert "xw9" not in found.text


def test_missing_database(deployed: Deployment) -> None:
    deployed.look(DB_NAME="nowhere").fails("login", "The database nowhere does not exist", "Correct DB_NAME")


def test_role_that_can_write(deployed: Deployment) -> None:
    owner = deployed.clinic.owner
    found = deployed.look(DB_READONLY_USERNAME=owner.user, DB_READONLY_PASSWORD=owner.password)
    found.fails("role", f"{owner.user} can do more than read", "sidecart doctor", "sql/readonly_role.sql")


def test_secret_with_special_characters(deployed: Deployment) -> None:
    server, user = deployed.server, deployed.clinic.reader.user
    before = deployed.environment["DB_READONLY_PASSWORD"]
    server.sql(f"ALTER ROLE {user} PASSWORD '{SPECIAL.replace(chr(39), chr(39) * 2)}'")
    try:
        found = deployed.look(DB_READONLY_PASSWORD=SPECIAL)
    finally:
        server.sql(f"ALTER ROLE {user} PASSWORD '{before}'")
    assert found.code == 0, found.text
    notes = " ".join(found.results["secret"]["notes"])
    assert "characters that a URL must escape" in notes
    assert not any(part in found.text for part in ("p@ss", "w:rd", "?#[", "%2F", "quoted"))


def test_password_from_a_file(deployed: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "password"
    source = {"DB_READONLY_PASSWORD": None, "SIDECART_UPSTREAM_PASSWORD_FILE": str(file)}
    deployed.look(**source).fails("secret", "No such file", "mount the secret")
    file.write_text("")
    file.chmod(0o600)
    deployed.look(**source).fails("secret", "is empty")
    password = deployed.environment["DB_READONLY_PASSWORD"]
    file.write_text(f"{password}\n")
    found = deployed.look(**source)
    assert found.code == 0, found.text
    assert found.results["secret"]["says"] == "upstream.password_file is readable"
    # One line break is an editor's. A second one is part of the password.
    file.write_text(f"{password}\n\n")
    deployed.look(**source).fails("login", "ends with a line break")


def test_password_from_a_program(deployed: Deployment) -> None:
    source = {"DB_READONLY_PASSWORD": None, "SIDECART_UPSTREAM_PASSWORD_COMMAND": "false"}
    deployed.look(**source).fails("secret", "exit code 1", "Correct upstream.password_command")
    source["SIDECART_UPSTREAM_PASSWORD_COMMAND"] = "echo 'not closed"
    deployed.look(**source).fails("secret", "without its counterpart")
    source["SIDECART_UPSTREAM_PASSWORD_COMMAND"] = f"printf %s {deployed.environment['DB_READONLY_PASSWORD']}"
    assert deployed.look(**source).code == 0


def test_password_from_secrets_manager(deployed: Deployment) -> None:
    # moto stands in for Amazon, in this process.
    reader = deployed.clinic.reader
    source = {"DB_READONLY_PASSWORD": None, "SIDECART_UPSTREAM_AWS_SECRET": "reader"}
    source |= {"SIDECART_UPSTREAM_AWS_REGION": "eu-west-1"}
    with mock_aws():
        deployed.look(**source).fails("secret", "ResourceNotFoundException", "upstream.aws_secret")
        text = json.dumps({"username": reader.user, "password": reader.password})
        boto3.client("secretsmanager", region_name="eu-west-1").create_secret(Name="reader", SecretString=text)
        found = deployed.look(**source)
    assert found.code == 0, found.text
    assert found.results["secret"]["says"] == "upstream.aws_secret is readable"


def test_token_of_iam(deployed: Deployment, tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing")
    source = {
        "DB_READONLY_PASSWORD": None,
        "SIDECART_UPSTREAM_AWS_IAM": "true",
        "SIDECART_UPSTREAM_AWS_REGION": "eu-west-1",
        "AWS_SHARED_CREDENTIALS_FILE": nothing,
        "AWS_CONFIG_FILE": nothing,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": None,
        "AWS_SECRET_ACCESS_KEY": None,
    }
    found = deployed.look(**source)
    assert found.results["secret"]["says"] == "upstream.aws_iam takes its place"
    found.fails("iam-token", "credentials", "task role")
    # The token is made without a network; a server that is not RDS does not take it.
    found = deployed.look(**source | {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "Zq7xw9"})
    assert found.results["iam-token"]["says"] == f"a token for {deployed.clinic.reader.user}, good for 15 minutes"
    found.fails("login")
    assert "Zq7xw9" not in found.text
    assert "X-Amz" not in found.text


def test_direct_tls_where_the_server_is_too_old_for_it(deployed: Deployment) -> None:
    if deployed.clinic.major >= 17:
        pytest.skip("this server speaks direct TLS")
    found = deployed.look(SIDECART_UPSTREAM_SSLNEGOTIATION="direct")
    found.fails("tls", "PostgreSQL 17 or later")


def test_host_that_is_a_url(deployed: Deployment) -> None:
    for host in ("postgresql://reader:Zq7xw9@db.example.com/app", "db.example.com:5432"):
        found = deployed.look(DB_HOST=host)
        assert found.states(*PIECES, *OWN) == ["failed", *["skipped"] * 11]
        assert "the host name alone" in found.results["configuration"]["fix"]
        assert "Zq7" not in found.text


def test_name_that_nobody_knows(deployed: Deployment) -> None:
    deployed.look(DB_HOST="nowhere.invalid").fails("dns", "nowhere.invalid", "DB_HOST")


def test_databases_that_clients_choose(deployed: Deployment) -> None:
    found = deployed.look(DB_NAME=None)
    assert found.code == 0
    assert "--dbname" in found.results["login"]["says"]
    found = deployed.look("--dbname", deployed.clinic.reader.dbname, DB_NAME=None)
    assert found.states("login", "role") == ["ok", "ok"]


def test_each_database_has_its_own_lines(deployed: Deployment) -> None:
    name = deployed.clinic.reader.dbname
    environment = dict.fromkeys(name for name in os.environ if name.startswith(OURS)) | deployed.environment
    databases = f"{{reports: {{dbname: {name}}}, lost: {{dbname: nowhere}}}}"
    done = CliRunner().invoke(preflight.command, [], env={**environment, "SIDECART_DATABASES": databases})
    assert (done.exit_code, done.stderr) == (1, "")
    heads = ["-- clinic", "-- reports", "-- lost", "-- SideCart itself"]
    assert re.findall(r"^-- .*", done.stdout, re.MULTILINE) == heads
    first, second, third, own = re.split(r"^-- .*\n", done.stdout, flags=re.MULTILINE)[1:]
    assert "failed" not in first + second
    assert re.findall(r"^failed +(\S+) .*", third, re.MULTILINE) == ["login"]
    assert "The database nowhere does not exist" in third
    assert own.count("not deployed yet") == 2


def test_wrong_option_is_usage() -> None:
    assert CliRunner().invoke(preflight.command, ["--nothing"]).exit_code == 2


def test_attack_password_file_that_never_answers(deployed: Deployment, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OURS)} | deployed.environment
    environment |= {"DB_READONLY_PASSWORD": "", "SIDECART_UPSTREAM_PASSWORD_FILE": str(tmp_path / "pipe")}
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "preflight", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    Outcome(json.loads(done.stdout), done.returncode, done.stdout).fails(
        "secret", "is no regular file", "Put the password into a file"
    )


@pytest.mark.deep
def test_server_that_is_too_old(deployed: Deployment) -> None:
    with servers.running(servers.TOO_OLD) as server:
        found = deployed.look(
            DB_PORT=str(server.port),
            DB_NAME="postgres",
            DB_READONLY_USERNAME=server.superuser,
            DB_READONLY_PASSWORD=server.superuser_password,
            DB_SSLROOTCERT=str(server.ca_file),
        )
    found.fails("version", "PostgreSQL 12.22 is older than 13", "Upgrade")

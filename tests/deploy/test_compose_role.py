"""What compose.yaml gives to PostgreSQL, on a real server: pg_hba.conf, and the script that makes the role."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.compose import prepare as compose_prepare
from proxy.demo.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(plaintext=True) as running:
        yield running


def test_role_script_makes_the_role_with_the_password_of_its_file(
    server: EmbeddedServer, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    postgres, sidecart = tmp_path / "postgres", tmp_path / "sidecart"
    postgres.mkdir()
    sidecart.mkdir()
    compose_prepare.prepare(postgres, sidecart)
    server.sql("CREATE DATABASE shop")
    server.sql("CREATE TABLE t AS SELECT 7 AS x", "shop")
    environment = {
        "PATH": os.pathsep.join((str(tool("psql").parent), os.environ["PATH"])),
        # The image's own start-up: the socket, and the owner's password.
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGPASSWORD": server.superuser_password,
        "POSTGRES_USER": server.superuser,
        "POSTGRES_DB": "shop",
        "SECRETS": str(postgres),
        "SCRIPTS": str(ROOT / "sql"),
    }
    done = subprocess.run(
        [ROOT / "deploy" / "compose" / "readonly_role.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    login = {
        "host": server.host,
        "port": server.port,
        "dbname": "shop",
        "user": "sidecart_reader",
        "password": (sidecart / "reader_password").read_text(),
        "sslmode": "verify-full",
        "sslrootcert": str(server.ca_file),
    }
    with psycopg.connect(**login) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(7,)]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM t")


def test_nobody_gets_in_without_tls_and_a_password(server: EmbeddedServer) -> None:
    """The server itself says how it reads the file: a line that it cannot read would keep it from starting."""
    server.halt()
    hba = server.folder / "compose_hba.conf"
    hba.write_text((ROOT / "deploy" / "compose" / "pg_hba.conf").read_text())
    hba.chmod(0o644)
    settings = server.folder / "data" / "postgresql.conf"
    settings.write_text(settings.read_text() + f"\nhba_file = '{hba}'\n")
    server.start()
    rules = server.sql("SELECT type, auth_method, error FROM pg_hba_file_rules ORDER BY line_number")
    assert rules.split() == ["local|scram-sha-256|", "hostssl|scram-sha-256|", "hostssl|scram-sha-256|"]
    login = {"host": "127.0.0.1", "port": server.port, "user": server.superuser, "password": server.superuser_password}
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg.connect(**login, dbname="postgres", sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(**(login | {"password": "x"}), dbname="postgres", sslmode="require")

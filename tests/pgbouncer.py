"""Find and run a PgBouncer: the one that SIDECART_TEST_PGBOUNCER names, or this machine's."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.demo.embedded import EmbeddedServer
from tests.running import free_port

USER = "sidecart_reader"
"""Whom the clients of the tests log in to it as; it asks for no password."""


@dataclass(frozen=True, slots=True)
class Bouncer:
    """A program and its version."""

    program: Path
    version: tuple[int, int]


class RunningBouncer:
    """A PgBouncer on a free port of 127.0.0.1."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], ini: Path) -> None:
        self.port = port
        self._process = process
        self._ini = ini

    def dsn(self, dbname: str) -> str:
        """Return the keywords that any libpq program connects with."""
        return f"host=127.0.0.1 port={self.port} dbname={dbname} user={USER} sslmode=disable"

    def reload(self, **settings: object) -> None:
        """Change settings while it runs, as its operator does: they hold a moment later."""
        self._ini.write_text(_with(self._ini.read_text(), settings))
        self._process.send_signal(signal.SIGHUP)


def find() -> Bouncer | None:
    """Return the program, if there is one."""
    named = os.environ.get("SIDECART_TEST_PGBOUNCER", "")
    program = named or shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if not program:
        return None
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"PgBouncer (\d+)\.(\d+)", text)
    return Bouncer(Path(program), (int(found[1]), int(found[2])) if found else (0, 0))


@contextlib.contextmanager
def running(
    bouncer: Bouncer,
    postgres: EmbeddedServer,
    dbname: str,
    user: str,
    password: str,
    *,
    processes: int = 1,
    **settings: object,
) -> Iterator[RunningBouncer]:
    """Run it before one database of a server, which it logs in to as this user, over verified TLS.

    Several processes share the port, and no pool (so_reuseport).
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sidecart-pgbouncer-") as name:
        folder = Path(name)
        (folder / "ca.pem").write_bytes(postgres.ca_file.read_bytes())
        program = folder / "pgbouncer"  # nobody may not reach it where it is
        shutil.copy(bouncer.program, program)
        ini = folder / "pgbouncer.ini"
        server = f"host=localhost port={postgres.port} dbname={dbname} user={user} password={password}"
        common = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": folder / "ca.pem",
            "logfile": folder / "log",
            "so_reuseport": int(processes > 1),
        }
        ini.write_text(_with(f"[databases]\n{dbname} = {server}\n[pgbouncer]\n", common | settings))
        options: dict[str, Any] = {}
        if os.geteuid() == 0:  # PgBouncer does not run as root
            nobody = pwd.getpwnam("nobody")
            for path in (folder, *folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        options |= {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        started: list[subprocess.Popen[bytes]] = []
        try:
            started.extend(subprocess.Popen([program, ini], **options) for _ in range(processes))
            _wait(port, started[0], folder / "log")
            yield RunningBouncer(port, started[0], ini)
        finally:
            for process in started:
                process.terminate()
                process.wait()


def _with(ini: str, settings: dict[str, object]) -> str:
    """Return the text of a configuration, with these settings in the place of what it says of them."""
    kept = [line for line in ini.splitlines() if line.partition(" = ")[0] not in settings]
    return "\n".join([*kept, *(f"{name} = {value}" for name, value in settings.items()), ""])


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        said = log.read_text() if log.exists() else ""
        assert process.poll() is None and time.monotonic() < deadline, f"PgBouncer did not start: {said}"
        time.sleep(0.02)

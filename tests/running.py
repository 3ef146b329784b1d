"""Run SideCart as a process of its own, as users do, for the integration tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from proxy.config.schema import ENVIRONMENT_NAMES, Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests import secrecy

T = TypeVar("T")


def reader_of(server: EmbeddedServer, logins: Shop) -> Upstream:
    """Return the configuration that reaches the sample database as its read-only role, over verified TLS."""
    return Upstream(
        host=server.host,
        port=server.port,
        dbname=logins.dbname,
        user=logins.reader,
        password=logins.reader_password,
        sslrootcert=str(server.ca_file),
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_until(condition: Callable[[], T], seconds: float, what: str) -> T:
    """Ask until the answer is true, and return it; fail with `what` was awaited when the time is over."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.01)
    return answer


def _more_of(upstream: Upstream) -> dict[str, str]:
    """Return the variables of those keys that have no short name, where they are not as by default."""
    short = {name for section, name in ENVIRONMENT_NAMES.values() if section == "upstream"}
    given = {item.name: getattr(upstream, item.name) for item in fields(upstream)}
    return {
        f"SIDECART_UPSTREAM_{item.name.upper()}": ", ".join(value) if isinstance(value, tuple) else str(value)
        for item in fields(upstream)
        if item.name not in short and (value := given[item.name]) != item.default
    }


SESSIONS_KEY = "the-key-of-the-tests"


class SideCart:
    """Start `python -m proxy serve` in front of an upstream; a context manager.

    `environment` overrides configuration keys, such as SIDECART_POOL_DEFAULT_POOL_SIZE. `log` holds what it wrote.
    """

    program = ("-m", "proxy")
    """What Python runs."""

    def __init__(self, upstream: Upstream, **environment: object) -> None:
        self.port = free_port()
        self.metrics_port = free_port()
        self.database = upstream.dbname
        self._environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("DB_", "SIDECART_", "PG"))
        } | {
            "DB_HOST": upstream.host,
            "DB_PORT": str(upstream.port),
            "DB_NAME": upstream.dbname,
            "DB_READONLY_USERNAME": upstream.user,
            "DB_READONLY_PASSWORD": upstream.password,
            "DB_SSLMODE": upstream.sslmode,
            "DB_SSLROOTCERT": upstream.sslrootcert,
            **_more_of(upstream),
            "SIDECART_LISTEN_PORT": str(self.port),
            "SIDECART_METRICS_PORT": str(self.metrics_port),
            "SIDECART_METRICS_SESSIONS_KEY": SESSIONS_KEY,
            **{key: str(value) for key, value in environment.items()},
        }
        secrecy.keep_environment(self._environment)
        self._stderr = tempfile.NamedTemporaryFile(prefix="sidecart-test-", suffix=".log")  # noqa: SIM115
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        command = [sys.executable, *self.program, "serve"]
        self.process = subprocess.Popen(command, env=self._environment, stderr=self._stderr)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        log = self.log
        self._stderr.close()
        raise AssertionError(f"SideCart did not start: {log}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            print(self.log[-8000:])
        self._stderr.close()

    def stop(self) -> int:
        """Drain it and return its exit code; a process that does not end is killed.

        Fails if a secret stands in what it has logged, or tells on its pages.
        """
        if self.process.poll() is None:
            self._look_at_pages()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        secrecy.look(Path(self._stderr.name).read_bytes(), "the log")
        return self.process.returncode

    def _look_at_pages(self) -> None:
        for path in ("/metrics", "/healthz", "/readyz", "/sessions"):
            try:
                page = self.get(path).encode()
            except urllib.error.HTTPError as error:
                page = error.read()
            except OSError:
                continue  # it is ending, or serves no pages
            secrecy.look(page, path)

    @property
    def log(self) -> str:
        return Path(self._stderr.name).read_text(errors="replace")

    @property
    def dsn(self) -> str:
        """Return the keywords that any libpq program connects with."""
        return f"host=127.0.0.1 port={self.port} dbname={self.database} user=analyst"

    def keywords(self, **more: Any) -> dict[str, Any]:
        """Return the keyword arguments that most drivers take."""
        return {"host": "127.0.0.1", "port": self.port, "database": self.database, "user": "analyst", **more}

    def get(self, path: str) -> str:
        """Fetch a page of the metrics port."""
        page = urllib.request.Request(f"http://127.0.0.1:{self.metrics_port}{path}")
        page.add_header("Authorization", f"Bearer {SESSIONS_KEY}")
        with urllib.request.urlopen(page, timeout=10) as answer:
            return str(answer.read(), "utf-8")

    def get_ready(self) -> bool:
        """Return whether /readyz says that a client would be served."""
        try:
            return bool(self.get("/readyz"))
        except urllib.error.HTTPError:
            return False

    def metric(self, sample: str) -> float:
        """Return one sample of /metrics, written as Prometheus writes it; 0 where there is none."""
        for line in self.get("/metrics").splitlines():
            name, _, value = line.rpartition(" ")
            if name == sample:
                return float(value)
        return 0.0

    def settled(self) -> None:
        """Wait until the connections that look at the first database and at the role have come and gone."""
        done = 'sidecart_role_checks_total{outcome="done"}'
        wait_until(lambda: self.metric(done) >= 1, 20, "the look at the role")

    def memory(self) -> int:
        """Return the resident memory of the process, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

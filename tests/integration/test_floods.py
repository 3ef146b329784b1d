"""A server that floods, in each phase of its connections: SideCart does not grow, and others are served as before.

The figures of a quiet machine are printed; what is asserted of time is generous. `make deep` floods for half a minute.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from proxy import protocol as p
from proxy.config.schema import Upstream
from tests.running import SideCart, wait_until

GROWTH = 32 << 20
"""Bytes that the process may grow by."""
PATIENCE_MS = 1000.0
"""What a bystander may wait, 99 times of 100, on a machine that does much else; it was 8 s. A quiet one has less than
20 ms: `pytest -rP` shows the figures."""

FLOODS = [
    ("none", "rows"),
    ("login", "notices"),
    ("login", "junk"),
    ("logged in", "parameters"),
    ("logged in", "parameter"),
    ("logged in", "notices"),
    ("scram", "junk"),
    ("scram", "notices"),
    ("idle", "parameters"),
    ("idle", "parameter"),
    ("idle", "notices"),
    ("cleaning", "notices"),
    ("query", "rows"),
    ("query", "notices"),
    ("query", "long notices"),
    ("query", "parameter"),
    ("query", "parameters"),
    ("query", "noise"),
    ("catalogue", "rows"),
    ("catalogue", "rows of nulls"),
    ("catalogue", "descriptions"),
    ("catalogue", "notices"),
    ("catalogue", "noise"),
    ("role", "rows"),
    ("role", "noise"),
]


@contextlib.contextmanager
def flooding(phase: str, kind: str) -> Iterator[int]:
    """Run the server; yield its port."""
    command = [sys.executable, "-m", "tests.flooding", phase, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextlib.contextmanager
def reading(sidecart: SideCart, phase: str) -> Iterator[None]:
    """Ask the flooding server something, again and again, and read what comes."""
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", sidecart.port), 2) as sock:
                sock.settimeout(2)
                sock.sendall(p.startup_message({"user": "analyst", "database": "flood"}) + p.query(b"SELECT 1"))
                until = time.monotonic() + (0.3 if phase == "cleaning" else 2.0)
                while not over.is_set() and time.monotonic() < until and sock.recv(1 << 20):
                    pass
            over.wait(0.05)

    readers = [threading.Thread(target=read, name="reader") for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        over.set()
        for reader in readers:
            reader.join()


def beside(sidecart: SideCart, seconds: float) -> tuple[list[float], int]:
    """Ask the good server for so long; return the waits in milliseconds, and the most memory meanwhile."""
    waits = []
    most = 0
    with psycopg.connect(f"{sidecart.dsn}", autocommit=True) as connection:
        connection.execute("SELECT 1")
        until = time.monotonic() + seconds
        while (started := time.perf_counter()) and time.monotonic() < until:
            connection.execute("SELECT 1")
            waits.append((time.perf_counter() - started) * 1000)
            if len(waits) % 20 == 0:
                most = max(most, sidecart.memory())
            time.sleep(0.002)
    return waits, max(most, sidecart.memory())


def config_file(folder: Path, port: int, phase: str) -> Path:
    database = {"host": "127.0.0.1", "port": port, "sslmode": "disable", "user": "reader", "password": "a-password"}
    if phase == "role":
        database["require_readonly_role"] = "refuse"
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"databases": {"flood": database}, "metrics": {"enabled": True}}))
    return path


@pytest.fixture(scope="module")
def usual(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return the memory of a SideCart that nobody floods."""
    with (
        flooding("none", "rows") as port,
        SideCart(upstream, SIDECART_CONFIG=config_file(tmp_path_factory.mktemp("usual"), port, "none")) as sidecart,
    ):
        sidecart.settled()
        _, most = beside(sidecart, 1.0)
        return most


def check(upstream: Upstream, usual: int, folder: Path, phase: str, kind: str, seconds: float) -> None:
    with (
        flooding(phase, kind) as port,
        SideCart(upstream, SIDECART_CONFIG=config_file(folder, port, phase), SIDECART_LOG_LEVEL="error") as sidecart,
    ):
        sidecart.settled()
        with contextlib.ExitStack() as stack:
            if phase in ("query", "cleaning"):
                stack.enter_context(reading(sidecart, phase))
            waits, most = beside(sidecart, seconds)
        p99 = statistics.quantiles(waits, n=100)[98]
        print(
            f"{phase} {kind}: p50 {statistics.median(waits):.2f} ms, p99 {p99:.2f} ms, longest {max(waits):.1f} ms,"
            f" grown by {(most - usual) / (1 << 20):.1f} MB"
        )
        assert most - usual < GROWTH
        assert p99 < PATIENCE_MS
        assert sidecart.metric("sidecart_bugs_total") == 0
        wait_until(lambda: sidecart.get("/healthz"), 5, "the health page")


WORST = [
    ("login", "notices"),
    ("logged in", "parameters"),
    ("scram", "junk"),
    ("idle", "parameter"),
    ("cleaning", "notices"),
    ("query", "rows"),
    ("query", "parameter"),
    ("catalogue", "rows"),
    ("role", "noise"),
]
"""One or two of each phase."""


@pytest.mark.parametrize(("phase", "kind"), WORST)
def test_attack_flood(upstream: Upstream, usual: int, tmp_path: Path, phase: str, kind: str) -> None:
    check(upstream, usual, tmp_path, phase, kind, 2.0)


@pytest.mark.deep
@pytest.mark.parametrize(("phase", "kind"), FLOODS)
def test_attack_flood_for_half_a_minute(upstream: Upstream, usual: int, tmp_path: Path, phase: str, kind: str) -> None:
    check(upstream, usual, tmp_path, phase, kind, 30.0)

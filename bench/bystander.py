"""What a client with one small question waits beside others that read a lot: three COPYs of 500,000 rows."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import psycopg

READERS: Final = 3
ROWS: Final = 500_000
COPY: Final = f"COPY (SELECT * FROM pgbench_accounts LIMIT {ROWS}) TO STDOUT"


@dataclass(frozen=True, slots=True)
class Wait:
    """What the bystander saw, in milliseconds, and what the readers read meanwhile, in rows a second."""

    p50: float
    p99: float
    longest: float
    rows: float


def measure(psql: Path, dsn: str, password: str, seconds: float) -> Wait:
    """Ask `select 1` again and again on one connection while the readers read on others."""
    environment = os.environ | {"PGPASSWORD": password}
    over = threading.Event()
    done: list[float] = []

    def read() -> None:
        while not over.is_set():
            started = time.perf_counter()
            command = [str(psql), "-X", "-q", "-d", dsn, "-o", os.devnull, "-c", COPY]
            subprocess.run(command, check=True, env=environment, timeout=120)
            done.append(time.perf_counter() - started)

    waits = []
    readers = [threading.Thread(target=read, name="reader") for _ in range(READERS)]
    with psycopg.connect(dsn, password=password, autocommit=True, prepare_threshold=None) as connection:
        ask = connection.cursor().execute
        ask(b"select 1")
        with contextlib.ExitStack() as ends:
            ends.callback(lambda: [reader.join() for reader in readers])
            ends.callback(over.set)
            for reader in readers:
                reader.start()
            time.sleep(0.5)
            until = time.perf_counter() + seconds
            while (started := time.perf_counter()) < until:
                ask(b"select 1")
                waits.append((time.perf_counter() - started) * 1000)
    hundredths = statistics.quantiles(waits, n=100)
    return Wait(statistics.median(waits), hundredths[98], max(waits), READERS * ROWS / statistics.mean(done))


def row(name: str, waits: list[Wait]) -> None:
    """Print the medians of several measurements."""
    p50, p99, longest, rows = (statistics.median(getattr(wait, key) for wait in waits) for key in Wait.__slots__)
    click.echo(
        f"  {name:22} p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  longest {longest:7.1f} ms  {rows / 1e6:5.2f} M rows/s"
    )

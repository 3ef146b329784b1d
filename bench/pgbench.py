"""Compare pgbench -S through SideCart, through PgBouncer and on a direct connection, and print the ratios.

All three reach the same PostgreSQL over TLS, with 8 upstream connections. The runs go in turns, so that a machine whose
speed drifts drifts for all; figures are medians, and the ratios are what counts. Run it with `make bench`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from bench import bystander
from proxy.demo.embedded import EmbeddedServer, find_tool
from tests import pgbouncer
from tests.pgbouncer import Bouncer

DATABASE = "bench"
ROLE = "bench_reader"
PASSWORD = "bench-password"  # of a server that lives as long as the run
UPSTREAMS = 8
CASES = (("simple", 8), ("simple", 64), ("extended", 8), ("extended", 64), ("prepared", 8))


@dataclass(frozen=True, slots=True)
class Target:
    """One way to the server: a name, and the libpq keywords that take it."""

    name: str
    dsn: str
    password: str
    note: str = ""


@click.command()
@click.option("--seconds", default=5, show_default=True, help="Length of one pgbench run.")
@click.option("--rounds", default=3, show_default=True, help="How often each target has its turn.")
@click.option("--scale", default=10, show_default=True, help="pgbench's scale factor.")
@click.option("--case", "only", multiple=True, help="Only cases whose name contains this, such as `simple-8`.")
@click.option("--install/--no-install", default=True, help="Install PgBouncer with apt-get where it is absent.")
def main(seconds: int, rounds: int, scale: int, only: tuple[str, ...], install: bool) -> None:
    """Print transactions per second, and SideCart's ratio to the others."""
    pgbench = find_tool("pgbench")
    if pgbench is None:
        raise click.ClickException("pgbench was not found; install it with `apt-get install postgresql-contrib`.")
    bouncer = _pgbouncer(install)
    with EmbeddedServer(settings={"max_connections": "120", "shared_buffers": "256MB"}) as postgres:
        _fill(postgres, pgbench, scale)
        with contextlib.ExitStack() as stack:
            targets = [
                Target("direct", postgres.dsn(DATABASE, user=ROLE, password=PASSWORD), PASSWORD),
                stack.enter_context(_sidecart(postgres)),
            ]
            if bouncer is not None:
                modes = ("transaction", "session")
                targets += [stack.enter_context(_running_pgbouncer(bouncer, postgres, mode)) for mode in modes]
            for protocol, clients in CASES:
                name = f"{protocol}-{clients}"
                if not only or any(word in name for word in only):
                    _case(name, protocol, clients, targets, bouncer, pgbench, seconds, rounds)
            if not only or any(word in "bystander" for word in only):
                _beside(targets, seconds, rounds)


def _case(
    name: str,
    protocol: str,
    clients: int,
    targets: list[Target],
    bouncer: Bouncer | None,
    pgbench: Path,
    seconds: int,
    rounds: int,
) -> None:
    sessions = protocol == "prepared" and bouncer is not None and bouncer.version < (1, 21)
    skipped = "pgbouncer transaction" if sessions else "pgbouncer session"
    taking = [target for target in targets if target.name != skipped]
    rates: dict[str, list[float]] = {target.name: [] for target in taking}
    for _ in range(rounds):
        for target in taking:
            rates[target.name].append(_run(pgbench, target, protocol, clients, seconds))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    click.echo(f"\n{name}: {protocol} protocol, {clients} clients, {UPSTREAMS} upstreams, median of {rounds}")
    for key, rate in medians.items():
        note = " (session mode: before 1.21 it carries no prepared statements)" if sessions and "bouncer" in key else ""
        spread = f"{min(rates[key]):.0f} to {max(rates[key]):.0f}"
        # Round by round, since neighbours in time share the machine's mood.
        pairs = [ours / theirs for ours, theirs in zip(rates["sidecart"], rates[key], strict=True)]
        ratio = "" if key == "sidecart" else f"  sidecart/this {statistics.median(pairs):.2f}"
        click.echo(f"  {key:22} {rate:9.0f} tps  ({spread}){ratio}{note}")


def _beside(targets: list[Target], seconds: int, rounds: int) -> None:
    """Print what one who asks `select 1` waits beside others that read a lot."""
    psql = find_tool("psql")
    if psql is None:
        raise click.ClickException("psql was not found; install it with `apt-get install postgresql-client`.")
    taking = [target for target in targets if target.name != "pgbouncer session"]
    taking += [
        Target("sidecart, TLS", target.dsn.replace("sslmode=disable", "sslmode=require"), target.password)
        for target in targets
        if target.name == "sidecart"
    ]
    waits: dict[str, list[bystander.Wait]] = {target.name: [] for target in taking}
    for _ in range(rounds):
        for target in taking:
            waits[target.name].append(bystander.measure(psql, target.dsn, target.password, seconds))
    click.echo(
        f"\nbystander: `select 1` beside {bystander.READERS} COPYs of {bystander.ROWS:,} rows, median of {rounds}"
    )
    for name, each in waits.items():
        bystander.row(name, each)


def _run(pgbench: Path, target: Target, protocol: str, clients: int, seconds: int) -> float:
    command = [
        str(pgbench), "-n", "-S", "-M", protocol, "-c", str(clients), "-j", "2", "-T", str(seconds), target.dsn,
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 60, env=os.environ | {"PGPASSWORD": target.password}
    )
    found = re.search(r"^tps = ([\d.]+) \(without", result.stdout, re.MULTILINE)
    if result.returncode or found is None:
        raise click.ClickException(f"pgbench through {target.name} failed: {result.stderr.strip()[-2000:]}")
    return float(found[1])


def _fill(postgres: EmbeddedServer, pgbench: Path, scale: int) -> None:
    postgres.sql(f"CREATE DATABASE {DATABASE};")
    subprocess.run(
        [str(pgbench), "-i", "-q", "-s", str(scale), postgres.dsn(DATABASE)], check=True, capture_output=True
    )
    postgres.sql(
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE};",
        DATABASE,
    )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], what: str) -> None:
    for _ in range(200):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise click.ClickException(f"{what} ended at once, with exit code {process.returncode}")
        time.sleep(0.05)
    raise click.ClickException(f"{what} does not listen on port {port}")


@contextlib.contextmanager
def _process(command: list[str], port: int, what: str, **options: object) -> Iterator[None]:
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        _wait_for(port, process, what)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _sidecart(postgres: EmbeddedServer) -> Iterator[Target]:
    port, metrics = _free_port(), _free_port()
    environment = os.environ | {
        "DB_HOST": postgres.host,
        "DB_PORT": str(postgres.port),
        "DB_NAME": DATABASE,
        "DB_READONLY_USERNAME": ROLE,
        "DB_READONLY_PASSWORD": PASSWORD,
        "DB_SSLROOTCERT": str(postgres.ca_file),
        "SIDECART_LISTEN_PORT": str(port),
        "SIDECART_METRICS_PORT": str(metrics),
        "SIDECART_POOL_DEFAULT_POOL_SIZE": str(UPSTREAMS),
        "SIDECART_POOL_MIN_POOL_SIZE": str(UPSTREAMS),
        "SIDECART_LOG_LEVEL": "error",
    }
    with _process([sys.executable, "-m", "proxy", "serve"], port, "SideCart", env=environment):
        dsn = f"host=127.0.0.1 port={port} dbname={DATABASE} user=bench sslmode=disable"
        yield Target("sidecart", dsn, "")


def _pgbouncer(install: bool) -> Bouncer | None:
    bouncer = pgbouncer.find()
    if bouncer is None and install and os.geteuid() == 0 and shutil.which("apt-get"):
        click.echo("Installing PgBouncer …")
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", "pgbouncer"]):
            # The package starts a service of its own; the bench wants none.
            subprocess.run(command, capture_output=True, env=os.environ | {"RUNLEVEL": "1"})
        bouncer = pgbouncer.find()
    if bouncer is None:
        click.echo("PgBouncer was not found: its columns are missing. Install it with `apt-get install pgbouncer`.")
        return None
    click.echo(f"PgBouncer {bouncer.version[0]}.{bouncer.version[1]}")
    return bouncer


@contextlib.contextmanager
def _running_pgbouncer(bouncer: Bouncer, postgres: EmbeddedServer, mode: str) -> Iterator[Target]:
    settings: dict[str, object] = {
        "pool_mode": mode,
        "default_pool_size": UPSTREAMS,
        "min_pool_size": UPSTREAMS,
        "max_client_conn": 200,
        "log_connections": 0,
        "log_disconnections": 0,
    }
    if bouncer.version >= (1, 21):
        settings["max_prepared_statements"] = 200
    with pgbouncer.running(bouncer, postgres, DATABASE, ROLE, PASSWORD, **settings) as running:  # type: ignore[arg-type]
        dsn = f"host=127.0.0.1 port={running.port} dbname={DATABASE} user=bench sslmode=disable"
        yield Target(f"pgbouncer {mode}", dsn, "")


if __name__ == "__main__":
    main()

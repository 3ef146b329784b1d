"""pg_dump through SideCart writes the file that it writes on a direct connection of the same role."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests.running import SideCart


@dataclass(frozen=True)
class Dump:
    """Runs pg_dump as the reader, through SideCart or direct."""

    program: Path
    direct: str
    through: str
    password: str

    def run(self, target: str, *options: str) -> subprocess.CompletedProcess[bytes]:
        # Releases since August 2025 guard the script with a random key; this makes it the same in both.
        known = subprocess.run([self.program, "--help"], capture_output=True, check=True).stdout
        key = ["--restrict-key=x"] if b"--restrict-key" in known and "-Fd" not in options else []
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(
            [self.program, "-d", target, *key, *options],
            env=environment | {"PGPASSWORD": self.password},
            capture_output=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def dump(postgres: EmbeddedServer, shop: Shop, sidecart: SideCart, tool: Callable[[str], Path]) -> Dump:
    who = f"dbname={shop.dbname} user={shop.reader}"
    return Dump(
        tool("pg_dump"),
        f"host={postgres.host} port={postgres.port} {who} sslmode=require",
        f"host=127.0.0.1 port={sidecart.port} {who}",
        shop.reader_password,
    )


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--schema-only", "--create"],
        ["--data-only", "--table=orders", "--inserts", "--rows-per-insert=1000"],
        ["--clean", "--if-exists", "--no-owner", "--table=c*"],
        ["--encoding=LATIN1", "--table=categories"],
        ["--serializable-deferrable", "--data-only", "--table=products"],
        ["--lock-wait-timeout=5s", "--schema-only", "--quote-all-identifiers"],
    ],
    ids=" ".join,
)
def test_plain_dump_is_identical(dump: Dump, options: list[str]) -> None:
    direct, through = dump.run(dump.direct, *options), dump.run(dump.through, *options)
    assert direct.returncode == 0, direct.stderr
    assert (through.returncode, through.stderr) == (0, direct.stderr)
    assert len(direct.stdout) > 1000
    assert through.stdout == direct.stdout


def test_parallel_dump_is_identical(dump: Dump, tmp_path: Path) -> None:
    """Each worker takes over the snapshot of the first connection (SET TRANSACTION SNAPSHOT)."""
    files = []
    for name, target in (("direct", dump.direct), ("through", dump.through)):
        done = dump.run(target, "-Fd", "-j", "2", "-Z", "0", "-f", str(tmp_path / name))
        assert (done.returncode, done.stderr) == (0, b""), name
        # toc.dat holds the time of the dump; the data files are the rows.
        files.append({each.name: each.read_bytes() for each in (tmp_path / name).iterdir() if each.name != "toc.dat"})
    assert files[0] == files[1]
    assert len(files[0]) == 7

"""The built image against a real TLS server: as uid 65532, on a read-only root, without capabilities.

SIDECART_TEST_ROOTFS names the image's root file system, mounted: docs/image.md has the commands. bubblewrap runs it,
and needs root for the change of the user.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from tests.relay import Relay
from tests.running import free_port, wait_until

ROOT = Path(__file__).parents[2]
ROOTFS = os.environ.get("SIDECART_TEST_ROOTFS", "")
INTERVAL = 5.0
RETRIES = 2
"""As the Dockerfile's HEALTHCHECK has them."""

pytestmark = [
    pytest.mark.skipif(not ROOTFS, reason="SIDECART_TEST_ROOTFS names no image: docs/image.md says how to make one"),
    pytest.mark.skipif(shutil.which("bwrap") is None or os.geteuid() != 0, reason="this takes bubblewrap, and root"),
    pytest.mark.timeout(300),
]


class Container:
    """Run programs of the image in a sandbox of their own, with the network of this machine."""

    def __init__(self, folder: Path, environment: dict[str, object]) -> None:
        self._folder = folder
        self._environment = {name: str(value) for name, value in environment.items()}

    def command(self, *words: str) -> list[str]:
        path = "/opt/sidecart/bin:/usr/local/bin:/usr/bin:/bin"
        return [
            *("bwrap", "--ro-bind", ROOTFS, "/", "--proc", "/proc", "--dev", "/dev", "--die-with-parent"),
            *("--ro-bind", "/etc/hosts", "/etc/hosts", "--ro-bind", str(self._folder), "/mnt"),
            *("--unshare-pid", "--unshare-ipc", "--chdir", "/opt/sidecart", "--clearenv", "--setenv", "PATH", path),
            *(part for name, value in self._environment.items() for part in ("--setenv", name, value)),
            *("setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", "--bounding-set=-all", "--no-new-privs"),
            *words,
        ]

    def run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, (done.stdout + done.stderr).strip()

    def turns(self, healthy: bool) -> float:
        """Ask as docker does until the container counts as healthy, or as unhealthy; return the seconds that took."""
        start, failures = time.monotonic(), 0
        while True:
            code, said = self.run("sidecart", "health")
            failures = failures + 1 if code else 0
            if (healthy and not code) or (not healthy and failures == RETRIES):
                seconds = time.monotonic() - start
                print(f"{said}: {'healthy' if healthy else 'unhealthy'} after {seconds:.1f} s")
                return seconds
            assert time.monotonic() - start < 90, said
            time.sleep(INTERVAL)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


def test_nothing_can_be_written_or_installed(tmp_path: Path) -> None:
    container = Container(tmp_path, {})
    assert container.run("id", "-u") == (0, "65532")
    for path in ("/x", "/tmp/x", "/opt/sidecart/x", "/var/log/sidecart/x"):
        code, said = container.run("touch", path)
        assert code and "Read-only file system" in said
    assert container.run("python", "-m", "pip", "--version")[1].endswith("No module named pip")
    for name in ("cc", "gcc", "pip", "pip3"):
        assert container.run("sh", "-c", f"command -v {name}") == (127, "")
    status = container.run("cat", "/proc/self/status")[1]
    assert (
        "NoNewPrivs:\t1" in status and "CapBnd:\t0000000000000000" in status and "CapEff:\t0000000000000000" in status
    )


def test_psql_and_health_while_the_upstream_goes_and_comes(
    server: EmbeddedServer, tool: Callable[[str], Path], tmp_path: Path
) -> None:
    shop = sample.create(server)
    shutil.copy(server.ca_file, tmp_path / "ca.pem")
    (tmp_path / "password").write_text(shop.reader_password)
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)
    (tmp_path / "password").chmod(0o400)
    os.chown(tmp_path / "password", 65532, 65532)
    with Relay(server.port) as relay:
        port = free_port()
        environment = {
            "DB_HOST": "localhost",
            "DB_PORT": relay.port,
            "DB_NAME": shop.dbname,
            "DB_READONLY_USERNAME": shop.reader,
            "SIDECART_UPSTREAM_PASSWORD_FILE": "/mnt/password",
            "DB_SSLROOTCERT": "/mnt/ca.pem",
            "SIDECART_LISTEN_HOST": "0.0.0.0",
            "SIDECART_LISTEN_PORT": port,
            "SIDECART_METRICS_PORT": free_port(),
        }
        container = Container(tmp_path, environment)
        process = subprocess.Popen(container.command("sidecart", "serve"), stderr=subprocess.DEVNULL)
        try:
            container.turns(healthy=True)
            inside = wait_until(lambda: sidecart_of(process.pid), 5, "the process in the sandbox")
            assert Path(f"/proc/{inside}").stat().st_uid == 65532
            psql = [tool("psql"), f"host=127.0.0.1 port={port} dbname={shop.dbname} user={shop.reader} sslmode=require"]
            login = os.environ | {"PGPASSWORD": shop.reader_password}
            ask = {"env": login, "capture_output": True, "text": True, "check": False, "timeout": 60}
            assert subprocess.run([*psql, "-Atc", "select count(*) from orders"], **ask).stdout == "100000\n"
            assert "SideCart forwards reads only" in subprocess.run([*psql, "-c", "delete from orders"], **ask).stderr

            server.halt()
            assert container.turns(healthy=False) < 30
            assert container.run("sidecart", "health", "--live") == (0, "alive")
            server.start()
            container.turns(healthy=True)

            relay.silence(True)  # no socket closes, and no client is there
            assert container.turns(healthy=False) < 30
            assert container.run("sidecart", "health", "--live") == (0, "alive")
            relay.silence(False)
            relay.reset()
            container.turns(healthy=True)

            os.kill(inside, signal.SIGTERM)  # what STOPSIGNAL is for a container
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def sidecart_of(pid: int) -> int:
    """Return the process of SideCart among the descendants of a sandbox; 0 while there is none."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in map(int, children):
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if words[0].endswith(b"python") and b"serve" in words:
            return child
        if found := sidecart_of(child):
            return found
    return 0

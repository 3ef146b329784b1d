"""The Unix socket: its permissions, what a dead process has left, and what a living one holds."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.clients.unix_socket import UnixSocket
from proxy.config.schema import Listen, Upstream
from proxy.errors import ConfigError, InUseError
from tests.integration.test_serve import COMMAND, UPSTREAM, environment
from tests.running import SideCart, wait_until


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's own folders have names too long for a socket.
    with tempfile.TemporaryDirectory(prefix="sidecart-") as name:
        yield Path(name)


def listen(folder: Path, **keys: object) -> Listen:
    return Listen(unix_socket_dir=str(folder), **keys)  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


SOCKET, LOCK = ".s.PGSQL.6432", ".s.PGSQL.6432.lock"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o700])
def test_socket_has_its_permissions_and_is_removed_at_the_end(folder: Path, mode: int) -> None:
    made = UnixSocket(listen(folder, unix_socket_mode=mode), 6432)
    assert names(folder) == [SOCKET, LOCK]
    assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == mode
    assert (folder / LOCK).read_text() == f"{os.getpid()}\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / SOCKET))
    made.close()
    assert names(folder) == []


def test_owner_and_group_by_name_and_by_number(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root may give a file away")
    for owner, group in (("nobody", "daemon"), ("65534", "1")):
        made = UnixSocket(listen(folder, unix_socket_owner=owner, unix_socket_group=group), 6432)
        found = (folder / SOCKET).stat()
        assert (found.st_uid, found.st_gid) == (65534, 1)
        made.close()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"unix_socket_owner": "no-such-user"}, "unix_socket_owner is 'no-such-user', and nobody has that name"),
        ({"unix_socket_group": "no-such-group"}, "unix_socket_group is 'no-such-group', and nobody has that name"),
        ({"unix_socket_dir": "/nowhere/at/all"}, "unix_socket_dir '/nowhere/at/all' cannot be used: No such file"),
        ({"unix_socket_dir": "/" + "long/" * 30}, "is too long"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder: Path, keys: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UnixSocket(Listen(**({"unix_socket_dir": str(folder)} | keys)), 6432)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert names(folder) == []


def test_socket_of_a_dead_process_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / SOCKET))
        left.listen()
    (folder / LOCK).write_text("1\n")  # a number that another process has by now: every container has a 1
    made = UnixSocket(listen(folder), 6432)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / SOCKET))
    made.close()
    assert names(folder) == []


def test_socket_of_a_living_sidecart_is_left_alone(folder: Path) -> None:
    made = UnixSocket(listen(folder), 6432)
    with pytest.raises(InUseError, match="is in use by another program"):
        UnixSocket(listen(folder), 6432)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(folder / SOCKET))
    made.close()
    UnixSocket(listen(folder), 6432).close()


@pytest.mark.parametrize("backlog", [0, 5])
def test_socket_of_a_living_postgresql_is_left_alone_and_so_is_its_lock_file(folder: Path, backlog: int) -> None:
    # PostgreSQL does not lock its lock file, and ends when that does not hold its own process number any more.
    (folder / LOCK).write_text("4711\n/var/lib/postgresql\n")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as full:
        server.bind(str(folder / SOCKET))
        server.listen(backlog)
        if not backlog:
            full.connect(str(folder / SOCKET))  # its queue is full, which is no sign of death
        with pytest.raises(InUseError):
            UnixSocket(listen(folder), 6432)
    assert (folder / LOCK).read_text() == "4711\n/var/lib/postgresql\n"
    assert names(folder) == [SOCKET, LOCK]


def test_file_that_is_no_socket_is_left_alone(folder: Path) -> None:
    (folder / SOCKET).write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"):
        UnixSocket(listen(folder), 6432)
    assert (folder / SOCKET).read_text() == "precious"


def test_socket_that_somebody_has_replaced_is_not_removed(folder: Path) -> None:
    made = UnixSocket(listen(folder), 6432)
    (folder / SOCKET).unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(folder / SOCKET))
        made.close()
        assert names(folder) == [SOCKET]


def test_lock_file_that_is_a_link_is_not_followed(folder: Path) -> None:
    (folder / "victim").write_text("precious")
    (folder / LOCK).symlink_to(folder / "victim")
    with pytest.raises(ConfigError, match=os.strerror(errno.ELOOP)):
        UnixSocket(listen(folder), 6432)
    assert (folder / "victim").read_text() == "precious"


def test_attack_lock_file_that_is_none(folder: Path) -> None:
    os.mkfifo(folder / LOCK)
    with pytest.raises(ConfigError, match="is no lock file; remove it"):
        UnixSocket(listen(folder), 6432)
    (folder / LOCK).unlink()
    (folder / "victim").write_text("precious")
    os.link(folder / "victim", folder / LOCK)
    with pytest.raises(ConfigError, match="is no lock file; remove it"):
        UnixSocket(listen(folder), 6432)
    assert (folder / "victim").read_text() == "precious"


# --- the whole --------------------------------------------------------------------------------------------------------


def test_living_socket_keeps_sidecart_from_starting(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / f".s.PGSQL.{port}"))
        server.listen()
        variables = UPSTREAM | {
            "SIDECART_LISTEN_PORT": str(port),
            "SIDECART_METRICS_PORT": "0",
            "SIDECART_LISTEN_UNIX_SOCKET_DIR": str(folder),
        }
        done = subprocess.run(
            [*COMMAND, "serve"], env=environment(**variables), capture_output=True, text=True, timeout=30, check=False
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"sidecart: The Unix socket '{folder}/.s.PGSQL.{port}' is in use by another program: stop that program, or"
        " choose another listen.port or listen.unix_socket_dir."
    )


def test_sidecart_comes_back_after_it_was_killed(upstream: Upstream, folder: Path) -> None:
    with SideCart(upstream, SIDECART_LISTEN_UNIX_SOCKET_DIR=str(folder)) as first:
        dsn = f"host={folder} port={first.port} dbname=shop user=me"
        psycopg.connect(dsn).close()
        first.process.kill()
        first.process.wait()
        assert len(names(folder)) == 2
        port = first.port
    second = SideCart(upstream, SIDECART_LISTEN_UNIX_SOCKET_DIR=str(folder), SIDECART_LISTEN_PORT=port)
    second.port = port
    with second:
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert second.stop() == 0
    assert names(folder) == []


def test_cancel_over_the_unix_socket(upstream: Upstream, folder: Path) -> None:
    with SideCart(upstream, SIDECART_LISTEN_UNIX_SOCKET_DIR=str(folder)) as own:
        psql = [sys.executable, "-c", _SLEEPER, f"host={folder} port={own.port} dbname=shop user=me"]
        sleeper = subprocess.Popen(psql, stdout=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: own.metric('sidecart_clients{state="active"}') == 1, 20, "the statement to run")
            sleeper.send_signal(signal.SIGINT)
            out, _ = sleeper.communicate(timeout=30)
        finally:
            sleeper.kill()
            sleeper.wait()
        assert out == "57014\n"
        assert own.metric('sidecart_cancels_total{outcome="sent"}') == 1


_SLEEPER = """
import signal, sys, psycopg
connection = psycopg.connect(sys.argv[1])
signal.signal(signal.SIGINT, lambda *_: connection.cancel())
try:
    connection.execute("select pg_sleep(60)")
except psycopg.errors.QueryCanceled as error:
    print(error.sqlstate)
"""

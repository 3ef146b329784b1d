"""`sidecart serve`: its exit codes, and one sentence for each thing that keeps it from starting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from proxy import __version__

COMMAND = [sys.executable, "-m", "proxy"]
UPSTREAM = {"DB_HOST": "127.0.0.1", "DB_PORT": "1", "DB_READONLY_USERNAME": "reader", "DB_READONLY_PASSWORD": "hunter2"}


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DB_", "SIDECART_"))}
    return kept | variables


def sidecart(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(**variables), capture_output=True, text=True, timeout=30, check=False
    )


def test_version() -> None:
    assert sidecart("--version").stdout == f"sidecart {__version__}\n"


def test_no_configuration_is_one_sentence() -> None:
    done = sidecart("serve")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "name a file with -c config.yaml, or set DB_HOST" in done.stderr


def test_missing_file_is_named() -> None:
    done = sidecart("serve", "-c", "nowhere.yaml")
    assert (done.returncode, done.stderr) == (2, "sidecart: nowhere.yaml cannot be read: No such file or directory.\n")


def test_mistake_in_the_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("upstream:\n  host: db.example\n  user: u\npool:\n  max_logins: none\n")
    done = sidecart("serve", SIDECART_CONFIG=str(file))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"sidecart: {file}, line 5: pool.max_logins: must be a whole number")


def test_unreadable_certificate_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    done = sidecart("serve", **UPSTREAM, DB_SSLROOTCERT=str(tmp_path / "nowhere.pem"))
    assert done.returncode == 2
    assert "nowhere.pem" in done.stderr and "Traceback" not in done.stderr


def test_wrong_users_file_is_named_with_its_line_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text('; users\n"alice" "hunter3"\n')
    file.chmod(0o600)
    done = sidecart("serve", **UPSTREAM, SIDECART_AUTH_USERS_FILE=str(file))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        f"sidecart: {file}, line 2: the second part must be a SCRAM-SHA-256 verifier as PostgreSQL keeps it;"
        " sidecart hash-password makes one",
    )
    assert "hunter3" not in done.stderr
    done = sidecart("serve", **UPSTREAM, SIDECART_AUTH_USERS_FILE=str(tmp_path / "none.txt"))
    assert done.returncode == 2
    assert "none.txt' cannot be read: No such file or directory." in done.stderr


@pytest.mark.parametrize(("section", "other"), [("LISTEN", "METRICS"), ("METRICS", "LISTEN")])
def test_port_in_use_is_one_sentence(section: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = sidecart("serve", **UPSTREAM, **{f"SIDECART_{section}_PORT": port, f"SIDECART_{other}_PORT": "0"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"sidecart: Port {port} of 127.0.0.1 is in use by another program: stop that program, or choose another port"
        f" with {section.lower()}.port (SIDECART_{section}_PORT)."
    )
    assert "Traceback" not in done.stderr


def test_address_of_another_machine_is_one_sentence() -> None:
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): nobody's address.
    done = sidecart("serve", **UPSTREAM, SIDECART_LISTEN_HOST="192.0.2.1", SIDECART_LISTEN_PORT="0")
    assert done.returncode == 1
    assert "192.0.2.1 is not an address of this machine: correct listen.host." in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_on_a_signal_and_never_prints_the_password(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    variables = UPSTREAM | {"SIDECART_LISTEN_PORT": str(port), "SIDECART_METRICS_PORT": "0"}
    process = subprocess.Popen(
        [*COMMAND, "serve"],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        process.send_signal(number)
        screen, _ = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0, screen
    assert "hunter2" not in screen
    assert "Traceback" not in screen

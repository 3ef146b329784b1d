"""`sidecart sessions` as users run it: the command, a running SideCart, clients with transactions and pins."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.config.schema import Upstream
from tests.running import SESSIONS_KEY, SideCart, free_port


@pytest.fixture(scope="module")
def own(upstream: Upstream) -> Iterator[SideCart]:
    with SideCart(upstream) as running:
        yield running


def ask(port: int, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DB_", "SIDECART_", "PG"))}
    kept |= {"DB_HOST": "localhost", "DB_READONLY_USERNAME": "reader", "SIDECART_METRICS_PORT": str(port)}
    kept["SIDECART_METRICS_SESSIONS_KEY"] = SESSIONS_KEY
    return subprocess.run(
        [sys.executable, "-m", "proxy", "sessions", *options],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_who_is_connected_and_what_each_does(own: SideCart) -> None:
    assert ask(own.metrics_port).stdout == "nobody is connected\n"
    assert json.loads(ask(own.metrics_port, "--json").stdout) == []
    with (
        psycopg.connect(own.dsn, application_name="resting") as resting,
        psycopg.connect(own.dsn, application_name="\x1b]0;owned\x07 report") as busy,
    ):
        resting.autocommit = True
        resting.execute("SELECT 1")
        [pid] = busy.execute("SELECT pg_backend_pid()").fetchone() or ()
        busy.execute("PREPARE held AS SELECT 1")
        shown = ask(own.metrics_port)
        rows: list[dict[str, Any]] = json.loads(ask(own.metrics_port, "--json").stdout)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    assert "\x07" not in shown.stdout
    head, first, second = shown.stdout.splitlines()
    assert head.split() == [
        *("user", "database", "application", "address", "state", "since", "statement", "upstream", "pid", "pins")
    ]
    assert first.split()[:5] == ["analyst", "shop", "resting", "127.0.0.1", "idle"]
    assert "idle in transaction" in second
    assert str(pid) in second.split()
    assert second.endswith("prepared_statement")
    assert [row["state"] for row in rows] == ["idle", "idle in transaction"]
    assert rows[1]["upstream_pid"] == pid


def test_attack_other_user_of_the_machine_asks_who_is_connected(own: SideCart, upstream: Upstream) -> None:
    def status(site: SideCart, *keys: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", site.metrics_port, timeout=20)
        connection.request("GET", "/sessions", headers={"Authorization": keys[0]} if keys else {})
        answer = connection.getresponse()
        assert b"analyst" not in answer.read() or answer.status == 200
        assert (answer.getheader("WWW-Authenticate") == "Bearer") == (answer.status == 401)
        return answer.status

    with psycopg.connect(own.dsn):
        assert status(own) == 401
        for key in ("Bearer", "Bearer ", SESSIONS_KEY, f"Bearer {SESSIONS_KEY}x", f"bearer {SESSIONS_KEY}", "Bearer é"):
            assert status(own, key) == 401
        assert status(own, f"Bearer {SESSIONS_KEY}") == 200
    done = ask(own.metrics_port, SIDECART_METRICS_SESSIONS_KEY="another-key-of-16-characters")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sidecart: The SideCart that runs here has another metrics.sessions_key.\n"
    with SideCart(upstream, SIDECART_METRICS_SESSIONS_KEY="") as silent:
        assert status(silent) == status(silent, "Bearer ") == 404
        done = ask(silent.metrics_port)
        assert (done.returncode, done.stdout) == (1, "")
        assert "it was started without metrics.sessions_key" in done.stderr
        done = ask(silent.metrics_port, SIDECART_METRICS_SESSIONS_KEY="")
        assert (done.returncode, done.stdout) == (1, "")
        assert "metrics.sessions_key is empty" in done.stderr


def test_nobody_answers() -> None:
    port = free_port()
    done = ask(port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"sidecart: nothing answers on 127.0.0.1 port {port} (Connection refused); is `sidecart serve` running?\n"
    )


def test_server_of_another_kind_answers(own: SideCart) -> None:
    done = ask(own.port)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert f"on 127.0.0.1 port {own.port}" in done.stderr

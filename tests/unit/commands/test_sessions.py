"""`sidecart sessions`: what is read from the page, and what is shown of it."""

from __future__ import annotations

import http.client
import json

import msgspec
import pytest
from click.testing import CliRunner

from proxy.clients import activity
from proxy.commands import sessions
from proxy.commands.sessions import Row, listing, read
from proxy.config.schema import Config, Metrics, Upstream
from proxy.operating.asking import NoAnswerError, fetch
from tests.unit.session.town import Town

ROW = Row(
    id=1,
    user="analyst",
    database="shop",
    application="report",
    address="127.0.0.1",
    state="active",
    since=312.0,
    statement="select",
    upstream_pid=4711,
    pins="hold_cursor",
)
UPSTREAM = Upstream(host="db.example", user="reader")


def page(*rows: Row) -> bytes:
    return json.dumps([msgspec.to_builtins(row) for row in rows]).encode()


def test_row_is_what_the_process_serves() -> None:
    town = Town()
    session, _ = town.client(application_name="report")
    [served] = activity.rows([session.client], town.now)
    assert list(served) == list(Row.__struct_fields__)
    assert read(http.client.OK, json.dumps([served]).encode(), "127.0.0.1") == [
        Row(1, "analyst", "shop", "report", "127.0.0.1", "idle", 0.0, "", None, "")
    ]


def test_table() -> None:
    other = msgspec.structs.replace(ROW, state="idle", since=3.0, statement="", upstream_pid=None, pins="")
    assert listing([ROW, other], 200) == [
        "user     database  application  address    state        since  statement  upstream pid  pins",
        "analyst  shop      report       127.0.0.1  active  5 min 12 s  select             4711  hold_cursor",
        "analyst  shop      report       127.0.0.1  idle         3.0 s",
    ]


def test_nobody() -> None:
    assert listing([], 80) == ["nobody is connected"]


def test_name_that_a_client_has_chosen_does_not_command_the_terminal() -> None:
    bad = msgspec.structs.replace(ROW, user="\x1b]0;owned\x07", application="\x1b[2J\r\nroot \u202e" + "x" * 9000)
    lines = listing([bad], 1000)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert len(lines[1]) < 200


def test_json_escapes_what_commands_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = msgspec.structs.replace(ROW, user="\x1b\x7f\x9b31m")
    monkeypatch.setenv("DB_HOST", "db.example")
    monkeypatch.setenv("DB_READONLY_USERNAME", "reader")
    monkeypatch.setenv("SIDECART_METRICS_SESSIONS_KEY", "0123456789abcdef")
    monkeypatch.setattr(sessions, "fetch", lambda config, path, key: (200, page(bad)))
    done = CliRunner().invoke(sessions.command, ["--json"])
    assert done.exit_code == 0
    assert all(char.isprintable() or char == "\n" for char in done.stdout)
    assert json.loads(done.stdout) == [msgspec.to_builtins(bad)]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (403, b"", "loopback addresses alone, and metrics.host is 10.0.0.5"),
        (401, b"", "has another metrics.sessions_key"),
        (404, b"Not found", "was started without metrics.sessions_key"),
        (200, b"<html>", "none of this version"),
        (200, b'[{"id": 1}]', "none of this version"),
        (200, b"\xff", "none of this version"),
        (500, b"[]", "status 500"),
    ],
)
def test_page_that_is_none(status: int, body: bytes, says: str) -> None:
    with pytest.raises(NoAnswerError, match=says):
        read(status, body, "10.0.0.5")


@pytest.mark.parametrize(
    ("metrics", "says"), [(Metrics(enabled=False), "metrics.enabled is false"), (Metrics(port=0), "metrics.port is 0")]
)
def test_configuration_without_a_page(metrics: Metrics, says: str) -> None:
    with pytest.raises(NoAnswerError, match=says) as caught:
        fetch(Config(upstream=UPSTREAM, metrics=metrics), "/sessions")
    assert not caught.value.asked


def test_wrong_configuration_is_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDECART_METRICS_PORT", "none")
    done = CliRunner().invoke(sessions.command, [])
    assert done.exit_code == 2
    assert "SIDECART_METRICS_PORT: must be a whole number" in done.stderr


def test_upstream_of_the_process_that_runs_here_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DB_HOST", "DB_READONLY_USERNAME", "SIDECART_UPSTREAM_HOST", "SIDECART_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SIDECART_METRICS_PORT", "1")  # where nothing listens
    monkeypatch.setenv("SIDECART_METRICS_SESSIONS_KEY", "0123456789abcdef")
    done = CliRunner().invoke(sessions.command, [])
    assert done.exit_code == 1
    assert "nothing answers on 127.0.0.1 port 1" in done.stderr

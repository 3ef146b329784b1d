"""The pieces of preflight: each gets its result whatever happens, and what a person and a program read of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from click.testing import CliRunner

from proxy.commands import preflight
from proxy.config.schema import Config, Database, PoolLimits, Upstream
from proxy.databases.diagnosis import Advice
from proxy.errors import ConfigError
from proxy.preflight import reaching
from proxy.preflight.pieces import Fine, Result, SkippedError, State, Step, TroubleError, go_through

UPSTREAM = Upstream(host="db.example.com", dbname="app", user="reader")


def does(outcome: Exception | Fine) -> Callable[[], Awaitable[Fine]]:
    async def look() -> Fine:
        if isinstance(outcome, Fine):
            return outcome
        raise outcome

    return look


def go(*steps: Step, seconds: float = 5.0, failed: dict[str, str] | None = None) -> list[Result]:
    found: list[Result] = []
    asyncio.run(go_through(steps, found.append, {} if failed is None else failed, seconds=seconds))
    return found


FAILS = does(TroubleError(Advice("It is broken.", "Mend it.")))
FINE = does(Fine("it is there", ("A note.",)))


def test_piece_that_is_right() -> None:
    assert go(Step("dns", (), FINE)) == [Result("dns", State.OK, "it is there", notes=("A note.",))]


def test_piece_that_has_failed_is_named_by_all_that_need_it() -> None:
    steps = [Step("dns", (), FAILS), Step("route", ("dns",), FINE), Step("tls", ("route",), FINE), Step("x", (), FINE)]
    assert go(*steps) == [
        Result("dns", State.FAILED, "It is broken.", "Mend it."),
        Result("route", State.SKIPPED, "dns failed"),
        Result("tls", State.SKIPPED, "dns failed"),
        Result("x", State.OK, "it is there", notes=("A note.",)),
    ]


def test_what_has_failed_before_counts() -> None:
    failed = {"configuration": "configuration"}
    assert go(Step("dns", ("configuration",), FINE), failed=failed)[0].says == "configuration failed"
    assert failed["dns"] == "configuration"


def test_piece_that_is_left_out_holds_up_nobody() -> None:
    steps = [Step("tls", (), does(SkippedError("turned off"))), Step("login", ("tls",), FINE)]
    assert [(each.state, each.says) for each in go(*steps)] == [
        (State.SKIPPED, "turned off"),
        (State.OK, "it is there"),
    ]


def test_unexpected_error_is_a_result_and_its_text_is_not_shown() -> None:
    [found] = go(Step("secret", (), does(RuntimeError("the password is Zq7xw9"))))
    assert found.state is State.FAILED
    assert "RuntimeError" in found.says
    assert "Zq7xw9" not in repr(found)


def test_wrong_file_of_the_configuration_is_a_result() -> None:
    [found] = go(Step("tls", (), does(ConfigError("upstream.sslrootcert 'x' cannot be read: No such file."))))
    assert (found.state, found.says) == (State.FAILED, "upstream.sslrootcert 'x' cannot be read: No such file.")


def test_piece_that_never_ends_is_given_up() -> None:
    async def wait() -> Fine:
        await asyncio.Event().wait()
        return Fine("never")

    [found] = go(Step("login", (), wait), seconds=0.001)
    assert found.state is State.FAILED
    assert "did not end" in found.says


def test_name_server_that_never_answers_is_given_up() -> None:
    answered = threading.Event()

    async def ask() -> None:
        await reaching.within(0.001, answered.wait)

    # The thread that still asks is left behind: neither the loop nor the process waits for it.
    with pytest.raises(TimeoutError):
        asyncio.run(ask())
    answered.set()


def test_thread_that_never_ends_keeps_nobody() -> None:
    answered = threading.Event()
    outcomes = []

    async def read() -> None:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.to_thread(answered.wait)
        except TimeoutError:
            outcomes.append("given up")

    try:
        assert not reaching.run(read(), grace=0.001)
    finally:
        answered.set()
    assert outcomes == ["given up"]


def test_threads_that_end_are_waited_for() -> None:
    async def read() -> None:
        await asyncio.to_thread(int)

    assert reaching.run(read())


def test_error_in_a_thread_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise OSError(111, "Connection refused")

    with pytest.raises(OSError, match="refused"):
        asyncio.run(reaching.within(5.0, fail))


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_lines_of_a_piece() -> None:
    result = Result("tls", State.FAILED, "The certificate has expired.", "Renew it.", ("It is not checked.",))
    assert preflight.lines(result) == [
        "failed   tls            The certificate has expired.",
        "                        fix: Renew it.",
        "                        note: It is not checked.",
    ]


def test_lines_are_printable_and_no_wider_than_they_may_be() -> None:
    lines = preflight.lines(Result("dns", State.FAILED, "\x1b[2J" + "many words " * 40, "Correct it."))
    assert all(line.isprintable() and len(line) <= preflight.WIDTH for line in lines)
    assert len(lines) > 3


def test_object_of_a_piece_is_json() -> None:
    result = Result("tls", State.SKIPPED, "route failed", database="app")
    assert json.loads(json.dumps(preflight.as_object(result))) == {
        "piece": "tls",
        "state": "skipped",
        "says": "route failed",
        "fix": "",
        "notes": [],
        "database": "app",
    }


def test_summary() -> None:
    fine, later = Result("dns", State.OK, "x"), Result("sidecart", State.SKIPPED, "not deployed yet: nothing listens")
    failed = Result("login", State.FAILED, "x", "y")
    assert preflight.summary([fine]) == "Nothing failed."
    assert preflight.summary([fine, later]) == "Nothing failed. Not deployed yet: sidecart."
    assert preflight.summary([fine, failed, later]) == "Failed: login. Not deployed yet: sidecart."


def test_each_database_of_the_configuration_is_looked_at() -> None:
    other = replace(UPSTREAM, host="replica.example.com")
    config = Config(upstream=UPSTREAM, databases={"reports": Database(upstream=other, pool=PoolLimits())})
    assert preflight.databases(config, None) == {"app": UPSTREAM, "reports": other}
    assert preflight.databases(config, "reports") == {"reports": other}
    with pytest.raises(ConfigError, match="elsewhere is not served"):
        preflight.databases(config, "elsewhere")
    choosing = replace(UPSTREAM, dbname="")
    assert preflight.databases(Config(upstream=choosing), None) == {"": choosing}


def test_without_a_configuration_nothing_else_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DB_HOST", "SIDECART_UPSTREAM_HOST", "SIDECART_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(preflight.command, [])
    assert done.exit_code == 1
    first, *others = done.stdout.split("\n\n")[0].splitlines()
    assert first.startswith("failed   configuration  There is no configuration")
    assert sum(line.endswith("configuration failed") for line in others) == 11


def test_file_that_is_not_there_is_a_result(tmp_path: object) -> None:
    done = CliRunner().invoke(preflight.command, ["-c", f"{tmp_path}/nothing.yaml", "--json"])
    assert done.exit_code == 1
    assert "cannot be read" in json.loads(done.stdout)[0]["says"]

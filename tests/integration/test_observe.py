"""filter.mode: observe, before a real server: what the filter would refuse meets the other two layers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests import servers
from tests.running import SideCart, reader_of, wait_until
from tests.wire import Wire

Place = tuple[EmbeddedServer, Shop]
PAGE = Path(__file__).parents[2] / "docs" / "observe.md"


@pytest.fixture(scope="module", params=servers.EVERY)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with servers.with_shop(request) as made:
        yield made


@pytest.fixture(scope="module")
def upstream(place: Place) -> Upstream:
    return reader_of(*place)


@pytest.fixture(scope="module")
def observing(upstream: Upstream) -> Iterator[SideCart]:
    with SideCart(upstream, SIDECART_FILTER_MODE="observe", SIDECART_POOL_DEFAULT_POOL_SIZE=3) as own:
        yield own
        own.stop()
        assert '"event":"bug"' not in own.log
        assert '"event":"tripwire"' not in own.log


@pytest.fixture
def client(observing: SideCart) -> Iterator[Wire]:
    with Wire(observing.port) as wire:
        yield wire


def test_insert_is_stopped_by_the_server_itself(observing: SideCart, client: Wire) -> None:
    before = observing.metric('sidecart_observed_total{rule="data-modification"}')
    assert client.ask("INSERT INTO orders DEFAULT VALUES") == "EZ"
    assert client.error["C"] == "25006"
    assert client.error["M"] == "cannot execute INSERT in a read-only transaction"
    assert client.error["R"] == "PreventCommandIfReadOnly"  # the server's own function: SideCart names none
    assert observing.metric('sidecart_observed_total{rule="data-modification"}') == before + 1
    assert observing.metric('sidecart_refused_total{rule="data-modification"}') == 0
    assert client.ask("SELECT 1") == "TDCZ"


def test_function_that_nothing_proves_runs(observing: SideCart, client: Wire, place: Place) -> None:
    server, shop = place

    def owner(sql: str) -> None:
        server.sql(sql, shop.dbname, user=shop.owner, password=shop.owner_password)

    owner(
        "CREATE FUNCTION dynamic() RETURNS bigint LANGUAGE plpgsql AS"
        " $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT 4' || '2' INTO n; RETURN n; END $$"
    )
    try:
        assert client.ask("SELECT dynamic()") == "TDCZ", client.error
        assert b"42" in client.last
        assert client.ask_extended("SELECT dynamic()") == "12TDCZ", client.error
        wait_until(lambda: observing.log.count('"event":"observed"') >= 2, 10, "two lines of the log")
    finally:
        owner("DROP FUNCTION dynamic()")


def test_recipe_of_the_page_says_what_to_allow(upstream: Upstream, place: Place, tmp_path: Path) -> None:
    recipe = re.search(r"^jq .*sidecart\.log.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe is not None
    if shutil.which("jq") is None:
        pytest.skip("jq is not here")

    server, shop = place

    def owner(sql: str) -> None:
        server.sql(sql, shop.dbname, user=shop.owner, password=shop.owner_password)

    body = "LANGUAGE plpgsql AS $$ DECLARE n bigint; BEGIN EXECUTE 'SELECT 4' || '2' INTO n; RETURN n; END $$"
    owner(f"CREATE FUNCTION run_time() RETURNS bigint {body}")
    owner("CREATE VIEW of_run_time AS SELECT run_time() AS n; GRANT SELECT ON of_run_time TO PUBLIC")
    texts = ["SELECT run_time()", "SELECT n FROM of_run_time"]
    try:
        log = tmp_path / "sidecart.log"
        with SideCart(upstream, SIDECART_FILTER_MODE="observe", SIDECART_LOG_FILE=log) as own, Wire(own.port) as wire:
            for text in (*texts, *texts, "INSERT INTO orders DEFAULT VALUES"):
                wire.ask(text)
        found = subprocess.run(["sh", "-c", recipe[0]], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        assert [line.split() for line in found.splitlines()] == [
            ["1", "analyst", "data-modification", "orders"],
            ["2", "analyst", "unproved-function", "public.run_time"],
            ["2", "analyst", "unproved-relation", "public.of_run_time"],
        ]
        allow = ", ".join(line.split()[3] for line in found.splitlines() if "unproved" in line)
        with SideCart(upstream, SIDECART_FILTER_ALLOW_FUNCTIONS=allow) as own, Wire(own.port) as wire:
            assert [wire.ask(text) for text in texts] == ["TDCZ", "TDCZ"], wire.error
    finally:
        owner("DROP VIEW of_run_time; DROP FUNCTION run_time()")


def test_privileges_still_count(client: Wire) -> None:
    assert client.ask("SELECT pg_read_file('/etc/passwd')") == "EZ"
    assert client.error["C"] == "42501"
    assert "F" in client.error  # the server names its source file; SideCart does not


def test_statement_that_succeeds_without_being_a_read(client: Wire) -> None:
    assert client.ask("DO $$ BEGIN PERFORM 1; END $$") == "CZ"
    assert client.tag == "DO"
    assert client.ask_extended("SELECT pg_advisory_lock(1)").endswith("DCZ")


def test_upstream_of_an_observed_client_goes_to_nobody_else(observing: SideCart) -> None:
    with Wire(observing.port) as first:
        assert first.ask("SELECT pg_advisory_lock(77), setseed(0.5)") == "TDCZ"
        assert observing.metric('sidecart_pinned_clients{reason="observed"}') == 1
        before = observing.metric('sidecart_upstream_closes_total{reason="dirty"}')
    wait_until(
        lambda: observing.metric('sidecart_upstream_closes_total{reason="dirty"}') == before + 1,
        10,
        "the upstream's end",
    )
    with Wire(observing.port) as second:
        # Its backend ends when it has seen that the connection is closed.
        wait_until(lambda: _is_free(second, 77), 10, "the lock's end")


def _is_free(client: Wire, lock: int) -> bool:
    text = f"SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = {lock}"
    assert client.ask(text) == "TDCZ"
    return client.last.split(b"\0\0\0\x01")[-1][:1] == b"t"


@pytest.mark.parametrize(
    "text",
    [
        "SET default_transaction_read_only = off",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; INSERT INTO orders DEFAULT VALUES",
        "BEGIN READ WRITE; INSERT INTO orders DEFAULT VALUES",
        "NOTIFY x; SET transaction_read_only = off",
        "RESET transaction_read_only",
        "SET ROLE shop_owner",
        "DO $$ BEGIN PERFORM set_config('default_transaction_read_only', 'off', false); END $$",
        "COPY orders FROM STDIN",
        "SET work_mem TO '1MB'; INSERT INTO orders DEFAULT VALUES; SET default_transaction_read_only TO off",
        "SET work_mem TO '1MB'; INSERT INTO orders DEFAULT VALUES; COMMIT; SET work_mem TO '2MB'",
        "RESET ALL; INSERT INTO orders DEFAULT VALUES",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET transaction_read_only = off AS 'SELECT 1'",
    ],
)
def test_what_would_take_away_the_other_layers_stays_refused(client: Wire, text: str) -> None:
    assert client.ask(text).endswith("EZ")
    assert "SideCart forwards reads only" in client.error["M"] or "permission denied" in client.error["M"]
    assert "F" not in client.error
    assert client.ask("SHOW default_transaction_read_only") == "TDCZ"
    assert b"\x02on" in client.last


def test_settings_beside_what_is_observed(client: Wire) -> None:
    text = "SET work_mem TO '3MB'; SELECT pg_advisory_lock(78); SET client_encoding TO latin1"
    assert client.ask(text) in ("CTDCCSZ", "CTDCSCZ")  # before 14 a change is reported at once
    assert client.ask("SHOW work_mem") == "TDCZ"
    assert b"3MB" in client.last
    client.send(p.query("SELECT 'é'".encode("latin-1")))
    assert client.until_ready() == "TDCZ"
    assert "é".encode("latin-1") in client.last
    assert client.ask("SET work_mem TO '4MB'; INSERT INTO orders DEFAULT VALUES") == "CEZ"
    assert client.error["C"] == "25006"
    assert client.ask("SHOW work_mem") == "TDCZ"
    assert b"3MB" in client.last


def test_function_with_a_setting_is_stopped_by_the_server_itself(client: Wire) -> None:
    text = "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = public AS 'SELECT 1'"
    assert client.ask(text) == "EZ"
    assert (client.error["C"], "F" in client.error) == ("25006", True)


def test_client_that_was_let_through_with_LISTEN_hears_what_is_said(  # noqa: N802
    client: Wire, place: Place
) -> None:
    assert client.ask("LISTEN here") == "CZ"
    server, shop = place
    server.sql("NOTIFY here, 'said'", shop.dbname)
    kind, body = client.message()
    assert (chr(kind), body[4:]) == ("A", b"here\0said\0")


def test_observe_is_loud(observing: SideCart) -> None:
    wait_until(lambda: "\n" in observing.log, 10, "the first line of the log")
    assert "filter.mode is observe" in observing.log.splitlines()[0]
    assert '"level":"warning","event":"filter.mode is observe' in observing.log

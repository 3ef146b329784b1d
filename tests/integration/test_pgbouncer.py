"""SideCart in front of a PgBouncer: it says what to set, serves in session mode, and refuses to share sessions."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from proxy.commands import preflight
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests import pgbouncer
from tests.pgbouncer import Bouncer, RunningBouncer
from tests.running import SideCart, wait_until

READ_ONLY = "default_transaction_read_only"
PLAIN = "pgbouncer_plain"
"""A role without settings of its own."""
Run = Callable[..., contextlib.AbstractContextManager[RunningBouncer]]


@pytest.fixture(scope="module")
def bouncer() -> Bouncer:
    found = pgbouncer.find()
    if found is None:
        pytest.skip("no PgBouncer was found: apt-get install pgbouncer, or name one in SIDECART_TEST_PGBOUNCER")
    return found


@pytest.fixture(scope="module")
def run(bouncer: Bouncer, postgres: EmbeddedServer, shop: Shop) -> Run:
    """Return what runs it before the shop, with settings; it lets SideCart's start-up parameters pass."""
    passes = {"ignore_startup_parameters": READ_ONLY}

    def before_shop(*, user: str = "", **settings: object) -> contextlib.AbstractContextManager[RunningBouncer]:
        login = (user, "plain") if user else (shop.reader, shop.reader_password)
        return pgbouncer.running(bouncer, postgres, shop.dbname, *login, **{**passes, **settings})  # type: ignore[arg-type]

    return before_shop


@pytest.fixture
def plain(postgres: EmbeddedServer, shop: Shop) -> Iterator[str]:
    postgres.sql(f"CREATE ROLE {PLAIN} LOGIN PASSWORD 'plain'")
    postgres.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {PLAIN}", shop.dbname)
    yield PLAIN
    postgres.sql(f"DROP OWNED BY {PLAIN}", shop.dbname)
    postgres.sql(f"DROP ROLE {PLAIN}")


def behind(running: RunningBouncer, shop: Shop, **keys: Any) -> Upstream:
    upstream = Upstream(host="127.0.0.1", port=running.port, dbname=shop.dbname, user=pgbouncer.USER, sslmode="disable")
    return replace(upstream, **keys)


def ready(sidecart: SideCart) -> dict[str, Any]:
    """Return what /readyz says, whatever its status."""
    try:
        page = sidecart.get("/readyz")
    except urllib.error.HTTPError as error:
        page = error.read().decode()
    found: dict[str, Any] = json.loads(page)
    return found


def trouble(sidecart: SideCart) -> str:
    """Return why the database is not served, once it is known."""

    def why() -> str:
        failing = ready(sidecart)["failing"]
        return str(failing.get(sidecart.database, "")).replace("the upstream has not been reached yet", "")

    return wait_until(why, 20, "the trouble")


def refused(sidecart: SideCart) -> psycopg.errors.Error:
    with pytest.raises(psycopg.OperationalError) as caught, psycopg.connect(sidecart.dsn) as connection:
        connection.execute("SELECT 1")
    return caught.value


def looked_at(upstream: Upstream) -> dict[str, dict[str, Any]]:
    """Return what preflight says of each piece."""
    keys = {
        "DB_HOST": upstream.host,
        "DB_PORT": upstream.port,
        "DB_NAME": upstream.dbname,
        "DB_READONLY_USERNAME": upstream.user,
        "DB_SSLMODE": upstream.sslmode,
        "SIDECART_UPSTREAM_ALLOW_SHARED_SESSIONS": upstream.allow_shared_sessions,
    }
    done = CliRunner().invoke(preflight.command, ["--json"], env={key: str(value) for key, value in keys.items()})
    return {each["piece"]: each for each in json.loads(done.stdout)}


# --- session mode -----------------------------------------------------------------------------------------------------


def test_session_mode_is_recognised_and_serves(run: Run, shop: Shop) -> None:
    with run(pool_mode="session") as running, SideCart(behind(running, shop)) as sidecart:
        with psycopg.connect(sidecart.dsn, autocommit=True) as client:
            assert client.execute("SELECT count(*) > 0 FROM customers").fetchone() == (True,)
            for reset in ("RESET ALL", "DISCARD ALL", f"SET {READ_ONLY} = on"):
                client.execute(reset)
                assert client.execute(f"SHOW {READ_ONLY}").fetchone() == ("on",)
            with pytest.raises(psycopg.Error):
                client.execute("DELETE FROM customers")
        assert ready(sidecart)["poolers"] == {shop.dbname: "session"}
        assert sidecart.metric(f'sidecart_pooler{{database="{shop.dbname}",pooling="session"}}') == 1
        assert '"level":"info","event":"pooler"' in sidecart.log
        told = looked_at(behind(running, shop))["pooler"]
        assert (told["state"], told["says"]) == ("ok", "one that keeps a session of the server's for each connection")


def test_cancel_and_the_servers_process_are_told_apart_behind_it(
    run: Run, shop: Shop, postgres: EmbeddedServer
) -> None:
    """A CancelRequest names the pooler's key; the operator is shown the process that pg_stat_activity has."""
    direct = postgres.dsn(shop.dbname, shop.owner, shop.owner_password)
    caught: list[BaseException] = []
    with (
        run(pool_mode="session") as running,
        SideCart(behind(running, shop)) as sidecart,
        psycopg.connect(sidecart.dsn, autocommit=True) as client,
        psycopg.connect(direct) as owner,
    ):

        def sleep() -> None:
            try:
                client.execute("SELECT pg_sleep(60)")
            except psycopg.Error as error:
                caught.append(error)

        def busy() -> list[Any]:
            return [each for each in json.loads(sidecart.get("/sessions")) if each["upstream_pid"]]

        thread = threading.Thread(target=sleep)
        thread.start()
        [session] = wait_until(busy, 10, "the statement")
        user = "SELECT usename FROM pg_stat_activity WHERE pid = %s"
        assert owner.execute(user, [session["upstream_pid"]]).fetchone() == (shop.reader,)
        client.cancel()
        thread.join(10)
        assert isinstance(caught[0], psycopg.errors.QueryCanceled)


def test_server_itself_is_no_pooler(sidecart: SideCart, upstream: Upstream) -> None:
    with psycopg.connect(sidecart.dsn) as client:
        client.execute("SELECT 1")
    assert ready(sidecart)["poolers"] == {}


# --- shared sessions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"pool_mode": "transaction"},
        pytest.param({"pool_mode": "transaction", "server_round_robin": 1}, marks=pytest.mark.deep),
        pytest.param({"pool_mode": "transaction", "server_reset_query_always": 1}, marks=pytest.mark.deep),
        {"pool_mode": "transaction", "processes": 4},
        {"pool_mode": "statement"},
        pytest.param({"pool_mode": "session", "server_reset_query": ""}, marks=pytest.mark.deep),
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_shared_sessions_are_refused_and_the_operator_is_told_what_to_set(
    run: Run, shop: Shop, settings: dict[str, Any]
) -> None:
    with run(**settings) as running, SideCart(behind(running, shop)) as sidecart:
        why = trouble(sidecart)
        assert "a pooler in between shares the server's sessions among its clients" in why
        assert "pool_mode = session" in why and "upstream.allow_shared_sessions" in why
        error = str(refused(sidecart))
        assert "shares the server's sessions" in error and "pool_mode" not in error
        assert "pool_mode = session" in sidecart.log
        told = looked_at(behind(running, shop))["pooler"]
        assert (told["state"], "pool_mode = session" in told["fix"]) == ("failed", True)


def test_shared_sessions_are_served_where_the_operator_allows_it(run: Run, shop: Shop) -> None:
    with run(pool_mode="transaction") as running:
        upstream = behind(running, shop, allow_shared_sessions=True)
        with SideCart(upstream) as sidecart:
            with psycopg.connect(sidecart.dsn) as client:
                assert client.execute("SELECT count(*) > 0 FROM customers").fetchone() == (True,)
            assert ready(sidecart)["poolers"] == {shop.dbname: "shared"}
            assert '"level":"warning","event":"pooler"' in sidecart.log
        told = looked_at(upstream)["pooler"]
        assert (told["state"], len(told["notes"])) == ("ok", 1)


def test_attack_mode_is_changed_while_clients_are_served(run: Run, shop: Shop) -> None:
    """A new upstream gets the process of another one, which is a reason to look again."""
    with (
        run(pool_mode="session") as running,
        SideCart(behind(running, shop), SIDECART_POOL_SERVER_LIFETIME="1s") as sidecart,
    ):
        wait_until(lambda: ready(sidecart)["poolers"] == {shop.dbname: "session"}, 20, "the first look")
        running.reload(pool_mode="transaction")
        wait_until(lambda: ready(sidecart)["poolers"] == {shop.dbname: "shared"}, 30, "the next look")
        assert "shares the server's sessions" in trouble(sidecart)
        refused(sidecart)


# --- start-up parameters ----------------------------------------------------------------------------------------------


def test_refused_startup_parameter_says_what_to_set(run: Run, shop: Shop) -> None:
    with run(ignore_startup_parameters="extra_float_digits") as running, SideCart(behind(running, shop)) as sidecart:
        why = trouble(sidecart)
        assert "(SQLSTATE 08P01): the server says: " in why and "unsupported startup parameter" in why
        assert f"ignore_startup_parameters = {READ_ONLY}" in why and f"ALTER ROLE … SET {READ_ONLY} = on" in why
        assert "ignore_startup_parameters" not in str(refused(sidecart))
        told = looked_at(behind(running, shop))["login"]
        assert told["state"] == "failed" and "unsupported startup parameter" in told["says"]
        assert "ignore_startup_parameters" in told["fix"] and "ignore_startup_parameters" not in told["says"]


def test_attack_pooler_drops_what_makes_the_session_read_only(run: Run, shop: Shop, plain: str) -> None:
    with run(user=plain, pool_mode="session") as running, SideCart(behind(running, shop)) as sidecart:
        assert f"the upstream did not keep {READ_ONLY} as sent" in trouble(sidecart)
        refused(sidecart)
        told = looked_at(behind(running, shop))["login"]
        assert told["state"] == "failed" and "ALTER ROLE" in told["fix"]


def test_attack_reset_undoes_what_a_pooler_has_set_in_the_place_of_a_startup_value(
    run: Run, shop: Shop, plain: str, bouncer: Bouncer
) -> None:
    """PgBouncer sends a SET on a session that was opened for somebody else: DISCARD ALL would make it read-write."""
    if bouncer.version < (1, 20):
        pytest.skip("track_extra_parameters is of PgBouncer 1.20")
    tracks = {"track_extra_parameters": READ_ONLY, "ignore_startup_parameters": ""}
    with run(user=plain, pool_mode="session", **tracks) as running:
        with psycopg.connect(running.dsn(shop.dbname), autocommit=True) as other:
            assert other.execute(f"SHOW {READ_ONLY}").fetchone() == ("off",)
        with SideCart(behind(running, shop)) as sidecart:
            assert f"the upstream did not keep {READ_ONLY} as sent" in trouble(sidecart)


def test_startup_parameters_that_pgbouncer_tracks_are_enough_for_a_role_with_its_own(
    run: Run, shop: Shop, bouncer: Bouncer
) -> None:
    if bouncer.version < (1, 20):
        pytest.skip("track_extra_parameters is of PgBouncer 1.20")
    tracks = {"track_extra_parameters": f"IntervalStyle, {READ_ONLY}", "ignore_startup_parameters": ""}
    with (
        run(pool_mode="session", **tracks) as running,
        SideCart(behind(running, shop)) as sidecart,
        psycopg.connect(sidecart.dsn, autocommit=True) as client,
    ):
        client.execute("DISCARD ALL")
        assert client.execute(f"SHOW {READ_ONLY}").fetchone() == ("on",)

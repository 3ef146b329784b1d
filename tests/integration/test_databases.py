"""Names that clients ask for: each with its own server, database, role and limits; and what a DBA sees of clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests.running import SideCart, wait_until

OTHER = "the-other-roles-password"


@pytest.fixture(scope="module")
def names(postgres: EmbeddedServer, shop: Shop, upstream: Upstream) -> Iterator[SideCart]:
    """Serve one database of the server under its own name, and others beside it."""
    postgres.sql(f"CREATE ROLE of_reports LOGIN PASSWORD '{OTHER}'; CREATE DATABASE elsewhere")
    databases = {
        "reports": {"dbname": "elsewhere", "user": "of_reports", "password": OTHER, "default_pool_size": 1},
        "narrow": {"dbname": shop.dbname, "max_client_conn": 1, "query_wait_timeout": "300ms"},
        "gone": {"dbname": "no_such_database"},
    }
    with SideCart(upstream, SIDECART_DATABASES=json.dumps(databases)) as own:
        yield own
        own.stop()
        assert OTHER not in own.log
        assert upstream.password not in own.log
        assert '"event":"bug"' not in own.log
    postgres.sql("DROP DATABASE elsewhere; DROP ROLE of_reports")


@contextmanager
def client(own: SideCart, dbname: str, **more: Any) -> Iterator[psycopg.Connection[Any]]:
    keywords = {"user": "analyst", "autocommit": True, "prepare_threshold": None} | more
    with psycopg.connect(host="127.0.0.1", port=own.port, dbname=dbname, **keywords) as connection:
        yield connection


def ask(connection: psycopg.Connection[Any], text: str) -> Any:
    return (connection.execute(text).fetchone() or (None,))[0]


def test_each_name_has_its_database_and_its_role(names: SideCart, shop: Shop) -> None:
    identity = "SELECT current_user || ' in ' || current_database()"
    with client(names, "reports") as one, client(names, "narrow") as two, client(names, shop.dbname) as three:
        assert ask(one, identity) == "of_reports in elsewhere"
        assert ask(two, identity) == f"{shop.reader} in {shop.dbname}"
        assert ask(three, identity) == f"{shop.reader} in {shop.dbname}"


def knows(connection: psycopg.Connection[Any]) -> bool:
    try:
        return bool(ask(connection, "SELECT of_both()"))
    except psycopg.errors.UndefinedFunction:
        return False


def test_two_names_of_one_database_share_its_catalogue(names: SideCart, shop: Shop, postgres: EmbeddedServer) -> None:
    wait_until(lambda: names.metric('sidecart_catalog_age_seconds{database="narrow"}') > 0, 10, "the catalogue")
    loaded = [line for line in names.log.splitlines() if '"catalogue loaded"' in line]
    databases = {json.loads(line)["database"] for line in loaded}
    assert "reports" in databases
    assert len(databases & {"narrow", shop.dbname}) == 1
    postgres.sql(
        "CREATE FUNCTION of_both() RETURNS int LANGUAGE sql AS 'SELECT 7'",
        shop.dbname,
        user=shop.owner,
        password=shop.owner_password,
    )
    try:
        with client(names, "narrow") as one, client(names, shop.dbname) as two:
            # A catalogue is not read again in the moment after it was read.
            wait_until(lambda: knows(one), 15, "a catalogue that has the function")
            assert ask(two, "SELECT of_both()") == 7
        # What one database has, another has not.
        with client(names, "reports") as three, pytest.raises(psycopg.errors.UndefinedFunction):
            ask(three, "SELECT of_both()")
    finally:
        postgres.sql("DROP FUNCTION of_both()", shop.dbname, user=shop.owner, password=shop.owner_password)


def refused(own: SideCart, dbname: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught, client(own, dbname):
        pass
    return str(caught.value)


def test_unknown_name_gets_the_names_that_are_served(names: SideCart, shop: Shop) -> None:
    text = refused(names, "analyst")
    assert 'FATAL:  database "analyst" does not exist' in text
    assert f'SideCart serves the databases "{shop.dbname}", "reports", "narrow", "gone"' in text
    assert f"connect with dbname={shop.dbname}." in text


def test_name_whose_database_the_server_has_not(names: SideCart) -> None:
    text = refused(names, "gone")
    assert 'FATAL:  database "gone" does not exist' in text
    assert "no_such_database" not in text
    with client(names, "reports") as connection:  # the server is there for others
        ask(connection, "SELECT 1")
    page = json.loads(names.get("/readyz"))
    assert page["failing"]["gone"].startswith('database "gone" does not exist: the server says: ')
    assert "reports" not in page["failing"]
    assert 'database \\"no_such_database\\" does not exist' in names.log


def test_limits_are_those_of_the_name(names: SideCart) -> None:
    with client(names, "narrow"):
        text = refused(names, "narrow")
        assert 'no more connections allowed to database "narrow" (max_client_conn)' in text
        assert "raise databases.narrow.max_client_conn" in text
    with client(names, "reports") as one, client(names, "reports") as two:
        with one.transaction():
            ask(one, "SELECT 1")
            assert names.metric('sidecart_servers{database="reports",state="active"}') == 1
        assert ask(two, "SELECT 2") == 2
        assert (
            sum(
                names.metric(f'sidecart_servers{{database="reports",state="{state}"}}')
                for state in ("active", "idle", "cleaning", "login")
            )
            == 1
        )


def test_wildcard_beside_names(upstream: Upstream, shop: Shop) -> None:
    databases = json.dumps({"reports": {"dbname": shop.dbname}})
    with SideCart(replace(upstream, dbname=""), SIDECART_DATABASES=databases) as own:
        for dbname in ("reports", shop.dbname, "postgres"):
            with client(own, dbname) as connection:
                assert ask(connection, "SELECT current_database()") == {"reports": shop.dbname}.get(dbname, dbname)
        text = refused(own, "nowhere")
        assert 'database "nowhere" does not exist' in text
        assert 'SideCart serves "reports" and the databases of the server' in text


# --- upstream.application_name ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(upstream: Upstream) -> Iterator[SideCart]:
    with SideCart(replace(upstream, application_name="{user}@{application}"), SIDECART_POOL_DEFAULT_POOL_SIZE=1) as own:
        yield own


SHOWN = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"


def test_dba_sees_the_person_and_the_client_is_told_its_own_name(named: SideCart, shop: Shop) -> None:
    with (
        client(named, shop.dbname, user="alice", application_name="report") as one,
        client(named, shop.dbname, user="bob", application_name="report") as two,
        client(named, shop.dbname, user="carol") as three,
    ):
        for _ in range(2):  # they take turns on one upstream
            assert (ask(one, SHOWN), ask(two, SHOWN), ask(three, SHOWN)) == ("alice@report", "bob@report", "carol@")
        told = [each.info.parameter_status("application_name") for each in (one, two, three)]
        assert told == ["report", "report", ""]
        # What the server has is what SHOW says: nothing is rewritten.
        assert ask(one, "SHOW application_name") == "alice@report"


def test_name_that_a_client_sets_is_composed_when_its_upstream_was_released(named: SideCart, shop: Shop) -> None:
    with (
        client(named, shop.dbname, user="alice", application_name="report") as one,
        client(named, shop.dbname, user="bob") as two,
    ):

        def told() -> str | None:
            return one.info.parameter_status("application_name")

        one.execute("SET application_name = 'monthly'")
        assert told() == "monthly"
        # The upstream that the SET ran on may serve what follows it closely.
        wait_until(lambda: ask(one, SHOWN) == "alice@monthly", 10, "the composed name")
        assert ask(two, SHOWN) == "bob@"
        assert (ask(one, SHOWN), told()) == ("alice@monthly", "monthly")
        with one.transaction():
            one.execute("SET LOCAL application_name = 'now'")
            assert (told(), ask(one, SHOWN)) == ("now", "now")
        assert told() == "monthly"
        wait_until(lambda: ask(one, SHOWN) == "alice@monthly", 10, "the composed name")
        with pytest.raises(psycopg.errors.DivisionByZero), one.transaction():
            one.execute("SET application_name = 'never'")
            one.execute("SELECT 1/0")
        assert told() == "monthly"
        wait_until(lambda: ask(one, SHOWN) == "alice@monthly", 10, "the composed name")
        for reset in ("RESET application_name", "RESET ALL", "DISCARD ALL"):
            one.execute("SET application_name = 'monthly'")
            one.execute(reset)
            assert (told(), ask(one, SHOWN), told()) == ("report", "alice@report", "report")


def test_long_names_are_cut_and_others_are_plain(named: SideCart, shop: Shop) -> None:
    with client(named, shop.dbname, user="u" * 60, application_name="zoë") as one:
        assert ask(one, SHOWN) == "u" * 60 + "@zo"
    with client(named, shop.dbname, user="zoë", application_name="x") as one:
        assert ask(one, SHOWN) == "zo?@x"

"""Clients of one upstream share prepared statements, and functions keep plans there: none holds another's settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import Shop
from tests.running import SideCart, wait_until

Connection = psycopg.Connection[Any]
ONE = {"SIDECART_POOL_DEFAULT_POOL_SIZE": 1, "SIDECART_POOL_MIN_POOL_SIZE": 1}
OBJECTS = """
CREATE TABLE customers (name text); INSERT INTO customers VALUES ('one'), ('two');
CREATE FUNCTION dated() RETURNS date STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN date '01/02/2020'; END $$;
"""
WRONGLY_IMMUTABLE = """
CREATE FUNCTION tenant() RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT current_setting('app.tenant', true) $$;
CREATE FUNCTION tenant_too() RETURNS text IMMUTABLE LANGUAGE plpgsql
    AS $$ BEGIN RETURN current_setting('app.tenant', true); END $$;
CREATE FUNCTION of_tenant() RETURNS SETOF text STABLE LANGUAGE plpgsql
    AS $$ BEGIN RETURN QUERY SELECT name FROM customers WHERE name = tenant(); END $$;
"""


@pytest.fixture(scope="module", params=["honest", "wrong"])
def one_upstream(postgres: EmbeddedServer, shop: Shop, upstream: Upstream, request: Any) -> Iterator[SideCart]:
    database = f"plans_{request.param}"
    postgres.sql(f"CREATE DATABASE {database}")
    postgres.sql(OBJECTS + (WRONGLY_IMMUTABLE if request.param == "wrong" else ""), database)
    postgres.sql(f"GRANT SELECT ON customers TO {shop.reader}", database)
    with SideCart(replace(upstream, dbname=database), **ONE) as running:
        wait_until(lambda: "catalogue loaded" in running.log, 20, "the first catalogue")
        yield running


@pytest.fixture
def pair(one_upstream: SideCart) -> Iterator[tuple[Connection, Connection]]:
    with connected(one_upstream) as first, connected(one_upstream) as second:
        yield first, second


def connected(sidecart: SideCart) -> Connection:
    return psycopg.connect(sidecart.dsn, autocommit=True, prepare_threshold=0)


def ask(connection: Connection, text: str) -> list[Any]:
    return [row[0] for row in connection.execute(text).fetchall()]


FOLDED = [
    ("bytea_output = escape", r"select '\xaabb'::bytea::text", r"\252\273", r"\xaabb"),
    ("extra_float_digits = -5", "select 3.14159::float4::text", "3", "3.14159"),
    ("quote_all_identifiers = on", "select quote_ident('abc')", '"abc"', "abc"),
    ("intervalstyle = iso_8601", "select '1 day 2 hours'::interval::text", "P1DT2H", "1 day 02:00:00"),
    ("datestyle = 'SQL, DMY'", "select date '01/02/2020' + 0 = '2020-02-01'", True, False),
    ("datestyle = 'SQL, DMY'", "select dated() = make_date(2020, 2, 1)", True, False),
    ("timezone = 'Asia/Tokyo'", "select timestamptz '2020-01-01 00:00' = '2019-12-31 15:00Z'", True, False),
]


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(("setting", "text", "mine", "others"), FOLDED)
def test_attack_plan_that_holds_what_another_client_has_set(
    pair: tuple[Connection, Connection], setting: str, text: str, mine: Any, others: Any, local: bool
) -> None:
    first, second = pair
    if local:  # what the first gets of the same statement later is what it was planned as, on a direct connection, too
        with first.transaction():
            first.execute(f"SET LOCAL {setting}")
            assert ask(first, text) == [mine]
    else:
        first.execute(f"SET {setting}")
    for _ in range(2):
        assert local or ask(first, text) == [mine]
        assert ask(second, text) == [others]
        first.execute("select 1")


def test_attack_setting_between_parse_and_bind(pair: tuple[Connection, Connection]) -> None:
    first, second = pair
    text = "select 2.71828::float4::text"
    first.execute("SET extra_float_digits = 1")
    first.pgconn.prepare(b"s", text.encode())  # parsed, and not planned
    first.execute("SET extra_float_digits = -5")
    assert ask(second, text) == ["2.71828"]
    result = first.pgconn.exec_prepared(b"s", [])
    assert result.get_value(0, 0) in (b"3", b"2.71828")
    assert ask(second, text) == ["2.71828"]


def test_attack_table_that_changes_has_a_statement_analysed_anew(
    pair: tuple[Connection, Connection], postgres: EmbeddedServer, one_upstream: SideCart
) -> None:
    """What was parsed under one DateStyle is analysed again under that of whoever binds it next (plancache.c)."""
    first, second = pair
    text = "select count(*) from customers where date '01/02/2020' = make_date(2020, 2, 1)"
    assert ask(first, text) == ask(second, text) == [0]
    first.execute("SET datestyle = 'SQL, DMY'")
    postgres.sql("ALTER TABLE customers ALTER name SET STATISTICS 50", one_upstream.database)
    name = first._prepared._names  # by now it is prepared; psycopg goes on to use its name
    assert name
    first.execute(text)
    assert ask(second, text) == [0]


@pytest.mark.parametrize("function", ["name = tenant()", "name = tenant_too()", "name in (select of_tenant())"])
@pytest.mark.parametrize("local", [False, True])
def test_attack_another_tenants_rows(
    pair: tuple[Connection, Connection], one_upstream: SideCart, function: str, local: bool
) -> None:
    if one_upstream.database != "plans_wrong":
        pytest.skip("the functions are in the other database")
    first, second = pair
    text = f"select name from customers where {function}"
    for _ in range(3):
        for connection, tenant in ((first, "one"), (second, "two")):
            with connection.transaction():
                connection.execute(f"SET {'LOCAL' if local else 'SESSION'} app.tenant = '{tenant}'")
                assert ask(connection, text) == [tenant]
        if not local:
            assert (ask(first, text), ask(second, text)) == (["one"], ["two"])


def test_statements_are_still_shared(pair: tuple[Connection, Connection]) -> None:
    first, second = pair
    for connection in pair:
        connection.execute("SET extra_float_digits = 3")
    text = "select count(*) from customers"
    assert ask(first, text) == ask(second, text) == [2]
    held = "select count(*) from pg_prepared_statements where statement = 'select count(*) from customers'"
    assert ask(first, held) == [1]


DATED = """
CREATE TABLE facts (value text); INSERT INTO facts VALUES ('old');
CREATE FUNCTION moment() RETURNS timestamptz STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN timestamptz 'now'; END $$;
CREATE FUNCTION moment_in_sql() RETURNS SETOF timestamptz STABLE LANGUAGE sql AS $$ SELECT timestamptz 'now' $$;
CREATE FUNCTION moment_inlined() RETURNS timestamptz STABLE LANGUAGE sql AS $$ SELECT timestamptz 'now' $$;
CREATE FUNCTION moment_by_label() RETURNS timestamptz IMMUTABLE LANGUAGE sql AS $$ SELECT clock_timestamp() $$;
CREATE FUNCTION fact_by_label() RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT value FROM facts $$;
"""
DATED_BY_ANOTHER = """
CREATE TABLE facts (value text); INSERT INTO facts VALUES ('old');
CREATE FUNCTION fact() RETURNS text STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT value FROM facts); END $$;
CREATE FUNCTION fact_by_label() RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN fact(); END $$;
CREATE FUNCTION first_fact() RETURNS text STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN fact_by_label(); END $$;
"""


@pytest.fixture(scope="module")
def dated(postgres: EmbeddedServer, shop: Shop, upstream: Upstream) -> Iterator[SideCart]:
    postgres.sql("CREATE DATABASE plans_dated")
    postgres.sql(DATED + f"GRANT SELECT ON facts TO {shop.reader}", "plans_dated")
    with SideCart(replace(upstream, dbname="plans_dated"), **ONE) as running:
        wait_until(lambda: "catalogue loaded" in running.log, 20, "the first catalogue")
        yield running


@pytest.mark.parametrize("name", ["moment", "moment_in_sql", "moment_inlined", "moment_by_label"])
def test_complaint_another_clients_now(dated: SideCart, name: str) -> None:
    """PostgreSQL keeps what 'now' was when a function was planned, for as long as its session lasts."""

    text = f"select {name}()"
    with connected(dated) as first, connected(dated) as second:
        second.pgconn.prepare(b"s", text.encode())
        ask(first, text)
        before = ask(first, "select clock_timestamp()")[0]
        told = second.pgconn.exec_prepared(b"s", []).get_value(0, 0)
        assert told is not None
        assert datetime.fromisoformat(told.decode()) >= before
        assert ask(second, text)[0] >= before


@pytest.fixture(scope="module")
def dated_by_another(postgres: EmbeddedServer, shop: Shop, upstream: Upstream) -> Iterator[SideCart]:
    postgres.sql("CREATE DATABASE plans_dated_by_another")
    postgres.sql(DATED_BY_ANOTHER + f"GRANT SELECT ON facts TO {shop.reader}", "plans_dated_by_another")
    with SideCart(replace(upstream, dbname="plans_dated_by_another"), **ONE) as running:
        wait_until(lambda: "catalogue loaded" in running.log, 20, "the first catalogue")
        yield running


@pytest.mark.parametrize("name", ["fact_by_label", "first_fact"])
def test_complaint_what_another_client_has_read_by_another_function(
    dated_by_another: SideCart, postgres: EmbeddedServer, name: str
) -> None:
    with connected(dated_by_another) as first, connected(dated_by_another) as second:
        postgres.sql("UPDATE facts SET value = 'old'", dated_by_another.database)
        second.pgconn.prepare(b"s", f"select {name}()".encode())
        assert ask(first, f"select {name}()") == ["old"]
        postgres.sql("UPDATE facts SET value = 'new'", dated_by_another.database)
        assert second.pgconn.exec_prepared(b"s", []).get_value(0, 0) == b"new"


def test_complaint_what_another_client_has_read(dated: SideCart, postgres: EmbeddedServer) -> None:
    with connected(dated) as first, connected(dated) as second:
        second.pgconn.prepare(b"s", b"select fact_by_label()")
        assert ask(first, "select fact_by_label()") == ["old"]
        postgres.sql("UPDATE facts SET value = 'new'", dated.database)
        assert second.pgconn.exec_prepared(b"s", []).get_value(0, 0) == b"new"

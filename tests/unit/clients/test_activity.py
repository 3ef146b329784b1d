"""What the operator is shown of the clients: each state, and never a text of SQL."""

from __future__ import annotations

from proxy import protocol as p
from proxy.clients import activity
from proxy.clients.activity import Row
from proxy.clients.time_limits import TimeLimits
from tests.unit.session.town import (
    BEGUN,
    BOUND,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    SELECTED,
    STAND_IN_FAILED,
    Guest,
    Town,
    group,
)


def row(town: Town, session: Guest) -> Row:
    [only] = activity.rows([session.client], town.now)
    return only


def state(town: Town, session: Guest) -> tuple[object, object]:
    found = row(town, session)
    return found["state"], found["since"]


def test_client_that_rests_is_idle() -> None:
    town = Town()
    session, _ = town.client(application_name="report")
    assert row(town, session) == {
        "id": 1,
        "user": "analyst",
        "database": "shop",
        "application": "report",
        "address": "127.0.0.1",
        "state": "idle",
        "since": 0.0,
        "statement": "",
        "upstream_pid": None,
        "pins": "",
    }
    limits = {"idle": 0.0, "idle_transaction": 0.0, "query": 0.0, "login": 0.0}
    session.client.sweep(town.now, TimeLimits(**limits))
    town.now += 7
    session.client.sweep(town.now, TimeLimits(**limits))
    assert state(town, session) == ("idle", 7.0)


def test_client_that_logs_in_has_no_database_yet() -> None:
    town = Town()
    client, _ = town.knock()
    [found] = activity.rows([client], town.now)
    assert (found["state"], found["database"], found["upstream_pid"]) == ("login", "", None)


def test_statement_is_told_by_its_kind_with_its_age_and_the_servers_process() -> None:
    town = Town()
    session, _ = town.client()
    session.client_data(p.query(b"select 'a secret'"))
    town.now += 3
    found = row(town, session)
    assert (found["state"], found["since"], found["statement"], found["upstream_pid"]) == (
        "active",
        3.0,
        "select",
        4711,
    )
    assert "secret" not in repr(found)
    town.link(session).says(SELECTED, READY_I)
    assert row(town, session)["state"] == "idle"


def test_statement_of_the_extended_protocol_is_told_too() -> None:
    town = Town()
    session, _ = town.client()
    for _ in range(2):  # the second time it takes the short way
        session.client_data(group(b"show timezone"))
        assert row(town, session)["statement"] == "show"
        town.link(session).says(PARSED, BOUND, p.message(p.NO_DATA), SELECTED, READY_I)


def test_transaction_is_idle_in_between_and_aborted_behind_an_error() -> None:
    town = Town()
    session, _ = town.client()
    session.client_data(p.query(b"begin"))
    assert state(town, session)[0] == "idle in transaction"
    assert row(town, session)["upstream_pid"] is None
    session.client_data(p.query(b"select 1"))
    town.link(session).says(BEGUN, READY_T, SELECTED, READY_T)
    town.now += 2
    assert state(town, session) == ("idle in transaction", 2.0)
    session.client_data(p.query(b"delete from t"))
    town.link(session).says(STAND_IN_FAILED, READY_E)
    assert state(town, session)[0] == "idle in transaction (aborted)"


def test_client_in_line_waits_since_it_came_there() -> None:
    town = Town(1)
    first, _ = town.client()
    first.client_data(p.query(b"select 1"))
    second, _ = town.client()
    second.client_data(p.query(b"select 2"))
    town.now += 4
    assert state(town, second) == ("waiting", 4.0)


def test_pin_names_its_reason() -> None:
    town = Town()
    session, _ = town.client()
    session.client_data(p.query(b"prepare p as select 1"))
    assert row(town, session)["pins"] == "prepared_statement"


def test_clients_come_in_the_order_in_which_they_came() -> None:
    town = Town()
    guests = [town.client()[0] for _ in range(3)]
    assert [found["id"] for found in activity.rows([guest.client for guest in reversed(guests)], town.now)] == [1, 2, 3]
    guests[0].client.client_lost()
    assert [found["id"] for found in activity.rows([guest.client for guest in guests], town.now)] == [2, 3]

"""Places and rates: counts that come back to nothing, buckets by their arithmetic, and bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from proxy.config.schema import ClientLimits
from proxy.session.quotas import Meter, Quotas, Rate


def through(rate: Rate, key: str, moments: list[float]) -> int:
    """Count how many of these moments the key gets through at."""
    count = 0
    for now in moments:
        if not rate.wait(key, now):
            rate.take(key, now)
            count += 1
    return count


@pytest.mark.parametrize("per_second", [0.5, 1, 3, 10, 50, 333.3, 5000])
def test_configured_rate_within_five_percent_gets_in_of_many_more(per_second: float) -> None:
    rate = Rate(per_second)
    burst = max(1.0, per_second)
    seconds = 400 / per_second
    moments = [number * seconds / 8000 for number in range(8000)]  # twenty times as many as may come
    at_once = through(rate, "a", [0.0] * int(3 * burst + 3))
    assert at_once == int(burst)  # a second's worth
    assert through(rate, "a", moments) == pytest.approx(400, rel=0.05)


def test_client_that_keeps_to_its_rate_is_never_stopped() -> None:
    rate = Rate(10)
    assert through(rate, "a", [number / 10 for number in range(1000)]) == 1000


def test_keys_are_apart() -> None:
    rate = Rate(1)
    assert through(rate, "a", [0.0] * 100) == 1
    assert through(rate, "b", [0.0] * 100) == 1


def test_wait_is_what_it_takes() -> None:
    rate = Rate(4)
    assert through(rate, "a", [10.0] * 100) == 4
    wait = rate.wait("a", 10.0)
    assert wait == pytest.approx(0.25)
    assert rate.wait("a", 10.0 + wait - 0.001) > 0
    assert rate.wait("a", 10.0 + wait) == 0


@given(
    strategies.floats(0.01, 10_000),
    strategies.lists(strategies.floats(0, 5), min_size=1, max_size=200),
)
def test_never_more_than_the_bucket_and_what_runs_into_it(per_second: float, gaps: list[float]) -> None:
    rate = Rate(per_second)
    now = 0.0
    moments = []
    for gap in gaps:
        now += gap
        moments += [now] * 3
    count = through(rate, "a", moments)
    assert count <= max(1.0, per_second) + (moments[-1] - moments[0]) * per_second + 0.1


def test_no_rate_remembers_nothing() -> None:
    rate = Rate(0)
    assert through(rate, "a", [0.0] * 1000) == 1000
    assert len(rate) == 0 and not rate


def test_full_buckets_are_forgotten() -> None:
    rate = Rate(10)
    for number in range(100):
        through(rate, str(number), [0.0] * (1 + number % 10))
    assert len(rate) == 100
    rate.forget(0.5)
    assert len(rate) == 50
    rate.forget(1.0)
    assert len(rate) == 0


def test_memory_is_bounded_and_the_busiest_stay() -> None:
    rate = Rate(0.001, max_keys=100)
    assert through(rate, "busy", [0.0]) == 1
    for number in range(1000):
        assert rate.wait("busy", 0.0) > 0 or number > 98
        through(rate, str(number), [0.0])
        if number == 50:
            assert len(rate) == 52
    assert len(rate) == 100


# --- connections ------------------------------------------------------------------------------------------------------


def test_places_by_user_and_address() -> None:
    limits = ClientLimits(max_user_client_connections=2, max_address_client_connections=3)
    exceeded: list[str] = []
    quotas = Quotas(limits, exceeded.append)
    for _ in range(3):
        assert quotas.arrive("10.0.0.1", 0.0) is None
    fourth = quotas.arrive("10.0.0.1", 0.0)
    assert fourth is not None
    assert (fourth.sqlstate, fourth.text) == ("53300", "no more connections allowed (max_address_client_connections)")
    assert fourth.detail == "3 connections are open from 10.0.0.1."
    assert quotas.arrive("10.0.0.2", 0.0) is None

    assert quotas.enter("alice", 0.0) is None
    assert quotas.enter("alice", 0.0) is None
    third = quotas.enter("alice", 0.0)
    assert third is not None
    assert (third.sqlstate, third.text) == ("53300", "no more connections allowed (max_user_client_connections)")
    assert exceeded == ["max_address_client_connections", "max_user_client_connections"]

    quotas.leave("10.0.0.1", "alice")
    assert quotas.arrive("10.0.0.1", 0.0) is None
    assert quotas.enter("alice", 0.0) is None


def test_what_has_left_leaves_nothing_behind() -> None:
    quotas = Quotas(ClientLimits(max_user_client_connections=5))
    for number in range(1000):
        quotas.arrive(f"10.0.0.{number}", 0.0)
        quotas.enter(f"user{number}", 0.0)
        quotas.leave(f"10.0.0.{number}", f"user{number}")
    quotas.leave("", "")
    assert not quotas._addresses and not quotas._users


def test_connection_rate_of_an_address_and_of_a_user() -> None:
    quotas = Quotas(ClientLimits(connection_rate=2))
    found = [quotas.arrive("10.0.0.1", 0.0) for _ in range(5)]
    assert [each is None for each in found] == [True, True, False, False, False]
    late = found[2]
    assert late is not None
    assert (late.sqlstate, late.text) == ("53400", "too many connections in a second (connection_rate)")
    assert (late.detail, late.hint) == (
        "At most 2 connections a second are served of 10.0.0.1.",
        "Try again in 0.500 s.",
    )
    assert quotas.arrive("10.0.0.2", 0.0) is None
    assert [quotas.enter("alice", 0.0) is None for _ in range(3)] == [True, True, False]
    assert quotas.arrive("10.0.0.1", 0.5) is None


def test_refused_connections_take_no_token() -> None:
    quotas = Quotas(ClientLimits(connection_rate=10))
    assert sum(quotas.arrive("10.0.0.1", number / 1000) is None for number in range(10_000)) == pytest.approx(
        110, abs=1
    )


# --- statements -------------------------------------------------------------------------------------------------------


def test_configured_statement_rate_gets_in_of_200_clients_that_ignore_it() -> None:
    # 200 clients of one user, from 200 addresses, each sending 100 statements a second for 30 seconds.
    quotas = Quotas(ClientLimits(statement_rate=100))
    passed = refused = 0
    others = 0
    for step in range(3000):
        now = step / 100
        for client in range(200):
            excess = quotas.statement("greedy", f"10.0.0.{client}", now, take=True)
            passed += excess is None
            refused += excess is not None and excess.sqlstate == "53400"
        others += quotas.statement("modest", "10.1.0.1", now, take=True) is None
    assert passed - 100 == pytest.approx(30 * 100, rel=0.05)  # the first second's worth came at once
    assert passed + refused == 600_000
    assert others == 3000


def test_statement_counts_only_where_both_rates_have_room() -> None:
    quotas = Quotas(ClientLimits(statement_rate=1))
    assert quotas.statement("alice", "10.0.0.1", 0.0, take=True) is None
    assert quotas.statement("bob", "10.0.0.1", 0.0, take=True) is not None  # the address is spent
    assert quotas.statement("bob", "10.0.0.2", 0.0, take=True) is None  # and bob was not charged for it


def test_several_statements_at_once_are_owed() -> None:
    quotas = Quotas(ClientLimits(statement_rate=10))
    meter = Meter(quotas, "alice", "10.0.0.1", lambda: now)
    now = 0.0
    assert meter.charge() is None
    meter.charge_more(499)
    meter.paid = False
    now = 49.0
    assert meter.charge() is not None
    now = 49.2
    assert meter.charge() is None


def test_statement_that_waits_pays_once() -> None:
    now = 0.0
    quotas = Quotas(ClientLimits(statement_rate=1))
    meter = Meter(quotas, "alice", "10.0.0.1", lambda: now)
    assert meter.look() is None
    assert meter.charge() is None
    assert meter.charge() is None  # the same statement, after its wait
    assert meter.look() is None
    meter.paid = False
    assert meter.look() is not None
    assert meter.charge() is not None
    now = 1.0
    assert meter.charge() is None

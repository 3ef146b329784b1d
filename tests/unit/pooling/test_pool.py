"""The pool: who gets which upstream, what is opened and closed, and that each upstream is in exactly one set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.config.schema import PoolLimits
from proxy.errors import CANNOT_CONNECT_NOW, CONNECTION_FAILURE, TOO_MANY_CONNECTIONS, CloseReason, UpstreamError
from proxy.pooling.pool import Backend, Pool, Term
from proxy.pooling.snapshot import NO_SETTINGS, Settings
from proxy.stats import Stats

PARIS = Settings.of([("timezone", "Europe/Paris")])
OSLO = Settings.of([("timezone", "Europe/Oslo")])
TENANT = Settings.of([("app.tenant", "7")])


@dataclass(eq=False)
class FakeUpstream:
    """Stand for a connection: note what it is told."""

    settings: Settings | None = NO_SETTINGS
    customs: set[str] = field(default_factory=set)
    backend: Backend = field(default_factory=lambda: Backend(address="10.0.0.1"))
    term: Term = field(default_factory=Term)
    parameters: dict[str, str] = field(default_factory=dict)
    defaults: Settings = NO_SETTINGS
    restless: bool = False
    checks: int = 0
    cancelling: bool = False
    closed: CloseReason | None = None
    recycled: list[bool] = field(default_factory=list)

    def close(self, reason: CloseReason) -> None:
        assert self.closed is None, "closed twice"
        self.closed = reason

    def recycle(self, *, discard: bool) -> None:
        self.recycled.append(discard)

    def check(self) -> None:
        self.checks += 1


@dataclass(eq=False)
class FakeWaiter:
    """Stand for a client: note what it gets, and do `then` with it."""

    name: str = "x@127.0.0.1"
    settings: Settings = NO_SETTINGS
    why: str = "running"
    got: list[Any] = field(default_factory=list)
    errors: list[UpstreamError] = field(default_factory=list)
    told: list[float] = field(default_factory=list)
    then: Callable[[Any], None] = lambda upstream: None

    @property
    def customs(self) -> frozenset[str]:
        return self.settings.customs

    def leased(self, upstream: Any) -> None:
        self.got.append(upstream)
        self.then(upstream)

    def lease_failed(self, error: UpstreamError) -> None:
        self.errors.append(error)

    def still_waiting(self, seconds: float) -> None:
        self.told.append(seconds)

    def holding(self) -> tuple[str, str]:
        return self.name, self.why


class Opener:
    """Count the logins that were started; the test ends each of them."""

    def __init__(self) -> None:
        self.calls = 0
        self.probes = 0

    def open(self, pool: Pool) -> None:
        self.calls += 1

    def probe(self, pool: Pool) -> None:
        self.probes += 1


def make(**limits: Any) -> tuple[Pool, Opener]:
    values = {
        "default_pool_size": 2,
        "min_pool_size": 1,
        "max_logins": 2,
        "server_lifetime": 1000.0,
        "server_check_delay": 0.0,
    } | limits
    opener = Opener()
    return Pool("shop", PoolLimits(**values), opener, Stats(), lambda: 1.0), opener


def lease(pool: Pool, who: FakeWaiter, now: float, *, fresh: bool = False) -> Any:
    return pool.lease(who, who.settings, now, fresh=fresh)


def login_failed(*, transient: bool = True) -> UpstreamError:
    return UpstreamError("no way", reason=CloseReason.UPSTREAM_LOGIN, transient=transient)


def open_idle(pool: Pool, count: int = 1, now: float = 0.0) -> list[FakeUpstream]:
    """Bring `count` idle upstreams into the pool, each through a login of its own."""
    made = []
    for _ in range(count):
        pool.opening += 1
        upstream = FakeUpstream()
        pool.opened(upstream, now)
        made.append(upstream)
    return made


def test_a_server_that_was_replaced_is_greeted_for_anew() -> None:
    pool, _ = make(default_pool_size=3)

    def log_in(**reported: str) -> None:
        pool.opening += 1
        pool.opened(FakeUpstream(parameters=reported), 0.0)

    log_in(server_version="14.23", in_hot_standby="on")
    pool.greetings[NO_SETTINGS] = {"server_version": "14.23"}
    log_in(server_version="14.23", in_hot_standby="on")
    assert pool.greetings == {NO_SETTINGS: {"server_version": "14.23"}}
    log_in(server_version="14.23", in_hot_standby="off")
    assert pool.greetings == {}


# --- lease and release ------------------------------------------------------------------------------------------------


def test_lease_takes_an_idle_upstream_at_once() -> None:
    pool, opener = make()
    (upstream,) = open_idle(pool)
    who = FakeWaiter()
    assert lease(pool, who, 1.0) is upstream
    assert pool.leased == {upstream: who}
    assert (pool.idle, pool.size, opener.calls, who.got) == ([], 1, 0, [])


def test_release_makes_it_idle_from_now_on() -> None:
    pool, _ = make()
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 1.0)
    pool.release(upstream, 7.0)
    assert (pool.idle, pool.leased, upstream.term.idle_since, upstream.recycled) == ([upstream], {}, 7.0, [])


def test_lease_without_idle_opens_one_and_waits() -> None:
    pool, opener = make()
    who = FakeWaiter()
    assert lease(pool, who, 1.0) is None
    assert (opener.calls, pool.opening, list(pool.waiting)) == (1, 1, [who])
    upstream = FakeUpstream()
    pool.opened(upstream, 3.0)
    assert who.got == [upstream]
    assert pool.leased == {upstream: who}
    assert (pool.opening, len(pool.waiting)) == (0, 0)
    assert pool._stats.queue_wait.total == 2.0


def test_newcomer_does_not_overtake_the_line() -> None:
    pool, _ = make(default_pool_size=1)
    first, second = FakeWaiter("first"), FakeWaiter("second")
    (upstream,) = open_idle(pool)
    third = FakeWaiter("third")
    # While `first` is being served, `third` asks: an upstream is idle for a moment, yet `second` came before.
    first.then = lambda _: (pool.release(upstream, 2.0), third.got.append(lease(pool, third, 2.0)))
    lease(pool, FakeWaiter(), 0.0)
    lease(pool, first, 1.0)
    lease(pool, second, 1.0)
    pool.release(upstream, 2.0)
    assert second.got == [upstream]
    assert third.got == [None]
    assert list(pool.waiting) == [third]


def test_line_is_served_first_come_first_served() -> None:
    pool, _ = make(default_pool_size=1)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)
    order: list[str] = []
    line = [FakeWaiter(str(number)) for number in range(5)]
    for who in line:
        who.then = lambda _, who=who: order.append(who.name)
        assert lease(pool, who, 1.0) is None
    for _ in line:
        pool.release(upstream, 2.0)
    assert order == ["0", "1", "2", "3", "4"]


def test_waiter_that_leaves_is_not_served() -> None:
    pool, _ = make(default_pool_size=1)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)
    gone, stays = FakeWaiter(), FakeWaiter()
    lease(pool, gone, 1.0)
    lease(pool, stays, 1.0)
    assert pool.leave(gone) is True
    assert pool.leave(gone) is False
    pool.release(upstream, 2.0)
    assert (gone.got, stays.got) == ([], [upstream])


def test_upstream_opened_for_a_waiter_that_left_becomes_idle() -> None:
    pool, _ = make()
    who = FakeWaiter()
    lease(pool, who, 0.0)
    pool.leave(who)
    upstream = FakeUpstream()
    pool.opened(upstream, 1.0)
    assert (pool.idle, who.got) == ([upstream], [])


def test_idle_upstream_with_equal_settings_is_preferred_then_the_last_used() -> None:
    pool, _ = make(default_pool_size=3)
    first, second, third = open_idle(pool, 3)
    first.settings, second.settings, third.settings = PARIS, None, OSLO
    assert lease(pool, FakeWaiter(settings=PARIS), 1.0) is first
    assert lease(pool, FakeWaiter(settings=PARIS), 1.0) is third
    assert lease(pool, FakeWaiter(settings=PARIS), 1.0) is second


# --- dotted settings --------------------------------------------------------------------------------------------------


def tenant(name: str = "tenant") -> FakeWaiter:
    return FakeWaiter(name, settings=TENANT)


def mark(*upstreams: FakeUpstream) -> None:
    """Let a client have set a dotted setting on these."""
    for upstream in upstreams:
        upstream.customs |= TENANT.customs


def test_upstream_on_which_a_dotted_setting_was_set_is_not_lent_to_a_client_that_never_set_it() -> None:
    pool, opener = make(default_pool_size=3)
    clean, marked = open_idle(pool, 2)
    mark(marked)
    assert lease(pool, FakeWaiter(), 1.0) is clean
    assert lease(pool, FakeWaiter(), 1.0) is None
    assert (pool.idle, marked.closed, opener.calls) == ([marked], None, 1)  # there is room for a new one


def test_equal_settings_do_not_hide_that_a_dotted_setting_was_set() -> None:
    pool, _ = make()
    (marked,) = open_idle(pool)
    mark(marked)
    assert marked.settings is NO_SETTINGS  # RESET app.tenant: it reads '' from now on
    assert lease(pool, FakeWaiter(), 1.0) is None


def test_client_of_a_dotted_setting_takes_an_upstream_that_has_it_and_leaves_the_others_clean() -> None:
    pool, _ = make(default_pool_size=3)
    first, marked, last = open_idle(pool, 3)
    mark(marked)
    assert [lease(pool, tenant(), 1.0) for _ in range(3)] == [marked, last, first]


def test_client_of_other_dotted_settings_does_not_suit_either() -> None:
    pool, _ = make()
    (marked,) = open_idle(pool)
    mark(marked)
    assert lease(pool, FakeWaiter(settings=Settings.of([("app.user", "x")])), 1.0) is None


def test_in_a_full_pool_the_one_that_has_rested_longest_gives_way() -> None:
    pool, opener = make(default_pool_size=2)
    first, second = open_idle(pool, 2)
    mark(first, second)
    who = FakeWaiter()
    assert lease(pool, who, 1.0) is None
    assert (first.closed, second.closed, opener.calls, pool.size) == (CloseReason.REPLACED, None, 1, 2)
    fresh = FakeUpstream()
    pool.opened(fresh, 2.0)
    assert (who.got, pool.idle) == ([fresh], [second])


def test_slow_login_of_the_first_in_line_does_not_delay_those_whom_an_idle_upstream_suits() -> None:
    pool, opener = make(default_pool_size=2)
    marked, other = open_idle(pool, 2)
    mark(marked, other)
    first = FakeWaiter("first")
    lease(pool, first, 1.0)
    assert opener.calls == 1
    newcomer = tenant()
    assert lease(pool, newcomer, 2.0) is other
    behind = tenant("behind")
    lease(pool, behind, 3.0)
    pool.release(other, 4.0)
    assert behind.got == [other]
    assert (first.got, list(pool.waiting), opener.calls) == ([], [first], 1)
    fresh = FakeUpstream()
    pool.opened(fresh, 9.0)
    assert first.got == [fresh]


def test_upstream_that_does_not_suit_the_first_in_line_is_closed_for_it_however_many_it_would_suit_behind() -> None:
    pool, opener = make(default_pool_size=1)
    (upstream,) = open_idle(pool)
    lease(pool, tenant(), 0.0)
    mark(upstream)
    first, behind = FakeWaiter("first"), tenant("behind")
    lease(pool, first, 1.0)
    lease(pool, behind, 1.0)
    pool.release(upstream, 2.0)
    assert (upstream.closed, opener.calls, behind.got) == (CloseReason.REPLACED, 1, [])
    fresh = FakeUpstream()
    pool.opened(fresh, 3.0)
    assert (first.got, list(pool.waiting)) == ([fresh], [behind])
    pool.release(fresh, 4.0)
    assert behind.got == [fresh]


def test_upstream_that_came_back_goes_to_the_first_whom_it_suits_once_those_before_have_logins_under_way() -> None:
    pool, opener = make(default_pool_size=2, max_logins=2)
    kept, given = open_idle(pool, 2)
    lease(pool, tenant(), 0.0)
    lease(pool, tenant(), 0.0)
    mark(kept, given)
    first, second, third = FakeWaiter("first"), tenant("second"), FakeWaiter("third")
    for who in (first, second, third):
        lease(pool, who, 1.0)
    pool.release(kept, 2.0)
    assert (kept.closed, opener.calls) == (CloseReason.REPLACED, 1)
    pool.release(given, 3.0)
    assert (second.got, given.closed, list(pool.waiting)) == ([given], None, [first, third])


def test_no_more_gives_way_than_logins_may_be_under_way() -> None:
    pool, opener = make(default_pool_size=3, max_logins=1)
    upstreams = open_idle(pool, 3)
    mark(*upstreams)
    first, second = FakeWaiter("first"), FakeWaiter("second")
    lease(pool, first, 1.0)
    lease(pool, second, 1.0)
    assert ([upstream.closed is None for upstream in upstreams], opener.calls) == ([False, True, True], 1)
    pool.opened(FakeUpstream(), 2.0)
    assert (len(first.got), second.got) == (1, [])
    assert ([upstream.closed is None for upstream in upstreams], opener.calls) == ([False, False, True], 2)


def test_server_that_takes_no_logins_costs_one_upstream_and_the_others_go_on() -> None:
    pool, opener = make(default_pool_size=2)
    upstreams = open_idle(pool, 2)
    mark(*upstreams)
    first = FakeWaiter("first")
    for now in (1.0, 3.0, 5.0):
        lease(pool, first, now)
        pool.failed(login_failed(), now)
        assert lease(pool, tenant(), now) is upstreams[1]
        pool.release(upstreams[1], now)
        pool.tick(now + 1.0)
    assert (upstreams[0].closed, upstreams[1].closed, opener.calls) == (CloseReason.REPLACED, None, 4)


# --- fresh ones -------------------------------------------------------------------------------------------------------


def test_client_that_wants_a_fresh_upstream_gets_none_that_had_logged_in_before() -> None:
    pool, opener = make(default_pool_size=3)
    old, leased = open_idle(pool, 2)
    other, who = FakeWaiter("other"), FakeWaiter("who")
    assert lease(pool, other, 1.0) is leased
    assert lease(pool, who, 2.0, fresh=True) is None
    pool.release(leased, 3.0)
    assert (who.got, opener.calls, pool.idle) == ([], 1, [old, leased])
    fresh = FakeUpstream()
    pool.opened(fresh, 4.0)
    assert who.got == [fresh]
    pool.release(fresh, 5.0)
    lease(pool, FakeWaiter("again"), 4.5, fresh=True)
    assert lease(pool, FakeWaiter("anybody"), 6.0) is fresh


def test_in_a_full_pool_an_idle_upstream_gives_way_to_the_fresh_one() -> None:
    pool, opener = make(default_pool_size=1)
    (old,) = open_idle(pool)
    who = FakeWaiter()
    assert lease(pool, who, 1.0, fresh=True) is None
    assert (old.closed, opener.calls, pool.size) == (CloseReason.REPLACED, 1, 1)
    pool.opened(FakeUpstream(), 2.0)
    assert len(who.got) == 1


def test_upstream_that_logged_in_after_the_loss_and_served_others_is_fresh_enough() -> None:
    pool, _ = make(default_pool_size=1, max_logins=1)
    first, who = FakeWaiter("first"), FakeWaiter("who")
    lease(pool, first, 1.0)
    lease(pool, who, 1.0, fresh=True)
    fresh = FakeUpstream()
    pool.opened(fresh, 2.0)
    pool.release(fresh, 3.0)
    assert (who.got, fresh.closed) == ([fresh], None)


# --- cleaning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("discard", [False, True])
def test_recycled_upstream_is_idle_only_when_it_has_proved_to_be_clean(discard: bool) -> None:
    pool, _ = make(default_pool_size=1)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)
    pool.recycle(upstream, discard=discard)
    assert (pool.cleaning, pool.leased, pool.idle, upstream.recycled) == ({upstream}, {}, [], [discard])
    next_ = FakeWaiter()
    assert lease(pool, next_, 1.0) is None
    pool.cleaned(upstream, 2.0)
    assert next_.got == [upstream]
    assert pool.cleaning == set()


def test_upstream_with_a_cancel_under_way_is_cleaned_before_anybody_else_gets_it() -> None:
    pool, _ = make(default_pool_size=1)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)
    next_ = FakeWaiter()
    lease(pool, next_, 0.0)
    upstream.cancelling = True
    pool.release(upstream, 1.0)
    assert (upstream.recycled, pool.cleaning, next_.got) == ([False], {upstream}, [])


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["idle", "leased", "cleaning"])
def test_lost_upstream_leaves_whatever_set_it_was_in(state: str) -> None:
    pool, _ = make()
    (upstream,) = open_idle(pool)
    if state != "idle":
        lease(pool, FakeWaiter(), 0.0)
    if state == "cleaning":
        pool.recycle(upstream, discard=True)
    pool.lost(upstream, 1.0)
    assert (pool.size, pool.idle, pool.leased, pool.cleaning) == (0, [], {}, set())
    pool.lost(upstream, 2.0)  # its socket reports the end once more
    assert pool.size == 0


def test_loss_makes_room_for_those_who_wait() -> None:
    pool, opener = make(default_pool_size=1)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)
    lease(pool, FakeWaiter(), 0.0)
    assert opener.calls == 0
    pool.lost(upstream, 1.0)
    assert opener.calls == 1


# --- size -------------------------------------------------------------------------------------------------------------


def test_open_and_opening_never_exceed_the_size() -> None:
    pool, opener = make(default_pool_size=3, max_logins=10)
    open_idle(pool)
    for _ in range(10):
        lease(pool, FakeWaiter(), 0.0)
    assert (opener.calls, pool.opening, pool.size) == (2, 2, 3)


def test_logins_at_the_same_time_are_limited() -> None:
    pool, opener = make(default_pool_size=10, max_logins=2)
    for _ in range(10):
        lease(pool, FakeWaiter(), 0.0)
    assert opener.calls == 2
    pool.opened(FakeUpstream(), 1.0)
    pool.tick(1.0)
    assert (opener.calls, pool.opening) == (3, 2)


def test_no_more_is_opened_than_waits() -> None:
    pool, opener = make(default_pool_size=10, max_logins=10)
    lease(pool, FakeWaiter(), 0.0)
    pool.tick(0.1)
    pool.tick(0.2)
    assert opener.calls == 1


def test_tick_keeps_min_pool_size_open() -> None:
    pool, opener = make(default_pool_size=5, min_pool_size=3, max_logins=2)
    pool.tick(0.0)
    assert (opener.calls, pool.opening) == (2, 2)
    pool.opened(FakeUpstream(), 1.0)
    pool.tick(1.0)
    assert opener.calls == 3
    pool.opened(FakeUpstream(), 2.0)
    pool.opened(FakeUpstream(), 2.0)
    pool.tick(2.0)
    assert (opener.calls, len(pool.idle)) == (3, 3)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_back_off_doubles_up_to_server_login_retry() -> None:
    pool, opener = make(min_pool_size=1, max_logins=1, server_login_retry=15.0)
    now = 0.0
    gaps = []
    for _ in range(7):
        while opener.calls == len(gaps):
            pool.tick(now)
            now += 0.25
        failed_at = now
        pool.failed(login_failed(), now)
        calls = opener.calls
        while opener.calls == calls:
            pool.tick(now)
            now += 0.25
        gaps.append(now - 0.25 - failed_at)
    assert gaps == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]


def test_back_off_is_a_second_at_most_while_clients_wait() -> None:
    pool, opener = make(max_logins=1)
    lease(pool, FakeWaiter(), 0.0)
    for now in range(1, 8):
        pool.failed(login_failed(), now - 0.5)
        pool.tick(now)
        assert opener.calls == now
        pool.tick(now + 0.5)
        assert opener.calls == now + 1


def test_client_that_comes_in_a_long_back_off_waits_a_second_at_most_for_the_next_try() -> None:
    pool, opener = make(max_logins=1, server_login_retry=15.0)
    for now in range(6):
        pool.opening += 1
        pool.failed(login_failed(), float(now))
    lease(pool, FakeWaiter(), 6.0)
    pool.tick(7.1)
    assert opener.calls == 1


def test_upstream_that_is_away_for_days_is_still_tried() -> None:
    """The back-off's exponent grows with each failure: 2.0 ** 1024 is an OverflowError."""
    pool, opener = make()
    for number in range(3000):
        pool.opening += 1
        pool.failed(login_failed(), number * 15.0)
    pool.tick(3000 * 15.0)
    assert opener.calls == 1


def test_success_ends_the_back_off() -> None:
    pool, opener = make(max_logins=1)
    for _ in range(5):
        pool.opening += 1
        pool.failed(login_failed(), 0.0)
    assert pool.last_error is not None
    (upstream,) = open_idle(pool, now=20.0)
    assert pool.last_error is None
    pool.lost(upstream, 20.0)
    pool.opening += 1
    pool.failed(login_failed(), 20.0)
    pool.tick(21.0)  # one second, as after a first failure
    assert opener.calls == 1


def test_transient_failure_leaves_the_line_as_it_is() -> None:
    pool, _ = make()
    who = FakeWaiter()
    lease(pool, who, 0.0)
    pool.failed(login_failed(), 1.0)
    assert (who.errors, list(pool.waiting)) == ([], [who])


def test_failure_that_a_later_try_cannot_mend_fails_all_who_wait() -> None:
    pool, _ = make()
    line = [FakeWaiter() for _ in range(4)]
    for who in line:
        lease(pool, who, 0.0)
    error = login_failed(transient=False)
    pool.failed(error, 1.0)
    assert [who.errors for who in line] == [[error]] * 4
    assert not pool.waiting


def test_waiter_that_leaves_because_another_one_failed_is_not_told_too() -> None:
    pool, _ = make()
    first, second = FakeWaiter(), FakeWaiter()
    first.lease_failed = lambda error: pool.leave(second)  # type: ignore[method-assign]
    lease(pool, first, 0.0)
    lease(pool, second, 0.0)
    pool.failed(login_failed(transient=False), 1.0)
    assert second.errors == []


def test_waiter_that_asks_again_when_it_has_failed_waits_for_the_next_try() -> None:
    pool, opener = make(max_logins=1)
    who = FakeWaiter()
    tries: list[UpstreamError] = []

    def again(error: UpstreamError) -> None:
        tries.append(error)
        lease(pool, who, 1.0)

    who.lease_failed = again  # type: ignore[method-assign]
    lease(pool, who, 0.0)
    pool.failed(login_failed(transient=False), 1.0)
    assert (len(tries), list(pool.waiting), opener.calls) == (1, [who], 1)


# --- time -------------------------------------------------------------------------------------------------------------


def test_wait_ends_after_query_wait_timeout_and_names_the_holders() -> None:
    pool, _ = make(default_pool_size=2, query_wait_timeout=15.0)
    open_idle(pool, 2)
    lease(pool, FakeWaiter("a@127.0.0.1 (report)", why="pinned: setting"), 0.0)
    lease(pool, FakeWaiter("b@127.0.0.1", why="in a transaction"), 0.0)
    who = FakeWaiter()
    lease(pool, who, 0.0)
    pool.tick(14.9)
    assert who.errors == []
    pool.tick(15.0)
    (error,) = who.errors
    assert error.sqlstate == TOO_MANY_CONNECTIONS
    assert str(error).startswith("query_wait_timeout")
    assert error.detail.startswith("2 of 2 are held (1 pinned: setting, 1 in a transaction) by a@127.0.0.1 (report),")
    assert not pool.waiting


def test_wait_in_vain_where_nobody_holds_anything_says_what_was_waited_for() -> None:
    pool, _ = make(default_pool_size=1, query_wait_timeout=15.0)
    who = FakeWaiter()
    lease(pool, who, 0.0)
    pool.tick(15.0)
    (error,) = who.errors
    assert error.detail == "None is held; 1 are being opened, and 0 cleaned."


def test_wait_in_vain_for_a_login_tells_why_the_login_failed() -> None:
    pool, _ = make(query_wait_timeout=15.0)
    who = FakeWaiter()
    lease(pool, who, 0.0)
    pool.failed(login_failed(), 1.0)
    pool.tick(15.0)
    (error,) = who.errors
    assert error.sqlstate == CONNECTION_FAILURE
    assert str(error) == "server login has been failing, cached error: no way"


def test_zero_query_wait_timeout_waits_for_ever() -> None:
    pool, _ = make(query_wait_timeout=0.0, query_wait_notify=0.0)
    who = FakeWaiter()
    lease(pool, who, 0.0)
    pool.tick(1e9)
    assert (who.errors, who.told) == ([], [])


def test_waiter_is_told_once_that_it_waits() -> None:
    pool, _ = make(query_wait_timeout=15.0, query_wait_notify=5.0)
    who = FakeWaiter()
    lease(pool, who, 0.0)
    for now in (4.9, 5.0, 6.0, 7.0):
        pool.tick(now)
    assert who.told == [5.0]


def test_idle_upstream_beyond_min_pool_size_is_retired() -> None:
    pool, opener = make(default_pool_size=4, min_pool_size=2, server_idle_timeout=600.0)
    upstreams = open_idle(pool, 4)
    pool.tick(599.9)
    assert len(pool.idle) == 4
    pool.tick(600.0)
    assert [upstream.closed for upstream in upstreams] == [CloseReason.SERVER_IDLE_TIMEOUT] * 2 + [None] * 2
    assert (pool.idle, opener.calls) == (upstreams[2:], 0)


def test_idle_upstream_stays_with_zero_server_idle_timeout() -> None:
    pool, _ = make(default_pool_size=4, server_idle_timeout=0.0, server_lifetime=1e9)
    open_idle(pool, 4)
    pool.tick(1e8)
    assert len(pool.idle) == 4


def test_old_idle_upstream_is_replaced() -> None:
    pool, opener = make(server_lifetime=100.0)
    (upstream,) = open_idle(pool)
    pool.tick(99.9)
    assert upstream.closed is None
    pool.tick(100.0)
    assert upstream.closed is CloseReason.SERVER_LIFETIME
    assert (pool.idle, opener.calls) == ([], 1)


def test_old_leased_upstream_ends_when_it_comes_back() -> None:
    pool, opener = make(default_pool_size=1, server_lifetime=100.0)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)
    who = FakeWaiter()
    lease(pool, who, 90.0)
    pool.tick(101.0)
    assert upstream.closed is None
    pool.release(upstream, 102.0)
    assert upstream.closed is CloseReason.SERVER_LIFETIME
    assert (who.got, opener.calls, pool.size) == ([], 1, 1)


def test_jitter_spreads_the_ends() -> None:
    factors = iter([0.9, 1.1])
    pool = Pool("shop", PoolLimits(server_lifetime=100.0), Opener(), Stats(), lambda: next(factors))
    first, second = open_idle(pool, 2)
    assert (first.term.expires, second.term.expires) == (pytest.approx(90.0), pytest.approx(110.0))


# --- signs of life ----------------------------------------------------------------------------------------------------


def silence() -> UpstreamError:
    return UpstreamError("no answer", reason=CloseReason.SERVER_CHECK)


def test_quiet_server_is_asked_for_a_sign_of_life_on_one_idle_upstream() -> None:
    pool, _ = make(default_pool_size=4, min_pool_size=2, server_check_delay=10.0)
    first, second = open_idle(pool, 2)
    pool.tick(9.9)
    assert (first.checks, second.checks) == (0, 0)
    pool.tick(10.0)
    pool.tick(10.25)
    assert (first.checks, second.checks, pool.cleaning, pool.idle) == (1, 0, {first}, [second])


def test_upstream_that_answers_has_rested_all_the_while_and_the_next_check_takes_another() -> None:
    pool, _ = make(default_pool_size=4, min_pool_size=1, server_check_delay=10.0, server_idle_timeout=30.0)
    (first,), (second,) = open_idle(pool), open_idle(pool, now=1.0)
    pool.tick(11.0)
    pool.answered(first, 11.5)
    assert (pool.idle, first.term.idle_since, first.term.heard, pool.trouble) == ([first, second], 0.0, 11.5, "")
    pool.tick(21.25)
    assert second.checks == 0
    pool.tick(21.5)
    assert (first.checks, second.checks) == (1, 1)
    pool.answered(second, 21.6)
    pool.tick(30.0)  # no check keeps an upstream open that nobody uses
    assert (first.closed, second.closed) == (CloseReason.SERVER_IDLE_TIMEOUT, None)


def test_server_that_serves_clients_is_not_asked() -> None:
    pool, _ = make(server_check_delay=10.0)
    resting, used = open_idle(pool, 2)
    for now in range(1, 60):
        assert lease(pool, FakeWaiter(), now) is used
        pool.release(used, now + 0.5)
        pool.tick(now + 0.75)
    assert (resting.checks, used.checks) == (0, 0)


def test_zero_server_check_delay_asks_never() -> None:
    pool, _ = make(server_check_delay=0.0, server_lifetime=1e9)
    (upstream,) = open_idle(pool)
    pool.tick(1e6)
    assert upstream.checks == 0


def test_client_that_comes_during_a_check_gets_the_upstream_afterwards() -> None:
    pool, _ = make(default_pool_size=1, server_check_delay=10.0)
    (upstream,) = open_idle(pool)
    pool.tick(10.0)
    who = FakeWaiter()
    assert lease(pool, who, 10.1) is None
    pool.answered(upstream, 10.2)
    assert who.got == [upstream]


def test_silent_upstream_casts_doubt_on_all_that_are_idle_until_the_server_is_heard() -> None:
    pool, opener = make(default_pool_size=4, min_pool_size=2, server_check_delay=10.0)
    first, second, third = open_idle(pool, 3)
    pool.tick(10.0)
    pool.silent(first, silence(), 15.0)
    assert (pool.idle, pool.cleaning, second.checks, third.checks) == ([], {second, third}, 1, 1)
    assert pool.trouble == "no answer"
    pool.answered(third, 15.1)  # one connection was dead, the server is not
    assert (pool.trouble, pool.idle, opener.calls) == ("", [third], 0)


def test_silent_server_is_in_trouble_until_a_login_succeeds() -> None:
    pool, opener = make(default_pool_size=1, min_pool_size=1, server_check_delay=10.0)
    (upstream,) = open_idle(pool)
    pool.tick(10.0)
    pool.silent(upstream, silence(), 15.0)
    pool.tick(15.25)
    assert (opener.calls, pool.trouble) == (1, "no answer")
    pool.failed(login_failed(), 25.25)
    assert pool.trouble == "no way"
    pool.tick(26.5)
    pool.opened(FakeUpstream(), 27.0)
    assert pool.trouble == ""


def test_busy_server_that_answers_nobody_is_asked_beside_the_pool() -> None:
    """Else nothing would tell of it: whoever waits for a statement waits for as long as it takes."""
    pool, opener = make(default_pool_size=2, min_pool_size=1, server_check_delay=10.0)
    upstreams = open_idle(pool, 2)
    for _ in upstreams:
        lease(pool, FakeWaiter(), 1.0)
    for now in (9.0, 10.0, 10.25, 14.0):
        pool.tick(now)
    assert opener.probes == 1
    pool.hung(silence(), 15.0)
    assert pool.trouble == "no answer"
    assert all(upstream.closed is None for upstream in upstreams)  # it may come back
    for now in (15.25, 20.0, 20.25):
        pool.tick(now)
    assert opener.probes == 2
    pool.alive(20.5)
    assert pool.trouble == ""


def test_busy_server_is_heard_of_again_with_the_first_answer() -> None:
    pool, _ = make(default_pool_size=1, server_check_delay=10.0)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 1.0)
    pool.tick(10.0)
    pool.hung(silence(), 15.0)
    pool.release(upstream, 16.0)
    assert pool.trouble == ""


def test_server_that_serves_busy_clients_is_not_asked() -> None:
    pool, opener = make(default_pool_size=2, server_check_delay=10.0)
    used, held = open_idle(pool, 2)
    assert lease(pool, FakeWaiter(), 0.0) is held
    for now in range(1, 60):
        assert lease(pool, FakeWaiter(), now) is used
        pool.tick(now + 0.25)
        pool.release(used, now + 0.5)
    assert opener.probes == 0


def test_upstream_that_is_cleaned_keeps_no_check_away() -> None:
    pool, opener = make(default_pool_size=1, server_check_delay=10.0)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 1.0)
    pool.recycle(upstream, discard=False)
    pool.tick(10.0)
    assert opener.probes == 1


def test_wait_in_vain_for_a_server_that_hangs_says_so() -> None:
    pool, _ = make(default_pool_size=1, query_wait_timeout=15.0, server_check_delay=10.0)
    open_idle(pool)
    lease(pool, FakeWaiter(), 1.0)
    who = FakeWaiter()
    lease(pool, who, 1.0)
    pool.hung(silence(), 15.0)
    pool.tick(16.0)
    assert [(str(error), error.sqlstate) for error in who.errors] == [("no answer", CANNOT_CONNECT_NOW)]


def test_failing_login_is_trouble_although_open_upstreams_still_serve() -> None:
    """A password that was changed upstream lets old connections live: a release must not make it look well."""
    pool, _ = make(default_pool_size=3)
    (upstream,) = open_idle(pool)
    pool.opening += 1
    pool.failed(login_failed(), 1.0)
    lease(pool, FakeWaiter(), 2.0)
    pool.release(upstream, 3.0)
    assert pool.trouble == "no way"


def test_pool_that_has_reached_nothing_yet_is_in_trouble() -> None:
    pool, _ = make()
    assert pool.trouble == "the upstream has not been reached yet"
    open_idle(pool)
    assert pool.trouble == ""


# --- drain ------------------------------------------------------------------------------------------------------------


def test_drain_closes_what_is_idle_and_whatever_comes_back() -> None:
    pool, opener = make(default_pool_size=4, min_pool_size=4)
    idle, leased, cleaning = open_idle(pool, 3)
    pool.leased[leased] = FakeWaiter()
    pool.leased[cleaning] = FakeWaiter()
    pool.idle = [idle]
    pool.recycle(cleaning, discard=True)
    pool.opening += 1
    pool.drain()
    assert (idle.closed, leased.closed, cleaning.closed) == (CloseReason.DRAIN, None, None)
    pool.release(leased, 1.0)
    pool.cleaned(cleaning, 1.0)
    late = FakeUpstream()
    pool.opened(late, 1.0)
    assert {leased.closed, cleaning.closed, late.closed} == {CloseReason.DRAIN}
    pool.tick(2.0)
    assert (pool.size, opener.calls) == (0, 0)


def test_draining_pool_opens_nothing() -> None:
    pool, opener = make()
    pool.drain()
    assert lease(pool, FakeWaiter(), 0.0) is None
    pool.tick(1.0)
    assert opener.calls == 0


# --- dispatch ---------------------------------------------------------------------------------------------------------


def test_five_thousand_waiters_that_end_at_once_need_no_recursion() -> None:
    pool, _ = make(default_pool_size=1)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)
    line = [FakeWaiter(then=lambda got: pool.release(got, 2.0)) for _ in range(5000)]
    for who in line:
        lease(pool, who, 1.0)
    pool.release(upstream, 2.0)
    assert all(who.got == [upstream] for who in line)
    assert (pool.idle, len(pool.waiting), pool.leased) == ([upstream], 0, {})


def test_five_thousand_waiters_whose_upstream_is_lost_at_once_need_no_recursion() -> None:
    pool, opener = make(default_pool_size=1, max_logins=1, query_wait_timeout=0.0)
    line = [FakeWaiter(then=lambda got: pool.lost(got, 2.0)) for _ in range(5000)]
    for who in line:
        lease(pool, who, 1.0)
    served = 0
    while pool.opening:
        pool.opened(FakeUpstream(), 2.0)
        served += 1
        assert pool.size <= 1
    assert all(len(who.got) == 1 for who in line)
    assert (served, opener.calls) == (5000, 5000)


def test_five_thousand_waiters_that_fail_at_once_and_ask_again_need_no_recursion() -> None:
    pool, opener = make(max_logins=1)
    failed: list[FakeWaiter] = []
    line = [FakeWaiter() for _ in range(5000)]
    for who in line:
        who.lease_failed = lambda error, who=who: (failed.append(who), lease(pool, who, 1.0))  # type: ignore[method-assign]
        lease(pool, who, 0.0)
    pool.failed(login_failed(transient=False), 1.0)
    assert failed == line
    assert (len(pool.waiting), opener.calls) == (5000, 1)


def test_dispatch_goes_on_after_a_waiter_has_raised() -> None:
    pool, _ = make(default_pool_size=2)
    (upstream,) = open_idle(pool)
    lease(pool, FakeWaiter(), 0.0)

    def broken(_: Any) -> None:
        raise RuntimeError("a bug")

    lease(pool, FakeWaiter(then=broken), 1.0)
    sound = FakeWaiter()
    lease(pool, sound, 1.0)
    with pytest.raises(RuntimeError, match="a bug"):
        pool.release(upstream, 2.0)
    pool.lost(upstream, 2.0)
    fresh = FakeUpstream()
    pool.opened(fresh, 3.0)
    assert sound.got == [fresh]


def test_repr_shows_the_state_in_one_line() -> None:
    pool, _ = make()
    open_idle(pool)
    assert repr(pool) == "<Pool shop idle=1 leased=0 cleaning=0 opening=0 waiting=0>"


# --- everything in any order ------------------------------------------------------------------------------------------


class PoolMachine(RuleBasedStateMachine):
    """Do anything in any order; a shadow of this test's own says in which one set each upstream has to be."""

    @initialize(
        size=strategies.integers(1, 4),
        least=strategies.integers(1, 2),
        logins=strategies.integers(1, 3),
    )
    def start(self, size: int, least: int, logins: int) -> None:
        self.opener = Opener()
        limits = PoolLimits(
            default_pool_size=size,
            min_pool_size=min(size, least),
            max_logins=logins,
            server_lifetime=60.0,
            server_idle_timeout=20.0,
            server_check_delay=5.0,
        )
        self.pool = Pool("shop", limits, self.opener, Stats(), lambda: 1.0)
        self.now = 0.0
        self.ended = 0
        self.upstreams: list[FakeUpstream] = []
        self.line: list[FakeWaiter] = []
        self.holds: dict[FakeWaiter, FakeUpstream] = {}
        self.lost: set[FakeUpstream] = set()
        self.after: dict[FakeWaiter, float] = {}
        self.served: list[FakeWaiter] = []

    def _suits(self, upstream: FakeUpstream, who: FakeWaiter) -> bool:
        return upstream.customs <= who.customs and upstream.term.born >= self.after.get(who, 0.0)

    def _waiter(self, hasty: bool, customs: str) -> FakeWaiter:
        base = PARIS if len(self.line) % 2 else NO_SETTINGS
        who = FakeWaiter(settings=Settings.of([*base.items, *((f"app.{each}", "") for each in customs)]))

        def take(upstream: FakeUpstream) -> None:
            assert self._suits(upstream, who)
            for before in self.line[: self.line.index(who)]:
                assert before not in self.pool.waiting or not self._suits(upstream, before), "overtaken"
            upstream.customs |= who.customs
            self.served.append(who)
            self.holds[who] = upstream
            if hasty:
                del self.holds[who]
                self.pool.release(upstream, self.now)

        who.then = take
        return who

    @rule(
        hasty=strategies.booleans(), customs=strategies.sampled_from(["", "a", "b", "ab"]), fresh=strategies.booleans()
    )
    def lease(self, hasty: bool, customs: str, fresh: bool) -> None:
        who = self._waiter(hasty, customs)
        if fresh:
            self.after[who] = self.now
        upstream = lease(self.pool, who, self.now, fresh=fresh)
        if upstream is None:
            self.line.append(who)
        else:
            assert self._suits(upstream, who)
            assert not any(self._suits(upstream, each) for each in self.line), "overtaken"
            upstream.customs |= who.customs
            self.holds[who] = upstream

    @precondition(lambda self: self.holds)
    @rule(which=strategies.integers(0), how=strategies.sampled_from(["release", "cancelling", "recycle", "lost"]))
    def give_back(self, which: int, how: str) -> None:
        who = list(self.holds)[which % len(self.holds)]
        upstream = self.holds.pop(who)
        if how == "recycle":
            self.pool.recycle(upstream, discard=True)
        elif how == "lost":
            self.lost.add(upstream)
            self.pool.lost(upstream, self.now)
        else:
            upstream.cancelling = how == "cancelling"
            self.pool.release(upstream, self.now)

    @precondition(lambda self: self.pool.cleaning)
    @rule(clean=strategies.booleans())
    def end_cleaning(self, clean: bool) -> None:
        upstream = next(each for each in self.upstreams if each in self.pool.cleaning)
        upstream.cancelling = False
        checked, upstream.checks = upstream.checks, 0
        if clean:
            (self.pool.answered if checked else self.pool.cleaned)(upstream, self.now)
        elif checked:
            self.lost.add(upstream)
            self.pool.silent(upstream, silence(), self.now)
        else:
            self.lost.add(upstream)
            self.pool.lost(upstream, self.now)

    @precondition(lambda self: self.opener.calls > self.ended)
    @rule(outcome=strategies.sampled_from(["opened", "failed", "hopeless"]))
    def end_login(self, outcome: str) -> None:
        self.ended += 1
        if outcome == "opened":
            upstream = FakeUpstream()
            self.upstreams.append(upstream)
            self.pool.opened(upstream, self.now)
        else:
            self.pool.failed(login_failed(transient=outcome == "failed"), self.now)

    @precondition(lambda self: self.line)
    @rule(which=strategies.integers(0))
    def leave(self, which: int) -> None:
        who = self.line[which % len(self.line)]
        assert self.pool.leave(who) is True

    @precondition(lambda self: self.pool.idle)
    @rule()
    def lose_idle(self) -> None:
        upstream = self.pool.idle[0]
        self.lost.add(upstream)
        self.pool.lost(upstream, self.now)

    @rule(seconds=strategies.sampled_from([0.25, 1.0, 6.0, 16.0, 61.0]))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.pool.tick(self.now)

    @rule()
    def drain(self) -> None:
        self.pool.drain()

    @invariant()
    def each_upstream_is_in_exactly_one_set(self) -> None:
        pool = self.pool
        for upstream in self.upstreams:
            over = upstream.closed is not None or upstream in self.lost
            places = pool.idle.count(upstream) + (upstream in pool.leased) + (upstream in pool.cleaning)
            assert places == (0 if over else 1), (pool, upstream)
        assert len(pool.idle) + len(pool.leased) + len(pool.cleaning) <= len(self.upstreams)
        assert pool.leased == {upstream: who for who, upstream in self.holds.items()}

    @invariant()
    def counts_are_lengths_and_bounded(self) -> None:
        pool = self.pool
        assert pool.opening == self.opener.calls - self.ended
        assert pool.size == len(pool.idle) + len(pool.leased) + len(pool.cleaning) + pool.opening
        assert pool.size <= pool.limits.default_pool_size
        assert pool.opening <= pool.limits.max_logins

    @invariant()
    def line_keeps_its_order_and_nobody_is_forgotten(self) -> None:
        self.line = [who for who in self.line if not who.got and not who.errors and who in self.pool.waiting]
        assert list(self.pool.waiting) == self.line
        for upstream in self.pool.idle:
            assert not any(self._suits(upstream, who) for who in self.line), "somebody waits beside what suits"

    @invariant()
    def who_waits_beside_idle_upstreams_has_a_login_under_way_if_one_may_start(self) -> None:
        pool = self.pool
        possible = not pool.draining and self.now >= pool._retry_at and pool.opening < pool.limits.max_logins
        assert not (pool.idle and possible and len(pool.waiting) > pool.opening)

    @invariant()
    def closed_upstreams_have_a_reason_and_drained_pools_keep_nothing_idle(self) -> None:
        assert not (self.pool.draining and self.pool.idle)
        # `holds` maps clients to upstreams: no upstream has two clients.
        assert len(set(map(id, self.holds.values()))) == len(self.holds)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestPoolInAnyOrder = PoolMachine.TestCase


# --- a server that moves ----------------------------------------------------------------------------------------------


def test_idle_upstreams_of_an_old_address_close_at_once_and_leased_ones_when_they_are_free() -> None:
    pool, opener = make(min_pool_size=2)
    old, busy, new = (
        FakeUpstream(backend=Backend(address=address)) for address in ("10.0.0.1", "10.0.0.1", "10.0.0.2")
    )
    for upstream in (busy, old, new):
        pool.opening += 1
        pool.opened(upstream, 0.0)
    waiter = FakeWaiter()
    pool.idle.remove(busy)
    pool.leased[busy] = waiter
    started = opener.calls
    pool.depart(lambda address: address == "10.0.0.2", 1.0)
    assert (old.closed, busy.closed, new.closed) == (CloseReason.ADDRESS_CHANGED, None, None)
    assert pool.idle == [new]
    assert pool.size == 2
    assert opener.calls == started
    pool.release(busy, 2.0)
    assert busy.closed is CloseReason.ADDRESS_CHANGED
    pool.tick(3.0)
    assert opener.calls == started + 1  # min_pool_size


def test_departure_replaces_what_it_has_closed() -> None:
    pool, opener = make(min_pool_size=2)
    pool.opening += 1
    pool.opened(FakeUpstream(), 0.0)
    started = opener.calls
    pool.depart(lambda address: False, 1.0)
    assert not pool.idle
    assert opener.calls == started + 2


# --- a role that is refused -------------------------------------------------------------------------------------------


def test_refused_role_ends_every_upstream_and_tells_all_who_wait() -> None:
    pool, opener = make(default_pool_size=3, min_pool_size=1)
    idle, leased, cleaning = open_idle(pool, 3)
    holder, waiter, other = FakeWaiter(), FakeWaiter(), FakeWaiter()
    assert lease(pool, holder, 1.0) is cleaning
    assert lease(pool, other, 1.0) is leased
    pool.recycle(cleaning, discard=False)
    pool.greetings[NO_SETTINGS] = {}
    pool.waiting.clear()
    error = UpstreamError("its role writes", reason=CloseReason.ROLE_REFUSED, transient=False)
    third = lease(pool, FakeWaiter(), 1.0)
    assert third is idle
    assert lease(pool, waiter, 1.0) is None
    pool.refuse(error)
    assert {each.closed for each in (idle, leased, cleaning)} == {CloseReason.ROLE_REFUSED}
    assert waiter.errors == [error]
    assert (pool.last_error, pool.greetings, pool.idle) == (error, {}, [])
    # Their sockets end a little later.
    for upstream in (idle, leased, cleaning):
        pool.lost(upstream, 2.0)
    assert pool.size == 0
    # The next one in line waits for a login, which finds out whether the role has been mended.
    assert lease(pool, waiter, 3.0) is None
    assert opener.calls > 0
    pool.failed(error, 4.0)
    assert waiter.errors == [error, error]

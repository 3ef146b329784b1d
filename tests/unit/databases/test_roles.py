"""When the role of a database is looked at, what is said of it, and who is served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.databases.helpers.messages import Results
from proxy.databases.ports import Around
from proxy.databases.roles import AGAIN, INTERVAL, RETRY, UNPROVED_LOOKS, RoleWatch
from proxy.errors import CANNOT_CONNECT_NOW, CloseReason, UpstreamError
from proxy.filter import Filter
from proxy.role.findings import Severity
from proxy.sql.cache import VerdictCache
from proxy.sql.catalog import Catalog
from proxy.sql.policy import Policy
from proxy.stats import Stats
from proxy.tasks import Tasks
from tests.unit.session.town import Quiet


def rows(*grants: str, standby: bool = True) -> Results:
    """Return the answer of a server where the role has INSERT on these tables."""
    head = ["UTF8", "public", "150018", "15.18", "shop", "owner", "t" if standby else "f", "0", "f", "reader"]
    head += [*"fffff", "f", "", "", ""]
    granted = [["table", f"TABLE public.{name}", "INSERT", "f", "", "owner"] for name in grants]
    sets = [[head], [], [], granted, [], [], [], [], []]
    return [[[value.encode() for value in row] for row in rows] for rows in sets]


DOWN = UpstreamError("down", reason=CloseReason.UPSTREAM_LOGIN)


class Ward:
    """A database, a clock and a log: looks end when the test says so."""

    def __init__(self, refuse: bool, refresh: float) -> None:
        self.now = 1000.0
        self.log = Quiet()
        self.stats = Stats()
        self.tasks = Tasks()
        self.refused: list[UpstreamError] = []
        self.looks: list[asyncio.Future[Results]] = []
        self._refuse = refuse
        self._refresh = refresh
        self.judges_by(Catalog(version=150018))

    def judges_by(self, catalog: Catalog | None) -> None:
        judge = Filter(Policy(server_version=150000), VerdictCache(1 << 20))
        if catalog is not None:
            judge.learn_catalog(catalog)
        around = Around(self.stats, self.log, self.tasks, lambda: self.now, lambda: 1.0)
        refused = self.refused.append
        self.watch = RoleWatch("shop", judge, self._refresh, self._fetch, refused, around, refuses=self._refuse)

    async def _fetch(self, query: bytes) -> Results:
        assert b"current_user" in query
        self.looks.append(asyncio.get_running_loop().create_future())
        return await self.looks[-1]

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def ends(self, answer: Results | Exception) -> None:
        """End the look under way."""
        await self.settle()
        (look,) = self.looks
        self.looks.clear()
        if isinstance(answer, Exception):
            look.set_exception(answer)
        else:
            look.set_result(answer)
        await self.settle()

    async def passes(self, seconds: float) -> int:
        """Let time pass, and return how many looks are under way."""
        self.now += seconds
        self.watch.tick(self.now)
        await self.settle()
        return len(self.looks)

    def login(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.watch.admit())

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.log.events if name == event]


def in_ward(work: Callable[[Ward], Coroutine[Any, Any, None]], *, refuse: bool = False, refresh: float = 60.0) -> Ward:
    async def run() -> Ward:
        ward = Ward(refuse, refresh)
        await work(ward)
        await ward.tasks.stop()
        return ward

    return asyncio.run(run())


# --- warn -------------------------------------------------------------------------------------------------------------


def test_nobody_waits_for_a_warning() -> None:
    async def work(ward: Ward) -> None:
        await ward.login()  # ends, though nobody has answered
        assert await ward.passes(0.25) == 1
        await ward.login()
        await ward.ends(rows("orders", "payments", standby=False))
        found = ward.watch.found or ()
        assert [each.severity for each in found] == [Severity.CRITICAL, Severity.CRITICAL, Severity.INFO]
        await ward.login()

    ward = in_ward(work)
    assert ward.refused == []
    assert ward.stats.role_checks == {"done": 1}
    # A line for each kind, and one for the whole.
    assert ward.said("role finding") == [
        {
            "level": "info",
            "database": "shop",
            "kind": "primary",
            "severity": "info",
            "count": 1,
            "first": "PostgreSQL 15.18",
        },
        {
            "level": "warning",
            "database": "shop",
            "kind": "writable-table",
            "severity": "critical",
            "count": 2,
            "first": "TABLE public.orders",
        },
    ]
    assert ward.said("role checked") == [{"level": "info", "database": "shop", "critical": 2, "warning": 0, "info": 1}]


def test_role_is_looked_at_again_and_what_has_not_changed_is_not_said_twice() -> None:
    async def work(ward: Ward) -> None:
        await ward.login()
        await ward.passes(0)
        await ward.ends(rows("orders"))
        assert await ward.passes(INTERVAL - 1) == 0
        assert await ward.passes(1) == 1
        await ward.ends(rows("orders"))
        assert len(ward.said("role checked")) == 1
        assert await ward.passes(INTERVAL) == 1
        await ward.ends(rows())
        assert ward.watch.found == ()

    assert len(in_ward(work).said("role checked")) == 2


@pytest.mark.parametrize(("refresh", "interval"), [(3600.0, 3600.0), (1.0, INTERVAL)])
def test_role_is_looked_at_no_more_often_than_the_catalogue(refresh: float, interval: float) -> None:
    async def work(ward: Ward) -> None:
        await ward.login()
        await ward.passes(0)
        await ward.ends(rows())
        assert await ward.passes(interval - 1) == 0
        assert await ward.passes(1) == 1
        await ward.ends(rows())

    in_ward(work, refresh=refresh)


def test_without_refresh_it_is_looked_at_once() -> None:
    async def work(ward: Ward) -> None:
        await ward.login()
        await ward.passes(0)
        await ward.ends(rows())
        assert await ward.passes(1e6) == 0

    in_ward(work, refresh=0.0)


def test_look_waits_for_the_first_catalogue_but_not_for_ever() -> None:
    async def work(ward: Ward) -> None:
        ward.judges_by(None)
        await ward.login()
        for _ in range(UNPROVED_LOOKS):
            assert await ward.passes(AGAIN) == 0
        assert await ward.passes(AGAIN) == 1
        await ward.ends(rows())

    in_ward(work)


def test_look_that_failed_is_said_once_and_repeated() -> None:
    async def work(ward: Ward) -> None:
        await ward.login()
        await ward.passes(0)
        await ward.ends(DOWN)
        assert ward.watch.found is None
        assert await ward.passes(RETRY) == 1
        await ward.ends([])
        assert await ward.passes(RETRY) == 1
        await ward.ends([])

    ward = in_ward(work)
    assert [fields["why"] for fields in ward.said("role not checked")] == [
        "down",
        "the server gave an unexpected answer",
    ]
    assert ward.stats.role_checks == {"failed": 3}


def test_bug_is_counted_and_does_not_end_the_looks() -> None:
    async def work(ward: Ward) -> None:
        await ward.login()
        await ward.passes(0)
        await ward.ends(RuntimeError("odd"))
        assert await ward.passes(RETRY) == 1
        await ward.ends(rows())

    assert in_ward(work).stats.bugs == 1


# --- refuse -----------------------------------------------------------------------------------------------------------


def test_login_waits_for_the_look_and_passes_if_the_role_reads_only() -> None:
    async def work(ward: Ward) -> None:
        first, second = ward.login(), ward.login()
        await ward.settle()
        assert not first.done()
        await ward.ends(rows(standby=False))
        assert await ward.passes(0) == 0
        await first
        await second
        await ward.login()

    assert in_ward(work, refuse=True).refused == []


def test_login_is_refused_by_what_is_critical_and_looks_again_a_little_later() -> None:
    async def work(ward: Ward) -> None:
        refused = ward.login()
        await ward.ends(rows("orders"))
        with pytest.raises(UpstreamError) as caught:
            await refused
        error = caught.value
        assert (error.sqlstate, error.reason, error.transient) == (CANNOT_CONNECT_NOW, CloseReason.ROLE_REFUSED, False)
        assert str(error) == 'database "shop" is not served: SideCart\'s role there can do more than read'
        assert error.detail == "Critical findings: writable-table (upstream.require_readonly_role is refuse)."
        assert "sidecart doctor" in error.hint
        with pytest.raises(UpstreamError):
            await ward.login()  # at once: it was looked at a moment ago
        assert ward.looks == []
        ward.now += AGAIN
        mended = ward.login()
        await ward.ends(rows())
        await mended

    in_ward(work, refuse=True)


def test_login_is_refused_while_the_role_cannot_be_looked_at() -> None:
    async def work(ward: Ward) -> None:
        refused = ward.login()
        await ward.ends(DOWN)
        with pytest.raises(UpstreamError, match="could not be looked at") as caught:
            await refused
        assert caught.value.detail == "Down (upstream.require_readonly_role is refuse)."
        ward.now += AGAIN
        served = ward.login()
        await ward.ends(rows())
        await served

    in_ward(work, refuse=True)


def test_without_a_catalogue_a_login_waits_for_nothing_else() -> None:
    async def work(ward: Ward) -> None:
        ward.judges_by(None)
        served = ward.login()
        await ward.ends(rows())
        await served

    in_ward(work, refuse=True)


def test_database_that_was_served_is_refused_as_soon_as_it_is_known() -> None:
    async def work(ward: Ward) -> None:
        served = ward.login()
        await ward.ends(rows())
        await served
        assert await ward.passes(INTERVAL) == 1
        await ward.ends(rows("orders"))
        (error,) = ward.refused
        assert error.reason is CloseReason.ROLE_REFUSED
        assert await ward.passes(INTERVAL) == 1
        await ward.ends(rows("orders", "payments"))
        assert len(ward.refused) == 1
        with pytest.raises(UpstreamError):
            await ward.login()

    in_ward(work, refuse=True)


def test_look_that_fails_later_leaves_what_was_known() -> None:
    async def work(ward: Ward) -> None:
        served = ward.login()
        await ward.ends(rows())
        await served
        assert await ward.passes(INTERVAL) == 1
        await ward.ends(DOWN)
        assert ward.refused == []
        await ward.login()

    in_ward(work, refuse=True)


def test_login_that_gives_up_does_not_end_the_look_of_others() -> None:
    async def work(ward: Ward) -> None:
        impatient, patient = ward.login(), ward.login()
        await ward.settle()
        impatient.cancel()
        await ward.ends(rows())
        await patient
        assert impatient.cancelled()

    in_ward(work, refuse=True)

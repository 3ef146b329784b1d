"""One upstream connection, without a socket: cancels that come late, or one behind the other."""

from __future__ import annotations

import asyncio

import pytest

from proxy import protocol as p
from proxy.config.schema import PoolLimits
from proxy.errors import QUERY_CANCELED
from proxy.pooling import owed as r
from proxy.pooling.pool import Pool
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.upstream import UpstreamConnection
from tests.unit.session.town import READY_I, READY_T, Quiet


class Canceller:
    async def cancel(self, pid: int, secret: bytes, address: str, *, with_tls: bool) -> str:
        return "sent"


class Opener:
    def open(self, pool: Pool) -> None: ...
    def probe(self, pool: Pool) -> None: ...


class Line(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("sqlstate", "levels"), [(QUERY_CANCELED, {"info"}), ("53200", {"info", "error"})])
def test_late_cancel_that_hits_the_clean_up_closes_the_upstream_and_is_no_error(
    sqlstate: str, levels: set[str]
) -> None:
    audit, line = Quiet(), Line()

    async def work() -> Pool:
        pool = Pool("shop", PoolLimits(), Opener(), Stats(), lambda: 1.0)
        upstream = UpstreamConnection(pool, Canceller(), Stats(), audit, Tasks())
        upstream.connection_made(line)
        upstream._talk = None  # it has logged in
        upstream.replies.status = p.IN_TRANSACTION
        pool.cleaning.add(upstream)
        upstream.recycle(discard=True)
        upstream.data_received(READY_T)
        assert line.sent.endswith(p.query(b"ROLLBACK"))
        upstream.data_received(p.error_response("ERROR", sqlstate, "canceling statement due to user request") + READY_I)
        return pool

    pool = asyncio.run(work())
    assert line.closed and not pool.cleaning and not pool.idle
    assert {fields["level"] for _, fields in audit.events} == levels
    assert ("upstream closed", "info") in [(event, fields["level"]) for event, fields in audit.events]


class SlowCanceller:
    """Ends a request when the test says so."""

    def __init__(self) -> None:
        self.ends: list[asyncio.Event] = []

    async def cancel(self, pid: int, secret: bytes, address: str, *, with_tls: bool) -> str:
        self.ends.append(asyncio.Event())
        await self.ends[-1].wait()
        return "sent"


class Owner:
    def upstream_data(self, chunk: bytes) -> None: ...
    def upstream_lost(self) -> None: ...
    def upstream_writable(self, writable: bool) -> None: ...
    def bug(self) -> None: ...


@pytest.mark.parametrize("running", [True, False])
def test_cancel_of_a_statement_is_not_lost_behind_that_of_the_one_before(running: bool) -> None:
    """The first request's signal was out, and had hit, when the second came: its statement went on for its 30 s."""
    canceller, told = SlowCanceller(), []

    async def work() -> None:
        pool = Pool("shop", PoolLimits(), Opener(), Stats(), lambda: 1.0)
        upstream = UpstreamConnection(pool, canceller, Stats(), Quiet(), Tasks())
        upstream.connection_made(Line())
        upstream._talk = None  # it has logged in
        upstream.attach(Owner())
        upstream.replies.owe(r.QUERY)
        upstream.cancel(lambda: told.append(1))
        await asyncio.sleep(0)
        for number in (2, 3):
            upstream.cancel(lambda number=number: told.append(number))  # type: ignore[misc]
        if not running:
            upstream.replies.forget()
        canceller.ends[0].set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert upstream.cancelling is running
        assert len(canceller.ends) == 1 + running, "one for all that came meanwhile, if there is anything to hit"
        canceller.ends[-1].set()
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == [1, 2, 3] and not upstream.cancelling

    asyncio.run(work())

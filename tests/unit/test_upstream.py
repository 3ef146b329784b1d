"""One upstream connection, without a socket: what its clean-up makes of a cancel that comes late."""

from __future__ import annotations

import asyncio

import pytest

from proxy import protocol as p
from proxy.config.schema import PoolLimits
from proxy.errors import QUERY_CANCELED
from proxy.pooling.pool import Pool
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.upstream import UpstreamConnection

READY_I, READY_T = p.READY[p.IDLE], p.READY[p.IN_TRANSACTION]


class Quiet:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, event: str, /, *, level: str = "info", **fields: str | float | bool | None) -> None:
        self.events.append((level, event))


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
        upstream._messages = None  # it has logged in
        upstream.replies.status = p.IN_TRANSACTION
        pool.cleaning.add(upstream)
        upstream.recycle(discard=True)
        upstream.data_received(READY_T)
        assert line.sent.endswith(p.query(b"ROLLBACK"))
        upstream.data_received(p.error_response("ERROR", sqlstate, "canceling statement due to user request") + READY_I)
        return pool

    pool = asyncio.run(work())
    assert line.closed and not pool.cleaning and not pool.idle
    assert {level for level, _ in audit.events} == levels
    assert ("info", "upstream closed") in audit.events

"""One SideCart before the sample shop, for all integration tests that do not need their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.config.schema import Upstream
from tests.running import SideCart


@pytest.fixture(scope="session")
def sidecart(upstream: Upstream) -> Iterator[SideCart]:
    """Run a SideCart with default limits."""
    with SideCart(upstream) as running:
        yield running
        running.stop()
        assert '"event":"bug"' not in running.log.replace(" ", "")
        assert '"event":"tripwire"' not in running.log.replace(" ", "")

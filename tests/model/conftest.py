"""One PostgreSQL for the model tests, and a SideCart before it for each size of pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from tests.model.stage import Stage, stages

StageOf = Callable[[int], Stage]


@pytest.fixture(scope="session")
def private() -> Iterator[EmbeddedServer]:
    """Run a PostgreSQL that a bare connection reaches without TLS and password; SideCart comes over verified TLS."""
    with EmbeddedServer(plaintext=True, auth="trust") as server:
        yield server


@pytest.fixture(scope="session")
def stage_of(private: EmbeddedServer) -> Iterator[StageOf]:
    """Return a function that returns the stage with so many upstreams; each is set up once."""
    with stages(private) as find:
        yield find

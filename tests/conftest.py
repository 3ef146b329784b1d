"""What all tests share: one PostgreSQL for the whole run, with the sample shop, and the client programs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings

from proxy.config.schema import Upstream
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer, find_tool
from tests import servers
from tests.running import reader_of

_SERVER = pytest.StashKey[EmbeddedServer]()

# How long an example takes is the machine's affair.
settings.register_profile("sidecart", deadline=None)
settings.load_profile("sidecart")


def pytest_configure(config: pytest.Config) -> None:
    """Let SIGTERM end the run as Ctrl-C does, so that servers and folders go; choose the server's major version."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    if major := os.environ.get("SIDECART_TEST_POSTGRES", ""):
        # Whatever looks for a server takes the one on PATH first: the fixtures here, and the programs that tests run.
        found = {str(number): folder for number, folder in servers.installed().items()}
        if major not in found:
            raise pytest.UsageError(
                f"SIDECART_TEST_POSTGRES asks for PostgreSQL {major}, but found was {', '.join(found) or 'none'}:"
                " `make servers` installs 13 to 18"
            )
        os.environ["PATH"] = os.pathsep.join((str(found[major]), os.environ["PATH"]))


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Run a PostgreSQL with TLS and SCRAM on a free port. `shop` fills it."""
    with EmbeddedServer() as server:
        request.config.stash[_SERVER] = server
        yield server
        del request.config.stash[_SERVER]


@pytest.fixture(scope="session")
def shop(postgres: EmbeddedServer) -> sample.Shop:
    """Return the logins of the database `shop` on `postgres`; its reader is the read-only role sidecart_reader."""
    return sample.create(postgres)


@pytest.fixture(scope="session")
def upstream(postgres: EmbeddedServer, shop: sample.Shop) -> Upstream:
    """Return the configuration that reaches `shop` as the read-only role, over verified TLS."""
    return reader_of(postgres, shop)


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """Return a function that finds psql, pgbench or pg_dump; the test is skipped where there is none."""

    def find(name: str) -> Path:
        found = find_tool(name)
        if found is None:
            pytest.skip(f"{name} was not found on PATH or beside a PostgreSQL server")
        return found

    return find


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Print the end of the server's log under a test that failed."""
    report = yield
    server = item.config.stash.get(_SERVER, None)
    if report.failed and server is not None:
        report.sections.append(("PostgreSQL log", server.log_tail(40)))
    return report

"""What a statement runs is among what the filter judges for it, whether names are resolved or not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.oracle import forgotten, ran, reporting

FEW = 450
ALL = 20_000


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=reporting.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
        reporting.create(server)
        yield server


@pytest.fixture(scope="module")
def closures(server: EmbeddedServer) -> ran.Closures:
    return ran.learn(server)


@pytest.fixture(scope="module")
def sample(server: EmbeddedServer, closures: ran.Closures) -> ran.Tally:
    return ran.run(server, closures, FEW)


def test_a_sample(sample: ran.Tally) -> None:
    assert not sample.misses, ran.report(sample)
    assert sample.ran > FEW / 2
    assert len(sample.runs) > 50


@pytest.mark.parametrize("fault", forgotten.OF_WHAT_IS_ASKED)
def test_what_is_forgotten_is_missed(closures: ran.Closures, sample: ran.Tally, fault: str) -> None:
    if fault in forgotten.OF_C and not closures.has_code_in_c:
        pytest.skip("the server has no contrib")
    assert forgotten.OF_WHAT_IS_ASKED[fault].is_found(closures, sample.evidence)


@pytest.mark.parametrize("fault", forgotten.OF_THE_RESOLVER)
def test_what_the_resolver_leaves_out_is_missed(closures: ran.Closures, sample: ran.Tally, fault: str) -> None:
    if closures.major < forgotten.SINCE.get(fault, 0):
        pytest.skip("the server does not do that")
    assert forgotten.is_missed(forgotten.OF_THE_RESOLVER[fault], closures, sample.evidence)


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("major", servers.MAJORS)
def test_all(major: int) -> None:
    with servers.running(major, settings=reporting.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
        reporting.create(server)
        found = ran.run(server, ran.learn(server), ALL, seed=str(major))
        assert not found.misses, ran.report(found)

"""What the resolver says that names mean is what PostgreSQL itself takes them for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.oracle import faults, runs
from tests.oracle.bodies import body
from tests.oracle.compare import UNSOUND, Answer, Cause, by_cause
from tests.oracle.resolving import Resolving
from tests.oracle.server import Analysed, Analyst
from tests.oracle.statements import sources

FEW = (
    "corpus",
    "branches",
    "names",
    "views",
    "operators",
    "functions",
    "casts",
    "mixed-operators",
    "mixed-functions",
    "random",
    "typed",
)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
        yield server


def unsound(found: runs.Comparison) -> list[Cause]:
    return [cause for cause in by_cause(found.misses) if cause.problem in UNSOUND]


@pytest.mark.parametrize("source", FEW)
def test_a_sample(server: EmbeddedServer, source: str) -> None:
    found = runs.run(server, [source], 500)
    assert not unsound(found), runs.report(found, "honest", 0, 20, 3)


@pytest.mark.parametrize("path", runs.PATHS[True])
def test_a_sample_among_rivals(server: EmbeddedServer, path: str) -> None:
    """Each search_path has statements of its own."""
    found = runs.run(server, FEW, 80, hostile=True, path=path, seed=path)
    assert not unsound(found), runs.report(found, path, 0, 20, 3)


@pytest.fixture(scope="module")
def analysed(server: EmbeddedServer) -> list[tuple[bytes, Analysed]]:
    """Return the statements by which faults are told, and what the server makes of them."""
    with Analyst(server.port, runs.create(server)) as analyst:
        texts = [text.encode() for text in faults.STATEMENTS]
        return list(zip(texts, analyst.analyse_all((text, ()) for text in texts), strict=True))


@pytest.fixture(scope="module")
def resolving(server: EmbeddedServer) -> Iterator[Resolving]:
    with Analyst(server.port, runs.create(server)) as analyst:
        yield Resolving(analyst, analyst)


def compared(analysed: list[tuple[bytes, Analysed]], answer: Callable[[bytes, Analysed], Answer]) -> runs.Comparison:
    comparison = runs.Comparison(lambda kind, oid: f"{kind} {oid}")
    for sql, found in analysed:
        comparison.add(sql, found, answer(sql, found))
    return comparison


def test_the_servers_own_answer_is_right(analysed: list[tuple[bytes, Analysed]]) -> None:
    found = compared(analysed, lambda sql, server: faults.echo(server))
    assert not unsound(found)
    assert found.tally.taken == len(faults.STATEMENTS)


@pytest.mark.parametrize("fault", faults.ANSWER_FAULTS)
def test_a_wrong_answer_is_caught(analysed: list[tuple[bytes, Analysed]], fault: str) -> None:
    spoil = faults.ANSWER_FAULTS[fault]
    assert compared(analysed, lambda sql, server: spoil(faults.echo(server))).misses


def test_what_the_resolver_says_of_the_statements(analysed: list[tuple[bytes, Analysed]], resolving: Resolving) -> None:
    found = compared(analysed, lambda sql, server: resolving.resolve(body(sql), ()))
    assert not unsound(found)


@pytest.mark.parametrize("fault", faults.WORLD_FAULTS)
def test_a_resolver_that_knows_another_catalogue_is_caught(
    analysed: list[tuple[bytes, Analysed]], resolving: Resolving, fault: str
) -> None:
    resolving.spoil(faults.WORLD_FAULTS[fault])
    assert unsound(compared(analysed, lambda sql, server: resolving.resolve(body(sql), ())))


def test_what_the_field_asks(server: EmbeddedServer) -> None:
    """Every name in it means one thing, but for a statement in two hundred."""
    found = runs.run(server, ["field"], 5000, in_field=True)
    assert not unsound(found), runs.report(found, "field", 0, 20, 3)
    assert found.tally.precise >= 0.995 * found.tally.taken > 300


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("hostile", [False, True], ids=["honest", "hostile"])
@pytest.mark.parametrize("major", servers.MAJORS)
def test_all(major: int, hostile: bool) -> None:
    with servers.running(major, settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
        for path in runs.PATHS[hostile]:
            found = runs.run(
                server, sources(), 40_000 // len(runs.PATHS[hostile]), hostile=hostile, path=path, seed=path
            )
            assert not unsound(found), runs.report(found, path, 0, 40, 3)

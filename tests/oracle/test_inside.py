"""What names mean in the body of a function is what PostgreSQL takes them for, whichever language it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.sql.resolve import expressions
from proxy.sql.resolve.analysis import Analysis
from proxy.sql.resolve.tree import Body, Expr, Level
from tests import servers
from tests.oracle import runs
from tests.oracle.compare import UNSOUND, Cause, Comparison, by_cause
from tests.oracle.inside import FAULTS, LANGUAGES, Fault, Inside
from tests.oracle.resolving import Resolving
from tests.oracle.server import Analyst

FEW = ("branches", "names", "mixed-operators", "mixed-functions", "random")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
        yield server


def unsound(found: Comparison) -> list[Cause]:
    return [cause for cause in by_cause(found.misses) if cause.problem in UNSOUND]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("path", ["public", *runs.PATHS[True][1:4]])
def test_a_sample(server: EmbeddedServer, language: str, path: str) -> None:
    found = runs.run_inside(server, language, FEW, 60, hostile=path != "public", path=path, seed=path)
    assert found.tally.taken > 30
    assert not unsound(found), runs.report(found, language, 0, 20, 3)


@pytest.mark.deep
@pytest.mark.parametrize("version", servers.MAJORS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_many(version: int, language: str) -> None:
    with servers.running(version, settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as server:
        for path in runs.PATHS[True]:
            found = runs.run_inside(server, language, FEW, 600, hostile=True, path=path, seed=f"{version}{path}")
            assert not unsound(found), runs.report(found, f"{version} {language} {path}", 0, 20, 3)


def compared(server: EmbeddedServer, language: str, sql: str, fault: Fault | None = None) -> Comparison:
    with Analyst(server.port, runs.create(server), search_path="public") as analyst:
        inside = Inside(analyst, Resolving(analyst, analyst).resolver, language)
        if fault is not None:
            inside.spoil(fault)
        comparison = Comparison(lambda kind, oid: f"{kind} {oid}")
        inside.compare(comparison, iter([sql]), 1)
        return comparison


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(server: EmbeddedServer, name: str) -> None:
    language, fault, sql = FAULTS[name]
    honest = compared(server, language, sql)
    assert honest.tally.taken == 1
    assert not unsound(honest)
    assert unsound(compared(server, language, sql, fault)), name


def test_fault_of_arguments_that_hide_columns_is_found(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    name = expressions._KINDS["ColumnRef"]

    def argument_first(analysis: Analysis, level: Level, node: Body) -> Expr:
        parts: list[Any] = [each["String"]["sval"] for each in node["fields"] if "String" in each]
        found = None if analysis.outside is None else analysis.outside.find(analysis, parts, node.get("location", 0))
        return found or name(analysis, level, node)

    monkeypatch.setitem(expressions._KINDS, "ColumnRef", argument_first)
    assert unsound(compared(server, "sql", "SELECT id + 1, v || 'x' FROM t1"))

"""What names mean in schemas that hypothesis makes is what PostgreSQL takes them for. tests/fuzz/fuzz_names goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.demo.embedded import EmbeddedServer
from proxy.sql.resolve.world import Tables
from tests.oracle import runs, schemas


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(settings=runs.SERVER_SETTINGS, auth="trust", plaintext=True) as found:
        yield found


@settings(
    max_examples=4,
    deadline=None,
    database=None,
    derandomize=True,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(made=schemas.objects, path=st.sampled_from(schemas.PATHS), seed=st.integers(0, 1 << 30))
def test_some_schemas(server: EmbeddedServer, made: list[str], path: str, seed: int) -> None:
    found = schemas.compare(server, made, path, seed)
    assert not schemas.wrong(found), runs.report(found, path, 0, 5, 2)
    assert found.tally.taken > schemas.FEW / 4


def test_resolver_that_does_not_know_the_schema_is_caught(server: EmbeddedServer) -> None:
    made = ["CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$"]
    made += [
        each.replace("lower(varchar)", f"length({type_})") for each in made for type_ in ("varchar", "name", "int")
    ]

    def forget(tables: Tables) -> Tables:
        return tables._replace(functions=[each for each in tables.functions if each.oid < 16384])

    assert not schemas.wrong(schemas.compare(server, made, "public", 1))
    assert schemas.wrong(schemas.compare(server, made, "public", 1, few=2 * schemas.FEW, fault=forget))

"""The tables of built-in functions and types against the catalogues of real servers: the shared one, and 13 to 18."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy import rules
from proxy.commands.embedded import EmbeddedServer
from tests import servers


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    with servers.serving(request) as found:
        yield found


@pytest.fixture
def major(server: EmbeddedServer) -> int:
    return int(server.version.split(".")[0])


def asked(server: EmbeddedServer, query: str) -> set[str]:
    return set(server.sql(query).splitlines())


def functions(server: EmbeddedServer, condition: str = "true") -> set[str]:
    """Return the names of built-in functions; those of extensions' and the user's have higher OIDs."""
    return asked(
        server,
        f"SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND oid < 16384"
        f" AND ({condition})",
    )


def at(major: int, since: int, until: int) -> bool:
    return since <= major and not 0 < until < major


def test_every_function_is_in_the_table(server: EmbeddedServer, major: int) -> None:
    known = {name for name, row in rules.FUNCTIONS.items() if at(major, row.since, row.until)}
    assert sorted(functions(server) - known) == []


def test_the_table_names_no_function_that_the_server_lacks(server: EmbeddedServer, major: int) -> None:
    """A call of such a name would reach a function of the user's."""
    reads = {
        name for name, row in rules.FUNCTIONS.items() if row.verdict != "block" and at(major, row.since, row.until)
    }
    assert sorted(reads - functions(server)) == []


def test_refused_functions_with_one_argument_are_marked(server: EmbeddedServer) -> None:
    # Defaults fill in for what is not given, and `x.name` gives one argument.
    callable_with_one = functions(server, "pronargs >= 1 AND pronargs - pronargdefaults <= 1")
    refused = {name for name in callable_with_one if rules.FUNCTIONS[name].verdict != "allow"}
    marked = {name for name in functions(server) if rules.FUNCTIONS[name].one_argument}
    assert sorted(refused - marked) == []
    assert sorted(marked - callable_with_one) == []


def test_functions_that_run_sql_are_marked_if_they_take_one_argument(server: EmbeddedServer) -> None:
    callable_with_one = functions(server, "pronargs >= 1 AND pronargs - pronargdefaults <= 1")
    running = {name for name in callable_with_one if name in rules.SQL_TEXT_FUNCTIONS}
    assert all(rules.FUNCTIONS[name].one_argument for name in running)


def test_input_functions_that_take_a_type_are_marked(server: EmbeddedServer) -> None:
    # Those that take `internal` cannot be called by SQL.
    taking = functions(
        server,
        "'cstring'::regtype = ANY (proargtypes) AND 'oid'::regtype = ANY (proargtypes)"
        " AND 'internal'::regtype <> ALL (proargtypes)",
    )
    assert taking == {name for name in functions(server) if rules.FUNCTIONS[name].takes_type}


def test_functions_of_information_schema_are_known(server: EmbeddedServer) -> None:
    found = asked(
        server,
        "SELECT 'information_schema.' || proname FROM pg_proc"
        " WHERE pronamespace = 'information_schema'::regnamespace AND oid < 16384",
    )
    known = {name for name, row in rules.EXTENSIONS.items() if row.extension == "information_schema"}
    assert found
    assert sorted(found - known) == []


def test_types_are_those_of_the_server(server: EmbeddedServer, major: int) -> None:
    # Arrays bear the name of their elements with an underscore, and nobody casts by that.
    found = asked(
        server,
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND oid < 16384"
        " AND typtype IN ('b', 'r', 'm') AND typname NOT LIKE '\\_%'",
    )
    assert found == {name for name, bounds in rules.TYPES.items() if at(major, *bounds)}


def test_large_object_functions_have_their_oids(server: EmbeddedServer) -> None:
    found = asked(server, "SELECT oid || ' ' || proname FROM pg_proc WHERE proname ~ '^lo' AND oid < 16384")
    assert {f"{oid} {name}" for oid, name in rules.FASTPATH_READS.items()} <= found

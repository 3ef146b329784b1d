"""The tables of functions and types against the catalogues of real servers: the shared one, and 13 to 18."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.sql import tables
from proxy.sql import text as texts
from proxy.sql.functions import Functions
from proxy.sql.policy import Policy
from tests import servers

LOOKED_AT = {13: 23, 14: 23, 15: 20, 16: 14, 17: 10, 18: 4}
"""The newest minor version of each major one whose functions somebody has looked at. What a newer one brings is refused
as unknown, and named by the tests here without failing them."""

CONTRIB = """
    adminpack amcheck autoinc bloom btree_gin btree_gist citext cube dblink dict_int dict_xsyn earthdistance file_fdw
    fuzzystrmatch hstore insert_username intagg intarray isn lo ltree moddatetime old_snapshot pageinspect
    pg_buffercache pg_freespacemap pg_logicalinspect pg_prewarm pg_stat_statements pg_surgery pg_trgm pg_visibility
    pg_walinspect pgcrypto pgrowlocks pgstattuple plpgsql postgres_fdw refint seg sslinfo tablefunc tcn
    tsm_system_rows tsm_system_time unaccent uuid-ossp xml2
"""
"""The extensions in PostgreSQL's own source, but for other languages and what belongs to them."""

SUSPICIOUS = """
    EXISTS (
        SELECT FROM unnest(p.proargtypes) a (oid)
        JOIN pg_type t USING (oid)
        LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
        WHERE coalesce(e.typname, t.typname) !~ '^(char$|pg_)' AND (coalesce(e.typcategory, t.typcategory) = 'S'
            OR coalesce(e.typname, t.typname) ~ '^(oid|reg.*|cstring|refcursor)$')
    ) AND 'internal'::regtype <> ALL (p.proargtypes)
    AND p.prorettype::regtype::text !~ '^(trigger|event_trigger|.*_handler)$'
"""
"""Of functions p that a statement can call: by its type, an argument can be SQL, or name something."""
SIGNATURE = """
    array_to_string(ARRAY(
        SELECT typname FROM unnest(p.proargtypes) WITH ORDINALITY a (oid, n) JOIN pg_type t USING (oid) ORDER BY n
    ), ',')
"""


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


@pytest.fixture
def unknown(server: EmbeddedServer, major: int) -> Callable[[set[str], str], None]:
    """Return a function that fails the test for what nobody has looked at; on a newer minor version, it skips it."""
    minor = int(server.version.split(".")[1].split()[0])

    def tell(found: set[str], where: str) -> None:
        if not found:
            return
        said = f"PostgreSQL {server.version}: to be looked at, and to be added to {where}: {', '.join(sorted(found))}"
        if minor > LOOKED_AT[major]:
            pytest.skip(said)
        pytest.fail(said)

    return tell


def known_functions(server: EmbeddedServer, condition: str = "true") -> set[str]:
    """Return those of `functions` that the table has: for what it says of them, one of a newer version is no matter."""
    return functions(server, condition) & tables.FUNCTIONS.keys()


def test_every_function_is_in_the_table(
    server: EmbeddedServer, major: int, unknown: Callable[[set[str], str], None]
) -> None:
    known = {
        name for name, row in tables.FUNCTIONS.items() if row.verdict == "block" or at(major, row.since, row.until)
    }
    unknown(functions(server) - known, "proxy/data/functions_more.tsv and functions_shape.tsv")


def test_every_signature_of_a_function_that_may_be_called_is_classified(
    server: EmbeddedServer, unknown: Callable[[set[str], str], None]
) -> None:
    found = asked(
        server,
        f"SELECT p.proname || '(' || {SIGNATURE} || ')' FROM pg_proc p"
        f" WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.oid < 16384 AND {SUSPICIOUS}",
    )
    classified = {f"{name}({types})" for extension, name, types in tables.ARGUMENTS if extension == "pg_catalog"}
    callable_ = {shown for shown in found if verdict(shown.partition("(")[0]) != "block"}
    assert len(callable_) > 700
    unknown(callable_ - classified, "proxy/data/functions_arguments.tsv")


def verdict(name: str) -> str:
    return tables.FUNCTIONS[name].verdict if name in tables.FUNCTIONS else "block"  # as long as it is unknown


def test_what_built_in_functions_views_and_operators_call_is_in_the_table(
    server: EmbeddedServer, unknown: Callable[[set[str], str], None]
) -> None:
    missing = {
        f"{kind} {name}: {' '.join(sorted(calls - tables.CALLED.get((kind, name), frozenset())))}"
        for (kind, name), calls in called(server).items()
        if calls - tables.CALLED.get((kind, name), frozenset())
    }
    unknown(missing, "proxy/data/functions_calls.tsv")


def called(server: EmbeddedServer) -> dict[tuple[str, str], set[str]]:
    """Return which built-in functions the built-in ones in SQL, views and operators call, themselves or by others."""
    rows = json.loads(
        server.sql(
            """
            SELECT json_agg(found) FROM (
                SELECT 'function', p.proname, CASE WHEN to_jsonb(p) ->> 'prosqlbody' IS NULL THEN p.prosrc
                    ELSE pg_get_functiondef(p.oid) END
                FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname = 'sql' AND p.oid < 16384
                UNION ALL
                SELECT 'view', relname, pg_get_viewdef(oid) FROM pg_class WHERE relkind = 'v' AND oid < 16384
                UNION ALL
                SELECT DISTINCT 'operator', o.oprname, format('SELECT %I()', p.proname)
                FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oid < 16384
            ) found (kind, name, body)
            """
        )
    )
    uses: defaultdict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for row in rows:
        uses[row["kind"], row["name"]] |= set(used(texts.parse(row["body"])))
    found = {}
    for start in list(uses):
        seen: set[tuple[str, str]] = set()
        waiting = [start]
        while waiting:
            new = uses.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        found[start] = {name for kind, name in seen - {start} if kind == "function" and name in tables.FUNCTIONS}
    return found


def used(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield the functions and relations that a parse tree names."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "FuncCall":
                yield "function", value["funcname"][-1]["String"]["sval"]
            elif key == "RangeVar":
                yield "view", value["relname"]
            yield from used(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from used(item)


def test_every_function_of_contrib_is_classified(
    server: EmbeddedServer, unknown: Callable[[set[str], str], None]
) -> None:
    unknown(unclassified(server, CONTRIB.split()), "proxy/data/functions_arguments.tsv")


@pytest.mark.deep
def test_every_function_of_the_extensions_on_this_machine_is_classified(postgres: EmbeddedServer) -> None:
    """An extension of which the tables have nothing has no function in C that could be called."""
    known = {extension for extension, _, _ in tables.ARGUMENTS} | tables.READING_EXTENSIONS.keys()
    named = (name for row in tables.EXTENSIONS.values() for name in row.extension.partition(" (")[0].split("/"))
    there = asked(postgres, "SELECT name FROM pg_available_extensions")
    assert unclassified(postgres, sorted(known.union(named) & there)) == set()


def unclassified(server: EmbeddedServer, extensions: list[str]) -> set[str]:
    """Return the functions that no table and no body says anything of, of those extensions that can be created."""
    server.sql("CREATE DATABASE extensions TEMPLATE template0")
    try:
        for name in extensions:
            try:
                server.sql(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE', "extensions")
            except EmbeddedError:
                continue  # it is not installed, not for this version, or has to be loaded first
        found = server.sql(
            f"SELECT e.extname, n.nspname, p.proname, {SIGNATURE} FROM pg_proc p"
            " JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang"
            " JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'"
            f" JOIN pg_extension e ON e.oid = d.refobjid WHERE l.lanname NOT IN ('sql', 'plpgsql') AND {SUSPICIOUS}",
            "extensions",
        )
    finally:
        server.sql("DROP DATABASE extensions")
    rows = [tuple(line.split("|")) for line in found.splitlines()]
    assert len(rows) > 150
    return {
        f"{extension}: {name}({types})"
        for extension, schema, name, types in rows
        if extension in extensions
        and not {(extension, name, types), (extension, f"{schema}.{name}", types)} & tables.ARGUMENTS.keys()
    }


def test_the_table_names_no_function_that_the_server_lacks(server: EmbeddedServer, major: int) -> None:
    """A call of such a name would reach a function of the user's."""
    reads = {
        name for name, row in tables.FUNCTIONS.items() if row.verdict != "block" and at(major, row.since, row.until)
    }
    assert sorted(reads - functions(server)) == []


def test_refused_functions_with_one_argument_are_marked(server: EmbeddedServer) -> None:
    # Defaults fill in for what is not given, and `x.name` gives one argument.
    callable_with_one = known_functions(server, "pronargs >= 1 AND pronargs - pronargdefaults <= 1")
    refused = {name for name in callable_with_one if tables.FUNCTIONS[name].verdict != "allow"}
    marked = {name for name in known_functions(server) if tables.FUNCTIONS[name].one_argument}
    assert sorted(refused - marked) == []
    assert sorted(marked - callable_with_one) == []


def test_functions_that_run_sql_are_marked_if_they_take_one_argument(server: EmbeddedServer) -> None:
    callable_with_one = known_functions(server, "pronargs >= 1 AND pronargs - pronargdefaults <= 1")
    running = {name for name in callable_with_one if name in tables.SQL_TEXT_FUNCTIONS}
    assert all(tables.FUNCTIONS[name].one_argument for name in running)


def test_functions_that_return_or_take_void_are_known(server: EmbeddedServer) -> None:
    # Those that take `internal` cannot be called by SQL, and those that are refused need no second look.
    is_void = "'void'::regtype = ANY (proargtypes::oid[] || prorettype || proallargtypes)"
    void = functions(server, f"{is_void} AND 'internal'::regtype <> ALL (proargtypes)")
    refused = {name for name, row in tables.FUNCTIONS.items() if row.verdict == "block"}
    assert sorted(void & tables.FUNCTIONS.keys() - refused - tables.VOID_FUNCTIONS) == []
    assert functions(server, "proname IN ('pg_sleep', 'pg_notify') AND prorettype = 'void'::regtype")
    assert asked(server, "SELECT 'void'::regtype::oid") == {str(tables.VOID_OID)}
    mixed = functions(server, f"NOT {is_void}") & tables.VOID_FUNCTIONS
    assert not mixed


def test_input_functions_that_take_a_type_are_marked(server: EmbeddedServer) -> None:
    # Those that take `internal` cannot be called by SQL.
    taking = known_functions(
        server,
        "'cstring'::regtype = ANY (proargtypes) AND 'oid'::regtype = ANY (proargtypes)"
        " AND 'internal'::regtype <> ALL (proargtypes)",
    )
    assert taking == {name for name in known_functions(server) if tables.FUNCTIONS[name].takes_type}


def test_functions_of_information_schema_are_known(server: EmbeddedServer) -> None:
    found = asked(
        server,
        "SELECT 'information_schema.' || proname FROM pg_proc"
        " WHERE pronamespace = 'information_schema'::regnamespace AND oid < 16384",
    )
    known = {name for name, row in tables.EXTENSIONS.items() if row.extension == "information_schema"}
    assert found
    assert sorted(found - known) == []


def test_types_are_those_of_the_server(server: EmbeddedServer, major: int) -> None:
    # Arrays bear the name of their elements with an underscore, and nobody casts by that.
    found = asked(
        server,
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND oid < 16384"
        " AND typtype IN ('b', 'r', 'm') AND typname NOT LIKE '\\_%'",
    )
    assert found == {name for name, bounds in tables.TYPES.items() if at(major, *bounds)}


def test_large_object_functions_have_their_oids(server: EmbeddedServer) -> None:
    found = asked(server, "SELECT oid || ' ' || proname FROM pg_proc WHERE proname ~ '^lo' AND oid < 16384")
    assert {f"{oid} {name}" for oid, name in (tables.FASTPATH_READS | tables.FASTPATH_WRITES).items()} <= found


def test_functions_in_c_that_do_more_than_read_are_known_by_oid_and_symbol(
    server: EmbeddedServer, major: int, unknown: Callable[[set[str], str], None]
) -> None:
    plain = Functions(Policy(server_version=major * 10000)).plain
    found = asked(
        server,
        "SELECT oid || ' ' || proname || ' ' || prosrc FROM pg_proc"
        " WHERE oid < 10000 AND prolang = 12 AND prosrc <> 'aggregate_dummy'",
    )
    rows = [(int(oid), name, symbol) for oid, name, symbol in map(str.split, found)]
    worse = [row for row in rows if row[1] not in plain]
    assert len(worse) > 150
    missing = {
        f"{name}: {oid} {symbol}"
        for oid, name, symbol in worse
        if name not in tables.OIDS.get(oid, ()) or name not in tables.bearers(symbol)
    }
    unknown(missing, "proxy/data/functions_symbols.tsv")
    reads = [row for row in rows if row[1] in plain]
    every = Functions(Policy()).plain  # of any version, too
    assert [row for row in reads if not every.issuperset(tables.bearers(row[2]))] == []

"""Sessions whose search_path changes: names are judged by the one that a statement finds.

The same messages go to PostgreSQL itself, where each attack runs what must not run, and raises HOSTILE: so each of
these tests can fail.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.running import SideCart, wait_until
from tests.wire import Wire, bind, close, describe, execute

HOSTILE = "HOSTILE"
LOST = "lost"
_BODY = f"LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('x', ''); RAISE EXCEPTION '{HOSTILE}'; END $$"
OBJECTS = f"""
CREATE SCHEMA app; CREATE SCHEMA evil; CREATE SCHEMA "Odd, ""one"" x"; CREATE SCHEMA hidden;
GRANT USAGE ON SCHEMA app, evil, "Odd, ""one"" x" TO PUBLIC;
CREATE FUNCTION app.of(int) RETURNS text LANGUAGE sql AS 'SELECT ''app''::text';
CREATE FUNCTION "Odd, ""one"" x".of(int) RETURNS text LANGUAGE sql AS 'SELECT ''odd''::text';
CREATE FUNCTION evil.of(int) RETURNS text {_BODY};
CREATE FUNCTION hidden.of(int) RETURNS text LANGUAGE sql AS 'SELECT ''hidden''::text';
CREATE FUNCTION app.add(int, int) RETURNS text LANGUAGE sql AS 'SELECT ''app''::text';
CREATE FUNCTION evil.add(int, int) RETURNS text {_BODY};
CREATE OPERATOR app.<#> (FUNCTION = app.add, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.<#> (FUNCTION = evil.add, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION evil.bad(int) RETURNS bool {_BODY};
CREATE DOMAIN app.dom AS int CHECK (value > 0);
CREATE DOMAIN evil.dom AS int CHECK (evil.bad(value));
CREATE VIEW app.v AS SELECT 1 AS a;
CREATE VIEW evil.v AS SELECT evil.of(1) AS a;
GRANT SELECT ON app.v, evil.v TO PUBLIC;
CREATE FUNCTION public.goes() RETURNS int LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_config('search_path', 'evil', true); RETURN 1; END $$;
CREATE FUNCTION public.within() RETURNS int LANGUAGE sql SET search_path = evil AS 'SELECT 1';
CREATE FUNCTION public.calls() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN of(1); END $$;
SET check_function_bodies = off;
CREATE FUNCTION public.asks(int) RETURNS text LANGUAGE sql AS 'SELECT of($1)';
CREATE ROLE roamer LOGIN;
"""
BODIES = ["SELECT public.asks(1)", "SELECT public.calls() FROM generate_series(1, 3) g"]
USES = [
    *("SELECT of(1)", "SELECT 1 <#> 2", "SELECT '1'::dom", "SELECT a FROM v", "SELECT of(a) FROM (VALUES (1)) s(a)"),
    *BODIES,
]
SYNC = p.message(p.SYNC)
Group = tuple[bytes, int]
"""Bytes, and how many ReadyForQuery answer them."""


def q(*texts: str) -> Group:
    return b"".join(p.query(text.encode()) for text in texts), len(texts)


def run(text: str, name: str = "", portal: str = "", values: Sequence[bytes] = ()) -> bytes:
    return p.parse(name.encode(), text.encode()) + bind(name, values, portal=portal) + execute(portal)


def group(*messages: bytes) -> Group:
    return b"".join(messages) + SYNC, 1


BY_PATH = "SET search_path = app"
TO_EVIL = "SET search_path = evil"
LONG = f"SELECT of(1), '{'x' * 3000}'"
LONG_WITH = f"SELECT of($1), '{'x' * 30_000}'"
_DIRECT = group(p.parse(b"", b"SELECT of(1)"), bind(""), describe("P"), execute())
_BOUND = group(bind("n"), describe("P"), execute())
ATTACKS: dict[str, list[Group]] = {
    "set and used": [q(TO_EVIL), q("SELECT of(1)")],
    "set for the transaction": [q("BEGIN"), q("SET LOCAL search_path = evil, app"), q("SELECT of(1)")],
    "set by a function's value": [q("SELECT set_config('search_path', 'evil', false)"), q("SELECT 1 <#> 2")],
    "set by a Bind": [
        group(run("SELECT set_config('search_path', $1, $2)", values=[b"evil", b"f"])),
        q("SELECT of(1)"),
    ],
    "set in the same text": [q(f"{TO_EVIL}; SELECT of(1)")],
    "set in the same text behind another path": [q(f"{BY_PATH}; {TO_EVIL}; SELECT of(1)")],
    "set in the same text, and by a cursor": [
        q("BEGIN; DECLARE c CURSOR FOR SELECT set_config('search_path', 'evil', true)"),
        q(f"{BY_PATH}; FETCH c; SELECT of(1)"),
    ],
    "set in the same text, and undone": [q(TO_EVIL), q(f"BEGIN; {BY_PATH}; ROLLBACK; SELECT of(1)")],
    "set in the same text, and by a function": [q(f"BEGIN; {BY_PATH}; SELECT public.goes(); SELECT public.calls()")],
    "set by a function": [q("BEGIN"), q("SELECT public.goes()"), q("SELECT of(1)")],
    "set by a function in the same text": [q("SELECT public.goes(); SELECT of(1)")],
    "set in a pipeline": [q(TO_EVIL, "SELECT of(1)")],
    "set in the same group": [group(run(TO_EVIL), run("SELECT of(1)"))],
    "set between Parse and Bind": [
        group(p.parse(b"s", b"SELECT of(1)")),
        q(TO_EVIL),
        group(bind("s"), execute()),
    ],
    "set between Parse and Bind of one group": [
        group(p.parse(b"s", b"SELECT of(1)"), run(TO_EVIL), bind("s"), execute()),
    ],
    "unnamed statement": [
        group(p.parse(b"", b"SELECT of(1)"), p.parse(b"t", TO_EVIL.encode()), bind("t"), execute(), bind(""), execute())
    ],
    "COPY that was bound before": [
        group(p.parse(b"c", b"COPY (SELECT of(1)) TO STDOUT"), bind("c", portal="c"), run(TO_EVIL), execute("c")),
    ],
    "PREPARE that was bound before": [
        group(
            p.parse(b"c", b"PREPARE x AS SELECT ('{1}'::dom[])[1]::int"),
            bind("c", portal="c"),
            run(TO_EVIL),
            execute("c"),
        ),
        q("EXECUTE x"),
    ],
    "EXECUTE of what SQL has prepared": [q("PREPARE x AS SELECT of(1)"), q(TO_EVIL), q("EXECUTE x")],
    "EXECUTE behind a SET in the same text": [q("PREPARE x AS SELECT of(1)"), q(f"{TO_EVIL}; EXECUTE x")],
    "EXECUTE of what is prepared in the same text": [q(f"PREPARE x AS SELECT of(1); {TO_EVIL}; EXECUTE x")],
    "EXECUTE given what sets the path": [
        q("PREPARE x (text) AS SELECT of(1)"),
        q("EXECUTE x (set_config('search_path', 'evil', false))"),
    ],
    "EXECUTE of a SET": [
        group(p.parse(b"s", TO_EVIL.encode())),
        q("EXECUTE s; SELECT of(1)"),
    ],
    "EXECUTE of a SET and of a statement of the protocol": [
        group(p.parse(b"s", TO_EVIL.encode()), p.parse(b"u", b"SELECT of(1)")),
        q("EXECUTE s; EXECUTE u"),
    ],
    "EXECUTE that was bound before": [
        q("PREPARE x AS SELECT of(1)"),
        group(p.parse(b"c", b"EXECUTE x"), bind("c", portal="c"), run(TO_EVIL), execute("c")),
    ],
    "EXPLAIN ANALYZE EXECUTE": [q("PREPARE x AS SELECT of(1)"), q(TO_EVIL), q("EXPLAIN ANALYZE EXECUTE x")],
    "Describe of an EXECUTE": [
        q("PREPARE x AS SELECT ('{1}'::dom[])[1]::int"),
        q(TO_EVIL),
        group(p.parse(b"", b"EXECUTE x"), bind(""), describe("P")),
    ],
    "cursor that sets it": [
        q("BEGIN; DECLARE c CURSOR FOR SELECT set_config('search_path', 'evil', true)"),
        q("FETCH c; SELECT of(1)"),
    ],
    "cursor that sets it for an EXECUTE": [
        q("PREPARE x AS SELECT of(1)"),
        q("BEGIN; DECLARE c CURSOR FOR SELECT set_config('search_path', 'evil', true)"),
        q("FETCH c; EXECUTE x"),
    ],
    "cursor that sets it behind a look": [
        q("BEGIN; DECLARE c CURSOR FOR SELECT set_config('search_path', 'evil', true)"),
        q("SELECT of(1)"),
        q("FETCH c"),
        q("SELECT of(1)"),
    ],
    "portal that sets it in two parts": [
        q("BEGIN"),
        group(
            p.parse(
                b"",
                b"SELECT set_config('search_path', CASE g WHEN 1 THEN 'app' ELSE 'evil' END, true)"
                b" FROM generate_series(1, 2) g",
            ),
            bind("", portal="g"),
            execute("g", 1),
        ),
        group(execute("g", 1), run("SELECT of(1)")),
    ],
    "body": [q(TO_EVIL), q("SELECT public.calls()")],
    "body in the same text": [q(f"{TO_EVIL}; SELECT public.asks(1)")],
    "body of a portal that is open": [
        q("BEGIN"),
        group(p.parse(b"", BODIES[1].encode()), bind("", portal="g"), execute("g", 1)),
        q("SET LOCAL search_path = evil"),
        group(execute("g")),
    ],
    "body of a portal that is open, under a path that was set": [
        q("SET search_path = nowhere, app"),
        q("BEGIN"),
        group(p.parse(b"", BODIES[1].encode()), bind("", portal="g"), execute("g", 1)),
        group(run("SELECT set_config('search_path', $1, true)", values=[b"evil"])),
        group(execute("g")),
    ],
    "body of a cursor": [
        q("BEGIN; DECLARE c CURSOR FOR SELECT public.calls()"),
        q("SET LOCAL search_path = evil"),
        q("FETCH c"),
    ],
    "savepoint left": [
        q("SET search_path = evil"),
        q("BEGIN"),
        q("SAVEPOINT a"),
        q("SET search_path = app"),
        q("ROLLBACK TO a"),
        q("SELECT of(1)"),
    ],
    "savepoint left in one text": [
        q("SET search_path = evil"),
        q("BEGIN; SAVEPOINT a; SET search_path = app"),
        q("ROLLBACK TO a; SELECT of(1)"),
    ],
    "transaction left": [q(TO_EVIL), q("BEGIN"), q("SET search_path = app"), q("ROLLBACK"), q("SELECT of(1)")],
    "transaction ended": [q(TO_EVIL), q("BEGIN"), q("SET LOCAL search_path = app"), q("COMMIT"), q("SELECT of(1)")],
    "transaction ended in a pipeline": [
        q(TO_EVIL),
        q("BEGIN"),
        q("SET LOCAL search_path = app"),
        q("COMMIT", "SELECT of(1)"),
    ],
    "SET that fails": [q(TO_EVIL), q("SET search_path = app; SELECT 1/0"), q("SELECT of(1)")],
    "SET that fails in a pipeline": [q(TO_EVIL), q("SET search_path = app; SELECT 1/0", "SELECT of(1)")],
    "view": [q(TO_EVIL), q("SELECT a FROM v")],
    "domain in the analysis alone": [q(TO_EVIL), group(p.parse(b"", b"SELECT '{1}'::dom[], nope"))],
    "quotes and commas": [q('SET search_path = "Odd, ""one"" x", evil'), q("SELECT of(1)"), q("SELECT 1 <#> 2")],
    "same group again": [_DIRECT, q(TO_EVIL), _DIRECT],
    "same Bind again": [group(p.parse(b"n", b"SELECT of(1)")), _BOUND, _BOUND, q(TO_EVIL), _BOUND],
    "same Bind again in a transaction": [
        group(p.parse(b"n", b"SELECT of(1), 'now'")),
        _BOUND,
        q("BEGIN; SET LOCAL search_path = evil"),
        _BOUND,
    ],
    "long text": [q(LONG), q(TO_EVIL), q(LONG)],
    "long text in a Parse": [
        group(run(LONG_WITH, values=[b"1"])),
        q("BEGIN; SET LOCAL search_path = evil"),
        group(run(LONG_WITH, values=[b"1"])),
    ],
    "schema of another spelling": [q("SELECT set_config('search_path', 'EVIL , \"app\"', false)"), q("SELECT of(1)")],
}
"""Begun with the search_path app: what ends in HOSTILE on the server."""
SAVED: dict[str, list[Group]] = {
    "RESET": [q(BY_PATH), q("RESET search_path"), q("SELECT of(1)")],
    "DISCARD ALL": [q(BY_PATH), q("DISCARD ALL"), q("SELECT of(1)")],
    "DISCARD ALL in a group": [q(BY_PATH), group(run("DISCARD ALL")), group(run("SELECT of(1)"))],
    "SET TO DEFAULT": [q(BY_PATH), q("SET search_path TO DEFAULT"), q("SELECT of(1)")],
    "set_config with NULL": [q(BY_PATH), q("SELECT set_config('search_path', NULL, false)"), q("SELECT of(1)")],
    "RESET in the same text": [q(BY_PATH), q("RESET ALL; SELECT of(1)")],
    "RESET for the transaction": [q(BY_PATH), q("BEGIN; SET LOCAL search_path TO DEFAULT"), q("SELECT of(1)")],
}
"""Begun with the search_path evil."""
HONEST: dict[str, list[Group]] = {
    "begun with": [q(use) for use in USES],
    "set": [q(TO_EVIL), q(BY_PATH), *(q(use) for use in USES)],
    "set in a pipeline": [q(BY_PATH, *USES)],
    "set in the same group": [group(run(BY_PATH), *(run(use) for use in USES))],
    "set in the group before": [(group(run(BY_PATH))[0] + group(*map(run, USES))[0], 2)],
    "set, and several statements at once": [q(BY_PATH), q("; ".join(USES))],
    "set in the same text": [
        q(TO_EVIL),
        q("; ".join([BY_PATH, *USES])),
        q(TO_EVIL),
        q("BEGIN; SET LOCAL search_path = 'app'; SELECT of(1); COMMIT"),
    ],
    "set by a Bind": [
        q("BEGIN"),
        group(run("SELECT set_config('search_path', $1, true)", values=[b'"app", nowhere'])),
        group(*map(run, USES)),
        q("COMMIT"),
    ],
    "set for a transaction": [q(TO_EVIL), q("BEGIN"), q("SET LOCAL search_path = app"), *map(q, USES), q("COMMIT")],
    "named statements": [
        group(*(p.parse(str(n).encode(), use.encode()) for n, use in enumerate(USES))),
        *(group(bind(str(n)), describe("P"), execute()) for n in range(len(USES))),
        q("SET search_path = app, pg_temp"),
        *(group(bind(str(n)), describe("P"), execute()) for n in range(len(USES))),
    ],
    "transaction left": [q("BEGIN"), q(TO_EVIL), q("ROLLBACK"), *map(q, USES)],
    "savepoint left": [q("BEGIN; SAVEPOINT a"), q(TO_EVIL), q("ROLLBACK TO a"), *map(q, USES), q("COMMIT")],
    "explained, declared and copied": [
        q("BEGIN"),
        q("SET LOCAL search_path = app"),
        q("EXPLAIN ANALYZE SELECT of(1)"),
        q("COPY (SELECT 1 <#> 2) TO STDOUT"),
        q("DECLARE c CURSOR FOR SELECT a FROM v"),
        q("FETCH c"),
        q("COMMIT"),
    ],
    "prepared by SQL": [
        q("PREPARE x (int) AS SELECT of($1)"),
        q("PREPARE y AS SELECT $1 <#> 2"),
        q("EXECUTE x (1)"),
        q("EXECUTE y (1)"),
        group(run("EXECUTE x (2)")),
        q("EXPLAIN ANALYZE EXECUTE x (3)"),
        q("SET search_path = app, nowhere"),
        q("EXECUTE x (1)"),
        q("BEGIN"),
        q("SET LOCAL search_path = nowhere, app"),
        q("EXECUTE y (1)"),
        q("COMMIT"),
    ],
    "pinned": [
        q("PREPARE z AS SELECT 1"),
        q(BY_PATH),
        q("SELECT of(1)"),
        group(run("SELECT of(1)")),
        q("DEALLOCATE z"),
        q("SELECT of(1)"),
    ],
    "long texts": [
        q(LONG),
        q(LONG),
        group(run(LONG_WITH, values=[b"1"])),
        q("BEGIN"),
        q("SET LOCAL search_path = nowhere, app"),
        q(LONG),
        group(run(LONG_WITH, values=[b"2"])),
        q("COMMIT"),
    ],
    "schema that the role may not use": [q("SET search_path = hidden, app"), *map(q, USES)],
    "quotes and commas": [q('SET search_path = nowhere, "Odd, ""one"" x"'), q("SELECT of(1)")],
    "function with a path of its own": [
        q("SELECT public.within(), of(1)"),
        q("BEGIN; SELECT public.within()"),
        *map(q, USES),
    ],
}
"""Begun with the search_path app."""


_VERSIONS = (None, *(pytest.param(major, marks=pytest.mark.deep) for major in servers.MAJORS))


@pytest.fixture(scope="module", params=_VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    folder = None if request.param is None else servers.installed().get(request.param)
    if request.param is not None and folder is None:
        pytest.skip(f"no PostgreSQL {request.param} was found")
    with EmbeddedServer(plaintext=True, auth="trust", bin_dir=folder) as found:
        found.sql("CREATE DATABASE roam")
        found.sql(OBJECTS, "roam")
        yield found


@pytest.fixture(scope="module")
def own(server: EmbeddedServer) -> Iterator[SideCart]:
    upstream = Upstream(
        host=server.host, port=server.port, dbname="roam", user="roamer", password="x", sslrootcert=str(server.ca_file)
    )
    with SideCart(upstream, SIDECART_POOL_DEFAULT_POOL_SIZE=2, SIDECART_FILTER_CATALOG_REFRESH="1s") as found:
        yield found


def answers(port: int, groups: Sequence[Group], **parameters: str) -> list[str]:
    """Return what comes of each ReadyForQuery: "ok", HOSTILE, "refused" or an SQLSTATE."""
    found: list[str] = []
    with Wire(port, "roam", login=False) as wire:
        wire.send(p.startup_message({"user": "roamer", "database": "roam", **parameters}))
        assert wire.until_ready().endswith("Z"), wire.error
        for data, readies in groups:
            wire.send(data)
            found += [_answer(wire) for _ in range(readies)]
            if found[-1] == LOST:
                break
    return found


def _answer(wire: Wire) -> str:
    wire.error = {}
    kinds = wire.until_ready()
    if not kinds.endswith("Z"):
        return LOST  # ROLLBACK TO ends PostgreSQL's own session in the middle of some pipelines
    if "E" not in kinds:
        return "ok"
    if HOSTILE in wire.error["M"]:
        return HOSTILE
    return "refused" if "(rule: " in wire.error.get("D", "") else wire.error["C"]


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_path_that_changes(server: EmbeddedServer, own: SideCart, name: str) -> None:
    options = {"options": "-c search_path=app"}
    groups = ATTACKS[name]
    assert HOSTILE in answers(server.port, groups, **options)
    found = answers(own.port, groups, **options)
    assert HOSTILE not in found
    assert "refused" in found


@pytest.mark.parametrize("name", SAVED)
def test_attack_path_that_is_what_the_client_began_with_again(server: EmbeddedServer, own: SideCart, name: str) -> None:
    options = {"options": "-csearch_path=evil"}
    assert answers(server.port, SAVED[name], **options)[-1] == HOSTILE
    found = answers(own.port, SAVED[name], **options)
    assert found[-1] == "refused"
    assert HOSTILE not in found


@pytest.mark.parametrize("name", HONEST)
def test_statement_is_a_read_under_the_path_that_it_finds(server: EmbeddedServer, own: SideCart, name: str) -> None:
    options = {"search_path": "app"}
    wanted = answers(server.port, HONEST[name], **options)
    assert set(wanted) == {"ok"}
    assert answers(own.port, HONEST[name], **options) == wanted


def test_verdict_of_one_path_is_not_another_clients(own: SideCart) -> None:
    for _ in range(2):
        for use in USES:
            assert answers(own.port, [q(use), group(run(use))], search_path="app") == ["ok", "ok"]
            assert answers(own.port, [q(use), group(run(use))], search_path="evil, app") == ["refused", "refused"]
            assert answers(own.port, [q(use), group(run(use))], search_path="app, evil") == ["ok", "ok"]


def test_schemas_of_the_path_that_change(server: EmbeddedServer, own: SideCart) -> None:
    """Created, granted, renamed, dropped: known with the next look at the catalogues."""
    with Wire(own.port, "roam") as wire:
        assert wire.ask("SET search_path = late, app").startswith("C")
        assert wire.ask("SELECT of(1)").endswith("CZ")
        try:
            server.sql("CREATE SCHEMA late", "roam")
            server.sql(f"CREATE FUNCTION late.of(int) RETURNS text {_BODY}", "roam")
            assert wire.ask("SELECT of(1)").endswith("CZ"), "the role has no USAGE"
            server.sql("GRANT USAGE ON SCHEMA late TO PUBLIC", "roam")
            wait_until(lambda: wire.ask("SELECT of(1)") == "EZ" and "(rule: " in wire.error["D"], 20, "the refusal")
            server.sql("ALTER SCHEMA late RENAME TO later", "roam")
            wait_until(lambda: wire.ask("SELECT of(1)").endswith("CZ"), 20, "the read")
            server.sql("ALTER SCHEMA later RENAME TO late; DROP SCHEMA late CASCADE", "roam")
            assert wire.ask("SELECT of(1)").endswith("CZ")
        finally:
            server.sql("DROP SCHEMA IF EXISTS late CASCADE; DROP SCHEMA IF EXISTS later CASCADE", "roam")


# --- at random --------------------------------------------------------------------------------------------------------


class Roamer:
    """Write messages at random that change the path, or depend on it."""

    PATHS = ("app", "evil", "app, evil", "evil, app", '"$user", public', "public, app", "nowhere, app", '"app"')

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._choice = self._random.choice

    def script(self) -> tuple[dict[str, str], list[Group]]:
        start = self._choice(["app", "app", "app, evil", "evil", ""])
        groups = [self._group() for _ in range(self._random.randint(4, 14))]
        return ({"search_path": start} if start else {}), groups

    def _setter(self) -> str:
        path = self._choice(self.PATHS)
        local = self._choice(["true", "false"])
        return self._choice(
            [
                f"SET search_path = {path}",
                f"SET LOCAL search_path = {path}",
                f"SELECT set_config('search_path', '{path}', {local})",
                *("RESET search_path", "SET LOCAL search_path TO DEFAULT", "RESET ALL", "DISCARD ALL"),
                *("SELECT public.goes()", "SELECT public.within()", "SELECT set_config('search_path', NULL, false)"),
                f"SELECT set_config('search_path', '{path}', {local}), nope",
                f"SET search_path = {path}; SELECT 1/0",
                f"DECLARE c CURSOR FOR SELECT set_config('search_path', '{path}', {local})",
                f"PREPARE q AS SELECT set_config('search_path', '{path}', {local})",
            ]
        )

    def _use(self) -> str:
        inner = self._choice(USES)
        if self._random.random() < 0.4:
            return inner
        return self._choice(
            [
                *(f"EXPLAIN ANALYZE {inner}", f"COPY ({inner}) TO STDOUT", f"DECLARE c CURSOR FOR {inner}"),
                *("FETCH c", "MOVE c", "CLOSE c", "EXECUTE q", "EXECUTE q", "EXECUTE s", "EXECUTE t"),
                *(f"PREPARE q AS {inner}", "EXPLAIN ANALYZE EXECUTE q", "DEALLOCATE q"),
                f"DECLARE c CURSOR WITH HOLD FOR {inner}",
            ]
        )

    def _text(self) -> str:
        bounds = ["BEGIN", "BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT a", "ROLLBACK TO a", "SELECT 1/0"]
        return self._choice([self._setter, self._use, self._use, lambda: self._choice(bounds)])()

    def _group(self) -> Group:
        kind = self._random.random()
        if kind < 0.45:
            return q(self._text())
        if kind < 0.6:
            return q("; ".join(self._text() for _ in range(self._random.randint(2, 4))))
        if kind < 0.66:
            return q(*(self._text() for _ in range(3)))
        groups = [
            b"".join(self._messages() for _ in range(self._random.randint(1, 4))) + SYNC
            for _ in range(self._choice([1, 1, 2]))
        ]
        return b"".join(groups), len(groups)

    def _messages(self) -> bytes:
        name, portal = self._choice(["", "s", "t"]), self._choice(["", "", "p"])
        text = self._text()
        while text.startswith(("EXECUTE", "FETCH")):  # that can end PostgreSQL: see EXECUTE_OF_EXECUTE
            text = self._text()
        parse = p.parse(name.encode(), text.encode())
        kind = self._random.random()
        if kind < 0.45:
            anew = close("S", name) + parse + bind(name, portal=portal)
            return anew + (execute(portal) if kind < 0.38 else b"")
        if kind < 0.6:
            return parse
        if kind < 0.85:
            return bind(name, portal=portal) + execute(portal, self._choice((0, 0, 1)))
        if kind < 0.9:
            return execute(portal)
        return run("SELECT set_config('search_path', $1, false)", values=[self._choice(self.PATHS).encode()])


def _is_up(server: EmbeddedServer) -> bool:
    with contextlib.suppress(Exception):
        return bool(server.sql("SELECT 1"))
    return False


def _walk(own: SideCart, server: EmbeddedServer, seeds: Sequence[int]) -> tuple[int, int]:
    """Return how often the server alone ran what must not run, and how much went through SideCart as it does there."""
    hostile = alike = 0
    for seed in seeds:
        parameters, groups = Roamer(seed).script()
        wanted = answers(server.port, groups, **parameters)
        if LOST in wanted:
            wait_until(lambda: _is_up(server), 60, "the server")  # it may have ended with all its sessions
            continue
        found = answers(own.port, groups, **parameters)
        assert HOSTILE not in found, (seed, parameters, groups, found)
        hostile += wanted.count(HOSTILE)
        alike += sum(one == other == "ok" for one, other in zip(wanted, found, strict=False))
    return hostile, alike


def test_no_sequence_of_messages_runs_what_another_path_means(own: SideCart, server: EmbeddedServer) -> None:
    hostile, alike = _walk(own, server, range(100))
    assert hostile > 20
    assert alike > 150


@pytest.mark.deep
@pytest.mark.timeout(1200)
def test_no_longer_walk_runs_what_another_path_means(own: SideCart, server: EmbeddedServer) -> None:
    hostile, _ = _walk(own, server, range(1000, 2500))
    assert hostile > 200

"""Beside each extension that the server has, alone in its database, ordinary statements get the server's answers; what
an extension does itself is a read or none.

Nothing is installed: the extensions are those of the machine, and what cannot be created is named in a warning.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import psycopg
import pytest

from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedError, EmbeddedServer
from proxy.filter import Policy
from proxy.sql import tables
from proxy.sql.verdict import Action
from tests import ordinary
from tests.integration.test_reach import learn
from tests.running import SideCart, wait_until

DATABASE = "analysis"
READER = "reader_of_all"
PASSWORD = secrets.token_urlsafe(18)

HANDFUL = ("citext", "hstore", "ip4r", "jsquery", "orafce", "pg_trgm", "postgis", "unit")
_LOGICAL = {"wal_level": "logical", "track_commit_timestamp": "on"}
AT_START: Mapping[str, Mapping[str, str]] = {
    "pg_cron": {"shared_preload_libraries": "pg_cron", "cron.database_name": DATABASE},
    "pg_qualstats": {"shared_preload_libraries": "pg_stat_statements, pg_qualstats"},
    "pg_stat_kcache": {"shared_preload_libraries": "pg_stat_statements, pg_stat_kcache"},
    "pg_wait_sampling": {"shared_preload_libraries": "pg_wait_sampling"},
    "pgaudit": {"shared_preload_libraries": "pgaudit"},
    "pgauditlogtofile": {"shared_preload_libraries": "pgaudit, pgauditlogtofile"},
    "pgautofailover": {"shared_preload_libraries": "pgautofailover"},
    "pglogical": {"shared_preload_libraries": "pglogical", **_LOGICAL},
    "pglogical_ticker": {"shared_preload_libraries": "pglogical, pglogical_ticker", **_LOGICAL},
    "repmgr": {"shared_preload_libraries": "repmgr"},
    "set_user": {"shared_preload_libraries": "set_user"},
}
"""What the server wants to be told when it starts, by extension."""


@contextmanager
def running(settings: Mapping[str, str]) -> Iterator[EmbeddedServer]:
    """Run a server with room for the workers of extensions, and with the role that reads."""
    room = {"max_worker_processes": "20", "max_wal_senders": "4", "wal_level": "replica", "autovacuum": "off"}
    with EmbeddedServer(settings=room | dict(settings)) as server:
        server.sql(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
        yield server


def missing(server: EmbeddedServer, names: Iterable[str]) -> dict[str, str]:
    """Make the database with these extensions and the tables; say of each extension that cannot be made, why."""
    server.sql(f"CREATE DATABASE {DATABASE}")
    found = {}
    for name in names:
        try:
            server.sql(f'SET client_min_messages = error; CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE', DATABASE)
        except EmbeddedError as error:
            found[name] = str(error).partition("ERROR:  ")[2].partition("\n")[0] or str(error)
    server.sql(ordinary.TABLES, DATABASE)
    server.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}", DATABASE)
    return found


def answers(dsn: str) -> dict[str, object]:
    """Ask everything, and give each statement's columns and rows, or the error."""
    found: dict[str, object] = {}
    asked: list[tuple[str, tuple[object, ...] | None]] = [(text, None) for text in ordinary.STATEMENTS]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for text, values in (*asked, *ordinary.PREPARED):
            try:
                cursor = connection.execute(text, values)
                found[text] = [column.name for column in cursor.description or ()], cursor.fetchall()
            except psycopg.Error as error:
                found[text] = f"{error.sqlstate} {error}"
    return found


def differences(server: EmbeddedServer) -> dict[str, tuple[object, object]]:
    """Give what SideCart answers otherwise than the server does, each with the server's answer."""
    reader = {"user": READER, "password": PASSWORD}
    upstream = Upstream(host=server.host, port=server.port, dbname=DATABASE, sslrootcert=str(server.ca_file), **reader)
    with SideCart(upstream) as own:
        wait_until(lambda: '"catalogue loaded"' in own.log, 240, "the catalogue")
        direct = answers(server.dsn(DATABASE, **reader))
        through = answers(f"{own.dsn} password={PASSWORD}")
        own.stop()
        assert '"event":"bug"' not in own.log
    return {text: (through[text], direct[text]) for text in direct if through[text] != direct[text]}


def spoilt(server: EmbeddedServer, name: str) -> str:
    """Give what is answered otherwise beside one extension; warn where it cannot be created."""
    if name in AT_START:
        try:
            with running(AT_START[name]) as own:
                return _spoilt(own, name)
        except EmbeddedError as error:
            warnings.warn(f"no server runs with the extension {name}: {error}", stacklevel=2)
            return ""
    try:
        return _spoilt(server, name)
    finally:
        server.sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def _spoilt(server: EmbeddedServer, name: str) -> str:
    if why := missing(server, [name]):
        warnings.warn(f"the extension {name} could not be created: {why[name]}", stacklevel=3)
        return ""
    found = differences(server)
    return f"{name}: {found}" if found else ""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with running({}) as server:
        yield server


@pytest.fixture(scope="module")
def available(server: EmbeddedServer) -> list[str]:
    return server.sql('SELECT name FROM pg_available_extensions ORDER BY name COLLATE "C"').split()


def test_the_server_alone_answers_every_statement(server: EmbeddedServer) -> None:
    """Compared errors would be worth nothing."""
    missing(server, [])
    try:
        found = answers(server.dsn(DATABASE, user=READER, password=PASSWORD))
    finally:
        server.sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    assert {text: answer for text, answer in found.items() if isinstance(answer, str)} == {}


@pytest.mark.filterwarnings("default:the extension")
@pytest.mark.parametrize("name", HANDFUL)
def test_ordinary_statements_beside_an_extension(server: EmbeddedServer, available: list[str], name: str) -> None:
    if name not in available:
        pytest.skip(f"the extension {name} is not installed on this server")
    assert spoilt(server, name) == ""


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default:the extension", "default:no server runs")
def test_ordinary_statements_beside_each_extension_alone(server: EmbeddedServer, available: list[str]) -> None:
    assert [text for name in available if (text := spoilt(server, name))] == []


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default:extensions that")
def test_ordinary_statements_beside_all_extensions_together(server: EmbeddedServer, available: list[str]) -> None:
    try:
        if why := missing(server, [name for name in available if name not in AT_START]):
            warnings.warn(f"extensions that do not live with the others: {why}", stacklevel=1)
        assert differences(server) == {}
    finally:
        server.sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def test_extension_that_an_operator_trusts(server: EmbeddedServer, available: list[str]) -> None:
    if "unit" not in available:
        pytest.skip("the extension unit is not installed on this server")
    texts = (
        b"SELECT * FROM measured",
        b"SELECT id, dimension(length) FROM measured",
        b"SELECT id, -length FROM measured WHERE length = unit '2 m'",
        b"SELECT sum(length) / 2 FROM measured",
    )
    assert missing(server, ["unit"]) == {}
    try:
        server.sql("CREATE TABLE measured (id int, length unit); INSERT INTO measured VALUES (1, '2 m')", DATABASE)
        judge = learn(server, DATABASE)
        assert judge.judge(b"SELECT id FROM measured WHERE id = 1").action is Action.ALLOW
        for text in texts:
            assert judge.judge(text).hint.endswith('or all of the extension: filter.allow_extensions: ["unit"].')
        trusting = learn(server, DATABASE, Policy(allow_extensions=("unit",)))
        assert [text for text in texts if trusting.judge(text).action is not Action.ALLOW] == []
    finally:
        server.sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")


READS = {
    "hll": ("SELECT hll_cardinality(hll_add_agg(hll_hash_bigint(id))) FROM customers", "SELECT # hll_empty()"),
    "ip4r": ("SELECT ip4r '10.0.0.0/8' >>= ip4 '10.1.2.3', ip4 '10.0.0.1' + 1",),
    "jsquery": ("SELECT id FROM customers WHERE meta @@ 'plan = \"p1\"'::jsquery",),
    "orafce": (
        "SELECT oracle.add_months(date '2024-01-31', 1), oracle.nvl(note, '') FROM orders",
        "SELECT 'a'::oracle.varchar2 OPERATOR(oracle.||) 'b'::oracle.varchar2",
        "SELECT plvstr.left('abcdef', 2)",
    ),
    "pg_rational": ("SELECT 1::rational / 3, sum(id::rational) FROM orders",),
    "pgmp": ("SELECT 2::mpz ^ 200, gcd(12::mpz, 8::mpz)",),
    "pgpcre": ("SELECT name FROM customers WHERE name =~ pcre '^customer \\d$'",),
    "prefix": ("SELECT prefix_range '0049' @> '004930'",),
    "semver": ("SELECT semver '1.2.3' < '1.10.0', get_semver_major('2.0.1')",),
    "hypopg": ("SELECT * FROM hypopg_list_indexes",),
    "pg_stat_kcache": ("SELECT * FROM pg_stat_kcache", "SELECT * FROM pg_stat_kcache_detail"),
    "pg_qualstats": ("SELECT * FROM pg_qualstats", "SELECT * FROM pg_qualstats_by_query"),
    "pg_wait_sampling": (
        "SELECT * FROM pg_wait_sampling_current",
        "SELECT * FROM pg_wait_sampling_history",
        "SELECT * FROM pg_wait_sampling_profile",
    ),
    "repmgr": ("SELECT * FROM repmgr.replication_status",),
    "tdigest": ("SELECT tdigest_percentile(total::float8, 100, 0.95) FROM orders",),
}
"""Ordinary statements of those who use an extension whose functions somebody has read."""
EFFECTS = {
    "hll": (
        "SELECT hll_set_max_sparse(1)",
        "SELECT hll_set_output_version(1)",
        "SELECT hll_set_defaults(11, 5, -1, 1)",
    ),
    "orafce": (
        "SELECT dbms_random.initialize(1)",
        "SELECT dbms_random.seed(1)",
        "SELECT oracle.set_nls_sort('C')",
        "SELECT dbms_pipe.send_message('p')",
        "SELECT utl_file.fopen('/tmp', 'x', 'w')",
        "SELECT dbms_alert.signal('a', 'b')",
        "SELECT dbms_output.put_line('x')",
        "SELECT dbms_sql.open_cursor()",
    ),
    "pgmp": ("SELECT randinit()", "SELECT randseed(1)"),
    "icu_ext": ("SELECT icu_set_default_locale('de')",),
    "hypopg": ("SELECT hypopg_reset()", "SELECT hypopg_reset_index()"),
    "pg_stat_kcache": ("SELECT pg_stat_kcache_reset()",),
    "pg_qualstats": ("SELECT pg_qualstats_reset()",),
    "pg_wait_sampling": ("SELECT pg_wait_sampling_reset_profile()",),
    "repmgr": ("SELECT repmgr.repmgrd_pause(true)", "SELECT repmgr.set_local_node_id(1)"),
}


@pytest.mark.parametrize("name", sorted(READS | EFFECTS))
def test_what_an_extension_does_itself(server: EmbeddedServer, available: list[str], name: str) -> None:
    if name not in available:
        pytest.skip(f"the extension {name} is not installed on this server")
    if name in AT_START:
        with running(AT_START[name]) as own:
            look_at(own, name)
        return
    try:
        look_at(server, name)
    finally:
        server.sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def look_at(server: EmbeddedServer, name: str) -> None:
    """Judge what an extension does, and run what only reads."""
    assert missing(server, [name]) == {}
    judge = learn(server, DATABASE)
    verdicts = {text: judge.judge(text.encode()) for text in READS.get(name, ())}
    assert {text: each.detail for text, each in verdicts.items() if each.action is not Action.ALLOW} == {}
    for text in READS.get(name, ()):
        server.sql(text, DATABASE)  # they mean what they say
    assert [text for text in EFFECTS.get(name, ()) if judge.judge(text.encode()).action is Action.ALLOW] == []


def test_each_extension_stands_in_the_table(available: list[str]) -> None:
    """With what it does, and the version and the source of which that was read."""
    # postgis-3 and its kin are what Debian calls the scripts of postgis.
    unknown = [name for name in available if name.removesuffix("-3") not in tables.SEEN_EXTENSIONS]
    assert unknown == []


COLUMNS = """
CREATE TABLE {table} (id int, c {type}, cc {type}[]);
"""
TOUCHING = (
    "SELECT c, c IS NULL, coalesce(c, NULL) FROM {table}",
    "SELECT c::text, c::varchar || 'x' FROM {table}",
    "SELECT NULL::{type}, $1::{type}",
    "SELECT id FROM {table} WHERE c = c OR c = $1 OR c <> c OR c = ANY (cc) OR cc = cc",
    "SELECT DISTINCT c FROM {table}",
    "SELECT c, count(*) FROM {table} GROUP BY c",
    "SELECT c FROM {table} UNION SELECT cc[1] FROM {table}",
    "SELECT id FROM {table} WHERE c IN (SELECT c FROM {table})",
    "SELECT a.id FROM {table} a JOIN {table} b USING (c)",
    "SELECT id, c < c FROM {table} ORDER BY c",
    "SELECT min(c), max(c) FROM {table}",
    "SELECT to_json(t), array_agg(c) OVER () FROM {table} t",
    "COPY (SELECT c FROM {table}) TO STDOUT",
)
"""What is done with columns of any type: where the type has no such operator, the server says so."""
TYPES = """
SELECT format_type(t.oid, NULL) FROM pg_type t JOIN pg_depend d ON d.objid = t.oid AND d.classid = 'pg_type'::regclass
JOIN pg_extension e ON e.oid = d.refobjid WHERE d.deptype = 'e' AND e.extname = '{name}'
AND t.typtype IN ('b', 'e', 'r', 'd') AND t.typcategory <> 'A' ORDER BY 1
"""
CASTS = """
SELECT 'SELECT NULL::' || format_type(castsource, NULL) || '::' || format_type(casttarget, NULL) FROM pg_cast c
JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_cast'::regclass
JOIN pg_extension e ON e.oid = d.refobjid WHERE d.deptype = 'e' AND e.extname = '{name}' ORDER BY 1
"""


@pytest.mark.deep
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("default:the extension")
def test_columns_of_the_types_of_extensions_whose_code_is_trusted(server: EmbeddedServer, available: list[str]) -> None:
    """They are compared, ordered, cast and shown like any others."""
    refused = {}
    for name in available:
        if name in tables.READING_EXTENSIONS and name not in AT_START:
            try:
                refused |= refused_of_types(server, name)
            finally:
                server.sql(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    assert refused == {}


def refused_of_types(server: EmbeddedServer, name: str) -> dict[str, str]:
    """Give what is refused of the ordinary uses of an extension's types, of those that the server accepts."""
    if why := missing(server, [name]):
        warnings.warn(f"the extension {name} could not be created: {why[name]}", stacklevel=2)
        return {}
    asked = server.sql(CASTS.format(name=name), DATABASE).splitlines()
    for place, type_ in enumerate(server.sql(TYPES.format(name=name), DATABASE).splitlines()):
        names = {"table": f"t{place}", "type": type_}
        try:
            server.sql(COLUMNS.format(**names), DATABASE)
        except EmbeddedError:
            continue  # an index's own type
        asked += [text.format(**names) for text in TOUCHING]
    judge = learn(server, DATABASE)
    verdicts = {text: judge.judge(text.encode()) for text in asked}
    return {
        text: verdict.detail
        for text, verdict in verdicts.items()
        if verdict.action is not Action.ALLOW and accepts(server, text)
    }


def accepts(server: EmbeddedServer, text: str) -> bool:
    """Tell whether the server takes a statement."""
    try:
        server.sql(f"PREPARE p AS {text.removeprefix('COPY (').removesuffix(') TO STDOUT')}", DATABASE)
    except EmbeddedError:
        return False
    return True

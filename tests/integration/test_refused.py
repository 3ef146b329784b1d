"""Writes and side effects are refused although the upstream role is a superuser and the server is read-write.

Every case goes through the simple and the extended protocol, alone and inside a transaction. Afterwards the next
statement on the same connection works, and the database is what it was.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import psycopg
import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests.running import SideCart
from tests.wire import Wire

SETUP = """
CREATE TABLE t (id int primary key, v text);
INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 10) g;
CREATE SEQUENCE s;
CREATE FUNCTION writer() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS
    $$ BEGIN INSERT INTO t VALUES (nextval('s') + 1000, 'x'); RETURN 1; END $$;
CREATE PROCEDURE proc() LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t; END $$;
"""

REFUSED = [
    "INSERT INTO t VALUES (11, 'x')",
    "INSERT INTO t VALUES (11, 'x') RETURNING id",
    "UPDATE t SET v = 'x'",
    "DELETE FROM t",
    "MERGE INTO t USING (VALUES (1)) AS n (id) ON t.id = n.id WHEN MATCHED THEN DELETE",
    "TRUNCATE t",
    "CREATE TABLE n (id int)",
    "CREATE TEMP TABLE n (id int)",
    "DROP TABLE t",
    "ALTER TABLE t ADD COLUMN n int",
    "CREATE INDEX ON t (v)",
    "CREATE VIEW n AS SELECT 1",
    "CREATE ROLE n",
    "GRANT ALL ON t TO PUBLIC",
    "COMMENT ON TABLE t IS 'x'",
    "COPY t FROM STDIN",
    "COPY t TO '/tmp/sidecart-copied'",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT * INTO n FROM t",
    "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
    "SELECT * FROM (WITH x AS (INSERT INTO t VALUES (12, 'x') RETURNING *) SELECT * FROM x) y",
    "EXPLAIN ANALYZE CREATE TABLE n AS SELECT 1",
    "EXPLAIN ANALYZE SELECT 1 AS a INTO n",
    "EXPLAIN (ANALYZE) DELETE FROM t",
    "SELECT * FROM t FOR UPDATE",
    "SELECT * FROM t FOR KEY SHARE",
    "LOCK TABLE t IN ACCESS EXCLUSIVE MODE",
    "DO $$ BEGIN DELETE FROM t; END $$",
    "CALL proc()",
    "SELECT writer()",
    "SELECT nextval('s')",
    "SELECT setval('s', 100)",
    "SELECT lo_create(0)",
    "SELECT lo_from_bytea(0, 'x')",
    "SELECT x.lo_creat FROM abs(-1) x",
    "SELECT (0::oid).lo_create",
    "SELECT pg_notify('c', 'x')",
    "NOTIFY c, 'x'",
    "LISTEN c",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_terminate_backend(0)",
    "SELECT pg_logical_emit_message(true, 'a', 'b')",
    "SELECT query_to_xml('select lo_create(0)', true, true, '')",
    "RESET transaction_read_only",
    "SET transaction_read_only TO DEFAULT",
    "SET transaction_read_only = off",
    "SET default_transaction_read_only = off",
    'SET "Default_Transaction_Read_Only" = off',
    "SELECT set_config('default_transaction_read_only', 'off', false)",
    "SELECT set_config('transaction_' || 'read_only', 'off', false)",
    "SET SESSION AUTHORIZATION postgres",
    "SET session_replication_role = replica",
    "SET standard_conforming_strings = off",
    "SET client_encoding = 'SJIS'",
    "VACUUM t",
    "ANALYZE t",
    "REINDEX TABLE t",
    "CHECKPOINT",
    "ALTER SYSTEM SET work_mem = '1MB'",
    "LOAD 'plpgsql'",
    "PREPARE x AS DELETE FROM t",
    "PREPARE TRANSACTION 'x'",
    "DECLARE c CURSOR WITH HOLD FOR SELECT nextval('s')",
    "UPDATE pg_settings SET setting = 'off' WHERE name = 'default_transaction_read_only'",
]

# Several statements in one string: the simple protocol alone can carry them.
STACKED = [
    "COMMIT; DROP TABLE t",
    "SELECT 1; DELETE FROM t",
    "SELECT 1; SELECT 2; DROP TABLE t; SELECT 3",
    "BEGIN READ WRITE; DELETE FROM t; COMMIT",
    "DELETE FROM t; SELECT 1",
    "SELECT 1;;;; TRUNCATE t",
    "/* ; */ SELECT 1; -- ;\nDELETE FROM t",
]


@pytest.fixture(scope="module")
def dangerous(postgres: EmbeddedServer) -> Iterator[SideCart]:
    """Run SideCart with everything that should never be: a superuser on a primary."""
    postgres.sql("CREATE DATABASE danger")
    postgres.sql(SETUP, "danger")
    upstream = Upstream(
        host=postgres.host,
        port=postgres.port,
        dbname="danger",
        user=postgres.superuser,
        password=postgres.superuser_password,
        sslrootcert=str(postgres.ca_file),
    )
    with SideCart(upstream) as running:
        yield running
        running.stop()
        for word in ("tripwire", "bug"):
            assert f'"event":"{word}"' not in running.log.replace(" ", "")


def world(postgres: EmbeddedServer) -> str:
    """Return what a write would change, as text: rows, objects, sequences, large objects, locks, and the WAL."""
    return postgres.sql(
        """
        SELECT count(*), sum(id), string_agg(v, ',' ORDER BY id) FROM t;
        SELECT last_value, is_called FROM s;
        SELECT count(*), sum(hashtext(relname || relkind::text || coalesce(relacl::text, ''))) FROM pg_class;
        SELECT count(*) FROM pg_attribute;
        SELECT count(*) FROM pg_largeobject_metadata;
        SELECT count(*), sum(hashtext(rolname)) FROM pg_roles;
        SELECT count(*) FROM pg_description;
        SELECT count(*) FROM pg_locks WHERE locktype = 'advisory';
        SELECT count(*) FROM pg_prepared_xacts;
        SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf';
        """,
        "danger",
    )


@pytest.fixture
def unchanged(postgres: EmbeddedServer, dangerous: SideCart) -> Iterator[None]:
    before = world(postgres)
    yield
    assert world(postgres) == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_refused_alone_and_the_next_statement_works(dangerous: SideCart, extended: bool) -> None:
    with Wire(dangerous.port, "danger") as wire:
        for text in REFUSED:
            kinds = wire.ask_extended(text) if extended else wire.ask(text)
            assert kinds in ("EZ",), f"{text}: {kinds} {wire.last}"
            assert wire.error["C"] in ("25006", "42501", "0A000", "42601", "22023"), (text, wire.error)
            assert wire.error["M"], text
            assert wire.status == p.IDLE
            assert (wire.ask_extended if extended else wire.ask)("SELECT count(*) FROM t").endswith("DCZ")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_refused_in_a_transaction_fails_it_as_postgresql_would(dangerous: SideCart, extended: bool) -> None:
    with Wire(dangerous.port, "danger") as wire:
        for text in REFUSED:
            assert wire.ask("BEGIN") == "CZ"
            assert wire.ask("SELECT 1") == "TDCZ"
            assert (wire.ask_extended if extended else wire.ask)(text) == "EZ", text
            assert wire.status == p.FAILED, text
            assert wire.ask("SELECT 1") == "EZ"
            assert wire.error["C"] == "25P02"
            assert wire.ask("COMMIT") == "CZ"
            assert wire.tag == "ROLLBACK"
            assert wire.status == p.IDLE


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("text", STACKED)
def test_one_bad_member_refuses_the_whole_string_before_anything_runs(dangerous: SideCart, text: str) -> None:
    with Wire(dangerous.port, "danger") as wire:
        assert wire.ask(text) == "EZ"
        assert wire.ask("SELECT 1") == "TDCZ"
        assert wire.ask_extended(text) == "EZ"
        assert wire.ask("SELECT 1") == "TDCZ"


@pytest.mark.usefixtures("unchanged")
def test_read_write_transaction_is_read_only_whatever_it_asked_for(dangerous: SideCart) -> None:
    for begin in ("BEGIN READ WRITE", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ WRITE"):
        with Wire(dangerous.port, "danger") as wire:
            assert wire.ask(begin) == "NCZ"
            assert wire.ask("SHOW transaction_read_only") == "TDCZ"
            assert b"on" in wire.last
            assert wire.ask("SET TRANSACTION READ WRITE").endswith("CZ")
            assert wire.ask("SHOW transaction_read_only") == "TDCZ"
            assert b"on" in wire.last


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("oid", "arguments"),
    [
        (957, [struct.pack("!i", 0x60000)]),  # lo_creat
        (715, [struct.pack("!I", 0)]),  # lo_create
        (952, [struct.pack("!I", 1), struct.pack("!i", 0x20000)]),  # lo_open for writing
        (952, [b"1", b"131072"]),  # … spelled as text
        (955, [struct.pack("!i", 0), b"x"]),  # lowrite
        (2078, [b"default_transaction_read_only", b"off", b"f"]),  # set_config
        (3036, [b"c", b"x"]),  # pg_notify
        (1574, [b"s"]),  # nextval
    ],
)
def test_function_call_message_is_refused(dangerous: SideCart, oid: int, arguments: list[bytes]) -> None:
    binary = 0 if any(argument.isascii() and argument.isalnum() for argument in arguments) else 1
    body = struct.pack("!Ihhh", oid, 1, binary, len(arguments))
    body += b"".join(struct.pack("!i", len(argument)) + argument for argument in arguments) + struct.pack("!h", 1)
    with Wire(dangerous.port, "danger") as wire:
        assert wire.send(p.message(p.FUNCTION_CALL, body)).until_ready() == "EZ"
        assert wire.ask("SELECT 1") == "TDCZ"


def test_large_object_reads_by_function_call_work(dangerous: SideCart, postgres: EmbeddedServer) -> None:
    number = int(postgres.sql("SELECT lo_from_bytea(0, 'content')", "danger").strip())
    with psycopg.connect(dangerous.dsn) as connection:
        wire = connection.pgconn
        connection.execute("SELECT 1")
        assert wire is not None
    with Wire(dangerous.port, "danger") as raw:
        raw.ask("BEGIN")
        opened = struct.pack("!IhhhiIiIh", 952, 1, 1, 2, 4, number, 4, 0x40000, 1)
        assert raw.send(p.message(p.FUNCTION_CALL, opened)).until_ready() == "VZ"
        descriptor = raw.last[raw.last.index(b"V") + 9 :][:4]
        read = struct.pack("!Ihhhi4siih", 954, 1, 1, 2, 4, descriptor, 4, 100, 1)
        assert raw.send(p.message(p.FUNCTION_CALL, read)).until_ready() == "VZ"
        assert b"content" in raw.last


@pytest.mark.usefixtures("unchanged")
def test_refused_members_of_a_pipeline_roll_back_what_stands_before_them(dangerous: SideCart) -> None:
    def group(text: str) -> bytes:
        return p.parse(b"", text.encode()) + p.message(p.BIND, b"\0\0" + bytes(6)) + p.execute(b"")

    with Wire(dangerous.port, "danger") as wire:
        wire.send(group("SET work_mem = '1234kB'") + group("DELETE FROM t") + group("SELECT 1") + p.SYNC_MESSAGE)
        assert wire.until_ready() == "12CEZ"
        wire.ask("SHOW work_mem")
        assert b"1234kB" not in wire.last
        # … and a long one: the replies come in request order
        many = b"".join((group("SELECT 1") if n % 3 else group("DROP TABLE t")) + p.SYNC_MESSAGE for n in range(300))
        wire.send(many)
        kinds = "".join(wire.until_ready() for _ in range(300))
        assert kinds == "".join("12DCZ" if n % 3 else "EZ" for n in range(300))

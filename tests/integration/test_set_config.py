"""set_config with parameters: what a Bind gives to it is judged as constants are."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from proxy import protocol as p
from tests import servers
from tests.running import SideCart, reader_of
from tests.wire import Wire, bind, describe, execute

CALL = "select set_config($1, $2, false)"
TEXT, VARCHAR, NAME, UNKNOWN, INT4, REGCLASS = 25, 1043, 19, 705, 23, 2205


@pytest.fixture(scope="module", params=servers.EVERY)
def one_upstream(request: pytest.FixtureRequest) -> Iterator[SideCart]:
    with (
        servers.with_shop(request) as (server, logins),
        SideCart(reader_of(server, logins), SIDECART_POOL_DEFAULT_POOL_SIZE="1") as running,
    ):
        yield running


def parse(name: str, text: str, *types: int) -> bytes:
    return p.parse(name.encode(), text.encode(), struct.pack(f"!H{len(types)}I", len(types), *types))


def tried(wire: Wire, text: str, values: Sequence[bytes | None], *types: int, name: str = "") -> str:
    """Run a statement by the protocol; return its only value, or "!" and the SQLSTATE of its error."""
    wire.error = {}
    wire.last = b""
    wire.send(parse(name, text, *types) + bind(name, values) + describe("P") + execute() + p.SYNC_MESSAGE)
    replies = wire.until_ready()
    if "E" in replies:
        return "!" + wire.error["C"]
    at = wire.last.index(b"D\0")
    length = struct.unpack_from("!i", wire.last, at + 7)[0]
    return "null" if length < 0 else wire.last[at + 11 : at + 11 + length].decode()


def setting(wire: Wire, name: str) -> str:
    return tried(wire, f"select current_setting('{name}')", [])


@pytest.mark.parametrize("types", [(), (TEXT, TEXT), (VARCHAR, 0), (NAME, UNKNOWN), (0, NAME)])
def test_parameters_of_any_textual_type_set(one_upstream: SideCart, types: tuple[int, ...]) -> None:
    with Wire(one_upstream.port) as wire, Wire(one_upstream.port) as other:
        before = setting(other, "work_mem")
        assert tried(wire, CALL, [b"work_mem", b"1234kB"], *types) == "1234kB"
        assert setting(wire, "work_mem") == "1234kB"
        assert setting(other, "work_mem") == before
        assert setting(wire, "work_mem") == "1234kB"


def test_what_psycopg_sends(one_upstream: SideCart) -> None:
    with psycopg.connect(one_upstream.dsn, autocommit=True) as connection:
        for _ in range(8):  # from the sixth on it is a prepared statement
            row = connection.execute("select set_config(%s, %s, false)", ["search_path", "public"]).fetchone()
            assert row == ("public",)
        row = connection.execute("select set_config(%b, %b, %b)", ["search_path", "a, b", True]).fetchone()
        assert row == ("a, b",)
        connection.execute("select set_config('client_encoding', %s, false)", ["latin1"])
        assert connection.info.encoding == "iso8859-1"
        assert connection.execute("select %s", ["é"]).fetchone() == ("é",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("select set_config('client_encoding', %s, false)", ["sjis"])


def test_null_resets(one_upstream: SideCart) -> None:
    with Wire(one_upstream.port) as wire:
        before = setting(wire, "work_mem")
        assert tried(wire, CALL, [b"work_mem", b"1234kB"]) == "1234kB"
        assert tried(wire, CALL, [b"work_mem", None]) == before
        assert setting(wire, "work_mem") == before
        assert tried(wire, CALL, [None, b"x"]) == "!22004"  # the server's own
        assert tried(wire, CALL, [b"transaction_read_only", None]) == "!25006"


REFUSED = [
    (b"default_transaction_read_only", b"off"),
    (b"Transaction_Read_Only", b"off"),
    (b"role", b"postgres"),
    (b"session_authorization", b"postgres"),
    (b"session_replication_role", b"replica"),
    (b"search_path", b"public, pg_catalog"),
    (b"search_path", b"pg_temp, public"),
    (b"standard_conforming_strings", b"off"),
    (b"client_encoding", b"SJIS"),
    (b"\xc5\xbfearch_path", b"public, pg_catalog"),
    (b"work_mem\0", b"1MB"),
    (b"log_statement\xff", b"1MB"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_attack_values_that_no_constant_may_have(one_upstream: SideCart, name: bytes, value: bytes) -> None:
    with Wire(one_upstream.port) as wire:
        for types in ((), (TEXT, TEXT), (NAME, VARCHAR)):
            assert tried(wire, CALL, [name, value], *types).startswith("!"), types
        assert tried(wire, CALL, [b"work_mem", b"2MB"], name="s") == "2MB"
        wire.send(bind("s", [name, value]) + execute() + p.SYNC_MESSAGE)  # of a statement that is known by now
        assert "E" in wire.until_ready()
        assert setting(wire, "default_transaction_read_only") == "on"
        assert setting(wire, "search_path") == '"$user", public'


def test_attack_a_name_that_is_cut_off(one_upstream: SideCart) -> None:
    path = b"public" + b" " * 45 + b", pg_catalogue"
    assert path[:63].endswith(b"pg_catalog")
    with Wire(one_upstream.port) as wire:
        call = "select set_config('search_path', $1, false)"
        assert tried(wire, call, [path], TEXT) == path.decode()
        assert tried(wire, call, [path], NAME) == "!42501"
        assert tried(wire, call + ", $1::name", [path]) == "!42501"


@pytest.mark.parametrize("type_", [INT4, REGCLASS, 2278, 16385])
def test_attack_parameters_of_other_types(one_upstream: SideCart, type_: int) -> None:
    with Wire(one_upstream.port) as wire:
        assert tried(wire, CALL, [b"work_mem", b"1"], 0, type_).startswith("!")


@pytest.mark.parametrize(
    "text",
    [
        "prepare p(text, text) as select set_config($1, $2, false)",
        "explain analyze select set_config($1, $2, false)",
        "declare c cursor for select set_config($1, $2, false)",
        "copy (select set_config($1, $2, false)) to stdout",
        "select set_config($1 || '', $2, false)",
        "select set_config($1, $2, false), $1",
        "select set_config(x, $2, false) from (select $1::text) v(x)",
        "select query_to_xml('select set_config($1, $2, false)', true, true, '')",
    ],
)
def test_attack_values_that_no_bind_gives(one_upstream: SideCart, text: str) -> None:
    with Wire(one_upstream.port) as wire:
        assert tried(wire, text, [b"work_mem", b"1MB"]) == "!42501"


def test_attack_sql_executes_what_the_protocol_has_prepared(one_upstream: SideCart) -> None:
    with Wire(one_upstream.port) as wire:
        assert tried(wire, CALL, [b"work_mem", b"1MB"], name="s") == "1MB"
        for text in (
            "execute s('role', 'x')",
            "explain analyze execute s('role', 'x')",
            "select 1; execute s('a','b')",
        ):
            wire.send(p.query(text.encode()))
            assert "E" in wire.until_ready()
            assert wire.error["C"] == "42501", wire.error
        # In one write with its Parse, in one group and in two.
        for name, sync in (("t", b""), ("u", p.SYNC_MESSAGE)):
            run = parse("", f"execute {name}('default_transaction_read_only','off')") + bind("") + execute()
            wire.error = {}
            wire.send(parse(name, CALL) + sync + run + p.SYNC_MESSAGE)
            while not wire.error:
                wire.until_ready()
            assert wire.error["C"] == "42501", wire.error
    with Wire(one_upstream.port) as other:
        assert setting(other, "default_transaction_read_only") == "on"


def test_attack_a_bind_too_long_to_be_looked_at(one_upstream: SideCart) -> None:
    with Wire(one_upstream.port) as wire:
        text = "select set_config($1, $2, false), $3"
        assert tried(wire, text, [b"work_mem", b"1MB", b"x" * 200_000]) == "!54000"
        assert tried(wire, text, [b"work_mem", b"1MB", b"x" * 20_000]) == "1MB"


def test_each_portal_has_the_values_of_its_own_bind(one_upstream: SideCart) -> None:
    with Wire(one_upstream.port) as wire, Wire(one_upstream.port) as other:
        before = setting(other, "work_mem"), setting(other, "geqo")
        wire.send(parse("s", CALL) + p.query(b"begin"))
        wire.until_ready()
        wire.send(bind("s", [b"work_mem", b"77MB"], portal="a") + bind("s", [b"geqo", b"off"], portal="b"))
        wire.send(execute("b") + execute("a") + p.SYNC_MESSAGE + p.query(b"commit"))
        wire.until_ready()
        wire.until_ready()
        assert (setting(other, "work_mem"), setting(other, "geqo")) == before
        assert (setting(wire, "work_mem"), setting(wire, "geqo")) == ("77MB", "off")

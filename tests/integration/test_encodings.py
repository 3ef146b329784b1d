"""Characters as the filter reads them and as the server does, in every client encoding, against the server itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from proxy.sql import tables
from proxy.sql import text as texts
from proxy.sql.tables import Refused
from tests.running import SideCart, wait_until
from tests.wire import Wire, bind, execute

NAMES = {"eucjp": "EUC_JP", "eucjis2004": "EUC_JIS_2004", "euckr": "EUC_KR", "euccn": "EUC_CN"}
"""Where the key is not the server's name, too."""
CONVERTED = sorted(key for key, codec in tables.ENCODINGS.items() if codec not in ("utf-8", tables.RAW))
ASK = """
CREATE FUNCTION pg_temp.read(bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN encode(convert_to(convert_from($1, '{encoding}'), 'UTF8'), 'hex');
EXCEPTION WHEN OTHERS THEN RETURN ''; END $$;
SELECT encode(bytes, 'hex') || ' ' || pg_temp.read(bytes) FROM unnest('{{{bytes}}}'::bytea[]) bytes;
"""


def characters(encoding: str) -> list[bytes]:
    """Return whatever bytes could be one character beyond ASCII."""
    if not encoding.startswith("euc"):
        return [bytes([byte]) for byte in range(0x80, 0x100)]
    high = range(0xA1, 0xFF)
    found = [bytes(pair) for pair in product((0x8E, *high), high)]
    return found + ([bytes((0x8F, *pair)) for pair in product(high, high)] if "j" in encoding else [])


@pytest.mark.parametrize("encoding", CONVERTED)
def test_attack_character_that_the_server_takes_for_another_one(postgres: EmbeddedServer, encoding: str) -> None:
    codec = tables.ENCODINGS[encoding]
    read = {}
    for bytes_ in characters(encoding):
        try:
            read[bytes_] = texts.decode(bytes_, codec)
        except Refused:
            continue
    listed = ",".join(f'"\\\\x{bytes_.hex()}"' for bytes_ in read)
    answer = postgres.sql(ASK.format(encoding=NAMES.get(encoding, encoding), bytes=listed))
    told = dict(line.split(" ") for line in answer.splitlines() if line and not line.startswith("CREATE"))
    assert len(told) == len(read)
    wrong = {
        bytes_.hex(): (text, bytes.fromhex(told[bytes_.hex()]).decode())
        for bytes_, text in read.items()
        if told[bytes_.hex()] not in ("", text.encode().hex())
    }
    assert wrong == {}


def test_attack_letters_behind_a_discard_all_that_ends_what_the_client_has_set(
    postgres: EmbeddedServer, upstream: Upstream
) -> None:
    """Behind DISCARD ALL the client's first encoding is set again ahead of what it sends next."""
    postgres.sql("DROP DATABASE IF EXISTS lowered WITH (FORCE)")
    postgres.sql("CREATE DATABASE lowered ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    postgres.sql(
        "SET client_encoding TO 'UTF8'; CREATE FUNCTION \"é\"() RETURNS text LANGUAGE sql AS $$ SELECT 'read' $$;"
        ' CREATE FUNCTION "ã©"() RETURNS text LANGUAGE plpgsql'
        " AS $$ BEGIN PERFORM pg_notify('c', ''); RETURN 1; END $$",
        "lowered",
    )

    def group(text: bytes, *values: bytes) -> bytes:
        return p.parse(b"", text) + bind("", values) + execute() + p.SYNC_MESSAGE

    set_it = group(b"select set_config($1, $2, $3)", b"client_encoding", b"utf8", b"f")
    with SideCart(replace(upstream, dbname="lowered")) as own:
        wait_until(lambda: "catalogue loaded" in own.log, 20, "the catalogue")
        with Wire(own.port, "lowered") as wire:
            wire.send(set_it + group(b"discard all") + group(b'select "\xc3\xa9"()'))
            assert ["E" in wire.until_ready() for _ in range(3)] == [False, False, True]
            assert wire.error["C"] in ("22021", "42883", "42501"), wire.error
            assert "S" in wire.send(set_it + p.query(b"select 1")).until_ready()
            wire.until_ready()
            assert "E" not in wire.send(group(b'select "\xc3\xa9"()')).until_ready(), wire.error

"""What SQL has prepared is judged again by every text that its name may stand for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests.running import SideCart, wait_until
from tests.wire import Wire, bind, execute

READS, WRITES = (
    f"CREATE OR REPLACE FUNCTION g() RETURNS text LANGUAGE sql AS $$ SELECT {body} $$"
    for body in ("'a'", "pg_notify('c', 'x')::text")
)


def query(text: str) -> bytes:
    return p.query(text.encode())


def run(*texts: str, sync: bytes = b"") -> bytes:
    return sync.join(p.parse(b"", text.encode()) + bind("") + execute() for text in texts) + p.SYNC_MESSAGE


A, B = "PREPARE p AS SELECT g()", "PREPARE p AS SELECT 1"
TWICE = {
    "one Query": query(f"{A}; {B}; SELECT 2"),
    "two Queries": query(A) + query(B),
    "one group": run(A, B),
    "two groups": run(A, B, sync=p.SYNC_MESSAGE),
    "an error between": query(f"{A}; SELECT 1/0; {B}"),
    "an error ahead of DEALLOCATE": query(f"{A}; SELECT 1/0; DEALLOCATE p; {B}"),
    "an error ahead of DEALLOCATE ALL": query(f"{A}; SELECT 1/0; DEALLOCATE ALL; {B}"),
    "a transaction": query(f"BEGIN; {A}; {B}") + query("ROLLBACK"),
    "an error ahead of COMMIT": query(f"{A}; SELECT 1/0; COMMIT; {B}"),
    "DISCARD ALL behind": query(f"{A}; {B}; DISCARD ALL"),
    "DEALLOCATE of another": query(f"{A}; DEALLOCATE q; DEALLOCATE p; {B}"),
}


@pytest.mark.parametrize("sent", TWICE.values(), ids=TWICE.keys())
def test_attack_name_that_is_prepared_twice(postgres: EmbeddedServer, upstream: Upstream, sent: bytes) -> None:
    postgres.sql("DROP DATABASE IF EXISTS twice WITH (FORCE)")
    postgres.sql("CREATE DATABASE twice")
    postgres.sql(READS, "twice")
    with SideCart(replace(upstream, dbname="twice"), SIDECART_POOL_DEFAULT_POOL_SIZE=1) as own:
        wait_until(lambda: "catalogue loaded" in own.log, 20, "the first catalogue")
        with Wire(own.port, "twice") as wire:
            wire.send(sent + query("SELECT 'the end'"))
            while wire.tag != "SELECT 1" or b"the end" not in wire.last:
                wire.last = b""
                wire.until_ready()
            loads = own.log.count("catalogue loaded")
            postgres.sql(WRITES, "twice")
            wait_until(lambda: own.log.count("catalogue loaded") > loads, 20, "the next catalogue")
            for way in (query("EXECUTE p"), bind("p") + execute() + p.SYNC_MESSAGE, query("EXPLAIN ANALYZE EXECUTE p")):
                wire.send(way)
                assert "E" in wire.until_ready(), way
                assert wire.error["C"] == "42501", wire.error

"""PostgreSQL reads the rows of an EXECUTE or FETCH by the columns that it found before: no client makes them others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy import protocol as p
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from tests import servers
from tests.running import SideCart, reader_of
from tests.wire import Wire, bind, close, describe, execute


def query(text: str) -> bytes:
    return p.query(text.encode())


def parse(name: str, text: str) -> bytes:
    return p.parse(name.encode(), text.encode())


SYNC = p.SYNC_MESSAGE
TEXTS = "SELECT 'abc'::text, 'd'::text"
NUMBERS = "SELECT 1073741820, 1"
"""As the head of a text: one of 268 million bytes, which are read up to where the process has no more memory."""
BEGIN = query(f"BEGIN; DECLARE c CURSOR FOR {TEXTS}")
OTHER_CURSOR = query(f"CLOSE c; DECLARE c CURSOR FOR {NUMBERS}")
OTHER_TEXT = close("S", "t") + parse("t", NUMBERS)
MADE = parse("t", TEXTS) + parse("s", "EXECUTE t") + SYNC
LATIN1 = query("SET client_encoding TO latin1")
UTF8 = query("SET client_encoding TO utf8")
LETTER = b"\xe9"
"""One byte in latin1, and two on the server."""
LISTED = query("SELECT name FROM pg_prepared_statements")
"""The server has them under the client's own names then."""


def bound_to(portal: bytes) -> bytes:
    return p.message(p.BIND, portal + b"\0s\0" + bytes(6))


ATTACKS = {
    "EXECUTE of an EXECUTE": MADE + OTHER_TEXT + SYNC + query("EXECUTE s"),
    "EXECUTE of an EXECUTE, bound": MADE + OTHER_TEXT + SYNC + parse("", "EXECUTE s") + bind("") + execute() + SYNC,
    "EXECUTE of a FETCH": BEGIN + parse("s", "FETCH 2 FROM c") + SYNC + OTHER_CURSOR + query("EXECUTE s"),
    "a portal of EXECUTE": MADE + bind("s", portal="p") + OTHER_TEXT + execute("p") + SYNC,
    "a portal of EXECUTE of what SQL has prepared": query(f"BEGIN; PREPARE t AS {TEXTS}")
    + parse("s", "EXECUTE t")
    + SYNC
    + bind("s", portal="p")
    + SYNC
    + query(f"DEALLOCATE t; PREPARE t AS {NUMBERS}")
    + execute("p")
    + SYNC,
    "a portal of FETCH": BEGIN
    + parse("s", "FETCH 2 FROM c")
    + SYNC
    + bind("s", portal="p")
    + SYNC
    + OTHER_CURSOR
    + execute("p")
    + SYNC,
    "a portal of FETCH from a portal": parse("a", TEXTS)
    + parse("b", NUMBERS)
    + parse("s", "FETCH 2 FROM c")
    + bind("a", portal="c")
    + bind("s", portal="p")
    + close("P", "c")
    + bind("b", portal="c")
    + execute("p")
    + SYNC,
    "FETCH from a portal of EXECUTE": query("BEGIN")
    + MADE
    + bind("s", portal="p")
    + OTHER_TEXT
    + SYNC
    + query("FETCH 2 FROM p"),
    "MOVE in a portal of EXECUTE": query("BEGIN")
    + MADE
    + bind("s", portal="p")
    + OTHER_TEXT
    + SYNC
    + query("MOVE 1 FROM p")
    + execute("p")
    + SYNC,
    "a savepoint": query(f"BEGIN; DECLARE c CURSOR FOR {TEXTS}; SAVEPOINT one")
    + parse("s", "FETCH 2 FROM c")
    + bind("s", portal="p")
    + SYNC
    + query(f"SAVEPOINT two; CLOSE c; DECLARE c CURSOR FOR {NUMBERS}")
    + execute("p")
    + SYNC,
    "a portal that seems to have run, where its Bind has failed": query("BEGIN")
    + MADE
    + bind("s", portal="p")
    + SYNC
    + query("SAVEPOINT one")
    + bind("s", portal="p")
    + execute("p")
    + SYNC
    + query("ROLLBACK TO one")
    + OTHER_TEXT
    + execute("p")
    + SYNC,
    "an unnamed portal that seems to have run, where its Bind has failed": query("BEGIN")
    + MADE
    + parse("one", "SAVEPOINT one")
    + parse("back", "ROLLBACK TO one")
    + bind("s")
    + bind("one", portal="one")
    + execute("one")
    + SYNC
    + bind("s", [b"of too many"])
    + execute()
    + SYNC
    + bind("back", portal="back")
    + execute("back")
    + SYNC
    + OTHER_TEXT
    + execute()
    + SYNC,
    "a portal in other letters": LATIN1
    + BEGIN
    + parse("s", "FETCH 2 FROM c")
    + bound_to(LETTER)
    + SYNC
    + OTHER_CURSOR
    + UTF8
    + execute("\N{LATIN SMALL LETTER E WITH ACUTE}")
    + SYNC,
    "a portal whose name is longer on the server": LATIN1
    + BEGIN
    + parse("s", "FETCH 2 FROM c")
    + bound_to(LETTER * 32)
    + SYNC
    + OTHER_CURSOR
    + p.message(p.EXECUTE, LETTER * 32 + b"x\0" + bytes(4))
    + SYNC,
    "FETCH from a portal in other letters": LATIN1
    + BEGIN
    + parse("s", "FETCH 2 FROM c")
    + bound_to(LETTER)
    + SYNC
    + OTHER_CURSOR
    + UTF8
    + query('FETCH 2 FROM "\N{LATIN SMALL LETTER E WITH ACUTE}"'),
    "EXECUTE of a FETCH in other letters": LATIN1
    + BEGIN
    + p.parse(LETTER, b"FETCH 2 FROM c")
    + SYNC
    + LISTED
    + UTF8
    + OTHER_CURSOR
    + query('EXECUTE "\N{LATIN SMALL LETTER E WITH ACUTE}"'),
    "EXECUTE of a FETCH whose name is longer on the server": LATIN1
    + BEGIN
    + p.parse(LETTER * 31 + b"xy", b"FETCH 2 FROM c")
    + SYNC
    + LISTED
    + OTHER_CURSOR
    + p.query(b'EXECUTE "' + LETTER * 31 + b'x"'),
}


@pytest.fixture(scope="module", params=servers.EVERY)
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Run one for each, since it may end: the shared one is of use to others."""
    with EmbeddedServer() if request.param == "default" else servers.running(request.param) as own:
        yield own


@pytest.fixture(scope="module")
def sidecart(server: EmbeddedServer) -> Iterator[SideCart]:
    logins = sample.create(server)
    upstream = reader_of(server, logins)
    with SideCart(upstream, SIDECART_POOL_DEFAULT_POOL_SIZE=1) as own:
        yield own


@pytest.mark.parametrize("sent", ATTACKS.values(), ids=ATTACKS.keys())
def test_attack_rows_are_read_by_the_columns_of_others(server: EmbeddedServer, sidecart: SideCart, sent: bytes) -> None:
    """Each but the savepoint showed memory of the server's on 13 to 18, or ended it, with all its sessions."""
    with Wire(sidecart.port) as wire:
        wire.send(sent)
        while "(rule: " not in wire.error.get("D", ""):
            assert wire.until_ready().endswith("Z"), wire.error
        assert wire.error["C"] == "0A000"
    assert "terminated by signal" not in server.log_file.read_text()


def test_portal_of_an_execute_goes_on_giving_the_rows_that_it_has(sidecart: SideCart) -> None:
    with Wire(sidecart.port) as wire:
        many = parse("t", "SELECT 'n' || n FROM generate_series(1, 3) n") + parse("s", "EXECUTE t")
        wire.send(query("BEGIN") + many + bind("s", portal="p") + describe("P", "p") + execute("p", 1) + SYNC)
        assert wire.until_ready().endswith("Z")
        assert wire.until_ready() == "112TDsZ"
        wire.send(OTHER_TEXT + execute("p", 1) + SYNC + execute("p") + SYNC)
        assert wire.until_ready() == "31DsZ"
        assert wire.until_ready() == "DCZ"

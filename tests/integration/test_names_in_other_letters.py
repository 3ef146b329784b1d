"""What one client does by names in other letters, or by functions, changes nobody else's session, and ends none."""

from __future__ import annotations

from proxy import protocol as p
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from tests.running import SideCart, reader_of
from tests.wire import Wire, bind, execute

LETTER = b"\xe9"
"""One byte in latin1, and two on the server."""
LONG = LETTER * 31 + b"x"
"""The server keeps 63 bytes of a name."""


def test_attack_search_path_of_a_statement_whose_name_is_longer_on_the_server_stays_with_its_client() -> None:
    """The other client had the path, once that of the first was noted as that of the server."""
    with EmbeddedServer() as server:
        logins = sample.create(server)
        upstream = reader_of(server, logins)
        with (
            SideCart(upstream, SIDECART_POOL_DEFAULT_POOL_SIZE=1) as own,
            Wire(own.port, client_encoding="latin1") as attacker,
            Wire(own.port) as other,
        ):
            attacker.ask("BEGIN")
            attacker.send(p.parse(LONG + b"y", b"SET search_path TO elsewhere") + p.SYNC_MESSAGE).until_ready()
            attacker.ask("SELECT name FROM pg_prepared_statements")
            attacker.send(p.query(b'EXECUTE "' + LONG + b'"')).until_ready()
            attacker.ask("COMMIT")
            other.ask("SHOW search_path")
            assert b"elsewhere" not in other.last


def test_attack_function_that_is_planned_changes_the_cursor_of_a_portal() -> None:
    """PostgreSQL ended with SIGSEGV: what is labelled IMMUTABLE runs at the Bind of its query."""
    with EmbeddedServer() as server:
        logins = sample.create(server)
        server.sql(
            "CREATE FUNCTION public.swap() RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
            " $$ DECLARE c refcursor := 'c'; BEGIN CLOSE c; OPEN c FOR SELECT 1073741820; RETURN 1; END $$",
            logins.dbname,
        )
        upstream = reader_of(server, logins)
        with SideCart(upstream, SIDECART_FILTER_ALLOW_FUNCTIONS="public.swap") as own, Wire(own.port) as wire:
            wire.ask("BEGIN; DECLARE c CURSOR FOR SELECT 'abc'::text")
            parsed = p.parse(b"s", b"FETCH FROM c") + p.parse(b"f", b"SELECT public.swap()") + p.SYNC_MESSAGE
            assert wire.send(parsed).until_ready() == "11Z"
            wire.send(bind("s", portal="p") + bind("f", portal="q") + execute("p") + p.SYNC_MESSAGE)
            assert wire.until_ready() == "22EZ"
            assert "(rule: late-portal)" in wire.error["D"]
        assert "terminated by signal" not in server.log_file.read_text()

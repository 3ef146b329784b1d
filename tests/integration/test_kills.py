"""Upstreams that are killed, in every way and at every moment: what clients notice, and what must not run again.

A statement outside a transaction whose answer had not begun runs again on another upstream, once; a transaction fails
as an error does; a client that does nothing notices nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Self

import psycopg
import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo import shop as sample
from proxy.demo.embedded import EmbeddedServer
from tests.relay import Relay
from tests.running import SideCart, wait_until
from tests.wire import Wire

CLIENTS = 50
LOST = {"57P01", "08006"}
"""What a client is told of an upstream that has ended."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """Run a server that may be killed; it speaks plaintext too, so that the bytes of an answer can be counted."""
    with EmbeddedServer(plaintext=True) as running:
        yield running


@pytest.fixture(scope="module")
def secure(server: EmbeddedServer) -> Upstream:
    """Return the way to its sample shop over TLS."""
    shop = sample.create(server)
    return Upstream(
        host=server.host,
        port=server.port,
        dbname=shop.dbname,
        user=shop.reader,
        password=shop.reader_password,
        sslrootcert=str(server.ca_file),
    )


@pytest.fixture(autouse=True)
def _nothing_runs(server: EmbeddedServer) -> None:
    """End what an earlier test has left: a server hears of a lost connection only when its statement has ended."""
    end_all(server)
    wait_until(lambda: not connections(server), 10, "the connections to end")


@pytest.fixture
def relay(server: EmbeddedServer) -> Iterator[Relay]:
    with Relay(server.port) as running:
        yield running


@pytest.fixture
def through(secure: Upstream, relay: Relay) -> Upstream:
    """Return the way through the relay, without TLS."""
    return replace(secure, host="127.0.0.1", port=relay.port, sslmode="disable")


class Asking:
    """One statement that is being asked in a thread; `result` waits for the answer, and is its type bytes."""

    def __init__(self, wire: Wire, text: str, ask: Callable[[Wire, str], str] = Wire.ask) -> None:
        self._kinds: list[str] = []
        self._thread = threading.Thread(target=self._run, args=(wire, text, ask), daemon=True)
        self._thread.start()

    def _run(self, wire: Wire, text: str, ask: Callable[[Wire, str], str]) -> None:
        with contextlib.suppress(OSError):  # the test has failed elsewhere, and closed the connection
            self._kinds.append(ask(wire, text))

    def result(self) -> str:
        self._thread.join()
        assert self._kinds, "no answer"
        return self._kinds[0]


class Crowd:
    """Clients, a thread for each, that go round: ask, and check the answer. A context manager.

    `ask` gets a connection in autocommit, and a number that it has to find in the answer.
    """

    def __init__(self, own: SideCart, ask: Callable[[psycopg.Connection, int], None], clients: int = CLIENTS) -> None:
        self._own = own
        self._ask = ask
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._go_round, args=(number,)) for number in range(clients)]
        self._rounds = [0] * clients
        self.errors: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self) -> None:
        """Wait until every client has asked, and been answered, twice more: once at least from beginning to end."""
        before = self._rounds.copy()

        def all_went() -> bool:
            return bool(self.errors) or all(now >= then + 2 for now, then in zip(self._rounds, before, strict=True))

        wait_until(all_went, 40, "every client's next answers")

    def _go_round(self, client: int) -> None:
        try:
            with psycopg.connect(self._own.dsn, autocommit=True) as connection:
                while not self._stop.is_set():
                    self._ask(connection, client * 1_000_000 + self._rounds[client])
                    self._rounds[client] += 1
        except (psycopg.Error, AssertionError) as error:
            self.errors.append(
                f"client {client}, round {self._rounds[client]}: {getattr(error, 'sqlstate', '')} {error}"
            )


def read(connection: psycopg.Connection, number: int) -> None:
    """Read with the extended protocol, in a prepared statement after the fifth time; some reads take a moment."""
    moment = 0.02 if number % 3 == 0 else 0.0
    row = connection.execute(
        "SELECT %s::int8, n FROM pg_sleep(%s), generate_series(1, 3) n", (number, moment)
    ).fetchall()
    assert row == [(number, 1), (number, 2), (number, 3)], row


def end_all(server: EmbeddedServer) -> int:
    """End every connection of the read-only role, as a DBA does; return how many there were."""
    return int(
        server.sql(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{sample.READER}'")
    )


def connections(server: EmbeddedServer) -> int:
    return int(server.sql(f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{sample.READER}'"))


def running(server: EmbeddedServer, marker: str, *, for_seconds: float = 0.0) -> int:
    """Wait until a statement with this text runs, and has run so long; return the pid that began it last."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        f" AND query LIKE '%{marker}%' AND clock_timestamp() - query_start > interval '{for_seconds} s'"
        " ORDER BY query_start DESC LIMIT 1"
    )
    return int(wait_until(lambda: server.sql(query), 20, f"{marker} to run"))


def end(server: EmbeddedServer, pid: int) -> None:
    assert server.sql(f"SELECT pg_terminate_backend({pid})").strip() == "t"


def restart(server: EmbeddedServer, how: signal.Signals) -> None:
    server.halt(how)
    server.start()


def before_error(answer: bytes) -> bytes:
    """Return the messages of an answer up to its ErrorResponse, or to its end."""
    at = 0
    while at < len(answer) and answer[at] != p.ERROR_RESPONSE:
        at += 1 + p.read_header(answer, at)[1]
    return answer[:at]


def quiet(wire: Wire) -> bool:
    """Whether nothing has come from SideCart, not even the end."""
    return not select.select([wire.sock], [], [], 0)[0]


# --- a crowd of reads -------------------------------------------------------------------------------------------------


def test_reads_of_fifty_clients_survive_pg_terminate_backend(secure: Upstream, server: EmbeddedServer) -> None:
    with SideCart(secure) as own, Crowd(own, read) as crowd:
        for _ in range(5):
            assert end_all(server)
            crowd.goes_on()
        assert crowd.errors == []
        assert own.metric("sidecart_upstream_retries_total") > 0
        assert own.metric("sidecart_bugs_total") == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_reads_of_fifty_clients_survive_a_restart_of_the_server(
    secure: Upstream, server: EmbeddedServer, how: signal.Signals
) -> None:
    with SideCart(secure) as own, Crowd(own, read) as crowd:
        for _ in range(2):
            restart(server, how)
            crowd.goes_on()
        assert crowd.errors == []
        assert own.metric("sidecart_bugs_total") == 0


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
def test_reads_of_fifty_clients_survive_tcp_resets(secure: Upstream, relay: Relay, tls: bool) -> None:
    there = replace(secure, port=relay.port) if tls else replace(secure, port=relay.port, sslmode="disable")
    with SideCart(there) as own, Crowd(own, read) as crowd:
        for _ in range(5):
            assert relay.reset()
            crowd.goes_on()
        assert crowd.errors == []
        assert own.metric("sidecart_bugs_total") == 0


def test_server_that_stays_away_is_an_error_after_query_wait_timeout_and_the_client_goes_on(
    secure: Upstream, server: EmbeddedServer
) -> None:
    with SideCart(secure, SIDECART_POOL_QUERY_WAIT_TIMEOUT="3s") as own, Wire(own.port) as wire:
        assert wire.ask("SELECT 1") == "TDCZ"
        server.halt(signal.SIGINT)
        try:
            assert wire.ask("SELECT 2") == "EZ"
            assert (wire.error["S"], wire.error["C"] in ("08006", "57P03"), chr(wire.status)) == ("ERROR", True, "I")
        finally:
            server.start()
        wait_until(lambda: wire.ask("SELECT 3") == "TDCZ", 10, "a login")


# --- transactions -----------------------------------------------------------------------------------------------------


def kill(way: str, server: EmbeddedServer, relay: Relay) -> None:
    """Take every upstream away."""
    if way == "pg_terminate_backend":
        assert end_all(server)
    elif way == "reset":
        assert relay.reset()
    else:
        restart(server, signal.SIGINT if way == "fast" else signal.SIGQUIT)


KILLS = ["pg_terminate_backend", "reset", "fast", "immediate"]


def loss_is_known(own: SideCart) -> None:
    wait_until(lambda: own.metric('sidecart_servers{database="shop",state="active"}') == 0, 10, "the loss")


def fails_and_goes_on(wire: Wire) -> None:
    """Check how a transaction ends whose upstream was lost; the answer with the error has been read."""
    assert (wire.error["S"], wire.error["C"] in LOST, chr(wire.status)) == ("ERROR", True, "E"), wire.error
    assert wire.ask("SELECT 'in a failed transaction'") == "EZ"
    assert (wire.error["C"], chr(wire.status)) == ("25P02", "E")
    assert wire.ask("COMMIT") == "CZ"
    assert (wire.tag, chr(wire.status)) == ("ROLLBACK", "I")
    assert wire.ask("SELECT 'afterwards'") == "TDCZ"


@pytest.mark.parametrize("way", KILLS)
def test_transaction_fails_when_its_upstream_is_lost_between_statements(
    through: Upstream, server: EmbeddedServer, relay: Relay, way: str
) -> None:
    with SideCart(through) as own, Wire(own.port) as wire:
        wire.ask("BEGIN")
        assert wire.ask("SELECT 'of the transaction'") == "TDCZ"
        kill(way, server, relay)
        loss_is_known(own)
        assert quiet(wire), "nobody was asked"
        assert wire.ask("SELECT 'the next'") == "EZ"
        fails_and_goes_on(wire)


@pytest.mark.parametrize("way", KILLS)
@pytest.mark.parametrize("ask", [Wire.ask, Wire.ask_extended], ids=["simple", "extended"])
def test_transaction_fails_when_its_upstream_is_lost_under_a_statement(
    through: Upstream, server: EmbeddedServer, relay: Relay, way: str, ask: Callable[[Wire, str], str]
) -> None:
    with SideCart(through) as own, Wire(own.port) as wire:
        wire.ask("BEGIN")
        wire.ask("SELECT 'of the transaction'")
        asking = Asking(wire, "SELECT 'under way', pg_sleep(30)", ask)
        running(server, "under way")
        kill(way, server, relay)
        assert asking.result().endswith("EZ")
        assert relay.heard(b"'under way'") == 1
        assert own.metric("sidecart_upstream_retries_total") == 0
        fails_and_goes_on(wire)


@pytest.mark.parametrize("under", [False, True], ids=["before", "under"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
@pytest.mark.parametrize("ask", [Wire.ask, Wire.ask_extended], ids=["simple", "extended"])
def test_end_of_a_transaction_whose_upstream_is_lost_ends_it(
    through: Upstream, relay: Relay, ask: Callable[[Wire, str], str], end: str, under: bool
) -> None:
    """As PostgreSQL has it: a COMMIT that fails has ended the transaction. Drivers send no ROLLBACK after it."""
    with SideCart(through) as own, Wire(own.port) as wire:
        wire.ask("BEGIN")
        wire.ask("SELECT 1")
        if under:
            relay.cut_after(0, end.encode(), reset=True)
        else:
            relay.reset()
            loss_is_known(own)
        kinds = ask(wire, end)
        assert chr(wire.status) == "I"
        if "E" in kinds:
            assert wire.error["C"] in LOST
        else:
            assert wire.tag == "ROLLBACK"
        assert wire.ask("SELECT 1") == "TDCZ"
        assert chr(wire.status) == "I"


@pytest.mark.parametrize("count", [0, 3, 5, 7, 11], ids=lambda count: f"{count} bytes")
@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside a transaction"])
def test_prepared_statement_whose_parse_was_cut_off_is_there_once_or_not_at_all(
    through: Upstream, relay: Relay, inside: bool, count: int
) -> None:
    def parse(text: bytes) -> bytes:
        return p.parse(b"mine", text) + p.SYNC_MESSAGE

    with SideCart(through) as own, Wire(own.port) as wire:
        if inside:
            wire.ask("BEGIN")
            wire.ask("SELECT 1")
        relay.cut_after(count, b"'first'", reset=True)
        failed = wire.send(parse(b"SELECT 'first'")).until_ready() not in ("1Z", "1EZ")
        assert failed or not inside or count
        relay.disarm()
        if inside:
            wire.ask("ROLLBACK")
        kinds = wire.send(parse(b"SELECT 'second'")).until_ready()
        assert (kinds, wire.error.get("C")) == (("1Z", wire.error.get("C")) if failed else ("EZ", "42P05"))
        wire.send(p.message(p.BIND, b"\0mine\0" + bytes(6)) + p.execute(b"") + p.SYNC_MESSAGE)
        assert wire.until_ready() == "2DCZ"
        assert (b"second" if failed else b"first") in wire.last


def test_psycopg_keeps_its_connection_through_a_transaction_that_was_lost(
    secure: Upstream, server: EmbeddedServer
) -> None:
    with SideCart(secure) as own, psycopg.connect(own.dsn) as connection:
        for _ in range(2):
            connection.execute("SELECT 1")
            end_all(server)
            with pytest.raises(psycopg.OperationalError) as caught:
                connection.execute("SELECT 2")
            assert caught.value.sqlstate in LOST
            connection.rollback()
        assert connection.execute("SELECT 3").fetchone() == (3,)


def test_transactions_of_fifty_clients_fail_cleanly_or_not_at_all(secure: Upstream, server: EmbeddedServer) -> None:
    failed = []

    def transact(connection: psycopg.Connection, number: int) -> None:
        try:
            with connection.transaction():
                connection.execute("SELECT pg_sleep(0.005)")
                read(connection, number)
        except psycopg.OperationalError as error:
            assert error.sqlstate in LOST, error
            failed.append(number)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    with SideCart(secure) as own, Crowd(own, transact) as crowd:
        for _ in range(3):
            assert end_all(server)
            crowd.goes_on()
        assert crowd.errors == []
        assert failed
        assert own.metric("sidecart_bugs_total") == 0


# --- clients that do nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", KILLS)
def test_idle_clients_notice_nothing(through: Upstream, server: EmbeddedServer, relay: Relay, way: str) -> None:
    with SideCart(through) as own:
        wires = [Wire(own.port, TimeZone="Asia/Tokyo") for _ in range(20)]
        for number, wire in enumerate(wires):
            wire.ask(f"SET search_path TO s{number}, public")
            wire.send(p.parse(b"mine", b"SELECT %d, current_setting('TimeZone')" % number) + p.SYNC_MESSAGE)
            assert wire.until_ready() == "1Z"
        kill(way, server, relay)
        wait_until(lambda: own.metric('sidecart_upstream_closes_total{reason="upstream_lost"}') > 0, 10, "the loss")
        assert all(quiet(wire) for wire in wires)
        for number, wire in enumerate(wires):
            assert wire.ask("SHOW search_path") == "TDCZ"
            assert f"s{number}, public".encode() in wire.last
            wire.send(p.message(p.BIND, b"\0mine\0" + bytes(6)) + p.execute(b"") + p.SYNC_MESSAGE)
            assert wire.until_ready() == "2DCZ"
            assert b"%d" % number in wire.last and b"Asia/Tokyo" in wire.last
            wire.sock.close()


@pytest.mark.parametrize("way", KILLS)
def test_pinned_client_outside_a_transaction_is_closed_with_57p01(
    through: Upstream, server: EmbeddedServer, relay: Relay, way: str
) -> None:
    with SideCart(through) as own, Wire(own.port) as pinned:
        pinned.ask("BEGIN")
        pinned.ask("DECLARE mine CURSOR WITH HOLD FOR SELECT generate_series(1, 9)")
        pinned.ask("COMMIT")
        assert own.metric('sidecart_pinned_clients{reason="hold_cursor"}') == 1
        kill(way, server, relay)
        assert pinned.until_ready().lstrip("N") == "E"  # an immediate shutdown is announced by a WARNING
        assert (pinned.error["S"], pinned.error["C"]) == ("FATAL", "57P01")


def test_statement_runs_again_although_every_idle_upstream_was_lost_too(through: Upstream, relay: Relay) -> None:
    """Nobody has heard of their end when a second one is looked for: one of them would be lost in turn."""
    limits = {"SIDECART_POOL_MIN_POOL_SIZE": 10, "SIDECART_POOL_DEFAULT_POOL_SIZE": 10, "SIDECART_POOL_MAX_LOGINS": 10}
    with SideCart(through, SIDECART_FILTER_CATALOG_REFRESH="0", **limits) as own, Wire(own.port) as wire:
        own.settled()
        for number in range(5):
            wait_until(lambda: own.metric('sidecart_servers{database="shop",state="idle"}') == 10, 10, "all upstreams")
            wire.send(p.query(b"SELECT 'round %d', pg_sleep(0.3)" % number))
            wait_until(lambda number=number: relay.heard(b"'round %d'" % number), 10, "the statement")
            assert relay.reset() == 10
            assert wire.until_ready() == "TDCZ", wire.error
            assert relay.heard(b"'round %d'" % number) == 2


# --- what is not run again --------------------------------------------------------------------------------------------


def is_told(wire: Wire, kinds: str, sqlstates: set[str]) -> None:
    """Check that the client got the error in place of its answer, and can go on."""
    assert kinds.endswith("EZ"), kinds
    assert (wire.error["S"], wire.error["C"] in sqlstates, chr(wire.status)) == ("ERROR", True, "I"), wire.error
    assert wire.ask("SELECT 'goes on'") == "TDCZ"


def test_statement_that_a_dba_ends_young_runs_again(through: Upstream, server: EmbeddedServer, relay: Relay) -> None:
    with SideCart(through) as own, Wire(own.port) as wire:
        asking = Asking(wire, "SELECT 'young', pg_sleep(1)")
        end(server, running(server, "young"))
        assert asking.result() == "TDCZ", wire.error
        assert relay.heard(b"'young'") == 2
        assert own.metric("sidecart_upstream_retries_total") == 1


def test_retry_off_gives_the_error_instead(through: Upstream, server: EmbeddedServer, relay: Relay) -> None:
    with SideCart(through, SIDECART_POOL_RETRY="off") as own, Wire(own.port) as wire:
        asking = Asking(wire, "SELECT 'only once', pg_sleep(30)")
        end(server, running(server, "only once"))
        is_told(wire, asking.result(), {"57P01"})
        asking = Asking(wire, "SELECT 'only once more', pg_sleep(30)")
        running(server, "only once more")
        relay.reset()
        is_told(wire, asking.result(), LOST)
        assert (relay.heard(b"'only once'"), relay.heard(b"'only once more'")) == (1, 1)
        assert own.metric("sidecart_upstream_retries_total") == 0


def test_statement_that_a_dba_ends_after_retry_max_age_is_not_run_again(
    through: Upstream, server: EmbeddedServer, relay: Relay
) -> None:
    with SideCart(through, SIDECART_POOL_RETRY_MAX_AGE="300ms") as own, Wire(own.port) as wire:
        asking = Asking(wire, "SELECT 'too old', pg_sleep(30)")
        end(server, running(server, "too old", for_seconds=0.4))
        is_told(wire, asking.result(), {"57P01"})
        assert relay.heard(b"'too old'") == 1


def test_age_does_not_matter_where_no_dba_ended_the_statement(
    through: Upstream, server: EmbeddedServer, relay: Relay
) -> None:
    with SideCart(through, SIDECART_POOL_RETRY_MAX_AGE="300ms") as own, Wire(own.port) as wire:
        asking = Asking(wire, "SELECT 'cut off', pg_sleep(1)")
        running(server, "cut off", for_seconds=0.4)
        relay.reset()
        assert asking.result() == "TDCZ", wire.error
        assert relay.heard(b"'cut off'") == 2


def test_statement_is_run_again_once_at_most(through: Upstream, server: EmbeddedServer, relay: Relay) -> None:
    with SideCart(through) as own, Wire(own.port) as wire:
        asking = Asking(wire, "SELECT 'twice', pg_sleep(30)")
        first = running(server, "twice")
        end(server, first)
        wait_until(lambda: relay.heard(b"'twice'") == 2, 10, "the second run")
        second = running(server, "twice")
        assert second != first
        end(server, second)
        is_told(wire, asking.result(), {"57P01"})
        assert relay.heard(b"'twice'") == 2
        # The next statement has its own turn.
        asking = Asking(wire, "SELECT 'next', pg_sleep(1)")
        end(server, running(server, "next"))
        assert asking.result() == "TDCZ", wire.error


def test_crash_of_another_backend_is_never_retried(through: Upstream, server: EmbeddedServer, relay: Relay) -> None:
    """Whatever crashed the server may be this very statement: 57P02 says that all backends were ended."""
    with SideCart(through) as own, Wire(own.port) as wire, Wire(own.port) as other:
        first = Asking(wire, "SELECT 'innocent', pg_sleep(30)")
        Asking(other, "SELECT 'guilty', pg_sleep(30)")
        running(server, "innocent")
        os.kill(running(server, "guilty"), signal.SIGKILL)
        is_told(wire, first.result(), {"57P02"})
        other.sock.shutdown(socket.SHUT_RDWR)
        assert relay.heard(b"'innocent'") == 1


def test_statement_that_its_client_has_cancelled_is_not_run_again(
    through: Upstream, server: EmbeddedServer, relay: Relay
) -> None:
    with SideCart(through) as own, Wire(own.port) as wire:
        asking = Asking(wire, "SELECT 'cancelled', pg_sleep(30)")
        running(server, "cancelled")
        relay.silence(True)  # the server shall not hear of it
        with Wire(own.port, login=False) as canceller:
            canceller.send(p.cancel_request(int.from_bytes(wire.key[:4], "big"), wire.key[4:]))
            assert canceller.until_ready() == ""
        relay.silence(False)
        relay.reset()
        is_told(wire, asking.result(), LOST | {"57014"})
        assert relay.heard(b"'cancelled'") == 1


def test_statement_whose_rows_have_begun_to_arrive_is_not_run_again(through: Upstream, relay: Relay) -> None:
    # More rows than any buffer of the server's or ours: the first are here long before the last are computed.
    text = (
        "SELECT 'rows', repeat('x', 1000), n, CASE n WHEN 20000 THEN pg_sleep(30) END FROM generate_series(1, 20000) n"
    )
    with SideCart(through) as own, Wire(own.port) as wire:
        wire.send(p.query(text.encode()))
        assert chr(wire.message()[0]) == "T"
        assert chr(wire.message()[0]) == "D"
        relay.reset()
        kinds = wire.until_ready()
        # Between two messages an error can be told; in the middle of one the connection can only end.
        assert kinds.lstrip("D") in ("EZ", "")
        assert relay.heard(b"'rows'") == 1


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside a transaction"])
@pytest.mark.parametrize(
    ("message", "parsed"),
    [
        (p.parse(b"mine", b"SELECT 'marked'") + p.SYNC_MESSAGE, True),
        (p.message(p.CLOSE, b"Smarked\0") + p.SYNC_MESSAGE, False),
        (p.query(b"DEALLOCATE marked"), False),
    ],
    ids=["Parse", "Close", "DEALLOCATE"],
)
def test_success_and_fatal_in_one_piece_do_it_once(
    through: Upstream, relay: Relay, message: bytes, parsed: bool, inside: bool
) -> None:
    """A backend that is ended between a message and its Sync sends both at once."""
    fatal = p.error_response("FATAL", "57P01", "terminating connection due to administrator command")
    with SideCart(through) as own, Wire(own.port) as wire:
        wire.send(p.parse(b"marked", b"SELECT 'marked before'") + p.SYNC_MESSAGE)
        assert wire.until_ready() == "1Z"
        if inside:
            wire.ask("BEGIN")
            wire.ask("SELECT 1")
        relay.cut_after(5, b"marked", reset=False, last=fatal)
        kinds = wire.send(message).until_ready()
        relay.disarm()
        assert inside == kinds.endswith("EZ"), (kinds, wire.error)
        if inside:
            wire.ask("ROLLBACK")
        name = b"mine" if parsed else b"marked"
        wire.send(p.message(p.BIND, b"\0" + name + b"\0" + bytes(6)) + p.execute(b"") + p.SYNC_MESSAGE)
        assert wire.until_ready() in (("2DCZ",) if parsed and not inside else ("EZ",) if not inside else ("2DCZ", "EZ"))


# --- the answer ends after every byte ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
@pytest.mark.parametrize(
    ("ask", "whole"), [(Wire.ask, "TDDCZ"), (Wire.ask_extended, "12TDDCZ")], ids=["simple", "extended"]
)
def test_answer_that_ends_after_any_byte_is_whole_or_an_error_and_never_wrong(
    through: Upstream, relay: Relay, ask: Callable[[Wire, str], str], whole: str, reset: bool
) -> None:
    """The client's settings have to be replayed each time: the cut also falls into answers that are ours alone."""
    text = "SELECT 'a row', n FROM generate_series(1, 2) n"
    limits = {"SIDECART_POOL_DEFAULT_POOL_SIZE": 1, "SIDECART_POOL_MIN_POOL_SIZE": 1}
    with SideCart(through, **limits) as own, Wire(own.port) as other:
        wire = Wire(own.port, TimeZone="Asia/Tokyo")
        assert ask(wire, text) == whole
        answer = wire.last
        retried = 0
        for count in range(1000):
            other.ask("SELECT 'the upstream is now the other one''s'")
            runs = relay.heard(b"'a row'")
            relay.cut_after(count, b"'a row'", reset=reset)
            kinds = ask(wire, text)
            runs = relay.heard(b"'a row'") - runs
            assert answer.startswith(before_error(wire.last)), (count, kinds)
            if kinds == whole:
                retried += runs - 1
            elif kinds.endswith("EZ"):
                assert (wire.error["C"] in LOST, chr(wire.status)) == (True, "I"), (count, wire.error)
                assert runs == 1, count
            else:  # in the middle of a row there is no way to tell
                assert wire.rest[:1] == b"D", (count, kinds, wire.error)
                wire.sock.close()
                wire = Wire(own.port, TimeZone="Asia/Tokyo")
            if not relay.cut:  # nothing is left to be cut
                relay.disarm()
                break
            assert count > 0 or kinds == whole, "nothing of the answer had come"
            assert runs <= 2, count
        assert count > len(answer)
        assert retried > 0
        assert own.metric("sidecart_upstream_retries_total") >= retried
        assert own.metric("sidecart_bugs_total") == 0
        wire.sock.close()

"""Cancels: SideCart's own keys, the running statement and nothing else, and clients that vanish."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.shop import READER
from tests.messages.conftest import serve
from tests.messages.conversation import Admin
from tests.running import SideCart, wait_until
from tests.wire import FLUSH, Wire, bind, execute

CANCELED = "57014"
SLEEP = "SELECT pg_sleep(30) /* the long one */"


def client(own: SideCart) -> Wire:
    return Wire(own.port, user=READER)


def client_3_2(own: SideCart) -> Wire:
    """Log in as a client of protocol 3.2, which takes longer keys."""
    wire = Wire(own.port, login=False)
    startup = p.startup_message({"user": READER, "database": own.database})
    wire.send(startup[:4] + p.PROTOCOL_3_2.to_bytes(4, "big") + startup[8:])
    assert wire.until_ready().startswith("R"), wire.error
    return wire


def cancel(own: SideCart, key: bytes, *, by_byte: bool = False) -> None:
    """Send a CancelRequest with a key as BackendKeyData gave it, and wait until it is dealt with."""
    packet = p.cancel_request(int.from_bytes(key[:4], "big"), key[4:])
    with Wire(own.port, login=False) as wire:
        (wire.trickle if by_byte else wire.send)(packet)
        assert wire.message() == (0, b"")


def simple(text: str) -> bytes:
    return p.query(text.encode())


def extended(text: str) -> bytes:
    return p.parse(b"", text.encode()) + bind("") + execute() + p.SYNC_MESSAGE


PROTOCOLS = [pytest.param(simple, id="simple"), pytest.param(extended, id="extended")]


def sleepers(admin: Admin, state: str = "active") -> int:
    rows = admin(
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE state = '{state}' AND query LIKE '%the long one%' AND pid <> pg_backend_pid()"
    )
    return int(rows[0][0])


def is_running(admin: Admin) -> None:
    wait_until(lambda: sleepers(admin), 10, "the long statement to run")


def is_over(admin: Admin) -> None:
    wait_until(lambda: not sleepers(admin), 10, "the long statement to end")


def waits(own: SideCart) -> None:
    wait_until(lambda: own.metric("sidecart_waiting_clients") == 1, 10, "the client to stand in line")


@pytest.fixture(scope="module")
def patient(reached: Upstream) -> Iterator[SideCart]:
    """Run a SideCart with one upstream whose clients wait as long as it takes."""
    with serve(reached, 1, SIDECART_POOL_QUERY_WAIT_TIMEOUT="1min") as own:
        yield own
        assert own.metric("sidecart_bugs_total") == 0, own.log[-8000:]


def test_key_of_protocol_3_0_has_four_bytes_and_is_no_backends(patient: SideCart, admin: Admin) -> None:
    with client(patient) as first, client(patient) as second:
        assert len(first.key) == len(second.key) == 8
        assert first.key != second.key
        assert first.key[4:] != second.key[4:]
        backends = {pid for (pid,) in admin("SELECT pid FROM pg_stat_activity")}
        assert not backends & {int.from_bytes(wire.key[:4], "big") for wire in (first, second)}


def test_key_of_protocol_3_2_is_longer(patient: SideCart) -> None:
    with client_3_2(patient) as first, client_3_2(patient) as second:
        assert 4 + 16 <= len(first.key) <= 4 + 256
        assert first.key[4:] != second.key[4:]


@pytest.mark.parametrize("by_byte", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("form", PROTOCOLS)
@pytest.mark.parametrize("login", [client, client_3_2], ids=["3.0", "3.2"])
def test_running_statement_is_canceled(
    login: Callable[[SideCart], Wire],
    form: Callable[[str], bytes],
    by_byte: bool,
    patient: SideCart,
    admin: Admin,
) -> None:
    with login(patient) as wire:
        (wire.trickle if by_byte else wire.send)(form(SLEEP))
        is_running(admin)
        cancel(patient, wire.key, by_byte=by_byte)
        assert wire.until_ready().endswith("EZ")
        assert (wire.error["C"], wire.status) == (CANCELED, p.IDLE)
        assert wire.error["M"] == "canceling statement due to user request"
        assert wire.ask("SELECT 1") == "TDCZ"


@pytest.mark.parametrize("login", [client, client_3_2], ids=["3.0", "3.2"])
def test_wrong_key_cancels_nothing(login: Callable[[SideCart], Wire], patient: SideCart, admin: Admin) -> None:
    with login(patient) as wire:
        wire.send(simple(SLEEP))
        is_running(admin)
        other = bytes(byte ^ 0xFF for byte in wire.key[4:])
        for key in (wire.key[:4] + other, wire.key[:-1] + other[-1:], wire.key[:8] + b"\0" * 4, wire.key + b"\0"):
            if key != wire.key:
                cancel(patient, key)
        for (pid,) in admin("SELECT pid FROM pg_stat_activity WHERE query LIKE '%the long one%'"):
            cancel(patient, struct.pack("!I", pid) + wire.key[4:])
        assert sleepers(admin) == 1
        cancel(patient, wire.key)
        assert wire.until_ready().endswith("EZ")


def test_key_of_a_client_that_left_cancels_nobody(patient: SideCart, admin: Admin) -> None:
    with client(patient) as gone:
        assert gone.ask("SELECT 1") == "TDCZ"
    with client(patient) as wire:
        wire.send(simple("SELECT pg_sleep(0.3) /* the long one */"))
        is_running(admin)
        cancel(patient, gone.key)
        assert wire.until_ready() == "TDCZ"


@pytest.mark.parametrize("form", PROTOCOLS)
def test_cancel_of_an_idle_client_does_not_touch_who_uses_its_last_upstream(
    form: Callable[[str], bytes], patient: SideCart, admin: Admin
) -> None:
    with client(patient) as idle, client(patient) as busy:
        assert idle.ask("SELECT 1") == "TDCZ"
        busy.send(form("SELECT pg_sleep(0.3) /* the long one */"))
        is_running(admin)
        cancel(patient, idle.key)
        assert "E" not in busy.until_ready(), busy.error
        assert idle.ask("SELECT 1") == "TDCZ"


def test_cancel_of_a_client_that_has_only_begun_does_nothing(patient: SideCart, admin: Admin) -> None:
    with client(patient) as begun, client(patient) as busy:
        assert begun.ask("BEGIN") == "CZ"
        busy.send(simple("SELECT pg_sleep(0.3) /* the long one */"))
        is_running(admin)
        cancel(patient, begun.key)
        assert busy.until_ready() == "TDCZ", busy.error
        assert begun.ask("SELECT 1") == "TDCZ"
        assert begun.status == p.IN_TRANSACTION
        cancel(patient, begun.key)
        assert begun.ask("COMMIT") == "CZ"
        assert begun.tag == "COMMIT"


@pytest.mark.parametrize("form", PROTOCOLS)
def test_client_in_line_is_canceled_at_once(form: Callable[[str], bytes], patient: SideCart) -> None:
    with client(patient) as holder, client(patient) as waiting:
        holder.ask("BEGIN; SELECT 1")
        waiting.send(form("SELECT 1"))
        waits(patient)
        cancel(patient, waiting.key)
        assert waiting.until_ready() == "EZ"
        assert (waiting.error["C"], waiting.status) == (CANCELED, p.IDLE)
        assert holder.ask("SELECT 1") == "TDCZ"
        assert holder.ask("COMMIT") == "CZ"
        assert waiting.ask("SELECT 1") == "TDCZ"


def test_client_in_line_is_canceled_once_for_a_pipeline(patient: SideCart) -> None:
    with client(patient) as holder, client(patient) as waiting:
        holder.ask("BEGIN; SELECT 1")
        waiting.send(extended("SELECT 1") + extended("SELECT 2"))
        waits(patient)
        cancel(patient, waiting.key)
        assert waiting.until_ready() == "EZ"
        assert waiting.error["C"] == CANCELED
        assert holder.ask("COMMIT") == "CZ"
        assert waiting.until_ready() == "12DCZ"


@pytest.mark.parametrize("form", PROTOCOLS)
def test_client_in_line_for_its_transaction_is_canceled_and_the_transaction_fails(
    form: Callable[[str], bytes], patient: SideCart
) -> None:
    with client(patient) as holder, client(patient) as waiting:
        waiting.ask("BEGIN")
        holder.ask("BEGIN; SELECT 1")
        waiting.send(form("SELECT 1"))
        waits(patient)
        cancel(patient, waiting.key)
        assert waiting.until_ready() == "EZ"
        assert (waiting.error["C"], waiting.status) == (CANCELED, p.FAILED)
        assert waiting.ask("SELECT 1") == "EZ"
        assert waiting.error["C"] == "25P02"
        assert waiting.ask("COMMIT") == "CZ"
        assert (waiting.tag, waiting.status) == ("ROLLBACK", p.IDLE)
        assert holder.ask("COMMIT") == "CZ"
        assert waiting.ask("SELECT 1") == "TDCZ"


@pytest.mark.parametrize("form", PROTOCOLS)
def test_cancel_in_a_transaction_fails_it(form: Callable[[str], bytes], patient: SideCart, admin: Admin) -> None:
    with client(patient) as wire:
        wire.ask("BEGIN")
        wire.send(form(SLEEP))
        is_running(admin)
        cancel(patient, wire.key)
        assert wire.until_ready().endswith("EZ")
        assert (wire.error["C"], wire.status) == (CANCELED, p.FAILED)
        assert wire.ask("COMMIT") == "CZ"
        assert wire.tag == "ROLLBACK"


def test_cancel_in_a_pipeline_hits_what_runs(patient: SideCart, admin: Admin) -> None:
    with client(patient) as wire:
        sleeping = p.parse(b"", SLEEP.encode()) + bind("") + execute()
        wire.send(extended("SELECT 1") + sleeping + extended("SELECT 2") + extended("SELECT 3") + simple("SELECT 4"))
        assert wire.until_ready() == "12DCZ"
        is_running(admin)
        cancel(patient, wire.key)
        assert wire.until_ready() == "12EZ"
        assert wire.error["C"] == CANCELED
        assert wire.until_ready() == "12DCZ"
        assert wire.until_ready() == "TDCZ"


def test_canceled_client_keeps_its_statements_and_settings(patient: SideCart, admin: Admin) -> None:
    with client(patient) as wire:
        wire.ask("SET datestyle TO German")
        wire.send(p.parse(b"mine", b"SELECT date '2020-12-24'") + p.SYNC_MESSAGE)
        assert wire.until_ready() == "1Z"
        wire.send(simple(SLEEP))
        is_running(admin)
        cancel(patient, wire.key)
        assert wire.until_ready().endswith("EZ")
        wire.send(bind("mine") + execute() + p.SYNC_MESSAGE)
        assert wire.until_ready() == "2DCZ"
        assert b"24.12.2020" in wire.last


def test_cancel_between_Flush_and_Sync_is_too_late(patient: SideCart) -> None:  # noqa: N802
    with client(patient) as wire:
        wire.send(p.parse(b"", b"SELECT 1") + bind("") + execute() + FLUSH)
        assert [chr(wire.message()[0]) for _ in range(4)] == ["1", "2", "D", "C"]
        cancel(patient, wire.key)
        wire.send(extended("SELECT 1"))
        assert wire.until_ready() == "12DCZ", wire.error


@pytest.mark.parametrize("form", PROTOCOLS)
def test_query_timeout_is_not_said_to_be_the_users_wish(form: Callable[[str], bytes], reached: Upstream) -> None:
    limits = {"SIDECART_CLIENT_QUERY_TIMEOUT": "500ms", "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "1min"}
    with serve(reached, 1, **limits) as own, client(own) as wire:
        wire.send(form(SLEEP))
        assert wire.until_ready().endswith("EZ")
        assert (wire.error["C"], wire.error["M"]) == (CANCELED, "canceling statement due to client.query_timeout")
        assert wire.ask("SELECT 1") == "TDCZ"


CANCELED_OR_NOT = ("TDCZ", "EZ", "TEZ", "TDEZ")
"""What a statement of one row can answer when its cancel comes at about its end: even behind the row."""


def test_cancel_that_comes_late_never_reaches_the_next_client(patient: SideCart) -> None:
    with client(patient) as first, client(patient) as second:
        for number in range(60):
            first.send(simple(f"SELECT pg_sleep({number % 6 / 1000})"))
            second.send(extended("SELECT 1"))
            packet = p.cancel_request(int.from_bytes(first.key[:4], "big"), first.key[4:])
            with Wire(patient.port, login=False) as request:
                request.send(packet)
                assert first.until_ready() in CANCELED_OR_NOT
                assert second.until_ready() == "12DCZ", second.error
            assert first.ask("SELECT 1") in CANCELED_OR_NOT


def test_many_cancels_of_one_statement(patient: SideCart, admin: Admin) -> None:
    with client(patient) as wire, client(patient) as other:
        wire.send(simple(SLEEP))
        is_running(admin)
        requests = [Wire(patient.port, login=False) for _ in range(20)]
        for request in requests:
            request.send(p.cancel_request(int.from_bytes(wire.key[:4], "big"), wire.key[4:]))
        assert wire.until_ready().endswith("EZ")
        assert wire.error["C"] == CANCELED
        assert other.ask("SELECT 1") == "TDCZ", other.error
        for request in requests:
            assert request.message() == (0, b"")
            request.sock.close()


def vanish(wire: Wire) -> None:
    """Hang up as a client does whose process was killed."""
    wire.sock.close()


def vanish_by_reset(wire: Wire) -> None:
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.sock.close()


@pytest.mark.parametrize("form", PROTOCOLS)
@pytest.mark.parametrize("end", [vanish, vanish_by_reset], ids=["closed", "reset"])
def test_client_that_dies_cancels_its_statement(
    end: Callable[[Wire], None], form: Callable[[str], bytes], patient: SideCart, admin: Admin
) -> None:
    with client(patient) as wire, client(patient) as other:
        wire.send(form(SLEEP))
        is_running(admin)
        end(wire)
        is_over(admin)
        assert other.ask("SELECT 1") == "TDCZ", other.error


def test_client_that_dies_as_soon_as_it_has_asked(patient: SideCart, admin: Admin) -> None:
    """A cancel that comes before its statement does nothing: PostgreSQL ignores it while the backend is idle."""
    with client(patient) as other:
        for form in (simple, extended) * 5:
            wire = client(patient)
            wire.send(form(SLEEP))
            vanish(wire)
            is_over(admin)
            assert other.ask("SELECT 1") == "TDCZ", other.error
        is_over(admin)


def test_client_that_dies_in_a_transaction_leaves_none_open(patient: SideCart, admin: Admin) -> None:
    with client(patient) as wire, client(patient) as other:
        wire.ask("BEGIN; SELECT 1")
        wire.send(simple(SLEEP))
        is_running(admin)
        vanish(wire)
        is_over(admin)
        assert other.ask("SELECT 1") == "TDCZ", other.error
        assert sleepers(admin, "idle in transaction") == sleepers(admin, "idle in transaction (aborted)") == 0


def test_client_that_dies_with_a_pipeline_behind_its_statement(patient: SideCart, admin: Admin) -> None:
    with client(patient) as wire, client(patient) as other:
        wire.send(extended(SLEEP) + extended(SLEEP) + simple("SELECT 1") * 50)
        is_running(admin)
        vanish(wire)
        is_over(admin)
        assert other.ask("SELECT 1") == "TDCZ", other.error
        assert sleepers(admin) == 0


def test_client_that_dies_in_line_keeps_no_upstream(patient: SideCart, admin: Admin) -> None:
    with client(patient) as holder, client(patient) as waiting:
        holder.ask("BEGIN; SELECT 1")
        waiting.send(simple(SLEEP))
        waits(patient)
        vanish(waiting)
        assert holder.ask("COMMIT") == "CZ"
        assert holder.ask("SELECT 1") == "TDCZ"
        is_over(admin)
        assert patient.metric("sidecart_waiting_clients") == 0


def test_client_that_dies_after_BEGIN_leaves_nothing(patient: SideCart) -> None:  # noqa: N802
    with client(patient) as begun, client(patient) as other:
        begun.ask("BEGIN")
        vanish(begun)
        assert other.ask("SELECT 1") == "TDCZ"

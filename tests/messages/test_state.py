"""What a state costs the upstreams: statements are shared and bounded, BEGINs wait, pins end with what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.shop import READER
from tests.messages.conftest import serve
from tests.messages.conversation import Admin
from tests.running import SideCart, wait_until
from tests.wire import Wire, bind, close, execute

KEPT = 5


def client(own: SideCart, **parameters: str) -> Wire:
    return Wire(own.port, login=True, user=READER, **parameters)


def prepare(wire: Wire, name: str, text: str, *types: int) -> None:
    oids = len(types).to_bytes(2, "big") + b"".join(oid.to_bytes(4, "big") for oid in types)
    wire.send(p.parse(name.encode(), text.encode(), oids) + p.SYNC_MESSAGE)
    assert wire.until_ready() == "1Z", wire.error


def executed(wire: Wire, name: str) -> list[bytes | None]:
    """Execute a statement of one row; return its columns."""
    wire.send(bind(name) + execute() + p.SYNC_MESSAGE)
    assert wire.until_ready() == "2DCZ", wire.error
    (row,) = rows(wire.last)
    return row


@pytest.fixture(scope="module")
def small(reached: Upstream) -> Iterator[SideCart]:
    """Run a SideCart with one upstream, which keeps few statements."""
    with serve(reached, 1, SIDECART_POOL_MAX_PREPARED_STATEMENTS=KEPT) as own:
        yield own
        assert own.metric("sidecart_bugs_total") == 0, own.log[-8000:]


def rows(answer: bytes) -> list[list[bytes | None]]:
    """Return the columns of every DataRow of an answer."""
    out = []
    while answer:
        kind, length = p.read_header(answer)
        if kind == p.DATA_ROW:
            out.append(p.row_values(answer[5 : 1 + length]))
        answer = answer[1 + length :]
    return out


# --- statements on the upstream ----------------------------------------------------------------------------------


def test_Close_of_one_client_leaves_the_others_statement(one: SideCart) -> None:  # noqa: N802
    text = "SELECT 'closed by one'"
    with client(one) as first, client(one) as second:
        for wire in (first, second):
            prepare(wire, "s", text)
            executed(wire, "s")
        first.send(close("S", "s") + p.SYNC_MESSAGE)
        assert first.until_ready() == "3Z"
        assert executed(second, "s") == [b"closed by one"]
        first.send(bind("s") + p.SYNC_MESSAGE)
        assert first.until_ready() == "EZ"
        assert first.error["C"] == "26000"


@pytest.mark.parametrize("statement", ["DEALLOCATE ALL", "DISCARD ALL", "DEALLOCATE s"])
def test_a_clients_DEALLOCATE_leaves_the_others_statement(statement: str, one: SideCart) -> None:  # noqa: N802
    with client(one) as first, client(one) as second:
        for wire in (first, second):
            prepare(wire, "s", "SELECT 'deallocated by one'")
            executed(wire, "s")
        assert first.ask(statement) == "CZ"
        assert executed(second, "s") == [b"deallocated by one"]


def test_settings_at_Parse_keep_equal_texts_apart(one: SideCart) -> None:  # noqa: N802
    text = "SELECT ('01/02/2020'::date)::text || ' apart'"
    with client(one, DateStyle="ISO, DMY") as first, client(one, DateStyle="ISO, MDY") as second:
        for wire in (first, second):
            prepare(wire, "s", text)
        assert executed(first, "s") == [b"2020-02-01 apart"]
        assert executed(second, "s") == [b"2020-01-02 apart"]
        assert executed(first, "s") == [b"2020-02-01 apart"]


def test_parameter_types_keep_equal_texts_apart(one: SideCart) -> None:
    text = "SELECT $1 AS typed_apart"
    with client(one) as first, client(one) as second:
        prepare(first, "s", text, 23)
        prepare(second, "s", text, 25)
        for wire, value in ((first, b"7"), (second, b"seven")):
            wire.send(bind("s", [value]) + execute() + p.SYNC_MESSAGE)
            assert wire.until_ready() == "2DCZ", wire.error


def test_client_may_have_more_statements_than_an_upstream_keeps(small: SideCart) -> None:
    with client(small) as wire:
        for number in range(12):
            prepare(wire, f"s{number}", f"SELECT 'number {number}'")
        for number in (*range(12), 3, 7, 0):
            assert executed(wire, f"s{number}") == [f"number {number}".encode()]


def test_group_may_use_more_statements_than_an_upstream_keeps(small: SideCart) -> None:
    with client(small) as wire:
        for number in range(3 * KEPT):
            prepare(wire, f"g{number}", f"SELECT 'group {number}'")
        wire.send(b"".join(bind(f"g{number}") + execute() for number in range(3 * KEPT)) + p.SYNC_MESSAGE)
        assert wire.until_ready() == "2DC" * 3 * KEPT + "Z", wire.error
        assert wire.ask("BEGIN") == "CZ"
        for number in range(3 * KEPT):
            assert executed(wire, f"g{number}") == [f"group {number}".encode()]
        assert wire.ask("COMMIT") == "CZ"


def test_suspended_portal_outlives_the_eviction_of_its_statement(small: SideCart) -> None:
    with client(small) as wire:
        wire.ask("BEGIN")
        prepare(wire, "rows", "SELECT generate_series(1, 4)")
        wire.send(bind("rows", portal="c") + execute("c", 2) + p.SYNC_MESSAGE)
        assert wire.until_ready() == "2DDsZ"
        for number in range(2 * KEPT):
            prepare(wire, f"e{number}", f"SELECT 'evicting {number}'")
            executed(wire, f"e{number}")
        wire.send(execute("c", 9) + p.SYNC_MESSAGE)
        assert wire.until_ready() == "DDCZ", wire.error
        assert wire.ask("COMMIT") == "CZ"


def test_statements_of_others_are_not_listed(one: SideCart) -> None:
    listing = "SELECT name, statement FROM pg_prepared_statements ORDER BY name"
    with client(one) as owner, client(one) as other:
        prepare(owner, "s", "SELECT 'secret'")
        executed(owner, "s")
        assert other.ask(listing) == "TCZ"
        assert owner.ask(listing) == "TDCZ"
        assert rows(owner.last) == [[b"s", b"SELECT 'secret'"]]
        assert other.ask("EXECUTE s") == "EZ"
        assert other.error["C"] == "26000"
        assert executed(owner, "s") == [b"secret"]


def test_prepared_listing_of_statements_is_a_clients_own(one: SideCart) -> None:
    for _ in range(2):  # the second client finds nothing of the first
        with client(one) as wire:
            prepare(wire, "list", "SELECT name FROM pg_prepared_statements ORDER BY name")
            assert executed(wire, "list") == [b"list"]
            assert executed(wire, "list") == [b"list"]


# --- BEGIN -------------------------------------------------------------------------------------------------------


BEGINS = [
    "BEGIN",
    "BEGIN;",
    "begin",
    "START TRANSACTION",
    "BEGIN READ ONLY",
    "BEGIN ISOLATION LEVEL READ COMMITTED",
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
]


@pytest.mark.parametrize("begin", BEGINS)
def test_BEGIN_takes_no_upstream_until_its_first_statement(begin: str, one: SideCart) -> None:  # noqa: N802
    with ExitStack() as stack:
        begun = [stack.enter_context(client(one)) for _ in range(5)]
        for wire in begun:
            assert wire.ask(begin) == "CZ"
            assert wire.status == p.IN_TRANSACTION
        for wire in begun:  # one upstream serves all of them, one after the other
            assert wire.ask("SELECT 1") == "TDCZ", wire.error
            assert wire.status == p.IN_TRANSACTION
            assert wire.ask("COMMIT") == "CZ"
            assert (wire.tag, wire.status) == ("COMMIT", p.IDLE)


def test_BEGIN_by_the_extended_protocol_takes_no_upstream(one: SideCart) -> None:  # noqa: N802
    with client(one) as begun, client(one) as other:
        assert begun.ask_extended("BEGIN") == "12nCZ"
        assert begun.status == p.IN_TRANSACTION
        assert other.ask("SELECT 1") == "TDCZ", other.error
        assert begun.ask_extended("SELECT 1") == "12TDCZ"
        assert begun.ask_extended("COMMIT") == "12nCZ"


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "END", "ABORT", "COMMIT WORK", "ROLLBACK;"])
def test_empty_transaction_never_leaves_the_machine(end: str, one: SideCart, admin: Admin) -> None:
    asked = f"SELECT pid, state_change FROM pg_stat_activity WHERE usename = '{READER}' ORDER BY pid"
    with client(one) as wire:
        assert wire.ask("SELECT 1") == "TDCZ"
        one.settled()
        wait_until(
            lambda: not admin(f"SELECT FROM pg_stat_activity WHERE usename = '{READER}' AND state = 'active'"),
            10,
            "the upstreams to rest",
        )
        before = dict(admin(asked))
        for _ in range(3):
            assert wire.ask("BEGIN") == "CZ"
            assert wire.ask(end) == "CZ"
            assert wire.status == p.IDLE
        # A connection that reads the catalogue may have come or gone meanwhile.
        changes = [(then, before[pid]) for pid, then in admin(asked) if pid in before]
        assert changes and all(now == then for now, then in changes)


# --- pins --------------------------------------------------------------------------------------------------------


def pinned(own: SideCart, reason: str) -> float:
    return own.metric(f'sidecart_pinned_clients{{reason="{reason}"}}')


def pins(own: SideCart, reason: str) -> float:
    return own.metric(f'sidecart_pins_total{{reason="{reason}"}}')


def events(own: SideCart, event: str) -> list[dict[str, object]]:
    records = [json.loads(line) for line in own.log.splitlines() if line.startswith("{")]
    return [record for record in records if record.get("event") == event]


HOLD = "DECLARE h CURSOR WITH HOLD FOR SELECT 1"
PINS = [
    pytest.param("prepared_statement", "PREPARE pp AS SELECT 1", "DEALLOCATE pp", id="DEALLOCATE"),
    pytest.param("prepared_statement", "PREPARE pp AS SELECT 1", "DEALLOCATE ALL", id="DEALLOCATE ALL"),
    pytest.param("prepared_statement", "PREPARE pp AS SELECT 1", "DISCARD ALL", id="DISCARD ALL"),
    pytest.param("hold_cursor", HOLD, "CLOSE h", id="CLOSE"),
    pytest.param("hold_cursor", HOLD, "CLOSE ALL", id="CLOSE ALL"),
    pytest.param("hold_cursor", HOLD, "DISCARD ALL", id="DISCARD ALL with a cursor"),
    pytest.param("hold_cursor", f"BEGIN; {HOLD}", "ROLLBACK", id="ROLLBACK"),
    pytest.param("hold_cursor", f"BEGIN; SAVEPOINT a; {HOLD}", "ROLLBACK TO a; COMMIT", id="ROLLBACK TO"),
    pytest.param("hold_cursor", f"BEGIN; {HOLD}; SELECT 1/0", "COMMIT", id="COMMIT that fails"),
]


@pytest.mark.parametrize(("reason", "begin", "end"), PINS)
@pytest.mark.parametrize("form", ["simple", "extended"])
def test_pin_lasts_as_long_as_its_state(form: str, reason: str, begin: str, end: str, one: SideCart) -> None:
    with client(one) as wire, client(one) as other:
        ask = wire.ask if form == "simple" or ";" in begin + end else wire.ask_extended
        before = pins(one, reason)
        ask(begin)
        assert pinned(one, reason) == (1 if wire.status == p.IDLE else pinned(one, reason))
        ask(end)
        assert wire.status == p.IDLE
        wait_until(lambda: pinned(one, reason) == 0, 5, "the pin to end")
        assert other.ask("SELECT 1") == "TDCZ", other.error
        if wire.status == p.IDLE and "BEGIN" not in begin:
            assert pins(one, reason) == before + 1


@pytest.mark.parametrize(
    ("reason", "statement"), [("prepared_statement", "PREPARE pp AS SELECT 1"), ("hold_cursor", HOLD)]
)
def test_pin_is_named_in_the_log_and_ends_with_its_client(reason: str, statement: str, one: SideCart) -> None:
    with client(one) as wire:
        wire.ask(statement)
        assert pinned(one, reason) == 1
        wait_until(lambda: events(one, "pinned")[-1:] and events(one, "pinned")[-1]["reason"] == reason, 5, "the log")
    wait_until(lambda: pinned(one, reason) == 0, 5, "the pin to end")
    with client(one) as other:  # the upstream was cleaned
        assert other.ask("FETCH h" if reason == "hold_cursor" else "EXECUTE pp") == "EZ"
        assert other.error["C"] in ("34000", "26000")


CARRIED = [
    "SET datestyle TO German",
    "SET search_path TO pg_catalog",
    "SET app.tenant TO '7'",
    "SELECT set_config('timezone', 'UTC', false)",
    "SELECT set_config('app.tenant', '8', false)",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "BEGIN; SET LOCAL datestyle TO German; COMMIT",
    "BEGIN; DECLARE c CURSOR FOR SELECT 1; COMMIT",
    "PREPARE pp AS SELECT 1; DEALLOCATE pp",
    "PREPARE pp AS SELECT nope",
    "PREPARE pp AS DELETE FROM orders",
    "RESET ALL",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "UNLISTEN *",
]


@pytest.mark.parametrize("statement", CARRIED)
def test_what_can_be_carried_pins_nothing(statement: str, one: SideCart) -> None:
    with client(one) as wire, client(one) as other:
        wire.ask(statement)
        prepare(wire, "s", "SELECT 'carried'")
        assert other.ask("BEGIN; SELECT 1; COMMIT") == "CTDCCZ", other.error
        assert executed(wire, "s") == [b"carried"]
        assert not [
            line
            for line in one.get("/metrics").splitlines()
            if line.startswith("sidecart_pinned_clients{") and not line.endswith(" 0.0")
        ]


def test_holders_are_named_to_who_waits_in_vain(one: SideCart) -> None:
    with client(one) as holder, client(one) as waiting:
        holder.ask(HOLD)
        assert waiting.ask("SELECT 1") == "EZ"
        assert waiting.error["C"] == "53300"
        assert "pinned: hold_cursor" in waiting.error["D"]
        holder.ask("CLOSE h")
        assert waiting.ask("SELECT 1") == "TDCZ"

"""The log of a running SideCart: what clients do at will does not fill it, and is counted to the last event."""

from __future__ import annotations

import json
from typing import Any

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.monitor.repeats import LINES, LINES_OF_EVENT
from tests.running import SideCart, wait_until
from tests.wire import Wire


def lines(own: SideCart, event: str) -> list[dict[str, Any]]:
    """Return the lines that are whole, of one event."""
    whole = own.log.rpartition("\n")[0]
    return [record for line in whole.splitlines() if (record := json.loads(line))["event"] == event]


def stand_for(records: list[dict[str, Any]]) -> int:
    return sum(record.get("repeated", 1) for record in records)


def test_attack_refusals_of_one_client_fill_the_log(upstream: Upstream) -> None:
    """One client wrote 5 MB a second."""
    with SideCart(upstream) as own:
        before = len(own.log)
        with Wire(own.port) as client:
            for _ in range(100):
                client.send(p.query(b"delete from orders") * 100)
                for _ in range(100):
                    assert client.until_ready() == "EZ"
            refused = own.metric('sidecart_refused_total{rule="data-modification"}')
        wait_until(lambda: stand_for(lines(own, "refused")) >= 10_000, 10, "the count of the last second")
        assert refused == stand_for(lines(own, "refused")) == 10_000
        written = [record for record in lines(own, "refused") if "repeated" not in record]
        assert len(written) < 1000
        assert written[0]["user"] == lines(own, "refused")[-1]["user"] == "analyst"
        assert (written[0]["object"], written[0]["peer"]) == ("orders", "127.0.0.1")
        assert len(own.log) - before < 250_000


def test_readyz_and_the_log_say_who_waits_and_who_holds_the_upstreams(upstream: Upstream) -> None:
    limits = {"SIDECART_POOL_DEFAULT_POOL_SIZE": 1, "SIDECART_POOL_QUERY_WAIT_TIMEOUT": "8s"}
    with (
        SideCart(upstream, **limits) as own,
        Wire(own.port, application_name="holder") as holder,
        Wire(own.port) as other,
    ):
        assert "waiting" not in json.loads(own.get("/readyz"))["slow"]
        assert holder.ask("BEGIN") == "CZ"
        assert holder.ask("SELECT 1") == "TDCZ"
        other.send(p.query(b"SELECT 1"))
        waiting = wait_until(lambda: json.loads(own.get("/readyz"))["slow"].get("waiting"), 10, "the wait")
        assert waiting["shop"] >= 0.5
        assert other.until_ready() == "NEZ"  # the notice that it waits comes after five seconds
        [failed] = wait_until(lambda: lines(own, "lease failed"), 10, "the log")
        assert "query_wait_timeout" in failed["why"]
        assert failed["holders"] == "1 of 1 are held (1 in a transaction) by analyst@127.0.0.1 (holder)."
        assert holder.ask("COMMIT") == "CZ"
        assert "waiting" not in json.loads(own.get("/readyz"))["slow"]


def test_attack_logins_under_made_up_names_fill_the_log(upstream: Upstream) -> None:
    with SideCart(upstream) as own:
        for number in range(300):
            with Wire(own.port, login=False) as client:
                client.send(p.startup_message({"user": f"u{number}", "database": f"d{number}"}))
                assert client.until_ready() == "E"
        own.stop()
        records = lines(own, "login refused")
        assert stand_for(records) == stand_for(lines(own, "close")) == 300
        seconds = len({record["ts"][:19] for record in records}) + 1
        assert sum("repeated" not in record for record in records) <= LINES_OF_EVENT * seconds


def test_connections_that_come_and_go_are_counted_to_the_last_at_the_end(upstream: Upstream) -> None:
    with SideCart(upstream) as own:
        for _ in range(100):
            with Wire(own.port):
                pass
        own.stop()
        assert stand_for(lines(own, "login")) == stand_for(lines(own, "close")) == 100
        assert len(lines(own, "login")) < 100
        assert any("repeated" in record and record["user"] == "analyst" for record in lines(own, "login"))
        assert len([record for record in lines(own, "close") if "repeated" not in record]) >= LINES

"""The corpus through a running SideCart, on the objects that it speaks of.

Verdicts hold, and what is let through writes nothing, although the upstream role is a superuser on a primary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from proxy import protocol as p
from proxy.config.schema import Upstream
from proxy.demo.embedded import EmbeddedServer
from tests.corpus import BY_BIND, EXTENSIONS, PROVED, SPOILED, SQL, create
from tests.running import SideCart
from tests.wire import Wire

OURS = "SideCart forwards reads only"


@pytest.fixture(scope="module")
def corpus(postgres: EmbeddedServer) -> Iterator[SideCart]:
    create(postgres, "corpus", *EXTENSIONS)
    # A statement of the corpus that would run for hours is cut short: that is an answer, too.
    postgres.sql("ALTER DATABASE corpus SET statement_timeout = '300ms'")
    upstream = Upstream(
        host=postgres.host,
        port=postgres.port,
        dbname="corpus",
        user=postgres.superuser,
        password=postgres.superuser_password,
        sslrootcert=str(postgres.ca_file),
    )
    with SideCart(upstream, SIDECART_CLIENT_MAX_QUERY_LENGTH="4MB") as running:
        yield running
        running.stop()
        for word in ("tripwire", "bug"):
            assert f'"event":"{word}"' not in running.log.replace(" ", "")


def judged(wire: Wire, text: str) -> str:
    """Return what became of a text: `refused` by us, `replaced`, or what the server answered."""
    wire.error = {}
    kinds = wire.ask(text)
    if OURS in wire.error.get("M", "") or "(rule: " in wire.error.get("D", ""):
        return "refused"
    return "replaced" if kinds.startswith("N") and b"SideCart" in wire.last else f"{kinds} {wire.error.get('M', '')}"


def parsed(wire: Wire, text: str) -> str:
    """The same for a Parse message, whose statement is not run."""
    wire.error = {}
    wire.send(p.parse(b"", text.encode(), b"\0\0") + p.SYNC_MESSAGE)
    kinds = wire.until_ready()
    refused = OURS in wire.error.get("M", "") or "(rule: " in wire.error.get("D", "")
    return "refused" if refused else f"{kinds} {wire.error.get('M', '')}"


@pytest.mark.parametrize("ask", [judged, parsed], ids=["Query", "Parse"])
def test_what_the_corpus_blocks_is_refused(corpus: SideCart, ask: Callable[[Wire, str], str]) -> None:
    wrong = []
    with Wire(corpus.port, "corpus") as wire:
        for case in SQL:
            if case["verdict"] != "block" or case.get("policy_knob") or case["id"] in PROVED:
                continue
            if ask is parsed and case["id"] in BY_BIND:
                continue
            outcome = ask(wire, case["sql"])
            # Also what is no SQL, and several statements in one Parse.
            syntax_error = wire.error.get("C") in ("42601", "54001")
            if not (outcome == "refused" or syntax_error or case.get("neutralise")):
                wrong.append((case["id"], case["sql"][:200], outcome))
            if wire.status != 0x49:
                wire.ask("ROLLBACK")
    assert not wrong


TRACES = "SELECT count(*), sum(id) FROM t; SELECT last_value FROM s; SELECT count(*) FROM pg_class"


@pytest.mark.parametrize("ask", [judged, parsed], ids=["Query", "Parse"])
def test_what_the_corpus_allows_is_let_through_and_leaves_no_trace(
    corpus: SideCart, postgres: EmbeddedServer, ask: Callable[[Wire, str], str]
) -> None:
    wrong = []
    before = postgres.sql(TRACES, "corpus")
    for case in SQL:
        if case["verdict"] != "allow" or case.get("policy_knob") or case["id"] in SPOILED:
            continue
        with Wire(corpus.port, "corpus") as wire:
            outcome = ask(wire, case["sql"])
            # What this server does not have is refused in the server's own words.
            not_there = wire.error.get("C") in ("42P01", "42883", "42704") or "keyword" in wire.error.get("D", "")
            several = "several-statements" in wire.error.get("D", "")
            if outcome in ("refused", "replaced") and not (not_there or several):
                wrong.append((case["id"], case["sql"][:200], outcome, wire.error))
            # A read never gets a transaction id.
            if wire.status == 0x54:
                wire.ask("SELECT pg_current_xact_id_if_assigned()")
                assert b"\xff\xff\xff\xff" in wire.last, case["sql"]
    assert not wrong
    assert postgres.sql(TRACES, "corpus") == before

"""Where many tests of sessions begin: a client with this behind it, an upstream that answers that."""

from __future__ import annotations

from proxy import protocol as p
from proxy.ours import PREFIX
from proxy.pooling.snapshot import read_back
from proxy.session.judging import MAX_INLINE
from proxy.sql.catalog import Callable, Catalog
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    DESCRIBED,
    PARSED,
    PREPARED,
    READY_I,
    READY_T,
    SELECTED,
    SYNC,
    FakeUpstream,
    FakeWire,
    Guest,
    Town,
)


def run_unnamed(town: Town, session: Guest, text: bytes = b"select 1") -> FakeUpstream:
    session.client_data(p.parse(b"", text) + SYNC)
    upstream = town.link(session)
    upstream.says(PARSED, READY_I)
    upstream.take()
    assert session.link is None
    return upstream


def reads_back(upstream: FakeUpstream, **settings: str) -> None:
    """Answer the question what the settings are."""
    rows = [p.message(p.DATA_ROW, data_row(name, value)) for name, value in settings.items()]
    end = p.message(p.DATA_ROW, data_row("", ""))
    upstream.says(*rows, SELECTED, end, SELECTED, READY_I)


def data_row(*values: str) -> bytes:
    parts = (len(value).to_bytes(4, "big") + value.encode() for value in values)
    return len(values).to_bytes(2, "big") + b"".join(parts)


def pinned(town: Town) -> tuple[Guest, FakeWire, FakeUpstream]:
    """Return a client that has prepared a statement by SQL, and its upstream, which was asked and has said so."""
    session, client = town.client()
    session.client_data(p.query(b"prepare s as select 1"))
    upstream = town.link(session)
    upstream.says(PREPARED, READY_I)
    assert upstream.take().endswith(p.query(read_back([], state=True)))
    reads_back(upstream, **{".prepared_statement": ""})
    client.take()
    assert list(session.ledger.pins) == ["prepared_statement"]
    return session, client, upstream


def busy(town: Town, count: int = 2) -> list[Guest]:
    """Hold every upstream in a transaction."""
    sessions = []
    for _ in range(count):
        session, _ = town.client()
        session.client_data(BEGIN)
        if session.link is None:
            town.opened()
        town.link(session).says(BEGUN, READY_T)
        sessions.append(session)
    return sessions


def newborn(*names: str) -> Catalog:
    """Return a catalogue with harmless functions of one argument."""
    return Catalog(functions={name: (Callable(number, "public", 1, 1),) for number, name in enumerate(names, 20_000)})


LONG = b"select 1 where 1 in (" + b",".join([b"1"] * MAX_INLINE) + b")"
LONG_WRITE = b"insert into t values (" + b"1," * MAX_INLINE + b"1)"
UNKNOWN = b"select newborn(1)"


def ours(number: int) -> bytes:
    return PREFIX + b"test:%d" % number


def parse_ours(number: int, text: bytes) -> bytes:
    return p.parse(ours(number), text) + p.target(p.DESCRIBE, b"S", ours(number))


def prepare(town: Town, session: Guest, name: bytes, text: bytes = b"select 1", number: int = 1) -> FakeUpstream:
    session.client_data(p.parse(name, text) + SYNC)
    upstream = town.link(session)
    assert upstream.take() == parse_ours(number, text) + SYNC
    upstream.says(PARSED, DESCRIBED, READY_I)
    assert session.link is None
    return upstream

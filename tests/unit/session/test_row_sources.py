"""Rows of another statement or of a cursor: described, and run, only where PostgreSQL lives through it."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from tests.unit.session.scenes import ours, prepare
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    CLOSED,
    DESCRIBED,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    SYNC,
    Town,
    bind,
)


def described(kind: bytes, name: bytes) -> bytes:
    return p.target(p.DESCRIBE, kind, name)


NOTED = p.message(p.PARAMETER_DESCRIPTION, b"\0\0") + p.message(p.ROW_DESCRIPTION, b"\0\0")
CLOSE_CURSOR = p.message(p.CLOSE, b"Pc\0")


def test_fetch_is_described_behind_a_look_for_its_cursor(town: Town) -> None:
    """Describe of a FETCH whose cursor is gone ended PostgreSQL 13 to 18 with SIGSEGV, with all sessions."""
    session, client = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.parse(b"s", b"fetch 1 from c") + SYNC)
    upstream.says(PARSED, NOTED, READY_T)
    upstream.take()
    client.take()
    session.client_data(described(b"S", b"s") + SYNC)
    assert upstream.take() == described(b"P", b"c") + described(b"S", ours(1)) + SYNC
    upstream.says(p.error_response("ERROR", "34000", 'portal "c" does not exist'), READY_E)
    assert client.kinds() == "EZ"


@pytest.mark.parametrize("kind", [b"S", b"P"])
@pytest.mark.parametrize("between", [CLOSE_CURSOR, p.execute(b"q")])
def test_fetch_is_described_without_a_look_only_right_behind_its_parse_or_bind(
    town: Town, kind: bytes, between: bytes
) -> None:
    session, _ = town.client()
    made = p.parse(b"", b"fetch 1 from c") + (bind() if kind == b"P" else b"")
    describe = described(kind, b"")
    session.client_data(made + describe)
    upstream = town.link(session)
    assert described(b"P", b"c") not in upstream.take()
    session.client_data(between + describe)
    assert upstream.take() == between + described(b"P", b"c") + describe


def test_rows_that_a_portal_has_from_a_cursor_are_looked_for(town: Town) -> None:
    session, _ = town.client()
    made = p.parse(b"", b"fetch 1 from q") + bind(portal=b"p")
    session.client_data(made + p.message(p.CLOSE, b"Pq\0"))
    upstream = town.link(session)
    upstream.take()
    session.client_data(described(b"P", b"p"))
    assert upstream.take() == described(b"P", b"q") + described(b"P", b"p")


@pytest.mark.parametrize(
    "last",
    [
        p.query(b"fetch 1 from p"),
        p.query(b"select 1; fetch 1 from p"),
        p.parse(b"t", b"fetch 1 from p") + described(b"S", b"t"),
        p.parse(b"t", b"fetch 1 from p") + bind(b"t") + described(b"P", b""),
        p.parse(b"f", b"fetch 1 from p") + p.parse(b"t", b"execute f") + described(b"S", b"t"),
    ],
)
@pytest.mark.parametrize("text", [b"fetch 1 from q", b"execute s", b"fetch 1 from " + b"q" * 70])
def test_attack_a_fetch_of_a_fetch_ends_the_server(town: Town, text: bytes, last: bytes) -> None:
    """Where they lead round in a circle its process was busy for ever, and no cancel ended it."""
    session, _ = town.client()
    session.client_data(p.parse(b"s", b"fetch 1 from q") + p.parse(b"", text) + bind(portal=b"p") + last)
    upstream = town.link(session)
    stand_in = p.REFUSED_QUERY if last[:1] == b"Q" else p.REFUSED_EXECUTE
    assert upstream.take().endswith(stand_in)
    assert town.stats.refused["fetch-of-fetch"] == 1


def test_what_is_not_a_fetch_of_a_fetch(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.parse(b"", b"select 1") + bind(portal=b"p") + p.query(b"fetch 1 from p"))
    session.client_data(p.parse(b"", b"fetch 1 from p") + bind(portal=b"p") + p.query(b"fetch 1 from p"))
    assert not town.stats.refused["fetch-of-fetch"]


ONE_TEXT = p.parse(b"t", b"select 'a'::text") + p.parse(b"s", b"execute t")
ANOTHER = p.message(p.CLOSE, b"St\0") + p.parse(b"t", b"select 1073741820")
CURSOR = p.parse(b"", b"declare c cursor for select 'a'::text") + bind() + EXECUTE + p.parse(b"s", b"fetch 1 from c")
ANOTHER_CURSOR = (
    p.parse(b"", b"close c") + bind() + EXECUTE + p.parse(b"", b"declare c cursor for select 1") + bind() + EXECUTE
)


@pytest.mark.parametrize(
    ("rule", "messages"),
    [
        ("execute-of-execute", ONE_TEXT + p.query(b"execute s")),
        ("execute-of-execute", ONE_TEXT + p.query(b"select 1; execute s")),
        ("execute-of-execute", ONE_TEXT + p.query(b"explain analyze execute s")),
        ("execute-of-execute", p.parse(b"s", b"fetch 1 from c") + p.query(b"execute s")),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"execute s") + bind() + EXECUTE),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"execute s") + described(b"S", b"")),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"execute s") + bind() + described(b"P", b"")),
        ("execute-of-execute", ONE_TEXT + p.parse(b"", b"explain execute s") + bind() + EXECUTE),
        ("execute-of-execute", p.parse(b"s", b"execute s") + described(b"S", b"s")),
        ("late-portal", ONE_TEXT + bind(b"s", portal=b"p") + ANOTHER + p.execute(b"p")),
        ("late-portal", ONE_TEXT + bind(b"s") + ANOTHER + EXECUTE),
        ("late-portal", ONE_TEXT + bind(b"s", portal=b"p") + p.message(p.CLOSE, b"Pq\0") + p.execute(b"p")),
        ("late-portal", ONE_TEXT + bind(b"s", portal=b"p") + bind(b"t") + EXECUTE + p.execute(b"p")),
        ("late-portal", CURSOR + bind(b"s", portal=b"p") + ANOTHER_CURSOR + p.execute(b"p")),
        ("fetch-of-fetch", ONE_TEXT + bind(b"s", portal=b"p") + ANOTHER + p.query(b"fetch 1 from p")),
        (
            "fetch-of-fetch",
            ONE_TEXT + bind(b"s", portal=b"p") + p.parse(b"f", b"fetch 1 from p") + bind(b"f") + EXECUTE,
        ),
    ],
)
def test_attack_rows_are_read_by_the_columns_of_others(town: Town, rule: str, messages: bytes) -> None:
    """PostgreSQL 13 to 18 took the number for the length of a text: memory of the server was shown, or it ended."""
    session, _ = town.client()
    session.client_data(messages)
    assert town.link(session).take().endswith(p.REFUSED_QUERY if b"Q" in messages[-32:] else p.REFUSED_EXECUTE)
    assert town.stats.refused[rule] == 1


def test_portal_of_an_execute_goes_on_giving_the_rows_that_it_has(town: Town) -> None:
    session, _ = town.client()
    one = p.message(p.EXECUTE, b"p\0\0\0\0\1")
    session.client_data(ONE_TEXT + bind(b"s", portal=b"p") + described(b"P", b"p") + one + ANOTHER + one + SYNC)
    assert town.link(session).take().count(one) == 2
    assert not town.stats.refused


def test_execute_whose_statement_is_gone_is_described_so(town: Town) -> None:
    session, client = town.client()
    upstream = prepare(town, session, b"t")
    session.client_data(p.parse(b"s", b"execute t") + SYNC)
    upstream.says(PARSED, DESCRIBED, PARSED, NOTED, READY_I)
    upstream.says(CLOSED, READY_I)
    session.client_data(p.message(p.CLOSE, b"St\0") + SYNC)
    client.take()
    session.client_data(described(b"S", b"s") + SYNC)
    assert client.kinds() == "tEZ"

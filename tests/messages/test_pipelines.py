"""Pipelines: every answer in the order of its request, whatever fails, is refused or is left open among them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy import protocol as p
from tests.messages.conftest import WAYS
from tests.messages.conversation import (
    FLUSHED,
    SYNC,
    Message,
    Talk,
    Way,
    ask,
    b,
    close_portal,
    close_statement,
    describe_portal,
    describe_statement,
    e,
    flushed,
    parse,
    parse_refused,
    q,
    raw,
    refused,
    run,
    simple,
    step,
    talk,
)

WRITE = refused("DELETE FROM orders")
ROWS = "SELECT generate_series(1, 7) AS n"
CALL = Message(
    "FunctionCall lo_creat",
    p.message(p.FUNCTION_CALL, bytes.fromhex("000003bd 0001 0001 0001 00000004 00020000 0001")),
    p.message(p.FUNCTION_CALL, bytes(4 + 2 + 2 + 2)),
)
"""A fast-path call, which SideCart refuses. A call of nothing fails as well, and leaves the unnamed statement too."""
COPY = "COPY (SELECT id FROM orders ORDER BY id LIMIT 3) TO STDOUT"


def refused_group(name: str = "") -> tuple[Message, ...]:
    return parse_refused(name, "DELETE FROM orders WHERE id = $1"), *run(name, "1")


def groups(count: int) -> tuple[Message, ...]:
    """Return so many groups, each with its Sync; every seventh fails, every eleventh is refused."""
    out: list[Message] = []
    for number in range(count):
        if number % 11 == 10:
            out += refused_group()
        elif number % 7 == 6:
            out += ask(f"SELECT {number} / $1::int", "0")
        else:
            out += ask(f"SELECT {number} + $1::int", "1")
        out.append(SYNC)
    return tuple(out)


ORDER = (
    talk(
        "a refused FunctionCall has its turn",
        step(ask("SELECT 1"), SYNC, CALL, ask("SELECT 2"), SYNC, CALL),
        step(CALL),
    ),
    talk("a refused FunctionCall fails a transaction", step(q("BEGIN"), CALL), simple("SELECT 1", "COMMIT")),
    talk("a FunctionCall behind an error is skipped", step(ask("SELECT 1/0"), CALL, ask("SELECT 1"), SYNC, ready=1)),
    talk("a refused Query behind an error is skipped", step(ask("SELECT 1/0"), WRITE, ask("SELECT 1"), SYNC, ready=1)),
    talk(
        "a refused Query behind an error is skipped and leaves the unnamed statement",
        step(parse("", "SELECT $1::int"), SYNC),
        step(b("nope"), WRITE, SYNC, ready=1),
        step(run("", "1"), SYNC),
    ),
    talk(
        "a refused Query behind an error in a transaction is skipped",
        step(q("BEGIN")),
        step(ask("SELECT 1/0"), WRITE, CALL, ask("SELECT 1"), SYNC, WRITE, ready=2),
        simple("COMMIT"),
    ),
    talk(
        "a refused FunctionCall leaves the unnamed statement",
        step(parse("", "SELECT $1::int"), SYNC),
        step(run("", "1"), SYNC, CALL),
        step(run("", "2"), SYNC),
        step(CALL),
        step(run("", "3"), SYNC),
    ),
    talk("hundreds of messages before one Sync", step(*(ask(f"SELECT {n}") for n in range(80)), SYNC)),
    talk(
        "hundreds of messages with a failure in the middle",
        step(*(ask("SELECT 1 / $1::int", str(50 - n)) for n in range(100)), SYNC),
        step(ask("SELECT 1"), SYNC),
    ),
    talk(
        "hundreds of messages with a refusal in the middle",
        step(*(ask(f"SELECT {n}") for n in range(40)), refused_group(), *(ask(f"SELECT {n}") for n in range(40)), SYNC),
        step(ask("SELECT 1"), SYNC),
    ),
    talk("many groups in one write with failures and refusals among them", step(groups(60)), step(groups(5))),
    talk("many Queries in one write", step(*(q(f"SELECT {n}") for n in range(60)))),
    talk(
        "many Queries in one write with failures and refusals among them",
        step(*((q("SELECT 1/0"), WRITE, q("selec"), q(""), q(f"SELECT {n}")) for n in range(12))),
    ),
    talk("many Syncs in one write", step(*[SYNC] * 50)),
    talk(
        "Queries and groups by turns in one write",
        step(q("SELECT 1"), ask("SELECT 2"), SYNC, q("SELECT 3"), ask("SELECT 4"), SYNC, SYNC, q("SELECT 5")),
    ),
    talk(
        "a Query in the middle of a group",
        step(parse("s", "SELECT $1::int"), b("s", "1"), q("SELECT 2"), run("s", "3"), SYNC),
    ),
    talk(
        "a Query in the middle of a group commits it",
        step(ask("SET datestyle TO German"), q("SHOW datestyle"), ask("SELECT 1/0"), SYNC),
        simple("SHOW datestyle"),
    ),
    talk(
        "a Query in the middle of a group closes its portals",
        step(parse("s", ROWS), b("s", portal="c"), e("c", 2), q("SELECT 1"), e("c", 2), SYNC),
    ),
    talk(
        "a Query in the middle of a group destroys the unnamed statement",
        step(parse("", "SELECT 1"), q("SELECT 2"), b(), e(), SYNC),
    ),
    talk(
        "a refused Query in the middle of a group",
        step(parse("s", "SELECT 1"), run("s"), WRITE, run("s"), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "a refused Query at the end of a group without a Sync undoes the group",
        step(ask("SET datestyle TO German"), WRITE),
        simple("SHOW datestyle"),
    ),
    talk(
        "a failing Query in the middle of a group does not skip",
        step(ask("SELECT 1"), q("SELECT 1/0"), ask("SELECT 2"), SYNC),
    ),
    talk(
        "BEGIN and the first query in one batch",
        step(ask("BEGIN"), ask("SELECT $1::int", "1"), SYNC),
        step(ask("SELECT 2"), SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk(
        "BEGIN and the last query and COMMIT in one batch",
        step(ask("BEGIN"), ask("SELECT 1"), ask("COMMIT"), SYNC),
        step(ask("BEGIN"), ask("COMMIT"), SYNC),
    ),
    talk(
        "BEGIN and a query and COMMIT in groups of one write",
        step(ask("BEGIN"), SYNC, ask("SELECT 1"), SYNC, ask("COMMIT"), SYNC),
    ),
    talk("BEGIN and a query and COMMIT as Queries of one write", step(q("BEGIN"), q("SELECT 1"), q("COMMIT"))),
    talk("BEGIN and COMMIT as Queries of one write", step(q("BEGIN"), q("COMMIT"), q("BEGIN"), q("ROLLBACK"), q(""))),
    talk("BEGIN and a refusal and ROLLBACK in one write", step(q("BEGIN"), WRITE, q("SELECT 1"), q("ROLLBACK"), q(""))),
    talk(
        "BEGIN and a refused group and COMMIT in one write",
        step(ask("BEGIN"), SYNC, refused_group(), SYNC, ask("SELECT 1"), SYNC, ask("COMMIT"), SYNC),
    ),
    talk(
        "BEGIN and a failure in one batch leave a failed transaction",
        step(ask("BEGIN"), ask("SELECT 1/0"), SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk(
        "BEGIN and a refusal in one batch leave a failed transaction",
        step(ask("BEGIN"), refused_group(), SYNC),
        step(ask("SELECT 1"), SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk(
        "a batch with COMMIT in its middle keeps what stands before it",
        step(ask("BEGIN"), ask("SET datestyle TO German"), ask("COMMIT"), ask("SELECT 1/0"), SYNC),
        simple("SHOW datestyle"),
    ),
    talk(
        "a SET undone by a later error of its batch",
        step(ask("SET datestyle TO German"), ask("SELECT 1/0"), SYNC),
        simple("SHOW datestyle"),
    ),
    talk(
        "a SET undone by a later refusal of its batch",
        step(ask("SET datestyle TO German"), refused_group(), SYNC),
        simple("SHOW datestyle"),
    ),
    talk(
        "a SET undone by a refused Parse that nothing executes",
        step(ask("SET datestyle TO German"), parse_refused("w", "DELETE FROM orders"), SYNC),
        simple("SHOW datestyle"),
    ),
    talk(
        "SETs of one pipeline seen by what follows",
        step(
            ask("SET datestyle TO German"),
            ask("SHOW datestyle"),
            SYNC,
            ask("SELECT date '2020-12-24'"),
            SYNC,
            q("RESET datestyle"),
            ask("SHOW datestyle"),
            SYNC,
        ),
    ),
    talk(
        "an error and nothing but skipped messages up to Sync",
        step(
            b("nope"),
            parse("s", "SELECT 1"),
            describe_statement("nope"),
            close_statement("s"),
            e("nope"),
            FLUSHED,
            WRITE,
            parse_refused("w", "DELETE FROM orders"),
            q("SELECT 1"),
            SYNC,
            ready=1,
        ),
        step(b("s"), SYNC),
    ),
    talk(
        "a refusal and nothing but skipped messages up to Sync",
        step(refused_group(), q("SELECT 1"), WRITE, q("selec"), FLUSHED, refused_group("w"), SYNC, ready=1),
        step(ask("SELECT 1"), SYNC),
    ),
    talk(
        "a refusal behind an error is skipped",
        step(ask("SELECT 1/0"), refused_group(), ask("SELECT 1"), SYNC, ask("SELECT 2"), SYNC),
    ),
    talk("an error behind a refusal is skipped", step(refused_group(), ask("SELECT 1/0"), SYNC, ask("SELECT 2"), SYNC)),
    talk(
        "refusals in several groups of one write",
        step(refused_group(), SYNC, ask("SELECT 1"), SYNC, refused_group(), SYNC, WRITE, ask("SELECT 2"), SYNC),
    ),
    talk("an empty statement among others", step(ask("SELECT 1"), ask(""), ask("SELECT 2"), SYNC)),
    talk("COPY among others", step(ask("SELECT 1"), parse("", COPY), b(), e(), ask("SELECT 2"), SYNC)),
    talk("COPY as Queries of one write", step(q(COPY), q("SELECT 1"), q(f"{COPY}; SELECT 2; {COPY}"))),
    talk(
        "a Query of many statements answers each",
        simple("SELECT 1; SELECT 2 WHERE false; SET datestyle TO German; SHOW datestyle; ; SELECT 3"),
    ),
    talk(
        "Describe of what an error has closed",
        step(parse("", "SELECT 1 / $1::int"), b("", "0", portal="c"), e("c"), SYNC),
        step(describe_portal("c"), SYNC),
    ),
    talk(
        "Close of what is not there among others",
        step(close_portal("x"), close_statement("x"), ask("SELECT 1"), close_portal(), close_portal(), SYNC),
    ),
    talk(
        "messages that make no sense alone",
        step(e(), SYNC),
        step(describe_portal(), SYNC),
        step(e("c", 5), SYNC),
        step(b(), SYNC),
    ),
    talk("Sync alone before anything", step(SYNC), step(SYNC, SYNC)),
    talk("a Flush before anything", flushed("", FLUSHED), step(SYNC)),
    talk(
        "COPY data that nobody asked for is ignored",
        step(
            raw("CopyData", p.message(p.COPY_DATA, b"x")),
            raw("CopyDone", p.message(p.COPY_DONE)),
            raw("CopyFail", p.message(p.COPY_FAIL, b"no\0")),
            q("SELECT 1"),
        ),
        step(ask("SELECT 1"), raw("CopyDone", p.message(p.COPY_DONE)), ask("SELECT 2"), SYNC),
    ),
)

FLUSHES = (
    talk(
        "Flush brings each answer at once",
        flushed("1", parse("", "SELECT $1::int AS n"), FLUSHED),
        flushed("tT", describe_statement(), FLUSHED),
        flushed("2", b("", "1"), FLUSHED),
        flushed("T", describe_portal(), FLUSHED),
        flushed("DC", e(), FLUSHED),
        step(SYNC),
        step(run("", "2"), SYNC),
    ),
    talk(
        "Flush after an error brings the error and nothing more",
        flushed("1E", parse("", "SELECT 1"), b("nope"), FLUSHED),
        flushed("", ask("SELECT 1"), FLUSHED),
        step(SYNC),
        step(ask("SELECT 2"), SYNC),
    ),
    talk(
        "Flush after a refusal brings the refusal and nothing more",
        flushed("12TDCE", ask("SELECT 1"), refused_group(), FLUSHED),
        flushed("", ask("SELECT 1"), FLUSHED),
        flushed("", q("SELECT 1")),
        step(SYNC),
        step(ask("SELECT 2"), SYNC),
    ),
    talk(
        "a refusal first and Flush",
        flushed("E", refused_group(), FLUSHED),
        flushed("", ask("SELECT 1"), FLUSHED),
        step(SYNC),
        step(ask("SELECT 2"), SYNC),
    ),
    talk(
        "Flush in a transaction",
        step(q("BEGIN")),
        flushed("12TDC", ask("SELECT 1"), FLUSHED),
        flushed("12TDC", ask("SELECT 2"), FLUSHED),
        step(SYNC),
        simple("COMMIT"),
    ),
    talk(
        "BEGIN by Parse and Flush without Sync",
        flushed("12nC", ask("BEGIN"), FLUSHED),
        flushed("12TDC", ask("SELECT 1"), FLUSHED),
        step(SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk(
        "BEGIN and COMMIT by Parse and Flush without Sync",
        flushed("12nC", ask("BEGIN"), FLUSHED),
        flushed("12nC", ask("COMMIT"), FLUSHED),
        step(SYNC),
    ),
    talk(
        "Parse of BEGIN and Flush and then its Bind",
        flushed("1tn", parse("b", "BEGIN"), describe_statement("b"), FLUSHED),
        flushed("2C", b("b"), e(), FLUSHED),
        step(SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk(
        "42P05 and 26000 at a Flush",
        flushed("1E", parse("s", "SELECT 1"), parse("s", "SELECT 2"), FLUSHED),
        step(SYNC),
        flushed("E", b("nope"), FLUSHED),
        flushed("", b("s"), FLUSHED),
        step(SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "Close and Parse of one name with a Flush after each",
        step(parse("s", "SELECT 1"), SYNC),
        flushed("3", close_statement("s"), FLUSHED),
        flushed("1", parse("s", "SELECT 2"), FLUSHED),
        flushed("2TDC", run("s"), FLUSHED),
        step(SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "a Query ends what a Flush has left open",
        flushed("12TDC", ask("SELECT 1"), FLUSHED),
        step(q("SELECT 2")),
        step(SYNC),
    ),
    talk(
        "Flush where nothing is owed",
        flushed("", FLUSHED, FLUSHED),
        step(SYNC),
        flushed("", FLUSHED),
        step(ask("SELECT 1"), FLUSHED, SYNC),
    ),
    talk("Sync in another write than its group", flushed("12TDC", ask("SELECT 1"), FLUSHED), step(SYNC), step(SYNC)),
)

PORTALS = (
    talk(
        "a portal is suspended and goes on in its group",
        step(parse("", ROWS), b(), e(limit=3), e(limit=3), e(limit=3), SYNC),
    ),
    talk(
        "a portal is suspended exactly at its end",
        step(parse("", ROWS), b(), e(limit=7), e(limit=7), SYNC),
        step(parse("", ROWS), b(), e(limit=8), SYNC),
    ),
    talk(
        "a portal ends with Sync outside a transaction",
        step(parse("s", ROWS), b("s", portal="c"), e("c", 3), SYNC),
        step(e("c", 3), SYNC),
    ),
    talk(
        "a portal goes on after Sync in a transaction",
        step(ask("BEGIN"), SYNC),
        step(parse("s", ROWS), b("s", portal="c"), describe_portal("c"), e("c", 3), SYNC),
        step(e("c", 3), SYNC),
        step(e("c", 3), SYNC),
        step(e("c", 3), SYNC),
        step(close_portal("c"), SYNC),
        step(e("c", 3), SYNC),
        simple("COMMIT"),
        step(run("s"), SYNC),
    ),
    talk(
        "a portal ends with COMMIT",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s", portal="c"), e("c", 3), SYNC),
        simple("COMMIT"),
        step(e("c", 3), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "the unnamed portal goes on after Sync in a transaction",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s"), e(limit=3), SYNC),
        step(e(limit=3), SYNC),
        step(q("SELECT 1")),
        step(e(limit=3), SYNC),
        simple("ROLLBACK"),
    ),
    talk(
        "a portal goes on behind other statements",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s", portal="c"), e("c", 2), SYNC),
        step(ask("SELECT 1"), SYNC),
        step(e("c", 2), SYNC),
        simple("SELECT 2"),
        step(e("c", 2), SYNC),
        simple("COMMIT"),
    ),
    talk(
        "two portals of one statement go on by turns",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s", portal="c"), b("s", portal="d"), SYNC),
        step(e("c", 2), e("d", 1), e("c", 2), e("d", 1), SYNC),
        step(e("d"), e("c"), SYNC),
        simple("COMMIT"),
    ),
    talk(
        "a portal name that is taken is 42P03",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s", portal="c"), b("s", portal="c"), SYNC),
        simple("ROLLBACK"),
        step(b("s", portal="c"), SYNC),
        step(b("s", portal="c"), e("c", 1), SYNC),
    ),
    talk(
        "a portal outlives the Close of its statement's name only in name",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s", portal="c"), e("c", 2), close_statement("s"), e("c", 2), SYNC),
        simple("ROLLBACK"),
    ),
    talk(
        "a portal is fetched from by SQL",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s", portal="c"), SYNC),
        simple("FETCH 2 FROM c", "COMMIT"),
    ),
    talk(
        "a cursor of SQL is executed as a portal",
        step(q("BEGIN")),
        simple(f"DECLARE c CURSOR FOR {ROWS}"),
        step(describe_portal("c"), e("c", 2), SYNC),
        step(close_portal("c"), SYNC),
        simple("FETCH c", "ROLLBACK"),
    ),
    talk(
        "a row limit of a statement without rows",
        step(parse("", "BEGIN"), b(), e(limit=1), SYNC),
        step(parse("", "COMMIT"), b(), e(limit=1), SYNC),
        step(parse("", "SHOW datestyle"), b(), e(limit=1), SYNC),
    ),
    talk(
        "a failed transaction loses its portals",
        step(q("BEGIN")),
        step(parse("s", ROWS), b("s", portal="c"), e("c", 2), SYNC),
        step(WRITE),
        step(e("c"), SYNC),
        step(close_portal("c"), SYNC),
        simple("ROLLBACK"),
    ),
    talk(
        "a suspended portal and an error behind it",
        step(parse("s", ROWS), b("s", portal="c"), e("c", 2), ask("SELECT 1/0"), e("c", 2), SYNC),
        step(e("c", 2), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "a suspended portal and a Flush",
        flushed("12DDs", parse("", ROWS), b(), e(limit=2), FLUSHED),
        flushed("DDs", e(limit=2), FLUSHED),
        flushed("DDDC", e(), FLUSHED),
        step(SYNC),
    ),
    talk(
        "a portal that is closed before its end",
        step(parse("", ROWS), b(portal="c"), e("c", 2), close_portal("c"), e("c", 2), SYNC),
    ),
)

TALKS = (*ORDER, *FLUSHES, *PORTALS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", TALKS, ids=str)
def test_pipelines(played: Talk, way: Way, same: Callable[[Talk, Way], None]) -> None:
    same(played, way)

"""Transactions: begun late, failed by what is refused, ended as PostgreSQL ends them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.messages.conftest import WAYS
from tests.messages.conversation import (
    SYNC,
    Step,
    Talk,
    Way,
    ask,
    b,
    describe_statement,
    e,
    parse,
    parse_refused,
    q,
    refused,
    run,
    simple,
    step,
    talk,
)

WRITE = refused("DELETE FROM orders")


def begun(text: str = "BEGIN") -> Step:
    """Return a step that begins a transaction; no upstream is needed for it."""
    return step(q(text), holds=False)


def begun_extended(text: str = "BEGIN") -> Step:
    """Return a step that begins a transaction by Parse; whether it can wait depends on how the group comes in."""
    return step(ask(text), SYNC)


BEGINS = (
    talk("BEGIN and COMMIT with nothing between", begun(), simple("COMMIT"), begun(), simple("ROLLBACK", "SELECT 1")),
    talk(
        "BEGIN and COMMIT through the extended protocol with nothing between",
        begun_extended(),
        step(ask("COMMIT"), SYNC),
        begun_extended(),
        step(ask("ROLLBACK"), SYNC),
        step(ask("SELECT 1"), SYNC),
    ),
    talk("BEGIN waits for its first statement", begun(), simple("SELECT 1", "SELECT 2", "COMMIT")),
    talk(
        "BEGIN waits for its first statement through the extended protocol",
        begun_extended(),
        step(ask("SELECT $1::int", "1"), SYNC),
        step(ask("SELECT $1::int", "2"), SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk("BEGIN by Query and statements by Parse", begun(), step(ask("SELECT 1"), SYNC), step(ask("COMMIT"), SYNC)),
    talk("BEGIN by Parse and statements by Query", begun_extended(), simple("SELECT 1", "END")),
    talk(
        "BEGIN is described",
        step(parse("b", "BEGIN"), describe_statement("b"), SYNC),
        step(run("b"), SYNC),
        simple("SELECT 1", "COMMIT"),
    ),
    talk(
        "a Sync after BEGIN is answered with T",
        begun(),
        step(SYNC, holds=False),
        step(SYNC, SYNC, holds=False),
        simple("SELECT 1", "COMMIT"),
    ),
    talk("an empty Query after BEGIN", begun(), simple("", ";", "COMMIT")),
    talk("a comment before BEGIN and a semicolon behind it", begun("/* it */ begin ;"), simple("SELECT 1", "commit;")),
    talk(
        "BEGIN keeps its exact text for the server",
        begun("START TRANSACTION READ ONLY"),
        simple("SHOW transaction_read_only", "COMMIT"),
    ),
    talk(
        "BEGIN with an isolation level",
        begun("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        simple("SHOW transaction_isolation", "COMMIT", "SHOW transaction_isolation"),
    ),
    talk("BEGIN SERIALIZABLE", simple("BEGIN ISOLATION LEVEL SERIALIZABLE", "SHOW transaction_isolation", "COMMIT")),
    talk(
        "BEGIN DEFERRABLE",
        simple("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE", "SHOW transaction_deferrable", "COMMIT"),
    ),
    talk("BEGIN inside a transaction is a warning", begun(), simple("BEGIN", "SELECT 1", "BEGIN", "COMMIT")),
    talk(
        "BEGIN inside a transaction through the extended protocol",
        begun_extended(),
        step(ask("BEGIN"), SYNC),
        step(ask("SELECT 1"), SYNC),
        step(ask("START TRANSACTION"), SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk("COMMIT outside a transaction is a warning", simple("COMMIT", "ROLLBACK", "END", "ABORT", "SELECT 1")),
    talk(
        "COMMIT outside a transaction through the extended protocol",
        step(ask("COMMIT"), SYNC),
        step(ask("ROLLBACK"), SYNC),
    ),
    talk(
        "SET TRANSACTION right after BEGIN",
        begun(),
        simple("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SHOW transaction_isolation", "COMMIT"),
    ),
    talk(
        "SET TRANSACTION after the first statement is 25001",
        begun(),
        simple("SELECT 1", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "ROLLBACK"),
    ),
    talk(
        "SET TRANSACTION READ ONLY right after BEGIN",
        begun(),
        simple("SET TRANSACTION READ ONLY", "SHOW transaction_read_only", "COMMIT"),
    ),
    talk(
        "SET LOCAL right after BEGIN",
        begun(),
        simple("SET LOCAL datestyle TO German", "SELECT date '2020-12-24'", "COMMIT", "SHOW datestyle"),
    ),
    talk(
        "SET right after BEGIN that is rolled back",
        begun(),
        simple("SET datestyle TO German", "SHOW datestyle", "ROLLBACK", "SHOW datestyle"),
    ),
    talk(
        "SET right after BEGIN that is committed",
        begun(),
        simple("SET datestyle TO German", "COMMIT", "SHOW datestyle", "SELECT date '2020-12-24'"),
    ),
    talk(
        "LOCK TABLE right after BEGIN", begun(), simple("LOCK TABLE orders IN ACCESS SHARE MODE", "SELECT 1", "COMMIT")
    ),
    talk(
        "SET before BEGIN holds in the transaction",
        simple("SET datestyle TO German"),
        begun(),
        simple("SELECT date '2020-12-24'", "COMMIT"),
    ),
    talk(
        "a named statement from before is the first one of a transaction",
        step(parse("s", "SELECT $1::int"), SYNC),
        begun(),
        step(run("s", "1"), SYNC),
        step(run("s", "2"), SYNC),
        simple("COMMIT"),
        step(run("s", "3"), SYNC),
    ),
    talk(
        "Parse alone is the first message of a transaction",
        begun(),
        step(parse("s", "SELECT 1"), SYNC),
        step(run("s"), SYNC),
        simple("COMMIT"),
        step(run("s"), SYNC),
    ),
    talk(
        "a failed Parse is the first message of a transaction",
        begun(),
        step(parse("s", "SELECT nope"), SYNC),
        simple("SELECT 1", "COMMIT", "SELECT 2"),
    ),
    talk(
        "26000 is the first answer of a transaction",
        begun(),
        step(b("nope"), e(), SYNC),
        simple("SELECT 1", "ROLLBACK"),
    ),
    talk(
        "the unnamed statement from before BEGIN by Parse of a name",
        step(parse("begin", "BEGIN"), SYNC),
        step(parse("", "SELECT $1::int"), SYNC),
        step(run("begin"), SYNC),
        step(run("", "1"), SYNC),
        step(run("", "2"), SYNC),
        simple("COMMIT"),
        step(run("", "3"), SYNC),
    ),
    talk(
        "BEGIN as a Query destroys the unnamed statement",
        step(parse("", "SELECT 1"), SYNC),
        begun(),
        step(b(), e(), SYNC),
        simple("ROLLBACK"),
    ),
    talk(
        "BEGIN by an unnamed Parse takes the place of the unnamed statement",
        step(parse("", "SELECT 1"), SYNC),
        begun_extended(),
        step(b(), e(), SYNC),
        simple("COMMIT"),
    ),
    talk(
        "BEGIN by an unnamed Parse can be executed again after its transaction",
        begun_extended(),
        step(parse("c", "COMMIT"), run("c"), SYNC),
        step(run(), SYNC),
        step(run("c"), SYNC),
    ),
    talk("a transaction in one string", simple("BEGIN; SELECT 1; COMMIT", "BEGIN; SELECT 2", "SELECT 3; COMMIT")),
    talk("COMMIT and BEGIN in one string", begun(), simple("SELECT 1; COMMIT; BEGIN", "SELECT 2", "COMMIT; SELECT 3")),
    talk("BEGIN with the first statement in one string", simple("BEGIN; SELECT 1", "SELECT 1/0", "COMMIT")),
    talk(
        "COMMIT AND CHAIN",
        begun(),
        simple("SELECT 1", "COMMIT AND CHAIN", "SELECT 2", "ROLLBACK AND CHAIN", "SELECT 3", "COMMIT"),
    ),
    talk(
        "COMMIT AND CHAIN right after BEGIN keeps the isolation level",
        begun("BEGIN ISOLATION LEVEL REPEATABLE READ"),
        simple("COMMIT AND CHAIN", "SHOW transaction_isolation", "ROLLBACK AND CHAIN", "COMMIT AND NO CHAIN"),
    ),
    talk("COMMIT AND CHAIN outside a transaction", simple("COMMIT AND CHAIN", "ROLLBACK AND CHAIN")),
    talk(
        "COMMIT AND CHAIN of a failed transaction",
        begun(),
        simple("SELECT 1/0", "COMMIT AND CHAIN", "SELECT 1", "COMMIT"),
    ),
    talk(
        "PREPARE TRANSACTION and COMMIT PREPARED are refused",
        begun(),
        step(refused("PREPARE TRANSACTION 'x'")),
        simple("ROLLBACK"),
        step(refused("COMMIT PREPARED 'x'")),
    ),
    talk(
        "a transaction counts its moments from its first statement on",
        begun(),
        simple(
            "SELECT now() = transaction_timestamp(), statement_timestamp() >= now()",
            "SELECT now() < statement_timestamp()",
            "COMMIT",
        ),
    ),
)

FAILURES = (
    talk(
        "a failed transaction is 25P02 until its end",
        begun(),
        simple(
            "SELECT 1/0", "SELECT 1", "SHOW datestyle", "SAVEPOINT a", "RELEASE a", "BEGIN", "", "COMMIT", "SELECT 1"
        ),
    ),
    talk(
        "a failed transaction is 25P02 until its end through the extended protocol",
        begun_extended(),
        step(ask("SELECT 1/0"), SYNC),
        step(ask("SELECT 1"), SYNC),
        step(ask(""), SYNC),
        step(parse("s", "SELECT 1"), SYNC),
        step(describe_statement("s"), SYNC),
        step(ask("COMMIT"), SYNC),
        step(ask("SELECT 1"), SYNC),
    ),
    talk("COMMIT of a failed transaction says ROLLBACK", begun(), simple("SELECT nope", "COMMIT", "COMMIT")),
    talk("ROLLBACK of a failed transaction", begun(), simple("SELECT nope", "ROLLBACK", "ROLLBACK")),
    talk(
        "a refused Query right after BEGIN fails the transaction",
        begun(),
        step(WRITE),
        simple("SELECT 1", "SHOW datestyle", "COMMIT", "SELECT 2"),
    ),
    talk(
        "a refused Query later in a transaction fails it",
        begun(),
        simple("SELECT 1"),
        step(WRITE),
        simple("SELECT 1", "COMMIT", "SELECT 2"),
    ),
    talk(
        "a refused Query in a failed transaction is refused again",
        begun(),
        simple("SELECT 1/0"),
        step(WRITE),
        step(WRITE),
        simple("ROLLBACK", "SELECT 2"),
    ),
    talk(
        "a refused Query after a refused one right after BEGIN",
        begun(),
        step(WRITE),
        step(WRITE),
        simple("ROLLBACK", "SELECT 2"),
    ),
    talk(
        "a refused Parse right after BEGIN fails the transaction",
        begun(),
        step(parse_refused("", "DELETE FROM orders"), SYNC),
        simple("SELECT 1", "ROLLBACK", "SELECT 2"),
    ),
    talk(
        "a refused group right after BEGIN fails the transaction",
        begun_extended(),
        step(parse_refused("w", "DELETE FROM orders"), run("w"), SYNC),
        step(ask("SELECT 1"), SYNC),
        step(ask("COMMIT"), SYNC),
        step(ask("SELECT 1"), SYNC),
    ),
    talk(
        "a refused group later in a transaction fails it",
        begun_extended(),
        step(ask("SELECT 1"), SYNC),
        step(parse_refused("w", "DELETE FROM orders"), run("w"), SYNC),
        step(ask("SELECT 1"), SYNC),
        step(ask("ROLLBACK"), SYNC),
        step(ask("SELECT 1"), SYNC),
    ),
    talk(
        "25P02 after a refusal right after BEGIN through the extended protocol",
        begun(),
        step(WRITE),
        step(ask("SELECT 1"), SYNC),
        step(parse("s", "SELECT 1"), SYNC),
        step(b("s"), SYNC),
        step(describe_statement("s"), SYNC),
        step(SYNC),
        step(ask("COMMIT"), SYNC),
        step(b("s"), SYNC),
    ),
    talk(
        "ROLLBACK TO after a refusal right after BEGIN has no savepoint",
        begun(),
        step(WRITE),
        simple("ROLLBACK TO a", "SELECT 1", "ROLLBACK"),
    ),
    talk("a syntax error right after BEGIN fails the transaction", begun(), simple("selec", "SELECT 1", "COMMIT")),
    talk(
        "a syntax error after a refusal right after BEGIN",
        begun(),
        step(WRITE),
        simple("selec", "SELECT 1; SELECT 2", "", "COMMIT; SELECT 5"),
    ),
    talk(
        "COMMIT in a string after a refusal right after BEGIN",
        begun(),
        step(WRITE),
        simple("SELECT 1; COMMIT", "ROLLBACK; SELECT 2", "SELECT 3"),
    ),
    talk(
        "BEGIN after a refusal right after BEGIN",
        begun(),
        step(WRITE),
        simple("BEGIN", "ROLLBACK AND CHAIN", "SELECT 1", "COMMIT"),
    ),
    talk(
        "COMMIT AND CHAIN after a refusal right after BEGIN",
        begun("BEGIN ISOLATION LEVEL REPEATABLE READ"),
        step(WRITE),
        simple("COMMIT AND CHAIN", "SHOW transaction_isolation", "COMMIT"),
    ),
    talk(
        "a string with a refused member runs nothing",
        simple("SET datestyle TO German"),
        step(refused("SET datestyle TO ISO; DELETE FROM orders")),
        simple("SHOW datestyle"),
        step(refused("BEGIN; DELETE FROM orders")),
        simple("SHOW datestyle"),
    ),
    talk(
        "a string with a refused member in a transaction",
        begun(),
        simple("SELECT 1"),
        step(refused("COMMIT; DELETE FROM orders")),
        simple("SELECT 1", "COMMIT"),
    ),
    talk(
        "a string that fails in the middle undoes its settings",
        simple(
            "SET datestyle TO German; SELECT 1/0",
            "SHOW datestyle",
            "SELECT set_config('datestyle', 'German', false); SELECT 1/0",
            "SHOW datestyle",
        ),
    ),
    talk(
        "a string that fails behind BEGIN leaves the transaction failed",
        simple("BEGIN; SELECT 1; SELECT 1/0; COMMIT", "SELECT 1", "COMMIT"),
    ),
    talk(
        "a string that fails behind COMMIT leaves no transaction",
        begun(),
        simple("SELECT 1; COMMIT; SELECT 1/0; SELECT 2", "SELECT 3"),
    ),
    talk(
        "SETs before and after an error go with the transaction",
        simple("SET timezone TO 'UTC'"),
        begun(),
        simple("SET timezone TO 'Asia/Tokyo'", "SELECT 1/0", "COMMIT", "SHOW timezone"),
    ),
)

SAVEPOINTS = (
    talk(
        "a savepoint is rolled back to and released",
        begun(),
        simple("SAVEPOINT a", "SELECT 1/0", "SELECT 1", "ROLLBACK TO a", "SELECT 2", "RELEASE a", "COMMIT"),
    ),
    talk(
        "a savepoint after the first statement",
        begun(),
        simple("SELECT 1", "SAVEPOINT a", "SELECT nope", "ROLLBACK TO SAVEPOINT a", "SELECT 2", "COMMIT"),
    ),
    talk("a savepoint outside a transaction is 25P01", simple("SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "SELECT 1")),
    talk(
        "a savepoint that is not there is 3B001",
        begun(),
        simple("SELECT 1", "ROLLBACK TO a", "ROLLBACK"),
        begun(),
        simple("RELEASE a", "COMMIT"),
    ),
    talk("ROLLBACK TO right after BEGIN is 3B001", begun(), simple("ROLLBACK TO a", "SELECT 1", "ROLLBACK")),
    talk(
        "savepoints inside savepoints of one name",
        begun(),
        simple(
            "SAVEPOINT a",
            "SET LOCAL datestyle TO German",
            "SAVEPOINT a",
            "SET LOCAL datestyle TO SQL",
            "SELECT 1/0",
            "ROLLBACK TO a",
            "SHOW datestyle",
            "RELEASE a",
            "ROLLBACK TO a",
            "SHOW datestyle",
            "COMMIT",
            "SHOW datestyle",
        ),
    ),
    talk(
        "a refused Query behind a savepoint is undone by ROLLBACK TO",
        begun(),
        simple("SAVEPOINT a"),
        step(WRITE),
        simple("SELECT 1", "ROLLBACK TO a", "SELECT 2", "COMMIT"),
    ),
    talk(
        "a refused group behind a savepoint is undone by ROLLBACK TO",
        begun_extended(),
        step(ask("SAVEPOINT a"), SYNC),
        step(parse_refused("", "DELETE FROM orders"), run(), SYNC),
        step(ask("ROLLBACK TO a"), SYNC),
        step(ask("SELECT 2"), SYNC),
        step(ask("COMMIT"), SYNC),
    ),
    talk(
        "a SET behind a savepoint goes with it",
        begun(),
        simple(
            "SET timezone TO 'Asia/Tokyo'",
            "SAVEPOINT a",
            "SET timezone TO 'UTC'",
            "ROLLBACK TO a",
            "SHOW timezone",
            "COMMIT",
            "SHOW timezone",
            "SELECT '2020-01-01'::timestamptz",
        ),
    ),
    talk(
        "a SET behind a savepoint stays when it is released",
        begun(),
        simple("SAVEPOINT a", "SET timezone TO 'Asia/Tokyo'", "RELEASE a", "COMMIT", "SHOW timezone"),
    ),
    talk(
        "a named statement behind a savepoint survives ROLLBACK TO",
        begun(),
        simple("SAVEPOINT a"),
        step(parse("s", "SELECT 1"), SYNC),
        simple("ROLLBACK TO a"),
        step(run("s"), SYNC),
        simple("COMMIT"),
        step(run("s"), SYNC),
    ),
    talk(
        "a savepoint in one string with what fails",
        begun(),
        simple("SAVEPOINT a; SELECT 1/0", "ROLLBACK TO a", "SELECT 1; RELEASE a; COMMIT", "SELECT 2"),
    ),
    talk("a savepoint in an implicit transaction is 25P01", simple("SAVEPOINT a; SELECT 1", "SELECT 2")),
)

CURSORS = (
    talk(
        "a cursor lives in its transaction",
        begun(),
        simple(
            "DECLARE c CURSOR FOR SELECT id FROM orders ORDER BY id",
            "FETCH 2 FROM c",
            "MOVE 3 IN c",
            "FETCH c",
            "CLOSE c",
            "FETCH c",
            "ROLLBACK",
            "FETCH c",
        ),
    ),
    talk("a cursor ends with COMMIT", begun(), simple("DECLARE c CURSOR FOR SELECT 1", "COMMIT", "FETCH c", "CLOSE c")),
    talk("a cursor outside a transaction is 25P01", simple("DECLARE c CURSOR FOR SELECT 1", "SELECT 1")),
    talk(
        "a cursor is fetched through the extended protocol",
        begun_extended(),
        step(ask("DECLARE c CURSOR FOR SELECT id FROM orders ORDER BY id"), SYNC),
        step(ask("FETCH 2 FROM c"), SYNC),
        step(parse("f", "FETCH 3 FROM c"), SYNC),
        step(run("f"), SYNC),
        step(run("f"), SYNC),
        step(ask("COMMIT"), SYNC),
        step(run("f"), SYNC),
    ),
    talk(
        "a SCROLL cursor goes back",
        begun(),
        simple(
            "DECLARE c SCROLL CURSOR FOR SELECT id FROM orders ORDER BY id LIMIT 5",
            "FETCH ALL FROM c",
            "FETCH PRIOR FROM c",
            "FETCH ABSOLUTE 2 FROM c",
            "FETCH BACKWARD ALL FROM c",
            "COMMIT",
        ),
    ),
    talk(
        "a cursor in one string with its FETCH",
        simple("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 5); FETCH 2 FROM c; COMMIT", "FETCH c"),
    ),
    talk(
        "a cursor in a string without BEGIN is as private as the string",
        simple("DECLARE c CURSOR FOR SELECT generate_series(1, 5); FETCH 2 FROM c", "FETCH c"),
    ),
    talk(
        "a cursor WITH HOLD outlives its transaction",
        begun(),
        simple("DECLARE h CURSOR WITH HOLD FOR SELECT id FROM orders ORDER BY id LIMIT 5", "FETCH h"),
        step(q("COMMIT"), holds=True),
        step(q("FETCH 2 FROM h"), holds=True),
        step(q("SELECT 1"), holds=True),
        step(q("CLOSE h")),
        step(q("FETCH h")),
    ),
    talk(
        "a cursor WITH HOLD without a transaction",
        step(q("DECLARE h CURSOR WITH HOLD FOR SELECT generate_series(1, 4)"), holds=True),
        step(q("FETCH 2 FROM h"), holds=True),
        step(ask("FETCH ALL FROM h"), SYNC, holds=True),
        step(ask("CLOSE h"), SYNC),
        step(ask("FETCH h"), SYNC),
    ),
    talk(
        "a cursor WITH HOLD of a transaction that is rolled back is gone",
        begun(),
        simple("DECLARE h CURSOR WITH HOLD FOR SELECT 1", "ROLLBACK", "FETCH h"),
    ),
    talk(
        "a cursor WITH HOLD of a transaction that a refusal has failed is gone",
        begun(),
        simple("DECLARE h CURSOR WITH HOLD FOR SELECT 1"),
        step(WRITE),
        simple("COMMIT", "FETCH h"),
    ),
    talk(
        "CLOSE ALL ends a cursor WITH HOLD",
        step(q("DECLARE h CURSOR WITH HOLD FOR SELECT 1"), holds=True),
        simple("CLOSE ALL", "FETCH h"),
    ),
    talk(
        "DISCARD ALL ends a cursor WITH HOLD",
        step(q("DECLARE h CURSOR WITH HOLD FOR SELECT 1"), holds=True),
        simple("DISCARD ALL", "FETCH h"),
    ),
    talk(
        "one of two cursors WITH HOLD keeps the upstream",
        step(q("DECLARE h CURSOR WITH HOLD FOR SELECT 1"), holds=True),
        step(q("DECLARE i CURSOR WITH HOLD FOR SELECT 2"), holds=True),
        step(q("CLOSE h"), holds=True),
        step(q("FETCH i"), holds=True),
        step(q("CLOSE i")),
        step(q("FETCH i")),
    ),
    talk(
        "a cursor WITH HOLD keeps named statements and settings beside it",
        step(parse("s", "SELECT $1::int, current_setting('datestyle')"), SYNC),
        simple("SET datestyle TO German"),
        step(q("DECLARE h CURSOR WITH HOLD FOR SELECT date '2020-12-24'"), holds=True),
        step(run("s", "1"), SYNC, holds=True),
        step(q("SET datestyle TO ISO"), holds=True),
        step(parse("t", "SELECT 't'"), SYNC, holds=True),
        step(q("FETCH h"), holds=True),
        step(q("CLOSE h")),
        step(run("s", "2"), SYNC),
        step(run("t"), SYNC),
    ),
    talk(
        "a refused cursor holds nothing",
        begun(),
        step(refused("DECLARE h CURSOR WITH HOLD FOR SELECT * FROM orders FOR UPDATE")),
        simple("COMMIT"),
    ),
    talk(
        "a pinned client begins and ends transactions",
        step(q("DECLARE h CURSOR WITH HOLD FOR SELECT 1"), holds=True),
        step(q("BEGIN"), holds=True),
        step(q("COMMIT"), holds=True),
        step(q("BEGIN"), holds=True),
        step(WRITE, holds=True),
        step(q("FETCH h"), holds=True),
        step(q("COMMIT"), holds=True),
        step(q("FETCH h"), holds=True),
        step(q("CLOSE h")),
    ),
)

TALKS = (*BEGINS, *FAILURES, *SAVEPOINTS, *CURSORS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", TALKS, ids=str)
def test_transactions(played: Talk, way: Way, same: Callable[[Talk, Way], None]) -> None:
    same(played, way)

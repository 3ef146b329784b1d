"""Statements and settings of one write: what a group makes is used by the next before anybody has answered."""

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
    close_statement,
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

DAY = "SELECT '01/02/2020'::date AS day"
ONE = parse("s", "SELECT $1::int AS one")


def dmy(name: str) -> Message:
    """Return a Parse whose meaning is baked in by DateStyle."""
    return parse(name, DAY)


STATEMENTS = (
    talk("Parse and Bind in two groups of one write", step(ONE, SYNC, run("s", "1"), SYNC), step(run("s", "2"), SYNC)),
    talk("Parse and Describe in two groups of one write", step(ONE, SYNC, describe_statement("s"), SYNC)),
    talk(
        "a failed Parse and Bind in two groups of one write",
        step(parse("s", "SELECT nope"), SYNC, b("s"), e(), SYNC),
        step(ONE, SYNC, run("s", "1"), SYNC),
    ),
    talk(
        "a refused Parse and Bind in two groups of one write",
        step(parse_refused("s", "DELETE FROM orders"), SYNC, b("s"), e(), SYNC, ONE, SYNC, run("s", "1"), SYNC),
    ),
    talk(
        "a Parse that is skipped and Bind in two groups of one write",
        step(ask("SELECT 1/0"), ONE, SYNC, run("s", "1"), SYNC, ONE, SYNC, run("s", "2"), SYNC),
    ),
    talk(
        "Close and Bind in two groups of one write",
        step(ONE, SYNC),
        step(close_statement("s"), SYNC, run("s", "1"), SYNC, ONE, SYNC, run("s", "2"), SYNC),
        step(run("s", "3"), SYNC),
    ),
    talk(
        "a Close that is skipped and Bind in two groups of one write",
        step(ONE, SYNC),
        step(ask("SELECT 1/0"), close_statement("s"), SYNC, run("s", "1"), SYNC),
        step(run("s", "2"), SYNC),
    ),
    talk(
        "42P05 of two groups of one write",
        step(ONE, SYNC, ONE, SYNC, run("s", "1"), SYNC),
        step(ONE, run("s", "1"), SYNC, run("s", "2"), SYNC),
    ),
    talk(
        "DEALLOCATE and Bind in one write",
        step(ONE, SYNC),
        step(q("DEALLOCATE s"), run("s", "1"), SYNC, ONE, SYNC, run("s", "2"), SYNC),
    ),
    talk(
        "DEALLOCATE ALL and Bind in one write",
        step(ONE, SYNC),
        step(ask("DEALLOCATE ALL"), SYNC, run("s", "1"), SYNC, ONE, SYNC, run("s", "2"), SYNC),
        step(run("s", "3"), SYNC),
    ),
    talk(
        "a DEALLOCATE ALL that fails and Bind in one write",
        step(ONE, SYNC),
        step(q("SELECT 1/0; DEALLOCATE ALL"), run("s", "1"), SYNC),
        step(run("s", "2"), SYNC),
    ),
    talk(
        "a DEALLOCATE ALL that is skipped and Bind in one write",
        step(ONE, SYNC),
        step(ask("SELECT 1/0"), ask("DEALLOCATE ALL"), SYNC, run("s", "1"), SYNC),
        step(run("s", "2"), SYNC),
    ),
    talk(
        "DISCARD ALL and Parse of the same name in one write",
        step(ONE, SYNC),
        step(q("DISCARD ALL"), ONE, run("s", "1"), SYNC),
        step(run("s", "2"), SYNC),
    ),
    talk(
        "Parse and EXECUTE in one write",
        step(ONE, SYNC, q("EXECUTE s(1)"), ask("EXECUTE s(2)"), SYNC),
        step(q("EXECUTE s(3)"), q("DEALLOCATE s"), q("EXECUTE s(4)")),
    ),
    talk(
        "PREPARE and Bind in one write",
        step(q("PREPARE pp AS SELECT 1"), run("pp"), SYNC, close_statement("pp"), SYNC, run("pp"), SYNC),
    ),
    talk(
        "two groups that use a statement on a new upstream",
        step(ONE, SYNC),
        step(run("s", "1"), SYNC, run("s", "2"), SYNC, describe_statement("s"), SYNC),
        step(run("s", "1"), run("s", "2"), SYNC),
    ),
    talk(
        "a statement whose first Bind on a new upstream fails",
        step(ONE, SYNC),
        step(run("s", "x"), SYNC, run("s", "2"), SYNC),
        step(run("s", "x"), run("s", "3"), SYNC),
        step(run("s", "4"), SYNC),
    ),
    talk(
        "a statement whose first Bind on a new upstream is skipped",
        step(ONE, SYNC),
        step(ask("SELECT 1/0"), run("s", "1"), SYNC, run("s", "2"), SYNC),
        step(ask("SELECT 1/0"), run("s", "1"), SYNC),
        step(run("s", "3"), SYNC),
    ),
    talk(
        "a statement whose first Bind on a new upstream stands behind a refusal",
        step(ONE, SYNC),
        step(parse_refused("", "DELETE FROM orders"), run("s", "1"), SYNC, run("s", "2"), SYNC),
        step(refused("DELETE FROM orders"), run("s", "3"), SYNC),
    ),
    talk(
        "several statements on a new upstream with an error between them",
        step(ONE, parse("t", "SELECT 't'"), parse("u", "SELECT 1 / $1::int"), SYNC),
        step(run("t"), run("u", "0"), run("s", "1"), SYNC, run("s", "2"), run("u", "1"), run("t"), SYNC),
        step(run("s", "1"), SYNC, run("u", "0"), run("t"), SYNC, run("t"), SYNC),
    ),
    talk(
        "Describe and Close and Parse of one name on a new upstream",
        step(ONE, SYNC),
        step(describe_statement("s"), close_statement("s"), parse("s", "SELECT 'new'"), run("s"), SYNC),
        step(run("s"), close_statement("s"), run("s"), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "Close on a new upstream that never had the statement",
        step(ONE, SYNC),
        step(close_statement("s"), SYNC, close_statement("s"), SYNC),
        step(run("s", "1"), SYNC),
    ),
    talk(
        "a statement on a new upstream with a Flush after each message",
        step(ONE, SYNC),
        flushed("2", b("s", "1"), FLUSHED),
        flushed("DC", e(), FLUSHED),
        flushed("tT", describe_statement("s"), FLUSHED),
        step(run("s", "2"), SYNC),
        flushed("E", b("s", "x"), FLUSHED),
        step(SYNC),
        step(run("s", "3"), SYNC),
    ),
    talk(
        "a statement on a new upstream in a failed transaction",
        step(ONE, SYNC),
        simple("BEGIN", "SELECT 1/0"),
        step(run("s", "1"), SYNC),
        step(describe_statement("s"), SYNC),
        step(close_statement("s"), SYNC),
        simple("ROLLBACK"),
        step(run("s", "1"), SYNC),
    ),
    talk(
        "a Query behind an error, with settings in front of the group",
        step(ask("CLOSE nope"), q("  ;"), ask("SELECT 1"), SYNC, ready=1),
        step(ask("SELECT 2"), SYNC),
        step(ask("CLOSE nope"), q("SELECT 3"), SYNC, ask("SELECT 4"), SYNC, ready=2),
        step(ask("SELECT 5"), SYNC),
        DateStyle="German",
    ),
    talk(
        "Describe of a statement without rows on a new upstream in a failed transaction",
        step(parse("set", "SET jit TO off"), parse("show", "SHOW datestyle"), SYNC),
        step(q("BEGIN"), q("SELECT 1/0")),
        step(
            describe_statement("set"),
            run("set"),
            SYNC,
            describe_statement("set"),
            SYNC,
            describe_statement("show"),
            SYNC,
        ),
        step(run("set"), SYNC),
        simple("ROLLBACK"),
        step(run("set"), SYNC),
        step(q("BEGIN"), refused("DELETE FROM orders"), describe_statement("set"), SYNC, q("ROLLBACK")),
        step(describe_statement("set"), run("set"), SYNC),
    ),
    talk(
        "Bind with a wrong count of values on a new upstream in a failed transaction",
        step(parse("s", "SELECT $1::int + 4711"), parse("none", "SET jit TO off"), SYNC),
        step(q("BEGIN"), q("SELECT 1/0")),
        step(b("s"), e(), SYNC, b("s", "1", "2"), SYNC, b("s", "1"), SYNC, b("none", "1"), SYNC),
        step(describe_statement("none"), b("none", "1"), SYNC, describe_statement("none"), b("none"), SYNC),
        simple("ROLLBACK"),
        step(q("BEGIN"), q("SELECT 1/0"), b("s"), SYNC, b("s", "1"), SYNC, q("ROLLBACK"), run("s", "1"), SYNC),
        step(run("s", "1"), SYNC),
    ),
    talk(
        "named ROLLBACK and COMMIT on a new upstream in a failed transaction",
        step(parse("rollback", "ROLLBACK"), parse("commit", "COMMIT"), parse("to", "ROLLBACK TO a"), SYNC),
        simple("BEGIN", "SAVEPOINT a", "SELECT 1/0"),
        step(describe_statement("rollback"), SYNC),
        step(run("to"), SYNC),
        simple("SELECT 1/0"),
        step(run("commit"), SYNC),
        simple("BEGIN", "SELECT 1/0"),
        step(run("rollback"), SYNC),
        simple("BEGIN"),
        step(refused("DELETE FROM orders")),
        step(describe_statement("commit"), SYNC),
        step(run("commit"), SYNC),
    ),
    talk(
        "an empty statement on a new upstream in a failed transaction",
        step(parse("empty", ""), SYNC),
        simple("BEGIN", "SELECT 1/0"),
        step(run("empty"), SYNC),
        simple("ROLLBACK"),
        step(run("empty"), SYNC),
    ),
    talk(
        "a statement on a new upstream right after BEGIN in one write",
        step(ONE, SYNC),
        step(q("BEGIN"), run("s", "1"), SYNC, run("s", "2"), SYNC, q("COMMIT")),
        step(ask("BEGIN"), run("s", "1"), ask("COMMIT"), SYNC),
        step(q("BEGIN"), run("s", "x"), SYNC, q("COMMIT"), run("s", "3"), SYNC),
    ),
    talk(
        "BEGIN ISOLATION LEVEL by Parse in the batch of a statement on a new upstream",
        step(ONE, SYNC),
        step(ask("BEGIN ISOLATION LEVEL SERIALIZABLE"), run("s", "1"), SYNC),
        step(ask("SHOW transaction_isolation"), ask("COMMIT"), SYNC),
        step(q("BEGIN"), ask("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"), run("s", "1"), SYNC),
        simple("COMMIT"),
    ),
    talk(
        "a statement on a new upstream in front of SET TRANSACTION",
        step(parse("set", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"), SYNC),
        simple("BEGIN"),
        step(run("set"), SYNC),
        simple("SHOW transaction_isolation", "COMMIT"),
        step(ask("BEGIN"), run("set"), ask("SHOW transaction_isolation"), ask("COMMIT"), SYNC),
    ),
)

SETTINGS = (
    talk(
        "SET and Parse in one write",
        step(q("SET datestyle TO 'ISO, DMY'"), dmy("s"), SYNC),
        step(q("RESET datestyle")),
        step(run("s"), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "SETs and Parses by turns in one write",
        step(
            q("SET datestyle TO 'ISO, DMY'"),
            dmy("s"),
            SYNC,
            q("SET datestyle TO 'ISO, YMD'"),
            dmy("t"),
            SYNC,
            ask("SET datestyle TO 'ISO, MDY'"),
            dmy("u"),
            SYNC,
        ),
        step(run("s"), run("u"), SYNC),
        step(run("u"), run("s"), SYNC),
    ),
    talk(
        "SET that fails and Parse in one write",
        step(
            q("SET datestyle TO 'ISO, DMY'; SELECT 1/0"),
            dmy("s"),
            SYNC,
            ask("SET datestyle TO 'ISO, DMY'"),
            ask("SELECT 1/0"),
            SYNC,
            dmy("t"),
            SYNC,
        ),
        step(run("s"), run("t"), SYNC),
        step(run("t"), run("s"), SYNC),
    ),
    talk(
        "set_config and Parse in one group",
        step(ask("SELECT set_config('datestyle', 'ISO, DMY', false)"), dmy("s"), SYNC),
        step(q("RESET datestyle")),
        step(run("s"), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "set_config of an implicit transaction and Parse in one group",
        step(ask("SELECT set_config('datestyle', 'ISO, DMY', true)"), dmy("s"), SYNC),
        step(run("s"), SYNC),
        step(run("s"), SYNC),
        step(q("SHOW datestyle")),
    ),
    talk(
        "a transaction with SET LOCAL and Parse in one write",
        step(q("BEGIN"), q("SET LOCAL datestyle TO 'ISO, DMY'"), dmy("s"), SYNC, q("COMMIT")),
        step(run("s"), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "a transaction with SET and Parse and ROLLBACK in one write",
        step(q("BEGIN"), q("SET datestyle TO 'ISO, DMY'"), dmy("s"), SYNC, q("ROLLBACK"), dmy("t"), SYNC),
        step(run("s"), run("t"), SYNC),
        step(run("t"), run("s"), SYNC),
    ),
    talk(
        "SET LOCAL and Parse in one group",
        step(ask("BEGIN"), ask("SET LOCAL datestyle TO 'ISO, DMY'"), dmy("s"), ask("COMMIT"), dmy("t"), SYNC),
        step(run("s"), run("t"), SYNC),
        step(run("t"), run("s"), SYNC),
    ),
    talk(
        "SET behind a savepoint and Parse and ROLLBACK TO",
        simple("BEGIN", "SAVEPOINT a", "SET datestyle TO 'ISO, DMY'"),
        step(dmy("s"), SYNC),
        simple("ROLLBACK TO a"),
        step(dmy("t"), SYNC),
        simple("COMMIT"),
        step(run("s"), run("t"), SYNC),
        step(run("t"), run("s"), SYNC),
    ),
    talk(
        "set_config in a transaction and Parse",
        simple("BEGIN", "SELECT set_config('datestyle', 'ISO, DMY', true)"),
        step(dmy("s"), describe_statement("s"), SYNC),
        simple("COMMIT"),
        step(run("s"), SYNC),
        step(run("s"), SYNC),
    ),
    talk(
        "a statement of before used under SET LOCAL on a new upstream",
        step(dmy("s"), SYNC),
        simple("BEGIN", "SET LOCAL datestyle TO 'ISO, DMY'"),
        step(run("s"), SYNC),
        step(dmy("t"), run("t"), SYNC),
        simple("COMMIT"),
        step(run("s"), run("t"), SYNC),
    ),
    talk(
        "a statement of before used behind SET LOCAL in one group on a new upstream",
        step(dmy("s"), SYNC),
        step(
            ask("BEGIN"),
            ask("SET LOCAL datestyle TO 'German, DMY'"),
            run("s"),
            ask("SHOW datestyle"),
            ask("COMMIT"),
            SYNC,
        ),
        step(ask("BEGIN"), ask("SET LOCAL datestyle TO 'German, DMY'"), SYNC, run("s"), SYNC, ask("COMMIT"), SYNC),
    ),
    talk(
        "a statement of before used behind SET in one write on a new upstream",
        step(dmy("s"), SYNC),
        step(q("SET datestyle TO 'German, DMY'"), run("s"), SYNC, q("SHOW datestyle")),
        step(q("SET datestyle TO 'ISO, DMY'"), run("s"), dmy("t"), run("t"), SYNC),
        step(run("t"), run("s"), SYNC),
    ),
    talk(
        "RESET and Parse in one write with a start-up setting",
        step(q("SET datestyle TO 'ISO, MDY'"), dmy("s"), SYNC),
        step(q("RESET datestyle"), dmy("t"), run("t"), SYNC),
        step(run("s"), run("t"), SYNC),
        step(run("t"), run("s"), SYNC),
        DateStyle="ISO, DMY",
    ),
    talk(
        "DISCARD ALL and Parse in one write with a start-up setting",
        step(q("SET datestyle TO 'ISO, MDY'"), dmy("s"), SYNC),
        step(q("DISCARD ALL"), dmy("t"), run("t"), SYNC),
        step(run("t"), SYNC),
        step(run("t"), SYNC),
        DateStyle="ISO, DMY",
    ),
    talk(
        "DISCARD ALL and SET LOCAL TO DEFAULT in a group that fails, with a start-up setting",
        step(ask("DISCARD ALL"), ask("SET LOCAL datestyle TO DEFAULT"), ask("SELECT 1/0"), SYNC),
        step(q("SET datestyle TO mdy")),
        step(ask("DISCARD ALL"), ask("SET LOCAL datestyle TO DEFAULT"), ask("SELECT 1/0"), SYNC),
        step(q("SHOW datestyle")),
        step(q("RESET datestyle; SET LOCAL datestyle TO DEFAULT; SHOW datestyle")),
        step(q("SHOW datestyle")),
        DateStyle="German, YMD",
    ),
    talk(
        "DISCARD ALL in a group that fails, and another group in the same write, with a start-up setting",
        step(q("SET datestyle TO 'ISO, MDY'"), SYNC),
        step(ask("DISCARD ALL"), ask("EXECUTE p"), SYNC, ask("SHOW datestyle"), SYNC),
        step(ask("SHOW datestyle"), SYNC),
        step(ask("DISCARD ALL"), ask("SELECT 1/0"), SYNC, q("SHOW datestyle"), ask("SHOW datestyle"), SYNC),
        step(parse("s", "SHOW datestyle"), SYNC),
        step(ask("DISCARD ALL"), parse("s", "SHOW datestyle"), ask("SELECT nope"), SYNC, run("s"), SYNC),
        step(run("s"), SYNC, ask("SELECT 1/0"), SYNC, run("s"), SYNC),
        DateStyle="ISO, DMY",
    ),
    talk(
        "DISCARD ALL and a query in one write with a start-up setting",
        step(q("SET datestyle TO 'ISO, MDY'"), SYNC),
        step(q("DISCARD ALL"), ask(DAY), SYNC, q("SHOW datestyle")),
        step(ask(DAY), SYNC),
        DateStyle="ISO, DMY",
    ),
    talk(
        "the unnamed statement of a group that fails, used by the next one in the same write",
        step(parse("", "SELECT 'kept'"), run(), SYNC),
        step(parse("x", "SELECT nope"), parse("", "SELECT 'never parsed'"), SYNC, run(), SYNC),
        step(run(), SYNC),
        step(parse("", "SELECT 'kept'"), run(), SYNC),
        step(parse("x", "SELECT nope"), b(), e(), SYNC, run(), SYNC, run(), SYNC),
        step(
            parse("x", "SELECT nope"), parse("", "SELECT 'never'"), SYNC, parse("s", "SELECT 5"), run("s"), run(), SYNC
        ),
        step(run(), SYNC),
    ),
    talk(
        "no unnamed statement, in a group behind one that fails",
        step(q("SELECT 1")),
        step(parse("x", "SELECT nope"), parse("", "SELECT 'never parsed'"), SYNC, run(), SYNC),
        step(parse("x", "SELECT nope"), q("SELECT 1"), SYNC, run(), SYNC, ready=2),
    ),
    talk(
        "the unnamed statement parsed behind SET in one write",
        step(q("SET datestyle TO 'ISO, DMY'"), parse("", DAY), SYNC),
        step(parse("r", "RESET datestyle"), run("r"), SYNC),
        step(run(), SYNC),
        step(run(), SYNC),
    ),
    talk(
        "the unnamed statement parsed under SET LOCAL",
        step(ask("BEGIN", name="b"), ask("SET LOCAL datestyle TO 'ISO, DMY'", name="l"), SYNC),
        step(parse("", DAY), SYNC),
        step(ask("COMMIT", name="c"), SYNC),
        step(run(), SYNC),
        step(run(), SYNC),
    ),
    talk(
        "a named SET and a named statement in one group",
        step(parse("set", "SET datestyle TO 'ISO, DMY'"), SYNC),
        step(run("set"), dmy("s"), SYNC),
        step(q("RESET datestyle")),
        step(run("s"), SYNC),
        step(run("set"), SYNC, dmy("t"), SYNC, q("RESET datestyle")),
        step(run("t"), run("s"), SYNC),
    ),
)

TALKS = (*STATEMENTS, *SETTINGS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", TALKS, ids=str)
def test_unanswered(played: Talk, way: Way, same: Callable[[Talk, Way], None]) -> None:
    same(played, way)


# --- client_encoding -------------------------------------------------------------------------------------------------


def latin(text: str, name: str = "") -> tuple[Message, ...]:
    """Return what runs a text in LATIN1, without its Sync."""
    encoded = text.encode("latin-1")
    return raw(f"Parse {name!r} {encoded!r}", p.parse(name.encode(), encoded)), *run(name)


LETTERS = "SELECT 'é' AS \"ä\", length('éä')"
LATIN1, UTF8 = ask("SET client_encoding TO latin1"), ask("SET NAMES 'UTF8'")
ENCODINGS = (
    talk(
        "letters in the encoding that is set ahead of them in one write",
        step(LATIN1, SYNC, latin(LETTERS), SYNC, q("SHOW client_encoding")),
        step(q("SET client_encoding TO utf8"), ask(LETTERS), SYNC, LATIN1, SYNC, latin(LETTERS), SYNC),
    ),
    talk(
        "letters in the encoding that is set in their own group",
        step(LATIN1, latin(LETTERS), latin("SELECT 'ü'", "named"), ask("SET datestyle TO German"), SYNC),
        step(run("named"), UTF8, ask(LETTERS), run("named"), SYNC),
        step(LATIN1, run("named"), latin(LETTERS), UTF8, ask(LETTERS), run("named"), SYNC, q(LETTERS)),
        step(run("named"), SYNC),
    ),
    talk(
        "letters in an encoding that is set in a group that fails",
        step(LATIN1, latin(LETTERS), ask("SELECT 1/0"), SYNC, ask(LETTERS), SYNC),
    ),
    talk(
        "letters in an encoding that is set in a transaction",
        step(q("BEGIN"), q("SELECT 1"), holds=True),
        step(LATIN1, latin(LETTERS), SYNC, latin(LETTERS), latin("SELECT 'ö'"), SYNC, holds=True),
        step(q("SAVEPOINT s"), UTF8, ask(LETTERS), SYNC, q("ROLLBACK TO s"), latin(LETTERS), SYNC, holds=True),
        step(q("ROLLBACK"), ask(LETTERS), SYNC),
        step(q("BEGIN"), ask("SET LOCAL client_encoding TO latin1"), latin(LETTERS), SYNC, q("COMMIT")),
        step(ask("SET LOCAL client_encoding TO latin1"), latin(LETTERS), SYNC, ask(LETTERS), SYNC),
    ),
    talk(
        "a Query with letters in the group in which their encoding is set",
        step(LATIN1, raw("Query in LATIN1", p.query(LETTERS.encode("latin-1"))), latin(LETTERS), SYNC, ready=2),
    ),
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("played", ENCODINGS, ids=str)
def test_letters_in_an_encoding_that_has_just_been_set(
    played: Talk, way: Way, same: Callable[[Talk, Way], None]
) -> None:
    same(played, way)

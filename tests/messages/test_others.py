"""Several clients over one upstream: what one does changes nothing of what another is answered, nor of its own.

A scene is played with a private connection to PostgreSQL for each client, and through SideCart over a single upstream.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from proxy import protocol as p
from proxy.demo.embedded import EmbeddedServer
from proxy.demo.shop import READER
from tests.messages.conftest import Fleet
from tests.messages.conversation import (
    PATIENCE,
    SYNC,
    Admin,
    Answer,
    Message,
    Step,
    b,
    close_portal,
    close_statement,
    describe_portal,
    describe_statement,
    e,
    parse,
    q,
    read,
    shown,
    step,
)
from tests.wire import FLUSH, Wire

LISTED = "select name, statement from pg_prepared_statements order by 1"


@dataclass(frozen=True)
class Scene:
    """Hold who says what, in this order; each waits for its answer."""

    shows: str
    lines: tuple[tuple[str, Step], ...]
    settings: dict[str, dict[str, str]]
    """The start-up parameters of those who have any."""

    def __str__(self) -> str:
        return self.shows.replace(" ", "_")


def scene(shows: str, *lines: tuple[str, Step | str], **settings: dict[str, str]) -> Scene:
    """Return a scene; a line that is a text is sent as a Query."""
    made = tuple((who, step(q(said)) if isinstance(said, str) else said) for who, said in lines)
    return Scene(shows, made, settings)


def run(text: str, name: str = "") -> tuple[Message, ...]:
    """Return Parse, Bind and Execute of the unnamed portal."""
    return parse(name, text), b(name), e()


def play(port: int, played: Scene, *, direct: bool) -> list[Answer]:
    answers = []
    with ExitStack() as stack:
        wires: dict[str, Wire] = {}
        for who, _ in played.lines:
            if who not in wires:
                parameters = {"user": READER, **played.settings.get(who, {})}
                wires[who] = stack.enter_context(Wire(port, login=True, **parameters))
                wires[who].sock.settimeout(PATIENCE)
        for who, said in played.lines:
            wires[who].send(b"".join(each.direct if direct else each.data for each in said.messages))
            answers.append(read(wires[who], said))
    return answers


SCENES = (
    # --- the unnamed statement -----------------------------------------------------------------------------------
    scene(
        "a SET that the failed group before did not replace is the one that a Bind of the same write runs",
        ("A", step(parse("", "set search_path to elsewhere"), SYNC)),
        ("A", step(parse("x", "select nope"), parse("", "select 1"), SYNC, b(), e(), SYNC)),
        ("A", "show search_path"),
        ("B", "show search_path"),
    ),
    scene(
        "a custom SET that the failed group before did not replace is the one that a Bind of the same write runs",
        ("A", step(parse("", "set app.secret to 'x'"), SYNC)),
        ("A", step(parse("x", "select nope"), parse("", "select 1"), SYNC, b(), e(), SYNC)),
        ("B", "select current_setting('app.secret', true)"),
    ),
    scene(
        "a SET that a failed group did not close is the one that a Bind of the same write runs",
        ("A", step(parse("", "set search_path to elsewhere"), SYNC)),
        ("A", step(b("nope"), close_statement(""), SYNC, b(), e(), SYNC)),
        ("B", "show search_path"),
    ),
    scene(
        "a SET that an ignored Query did not end is the one that a Bind of the same write runs",
        ("A", step(parse("", "set search_path to elsewhere"), SYNC)),
        ("A", step(b("nope"), q("select 1"), SYNC, b(), e(), SYNC, ready=2)),
        ("B", "show search_path"),
    ),
    scene(
        "a SET is described in the group behind one that failed",
        ("A", step(parse("", "set search_path to elsewhere"), SYNC)),
        ("A", step(parse("x", "select nope"), parse("", "select 1"), SYNC, describe_statement(), b(), e(), SYNC)),
        ("B", "show search_path"),
    ),
    scene(
        "an EXECUTE of a SET that the failed group before did not replace",
        ("A", step(parse("", "set search_path to elsewhere"), SYNC)),
        ("A", step(parse("x", "select nope"), parse("", "select 1"), b(portal="p"), SYNC, b(portal="p"), e("p"), SYNC)),
        ("B", "show search_path"),
    ),
    # --- settings ------------------------------------------------------------------------------------------------
    scene(
        "a SET prepared beside a statement of SQL",
        ("A", "prepare q1 as select 11"),
        ("A", step(run("set search_path to elsewhere", "s"), SYNC)),
        ("A", "deallocate all"),
        ("A", "show search_path"),
        ("B", "show search_path"),
    ),
    scene(
        "a SET that SQL has prepared and the protocol executes",
        ("A", "prepare q1 as select set_config('search_path', 'elsewhere', false)"),
        ("A", step(b("q1"), e(), SYNC)),
        ("A", "deallocate all"),
        ("A", "show search_path"),
        ("B", "show search_path"),
    ),
    scene(
        "a SET prepared in the group of a PREPARE",
        ("A", step(run("prepare q1 as select 11"), run("set search_path to elsewhere", "s"), SYNC)),
        ("A", "deallocate all"),
        ("B", "show search_path"),
    ),
    scene(
        "a setting of a portal that SQL fetches",
        ("A", "begin"),
        ("A", step(parse("s", "select set_config('search_path', 'elsewhere', false)"), b("s", portal="p1"), SYNC)),
        ("A", "fetch all from p1"),
        ("A", "commit"),
        ("A", "show search_path"),
        ("B", "show search_path"),
    ),
    scene(
        "a setting of an unnamed statement's portal that SQL fetches",
        ("A", "begin"),
        ("A", step(parse("", "select set_config('datestyle', 'German', false)"), b("", portal="p1"), SYNC)),
        ("A", "fetch all from p1"),
        ("A", "commit"),
        ("B", "show datestyle"),
    ),
    scene(
        "a statement of the protocol outlives what SQL has prepared",
        ("A", "prepare q1 as select 11"),
        ("A", step(run("select 'mine'", "s"), SYNC)),
        ("A", "deallocate q1"),
        ("B", step(run("select 'another''s'", "s"), SYNC)),
        ("A", step(b("s"), e(), SYNC)),
        ("A", "execute s"),
        ("B", "execute s"),
        ("A", LISTED),
        ("B", LISTED),
    ),
    scene(
        "a name that SQL has taken is taken for the protocol too",
        ("A", "prepare q1 as select 11"),
        ("A", step(run("select 'mine'", "q1"), SYNC)),
        ("A", step(parse("s", "select 1"), SYNC, parse("s", "select 2"), SYNC)),
        ("A", "prepare s as select 3"),
        ("A", "execute s"),
        ("A", "deallocate s"),
        ("A", step(run("select 4", "s"), SYNC)),
        ("A", "execute s"),
        ("A", "deallocate all"),
        ("B", LISTED),
        ("A", LISTED),
    ),
    # --- settings that functions set -------------------------------------------------------------------------------
    *(
        scene(
            f"a literal that {what} has shaped",
            ("A", "begin"),
            ("A", step(run(f"select length({what})") if "(" in what else run("select count(*) from dated"), SYNC)),
            ("A", step(run("select ('01/02/2020'::date)::text, '2020-01-02 00:00'::timestamptz::text", "s"), SYNC)),
            ("A", "commit"),
            ("B", step(run("select ('01/02/2020'::date)::text, '2020-01-02 00:00'::timestamptz::text", "s"), SYNC)),
            ("A", step(b("s"), e(), SYNC)),
            ("A", "show datestyle"),
        )
        for what in ("dmy()", "dmy_by_another()", "tokyo()", "a view")
    ),
    *(
        scene(
            f"a custom setting that {what} has set",
            ("B", f"select current_setting('{name}', true)"),
            ("A", step(run(f"select {what}"), SYNC)),
            ("A", f"select current_setting('{name}', true)"),
            ("B", f"select current_setting('{name}', true)"),
            ("A", f"select {what}, current_setting('{name}', true)"),
            ("B", f"select current_setting('{name}', true)"),
        )
        for what, name in (("tenant()", "app.inside"), ("worn()", "app.worn"))
    ),
    # --- statements ----------------------------------------------------------------------------------------------
    scene(
        "a list of statements that is run by EXECUTE",
        ("A", step(parse("l", "select statement from pg_prepared_statements"), SYNC)),
        ("B", step(parse("sec", "select 'secret'"), SYNC)),
        ("A", "execute l"),
        ("A", "explain (analyze, costs off, timing off, summary off) execute l"),
        ("A", step(b("l"), e(), SYNC)),
    ),
    scene(
        "a list of statements that SQL has prepared",
        ("B", step(parse("sec", "select 'secret'"), SYNC)),
        ("A", "prepare l as select statement from pg_prepared_statements"),
        ("A", "execute l"),
        ("A", step(b("l"), e(), SYNC)),
    ),
    scene(
        "a list of statements that a cursor gives",
        ("A", step(parse("l", "select statement from pg_prepared_statements"), SYNC)),
        ("B", step(parse("sec", "select 'secret'"), SYNC)),
        ("A", "begin; declare c cursor for select statement from pg_prepared_statements"),
        ("A", "fetch all from c"),
        ("A", "commit"),
        ("A", "begin"),
        ("A", step(b("l", portal="p1"), SYNC)),
        ("A", "fetch all from p1"),
        ("A", "commit"),
    ),
    scene(
        "a name that an EXECUTE behind an error has left",
        ("A", step(parse("x", "select 1"), SYNC)),
        ("A", step(run("deallocate x"), parse("x", "select 2"), e(), SYNC)),
        ("A", "execute x"),
        ("B", LISTED),
        ("B", step(parse("x", "select 7"), SYNC)),
        ("B", "execute x"),
        ("A", "execute x"),
    ),
    scene(
        "a name that a DEALLOCATE has freed goes to SQL",
        ("A", step(parse("x", "select 1"), SYNC)),
        ("A", step(run("deallocate x"), run("prepare x as select 2"), SYNC)),
        ("A", "execute x"),
        ("A", step(parse("y", "select 3"), SYNC)),
        ("A", "deallocate y"),
        ("A", "execute x"),
        ("A", "deallocate x"),
        ("B", LISTED),
    ),
    # --- answers -------------------------------------------------------------------------------------------------
    scene(
        "a Query behind an error is ignored though it needs a name",
        ("A", step(parse("s1", "select 1"), SYNC)),
        (
            "A",
            step(
                parse("", "select nope"),
                q("set timezone to 'Asia/Tokyo'; select name from pg_prepared_statements"),
                SYNC,
                ready=1,
            ),
        ),
        ("A", "show timezone"),
        ("B", "show timezone"),
    ),
    scene(
        "a Query behind an error does not begin a transaction",
        ("A", step(parse("s1", "select 1"), SYNC)),
        ("A", step(parse("", "select nope"), q("execute s1; begin"), SYNC, ready=1)),
        ("A", "select 'here'"),
        ("B", "select 'there'"),
    ),
    scene(
        "a Query that needs a name undoes what its open group has set",
        ("A", step(parse("s1", "select 1"), SYNC)),
        ("A", step(run("set timezone to 'Asia/Tokyo'"), q("execute s1; select 1/0"), SYNC)),
        ("A", "show timezone"),
        ("A", step(run("set timezone to 'Asia/Tokyo'"), q("execute s1"), SYNC)),
        ("A", "show timezone"),
        ("A", step(run("select 2"), q("deallocate s1"), SYNC)),
        ("A", step(b("s1"), SYNC)),
        ("B", "show timezone"),
    ),
    scene(
        "a portal outlives the error of another Bind",
        ("A", "begin"),
        ("A", step(parse("", "select generate_series(1, 3)"), b(), SYNC)),
        ("A", step(e("", 1), SYNC)),
        ("A", step(b("nope"), SYNC)),
        ("A", step(e("", 1), SYNC)),
        ("A", "rollback"),
        ("A", step(e("", 1), SYNC)),
    ),
    # --- to oneself ----------------------------------------------------------------------------------------------
    scene(
        "an isolation level is set behind a setting that has been reset",
        ("A", "set timezone to default; start transaction isolation level repeatable read"),
        ("A", "show timezone"),
        ("A", "rollback"),
        ("A", "reset all; start transaction isolation level serializable"),
        ("A", "show timezone"),
        ("A", "rollback"),
        ("B", "show timezone"),
        A={"TimeZone": "Asia/Tokyo", "search_path": "here, there", "DateStyle": "German"},
    ),
    scene(
        "a name is known behind the end of a failed transaction",
        ("A", step(parse("s1", "select 1"), SYNC)),
        ("A", "begin"),
        ("A", "select nope"),
        ("A", "rollback; execute s1"),
        ("A", "begin"),
        ("A", "select nope"),
        ("A", "rollback; prepare s1 as select 2"),
        ("A", "begin"),
        ("A", "select nope"),
        ("A", "rollback; select 'é', nope; execute s1"),
        ("A", "begin"),
        ("A", "select nope"),
        ("A", "commit; set datestyle to german; execute s1; select nope"),
        ("A", "begin"),
        ("A", "select nope"),
        ("A", "rollback; deallocate s1"),
        ("A", "select 'done'"),
    ),
    scene(
        "a setting that a null has reset",
        ("A", "select set_config('timezone', null, false)"),
        ("A", "show timezone"),
        ("A", "set timezone to 'Europe/Paris'"),
        ("A", step(run("select set_config('TimeZone', NULL, false), set_config('datestyle', null, true)", "s"), SYNC)),
        ("A", step(run("show timezone"), SYNC)),
        ("B", "show timezone"),
        A={"TimeZone": "Asia/Tokyo"},
    ),
    scene(
        "a second DISCARD ALL in a group",
        ("A", step(run("discard all"), run("discard all"), SYNC)),
        ("A", "show timezone"),
        ("A", step(run("discard all"), run("show timezone"), run("select 1/0"), SYNC)),
        ("A", step(run("show timezone"), SYNC)),
        ("A", step(run("discard all"), q("show timezone"), run("show timezone"), SYNC)),
        ("A", step(run("discard all"), SYNC, run("show timezone"), SYNC)),
        ("B", "show timezone"),
        A={"TimeZone": "Asia/Tokyo"},
    ),
    scene(
        "an EXECUTE of nothing is another one's EXECUTE of something",
        ("B", step(parse("s", "execute t"), SYNC)),
        ("A", step(parse("t", "select 7"), parse("s", "execute t"), SYNC)),
        ("A", step(describe_statement("s"), SYNC)),
        ("B", step(describe_statement("s"), SYNC)),
    ),
    scene(
        "a FETCH is described in a failed transaction",
        ("A", step(parse("f", "fetch all from c"), SYNC)),
        ("A", "begin"),
        ("A", "select nope"),
        ("A", step(describe_statement("f"), SYNC)),
        ("A", "rollback"),
    ),
)


@pytest.mark.parametrize("played", SCENES, ids=str)
def test_each_client_is_answered_as_if_it_were_alone(played: Scene, private: EmbeddedServer, fleet: Fleet) -> None:
    expected = play(private.port, played, direct=True)
    found = play(fleet.get(1).port, played, direct=False)
    for number, (who, said) in enumerate(played.lines):
        if expected[number] != found[number]:
            fleet.kill(1)
            said_before = "\n".join(f"  {who}: {shown(said)}" for who, said in played.lines[: number + 1])
            pytest.fail(f"{said_before}\n  PostgreSQL: {expected[number]}\n  SideCart:   {found[number]}")


@pytest.mark.parametrize("before", [(), run("select 1")], ids=["never bound", "bound before"])
def test_portal_that_a_failed_Query_has_left_is_not_executed(  # noqa: N802
    before: tuple[Message, ...], fleet: Fleet, admin: Admin
) -> None:
    """PostgreSQL's own bug: exec_execute_message(), tcop/postgres.c, reads freed memory, and ends with SIGSEGV."""
    started = admin("select pg_postmaster_start_time(), pg_backend_pid()")
    groups = (step(*before, SYNC), step(q("select 1/(id - id) from orders")), step(b("n" * 5000), SYNC))
    for together in (False, True):
        with Wire(fleet.get(1).port, login=True, user=READER) as wire:
            assert wire.ask("begin; select 1") == "CTDCZ"
            asked = [b"".join(each.data for each in group.messages) for group in (*groups, step(e("", 1), SYNC))]
            for data in [b"".join(asked)] if together else asked:
                wire.send(data)
                answers = [wire.until_ready() for _ in range(len(asked) if together else 1)]
            assert (answers[-1], wire.error["C"], wire.status) == ("EZ", "34000", p.FAILED)
            assert wire.ask("rollback") == "CZ"
    assert admin("select pg_postmaster_start_time(), pg_backend_pid()") == started


CURSOR = (parse("select", "select generate_series(1, 9)"), b("select", portal="q"))
OF_Q, OF_P = parse("q", "fetch 5 from q"), parse("p", "fetch 1 from p")

ATTACKS = {
    "the cursor of a statement is closed": (*CURSOR, OF_Q, close_portal("q"), describe_statement("q")),
    "the cursor of the unnamed statement is closed": (
        *CURSOR,
        parse("", "fetch 1 from q"),
        close_portal("q"),
        describe_statement(),
    ),
    "the cursor of a portal is closed": (*CURSOR, OF_Q, b("q"), close_portal("q"), describe_portal()),
    "the cursor is closed, in SQL": (
        *run("declare c cursor for select 1"),
        parse("c", "fetch 1 from c"),
        *run("close c"),
        describe_statement("c"),
    ),
    "an EXECUTE of it": (*CURSOR, OF_Q, close_portal("q"), parse("x", "execute q"), describe_statement("x")),
    "an EXECUTE of it, bound": (*CURSOR, OF_Q, parse("x", "execute q"), b("x"), close_portal("q"), describe_portal()),
    "an EXECUTE that is parsed behind its end": (*CURSOR, OF_Q, SYNC, parse("x", "execute q"), SYNC),
    "a circle": (*CURSOR, OF_Q, b("q", portal="p"), close_portal("q"), OF_P, b("p", portal="q"), describe_portal("q")),
    "a circle of an EXECUTE": (
        parse("select", "select 1"),
        b("select", portal="p"),
        OF_P,
        close_portal("p"),
        parse("x", "execute p"),
        b("x", portal="p"),
        describe_portal("p"),
    ),
    "a Query": (*CURSOR, OF_Q, b("q", portal="p"), e("p", 1), close_portal("q"), SYNC, q("fetch 1 from p")),
    "a Query of more than that": (
        *CURSOR,
        OF_Q,
        b("q", portal="p"),
        e("p", 1),
        SYNC,
        q("close q; fetch 1 from p"),
    ),
    "a Query that executes it": (
        *CURSOR,
        OF_Q,
        b("q", portal="p"),
        OF_P,
        e("p", 1),
        close_portal("q"),
        SYNC,
        q("execute p"),
    ),
}


@pytest.mark.parametrize("transaction", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_rows_that_lead_to_a_cursor_that_is_gone_end_the_server(
    name: str, transaction: bool, fleet: Fleet, admin: Admin
) -> None:
    """PostgreSQL's own bug: FetchStatementTargetList(), tcop/pquery.c, does not look whether a cursor is there."""
    started = admin("select pg_postmaster_start_time(), pg_backend_pid()")
    for together in (False, True):
        with Wire(fleet.get(1).port, login=True, user=READER) as wire:
            if transaction:
                assert wire.ask("begin; select 1") == "CTDCZ"
            messages = [*ATTACKS[name], SYNC]
            if together:
                wire.send(b"".join(each.data for each in messages))
            else:
                for each in messages:
                    wire.send(each.data + FLUSH)
            while wire.until_ready().endswith("Z") and wire.status != p.IDLE:
                wire.send(p.query(b"rollback"))
        with Wire(fleet.get(1).port, login=True, user=READER) as wire:
            assert wire.ask("select 'all is well'") == "TDCZ"
    assert admin("select pg_postmaster_start_time(), pg_backend_pid()") == started


def test_client_that_leaves_while_we_ask_poisons_no_upstream(fleet: Fleet) -> None:
    """The cancel hits a statement of ours; what closes it is then ignored."""
    parameters = {"user": READER, "TimeZone": "Asia/Tokyo", "search_path": "here"}
    resets = b"".join(each.data for each in run("reset all"))
    for round_ in range(12):
        with Wire(fleet.get(1).port, login=True, **parameters) as leaver:
            leaver.send(resets * (50 + 40 * round_) + FLUSH)
            leaver.message()
        with Wire(fleet.get(1).port, login=True, **parameters) as wire:
            wire.send(resets + p.SYNC_MESSAGE)
            assert wire.until_ready().replace("S", "") == "12CZ", wire.error
            wire.send(b"".join(each.data for each in run("show timezone")) + p.SYNC_MESSAGE)
            assert wire.until_ready() == "12DCZ", wire.error
            assert b"Asia/Tokyo" in wire.last
            assert wire.ask("select name from pg_prepared_statements") == "TCZ"


@pytest.mark.parametrize("asked", ["select pg_sleep(0.05), 'answered'", "begin; select 'answered'"])
def test_Terminate_behind_what_was_asked_comes_after_its_answer(asked: str, fleet: Fleet) -> None:  # noqa: N802
    query = p.query(asked.encode())
    extended = b"".join(each.data for each in run("select 'answered'"))
    for data in (query, query + extended + FLUSH, extended + p.SYNC_MESSAGE, extended + FLUSH):
        with Wire(fleet.get(1).port, login=True, user=READER) as wire:
            wire.send(data + p.TERMINATE_MESSAGE + p.query(b"select 'too late'"))
            wire.last = b""
            while wire.message()[0]:
                pass
            assert b"answered" in wire.last.rpartition(b"SELECT 1\0")[0][-60:], wire.last
            assert b"too late" not in wire.last
    with Wire(fleet.get(1).port, login=True, user=READER) as wire:
        assert wire.ask("select 'the upstream is free'") == "TDCZ"

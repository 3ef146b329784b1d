"""What is judged again: by a newer catalogue, at each use of what was prepared, with the values of a Bind."""

from __future__ import annotations

import struct

import pytest

from proxy import protocol as p
from proxy.filter import Filter
from proxy.sql.catalog import FUNCTION, TYPE, Callable, Catalog, Taint, Type
from tests.unit.session.scenes import LONG, UNKNOWN, newborn, prepare, reads_back
from tests.unit.session.town import (
    BOUND,
    EXECUTE,
    PARSED,
    PREPARED,
    READY_I,
    SELECTED,
    STAND_IN_FAILED,
    SYNC,
    FakeWire,
    Guest,
    Town,
    bind,
    group,
)


def test_unknown_name_waits_for_a_newer_catalogue_and_runs_if_it_is_there(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(UNKNOWN) + p.query(b"select 2"))
    assert session.judging
    assert client.take() == b""
    town.filter.learn_catalog(newborn("newborn"))
    town.judge.refreshed()
    assert town.link(session).take() == p.query(UNKNOWN) + p.query(b"select 2")
    assert not town.stats.refused


def test_parse_with_an_unknown_name_waits_and_the_rest_of_its_group_behind_it(town: Town) -> None:
    session, client = town.client()
    session.client_data(group(UNKNOWN))
    assert session.judging
    town.filter.learn_catalog(newborn("newborn"))
    town.judge.refreshed()
    assert town.link(session).take() == group(UNKNOWN)
    session.client_data(group(b"select stillborn(1)"))
    town.judge.refreshed()
    assert client.kinds() == ""
    town.link(session).says(PARSED, BOUND, p.message(p.NO_DATA), SELECTED, READY_I)
    assert client.kinds() == "12nCZ"


def test_name_that_is_younger_than_the_first_catalogue_waits_for_the_next(town: Town) -> None:
    """The first one was being read when the table was created: it does not say that there is none."""
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    town.filter.learn_catalog(newborn("another"))
    town.judge.refreshed(newer=False)
    assert session.judging
    assert client.take() == b""
    town.filter.learn_catalog(newborn("newborn"))
    town.judge.refreshed()
    assert town.link(session).take() == p.query(UNKNOWN)
    assert not town.stats.refused


@pytest.mark.parametrize("loaded", [True, False])
def test_unknown_name_waits_for_no_third_catalogue(town: Town, loaded: bool) -> None:
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    if loaded:
        town.filter.learn_catalog(newborn("another"))
        town.judge.refreshed(newer=False)
    town.judge.refreshed(newer=False)
    assert client.error()["C"] in ("42501", "42883")
    assert town.judge.refreshes == []


@pytest.mark.parametrize("newer", [True, False])
def test_relation_is_said_to_be_missing_as_the_server_says_it_by_a_newer_catalogue_alone(
    town: Town, newer: bool
) -> None:
    """Where the wait was in vain, nobody has looked: the answer tells so."""
    session, client = town.client()
    town.filter.learn_catalog(newborn("another"))
    session.client_data(p.query(b"select * from missing"))
    town.judge.refreshed(newer=newer)
    told = client.error()
    assert told["C"] == "42P01"
    assert ("D" in told, "H" in told) == (not newer, not newer)


def test_unknown_name_is_refused_when_the_newer_catalogue_does_not_have_it(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    town.judge.refreshed()
    assert client.error()["C"] in ("42501", "42883")
    assert not session.judging
    assert town.judge.refreshes == []
    assert town.stats.refused == {"unknown-function": 1}


def test_unknown_name_is_refused_at_once_when_no_newer_catalogue_can_be_had(town: Town) -> None:
    town.judge.refreshable = False
    session, client = town.client()
    session.client_data(p.query(UNKNOWN))
    assert client.kinds() == "EZ"


def test_attack_parameter_type_that_names_a_domain_by_its_oid(town: Town) -> None:
    """Bind would run the domain's CHECK; the text shows nothing of it."""
    taint = Taint("domain public.evildom", "it calls function public.chk(text)", "public.evildom")
    town.filter.learn_catalog(Catalog(taints={(TYPE, 16400): taint}, tainted_types=True))
    session, client = town.client()
    session.client_data(p.parse(b"", b"select $1", bytes.fromhex("0002 00000019 00004010")) + p.SYNC_MESSAGE)
    assert client.error()["D"].endswith("(rule: unproved-type).")
    session.client_data(p.parse(b"", b"select $1", bytes.fromhex("0001 00000019")) + p.SYNC_MESSAGE)
    assert town.link(session).take().startswith(b"P")


def test_attack_parameter_type_that_nobody_knows(town: Town) -> None:
    """A domain that was created a moment ago, or the row type of another session's temporary table."""
    town.filter.learn_catalog(Catalog(types={"fresh": (Type(16500, "public"),)}))
    session, client = town.client()
    unknown = p.parse(b"", b"select $1", bytes.fromhex("0002 00000019 00004010"))
    session.client_data(unknown + p.SYNC_MESSAGE)
    assert session.judging
    town.judge.refreshed()
    error = client.error()
    assert (error["C"], error["M"]) == ("42704", "type with OID 16400 does not exist")
    session.client_data(p.parse(b"", b"select $1", bytes.fromhex("0001 00004074")) + p.SYNC_MESSAGE)
    assert town.link(session).take().startswith(b"P")


def test_attack_parameter_of_type_void(town: Town) -> None:
    """ts_rewrite(query, text, void) is the function with two arguments, which runs the text."""
    session, client = town.client()
    text = b"select ts_rewrite('a'::tsquery, 'select 1', $1)"
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 000008e6")) + p.SYNC_MESSAGE)
    assert client.error()["D"].endswith("(rule: void-parameter).")
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 00000e1f")) + p.SYNC_MESSAGE)
    assert town.link(session).take().startswith(b"P")


def test_long_text_with_a_parameter_of_type_void_is_judged_as_such(town: Town) -> None:
    session, client = town.client()
    text = LONG + b" or ts_rewrite('a'::tsquery, 'select 1', $1) is null"
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 00000e1f")) + p.SYNC_MESSAGE)
    town.judge.answer(town.filter)
    town.link(session).take()
    town.link(session).says(PARSED, READY_I)
    client.take()
    session.client_data(p.parse(b"", text, bytes.fromhex("0001 000008e6")) + p.SYNC_MESSAGE)
    town.judge.answer(town.filter)
    assert client.error()["D"].endswith("(rule: void-parameter).")


MISSING = b"select * from nowhere"


@pytest.mark.parametrize(
    "sql",
    [
        MISSING,
        b"explain analyze select * from nowhere",
        b"copy (select * from nowhere) to stdout",
        b"copy nowhere to stdout",
        b"declare c cursor for select * from nowhere",
        b"prepare p as select * from nowhere",
        b"select set_config('search_path', 'elsewhere', false) from nowhere",
    ],
)
def test_attack_relation_that_the_server_knows_and_the_catalogue_does_not(town: Town, sql: bytes) -> None:
    """It may be a TOAST table, another session's temporary table, or a moment old: nothing of the text is forwarded."""
    town.filter.learn_catalog(newborn("other"))
    for send in (p.query, group):
        session, client = town.client()
        session.client_data(send(sql))
        assert session.judging
        town.judge.refreshed()
        error = client.error()
        assert (error["C"], error["M"]) == ("42P01", 'relation "nowhere" does not exist')
        assert not error.keys() & {"D", "H"}, "the server says no more"
        assert session.link is None


def test_attack_write_beside_a_missing_relation_is_refused_for_what_it_is(town: Town) -> None:
    town.filter.learn_catalog(newborn("other"))
    session, client = town.client()
    session.client_data(p.query(b"select 1 from nowhere right join (values (1)) v(x) on false where lo_create(0) > 0"))
    assert not session.judging
    assert client.error()["D"].endswith("(rule: side-effect-function).")


def test_relation_that_is_missing_makes_nobody_wait_when_no_newer_catalogue_can_be_had(town: Town) -> None:
    town.filter.learn_catalog(newborn("other"))
    town.judge.refreshable = False
    session, client = town.client()
    session.client_data(p.query(MISSING))
    error = client.error()
    assert error["P"] == "15"
    assert error["D"].endswith("(rule: unknown-relation).")
    assert error["H"] == "If it was created a moment ago, try again."


# --- a function is replaced while statements that call it are prepared ------------------------------------------------


def turned(judge: Filter) -> None:
    """Let `f`, which was a read, be a write from now on."""
    taint = Taint("function public.f(integer)", "its body executes INSERT", "public.f")
    functions = {"f": (Callable(20_000, "public", 1, 1),)}
    judge.learn_catalog(Catalog(functions=functions, taints={(FUNCTION, 20_000): taint}))


def prepares(town: Town, session: Guest, text: bytes, answer: bytes = PREPARED) -> None:
    """Let a client prepare a statement by SQL; the server says that it holds one."""
    session.client_data(p.query(text))
    if town.judge.asked:
        town.judge.answer(town.filter)
    upstream = town.link(session)
    upstream.says(answer, READY_I)
    reads_back(upstream, **{".prepared_statement": ""})
    upstream.take()


def with_prepared(town: Town, text: bytes = b"prepare q as select f(1)") -> tuple[Guest, FakeWire]:
    town.filter.learn_catalog(newborn("f"))
    session, client = town.client()
    prepares(town, session, text)
    client.take()
    return session, client


@pytest.mark.parametrize(
    "execute",
    [
        p.query(b"execute q"),
        p.query(b"select 1; execute q"),
        p.query(b"explain analyze execute q"),
        group(b"execute q"),
        bind(b"q") + p.execute(b"") + SYNC,
        p.target(p.DESCRIBE, b"S", b"q") + SYNC,
    ],
)
def test_attack_statement_prepared_by_sql_calls_a_function_that_was_replaced(town: Town, execute: bytes) -> None:
    session, client = with_prepared(town)
    session.client_data(execute)
    assert b"q\0" in town.link(session).take()
    town = Town()
    session, client = with_prepared(town)
    turned(town.filter)
    session.client_data(execute)
    sent = town.link(session).take()
    assert not sent or p.REFUSED_EXECUTE in sent
    if sent:
        no_data = p.message(p.NO_DATA)
        described = [p.message(p.PARAMETER_DESCRIPTION, b"\0\0"), no_data]
        messages = [PARSED, *described, BOUND] if sent[:1] == b"P" else []
        town.link(session).says(*messages, p.error_response("ERROR", "34000", "no"), READY_I)
    assert client.error()["D"].endswith("(rule: unproved-function).")


def test_attack_name_is_prepared_twice_and_may_stand_for_either(town: Town) -> None:
    """Whether the DEALLOCATE or the second PREPARE succeeds, nobody knows when it is sent."""
    session, client = with_prepared(town)
    prepares(town, session, b"prepare q as select 1", p.error_response("ERROR", "42P05", "exists"))
    client.take()
    turned(town.filter)
    session.client_data(p.query(b"execute q"))
    assert client.error()["D"].endswith("(rule: unproved-function).")


def test_attack_statement_of_the_protocol_is_executed_by_sql_after_its_function_was_replaced(town: Town) -> None:
    town.filter.learn_catalog(newborn("f"))
    session, client = town.client()
    prepare(town, session, b"s", b"select f(1)")
    client.take()
    turned(town.filter)
    for text in (b"execute s", b"explain analyze execute s"):
        session.client_data(p.query(text))
        assert client.error()["D"].endswith("(rule: unproved-function).")


def test_statement_prepared_by_sql_that_is_still_a_read_is_executed(town: Town) -> None:
    session, _ = with_prepared(town)
    town.filter.learn_catalog(newborn("other", "f"))
    for _ in range(2):
        session.client_data(p.query(b"execute q"))
        assert town.link(session).take() == p.query(b"execute q")
        town.link(session).says(SELECTED, READY_I)


def test_long_statements_prepared_by_sql_are_judged_again_elsewhere(town: Town) -> None:
    more = LONG.removeprefix(b"select 1")
    session, client = with_prepared(town, b"prepare q as select 1")
    for name in (b"long1", b"long2"):
        prepares(town, session, b"prepare " + name + b" as select f(1)" + more)
    client.take()
    town.filter.learn_catalog(newborn("other", "f"))
    session.client_data(p.query(b"execute long1; execute long2"))
    while town.judge.asked:
        town.judge.answer(town.filter)
    assert town.link(session).take() == p.query(b"execute long1; execute long2")
    town.link(session).says(SELECTED, SELECTED, READY_I)
    client.take()
    turned(town.filter)
    session.client_data(p.query(b"execute long1; execute long2"))
    town.judge.answer(town.filter)
    assert client.error()["D"].endswith("(rule: unproved-function).")


def test_too_many_statements_prepared_by_sql_are_not_kept(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.session.judging.MAX_KEPT", 1000)
    session, client = with_prepared(town)
    for number in range(5):
        prepares(town, session, b"prepare q%d as select 1" % number)
    client.take()
    session.client_data(p.query(b"execute q"))
    assert client.error()["C"] == "54000"


def test_write_is_refused_without_looking_at_a_newer_catalogue(town: Town) -> None:
    session, client = town.client()
    session.client_data(p.query(b"delete from t"))
    assert client.kinds() == "EZ"
    assert town.judge.refreshes == []


def test_long_text_with_an_unknown_name_is_judged_again_by_the_newer_catalogue_and_waits_once(town: Town) -> None:
    session, client = town.client()
    text = LONG + b" or newborn(1)"
    session.client_data(p.query(text))
    town.judge.answer(town.filter)
    assert len(town.judge.refreshes) == 1
    town.filter.learn_catalog(newborn("another"))
    town.judge.refreshed()
    town.judge.answer(town.filter)
    assert client.kinds() == "EZ"
    assert (town.judge.asked, town.judge.refreshes) == ([], [])


# --- the values of a Bind ---------------------------------------------------------------------------------------------


def test_attack_value_of_a_bind_that_is_named_in_the_log(town: Town) -> None:
    session, client = town.client()
    value = struct.pack("!i", 6) + b"secret"
    tail = struct.pack("!HH", 0, 2) + value * 2 + b"\0\0"
    session.client_data(p.parse(b"", b"select set_config($1, $2, false)") + bind(tail=tail) + EXECUTE + SYNC)
    if session.link is not None:
        town.link(session).says(PARSED, STAND_IN_FAILED, READY_I)
    assert "secret" in client.error()["M"]
    assert [event for event, _ in town.audit.events if event == "refused"] == ["refused"]
    assert "secret" not in str(town.audit.events)

"""In which letters the server reads a text that is sent behind a change of client_encoding."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from tests.unit.session.scenes import reads_back
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    CLOSED,
    DESCRIBED,
    EXECUTE,
    PARSED,
    READY_E,
    READY_I,
    READY_T,
    ROLLED_BACK,
    SELECTED,
    SET,
    STAND_IN_FAILED,
    SYNC,
    Town,
    bind,
    ran,
)

LATIN1 = p.parameter_status("client_encoding", "LATIN1")
BEYOND_ASCII = 'select "é"'.encode()


@pytest.mark.parametrize(
    ("change", "answers"),
    [
        (p.query(b"set client_encoding = latin1"), [SET]),
        (p.query(b"set names 'latin1'"), [SET]),
        (p.query(b"select set_config('client_encoding', 'latin1', false)"), [SELECTED]),
        (p.parse(b"", b"set client_encoding = latin1") + bind() + EXECUTE + SYNC, [PARSED, BOUND, SET]),
    ],
    ids=["set", "names", "set_config", "extended"],
)
@pytest.mark.parametrize("extended", [False, True], ids=["query", "parse"])
def test_attack_text_in_the_encoding_that_the_message_ahead_of_it_sets(
    town: Town, change: bytes, answers: list[bytes], extended: bool
) -> None:
    session, client = town.client()
    behind = p.parse(b"", BEYOND_ASCII) + bind() + EXECUTE + SYNC if extended else p.query(BEYOND_ASCII)
    session.client_data(change + behind)
    upstream = town.link(session)
    assert upstream.take() == change
    upstream.says(*answers, LATIN1, READY_I)
    assert session.codec == "latin-1"
    assert BEYOND_ASCII in upstream.take()
    assert client.kinds().endswith("SZ")


SET_LATIN1 = p.parse(b"", b"set client_encoding = latin1") + bind() + EXECUTE


def test_attack_text_in_the_encoding_that_is_set_in_its_own_group(town: Town) -> None:
    session, client = town.client()
    session.client_data(SET_LATIN1 + ran(BEYOND_ASCII + b", nextval('s')") + SYNC)
    upstream = town.link(session)
    assert BEYOND_ASCII not in upstream.take()
    upstream.says(PARSED, BOUND, SET, STAND_IN_FAILED, READY_I)
    assert client.error()["P"] == "14"  # of LATIN1 it has a letter more


def test_text_is_judged_in_the_encoding_that_is_set_in_its_own_group(town: Town) -> None:
    session, _ = town.client()
    both = ran(b"select '\xe9'") + ran(b"select 1") + ran(b"set datestyle to german") + ran(b"select '\xe4'")
    session.client_data(SET_LATIN1 + both + ran(b"set names 'utf8'") + ran(BEYOND_ASCII) + SYNC)
    sent = town.link(session).take()
    assert b"'\xe9'" in sent and b"'\xe4'" in sent and sent.index(b"'utf8'") < sent.index(BEYOND_ASCII)
    assert session.codec == "utf-8"


@pytest.mark.parametrize(
    "between",
    [
        b"reset client_encoding",
        b"reset all",
        b"set client_encoding to default",
        b"discard all",
        b"select set_config('client_encoding', 'utf8', false)",
        b"rollback",
        b"commit",
        b"begin",
        b"rollback to s",
        b"execute s",
        b"fetch c",
        b"explain analyze select 1",
    ],
)
def test_attack_text_in_an_encoding_that_is_not_known(between: bytes, town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(SET_LATIN1 + ran(between) + ran(BEYOND_ASCII) + SYNC)
    sent = upstream.take()
    assert between in sent
    assert BEYOND_ASCII not in sent


def test_attack_portal_that_was_bound_before_ends_what_is_known_of_the_encoding(town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    upstream = town.link(session)
    upstream.says(BEGUN, READY_T)
    session.client_data(p.parse(b"", b"rollback to s") + p.message(p.BIND, b"back\0\0" + bytes(6)) + SYNC)
    upstream.says(PARSED, BOUND, READY_T)
    upstream.take()
    session.client_data(SET_LATIN1 + p.execute(b"back") + ran(BEYOND_ASCII) + SYNC)
    assert BEYOND_ASCII not in upstream.take()


def test_attack_text_behind_a_flush_in_the_encoding_that_the_server_has_not_told_yet(town: Town) -> None:
    session, _ = town.client()
    change = p.parse(b"", b"select set_config('client_encoding', 'latin1', false)") + bind() + EXECUTE
    session.client_data(change + p.message(p.FLUSH))
    upstream = town.link(session)
    upstream.says(PARSED, BOUND, SELECTED)
    upstream.take()
    session.client_data(ran(BEYOND_ASCII) + SYNC)
    assert BEYOND_ASCII not in upstream.take()


def test_attack_statement_of_unknown_settings_is_not_parsed_again_in_another_encoding(town: Town) -> None:
    session, client = town.client()
    session.client_data(BEGIN)
    first = town.link(session)
    first.says(BEGUN, READY_T)
    session.client_data(p.query(b"set client_encoding to latin1"))
    first.says(LATIN1, SET, READY_T)
    session.client_data(p.parse(b"s", b"select '\xc3\xa9'") + SYNC)
    failed = p.error_response("ERROR", "57014", "canceling statement due to statement timeout")
    first.says(PARSED, DESCRIBED, failed, READY_E)  # what asks for the settings fails
    session.client_data(p.query(b"rollback"))
    first.says(p.parameter_status("client_encoding", "UTF8"), ROLLED_BACK, READY_I)
    reads_back(first)
    first.says(CLOSED, READY_I)  # what has asked for the settings
    assert session.codec == "utf-8" and session.link is None
    first.held.clear()  # as if it were another one
    first.take()
    client.take()
    session.client_data(p.message(p.BIND, b"\0s\0" + bytes(6)) + EXECUTE + SYNC)
    assert client.error()["C"] == "26000"
    assert b"\xc3\xa9" not in first.take()


def test_text_in_ascii_waits_for_no_encoding(town: Town) -> None:
    session, _ = town.client()
    session.client_data(p.query(b"set client_encoding = latin1") + p.query(b"select 1"))
    assert town.link(session).take().endswith(p.query(b"select 1"))


@pytest.mark.parametrize(
    "message",
    [
        p.parse("é".encode("latin-1"), b"select 1"),
        bind("é".encode("latin-1")),
        p.parse(b"", b"select 1") + bind(portal="é".encode("latin-1")),
    ],
)
def test_attack_name_in_other_letters_than_the_servers(town: Town, message: bytes) -> None:
    session, client = town.client()
    session.client_data(p.query(b"set client_encoding to latin1"))
    town.link(session).says(SET, LATIN1, READY_I)
    reads_back(town.link(session), client_encoding="LATIN1")
    assert session.link is None
    client.take()
    session.client_data(message + SYNC)
    if session.link is not None:
        town.link(session).says(PARSED, STAND_IN_FAILED, READY_I)
    assert client.error()["D"].endswith("(rule: other-letters).")

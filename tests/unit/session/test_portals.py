"""Portals, as far as an Execute of them leaves something behind."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.pooling.guard import GUARDED
from proxy.pooling.sent import Groups, MustWait
from proxy.session.portals import Portals
from proxy.sql.verdict import Action, Verdict
from tests.unit.session.town import (
    BEGIN,
    BEGUN,
    BOUND,
    EXECUTE,
    PARSED,
    READY_I,
    READY_T,
    SELECTED,
    SET,
    SYNC,
    Town,
    bind,
    ran,
)


def test_unnamed_portal_of_a_set_is_followed_behind_a_chunk_that_holds_its_bind_and_an_end(town: Town) -> None:
    session, _ = town.client()
    begin = p.parse(b"", b"start transaction isolation level serializable") + bind() + EXECUTE
    session.client_data(p.query(b"select 1") + begin + p.parse(b"", b"set search_path to elsewhere") + bind())
    upstream = town.link(session)
    started = p.message(p.COMMAND_COMPLETE, b"START TRANSACTION\0")
    session.upstream_data(SELECTED + READY_I + GUARDED + PARSED + BOUND + started + PARSED + BOUND)
    session.client_data(SYNC)
    upstream.says(READY_T)
    session.client_data(EXECUTE + SYNC)
    upstream.says(SET, READY_T)
    assert session.ledger.touched == {"search_path"}


# --- by themselves ----------------------------------------------------------------------------------------------------

SET_VERDICT, FETCH, SELECT = (Verdict(Action.ALLOW, kind) for kind in ("set", "fetch", "select"))


def made() -> tuple[Portals, Groups]:
    groups = Groups()
    return Portals(groups), groups


def test_portal_is_found_in_its_own_group_and_behind_its_answer_and_not_in_between() -> None:
    portals, groups = made()
    assert portals.find(b"p") is None and portals.settled and not portals.any
    portals.note(b"p", SET_VERDICT)
    assert portals.find(b"p") is SET_VERDICT and portals.any
    groups.sent += 1
    with pytest.raises(MustWait):
        portals.find(b"p")
    portals.keep(b"p", SET_VERDICT)
    groups.answered += 1
    assert portals.find(b"p") is SET_VERDICT and portals.settled and portals.held_back
    assert portals.kinds() == {"set"}


def test_portal_of_a_bind_that_failed_is_what_it_was() -> None:
    portals, groups = made()
    portals.keep(b"p", SET_VERDICT)
    portals.note(b"p", None)
    groups.sent += 1
    groups.answered += 1
    assert portals.find(b"p") is SET_VERDICT


def test_name_of_a_portal_is_cut_as_the_server_cuts_it() -> None:
    portals, _ = made()
    portals.keep(b"p" * 70, SET_VERDICT)
    assert portals.find(b"p" * 63) is SET_VERDICT
    portals.keep(b"p" * 64, None)
    assert portals.find(b"p" * 63) is None


def test_unnamed_portal_is_the_clients_until_a_query_takes_it(town: Town) -> None:
    session, _ = town.client()
    session.client_data(BEGIN)
    town.link(session).says(BEGUN, READY_T)
    session.client_data(ran(b"select 1") + p.message(p.FLUSH))
    link = session.session.link
    assert link is not None and link.bound
    town.link(session).says(PARSED, BOUND, SELECTED)
    session.client_data(p.query(b"select 1"))
    assert not link.bound and not link.bound_before
    town.link(session).says(SELECTED, READY_T)
    session.client_data(bind(portal=b"p") + SYNC)
    assert not link.bound


def test_bind_that_fails_leaves_the_unnamed_portal_as_it_was_in_a_quiet_moment(town: Town) -> None:
    session, _ = town.client()
    failed = p.error_response("ERROR", "22P02", "no such value")
    session.client_data(BEGIN)
    town.link(session).says(BEGUN, READY_T)
    link = session.session.link
    assert link is not None
    session.client_data(ran(b"select 1") + SYNC)
    town.link(session).says(PARSED, failed, p.READY[p.FAILED])
    assert not link.bound
    session.client_data(p.query(b"rollback to s"))
    town.link(session).says(p.message(p.COMMAND_COMPLETE, b"ROLLBACK\0"), READY_T)
    session.client_data(ran(b"select 1") + SYNC)
    town.link(session).says(PARSED, BOUND, SELECTED, READY_T)
    assert link.bound and link.bound_before
    session.client_data(bind() + SYNC)
    town.link(session).says(failed, p.READY[p.FAILED])
    assert link.bound


def test_portal_of_rows_of_another_one_runs_while_nothing_can_have_changed_them() -> None:
    portals, groups = made()
    found = portals.bind_sent(b"p", FETCH, noted=False)
    assert found is not None and found is not FETCH
    assert portals.fresh == (b"Pp", groups.sent)
    portals.names_may_change(b"p")  # it is the one that runs
    assert portals.fresh is None
    assert portals.runs(b"p", found)
    portals.names_may_change()
    assert portals.runs(b"p", found), "it holds its rows"


def test_portal_of_rows_of_another_one_does_not_run_behind_something_else() -> None:
    portals, _ = made()
    found = portals.bind_sent(b"p", FETCH, noted=False)
    assert found is not None
    portals.bind_sent(b"", SELECT, noted=False)  # it is planned: a function may run
    assert not portals.runs(b"p", found)


def test_portal_that_was_bound_again_is_told_from_the_one_before() -> None:
    portals, _ = made()
    first = portals.bind_sent(b"p", FETCH, noted=False)
    second = portals.bind_sent(b"p", FETCH, noted=False)
    assert first is not None and second is not None
    assert not portals.runs(b"p", first)
    assert portals.runs(b"p", second)


def test_end_of_the_transaction_closes_all() -> None:
    portals, _ = made()
    found = portals.bind_sent(b"p", Verdict(Action.ALLOW, "fetch", under_path=True), noted=True)
    assert found is not None and portals.path_in_use
    portals.keep(b"p", found)
    portals.close_all()
    assert portals.find(b"p") is None and not portals.path_in_use and not portals.held_back
    assert not portals.runs(b"p", found)

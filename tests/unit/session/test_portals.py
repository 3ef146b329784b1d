"""Portals, as far as an Execute of them leaves something behind."""

from __future__ import annotations

from proxy import protocol as p
from proxy.pooling.guard import GUARDED
from tests.unit.session.town import BOUND, EXECUTE, PARSED, READY_I, READY_T, SELECTED, SET, SYNC, Town, bind


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

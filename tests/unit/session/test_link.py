"""What is known of a lease, from lease to release."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.guard import GUARD, READ_ONLY, UNKNOWN
from proxy.pooling.sent import Groups
from proxy.session.link import MAX_UNIT, Link
from proxy.session.local_transaction import BEGIN
from proxy.session.transaction_ahead import Block
from tests.unit.session.town import FakeUpstream


def made(*, blind: bool = False) -> tuple[Link, FakeUpstream]:
    upstream = FakeUpstream()
    if blind:
        del upstream.parameters[READ_ONLY]
    groups = upstream.replies.groups = Groups()
    return Link(upstream, groups, 100.0, (p.IDLE, BEGIN)), upstream


# --- remember ---------------------------------------------------------------------------------------------------------


def test_unit_is_all_that_was_sent_as_long_as_it_is_short() -> None:
    link, _ = made()
    link.remember(b"one ")
    link.remember(b"two")
    assert link.unit == b"one two"
    link.remember(bytes(MAX_UNIT))
    assert link.unit is None


def test_unit_of_the_greatest_length_is_kept() -> None:
    link, _ = made()
    link.remember(bytes(MAX_UNIT))
    assert link.unit == bytes(MAX_UNIT)


# --- ahead ------------------------------------------------------------------------------------------------------------


def test_guard_goes_ahead_of_a_group_only_behind_what_is_the_clients_and_unanswered() -> None:
    link, _ = made()
    assert link.ahead() == b""
    link.replies.owe(r.SKIP_QUERY)
    assert link.ahead() == b"", "what is ours turns no setting off"
    link.replies.owe(r.QUERY)
    assert link.ahead() == GUARD


def test_guard_goes_ahead_of_each_group_where_the_server_reports_nothing() -> None:
    link, _ = made(blind=True)
    link.put_back = True
    assert link.ahead() == GUARD
    assert not link.put_back


@pytest.mark.parametrize("status", [p.IN_TRANSACTION, p.FAILED])
def test_guard_is_not_sent_into_a_transaction(status: int) -> None:
    link, upstream = made(blind=True)
    upstream.replies.status = status
    assert link.ahead() == b""


def test_group_waits_where_nobody_knows_whether_it_is_in_a_transaction() -> None:
    link, _ = made()
    link.transaction.steer(UNKNOWN)
    link.replies.owe(r.QUERY)
    assert link.ahead() is None


# --- send -------------------------------------------------------------------------------------------------------------


def test_whole_chunk_goes_as_the_object_that_came() -> None:
    link, upstream = made()
    written: list[bytes] = []
    upstream.write = written.append  # type: ignore[method-assign]
    data = p.query(b"select 1")
    link.send(data, 0, len(data), [])
    assert written[0] is data


@pytest.mark.parametrize(
    ("start", "pos", "out", "sent"),
    [
        (0, 4, [], b"abcd"),
        (2, 6, [], b"cdef"),
        (3, 6, [b"ab", b"x"], b"abxdef"),
        (6, 6, [b"x"], b"x"),
    ],
)
def test_pieces_go_in_one_write_in_their_order(start: int, pos: int, out: list[bytes], sent: bytes) -> None:
    link, upstream = made()
    written: list[bytes] = []
    upstream.write = written.append  # type: ignore[method-assign]
    link.prefix, link.suffix = b"<", b">"
    link.send(b"abcdef", start, pos, out)
    assert written == [b"<" + sent + b">"]
    assert link.prefix == link.suffix == b""


def test_nothing_is_written_where_there_is_nothing() -> None:
    link, upstream = made()
    link.send(b"abc", 3, 3, [])
    assert not upstream.whole


def test_prefix_alone_is_written() -> None:
    link, upstream = made()
    link.prefix = b"first"
    link.send(b"", 0, 0, [])
    assert upstream.whole == b"first"


# --- and what else ----------------------------------------------------------------------------------------------------


def test_link_is_quiet_when_nothing_is_owed_nor_open_nor_begun() -> None:
    link, upstream = made()
    assert link.quiet
    link.group_open = True
    assert not link.quiet
    link.group_open = False
    link.replies.owe(r.SYNC)
    assert not link.quiet
    link.replies.forget()
    upstream.replies.status = p.IN_TRANSACTION
    assert not link.quiet


def test_end_of_a_group_by_a_query_ends_what_is_known_of_the_transaction() -> None:
    link, _ = made()
    link.end_within()
    assert link.transaction.status == p.IDLE
    link.group_open = True
    link.transaction.block = Block.CLIENTS
    link.end_within()
    assert not link.group_open
    assert (link.transaction.status, link.transaction.block) == (UNKNOWN, Block.NONE)


def test_help_owes_a_reply_for_each_of_its_messages_under_a_name_of_its_own() -> None:
    link, _ = made()
    first, second = link.help(b"select 1"), link.help(b"select 1")
    assert first != second
    assert [reply.like for reply in link.replies.owed] == [r.SKIP, r.SKIP, r.SKIP, r.SKIP, r.SKIP_CLOSE] * 2
    assert link.transaction.asked_in == link.replies.groups.sent

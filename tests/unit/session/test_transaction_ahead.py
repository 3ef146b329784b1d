"""What becomes of the transaction behind what is under way."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.pooling.guard import UNKNOWN
from proxy.pooling.replies import Replies
from proxy.pooling.sent import NEVER, Groups
from proxy.session.transaction_ahead import Block, TransactionAhead
from proxy.sql.verdict import Action, Verdict
from tests.unit.session.town import FakeUpstream

BEGIN, BACK = Verdict(Action.ALLOW, "begin"), Verdict(Action.ALLOW, "rollback_to")


def made(status: int = p.IDLE) -> tuple[TransactionAhead, Groups, Replies]:
    replies = FakeUpstream().replies
    replies.status = status
    groups = Groups()
    return TransactionAhead(groups, replies), groups, replies


def test_status_is_what_the_server_says_where_nothing_is_under_way() -> None:
    ahead, _, replies = made()
    for status in (p.IDLE, p.IN_TRANSACTION, p.FAILED):
        replies.status = status
        assert (ahead.status, ahead.is_steered) == (status, False)
        assert ahead.may_have_failed is (status != p.IDLE)


def test_steered_status_holds_until_its_group_is_answered() -> None:
    ahead, groups, replies = made()
    ahead.steer(p.IN_TRANSACTION)
    assert (ahead.status, ahead.is_steered, ahead.may_have_failed) == (p.IN_TRANSACTION, True, True)
    groups.sent += 1
    assert ahead.status == p.IN_TRANSACTION
    groups.answered += 1
    replies.status = p.FAILED
    assert (ahead.status, ahead.is_steered) == (p.FAILED, False)


def test_status_that_is_steered_twice_is_known_to_nobody() -> None:
    ahead, groups, _ = made()
    ahead.steer(p.IN_TRANSACTION)
    ahead.steer(p.IDLE)
    assert ahead.status == UNKNOWN
    groups.sent += 1
    ahead.steer(p.IN_TRANSACTION)
    assert ahead.status == p.IN_TRANSACTION, "in a later group the last one counts"


@pytest.mark.parametrize(
    ("status", "verdict", "then"),
    [
        (p.IDLE, BEGIN, UNKNOWN),
        (p.IN_TRANSACTION, BEGIN, UNKNOWN),
        (p.IDLE, BACK, p.IDLE),
        (p.IN_TRANSACTION, BACK, p.IN_TRANSACTION),
        (p.FAILED, BACK, p.IN_TRANSACTION),
    ],
)
def test_statement_steers_by_its_kind(status: int, verdict: Verdict, then: int) -> None:
    ahead, _, _ = made(status)
    ahead.steer_by(verdict)
    assert ahead.status == then


def test_behind_a_group_that_was_cut_nothing_is_known_before_a_quiet_moment() -> None:
    ahead, groups, _ = made()
    ahead.block = Block.CLIENTS
    ahead.cut()
    assert ahead.block is Block.NONE
    groups.sent += 1
    groups.answered += 1
    assert ahead.status == UNKNOWN
    ahead.quiet()
    assert ahead.status == p.IDLE


def test_block_of_ours_outlives_a_query_in_the_middle_of_its_group() -> None:
    ahead, _, _ = made()
    ahead.block = Block.OURS
    ahead.cut()
    assert ahead.block is Block.OURS


def test_another_transaction_has_read_and_run_nothing() -> None:
    ahead, groups, _ = made()
    ahead.ran_in = ahead.asked_in = ahead.read_in = groups.sent
    ahead.another()
    assert (ahead.ran_in, ahead.asked_in, ahead.read_in) == (NEVER, NEVER, NEVER)

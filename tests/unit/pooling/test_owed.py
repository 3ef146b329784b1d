"""Replies that remember: what each makes of its answer, and of its outcome."""

from __future__ import annotations

import pytest

from proxy import protocol as p
from proxy.pooling import owed as r
from proxy.pooling.owed import (
    DONE,
    FAILED,
    IGNORED,
    Described,
    Done,
    Dropped,
    Learned,
    Outcome,
    Owed,
    Run,
    Shown,
    Undone,
)
from proxy.pooling.snapshot import Settings
from proxy.pooling.statements import Held
from tests.unit.pooling.test_replies import Listener, make, row


def test_name_that_is_left_over_is_closed_once() -> None:
    held = Held("test", 10)
    for _ in range(2):
        Dropped(held, b"sidecart:1").settle(IGNORED, Listener())
    assert held.surplus() == [b"sidecart:1"]
    assert held.surplus() == []


def test_position_is_counted_back_over_what_was_inserted_before_it() -> None:
    run = Run(r.QUERY)
    run.hide([1, 4], [(10, 5), (30, 7)])
    assert [run.in_the_clients_text(position) for position in (1, 10, 16, 30, 38, 40)] == [1, 10, 11, 25, 26, 28]


def test_statements_of_ours_are_known_by_their_number() -> None:
    run = Run(r.QUERY)
    run.hide([1, 4], [])
    hidden = []
    for _ in range(6):
        hidden.append(run.hidden)
        run.completed(b"SELECT 1")
    assert hidden == [False, True, False, False, True, False]


@pytest.mark.parametrize("hidden, told", [([], True), ([2], True), ([1], False)])
def test_plans_are_noted_as_gone_where_the_client_has_discarded_them(hidden: list[int], told: bool) -> None:
    noted: list[bool] = []
    run = Run(r.QUERY, replanned=lambda: noted.append(True))
    run.hide(hidden, [])
    for tag in (b"SET", b"DISCARD PLANS", b"SET"):
        run.completed(tag)
    assert bool(noted) is told


def test_nothing_is_hidden_behind_an_error() -> None:
    run = Run(r.QUERY, resets={"datestyle"})
    run.hide([1], [(3, 10)])
    run.completed(b"SET")
    assert run.hidden
    error = p.error_response("ERROR", "42601", "syntax error", position=20)[5:]
    assert p.error_fields(run.failed(error))["P"] == "10"
    assert (run.hidden, run.resets) == (False, set())


@pytest.mark.parametrize("outcome", Outcome)
def test_only_success_or_only_failure_may_matter(outcome: Outcome) -> None:
    told: list[str] = []
    for reply in (Done(r.SKIP_PARSE, lambda: told.append("done")), Undone(lambda: told.append("undone"))):
        reply.settle(outcome, Listener())
    assert told == (["done"] if outcome is DONE else ["undone"])


@pytest.mark.parametrize("outcome", Outcome)
def test_reply_that_remembers_settles_what_the_shared_one_does(outcome: Outcome) -> None:
    noted, shared = Listener(), Listener()
    for like in (r.QUERY, r.BIND, r.BIND_NAMED, r.CLOSE_UNNAMED, r.REPEAT_UNNAMED):
        Done(like, lambda: None).settle(outcome, noted)
        like.settle(outcome, shared)
    assert noted.events == shared.events


@pytest.mark.parametrize("outcome, value", [(DONE, "on"), (FAILED, ""), (IGNORED, "")])
def test_what_is_shown_is_told_once_it_is_known(outcome: Outcome, value: str) -> None:
    told: list[str] = []
    shown = Shown(told.append)
    shown.row(row(b"on")[5:], Listener())
    shown.settle(outcome, Listener())
    assert told == [value]


@pytest.mark.parametrize("outcome", Outcome)
def test_settings_are_learned_from_a_whole_answer_alone(outcome: Outcome) -> None:
    learned = Learned("utf-8")
    learned.row(row(b"DateStyle", b"ISO, DMY")[5:], Listener())
    assert learned.context is None
    learned.settle(outcome, Listener())
    assert learned.context == (Settings.of([("DateStyle", "ISO, DMY")]) if outcome is DONE else None)


@pytest.mark.parametrize("behind", [r.DESCRIBE, r.EXECUTE])
def test_statement_that_gives_something_else_stops_everything_and_its_parameters_are_told(behind: Owed) -> None:
    parameters = b"\0\1\0\0\0\27"
    replies, _ = make(Described(r.SKIP_DESCRIBE, lambda answer: False), behind, r.SYNC)
    out = replies.feed(p.message(p.PARAMETER_DESCRIPTION, parameters) + p.message(p.NO_DATA) + p.message(p.NO_DATA))
    assert out == (p.message(p.PARAMETER_DESCRIPTION, parameters) if behind is r.DESCRIBE else b"")
    assert replies.halted is not None
    assert "cached plan" in p.error_fields(replies.halted)["M"]


def test_each_says_in_a_log_what_it_is() -> None:
    assert repr([r.SYNC, Run(r.EXECUTE)]) == "[SYNC, <Run EXECUTE>]"

"""Prepared statements: what a client's own name on the link means, and texts of ours inside a Query of the client's."""

from __future__ import annotations

from proxy.statements import Own, Owned, Run


def test_name_that_stood_on_the_link_may_still_stand_there_when_its_next_parse_is_ignored() -> None:
    own: dict[bytes, Own] = {}
    Owned(own, b"s1", (0, 1)).settle(True)
    assert own == {b"s1": (0, 1)}
    for outcome in (None, False):
        Owned(own, b"s1", (1, 2)).settle(outcome)
        assert own == {b"s1": (-1, 2)}  # to be closed before it is parsed


def test_name_that_was_never_there_is_forgotten_when_its_parse_fails() -> None:
    own: dict[bytes, Own] = {}
    for outcome in (None, False):
        Owned(own, b"s1", (1, 2)).settle(outcome)
        assert own == {}


def test_position_is_counted_back_over_what_was_inserted_before_it() -> None:
    run = Run([], lambda name: None, resets=True)
    run.hide([1, 4], [(10, 5), (30, 7)])
    assert [run.in_the_clients_text(position) for position in (1, 10, 16, 30, 38, 40)] == [1, 10, 11, 25, 26, 28]


def test_statements_of_ours_are_known_by_their_number() -> None:
    run = Run([], lambda name: None, resets=True)
    run.hide([1, 4], [])
    hidden = []
    for _ in range(6):
        hidden.append(run.hides)
        run.completed(b"SELECT 1")
    assert hidden == [False, True, False, False, True, False]

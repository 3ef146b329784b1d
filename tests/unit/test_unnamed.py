"""The unnamed statement of a client: what was sent, what was answered, and which upstream has it."""

from __future__ import annotations

import pytest

from proxy.unnamed import Unnamed


@pytest.fixture
def unnamed() -> Unnamed:
    """Return one that the client has, and that its link holds."""
    statement = Unnamed()
    statement.attach(False)
    statement.parse_sent(b"old")
    statement.parsed(True)
    statement.settled()
    return statement


def test_it_is_the_last_one_that_was_parsed(unnamed: Unnamed) -> None:
    unnamed.parse_sent(b"first")
    unnamed.parse_sent(b"second")
    assert (unnamed.message, unnamed.coming, unnamed.synced) == (b"old", b"second", True)
    unnamed.parsed(True)
    assert unnamed.message == b"first"
    unnamed.parsed(True)
    assert (unnamed.message, unnamed.stays) == (b"second", True)


def test_parse_that_fails_takes_the_old_one_with_it(unnamed: Unnamed) -> None:
    unnamed.parse_sent(b"bad")
    unnamed.parsed(False)
    unnamed.settled()
    assert (unnamed.message, unnamed.coming, unnamed.stays) == (None, None, False)
    assert unnamed.synced  # both have none


def test_parse_that_never_ran_leaves_the_old_one(unnamed: Unnamed) -> None:
    unnamed.parse_sent(b"skipped")
    unnamed.parsed(None)
    unnamed.settled()
    assert (unnamed.message, unnamed.coming, unnamed.synced, unnamed.stays) == (b"old", b"old", True, True)


def test_stand_in_of_a_refused_parse_takes_it_with_it(unnamed: Unnamed) -> None:
    unnamed.parse_sent(None)
    assert (unnamed.message, unnamed.coming) == (b"old", None)
    unnamed.parsed(False)
    assert unnamed.message is None


def test_simple_query_and_close_destroy_it(unnamed: Unnamed) -> None:
    unnamed.end_sent()
    assert (unnamed.coming, unnamed.synced) == (None, True)
    unnamed.ended()
    assert (unnamed.message, unnamed.stays, unnamed.synced) == (None, False, True)


def test_parse_behind_a_query_in_one_chunk_survives_it(unnamed: Unnamed) -> None:
    unnamed.end_sent()
    unnamed.parse_sent(b"new")
    unnamed.ended()
    unnamed.parsed(True)
    unnamed.settled()
    assert (unnamed.message, unnamed.coming, unnamed.stays) == (b"new", b"new", True)


def test_another_upstream_does_not_have_it_until_it_was_repeated(unnamed: Unnamed) -> None:
    unnamed.attach(False)
    assert (unnamed.coming, unnamed.synced, unnamed.stays) == (b"old", False, False)
    unnamed.repeat_sent()
    assert unnamed.synced
    unnamed.repeated(True)
    assert unnamed.stays


@pytest.mark.parametrize("outcome", [False, None])
def test_repetition_that_failed_or_never_ran_is_repeated_again(unnamed: Unnamed, outcome: bool | None) -> None:
    unnamed.attach(False)
    unnamed.repeat_sent()
    unnamed.repeated(outcome)
    assert (unnamed.message, unnamed.synced, unnamed.stays) == (b"old", False, False)


def test_repetition_that_never_ran_changes_nothing_where_it_was_held(unnamed: Unnamed) -> None:
    unnamed.repeated(None)
    assert (unnamed.synced, unnamed.stays) == (True, True)


def test_close_that_was_skipped_changes_nothing(unnamed: Unnamed) -> None:
    unnamed.attach(False)
    unnamed.end_sent()
    unnamed.settled()  # an earlier message failed: there was no answer
    assert (unnamed.message, unnamed.coming, unnamed.synced) == (b"old", b"old", False)


def test_query_of_ours_destroys_it_on_the_upstream_alone(unnamed: Unnamed) -> None:
    unnamed.other_sent()
    assert (unnamed.coming, unnamed.synced, unnamed.stays) == (b"old", False, False)


def test_upstream_that_still_holds_it_needs_no_repetition(unnamed: Unnamed) -> None:
    unnamed.attach(True)
    assert unnamed.synced


def test_upstream_cannot_hold_what_the_client_does_not_have(unnamed: Unnamed) -> None:
    unnamed.drop()
    unnamed.attach(True)
    assert (unnamed.synced, unnamed.stays) == (False, False)


def test_answer_to_a_parse_of_nobody_is_ignored() -> None:
    unnamed = Unnamed()
    unnamed.parsed(True)
    assert unnamed.message is None

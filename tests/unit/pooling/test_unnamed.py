"""The unnamed statement of a client: what was sent, what was answered, and which upstream has it."""

from __future__ import annotations

import pytest

from proxy.pooling.owed import DONE, FAILED, IGNORED, Outcome, Owed
from proxy.pooling.sent import Groups, MustWait
from proxy.pooling.unnamed import Unnamed
from tests.unit.pooling.test_replies import Listener


@pytest.fixture
def groups() -> Groups:
    return Groups()


@pytest.fixture
def unnamed(groups: Groups) -> Unnamed[bytes]:
    """Return one that the client has, and that its link holds."""
    statement: Unnamed[bytes] = Unnamed(groups)
    settle(statement.parse_sent(b"old"), DONE)
    end(groups)
    return statement


def end(groups: Groups) -> None:
    """Send a Sync, and have it answered."""
    groups.sent += 1
    groups.answered = groups.sent


def settle(parse: Owed, outcome: Outcome) -> None:
    parse.settle(outcome, Listener())


def held(unnamed: Unnamed[bytes]) -> bool:
    """Return whether the upstream that is released now holds it."""
    return leave(unnamed) is not None


def leave(unnamed: Unnamed[bytes]) -> object | None:
    """Release the upstream, as `leasing` does; return what marks it."""
    return unnamed.mark if unnamed.held else None


def attach(unnamed: Unnamed[bytes], mark: object | None) -> None:
    """Lease one that is marked so."""
    unnamed.held = mark is not None and mark is unnamed.mark


def test_it_is_the_last_one_that_was_parsed(unnamed: Unnamed[bytes]) -> None:
    first = unnamed.parse_sent(b"first")
    second = unnamed.parse_sent(b"second")
    assert (unnamed.message, unnamed.which(), unnamed.there()) == (b"old", b"second", True)
    settle(first, DONE)
    assert unnamed.message == b"first"
    settle(second, DONE)
    assert (unnamed.message, held(unnamed)) == (b"second", True)


def test_it_is_not_known_which_while_an_earlier_group_may_fail(unnamed: Unnamed[bytes], groups: Groups) -> None:
    parse = unnamed.parse_sent(b"new")
    groups.sent += 1
    for ask in (unnamed.which, unnamed.there):
        with pytest.raises(MustWait):
            ask()
    settle(parse, IGNORED)
    groups.answered += 1
    assert (unnamed.which(), unnamed.there()) == (b"old", True)


def test_parse_that_fails_takes_the_old_one_with_it(unnamed: Unnamed[bytes], groups: Groups) -> None:
    settle(unnamed.parse_sent(b"bad"), FAILED)
    end(groups)
    assert (unnamed.message, unnamed.which(), held(unnamed)) == (None, None, False)
    assert unnamed.there()  # both have none


def test_parse_that_never_ran_leaves_the_old_one(unnamed: Unnamed[bytes], groups: Groups) -> None:
    settle(unnamed.parse_sent(b"skipped"), IGNORED)
    end(groups)
    assert (unnamed.message, unnamed.which(), unnamed.there(), held(unnamed)) == (b"old", b"old", True, True)


def test_stand_in_of_a_refused_parse_takes_it_with_it(unnamed: Unnamed[bytes]) -> None:
    refusal = unnamed.refusal_sent(b"error")
    assert (unnamed.message, unnamed.which()) == (b"old", None)
    settle(refusal, FAILED)
    assert unnamed.message is None


def test_simple_query_and_close_destroy_it(unnamed: Unnamed[bytes], groups: Groups) -> None:
    unnamed.end_sent()
    assert (unnamed.which(), unnamed.there()) == (None, True)
    unnamed.ended()
    end(groups)
    assert (unnamed.message, held(unnamed), unnamed.there()) == (None, False, True)


def test_parse_behind_a_query_in_one_chunk_survives_it(unnamed: Unnamed[bytes], groups: Groups) -> None:
    unnamed.end_sent()
    groups.sent += 1
    parse = unnamed.parse_sent(b"new")
    assert unnamed.which() == b"new"
    unnamed.ended()
    settle(parse, DONE)
    end(groups)
    assert (unnamed.message, unnamed.which(), held(unnamed)) == (b"new", b"new", True)


def test_another_upstream_does_not_have_it_until_it_was_repeated(unnamed: Unnamed[bytes]) -> None:
    attach(unnamed, None)
    assert (unnamed.which(), unnamed.there(), held(unnamed)) == (b"old", False, False)
    unnamed.repeat_sent()
    assert unnamed.there()
    unnamed.repeated(DONE)
    assert held(unnamed)


@pytest.mark.parametrize("outcome", [FAILED, IGNORED])
def test_repetition_that_failed_or_never_ran_is_repeated_again(
    unnamed: Unnamed[bytes], groups: Groups, outcome: Outcome
) -> None:
    attach(unnamed, None)
    unnamed.repeat_sent()
    unnamed.repeated(outcome)
    end(groups)
    assert (unnamed.message, unnamed.there(), held(unnamed)) == (b"old", False, False)


def test_repetition_that_never_ran_changes_nothing_where_it_was_held(unnamed: Unnamed[bytes]) -> None:
    unnamed.repeated(IGNORED)
    assert (unnamed.there(), held(unnamed)) == (True, True)


def test_close_that_was_skipped_changes_nothing(unnamed: Unnamed[bytes], groups: Groups) -> None:
    attach(unnamed, None)
    unnamed.end_sent()
    end(groups)  # an earlier message failed: there was no answer
    assert (unnamed.message, unnamed.which(), unnamed.there()) == (b"old", b"old", False)


def test_query_of_ours_destroys_it_on_the_upstream_alone(unnamed: Unnamed[bytes]) -> None:
    unnamed.other_sent()
    assert (unnamed.which(), unnamed.there(), held(unnamed)) == (b"old", False, False)


def test_upstream_that_still_holds_it_needs_no_repetition(unnamed: Unnamed[bytes]) -> None:
    mark = leave(unnamed)
    attach(unnamed, None)  # meanwhile it has another one
    attach(unnamed, mark)
    assert unnamed.there()


def test_upstream_that_holds_the_one_before_does_not_have_it(unnamed: Unnamed[bytes], groups: Groups) -> None:
    first = leave(unnamed)
    attach(unnamed, None)
    settle(unnamed.parse_sent(b"new"), DONE)
    end(groups)
    second = leave(unnamed)
    attach(unnamed, first)
    assert (unnamed.which(), unnamed.there()) == (b"new", False)
    attach(unnamed, second)
    assert unnamed.there()


def test_upstream_does_not_have_what_was_parsed_here(unnamed: Unnamed[bytes]) -> None:
    mark = leave(unnamed)
    unnamed.drop()
    unnamed.keep(b"commit")
    attach(unnamed, mark)
    assert (unnamed.which(), unnamed.there()) == (b"commit", False)


def test_two_upstreams_may_hold_it(unnamed: Unnamed[bytes]) -> None:
    first = leave(unnamed)
    attach(unnamed, None)
    unnamed.repeat_sent()
    unnamed.repeated(DONE)
    for mark in (first, leave(unnamed)):
        attach(unnamed, mark)
        assert unnamed.there()


def test_upstream_cannot_hold_what_the_client_does_not_have(unnamed: Unnamed[bytes]) -> None:
    mark = leave(unnamed)
    unnamed.drop()
    attach(unnamed, mark)
    assert (unnamed.there(), held(unnamed)) == (False, False)


def test_parse_of_one_client_settles_nothing_of_another(unnamed: Unnamed[bytes], groups: Groups) -> None:
    """The client whose Parse it was has gone, and whoever holds the upstream now is told of nothing."""
    other: Unnamed[bytes] = Unnamed(Groups())
    holder = Listener()
    holder.unnamed = other
    unnamed.parse_sent(b"late").settle(DONE, holder)
    assert (unnamed.message, other.message) == (b"late", None)

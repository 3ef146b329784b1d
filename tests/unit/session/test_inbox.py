"""The client's bytes that are not served yet."""

from __future__ import annotations

from proxy.session.inbox import Inbox


def test_bytes_come_out_in_the_order_in_which_they_came() -> None:
    inbox = Inbox()
    inbox.keep(b"ab", 5)
    inbox.add(b"c")
    inbox.add(b"de")
    assert (inbox.have, inbox.need) == (5, 5)
    assert inbox.take() == b"abcde"
    assert inbox.have == 0 and inbox.take() == b""


def test_bytes_that_are_put_back_are_served_first() -> None:
    inbox = Inbox()
    inbox.keep(b"later", 9)
    inbox.put_back(b"first, ")
    assert inbox.have == 12
    assert inbox.take() == b"first, later"


def test_need_is_kept_where_there_is_nothing_yet() -> None:
    inbox = Inbox()
    inbox.keep(b"", 7)
    assert (inbox.have, inbox.need) == (0, 7)


def test_half_of_a_message_went_upstream_only_if_its_rest_is_to_go_there() -> None:
    inbox = Inbox()
    assert not inbox.half_sent
    inbox.flow = 10
    assert inbox.half_sent
    inbox.dropping = True
    assert not inbox.half_sent


def test_clear_forgets_what_is_kept() -> None:
    inbox = Inbox()
    inbox.keep(b"abc", 5)
    inbox.clear()
    assert inbox.have == 0 and inbox.take() == b""

"""client_encoding behind what is under way."""

from __future__ import annotations

from proxy.pooling.sent import Groups
from proxy.session.encoding_ahead import EncodingAhead


def made() -> tuple[EncodingAhead, Groups]:
    groups = Groups()
    return EncodingAhead(groups), groups


def test_codec_that_is_set_is_known_to_the_end_of_its_group() -> None:
    ahead, groups = made()
    assert ahead.known == "" and not ahead.obscured
    ahead.obscure("latin-1")
    assert ahead.known == "latin-1" and ahead.obscured
    groups.sent += 1
    assert ahead.known == "" and not ahead.obscured


def test_change_of_which_nobody_knows_to_what_ends_what_was_known() -> None:
    ahead, _ = made()
    ahead.obscure("latin-1")
    ahead.obscure()
    assert ahead.known == "" and ahead.obscured


def test_codec_that_the_server_was_asked_for_holds_for_the_group_that_asked() -> None:
    ahead, groups = made()
    ahead.obscure()
    ahead.became("utf-8", groups.sent)
    assert ahead.known == "utf-8"
    groups.sent += 1
    ahead.became("latin-1", groups.sent - 1)  # the answer comes when its group is over
    assert ahead.known == ""


def test_change_that_is_not_known_leaves_what_another_group_knew() -> None:
    ahead, groups = made()
    ahead.became("latin-1")
    groups.sent += 1
    ahead.obscure()
    groups.sent -= 1
    assert ahead.known == "latin-1"

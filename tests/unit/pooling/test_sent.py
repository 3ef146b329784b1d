"""What is under way: the rule, against every outcome that messages without an answer can have."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from proxy.pooling.sent import ROOM, Groups, MustWait, Sent

NAMES = "abc"


@dataclass(frozen=True)
class Said:
    """Hold one message: it changes one name, all of them (`*`) or none (``), or it is a Sync (`S`).

    `query`: it ends its group as well, and its failure makes the server ignore nothing.
    """

    what: str
    value: int = 0
    query: bool = False


Names = dict[str, int]


def served(script: Sequence[Said], fails: Sequence[bool], names: Names) -> tuple[Names, bool, int]:
    """Return what the names are when the server has come to the end, whether it gets there, and how many groups end."""
    names = dict(names)
    ignoring = False
    ends = 0
    for said, failed in zip(script, fails, strict=True):
        ends += said.query or said.what == "S"
        if said.what == "S":
            ignoring = False
        elif not ignoring:
            ignoring = failed and not said.query
            if not failed and said.what:
                names |= dict.fromkeys(NAMES if said.what == "*" else said.what, said.value)
    return names, not ignoring, ends


def outcomes(script: Sequence[Said]) -> Iterator[tuple[bool, ...]]:
    return itertools.product(*((False,) if said.what == "S" else (False, True) for said in script))


@pytest.mark.parametrize("seed", range(60))
def test_what_is_found_is_what_the_server_finds_whatever_fails(seed: int) -> None:
    rng = random.Random(seed)
    waits = found = 0
    for _ in range(40):
        script = [
            Said(rng.choice([*NAMES, *NAMES, "*", "", "S", "S"]), number, query=rng.random() < 0.15)
            for number in range(rng.randint(1, 9))
        ]
        happened = [said.what != "S" and rng.random() < 0.3 for said in script]
        answered = rng.randint(0, len(script))
        start = dict.fromkeys(NAMES, -1)
        while answered < len(script) and script[answered].what != "S":
            if served(script[:answered], happened[:answered], start)[1]:
                break
            answered += 1  # with an error it is known what the server ignores
        groups = Groups()
        sent: Sent[str, int] = Sent(groups)
        for said in script:
            if said.what == "*":
                sent.put_every(said.value)
            elif said.what and said.what != "S":
                sent.put(said.what, said.value)
            groups.sent += said.query or said.what == "S"
        known, _, groups.answered = served(script[:answered], happened[:answered], start)
        reached = [
            names
            for rest in outcomes(script[answered:])
            for names, gets_there, _ in [served(script, (*happened[:answered], *rest), start)]
            if gets_there
        ]
        for name in NAMES:
            try:
                value = sent.find(name, known[name])
            except MustWait:
                waits += 1
                continue
            found += 1
            assert {names[name] for names in reached} <= {value}, (script, happened, answered, name)
    assert waits < found


def test_wait_is_over_when_the_group_is_answered() -> None:
    groups = Groups()
    sent: Sent[str, int] = Sent(groups)
    sent.put("a", 1)
    assert sent.find("a", 0) == 1
    groups.sent += 1
    with pytest.raises(MustWait):
        sent.find("a", 0)
    groups.answered += 1
    assert sent.find("a", 0) == 0
    assert sent.settled


def test_group_that_is_open_when_all_is_lost_counts_no_more() -> None:
    groups = Groups()
    sent: Sent[str, int] = Sent(groups)
    sent.put("a", 1)
    groups.lose()
    assert (sent.find("a", 0), groups.unanswered) == (0, 0)


def test_changes_that_were_answered_are_forgotten_though_there_is_never_a_quiet_moment() -> None:
    groups = Groups()
    sent: Sent[int, int] = Sent(groups)
    for number in range(20 * ROOM):
        sent.put(number, number)
        groups.sent += 1
        groups.answered = max(groups.sent - 3, 0)
        assert len(sent.things) <= ROOM


def test_value_that_turns_out_to_be_another_is_found_as_that() -> None:
    groups = Groups()
    sent: Sent[str, object] = Sent(groups)
    old, new = object(), object()
    sent.put("a", old)
    sent.put("b", None)
    for thing in ("a", "b", "c"):
        sent.swap(thing, old, new)
    assert (sent.find("a", None), sent.find("b", new)) == (new, None)


def test_what_was_sent_of_a_thing_since_counts_when_another_turns_out_to_be_it() -> None:
    groups = Groups()
    sent: Sent[str, str] = Sent(groups)
    sent.put("mine", "a")
    groups.sent += 1
    sent.put("shared", "b")
    sent.rename("mine", "shared")
    assert sent.find("shared", "a") == "b"
    groups.answered += 1
    sent.rename("no such thing", "shared")
    assert sent.things == ("shared",)

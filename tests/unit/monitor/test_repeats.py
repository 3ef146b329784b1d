"""What repeats itself in the log: a few lines, then a number, and none is lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.repeats import KINDS, LINES, LINES_OF_EVENT, Repeats, Value


def write(repeats: Repeats, event: str = "refused", now: float = 0.0, /, **fields: Value) -> bool:
    return repeats.write(now, "info", event, fields)


def test_like_lines_beyond_ten_a_second_are_one_line_with_their_number() -> None:
    repeats = Repeats()
    written = [write(repeats, rule="ddl", user="ada", session=session) for session in range(5000)]
    assert written == [True] * LINES + [False] * (5000 - LINES)
    assert repeats.tell() == [("info", "refused", {"rule": "ddl", "user": "ada", "repeated": 5000 - LINES})]
    assert repeats.tell() == []
    assert write(repeats, rule="ddl", user="ada", session=0)


def test_what_differs_in_more_than_the_session_is_another_kind() -> None:
    repeats = Repeats()
    for _ in range(LINES + 1):
        write(repeats, rule="ddl", user="ada")
    assert write(repeats, rule="ddl", user="bob")
    assert write(repeats, rule="row-lock", user="ada")
    assert write(repeats, "observed", rule="ddl", user="ada")
    assert repeats.write(0.0, "warning", "refused", {"rule": "ddl", "user": "ada"})


def test_a_second_ends_however_the_clock_is_set() -> None:
    repeats = Repeats()
    assert not repeats and not repeats.ended(7.0)
    write(repeats, "refused", 7.1)
    assert repeats and not repeats.ended(7.999)
    assert repeats.ended(8.0) and repeats.ended(6.0)
    repeats.tell()
    assert not repeats and not repeats.ended(9.0)


def test_attack_user_names_made_up_to_make_each_line_another_kind() -> None:
    repeats = Repeats()
    written = sum(write(repeats, "login refused", user=f"u{number}") for number in range(100_000))
    lines = repeats.tell()
    assert written == LINES_OF_EVENT
    assert len(lines) == 1  # those that were told apart were written
    assert lines[0][2] == {"repeated": 100_000 - LINES_OF_EVENT}


def test_attack_made_up_names_do_not_hide_another_event_nor_who_came_before() -> None:
    repeats = Repeats()
    for _ in range(50):
        write(repeats, user="ada")
    for number in range(100_000):
        write(repeats, user=f"u{number}")
    assert write(repeats, "tripwire", user="ada")
    told = {fields.get("user"): fields["repeated"] for _, _, fields in repeats.tell()}
    assert told["ada"] == 40
    assert len(told) <= KINDS + 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2 * KINDS)), max_size=2000))
def test_no_event_is_lost(events: list[tuple[str, int]]) -> None:
    repeats = Repeats()
    found: Counter[str] = Counter()
    for event, user in events:
        found[event] += write(repeats, event, user=user)
    assert all(written <= LINES_OF_EVENT for written in found.values())
    for _, event, fields in repeats.tell():
        repeated = fields["repeated"]
        assert isinstance(repeated, int)
        found[event] += repeated
    assert found == Counter(event for event, _ in events)

"""What a terminal is shown: nothing that commands it, and tables that fit."""

from __future__ import annotations

import pytest

from proxy.operating import terminal

HEADS = ("user", "state")


@pytest.mark.parametrize(
    "name",
    [
        "\x1b[2J\x1b]0;owned\x07",  # clears the terminal, sets the title
        "a\r\nroot",
        "a\tb",
        "\x9b31m",  # the 8-bit CSI
        "\x7f",
        "admin\u202egnp.exe",  # turns the line around
        "a\u2028b",
        "\ud800",
    ],
)
def test_characters_that_command_a_terminal_are_marks(name: str) -> None:
    [_, line] = terminal.table(HEADS, [(name, "idle")], 80)
    assert "\ufffd" in line
    assert all(char.isprintable() for char in line)


def test_other_writing_stays_as_it_is() -> None:
    assert terminal.visible("Müller-Lüdenscheidt 株式会社 🐘") == "Müller-Lüdenscheidt 株式会社 🐘"
    assert terminal.visible("a\tb", "\t") == "a\tb"


def test_columns_are_as_wide_as_what_they_hold() -> None:
    assert terminal.table(HEADS, [("analyst", "idle"), ("株", "active")], 80) == [
        "user     state",
        "analyst  idle",
        "株       active",
    ]


def test_numbers_stand_to_the_right() -> None:
    assert terminal.table(("n", "pid"), [("a", "7"), ("b", "4711")], 80, right=[1]) == ["n   pid", "a     7", "b  4711"]


def test_widest_column_is_shortened_until_the_table_fits() -> None:
    lines = terminal.table(HEADS, [("a-user-with-a-very-long-name", "idle in transaction")], 30)
    assert lines[1] == "a-user-with-a…  idle in trans…"
    assert terminal.width(lines[1]) == 30


def test_no_column_is_narrower_than_its_head() -> None:
    assert terminal.table(HEADS, [("analyst", "idle")], 1) == ["user  state", "ana…  idle"]


def test_cut_counts_columns_and_not_characters() -> None:
    assert terminal.cut("株式会社", 8) == "株式会社"
    assert terminal.cut("株式会社", 7) == "株式会…"
    assert terminal.cut("株式会社", 6) == "株式…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.34, "0.3 s"),
        (42.4, "42 s"),
        (60, "1 min"),
        (312, "5 min 12 s"),
        (3599.7, "1 h"),
        (11100, "3 h 5 min"),
        (86400, "1 d"),
        (187200, "2 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text

"""What is looked for in a text before it is parsed."""

from __future__ import annotations

import time

import pytest

from proxy.sql.text import may_split_numbers


@pytest.mark.parametrize(
    "text", ["0x1F", "0o7", "0b1", "1_000", "1.5_0", ".5_0", "1e1_0", "1e-1_0", "(a).5x", "1..5_0", "SELECT 1+1_0"]
)
def test_number_that_older_servers_split(text: str) -> None:
    assert may_split_numbers(text.encode())


@pytest.mark.parametrize(
    "text", ["1", "1e5", "a1_b", "$1", "t1.x1b", "1 x", "'a'||1", "é1x", "_1_0", "0.5", "1 - e1_0"]
)
def test_number_that_is_one_to_all_servers(text: str) -> None:
    assert not may_split_numbers(text.encode())


@pytest.mark.parametrize("text", ["1+" * 100_000, "1" * 200_000, "1." * 100_000, "1e" * 100_000, "1e+" * 70_000])
def test_attack_numbers_without_end_are_looked_through_once(text: str) -> None:
    started = time.process_time()
    assert not may_split_numbers(text.encode())
    assert time.process_time() - started < 1

"""Turns: who has much to be read gets a little at a time, in order, and everybody else comes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings, strategies

from proxy.system.turns import LEAST_PIECE, PIECE, TURN, Intake, Turns


class Loop:
    """An event loop of which a test turns the handle."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def iterate(self) -> None:
        due, self.soon = self.soon, []
        for callback in due:
            callback()


class Transport:
    def __init__(self) -> None:
        self.reading = True
        self.closing = False
        self.calls = 0

    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        assert self.reading and not self.closing
        self.reading = False
        self.calls += 1

    def resume_reading(self) -> None:
        assert not self.reading and not self.closing
        self.reading = True

    def close(self) -> None:
        self.closing = True

    abort = close


class Inner(asyncio.Protocol):
    """Keeps what it gets, and calls `then` with each piece."""

    def __init__(self, then: Callable[[bytes], object] = len) -> None:
        self.pieces: list[bytes] = []
        self.then = then
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(Intake, transport)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.then(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    @property
    def received(self) -> bytes:
        return b"".join(self.pieces)


class Stage:
    """Streams that share one event loop, and a clock that stands still unless a test moves it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.time = 0.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "get_running_loop", lambda: self.loop)
            self.turns = Turns(lambda: self.time)

    def stream(self, then: Callable[[bytes], object] = len) -> tuple[Intake, Inner, Transport]:
        inner, raw = Inner(then), Transport()
        intake = Intake(self.turns, inner)
        intake.connection_made(cast(Any, raw))
        return intake, inner, raw

    def slow(self, data: bytes) -> None:
        """Take a whole turn for a piece."""
        self.time += TURN

    def slower(self, data: bytes) -> None:
        """Take a whole turn for 1000 bytes."""
        self.time += TURN * len(data) / 1000


DATA = bytes(range(256)) * 256


def test_what_is_short_passes_as_it_is() -> None:
    intake, inner, raw = Stage().stream()
    intake.data_received(short := DATA[:PIECE])
    assert inner.pieces[0] is short
    assert raw.calls == 0


def test_long_chunk_passes_in_pieces_and_the_next_is_read_when_others_had_their_turn() -> None:
    stage = Stage()
    intake, inner, raw = stage.stream()
    intake.data_received(DATA)
    assert len(inner.pieces) > 1
    assert len(inner.pieces[0]) == PIECE
    assert inner.received == DATA
    assert not raw.reading
    stage.loop.iterate()
    assert raw.reading
    assert stage.loop.soon == []


def test_turn_ends_when_its_time_is_over() -> None:
    stage = Stage()
    intake, inner, raw = stage.stream(stage.slow)
    intake.data_received(DATA)
    for count in (1, 2, 3, 4):
        assert (len(inner.pieces), raw.reading) == (count, False)
        stage.loop.iterate()
    assert inner.received == DATA
    assert raw.reading


def test_pieces_shrink_where_bytes_are_dear_and_grow_where_they_are_not() -> None:
    stage = Stage()
    intake, inner, _ = stage.stream(stage.slower)
    intake.data_received(DATA)
    while stage.loop.soon:
        stage.loop.iterate()
    assert [len(piece) for piece in inner.pieces[:5]] == [16_384, 8192, 4096, 2048, 1024]
    assert {len(piece) for piece in inner.pieces[5:]} == {1024}
    intake.data_received(DATA[:PIECE])  # and no chunk passes as it is
    assert len(inner.pieces[-1]) == 1024
    inner.then = len
    while stage.loop.soon:
        stage.loop.iterate()
    for _ in range(10):
        intake.data_received(DATA * 2)
        stage.loop.iterate()
    assert max(map(len, inner.pieces)) == 65_536


def test_one_turn_in_each_iteration_whoever_is_in_line() -> None:
    stage = Stage()
    streams = [stage.stream(stage.slow) for _ in range(5)]
    for intake, _, _ in streams:
        intake.data_received(DATA)
    assert [len(inner.pieces) for _, inner, _ in streams] == [1, 0, 0, 0, 0]  # the others came in the same iteration
    while not all(inner.received == DATA for _, inner, _ in streams):
        before = sum(len(inner.pieces) for _, inner, _ in streams)
        stage.loop.iterate()
        assert sum(len(inner.pieces) for _, inner, _ in streams) == before + 1
    stage.loop.iterate()
    assert all(inner.received == DATA for _, inner, _ in streams)
    assert all(raw.reading for _, _, raw in streams)


def test_short_message_does_not_stand_in_line() -> None:
    stage = Stage()
    for _ in range(5):
        stage.stream(stage.slow)[0].data_received(DATA)
    intake, inner, _ = stage.stream()
    intake.data_received(b"SELECT 1")
    assert inner.received == b"SELECT 1"


def test_pause_keeps_back_what_was_read_already() -> None:
    stage = Stage()
    intake, inner, raw = stage.stream()
    inner.then = lambda data: intake.pause_reading()
    intake.data_received(DATA)
    for _ in range(3):
        stage.loop.iterate()
        assert (len(inner.pieces), raw.reading) == (1, False)
    inner.then = len
    intake.resume_reading()
    assert len(inner.pieces) == 1  # not from within
    stage.loop.iterate()
    assert inner.received == DATA
    stage.loop.iterate()
    assert raw.reading


def test_pause_of_who_stands_in_line_is_kept() -> None:
    stage = Stage()
    intake, inner, raw = stage.stream()
    intake.data_received(DATA)
    intake.pause_reading()
    stage.loop.iterate()
    assert not raw.reading
    intake.resume_reading()
    assert raw.reading
    assert inner.received == DATA


@pytest.mark.parametrize("end", ["close", "abort", "lost"])
def test_nothing_is_passed_on_after_the_end(end: str) -> None:
    stage = Stage()
    intake, inner, raw = stage.stream()

    def finish(data: bytes) -> None:
        if end == "lost":
            raw.closing = True
            intake.connection_lost(None)
        else:
            getattr(intake, end)()

    inner.then = finish
    intake.data_received(DATA)
    stage.loop.iterate()
    stage.loop.iterate()
    assert len(inner.pieces) == 1
    assert stage.loop.soon == []


def test_stream_that_fails_ends_and_keeps_nobody_from_a_turn() -> None:
    stage = Stage()
    first, second, third = (stage.stream(stage.slow) for _ in range(3))
    for intake, _, _ in (first, second, third):
        intake.data_received(DATA)

    def fail(data: bytes) -> None:
        raise ZeroDivisionError

    first[1].then = fail
    with pytest.raises(ZeroDivisionError):
        stage.loop.iterate()
    assert first[2].closing
    for _ in range(10):
        stage.loop.iterate()
    assert second[1].received == third[1].received == DATA


@settings(deadline=None, max_examples=200)
@given(
    sizes=strategies.lists(strategies.integers(1, 5 * PIECE), min_size=1, max_size=6),
    doing=strategies.lists(strategies.sampled_from(["iterate", "pause", "resume", "slow"]), max_size=40),
)
def test_bytes_arrive_in_order_whatever_happens(sizes: list[int], doing: list[str]) -> None:
    stage = Stage()
    intake, inner, raw = stage.stream()
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    left = list(chunks)
    turns = sum(sizes) // LEAST_PIECE + 10 * len(sizes)  # of the smallest pieces, and those in which one is read
    for act in (*doing, "resume", *["iterate"] * turns):
        if raw.reading and left:
            intake.data_received(left.pop(0))
        if act == "iterate":
            stage.loop.iterate()
        elif act == "slow":
            inner.then = stage.slow
        elif act == "pause":
            intake.pause_reading()
        else:
            intake.resume_reading()
    assert inner.received == b"".join(chunks)
    assert raw.reading

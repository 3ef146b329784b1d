"""Answers to Queries of SideCart's own: what is kept of them, and what is too much."""

from __future__ import annotations

import secrets
import tracemalloc

import pytest
from hypothesis import given, strategies

from proxy import protocol as p
from proxy.errors import UpstreamFloodError, UpstreamProtocolError
from proxy.pooling.own_answer import OwnAnswer, Rows
from tests.hostile import row

READY = p.READY[p.IDLE]
DESCRIPTION = p.message(p.ROW_DESCRIPTION, b"\0\0")


def message(*values: bytes | None) -> bytes:
    return p.message(p.DATA_ROW, row(*values))


def rows_of(answer: OwnAnswer) -> list[Rows]:
    for _ in answer.unpack():
        pass
    return answer.results


@given(
    strategies.lists(
        strategies.lists(strategies.lists(strategies.none() | strategies.binary(max_size=200), max_size=5)), max_size=5
    ),
    strategies.integers(1, 1000),
)
def test_rows_are_what_came_however_it_is_cut(results: list[Rows], cut: int) -> None:
    sent = b""
    for rows in results:
        sent += DESCRIPTION
        for each in rows:
            sent += message(*each) + p.message(p.NOTICE_RESPONSE, b"\0")
        sent += p.message(p.COMMAND_COMPLETE, b"SELECT\0")
    sent += READY
    answer = OwnAnswer(1 << 20)
    ends = [answer.feed(sent[at : at + cut]) for at in range(0, len(sent), cut)]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert answer.error is None
    assert rows_of(answer) == results


def test_long_rows_and_many() -> None:
    answer = OwnAnswer(64 << 20)
    rows: Rows = [[secrets.token_bytes(100_000), b"x" * number] for number in range(50)]
    rows += [[b"%d" % number] for number in range(5000)]
    answer.feed(DESCRIPTION)
    for each in rows:
        answer.feed(message(*each))
    assert answer.feed(READY)
    assert rows_of(answer) == [rows]


def test_error_ends_it() -> None:
    answer = OwnAnswer(1 << 20)
    error = p.error_response("ERROR", "42501", "no")
    assert answer.feed(DESCRIPTION + message(b"x") + error + READY)
    assert answer.error == error[5:]


@pytest.mark.parametrize(
    "sent",
    [
        message(),
        message(*[None] * 1000),
        DESCRIPTION,
        p.message(p.NOTICE_RESPONSE, b""),
        p.message(p.COMMAND_COMPLETE, b""),
        message(bytes(100_000)),
    ],
)
def test_attack_answer_without_end(sent: bytes) -> None:
    """What says nothing costs a message as well; what is not whole yet takes little memory."""
    chunk = DESCRIPTION + sent * (100_000 // len(sent) + 1)
    tracemalloc.start()
    answer = OwnAnswer(16 << 20)
    with pytest.raises(UpstreamFloodError, match="needs more than"):
        while True:
            answer.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_attack_answer_of_noise_does_not_shrink() -> None:
    answer = OwnAnswer(1 << 30)
    noise = message(secrets.token_bytes(100_000))
    with pytest.raises(UpstreamFloodError, match="packed"):
        while True:
            answer.feed(noise)


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\1", row(b"x") + b"x"])
def test_row_that_is_none(body: bytes) -> None:
    answer = OwnAnswer(1 << 20)
    assert answer.feed(DESCRIPTION + p.message(p.DATA_ROW, body) + READY)
    with pytest.raises(UpstreamProtocolError):
        rows_of(answer)


def test_row_ahead_of_its_description() -> None:
    answer = OwnAnswer(1 << 20)
    assert answer.feed(message(b"x") + READY)
    with pytest.raises(UpstreamProtocolError):
        rows_of(answer)


@pytest.mark.parametrize(
    "sent", [p.message(p.COPY_IN_RESPONSE), b"D\0\0\0\3", b"D\x7f\0\0\0", p.AUTHENTICATION_OK, b"\0\0\0\0\4"]
)
def test_message_that_does_not_belong_there(sent: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        OwnAnswer(1 << 20).feed(sent)

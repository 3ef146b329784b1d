"""The audit log: one JSON line an event, bounded, never blocking, and without what it must not hold."""

from __future__ import annotations

import inspect
import io
import itertools
import json
import threading
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor import audit, repeats
from proxy.monitor.audit import Audit, format_line


class StuckStream(io.StringIO):
    """A stream whose reader has stopped: write() does not return until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        assert self.released.wait(10)
        return super().write(text)


class BrokenOnce(io.StringIO):
    """A pipe whose reader restarts: the first write fails."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = threading.Event()

    def write(self, text: str) -> int:
        if not self.failed.is_set():
            self.failed.set()
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_line_an_event_in_order() -> None:
    stream = io.StringIO()
    log = Audit(stream)
    log.event("refused", rule="fn-writes", sqlstate="25006", session=7, seconds=0.5, tls=True, user=None)
    log.event("close", level="warning", reason="client_lost")
    log.close()
    first, second = written(stream)
    assert list(first) == ["ts", "level", "event", "rule", "sqlstate", "session", "seconds", "tls", "user"]
    assert (first["level"], first["event"], first["session"], first["tls"]) == ("info", "refused", 7, True)
    assert first["user"] is None
    assert (second["level"], second["event"], second["reason"]) == ("warning", "close", "client_lost")


def test_time_is_iso_8601_in_utc_with_milliseconds() -> None:
    assert json.loads(format_line(1700000000.1239, "info", "x", {}))["ts"] == "2023-11-14T22:13:20.123Z"
    assert json.loads(format_line(0.0, "info", "x", {}))["ts"] == "1970-01-01T00:00:00.000Z"
    stream = io.StringIO()
    log = Audit(stream)
    log.event("x")
    log.close()
    assert datetime.fromisoformat(written(stream)[0]["ts"]).utcoffset() is not None


def test_close_writes_more_than_one_batch() -> None:
    stream = io.StringIO()
    log = Audit(stream, clock=itertools.count().__next__)
    for number in range(10 * audit.BATCH + 3):
        log.event("x", number=number)
    log.close()
    assert [record["number"] for record in written(stream)] == list(range(10 * audit.BATCH + 3))
    assert log.dropped == 0


@pytest.mark.parametrize("level,expected", [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_is_the_lowest_that_is_written(level: str, expected: int) -> None:
    stream = io.StringIO()
    log = Audit(stream, level)
    for each in audit.LEVELS:
        log.event("x", level=each)
    log.close()
    assert len(written(stream)) == expected
    assert log.dropped == 0


def test_unknown_level_is_named() -> None:
    with pytest.raises(ValueError, match="'loud' is unknown; use one of debug, info, warning, error"):
        Audit(io.StringIO(), "loud")


def test_full_queue_drops_counts_and_says_so() -> None:
    stream = StuckStream()
    log = Audit(stream, max_queue=3)
    log.event("first")
    assert stream.entered.wait(10)  # the writer holds the first one and is stuck with it
    for number in range(8):
        log.event("x", number=number)
    assert log.dropped == 5
    stream.released.set()
    log.close()
    records = written(stream)
    assert [record.get("number") for record in records if record["event"] == "x"] == [0, 1, 2]
    assert records[-1]["event"] == "audit records dropped"
    assert (records[-1]["dropped_total"], records[-1]["level"]) == (5, "warning")


def test_close_does_not_wait_for_ever_for_a_stuck_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "CLOSE_SECONDS", 0.01)
    stream = StuckStream()
    log = Audit(stream)
    log.event("x")
    assert stream.entered.wait(10)
    log.close()
    assert stream.getvalue() == ""
    stream.released.set()
    log._writer.join(10)
    assert not log._writer.is_alive()


def test_event_after_close_is_counted() -> None:
    log = Audit(io.StringIO())
    log.close()
    log.close()
    log.event("late")
    assert log.dropped == 1
    assert repr(log) == "<Audit closed waiting=0 dropped=1>"


def test_broken_pipe_is_counted_and_the_writer_lives_on() -> None:
    stream = BrokenOnce()
    log = Audit(stream)
    log.event("lost")
    assert stream.failed.wait(10)
    log.event("kept")
    log.close()
    assert log.dropped >= 1
    records = written(stream)
    assert records[-1]["event"] == "audit records dropped"
    assert [r["event"] for r in records if r["event"] in ("kept", "lost")] == ["kept"]


class Clock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_attack_refusals_that_fill_the_log() -> None:
    stream = io.StringIO()
    log = Audit(stream, clock=Clock())
    for session in range(50_000):
        log.event("refused", session=session, user="ada", rule="ddl")
    log.close()
    records = written(stream)
    assert [record["session"] for record in records[:-1]] == list(range(repeats.LINES))
    assert {**records[-1], "ts": ""} == {
        "ts": "",
        "level": "info",
        "event": "refused",
        "user": "ada",
        "rule": "ddl",
        "repeated": 50_000 - repeats.LINES,
    }
    assert log.dropped == 0


def test_what_was_counted_is_written_before_the_first_event_of_another_second() -> None:
    stream, clock = io.StringIO(), Clock()
    log = Audit(stream, clock=clock)
    for _ in range(25):
        log.event("refused", rule="ddl")
    clock.now += 1
    log.event("close")
    log.event("refused", rule="ddl")
    log.close()
    assert [(record["event"], record.get("repeated")) for record in written(stream)[repeats.LINES :]] == [
        ("refused", 15),
        ("close", None),
        ("refused", None),
    ]


def test_what_was_counted_is_written_when_nothing_more_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "LOOK_SECONDS", 0.001)
    told = threading.Event()

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            if "repeated" in text:
                told.set()
            return super().write(text)

    stream, clock = Watched(), Clock()
    log = Audit(stream, clock=clock)
    for _ in range(25):
        log.event("refused", rule="ddl")
    clock.now += 1
    assert told.wait(10)
    log.close()
    assert [record["repeated"] for record in written(stream) if "repeated" in record] == [15]


def test_count_goes_on_while_the_queue_is_full() -> None:
    stream, clock = StuckStream(), Clock()
    log = Audit(stream, clock=clock, max_queue=repeats.LINES)
    log.event("first")
    assert stream.entered.wait(10)
    for _ in range(5):
        for _ in range(100):
            log.event("refused", rule="ddl")
        clock.now += 1
    stream.released.set()
    log.close()
    records = written(stream)
    assert sum(record.get("repeated", 1) for record in records if record["event"] == "refused") == 500
    assert log.dropped == 0


def test_lost_line_counts_for_all_that_it_stands_for() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    log = Audit(Broken(), clock=Clock())
    for _ in range(500):
        log.event("refused", rule="ddl")
    log.close()
    assert log.dropped == 500


@pytest.mark.parametrize("attack", ['x\n{"event":"forged"}', "x\r\n", "\x1b[2J", "\x9b2J", "\x7f", "\u2028", "\ud800"])
def test_attack_value_that_forges_a_line_or_moves_the_cursor(attack: str) -> None:
    line = format_line(0.0, "info", "login", {"application": attack})
    assert line.endswith("\n")
    assert all(" " <= char <= "~" for char in line[:-1])
    assert json.loads(line)["application"] == attack


def test_attack_value_that_fills_the_log() -> None:
    stream = io.StringIO()
    log = Audit(stream)
    log.event("login", exact="a" * 1024, over="b" * 1025, huge="é" * 1_000_000)
    log.close()
    record = written(stream)[0]
    assert record["exact"] == "a" * 1024
    assert record["over"] == "b" * 1024 + "…"
    assert record["huge"] == "é" * 512 + "…"


def test_what_waits_is_already_cut() -> None:
    stream = StuckStream()
    log = Audit(stream)
    log.event("first")
    assert stream.entered.wait(10)
    log.event("login", application="x" * 10_000_000)
    waiting = log._queue.get()
    assert waiting is not None
    assert len(str(waiting[3]["application"])) <= audit.MAX_VALUE_BYTES + 1
    stream.released.set()
    log.close()


def test_there_is_no_parameter_for_a_statement_and_such_fields_are_blanked() -> None:
    named = {name for name, p in inspect.signature(Audit.event).parameters.items() if p.kind is not p.VAR_KEYWORD}
    assert named == {"self", "event", "level"}
    line = format_line(0.0, "info", "x", {"query": "select 'secret'", "password": "secret", "rule": "r"})
    assert "secret" not in line
    assert json.loads(line)["rule"] == "r"


def test_fields_cannot_replace_ts_level_and_event() -> None:
    fields: dict[str, repeats.Value] = {"ts": "never", "event": "forged", "user": "bi"}
    record = json.loads(format_line(0.0, "info", "login", fields))
    assert record == {"ts": "1970-01-01T00:00:00.000Z", "level": "info", "event": "login", "user": "bi"}


def test_an_object_that_slipped_in_shows_its_type_only() -> None:
    fields: Any = {"error": ValueError("select 'secret'"), "raw": b"secret"}
    record = json.loads(format_line(0.0, "info", "x", fields))
    assert (record["error"], record["raw"]) == ("<ValueError>", "<bytes>")


def test_numbers_that_json_does_not_have() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    line = format_line(0.0, "info", "x", {"a": float("nan"), "b": float("-inf")})
    record = json.loads(line, parse_constant=refuse)
    assert (record["a"], record["b"]) == ("nan", "-inf")


def test_events_of_many_threads_are_all_there() -> None:
    stream = io.StringIO()
    log = Audit(stream, clock=itertools.count().__next__)

    def work(thread: int) -> None:
        for number in range(200):
            log.event("x", thread=thread, number=number)

    threads = [threading.Thread(target=work, args=(each,)) for each in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    log.close()
    records = written(stream)
    for thread in range(4):
        assert [r["number"] for r in records if r["thread"] == thread] == list(range(200))


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    log = Audit()
    log.event("started")
    log.close()
    assert json.loads(capsys.readouterr().err)["event"] == "started"


@given(st.text(max_size=3000), st.dictionaries(st.text(max_size=5), st.text(max_size=3000) | st.floats(), max_size=3))
def test_any_text_is_one_line_of_json(event: str, fields: dict[str, repeats.Value]) -> None:
    line = format_line(0.0, "info", event, fields)
    assert line.count("\n") == 1
    assert isinstance(json.loads(line), dict)

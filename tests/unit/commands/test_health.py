"""What `sidecart health` makes of a page."""

from __future__ import annotations

import json

import pytest

from proxy.operating.asking import here, judge


def page(**body: object) -> bytes:
    return json.dumps({"status": "failing", **body}).encode()


def test_status_200_is_well() -> None:
    assert judge(200, b"", live=False) == (True, "ready")
    assert judge(200, b"", live=True) == (True, "alive")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (page(failing={"shop": "no\nway", "b": "x"}), "not ready: database shop: no way; database b: x"),
        (page(draining=True, failing={"shop": "x"}), "not ready: SideCart is shutting down."),
        (page(stuck=True, failing={}), "stuck: the event loop has not turned for seconds."),
        (b"[]", "unknown: the page has status 503, and is none of SideCart's."),
        (b"\xff", "unknown: the page has status 503, and is none of SideCart's."),
    ],
)
def test_one_line_says_why(body: bytes, line: str) -> None:
    assert judge(503, body, live=False) == (False, line)


def test_another_programs_page_is_not_ours() -> None:
    assert judge(404, page(), live=False) == (False, "unknown: the page has status 404, and is none of SideCart's.")


def test_live_says_that_the_loop_is_stuck() -> None:
    assert judge(503, page(clients=1), live=True) == (False, "stuck: the event loop has not turned for seconds.")


@pytest.mark.parametrize(
    ("listened", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.0.0.7", "10.0.0.7"), ("localhost", "localhost")],
)
def test_who_listens_everywhere_is_asked_on_the_loopback(listened: str, asked: str) -> None:
    assert here(listened) == asked

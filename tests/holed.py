"""SideCart with a hole in its filter: what has the mark is let through, whatever it is, and so is set_config() by OID.

What the other layers do by themselves is seen only where the first one fails: `python -m tests.holed serve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from proxy.cli import main
from proxy.filter import Filter
from proxy.sql.verdict import Action, Verdict

HOLE = "/* hole */"
SET_CONFIG = 2078

_judge, _judge_function_call = Filter.judge, Filter.judge_function_call


def judge(
    self: Filter, sql: bytes, encoding: str = "utf-8", *, extended: int = False, types: tuple[int, ...] = ()
) -> Verdict:
    """Judge as ever, and let through what has the mark."""
    verdict = _judge(self, sql, encoding, extended=extended, types=types)
    return replace(verdict, action=Action.ALLOW) if HOLE.encode() in sql else verdict


def judge_function_call(self: Filter, oid: int, formats: Sequence[int], arguments: Sequence[bytes | None]) -> Verdict:
    """Judge as ever, but let set_config() through."""
    verdict = _judge_function_call(self, oid, formats, arguments)
    return replace(verdict, action=Action.ALLOW) if oid == SET_CONFIG else verdict


if __name__ == "__main__":
    Filter.judge = judge  # type: ignore[method-assign]
    Filter.judge_function_call = judge_function_call  # type: ignore[method-assign]
    main()

"""Measure which branches of the resolver's code a run has taken: every conditional jump, both ways.

Slow, by tracing opcodes: for a sample. What a jump's other way would be is read from the compiled code.
"""

from __future__ import annotations

import dis
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from itertools import pairwise
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple, Self

from proxy.sql import resolve

_LOADING = frozenset({"built_in", "rows", "world"})
"""Modules that read a catalogue: no statement has a part in what they do."""


class Branch(NamedTuple):
    """One way out of a conditional jump."""

    module: str
    function: str
    line: int
    jumps: bool
    """Whether it is the jump, and not what follows."""


def _codes() -> Iterator[CodeType]:
    """Yield the code of every function of the resolver, once."""
    waiting: list[CodeType] = []
    for module in pkgutil.walk_packages(resolve.__path__, resolve.__name__ + "."):
        if module.name.rsplit(".", 1)[-1] in _LOADING:
            continue
        found = importlib.import_module(module.name)
        source = found.__loader__.get_code(module.name)  # type: ignore[union-attr]
        waiting += [each for each in source.co_consts if isinstance(each, CodeType)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]


class Branching:
    """Note the jumps of the resolver that run: a context manager."""

    def __init__(self) -> None:
        self._ways: dict[tuple[str, int, int], dict[int, Branch]] = {}
        """By function (file, first line) and the jump's offset: where it goes, and what that is."""
        self._seen: set[tuple[str, int, int, int]] = set()
        self._jumps: dict[tuple[str, int], frozenset[int]] = {}
        for code in _codes():
            key = (code.co_filename, code.co_firstlineno)
            jumps = set()
            line = code.co_firstlineno
            instructions = list(dis.get_instructions(code))
            for instruction, after in pairwise(instructions):
                line = instruction.starts_line or line
                if "_IF_" in instruction.opname or instruction.opname == "FOR_ITER":
                    jumps.add(instruction.offset)
                    where = code.co_filename.rsplit("/", 1)[-1]
                    self._ways[(*key, instruction.offset)] = {
                        after.offset: Branch(where, code.co_qualname, line, jumps=False),
                        int(instruction.argval): Branch(where, code.co_qualname, line, jumps=True),
                    }
            self._jumps[key] = self._jumps.get(key, frozenset()) | jumps

    def __enter__(self) -> Self:
        sys.settrace(self._called)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(None)

    def _called(self, frame: FrameType, event: str, _: Any) -> Any:
        key = (frame.f_code.co_filename, frame.f_code.co_firstlineno)
        jumps = self._jumps.get(key)
        if not jumps:
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        last = -1

        def ran(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal last
            if event == "opcode":
                if last in jumps:
                    self._seen.add((*key, last, frame.f_lasti))
                last = frame.f_lasti
            return ran

        return ran

    def report(self) -> str:
        """Say which branches were not taken, one a line, after the count."""
        taken, left = self._taken()
        lines = [f"{each.module}:{each.line} {each.function}{' jumps' * each.jumps}" for each in sorted(left)]
        return "\n".join((f"{len(taken)} of {len(taken) + len(left)} branches taken; not:", *lines))

    def _taken(self) -> tuple[set[Branch], set[Branch]]:
        taken: set[Branch] = set()
        every: set[Branch] = set()
        for (*key, offset), ways in self._ways.items():
            for target, branch in ways.items():
                every.add(branch)
                if (*key, offset, target) in self._seen:
                    taken.add(branch)
        return taken, every - taken

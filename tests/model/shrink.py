"""Make a sketch that fails as short as it can be: clients, writes and messages go, as long as it still fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.model.sketch import Part, Sketch, Write, is_safe


def shrunk(found: Sketch, fails: Callable[[Sketch], bool], attempts: int = 400) -> Sketch:
    """Return the smallest sketch reached in so many attempts; `fails` tells of a smaller one whether it fails too."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(found):
            if not all(is_safe(list(part.messages)) for part in candidate.parts):
                continue
            if not attempts:
                return found
            attempts -= 1
            if fails(candidate):
                found, smaller = candidate, True
                break
    return found


def _smaller(whole: Sketch) -> Iterator[Sketch]:
    """Yield what is left when something is left out: the largest parts first."""
    yield from _fewer_clients(whole)
    if whole.order:
        yield replace(whole, order=())
    for who, part in enumerate(whole.parts):
        for start, stop in _spans(len(part.writes)):
            yield _without_writes(whole, who, start, stop)
    for who, part in enumerate(whole.parts):
        for number, write in enumerate(part.writes):
            if write.times > 1:
                for times in sorted({1, write.times // 2, write.times - 1}):
                    yield _with_write(whole, who, number, replace(write, times=times))
            for start, stop in _spans(len(write.messages)):
                if stop - start < len(write.messages):
                    messages = write.messages[:start] + write.messages[stop:]
                    yield _with_write(whole, who, number, replace(write, messages=messages))
    yield from _simpler(whole)


def _spans(count: int) -> Iterator[tuple[int, int]]:
    """Yield halves, quarters, and so on of a sequence, down to single elements."""
    size = count
    while size:
        for start in range(0, count, size):
            yield start, min(start + size, count)
        size //= 2


def _fewer_clients(whole: Sketch) -> Iterator[Sketch]:
    for start, stop in _spans(len(whole.parts)):
        if stop - start < len(whole.parts):
            left = [number for number in range(len(whole.parts)) if not start <= number < stop]
            order = tuple(left.index(number) for number in whole.order if number in left)
            yield Sketch(tuple(whole.parts[number] for number in left), order)


def _simpler(whole: Sketch) -> Iterator[Sketch]:
    for number in range(len(whole.order)):
        yield replace(whole, order=whole.order[:number] + whole.order[number + 1 :])
    for who, part in enumerate(whole.parts):
        if part.leaves:
            yield _with_part(whole, who, replace(part, leaves=False))
        for number in range(len(part.parameters)):
            parameters = part.parameters[:number] + part.parameters[number + 1 :]
            yield _with_part(whole, who, replace(part, parameters=parameters))
        for number, write in enumerate(part.writes):
            if write.cut:
                yield _with_write(whole, who, number, replace(write, cut=0))
            if not write.waits:
                yield _with_write(whole, who, number, replace(write, waits=True))


def _with_part(whole: Sketch, who: int, part: Part) -> Sketch:
    return replace(whole, parts=(*whole.parts[:who], part, *whole.parts[who + 1 :]))


def _with_write(whole: Sketch, who: int, number: int, write: Write) -> Sketch:
    writes = whole.parts[who].writes
    return _with_part(whole, who, replace(whole.parts[who], writes=(*writes[:number], write, *writes[number + 1 :])))


def _without_writes(whole: Sketch, who: int, start: int, stop: int) -> Sketch:
    """Leave writes out, with their turns."""
    writes = whole.parts[who].writes
    order = []
    turn = 0
    for number in whole.order:
        if number != who:
            order.append(number)
            continue
        if not start <= turn < stop:
            order.append(number)
        turn += 1
    part = replace(whole.parts[who], writes=writes[:start] + writes[stop:])
    return replace(_with_part(whole, who, part), order=tuple(order))

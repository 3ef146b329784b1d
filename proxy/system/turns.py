"""Turns on the event loop: who has much to be read gets a little of the loop's time, and all others come in between.

libuv reads a stream again and again, up to 32 buffers of 256 kB, before it looks at the next one: of a big result all
that the kernel has came at once, and whoever had one small question waited for it. A server that sends nothing but tiny
messages makes the same bytes a hundred times as dear, so that a turn is bounded by time, not by bytes alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

SHORT: Final = 2048
"""Bytes that are passed on as they come, without a look at the clock: what most statements and their answers have."""
PIECE: Final = 16_384
"""Bytes that are passed on at once; then the clock is looked at. So it begins: a stream whose bytes cost more than a
turn gets smaller pieces, and one whose bytes cost little, such as those of long rows, gets larger ones."""
LEAST_PIECE: Final = 1024
LARGEST_PIECE: Final = 65_536
TURN: Final = 0.001
"""Seconds that a stream has before the others are looked at: an iteration of the loop has one such turn."""


class Turns:
    """Keep the line of those who have more than a piece; in each iteration of the event loop the first has its turn."""

    __slots__ = ("_called", "_line", "_loop", "now")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._loop = asyncio.get_running_loop()
        self._line: deque[Intake] = deque()
        self._called = False
        self.now = now

    @property
    def free(self) -> bool:
        """Whether nobody stands in line: then a turn may begin at once."""
        return not self._line

    def stand(self, intake: Intake) -> None:
        """Let it stand in line; it is told by `step`, not before this returns."""
        self._line.append(intake)
        self._call()

    def _call(self) -> None:
        if self._line and not self._called:
            self._called = True
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        """Let those go on who only want to read again, and one have its turn."""
        line = self._line
        try:
            for _ in range(len(line)):
                if line.popleft().step():
                    break
        finally:
            self._called = False
            self._call()


class Intake(asyncio.Protocol):
    """Pass on what a transport reads, a turn at a time. `inner` sees this object as its transport.

    Reading pauses while a turn is awaited, and while `inner` has paused it, which then gets nothing more: neither what
    the kernel has, nor what was read already.
    """

    __slots__ = ("_at", "_held", "_inner", "_piece", "_raw", "_reading", "_rest", "_standing", "_turns", "write")

    write: Callable[[bytes], None]

    def __init__(self, turns: Turns, inner: asyncio.Protocol) -> None:
        self._turns = turns
        self._inner = inner
        self._raw: asyncio.Transport | None = None
        self._rest = b""
        self._at = 0  # how much of it has been passed on
        self._piece = PIECE
        self._reading = True
        self._held = False
        self._standing = False

    # --- protocol of the transport --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = raw = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self.write = raw.write  # no call in between
        self._inner.connection_made(cast(asyncio.BaseTransport, self))

    def data_received(self, data: bytes) -> None:
        if not self._rest:
            size = len(data)
            if size <= SHORT:
                self._inner.data_received(data)
                return
            if size <= PIECE and size <= self._piece:
                self._pass_on(data, self._turns.now())
                return
        self._rest = self._rest[self._at :] + data if self._rest else data
        self._at = 0
        self._read(False)
        if self._turns.free:
            self._turn()
        self._stand()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest = b""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    # --- turns ----------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Go on, as the first in line; return whether that was a turn, and not only the end of a pause."""
        self._standing = False
        if self._held or not self._rest:
            self._read(not self._held)
            return False
        self._turn()
        self._stand()
        return True

    def _turn(self) -> None:
        """Pass on pieces until the turn is over, all is passed on, or nobody wants more."""
        now = self._turns.now()
        until = now + TURN
        while self._rest and not self._held and now < until and not self.is_closing():
            at = self._at
            self._at = at + self._piece
            piece = self._rest[at : self._at]
            if self._at >= len(self._rest):
                self._rest = b""
            try:
                now = self._pass_on(piece, now)
            except BaseException:
                self.abort()  # as the loop does where a protocol fails in its own callback
                raise

    def _pass_on(self, piece: bytes, began: float) -> float:
        """Pass on one piece, and learn from the time that it takes; return when it was done."""
        self._inner.data_received(piece)
        ended = self._turns.now()
        if ended - began > TURN:
            self._piece = max(LEAST_PIECE, self._piece // 2)
        elif ended - began < TURN / 8:
            self._piece = min(LARGEST_PIECE, self._piece * 2)
        return ended

    def _stand(self) -> None:
        if not self._standing and not self._held:
            self._standing = True
            self._turns.stand(self)

    def _read(self, wanted: bool) -> None:
        raw = self._raw
        if raw is None or raw.is_closing() or wanted is self._reading:
            return
        self._reading = wanted
        if wanted:
            raw.resume_reading()
        else:
            raw.pause_reading()

    # --- transport of the inner protocol --------------------------------------------------------------------------

    def hand_over(self, inner: asyncio.Protocol, data: bytes) -> None:
        """Pass on to another protocol from now on, first what the one before has got and not used."""
        self._inner = inner
        inner.connection_made(cast(asyncio.BaseTransport, self))
        if data and not self.is_closing():
            inner.data_received(data)

    def pause_reading(self) -> None:
        self._held = True
        self._read(False)

    def resume_reading(self) -> None:
        self._held = False
        if self._rest:
            self._stand()
        elif not self._standing:
            self._read(True)

    def is_closing(self) -> bool:
        return self._raw is None or self._raw.is_closing()

    def get_write_buffer_size(self) -> int:
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def write_eof(self) -> None:
        if self._raw is not None:
            self._raw.write_eof()

    def close(self) -> None:
        self._rest = b""
        if self._raw is not None:
            self._raw.close()

    def abort(self) -> None:
        self._rest = b""
        if self._raw is not None:
            self._raw.abort()

"""Keep one helper process: start it, ask it one thing at a time, end it when it rests or takes too long.

Requests and answers go over its standard input and output; it ends when its input does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

import msgspec

from proxy.databases.helpers.messages import PATIENCE, PIECE_HEAD, Answer, Step, read_answer
from proxy.errors import SideCartError
from proxy.stats import Stats
from proxy.system import environment

REST: Final = 600.0
"""Seconds without work after which a helper ends: it costs 30 MB, and 0.3 s to start again."""
_INTERPRETER: Final = ("PYTHON", "VIRTUAL_ENV", "COVERAGE_", "MALLOC_")
"""How the names of variables begin that a helper gets beside the ordinary ones, and what it is run and watched by."""


class HelperLostError(SideCartError):
    """The helper died, or was killed, because it was `late` or for another reason.

    `step` is what it had said it would do next, if anything.
    """

    def __init__(self, message: str, step: int | None = None, *, late: bool = False) -> None:
        super().__init__(message)
        self.step = step
        self.late = late


class Helper:
    """Supervise one helper process: start it, ask it one thing at a time, end it when it rests or takes too long."""

    def __init__(self, name: str, stats: Stats, command: tuple[str, ...] = ()) -> None:
        self._name = name
        self._stats = stats
        self._command = command or (sys.executable, "-P", "-m", "proxy.databases.helpers.worker")
        self._process: Process | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._started = 0

    async def start(self) -> int:
        """Have a process running, and return its number: another number is another process. Raises OSError."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._process is None or self._process.gone:
            await self._ended()  # there is never more than one
            loop = asyncio.get_running_loop()
            _, process = await loop.subprocess_exec(
                Process, *self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment_of(os.environ)
            )
            self._process = process
            self._started += 1
            self._stats.helper_starts[self._name] += 1
        return self._started

    def tell(self, request: bytes) -> None:
        """Send what has no answer."""
        if self._process is not None:
            self._process.send(request)

    async def ask(self, request: bytes, pieces: list[bytes] | None = None, *, patience: float | None = None) -> Answer:
        """Send a request to the process that `start` gave, and return its answer. Raises HelperLostError.

        Pieces that come ahead of the answer are added to `pieces` as they came. Each step on the way has `patience`
        seconds, or else PATIENCE.
        """
        process = self._process
        if process is None:
            raise HelperLostError("it is not running")
        try:
            answer = await process.ask(
                request, [] if pieces is None else pieces, PATIENCE if patience is None else patience
            )
        except BaseException:
            # Also where this task is cancelled: the answer would be taken for the next request's.
            process.kill()
            raise
        self._rest = asyncio.get_running_loop().call_later(REST, process.kill)
        return answer

    async def close(self) -> None:
        """End the process, and wait until the kernel has let go of it."""
        if self._rest is not None:
            self._rest.cancel()
        if self._process is not None:
            self._process.kill()
        await self._ended()

    async def _ended(self) -> None:
        if self._process is not None:
            await self._process.ended
            self._process = None


class Process(asyncio.SubprocessProtocol):
    """The serving end of a helper's pipes."""

    def __init__(self) -> None:
        self.gone = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._pieces: list[bytes] = []
        self._limit: asyncio.Timeout | None = None
        self._patience = PATIENCE
        self._step: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)  # uvloop's are not subclasses
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def send(self, request: bytes) -> None:
        if self._stdin is not None and not self.gone:
            self._stdin.writelines((len(request).to_bytes(4, "big"), request))

    async def ask(self, request: bytes, pieces: list[bytes], patience: float = PATIENCE) -> Answer:
        """Return the answer; each step on the way to it has its own `patience` seconds. Raises HelperLostError."""
        self._step = None
        self._patience = patience
        self._pieces = pieces
        self._answer = asyncio.get_running_loop().create_future()
        if self.gone:
            raise HelperLostError("it has ended")
        self.send(request)
        try:
            async with asyncio.timeout(patience) as self._limit:
                return await self._answer
        except TimeoutError as error:
            raise HelperLostError(f"it took longer than {patience:g} s", self._step, late=True) from error
        finally:
            self._answer = self._limit = None

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:4], "big")
            if len(buffer) < end:
                return
            frame = bytes(buffer[4:end])
            del buffer[:end]
            self._take(frame)

    def _take(self, frame: bytes) -> None:
        if frame.startswith(PIECE_HEAD):
            self._pieces.append(frame)
            self._go_on()
            return
        try:
            answer = read_answer(frame)
        except msgspec.MsgspecError:
            self._lose("it sent what is no answer")
            return
        if isinstance(answer, Step):
            self._step = answer.oid
            self._go_on()
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _go_on(self) -> None:
        """Give the helper its patience anew: it has taken a step."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + self._patience)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        self._lose("it ended")

    def process_exited(self) -> None:
        self._lose("it ended")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _lose(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(HelperLostError(why, self._step))
        self.kill()

    def kill(self) -> None:
        """End the process now: it holds nothing that could be lost."""
        if self.gone or self._transport is None:
            return
        self.gone = True
        if self._transport.get_returncode() is None:
            self._transport.kill()
        self._transport.close()


def environment_of(given: Mapping[str, str]) -> dict[str, str]:
    """Return the helper's environment: no passwords, and this very package."""
    kept = environment.small(given, beginnings=_INTERPRETER)
    path = [str(Path(__file__).parents[3]), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path)}

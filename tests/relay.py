"""A TCP relay that a test can cut: between SideCart and PostgreSQL, in a thread and an event loop of its own.

It forwards bytes and knows nothing of the protocol; counting bytes of an answer makes sense only without TLS.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, on and 0 seconds: close() sends RST


class Relay:
    """Listen on a free port of 127.0.0.1 and forward to `port` there; a context manager.

    What its methods ask for is done when they return.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay")
        self._pairs: set[_Pair] = set()
        self._cut: _Cut | None = None
        self._silent = False
        self._words: tuple[bytes, bytes] = (b"", b"")
        self._heard = bytearray()

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def reset(self) -> int:
        """Send RST on every connection, both ways; return how many there were."""

        def end() -> int:
            pairs = list(self._pairs)
            for pair in pairs:
                pair.end(reset=True)
            return len(pairs)

        return self._call(end)

    def cut_after(self, count: int, marker: bytes, *, reset: bool, last: bytes = b"") -> None:
        """End the next connection that carries `marker` to the server, after `count` more bytes of the server's.

        With RST, or else with FIN; `last` comes first, in one piece with those bytes, as if the server had sent it. The
        bytes are counted from when the marker has passed.
        """

        def arm() -> None:
            self._cut = _Cut(count, marker, reset, last)

        self._call(arm)

    @property
    def cut(self) -> bool:
        """Whether what `cut_after` asked for has happened."""
        return self._cut is None

    def disarm(self) -> None:
        """Forget what `cut_after` asked for."""

        def forget() -> None:
            self._cut = None

        self._call(forget)

    def silence(self, silent: bool) -> None:
        """Swallow whatever comes, in both directions, and go on taking connections: a black hole. Or end that."""

        def switch() -> None:
            self._silent = silent

        self._call(switch)

    def put_in_place(self, words: bytes, others: bytes) -> None:
        """Put others in the place of the server's words, where these come in one piece."""
        assert len(words) == len(others)  # it forwards messages, of which it knows no length

        def switch() -> None:
            self._words = (words, others)

        self._call(switch)

    def heard(self, marker: bytes) -> int:
        """Return how often this went to the server."""
        return self._call(lambda: self._heard.count(marker))

    # --- in the thread --------------------------------------------------------------------------------------------

    def _call(self, act: Callable[[], T]) -> T:
        async def run() -> T:
            return act()

        return self._do(run())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> int:
        self._server = await self._loop.create_server(lambda: _Pair(self), "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _end(self) -> None:
        self._server.close()
        for pair in list(self._pairs):
            pair.end(reset=True)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # the transports that were aborted close in the next round

    def add(self, pair: _Pair) -> None:
        self._pairs.add(pair)
        self._loop.create_task(pair.connect(self.target))

    def remove(self, pair: _Pair) -> None:
        self._pairs.discard(pair)

    def to_server(self, pair: _Pair, data: bytes) -> bytes:
        self._heard += data
        pair.said += data
        if self._cut is not None and self._cut.pair is None and self._cut.marker in pair.said:
            self._cut.pair = pair
            self._end_now_if_due(pair)
        return b"" if self._silent else data

    def to_client(self, pair: _Pair, data: bytes) -> bytes:
        if self._silent:
            return b""
        words, others = self._words
        data = data.replace(words, others) if words else data
        cut = self._cut
        if cut is not None and cut.pair is pair:
            data = data[: cut.left]
            cut.left -= len(data)
            if not cut.left:
                data += cut.last
        return data

    def sent(self, pair: _Pair) -> None:
        """Learn that what `to_client` returned is on its way."""
        self._end_now_if_due(pair)

    def _end_now_if_due(self, pair: _Pair) -> None:
        cut = self._cut
        if cut is not None and cut.pair is pair and not cut.left:
            self._cut = None
            pair.end(reset=cut.reset)


class _Cut:
    """Where a connection is to end."""

    def __init__(self, left: int, marker: bytes, reset: bool, last: bytes) -> None:
        self.last = last
        self.left = left
        self.marker = marker
        self.reset = reset
        self.pair: _Pair | None = None


class _Pair(asyncio.Protocol):
    """One connection through the relay: this is its near side, `_Far` the side of the server."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.near: asyncio.Transport | None = None
        self.far: asyncio.Transport | None = None
        self.said = bytearray()
        """What has gone to the server."""
        self._early = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.near = transport
        self._relay.add(self)

    async def connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Far(self), "127.0.0.1", port)
        except OSError:
            self.end(reset=True)  # as near as one can get to a connection that is refused

    def reached(self, far: asyncio.Transport) -> None:
        self.far = far
        if self.near is None:
            far.abort()
        elif self._early:
            far.write(bytes(self._early))

    def data_received(self, data: bytes) -> None:
        data = self._relay.to_server(self, data)
        if self.far is None:
            self._early += data
        elif data:
            self.far.write(data)

    def from_server(self, data: bytes) -> None:
        data = self._relay.to_client(self, data)
        if data and self.near is not None:
            self.near.write(data)
        self._relay.sent(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.end(reset=False)

    def end(self, *, reset: bool) -> None:
        """Close both sides."""
        self._relay.remove(self)
        near, self.near = self.near, None
        far, self.far = self.far, None
        for transport in (near, far):
            if transport is None:
                continue
            if reset:
                sock = transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
                transport.abort()
            else:
                transport.close()


class _Far(asyncio.Protocol):
    def __init__(self, pair: _Pair) -> None:
        self._pair = pair

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._pair.reached(transport)

    def data_received(self, data: bytes) -> None:
        self._pair.from_server(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._pair.end(reset=False)

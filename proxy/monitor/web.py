"""Serve /metrics, /healthz, /readyz and /sessions over HTTP, in a thread with an event loop of its own.

A loop of its own, because /healthz has to answer when that of the sessions does not; pages are made in threads beside
it, where none of them waits for another. h11 reads the requests. The bounds on connections and on time are here, since
no server has them all: uvicorn waits for ever for a request, waitress for one that drips, aiohttp for a client that
reads no answer, and none of them ends a silent connection to make room for a health check.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Final, NamedTuple, TypeAlias

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Check: TypeAlias = Callable[[], tuple[bool, dict[str, object]]]
Listing: TypeAlias = Callable[[], list[dict[str, str | int | float | None]]]

MAX_REQUESTS: Final = 16
"""Requests served at a time. Prometheus and a kubelet need three. For one more, the request that waits for its client
for longest is ended: whoever opens connections and says nothing keeps no health check out. Where all of them wait for
their pages, one more is answered 503."""

MAX_PAGES: Final = 8
"""Pages made at a time, but for the health pages: those cost nothing, and never wait for the others."""

HEALTH: Final = ("/healthz", "/readyz")

MAX_HEAD: Final = 16_384
"""Bytes that a request may have, and as much is read of it at a time; a body is never read."""

MAX_HEADERS: Final = 100
"""Header lines that it may have."""

ARRIVAL_DEADLINE: Final = 5.0
"""Seconds in which a request has to be there, however many bytes come meanwhile."""

DELIVERY_DEADLINE: Final = 5.0
"""Seconds in which the client has to have taken the answer."""

ACCEPT_PAUSE: Final = 0.25
"""Seconds without accepting, after there was no file descriptor for a client."""

METHODS: Final = (b"GET", b"HEAD")

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_NOT_FOUND: Final = (
    b"Not found. There are /metrics, /healthz, /readyz and, where metrics.sessions_key is set, /sessions.\n"
)
_NOT_HERE: Final = b"Who is connected is told to this machine only: ask from here, with sidecart sessions.\n"
_WRONG_KEY: Final = (
    b"Who is connected is told to whoever has the key: Authorization: Bearer, and metrics.sessions_key.\n"
)
_METHOD_NOT_ALLOWED: Final = b"Only GET and HEAD are served here.\n"
_TOO_MANY: Final = b"Too many pages are being made.\n"
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


class Page(NamedTuple):
    """An answer: its status, the type of its content, that content, and headers that only it has."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Web:
    """Serve these pages on one port.

    `health` and `ready` return whether all is well, which makes 200 or 503, and what the JSON body says beside
    `"status"`. They, and the registry's collectors, are called in the threads of this server while the sessions' loop
    runs: they may read plain attributes (a load is atomic) and copies of containers, and must change nothing.
    `sessions` lists who is connected, for /sessions: it names users and addresses, so only loopback addresses get it,
    and of those who has `sessions_key`. On a machine with other users, or with a program that fetches what it is told
    to, an address proves nothing. Without a key there is no such page. `on_error` is called, in such a thread, with the
    exception of a page that could not be made; the client sees a bare 500.
    """

    __slots__ = ("_close", "_host", "_port", "_site", "_thread")

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        health: Check,
        ready: Check,
        *,
        sessions: Listing = list,
        sessions_key: str = "",
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._site = _Site(registry, health, ready, sessions, sessions_key, on_error)
        self._thread: threading.Thread | None = None
        self._close: Callable[[], object] = bool

    @property
    def port(self) -> int:
        """The port that is listened on; before `start`, the one that was asked for (0: any)."""
        return self._port

    def start(self) -> None:
        """Bind, listen and serve in a daemon thread. Raises OSError if the address is in use or unknown."""
        if self._thread is not None:
            raise RuntimeError("Web.start() was called twice")
        listener = _listener(self._host, self._port)
        self._port = listener.getsockname()[1]
        runner = asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)
        loop, closed = runner.get_loop(), asyncio.Event()

        def run() -> None:
            with runner:  # its end cancels what is still being answered
                runner.run(_Visits(self._site).serve(listener, closed))

        self._close = lambda: loop.call_soon_threadsafe(closed.set)
        self._thread = threading.Thread(target=run, name="web", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end the requests that run. Does nothing if it is not started."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._close()
            thread.join()


def _listener(host: str, port: int) -> socket.socket:
    """Bind a socket. Raises OSError."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # "localhost" is both ::1 and 127.0.0.1, and one socket is one of them: what probes it mostly says 127.0.0.1.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # `::` takes IPv4, too
    listener = socket.create_server(address, family=family, backlog=MAX_REQUESTS, dualstack_ipv6=both)
    listener.setblocking(False)
    return listener


class _Site:
    """Make the pages."""

    __slots__ = ("_health", "_on_error", "_ready", "_registry", "_sessions", "_sessions_key")

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Check,
        ready: Check,
        sessions: Listing,
        sessions_key: str,
        on_error: Callable[[Exception], None] | None,
    ) -> None:
        self._registry = registry
        self._health = health
        self._ready = ready
        self._sessions = sessions
        self._sessions_key = f"Bearer {sessions_key}".encode() if sessions_key else b""
        self._on_error = on_error

    def page(self, path: str, accept: str, peer: str, authorization: bytes = b"") -> Page:
        """Make the page at `path`, for a client at this address with this key."""
        try:
            if path == "/metrics":
                encode, content_type = choose_encoder(accept)
                return Page(HTTPStatus.OK, content_type, encode(self._registry))
            if path == "/healthz":
                return _checked(self._health())
            if path == "/readyz":
                return _checked(self._ready())
            if path == "/sessions" and self._sessions_key:
                return self._listing(peer, authorization)
        except Exception as error:
            if self._on_error is not None:
                self._on_error(error)
            return Page(HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"This page could not be made.\n")
        return Page(HTTPStatus.NOT_FOUND, _TEXT, _NOT_FOUND)

    def _listing(self, peer: str, authorization: bytes) -> Page:
        if not ipaddress.ip_address(peer.partition("%")[0]).is_loopback:
            return Page(HTTPStatus.FORBIDDEN, _TEXT, _NOT_HERE)
        if not hmac.compare_digest(authorization, self._sessions_key):
            return Page(HTTPStatus.UNAUTHORIZED, _TEXT, _WRONG_KEY, (("WWW-Authenticate", "Bearer"),))
        return Page(HTTPStatus.OK, _JSON, json.dumps(self._sessions()).encode() + b"\n")


def _checked(answer: tuple[bool, dict[str, object]]) -> Page:
    well, body = answer
    text = json.dumps({"status": "ok" if well else "failing", **body}, default=str) + "\n"
    return Page(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, _JSON, text.encode())


class _Visits:
    """Answer each connection once, within the bounds. All of it runs in the loop of the thread, but for the pages."""

    def __init__(self, site: _Site) -> None:
        self._site = site
        self._visits: dict[asyncio.Task[None] | None, bool] = {}
        """Whether each waits for its client, and not for its page; the one that has done so for longest first."""
        self._threads = ThreadPoolExecutor(MAX_REQUESTS, "page")

    async def serve(self, listener: socket.socket, closed: asyncio.Event) -> None:
        """Answer whoever connects, until `closed` is set."""
        loop = asyncio.get_running_loop()
        with listener:
            loop.add_reader(listener, self._accept, listener)
            await closed.wait()
            loop.remove_reader(listener)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, address = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it has gone already
        except OSError:
            # Out of file descriptors the listener stays readable: without a pause this would spin.
            loop.remove_reader(listener)
            loop.call_later(ACCEPT_PAUSE, self._accept_again, listener)
            return
        connection.setblocking(False)
        if len(self._visits) >= MAX_REQUESTS and not self._make_room():
            with connection, contextlib.suppress(OSError):
                connection.send(_BUSY)
            return
        visit = loop.create_task(self._visit(connection, address[0]), name="visit")
        self._visits[visit] = True
        visit.add_done_callback(partial(self._end, connection))

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _make_room(self) -> bool:
        """End the visit that waits for its client for longest; return whether there was one."""
        longest = next((visit for visit, waits in self._visits.items() if waits), None)
        if longest is None:
            return False
        del self._visits[longest]
        longest.cancel()
        return True

    def _end(self, connection: socket.socket, visit: asyncio.Task[None]) -> None:
        self._visits.pop(visit, None)
        connection.close()

    async def _visit(self, connection: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        wire = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        with_body = True
        with contextlib.suppress(OSError):  # it has gone, or was too slow
            try:
                async with asyncio.timeout(ARRIVAL_DEADLINE):
                    while (event := wire.next_event()) is h11.NEED_DATA:
                        wire.receive_data(await loop.sock_recv(connection, MAX_HEAD))
                if not isinstance(event, h11.Request):
                    return  # it has gone without a word
                with_body = event.method != b"HEAD"
                page = await self._page(event, peer)
            except h11.RemoteProtocolError as error:
                status = HTTPStatus(error.error_status_hint)
                # What was wrong may be markup: it is not quoted.
                page = Page(status, _TEXT, f"{status.phrase}.\n".encode())
            async with asyncio.timeout(DELIVERY_DEADLINE):
                await loop.sock_sendall(connection, _head(wire, page) + (page.body if with_body else b""))

    async def _page(self, request: h11.Request, peer: str) -> Page:
        """Have the page made that is asked for. Raises h11.RemoteProtocolError."""
        if len(request.headers) > MAX_HEADERS:
            raise h11.RemoteProtocolError("too many headers", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if request.method not in METHODS:
            return Page(
                HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, _METHOD_NOT_ALLOWED, (("Allow", b", ".join(METHODS).decode()),)
            )
        path = request.target.partition(b"?")[0].decode("latin-1")
        if path not in HEALTH and list(self._visits.values()).count(False) >= MAX_PAGES:
            return Page(HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, _TOO_MANY)
        headers = dict(request.headers)
        accept, key = headers.get(b"accept", b"").decode("latin-1"), headers.get(b"authorization", b"")
        me, loop = asyncio.current_task(), asyncio.get_running_loop()
        self._visits[me] = False
        page = await loop.run_in_executor(self._threads, self._site.page, path, accept, peer, key)
        del self._visits[me]
        self._visits[me] = True  # behind those that wait for longer
        return page


def _head(wire: h11.Connection, page: Page) -> bytes:
    """Return what stands ahead of an answer. Its connection ends behind it: an idle client takes nobody's place."""
    headers = [
        ("Server", "sidecart"),
        ("Date", formatdate(usegmt=True)),
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("Connection", "close"),
        *page.headers,
    ]
    return wire.send(h11.Response(status_code=page.status, headers=headers, reason=page.status.phrase)) or b""

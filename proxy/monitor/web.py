"""Serve /metrics, /healthz, /readyz and /sessions over HTTP from threads of their own, beside the event loop.

Threads and not the loop: a scrape costs some milliseconds of text, and /healthz has to answer when the loop does not.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

Check: TypeAlias = Callable[[], tuple[bool, dict[str, object]]]
Listing: TypeAlias = Callable[[], list[dict[str, str | int | float | None]]]

MAX_REQUESTS: Final = 16
"""Requests served at a time, a thread each. Prometheus and a kubelet need three. For one more, the request that waits
for its client for longest is ended: whoever opens connections and says nothing keeps no health check out. Where all of
them wait for their pages, one more is answered 503."""

MAX_PAGES: Final = 8
"""Pages made at a time, but for the health pages: those cost nothing, and never wait for the others."""

HEALTH: Final = ("/healthz", "/readyz")

SOCKET_TIMEOUT: Final = 5.0
"""Seconds that one read or write may wait."""

REQUEST_DEADLINE: Final = 10.0
"""Seconds that a whole request may take: one that sends a byte every four seconds never meets the socket's timeout."""

POLL_SECONDS: Final = 0.25

METHODS: Final = ("GET", "HEAD")

_TEXT: Final = "text/plain; charset=utf-8"
_NOT_FOUND: Final = (
    b"Not found. There are /metrics, /healthz, /readyz and, where metrics.sessions_key is set, /sessions.\n"
)
_NOT_HERE: Final = b"Who is connected is told to this machine only: ask from here, with sidecart sessions.\n"
_WRONG_KEY: Final = (
    b"Who is connected is told to whoever has the key: Authorization: Bearer, and metrics.sessions_key.\n"
)
_METHOD_NOT_ALLOWED: Final = b"Only GET and HEAD are served here.\n"
_TOO_MANY: Final = b"Too many pages are being made.\n"
_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"


class Web:
    """Serve these pages on one port.

    `health` and `ready` return whether all is well, which makes 200 or 503, and what the JSON body says beside
    `"status"`. They, and the registry's collectors, are called in the threads of this server while the event loop runs:
    they may read plain attributes (a load is atomic) and copies of containers, and must change nothing. `sessions`
    lists who is connected, for /sessions: it names users and addresses, so only loopback addresses get it, and of those
    who has `sessions_key`. On a machine with other users, or with a program that fetches what it is told to, an address
    proves nothing. Without a key there is no such page. `on_error` is called, in such a thread, with the exception of a
    page that could not be made; the client sees a bare 500.
    """

    __slots__ = ("_host", "_port", "_server", "_site", "_thread")

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
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; before `start`, the one that was asked for (0: any)."""
        return self._port if self._server is None else int(self._server.server_address[1])

    def start(self) -> None:
        """Bind, listen and serve in a daemon thread. Raises OSError if the address is in use or unknown."""
        if self._server is not None:
            raise RuntimeError("Web.start() was called twice")
        self._server = _Server(self._host, self._port, self._site)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end the requests that run. Does nothing if it is not started."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._port = self.port
        self._server = self._thread = None
        server.shutdown()
        thread.join()
        server.server_close()
        server.end_requests_older_than(0.0)


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

    def page(self, path: str, accept: str, peer: str, authorization: str = "") -> tuple[HTTPStatus, str, bytes]:
        """Return status, content type and body of the page at `path`, for a client at this address with this key."""
        try:
            if path == "/metrics":
                encode, content_type = choose_encoder(accept)
                return HTTPStatus.OK, content_type, encode(self._registry)
            if path == "/healthz":
                return _checked(self._health())
            if path == "/readyz":
                return _checked(self._ready())
            if path == "/sessions" and self._sessions_key:
                return self._listing(peer, authorization)
        except Exception as error:
            if self._on_error is not None:
                self._on_error(error)
            return HTTPStatus.INTERNAL_SERVER_ERROR, _TEXT, b"This page could not be made.\n"
        return HTTPStatus.NOT_FOUND, _TEXT, _NOT_FOUND

    def _listing(self, peer: str, authorization: str) -> tuple[HTTPStatus, str, bytes]:
        if not ipaddress.ip_address(peer.partition("%")[0]).is_loopback:
            return HTTPStatus.FORBIDDEN, _TEXT, _NOT_HERE
        if not hmac.compare_digest(authorization.encode("utf-8", "replace"), self._sessions_key):
            return HTTPStatus.UNAUTHORIZED, _TEXT, _WRONG_KEY
        return HTTPStatus.OK, "application/json", json.dumps(self._sessions()).encode() + b"\n"


def _checked(answer: tuple[bool, dict[str, object]]) -> tuple[HTTPStatus, str, bytes]:
    well, body = answer
    text = json.dumps({"status": "ok" if well else "failing", **body}, default=str) + "\n"
    return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", text.encode()


class _Handler(BaseHTTPRequestHandler):
    """Answer one request; HTTP/1.0, so the connection closes after it and an idle client holds no thread."""

    timeout = SOCKET_TIMEOUT
    server: _Server

    def parse_request(self) -> bool:
        # Here and not in do_POST, do_PUT …: a method that nobody thought of would be answered 501.
        if not super().parse_request():
            return False
        if self.command not in METHODS:
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, _METHOD_NOT_ALLOWED, ("Allow", ", ".join(METHODS)))
            return False
        return True

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        accept, key = self.headers.get("Accept", ""), self.headers.get("Authorization", "")
        with self.server.at_work(self.connection) as others:
            if others >= MAX_PAGES and path not in HEALTH:
                status, content_type, body = HTTPStatus.SERVICE_UNAVAILABLE, _TEXT, _TOO_MANY
            else:
                status, content_type, body = self.server.site.page(path, accept, self.client_address[0], key)
        more = [("WWW-Authenticate", "Bearer")] if status is HTTPStatus.UNAUTHORIZED else []
        self._answer(status, content_type, body, *more)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes, *more: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in more:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that http.server could not read: its own page is HTML and quotes the client."""
        self.request_version = "HTTP/1.0"  # what could not be read counts as 0.9, whose answers have no status line
        status = HTTPStatus(code)
        self._answer(status, _TEXT, f"{status.phrase}.\n".encode())

    def version_string(self) -> str:
        """Return the Server header: http.server's own tells the Python version to everybody."""
        return "sidecart"

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a scrape every few seconds is not an event, and the text would come from the client."""


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Accept, with a bound on the threads and on the time of each request.

    TCPServer and not HTTPServer, whose server_bind() looks up the host's name and may wait for a DNS that is down.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = MAX_REQUESTS

    def __init__(self, host: str, port: int, site: _Site) -> None:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # "localhost" is both ::1 and 127.0.0.1, and one socket is one of them: what probes it mostly says 127.0.0.1.
        self.address_family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        self.site = site
        self._lock = threading.Lock()
        self._running: dict[socket.socket, float] = {}
        self._at_work: set[socket.socket] = set()  # those of them that do not wait for their clients
        super().__init__(address, _Handler)  # type: ignore[arg-type]  # an IPv6 address has four parts

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # Out of file descriptors the listener stays readable: without a pause this thread would spin.
            time.sleep(POLL_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            busy = len(self._running) >= MAX_REQUESTS and not self._make_room()
            if not busy:
                self._running[request] = time.monotonic()
        if busy:
            with contextlib.suppress(OSError):
                request.setblocking(False)  # this thread accepts for all: it never waits for a client
                request.send(_BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def _make_room(self) -> bool:
        """End the request that waits for its client for longest; return whether there was one."""
        waiting = next((request for request in self._running if request not in self._at_work), None)
        if waiting is None:
            return False
        del self._running[waiting]
        with contextlib.suppress(OSError):
            waiting.shutdown(socket.SHUT_RDWR)
        return True

    @contextlib.contextmanager
    def at_work(self, request: socket.socket) -> Iterator[int]:
        """Count a request as one that does not wait for its client while its page is made; yield how many do so."""
        with self._lock:
            others = len(self._at_work)
            self._at_work.add(request)
        try:
            yield others
        finally:
            with self._lock:
                self._at_work.discard(request)

    def shutdown_request(self, request: Any) -> None:
        # Out of the table first: what is in it is open, so end_requests_older_than never touches a number that the
        # system has given to another socket.
        with self._lock:
            self._running.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End the requests that take too long: serve_forever calls this at each turn."""
        self.end_requests_older_than(REQUEST_DEADLINE)

    def end_requests_older_than(self, seconds: float) -> None:
        """Shut the sockets of such requests down; their threads then read an end of file, and close them."""
        before = time.monotonic() - seconds
        with self._lock:
            for request, since in self._running.items():
                if since <= before:
                    with contextlib.suppress(OSError):
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away, or a socket that timed out. Pages report their own errors."""

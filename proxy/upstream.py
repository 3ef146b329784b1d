"""Connections to the upstream: connect, TLS, log in, read back the read-only settings, clean, cancel.

The reply to SSLRequest is read from the bare socket, one byte and no more, before a transport exists: nothing that was
sent ahead of TLS can be mistaken for what came through it (CVE-2021-23222).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, cast

from proxy import protocol as p
from proxy import replies as r
from proxy.auth import UpstreamLogin
from proxy.config import Upstream as UpstreamConfig
from proxy.errors import (
    CANNOT_CONNECT_NOW,
    CONNECTION_FAILURE,
    INVALID_CATALOG_NAME,
    TOO_MANY_CONNECTIONS,
    CloseReason,
    UpstreamError,
    UpstreamProtocolError,
)
from proxy.house import Audit, Owner
from proxy.pool import Pool
from proxy.replies import Replies
from proxy.snapshot import NO_SETTINGS, Settings
from proxy.stats import Stats
from proxy.tls_layer import TlsLayer

READ_ONLY_PARAMETERS: Final = {
    "default_transaction_read_only": "on",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
}
"""Travel in the StartupMessage: what a packet sets, RESET ALL and DISCARD ALL return to. SQL SET would be undone."""

_READ_BACK: Final = (
    b"SELECT pg_catalog.current_setting('default_transaction_read_only'),"
    b"pg_catalog.current_setting('standard_conforming_strings'),"
    b"pg_catalog.current_setting('client_encoding')"
)
MAX_DRAIN: Final = 4 << 20
"""Bytes of an abandoned answer that are read and dropped; beyond that a new connection is cheaper."""
_ROLLBACK: Final = p.query(b"ROLLBACK")
_DISCARD_ALL: Final = p.query(b"DISCARD ALL")


class Tasks:
    """Create tasks that have a name and a reference for as long as they run."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def stop(self) -> None:
        """Cancel what still runs, and wait for it."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


class Connector:
    """Open connections to the configured server: upstreams, and the short ones that carry a CancelRequest.

    `tls` is the context for the configured sslmode; None where that is `disable`. `on_login` gets the ParameterStatus
    values of each new upstream before anybody can use it.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        tls: ssl.SSLContext | None,
        stats: Stats,
        audit: Audit,
        tasks: Tasks,
        cancel_wait_timeout: float,
        on_login: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._config = config
        self._tls = tls
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._cancel_wait_timeout = cancel_wait_timeout
        self._on_login = on_login

    def open(self, pool: Pool) -> None:
        """Log in for a pool, in the background; it ends in `Pool.opened` or `Pool.failed`."""
        self._tasks.start(self._open(pool), f"login {pool.database}")

    async def _open(self, pool: Pool) -> None:
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                upstream = await self._connect(pool)
            self._on_login(upstream.parameters)
        except TimeoutError:
            error = UpstreamError(
                f"the upstream did not answer within {self._config.connect_timeout:g} s",
                reason=CloseReason.UPSTREAM_LOGIN,
            )
        except UpstreamError as caught:
            error = caught
        except (OSError, UpstreamProtocolError) as caught:
            error = UpstreamError(f"the upstream cannot be used: {caught}", reason=CloseReason.UPSTREAM_LOGIN)
            error.__cause__ = caught
        except Exception as caught:
            self._stats.bugs += 1
            self._audit.event("bug", level="error", what=type(caught).__name__, where="upstream login")
            error = UpstreamError("SideCart met an internal error while logging in", reason=CloseReason.BUG)
        else:
            self._stats.upstream_connects += 1
            self._audit.event("upstream opened", database=pool.database, tls=upstream.tls_version or "off")
            pool.opened(upstream, now())
            return
        self._stats.upstream_connect_failures += 1
        self._audit.event(
            "upstream login failed",
            level="error",
            database=pool.database,
            host=self._config.host,
            sqlstate=error.sqlstate,
            why=str(error),
        )
        pool.failed(error, now())

    async def _connect(self, pool: Pool) -> UpstreamConnection:
        """Connect and log in. libpq's sslmode words: `prefer` and `allow` have a second try without, or with, TLS."""
        attempts = {"disable": (False,), "allow": (False, True), "prefer": (True, False)}.get(
            self._config.sslmode, (True,)
        )
        for last, with_tls in enumerate(attempts, 1 - len(attempts)):
            upstream = UpstreamConnection(pool, self, self._stats, self._audit, self._tasks)
            try:
                await self._start(upstream, with_tls=with_tls)
                await upstream.log_in(self._config.user, self._config.password)
            except (UpstreamError, UpstreamProtocolError, OSError):
                upstream.close(CloseReason.UPSTREAM_LOGIN)
                if last == 0:
                    raise
            except BaseException:
                upstream.close(CloseReason.UPSTREAM_LOGIN)
                raise
            else:
                return upstream
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def cancel(self, pid: int, secret: bytes) -> str:
        """Send a CancelRequest, wait until the server closes, and return the outcome: `sent` or `failed`.

        The server has sent its signal by the time it closes (`ProcessCancelRequestPacket()`, postmaster).
        """
        done = _CancelConnection(p.cancel_request(pid, secret))
        try:
            async with asyncio.timeout(self._cancel_wait_timeout):
                await self._start(done, with_tls=self._config.sslmode not in ("disable", "allow"))
                await done.closed
        except (TimeoutError, OSError, UpstreamError):
            return "failed"
        finally:
            done.abort()
        return "sent"

    async def _start(self, protocol: asyncio.Protocol, *, with_tls: bool) -> None:
        """Connect a socket, negotiate TLS where it is wanted, and give it to the protocol."""
        loop = asyncio.get_running_loop()
        host, port = self._config.host, self._config.port
        sock = await self._socket(host, port)
        try:
            if not with_tls or self._tls is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
                await loop.create_connection(lambda: protocol, sock=sock)
                return
            await loop.sock_sendall(sock, p.SSL_REQUEST)
            answer = await loop.sock_recv(sock, 1)
            if answer == b"N" and self._config.sslmode in ("allow", "prefer"):
                await loop.create_connection(lambda: protocol, sock=sock)
                return
            if answer != b"S":
                # Whatever text follows is not authenticated: it is not shown (CVE-2024-10977).
                raise UpstreamError(
                    f"the upstream does not speak TLS, but sslmode is {self._config.sslmode}",
                    reason=CloseReason.UPSTREAM_TLS,
                )
            try:
                layer = TlsLayer(self._tls, protocol, server_hostname=host)
                await loop.create_connection(lambda: layer, sock=sock)
                await layer.ready
            except (ssl.SSLError, ConnectionError) as error:
                raise UpstreamError(
                    f"TLS with the upstream {host} failed: {_tls_reason(error)}", reason=CloseReason.UPSTREAM_TLS
                ) from error
        except BaseException:
            sock.close()
            raise

    async def _socket(self, host: str, port: int) -> socket.socket:
        loop = asyncio.get_running_loop()
        if host.startswith("/"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            await _connect_socket(sock, f"{host}/.s.PGSQL.{port}")
            return sock
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UpstreamError(
                f'the host name "{host}" could not be resolved: {error.strerror}', reason=CloseReason.UPSTREAM_LOGIN
            ) from error
        failure: OSError | None = None
        for family, kind, number, _, address in found:
            sock = socket.socket(family, kind, number)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            try:
                await _connect_socket(sock, address)
            except OSError as error:
                failure = error
            else:
                return sock
        raise UpstreamError(
            f"the upstream {host} port {port} cannot be reached: {failure.strerror if failure else 'no address'}",
            reason=CloseReason.UPSTREAM_LOGIN,
        ) from failure


async def _connect_socket(sock: socket.socket, address: Any) -> None:
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise


def _tls_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return "it closed the connection during the handshake"


class _CancelConnection(asyncio.Protocol):
    """Carries one CancelRequest; `closed` is done when the server has closed."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class UpstreamConnection(asyncio.Protocol):
    """One upstream. It is logging in, idle, leased (what arrives goes to its owner), cleaning, or closed.

    While nobody owns it, it is the listener of its own replies: an idle upstream may say little.
    """

    __slots__ = (
        "_audit",
        "_buffer",
        "_cancels",
        "_cleaning",
        "_closed",
        "_connector",
        "_deadline",
        "_discard",
        "_dropped",
        "_failure",
        "_mail",
        "_owner",
        "_stats",
        "_tasks",
        "_transport",
        "expires",
        "idle_since",
        "parameters",
        "pid",
        "pool",
        "replies",
        "secret",
        "settings",
        "tls_version",
        "unnamed_of",
        "write",
    )

    def __init__(self, pool: Pool, connector: Connector, stats: Stats, audit: Audit, tasks: Tasks) -> None:
        self.pool = pool
        self.replies = Replies(self)
        self.parameters: dict[str, str] = {}
        self.settings: Settings | None = NO_SETTINGS
        self.unnamed_of: object | None = None
        self.expires = 0.0
        self.idle_since = 0.0
        self.pid = 0
        self.secret = b""
        self.tls_version = ""
        self._connector = connector
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._transport: asyncio.Transport | None = None
        self._owner: Owner | None = None
        self._closed = False
        self._cancels = 0
        self._cleaning = False
        self._discard = False
        self._dropped = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._buffer: bytearray | None = bytearray()  # only while logging in
        self._mail: asyncio.Future[None] | None = None
        self._failure: Exception | None = None

    # --- transport ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self.write = transport.write  # the port's method is the transport's own: no call in between
        tls = transport.get_extra_info("ssl_object")
        self.tls_version = tls.version() if tls is not None else ""

    def data_received(self, data: bytes) -> None:
        owner = self._owner
        if owner is not None:
            try:
                owner.upstream_data(data)
            except Exception as error:
                self._audit.event("bug", level="error", what=type(error).__name__, where="upstream data")
                owner.bug()
        elif self._buffer is not None:
            self._buffer += data
            self._wake()
        else:
            self._unowned(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._failure = self._failure or UpstreamError(
            "the upstream closed the connection during login", reason=CloseReason.UPSTREAM_LOGIN
        )
        self._wake()
        owner, self._owner = self._owner, None
        if not self._closed:
            self._closed = True
            self._count(CloseReason.UPSTREAM_LOST)
        if self._deadline is not None:
            self._deadline.cancel()
        if owner is not None:
            owner.upstream_lost()
        self.pool.lost(self, asyncio.get_running_loop().time())

    def pause_writing(self) -> None:
        if self._owner is not None:
            self._owner.upstream_writable(False)

    def resume_writing(self) -> None:
        if self._owner is not None:
            self._owner.upstream_writable(True)

    # --- what sessions and the pool ask ---------------------------------------------------------------------------

    def attach(self, owner: Owner) -> None:
        self._owner = owner

    def detach(self) -> None:
        self._owner = None
        self.replies.listener = self

    def pause_reading(self) -> None:
        if self._transport is not None and not self._closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._closed:
            self._transport.resume_reading()

    @property
    def cancelling(self) -> bool:
        return self._cancels > 0

    def cancel(self) -> None:
        """Ask the server to cancel what runs here. The upstream goes to nobody else before that has ended.

        One request at a time: a client that repeats itself opens no more connections to the server.
        """
        if self._cancels:
            return
        self._cancels += 1
        self._tasks.start(self._cancel(), "cancel")

    async def _cancel(self) -> None:
        outcome = "failed"
        try:
            outcome = await self._connector.cancel(self.pid, self.secret)
        finally:
            self._cancels -= 1
            self._stats.cancels[outcome] += 1
            if self._cleaning and not self._closed:
                # The signal is out; one more round trip, and it has hit nothing that comes later.
                self._ask(p.SYNC_MESSAGE, r.SYNC)

    def close(self, reason: CloseReason) -> None:
        if self._closed:
            return
        self._closed = True
        self._count(reason)
        if self._deadline is not None:
            self._deadline.cancel()
        if self._transport is not None:
            self._transport.write(p.TERMINATE_MESSAGE)
            self._transport.close()

    def _count(self, reason: CloseReason) -> None:
        if self._buffer is None:  # it had logged in
            self._stats.upstream_closes[reason.value] += 1
            self._audit.event("upstream closed", database=self.pool.database, reason=reason.value)

    # --- unowned --------------------------------------------------------------------------------------------------

    def recycle(self, *, discard: bool) -> None:
        """End what runs, roll back, clear the session on request, and tell the pool."""
        self._cleaning = True
        self._discard = discard
        self._dropped = 0
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self.pool.limits.cancel_wait_timeout, self._give_up)
        if self.replies.owed:
            self.cancel()
        self._ask(p.SYNC_MESSAGE, r.SYNC)

    def _give_up(self) -> None:
        self.close(CloseReason.CANCEL_UNFINISHED)
        self.pool.lost(self, asyncio.get_running_loop().time())

    def _ask(self, message: bytes, owed: int) -> None:
        self.replies.owe(owed)
        self.write(message)

    def _unowned(self, data: bytes) -> None:
        try:
            self._dropped += len(self.replies.feed(data))
        except UpstreamProtocolError as error:
            self._audit.event("upstream protocol", level="error", what=str(error))
            self._retire(CloseReason.UPSTREAM_PROTOCOL)
            return
        if self._dropped > MAX_DRAIN:
            self._retire(CloseReason.DIRTY)
        elif self._cleaning and not self.replies.owed and not self.cancelling:
            self._clean()

    def _clean(self) -> None:
        """Take the next step towards clean; nothing is owed."""
        if self.replies.status != p.IDLE:
            self._ask(_ROLLBACK, r.SKIP_QUERY)
        elif self._discard:
            self._discard = False
            self.settings = NO_SETTINGS  # DISCARD ALL includes RESET ALL
            self._ask(_DISCARD_ALL, r.SKIP_QUERY)
        else:
            self._cleaning = False
            self.replies.ready = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None
            self.pool.cleaned(self, asyncio.get_running_loop().time())

    def _retire(self, reason: CloseReason) -> None:
        self.close(reason)
        self.pool.lost(self, asyncio.get_running_loop().time())

    # Listener of the replies owed, while nobody owns this upstream

    def parameter_reported(self, body: bytes) -> bytes | None:
        name, value = p.parameter_parts(body)
        if READ_ONLY_PARAMETERS.get(name, value) != value and not self._cleaning:
            raise r.TripwireError(f"an idle upstream reports {name} = {value}")
        self.parameters[name] = value
        if not self._cleaning:
            self.pool.greetings.clear()  # the server was reloaded: what clients are greeted with may have changed
        return b""

    def error_reported(self, body: bytes) -> None:
        pass  # of an abandoned answer, or the reason why the server closes an idle connection

    def skipped_error(self, body: bytes) -> None:
        raise UpstreamProtocolError(f"the upstream could not be cleaned: {p.error_fields(body).get('C')}")

    def notification_arrived(self, body: bytes) -> bool:
        return False

    def query_done(self) -> None:
        pass

    def unnamed_parsed(self, outcome: bool | None) -> None:
        pass

    def unnamed_repeated(self, outcome: bool | None) -> None:
        pass

    def unnamed_closed(self) -> None:
        pass

    # --- login ----------------------------------------------------------------------------------------------------

    async def log_in(self, user: str, password: str) -> None:
        """Log in with a StartupMessage of our keys only, and read back that the session is read-only.

        Raises UpstreamError or UpstreamProtocolError. Afterwards the upstream is idle.
        """
        self.write(p.startup_message({"user": user, "database": self.pool.database, **READ_ONLY_PARAMETERS}))
        login = UpstreamLogin(user, password, tls=bool(self.tls_version))
        authenticated = False
        while True:
            kind, body = await self._message()
            if kind == p.AUTHENTICATION and not authenticated:
                answer = login.step(body)
                if answer is not None:
                    self.write(p.message(p.PASSWORD, answer))
                authenticated = body == bytes(4)
            elif kind == p.ERROR_RESPONSE:
                raise _login_error(p.error_fields(body), self.pool.database)
            elif kind == p.PARAMETER_STATUS:
                name, value = p.parameter_parts(body)
                self.parameters[name] = value
            elif kind == p.BACKEND_KEY_DATA:
                self.pid, self.secret = int.from_bytes(body[:4], "big"), body[4:]
            elif kind == p.READY_FOR_QUERY and authenticated:
                break
            elif kind != p.NOTICE_RESPONSE:
                raise UpstreamProtocolError(f"backend message {chr(kind)!r} out of place during login")
        await self._read_back()
        if self._buffer:
            raise UpstreamProtocolError("bytes after the end of the login")
        self._buffer = None

    async def _read_back(self) -> None:
        """Believe no parameter that was not read back: a pooler in between may have dropped it."""
        self.write(p.query(_READ_BACK))
        row: list[bytes | None] = []
        while True:
            kind, body = await self._message()
            if kind == p.DATA_ROW:
                row = p.row_values(body)
            elif kind == p.ERROR_RESPONSE:
                raise _login_error(p.error_fields(body), self.pool.database)
            elif kind == p.PARAMETER_STATUS:
                name, value = p.parameter_parts(body)
                self.parameters[name] = value
            elif kind == p.READY_FOR_QUERY:
                break
        expected = list(READ_ONLY_PARAMETERS.values())
        if [None if value is None else value.decode("ascii", "replace") for value in row] != expected:
            raise UpstreamError(
                "the upstream did not keep default_transaction_read_only, standard_conforming_strings and "
                "client_encoding as they were sent; connect SideCart to PostgreSQL itself, not to a pooler",
                reason=CloseReason.UPSTREAM_LOGIN,
                transient=False,
            )

    async def _message(self) -> tuple[int, bytes]:
        """Return the next whole message of the login."""
        buffer = self._buffer
        while buffer is not None:
            if len(buffer) >= 5:
                kind, length = p.read_header(buffer)
                if not 4 <= length <= r.MAX_CONTROL_MESSAGE:
                    raise UpstreamProtocolError("invalid message length during login")
                if len(buffer) > length:
                    body = bytes(buffer[5 : length + 1])
                    del buffer[: length + 1]
                    return kind, body
            if self._failure is not None:
                raise self._failure
            self._mail = asyncio.get_running_loop().create_future()
            await self._mail
        raise UpstreamProtocolError("login is over")

    def _wake(self) -> None:
        if self._mail is not None and not self._mail.done():
            self._mail.set_result(None)


def _login_error(fields: dict[str, str], database: str) -> UpstreamError:
    """Translate the server's refusal. What it says of our own role is not the client's to read."""
    sqlstate = fields.get("C", CONNECTION_FAILURE)
    if sqlstate == INVALID_CATALOG_NAME:
        return UpstreamError(
            f'database "{database}" does not exist', sqlstate, reason=CloseReason.UPSTREAM_LOGIN, transient=False
        )
    if sqlstate in (TOO_MANY_CONNECTIONS, CANNOT_CONNECT_NOW):
        return UpstreamError(fields.get("M", "the upstream is busy"), sqlstate, reason=CloseReason.UPSTREAM_LOGIN)
    return UpstreamError(
        f"the upstream refused SideCart's own login (SQLSTATE {sqlstate})",
        reason=CloseReason.UPSTREAM_LOGIN,
        transient=not sqlstate.startswith(("28", "42")),
    )

"""Ways to the upstream: sockets, TLS by libpq's sslmode words, logins for a pool, CancelRequests.

The reply to SSLRequest is read from the bare socket, one byte and no more, before a transport exists: nothing that was
sent ahead of TLS can be mistaken for what came through it (CVE-2021-23222).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from proxy import protocol as p
from proxy.config import PoolLimits
from proxy.config import Upstream as UpstreamConfig
from proxy.errors import CloseReason, UpstreamError, UpstreamProtocolError
from proxy.house import Audit
from proxy.pool import Pool
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.tls_layer import TlsLayer
from proxy.upstream import UpstreamConnection

FETCH_TIMEOUT: Final = 60.0
"""Seconds in which the answer to a Query of SideCart's own has to be there."""
MAX_FETCHED: Final = 64 << 20
"""Bytes that it may have: the catalogue of a database with 100,000 functions."""


class Connector:
    """Open connections to the configured server: upstreams, and short ones for a CancelRequest or a single Query.

    `tls` is the context for the configured sslmode; None where that is `disable`. `on_login` gets the database and the
    ParameterStatus values of each new upstream of a pool, which nobody can use before it returns.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        tls: ssl.SSLContext | None,
        stats: Stats,
        audit: Audit,
        tasks: Tasks,
        cancel_wait_timeout: float,
        on_login: Callable[[str, Mapping[str, str]], Awaitable[None]] | None = None,
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
            upstream = await self._reach(pool)
            await self._introduce(upstream)
        except UpstreamError as caught:
            error = caught
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

    async def fetch_once(self, database: str, query: bytes) -> list[list[list[bytes | None]]]:
        """Run one simple Query on a connection of its own; return the rows of each of its results, as text.

        The connection counts in no pool. Bounded in time and in bytes. Raises UpstreamError.
        """
        # An upstream belongs to a pool. This one's is empty, and nobody leases from it.
        pool = Pool(database, PoolLimits(), self, self._stats, lambda: 1.0)
        upstream = await self._reach(pool)
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                return await upstream.fetch(query, MAX_FETCHED)
        except TimeoutError as error:
            raise UpstreamError(
                f"the upstream did not answer within {FETCH_TIMEOUT:g} s", reason=CloseReason.UPSTREAM_PROTOCOL
            ) from error
        except (OSError, UpstreamProtocolError) as error:
            raise _unusable(error) from error
        finally:
            upstream.close(CloseReason.SERVER_LIFETIME)

    async def _reach(self, pool: Pool) -> UpstreamConnection:
        """Connect and log in within connect_timeout. Raises UpstreamError for everything that can be expected."""
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                return await self._connect(pool)
        except TimeoutError as error:
            raise UpstreamError(
                f"the upstream did not answer within {self._config.connect_timeout:g} s",
                reason=CloseReason.UPSTREAM_LOGIN,
            ) from error
        except (OSError, UpstreamProtocolError) as error:
            raise _unusable(error) from error

    async def _introduce(self, upstream: UpstreamConnection) -> None:
        """Tell of an upstream before a client can get it. Raises UpstreamError if it ends meanwhile."""
        if self._on_login is None:
            return
        try:
            await self._on_login(upstream.pool.database, upstream.parameters)
        except BaseException:
            upstream.close(CloseReason.UPSTREAM_LOGIN)
            raise
        if upstream.closed:
            raise UpstreamError("the upstream closed the connection after login", reason=CloseReason.UPSTREAM_LOGIN)

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


def _unusable(error: Exception) -> UpstreamError:
    return UpstreamError(f"the upstream cannot be used: {error}", reason=CloseReason.UPSTREAM_LOGIN)


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

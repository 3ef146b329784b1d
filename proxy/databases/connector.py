"""Ways to the upstream: sockets, TLS by libpq's sslmode words, logins for a pool, CancelRequests.

The reply to SSLRequest is read from the bare socket, one byte and no more, before a transport exists: nothing that was
sent ahead of TLS can be mistaken for what came through it (CVE-2021-23222).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, cast

from proxy import protocol as p
from proxy.auth.upstream_login import Channel, UpstreamLogin
from proxy.config.schema import PoolLimits
from proxy.config.schema import Upstream as UpstreamConfig
from proxy.config.values import PASSWORD
from proxy.databases.addresses import Addresses, Resolve, ask_system
from proxy.databases.credentials import Credentials, Secret
from proxy.errors import (
    INVALID_CATALOG_NAME,
    CloseReason,
    PasswordRefusedError,
    UpstreamError,
    UpstreamFloodError,
    UpstreamProtocolError,
)
from proxy.events import Audit
from proxy.pooling.pool import Pool
from proxy.stats import Stats
from proxy.system.turns import Intake, Turns
from proxy.tasks import Tasks
from proxy.tls.contexts import ALPN, end_point
from proxy.tls.layer import TlsLayer
from proxy.upstream import CHECK_TIMEOUT, UpstreamConnection

FETCH_TIMEOUT: Final = 60.0
"""Seconds in which the answer to a Query of SideCart's own has to be there."""
MAX_FETCHED: Final = 160 << 20
"""Bytes of memory that it may take: the catalogue of a database with 100,000 functions of 500 bytes."""


class Visit(NamedTuple):
    """What a short visit to the server brought."""

    results: list[list[list[bytes | None]]]
    """The rows of each result of each Query, as text."""
    tls_version: str
    """Such as TLSv1.3; empty without TLS."""
    parameters: Mapping[str, str]
    """What the server reported at login."""


class Reader:
    """Ask simple Queries on a connection of its own, one after the other, until `close`."""

    def __init__(self, upstream: UpstreamConnection) -> None:
        self.upstream = upstream

    async def ask(self, query: bytes) -> list[list[list[bytes | None]]]:
        """Return the rows of each result, as text. Raises UpstreamError; the connection is of no use after that."""
        self.upstream.resume_reading()
        try:
            async with asyncio.timeout(FETCH_TIMEOUT):
                return await self.upstream.fetch(query, MAX_FETCHED)
        except TimeoutError as error:
            raise UpstreamError(
                f"the upstream did not answer within {FETCH_TIMEOUT:g} s", reason=CloseReason.UPSTREAM_PROTOCOL
            ) from error
        except (OSError, UpstreamProtocolError) as error:
            raise _unusable(error) from error
        finally:
            self.upstream.pause_reading()  # what nobody has asked for stays outside

    def close(self) -> None:
        self.upstream.close(CloseReason.SERVER_LIFETIME)


class Connector:
    """Open connections to one configured server: upstreams, and short ones for a CancelRequest or a single Query.

    `tls` is the context for the configured sslmode; None where that is `disable`. It may be replaced: connections keep
    what they began with. `on_login` gets each new upstream, which nobody can use before it returns. `resolve` and
    `credentials` are what the configuration says, unless given; `turns` are shared with whoever else reads much.
    """

    def __init__(
        self,
        config: UpstreamConfig,
        tls: ssl.SSLContext | None,
        stats: Stats,
        audit: Audit,
        tasks: Tasks,
        cancel_wait_timeout: float,
        on_login: Callable[[UpstreamConnection], Awaitable[None]] | None = None,
        *,
        resolve: Resolve = ask_system,
        credentials: Credentials | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._config = config
        self._turns = turns or Turns()
        self.tls = tls
        self._stats = stats
        self._audit = audit
        self._tasks = tasks
        self._cancel_wait_timeout = cancel_wait_timeout
        self._on_login = on_login
        now = asyncio.get_running_loop().time
        self.addresses = Addresses(
            config.host, config.port, config.dns_max_ttl, tasks, now, resolve, user_timeout=config.tcp_user_timeout
        )
        self.credentials = credentials or Credentials(config, stats, tasks, now)
        # RDS takes a token as a password in the clear, and as nothing else.
        self._accepted = (PASSWORD,) if config.aws_iam else config.require_auth

    def open(self, pool: Pool) -> None:
        """Log in for a pool, in the background; it ends in `Pool.opened` or `Pool.failed`."""
        self._tasks.start(self._open(pool), f"login {pool.database}")

    def probe(self, pool: Pool) -> None:
        """Ask the server for a sign of life beside a pool that is busy; it ends in `Pool.alive` or `Pool.hung`."""
        self._tasks.start(self._probe(pool), f"probe {pool.database}")

    async def _probe(self, pool: Pool) -> None:
        """Connect as a CancelRequest does, and ask for nothing.

        Over TLS the handshake is the answer of a process of the server's; it logs no connection that then says nothing
        (ProcessStartupPacket(), tcop/backend_startup.c). Without, whether there is TLS is what the server is asked. An
        answer of any kind is one: only who says nothing is silent.
        """
        now = asyncio.get_running_loop().time
        beside = _CancelConnection()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                if self._config.sslmode in ("disable", "allow") or self._config.host.startswith("/"):
                    with await self.addresses.connect(CHECK_TIMEOUT) as sock:
                        loop = asyncio.get_running_loop()
                        await loop.sock_sendall(sock, p.SSL_REQUEST)
                        await loop.sock_recv(sock, 1)
                else:
                    await self._start(beside, with_tls=True)
        except TimeoutError:
            text = f"the upstream has not answered for {CHECK_TIMEOUT:g} s on a new connection"
            pool.hung(UpstreamError(text, reason=CloseReason.SERVER_CHECK), now())
        except UpstreamError as error:
            if error.reason is CloseReason.UPSTREAM_TLS:
                pool.alive(now())
            else:
                pool.hung(error, now())
        except OSError:
            pool.alive(now())  # it has closed the connection
        else:
            pool.alive(now())
        finally:
            beside.abort()

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
            self._audit.event(
                "upstream opened",
                database=pool.database,
                tls=upstream.backend.tls_version or "off",
                auth=upstream.backend.auth,
                address=upstream.backend.address,
            )
            pool.opened(upstream, now())
            return
        self._stats.upstream_connect_failures += 1
        if error.sqlstate == INVALID_CATALOG_NAME:
            error.hint = pool.hint
        self._audit.event(
            "upstream login failed",
            level="error",
            database=pool.database,
            host=self._config.host,
            sqlstate=error.sqlstate,
            why=str(error),
            **({"cause": error.cause} if error.cause else {}),
        )
        pool.failed(error, now())

    async def fetch_once(self, dbname: str, query: bytes) -> list[list[list[bytes | None]]]:
        """Run one simple Query on a connection of its own; return the rows of each of its results, as text.

        The connection counts in no pool. Bounded in time and in bytes. Raises UpstreamError.
        """
        return (await self.visit(dbname, query)).results

    async def visit(self, dbname: str, *queries: bytes) -> Visit:
        """Run simple Queries, one after the other, on a connection of their own, as `fetch_once` runs one.

        Raises UpstreamError: a QueryFailedError, with the server's words, for an error of a Query.
        """
        reader = await self.reader(dbname)
        try:
            results: list[list[list[bytes | None]]] = []
            for query in queries:
                results += await reader.ask(query)
            return Visit(results, reader.upstream.backend.tls_version, reader.upstream.parameters)
        finally:
            reader.close()

    async def reader(self, dbname: str) -> Reader:
        """Open a connection of its own for simple Queries, which counts in no pool. Raises UpstreamError."""
        # An upstream belongs to a pool. This one's is empty, and nobody leases from it.
        return Reader(await self._reach(Pool(dbname, PoolLimits(), self, self._stats, lambda: 1.0)))

    async def _reach(self, pool: Pool) -> UpstreamConnection:
        """Log in with the role's password as it is now. Raises UpstreamError for everything that can be expected.

        One that the server does not take may have been replaced a moment ago: then the new one is tried, once.
        """
        secret = await self.credentials.get()
        try:
            upstream = await self._try(pool, secret)
        except PasswordRefusedError:
            newer = await self.credentials.get_again(secret)
            if newer is None:
                raise
            secret = newer
            upstream = await self._try(pool, secret)
        self.credentials.accepted(secret)
        return upstream

    async def _try(self, pool: Pool, secret: Secret) -> UpstreamConnection:
        """Connect and log in within connect_timeout."""
        try:
            async with asyncio.timeout(self._config.connect_timeout):
                return await self._connect(pool, secret)
        except PasswordRefusedError as error:
            error.transient = self.credentials.rotates
            raise
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
            await self._on_login(upstream)
        except BaseException:
            upstream.close(CloseReason.UPSTREAM_LOGIN)
            raise
        if upstream.closed:
            raise UpstreamError("the upstream closed the connection after login", reason=CloseReason.UPSTREAM_LOGIN)

    async def _connect(self, pool: Pool, secret: Secret) -> UpstreamConnection:
        """Connect and log in. libpq's sslmode words: `prefer` and `allow` have a second try without, or with, TLS.

        There is none where the first has come so far that the server asked for the password: a second one could only
        show to others what the first has kept from them.
        """
        config = self._config
        tries = {"disable": (False,), "allow": (False, True), "prefer": (True, False)}.get(config.sslmode, (True,))
        for left, with_tls in zip(range(len(tries) - 1, -1, -1), tries, strict=True):
            upstream = UpstreamConnection(pool, self, self._stats, self._audit, self._tasks)
            login: UpstreamLogin | None = None
            try:
                channel, upstream.backend.address = await self._start(upstream, with_tls=with_tls)
                login = UpstreamLogin(
                    secret.user,
                    secret.password,
                    replace(channel, second_try=not channel.tls and not left and len(tries) > 1),
                    accepted=self._accepted,
                    channel_binding=config.channel_binding,
                )
                await upstream.log_in(secret.user, login)
            except (UpstreamError, UpstreamProtocolError, OSError) as error:
                upstream.close(CloseReason.UPSTREAM_LOGIN)
                if not left or _told_enough(error, login, with_tls):
                    raise
            except BaseException:
                upstream.close(CloseReason.UPSTREAM_LOGIN)
                raise
            else:
                return upstream
        raise AssertionError("unreachable: the last try returns or raises")

    async def cancel(self, pid: int, secret: bytes, address: str, *, with_tls: bool) -> str:
        """Send a CancelRequest, wait until the server closes, and return the outcome: `sent` or `failed`.

        The server has sent its signal by the time it closes (`ProcessCancelRequestPacket()`, postmaster).
        """
        done = _CancelConnection()
        try:
            async with asyncio.timeout(self._cancel_wait_timeout):
                await self._start(done, with_tls=with_tls, address=address)
                done.send(p.cancel_request(pid, secret))
                await done.closed
        except (TimeoutError, OSError, UpstreamError):
            return "failed"
        finally:
            done.abort()
        return "sent"

    async def _start(self, protocol: asyncio.Protocol, *, with_tls: bool, address: str = "") -> tuple[Channel, str]:
        """Connect a socket, negotiate TLS where it is wanted, and give it to the protocol.

        Return what it is, and the address that was reached; `address` asks for that one. Raises UpstreamError, OSError.
        """
        loop = asyncio.get_running_loop()
        sock = await self.addresses.connect(self._config.connect_timeout, address)
        try:
            internet = sock.family in (socket.AF_INET, socket.AF_INET6)
            reached = str(sock.getpeername()[0]) if internet else ""
            # Read once: a reload may come while it is used.
            context = self.tls if with_tls and internet else None
            if context is not None and self._config.sslnegotiation != "direct" and not await self._ask_for_tls(sock):
                context = None
            if context is None:
                await loop.create_connection(lambda: Intake(self._turns, protocol), sock=sock)
                return Channel(), reached
            return await self._shake_hands(sock, protocol, context), reached
        except BaseException:
            sock.close()
            raise

    async def _ask_for_tls(self, sock: socket.socket) -> bool:
        """Ask for TLS; return False where the server has none, and may go without. Raises UpstreamError."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, p.SSL_REQUEST)
        answer = await loop.sock_recv(sock, 1)
        if answer == b"S":
            return True
        if answer == b"N" and self._config.sslmode in ("allow", "prefer"):
            return False
        # Whatever text follows is not authenticated: it is not shown (CVE-2024-10977).
        raise UpstreamError(
            f"the upstream does not speak TLS, but sslmode is {self._config.sslmode}", reason=CloseReason.UPSTREAM_TLS
        )

    async def _shake_hands(self, sock: socket.socket, protocol: asyncio.Protocol, context: ssl.SSLContext) -> Channel:
        host = self._config.host
        direct = self._config.sslnegotiation == "direct"
        layer = TlsLayer(context, protocol, server_hostname=host)
        try:
            await asyncio.get_running_loop().create_connection(lambda: Intake(self._turns, layer), sock=sock)
            await layer.ready
        except (ssl.SSLError, ConnectionError) as error:
            hint = "; sslnegotiation direct needs PostgreSQL 17 or later" if direct and not _of_peer(error) else ""
            raise UpstreamError(
                f"TLS with the upstream {host} failed: {_tls_reason(error)}{hint}", reason=CloseReason.UPSTREAM_TLS
            ) from error
        except BaseException:
            layer.abort()  # it has given nothing to the protocol yet, which could close it
            raise
        shaken: ssl.SSLObject = layer.get_extra_info("ssl_object")
        if direct and shaken.selected_alpn_protocol() != ALPN:
            layer.abort()
            raise UpstreamError(
                f"TLS with the upstream {host} failed: it did not select the protocol {ALPN} (ALPN), which"
                " sslnegotiation direct needs; PostgreSQL 17 and later do",
                reason=CloseReason.UPSTREAM_TLS,
            )
        return Channel(
            tls=True,
            verified=context.verify_mode is ssl.CERT_REQUIRED,
            binding=end_point(shaken.getpeercert(binary_form=True)),
        )


def _unusable(error: Exception) -> UpstreamError:
    reason = error.reason if isinstance(error, UpstreamFloodError) else CloseReason.UPSTREAM_LOGIN
    return UpstreamError(f"the upstream cannot be used: {error}", reason=reason)


def _told_enough(error: Exception, login: UpstreamLogin | None, with_tls: bool) -> bool:
    """Whether a first try has failed in such a way that the second must not be made, or would end as it did."""
    if login is None:
        return isinstance(error.__cause__, ssl.SSLCertVerificationError)
    return login.begun or login.channel.tls is not with_tls


def _of_peer(error: Exception) -> bool:
    """Whether the server has spoken TLS, and its certificate is what was wrong."""
    return isinstance(error, ssl.SSLCertVerificationError)


def _tls_reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate was not accepted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    return "it closed the connection during the handshake"


class _CancelConnection(asyncio.Protocol):
    """Carries one CancelRequest; `closed` is done when the server has closed."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses

    def send(self, request: bytes) -> None:
        """Send it: the connection is what it has to be."""
        if self._transport is not None:
            self._transport.write(request)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

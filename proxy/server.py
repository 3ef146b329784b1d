"""Listeners, client transports, timers, signals and drain: the one place where sessions meet the event loop."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import select
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final, cast

from proxy import activity, metrics, tls, web
from proxy import protocol as p
from proxy.audit import Audit
from proxy.backends import Backends
from proxy.cache import VerdictCache
from proxy.catalogues import Catalogues
from proxy.client import Client, Phase
from proxy.config import Config, filter_policy
from proxy.errors import CloseReason
from proxy.findings import Severity
from proxy.house import House, Member
from proxy.judge import Prover, Texts
from proxy.role_watch import RoleWatch, summary
from proxy.stats import Stats
from proxy.tasks import Tasks
from proxy.tls_layer import TlsLayer

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TICK: Final = 0.25
"""Seconds between two looks at who waits; idle sessions are swept every fourth time."""
ACCEPT_BATCH: Final = 64
"""Connections taken from the kernel's queue before anybody else has a turn."""
ACCEPT_PAUSE: Final = 1.0
"""Seconds without accepting, after the kernel had no file descriptor for a client."""
LINGER: Final = 5.0
"""Seconds that a closed client has to read what was written to it."""
FILE_MARGIN: Final = 256
"""File descriptors beside those of clients: upstreams, cancels, the metrics page, the log."""
DOOR_MARGIN: Final = 128
"""Connections that may knock beyond max_client_conn: cancel requests, and those that are told there is no room."""


def run(config: Config, on_ready: Callable[[], None] | None = None) -> int:
    """Serve until SIGTERM or SIGINT has drained the last client; return the exit code.

    `on_ready` is called once, when every port listens. Raises ConfigError for files that cannot be used, OSError for
    a port that cannot be bound.
    """
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.run(Server(config).serve(on_ready))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(config).serve(on_ready))


class Server:
    """Own everything that lives as long as the process."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stats = Stats()
        self.audit = Audit(level=config.log.level, path=config.log.file)
        self.cache = VerdictCache(config.filter.cache_bytes)
        self._policy = replace(filter_policy(config), live=True)
        self.clients: set[Client] = set()
        self._doors: set[_Door] = set()
        self._keys: dict[int, tuple[bytes, Member]] = {}
        self._idents = 0
        self._ticks = 0
        self._handshakes = 0
        self._tasks = Tasks()
        self._listeners: list[socket.socket] = []
        self.client_tls: ssl.SSLContext | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._beat = 0.0
        self.backends: Backends
        self._texts: Texts
        self._prover: Prover
        self._catalogues: Catalogues
        self._roles: RoleWatch
        self.house: House

    # --- life -----------------------------------------------------------------------------------------------------

    async def serve(self, on_ready: Callable[[], None] | None = None) -> int:
        """Start, serve, drain and stop; return the exit code."""
        loop = asyncio.get_running_loop()
        config = self.config
        try:
            self._open(loop)
        except BaseException:
            self.audit.close()
            raise
        site = web.Web(
            config.metrics.host,
            config.metrics.port,
            metrics.registry(self.stats, self._gauges),
            self._health,
            self._ready,
            sessions=lambda: activity.rows(self.clients.copy(), self.house.now()),
            on_error=lambda error: self.audit.event("web error", level="error", what=type(error).__name__),
        )
        stop = asyncio.Event()
        kill = asyncio.Event()

        def on_signal() -> None:
            (kill if stop.is_set() else stop).set()

        try:
            self._raise_file_limit()
            self._listen(loop)
            if config.metrics.enabled:
                site.start()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, on_signal)
            # Windows has none; to the demo it means that its terminal was closed.
            if hasattr(signal, "SIGHUP") and not callable(signal.getsignal(signal.SIGHUP)):
                loop.add_signal_handler(signal.SIGHUP, self._reload)
            self.backends.start(self._catalogues, self._roles)
            self._tick()
            self.audit.event("started", host=config.listen.host, port=self._listeners[0].getsockname()[1])
            if config.filter.mode == "observe":
                self.audit.event("filter.mode is observe: nothing that it refuses is held back", level="warning")
            if not _is_loopback(config.listen.host):
                self.audit.event(
                    "clients from other machines are refused until authentication rules exist",
                    level="warning",
                    host=config.listen.host,
                )
            if on_ready is not None:
                on_ready()
            await stop.wait()
            await self._drain(kill)
        finally:
            await self._stop(loop)
            site.close()
            self.audit.event("stopped")
            self.audit.close()
        return 0

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        config = self.config
        if config.listen.tls != "off":
            self.client_tls = tls.client_side_context(config.listen.tls_cert_file, config.listen.tls_key_file)
        self.backends = Backends(config, self.stats, self.audit, self._tasks, self.cache, self._policy, _jitter)
        self._texts = Texts(self.stats, self.audit, self._tasks)
        self._prover = Prover(self.stats, self.audit)
        self._catalogues = Catalogues(
            config.filter.catalog_refresh,
            self.backends.fetch,
            self._prover,
            self.stats,
            self.audit,
            self._tasks,
            loop.time,
            _jitter,
        )
        self._roles = RoleWatch(
            config.filter.catalog_refresh,
            self.backends.fetch,
            self.backends.wants_readonly_role,
            self.backends.refuse_role,
            self.stats,
            self.audit,
            self._tasks,
            loop.time,
            _jitter,
        )
        self.house = House(
            stats=self.stats,
            audit=self.audit,
            now=loop.time,
            max_query_length=config.client.max_query_length,
            max_client_conn=config.client.max_client_conn,
            pool_for=self.backends.pool_for,
            filter_for=self.backends.filters.__getitem__,
            judge=self._texts,
            catalogues=self._catalogues,
            register=self._register,
            forget=self._forget,
            cancel=self._cancel,
            observe=config.filter.mode == "observe",
        )

    def _reload(self) -> None:
        """Open and read files again, on SIGHUP, without dropping anybody."""
        self.audit.reopen()
        self.backends.reload()
        self.audit.event("reloaded")

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        host, port = self.config.listen.host, self.config.listen.port
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, number, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, number)
            self._listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(self.config.listen.backlog)
            loop.add_reader(listener, self._accept, listener)

    async def _drain(self, kill: asyncio.Event) -> None:
        """Let running statements finish; take nothing new. A second signal or the deadline ends it."""
        loop = asyncio.get_running_loop()
        self.house.draining = True
        self.audit.event("draining", clients=len(self.clients))
        self.backends.drain()
        deadline = loop.time() + self.config.client.drain_timeout
        while loop.time() < deadline and not kill.is_set():
            for client in list(self.clients):
                client.drain()
            if not self.clients:
                break
            try:
                await asyncio.wait_for(kill.wait(), 0.05)
            except TimeoutError:
                continue

    async def _stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        for door in list(self._doors):
            door.close()
        for client in list(self.clients):
            client.drain_now()
        self.backends.close()
        await self._tasks.stop()
        await self._texts.close()
        await self._prover.close()
        await asyncio.sleep(0)  # the transports' last writes and closes

    def _raise_file_limit(self) -> None:
        """Ask for as many file descriptors as max_client_conn can take; say so where the hard limit is lower."""
        if resource is None:
            return
        wanted = self.config.client.max_client_conn + DOOR_MARGIN + FILE_MARGIN
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        given = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (given, hard))
        if given < wanted:
            self.audit.event(
                "the limit of open files is too low for client.max_client_conn",
                level="warning",
                limit=given,
                need=wanted,
            )

    # --- what sessions ask ----------------------------------------------------------------------------------------

    def _register(self, client: Member, length: int) -> tuple[int, bytes]:
        pid = 0
        while not pid or pid in self._keys:
            pid = secrets.randbits(31)
        secret = secrets.token_bytes(length)
        self._keys[pid] = (secret, client)
        client.key = pid
        return pid, secret

    def _forget(self, client: Member) -> None:
        self.clients.discard(client)
        self._keys.pop(client.key, None)

    def _cancel(self, pid: int, secret: bytes, then: Callable[[], None]) -> None:
        """Carry out a CancelRequest; a wrong key is ignored without a word, and takes as long."""
        expected, client = self._keys.get(pid, (b"", None))
        known = hmac.compare_digest(expected, secret)
        outcome = client.cancel(then) if known and client is not None else "unknown_key"
        if outcome != "sent":  # the upstream counts what is sent, and goes on
            self.stats.cancels[outcome] += 1
            then()

    # --- clients --------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_BATCH):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # a client that has gone already
            except OSError as error:
                # Out of file descriptors or memory: the listener stays readable, so trying again at once would spin.
                self.audit.event("accept failed", level="error", errno=error.errno)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(ACCEPT_PAUSE, self._listen_again, listener)
                return
            self.stats.clients_accepted += 1
            present = len(self._doors) + self._handshakes + len(self.clients)
            if present >= self.config.client.max_client_conn + DOOR_MARGIN:
                self.stats.client_closes[CloseReason.TOO_MANY_CLIENTS.value] += 1
                sock.close()
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._doors.add(_Door(self, sock, address[0]))

    def _listen_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def door_closed(self, door: _Door) -> None:
        self._doors.discard(door)

    def admit(self, sock: socket.socket, peer: str, *, with_tls: bool) -> None:
        """Give a connection whose encryption is settled to a session of its own."""
        self._tasks.start(self._admit(sock, peer, with_tls), "client")

    def _bar(self, peer: str, with_tls: bool) -> tuple[str, str] | None:
        """Say why a client may not log in, and what would be right; None if it may."""
        if not _is_loopback(peer):
            hint = "SideCart serves clients on its own machine: connect to it over localhost."
            return f"no rule lets clients from {peer} in", hint
        if self.config.listen.tls == "require" and not with_tls:
            return "connections without TLS are refused", "Connect with sslmode=require."
        return None

    async def _admit(self, sock: socket.socket, peer: str, with_tls: bool) -> None:
        self._idents += 1
        connection = _ClientConnection(self, peer, self._idents, self._bar(peer, with_tls))
        loop = asyncio.get_running_loop()
        self._handshakes += 1
        try:
            if not with_tls or self.client_tls is None:
                await loop.connect_accepted_socket(lambda: connection, sock)
                return
            layer = TlsLayer(self.client_tls, connection, server_side=True)
            async with asyncio.timeout(self.config.client.client_login_timeout):
                await loop.connect_accepted_socket(lambda: layer, sock)
                try:
                    await layer.ready
                except BaseException:
                    layer.close()
                    raise
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self.stats.client_closes[CloseReason.CLIENT_TLS.value] += 1
            why = getattr(error, "reason", None) or type(error).__name__
            self.audit.event("client tls failed", level="warning", peer=peer, why=why)
        finally:
            self._handshakes -= 1

    # --- time -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK, self._tick)
        now = self._beat = loop.time()
        self._ticks += 1
        self.backends.tick(now)
        self._catalogues.tick(now)
        self._roles.tick(now)
        if any(pool.waiting for pool in self.backends.pools.values()):
            for client in list(self.clients):
                client.look_in_line()
        if self._ticks % 4:
            return
        limits = self.config.client
        for client in list(self.clients):
            client.sweep(
                now,
                idle=limits.client_idle_timeout,
                idle_transaction=limits.idle_transaction_timeout,
                query=limits.query_timeout,
                login=limits.client_login_timeout,
            )
        for door in list(self._doors):
            door.sweep(now, limits.client_login_timeout)

    # --- monitoring -----------------------------------------------------------------------------------------------

    def _gauges(self) -> metrics.Gauges:
        """Count what is, for a scrape. Called from the web thread: it only reads, and works on copies."""
        now = self.house.now()
        clients: Counter[str] = Counter()
        pinned: Counter[str] = Counter()
        for client in self.clients.copy():
            session = client.session
            if client.phase is not Phase.READY or session is None:
                clients["login"] += 1
                continue
            if session.waiting or session.judging:
                clients["waiting" if session.waiting else "judging"] += 1
            else:
                clients["active" if session.link is not None else "idle"] += 1
            pinned.update(list(session.ledger.pins))
        servers: dict[tuple[str, str], int] = {}
        waits = []
        for database, pool in self.backends.pools.copy().items():
            servers[database, "idle"] = len(pool.idle)
            servers[database, "active"] = len(pool.leased)
            servers[database, "cleaning"] = len(pool.cleaning)
            servers[database, "login"] = pool.opening
            waits += [now - wait.since for wait in pool.waiting.copy().values()]
        filters = set(self.backends.filters.copy().values())
        return metrics.Gauges(
            clients=dict(clients),
            servers=servers,
            waiting=len(waits),
            pinned=dict(pinned),
            maxwait_seconds=max(waits, default=0.0),
            verdict_cache_hits=sum(each.hits + each.shape_hits for each in filters),
            verdict_cache_misses=sum(each.misses for each in filters),
            verdict_cache_evictions=self.cache.evictions,
            verdict_cache_bytes=self.cache.size,
            catalog_ages=self._catalogues.ages(),
            role_findings={
                (database, severity): count
                for database, found in self._roles.found().items()
                for severity, count in summary(found).items()
            },
            draining=self.house.draining,
            audit_dropped=self.audit.dropped,
        )

    def _health(self) -> tuple[bool, dict[str, object]]:
        """Say whether the event loop turns: its timer has run lately."""
        return self._turns(), {"clients": len(self.clients)}

    def _turns(self) -> bool:
        return self.house.now() - self._beat < 20 * TICK

    def _ready(self) -> tuple[bool, dict[str, object]]:
        """Say whether a client would be served: the loop turns, nothing drains, and the upstream is there.

        Where clients choose the database one that works is enough: the server is there, and a client that asks for a
        database which the role may not enter must not take SideCart out of service for all.
        """
        troubles = self.backends.troubles()
        failing = {name: why for name, why in troubles.items() if why}
        reached = not failing or len(failing) < len(troubles)
        draining = self.house.draining
        well = reached and not draining and self._turns()
        roles = {
            name: {**summary(found), "kinds": sorted({each.kind for each in found if each.severity > Severity.INFO})}
            for name, found in self._roles.found().items()
        }
        return well, {"draining": draining, "stuck": not self._turns(), "failing": failing, "roles": roles}


def _jitter() -> float:
    """Return a factor from 0.9 to 1.1."""
    return 0.9 + secrets.randbelow(2001) / 10_000


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class _Door:
    """A connection before its encryption is settled.

    It peeks at the first bytes, and takes from the socket exactly the 8 of SSLRequest or GSSENCRequest: whatever a
    client sent ahead of its TLS handshake becomes part of that handshake and fails there (CVE-2021-23214).
    """

    __slots__ = ("_peer", "_retry", "_server", "_since", "_sock", "_tries")

    def __init__(self, server: Server, sock: socket.socket, peer: str) -> None:
        self._server = server
        self._sock = sock
        self._peer = peer
        self._since = 0.0
        self._tries = 0
        self._retry: asyncio.TimerHandle | None = None
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            head = self._sock.recv(8, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._end(CloseReason.CLIENT_LOST)
            return
        if not head:
            self._end(CloseReason.CLIENT_LOST)
        elif head[:4] == p.SSL_REQUEST[: len(head)] and len(head) < 8:
            # A request in pieces. The socket stays readable, so wait a little instead of spinning on it.
            loop.remove_reader(self._sock)
            self._retry = loop.call_later(0.02, self._resume)
        elif head in (p.SSL_REQUEST, p.GSSENC_REQUEST):
            self._negotiate(head)
        else:
            self._hand_over(with_tls=False)

    def _resume(self) -> None:
        self._retry = None
        asyncio.get_running_loop().add_reader(self._sock, self._readable)

    def _negotiate(self, request: bytes) -> None:
        self._tries += 1
        if self._tries > 2:  # one of each kind
            self._end(CloseReason.CLIENT_PROTOCOL)
            return
        with_tls = request == p.SSL_REQUEST and self._server.client_tls
        try:
            self._sock.recv(8)
            self._sock.send(b"S" if with_tls else b"N")
        except OSError:
            self._end(CloseReason.CLIENT_LOST)
            return
        if with_tls:
            self._hand_over(with_tls=True)

    def _hand_over(self, *, with_tls: bool) -> None:
        self._detach()
        self._server.admit(self._sock, self._peer, with_tls=with_tls)

    def _detach(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        else:
            asyncio.get_running_loop().remove_reader(self._sock)
        self._server.door_closed(self)

    def _end(self, reason: CloseReason) -> None:
        self._detach()
        self._sock.close()
        if reason is not CloseReason.CLIENT_LOST:
            self._server.audit.event("close", level="warning", peer=self._peer, reason=reason.value)
        self._server.stats.client_closes[reason.value] += 1

    def close(self) -> None:
        self._end(CloseReason.DRAIN)

    def sweep(self, now: float, timeout: float) -> None:
        """Close a client that stays silent."""
        self._since = self._since or now
        if timeout and now - self._since >= timeout:
            self._end(CloseReason.CLIENT_LOGIN_TIMEOUT)


class _ClientConnection(asyncio.Protocol):
    """The transport of one client."""

    __slots__ = ("_barred", "_client", "_ident", "_peer", "_server", "_transport", "write")

    def __init__(self, server: Server, peer: str, ident: int, barred: tuple[str, str] | None) -> None:
        self._server = server
        self._client: Client | None = None
        self._transport: asyncio.Transport | None = None
        self._peer = peer
        self._ident = ident
        self._barred = barred

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self.write = transport.write  # the port's method is the transport's own: no call in between
        server = self._server
        self._client = Client(server.house, self, self._peer, self._ident, self._barred)
        server.clients.add(self._client)

    def data_received(self, data: bytes) -> None:
        client = self._client
        if client is None:
            return
        try:
            client.client_data(data)
        except Exception as error:
            self._server.audit.event("bug", level="error", what=type(error).__name__, where="client data")
            client.bug()

    @property
    def hung_up(self) -> bool:
        # As the server looks for it while a query runs (WL_SOCKET_CLOSED, storage/ipc/latch.c).
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None or sock.fileno() < 0 or not hasattr(select, "POLLRDHUP"):
            return False
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.client_lost()

    def pause_writing(self) -> None:
        if self._client is not None:
            self._client.client_writable(False)

    def resume_writing(self) -> None:
        if self._client is not None:
            self._client.client_writable(True)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.close()
            if transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(LINGER, transport.abort)
